r"""Concept activation vectors: a concept given by examples, and whether a class depends on it more than on chance.

A vector $v$ points from activations of random images to those of examples of the concept. A class depends on the
concept if its score rises along $v$ for most of its images, and significantly so if that happens more often, or more
seldom, than along vectors trained on random images against random images.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from sparks_jax.concepts.dictionary import unit
from sparks_jax.linalg import product
from sparks_jax.types import Score

Rows = Float[Array, "n d"]
Scores = Sequence[float] | Float[np.ndarray, " _"] | Float[Array, " _"]


class Significance(NamedTuple):
    """Whether scores of a concept differ from those of random concepts.

    Attributes:
        difference: Mean of the concept's scores minus that of the random ones.
        p: Probability of a difference as large without any, two-sided.
    """

    difference: float
    p: float


def cav(examples: Rows, others: Float[Array, "m _"], *, ridge: float = 1.0, num_steps: int = 20) -> Float[Array, " d"]:
    r"""The direction from other activations to those of a concept, by logistic regression.

    $v = w / \|w\|$ with $w, b = \arg\min \sum_i \log(1 + e^{-y_i (w \cdot a_i + b)}) + \tfrac\lambda2 \|w\|^2$ over
    activations standardised by one mean and one scale, $y = 1$ for examples and $-1$ for the others

    Newton's method with halved steps where the loss would rise, in the span of the rows: the system is as large as the
    smaller of rows and channels.

    Args:
        examples: Activations of examples of the concept.
        others: Activations of anything else.
        ridge: $\lambda$; without it separable sets have no minimum.
        num_steps: Newton steps.

    Raises:
        ValueError: If the two have different channels, or one is empty.

    Example:
        >>> (cav(jnp.array([[2.0, 0.0], [3.0, 1.0]]), jnp.array([[-2.0, 0.0], [-3.0, 1.0]])).round(3) + 0).tolist()
        [1.0, 0.0]

    Reference:
        Kim et al. 2018, Interpretability beyond feature attribution: quantitative testing with concept activation
        vectors (TCAV), arXiv:1711.11279.
    """
    rows, signs = _two_sets(examples, others, "cav")
    centred = rows - rows.mean(0)[None]
    scale = jnp.sqrt(jnp.square(centred).mean())
    centred = centred / jnp.where(scale > 0, scale, 1)
    # In an orthonormal basis of the span of the rows: w = basis z.
    values, basis = jnp.linalg.svd(centred, full_matrices=False)[1:]
    points = jnp.concatenate([product(centred, basis.T), jnp.ones((len(rows), 1), rows.dtype)], 1)
    penalty = jnp.append(jnp.full(len(values), ridge, rows.dtype), 1e-6)

    def loss(z: Array) -> Array:
        return jax.nn.softplus(-signs * product(points, z)).sum() + 0.5 * (penalty * jnp.square(z)).sum()

    def newton(_: Any, z: Array) -> Array:
        p = jax.nn.sigmoid(signs * product(points, z))
        slope = -product(points.T, signs * (1 - p)) + penalty * z
        curvature = product(points.T, (p * (1 - p))[:, None] * points) + jnp.diag(penalty)
        step = jnp.linalg.solve(curvature, slope)
        shares = 0.5 ** jnp.arange(8.0)
        losses = jax.vmap(lambda share: loss(z - share * step))(shares)
        better = losses < loss(z)
        share = jnp.where(better.any(), shares[jnp.argmax(better)], 0)
        return z - share * step

    z = lax.fori_loop(0, num_steps, newton, jnp.zeros(points.shape[1], rows.dtype))
    return unit(product(z[:-1], basis))


def pattern_cav(examples: Rows, others: Float[Array, "m _"]) -> Float[Array, " d"]:
    r"""The direction from the mean of other activations to that of a concept's examples.

    $v = (\bar a_+ - \bar a_-) / \|\bar a_+ - \bar a_-\|$

    What the concept changes in activations, where a classifier's direction may follow what merely separates best.

    Args:
        examples: Activations of examples of the concept.
        others: Activations of anything else.

    Raises:
        ValueError: As `cav`.

    Example:
        >>> pattern_cav(jnp.array([[3.0, 4.0]]), jnp.array([[0.0, 0.0]])).round(3).tolist()
        [0.6000000238418579, 0.800000011920929]

    Reference:
        Pahde et al. 2025, Navigating neural space: revisiting concept activation vectors to overcome directional
        divergence, arXiv:2202.03482.
    """
    rows, signs = _two_sets(examples, others, "pattern_cav")
    return unit(rows[signs > 0].mean(0) - rows[signs < 0].mean(0))


def concept_derivatives(head: Score, acts: Float[Array, "n ..."], vector: Float[Array, " d"]) -> Float[Array, " n"]:
    r"""How fast the score of each image rises along a concept.

    $S(a_i) = \sum_p \langle \nabla_{a_p} h(a_i), v \rangle$, summed over positions

    Cost: 1 B of the head for each row.

    Args:
        head: From the activations of one image `(… d)` to a number.
        acts: `(n … d)` activations of images of the class.
        vector: A direction in activation space.

    Example:
        >>> concept_derivatives(lambda a: a[0] * a[1], jnp.array([[2.0, 5.0]]), jnp.array([1.0, 0.0])).tolist()
        [5.0]

    Reference:
        Kim et al. 2018, arXiv:1711.11279 (section 3.3).
    """
    slopes = jax.vmap(jax.grad(head))(acts)
    return product(slopes, vector).reshape(len(acts), -1).sum(1)


def tcav_score(derivatives: Float[Array, " n"]) -> Float[Array, ""]:
    r"""The share of images whose score rises along a concept.

    $\frac1n |\{i : S(a_i) > 0\}|$

    Args:
        derivatives: What `concept_derivatives` returns.

    Example:
        >>> tcav_score(jnp.array([0.3, -0.1, 2.0, 0.0])).item()
        0.5

    Reference:
        Kim et al. 2018, arXiv:1711.11279 (section 3.4).
    """
    return (derivatives > 0).mean(dtype=derivatives.dtype)


def welch_test(scores: Scores, random_scores: Scores) -> Significance:
    r"""Whether the scores of a concept, over several sets of random images, differ from those of random concepts.

    Welch's $t$, two-sided. Of scores that are all the same in both sets, p is 1 if they are equal and 0 if not.

    Args:
        scores: `(r,)`, one for each set of random images that the concept's vector was trained against.
        random_scores: `(s,)` of vectors trained on random images against random images.

    Raises:
        ValueError: If one has fewer than two scores.

    Example:
        >>> welch_test([0.9, 1.0, 0.95], [0.5, 0.4, 0.6]).p < 0.01
        True

    Reference:
        Welch 1947, The generalization of "Student's" problem when several different population variances are involved.
        Kim et al. 2018, arXiv:1711.11279 (section 3.5).
    """
    from scipy import stats

    first, second = _scores(scores, random_scores, "welch_test")
    difference = float(first.mean() - second.mean())
    if first.std() == 0 and second.std() == 0:
        return Significance(difference, float(difference == 0))
    found: Any = stats.ttest_ind(first, second, equal_var=False)
    return Significance(difference, float(found.pvalue))


def permutation_test(
    scores: Scores,
    random_scores: Scores,
    *,
    seed: int = 0,
    num_resamples: int = 9999,
) -> Significance:
    r"""As `welch_test`, by exchanging scores between the two sets: exact whatever their distribution.

    Args:
        scores: As in `welch_test`.
        random_scores: As in `welch_test`.
        seed: Of the exchanges, where there are more than `num_resamples` of them.
        num_resamples: At most so many exchanges.

    Raises:
        ValueError: As `welch_test`.

    Example:
        >>> permutation_test([1.0, 0.9, 0.95], [0.5, 0.4, 0.6]).p  # 2 of the 20 exchanges are as extreme
        0.1

    Reference:
        Fisher 1935, The design of experiments.
    """
    from scipy import stats

    first, second = _scores(scores, random_scores, "permutation_test")
    apart = lambda a, b, axis: a.mean(axis) - b.mean(axis)
    found = stats.permutation_test(
        (first, second), apart, vectorized=True, n_resamples=num_resamples, rng=np.random.default_rng(seed)
    )
    return Significance(float(found.statistic), float(found.pvalue))


def false_discovery(p: Scores) -> Float[np.ndarray, " t"]:
    r"""P-values of several concepts, adjusted so that those below α have an expected share of α false ones.

    $\min_{j \ge i} \, t\, p_{(j)} / j$, in the order of the p-values

    Args:
        p: One for each concept tested.

    Example:
        >>> false_discovery([0.01, 0.04, 0.03]).round(3).tolist()
        [0.03, 0.04, 0.04]

    Reference:
        Benjamini & Hochberg 1995, Controlling the false discovery rate.
    """
    from scipy import stats

    return stats.false_discovery_control(np.asarray(p, np.float64))


def _two_sets(examples: Array, others: Array, who: str) -> tuple[Array, Array]:
    """All rows, and 1 or -1 for each."""
    shapes = examples.shape, others.shape
    if any(len(shape) != 2 or shape[0] == 0 for shape in shapes) or shapes[0][1] != shapes[1][1]:
        raise ValueError(
            f"{who}: examples have shape {shapes[0]} and others {shapes[1]}, expected (n, d) and (m, d) with at least "
            "a row each; average feature maps over positions first"
        )
    signs = jnp.concatenate([jnp.ones(len(examples)), -jnp.ones(len(others))]).astype(examples.dtype)
    return jnp.concatenate([examples, others]), signs


def _scores(scores: Any, random_scores: Any, who: str) -> tuple[np.ndarray, np.ndarray]:
    first, second = (np.asarray(s, np.float64) for s in (scores, random_scores))
    if first.ndim != 1 or second.ndim != 1 or min(len(first), len(second)) < 2:
        raise ValueError(f"{who}: got scores {first.shape} and {second.shape}, expected at least two of each")
    return first, second
