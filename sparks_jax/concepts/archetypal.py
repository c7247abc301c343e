r"""Concepts made of the data, $D = W A$ with weights $W \ge 0$: convex NMF, and archetypes with mixtures as codes.

Projected gradients with exact line searches. A step of length t along P, from one feasible point towards another,
changes the objective by $t \langle \Gamma, P \rangle + \tfrac{t^2}2 \langle P, H P \rangle$, which is least at
$t = -\langle \Gamma, P \rangle / \langle P, H P \rangle$, or at 1 if that is beyond; so it never rises. The curvature
met in one step, $\langle P, H P \rangle / \|P\|^2$, is the inverse length of the next gradient (Birgin, Martínez &
Raydan 2000, Nonmonotone spectral projected gradient methods on convex sets).
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jax.tree_util import Partial
from jaxtyping import Array, Float, PRNGKeyArray

from sparks_jax.concepts.activations import checked, combined, inner, present
from sparks_jax.concepts.clusters import seeds
from sparks_jax.concepts.dictionary import Factorization, canonical, ordered
from sparks_jax.concepts.encoders import nonnegative, solve_on, sweep
from sparks_jax.concepts.factorize import trace_error
from sparks_jax.linalg import product


def convex_nmf(
    acts: Float[Array, "n d"], rank: int, *, key: PRNGKeyArray, num_steps: int = 100, layer: str | None = None
) -> Factorization:
    r"""Convex NMF: atoms are non-negative combinations of rows, and so are approximations of atoms.

    $\min_{U \ge 0, W \ge 0} \tfrac12 \|A - U W A\|_F^2$, $D = W A$

    Activations may have either sign: atoms stay among them. The error never rises. Nothing of size `(n n)` is made.

    Cost: four products of the activations with `rank` vectors a step.

    Args:
        acts: $A$, one row for each crop, position or token.
        rank: How many concepts.
        key: Draws the rows that the atoms start from, far apart.
        num_steps: Updates of both factors.
        layer: Where the activations come from, for error messages.

    Raises:
        ValueError: If activations are not finite, all zero or no rows, or hold fewer than `rank` concepts.
        TypeError: If they are no floating-point numbers.

    Example:
        >>> acts = jnp.array([[2.0, 0.0], [0.0, -3.0], [2.0, -3.0]])
        >>> print(jnp.abs(convex_nmf(acts, 2, key=jax.random.key(0)).dictionary.atoms.round(1)))
        [[0. 1.]
         [1. 0.]]

    Reference:
        Ding, Li & Jordan 2010, Convex and semi-nonnegative matrix factorizations.
    """
    acts = checked(acts, rank, "convex_nmf", layer=layer)
    u = jnp.zeros((rank, len(acts)), acts.dtype)
    update = lambda u, gram, target: lax.fori_loop(0, 4, lambda _, u: sweep(u, gram, target), u)
    u, d, errors = _alternate(acts, rank, u, update, lambda w: jnp.maximum(w, 0), num_steps, key)
    return canonical(u.T, d, errors, Partial(nonnegative))


def archetypal(
    acts: Float[Array, "n d"], rank: int, *, key: PRNGKeyArray, num_steps: int = 200, layer: str | None = None
) -> Factorization:
    r"""Archetypal analysis: atoms are mixtures of rows, and rows are explained as mixtures of atoms.

    $\min \tfrac12 \|A - U W A\|_F^2$ with rows of $U$ and of $W$ in the simplex: $\ge 0$, of sum 1

    Atoms, the archetypes $D = W A$, lie in the convex hull of the rows and move to its extremes. They are not scaled to
    norm 1, which would unmake the mixtures. The projections are Euclidean, so that vertices (one row alone) are
    reached. The error never rises. Rows of zeros are padding, not archetypes, and get codes of zero.

    Cost: four products of the activations with `rank` vectors a step, and `rank` sorts of n numbers.

    Args:
        acts: $A$, one row for each crop, position or token.
        rank: How many archetypes; may exceed the channels.
        key: Draws the rows that the archetypes start from, far apart.
        num_steps: Updates of both factors.
        layer: Where the activations come from, for error messages.

    Raises:
        ValueError: If activations are not finite, all zero or no rows, or are fewer rows than `rank`.
        TypeError: If they are no floating-point numbers.

    Example:
        >>> acts = jnp.array([[1.0, 1.0], [5.0, 1.0], [1.0, 4.0], [2.0, 2.0], [3.0, 2.0]])
        >>> print(archetypal(acts, 3, key=jax.random.key(0)).dictionary.atoms.sum(axis=1).round(2))
        [6. 5. 2.]

    Reference:
        Cutler & Breiman 1994, Archetypal analysis. Mørup & Hansen 2012, Archetypal analysis for machine learning and
        data mining.
    """
    acts = checked(acts, rank, "archetypal", layer=layer, most="n")
    rows = present(acts)
    u = jnp.where(rows[None], jnp.ones((rank, 1), acts.dtype) / rank, 0)
    update = lambda u, gram, target: _mix(u, gram, target, num_steps=10) * rows[None]
    project = lambda w: project_simplex(jnp.where(rows[None], w, -jnp.inf))
    u, d, errors = _alternate(acts, rank, u, update, project, num_steps, key)
    return ordered(u.T, d, errors, Partial(mixture))


def mixture(atoms: Float[Array, "k d"], acts: Float[Array, "n d"], *, num_steps: int = 1000) -> Float[Array, "n k"]:
    r"""Codes that are mixtures: the point of the convex hull of the atoms nearest to each row.

    $u = \arg\min_u \|a - u D\|^2$ with $u \ge 0$, $\sum_k u_k = 1$, and on $P = \{k : u_k > 0\}$
    $du_P = x - y \frac{1^\top x}{1^\top y}$, with $x = G_{PP}^{-1} d(a D^\top - u\, G)_P$ ($u$ held fixed) and
    $y = G_{PP}^{-1} 1$

    Deterministic. Derivatives are forward or reverse, of any order, and do not go through the loop.

    Cost: one product of activations and atoms, then loops over arrays of `(k n)`.

    Args:
        atoms: $D$.
        acts: $a$, one each row.
        num_steps: At most so many projected gradients.

    Example:
        >>> atoms = jnp.array([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0]])
        >>> print(mixture(atoms, jnp.array([[1.0, -3.0], [5.0, 0.5]])).round(3))
        [[0.5 0.5 0. ]
         [0.  1.  0. ]]

    Reference:
        Cutler & Breiman 1994, Archetypal analysis.
    """
    # The codes do not change when atoms and activations are moved together: moved to the mean, they lose no digits.
    centre = lax.stop_gradient(atoms.mean(axis=0))[None]
    atoms, acts = atoms - centre, acts - centre
    return _mixtures(num_steps, product(atoms, atoms.T), inner(atoms, acts)).T


def project_simplex(x: Float[Array, "... k"]) -> Float[Array, "... k"]:
    r"""The nearest point of the probability simplex, in Euclidean distance, along the last axis.

    $\max(0, x - \theta)$, with $\theta$ such that it sums to 1

    By Michelot's steps: $\theta$ from the mean of the entries above it, which only become fewer. Vertices are reached.
    Entries of $-\infty$ stay out.

    Args:
        x: Any numbers, of which one is finite.

    Example:
        >>> project_simplex(jnp.array([0.75, 0.75, -1.0])).tolist(), project_simplex(jnp.array([3.0, 1.0])).tolist()
        ([0.5, 0.5, 0.0], [1.0, 0.0])

    Reference:
        Michelot 1986, A finite algorithm for finding the projection of a point onto the canonical simplex of R^n.
    """
    x = x - x.max(axis=-1, keepdims=True)

    def threshold(above: Array) -> Array:
        return (jnp.where(above, x, 0).sum(axis=-1, keepdims=True) - 1) / above.sum(axis=-1, keepdims=True)

    def fewer(state: tuple[Array, Array]) -> tuple[Array, Array]:
        above, _ = state
        after = above & (x > threshold(above))
        return after, (after != above).any()

    # An entry 1 below the greatest is out.
    above, _ = lax.while_loop(lambda state: state[1], fewer, (x > -1, jnp.array(True)))
    return jnp.where(above, x - threshold(above), 0)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _mixtures(num_steps: int, gram: Array, target: Array) -> Float[Array, "k n"]:
    start = jnp.full_like(target, 1 / len(gram))
    return _mix(start, gram, target, num_steps=num_steps)


@_mixtures.defjvp
def _mixtures_jvp(num_steps: int, primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    (gram, target), (dgram, dtarget) = primals, tangents
    u = _mixtures(num_steps, gram, target)

    def column(face: Array, target: Array) -> Array:
        x, y = (solve_on(face, gram, t) for t in (target, jnp.ones_like(target)))
        return x - y * x.sum() / y.sum()

    return u, jax.vmap(column, 1, 1)(u > 0, dtarget - product(dgram, u))


def _mix(u: Array, gram: Array, target: Array, *, num_steps: int) -> Float[Array, "k n"]:
    """Projected gradients for u'Gu / 2 - t'u over the simplex, each column with its own lengths, until it is still."""
    still = 4 * jnp.finfo(gram.dtype).eps

    def unfinished(state: tuple[Array, ...]) -> Array:
        step, _, _, moving = state
        return (step < num_steps) & moving.any()

    def again(state: tuple[Array, ...]) -> tuple[Array, ...]:
        step, u, length, moving = state
        slope = product(gram, u) - target
        # Less its mean, to which the sum of p, zero but for rounding, would else lend weight.
        slope = slope - jnp.sum(u * slope, axis=0)[None]
        p = project_simplex((u - length[None] * slope).T).T - u
        curvature, square = jnp.sum(p * product(gram, p), axis=0), jnp.sum(p**2, axis=0)
        curved = curvature > 0
        t = jnp.clip(-jnp.sum(slope * p, axis=0) / jnp.where(curved, curvature, 1), 0, 1)
        u = jnp.where(moving[None], jnp.maximum(u + jnp.where(curved, t, 1)[None] * p, 0), u)
        length = jnp.where(curved, square / jnp.where(curved, curvature, 1), length)
        return step + 1, u, length, moving & (jnp.abs(p).max(axis=0) > still)

    length = jnp.full(u.shape[1], 1 / jnp.maximum(jnp.trace(gram), jnp.finfo(gram.dtype).tiny))
    return lax.while_loop(unfinished, again, (jnp.array(0), u, length, jnp.ones(u.shape[1], bool)))[1]


def _alternate(
    acts: Array,
    rank: int,
    codes: Float[Array, "k n"],
    update: Callable[[Array, Array, Array], Array],
    project: Callable[[Array], Array],
    num_steps: int,
    key: PRNGKeyArray,
) -> tuple[Float[Array, "k n"], Float[Array, "k d"], Float[Array, " steps"]]:
    """Codes given the atoms D = W A, a projected gradient of W given the codes, and again; the error of each pair."""
    total = jnp.sum(acts**2)
    chosen = seeds(acts, rank, key=key)
    weights = jax.nn.one_hot(chosen, len(acts), dtype=acts.dtype)

    def improve(u: Array, d: Array) -> tuple[Array, Array]:
        gram, target = product(d, d.T), inner(d, acts)
        u = update(u, gram, target)
        return u, trace_error(total, target, gram, u)

    def step(state: tuple[Array, ...], _: None) -> tuple[tuple[Array, ...], Array]:
        u, w, d, length = state
        gram, target = product(u, u.T), combined(u, acts)
        slope = inner(product(gram, d) - target, acts)
        p = project(w - length[:, None] * slope) - w
        dp = combined(p, acts)
        curvature = jnp.vdot(product(gram, dp), dp)
        t = jnp.clip(-jnp.vdot(slope, p) / jnp.where(curvature > 0, curvature, 1), 0, 1)
        w, d = w + t * p, d + t * dp
        each = jnp.diag(gram) * jnp.sum(dp**2, axis=1)
        length = jnp.where(each > 0, jnp.sum(p**2, axis=1) / jnp.where(each > 0, each, 1), length)
        u, error = improve(u, d)
        return (u, w, d, length), error

    d = acts[chosen]
    u, first = improve(codes, d)
    (u, _, d, _), errors = lax.scan(step, (u, weights, d, jnp.ones(rank, acts.dtype) / total), length=num_steps)
    return u, d, jnp.append(first, errors)
