r"""Linear bounds, propagated from the output back to the input.

A linear function of the output is at least a linear function of what the last equation takes: where its coefficient is
positive the equation is replaced by its lower affine bound, where it is negative by its upper one. Equation by equation
it becomes a linear function of the input, of which the least value on a box is known.
"""

import math
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import Array

from sparks_jax import stream
from sparks_jax.types import Box
from sparks_jax.verify.enclosures import Affine, largest, lines_of
from sparks_jax.verify.ibp import Walk, output_of, propagate
from sparks_jax.verify.interpreter import Node
from sparks_jax.verify.regions import Ball, Region, checked, least
from sparks_jax.verify.rounding import sum_error, total
from sparks_jax.verify.rules import Rules, program_of


def crown(
    f: Callable[..., Any],
    box: Region,
    *,
    intermediate: Literal["ibp", "crown"] = "ibp",
    chunk: int = 64,
    rules: Rules = None,
    outward: bool = False,
) -> Box:
    r"""Bounds of a function on a box by linear bounds, cut with those of interval propagation everywhere.

    $A^\top g(x) \ge A_+^\top (\underline{W} x + \underline{b}) + A_-^\top (\overline{W} x + \overline{b})$, from the
    output to the input, and there $\min_{x \in B} A^\top x + d$

    The lines of an activation need bounds of what it takes: by intervals (`intermediate="ibp"`, CROWN-IBP), or by
    linear bounds that start there (`"crown"`), tighter and as many times as expensive as there are activations. Never
    looser than `ibp`; not isotone, since a smaller box may choose other lines.

    Cost: 2 F + 2 B for each output; with "crown" also 2 B for each number that enters an activation, up to there.

    Args:
        f: Any JAX function of one array that returns one array, of one example: a batch multiplies the coefficients.
        box: Where: a `Box`, or an `l2_ball`.
        intermediate: Where the bounds of what activations take come from.
        chunk: Rows propagated at once: memory is so many times that of the activations.
        rules: Rules for primitives that have none, by name (see `rules`).
        outward: Add what rounding can change.

    Returns:
        The bounds, in the dtype of the output of f.

    Raises:
        UnsupportedPrimitive: With all equations that have no rule.
        ValueError: As `ibp`, or an unknown `intermediate`.
        TypeError: Integers.

    Example:
        >>> w = jnp.array([[1.0, 1.0], [1.0, -1.0]])
        >>> bounds = crown(lambda x: jax.nn.relu(x @ w) @ w, Box(-jnp.ones(2), jnp.ones(2)))
        >>> bounds.lower.tolist(), bounds.upper.tolist()  # intervals alone: 4 in place of 3
        ([0.0, -2.0], [3.0, 2.0])

    Reference:
        Zhang et al. 2018, Efficient neural network robustness certification with general activation functions,
        arXiv:1811.00866. Zhang et al. 2020, Towards stable and efficient training of verifiably robust neural networks,
        arXiv:1906.06316 (CROWN-IBP).
    """
    walk = relaxed(f, box, intermediate, chunk, rules, outward, "crown")
    return output_of(walk, rows(walk, walk.program.output, chunk))


def relaxed(
    f: Callable[..., Any], box: Region, intermediate: str, chunk: int, rules: Rules, outward: bool, who: str
) -> Walk:
    """Boxes and lines of every equation, from which linear bounds are propagated.

    Args:
        f: The function.
        box: Where.
        intermediate: As in `crown`.
        chunk: As in `crown`.
        rules: As in `crown`.
        outward: As in `crown`.
        who: The function that speaks.

    Raises:
        ValueError: An unknown `intermediate`.

    Example:
        >>> walk = relaxed(jnp.tanh, Box(jnp.zeros(1), jnp.ones(1)), "ibp", 8, None, False, "crown")
        >>> sorted(walk.enclosures) == [walk.program.output]
        True

    Reference:
        Zhang et al. 2018, arXiv:1811.00866.
    """
    if intermediate not in ("ibp", "crown"):
        raise ValueError(f"{who}: intermediate is {intermediate!r}, expected 'ibp' or 'crown'")
    region = checked(box, who)
    program = program_of(f, region[0], who, rules)
    tighten = (lambda i, walk: rows(walk, i, chunk)) if intermediate == "crown" else None
    return propagate(program, region, rules=rules, outward=outward, tighten=tighten)


