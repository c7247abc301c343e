"""An atlas of a network whose concepts are known by hand; killed at any point it goes on, and is the same bundle."""

import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from sparks_jax import lens
from sparks_jax.cli import main
from sparks_jax.lens import atlas as atlas_module
from sparks_jax.lens import bundle, costs, schema, sources
from sparks_jax.lens.settings import Settings
from sparks_jax.lens.work import FOLDER, alone
from tests import lens_atlas

KILLS = int(os.environ.get("LENS_KILLS", "2"))  # more for a measured run


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("atlas")
    said = []
    lens_atlas.build(place, devices=jax.devices()[:1], say=said.append)
    (place / "said.txt").write_text("\n".join(said))
    return place


@pytest.fixture(scope="module")
def atlas(folder):
    return folder / "colours"


@pytest.fixture(scope="module")
def red(atlas):
    record = bundle.read_class(atlas, "classes/0000.json")
    return record, bundle.read_arrays(atlas, record.arrays)


def identity(place):
    """Every file but the one that says how long what took."""
    files = (path for path in Path(place).rglob("*") if path.is_file() and path.name not in ("build.json", "said.txt"))
    return {path.relative_to(place).as_posix(): path.read_bytes() for path in files}


# --- what it says -------------------------------------------------------------------------------------------


def test_it_is_whole_and_finished(folder, atlas):
    assert lens.check_bundle(folder) == []
    index = bundle.read_atlas(atlas)
    assert index.finished
    assert [entry.name for entry in index.classes] == list(lens_atlas.CLASSES[: len(index.classes)])
    assert not (atlas / FOLDER).exists()
    assert not list(atlas.rglob("*.part"))


def test_contributions_add_up_and_are_exact(red):
    """The head is affine: origin + Σ contributions is what the concepts explain, and amounts times slopes are they."""
    record, arrays = red
    points = dict(zip(schema.POINT_COLUMNS, arrays["points"].T, strict=True))
    assert record.importance.exact
    # Sums of a dozen float32 numbers below 8.
    np.testing.assert_allclose(record.importance.origin + arrays["importances"].sum(1), points["explained"], atol=1e-4)
    np.testing.assert_allclose(arrays["amounts"] * arrays["slopes"][:, 0], arrays["importances"], atol=1e-3)
    assert record.metrics.c_fidelity == pytest.approx(1, abs=1e-3)
    assert record.importance.sobol_total.value == pytest.approx(1, abs=1e-4)


def test_the_first_concept_of_a_colour_points_to_it_and_lies_where_it_is(red, atlas):
    record, arrays = red
    first = record.concepts[0]
    atoms = bundle.read_arrays(atlas, record.bank)["atoms"]
    assert atoms[0].argmax() == 0, "red"
    assert first.alignment[0].name == "red"
    assert first.own_cosine > 0.9
    for exhibit, where in zip(record.exhibits, arrays["where_codes"], strict=True):
        number = int(arrays["points"][exhibit.row, 9])
        left, right = where[0][:, :2].sum(), where[0][:, 2:].sum()
        assert (left > right) == (number % 8 < 4), "the half that has the colour"


def test_images_told_wrongly_are_counted(red):
    """Every fifth image is told to be of the next class, whatever it shows."""
    record, arrays = red
    labels = arrays["points"][:, 4]
    wrong = int((labels != 0).sum())
    assert record.precision.number == record.num_images - wrong
    assert [confusion.name for confusion in record.taken_for] == ["green"]
    assert record.taken_for[0].share.number == wrong
    assert record.taken_for[0].rows == np.flatnonzero(labels == 1).tolist()
    assert sum(c.share.number for c in record.mistaken) + record.recall.number == record.num_labelled


def test_a_linear_network_makes_its_pictures_red(red, atlas):
    """Two steps of MACO are enough to have the score rise in its own channel, and the file to be there with alpha."""
    from PIL import Image

    picture = red[0].concepts[0].picture
    with Image.open(atlas / picture.image.file) as image:
        assert image.mode == "RGBA"
    assert picture.steps == 2


