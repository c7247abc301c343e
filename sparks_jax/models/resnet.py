"""ResNet-18 to -152, version 1.5 (the stride on the 3x3 convolution), in two halves at every stage.

`head(features(x, s), s) == model(x)` for each stage `s`, so that what explains activations (Grad-CAM,
concepts, bounds) asks for them. A model is a pytree: it crosses `jax.jit`, `jax.vmap` and `jax.grad` as an
argument, and new weights do not recompile. Batch normalisation uses its running statistics;
`nnx.view(model, use_running_average=False)` is the same network in training. To draw parameters where a
mesh wants them, `jax.jit(lambda: resnet50(rngs=nnx.Rngs(0)), out_shardings=...)()`.
"""

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from sparks_jax.models.conv import Conv, PointwiseConv
from sparks_jax.models.inputs import check_images

# Depth -> (blocks in each of the four stages, whether they are bottlenecks): He et al. (2016), table 1.
DEPTHS = {
    18: ((2, 2, 2, 2), False),
    34: ((3, 4, 6, 3), False),
    50: ((3, 4, 6, 3), True),
    101: ((3, 4, 23, 3), True),
    152: ((3, 8, 36, 3), True),
}


class ResNet(nnx.Module):
    r"""A residual network: stem, four stages of blocks $x \mapsto \mathrm{relu}(x + g(x))$, mean, linear map.

    It takes normalised images (see `normalize.Normalized`). Parameters are float32, `dtype` is the type of
    the convolutions and activations, and logits come out in float32.

    Reference:
        He et al. 2016, Deep Residual Learning for Image Recognition, arXiv:1512.03385.
    """

    def __init__(self, depth: int, num_classes: int = 1000, *, rngs: nnx.Rngs, dtype: DTypeLike | None = None):
        """Draw the parameters of the network of this depth: 18, 34, 50, 101 or 152."""
        if depth not in DEPTHS:
            raise ValueError(f"there is no ResNet-{depth}; the depths are {', '.join(map(str, DEPTHS))}")
        sizes, bottleneck = DEPTHS[depth]
        block, expansion = (Bottleneck, 4) if bottleneck else (BasicBlock, 1)
        self.conv1 = Conv(3, 64, size=7, stride=2, dtype=dtype, rngs=rngs)
        self.bn1 = _batch_norm(64, rngs)
        self.stages, channels = nnx.List(), 64
        for stage, size in enumerate(sizes):
            width, blocks = 64 * 2**stage, nnx.List()
            for i in range(size):
                stride = 2 if stage > 0 and i == 0 else 1
                blocks.append(block(channels, width, stride=stride, dtype=dtype, rngs=rngs))
                channels = width * expansion
            self.stages.append(blocks)
        self.fc = nnx.Linear(channels, num_classes, rngs=rngs)

    def __call__(self, images: Float[Array, "b h w c"]) -> Float[Array, "b m"]:
        """Logits of a batch of normalised images."""
        return self.head(self.features(images))

    def features(self, images: Float[Array, "b h w c"], stage: int = 4) -> Float[Array, "b gh gw d"]:
        """Activations after a stage, 1 to 4, none negative; 0 is the stem before them."""
        _check(stage)
        check_images(images, self.conv1.kernel.shape[2], "resnet")
        x = max_pool(nnx.relu(_normalized(self.bn1, self.conv1(images))))
        return self._between(0, stage, x)

    def head(self, activations: Float[Array, "b gh gw d"], stage: int = 4) -> Float[Array, "b m"]:
        """Logits from the activations after a stage."""
        _check(stage)
        x = self._between(stage, 4, activations)
        return self.fc(jnp.mean(x, axis=(1, 2), dtype=jnp.promote_types(x.dtype, jnp.float32)))

    def _between(self, first, last, x):
        for blocks in self.stages[first:last]:
            for block in blocks:
                x = block(x)
        return x


class BasicBlock(nnx.Module):
    """Two 3x3 convolutions and a shortcut: the block of ResNet-18 and -34."""

    def __init__(self, channels: int, width: int, *, stride: int, dtype: DTypeLike | None, rngs: nnx.Rngs):
        """Make a block from `channels` to `width` features."""
        self.conv1 = Conv(channels, width, size=3, stride=stride, dtype=dtype, rngs=rngs)
        self.bn1 = _batch_norm(width, rngs)
        self.conv2 = Conv(width, width, size=3, dtype=dtype, rngs=rngs)
        self.bn2 = _batch_norm(width, rngs)
        self.shortcut = _shortcut(channels, width, stride, dtype, rngs)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b gh gw d"]:
        """Apply the block."""
        y = nnx.relu(_normalized(self.bn1, self.conv1(x)))
        y = _normalized(self.bn2, self.conv2(y))
        return nnx.relu(y + (x if self.shortcut is None else self.shortcut(x)))


class Bottleneck(nnx.Module):
    """A 1x1, a 3x3 and a 1x1 convolution and a shortcut: the block of ResNet-50, -101 and -152."""

    def __init__(self, channels: int, width: int, *, stride: int, dtype: DTypeLike | None, rngs: nnx.Rngs):
        """Make a block from `channels` to `4 * width` features."""
        self.conv1 = PointwiseConv(channels, width, dtype=dtype, rngs=rngs)
        self.bn1 = _batch_norm(width, rngs)
        self.conv2 = Conv(width, width, size=3, stride=stride, dtype=dtype, rngs=rngs)
        self.bn2 = _batch_norm(width, rngs)
        self.conv3 = PointwiseConv(width, 4 * width, dtype=dtype, rngs=rngs)
        self.bn3 = _batch_norm(4 * width, rngs)
        self.shortcut = _shortcut(channels, 4 * width, stride, dtype, rngs)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b gh gw d"]:
        """Apply the block."""
        y = nnx.relu(_normalized(self.bn1, self.conv1(x)))
        y = nnx.relu(_normalized(self.bn2, self.conv2(y)))
        y = _normalized(self.bn3, self.conv3(y))
        return nnx.relu(y + (x if self.shortcut is None else self.shortcut(x)))


