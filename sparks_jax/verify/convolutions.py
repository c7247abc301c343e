r"""The transposed map of a convolution, written as a convolution that runs fast everywhere.

JAX transposes a convolution of stride s to one over an image dilated by s, with zeros between its pixels. XLA:CPU takes
5 to 100 times as long for those as for a plain one, and for any whose arrays are not laid out (b h w c) and (h w i o).
"""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from sparks_jax.verify.interpreter import Node


def transposed(node: Node, kernel: Array, shape: tuple[int, ...]) -> Callable[[Array], Array] | None:
    r"""The transposed map of a convolution in its image, or None if it is dilated or grouped.

    With $t = sj + r$ a tap adds to pixel $s(o + j) + r$: for each remainder $r$ of the stride, a convolution without
    stride with every s-th tap; together they are the pixels of blocks of $s \times s$.

    Args:
        node: The convolution.
        kernel: Its second operand.
        shape: Of its first operand.

    Example:
        >>> from sparks_jax.verify.interpreter import trace
        >>> f = lambda x: lax.conv_general_dilated(x, jnp.ones((1, 1, 2)), (2,), "VALID")
        >>> pull = transposed(trace(f, jnp.ones((1, 1, 5))).nodes[-1], jnp.ones((1, 1, 2)), (1, 1, 5))
        >>> pull(jnp.array([[[1.0, 2.0]]])).tolist()
        [[[1.0, 1.0, 2.0, 2.0, 0.0]]]

    Reference:
        Dumoulin & Visin 2016, A guide to convolution arithmetic for deep learning, arXiv:1603.07285.
    """
    p = node.params
    dilated = any(n != 1 for n in (*p["lhs_dilation"], *p["rhs_dilation"]))
    if dilated or p["feature_group_count"] != 1 or p["batch_group_count"] != 1:
        return None
    lhs, rhs, out = p["dimension_numbers"]
    strides, pads, sides = p["window_strides"], p["padding"], [shape[k] for k in lhs[2:]]
    kernel = kernel.transpose(*rhs[2:], rhs[1], rhs[0])  # (k… c d)
    taps = [-(-k // s) for k, s in zip(kernel.shape, strides, strict=False)]
    phases, blocks = _phases(kernel, taps, strides), int(np.prod(strides))
    spatial = "012345"[: len(sides)]
    numbers = (f"N{spatial}C", f"{spatial}IO", f"N{spatial}C")

    def pull(a: Array) -> Array:
        a = a.transpose(out[0], *out[2:], out[1])
        a = lax.conv_general_dilated(
            a, phases, (1,) * len(sides), [(j - 1, j - 1) for j in taps], dimension_numbers=numbers,
            precision=lax.Precision.HIGHEST,
        )  # fmt: skip
        if blocks > 1:
            a = _unblocked(a, strides)
        # Pixels before the border are cut off; those that no tap meets get zeros.
        edges = [(-low, side + low - n, 0) for (low, _), side, n in zip(pads, sides, a.shape[1:-1], strict=True)]
        a = lax.pad(a, jnp.zeros((), a.dtype), [(0, 0, 0), *edges, (0, 0, 0)])
        order = np.argsort((lhs[0], *lhs[2:], lhs[1]))
        return a.transpose(*order)

    return pull


def _phases(kernel: Array, taps: list[int], strides: tuple[int, ...]) -> Array:
    """Kernels (j… d, r… c) of all remainders, with the taps in reverse."""
    *sizes, c, d = kernel.shape
    n = len(sizes)
    kernel = jnp.pad(kernel, [*((0, j * s - k) for j, s, k in zip(taps, strides, sizes, strict=True)), (0, 0), (0, 0)])
    kernel = kernel.reshape(*(side for pair in zip(taps, strides, strict=True) for side in pair), c, d)
    kernel = kernel.transpose(*range(0, 2 * n, 2), 2 * n + 1, *range(1, 2 * n, 2), 2 * n)
    return jnp.flip(kernel, range(n)).reshape(*taps, d, -1)


def _unblocked(a: Array, strides: tuple[int, ...]) -> Array:
    """From blocks of pixels, which are channels (r… c), to the pixels."""
    b, *sides, _ = a.shape
    n = len(sides)
    a = a.reshape(b, *sides, *strides, -1)
    order = [k for pair in zip(range(1, n + 1), range(n + 1, 2 * n + 1), strict=True) for k in pair]
    a = a.transpose(0, *order, 2 * n + 1)
    return a.reshape(b, *(side * s for side, s in zip(sides, strides, strict=True)), -1)
