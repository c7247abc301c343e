r"""Sparse dictionaries: few atoms for each row, of more than there may be channels."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jax.tree_util import Partial
from jaxtyping import Array, Float, PRNGKeyArray

from sparks_jax.concepts.activations import checked, combined, spare_rows
from sparks_jax.concepts.clusters import seeds
from sparks_jax.concepts.dictionary import Factorization, canonical, unit
from sparks_jax.concepts.factorize import trace_error
from sparks_jax.linalg import product


def pursuit(atoms: Float[Array, "k d"], acts: Float[Array, "n d"], *, num_nonzero: int) -> Float[Array, "n k"]:
    r"""Few codes by orthogonal matching pursuit: one atom after another, all codes fitted again each time.

    $S \leftarrow S \cup \{\arg\max_k |\langle a - u D, d_k \rangle| / \|d_k\|\}$,
    $u_S = \arg\min \|a - u_S D_S\|^2$

    Differentiable where the choice of atoms stays the same: the last fit is.

    Cost: one product of activations and atoms, then `num_nonzero` products of `(n k)` and `(k k)` and as many small
    solves a row.

    Args:
        atoms: $D$.
        acts: $a$, one each row.
        num_nonzero: How many atoms a row has.

    Raises:
        ValueError: If there are fewer atoms, or none are asked for.

    Example:
        >>> print(pursuit(jnp.eye(3), jnp.array([[3.0, -4.0, 1.0]]), num_nonzero=2))
        [[ 3. -4.  0.]]

    Reference:
        Pati, Rezaiifar & Krishnaprasad 1993, Orthogonal matching pursuit.
    """
    k = len(atoms)
    if not 1 <= num_nonzero <= k:
        raise ValueError(f"pursuit: num_nonzero is {num_nonzero}, expected 1 to {k}: there are {k} atoms")
    norms = jnp.linalg.norm(atoms, axis=1)
    inverse = jnp.where(norms > 0, 1 / jnp.where(norms > 0, norms, 1), 0)
    gram, target = product(atoms, atoms.T), product(acts, atoms.T)

    def fit(target: Array, chosen: Array) -> Float[Array, " k"]:
        block = gram[chosen[:, None], chosen[None]]
        # Units of rounding keep atoms that are chosen though dependent from breaking the factorisation.
        ridge = len(chosen) * jnp.finfo(gram.dtype).eps * jnp.trace(block)
        factor = jax.scipy.linalg.cho_factor(block + ridge * jnp.eye(len(chosen), dtype=gram.dtype))
        solve = lambda rhs: jax.scipy.linalg.cho_solve(factor, rhs)
        x = solve(target[chosen])
        return jnp.zeros(k, gram.dtype).at[chosen].set(x + solve(target[chosen] - product(block, x)))

    chosen = jnp.zeros((len(acts), 0), int)
    codes = jnp.zeros_like(target)
    for _ in range(num_nonzero):
        match = lax.stop_gradient(jnp.abs(target - product(codes, gram)) * inverse[None])
        match = jax.vmap(lambda m, c: m.at[c].set(-1))(match, chosen)
        chosen = jnp.concatenate([chosen, match.argmax(axis=1)[:, None]], axis=1)
        codes = jax.vmap(fit)(target, chosen)
    return codes


def sparse_dictionary(
    acts: Float[Array, "n d"],
    rank: int,
    *,
    key: PRNGKeyArray,
    num_steps: int = 50,
    encoder: Callable[..., Array] | None = None,
    layer: str | None = None,
) -> Factorization:
    r"""A dictionary in which each row is a sum of few atoms, of either sign.

    $\min_{U, D} \tfrac12 \|A - U D\|_F^2$ with few codes a row, as `encoder` finds them, and then each atom in turn
    exactly, the others fixed: $d_k \leftarrow d_k + (U^\top A - U^\top U D)_k / \|u_k\|^2$, scaled to norm 1

    An atom that no row uses takes the direction of the row that is explained worst; one that stays unused is last, and
    its energy is 0. Pursuit chooses greedily, so that errors fall as a rule, not at every step.

    Cost: the encoder, and two products of the activations with `rank` vectors, a step.

    Args:
        acts: $A$, one row for each crop, position or token.
        rank: How many atoms; may exceed the channels.
        key: Draws the rows that the atoms start from, far apart.
        num_steps: Updates of both factors.
        encoder: `pursuit` or `lasso` with options bound, as `partial(lasso, l1=0.1)`; None: `pursuit` with 4 atoms a
            row, or `rank` if that is less.
        layer: Where the activations come from, for error messages.

    Raises:
        ValueError: If activations are not finite, all zero or no rows, or are fewer rows than `rank`.
        TypeError: If they are no floating-point numbers.

    Example:
        >>> import functools
        >>> acts = jnp.array([[3.0, 4.0], [6.0, 8.0], [0.0, 2.0], [0.0, -1.0]])
        >>> one = functools.partial(pursuit, num_nonzero=1)
        >>> fitted = sparse_dictionary(acts, 2, key=jax.random.key(0), encoder=one)
        >>> print(jnp.abs(fitted.dictionary.atoms.round(3)))
        [[0.6 0.8]
         [0.  1. ]]

    Reference:
        Mairal, Bach, Ponce & Sapiro 2009, Online dictionary learning for sparse coding.
    """
    acts = checked(acts, rank, "sparse_dictionary", layer=layer, most="n")
    encoder = encoder or functools.partial(pursuit, num_nonzero=min(4, rank))
    total, lengths = jnp.sum(acts**2), jnp.sum(acts**2, axis=1)

    def step(state: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], Array]:
        d, u = state
        gram, target = product(u.T, u), combined(u.T, acts)
        misfit = lengths + jnp.sum(u * (product(u, product(d, d.T)) - 2 * product(acts, d.T)), axis=1)
        dead = jnp.diag(gram) == 0
        d = jnp.where(dead[:, None], spare_rows(acts, misfit, dead), _in_ball(d, gram, target))
        # An atom within the ball grows to norm 1, which the encoder then makes up for by smaller codes.
        d = unit(d)
        u = encoder(d, acts)
        return (d, u), trace_error(total, combined(u.T, acts), product(u.T, u), d)

    d = unit(acts[seeds(acts, rank, key=key)])
    u = encoder(d, acts)
    first = trace_error(total, combined(u.T, acts), product(u.T, u), d)
    (d, u), errors = lax.scan(step, (d, u), length=num_steps)
    return canonical(u, d, jnp.append(first, errors), Partial(encoder))


def _in_ball(d: Array, gram: Array, target: Array) -> Float[Array, "k d"]:
    """Each atom in turn to its minimiser within norm 1, the others fixed: the objective is round in one atom."""

    def atom(k: Array, d: Array) -> Array:
        best = d[k] + (target[k] - product(gram[k], d)) / jnp.where(gram[k, k] > 0, gram[k, k], 1)
        return d.at[k].set(best / jnp.maximum(jnp.linalg.norm(best), 1))

    return lax.fori_loop(0, len(d), atom, d)
