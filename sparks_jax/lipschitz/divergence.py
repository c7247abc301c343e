"""Where a training stopped being finite: the step, and the first layer to blame."""

from collections.abc import Iterator, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from sparks_jax.lipschitz.layers import Reparametrized
from sparks_jax.lipschitz.networks import LipschitzNet
from sparks_jax.lipschitz.residual import LipschitzResidual
from sparks_jax.models.weights import leaves
from sparks_jax.types import Scalar


def check_finite(
    numbers: Mapping[str, float | Scalar], model: Any, images: Float[Array | np.ndarray, "b ..."], *, step: int
) -> None:
    """Stop a training that diverged, with the step and the layer where the numbers end.

    Called after each step, with what the step told, it costs a look at those numbers; the model is run, layer by layer,
    only where one is not finite. Keep the parameters from before the bad step, or all layers are to blame: by
    `optax.apply_if_finite`.

    Args:
        numbers: What was computed, by name: the loss, the norm of the gradient.
        model: With its parameters before the step.
        images: Of the step.
        step: Its number.

    Raises:
        FloatingPointError: If a number is not finite.

    Example:
        >>> from flax import nnx
        >>> model = nnx.Sequential(nnx.relu, jnp.log)
        >>> check_finite({"loss": 1.0}, model, jnp.zeros((1, 1)), step=6)
        >>> check_finite({"loss": jnp.nan}, model, jnp.zeros((1, 1)), step=7)
        Traceback (most recent call last):
        FloatingPointError: step 7: the loss is nan, first in layers.1 (log): its output is not finite

    Reference:
        Micikevicius et al. 2018, Mixed precision training, arXiv:1710.03740 (steps that are not finite are skipped).
    """
    for name, number in numbers.items():
        if not _finite(jnp.asarray(number)):
            blamed = _blamed(model, jnp.asarray(images))
            raise FloatingPointError(f"step {step}: the {name} is {float(number)}, first in {blamed}")


def _blamed(model: Any, images: Array) -> str:
    if not _finite(images):
        return "the images: they are not finite"
    for name, leaf in leaves(model).items():
        if not _finite(leaf):
            return f"the parameter {name}: it is not finite"
    for path, layer, x in _walk(model, images, ()):
        name = f"{'.'.join(path) or 'the model'} ({getattr(layer, '__name__', type(layer).__name__)})"
        if isinstance(layer, Reparametrized):
            layer = layer.plain()
            if not all(map(_finite, leaves(layer).values())):
                return f"{name}: the kernel made of its parameters is not finite"
        if not _finite(layer(x)):
            return f"{name}: its output is not finite"
    return "the loss or its gradient: parameters, kernels and outputs are finite"


def _walk(layer: Any, x: Array, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any, Array]]:
    """The layers that hold no others, and those around them after what they hold, each with its input."""
    inner = []
    if isinstance(layer, nnx.Sequential):
        inner = [((*path, "layers", str(i)), part) for i, part in enumerate(layer.layers)]
    elif isinstance(layer, LipschitzNet):
        inner = [((*path, "stages", str(i)), part) for i, part in enumerate(layer.stages)]
        inner += [((*path, name), getattr(layer, name)) for name in ("neck", "fc")]
    elif isinstance(layer, LipschitzResidual):
        inner = [((*path, "inner"), layer.inner)]
    y = x
    for at, part in inner:
        yield from _walk(part, y, at)
        y = part(y)
    yield path, layer, x


def _finite(values: Any) -> bool:
    return not jnp.issubdtype(values.dtype, jnp.inexact) or bool(jnp.isfinite(values).all())
