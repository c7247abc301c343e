r"""Images as inputs: grids of masks, resizing, blur, baselines, perturbations, and the channels of a map.

An image is `(h w c)`, a mask `(h w)` with 1 where the pixel is kept. A perturbation is a function `(x, mask) -> x'`;
its options are bound with `functools.partial`: `partial(blur_out, sigma=5.0)`.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from sparks_jax.types import Heatmap, Image

Baseline = float | Float[Any, "..."] | Callable[[Image], Image]
Method = TypeVar("Method", bound=Callable[..., Any])


def for_images(method: Method) -> Method:
    """Make a method say in one sentence what is wrong with its image, and with its heat map if it reads one.

    The argument `x` must be one image `(h w c)` of floating-point numbers, the argument `heatmap` a map `(h w)` of the
    same size, both without NaN (which can only be seen outside of `jax.jit`).

    Args:
        method: A function with a parameter `x` and perhaps a parameter `heatmap`.

    Raises:
        ValueError: When called: wrong rank, an empty image, NaN or infinite pixels.
        TypeError: When called: an image of integers.

    Example:
        >>> @for_images
        ... def total(x):
        ...     return x.sum()
        >>> total(jnp.ones((2, 2)))
        Traceback (most recent call last):
        ValueError: total: x has shape (2, 2), expected one image (h, w, c)...

    Reference:
        Fel 2024, Sparks of Explainability, arXiv:2502.01048.
    """
    names = list(inspect.signature(method).parameters)

    @functools.wraps(method)
    def checked(*args: Any, **kwargs: Any) -> Any:
        given = dict(zip(names, args, strict=False)) | kwargs
        if "x" in given:
            check_image(given["x"], method.__name__)
        if "heatmap" in given:
            _check_heatmap(given["heatmap"], jnp.shape(given["x"]), method.__name__)
        return method(*args, **kwargs)

    return checked  # pyright: ignore[reportReturnType]


def check_image(x: Any, who: str) -> None:
    """Refuse, in one sentence, what is not one image of finite floating-point numbers.

    Args:
        x: The would-be image.
        who: The function that speaks.

    Raises:
        ValueError: Wrong rank, an empty image, NaN or infinite pixels (seen outside of `jax.jit` only).
        TypeError: Not an array of floating-point numbers.

    Example:
        >>> check_image(jnp.ones((2, 2, 3)), "saliency")

    Reference:
        Rogozhnikov 2022, Einops: clear and reliable tensor manipulations.
    """
    shape, dtype = jnp.shape(x), jnp.result_type(x)
    if len(shape) != 3:
        raise ValueError(f"{who}: x has shape {shape}, expected one image (h, w, c); map a batch with jax.vmap")
    if 0 in shape:
        raise ValueError(f"{who}: x has shape {shape}, expected an image with at least one pixel")
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(f"{who}: x has dtype {dtype}, expected floating-point pixels, for example x / 255")
    if not isinstance(x, Tracer) and not np.isfinite(np.asarray(x)).all():
        raise ValueError(f"{who}: x has NaN or infinite pixels, expected finite numbers")


def _check_heatmap(heatmap: Any, image_shape: tuple[int, ...], who: str) -> None:
    if jnp.shape(heatmap) != image_shape[:2]:
        raise ValueError(
            f"{who}: heatmap has shape {jnp.shape(heatmap)} for an image {image_shape}, expected {image_shape[:2]}; "
            "reduce channels with images.heatmap, resize with images.bilinear"
        )
    if not isinstance(heatmap, Tracer) and np.isnan(np.asarray(heatmap)).any():
        raise ValueError(f"{who}: heatmap has NaN values, expected numbers")


def heatmap(a: Image, how: str = "l2") -> Heatmap:
    r"""Reduce the channels of an attribution.

    `l2` $\sqrt{\sum_c a_c^2}$, `max` $\max_c |a_c|$, `abs` $\sum_c |a_c|$ (unsigned);
    `sum` $\sum_c a_c$ and `mean` keep the sign. All can be differentiated; where $a$ is 0, `l2` has derivative 0.

    Raises:
        ValueError: Another `how`.

    Example:
        >>> a = jnp.array([[[3.0, -4.0]]])
        >>> [heatmap(a, how).item() for how in ("l2", "max", "abs", "sum", "mean")]
        [5.0, 4.0, 7.0, -1.0, -0.5]

    Reference:
        Simonyan et al. 2014, Deep inside convolutional networks, arXiv:1312.6034 (the maximum of absolute values).
    """
    match how:
        case "l2":
            squares = jnp.square(a).sum(-1)
            return jnp.where(squares == 0, 0, jnp.sqrt(jnp.where(squares == 0, 1, squares)))
        case "max":
            return jnp.abs(a).max(-1)
        case "abs":
            return jnp.abs(a).sum(-1)
        case "sum":
            return a.sum(-1)
        case "mean":
            return a.mean(-1)
    raise ValueError(f"heatmap: how is {how!r}, expected one of 'l2', 'max', 'abs', 'sum', 'mean'")


def nearest(mask: Float[Array, "gh gw"], size: tuple[int, int]) -> Heatmap:
    r"""Upsample a grid by constant cells.

    Pixel $i$ of $h$ takes cell $\lfloor (i + \frac12) g / h \rfloor$ of $g$.

    Example:
        >>> nearest(jnp.array([[1.0, 2.0]]), (1, 4))
        Array([[1., 1., 2., 2.]], dtype=float32)

    Reference:
        Keys 1981, Cubic convolution interpolation for digital image processing (section I).
    """
    return jax.image.resize(mask, size, "nearest")


def bilinear(mask: Float[Array, "gh gw"], size: tuple[int, int]) -> Heatmap:
    r"""Upsample a grid by linear interpolation between cell centres.

    $y(u) = \sum_k \max(0, 1 - |u - k|)\, m_k$ at $u = (i + \frac12) g / h - \frac12$.

    Example:
        >>> bilinear(jnp.array([[0.0, 4.0]]), (1, 4))
        Array([[0., 1., 3., 4.]], dtype=float32)

    Reference:
        Keys 1981, Cubic convolution interpolation for digital image processing (section I).
    """
    return jax.image.resize(mask, size, "linear", antialias=False)


def bicubic(mask: Float[Array, "gh gw"], size: tuple[int, int]) -> Heatmap:
    r"""Upsample a grid by cubic convolution between cell centres: smooth, may overshoot.

    $y(u) = \sum_k w(u - k)\, m_k$ with Keys' kernel $w$, $a = -\frac12$.

    Example:
        >>> round(bicubic(jnp.ones((2, 2)), (4, 4)).mean().item(), 4)
        1.0

    Reference:
        Keys 1981, Cubic convolution interpolation for digital image processing.
    """
    return jax.image.resize(mask, size, "cubic", antialias=False)


def blur(x: Image, sigma: float | Float[Array, ""] = 8.0) -> Image:
    r"""Gaussian blur, normalised at the border so that a constant image stays as it is.

    $x'_i = \sum_j e^{-(i-j)^2 / 2\sigma^2} x_j \,/\, \sum_j e^{-(i-j)^2 / 2\sigma^2}$ along each side.

    Args:
        x: The image.
        sigma: Standard deviation in pixels.

    Example:
        >>> round(blur(jnp.ones((4, 4, 1)), 2.0).min().item(), 4)
        1.0

    Reference:
        Petsiuk et al. 2018, RISE, arXiv:1806.07421 (insertion starts from a blurred image).
    """
    rows, columns = (_gaussian_rows(n, sigma).astype(x.dtype) for n in x.shape[:2])
    return jnp.einsum("ij,jkc,lk->ilc", rows, x, columns)


def _gaussian_rows(n: int, sigma: Any) -> Float[Array, "n n"]:
    distance = jnp.arange(n)[:, None] - jnp.arange(n)[None, :]
    return jax.nn.softmax(-((distance / sigma) ** 2) / 2)


def as_baseline(x: Image, baseline: Baseline) -> Image:
    """The image that stands for "nothing": a number, a colour, an image, or a function of the image.

    Args:
        x: The image.
        baseline: A number or an array that broadcasts against `x` from the right (a colour `(c,)`, an image
            `(h w c)`), or a function `x -> x0` such as `blur`.

    Raises:
        ValueError: If it does not broadcast to the shape of `x`.

    Example:
        >>> as_baseline(jnp.ones((2, 2, 3)), 0.5).sum().item()
        6.0

    Reference:
        Sturmfels et al. 2020, Visualizing the impact of feature attribution baselines, Distill.
    """
    value = jnp.asarray(baseline(x) if callable(baseline) else baseline, x.dtype)
    if value.ndim > x.ndim or any(n not in (1, m) for n, m in zip(value.shape[::-1], x.shape[::-1], strict=False)):
        raise ValueError(f"baseline has shape {value.shape}, expected a number, a colour ({x.shape[2]},) or {x.shape}")
    return jnp.broadcast_to(value.reshape((1,) * (x.ndim - value.ndim) + value.shape), x.shape)


def inpaint(x: Image, mask: Heatmap, *, baseline: Baseline = 0.0) -> Image:
    r"""Fade the removed pixels to a baseline.

    $x' = m \odot x + (1 - m) \odot x_0$

    Args:
        x: The image.
        mask: 1 keeps a pixel, 0 removes it.
        baseline: As in `as_baseline`; 0 as in the paper.

    Example:
        >>> inpaint(jnp.full((1, 1, 1), 2.0), jnp.array([[0.25]])).item()
        0.5

    Reference:
        Fel, Cadène et al. 2021, Look at the variance!, arXiv:2111.04138 (section 3).
    """
    x0 = as_baseline(x, baseline)
    return x0 + mask[..., None] * (x - x0)


def blur_out(x: Image, mask: Heatmap, *, sigma: float | Float[Array, ""] = 8.0) -> Image:
    r"""Fade the removed pixels to a blurred image.

    $x' = m \odot x + (1 - m) \odot (G_\sigma * x)$

    Args:
        x: The image.
        mask: 1 keeps a pixel, 0 removes it.
        sigma: Standard deviation of the blur in pixels.

    Example:
        >>> round(blur_out(jnp.ones((2, 2, 1)), jnp.zeros((2, 2))).min().item(), 4)
        1.0

    Reference:
        Fel, Cadène et al. 2021, Look at the variance!, arXiv:2111.04138 (section 3).
    """
    return inpaint(x, mask, baseline=blur(x, sigma))


def amplitude(x: Image, mask: Heatmap, *, sigma: float | Float[Array, ""] = 1.0) -> Image:
    r"""Shift the brightness of the pixels.

    $x' = x + \sigma (m - \frac12)$

    Args:
        x: The image.
        mask: In [0, 1].
        sigma: Range of the shift, in units of `x`.

    Example:
        >>> amplitude(jnp.zeros((1, 1, 1)), jnp.array([[1.0]]), sigma=0.5).item()
        0.25

    Reference:
        Fel, Cadène et al. 2021, Look at the variance!, arXiv:2111.04138 (section 3).
    """
    return x + (sigma * (mask[..., None] - 0.5)).astype(x.dtype)
