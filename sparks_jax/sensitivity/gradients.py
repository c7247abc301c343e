r"""How a number depends on an array, to first order: the gradient and its averages.

Any array: an image, a code of concepts, a row of a table. Costs are in B, one forward and backward pass of the score.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from sparks_jax import stream
from sparks_jax.types import Score

Inputs = Float[Array, "*d"]
Quadrature = Callable[[int], tuple[np.ndarray, np.ndarray]]


def gradient(f: Score, x: Inputs) -> Inputs:
    r"""Gradient of a score.

    $\phi = \nabla f(x)$

    Cost: 1 B. Signed.

    Example:
        >>> gradient(lambda x: (x**2).sum(), jnp.array([1.0, -3.0]))
        Array([ 2., -6.], dtype=float32)

    Reference:
        Baehrens et al. 2010, How to explain individual classification decisions, arXiv:0912.1128.
    """
    return jax.grad(f)(x)


def saliency(f: Score, x: Inputs) -> Inputs:
    r"""Magnitude of the gradient of a score.

    $\phi = |\nabla f(x)|$

    Cost: 1 B. Unsigned; the paper takes the maximum over channels, `images.heatmap(a, "max")`.

    Example:
        >>> saliency(lambda x: (x**2).sum(), jnp.array([1.0, -3.0]))
        Array([2., 6.], dtype=float32)

    Reference:
        Simonyan et al. 2014, Deep inside convolutional networks, arXiv:1312.6034.
    """
    return jnp.abs(jax.grad(f)(x))


def gradient_input(f: Score, x: Inputs) -> Inputs:
    r"""Gradient times input.

    $\phi = x \odot \nabla f(x)$

    Cost: 1 B. Signed; complete for a score that is linear without a constant.

    Example:
        >>> gradient_input(lambda x: 2 * x.sum(), jnp.array([1.0, -3.0]))
        Array([ 2., -6.], dtype=float32)

    Reference:
        Shrikumar et al. 2016, Not just a black box, arXiv:1605.01713.
    """
    return x * jax.grad(f)(x)


def gauss_legendre(num_steps: int) -> tuple[np.ndarray, np.ndarray]:
    r"""Nodes and weights on [0, 1], exact for polynomials of degree $2n - 1$.

    $\int_0^1 g(t)\,dt \approx \sum_{k=1}^n w_k\, g(t_k)$, $t_k$ the roots of Legendre's polynomial moved to [0, 1].

    Example:
        >>> t, w = gauss_legendre(2)
        >>> round(float((w * t**3).sum()), 6)
        0.25

    Reference:
        Abramowitz & Stegun 1964, Handbook of mathematical functions, 25.4.29.
    """
    nodes, weights = np.polynomial.legendre.leggauss(num_steps)
    return (nodes + 1) / 2, weights / 2


def trapezoid(num_steps: int) -> tuple[np.ndarray, np.ndarray]:
    r"""Nodes and weights on [0, 1] of the trapezoid rule, as in Xplique.

    $t_k = k / (n-1)$, $w_k = 1/(n-1)$ inside and half of it at both ends.

    Raises:
        ValueError: With fewer than two nodes.

    Example:
        >>> trapezoid(3)[1]
        array([0.25, 0.5 , 0.25])

    Reference:
        Abramowitz & Stegun 1964, Handbook of mathematical functions, 25.4.2.
    """
    if num_steps < 2:
        raise ValueError(f"trapezoid: num_steps is {num_steps}, expected at least 2")
    weights = np.full(num_steps, 1 / (num_steps - 1))
    weights[[0, -1]] /= 2
    return np.linspace(0, 1, num_steps), weights


def integrated_gradients(
    f: Score,
    x: Inputs,
    *,
    num_steps: int = 32,
    baseline: Any = 0.0,
    quadrature: Quadrature = gauss_legendre,
    chunk: int = 16,
) -> Inputs:
    r"""Gradients integrated along the segment from a baseline to the input.

    $\phi = (x - x_0) \odot \int_0^1 \nabla f(x_0 + t (x - x_0))\,dt$

    Complete: $\sum_i \phi_i = f(x) - f(x_0)$, up to the error of the quadrature. With Gauss-Legendre nodes this is
    exact for scores that are polynomials of degree up to twice `num_steps` along the segment.

    Cost: `num_steps` B. Signed.

    Args:
        f: The score.
        x: The input.
        num_steps: Nodes of the quadrature (the paper uses 20 to 300 steps of a Riemann sum).
        baseline: $x_0$: a number, an array that broadcasts to `x`, or a function of `x`.
        quadrature: From a number of nodes to nodes and weights on [0, 1]: `gauss_legendre` or `trapezoid`.
        chunk: Nodes evaluated at once.

    Example:
        >>> integrated_gradients(lambda x: x[0] * x[1], jnp.array([2.0, 3.0]), num_steps=1)
        Array([3., 3.], dtype=float32)

    Reference:
        Sundararajan et al. 2017, Axiomatic attribution for deep networks, arXiv:1703.01365.
    """
    if num_steps < 1:
        raise ValueError(f"integrated_gradients: num_steps is {num_steps}, expected at least 1")
    x0 = jnp.broadcast_to(jnp.asarray(baseline(x) if callable(baseline) else baseline, x.dtype), x.shape)
    nodes, weights = quadrature(num_steps)

    def weighted(node: tuple[Array, Array]) -> Inputs:
        t, weight = node
        return weight * jax.grad(f)(x0 + t * (x - x0))

    # A weighted sum is the mean of n times the weighted values.
    samples = (jnp.asarray(nodes, x.dtype), jnp.asarray(num_steps * weights, x.dtype))
    return (x - x0) * stream.mean_over(weighted, samples, chunk)


def smoothgrad(
    f: Score,
    x: Inputs,
    *,
    key: PRNGKeyArray,
    sigma: Any = 0.2,
    num_samples: int = 64,
    chunk: int = 16,
) -> Inputs:
    r"""Gradient of a score, averaged over Gaussian neighbours of the input.

    $\phi = \mathbb{E}_{\epsilon \sim \mathcal{N}(0, \sigma^2 I)} \nabla f(x + \epsilon)$

    Cost: `num_samples` B. Signed.

    Args:
        f: The score.
        x: The input.
        key: Share it over a batch to give every input the same noise.
        sigma: Standard deviation of the noise in units of `x` (the paper: 10 to 20 % of the range of the input).
        num_samples: How many neighbours (the paper: 50).
        chunk: Neighbours evaluated at once.

    Example:
        >>> smoothgrad(lambda x: x @ x, jnp.array([0.5, 1.0]), key=jax.random.key(0), sigma=0.0)
        Array([1., 2.], dtype=float32)

    Reference:
        Smilkov et al. 2017, SmoothGrad: removing noise by adding noise, arXiv:1706.03825.
    """
    return stream.mean_over(_noisy_gradient(f, x, sigma), jax.random.split(key, num_samples), chunk)


def squaregrad(
    f: Score,
    x: Inputs,
    *,
    key: PRNGKeyArray,
    sigma: Any = 0.2,
    num_samples: int = 64,
    chunk: int = 16,
) -> Inputs:
    r"""Squared gradient of a score, averaged over Gaussian neighbours of the input.

    $\phi = \mathbb{E}_{\epsilon} \left(\nabla f(x + \epsilon)\right)^2$

    Cost: `num_samples` B. Unsigned.

    Args:
        f: The score.
        x: The input.
        key: As in `smoothgrad`.
        sigma: As in `smoothgrad`.
        num_samples: As in `smoothgrad`.
        chunk: As in `smoothgrad`.

    Example:
        >>> squaregrad(lambda x: x @ x, jnp.array([0.5, 1.0]), key=jax.random.key(0), sigma=0.0)
        Array([1., 4.], dtype=float32)

    Reference:
        Hooker et al. 2019, A benchmark for interpretability methods in deep neural networks, arXiv:1806.10758.
    """
    noisy = _noisy_gradient(f, x, sigma)
    return stream.mean_over(lambda k: jnp.square(noisy(k)), jax.random.split(key, num_samples), chunk)


def vargrad(
    f: Score,
    x: Inputs,
    *,
    key: PRNGKeyArray,
    sigma: Any = 0.2,
    num_samples: int = 64,
    chunk: int = 16,
) -> Inputs:
    r"""Unbiased variance of the gradient of a score over Gaussian neighbours of the input.

    $\phi = \mathbb{V}_{\epsilon}\, \nabla f(x + \epsilon)$

    Cost: `num_samples` B. Unsigned.

    Args:
        f: The score.
        x: The input.
        key: As in `smoothgrad`.
        sigma: As in `smoothgrad`.
        num_samples: As in `smoothgrad`; at least 2.
        chunk: As in `smoothgrad`.

    Raises:
        ValueError: With fewer than two samples.

    Example:
        >>> vargrad(lambda x: 3 * x.sum(), jnp.ones(2), key=jax.random.key(0), num_samples=4)
        Array([0., 0.], dtype=float32)

    Reference:
        Adebayo et al. 2018, Local explanation methods for deep neural networks lack sensitivity to parameter values,
        arXiv:1810.03307.
    """
    if num_samples < 2:
        raise ValueError(f"vargrad: num_samples is {num_samples}, expected at least 2 for a variance")
    return stream.moments_over(_noisy_gradient(f, x, sigma), jax.random.split(key, num_samples), chunk).variance


def _noisy_gradient(f: Score, x: Inputs, sigma: Any) -> Callable[[PRNGKeyArray], Inputs]:
    """The gradient at one Gaussian neighbour, drawn from its own key when it is needed."""
    scale = jnp.asarray(sigma, x.dtype)
    return lambda key: jax.grad(f)(x + scale * jax.random.normal(key, x.shape, x.dtype))
