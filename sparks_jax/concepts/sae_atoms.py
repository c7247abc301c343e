r"""The atoms of a sparse autoencoder: free directions of norm 1, or mixtures of points that were seen."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray

from sparks_jax.concepts.archetypal import project_simplex
from sparks_jax.concepts.dictionary import unit
from sparks_jax.concepts.sae_encoders import Statistic


class Atoms(nnx.Module):
    r"""Free atoms of norm 1.

    They are divided by their norms where they are used, so that their gradient is tangent to the sphere:
    $\partial f(d / \|d\|) / \partial d = (I - d d^\top) \nabla f$ at $\|d\| = 1$. The step of an optimiser with
    momentum leaves the sphere all the same, and `constrained` brings them back.

    Reference:
        Gao et al. 2024, Scaling and evaluating sparse autoencoders, arXiv:2406.04093, appendix A.
    """

    def __init__(self, features: int, num_concepts: int, *, rngs: nnx.Rngs):
        """Draw directions uniformly."""
        rows = jax.random.normal(rngs.params(), (num_concepts, features))
        self.rows = nnx.Param(unit(rows))

    def __call__(self) -> Float[Array, "k d"]:
        """The atoms."""
        return unit(self.rows[...])

    def constrained(self) -> "Atoms":
        """The same atoms after a step, with norm 1."""
        self.rows[...] = unit(self.rows[...])
        return self


class Archetypes(nnx.Module):
    r"""Atoms that are mixtures of points, within a distance: $D = e^m (W C + \Lambda)$.

    Rows of W lie on the simplex and rows of $\Lambda$ in a ball of radius $\delta$. The projections are Euclidean,
    so that a point itself can be an atom. Each row starts between two random points: autoencoders that agree over
    seeds agree because of the data, not because they started alike.

    Reference:
        Fel et al. 2025, Archetypal SAE: adaptive and stable dictionary learning for concept extraction in large vision
        models, arXiv:2502.12892.
    """

    def __init__(self, points: Float[Array, "n d"], num_concepts: int, *, relaxation: float = 1.0, rngs: nnx.Rngs):
        """Mix these points, in standardised units: centroids of activations, say; `relaxation` is the radius."""
        self.points = Statistic(points)
        self.weights = nnx.Param(_between_two(rngs.params(), num_concepts, len(points)))
        self.shifts = nnx.Param(jnp.zeros((num_concepts, points.shape[1]), points.dtype))
        self.log_scale = nnx.Param(jnp.zeros((), points.dtype))
        self.relaxation = relaxation

    def __call__(self) -> Float[Array, "k d"]:
        """The atoms."""
        return jnp.exp(self.log_scale[...]) * (self.weights[...] @ self.points[...] + self.shifts[...])

    def constrained(self) -> "Archetypes":
        """The same atoms after a step, within their constraints."""
        self.weights[...] = project_simplex(self.weights[...])
        norms = jnp.linalg.norm(self.shifts[...], axis=1, keepdims=True)
        tiny = jnp.finfo(norms.dtype).tiny
        self.shifts[...] = self.shifts[...] * jnp.minimum(1, self.relaxation / jnp.maximum(norms, tiny))
        return self


def _between_two(key: PRNGKeyArray, num_concepts: int, num_points: int) -> Float[Array, "k n"]:
    """Rows with most of their weight on one point and the rest on another."""
    key_pairs, key_shares = jax.random.split(key)
    pairs = jax.random.randint(key_pairs, (num_concepts, 2), 0, num_points)
    share = jax.random.uniform(key_shares, (num_concepts, 1), minval=0.5)
    weights = jnp.concatenate([share, 1 - share], axis=1)
    return jnp.zeros((num_concepts, num_points)).at[jnp.arange(num_concepts)[:, None], pairs].add(weights)
