r"""Whether a visualization is one: judged by real images, other models, and other seeds.

A high score proves little, since it was optimised; these ask what was not. They take an image as it is shown, resize it
to what the model takes where that is said, and cost a handful of forward passes.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from sparks_jax import stream
from sparks_jax.featviz.pixel_range import Range, check_range
from sparks_jax.featviz.spectra import Spectrum
from sparks_jax.scores import Label
from sparks_jax.types import Image, Model, Scalar, Score

Images = Float[Array, "n height width c"]


def share_below(f: Score, image: Image, images: Images, *, chunk: int = 16) -> Scalar:
    r"""The share of real images that score lower than a visualization.

    $\frac1n |\{i : f(x_i) < f(I)\}|$; it is resized to them

    Cost: n + 1 F.

    Args:
        f: The score.
        image: The visualization.
        images: Real ones.
        chunk: Images evaluated at once.

    Example:
        >>> real = jnp.arange(4.0).reshape(4, 1, 1, 1)
        >>> share_below(lambda x: x.sum(), jnp.full((1, 1, 1), 2.5), real).item()
        0.75

    Reference:
        Zimmermann et al. 2021, How well do feature visualizations support causal understanding of CNN activations?,
        arXiv:2106.12447 (natural images as the baseline).
    """
    real = stream.stack_over(f, images, chunk)
    return (real < f(fitted(image, (images.shape[1], images.shape[2])))).mean(dtype=real.dtype)


def spectrum_distance(
    image: Image, spectrum: Spectrum, *, values_range: Range | None = None, num_bands: int = 16
) -> Scalar:
    r"""How far the magnitudes of an image are from those of natural ones, band by band, in decades.

    $\sqrt{\frac1B \sum_b \left(\log_{10} \bar r_b(I) - \log_{10} \bar r_b\right)^2}$, $\bar r_b$ the root mean square
    over the frequencies and channels of band $b$; both without their contrast

    Bands are equally wide in the logarithm of the frequency; empty ones do not count.

    Cost: 0 F.

    Args:
        image: The visualization, in the range of pixels.
        spectrum: Of natural images, resized to it.
        values_range: Least and greatest pixel.
        num_bands: $B$.

    Raises:
        ValueError: Without a range.

    Example:
        >>> from sparks_jax.featviz.parametrize import phases
        >>> r = Spectrum.natural(16)
        >>> canvas = phases(r, values_range=(0, 1))
        >>> seen = canvas.render(canvas.init(jax.random.key(0)))
        >>> bool(spectrum_distance(seen, r, values_range=(0, 1)) < 1e-4)
        True

    Reference:
        Fel et al. 2023, arXiv:2306.06805.
    """
    span = check_range(values_range, "spectrum_distance")
    size = (image.shape[0], image.shape[1])
    seen = Spectrum.from_images(image[None], values_range=span, colours=spectrum.colours)
    here, there = (jnp.square(s.magnitude / s.contrast).sum(-1) for s in (seen, spectrum.resize(size)))
    radius = jnp.sqrt(jnp.square(jnp.fft.fftfreq(size[0]))[:, None] + jnp.square(jnp.fft.fftfreq(size[1]))[None])
    lowest = 1 / max(size)
    place = jnp.log(jnp.maximum(radius, lowest) / lowest) / jnp.log(0.5 * 2**0.5 / lowest)
    band = jnp.clip((place * num_bands).astype(jnp.int32), 0, num_bands - 1)
    away = radius > 0
    total = lambda x: jnp.zeros(num_bands).at[band].add(jnp.where(away, x, 0))
    filled = (total(jnp.ones(size)) > 0) & (total(there) > 0)
    ratio = jnp.where(filled, total(here) / jnp.where(filled, total(there), 1), 1)
    decades = jnp.log10(jnp.maximum(ratio, jnp.finfo(ratio.dtype).tiny)) / 2
    return jnp.sqrt((jnp.square(decades) * filled).sum() / filled.sum())


def class_rank(
    model: Model, image: Image, label: Label, *, input_size: tuple[int, int] | None = None
) -> Int[Array, ""]:
    r"""How many classes a model prefers to the one that was visualized: 0 is the first.

    $|\{j : z_j(I) > z_c(I)\}|$

    Cost: 1 F.

    Args:
        model: From a batch `(b h w c)` to logits `(b m)`; another one than the image was made with, to learn something.
        image: The visualization.
        label: $c$.
        input_size: Height and width that the model takes; None for those of the image.

    Example:
        >>> class_rank(lambda x: x[:, 0, 0], jnp.array([[[3.0, 1.0, 2.0]]]), 2).item()
        1

    Reference:
        Fel et al. 2023, arXiv:2306.06805 (transfer to other classifiers).
    """
    logits = model((image if input_size is None else fitted(image, input_size))[None])[0]
    return (logits > logits[label]).sum()


def transfer(
    models: Sequence[Model],
    images: Images,
    labels: Int[Array, " n"],
    *,
    input_sizes: Sequence[tuple[int, int]] | None = None,
    chunk: int = 16,
) -> Int[Array, "n_models n"]:
    r"""The rank of each image's class under each of other models; its share of zeros is the top-1 accuracy.

    As `class_rank`.

    Cost: n F of each model.

    Args:
        models: Classifiers with the same classes.
        images: Visualizations.
        labels: Of each.
        input_sizes: Height and width that each model takes; None for those of the images.
        chunk: Images evaluated at once.

    Example:
        >>> same, opposite = (lambda x: x[:, 0, 0]), (lambda x: -x[:, 0, 0])
        >>> transfer([same, opposite], jnp.array([[[[3.0, 1.0, 2.0]]]]), jnp.array([0])).tolist()
        [[0], [2]]

    Reference:
        Fel et al. 2023, arXiv:2306.06805.
    """
    sizes = [None] * len(models) if input_sizes is None else list(input_sizes)
    rank = lambda model, size: lambda pair: class_rank(model, pair[0], pair[1], input_size=size)
    return jnp.stack(
        [stream.stack_over(rank(m, s), (images, labels), chunk) for m, s in zip(models, sizes, strict=True)]
    )


def seed_similarity(features: Model, images: Images, *, chunk: int = 16) -> Scalar:
    r"""How alike visualizations of one objective from several seeds are, in [−1, 1].

    $\frac{1}{n (n - 1)} \sum_{i \ne j} \cos(\bar g(I_i), \bar g(I_j))$, $\bar g$ the mean over positions

    1: the objective decides the image; lower: there are several things that it looks for, or nothing in particular.

    Cost: n F.

    Args:
        features: From a batch `(b h w c)` to activations `(b … d)`.
        images: From at least two seeds, at the size that the model takes.
        chunk: Images evaluated at once.

    Raises:
        ValueError: With one image.

    Example:
        >>> images = jnp.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]).reshape(3, 1, 1, 2)
        >>> round(seed_similarity(lambda x: x, images).item(), 4)  # of 3 pairs one is alike
        0.3333

    Reference:
        Olah et al. 2017, Feature visualization, Distill (diversity).
    """
    if len(images) < 2:
        raise ValueError("seed_similarity: one image has no other to be compared with; vmap the run over keys")
    acts = stream.stack_over(lambda x: _pooled(features, x), images, chunk)
    squares = jnp.square(acts).sum(1, keepdims=True)
    unit = jnp.where(squares > 0, acts / jnp.sqrt(jnp.where(squares > 0, squares, 1)), 0)
    cosines = jnp.matmul(unit, unit.T, precision="highest")
    return (cosines.sum() - jnp.trace(cosines)) / (len(acts) * (len(acts) - 1))


def plausibility(features: Model, image: Image, images: Images, *, k: int = 5, chunk: int = 16) -> Scalar:
    r"""Distance of a visualization to the k-th nearest real image, in the features of a model: lower is nearer.

    $\|\bar g(I) - \bar g(x_{(k)})\|$, $\bar g$ the mean over positions

    Cost: n + 1 F.

    Args:
        features: From a batch `(b h w c)` to activations `(b … d)`.
        image: The visualization; resized to the real images.
        images: Real ones, of the class for instance.
        k: Which neighbour, from 1.
        chunk: Images evaluated at once.

    Raises:
        ValueError: With fewer than k real images.

    Example:
        >>> real = jnp.array([0.0, 3.0, 5.0]).reshape(3, 1, 1, 1)
        >>> plausibility(lambda x: x, jnp.ones((1, 1, 1)), real, k=2).item()
        2.0

    Reference:
        Sun et al. 2022, Out-of-distribution detection with deep nearest neighbors, arXiv:2204.06507. Fel et al. 2023,
        arXiv:2306.06805.
    """
    if not 1 <= k <= len(images):
        raise ValueError(f"plausibility: k is {k}, expected one of the {len(images)} real images")
    real = stream.stack_over(lambda x: _pooled(features, x), images, chunk)
    own = _pooled(features, fitted(image, (images.shape[1], images.shape[2])))
    return jnp.sort(jnp.linalg.norm(real - own[None], axis=1))[k - 1]


def fitted(image: Image, size: tuple[int, int]) -> Float[Array, "height width c"]:
    """An image at another size, linearly and without aliasing.

    Args:
        image: The image.
        size: Height and width.

    Example:
        >>> fitted(jnp.ones((4, 4, 3)), (2, 2)).shape
        (2, 2, 3)

    Reference:
        Keys 1981, Cubic convolution interpolation for digital image processing (section I).
    """
    return image if image.shape[:2] == tuple(size) else jax.image.resize(image, (*size, image.shape[2]), "linear")


def _pooled(features: Model, x: Image) -> Float[Array, " d"]:
    acts = features(x[None])[0]
    return acts.reshape(-1, acts.shape[-1]).mean(0)
