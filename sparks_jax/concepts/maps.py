r"""Where in an image a concept is: maps of codes, of their implicit gradient, or of any attribution method.

Every map explains one number, the score of a concept, $s_k(x) = \mathrm{mean}_p\, u_{pk}(x)$ (`scores.concept`). None
is cut at a threshold or stretched to a range: maps of one image are comparable, and those of a concept that is not in
it are zero.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from sparks_jax import images, scores, stream
from sparks_jax.concepts.dictionary import Dictionary, encode
from sparks_jax.images import for_images
from sparks_jax.types import Heatmap, Image, Model, Scalar

Resize = Callable[..., Heatmap]
Pool = Callable[[Array], Scalar]
Acts = Float[Array, "gh gw d"]
# From activations and the derivative of a score in them to a map of their positions.
Reduce = Callable[[Acts, Acts], Float[Array, "gh gw"]]


@for_images
def concept_maps(
    features: Model,
    dictionary: Dictionary,
    x: Image,
    *,
    how: str | Callable[..., Any] = "coefficient",
    at_once: int = 1,
    **options: Any,
) -> Float[Array, "k h w"]:
    r"""One map for each concept: where it is in an image.

    `"coefficient"`: $\mathrm{up}(u_k)$, the codes of the positions (`coefficient_maps`);
    `"gradient"`: where the image moves $s_k$, through the encoder (`gradient_maps`);
    a method: $\phi(s_k, x)$, as of any other score: `attribution.rise`, `attribution.sobol`, `attribution.occlusion`,
    `sensitivity.smoothgrad`, with their options, the key among them. Channels are reduced by their Euclidean norm.

    Codes are where the network computes. That is where the concept is as long as a position sees little but its block
    of pixels; with large receptive fields or attention the other two tell more.

    Cost: 1 F; or 1 F and 1 B for each concept; or that of the method for each concept, or for each `at_once` of them
    where it evaluates the same images whatever the score, as all do that hide parts: the features are then shared.

    Args:
        features: From a batch of images `(b h w c)` to activations, `(b gh gw d)` for maps of codes.
        dictionary: The concepts.
        x: One image.
        how: `"coefficient"`, `"gradient"` or a method `(f, x, …) -> map`.
        at_once: Concepts at once, for a method: memory grows with it where the method takes derivatives.
        **options: Given to `coefficient_maps`, `gradient_maps` or the method.

    Raises:
        ValueError: If `how` is another word, or the activations have no grid where one is needed.

    Example:
        >>> from sparks_jax.concepts import nonnegative
        >>> colours = Dictionary(jnp.eye(3), jnp.zeros(3), jnp.ones(()), jax.tree_util.Partial(nonnegative))
        >>> x = jnp.zeros((2, 2, 3)).at[0, 0, 1].set(0.5)
        >>> concept_maps(lambda x: x, colours, x)[1].tolist()
        [[0.5, 0.0], [0.0, 0.0]]

    Reference:
        Fel et al. 2023, CRAFT: concept recursive activation factorization for explainability, arXiv:2211.10154.
    """
    if how == "coefficient":
        return coefficient_maps(features, dictionary, x, **options)
    if how == "gradient":
        return gradient_maps(features, dictionary, x, **options)
    if not callable(how):
        raise ValueError(
            f"concept_maps: how is {how!r}, expected 'coefficient', 'gradient' or a method, such as attribution.sobol"
        )

    def of_concept(k: Array) -> Heatmap:
        found = how(scores.concept(features, dictionary, k), x, **options)
        return images.heatmap(found) if found.ndim == 3 else found

    return stream.stack_over(of_concept, jnp.arange(dictionary.atoms.shape[0]), at_once)


@for_images
def coefficient_maps(
    features: Model, dictionary: Dictionary, x: Image, *, resize: Resize = images.bilinear
) -> Float[Array, "k h w"]:
    r"""The codes of the positions of the activations, resized to the image.

    $\phi_k = \mathrm{up}(u_k)$

    Cost: 1 F. Signed where codes are.

    Args:
        features: From a batch of images `(b h w c)` to activations `(b gh gw d)`.
        dictionary: The concepts.
        x: One image.
        resize: From the grid of activations to the map: `images.bilinear`, `bicubic`, or `nearest` for the codes as
            they are.

    Raises:
        ValueError: If the activations have no grid.

    Example:
        >>> from sparks_jax.concepts import nonnegative
        >>> colours = Dictionary(jnp.eye(1), jnp.zeros(1), jnp.ones(()), jax.tree_util.Partial(nonnegative))
        >>> coefficient_maps(lambda x: x, colours, jnp.array([[[2.0], [-2.0]]])).tolist()
        [[[2.0, 0.0]]]

    Reference:
        Fel et al. 2023, CRAFT: concept recursive activation factorization for explainability, arXiv:2211.10154.
    """
    codes = encode(dictionary, _grid(features, x, "coefficient_maps"))
    return jax.vmap(lambda u: resize(u, x.shape[:2]), 2)(codes).astype(x.dtype)


def slope(acts: Acts, gradient: Acts) -> Float[Array, "gh gw"]:
    r"""How steep a score is at each position: $\|\partial s / \partial a_p\|$.

    Args:
        acts: Activations $a$, or the image.
        gradient: Derivative of the score there.

    Example:
        >>> slope(jnp.ones((1, 1, 2)), jnp.array([[[3.0, -4.0]]])).item()
        5.0

    Reference:
        Simonyan et al. 2014, Deep inside convolutional networks, arXiv:1312.6034.
    """
    return images.heatmap(gradient)


def contribution(acts: Acts, gradient: Acts) -> Float[Array, "gh gw"]:
    r"""How much of a score passes through each position: $\|a_p \odot \partial s / \partial a_p\|$.

    Args:
        acts: Activations $a$.
        gradient: Derivative of the score there.

    Example:
        >>> contribution(jnp.array([[[2.0, 0.0]]]), jnp.array([[[3.0, -4.0]]])).item()
        6.0

    Reference:
        Shrikumar et al. 2016, Not just a black box, arXiv:1605.01713.
    """
    return images.heatmap(acts * gradient)


def channel_means(acts: Acts, gradient: Acts) -> Float[Array, "gh gw"]:
    r"""Grad-CAM's rule: $\max(0, \sum_c w_c a_{pc})$, $w_c$ the mean of $\partial s / \partial a_{pc}$ over positions.

    Args:
        acts: Activations $a$.
        gradient: Derivative of the score there.

    Example:
        >>> channel_means(jnp.array([[[2.0], [0.0]]]), jnp.array([[[3.0], [1.0]]])).tolist()
        [[4.0, 0.0]]

    Reference:
        Selvaraju et al. 2017, Grad-CAM, arXiv:1610.02391.
    """
    return jax.nn.relu(acts @ gradient.mean((0, 1)))


@for_images
def gradient_maps(
    features: Model,
    dictionary: Dictionary,
    x: Image,
    *,
    at: tuple[Model, Model] | None = None,
    reduce: Reduce | None = None,
    pool: Pool = jnp.mean,
    resize: Resize = images.bilinear,
    chunk: int = 16,
) -> Float[Array, "k h w"]:
    r"""Where an image moves the code of each concept: implicit differentiation through the encoder.

    $\phi_k = \mathrm{up}(\rho(a, \partial s_k / \partial a))$ with $s_k = \mathrm{pool}_p\, u_{pk}$ and, for
    non-negative least squares with $P = \{k : u_k > 0\}$, $\partial u_P / \partial a = (D_P D_P^\top)^{-1} D_P$ and
    $\partial u_k / \partial a = 0$ for $k \notin P$: a concept that is not there has a map of zeros

    The derivative is taken in the pixels, or in the activations of an earlier layer, where it is less noisy and the
    grid is still fine. No iteration is unrolled: the closed form is a solve of size k for each position.

    On the images of ten glyphs, for the concept of the glyph: codes of a grid of 8 × 8 have their maximum on it in 73 %
    of 48 images, the slope in the pixels in 98 %, contributions at a grid of 32 × 32 in all, Grad-CAM's rule there in
    48 %: means over positions forget the place.

    Cost: 1 F, and 1 B for each concept, all from one forward pass. Unsigned.

    Args:
        features: From a batch of images `(b h w c)` to activations `(b …, d)`.
        dictionary: The concepts.
        x: One image.
        at: None for the pixels; or the two parts of `features` at an earlier layer, from images to its activations
            `(b gh gw e)` and from these to those of the dictionary.
        reduce: $\rho$: None for `slope` in the pixels and `contribution` at a layer; the paper's is `channel_means`.
        pool: From the codes of all positions to one number: `jnp.mean` or `jnp.max`.
        resize: From the grid of the layer to the map.
        chunk: Concepts at once.

    Raises:
        ValueError: If the activations of the earlier layer have no grid.

    Example:
        >>> from sparks_jax.concepts import nonnegative
        >>> colours = Dictionary(jnp.eye(2), jnp.zeros(2), jnp.ones(()), jax.tree_util.Partial(nonnegative))
        >>> gradient_maps(lambda x: x, colours, jnp.array([[[2.0, 0.0], [0.0, 0.0]]])).tolist()
        [[[0.5, 0.0]], [[0.0, 0.0]]]

    Reference:
        Fel et al. 2023, CRAFT: concept recursive activation factorization for explainability, arXiv:2211.10154.
    """
    rest = features if at is None else at[1]
    acts = x if at is None else _grid(at[0], x, "gradient_maps")
    reduce = reduce or (slope if at is None else contribution)
    k = dictionary.atoms.shape[0]

    def amounts(acts: Acts) -> Float[Array, " k"]:
        return jax.vmap(pool, 1)(encode(dictionary, rest(acts[None])[0]).reshape(-1, k))

    amount, pull = jax.vjp(amounts, acts)
    of_concept = lambda e: resize(reduce(acts, pull(e)[0]), x.shape[:2]).astype(x.dtype)
    return stream.stack_over(of_concept, jnp.eye(k, dtype=amount.dtype), chunk)


def _grid(features: Model, x: Image, who: str) -> Acts:
    """The activations of one image, if they have a grid."""
    acts = features(x[None])
    if acts.ndim != 4 or acts.shape[0] != 1:
        raise ValueError(
            f"{who}: features returned shape {acts.shape} for one image, expected (1, gh, gw, d); give tokens their "
            "grid, lambda x: features(x)[:, 1:].reshape(-1, gh, gw, d), or explain the pixels with how='gradient'"
        )
    return acts[0]