def test_all_concepts_are_in_one_plane_with_their_like(atlas):
    index = bundle.read_atlas(atlas)
    arrays = bundle.read_arrays(atlas, index.arrays)
    rows = arrays["concepts"]
    assert len(rows) == sum(entry.num_concepts for entry in index.classes)
    for row, pairs in zip(rows, arrays["similar"].reshape(len(rows), -1, 2), strict=True):
        others = pairs[pairs[:, 0] >= 0]
        assert (rows[others[:, 0].astype(int), 0] != row[0]).all(), "of other classes"
        assert (np.diff(others[:, 1]) <= 0).all(), "the nearest first"


def test_maps_by_a_black_box_are_there_if_asked_for_and_priced(folder, tmp_path):
    """Hiding the half that has the colour is what changes its concept, and without being asked there are none."""
    import json

    options = dict(black_box="occlusion", only=("red",), pictures=0, parts=0)
    lens_atlas.build(tmp_path, devices=jax.devices()[:1], **options)
    assert lens.check_bundle(tmp_path) == []
    record = bundle.read_class(tmp_path / "colours", "classes/0000.json")
    arrays = bundle.read_arrays(tmp_path / "colours", record.arrays)
    # Patches of 16 / 7 pixels, 2, a pixel apart: 15 along each side, and the image itself.
    assert record.black_box == schema.BlackBox("occlusion", 15**2 + 1, 0)
    assert arrays["where_black_box"].shape == (len(record.exhibits), len(record.concepts), 16, 16)
    for exhibit, where in zip(record.exhibits, arrays["where_black_box"], strict=True):
        number = int(arrays["points"][exhibit.row, 9])
        left, right = where[0][:, :8].sum(), where[0][:, 8:].sum()
        assert (left > right) == (number % 8 < 4), "the half that has the colour"
    told, none = (json.loads((place / "colours/build.json").read_text()) for place in (tmp_path, folder))
    assert told["forecast"][costs.BLACK] > none["forecast"][costs.BLACK] == 0
    assert bundle.read_class(folder / "colours", "classes/0000.json").black_box is None


def test_the_forecast_is_kept_beside_what_happened(folder, atlas):
    import json

    told = json.loads((atlas / "build.json").read_text())
    assert set(told["forecast"]) == set(told["measured"]) == {*costs.STAGES, "total"}
    said = (folder / "said.txt").read_text()
    assert "there and back: about" in said.splitlines()[0], "before it starts"
    assert "where the forecast was" in said.splitlines()[-1]


# --- the same, however it came about ------------------------------------------------------------------------


def test_a_finished_atlas_is_not_computed_again(atlas, folder, monkeypatch):
    before = identity(folder)
    for function in ("study_batch", "show"):
        refuse = lambda *_, name=function, **__: pytest.fail(f"{name} was called again")
        monkeypatch.setattr(f"sparks_jax.lens.atlas.{function}", refuse)
    lens_atlas.build(folder, devices=jax.devices()[:1])
    assert identity(folder) == before


def test_two_devices_give_the_same_classes(folder, tmp_path):
    """Other programs, so not to the last bit: the numbers agree to what float32 sums of a dozen allow."""
    lens_atlas.build(tmp_path, devices=jax.devices()[:2], chunk=4, pictures=0, parts=0)
    for entry in bundle.read_atlas(folder / "colours").classes:
        one, two = (bundle.read_class(place / "colours", entry.file) for place in (folder, tmp_path))
        values = [bundle.read_arrays(place / "colours", record.arrays)["importances"]
                  for place, record in ((folder, one), (tmp_path, two))]  # fmt: skip
        np.testing.assert_allclose(*values, atol=1e-3)


