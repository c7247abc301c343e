r"""Depthwise convolutions as shifted multiply-adds, which XLA turns into one loop over contiguous channels.

XLA:CPU computes `conv_general_dilated(..., feature_group_count=c)` one number at a time. Written as a sum of shifts of
the whole array it makes EfficientNet-Lite0 5 to 8 times as fast; `experiments/benchmarks/depthwise.py` measures it.

Differentiated automatically, every shift, which is a slice, becomes a pad, and a sum of pads is slow again. A pad
transposed is a slice. So the tangent is written as a sum of pads: gradients, which transpose it, are fast (that of the
network takes 0.6 of the time), and forward-mode derivatives are right, no more.
"""

from collections.abc import Iterator
from functools import partial, reduce
from itertools import product
from operator import add
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Float


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def depthwise(x: Float[Array, "b h w c"], kernel: Float[Array, "k k c"], stride: int = 1) -> Float[Array, "b gh gw c"]:
    r"""Convolve each channel with its own filter, zeros around the image: TensorFlow's 'SAME' padding.

    $y_{pqc} = \sum_{ij} x_{sp + i - l,\; sq + j - l,\; c}\, K_{ijc}$ on a grid of $\lceil h/s \rceil$ by
    $\lceil w/s \rceil$, with the $l$ zeros of `same_padding` before each axis.

    Args:
        x: A batch of images or activations.
        kernel: One square filter for each channel.
        stride: Step $s$ between two positions, on both axes.

    Example:
        >>> depthwise(jnp.ones((1, 3, 3, 1)), jnp.ones((3, 3, 1)))[0, :, :, 0]
        Array([[4., 6., 4.],
               [6., 9., 6.],
               [4., 6., 4.]], dtype=float32)

    Reference:
        Howard et al. 2017, MobileNets, arXiv:1704.04861.
    """
    return _sum_of_slices(x, kernel, stride)


@partial(depthwise.defjvp, symbolic_zeros=True)
def _tangent(stride: int, primals: Any, tangents: Any) -> Any:
    (x, kernel), (dx, dkernel) = primals, tangents
    y = depthwise(x, kernel, stride)
    dy = jnp.zeros_like(y)
    if not isinstance(dx, SymbolicZero):
        dy += _sum_of_pads(dx, kernel, stride)
    if not isinstance(dkernel, SymbolicZero):
        dy += _sum_of_slices(x, dkernel, stride)
    return y, dy


def patches(x: Float[Array, "b h w c"], size: int, stride: int = 1) -> Float[Array, "b gh gw d"]:
    r"""What each position of a convolution sees: $d = k^2 c$ numbers, rows first, then columns, then channels.

    A convolution of few channels, such as the first of a network, is their product with a matrix, and on XLA:CPU faster
    so: half the time for 3 x 3 pixels of 3 channels.

    Args:
        x: A batch of images.
        size: Side $k$ of the square that a position sees, with 'SAME' padding as in `depthwise`.
        stride: Step between two positions, on both axes.

    Example:
        >>> patches(jnp.arange(1.0, 5.0).reshape(1, 2, 2, 1), size=2, stride=2)[0, 0, 0]
        Array([1., 2., 3., 4.], dtype=float32)
    """
    return jnp.concatenate([tap for _, tap in _taps(x, size, stride)], -1)


def same_padding(length: int, size: int, stride: int) -> tuple[int, int]:
    """Zeros before and after an axis in TensorFlow's 'SAME' padding; of an odd number, the last goes after.

    Args:
        length: Of the axis.
        size: Of the filter.
        stride: Step between two positions.

    Example:
        >>> same_padding(7, 3, 1), same_padding(224, 3, 2), same_padding(28, 5, 2)
        ((1, 1), (0, 1), (1, 2))
    """
    zeros = max((-(-length // stride) - 1) * stride + size - length, 0)
    return zeros // 2, zeros - zeros // 2


def _taps(x: Array, size: int, stride: int) -> Iterator[tuple[tuple[int, int], Array]]:
    """For each entry of a filter, what all positions see of the image through it."""
    rows, columns = (-(-length // stride) for length in x.shape[1:3])
    pads = [same_padding(length, size, stride) for length in x.shape[1:3]]
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    for i, j in product(range(size), repeat=2):
        i_end, j_end = i + (rows - 1) * stride + 1, j + (columns - 1) * stride + 1
        yield (i, j), x[:, i:i_end:stride, j:j_end:stride]


def _sum_of_slices(x: Array, kernel: Array, stride: int) -> Array:
    """The convolution, each output taking from the inputs."""
    return reduce(add, (tap * kernel[i, j][None, None, None] for (i, j), tap in _taps(x, len(kernel), stride)))


def _sum_of_pads(x: Array, kernel: Array, stride: int) -> Array:
    r"""The same convolution, each input giving to the outputs.

    On one axis: input $u$, which is number $r$ of phase $a$ in $u + l = s r + a$, goes through the filter's entry
    $i = a + s m$ to output $r - m$. That is a pad for each entry, into a frame for the shifts $m = 0 … M$ of all.
    """
    size, furthest = len(kernel), (len(kernel) - 1) // stride
    rows, columns = (-(-length // stride) for length in x.shape[1:3])
    (top, _), (left, _) = (same_padding(length, size, stride) for length in x.shape[1:3])
    # Only l mod s zeros are put before the input: a whole step more would only shift the frame.
    phases = _phases(x, stride, (top % stride, left % stride))

    def placed(i: int, j: int) -> Array:
        pads = [(furthest - m, m) for m in (i // stride, j // stride)]
        return jnp.pad(phases[i % stride][j % stride] * kernel[i, j][None, None, None], ((0, 0), *pads, (0, 0)))

    frame = reduce(add, (placed(i, j) for i, j in product(range(size), repeat=2)))
    first_row, first_column = furthest - top // stride, furthest - left // stride
    return frame[:, first_row : first_row + rows, first_column : first_column + columns]


def _phases(x: Array, stride: int, zeros: tuple[int, int]) -> list[list[Array]]:
    """Every `stride`-th pixel from each start, after zeros; by `split`, whose transpose is one concatenation."""
    pads = [(before, -(before + length) % stride) for before, length in zip(zeros, x.shape[1:3], strict=True)]
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    b, h, w, c = x.shape
    x = x.reshape(b, h // stride, stride, w // stride, stride, c)
    ones = (1,) * stride
    return [[part.squeeze((2, 4)) for part in jax.lax.split(row, ones, 4)] for row in jax.lax.split(x, ones, 2)]


class DepthwiseConv(nnx.Module):
    """A `depthwise` convolution with a trained kernel `(size, size, c)`, in the wider type of the input and the kernel.

    Example:
        >>> from flax import nnx
        >>> DepthwiseConv(4, size=3, stride=2, rngs=nnx.Rngs(0))(jnp.ones((1, 7, 7, 4))).shape
        (1, 4, 4, 4)
    """

    def __init__(self, features: int, *, size: int, stride: int = 1, rngs: nnx.Rngs):
        """Draw the kernel with variance `2 / size²`, which keeps that of activations in a ReLU network."""
        init = nnx.initializers.normal((2 / size**2) ** 0.5)
        self.kernel = nnx.Param(init(rngs.params(), (size, size, features)))
        self.stride = stride

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b gh gw c"]:
        """Convolve a batch."""
        kernel = self.kernel[...]
        dtype = jnp.result_type(x, kernel)
        return depthwise(x.astype(dtype), kernel.astype(dtype), self.stride)
