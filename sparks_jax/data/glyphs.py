r"""A world of glyphs, where what decides the class of an image is known to the pixel.

On a background of coloured noise and stripes lie a glyph of one of ten shapes, which is the class, and a few of other
shapes, which are distractors; none overlap. Colours, places, sizes, turns, background and distractors are drawn without
regard to the class. A tag in a corner can be planted as a shortcut: its colour tells the class, as often as asked.

An image is a function of its key, its class and its tag: the same key with another class is the same image outside of
the glyph. Nothing is stored: a batch is one call, under a millisecond an image.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

import sparks_jax.data.drawing as drawing
from sparks_jax import stream
from sparks_jax.data.shapes import NAMES

CLASSES = NAMES[:10]
DISTRACTORS = NAMES[10:]

# Lengths, in sides of the image.
RADIUS = (0.13, 0.19)  # of the glyph
DISTRACTOR_RADIUS = (0.09, 0.15)  # of a distractor, or smaller where there is no room
TAG = 0.12  # side of the tag
TAG_MARGIN = 0.03  # from the borders to the tag


class Glyphs(NamedTuple):
    """Images and all that is true of them; from `glyph`, without the leading axis.

    Attributes:
        images: In [0, 1].
        labels: The class: index of the glyph's shape in `CLASSES`.
        masks: Pixels that the glyph changed, its smooth rim included.
        distractors: Pixels that each of the k distractors changed.
        kinds: Index of each distractor's shape in `DISTRACTORS`.
        tags: Pixels that the tag changed; none without a tag.
        cues: The class that the colour of the tag stands for; -1 without a tag.
        centres: Row and column of the centre of the glyph, in pixels from the corner of the image.
        radii: Of the circle around the glyph, in pixels.
        angles: By which the shape is turned, counterclockwise, in radians.
    """

    images: Float[Array, "*n h w 3"]
    labels: Int[Array, "*n"]
    masks: Bool[Array, "*n h w"]
    distractors: Bool[Array, "*n k h w"]
    kinds: Int[Array, "*n k"]
    tags: Bool[Array, "*n h w"]
    cues: Int[Array, "*n"]
    centres: Float[Array, "*n 2"]
    radii: Float[Array, "*n"]
    angles: Float[Array, "*n"]


def glyphs(
    num: int,
    *,
    key: PRNGKeyArray,
    size: int = 64,
    num_classes: int = len(CLASSES),
    num_distractors: int = 3,
    shortcut: float | Float[Array, ""] = 0.0,
    agreement: float | Float[Array, ""] = 1.0,
    start: int | Int[Array, ""] = 0,
    chunk: int = 64,
) -> Glyphs:
    """Images of the world, compiled once for a size and a number of images.

    Image i is a function of the key and of i: a small set is the beginning of a large one, each device of several can
    draw its own part, and the stream has no end.

    Args:
        num: How many images.
        key: Randomness.
        size: Side of the images in pixels.
        num_classes: The first so many of `CLASSES` occur, equally often.
        num_distractors: In each image.
        shortcut: Share of the images that carry a tag.
        agreement: Share of the tags that take the colour of their class, whatever it is. The others take that of a
            class drawn at random: 0 breaks the shortcut, the images looking as before.
        start: Number of the first image.
        chunk: Images drawn at once.

    Raises:
        ValueError: For a count, a size or a share outside its range.

    Example:
        >>> world = glyphs(2, key=jax.random.key(0), shortcut=1.0)
        >>> world.images.shape, bool((world.cues == world.labels).all())
        ((2, 64, 64, 3), True)
    """
    drawing.check_counts(
        "glyphs", num=(num, 1), size=(size, 16), num_distractors=(num_distractors, 0), chunk=(chunk, 1)
    )
    if not 1 <= num_classes <= len(CLASSES):
        raise ValueError(f"glyphs: num_classes is {num_classes}, expected 1 to {len(CLASSES)}")
    for name, share in {"shortcut": shortcut, "agreement": agreement}.items():
        if not isinstance(share, Tracer) and not 0 <= share <= 1:
            raise ValueError(f"glyphs: {name} is {share}, expected a share in [0, 1]")
    return _glyphs(num, size, num_classes, num_distractors, chunk, key, shortcut, agreement, start)


@partial(jax.jit, static_argnums=(0, 1, 2, 3, 4))
def _glyphs(num, size, num_classes, num_distractors, chunk, key, shortcut, agreement, start):
    def one(i: Int[Array, ""]) -> Glyphs:
        key_class, key_image = jax.random.split(jax.random.fold_in(key, i))
        u_classes, u_tagged, u_agrees = drawing.uniform(key_class, (2,), (), ())
        label, other = drawing.choice(u_classes, num_classes)
        cue = jnp.where(u_tagged < shortcut, jnp.where(u_agrees < agreement, label, other), -1)
        return glyph(key_image, label, cue, size=size, num_distractors=num_distractors)

    return stream.stack_over(one, start + jnp.arange(num), chunk)


def glyph(
    key: PRNGKeyArray,
    label: int | Int[Array, ""],
    cue: int | Int[Array, ""] = -1,
    *,
    size: int = 64,
    num_distractors: int = 3,
) -> Glyphs:
    """One image: what would it be with another class, or another tag?

    Args:
        key: Decides everything but the shape of the glyph and the colour of the tag.
        label: Index of the glyph's shape in `CLASSES`.
        cue: The class that the colour of the tag stands for; -1 for no tag.
        size: Side of the image in pixels.
        num_distractors: How many.

    Raises:
        ValueError: For a size, a count, a label or a cue outside its range, as far as they are known at trace time.

    Example:
        >>> draw = jax.jit(lambda label: glyph(jax.random.key(0), label))
        >>> cross, ring = draw(0), draw(1)
        >>> changed = (cross.images != ring.images).any(-1)
        >>> bool((changed & ~(cross.masks | ring.masks)).any())
        False
    """
    drawing.check_counts("glyph", size=(size, 16), num_distractors=(num_distractors, 0))
    for name, value, least in (("label", label, 0), ("cue", cue, -1)):
        if not isinstance(value, Tracer) and not least <= value < len(CLASSES):
            raise ValueError(f"glyph: {name} is {value}, expected {least} to {len(CLASSES) - 1}")
    count = 1 + num_distractors
    numbers = (num_distractors,), (9,), (size, size // 2 + 1), (2,), (count,), (count, drawing.TRIES, 2), (count, 4)
    u_kinds, u_canvas, u_phases, u_corner, u_radii, u_places, u_looks = drawing.uniform(key, *numbers)
    kinds = drawing.choice(u_kinds, len(DISTRACTORS))
    shape = jnp.concatenate([jnp.asarray(label)[None], len(CLASSES) + kinds])
    canvas, lightness = drawing.background(u_canvas, u_phases, size)
    centres, radii, corner = _places(u_corner, u_radii, u_places)
    draw = partial(drawing.shape_on, lightness=lightness, size=size)
    cover, paint = jax.vmap(draw)(u_looks, shape, size * centres, size * radii)
    tag = jnp.where(cue < 0, 0, _square(size * corner, size))
    bare = 1 - cover.sum(0) - tag
    image = bare[..., None] * canvas + paint.sum(0) + tag[..., None] * _tag_colours()[cue][None, None]
    masks = cover > 0
    return Glyphs(
        images=jnp.clip(image, 0, 1),
        labels=jnp.asarray(label),
        masks=masks[0],
        distractors=masks[1:],
        kinds=kinds,
        tags=tag > 0,
        cues=jnp.asarray(cue),
        centres=size * centres[0, ::-1],
        radii=size * radii[0],
        angles=2 * jnp.pi * u_looks[0, 0],
    )


def _places(
    u_corner: Float[Array, "2"], u_radii: Float[Array, " k"], u_places: Float[Array, "k tries 2"]
) -> tuple[Float[Array, "k 2"], Float[Array, " k"], Float[Array, "2"]]:
    """Centres `(x, y)` and radii of the glyph and the distractors, and the centre of the tag; no two of them touch.

    The tag has its corner to itself even where there is none, so that it moves nothing.
    """
    edge = TAG_MARGIN + TAG / 2
    corner = jnp.where(u_corner < 0.5, edge, 1 - edge)
    low, high = jnp.array([RADIUS] + (len(u_radii) - 1) * [DISTRACTOR_RADIUS]).T
    wanted = drawing.between(low, high, u_radii)
    tag = jnp.array([TAG / np.sqrt(2)], jnp.float32)
    return *drawing.spread(wanted, u_places, corner[None], tag), corner


def _square(centre: Float[Array, "2"], size: int) -> Float[Array, "h w"]:
    """How much of each pixel the tag covers: a square with round corners."""
    radius = TAG * size / 5
    x, y = (jnp.abs(a - c) - TAG * size / 2 + radius for a, c in zip(drawing.pixels(size), centre, strict=True))
    outside = jnp.hypot(jnp.maximum(x, 0), jnp.maximum(y, 0)) + jnp.minimum(jnp.maximum(x, y), 0) - radius
    return jnp.clip(0.5 - outside, 0, 1)


def _tag_colours() -> Float[Array, "m 3"]:
    """A colour for each class: equal lightness, equal steps of hue."""
    hues = 2 * jnp.pi * jnp.arange(len(CLASSES)) / len(CLASSES)
    return drawing.rgb(jax.vmap(partial(drawing.oklab, 0.72, 0.2))(hues))
