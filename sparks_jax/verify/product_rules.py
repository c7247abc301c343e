r"""Rules for products of two bounded arrays: entry by entry, matrix products, convolutions.

With $x = c_x + \xi$ and $y = c_y + \eta$, $|\xi| \le r_x$, $|\eta| \le r_y$,

$x y = c_y x + c_x y - c_x c_y + \xi \eta, \qquad |\xi \eta| \le r_x r_y$

which gives lines above and below; they are the means of McCormick's planes. Products of entries have the interval of
their four corners, sums of products that of centre and radius, $r = |c_x|\,r_y + r_x\,(|c_y| + r_y)$.
"""

from functools import reduce
from typing import Any

import jax.numpy as jnp

from sparks_jax.types import Box
from sparks_jax.verify.affine_rules import affine_of, affine_rule, centre_radius, exact_product
from sparks_jax.verify.curves import convex
from sparks_jax.verify.enclosures import Affine, Enclosure, largest, lines_of, plane
from sparks_jax.verify.interpreter import Node


def _multiplied(node: Node, a: Any, b: Any) -> Enclosure:
    if not (isinstance(a, Box) and isinstance(b, Box)):
        return affine_rule(node, a, b)
    if node.inputs[0] == node.inputs[1]:
        square = convex(a, jnp.square, lambda v: 2 * v, minimum=0.0)
        lower, upper = map(_of_both, lines_of(square))
        return Enclosure(square.box, lower, upper)
    corners = [_corner(p, q) for p in a for q in b]
    box = Box(reduce(jnp.minimum, corners), reduce(jnp.maximum, corners))
    (ca, ra), (cb, rb) = centre_radius(a), centre_radius(b)
    middle, spread = ca * cb, ra * rb
    good = jnp.isfinite(spread)
    slopes = tuple(jnp.where(good, s, 0) for s in (cb, ca))
    low = jnp.where(good, -middle - spread, box.lower)
    high = jnp.where(good, -middle + spread, box.upper)
    size = lambda: jnp.maximum(largest(a) * largest(b), largest(box))
    return Enclosure(box, plane(slopes, low), plane(slopes, high), magnitude=size)


def _corner(p: Any, q: Any) -> Any:
    """A product, 0 where one factor is 0 and the other infinite."""
    nothing = ((p == 0) & jnp.isinf(q)) | ((q == 0) & jnp.isinf(p))
    return jnp.where(nothing, 0, p) * jnp.where(nothing, 0, q)


def _of_both(affine: Affine) -> Affine:
    """The line of x, as a function of the two operands of x * x, which are one value."""
    linear, absolute = affine.linear, affine.absolute
    return affine._replace(linear=lambda x, _: linear(x), absolute=lambda x, _: absolute(x))


def _summed(node: Node, a: Any, b: Any) -> Enclosure:
    if not (isinstance(a, Box) and isinstance(b, Box)):
        return affine_rule(node, a, b)
    product = exact_product(node)
    (ca, ra), (cb, rb) = centre_radius(a), centre_radius(b)
    size_a, size_b = jnp.abs(ca), jnp.abs(cb)
    centre = product(ca, cb)
    radius = product(size_a, rb) + product(ra, size_b + rb)
    spread = product(ra, rb)
    unknown = (~jnp.isfinite(radius) | jnp.isinf(centre)) & ~jnp.isnan(centre)
    box = Box(jnp.where(unknown, -jnp.inf, centre - radius), jnp.where(unknown, jnp.inf, centre + radius))
    # Where an operand is infinite the slopes are those of its centre, 0, and the constants are infinite.
    spread = jnp.where(jnp.isnan(spread), jnp.inf, spread)

    def linear(x: Any, y: Any) -> Any:
        return product(x, cb) + product(ca, y)

    def absolute(x: Any, y: Any) -> Any:
        return product(x, size_b) + product(size_a, y)

    terms = sum(affine.terms for affine in (affine_of(node, (a, cb)), affine_of(node, (ca, b))) if affine is not None)
    lower, upper = (Affine(linear, absolute, -centre + sign * spread, terms) for sign in (-1, 1))
    return Enclosure(box, lower, upper, terms=terms, magnitude=lambda: product(largest(a), largest(b)) * 4)


PRODUCTS: dict = {"mul": _multiplied, "dot_general": _summed, "conv_general_dilated": _summed}
