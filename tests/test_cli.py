"""`sparks explain` as a user meets it: what it writes, what it says about mistakes, and that nothing is lost."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.tree_util import Partial
from PIL import Image
from safetensors.numpy import save_file

import sparks_jax
from sparks_jax import attribution, images, metrics, scores
from sparks_jax.cli import main
from sparks_jax.jobs import pictures
from sparks_jax.jobs import run as run_module
from sparks_jax.jobs.explain import count_evaluations
from sparks_jax.jobs.methods import ALL
from sparks_jax.models.normalize import Normalized
from sparks_jax.models.resnet import ResNet
from sparks_jax.models.weights import load_resnet, torch_layout
from tests.tiny import NUM_CLASSES, TinyNet

SIDE = 16
QUICK = ["--methods", "saliency,grad_cam", "--size", str(SIDE)]

# --- networks that `--model tests.test_cli:NAME` finds here ---------------------------------------------------

WEIGHTS = np.random.default_rng(0).normal(size=(SIDE * SIDE * 3, NUM_CLASSES)).astype(np.float32)


def tiny():
    return TinyNet(seed=0)


def plain():
    return _plain


def _plain(x):
    return x.reshape(x.shape[0], -1) @ WEIGHTS


def linen():
    return Partial(_Linen().apply, {"params": {"dense": {"kernel": jnp.asarray(WEIGHTS)}}})


class _Linen(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(NUM_CLASSES, use_bias=False, name="dense")(x.reshape(x.shape[0], -1))


def equinox_like():
    return _Callable(jnp.asarray(WEIGHTS))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Callable:
    w: jax.Array

    def __call__(self, x):
        return x.reshape(x.shape[0], -1) @ self.w


def from_file(path):
    weights = jnp.asarray(np.load(path))
    return lambda x: x.reshape(x.shape[0], -1) @ weights


def not_a_network():
    return 3


def raises():
    raise KeyError("no such checkpoint")


def flat():
    return lambda x: x.sum((1, 2, 3))


def only_grey():
    return lambda x: x[..., 0] @ jnp.ones((SIDE // 2, NUM_CLASSES))


def not_finite():
    return lambda x: x.reshape(x.shape[0], -1) @ WEIGHTS * jnp.nan


# --- running ----------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """Work in an empty folder, with small views."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pictures, "VIEW", 32)
    return tmp_path


@pytest.fixture
def pixels():
    return np.random.default_rng(1).integers(0, 256, (20, 30, 3), np.uint8)


@pytest.fixture
def cat(pixels):
    Image.fromarray(pixels).save("cat.png")
    return "cat.png"


@pytest.fixture
def dog(pixels):
    Image.fromarray(pixels[::-1]).save("dog.png")
    return "dog.png"


def explain(*arguments, model="tiny"):
    return main(["explain", *map(str, arguments), "--model", f"tests.test_cli:{model}"])


def record(out="sparks-out"):
    return json.loads(Path(out, "run.json").read_text())


def test_a_run_writes_a_page_pictures_arrays_and_a_record(cat, dog, capsys):
    assert explain(cat, dog, *QUICK) == 0
    assert capsys.readouterr().out == f"The report is {Path('sparks-out', 'report.html')}\n"
    written = {str(p.relative_to("sparks-out")) for p in Path("sparks-out").rglob("*") if p.is_file()}
    kinds = ("picture", "saliency", "grad_cam")
    expected = {f"pictures/{name}/{kind}.png" for name in ("cat", "dog") for kind in kinds}
    assert written == expected | {"report.html", "maps.npz", "run.json"}
    assert set(record()["files"]) == written
    assert "cat.png" in Path("sparks-out/report.html").read_text()
    with Image.open("sparks-out/pictures/cat/saliency.png") as picture:
        assert picture.size == (32, 32)
    assert record()["methods"]["saliency"]["forwards_per_picture"] == 1
    assert record()["settings"]["seed"] == 0
    assert record()["versions"]["sparks_jax"] == sparks_jax.__version__


