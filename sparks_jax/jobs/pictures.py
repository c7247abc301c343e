"""Pictures in: from files, folders and the photographs that other packages ship, to what a network sees."""

import itertools
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Real, UInt8

VIEW = 448  # side of the pictures on the page, at least: twice the usual 224 looks sharp on a screen


class Source(NamedTuple):
    """A picture before it is read.

    Attributes:
        name: Unique, and fit for a file name.
        title: What it is called on the page.
        path: Its file, or None for `pixels`.
        pixels: A photograph that is in memory already.
    """

    name: str
    title: str
    path: Path | None = None
    pixels: Any = None


class Picture(NamedTuple):
    """A picture as the network sees it and as the page shows it.

    Attributes:
        source: Where it comes from.
        seen: In [0, 1], of the network's size.
        view: The same part of the picture for the eye, larger, from 0 to 255.
    """

    source: Source
    seen: Float[np.ndarray, "s s 3"]
    view: UInt8[np.ndarray, "v v 3"]


def find(arguments: Sequence[str], limit: int | None = None) -> list[Source]:
    """The pictures named on the command line: files as they are, folders by the pictures in them.

    A file that is missing stays in the list: `read` will name it.

    Args:
        arguments: Files and folders; none: the natural photographs of `data.natural`.
        limit: How many at most.

    Raises:
        ValueError: For a folder without pictures.
    """
    from sparks_jax.data.folder import list_images
    from sparks_jax.data.natural import NAMES, photographs

    if not arguments:
        return [Source(name, name, pixels=pixels) for name, pixels in photographs(NAMES[:limit]).items()]
    listed = [list_images(name) if Path(name).is_dir() else [Path(name)] for name in arguments]
    paths = list(itertools.chain.from_iterable(listed))[:limit]
    return [Source(name, path.name, path) for name, path in zip(_names(paths), paths, strict=True)]


def _names(paths: list[Path]) -> list[str]:
    """A different name for each path, also where case does not count."""
    names = []
    for path in paths:
        stem = re.sub(r"[^\w.-]+", "_", path.stem)
        tries = (stem if i == 1 else f"{stem}-{i}" for i in itertools.count(1))
        taken = {name.lower() for name in names}
        names.append(next(name for name in tries if name.lower() not in taken))
    return names


def read(source: Source, size: int, prepare: Callable[[np.ndarray, int], np.ndarray]) -> Picture:
    """Read a picture and prepare it for the network and for the page.

    Args:
        source: One of `find`.
        size: Side that the network takes, in pixels.
        prepare: From pixels and a side to a square in [0, 1]: `square` or `models.bundled.prepare`.

    Raises:
        ValueError: If the file is not a picture.
        OSError: If it cannot be read.
    """
    from sparks_jax.data.folder import read_image

    pixels = source.pixels if source.path is None else read_image(source.path)
    view = np.round(255 * prepare(pixels, max(size, VIEW))).astype(np.uint8)
    return Picture(source, prepare(pixels, size), view)


def square(pixels: UInt8[np.ndarray, "h w 3"], side: int) -> Float32[np.ndarray, "{side} {side} 3"]:
    """The largest centre square, resized with antialiasing, in [0, 1].

    Example:
        >>> square(np.full((2, 4, 3), 255, np.uint8), 3)[0, 0].tolist()
        [1.0, 1.0, 1.0]
    """
    from PIL import Image

    height, width, _ = pixels.shape
    edge = min(height, width)
    top, left = (height - edge) // 2, (width - edge) // 2
    cut = Image.fromarray(np.ascontiguousarray(pixels[top : top + edge, left : left + edge]))
    return np.asarray(cut.resize((side, side), Image.Resampling.BICUBIC)) / np.float32(255)


def enlarge(a: Real[Any, "h w"], side: int) -> Float32[np.ndarray, "{side} {side}"]:
    """A map at the size of a view: bilinear, or by nearest cells where a NaN would spread.

    Example:
        >>> enlarge(np.eye(2), 4)[0].tolist()
        [1.0, 0.75, 0.25, 0.0]
    """
    from PIL import Image

    values = np.asarray(a, np.float32)
    how = Image.Resampling.BILINEAR if np.isfinite(values).all() else Image.Resampling.NEAREST
    return np.asarray(Image.fromarray(values).resize((side, side), how))
