r"""Networks with the Lipschitz constant 1: residual, VGG-like, and a small one for images of CIFAR's size.

Each is a list of stages and a linear head, `head(features(x, s), s) == model(x)` at every stage, takes images in [0, 1]
as they are, and certifies itself. `fold` them before explaining.
"""

from collections.abc import Sequence

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from sparks_jax.lipschitz.activations import GroupSort
from sparks_jax.lipschitz.bounds import One, lipschitz_constant
from sparks_jax.lipschitz.centering import BatchCentering
from sparks_jax.lipschitz.convolve import PaddingName
from sparks_jax.lipschitz.layers import OrthogonalConv, OrthogonalLinear, UnitNormLinear
from sparks_jax.lipschitz.norms import product
from sparks_jax.lipschitz.pooling import Flatten, InvertibleDownsample, L2NormPool
from sparks_jax.lipschitz.residual import LipschitzResidual


class LipschitzNet(nnx.Module):
    r"""Stages one after the other and a linear head.

    Reference:
        Serrurier et al. 2023, On the explainable properties of 1-Lipschitz neural networks: an optimal transport
        perspective, arXiv:2206.06854.
    """

    def __init__(self, stages: Sequence[nnx.Module], neck: nnx.Module, fc: nnx.Module):
        """Join stages, what makes rows of their output, and the head."""
        # Sequential itself is no annotation that beartype takes with flax 0.12.12.
        self.stages, self.neck, self.fc = nnx.List(list(stages)), neck, fc

    def __call__(self, images: Float[Array, "b h w c"]) -> Float[Array, "b m"]:
        """Logits of a batch of images in [0, 1]."""
        return self.head(self.features(images))

    def features(self, images: Float[Array, "b h w c"], stage: int | None = None) -> Float[Array, "b gh gw d"]:
        """Activations after a stage, the last by default; 0 is the images."""
        x = images
        for part in list(self.stages)[: self._index(stage)]:
            x = part(x)
        return x

    def head(self, activations: Float[Array, "b gh gw d"], stage: int | None = None) -> Float[Array, "b m"]:
        """Logits from the activations after a stage, the last by default."""
        x = activations
        for part in list(self.stages)[self._index(stage) :]:
            x = part(x)
        return self.fc(self.neck(x))

    def trunk(self) -> nnx.Module:
        """All that is before the linear head."""
        return nnx.Sequential(*self.stages, self.neck)

    def lipschitz(self) -> Float[Array, ""]:
        """The product of the bounds of its parts."""
        return product([lipschitz_constant(part) for part in (*self.stages, self.neck, self.fc)])

    def _index(self, stage: int | None) -> int:
        last = len(self.stages)
        if stage is not None and stage not in range(last + 1):
            raise ValueError(f"this network has stages 1 to {last}, and 0 for its input: got stage={stage}")
        return last if stage is None else stage


class PadChannels(One):
    """Channels of zeros at the end: an isometry.

    Example:
        >>> PadChannels(3)(jnp.ones((1, 1, 1, 2))).ravel().tolist()
        [1.0, 1.0, 0.0]
    """

    def __init__(self, features: int):
        """Fill up to so many channels."""
        self.features = features

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w d"]:
        """Apply it."""
        return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, self.features - x.shape[-1])))


def _conv(inputs, outputs, size, rngs, *, stride=1, padding: PaddingName = "circular", centred=True, sort=True):
    """A convolution, centred, and sorted."""
    layers = [OrthogonalConv(inputs, outputs, size=size, stride=stride, padding=padding, rngs=rngs)]
    layers += [BatchCentering(outputs, use_bias=False)] * centred
    return [*layers, GroupSort()] if sort else layers


def _net(stages, neck, features, num_classes, rngs) -> LipschitzNet:
    """With a head that is row-orthogonal, or of unit rows where there are more classes than features."""
    head = OrthogonalLinear if features >= num_classes else UnitNormLinear
    stages = [nnx.Sequential(*layers) for layers in stages]
    return LipschitzNet(stages, nnx.Sequential(*neck), head(features, num_classes, rngs=rngs))


