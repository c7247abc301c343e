"""A leaderboard: methods × metrics × images on any model, with intervals, costs, and nothing computed twice."""

import functools
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import PRNGKeyArray

from sparks_jax import images as images_
from sparks_jax.jobs import methods as known_methods
from sparks_jax.jobs.batches import check_batch, count_classes, name_of
from sparks_jax.jobs.bounds import check_bounds
from sparks_jax.jobs.explain import ScoreMaker, count_evaluations, explain
from sparks_jax.jobs.measure import count_measurements, examine, measure, reads
from sparks_jax.jobs.measures import MEASURES, Metric
from sparks_jax.jobs.methods import Method, importance, nearest
from sparks_jax.jobs.store import Maps, Store, open_store
from sparks_jax.jobs.table import Cell, Making, Table, interval
from sparks_jax.jobs.versions import device, versions
from sparks_jax.metrics import HIGHER_IS_BETTER, Curve

ASKS_AGAIN = ("explain", "explain_label", "explain_model")


def evaluate(
    methods: Sequence[str] | Mapping[str, Any],
    metrics: Sequence[str] | Mapping[str, Any],
    model: Any,
    images: Any,
    labels: Any,
    *,
    key: PRNGKeyArray,
    masks: Any = None,
    groups: Any = None,
    score: ScoreMaker | None = None,
    mesh: Mesh | None = None,
    chunk: int | None = None,
    progress: bool | None = False,
    smoke: bool = False,
    out: str | Path | None = None,
    force: bool = False,
) -> Table:
    r"""Measure every method with every metric on every image.

    $t_{ab} = \frac1n \sum_i \mathrm{metric}_b\left(f_i, x_i, \mathrm{method}_a(f_i, x_i)\right)$ with a percentile
    bootstrap interval over the images

    The maps of a method are made once and serve all metrics. A method or a metric that cannot run on this model
    (Grad-CAM without halves, say) is left out with a note and a warning; constant maps and undefined values are told
    too, never hidden.

    Args:
        methods: Names of `sparks methods`, or a mapping from your own names to functions `method(f, x, …)`;
            `functools.partial` binds options.
        metrics: Names of `sparks metrics`, or a mapping from your own names to functions (see `jobs.measure` for
            what they may read). Published protocols are names of their own: `deletion_rise`, `deletion_xplique`, ….
        model: As in `sparks_jax.explain`.
        images: `(n h w c)`, as the model takes them.
        labels: `(n,)` class explained in each image.
        key: Randomness, shared by all methods, metrics and images.
        masks: `(n h w)` where the truth is, for the metrics of localization.
        groups: `(n,)` which images belong together (crops of one photograph, say): they are resampled together.
        score: What is explained and measured; None: each method's and metric's own (`logit`, `probability`, `margin`).
        mesh: Devices over which images are spread.
        chunk: Evaluations of the model at once on each device; None: what suits the device.
        progress: Show bars on stderr; None to show them only on a terminal.
        smoke: Few samples: does everything work?
        out: Folder of the results (`table.csv`, `table.json`, `leaderboard.html`, maps, cells). What is already there
            from the same model, images, labels and key is not computed again, so that a killed evaluation resumes and
            a finished one grows by further methods and metrics.
        force: Replace an evaluation of something else in that folder.

    Returns:
        A `Table`; `print` shows it, `jobs.compare` tells two methods apart image by image.

    Raises:
        ValueError: For an unknown name (with the nearest), a bad batch, a metric of localization without masks.
        FileExistsError: If `out` holds something else.

    Example:
        >>> model = lambda x: x.reshape(x.shape[0], -1)
        >>> images = np.ones((4, 3, 3, 1), np.float32)
        >>> table = evaluate(
        ...     ["saliency"], {"share": lambda x, heatmap: heatmap.max() / heatmap.sum()}, model, images, np.arange(4),
        ...     key=jax.random.key(0),
        ... )
        >>> table.cells["saliency", "share"].interval.mean
        1.0

    Reference:
        Fel, Cadène et al. 2021, Look at the variance!, arXiv:2111.04138 (section 4); Efron & Tibshirani 1993, An
        introduction to the bootstrap.
    """
    asked_methods, asked_metrics = _methods(methods, score), _metrics(metrics, score)
    images, labels = np.asarray(images), np.asarray(labels)
    check_batch("evaluate", model, images, labels)
    for name, metric in asked_metrics.items():
        if "mask" in reads(metric.call) and masks is None:
            raise ValueError(f"evaluate: {name} compares maps with a known truth; give masks (n h w), one per image")
    common: dict[str, Any] = dict(key=key, mesh=mesh, chunk=chunk, progress=progress)
    masks = None if masks is None else np.asarray(masks)
    groups = None if groups is None else np.asarray(groups)
    store = open_store(out, (model, images, labels, masks, groups, jax.random.key_data(key)), force=force)
    seed = np.asarray(jax.random.key_data(key)).ravel().tolist()
    table = Table(
        {name: method.title for name, method in asked_methods.items()},
        {name: metric.title for name, metric in asked_metrics.items()},
        {name: metric.higher for name, metric in asked_metrics.items()},
        {}, {}, [], _about(len(images), count_classes(model, images), seed, smoke), groups,
    )  # fmt: skip
    try:
        for name, method in asked_methods.items():
            _evaluate_method(table, store, name, method, asked_metrics, model, images, labels, masks, common)
    finally:
        store.write_table(table, {name: metric.means for name, metric in asked_metrics.items()})
    return table


