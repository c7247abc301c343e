r"""Euclidean balls through the first equations of a function, up to the first product.

An equation that moves, scales and shifts numbers, each at most once, maps $c + s \odot \xi$ with $\|\xi\|_2 \le 1$ to
another such set. A product with W of it is an interval of radius $\|s \odot W_k\|_2$, the dual norm of each row.
Whatever else is met first sees the box around the ball.
"""

import jax.numpy as jnp

from sparks_jax.types import Box
from sparks_jax.verify.affine_rules import IDENTITIES, affine_of
from sparks_jax.verify.enclosures import Enclosure
from sparks_jax.verify.interpreter import Node
from sparks_jax.verify.regions import Ball
from sparks_jax.verify.rounding import gamma

_MOVED = {"reshape", "transpose", "squeeze", "expand_dims", "slice", "rev", "pad", "neg", *IDENTITIES}
_SHIFTED = {"add", "sub", "mul", "div"}


def through(node: Node, operands: tuple, balls: dict, enclosure: Enclosure, outward: bool) -> Enclosure:
    """The enclosure of an equation, tighter if it comes right after the ball, and the ball after it in `balls`.

    Example:
        >>> from sparks_jax.verify.interpreter import trace
        >>> from sparks_jax.verify.regions import hull
        >>> program, ball = trace(lambda x: 2 * x, jnp.ones(2)), Ball(jnp.zeros(2), jnp.ones(2))
        >>> balls, box = {program.input: ball}, hull(ball)
        >>> _ = through(program.nodes[0], (jnp.float32(2), box), balls, Enclosure(box), False)
        >>> balls[program.output].scale.tolist()
        [2.0, 2.0]

    Reference:
        Weng et al. 2018, Towards fast computation of certified robustness for ReLU networks, arXiv:1804.09699.
    """
    inside = [balls.get(i) for i in node.inputs]
    boxes = [v for v in operands if isinstance(v, Box)]
    if len(boxes) != 1 or sum(v is not None for v in inside) != 1:
        return enclosure
    (region,), affine = [v for v in inside if v is not None], affine_of(node, operands)
    if affine is None or affine.linear is None or affine.absolute is None:
        return enclosure
    centre = affine.linear(region.center)
    centre = centre if affine.bias is None else centre + affine.bias
    # Shifted and scaled numbers carry rounding errors that only boxes keep account of.
    shifted = node.name in _SHIFTED and centre.shape == region.center.shape and not outward
    same = node.name == "broadcast_in_dim" and centre.size == region.center.size  # what x[None] is
    if node.name in _MOVED or same or shifted:
        balls[node.outputs[0]] = Ball(centre, affine.absolute(region.scale))
    if node.name not in ("dot_general", "conv_general_dilated"):
        return enclosure
    squares = tuple(v if isinstance(v, Box) else jnp.square(v) for v in operands)
    weights = affine_of(node, squares)
    assert weights is not None
    square = weights.linear(jnp.square(region.scale))
    radius = jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)
    if outward:
        # Rounding of the centre and the radius, and that of the network, whose numbers are within both.
        size = affine.absolute(jnp.abs(region.center)) + radius
        far = affine.absolute(region.scale)
        radius = radius + gamma(affine.terms + 8, centre.dtype) * (size + far) + 2 * jnp.finfo(centre.dtype).tiny
    lower, upper = centre - radius, centre + radius
    box = Box(jnp.maximum(lower, enclosure.box.lower), jnp.minimum(upper, enclosure.box.upper))
    return enclosure._replace(box=box)
