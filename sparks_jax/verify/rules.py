r"""Which rule is for which equation, and what to say when there is none.

A rule is a function `rule(node, *operands) -> Enclosure`. Operands that depend on the input come as `Box`, the others
as arrays; `node.params` are the parameters of the primitive and `node.apply` is the function itself. A user's rules are
a dictionary from names (of primitives, of jitted or `custom_jvp` functions) passed to the bound; nothing is registered.
"""

import linecache
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp

from sparks_jax.verify.affine_rules import AFFINE, affine_rule
from sparks_jax.verify.elementwise_rules import ELEMENTWISE
from sparks_jax.verify.enclosures import Enclosure
from sparks_jax.verify.groups import GROUPS, grouped
from sparks_jax.verify.interpreter import Node, Program, trace
from sparks_jax.verify.logic_rules import LOGIC
from sparks_jax.verify.maximum_rules import MAXIMA, ORDERED
from sparks_jax.verify.product_rules import PRODUCTS

Rule = Callable[..., Enclosure]
Rules = Mapping[str, Rule] | None

RULES: dict = {
    **dict.fromkeys(AFFINE, affine_rule), **ELEMENTWISE, **MAXIMA, **ORDERED, **LOGIC, **PRODUCTS, **GROUPS,
}  # fmt: skip
# Positions of operands that may depend on the input; the others must be known.
_MAY_DEPEND = {
    **dict.fromkeys(("gather", "dynamic_slice", "reduce_precision", "sort", "pow", "leaky_relu", "elu", "div"), {0}),
    **{"dynamic_update_slice": {0, 1}, "scatter-add": {0, 2}, "scatter": {0, 2}},
}
_REMEDY = (
    "pass rules={{{names}}} with functions rule(node, *operands) -> Enclosure (sparks_jax/verify/README.md), "
    "or write the function without {them}"
)


class UnsupportedPrimitive(NotImplementedError):
    """Some equations of a function have no rule.

    Attributes:
        names: The names of their primitives.
        method: The bound that was asked for.
    """

    def __init__(self, message: str, names: tuple, method: str):
        """Keep the names for those who catch it."""
        super().__init__(message)
        self.names, self.method = names, method


def supported(method: str = "ibp") -> tuple[str, ...]:
    """Names of the primitives and groups of equations that a bound has rules for.

    Args:
        method: "ibp", or "crown", which has no rule for sorting.

    Example:
        >>> "sort" in supported("ibp"), "sort" in supported("crown"), "while" in supported("ibp")
        (True, False, False)

    Reference:
        Gowal et al. 2018, On the effectiveness of interval bound propagation, arXiv:1810.12715.
    """
    return tuple(sorted(RULES if method == "ibp" else set(RULES) - set(ORDERED)))


def program_of(f: Callable[..., Any], like: Any, method: str, rules: Rules = None) -> Program:
    """The equations of a function, all of which have rules.

    Args:
        f: A function of one array.
        like: An array of the shape and dtype that it takes.
        method: Who asks.
        rules: The user's rules, by name.

    Raises:
        UnsupportedPrimitive: With all equations that have none, where they were written, and what to do.
        ValueError: As `interpreter.trace`, or for statistics of a batch.

    Example:
        >>> program_of(lambda x: jax.lax.top_k(x, 1)[0], jnp.ones(3), "ibp")
        Traceback (most recent call last):
        sparks_jax.verify.rules.UnsupportedPrimitive: ibp: no rule for top_k...

    Reference:
        Gowal et al. 2018, On the effectiveness of interval bound propagation, arXiv:1810.12715.
    """
    program = grouped(trace(f, like, opaque=tuple(rules or ())))
    _check_batch_statistics(program, method)
    problems = _problems(program, method, rules)
    if problems:
        raise _unsupported(problems, program, method)
    return program


def rule_for(node: Node, rules: Rules = None) -> Rule:
    """The rule of an equation: the user's, or ours.

    Example:
        >>> from sparks_jax.verify.interpreter import trace
        >>> rule_for(trace(lambda x: -x, jnp.ones(1)).nodes[0]).__name__
        'affine_rule'

    Reference:
        Gowal et al. 2018, On the effectiveness of interval bound propagation, arXiv:1810.12715.
    """
    return (rules or {}).get(node.name) or RULES[node.name]


