"""What a factorization asks of activations: rows of finite numbers, and enough of them."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jaxtyping import Array, Bool, Float


def checked(
    acts: Any, rank: int, who: str, *, layer: str | None = None, nonnegative: bool = False, most: str = "n d"
) -> Float[Array, "n d"]:
    """The activations in float32 at least, after a clear error if they cannot be factorized.

    Values are looked at only where there are any: under `jit` the shapes and the dtype are checked.

    Args:
        acts: Activations, one row each.
        rank: How many concepts are wanted.
        who: The function that speaks.
        layer: Where the activations come from, to say so.
        nonnegative: Whether they must be.
        most: What bounds the rank: `"n d"`, or `"n"` where there may be more concepts than channels.

    Raises:
        ValueError: If the shape, the rank or the values do not fit.
        TypeError: If they are no floating-point numbers.

    Example:
        >>> checked(jnp.ones((3, 2)), 2, "nmf").dtype
        dtype('float32')
        >>> checked(jnp.ones((3, 2)), 3, "nmf", layer="conv5")
        Traceback (most recent call last):
        ValueError: nmf: rank 3 is above what 3 rows of 2 channels of layer 'conv5' can hold

    Reference:
        Lee & Seung 1999, Learning the parts of objects by non-negative matrix factorization.
    """
    shape, dtype = jnp.shape(acts), jnp.result_type(acts)
    of_layer = f" of layer {layer!r}" if layer else ""
    if len(shape) != 2 or 0 in shape:
        raise ValueError(
            f"{who}: activations{of_layer} have shape {shape}, expected rows (n, d); reshape feature maps "
            "(n, h, w, d) to (n * h * w, d), map classes with jax.vmap"
        )
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(f"{who}: activations{of_layer} have dtype {dtype}, expected floating-point values")
    if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
        raise ValueError(f"{who}: rank is {rank}, expected a positive integer")
    bound = min(shape) if most == "n d" else shape[0]
    if rank > bound:
        raise ValueError(f"{who}: rank {rank} is above what {shape[0]} rows of {shape[1]} channels{of_layer} can hold")
    if not isinstance(acts, Tracer):
        _check_values(np.asarray(acts), rank, who, of_layer, nonnegative)
    return jnp.asarray(acts).astype(jnp.promote_types(dtype, jnp.float32))


def _check_values(acts: np.ndarray, rank: int, who: str, of_layer: str, nonnegative: bool) -> None:
    if not np.isfinite(acts).all():
        raise ValueError(f"{who}: activations{of_layer} have NaN or infinite values, expected finite numbers")
    if nonnegative and acts.min() < 0:
        raise ValueError(
            f"{who}: activations{of_layer} are negative down to {acts.min():.4g}, expected non-negative ones as after "
            "a ReLU; use semi_nmf, which needs no sign"
        )
    rows = int((acts != 0).any(axis=1).sum())
    if rows == 0:
        raise ValueError(f"{who}: activations{of_layer} are all zero: there is nothing to explain; take another layer")
    if rows < rank:
        raise ValueError(f"{who}: {rank} concepts from {rows} rows{of_layer} that are not zero; give more, or ask less")


def present(acts: Float[Array, "n d"]) -> Bool[Array, " n"]:
    """Which rows are data: a row of zeros is padding, for all factorizations.

    So classes with unequal numbers of rows are padded to one shape, and mapped.

    Args:
        acts: Activations.

    Example:
        >>> present(jnp.array([[1.0, 0.0], [0.0, 0.0]])).tolist()
        [True, False]

    Reference:
        Lee & Seung 1999, Learning the parts of objects by non-negative matrix factorization.
    """
    return (acts != 0).any(axis=1)


def inner(atoms: Float[Array, "k d"], acts: Float[Array, "n d"]) -> Float[Array, "k n"]:
    r"""The product of each atom with each row, $D A^\top$.

    Computed as $A D^\top$ and turned afterwards: XLA on CPU is four times slower at the transpose of a large array.

    Args:
        atoms: $D$.
        acts: $A$.

    Example:
        >>> inner(jnp.array([[1.0, 1.0]]), jnp.array([[1.0, 2.0], [3.0, 4.0]])).tolist()
        [[3.0, 7.0]]

    Reference:
        Cichocki & Phan 2009, Fast local algorithms for large scale nonnegative matrix and tensor factorizations.
    """
    return lax.optimization_barrier(jnp.matmul(acts, atoms.T, precision="highest")).T


def combined(weights: Float[Array, "k n"], acts: Float[Array, "n d"]) -> Float[Array, "k d"]:
    r"""The sum of the rows with each set of weights, $W A$, where there are many more rows than sets.

    From $W^\top$ in memory, which XLA on CPU multiplies in two thirds of the time.

    Args:
        weights: $W$.
        acts: $A$.

    Example:
        >>> combined(jnp.array([[1.0, 1.0]]), jnp.array([[1.0, 2.0], [3.0, 4.0]])).tolist()
        [[4.0, 6.0]]

    Reference:
        Cichocki & Phan 2009, Fast local algorithms for large scale nonnegative matrix and tensor factorizations.
    """
    return jnp.matmul(lax.optimization_barrier(weights.T).T, acts, precision="highest")


def row_sums(acts: Float[Array, "n d"]) -> Float[Array, " n"]:
    r"""The sum of each row, $A 1$.

    As a product, which XLA on CPU computes in parallel, in several lanes: six times faster than its sums, and rounded
    less.

    Args:
        acts: $A$.

    Example:
        >>> row_sums(jnp.array([[1.0, 2.0], [3.0, 4.0]])).tolist()
        [3.0, 7.0]

    Reference:
        Higham 1993, The accuracy of floating point summation.
    """
    ones = lax.optimization_barrier(jnp.ones(acts.shape[1], acts.dtype))
    return jnp.matmul(acts, ones, precision="highest")


def spare_rows(
    acts: Float[Array, "n d"], misfit: Float[Array, " n"], missing: Bool[Array, " k"]
) -> Float[Array, "k d"]:
    """The rows that are explained worst, another one for each atom that is missing; rows for the others mean nothing.

    Args:
        acts: Activations.
        misfit: How badly each row is explained.
        missing: Which atoms need one.

    Example:
        >>> acts, misfit = jnp.eye(3), jnp.array([1.0, 3.0, 2.0])
        >>> spare_rows(acts, misfit, jnp.array([False, True]))[1].tolist()
        [0.0, 1.0, 0.0]

    Reference:
        Arthur & Vassilvitskii 2007, k-means++: the advantages of careful seeding.
    """
    _, worst = lax.top_k(misfit, len(missing))
    return acts[worst[jnp.maximum(jnp.cumsum(missing) - 1, 0)]]
