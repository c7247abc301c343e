r"""Groups of equations that are bounded better as one: activations, softmax.

`x * sigmoid(x)` on [-1, 1] is within [-0.27, 0.73]; its two factors, taken apart, give [-0.73, 0.73]. A group is
recognised by its equations, not by a name that anyone can give: a pattern is the trace of the function of `jax.nn` on
the same shape, and it must agree equation by equation, parameter by parameter, constant by constant.
"""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer

from sparks_jax.types import Box
from sparks_jax.verify.enclosures import Affine, Enclosure, largest
from sparks_jax.verify.interpreter import Node, Program, trace


class _Group(NamedTuple):
    """A function with a rule.

    Attributes:
        name: Of the rule.
        pattern: The function of the bounded array, and an axis if it has one.
        last: Name of its last equation.
        needs: Names that must be somewhere in a program that has it.
        numbers: Constants of the pattern that stand for any number, and become operands of the node.
        apply: The function of the array and the numbers, if there are any.
        over_axis: Whether it runs along an axis.
    """

    name: str
    pattern: Callable[..., Any]
    last: str
    needs: tuple
    numbers: tuple = ()
    apply: Any = None
    over_axis: bool = False


def _leaky(x: Any, slope: Any) -> Any:
    return jnp.where(x > 0, x, slope * x)


def _logsumexp_kept(x: Any, axis: int) -> Any:
    return jax.nn.logsumexp(x, axis=axis, keepdims=True)


# A number given to a function of `jax.nn` leaves other equations than its default.
_NUMBER = 0.3125
_GROUPS = (
    _Group("silu", jax.nn.silu, "mul", ("logistic",)),
    _Group("gelu_tanh", jax.nn.gelu, "mul", ("tanh",)),
    _Group("gelu", partial(jax.nn.gelu, approximate=False), "mul", ("erfc",)),
    _Group("softmax", jax.nn.softmax, "mul", ("exp", "reduce_max"), over_axis=True),
    _Group("log_softmax", jax.nn.log_softmax, "sub", ("exp", "reduce_max"), over_axis=True),
    _Group("logsumexp", jax.nn.logsumexp, "add", ("exp", "reduce_max"), over_axis=True),
    _Group("logsumexp", _logsumexp_kept, "add", ("exp", "reduce_max"), over_axis=True),
    _Group("leaky_relu", jax.nn.leaky_relu, "select_n", ("ge",), (0.01,), _leaky),
    _Group("leaky_relu", lambda x: jax.nn.leaky_relu(x, _NUMBER), "select_n", ("ge",), (_NUMBER,), _leaky),
    _Group("leaky_relu", lambda x: _leaky(x, _NUMBER), "select_n", ("gt",), (_NUMBER,), _leaky),
    _Group("elu", jax.nn.elu, "select_n", ("expm1",), (1.0,), jax.nn.elu),
    _Group("elu", lambda x: jax.nn.elu(x, _NUMBER), "select_n", ("expm1",), (_NUMBER,), jax.nn.elu),
    _Group("softplus", jax.nn.softplus, "select_n", ("log1p",)),
)


def grouped(program: Program) -> Program:
    """The program with the groups of equations it contains as one node each.

    Example:
        >>> [node.name for node in grouped(trace(jax.nn.silu, jnp.ones(3))).nodes]
        ['silu']
        >>> [node.name for node in grouped(trace(lambda x: x * jax.nn.sigmoid(2 * x), jnp.ones(3))).nodes]
        ['mul', 'logistic', 'mul']

    Reference:
        Frostig, Johnson & Leary 2018, Compiling machine learning programs via high-level tracing.
    """
    names = {node.name for node in program.nodes}
    groups = [g for g in _GROUPS if names.issuperset((*g.needs, g.last))]
    if not groups:
        return program
    makers = {output: node for node in program.nodes for output in node.outputs}
    nodes = []
    for node in program.nodes:
        found = next((new for g in groups if g.last == node.name for new in _found(g, program, makers, node)), None)
        nodes.append(node if found is None else found)
    needed, kept = {program.output}, []
    for node in reversed(nodes):
        if needed.intersection(node.outputs):
            needed.update(node.inputs)
            kept.append(node)
    return program._replace(nodes=tuple(kept[::-1]))


def _found(group: _Group, program: Program, makers: dict, node: Node) -> Any:
    """The node that a group ending in this equation would be, or nothing."""
    if not program.bounded.issuperset(node.outputs):
        return
    (output,) = node.outputs
    aval = program.avals[output]
    dtype = jnp.dtype(aval.dtype).name
    for shape, axis in _inputs_of(group, aval.shape, program):
        pattern, numbers = _pattern(group, shape, dtype, axis)
        seen: dict = {}
        if _agree(pattern, {o: n for n in pattern.nodes for o in n.outputs}, numbers, program, makers, seen, output):
            fn = group.apply or (group.pattern if axis is None else partial(group.pattern, axis=axis))
            operands = (seen[pattern.input], *(seen[i] for i in numbers))
            if operands[0] in program.bounded and not program.bounded.intersection(operands[1:]):
                yield Node(group.name, fn, {} if axis is None else {"axis": axis}, operands, (output,), node.source)


