r"""Which concepts a score rests on: attribution in concept space, exact where the head is affine.

A head is a score of the activations of one image, `scores.logit(network.head, label)`; together with a dictionary it
is a score of codes, $F(u) = h(\mu + \sigma\, u D)$, and importance is attribution for $F$. The methods are those of
`fading` and `raising`, which are those of `sensitivity`.

Where the program of the head is affine, as that of a global mean and a linear layer, one gradient says all there is:
with $\omega_k = \sum_p u_{pk}\, \partial F / \partial u_{pk}$,

$F(u) = F(0) + \sum_k \omega_k$, gradient × input = integrated gradients = occlusion = Shapley value = $\omega_k$, and
the total Sobol' index under uniform masks is $\omega_k^2 / \sum_j \omega_j^2$.

Deleting or inserting concepts in the order of $\omega$ is then optimal; in that of $\omega^2$ or $|\omega|$ it is not.
"""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

import sparks_jax.concepts.fading as fading
import sparks_jax.concepts.raising as raising
from sparks_jax import stream
from sparks_jax.concepts.dictionary import Dictionary, decode
from sparks_jax.concepts.estimate import Estimate, Key, Numbers
from sparks_jax.sensitivity import is_affine
from sparks_jax.types import Score

Method = Callable[..., Estimate]
# From contributions ω, the slopes ∂F/∂s and the value F(0) of an affine score to what a method says of it.
ClosedForm = Callable[..., Numbers]


class Rule(NamedTuple):
    """A method, and what it is for an affine score."""

    run: Method
    exact: ClosedForm | None = None


_contribution = lambda omega, slope, origin: omega
RULES = {
    "auto": Rule(fading.integrated_gradients, _contribution),
    "gradient_input": Rule(fading.gradient_input, _contribution),
    "integrated_gradients": Rule(fading.integrated_gradients, _contribution),
    "occlusion": Rule(fading.occlusion, _contribution),
    "shapley": Rule(fading.shapley, _contribution),
    "sobol": Rule(fading.sobol, lambda omega, slope, origin: _shares(jnp.square(omega))),
    "rise": Rule(fading.rise, lambda omega, slope, origin, keep=0.5: origin + keep * omega.sum() + (1 - keep) * omega),
    "hsic": Rule(fading.hsic),
    "saliency": Rule(raising.saliency, lambda omega, slope, origin: jnp.abs(slope)),
    "smoothgrad": Rule(raising.smoothgrad, lambda omega, slope, origin: slope),
    "squaregrad": Rule(raising.squaregrad, lambda omega, slope, origin: jnp.square(slope)),
    "vargrad": Rule(raising.vargrad, lambda omega, slope, origin: jnp.zeros_like(slope)),
    "tcav": Rule(raising.tcav, lambda omega, slope, origin: (slope > 0).astype(slope.dtype)),
}


class Importance(NamedTuple):
    r"""How important each concept is, for each image and for all of them.

    Attributes:
        values: `(n k)` for each image.
        stderr: `(n k)` standard error of a value that comes of sampling; zero where nothing is sampled.
        mean: `(k)` over images.
        mean_stderr: `(k)` standard error of `mean`, of images and of sampling together.
        total: `(n)` sum over concepts: $F(u) - F(0)$ for contributions, $\sum_k S_{T_k}$ for `"sobol"`, at least 1 up
            to its error whatever the head.
        exact: `()` whether the closed form of an affine head was used.
    """

    values: Float[Array, "*classes n k"]
    stderr: Float[Array, "*classes n k"]
    mean: Float[Array, "*classes k"]
    mean_stderr: Float[Array, "*classes k"]
    total: Float[Array, "*classes n"]
    exact: Bool[Array, "*classes"]


class ClassMeans(NamedTuple):
    """The importance of each concept in each class.

    Attributes:
        mean: `(m k)` over the images of a class; zero without images.
        stderr: `(m k)` its standard error.
        num_images: `(m)` in the class.
    """

    mean: Float[Array, "m k"]
    stderr: Float[Array, "m k"]
    num_images: Int[Array, " m"]


