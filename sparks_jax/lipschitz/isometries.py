r"""Further orthogonal convolutions as layers: skew (SOC), Cayley's on one grid, and transposed ones.

Each stands, like those of `layers`, for a plain module that holds the kernel made of its parameters.
"""

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from sparks_jax.lipschitz.conv import adjoint, cayley_fft, skew
from sparks_jax.lipschitz.convolve import PaddingName, check_geometry, convolve
from sparks_jax.lipschitz.layers import OrthogonalConv, Reparametrized, stock_conv
from sparks_jax.lipschitz.norms import conv_bound, fft_norm
from sparks_jax.lipschitz.orthogonal import check_degree


class SkewConv(Reparametrized):
    r"""Skew orthogonal convolution: $y = \sum_{i \le p} A^{*i} x / i!$ with A skew and $\|A\| \le 1$.

    Singular values in $[1 - 3 \cdot 10^{-6}, 1]$ at degree 8, with circular padding and with zeros: what zeros cut out
    of a skew matrix is skew. p convolutions of size k a call, where `soc` makes one of size p (k − 1) + 1.

    Example:
        >>> from flax import nnx
        >>> layer, x = SkewConv(2, size=3, rngs=nnx.Rngs(0)), jnp.arange(32.0).reshape(1, 4, 4, 2)
        >>> y = jax.jit(lambda layer, x: layer(x))(layer, x)
        >>> round((jnp.linalg.norm(y) / jnp.linalg.norm(x)).item(), 4)
        1.0

    Reference:
        Singla & Feizi 2021, Skew orthogonal convolutions, arXiv:2105.11417.
    """

    def __init__(
        self,
        features: int,
        *,
        size: int,
        degree: int = 8,
        padding: PaddingName = "circular",
        use_bias: bool = True,
        rngs: nnx.Rngs,
    ):
        """Draw the kernel.

        Args:
            features: Channels in and out. Change them by `InvertibleDownsample`, or by channels of zeros.
            size: Side of the kernel, odd.
            degree: p: 3, 4, 7, 8, 11, 12 or 16; others expand.
            padding: "circular" or "zeros".
            use_bias: Whether a bias is added.
            rngs: Source of the kernel.

        Raises:
            ValueError: For an even size, a degree that expands, or a padding that changes the grid.
        """
        check_degree(degree, 1.0)
        if size % 2 == 0 or padding not in ("circular", "zeros"):
            raise ValueError(
                f"SkewConv of size {size} with padding {padding!r}: allowed are odd sizes with circular or zeros, at "
                "stride 1, without groups"
            )
        shape = (size, size, features, features)
        self.kernel = nnx.Param(jax.random.normal(rngs.params(), shape) / (size**2 * features) ** 0.5)
        self.bias = nnx.Param(jnp.zeros(features)) if use_bias else None
        self.degree, self.padding = degree, padding

    def plain(self) -> "PlainSkewConv":
        """With the skew kernel."""
        bias = None if self.bias is None else self.bias[...]
        return PlainSkewConv(skew(self.kernel[...]), bias, self.degree, self.padding)


