"""Maps of many images: one compilation per method and shape, batches, a device mesh, progress, memory.

`method(f, x, …)` explains one image. Here it is vmapped over images, jitted once with the weights and the labels as
arguments, and fed equal batches, the last one padded.
"""

import inspect
import warnings
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import PRNGKeyArray

from sparks_jax.scores import Score, as_pytree, logit, probability

ScoreMaker = Callable[[Any, Any], Score]


def explain(
    method: Callable[..., Any],
    model: Any,
    images: Any,
    labels: Any,
    *,
    key: PRNGKeyArray,
    score: ScoreMaker = logit,
    mesh: Mesh | None = None,
    chunk: int | None = None,
    progress: bool | None = False,
    **options: Any,
) -> Any:
    r"""Explain a score of every image with one attribution method.

    $\phi_i = \mathrm{method}(\mathrm{score}(\mathrm{model}, y_i), x_i)$ for each image $x_i$ and label $y_i$

    Compiles once per method, options and image size: other weights, labels or numbers of images do not recompile. The
    key is shared by all images, so a map does not depend on its batch or on the number of devices.

    Args:
        method: Any of `sparks_jax.attribution`, or your own `(f, x, *, key, chunk, …) -> map`.
        model: From a batch of images `(b h w c)` to `(b m)`: a module, a `Partial`, a function. Methods of the CAM
            family use its two halves, `model.features` and `model.head`.
        images: `(n h w c)` floating-point images, as the model takes them.
        labels: `(n,)` class explained in each image.
        key: Randomness, for the methods that take some.
        score: From (model, label) to a score: one of `sparks_jax.scores`.
        mesh: Devices over which images are spread; None for the default device.
        chunk: Evaluations of the model at once on each device; None: 4 on a CPU, 64 on an accelerator. When memory runs
            out it is halved, with a warning.
        progress: Show a bar on stderr; None to show it only on a terminal.
        **options: Passed to the method.

    Returns:
        The maps, stacked, as numpy arrays with the structure of what the method returns.

    Raises:
        ValueError: For images that are not a finite batch, labels outside the classes, a model without halves.

    Example:
        >>> from sparks_jax.attribution import saliency
        >>> model = lambda x: x.reshape(x.shape[0], -1)  # the classes are the pixels
        >>> images = np.ones((3, 2, 2, 1), np.float32)
        >>> maps = explain(saliency, model, images, np.array([0, 1, 2]), key=jax.random.key(0))
        >>> maps.shape, maps[2].ravel().tolist()
        ((3, 2, 2, 1), [0.0, 0.0, 1.0, 0.0])

    Reference:
        Fel 2024, Sparks of Explainability, arXiv:2502.01048.
    """
    return _over_images(method, model, images, labels, (), key, score, mesh, chunk, progress, options)


def measure(
    metric: Callable[..., Any],
    model: Any,
    images: Any,
    labels: Any,
    heatmaps: Any,
    *,
    key: PRNGKeyArray,
    score: ScoreMaker = probability,
    mesh: Mesh | None = None,
    chunk: int | None = None,
    progress: bool | None = False,
    **options: Any,
) -> Any:
    r"""Measure the map of every image with one metric.

    $s_i = \mathrm{metric}(\mathrm{score}(\mathrm{model}, y_i), x_i, \phi_i)$

    As `explain`, for the metrics of `sparks_jax.metrics` that read a map: `(f, x, heatmap, *, key, …)`.

    Args:
        metric: For example `metrics.deletion`.
        model: As in `explain`.
        images: As in `explain`.
        labels: As in `explain`.
        heatmaps: `(n h w)` one map for each image.
        key: As in `explain`.
        score: As in `explain`; a probability by default, as in the papers of the metrics.
        mesh: As in `explain`.
        chunk: As in `explain`.
        progress: As in `explain`.
        **options: Passed to the metric.

    Example:
        >>> from sparks_jax.metrics import deletion
        >>> model = lambda x: x.reshape(x.shape[0], -1)
        >>> images, maps = np.ones((1, 2, 2, 1), np.float32), np.arange(4.0).reshape(1, 2, 2)
        >>> measure(deletion, model, images, np.array([3]), maps, key=jax.random.key(0), score=logit, steps=4).scores
        array([[1., 0., 0., 0., 0.]], dtype=float32)

    Reference:
        Petsiuk et al. 2018, RISE, arXiv:1806.07421, section 4.1.
    """
    heatmaps = np.asarray(heatmaps)
    if len(heatmaps) != len(images):
        raise ValueError(f"measure: {len(heatmaps)} heatmaps for {len(images)} images, expected one for each")
    return _over_images(metric, model, images, labels, (heatmaps,), key, score, mesh, chunk, progress, options)


