"""Whether the explanations that help people are those that an automatic metric prefers."""

import itertools
import math
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

ENUMERATED = 8  # ranks of so many methods are permuted in all 40 320 ways


class Correlation(NamedTuple):
    """Whether two measures of some methods go together.

    Attributes:
        linear: Pearson's r.
        linear_interval: `(2,)` by Fisher's transform.
        linear_p: Two-sided, by Student's t.
        rank: Spearman's ρ.
        rank_interval: `(2,)` by Bonett and Wright's.
        rank_p: Two-sided: over all permutations of eight methods or fewer, by Student's t of more.
    """

    linear: float
    linear_interval: Float[np.ndarray, "2"]
    linear_p: float
    rank: float
    rank_interval: Float[np.ndarray, "2"]
    rank_p: float


def correlate(utilities: Any, values: Any, *, level: float = 0.95) -> Correlation:
    r"""Whether the methods that help people are those that an automatic metric prefers.

    $r \pm$ as $\tanh(\mathrm{artanh}\, r \pm z\, s)$ with $s = 1 / \sqrt{n - 3}$ for the values and
    $s = \sqrt{(1 + \rho^2 / 2) / (n - 3)}$ for their ranks

    Of the handful of methods that a study compares, it says little: with six, r = 0.8 is within [-0.03, 0.98].

    Args:
        utilities: `(n,)` Utility of each method.
        values: `(n,)` the metric of each.
        level: Probability of the intervals.

    Raises:
        ValueError: For fewer than four methods, other shapes, NaN, or a measure that is the same for all methods.

    Example:
        >>> found = correlate([1.06, 1.15, 1.20, 1.34], [4.0, 3.0, 2.0, 1.0])
        >>> found.rank, round(found.rank_p, 3)  # 2 of the 24 orders are as extreme
        (-1.0, 0.083)

    Reference:
        Fisher 1921, On the "probable error" of a coefficient of correlation deduced from a small sample. Bonett and
        Wright 2000, Sample size requirements for estimating Pearson, Kendall and Spearman correlations.
    """
    from scipy import stats

    first, second = (np.asarray(a, np.float64) for a in (utilities, values))
    if first.ndim != 1 or first.shape != second.shape or len(first) < 4 or not np.isfinite([first, second]).all():
        raise ValueError(
            f"correlate: shapes {first.shape} and {second.shape}, expected a number of each of four methods or more"
        )
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        raise ValueError("correlate: a measure is the same for all methods, so that nothing goes with it")
    n, z = len(first), float(stats.norm.isf((1 - level) / 2))
    ranks = stats.rankdata(first), stats.rankdata(second)
    linear, rank = _product(first, second), _product(*ranks)
    rank_p = _enumerated(*ranks) if n <= ENUMERATED else _student(rank, n)
    return Correlation(
        linear, _fisher(linear, z / math.sqrt(n - 3)), _student(linear, n),
        rank, _fisher(rank, z * math.sqrt((1 + rank**2 / 2) / (n - 3))), rank_p,
    )  # fmt: skip


def _product(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a - a.mean(), b - b.mean()
    return float(np.clip(a @ b / math.sqrt((a @ a) * (b @ b)), -1, 1))


def _fisher(r: float, reach: float) -> Float[np.ndarray, "2"]:
    """Ends of the interval; a perfect correlation leaves no room."""
    middle = math.atanh(r) if abs(r) < 1 else math.copysign(math.inf, r)
    return np.tanh([middle - reach, middle + reach])


def _student(r: float, n: int) -> float:
    from scipy import stats

    t = abs(r) * math.sqrt((n - 2) / (1 - r**2)) if abs(r) < 1 else math.inf
    return float(2 * stats.t.sf(t, n - 2))


def _enumerated(a: np.ndarray, b: np.ndarray) -> float:
    """Share of the permutations of the ranks that go together as much, or more."""
    a, b = a - a.mean(), b - b.mean()
    products = np.abs(b[np.array(list(itertools.permutations(range(len(b)))))] @ a)
    return float((products >= abs(a @ b) - 1e-9).mean())
