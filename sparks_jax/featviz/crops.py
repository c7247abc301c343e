r"""Crops of a canvas at random places, resized for the model: two products with small matrices each.

They cost little beside a network, and their gradient is two products again, without a scatter.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from sparks_jax.types import Image, Scalar

View = Callable[..., Image]
Viewed = Float[Array, "height width c"]  # perhaps of another size
Box = Float[Array, "4"]
Sides = tuple[float | int, float | int]

# Draws from normal distributions end here, so that the largest crop is known.
CUT = 3.0


def crop(x: Image, box: Box, size: tuple[int, int]) -> Viewed:
    r"""A part of an image, resized linearly without aliasing.

    $y = A_y\, x\, A_x^\top$, rows of $A$ triangles of half-width $\max(1, \text{side} / n)$ that sum to 1

    Args:
        x: The image.
        box: Top, left, height and width of the part in pixels; traced is fine. What is outside has the nearest colour.
        size: Height and width wanted.

    Example:
        >>> x = jnp.arange(4.0).reshape(1, 4, 1)
        >>> crop(x, jnp.array([0.0, 1.0, 1.0, 2.0]), (1, 2)).ravel().tolist()
        [1.0, 2.0]

    Reference:
        Keys 1981, Cubic convolution interpolation for digital image processing (section I).
    """
    rows = _triangles(x.shape[0], size[0], box[0], box[2]).astype(x.dtype)
    columns = _triangles(x.shape[1], size[1], box[1], box[3]).astype(x.dtype)
    tall = jnp.einsum("ih,hwc->iwc", rows, x)
    return jnp.einsum("jw,iwc->ijc", columns, tall)


def random_box(
    size: tuple[int, int],
    input_size: tuple[int, int],
    *,
    key: PRNGKeyArray,
    side: float | Float[Array, ""],
    side_spread: float = 0.05,
    centre_spread: float = 0.15,
    smallest: float = 0.05,
) -> Box:
    r"""A box inside of a canvas, with the proportions of what the model takes.

    side $\sim \mathcal{N}(s, \sigma_s^2)$ of the largest such box, in [`smallest`, 1]; centre
    $\sim \mathcal{N}(\frac12, \sigma_c^2)$ of the canvas, moved inside

    Args:
        size: Height and width of the canvas.
        input_size: Height and width that give the proportions.
        key: Draws side and centre, from normal distributions cut at 3 deviations.
        side: $s$, as a share.
        side_spread: $\sigma_s$.
        centre_spread: $\sigma_c$.
        smallest: Least side.

    Example:
        >>> random_box((8, 16), (4, 4), key=jax.random.key(0), side=0.5, side_spread=0.0, centre_spread=0.0).tolist()
        [2.0, 6.0, 4.0, 4.0]

    Reference:
        Fel et al. 2023, Unlocking feature visualization for deeper networks with magnitude constrained optimization,
        arXiv:2306.06805.
    """
    key_side, key_centre = jax.random.split(key)
    share = jnp.clip(side + side_spread * jax.random.truncated_normal(key_side, -CUT, CUT), smallest, 1)
    extent = share * jnp.asarray(_largest(size, input_size))
    whole = jnp.asarray(size, extent.dtype)
    centre = whole * (0.5 + centre_spread * jax.random.truncated_normal(key_centre, -CUT, CUT, (2,)))
    return jnp.concatenate([jnp.clip(centre - extent / 2, 0, whole - extent), extent])


def random_crops(
    size: tuple[int, int],
    input_size: tuple[int, int],
    *,
    sides: Sides = (0.6, 0.25),
    side_spread: float = 0.05,
    centre_spread: float = 0.15,
) -> View:
    r"""Crops at random places, of sides that change during the ascent, each resized for the model.

    As `random_box` with $s = s_0 + (s_1 - s_0) \cdot$ progress.

    Args:
        size: Height and width of the canvas.
        input_size: Height and width that the model takes.
        sides: $s_0$ and $s_1$, as shares of the largest crop of these proportions.
        side_spread: As in `random_box`.
        centre_spread: As in `random_box`.

    Raises:
        ValueError: For sides that are not shares.

    Example:
        >>> view = random_crops((8, 8), (4, 4), sides=(1.0, 0.5), side_spread=0.0)
        >>> view(jnp.ones((8, 8, 3)), key=jax.random.key(0), progress=0.5).shape
        (4, 4, 3)

    Reference:
        Fel et al. 2023, arXiv:2306.06805.
    """
    if not 0 < min(sides) <= max(sides) <= 1:
        raise ValueError(f"random_crops: sides is {tuple(sides)}, expected shares of the canvas in (0, 1]")
    # No crop is larger than this: only so much of the canvas is multiplied, with what its border is interpolated from.
    most = np.minimum(1.0, max(sides) + CUT * side_spread) * _largest(size, input_size)
    margin = np.ceil(np.maximum(1, most / np.asarray(input_size)))
    window = np.minimum(size, np.ceil(most) + 2 * margin + 1).astype(int)

    def view(x: Image, *, key: PRNGKeyArray, progress: Any) -> Viewed:
        side = sides[0] + (sides[1] - sides[0]) * progress
        box = random_box(size, input_size, key=key, side=side, side_spread=side_spread, centre_spread=centre_spread)
        if window.prod() > 0.7 * np.prod(size):  # a slice costs more than it saves
            return crop(x, box, input_size)
        corner = jnp.clip(jnp.floor(box[:2]) - margin, 0, size - window)
        top, left = corner.astype(jnp.int32)
        part = jax.lax.dynamic_slice(x, (top, left, 0), (int(window[0]), int(window[1]), x.shape[2]))
        return crop(part, jnp.concatenate([box[:2] - corner, box[2:]]), input_size)

    return view


def _largest(size: tuple[int, int], input_size: tuple[int, int]) -> Float[np.ndarray, "2"]:
    """Height and width of the largest part of a canvas that has given proportions."""
    return np.array(input_size, np.float32) * min(size[0] / input_size[0], size[1] / input_size[1])


def _triangles(n: int, out: int, start: Scalar, length: Scalar) -> Float[Array, "out n"]:
    """Weights of each of `n` pixels in each of `out` that cover a part of them."""
    step = length / out
    position = jnp.clip(start + (jnp.arange(out) + 0.5) * step - 0.5, 0, n - 1)
    weight = jnp.maximum(0, 1 - jnp.abs(position[:, None] - jnp.arange(n)[None]) / jnp.maximum(step, 1))
    return weight / weight.sum(1, keepdims=True)
