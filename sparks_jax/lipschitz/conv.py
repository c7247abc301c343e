r"""Kernels of convolutions with a known norm: orthogonal (BCOP, AOC, SOC, Cayley) and at most 1-Lipschitz (RKO, AOL).

Kernels are `(size, size, inputs, outputs)`, and the convolution slides them without turning them. Orthogonal means all
singular values 1 on every grid with circular padding, with stride and dilation; with zeros outside of the image they
are at most 1. Cayley's is orthogonal on the grid it was made for, and nowhere else.
"""

import math
from collections import Counter
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from sparks_jax.lipschitz.convolve import check_geometry
from sparks_jax.lipschitz.norms import autocorrelation, conv_bound
from sparks_jax.lipschitz.orthogonal import check_degree, polar, random_orthogonal
from sparks_jax.models.conv2d import conv2d

Kernel = Float[Array, "k k c d"]

_einsum = partial(jnp.einsum, precision="highest")


class Factors(NamedTuple):
    """What an orthogonal convolution is made of, free to train: see `bcop` and `aoc`.

    Attributes:
        centre: `(c, d)` the matrix in the middle; None where the stride is the size of the kernel.
        halves: `(2 (k - 1), w, w // 2)` with w the larger of c and d: what two-tap convolutions project on; None for
            k = 1.
        patch: `(s s w, d)` the matrix of whole patches; None where none is needed.
    """

    centre: Float[Array, "c d"] | None
    halves: Float[Array, "n w r"] | None
    patch: Float[Array, "p d"] | None


def adjoint(kernel: Float[Array, "k k c d"]) -> Float[Array, "k k d c"]:
    r"""The kernel of the transposed convolution (stride 1): $K'_{t c d} = K_{-t, d c}$.

    Example:
        >>> adjoint(jnp.arange(4.0).reshape(2, 2, 1, 1))[:, :, 0, 0].tolist()
        [[3.0, 2.0], [1.0, 0.0]]

    Reference:
        Singla & Feizi 2021, Skew orthogonal convolutions, arXiv:2105.11417.
    """
    return kernel[::-1, ::-1].swapaxes(2, 3)


def compose(first: Float[Array, "k k c e"], second: Float[Array, "l l e d"]) -> Float[Array, "n n c d"]:
    r"""The kernel of two convolutions in a row: $C_t = \sum_{i} A_i B_{t - i}$, of size k + l − 1.

    The first at stride 1, the second at any, which is then that of the whole.

    Example:
        >>> compose(jnp.ones((2, 2, 1, 1)), jnp.ones((2, 2, 1, 1)))[:, :, 0, 0].tolist()
        [[1.0, 2.0, 1.0], [2.0, 4.0, 2.0], [1.0, 2.0, 1.0]]

    Reference:
        Li et al. 2019, Preventing gradient attenuation in Lipschitz constrained convolutional networks,
        arXiv:1911.00937.
    """
    more = len(second) - 1
    with jax.default_matmul_precision("highest"):
        rows = conv2d(first.transpose(2, 0, 1, 3), second[::-1, ::-1], 1, ((more, more),) * 2)
    return rows.transpose(1, 2, 0, 3)