def count_evaluations(method: Callable[..., Any], shape: tuple[int, int, int], *extra: Any, **options: Any) -> int:
    """How many times a method evaluates its score on an image of this shape, counted by running it on an empty score.

    An evaluation with its gradient counts once.

    Args:
        method: `(f, x, *extra, *, key, …)`, or of the CAM family, whose head is the score.
        shape: Height, width and channels.
        *extra: What the method takes after the image.
        **options: Passed to the method.

    Example:
        >>> from sparks_jax.attribution import integrated_gradients
        >>> count_evaluations(integrated_gradients, (4, 4, 3), num_steps=10)
        10

    Reference:
        Fel, Cadène et al. 2021, Look at the variance!, arXiv:2111.04138 (costs in forward passes).
    """
    count = [0]

    def tick(_: Any) -> None:
        count[0] += 1

    def f(x: Any) -> Any:
        jax.debug.callback(tick, x.sum())  # called once for each element of a batch, because it reads the batch
        return x.sum()

    options |= {"key": jax.random.key(0)} if _takes(method, "key") else {}
    halves = (lambda x: x, f) if _takes(method, "features") else (f,)
    jax.block_until_ready(jax.jit(lambda x: method(*halves, x, *extra, **options))(jnp.zeros(shape)))
    jax.effects_barrier()
    return count[0]


def default_chunk() -> int:
    """Evaluations of a model at once where nobody says: few enough for the cache of a CPU, enough to fill a card.

    EfficientNet-Lite0 at 224² takes 4 ms an image on two cores by fours and 6 ms by sixteens, whose activations no
    longer fit the cache (`experiments/benchmarks/depthwise.py`).

    Example:
        >>> default_chunk() >= 1
        True
    """
    return 4 if jax.default_backend() == "cpu" else 64


def _over_images(
    method: Any, model: Any, images: Any, labels: Any, extra: Any, key: Any, score: Any, mesh: Any, chunk: int | None,
    progress: bool | None, options: dict[str, Any],
) -> Any:  # fmt: skip
    """Every batch through one compiled program; where memory runs out, smaller ones from there on."""
    images, labels = np.asarray(images), np.asarray(labels)
    chunk = default_chunk() if chunk is None else chunk
    _check(method, model, images, labels, chunk)
    options = options | ({"key": key} if _takes(method, "key") else {})
    rows, outputs, start = (images, labels, extra), [], 0
    with _bar(len(images), _name(method), progress) as tick:
        while start < len(images):
            size = _batch_size(method, chunk, mesh, len(images))
            batch = jax.tree.map(lambda a: _padded(a[start : start + size], size), rows)
            try:
                maps = _run(method, score, model, batch, mesh, options | _chunk_of(method, chunk))
            except (MemoryError, jax.errors.JaxRuntimeError) as error:
                out_of_memory = isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)
                if not out_of_memory or chunk == 1:
                    raise
                chunk //= 2
                warnings.warn(f"{_name(method)}: out of memory, going on with chunk={chunk}", stacklevel=3)
                continue
            valid = min(size, len(images) - start)
            outputs.append(jax.tree.map(lambda a: a[:valid], maps))
            start += valid
            tick(valid)
    return jax.tree.map(lambda *parts: np.concatenate(parts), *outputs)


