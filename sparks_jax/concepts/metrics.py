r"""How good is a dictionary? What it leaves out, how sparse its codes are, and whether what it decodes looks real.

Rows of activations `(n d)` against rows decoded from their codes. Where a metric has a value for each row, it returns
them all.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from sparks_jax import stream
from sparks_jax.linalg import product
from sparks_jax.types import Model

Rows = Float[Array, "n d"]


def relative_error(acts: Rows, decoded: Rows) -> Float[Array, " n"]:
    r"""How much of each activation is left out.

    $\|a_i - \hat a_i\|_2 \,/\, \|a_i\|_2$

    Lower is better; 0 for a row of zeros that is decoded as one, infinite for one that is not.

    Args:
        acts: Activations.
        decoded: What `decode` makes of their codes.

    Example:
        >>> relative_error(jnp.array([[3.0, 4.0]]), jnp.array([[3.0, 0.0]])).round(3).tolist()
        [0.800000011920929]

    Reference:
        Fel et al. 2023, A holistic approach to unifying automatic concept extraction and concept importance estimation,
        arXiv:2306.07304.
    """
    left, size = (jnp.linalg.norm(rows, axis=1) for rows in (acts - decoded, acts))
    return jnp.where(size > 0, left / jnp.where(size > 0, size, 1), jnp.where(left > 0, jnp.inf, 0))


def r_squared(acts: Rows, decoded: Rows) -> Float[Array, ""]:
    r"""The share of the variance of activations that a dictionary explains.

    $1 - \sum_i \|a_i - \hat a_i\|^2 / \sum_i \|a_i - \bar a\|^2$, with the mean $\bar a$ of each channel

    Higher is better: 1 for a perfect reconstruction, 0 for the mean of each channel. NaN for activations that are all
    the same.

    Args:
        acts: Activations.
        decoded: What `decode` makes of their codes.

    Example:
        >>> acts = jnp.array([[0.0, 5.0], [2.0, 5.0]])
        >>> r_squared(acts, jnp.array([[0.0, 5.0], [1.0, 5.0]])).item()
        0.5

    Reference:
        Fel et al. 2025, Archetypal SAE, arXiv:2502.12892.
    """
    return 1 - jnp.square(acts - decoded).sum() / jnp.square(acts - acts.mean(0, keepdims=True)).sum()


def l0(codes: Float[Array, "n k"]) -> Float[Array, " n"]:
    r"""How many concepts each row uses.

    $\|u_i\|_0$

    Example:
        >>> l0(jnp.array([[0.0, 2.0, -1.0]])).tolist()
        [2.0]

    Reference:
        Fel et al. 2023, arXiv:2306.07304.
    """
    return (codes != 0).sum(1).astype(codes.dtype)


def hoyer(codes: Float[Array, "n k"]) -> Float[Array, " n"]:
    r"""How sparse each row of codes is, whatever its scale.

    $(\sqrt k - \|u\|_1 / \|u\|_2) / (\sqrt k - 1)$

    1 for one concept, 0 for all of them alike; 0 for a row of zeros.

    Example:
        >>> hoyer(jnp.array([[0.0, 3.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]])).tolist()
        [1.0, 0.0]

    Reference:
        Hoyer 2004, Non-negative matrix factorization with sparseness constraints.
    """
    root = codes.shape[1] ** 0.5
    if codes.shape[1] == 1:
        return (codes[:, 0] != 0).astype(codes.dtype)
    length = jnp.linalg.norm(codes, axis=1)
    ratio = jnp.abs(codes).sum(1) / jnp.where(length > 0, length, 1)
    return jnp.where(length > 0, (root - ratio) / (root - 1), 0)


def frechet_distance(acts: Rows, decoded: Float[Array, "m d"]) -> Float[Array, ""]:
    r"""The distance of two sets of rows by their means and covariances.

    $\|\mu - \hat\mu\|^2 + \mathrm{tr}\,(\Sigma + \hat\Sigma - 2 (\Sigma^{1/2} \hat\Sigma \Sigma^{1/2})^{1/2})$

    Lower is better: 0 for sets with the same mean and covariance. Covariances are biased (divided by n).

    Args:
        acts: Activations.
        decoded: What `decode` makes of their codes: as many rows or not.

    Example:
        >>> acts = jnp.array([[-1.0], [1.0]])
        >>> frechet_distance(acts, 2 * acts + 3).item()  # 3² + (2 - 1)²
        10.0

    Reference:
        Heusel et al. 2017, GANs trained by a two time-scale update rule converge to a local Nash equilibrium,
        arXiv:1706.08500.
    """
    (mean, covariance), (other_mean, other) = _moments(acts), _moments(decoded)
    root = _root(covariance)
    inner = jnp.linalg.eigvalsh(product(product(root, other), root))
    crossed = 2 * jnp.sqrt(jnp.maximum(inner, 0)).sum()
    apart = jnp.square(mean - other_mean).sum() + jnp.trace(covariance) + jnp.trace(other)
    return jnp.maximum(apart - crossed, 0)


def neighbour_distance(
    acts: Rows, decoded: Float[Array, "m d"], *, neighbours: int = 1, chunk: int = 64
) -> Float[Array, " m"]:
    r"""How far each decoded row is from the activations of real images: out of distribution or not.

    $\|\hat a_i - a_{(r)}\|_2$, $a_{(r)}$ being the r-th nearest activation

    Lower is better. In units of activations: compare with the distances of held-out activations.

    Args:
        acts: Activations of real images, at least `neighbours` of them.
        decoded: What `decode` makes of codes.
        neighbours: r.
        chunk: Decoded rows compared at once.

    Raises:
        ValueError: If there are fewer activations than neighbours.

    Example:
        >>> neighbour_distance(jnp.array([[0.0], [1.0], [5.0]]), jnp.array([[3.0]]), neighbours=2).tolist()
        [2.0]

    Reference:
        Sun, Ming, Zhu & Li 2022, Out-of-distribution detection with deep nearest neighbors, arXiv:2204.06507.
    """
    if not 1 <= neighbours <= len(acts):
        raise ValueError(
            f"neighbour_distance: neighbours is {neighbours}, expected 1 … {len(acts)}, one per activation"
        )
    distances = lambda row: jnp.sort(jnp.linalg.norm(acts - row[None], axis=1))[neighbours - 1]
    return stream.stack_over(distances, decoded, chunk)


def logit_r_squared(head: Model, acts: Float[Array, "n ..."], decoded: Float[Array, "n ..."]) -> Float[Array, " m"]:
    r"""How well the rest of the network predicts from decoded activations: completeness, class by class.

    $1 - \sum_i (z_c(a_i) - z_c(\hat a_i))^2 / \sum_i (z_c(a_i) - \bar z_c)^2$

    Higher is better; 1 where nothing that the class depends on is left out. NaN for a logit that is constant.

    Cost: 2 F of the head for each row.

    Args:
        head: From a batch of activations to logits `(n m)`.
        acts: Activations, of one image each.
        decoded: What `decode` makes of their codes.

    Example:
        >>> logit_r_squared(lambda a: a, jnp.array([[0.0], [2.0]]), jnp.array([[0.0], [1.0]])).tolist()
        [0.5]

    Reference:
        Yeh et al. 2020, On completeness-aware concept-based explanations in deep neural networks, arXiv:1910.07969.
    """
    true, got = head(acts), head(decoded)
    return 1 - jnp.square(true - got).sum(0) / jnp.square(true - true.mean(0, keepdims=True)).sum(0)


def prediction_divergence(
    head: Model, acts: Float[Array, "n ..."], decoded: Float[Array, "n ..."]
) -> Float[Array, " n"]:
    r"""How far the predicted probabilities of decoded activations are from those of the activations.

    $\mathrm{KL}(p(a_i) \,\|\, p(\hat a_i))$ in nats

    Lower is better.

    Cost: 2 F of the head for each row.

    Args:
        head: From a batch of activations to logits `(n m)`.
        acts: Activations, of one image each.
        decoded: What `decode` makes of their codes.

    Example:
        >>> acts = jnp.log(jnp.array([[0.5, 0.5]]))
        >>> round(prediction_divergence(lambda a: a, acts, jnp.log(jnp.array([[0.25, 0.75]]))).item(), 4)
        0.1438

    Reference:
        Yeh et al. 2020, arXiv:1910.07969.
    """
    true, got = (jax.nn.log_softmax(head(rows)) for rows in (acts, decoded))
    return (jnp.exp(true) * (true - got)).sum(1)


def _moments(rows: Any) -> tuple[Array, Array]:
    mean = rows.mean(0)
    centred = rows - mean[None]
    return mean, product(centred.T, centred) / len(rows)


def _root(covariance: Array) -> Array:
    """The square root of a positive semi-definite matrix."""
    values, vectors = jnp.linalg.eigh(covariance)
    return product(vectors * jnp.sqrt(jnp.maximum(values, 0))[None], vectors.T)
