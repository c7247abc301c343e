r"""Sparse autoencoders: dictionaries that are trained, one step at a time, and used like any other.

| kind | encoder | what is added to the loss |
| --- | --- | --- |
| ReLU | `LinearEncoder(atoms)` | `l1_penalty` |
| TopK | `TopKEncoder(atoms, k=32)` | |
| BatchTopK | `BatchTopKEncoder(atoms, k=32)` | |
| JumpReLU | `JumpReLUEncoder(atoms)` | `l0_penalty` |
| matching pursuit | `Pursuit(32)` | |
| archetypal | any, on `Archetypes` instead of `Atoms` | |

To each of them `auxiliary_loss` adds what revives dead concepts. There is no trainer: a step is

    found = forward(sae, acts)                                        # inside the function that is differentiated
    loss = reconstruction_loss(found) + AUXK * auxiliary_loss(sae, found)
    sae = observed(constrained(sae), found)                           # after the step of the optimiser

and `experiments/sae_activations.py` is a loop of them. Activations are standardised first, and the statistics are part
of the state, so that no concept has to be their mean.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.core import Tracer
from jax.tree_util import Partial
from jaxtyping import Array, Bool, Float

from sparks_jax.concepts.dictionary import Dictionary, decode, encode
from sparks_jax.concepts.sae_atoms import Archetypes, Atoms
from sparks_jax.concepts.sae_codes import Codes, decode_sparse
from sparks_jax.concepts.sae_encoders import LinearEncoder, Statistic
from sparks_jax.concepts.sae_pursuit import Pursuit


class SparseAutoencoder(nnx.Module):
    r"""Activations as sparse mixtures of atoms.

    $a \approx \mu + \sigma\, (c + z D)$ with $z = \mathrm{encoder}((a - \mu) / \sigma - c)$

    `dictionary()` is the same thing as a `Dictionary`, for all that takes one; `encode` and `decode` go through it.

    Reference:
        Bricken et al. 2023, Towards monosemanticity: decomposing language models with dictionary learning. Gao et al.
        2024, Scaling and evaluating sparse autoencoders, arXiv:2406.04093.
    """

    def __init__(
        self,
        atoms: Atoms | Archetypes,
        encoder: LinearEncoder | Pursuit,
        *,
        mean: Float[Array, " d"] | None = None,
        scale: float | Float[Array, ""] = 1.0,
    ):
        """Put an encoder and atoms together, for activations of this mean and scale (`standardization`)."""
        num_concepts, features = atoms().shape
        self.atoms, self.encoder = atoms, encoder
        self.offset = nnx.Param(jnp.zeros(features))
        self.mean = Statistic(jnp.zeros(features) if mean is None else jnp.asarray(mean))
        self.scale = Statistic(jnp.asarray(scale, self.mean[...].dtype))
        self.idle = Statistic(jnp.zeros(num_concepts, jnp.int32))  # steps since each concept was last used

    def dictionary(self) -> Dictionary:
        """What has been learned, for `concepts.encode` and everything above it."""
        mean = self.mean[...] + self.scale[...] * self.offset[...]
        return Dictionary(self.atoms(), mean, self.scale[...], Partial(_encode, self.encoder))

    def encode(self, acts: Float[Array, "*batch d"]) -> Float[Array, "*batch k"]:
        """Codes of activations, each by itself."""
        return encode(self.dictionary(), acts)

    def decode(self, codes: Float[Array, "*batch k"]) -> Float[Array, "*batch d"]:
        """Activations from codes."""
        return decode(self.dictionary(), codes)

    def __call__(self, acts: Float[Array, "*batch d"]) -> Float[Array, "*batch d"]:
        """Activations as the autoencoder gives them back."""
        return self.decode(self.encode(acts))


def _encode(encoder, atoms, rows):
    return encoder(atoms, rows)


class Forward(NamedTuple):
    """A batch on its way through an autoencoder in training.

    Attributes:
        rows: `(n d)` the activations, standardised, less the offset: what the atoms have to explain.
        pre: `(n k)` pre-activations; None where the encoder has none.
        codes: `(n k)`, or their entries.
        reconstruction: `(n d)` of `rows`.
    """

    rows: Float[Array, "n d"]
    pre: Float[Array, "n k"] | None
    codes: Float[Array, "n k"] | Codes
    reconstruction: Float[Array, "n d"]


def standardization(acts: Float[Array, "n d"]) -> tuple[Float[Array, " d"], Float[Array, ""]]:
    r"""Mean activation, and the root mean square of all entries around it.

    $\mu = \frac1n \sum_i a_i$, $\sigma^2 = \frac{1}{n d} \sum_i \|a_i - \mu\|^2$

    One scale for all channels: what is large in the network stays large.

    Args:
        acts: Activations, one each row.

    Raises:
        ValueError: For activations that are all the same, if they are known when this is traced.

    Example:
        >>> mean, scale = standardization(jnp.array([[1.0, 0.0], [3.0, 0.0]]))
        >>> mean.tolist(), scale.round(4).item()
        ([2.0, 0.0], 0.7...)

    Reference:
        Gao et al. 2024, arXiv:2406.04093, appendix A.
    """
    mean = acts.mean(0)
    scale = jnp.sqrt(jnp.mean((acts - mean[None]) ** 2))
    if not isinstance(scale, Tracer) and not scale > 0:
        raise ValueError(
            f"standardization: {len(acts)} activations that are all the same, or not finite, have no scale"
        )
    return mean, scale


def forward(sae: SparseAutoencoder, acts: Float[Array, "n d"]) -> Forward:
    r"""A batch in training: as `sae(acts)`, but what an encoder does with a whole batch it does.

    Cost: the product of activations and encoder, and the decoding: j d multiplications a row for codes of j entries.

    Args:
        sae: The autoencoder.
        acts: Activations, as the network has them.

    Raises:
        ValueError: If the activations have another number of channels than the atoms.

    Example:
        >>> from flax import nnx
        >>> from sparks_jax.concepts import TopKEncoder
        >>> atoms = Atoms(8, 16, rngs=nnx.Rngs(0))
        >>> sae = SparseAutoencoder(atoms, TopKEncoder(atoms(), k=2))
        >>> forward(sae, jnp.ones((4, 8))).codes.values.shape
        (4, 2)

    Reference:
        Gao et al. 2024, arXiv:2406.04093.
    """
    atoms = sae.atoms()
    if acts.ndim != 2 or acts.shape[1] != atoms.shape[1]:
        raise ValueError(
            f"forward: activations have shape {acts.shape}, expected (n, {atoms.shape[1]}) as the atoms have"
        )
    rows = (acts - sae.mean[...][None]) / sae.scale[...] - sae.offset[...][None]
    pre, codes = sae.encoder.of_batch(atoms, rows)
    reconstruction = decode_sparse(codes, atoms) if isinstance(codes, Codes) else codes @ atoms
    return Forward(rows, pre, codes, reconstruction)


def constrained(sae: SparseAutoencoder) -> SparseAutoencoder:
    """The autoencoder after a step, with its atoms where they have to be: of norm 1, or within the archetypal set.

    Example:
        >>> from flax import nnx
        >>> atoms = Atoms(8, 16, rngs=nnx.Rngs(0))
        >>> sae = SparseAutoencoder(atoms, LinearEncoder(atoms()))
        >>> sae.atoms.rows[...] *= 2
        >>> jnp.linalg.norm(constrained(sae).atoms.rows[...], axis=1).max().round(4).item()
        1.0

    Reference:
        Bricken et al. 2023.
    """
    sae = _copy(sae)
    sae.atoms = sae.atoms.constrained()
    return sae


def observed(sae: SparseAutoencoder, found: Forward) -> SparseAutoencoder:
    """The autoencoder with its counters advanced by a batch: steps since each concept was used, running threshold.

    Example:
        >>> from flax import nnx
        >>> atoms = Atoms(2, 3, rngs=nnx.Rngs(0))
        >>> sae = SparseAutoencoder(atoms, LinearEncoder(atoms()))
        >>> found = forward(sae, atoms()[:1])._replace(codes=jnp.array([[0.0, 2.0, 0.0]]))
        >>> observed(observed(sae, found), found).idle[...].tolist()
        [2, 0, 2]

    Reference:
        Gao et al. 2024, arXiv:2406.04093, appendix A.
    """
    sae, codes = _copy(sae), jax.lax.stop_gradient(found.codes)
    if isinstance(codes, Codes):
        used = jnp.zeros(sae.idle[...].shape, bool).at[codes.indices].max(codes.values > 0)
    else:
        used = (codes > 0).any(0)
    sae.idle[...] = jnp.where(used, 0, sae.idle[...] + 1)
    sae.encoder = sae.encoder.observed(codes)
    return sae


def _copy(sae):
    return nnx.merge(*nnx.split(sae), copy=True)


class Quality(NamedTuple):
    r"""How well a dictionary describes activations, and in how many words.

    Attributes:
        r2: $1 - \sum \|a - \hat a\|^2 / \sum \|a - \bar a\|^2$, over all entries.
        l0: Concepts used for an activation, on average.
        used: `(k)` whether each concept is used at all.
    """

    r2: Float[Array, ""]
    l0: Float[Array, ""]
    used: Bool[Array, " k"]


def quality(dictionary: Dictionary, acts: Float[Array, "n d"]) -> Quality:
    """How well a dictionary describes activations that it was not fitted to.

    Example:
        >>> from jax.tree_util import Partial
        >>> positive = Partial(lambda atoms, rows: jax.nn.relu(rows))
        >>> dictionary = Dictionary(jnp.eye(3), jnp.zeros(3), jnp.ones(()), positive)
        >>> found = quality(dictionary, jnp.array([[1.0, 0.0, 0.0], [3.0, 2.0, 0.0]]))
        >>> found.r2.item(), found.l0.item(), found.used.tolist()
        (1.0, 1.5, [True, True, False])

    Reference:
        Gao et al. 2024, arXiv:2406.04093.
    """
    codes = encode(dictionary, acts)
    lost = jnp.sum((acts - decode(dictionary, codes)) ** 2)
    spread = jnp.sum((acts - acts.mean(0, keepdims=True)) ** 2)
    active = codes != 0
    return Quality(1 - lost / spread, active.sum() / len(acts), active.any(0))
