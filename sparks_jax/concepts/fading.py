r"""Concept importance from fading: a score as a function of how much of each concept is left.

A concept is one input, wherever it is: the codes $u$ of an image, `(… k)` with one row for each position, are faded by
one factor for each concept, $m \mapsto f(m \odot u)$, and what `sensitivity` says of this function of $k$ numbers is
the importance. So one formula serves pooled codes, grids of positions and tokens, and nothing is computed here that is
not computed there.

A method is a function `(f, codes, *, key) -> Estimate` with `f` a score of codes. Options are bound with
`functools.partial`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from sparks_jax import designs, sensitivity
from sparks_jax.concepts.estimate import Codes, Estimate, Key, Numbers, certain, needed, replicated
from sparks_jax.sensitivity.runs import Design
from sparks_jax.sensitivity.shapley import MAX_EXACT
from sparks_jax.types import Scalar, Score


def fading(f: Score, codes: Codes) -> Callable[[Numbers], Scalar]:
    r"""A score of codes as a function of how much of each concept is left, 1 as it is and 0 none.

    $m \mapsto f(m \odot u)$, at all positions alike

    Args:
        f: A score of codes.
        codes: $u$.

    Example:
        >>> fading(jnp.sum, jnp.array([[1.0, 2.0], [3.0, 4.0]]))(jnp.array([1.0, 0.0])).item()
        4.0

    Reference:
        Fel et al. 2023, CRAFT: concept recursive activation factorization for explainability, arXiv:2211.10154.
    """
    return lambda m: f(codes * m.astype(codes.dtype).reshape((1,) * (codes.ndim - 1) + (-1,)))


def gradient_input(f: Score, codes: Codes, *, key: Key = None) -> Estimate:
    r"""How fast a score falls as each concept begins to fade.

    $\phi_k = \sum_p u_{pk}\, \partial f / \partial u_{pk}$

    Cost: 1 B. Signed.

    Args:
        f: A score of codes.
        codes: $u$.
        key: Not used.

    Example:
        >>> gradient_input(lambda u: u @ jnp.array([3.0, -1.0]), jnp.array([2.0, 5.0])).values.tolist()
        [6.0, -5.0]

    Reference:
        Fel et al. 2023, A holistic approach to unifying automatic concept extraction and concept importance estimation,
        arXiv:2306.07304.
    """
    return certain(sensitivity.gradient_input(fading(f, codes), _ones(codes)))


def integrated_gradients(f: Score, codes: Codes, *, key: Key = None, num_steps: int = 32, chunk: int = 16) -> Estimate:
    r"""What each concept contributes while all fade in together.

    $\phi_k = \sum_p u_{pk} \int_0^1 \partial f(t u) / \partial u_{pk}\, dt, \qquad \sum_k \phi_k = f(u) - f(0)$

    Cost: `num_steps` B. Signed.

    Args:
        f: A score of codes.
        codes: $u$.
        key: Not used.
        num_steps: As in `sensitivity.integrated_gradients`.
        chunk: Evaluations at once.

    Example:
        >>> integrated_gradients(lambda u: u[0] * u[1], jnp.array([2.0, 3.0])).values.round(4).tolist()
        [3.0, 3.0]

    Reference:
        Fel et al. 2023, A holistic approach to unifying automatic concept extraction and concept importance estimation,
        arXiv:2306.07304.
    """
    ones = _ones(codes)
    return certain(sensitivity.integrated_gradients(fading(f, codes), ones, num_steps=num_steps, chunk=chunk))


def occlusion(f: Score, codes: Codes, *, key: Key = None, chunk: int = 64) -> Estimate:
    r"""What a score loses without each concept.

    $\phi_k = f(u) - f(u_{k \leftarrow 0})$

    Cost: k + 1 F. Signed.

    Args:
        f: A score of codes.
        codes: $u$.
        key: Not used.
        chunk: Evaluations at once.

    Example:
        >>> occlusion(lambda u: u[0] * u[1], jnp.array([2.0, 3.0])).values.tolist()
        [6.0, 6.0]

    Reference:
        Fel et al. 2023, A holistic approach to unifying automatic concept extraction and concept importance estimation,
        arXiv:2306.07304.
    """
    return certain(sensitivity.leave_one_out(fading(f, codes), codes.shape[-1], chunk=chunk))


def rise(
    f: Score, codes: Codes, *, key: Key = None, num_masks: int = 128, keep: float | Scalar = 0.5,
    num_replicates: int = 4, chunk: int = 64,
) -> Estimate:  # fmt: skip
    r"""Mean of a score over random sets of concepts that have this one.

    $\phi_k = \mathbb{E}[f(m \odot u) \mid m_k = 1]$ with $m_k \sim \mathcal{B}(q)$

    Only differences mean something: a constant score gives that constant.

    Cost: `num_masks` `num_replicates` F.

    Args:
        f: A score of codes.
        codes: $u$.
        key: Draws the masks.
        num_masks: In each replicate.
        keep: Probability $q$ that a concept is kept.
        num_replicates: As in `smoothgrad`.
        chunk: Evaluations at once.

    Example:
        >>> rise(lambda u: 2 + 0 * u.sum(), jnp.ones(3), key=jax.random.key(0)).values.tolist()
        [2.0, 2.0, 2.0]

    Reference:
        Petsiuk et al. 2018, RISE: randomized input sampling for explanation of black-box models, arXiv:1806.07421.
    """
    draw = lambda key: jax.random.bernoulli(key, keep, codes.shape[-1:]).astype(codes.dtype)
    g = fading(f, codes)
    options: dict[str, Any] = dict(num_masks=num_masks, chunk=chunk)
    run = lambda key: sensitivity.mean_while_present(g, draw, key=key, **options)
    return replicated(run, key, num_replicates, "rise")


def sobol(
    f: Score,
    codes: Codes,
    *,
    key: Key = None,
    num_designs: int = 64,
    design: Design = designs.sobol,
    chunk: int = 64,
) -> Estimate:
    r"""Total Sobol' index of each concept: which share of the variance it has a part in, as concepts fade at random.

    $\phi_k = S_{T_k} = \mathbb{E}\,\mathbb{V}[f(m \odot u) \mid m_{\sim k}] \,/\, \mathbb{V} f(m \odot u)$ with
    $m \sim \mathcal{U}[0, 1]^k$

    Their sum is 1 for an additive score and more for any other, whatever the score; an estimate well below 1 says
    that `num_designs` is too small. The design is scrambled: raw Halton points give concepts of equal importance
    values that differ several fold.

    Cost: `num_designs` (k + 2) F. Unsigned.

    Args:
        f: A score of codes.
        codes: $u$.
        key: Scrambles the design.
        num_designs: A power of two (the paper's code: 32).
        design: As in `sensitivity.sobol_indices`.
        chunk: Evaluations at once.

    Example:
        >>> f = lambda u: u @ jnp.array([2.0, 1.0])  # shares 4/5 and 1/5
        >>> print(sobol(f, jnp.ones(2), key=jax.random.key(0), num_designs=256).values.round(1))
        [0.8 0.2]

    Reference:
        Fel et al. 2023, CRAFT: concept recursive activation factorization for explainability, arXiv:2211.10154.
    """
    options: dict[str, Any] = dict(num_designs=num_designs, design=design, chunk=chunk)
    run = sensitivity.sobol_indices(fading(f, codes), codes.shape[-1], key=needed(key, "sobol"), **options)
    return Estimate(run.total.astype(codes.dtype), run.stderr.astype(codes.dtype))


def hsic(
    f: Score, codes: Codes, *, key: Key = None, num_points: int = 128, num_replicates: int = 4, chunk: int = 64
) -> Estimate:
    r"""How strongly a score depends on whether each concept is present.

    $\phi_k = \mathrm{HSIC}(m_k, f(m \odot u))$ with $m \in \{0, 1\}^k$

    Cost: `num_points` `num_replicates` F. Unsigned.

    Args:
        f: A score of codes.
        codes: $u$.
        key: Scrambles the designs.
        num_points: As in `sensitivity.hsic_indices`, of each replicate: a power of two.
        num_replicates: As in `smoothgrad`.
        chunk: Evaluations at once.

    Example:
        >>> phi = hsic(lambda u: u @ jnp.array([2.0, 1.0, 0.0]), jnp.ones(3), key=jax.random.key(0)).values
        >>> bool((phi[0] > phi[1]) & (phi[1] > phi[2]))
        True

    Reference:
        Novello, Fel & Vigouroux 2022, Making sense of dependence: efficient black-box explanations using dependence
        measure, arXiv:2206.06219.
    """
    g = fading(f, codes)
    options: dict[str, Any] = dict(num_points=num_points, chunk=chunk)
    run = lambda key: sensitivity.hsic_indices(g, codes.shape[-1], key=key, **options)
    return replicated(run, key, num_replicates, "hsic")


def shapley(f: Score, codes: Codes, *, key: Key = None, num_samples: int = 2048, chunk: int = 64) -> Estimate:
    r"""What each concept adds to a set of others, averaged over the orders in which they may come.

    $\phi_k = \sum_{S \not\ni k} \frac{|S|!\,(r - |S| - 1)!}{r!} (f(u_{S \cup k}) - f(u_S))$ for $r$ concepts,
    $\sum_k \phi_k = f(u) - f(0)$

    Cost: $2^r$ F for at most 12 concepts, else `num_samples` F. Signed.

    Args:
        f: A score of codes.
        codes: $u$.
        key: Draws the sets; not used for at most 12 concepts.
        num_samples: As in `sensitivity.sampled_shapley`.
        chunk: Evaluations at once.

    Example:
        >>> shapley(lambda u: u[0] * u[1], jnp.array([2.0, 3.0])).values.tolist()
        [3.0, 3.0]

    Reference:
        Shapley 1953, A value for n-person games.
    """
    g, rank = fading(f, codes), codes.shape[-1]
    if rank <= MAX_EXACT:
        return certain(sensitivity.exact_shapley(g, rank, chunk=chunk))
    key = needed(key, "shapley")
    run = sensitivity.sampled_shapley(g, rank, key=key, num_samples=num_samples, chunk=chunk)
    return Estimate(run.values.astype(codes.dtype), run.stderr.astype(codes.dtype))


def _ones(codes: Codes) -> Numbers:
    return jnp.ones(codes.shape[-1], codes.dtype)
