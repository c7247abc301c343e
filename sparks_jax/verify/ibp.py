r"""Interval bound propagation: boxes through every equation of a function, first to last."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array
from jax.core import Tracer

from sparks_jax.types import Box
from sparks_jax.verify.balls import through
from sparks_jax.verify.enclosures import Enclosure, is_affine
from sparks_jax.verify.interpreter import Node, Program, evaluate
from sparks_jax.verify.regions import Ball, Region, checked, hull
from sparks_jax.verify.rounding import outward as moved_outward
from sparks_jax.verify.rounding import widened
from sparks_jax.verify.rules import Rules, program_of, rule_for

# From the number of a value, what is known so far, to a tighter box.
Tighten = Callable[[int, "Walk"], Box]


class Walk(NamedTuple):
    """What interval propagation knows of a program on a region.

    Attributes:
        program: The equations.
        region: The inputs.
        values: For each value of the program its box, or the value itself if it is known.
        enclosures: For each value that an equation makes of the input, the enclosure of the equation.
        dtype: Of the bounds: at least float32, and that of the widest number in the program.
        outward: Whether bounds hold in floating point.
    """

    program: Program
    region: Region
    values: dict
    enclosures: dict
    dtype: Any
    outward: bool


def ibp(f: Callable[..., Any], box: Region, *, rules: Rules = None, outward: bool = False) -> Box:
    r"""Bounds of a function on a box: interval arithmetic, with one product for centres and one for radii.

    $c' = W c + b,\; r' = |W|\,r$ for affine equations; both ends for monotone ones

    Loose in deep networks (each layer forgets how its inputs depend on each other), exact for one layer, and isotone: a
    smaller box has smaller bounds. They are bounds of the function in real arithmetic, right to rounding; with
    `outward` they hold for every floating-point evaluation as well.

    Cost: 2 F in products.

    Args:
        f: Any JAX function of one array that returns one array.
        box: Where: a `Box`, or an `l2_ball`.
        rules: Rules for primitives that have none, by name (see `rules`).
        outward: Add what rounding can change.

    Returns:
        The bounds, in the dtype of the output of f.

    Raises:
        UnsupportedPrimitive: With all equations that have no rule.
        ValueError: A bad box, a network in training mode, a function that does not return one array.
        TypeError: Integers.

    Example:
        >>> w = jnp.array([[1.0, 1.0], [1.0, -1.0]])
        >>> bounds = ibp(lambda x: jax.nn.relu(x @ w) @ w, Box(-jnp.ones(2), jnp.ones(2)))
        >>> bounds.lower.tolist(), bounds.upper.tolist()
        ([0.0, -2.0], [4.0, 2.0])

    Reference:
        Gowal et al. 2018, On the effectiveness of interval bound propagation for training verifiably robust models,
        arXiv:1810.12715.
    """
    region = checked(box, "ibp")
    walk = propagate(program_of(f, region[0], "ibp", rules), region, rules=rules, outward=outward)
    return output_of(walk)


def propagate(
    program: Program, region: Region, *, rules: Rules = None, outward: bool = False, tighten: Tighten | None = None
) -> Walk:
    """Boxes and enclosures of every equation, first to last.

    Args:
        program: The equations, all of which have rules.
        region: The inputs.
        rules: The user's rules.
        outward: Whether bounds hold in floating point.
        tighten: Called for each bounded operand of an equation that is not affine, unless such an equation made it.

    Example:
        >>> from sparks_jax.verify.rules import program_of
        >>> box = Box(jnp.zeros(1), jnp.ones(1))
        >>> walk = propagate(program_of(lambda x: -x, box.lower, "ibp"), box)
        >>> walk.values[walk.program.output].lower.item()
        -1.0

    Reference:
        Gowal et al. 2018, On the effectiveness of interval bound propagation, arXiv:1810.12715.
    """
    dtype = _working_dtype(program, outward)
    region = type(region)(*(v.astype(dtype) for v in region))
    start = moved_outward(hull(region)) if outward and isinstance(region, Ball) else hull(region)
    walk = Walk(program, region, {**program.constants, program.input: start}, {}, dtype, outward)
    balls = {program.input: region} if isinstance(region, Ball) else {}
    tight = {program.input}
    for node in program.nodes:
        if not program.bounded.issuperset(node.outputs):
            evaluate(node, walk.values)
            continue
        enclosure = _enclosed(node, walk, rules)
        if tighten is not None and not is_affine(enclosure):
            loose = [i for i in node.inputs if i in program.bounded and i not in tight and _is_float(program, i)]
            for i in dict.fromkeys(loose):
                walk.values[i] = tightest(walk.values[i], tighten(i, walk))
                tight.add(i)
            enclosure = _enclosed(node, walk, rules) if loose else enclosure
            tight.update(node.outputs)
        (output,) = node.outputs
        if balls:
            enclosure = through(node, _operands(node, walk), balls, enclosure, outward)
        walk.values[output], walk.enclosures[output] = enclosure.box, enclosure
    return walk


def output_of(walk: Walk, box: Box | None = None) -> Box:
    """The box of the output in its own dtype, cut with another one.

    Example:
        >>> from sparks_jax.verify.rules import program_of
        >>> box = Box(jnp.zeros(1), jnp.ones(1))
        >>> output_of(propagate(program_of(lambda x: 2 * x, box.lower, "ibp"), box)).upper.item()
        2.0

    Reference:
        Gowal et al. 2018, On the effectiveness of interval bound propagation, arXiv:1810.12715.
    """
    known = walk.values[walk.program.output]
    known = known if isinstance(known, Box) else Box(jnp.asarray(known), jnp.asarray(known))
    dtype = walk.program.avals[walk.program.output].dtype
    result = known
    if jnp.issubdtype(dtype, jnp.floating):
        result = known if box is None else _around_centre(walk, _cut(known, box))
        # An end that overflowed on its inner side says nothing.
        lower, upper = result
        result = Box(jnp.where(lower == jnp.inf, -jnp.inf, lower), jnp.where(upper == -jnp.inf, jnp.inf, upper))
    if dtype == result.lower.dtype:
        return result
    cast = Box(*(v.astype(dtype) for v in result))
    if dtype == jnp.bool_:
        return cast
    # Rounding to fewer digits may have moved an end inward.
    wider = moved_outward(cast)
    inward = cast.lower.astype(result.lower.dtype) > result.lower, cast.upper.astype(result.upper.dtype) < result.upper
    return Box(jnp.where(inward[0], wider.lower, cast.lower), jnp.where(inward[1], wider.upper, cast.upper))


def _enclosed(node: Node, walk: Walk, rules: Rules) -> Enclosure:
    enclosure = rule_for(node, rules)(node, *_operands(node, walk))
    if not isinstance(enclosure, Enclosure):
        raise TypeError(f"verify: the rule for {node.name} returned {type(enclosure).__name__}, expected an Enclosure")
    expected = walk.program.avals[node.outputs[0]].shape
    for end in enclosure.box:
        if end.shape != expected:
            raise ValueError(f"verify: the rule for {node.name} made a box {end.shape} of an output {expected}")
    return widened(enclosure) if walk.outward else enclosure


def _operands(node: Node, walk: Walk) -> tuple:
    """Boxes for what is bounded, arrays for what is known, all floating-point numbers in one dtype."""
    values = (walk.values[i] for i in node.inputs)
    return tuple(v if isinstance(v, Box) else _as(v, walk.dtype) for v in values)


def _as(value: Any, dtype: Any) -> Any:
    kind = jnp.result_type(value)
    if jnp.issubdtype(kind, jnp.floating) and kind != dtype:
        return jnp.asarray(value, dtype)
    return value if isinstance(value, Array | Tracer) else jnp.asarray(value)


def tightest(interval: Box, linear: Box) -> Box:
    """The intersection of two boxes around the same values; where rounding made it empty, the numbers in between.

    Example:
        >>> box = tightest(Box(jnp.zeros(1), jnp.ones(1)), Box(jnp.full(1, 0.5), jnp.full(1, 2.0)))
        >>> box.lower.item(), box.upper.item()
        (0.5, 1.0)

    Reference:
        Moore, Kearfott & Cloud 2009, Introduction to interval analysis.
    """
    lower, upper = _cut(interval, linear)
    return Box(jnp.minimum(lower, upper), jnp.maximum(lower, upper))


def _cut(interval: Box, linear: Box) -> Box:
    """The intersection of two boxes around the same values.

    A linear bound may be NaN, or infinite on its inner side, where numbers overflowed, or wrong by any amount, where
    some overflowed and others vanished, but then the interval is infinite. In all these cases it is all that is known.
    """
    lost_below = jnp.isnan(linear.lower) | (linear.lower == jnp.inf) | jnp.isinf(interval.lower)
    lost_above = jnp.isnan(linear.upper) | (linear.upper == -jnp.inf) | jnp.isinf(interval.upper)
    lower = jnp.where(lost_below, interval.lower, linear.lower)
    upper = jnp.where(lost_above, interval.upper, linear.upper)
    return Box(jnp.maximum(interval.lower, lower), jnp.minimum(interval.upper, upper))


def _around_centre(walk: Walk, box: Box) -> Box:
    """The box, and in it the value at the centre of the region, which rounding may have left outside.

    So no lower end is above its upper end, and neither end needs the other: who asks for one pays for one.
    """
    region, program = walk.region, walk.program
    centre = region.center if isinstance(region, Ball) else 0.5 * region.lower + 0.5 * region.upper
    value = program(centre.astype(program.avals[program.input].dtype)).astype(box.lower.dtype)
    known = jnp.isfinite(value)
    lower, upper = jnp.where(known, value, jnp.inf), jnp.where(known, value, -jnp.inf)
    # A bound that is NaN stays so.
    return Box(jnp.minimum(box.lower, lower), jnp.maximum(box.upper, upper))


def _is_float(program: Program, i: int) -> bool:
    return jnp.issubdtype(program.avals[i].dtype, jnp.floating)


def _working_dtype(program: Program, outward: bool) -> Any:
    """The widest type of floating-point numbers that depend on the input, at least float32."""
    numbers = {i for node in program.nodes for i in (*node.inputs, *node.outputs)} & program.bounded
    kinds = {jnp.dtype(program.avals[i].dtype) for i in numbers | {program.input}}
    kinds = {kind for kind in kinds if jnp.issubdtype(kind, jnp.floating)}
    narrow = ", ".join(sorted(kind.name for kind in kinds if jnp.finfo(kind).bits < 32))
    if outward and narrow:
        raise ValueError(f"verify: outward rounding got {narrow}, expected float32 or float64: cast the network")
    return jnp.result_type(jnp.float32, *kinds)
