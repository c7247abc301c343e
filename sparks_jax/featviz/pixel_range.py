r"""Between pixels of a given range and channels that are independent and unbounded, in which spectra are measured.

A canvas $x$ has any real values; the pixels it stands for are $l + (u - l)\, \sigma(x M)$, with $M$ from
`fourier.colour_matrix` and $(l, u)$ the range that the model was trained on.
"""

from typing import Any

import jax
import jax.numpy as jnp

from sparks_jax import fourier
from sparks_jax.fourier import IMAGENET_COLOURS, Colours
from sparks_jax.types import Image

Range = tuple[float | int, float | int]

# Half a step of 8 bits: what black and white are taken for, since the logit of 0 is infinite.
CLIP = 0.5 / 255


def to_pixels(x: Image, values_range: Range, colours: Colours = IMAGENET_COLOURS) -> Image:
    r"""Pixels in a range, of an unbounded image with independent channels.

    $I = l + (u - l)\, \sigma(x M)$

    Args:
        x: Independent channels.
        values_range: $(l, u)$.
        colours: $M$.

    Example:
        >>> to_pixels(jnp.zeros((1, 1, 1)), (-1.0, 1.0), jnp.eye(1)).item()
        0.0

    Reference:
        Olah et al. 2017, Feature visualization, Distill.
    """
    low, high = values_range
    return low + (high - low) * jax.nn.sigmoid(fourier.recorrelate(x, colours))


def from_pixels(image: Image, values_range: Range, colours: Colours = IMAGENET_COLOURS) -> Image:
    r"""The unbounded image with independent channels that has these pixels: the inverse of `to_pixels`.

    $x = \mathrm{logit}\!\left(\frac{I - l}{u - l}\right) M^{-1}$, black and white half a step of 8 bits inside

    Args:
        image: Pixels in the range.
        values_range: $(l, u)$.
        colours: $M$.

    Example:
        >>> round(from_pixels(jnp.full((1, 1, 1), 0.75), (0.0, 1.0), jnp.eye(1)).item(), 4)  # log 3
        1.0986

    Reference:
        Fel et al. 2023, Unlocking feature visualization for deeper networks with magnitude constrained optimization,
        arXiv:2306.06805.
    """
    low, high = values_range
    share = jnp.clip((image - low) / (high - low), CLIP, 1 - CLIP)
    return fourier.decorrelate(jnp.log(share) - jnp.log1p(-share), colours)


def check_range(values_range: Any, who: str) -> Range:
    """The range of pixels as two numbers, or a sentence that asks for it.

    Args:
        values_range: The would-be range.
        who: The function that speaks.

    Raises:
        ValueError: If it is not given, or is not two increasing finite numbers.

    Example:
        >>> check_range((0, 1), "maco")
        (0.0, 1.0)
        >>> check_range(None, "maco")
        Traceback (most recent call last):
        ValueError: maco: the range of the pixels that the model takes is not given...

    Reference:
        Fel et al. 2023, arXiv:2306.06805 (every published code assumes another range).
    """
    asked = (
        "pass values_range=(0, 1) for RGB in [0, 1], (-1, 1), or (-2.5, 2.5) for pixels divided by ImageNet's deviation"
    )
    if values_range is None:
        raise ValueError(f"{who}: the range of the pixels that the model takes is not given; {asked}")
    low, high = map(float, values_range)
    if not -float("inf") < low < high < float("inf"):
        raise ValueError(f"{who}: values_range is {tuple(values_range)}, expected two increasing numbers; {asked}")
    return low, high


def check_size(size: Any, who: str) -> tuple[int, int]:
    """Height and width from one side or two.

    Args:
        size: The side of a square, or height and width.
        who: The function that speaks.

    Raises:
        ValueError: If they are not positive integers.

    Example:
        >>> check_size(8, "maco"), check_size((4, 6), "maco")
        ((8, 8), (4, 6))

    Reference:
        Fel et al. 2023, arXiv:2306.06805.
    """
    sides = tuple(size) if isinstance(size, tuple | list) else (size, size)
    if len(sides) != 2 or any(int(side) != side or side < 1 for side in sides):
        raise ValueError(f"{who}: size is {size}, expected a positive side in pixels or (height, width)")
    return int(sides[0]), int(sides[1])
