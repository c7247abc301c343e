r"""Linear bounds, propagated from the output back to the input.

A linear function of the output is at least a linear function of what the last equation takes: where its coefficient is
positive the equation is replaced by its lower affine bound, where it is negative by its upper one. Equation by equation
it becomes a linear function of the input, of which the least value on a box is known.
"""

import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from sparks_jax import stream
from sparks_jax.types import Box
from sparks_jax.verify.enclosures import Affine, largest, lines_of
from sparks_jax.verify.ibp import Walk, output_of, propagate, tightest
from sparks_jax.verify.interpreter import Node, Program
from sparks_jax.verify.regions import Ball, Region, checked, least
from sparks_jax.verify.rounding import sum_error, total
from sparks_jax.verify.rules import Rules, program_of

# Coefficients of values by their numbers, a constant, and the error of rounding.
State = tuple[dict, Any, Any]


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
    number = walk.program.output
    return output_of(walk, rows(walk, number, chunk) if intermediate == "ibp" else None)


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
    walked = partial(propagate, program, region, rules=rules, outward=outward)
    return _tightened(program, walked, chunk) if intermediate == "crown" else walked()


def _tightened(program: Program, walked: Callable[..., Walk], chunk: int) -> Walk:
    """The walk in which what activations take, and the output, is bounded by lines: one program, however deep.

    A loop over chunks of rows of one activation after the other. Each step relaxes the whole program with the bounds
    known so far and sweeps back from where its rows start; equations behind are skipped.
    """
    starts: list[int] = []
    jax.eval_shape(lambda: walked(tighten=lambda i, walk: starts.append(i) or walk.values[i]).values[program.output])
    made = {output for node in program.nodes for output in node.outputs}
    is_float = jnp.issubdtype(program.avals[program.output].dtype, jnp.floating)
    if program.output in program.bounded & made and is_float:
        starts.append(program.output)
    starts = [i for i in dict.fromkeys(starts) if math.prod(program.avals[i].shape)]
    if not starts:
        return walked()
    sizes = [math.prod(program.avals[i].shape) for i in starts]
    # Rows of a start: its lower ends, and its upper ends with the opposite sign.
    size = min(chunk, 2 * max(sizes))
    offsets = np.cumsum([0, *(2 * n for n in sizes)])
    steps = [(k, row) for k, n in enumerate(sizes) for row in range(0, 2 * n, size)]

    def known(heights: Array, i: int) -> Box:
        k, shape = starts.index(i), program.avals[i].shape
        lower, upper = heights[offsets[k] : offsets[k + 1]].reshape(2, *shape)
        return Box(lower, -upper)

    def walk_with(heights: Array) -> Walk:
        return walked(tighten=lambda i, walk: known(heights, i) if i in starts else walk.values[i])

    def step(heights: Array, at: tuple[Array, Array]) -> tuple[Array, None]:
        which, first = at
        walk, count, index = walk_with(heights), jnp.asarray(sizes)[which], first + jnp.arange(size)
        found = jax.vmap(lambda row: _from_start(walk, starts, which, row))(index)
        found = jnp.where(index < 2 * count, found, -jnp.inf)
        return lax.dynamic_update_slice(heights, found, (jnp.asarray(offsets)[which] + first,)), None

    dtype = jax.eval_shape(lambda: walked().values[starts[0]].lower).dtype
    heights = jnp.full(offsets[-1] + size, -jnp.inf, dtype)
    table = tuple(jnp.asarray(column) for column in zip(*steps, strict=True))
    heights, _ = lax.scan(jax.checkpoint(step), heights, table)
    walk = walk_with(heights)
    if program.output in starts:
        walk.values[program.output] = tightest(walk.values[program.output], known(heights, program.output))
    return walk


