"""ClickMe: maps of what people find telling in images of ImageNet, read without TensorFlow.

Shards `train-0.tfrecords` … and `val-0.tfrecords` … hold records with the features `image` (JPEG, 256 × 256 × 3),
`heatmap` (JPEG, 256 × 256 × 1, high where players clicked) and `label` (class of ImageNet, from 0). Three traps: lists
of shards in public code miss the last one, so `shards` lists the folder; the published blur is not centred
(`human_maps.blur_published`); a record of an image that nobody has clicked on has no `heatmap`, or an empty one, and
counts in a batch with `has_map` False. Several records may share an image: split by `digest`, not by record.
"""

import hashlib
import io
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from jaxtyping import UInt8

from sparks_jax.data.tfrecord import (
    Damage,
    OnDamage,
    make_example,
    numbered_records,
    parse_example,
    refuse,
    write_records,
)

NUM_CLASSES = 1000
QUALITY = 95  # of JPEG images that are written
ALONE = "group_size:1"  # of ArrayRecord: each record can be read alone
WORKERS = 2  # threads that decode
TOGETHER, AHEAD = 8, 2  # records that one is given at once, and how often it is before they are asked for


class Clicked(NamedTuple):
    """An image and where people clicked on it.

    Attributes:
        image: `(h w 3)` from 0 to 255.
        heatmap: `(h w)` from 0 to 255, high where they clicked; zeros without a map.
        label: The class, from 0.
        has_map: Whether anyone clicked.
        digest: Of the stored image: equal for records of one image.
    """

    image: UInt8[np.ndarray, "h w 3"]
    heatmap: UInt8[np.ndarray, "h w"]
    label: int
    has_map: bool
    digest: str


class Conversion(NamedTuple):
    """What was converted.

    Attributes:
        records: Written.
        with_map: Of them, with a map.
        images: Different images among them.
        damaged: What was skipped.
    """

    records: int
    with_map: int
    images: int
    damaged: tuple[Damage, ...]

    def __str__(self) -> str:
        skipped = "".join(f"\n  {damage}" for damage in self.damaged)
        return (
            f"{self.records} records of {self.images} images, {self.with_map} with a map; "
            f"{len(self.damaged)} skipped{skipped}"
        )


def shards(folder: str | Path, split: str) -> list[Path]:
    """The shards of a split, in the order of their numbers, all that the folder has.

    Args:
        folder: Of the shards, or of folders named after the splits.
        split: `train` or `val`.

    Raises:
        FileNotFoundError: If there is none, or a number between the first and the last is missing.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> for i in range(11):
        ...     (folder / f"val-{i}.tfrecords").touch()
        >>> [path.name for path in shards(folder, "val")][-2:]
        ['val-9.tfrecords', 'val-10.tfrecords']
    """
    folder = Path(folder)
    folder = folder / split if (folder / split).is_dir() else folder
    named = {
        int(match[1]): path
        for path in folder.glob("*")
        if (match := re.fullmatch(rf"{split}-(\d+)\.tfrecords?", path.name))
    }
    if not named:
        raise FileNotFoundError(f"there is no shard {split}-0.tfrecords, {split}-1.tfrecords, … in {folder}")
    if missing := sorted(set(range(max(named) + 1)) - set(named)):
        raise FileNotFoundError(f"{folder} has {split}-{max(named)}.tfrecords, but not {split}-{missing[0]}.tfrecords")
    return [named[number] for number in sorted(named)]


def decode(payload: bytes, *, num_classes: int = NUM_CLASSES) -> Clicked:
    """An image, its map and its label from a serialised record.

    Args:
        payload: As TFRecord and ArrayRecord files store it.
        num_classes: Of the data set.

    Raises:
        LookupError: If there is a map without an image, or no label.
        ValueError: If the record, the image or the map is damaged, or the label is no class.
        ImportError: If Pillow is not installed.

    Example:
        >>> decode(encode(np.zeros((4, 4, 3), np.uint8), 7)).has_map
        False
    """
    features = parse_example(payload)
    image, heatmap, label = ((features.get(name) or [None])[0] for name in ("image", "heatmap", "label"))
    if not image:
        what = "a human map, but no image that it is of" if heatmap else "no image"
        raise LookupError(f"has {what}; it should have the features image, heatmap and label")
    if label is None:
        raise LookupError("has no label; it should have the features image, heatmap and label")
    if not 0 <= label < num_classes:
        raise ValueError(f"has the label {label}, expected a class from 0 to {num_classes - 1}")
    pixels = _pixels(image, "RGB", "image")
    clicks = _pixels(heatmap, "L", "heatmap") if heatmap else np.zeros(pixels.shape[:2], np.uint8)
    return Clicked(pixels, clicks, label, bool(heatmap), hashlib.blake2b(image, digest_size=16).hexdigest())


def encode(image: UInt8[np.ndarray, "h w 3"], label: int, heatmap: UInt8[np.ndarray, "h w"] | None = None) -> bytes:
    """A record as the public files have it.

    Args:
        image: From 0 to 255.
        label: The class, from 0.
        heatmap: From 0 to 255; None for an image without a map.

    Raises:
        ImportError: If Pillow is not installed.

    Example:
        >>> decode(encode(np.zeros((4, 4, 3), np.uint8), 7, np.full((4, 4), 9, np.uint8))).heatmap.max().item()
        9
    """
    features = {"image": [_jpeg(image)], "label": [int(label)]}
    return make_example(features if heatmap is None else features | {"heatmap": [_jpeg(heatmap)]})


