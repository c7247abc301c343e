"""Local linear fit: LIME's weighted ridge regression of a number on which inputs are present."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Float, PRNGKeyArray

from sparks_jax import stream
from sparks_jax.linalg import product
from sparks_jax.sensitivity.masks import Game, random_coalitions
from sparks_jax.types import Scalar

# The weight of a coalition in the fit.
Kernel = Callable[[Float[Array, " dim"]], Scalar]


def cosine_kernel(z: Float[Array, " dim"], *, width: float | Float[Array, ""] = 0.25) -> Scalar:
    r"""Weight of a coalition by its cosine distance from the full one: 1 for the full one, falling as inputs go.

    $\pi(z) = \exp(-D^2 / 2 \kappa^2)$ with $D = 1 - \frac{\langle z, \mathbf 1 \rangle}{\|z\| \sqrt d}$, and
    $D = 1$ for the empty coalition.

    Args:
        z: Coalition of zeros and ones.
        width: $\kappa$; 0.25 in the authors' program for images.

    Example:
        >>> z = jnp.array([1.0, 0.0, 0.0, 0.0])  # D = 1 - 1/2
        >>> round(cosine_kernel(z, width=0.5).item(), 4), cosine_kernel(jnp.ones(4)).item()
        (0.6065, 1.0)

    Reference:
        Ribeiro et al. 2016, "Why should I trust you?": explaining the predictions of any classifier, arXiv:1602.04938.
    """
    # The norm of zeros and ones is the root of their number, so that the cosine is the root of the share present.
    return jnp.exp(-(((1 - jnp.sqrt(z.mean())) / width) ** 2) / 2)


def euclidean_kernel(z: Float[Array, " dim"], *, width: float | Float[Array, ""] = 0.75) -> Scalar:
    r"""Weight of a coalition by its Euclidean distance from the full one, in units of the cube's diagonal.

    $\pi(z) = \exp(-D^2 / 2 \kappa^2)$ with $D^2 = \|\mathbf 1 - z\|^2 / d$, the share of inputs that are hidden.

    Args:
        z: Coalition of zeros and ones.
        width: $\kappa$; 0.75 in the authors' program for tables.

    Example:
        >>> round(euclidean_kernel(jnp.array([1.0, 0.0]), width=0.5).item(), 4)  # exp(-(1/2) / (2/4))
        0.3679

    Reference:
        Ribeiro et al. 2016, "Why should I trust you?": explaining the predictions of any classifier, arXiv:1602.04938.
    """
    return jnp.exp(-(1 - z).mean() / (2 * width**2))


def local_linear(
    g: Game,
    dim: int,
    *,
    key: PRNGKeyArray,
    num_samples: int = 1000,
    keep: float | Float[Array, ""] = 0.5,
    kernel: Kernel = cosine_kernel,
    ridge: float | Float[Array, ""] = 1.0,
    chunk: int = 64,
) -> Float[Array, " dim"]:
    r"""Coefficients of a weighted ridge regression of a number on which inputs are present.

    $\min_{\phi, b} \sum_k \pi(z_k) \left( g(z_k) - b - \langle \phi, z_k \rangle \right)^2 + \lambda \|\phi\|^2$

    The intercept is not penalised. The weights are not normalised, so that the same $\lambda$ shrinks less with more
    samples. Coefficients that the samples do not determine are kept small: zero for an input that never changes.

    Cost: `num_samples` evaluations of `g`. Signed.

    Args:
        g: From a coalition, `(dim,)` of zeros and ones, to one number.
        dim: Number of inputs.
        key: Draws the coalitions.
        num_samples: Coalitions, the full one among them (1000 in the authors' program).
        keep: Probability that an input is present.
        kernel: Weight of a coalition: `cosine_kernel`, `euclidean_kernel`, `partial(cosine_kernel, width=…)` or your
            own.
        ridge: $\lambda$ (1 in the authors' program). A ridge below the rounding errors of the fit is raised to them.
        chunk: Evaluations at once.

    Raises:
        ValueError: If the ridge is negative.

    Example:
        >>> g = lambda z: 5 + 3 * z[0] - z[1]
        >>> phi = local_linear(g, 3, key=jax.random.key(0), num_samples=100, ridge=0.0)
        >>> [round(float(v), 3) + 0 for v in phi]
        [3.0, -1.0, 0.0]

    Reference:
        Ribeiro et al. 2016, "Why should I trust you?": explaining the predictions of any classifier, arXiv:1602.04938.
    """
    if not isinstance(ridge, Tracer) and ridge < 0:
        raise ValueError(f"local_linear: ridge is {ridge}, expected a number of at least 0")
    coalitions = random_coalitions(num_samples, dim, key=key, keep=keep)
    values = stream.stack_over(lambda z: g(z.astype(float)), coalitions, chunk)
    y = values.astype(jnp.promote_types(values.dtype, jnp.float32))
    weights = jax.vmap(kernel)(coalitions.astype(float)).astype(y.dtype)

    # The best intercept centres both sides. Both are measured from the full coalition first, so that an input that
    # never changes, and a constant, have no spread at all.
    shares = weights / jnp.where(weights.sum() > 0, weights.sum(), 1)
    z, y = coalitions.astype(y.dtype) - 1, y - y[0]
    z, y = z - product(shares, z)[None], y - product(shares, y)
    gram = product(z.T, weights[:, None] * z)
    eps = jnp.finfo(y.dtype).eps
    penalty = jnp.maximum(jnp.asarray(ridge, y.dtype), eps * jnp.maximum(jnp.trace(gram), 1))
    # The fit is the same for every g: solved for its rows, it leaves one product for a batch of images.
    factor = jax.scipy.linalg.cho_factor(gram + penalty * jnp.eye(dim, dtype=y.dtype))
    pull = jax.scipy.linalg.cho_solve(factor, weights[None] * z.T)
    return product(pull, y).astype(values.dtype)