def importance(
    head: Score,
    dictionary: Dictionary,
    codes: Float[Array, "n *p k"],
    *,
    method: str | Method = "auto",
    key: Key = None,
    chunk: int = 64,
    **options: Any,
) -> Importance:
    r"""How much each concept matters to a score, image by image, and on average.

    $\phi(F, u_i)$ for each image i, with $F(u) = h(\mu + \sigma\, u D)$

    `"auto"` are contributions: signed, and adding up to $F(u) - F(0)$. Exact where the program of the head is affine,
    integrated gradients elsewhere. CRAFT's own are `"sobol"`, which do not tell what speaks for the class from what
    speaks against it. All images are given the same key, hence the same masks: an image's values do not depend on those
    it comes with, and the error of sampling does not average out over them, so that it is added to that of the images,
    $\mathrm{se}_k^2 = \mathbb{V}_i\, \phi_{ik} / n + (\overline{\mathrm{se}_{ik}})^2$.

    Cost: that of the method for each image; 1 B for all of them where the head is affine. To map classes, map the head:
    `jax.vmap(lambda label: importance(logit(network.head, label), dictionary, codes))(labels)`.

    Args:
        head: A score of the activations of one image.
        dictionary: The concepts.
        codes: $u$: one code each image `(n k)`, or one each position `(n gh gw k)` or token `(n t k)`.
        method: `"auto"`, `"gradient_input"`, `"integrated_gradients"`, `"occlusion"`, `"shapley"`, `"sobol"`, `"rise"`,
            `"hsic"`, `"saliency"`, `"smoothgrad"`, `"squaregrad"`, `"vargrad"`, `"tcav"`; or a function
            `(f, codes of one image, *, key) -> Estimate`, such as those of `fading` and `raising`, which is then used
            as it is, affine head or not.
        key: Of the methods that sample.
        chunk: Evaluations at once.
        **options: Given to the method.

    Returns:
        `Importance(values, stderr, mean, mean_stderr, total, exact)`.

    Raises:
        ValueError: If the method is unknown or has no key, the codes fit no dictionary, or the head returns more than a
            number.

    Example:
        >>> from sparks_jax.concepts import Dictionary, nonnegative
        >>> colours = Dictionary(jnp.eye(2), jnp.zeros(2), jnp.ones(()), jax.tree_util.Partial(nonnegative))
        >>> head = lambda acts: acts @ jnp.array([3.0, -1.0])
        >>> found = importance(head, colours, jnp.array([[1.0, 2.0], [3.0, 4.0]]))
        >>> found.values.tolist(), found.mean.tolist(), found.exact.item()
        ([[3.0, -2.0], [9.0, -4.0]], [6.0, -3.0], True)

    Reference:
        Fel et al. 2023, A holistic approach to unifying automatic concept extraction and concept importance estimation,
        arXiv:2306.07304.
    """
    f = of_codes(head, dictionary)
    _check(f, dictionary, codes)
    rule = Rule(method) if callable(method) else RULES.get(method)
    if rule is None:
        raise ValueError(f"importance: method is {method!r}, expected one of {', '.join(RULES)}, or a function")
    if rule.exact is not None and is_affine(f, _like(codes)):
        keep = {name: value for name, value in options.items() if name == "keep"}  # all else concerns sampling
        values = _of_affine(f, codes, partial(rule.exact, **keep))
        return _summary(Estimate(values, jnp.zeros_like(values)), exact=True)
    if isinstance(method, str) and "chunk" in inspect.signature(rule.run).parameters:
        options = options | dict(chunk=chunk)
    # What evaluates the score once is given many images, what evaluates it many times one after the other.
    at_once = chunk if rule.run in (fading.gradient_input, raising.saliency, raising.tcav) else 1
    return _summary(stream.stack_over(lambda u: rule.run(f, u, key=key, **options), codes, at_once), exact=False)


