"""Where bounds grow: a table of the equations of a function, with the width of each and its unstable units."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp

from sparks_jax.verify.crown import relaxed
from sparks_jax.verify.enclosures import is_affine, lines_of
from sparks_jax.verify.ibp import Walk
from sparks_jax.verify.interpreter import Node
from sparks_jax.verify.regions import Region
from sparks_jax.verify.rules import Rules, written_at


class Row(NamedTuple):
    """One equation.

    Attributes:
        name: The primitive, or the group of equations.
        shape: Of its value.
        width: Mean width of the bounds of its value.
        unstable: Share of its units in which its lower and upper line differ: for a rectifier those of unknown sign.
        source: Where it was written.
    """

    name: str
    shape: tuple[int, ...]
    width: float
    unstable: float
    source: str


def report(
    f: Callable[..., Any],
    box: Region,
    *,
    intermediate: Literal["ibp", "crown"] = "ibp",
    chunk: int = 64,
    rules: Rules = None,
) -> list[Row]:
    """The equations of a function that depend on its input, with how much is known of each.

    Where the width jumps is where the bounds are lost. Equations that only move numbers are left out.

    Cost: that of the bounds of all activations, as in `crown`.

    Args:
        f: Any JAX function of one array that returns one array.
        box: Where.
        intermediate: As in `crown`.
        chunk: As in `crown`.
        rules: As in `crown`.

    Raises:
        UnsupportedPrimitive: With all equations that have no rule.
        ValueError: As `crown`.

    Example:
        >>> from sparks_jax.types import Box
        >>> box = Box(jnp.array([-1.0, 1.0]), jnp.array([1.0, 2.0]))
        >>> for row in report(lambda x: jax.nn.relu(2 * x), box):
        ...     row.name, row.shape, row.width, row.unstable
        ('mul', (2,), 3.0, 0.0)
        ('max', (2,), 2.0, 0.5)

    Reference:
        Gowal et al. 2018, On the effectiveness of interval bound propagation, arXiv:1810.12715.
    """
    walk = relaxed(f, box, intermediate, chunk, rules, False, "report")
    return [_row(walk, node) for node in walk.program.nodes if _is_shown(walk, node)]


def _is_shown(walk: Walk, node: Node) -> bool:
    enclosure = walk.enclosures.get(node.outputs[0])
    if enclosure is None or enclosure.box.lower.dtype == jnp.bool_ or enclosure.box.lower.size == 0:
        return False
    return not is_affine(enclosure) or enclosure.lower.terms > 0


def _row(walk: Walk, node: Node) -> Row:
    (output,) = node.outputs
    enclosure = walk.enclosures[output]
    box = walk.values[output]
    unstable = jnp.zeros(())
    if not is_affine(enclosure):
        inputs = [i for i in node.inputs if i in walk.program.bounded]
        ends = [walk.values[i] for i in inputs if jnp.issubdtype(walk.program.avals[i].dtype, jnp.floating)]
        middle = [0.5 * (v.lower + v.upper) for v in ends]
        low, high = (_height(line, middle) for line in lines_of(enclosure))
        unstable = (high - low > 1e-6 * (1 + jnp.abs(low))).mean()
    width = float((box.upper - box.lower).mean())
    return Row(node.name, box.lower.shape, width, float(unstable), written_at(node))


def _height(affine: Any, middle: list) -> Any:
    value = 0.0 if affine.linear is None else affine.linear(*middle)
    return value if affine.bias is None else value + affine.bias
