"""A photograph that somebody sent: read within limits, and decoded in memory by few, known decoders.

What is refused, and why: a body over the limit (before it is read whole), one that comes too slowly, anything that is
not JPEG, PNG or WebP by its first bytes, more pixels than the limit (before one is decoded), files that end early or
lie about what they hold. Nothing is written to disk, and no name that was sent is used.
"""

import asyncio
import io
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
from jaxtyping import UInt8

MOST_BYTES = 12_000_000
MOST_PIXELS = 40_000_000
MOST_SECONDS = 30.0  # for the whole body
SIDE = 2048  # what is kept of a larger photograph: networks look at a few hundred pixels
# The first bytes of the kinds that are decoded, and how Pillow calls them.
KINDS = ((b"\xff\xd8\xff", "JPEG"), (b"\x89PNG\r\n\x1a\n", "PNG"), (b"RIFF", "WEBP"))


class Refused(ValueError):
    """A request that is not served: the status of HTTP and one sentence for the user."""

    def __init__(self, status: int, sentence: str):
        super().__init__(sentence)
        self.status = status


async def read_body(chunks: AsyncIterator[bytes], length: str | None, *, most: int = MOST_BYTES,
                    seconds: float = MOST_SECONDS) -> bytes:  # fmt: skip
    """The body of a request, if it is not too large and not too slow.

    Args:
        chunks: As they come.
        length: What the request says that it has.
        most: Bytes.
        seconds: For all of it.

    Raises:
        Refused: 413 if it is larger, or says so; 408 if it takes longer; 400 if it is empty.
    """
    too_large = Refused(413, f"The file is larger than {most // 1_000_000} MB: make the picture smaller.")
    if length is not None and (not length.isdigit() or int(length) > most):
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(seconds):
            async for chunk in chunks:
                body += chunk
                if len(body) > most:
                    raise too_large
    except TimeoutError:
        raise Refused(408, "The file came too slowly: try again.") from None
    if not body:
        raise Refused(400, "There was no file.")
    return bytes(body)


def decode(body: bytes, *, most: int = MOST_PIXELS) -> UInt8[np.ndarray, "h w 3"]:
    """The pixels of a photograph, upright, as RGB; no more than `SIDE` on its longer side.

    Args:
        body: The file.
        most: Pixels that are decoded.

    Raises:
        Refused: 415 if it is of another kind, 413 if it has too many pixels, 422 if it is damaged.
        ImportError: If Pillow is not installed.
    """
    from PIL import Image

    kind = next((name for start, name in KINDS if body.startswith(start)), None)
    if kind is None or (kind == "WEBP" and body[8:12] != b"WEBP"):
        raise Refused(415, "This is not a JPEG, PNG or WebP picture.")
    try:
        with Image.open(io.BytesIO(body), formats=[kind]) as image:
            return _shrunk(image, most)
    except Refused:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise Refused(413, "The picture is too large to be opened safely.") from None
    except Exception:  # Pillow's decoders raise whatever they like on hostile files
        raise Refused(422, "The picture is damaged: it ends too early, or holds something else.") from None


def _shrunk(image: Any, most: int) -> np.ndarray:
    from PIL import Image, ImageOps

    width, height = image.size
    if width * height > most:
        raise Refused(413, f"The picture has {width} × {height} pixels, more than {most // 1_000_000} million.")
    if image.format == "JPEG":
        image.draft("RGB", (SIDE, SIDE))  # decodes a large one at a half, a quarter or an eighth
    image.load()
    upright = ImageOps.exif_transpose(image)
    upright.thumbnail((SIDE, SIDE), Image.Resampling.BICUBIC, reducing_gap=2.0)
    return _as_rgb(upright)


def _as_rgb(image: Any) -> np.ndarray:
    from PIL import Image

    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.array(image.convert("RGB"))