def of_codes(head: Score, dictionary: Dictionary) -> Score:
    r"""A score of activations as a score of codes: what the head says of what the concepts explain.

    $F(u) = h(\mu + \sigma\, u D)$

    Args:
        head: A score of the activations of one image.
        dictionary: The concepts.

    Example:
        >>> from sparks_jax.concepts import Dictionary, nonnegative
        >>> colours = Dictionary(jnp.eye(2), jnp.ones(2), jnp.ones(()), jax.tree_util.Partial(nonnegative))
        >>> of_codes(jnp.sum, colours)(jnp.zeros(2)).item()
        2.0

    Reference:
        Fel et al. 2023, arXiv:2306.07304.
    """
    return lambda codes: head(decode(dictionary, codes))


def class_means(found: Importance, labels: Int[Array, " n"], num_classes: int) -> ClassMeans:
    r"""The mean importance of each concept over the images of each class, with its standard error.

    $\bar\phi_{ck} = \frac{1}{n_c} \sum_{i : y_i = c} \phi_{ik}$

    Args:
        found: From `importance`, of images of all classes: `found.mean` is over all of them.
        labels: The class of each image.
        num_classes: How many there are.

    Example:
        >>> ones = jnp.array([[1.0], [3.0], [5.0]])
        >>> found = Importance(ones, 0 * ones, ones[1], 0 * ones[1], ones[:, 0], jnp.array(True))
        >>> means = class_means(found, jnp.array([0, 0, 1]), 2)
        >>> means.mean.tolist(), means.stderr.tolist()
        ([[2.0], [5.0]], [[1.0], [0.0]])

    Reference:
        Fel et al. 2023, CRAFT, arXiv:2211.10154.
    """
    member = (labels[:, None] == jnp.arange(num_classes)[None]).astype(found.values.dtype)
    count = member.sum(0)[:, None]
    share = lambda a: member.T @ a / jnp.maximum(count, 1)
    mean = share(found.values)
    # Deviations from the mean of one's class, squared and summed over the class.
    square = member.T @ jnp.square(found.values - member @ mean)
    variance = square / jnp.maximum(count - 1, 1) / jnp.maximum(count, 1)
    stderr = jnp.sqrt(variance + jnp.square(share(found.stderr)))
    return ClassMeans(mean, stderr, count[:, 0].astype(jnp.int32))


def _check(f: Score, dictionary: Dictionary, codes: Array) -> None:
    k = dictionary.atoms.shape[0]
    if codes.ndim < 2 or codes.shape[-1] != k or 0 in codes.shape:
        raise ValueError(
            f"importance: codes have shape {codes.shape}, expected one for each image (n, {k}), or for each of its "
            f"positions (n, gh, gw, {k}); give one image as codes[None]"
        )
    shape = jnp.shape(jax.eval_shape(f, _like(codes)))
    if shape != ():
        raise ValueError(
            f"importance: head returned shape {shape} for the activations of one image, expected one number; pass a "
            "score, such as scores.logit(network.head, label)"
        )


def _like(codes: Array) -> jax.ShapeDtypeStruct:
    """The codes of one image, as shape and dtype."""
    return jax.ShapeDtypeStruct(codes.shape[1:], codes.dtype)


def _of_affine(f: Score, codes: Array, exact: ClosedForm) -> Float[Array, "n k"]:
    """A method on an affine score: all from its value at 0, and its gradient, which is the same everywhere."""
    origin, slope = jax.value_and_grad(f)(jnp.zeros(codes.shape[1:], codes.dtype))
    n, k = codes.shape[0], codes.shape[-1]
    omega = jnp.einsum("npk,pk->nk", codes.reshape(n, -1, k), slope.reshape(-1, k), precision="highest")
    return jax.vmap(lambda omega: exact(omega, slope.reshape(-1, k).sum(0), origin))(omega)


def _shares(a: Numbers) -> Numbers:
    total = a.sum()
    return jnp.where(total > 0, a / jnp.where(total > 0, total, 1), 0)


def _summary(local: Estimate, *, exact: bool) -> Importance:
    values, stderr = local
    n = values.shape[0]
    over_images = values.var(0, ddof=1) / n if n > 1 else jnp.zeros_like(values[0])
    mean_stderr = jnp.sqrt(over_images + jnp.square(stderr.mean(0)))
    return Importance(values, stderr, values.mean(0), mean_stderr, values.sum(1), jnp.array(exact))
