r"""CRAFT: the concepts of a class, from parts of its images to what each means for the score, and on to its own parts.

Activations of parts of images are factorized, $A \approx U D$; the codes of whole images say how much of each concept
is where; importance says how much the score of the class rests on each. What a late layer has merged is taken apart at
an earlier one: `refine` factorizes, there, the parts in which one concept is strong.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from sparks_jax import stream
from sparks_jax.concepts.dictionary import Dictionary, Factorization, encode
from sparks_jax.concepts.factorize import nmf
from sparks_jax.concepts.importance import Importance, Method, importance, of_codes
from sparks_jax.concepts.strategies import Strategies, strategies
from sparks_jax.concepts.views import View, Views, at_boxes, crops
from sparks_jax.types import Model, Score

Factorize = Callable[..., Factorization]
Images = Float[Array, "n h w c"]


class Concepts(NamedTuple):
    """The concepts of a class.

    Attributes:
        dictionary: The concepts, by falling energy where the factorization says so.
        codes: `(v k)` how much of each concept is in each view: the largest are its examples.
        image: `(v)` the image that each view is a part of.
        box: `(v 4)` the part: top, left, height and width in pixels.
        image_codes: `(n gh gw k)` the codes of whole images, position by position (`(n t k)` of tokens).
        importance: How much the score rests on each concept, image by image and on average.
        score: `(n)` the score of each image.
        explained: `(n)` the score of what the concepts explain of it; the difference is what they do not.
        strategies: The main concept of each image, and how often each is one, and how often the network is then right.
        errors: Of the factorization, after each of its steps.
        dead: `(k)` concepts that no view has.
    """

    dictionary: Dictionary
    codes: Float[Array, "*classes v k"]
    image: Int[Array, "*classes v"]
    box: Float[Array, "*classes v 4"]
    image_codes: Float[Array, "*many k"]
    importance: Importance
    score: Float[Array, "*classes n"]
    explained: Float[Array, "*classes n"]
    strategies: Strategies
    errors: Float[Array, "*classes steps"]
    dead: Bool[Array, "*classes k"]


def craft(
    features: Model,
    head: Score,
    images: Images,
    *,
    key: PRNGKeyArray,
    rank: int = 10,
    crop: int = 64,
    view: View | None = None,
    factorize: Factorize = nmf,
    method: str | Method = "auto",
    correct: Bool[Array, " n"] | None = None,
    chunk: int = 16,
    **options: Any,
) -> Concepts:
    r"""The concepts that a score of images rests on.

    $A = g(\text{views of } x_1 \dots x_n) \approx U D$, codes $u(x_i)$ of the whole images, $\phi(F, u(x_i))$ with
    $F(u) = h(u D)$

    Give images that the network takes for the class: what it saw there is the question. To map classes, map images and
    labels: `jax.vmap(lambda images, label: craft(features, logit(head, label), images, key=key))`.

    Cost: 1 F for each view and each image (17 for an image of 224 pixels and crops of 64), then that of `importance`:
    one backward pass of the head where it is affine.

    Args:
        features: From a batch of images `(b h w c)` to activations `(b gh gw d)` or `(b t d)`: the half of a network
            that ends before its last mean over positions, or earlier.
        head: A score of the activations of one image: `scores.logit(network.head, label)`.
        images: Images of the class.
        key: Of the factorization and of the importance.
        rank: How many concepts (the paper: 25; its code: 10 or 20).
        crop: Side of the crops in pixels, resized to a whole image each (the paper: 64 to 128 of 224).
        view: None for `views.crops(crop)`; or `views.positions()`, `views.tokens()`, or your own.
        factorize: `(acts, rank, *, key) -> Factorization`: `nmf`, `semi_nmf` where activations may be negative, …
        method: As in `importance`; the paper's is `"sobol"`.
        correct: Whether the network is right about each image, for the reliability of its concepts.
        chunk: Views, images or evaluations at once.
        **options: Given to `importance`.

    Raises:
        ValueError: If there are fewer views than concepts, activations that the factorization refuses (negative, all
            zero, not finite), or a head that returns more than a number.

    Example:
        >>> x = jax.random.uniform(jax.random.key(0), (4, 8, 8, 3))
        >>> head = lambda acts: acts.mean((0, 1)) @ jnp.array([1.0, 0.0, -1.0])
        >>> found = jax.jit(lambda x: craft(lambda x: x, head, x, key=jax.random.key(0), rank=3, crop=4))(x)
        >>> found.codes.shape, found.image_codes.shape, found.importance.values.shape
        ((16, 3), (4, 8, 8, 3), (4, 3))

    Reference:
        Fel et al. 2023, CRAFT: concept recursive activation factorization for explainability, arXiv:2211.10154.
    """
    _check(features, head, images, "craft")
    view = crops(crop) if view is None else view
    key_fit, key_importance = jax.random.split(key)
    views = view(features, images, chunk=chunk)
    _check_enough(len(views.acts), rank, len(images), "craft")
    fitted = factorize(views.acts, rank, key=key_fit)
    return _explained(features, head, images, views, fitted, key_importance, method, correct, chunk, options)


def craft_activations(
    views: Views,
    acts: Float[Array, "n *p d"],
    head: Score,
    *,
    key: PRNGKeyArray,
    rank: int = 10,
    factorize: Factorize = nmf,
    method: str | Method = "auto",
    correct: Bool[Array, " n"] | None = None,
    chunk: int = 16,
    **options: Any,
) -> Concepts:
    r"""`craft` of activations that are there already: stored ones, of another program, or shared by several runs.

    $A \approx U D$ for the views, codes $u(a_i)$ of the whole images, $\phi(F, u(a_i))$ with $F(u) = h(u D)$

    Cost: no evaluation of the features; that of `importance`.

    Args:
        views: Activations of parts of images, and where these are: `Views(acts, image, box)`.
        acts: Activations of the whole images `(n gh gw d)` or `(n t d)`.
        head: As in `craft`.
        key: As in `craft`.
        rank: As in `craft`.
        factorize: As in `craft`.
        method: As in `craft`.
        correct: As in `craft`.
        chunk: As in `craft`.
        **options: Given to `importance`.

    Raises:
        ValueError: As `craft`.

    Example:
        >>> from sparks_jax.concepts import positions
        >>> acts = jax.random.uniform(jax.random.key(0), (4, 8, 8, 3))
        >>> views = positions()(lambda x: x, acts)
        >>> head = lambda acts: acts.mean((0, 1)) @ jnp.array([1.0, 0.0, -1.0])
        >>> found = jax.jit(lambda v, a: craft_activations(v, a, head, key=jax.random.key(0), rank=3))(views, acts)
        >>> found.codes.shape, found.importance.values.shape
        ((256, 3), (4, 3))

    Reference:
        Fel et al. 2023, CRAFT: concept recursive activation factorization for explainability, arXiv:2211.10154.
    """
    key_fit, key_importance = jax.random.split(key)
    _check_enough(len(views.acts), rank, len(acts), "craft_activations")
    fitted = factorize(views.acts, rank, key=key_fit)
    same = lambda batch: batch
    return _explained(same, head, acts, views, fitted, key_importance, method, correct, chunk, options)


def refine(
    concepts: Concepts,
    k: int | Int[Array, ""],
    features: Model,
    head: Score,
    images: Images,
    *,
    key: PRNGKeyArray,
    rank: int = 5,
    top: float = 0.1,
    factorize: Factorize = nmf,
    method: str | Method = "auto",
    correct: Bool[Array, " n"] | None = None,
    chunk: int = 16,
    **options: Any,
) -> Concepts:
    r"""The parts that a concept is made of: its strongest views, factorized at an earlier layer.

    $A' = g'(\text{views with the largest } u_k) \approx U' D'$, $\phi(h', u')$ with $h'$ the rest of the network

    Late layers draw all that speaks for a class together; what they merged into one concept is still apart earlier. The
    outcome is like that of `craft`, so it can be refined again. Views in which the concept is not are left out (they
    become rows of zeros); positions and tokens are looked at as crops.

    Cost: 1 F of the earlier features for each view taken and each image, then that of `importance` through the rest of
    the network, which is hardly affine.

    Args:
        concepts: From `craft`, or from `refine`.
        k: The concept taken apart.
        features: From a batch of images to the activations of an earlier layer.
        head: A score of these activations: `scores.logit` of the rest of the network for what the parts mean for the
            class, or `scores.concept(rest, concepts.dictionary, k)` for what they mean for the concept.
        images: Those that the concepts were found on.
        key: As in `craft`.
        rank: How many parts.
        top: The share of the views that is taken, the strongest.
        factorize: As in `craft`.
        method: As in `craft`.
        correct: As in `craft`.
        chunk: As in `craft`.
        **options: Given to `importance`.

    Raises:
        ValueError: As `craft`, or if `k` is no concept, or is in fewer of the views taken than there are parts.

    Example:
        >>> x = jax.random.uniform(jax.random.key(0), (4, 8, 8, 3))
        >>> late, head, key = lambda x: x.sum(-1, keepdims=True), lambda acts: acts.mean((0, 1, 2)), jax.random.key(0)
        >>> def parts(x):
        ...     whole = craft(late, head, x, key=key, rank=1, crop=4)
        ...     return refine(whole, 0, lambda x: x, head, x, key=key, rank=3, top=0.5)
        >>> jax.eval_shape(parts, x).codes.shape  # half of 16 crops
        (8, 3)

    Reference:
        Fel et al. 2023, CRAFT: concept recursive activation factorization for explainability, arXiv:2211.10154.
    """
    _check(features, head, images, "refine")
    num_concepts = concepts.codes.shape[-1]
    if not isinstance(k, Tracer) and not 0 <= int(k) < num_concepts:
        raise ValueError(f"refine: k is {int(k)}, outside of the {num_concepts} concepts 0 … {num_concepts - 1}")
    amount, strongest = jax.lax.top_k(concepts.codes[:, k], math.ceil(top * len(concepts.codes)))
    num_views = len(strongest) if isinstance(amount, Tracer) else int((amount > 0).sum())
    _check_enough(num_views, rank, len(images), f"refine: of concept {k}")
    key_fit, key_importance = jax.random.split(key)
    image, box = concepts.image[strongest], concepts.box[strongest]
    acts = at_boxes(features, images, image, box, chunk=chunk)
    views = Views(jnp.where((amount > 0)[:, None], acts, 0), image, box)
    fitted = factorize(views.acts, rank, key=key_fit)
    return _explained(features, head, images, views, fitted, key_importance, method, correct, chunk, options)


def _explained(
    features: Model, head: Score, images: Images, views: Views, fitted: Factorization, key: PRNGKeyArray,
    method: str | Method, correct: Bool[Array, " n"] | None, chunk: int, options: dict[str, Any],
) -> Concepts:  # fmt: skip
    """From a factorization of views to the concepts of whole images."""
    dictionary = fitted.dictionary

    def of_image(x: Array) -> tuple[Array, Array, Array]:
        acts = features(x[None])[0]
        codes = encode(dictionary, acts)
        return codes, head(acts), of_codes(head, dictionary)(codes)

    image_codes, score, explained = stream.stack_over(of_image, images, chunk)
    found = importance(head, dictionary, image_codes, method=method, key=key, chunk=chunk, **options)
    return Concepts(
        dictionary, fitted.codes, views.image, views.box, image_codes, found, score, explained,
        strategies(found.values, correct), fitted.errors, ~(fitted.codes != 0).any(0),
    )  # fmt: skip


def _check(features: Model, head: Score, images: Array, who: str) -> None:
    shape, dtype = jnp.shape(images), jnp.result_type(images)
    if len(shape) != 4 or 0 in shape:
        raise ValueError(f"{who}: images have shape {shape}, expected (n, h, w, c); map classes with jax.vmap")
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(f"{who}: images have dtype {dtype}, expected floating-point pixels, for example images / 255")
    if not isinstance(images, Tracer) and not np.isfinite(np.asarray(images)).all():
        raise ValueError(f"{who}: images have NaN or infinite pixels, expected finite numbers")
    acts = jax.eval_shape(lambda x: features(x), jax.ShapeDtypeStruct((1, *shape[1:]), dtype))
    if acts.ndim < 2 or acts.shape[0] != 1:
        raise ValueError(f"{who}: features returned shape {acts.shape} for a batch of one image, expected (1, …, d)")
    number = jax.eval_shape(lambda a: head(a), jax.ShapeDtypeStruct(acts.shape[1:], acts.dtype))
    if jnp.shape(number) != ():
        raise ValueError(
            f"{who}: head returned shape {jnp.shape(number)} for activations of shape {acts.shape[1:]} of one image, "
            "expected one number; pass a score, such as scores.logit(network.head, label)"
        )


def _check_enough(num_views: int, rank: int, num_images: int, who: str) -> None:
    if num_views < rank:
        raise ValueError(
            f"{who}: {rank} concepts from {num_views} views of {num_images} images; give more images, smaller crops, "
            "or ask for fewer concepts"
        )
