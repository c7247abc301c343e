"""SqueezeNet 1.1: AlexNet's accuracy with a fiftieth of its parameters, no batch normalisation, no linear layer.

`head(features(x, s), s) == model(x)` for each stage `s`. A model is a pytree: it crosses `jax.jit`, `jax.vmap` and
`jax.grad` as an argument, and new weights do not recompile.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from sparks_jax.models.conv import Conv, PointwiseConv
from sparks_jax.models.inputs import check_images

# Squeezed and expanded channels of the modules fire2 ... fire9, and those that a pooling precedes: Iandola et al.
# (2016), with the changes of version 1.1.
FIRES = ((16, 64), (16, 64), (32, 128), (32, 128), (48, 192), (48, 192), (64, 256), (64, 256))
POOLED = (2, 4, 6)
LAST = 9
# Mean colour of the training images, RGB of 255: Caffe's. The network reads BGR.
MEAN_RGB = (123.68, 116.779, 103.939)


class SqueezeNet(nnx.Module):
    r"""A convolution, eight fire modules with three poolings between them, one score map per class, mean.

    It takes RGB in [0, 1] and begins with $x \mapsto (255 x - \mu)$ in the order BGR. Each logit is the mean of a
    non-negative map, so that none is below 0.

    Reference:
        Iandola et al. 2016, SqueezeNet, arXiv:1602.07360.
    """

    def __init__(self, num_classes: int = 1000, *, rngs: nnx.Rngs):
        """Draw the parameters."""
        self.conv1 = Conv(3, 64, size=3, stride=2, padding=0, use_bias=True, rngs=rngs)
        self.fires, channels = nnx.List(), 64
        for squeezed, expanded in FIRES:
            self.fires.append(Fire(channels, squeezed, expanded, rngs=rngs))
            channels = 2 * expanded
        self.conv10 = PointwiseConv(channels, num_classes, use_bias=True, rngs=rngs)

    def __call__(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b m"]:
        """Logits of a batch of images in [0, 1]."""
        return self.head(self.features(images))

    def features(self, images: Float[Array, "b h w 3"], stage: int = LAST) -> Float[Array, "b gh gw d"]:
        """Activations after a module, none negative: 1 the convolution, 2 to 9 the modules fire2 to fire9."""
        _check(stage)
        check_images(images, 3, "squeezenet")
        x = 255 * images - jnp.asarray(MEAN_RGB, images.dtype)[None, None, None]
        return self._between(1, stage, nnx.relu(self.conv1(x[..., ::-1])))

    def head(self, activations: Float[Array, "b gh gw d"], stage: int = LAST) -> Float[Array, "b m"]:
        """Logits from the activations after a module."""
        _check(stage)
        x = self._between(stage, LAST, activations)
        return nnx.relu(self.conv10(x)).mean((1, 2))

    def _between(self, first, last, x):
        for number in range(first + 1, last + 1):
            x = self.fires[number - 2](max_pool(x) if number in POOLED else x)
        return x


class Fire(nnx.Module):
    """A 1x1 convolution to few channels, then a 1x1 and a 3x3 convolution side by side to many."""

    def __init__(self, channels: int, squeezed: int, expanded: int, *, rngs: nnx.Rngs):
        """Make a module from `channels` to `2 * expanded`."""
        self.squeeze1x1 = PointwiseConv(channels, squeezed, use_bias=True, rngs=rngs)
        self.expand1x1 = PointwiseConv(squeezed, expanded, use_bias=True, rngs=rngs)
        self.expand3x3 = Conv(squeezed, expanded, size=3, use_bias=True, rngs=rngs)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w d"]:
        """Apply the module."""
        x = nnx.relu(self.squeeze1x1(x))
        return nnx.relu(jnp.concatenate([self.expand1x1(x), self.expand3x3(x)], -1))


def max_pool(x: Float[Array, "b h w c"]) -> Float[Array, "b gh gw c"]:
    """3x3 maximum at stride 2 without padding; one axis after the other takes XLA:CPU a third of the time of both.

    Example:
        >>> max_pool(jnp.arange(25.0).reshape(1, 5, 5, 1))[0, :, :, 0]
        Array([[12., 14.],
               [22., 24.]], dtype=float32)
    """
    rows = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 3, 1, 1), (1, 2, 1, 1), "VALID")
    return jax.lax.reduce_window(rows, -jnp.inf, jax.lax.max, (1, 1, 3, 1), (1, 1, 2, 1), "VALID")


def _check(stage):
    if not 1 <= stage <= LAST:
        raise ValueError(f"stage is {stage}, expected 1 (the convolution) or 2 to {LAST} (the fire modules)")


# --- weights: names and layouts of the Keras file -> paths and layouts of the network ---

LAYERS = {
    f"fire{i + 2}/{layer}": f"fires.{i}.{layer}"
    for i in range(len(FIRES))
    for layer in ("squeeze1x1", "expand1x1", "expand3x3")
}
ENTRIES = {"W": "kernel", "b": "bias"}


def entries(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays of the Keras file under the attribute paths of ours, for `weights.fill`.

    Example:
        >>> list(entries({"fire2/squeeze1x1_W": np.ones((1, 1, 64, 16)), "conv1_b": np.ones(64)}))
        ['fires.0.squeeze1x1.kernel', 'conv1.bias']
    """
    return {_path(name): array[0, 0] if array.shape[:2] == (1, 1) else array for name, array in arrays.items()}


def _path(name):
    layer, _, entry = name.rpartition("_")
    return f"{LAYERS.get(layer, layer)}.{ENTRIES.get(entry, entry)}"
