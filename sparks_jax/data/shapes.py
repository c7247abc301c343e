r"""Shapes as polygons: a table of edges, and the signed distance of a point to any row of it.

A shape is one closed polygon or several (a ring is two), inside the unit disc. All shapes have as many rows of edges,
missing ones of length zero far away, so that which shape is drawn can be an array: a gather, not a branch.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

FAR = 1e4  # where the missing edges are, in radii: far from all that can be seen
TINY = 1e-12  # instead of the squared length of a missing edge


def _turned(radii: Any, phase: float = 0.25) -> np.ndarray:
    """Points at these distances from the centre, at equal steps of angle; `phase` in turns, 1/4 is up."""
    angles = 2 * np.pi * (phase + np.arange(len(radii)) / len(radii))
    return np.asarray(radii)[:, None] * np.stack([np.cos(angles), np.sin(angles)], -1)


def _inside_disc(points: Any) -> np.ndarray:
    """Centred on its box and scaled to touch the unit circle."""
    points = np.asarray(points, float)
    points = points - (points.min(0) + points.max(0)) / 2
    return points / np.hypot(*points.T).max()


def _crescent() -> np.ndarray:
    """The unit disc without a disc of radius 0.8 around (0.5, 0): two arcs between the points where they meet."""
    radius, shift = 0.8, 0.5
    x = (1 + shift**2 - radius**2) / (2 * shift)
    outer, inner = np.arccos(x), np.arccos((x - shift) / radius)
    there, back = np.linspace(outer, 2 * np.pi - outer, 20), np.linspace(2 * np.pi - inner, inner, 16)[1:-1]
    arcs = (
        np.stack([np.cos(there), np.sin(there)], -1),
        np.stack([shift + radius * np.cos(back), radius * np.sin(back)], -1),
    )
    return _inside_disc(np.concatenate(arcs))


def _heart() -> np.ndarray:
    t = 2 * np.pi * np.arange(30) / 30
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return _inside_disc(np.stack([16 * np.sin(t) ** 3, y], -1))


def _polygons() -> dict[str, list[np.ndarray]]:
    bar, arm = 0.3, (1 - 0.3**2) ** 0.5
    quarter = np.array([(bar, bar), (bar, arm), (-bar, arm)])
    turn = np.array([(0.0, 1.0), (-1.0, 0.0)])
    corners = [quarter]
    for _ in range(3):
        corners.append(corners[-1] @ turn)
    return {
        "cross": [np.concatenate(corners)],
        "ring": [_turned(np.ones(24)), _turned(np.full(16, 0.5))],
        "triangle": [_turned([1, 1, 1])],
        "star": [_turned([1, 0.42] * 5)],
        "crescent": [_crescent()],
        "heart": [_heart()],
        "arrow": [_inside_disc([(0, 1), (0.75, 0.1), (0.3, 0.1), (0.3, -1), (-0.3, -1), (-0.3, 0.1), (-0.75, 0.1)])],
        "tee": [
            _inside_disc([(-1, 1), (1, 1), (1, 0.33), (0.36, 0.33), (0.36, -1), (-0.36, -1), (-0.36, 0.33), (-1, 0.33)])
        ],
        "bolt": [_inside_disc([(0.3, 1), (-0.65, -0.15), (-0.1, -0.15), (-0.3, -1), (0.65, 0.25), (0.1, 0.25)])],
        "hourglass": [_inside_disc([(-0.85, 1), (0.85, 1), (0.22, 0), (0.85, -1), (-0.85, -1), (-0.22, 0)])],
        "disc": [_turned(np.ones(24))],
        "square": [_turned([1, 1, 1, 1], 0.125)],
        "bar": [_inside_disc([(-0.4, 1), (0.4, 1), (0.4, -1), (-0.4, -1)])],
        "diamond": [_turned([1, 0.65, 1, 0.65])],
        "hexagon": [_turned(np.ones(6))],
    }


NAMES = tuple(_polygons())


@functools.cache
def edges() -> Float[np.ndarray, "shapes edges 2 2"]:
    """Both ends `(x, y)` of each edge of each shape, in the order of `NAMES`; y points up."""
    closed = [np.concatenate([np.stack([p, np.roll(p, -1, 0)], 1) for p in loops]) for loops in _polygons().values()]
    most = max(map(len, closed))
    padded = [np.pad(one, ((0, most - len(one)), (0, 0), (0, 0)), constant_values=FAR) for one in closed]
    return np.stack(padded).astype(np.float32)


def signed_distance(
    edges: Float[Array, "edges 2 2"], x: Float[Array, "*n"], y: Float[Array, "*n"]
) -> Float[Array, "*n"]:
    r"""Distance of points to the outline of a shape, negative inside.

    A point is inside where a ray from it crosses the outline an odd number of times.

    Args:
        edges: A row of `edges()`, perhaps at a traced index.
        x: To the right.
        y: Up.

    Example:
        >>> square = jnp.asarray(edges()[NAMES.index("square")])  # its corners are (±0.71, ±0.71)
        >>> signed_distance(square, jnp.array([0.0, 1.7071]), jnp.zeros(2)).round(4)
        Array([-0.7071,  1.    ], dtype=float32)
    """

    def nearer(carry: tuple[Array, Array], edge: Array) -> tuple[tuple[Array, Array], None]:
        squared, inside = carry
        (ax, ay), (bx, by) = edge
        px, py, dx, dy = x - ax, y - ay, bx - ax, by - ay
        along = jnp.clip((px * dx + py * dy) / jnp.maximum(dx**2 + dy**2, TINY), 0, 1)
        squared = jnp.minimum(squared, (px - along * dx) ** 2 + (py - along * dy) ** 2)
        crossed = ((ay <= y) != (by <= y)) & ((px * dy < py * dx) == (dy > 0))
        return (squared, inside ^ crossed), None

    # A loop over edges, a vector of points inside: ten times as fast on a CPU as a reduction over an axis of edges.
    start = jnp.full(x.shape, jnp.inf, x.dtype), jnp.zeros(x.shape, bool)
    (squared, inside), _ = jax.lax.scan(nearer, start, edges, unroll=4)
    return jnp.where(inside, -1, 1) * jnp.sqrt(squared)
