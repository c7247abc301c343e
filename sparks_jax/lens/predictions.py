"""What the network says of every image, and which images make which class."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from sparks_jax.jobs.network import Network, find_label
from sparks_jax.lens.programs import Program, in_chunks
from sparks_jax.lens.settings import TOP, Settings
from sparks_jax.lens.sources import Source
from sparks_jax.lens.work import Place

BLOCK = 1024  # images whose predictions are kept together
READERS = 8  # threads that decode images


class Predictions(NamedTuple):
    """Of every image of a source.

    Attributes:
        labels: `(n t)` the most probable classes, falling.
        probabilities: `(n t)` theirs.
        readable: `(n)` whether the file was one.
    """

    labels: np.ndarray
    probabilities: np.ndarray
    readable: np.ndarray

    @property
    def first(self) -> np.ndarray:
        """The class that each image is taken for; −1 for one that could not be read."""
        return np.where(self.readable, self.labels[:, 0], -1)


class Member(NamedTuple):
    """A class and its images.

    Attributes:
        label: The class.
        rows: Numbers of its images in the source.
        rivals: The class itself, and those that its images are taken for next.
    """

    label: int
    rows: np.ndarray
    rivals: np.ndarray


def read_images(source: Source, network: Network, rows: Any) -> tuple[np.ndarray, np.ndarray]:
    """Images as the network sees them, and whether each could be read; zeros for those that could not.

    Args:
        source: The images.
        network: Whose side and preparation they get.
        rows: Numbers of images.
    """

    def one(i: Any) -> np.ndarray | None:
        try:
            return network.prepare(source.read(int(i)), network.size)
        except (OSError, ValueError):
            return None

    with ThreadPoolExecutor(READERS) as pool:
        found = list(pool.map(one, rows))
    empty = np.zeros((network.size, network.size, 3), np.float32)
    return np.stack([empty if x is None else x for x in found]), np.array([x is not None for x in found])


def predict(
    place: Place, source: Source, network: Network, run: Program, shared: Any, size: int,
    *, mine: Callable[[int], bool],
) -> Iterator[int]:  # fmt: skip
    """Predict blocks of images that are not kept yet, and keep them; the number of images after each block.

    Args:
        place: Where they are kept.
        source: The images.
        network: The network.
        run: `programs.forward`.
        shared: Its halves.
        size: Images at once.
        mine: Whether a block is this process's.
    """
    for block, start in enumerate(range(0, len(source.labels), BLOCK)):
        rows = range(start, min(start + BLOCK, len(source.labels)))
        if not mine(block):
            continue
        if place.load(_name(block)) is None:
            images, readable = read_images(source, network, rows)
            logits = in_chunks(lambda shared, x: run(shared, x)[1], shared, images, size).astype(np.float64)
            if not np.isfinite(logits).all():
                bad = source.names[start + int(np.flatnonzero(~np.isfinite(logits).all(1))[0])]
                raise ValueError(f"the network says something not finite of the image {bad}")
            best = np.argsort(-logits, axis=1, kind="stable")[:, : min(TOP, logits.shape[1])]
            odds = np.exp(logits - logits.max(1, keepdims=True))
            odds = np.take_along_axis(odds / odds.sum(1, keepdims=True), best, 1)
            place.keep(_name(block), dict(labels=best.astype(np.int32), probabilities=odds, readable=readable))
        yield rows.stop


def kept(place: Place, source: Source) -> Predictions:
    """All predictions, from all processes.

    Args:
        place: Where they are kept.
        source: The images.
    """
    blocks = [place.load(_name(block)) for block in range(-(-len(source.labels) // BLOCK))]
    assert all(block is not None for block in blocks)
    joined = lambda name: np.concatenate([block[name] for block in blocks if block is not None])
    return Predictions(joined("labels"), joined("probabilities"), joined("readable"))


def _name(block: int) -> str:
    return f"predictions-{block:05d}"


def asked(settings: Settings, network: Network) -> list[int]:
    """The classes that are asked for by number or name; none: all that have images.

    Raises:
        ValueError: If the network has no such class.
    """
    return [find_label(text, network.classes) for text in settings.only]


def members(found: Predictions, source: Source, network: Network, settings: Settings) -> list[Member]:
    """The classes of an atlas, by label, with their images.

    Args:
        found: Of all images.
        source: The images.
        network: The network.
        settings: Which classes, and how many images of each.

    Raises:
        ValueError: If no class has images enough, or one that was asked for has not.
    """
    first, named = found.first, asked(settings, network)
    sizes = np.bincount(first[first >= 0], minlength=len(network.classes))
    if few := [label for label in named if sizes[label] < settings.least]:
        raise ValueError(
            f"the network takes {sizes[few[0]]} images for {network.classes[few[0]]!r}, and a class needs "
            f"{settings.least} (--least)"
        )
    wanted = named or np.flatnonzero(sizes >= settings.least).tolist()
    if not wanted:
        raise ValueError(
            f"no class has {settings.least} images: the network takes at most {sizes.max()} of the {len(first)} for "
            "one class; give more images, or ask for less (--least)"
        )
    most = sorted(wanted, key=lambda label: (-sizes[label], label))[: settings.max_classes]
    return [_member(found, source, label, len(network.classes), settings) for label in sorted(set(most))]


def _member(found: Predictions, source: Source, label: int, num_classes: int, settings: Settings) -> Member:
    first = found.first
    rows = np.flatnonzero(first == label)[: settings.most]
    weight = np.zeros(num_classes)
    np.add.at(weight, found.labels[rows].ravel(), found.probabilities[rows].ravel() / len(rows))
    wrong = source.labels[rows]
    np.add.at(weight, wrong[(wrong >= 0) & (wrong != label)], 1 / len(rows))
    weight[label] = np.inf
    order = np.argsort(-weight, kind="stable")
    return Member(label, rows, order[: min(settings.rivals, num_classes)].astype(np.int32))
