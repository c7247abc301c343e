r"""The terms of the loss of a sparse autoencoder, each a function of a batch that has gone through it.

All are means over the batch in standardised units, where the entries of activations have variance 1.
"""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from sparks_jax.concepts.sae import Forward, SparseAutoencoder
from sparks_jax.concepts.sae_codes import Codes, decode_sparse
from sparks_jax.concepts.sae_encoders import JumpReLUEncoder, heaviside

AUXK = 1 / 32  # weight of `auxiliary_loss`: Gao et al. 2024


def reconstruction_loss(found: Forward) -> Float[Array, ""]:
    r"""Mean squared error of an entry, which is $1 - R^2$ when the statistics are those of the data.

    $\frac{1}{n d} \sum_i \|x_i - z_i D\|^2$

    Example:
        >>> reconstruction_loss(Forward(jnp.ones((2, 4)), None, jnp.zeros((2, 3)), jnp.zeros((2, 4)))).item()
        1.0

    Reference:
        Gao et al. 2024, Scaling and evaluating sparse autoencoders, arXiv:2406.04093.
    """
    return jnp.mean((found.rows - found.reconstruction) ** 2)


def l1_penalty(found: Forward) -> Float[Array, ""]:
    r"""Sum of the codes of a row, on average: $\frac1n \sum_i \|z_i\|_1$. It means something for atoms of norm 1.

    Example:
        >>> rows, codes = jnp.zeros((2, 4)), jnp.array([[1.0, 2.0], [0.0, 0.0]])
        >>> l1_penalty(Forward(rows, None, codes, rows)).item()
        1.5

    Reference:
        Bricken et al. 2023, Towards monosemanticity: decomposing language models with dictionary learning.
    """
    values = found.codes.values if isinstance(found.codes, Codes) else found.codes
    return jnp.abs(values).sum(1).mean()


def l0_penalty(sae: SparseAutoencoder, found: Forward) -> Float[Array, ""]:
    r"""Concepts of a row, on average, with the derivative of `heaviside` in the thresholds.

    $\frac1n \sum_{i k} H(p_{ik} - \theta_k)$

    Raises:
        TypeError: If the encoder has no thresholds that it learns.

    Example:
        >>> from flax import nnx
        >>> from sparks_jax.concepts import Atoms
        >>> from sparks_jax.concepts.sae import forward
        >>> atoms = Atoms(2, 4, rngs=nnx.Rngs(0))
        >>> sae = SparseAutoencoder(atoms, JumpReLUEncoder(atoms(), threshold=0.9))
        >>> acts = atoms()[:1]
        >>> l0_penalty(sae, forward(sae, acts)).item() == (sae.encode(acts) > 0).sum().item()
        True

    Reference:
        Rajamanoharan et al. 2024, Jumping ahead: improving reconstruction fidelity with JumpReLU sparse autoencoders,
        arXiv:2407.14435.
    """
    encoder = sae.encoder
    if not isinstance(encoder, JumpReLUEncoder) or found.pre is None:
        raise TypeError(f"l0_penalty: {type(encoder).__name__} learns no thresholds, expected a JumpReLUEncoder")
    threshold = jnp.exp(encoder.log_threshold[...])[None]
    return jnp.sum(heaviside(found.pre, threshold, encoder.bandwidth, encoder.smoothing), axis=1).mean()


def auxiliary_loss(
    sae: SparseAutoencoder, found: Forward, *, dead_after: int = 1000, num: int | None = None
) -> Float[Array, ""]:
    r"""AuxK: dead concepts predict what the live ones leave, so that they become useful and come back.

    $\frac{1}{n d} \sum_i \|e_i - \hat z_i D\|^2$ with $e = x - z D$ held fixed, and $\hat z$ the largest positive
    pre-activations of dead concepts.

    Cost: while a concept is dead, the decoding of `num` entries a row, and its derivatives; nothing otherwise.

    Args:
        sae: The autoencoder.
        found: What `forward` found.
        dead_after: Steps without use after which a concept is dead. The paper: those of ten million activations.
        num: Dead concepts a row; None: half the number of channels, as in the paper, or all concepts if they are fewer.

    Example:
        >>> from flax import nnx
        >>> from sparks_jax.concepts import Atoms, LinearEncoder
        >>> from sparks_jax.concepts.sae import forward
        >>> atoms = Atoms(2, 4, rngs=nnx.Rngs(0))
        >>> sae = SparseAutoencoder(atoms, LinearEncoder(atoms()))
        >>> auxiliary_loss(sae, forward(sae, jnp.ones((3, 2)))).item()  # none is dead yet
        0.0

    Reference:
        Gao et al. 2024, Scaling and evaluating sparse autoencoders, arXiv:2406.04093, appendix A.
    """
    dead = sae.idle[...] >= dead_after
    residual = lax.stop_gradient(found.rows - found.reconstruction)
    rows, atoms = lax.stop_gradient(found.rows), sae.atoms()
    num = min(num or max(residual.shape[1] // 2, 1), len(dead))

    def error() -> Float[Array, ""]:
        codes = sae.encoder.of_dead(atoms, rows, found.pre, residual, dead, num)
        return jnp.mean((residual - decode_sparse(codes, atoms)) ** 2)

    return lax.cond(dead.any(), error, lambda: jnp.zeros((), residual.dtype))
