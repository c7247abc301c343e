r"""Activations as sums of parts, $A \approx U D$ with codes $U \ge 0$: NMF, its variants, semi-NMF.

All are pure functions of `(n d)` activations and a key, computed in float32 at least. The outcome is canonical: atoms
of norm 1, concepts by falling energy. Rows of zeros are padding and change nothing, so that classes with unequal
numbers of rows are padded to one shape and mapped with `jax.vmap`.
"""

import functools
from collections.abc import Callable

import jax.numpy as jnp
from jax import lax
from jax.tree_util import Partial
from jaxtyping import Array, Float, PRNGKeyArray

from sparks_jax.concepts.activations import checked, combined, inner, row_sums
from sparks_jax.concepts.dictionary import Factorization, canonical, unit
from sparks_jax.concepts.encoders import nonnegative, sweep
from sparks_jax.concepts.svd import nndsvda, randomized_svd
from sparks_jax.linalg import product

# (x, G, t) -> x that lowers <x, G x> / 2 - <t, x>: how one factor, one row for each concept, is updated.
Update = Callable[[Float[Array, "k n"], Float[Array, "k k"], Float[Array, "k n"]], Float[Array, "k n"]]


def nmf(
    acts: Float[Array, "n d"],
    rank: int,
    *,
    key: PRNGKeyArray,
    num_steps: int = 25,
    num_sweeps: int = 4,
    layer: str | None = None,
) -> Factorization:
    r"""Non-negative matrix factorization by hierarchical alternating least squares.

    $\min_{U \ge 0, D \ge 0} \tfrac12 \|A - U D\|_F^2$, each column of $U$ and row of $D$ in turn exactly, the others
    fixed: $u_k \leftarrow \max(0, u_k + (A d_k - U D d_k) / \|d_k\|^2)$

    Updates are extrapolated, and those that would raise the error are not taken. No penalty is added. An atom that no
    row uses takes the direction of the row that is explained worst; one that stays unused is last, with energy 0.

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
        local algorithms for large scale nonnegative matrix and tensor factorizations. Ang & Gillis 2019, Accelerating
        nonnegative matrix factorization algorithms using extrapolation.
    """
    acts = checked(acts, rank, "nmf", layer=layer, nonnegative=True)
    update = functools.partial(_sweeps, num_sweeps)
    return _alternate(acts, *nndsvda(acts, rank, key=key), update, update, num_steps)


def nmf_mu(
    acts: Float[Array, "n d"], rank: int, *, key: PRNGKeyArray, num_steps: int = 200, layer: str | None = None
) -> Factorization:
    r"""Non-negative matrix factorization by multiplicative updates.

    $U \leftarrow U \odot A D^\top / (U D D^\top)$, $D \leftarrow D \odot U^\top A / (U^\top U D)$

    Nothing but products and a ratio, for hundreds of concepts on an accelerator; the error never rises, and falls more
    slowly than with `nmf` near the end.

    Cost: two products of the activations with `rank` vectors a step.

    Args:
        acts: $A \ge 0$, one row for each crop, position or token.
        rank: How many concepts.
        key: Draws the random vectors of the start (NNDSVDa).
        num_steps: Updates of both factors.
        layer: Where the activations come from, for error messages.

    Raises:
        ValueError: As `nmf`.
        TypeError: As `nmf`.

    Example:
        >>> acts = jnp.array([[2.0, 0.0, 0.0], [0.0, 3.0, 4.0], [2.0, 3.0, 4.0]])
        >>> print(jnp.abs(nmf_mu(acts, 2, key=jax.random.key(0)).dictionary.atoms.round(1)))
        [[0.  0.6 0.8]
         [1.  0.  0. ]]

    Reference:
        Lee & Seung 2001, Algorithms for non-negative matrix factorization.
    """
    acts = checked(acts, rank, "nmf_mu", layer=layer, nonnegative=True)
    return _alternate(acts, *nndsvda(acts, rank, key=key), _multiply, _multiply, num_steps, accelerated=False)


def semi_nmf(
    acts: Float[Array, "n d"],
    rank: int,
    *,
    key: PRNGKeyArray,
    num_steps: int = 50,
    num_sweeps: int = 4,
    layer: str | None = None,
) -> Factorization:
    r"""Semi-NMF: non-negative codes on atoms of either sign, for activations of either sign.

    $\min_{U \ge 0} \tfrac12 \|A - U D\|_F^2$: $D \leftarrow (U^\top U)^{-1} U^\top A$, then the columns of $U$ in turn

    The error never rises. It starts from the positive or the negative parts of singular vectors, whichever are heavier.

    Cost: two products of the activations with `rank` vectors a step.

    Args:
        acts: $A$, one row for each crop, position or token.
        rank: How many concepts.
        key: Draws the random vectors of the start.
        num_steps: Updates of both factors.
        num_sweeps: Passes over the concepts in an update of the codes.
        layer: Where the activations come from, for error messages.

    Raises:
        ValueError: If activations are not finite, all zero or no rows, or hold fewer than `rank` concepts.
        TypeError: If they are no floating-point numbers.

    Example:
        >>> acts = jnp.array([[3.0, -4.0], [0.0, 2.0], [3.0, 2.0]])
        >>> fitted = semi_nmf(acts, 2, key=jax.random.key(0))
        >>> (fitted.codes >= 0).all().item(), (fitted.dictionary.atoms < 0).any().item()
        (True, True)

    Reference:
        Ding, Li & Jordan 2010, Convex and semi-nonnegative matrix factorizations.
    """
    acts = checked(acts, rank, "semi_nmf", layer=layer)
    u, _, _ = randomized_svd(acts, rank, key=key)
    heavier = jnp.sum(jnp.maximum(u, 0) ** 2, axis=0) >= jnp.sum(jnp.minimum(u, 0) ** 2, axis=0)
    u = jnp.maximum(jnp.where(heavier[None], u, -u), 0)
    d = _least_squares(jnp.zeros((rank, acts.shape[1]), acts.dtype), product(u.T, u), combined(u.T, acts))
    update = functools.partial(_sweeps, num_sweeps)
    return _alternate(acts, u, d, update, _least_squares, num_steps)


