"""Pictures from files, whatever they hold: always RGB, 8 bits, upright."""

import struct
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Num, UInt8

# What Pillow reads everywhere; HEIC and camera raw files need to be converted.
SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")

# What Pillow raises on damaged files.
DAMAGED = (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error)


def list_images(folder: str | Path) -> list[Path]:
    """The pictures in a folder, by their suffix, sorted; not those of its subfolders, nor hidden files.

    Raises:
        NotADirectoryError: If there is no such folder.
        ValueError: If there is no picture in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise NotADirectoryError(f"there is no folder {folder}")
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.name[0] != ".")
    if not paths:
        raise ValueError(f"there is no picture in the folder {folder}; it should hold {', '.join(SUFFIXES)} files")
    return paths


def read_image(path: str | Path) -> UInt8[np.ndarray, "h w 3"]:
    """Read a picture as RGB from 0 to 255, turned upright as its EXIF orientation says.

    Grey is repeated, a palette looked up, CMYK converted, transparency laid on white, 16 bits scaled to 8 by 1/257,
    32 bits scaled from the darkest pixel to the lightest. Of an animation, the first frame.

    Raises:
        FileNotFoundError: If there is no such file.
        OSError: If the file may not be read, or is a folder.
        ValueError: If it is not a picture, is damaged, or is dangerously large.
        ImportError: If Pillow is not installed.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            file.read(1)
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no file {path}") from None
    except OSError as error:
        raise type(error)(f"cannot read {path}: {error.strerror}") from None
    return _decoded(path)


def _decoded(path: Path) -> np.ndarray:
    try:
        from PIL import Image, ImageOps
    except ImportError:
        raise ImportError("reading pictures needs Pillow: pip install 'sparks-jax[demo]'") from None
    try:
        with Image.open(path) as image:
            return _as_rgb(ImageOps.exif_transpose(image))
    except Image.DecompressionBombError as error:
        raise ValueError(f"{path} is too large to be opened safely, make it smaller first: {error}") from None
    except Image.UnidentifiedImageError:
        what = "is empty" if path.stat().st_size == 0 else "is not a picture that Pillow can read"
        raise ValueError(f"{path} {what}; give a PNG, JPEG, WebP, TIFF, GIF or BMP file") from None
    except DAMAGED as error:
        raise ValueError(f"{path} is damaged or of an unknown kind: {error}") from error


def _as_rgb(image: Any) -> UInt8[np.ndarray, "h w 3"]:
    from PIL import Image

    if image.mode[0] in "IF":  # "I;16", "I", "F": one channel of 16 or 32 bits
        return np.repeat(_eight_bits(np.asarray(image))[..., None], 3, -1)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return np.array(image.convert("RGB"))


def _eight_bits(levels: Num[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w"]:
    if not np.isfinite(levels).all():
        raise ValueError("it has NaN or infinite pixels")
    low, high = 0.0, 65535.0
    if levels.dtype.kind == "f" or levels.min() < low or levels.max() > high:
        low, high = float(levels.min()), float(levels.max())
    return np.rint(255 * (levels - low) / (high - low or 1)).astype(np.uint8)
