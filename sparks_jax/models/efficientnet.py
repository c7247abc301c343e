"""EfficientNet-Lite0: the EfficientNet for integer accelerators, without squeeze-and-excitation, ReLU6 for swish.

`head(features(x, s), s) == model(x)` for each stage `s`. A model is a pytree: it crosses `jax.jit`, `jax.vmap` and
`jax.grad` as an argument, and new weights do not recompile. Batch normalisation uses its running statistics;
`nnx.view(model, use_running_average=False)` is the same network in training, without the paper's dropout.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from sparks_jax.models.conv import PointwiseConv
from sparks_jax.models.depthwise import DepthwiseConv, patches
from sparks_jax.models.inputs import check_images

# Filter size, stride of the first block, expansion, features, blocks: Tan & Le (2019), table 1.
STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
LAST = len(STAGES) + 1  # the 1x1 convolution to 1280 channels


class EfficientNetLite0(nnx.Module):
    r"""A stem, seven stages of inverted bottlenecks, a 1x1 convolution, mean, linear map.

    It takes RGB in [0, 1] and begins with $x \mapsto (255 x - 127) / 128$.

    Reference:
        Tan & Le 2019, EfficientNet, arXiv:1905.11946.
    """

    def __init__(self, num_classes: int = 1000, *, rngs: nnx.Rngs):
        """Draw the parameters."""
        self.stem = PointwiseConv(3 * 3 * 3, 32, rngs=rngs)  # of patches
        self.stem_bn = _batch_norm(32, rngs)
        self.stages, channels = nnx.List(), 32
        for size, stride, expansion, features, count in STAGES:
            blocks = nnx.List()
            for i in range(count):
                step = stride if i == 0 else 1
                blocks.append(InvertedBottleneck(channels, features, expansion, size=size, stride=step, rngs=rngs))
                channels = features
            self.stages.append(blocks)
        self.top = PointwiseConv(channels, 1280, rngs=rngs)
        self.top_bn = _batch_norm(1280, rngs)
        self.classifier = nnx.Linear(1280, num_classes, rngs=rngs)

    def __call__(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b m"]:
        """Logits of a batch of images in [0, 1]."""
        return self.head(self.features(images))

    def features(self, images: Float[Array, "b h w 3"], stage: int = LAST) -> Float[Array, "b gh gw d"]:
        """Activations after a stage: 0 the stem, 1 to 7 the stages, 8 the last grid, 1280 numbers from 0 to 6."""
        _check(stage)
        check_images(images, 3, "efficientnet_lite0")
        x = patches((255 * images - 127) / 128, size=3, stride=2)
        return self._between(0, stage, relu6(_normalized(self.stem_bn, self.stem(x))))

    def head(self, activations: Float[Array, "b gh gw d"], stage: int = LAST) -> Float[Array, "b m"]:
        """Logits from the activations after a stage."""
        _check(stage)
        x = self._between(stage, LAST, activations)
        return self.classifier(x.mean((1, 2)))

    def _between(self, first, last, x):
        for blocks in self.stages[first:last]:
            for block in blocks:
                x = block(x)
        return relu6(_normalized(self.top_bn, self.top(x))) if first < last == LAST else x


class InvertedBottleneck(nnx.Module):
    """A 1x1 expansion, a depthwise convolution, a 1x1 projection, and a shortcut where the shape stays."""

    def __init__(self, channels: int, features: int, expansion: int, *, size: int, stride: int, rngs: nnx.Rngs):
        """Make a block from `channels` to `features`, `channels * expansion` wide."""
        width = channels * expansion
        self.expand = PointwiseConv(channels, width, rngs=rngs) if expansion > 1 else None
        self.expand_bn = _batch_norm(width, rngs) if expansion > 1 else None
        self.depthwise = DepthwiseConv(width, size=size, stride=stride, rngs=rngs)
        self.depthwise_bn = _batch_norm(width, rngs)
        self.project = PointwiseConv(width, features, rngs=rngs)
        self.project_bn = _batch_norm(features, rngs)
        self.shortcut = stride == 1 and channels == features

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b gh gw d"]:
        """Apply the block."""
        y = x if self.expand is None else relu6(_normalized(self.expand_bn, self.expand(x)))
        y = relu6(_normalized(self.depthwise_bn, self.depthwise(y)))
        y = _normalized(self.project_bn, self.project(y))
        return x + y if self.shortcut else y


@jax.custom_jvp
def relu6(x: Float[Array, "..."]) -> Float[Array, "..."]:
    r"""$\min(\max(x, 0), 6)$, with derivative 0 at both corners.

    Example:
        >>> relu6(jnp.array([-1.0, 2.0, 7.0])).tolist()
        [0.0, 2.0, 6.0]
    """
    return jnp.clip(x, 0, 6)


# From the output, so that the input need not be kept for the way back.
relu6.defjvps(lambda dx, y, x: jnp.where((y > 0) & (y < 6), dx, jnp.zeros_like(dx)))


def _batch_norm(features, rngs):
    return nnx.BatchNorm(features, use_running_average=True, momentum=0.99, epsilon=1e-3, rngs=rngs)


def _normalized(bn, x):
    if not bn.use_running_average:
        return bn(x).astype(x.dtype)
    # In evaluation one multiply-add for each number, where bn(x) has three operations: 2 to 9 % of the network's time.
    scale = bn.scale[...] * jax.lax.rsqrt(bn.var[...] + bn.epsilon)
    shift = bn.bias[...] - bn.mean[...] * scale
    scale, shift = (v.astype(x.dtype)[None, None, None] for v in (scale, shift))
    return x * scale + shift


def _check(stage):
    if not 0 <= stage <= LAST:
        raise ValueError(f"stage is {stage}, expected 0 (the stem) to {LAST} (the last grid of activations)")


# --- weights: names and layouts of the PyTorch file -> paths and layouts of the network ---

BLOCK_LAYERS = {
    "_expand_conv": "expand", "_bn0": "expand_bn", "_depthwise_conv": "depthwise", "_bn1": "depthwise_bn",
    "_project_conv": "project", "_bn2": "project_bn",
}  # fmt: skip
PLACES = [f"stages.{stage}.{i}" for stage, (*_, count) in enumerate(STAGES) for i in range(count)]
LAYERS = {"_conv_stem": "stem", "_bn0": "stem_bn", "_conv_head": "top", "_bn1": "top_bn", "_fc": "classifier"} | {
    f"_blocks.{i}.{theirs}": f"{place}.{ours}"
    for i, place in enumerate(PLACES)
    for theirs, ours in BLOCK_LAYERS.items()
}


def entries(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays of a PyTorch EfficientNet-Lite0 under the attribute paths of ours, for `weights.fill`.

    Example:
        >>> list(entries({"_bn0.running_var": np.ones(32), "_blocks.2._bn1.bias": np.ones(144)}))
        ['stem_bn.var', 'stages.1.1.depthwise_bn.bias']
    """
    kept = {name: array for name, array in state.items() if not name.endswith("num_batches_tracked")}
    return {_path(name, array.ndim): _layout(name, array) for name, array in kept.items()}


def _path(name, ndim):
    layer, _, entry = name.rpartition(".")
    ours = {"weight": "scale" if ndim == 1 else "kernel", "running_mean": "mean", "running_var": "var"}
    return f"{LAYERS.get(layer, layer)}.{ours.get(entry, entry)}"


def _layout(name, array):
    if array.ndim < 4:
        return array.T
    array = array.transpose(2, 3, 1, 0)  # from (out, in, rows, columns)
    if "_depthwise_conv" in name:
        return array.reshape(*array.shape[:2], -1)
    return array.reshape(-1, array.shape[-1])  # a 1x1 convolution, and the stem as one of patches
