"""The two convolutions that our networks share, with explicit padding and float32 parameters.

A 1x1 convolution is a matrix product over channels and is written as one: XLA:CPU runs `einsum` faster than
the equivalent convolution, and nothing is lost elsewhere.
"""

from typing import Literal

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from sparks_jax.models.conv2d import Padding, conv2d
from sparks_jax.models.depthwise import same_padding

# He et al. (2015), fan-out: keeps the variance of gradients through a ReLU network; what torchvision uses.
HE_NORMAL = nnx.initializers.variance_scaling(2.0, "fan_out", "normal", dtype=jnp.float32)


class PointwiseConv(nnx.Module):
    r"""A 1x1 convolution: $y_{ijd} = \sum_c x_{si,sj,c} K_{cd} + \beta_d$, strided by slicing first.

    Example:
        >>> from flax import nnx
        >>> conv = PointwiseConv(3, 5, stride=2, rngs=nnx.Rngs(0))
        >>> conv(jnp.ones((1, 7, 7, 3))).shape
        (1, 4, 4, 5)
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        stride: int = 1,
        use_bias: bool = False,
        dtype: DTypeLike | None = None,
        rngs: nnx.Rngs,
    ):
        """Draw the kernel `(in, out)` from `HE_NORMAL`; `dtype` is the product's, None: by promotion."""
        self.kernel = nnx.Param(HE_NORMAL(rngs.params(), (in_features, out_features)))
        self.bias = nnx.Param(jnp.zeros(out_features, jnp.float32)) if use_bias else None
        self.stride, self.dtype = stride, None if dtype is None else jnp.dtype(dtype)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b gh gw d"]:
        """Convolve a batch."""
        x = x[:, :: self.stride, :: self.stride]
        x, kernel = _cast(x, self.kernel[...], self.dtype)
        return _add_bias(jnp.einsum("bhwc,cd->bhwd", x, kernel), self.bias)


class Conv(nnx.Module):
    """A `size` x `size` convolution; an integer padding is that many zeros on all four sides, as in torch.

    Example:
        >>> from flax import nnx
        >>> conv = Conv(3, 5, size=3, stride=2, rngs=nnx.Rngs(0))
        >>> conv(jnp.ones((1, 8, 8, 3))).shape
        (1, 4, 4, 5)
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        size: int,
        stride: int = 1,
        padding: int | Literal["SAME"] | None = None,
        use_bias: bool = False,
        dtype: DTypeLike | None = None,
        rngs: nnx.Rngs,
    ):
        """Draw the kernel `(size, size, in, out)` from `HE_NORMAL`.

        Args:
            in_features: Channels of the input.
            out_features: Channels of the output.
            size: Side of the kernel.
            stride: Step between two positions, both axes.
            padding: Zeros on each side, or "SAME" as in TensorFlow; None: `size // 2`.
            use_bias: Whether a bias is added.
            dtype: Type of the product; None: promoted from the input's and float32.
            rngs: Source of the kernel.
        """
        self.kernel = nnx.Param(HE_NORMAL(rngs.params(), (size, size, in_features, out_features)))
        self.bias = nnx.Param(jnp.zeros(out_features, jnp.float32)) if use_bias else None
        self.stride, self.dtype = stride, None if dtype is None else jnp.dtype(dtype)
        self.padding = size // 2 if padding is None else padding

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b gh gw d"]:
        """Convolve a batch."""
        x, kernel = _cast(x, self.kernel[...], self.dtype)
        return _add_bias(conv2d(x, kernel, self.stride, self._zeros(x.shape, len(kernel))), self.bias)

    def _zeros(self, shape: tuple[int, ...], size: int) -> Padding:
        if isinstance(self.padding, int):
            return (self.padding, self.padding), (self.padding, self.padding)
        return same_padding(shape[1], size, self.stride), same_padding(shape[2], size, self.stride)


def _cast(x, kernel, dtype):
    dtype = jnp.result_type(x, kernel) if dtype is None else dtype
    return x.astype(dtype), kernel.astype(dtype)


def _add_bias(y, bias):
    return y if bias is None else y + bias[None, None, None].astype(y.dtype)
