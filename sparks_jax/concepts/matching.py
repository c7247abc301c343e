"""Which concepts of one dictionary are which of another: of another seed, layer, class or model."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from scipy.optimize import linear_sum_assignment

from sparks_jax.concepts.dictionary import unit
from sparks_jax.linalg import pearson, product

Similarity = Callable[[Any, Any], Float[Array, "k l"]]


class Matching(NamedTuple):
    """Pairs of concepts, each of the smaller set in one of them.

    Attributes:
        first: Numbers of concepts of the first set.
        second: Their partners in the second.
        similarity: Of each pair.
    """

    first: Int[np.ndarray, " p"]
    second: Int[np.ndarray, " p"]
    similarity: Float[np.ndarray, " p"]


def cosine(a: Float[Array, "k d"], b: Float[Array, "l d"]) -> Float[Array, "k l"]:
    r"""The cosine of every two directions; 0 where one of them is zero.

    $\langle a_k, b_l \rangle / (\|a_k\| \|b_l\|)$

    Example:
        >>> cosine(jnp.array([[2.0, 0.0]]), jnp.array([[1.0, 0.0], [0.0, -3.0]])).tolist()
        [[1.0, 0.0]]

    Reference:
        Fel et al. 2023, arXiv:2306.07304.
    """
    return product(unit(a), unit(b).T)


def absolute_cosine(a: Float[Array, "k d"], b: Float[Array, "l d"]) -> Float[Array, "k l"]:
    r"""The cosine of every two lines: for concepts whose sign means nothing, as those of PCA and ICA.

    $|\langle a_k, b_l \rangle| / (\|a_k\| \|b_l\|)$

    Example:
        >>> absolute_cosine(jnp.array([[2.0, 0.0]]), jnp.array([[-1.0, 0.0]])).tolist()
        [[1.0]]

    Reference:
        Fel et al. 2023, arXiv:2306.07304.
    """
    return jnp.abs(cosine(a, b))


def correlation(a: Float[Array, "k n"], b: Float[Array, "l n"]) -> Float[Array, "k l"]:
    r"""The correlation of every two concepts over the same images: for layers and models of other widths.

    $\mathrm{corr}(u_k, v_l)$ of codes, transposed: one concept each row. 0 for a concept that does not vary.

    Example:
        >>> correlation(jnp.array([[1.0, 2.0, 3.0]]), jnp.array([[30.0, 20.0, 10.0]])).round(3).tolist()
        [[-1.0]]

    Reference:
        Li et al. 2016, Convergent learning: do different neural networks learn the same representations?,
        arXiv:1511.07543.
    """
    return jax.vmap(lambda u: jax.vmap(lambda v: pearson(u, v))(b))(a)


def match(first: Float[Array, "k d"], second: Float[Array, "l d"], *, similarity: Similarity = cosine) -> Matching:
    r"""Pair concepts so that the sum of their similarities is greatest.

    $\max_\pi \sum_k s(a_k, b_{\pi(k)})$ over one-to-one $\pi$, by the Hungarian algorithm

    On the host: not under `jit`.

    Args:
        first: One concept each row: atoms, or codes over the same images (transposed).
        second: The others: as many, or fewer, or more.
        similarity: `cosine` of atoms, `absolute_cosine`, `correlation` of codes, or a function of yours.

    Example:
        >>> found = match(jnp.eye(3), jnp.eye(3)[jnp.array([2, 0, 1])])
        >>> found.second.tolist(), found.similarity.tolist()
        ([1, 2, 0], [1.0, 1.0, 1.0])

    Reference:
        Kuhn 1955, The Hungarian method for the assignment problem.
    """
    similar = np.asarray(similarity(first, second))
    rows, columns = linear_sum_assignment(-similar)
    return Matching(rows, columns, similar[rows, columns])


def stability(atoms: Float[Array, "runs k d"], *, similarity: Similarity = cosine) -> Float[np.ndarray, " pairs"]:
    r"""How much a dictionary depends on chance: the distance of every two runs after matching their concepts.

    $1 - \frac1k \sum_k s(a_k, b_{\pi(k)})$ for every two of the runs

    Lower is better: 0 for the same concepts in another order. Let the runs differ in their seed, and in the images if
    that is asked; methods that start all runs from the same points are stable before they have learned anything.

    Args:
        atoms: Dictionaries of several runs: those of `jax.vmap(fit)(keys)`.
        similarity: As in `match`.

    Raises:
        ValueError: If there is but one run.

    Example:
        >>> stability(jnp.stack([jnp.eye(2), jnp.eye(2)[::-1]])).tolist()
        [0.0]

    Reference:
        Fel et al. 2023, arXiv:2306.07304 (section 3). Fel et al. 2025, Archetypal SAE, arXiv:2502.12892.
    """
    if len(atoms) < 2:
        raise ValueError(f"stability: got {len(atoms)} run, expected at least two: fit again with another key")
    distance = lambda a, b: 1 - match(a, b, similarity=similarity).similarity.mean()
    first, second = np.triu_indices(len(atoms), 1)
    return np.stack([distance(atoms[i], atoms[j]) for i, j in zip(first, second, strict=True)])
