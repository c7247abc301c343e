"""RISE: which regions were visible when the score was high."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from sparks_jax import sensitivity
from sparks_jax.images import Baseline, for_images, inpaint
from sparks_jax.types import Heatmap, Image, Score

# Published settings, for use with `**`.
RISE_BMVC18 = dict(num_masks=8000, grid=7, keep=0.5)  # the paper, ResNet-50
RISE_XPLIQUE = dict(num_masks=4000, grid=7, keep=0.5)


@for_images
def rise(
    f: Score,
    x: Image,
    *,
    key: PRNGKeyArray,
    num_masks: int = 4000,
    grid: int = 7,
    keep: float | Float[Array, ""] = 0.5,
    baseline: Baseline = 0.0,
    chunk: int = 16,
) -> Heatmap:
    r"""Average of random masks weighted by the score of the image seen through them.

    $\phi_i = \sum_k f(x \odot m_k)\, m_{k,i} \,/\, \sum_k m_{k,i}$

    An estimate of $\mathbb{E}[f(x \odot m) \mid i \text{ visible}]$: only differences within a map mean something,
    since a constant score gives a constant map. Dividing by the masks drawn rather than by their expectation, as the
    paper does, removes the noise that this constant would carry.

    Cost: `num_masks` F.

    Args:
        f: The score; the paper uses the class's probability.
        x: One image.
        key: Draws the masks. Share it over a batch to give every image the same ones.
        num_masks: 4000 to 8000 in the paper.
        grid: Cells on each side of the coarse masks.
        keep: Probability that a cell is kept.
        baseline: What hidden pixels become, as in `images.as_baseline`.
        chunk: Masks evaluated at once.

    Example:
        >>> m = rise(lambda x: 2.0 + 0 * x.sum(), jnp.ones((4, 4, 1)), key=jax.random.key(0), num_masks=64, grid=2)
        >>> round(m.min().item(), 4), round(m.max().item(), 4)
        (2.0, 2.0)

    Reference:
        Petsiuk et al. 2018, RISE: randomized input sampling for explanation of black-box models, arXiv:1806.07421.
    """
    mask = lambda key: random_mask((x.shape[0], x.shape[1]), key=key, grid=grid, keep=keep).astype(x.dtype)
    seen = lambda mask: f(inpaint(x, mask, baseline=baseline))
    return sensitivity.mean_while_present(seen, mask, key=key, num_masks=num_masks, chunk=chunk).astype(x.dtype)


def random_mask(
    size: tuple[int, int], *, key: PRNGKeyArray, grid: int = 7, keep: float | Float[Array, ""] = 0.5
) -> Heatmap:
    r"""A coarse Bernoulli mask, enlarged bilinearly by one cell too many and shifted at random by up to a cell.

    $m = \mathrm{crop}_{\delta}(\mathrm{up}(B))$ with $B_{ij} \sim \mathcal{B}(q)$ and
    $\delta \sim \mathcal{U}\{0, \ldots, \lceil h/g \rceil - 1\}$ drawn for each mask and each side.

    Args:
        size: Height and width in pixels.
        key: Draws the cells and the shift.
        grid: Cells on each side.
        keep: Probability that a cell is kept.

    Example:
        >>> random_mask((4, 4), key=jax.random.key(0), keep=1.0).min().item()
        1.0

    Reference:
        Petsiuk et al. 2018, RISE, arXiv:1806.07421, section 3.2.
    """
    key_cells, *key_shifts = jax.random.split(key, 3)
    cells = jax.random.bernoulli(key_cells, keep, (grid, grid)).astype(jnp.float32)
    shifts = [jax.random.randint(k, (), 0, -(-n // grid)) for k, n in zip(key_shifts, size, strict=True)]
    rows, columns = (_enlarge(n, grid, shift) for n, shift in zip(size, shifts, strict=True))
    return jnp.einsum("hi,ij,wj->hw", rows, cells, columns)


def _enlarge(length: int, grid: int, shift: Int[Array, ""]) -> Float[Array, "length grid"]:
    """Bilinear weights of `grid` cells enlarged to `grid + 1` cells' worth of pixels, from pixel `shift` on."""
    enlarged = (grid + 1) * -(-length // grid)
    position = (jnp.arange(length) + shift + 0.5) * grid / enlarged - 0.5
    distance = jnp.clip(position, 0, grid - 1)[:, None] - jnp.arange(grid)[None, :]
    return jnp.maximum(0, 1 - jnp.abs(distance))
