r"""Poolings and rearrangements with the Lipschitz constant 1."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from sparks_jax.lipschitz.bounds import One

Images = Float[Array, "b h w c"]
Pooled = Float[Array, "b gh gw c"]
Blocks = Float[Array, "b gh gw d"]


def scaled_avg_pool(x: Images, size: int | None = None) -> Pooled:
    r"""Sums over windows that do not overlap, over the root of their number: $y = \sum_{i \in W} x_i / \sqrt{|W|}$.

    Args:
        x: Images.
        size: Side of a window; None for the whole image.

    Raises:
        ValueError: If windows do not cover the image evenly.

    Example:
        >>> scaled_avg_pool(jnp.ones((1, 2, 2, 1)), 2).item()
        2.0

    Reference:
        Serrurier et al. 2021, Achieving robustness in classification using optimal transport with hinge regularization,
        arXiv:2006.06520.
    """
    windows, number = _windows("scaled_avg_pool", x, size)
    return windows.sum((2, 4)) / number**0.5


def l2_norm_pool(x: Images, size: int | None = None) -> Pooled:
    r"""The norm of windows that do not overlap: $y = (\sum_{i \in W} x_i^2)^{1/2}$, with a gradient of norm 1.

    The derivative at 0 is 0, of any order.

    Args:
        x: Images.
        size: Side of a window; None for the whole image.

    Raises:
        ValueError: If windows do not cover the image evenly.

    Example:
        >>> l2_norm_pool(jnp.array([3.0, 0.0, 4.0, 0.0]).reshape(1, 2, 2, 1), 2).item()
        5.0

    Reference:
        Boureau, Ponce & LeCun 2010, A theoretical analysis of feature pooling in visual recognition.
    """
    windows, _ = _windows("l2_norm_pool", x, size)
    # Divided by the largest, so that squares of small numbers do not vanish. Whatever it is divided by, the norm is the
    # same, so that no derivative goes there (its square would vanish in it).
    largest = lax.stop_gradient(jnp.abs(windows).max((2, 4), keepdims=True))
    largest = jnp.where(largest >= jnp.finfo(x.dtype).tiny, largest, 1)
    square = jnp.square(windows / largest).sum((2, 4))
    root = jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)
    return root * largest[:, :, 0, :, 0]


def space_to_depth(x: Images, factor: int = 2) -> Blocks:
    r"""Blocks of pixels as channels, a permutation: $y_{i j (r s c)} = x_{fi + r,\, fj + s,\, c}$.

    Args:
        x: Images.
        factor: f, side of a block.

    Raises:
        ValueError: If blocks do not cover the image evenly.

    Example:
        >>> space_to_depth(jnp.arange(4.0).reshape(1, 2, 2, 1)).ravel().tolist()
        [0.0, 1.0, 2.0, 3.0]

    Reference:
        Shi et al. 2016, Real-time single image and video super-resolution, arXiv:1609.05158.
    """
    windows, _ = _windows("space_to_depth", x, factor)
    b, gh, f, gw, _, c = windows.shape
    return windows.transpose(0, 1, 3, 2, 4, 5).reshape(b, gh, gw, f * f * c)


def depth_to_space(x: Images, factor: int = 2) -> Blocks:
    """Channels as blocks of pixels: the inverse of `space_to_depth`.

    Args:
        x: Images.
        factor: Side of a block.

    Raises:
        ValueError: If the channels are not a whole number of blocks.

    Example:
        >>> x = jnp.arange(16.0).reshape(1, 4, 4, 1)
        >>> (depth_to_space(space_to_depth(x)) == x).all().item()
        True

    Reference:
        Shi et al. 2016, arXiv:1609.05158.
    """
    b, h, w, c = x.shape
    if c % factor**2:
        raise ValueError(f"depth_to_space: {c} channels are no whole number of {factor} by {factor} blocks")
    x = x.reshape(b, h, w, factor, factor, c // factor**2)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, h * factor, w * factor, c // factor**2)


def _windows(who: str, x: Array, size: int | None) -> tuple[Array, int]:
    b, h, w, c = x.shape
    rows, columns = (h, w) if size is None else (size, size)
    if h % rows or w % columns:
        raise ValueError(f"{who}: {h} by {w} pixels are not covered evenly by {rows} by {columns}")
    return x.reshape(b, h // rows, rows, w // columns, columns, c), rows * columns


class _Pool(One):
    def __init__(self, size: int | None = None):
        """Pool windows of this side; None for the whole image."""
        self.size = size


class ScaledAvgPool(_Pool):
    """`scaled_avg_pool` as a layer."""

    def __call__(self, x: Images) -> Pooled:
        """Apply it."""
        return scaled_avg_pool(x, self.size)


class L2NormPool(_Pool):
    """`l2_norm_pool` as a layer."""

    def __call__(self, x: Images) -> Pooled:
        """Apply it."""
        return l2_norm_pool(x, self.size)


class InvertibleDownsample(One):
    """`space_to_depth` as a layer."""

    def __init__(self, factor: int = 2):
        """Take blocks of this side."""
        self.factor = factor

    def __call__(self, x: Images) -> Blocks:
        """Apply it."""
        return space_to_depth(x, self.factor)


class InvertibleUpsample(One):
    """`depth_to_space` as a layer."""

    def __init__(self, factor: int = 2):
        """Make blocks of this side."""
        self.factor = factor

    def __call__(self, x: Images) -> Blocks:
        """Apply it."""
        return depth_to_space(x, self.factor)


class Flatten(One):
    """All numbers of an image in a row."""

    def __call__(self, x: Images) -> Float[Array, "b d"]:
        """Apply it."""
        return x.reshape(len(x), -1)
