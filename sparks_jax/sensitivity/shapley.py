r"""Shapley values: a number shared among its inputs so that the shares add up.

A coalition is `(dim,)` of zeros and ones: which inputs are present. The Shapley value of an input is what it adds to a
coalition, averaged over the orders in which inputs may join. `shapley_values` enumerates where that is cheap and
samples otherwise; `exact_shapley` and `sampled_shapley` are the two on their own.
"""

import itertools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from sparks_jax import stream
from sparks_jax.linalg import product
from sparks_jax.sensitivity.masks import Game
from sparks_jax.types import Scalar

MAX_EXACT = 12  # 4096 evaluations
MAX_ENUMERATED = 20  # a million, and their weights 84 MB


class SampledShapley(NamedTuple):
    """Shapley values estimated from some of the coalitions.

    Attributes:
        values: `(dim,)` they add up to g(1) - g(0) in every sample.
        stderr: `(dim,)` standard errors: zero where all coalitions were evaluated, infinite where at most one pair of
            the larger ones was.
        r2: `()` share of the variance of g over coalitions, under Shapley's weights, that g(0) and the values of those
            present reproduce: 1 for a sum of functions of one input each, negative where a constant does better. It
            says how additive g is, not how well the values are known.
    """

    values: Float[Array, " dim"]
    stderr: Float[Array, " dim"]
    r2: Scalar


class Pairs(NamedTuple):
    """Coalitions to be evaluated together with their complements, and the weight of each pair.

    Attributes:
        coalitions: `(p, dim)` one of each pair; the other is its complement.
        weights: `(p,)` their sum is 1.
        num_drawn: The last so many are drawn at random, the others are all there are of their size.
    """

    coalitions: Bool[Array, "p dim"]
    weights: Float[np.ndarray, " p"]
    num_drawn: int


def shapley_values(
    g: Game, dim: int, *, key: PRNGKeyArray, num_samples: int = 2048, chunk: int = 64
) -> Float[Array, " dim"]:
    r"""Shapley values of a function of coalitions: exact for at most 12 inputs, else from sampled coalitions.

    $\phi_i = \sum_{S \not\ni i} \frac{|S|!\,(d - |S| - 1)!}{d!} \left( g(S \cup i) - g(S) \right)$

    $\sum_i \phi_i = g(\mathbf 1) - g(\mathbf 0)$ holds up to rounding, sampled or not.

    Cost: $2^d$ evaluations of `g` for $d \le 12$, else `num_samples`. Signed.

    Args:
        g: From a coalition, `(dim,)` of zeros and ones, to one number.
        dim: Number of inputs.
        key: Draws the coalitions; no role for at most 12 inputs.
        num_samples: Evaluations where they are sampled, as in `sampled_shapley`.
        chunk: Evaluations at once.

    Example:
        >>> g = lambda z: 2 * z[0] + 6 * z[0] * z[1] * z[2]  # the product is shared by three
        >>> [round(float(v), 4) for v in shapley_values(g, 3, key=jax.random.key(0))]
        [4.0, 2.0, 2.0]

    Reference:
        Shapley 1953, A value for n-person games; Lundberg & Lee 2017, A unified approach to interpreting model
        predictions, arXiv:1705.07874.
    """
    if dim <= MAX_EXACT:
        return exact_shapley(g, dim, chunk=chunk)
    return sampled_shapley(g, dim, key=key, num_samples=num_samples, chunk=chunk).values


def exact_shapley(g: Game, dim: int, *, chunk: int = 64) -> Float[Array, " dim"]:
    r"""Shapley values from all coalitions.

    $\phi = W v$ with $v_S = g(S)$ and, for $m_s = \left(d \binom{d-1}{s}\right)^{-1}$, $W_{iS} = m_{|S|-1}$ if
    $i \in S$, else $-m_{|S|}$

    Cost: $2^d$ evaluations of `g`. Signed.

    Args:
        g: From a coalition, `(dim,)` of zeros and ones, to one number.
        dim: Number of inputs, at most 20.
        chunk: Evaluations at once.

    Raises:
        ValueError: If there is no input, or more than 20.

    Example:
        >>> exact_shapley(lambda z: jnp.maximum(z[0], z[1]), 3)
        Array([0.5, 0.5, 0. ], dtype=float32)

    Reference:
        Shapley 1953, A value for n-person games.
    """
    if not 1 <= dim <= MAX_ENUMERATED:
        raise ValueError(
            f"exact_shapley: dim is {dim}, expected 1 to {MAX_ENUMERATED} inputs, for 2^dim evaluations; "
            "sample coalitions with sampled_shapley, or group inputs"
        )
    inputs = np.arange(dim)
    values = stream.stack_over(lambda number: g(((number >> inputs) & 1).astype(float)), jnp.arange(2**dim), chunk)
    present = (np.arange(2**dim)[None, :] >> inputs[:, None]) & 1 == 1
    size = present.sum(0)
    joining = np.array([1 / (dim * math.comb(dim - 1, s)) for s in range(dim)] + [0.0])
    weights = np.where(present, joining[size - 1][None], -joining[size][None])
    gains = _wide(values) - _wide(values[0])  # each row of W sums to zero: a common offset need not cost digits
    return jnp.matmul(weights.astype(gains.dtype), gains, precision="highest").astype(values.dtype)


