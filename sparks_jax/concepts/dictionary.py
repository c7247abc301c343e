r"""A dictionary of concepts: directions of activation space, and the way from activations to codes and back.

An activation $a$ is explained as $a \approx \mu + \sigma\, u D$: a code $u$ says how much of each concept there is, and
the rows of $D$ are the concepts. What distinguishes the methods (non-negative codes, one concept at a time, a trained
encoder) is how they find $u$: that is a function, `encoder`, and it travels with the dictionary.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float


class Dictionary(NamedTuple):
    """Concepts, and how activations are coded by them. A pytree: it crosses `jit`, and `vmap` over classes.

    Attributes:
        atoms: `(k d)` one concept each row, of Euclidean norm 1 unless the method says otherwise.
        mean: `(d)` what is subtracted from activations first; zero for methods that need non-negative ones.
        scale: What centred activations are divided by, one number.
        encoder: `(atoms (k d), acts (n d)) -> codes (n k)` of standardised activations: a `jax.tree_util.Partial` over
            a function of a module, so that its weights are leaves.
    """

    atoms: Float[Array, "*classes k d"]
    mean: Float[Array, "*classes d"]
    scale: Float[Array, "*classes"]
    encoder: Callable[..., Any]

    def encode(self, acts: Float[Array, "*batch d"]) -> Float[Array, "*batch k"]:
        """The codes of activations: `concepts.encode` as a method, for those who know no concepts."""
        d = self.atoms.shape[-1]
        if acts.shape[-1] != d:
            raise ValueError(f"encode: activations have shape {acts.shape}, expected (…, {d}) as the atoms have")
        rows = (acts.reshape(-1, d) - self.mean[None]) / self.scale
        return self.encoder(self.atoms, rows).reshape(*acts.shape[:-1], -1)


class Factorization(NamedTuple):
    """A dictionary with the codes of the activations that it was fitted to.

    Attributes:
        dictionary: The concepts.
        codes: `(n k)` how much of each concept is in each row.
        errors: Relative error $||A - UD|| / ||A||$ after each step, `(num_steps + 1)`, or one number.
    """

    dictionary: Dictionary
    codes: Float[Array, "*classes n k"]
    errors: Float[Array, "*classes steps"]

    @property
    def energies(self) -> Float[Array, "*classes k"]:
        r"""How much of the activations each concept carries, $\sum_n u_{nk}^2 \|d_k\|^2$; 0 for a dead one."""
        return jnp.sum(self.codes**2, axis=-2) * jnp.sum(self.dictionary.atoms**2, axis=-1)


def canonical(
    codes: Float[Array, "n k"],
    atoms: Float[Array, "k d"],
    errors: Float[Array, " steps"],
    encoder: Callable[..., Any],
    *,
    mean: Float[Array, " d"] | None = None,
) -> Factorization:
    r"""The same product $U D$ with atoms of norm 1, concepts by falling energy.

    $d_k \leftarrow d_k / \|d_k\|$, $u_k \leftarrow u_k \|d_k\|$. An atom of zeros stays, and is last.

    Args:
        codes: $U$.
        atoms: $D$.
        errors: Passed on.
        encoder: Passed on.
        mean: What was subtracted from the activations; nothing by default.

    Example:
        >>> f = canonical(jnp.array([[1.0, 2.0]]), jnp.array([[0.0, 3.0], [4.0, 0.0]]), jnp.zeros(1), lambda d, a: a)
        >>> f.dictionary.atoms.tolist(), f.codes.tolist()
        ([[1.0, 0.0], [0.0, 1.0]], [[8.0, 3.0]])

    Reference:
        Fel et al. 2023, arXiv:2306.07304.
    """
    norms = jnp.linalg.norm(atoms, axis=1)
    return ordered(codes * norms[None], unit(atoms), errors, encoder, mean=mean)


def unit(atoms: Float[Array, "*k d"]) -> Float[Array, "*k d"]:
    r"""Atoms of norm 1: $d / \|d\|$. Zeros stay.

    Args:
        atoms: One each row, or one alone.

    Example:
        >>> print(unit(jnp.array([[3.0, 4.0], [0.0, 0.0]])))
        [[0.6 0.8]
         [0.  0. ]]

    Reference:
        Fel et al. 2023, arXiv:2306.07304.
    """
    norms = jnp.linalg.norm(atoms, axis=-1, keepdims=True)
    return atoms / jnp.where(norms > 0, norms, 1)


def ordered(
    codes: Float[Array, "n k"],
    atoms: Float[Array, "k d"],
    errors: Float[Array, " steps"],
    encoder: Callable[..., Any],
    *,
    mean: Float[Array, " d"] | None = None,
) -> Factorization:
    r"""A factorization whose concepts come by falling energy $\sum_n u_{nk}^2 \|d_k\|^2$, with atoms as they are.

    Args:
        codes: $U$.
        atoms: $D$.
        errors: Passed on.
        encoder: Passed on.
        mean: What was subtracted from the activations; nothing by default.

    Example:
        >>> ordered(jnp.array([[1.0, 2.0]]), jnp.eye(2), jnp.zeros(1), lambda d, a: a).codes.tolist()
        [[2.0, 1.0]]

    Reference:
        Fel et al. 2023, arXiv:2306.07304.
    """
    order = jnp.argsort(-jnp.sum(codes**2, axis=0) * jnp.sum(atoms**2, axis=1))
    mean = jnp.zeros(atoms.shape[1], atoms.dtype) if mean is None else mean
    return Factorization(Dictionary(atoms[order], mean, jnp.ones((), atoms.dtype), encoder), codes[:, order], errors)


def encode(dictionary: Dictionary, acts: Float[Array, "*batch d"]) -> Float[Array, "*batch k"]:
    r"""The codes of activations: how much of each concept is in each.

    $u = \mathrm{encoder}(D, (a - \mu) / \sigma)$

    Activations of any shape `(… d)`: rows, or positions of feature maps. Differentiable in the activations and in the
    dictionary wherever the encoder is; for non-negative codes by the closed form.

    Args:
        dictionary: The concepts.
        acts: `(… d)` activations of the layer that the dictionary was fitted to.

    Raises:
        ValueError: If the activations have another number of channels than the atoms.

    Example:
        >>> from sparks_jax.concepts import nmf
        >>> acts = jnp.array([[2.0, 0.0], [0.0, 3.0], [2.0, 3.0]])
        >>> fitted = nmf(acts, 2, key=jax.random.key(0))
        >>> print(encode(fitted.dictionary, jnp.array([4.0, 3.0])).sum().round())
        7.0

    Reference:
        Fel et al. 2023, A holistic approach to unifying automatic concept extraction and concept importance estimation,
        arXiv:2306.07304.
    """
    return dictionary.encode(acts)


def decode(dictionary: Dictionary, codes: Float[Array, "*batch k"]) -> Float[Array, "*batch d"]:
    r"""Activations from codes.

    $a = \mu + \sigma\, u D$

    Args:
        dictionary: The concepts.
        codes: `(… k)`.

    Raises:
        ValueError: If there is another number of codes than of atoms.

    Example:
        >>> from sparks_jax.concepts import nmf
        >>> acts = jnp.array([[2.0, 0.0], [0.0, 3.0]])
        >>> fitted = nmf(acts, 2, key=jax.random.key(0))
        >>> print(decode(fitted.dictionary, fitted.codes).round())
        [[2. 0.]
         [0. 3.]]

    Reference:
        Fel et al. 2023, arXiv:2306.07304.
    """
    k = dictionary.atoms.shape[-2]
    if codes.shape[-1] != k:
        raise ValueError(f"decode: codes have shape {codes.shape}, expected (…, {k}): one for each atom")
    rows = codes.reshape(-1, k) @ dictionary.atoms
    return (rows * dictionary.scale + dictionary.mean[None]).reshape(*codes.shape[:-1], -1)
