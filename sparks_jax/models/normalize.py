"""A network that takes RGB in [0, 1], whatever its inner network was trained on."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from sparks_jax.models.inputs import check_images

# Channel statistics of the ImageNet training images, RGB in [0, 1]: those of torchvision and most of timm.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Normalized(nnx.Module):
    r"""A model after $x \mapsto (x - \mu) / \sigma$, per channel.

    `features` and `head` are those of the inner model, where it has them; further arguments are passed on.

    Example:
        >>> model = Normalized(lambda x: x[:, 0, 0], mean=(0.5, 0.5, 0.5), std=(0.25, 0.5, 1.0))
        >>> model(jnp.ones((1, 1, 1, 3))).tolist()
        [[2.0, 1.0, 0.5]]
    """

    def __init__(self, model: Any, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD):
        """Wrap a model; `mean` and `std` are in the units of the images, [0, 1]."""
        self.model = model
        self.mean, self.std = tuple(map(float, mean)), tuple(map(float, std))

    def __call__(self, images: Float[Array, "b h w c"]) -> Array:
        """The inner model of the normalised images."""
        return self.model(self._normalize(images))

    def features(self, images: Float[Array, "b h w c"], *args: Any, **kwargs: Any) -> Array:
        """The inner model's activations on the normalised images."""
        return self.model.features(self._normalize(images), *args, **kwargs)

    def head(self, activations: Array, *args: Any, **kwargs: Any) -> Array:
        """The inner model's logits from its activations."""
        return self.model.head(activations, *args, **kwargs)

    def _normalize(self, images):
        channels = images.shape[-1] if len(self.mean) == 1 else len(self.mean)  # one mean is that of all
        check_images(images, channels, "Normalized")
        mean, std = (jnp.asarray(value, images.dtype)[None, None, None] for value in (self.mean, self.std))
        return (images - mean) / std
