"""One metric over many images: of maps already made, or of a method that the metric asks again.

A metric is a function of one image, and says by the names of its positional parameters what it reads:

| parameter | what it is given |
| --- | --- |
| `f` | the score of the image's class |
| `x` | the image |
| `heatmap` | the map under test `(h w)` |
| `mask` | where the truth is `(h w)` |
| `label` | the class |
| `model` | the model |
| `explain` | from an image to the map of the method under test |
| `explain_label` | from a label to its map |
| `explain_model` | from a model to its map |
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.tree_util import Partial
from jaxtyping import PRNGKeyArray

from sparks_jax.jobs.batches import check_batch, count_classes, name_of, over_images, positional, takes
from sparks_jax.jobs.explain import Counted, ScoreMaker, asked, check_method, counted_options, options_of
from sparks_jax.scores import logit, probability
from sparks_jax.sensitivity import count_evaluations
from sparks_jax.types import Score

READS = ("f", "x", "heatmap", "mask", "label", "model", "explain", "explain_label", "explain_model")


def measure(
    metric: Callable[..., Any],
    model: Any,
    images: Any,
    labels: Any,
    heatmaps: Any,
    *,
    key: PRNGKeyArray,
    masks: Any = None,
    score: ScoreMaker = probability,
    mesh: Mesh | None = None,
    chunk: int | None = None,
    progress: bool | None = False,
    **options: Any,
) -> Any:
    r"""Measure the map of every image with one metric.

    $s_i = \mathrm{metric}(\mathrm{score}(\mathrm{model}, y_i), x_i, \phi_i)$

    As `explain`, for the metrics of `sparks_jax.metrics` that read a map: any of `f`, `x`, `heatmap`, `mask`, `label`.

    Args:
        metric: For example `metrics.deletion` or `metrics.pointing_game`.
        model: As in `explain`.
        images: As in `explain`.
        labels: As in `explain`.
        heatmaps: `(n h w)` one map for each image.
        key: As in `explain`.
        masks: `(n h w)` where the truth is, for the metrics of localization.
        score: As in `explain`; a probability by default, as in the papers of the metrics.
        mesh: As in `explain`.
        chunk: As in `explain`.
        progress: As in `explain`.
        **options: Passed to the metric.

    Raises:
        ValueError: As `explain`; for another number of maps or masks than of images, for a metric that needs masks
            without any.

    Example:
        >>> from sparks_jax.metrics import deletion
        >>> model = lambda x: x.reshape(x.shape[0], -1)
        >>> images, maps = np.ones((1, 2, 2, 1), np.float32), np.arange(4.0).reshape(1, 2, 2)
        >>> measure(deletion, model, images, np.array([3]), maps, key=jax.random.key(0), score=logit, steps=4).scores
        array([[1., 0., 0., 0., 0.]], dtype=float32)

    Reference:
        Petsiuk et al. 2018, RISE, arXiv:1806.07421, section 4.1.
    """
    name, images, labels = name_of(metric), np.asarray(images), np.asarray(labels)
    check_batch(name, model, images, labels)
    rest = {"heatmap": np.asarray(heatmaps)} | ({} if masks is None else {"mask": np.asarray(masks)})
    for what, rows in rest.items():
        if len(rows) != len(images):
            raise ValueError(f"{name}: {len(rows)} {what}s for {len(images)} images, expected one for each")
    if "mask" in reads(metric) and masks is None:
        raise ValueError(f"{name}: it compares maps with a known truth; give masks (n h w), one for each image")
    return over_images(
        Partial(_measure_one, metric, score), name, model, images, labels, rest,
        lambda chunk: options_of(metric, key, chunk) | options,
        streams=takes(metric, "chunk"), mesh=mesh, chunk=chunk, progress=progress,
    )  # fmt: skip


def examine(
    metric: Callable[..., Any],
    method: Callable[..., Any],
    model: Any,
    images: Any,
    labels: Any,
    *,
    key: PRNGKeyArray,
    reduce: Callable[[Any], Any] = lambda a: a,
    score: ScoreMaker = logit,
    mesh: Mesh | None = None,
    chunk: int | None = None,
    progress: bool | None = False,
    method_options: dict[str, Any] | None = None,
    **options: Any,
) -> Any:
    r"""Measure a method on every image with a metric that asks it for further maps.

    $s_i = \mathrm{metric}(x \mapsto \mathrm{method}(\mathrm{score}(\mathrm{model}, y_i), x),\, x_i)$

    As `measure`, for metrics that read `explain`, `explain_label` or `explain_model`: stability, randomization.

    Args:
        metric: For example `metrics.average_stability`.
        method: Any of `sparks_jax.attribution`.
        model: As in `explain`.
        images: As in `explain`.
        labels: As in `explain`.
        key: As in `explain`: the metric and the method share it, so that the method's own randomness stays the same.
        reduce: From what the method returns to a map `(h w)`: `images.heatmap`.
        score: What the method explains.
        mesh: As in `explain`.
        chunk: As in `explain`.
        progress: As in `explain`.
        method_options: Passed to the method.
        **options: Passed to the metric.

    Example:
        >>> from sparks_jax.attribution import gradient
        >>> model = lambda x: (x**2).reshape(x.shape[0], -1)
        >>> largest = lambda explain, x: explain(x).max()
        >>> examine(largest, gradient, model, np.full((1, 2, 2, 1), 3.0), np.array([3]), key=jax.random.key(0))
        array([6.], dtype=float32)

    Reference:
        Adebayo et al. 2018, Sanity checks for saliency maps, arXiv:1810.03292.
    """
    name, images, labels = name_of(metric), np.asarray(images), np.asarray(labels)
    check_batch(name, model, images, labels)
    check_method(method, model, method_options or {})
    if takes(metric, "num_classes"):
        options = {"num_classes": count_classes(model, images)} | options

    def both(chunk: int) -> dict[str, Any]:
        # The method fills the chunk by itself, so the metric asks it for one map at a time.
        of_metric = options_of(metric, key, 1 if takes(method, "chunk") else chunk) | options
        return {"method": options_of(method, key, chunk) | (method_options or {}), "metric": of_metric}

    return over_images(
        Partial(_examine_one, metric, method, reduce, score), name, model, images, labels, (), both,
        streams=True, mesh=mesh, chunk=chunk, progress=progress,
    )  # fmt: skip


def reads(metric: Callable[..., Any]) -> tuple[str, ...]:
    """The names of what a metric reads: its positional parameters.

    Raises:
        ValueError: For a name that nothing answers to.

    Example:
        >>> from sparks_jax.metrics import deletion
        >>> reads(deletion)
        ('f', 'x', 'heatmap')
    """
    names = positional(metric)
    if unknown := [name for name in names if name not in READS]:
        raise ValueError(f"{name_of(metric)}: a metric reads some of {', '.join(READS)}, not {unknown[0]}")
    return names


def count_measurements(
    metric: Callable[..., Any], method: Callable[..., Any], model: Any, shape: tuple[int, int, int], *,
    options: dict[str, Any], method_options: dict[str, Any], num_classes: int = 1000,
) -> int:  # fmt: skip
    """How many times a metric has the model evaluated for one image, by itself or by asking the method again.

    Args:
        metric: As in `measure` or `examine`.
        method: As in `examine`.
        model: As in `explain`; read by metrics that change its weights.
        shape: Height, width and channels of an image.
        options: Passed to the metric.
        method_options: Passed to the method.
        num_classes: Of the model.

    Example:
        >>> from sparks_jax.attribution import saliency
        >>> from sparks_jax.metrics import deletion
        >>> count_measurements(deletion, saliency, None, (4, 4, 3), options=dict(steps=8), method_options={})
        9
    """
    needed = {"num_classes": num_classes} if takes(metric, "num_classes") else {}
    of_method = options_of(method, jax.random.key(0), 1) | method_options | counted_options(method)
    of_metric = options_of(metric, jax.random.key(0), 1) | needed | options

    def run(f: Score, x: Any, heatmap: Any, label: Any) -> Any:
        network = Counted(method, f, num_classes)

        def map_of(_: Any, label: Any, x: Any) -> Any:
            return method(*asked(method, logit, network, label, x), **of_method).reshape(*x.shape[:2], -1)[..., 0]

        known = _known(map_of, logit, model, label, x) | {"f": lambda: f}
        known |= {"heatmap": lambda: heatmap, "mask": lambda: heatmap > 0}
        return metric(*(known[name]() for name in reads(metric)), **of_metric)

    pixels, integer = jax.ShapeDtypeStruct(shape, jnp.float32), jax.ShapeDtypeStruct((), jnp.int32)
    return count_evaluations(run, pixels, jax.ShapeDtypeStruct(shape[:2], jnp.float32), integer)


def _measure_one(metric: Any, score: Any, model: Any, label: Any, x: Any, rest: Any, options: dict[str, Any]) -> Any:
    known = {"f": lambda: score(model, label), "x": lambda: x, "label": lambda: label, "model": lambda: model}
    return metric(*(rest[name] if name in rest else known[name]() for name in reads(metric)), **options)


def _examine_one(
    metric: Any, method: Any, reduce: Any, score: Any, model: Any, label: Any, x: Any, rest: Any, options: Any
) -> Any:
    del rest

    def map_of(model: Any, label: Any, x: Any) -> Any:
        return reduce(method(*asked(method, score, model, label, x), **options["method"]))

    known = _known(map_of, score, model, label, x)
    return metric(*(known[name]() for name in reads(metric)), **options["metric"])


def _known(map_of: Any, score: Any, model: Any, label: Any, x: Any) -> dict[str, Callable[[], Any]]:
    """What a metric may read, by name, made when it is read."""
    return {
        "f": lambda: score(model, label),
        "x": lambda: x,
        "label": lambda: label,
        "model": lambda: model,
        "heatmap": lambda: map_of(model, label, x),
        "explain": lambda: lambda x: map_of(model, label, x),
        "explain_label": lambda: lambda label: map_of(model, label, x),
        "explain_model": lambda: lambda model: map_of(model, label, x),
    }
