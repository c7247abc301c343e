"""`sparks visualize` as a user meets it: what it writes, what it says about mistakes, and that nothing is lost."""

import contextlib
import json

import numpy as np
import pytest
from PIL import Image

from sparks_jax.cli import main
from sparks_jax.jobs import run_visualize
from tests.tiny import NUM_CLASSES

QUICK = ["--model", "tests.test_cli:plain", "--size", "16", "--steps", "4", "--crops", "2"]
OUT = "sparks-visualizations"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def record():
    with open(f"{OUT}/run.json", encoding="utf-8") as file:
        return json.load(file)


def test_it_writes_a_page_pictures_arrays_and_a_record(tmp_path, capsys):
    assert main(["visualize", "1", "--top", "2", *QUICK, "2"]) == 0
    assert f"{OUT}/report.html" in capsys.readouterr().out
    page = (tmp_path / OUT / "report.html").read_text()
    assert page.count("<article") == 2
    assert "http" not in page.replace("http://www.w3.org", "")
    known = record()
    assert [c["label"] for c in known["classes"].values()] == [1, 2]
    assert sorted(known["files"]) == sorted(
        p.relative_to(tmp_path / OUT).as_posix() for p in (tmp_path / OUT).rglob("*") if p.is_file()
    )
    with np.load(f"{OUT}/visualizations.npz") as held:
        assert held["images"].shape == (2, 18, 18, 3)  # a seventh more than 16
        assert held["transparencies"].shape == (2, 18, 18)
        assert held["history/2"].shape == (4,)
        np.testing.assert_allclose(held["probabilities"].sum(1), 1, atol=1e-6)
    faded, _ = sorted(name for name in known["files"] if name.startswith("pictures/0001"))
    with Image.open(f"{OUT}/{faded}") as picture:
        assert picture.mode == "RGBA"


def test_without_classes_it_takes_the_first_and_smoke_takes_one():
    assert main(["visualize", "--smoke", *QUICK]) == 0
    assert [c["label"] for c in record()["classes"].values()] == [0]


def test_fourier_and_a_spectrum_of_photographs(tmp_path):
    assert main(["visualize", "0", "--method", "fourier", *QUICK]) == 0
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "noise.png")
    assert main(["visualize", "0", "--spectrum", str(tmp_path / "noise.png"), *QUICK, "--force"]) == 2
    (tmp_path / "photographs").mkdir()
    Image.fromarray(pixels).save(tmp_path / "photographs/noise.png")
    assert main(["visualize", "0", "--spectrum", "photographs", *QUICK, "--force"]) == 0
    assert record()["settings"]["spectrum"] == "photographs"


def test_an_interrupt_keeps_what_there_is(monkeypatch, capsys):
    @contextlib.contextmanager
    def stopping(labels, network, settings):
        def tick(i, steps, score):
            if i == 1:
                raise KeyboardInterrupt

        yield tick

    monkeypatch.setattr(run_visualize, "_progress", stopping)
    assert main(["visualize", "0", "1", "2", *QUICK, "--steps", "12"]) == 130
    assert "interrupted after 1 of 3 classes" in capsys.readouterr().err
    assert record()["interrupted"]
    assert [c["label"] for c in record()["classes"].values()] == [0, 1]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["zebra"], "there is no class 'zebra'"),
        ([str(NUM_CLASSES)], "outside the"),
        (["0", "--canvas", "8"], "smaller than the crops"),
        (["0", "--spectrum", "none.npy"], "there is no file none.npy"),
    ],
)
def test_mistakes_are_one_sentence(given, said, capsys):
    assert main(["visualize", *given, *QUICK]) == 2
    assert said in capsys.readouterr().err


def test_a_folder_in_use_is_refused_unless_forced(tmp_path, capsys):
    (tmp_path / OUT).mkdir()
    (tmp_path / OUT / "mine.txt").write_text("mine")
    assert main(["visualize", "0", *QUICK]) == 2
    assert "is not empty" in capsys.readouterr().err
    assert main(["visualize", "0", *QUICK, "--force"]) == 0
    assert (tmp_path / OUT / "mine.txt").read_text() == "mine"
