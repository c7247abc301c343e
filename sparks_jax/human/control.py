"""A map for the control group: it shows something, and knows nothing of the model."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from sparks_jax.images import blur, for_images
from sparks_jax.types import Heatmap, Image


@for_images
def bottom_up(x: Image, *, sigma: float = 0.04) -> Heatmap:
    r"""Where an image itself draws the eye: what its spectrum has beyond its smooth trend.

    $S = G_\sigma * \sum_c |\mathcal{F}^{-1} e^{R_c + i \angle \mathcal{F} x_c}|^2$ with
    $R_c = \log|\mathcal{F} x_c| - h * \log|\mathcal{F} x_c|$, $h$ the mean over 3 × 3 frequencies

    Given to a control group it tells whether maps help by what they say of the model, or by being there at all.

    Args:
        x: The image.
        sigma: Standard deviation of the blur, in sides of the image; published: 2.5 of 64 pixels.

    Example:
        >>> x = jnp.full((32, 32, 1), 0.5).at[8:11, 20:23].set(1.0)  # one thing in an empty image
        >>> divmod(int(bottom_up(x).argmax()), 32)
        (9, 21)

    Reference:
        Hou and Zhang 2007, Saliency detection: a spectral residual approach, CVPR.
    """
    spectrum = jnp.fft.fft2(x, axes=(0, 1))
    size = jnp.abs(spectrum)
    # Frequencies without amplitude have no phase: they count as little as the rounding of the largest.
    rounding = size.max() * jnp.finfo(x.dtype).eps
    logs = jnp.log(jnp.maximum(size, jnp.where(rounding > 0, rounding, 1)))
    residual = logs - _mean_of_neighbours(logs)
    phase = spectrum / jnp.where(size > 0, size, 1)
    energy = jnp.square(jnp.abs(jnp.fft.ifft2(jnp.exp(residual) * phase, axes=(0, 1)))).sum(-1)
    return blur(energy[..., None].astype(x.dtype), sigma * max(x.shape[:2]))[..., 0]


def _mean_of_neighbours(a: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
    """Over 3 × 3, around the torus that frequencies are."""
    for axis in (0, 1):
        a = (jnp.roll(a, 1, axis) + a + jnp.roll(a, -1, axis)) / 3
    return a


def derangement(key: Array, n: int) -> Array:
    r"""For each of n maps the place of another one, no two the same: the maps of other images as a control.

    $\pi(i) = \sigma(\sigma^{-1}(i) + 1)$ for a random order $\sigma$: a cycle through all of them

    Args:
        key: Draws the order.
        n: How many, two or more.

    Raises:
        ValueError: For fewer than two.

    Example:
        >>> bool((derangement(jax.random.key(0), 9) == jnp.arange(9)).any())
        False

    Reference:
        Sattolo 1986, An algorithm to generate a random cyclic permutation.
    """
    if n < 2:
        raise ValueError(f"derangement: {n} maps, expected two or more: there is no other one to take")
    order = jax.random.permutation(key, n)
    return jnp.zeros_like(order).at[order].set(jnp.roll(order, -1))
