"""Whether a function is affine: read from its program, so that closed forms are used where they are exact."""

from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Jaxpr, JaxprEqn, Literal


class _Is(IntEnum):
    """How a value depends on the input of the program."""

    CONSTANT = 0
    AFFINE = 1
    OTHER = 2


# Affine in all of their operands at once; in any one of them, the others constant; in the first, the others constant.
_SUMS = {
    "add", "add_any", "broadcast_in_dim", "concatenate", "copy", "cumsum", "expand_dims", "neg", "optimization_barrier",
    "pad", "reduce_sum", "reduce_window_sum", "reshape", "reshard", "rev", "sharding_constraint", "slice", "split",
    "squeeze", "sub", "transpose",
}  # fmt: skip
_PRODUCTS = {"conv_general_dilated", "dot_general", "mul"}
_IN_THE_FIRST = {"div", "dynamic_slice", "gather"}
_CALLS = {
    "checkpoint", "closed_call", "core_call", "custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr", "jit",
    "pjit", "remat", "remat2",
}  # fmt: skip


def is_affine(f: Callable[[Any], Any], x: Any) -> bool:
    r"""Whether the program of a function makes nothing of its input but sums with constant weights.

    $f(x) = \langle w, x \rangle + b$ for some $w$ and $b$, in each of its outputs

    True is a proof: every step that depends on the input is a sum, a move, or a product with what does not depend on
    it. False is not: $|x|^2 - (|x|^2 - x)$ is affine too. Constants may be traced. Derivatives that are declared, as
    those of straight-through estimators, are not believed: the function itself is read.

    Cost: no evaluation; the time of one trace.

    Args:
        f: From one array, or a pytree of them, to another.
        x: The input, or `jax.ShapeDtypeStruct`: only its shape and dtype matter.

    Example:
        >>> x = jax.ShapeDtypeStruct((3, 2), jnp.float32)
        >>> is_affine(lambda x: x.mean(0) @ jnp.ones(2) + 1, x), is_affine(lambda x: jax.nn.relu(x).sum(), x)
        (True, False)

    Reference:
        Frostig, Johnson & Leary 2018, Compiling machine learning programs via high-level tracing (the jaxpr).
    """
    closed = jax.make_jaxpr(f)(x)
    outputs = _follow(closed.jaxpr, [_Is.AFFINE] * len(closed.jaxpr.invars))
    return all(output != _Is.OTHER for output in outputs)


def _follow(jaxpr: Jaxpr, inputs: Sequence[_Is]) -> list[_Is]:
    """How the outputs of a program depend on its input, given how its own inputs do."""
    known = dict(zip(jaxpr.invars, inputs, strict=True))
    read = lambda atom: _Is.CONSTANT if isinstance(atom, Literal) else known.get(atom, _Is.CONSTANT)
    for equation in jaxpr.eqns:
        known |= zip(equation.outvars, _step(equation, [read(atom) for atom in equation.invars]), strict=True)
    return [read(atom) for atom in jaxpr.outvars]


def _step(equation: JaxprEqn, operands: Sequence[_Is]) -> Sequence[_Is]:
    name, worst = equation.primitive.name, max(operands, default=_Is.CONSTANT)
    if name in _CALLS:
        body: Any = equation.params.get("jaxpr", equation.params.get("call_jaxpr"))
        return _follow(getattr(body, "jaxpr", body), operands)
    first_only = worst == operands[0] and not any(operands[1:]) if operands else True
    stays = (
        worst == _Is.CONSTANT
        or name in _SUMS
        or (name in _PRODUCTS and sum(map(bool, operands)) == 1)
        or (name in _IN_THE_FIRST and first_only)
        or (name == "select_n" and operands[0] == _Is.CONSTANT)
        or (name == "convert_element_type" and jnp.issubdtype(equation.params["new_dtype"], jnp.inexact))
    )
    return [worst if stays else _Is.OTHER] * len(equation.outvars)
