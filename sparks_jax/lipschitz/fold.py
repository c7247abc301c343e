r"""From layers with constraints to layers without: for one step of training (`reparametrize`) or for good (`fold`)."""

from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from sparks_jax.lipschitz.centering import BatchCentering
from sparks_jax.lipschitz.layers import Reparametrized

Model = TypeVar("Model")


def reparametrize(model: Model) -> Model:
    """The model with every constrained layer as the stock Flax layer it stands for, differentiable in the parameters.

    Kernels are computed here, once, however often the result is called: over microbatches, perturbations or images.
    Layers of the same kind and shape are computed together. The rest of the model is untouched; running statistics that
    the result observes in training are carried back by `nnx.update(model, nnx.state(plain, nnx.BatchStat))`.

    Args:
        model: Any module that holds layers of `lipschitz`, however deep.

    Example:
        >>> from flax import nnx
        >>> from sparks_jax.lipschitz import OrthogonalLinear
        >>> model = nnx.Sequential(OrthogonalLinear(4, 2, rngs=nnx.Rngs(0)))
        >>> type(reparametrize(model).layers[0]) is nnx.Linear
        True

    Reference:
        Boissin et al. 2025, An adaptive orthogonal convolution scheme for efficient and flexible CNN architectures,
        arXiv:2501.07930.
    """
    constrained = lambda part: isinstance(part, Reparametrized)
    parts, structure = jax.tree.flatten(model, is_leaf=constrained)
    groups: dict[Any, list[int]] = {}
    for i, part in enumerate(parts):
        if constrained(part):
            leaves, kind = jax.tree.flatten(part)
            groups.setdefault((kind, tuple((leaf.shape, leaf.dtype) for leaf in leaves)), []).append(i)
    for places in groups.values():
        if len(places) == 1:
            parts[places[0]] = parts[places[0]].plain()
            continue
        together = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(parts[i] for i in places))
        plain = jax.vmap(lambda part: part.plain())(together)
        for j, i in enumerate(places):
            parts[i] = jax.tree.map(lambda leaf: leaf[j], plain)
    return jax.tree.unflatten(structure, parts)


def fold(model: Model) -> Model:
    """The model of stock Flax layers that computes the same, for explanations, certificates and export.

    Kernels are computed once and for all, and without gradient. A centring by a running mean goes into the bias of the
    layer before it, in a `Sequential`, or else becomes a `flax.nnx.BatchNorm`.

    Args:
        model: As for `reparametrize`.

    Example:
        >>> from flax import nnx
        >>> from sparks_jax.lipschitz import BatchCentering, OrthogonalLinear
        >>> model = fold(nnx.Sequential(OrthogonalLinear(4, 2, rngs=nnx.Rngs(0)), BatchCentering(2)))
        >>> [type(layer).__name__ for layer in model.layers]
        ['Linear']

    Reference:
        Serrurier et al. 2023, On the explainable properties of 1-Lipschitz neural networks: an optimal transport
        perspective, arXiv:2206.06854.
    """
    with jax.default_matmul_precision("highest"):
        plain = jax.tree.map(lax.stop_gradient, reparametrize(model))
    return _merged(plain)


def _merged(model: Any) -> Any:
    """With centrings in biases, from the inside out."""
    special = lambda part: part is not model and isinstance(part, nnx.Sequential | BatchCentering)
    parts, structure = jax.tree.flatten(model, is_leaf=special)
    parts = [_merged(part) if special(part) else part for part in parts]
    model = jax.tree.unflatten(structure, parts)
    if isinstance(model, BatchCentering):
        return model.stock()
    return nnx.Sequential(*_merged_pairs(list(model.layers))) if isinstance(model, nnx.Sequential) else model


def _merged_pairs(layers: list[Any]) -> list[Any]:
    merged: list[Any] = []
    for layer in layers:
        before = merged[-1] if merged else None
        if isinstance(layer, nnx.BatchNorm) and _translates(layer) and isinstance(before, nnx.Conv | nnx.Linear):
            shift = -layer.mean[...] if layer.bias is None else layer.bias[...] - layer.mean[...]
            merged[-1] = _shifted(before, shift)
        else:
            merged.append(layer)
    return merged


def _translates(norm: nnx.BatchNorm) -> bool:
    """Whether it is what `BatchCentering.stock` makes."""
    return norm.scale is None and norm.epsilon == 0 and bool(norm.use_running_average)


def _shifted(layer: Any, shift: Any) -> Any:
    """The layer with another bias."""
    copy = jax.tree.unflatten(jax.tree.structure(layer), jax.tree.leaves(layer))
    bias = shift if layer.bias is None else layer.bias[...] + shift
    copy.bias, copy.use_bias = nnx.Param(bias), True
    return copy
