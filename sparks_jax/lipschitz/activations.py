r"""Activations that keep the norm of gradients: sorts and reflections, whose Jacobian is orthogonal."""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from sparks_jax.lipschitz.bounds import One, one


def group_sort(x: Float[Array, "*batch d"], size: int = 2) -> Float[Array, "*batch d"]:
    r"""Each group of adjacent channels in ascending order.

    $y_{gn + i}$ is the i-th smallest of $x_{gn}, \dots, x_{gn + n - 1}$

    Args:
        x: Activations.
        size: n, channels in a group.

    Raises:
        ValueError: If the channels are not a whole number of groups.

    Example:
        >>> group_sort(jnp.array([3.0, 1.0, 2.0, 5.0])).tolist()
        [1.0, 3.0, 2.0, 5.0]

    Reference:
        Anil, Lucas & Grosse 2019, Sorting out Lipschitz function approximation, arXiv:1811.05381.
    """
    _check_groups("group_sort", x.shape[-1], size)
    if size != 2:
        return jnp.sort(x.reshape(*x.shape[:-1], -1, size), -1).reshape(x.shape)
    # Two are nearly as fast as a rectifier, where a sort is not. Not by `min` and `max` over an axis: their derivatives
    # divide by the number of entries equal to the outcome, which is 0 where a compiler computes both and rounds apart.
    a, b = x[..., ::2], x[..., 1::2]
    return jnp.stack([jnp.minimum(a, b), jnp.maximum(a, b)], -1).reshape(x.shape)


def max_min(x: Float[Array, "*batch d"]) -> Float[Array, "*batch d"]:
    r"""Larger and smaller of the two halves of the channels: $[\max(a, b), \min(a, b)]$ with $x = [a, b]$.

    As in the papers on skew and adaptive orthogonal convolutions. What deel-lip calls MaxMin is another function, which
    doubles the channels.

    Example:
        >>> max_min(jnp.array([3.0, 1.0, 2.0, 5.0])).tolist()
        [3.0, 5.0, 2.0, 1.0]

    Reference:
        Singla & Feizi 2021, Skew orthogonal convolutions, arXiv:2105.11417.
    """
    _check_groups("max_min", x.shape[-1], 2)
    a, b = jnp.split(x, 2, -1)
    return jnp.concatenate([jnp.maximum(a, b), jnp.minimum(a, b)], -1)


def full_sort(x: Float[Array, "*batch d"]) -> Float[Array, "*batch d"]:
    """All channels in ascending order.

    Example:
        >>> full_sort(jnp.array([3.0, 1.0, 2.0])).tolist()
        [1.0, 2.0, 3.0]

    Reference:
        Anil, Lucas & Grosse 2019, arXiv:1811.05381.
    """
    return jnp.sort(x, -1)


def reflect_pairs(x: Float[Array, "*batch d"], angles: Float[Array, " pairs"]) -> Float[Array, "*batch d"]:
    r"""Pairs of channels reflected to one side of a line at angle θ/2, where they are on the other.

    $(a \cos\theta + b \sin\theta,\; a \sin\theta - b \cos\theta)$ if $a \sin\frac\theta2 > b \cos\frac\theta2$, else
    $(a, b)$

    Continuous, and the norm is kept exactly. At π/2 it sorts the pair.

    Args:
        x: Activations; channels 2i and 2i + 1 are a pair.
        angles: θ in radians, one for each pair.

    Example:
        >>> reflect_pairs(jnp.array([3.0, 1.0]), jnp.array([jnp.pi / 2])).round().tolist()
        [1.0, 3.0]

    Reference:
        Singla, Singla & Feizi 2022, Improved deterministic l2 robustness on CIFAR-10 and CIFAR-100, arXiv:2108.04062.
    """
    _check_groups("reflect_pairs", x.shape[-1], 2)
    pairs = x.reshape(*x.shape[:-1], -1, 2)
    a, b = pairs[..., 0], pairs[..., 1]
    theta = jnp.broadcast_to(angles.astype(x.dtype), a.shape)
    turned = a * jnp.sin(theta / 2) - b * jnp.cos(theta / 2) > 0
    cos, sin = jnp.cos(theta), jnp.sin(theta)
    mirrored = jnp.stack([a * cos + b * sin, a * sin - b * cos], -1)
    return jnp.where(turned[..., None], mirrored, pairs).reshape(x.shape)


def _check_groups(who: str, channels: int, size: int) -> None:
    if size < 1 or channels % size:
        raise ValueError(f"{who}: {channels} channels are no whole number of groups of {size}")


class GroupSort(One):
    """`group_sort` as a layer."""

    def __init__(self, size: int = 2):
        """Sort groups of `size` channels."""
        self.size = size

    def __call__(self, x: Float[Array, "*batch d"]) -> Float[Array, "*batch d"]:
        """Apply it."""
        return group_sort(x, self.size)


class MaxMin(One):
    """`max_min` as a layer: of halves of the channels, which it keeps in number."""

    def __call__(self, x: Float[Array, "*batch d"]) -> Float[Array, "*batch d"]:
        """Apply it."""
        return max_min(x)


class FullSort(One):
    """`full_sort` as a layer."""

    def __call__(self, x: Float[Array, "*batch d"]) -> Float[Array, "*batch d"]:
        """Apply it."""
        return full_sort(x)


class Householder(nnx.Module):
    """`reflect_pairs` as a layer, with an angle learned for each pair of channels."""

    def __init__(self, features: int):
        """Start as a sort of the pairs: all angles π/2."""
        _check_groups("Householder", features, 2)
        self.angles = nnx.Param(jnp.full(features // 2, jnp.pi / 2))

    def __call__(self, x: Float[Array, "*batch d"]) -> Float[Array, "*batch d"]:
        """Apply it."""
        return reflect_pairs(x, self.angles[...])

    def lipschitz(self) -> Float[Array, ""]:
        """1: it is continuous and keeps the norm piece by piece."""
        return one()
