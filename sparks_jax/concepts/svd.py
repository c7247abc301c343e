"""Leading singular vectors on the device, and the non-negative start of a factorization that they give."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from sparks_jax.concepts.activations import combined, present, row_sums
from sparks_jax.linalg import product


def randomized_svd(
    acts: Float[Array, "n d"], rank: int, *, key: PRNGKeyArray, oversample: int = 10, num_steps: int = 4
) -> tuple[Float[Array, "n k"], Float[Array, " k"], Float[Array, "k d"]]:
    r"""The leading singular triplets, from the range of the activations on random vectors.

    $Q = \mathrm{orth}((A A^\top)^q A \Omega)$, then the exact decomposition of the small $Q^\top A$.

    Each step multiplies the share of what is left out by $(\sigma_{k+p+1} / \sigma_k)^2$. Signs are such that the
    greatest entry of each right vector is positive.

    Cost: 2 q + 2 products of the activations with k + p vectors.

    Args:
        acts: $A$.
        rank: $k$.
        key: Draws $\Omega$.
        oversample: $p$, vectors beyond the rank.
        num_steps: $q$.

    Example:
        >>> _, s, vt = randomized_svd(jnp.array([[0.0, 3.0], [2.0, 0.0]]), 2, key=jax.random.key(0))
        >>> s.round(4).tolist(), jnp.abs(vt.round(4)).tolist()
        ([3.0, 2.0], [[0.0, 1.0], [1.0, 0.0]])

    Reference:
        Halko, Martinsson & Tropp 2011, Finding structure with randomness.
    """
    width = min(rank + oversample, *acts.shape)
    q = product(acts, jax.random.normal(key, (acts.shape[1], width), acts.dtype))
    for _ in range(num_steps):
        q = product(acts, _orthonormal(combined(_orthonormal(q).T, acts).T))
    q = _orthonormal(_orthonormal(q))  # the first leaves rounding times its condition, the second rounding alone
    left, s, vt = jnp.linalg.svd(combined(q.T, acts), full_matrices=False)
    vt, signs = signed(vt[:rank])
    return product(q, left[:, :rank]) * signs[None], s[:rank], vt


def _orthonormal(y: Float[Array, "n k"]) -> Float[Array, "n k"]:
    """Columns that span those of y, orthonormal if these are independent: y R^+, of y = Q R.

    From the triangular factor alone: the orthogonal one comes in Fortran's order, and XLA on CPU would turn the
    activations to match it.
    """
    return product(y, jnp.linalg.pinv(jnp.linalg.qr(y, mode="r")))


def signed(atoms: Float[Array, "k d"]) -> tuple[Float[Array, "k d"], Float[Array, " k"]]:
    """Atoms whose entry of largest modulus is positive, and the signs that made them so.

    Args:
        atoms: Directions that a sign does not change.

    Example:
        >>> atoms, signs = signed(jnp.array([[1.0, -2.0]]))
        >>> atoms.tolist(), signs.tolist()
        ([[-1.0, 2.0]], [-1.0])

    Reference:
        Bro, Acar & Kolda 2008, Resolving the sign ambiguity in the singular value decomposition.
    """
    greatest = jnp.take_along_axis(atoms, jnp.abs(atoms).argmax(axis=1)[:, None], axis=1)
    signs = jnp.where(greatest < 0, -1, 1).astype(atoms.dtype)
    return atoms * signs, signs[:, 0]


def nndsvda(
    acts: Float[Array, "n d"], rank: int, *, key: PRNGKeyArray
) -> tuple[Float[Array, "n k"], Float[Array, "k d"]]:
    r"""A non-negative start: of each singular pair the heavier of its positive and its negative part.

    $u = \sqrt{\sigma \|u_\pm\| \|v_\pm\|}\; u_\pm / \|u_\pm\|$, likewise $v$; zeros become the mean of the activations,
    so that multiplicative updates can leave them.

    Args:
        acts: Non-negative; rows of zeros are padding, and get codes of zero.
        rank: How many pairs.
        key: Draws the random vectors of the decomposition.

    Example:
        >>> u, d = nndsvda(jnp.array([[2.0, 0.0], [0.0, 1.0]]), 1, key=jax.random.key(0))
        >>> print((u @ d).round(2))  # the mean, 0.75, in place of zeros
        [[2.   1.06]
         [1.06 0.56]]

    Reference:
        Boutsidis & Gallopoulos 2008, SVD based initialization: a head start for nonnegative matrix factorization.
    """
    u, s, vt = randomized_svd(acts, rank, key=key, num_steps=1)
    halves = [(jnp.maximum(sign * u.T, 0), jnp.maximum(sign * vt, 0)) for sign in (1, -1)]
    norms = [(jnp.linalg.norm(a, axis=1), jnp.linalg.norm(b, axis=1)) for a, b in halves]
    weights = [a * b for a, b in norms]
    positive = weights[0] >= weights[1]
    a, b = (jnp.where(positive[:, None], *pair) for pair in zip(*halves, strict=True))
    a_norm, b_norm = (jnp.where(positive, *pair) for pair in zip(*norms, strict=True))
    root = jnp.sqrt(s * jnp.maximum(*weights))
    a, b = (x * (root / jnp.where(norm > 0, norm, 1))[:, None] for x, norm in ((a, a_norm), (b, b_norm)))
    rows = present(acts)
    mean = row_sums(acts).sum() / (rows.sum() * acts.shape[1])
    # What rounding left of a zero is a zero: it would stay one for hundreds of multiplicative updates.
    noise = 16 * jnp.finfo(acts.dtype).eps
    a, b = (jnp.where(x > noise * x.max(1, keepdims=True), x, mean) for x in (a, b))
    return (a * rows[None]).T, b
