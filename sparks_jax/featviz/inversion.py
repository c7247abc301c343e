r"""Visualizations that begin with an image: what a score adds to it, and what a layer keeps of it."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.tree_util import Partial
from jaxtyping import Array, Float, PRNGKeyArray

from sparks_jax.featviz.ascent import Visualization
from sparks_jax.featviz.fourier import fourier, visualize
from sparks_jax.featviz.objectives import likeness
from sparks_jax.featviz.parametrize import photograph
from sparks_jax.featviz.pixel_range import Range
from sparks_jax.fourier import IMAGENET_COLOURS, Colours
from sparks_jax.images import for_images
from sparks_jax.scores import as_pytree
from sparks_jax.types import Image, Model, Scalar, Score


@for_images
def accentuate(
    f: Score,
    x: Image,
    *,
    key: PRNGKeyArray,
    values_range: Range | None = None,
    strength: float | Float[Array, ""] = 1.0,
    features: Model | None = None,
    decay: float = 1.0,
    colours: Colours = IMAGENET_COLOURS,
    num_steps: int = 128,
    **options: Any,
) -> Visualization:
    r"""An image with what a score looks for brought out, where it is already.

    $\max_z \mathbb{E}_\tau\, f(\tau(I_z)) - \lambda\, d(I_z, x)$ from $I_{z_0} = x$, with
    $d = \frac1n \|g(I) - g(x)\|^2$ of the pixels, or of a layer

    The gradient of the coefficients carries the scale $1/f^d$ twice, so that large structures move first.

    Cost: `num_steps` × `num_views` B of the score, and `num_steps` B of the features if there are any.

    Args:
        f: The score, of an image of `input_size`.
        x: The image.
        key: Of the views.
        values_range: Least and greatest pixel that the model takes.
        strength: $\lambda$, in units of the score over squared pixels or activations: larger stays nearer.
        features: $g$, from a batch `(b h w c)` to activations, evaluated on whole images; None for the pixels.
        decay: $d$ of the coefficients.
        colours: One row and column for each channel.
        num_steps: Steps.
        **options: Of `visualize_ascent`.

    Raises:
        ValueError: As `maco`, or for pixels outside of the range.

    Example:
        >>> x = jnp.full((8, 8, 3), 0.5)
        >>> options = dict(key=jax.random.key(0), values_range=(0, 1), num_steps=4)
        >>> near, far = (accentuate(lambda x: x.mean(), x, strength=s, **options) for s in (1e6, 0.0))
        >>> bool(jnp.abs(near.image - x).max() < jnp.abs(far.image - x).max())
        True

    Reference:
        Hamblin et al. 2024, Feature accentuation: revealing 'what' features respond to in natural images,
        arXiv:2402.10039.
    """
    seen = as_pytree((lambda batch: batch) if features is None else features)
    penalty = Partial(_distance, seen, seen(x[None])[0], strength)
    canvas = photograph(x, values_range=values_range, decay=decay, colours=colours)
    return visualize(f, canvas, key=key, num_steps=num_steps, penalty=penalty, **options)


@for_images
def invert(
    features: Model,
    x: Image,
    *,
    key: PRNGKeyArray,
    values_range: Range | None = None,
    power: float | Float[Array, ""] = 1.0,
    method: Callable[..., Visualization] = fourier,
    **options: Any,
) -> Visualization:
    r"""An image with the activations of another one: what a layer keeps of it.

    $\max \langle g(I), g(x) \rangle \max(0.1, \cos(g(I), g(x)))^q$

    With a high power an inversion; with a low one a caricature, which says again, louder, what the layer saw. For
    several layers give one function whose activations are all of them, flattened and weighted.

    Cost: 1 F, and that of the method.

    Args:
        features: From a batch `(b h w c)` to activations; if the canvas is larger than `x`, of images of its size.
        x: The image.
        key: Of the start and of the views.
        values_range: Least and greatest pixel that the model takes.
        power: $q$ (Lucid's caricatures 1, its inversions 4).
        method: `fourier`, or `maco` with a `spectrum` among the options.
        **options: Of the method; its `size` is that of `x` unless given, and it shows the score images of that of `x`.

    Raises:
        ValueError: As the method.

    Example:
        >>> x = jnp.full((8, 8, 3), 0.25).at[2:6, 2:6].set(0.75)
        >>> seen = invert(lambda x: x - 0.5, x, key=jax.random.key(0), values_range=(0, 1), num_steps=8)
        >>> bool(((seen.image - 0.5) * (x - 0.5)).sum() > 0)
        True

    Reference:
        Mahendran & Vedaldi 2015, Understanding deep image representations by inverting them, arXiv:1412.0035. Olah et
        al. 2018, The building blocks of interpretability, Distill (caricatures).
    """
    reference = features(x[None])[0]
    if not isinstance(reference, Tracer) and not bool(jnp.isfinite(reference).all()):
        raise ValueError("invert: the activations of x are not finite; look at the model's weights and values_range")
    size = (x.shape[0], x.shape[1])
    options = dict(size=size, input_size=size) | options
    f = likeness(features, jax.lax.stop_gradient(reference), power=power)
    return method(f, key=key, values_range=values_range, **options)


def _distance(features: Any, reference: Array, strength: Any, image: Image) -> Scalar:
    return strength * jnp.square(features(image[None])[0] - reference).mean()
