"""Images of an atlas: folders of classes, a data set of TFDS, photographs at hand, the world of glyphs."""

import re
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import UInt8

from sparks_jax.jobs.network import find_label
from sparks_jax.lens.bundle import digest
from sparks_jax.models import bundled

Pixels = UInt8[np.ndarray, "h w 3"]


class Source(NamedTuple):
    """Images, read one by one.

    Attributes:
        name: What they are called.
        about: A sentence about them, with their licence where it is known.
        labels: The true class of each; −1 where it is unknown.
        names: A name for each.
        read: From a number to its pixels, of any size.
        identity: Changes when the images do.
        known: From a number to where what is known lies in it, by name: shares of the pixels of a square image.
        notes: Sentences that a reader should know.
    """

    name: str
    about: str
    labels: np.ndarray
    names: list[str]
    read: Callable[[int], Pixels]
    identity: str
    known: Callable[[int], dict[str, np.ndarray]] | None = None
    notes: tuple[str, ...] = ()

    @property
    def labelled(self) -> bool:
        """Whether the true class of any image is known."""
        return bool((self.labels >= 0).any())


def open_source(data: str, class_names: Sequence[str], *, split: str = "train") -> Source:
    """The images that `--data` names: a folder of class folders, or a data set of TFDS.

    Args:
        data: A folder, or the name of a data set that was prepared before, `imagenet_v2` or `tfds:cifar10`.
        class_names: Of the network.
        split: Of a data set of TFDS.

    Raises:
        ValueError: If it is neither, or holds no picture.
    """
    if Path(data).is_dir():
        return folder(data, class_names)
    if not re.fullmatch(r"(tfds:)?[a-z0-9_]+(/[\w.]+)?(:[\d.]+)?", data):
        raise ValueError(f"--data {data!r} is no folder, and no name of a data set of TFDS")
    return tfds(data.removeprefix("tfds:"), class_names, split=split)


# --- folders ----------------------------------------------------------------------------------------------


def folder(place: str | Path, class_names: Sequence[str]) -> Source:
    """The pictures of a folder, by subfolders: their names are classes, numbers, names or WordNet ids, or say nothing.

    Args:
        place: The folder.
        class_names: Of the network.

    Raises:
        ValueError: If there is no picture in it.
        NotADirectoryError: If it is no folder.
    """
    from sparks_jax.data.folder import SUFFIXES, read_image

    root = Path(place)
    if not root.is_dir():
        raise NotADirectoryError(f"there is no folder {root}")
    paths = sorted(p for p in root.rglob("*") if p.suffix.lower() in SUFFIXES and not _hidden(p.relative_to(root)))
    if not paths:
        raise ValueError(f"there is no picture in the folder {root} or its subfolders ({', '.join(SUFFIXES)})")
    names = [path.relative_to(root).as_posix() for path in paths]
    of_folder = {part: _label(part, class_names) for part in {_top(name) for name in names}}
    labels = np.array([of_folder[_top(name)] for name in names], np.int32)
    stats = [(name, path.stat().st_size, path.stat().st_mtime_ns) for name, path in zip(names, paths, strict=True)]
    unknown = sorted(part for part, label in of_folder.items() if label < 0 and part)
    notes = (f"The folders {', '.join(unknown[:5])} are named like no class: their images have no true class.",)
    about = f"{len(paths)} pictures of {len(of_folder)} folders."
    read = lambda i: read_image(paths[i])
    return Source(root.name, about, labels, names, read, digest(repr(stats).encode()), notes=notes if unknown else ())


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _top(name: str) -> str:
    return name.partition("/")[0] if "/" in name else ""


def _label(name: str, class_names: Sequence[str]) -> int:
    """The class that a folder is named after; −1 for none."""
    synsets = _synsets(tuple(class_names))
    if name in synsets:
        return synsets[name]
    try:
        return find_label(name.replace("_", " "), class_names)
    except ValueError:
        return -1


@cache
def _synsets(class_names: tuple[str, ...]) -> dict[str, int]:
    """The numbers of the classes of ImageNet by their WordNet ids, if these are the classes."""
    if class_names != bundled.imagenet_classes():
        return {}
    from importlib.resources import files

    lines = (files("sparks_jax.models") / "imagenet_classes.txt").read_text("utf-8").splitlines()
    return {line.partition(" ")[0]: i for i, line in enumerate(one for one in lines if not one.startswith("#"))}


# --- data sets of TFDS ------------------------------------------------------------------------------------


