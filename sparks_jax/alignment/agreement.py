r"""How far maps of a network agree with maps of people, and people with each other.

One value for each image. What is compared decides the value: an unsigned map has another order than a signed one, a
blurred one a higher correlation with blurred maps of people. Keep it fixed, and say it. A map that knows no image, high
in the centre, agrees with people as well: `alignment` says how well.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Int, PRNGKeyArray

from sparks_jax.metrics.similarity import spearman
from sparks_jax.types import Heatmap, Scalar

Maps = Float[Any, "..."]  # (b h w): checked below, with a sentence that says what to do

# Mean rank correlation of ClickMe maps of people with those of other people, by which alignments are divided: the
# constant of Fel et al. (2022)'s package.
INTER_HUMAN = 0.65753


class Alignment(NamedTuple):
    """How far maps of some images agree with those of people, and what to hold it against.

    Attributes:
        values: `(b,)` as `human_alignment`.
        mean: `()` their mean.
        interval: `(2,)` percentile interval of a bootstrap over the images.
        centre: `()` mean alignment of a map that is high in the centre, whatever the image.
        shuffled: `()` mean alignment of the maps with those of people for other images.
        num_constant: `()` images whose map, or whose map by people, is constant, and whose value is 0 for it.
    """

    values: Float[Array, " b"]
    mean: Scalar
    interval: Float[Array, "2"]
    centre: Scalar
    shuffled: Scalar
    num_constant: Int[Array, ""]


def human_alignment(heatmaps: Maps, human_maps: Maps, *, ceiling: float = INTER_HUMAN) -> Float[Array, " b"]:
    r"""Rank correlation of maps with maps of people, in units of that of people with each other.

    $\rho(\phi_b, h_b) / \rho_{\mathrm{people}}$, equal values sharing their mean rank; 0 for a constant map

    Higher is better, 1 as good as people. The published figures are means of it, with the maximum over channels of the
    absolute gradient as map (`images.heatmap(a, "max")`), at 224 × 224.

    Cost: no evaluation.

    Args:
        heatmaps: `(b h w)` maps of the network.
        human_maps: `(b h w)` maps of people.
        ceiling: $\rho_{\mathrm{people}}$: of ClickMe; for other data, the mean of `split_half` over images.

    Raises:
        ValueError: For shapes that differ or are no batch of maps, NaN, or a ceiling that is not positive.

    Example:
        >>> maps = jnp.array([[[1.0, 2.0, 3.0, 4.0]], [[1.0, 1.0, 1.0, 1.0]]])
        >>> (human_alignment(maps, jnp.exp(maps)) * INTER_HUMAN).round(4).tolist()
        [1.0, 0.0]

    Reference:
        Fel, Felipe, Linsley and Serre 2022, Harmonizing the object recognition strategies of deep neural networks with
        humans, arXiv:2211.04533.
    """
    _check("human_alignment", heatmaps, human_maps)
    if ceiling <= 0:
        raise ValueError(f"human_alignment: ceiling is {ceiling}, expected a positive correlation")
    return jax.vmap(spearman)(jnp.asarray(heatmaps), jnp.asarray(human_maps)) / ceiling


def alignment(
    heatmaps: Maps,
    human_maps: Maps,
    *,
    key: PRNGKeyArray,
    ceiling: float = INTER_HUMAN,
    num_bootstraps: int = 1000,
    level: float = 0.95,
) -> Alignment:
    r"""`human_alignment` with its interval, beside a map of the centre and maps of people for other images.

    The images are drawn again with replacement $B$ times; the interval is between the quantiles
    $(1 \mp \mathrm{level}) / 2$ of the $B$ means.

    Cost: no evaluation; three rank correlations for each image.

    Args:
        heatmaps: As in `human_alignment`, of two images at least.
        human_maps: As in `human_alignment`.
        key: Draws images, and by how many places the maps of people are moved on.
        ceiling: As in `human_alignment`.
        num_bootstraps: $B$.
        level: Of the interval.

    Raises:
        ValueError: As `human_alignment`, and for a single image.

    Example:
        >>> maps = jax.random.uniform(jax.random.key(0), (4, 3, 3))
        >>> found = alignment(maps, maps, key=jax.random.key(1), ceiling=1.0, num_bootstraps=20)
        >>> round(found.mean.item(), 4), found.num_constant.item(), bool(found.shuffled < 0.9)
        (1.0, 0, True)

    Reference:
        Fel et al. 2022, arXiv:2211.04533; Efron 1979, Bootstrap methods: another look at the jackknife.
    """
    values = human_alignment(heatmaps, human_maps, ceiling=ceiling)
    heatmaps, human_maps, n = jnp.asarray(heatmaps), jnp.asarray(human_maps), len(values)
    if n < 2:
        raise ValueError(f"alignment: there is {n} image, expected two or more; `human_alignment` takes one")
    key_draw, key_move = jax.random.split(key)
    drawn = jax.random.randint(key_draw, (num_bootstraps, n), 0, n)
    # Indexed, not rolled: every map meets that of another image.
    other = (jnp.arange(n) + jax.random.randint(key_move, (), 1, n)) % n
    centre = jnp.broadcast_to(centre_map(heatmaps.shape[1:]), heatmaps.shape)
    flat = lambda maps: maps.max((1, 2)) == maps.min((1, 2))
    return Alignment(
        values=values,
        mean=values.mean(),
        interval=jnp.quantile(values[drawn].mean(1), jnp.array([(1 - level) / 2, (1 + level) / 2])),
        centre=human_alignment(centre, human_maps, ceiling=ceiling).mean(),
        shuffled=human_alignment(heatmaps, human_maps[other], ceiling=ceiling).mean(),
        num_constant=(flat(heatmaps) | flat(human_maps)).sum(),
    )


def iou(heatmaps: Maps, human_maps: Maps, *, top: float = 0.1) -> Float[Array, " b"]:
    r"""Intersection over union of the greatest pixels of maps and of maps of people.

    $\sum_p \min(m_p, m'_p) / \sum_p \max(m_p, m'_p)$ with $m_p$ = 1 for the `top` share of the pixels

    Higher is better, from 0 to 1. Pixels that tie for the last places share them, so that maps stored in 8 bits, whose
    highest values are many, keep as many pixels as others; the authors' code then takes fewer, or none.

    Cost: no evaluation.

    Args:
        heatmaps: `(b h w)` maps of the network.
        human_maps: `(b h w)` maps of people.
        top: Share of the pixels taken.

    Raises:
        ValueError: For shapes that differ or are no batch of maps, NaN, or a share that is not in (0, 1).

    Example:
        >>> a, b = jnp.array([[[4.0, 3.0, 2.0, 1.0]]]), jnp.array([[[4.0, 1.0, 2.0, 3.0]]])
        >>> round(iou(a, b, top=0.5).item(), 4)  # {1, 2} and {1, 4}
        0.3333

    Reference:
        Fel et al. 2022, arXiv:2211.04533, the authors' code; Jaccard 1912, The distribution of the flora in the alpine
        zone.
    """
    ours, theirs = _tops("iou", heatmaps, human_maps, top)
    return jnp.minimum(ours, theirs).sum(1) / jnp.maximum(ours, theirs).sum(1)


def dice(heatmaps: Maps, human_maps: Maps, *, top: float = 0.1) -> Float[Array, " b"]:
    r"""Twice the intersection over the sum of the sizes of the greatest pixels of maps and of maps of people.

    $2 \sum_p \min(m_p, m'_p) / \sum_p (m_p + m'_p)$ with $m$ as in `iou`, which is $2\,\mathrm{IoU}/(1+\mathrm{IoU})$

    Higher is better, from 0 to 1.

    Cost: no evaluation.

    Args:
        heatmaps: As in `iou`.
        human_maps: As in `iou`.
        top: As in `iou`.

    Raises:
        ValueError: As `iou`.

    Example:
        >>> a, b = jnp.array([[[4.0, 3.0, 2.0, 1.0]]]), jnp.array([[[4.0, 1.0, 2.0, 3.0]]])
        >>> dice(a, b, top=0.5).item()
        0.5

    Reference:
        Fel et al. 2022, arXiv:2211.04533, the authors' code; Dice 1945, Measures of the amount of ecologic association
        between species.
    """
    ours, theirs = _tops("dice", heatmaps, human_maps, top)
    return 2 * jnp.minimum(ours, theirs).sum(1) / (ours + theirs).sum(1)


def split_half(annotations: Float[Array, "a h w"], *, key: PRNGKeyArray, num_splits: int = 16) -> Scalar:
    r"""How far people agree with each other on one image: rank correlation of one half of them with the other.

    $\mathbb{E}_{A \sqcup B}\, \rho(\bar h_A, \bar h_B)$, the mean maps of random halves; of an odd number one half has
    one more

    Its mean over images is the ceiling of `human_alignment`.

    Cost: no evaluation.

    Args:
        annotations: The map of each person for this image, two at least.
        key: Draws the halves.
        num_splits: How many times.

    Raises:
        ValueError: For fewer than two people.

    Example:
        >>> person = jnp.arange(6.0).reshape(2, 3)
        >>> split_half(jnp.stack([person, 2 * person, person + 1]), key=jax.random.key(0)).item()
        1.0

    Reference:
        Linsley et al. 2019, Learning what and where to attend, arXiv:1805.08819 (how consistent ClickMe maps are).
    """
    people = _people("split_half", annotations)
    first = jnp.arange(people) < people // 2

    def agreement(key: PRNGKeyArray) -> Scalar:
        chosen = jax.random.permutation(key, first).astype(annotations.dtype)
        mean = lambda weights: jnp.einsum("a,ahw->hw", weights / weights.sum(), annotations, precision="highest")
        return spearman(mean(chosen), mean(1 - chosen))

    return jax.vmap(agreement)(jax.random.split(key, num_splits)).mean()


def one_against_others(annotations: Float[Array, "a h w"]) -> Scalar:
    r"""How far people agree with each other on one image: rank correlation of each with the mean of all others.

    $\frac1a \sum_i \rho(h_i, \frac{1}{a - 1} \sum_{j \ne i} h_j)$: what a network reaches that is as good as one person

    Cost: no evaluation.

    Args:
        annotations: The map of each person for this image, two at least.

    Raises:
        ValueError: For fewer than two people.

    Example:
        >>> person = jnp.arange(6.0).reshape(2, 3)
        >>> one_against_others(jnp.stack([person, 2 * person, person + 1])).item()
        1.0

    Reference:
        Linsley et al. 2019, Learning what and where to attend, arXiv:1805.08819.
    """
    people = _people("one_against_others", annotations)
    others = (annotations.sum(0)[None] - annotations) / (people - 1)
    return jax.vmap(spearman)(annotations, others).mean()


def centre_map(size: tuple[int, ...]) -> Heatmap:
    r"""A Gaussian around the centre: what people look at before there is an image.

    $\exp(-\frac12 (u^2 + v^2))$, $u$ and $v$ from the centre in quarters of a side; of which ranks see the order only

    Args:
        size: Height and width.

    Example:
        >>> centre_map((1, 5)).tolist()
        [[0.278..., 0.726..., 1.0, 0.726..., 0.278...]]

    Reference:
        Tatler 2007, The central fixation bias in scene viewing.
    """
    # In NumPy, from odd integers: pixels at one distance must tie, whatever a compiler does.
    v, u = (2 * np.arange(1 - n, n, 2) / n for n in size)
    return jnp.asarray(np.exp(-(v[:, None] ** 2 + u[None] ** 2) / 2), jnp.float32)


def _people(who: str, annotations: Array) -> int:
    if annotations.ndim != 3 or len(annotations) < 2:
        raise ValueError(
            f"{who}: annotations has shape {annotations.shape}, expected (a, h, w), the maps of two people or more for "
            "one image; map images with jax.vmap"
        )
    return len(annotations)


def _tops(who: str, heatmaps: Maps, human_maps: Maps, top: float) -> tuple[Float[Array, "b n"], Float[Array, "b n"]]:
    _check(who, heatmaps, human_maps)
    if not 0 < top < 1:
        raise ValueError(f"{who}: top is {top}, expected a share of the pixels in (0, 1)")
    share = lambda maps: jax.vmap(lambda a: _greatest(a.ravel(), top))(jnp.asarray(maps))
    return share(heatmaps), share(human_maps)


def _greatest(values: Float[Array, " n"], top: float) -> Float[Array, " n"]:
    """1 for values above the quantile 1 - top, at least one of them; those that tie for the last places share them."""
    dtype = jnp.promote_types(values.dtype, jnp.float32)
    places = max(1, int(np.ceil(np.round(top * (values.size - 1), 6))))
    last = jnp.sort(values)[values.size - places]
    above, tied = (values > last).astype(dtype), (values == last).astype(dtype)
    return above + tied * (places - above.sum()) / tied.sum()


def _check(who: str, heatmaps: Maps, human_maps: Maps) -> None:
    given = {"heatmaps": heatmaps, "human_maps": human_maps}
    if len(jnp.shape(heatmaps)) != 3 or 0 in jnp.shape(heatmaps) or jnp.shape(human_maps) != jnp.shape(heatmaps):
        raise ValueError(
            f"{who}: heatmaps has shape {jnp.shape(heatmaps)} and human_maps {jnp.shape(human_maps)}, expected maps "
            "(b, h, w) of one shape; reduce channels with images.heatmap, resize with images.bilinear"
        )
    for name, maps in given.items():
        if not isinstance(maps, Tracer) and np.isnan(np.asarray(maps)).any():
            raise ValueError(f"{who}: {name} has NaN values, expected numbers; leave out images without a map")
