r"""From a JAX function to a flat list of equations that bounds can walk through.

`trace` calls the function once on an abstract input, replaces every equation that only calls a jaxpr (`jit`,
`custom_jvp_call`, `remat`, …) by the equations inside, and remembers which values depend on the input. Only public
names of JAX are used, and primitives are known by their names.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.extend import core as jex

# Equations that do nothing but call the one jaxpr among their parameters, under their names in jax 0.10 to 0.12.
CALLS = {
    *("jit", "pjit", "closed_call", "core_call", "core_closed_call", "call", "eval_jaxpr", "remat", "remat2"),
    *("checkpoint", "composite", "custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr"),
}
_INSIDE = ("jaxpr", "call_jaxpr", "fun_jaxpr")
# Equations that return their operands: their outputs are given the numbers of what they take.
_TRANSPARENT = {
    *("stop_gradient", "copy", "copy_p", "name", "optimization_barrier", "device_put", "sharding_constraint"),
    *("pvary", "pcast", "reshard", "mesh_cast"),
}


class Node(NamedTuple):
    """One equation: a primitive, or a group of equations that has a rule of its own.

    Attributes:
        name: Of the primitive or the group.
        apply: The function itself, from arrays to one array (to a list of them if there are several outputs).
        params: Parameters of the primitive.
        inputs: Numbers of the values it takes.
        outputs: Numbers of the values it makes; one only if it depends on the input.
        source: Where it was written, and the calls around it, innermost first.
    """

    name: str
    apply: Callable[..., Any]
    params: Mapping
    inputs: tuple
    outputs: tuple
    source: tuple


class Program(NamedTuple):
    """A function of one array as a list of equations. It can be called, and bounded as the function can.

    Attributes:
        nodes: Equations in an order in which they can be evaluated.
        avals: Shape and dtype of each value.
        constants: Values known before the input is.
        bounded: Numbers of the values that depend on the input.
        input: Number of the input.
        output: Number of the output.
    """

    nodes: tuple
    avals: tuple
    constants: dict
    bounded: frozenset
    input: int
    output: int

    def __call__(self, x: Any) -> Any:
        """The value of the function."""
        values = {**self.constants, self.input: x}
        for node in self.nodes:
            evaluate(node, values)
        return values[self.output]


class _Tape(NamedTuple):
    """A program while it is written."""

    nodes: list
    avals: list
    constants: dict
    bounded: set
    opaque: frozenset

    def new(self, aval: Any) -> int:
        self.avals.append(jax.ShapeDtypeStruct(aval.shape, aval.dtype))
        return len(self.avals) - 1

    def constant(self, value: Any, aval: Any) -> int:
        number = self.new(aval)
        self.constants[number] = value
        return number


def trace(f: Callable[..., Any], like: Any, *, opaque: Collection[str] = ()) -> Program:
    """The equations of a function of one array that returns one array.

    Args:
        f: The function. A `Program` is returned as it is.
        like: An array, or `jax.ShapeDtypeStruct`, of the shape and dtype that it takes.
        opaque: Names of jitted or `custom_jvp` functions to keep as one equation, because there is a rule for them.

    Raises:
        ValueError: If the function returns anything but one array, or is a network that changes its state.

    Example:
        >>> [node.name for node in trace(jax.nn.relu6, jnp.ones(3)).nodes]
        ['max', 'min']

    Reference:
        Frostig, Johnson & Leary 2018, Compiling machine learning programs via high-level tracing.
    """
    like = jax.ShapeDtypeStruct(like.shape, like.dtype)
    if isinstance(f, Program):
        if (f.avals[f.input].shape, f.avals[f.input].dtype) != (like.shape, like.dtype):
            raise ValueError(f"verify: the program takes {f.avals[f.input]}, got {like}")
        return f
    closed, shape = jax.make_jaxpr(_pure(f), return_shape=True)(like)
    if not isinstance(shape, jax.ShapeDtypeStruct):
        raise ValueError(f"verify: the function returns {jax.tree.structure(shape)}, expected one array: select one")
    tape = _Tape([], [], {}, set(), frozenset(opaque))
    number = tape.new(like)
    tape.bounded.add(number)
    (output,) = _inline(tape, closed.jaxpr, closed.consts, [number])
    return _finished(tape, number, output)


def continued(program: Program, tail: Callable[..., Any], numbers: Iterable[int]) -> Program:
    """The program that applies another function to some values of a first one.

    Args:
        program: The first program.
        tail: A function of as many arrays as there are numbers, which returns one array.
        numbers: Values of the program that the tail takes.

    Example:
        >>> program = trace(jnp.sin, jnp.ones(2))
        >>> continued(program, lambda y: 2 * y, [program.output])(jnp.zeros(2)).tolist()
        [0.0, 0.0]

    Reference:
        Frostig, Johnson & Leary 2018, Compiling machine learning programs via high-level tracing.
    """
    tape = _Tape(list(program.nodes), list(program.avals), dict(program.constants), set(program.bounded), frozenset())
    (output,) = _insert(tape, tail, list(numbers))
    return _finished(tape, program.input, output)


def evaluate(node: Node, values: dict) -> None:
    """Evaluate one equation on arrays and note its outputs.

    Example:
        >>> program = trace(jnp.negative, jnp.ones(1))
        >>> values = {program.input: jnp.ones(1)}
        >>> evaluate(program.nodes[0], values)
        >>> values[program.output].item()
        -1.0

    Reference:
        Frostig, Johnson & Leary 2018, Compiling machine learning programs via high-level tracing.
    """
    outputs = node.apply(*(values[i] for i in node.inputs))
    outputs = outputs if isinstance(outputs, list | tuple) else (outputs,)
    values.update(zip(node.outputs, outputs, strict=True))


def _pure(f: Callable[..., Any]) -> Callable[..., Any]:
    """The function, with an explanation where a Flax network in training mode stops it."""

    def called(x: Any) -> Any:
        try:
            return f(x)
        except Exception as error:
            if type(error).__name__ in ("TraceContextError", "ModifyScopeVariableError"):
                raise ValueError(
                    "verify: the function changes the state of a network as it runs, as batch normalisation and "
                    "dropout do in training, expected a network in evaluation mode: call model.eval(), or apply it "
                    "with use_running_average=True and deterministic=True"
                ) from error
            raise

    return called


def _inline(tape: _Tape, jaxpr: Any, consts: Any, numbers: list, around: tuple = ()) -> list:
    """Append the equations of a jaxpr and return the numbers of its outputs."""
    env = dict(zip(jaxpr.invars, numbers, strict=True))
    env.update((v, tape.constant(c, v.aval)) for v, c in zip(jaxpr.constvars, consts, strict=True))

    def read(atom: Any) -> int:
        if isinstance(atom, jex.Literal):
            # 0-dimensional and without weak type: the equations already say where types are promoted.
            aval: Any = atom.aval
            return tape.constant(np.asarray(atom.val, aval.dtype), aval)
        return env[atom]

    for eqn in jaxpr.eqns:
        numbers, source = [read(v) for v in eqn.invars], (eqn.source_info, *around)
        inner = _inner(eqn, tape.opaque)
        if _is_transparent(tape, eqn, numbers):
            outputs = numbers
        elif inner is not None:
            outputs = _inline(tape, inner[0], inner[1], numbers, source)
        elif eqn.primitive.name == "scan" and eqn.params["length"] and any(i in tape.bounded for i in numbers):
            outputs = _unrolled(tape, eqn.params, numbers, source)
        elif eqn.primitive.name == "cond" and _known(tape, numbers[0]) is not None:
            branch = eqn.params["branches"][int(np.clip(_known(tape, numbers[0]), 0, len(eqn.params["branches"]) - 1))]
            outputs = _inline(tape, branch.jaxpr, branch.consts, numbers[1:], source)
        else:
            outputs = _append(tape, eqn, numbers, source)
        env.update(zip(eqn.outvars, outputs, strict=True))
    return [read(v) for v in jaxpr.outvars]


def _is_transparent(tape: _Tape, eqn: Any, numbers: list) -> bool:
    """Whether a bounded value comes out as it went in: gradients with respect to known values keep their equations."""
    if not any(i in tape.bounded for i in numbers):
        return False
    same_type = eqn.primitive.name == "convert_element_type" and eqn.params["new_dtype"] == tape.avals[numbers[0]].dtype
    return same_type or (eqn.primitive.name in _TRANSPARENT and len(numbers) == len(eqn.outvars))


def _inner(eqn: Any, opaque: frozenset) -> tuple | None:
    """The jaxpr that an equation only calls, with its constants; None if it does more, or has a rule of its own."""
    if eqn.primitive.name not in CALLS:
        return None
    jaxprs = [eqn.params[k] for k in _INSIDE if isinstance(eqn.params.get(k), jex.ClosedJaxpr | jex.Jaxpr)]
    if len(jaxprs) != 1:
        return None
    jaxpr, consts = (jaxprs[0].jaxpr, jaxprs[0].consts) if isinstance(jaxprs[0], jex.ClosedJaxpr) else (jaxprs[0], ())
    name = eqn.params.get("name")
    # `jnp.sort` is a jitted function "sort" around the primitive "sort": the rule is for the primitive.
    if name in opaque and name not in _names(jaxpr):
        return None
    return jaxpr, consts


def _names(jaxpr: Any) -> set:
    """Names of all primitives in a jaxpr and in those it calls."""
    names = {eqn.primitive.name for eqn in jaxpr.eqns}
    inside = [inner for eqn in jaxpr.eqns if (inner := _inner(eqn, frozenset())) is not None]
    return names.union(*(_names(inner[0]) for inner in inside))


def _append(tape: _Tape, eqn: Any, numbers: list, source: tuple) -> list:
    """One equation as a node; one node for each output if it depends on the input."""
    called = str(eqn.params.get("name")) if eqn.primitive.name in CALLS else ""
    name = called if called in tape.opaque else eqn.primitive.name
    apply = partial(_bind, eqn.primitive, eqn.params)
    outputs = [tape.new(v.aval) for v in eqn.outvars]
    if not any(i in tape.bounded for i in numbers):
        tape.nodes.append(Node(name, apply, eqn.params, tuple(numbers), tuple(outputs), source))
        return outputs
    if name in ("div", "clamp") and name not in tape.opaque:
        split = _two_steps(tape, name, numbers, source)
        if split is not None:
            return split
    tape.bounded.update(outputs)
    for k, output in enumerate(outputs):
        one = apply if not eqn.primitive.multiple_results else partial(_entry, apply, k)
        tape.nodes.append(Node(name, one, eqn.params, tuple(numbers), (output,), source))
    return outputs


def _bind(primitive: Any, params: Mapping, *operands: Any) -> Any:
    if primitive.name in CALLS:
        inner = next(params[k] for k in _INSIDE if isinstance(params.get(k), jex.ClosedJaxpr | jex.Jaxpr))
        closed = inner if isinstance(inner, jex.ClosedJaxpr) else jex.ClosedJaxpr(inner, ())
        return jex.jaxpr_as_fun(closed)(*operands)
    return primitive.bind(*operands, **params)


def _entry(apply: Callable[..., Any], k: int, *operands: Any) -> Any:
    return apply(*operands)[k]


def _two_steps(tape: _Tape, name: str, numbers: list, source: tuple) -> list | None:
    """A division by what depends on the input as a product with its reciprocal, clamping as a minimum of a maximum."""
    if name == "clamp":
        return _insert(tape, lambda low, x, high: jax.lax.min(jax.lax.max(x, low), high), numbers, source)
    if numbers[1] in tape.bounded:
        return _insert(tape, lambda a, b: jax.lax.mul(a, jax.lax.integer_pow(b, -1)), numbers, source)
    return None


def _insert(tape: _Tape, f: Callable[..., Any], numbers: list, source: tuple = ()) -> list:
    """Append the equations of a Python function of some values."""
    closed = jax.make_jaxpr(f)(*(tape.avals[i] for i in numbers))
    start = len(tape.nodes)
    outputs = _inline(tape, closed.jaxpr, closed.consts, numbers)
    tape.nodes[start:] = [node._replace(source=source) for node in tape.nodes[start:]]
    return outputs


def _unrolled(tape: _Tape, params: Mapping, numbers: list, source: tuple) -> list:
    """A scan as `length` copies of its body."""
    num_consts, num_carry, length = params["num_consts"], params["num_carry"], params["length"]
    consts, carry = numbers[:num_consts], numbers[num_consts : num_consts + num_carry]
    xs, ys, body = numbers[num_consts + num_carry :], [], params["jaxpr"]
    for step in reversed(range(length)) if params["reverse"] else range(length):
        here = [_insert(tape, lambda x: jax.lax.index_in_dim(x, step, 0, False), [x])[0] for x in xs]
        outputs = _inline(tape, body.jaxpr, body.consts, consts + carry + here, source)
        carry = outputs[:num_carry]
        ys.append(outputs[num_carry:])
    ys = ys[::-1] if params["reverse"] else ys
    return carry + [_insert(tape, lambda *rows: jnp.stack(rows), list(rows))[0] for rows in zip(*ys, strict=True)]


def _known(tape: _Tape, number: int) -> Any:
    value = tape.constants.get(number)
    return None if value is None or isinstance(value, Tracer) else value


def _finished(tape: _Tape, number: int, output: int) -> Program:
    """The program, without the equations that its output does not need."""
    needed, nodes = {output}, []
    for node in reversed(tape.nodes):
        if needed.intersection(node.outputs):
            needed.update(node.inputs)
            nodes.append(node)
    constants = {i: v for i, v in tape.constants.items() if i in needed}
    return Program(tuple(nodes[::-1]), tuple(tape.avals), constants, frozenset(tape.bounded), number, output)