def tfds(name: str, class_names: Sequence[str], *, split: str = "train") -> Source:
    """A data set of TFDS that lies on this machine, read without TensorFlow.

    Args:
        name: As in the catalogue.
        class_names: Of the network: the labels of the data set are matched by name, or by number where these are as
            many.
        split: One of its splits.

    Raises:
        ValueError: If it is not there, or has no images.
        ImportError: Without `tensorflow-datasets`.
    """
    try:
        import tensorflow_datasets as datasets
    except ImportError:
        raise ImportError("data sets of TFDS need: pip install 'sparks-jax[data]'") from None
    try:
        builder: Any = datasets.builder(name)
        rows: Any = builder.as_data_source(split=split)
    except Exception as error:
        raise ValueError(
            f"the data set {name!r} (split {split!r}) cannot be read: {str(error).partition(chr(10))[0]}; prepare it "
            "where there is a network with `tfds build` in ArrayRecord format, or give a folder of class folders"
        ) from error
    features: Any = builder.info.features
    if "image" not in features:
        raise ValueError(f"the data set {name!r} has no feature 'image', only {', '.join(features)}")
    labels = np.full(len(rows), -1, np.int32)
    if "label" in features:
        names = getattr(features["label"], "names", None) or []
        to = [_label(one, class_names) for one in names]
        to = list(range(len(names))) if all(label < 0 for label in to) and len(names) == len(class_names) else to
        labels = np.array([to[int(row["label"])] if to else int(row["label"]) for row in rows], np.int32)
    identity = digest(f"{builder.info.full_name} {split} {len(rows)}".encode())
    read = lambda i: _rgb(np.asarray(rows[i]["image"]))
    about = f"{len(rows)} images of the split {split} of {builder.info.full_name}."
    return Source(name, about, labels, [f"{split}-{i}" for i in range(len(rows))], read, identity)


def _rgb(pixels: np.ndarray) -> np.ndarray:
    return np.repeat(pixels, 3, -1) if pixels.shape[-1] == 1 else pixels[..., :3]


# --- what is at hand --------------------------------------------------------------------------------------

# Squares cut from each photograph, over its shorter side, and how many along each side.
SQUARES = ((1.0, 2), (0.76, 3), (0.56, 4))


def photographs() -> Source:
    """Squares of the photographs that other packages ship, from the whole height to a half of it, and mirrored.

    Raises:
        ImportError: If the packages are not installed.
    """
    from sparks_jax.data.natural import NAMES, photographs

    pictures = photographs(NAMES)
    places = [(name, *square) for name in NAMES for square in _squares(*pictures[name].shape[:2])]
    names = [f"{name} {i}" for name in NAMES for i in range(sum(one[0] == name for one in places))]

    def read(i: int) -> Pixels:
        name, top, left, side, mirrored = places[i]
        pixels = pictures[name][top : top + side, left : left + side]
        return np.ascontiguousarray(pixels[:, ::-1] if mirrored else pixels)

    about = (
        f"{len(places)} squares cut from six photographs: chelsea, coffee (CC0), rocket, astronaut (public domain) of "
        "scikit-image, china by danielbuechele and flower by vultilion (CC BY 2.0) of scikit-learn."
    )
    note = "The images of a class are parts of one or a few photographs, so they say how it works, not what is typical."
    identity = digest(repr(places).encode() + b"".join(pictures[name].tobytes() for name in NAMES))
    return Source("photographs", about, np.full(len(places), -1, np.int32), names, read, identity, notes=(note,))


def _squares(height: int, width: int) -> list[tuple[int, int, int, bool]]:
    """Top, left, side, and whether it is mirrored: every second one is."""
    found = []
    for share, count in SQUARES:
        side = int(share * min(height, width))
        along = lambda length: sorted({round(t) for t in np.linspace(0, length - side, count)})
        found += [(top, left, side) for top in along(height) for left in along(width)]
    return [(*square, i % 2 == 1) for i, square in enumerate(found)]


def glyph_world(num: int = 600, *, seed: int = 0) -> Source:
    """Images of the world of glyphs, where it is known what decides and what does not.

    Args:
        num: How many images.
        seed: Of the images.
    """
    from sparks_jax.data.glyphs import glyphs

    world = glyphs(num, key=jax.random.key(seed))
    images = np.asarray(np.round(255 * np.asarray(world.images)), np.uint8)
    labels, masks, others = (np.asarray(a) for a in (world.labels, world.masks, world.distractors))
    known = lambda i: {"glyph": masks[i].astype(np.float32), "distractors": others[i].any(0).astype(np.float32)}
    about = (
        f"{num} images drawn at random: one of ten glyphs, which is the class, and three distractors, which are not."
    )
    names = [f"image {i}" for i in range(num)]
    identity = digest(images.tobytes() + labels.tobytes())
    return Source("glyphs", about, labels.astype(np.int32), names, lambda i: images[i], identity, known)
