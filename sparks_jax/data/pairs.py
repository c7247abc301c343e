"""A world of pairs, where what touches is the class: a ring or a star, and a cross or a heart.

On the backgrounds of `data.glyphs` lie a pair of shapes that touch, in one colour, and a few shapes of the same four
kinds alone, drawn without regard to the class. A shape alone says nothing, so a network has to find both halves and
that they touch: a concept of two parts.

An image is a function of its key and its class. Nothing is stored.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

import sparks_jax.data.drawing as drawing
from sparks_jax import stream
from sparks_jax.data.shapes import NAMES

FIRST, SECOND = ("ring", "star"), ("cross", "heart")
SHAPES = FIRST + SECOND
HALVES = tuple((first, second) for first in FIRST for second in SECOND)  # of each class
CLASSES = tuple("-".join(names) for names in HALVES)
_HALVES = tuple(tuple(SHAPES.index(name) for name in names) for names in HALVES)
_TABLE = tuple(NAMES.index(name) for name in SHAPES)  # where `SHAPES` are among all shapes

RADIUS = (0.09, 0.12)  # of a shape, in sides of the image, or smaller where there is no room


class Pairs(NamedTuple):
    """Images and all that is true of them; from `pair`, without the leading axis.

    Attributes:
        images: In [0, 1].
        labels: The class: index in `CLASSES`.
        halves: Pixels of both halves of the pair, the ring or star first.
        alone: Pixels of each of the k other shapes.
        kinds: Index of each of these in `SHAPES`.
    """

    images: Float[Array, "*n h w 3"]
    labels: Int[Array, "*n"]
    halves: Bool[Array, "*n 2 h w"]
    alone: Bool[Array, "*n k h w"]
    kinds: Int[Array, "*n k"]


def pairs(num: int, *, key: PRNGKeyArray, size: int = 64, start: int | Int[Array, ""] = 0, chunk: int = 64) -> Pairs:
    """Images of the world, classes equally often, compiled once for a size and a number of images.

    Image i is a function of the key and of i: a small set is the beginning of a large one.

    Args:
        num: How many images.
        key: Randomness.
        size: Side of the images in pixels.
        start: Number of the first image.
        chunk: Images drawn at once.

    Raises:
        ValueError: For a count or a size outside its range.

    Example:
        >>> world = pairs(2, key=jax.random.key(0))
        >>> world.images.shape, bool((world.halves[:, 0] & world.halves[:, 1]).any())
        ((2, 64, 64, 3), False)
    """
    drawing.check_counts("pairs", num=(num, 1), size=(size, 16), chunk=(chunk, 1))
    return _pairs(num, size, chunk, key, start)


@partial(jax.jit, static_argnums=(0, 1, 2))
def _pairs(num, size, chunk, key, start):
    def one(i: Int[Array, ""]) -> Pairs:
        key_class, key_image = jax.random.split(jax.random.fold_in(key, i))
        return pair(key_image, drawing.choice(jax.random.uniform(key_class), len(CLASSES)), size=size)

    return stream.stack_over(one, start + jnp.arange(num), chunk)


def pair(key: PRNGKeyArray, label: int | Int[Array, ""], *, size: int = 64, num_alone: int = 3) -> Pairs:
    """One image: what would it be with another class?

    Args:
        key: Decides everything but the shapes of the pair.
        label: Index in `CLASSES`.
        size: Side of the image in pixels.
        num_alone: Shapes that touch nothing.

    Raises:
        ValueError: For a size, a count or a label outside its range, as far as it is known at trace time.

    Example:
        >>> one, other = (pair(jax.random.key(0), label) for label in (0, 3))
        >>> changed = (one.images != other.images).any(-1)
        >>> bool((changed & ~(one.halves.any(0) | other.halves.any(0))).any())
        False
    """
    drawing.check_counts("pair", size=(size, 16), num_alone=(num_alone, 0))
    if not isinstance(label, Tracer) and not 0 <= label < len(CLASSES):
        raise ValueError(f"pair: label is {label}, expected 0 to {len(CLASSES) - 1}")
    count = 1 + num_alone
    numbers = (9,), (size, size // 2 + 1), (count,), (), (num_alone,), (count, drawing.TRIES, 2), (count, 4)
    u_canvas, u_phases, u_radii, u_turn, u_kinds, u_places, u_looks = drawing.uniform(key, *numbers)
    kinds = drawing.choice(u_kinds, len(SHAPES))
    canvas, lightness = drawing.background(u_canvas, u_phases, size)
    # The pair is placed as a disc of twice the radius; its halves fill it, but for the pixel where both would be seen.
    wanted = drawing.between(*RADIUS, u_radii) * jnp.array([2.0] + num_alone * [1.0])
    centres, radii = drawing.spread(wanted, u_places, jnp.full((1, 2), -9.0), jnp.zeros(1))
    turn = 2 * jnp.pi * u_turn
    way = radii[0] / 2 * jnp.stack([jnp.cos(turn), jnp.sin(turn)])
    centres = jnp.concatenate([jnp.stack([centres[0] + way, centres[0] - way]), centres[1:]])
    radii = jnp.concatenate([jnp.full(2, radii[0] / 2 - 0.5 / size), radii[1:]])
    draw = partial(drawing.shape_on, lightness=lightness, size=size)
    looks, shapes = jnp.concatenate([u_looks[:1], u_looks]), jnp.concatenate([jnp.array(_HALVES)[label], kinds])
    cover, paint = jax.vmap(draw)(looks, jnp.array(_TABLE)[shapes], size * centres, size * radii)
    image = (1 - cover.sum(0))[..., None] * canvas + paint.sum(0)
    masks = cover > 0
    return Pairs(jnp.clip(image, 0, 1), jnp.asarray(label), masks[:2], masks[2:], kinds)
