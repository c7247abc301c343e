"""The programs of a build: each compiled once, its rows spread over the devices of the process.

Devices see equal parts of the leading axis and never talk: `shard_map` over the one axis of a mesh. Processes share the
classes out among themselves.
"""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from jax.tree_util import Partial

from sparks_jax import concepts, scores, sensitivity
from sparks_jax.concepts import Dictionary
from sparks_jax.jobs.network import Network
from sparks_jax.lens.settings import MAP
from sparks_jax.scores import as_pytree

AXIS = "rows"
# (shared, rows) -> outcomes, one for each row.
Program = Callable[[Any, Any], Any]


class Halves(NamedTuple):
    """A network in two halves, and an earlier place to cut it.

    Attributes:
        features: From images to the activations that concepts live in.
        head: From these to logits.
        layer: What that place is called.
        early: From images to earlier activations; None for a network that cannot be cut there.
        rest: From these to logits.
        early_layer: What that place is called.
        grid: Shape of the activations of one image.
        num_classes: How many logits.
        affine: Whether the head is affine.
    """

    features: Any
    head: Any
    layer: str
    early: Any
    rest: Any
    early_layer: str
    grid: tuple[int, int, int]
    num_classes: int
    affine: bool


@functools.cache
def _half(name: str, stage: int) -> Callable[[Any, Any], Any]:
    """A half of a network at a stage, always the same function, so that programs are compiled once."""
    return lambda model, rows: getattr(model, name)(rows, stage)


def halves(network: Network) -> Halves:
    """Cut a network: at its features, and at the last stage before whose grid is finer.

    Args:
        network: With `features` and `head`; those that take a `stage` can be cut earlier.
    """
    model = network.model
    image = jax.ShapeDtypeStruct((1, network.size, network.size, 3), jnp.float32)
    features, head = as_pytree(model.features), as_pytree(model.head)
    acts = jax.eval_shape(features, image)
    logits = jax.eval_shape(head, acts)
    affine = sensitivity.is_affine(lambda a: head(a[None])[0], jax.ShapeDtypeStruct(acts.shape[1:], acts.dtype))
    stage, last = _stages(model, image, acts.shape[1])
    early, rest = (None if stage is None else Partial(_half(name, stage), model) for name in ("features", "head"))
    layer = "the last features" if last is None else f"stage {last}, the last features"
    return Halves(features, head, layer, early, rest, f"stage {stage}", acts.shape[1:], logits.shape[-1], affine)


def _stages(model: Any, image: Any, side: int) -> tuple[int | None, int | None]:
    """The last stage whose grid is finer than that of the features, and the number of these."""
    inner = getattr(model, "model", model)
    parameter = inspect.signature(inner.features).parameters.get("stage")
    if parameter is None:
        return None, None
    last = parameter.default if parameter.default is not None else len(inner.stages)
    for stage in range(last - 1, 0, -1):
        if jax.eval_shape(_half("features", stage), model, image).shape[1] > side:
            return stage, last
    return None, last


# --- rows over devices ------------------------------------------------------------------------------------


def spread(fn: Program, devices: Sequence[Any]) -> Program:
    """Compile a function of what all rows share and of rows, which devices take in equal parts.

    Args:
        fn: `(shared, rows) -> outcomes`, pytrees with a leading axis of rows.
        devices: Of this process.
    """
    if len(devices) == 1:
        return jax.jit(fn)
    mesh = Mesh(np.array(devices), (AXIS,))
    each, whole = PartitionSpec(AXIS), PartitionSpec()
    return jax.jit(jax.shard_map(fn, mesh=mesh, in_specs=(whole, each), out_specs=each, check_vma=False))


def in_chunks(program: Program, shared: Any, rows: Any, size: int) -> Any:
    """A program over any number of rows, by equal chunks, the last one padded by its last row; as numpy arrays.

    Args:
        program: From `spread`.
        shared: What it shares.
        rows: Pytree of arrays with a common leading axis.
        size: Rows at once: a multiple of the devices.

    Example:
        >>> in_chunks(lambda scale, x: scale * x, 2, np.arange(5), 2).tolist()
        [0, 2, 4, 6, 8]
    """
    count, parts = len(jax.tree.leaves(rows)[0]), []
    for start in range(0, count, size):
        index = np.minimum(np.arange(start, start + size), count - 1)
        parts.append(jax.tree.map(np.asarray, program(shared, jax.tree.map(lambda a, i=index: a[i], rows))))
    return jax.tree.map(lambda *a: np.concatenate(a)[:count], *parts)


# --- the programs -----------------------------------------------------------------------------------------


def forward(shared: Any, images: Any) -> tuple[Any, Any]:
    """Activations and logits of images.

    Args:
        shared: The features and the head.
        images: `(b h w 3)`.
    """
    features, head = shared
    acts = features(images)
    return acts, head(acts)


def zoomed(shared: Any, rows: Any) -> Any:
    """Parts of images, each resized to a whole image.

    Args:
        shared: Nothing.
        rows: Images and boxes.
    """
    del shared
    return jax.vmap(lambda x, box: concepts.zoom(x, box, x.shape[:2]))(*rows)


def gradient_maps(shared: Any, rows: Any) -> Any:
    """Where each image moves the code of each concept, averaged over cells of a grid of at most `settings.MAP`.

    Args:
        shared: The features.
        rows: Images, and the dictionary of the class of each.
    """

    def one(x: Any, dictionary: Dictionary) -> Any:
        maps = concepts.gradient_maps(shared, dictionary, x, chunk=len(dictionary.atoms))
        return coarse(maps)

    return jax.lax.map(lambda row: one(*row), rows)


def coarse(maps: Any) -> Any:
    """Maps of one image, averaged over the cells of a grid of `settings.MAP` a side, or fewer where these fit.

    Args:
        maps: `(k h w)`.

    Example:
        >>> coarse(jnp.ones((2, 56, 56))).shape
        (2, 28, 28)
    """
    k, side = maps.shape[0], maps.shape[1]
    cells = next(n for n in range(min(MAP, side), 0, -1) if side % n == 0)
    return maps.reshape(k, cells, side // cells, cells, side // cells).mean((2, 4))


def directions(head: Any, acts: Any, labels: Any) -> Any:
    r"""The direction of activation space that speaks for each class, $\sum_p \partial h_c / \partial a_p$.

    Args:
        head: From activations to logits.
        acts: Activations of one image, where the derivative is taken; an affine head has the same everywhere.
        labels: The classes.
    """
    of_class = lambda label: jax.grad(scores.logit(head, label))(acts).sum((0, 1))
    return jax.lax.map(of_class, labels)