def sampled_shapley(
    g: Game, dim: int, *, key: PRNGKeyArray, num_samples: int = 2048, chunk: int = 64
) -> SampledShapley:
    r"""Shapley values by least squares over pairs of a coalition and its complement: KernelSHAP.

    $\min_\phi \sum_S \pi_S \left( g(S) - g(\bar S) - \sum_{i \in S} \phi_i + \sum_{i \notin S} \phi_i \right)^2$
    subject to $\sum_i \phi_i = g(\mathbf 1) - g(\mathbf 0)$, with $\pi_S \propto 1 / \binom{d}{s} s (d - s)$

    The empty and the full coalition are always evaluated, and so is each input alone and each one left out, which
    determines the fit. Larger coalitions are complete, size by size, where that takes no more than the evaluations
    their weight entitles them to; the others are drawn. Exact for a sum of functions of at most two inputs each, in any
    sample.

    Cost: `num_samples` evaluations of `g`, less one if odd, at most $2^d$ (then exact). Signed.

    Args:
        g: From a coalition, `(dim,)` of zeros and ones, to one number.
        dim: Number of inputs.
        key: Draws the coalitions.
        num_samples: Evaluations, at least 2 dim + 2; shap takes 2 dim + 2048.
        chunk: Evaluations at once.

    Returns:
        `SampledShapley(values, stderr, r2)`.

    Raises:
        ValueError: If there are too few samples to determine the fit.

    Example:
        >>> g = lambda z: z.sum() + z[0] * z[1]
        >>> fit = sampled_shapley(g, 20, key=jax.random.key(0), num_samples=64)
        >>> [round(float(v), 4) for v in fit.values[:3]]
        [1.5, 1.5, 1.0]

    Reference:
        Lundberg & Lee 2017, A unified approach to interpreting model predictions, arXiv:1705.07874; Covert & Lee 2021,
        Improving KernelSHAP: practical Shapley value estimation via linear regression, arXiv:2012.01536 (pairs).
    """
    z, weights, num_drawn = paired_coalitions(dim, key=key, num_samples=num_samples)
    first = jnp.concatenate([jnp.ones((1, dim), bool), z])  # the full and the empty coalition are a pair too
    values = stream.stack_over(lambda z: g(z.astype(float)), jnp.concatenate([first, ~first]), chunk)
    here, there = (_wide(values) - _wide(values[0])).reshape(2, -1)
    dtype, whole, weights = here.dtype, -there[0], jnp.asarray(weights, here.dtype)

    # With signs s = 2z - 1 a pair says s·φ = g(S) - g(S̄). Take φ = whole / d + ψ with Σψ = 0: then c·ψ = target,
    # where c is s less its mean. The ones in the matrix give it the direction that the rows c leave out.
    signs = jnp.where(z, 1, -1).astype(dtype)
    balance = signs.mean(1)
    rows = signs - balance[:, None]
    target = here[1:] - there[1:] - whole * balance
    matrix = product(rows.T, weights[:, None] * rows) + 1 / dim
    # The fit is the same for every g: solved for its rows, it leaves one product for a batch of images.
    pull = jax.scipy.linalg.cho_solve(jax.scipy.linalg.cho_factor(matrix), weights[None] * rows.T)
    psi = product(pull, target)
    phi = whole / dim + psi - psi.mean()

    # What each drawn pair moves, from its residual had it been left out of the fit.
    leverage = (rows.T * pull).sum(0)
    moves = pull * ((target - product(rows, psi)) / jnp.maximum(1 - leverage, 1e-3))[None]
    if num_drawn > 1:
        stderr = jnp.sqrt(moves[:, len(z) - num_drawn :].var(1, ddof=1) * num_drawn)
    else:
        stderr = jnp.full(dim, 0 if len(z) == 2 ** (dim - 1) - 1 else jnp.inf, dtype)
    return SampledShapley(
        phi.astype(values.dtype), stderr.astype(values.dtype), _r2(z, phi, here, there, weights).astype(values.dtype)
    )


