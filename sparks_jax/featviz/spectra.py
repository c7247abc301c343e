r"""Magnitude spectra of natural images: what MACO keeps fixed.

A spectrum is that of the canvas, unbounded and with independent channels (`featviz.pixel_range`), not of pixels:
colours are put in afterwards, once. The mean is apart, because its magnitude has a sign: that of the average image, so
that every visualization starts from the same neutral colour.
"""

from collections.abc import Iterable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from sparks_jax import fourier, stream
from sparks_jax.featviz.pixel_range import Range, check_range, check_size, from_pixels
from sparks_jax.fourier import IMAGENET_COLOURS, Colours
from sparks_jax.types import Image

# Fitted to the spectrum of ImageNet that comes with the public MACO codes (images enlarged to 512 pixels), within
# a quarter up to 0.4 cycles per pixel.
ALPHA, ROLLOFF, GAINS = 1.36, 0.35, (1.0, 1.0, 0.85)
# Magnitudes along the axes over those along the diagonals are from 1.5 to 2.7 in the same spectrum; with random phases
# that looks woven, so none is the default.
ANISOTROPY = 1.0


class Fit(NamedTuple):
    """A spectrum in a few numbers: the arguments of `Spectrum.natural`.

    Attributes:
        alpha: Slope at low frequencies.
        rolloff: Frequency in cycles per pixel at which the magnitude has fallen by a further factor e; infinite where
            it does not fall faster than the slope.
        gains: `(c)` of the channels; the first is 1.
        anisotropy: Magnitude along the axes over that along the diagonals.
    """

    alpha: Float[Array, ""]
    rolloff: Float[Array, ""]
    gains: Float[Array, " c"]
    anisotropy: Float[Array, ""]


