r"""Intervals and lines around functions of one number, applied to each entry: convex, sigmoidal, hinged, smooth ones.

Two lines enclose a function on $[\ell, u]$. Where it is convex, the chord is above and every tangent below; where it is
concave, the other way round. A function that is convex on the left of a point and concave on its right (tanh) is below
the chord if its slope at $u$ is at least that of the chord, and otherwise below the tangent that meets it at $\ell$.
Every line is shifted so that it touches the function: its slope may be approximate, only the intercept must be right.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import Array, lax

from sparks_jax.types import Box
from sparks_jax.verify.enclosures import Enclosure, largest, line, negated, times

Function = Callable[[Any], Array]


def convex(x: Box, fn: Function, slope: Function, *, minimum: float | None = None) -> Enclosure:
    r"""A convex function: its chord above, a tangent below, at the point $\ell + t (u - \ell)$, half way unless tuned.

    Args:
        x: Where.
        fn: The function.
        slope: Its derivative.
        minimum: Where it is smallest, if it is not monotone.

    Example:
        >>> square = convex(Box(jnp.array([-1.0]), jnp.array([2.0])), jnp.square, lambda x: 2 * x, minimum=0.0)
        >>> square.box.lower.item(), square.box.upper.item()
        (0.0, 4.0)
        >>> square.upper.bias.item()  # the chord x + 2
        2.0

    Reference:
        Zhang et al. 2018, Efficient neural network robustness certification with general activation functions,
        arXiv:1811.00866.
    """
    lower, upper = x
    ends = fn(lower), fn(upper)
    least = jnp.minimum(*ends) if minimum is None else fn(jnp.clip(minimum, lower, upper))
    box = Box(_with_nan(least, *ends), jnp.maximum(*ends))

    def lines(t: Any) -> Any:
        return _tangent(x, fn, slope, lower + t * (upper - lower), box.lower), _chord(x, *ends, box.upper)

    start = jnp.full_like(lower, 0.5)
    low, high = lines(start)
    return Enclosure(box, low, high, lines, start)


def concave(x: Box, fn: Function, slope: Function) -> Enclosure:
    """A concave function: the negative of a convex one.

    Example:
        >>> log = concave(Box(jnp.array([1.0]), jnp.array([2.0])), jnp.log, lambda x: 1 / x)
        >>> log.box.lower.item()
        0.0

    Reference:
        Zhang et al. 2018, arXiv:1811.00866.
    """
    return negated(convex(x, lambda v: -fn(v), lambda v: -slope(v)))


def sigmoidal(x: Box, fn: Function, slope: Function) -> Enclosure:
    r"""A monotone function that is convex below 0 and concave above.

    Example:
        >>> tanh = sigmoidal(Box(jnp.array([-1.0]), jnp.array([1.0])), jnp.tanh, lambda v: 1 - jnp.tanh(v) ** 2)
        >>> round(tanh.upper.linear(jnp.array([1.0])).item() + tanh.upper.bias.item(), 2) >= 0.76
        True

    Reference:
        Zhang et al. 2018, arXiv:1811.00866.
    """
    lower, upper = x
    ends = fn(lower), fn(upper)
    box = Box(jnp.minimum(*ends), jnp.maximum(*ends))
    # The line below is minus the line above -fn(-v), which is sigmoidal as well: both in one array.
    sign = jnp.array([1, -1], lower.dtype).reshape(2, *(1,) * lower.ndim)
    both = Box(jnp.stack([lower, -upper]), jnp.stack([upper, -lower]))
    ceilings = jnp.stack([box.upper, -box.lower])

    def lines(t: Any) -> Any:
        slopes, heights = _over_sigmoid(both, lambda v: sign * fn(sign * v), lambda v: slope(sign * v), t, ceilings)
        return line(slopes[1], -heights[1]), line(slopes[0], heights[0])

    # From the touching point to the upper end; where all is concave, in the middle.
    start = jnp.where(both.lower >= 0, 0.5, 0).astype(lower.dtype)
    low, high = lines(start)
    return Enclosure(box, low, high, lines, start)


def _over_sigmoid(x: Box, fn: Function, slope: Function, t: Any, ceiling: Any) -> tuple[Array, Array]:
    """A line above a function that is convex below 0 and concave above: slope and intercept.

    The slope is that of the function at a point p >= 0, or that of the chord. Then fn - s v is largest at the lower
    end, at p, or, on the convex side and for the chord, at an end.
    """
    lower, upper = x
    apart = upper > lower
    width = jnp.where(apart, upper - lower, 1)
    secant = jnp.where(apart, (fn(upper) - fn(lower)) / width, slope(upper))
    use_chord = (slope(upper) >= secant) | ~apart
    # Tangents at points from here to the upper end are above: where all is concave, at every point.
    first = jnp.where(lower >= 0, lower, jnp.clip(_touching(x, fn, slope), 0, jnp.maximum(upper, 0)))
    point = jnp.minimum(first + t * (upper - first), upper)
    s = jnp.where(use_chord, secant, slope(point))
    gap = lambda v: fn(v) - times(s, v)
    b = jnp.where(use_chord, jnp.maximum(gap(lower), gap(upper)), jnp.maximum(gap(lower), gap(point)))
    good = jnp.isfinite(s) & jnp.isfinite(b)
    return jnp.where(good, s, 0), jnp.where(good, b, ceiling)


def _touching(x: Box, fn: Function, slope: Function, steps: int = 18) -> Array:
    r"""The point $p \in [0, u]$ whose tangent meets the function at the lower end.

    By bisection, since fn(p) - fn(l) - slope(p) (p - l) grows with p, and a Newton step, which carries derivatives.
    """
    lower, upper = lax.stop_gradient(x.lower), lax.stop_gradient(x.upper)

    def halve(_: Any, ends: Any) -> Any:
        left, right = ends
        middle = 0.5 * (left + right)
        beyond = fn(middle) - fn(lower) - slope(middle) * (middle - lower) > 0
        return jnp.where(beyond, left, middle), jnp.where(beyond, middle, right)

    left, right = lax.fori_loop(0, steps, halve, (jnp.zeros_like(lower), jnp.maximum(upper, 0)))
    p = 0.5 * (left + right)
    # The step is of the size of the bisection's error, its derivative that of the implicit function.
    excess = fn(p) - fn(x.lower) - slope(p) * (p - x.lower)
    h = 1e-3 * (1 + jnp.abs(p))
    growth = lax.stop_gradient((slope(p) - slope(p + h)) / h * (p - lower))
    moved = jnp.where(growth > 1e-6, excess / jnp.where(growth > 1e-6, growth, 1), 0)
    step = jnp.clip(moved, -h, h)
    return p - jnp.where(jnp.isfinite(step), step, 0)


def flexed(x: Box, fn: Function, slope: Function) -> Enclosure:
    """A monotone function that is concave below 0 and convex above: the negative of a sigmoidal one.

    Example:
        >>> cube = flexed(Box(jnp.array([-1.0]), jnp.array([2.0])), lambda v: v**3, lambda v: 3 * v**2)
        >>> cube.box.lower.item(), cube.box.upper.item()
        (-1.0, 8.0)

    Reference:
        Zhang et al. 2018, arXiv:1811.00866.
    """
    return negated(sigmoidal(x, lambda v: -fn(v), lambda v: -slope(v)))


def hinge(x: Box, kink: Any, left: Any, right: Any) -> Enclosure:
    r"""The function $c + a\,(x - c)$ below $c$ and $c + b\,(x - c)$ above: the rectifier and its relatives.

    If $a \le b$ the chord is above, and below every line through the kink with a slope between the two: that of the
    longer side unless tuned. On either side alone the function is affine, and so are its bounds.

    Args:
        x: Where.
        kink: The point $c$, also the value there.
        left: The slope $a$.
        right: The slope $b$.

    Example:
        >>> relu = hinge(Box(jnp.array([-1.0]), jnp.array([3.0])), 0.0, 0.0, 1.0)
        >>> relu.upper.linear(jnp.array([1.0])).item(), relu.upper.bias.item()
        (0.75, 0.75)

    Reference:
        Zhang et al. 2018, arXiv:1811.00866 (CROWN's adaptive slope). Singh et al. 2019, An abstract domain for
        certifying neural networks.
    """
    lower, upper = x
    kink, left, right = (jnp.broadcast_to(jnp.asarray(v, lower.dtype), lower.shape) for v in (kink, left, right))
    # With a slope of 1 the value is v, and an infinite kink (the maximum with -inf) never enters.
    finite_kink = jnp.where(jnp.isinf(kink), 0, kink)
    side = lambda s, v: jnp.where(s == 1, v, kink + s * (v - finite_kink))
    fn = lambda v: jnp.where(v < kink, side(left, v), jnp.where(v > kink, side(right, v), v))
    on_left, on_right = upper <= kink, lower >= kink
    ends = fn(lower), fn(upper)
    lowest, highest = jnp.minimum(*ends), jnp.maximum(*ends)
    across = ~(on_left | on_right)
    box = Box(
        jnp.where(across, jnp.minimum(lowest, kink), lowest), jnp.where(across, jnp.maximum(highest, kink), highest)
    )
    outer = jnp.where(on_right, right, left)
    width = jnp.where(across, upper - lower, 1)
    secant = jnp.where(across, (ends[1] - ends[0]) / width, outer)
    above = jnp.where(across, ends[0] - times(secant, lower), times(1 - outer, kink))
    good = jnp.isfinite(secant) & jnp.isfinite(above)

    def lines(t: Any) -> Any:
        s = jnp.where(across, left + t * (right - left), outer)
        through_kink = s, times(1 - s, kink)
        is_convex = left <= right
        chords = [(jnp.where(good, secant, 0), jnp.where(good, above, end)) for end in box]
        low = [jnp.where(is_convex, a, b) for a, b in zip(through_kink, chords[0], strict=True)]
        high = [jnp.where(is_convex, b, a) for a, b in zip(through_kink, chords[1], strict=True)]
        return line(*low), line(*high)

    start = jnp.where(upper - kink > kink - lower, 1, 0).astype(lower.dtype)
    low, high = lines(start)
    return Enclosure(box, low, high, lines, start)


def wavy(x: Box, fn: Function, slope: Function, *, minimum: float, curvature: float) -> Enclosure:
    """A smooth function that falls to one minimum and rises after it, convex in the middle only (SiLU, GELU).

    Args:
        x: Where.
        fn: The function.
        slope: Its derivative.
        minimum: Where it is smallest.
        curvature: A bound of its second derivative.

    Example:
        >>> import jax
        >>> x = Box(jnp.array([-3.0]), jnp.array([1.0]))
        >>> silu = wavy(x, jax.nn.silu, jax.nn.sigmoid, minimum=-1.278465, curvature=0.5)
        >>> round(silu.box.lower.item(), 4)
        -0.2785

    Reference:
        Hendrycks & Gimpel 2016, Gaussian error linear units, arXiv:1606.08415.
    """
    ends = fn(x.lower), fn(x.upper)
    least = _with_nan(fn(jnp.clip(minimum, x.lower, x.upper)), *ends)
    return smooth(x, fn, slope, Box(least, jnp.maximum(*ends)), curvature)


def smooth(x: Box, fn: Function, slope: Function, box: Box, curvature: float, *, points: int = 33) -> Enclosure:
    r"""A function of which an interval and a bound of the second derivative are known.

    On a grid of step $h$ a function with $|g''| \le M$ differs from its linear interpolation by at most $M h^2 / 8$, so
    the least of $\sigma(v) - s v$ on the grid, less that, is below it everywhere. Of two slopes, the chord's and the
    tangent's in the middle, the one whose line is closer there is taken; the chord's, if they are alike.

    Args:
        x: Where.
        fn: The function.
        slope: Its derivative.
        box: An interval of its values.
        curvature: A bound $M$ of its second derivative.
        points: Of the grid.

    Example:
        >>> x, box = Box(jnp.zeros(1), jnp.ones(1)), Box(jnp.zeros(1), jnp.sin(jnp.ones(1)))
        >>> sine = smooth(x, jnp.sin, jnp.cos, box, 1.0)
        >>> round(sine.lower.linear(jnp.ones(1)).item(), 4)  # the chord
        0.8415

    Reference:
        Shi et al. 2020, Robustness verification for transformers, arXiv:2002.06622 (linear bounds of such functions).
    """
    lower, upper = x
    width, middle = upper - lower, 0.5 * (lower + upper)
    apart = width > 0
    tangent = slope(middle)
    secant = jnp.where(apart, (fn(upper) - fn(lower)) / jnp.where(apart, width, 1), tangent)
    shares = jnp.linspace(0, 1, points, dtype=lower.dtype).reshape(-1, *(1,) * lower.ndim)
    grid = lower[None] + shares * width[None]
    values = fn(grid)
    slack = curvature / 8 * (width / (points - 1)) ** 2

    def best(sign: int) -> Any:
        lines = [(s, (sign * (values - s[None] * grid)).min(0) - slack) for s in (secant, tangent)]
        heights = [sign * s * middle + b for s, b in lines]
        # Lines as close as the grid can tell are alike: were it not for the slack, rounding would choose between them.
        s, b = (jnp.where(heights[0] >= heights[1] - slack, p, q) for p, q in zip(*lines, strict=True))
        good = jnp.isfinite(s) & jnp.isfinite(b)
        return line(jnp.where(good, s, 0), jnp.where(good, sign * b, box.lower if sign > 0 else box.upper))

    return Enclosure(box, best(1), best(-1), magnitude=lambda: largest(x) + largest(box))


def steps(x: Box, fn: Function) -> Enclosure:
    """A monotone function bounded by constants: it has jumps, or no better lines are known.

    Example:
        >>> steps(Box(jnp.array([-1.0]), jnp.array([1.5])), jnp.floor).box.upper.item()
        1.0

    Reference:
        Moore, Kearfott & Cloud 2009, Introduction to interval analysis.
    """
    ends = fn(x.lower), fn(x.upper)
    return Enclosure(Box(jnp.minimum(*ends), jnp.maximum(*ends)))


def _with_nan(value: Any, *others: Any) -> Array:
    """The value, or NaN where one of the others is: outside of a domain nothing is known."""
    return jnp.where(sum(jnp.isnan(v) for v in others) > 0, jnp.nan, value)


def _tangent(x: Box, fn: Function, slope: Function, point: Any, floor: Any) -> Any:
    """The tangent at a point; the constant `floor` where it is not finite."""
    s = slope(point)
    b = fn(point) - times(s, point)
    good = jnp.isfinite(s) & jnp.isfinite(b) & jnp.isfinite(x.lower) & jnp.isfinite(x.upper)
    return line(jnp.where(good, s, 0), jnp.where(good, b, floor))


def _chord(x: Box, at_lower: Any, at_upper: Any, ceiling: Any) -> Any:
    """The line through both ends; the constant `ceiling` where it is not finite or the ends meet."""
    apart = x.upper > x.lower
    s = (at_upper - at_lower) / jnp.where(apart, x.upper - x.lower, 1)
    b = jnp.maximum(at_lower - times(s, x.lower), at_upper - times(s, x.upper))
    good = apart & jnp.isfinite(s) & jnp.isfinite(b)
    return line(jnp.where(good, s, 0), jnp.where(good, b, ceiling))