def paired_coalitions(dim: int, *, key: PRNGKeyArray, num_samples: int) -> Pairs:
    r"""Coalitions for `sampled_shapley`: small ones complete, the others drawn, each standing for its complement too.

    $P(|S| = s) \propto \frac{d - 1}{s (d - s)}$, uniform among the coalitions of one size.

    Sizes are drawn systematically: of n draws, a size of probability p gets np, rounded up or down.

    Args:
        dim: Number of inputs.
        key: Draws the coalitions.
        num_samples: Twice as many as pairs, with the pair of the full and the empty coalition, which is not returned.

    Raises:
        ValueError: If there is no input, or too few samples for each input alone.

    Example:
        >>> pairs = paired_coalitions(3, key=jax.random.key(0), num_samples=8)
        >>> pairs.coalitions.astype(int).tolist()
        [[1, 0, 0], [0, 1, 0], [0, 0, 1]]

    Reference:
        Lundberg & Lee 2017, A unified approach to interpreting model predictions, arXiv:1705.07874.
    """
    least = min(2 * dim + 2, 2**dim)
    if dim < 1 or num_samples < least:
        raise ValueError(
            f"sampled_shapley: num_samples is {num_samples} for {dim} inputs, expected at least one input and {least} "
            "samples, each input alone and each left out; raise num_samples, or group inputs"
        )
    sizes = np.arange(1, dim // 2 + 1)
    counts = [math.comb(dim, s) // (1 + (2 * s == dim)) for s in range(1, dim // 2 + 1)]  # pairs of each size
    masses = (2 - (2 * sizes == dim)) * (dim - 1) / (sizes * (dim - sizes))
    complete, left = 0, num_samples // 2 - 1
    while complete < len(sizes) and (
        complete == 0 or counts[complete] <= left * masses[complete] / masses[complete:].sum()
    ):
        left -= counts[complete]
        complete += 1
    left = 0 if complete == len(sizes) else left

    # Where a size is its own complement's, the first half of the list, which holds input 0, has one of each pair.
    members = np.zeros((sum(counts[:complete]), dim), bool)
    listed = (itertools.islice(itertools.combinations(range(dim), s + 1), counts[s]) for s in range(complete))
    for row, coalition in enumerate(itertools.chain.from_iterable(listed)):
        members[row, list(coalition)] = True
    weights = np.concatenate([np.full(counts[s], masses[s] / counts[s]) for s in range(complete)] or [np.zeros(0)])
    if not left:
        return Pairs(jnp.asarray(members), weights / (weights.sum() or 1), 0)
    key_size, key_order = jax.random.split(key)
    steps = np.cumsum(masses[complete:-1]) / masses[complete:].sum()
    quantiles = (jnp.arange(left) + jax.random.uniform(key_size)) / left
    size = complete + 1 + jnp.searchsorted(jnp.asarray(steps, quantiles.dtype), quantiles, side="right")
    drawn = jnp.argsort(jax.random.uniform(key_order, (left, dim)), axis=1) < size[:, None]  # the first of an order
    weights = np.concatenate([weights, np.full(left, masses[complete:].sum() / left)])
    return Pairs(jnp.concatenate([jnp.asarray(members), drawn]), weights / weights.sum(), left)


def _r2(z: Array, phi: Array, here: Array, there: Array, weights: Array) -> Scalar:
    """Weighted share of the variance of g, over the pairs, that the values reproduce; 1 where there is none."""
    present = jnp.stack([z, ~z]).astype(phi.dtype)
    values = jnp.stack([here[1:], there[1:]])
    residual = values - there[0] - product(present, phi)
    spread = values - (weights[None] * values).sum() / 2
    within, whole = ((weights[None] * jnp.square(a)).sum() for a in (residual, spread))
    return jnp.where(whole > 0, 1 - within / jnp.where(whole > 0, whole, 1), 1)


def _wide(values: Array) -> Array:
    """At least float32, for sums."""
    return values.astype(jnp.promote_types(values.dtype, jnp.float32))
