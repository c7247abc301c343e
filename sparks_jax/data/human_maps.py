r"""Images with maps of people, in batches: cut, flipped and resized together, with a flag where there is no map.

Geometry is by matrices: resizing a map is $R a C^\top$ with two entries in each row of $R$ and $C$, which cuts, flips
and blurs as well. Everything here is NumPy, for the workers that read data beside the accelerator.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from sparks_jax.data.clickme import decode

SIDE = 64  # at which maps are blurred
BLUR_TAPS, BLUR_SIGMA = 10, 10.0
AREA, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)  # of random cuts: Szegedy et al. 2015, and the harmonizer's training

Matrix = Float[np.ndarray, "n m"]
Blur = Callable[[int], tuple[Matrix, Matrix]]


class Cut(NamedTuple):
    """A part of an image, in shares of its sides, and whether it is mirrored left to right."""

    top: float = 0.0
    left: float = 0.0
    height: float = 1.0
    width: float = 1.0
    mirrored: bool = False


WHOLE = Cut()


def blur_published(n: int) -> tuple[Matrix, Matrix]:
    """The blur of the published maps, of rows and of columns: 10 taps of a Gaussian of 10 pixels, nearly a box.

    An even number of taps has no centre: what is blurred moves up by 0.46 and left by 0.54 pixels of 64, 1.6 and 1.9 of
    224. The published ceiling is of maps blurred so.

    Example:
        >>> rows, columns = blur_published(64)
        >>> [round(float(blur[:, 32] @ (np.arange(64) - 32) / blur[:, 32].sum()), 2) for blur in (rows, columns)]
        [-0.46, -0.54]

    Reference:
        Fel et al. 2022, Harmonizing the object recognition strategies of deep neural networks with humans,
        arXiv:2211.04533, the authors' code.
    """
    offsets = np.arange(BLUR_TAPS) - (BLUR_TAPS - 1) // 2
    return _banded(n, offsets, _gaussian(offsets)), _banded(n, offsets, _gaussian(offsets - 1))


def blur_centred(n: int) -> tuple[Matrix, Matrix]:
    """The same width with 11 taps, which moves nothing.

    Example:
        >>> rows, _ = blur_centred(64)
        >>> round(float(rows[:, 32] @ (np.arange(64) - 32)), 6) + 0.0
        0.0
    """
    offsets = np.arange(BLUR_TAPS + 1) - BLUR_TAPS // 2
    matrix = _banded(n, offsets, _gaussian(offsets))
    return matrix, matrix


def human_map(
    heatmap: UInt8[np.ndarray, "h w"], size: int = 224, *, cut: Cut = WHOLE, blur: Blur = blur_published
) -> Float[np.ndarray, "s s"]:
    """A map as networks are compared with: cut, resized to 64 pixels, blurred, resized; from 0 to 1.

    The published resizing takes two neighbours and averages no more. A constant map is 0.

    Args:
        heatmap: As stored.
        size: Side of the result.
        cut: Which part, and whether mirrored.
        blur: From a number of pixels to two matrices: `blur_published` or `blur_centred`.

    Example:
        >>> human_map(np.eye(8, dtype=np.uint8), 16).shape
        (16, 16)

    Reference:
        Fel et al. 2022, arXiv:2211.04533, the authors' code.
    """
    height, width = heatmap.shape
    rows, columns = blur(SIDE)
    across = _sampled(width, SIDE, cut.left, cut.width)
    across = across[::-1] if cut.mirrored else across
    small = _sampled(height, SIDE, cut.top, cut.height) @ heatmap.astype(np.float32) @ across.T
    if small.max() == small.min():
        return np.zeros((size, size), np.float32)
    up = _sampled(SIDE, size)
    out = up @ (rows @ small @ columns.T) @ up.T
    low, high = out.min(), out.max()
    return (out - low) / (high - low)


def cut_image(image: UInt8[np.ndarray, "h w 3"], size: int = 224, cut: Cut = WHOLE) -> UInt8[np.ndarray, "s s 3"]:
    """The same part of an image, resized with averaging.

    Raises:
        ImportError: If Pillow is not installed.

    Example:
        >>> cut_image(np.zeros((8, 6, 3), np.uint8), 4, Cut(0.0, 0.0, 0.5, 1.0, True)).shape
        (4, 4, 3)
    """
    try:
        from PIL import Image
    except ImportError:
        raise ImportError("resizing images needs Pillow: pip install 'sparks-jax[demo]'") from None
    height, width = image.shape[:2]
    box = (cut.left * width, cut.top * height, (cut.left + cut.width) * width, (cut.top + cut.height) * height)
    out = np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR, box))
    return np.ascontiguousarray(out[:, ::-1]) if cut.mirrored else out


def random_cut(rng: np.random.Generator) -> Cut:
    """A part of 8 to 100 % of the area and of 3/4 to 4/3 of the shape of the image, mirrored or not.

    Drawn until it fits, ten times at most; then the whole image.

    Example:
        >>> cut = random_cut(np.random.default_rng(0))
        >>> 0.08 <= cut.height * cut.width <= 1
        True

    Reference:
        Szegedy et al. 2015, Going deeper with convolutions, arXiv:1409.4842.
    """
    mirrored = bool(rng.random() < 0.5)
    for _ in range(10):
        area, ratio = rng.uniform(*AREA), np.exp(rng.uniform(*np.log(RATIO)))
        height, width = (area / ratio) ** 0.5, (area * ratio) ** 0.5
        if height <= 1 and width <= 1:
            return Cut(rng.uniform(0, 1 - height), rng.uniform(0, 1 - width), float(height), float(width), mirrored)
    return Cut(mirrored=mirrored)


def prepare(element: Any, cut: Cut = WHOLE, *, size: int = 224, blur: Blur = blur_published) -> dict[str, Any]:
    """One example of a batch: `image` (uint8), `human_map` (0 to 1, zeros without a map), `has_map`, `label`.

    Args:
        element: A serialised record of ClickMe, or an image and its label without a map, as `tfds.data_source` gives:
            a dictionary with `image` and `label`.
        cut: Which part of it.
        size: Side of image and map.
        blur: As in `human_map`.

    Raises:
        LookupError: For a map without an image.
        ValueError: For a damaged record.

    Example:
        >>> sorted(prepare({"image": np.zeros((8, 8, 3), np.uint8), "label": 3}, size=4))
        ['has_map', 'human_map', 'image', 'label']
    """
    if isinstance(element, bytes):
        image, heatmap, label, has_map, _ = decode(element)
    else:
        image, label, has_map = np.asarray(element["image"]), int(element["label"]), False
        heatmap = np.zeros((1, 1), np.uint8)
        image = np.repeat(image, 3, -1) if image.shape[-1] == 1 else image
    looked_at = human_map(heatmap, size, cut=cut, blur=blur) if has_map else np.zeros((size, size), np.float32)
    return {
        "image": cut_image(image, size, cut),
        "human_map": looked_at.astype(np.float32),
        "has_map": np.bool_(has_map),
        "label": np.int32(label),
    }


def pipeline(
    sources: Sequence[Any],
    *,
    batch: int,
    seed: int = 0,
    weights: Sequence[float] | None = None,
    train: bool = True,
    size: int = 224,
    blur: Blur = blur_published,
    shard: tuple[int, int] = (0, 1),
) -> Any:
    """Batches of the examples of `prepare`, as a Grain data set.

    In training each source is shuffled and repeated without end, images and maps are cut at random, and sources are
    mixed; otherwise they follow each other once, in order, whole, and the last batch may be smaller.

    Args:
        sources: Each with `len` and elements by index: `grain.sources.ArrayRecordDataSource(path)`, `tfds.data_source`.
        batch: Examples in a batch, of this process.
        seed: Of the order and of the cuts.
        weights: Share of each source in training; None: by their sizes.
        train: Whether to train.
        size: Side of image and map.
        blur: As in `human_map`.
        shard: Number of this process, and how many there are: of n processes each reads every n-th example.

    Raises:
        ImportError: If Grain is not installed.
        ValueError: For no sources, an empty one, or another number of weights.
    """
    try:
        import grain
    except ImportError:
        raise ImportError("batches need Grain: pip install 'sparks-jax[data]'") from None
    if not sources or not all(len(source) for source in sources):
        raise ValueError(f"pipeline: sources have {[len(s) for s in sources]} elements, expected one or more in each")
    if weights is not None and len(weights) != len(sources):
        raise ValueError(
            f"pipeline: there are {len(weights)} weights for {len(sources)} sources, expected one for each"
        )
    whole = partial(prepare, size=size, blur=blur)
    parts = []
    for i, source in enumerate(sources):
        part = grain.MapDataset.source(source)[shard[0] :: shard[1]]
        if train:
            part = part.seed(seed + i).shuffle().repeat()
            part = part.random_map(lambda element, rng: whole(element, random_cut(rng)))
        else:
            part = part.map(whole)
        parts.append(part)
    if train:
        shares = weights or [len(source) for source in sources]
        mixed = grain.MapDataset.mix(parts, [share / sum(shares) for share in shares])
        return mixed.to_iter_dataset().batch(batch, drop_remainder=True)
    return grain.MapDataset.concatenate(parts).to_iter_dataset().batch(batch)


def _gaussian(offsets: np.ndarray) -> np.ndarray:
    weights = np.exp(-((offsets / BLUR_SIGMA) ** 2) / 2)
    return weights / weights.sum()


def _banded(n: int, offsets: np.ndarray, weights: np.ndarray) -> Matrix:
    """Row i has the weights at columns i + offset; what is outside is 0."""
    return sum(
        (weight * np.eye(n, k=offset, dtype=np.float32) for offset, weight in zip(offsets, weights, strict=True)),
        np.zeros((n, n), np.float32),
    )


def _sampled(n: int, m: int, start: float = 0.0, length: float = 1.0) -> Matrix:
    """`(m, n)`: m values interpolated between the centres of n pixels, of a part of them; flat beyond the last."""
    places = np.clip((start + (np.arange(m) + 0.5) / m * length) * n - 0.5, 0, n - 1)
    below = np.minimum(np.floor(places).astype(int), max(n - 2, 0))
    matrix = np.zeros((m, n), np.float32)
    matrix[np.arange(m), below] = 1 - (places - below)
    matrix[np.arange(m), np.minimum(below + 1, n - 1)] += places - below
    return matrix
