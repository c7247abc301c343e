r"""From activations to codes: what minimises $\|a - u D\|^2$ over non-negative codes, few codes, or mixtures.

An encoder is a function `(atoms (k d), acts (n d)) -> codes (n k)`; options are bound with `functools.partial`. Loops
run on the Gram matrix and on codes, never on activations. Derivatives are those of the minimiser, in closed form on
the codes that are not zero: forward or reverse, of any order, at the price of a solve of size k a row, and none of
them goes through the loop. Codes are deterministic, and each row stops for itself, whatever the other rows do.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from sparks_jax.concepts.activations import inner
from sparks_jax.linalg import product

Scalar = float | Float[Array, ""]


def nonnegative(
    atoms: Float[Array, "k d"],
    acts: Float[Array, "n d"],
    *,
    ridge: Scalar = 0.0,
    l1: Scalar = 0.0,
    num_steps: int = 1000,
) -> Float[Array, "n k"]:
    r"""Non-negative least squares of each row on the atoms, by coordinate descent.

    $u = \arg\min_{u \ge 0} \tfrac12 \|a - u D\|^2 + \tfrac\lambda2 \|u\|^2 + \mu \sum_k u_k$, and on
    $P = \{k : u_k > 0\}$, with $G = D D^\top + \lambda I$, $z_P = G_{PP}^{-1} v_P$ and $z_{\notin P} = 0$, the
    cotangent $v$ of $u$ becomes $\bar a = z D$ and $\bar D = \sum_n z^\top (a - u D) - u^\top (z D)$.

    Where the atoms of P are dependent, the codes are some of many. Rows that `num_steps` sweeps do not bring to the
    precision of the arithmetic, as where atoms are nearly parallel, are as far as they came.

    Cost: one product of activations and atoms, then sweeps over arrays of `(k n)`.

    Args:
        atoms: $D$.
        acts: $a$, one each row.
        ridge: $\lambda$.
        l1: $\mu$.
        num_steps: At most so many sweeps over the concepts.

    Example:
        >>> nonnegative(jnp.eye(2), jnp.array([[3.0, -1.0]])).tolist()
        [[3.0, 0.0]]

    Reference:
        Lee & Seung 1999, Learning the parts of objects by non-negative matrix factorization. Fel et al. 2023, CRAFT:
        concept recursive activation factorization for explainability, arXiv:2211.10154, appendix C.
    """
    gram = product(atoms, atoms.T) + ridge * jnp.eye(len(atoms), dtype=atoms.dtype)
    return _codes(positive_part, num_steps, gram, inner(atoms, acts), jnp.asarray(l1, gram.dtype)).T


def lasso(
    atoms: Float[Array, "k d"], acts: Float[Array, "n d"], *, l1: Scalar, num_steps: int = 1000
) -> Float[Array, "n k"]:
    r"""Few codes of either sign: the lasso of each row on the atoms, by coordinate descent.

    $u = \arg\min_u \tfrac12 \|a - u D\|^2 + \mu \sum_k |u_k|$, and on $P = \{k : u_k \ne 0\}$, with $u$ held fixed,
    $du_P = G_{PP}^{-1} d(a D^\top - \mu\, \mathrm{sign}\, u - u\, G)_P$

    Cost: one product of activations and atoms, then sweeps over arrays of `(k n)`.

    Args:
        atoms: $D$.
        acts: $a$, one each row.
        l1: $\mu$, in units of activations: rows with $|a D^\top| \le \mu$ everywhere get no codes.
        num_steps: At most so many sweeps over the concepts.

    Example:
        >>> lasso(jnp.eye(3), jnp.array([[3.0, -2.0, 0.5]]), l1=1.0).tolist()
        [[2.0, -1.0, 0.0]]

    Reference:
        Tibshirani 1996, Regression shrinkage and selection via the lasso. Friedman, Hastie & Tibshirani 2010,
        Regularization paths for generalized linear models via coordinate descent.
    """
    gram = product(atoms, atoms.T)
    return _codes(soft_threshold, num_steps, gram, inner(atoms, acts), jnp.asarray(l1, gram.dtype)).T


def positive_part(x: Array, threshold: Array | float) -> Array:
    r"""What minimises a parabola with apex x, plus a slope, over the half-line.

    $\max(0, x - t)$

    Args:
        x: Apex.
        threshold: $t$, slope over curvature.

    Example:
        >>> positive_part(jnp.array([3.0, -3.0]), 1.0).tolist()
        [2.0, 0.0]

    Reference:
        Lee & Seung 1999, Learning the parts of objects by non-negative matrix factorization.
    """
    return jnp.maximum(x - threshold, 0)


def soft_threshold(x: Array, threshold: Array | float) -> Array:
    r"""What minimises a parabola with apex x, plus a multiple of the modulus.

    $\mathrm{sign}(x) \max(0, |x| - t)$

    Args:
        x: Apex.
        threshold: $t$, slope over curvature.

    Example:
        >>> soft_threshold(jnp.array([3.0, -3.0, 0.5]), 1.0).tolist()
        [2.0, -2.0, 0.0]

    Reference:
        Tibshirani 1996, Regression shrinkage and selection via the lasso.
    """
    return jnp.sign(x) * jnp.maximum(jnp.abs(x) - threshold, 0)


def sweep(
    x: Float[Array, "k n"],
    gram: Float[Array, "k k"],
    target: Float[Array, "k n"],
    shrink: Callable[[Array, Array], Array] = positive_part,
    l1: Scalar = 0.0,
) -> Float[Array, "k n"]:
    r"""One exact minimisation over each row of x in turn, the others fixed.

    $x_k \leftarrow S(x_k + (t_k - G_k x) / G_{kk},\; \mu / G_{kk})$, which lowers
    $\tfrac12 \langle x, G x \rangle - \langle t, x \rangle + \mu \|x\|_1$

    The step of coordinate descent for codes, and of HALS for either factor. Where $G_{kk} = 0$, $x_k$ becomes 0.

    Args:
        x: Where it starts.
        gram: $G$.
        target: $t$.
        shrink: $S$: `positive_part` for $x \ge 0$, `soft_threshold` for either sign.
        l1: $\mu$.

    Example:
        >>> sweep(jnp.zeros((2, 1)), jnp.array([[1.0, 0.5], [0.5, 1.0]]), jnp.array([[1.0], [1.0]])).tolist()
        [[1.0], [0.5]]

    Reference:
        Cichocki & Phan 2009, Fast local algorithms for large scale nonnegative matrix and tensor factorizations.
    """
    diag = jnp.diag(gram)
    inverse = jnp.where(diag > 0, 1 / jnp.where(diag > 0, diag, 1), 0)

    def row(k: Array, x: Array) -> Array:
        apex = x[k] + (target[k] - product(gram[k], x)) * inverse[k]
        return x.at[k].set(jnp.where(diag[k] > 0, shrink(apex, l1 * inverse[k]), 0))

    return lax.fori_loop(0, len(gram), row, x)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _codes(shrink: Callable[..., Array], num_steps: int, gram: Array, target: Array, l1: Array) -> Float[Array, "k n"]:
    """The minimiser of u'Gu / 2 - t'u + l1 |u| for each column t, over what `shrink` allows."""
    norms = jnp.sqrt(jnp.diag(gram))[:, None]
    inverse = jnp.where(norms > 0, 1 / jnp.where(norms > 0, norms, 1), 0)
    start = shrink(target * inverse**2, l1 * inverse**2)
    # Codes times norms of atoms are lengths of activations; they are right to some units of rounding of the longest.
    still = 4 * jnp.finfo(gram.dtype).eps * jnp.max(jnp.abs(target) * inverse, axis=0)

    def unfinished(state: tuple[Array, Array, Array]) -> Array:
        step, _, moving = state
        return (step < num_steps) & moving.any()

    def again(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        step, u, moving = state
        after = jnp.where(moving[None], sweep(u, gram, target, shrink, l1), u)
        return step + 1, after, (jnp.abs(after - u) * norms).max(axis=0) > still

    return lax.while_loop(unfinished, again, (jnp.array(0), start, (start != 0).any(axis=0)))[1]


@_codes.defjvp
def _codes_jvp(
    shrink: Callable[..., Array], num_steps: int, primals: tuple[Array, ...], tangents: tuple[Array, ...]
) -> tuple[Array, Array]:
    (gram, target, l1), (dgram, dtarget, dl1) = primals, tangents
    u = _codes(shrink, num_steps, gram, target, l1)
    # On the face G u = t - l1 sign(u), and it stays the face nearby.
    return u, _solve_columns(u != 0, gram, dtarget - dl1 * jnp.sign(u) - product(dgram, u))


def solve_on(face: Bool[Array, " k"], gram: Float[Array, "k k"], target: Float[Array, "k *n"]) -> Float[Array, "k *n"]:
    r"""The x that vanishes off a face and solves the equations on it.

    $G_{PP} x_P = t_P$, $x_{\notin P} = 0$

    Atoms are scaled to norm 1. Units of rounding are added to the diagonal, which keeps dependent atoms finite, and one
    step of refinement takes their effect away.

    Args:
        face: Which k are in $P$.
        gram: $G$, symmetric and positive semidefinite.
        target: $t$, one `(k)` or more `(k n)`.

    Example:
        >>> solve_on(jnp.array([True, False]), jnp.array([[2.0, 1.0], [1.0, 2.0]]), jnp.array([4.0, 9.0])).tolist()
        [2.0, 0.0]

    Reference:
        Lawson & Hanson 1974, Solving least squares problems.
    """
    diag = jnp.diag(gram)
    scale = jnp.where(face & (diag > 0), lax.rsqrt(jnp.where(diag > 0, diag, 1)), 0)
    block = gram * (scale[:, None] * scale[None])
    ridge = len(face) * jnp.finfo(gram.dtype).eps
    factor = jax.scipy.linalg.cho_factor(block + jnp.diag(jnp.where(scale > 0, ridge, 1)))
    solve = lambda rhs: jax.scipy.linalg.cho_solve(factor, rhs)
    scale = scale.reshape(-1, *(1,) * (target.ndim - 1))
    x = solve(scale * target)
    return scale * (x + solve(scale * target - product(block, x)))


def _solve_columns(face: Bool[Array, "k n"], gram: Array, target: Float[Array, "k n"]) -> Float[Array, "k n"]:
    return jax.vmap(solve_on, (1, None, 1), 1)(face, gram, target)
