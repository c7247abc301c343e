r"""What concepts are fitted on: crops of images, positions of their activations, or tokens.

A view is a function `(features, images, *, chunk) -> Views`, from images to rows of activations, each with the place
that it was seen at. Features are evaluated on a few views at a time; the rows are all that is kept.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from sparks_jax import stream
from sparks_jax.types import Image, Model

Boxes = Float[Array, "n 4"]


class Views(NamedTuple):
    """Rows of activations and where they were seen.

    Attributes:
        acts: `(n d)` one row for each view.
        image: `(n)` the image that each is a part of.
        box: `(n 4)` the part: top, left, height and width in pixels.
    """

    acts: Float[Array, "*classes n d"]
    image: Int[Array, "*classes n"]
    box: Float[Array, "*classes n 4"]


View = Callable[..., Views]


def crop_boxes(size: tuple[int, int], crop: int, stride: float = 0.8) -> Float[np.ndarray, "n 4"]:
    r"""Square crops of an image in rows and columns, evenly spread from one border to the other.

    $\max(\lfloor (S - P) / \lfloor \rho P \rfloor \rfloor, \lceil (S - P) / P \rceil) + 1$ on a side of $S$ pixels

    As many as at a stride of $\rho$ times their side $P$, or as it takes to leave no pixel out; the last row and column
    end at the border.

    Args:
        size: Height and width of the image in pixels.
        crop: Side $P$ of a crop.
        stride: $\rho$.

    Returns:
        Top, left, height and width of each, row by row.

    Raises:
        ValueError: If the crops are larger than the image, or the stride is less than a pixel.

    Example:
        >>> crop_boxes((224, 224), 64).shape, crop_boxes((10, 6), 6)[:, 0].tolist()
        ((16, 4), [0.0, 4.0])

    Reference:
        Fel et al. 2023, CRAFT: concept recursive activation factorization for explainability, arXiv:2211.10154.
    """
    step = int(stride * crop)
    if not 1 <= crop <= min(size) or step < 1:
        raise ValueError(
            f"crops of {crop} pixels at a stride of {stride} of images of {size[0]} × {size[1]}: expected a side of at "
            f"most {min(size)} and a stride of at least one pixel"
        )
    counts = [max((side - crop) // step, -(-(side - crop) // crop)) + 1 for side in size]
    tops, lefts = (np.round(np.linspace(0, side - crop, count)) for side, count in zip(size, counts, strict=True))
    return np.array([(top, left, crop, crop) for top in tops for left in lefts], np.float32)


def zoom(x: Image, box: Float[Array, "4"], size: tuple[int, int]) -> Float[Array, "height width c"]:
    r"""A part of an image, resized by cubic convolution without aliasing.

    Args:
        x: The image.
        box: Top, left, height and width of the part, in pixels; traced is fine.
        size: Height and width wanted.

    Example:
        >>> x = jnp.arange(16.0).reshape(4, 4, 1)
        >>> print(zoom(x, jnp.array([1.0, 2.0, 2.0, 2.0]), (2, 2))[..., 0].round())
        [[ 6.  7.]
         [10. 11.]]

    Reference:
        Keys 1981, Cubic convolution interpolation for digital image processing.
    """
    scale = jnp.asarray(size, box.dtype) / box[2:]
    return jax.image.scale_and_translate(x, (*size, x.shape[2]), (0, 1), scale, -box[:2] * scale, "cubic")


def crops(size: int | Sequence[int] = 64, *, stride: float = 0.8) -> View:
    """Crops of images, each resized to a whole image and its activations averaged over positions, as in the paper.

    Cost: 1 F for each crop: 16 for an image of 224 pixels and crops of 64.

    Args:
        size: Side of a crop in pixels; or several, where there are few images.
        stride: As in `crop_boxes`.

    Example:
        >>> views = crops(4)(lambda x: x, jnp.ones((2, 8, 8, 3)), chunk=4)
        >>> views.acts.shape, views.image.tolist()
        ((8, 3), [0, 0, 0, 0, 1, 1, 1, 1])
        >>> crops((4, 8), stride=1.0)(lambda x: x, jnp.ones((1, 8, 8, 3)), chunk=4).box[:, 2].tolist()
        [4.0, 4.0, 4.0, 4.0, 8.0]

    Reference:
        Fel et al. 2023, CRAFT: concept recursive activation factorization for explainability, arXiv:2211.10154.
    """
    sizes = (size,) if isinstance(size, int) else tuple(size)

    def view(features: Model, images: Float[Array, "n h w c"], *, chunk: int = 16) -> Views:
        boxes = np.concatenate([crop_boxes((images.shape[1], images.shape[2]), one, stride) for one in sizes])
        image = jnp.repeat(jnp.arange(len(images)), len(boxes))
        box = jnp.tile(jnp.asarray(boxes, jnp.float32), (len(images), 1))
        return Views(at_boxes(features, images, image, box, chunk=chunk), image, box)

    return view


def at_boxes(
    features: Model,
    images: Float[Array, "n h w c"],
    image: Int[Array, " v"],
    box: Float[Array, "v 4"],
    *,
    chunk: int = 16,
) -> Float[Array, "v d"]:
    r"""The mean activations of parts of images, each resized to a whole image.

    $\frac{1}{|P|} \sum_p g(\mathrm{zoom}(x_i, b))_p$

    Cost: 1 F for each part.

    Args:
        features: From a batch of images to activations `(b …, d)`.
        images: The images.
        image: Which image each is a part of.
        box: Top, left, height and width of each.
        chunk: Parts at once.

    Example:
        >>> x = jnp.zeros((1, 4, 4, 1)).at[0, 2:].set(1.0)
        >>> box = jnp.array([[0.0, 0.0, 2.0, 2.0], [2.0, 2.0, 2.0, 2.0]])
        >>> at_boxes(lambda x: x, x, jnp.array([0, 0]), box)[:, 0].round(1).tolist()
        [0.0, 1.0]

    Reference:
        Fel et al. 2023, CRAFT: concept recursive activation factorization for explainability, arXiv:2211.10154.
    """
    size = (images.shape[1], images.shape[2])

    def mean_of(part: tuple[Array, Array]) -> Float[Array, " d"]:
        acts = features(zoom(images[part[0]], part[1], size)[None])[0]
        return acts.reshape(-1, acts.shape[-1]).mean(0)

    return stream.stack_over(mean_of, (image, box), chunk)


def positions() -> View:
    """Positions of the activations of whole images, each seen at its block of pixels.

    Cost: 1 F for each image.

    Example:
        >>> views = positions()(lambda x: x[:, ::2, ::2], jnp.ones((2, 4, 4, 3)))
        >>> views.acts.shape, views.box[3].tolist()
        ((8, 3), [2.0, 2.0, 2.0, 2.0])

    Reference:
        Zhang et al. 2021, Invertible concept-based explanations for CNN models with non-negative concept activation
        vectors, arXiv:2006.15417.
    """

    def view(features: Model, images: Float[Array, "n h w c"], *, chunk: int = 16) -> Views:
        acts = stream.stack_over(lambda x: features(x[None])[0], images, chunk)
        if acts.ndim != 4:
            raise ValueError(
                f"positions: features returned shape {(1, *acts.shape[1:])} for one image, expected (1, gh, gw, d); "
                "of tokens (1, t, d), take tokens()"
            )
        return _whole(acts, images, _cells(images.shape[1:3], acts.shape[1:3]))

    return view


def tokens(*, skip: int = 1) -> View:
    """Tokens of whole images, each seen at its patch if they form a square, else at the whole image.

    Cost: 1 F for each image.

    Args:
        skip: Tokens at the beginning that are no patches: one of the class, and registers.

    Example:
        >>> features = lambda x: jnp.concatenate([x[:, :1, 0], x.reshape(len(x), -1, 3)], 1)
        >>> tokens()(features, jnp.ones((2, 4, 4, 3))).acts.shape
        (32, 3)

    Reference:
        Dosovitskiy et al. 2021, An image is worth 16x16 words, arXiv:2010.11929.
    """

    def view(features: Model, images: Float[Array, "n h w c"], *, chunk: int = 16) -> Views:
        acts = stream.stack_over(lambda x: features(x[None])[0], images, chunk)
        if acts.ndim != 3 or acts.shape[1] <= skip:
            raise ValueError(
                f"tokens: features returned shape {(1, *acts.shape[1:])} for one image, expected (1, t, d) with more "
                f"than {skip} tokens; of feature maps (1, gh, gw, d), take positions()"
            )
        acts, size = acts[:, skip:], images.shape[1:3]
        side = round(acts.shape[1] ** 0.5)
        grid = _cells(size, (side, side)) if side**2 == acts.shape[1] else None
        return _whole(acts, images, np.tile([[0, 0, *size]], (acts.shape[1], 1)) if grid is None else grid)

    return view


def _whole(acts: Array, images: Array, boxes: np.ndarray) -> Views:
    """Rows of the activations of whole images, with the same boxes in each."""
    n = len(images)
    image = jnp.repeat(jnp.arange(n), len(boxes))
    return Views(acts.reshape(-1, acts.shape[-1]), image, jnp.tile(jnp.asarray(boxes, jnp.float32), (n, 1)))


def _cells(size: Any, grid: Any) -> np.ndarray:
    """The blocks of pixels of a grid, row by row."""
    (height, width), (h, w) = (size[0] / grid[0], size[1] / grid[1]), grid
    return np.array([(i * height, j * width, height, width) for i in range(h) for j in range(w)])
