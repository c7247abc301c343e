r"""Objectives: scores made of scores, and scores of activations that ascend better than they explain.

`logit`, `neuron` (a unit or a channel), `direction` and `concept` are in `sparks_jax.scores`; here is how they add up,
and what feature visualization asks for besides. All are of one image, except those whose docstrings say that they see
several together (`num_images`). All are pytrees.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.tree_util import Partial
from jaxtyping import Array, Float

from sparks_jax.scores import as_pytree
from sparks_jax.types import Model, Scalar, Score

Weights = Sequence[Any] | Float[Any, " n"]


def compose(*scores: Score, weights: Weights | None = None) -> Score:
    r"""A weighted sum of scores.

    $f(x) = \sum_i w_i f_i(x)$

    Each weight belongs to its own score, and none is changed. Scores of one network that are given apart evaluate it
    apart; `through` shares what they have in common.

    Args:
        *scores: $f_i$.
        weights: $w_i$, traced is fine; None for 1 each.

    Raises:
        ValueError: Without scores, or with another number of weights.

    Example:
        >>> a, b, c = (lambda x, i=i: x[i] for i in range(3))
        >>> compose(a, b, c, weights=(1, 3, -5))(jnp.array([2.0, 1.0, 1.0])).item()  # 2 + 3 - 5
        0.0

    Reference:
        Olah et al. 2017, Feature visualization, Distill (combined objectives).
    """
    weights = [1.0] * len(scores) if weights is None else list(weights)
    if not scores or len(weights) != len(scores):
        raise ValueError(f"compose: {len(weights)} weights for {len(scores)} scores, expected one for each")
    return Partial(_compose, [as_pytree(f) for f in scores], weights)


def through(features: Model, score: Score) -> Score:
    r"""A score of the activations of one image, as a score of the image: several then share one evaluation.

    $f(x) = s(g(x))$

    Args:
        features: From a batch `(b h w c)` to activations `(b …)`.
        score: Of the activations of one image `(…)`, such as `compose` of objectives on them.

    Example:
        >>> first, second = (lambda a: a[..., 0].mean()), (lambda a: a[..., 1].mean())
        >>> through(lambda x: 2 * x, compose(first, second, weights=(1, -1)))(jnp.ones((2, 2, 2))).item()
        0.0

    Reference:
        Olah et al. 2017, Feature visualization, Distill.
    """
    return Partial(_through, as_pytree(features), as_pytree(score))


def layer(features: Model) -> Score:
    r"""All that a layer has to say, whatever it is: DeepDream.

    $f(x) = \frac1n \sum_i a_i(x)^2$

    Args:
        features: From a batch to activations `(b …)`.

    Example:
        >>> layer(lambda x: x)(jnp.array([3.0, 4.0])).item()
        12.5

    Reference:
        Mordvintsev et al. 2015, Inceptionism: going deeper into neural networks.
    """
    return Partial(_layer, as_pytree(features))


def centre(features: Model, channel: Any) -> Score:
    r"""A channel at the middle of the map alone: what one neuron looks for.

    $f(x) = a_{\lfloor h/2 \rfloor, \lfloor w/2 \rfloor, c}(x)$

    Args:
        features: From a batch to activations `(b gh gw d)`.
        channel: $c$.

    Raises:
        ValueError: When the score is evaluated, if the activations are not maps.

    Example:
        >>> centre(lambda x: x, 0)(jnp.arange(9.0).reshape(3, 3, 1)).item()
        4.0

    Reference:
        Olah et al. 2017, Feature visualization, Distill.
    """
    return Partial(_centre, as_pytree(features), channel)


def dot_cosine(features: Model, vector: Float[Any, "..."], *, power: Any = 2.0) -> Score:
    r"""Activations along a direction, and along nothing else.

    $f(x) = \frac1{|P|} \sum_p \langle a_p, v \rangle \max(0.1, \cos(a_p, v))^q$

    The product alone is also high on activations that are large and point elsewhere.

    Args:
        features: From a batch to activations `(b … d)`.
        vector: $v$, `(d)`, the same at each position; or of the shape of the activations of an image, one for each.
        power: $q$ (Lucid 0, Horama and Xplique 2).

    Raises:
        ValueError: When the score is evaluated, if the vector has another shape.

    Example:
        >>> along = dot_cosine(lambda x: x, jnp.array([1.0, 0.0]), power=1.0)
        >>> round(along(jnp.array([[3.0, 4.0]])).item(), 4)  # 3 times 0.6
        1.8

    Reference:
        Carter et al. 2019, Activation atlas, Distill.
    """
    return Partial(_dot_cosine, as_pytree(features), jnp.asarray(vector), power)


def likeness(features: Model, reference: Float[Any, "..."], *, power: Any = 1.0) -> Score:
    r"""How much the activations of a whole layer are those of another image, and more: `invert`'s objective.

    $f(x) = \langle g(x), r \rangle \max(0.1, \cos(g(x), r))^q / |r|$

    Args:
        features: From a batch to activations `(b …)`.
        reference: $r$, activations of one image; $|r|$ is how many there are.
        power: $q$; higher ones stay nearer to the reference, lower ones exaggerate it.

    Raises:
        ValueError: When the score is evaluated, if the activations have another shape.

    Example:
        >>> like = likeness(lambda x: x, jnp.array([3.0, 4.0]))
        >>> round(like(jnp.array([3.0, 4.0])).item(), 4)
        12.5

    Reference:
        Mahendran & Vedaldi 2015, Understanding deep image representations by inverting them, arXiv:1412.0035. Olah et
        al. 2018, The building blocks of interpretability, Distill (caricatures).
    """
    return Partial(_likeness, as_pytree(features), jnp.asarray(reference), power)


def contrast(features: Model, dictionary: Any, k: Any) -> Score:
    r"""A concept against all others: $f(x) = \bar u_k - \frac{1}{K - 1} \sum_{j \ne k} \bar u_j$.

    $u$ are the codes of the activations, $\bar u$ their mean over positions. Where the encoder is non-negative least
    squares, concepts compete already in $u_k$ (`scores.concept`); here the others are also pushed away.

    Args:
        features: From a batch to activations `(b … d)`.
        dictionary: A `concepts.Dictionary`, or what has its `encode`, of at least two concepts.
        k: The concept.

    Raises:
        ValueError: When the score is evaluated, if `k` is no concept.

    Example:
        >>> from sparks_jax.concepts import Dictionary, nonnegative
        >>> colours = Dictionary(jnp.eye(3), jnp.zeros(3), jnp.ones(()), jax.tree_util.Partial(nonnegative))
        >>> contrast(lambda x: x, colours, 0)(jnp.array([[5.0, 1.0, 2.0]])).item()  # 5 - (1 + 2) / 2
        3.5

    Reference:
        Fel et al. 2023, CRAFT, arXiv:2211.10154.
    """
    return Partial(_contrast, as_pytree(features), dictionary, k)


def whiten(vector: Float[Any, " d"], acts: Float[Array, "n d"], *, ridge: float = 1e-3) -> Float[Array, " d"]:
    r"""A direction in which channels that go together count once: $\Sigma^{-1} v$, of the norm of $v$.

    Args:
        vector: $v$.
        acts: Activations whose covariance is $\Sigma$.
        ridge: Added to the diagonal, as a share of its mean.

    Example:
        >>> acts = jnp.array([[2.0, 0.0], [-2.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
        >>> bool(jnp.allclose(whiten(jnp.array([4.0, 1.0]), acts, ridge=0.0), (17 / 2) ** 0.5))  # variances 2 and 1/2
        True

    Reference:
        Carter et al. 2019, Activation atlas, Distill.
    """
    centred = acts - acts.mean(0, keepdims=True)
    covariance = jnp.matmul(centred.T, centred, precision="highest") / len(acts)
    level = ridge * jnp.trace(covariance) / len(covariance)
    white = jnp.linalg.solve(covariance + level * jnp.eye(len(covariance), dtype=acts.dtype), jnp.asarray(vector))
    return white * jnp.linalg.norm(vector) / jnp.linalg.norm(white)


def each(f: Score) -> Score:
    r"""A score of one image as one of several: the mean, $f(x_1 \dots x_n) = \frac1n \sum_i f(x_i)$.

    Args:
        f: The score.

    Example:
        >>> each(lambda x: x.sum())(jnp.array([[[[1.0]]], [[[3.0]]]])).item()
        2.0

    Reference:
        Olah et al. 2017, Feature visualization, Distill.
    """
    return Partial(_each, as_pytree(f))


def diversity(features: Model) -> Score:
    r"""How differently several images are textured, in [−1, 1]: different ways to be what a channel looks for.

    $f(x_1 \dots x_n) = -\frac{1}{n (n - 1)} \sum_{i \ne j} \cos(G_i, G_j)$ with
    $G = \frac1{|P|} \sum_p a_p a_p^\top$

    Args:
        features: From a batch to activations `(b … d)`.

    Example:
        >>> diversity(lambda x: x)(jnp.array([[[1.0, 0.0]], [[1.0, 1.0]]])).round(2).item()  # -1 / 2 of norms 1 and 2
        -0.5

    Reference:
        Olah et al. 2017, Feature visualization, Distill (diversity).
    """
    return Partial(_diversity, as_pytree(features))


def alignment(features: Model) -> Score:
    r"""How alike each of several images is to the next, so that they can be compared: a number below 0.

    $f(x_1 \dots x_n) = -\frac{1}{n - 1} \sum_i \|a(x_i) - a(x_{i+1})\|^2 / |a|$

    Args:
        features: From a batch to activations `(b …)`.

    Example:
        >>> alignment(lambda x: x)(jnp.array([[0.0, 0.0], [1.0, 3.0]])).item()
        -5.0

    Reference:
        Olah et al. 2017, Feature visualization, Distill (interpolation).
    """
    return Partial(_alignment, as_pytree(features))


def interpolation(f: Score, g: Score) -> Score:
    r"""Several images on the way from one score to another.

    $F(x_1 \dots x_n) = \frac1n \sum_i (1 - t_i) f(x_i) + t_i\, g(x_i)$, $t_i = (i - 1) / (n - 1)$

    Args:
        f: What the first image is about.
        g: What the last one is about.

    Example:
        >>> way = interpolation(lambda x: x[0], lambda x: x[1])
        >>> way(jnp.array([[1.0, 0.0], [1.0, 1.0], [0.0, 4.0]])).item()  # (1 + 1 + 4) / 3
        2.0

    Reference:
        Olah et al. 2017, Feature visualization, Distill (interpolation).
    """
    return Partial(_interpolation, as_pytree(f), as_pytree(g))


def _compose(scores: list[Score], weights: list[Any], x: Array) -> Scalar:
    return sum((w * f(x) for w, f in zip(weights, scores, strict=True)), jnp.zeros(()))


def _through(features: Model, score: Score, x: Array) -> Scalar:
    return score(features(x[None])[0])


def _layer(features: Model, x: Array) -> Scalar:
    return jnp.square(features(x[None])).mean()


def _centre(features: Model, channel: Any, x: Array) -> Scalar:
    acts = features(x[None])[0]
    if acts.ndim != 3:
        raise ValueError(f"centre: activations of one image have shape {acts.shape}, expected (gh, gw, d)")
    middle = acts[acts.shape[0] // 2, acts.shape[1] // 2]
    if not isinstance(channel, Tracer) and not 0 <= int(channel) < len(middle):
        raise ValueError(f"centre: channel {int(channel)} is outside of the {len(middle)} of the activations")
    return middle.at[channel].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)


def _dot_cosine(features: Model, vector: Array, power: Any, x: Array) -> Scalar:
    acts = features(x[None])[0]
    if vector.shape not in (acts.shape[-1:], acts.shape):
        raise ValueError(
            f"dot_cosine: vector has shape {vector.shape} for activations of shape {acts.shape}, expected "
            f"{acts.shape[-1:]} or {acts.shape}"
        )
    vectors = jnp.broadcast_to(vector.reshape((1,) * (acts.ndim - vector.ndim) + vector.shape), acts.shape)
    return _along(acts.reshape(-1, acts.shape[-1]), vectors.reshape(-1, acts.shape[-1]), power).mean()


def _likeness(features: Model, reference: Array, power: Any, x: Array) -> Scalar:
    acts = features(x[None])[0]
    if acts.shape != reference.shape:
        raise ValueError(f"likeness: reference has shape {reference.shape} for activations of shape {acts.shape}")
    return _along(acts.reshape(1, -1), reference.reshape(1, -1), power)[0] / acts.size


def _along(a: Float[Array, "n d"], b: Float[Array, "n d"], power: Any) -> Float[Array, " n"]:
    dot = (a * b).sum(1)
    squares = jnp.square(a).sum(1) * jnp.square(b).sum(1)
    cosine = jnp.where(squares > 0, dot / jnp.sqrt(jnp.where(squares > 0, squares, 1)), 0)
    return dot * jnp.maximum(0.1, cosine) ** power


def _contrast(features: Model, dictionary: Any, k: Any, x: Array) -> Scalar:
    codes = dictionary.encode(features(x[None])[0])
    codes = codes.reshape(-1, codes.shape[-1]).mean(0)
    if not isinstance(k, Tracer) and not 0 <= int(k) < len(codes):
        raise ValueError(f"contrast: k is {int(k)}, outside of the {len(codes)} concepts 0 … {len(codes) - 1}")
    of_k = codes.at[k].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)
    return of_k - (codes.sum() - of_k) / max(len(codes) - 1, 1)


def _each(f: Score, xs: Array) -> Scalar:
    return jax.vmap(f)(xs).mean()


def _diversity(features: Model, xs: Array) -> Scalar:
    acts = features(xs)
    acts = acts.reshape(len(acts), -1, acts.shape[-1])
    gram = jnp.einsum("npc,npd->ncd", acts, acts).reshape(len(acts), -1) / acts.shape[1]
    squares = jnp.square(gram).sum(1, keepdims=True)
    unit = jnp.where(squares > 0, gram / jnp.sqrt(jnp.where(squares > 0, squares, 1)), 0)
    cosines = jnp.matmul(unit, unit.T, precision="highest")
    n = len(acts)
    return -(cosines.sum() - jnp.trace(cosines)) / max(n * (n - 1), 1)


def _alignment(features: Model, xs: Array) -> Scalar:
    acts = features(xs)
    return -jnp.square(acts[1:] - acts[:-1]).mean()


def _interpolation(f: Score, g: Score, xs: Array) -> Scalar:
    t = jnp.linspace(0, 1, len(xs))
    return ((1 - t) * jax.vmap(f)(xs) + t * jax.vmap(g)(xs)).mean()
