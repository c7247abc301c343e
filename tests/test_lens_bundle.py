"""The bundle: what is written is read back, what is wrong is named with its place, and its files explain themselves."""

import base64
import json
import re
import typing
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from sparks_jax import lens
from sparks_jax.lens import bundle, intervals, records, schema
from sparks_jax.lens.records import SchemaError, from_json

RECORDS = [one for one in vars(schema).values() if hasattr(one, "_fields") and one.__module__ == schema.__name__]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("bundle")
    lens.synthetic(place, 4, points=[40, 25], rank=3)
    return place


@pytest.fixture
def atlas(folder):
    return folder / "synthetic"


def changed(atlas, file, change):
    """The problems of a class whose record is changed so; the file is put back."""
    path = atlas / file
    before = path.read_bytes()
    record = json.loads(before)
    change(record)
    path.write_text(json.dumps(record))
    try:
        return bundle.check_atlas(atlas)
    finally:
        path.write_bytes(before)


# --- whole --------------------------------------------------------------------------------------------------


def test_a_synthetic_bundle_is_whole_and_the_same_every_time(folder, tmp_path):
    lens.synthetic(tmp_path, 4, points=[40, 25], rank=3)
    assert lens.check_bundle(folder) == []
    files = lambda place: {path.relative_to(place): path.read_bytes() for path in place.rglob("*") if path.is_file()}
    assert files(folder) == files(tmp_path)


def test_two_atlases_share_a_bundle(tmp_path):
    for name in ("one", "two", "one"):
        lens.synthetic(tmp_path, 1, points=12, rank=2, atlas=name)
    assert [entry.id for entry in bundle.read_lens(tmp_path).atlases] == ["one", "two"]
    assert lens.check_bundle(tmp_path) == []


def test_fifty_thousand_points(tmp_path):
    place = lens.synthetic(tmp_path, 1, points=50_000, rank=3)
    record = bundle.read_class(place, "classes/0000.json")
    points = bundle.read_arrays(place, record.arrays)["points"]
    assert points.shape == (50_000, 10)
    assert points[:, 9].tolist() == list(range(50_000)), "float32 holds these whole numbers"


def test_the_numbers_of_a_class_belong_together(atlas):
    record = bundle.read_class(atlas, "classes/0000.json")
    arrays = bundle.read_arrays(atlas, record.arrays)
    values, points = arrays["importances"], dict(zip(schema.POINT_COLUMNS, arrays["points"].T, strict=True))
    # float32 products and sums of 5 numbers below 16 err by less than 5 · 16 · 2^-23.
    np.testing.assert_allclose(values, arrays["amounts"] * arrays["slopes"][:, 0], atol=2e-5)
    np.testing.assert_allclose(points["explained"], record.importance.origin + values.sum(1), atol=2e-5)
    assert points["concept"].tolist() == values.argmax(1).tolist()
    assert sum(concept.prevalence.number for concept in record.concepts) == record.num_images
    means = [concept.importance.value for concept in record.concepts]
    assert means == sorted(means, reverse=True)


def test_a_record_survives_json(atlas):
    content = (atlas / "classes/0001.json").read_bytes()
    assert records.as_json(from_json(content, schema.ClassRecord, "")) == content


