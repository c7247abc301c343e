r"""Losses for networks whose outputs cannot be scaled up: optimal transport with a hinge, scaled cross-entropies.

Each returns one number per image, whose mean is the loss. Logits `(b,)` with labels 0 and 1 are binary, logits `(b m)`
with class indices are of m classes. Kantorovich-Rubinstein terms need the number of images of each class in the whole
batch: under `jax.jit` a sharded batch has them; inside of `jax.shard_map` give `axis_name`, and take the mean over it.
"""

import math

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Integer

from sparks_jax.types import Scalar

Logits = Float[Array, "b m"]
Labels = Integer[Array, " b"]


def kr(logits: Float[Array, " b"] | Logits, labels: Labels, *, axis_name: str | None = None) -> Float[Array, " b"]:
    r"""The Kantorovich-Rubinstein dual, to be maximised: the mean over a class less the mean over the others.

    $\mathbb{E}_{y = 1} f - \mathbb{E}_{y = 0} f$, for m classes the mean over one against all

    As terms $b f (1_{y=1} / n_1 - 1_{y=0} / n_0)$ whose mean over the batch it is. A class without images adds nothing.
    Its maximum over 1-Lipschitz functions is the Wasserstein distance between the classes.

    Args:
        logits: Outputs.
        labels: 0 or 1; or indices of classes.
        axis_name: Axis of the mesh that the batch is spread over, inside of `jax.shard_map`.

    Example:
        >>> round(kr(jnp.array([2.0, 0.2, -1.0, -0.1, 0.4]), jnp.array([1, 1, 0, 0, 0])).mean().item(), 4)
        1.3333

    Reference:
        Villani 2008, Optimal transport: old and new. Serrurier et al. 2021, Achieving robustness in classification
        using optimal transport with hinge regularization, arXiv:2006.06520.
    """
    positive = _positive(logits, labels)
    total = lambda array: array if axis_name is None else lax.psum(array, axis_name)
    size = total(jnp.asarray(len(logits), logits.dtype))
    number = total(positive.sum(0))
    others = size - number
    weight = positive * (size * _inverse(number))[None] - (1 - positive) * (size * _inverse(others))[None]
    return (weight * logits).reshape(len(logits), -1).mean(1)


def _positive(logits: Array, labels: Array) -> Array:
    """1 where an output is that of the image's class."""
    if logits.ndim == 1:
        return labels.astype(logits.dtype)
    return jax.nn.one_hot(labels, logits.shape[1], dtype=logits.dtype)


def _inverse(number: Array) -> Array:
    return jnp.where(number > 0, 1 / jnp.where(number > 0, number, 1), 0)


def hinge(logits: Float[Array, " b"] | Logits, labels: Labels, *, margin: float | Scalar = 1.0) -> Float[Array, " b"]:
    r"""How far an output is from its side of the margin: $[\tfrac m2 - s f]_+$, $s = \pm 1$.

    For m classes the mean over the outputs, with that of the image's class times the number of the others. The margin
    is that between classes, as in the codes; the papers write it for half of it.

    Args:
        logits: Outputs.
        labels: 0 or 1; or indices of classes.
        margin: m.

    Example:
        >>> round(hinge(jnp.array([2.0, 0.2, -1.0, -0.1, 0.4]), jnp.array([1, 1, 0, 0, 0])).mean().item(), 4)
        0.32

    Reference:
        Serrurier et al. 2021, arXiv:2006.06520.
    """
    positive = _positive(logits, labels)
    missing = jax.nn.relu(margin / 2 - (2 * positive - 1) * logits)
    if logits.ndim == 1:
        return missing
    return (missing * (positive * (logits.shape[1] - 1) + 1 - positive)).mean(1)


def hkr(
    logits: Float[Array, " b"] | Logits,
    labels: Labels,
    *,
    alpha: float | Scalar,
    margin: float | Scalar = 1.0,
    axis_name: str | None = None,
) -> Float[Array, " b"]:
    r"""Optimal transport with hinge regularisation: $\alpha\, \mathrm{hinge} - \mathrm{KR}$.

    The form of deel-torchlip, $\alpha' \mathrm{hinge} - (1 - \alpha') \mathrm{KR}$, is this one over $1 + \alpha$,
    with $\alpha' = \alpha / (1 + \alpha)$.

    Args:
        logits: Outputs.
        labels: 0 or 1; or indices of classes.
        alpha: Weight of the hinge: large for accuracy, small for robustness.
        margin: As in `hinge`.
        axis_name: As in `kr`.

    Example:
        >>> f, y = jnp.array([2.0, 0.2, -1.0, -0.1, 0.4]), jnp.array([1, 1, 0, 0, 0])
        >>> round(hkr(f, y, alpha=10.0).mean().item(), 4)
        1.8667

    Reference:
        Serrurier et al. 2021, arXiv:2006.06520.
    """
    return alpha * hinge(logits, labels, margin=margin) - kr(logits, labels, axis_name=axis_name)


