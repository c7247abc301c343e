r"""The neural harmonizer: a loss that is small where the map of a network looks like the map of people.

A step has one forward pass for logits and map (`logits_and_saliency`), then a loss on both:

    logits, saliency = logits_and_saliency(model, images, labels)
    loss = cross_entropy(logits, labels) + weight * harmonizer_loss(saliency.mean(-1), human_maps, has_map)

Any other method that can be differentiated explains as well (`explanations`). As published, maps are signed and their
channels are averaged: where the score falls as the pixel grows, a map is negative, and the loss cuts it.

So what is negative is hidden, and a hue, too: a weight of 1 on red and -1 on green averages to 0. A network may go by
what its map does not show. Nor does one logit show what the others read. The norm of the gradient over channels, of
logits less their mean, which leaves probabilities as they are, shows both (`experiments/harmonize_glyphs.py` has what
it changes; `heatmap` is that of `sparks_jax.images`):

    centred = lambda images: (logits := model(images)) - logits.mean(-1, keepdims=True)
    logits, saliency = logits_and_saliency(centred, images, labels)
    loss = cross_entropy(logits, labels) + weight * harmonizer_loss(jax.vmap(heatmap)(saliency), human_maps, has_map)
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Int, Shaped

from sparks_jax import scores
from sparks_jax.types import Model, Scalar

Maps = Float[Array, "b h w"]
Given = Shaped[Any, "..."]  # (b h w) or (b): checked below, with a sentence that says what to do
PerImage = Float[Array, " b"]
Average = Callable[[PerImage, PerImage], Scalar]

# The binomial filter of Burt & Adelson (1983) with a = 3/8: what their Laplacian pyramid is built with.
BINOMIAL = np.array([1, 4, 6, 4, 1], np.float32) / 16
SAVED_BY_REMAT = {"conv_general_dilated", "dot_general"}


def logits_and_saliency(
    model: Any, images: Float[Array, "b h w c"], labels: Int[Any, "..."], *, has_aux: bool = False, remat: bool = False
) -> tuple[Any, ...]:
    r"""Logits of a batch and the signed gradient of each image's own logit, in one forward and one backward pass.

    $s_b = \partial_{x_b} \sum_{b'} f_{y_{b'}}(x_{b'})$, which is $\nabla f_{y_b}(x_b)$ if images do not meet

    Both can be differentiated again: the loss of a harmonizer shares the forward pass with the classification loss.
    Batch normalisation in training couples the images: $s_b$ then also has what image $b$ does to the other logits
    through the statistics, as in the authors' code.

    Cost: 1 B for the batch; 3 B with the gradient in the weights.

    Args:
        model: Images to logits; with `has_aux` to logits and anything else, such as new batch statistics.
        images: The batch.
        labels: Class of each image; outside of the classes an error, or a map of NaN under `jax.jit`.
        has_aux: Whether the model returns a pair.
        remat: Whether the backward passes compute again what is no convolution and no matrix product, for less memory.

    Returns:
        Logits `(b m)`, gradients `(b h w c)`, and with `has_aux` what else the model returned.

    Raises:
        ValueError: For logits or labels of another shape, and for a label that is no class.

    Example:
        >>> model = lambda x: jnp.stack([x.sum((1, 2, 3)), (3 * x).sum((1, 2, 3))], -1)
        >>> logits, saliency = logits_and_saliency(model, jnp.ones((2, 1, 1, 1)), jnp.array([0, 1]))
        >>> logits.tolist(), saliency.ravel().tolist()
        ([[1.0, 3.0], [1.0, 3.0]], [1.0, 3.0])

    Reference:
        Fel et al. 2022, Harmonizing the object recognition strategies of deep neural networks with humans,
        arXiv:2211.04533.
    """
    run = jax.checkpoint(model, policy=_products_are_saved) if remat else model
    logits, pullback, *aux = jax.vjp(run, images, has_aux=has_aux)
    (saliency,) = pullback(_one_hot(logits, labels))
    return logits, saliency, *aux


def _products_are_saved(primitive: Any, *_: Any, **__: Any) -> bool:
    return primitive.name in SAVED_BY_REMAT


def _one_hot(logits: Array, labels: Any) -> Float[Array, "b m"]:
    """One at each label; NaN everywhere at one that is no class, where JAX alone would give a map of zeros."""
    labels = labels if isinstance(labels, Tracer) else np.asarray(labels)
    if logits.ndim != 2 or labels.shape != logits.shape[:1]:
        raise ValueError(
            f"logits_and_saliency: labels has shape {labels.shape} for logits {logits.shape}, expected one class (b,) "
            "for each row of logits (b, m)"
        )
    num_classes = logits.shape[1]
    if not isinstance(labels, Tracer) and not ((labels >= 0) & (labels < num_classes)).all():
        raise ValueError(f"logits_and_saliency: labels has {labels.max()}, expected classes 0 to {num_classes - 1}")
    known = (labels >= 0) & (labels < num_classes)
    return jnp.where(known[:, None], jax.nn.one_hot(labels, num_classes, dtype=logits.dtype), jnp.nan)


def explanations(
    method: Callable[..., Float[Array, "h w c"]], model: Model, images: Float[Array, "b h w c"], labels: Int[Any, "..."]
) -> Float[Array, "b h w c"]:
    r"""Maps of a batch by any method, as targets of a loss.

    $\phi_b = \mathrm{method}(f_{y_b}, x_b)$ with $f_y$ the logit of class $y$

    Cost: that of the method for each image, and twice as much again for the gradient in the weights.

    Args:
        method: From a score and an image to a map, keys and options bound: `partial(smoothgrad, key=key)`.
        model: Images to logits; it must not couple the images of a batch.
        images: The batch.
        labels: Class of each image.

    Example:
        >>> from sparks_jax.attribution import gradient_input
        >>> model = lambda x: jnp.stack([x.sum((1, 2, 3)), (3 * x).sum((1, 2, 3))], -1)
        >>> explanations(gradient_input, model, jnp.full((2, 1, 1, 1), 2.0), jnp.array([0, 1])).ravel().tolist()
        [2.0, 6.0]

    Reference:
        Fel et al. 2022, Harmonizing the object recognition strategies of deep neural networks with humans,
        arXiv:2211.04533, which takes the gradient; Ross et al. 2017, Right for the right reasons, arXiv:1703.03717.
    """
    return jax.vmap(lambda x, label: method(scores.logit(model, label), x))(images, jnp.asarray(labels))


# --- losses: from maps of networks and of people to a number ---


def over_batch(values: PerImage, has_map: PerImage) -> Scalar:
    r"""Mean over the batch, an image without a map counting as one with loss 0.

    $\frac1B \sum_b t_b v_b$: the weight of the loss shrinks with the share of the images that have a map.

    Example:
        >>> over_batch(jnp.array([3.0, 5.0]), jnp.array([1.0, 0.0])).item()
        1.5

    Reference:
        Fel et al. 2022, arXiv:2211.04533, the authors' code.
    """
    return (values * has_map).mean()


def over_maps(values: PerImage, has_map: PerImage) -> Scalar:
    r"""Mean over the images that have a map; 0 if none has.

    $\sum_b t_b v_b / \max(1, \sum_b t_b)$

    Example:
        >>> over_maps(jnp.array([3.0, 5.0]), jnp.array([1.0, 0.0])).item()
        3.0

    Reference:
        Fel et al. 2022, arXiv:2211.04533, whose formula has images with a map only.
    """
    return (values * has_map).sum() / jnp.maximum(has_map.sum(), 1)


def harmonizer_loss(
    saliencies: Given,
    human_maps: Given,
    has_map: Given,
    *,
    num_levels: int = 5,
    average: Average = over_batch,
) -> Scalar:
    r"""How far maps are from those of people, at several scales, as in the authors' package.

    $\frac1L \sum_{l<L} \frac1B \sum_b t_b\, \mathrm{mean}_{ij} [P_l(z(s_b) - \tilde h_b)]_{ij}^2$ with $z$ of
    `standardize_and_cut`, $P_l$ of `gaussian_pyramid` and $\tilde h = z(h) \cdot \max z(s) / \max z(h)$, through whose
    factor no gradient flows

    0 for equal maps. Neither the scale nor the offset of a human map matters, nor, but for an epsilon of 1e-5 that is
    small beside the deviation of a map, those of a saliency. Beside it a map of zeros has no loss, and a network whose
    last layer begins at zero never leaves it: begin elsewhere.

    Args:
        saliencies: `(b h w)` maps of the network; as published signed, channels averaged (see above).
        human_maps: `(b h w)` maps of people, high where they look; anything, NaN too, where there is none.
        has_map: `(b)` True or 1 where an image has a map.
        num_levels: Scales, the first at full size, each further one half as large: 5 in the package, 6 in the code
            that trained the published networks.
        average: From the loss of each image and `has_map` to one number: `over_batch`, as published, or `over_maps`.

    Raises:
        ValueError: For shapes that do not fit, and for fewer than one level.

    Example:
        >>> i, j = jnp.meshgrid(jnp.arange(32.0), jnp.arange(32.0), indexing="ij")
        >>> saliency, people = jnp.sin(i / 5) * jnp.cos(j / 7), jnp.exp(-((i - 16) ** 2 + (j - 16) ** 2) / 50)
        >>> round(harmonizer_loss(saliency[None], people[None], jnp.array([True])).item(), 5)
        0.32386

    Reference:
        Fel, Felipe, Linsley and Serre 2022, Harmonizing the object recognition strategies of deep neural
        networks with humans, arXiv:2211.04533, and the authors' package.
    """
    saliencies, human_maps, has_map = _checked("harmonizer_loss", saliencies, human_maps, has_map, num_levels)
    ours, theirs = standardize_and_cut(saliencies), standardize_and_cut(human_maps)
    highest = jax.lax.stop_gradient(ours.max((1, 2), keepdims=True))
    theirs = theirs / (theirs.max((1, 2), keepdims=True) + 1e-6) * (highest + 1e-6)
    # The pyramid is linear: that of the difference is the difference of the two, at half of the cost.
    levels = gaussian_pyramid(ours - theirs, num_levels)
    values = jnp.stack([jnp.square(level).mean((1, 2)) for level in levels]).mean(0)
    return average(values, has_map)


def harmonizer_loss_as_written(
    saliencies: Given,
    human_maps: Given,
    has_map: Given,
    *,
    num_levels: int = 5,
    average: Average = over_maps,
) -> Scalar:
    r"""The loss as the paper writes it: sums over pixels and scales, the human map not rescaled.

    $\sum_{l<L} \| P_l(z(s)) - P_l(z(h)) \|_2^2$, averaged over images

    Args:
        saliencies: As in `harmonizer_loss`.
        human_maps: As in `harmonizer_loss`.
        has_map: As in `harmonizer_loss`.
        num_levels: As in `harmonizer_loss`.
        average: As in `harmonizer_loss`.

    Raises:
        ValueError: As `harmonizer_loss`.

    Example:
        >>> s, h = jnp.array([[[1.0, -1.0]]]), jnp.array([[[-1.0, 1.0]]])  # (1, 0) - (0, 1) has square 2
        >>> round(harmonizer_loss_as_written(s, h, jnp.array([1]), num_levels=1).item(), 3)
        2.0

    Reference:
        Fel et al. 2022, arXiv:2211.04533, section 3.
    """
    given = _checked("harmonizer_loss_as_written", saliencies, human_maps, has_map, num_levels)
    levels = gaussian_pyramid(standardize_and_cut(given[0]) - standardize_and_cut(given[1]), num_levels)
    values = jnp.stack([jnp.square(level).sum((1, 2)) for level in levels]).sum(0)
    return average(values, given[2])


def cosine_loss(saliencies: Given, human_maps: Given, has_map: Given, *, average: Average = over_maps) -> Scalar:
    r"""One less the cosine of the maps, both standardised and cut: no scale is to be matched.

    $1 - \langle z(s), z(h) \rangle / (\|z(s)\|\, \|z(h)\|)$, in [0, 1]; 1 if one of them is constant

    Args:
        saliencies: As in `harmonizer_loss`.
        human_maps: As in `harmonizer_loss`.
        has_map: As in `harmonizer_loss`.
        average: As in `harmonizer_loss`.

    Raises:
        ValueError: As `harmonizer_loss`.

    Example:
        >>> s = jnp.array([[[1.0, -1.0]]])
        >>> [round(cosine_loss(s, h, jnp.array([1])).item(), 6) + 0.0 for h in (3 * s, -s)]
        [0.0, 1.0]

    Reference:
        Fel et al. 2022, arXiv:2211.04533, section 3; the cosine is a variant of later code for other data.
    """
    saliencies, human_maps, has_map = _checked("cosine_loss", saliencies, human_maps, has_map)
    ours, theirs = standardize_and_cut(saliencies), standardize_and_cut(human_maps)
    squares = jnp.square(ours).sum((1, 2)) * jnp.square(theirs).sum((1, 2))
    norms = jnp.sqrt(jnp.where(squares > 0, squares, 1))
    return average(1 - jnp.where(squares > 0, (ours * theirs).sum((1, 2)) / norms, 0), has_map)


def cross_entropy_loss(saliencies: Given, human_maps: Given, has_map: Given, *, average: Average = over_maps) -> Scalar:
    r"""Cross-entropy of where people look and where the network does, both as distributions over the pixels.

    $-\sum_p q_p \log \mathrm{softmax}(\bar s)_p$ with $q = z(h) / \sum z(h)$ and $\bar s$ the standardised saliency

    Args:
        saliencies: As in `harmonizer_loss`.
        human_maps: As in `harmonizer_loss`.
        has_map: As in `harmonizer_loss`.
        average: As in `harmonizer_loss`.

    Raises:
        ValueError: As `harmonizer_loss`.

    Example:
        >>> s, h = jnp.array([[[1.0, -1.0]]]), jnp.array([[[5.0, 1.0]]])  # -log sigmoid(2)
        >>> round(cross_entropy_loss(s, h, jnp.array([1])).item(), 3)
        0.127

    Reference:
        Fel et al. 2022, arXiv:2211.04533; Kümmerer et al. 2016, DeepGaze II, arXiv:1610.01563 (maps as distributions).
    """
    saliencies, human_maps, has_map = _checked("cross_entropy_loss", saliencies, human_maps, has_map)
    theirs = standardize_and_cut(human_maps)
    mass = theirs.sum((1, 2), keepdims=True)
    theirs = theirs / jnp.where(mass > 0, mass, 1)
    logs = jax.nn.log_softmax(_standardized(saliencies).reshape(len(saliencies), -1), -1).reshape(saliencies.shape)
    return average(-(theirs * logs).sum((1, 2)), has_map)


def standardize_and_cut(maps: Maps) -> Maps:
    r"""Each map in its own standard deviations above its mean, and 0 below it.

    $z(a) = \mathrm{relu}((a - \mathrm{mean}\, a) / (\mathrm{std}\, a + 10^{-5}))$

    A constant map becomes 0, with derivative 0. In float32 at least.

    Example:
        >>> standardize_and_cut(jnp.array([[[0.0, 4.0]], [[1.0, 1.0]]])).round(3).tolist()
        [[[0.0, 1.0]], [[0.0, 0.0]]]

    Reference:
        Fel et al. 2022, arXiv:2211.04533, section 3.
    """
    return jax.nn.relu(_standardized(maps))


def _standardized(maps: Maps) -> Maps:
    maps = maps.astype(jnp.promote_types(maps.dtype, jnp.float32))
    centred = maps - maps.mean((1, 2), keepdims=True)
    variance = jnp.square(centred).mean((1, 2), keepdims=True)
    # Where the variance is 0 the root has no derivative; a constant map takes none.
    std = jnp.where(variance > 0, jnp.sqrt(jnp.where(variance > 0, variance, 1)), 0)
    return centred / (std + 1e-5)


def gaussian_pyramid(maps: Maps, num_levels: int) -> list[Float[Array, "b _ _"]]:
    r"""The maps, and copies each smoothed by a binomial filter and half as large as the one before.

    $P_{l+1} = (P_l * g g^\top)_{2i, 2j}$ with $g = (1, 4, 6, 4, 1) / 16$ and zeros around the map, as "SAME" places
    them: an even side has one before and two after

    Example:
        >>> corners = gaussian_pyramid(jnp.ones((1, 8, 8)), 2)[1][0, ::3, ::3]
        >>> corners.round(6).tolist()
        [[0.878906..., 0.644531...], [0.644531..., 0.472656...]]

    Reference:
        Burt & Adelson 1983, The Laplacian pyramid as a compact image code.
    """
    levels = [maps]
    for _ in range(num_levels - 1):
        rows, columns = (jnp.asarray(_halving(n), maps.dtype) for n in levels[-1].shape[1:])
        levels.append(jnp.einsum("ij,bjk,lk->bil", rows, levels[-1], columns, precision="highest"))
    return levels


def _halving(n: int) -> np.ndarray:
    """Smoothing and halving of n numbers, as a matrix: a product, and so is its derivative, fast everywhere."""
    half = -(-n // 2)
    before = (2 * (half - 1) + len(BINOMIAL) - n) // 2
    matrix = np.zeros((half, n), np.float32)
    for i in range(half):
        for tap, weight in enumerate(BINOMIAL, 2 * i - before):
            if 0 <= tap < n:
                matrix[i, tap] = weight
    return matrix


def _checked(
    who: str, saliencies: Any, human_maps: Any, has_map: Any, num_levels: int = 1
) -> tuple[Maps, Maps, PerImage]:
    """The arguments, human maps zero where there is none, or one sentence on what is wrong."""
    shape = jnp.shape(saliencies)
    if len(shape) != 3 or 0 in shape:
        raise ValueError(f"{who}: saliencies has shape {shape}, expected maps (b, h, w); average channels: .mean(-1)")
    if jnp.shape(human_maps) != shape:
        raise ValueError(f"{who}: human_maps has shape {jnp.shape(human_maps)}, expected that of saliencies, {shape}")
    if jnp.shape(has_map) != shape[:1]:
        raise ValueError(f"{who}: has_map has shape {jnp.shape(has_map)}, expected one flag for each map, {shape[:1]}")
    if num_levels < 1:
        raise ValueError(f"{who}: num_levels is {num_levels}, expected at least 1")
    saliencies, flags = jnp.asarray(saliencies), jnp.asarray(has_map) != 0
    dtype = jnp.promote_types(saliencies.dtype, jnp.float32)
    return saliencies, jnp.where(flags[:, None, None], human_maps, 0).astype(dtype), flags.astype(dtype)