def test_the_arrays_are_those_of_the_library(cat, dog):
    assert explain(cat, dog, *QUICK) == 0
    with np.load("sparks-out/maps.npz") as held:
        images, labels = held["images"], held["labels"]
        assert images.shape == (2, SIDE, SIDE, 3)
        logits = tiny()(images)
        assert labels.tolist() == logits.argmax(-1).tolist()
        # One softmax in float32: a few units in the last place of numbers up to one.
        np.testing.assert_allclose(held["probabilities"], jax.nn.softmax(logits), atol=1e-6)
        for name in ("saliency", "grad_cam"):
            maps = sparks_jax.explain(getattr(attribution, name), tiny(), images, labels, key=jax.random.key(0))
            np.testing.assert_allclose(held[name], maps, rtol=1e-5, atol=1e-7)
        # All pixels present: deletion starts where insertion ends, at the probability of the class.
        ends = np.stack([held["saliency/deletion"][:, 0], held["saliency/insertion"][:, -1]])
        chosen = held["probabilities"][np.arange(2), labels]
        np.testing.assert_allclose(ends, np.broadcast_to(chosen, (2, 2)), rtol=1e-5)


def test_both_curves_are_those_of_the_metrics(image, network, key):
    heatmap, f = image.mean(-1), scores.probability(network, 2)
    both = run_module.deletion_and_insertion(f, image, heatmap, key=key, steps=7)
    deletion = metrics.deletion(f, image, heatmap, key=key, steps=7)
    insertion = metrics.insertion(f, image, heatmap, key=key, steps=7, baseline=images.blur)
    for i, curve in enumerate((deletion, insertion)):
        for field, expected in zip(both, curve, strict=True):
            # The same evaluations in batches of another size: float32 to a few units in the last place.
            np.testing.assert_allclose(field[i], expected, rtol=1e-5)


