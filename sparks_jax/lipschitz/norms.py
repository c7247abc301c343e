r"""Operator norms of matrices and convolutions: upper bounds to certify with, for the real stride and padding.

Power iteration (`linalg.power_iteration`) approaches the norm from below and certifies nothing.
"""

import math
from functools import partial, reduce

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Inexact

from sparks_jax.linalg import gram_bound
from sparks_jax.models.conv2d import conv2d

_dot = partial(jnp.matmul, precision="highest")


def matrix_bound(kernel: Float[Array, "m n"]) -> Float[Array, ""]:
    r"""An upper bound of the largest singular value that is tight for orthonormal kernels too.

    $\sigma_1^2 \le c + \|W^\top W - c I\|_F$ for every c, here the mean of the diagonal; or `gram_bound`, if less

    Gram iteration exceeds the norm of an orthogonal 512 by 512 matrix by 5 %, this one by rounding.

    Example:
        >>> round(matrix_bound(jnp.diag(jnp.array([4.0, 3.0]))).item(), 3)
        4.0

    Reference:
        Delattre et al. 2023, Efficient bound of Lipschitz constant for convolutional layers by Gram iteration,
        arXiv:2305.16173.
    """
    tall = kernel if kernel.shape[0] >= kernel.shape[1] else kernel.T
    scale = lax.stop_gradient(jnp.abs(kernel).max())
    scale = jnp.where(scale > 0, scale, 1)
    gram = _dot((tall / scale).T, tall / scale)
    return jnp.minimum(gram_bound(kernel), scale * _around(gram[None]) * _rounding(tall.shape[0], kernel))


def _around(grams: Inexact[Array, "f n n"]) -> Float[Array, ""]:
    """A bound of the square root of the largest eigenvalue of some Hermitian matrices, by their distance to c I."""
    n = grams.shape[1]
    c = jnp.trace(grams, axis1=1, axis2=2).real.mean() / n
    gap = grams - c * jnp.eye(n, dtype=grams.dtype)[None]
    return _root(c + _root(jnp.max(jnp.sum((gap * gap.conj()).real, (1, 2)))))


def _rounding(terms: int, kernel: Array) -> float:
    """By how much sums of so many products may have been rounded down, relative to their largest."""
    return 1 + math.sqrt(terms) * float(jnp.finfo(kernel.dtype).eps)


def autocorrelation(kernel: Float[Array, "k k c d"]) -> Float[Array, "n n c c"]:
    r"""What a convolution followed by its adjoint is, at stride 1.

    $G_{\tau i j} = \sum_{t, d} K_{t i d} K_{t + \tau, j d}$

    Example:
        >>> autocorrelation(jnp.array([[1.0, 2.0], [0.0, 0.0]])[:, :, None, None])[1, :, 0, 0].tolist()
        [2.0, 5.0, 2.0]

    Reference:
        Prach & Lampert 2022, Almost-orthogonal layers for efficient general-purpose Lipschitz networks,
        arXiv:2208.03160.
    """
    k = len(kernel)
    with jax.default_matmul_precision("highest"):
        rows = conv2d(kernel.transpose(2, 0, 1, 3), kernel.swapaxes(2, 3), 1, ((k - 1, k - 1),) * 2)
    return rows.transpose(1, 2, 3, 0)


