r"""Certificates: balls around images in which the class cannot change, from a margin and a Lipschitz constant."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Integer

from sparks_jax.lipschitz.bounds import UnknownBound, lipschitz_constant
from sparks_jax.lipschitz.fold import fold
from sparks_jax.models.normalize import Normalized
from sparks_jax.types import Scalar

Head = Literal["joint", "disjoint", "rows"]
# The radii that papers report, of images in [0, 1].
RADII = tuple(r / 255 for r in (36, 72, 108, 255))


class Certificate(NamedTuple):
    """What is certain of some images.

    Attributes:
        logits: `(b, m)`.
        radius: `(b,)` Euclidean radius of the ball in which the predicted class stays, in the units of raw pixels.
        lipschitz: The constant that it rests on: of the model, or, for heads by rows, of what is before the head.
    """

    logits: Float[Array, "b m"]
    radius: Float[Array, " b"]
    lipschitz: Scalar


def certified_radius(
    logits: Float[Array, "b m"],
    *,
    lipschitz: float | Scalar = 1.0,
    head: Head = "joint",
    rows: Float[Array, "d m"] | None = None,
    labels: Integer[Array, " b"] | None = None,
) -> Float[Array, " b"]:
    r"""The radius of the Euclidean ball around each image in which its class is certain.

    $r = \min_j (f_y - f_j) / (c_{yj} L)$ with $c = \sqrt2$ (joint), 2 (disjoint) or $\|w_y - w_j\|$ (rows); 0 if wrong

    One logit decides by its sign: $|f| / L$. The constant has to be an upper bound (`lipschitz_constant`) with respect
    to raw pixels: one of standardised images is divided by the least standard deviation (`certify`).

    Args:
        logits: Outputs.
        lipschitz: L, of the vector of all logits (joint), of each of them (disjoint), or of the features before the
            last linear map (rows).
        head: Which of them L is.
        rows: The kernel of the last linear map, `(features, classes)`, for head="rows".
        labels: Classes; None for the predicted ones.

    Raises:
        ValueError: For another head, or rows missing or not wanted.

    Example:
        >>> certified_radius(jnp.array([[1.0, 0.2], [0.0, 3.0]])).round(4)
        Array([0.5657, 2.1213], dtype=float32)
        >>> certified_radius(jnp.array([[1.0, 0.2]]), head="disjoint").round(3)
        Array([0.4], dtype=float32)

    Reference:
        Tsuzuku, Sato & Sugiyama 2018, Lipschitz-margin training, arXiv:1802.04034. Singla, Singla & Feizi 2022,
        Improved deterministic l2 robustness on CIFAR-10 and CIFAR-100, arXiv:2108.04062.
    """
    if head not in ("joint", "disjoint", "rows") or (head == "rows") != (rows is not None):
        raise ValueError(f"head={head!r}, rows {'missing' if rows is None else 'given'}: allowed are joint, disjoint, "
                         "or rows with the kernel of the last linear map")  # fmt: skip
    classes = logits.shape[1]
    # The logits are rounded sums; a few units of their largest are not counted as margin.
    slack = 4 * float(jnp.finfo(logits.dtype).eps) * jnp.abs(logits).max(1)
    if classes == 1:
        sign = 1 if labels is None else 2 * labels.astype(logits.dtype) - 1
        signed = jnp.abs(logits[:, 0]) if labels is None else sign * logits[:, 0]
        return jax.nn.relu(signed - slack) / lipschitz
    labels = jnp.argmax(logits, 1) if labels is None else labels
    own = jax.nn.one_hot(labels, classes, dtype=bool)
    margins = jnp.where(own, logits, 0).sum(1, keepdims=True) - logits
    if rows is None:
        factor = jnp.full((1, classes), 2**0.5 if head == "joint" else 2.0)
    else:
        # A few images at once: all pairs of a thousand classes would take gigabytes.
        apart = lambda label: jnp.linalg.norm(rows - rows[:, label][:, None], axis=0)
        factor = jax.lax.map(apart, labels, batch_size=16)
    apart_at_all = factor > 0
    safe = jax.nn.relu(margins - slack[:, None]) / (jnp.where(apart_at_all, factor, 1) * lipschitz)
    safe = jnp.where(apart_at_all, safe, jnp.where(margins > 0, jnp.inf, 0))
    return jnp.where(own, jnp.inf, safe).min(1)


def certified_accuracy(
    radius: Float[Array, " b"],
    correct: Bool[Array, " b"] | None = None,
    *,
    radii: Sequence[float] = RADII,
) -> Float[Array, " n"]:
    r"""The share of images that are right and certain to stay so: $\mathbb{E}[1_{\text{correct}}\, 1_{r > \epsilon}]$.

    Args:
        radius: By `certified_radius`.
        correct: Which predictions are right; None if the radii are of the true classes, 0 where wrong.
        radii: ε, by default 36, 72, 108 and 255 over 255.

    Example:
        >>> certified_accuracy(jnp.array([0.2, 0.5]), jnp.array([True, True])).tolist()
        [1.0, 0.5, 0.5, 0.0]

    Reference:
        Leino, Wang & Fredrikson 2021, Globally-robust neural networks, arXiv:2102.08452.
    """
    right = jnp.ones(radius.shape, bool) if correct is None else correct
    return jnp.mean(right[:, None] & (radius[:, None] > jnp.asarray(radii)[None]), 0)


def certify(
    model: Any,
    images: Float[Array, "b h w c"],
    *,
    head: Head = "joint",
    labels: Integer[Array, " b"] | None = None,
    input_scale: float | Sequence[float] | None = None,
) -> Certificate:
    r"""Logits and certified radii of images, by a bound of every layer of the model, at the highest precision.

    $r = \min_j (f_y - f_j) / (c_{yj} L)$, $\;L = \prod_l \hat\sigma_l / \min_c \sigma_c$

    "joint" bounds the model as a whole, "disjoint" each logit by the norm of its row in the last linear map, and "rows"
    each pair by the distance of theirs, which is the tightest of the three for unit rows.

    Args:
        model: Any model that `lipschitz_constant` knows, of raw images or of standardised ones.
        images: As the model takes them.
        head: How the last layer is counted; "disjoint" and "rows" take a `Sequential`, or a network of `lipschitz`,
            that ends in a linear layer.
        labels: Classes; None for the predicted ones.
        input_scale: What pixels in [0, 1] were divided by, per channel or one number; 1 if only shifted. Not needed for
            `models.Normalized`, which takes raw images.

    Raises:
        ValueError: For images that are not in [0, 1] without a scale: their radius would be in unknown units. (Under
            `jax.jit` their values are not known, and not looked at.)
        UnknownBound: For a model with a layer whose bound is unknown.

    Example:
        >>> from flax import nnx
        >>> from sparks_jax.lipschitz import Flatten, OrthogonalLinear
        >>> model = nnx.Sequential(Flatten(), OrthogonalLinear(4, 2, rngs=nnx.Rngs(0)))
        >>> found = jax.jit(certify)(model, jnp.full((1, 2, 2, 1), 0.5))
        >>> bool(jnp.allclose(found.radius * 2**0.5, jnp.abs(jnp.diff(found.logits))[0], rtol=1e-4))
        True

    Reference:
        Tsuzuku, Sato & Sugiyama 2018, arXiv:1802.04034. Serrurier et al. 2023, arXiv:2206.06854.
    """
    if input_scale is None and not isinstance(images, Tracer) and not bool(((images >= 0) & (images <= 1)).all()):
        raise ValueError(
            "certify: images outside of [0, 1] look standardised, and a radius would be in unknown units; give "
            "input_scale, the standard deviations that pixels were divided by (1 if they were only shifted)"
        )
    scale = jnp.min(jnp.abs(jnp.asarray(1.0 if input_scale is None else input_scale, jnp.float32)))
    with jax.default_matmul_precision("highest"):
        plain = fold(model)
        bound, rows = _counted(plain, head)
        logits = plain(images)
    bound = bound / scale
    radius = certified_radius(logits, lipschitz=bound, head=head, rows=rows if head == "rows" else None, labels=labels)
    return Certificate(logits, radius, bound)


def _counted(model: Any, head: Head) -> tuple[Array, Array | None]:
    """The constant that the head is certified with, and the kernel of the last layer."""
    if head == "joint":
        return lipschitz_constant(model), None
    if isinstance(model, Normalized):
        bound, rows = _counted(model.model, head)
        return bound / min(model.std), rows
    if isinstance(model, nnx.Sequential):
        before, last = nnx.Sequential(*model.layers[:-1]), model.layers[-1]
    elif hasattr(model, "trunk"):
        before, last = model.trunk(), model.fc
    else:
        raise UnknownBound(
            f"{type(model).__name__}: head={head!r} needs a Sequential, or a network with trunk() and fc, that ends in "
            "a linear layer; or use head='joint'"
        )
    if not isinstance(last, nnx.Linear):
        raise UnknownBound(f"head={head!r} needs a linear layer at the end, not {type(last).__name__}")
    rows, bound = last.kernel[...], lipschitz_constant(before)
    if head == "disjoint":
        bound = bound * jnp.linalg.norm(rows, axis=0).max() * (1 + 1e-6)
    return bound, rows


def counterfactual(
    f: Callable[[Array], Scalar], x: Float[Array, "h w c"], *, steps: float | Scalar = 1.0
) -> Float[Array, "h w c"]:
    r"""The image moved along the gradient to the other side of a score's zero: $x - t f(x) \nabla f(x)$.

    Where the gradient has norm 1, as for an optimal transport potential, t = 1 is the nearest image on the boundary and
    t > 1 is on the other side, in the direction of transport.

    Args:
        f: The score: positive for the class, or a margin between two.
        x: The image.
        steps: t, from 1 to about 10 for pictures.

    Example:
        >>> f = lambda x: (0.6 * x[0, 0, 0] + 0.8 * x[0, 0, 1])
        >>> counterfactual(f, jnp.ones((1, 1, 2))).ravel().round(2)
        Array([ 0.16, -0.12], dtype=float32)

    Reference:
        Serrurier et al. 2023, On the explainable properties of 1-Lipschitz neural networks: an optimal transport
        perspective, arXiv:2206.06854.
    """
    value, slope = jax.value_and_grad(f)(x)
    return x - steps * value * slope
