r"""A 2-D convolution whose gradients are convolutions and matrix products that run fast everywhere.

XLA:CPU runs a convolution fast when its kernel is laid out (h, w, in, out) and nothing is dilated. The derivatives
that JAX derives have neither, and inside a loop, where XLA does not rewrite them, they took 3 to 12 times as long as
here. The values are the same.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Padding = tuple[tuple[int, int], tuple[int, int]]


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def conv2d(
    x: Float[Array, "b h w c"], kernel: Float[Array, "kh kw c d"], stride: int, padding: Padding
) -> Float[Array, "b gh gw d"]:
    r"""Convolve a batch of images with a kernel.

    $y_{od} = \sum_{t, c} x_{so + t - p, c}\, K_{tcd}$, with zeros outside of the image

    Differentiable in reverse mode, any number of times; forward mode (`jax.jvp`) is not defined.

    Args:
        x: Images.
        kernel: Kernel.
        stride: Step $s$ between two positions, both axes.
        padding: Zeros before and after, for both axes; $p$ is those before.

    Example:
        >>> conv2d(jnp.ones((1, 3, 3, 1)), jnp.ones((3, 3, 1, 1)), 2, ((1, 1), (1, 1)))[0, :, :, 0]
        Array([[4., 4.],
               [4., 4.]], dtype=float32)

    Reference:
        Dumoulin & Visin 2016, A guide to convolution arithmetic for deep learning, arXiv:1603.07285.
    """
    return _convolve(x, kernel, stride, padding)


def _convolve(x, kernel, stride, padding):
    return jax.lax.conv_general_dilated(x, kernel, (stride,) * 2, padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _forward(x, kernel, stride, padding):
    return _convolve(x, kernel, stride, padding), (x, kernel)


def _backward(stride, padding, residuals, g):
    x, kernel = residuals
    return _input_gradient(g, kernel, stride, padding, x.shape), _kernel_gradient(g, x, stride, padding, kernel.shape)


conv2d.defvjp(_forward, _backward)


def _input_gradient(g, kernel, stride, padding, shape):
    """$dx_n = \\sum_{so + t - p = n} g_o K_t$, one phase of the stride for each remainder of $n + p$.

    With $n + p = sm + r$ only the taps $t = r + sj$ meet, at $o = m - j$: for each r a convolution of g, without stride
    or dilation, with the reversed taps of that remainder. All $s^2$ of them are the channels of one convolution, whose
    pixels are then dealt out.
    """
    (kh, kw, c, d), s = kernel.shape, stride
    jh, jw = -(-kh // s), -(-kw // s)
    kernel = jnp.pad(kernel, ((0, jh * s - kh), (0, jw * s - kw), (0, 0), (0, 0)))
    phases = kernel.reshape(jh, s, jw, s, c, d)[::-1, :, ::-1].transpose(0, 2, 5, 1, 3, 4).reshape(jh, jw, d, s * s * c)
    # Enough values of m for all pixels up to the last: m = 0 … ceil((p + n) / s) - 1.
    counts = [-(-(low + n) // s) for (low, _), n in zip(padding, shape[1:3], strict=True)]
    ends = [(j - 1, m - n) for j, m, n in zip((jh, jw), counts, g.shape[1:3], strict=True)]
    dealt = jax.lax.conv_general_dilated(g, phases, (1, 1), ends, dimension_numbers=("NHWC", "HWIO", "NHWC"))
    pixels = dealt.reshape(-1, *counts, s, s, c).transpose(0, 1, 3, 2, 4, 5).reshape(-1, counts[0] * s, counts[1] * s, c)
    (top, _), (left, _) = padding
    return pixels[:, top : top + shape[1], left : left + shape[2]]


def _kernel_gradient(g, x, stride, padding, shape):
    """$dK_t = \\sum_o x_{so + t - p}\\, g_o$: for each row of taps one matrix product with the pixels they meet."""
    kh, kw, c, d = shape
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    rows, columns = ((n - 1) * stride + 1 for n in g.shape[1:3])

    def row(i):
        taps = [x[:, i : i + rows : stride, j : j + columns : stride] for j in range(kw)]
        return jnp.einsum("bhwk,bhwd->kd", jnp.concatenate(taps, -1), g)

    return jnp.stack([row(i) for i in range(kh)]).reshape(kh, kw, c, d)
