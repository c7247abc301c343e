"""A bundle on disk: where its files are, how they are written and read, and whether they are whole.

Every file is written whole or not at all, and none is changed once a class is finished: `atlas.json` holds the SHA-256
of each class file, and this one of each of its images and arrays.
"""

import base64
import hashlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sparks_jax.jobs import outputs
from sparks_jax.lens.records import SchemaError, as_json, from_json
from sparks_jax.lens.schema import (
    CONCEPT_COLUMNS,
    POINT_COLUMNS,
    ArrayFile,
    AtlasRecord,
    ClassRecord,
    ImageFile,
    LensRecord,
    Part,
)

LENS, ATLAS, MAKING = "lens.json", "atlas.json", "build.json"
CALL = "sparksLens"  # the function of the page that a file as a script calls
COLUMNS = {"points": POINT_COLUMNS, "concepts": CONCEPT_COLUMNS}


def class_id(label: int) -> str:
    """The id of a class: its number, so that names sort.

    Example:
        >>> class_id(7)
        '0007'
    """
    return f"{label:04d}"


# --- writing ----------------------------------------------------------------------------------------------


def write_record(path: Path, record: Any) -> str:
    """Write a record whole, after a check of its schema; its SHA-256.

    Args:
        path: The file.
        record: A `NamedTuple` of `schema`.

    Raises:
        SchemaError: If it is not what it should be.
    """
    content = as_json(record)
    outputs.write(path, content)
    return digest(content)


def write_arrays(folder: Path, file: str, arrays: Mapping[str, Any]) -> ArrayFile:
    """Write named arrays as one file of float32, little-endian.

    Args:
        folder: Of the atlas.
        file: Relative name, `arrays/0007.f32`.
        arrays: By name; `points` and `concepts` have the columns of the schema.
    """
    parts, chunks, offset = [], [], 0
    for name, array in arrays.items():
        values = np.ascontiguousarray(np.asarray(array), "<f4")
        columns = list(COLUMNS[name]) if name in COLUMNS else None
        parts.append(Part(name, offset, list(values.shape), columns))
        chunks.append(values.tobytes())
        offset += values.size
    content = b"".join(chunks)
    outputs.write(folder / file, content)
    return ArrayFile(file, digest(content), len(content), parts)


def write_image(folder: Path, file: str, pixels: Any, **options: Any) -> ImageFile:
    """Write pixels as an image, of the kind that its suffix says: `.png`, `.jpg` or `.webp`.

    Args:
        folder: Of the atlas.
        file: Relative name.
        pixels: `(h w 3)` or, with transparency, `(h w 4)`: in [0, 1], or bytes.
        **options: Of Pillow, such as `quality`.
    """
    kind = {".png": "PNG", ".jpg": "JPEG", ".webp": "WEBP"}[Path(file).suffix]
    content = outputs.encode(pixels, kind, **options)
    outputs.write(folder / file, content)
    return ImageFile(file, digest(content), int(np.shape(pixels)[1]), int(np.shape(pixels)[0]))


def digest(content: bytes) -> str:
    """The SHA-256 of a file, in hexadecimal.

    Example:
        >>> digest(b"")[:8]
        'e3b0c442'
    """
    return hashlib.sha256(content).hexdigest()


# --- reading ----------------------------------------------------------------------------------------------


def read_lens(folder: str | Path) -> LensRecord:
    """Which atlases a bundle holds.

    Args:
        folder: Of the bundle.

    Raises:
        FileNotFoundError: If there is no bundle, with what makes one.
        SchemaError: If the file is not what it should be.
    """
    path = Path(folder) / LENS
    if not path.is_file():
        raise FileNotFoundError(f"there is no {LENS} in {folder}; `sparks lens build --out {folder}` makes a bundle")
    return from_json(path.read_bytes(), LensRecord, LENS)


def read_atlas(folder: str | Path) -> AtlasRecord:
    """The index of an atlas.

    Args:
        folder: Of the atlas: the folder of a bundle joined with that of the file of its entry.

    Raises:
        FileNotFoundError: If there is none.
        SchemaError: If the file is not what it should be.
    """
    path = Path(folder) / ATLAS
    if not path.is_file():
        raise FileNotFoundError(f"there is no {ATLAS} in {folder}")
    return from_json(path.read_bytes(), AtlasRecord, ATLAS)


