"""The same work on many images: one compiled program, equal batches, a device mesh, progress, memory.

A task is a function of one image, `task(model, label, x, rest, options)`. Here it is vmapped over images, jitted once
with the weights, the labels and every array among the options as arguments, and fed equal batches, the last one padded.
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

from sparks_jax.scores import as_pytree

Task = Callable[[Any, Any, Any, Any, Any], Any]


def default_chunk() -> int:
    """Evaluations of a model at once where nobody says: few enough for the cache of a CPU, enough to fill a card.

    EfficientNet-Lite0 at 224² takes 4 ms an image on two cores by fours and 6 ms by sixteens, whose activations no
    longer fit the cache (`experiments/benchmarks/depthwise.py`).

    Example:
        >>> default_chunk() >= 1
        True
    """
    return 4 if jax.default_backend() == "cpu" else 64


def over_images(
    task: Task,
    name: str,
    model: Any,
    images: np.ndarray,
    labels: np.ndarray,
    rest: Any,
    options: Callable[[int], Any],
    *,
    streams: bool,
    mesh: Mesh | None,
    chunk: int | None,
    progress: bool | None,
) -> Any:
    """Every batch through one compiled program; where memory runs out, smaller ones from there on.

    Args:
        task: A function of one image, hashable code and arrays in one pytree (a `jax.tree_util.Partial`).
        name: Who speaks in messages and on the bar.
        model: Given to the task.
        images: `(n h w c)`.
        labels: `(n,)`.
        rest: Pytree of arrays with a leading axis n.
        options: From the evaluations at once to what the task is given.
        streams: Whether the task streams its samples and so fills the chunk with one image on each device.
        mesh: Devices over which images are spread; None for the default device.
        chunk: Evaluations of the model at once on each device; None: `default_chunk`.
        progress: Show a bar on stderr; None to show it only on a terminal.

    Returns:
        What the task returns, stacked, as numpy arrays.
    """
    chunk = default_chunk() if chunk is None else chunk
    if chunk < 1:
        raise ValueError(f"{name}: chunk is {chunk}, expected a positive integer")
    rows, outputs, start = (images, labels, rest), [], 0
    with _bar(len(images), name, progress) as tick:
        while start < len(images):
            size = _batch_size(streams, chunk, mesh, len(images))
            batch = jax.tree.map(lambda a: _padded(a[start : start + size], size), rows)
            try:
                results = _run(task, model, batch, mesh, options(chunk))
            except (MemoryError, jax.errors.JaxRuntimeError) as error:
                out_of_memory = isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)
                if not out_of_memory or chunk == 1:
                    raise
                chunk //= 2
                warnings.warn(f"{name}: out of memory, going on with chunk={chunk}", stacklevel=4)
                continue
            valid = min(size, len(images) - start)
            outputs.append(jax.tree.map(lambda a: a[:valid], results))
            start += valid
            tick(valid)
    return jax.tree.map(lambda *parts: np.concatenate(parts), *outputs)


def takes(function: Callable[..., Any], name: str) -> bool:
    """Whether a function has a parameter of this name.

    Example:
        >>> takes(lambda f, x, *, key: x, "key")
        True
    """
    return name in inspect.signature(function).parameters


def positional(function: Callable[..., Any]) -> tuple[str, ...]:
    """The names of what a function takes by position.

    Example:
        >>> positional(lambda f, x, *, key: x)
        ('f', 'x')
    """
    parameters = inspect.signature(function).parameters.values()
    return tuple(p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD))


def name_of(function: Any) -> str:
    """The name of a function, through `functools.partial`.

    Example:
        >>> import functools
        >>> name_of(functools.partial(takes, name="key"))
        'takes'
    """
    if hasattr(function, "func"):
        return name_of(function.func)
    return getattr(function, "__name__", type(function).__name__)


def check_batch(name: str, model: Any, images: np.ndarray, labels: np.ndarray) -> None:
    """Refuse, in one sentence, what is not a batch of finite images with a class for each.

    Args:
        name: Who speaks.
        model: From images `(b h w c)` to `(b m)`.
        images: The would-be batch.
        labels: The would-be classes.

    Raises:
        ValueError: Wrong shapes, NaN or infinite pixels, a label outside the classes of the model.
        TypeError: Images of integers.
    """
    if images.ndim != 4 or len(images) == 0:
        raise ValueError(f"{name}: images has shape {images.shape}, expected a batch (n, h, w, c)")
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise TypeError(f"{name}: images has dtype {images.dtype}, expected floating point, for example images / 255")
    if not np.isfinite(images.astype(np.float32)).all():
        raise ValueError(f"{name}: images has NaN or infinite pixels, expected finite numbers")
    if labels.shape != images.shape[:1] or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"{name}: labels is {labels.dtype}{labels.shape}, expected {len(images)} integers")
    num_classes = count_classes(model, images)
    if labels.min() < 0 or labels.max() >= num_classes:
        bad = labels[(labels < 0) | (labels >= num_classes)][0]
        raise ValueError(f"{name}: label {bad} is outside the {num_classes} classes 0 … {num_classes - 1} of the model")


def count_classes(model: Any, images: np.ndarray) -> int:
    """The length of the row that a model returns for an image, without running it.

    Example:
        >>> count_classes(lambda x: x.reshape(len(x), -1), np.ones((2, 3, 3, 1), np.float32))
        9
    """
    dtype = jax.dtypes.canonicalize_dtype(images.dtype)  # float64 is float32 unless asked for
    return jax.eval_shape(as_pytree(model), jax.ShapeDtypeStruct((1, *images.shape[1:]), dtype)).shape[-1]


def _batch_size(streams: bool, chunk: int, mesh: Mesh | None, num_images: int) -> int:
    num_devices = 1 if mesh is None else mesh.size
    return num_devices * (1 if streams else min(chunk, -(-num_images // num_devices)))


def _run(task: Any, model: Any, batch: Any, mesh: Mesh | None, options: Any) -> Any:
    arrays, code = _partition((task, as_pytree(model), options))
    if mesh is None:
        return jax.tree.map(np.asarray, _one_batch(code, arrays, *batch))
    batch = jax.device_put(batch, NamedSharding(mesh, PartitionSpec(mesh.axis_names)))
    arrays = jax.device_put(arrays, NamedSharding(mesh, PartitionSpec()))
    with jax.set_mesh(mesh):
        return jax.tree.map(np.asarray, _one_batch(code, arrays, *batch))


@jax.jit(static_argnums=0)
def _one_batch(code: Hashable, arrays: Any, images: Any, labels: Any, rest: Any) -> Any:
    task, model, options = _combine(arrays, code)
    return jax.vmap(lambda x, label, one: task(model, label, x, one, options))(images, labels, rest)


def _padded(rows: np.ndarray, size: int) -> np.ndarray:
    """A full batch: the last row again where rows are missing."""
    return rows[np.minimum(np.arange(size), len(rows) - 1)]


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
