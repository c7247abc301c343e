"""Occlusion: what the score loses when a patch is covered."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from sparks_jax import stream
from sparks_jax.images import Baseline, as_baseline, for_images
from sparks_jax.types import Heatmap, Image, Scalar, Score


@for_images
def occlusion(
    f: Score,
    x: Image,
    *,
    patch: int = 32,
    stride: int = 16,
    baseline: Baseline = 0.0,
    chunk: int = 16,
) -> Heatmap:
    r"""Drop of the score when a sliding patch covers the image, averaged over the patches that cover a pixel.

    $\phi_i = \frac{1}{|\{p \ni i\}|} \sum_{p \ni i} f(x) - f(x_{p \leftarrow x_0})$

    The last patch of a row or column may hang over the border, so that every pixel is covered. For a linear score and
    patches that do not overlap, $\phi_i$ is the contribution $\sum_{j \in p} w_j (x_j - x_{0j})$ of its patch.

    Cost: 1 + ⌈(h − patch)/stride + 1⌉ ⌈(w − patch)/stride + 1⌉ F; 170 at 224² and the defaults. Signed.

    Args:
        f: The score.
        x: One image.
        patch: Side of the patch in pixels.
        stride: Step of the patch in pixels, at most `patch`.
        baseline: What covers the patch, as in `images.as_baseline`.
        chunk: Patches evaluated at once.

    Raises:
        ValueError: If the patch is larger than the image or the stride larger than the patch.

    Example:
        >>> f = lambda x: (x * jnp.arange(4.0).reshape(2, 2, 1)).sum()
        >>> occlusion(f, jnp.ones((2, 2, 1)), patch=1, stride=1)
        Array([[0., 1.],
               [2., 3.]], dtype=float32)

    Reference:
        Zeiler & Fergus 2014, Visualizing and understanding convolutional networks, arXiv:1311.2901.
    """
    height, width, _ = x.shape
    if not 1 <= stride <= patch <= min(height, width):
        raise ValueError(
            f"occlusion: patch is {patch} and stride is {stride} for an image of {height} × {width}, "
            "expected 1 <= stride <= patch <= the image's smaller side"
        )
    rows, columns = _windows(height, patch, stride), _windows(width, patch, stride)
    x0 = as_baseline(x, baseline)

    def covered(number: Int[Array, ""]) -> Scalar:
        window = rows[number // len(columns)][:, None] & columns[number % len(columns)][None, :]
        return f(jnp.where(window[..., None], x0, x))

    drops = f(x) - stream.stack_over(covered, jnp.arange(len(rows) * len(columns)), chunk)
    in_row, in_column = rows.astype(x.dtype), columns.astype(x.dtype)
    total = jnp.einsum("ph,pq,qw->hw", in_row, drops.reshape(len(rows), len(columns)), in_column)
    return (total / (in_row.sum(0)[:, None] * in_column.sum(0)[None, :])).astype(x.dtype)


def _windows(length: int, patch: int, stride: int) -> Bool[Array, "p length"]:
    """Which of `length` pixels each patch covers, along one side."""
    starts = stride * jnp.arange(-(-(length - patch) // stride) + 1)
    pixels = jnp.arange(length)[None, :] - starts[:, None]
    return (pixels >= 0) & (pixels < patch)