def _sweeps(num_sweeps: int, x: Array, gram: Array, target: Array) -> Float[Array, "k n"]:
    return lax.fori_loop(0, num_sweeps, lambda _, x: sweep(x, gram, target), x)


def _multiply(x: Array, gram: Array, target: Array) -> Float[Array, "k n"]:
    below = product(gram, x)
    return jnp.where(below > 0, x * target / jnp.where(below > 0, below, 1), 0)


def _least_squares(x: Array, gram: Array, target: Array) -> Float[Array, "k n"]:
    """Of the atoms that fit best the nearest to x: what dependent codes do not determine stays as it was.

    A Cholesky factor would be NaN where rounding makes the Gram matrix of dependent codes indefinite; eigenvalues of
    that size are left out. An atom without codes is 0.
    """
    diag = jnp.diag(gram)
    scale = jnp.where(diag > 0, lax.rsqrt(jnp.where(diag > 0, diag, 1)), 0)
    values, vectors = jnp.linalg.eigh(gram * (scale[:, None] * scale[None]))
    told = values > 8 * len(gram) * jnp.finfo(gram.dtype).eps * values[-1]
    inverse = jnp.where(told, 1 / jnp.where(told, values, 1), 0)
    x = jnp.where(diag[:, None] > 0, x, 0)
    missing = product(vectors.T, scale[:, None] * (target - product(gram, x)))
    return x + scale[:, None] * product(vectors, inverse[:, None] * missing)


def _alternate(
    acts: Array,
    codes: Array,
    atoms: Array,
    update_codes: Update,
    update_atoms: Update,
    num_steps: int,
    *,
    accelerated: bool = True,
) -> Factorization:
    """Codes given the atoms, atoms given the codes, and again; the error of each pair.

    Accelerated, an update starts ahead of the last one by Nesterov's share of their difference (Ang & Gillis 2019); one
    that raises the objective is not taken, and the next has no lead, so that it cannot. Whether it does is told by sums
    of changes: rounding would hide them in a difference of errors.
    """
    lengths = row_sums(acts**2)
    total = lengths.sum()
    # Of <x, G x> / 2 - <t, x> from one x to another.
    change = lambda gram, target, old, new: jnp.vdot(product(gram, (old + new) / 2) - target, new - old)

    def step(state: tuple[Array, ...], _: None) -> tuple[tuple[Array, ...], Array]:
        u, d, d_before, target_before, t, square = state
        t_next = (1 + jnp.sqrt(1 + 4 * t**2)) / 2
        lead = (t - 1) / t_next if accelerated else jnp.zeros_like(t)
        target = inner(d, acts)
        ahead, target_ahead = d + lead * (d - d_before), target + lead * (target - target_before)
        u_new = update_codes(u, product(ahead, ahead.T), target_ahead)
        u_new = jnp.maximum(u_new + lead * (u_new - u), 0)
        gram, mixture = product(u_new, u_new.T), combined(u_new, acts)
        d_new = update_atoms(ahead, gram, mixture)
        rise = change(product(d, d.T), target, u, u_new) + change(gram, mixture, d, d_new)
        fine = (rise <= 0) | (lead == 0)
        square = square + jnp.where(fine, 2 * rise, 0)
        misfit = lengths + jnp.sum(u_new * (product(product(d, d.T), u_new) - 2 * target), axis=0)
        u_new, d_new = _revived(u_new, d_new, misfit, acts)
        kept = jnp.where(fine, u_new, u), jnp.where(fine, d_new, d)
        return (*kept, d, target, jnp.where(fine, t_next, 1), square), square

    u, d = codes.T, atoms
    first = trace_error(total, combined(u, acts), product(u, u.T), d) ** 2 * total
    state = (u, d, d, jnp.zeros_like(u), jnp.ones((), acts.dtype), first)
    (u, d, *_), squares = lax.scan(step, state, length=num_steps)
    errors = jnp.sqrt(jnp.maximum(jnp.append(first, squares), 0) / jnp.where(total > 0, total, 1))
    return canonical(u.T, d, errors, Partial(nonnegative))


def _revived(u: Array, d: Array, misfit: Float[Array, " n"], acts: Array) -> tuple[Array, Array]:
    """An atom of zeros, one a step, takes the direction of the row explained worst; without codes: no error rises."""
    dead = ~(d != 0).any(axis=1)
    first = (dead & (jnp.cumsum(dead) == 1))[:, None]
    return jnp.where(dead[:, None], 0, u), jnp.where(first, unit(acts[misfit.argmax()][None]), d)


def trace_error(
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
        >>> print(trace_error(jnp.sum(acts**2), u.T @ acts, u.T @ u, d).round(4))  # half of the energy is missing
        0.7071

    Reference:
        Cichocki & Phan 2009, Fast local algorithms for large scale nonnegative matrix and tensor factorizations.
    """
    rest = total - 2 * jnp.vdot(target, atoms) + jnp.vdot(gram, product(atoms, atoms.T))
    return jnp.sqrt(jnp.maximum(rest, 0) / jnp.where(total > 0, total, 1))
