"""An evaluation: right cells, honest intervals, nothing computed twice, nothing hidden."""

import csv
import json
import warnings
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparks_jax import attribution, metrics
from sparks_jax.jobs import table as tables
from sparks_jax.jobs.evaluate import evaluate
from sparks_jax.jobs.explain import count_evaluations
from sparks_jax.jobs.measure import count_measurements, reads
from sparks_jax.jobs.measures import MEASURES
from sparks_jax.jobs.methods import ALL
from sparks_jax.jobs.store import fingerprint
from sparks_jax.scores import logit
from tests.tiny import TinyNet

KEY = jax.random.key(3)
IMAGES = np.random.default_rng(0).random((4, 4, 4, 1)).astype(np.float32)
LABELS = np.array([3, 1, 2, 0])
WEIGHTS = jnp.asarray(np.random.default_rng(1).random((16, 5)), jnp.float32)


def linear(x):
    """Five classes, each a positive weighting of the pixels."""
    return x.reshape(x.shape[0], -1) @ WEIGHTS


def brightest(heatmap):
    return heatmap.max()


def test_cells_are_the_metric_of_the_map():
    """Deletion of a linear score by its own contributions, computed here by hand."""
    table = evaluate(
        {"gradient_input": attribution.gradient_input}, {"deletion": partial(metrics.deletion, steps=16)}, linear,
        IMAGES, LABELS, key=KEY, score=logit,
    )  # fmt: skip
    parts = IMAGES.reshape(4, -1) * np.asarray(WEIGHTS)[:, LABELS].T
    lost = np.cumsum(-np.sort(-parts, axis=1), axis=1)
    curve = parts.sum(1, keepdims=True) - np.concatenate([np.zeros((4, 1)), lost], 1)
    cell = table.cells["gradient_input", "deletion"]
    np.testing.assert_allclose(cell.values, np.trapezoid(curve, dx=1 / 16), rtol=1e-5)
    np.testing.assert_allclose(cell.curve.scores, curve.mean(0), rtol=1e-4, atol=1e-6)
    assert cell.evaluations == 17
    assert table.makings["gradient_input"].evaluations == 1
    assert table.higher == {"deletion": False}


def test_intervals_are_those_of_the_mean():
    """For 400 normal values the percentile interval is mean ± 1.96 s/√n, its ends known to about 2 % of the width."""
    values = np.random.default_rng(5).normal(2, 3, 400)
    got = tables.interval(values)
    half = 1.96 * values.std() / 20
    assert abs(got.mean - values.mean()) < 1e-12
    assert abs(got.low - (got.mean - half)) < 0.1 * half
    assert abs(got.high - (got.mean + half)) < 0.1 * half
    assert tables.interval([np.nan, np.nan]) == tables.Interval(None, None, None, 0)


def test_images_that_belong_together_are_resampled_together():
    """Ten copies of each of 40 values say no more than the 40."""
    values = np.random.default_rng(5).normal(2, 3, 40)
    once = tables.interval(values)
    copies = tables.interval(np.repeat(values, 10), groups=np.repeat(np.arange(40), 10))
    # The same draws of the same groups: equal but for the rounding of sums.
    np.testing.assert_allclose([copies.mean, copies.low, copies.high], [once.mean, once.low, once.high], rtol=1e-12)
    assert copies.defined == 400


def test_methods_are_compared_image_by_image():
    """A difference that every image shows is clear, however much the images differ between themselves."""
    hard = np.linspace(0, 100, 30)
    wiggle = np.random.default_rng(0).normal(0, 0.1, 30)
    cells = {
        (name, "m"): tables.Cell(v, tables.interval(v), 0.0, 0)
        for name, v in {"a": hard, "b": hard + 1 + wiggle, "c": hard + 1 - wiggle}.items()
    }
    names = dict.fromkeys("abc", "")
    table = tables.Table(names, {"m": ""}, {"m": True}, {}, cells, [], {})
    assert 0.9 < tables.compare(table, "m", "b", "a").low < tables.compare(table, "m", "b", "a").high < 1.1
    assert set(table.best("m")) == {"b", "c"}
    assert table._replace(higher={"m": False}).best("m") == ["a"]
    assert table._replace(higher={"m": None}).best("m") == []


def test_files_hold_the_table(tmp_path):
    table = evaluate(["saliency"], ["deletion"], linear, IMAGES, LABELS, key=KEY, smoke=True, out=tmp_path)
    cell = table.cells["saliency", "deletion"]
    (row,) = csv.DictReader((tmp_path / "table.csv").read_text().splitlines())
    assert (row["method"], row["metric"], row["better"], row["seed"]) == ("saliency", "deletion", "lower", "3")
    assert float(row["mean"]) == cell.interval.mean
    assert int(row["metric_evaluations"]) == 9
    record = json.loads((tmp_path / "table.json").read_text())
    assert record["cells"][0]["values"] == cell.values.tolist()
    page = (tmp_path / "leaderboard.html").read_text()
    assert "Saliency" in page
    assert "Lower is better." in page
    with np.load(tmp_path / "maps" / "saliency.npz") as maps:
        expected = np.abs(np.asarray(WEIGHTS)[:, LABELS].T.reshape(4, 4, 4))
        np.testing.assert_allclose(maps["importance"], expected, rtol=1e-6)