class Shortcut(nnx.Module):
    """A strided 1x1 projection, where a block changes the shape of its input."""

    def __init__(self, channels: int, features: int, *, stride: int, dtype: DTypeLike | None, rngs: nnx.Rngs):
        """Make a projection from `channels` to `features`."""
        self.conv = PointwiseConv(channels, features, stride=stride, dtype=dtype, rngs=rngs)
        self.bn = _batch_norm(features, rngs)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b gh gw d"]:
        """Project."""
        return _normalized(self.bn, self.conv(x))


def _shortcut(channels, features, stride, dtype, rngs):
    same = stride == 1 and channels == features
    return None if same else Shortcut(channels, features, stride=stride, dtype=dtype, rngs=rngs)


def _batch_norm(features, rngs):
    # Torch's momentum 0.1 is the weight of the new statistics, flax's 0.9 that of the old.
    return nnx.BatchNorm(features, use_running_average=True, momentum=0.9, epsilon=1e-5, rngs=rngs)


def _normalized(bn, x):
    # Statistics are float32 and so is the normalisation of bfloat16 activations; XLA fuses both casts away.
    return bn(x).astype(x.dtype)


def max_pool(x: Float[Array, "b h w c"]) -> Float[Array, "b gh gw c"]:
    """3x3 maximum at stride 2, with -inf around the input.

    Example:
        >>> max_pool(jnp.arange(16.0).reshape(1, 4, 4, 1))[0, :, :, 0].tolist()
        [[5.0, 7.0], [13.0, 15.0]]
    """
    return _max_of_three(_max_of_three(x, axis=2), axis=1)


def _max_of_three(x, axis):
    # max(x[2i - 1], x[2i], x[2i + 1]), as shifted slices: on XLA:CPU a third of the time of `reduce_window`
    # forwards and a quarter backwards, columns first.
    even, odd = (jax.lax.slice_in_dim(x, start, None, 2, axis) for start in (0, 1))
    margin = [(0, 0)] * x.ndim
    margin[axis] = (1, 1)
    odd = jnp.pad(odd, margin, constant_values=-jnp.inf)
    before, after = (jax.lax.slice_in_dim(odd, i, i + even.shape[axis], 1, axis) for i in (0, 1))
    return jnp.maximum(even, jnp.maximum(before, after))


def _check(stage):
    if stage not in range(5):
        raise ValueError(f"a ResNet has stages 1 to 4, and 0 for its stem: got stage={stage}")


@partial(jax.jit, static_argnums=(0, 1, 2))
def _create(depth, num_classes, dtype, key):
    return ResNet(depth, num_classes, rngs=nnx.Rngs(key), dtype=dtype)


def resnet18(num_classes: int = 1000, *, rngs: nnx.Rngs, dtype: DTypeLike | None = None) -> ResNet:
    """ResNet-18: 11.7 million parameters, drawn in one compiled program.

    Example:
        >>> from flax import nnx
        >>> model = jax.eval_shape(lambda: resnet18(rngs=nnx.Rngs(0)))
        >>> sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
        11689512
    """
    return _create(18, num_classes, dtype, rngs.params())


def resnet34(num_classes: int = 1000, *, rngs: nnx.Rngs, dtype: DTypeLike | None = None) -> ResNet:
    """ResNet-34: 21.8 million parameters, drawn in one compiled program.

    Example:
        >>> from flax import nnx
        >>> model = jax.eval_shape(lambda: resnet34(rngs=nnx.Rngs(0)))
        >>> sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
        21797672
    """
    return _create(34, num_classes, dtype, rngs.params())


def resnet50(num_classes: int = 1000, *, rngs: nnx.Rngs, dtype: DTypeLike | None = None) -> ResNet:
    """ResNet-50: 25.6 million parameters, drawn in one compiled program.

    Example:
        >>> from flax import nnx
        >>> model = jax.eval_shape(lambda: resnet50(rngs=nnx.Rngs(0)))
        >>> sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
        25557032
    """
    return _create(50, num_classes, dtype, rngs.params())


def resnet101(num_classes: int = 1000, *, rngs: nnx.Rngs, dtype: DTypeLike | None = None) -> ResNet:
    """ResNet-101: 44.5 million parameters, drawn in one compiled program.

    Example:
        >>> from flax import nnx
        >>> model = jax.eval_shape(lambda: resnet101(rngs=nnx.Rngs(0)))
        >>> sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
        44549160
    """
    return _create(101, num_classes, dtype, rngs.params())


def resnet152(num_classes: int = 1000, *, rngs: nnx.Rngs, dtype: DTypeLike | None = None) -> ResNet:
    """ResNet-152: 60.2 million parameters, drawn in one compiled program.

    Example:
        >>> from flax import nnx
        >>> model = jax.eval_shape(lambda: resnet152(rngs=nnx.Rngs(0)))
        >>> sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
        60192808
    """
    return _create(152, num_classes, dtype, rngs.params())