def rows(walk: Walk, number: int, chunk: int) -> Box:
    """Linear bounds of each entry of one value of a program.

    Example:
        >>> walk = relaxed(lambda x: 3 * x - x, Box(-jnp.ones(1), jnp.ones(1)), "ibp", 8, None, False, "crown")
        >>> rows(walk, walk.program.output, 8).upper.item()  # intervals: 4
        2.0

    Reference:
        Zhang et al. 2018, arXiv:1811.00866.
    """
    aval = walk.program.avals[number]
    known = walk.values[number]
    if not isinstance(known, Box) or not jnp.issubdtype(known.lower.dtype, jnp.floating) or known.lower.size == 0:
        return known if isinstance(known, Box) else Box(jnp.asarray(known), jnp.asarray(known))

    def bound(at: tuple[Array, Array]) -> Array:
        i, sign = at
        return sign * lower_bound(walk, number, one_hot(i, aval.shape, walk.dtype) * sign)

    index, ones = jnp.arange(known.lower.size), jnp.ones(known.lower.size, walk.dtype)
    if number == walk.program.output:
        # Two programs, of which the compiler drops the one that nobody asks for.
        lower, upper = (stream.stack_over(bound, (index, sign * ones), chunk) for sign in (1, -1))
    else:
        both = stream.stack_over(bound, (jnp.tile(index, 2), jnp.concatenate([ones, -ones])), chunk)
        lower, upper = jnp.split(both, 2)
    return Box(lower.reshape(aval.shape), upper.reshape(aval.shape))


def one_hot(i: Array, shape: tuple, dtype: Any) -> Array:
    """The array that is 1 at one flat position.

    Example:
        >>> one_hot(jnp.array(3), (2, 2), jnp.float32).tolist()
        [[0.0, 0.0], [0.0, 1.0]]

    Reference:
        Zhang et al. 2018, arXiv:1811.00866.
    """
    return (jnp.arange(math.prod(shape)) == i).astype(dtype).reshape(shape)


def lower_bound(walk: Walk, number: int, row: Array, tuned: dict | None = None) -> Array:
    """The greatest lower bound that lines give of a linear function of one value of a program.

    Args:
        walk: Boxes and lines of the program.
        number: The value.
        row: Coefficients of the linear function, in the shape of the value.
        tuned: For some values t in [0, 1], which chooses among the lines of the equations that made them.

    Example:
        >>> walk = relaxed(jnp.tanh, Box(jnp.zeros(1), jnp.ones(1)), "ibp", 8, None, False, "crown")
        >>> round(lower_bound(walk, walk.program.output, -jnp.ones(1)).item(), 2) >= -0.9
        True

    Reference:
        Zhang et al. 2018, arXiv:1811.00866.
    """
    program, region = walk.program, walk.region
    coefficients, constant, error = {number: row}, jnp.zeros((), walk.dtype), jnp.zeros((), walk.dtype)
    for node in reversed(program.nodes):
        (output, *_) = node.outputs
        if output not in coefficients or output not in walk.enclosures:
            continue
        a = coefficients.pop(output)
        lower, upper = lines_of(walk.enclosures[output], (tuned or {}).get(output))
        parts = [(jnp.maximum(a, 0), lower), (jnp.minimum(a, 0), upper)]
        for part, affine in [(a, lower)] if lower is upper else parts:
            constant, extra = _constant(walk, node, part, affine, constant)
            error += extra + _pull(walk, node, part, affine, coefficients)
    if program.input not in coefficients:
        return constant - error
    return _least(walk, region, coefficients[program.input], constant, error)