def test_a_killed_evaluation_resumes(tmp_path):
    made, measured = [], []

    def counting(f, x):
        made.append(1)
        return attribution.saliency(f, x)

    def watched(heatmap):
        measured.append(1)
        return heatmap.max()

    def killed(heatmap):
        raise KeyboardInterrupt

    methods = {"a": counting, "b": attribution.gradient_input}
    with pytest.raises(KeyboardInterrupt):
        evaluate(methods, {"m": watched, "k": killed}, linear, IMAGES, LABELS, key=KEY, out=tmp_path)
    assert (tmp_path / "table.csv").is_file()  # what was finished is there
    before = len(made), len(measured)
    table = evaluate(methods, {"m": watched, "k": brightest}, linear, IMAGES, LABELS, key=KEY, out=tmp_path)
    assert set(table.cells) == {(a, m) for a in "ab" for m in "mk"}
    # The maps and the first cell of the first method were read, not made: only the second method's map was measured.
    assert len(made) == before[0]
    whole = evaluate(methods, {"m": watched, "k": brightest}, linear, IMAGES, LABELS, key=KEY)
    for place, cell in whole.cells.items():
        np.testing.assert_allclose(table.cells[place].values, cell.values, rtol=1e-6)
        assert table.cells[place].interval == cell.interval


def test_a_changed_metric_is_measured_again(tmp_path):
    run = partial(evaluate, ["saliency"], model=linear, images=IMAGES, labels=LABELS, key=KEY, out=tmp_path)
    first = run(metrics={"m": lambda heatmap: heatmap.max()})
    again = run(metrics={"m": lambda heatmap: 2 * heatmap.max()})
    np.testing.assert_allclose(again.cells["saliency", "m"].values, 2 * first.cells["saliency", "m"].values, rtol=1e-6)


def test_a_folder_of_something_else_is_kept(tmp_path):
    run = partial(evaluate, ["saliency"], {"m": brightest}, linear, labels=LABELS, key=KEY, out=tmp_path / "e")
    run(images=IMAGES)
    with pytest.raises(FileExistsError, match="evaluation of another model, other images"):
        run(images=1 - IMAGES)
    run(images=1 - IMAGES, force=True)
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "thesis.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="holds no evaluation"):
        run(images=IMAGES, out=tmp_path / "f")
    with pytest.raises(NotADirectoryError):
        run(images=IMAGES, out=tmp_path / "f" / "thesis.txt")


@pytest.mark.parametrize(
    "method", [partial(attribution.sobol, grid=2, num_designs=4), partial(attribution.rise, grid=2, num_masks=500)]
)
def test_a_constant_score_gives_constant_maps_and_a_warning(method):
    """Zero for Sobol'; the score for RISE, up to the rounding of its mean over masks."""
    with pytest.warns(UserWarning, match="4 of 4 maps are constant"):
        table = evaluate(
            {"method": method}, ["deletion", "insertion"],
            lambda x: jnp.tile(jnp.arange(5.0), (len(x), 1)), IMAGES, LABELS, key=KEY, smoke=True,
        )  # fmt: skip
    assert all(np.isfinite(cell.values).all() for cell in table.cells.values())
    assert any("constant" in note for note in table.notes)
    assert "constant" in str(table)


def test_undefined_values_are_told_and_left_out():
    def sometimes(x, heatmap):
        return jnp.where(x.sum() > IMAGES[1].sum(), 1.0, jnp.nan)

    with pytest.warns(UserWarning, match="undefined for . of 4 images"):
        table = evaluate(["saliency"], {"m": sometimes}, linear, IMAGES, LABELS, key=KEY)
    got = table.cells["saliency", "m"].interval
    assert got.mean == 1.0
    assert got.defined < 4


def test_a_method_that_cannot_run_is_left_out_with_the_reason():
    with pytest.warns(UserWarning, match="grad_cam was left out: .*has no `features` and `head`"):
        table = evaluate(["grad_cam", "saliency"], {"m": brightest}, linear, IMAGES, LABELS, key=KEY)
    assert set(table.makings) == {"saliency"}


def test_a_metric_that_cannot_run_costs_no_other_cell():
    def picky(heatmap):
        raise ValueError("picky: heatmap has the wrong colour")

    with pytest.warns(UserWarning, match="p of saliency was left out: picky: heatmap has the wrong colour"):
        table = evaluate(["saliency"], {"p": picky, "m": brightest}, linear, IMAGES, LABELS, key=KEY)
    assert list(table.cells) == [("saliency", "m")]
    assert "—" in str(table)


