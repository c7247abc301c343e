"""What would the network say if there were more, or less, of a concept?"""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from sparks_jax.concepts.dictionary import Dictionary, decode, encode
from sparks_jax.types import Scalar, Score


def edit(
    head: Score,
    dictionary: Dictionary,
    acts: Float[Array, "*positions d"],
    concept: Any,
    value: Any,
    *,
    keep_rest: bool = True,
) -> Scalar:
    r"""The score of an image after the codes of some concepts are set.

    $h(a + \sigma (u' - u) D)$ with $u'_k = v$ at every position: only what the codes say is changed, and what the
    dictionary leaves out of the activations stays (`keep_rest`); without it, $h$ of what the new codes decode to.

    Cost: 1 F of the head.

    Args:
        head: From the activations of one image to a number.
        dictionary: The concepts.
        acts: `(… d)` activations of one image.
        concept: The number of the concept, or an array of numbers.
        value: What its code becomes: 0 removes it. A number, or one for each of the concepts.
        keep_rest: Whether the residual $a - \mathrm{decode}(u)$ is kept.

    Example:
        >>> from sparks_jax.concepts import nmf
        >>> acts = jnp.array([[2.0, 0.0], [0.0, 3.0]])
        >>> found = nmf(acts, 2, key=jax.random.key(0)).dictionary
        >>> first = found.atoms.argmax(1).tolist().index(0)
        >>> print(edit(lambda a: a.sum(), found, acts[0], first, 5.0).round(2))
        5.0

    Reference:
        Fel et al. 2023, arXiv:2306.07304. Koh et al. 2020, Concept bottleneck models, arXiv:2007.04612 (interventions).
    """
    codes = encode(dictionary, acts)
    index = jnp.atleast_1d(jnp.asarray(concept))
    changed = codes.at[..., index].set(jnp.asarray(value, codes.dtype))
    rest = acts - decode(dictionary, codes) if keep_rest else 0
    return head(decode(dictionary, changed) + rest)