def soft_hkr(
    logits: Logits,
    labels: Labels,
    *,
    alpha: float | Scalar = 10.0,
    margin: float | Scalar = 1.0,
    temperature: float | Scalar = 1.0,
    level: float | Scalar | None = None,
) -> Float[Array, " b"]:
    r"""HKR of the class against a soft maximum of the others.

    $\frac1\alpha \sum_j w_j (-s_j f_j) + \sum_j w_j [\frac m2 - s_j f_j]_+$
    $w = 1$ at the class and $\mathrm{softmax}(T f)$ over the others,
    $T = \mathrm{clip}(\text{temperature} \cdot m / \max(\text{level}, m), 0.005, 250)$

    Args:
        logits: Outputs.
        labels: Indices of classes.
        alpha: Weight of the hinge.
        margin: m.
        temperature: Of the soft maximum.
        level: The running mean of |f|, by `running_level`; None for m, its value at the start.

    Example:
        >>> f = jnp.array([[1.0, -0.5, 0.2], [0.3, 0.8, -0.4]])
        >>> soft_hkr(f, jnp.array([0, 1])).round(4).shape
        (2,)

    Reference:
        Serrurier et al. 2023, On the explainable properties of 1-Lipschitz neural networks: an optimal transport
        perspective, arXiv:2206.06854.
    """
    positive = _positive(logits, labels)
    scale = lax.stop_gradient(
        jnp.clip(temperature * margin / jnp.maximum(margin if level is None else level, margin), 0.005, 250)
    )
    weight = positive + jax.nn.softmax(jnp.where(positive > 0, -jnp.inf, scale * logits), axis=1)
    against = -(2 * positive - 1) * logits
    return (weight * (against / alpha + jax.nn.relu(margin / 2 + against))).sum(1)


def running_level(
    level: float | Scalar, logits: Logits, *, decay: float = 0.99, axis_name: str | None = None
) -> Scalar:
    r"""The running mean of |f| after one more batch: $\lambda a + (1 - \lambda) \overline{|f|}$, without gradient.

    Args:
        level: a; the margin at the start.
        logits: Outputs.
        decay: λ.
        axis_name: As in `kr`.

    Example:
        >>> round(running_level(1.0, jnp.array([[3.0, -1.0]])).item(), 4)
        1.01

    Reference:
        Serrurier et al. 2023, arXiv:2206.06854.
    """
    mean = jnp.abs(lax.stop_gradient(logits)).mean()
    mean = mean if axis_name is None else lax.pmean(mean, axis_name)
    return decay * level + (1 - decay) * mean


def lse_hkr(
    logits: Logits,
    labels: Labels,
    *,
    alpha: float | Scalar = 0.9,
    margin: float | Scalar = 1.0,
    penalty: float | Scalar = 1.0,
) -> Float[Array, " b"]:
    r"""HKR of the class against a bound of the largest other output by log-sum-exp.

    $(1 - \alpha)(n - p) + \alpha\, ([\tfrac m2 - p]_+ + [\tfrac m2 + n]_+)$, $\;p = f_y$,
    $\;n = \frac1t \log \sum_{j \ne y} e^{t f_j}$, $\;t = 2 \log(C - 1) / (m \cdot \text{penalty})$

    n exceeds the maximum by at most `penalty` · m / 2; with two classes it is the other output.

    Args:
        logits: Outputs.
        labels: Indices of classes.
        alpha: Weight of the hinge, in [0, 1].
        margin: m.
        penalty: By how much, in half margins, n may exceed the maximum.

    Example:
        >>> lse_hkr(jnp.array([[2.0, -1.0]]), jnp.array([0]), alpha=0.5).round(4)  # half of -1 - 2
        Array([-1.5], dtype=float32)

    Reference:
        Serrurier et al. 2023, arXiv:2206.06854.
    """
    positive = _positive(logits, labels)
    right = (positive * logits).sum(1)
    if logits.shape[1] == 2:
        wrong = logits.sum(1) - right
    else:
        t = math.log(logits.shape[1] - 1) * 2 / (margin * penalty)
        wrong = jax.nn.logsumexp(jnp.where(positive > 0, -jnp.inf, t * logits), axis=1) / t
    both = jax.nn.relu(margin / 2 - right) + jax.nn.relu(margin / 2 + wrong)
    return (1 - alpha) * (wrong - right) + alpha * both