def written_at(node: Node) -> str:
    """Where the user wrote an equation, and the line.

    Example:
        >>> from sparks_jax.verify.interpreter import trace
        >>> written_at(trace(lambda x: -x, jnp.ones(1)).nodes[0]).split(":")[0].endswith(">")
        True

    Reference:
        Frostig, Johnson & Leary 2018, Compiling machine learning programs via high-level tracing.
    """
    frame = next((f for info in node.source if (f := _frame(info)) is not None), None)
    if frame is None:
        return "an unknown line"
    code = linecache.getline(frame.file_name, frame.line_num).strip()
    return f"{frame.file_name}:{frame.line_num} in {frame.function_name}" + (f": {code}" if code else "")


def _frame(info: Any) -> Any:
    """The innermost line of an equation that is the user's: none in what a jitted function of JAX consists of."""
    traceback = getattr(info, "traceback", None)
    frames = [] if traceback is None else [f for f in traceback.frames if not _is_machinery(f.file_name)]
    return next((f for f in frames if "site-packages" not in f.file_name), next(iter(frames), None))


def _is_machinery(path: str) -> bool:
    path = path.replace("\\", "/")
    return any(part in path for part in ("/jax/", "/jaxlib/", "/flax/", "/equinox/", "/sparks_jax/verify/", "<frozen"))


def _bounded(program: Program) -> list:
    return [node for node in program.nodes if program.bounded.issuperset(node.outputs)]


def _problems(program: Program, method: str, rules: Rules) -> list:
    """Equations that cannot be bounded, with the reason. What they make is not held against those that take it."""
    problems, unknown = [], set()
    for node in _bounded(program):
        reason = _problem(node, program, method, rules)
        if reason and (reason == "no rule" or not unknown.intersection(node.inputs)):
            problems.append((node, reason))
        if reason:
            unknown.update(node.outputs)
    return problems


def _problem(node: Node, program: Program, method: str, rules: Rules) -> str:
    """Why an equation cannot be bounded, or nothing."""
    name = node.name
    if name in (rules or {}):
        return ""
    if name not in RULES or (name in ORDERED and method != "ibp"):
        return "no rule"
    depends = {k for k, i in enumerate(node.inputs) if i in program.bounded}
    if not depends <= _MAY_DEPEND.get(name, depends):
        return "no rule for indices or parameters that depend on the input"
    kinds = [program.avals[i].dtype for i in (*node.outputs, *(node.inputs[k] for k in depends))]
    if any(not jnp.issubdtype(kind, jnp.floating) and kind != jnp.bool_ for kind in kinds):
        return "no rule for integers or complex numbers that depend on the input"
    if name == "sort" and len(node.inputs) > 1:
        return "no rule for sorting several arrays at once"
    if name == "scatter" and not node.params["unique_indices"]:
        return "no rule for indices that may repeat"
    if name == "select_n" and 0 in depends and len(node.inputs) != 3:
        return "no rule for a choice among more than two"
    return ""


def _unsupported(problems: list, program: Program, method: str) -> UnsupportedPrimitive:
    lines = []
    for node, reason in problems:
        shapes = [", ".join(_short(program.avals[i]) for i in numbers) for numbers in (node.inputs, node.outputs)]
        lines.append(f"  {node.name}: {reason}: ({shapes[0]}) -> {shapes[1]}, at {written_at(node)}")
    names = tuple(dict.fromkeys(node.name for node, _ in problems))
    remedy = _REMEDY.format(names=", ".join(f"{name!r}: …" for name in names), them="it" if len(names) == 1 else "them")
    listed = "\n".join(dict.fromkeys(lines))
    return UnsupportedPrimitive(f"{method}: no rule for {', '.join(names)}; {remedy}\n{listed}", names, method)


def _short(aval: Any) -> str:
    return f"{jnp.dtype(aval.dtype).name}{list(aval.shape)}"


def _check_batch_statistics(program: Program, method: str) -> None:
    """Refuse the mean over the batch of one that `x[None]` is, if the inverse of a deviation comes of it."""
    pooled = set()
    for node in _bounded(program):
        shape, size = program.avals[node.inputs[0]].shape, math.prod(program.avals[node.outputs[0]].shape)
        axes = node.params.get("axes", ()) if node.name == "reduce_sum" else ()
        if len(shape) > 1 and shape[0] == 1 and tuple(axes) == tuple(range(len(shape) - 1)):
            pooled.update(node.outputs)
        elif any(i in pooled and math.prod(program.avals[i].shape) == size for i in node.inputs):
            if node.name in ("rsqrt", "sqrt"):
                raise ValueError(
                    f"{method}: the function divides by the deviation of a batch, at {written_at(node)}, expected a "
                    "network in evaluation mode: call model.eval(), or apply it with use_running_average=True"
                )
            pooled.update(node.outputs)
