r"""A 2-D convolution whose gradients are convolutions and matrix products that run fast everywhere.

XLA:CPU runs a convolution fast when its kernel is laid out (h, w, in, out) and nothing is dilated. The gradients that
JAX derives have neither; at the top of a program XLA rewrites some of them, inside a loop none, and there they took 3
to 11 times (input) and 7 to 100 times (kernel) as long as here. The tangents below are written for their transposes,
which are the gradients: reverse mode is fast, forward mode only correct, and every order of both is defined.
"""

from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Float

Padding = tuple[tuple[int, int], tuple[int, int]]


@partial(jax.custom_jvp, nondiff_argnums=(2, 3))
def conv2d(
    x: Float[Array, "b h w c"], kernel: Float[Array, "kh kw c d"], stride: int, padding: Padding
) -> Float[Array, "b gh gw d"]:
    r"""Convolve a batch of images with a kernel.

    $y_{od} = \sum_{t, c} x_{so + t - p, c}\, K_{tcd}$, with zeros outside of the image

    Args:
        x: Images.
        kernel: Kernel.
        stride: Step $s$ between two positions, on both axes.
        padding: Zeros before and after each axis; $p$ is those before.

    Example:
        >>> conv2d(jnp.ones((1, 3, 3, 1)), jnp.ones((3, 3, 1, 1)), 2, ((1, 1), (1, 1)))[0, :, :, 0]
        Array([[4., 4.],
               [4., 4.]], dtype=float32)

    Reference:
        Dumoulin & Visin 2016, A guide to convolution arithmetic for deep learning, arXiv:1603.07285.
    """
    return jax.lax.conv_general_dilated(x, kernel, (stride,) * 2, padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))


@partial(conv2d.defjvp, symbolic_zeros=True)
def _tangent(stride: int, padding: Padding, primals: Any, tangents: Any) -> Any:
    (x, kernel), (dx, dkernel) = primals, tangents
    y = conv2d(x, kernel, stride, padding)
    dy = jnp.zeros_like(y)
    if not isinstance(dx, SymbolicZero):
        dy += _along_input(dx, kernel, stride, padding, y.shape)
    if not isinstance(dkernel, SymbolicZero):
        dy += _along_kernel(x, dkernel, stride, padding, y.shape)
    return y, dy


def _along_input(dx: Array, kernel: Array, stride: int, padding: Padding, out: tuple[int, ...]) -> Array:
    """The convolution of dx, one phase of the stride for each remainder of a tap.

    With $t = sj + r$ the tap meets pixel $s(o + j) + r$: on the image cut into blocks of $s × s$ pixels, taken as
    channels, this is a convolution without stride. Its transpose has the layout that is fast, because it has the other.
    """
    kh, kw, c, d = kernel.shape
    taps, blocks = [-(-k // stride) for k in (kh, kw)], []
    for (before, _), length, size, j in zip(padding, dx.shape[1:3], out[1:3], taps, strict=True):
        blocks.append((before, stride * (size + j - 1) - before - length, size + j - 1))
    dx = jax.lax.pad(dx, jnp.zeros((), dx.dtype), [(0, 0, 0), *((low, high, 0) for low, high, _ in blocks), (0, 0, 0)])
    (_, _, rows), (_, _, columns) = blocks
    dx = (
        dx.reshape(-1, rows, stride, columns, stride, c)
        .transpose(0, 1, 3, 2, 4, 5)
        .reshape(-1, rows, columns, stride**2 * c)
    )
    kernel = jnp.pad(kernel, ((0, taps[0] * stride - kh), (0, taps[1] * stride - kw), (0, 0), (0, 0)))
    kernel = kernel.reshape(taps[0], stride, taps[1], stride, c, d).transpose(0, 2, 5, 1, 3, 4)
    kernel = kernel.reshape(*taps, d, stride**2 * c)
    return jax.lax.conv_general_dilated(dx, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWOI", "NHWC"))


def _along_kernel(x: Array, dkernel: Array, stride: int, padding: Padding, out: tuple[int, ...]) -> Array:
    """The convolution with dK: for each row of taps one matrix product with the pixels that its taps meet."""
    kh, kw, c, d = dkernel.shape
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    rows, columns = ((n - 1) * stride + 1 for n in out[1:3])

    def row(i: int) -> Array:
        taps = [x[:, i : i + rows : stride, j : j + columns : stride] for j in range(kw)]
        return jnp.einsum("bhwk,kd->bhwd", jnp.concatenate(taps, -1), dkernel[i].reshape(kw * c, d))

    return reduce(jnp.add, map(row, range(kh)))
