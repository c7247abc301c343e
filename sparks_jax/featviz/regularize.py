r"""Penalties of an image, subtracted from the score: `penalty=compose(total_variation, boundary, weights=(…))`.

Each is a mean, so that a weight means the same for all sizes. Of an image `(h w c)` in the range of pixels, or of
several `(n h w c)`.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from sparks_jax import images
from sparks_jax.types import Scalar

Images = Float[Array, "*n h w c"]


def l1(x: Images, *, grey: float = 0.5) -> Scalar:
    r"""Distance from grey: $\frac1n \sum_i |x_i - g|$.

    Args:
        x: The image.
        grey: $g$, the middle of the range of pixels.

    Example:
        >>> l1(jnp.array([[[0.0], [0.5]]])).item()
        0.25

    Reference:
        Olah et al. 2017, Feature visualization, Distill.
    """
    return jnp.abs(x - grey).mean()


def l2(x: Images, *, grey: float = 0.5) -> Scalar:
    r"""Squared distance from grey: $\frac1n \sum_i (x_i - g)^2$.

    Args:
        x: The image.
        grey: $g$, the middle of the range of pixels.

    Example:
        >>> l2(jnp.array([[[0.0], [0.5]]])).item()
        0.125

    Reference:
        Simonyan et al. 2014, Deep inside convolutional networks, arXiv:1312.6034.
    """
    return jnp.square(x - grey).mean()


def l_infinity(x: Images, *, grey: float = 0.5) -> Scalar:
    r"""The pixel furthest from grey: $\max_i |x_i - g|$.

    Args:
        x: The image.
        grey: $g$, the middle of the range of pixels.

    Example:
        >>> l_infinity(jnp.array([[[0.0], [0.75]]])).item()
        0.5

    Reference:
        Fel et al. 2022, Xplique: a deep learning explainability toolbox, arXiv:2206.04394.
    """
    return jnp.abs(x - grey).max()


def total_variation(x: Images) -> Scalar:
    r"""Differences of neighbours: the mean of $|x_{i+1,j} - x_{ij}|$ plus that of $|x_{i,j+1} - x_{ij}|$.

    Args:
        x: The image.

    Example:
        >>> total_variation(jnp.array([[[0.0], [1.0]], [[0.0], [1.0]]])).item()
        1.0

    Reference:
        Mahendran & Vedaldi 2015, Understanding deep image representations by inverting them, arXiv:1412.0035.
    """
    mean = lambda d: d.mean() if d.size else jnp.zeros(())
    return mean(jnp.abs(x[..., 1:, :, :] - x[..., :-1, :, :])) + mean(jnp.abs(x[..., 1:, :] - x[..., :-1, :]))


def roughness(x: Images, *, sigma: float = 1.0) -> Scalar:
    r"""What a blur takes away, with the blurred image held still: following its gradient blurs the image at each step.

    $\frac1n \|x - \mathrm{sg}(G_\sigma * x)\|^2$

    Args:
        x: The image.
        sigma: Of the blur in pixels.

    Example:
        >>> round(roughness(jnp.ones((4, 4, 1))).item(), 6)
        0.0

    Reference:
        Olah et al. 2017, Feature visualization, Distill (frequency penalization).
    """
    flat = x.reshape(-1, *x.shape[-3:])
    blurred = jax.vmap(lambda image: images.blur(image, sigma))(flat)
    return jnp.square(flat - jax.lax.stop_gradient(blurred)).mean()


def boundary(x: Images, *, width: int = 20, grey: float = 0.5) -> Scalar:
    r"""What happens near the border: squared distance from grey of the pixels less than `width` from it.

    $\frac{1}{n} \sum_{i \in B} (x_i - g)^2$

    Args:
        x: The image.
        width: Of the border $B$ in pixels.
        grey: $g$, the middle of the range of pixels.

    Example:
        >>> boundary(jnp.ones((4, 4, 1)), width=1).item()  # 12 of 16 pixels, 0.25 each
        0.1875

    Reference:
        Olah et al. 2017, Feature visualization, Distill.
    """
    near = lambda n: jnp.minimum(jnp.arange(n), jnp.arange(n)[::-1]) < width
    border = near(x.shape[-3])[:, None, None] | near(x.shape[-2])[None, :, None]
    return jnp.where(border.reshape((1,) * (x.ndim - 3) + border.shape), jnp.square(x - grey), 0).mean()