def _inputs_of(group: _Group, shape: tuple, program: Program) -> list:
    """Shapes of the input from which the group would make an output of this shape, with the axis."""
    if not group.over_axis:
        return [(shape, None)]
    if group.name != "logsumexp":
        return [(shape, axis) for axis in range(len(shape))]
    # The axis that is summed away: of arrays in the program that have the other sides.
    shapes = {program.avals[i].shape for n in program.nodes if n.name == "exp" for i in n.inputs}
    kept = group.pattern is _logsumexp_kept
    reduced = lambda s, k: (*s[:k], *((1,) if kept else ()), *s[k + 1 :])
    return [(s, k) for s in shapes for k in range(len(s)) if reduced(s, k) == tuple(shape)]


@lru_cache(256)
def _pattern(group: _Group, shape: tuple, dtype: str, axis: int | None) -> tuple[Program, tuple]:
    """The trace of a group, and the constants in it that stand for any number."""
    fn = group.pattern if axis is None else partial(group.pattern, axis=axis)
    pattern = trace(fn, jax.ShapeDtypeStruct(shape, dtype))
    numbers = [np.asarray(v, dtype) for v in group.numbers]
    anything = tuple(i for i, v in pattern.constants.items() if any(v.dtype == n.dtype and v == n for n in numbers))
    return pattern, anything


def _agree(
    pattern: Program, made: dict, anything: tuple, program: Program, makers: dict, seen: dict, output: int
) -> bool:
    """Whether a value of the program is made as the output of the pattern is, from one input."""

    def same(p: int, t: int) -> bool:
        if p in seen:
            return seen[p] == t
        if p != pattern.input and p not in anything:
            if p in pattern.constants:
                value = program.constants.get(t)
                if value is None or isinstance(value, Tracer):
                    return False
                if np.shape(value) != np.shape(pattern.constants[p]) or np.any(value != pattern.constants[p]):
                    return False
            else:
                a, b = made[p], makers.get(t)
                if b is None or a.name != b.name or a.params != b.params or len(a.inputs) != len(b.inputs):
                    return False
                if not all(same(i, j) for i, j in zip(a.inputs, b.inputs, strict=True)):
                    return False
        elif program.avals[t].shape != pattern.avals[p].shape or program.avals[t].dtype != pattern.avals[p].dtype:
            return False
        seen[p] = t
        return True

    return same(pattern.output, output)


def _others(v: Any, axis: int) -> Any:
    """log-sum-exp of the other entries along an axis, summed from both sides so that nothing cancels."""
    nothing = jnp.full_like(lax.slice_in_dim(v, 0, 1, axis=axis), -jnp.inf)
    n = v.shape[axis]
    before = lax.cumlogsumexp(lax.concatenate([nothing, lax.slice_in_dim(v, 0, n - 1, axis=axis)], axis), axis)
    after = lax.cumlogsumexp(lax.concatenate([lax.slice_in_dim(v, 1, n, axis=axis), nothing], axis), axis, reverse=True)
    return jnp.logaddexp(before, after)


def _softmax(node: Node, x: Box) -> Enclosure:
    r"""$p_i = \sigma(x_i - \log \sum_{j \ne i} e^{x_j})$ grows with $x_i$ and falls with the others: exact."""
    axis = node.params["axis"]
    box = Box(jax.nn.sigmoid(x.lower - _others(x.upper, axis)), jax.nn.sigmoid(x.upper - _others(x.lower, axis)))
    size = lambda: largest(box) * (largest(x).max(axis, keepdims=True) + x.lower.shape[axis])
    return Enclosure(box, magnitude=size)


def _log_softmax(node: Node, x: Box) -> Enclosure:
    r"""Exact; from above $x_i$ less a tangent plane of the log-sum-exp, from below $x_i$ less its largest value."""
    axis = node.params["axis"]
    box = Box(-jax.nn.softplus(_others(x.upper, axis) - x.lower), -jax.nn.softplus(_others(x.lower, axis) - x.upper))
    p, b = _tangent(x, axis)
    most = jax.nn.logsumexp(x.upper, axis=axis, keepdims=True)
    below = Affine(_kept, _kept, jnp.broadcast_to(-most, x.lower.shape), 4)
    n = x.lower.shape[axis]
    above = Affine(
        lambda v: v - (p * v).sum(axis, keepdims=True),
        lambda v: v + (p * v).sum(axis, keepdims=True),
        jnp.broadcast_to(-b, x.lower.shape),
        n,
    )
    size = lambda: jnp.broadcast_to(largest(x).max(axis, keepdims=True) + n, x.lower.shape)
    return Enclosure(box, below, above, magnitude=size)


def _logsumexp(node: Node, x: Box) -> Enclosure:
    """Monotone and convex: from below a tangent plane, from above its largest value."""
    axis = node.params["axis"]
    box = Box(node.apply(x.lower), node.apply(x.upper))
    shape, n = box.lower.shape, x.lower.shape[axis]
    p, b = _tangent(x, axis)
    below = lambda v: (p * v).sum(axis).reshape(shape)
    size = lambda: largest(x).max(axis).reshape(shape) + n
    return Enclosure(box, Affine(below, below, b.reshape(shape), n), None, magnitude=size)


def _tangent(x: Box, axis: int) -> tuple[Any, Any]:
    """The tangent plane of the log-sum-exp at the centre: weights and intercept."""
    centre = 0.5 * x.lower + 0.5 * x.upper
    p = jax.nn.softmax(centre, axis=axis)
    return p, jax.nn.logsumexp(centre, axis=axis, keepdims=True) - (p * centre).sum(axis, keepdims=True)


def _kept(x: Any) -> Any:
    return x


GROUPS: dict = {"softmax": _softmax, "log_softmax": _log_softmax, "logsumexp": _logsumexp}
