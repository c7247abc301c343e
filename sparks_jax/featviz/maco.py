r"""MACO: the phases that a score is high on, with the magnitudes of natural images.

Free images that maximise a score of a deep network are mostly noise. With the magnitude spectrum held to that of
photographs only the phases are left to choose, and these carry where edges are, that is, what is seen.
"""

from typing import Any

import optax
from jaxtyping import PRNGKeyArray

from sparks_jax.featviz.ascent import Ascent, Visualization, ascent, climb
from sparks_jax.featviz.augment import noise as _noise  # `maco_ascent` has an argument of this name
from sparks_jax.featviz.crops import Sides, random_crops
from sparks_jax.featviz.parametrize import phases
from sparks_jax.featviz.pixel_range import Range, check_range, check_size
from sparks_jax.featviz.spectra import Spectrum
from sparks_jax.types import Score

# Published settings, for use with `**`. Sides are shares of the canvas, noise is a share of the range of pixels.
MACO_NEURIPS23 = dict(num_steps=256, sides=(0.25, 0.25), side_spread=0.1, noise=0.0, uniform_noise=0.1)
MACO_XPLIQUE = dict(num_steps=256, num_crops=32, sides=(0.5, 0.05), noise=0.04, uniform_noise=0.02)
# Sides are drawn uniformly from 0.2 to 0.25 there: the same mean and deviation.
MACO_HORAMA = dict(
    num_steps=1000, num_crops=6, sides=(0.225, 0.225), side_spread=0.0144, noise=0.01, uniform_noise=0.005
)


def maco(
    f: Score,
    *,
    key: PRNGKeyArray,
    spectrum: Spectrum,
    size: int | tuple[int, int] | None = None,
    values_range: Range | None = None,
    num_steps: int = 256,
    **options: Any,
) -> Visualization:
    r"""The image with a natural spectrum that maximises a score: magnitude-constrained optimisation.

    $\max_\varphi \mathbb{E}_\tau\, f(\tau(I_\varphi))$, $\; I_\varphi = \sigma(F^{-1}[r\, e^{i \varphi}]\, M)$ in the
    range of pixels, $\tau$ noise and a random crop; $\alpha = \sum_t |\partial_I f|$

    Differs from the public codes: phases start uniform, as in the paper, and have the symmetry of a real image, so that
    the magnitude is kept (in the two columns with half of the energy they change it by a median of 12 %, and start from
    a bright corner); nothing is standardised at each step, which by Parseval does nothing to the image; the noise is
    that of the canvas, as in the paper; crops stay inside of it.

    Map it over labels and keys for several objectives and seeds in one program. The defaults suit a canvas not much
    larger than `input_size`; for one twice as large and more, take smaller `sides`, as those published.

    Cost: `num_steps` × `num_crops` B.

    Args:
        f: The score, of an image of `input_size`.
        key: Of the phases, the crops and the noise.
        spectrum: The magnitudes; resized to `size`.
        size: Side, or height and width, of the canvas in pixels; None for that of the spectrum.
        values_range: Least and greatest pixel that the model takes: (0, 1) for the networks of `models`.
        num_steps: Steps.
        **options: Of `maco_ascent`: `input_size num_crops sides side_spread centre_spread noise uniform_noise
            learning_rate optimizer penalty num_images chunk`.

    Raises:
        ValueError: Without a range of pixels, for a canvas smaller than what the model takes, for a score that does not
            return one number, or (outside of `jax.jit`) one that is NaN.

    Example:
        >>> dark = lambda x: -x.mean((0, 1))[0]
        >>> r = Spectrum.natural(8)
        >>> seen = maco(dark, key=jax.random.key(0), spectrum=r, values_range=(0, 1), num_steps=4, num_crops=2)
        >>> seen.image.shape, seen.transparency.shape, seen.history.shape
        ((8, 8, 3), (8, 8), (4,))

    Reference:
        Fel et al. 2023, Unlocking feature visualization for deeper networks with magnitude constrained optimization,
        arXiv:2306.06805.
    """
    run = maco_ascent(f, spectrum=spectrum, size=size, values_range=values_range, num_steps=num_steps, **options)
    return climb(run, num_steps, key=key, who="maco")


