r"""Real images as half spectra, exact in the bins that are their own mirror, and colours as independent channels.

A real image has $F(-k) = \overline{F(k)}$. The half spectrum keeps the columns $0 \le k_x \le w/2$; column 0,
and column $w/2$ where $w$ is even, still hold both a bin and its mirror, and up to four bins that are their
own. A phase chosen freely there breaks the symmetry, and an inverse transform would silently average the
magnitudes away.
"""

from functools import reduce
from operator import add

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float

from sparks_jax.types import Image

# Square root of ImageNet's colour covariance, measured for "Feature visualization" (Olah, Mordvintsev and Schubert,
# 2017; Lucid, Apache-2.0): one axis per row (brightness, red - blue, green - magenta), brightness scaled to norm 1.
IMAGENET_COLOURS = np.array([[0.26, 0.27, 0.27], [0.09, 0.0, -0.09], [0.02, -0.05, 0.03]]) / 0.4619
Colours = Float[Array, "c c"] | Float[np.ndarray, "c c"]


def spectrum(image: Image) -> Complex[Array, "h w_half c"]:
    r"""Orthonormal half spectrum of each channel.

    $F(k) = (hw)^{-1/2} \sum_x I(x)\, e^{-2 \pi i \langle k, x \rangle}$, $\quad 0 \le k_x \le w/2$

    Example:
        >>> spectrum(jnp.ones((2, 2, 1)))[:, :, 0].real
        Array([[2., 0.],
               [0., 0.]], dtype=float32)

    Reference:
        Cooley & Tukey 1965, An algorithm for the machine calculation of complex Fourier series.
    """
    return jnp.fft.rfft2(image, axes=(0, 1), norm="ortho")


def image(spectrum: Complex[Array, "h w_half c"], size: tuple[int, int]) -> Image:
    """The real image of a half spectrum: the inverse of `spectrum`.

    Args:
        spectrum: Half spectrum; only its Hermitian part counts, where it holds a bin and its mirror.
        size: Height and width; the width tells an even from an odd image with the same half.

    Raises:
        ValueError: If the spectrum is not that of an image of this size.

    Example:
        >>> image(spectrum(jnp.array([[[1.0], [2.0], [4.0]]])), (1, 3)).round(4).ravel()
        Array([1., 2., 4.], dtype=float32)

    Reference:
        Cooley & Tukey 1965, An algorithm for the machine calculation of complex Fourier series.
    """
    _check(spectrum.shape[:2], size)
    return jnp.fft.irfft2(spectrum, s=size, axes=(0, 1), norm="ortho")


def phase_to_image(
    magnitude: Float[Array, "h w_half c"], phase: Float[Array, "h w_half c"], size: tuple[int, int]
) -> Image:
    r"""The real image with a given magnitude spectrum and free phases: what MACO optimises.

    $I = F^{-1}[r\, e^{i \varphi}]$ with $\varphi(-k) = -\varphi(k)$ and $r(-k) = r(k)$ made to hold

    Where the half spectrum holds a bin and its mirror, the one with $k_y > 0$ decides and the other follows,
    so that uniform phases stay uniform (averaging the two would align them); bins that are their own mirror,
    the mean among them, have phase 0. Any magnitude of a real image is thus kept exactly, and the gradient is
    zero for phases that have no say.

    Args:
        magnitude: As the modulus of `spectrum`, non-negative.
        phase: In radians.
        size: Height and width.

    Raises:
        ValueError: If the magnitude is not that of an image of this size.

    Example:
        >>> grey = phase_to_image(jnp.zeros((4, 3, 1)).at[0, 0].set(2.0), jnp.ones((4, 3, 1)), (4, 4))
        >>> float(grey.min()), float(grey.max())
        (0.5, 0.5)

    Reference:
        Fel et al., 2023, Unlocking feature visualization for deeper networks with magnitude constrained
        optimization, arXiv:2306.06805.
    """
    _check(magnitude.shape[:2], size)
    columns, sign = _shared(size)
    mirrored = lambda x: jnp.where(sign < 0, jnp.roll(x[::-1], 1, axis=0), x)
    # Only these columns are touched: a rule over the whole half spectrum would be computed anew for each moment of the
    # optimizer that its gradient enters.
    magnitude = magnitude.at[:, columns].set(mirrored(magnitude[:, columns]))
    phase = phase.at[:, columns].set(sign * mirrored(phase[:, columns]))
    return image(jax.lax.complex(magnitude * jnp.cos(phase), magnitude * jnp.sin(phase)), size)