def _from_start(walk: Walk, starts: list[int], which: Array, row: Array) -> Array:
    """The lower bound of one entry, or of minus one entry, of the start that `which` says.

    The equations between two starts are under one condition: they are skipped if the row starts before them.
    """
    program, zero = walk.program, jnp.zeros((), walk.dtype)
    makers = {node.outputs[0]: k for k, node in enumerate(program.nodes)}
    position = jnp.asarray([makers[i] for i in starts])[which]
    state: State = ({}, zero, zero)
    ordered = sorted(starts, key=lambda i: makers[i])
    for before, i in zip([None, *ordered][-2::-1], ordered[::-1], strict=True):
        first = 0 if before is None else makers[before] + 1

        def back(state: State, i: int = i, first: int = first) -> State:
            coefficients, *rest = state
            shape = program.avals[i].shape
            n = math.prod(shape)
            sign = jnp.where(which == starts.index(i), jnp.where(row < n, 1, -1), 0).astype(walk.dtype)
            seed = one_hot(row % n, shape, walk.dtype) * sign
            coefficients = {**coefficients, i: coefficients[i] + seed if i in coefficients else seed}
            return swept(walk, program.nodes[first : makers[i] + 1], (coefficients, *rest))

        like = jax.eval_shape(back, state)
        kept = {j: state[0][j] if j in state[0] else jnp.zeros(v.shape, v.dtype) for j, v in like[0].items()}
        state = lax.cond(position >= first, back, lambda state, kept=kept: (kept, *state[1:]), state)
    return concluded(walk, state)


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
    # Two programs, of which the compiler drops the one that nobody asks for.
    lower, upper = (stream.stack_over(bound, (index, sign * ones), chunk) for sign in (1, -1))
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
    zero = jnp.zeros((), walk.dtype)
    return concluded(walk, swept(walk, walk.program.nodes, ({number: row}, zero, zero), tuned))


def swept(walk: Walk, nodes: Iterable[Node], state: State, tuned: dict | None = None) -> State:
    """A linear function of some values of a program as one of what the equations that make them take.

    Args:
        walk: Boxes and lines of the program.
        nodes: Equations, first to last.
        state: Coefficients of the values by their numbers, a constant, and the error made so far.
        tuned: As in `lower_bound`.

    Example:
        >>> walk = relaxed(lambda x: 2 * x + 1, Box(jnp.zeros(1), jnp.ones(1)), "ibp", 8, None, False, "crown")
        >>> state = {walk.program.output: jnp.ones(1)}, jnp.float32(0), jnp.float32(0)
        >>> coefficients, constant, _ = swept(walk, walk.program.nodes, state)
        >>> coefficients[walk.program.input].item(), constant.item()
        (2.0, 1.0)

    Reference:
        Zhang et al. 2018, arXiv:1811.00866.
    """
    coefficients, constant, error = dict(state[0]), *state[1:]
    for node in reversed(tuple(nodes)):
        (output, *_) = node.outputs
        if output not in coefficients or output not in walk.enclosures:
            continue
        a = coefficients.pop(output)
        lower, upper = lines_of(walk.enclosures[output], (tuned or {}).get(output))
        parts = [(jnp.maximum(a, 0), lower), (jnp.minimum(a, 0), upper)]
        for part, affine in [(a, lower)] if lower is upper else parts:
            constant, extra = _constant(walk, node, part, affine, constant)
            error += extra + _pull(walk, node, part, affine, coefficients)
    return coefficients, constant, error


def concluded(walk: Walk, state: State) -> Array:
    """The least value on the region of a linear function of the input.

    Example:
        >>> walk = relaxed(lambda x: 2 * x, Box(jnp.zeros(1), jnp.ones(1)), "ibp", 8, None, False, "crown")
        >>> concluded(walk, ({walk.program.input: -jnp.ones(1)}, jnp.float32(3), jnp.float32(0))).item()
        2.0

    Reference:
        Zhang et al. 2018, arXiv:1811.00866.
    """
    coefficients, constant, error = state
    if walk.program.input not in coefficients:
        return constant - error
    return _least(walk, walk.region, coefficients[walk.program.input], constant, error)


def _pull(walk: Walk, node: Node, a: Array, affine: Affine, coefficients: dict) -> Any:
    """Give coefficients of an equation to what it takes, and return the error made in doing so."""
    if affine.linear is None:
        return 0
    program = walk.program
    targets = [i for i in node.inputs if i in program.bounded and jnp.issubdtype(program.avals[i].dtype, jnp.floating)]
    like = [jax.ShapeDtypeStruct(program.avals[i].shape, walk.dtype) for i in targets]
    error = 0
    shares = jax.linear_transpose(affine.linear, *like)(a) if affine.pull is None else (affine.pull(a),)
    for i, share in zip(targets, shares, strict=True):
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
        # Coefficients may also have been flushed to zero.
        share = jnp.abs(a) + terms * jnp.finfo(walk.dtype).tiny
        error = sum_error(share * sizes, terms) if terms else 0
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