# --- wrong --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda r: r["concepts"][2]["importance"].update(value="much"),
         "classes/0001.json: concepts[2].importance.value is 'much', expected a finite number"),
        (lambda r: r["concepts"][0].update(energy=1.5),
         "classes/0001.json: concepts[0].energy is 1.5, expected 0 to 1"),
        (lambda r: r.pop("metrics"), "classes/0001.json: metrics is missing"),
        (lambda r: r["concepts"][1]["crops"][0].update(row=25),
         "classes/0001.json: concepts[1].crops[0].row is 25, there are 25 images"),
        (lambda r: r["concepts"][1]["crops"][0].update(box=[0.0, 0.5]),
         "classes/0001.json: concepts[1].crops[0].box has 2 numbers, expected top, left, height, width"),
        (lambda r: r["arrays"].update(file="../../secret"), "is '../../secret', expected a relative name"),
        (lambda r: r["arrays"].update(file="/etc/passwd"), "is '/etc/passwd', expected a relative name"),
        (lambda r: r.update(num_images=24), "the part 'points' of arrays has shape [25, 10], expected (24, 10)"),
        (lambda r: r.update(label=9), "label: 9 is none of the 4 classes"),
        (lambda r: r.update(version=99), "version is 99, this sparks_jax reads up to 1"),
        (lambda r: r.update(format="zip"), "format is 'zip', expected 'sparks-lens'"),
        (lambda r: r.update(num_images=True), "num_images is True, expected a whole number"),
        (lambda r: r["arrays"]["parts"].pop(), "classes/0001.json: arrays.parts has no 'where_black_box'"),
        (lambda r: r["black_box"].update(evaluations=-1), "black_box.evaluations is -1, expected 0 to inf"),
        (lambda r: r["sheet"]["image"].update(width=1), "images/shared/sheet.png: is (192, 192), expected (1, 192)"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_its_place(atlas, change, says):
    problems = changed(atlas, "classes/0001.json", change)
    assert any(says in text for text in problems), problems
    assert any("is not the one that was written" in text for text in problems), "its hash is another, too"


def test_a_field_of_a_later_version_is_left_out(atlas):
    record = json.loads((atlas / "classes/0001.json").read_text()) | {"colour": "blue"}
    assert from_json(json.dumps(record), schema.ClassRecord, "").label == 1


def test_a_field_with_a_default_may_be_missing(atlas):
    record = json.loads((atlas / "classes/0001.json").read_text())
    del record["notes"], record["black_box"]
    read = from_json(json.dumps(record), schema.ClassRecord, "")
    assert (read.notes, read.black_box) == ([], None)


@pytest.mark.parametrize("file", ["arrays/0002.f32", "images/shared/crop-0-0.png", "classes/0003.json"])
def test_a_damaged_or_missing_file_is_found(atlas, file):
    path = atlas / file
    before = path.read_bytes()
    try:
        path.write_bytes(before[:-4])
        assert any(file in text for text in bundle.check_atlas(atlas))
        path.unlink()
        assert any(f"the file {file} is missing" in text for text in bundle.check_atlas(atlas))
    finally:
        path.write_bytes(before)
    assert bundle.check_atlas(atlas) == []


def test_a_number_that_is_not_finite_is_refused():
    with pytest.raises(SchemaError, match=r"Interval\.low is nan, expected a finite number"):
        records.as_json(schema.Interval(0.0, float("nan"), 1.0))


def test_no_bundle_is_said_with_what_makes_one(tmp_path):
    with pytest.raises(FileNotFoundError, match="sparks lens build"):
        bundle.read_lens(tmp_path)
    assert "sparks lens build" in lens.check_bundle(tmp_path)[0]


# --- scripts ------------------------------------------------------------------------------------------------


def test_a_script_holds_the_same_json_on_one_line(atlas):
    content = (atlas / "atlas.json").read_bytes()
    assert "\u2028" in content.decode(), "one of the class names has it"
    script = bundle.as_script("synthetic/atlas.json", content).decode()
    found = re.fullmatch(r'sparksLens\("synthetic/atlas.json",(.*)\);\n', script)
    assert found
    assert json.loads(found[1]) == json.loads(content)
    assert len(script.splitlines()) == 1, "U+2028 would end a line"


def test_a_script_holds_the_same_array(atlas):
    content = (atlas / "arrays/0000.f32").read_bytes()
    script = bundle.as_script("a.f32", content)
    assert base64.b64decode(script.removeprefix(b'sparksLens("a.f32","').removesuffix(b'");\n')) == content


# --- intervals ----------------------------------------------------------------------------------------------


def test_intervals_are_those_of_the_library():
    from sparks_jax.concepts import wilson

    numbers, total = np.array([0, 1, 7, 10]), 10
    library = np.asarray(wilson(jnp.asarray(numbers, jnp.float32), jnp.full(4, 10.0))).T
    mine = np.array([[*intervals.proportion(number, total)[1:3]] for number in numbers])
    np.testing.assert_allclose(mine, library, atol=1e-6)  # float32


# --- documentation ------------------------------------------------------------------------------------------


def test_every_field_is_in_the_readme():
    text = (Path(lens.__file__).parent / "README.md").read_text()
    words = set(re.findall(r"`([a-z_0-9]+)`", text))
    for record in RECORDS:
        if record not in (schema.Within, schema.Pattern):
            assert set(record._fields) <= words, f"{record.__name__}: {set(record._fields) - words}"
    assert set(schema.POINT_COLUMNS) | set(schema.CONCEPT_COLUMNS) <= words


def test_every_annotation_is_one_that_the_checker_knows():
    for record in RECORDS:
        for hint in typing.get_type_hints(record, include_extras=True).values():
            records._problems(None, hint, "")  # raises for a type without words