def _evaluate_method(
    table: Table, store: Store, name: str, method: Method, metrics: Mapping[str, Metric], model: Any,
    images: np.ndarray, labels: np.ndarray, masks: Any, common: dict[str, Any],
) -> None:  # fmt: skip
    """Fill one row of the table."""
    smoke = table.about["smoke"]
    options = method.smoke if smoke else {}
    what = (method.call, method.score, method.channels, method.signed, options)
    maps = store.read_maps(name, what)
    if maps is None:
        start = time.perf_counter()
        try:
            raw = explain(method.call, model, images, labels, score=method.score, **common, **options)
            if method.radius is not None:
                check_bounds(raw, method.radius, model, images, labels, **common)
        except (ValueError, TypeError, AttributeError, NotImplementedError) as error:
            _note(table, f"{name} was left out: {str(error).partition(chr(10))[0]}")
            return
        heat = np.stack([importance(method, one) for one in raw])
        signed = (raw if raw.ndim == 3 else raw.sum(-1)) if method.signed else None
        seconds, classes = time.perf_counter() - start, table.about["classes"]
        count = count_evaluations(method.call, images.shape[1:], num_classes=classes, **options)
        maps = Maps(heat, signed, Making(seconds, count, method.gradients))
        store.write_maps(name, what, maps)
    table.makings[name] = maps.making
    _note_constant_maps(table, name, maps.importance)
    for title, metric in metrics.items():
        asked = (what, metric.call, metric.score, metric.signed, metric.smoke if smoke else {})
        cell = store.read_cell(name, title, asked)
        if cell is None:
            try:
                cell = _cell(table, metric, method, maps, model, images, labels, masks, common)
            except (ValueError, TypeError, NotImplementedError) as error:
                _note(table, f"{title} of {name} was left out: {str(error).partition(chr(10))[0]}")
                continue
            store.write_cell(name, title, asked, cell)
        table.cells[name, title] = cell
        if undefined := len(images) - cell.interval.defined:
            _note(table, f"{title} of {name} is undefined for {undefined} of {len(images)} images, which are left out")


