r"""A world of glyphs, where what decides the class of an image is known to the pixel.

On a background of coloured noise and stripes lie a glyph of one of ten shapes, which is the class, and a few of other
shapes, which are distractors; none overlap. Colours, places, sizes, turns, background and distractors are drawn without
regard to the class. A tag in a corner can be planted as a shortcut: its colour tells the class, as often as asked.

An image is a function of its key, its class and its tag: the same key with another class is the same image outside of
the glyph. Nothing is stored: a batch is one call, under a millisecond an image.
"""

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from sparks_jax import fourier, stream
from sparks_jax.data.shapes import NAMES, edges, signed_distance

CLASSES = NAMES[:10]
DISTRACTORS = NAMES[10:]

# Lengths, in sides of the image.
RADIUS = (0.13, 0.19)  # of the glyph
DISTRACTOR_RADIUS = (0.09, 0.15)  # of a distractor, or smaller where there is no room
GAP = 0.03  # between any two, at least
RIM = 0.016  # width of the dark or light rim of a glyph
TAG = 0.12  # side of the tag
TAG_MARGIN = 0.03  # from the borders to the tag

TRIES = 64  # places drawn for each glyph: the first with room is taken, or the one with most

# Oklab to linear sRGB: B. Ottosson 2020, A perceptual color space for image processing.
OKLAB_TO_LMS = np.array(
    [[1, 0.3963377774, 0.2158037573], [1, -0.1055613458, -0.0638541728], [1, -0.0894841775, -1.2914855480]], np.float32
)
LMS_TO_RGB = np.array(
    [
        [4.0767416621, -3.3077115913, 0.2309699292],
        [-1.2684380046, 2.6097574011, -0.3413193965],
        [-0.0041960863, -0.7034186147, 1.7076147010],
    ],
    np.float32,
)


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
    _check_counts("glyphs", num=(num, 1), size=(size, 16), num_distractors=(num_distractors, 0), chunk=(chunk, 1))
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
        u_classes, u_tagged, u_agrees = _uniform(key_class, (2,), (), ())
        label, other = _choice(u_classes, num_classes)
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
    _check_counts("glyph", size=(size, 16), num_distractors=(num_distractors, 0))
    for name, value, least in (("label", label, 0), ("cue", cue, -1)):
        if not isinstance(value, Tracer) and not least <= value < len(CLASSES):
            raise ValueError(f"glyph: {name} is {value}, expected {least} to {len(CLASSES) - 1}")
    count = 1 + num_distractors
    numbers = (num_distractors,), (9,), (size, size // 2 + 1), (2,), (count,), (count, TRIES, 2), (count, 4)
    u_kinds, u_canvas, u_phases, u_corner, u_radii, u_places, u_looks = _uniform(key, *numbers)
    kinds = _choice(u_kinds, len(DISTRACTORS))
    shape = jnp.concatenate([jnp.asarray(label)[None], len(CLASSES) + kinds])
    canvas, lightness = _background(u_canvas, u_phases, size)
    centres, radii, corner = _places(u_corner, u_radii, u_places)
    draw = partial(_draw, lightness=lightness, size=size)
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


def _check_counts(who: str, **counts: tuple[int, int]) -> None:
    for name, (value, least) in counts.items():
        if value < least:
            raise ValueError(f"{who}: {name} is {value}, expected at least {least}")


def _background(
    u: Float[Array, "9"], phases: Float[Array, "h w_half"], size: int
) -> tuple[Float[Array, "h w 3"], Float[Array, ""]]:
    """Noise of some roughness and stripes of some pitch, as a mixture of two colours; and their mean lightness."""
    lightness, contrast = _between(0.35, 0.8, u[0]), _between(0.04, 0.11, u[1])
    frequencies = jnp.maximum(fourier.frequencies((size, size)), 1 / size)
    magnitude = (frequencies ** -_between(0.8, 1.6, u[2])).at[0, 0].set(0)
    phase = 2 * jnp.pi * phases
    noise = fourier.phase_to_image(magnitude[..., None], phase[..., None], (size, size))[..., 0]
    x, y = _pixels(size)
    angle, start, *hues = 2 * jnp.pi * u[3:7]
    pitch = size * jnp.exp(_between(np.log(0.07), np.log(0.4), u[7]))
    stripes = jnp.sin(2 * jnp.pi / pitch * (jnp.cos(angle) * x + jnp.sin(angle) * y) + start)
    # Both of unit variance, mixed at a random angle.
    share = jnp.pi / 2 * u[8]
    level = jnp.cos(share) * noise / noise.std() + jnp.sin(share) * jnp.sqrt(2.0) * stripes
    t = jax.nn.sigmoid(1.4 * level)[..., None]
    ends = (lightness - contrast, hues[0]), (lightness + contrast, hues[1])
    dark, light = (_oklab(value, 0.06, hue)[None, None] for value, hue in ends)
    return _rgb((1 - t) * dark + t * light), lightness


def _places(
    u_corner: Float[Array, "2"], u_radii: Float[Array, " k"], u_places: Float[Array, "k tries 2"]
) -> tuple[Float[Array, "k 2"], Float[Array, " k"], Float[Array, "2"]]:
    """Centres `(x, y)` and radii of the glyph and the distractors, and the centre of the tag; no two of them touch.

    The tag has its corner to itself even where there is none, so that it moves nothing.
    """
    edge = TAG_MARGIN + TAG / 2
    corner = jnp.where(u_corner < 0.5, edge, 1 - edge)
    low, high = jnp.array([RADIUS] + (len(u_radii) - 1) * [DISTRACTOR_RADIUS]).T
    wanted = _between(low, high, u_radii)
    tries = _between(wanted[:, None, None], 1 - wanted[:, None, None], u_places)
    centres, radii = corner[None], jnp.array([TAG / np.sqrt(2)], jnp.float32)
    for places, radius in zip(tries, wanted, strict=True):
        away = jnp.linalg.norm(places[:, None] - centres[None], axis=-1) - radii[None]
        room = jnp.clip(away.min(1) - GAP, 0, radius)
        best = room.argmax()  # the first where there are several
        centres, radii = jnp.concatenate([centres, places[best][None]]), jnp.append(radii, room[best])
    return centres[1:], radii[1:], corner


def _draw(
    u: Float[Array, "4"], shape: Array, centre: Array, radius: Array, *, lightness: Array, size: int
) -> tuple[Float[Array, "h w"], Float[Array, "h w 3"]]:
    """How much of each pixel a glyph covers, and its colour times that: light on dark or dark on light, with a rim."""
    angle, hue = 2 * jnp.pi * u[:2]
    x, y = ((a - c) / radius for a, c in zip(_pixels(size), centre, strict=True))
    right, up = jnp.cos(angle) * x - jnp.sin(angle) * y, -jnp.sin(angle) * x - jnp.cos(angle) * y
    inside = -radius * signed_distance(jnp.asarray(edges())[shape], right, up)
    cover, core = jnp.clip(inside + 0.5, 0, 1), jnp.clip(inside + 0.5 - RIM * size, 0, 1)
    sign = jnp.where(lightness < 0.6, 1, -1)
    fill = _rgb(_oklab(lightness + sign * _between(0.22, 0.34, u[2]), _between(0.1, 0.17, u[3]), hue))
    rim = _rgb(_oklab(jnp.where(sign > 0, 0.2, 0.97), 0.03, hue))
    return cover, core[..., None] * fill[None, None] + (cover - core)[..., None] * rim[None, None]


def _square(centre: Float[Array, "2"], size: int) -> Float[Array, "h w"]:
    """How much of each pixel the tag covers: a square with round corners."""
    radius = TAG * size / 5
    x, y = (jnp.abs(a - c) - TAG * size / 2 + radius for a, c in zip(_pixels(size), centre, strict=True))
    outside = jnp.hypot(jnp.maximum(x, 0), jnp.maximum(y, 0)) + jnp.minimum(jnp.maximum(x, y), 0) - radius
    return jnp.clip(0.5 - outside, 0, 1)


def _pixels(size: int) -> tuple[Float[Array, "h w"], Float[Array, "h w"]]:
    """Column and row of the centre of each pixel."""
    x, y = jnp.meshgrid(jnp.arange(size) + 0.5, jnp.arange(size) + 0.5)
    return x, y


def _uniform(key: PRNGKeyArray, *shapes: tuple[int, ...]) -> list[Float[Array, "..."]]:
    """Numbers in [0, 1) in several shapes, from one draw, which compiles several times as fast as one for each."""
    sizes = [math.prod(shape) for shape in shapes]
    parts = jnp.split(jax.random.uniform(key, (sum(sizes),)), np.cumsum(sizes)[:-1])
    return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]


def _between(low: Any, high: Any, u: Array) -> Array:
    return low + (high - low) * u


def _choice(u: Array, num: int) -> Int[Array, "..."]:
    """0 to num - 1, equally often."""
    return jnp.minimum((num * u).astype(jnp.int32), num - 1)


def _tag_colours() -> Float[Array, "m 3"]:
    """A colour for each class: equal lightness, equal steps of hue."""
    hues = 2 * jnp.pi * jnp.arange(len(CLASSES)) / len(CLASSES)
    return _rgb(jax.vmap(partial(_oklab, 0.72, 0.2))(hues))


def _oklab(lightness: float | Array, chroma: float | Array, hue: Array) -> Float[Array, "3"]:
    return jnp.stack([jnp.asarray(lightness), chroma * jnp.cos(hue), chroma * jnp.sin(hue)])


def _rgb(oklab: Float[Array, "*n 3"]) -> Float[Array, "*n 3"]:
    """Oklab to sRGB, clipped to its gamut."""
    linear = jnp.clip((oklab @ OKLAB_TO_LMS.T) ** 3 @ LMS_TO_RGB.T, 0, 1)
    return jnp.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
