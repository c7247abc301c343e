r"""Codes with few entries each, as values and indices, and the three products that training needs of them.

With j entries a row, decoding $\sum_j v_{nj} D_{i_{nj}}$ takes j d multiplications a row where the dense product takes
k d; the same is true of both of its derivatives, and of the derivative of a linear encoder in the weights of the
entries that were kept. All loops are over the j entries, with n rows at once: nothing of size n j d is ever stored,
and a step of a TopK autoencoder is left with one dense product, that of the encoder.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int


class Codes(NamedTuple):
    """The entries of codes that may differ from zero.

    Attributes:
        values: `(n j)` the entries.
        indices: `(n j)` the concepts that they belong to; where one comes twice, its entries add up.
    """

    values: Float[Array, "n j"]
    indices: Int[Array, "n j"]


def densify(codes: Codes, num_concepts: int) -> Float[Array, "n k"]:
    """The same codes with all of their zeros.

    Example:
        >>> densify(Codes(jnp.array([[2.0, 1.0]]), jnp.array([[2, 0]])), 4).tolist()
        [[1.0, 0.0, 2.0, 0.0]]

    Reference:
        Gao et al. 2024, Scaling and evaluating sparse autoencoders, arXiv:2406.04093.
    """
    rows = jnp.arange(len(codes.values))[:, None]
    zeros = jnp.zeros((len(codes.values), num_concepts), codes.values.dtype)
    return zeros.at[rows, codes.indices].add(codes.values)


@jax.custom_vjp
def decode_sparse(codes: Codes, atoms: Float[Array, "k d"]) -> Float[Array, "n d"]:
    r"""Mixtures of the atoms that the entries name.

    $\sum_j v_{nj} D_{i_{nj}}$, with the cotangents $\bar v_{nj} = \langle \bar a_n, D_{i_{nj}} \rangle$ and
    $\bar D_i = \sum_{nj: i_{nj} = i} v_{nj} \bar a_n$

    Cost: j d multiplications a row, and twice that backwards.

    Args:
        codes: The entries.
        atoms: One each row.

    Example:
        >>> decode_sparse(Codes(jnp.array([[2.0, 1.0]]), jnp.array([[1, 0]])), jnp.eye(3)).tolist()
        [[1.0, 2.0, 0.0]]

    Reference:
        Gao et al. 2024, Scaling and evaluating sparse autoencoders, arXiv:2406.04093, appendix D.
    """
    return _gather_sum(codes.values, codes.indices, atoms)


def _decode_forward(codes, atoms):
    return _gather_sum(codes.values, codes.indices, atoms), (codes, atoms)


def _decode_backward(kept, cotangent):
    (values, indices), atoms = kept
    to_atoms = _scatter_sum(values, indices, cotangent, len(atoms))
    return Codes(_gather_dot(cotangent, indices, atoms), None), to_atoms  # pyright: ignore[reportArgumentType]


decode_sparse.defvjp(_decode_forward, _decode_backward)


@jax.custom_vjp
def entries(
    pre: Float[Array, "n k"],
    indices: Int[Array, "n j"],
    rows: Float[Array, "n d"],
    kernel: Float[Array, "k d"],
    bias: Float[Array, " k"],
) -> Float[Array, "n j"]:
    r"""Some entries of a linear map that has been evaluated, differentiable in it at their price alone.

    $p_{n i_{nj}}$ where $p = X E^\top + b$; backwards $\bar E_i = \sum_{nj: i_{nj} = i} \bar p_{nj} x_n$ and likewise
    for X and b. The zeros that a dense derivative would multiply are not.

    Args:
        pre: `rows @ kernel.T + bias`, which is trusted to be that.
        indices: Which entries, j a row.
        rows: X.
        kernel: E, one row for each output.
        bias: b.

    Example:
        >>> x, kernel = jnp.array([[1.0, 2.0]]), jnp.ones((3, 2))
        >>> second = lambda kernel: entries(x @ kernel.T, jnp.array([[1]]), x, kernel, jnp.zeros(3)).sum()
        >>> second(kernel).item(), jax.grad(second)(kernel).tolist()
        (3.0, [[0.0, 0.0], [1.0, 2.0], [0.0, 0.0]])

    Reference:
        Gao et al. 2024, Scaling and evaluating sparse autoencoders, arXiv:2406.04093, appendix D.
    """
    del rows, kernel, bias
    return jnp.take_along_axis(pre, indices, 1)


def _entries_forward(pre, indices, rows, kernel, bias):
    return jnp.take_along_axis(pre, indices, 1), (indices, rows, kernel)


def _entries_backward(kept, cotangent):
    indices, rows, kernel = kept
    to_kernel = _scatter_sum(cotangent, indices, rows, len(kernel))
    to_bias = jnp.zeros(len(kernel), cotangent.dtype).at[indices].add(cotangent)
    return None, None, _gather_sum(cotangent, indices, kernel), to_kernel, to_bias


entries.defvjp(_entries_forward, _entries_backward)


def _gather_sum(values, indices, atoms):
    def add(total, entry):
        value, index = entry
        return total + value[:, None] * atoms[index], None

    start = jnp.zeros((len(values), atoms.shape[1]), jnp.result_type(values, atoms))
    return lax.scan(add, start, (values.T, indices.T))[0]


def _gather_dot(rows, indices, atoms):
    return lax.map(lambda index: jnp.sum(rows * atoms[index], axis=1), indices.T).T


def _scatter_sum(values, indices, rows, num):
    def add(total, entry):
        value, index = entry
        return total.at[index].add(value[:, None] * rows), None

    start = jnp.zeros((num, rows.shape[1]), jnp.result_type(values, rows))
    return lax.scan(add, start, (values.T, indices.T))[0]