def _cell(
    table: Table, metric: Metric, method: Method, maps: Maps, model: Any, images: np.ndarray, labels: np.ndarray,
    masks: Any, common: dict[str, Any],
) -> Cell:  # fmt: skip
    start = time.perf_counter()
    options, method_options = (one.smoke if table.about["smoke"] else {} for one in (metric, method))
    if any(name in ASKS_AGAIN for name in reads(metric.call)):
        out = examine(
            metric.call, method.call, model, images, labels, reduce=_reducer(method.channels), score=method.score,
            method_options=method_options, **common, **options,
        )  # fmt: skip
    else:
        heat = maps.contributions if metric.signed and maps.contributions is not None else maps.importance
        out = measure(metric.call, model, images, labels, heat, masks=masks, score=metric.score, **common, **options)
    values, curve = _values_of(out)
    cost = count_measurements(
        metric.call, method.call, model, images.shape[1:], options=options, method_options=method_options,
        num_classes=table.about["classes"],
    )  # fmt: skip
    return Cell(values, interval(values, table.about["seed"], table.groups), time.perf_counter() - start, cost, curve)


def _values_of(out: Any) -> tuple[np.ndarray, Curve | None]:
    """One value per image, and the mean curve of a metric that walks."""
    if isinstance(out, Curve):
        return np.asarray(out.auc, np.float64), Curve(*(jnp.asarray(part.mean(0)) for part in out))
    return np.asarray(getattr(out, "value", out), np.float64), None


@functools.cache
def _reducer(channels: str) -> Callable[[Any], Any]:
    return lambda a: a if a.ndim == 2 else images_.heatmap(a, channels)


# --- what was asked ---------------------------------------------------------------------------------------


def _methods(asked: Sequence[str] | Mapping[str, Any], score: ScoreMaker | None) -> dict[str, Method]:
    named = asked if isinstance(asked, Mapping) else known_methods.choose(asked)
    methods = {
        # Of a function of the user's nobody knows whether it has a sign: where a metric reads one, it is as returned.
        name: method if isinstance(method, Method) else Method(method, name, "", 0, signed="as returned")
        for name, method in named.items()
    }
    return {name: m if score is None else m._replace(score=score) for name, m in methods.items()}


def _metrics(asked: Sequence[str] | Mapping[str, Any], score: ScoreMaker | None) -> dict[str, Metric]:
    named = asked if isinstance(asked, Mapping) else choose_metrics(asked)
    metrics = {
        name: metric
        if isinstance(metric, Metric)
        else Metric(metric, name, higher=HIGHER_IS_BETTER.get(name_of(metric)))
        for name, metric in named.items()
    }
    return {name: m if score is None else m._replace(score=score) for name, m in metrics.items()}


def choose_metrics(names: Sequence[str]) -> dict[str, Metric]:
    """The metrics of these names, in this order.

    Raises:
        ValueError: For a name that is not one, with the nearest names, or without names.

    Example:
        >>> list(choose_metrics(["deletion"]))
        ['deletion']
    """
    if not names:
        raise ValueError(f"no metric is named, expected at least one of {', '.join(MEASURES)}")
    for name in names:
        if name not in MEASURES:
            raise ValueError(f"there is no metric {name!r}{nearest(name, MEASURES)} `sparks metrics` lists them all")
    return {name: MEASURES[name] for name in names}


# --- notes ------------------------------------------------------------------------------------------------


def _note(table: Table, sentence: str) -> None:
    if sentence not in table.notes:
        table.notes.append(sentence)
        warnings.warn(sentence, stacklevel=4)


def _note_constant_maps(table: Table, name: str, heat: np.ndarray) -> None:
    """Constant up to rounding: a mean over thousands of masks of one number, such as that of RISE, is off by some."""
    flat = heat.reshape(len(heat), -1)
    rounding = 64 * np.finfo(flat.dtype).eps * np.abs(flat).max(1)
    constant = int((np.ptp(flat, axis=1) <= rounding).sum())
    if constant:
        _note(table, f"{name}: {constant} of {len(heat)} maps are constant, so that their order of pixels is random")


def _about(num_images: int, num_classes: int, seed: list[int], smoke: bool) -> dict[str, Any]:
    known = {"images": num_images, "classes": num_classes, "seed": seed[-1], "smoke": smoke}
    return known | {"device": device(), "versions": versions()}
