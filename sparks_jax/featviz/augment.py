r"""Random views of an image: what holds for all of them is not noise.

A view is a function `(image, *, key, progress) -> image`; the functions here make them, `chain` joins them.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from sparks_jax import images
from sparks_jax.featviz.crops import View, Viewed, crop
from sparks_jax.types import Image


def noise(normal: float = 0.0, uniform: float = 0.0) -> View:
    r"""Noise on every pixel: $x + \epsilon + u$, $\epsilon \sim \mathcal{N}(0, s^2)$, $u \sim \mathcal{U}[-a, a]$.

    Args:
        normal: $s$, in units of the pixels.
        uniform: $a$.

    Example:
        >>> noise()(jnp.ones((1, 1, 1)), key=jax.random.key(0), progress=0.0).item()
        1.0

    Reference:
        Fel et al. 2023, arXiv:2306.06805.
    """

    def view(x: Image, *, key: PRNGKeyArray, progress: Any) -> Viewed:
        key_normal, key_uniform = jax.random.split(key)
        if normal:
            x = x + normal * 2**0.5 * jax.scipy.special.erfinv(_draws(key_normal, x.shape, x.dtype))
        return x + uniform * _draws(key_uniform, x.shape, x.dtype) if uniform else x

    return view


def pad(margin: int, value: float = 0.5) -> View:
    """A border of one colour.

    Args:
        margin: Its width in pixels.
        value: Of its pixels: the middle of their range, as a rule.

    Example:
        >>> pad(1)(jnp.ones((1, 1, 1)), key=jax.random.key(0), progress=0.0).sum().item()  # 1 and 8 of 0.5
        5.0

    Reference:
        Olah et al. 2017, Feature visualization, Distill.
    """
    edges = ((margin, margin), (margin, margin), (0, 0))
    return lambda x, *, key, progress: jnp.pad(x, edges, constant_values=value)


def jitter(shift: int) -> View:
    """A crop smaller by `shift` pixels, at a random place.

    Args:
        shift: Pixels lost on each side together.

    Example:
        >>> jitter(2)(jnp.ones((4, 4, 1)), key=jax.random.key(0), progress=0.0).shape
        (2, 2, 1)

    Reference:
        Mordvintsev et al. 2015, Inceptionism. Olah et al. 2017, Feature visualization, Distill.
    """

    def view(x: Image, *, key: PRNGKeyArray, progress: Any) -> Viewed:
        size = (x.shape[0] - shift, x.shape[1] - shift)
        if min(size) < 1:
            raise ValueError(f"jitter: nothing is left of an image of {x.shape[0]} × {x.shape[1]} after {shift} pixels")
        top, left = jax.random.randint(key, (2,), 0, shift + 1)
        return jax.lax.dynamic_slice(x, (top, left, 0), (*size, x.shape[2]))

    return view


def rescale(low: float, high: float) -> View:
    r"""A zoom about the centre by $s \sim \mathcal{U}[l, u]$, in an array of the same size.

    Args:
        low: $l$; below 1, what comes in from outside has the colour of the border.
        high: $u$.

    Example:
        >>> x = jnp.arange(4.0).reshape(1, 4, 1)
        >>> rescale(2.0, 2.0)(x, key=jax.random.key(0), progress=0.0).ravel().tolist()
        [0.75, 1.25, 1.75, 2.25]

    Reference:
        Olah et al. 2017, Feature visualization, Distill.
    """

    def view(x: Image, *, key: PRNGKeyArray, progress: Any) -> Viewed:
        whole = jnp.array(x.shape[:2], jnp.float32)
        extent = whole / jax.random.uniform(key, (), minval=low, maxval=high)
        return crop(x, jnp.concatenate([(whole - extent) / 2, extent]), (x.shape[0], x.shape[1]))

    return view


def rotate(degrees: float) -> View:
    r"""A rotation about the centre by $\theta \sim \mathcal{U}[-d, d]$, interpolated linearly.

    Args:
        degrees: $d$; what comes in from outside has the nearest colour.

    Example:
        >>> rotate(10.0)(jnp.ones((4, 4, 1)), key=jax.random.key(0), progress=0.0).min().round(4).item()
        1.0

    Reference:
        Olah et al. 2017, Feature visualization, Distill.
    """

    def view(x: Image, *, key: PRNGKeyArray, progress: Any) -> Viewed:
        angle = jnp.deg2rad(jax.random.uniform(key, (), minval=-degrees, maxval=degrees))
        return turned(x, angle)

    return view


def turned(x: Image, angle: float | Float[Array, ""]) -> Image:
    r"""An image rotated about its centre.

    $y(p) = x(c + R_\theta (p - c))$, interpolated linearly; outside, the nearest colour

    Args:
        x: The image.
        angle: $\theta$ in radians; a positive one turns counter-clockwise as seen.

    Example:
        >>> x = jnp.array([[1.0, 2.0], [3.0, 4.0]])[..., None]
        >>> [round(t) for t in turned(x, jnp.pi / 2).ravel().tolist()]
        [2, 4, 1, 3]

    Reference:
        Keys 1981, Cubic convolution interpolation for digital image processing (section I).
    """
    height, width, _ = x.shape
    down, right = jnp.meshgrid(*(jnp.arange(n) - (n - 1) / 2 for n in (height, width)), indexing="ij")
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    y = jnp.clip(cos * down + sin * right + (height - 1) / 2, 0, height - 1)
    z = jnp.clip(cos * right - sin * down + (width - 1) / 2, 0, width - 1)
    top, left = (jnp.floor(t).astype(jnp.int32) for t in (y, z))
    bottom, beside = jnp.minimum(top + 1, height - 1), jnp.minimum(left + 1, width - 1)
    v, u = (y - top)[..., None], (z - left)[..., None]
    upper = (1 - u) * x[top, left] + u * x[top, beside]
    return (1 - v) * upper + v * ((1 - u) * x[bottom, left] + u * x[bottom, beside])


def blur(low: float, high: float) -> View:
    r"""A Gaussian blur of deviation $\sigma \sim \mathcal{U}[l, u]$ pixels.

    Args:
        low: $l$.
        high: $u$.

    Example:
        >>> blur(1.0, 1.1)(jnp.ones((4, 4, 1)), key=jax.random.key(0), progress=0.0).min().round(4).item()
        1.0

    Reference:
        Fel et al. 2022, Xplique: a deep learning explainability toolbox, arXiv:2206.04394.
    """
    return lambda x, *, key, progress: images.blur(x, jax.random.uniform(key, (), minval=low, maxval=high))


def flip() -> View:
    """Left and right exchanged, or not, with equal chance.

    Example:
        >>> x = jnp.arange(2.0).reshape(1, 2, 1)
        >>> flip()(x, key=jax.random.key(0), progress=0.0).sum().item()
        1.0

    Reference:
        Fel et al. 2022, Xplique: a deep learning explainability toolbox, arXiv:2206.04394.
    """
    return lambda x, *, key, progress: jnp.where(jax.random.bernoulli(key), x[:, ::-1], x)


def resized(size: tuple[int, int]) -> View:
    """The whole image at the size that the model takes.

    Args:
        size: Height and width.

    Example:
        >>> resized((2, 2))(jnp.ones((4, 4, 1)), key=jax.random.key(0), progress=0.0).shape
        (2, 2, 1)

    Reference:
        Keys 1981, Cubic convolution interpolation for digital image processing (section I).
    """

    def view(x: Image, *, key: PRNGKeyArray, progress: Any) -> Viewed:
        if x.shape[:2] == tuple(size):
            return x
        return crop(x, jnp.array([0, 0, *x.shape[:2]], jnp.float32), size)

    return view


def chain(*views: View) -> View:
    """Views of views, first to last, with independent keys.

    Args:
        *views: Each `(image, *, key, progress) -> image`.

    Example:
        >>> chain(pad(2), jitter(4))(jnp.ones((4, 4, 1)), key=jax.random.key(0), progress=0.0).shape
        (4, 4, 1)

    Reference:
        Olah et al. 2017, Feature visualization, Distill.
    """

    def view(x: Image, *, key: PRNGKeyArray, progress: Any) -> Viewed:
        for one, each in zip(views, jax.random.split(key, max(len(views), 1)), strict=False):
            x = one(x, key=each, progress=progress)
        return x

    return view


def lucid_transforms(size: int = 224, *, grey: float = 0.5) -> View:
    """Lucid's views: pad 12, jitter 8, scale 0.9 to 1.1, rotate by up to 10 degrees, jitter 4; in proportion to 224.

    Args:
        size: The shorter side of the canvas in pixels.
        grey: The middle of the range of pixels.

    Example:
        >>> lucid_transforms(224)(jnp.ones((224, 224, 1)), key=jax.random.key(0), progress=0.0).shape
        (236, 236, 1)

    Reference:
        Olah et al. 2017, Feature visualization, Distill.
    """
    margin, coarse, fine = (max(1, round(n * size / 224)) for n in (12, 8, 4))
    return chain(pad(margin, grey), jitter(coarse), rescale(0.9, 1.1), rotate(10.0), jitter(fine))


def xplique_transforms(size: int = 224, *, grey: float = 0.5) -> View:
    """Xplique's views, in units of a sixteenth of the side: what is left is 6 units wide.

    Args:
        size: The shorter side of the canvas in pixels, at least 16.
        grey: The middle of the range of pixels.

    Example:
        >>> xplique_transforms(32)(jnp.ones((32, 32, 1)), key=jax.random.key(0), progress=0.0).shape
        (12, 12, 1)

    Reference:
        Fel et al. 2022, Xplique: a deep learning explainability toolbox, arXiv:2206.04394.
    """
    unit = max(1, size // 16)
    jitters = [jitter(n * unit) for n in (2, 2, 4, 4, 4)]
    return chain(pad(4 * unit, grey), *jitters, rescale(0.92, 0.96), blur(1.0, 1.1), jitter(unit), jitter(unit), flip())


def _draws(key: PRNGKeyArray, shape: tuple[int, ...], dtype: Any) -> Array:
    """Uniform in (-1, 1) at 65536 levels: two of each random word, in a third of the time of `random.uniform`."""
    count = math.prod(shape)
    words = jax.random.bits(key, (-(-count // 2),))
    halves = jnp.concatenate([words & 0xFFFF, words >> 16])[:count].reshape(shape)
    return ((halves.astype(jnp.float32) + 0.5) / 2**15 - 1).astype(dtype)
