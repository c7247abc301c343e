"""A small residual network for small images: the blocks of ResNet-18 on a stem that keeps half of the resolution.

With its default widths it learns the glyph world (`data.glyphs`) in minutes on a CPU.
"""

from collections.abc import Sequence

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from sparks_jax.models.conv import Conv
from sparks_jax.models.inputs import check_images
from sparks_jax.models.normalize import Normalized
from sparks_jax.models.resnet import BasicBlock

WIDTHS = (16, 48, 128)


class GlyphNet(nnx.Module):
    r"""A 5x5 convolution at stride 2, one residual block for each stage, mean, linear map.

    The first block keeps the grid, the others halve it: images of 64 pixels become 32, 16 and 8 cells on a side. It
    takes normalised images (see `normalize.Normalized`), and `head(features(x, s), s) == model(x)` at every stage.

    Reference:
        He et al. 2016, Deep Residual Learning for Image Recognition, arXiv:1512.03385.
    """

    def __init__(self, num_classes: int = 10, *, widths: Sequence[int] = WIDTHS, rngs: nnx.Rngs):
        """Draw the parameters of a network with these numbers of features, one for each stage."""
        self.conv1 = Conv(3, widths[0], size=5, stride=2, rngs=rngs)
        self.bn1 = nnx.BatchNorm(widths[0], use_running_average=True, momentum=0.9, epsilon=1e-5, rngs=rngs)
        self.stages, channels = nnx.List(), widths[0]
        for i, width in enumerate(widths):
            self.stages.append(BasicBlock(channels, width, stride=min(i + 1, 2), dtype=None, rngs=rngs))
            channels = width
        self.fc = nnx.Linear(channels, num_classes, rngs=rngs)

    def __call__(self, images: Float[Array, "b h w c"]) -> Float[Array, "b m"]:
        """Logits of a batch of normalised images."""
        return self.head(self.features(images))

    def features(self, images: Float[Array, "b h w c"], stage: int | None = None) -> Float[Array, "b gh gw d"]:
        """Activations after a stage, the last by default, none negative; 0 is the stem before them."""
        check_images(images, self.conv1.kernel.shape[2], "glyphnet")
        x = nnx.relu(self.bn1(self.conv1(images)))
        for block in self.stages[: self._index(stage)]:
            x = block(x)
        return x

    def head(self, activations: Float[Array, "b gh gw d"], stage: int | None = None) -> Float[Array, "b m"]:
        """Logits from the activations after a stage, the last by default."""
        x = activations
        for block in self.stages[self._index(stage) :]:
            x = block(x)
        return self.fc(jnp.mean(x, axis=(1, 2)))

    def _index(self, stage: int | None) -> int:
        last = len(self.stages)
        if stage is not None and stage not in range(last + 1):
            raise ValueError(f"this GlyphNet has stages 1 to {last}, and 0 for its stem: got stage={stage}")
        return last if stage is None else stage


def glyph_net(num_classes: int = 10, *, widths: Sequence[int] = WIDTHS, rngs: nnx.Rngs) -> Normalized:
    """A `GlyphNet` of images in [0, 1].

    Example:
        >>> from flax import nnx
        >>> model = jax.eval_shape(lambda: glyph_net(rngs=nnx.Rngs(0)))
        >>> sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
        245562
    """
    return Normalized(GlyphNet(num_classes, widths=widths, rngs=rngs), mean=(0.5,) * 3, std=(0.25,) * 3)