def test_metrics_may_ask_the_method_again():
    """Saliency of a linear score is the same everywhere, and the same for no two labels; a Grad-CAM has its halves."""

    def moved(explain, x):
        return jnp.abs(explain(x) - explain(x + 1)).max()

    def relabelled(explain_label, label):
        return jnp.abs(explain_label(label) - explain_label((label + 1) % 5)).max()

    def rescaled(explain_model, model, heatmap):
        return (explain_model(jax.tree.map(lambda w: 2 * w, model)) / heatmap).mean()

    asked = {"moved": moved, "relabelled": relabelled}
    table = evaluate({"saliency": attribution.saliency}, asked, linear, IMAGES, LABELS, key=KEY)
    assert table.cells["saliency", "moved"].values.max() == 0
    assert table.cells["saliency", "relabelled"].values.min() > 0
    assert table.cells["saliency", "moved"].evaluations == 2
    weights = jax.tree_util.Partial(lambda w, x: x.reshape(x.shape[0], -1) @ w, WEIGHTS)
    table = evaluate({"saliency": attribution.saliency}, {"rescaled": rescaled}, weights, IMAGES, LABELS, key=KEY)
    np.testing.assert_allclose(table.cells["saliency", "rescaled"].values, 2, rtol=1e-6)
    images = np.random.default_rng(0).random((2, 8, 8, 3)).astype(np.float32)
    table = evaluate({"cam": attribution.grad_cam}, {"moved": moved}, TinyNet(0), images, LABELS[:2], key=KEY)
    assert table.cells["cam", "moved"].values.shape == (2,)


def test_mistakes_are_one_sentence():
    with pytest.raises(ValueError, match="there is no method 'sobel'; did you mean sobol"):
        evaluate(["sobel"], ["deletion"], linear, IMAGES, LABELS, key=KEY)
    with pytest.raises(ValueError, match="there is no metric 'deletoin'; did you mean deletion"):
        evaluate(["sobol"], ["deletoin"], linear, IMAGES, LABELS, key=KEY)
    with pytest.raises(ValueError, match="no metric is named"):
        evaluate(["sobol"], [], linear, IMAGES, LABELS, key=KEY)
    with pytest.raises(ValueError, match="give masks"):
        evaluate(["saliency"], {"m": lambda heatmap, mask: 1.0}, linear, IMAGES, LABELS, key=KEY)
    with pytest.raises(ValueError, match="a metric reads some of .*, not y"):
        evaluate(["saliency"], {"m": lambda y: 1.0}, linear, IMAGES, LABELS, key=KEY)
    with pytest.raises(ValueError, match="label 9 is outside the 5 classes"):
        evaluate(["saliency"], ["deletion"], linear, IMAGES, np.array([0, 1, 9, 2]), key=KEY)


def test_fingerprints_tell_weights_functions_and_options_apart():
    prints = {
        fingerprint(x)
        for x in (
            TinyNet(0), TinyNet(1), partial(attribution.sobol, grid=7), partial(attribution.sobol, grid=8),
            attribution.sobol, attribution.rise, WEIGHTS, WEIGHTS.astype(jnp.bfloat16), lambda x: 1, lambda x: 2,
        )
    }  # fmt: skip
    assert len(prints) == 10
    assert fingerprint(TinyNet(0)) == fingerprint(TinyNet(0))


@pytest.mark.parametrize("name", ALL)
def test_every_method_by_name_has_its_cost(name):
    """The cost that the command line prints is the one counted, and the quick options are options of the method."""
    method = ALL[name]
    assert count_evaluations(method.call, (224, 224, 3)) == method.cost
    assert 1 <= count_evaluations(method.call, (224, 224, 3), **method.smoke) <= method.cost


@pytest.mark.parametrize("name", MEASURES)
def test_every_metric_by_name_can_be_traced(name):
    metric = MEASURES[name]
    assert metric.higher is not None
    method, shape, model = attribution.gradient_input, (224, 224, 3), {"layer": {"kernel": jnp.ones((2, 2))}}
    count = partial(count_measurements, metric.call, method, model, shape, method_options={})
    asks = set(reads(metric.call)) & {"f", "explain", "explain_label", "explain_model"}
    assert (count(options=metric.smoke) > 0) == bool(asks)


def test_names_of_the_command_line_fill_a_table():
    images = np.random.default_rng(0).random((2, 16, 16, 3)).astype(np.float32)
    masks = np.zeros((2, 16, 16), bool)
    masks[:, 4:9, 5:11] = True
    metrics_ = ["gini", "pointing_game", "random_logit", "robustness_sr", "completeness"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is undefined on noise is told elsewhere
        table = evaluate(
            ["gradient_input", "fem"], metrics_, TinyNet(0), images, np.array([0, 3]), key=KEY, masks=masks, smoke=True
        )
    assert set(table.cells) == {(a, b) for a in ("gradient_input", "fem") for b in metrics_}
    assert all(making.evaluations > 0 for making in table.makings.values())
    assert all(np.isfinite(cell.values).all() for cell in table.cells.values())
