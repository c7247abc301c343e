r"""Matching pursuit: one atom at a time, each the one that explains most of what is left."""

import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Bool, Float

from sparks_jax.concepts.sae_codes import Codes, densify


def matching_pursuit(
    atoms: Float[Array, "k d"],
    rows: Float[Array, "n d"],
    *,
    num_steps: int,
    allowed: Bool[Array, " k"] | None = None,
) -> Codes:
    r"""Non-negative matching pursuit: the best atom, its coefficient, and again with the residual.

    $i = \arg\max_k \langle r, d_k \rangle / \|d_k\|$, $v = [\langle r, d_i \rangle]_+ / \|d_i\|^2$,
    $r \leftarrow r - v\, d_i$, from $r = a$

    The residual never grows: $\|r - v d_i\|^2 = \|r\|^2 - v^2 \|d_i\|^2$. Once no atom points towards it, the other
    entries are 0. Differentiable through the inner products, with the chosen atoms held.

    Cost: `num_steps` products of all rows with all atoms.

    Args:
        atoms: One each row; their norms do not matter.
        rows: What is explained.
        num_steps: Entries a row. An atom may be taken twice, and its entries add up.
        allowed: Which atoms may be taken; None: all.

    Example:
        >>> matching_pursuit(jnp.eye(3), jnp.array([[1.0, 3.0, -2.0]]), num_steps=3).values.tolist()
        [[3.0, 1.0, 0.0]]

    Reference:
        Mallat & Zhang 1993, Matching pursuits with time-frequency dictionaries. Costa, Fel et al. 2025, From flat to
        hierarchical: extracting sparse representations with matching pursuit, arXiv:2506.03093.
    """
    norms = jnp.maximum(jnp.linalg.norm(lax.stop_gradient(atoms), axis=1), jnp.finfo(atoms.dtype).tiny)
    directions = (lax.stop_gradient(atoms) / norms[:, None]).T

    def step(residual, _):
        scores = lax.stop_gradient(residual) @ directions
        scores = scores if allowed is None else jnp.where(allowed[None], scores, -jnp.inf)
        index = scores.argmax(1)
        atom, possible = atoms[index], jnp.take_along_axis(scores, index[:, None], 1)[:, 0] > 0
        squared = jnp.sum(atom**2, axis=1)
        ratio = jnp.sum(residual * atom, axis=1) / jnp.where(possible, squared, 1)
        value = jnp.where(possible, ratio, 0)
        return residual - value[:, None] * atom, (value, index)

    values, indices = lax.scan(step, rows, length=num_steps)[1]
    return Codes(values.T, indices.T)


class Pursuit(nnx.Module):
    """An encoder without weights: matching pursuit on the atoms themselves.

    Reference:
        Costa, Fel et al. 2025, arXiv:2506.03093.
    """

    def __init__(self, num_steps: int):
        """Take at most `num_steps` atoms for each row."""
        if num_steps < 1:
            raise ValueError(f"Pursuit: num_steps is {num_steps}, expected at least 1")
        self.num_steps = num_steps

    def __call__(self, atoms: Float[Array, "k d"], rows: Float[Array, "n d"]) -> Float[Array, "n k"]:
        """Codes of standardised rows."""
        return densify(matching_pursuit(atoms, rows, num_steps=self.num_steps), len(atoms))

    def of_batch(self, atoms: Float[Array, "k d"], rows: Float[Array, "n d"]) -> tuple[None, Codes]:
        """No pre-activations, and codes."""
        return None, matching_pursuit(atoms, rows, num_steps=self.num_steps)

    def of_dead(
        self,
        atoms: Float[Array, "k d"],
        rows: Float[Array, "n d"],
        pre: Float[Array, "n k"] | None,
        residual: Float[Array, "n d"],
        dead: Bool[Array, " k"],
        num: int,
    ) -> Codes:
        """The pursuit of a residual by dead atoms alone, in no more than `num` steps."""
        del rows, pre
        return matching_pursuit(atoms, residual, num_steps=min(num, self.num_steps), allowed=dead)

    def observed(self, codes: Array | Codes) -> "Pursuit":
        """The encoder after it has seen the codes of a batch."""
        del codes
        return self
