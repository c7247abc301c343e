r"""The Lipschitz constant of a model: the product of upper bounds of its layers, or a refusal.

A layer of one's own takes part by a method `lipschitz()` that returns an upper bound, as a scalar array.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from sparks_jax.lipschitz.norms import conv_bound, matrix_bound, product
from sparks_jax.models.normalize import Normalized

# Functions of one number with slopes of at most 1.
_NO_STEEPER = (jax.nn.relu, jax.nn.leaky_relu, jnp.tanh, jnp.abs, jnp.sin, jax.nn.softplus, jax.nn.sigmoid)


class UnknownBound(ValueError):
    """A layer has no upper bound of its Lipschitz constant that is known here."""


def one() -> Float[Array, ""]:
    """The bound 1.

    Example:
        >>> one().item()
        1.0

    Reference:
        Serrurier et al. 2023, arXiv:2206.06854.
    """
    return jnp.ones(())


class One(nnx.Module):
    """A layer without parameters whose Lipschitz constant is 1."""

    def lipschitz(self) -> Float[Array, ""]:
        """1."""
        return one()


def lipschitz_constant(model: Any) -> Float[Array, ""]:
    r"""An upper bound of the Lipschitz constant of a model in the Euclidean norm, for any input, rounding included.

    $L \le \prod_l \hat\sigma_l$

    Matrices by `matrix_bound`, convolutions by `conv_bound`, both of the kernel that is applied; `Sequential` and the
    layers and networks of `lipschitz`; `models.Normalized` divides by its least scale; batch normalisation with running
    statistics by its largest factor. Products are computed as on paper: the rounding of the network's own evaluation is
    not in it.

    Args:
        model: An `nnx.Module`, before or after `fold`.

    Raises:
        UnknownBound: For a layer that has no `lipschitz()` and is not one of these.

    Example:
        >>> from flax import nnx
        >>> from sparks_jax.lipschitz import GroupSort, OrthogonalLinear
        >>> rngs = nnx.Rngs(0)
        >>> model = nnx.Sequential(OrthogonalLinear(4, 8, rngs=rngs), GroupSort(), OrthogonalLinear(8, 3, rngs=rngs))
        >>> round(jax.jit(lipschitz_constant)(model).item(), 4)
        1.0

    Reference:
        Szegedy et al. 2014, Intriguing properties of neural networks, arXiv:1312.6199 (section 4.3).
    """
    with jax.default_matmul_precision("highest"):
        return _bound(model, type(model).__name__)


def _bound(model: Any, path: str) -> Float[Array, ""]:
    if hasattr(model, "lipschitz"):
        return model.lipschitz()
    if isinstance(model, nnx.Sequential):
        return product([_bound(layer, f"{path}.layers[{i}]") for i, layer in enumerate(model.layers)])
    if isinstance(model, Normalized):
        return _bound(model.model, f"{path}.model") / min(model.std) * (1 + float(jnp.finfo(jnp.float32).eps))
    for kind, bound in _STOCK.items():
        if isinstance(model, kind):
            return bound(model, path)
    if any(model is function for function in _NO_STEEPER):
        return one()
    name = getattr(model, "__name__", type(model).__name__)
    raise UnknownBound(
        f"{path}: no Lipschitz constant is known for {name}, so nothing is certified; give it a method lipschitz() "
        "that returns an upper bound, or use the layers of sparks_jax.lipschitz"
    )


def _linear(layer: nnx.Linear, path: str) -> Float[Array, ""]:
    del path
    return matrix_bound(layer.kernel[...].astype(jnp.float32))


def _conv(layer: nnx.Conv, path: str) -> Float[Array, ""]:
    both = lambda value: {value} if isinstance(value, int) else set(value or (1,))
    stride, dilation, size = (both(v) for v in (layer.strides, layer.kernel_dilation, layer.kernel_size))
    square = len(stride) == len(dilation) == len(size) == 1 and len(layer.kernel_size) == 2
    if not square or both(layer.input_dilation) != {1} or layer.padding in ("REFLECT", "CAUSAL") or layer.mask:
        raise UnknownBound(
            f"{path}: no bound is known for this convolution (kernel {layer.kernel_size}, padding {layer.padding!r}); "
            "allowed are square kernels, one stride and dilation, and padding by zeros or 'CIRCULAR'"
        )
    kernel = layer.kernel[...].astype(jnp.float32)
    (stride,), (dilation,) = stride, dilation
    return conv_bound(kernel, stride=stride, dilation=dilation, groups=layer.feature_group_count)


def _batch_norm(layer: nnx.BatchNorm, path: str) -> Float[Array, ""]:
    if not layer.use_running_average:
        raise UnknownBound(f"{path}: batch statistics mix images; certify with use_running_average=True")
    scale = jnp.ones(1) if layer.scale is None else jnp.abs(layer.scale[...])
    return jnp.max(scale / jnp.sqrt(layer.var[...] + layer.epsilon)).astype(jnp.float32) * (1 + 1e-6)


_STOCK: dict[type, Callable[[Any, str], Float[Array, ""]]] = {
    nnx.Linear: _linear,
    nnx.Conv: _conv,
    nnx.BatchNorm: _batch_norm,
}
