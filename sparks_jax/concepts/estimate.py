"""What a method of concept importance returns: values, and the error that comes of sampling."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from sparks_jax import stream

Codes = Float[Array, "*p k"]
Numbers = Float[Array, " k"]
Key = PRNGKeyArray | None


class Estimate(NamedTuple):
    """How important each concept is, and how sure that is.

    Attributes:
        values: `(k,)`.
        stderr: `(k,)` standard error that the estimator has because it samples; zero where it does not.
    """

    values: Float[Array, " k"]
    stderr: Float[Array, " k"]


def certain(values: Numbers) -> Estimate:
    """Values without a sampling error.

    Args:
        values: `(k,)`.
    """
    return Estimate(values, jnp.zeros_like(values))


def needed(key: Key, who: str) -> PRNGKeyArray:
    """The key of a method that samples.

    Args:
        key: What was given.
        who: The method that speaks.

    Raises:
        ValueError: If there is none.
    """
    if key is None:
        raise ValueError(f"{who}: there is no key, expected key=jax.random.key(…): this importance is sampled")
    return key


def replicated(run: Callable[[PRNGKeyArray], Numbers], key: Key, num_replicates: int, who: str) -> Estimate:
    """The mean of independent repetitions, and its standard error.

    Args:
        run: From a key to values.
        key: As in `needed`.
        num_replicates: How many, at least 2.
        who: The method that speaks.

    Raises:
        ValueError: Without a key, or with fewer than two repetitions.
    """
    if num_replicates < 2:
        raise ValueError(f"{who}: num_replicates is {num_replicates}, expected at least 2 for a standard error")
    keys = jax.random.split(needed(key, who), num_replicates)
    mean, variance = stream.moments_over(run, keys, 1)
    return Estimate(mean, jnp.sqrt(variance / num_replicates))
