r"""Rules for equations that are affine in their bounded operands: moves, sums, products with constants, convolutions.

Moving numbers and adding them with non-negative weights maps both ends of an interval. A product with a constant W maps
centre and radius,

$c' = W c + b, \quad r' = |W|\,r$

and costs two products, where the four of $W_+ \ell + W_- u$ and $W_+ u + W_- \ell$ give the same.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from sparks_jax.types import Box
from sparks_jax.verify.convolutions import transposed
from sparks_jax.verify.enclosures import Affine, Enclosure, largest, times
from sparks_jax.verify.interpreter import Node

# Equations that move numbers or add them up, with the positions of the operands that carry data; the others (indices,
# a predicate) must be known. None: all operands.
MOVES: dict = {
    **dict.fromkeys(("reshape", "transpose", "squeeze", "slice", "rev", "broadcast_in_dim", "tile", "split"), (0,)),
    **dict.fromkeys(("reduce_sum", "reduce_window_sum", "cumsum", "unstack", "gather", "dynamic_slice"), (0,)),
    **dict.fromkeys(("concatenate", "stack", "pad", "add", "add_any"), None),
    **{"dynamic_update_slice": (0, 1), "scatter-add": (0, 2), "scatter": (0, 2)},
}
# Equations that only round.
IDENTITIES = ("convert_element_type", "reduce_precision")
_PRODUCTS = ("dot_general", "conv_general_dilated")
AFFINE = {*MOVES, *IDENTITIES, *_PRODUCTS, "sub", "neg", "mul", "div", "select_n"}


def affine_of(node: Node, operands: tuple) -> Affine | None:
    """The affine function that an equation is of its bounded operands, given as boxes; None if it is not affine.

    Only the shapes of the boxes are used.

    Example:
        >>> from sparks_jax.verify.interpreter import trace
        >>> box = Box(jnp.zeros(2), jnp.ones(2))
        >>> affine = affine_of(trace(lambda x: -x, jnp.ones(2)).nodes[0], (box,))
        >>> affine.linear(jnp.ones(2)).tolist(), affine.absolute(jnp.ones(2)).tolist()
        ([-1.0, -1.0], [1.0, 1.0])

    Reference:
        Gowal et al. 2018, On the effectiveness of interval bound propagation, arXiv:1810.12715.
    """
    bounded = [k for k, v in enumerate(operands) if isinstance(v, Box)]
    name = node.name
    if name in MOVES or (name == "select_n" and 0 not in bounded):
        return _move(node, operands)
    if name in IDENTITIES:
        return Affine(_identity, _identity, terms=0)
    if name == "neg":
        return Affine(lambda x: -x, _identity, terms=0)
    if name == "sub":
        return _difference(operands)
    if name in ("mul", "div", *_PRODUCTS) and len(bounded) == 1 and (name != "div" or bounded == [0]):
        return _product(node, operands, bounded[0])
    return None


def affine_rule(node: Node, *operands: Any) -> Enclosure:
    """The rule of all equations of this file.

    Example:
        >>> from sparks_jax.verify.interpreter import trace
        >>> node = trace(lambda x: x.sum(), jnp.ones(2)).nodes[0]
        >>> affine_rule(node, Box(jnp.zeros(2), jnp.array([1.0, 2.0]))).box.upper.item()
        3.0

    Reference:
        Gowal et al. 2018, On the effectiveness of interval bound propagation, arXiv:1810.12715.
    """
    affine = affine_of(node, operands)
    assert affine is not None
    boxes = [v for v in operands if isinstance(v, Box)]
    if node.name in _PRODUCTS:
        box = centred(affine, boxes)
    elif node.name in ("mul", "div"):
        box = _scaled(node, operands)
    elif node.name == "neg":
        box = Box(-boxes[0].upper, -boxes[0].lower)
    elif node.name == "sub":
        a, b = (v if isinstance(v, Box) else Box(v, v) for v in operands)
        box = Box(a.lower - b.upper, a.upper - b.lower)
    elif node.name in IDENTITIES:
        box = boxes[0]
    else:
        ends = [[v[k] if isinstance(v, Box) else v for v in operands] for k in (0, 1)]
        box = Box(*(node.apply(*end) for end in ends))

    def magnitude() -> Any:
        sizes = affine.absolute(*map(largest, boxes))
        return sizes if affine.bias is None else sizes + jnp.abs(affine.bias)

    return Enclosure(box, affine, affine, terms=affine.terms, magnitude=magnitude)


def centred(affine: Affine, boxes: list) -> Box:
    """The image of boxes under an affine function, by centre and radius; infinite where an operand is.

    Example:
        >>> affine = Affine(lambda x: x.sum(), lambda x: x.sum())
        >>> centred(affine, [Box(jnp.zeros(2), jnp.ones(2))]).upper.item()
        2.0

    Reference:
        Gowal et al. 2018, arXiv:1810.12715. Rump 1999, Fast and parallel interval arithmetic.
    """
    halves = [centre_radius(box) for box in boxes]
    centre = affine.linear(*(c for c, _ in halves))
    centre = centre if affine.bias is None else centre + affine.bias
    radius = affine.absolute(*(r for _, r in halves))
    # A weight of zero times an infinite radius is NaN, of which nothing is known but that the centre is a number.
    # Of a centre that overflowed neither.
    unknown = (~jnp.isfinite(radius) | jnp.isinf(centre)) & ~jnp.isnan(centre)
    centre, radius = jnp.where(unknown, 0, centre), jnp.where(unknown, 0, radius)
    inf = jnp.where(unknown, jnp.inf, 0).astype(centre.dtype)
    return Box(centre - radius - inf, centre + radius + inf)


def centre_radius(box: Box) -> tuple[jax.Array, jax.Array]:
    """Centre and radius of a box; an infinite interval gets the centre 0.

    The radius reaches both ends whatever the rounding of the centre.

    Example:
        >>> centre, radius = centre_radius(Box(jnp.array([1.0]), jnp.array([4.0])))
        >>> centre.item(), radius.item()
        (2.5, 1.5)

    Reference:
        Rump 1999, Fast and parallel interval arithmetic.
    """
    lower, upper = box
    infinite = jnp.isinf(lower) | jnp.isinf(upper)
    lower, upper = jnp.where(infinite, 0, lower), jnp.where(infinite, 0, upper)
    centre = 0.5 * lower + 0.5 * upper
    radius = jnp.maximum(upper - centre, centre - lower)
    return centre, jnp.where(infinite, jnp.inf, radius).astype(centre.dtype)


def exact_product(node: Node) -> Callable[..., Any]:
    """A matrix product or convolution at the highest precision that the hardware has.

    Example:
        >>> from sparks_jax.verify.interpreter import trace
        >>> node = trace(lambda x: jnp.ones((1, 2)) @ x, jnp.ones(2)).nodes[-1]
        >>> exact_product(node)(jnp.ones((1, 2)), jnp.ones(2)).tolist()
        [2.0]

    Reference:
        Higham 2002, Accuracy and stability of numerical algorithms, chapter 3.
    """
    apply: Any = node.apply

    def product(*operands: Any) -> Any:
        dtype = jnp.result_type(*operands)
        params = {**node.params, "precision": lax.Precision.HIGHEST, "preferred_element_type": dtype}
        primitive = apply.args[0]
        return primitive.bind(*(jnp.asarray(v, dtype) for v in operands), **params)

    return product


def fan(node: Node, shapes: list) -> int:
    """Most products in any one sum of an equation or of its transposed map, from the shapes of operands and output.

    Example:
        >>> from sparks_jax.verify.interpreter import trace
        >>> node = trace(lambda x: x @ jnp.ones((3, 5)), jnp.ones((2, 3))).nodes[-1]
        >>> fan(node, [(2, 3), (3, 5), (2, 5)])
        5

    Reference:
        Higham 2002, Accuracy and stability of numerical algorithms, section 3.1.
    """
    *sizes, out = (math.prod(s) for s in shapes)
    if node.name == "dot_general":
        ((contracting, _), (batch, _)) = node.params["dimension_numbers"]
        shared = math.prod(shapes[0][k] for k in contracting)
        batches = math.prod(shapes[0][k] for k in batch)
        return max([shared, *(size // max(shared * batches, 1) for size in sizes)])
    if node.name == "conv_general_dilated":
        rhs = shapes[1]
        out_features, in_features, *_ = (rhs[k] for k in node.params["dimension_numbers"].rhs_spec)
        # Each input meets at most every tap of every output channel.
        return max(sizes[1] // max(out_features, 1), sizes[1] // max(in_features, 1))
    if node.name == "reduce_window_sum":
        return math.prod(node.params["window_dimensions"])
    if node.name == "cumsum":
        return shapes[0][node.params["axis"]]
    if node.name in ("reduce_sum", "broadcast_in_dim", "tile"):
        return max(sizes[0], out) // max(min(sizes[0], out), 1)
    if node.name in ("gather", "scatter-add"):
        return max(*sizes, out)
    return {"add": 4, "add_any": 4, "sub": 4, "mul": 16, "div": 16}.get(node.name, 0)


def _identity(x: Any) -> Any:
    return x


def _shapes(node: Node, operands: tuple) -> list:
    """Shapes of the operands and of the output."""
    ends = [v.lower if isinstance(v, Box) else v for v in operands]
    like = [jax.ShapeDtypeStruct(jnp.shape(v), v.dtype) for v in ends]
    return [*(v.shape for v in like), jax.eval_shape(node.apply, *like).shape]


def _move(node: Node, operands: tuple) -> Affine:
    """The equation with its known data set to zero is linear; the equation of zeros is what is added."""
    positions = range(len(operands)) if MOVES.get(node.name) is None else MOVES[node.name]
    positions = range(1, len(operands)) if node.name == "select_n" else positions
    bounded = [k for k, v in enumerate(operands) if isinstance(v, Box)]
    # What is read outside of an array is NaN in the equation, 0 in its linear part.
    fill = {"fill_value": 0} if node.name == "gather" else {}
    apply: Any = node.apply

    def linear(*xs: Any) -> Any:
        given = iter(xs)
        merged = [
            next(given) if k in bounded else jnp.zeros_like(v) if k in positions else v for k, v in enumerate(operands)
        ]
        return apply.args[0].bind(*merged, **{**node.params, **fill}) if fill else apply(*merged)

    bias = None
    if any(k in positions for k in range(len(operands)) if k not in bounded):
        bias = node.apply(*(jnp.zeros_like(v.lower) if isinstance(v, Box) else v for v in operands))
    return Affine(linear, linear, bias, fan(node, _shapes(node, operands)))


def _difference(operands: tuple) -> Affine:
    a, b = operands
    if isinstance(a, Box) and isinstance(b, Box):
        return Affine(lambda x, y: x - y, lambda x, y: x + y, terms=4)
    shape = jnp.broadcast_shapes(*(jnp.shape(v.lower if isinstance(v, Box) else v) for v in operands))
    spread = lambda x: jnp.broadcast_to(x, shape)
    if isinstance(a, Box):
        return Affine(spread, spread, spread(-b), 4)
    return Affine(lambda y: spread(-y), spread, spread(a), 4)


def _product(node: Node, operands: tuple, position: int) -> Affine:
    """The product of one bounded operand with a known one."""
    apply = exact_product(node) if node.name in _PRODUCTS else node.apply

    def with_known(known: Any) -> Callable[..., Any]:
        return lambda x: apply(*(x if k == position else known for k in range(2)))

    known = operands[1 - position]
    shapes = _shapes(node, operands)
    # Each tap of a bounded kernel meets every position.
    is_conv = node.name == "conv_general_dilated"
    everywhere = math.prod(shapes[-1]) if is_conv and position == 1 else 0
    pull = transposed(node, known, shapes[0]) if is_conv and position == 0 else None
    return Affine(with_known(known), with_known(jnp.abs(known)), None, max(fan(node, shapes), everywhere), pull)


def _scaled(node: Node, operands: tuple) -> Box:
    """A product with a number for each entry, which swaps the ends where it is negative."""
    box, weight = operands if isinstance(operands[0], Box) else operands[::-1]
    scale = (lambda end: end / weight) if node.name == "div" else (lambda end: times(weight, end))
    ends = [scale(end) for end in box]
    return Box(jnp.minimum(*ends), jnp.maximum(*ends))
