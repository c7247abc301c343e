r"""From activations to codes, for a dictionary that is given: the rule each factorization codes new data by.

An encoder is a function `(atoms (k d), acts (n d)) -> codes (n k)`. Options are bound with `functools.partial`.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

_dot = functools.partial(jnp.matmul, precision="highest")


def nonnegative(
    atoms: Float[Array, "k d"],
    acts: Float[Array, "n d"],
    *,
    ridge: float | Float[Array, ""] = 0.0,
    l1: float | Float[Array, ""] = 0.0,
    num_steps: int = 1000,
) -> Float[Array, "n k"]:
    r"""Non-negative least squares of each row on the atoms, by coordinate descent on their Gram matrix.

    $u = \arg\min_{u \ge 0} \tfrac12 \|a - u D\|^2 + \tfrac\lambda2 \|u\|^2 + \mu \sum_k u_k$, and on
    $P = \{k : u_k > 0\}$, with $G = D D^\top + \lambda I$, $z_P = G_{PP}^{-1} v_P$ and $z_{\notin P} = 0$, the
    cotangent $v$ of $u$ becomes $\bar a = z D$ and $\bar D = \sum_n z^\top (a - u D) - u^\top (z D)$.

    Deterministic, and each row for itself: it stops where its codes move no more, whatever the other rows do. The
    derivatives are forward or reverse, of any order, and cost a solve of size k a row; none is taken through the loop.
    Where the atoms of P are dependent, the codes are some of many.

    Cost: one product of acts and atoms, then sweeps over arrays of `(k n)`.

    Args:
        atoms: $D$.
        acts: $a$, one each row.
        ridge: $\lambda$.
        l1: $\mu$.
        num_steps: At most so many sweeps.

    Example:
        >>> nonnegative(jnp.eye(2), jnp.array([[3.0, -1.0]])).tolist()
        [[3.0, 0.0]]

    Reference:
        Lee & Seung 1999, Learning the parts of objects by non-negative matrix factorization. Fel et al. 2023, CRAFT:
        concept recursive activation factorization for explainability, arXiv:2211.10154, appendix C.
    """
    gram = _dot(atoms, atoms.T) + ridge * jnp.eye(len(atoms), dtype=atoms.dtype)
    return _codes(num_steps, gram, _dot(atoms, acts.T) - l1).T


def sweep(x: Float[Array, "k n"], gram: Float[Array, "k k"], target: Float[Array, "k n"]) -> Float[Array, "k n"]:
    r"""One exact minimisation over each row of x in turn, the others fixed, of a quadratic over $x \ge 0$.

    $x_k \leftarrow \max(0, x_k + (t_k - G_k x) / G_{kk})$ for $\tfrac12 \langle x, G x \rangle - \langle t, x \rangle$

    The step of coordinate descent for codes, and of HALS for either factor. Where $G_{kk} = 0$, $x_k$ becomes 0.

    Args:
        x: Where it starts.
        gram: $G$.
        target: $t$.

    Example:
        >>> sweep(jnp.zeros((2, 1)), jnp.array([[1.0, 0.5], [0.5, 1.0]]), jnp.array([[1.0], [1.0]])).tolist()
        [[1.0], [0.5]]

    Reference:
        Cichocki & Phan 2009, Fast local algorithms for large scale nonnegative matrix and tensor factorizations.
    """

    def row(k: Array, x: Array) -> Array:
        slope = target[k] - _dot(gram[k], x)
        pivot = gram[k, k]
        return x.at[k].set(jnp.where(pivot > 0, jnp.maximum(x[k] + slope / jnp.where(pivot > 0, pivot, 1), 0), 0))

    return lax.fori_loop(0, len(gram), row, x)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _codes(num_steps: int, gram: Array, target: Array) -> Float[Array, "k n"]:
    """The minimiser over u >= 0 of u'Gu / 2 - t'u for each column t."""
    norms = jnp.sqrt(jnp.diag(gram))[:, None]
    inverse = jnp.where(norms > 0, 1 / jnp.where(norms > 0, norms, 1), 0)
    start = jnp.maximum(target, 0) * inverse**2
    # Codes times norms of atoms are lengths of activations; they are right to a few units of rounding of the longest.
    still = 4 * jnp.finfo(gram.dtype).eps * jnp.max(jnp.abs(target) * inverse, axis=0)

    def unfinished(state: tuple[Array, Array, Array]) -> Array:
        step, _, moving = state
        return (step < num_steps) & moving.any()

    def again(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        step, u, moving = state
        after = jnp.where(moving[None], sweep(u, gram, target), u)
        return step + 1, after, (jnp.abs(after - u) * norms).max(axis=0) > still

    return lax.while_loop(unfinished, again, (jnp.array(0), start, start.any(axis=0)))[1]


@_codes.defjvp
def _codes_jvp(num_steps: int, primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    (gram, target), (dgram, dtarget) = primals, tangents
    u = _codes(num_steps, gram, target)
    return u, jax.vmap(_solve_on, (1, None, 1), 1)(u > 0, gram, dtarget - _dot(dgram, u))


def _solve_on(face: Bool[Array, " k"], gram: Float[Array, "k k"], target: Float[Array, " k"]) -> Float[Array, " k"]:
    """The x that vanishes off the face and has G x = target on it; a ridge of rounding keeps dependent atoms finite."""
    diag = jnp.diag(gram)
    scale = jnp.where(face & (diag > 0), 1 / jnp.sqrt(jnp.where(diag > 0, diag, 1)), 0)
    block = gram * (scale[:, None] * scale[None])
    ridge = len(face) * jnp.finfo(gram.dtype).eps
    factor = jax.scipy.linalg.cho_factor(block + jnp.diag(jnp.where(scale > 0, ridge, 1)))
    x = jax.scipy.linalg.cho_solve(factor, scale * target)
    return scale * (x + jax.scipy.linalg.cho_solve(factor, scale * target - _dot(block, x)))
