r"""One concept at a time: k-means, and its seeds."""

import jax
import jax.numpy as jnp
from jax import lax
from jax.tree_util import Partial
from jaxtyping import Array, Float, Int, PRNGKeyArray

from sparks_jax.concepts.activations import checked, combined, present, spare_rows
from sparks_jax.concepts.dictionary import Factorization, ordered
from sparks_jax.linalg import product


def kmeans(
    acts: Float[Array, "n d"], rank: int, *, key: PRNGKeyArray, num_steps: int = 50, layer: str | None = None
) -> Factorization:
    r"""K-means: each row is one of the concepts, and a concept is the mean of its rows.

    $\min \sum_n \min_k \|a_n - d_k\|^2$, by Lloyd's steps from seeds that are far apart

    Atoms are the means themselves, not of norm 1, and codes are 0 or 1. The error never rises. A mean that loses all
    its rows takes the row farthest from its own. Rows of zeros are padding: they belong to no cluster.

    Cost: two products of the activations with `rank` vectors a step.

    Args:
        acts: $A$, one row for each crop, position or token.
        rank: How many concepts; may exceed the channels.
        key: Draws the seeds.
        num_steps: Lloyd's steps.
        layer: Where the activations come from, for error messages.

    Raises:
        ValueError: If activations are not finite, all zero or no rows, or are fewer rows than `rank`.
        TypeError: If they are no floating-point numbers.

    Example:
        >>> acts = jnp.array([[0.0, 1.0], [0.0, 3.0], [9.0, 0.0]])
        >>> print(kmeans(acts, 2, key=jax.random.key(0)).dictionary.atoms)
        [[9. 0.]
         [0. 2.]]

    Reference:
        Lloyd 1982, Least squares quantization in PCM. Arthur & Vassilvitskii 2007, k-means++: the advantages of careful
        seeding.
    """
    acts = checked(acts, rank, "kmeans", layer=layer, most="n")
    real, total = present(acts), jnp.sum(acts**2)

    def assign(d: Array) -> tuple[Array, Array]:
        away = jnp.where(real, _squared_distances(acts, d).min(axis=1), 0)
        return nearest(d, acts) * real[:, None], away

    def step(d: Array, _: None) -> tuple[Array, Array]:
        codes, away = assign(d)
        counts = codes.sum(axis=0)[:, None]
        means, lost = combined(codes.T, acts) / jnp.maximum(counts, 1), counts == 0
        return jnp.where(lost, spare_rows(acts, away, lost[:, 0]), means), away.sum()

    d, sums = lax.scan(step, acts[seeds(acts, rank, key=key)], length=num_steps)
    codes, away = assign(d)
    errors = jnp.sqrt(jnp.append(sums, away.sum()) / jnp.where(total > 0, total, 1))
    return ordered(codes, d, errors, Partial(nearest))


def nearest(atoms: Float[Array, "k d"], acts: Float[Array, "n d"]) -> Float[Array, "n k"]:
    r"""One code of 1, for the nearest atom.

    $u = e_k$, $k = \arg\min_k \|a - d_k\|$

    Args:
        atoms: $D$.
        acts: $a$, one each row.

    Example:
        >>> nearest(jnp.array([[0.0], [4.0]]), jnp.array([[1.0], [3.0]])).tolist()
        [[1.0, 0.0], [0.0, 1.0]]

    Reference:
        Lloyd 1982, Least squares quantization in PCM.
    """
    return jax.nn.one_hot(_squared_distances(acts, atoms).argmin(axis=1), len(atoms), dtype=atoms.dtype)


def seeds(acts: Float[Array, "n d"], rank: int, *, key: PRNGKeyArray) -> Int[Array, " k"]:
    r"""Rows to start from, each drawn by its squared distance from those before it.

    $p_n \propto \min_{j < k} \|a_n - a_j\|^2$, the first among all rows that are not zero

    Args:
        acts: Activations.
        rank: How many.
        key: Draws them.

    Example:
        >>> sorted(seeds(jnp.array([[1.0], [1.0], [5.0]]), 2, key=jax.random.key(0)).tolist())[-1]
        2

    Reference:
        Arthur & Vassilvitskii 2007, k-means++: the advantages of careful seeding.
    """
    real = present(acts)

    def draw(away: Array, key: PRNGKeyArray) -> tuple[Array, Array]:
        chances = jnp.where(jnp.isinf(away), 1, away)
        # Where all rows are seeds already, any will do.
        chances = jnp.where(chances.sum() > 0, chances, real.astype(acts.dtype))
        # By the running sum, which rows of no chance, as those of padding, do not change.
        sums = jnp.cumsum(chances)
        chosen = jnp.searchsorted(sums, jax.random.uniform(key, (), acts.dtype) * sums[-1], side="right")
        chosen = jnp.minimum(chosen, len(acts) - 1)
        return jnp.minimum(away, jnp.sum((acts - acts[chosen][None]) ** 2, axis=1)), chosen

    _, chosen = lax.scan(draw, jnp.where(real, jnp.inf, 0).astype(acts.dtype), jax.random.split(key, rank))
    return chosen


def _squared_distances(acts: Array, atoms: Array) -> Float[Array, "n k"]:
    """Exactly nought only by luck: a difference of squares, bounded below by nought."""
    square = lambda x: jnp.sum(x**2, axis=1)
    return jnp.maximum(square(acts)[:, None] - 2 * product(acts, atoms.T) + square(atoms)[None], 0)