def test_two_processes_share_a_build_and_give_the_same_bundle(folder, tmp_path):
    """Each takes every other batch; half of the classes are not enough for the whole, and nothing differs by a byte."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = [sys.executable, "-m", "tests.lens_atlas", str(tmp_path), address, "2"]
    started = [subprocess.Popen([*command, index], stderr=subprocess.PIPE, text=True) for index in "01"]
    said = [process.communicate(timeout=300)[1] for process in started]
    assert [process.returncode for process in started] == [0, 0], said
    assert identity(tmp_path) == identity(folder)


def test_processes_that_share_a_build_have_half_to_do_each():
    work, units = costs.Work(*range(100, 105)), costs.Units(*range(1, 8))
    one, two = (costs.forecast(work, units, Settings(), early=True, processes=count) for count in (1, 2))
    fixed = costs.forecast(costs.Work(0, 0, 0, 0, 0), units, Settings(), early=True)[costs.FIT]
    for stage in (costs.PREDICT, costs.ACTS, costs.PICTURES, costs.WRITE):
        assert two[stage] == one[stage] / 2
    assert two[costs.FIT] - fixed == pytest.approx((one[costs.FIT] - fixed) / 2), "each compiles for itself"
    assert two[costs.LINK] == one[costs.LINK], "one of them writes the index"


def test_a_build_to_share_needs_others_to_share_it_with(monkeypatch, capsys):
    def alone():
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr(jax.distributed, "initialize", alone)
    assert main(["lens", "build", "--distributed"]) == 2
    assert "finds no cluster here" in capsys.readouterr().err


def test_where_one_process_fails_the_others_do_not_wait(monkeypatch):
    told = []
    monkeypatch.setattr(atlas_module, "_all_well", lambda well: told.append(well))
    with pytest.raises(RuntimeError, match="another process of this build failed at predicting"), \
         atlas_module._together("predicting"):  # fmt: skip
        pass
    with pytest.raises(ZeroDivisionError), atlas_module._together("predicting"):
        _ = 1 / 0
    assert told == [True, False]


def test_two_builds_that_know_nothing_of_each_other_do_not_write_one_folder(tmp_path):
    pytest.importorskip("fcntl", reason="locks of POSIX")
    with alone(tmp_path / "colours"), pytest.raises(BlockingIOError, match="--distributed"):
        lens_atlas.build(tmp_path, devices=jax.devices()[:1], force=True)
    with alone(tmp_path / "colours"):
        pass


def test_a_build_goes_on_with_other_devices(folder, tmp_path, monkeypatch):
    """Killed after its studies of one class a batch, it goes on with two: those of other classes are not taken."""
    with monkeypatch.context() as patched:
        patched.setattr(atlas_module, "_one_class", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            lens_atlas.build(tmp_path, devices=jax.devices()[:1], at_once=1, pictures=0, parts=0)
    study = next((tmp_path / "colours" / FOLDER).glob("studies-*"))
    lens_atlas.build(tmp_path, devices=jax.devices()[:2], at_once=1, pictures=0, parts=0)
    assert not study.exists()
    for entry in bundle.read_atlas(folder / "colours").classes:
        one, two = (bundle.read_class(place / "colours", entry.file) for place in (folder, tmp_path))
        assert [concept.prevalence.number for concept in one.concepts] == [
            concept.prevalence.number for concept in two.concepts
        ]


def test_a_damaged_class_is_made_again(folder, atlas, tmp_path):
    import shutil

    shutil.copytree(folder, tmp_path / "copy")
    file = next((tmp_path / "copy/colours/images/0001").glob("*.jpg"))
    file.write_bytes(file.read_bytes()[:50])
    (tmp_path / "copy/colours/atlas.json.part").write_bytes(b"{")
    lens_atlas.build(tmp_path / "copy", devices=jax.devices()[:1])
    assert identity(tmp_path / "copy") == identity(folder)


def test_another_build_in_the_folder_is_refused_unless_forced(folder, tmp_path):
    import shutil

    shutil.copytree(folder / "colours", tmp_path / "colours")
    with pytest.raises(FileExistsError, match="another network, other images or settings; --force"):
        lens_atlas.build(tmp_path, rank=2, devices=jax.devices()[:1])
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.tex").write_text("")
    with pytest.raises(FileExistsError, match="something else"):
        lens.build(tmp_path, model=lens_atlas.network(), data=lens_atlas.source(), name="mine", force=True)
    assert (tmp_path / "mine/thesis.tex").exists()


def test_a_build_that_is_killed_goes_on_to_the_same_bundle(folder, tmp_path):
    """`kill -9` when a random number of files is there, and again; left to end, it is what it is when let alone."""
    command = [sys.executable, "-m", "tests.lens_atlas", str(tmp_path)]
    count = lambda: sum(path.is_file() for path in tmp_path.rglob("*"))
    chance, kills = random.Random(KILLS), 0
    for _ in range(KILLS):
        process, target = (
            subprocess.Popen(command, stdout=subprocess.DEVNULL),
            chance.randrange(2, len(identity(folder))),
        )
        while process.poll() is None and count() < target:
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 0.3))
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    assert kills
    assert identity(tmp_path) == identity(folder)
    assert lens.check_bundle(tmp_path) == []


# --- images -------------------------------------------------------------------------------------------------


def test_folders_are_named_by_class_number_or_synset(tmp_path):
    from sparks_jax.jobs.outputs import encode
    from sparks_jax.models.bundled import imagenet_classes

    for name in ("n01440764", "Egyptian cat", "Egyptian_cat", "12", "holiday"):
        (tmp_path / name / "more").mkdir(parents=True)
        (tmp_path / name / "more/a.png").write_bytes(encode(np.zeros((4, 4, 3)), "PNG"))
    (tmp_path / ".hidden").mkdir()
    found = sources.folder(tmp_path, imagenet_classes())
    assert dict(zip(found.names, found.labels.tolist(), strict=True)) == {
        "12/more/a.png": 12, "Egyptian cat/more/a.png": 285, "Egyptian_cat/more/a.png": 285,
        "holiday/more/a.png": -1, "n01440764/more/a.png": 0,
    }  # fmt: skip
    assert "holiday" in found.notes[0]
    assert found.read(0).shape == (4, 4, 3)


@pytest.mark.filterwarnings("ignore")  # of the package, about its own files
def test_a_data_set_of_tfds_is_read_without_tensorflow():
    datasets = pytest.importorskip("tensorflow_datasets")
    with datasets.testing.mock_data(num_examples=5):
        found = sources.open_source("tfds:cifar10", ("cat", "dog", "frog"), split="test")
        # Mocked rows are drawn again for every source: which of the ten classes each has is not known here.
        assert set(found.labels.tolist()) <= {-1, 0, 1, 2}
        assert len(found.labels) == 5
        assert found.read(3).shape == (32, 32, 3)


def test_a_data_set_that_is_not_there_is_said():
    pytest.importorskip("tensorflow_datasets")
    with pytest.raises(ValueError, match=r"'no_such_set'.*cannot be read"):
        sources.open_source("no_such_set", ("cat",))


@pytest.mark.parametrize("data", ["../x", "a b", "http://x"])
def test_what_is_no_data_is_said(data):
    with pytest.raises(ValueError, match="is no folder, and no name of a data set"):
        sources.open_source(data, ("cat",))


def test_the_photographs_at_hand_have_names_and_sizes():
    found = sources.photographs()
    assert len(found.names) == len(found.labels) == len(set(found.names))
    pixels = found.read(len(found.names) - 1)
    assert pixels.shape[0] == pixels.shape[1]
    assert not found.labelled


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (dict(view="tokens"), "view is 'tokens'"),
        (dict(black_box="lime"), "black_box is 'lime', expected sobol, rise, occlusion or None"),
        (dict(rank=0), "rank is 0, expected at least 1"),
        (dict(crop=1.5), "crop is 1.5"),
        (dict(least=999), "no class has 999 images"),
        (dict(only=("grey",), least=40), "a class needs 40"),
    ],
)
def test_what_cannot_be_is_said(tmp_path, settings, says):
    with pytest.raises(ValueError, match=says):
        lens_atlas.build(tmp_path, devices=jax.devices()[:1], **settings)


def test_a_misspelt_class_is_said_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match="there is no class 'gray'; did you mean grey"):
        lens_atlas.build(tmp_path, devices=jax.devices()[:1], only=("gray",))
    assert not list(tmp_path.rglob("*"))


def test_an_unfinished_build_of_other_settings_is_not_called_an_atlas(tmp_path):
    with pytest.raises(ValueError, match="no class has 999 images"):
        lens_atlas.build(tmp_path, devices=jax.devices()[:1], least=999)
    with pytest.raises(FileExistsError, match="holds an unfinished build of .*--force"):
        lens_atlas.build(tmp_path, devices=jax.devices()[:1])


def test_an_unknown_setting_is_said(tmp_path):
    with pytest.raises(TypeError, match="there is no setting 'ranks'"):
        lens_atlas.build(tmp_path, ranks=3)
