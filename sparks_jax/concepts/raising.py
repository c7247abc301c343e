r"""Concept importance from derivatives: a score as a function of how much of each concept is added, there or not.

As in `fading`, a concept is one input wherever it is: codes are raised by one amount for each concept,
$s \mapsto f(u + s)$, and `sensitivity` says how the score depends on these $k$ numbers.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from sparks_jax import sensitivity
from sparks_jax.concepts.estimate import Codes, Estimate, Key, Numbers, certain, replicated
from sparks_jax.types import Scalar, Score


def raising(f: Score, codes: Codes) -> Callable[[Numbers], Scalar]:
    r"""A score of codes as a function of how much of each concept is added.

    $s \mapsto f(u + s)$, at all positions alike

    Its gradient is the derivative of the score along the concepts: $\langle \nabla_a f, d_k \rangle$ summed over
    positions, times the scale of the dictionary.

    Args:
        f: A score of codes.
        codes: $u$.

    Example:
        >>> raising(jnp.sum, jnp.zeros((2, 2)))(jnp.array([1.0, 0.0])).item()
        2.0

    Reference:
        Kim et al. 2018, Interpretability beyond feature attribution: testing with concept activation vectors,
        arXiv:1711.11279.
    """
    return lambda s: f(codes + s.astype(codes.dtype).reshape((1,) * (codes.ndim - 1) + (-1,)))


def saliency(f: Score, codes: Codes, *, key: Key = None) -> Estimate:
    r"""Magnitude of the derivative of a score along each concept, whether it is there or not.

    $\phi_k = \left| \partial f(u + s) / \partial s_k \right|_{s = 0}$

    Cost: 1 B. Unsigned.

    Args:
        f: A score of codes.
        codes: $u$.
        key: Not used.

    Example:
        >>> saliency(lambda u: u @ jnp.array([3.0, -1.0]), jnp.array([2.0, 0.0])).values.tolist()
        [3.0, 1.0]

    Reference:
        Fel et al. 2023, A holistic approach to unifying automatic concept extraction and concept importance estimation,
        arXiv:2306.07304.
    """
    return certain(sensitivity.saliency(raising(f, codes), _zeros(codes)))


def smoothgrad(
    f: Score, codes: Codes, *, key: Key = None, sigma: float | Scalar = 0.2, num_samples: int = 16,
    num_replicates: int = 4, chunk: int = 16,
) -> Estimate:  # fmt: skip
    r"""Derivative of a score along each concept, averaged over neighbours.

    $\phi_k = \mathbb{E}_\epsilon\, \partial f(u + \epsilon + s) / \partial s_k$ with one Gaussian $\epsilon_k$ for each
    concept

    Cost: `num_samples` `num_replicates` B. Signed.

    Args:
        f: A score of codes.
        codes: $u$.
        key: Draws the noise.
        sigma: Standard deviation of the noise as a share of the largest code, which makes it independent of their unit.
        num_samples: Neighbours in each replicate.
        num_replicates: Independent repetitions, whose spread is the standard error.
        chunk: Evaluations at once.

    Example:
        >>> f = lambda u: u @ jnp.array([3.0, -1.0])
        >>> smoothgrad(f, jnp.array([2.0, 0.0]), key=jax.random.key(0)).values.tolist()
        [3.0, -1.0]

    Reference:
        Smilkov et al. 2017, SmoothGrad: removing noise by adding noise, arXiv:1706.03825.
    """
    options: dict[str, Any] = dict(sigma=_noise(codes, sigma), num_samples=num_samples, chunk=chunk)
    run = lambda key: sensitivity.smoothgrad(raising(f, codes), _zeros(codes), key=key, **options)
    return replicated(run, key, num_replicates, "smoothgrad")


def squaregrad(
    f: Score, codes: Codes, *, key: Key = None, sigma: float | Scalar = 0.2, num_samples: int = 16,
    num_replicates: int = 4, chunk: int = 16,
) -> Estimate:  # fmt: skip
    r"""Squared derivative of a score along each concept, averaged over neighbours.

    $\phi_k = \mathbb{E}_\epsilon \left( \partial f(u + \epsilon + s) / \partial s_k \right)^2$

    Cost: `num_samples` `num_replicates` B. Unsigned.

    Args:
        f: A score of codes.
        codes: $u$.
        key: As in `smoothgrad`.
        sigma: As in `smoothgrad`.
        num_samples: As in `smoothgrad`.
        num_replicates: As in `smoothgrad`.
        chunk: As in `smoothgrad`.

    Example:
        >>> f = lambda u: u @ jnp.array([3.0, -1.0])
        >>> squaregrad(f, jnp.array([2.0, 0.0]), key=jax.random.key(0)).values.tolist()
        [9.0, 1.0]

    Reference:
        Hooker et al. 2019, A benchmark for interpretability methods in deep neural networks, arXiv:1806.10758.
    """
    options: dict[str, Any] = dict(sigma=_noise(codes, sigma), num_samples=num_samples, chunk=chunk)
    run = lambda key: sensitivity.squaregrad(raising(f, codes), _zeros(codes), key=key, **options)
    return replicated(run, key, num_replicates, "squaregrad")


def vargrad(
    f: Score, codes: Codes, *, key: Key = None, sigma: float | Scalar = 0.2, num_samples: int = 16,
    num_replicates: int = 4, chunk: int = 16,
) -> Estimate:  # fmt: skip
    r"""Variance over neighbours of the derivative of a score along each concept.

    $\phi_k = \mathbb{V}_\epsilon\, \partial f(u + \epsilon + s) / \partial s_k$

    Cost: `num_samples` `num_replicates` B. Unsigned; zero for an affine score.

    Args:
        f: A score of codes.
        codes: $u$.
        key: As in `smoothgrad`.
        sigma: As in `smoothgrad`.
        num_samples: As in `smoothgrad`; at least 2.
        num_replicates: As in `smoothgrad`.
        chunk: As in `smoothgrad`.

    Example:
        >>> f = lambda u: u @ jnp.array([3.0, -1.0])
        >>> vargrad(f, jnp.array([2.0, 0.0]), key=jax.random.key(0)).values.tolist()
        [0.0, 0.0]

    Reference:
        Adebayo et al. 2018, Local explanation methods for deep neural networks lack sensitivity to parameter values,
        arXiv:1810.03307.
    """
    options: dict[str, Any] = dict(sigma=_noise(codes, sigma), num_samples=num_samples, chunk=chunk)
    run = lambda key: sensitivity.vargrad(raising(f, codes), _zeros(codes), key=key, **options)
    return replicated(run, key, num_replicates, "vargrad")


def tcav(f: Score, codes: Codes, *, key: Key = None) -> Estimate:
    r"""Whether a score rises along each concept: its mean over images is the TCAV score.

    $\phi_k = \left[\, \partial f(u + s) / \partial s_k > 0 \,\right]_{s = 0}$

    Cost: 1 B. 0 or 1.

    Args:
        f: A score of codes.
        codes: $u$.
        key: Not used.

    Example:
        >>> tcav(lambda u: u @ jnp.array([3.0, -1.0]), jnp.array([2.0, 0.0])).values.tolist()
        [1.0, 0.0]

    Reference:
        Kim et al. 2018, Interpretability beyond feature attribution: testing with concept activation vectors,
        arXiv:1711.11279.
    """
    slope = sensitivity.gradient(raising(f, codes), _zeros(codes))
    return certain((slope > 0).astype(codes.dtype))


def _noise(codes: Codes, sigma: float | Scalar) -> Scalar:
    return sigma * jax.lax.stop_gradient(jnp.abs(codes).max())


def _zeros(codes: Codes) -> Numbers:
    return jnp.zeros(codes.shape[-1], codes.dtype)
