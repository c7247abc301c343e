"""Every experiment runs at its smallest size. An experiment joins with one line."""

import importlib

import pytest
import tyro

# Module, and what its folder holds afterwards.
EXPERIMENTS = [
    ("craft_glyphs", ["concepts.png", "maps.csv", "maps.png", "places.csv", "run.json", "table.csv"]),
    ("craft_photos", ["run.json", "squeezenet_coffee.png", "table.csv"]),
    ("eva_digits", ["digits_plain_0", "maps_digits.png", "run.json", "table.csv"]),
    ("eva_imagenet", ["glyphs", "glyphs.jpg", "glyphs_cut", "run.json"]),
    ("harmonize_glyphs", ["maps.png", "networks", "run.json", "table.csv"]),
    ("harmonize_imagenet", ["checkpoints", "clickme_train.array_record", "clickme_val.array_record", "run.json"]),
    ("holistic", ["extraction.png", "importance.csv", "importance.png", "regret.csv", "run.json", "table.csv"]),
    ("lipschitz_digits", ["digits.png", "networks", "run.json", "table.csv"]),
    ("localization_glyphs", ["faithfulness", "maps.png", "reads_the_glyph", "reads_the_tag", "run.json", "stability"]),
    ("maco_concepts", ["concepts.csv", "glyphs", "glyphs_ring.png", "run.json", "table.csv"]),
    ("maco_imagenet_classes", ["glyphs", "glyphs.png", "glyphs_opaque.png", "run.json", "table.csv"]),
    ("maco_vs_fourier", ["differences.csv", "glyphs", "glyphs.png", "run.json", "table.csv"]),
    ("metapredictor_glyphs", ["correlations.csv", "run.json", "study", "table.csv", "utility.png"]),
    ("otnn_explanations", ["counterfactuals.png", "digits", "run.json", "table.csv"]),
    ("recursion", ["glyphs.png", "pairs.png", "run.json", "table.csv"]),
    ("sae_activations", ["activations.json", "activations.npy", "checkpoints", "run.json"]),
    ("stability_mege", ["run.json", "table.csv"]),
    ("train_glyphs", ["checkpoints", "glyphs.safetensors", "run.json"]),
]


@pytest.mark.parametrize(("name", "written"), EXPERIMENTS, ids=[name for name, _ in EXPERIMENTS])
def test_smoke(name, written, tmp_path, capsys):
    """As from the command line: it prints, returns what it prints, and writes it where it is told."""
    experiment = importlib.import_module(f"experiments.{name}")
    config = tyro.cli(experiment.Config, args=["--smoke", "--out", str(tmp_path / "out")])
    result = experiment.main(config)
    assert result
    assert capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == written


@pytest.mark.parametrize("name", [name for name, _ in EXPERIMENTS])
def test_docstring(name):
    doc = importlib.import_module(f"experiments.{name}").__doc__
    for part in ("Claim: ", "Command: ", "Hardware: ", "Time: ", "Expected: "):
        assert part in doc
    assert f"python experiments/{name}.py" in doc
