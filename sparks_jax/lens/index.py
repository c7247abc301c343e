"""The lines of an index: an atlas in a bundle, a class in an atlas."""

from pathlib import Path

from sparks_jax.lens.bundle import ATLAS, LENS, read_lens, write_record
from sparks_jax.lens.schema import FORMAT, VERSION, AtlasEntry, AtlasRecord, ClassEntry, ClassRecord, LensRecord


def add_atlas(root: Path, record: AtlasRecord) -> None:
    """List an atlas in `lens.json`, in place of one with its id.

    Args:
        root: Of the bundle.
        record: The atlas, whose files are in the folder of its id.
    """
    others = read_lens(root).atlases if (root / LENS).is_file() else []
    entry = AtlasEntry(record.id, record.title, record.about, f"{record.id}/{ATLAS}", len(record.classes))
    place = next((i for i, one in enumerate(others) if one.id == record.id), len(others))
    write_record(root / LENS, LensRecord(FORMAT, VERSION, [*others[:place], entry, *others[place + 1 :]]))


def entry_of(record: ClassRecord, sha256: str) -> ClassEntry:
    """The line of a class in the index.

    Args:
        record: The class.
        sha256: Of its file.
    """
    first = record.concepts[0]
    cover = first.picture.image if first.picture else next((crop.image for crop in first.crops), None)
    return ClassEntry(
        record.id, record.label, record.name, f"classes/{record.id}.json", sha256, record.num_images,
        record.precision.value, len(record.concepts), sum(concept.important for concept in record.concepts),
        [concept.share for concept in record.concepts[:5]], cover.file if cover else None,
    )  # fmt: skip