def frequencies(size: tuple[int, int]) -> Float[Array, "h w_half"]:
    r"""Radial frequency of each bin, $\sqrt{f_x^2 + f_y^2}$, in cycles per pixel.

    Example:
        >>> frequencies((2, 4)).round(4)
        Array([[0.    , 0.25  , 0.5   ],
               [0.5   , 0.559 , 0.7071]], dtype=float32)

    Reference:
        Cooley & Tukey 1965, An algorithm for the machine calculation of complex Fourier series.
    """
    return jnp.asarray(np.hypot(np.fft.fftfreq(size[0])[:, None], np.fft.rfftfreq(size[1])[None]), jnp.float32)


def natural_envelope(size: tuple[int, int], *, decay: float = 1.0) -> Float[Array, "h w_half"]:
    r"""The magnitude spectrum of natural images, up to scale: $f^{-\mathrm{decay}}$.

    The mean, at $f = 0$, is treated as the lowest frequency that the image holds, $1 / \max(h, w)$.

    Example:
        >>> natural_envelope((1, 4))
        Array([[4., 4., 2.]], dtype=float32)

    Reference:
        Field, 1987, Relations between the statistics of natural images and the response properties of
        cortical cells.
    """
    return jnp.maximum(frequencies(size), 1 / max(size)) ** -decay


def colour_matrix(images: Float[Array, "b h w c"]) -> Float[Array, "c c"]:
    r"""The symmetric square root $\Sigma^{1/2}$ of the covariance of pixel colours.

    Example:
        >>> colour_matrix(jnp.array([[[[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]]]])).round(4)
        Array([[2.1213, 0.    ],
               [0.    , 0.7071]], dtype=float32)

    Reference:
        Olah et al. 2017, Feature visualization, Distill (images in decorrelated colours).
    """
    pixels = images.reshape(-1, images.shape[-1])
    pixels = pixels - pixels.mean(axis=0, keepdims=True)
    covariance = jnp.matmul(pixels.T, pixels, precision="highest") / len(pixels)
    variances, axes = jnp.linalg.eigh(covariance)
    return jnp.matmul(axes * jnp.sqrt(jnp.maximum(variances, 0))[None], axes.T, precision="highest")


def recorrelate(image: Image, colours: Colours = IMAGENET_COLOURS) -> Image:
    r"""Independent channels of unit variance to colours: $I\, M$, of covariance $M^\top M$.

    Args:
        image: Image with independent channels.
        colours: From `colour_matrix`; by default that of ImageNet.

    Example:
        >>> recorrelate(jnp.ones((1, 1, 2)), jnp.array([[1.0, 1.0], [0.0, 1.0]]))
        Array([[[1., 2.]]], dtype=float32)

    Reference:
        Olah et al. 2017, Feature visualization, Distill (images in decorrelated colours).
    """
    return _mixed(image, jnp.asarray(colours, image.dtype))


def decorrelate(image: Image, colours: Colours = IMAGENET_COLOURS) -> Image:
    r"""Colours to independent channels, $I\, M^{-1}$: the inverse of `recorrelate`.

    Args:
        image: Image in colours.
        colours: From `colour_matrix`; by default that of ImageNet.

    Example:
        >>> decorrelate(jnp.array([[[1.0, 2.0]]]), jnp.array([[1.0, 1.0], [0.0, 1.0]]))
        Array([[[1., 1.]]], dtype=float32)

    Reference:
        Olah et al. 2017, Feature visualization, Distill (images in decorrelated colours).
    """
    return _mixed(image, jnp.linalg.inv(jnp.asarray(colours, image.dtype)))


def _mixed(image: Image, matrix: Float[Array, "c c"]) -> Image:
    """`image @ matrix`, written out for a few channels: XLA:CPU takes ten times as long for so thin a product."""
    if len(matrix) > 4:
        return jnp.matmul(image, matrix, precision="highest")
    parts = [image[..., i] for i in range(len(matrix))]  # once, so that the gradient puts each back once
    columns = [reduce(add, (part * matrix[i, j] for i, part in enumerate(parts))) for j in range(len(matrix))]
    return jnp.stack(columns, -1)


def _shared(size: tuple[int, int]) -> tuple[np.ndarray, Float[np.ndarray, "h 1 1"]]:
    """The columns that hold bins and their mirrors, and how a phase enters there.

    1 freely, 0 where a bin is its own mirror, -1 where its mirror decides.
    """
    height, width = size
    row = np.arange(height)
    sign = np.where(2 * row > height, -1, np.where((row == 0) | (2 * row == height), 0, 1))
    return np.array([0] if width % 2 else [0, width // 2]), sign.astype(np.float32)[:, None, None]


def _check(half: tuple[int, ...], size: tuple[int, int]) -> None:
    expected = (size[0], size[1] // 2 + 1)
    if tuple(half) != expected:
        raise ValueError(f"half spectrum has {half[0]} by {half[1]} bins, expected {expected} for size {size}")
