r"""Convolutions with the paddings that keep a certificate, as stock Flax layers run them, with gradients that are fast.

Circular padding keeps an orthogonal kernel orthogonal on every grid; zeros cut rows and columns out of it, so that no
singular value grows. Reflected or repeated pixels count several times: the norm of such a padding is up to 2, and it is
refused.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from sparks_jax.models.conv2d import conv2d

PADDINGS = ("circular", "zeros", "full", "valid")
PaddingName = str  # one of them; another is refused with a reason


def check_geometry(size: int, stride: int, dilation: int, padding: str) -> None:
    """Whether a convolution keeps its Lipschitz constant.

    Args:
        size: Side of the kernel.
        stride: Step between positions.
        dilation: Step between taps.
        padding: "circular", "zeros", "full" or "valid".

    Raises:
        ValueError: If it does not, with what does.

    Example:
        >>> check_geometry(3, 2, 1, "circular")

    Reference:
        Boissin et al. 2025, An adaptive orthogonal convolution scheme for efficient and flexible CNN architectures,
        arXiv:2501.07930.
    """
    if padding not in PADDINGS:
        raise ValueError(
            f"padding {padding!r} has no certificate: reflected or repeated pixels count several times, up to a norm "
            f"of 2; allowed: {', '.join(PADDINGS)}"
        )
    if min(size, stride, dilation) < 1:
        raise ValueError(f"size {size}, stride {stride} and dilation {dilation} must be positive")
    if stride > 1 and dilation > 1:
        raise ValueError(f"stride {stride} with dilation {dilation}: allowed is a stride of 1, or a dilation of 1")
    if padding == "full" and stride > 1:
        raise ValueError(f"padding 'full' with stride {stride}: allowed are stride 1, or the paddings circular, zeros")


def flax_padding(size: int, dilation: int, padding: PaddingName) -> str | list[tuple[int, int]]:
    """The padding as `flax.nnx.Conv` takes it.

    Example:
        >>> flax_padding(3, 1, "zeros")
        [(1, 1), (1, 1)]

    Reference:
        Dumoulin & Visin 2016, A guide to convolution arithmetic for deep learning, arXiv:1603.07285.
    """
    reach = (size - 1) * dilation
    if padding == "circular":
        return "CIRCULAR"
    return [{"zeros": (reach // 2, reach - reach // 2), "full": (reach, reach), "valid": (0, 0)}[padding]] * 2


def convolve(
    x: Float[Array, "b h w c"],
    kernel: Float[Array, "kh kw cg d"],
    *,
    stride: int = 1,
    padding: PaddingName = "circular",
    dilation: int = 1,
    groups: int = 1,
) -> Float[Array, "b gh gw d"]:
    r"""A batch of images convolved with a kernel: $y_{od} = \sum_{t, c} x_{so + t - p, c} K_{tcd}$, $p = (k - 1) // 2$.

    Args:
        x: Images.
        kernel: Kernel, square.
        stride: $s$; with circular padding it has to divide the sides of the image.
        padding: What is outside of the image: the other side of it, or zeros, so many that the grid keeps its size
            ("zeros") or that every pixel meets every tap ("full"); "valid" for nothing.
        dilation: Step between taps.
        groups: The channels are in so many parts, each convolved by itself.

    Raises:
        ValueError: For a padding without a certificate, and sides that the stride does not divide.

    Example:
        >>> shift = jnp.array([1.0, 0.0, 0.0])[None, :, None, None]
        >>> convolve(jnp.array([5.0, 6.0, 7.0])[None, None, :, None], jnp.pad(shift, ((1, 1), (0, 0), (0, 0), (0, 0))))[
        ...     0, 0, :, 0
        ... ].tolist()
        [7.0, 5.0, 6.0]

    Reference:
        Dumoulin & Visin 2016, A guide to convolution arithmetic for deep learning, arXiv:1603.07285.
    """
    size = len(kernel)
    check_geometry(size, stride, dilation, padding)
    check_sides(x.shape[1:3], stride, padding)
    pads = flax_padding(size, dilation, padding)
    if isinstance(pads, str):
        reach = (size - 1) * dilation
        x = jnp.pad(x, ((0, 0), *[(reach // 2, reach - reach // 2)] * 2, (0, 0)), mode="wrap")
        pads = [(0, 0)] * 2
    return conv_general(x, kernel, (stride, stride), pads, rhs_dilation=(dilation,) * 2, feature_group_count=groups)


def check_sides(sides: tuple[int, ...], stride: int, padding: str) -> None:
    """Whether a stride divides the sides of an image that goes around.

    Raises:
        ValueError: If it does not.

    Example:
        >>> check_sides((8, 8), 2, "circular")

    Reference:
        Boissin et al. 2025, arXiv:2501.07930.
    """
    if padding == "circular" and any(side % stride for side in sides):
        raise ValueError(
            f"circular padding with stride {stride} on {sides[0]} by {sides[1]} pixels: allowed are sides that the "
            "stride divides, or padding='zeros'"
        )


def conv_general(
    lhs: Array,
    rhs: Array,
    window_strides: Any,
    padding: Any,
    lhs_dilation: Any = (1, 1),
    rhs_dilation: Any = (1, 1),
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    precision: Any = None,
    **options: Any,
) -> Array:
    """`jax.lax.conv_general_dilated` of images `(b h w c)`, with the fast gradients of `models.conv2d` where it can.

    What `flax.nnx.Conv` is given as `conv_general_dilated`. A 1x1 kernel is a matrix product.

    Example:
        >>> conv_general(jnp.ones((1, 2, 2, 1)), jnp.ones((2, 2, 1, 1)), (1, 1), "VALID").item()
        4.0

    Reference:
        Dumoulin & Visin 2016, A guide to convolution arithmetic for deep learning, arXiv:1603.07285.
    """
    del dimension_numbers
    plain = (*lhs_dilation, *rhs_dilation, feature_group_count) == (1,) * 5
    plain &= window_strides[0] == window_strides[1] and (not isinstance(padding, str) or padding == "VALID")
    # `conv2d` has no precision of its own: it takes that of the context.
    if not plain or precision is not None or any(option is not None for option in options.values()):
        options = {name: option for name, option in options.items() if option is not None}
        options |= dict(feature_group_count=feature_group_count, precision=precision)
        numbers = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            lhs, rhs, window_strides, padding, lhs_dilation, rhs_dilation, dimension_numbers=numbers, **options
        )
    (low, high), (left, right) = ((0, 0), (0, 0)) if isinstance(padding, str) else padding
    if rhs.shape[:2] == (1, 1) and not (low or high or left or right):
        stride = window_strides[0]
        return jnp.einsum("bhwc,cd->bhwd", lhs[:, ::stride, ::stride], rhs[0, 0], precision=precision)
    return conv2d(lhs, rhs, window_strides[0], ((low, high), (left, right)))


def dense_matrix(linear: Any, like: Array | jax.ShapeDtypeStruct) -> Float[Array, "out in"]:
    r"""The matrix of a linear map, one column for each entry of its input: to look at small ones whole.

    Args:
        linear: A linear function of one array, of any shape.
        like: An array, or `jax.ShapeDtypeStruct`, of the shape and dtype that `linear` takes.

    Example:
        >>> dense_matrix(lambda x: x[::-1], jnp.zeros(2)).tolist()
        [[0.0, 1.0], [1.0, 0.0]]

    Reference:
        Sedghi, Gupta & Long 2019, The singular values of convolutional layers, arXiv:1805.10408.
    """
    size = 1
    for n in like.shape:
        size *= n
    columns = jax.vmap(lambda e: linear(e.reshape(like.shape)).ravel())(jnp.eye(size, dtype=like.dtype))
    return columns.T