def bcop(centre: Float[Array, "c d"], halves: Float[Array, "n w r"] | None = None) -> Kernel:
    r"""Orthogonal convolution from projections: any grid, any dilation; any stride where it does not widen.

    $K = H * B(P_1) * B(P_2)^\top * B(P_3) * \cdots$, $\;B(P) = [P, I - P]$ a convolution of two taps, $P = Q Q^\top$

    down and across in turns; $H$ is the polar factor of `centre` and $Q$ that of a half. A kernel of size k has
    2 (k − 1) halves. Where it narrows (d < c) it is the adjoint of one that widens.

    Args:
        centre: Matrix of the channels.
        halves: w is the larger of c and d, r is half of it; None for a kernel of size 1.

    Example:
        >>> kernel = jax.jit(bcop)(jnp.eye(2), jnp.ones((4, 2, 1)))
        >>> round((kernel**2).sum().item(), 4)  # the squares of two singular values
        2.0

    Reference:
        Li et al. 2019, Preventing gradient attenuation in Lipschitz constrained convolutional networks,
        arXiv:1911.00937. Xiao et al. 2018, Dynamical isometry and a mean field theory of CNNs, arXiv:1806.05393.
    """
    c, d = centre.shape
    if c > d:
        return adjoint(bcop(centre.T, halves))
    kernel = polar(centre)[None, None]
    if halves is not None and halves.shape[2]:
        halves = jax.vmap(polar)(halves)
    for i, half in enumerate([] if halves is None else halves):
        kept = _einsum("hwcr,dr->hwcd", _einsum("hwcd,dr->hwcr", kernel, half), half)
        before, after = ([(0, 0)] * 4 for _ in range(2))
        before[i % 2], after[i % 2] = (0, 1), (1, 0)
        kernel = jnp.pad(kept, before) + jnp.pad(kernel - kept, after)
    return kernel


def aoc(factors: Factors, *, stride: int = 1) -> Kernel:
    r"""Orthogonal convolution of any stride and any change of channels: `bcop`, then whole patches.

    $K = \mathrm{bcop}_{k - s + 1} * \mathrm{patch}_s$; with c s² ≥ d rows are orthonormal, else columns.

    Patches alone where the stride is the size of the kernel, `bcop` alone where a subset of its outputs will do. The
    width in between is the larger of c and ⌊d / s²⌋: any other loses orthogonality.

    Args:
        factors: As `orthogonal_factors` draws them.
        stride: s, at most the size of the kernel.

    Example:
        >>> factors = Factors(jnp.eye(2), jnp.ones((2, 2, 1)), jnp.eye(8))
        >>> kernel = jax.jit(lambda factors: aoc(factors, stride=2))(factors)
        >>> kernel.shape, round((kernel**2).sum().item(), 4)  # the squares of eight singular values
        ((3, 3, 2, 8), 8.0)

    Reference:
        Boissin et al. 2025, An adaptive orthogonal convolution scheme for efficient and flexible CNN architectures,
        arXiv:2501.07930.
    """
    centre, halves, patch = factors
    if patch is None:
        if centre is None:
            raise ValueError("aoc: factors with neither a centre nor a patch; draw them with orthogonal_factors")
        return bcop(centre, halves)
    whole = polar(patch).reshape(stride, stride, -1, patch.shape[1])
    return whole if centre is None else compose(bcop(centre, halves), whole)