def test_every_kind_of_network(cat):
    maps = []
    for model in ("plain", "linen", "equinox_like"):
        assert explain(cat, *QUICK[2:], "--methods", "gradient_input", "--out", model, model=model) == 0
        maps.append(np.load(f"{model}/maps.npz")["gradient_input"])
    # The same matrix product three times, in one order or another.
    np.testing.assert_allclose(maps[1], maps[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(maps[2], maps[0], rtol=1e-5, atol=1e-6)


def test_a_network_from_a_file_with_weights_and_names(cat, capsys):
    np.save("w.npy", WEIGHTS)
    Path("net.py").write_text("from tests.test_cli import from_file as make\n")
    Path("names.txt").write_text("\n".join(f"kind {i}" for i in range(NUM_CLASSES)))
    own = ["--model", "net.py:make", "--weights", "w.npy", "--classes", "names.txt", "--labels", "kind 3"]
    assert main(["explain", cat, "--methods", "saliency", "--size", str(SIDE), *own]) == 0
    assert record()["pictures"][0]["class"] == "kind 3"
    assert record()["pictures"][0]["label"] == 3
    np.testing.assert_allclose(np.load("sparks-out/maps.npz")["saliency"][0].ravel(), np.abs(WEIGHTS[:, 3]), rtol=1e-5)


def test_a_resnet_from_a_torchvision_file(optimized, cat):
    model = jax.eval_shape(lambda: ResNet(18, NUM_CLASSES, rngs=nnx.Rngs(0)))
    rng = np.random.default_rng(0)
    state = {name: np.abs(rng.normal(size=shape)) / 50 for name, shape in torch_layout(model).values()}
    save_file({name: array.astype(np.float32) for name, array in state.items()}, "w.safetensors")
    given = ["--model", "resnet18", "--weights", "w.safetensors", "--size", "32", "--methods", "saliency"]
    assert main(["explain", cat, *given]) == 0
    assert record()["network"]["name"] == "ResNet-18"
    assert record()["network"]["classes"] == NUM_CLASSES
    with np.load("sparks-out/maps.npz") as held:
        logits = jax.jit(Normalized(load_resnet("w.safetensors")))(jnp.asarray(held["images"]))
        # Eighteen layers in float32, compiled twice.
        np.testing.assert_allclose(held["probabilities"], jax.nn.softmax(logits), rtol=1e-3)


def test_grad_cam_is_skipped_without_halves_and_the_rest_goes_on(cat, capsys):
    assert explain(cat, *QUICK, model="plain") == 0
    assert "grad_cam was skipped" in capsys.readouterr().err
    assert "features" in record()["skipped"]["grad_cam"]
    assert list(record()["methods"]) == ["saliency"]


def test_a_seed_is_repeatable_and_matters(cat):
    quick = [*QUICK[2:], "--methods", "smoothgrad", "--smoke"]
    maps = []
    for out, seed in (("a", 0), ("b", 0), ("c", 1)):
        assert explain(cat, *quick, "--out", out, "--seed", seed) == 0
        maps.append(np.load(f"{out}/maps.npz")["smoothgrad"])
    np.testing.assert_array_equal(maps[0], maps[1])
    assert not np.allclose(maps[0], maps[2])


def test_folders_and_equal_names(cat, pixels):
    for folder in ("a", "b"):
        Path(folder).mkdir()
        Image.fromarray(pixels).save(f"{folder}/Cat.jpg")
        Path(folder, "notes.txt").write_text("not a picture")
    assert explain(cat, "a", "b", *QUICK) == 0
    assert [p["name"] for p in record()["pictures"]] == ["cat", "Cat-2", "Cat-3"]


# --- pictures ---------------------------------------------------------------------------------------------


def test_a_bad_picture_is_named_and_the_run_goes_on(cat, capsys):
    Path("broken.png").write_bytes(b"not a picture")
    assert explain("gone.png", cat, "broken.png", *QUICK) == 1
    said = capsys.readouterr().err
    for name in ("gone.png", "broken.png"):
        assert f"{name} was left out" in said
        assert name in Path("sparks-out/report.html").read_text()
    assert [p["name"] for p in record()["pictures"]] == ["cat"]
    assert set(record()["errors"]) == {"gone.png", "broken.png"}
    assert "Traceback" not in said


def test_a_smoke_run_says_which_pictures_it_takes(cat, dog, capsys):
    assert explain(cat, dog, "gone.png", "--label", "1", "--smoke", *QUICK) == 0
    assert "--smoke takes the first 2 of 3 pictures" in capsys.readouterr().err
    assert [p["name"] for p in record()["pictures"]] == ["cat", "dog"]


def test_nothing_to_explain_writes_nothing(capsys):
    assert explain("gone.png", *QUICK) == 1
    assert "nothing was explained" in capsys.readouterr().err
    assert not Path("sparks-out").exists()


def test_a_network_that_is_not_finite(cat, capsys):
    assert explain(cat, *QUICK, model="not_finite") == 1
    assert "cat.png was left out: the network's output for it is not finite" in capsys.readouterr().err


@pytest.mark.parametrize("shape", [(1, 1), (3, 50), (50, 3)])
def test_a_picture_of_any_shape_works(shape):
    Image.fromarray(np.full((*shape, 3), 99, np.uint8)).save("odd.png")
    assert explain("odd.png", *QUICK) == 0
    # Constant in, constant out: resizing and cutting leave a constant picture as it is.
    assert (np.load("sparks-out/maps.npz")["images"] == np.float32(99 / 255)).all()


# --- the folder of results --------------------------------------------------------------------------------


def test_results_are_never_overwritten_without_force(cat, capsys):
    Path("sparks-out").mkdir()
    Path("sparks-out/precious.txt").write_text("mine")
    assert explain(cat, *QUICK) == 2
    assert "--force" in capsys.readouterr().err
    assert [p.name for p in Path("sparks-out").iterdir()] == ["precious.txt"]


def test_force_replaces_our_files_and_no_others(cat, dog):
    assert explain(cat, *QUICK) == 0
    Path("sparks-out/precious.txt").write_text("mine")
    listed = record()
    listed["files"] += ["../outside.txt", "gone.png"]
    Path("sparks-out/run.json").write_text(json.dumps(listed))
    Path("outside.txt").write_text("mine")
    assert explain(dog, *QUICK, "--force") == 0
    assert Path("sparks-out/precious.txt").read_text() == Path("outside.txt").read_text() == "mine"
    assert [p.name for p in Path("sparks-out/pictures").iterdir()] == ["dog"]


@pytest.mark.parametrize("kind", [KeyboardInterrupt, MemoryError])
def test_an_interruption_leaves_finished_pictures_whole(cat, dog, capsys, monkeypatch, kind):
    monkeypatch.setattr(run_module, "_blocks", lambda items: [[item] for item in items])
    measured, measure = [], run_module.measure

    def interrupted(*args, **kwargs):
        measured.append(args)
        if len(measured) == 3:  # two methods: the second picture has begun
            raise kind
        return measure(*args, **kwargs)

    monkeypatch.setattr(run_module, "measure", interrupted)
    assert explain(cat, dog, "cat.png", *QUICK) == (130 if kind is KeyboardInterrupt else 1)
    said = capsys.readouterr().err
    assert "interrupted after 1 of 3 pictures" in said
    assert "Traceback" not in said
    assert record()["interrupted"]
    assert "Interrupted after 1 of 3 pictures" in Path("sparks-out/report.html").read_text()
    assert np.load("sparks-out/maps.npz")["saliency"].shape == (1, SIDE, SIDE, 3)
    assert [p.name for p in Path("sparks-out/pictures").iterdir()] == ["cat"]
    assert not list(Path("sparks-out").rglob("*.part"))


# --- mistakes ---------------------------------------------------------------------------------------------

OWN = "--model=tests.test_cli:"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--methods", "sobel"], "there is no method 'sobel'; did you mean sobol or sobol_first?"),
        (["--methods", ","], "expected at least one"),
        (["--model", "efficientnet_lite1"], "did you mean efficientnet_lite0?"),
        (["--model", "resnet19"], "did you mean resnet18"),
        (["--model", "resnet18"], "resnet18 needs --weights FILE"),
        (["--model", "resnet18", "--weights", "gone.pth"], "gone.pth"),
        (["--model", "efficientnet_lite0", "--weights", "gone.pth"], "no weights file at gone.pth"),
        (["--model", "nowhere:make"], "No module named 'nowhere'"),
        (["--model", "gone.py:make"], "no file gone.py"),
        ([OWN + "tinny"], "did you mean tiny"),
        ([OWN + "raises"], "raised KeyError: 'no such checkpoint'"),
        ([OWN + "not_a_network"], "returned a int, expected a network"),
        ([OWN + "flat"], "returned (1,) for a batch of images (1, 16, 16, 3), expected (1, classes)"),
        ([OWN + "only_grey"], "failed on a batch of images (1, 16, 16, 3): TypeError"),
        ([OWN + "tiny", "--labels", "5"], "label 5 is outside the 5 classes 0 … 4"),
        ([OWN + "tiny", "--labels=-1"], "label -1 is outside the 5 classes 0 … 4"),
        ([OWN + "tiny", "--labels", "class 33"], "did you mean class 3"),
        ([OWN + "tiny", "--labels", "1,2"], "2 labels for 1 pictures"),
        ([OWN + "tiny", "--classes", "gone.txt"], "no file gone.txt"),
        ([OWN + "tiny", "--classes", "two.txt"], "two.txt names 2 classes but the network returns 5"),
        ([OWN + "tiny", "--classes", "cat.png"], "is not a text file"),
        ([OWN + "tiny", "--out", "cat.png"], "cat.png is a file, expected a folder"),
        ([OWN + "tiny", "empty"], "there is no picture in the folder empty"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_sentence(cat, capsys, arguments, said):
    Path("two.txt").write_text("a\nb\n")
    Path("empty").mkdir()
    assert main(["explain", cat, "--size", str(SIDE), *arguments]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.startswith("sparks: error: ")
    assert err.count("\n") == 1
    assert not Path("sparks-out").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--chunk", "0"], "argument --chunk: expected a whole number, at least 1, got 0"),
        (["--chunk", "many"], "argument --chunk: expected a whole number, at least 1, got many"),
        (["--size", "-3"], "argument --size: expected a whole number, at least 1, got -3"),
        (["--seed", "1.5"], "argument --seed: expected a whole number, at least 0, got 1.5"),
        (["--colour"], "unrecognized arguments: --colour"),
    ],
)
def test_a_wrong_option_is_a_usage_error(cat, capsys, arguments, said):
    with pytest.raises(SystemExit, match="2"):
        main(["explain", cat, *arguments])
    assert said in capsys.readouterr().err


def test_traceback_on_demand(cat):
    with pytest.raises(ValueError, match="no method"):
        main(["explain", cat, "--methods", "sobel", "--traceback"])


# --- help -------------------------------------------------------------------------------------------------


def test_methods_are_listed_with_what_they_cost(capsys):
    assert main(["methods"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name, method in ALL.items():
        (line,) = [line for line in lines if line.startswith(name + " ")]
        assert method.means in line
        assert line.split()[1] == str(method.cost)


@pytest.mark.parametrize("name", ALL)
def test_costs_are_as_counted(name):
    assert ALL[name].cost == count_evaluations(ALL[name].call, (224, 224, 3))


@pytest.mark.parametrize("arguments", [["--help"], ["explain", "--help"], ["--version"]])
def test_help_and_version_answer_without_jax(arguments):
    code = (
        "import sys\nfrom sparks_jax.cli import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit as stop:\n    assert not stop.code\n"
        "assert not {'jax', 'numpy', 'matplotlib'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert ("usage: sparks" in done.stdout) or sparks_jax.__version__ in done.stdout
