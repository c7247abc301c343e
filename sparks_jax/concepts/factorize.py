r"""Non-negative matrix factorizations: activations as sums of parts, $A \approx U D$ with codes $U \ge 0$.

All are pure functions of `(n d)` activations and a key, computed in float32 at least. The outcome is canonical: atoms
of norm 1, concepts by falling energy. Rows of zeros are padding and change nothing, so that classes with unequal
numbers of rows are padded to one shape and mapped with `jax.vmap`.
"""

import functools

import jax.numpy as jnp
from jax import lax
from jax.tree_util import Partial
from jaxtyping import Array, Float, PRNGKeyArray

from sparks_jax.concepts.activations import checked
from sparks_jax.concepts.dictionary import Factorization, canonical
from sparks_jax.concepts.encoders import nonnegative, sweep
from sparks_jax.concepts.svd import nndsvda

_dot = functools.partial(jnp.matmul, precision="highest")


def nmf(
    acts: Float[Array, "n d"],
    rank: int,
    *,
    key: PRNGKeyArray,
    num_steps: int = 50,
    num_sweeps: int = 2,
    layer: str | None = None,
) -> Factorization:
    r"""Non-negative matrix factorization by hierarchical alternating least squares.

    $\min_{U \ge 0, D \ge 0} \tfrac12 \|A - U D\|_F^2$, each row of $D$ and column of $U$ in turn exactly, the others
    fixed: $u_k \leftarrow \max(0, u_k + (A d_k - U D d_k) / \|d_k\|^2)$

    The error never rises. No penalty is added. An atom that no row uses takes the direction of the row that is
    explained worst; one that stays unused is last, and its energy is 0.

    Cost: two products of the activations with `rank` vectors a step. Nothing of the size of the activations is made.

    Args:
        acts: $A \ge 0$, one row for each crop, position or token.
        rank: How many concepts.
        key: Draws the random vectors of the start (NNDSVDa).
        num_steps: Updates of both factors.
        num_sweeps: Passes over the concepts in an update.
        layer: Where the activations come from, for error messages.

    Raises:
        ValueError: If activations are negative, not finite, all zero or no rows, or hold fewer than `rank` concepts.
        TypeError: If they are no floating-point numbers.

    Example:
        >>> acts = jnp.array([[2.0, 0.0, 0.0], [0.0, 3.0, 4.0], [2.0, 3.0, 4.0]])
        >>> print(nmf(acts, 2, key=jax.random.key(0)).dictionary.atoms.round(3))
        [[0.  0.6 0.8]
         [1.  0.  0. ]]

    Reference:
        Lee & Seung 1999, Learning the parts of objects by non-negative matrix factorization. Cichocki & Phan 2009, Fast
        local algorithms for large scale nonnegative matrix and tensor factorizations.
    """
    acts = checked(acts, rank, "nmf", layer=layer, nonnegative=True)
    u, d = nndsvda(acts, rank, key=key)
    u, total = u.T, jnp.sum(acts**2)

    def step(pair: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], Array]:
        u, d = pair
        target, gram = _dot(d, acts.T), _dot(d, d.T)
        u = lax.fori_loop(0, num_sweeps, lambda _, u: sweep(u, gram, target), u)
        misfit = jnp.sum(acts**2, axis=1) + jnp.sum(u * (_dot(gram, u) - 2 * target), axis=0)
        target, gram = _dot(u, acts), _dot(u, u.T)
        d = lax.fori_loop(0, num_sweeps, lambda _, d: sweep(d, gram, target), d)
        return _revived(u, d, misfit, acts), relative_error(total, target, gram, d)

    first = relative_error(total, _dot(u, acts), _dot(u, u.T), d)
    (u, d), errors = lax.scan(step, (u, d), length=num_steps)
    return canonical(u.T, d, jnp.append(first, errors), Partial(nonnegative))


def relative_error(
    total: Float[Array, ""], target: Float[Array, "k d"], gram: Float[Array, "k k"], atoms: Float[Array, "k d"]
) -> Float[Array, ""]:
    r"""Relative error from products that the updates have anyway, without the reconstruction.

    $\|A - U D\|^2 = \|A\|^2 - 2 \langle U^\top A, D \rangle + \langle U^\top U, D D^\top \rangle$, of which the
    root over that of $\|A\|^2$ is returned.

    A difference of like numbers: errors below the root of a unit of rounding, 3e-4 in float32, are lost in it.

    Args:
        total: $\|A\|^2$.
        target: $U^\top A$.
        gram: $U^\top U$.
        atoms: $D$.

    Example:
        >>> acts, u, d = jnp.eye(2), jnp.array([[1.0], [0.0]]), jnp.array([[1.0, 0.0]])
        >>> print(relative_error(jnp.sum(acts**2), u.T @ acts, u.T @ u, d).round(4))  # half of the energy is missing
        0.7071

    Reference:
        Cichocki & Phan 2009, Fast local algorithms for large scale nonnegative matrix and tensor factorizations.
    """
    rest = total - 2 * jnp.vdot(target, atoms) + jnp.vdot(gram, _dot(atoms, atoms.T))
    return jnp.sqrt(jnp.maximum(rest, 0) / jnp.where(total > 0, total, 1))


def _revived(u: Array, d: Array, misfit: Float[Array, " n"], acts: Array) -> tuple[Array, Array]:
    """Atoms of zero take the directions of the rows explained worst, one each; without codes, so that no error rises."""
    dead = ~(d != 0).any(axis=1)
    _, worst = lax.top_k(misfit, len(d))
    rows = acts[worst[jnp.where(dead, jnp.cumsum(dead) - 1, 0)]]
    rows = rows / jnp.maximum(jnp.linalg.norm(rows, axis=1, keepdims=True), jnp.finfo(d.dtype).tiny)
    return jnp.where(dead[:, None], 0, u), jnp.where(dead[:, None], rows, d)
