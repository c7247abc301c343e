"""What `data.glyphs` and `data.pairs` are drawn with: backgrounds, shapes, places, from numbers in [0, 1).

Lengths are in sides of the image. Everything is a function of numbers that are drawn once, in one call.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from sparks_jax import fourier
from sparks_jax.data.shapes import edges, signed_distance

GAP = 0.03  # between any two shapes, at least
RIM = 0.016  # width of the dark or light rim of a shape
TRIES = 64  # places drawn for each shape: the first with room is taken, or the one with most

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


def check_counts(who: str, **counts: tuple[int, int]) -> None:
    """Counts at least as large as they must be: `name=(value, least)`; a ValueError that names the function `who`."""
    for name, (value, least) in counts.items():
        if value < least:
            raise ValueError(f"{who}: {name} is {value}, expected at least {least}")


def uniform(key: PRNGKeyArray, *shapes: tuple[int, ...]) -> list[Float[Array, "..."]]:
    """Numbers in [0, 1) in several shapes, from one draw, which compiles several times as fast as one for each."""
    sizes = [math.prod(shape) for shape in shapes]
    parts = jnp.split(jax.random.uniform(key, (sum(sizes),)), np.cumsum(sizes)[:-1])
    return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]


def between(low: Any, high: Any, u: Array) -> Array:
    """From `low` at 0 to `high` at 1."""
    return low + (high - low) * u


def choice(u: Array, num: int) -> Int[Array, "..."]:
    """0 to num - 1, equally often."""
    return jnp.minimum((num * u).astype(jnp.int32), num - 1)


def pixels(size: int) -> tuple[Float[Array, "h w"], Float[Array, "h w"]]:
    """Column and row of the centre of each pixel."""
    x, y = jnp.meshgrid(jnp.arange(size) + 0.5, jnp.arange(size) + 0.5)
    return x, y


def background(
    u: Float[Array, "9"], phases: Float[Array, "h w_half"], size: int
) -> tuple[Float[Array, "h w 3"], Float[Array, ""]]:
    """Noise of some roughness and stripes of some pitch, as a mixture of two colours; and their mean lightness."""
    lightness, contrast = between(0.35, 0.8, u[0]), between(0.04, 0.11, u[1])
    frequencies = jnp.maximum(fourier.frequencies((size, size)), 1 / size)
    magnitude = (frequencies ** -between(0.8, 1.6, u[2])).at[0, 0].set(0)
    phase = 2 * jnp.pi * phases
    noise = fourier.phase_to_image(magnitude[..., None], phase[..., None], (size, size))[..., 0]
    x, y = pixels(size)
    angle, start, *hues = 2 * jnp.pi * u[3:7]
    pitch = size * jnp.exp(between(np.log(0.07), np.log(0.4), u[7]))
    stripes = jnp.sin(2 * jnp.pi / pitch * (jnp.cos(angle) * x + jnp.sin(angle) * y) + start)
    # Both of unit variance, mixed at a random angle.
    share = jnp.pi / 2 * u[8]
    level = jnp.cos(share) * noise / noise.std() + jnp.sin(share) * jnp.sqrt(2.0) * stripes
    t = jax.nn.sigmoid(1.4 * level)[..., None]
    ends = (lightness - contrast, hues[0]), (lightness + contrast, hues[1])
    dark, light = (oklab(value, 0.06, hue)[None, None] for value, hue in ends)
    return rgb((1 - t) * dark + t * light), lightness


def shape_on(
    u: Float[Array, "4"], shape: Array, centre: Array, radius: Array, *, lightness: Array, size: int
) -> tuple[Float[Array, "h w"], Float[Array, "h w 3"]]:
    """How much of each pixel a shape covers, and its colour times that: light on dark or dark on light, with a rim."""
    angle, hue = 2 * jnp.pi * u[:2]
    x, y = ((a - c) / radius for a, c in zip(pixels(size), centre, strict=True))
    right, up = jnp.cos(angle) * x - jnp.sin(angle) * y, -jnp.sin(angle) * x - jnp.cos(angle) * y
    inside = -radius * signed_distance(jnp.asarray(edges())[shape], right, up)
    cover, core = jnp.clip(inside + 0.5, 0, 1), jnp.clip(inside + 0.5 - RIM * size, 0, 1)
    sign = jnp.where(lightness < 0.6, 1, -1)
    fill = rgb(oklab(lightness + sign * between(0.22, 0.34, u[2]), between(0.1, 0.17, u[3]), hue))
    rim = rgb(oklab(jnp.where(sign > 0, 0.2, 0.97), 0.03, hue))
    return cover, core[..., None] * fill[None, None] + (cover - core)[..., None] * rim[None, None]


def spread(
    wanted: Float[Array, " k"], u: Float[Array, "k tries 2"], centres: Float[Array, "m 2"], radii: Float[Array, " m"]
) -> tuple[Float[Array, "k 2"], Float[Array, " k"]]:
    """Centres `(x, y)` and radii of discs that touch neither each other nor those there, smaller without room."""
    there = len(radii)
    tries = between(wanted[:, None, None], 1 - wanted[:, None, None], u)
    for places, radius in zip(tries, wanted, strict=True):
        away = jnp.linalg.norm(places[:, None] - centres[None], axis=-1) - radii[None]
        room = jnp.clip(away.min(1) - GAP, 0, radius)
        best = room.argmax()  # the first where there are several
        centres, radii = jnp.concatenate([centres, places[best][None]]), jnp.append(radii, room[best])
    return centres[there:], radii[there:]


def oklab(lightness: float | Array, chroma: float | Array, hue: Array) -> Float[Array, "3"]:
    """A colour by its lightness, how colourful it is, and its hue in radians."""
    return jnp.stack([jnp.asarray(lightness), chroma * jnp.cos(hue), chroma * jnp.sin(hue)])


def rgb(colour: Float[Array, "*n 3"]) -> Float[Array, "*n 3"]:
    """Oklab to sRGB, clipped to its gamut."""
    linear = jnp.clip((colour @ OKLAB_TO_LMS.T) ** 3 @ LMS_TO_RGB.T, 0, 1)
    return jnp.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