def read_class(folder: str | Path, file: str) -> ClassRecord:
    """Everything about one class.

    Args:
        folder: Of the atlas.
        file: Of its entry in the index.

    Raises:
        FileNotFoundError: If there is none.
        SchemaError: If the file is not what it should be.
    """
    return from_json((Path(folder) / file).read_bytes(), ClassRecord, file)


def read_arrays(folder: str | Path, arrays: ArrayFile) -> dict[str, np.ndarray]:
    """The arrays of a file, by name.

    Args:
        folder: Of the atlas.
        arrays: What lies in it.

    Raises:
        FileNotFoundError: If there is none.
        SchemaError: If it is shorter or longer than it should be.
    """
    content = (Path(folder) / arrays.file).read_bytes()
    if problems := _array_problems(arrays, len(content)):
        raise SchemaError(problems)
    flat = np.frombuffer(content, "<f4")
    cut = lambda part: flat[part.offset : part.offset + int(np.prod(part.shape))].reshape(part.shape)
    return {part.name: cut(part) for part in arrays.parts}


def _array_problems(arrays: ArrayFile, size: int) -> list[str]:
    end = max((part.offset + int(np.prod(part.shape)) for part in arrays.parts), default=0)
    if size != arrays.bytes or size != 4 * end:
        return [f"{arrays.file}: has {size} bytes, expected {arrays.bytes}, 4 for each of {end} numbers"]
    return []


# --- scripts ----------------------------------------------------------------------------------------------


def as_script(file: str, content: bytes) -> bytes:
    r"""A file of a bundle as a script, which a page opened from disk can load where it may not fetch.

    `sparksLens("glyphs/classes/0007.json", {…});`, and for arrays their bytes in base64. The script of `a/b.json` is
    `a/b.json.js`; images need none.

    Args:
        file: Its name relative to the bundle, with / between folders.
        content: The file.

    Example:
        >>> as_script("lens.json", b'{"version":1}')
        b'sparksLens("lens.json",{"version":1});\n'
        >>> as_script("arrays/a.f32", b"abc")
        b'sparksLens("arrays/a.f32","YWJj");\n'
    """
    # U+2028 and U+2029 are text in JSON; older scripts end their lines there.
    json_text = content.replace("\u2028".encode(), rb"\u2028").replace("\u2029".encode(), rb"\u2029")
    value = json_text if file.endswith(".json") else b'"' + base64.b64encode(content) + b'"'
    return f"{CALL}({json.dumps(file)},".encode() + value + b");\n"


# --- checking ---------------------------------------------------------------------------------------------


def check_bundle(folder: str | Path, *, files: bool = True) -> list[str]:
    """What is wrong with a bundle: one sentence for each problem, with the file and the field; none if it is whole.

    Args:
        folder: Of the bundle.
        files: Whether the hashes of images and arrays are checked too.
    """
    try:
        lens = read_lens(folder)
    except (SchemaError, OSError) as error:
        return _sentences(error)
    found = []
    for entry in lens.atlases:
        place = (Path(folder) / entry.file).parent
        found += [f"{entry.id}: {text}" for text in check_atlas(place, files=files)]
    return found


def check_atlas(folder: str | Path, *, files: bool = True) -> list[str]:
    """As `check_bundle`, of one atlas.

    Args:
        folder: Of the atlas.
        files: As in `check_bundle`.
    """
    folder = Path(folder)
    try:
        atlas = read_atlas(folder)
    except (SchemaError, OSError) as error:
        return _sentences(error)
    found = []
    for i, entry in enumerate(atlas.classes):
        found += _hash_problems(folder, entry.file, entry.sha256, f"{ATLAS}: classes[{i}]")
        try:
            found += _class_problems(folder, read_class(folder, entry.file), atlas, entry.file, files)
        except (SchemaError, OSError) as error:
            found += _sentences(error)
    if atlas.finished and atlas.arrays is None:
        found.append(f"{ATLAS}: arrays is null, expected those of all concepts once finished is true")
    if atlas.arrays is not None and files:
        found += _file_problems(folder, atlas.arrays, ATLAS)
    return found


