r"""Does the score fall when the concepts called important are taken away, and rise when they alone are there?

All is measured on what the concepts explain, $F(u) = h(\mu + \sigma\, u D)$: deletion begins and insertion ends at
$F(u)$, which is not the score of the image; the gap is what no concept can tell, and it is reported. Of one image:
`jax.vmap` maps many.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from sparks_jax import linalg, stream
from sparks_jax.concepts.dictionary import Dictionary
from sparks_jax.concepts.fading import fading
from sparks_jax.concepts.importance import of_codes
from sparks_jax.types import Scalar, Score

Codes = Float[Array, "*p k"]
Subset = Callable[[PRNGKeyArray, int], Bool[Array, " k"]]
Correlation = Callable[[Array, Array], Scalar]


class ConceptCurve(NamedTuple):
    """The score of an image as more and more of its concepts are deleted or inserted.

    Attributes:
        fractions: `(k + 1,)` share of the concepts, from 0 to 1.
        scores: `(k + 1,)` the score there.
        auc: `()` area under the curve by the trapezoid rule.
        gap: `()` score of the activations less that of what all concepts explain of them; None without activations.
    """

    fractions: Float[Array, "*n s"]
    scores: Float[Array, "*n s"]
    auc: Float[Array, "*n"]
    gap: Float[Array, "*n"] | None


def c_deletion(
    head: Score,
    dictionary: Dictionary,
    codes: Codes,
    importances: Float[Array, "*k"],
    *,
    acts: Float[Array, "*p d"] | None = None,
    chunk: int = 64,
) -> ConceptCurve:
    r"""The score as concepts are set to zero, the most important first.

    $s_j = F(u_{\text{top } j \leftarrow 0}), \qquad \mathrm{AUC} = \int_0^1 s(t)\,dt$

    Lower is better. Of concepts that are equally important the first goes first. For an affine score no order is better
    than that of signed contributions.

    Cost: k + 1 F of the head, and one more with activations.

    Args:
        head: A score of the activations of one image.
        dictionary: The concepts.
        codes: $u$ of one image.
        importances: Of each concept in this image, or on average.
        acts: Activations of the image, for the gap.
        chunk: Evaluations at once.

    Raises:
        ValueError: If there is not one importance for each concept.

    Example:
        >>> from sparks_jax.concepts import Dictionary, nonnegative
        >>> colours = Dictionary(jnp.eye(2), jnp.zeros(2), jnp.ones(()), jax.tree_util.Partial(nonnegative))
        >>> head = lambda acts: acts @ jnp.array([3.0, 1.0])
        >>> c_deletion(head, colours, jnp.ones(2), jnp.array([3.0, 1.0])).scores.tolist()
        [4.0, 1.0, 0.0]

    Reference:
        Fel et al. 2023, CRAFT: concept recursive activation factorization for explainability, arXiv:2211.10154.
    """
    gone_first = lambda rank, count: rank >= count
    return _curve(head, dictionary, codes, importances, gone_first, acts, chunk, "c_deletion")


def c_insertion(
    head: Score,
    dictionary: Dictionary,
    codes: Codes,
    importances: Float[Array, "*k"],
    *,
    acts: Float[Array, "*p d"] | None = None,
    chunk: int = 64,
) -> ConceptCurve:
    r"""The score as concepts are put back, the most important first, beginning without any.

    $s_j = F(u_{\text{all but top } j \leftarrow 0}), \qquad \mathrm{AUC} = \int_0^1 s(t)\,dt$

    Higher is better.

    Cost: k + 1 F of the head, and one more with activations.

    Args:
        head: As in `c_deletion`.
        dictionary: As in `c_deletion`.
        codes: As in `c_deletion`.
        importances: As in `c_deletion`.
        acts: As in `c_deletion`.
        chunk: As in `c_deletion`.

    Raises:
        ValueError: As `c_deletion`.

    Example:
        >>> from sparks_jax.concepts import Dictionary, nonnegative
        >>> colours = Dictionary(jnp.eye(2), jnp.zeros(2), jnp.ones(()), jax.tree_util.Partial(nonnegative))
        >>> head = lambda acts: acts @ jnp.array([3.0, 1.0])
        >>> curve = c_insertion(head, colours, jnp.ones(2), jnp.array([3.0, 1.0]), acts=jnp.array([1.0, 2.0]))
        >>> curve.scores.tolist(), curve.gap.item()
        ([0.0, 3.0, 4.0], 1.0)

    Reference:
        Fel et al. 2023, CRAFT: concept recursive activation factorization for explainability, arXiv:2211.10154.
    """
    there_first = lambda rank, count: rank < count
    return _curve(head, dictionary, codes, importances, there_first, acts, chunk, "c_insertion")


def half(key: PRNGKeyArray, k: int) -> Bool[Array, " k"]:
    r"""A random half of the concepts: sets of one size, $\lceil k / 2 \rceil$, all as likely.

    Args:
        key: Draws the set.
        k: How many concepts there are.

    Example:
        >>> half(jax.random.key(0), 6).sum().item()
        3

    Reference:
        Bhatt et al. 2020, Evaluating and aggregating feature-based model explanations, arXiv:2005.00631.
    """
    return jax.random.permutation(key, k) < (k + 1) // 2


def any_number(key: PRNGKeyArray, k: int) -> Bool[Array, " k"]:
    """A random set of concepts of any size, each of the $2^k$ as likely.

    Args:
        key: Draws the set.
        k: How many concepts there are.

    Example:
        >>> any_number(jax.random.key(0), 6).shape
        (6,)

    Reference:
        Bhatt et al. 2020, Evaluating and aggregating feature-based model explanations, arXiv:2005.00631.
    """
    return jax.random.bernoulli(key, 0.5, (k,))


def c_fidelity(
    head: Score,
    dictionary: Dictionary,
    codes: Codes,
    importances: Float[Array, "*k"],
    *,
    key: PRNGKeyArray,
    subset: Subset = half,
    num_samples: int = 256,
    correlation: Correlation = linalg.pearson,
    chunk: int = 64,
) -> Scalar:
    r"""Correlation between the importance of random sets of concepts and the fall of the score without them.

    $\mathrm{corr}_S \left( \sum_{k \in S} \phi_k,\; F(u) - F(u_{S \leftarrow 0}) \right)$

    Higher is better, at most 1: contributions reach it where the score is affine. 0 for a constant score. Sets of one
    size do not see a constant that is added to all importances; of sets of any size, RISE's is held against it.

    Cost: `num_samples` F of the head.

    Args:
        head: As in `c_deletion`.
        dictionary: As in `c_deletion`.
        codes: As in `c_deletion`.
        importances: As in `c_deletion`.
        key: Draws the sets. Share it over a batch to take the same concepts from every image.
        subset: From a key and k to a set: `half`, `any_number` or your own.
        num_samples: Sets drawn.
        correlation: `linalg.pearson`, or any function of two arrays that does not change when a constant is added.
        chunk: Evaluations at once.

    Raises:
        ValueError: As `c_deletion`.

    Example:
        >>> from sparks_jax.concepts import Dictionary, nonnegative
        >>> colours = Dictionary(jnp.eye(3), jnp.zeros(3), jnp.ones(()), jax.tree_util.Partial(nonnegative))
        >>> w = jnp.array([3.0, -1.0, 2.0])
        >>> options = dict(key=jax.random.key(0), num_samples=32)
        >>> round(c_fidelity(lambda acts: acts @ w, colours, jnp.ones(3), w, **options).item(), 4)
        1.0

    Reference:
        Fel et al. 2023, A holistic approach to unifying automatic concept extraction and concept importance estimation,
        arXiv:2306.07304.
    """
    _check(codes, importances, "c_fidelity")
    g = fading(of_codes(head, dictionary), codes)

    def hide(key: PRNGKeyArray) -> tuple[Scalar, Scalar]:
        hidden = subset(key, len(importances))
        return jnp.where(hidden, importances, 0).sum(), -g((~hidden).astype(codes.dtype))

    return correlation(*stream.stack_over(hide, jax.random.split(key, num_samples), chunk))


def _curve(
    head: Score, dictionary: Dictionary, codes: Codes, importances: Array, there: Callable[..., Array],
    acts: Array | None, chunk: int, who: str,
) -> ConceptCurve:  # fmt: skip
    """The score with those concepts that are there, for every number of concepts moved in order of importance."""
    _check(codes, importances, who)
    k = len(importances)
    f = of_codes(head, dictionary)
    g = fading(f, codes)
    rank = jnp.argsort(jnp.argsort(-importances))
    scores = stream.stack_over(lambda count: g(there(rank, count).astype(codes.dtype)), jnp.arange(k + 1), chunk)
    fractions = jnp.linspace(0, 1, k + 1, dtype=jnp.promote_types(scores.dtype, jnp.float32))
    gap = None if acts is None else head(acts) - f(codes)
    return ConceptCurve(fractions, scores, jnp.trapezoid(scores.astype(fractions.dtype), fractions), gap)


def _check(codes: Array, importances: Array, who: str) -> None:
    if importances.shape != codes.shape[-1:]:
        raise ValueError(
            f"{who}: importances have shape {importances.shape} for codes of shape {codes.shape} of one image, "
            f"expected ({codes.shape[-1]},): one for each concept; map images with jax.vmap"
        )