def polyphase(kernel: Float[Array, "k k c d"], stride: int, dilation: int = 1) -> Float[Array, "n n e d"]:
    r"""A strided convolution as one without stride, over blocks of s × s pixels taken as channels.

    $K'_{j, (r c), d} = K_{s j + r, c, d}$, on every grid a permutation of the pixels away from the strided one

    Args:
        kernel: Kernel.
        stride: s.
        dilation: Step between taps; zeros are put in between.

    Example:
        >>> polyphase(jnp.ones((3, 3, 1, 1)), 2).shape
        (2, 2, 4, 1)

    Reference:
        Vaidyanathan 1993, Multirate systems and filter banks.
    """
    k, _, c, d = kernel.shape
    if dilation > 1 and stride > 1:
        spread = jnp.zeros(((k - 1) * dilation + 1,) * 2 + (c, d), kernel.dtype)
        kernel = spread.at[::dilation, ::dilation].set(kernel)
    if stride == 1:
        return kernel
    taps = -(-len(kernel) // stride)
    more = taps * stride - len(kernel)
    kernel = jnp.pad(kernel, ((0, more), (0, more), (0, 0), (0, 0))).reshape(taps, stride, taps, stride, c, d)
    return kernel.transpose(0, 2, 1, 3, 4, 5).reshape(taps, taps, stride**2 * c, d)


def conv_bound(
    kernel: Float[Array, "k k c d"], *, stride: int = 1, dilation: int = 1, groups: int = 1, steps: int = 5
) -> Float[Array, ""]:
    r"""An upper bound of the operator norm of a convolution on every grid, with circular padding or zeros outside.

    $\sigma^2 \le \max_{\omega \in N \times N} \lambda_1(\hat G(\omega)) \,/ \cos^2(\pi m / N)$

    $\hat G(\omega) = \hat K^* \hat K$ is a trigonometric polynomial of degree m = k − 1, whose maximum is known from
    samples up to the factor (Ehlich & Zeller). Near an orthogonal kernel, $\lambda_1 \le c + \|\hat G - c I\|_F$, where
    the factor applies to the last term only, so that the bound is within rounding of 1; elsewhere by Gram iteration,
    too large by 2 % for that. Blocks of pixels take the stride away (`polyphase`).

    Args:
        kernel: Kernel.
        stride: Step between positions. With circular padding it has to divide the sides.
        dilation: Step between taps.
        groups: Parts of the channels; the bound is the largest of theirs.
        steps: Of Gram iteration.

    Example:
        >>> conv_bound(jnp.ones((3, 3, 1, 1)) / 9).round(1).item()  # a mean keeps what is constant
        1.0

    Reference:
        Delattre et al. 2023, arXiv:2305.16173. Ehlich & Zeller 1964, Schwankung von Polynomen zwischen Gitterpunkten.
        Pfister & Bresler 2018, Bounding multivariate trigonometric polynomials, arXiv:1802.09588.
    """
    if groups > 1:
        parts = jnp.stack(jnp.split(kernel, groups, axis=3))
        return jax.vmap(lambda part: conv_bound(part, stride=stride, dilation=dilation, steps=steps))(parts).max()
    blocks = polyphase(kernel, stride, dilation)
    scale = lax.stop_gradient(jnp.abs(blocks).max())
    scale = jnp.where(scale > 0, scale, 1)
    if blocks.shape[2] > blocks.shape[3]:
        blocks = blocks[::-1, ::-1].swapaxes(2, 3)
    taps, blocks = len(blocks), blocks / scale
    if taps == 1:
        return scale * matrix_bound(blocks[0, 0])
    terms = math.prod(blocks.shape[:2]) * blocks.shape[3]
    near, c = _near(autocorrelation(blocks), 8 * (taps - 1))
    near = near * _rounding(terms, kernel)
    sampled = lambda: jnp.minimum(near, _sampled(blocks, 16 * (taps - 1), steps))
    return scale * lax.cond(near**2 < 1.01 * c, lambda: near, sampled)


def _near(gram: Array, samples: int) -> tuple[Array, Array]:
    """By the distance to c I, at so many frequencies a side."""
    middle, n = len(gram) // 2, gram.shape[2]
    c = jnp.trace(gram[middle, middle]) / n
    gap = gram.at[middle, middle].add(-c * jnp.eye(n, dtype=gram.dtype))
    spectrum = jnp.fft.rfft2(gap, (samples, samples), axes=(0, 1))
    square = jnp.max(jnp.sum((spectrum * spectrum.conj()).real, (2, 3)))
    return _root(c + _root(square) / math.cos(math.pi * middle / samples) ** 2), c


def _root(square: Array) -> Array:
    """The square root, with the derivative 0 at 0."""
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)


def _sampled(kernel: Array, samples: int, steps: int) -> Array:
    """By Gram iteration, at so many frequencies a side."""
    # The largest over the half plane; the other half has the complex conjugates.
    spectrum = jnp.fft.rfft2(kernel, (samples, samples), axes=(0, 1))
    blocks = spectrum.reshape(-1, *kernel.shape[2:])
    bounds = lax.map(partial(gram_bound, steps=steps), blocks, batch_size=64)
    return bounds.max() / math.cos(math.pi * (len(kernel) - 1) / samples) * _rounding(samples**2, kernel)


def fft_norm(kernel: Float[Array, "k k c d"], sides: tuple[int, int], *, stride: int = 1) -> Float[Array, ""]:
    r"""The operator norm of a convolution with circular padding on one grid, to rounding.

    $\sigma = \max_\omega \sigma_1(\hat K(\omega))$ over the frequencies of the grid

    With zeros outside it is an upper bound on a grid larger by k − 1, of which the padded image is a part.

    Args:
        kernel: Kernel.
        sides: Height and width of the image, multiples of the stride.
        stride: Step between positions.

    Raises:
        ValueError: If the stride does not divide the sides.

    Example:
        >>> round(fft_norm(jnp.ones((3, 3, 1, 1)) / 9, (8, 8)).item(), 4)
        1.0

    Reference:
        Sedghi, Gupta & Long 2019, The singular values of convolutional layers, arXiv:1805.10408.
    """
    if any(side % stride for side in sides):
        raise ValueError(f"stride {stride} on {sides[0]} by {sides[1]} pixels: allowed are sides that it divides")
    blocks = polyphase(kernel, stride)
    grid = tuple(side // stride for side in sides)
    wrapped = jnp.zeros((*grid, *blocks.shape[2:]), blocks.dtype)
    rows, columns = jnp.meshgrid(*(jnp.arange(len(blocks)) % n for n in grid), indexing="ij")
    wrapped = wrapped.at[rows, columns].add(blocks)
    spectrum = jnp.fft.rfft2(wrapped, axes=(0, 1)).reshape(-1, *blocks.shape[2:])
    return jnp.linalg.svd(spectrum, compute_uv=False).max()


def product(bounds: list[Float[Array, ""]]) -> Float[Array, ""]:
    """The bound of a composition: the product, rounded up.

    Example:
        >>> round(product([jnp.float32(2.0), jnp.float32(3.0)]).item(), 4)
        6.0

    Reference:
        Szegedy et al. 2014, Intriguing properties of neural networks, arXiv:1312.6199.
    """
    value = reduce(jnp.multiply, bounds, jnp.float32(1))
    return value * (1 + len(bounds) * float(jnp.finfo(value.dtype).eps)) if bounds else value
