r"""What a rule says of one equation: an interval of its values, and two affine functions between which they lie.

For bounded operands $x$ in their boxes, an equation $y = g(x)$ is enclosed by

$\ell \le g(x) \le u$ and $A_- x + b_- \le g(x) \le A_+ x + b_+$

The interval serves interval propagation, the affine functions the linear bounds.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from sparks_jax.types import Box


class Affine(NamedTuple):
    r"""An affine function of the bounded operands of an equation.

    Attributes:
        linear: $x ↦ A x$, of all bounded floating operands in order, strictly linear; None if A = 0.
        absolute: $x ↦ |A| x$, the same with the absolute values of all coefficients.
        bias: What is added, or None.
        terms: How many products each number is the sum of, at most, in A x and in the transposed map: for rounding.
        pull: The transposed map $a ↦ A^\top a$ of one operand, where it is known in a faster form than JAX derives.
    """

    linear: Any
    absolute: Any = None
    bias: Any = None
    terms: int = 1
    pull: Any = None


class Enclosure(NamedTuple):
    """What is known of the value of one equation when its bounded operands are anywhere in their boxes.

    Attributes:
        box: An interval that contains the values.
        lower: An affine function below them; None for the constant `box.lower`.
        upper: An affine function above them; None for the constant `box.upper`. The same object as `lower` says that
            the equation is affine.
        tuned: From t in [0, 1] of the shape of `start` to other valid (lower, upper); None if there is no choice.
        start: The t of `lower` and `upper`.
        terms: `box` was computed with a relative error of so many units in the last place of `magnitude()`.
        magnitude: Function without arguments; None for the larger end of the box.
    """

    box: Box
    lower: Affine | None = None
    upper: Affine | None = None
    tuned: Callable[[Any], tuple[Affine, Affine]] | None = None
    start: Any = None
    terms: int = 16
    magnitude: Callable[[], Any] | None = None


def line(slope: Any, intercept: Any) -> Affine:
    r"""The line $s\,x + b$ of one operand, elementwise.

    Example:
        >>> line(2.0, 1.0).linear(jnp.array([3.0])).item()
        6.0

    Reference:
        Zhang et al. 2018, Efficient neural network robustness certification with general activation functions,
        arXiv:1811.00866.
    """
    return plane((slope,), intercept)


def plane(slopes: tuple[Any, ...], intercept: Any) -> Affine:
    r"""The plane $\sum_i s_i\,x_i + b$ of several operands, elementwise.

    Example:
        >>> plane((2.0, -1.0), 0.0).linear(jnp.array([3.0]), jnp.array([4.0])).item()
        2.0

    Reference:
        McCormick 1976, Computability of global solutions to factorable nonconvex programs.
    """

    def weighted(weights: tuple[Any, ...], xs: tuple[Any, ...]) -> Any:
        return sum(w * x for w, x in zip(weights[1:], xs[1:], strict=True)) + weights[0] * xs[0]

    magnitudes = tuple(jnp.abs(s) for s in slopes)
    return Affine(lambda *xs: weighted(slopes, xs), lambda *xs: weighted(magnitudes, xs), intercept, 8)


def constant(value: Any) -> Affine:
    """The affine function that is a constant.

    Example:
        >>> constant(3.0).linear is None
        True

    Reference:
        Gowal et al. 2018, On the effectiveness of interval bound propagation, arXiv:1810.12715.
    """
    return Affine(None, None, value)


def lines_of(enclosure: Enclosure, t: Any = None) -> tuple[Affine, Affine]:
    """The affine bounds of an enclosure, with constants where a rule gave none.

    Example:
        >>> lower, _ = lines_of(Enclosure(Box(jnp.zeros(1), jnp.ones(1))))
        >>> lower.bias.item()
        0.0

    Reference:
        Zhang et al. 2018, arXiv:1811.00866.
    """
    if t is not None and enclosure.tuned is not None:
        return enclosure.tuned(t)
    lower, upper = enclosure.lower, enclosure.upper
    box = enclosure.box
    return constant(box.lower) if lower is None else lower, constant(box.upper) if upper is None else upper


def is_affine(enclosure: Enclosure) -> bool:
    """Whether the equation itself is affine, so that its bounds are the equation.

    Example:
        >>> is_affine(Enclosure(Box(jnp.zeros(1), jnp.ones(1))))
        False

    Reference:
        Zhang et al. 2018, arXiv:1811.00866.
    """
    return enclosure.lower is not None and enclosure.lower is enclosure.upper


def negated(enclosure: Enclosure) -> Enclosure:
    """The enclosure of -g(x) from that of g.

    Example:
        >>> negated(Enclosure(Box(jnp.zeros(1), jnp.ones(1)))).box.lower.item()
        -1.0

    Reference:
        Moore, Kearfott & Cloud 2009, Introduction to interval analysis.
    """
    return _turned(enclosure, -1)


def mirrored(enclosure: Enclosure) -> Enclosure:
    """The enclosure of -g(-x) on a box from that of g on its mirror image.

    The slopes of g: a minimum is so made of a maximum.

    Example:
        >>> mirrored(Enclosure(Box(jnp.zeros(1), jnp.ones(1)), line(2.0, 1.0))).upper.linear(jnp.ones(1)).item()
        2.0

    Reference:
        Moore, Kearfott & Cloud 2009, Introduction to interval analysis.
    """
    return _turned(enclosure, 1)


def _turned(enclosure: Enclosure, sign: int) -> Enclosure:
    """Upside down: bounds change places and constants their sign, slopes theirs if `sign` says so."""

    def turn(affine: Affine | None) -> Affine | None:
        if affine is None:
            return None
        linear, bias = affine.linear, affine.bias
        if linear is not None and sign < 0:
            linear = lambda *xs: -affine.linear(*xs)
        return affine._replace(linear=linear, bias=None if bias is None else -bias)

    def tuned(t: Any) -> Any:
        lower, upper = enclosure.tuned(t)  # pyright: ignore[reportOptionalCall]
        return turn(upper), turn(lower)

    return enclosure._replace(
        box=Box(-enclosure.box.upper, -enclosure.box.lower),
        lower=turn(enclosure.upper),
        upper=turn(enclosure.lower),
        tuned=None if enclosure.tuned is None else tuned,
    )


def largest(box: Box) -> Array:
    """The largest absolute value in a box.

    Example:
        >>> largest(Box(jnp.array([-3.0]), jnp.array([2.0]))).item()
        3.0

    Reference:
        Moore, Kearfott & Cloud 2009, Introduction to interval analysis (the magnitude of an interval).
    """
    return jnp.maximum(jnp.abs(box.lower), jnp.abs(box.upper))


def times(weight: Any, value: Any) -> Array:
    """A product in which a weight of zero wins over an infinite value, as it does for every finite one.

    Example:
        >>> times(jnp.zeros(1), jnp.full(1, jnp.inf)).item()
        0.0

    Reference:
        Hickey, Ju & van Emden 2001, Interval arithmetic: from principles to implementation.
    """
    return weight * jnp.where((weight == 0) & jnp.isinf(value), 0, value)
