r"""What is optimised, and the image that it stands for.

A `Canvas` is two functions: parameters from a key, and the image in the range of the model's pixels. Gradient ascent
follows the geometry of the parameters: of phases alone, no step can add contrast or noise that photographs do not have.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, PRNGKeyArray

from sparks_jax import fourier
from sparks_jax.featviz.pixel_range import Range, check_range, check_size, from_pixels, to_pixels
from sparks_jax.featviz.spectra import Spectrum
from sparks_jax.fourier import IMAGENET_COLOURS, Colours
from sparks_jax.images import for_images
from sparks_jax.types import Image


class Canvas(NamedTuple):
    """A parametrisation of images.

    Attributes:
        init: From a key to parameters, any pytree.
        render: From parameters to an image `(h w c)` in the range of pixels.
        size: Height and width of the image.
        values_range: Least and greatest pixel.
    """

    init: Callable[[PRNGKeyArray], Any]
    render: Callable[[Any], Array]
    size: tuple[int, int]
    values_range: Range


def phases(
    spectrum: Spectrum, *, size: int | tuple[int, int] | None = None, values_range: Range | None = None
) -> Canvas:
    r"""Phases alone, with the magnitudes of a spectrum: the parametrisation of MACO.

    $x = \mu + F^{-1}[r\, e^{i \varphi}]$, $\varphi_0 \sim \mathcal{U}[-\pi, \pi]$

    The symmetry of real images is imposed on the phases (`fourier.phase_to_image`), so that $|F(x)| = r$ and the
    variance of $x$ are kept whatever they are: nothing has to be standardised at each step. Uniform phases start
    without the bright corner that normal ones align to.

    Args:
        spectrum: $r$ and $\mu$, and the colours.
        size: Of the canvas; the spectrum is resized to it. None for that of the spectrum.
        values_range: Least and greatest pixel that the model takes.

    Raises:
        ValueError: Without a range, or for a stack of spectra.

    Example:
        >>> canvas = phases(Spectrum.natural(8), values_range=(0, 1))
        >>> phase = canvas.init(jax.random.key(0))
        >>> phase.shape, canvas.render(phase).shape
        ((8, 5, 3), (8, 8, 3))

    Reference:
        Fel et al. 2023, Unlocking feature visualization for deeper networks with magnitude constrained optimization,
        arXiv:2306.06805.
    """
    span = check_range(values_range, "phases")
    shape = jnp.shape(getattr(spectrum, "magnitude", 0.0))
    if len(shape) != 3:
        raise ValueError(
            f"phases: spectrum is a {type(spectrum).__name__} with magnitudes of shape {shape}, expected one Spectrum: "
            "Spectrum.natural(size), Spectrum.from_images(images, values_range=…) or Spectrum.from_array(stored)"
        )
    spectrum = spectrum if size is None else spectrum.resize(size)
    half = spectrum.half

    def init(key: PRNGKeyArray) -> Float[Array, "h w_half c"]:
        return jax.random.uniform(key, half.shape, half.dtype, -np.pi, np.pi)

    def render(phase: Float[Array, "h w_half c"]) -> Image:
        x = spectrum.mean[None, None] + fourier.phase_to_image(half, phase, spectrum.size)
        return to_pixels(x, span, spectrum.colours)

    return Canvas(init, render, spectrum.size, span)


def coefficients(
    size: int | tuple[int, int],
    *,
    values_range: Range | None = None,
    decay: float = 1.0,
    deviation: float = 0.01,
    colours: Colours = IMAGENET_COLOURS,
) -> Canvas:
    r"""Fourier coefficients, magnitudes and phases, scaled like natural images.

    $x = F^{-1}[z / \max(f, f_{\min})^{d}]$, $z_0 \sim \mathcal{N}(0, s^2)$ in both parts

    Args:
        size: Side, or height and width, of the canvas.
        values_range: Least and greatest pixel that the model takes.
        decay: $d$ (Lucid 1, Xplique 0.85, Horama 1.5).
        deviation: $s$.
        colours: One row and column for each channel.

    Raises:
        ValueError: Without a range.

    Example:
        >>> canvas = coefficients(8, values_range=(0, 1))
        >>> round(canvas.render(canvas.init(jax.random.key(0))).mean().item(), 1)
        0.5

    Reference:
        Olah et al. 2017, Feature visualization, Distill.
    """
    span, size = check_range(values_range, "coefficients"), check_size(size, "coefficients")
    scale = fourier.natural_envelope(size, decay=decay)[..., None]

    def init(key: PRNGKeyArray) -> Float[Array, "2 h w_half c"]:
        return deviation * jax.random.normal(key, (2, *scale.shape[:2], len(colours)))

    def render(z: Float[Array, "2 h w_half c"]) -> Image:
        return to_pixels(fourier.image(jax.lax.complex(*(scale[None] * z)), size), span, colours)

    return Canvas(init, render, size, span)


def pixels(
    size: int | tuple[int, int],
    *,
    values_range: Range | None = None,
    deviation: float = 0.01,
    colours: Colours = IMAGENET_COLOURS,
) -> Canvas:
    r"""Pixels, each on its own: what finds high-frequency noise, and shows why the others are needed.

    $x_0 \sim \mathcal{N}(0, s^2)$

    Args:
        size: Side, or height and width, of the canvas.
        values_range: Least and greatest pixel that the model takes.
        deviation: $s$.
        colours: One row and column for each channel.

    Raises:
        ValueError: Without a range.

    Example:
        >>> canvas = pixels(8, values_range=(0, 1), colours=np.eye(1))
        >>> canvas.render(canvas.init(jax.random.key(0))).shape
        (8, 8, 1)

    Reference:
        Erhan et al. 2009, Visualizing higher-layer features of a deep network.
    """
    span, size = check_range(values_range, "pixels"), check_size(size, "pixels")
    init = lambda key: deviation * jax.random.normal(key, (*size, len(colours)))
    return Canvas(init, lambda x: to_pixels(x, span, colours), size, span)


def pyramid(
    size: int | tuple[int, int],
    *,
    values_range: Range | None = None,
    levels: int = 4,
    deviation: float = 0.1,
    colours: Colours = IMAGENET_COLOURS,
) -> Canvas:
    r"""A sum of images of halved sizes, enlarged: large structures move as fast as small ones.

    $x = \sum_{l=0}^{L-1} \mathrm{enlarge}_{2^l}(x_l)$

    Args:
        size: Side, or height and width, of the canvas.
        values_range: Least and greatest pixel that the model takes.
        levels: $L$.
        deviation: Of each level at the start.
        colours: One row and column for each channel.

    Raises:
        ValueError: Without a range.

    Example:
        >>> canvas = pyramid(8, values_range=(0, 1), levels=2)
        >>> [level.shape for level in canvas.init(jax.random.key(0))]
        [(8, 8, 3), (4, 4, 3)]

    Reference:
        Olah et al. 2017, Feature visualization, Distill. Burt & Adelson 1983, The Laplacian pyramid as a compact image
        code.
    """
    span, size = check_range(values_range, "pyramid"), check_size(size, "pyramid")
    sizes = [(-(-size[0] // 2**level), -(-size[1] // 2**level), len(colours)) for level in range(levels)]

    def init(key: PRNGKeyArray) -> tuple[Array, ...]:
        keys = jax.random.split(key, levels)
        return tuple(deviation * jax.random.normal(k, s) for k, s in zip(keys, sizes, strict=True))

    def render(layers: tuple[Array, ...]) -> Image:
        enlarged = [jax.image.resize(x, (*size, x.shape[2]), "linear", antialias=False) for x in layers]
        return to_pixels(sum(enlarged[1:], enlarged[0]), span, colours)

    return Canvas(init, render, size, span)


@for_images
def photograph(
    x: Image, *, values_range: Range | None = None, decay: float = 1.0, colours: Colours = IMAGENET_COLOURS
) -> Canvas:
    r"""Fourier coefficients that start at an image: the parametrisation of feature accentuation.

    $z_0 = \max(f, f_{\min})^{d}\, F(x)$, rendered as `coefficients`

    Args:
        x: The image, in the range.
        values_range: Least and greatest pixel that the model takes.
        decay: $d$.
        colours: One row and column for each channel.

    Raises:
        ValueError: Without a range, for pixels outside of it, or for another number of channels.

    Example:
        >>> x = jax.random.uniform(jax.random.key(0), (8, 7, 3), minval=0.1, maxval=0.9)
        >>> canvas = photograph(x, values_range=(0, 1))
        >>> jnp.abs(canvas.render(canvas.init(jax.random.key(1))) - x).max() < 1e-5
        Array(True, dtype=bool)

    Reference:
        Hamblin et al. 2024, Feature accentuation, arXiv:2402.10039.
    """
    span, size = check_range(values_range, "photograph"), (x.shape[0], x.shape[1])
    if x.shape[2] != len(colours):
        raise ValueError(f"photograph: x has {x.shape[2]} channels and colours {len(colours)}; pass colours of its own")
    if not isinstance(x, Tracer) and not span[0] <= float(x.min()) <= float(x.max()) <= span[1]:
        raise ValueError(f"photograph: x has pixels from {float(x.min())} to {float(x.max())}, values_range is {span}")
    start = fourier.spectrum(from_pixels(x, span, colours)) / fourier.natural_envelope(size, decay=decay)[..., None]
    free = coefficients(size, values_range=span, decay=decay, colours=colours)
    return free._replace(init=lambda key: jnp.stack([start.real, start.imag]))


def several(canvas: Canvas, num_images: int) -> Canvas:
    """Several images of one parametrisation, for objectives that see them together, such as diversity.

    Args:
        canvas: Of one image.
        num_images: How many; each has parameters of its own.

    Example:
        >>> canvas = several(pixels(4, values_range=(0, 1)), 2)
        >>> canvas.render(canvas.init(jax.random.key(0))).shape
        (2, 4, 4, 3)

    Reference:
        Olah et al. 2017, Feature visualization, Distill (diversity).
    """
    init = lambda key: jax.vmap(canvas.init)(jax.random.split(key, num_images))
    return canvas._replace(init=init, render=lambda many: jax.vmap(canvas.render)(many))