def _class_problems(folder: Path, record: ClassRecord, atlas: AtlasRecord, file: str, files: bool) -> list[str]:
    found = [f"{file}: {text}" for text in (*_shape_problems(record), *_label_problems(record, len(atlas.class_names)))]
    if files:
        for one in (*images_of(record), record.arrays, record.bank):
            found += _file_problems(folder, one, file)
    return found


def _shape_problems(record: ClassRecord) -> list[str]:
    """Arrays whose shapes do not belong together."""
    n, k, m, e = record.num_images, len(record.concepts), len(record.rivals), len(record.exhibits)
    expected = {
        "points": [n, len(POINT_COLUMNS)], "importances": [n, k], "amounts": [n, k], "logits": [n, m],
        "slopes": [k, m], "where_codes": [e, k, None, None], "where_gradient": [e, k, None, None],
        "top_labels": [n, None], "top_probabilities": [n, None],
    }  # fmt: skip
    if record.black_box is not None:
        expected["where_black_box"] = [e, k, None, None]
    parts, found = {part.name: part for part in record.arrays.parts}, []
    for name, shape in expected.items():
        if name not in parts:
            found.append(f"arrays.parts has no {name!r}")
        elif not _fits(parts[name].shape, shape):
            wanted = ", ".join("any" if side is None else str(side) for side in shape)
            found.append(f"the part {name!r} of arrays has shape {parts[name].shape}, expected ({wanted})")
    if record.names is not None and len(record.names) != n:
        found.append(f"names has {len(record.names)} texts for {n} images")
    return found


def _fits(shape: list[int], expected: list[Any]) -> bool:
    return len(shape) == len(expected) and all(want in (None, got) for got, want in zip(shape, expected, strict=True))


def _label_problems(record: ClassRecord, num_classes: int) -> list[str]:
    """Numbers that point to nothing."""
    found = []
    if not record.rivals or record.rivals[0].label != record.label:
        found.append("rivals does not start with the class itself")
    named = {"label": [record.label], "rivals": [one.label for one in record.rivals]}
    named |= {"taken_for": [c.label for c in record.taken_for], "mistaken": [c.label for c in record.mistaken]}
    for name, labels in named.items():
        found += [f"{name}: {label} is none of the {num_classes} classes" for label in labels if label >= num_classes]
    rows = {f"exhibits[{i}]": one.row for i, one in enumerate(record.exhibits)}
    for k, concept in enumerate(record.concepts):
        rows |= {f"concepts[{k}].crops[{i}]": crop.row for i, crop in enumerate(concept.crops)}
    total = record.num_images
    return found + [f"{at}.row is {row}, there are {total} images" for at, row in rows.items() if row >= total]


def images_of(record: ClassRecord) -> list[ImageFile]:
    """Every image file of a class.

    Args:
        record: The class.
    """
    found = [one.image for one in record.exhibits] + ([record.sheet.image] if record.sheet else [])
    for concept in record.concepts:
        found += [crop.image for crop in concept.crops] + ([concept.picture.image] if concept.picture else [])
        found += [crop.image for part in (concept.parts.concepts if concept.parts else []) for crop in part.crops]
    return found


def _file_problems(folder: Path, one: ImageFile | ArrayFile, where: str) -> list[str]:
    found = _hash_problems(folder, one.file, one.sha256, where)
    if not found and isinstance(one, ArrayFile):
        found = _array_problems(one, (folder / one.file).stat().st_size)
        if not found and not np.isfinite(np.frombuffer((folder / one.file).read_bytes(), "<f4")).all():
            found = [f"{one.file}: holds numbers that are not finite"]
    if not found and isinstance(one, ImageFile):
        found = _size_problems(folder, one)
    return found


def _size_problems(folder: Path, one: ImageFile) -> list[str]:
    from PIL import Image

    with Image.open(io.BytesIO((folder / one.file).read_bytes())) as image:
        got = image.size
    return [] if got == (one.width, one.height) else [f"{one.file}: is {got}, expected {(one.width, one.height)}"]


def _hash_problems(folder: Path, file: str, sha256: str, where: str) -> list[str]:
    path = folder / file
    if not path.is_file():
        return [f"{where}: the file {file} is missing"]
    return [] if digest(path.read_bytes()) == sha256 else [f"{where}: the file {file} is not the one that was written"]


def _sentences(error: Exception) -> list[str]:
    return error.problems if isinstance(error, SchemaError) else [str(error)]