def _pull(walk: Walk, node: Node, a: Array, affine: Affine, coefficients: dict) -> Any:
    """Give coefficients of an equation to what it takes, and return the error made in doing so."""
    if affine.linear is None:
        return 0
    program = walk.program
    targets = [i for i in node.inputs if i in program.bounded and jnp.issubdtype(program.avals[i].dtype, jnp.floating)]
    like = [jax.ShapeDtypeStruct(program.avals[i].shape, walk.dtype) for i in targets]
    error = 0
    for i, share in zip(targets, jax.linear_transpose(affine.linear, *like)(a), strict=True):
        merged = i in coefficients
        coefficients[i] = coefficients[i] + share if merged else share
        if walk.outward and merged:
            error += sum_error(jnp.abs(coefficients[i]) * _size(walk, i), 4)
    return error


def _constant(walk: Walk, node: Node, a: Array, affine: Affine, constant: Array) -> tuple[Array, Any]:
    """Add what an affine bound adds; with outward rounding also the error of the bound itself and of the network."""
    error = 0
    if walk.outward:
        sizes = jnp.zeros((), walk.dtype)
        if affine.absolute is not None:
            inputs = [i for i in node.inputs if i in walk.program.bounded and _is_float(walk, i)]
            sizes = affine.absolute(*(_size(walk, i) for i in inputs))
        if affine.bias is not None:
            sizes = sizes + jnp.where(jnp.isfinite(affine.bias), jnp.abs(affine.bias), 0)
        exact = lines_of(walk.enclosures[node.outputs[0]])[0] is lines_of(walk.enclosures[node.outputs[0]])[1]
        # Lines of a curve are rounded themselves: slopes, intercepts, and the curve at the points they touch.
        terms = affine.terms if exact else affine.terms + 64
        sizes = sizes if exact else sizes + _finite(largest(walk.enclosures[node.outputs[0]].box))
        error = sum_error(jnp.abs(a) * sizes, terms) if terms else 0
    if affine.bias is None:
        return constant, error
    # Where nothing depends on a bound that is infinite, it does not matter.
    weighted = jnp.where(a == 0, 0, a) * jnp.where(a == 0, 0, affine.bias)
    added = (total(weighted)[0] if walk.outward else weighted.sum()).astype(walk.dtype)
    if walk.outward:
        error += sum_error(jnp.abs(jnp.stack([constant, added])), 2)
    return constant + added, error


def _least(walk: Walk, region: Region, a: Array, constant: Array, error: Array) -> Array:
    """The least value of a linear function on the region, less the errors."""
    if not walk.outward:
        return least(region, a) + constant
    box = walk.values[walk.program.input]
    sizes = jnp.abs(a) * largest(box)
    if isinstance(region, Ball):
        lowest = least(region, a)
        sizes = jnp.abs(a) * (jnp.abs(region.center) + region.scale)
        error = error + sum_error(sizes, a.size if a.size < 1 << 20 else 1 << 20)
    else:
        lowest, _ = total(jnp.where(a > 0, a * box.lower, jnp.where(a < 0, a * box.upper, 0 * a)))
        error = error + sum_error(sizes, 4)
    result = lowest + constant
    error = error + sum_error(jnp.abs(jnp.stack([lowest, constant])), 4)
    info = jnp.finfo(walk.dtype)
    return result - error * (1 + 16 * info.eps) - (jnp.abs(result) * info.eps + 2 * info.tiny)


def _size(walk: Walk, i: int) -> Array:
    value = walk.values[i]
    return _finite(largest(value if isinstance(value, Box) else Box(value, value)))


def _finite(v: Array) -> Array:
    """Infinite sizes as they are, unless they would meet a coefficient of 0."""
    return jnp.where(jnp.isinf(v), jnp.finfo(v.dtype).max / 4, v)


def _is_float(walk: Walk, i: int) -> bool:
    return jnp.issubdtype(walk.program.avals[i].dtype, jnp.floating)
