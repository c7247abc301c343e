"""Fidelity: does the map predict how much the score falls when parts of the image are hidden?"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, PRNGKeyArray

from sparks_jax import images, stream
from sparks_jax.images import Baseline, as_baseline, for_images
from sparks_jax.linalg import pearson as pearson
from sparks_jax.metrics.maps import for_heatmaps, min_max
from sparks_jax.metrics.similarity import spearman
from sparks_jax.segments import grid_cells
from sparks_jax.types import Heatmap, Image, Scalar, Score

Correlation = Callable[[Array, Array], Scalar]

# Published protocols, for use with `**`. Xplique hides each cell with a probability of `subset` instead of exactly that
# share of them, so that its correlation is also one with the number of cells hidden.
MU_FIDELITY_XPLIQUE = dict(grid=9, subset=0.2, num_samples=200, baseline=0.0, correlation=spearman)


@for_images
@for_heatmaps
def mu_fidelity(
    f: Score,
    x: Image,
    heatmap: Heatmap,
    *,
    key: PRNGKeyArray,
    grid: int = 9,
    subset: float = 0.2,
    num_samples: int = 200,
    baseline: Baseline = 0.0,
    correlation: Correlation = pearson,
    chunk: int = 16,
) -> Scalar:
    r"""Correlation between the importance of random sets of cells and the fall of the score when they are hidden.

    $\mathrm{corr}_{S : |S| = k} \left( \sum_{p \in S} \phi_p,\; f(x) - f(x_{S \leftarrow x_0}) \right)$, with $S$ a
    set of exactly $k$ cells of a $g \times g$ grid

    Higher is better, at most 1; about 0 for a random map, and 0 for a constant score or a map with equal cells.

    Cost: `num_samples` F.

    Args:
        f: The score.
        x: One image.
        heatmap: Signed or unsigned importance of each pixel, `(h w)`, summed over the pixels of a cell.
        key: Draws the sets. Share it over a batch to hide the same cells of every image.
        grid: Cells on each side; pixel $i$ of $h$ lies in cell $\lfloor (i + \frac12) g / h \rfloor$.
        subset: Share of the cells in a set: $k = \mathrm{round}(\text{subset} \cdot g^2)$.
        num_samples: Sets drawn.
        baseline: What hidden pixels become, as in `images.as_baseline`.
        correlation: `pearson`, as in the paper, `similarity.spearman`, or any function of two arrays that does not
            change when a constant is added to either.
        chunk: Images evaluated at once.

    Raises:
        ValueError: If the grid is finer than the image, or $k$ is not in 1 … g² - 1.

    Example:
        >>> w = jnp.array([4.0, 3.0, 2.0, 1.0]).reshape(2, 2)
        >>> f = lambda x: (w * x[..., 0]).sum()
        >>> options = dict(key=jax.random.key(0), grid=2, subset=0.5, num_samples=8)
        >>> [round(mu_fidelity(f, jnp.ones((2, 2, 1)), h, **options).item(), 4) for h in (w, -w, 0 * w)]
        [1.0, -1.0, 0.0]

    Reference:
        Bhatt et al. 2020, Evaluating and aggregating feature-based model explanations, arXiv:2005.00631.
    """
    size = round(subset * grid**2)
    if not 1 <= grid <= min(heatmap.shape):
        raise ValueError(f"mu_fidelity: grid is {grid}, expected 1 to {min(heatmap.shape)}, the shorter side")
    if not 1 <= size < grid**2:
        raise ValueError(
            f"mu_fidelity: subset is {subset}, {size} of {grid**2} cells, expected at least one and not all of them"
        )
    labels = grid_cells((x.shape[0], x.shape[1]), grid)
    return _hide(f, x, heatmap, labels, grid**2, size, key, num_samples, baseline, correlation, chunk)


@for_images
@for_heatmaps
def sensitivity_n(
    f: Score,
    x: Image,
    heatmap: Heatmap,
    *,
    key: PRNGKeyArray,
    n: int | None = None,
    num_samples: int = 100,
    baseline: Baseline = 0.0,
    correlation: Correlation = pearson,
    chunk: int = 16,
) -> Scalar:
    r"""Correlation between the importance of random sets of n pixels and the fall of the score when they are hidden.

    $\mathrm{corr}_{S : |S| = n} \left( \sum_{p \in S} \phi_p,\; f(x) - f(x_{S \leftarrow x_0}) \right)$

    Higher is better, at most 1; 1 for every n where the score is linear and the map its contributions. 0 for a constant
    score or map. `mu_fidelity` is the same over cells, which hide more of what a network sees.

    Cost: `num_samples` F.

    Args:
        f: The score; the paper uses a network's output before the softmax.
        x: One image.
        heatmap: Signed contribution of each pixel, `(h w)`.
        key: Draws the sets. Share it over a batch to hide the same pixels of every image.
        n: Pixels in a set; None for a fifth of them. The paper plots the metric from 1 pixel to 80 percent of them.
        num_samples: Sets drawn (the paper: 100).
        baseline: What hidden pixels become, as in `images.as_baseline`.
        correlation: As in `mu_fidelity`.
        chunk: Images evaluated at once.

    Raises:
        ValueError: If n is not in 1 … the number of pixels - 1.

    Example:
        >>> w = jnp.array([4.0, 3.0, 2.0, 1.0]).reshape(2, 2)
        >>> f = lambda x: (w * x[..., 0]).sum()
        >>> round(sensitivity_n(f, jnp.ones((2, 2, 1)), w, key=jax.random.key(0), n=2, num_samples=8).item(), 4)
        1.0

    Reference:
        Ancona et al. 2018, Towards better understanding of gradient-based attribution methods for deep neural
        networks, arXiv:1711.06104.
    """
    size = max(1, heatmap.size // 5) if n is None else n
    if not 1 <= size < heatmap.size:
        raise ValueError(f"sensitivity_n: n is {size}, expected 1 to {heatmap.size - 1}, fewer than the pixels")
    labels = jnp.arange(heatmap.size).reshape(heatmap.shape)
    return _hide(f, x, heatmap, labels, heatmap.size, size, key, num_samples, baseline, correlation, chunk)


def _hide(
    f: Score, x: Image, heatmap: Heatmap, labels: Int[Array, "h w"], num_parts: int, size: int, key: PRNGKeyArray,
    num_samples: int, baseline: Baseline, correlation: Correlation, chunk: int,
) -> Scalar:  # fmt: skip
    """Correlate, over random sets of `size` labels, the sum of the map there and minus the score without them.

    Sets of one size, so that a constant added to all parts adds one to all sums: measured from the first part, equal
    parts give sums of exactly 0. The score of the whole image is such a constant too, and is never evaluated.
    """
    values = heatmap.ravel().astype(jnp.promote_types(heatmap.dtype, jnp.float32))
    values = jnp.bincount(labels.ravel(), values, length=num_parts)
    x0 = as_baseline(x, baseline)

    def hide(key: PRNGKeyArray) -> tuple[Scalar, Scalar]:
        hidden = _random_set(key, num_parts, size)
        score = f(jnp.where(hidden[labels][..., None], x0, x))
        return jnp.where(hidden, values - values[0], 0).sum(), -score

    return correlation(*stream.stack_over(hide, jax.random.split(key, num_samples), chunk))


def _random_set(key: PRNGKeyArray, num: int, size: int) -> Bool[Array, " n"]:
    """Exactly `size` of `num` parts at random: those of the least random integers, which their place makes distinct."""
    place_bits = max(1, (num - 1).bit_length())
    draws = jax.random.bits(key, (num,)) >> place_bits << place_bits | jnp.arange(num, dtype=jnp.uint32)
    return draws < jnp.sort(draws)[size]


@for_images
@for_heatmaps
def average_drop(f: Score, x: Image, heatmap: Heatmap, *, baseline: Baseline = 0.0) -> Scalar:
    r"""How much of the probability is lost when the image is seen through its map.

    $\max(0, f(x) - f(x')) \,/\, f(x)$ with $x' = x_0 + m \odot (x - x_0)$ and $m$ the map between 0 and 1

    Lower is better, from 0 to 1 for a probability; the paper averages over images, in percent. The mask is
    `maps.min_max` of the map: a constant map hides everything, and a score of 0 has nothing to lose.

    Cost: 2 F.

    Args:
        f: A probability.
        x: One image.
        heatmap: Importance of each pixel, `(h w)`; of a signed map take the absolute value or the positive part first.
        baseline: What the pixels of importance 0 become, as in `images.as_baseline`.

    Example:
        >>> f = lambda x: x.mean()
        >>> average_drop(f, jnp.ones((1, 2, 1)), jnp.array([[0.0, 7.0]])).item()  # half of the image is left
        0.5

    Reference:
        Chattopadhyay et al. 2018, Grad-CAM++, arXiv:1710.11063.
    """
    before, after = _seen_through(f, x, heatmap, baseline)
    return jnp.where(before > 0, jax.nn.relu(before - after) / jnp.where(before > 0, before, 1), 0)


@for_images
@for_heatmaps
def average_increase(f: Score, x: Image, heatmap: Heatmap, *, baseline: Baseline = 0.0) -> Scalar:
    r"""Whether the probability rises when the image is seen through its map.

    $[\, f(x') > f(x) \,]$ with $x' = x_0 + m \odot (x - x_0)$ and $m$ the map between 0 and 1

    Higher is better: 1 if it rises, 0 if not; the paper averages over images, in percent.

    Cost: 2 F.

    Args:
        f: As in `average_drop`.
        x: As in `average_drop`.
        heatmap: As in `average_drop`.
        baseline: As in `average_drop`.

    Example:
        >>> f = lambda x: 1 - x[0, 0, 0]  # a probability that the first pixel lowers
        >>> average_increase(f, jnp.ones((1, 2, 1)), jnp.array([[0.0, 7.0]])).item()
        1.0

    Reference:
        Chattopadhyay et al. 2018, Grad-CAM++, arXiv:1710.11063.
    """
    before, after = _seen_through(f, x, heatmap, baseline)
    return (after > before).astype(before.dtype)


@for_images
@for_heatmaps
def average_gain(f: Score, x: Image, heatmap: Heatmap, *, baseline: Baseline = 0.0) -> Scalar:
    r"""How much of the missing probability is gained when the image is seen through its map.

    $\max(0, f(x') - f(x)) \,/\, (1 - f(x))$ with $x' = x_0 + m \odot (x - x_0)$ and $m$ the map between 0 and 1

    Higher is better, from 0 to 1 for a probability; one of 1 has nothing to gain: 0.

    Cost: 2 F.

    Args:
        f: As in `average_drop`.
        x: As in `average_drop`.
        heatmap: As in `average_drop`.
        baseline: As in `average_drop`.

    Example:
        >>> f = lambda x: 0.75 - 0.5 * x[0, 0, 0]  # from 1/4 to 3/4: two thirds of the 3/4 missing
        >>> round(average_gain(f, jnp.ones((1, 2, 1)), jnp.array([[0.0, 7.0]])).item(), 4)
        0.6667

    Reference:
        Zhang et al. 2023, Opti-CAM: optimizing saliency maps for interpretability, arXiv:2301.07002.
    """
    before, after = _seen_through(f, x, heatmap, baseline)
    return jnp.where(before < 1, jax.nn.relu(after - before) / jnp.where(before < 1, 1 - before, 1), 0)


def _seen_through(f: Score, x: Image, heatmap: Heatmap, baseline: Baseline) -> tuple[Scalar, Scalar]:
    """The score of the image, and of the image under its map as a mask."""
    masked = images.inpaint(x, min_max(heatmap).astype(x.dtype), baseline=baseline)
    before, after = stream.stack_over(lambda whole: f(jnp.where(whole, x, masked)), jnp.array([True, False]), 2)
    dtype = jnp.promote_types(before.dtype, jnp.float32)
    return before.astype(dtype), after.astype(dtype)