def orthogonal_factors(inputs: int, outputs: int, size: int, *, stride: int = 1, key: PRNGKeyArray) -> Factors:
    """Random orthonormal factors of an orthogonal convolution.

    Args:
        inputs: Channels in.
        outputs: Channels out.
        size: Side of the kernel.
        stride: Step between positions.
        key: Of the draw.

    Raises:
        ValueError: If the stride exceeds the size: no orthogonal convolution skips pixels.

    Example:
        >>> factors = jax.eval_shape(lambda: orthogonal_factors(4, 32, 3, stride=2, key=jax.random.key(0)))
        >>> [f.shape for f in factors]
        [(4, 8), (2, 8, 4), (32, 32)]

    Reference:
        Boissin et al. 2025, arXiv:2501.07930.
    """
    if stride > size:
        raise ValueError(f"stride {stride} above the size {size} skips pixels: allowed are strides up to the size")
    keys = jax.random.split(key, 3)
    if size == stride and size > 1:
        return Factors(None, None, random_orthogonal(stride**2 * inputs, outputs, key=keys[2]))
    patched = stride > 1 and inputs < outputs
    middle = max(inputs, outputs // stride**2) if patched else outputs
    width, taps = max(inputs, middle), 2 * (size - (stride if patched else 1))
    draw = lambda key: random_orthogonal(width, width // 2, key=key)
    # One channel has nothing to project on: the convolution is a shift.
    halves = jax.vmap(draw)(jax.random.split(keys[1], taps)) if taps and width > 1 else jnp.zeros((taps, 1, 0))
    patch = random_orthogonal(stride**2 * middle, outputs, key=keys[2]) if patched else None
    return Factors(random_orthogonal(inputs, middle, key=keys[0]), halves if taps else None, patch)


def rko(kernel: Float[Array, "k k c d"], *, stride: int = 1, dilation: int = 1) -> Kernel:
    r"""The kernel as a matrix of patches, orthonormal, over the number of patches a pixel is in: at most 1-Lipschitz.

    $\mathrm{polar}(K_{(kkc) \times d}) \,/\, n$, where at most n taps on each axis meet one pixel, $\lceil k/s \rceil$
    without dilation

    Orthogonal where patches do not overlap (k = s), much less than 1-Lipschitz elsewhere. An average overlap, as in
    deel-lip, is no bound.

    Args:
        kernel: Any kernel.
        stride: s.
        dilation: Step between taps.

    Example:
        >>> kernel = jax.jit(rko)(jnp.ones((3, 3, 1, 1)))
        >>> round(kernel[0, 0, 0, 0].item(), 4)  # a third of a third
        0.1111

    Reference:
        Serrurier et al. 2021, Achieving robustness in classification using optimal transport with hinge regularization,
        arXiv:2006.06520.
    """
    size = len(kernel)
    overlap = max(Counter(t * dilation % stride for t in range(size)).values())
    return polar(kernel.reshape(-1, kernel.shape[3])).reshape(kernel.shape) / overlap


def aol(kernel: Float[Array, "k k c d"], *, stride: int = 1, dilation: int = 1) -> Kernel:
    r"""Almost orthogonal: each input channel scaled down so that the whole is at most 1-Lipschitz, for any padding.

    $K_{\cdot c} \, (\sum_{\tau, j} |K \star K|_{\tau c j})^{-1/2}$

    Exact where the kernel is orthogonal, which training is drawn to. Valid at any stride and dilation.

    Args:
        kernel: Any kernel.
        stride: Not used: outputs left out do not raise the norm.
        dilation: Not used.

    Example:
        >>> aol(jnp.full((1, 1, 1, 4), 3.0)).ravel().round(4)
        Array([0.5, 0.5, 0.5, 0.5], dtype=float32)

    Reference:
        Prach & Lampert 2022, Almost-orthogonal layers for efficient general-purpose Lipschitz networks,
        arXiv:2208.03160.
    """
    del stride, dilation
    sums = jnp.abs(autocorrelation(kernel)).sum((0, 1, 3))
    return kernel * jnp.where(sums > 0, _rsqrt(sums, math.prod(kernel.shape)), 0)[None, None, :, None]


def _rsqrt(sums: Array, terms: int) -> Array:
    """One over the square root, where there is one, rounded down by what so many terms can have lost."""
    slack = 1 - 2 * jnp.finfo(sums.dtype).eps * math.sqrt(terms)
    return slack / jnp.sqrt(jnp.where(sums > 0, sums, 1))


def skew(kernel: Float[Array, "k k c c"], *, norm: float = 1.0) -> Float[Array, "k k c c"]:
    r"""The skew part of a convolution, $A = (K - K^\top)/2$, scaled down to a norm where it exceeds it.

    Args:
        kernel: Any kernel of odd size, with as many outputs as inputs.
        norm: Of the convolution, at most, by an upper bound on every grid.

    Raises:
        ValueError: For even sizes, which have no centre.

    Example:
        >>> kernel = jnp.zeros((3, 3, 1, 1)).at[1, 0, 0, 0].set(0.5)
        >>> jax.jit(skew)(kernel)[1, :, 0, 0].tolist()
        [0.25, 0.0, -0.25]

    Reference:
        Singla & Feizi 2021, Skew orthogonal convolutions, arXiv:2105.11417.
    """
    if len(kernel) % 2 == 0:
        raise ValueError(f"a skew convolution has a centre: allowed are odd sizes, not {len(kernel)}")
    a = (kernel - adjoint(kernel)) / 2
    bound = conv_bound(a)
    return a * jnp.minimum(1, norm / jnp.where(bound > 0, bound, 1))


def soc(kernel: Float[Array, "k k c c"], *, degree: int = 8, norm: float = 1.0) -> Float[Array, "n n c c"]:
    r"""Skew orthogonal convolution: the exponential of a skew one, as one kernel of size `degree` (k − 1) + 1.

    $\sum_{i \le p} A^{*i} / i!$, $\;A$ `skew`

    At degree 8 and norm 1 singular values are in $[1 - 3 \cdot 10^{-6}, 1]$; other degrees expand (`exponential`).

    Args:
        kernel: Any kernel of odd size, with as many outputs as inputs.
        degree: p: 3, 4, 7, 8, 11, 12 or 16.
        norm: Of A, at most.

    Example:
        >>> kernel = jax.jit(soc)(jax.random.normal(jax.random.key(0), (3, 3, 2, 2)))
        >>> kernel.shape, round((kernel**2).sum().item(), 4)  # the squares of two singular values
        ((17, 17, 2, 2), 2.0)

    Reference:
        Singla & Feizi 2021, Skew orthogonal convolutions, arXiv:2105.11417.
    """
    check_degree(degree, norm)
    a = skew(kernel, norm=norm)
    identity = jnp.eye(kernel.shape[2], dtype=kernel.dtype)[None, None]
    total = identity
    for i in reversed(range(1, degree + 1)):
        total = compose(total, a) / i
        middle = len(total) // 2
        total = total.at[middle, middle].add(identity[0, 0])
    return total


def cayley_fft(kernel: Float[Array, "k k c d"], sides: tuple[int, int]) -> Float[Array, "h w c d"]:
    r"""Orthogonal convolution on one grid, by Cayley's transform of each frequency: a kernel as large as the grid.

    $\hat O(\omega) = \mathrm{cayley}(\hat K(\omega))$, with circular padding

    Its singular values on another grid are anything: [0.14, 1.84] on 12 by 12 for one made on 8 by 8.

    Args:
        kernel: Any kernel, no larger than the grid.
        sides: Height and width of the grid; equal, for `convolve`.

    Example:
        >>> kernel = jax.jit(lambda kernel: cayley_fft(kernel, (4, 4)))(jnp.ones((3, 3, 2, 2)))
        >>> kernel.shape, round((kernel**2).sum().item(), 4)
        ((4, 4, 2, 2), 2.0)

    Reference:
        Trockman & Kolter 2021, Orthogonalizing convolutional layers with the Cayley transform, arXiv:2104.07167.
    """
    check_geometry(min(sides), 1, 1, "circular")
    spectrum = jnp.fft.rfft2(kernel, sides, axes=(0, 1))
    transform = lambda w: _cayley(w) if w.shape[0] >= w.shape[1] else _cayley(w.conj().T).conj().T
    spectrum = jax.vmap(jax.vmap(transform))(spectrum)
    out = jnp.fft.irfft2(spectrum, sides, axes=(0, 1)).astype(kernel.dtype)
    # The tap 0 of the transform is the one that `convolve` puts on the pixel itself.
    return jnp.roll(out, ((sides[0] - 1) // 2, (sides[1] - 1) // 2), (0, 1))


def _cayley(w: Array) -> Array:
    n = w.shape[1]
    u, v = w[:n], w[n:]
    eye = jnp.eye(n, dtype=w.dtype)
    a = u - u.conj().T + jnp.matmul(v.conj().T, v, precision="highest")
    top = jnp.linalg.solve(eye + a, eye - a)
    return jnp.concatenate([top, -2 * jnp.linalg.solve((eye + a).conj().T, v.conj().T).conj().T])