class Spectrum(NamedTuple):
    """Magnitudes of the orthonormal Fourier transform of a canvas, all frequencies, and what is needed to colour it.

    Attributes:
        magnitude: `(h w c)` as the modulus of `jnp.fft.fft2(..., norm="ortho")`; 0 at the mean.
        mean: `(c)` the mean of the canvas.
        colours: `(c c)` from `fourier.colour_matrix`: what the channels are recorrelated with.
    """

    magnitude: Float[Array, "*stack h w c"]
    mean: Float[Array, "*stack c"]
    colours: Float[Array, "*stack c c"]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the canvas."""
        return self.magnitude.shape[-3], self.magnitude.shape[-2]

    @property
    def half(self) -> Float[Array, "*stack h w_half c"]:
        """The magnitudes of `fourier.spectrum`."""
        return self.magnitude[..., : self.size[1] // 2 + 1, :]

    @property
    def contrast(self) -> Float[Array, "*stack"]:
        """Standard deviation of the canvas over pixels and channels: the same for all phases, by Parseval."""
        return jnp.sqrt(jnp.square(self.magnitude).mean((-3, -2, -1)))

    @staticmethod
    def natural(
        size: int | tuple[int, int],
        *,
        alpha: Any = ALPHA,
        rolloff: Any = ROLLOFF,
        gains: Any = GAINS,
        anisotropy: Any = ANISOTROPY,
        contrast: Any = 1.0,
        colours: Colours | None = None,
    ) -> "Spectrum":
        r"""The spectrum of natural images by formula, for which no data is needed.

        $r_c(f) \propto g_c\, f^{-\alpha} e^{-(f/\rho)^2} a^{\cos(4 \theta) / 2}$

        Args:
            size: Side, or height and width, of the canvas in pixels.
            alpha: $\alpha$; the default and those below are fitted to ImageNet.
            rolloff: $\rho$ in cycles per pixel.
            gains: $g_c$, one for each channel: `(1.0,)` for grey images.
            anisotropy: $a$, along the axes over along the diagonals; 1 for none.
            contrast: Standard deviation of the canvas, before the sigmoid.
            colours: One row and column for each channel; None for ImageNet's with 3 channels, else independent.

        Example:
            >>> r = Spectrum.natural(8, alpha=1.0, rolloff=jnp.inf, anisotropy=1.0)
            >>> round((r.half[0, 1, 0] / r.half[0, 4, 0]).item(), 4), r.contrast.round(4).item()
            (4.0, 1.0)

        Reference:
            Field 1987, Relations between the statistics of natural images and the response properties of cortical
            cells. Fel et al. 2023, arXiv:2306.06805.
        """
        gains = jnp.asarray(gains, jnp.float32)
        radius, angle = _polar(check_size(size, "natural"))
        away = jnp.where(radius > 0, radius, 1)
        shape = away**-alpha * jnp.exp(-((away / rolloff) ** 2)) * anisotropy ** (jnp.cos(4 * angle) / 2)
        magnitude = jnp.where(radius > 0, shape, 0)[..., None] * gains[None, None]
        return _with_contrast(magnitude, jnp.zeros_like(gains), _colours(colours, len(gains)), contrast)

    @staticmethod
    def from_images(
        images: Float[Any, "n h w c"] | Iterable[Float[Any, "..."]],
        *,
        values_range: Range = (0, 1),
        colours: Colours | None = None,
        chunk: int = 16,
    ) -> "Spectrum":
        r"""The mean magnitudes of the canvases of images.

        $r = \frac1n \sum_i |F(x_i)|$ with $x_i$ from `pixel_range.from_pixels`

        Args:
            images: An array of images `(n h w c)`, or an iterable of images or of batches of one size, of which one is
                in memory at a time.
            values_range: Black and white; (0, 255) for 8 bits.
            colours: As in `Spectrum.natural`; `fourier.colour_matrix` measures those of other images.
            chunk: Images transformed at once, of an array.

        Raises:
            ValueError: For pixels outside of the range, without images, or if they have different sizes.

        Example:
            >>> images = jax.random.uniform(jax.random.key(0), (2, 8, 8, 3))
            >>> Spectrum.from_images(images).magnitude.shape
            (8, 8, 3)

        Reference:
            Fel et al. 2023, arXiv:2306.06805.
        """
        span = check_range(values_range, "from_images")
        if hasattr(images, "shape"):
            array = jnp.asarray(images)
            matrix = _colours(colours, array.shape[-1])
            _check_pixels(array, span)
            magnitude, mean = stream.mean_over(partial(_of_image, span, matrix), array, chunk)
            return Spectrum(magnitude.at[0, 0].set(0), mean, matrix)
        count, total, matrix = 0, None, None
        for item in images:
            batch = jnp.asarray(item) if np.ndim(item) == 4 else jnp.asarray(item)[None]
            matrix = _colours(colours, batch.shape[-1])
            _check_pixels(batch, span)
            here = jax.vmap(partial(_of_image, span, matrix))(batch)
            if total is not None and total[0].shape != here[0].shape[1:]:
                raise ValueError(
                    f"from_images: an image has shape {batch.shape[1:]}, one before {total[0].shape}; resize them first"
                )
            summed = jax.tree.map(lambda t: t.sum(0), here)
            count, total = count + len(batch), summed if total is None else jax.tree.map(jnp.add, total, summed)
        if total is None or matrix is None:
            raise ValueError("from_images: there are no images")
        magnitude, mean = (t / count for t in total)
        return Spectrum(magnitude.at[0, 0].set(0), mean, matrix)

    @staticmethod
    def fit(
        images: Float[Any, "n h w c"] | Iterable[Float[Any, "..."]],
        *,
        size: int | tuple[int, int] | None = None,
        values_range: Range = (0, 1),
        colours: Colours | None = None,
        chunk: int = 16,
    ) -> "Spectrum":
        r"""The spectrum by formula nearest to that of images: for a few of them, or for another size.

        As `Spectrum.natural` with the numbers of `fit_spectrum`; mean and contrast as of the images.

        Args:
            images: As in `Spectrum.from_images`.
            size: Of the canvas; None for that of the images.
            values_range: Black and white.
            colours: As in `Spectrum.natural`.
            chunk: Images transformed at once, of an array.

        Raises:
            ValueError: As `Spectrum.from_images`.

        Example:
            >>> images = jax.random.uniform(jax.random.key(0), (2, 8, 8, 3))
            >>> Spectrum.fit(images, size=12).size
            (12, 12)

        Reference:
            Field 1987, Relations between the statistics of natural images and the response properties of cortical
            cells.
        """
        seen = Spectrum.from_images(images, values_range=values_range, colours=colours, chunk=chunk)
        numbers = fit_spectrum(seen)._asdict()
        by_formula = Spectrum.natural(size or seen.size, **numbers, contrast=seen.contrast, colours=seen.colours)
        return by_formula._replace(mean=seen.mean)

    @staticmethod
    def from_array(
        magnitude: Float[Any, "h w_half c"],
        *,
        size: tuple[int, int] | None = None,
        contrast: Any = 1.0,
        colours: Colours | None = None,
    ) -> "Spectrum":
        r"""A stored half spectrum, as those that the public MACO codes come with.

        Its mean is dropped, since a magnitude has no sign, and it is scaled to a contrast.

        Args:
            magnitude: Moduli of a half spectrum, channels last (`np.moveaxis(array, 0, -1)` of `(3, 512, 257)`).
            size: Height and width of its canvas; None for an even width.
            contrast: As in `Spectrum.natural`.
            colours: As in `Spectrum.natural`.

        Raises:
            ValueError: If it is not of this size, or not of finite, non-negative numbers.

        Example:
            >>> Spectrum.from_array(np.ones((6, 4, 3), np.float32)).size
            (6, 6)

        Reference:
            Fel et al. 2023, arXiv:2306.06805.
        """
        half = jnp.asarray(magnitude, jnp.float32)
        if half.ndim != 3 or not bool(jnp.isfinite(half).all() & (half >= 0).all()):
            raise ValueError(
                f"from_array: expected finite, non-negative magnitudes (h, w // 2 + 1, c), got shape {half.shape}"
            )
        size = size or (half.shape[0], 2 * (half.shape[1] - 1))
        whole = _whole(half, size).at[0, 0].set(0)
        return _with_contrast(whole, jnp.zeros(half.shape[2]), _colours(colours, half.shape[2]), contrast)

    def resize(self, size: int | tuple[int, int]) -> "Spectrum":
        r"""The spectrum of another canvas, at the same frequencies in cycles per pixel.

        The slope is taken out, $m f^{\alpha}$ interpolated linearly in $(f_x, f_y)$ and at its nearest value beyond,
        and put back; mean and contrast stay.

        Args:
            size: Side, or height and width, of the canvas in pixels.

        Example:
            >>> r = Spectrum.natural(8, rolloff=jnp.inf, anisotropy=1.0)
            >>> expected = Spectrum.natural((12, 7), rolloff=jnp.inf, anisotropy=1.0)
            >>> bool(jnp.allclose(r.resize((12, 7)).magnitude, expected.magnitude))
            True

        Reference:
            Field 1987, Relations between the statistics of natural images and the response properties of cortical
            cells.
        """
        size = check_size(size, "resize")
        if size == self.size:
            return self
        (before, _), (after, _) = _polar(self.size), _polar(size)
        flat = self.magnitude * before[..., None] ** ALPHA
        # The mean has no slope to take out: the average of its neighbours stands in for it.
        around = jnp.array([(0, 1), (1, 0), (0, -1), (-1, 0)]) % jnp.array(self.size)[None]
        flat = flat.at[0, 0].set(flat[around[:, 0], around[:, 1]].mean(0))
        rows, columns = (_interpolation(old, new) for old, new in zip(self.size, size, strict=True))
        flat = jnp.einsum("ih,hwc,jw->ijc", rows, flat, columns, precision="highest")
        away = jnp.where(after > 0, after, 1)[..., None]
        magnitude = jnp.where(after[..., None] > 0, flat * away**-ALPHA, 0)
        return _with_contrast(magnitude, self.mean, self.colours, self.contrast)


def fit_spectrum(spectrum: Spectrum) -> Fit:
    r"""The numbers of the natural spectrum nearest to one, by least squares of logarithms.

    $\log r_c(f) = b + \log g_c - \alpha \log f - f^2 / \rho^2 + \frac12 \cos(4 \theta) \log a$, weighted by $1/f$ so
    that each radius counts the same; a negative $1/\rho^2$ becomes 0.

    Args:
        spectrum: The one described.

    Example:
        >>> numbers = fit_spectrum(Spectrum.natural(32, alpha=1.2, rolloff=0.4, anisotropy=1.5))
        >>> [round(float(n), 3) for n in (numbers.alpha, numbers.rolloff, numbers.gains[2], numbers.anisotropy)]
        [1.2, 0.4, 0.85, 1.5]

    Reference:
        Field 1987, Relations between the statistics of natural images and the response properties of cortical cells.
    """
    radius, angle = (t.ravel()[1:] for t in _polar(spectrum.size))
    channels = spectrum.magnitude.shape[-1]
    shared = jnp.stack([-jnp.log(radius), -(radius**2), jnp.cos(4 * angle) / 2], 1)
    weight = jnp.sqrt(1 / radius)
    # One intercept for each channel; the three numbers that they share come last.
    rows = lambda c: jnp.concatenate([jnp.zeros((len(radius), channels)).at[:, c].set(1), shared], 1) * weight[:, None]
    logs = jnp.log(jnp.maximum(spectrum.magnitude.reshape(-1, channels)[1:], jnp.finfo(jnp.float32).tiny))
    design = jnp.concatenate([rows(c) for c in range(channels)])
    found = jnp.linalg.lstsq(design, (logs * weight[:, None]).T.ravel())[0]
    steepness = jnp.maximum(found[channels + 1], 0)
    gains = jnp.exp(found[:channels] - found[0])
    return Fit(found[channels], 1 / jnp.sqrt(steepness), gains, jnp.exp(found[channels + 2]))


def _polar(size: tuple[int, int]) -> tuple[Float[Array, "h w"], Float[Array, "h w"]]:
    """Radius in cycles per pixel, and angle, of every frequency."""
    fy, fx = np.meshgrid(np.fft.fftfreq(size[0]), np.fft.fftfreq(size[1]), indexing="ij")
    return jnp.asarray(np.hypot(fy, fx), jnp.float32), jnp.asarray(np.arctan2(fy, fx), jnp.float32)


def _colours(colours: Colours | None, channels: int) -> Float[Array, "c c"]:
    if colours is None:
        colours = IMAGENET_COLOURS if channels == 3 else np.eye(channels)
    if jnp.shape(colours) != (channels, channels):
        raise ValueError(f"colours have shape {jnp.shape(colours)} for {channels} channels, expected a square matrix")
    return jnp.asarray(colours, jnp.float32)


def _check_pixels(images: Array, span: Range) -> None:
    if isinstance(images, Tracer) or images.size == 0:
        return
    least, greatest = float(images.min()), float(images.max())
    if not span[0] <= least <= greatest <= span[1]:
        raise ValueError(
            f"from_images: pixels are from {least} to {greatest}, values_range is {span}; pass that of the images, "
            "(0, 255) for 8 bits"
        )


def _with_contrast(magnitude: Array, mean: Array, colours: Array, contrast: Any) -> Spectrum:
    now = jnp.sqrt(jnp.square(magnitude).mean())
    return Spectrum(magnitude * contrast / jnp.where(now > 0, now, 1), mean, colours)


def _of_image(span: Range, colours: Colours, image: Image) -> tuple[Float[Array, "h w c"], Float[Array, " c"]]:
    """Magnitudes of all frequencies of the canvas of an image, and the mean."""
    x = from_pixels(image, span, colours)
    return _whole(jnp.abs(fourier.spectrum(x)), (x.shape[0], x.shape[1])), x.mean((0, 1))


def _whole(half: Float[Array, "h w_half c"], size: tuple[int, int]) -> Float[Array, "h w c"]:
    """All frequencies from half of them: r(-k) = r(k)."""
    height, width = size
    if half.shape[:2] != (height, width // 2 + 1):
        raise ValueError(
            f"half spectrum has {half.shape[:2]} bins, expected {(height, width // 2 + 1)} for size {size}"
        )
    mirrored = jnp.roll(half[::-1], 1, 0)[:, 1 : width - width // 2][:, ::-1]
    return jnp.concatenate([half, mirrored], 1)


def _interpolation(old: int, new: int) -> Float[Array, "new old"]:
    """Linear weights between the frequencies of two lengths, in the order of the FFT; the nearest one beyond."""
    known = np.fft.fftfreq(old) * old
    # -1/2 cycle per pixel, the last of an even length, is also +1/2: distances go around.
    highest = old / 2 if old % 2 == 0 else (old - 1) / 2
    wanted = np.clip(np.fft.fftfreq(new) * old, -highest, highest)
    distance = np.abs(wanted[:, None] - known[None])
    return jnp.asarray(np.maximum(0, 1 - np.minimum(distance, old - distance)), jnp.float32)
