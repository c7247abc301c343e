r"""Non-negative matrix factorization of counts: the Kullback-Leibler divergence in place of squares."""

import jax.numpy as jnp
from jax import lax
from jax.tree_util import Partial
from jaxtyping import Array, Float, PRNGKeyArray

from sparks_jax.concepts.activations import checked
from sparks_jax.concepts.dictionary import Factorization, canonical
from sparks_jax.concepts.svd import nndsvda
from sparks_jax.linalg import product
from sparks_jax.types import Scalar


def nmf_kl(
    acts: Float[Array, "n d"], rank: int, *, key: PRNGKeyArray, num_steps: int = 200, layer: str | None = None
) -> Factorization:
    r"""Non-negative matrix factorization by the Kullback-Leibler divergence: the likelihood of Poisson counts.

    $\min_{U, D \ge 0} \sum a \log \frac{a}{(U D)} - a + (U D)$: with $R = A / (U D)$ elementwise,
    $U \leftarrow U \odot R D^\top / (1 D^\top)$, $D \leftarrow D \odot U^\top R / (U^\top 1)$

    Errors count in proportion to activations, not to their squares: a few very large ones weigh less than in `nmf`. The
    divergence never rises. In the result, `errors` are divergences over the sum of the activations, and the encoder is
    `poisson`.

    Cost: a step makes two arrays of the size of the activations, and four products of them with `rank` vectors.

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
        >>> print(nmf_kl(acts, 2, key=jax.random.key(0)).dictionary.atoms.round(1))
        [[0.  0.6 0.8]
         [1.  0.  0. ]]

    Reference:
        Lee & Seung 2001, Algorithms for non-negative matrix factorization.
    """
    acts = checked(acts, rank, "nmf_kl", layer=layer, nonnegative=True)
    total = acts.sum()
    share = lambda u, d: divergence(acts, product(u, d)) / jnp.where(total > 0, total, 1)

    def step(pair: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], Scalar]:
        u, d = pair
        u = _expectation(u, d, acts)
        d = _expectation(d.T, u.T, acts.T).T
        return (u, d), share(u, d)

    start = nndsvda(acts, rank, key=key)
    (u, d), errors = lax.scan(step, start, length=num_steps)
    return canonical(u, d, jnp.append(share(*start), errors), Partial(poisson))


def poisson(atoms: Float[Array, "k d"], acts: Float[Array, "n d"], *, num_steps: int = 200) -> Float[Array, "n k"]:
    r"""Codes of largest Poisson likelihood on given atoms, by expectation-maximisation.

    $u \leftarrow u \odot \frac{(a / (u D)) D^\top}{1 D^\top}$, a fixed number of times, from equal codes

    Differentiable through the steps: codes that should be zero only tend to it, so there is no face to solve on.

    Cost: `num_steps` times two products of activations and atoms.

    Args:
        atoms: $D \ge 0$.
        acts: $a \ge 0$.
        num_steps: Steps.

    Example:
        >>> print(poisson(jnp.eye(2), jnp.array([[3.0, 1.0]])).round(4))
        [[3. 1.]]

    Reference:
        Richardson 1972, Bayesian-based iterative method of image restoration. Shepp & Vardi 1982, Maximum likelihood
        reconstruction for emission tomography.
    """
    start = jnp.broadcast_to(acts.sum(axis=1, keepdims=True) / atoms.sum(), (len(acts), len(atoms)))
    return lax.scan(lambda u, _: (_expectation(u, atoms, acts), None), start, length=num_steps)[0]


def divergence(acts: Float[Array, "n d"], approximation: Float[Array, "n d"]) -> Scalar:
    r"""Generalised Kullback-Leibler divergence of an approximation from non-negative numbers.

    $\sum a \log \frac{a}{b} - a + b$, with $0 \log 0 = 0$; 0 where both are equal, infinite where $b = 0 < a$.

    Args:
        acts: $a$.
        approximation: $b$.

    Example:
        >>> print(divergence(jnp.array([[1.0, 0.0]]), jnp.array([[1.0, 2.0]])))
        2.0

    Reference:
        Lee & Seung 2001, Algorithms for non-negative matrix factorization.
    """
    logs = jnp.where(acts > 0, jnp.log(jnp.where(acts > 0, acts, 1)) - jnp.log(approximation), 0)
    return jnp.sum(acts * jnp.where(acts > 0, logs, 0) - acts + approximation)


def _expectation(u: Array, d: Array, acts: Array) -> Float[Array, "n k"]:
    """One multiplicative update of the left factor."""
    near = product(u, d)
    ratio = jnp.where(near > 0, acts / jnp.where(near > 0, near, 1), 0)
    below = d.sum(axis=1)[None]
    return jnp.where(below > 0, u * product(ratio, d.T) / jnp.where(below > 0, below, 1), 0)