def maco_ascent(
    f: Score,
    *,
    spectrum: Spectrum,
    size: int | tuple[int, int] | None = None,
    values_range: Range | None = None,
    input_size: int | tuple[int, int] | None = None,
    num_steps: int = 256,
    num_crops: int = 8,
    sides: Sides = (0.6, 0.25),
    side_spread: float = 0.05,
    centre_spread: float = 0.15,
    noise: float = 0.04,
    uniform_noise: float = 0.0,
    learning_rate: Any = 1.0,
    optimizer: optax.GradientTransformation | None = None,
    penalty: Score | None = None,
    num_images: int | None = None,
    chunk: int = 16,
) -> Ascent:
    r"""`maco` as functions of a state, to run in segments.

    As `maco`. A segment's program depends on the number of its steps, not on the objective of the same kind:
    `jax.jit(lambda f, state: maco_ascent(f, …).advance(state, 16))`.

    Cost: `num_crops` B a step.

    Args:
        f: As in `maco`; of `(num_images h w c)` if there are several images.
        spectrum: As in `maco`.
        size: As in `maco`.
        values_range: As in `maco`.
        input_size: Side, or height and width, of the images that the score takes; None for the canvas.
        num_steps: Steps of the whole: the schedule of the crops ends there.
        num_crops: Crops at each step.
        sides: Of the crops at the first and the last step, as shares of the canvas.
        side_spread: Standard deviation of the sides.
        centre_spread: Standard deviation of the centres, as a share of the canvas.
        noise: Standard deviation of the normal noise on the canvas, as a share of the range of pixels.
        uniform_noise: Half-width of the uniform noise on the canvas, likewise.
        learning_rate: Of NAdam at the first step, in radians, falling to 0 by half a cosine; or a schedule of `optax`.
        optimizer: Another one; `learning_rate` is then not used.
        penalty: A number of the whole image, subtracted from the score.
        num_images: Images optimised together, for a score that sees them all; None for one.
        chunk: Crops evaluated at once: what bounds the memory; of each objective, if they are mapped (some 20 in all
            were fastest on two cores).

    Raises:
        ValueError: As `maco`.

    Example:
        >>> run = maco_ascent(lambda x: x.mean(), spectrum=Spectrum.natural(8), values_range=(0, 1), num_steps=4)
        >>> state, scores = run.advance(run.init(jax.random.key(0)), 1)
        >>> run.read(state, scores).image.shape
        (8, 8, 3)

    Reference:
        Fel et al. 2023, arXiv:2306.06805.
    """
    low, high = check_range(values_range, "maco")
    canvas = phases(spectrum, size=None if size is None else check_size(size, "maco"), values_range=(low, high))
    shown = canvas.size if input_size is None else check_size(input_size, "maco")
    check_canvas(canvas.size, shown, "maco")
    rate: Any = (
        learning_rate if callable(learning_rate) else optax.cosine_decay_schedule(learning_rate, max(1, num_steps))
    )
    crops = random_crops(canvas.size, shown, sides=sides, side_spread=side_spread, centre_spread=centre_spread)
    return ascent(
        f,
        canvas,
        crops,
        num_steps=num_steps,
        num_views=num_crops,
        optimizer=optax.nadam(rate) if optimizer is None else optimizer,
        disturb=_noise(noise * (high - low), uniform_noise * (high - low)),
        penalty=penalty,
        num_images=num_images,
        chunk=chunk,
        who="maco",
    )


def check_canvas(size: tuple[int, int], shown: tuple[int, int], who: str) -> None:
    """Refuse a canvas that is smaller than what is cut from it.

    Args:
        size: Height and width of the canvas.
        shown: Height and width of the crops.
        who: The function that speaks.

    Raises:
        ValueError: If either side is smaller.

    Example:
        >>> check_canvas((8, 8), (4, 4), "maco")

    Reference:
        Fel et al. 2023, arXiv:2306.06805.
    """
    if size[0] < shown[0] or size[1] < shown[1]:
        raise ValueError(
            f"{who}: the canvas of {size[0]} × {size[1]} is smaller than the crops of {shown[0]} × {shown[1]} that the "
            "model takes; raise size, or lower input_size if the model takes smaller images"
        )
