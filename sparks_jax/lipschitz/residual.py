r"""Blocks with a shortcut that stay 1-Lipschitz, and a constant other than 1."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from sparks_jax.lipschitz.bounds import lipschitz_constant
from sparks_jax.lipschitz.conv import adjoint
from sparks_jax.lipschitz.convolve import PaddingName, convolve
from sparks_jax.lipschitz.layers import Reparametrized, stock_conv
from sparks_jax.lipschitz.norms import autocorrelation, conv_bound


class LipschitzResidual(nnx.Module):
    r"""A convex mixture of the input and an inner model: $y = a x + (1 - a) g(x)$, $a = \mathrm{sigmoid}(\alpha)$.

    Its Lipschitz constant is at most $a + (1 - a) L_g$: 1, if g is 1-Lipschitz.

    Example:
        >>> LipschitzResidual(lambda x: -x)(jnp.ones(2)).tolist()  # half and half at first
        [0.0, 0.0]

    Reference:
        Serrurier et al. 2023, On the explainable properties of 1-Lipschitz neural networks: an optimal transport
        perspective, arXiv:2206.06854.
    """

    def __init__(self, inner: Any, *, share: float = 0.5):
        """Mix with this model, whose output has the shape of its input.

        Args:
            inner: g.
            share: a at the start, between 0 and 1.
        """
        self.inner = inner
        self.alpha = nnx.Param(jnp.asarray(math.log(share / (1 - share)), jnp.float32))

    def __call__(self, x: Array) -> Array:
        """Apply the block."""
        a = jax.nn.sigmoid(self.alpha[...]).astype(x.dtype)
        return a * x + (1 - a) * self.inner(x)

    def lipschitz(self) -> Float[Array, ""]:
        """$a + (1 - a) L_g$, rounded up."""
        a = jax.nn.sigmoid(self.alpha[...])
        return (a + (1 - a) * lipschitz_constant(self.inner)) * (1 + 4 * float(jnp.finfo(a.dtype).eps))


class Scale(nnx.Module):
    r"""$y = k x$: a k-Lipschitz model from a 1-Lipschitz one.

    Reference:
        Béthune et al. 2022, Pay attention to your loss: understanding misconceptions about 1-Lipschitz neural networks,
        arXiv:2104.05097.
    """

    def __init__(self, factor: float):
        """Multiply by `factor`."""
        self.factor = factor

    def __call__(self, x: Array) -> Array:
        """Scale."""
        return self.factor * x

    def lipschitz(self) -> Float[Array, ""]:
        """The factor, without its sign."""
        return jnp.float32(abs(self.factor))


class SLLBlock(Reparametrized):
    r"""A residual block that is 1-Lipschitz by a scaling of its hidden channels, not by averaging.

    $y = x - 2 K^\top T\, \mathrm{relu}(K x + b)$,
    $\; T_i^{-1} = \sum_{\tau, j} |G|_{\tau i j}\, q_j / q_i$, $\; G = K K^\top$, $q > 0$

    `plain()` holds $M = T^{1/2} K$, for which the block is $x - 2 M^\top \mathrm{relu}(M x + T^{1/2} b)$.

    Example:
        >>> from flax import nnx
        >>> block = SLLBlock(4, 8, size=3, rngs=nnx.Rngs(0))
        >>> jax.jit(lambda block: block.lipschitz())(block).item() <= 1 + 1e-5
        True

    Reference:
        Araujo et al. 2023, A unified algebraic perspective on Lipschitz neural networks, arXiv:2303.03169.
    """

    def __init__(self, features: int, hidden: int, *, size: int, padding: PaddingName = "circular", rngs: nnx.Rngs):
        """Draw the kernel.

        Args:
            features: Channels in and out.
            hidden: Channels of the rectifier.
            size: Side of the kernel, odd.
            padding: "circular" or "zeros".
            rngs: Source of the kernel.

        Raises:
            ValueError: For an even size, or a padding that changes the grid.
        """
        if size % 2 == 0 or padding not in ("circular", "zeros"):
            raise ValueError(
                f"SLLBlock of size {size} with padding {padding!r}: allowed are odd sizes with circular or zeros"
            )
        shape = (size, size, features, hidden)
        self.kernel = nnx.Param(jax.random.normal(rngs.params(), shape) / (size**2 * features) ** 0.5)
        self.bias = nnx.Param(jnp.zeros(hidden))
        self.log_q = nnx.Param(jnp.zeros(hidden))
        self.padding = padding

    def plain(self) -> "PlainSLLBlock":
        """With the scaled kernel."""
        kernel, q = self.kernel[...], jnp.exp(self.log_q[...])
        gram = jnp.abs(autocorrelation(kernel.swapaxes(2, 3))).sum((0, 1))
        sums = jnp.matmul(gram, q, precision="highest") / q
        slack = 1 - 2 * float(jnp.finfo(kernel.dtype).eps) * math.sqrt(kernel.size)
        root = jnp.where(sums > 0, slack / jnp.sqrt(jnp.where(sums > 0, sums, 1)), 0)
        conv = stock_conv(kernel * root[None, None, None], self.bias[...] * root, padding=self.padding)
        return PlainSLLBlock(conv, self.padding)


class PlainSLLBlock(nnx.Module):
    r"""$y = x - 2 M^\top \mathrm{relu}(M x + b)$ for a stock convolution M.

    Its Jacobian is $I - 2 M^\top D M$ with $0 \le D \le 1$, whose eigenvalues are in $[1 - 2 \|M\|^2, 1]$.

    Reference:
        Araujo et al. 2023, arXiv:2303.03169.
    """

    def __init__(self, conv: nnx.Conv, padding: PaddingName):
        """Make the block of a convolution."""
        self.conv = conv
        self.padding = padding

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Apply the block."""
        hidden = jax.nn.relu(self.conv(x))
        return x - 2 * convolve(hidden, adjoint(self.conv.kernel[...].astype(x.dtype)), padding=self.padding)

    def lipschitz(self) -> Float[Array, ""]:
        """$max(1, 2 B^2 - 1)$ for a bound B of the norm of M; 1, where the sums of absolute values show it."""
        kernel = self.conv.kernel[...]
        return jnp.maximum(1, 2 * conv_bound(kernel) ** 2 - 1)