def _batch_size(method: Any, chunk: int, mesh: Mesh | None, num_images: int) -> int:
    """Images at once: a method that streams its samples fills the chunk with one image on each device."""
    num_devices = 1 if mesh is None else mesh.size
    return num_devices * (1 if _takes(method, "chunk") else min(chunk, -(-num_images // num_devices)))


def _chunk_of(method: Any, chunk: int) -> dict[str, int]:
    return {"chunk": chunk} if _takes(method, "chunk") else {}


def _run(method: Any, score: Any, model: Any, batch: Any, mesh: Mesh | None, options: dict[str, Any]) -> Any:
    arrays, code = _partition((method, score, as_pytree(model), options))
    if mesh is None:
        return jax.tree.map(np.asarray, _explain_batch(code, arrays, *batch))
    batch = jax.device_put(batch, NamedSharding(mesh, PartitionSpec(mesh.axis_names)))
    arrays = jax.device_put(arrays, NamedSharding(mesh, PartitionSpec()))
    with jax.set_mesh(mesh):
        return jax.tree.map(np.asarray, _explain_batch(code, arrays, *batch))


@jax.jit(static_argnums=0)
def _explain_batch(code: Hashable, arrays: Any, images: Any, labels: Any, extra: Any) -> Any:
    method, score, model, options = _combine(arrays, code)

    def explain_one(x: Any, label: Any, rest: Any) -> Any:
        if _takes(method, "features"):
            return method(model.features, score(model.head, label), x, *rest, **options)
        return method(score(model, label), x, *rest, **options)

    return jax.vmap(explain_one)(images, labels, extra)


def _check(method: Any, model: Any, images: np.ndarray, labels: np.ndarray, chunk: int) -> None:
    name = _name(method)
    if chunk < 1:
        raise ValueError(f"{name}: chunk is {chunk}, expected a positive integer")
    if images.ndim != 4 or len(images) == 0:
        raise ValueError(f"{name}: images has shape {images.shape}, expected a batch (n, h, w, c)")
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise TypeError(f"{name}: images has dtype {images.dtype}, expected floating point, for example images / 255")
    if not np.isfinite(images.astype(np.float32)).all():
        raise ValueError(f"{name}: images has NaN or infinite pixels, expected finite numbers")
    if labels.shape != images.shape[:1] or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"{name}: labels is {labels.dtype}{labels.shape}, expected {len(images)} integers")
    num_classes = jax.eval_shape(as_pytree(model), jax.ShapeDtypeStruct((1, *images.shape[1:]), images.dtype)).shape[-1]
    if labels.min() < 0 or labels.max() >= num_classes:
        bad = labels[(labels < 0) | (labels >= num_classes)][0]
        raise ValueError(f"{name}: label {bad} is outside the {num_classes} classes 0 … {num_classes - 1} of the model")
    if _takes(method, "features") and not (hasattr(model, "features") and hasattr(model, "head")):
        raise ValueError(
            f"{name}: {type(model).__name__} has no `features` and `head`, the halves of a network that this method "
            f"needs; call {name}(features, head, x) with your own functions"
        )


def _takes(method: Callable[..., Any], name: str) -> bool:
    return name in inspect.signature(method).parameters


def _padded(rows: np.ndarray, size: int) -> np.ndarray:
    """A full batch: the last row again where rows are missing."""
    return rows[np.minimum(np.arange(size), len(rows) - 1)]


def _name(method: Any) -> str:
    """The name of a method, through `functools.partial`."""
    return _name(method.func) if hasattr(method, "func") else getattr(method, "__name__", type(method).__name__)


@contextmanager
def _bar(total: int, name: str, progress: bool | None) -> Iterator[Callable[[int], Any]]:
    if progress is False:
        yield lambda count: None
        return
    from tqdm import tqdm

    with tqdm(total=total, desc=name, unit="image", disable=None if progress is None else False) as bar:
        yield bar.update


def _partition(tree: Any) -> tuple[list[Any], Hashable]:
    """Split a pytree at the jit boundary: arrays are traced, everything else (functions, counts) is code."""
    leaves, structure = jax.tree.flatten(tree)
    is_array = [isinstance(leaf, jax.Array | np.ndarray) for leaf in leaves]
    code = tuple(None if array else leaf for leaf, array in zip(leaves, is_array, strict=True))
    return [leaf if array else None for leaf, array in zip(leaves, is_array, strict=True)], (structure, code)


def _combine(arrays: list[Any], code: Any) -> Any:
    structure, static = code
    return jax.tree.unflatten(structure, [s if a is None else a for a, s in zip(arrays, static, strict=True)])
