r"""Depthwise convolutions as shifted multiply-adds, which XLA turns into one loop over contiguous channels.

XLA:CPU computes `conv_general_dilated(..., feature_group_count=c)` one number at a time. The same sum written as
shifts of the whole array runs EfficientNet-Lite0 8 times faster, forwards. `experiments/benchmarks/depthwise.py`
prints the figures.

Automatic differentiation would turn every shift, a slice, into a pad, and XLA:CPU is as slow on a sum of pads as on
the grouped convolution. Transposed pads are slices again, so the tangent is written as a sum of pads: gradients, which
transpose it, are fast, and forward-mode derivatives are only correct.
"""

from collections.abc import Iterator
from functools import partial
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def depthwise(
    x: Float[Array, "b h w c"], kernel: Float[Array, "k k c"], stride: int = 1
) -> Float[Array, "b gh gw c"]:
    r"""Convolve each channel with its own filter, zeros around the image: TensorFlow's 'SAME' padding.

    $y_{pqc} = \sum_{ij} x_{sp + i - l,\; sq + j - l,\; c}\, K_{ijc}$ on a grid of $\lceil h/s \rceil$ by
    $\lceil w/s \rceil$, with the padding $l$ of `same_padding`.

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
    return sum(tap * kernel[i, j][None, None, None] for (i, j), tap in _taps(x, len(kernel), stride))


@depthwise.defjvp
def _depthwise_jvp(stride: int, primals: Any, tangents: Any) -> Any:
    (x, kernel), (dx, dkernel) = primals, tangents
    along_kernel = sum(tap * dkernel[i, j][None, None, None] for (i, j), tap in _taps(x, len(kernel), stride))
    return depthwise(x, kernel, stride), _depthwise_as_pads(dx, kernel, stride) + along_kernel


def same_padding(length: int, size: int, stride: int) -> tuple[int, int]:
    """Zeros before and after an axis in TensorFlow's 'SAME' padding; the odd one goes after.

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
    """For each entry of the filter, what the outputs see of the image through it."""
    rows, columns = (-(-length // stride) for length in x.shape[1:3])
    pads = [same_padding(length, size, stride) for length in x.shape[1:3]]
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    for i, j in product(range(size), repeat=2):
        i_end, j_end = i + (rows - 1) * stride + 1, j + (columns - 1) * stride + 1
        yield (i, j), x[:, i:i_end:stride, j:j_end:stride]


def _depthwise_as_pads(x: Array, kernel: Array, stride: int) -> Array:
    r"""`depthwise`, each input pixel giving to the outputs instead of each output taking from the inputs.

    On one axis: with $u + l = s r + a$, input $u$ is number $r$ of phase $a$, and the filter's entry $i = a + s m$
    takes it to output $q = r - m$. One pad by $m$ per entry, summed in a frame that holds the $m = 0 … M$ of all.
    """
    size, reach = len(kernel), (len(kernel) - 1) // stride
    rows, columns = (-(-length // stride) for length in x.shape[1:3])
    before = [same_padding(length, size, stride)[0] for length in x.shape[1:3]]
    phases = _phases(x, stride, [zeros % stride for zeros in before])
    frame = sum(
        jnp.pad(phases[i % stride][j % stride] * kernel[i, j][None, None, None], ((0, 0), *_places(reach, i, j, stride), (0, 0)))
        for i, j in product(range(size), repeat=2)
    )
    top, left = (reach - zeros // stride for zeros in before)
    return frame[:, top : top + rows, left : left + columns]


def _places(reach: int, i: int, j: int, stride: int) -> list[tuple[int, int]]:
    return [(reach - m, m) for m in (i // stride, j // stride)]


def _phases(x: Array, stride: int, before: list[int]) -> list[list[Array]]:
    """Every `stride`-th pixel from each start, after zeros; `lax.split`, because its transpose is one concatenation."""
    pads = [(zeros, -(length + zeros) % stride) for zeros, length in zip(before, x.shape[1:3], strict=True)]
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    b, h, w, c = x.shape
    x = x.reshape(b, h // stride, stride, w // stride, stride, c)
    ones = (1,) * stride
    return [[part.squeeze((2, 4)) for part in jax.lax.split(row, ones, 4)] for row in jax.lax.split(x, ones, 2)]


class DepthwiseConv(nnx.Module):
    """A `depthwise` convolution with a trained kernel `(size, size, c)`, in the type of its input.

    Example:
        >>> from flax import nnx
        >>> DepthwiseConv(4, size=3, stride=2, rngs=nnx.Rngs(0))(jnp.ones((1, 7, 7, 4))).shape
        (1, 4, 4, 4)
    """

    def __init__(self, features: int, *, size: int, stride: int = 1, rngs: nnx.Rngs):
        """Draw the kernel of variance `2 / size²`, which a ReLU keeps (He et al. 2015)."""
        init = nnx.initializers.normal((2 / size**2) ** 0.5)
        self.kernel = nnx.Param(init(rngs.params(), (size, size, features)))
        self.stride = stride

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b gh gw c"]:
        """Convolve a batch."""
        return depthwise(x, self.kernel[...].astype(x.dtype), self.stride)