class PlainSkewConv(nnx.Module):
    r"""The truncated exponential of a convolution, by as many convolutions as its degree.

    Reference:
        Singla & Feizi 2021, arXiv:2105.11417.
    """

    def __init__(self, kernel: Float[Array, "k k c c"], bias: Array | None, degree: int, padding: PaddingName):
        """Make the layer of a kernel."""
        self.kernel = nnx.Param(kernel)
        self.bias = None if bias is None else nnx.Param(bias)
        self.degree, self.padding = degree, padding

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Convolve a batch."""
        kernel, y = self.kernel[...].astype(x.dtype), x
        # Horner's scheme, x + A (x + A (x + …) / 2) / 1.
        for i in reversed(range(1, self.degree + 1)):
            y = x + convolve(y, kernel, padding=self.padding) / i
        return y if self.bias is None else y + self.bias[...].astype(x.dtype)[None, None, None]

    def lipschitz(self) -> Float[Array, ""]:
        r"""$T(S) + e^{B + \epsilon} - e^B$: S the skew part of the kernel, of norm at most B, and $\epsilon$ the rest.

        T is 1 up to rounding where B is at most 1, and $e^B$ beyond.
        """
        kernel = self.kernel[...]
        opposed = adjoint(kernel)
        bound = conv_bound((kernel - opposed) / 2)
        rest = jnp.sqrt(jnp.square((kernel + opposed) / 2).sum((2, 3))).sum()  # a norm of each tap
        growth = jnp.exp(bound)
        return jnp.where(bound <= 1 + 1e-5, 1 + 1e-5, growth) + growth * jnp.expm1(rest)


class CayleyConv(Reparametrized):
    r"""Cayley's orthogonal convolution, on images of one side: a kernel as large as the image.

    $\hat O(\omega) = \mathrm{cayley}(\hat K(\omega))$. On another grid it is not orthogonal, and refused.

    Example:
        >>> from flax import nnx
        >>> layer, x = CayleyConv(2, 4, size=3, side=4, rngs=nnx.Rngs(0)), jnp.arange(32.0).reshape(1, 4, 4, 2)
        >>> y = jax.jit(lambda layer, x: layer(x))(layer, x)
        >>> round((jnp.linalg.norm(y) / jnp.linalg.norm(x)).item(), 4)
        1.0

    Reference:
        Trockman & Kolter 2021, Orthogonalizing convolutional layers with the Cayley transform, arXiv:2104.07167.
    """

    def __init__(
        self, in_features: int, out_features: int, *, size: int, side: int, use_bias: bool = True, rngs: nnx.Rngs
    ):
        """Draw the kernel.

        Args:
            in_features: Channels in.
            out_features: Channels out.
            size: Side of the free kernel, at most that of the images.
            side: Of the images, which are square and go around.
            use_bias: Whether a bias is added.
            rngs: Source of the kernel.

        Raises:
            ValueError: If the kernel is larger than the images.
        """
        if size > side:
            raise ValueError(f"CayleyConv of size {size} on images of side {side}: allowed are sizes up to the side")
        shape = (size, size, in_features, out_features)
        self.kernel = nnx.Param(jax.random.normal(rngs.params(), shape) / (size**2 * in_features) ** 0.5)
        self.bias = nnx.Param(jnp.zeros(out_features)) if use_bias else None
        self.side = side

    def plain(self) -> "PlainCayleyConv":
        """With the orthogonal kernel."""
        bias = None if self.bias is None else self.bias[...]
        return PlainCayleyConv(stock_conv(cayley_fft(self.kernel[...], (self.side, self.side)), bias), self.side)


class PlainCayleyConv(nnx.Module):
    """A stock convolution for images of one side, where alone its norm is known.

    Reference:
        Trockman & Kolter 2021, arXiv:2104.07167.
    """

    def __init__(self, conv: nnx.Conv, side: int):
        """Make the layer of a convolution with circular padding."""
        self.conv, self.side = conv, side

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w d"]:
        """Convolve a batch."""
        if x.shape[1:3] != (self.side, self.side):
            raise ValueError(
                f"CayleyConv made for {self.side} by {self.side} pixels is not orthogonal on {x.shape[1]} by "
                f"{x.shape[2]}; allowed are images of its side, or OrthogonalConv"
            )
        return self.conv(x)

    def lipschitz(self) -> Float[Array, ""]:
        """The norm on images of its side, rounded up."""
        return fft_norm(self.conv.kernel[...], (self.side, self.side)) * (1 + 1e-5)


class OrthogonalConvTranspose(Reparametrized):
    r"""The adjoint of an orthogonal convolution, plus a bias: $y = C^\top x + \beta$, onto a grid s times as fine.

    Orthogonal wherever `OrthogonalConv` from its outputs to its inputs is: with circular padding, at any stride.

    Example:
        >>> from flax import nnx
        >>> layer = jax.jit(lambda: OrthogonalConvTranspose(8, 2, size=2, stride=2, rngs=nnx.Rngs(0)))()
        >>> x = jnp.arange(32.0).reshape(1, 2, 2, 8)
        >>> y = jax.jit(lambda layer, x: layer(x))(layer, x)
        >>> y.shape, round((jnp.linalg.norm(y) / jnp.linalg.norm(x)).item(), 4)
        ((1, 4, 4, 2), 1.0)

    Reference:
        Boissin et al. 2025, An adaptive orthogonal convolution scheme for efficient and flexible CNN architectures,
        arXiv:2501.07930.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        size: int,
        stride: int = 1,
        padding: PaddingName = "circular",
        use_bias: bool = True,
        rngs: nnx.Rngs,
    ):
        """Start at random orthonormal factors.

        Args:
            in_features: Channels in.
            out_features: Channels out.
            size: Side of the kernel.
            stride: How many times finer the grid becomes, at most `size`.
            padding: Of the convolution that it is the adjoint of: "circular" or "zeros".
            use_bias: Whether a bias is added.
            rngs: Source of the start.

        Raises:
            ValueError: For a padding that changes the grid, and what `OrthogonalConv` refuses.
        """
        check_geometry(size, stride, 1, padding)
        if padding not in ("circular", "zeros"):
            raise ValueError(f"OrthogonalConvTranspose with padding {padding!r}: allowed are circular and zeros")
        self.conv = OrthogonalConv(
            out_features, in_features, size=size, stride=stride, padding=padding, use_bias=False, rngs=rngs
        )
        self.bias = nnx.Param(jnp.zeros(out_features)) if use_bias else None

    def plain(self) -> "PlainConvTranspose":
        """With the orthogonal kernel."""
        bias = None if self.bias is None else self.bias[...]
        kernel = self.conv.plain().kernel[...]
        return PlainConvTranspose(kernel, bias, self.conv.stride, self.conv.padding)


class PlainConvTranspose(nnx.Module):
    """The adjoint of a convolution with this kernel, plus a bias.

    Reference:
        Dumoulin & Visin 2016, A guide to convolution arithmetic for deep learning, arXiv:1603.07285.
    """

    def __init__(self, kernel: Float[Array, "k k d c"], bias: Array | None, stride: int, padding: PaddingName):
        """Make the layer of the kernel of the convolution, from outputs to inputs."""
        self.kernel = nnx.Param(kernel)
        self.bias = None if bias is None else nnx.Param(bias)
        self.stride, self.padding = stride, padding

    def __call__(self, x: Float[Array, "b gh gw c"]) -> Float[Array, "b h w d"]:
        """Apply it to a batch."""
        kernel = self.kernel[...].astype(x.dtype)
        rows, columns = (self.stride * side for side in x.shape[1:3])
        fine = jax.ShapeDtypeStruct((len(x), rows, columns, kernel.shape[2]), x.dtype)
        forward = partial(convolve, kernel=kernel, stride=self.stride, padding=self.padding)
        (y,) = jax.linear_transpose(forward, fine)(x)
        return y if self.bias is None else y + self.bias[...].astype(x.dtype)[None, None, None]

    def lipschitz(self) -> Float[Array, ""]:
        """That of the convolution."""
        return conv_bound(self.kernel[...], stride=self.stride)
