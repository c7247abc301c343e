r"""Layers whose kernel is orthogonal or 1-Lipschitz, whatever their parameters are.

A kernel is computed once per step, not once per call: `reparametrize(model)` gives the model of stock Flax layers that
holds for the step, differentiable in the parameters; `fold(model)` gives the one to keep.

    def loss(model, images, labels):
        plain = reparametrize(model)
        return hkr(plain(images), labels, alpha=10.0).mean()

    grads = jax.grad(loss)(model, images, labels)
"""

from abc import abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from sparks_jax.lipschitz.bounds import lipschitz_constant
from sparks_jax.lipschitz.conv import Factors, aoc, aol, orthogonal_factors, rko
from sparks_jax.lipschitz.convolve import PaddingName, check_geometry, check_sides, conv_general, flax_padding
from sparks_jax.lipschitz.orthogonal import polar, random_orthogonal

# (kernel, *, stride, dilation) -> a kernel of the same shape that is at most 1-Lipschitz.
Constraint = Callable[..., Array]


class Reparametrized(nnx.Module):
    """A layer that is computed from free parameters: `plain()` is the stock layer it stands for."""

    @abstractmethod
    def plain(self) -> Any:
        """The stock layer, differentiable in the parameters."""

    def __call__(self, x: Array) -> Array:
        """Apply the layer, computing its kernel: for one call. For more, see `reparametrize`."""
        return self.plain()(x)

    def lipschitz(self) -> Float[Array, ""]:
        """An upper bound of the kernel that is applied."""
        return lipschitz_constant(self.plain())


def stock_linear(kernel: Float[Array, "c d"], bias: Array | None, dtype: DTypeLike | None = None) -> nnx.Linear:
    """A `flax.nnx.Linear` with this kernel.

    Example:
        >>> stock_linear(jnp.ones((2, 1)), None)(jnp.ones((1, 2))).tolist()
        [[2.0]]

    Reference:
        Heek et al. 2020, Flax: a neural network library and ecosystem for JAX.
    """
    return nnx.Linear(
        *kernel.shape,
        use_bias=bias is not None,
        dtype=dtype,
        kernel_init=lambda *_: kernel,
        bias_init=lambda *_: bias,
        rngs=nnx.Rngs(0),
    )


def stock_conv(
    kernel: Float[Array, "k k c d"],
    bias: Array | None,
    *,
    stride: int = 1,
    padding: PaddingName = "circular",
    dilation: int = 1,
    groups: int = 1,
    dtype: DTypeLike | None = None,
) -> nnx.Conv:
    """A `flax.nnx.Conv` with this kernel and padding, as `convolve` applies it.

    Example:
        >>> stock_conv(jnp.ones((3, 3, 1, 1)), None)(jnp.ones((1, 3, 3, 1)))[0, 0, 0].tolist()
        [9.0]

    Reference:
        Heek et al. 2020, Flax: a neural network library and ecosystem for JAX.
    """
    size, _, inputs, outputs = kernel.shape
    return nnx.Conv(
        inputs * groups,
        outputs,
        (size, size),
        (stride, stride),
        padding=flax_padding(size, dilation, padding),
        kernel_dilation=(dilation, dilation),
        feature_group_count=groups,
        use_bias=bias is not None,
        dtype=dtype,
        kernel_init=lambda *_: kernel,
        bias_init=lambda *_: bias,
        conv_general_dilated=conv_general,
        rngs=nnx.Rngs(0),
    )


