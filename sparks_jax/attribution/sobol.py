"""Sobol' attribution: which regions account for the variance of the score."""

from collections.abc import Callable

from jaxtyping import PRNGKeyArray

from sparks_jax import designs, images, sensitivity
from sparks_jax.images import for_images
from sparks_jax.sensitivity.sobol import Design, Estimator
from sparks_jax.types import Heatmap, Image, Perturbation, Score

Resize = Callable[..., Heatmap]


@for_images
def sobol(
    f: Score,
    x: Image,
    *,
    key: PRNGKeyArray,
    grid: int = 8,
    num_designs: int = 32,
    design: Design = designs.sobol,
    estimator: Estimator = sensitivity.jansen,
    perturb: Perturbation = images.inpaint,
    upsample: Resize = images.nearest,
    resize: Resize = images.bicubic,
    chunk: int = 16,
) -> Heatmap:
    r"""Total Sobol' index of each cell of a grid of masks.

    $S_{T_i} = \mathbb{E}\,\mathbb{V}[Y \mid M_{\sim i}] \,/\, \mathbb{V}\,Y$ with
    $Y = f(\pi(x, \mathrm{up}(M)))$ and $M \sim \mathcal{U}[0, 1]^{g \times g}$

    The share of the variance of the score that disappears when everything but cell $i$ is known: what the cell does
    alone and in interaction. It does not tell support from opposition.

    Cost: `num_designs` (grid² + 2) F; 2112 at the defaults.

    Args:
        f: The score; a logit varies more smoothly than a saturated probability.
        x: One image.
        key: Scrambles the design. Share it over a batch to give every image the same masks.
        grid: Cells on each side (7 to 12 in the paper).
        num_designs: Rows of each of the two designs (16 to 64 in the paper): enough to rank, not to measure: see
            `sensitivity.sobol_indices` for standard errors.
        design: From (num_points, dim, key=) to points in the unit cube.
        estimator: One of `sensitivity.sobol`, or your own.
        perturb: `(x, mask) -> x'`: `images.inpaint`, `blur_out`, `amplitude` or your own.
        upsample: From the grid of masks to the size of the image: `images.nearest` or `bilinear`.
        resize: From the grid of indices to the map: `images.bicubic`, or `nearest` for the cells as they are.
        chunk: Perturbed images evaluated at once.

    Example:
        >>> f = lambda x: 3 * x[0, 0, 0] + x[1, 1, 0]  # shares 9/10 and 1/10
        >>> m = sobol(f, jnp.ones((2, 2, 1)), key=jax.random.key(0), grid=2, num_designs=1024)
        >>> [round(float(v), 1) for v in m.ravel()]
        [0.9, 0.0, 0.0, 0.1]

    Reference:
        Fel, Cadène et al. 2021, Look at the variance! Efficient black-box explanations with Sobol-based sensitivity
        analysis, arXiv:2111.04138.
    """
    size = x.shape[:2]

    def masked_score(mask):
        return f(perturb(x, upsample(mask.astype(x.dtype).reshape(grid, grid), size)))

    values = sensitivity.pick_freeze(
        masked_score, grid**2, key=key, num_designs=num_designs, design=design, chunk=chunk
    )
    total = estimator(*values)[1]
    return resize(total.reshape(grid, grid), size).astype(x.dtype)
