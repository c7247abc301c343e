"""Numbers of a record with their intervals, at one level, on the host."""

from typing import Any

import numpy as np

from sparks_jax.lens.schema import Interval, Proportion

LEVEL = 0.95
Z = 1.959964  # standard errors on each side, of a normal law at that level


def proportion(number: Any, total: Any) -> Proportion:
    """A share with Wilson's interval; all of [0, 1], and no value, without trials.

    Args:
        number: How often it happened.
        total: Out of how many.

    Example:
        >>> proportion(5, 10)
        Proportion(value=0.5, low=0.236593..., high=0.763406..., number=5, total=10)
        >>> proportion(0, 0)
        Proportion(value=None, low=0.0, high=1.0, number=0, total=0)
    """
    number, total = int(number), int(total)
    if total == 0:
        return Proportion(None, 0.0, 1.0, 0, 0)
    share, z2 = number / total, Z**2
    middle, half = share + z2 / (2 * total), Z * (share * (1 - share) / total + z2 / (4 * total**2)) ** 0.5
    low = 0.0 if number == 0 else (middle - half) / (1 + z2 / total)
    high = 1.0 if number == total else (middle + half) / (1 + z2 / total)
    return Proportion(share, low, high, number, total)


def mean_interval(values: Any, stderr: Any = 0.0) -> Interval:
    r"""A mean with its normal interval, $\bar v \pm z \sqrt{\mathbb{V}\, v / n + \mathrm{se}^2}$.

    Args:
        values: `(n,)`, at least one; of one alone only `stderr` counts.
        stderr: Standard error that all of them share, such as that of sampling.

    Example:
        >>> mean_interval([1.0, 3.0])
        Interval(value=2.0, low=0.04003..., high=3.95996...)
    """
    values = np.asarray(values, np.float64)
    variance = values.var(ddof=1) / len(values) if len(values) > 1 else 0.0
    half = Z * float(np.sqrt(variance + np.square(stderr)))
    mean = float(values.mean())
    return Interval(mean, mean - half, mean + half)
