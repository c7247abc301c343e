r"""Classical feature visualization: a parametrisation, random views, penalties, Adam."""

from typing import Any

import optax
from jaxtyping import PRNGKeyArray

from sparks_jax.featviz.ascent import Ascent, View, Visualization, ascent, climb
from sparks_jax.featviz.augment import chain, lucid_transforms, resized
from sparks_jax.featviz.maco import check_canvas
from sparks_jax.featviz.parametrize import Canvas, coefficients
from sparks_jax.featviz.pixel_range import Range, check_size
from sparks_jax.fourier import IMAGENET_COLOURS, Colours
from sparks_jax.types import Score

# Published settings, for use with `**`.
FOURIER_LUCID = dict(num_steps=512, learning_rate=0.05, decay=1.0)
FOURIER_XPLIQUE = dict(num_steps=256, learning_rate=0.05, decay=0.85)
FOURIER_HORAMA = dict(num_steps=1000, learning_rate=1.0, decay=1.5)


def fourier(
    f: Score,
    *,
    key: PRNGKeyArray,
    size: int | tuple[int, int],
    values_range: Range | None = None,
    decay: float = 1.0,
    colours: Colours = IMAGENET_COLOURS,
    num_steps: int = 256,
    **options: Any,
) -> Visualization:
    r"""The image that maximises a score, in Fourier coefficients whose magnitudes are free.

    $\max_z \mathbb{E}_\tau\, f(\tau(I_z))$, $\; I_z = \sigma(F^{-1}[z / f^d]\, M)$ in the range of pixels, $\tau$
    Lucid's views

    `visualize` with `parametrize.coefficients`: what MACO is compared with.

    Cost: `num_steps` × `num_views` B.

    Args:
        f: The score, of an image of `input_size`.
        key: Of the start and of the views.
        size: Side, or height and width, of the canvas in pixels.
        values_range: Least and greatest pixel that the model takes.
        decay: $d$ (Lucid 1, Xplique 0.85, Horama 1.5).
        colours: $M$, one row and column for each channel.
        num_steps: Steps.
        **options: Of `visualize_ascent`: `input_size transforms num_views learning_rate optimizer penalty num_images
            chunk`.

    Raises:
        ValueError: As `maco`.

    Example:
        >>> seen = fourier(lambda x: x.mean(), key=jax.random.key(0), size=8, values_range=(0, 1), num_steps=4)
        >>> seen.image.shape, bool(seen.history[-1] > seen.history[0])
        ((8, 8, 3), True)

    Reference:
        Olah et al. 2017, Feature visualization, Distill.
    """
    canvas = coefficients(size, values_range=values_range, decay=decay, colours=colours)
    return visualize(f, canvas, key=key, num_steps=num_steps, **options)


def visualize(
    f: Score,
    canvas: Canvas,
    *,
    key: PRNGKeyArray,
    num_steps: int = 256,
    **options: Any,
) -> Visualization:
    r"""The image of any parametrisation that maximises a score.

    $\max_\theta \mathbb{E}_\tau\, f(\tau(I_\theta)) - P(I_\theta)$

    Cost: `num_steps` × `num_views` B.

    Args:
        f: The score, of an image of `input_size`.
        canvas: $I_\theta$: `parametrize.pixels`, `pyramid`, `coefficients`, `phases`, `photograph`, or your own.
        key: Of the start and of the views.
        num_steps: Steps.
        **options: Of `visualize_ascent`.

    Raises:
        ValueError: As `maco`.

    Example:
        >>> from sparks_jax.featviz.parametrize import pixels
        >>> grey = pixels(8, values_range=(0, 1), colours=np.eye(1))
        >>> visualize(lambda x: x.mean(), grey, key=jax.random.key(0), num_steps=4).image.shape
        (8, 8, 1)

    Reference:
        Olah et al. 2017, Feature visualization, Distill.
    """
    run = visualize_ascent(f, canvas, num_steps=num_steps, **options)
    return climb(run, num_steps, key=key, who="visualize")


def visualize_ascent(
    f: Score,
    canvas: Canvas,
    *,
    input_size: int | tuple[int, int] | None = None,
    transforms: View | None = None,
    num_steps: int = 256,
    num_views: int = 1,
    learning_rate: Any = 0.05,
    optimizer: optax.GradientTransformation | None = None,
    penalty: Score | None = None,
    num_images: int | None = None,
    chunk: int = 16,
) -> Ascent:
    r"""`visualize` as functions of a state, to run in segments.

    As `visualize`.

    Cost: `num_views` B a step.

    Args:
        f: As in `visualize`; of `(num_images h w c)` if there are several images.
        canvas: As in `visualize`.
        input_size: Side, or height and width, of the images that the score takes; None for the canvas.
        transforms: A view of `augment`; None for Lucid's, and `augment.chain()` for none. The outcome is resized.
        num_steps: Steps of the whole.
        num_views: Views at each step.
        learning_rate: Of Adam; or a schedule of `optax`.
        optimizer: Another one; `learning_rate` is then not used.
        penalty: A number of the whole image, subtracted from the score: those of `regularize`.
        num_images: Images optimised together, for a score that sees them all; None for one.
        chunk: Views evaluated at once.

    Raises:
        ValueError: As `maco`.

    Example:
        >>> from sparks_jax.featviz.parametrize import pyramid
        >>> run = visualize_ascent(lambda x: x.mean(), pyramid(8, values_range=(0, 1)))
        >>> run.init(jax.random.key(0)).step.item()
        0

    Reference:
        Olah et al. 2017, Feature visualization, Distill.
    """
    shown = canvas.size if input_size is None else check_size(input_size, "visualize")
    check_canvas(canvas.size, shown, "visualize")
    grey = sum(canvas.values_range) / 2
    views = lucid_transforms(min(canvas.size), grey=grey) if transforms is None else transforms
    return ascent(
        f,
        canvas,
        chain(views, resized(shown)),
        num_steps=num_steps,
        num_views=num_views,
        optimizer=optax.adam(learning_rate) if optimizer is None else optimizer,
        penalty=penalty,
        num_images=num_images,
        chunk=chunk,
        who="visualize",
    )