class OrthogonalLinear(Reparametrized):
    r"""$y = x\, O(W) + \beta$, with orthonormal columns, or rows where these are fewer.

    Example:
        >>> from flax import nnx
        >>> layer = OrthogonalLinear(3, 3, rngs=nnx.Rngs(0))
        >>> round(jnp.linalg.norm(layer(jnp.array([[2.0, 0.0, 0.0]]))).item(), 4)
        2.0

    Reference:
        Anil, Lucas & Grosse 2019, Sorting out Lipschitz function approximation, arXiv:1811.05381.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        use_bias: bool = True,
        orthogonalize: Callable[[Array], Array] = polar,
        dtype: DTypeLike | None = None,
        rngs: nnx.Rngs,
    ):
        """Start at a random orthonormal matrix.

        Args:
            in_features: Features in.
            out_features: Features out.
            use_bias: Whether a bias is added.
            orthogonalize: From any matrix to an orthonormal one: `polar`, `cayley`, `householder`, … of `orthogonal`.
            dtype: Type of the product; None: by promotion with float32. Certificates are of float32.
            rngs: Source of the start.
        """
        self.kernel = nnx.Param(random_orthogonal(in_features, out_features, key=rngs.params()))
        self.bias = nnx.Param(jnp.zeros(out_features)) if use_bias else None
        self.orthogonalize, self.dtype = orthogonalize, None if dtype is None else jnp.dtype(dtype)

    def plain(self) -> nnx.Linear:
        """With the orthonormal kernel."""
        return stock_linear(self.orthogonalize(self.kernel[...]), _value(self.bias), self.dtype)


class UnitNormLinear(Reparametrized):
    r"""$y_j = \langle x, w_j / \|w_j\| \rangle + \beta_j$: each output 1-Lipschitz, by itself.

    A head for `certified_radius(…, head="disjoint")`, or, tighter, `head="rows"`.

    Example:
        >>> from flax import nnx
        >>> layer = UnitNormLinear(4, 3, rngs=nnx.Rngs(0))
        >>> jnp.linalg.norm(layer.plain().kernel[...], axis=0).round(4).tolist()
        [1.0, 1.0, 1.0]

    Reference:
        Singla, Singla & Feizi 2022, Improved deterministic l2 robustness on CIFAR-10 and CIFAR-100, arXiv:2108.04062.
    """

    def __init__(self, in_features: int, out_features: int, *, use_bias: bool = True, rngs: nnx.Rngs):
        """Start at a random orthonormal matrix."""
        kernel = random_orthogonal(in_features, out_features, key=rngs.params())
        self.kernel = nnx.Param(kernel / jnp.linalg.norm(kernel, axis=0, keepdims=True))
        self.bias = nnx.Param(jnp.zeros(out_features)) if use_bias else None

    def plain(self) -> nnx.Linear:
        """With columns of norm 1."""
        kernel = self.kernel[...]
        norms = jnp.linalg.norm(kernel, axis=0, keepdims=True)
        return stock_linear(kernel / jnp.maximum(norms, jnp.finfo(kernel.dtype).tiny), _value(self.bias))


class _Conv(Reparametrized):
    """What convolutions share: geometry, bias, one kernel for each group."""

    def __init__(self, inputs, outputs, size, stride, dilation, groups, padding, use_bias, dtype):
        check_geometry(size, stride, dilation, padding)
        if inputs % groups or outputs % groups:
            raise ValueError(
                f"{groups} groups of {inputs} channels in and {outputs} out: allowed are divisors of both numbers"
            )
        self.bias = nnx.Param(jnp.zeros(outputs)) if use_bias else None
        self.stride, self.dilation, self.groups, self.padding = stride, dilation, groups, padding
        self.dtype = None if dtype is None else jnp.dtype(dtype)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b gh gw d"]:
        """Convolve a batch, computing the kernel: for one call. For more, see `reparametrize`."""
        check_sides(x.shape[1:3], self.stride, self.padding)
        return self.plain()(x)

    def stock(self, kernels: Float[Array, "g k k c d"]) -> nnx.Conv:
        """The stock layer with these kernels, one for each group."""
        kernel = jnp.concatenate(list(kernels), axis=3)
        options = dict(stride=self.stride, padding=self.padding, dilation=self.dilation, groups=self.groups)
        return stock_conv(kernel, _value(self.bias), dtype=self.dtype, **options)


class OrthogonalConv(_Conv):
    r"""An orthogonal convolution: `aoc`, of any stride up to its size and any number of channels.

    Orthogonal with circular padding, and with zeros around each pixel's reach ("full"); with as many zeros as keep the
    grid ("zeros") at most 1-Lipschitz. A depthwise one (one channel a group) can only be a shift.

    Example:
        >>> from flax import nnx
        >>> layer = jax.jit(lambda: OrthogonalConv(3, 12, size=4, stride=2, rngs=nnx.Rngs(0)))()
        >>> x = jnp.arange(48.0).reshape(1, 4, 4, 3)
        >>> y = jax.jit(lambda layer, x: layer(x))(layer, x)
        >>> y.shape, round((jnp.linalg.norm(y) / jnp.linalg.norm(x)).item(), 4)
        ((1, 2, 2, 12), 1.0)

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
        dilation: int = 1,
        groups: int = 1,
        padding: PaddingName = "circular",
        use_bias: bool = True,
        dtype: DTypeLike | None = None,
        rngs: nnx.Rngs,
    ):
        """Start at random orthonormal factors.

        Args:
            in_features: Channels in.
            out_features: Channels out.
            size: Side of the kernel.
            stride: Step between positions, at most `size`.
            dilation: Step between taps; only with stride 1.
            groups: Parts of the channels, each convolved by itself.
            padding: As in `convolve`.
            use_bias: Whether a bias is added.
            dtype: Type of the convolution; None: by promotion with float32. Certificates are of float32.
            rngs: Source of the start.
        """
        super().__init__(in_features, out_features, size, stride, dilation, groups, padding, use_bias, dtype)
        draw = partial(orthogonal_factors, in_features // groups, out_features // groups, size, stride=stride)
        factors = jax.vmap(lambda key: draw(key=key))(jax.random.split(rngs.params(), groups))
        self.centre, self.halves, self.patch = (None if f is None else nnx.Param(f) for f in factors)

    def plain(self) -> nnx.Conv:
        """With the orthogonal kernel that its factors make."""
        factors = Factors(_value(self.centre), _value(self.halves), _value(self.patch))
        return self.stock(jax.vmap(partial(aoc, stride=self.stride))(factors))


class LipschitzConv(_Conv):
    r"""A convolution at most 1-Lipschitz: a free kernel through `aol`, `rko` or another constraint.

    Example:
        >>> from flax import nnx
        >>> layer = LipschitzConv(3, 8, size=3, rngs=nnx.Rngs(0))
        >>> round(jax.jit(lambda layer: layer.lipschitz())(layer).item(), 4)
        1.0

    Reference:
        Prach & Lampert 2022, Almost-orthogonal layers for efficient general-purpose Lipschitz networks,
        arXiv:2208.03160.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        size: int,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        padding: PaddingName = "circular",
        use_bias: bool = True,
        constrain: Constraint = aol,
        dtype: DTypeLike | None = None,
        rngs: nnx.Rngs,
    ):
        """Start with an orthonormal matrix at the centre of the kernel, and zeros around it.

        Args:
            in_features: Channels in.
            out_features: Channels out.
            size: Side of the kernel.
            stride: Step between positions.
            dilation: Step between taps; only with stride 1.
            groups: Parts of the channels, each convolved by itself.
            padding: As in `convolve`.
            use_bias: Whether a bias is added.
            constrain: `(kernel, *, stride, dilation) -> kernel` of norm 1 at most: `aol`, `rko`.
            dtype: As in `OrthogonalConv`.
            rngs: Source of the start.
        """
        super().__init__(in_features, out_features, size, stride, dilation, groups, padding, use_bias, dtype)
        draw = lambda key: random_orthogonal(in_features // groups, out_features // groups, key=key)
        centres = jax.vmap(draw)(jax.random.split(rngs.params(), groups))
        kernel = jnp.zeros((groups, size, size, *centres.shape[1:]))
        self.kernel = nnx.Param(kernel.at[:, (size - 1) // 2, (size - 1) // 2].set(centres))
        self.constrain = constrain

    def plain(self) -> nnx.Conv:
        """With the constrained kernel."""
        constrain = partial(self.constrain, stride=self.stride, dilation=self.dilation)
        return self.stock(jax.vmap(constrain)(self.kernel[...]))

    def lipschitz(self) -> Float[Array, ""]:
        """An upper bound of the kernel that is applied; 1 up to rounding is what `aol` and `rko` guarantee."""
        bound = super().lipschitz()
        return jnp.minimum(bound, 1 + 1e-5) if self.constrain in (aol, rko) else bound


def _value(variable: Any) -> Any:
    return None if variable is None else variable[...]
