"""What a build has finished, in a folder that a killed one goes on from: written whole, kept under one fingerprint.

Three things take time: predictions of all images, studies of a batch of classes, and the pictures of a class, with
which a class is finished. Each is a file, or a class of the bundle; none that is there is computed again. The folder is
removed with the end of the build.
"""

import io
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sparks_jax.jobs import outputs
from sparks_jax.lens.bundle import ATLAS, MAKING, digest, images_of, read_class
from sparks_jax.lens.records import SchemaError
from sparks_jax.lens.schema import ClassRecord

FOLDER = "work"


class Place(NamedTuple):
    """The folder of an atlas that is being built.

    Attributes:
        folder: Of the atlas.
        fingerprint: Of all that it is made from.
    """

    folder: Path
    fingerprint: str

    def load(self, name: str) -> dict[str, np.ndarray] | None:
        """Arrays that were kept, if they are there and made from the same."""
        path = self.folder / FOLDER / f"{name}.npz"
        try:
            with np.load(io.BytesIO(path.read_bytes())) as arrays:
                found = {key: arrays[key] for key in arrays.files}
        except (OSError, ValueError, KeyError, EOFError):
            return None
        return found if str(found.pop("fingerprint", "")) == self.fingerprint else None

    def keep(self, name: str, arrays: dict[str, Any]) -> None:
        """Keep arrays."""
        buffer = io.BytesIO()
        np.savez(buffer, fingerprint=np.array(self.fingerprint), **arrays)
        outputs.write(self.folder / FOLDER / f"{name}.npz", buffer.getvalue())

    def finished(self, file: str) -> tuple[ClassRecord, str] | None:
        """A class that is there whole, made from the same, and the hash of its file."""
        path = self.folder / file
        try:
            record = read_class(self.folder, file)
        except (OSError, SchemaError):
            return None
        whole = all(
            (self.folder / one.file).is_file() and digest((self.folder / one.file).read_bytes()) == one.sha256
            for one in (*images_of(record), record.arrays, record.bank)
        )
        return (record, digest(path.read_bytes())) if whole and record.fingerprint == self.fingerprint else None

    def clear(self) -> None:
        """Remove what was only kept to go on from."""
        shutil.rmtree(self.folder / FOLDER, ignore_errors=True)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Be the only build of a folder while inside, where its file system has locks; one that is killed leaves none.

    Args:
        folder: Of the atlas, which is made.

    Raises:
        BlockingIOError: If another build is at it.
        NotADirectoryError: If it is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file, expected a folder for an atlas; choose another --out")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    held = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(held)
        raise BlockingIOError(
            f"another build is writing {folder}: let it end, or start both with --distributed to share the work"
        ) from None
    except OSError:
        pass  # of a network, without locks
    try:
        yield
    finally:
        os.close(held)


def open_place(folder: Path, fingerprint: str, *, force: bool) -> Place:
    """The folder of an atlas: new, or of the same build, which then goes on.

    Args:
        folder: Of the atlas.
        fingerprint: Of all that it is made from.
        force: Whether another atlas there is removed.

    Raises:
        FileExistsError: If there is another atlas, or something else.
    """
    place, mark = Place(folder, fingerprint), folder / MAKING
    if folder.is_dir() and any(folder.iterdir()):
        before = _fingerprint(mark)
        if before != fingerprint:
            if not force or (before is None and not (folder / ATLAS).is_file()):
                build = "an atlas" if (folder / ATLAS).is_file() else "an unfinished build"
                what = "something else" if before is None else f"{build} of another network, other images or settings"
                raise FileExistsError(
                    f"the folder {folder} holds {what}; --force (force=True) replaces an atlas or a build of one, "
                    "--out writes elsewhere"
                )
            for one in folder.iterdir():  # the folder itself is what is locked
                shutil.rmtree(one) if one.is_dir() and not one.is_symlink() else one.unlink()
    for part in folder.rglob("*.part"):  # of a build that was killed as it wrote
        part.unlink()
    if not mark.is_file():
        outputs.write(mark, outputs.as_json({"fingerprint": fingerprint}))
    return place


def _fingerprint(mark: Path) -> str | None:
    try:
        return json.loads(mark.read_text(encoding="utf-8"))["fingerprint"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