def write(path: str | Path, payloads: Iterable[bytes]) -> None:
    """Write a shard of records that `encode` made.

    Example:
        >>> import tempfile
        >>> shard = Path(tempfile.mkdtemp(), "val-0.tfrecords")
        >>> write(shard, [encode(np.zeros((4, 4, 3), np.uint8), label) for label in (3, 1, 4)])
        >>> [clicked.label for clicked in read([shard])]
        [3, 1, 4]
    """
    write_records(path, payloads)


def read(
    paths: Sequence[str | Path],
    *,
    on_damage: OnDamage = refuse,
    num_classes: int = NUM_CLASSES,
    workers: int = WORKERS,
) -> Iterator[Clicked]:
    """The records of some shards, decoded, in order.

    They are read and checked by this thread and decoded by others, at once as far as Python's lock allows: Pillow
    decodes without it. Faster still are processes with shards of their own. `human_maps.pipeline` decodes in Grain's
    threads.

    Args:
        paths: The shards.
        on_damage: Called with each record that cannot be read, in order; `damaged.append` counts them and goes on.
        num_classes: Of the data set.
        workers: Threads that decode, a few records ahead; 0: this one alone, none ahead.

    Raises:
        FileNotFoundError: If there is no such file.
        LookupError: For a map without an image, with the file and the number of the record.
        ValueError: For a damaged record, unless `on_damage` says otherwise.
    """
    for _, clicked in _read(paths, on_damage, num_classes, workers):
        yield clicked


def convert(
    paths: Sequence[str | Path], out: str | Path, *, num_classes: int = NUM_CLASSES, workers: int = WORKERS
) -> Conversion:
    """Copy the records of some shards to one ArrayRecord file, of which any can be read alone.

    Records are copied as they are, and decoded to see that they can be; those that cannot are skipped, and named in
    what is returned.

    Args:
        paths: The shards.
        out: The file to write.
        num_classes: Of the data set.
        workers: As in `read`.

    Raises:
        FileNotFoundError: If there is no such file.
        LookupError: For a map without an image.
        ValueError: If not one record can be read.
        ImportError: If array-record is not installed.
    """
    try:
        from array_record.python.array_record_module import ArrayRecordWriter
    except ImportError:
        raise ImportError("converting needs array-record: pip install 'sparks-jax[data]'") from None
    damaged: list[Damage] = []
    digests, with_map, records = set(), 0, 0
    writer = ArrayRecordWriter(str(out), ALONE)
    try:
        for payload, clicked in _read(paths, damaged.append, num_classes, workers):
            writer.write(payload)
            digests.add(clicked.digest)
            with_map, records = with_map + clicked.has_map, records + 1
    finally:
        writer.close()
    if not records:
        raise ValueError(f"of {len(damaged)} records not one can be read; the first: {damaged[:1]}")
    return Conversion(records, with_map, len(digests), tuple(damaged))


A = TypeVar("A")
B = TypeVar("B")
Payload = tuple[Path, int, int, bytes]  # of which file, its number, where it begins, and what it holds


def _read(
    paths: Sequence[str | Path], on_damage: OnDamage, num_classes: int, workers: int
) -> Iterator[tuple[bytes, Clicked]]:
    """Payloads and what they hold."""
    entries = (entry for path in paths for entry in _entries(Path(path)))
    for found in _ahead(partial(_opened, num_classes=num_classes), entries, workers):
        if isinstance(found, LookupError):
            raise found
        if isinstance(found, Damage):
            on_damage(found)
        else:
            yield found


def _entries(path: Path) -> Iterator[Payload | Damage]:
    """What a file holds, with what is damaged in its place."""
    damaged: list[Damage] = []
    for number, offset, payload in numbered_records(path, on_damage=damaged.append):
        yield from damaged
        damaged.clear()
        yield path, number, offset, payload
    yield from damaged


def _opened(entry: Payload | Damage, num_classes: int) -> tuple[bytes, Clicked] | Damage | LookupError:
    """A payload and what it holds, or what is wrong with it."""
    if isinstance(entry, Damage):
        return entry
    path, number, offset, payload = entry
    try:
        return payload, decode(payload, num_classes=num_classes)
    except (LookupError, ValueError) as error:
        damage = Damage(path, number, offset, str(error.args[0]))
        return LookupError(str(damage)) if isinstance(error, LookupError) else damage


def _ahead(function: Callable[[A], B], items: Iterable[A], workers: int) -> Iterator[B]:
    """A function of each item, in order; of the next ones it is computed by other threads meanwhile."""
    if workers == 0:
        yield from map(function, items)
        return
    together = lambda few: [function(item) for item in few]  # threads change hands seldom
    waiting: deque[Future[list[B]]] = deque()
    left = iter(items)
    with ThreadPoolExecutor(workers) as pool:
        try:
            while few := list(islice(left, TOGETHER)):
                waiting.append(pool.submit(together, few))
                if len(waiting) > AHEAD * workers:
                    yield from waiting.popleft().result()
            for future in waiting:
                yield from future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _pixels(data: bytes, mode: str, what: str) -> np.ndarray:
    from sparks_jax.data.folder import DAMAGED

    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError:
        raise ImportError("decoding JPEG needs Pillow: pip install 'sparks-jax[demo]'") from None
    try:
        with Image.open(io.BytesIO(data)) as image:
            return np.asarray(image.convert(mode))
    except UnidentifiedImageError as error:
        raise ValueError(f"has a damaged {what}: no picture of a known kind") from error
    except DAMAGED as error:
        raise ValueError(f"has a damaged {what}: {error}") from error


def _jpeg(pixels: np.ndarray) -> bytes:
    try:
        from PIL import Image
    except ImportError:
        raise ImportError("encoding JPEG needs Pillow: pip install 'sparks-jax[demo]'") from None
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=QUALITY)
    return file.getvalue()
