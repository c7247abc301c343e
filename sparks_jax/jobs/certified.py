r"""Certified importance of concepts: what each can do to a score, whatever the others do, by bounds in code space.

The two pillars meet here: concepts know nothing of bounds, and bounds nothing of concepts.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from sparks_jax import stream, verify
from sparks_jax.concepts import Dictionary, of_codes
from sparks_jax.types import Box, Score

Bound = Callable[..., Box]


def certified_importance(
    head: Score,
    dictionary: Dictionary,
    codes: Float[Array, "n *p k"],
    *,
    bound: Bound = verify.crown,
) -> Box:
    r"""Bounds of what a concept adds to a score, for every amount of all the others.

    $\underline\phi_k \le F(u \odot m) \big|_{m_k = 1} - F(u \odot m) \big|_{m_k = 0} \le \overline\phi_k$ for every
    mask $m \in [0, 1]^k$, one number for each concept, with $F(u) = h(\mu + \sigma\, u D)$

    Occlusion (all other concepts there) and Shapley values (the mean over orders of appearance) are such differences or
    means of them, so they lie between; a lower bound above 0 proves that the concept speaks for the class in whatever
    company, an upper bound below 0 that it speaks against it. Both bounds are the contribution $\omega_k$ itself where
    the head is affine. They are bounds in real arithmetic; `bound=functools.partial(verify.crown, outward=True)` adds
    what rounding can change.

    Cost: that of the bound for 2 k evaluations of the head with k outputs, for each image.

    Args:
        head: A score of the activations of one image, of primitives that have rules for bounds.
        dictionary: The concepts.
        codes: $u$: one code each image `(n k)`, or one each position `(n gh gw k)` or token `(n t k)`.
        bound: `(f, box) -> Box`: `verify.crown`, `verify.ibp` (looser: it forgets that both evaluations share a mask),
            or `functools.partial(verify.alpha_crown, steps=…)`.

    Returns:
        The bounds, `(n k)` each.

    Raises:
        UnsupportedPrimitive: If the head has an equation that has no rule.
        ValueError: If the codes fit no dictionary, or the head returns more than a number.

    Example:
        >>> from sparks_jax.concepts import nonnegative
        >>> colours = Dictionary(jnp.eye(2), jnp.zeros(2), jnp.ones(()), jax.tree_util.Partial(nonnegative))
        >>> either = lambda acts: jax.nn.relu(acts @ jnp.array([2.0, 2.0]) - 0.5)  # adds 1.5 alone, 2 to the other
        >>> bounds = certified_importance(either, colours, jnp.ones((1, 2)))
        >>> bounds.lower.round(2).tolist(), bounds.upper.round(2).tolist()
        ([[1.5, 1.5]], [[2.0, 2.0]])

    Reference:
        Fel et al. 2023, arXiv:2306.07304; Zhang et al. 2018, arXiv:1811.00866, for the bounds.
    """
    f, k = of_codes(head, dictionary), dictionary.atoms.shape[0]
    if codes.ndim < 2 or codes.shape[-1] != k or 0 in codes.shape:
        raise ValueError(
            f"certified_importance: codes have shape {codes.shape}, expected one for each image (n, {k}), or for each "
            f"of its positions (n, gh, gw, {k}); give one image as codes[None]"
        )
    shape = jnp.shape(jax.eval_shape(f, codes[0]))
    if shape != ():
        raise ValueError(
            f"certified_importance: head returned shape {shape} for the activations of one image, expected one number; "
            "pass a score, such as scores.logit(network.head, label)"
        )
    everything = Box(jnp.zeros(k, codes.dtype), jnp.ones(k, codes.dtype))

    def of_image(u: Array) -> Box:
        return bound(lambda mask: _differences(f, u, mask), everything)

    return stream.stack_over(of_image, codes, 1)


def _differences(f: Score, u: Float[Array, "*p k"], mask: Float[Array, " k"]) -> Float[Array, " k"]:
    """What each concept adds, given the mask of the others."""
    k = mask.shape[0]
    one = jnp.eye(k, dtype=mask.dtype)
    others = mask[None] * (1 - one)
    masked = lambda m: f(u * m.reshape((1,) * (u.ndim - 1) + (k,)))
    return jax.vmap(masked)(others + one) - jax.vmap(masked)(others)
