"""The folder of a finished run: pictures, arrays and a record, each file written whole or not at all."""

import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

REPORT, MAPS, RECORD, PICTURES = "report.html", "maps.npz", "run.json", "pictures"


def check(folder: Path, *, force: bool) -> None:
    """Refuse a folder that holds something, unless forced, before anything is computed.

    Raises:
        FileExistsError: If it is not empty, without `force`.
        NotADirectoryError: If it is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file, expected a folder for the results; choose another --out")
    if not force and folder.is_dir() and any(folder.iterdir()):
        raise FileExistsError(
            f"the folder {folder} is not empty; --force (in Python force=True) replaces an earlier run there, "
            "--out writes elsewhere"
        )


def clear(folder: Path) -> None:
    """Remove the files of an earlier run: those in the folder that its record lists, and no others."""
    try:
        listed = json.loads((folder / RECORD).read_text(encoding="utf-8"))["files"]
        paths = [folder / name for name in listed]
    except (OSError, ValueError, KeyError, TypeError):
        return
    for path in paths:
        if path.resolve().is_relative_to(folder.resolve()) and path.is_file():
            path.unlink()
            if path.parent != folder and not any(path.parent.iterdir()):
                path.parent.rmdir()


def write(path: Path, content: bytes) -> None:
    """Write a file whole: a reader, or an interruption, finds the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_bytes(content)
    os.replace(part, path)


def encode(pixels: Any, kind: str, **options: Any) -> bytes:
    """RGB in [0, 1], or bytes, as an image file: "PNG", "JPEG".

    Example:
        >>> encode(np.zeros((2, 2, 3)), "PNG")[1:4]
        b'PNG'
    """
    from PIL import Image

    values = np.asarray(pixels)
    values = values if values.dtype == np.uint8 else np.round(values * 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, kind, **options)
    return buffer.getvalue()


def archive(arrays: Mapping[str, Any]) -> bytes:
    """Named arrays as a compressed `.npz` file.

    Example:
        >>> np.load(io.BytesIO(archive({"a": np.arange(3)})))["a"].tolist()
        [0, 1, 2]
    """
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def as_json(record: Mapping[str, Any]) -> bytes:
    """A record as indented JSON; what JSON does not know is written as text.

    Example:
        >>> print(as_json({"out": Path("maps")}).decode(), end="")
        {
          "out": "maps"
        }
    """
    return (json.dumps(record, indent=2, ensure_ascii=False, default=str) + "\n").encode()