def otnn_resnet(
    num_classes: int = 1000,
    *,
    widths: Sequence[int] = (64, 128, 256, 512),
    blocks: Sequence[int] = (3, 4, 6, 3),
    patch: int = 4,
    inputs: int = 3,
    size: int = 3,
    padding: PaddingName = "circular",
    rngs: nnx.Rngs,
) -> LipschitzNet:
    r"""A residual network whose shortcuts are convex mixtures, after the ResNet-50 of the OTNN paper.

    Patches of pixels as channels and an orthogonal map; stages of blocks $\tfrac12 (x + g(x))$, g two orthogonal
    convolutions with centring and sorting; between them a convolution of stride 2; at the end the norm over the image
    and a linear map. Each stage but the first halves the grid.

    Args:
        num_classes: Outputs.
        widths: Features of each stage.
        blocks: Blocks of each stage.
        patch: Side of the patches.
        inputs: Channels of the images.
        size: Side of the kernels.
        padding: "circular" (orthogonal) or "zeros".
        rngs: Source of the parameters.

    Example:
        >>> from flax import nnx
        >>> model = jax.eval_shape(lambda: otnn_resnet(10, widths=(8, 16), blocks=(1, 1), patch=2, rngs=nnx.Rngs(0)))
        >>> jax.eval_shape(lambda model, x: model(x), model, jnp.zeros((2, 8, 8, 3))).shape
        (2, 10)

    Reference:
        Serrurier et al. 2023, arXiv:2206.06854.
    """
    stages, channels = [], inputs * patch**2
    for i, (width, number) in enumerate(zip(widths, blocks, strict=True)):
        layers = []
        if i == 0:
            layers += [InvertibleDownsample(patch)] + _conv(channels, width, 1, rngs, padding=padding)
        else:
            layers += _conv(channels, width, size, rngs, stride=2, padding=padding)
        for _ in range(number):
            inner = _conv(width, width, size, rngs, padding=padding)
            inner += _conv(width, width, size, rngs, padding=padding, sort=False)
            layers += [LipschitzResidual(nnx.Sequential(*inner)), GroupSort()]
        stages.append(layers)
        channels = width
    return _net(stages, [L2NormPool(), Flatten()], channels, num_classes, rngs)


def otnn_vgg(
    num_classes: int = 10,
    *,
    widths: Sequence[int] = (32, 64, 128),
    convs: int = 2,
    inputs: int = 3,
    size: int = 3,
    padding: PaddingName = "circular",
    rngs: nnx.Rngs,
) -> LipschitzNet:
    r"""A plain network as the OTNN paper uses on small images: convolutions and sorts, then norms of 2 by 2 windows.

    Args:
        num_classes: Outputs.
        widths: Features of each stage; each halves the grid at its end.
        convs: Convolutions of each stage.
        inputs: Channels of the images.
        size: Side of the kernels.
        padding: "circular" (orthogonal) or "zeros".
        rngs: Source of the parameters.

    Example:
        >>> from flax import nnx
        >>> model = jax.eval_shape(lambda: otnn_vgg(10, widths=(4, 8), inputs=1, rngs=nnx.Rngs(0)))
        >>> jax.eval_shape(lambda model, x: model.features(x), model, jnp.zeros((2, 8, 8, 1))).shape
        (2, 2, 2, 8)

    Reference:
        Serrurier et al. 2023, arXiv:2206.06854.
    """
    stages, channels = [], inputs
    for width in widths:
        layers = []
        for _ in range(convs):
            layers += _conv(channels, width, size, rngs, padding=padding, centred=False)
            channels = width
        stages.append([*layers, L2NormPool(2)])
    return _net(stages, [L2NormPool(), Flatten()], channels, num_classes, rngs)


def lipschitz_cifar(
    num_classes: int = 10,
    *,
    side: int = 32,
    widths: Sequence[int] = (32, 64, 128, 256),
    convs: int = 2,
    inputs: int = 3,
    hidden: int | None = 256,
    padding: PaddingName = "circular",
    rngs: nnx.Rngs,
) -> LipschitzNet:
    r"""A small gradient-norm preserving network for images of one size: all maps orthogonal, nothing pooled.

    Stages of orthogonal 3x3 convolutions and sorts; each but the first begins with one of stride 2, so that the grid is
    halved and nothing is lost; the last grid is read whole by orthogonal linear maps.

    Args:
        num_classes: Outputs.
        side: Of the images; a multiple of 2 to the number of stages less one.
        widths: Features of each stage, even.
        convs: Convolutions of each stage.
        inputs: Channels of the images.
        hidden: Features before the last linear map; None for none.
        padding: "circular" (orthogonal) or "zeros".
        rngs: Source of the parameters.

    Raises:
        ValueError: If the side is not such a multiple.

    Example:
        >>> from flax import nnx
        >>> model = jax.eval_shape(lambda: lipschitz_cifar(10, side=8, widths=(4, 8), hidden=16, rngs=nnx.Rngs(0)))
        >>> jax.eval_shape(lambda model, x: model.features(x), model, jnp.zeros((2, 8, 8, 3))).shape
        (2, 4, 4, 8)

    Reference:
        Prach, Brau, Buttazzo & Lampert 2024, 1-Lipschitz layers compared: memory, speed, and certifiable robustness,
        arXiv:2311.16833.
    """
    halvings = len(widths) - 1
    if side % 2**halvings:
        raise ValueError(f"lipschitz_cifar: {len(widths)} stages need a side divisible by {2**halvings}, not {side}")
    stages, channels = [], inputs
    for i, width in enumerate(widths):
        layers = []
        for j in range(convs):
            stride = 2 if i > 0 and j == 0 else 1
            layers += _conv(channels, width, 3, rngs, stride=stride, padding=padding, centred=False)
            channels = width
        stages.append(layers)
    features, neck = channels * (side // 2**halvings) ** 2, [Flatten()]
    if hidden is not None:
        neck += [OrthogonalLinear(features, hidden, rngs=rngs), GroupSort()]
        features = hidden
    return _net(stages, neck, features, num_classes, rngs)
