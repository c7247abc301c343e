"""Coalitions: which inputs are present (1) and which are hidden (0), and what a number loses when one is hidden."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from sparks_jax import stream
from sparks_jax.types import Scalar

# A number that depends on which of `dim` inputs are present: 1 present, 0 hidden.
Game = Callable[[Float[Array, " dim"]], Scalar]


def leave_one_out(g: Game, dim: int, *, chunk: int = 64) -> Float[Array, " dim"]:
    r"""What a number loses when one input is hidden and all the others are present.

    $\phi_i = g(\mathbf 1) - g(\mathbf 1 - e_i)$

    Blind to what another input can replace: two inputs that say the same both get zero.

    Cost: dim + 1 evaluations of `g`. Signed.

    Args:
        g: From a coalition, `(dim,)` of zeros and ones, to one number.
        dim: Number of inputs.
        chunk: Evaluations at once.

    Example:
        >>> leave_one_out(lambda z: 3 * z[0] + jnp.maximum(z[1], z[2]), 3)
        Array([3., 0., 0.], dtype=float32)

    Reference:
        Lei et al. 2018, Distribution-free predictive inference for regression, arXiv:1604.04173 (section 6).
    """

    def value(hidden: Int[Array, ""]) -> Scalar:
        return g((jnp.arange(dim) != hidden).astype(float))

    values = stream.stack_over(value, jnp.arange(dim + 1), chunk)  # number `dim` hides nothing
    return values[dim] - values[:dim]


def random_coalitions(
    num_samples: int, dim: int, *, key: PRNGKeyArray, keep: float | Float[Array, ""] = 0.5
) -> Bool[Array, "num_samples dim"]:
    r"""The full coalition, then random ones: what LIME looks at.

    $z_0 = \mathbf 1$ and $z_{ki} \sim \mathcal B(q)$, independent.

    Args:
        num_samples: How many, with the full one.
        dim: Number of inputs.
        key: Draws the coalitions.
        keep: Probability q that an input is present.

    Example:
        >>> random_coalitions(3, 2, key=jax.random.key(0), keep=0.0).tolist()
        [[True, True], [False, False], [False, False]]

    Reference:
        Ribeiro et al. 2016, "Why should I trust you?": explaining the predictions of any classifier, arXiv:1602.04938.
    """
    drawn = jax.random.bernoulli(key, keep, (num_samples - 1, dim))
    return jnp.concatenate([jnp.ones((1, dim), bool), drawn])


def mean_while_present(
    g: Callable[[Any], Scalar],
    draw: Callable[[PRNGKeyArray], Float[Array, "*d"]],
    *,
    key: PRNGKeyArray,
    num_masks: int = 4000,
    chunk: int = 64,
) -> Float[Array, "*d"]:
    r"""Mean of a number over random masks, each input weighting them by how much of it is present.

    $\phi_i = \sum_k g(m_k)\, m_{ki} \,/\, \sum_k m_{ki}$

    An estimate of $\mathbb{E}[g(m) \mid i \text{ present}]$: only differences between inputs mean something, since a
    constant gives that constant. 0 for an input that is in no mask.

    Cost: `num_masks` evaluations of `g`.

    Args:
        g: From a mask, in [0, 1], to one number.
        draw: From a key to a mask, of any shape.
        key: Draws the masks, each from a key of its own.
        num_masks: How many.
        chunk: Evaluations at once.

    Example:
        >>> draw = lambda key: jax.random.bernoulli(key, shape=(2,)).astype(float)
        >>> phi = mean_while_present(lambda m: 4 * m[0], draw, key=jax.random.key(0))
        >>> [round(float(v)) for v in phi]  # 4 while the first is present; 4 in one of two masks with the second
        [4, 2]

    Reference:
        Petsiuk et al. 2018, RISE: randomized input sampling for explanation of black-box models, arXiv:1806.07421.
    """

    def seen(key: PRNGKeyArray) -> tuple[Array, Array]:
        mask = draw(key)
        return g(mask) * mask, mask

    weighted, present = stream.mean_over(seen, jax.random.split(key, num_masks), chunk)
    return jnp.where(present > 0, weighted / jnp.where(present > 0, present, 1), 0)
