"""The vocabulary: an image, a heat map, a score, a model, a box.

Letters in shapes are the same in the whole package: `h w c` image, `b` batch, `d` features, `n` items,
`k` concepts, `m` classes, `gh gw` a grid of cells.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from jaxtyping import Array, Float

Image = Float[Array, "h w c"]
Heatmap = Float[Array, "h w"]
Scalar = Float[Array, ""]

# A score maps one input (an image, activations, a code, a table row) to one number.
Score = Callable[[Any], Scalar]
# A model maps a batch of inputs to one row of `m` numbers each.
Model = Callable[[Any], Float[Array, "b m"]]
# A perturbation fades an image under a mask with values in [0, 1]: 1 keeps the pixel, 0 removes it.
Perturbation = Callable[[Image, Heatmap], Image]


class Box(NamedTuple):
    """An axis-aligned box: every array `x` with `lower <= x <= upper`, elementwise.

    Attributes:
        lower: Lower corner, any shape.
        upper: Upper corner, same shape.
    """

    lower: Float[Array, "..."]
    upper: Float[Array, "..."]
