r"""Linear codes: principal and independent components of centred activations."""

import jax
import jax.numpy as jnp
from jax import lax
from jax.tree_util import Partial
from jaxtyping import Array, Float, PRNGKeyArray

from sparks_jax.concepts.activations import checked, present
from sparks_jax.concepts.dictionary import Factorization, canonical
from sparks_jax.concepts.svd import randomized_svd, signed
from sparks_jax.linalg import product


def pca(
    acts: Float[Array, "n d"], rank: int, *, key: PRNGKeyArray, num_steps: int = 4, layer: str | None = None
) -> Factorization:
    r"""Principal components: orthonormal directions of largest variance, codes of either sign.

    $A - 1 \mu^\top \approx U D$ with $D D^\top = I$, the leading right singular vectors

    The smallest error that any `rank` directions reach. The entry of largest modulus in each atom is positive. Rows of
    zeros are padding, and do not enter the mean.

    Cost: `2 num_steps + 2` products of the activations with `rank + 10` vectors.

    Args:
        acts: $A$, one row for each crop, position or token.
        rank: How many concepts.
        key: Draws the random vectors of the decomposition.
        num_steps: Power steps of the decomposition; more where variances fall slowly.
        layer: Where the activations come from, for error messages.

    Raises:
        ValueError: If activations are not finite, all zero or no rows, or hold fewer than `rank` concepts.
        TypeError: If they are no floating-point numbers.

    Example:
        >>> acts = jnp.array([[1.0, 2.0], [4.0, 6.0], [7.0, 10.0]])  # on a line
        >>> fitted = pca(acts, 1, key=jax.random.key(0))
        >>> print(fitted.dictionary.atoms.round(3), fitted.codes.round(3).T)
        [[0.6 0.8]] [[-5.  0.  5.]]

    Reference:
        Jolliffe 2002, Principal component analysis. Halko, Martinsson & Tropp 2011, Finding structure with randomness.
    """
    acts = checked(acts, rank, "pca", layer=layer)
    rows, mean = _centred(acts)
    u, s, vt = randomized_svd(rows, rank, key=key, num_steps=num_steps)
    return canonical(u * s[None], vt, _missing(acts, rows, s), Partial(least_squares), mean=mean)


def ica(
    acts: Float[Array, "n d"], rank: int, *, key: PRNGKeyArray, num_steps: int = 100, layer: str | None = None
) -> Factorization:
    r"""Independent components: codes as far from Gaussian as rotations of the principal ones can be, by FastICA.

    With white $z$: $W \leftarrow \mathbb{E}[\tanh(W z) z^\top] - \mathbb{E}[\tanh'(W z)]\, W$, then
    $W \leftarrow (W W^\top)^{-1/2} W$; atoms are the columns that mix $W z$ into activations.

    The subspace, hence the error, is that of `pca`. Up to order, sign and scale, sources are found if at most one is
    Gaussian.

    Cost: as `pca`, and `num_steps` products of `(rank n)` arrays.

    Args:
        acts: $A$, one row for each crop, position or token.
        rank: How many concepts.
        key: Draws the random vectors of the decomposition, and the first $W$.
        num_steps: Updates of $W$.
        layer: Where the activations come from, for error messages.

    Raises:
        ValueError: If activations are not finite, all zero or no rows, or hold fewer than `rank` concepts.
        TypeError: If they are no floating-point numbers.

    Example:
        >>> sources = jax.random.uniform(jax.random.key(0), (2000, 2))
        >>> fitted = ica(sources @ jnp.array([[0.6, 0.8], [1.0, 0.0]]), 2, key=jax.random.key(1))
        >>> print(fitted.dictionary.atoms.round(1))  # the rows that mixed
        [[0.6 0.8]
         [1.  0. ]]

    Reference:
        Hyvärinen 1999, Fast and robust fixed-point algorithms for independent component analysis.
    """
    acts = checked(acts, rank, "ica", layer=layer)
    rows, mean = _centred(acts)
    key_svd, key_start = jax.random.split(key)
    u, s, vt = randomized_svd(rows, rank, key=key_svd)
    real = present(acts)
    count = real.sum(dtype=acts.dtype)
    white = u.T * jnp.sqrt(count)

    def step(_: Array, w: Array) -> Array:
        y = jnp.tanh(product(w, white))
        slope = jnp.where(real[None], 1 - y**2, 0).sum(axis=1) / count
        return _polar(product(y, white.T) / count - slope[:, None] * w)

    start = _polar(jax.random.normal(key_start, (rank, rank), acts.dtype))
    w = lax.fori_loop(0, num_steps, step, start)
    atoms, signs = signed(product(w, (s / jnp.sqrt(count))[:, None] * vt))
    codes = product(w, white).T * signs[None]
    return canonical(codes, atoms, _missing(acts, rows, s), Partial(least_squares), mean=mean)


def least_squares(atoms: Float[Array, "k d"], acts: Float[Array, "n d"]) -> Float[Array, "n k"]:
    r"""Codes of either sign, linear in the activations.

    $u = a D^+$, the pseudo-inverse: $a D^\top$ where atoms are orthonormal

    Args:
        atoms: $D$.
        acts: $a$, one each row.

    Example:
        >>> print(least_squares(jnp.array([[1.0, 1.0], [0.0, 1.0]]), jnp.array([[2.0, 5.0]])).round(4))
        [[2. 3.]]

    Reference:
        Penrose 1955, A generalized inverse for matrices.
    """
    return product(acts, jnp.linalg.pinv(atoms))


def _centred(acts: Float[Array, "n d"]) -> tuple[Float[Array, "n d"], Float[Array, " d"]]:
    rows = present(acts)
    mean = acts.sum(axis=0) / jnp.maximum(rows.sum(), 1)
    return jnp.where(rows[:, None], acts - mean[None], 0), mean


def _missing(acts: Array, centred: Array, s: Array) -> Float[Array, "1"]:
    """The relative error of the leading components, from singular values: of all, in units of the activations."""
    total = jnp.sum(acts**2)
    rest = jnp.sum(centred**2) - jnp.sum(s**2)
    return jnp.sqrt(jnp.maximum(rest, 0) / jnp.where(total > 0, total, 1))[None]


def _polar(w: Float[Array, "k k"]) -> Float[Array, "k k"]:
    """(W W')^(-1/2) W. By singular vectors: a source that is Gaussian leaves W nearly singular."""
    u, _, vt = jnp.linalg.svd(w, full_matrices=False)
    return product(u, vt)
