"""Dense linear algebra for kernels and codes: orthogonalisation, operator norms, least squares, correlation.

Matrix products are at `precision="highest"`, because certificates rest on them. Batch with `jax.vmap`.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Inexact, PRNGKeyArray

product = functools.partial(jnp.matmul, precision="highest")


def gram_bound(kernel: Inexact[Array, "m n"], *, steps: int = 6) -> Float[Array, ""]:
    r"""An upper bound of the largest singular value, whatever the number of steps, by Gram iteration.

    $\sigma_1(K) \le \|G_t\|_F^{2^{-t}}$ with $G_0 = K$, $G_{t+1} = G_t^* G_t$

    This is the Schatten norm of order $2^{t+1}$: it decreases with every step and exceeds $\sigma_1$ by a
    factor of at most $\min(m, n)^{2^{-t-1}}$, 1.05 at 6 steps for 512 by 512. Each $G_t$ is divided by its
    norm, so that nothing overflows, and the result is raised by $\max(m, n)$ units of rounding, so that the
    arithmetic does not undo the inequality. Differentiable; complex kernels (frequencies) are welcome.

    Example:
        >>> gram_bound(jnp.diag(jnp.array([4.0, 3.0])), steps=0).round(4).item()  # the Frobenius norm
        5.0
        >>> gram_bound(jnp.diag(jnp.array([4.0, 3.0]))).round(4).item()
        4.0

    Reference:
        Delattre, Barthelemy, Araujo and Allauzen, 2023, Efficient bound of Lipschitz constant for
        convolutional layers by Gram iteration, arXiv:2305.16173.
    """
    scale = lax.stop_gradient(jnp.max(jnp.abs(kernel)))
    # A zero kernel goes through as ones, so that neither the bound 0 nor its derivative is 0 / 0.
    gram = jnp.where(scale > 0, kernel / jnp.where(scale > 0, scale, 1), 1)
    gram = gram if kernel.shape[0] >= kernel.shape[1] else gram.T
    bound = scale * (1 + max(kernel.shape) * jnp.finfo(kernel.dtype).eps)
    for step in range(steps + 1):
        gram = product(gram.conj().T, gram) if step else gram
        norm = jnp.sqrt(jnp.sum((gram * gram.conj()).real))
        bound = bound * norm**0.5**step
        gram = gram / norm
    return bound


def power_iteration(
    linear: Callable[[Array], Array],
    like: Array | jax.ShapeDtypeStruct,
    *,
    key: PRNGKeyArray,
    steps: int = 30,
) -> Float[Array, ""]:
    r"""The largest singular value of a linear map, approached from below.

    $\sigma = \|A v\|$ after $v \leftarrow A^\top A v / \|A^\top A v\|$

    The adjoint is JAX's transpose of the function itself, so a convolution keeps its padding, stride and
    groups. Each step shrinks the error by $(\sigma_2/\sigma_1)^2$. The derivative is that of $\|A v\|$ with
    $v$ held fixed, which is exact at convergence. `gram_bound` gives an upper bound.

    Args:
        linear: A linear function of one array, of any shape.
        like: An array, or `jax.ShapeDtypeStruct`, of the shape and dtype that `linear` takes.
        key: Key of the random start.
        steps: Applications of the map and of its adjoint.

    Example:
        >>> matrix = jnp.array([[3.0, 0.0], [4.0, 5.0]])
        >>> sigma = power_iteration(lambda v: matrix @ v, jnp.zeros(2), key=jax.random.key(0))
        >>> (sigma**2).round().item()
        45.0

    Reference:
        Miyato, Kataoka, Koyama and Yoshida, 2018, Spectral normalization for generative adversarial networks,
        arXiv:1802.05957.
    """
    adjoint = jax.linear_transpose(linear, like)

    def step(_: Array, v: Array) -> Array:
        (w,) = adjoint(linear(v))
        return w / jnp.maximum(jnp.linalg.norm(w.ravel()), jnp.finfo(w.dtype).tiny)

    start = jax.random.normal(key, like.shape, like.dtype)
    v = lax.stop_gradient(lax.fori_loop(0, steps, step, start / jnp.linalg.norm(start.ravel())))
    return jnp.linalg.norm(linear(v).ravel())


def bjorck(kernel: Float[Array, "m n"], *, steps: int = 15, order: int = 1) -> Float[Array, "m n"]:
    r"""Polar factor: the nearest matrix with orthonormal columns (rows, if there are fewer), by Björck's iteration.

    $W \leftarrow W \sum_{k=0}^p \binom{2k}{k} 4^{-k} (I - W^\top W)^k$

    The factor is a Taylor series of $(W^\top W)^{-1/2}$; at order 1 the step is
    $\frac32 W - \frac12 W W^\top W$. The start is divided by `gram_bound`, so that all singular values lie in
    $[0, 1]$, where each step raises them towards one and never beyond: stopping early costs orthogonality, not
    the Lipschitz constant 1. At order 1 a singular value grows by 1.5 a step until it nears one and then
    converges quadratically; relative to the largest, 0.1 takes 10 steps to $10^{-6}$, 0.01 takes 15, 0.001
    takes 21.

    Args:
        kernel: Any matrix of full rank.
        steps: 15 as in deel-lip; 3 to 5 are enough for a kernel that starts near the orthogonal matrices.
        order: Degree p of the series; the error is then raised to the power p + 1 in each step.

    Example:
        >>> bjorck(jnp.array([[3.0, -4.0], [4.0, 3.0]])).round(3)
        Array([[ 0.6, -0.8],
               [ 0.8,  0.6]], dtype=float32)

    Reference:
        Björck and Bowie, 1971, An iterative algorithm for computing the best estimate of an orthogonal
        matrix. Anil, Lucas and Grosse, 2019, Sorting out Lipschitz function approximation, arXiv:1811.05381.
    """
    if kernel.shape[0] < kernel.shape[1]:
        return bjorck(kernel.T, steps=steps, order=order).T
    bound = gram_bound(kernel)
    eye = jnp.eye(kernel.shape[1], dtype=kernel.dtype)

    def step(_: Array, w: Array) -> Array:
        gap = eye - product(w.T, w)
        series = _series(order) * eye
        for k in reversed(range(order)):
            series = _series(k) * eye + product(gap, series)
        return product(w, series)

    return lax.fori_loop(0, steps, step, kernel / jnp.where(bound > 0, bound, 1))


def _series(k: int) -> float:
    """Taylor coefficient of (1 - q)^(-1/2)."""
    return math.comb(2 * k, k) / 4**k


def inverse_sqrt(matrix: Float[Array, "n n"], *, steps: int = 20) -> Float[Array, "n n"]:
    r"""$A^{-1/2}$ of a symmetric positive definite matrix, by the coupled Newton-Schulz iteration.

    $T = \frac12 (3 I - Z Y), \quad Y \leftarrow Y T \to A^{1/2}, \quad Z \leftarrow T Z \to A^{-1/2}$

    starting from $Y = A$, $Z = I$ after a division by `gram_bound`. The smallest eigenvalue grows by $9/4$ a
    step until it nears one: a condition number of 1000 takes 13 steps.

    Example:
        >>> inverse_sqrt(jnp.diag(jnp.array([4.0, 16.0]))).round(4)
        Array([[0.5 , 0.  ],
               [0.  , 0.25]], dtype=float32)

    Reference:
        Higham, 2008, Functions of matrices: theory and computation, section 6.3.
    """
    eye = jnp.eye(matrix.shape[0], dtype=matrix.dtype)
    bound = gram_bound(matrix)

    def step(_: Array, pair: tuple[Array, Array]) -> tuple[Array, Array]:
        y, z = pair
        t = 1.5 * eye - 0.5 * product(z, y)
        return product(y, t), product(t, z)

    _, z = lax.fori_loop(0, steps, step, (matrix / bound, eye))
    return z / jnp.sqrt(bound)


def nnls(a: Float[Array, "m k"], b: Float[Array, " m"], *, steps: int = 100) -> Float[Array, " k"]:
    r"""Non-negative least squares to the precision of the arithmetic, with exact derivatives in both arguments.

    $x = \arg\min_{x \ge 0} \tfrac12 \|A x - b\|^2$, and on $P = \{i : x_i > 0\}$

    $dx_P = (A_P^\top A_P)^{-1} \left[ A^\top (db - dA\, x) + dA^\top (b - A x) \right]_P$

    Block principal pivoting guesses $P$, solves on it, and exchanges the indices where $x$ or the gradient
    has the wrong sign: a handful of solves of size k, whatever the conditioning. Derivatives are forward or
    reverse, of any order. Where the columns of $A_P$ are dependent, the solution is one of many.

    Args:
        a: One column for each unknown.
        b: What the columns are to add up to.
        steps: At most so many exchanges; the loop ends as soon as all signs are right.

    Example:
        >>> nnls(jnp.array([[1.0, 1.0], [0.0, 1.0]]), jnp.array([2.0, -1.0]))
        Array([2., 0.], dtype=float32)

    Reference:
        Lawson and Hanson, 1974, Solving least squares problems. Kim and Park, 2011, Fast nonnegative matrix
        factorization: an active-set-like method and comparisons.
    """
    return _nnls(steps, a, b)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _nnls(steps: int, a: Array, b: Array) -> Array:
    size = a.shape[1]
    # The same minimiser in k rows instead of m: ||A x - b||^2 = ||R x - Q'b||^2 + constant.
    q, r = jnp.linalg.qr(a)
    c = product(q.T, b)
    # Rounding in the gradient of the objective, for each column.
    noise = 10 * jnp.finfo(a.dtype).eps * jnp.linalg.norm(b) * jnp.linalg.norm(r, axis=0)

    def solve(passive: Array) -> Array:
        return _solve_on(passive, r, c, jnp.zeros(size, a.dtype))

    def wrong_signs(passive: Array) -> Array:
        x = solve(passive)
        return jnp.where(passive, x < 0, product(r.T, c - product(r, x)) > noise)

    def unfinished(state: Any) -> Array:
        step, _, wrong, _, _ = state
        return (step < steps) & wrong.any()

    def exchange(state: Any) -> Any:
        # All of them while that makes them fewer, with three exchanges of patience; then only the last one, a rule
        # that cannot cycle (Murty, 1974), until they are fewer again.
        step, passive, wrong, fewest, patience = state
        count = wrong.sum()
        patience = jnp.where(count < fewest, 3, patience - 1)
        last = jnp.max(jnp.where(wrong, jnp.arange(size), -1))
        passive ^= wrong & ((patience >= 0) | (jnp.arange(size) == last))
        return step + 1, passive, wrong_signs(passive), jnp.minimum(count, fewest), patience

    nothing = jnp.zeros(size, bool)
    start = (0, nothing, wrong_signs(nothing), size + 1, 3)
    _, passive, _, _, _ = lax.while_loop(unfinished, exchange, start)
    return jnp.maximum(solve(passive), 0)


@_nnls.defjvp
def _nnls_jvp(steps: int, primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    (a, b), (da, db) = primals, tangents
    x = _nnls(steps, a, b)
    return x, _solve_on(x > 0, a, db - product(da, x), product(da.T, b - product(a, x)))


def _solve_on(face: Bool[Array, " k"], a: Array, target: Array, extra: Array) -> Float[Array, " k"]:
    """The x that vanishes off the face and has A'A x = A' target + extra on it.

    Columns are scaled to norm 1. A ridge keeps dependent ones from breaking the factorisation, and one step
    of refinement with the residual of the rectangular system takes its effect away, and the error from
    cond(A)^2 units of rounding to cond(A).
    """
    gram = product(a.T, a)
    norms = jnp.sqrt(jnp.diag(gram))
    scale = jnp.where(face & (norms > 0), 1 / jnp.where(norms > 0, norms, 1), 0)
    eye = jnp.eye(len(face), dtype=a.dtype)
    ridge = len(face) * jnp.finfo(a.dtype).eps
    block = gram * (scale[:, None] * scale[None]) + eye * jnp.where(scale > 0, ridge, 1)[None]
    factor = jax.scipy.linalg.cho_factor(block)
    solve = lambda rhs: scale * jax.scipy.linalg.cho_solve(factor, scale * rhs)
    x = solve(product(a.T, target) + extra)
    return x + solve(product(a.T, target - product(a, x)) + extra)


def pearson(a: Float[Array, "..."], b: Float[Array, "..."]) -> Float[Array, ""]:
    r"""Linear correlation of two arrays of one shape.

    $\rho = \langle a - \bar a, b - \bar b \rangle \,/\, \|a - \bar a\| \|b - \bar b\| \in [-1, 1]$

    A constant array is correlated with nothing: 0; so is one that varies by no more than rounding does.

    Example:
        >>> a = jnp.array([1.0, 2.0, 3.0, 4.0])
        >>> [round(pearson(a, b).item(), 4) for b in (2 * a + 1, a**2, -a, jnp.ones(4))]
        [1.0, 0.9844, -1.0, 0.0]

    Reference:
        Rodgers & Nicewander 1988, Thirteen ways to look at the correlation coefficient.
    """
    (u, varies), (v, also_varies) = _unit(a), _unit(b)
    return jnp.where(varies & also_varies, jnp.clip((u * v).sum(), -1, 1), 0)


def _unit(a: Float[Array, "..."]) -> tuple[Float[Array, "..."], Bool[Array, ""]]:
    """Centred and of norm 1, in at least float32; and whether it varies: by more than the rounding of its values."""
    a = a.astype(jnp.promote_types(a.dtype, jnp.float32))
    rounding = 4 * jnp.finfo(a.dtype).eps * lax.stop_gradient(jnp.abs(a).max())
    a = a - a.mean()
    spread = lax.stop_gradient(jnp.abs(a).max())
    varies = spread > rounding
    a = a / jnp.where(varies, spread, 1)  # so that squares of small numbers do not vanish
    square = jnp.square(a).sum()
    return a / jnp.sqrt(jnp.where(varies, square, 1)), varies