def cross_entropy(logits: Float[Array, " b"] | Logits, labels: Labels) -> Float[Array, " b"]:
    r"""$-\log \mathrm{softmax}(f)_y$; of the sigmoid for binary logits.

    Example:
        >>> cross_entropy(jnp.zeros((1, 4)), jnp.array([2])).round(4)
        Array([1.3863], dtype=float32)

    Reference:
        Bridle 1990, Probabilistic interpretation of feedforward classification network outputs.
    """
    if logits.ndim == 1:
        return jax.nn.softplus(-(2 * labels.astype(logits.dtype) - 1) * logits)
    return jax.nn.logsumexp(logits, axis=1) - (_positive(logits, labels) * logits).sum(1)


def tau_cross_entropy(
    logits: Float[Array, " b"] | Logits, labels: Labels, *, tau: float | Scalar
) -> Float[Array, " b"]:
    r"""Cross-entropy with a temperature: $\frac1\tau \mathrm{CE}(\tau f)$.

    Args:
        logits: Outputs.
        labels: 0 or 1; or indices of classes.
        tau: τ; large for accuracy, small for robustness. At 1, images in [0, 1] give too small a range of outputs.

    Example:
        >>> tau_cross_entropy(jnp.zeros((1, 4)), jnp.array([2]), tau=2.0).round(4)
        Array([0.6931], dtype=float32)

    Reference:
        Béthune et al. 2022, Pay attention to your loss: understanding misconceptions about 1-Lipschitz neural networks,
        arXiv:2104.05097.
    """
    return cross_entropy(tau * logits, labels) / tau


def loss_xent(
    logits: Logits, labels: Labels, *, offset: float | Scalar = 1.5 * 2**0.5, temperature: float | Scalar = 0.25
) -> Float[Array, " b"]:
    r"""Cross-entropy of a margin: $T\, \mathrm{CE}((f - o\, 1_y) / T)$.

    Args:
        logits: Outputs.
        labels: Indices of classes.
        offset: o, what the class has to be ahead by: $\sqrt2 \epsilon$ for a radius ε.
        temperature: T.

    Example:
        >>> loss_xent(jnp.array([[3.0, 0.0]]), jnp.array([0]), offset=3.0, temperature=1.0).round(4)
        Array([0.6931], dtype=float32)

    Reference:
        Prach & Lampert 2022, Almost-orthogonal layers for efficient general-purpose Lipschitz networks,
        arXiv:2208.03160.
    """
    return temperature * cross_entropy((logits - offset * _positive(logits, labels)) / temperature, labels)


def categorical_hinge(logits: Logits, labels: Labels, *, margin: float | Scalar = 1.0) -> Float[Array, " b"]:
    r"""$[m - (f_y - \max_{j \ne y} f_j)]_+$.

    Args:
        logits: Outputs.
        labels: Indices of classes.
        margin: m.

    Example:
        >>> categorical_hinge(jnp.array([[0.5, 0.0, 0.25]]), jnp.array([0])).tolist()
        [0.75]

    Reference:
        Crammer & Singer 2001, On the algorithmic implementation of multiclass kernel-based vector machines.
    """
    positive = _positive(logits, labels)
    wrong = jnp.where(positive > 0, -jnp.inf, logits).max(1)
    return jax.nn.relu(margin - (positive * logits).sum(1) + wrong)


def multi_margin(logits: Logits, labels: Labels, *, margin: float | Scalar = 1.0) -> Float[Array, " b"]:
    r"""$\frac1C \sum_{j \ne y} [m - f_y + f_j]_+$.

    Args:
        logits: Outputs.
        labels: Indices of classes.
        margin: m.

    Example:
        >>> multi_margin(jnp.array([[0.5, 0.0, 0.0, 0.0]]), jnp.array([0])).tolist()
        [0.375]

    Reference:
        Weston & Watkins 1999, Support vector machines for multi-class pattern recognition.
    """
    positive = _positive(logits, labels)
    right = (positive * logits).sum(1, keepdims=True)
    return (jax.nn.relu(margin - right + logits) * (1 - positive)).mean(1)
