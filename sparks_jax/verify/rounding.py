r"""Bounds that hold in floating point: what to add for the rounding of the bound and of the network.

A sum of n products, in whatever order and with or without fused multiplication, differs from the exact one by at most
$\gamma_n \sum |w_i x_i|$ with $\gamma_n = n u / (1 - n u)$ and u half a unit in the last place of 1. Bounds are moved
outward by $2 \gamma_n$ of the largest such sum on the box: once for the bound itself, once for the network evaluated in
the same arithmetic. So they contain the real function and every floating-point evaluation of it. Functions other than
the four operations are taken to be right to 16 units in the last place.
"""

from typing import Any

import jax.numpy as jnp
from jax import Array, lax

from sparks_jax.types import Box
from sparks_jax.verify.enclosures import Enclosure, largest


def gamma(terms: int, dtype: Any) -> float:
    r"""$2 \gamma_n$: the relative error of two sums of n products.

    Raises:
        ValueError: If there are so many terms that nothing can be said.

    Example:
        >>> round(gamma(1000, jnp.float32), 7)
        0.0001192

    Reference:
        Higham 2002, Accuracy and stability of numerical algorithms, section 3.1.
    """
    share = terms * float(jnp.finfo(dtype).eps)
    if share >= 0.5:
        raise ValueError(f"verify: a sum of {terms} terms of {jnp.dtype(dtype).name} has no rounding bound")
    return share / (1 - share)


def outward(box: Box) -> Box:
    """A box with each end moved to the next number outward, or a little further.

    Example:
        >>> wider = outward(Box(jnp.ones(1), jnp.ones(1)))
        >>> (wider.lower < 1).item(), (wider.upper > 1).item()
        (True, True)

    Reference:
        Moore, Kearfott & Cloud 2009, Introduction to interval analysis (outward rounding).
    """
    dtype = box.lower.dtype
    info = jnp.finfo(dtype)
    # Relative to numbers too small to have a relative error: subnormal ones may be flushed to zero.
    step = lambda v: jnp.where(jnp.isfinite(v), jnp.abs(v) * info.eps + 2 * info.tiny, 0).astype(dtype)
    return Box(box.lower - step(box.lower), box.upper + step(box.upper))


def widened(enclosure: Enclosure) -> Enclosure:
    """An enclosure whose box holds in floating point.

    Example:
        >>> exact = Enclosure(Box(jnp.ones(1), jnp.ones(1)))
        >>> (widened(exact).box.upper > 1).item()
        True

    Reference:
        Higham 2002, Accuracy and stability of numerical algorithms, section 3.1.
    """
    box, terms = enclosure.box, enclosure.terms
    if terms == 0 or box.lower.dtype == jnp.bool_:
        return enclosure
    size = largest(box) if enclosure.magnitude is None else enclosure.magnitude()
    # The size itself is a rounded sum: once more its own error.
    error = (
        gamma(terms, box.lower.dtype) * (1 + gamma(terms, box.lower.dtype)) * jnp.where(jnp.isnan(size), jnp.inf, size)
    )
    # Each product may also be flushed to zero.
    error = (error + terms * jnp.finfo(error.dtype).tiny).astype(box.lower.dtype)
    lower, upper = box.lower - error, box.upper + error
    unknown = jnp.isnan(lower) & ~jnp.isnan(box.lower), jnp.isnan(upper) & ~jnp.isnan(box.upper)
    box = Box(jnp.where(unknown[0], -jnp.inf, lower), jnp.where(unknown[1], jnp.inf, upper))
    return enclosure._replace(box=outward(box))


def total(values: Array) -> tuple[Array, int]:
    """The sum of all entries in blocks of 64, and how many roundings each entry goes through.

    A sum of n numbers in unknown order may round each n times; 150,528 pixels would cost 2 % of their magnitude.

    Example:
        >>> value, roundings = total(jnp.ones(5000))
        >>> value.item(), roundings
        (5000.0, 192)

    Reference:
        Higham 2002, Accuracy and stability of numerical algorithms, section 4.2.
    """
    values, roundings = values.reshape(-1), 0
    while values.size > 1:
        short = -values.size % 64
        values = jnp.concatenate([values, jnp.zeros(short, values.dtype)]).reshape(-1, 64).sum(1)
        # Or the compiler makes one sum of the two.
        values = lax.optimization_barrier(values)
        roundings += 64
    return values.sum(), roundings


def sum_error(sizes: Array, terms: int) -> Array:
    """The rounding error of the `total` of numbers of these sizes, each with so many roundings of its own.

    Example:
        >>> 0 < sum_error(jnp.ones(2), 0).item() < 1e-4
        True

    Reference:
        Higham 2002, Accuracy and stability of numerical algorithms, section 4.2.
    """
    size, roundings = total(sizes)
    share = gamma(terms + roundings + 2, sizes.dtype)
    # Twice: the sum of the sizes is a rounded number as well.
    return share * (1 + 2 * share) * size + sizes.size * jnp.finfo(sizes.dtype).tiny
