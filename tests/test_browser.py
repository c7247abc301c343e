"""The main job on real weights at its smallest, and its page in a real browser."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sparks_jax.jobs.methods import DEFAULT, METHODS

WIDTHS = {"phone": 400, "desk": 1400}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """`sparks explain --smoke` as a user runs it: a process of its own, on the devices of the machine."""
    folder = tmp_path_factory.mktemp("smoke")
    program = "from sparks_jax.cli import main; raise SystemExit(main())"  # what the `sparks` script holds
    command = [sys.executable, "-c", program, "explain", "--smoke"]
    ours = ("XLA_FLAGS", "JAX_DISABLE_MOST_OPTIMIZATIONS")
    environment = {name: value for name, value in os.environ.items() if name not in ours}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return folder / "sparks-out", done.stdout


def test_smoke_run_sees_what_is_there(finished):
    folder, said = finished
    record = json.loads((folder / "run.json").read_text())
    assert str(Path("sparks-out", "report.html")) in said
    assert list(record["methods"]) == list(DEFAULT)
    assert record["errors"] == record["skipped"] == {}
    best = {picture["name"]: picture["class"] for picture in record["pictures"]}
    assert len(best) == 2
    assert any("cat" in name for name in best.values()), best
    with np.load(folder / "maps.npz") as held:
        for name in DEFAULT:
            assert np.isfinite(held[name]).all()
            assert held[name].std() > 0


@pytest.fixture(params=WIDTHS)
def page(request, browser, finished):
    """The open page, with what it asked for and complained about."""
    opened = browser.new_page(viewport={"width": WIDTHS[request.param], "height": 900})
    asked, complaints = [], []
    opened.on("request", lambda sent: asked.append(sent.url))
    opened.on("console", lambda message: complaints.append(message.text))
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.goto((finished[0] / "report.html").as_uri())
    yield opened, asked, complaints
    opened.close()


def test_page_is_alone_and_quiet(page):
    _, asked, complaints = page
    assert complaints == []
    assert all(url.startswith(("file:", "data:")) for url in asked)


def test_every_picture_is_drawn(page):
    opened, _, _ = page
    widths = opened.evaluate("[...document.images].map(image => image.naturalWidth)")
    # For each of two pictures the photograph, and two pictures for each method.
    assert len(widths) == 2 * (1 + 2 * len(DEFAULT))
    assert min(widths) > 0


def test_page_says_what_it_should(page):
    opened, _, _ = page
    assert opened.locator("h1").inner_text().startswith("Where EfficientNet-Lite0 looks")
    panels = opened.locator("section").first.locator(".panel h3").all_inner_texts()
    assert panels == [METHODS[name].title for name in DEFAULT]
    for section in opened.locator("section[id]").all():
        assert section.locator(".top li").count() == 5
        assert section.locator("svg[role=img]").count() == 2


def test_page_fits_its_window(page):
    opened, _, _ = page
    wide, window = opened.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
    assert wide <= window
    # Text in the charts is legible: at least 10 CSS pixels, a tenth of an inch.
    heights = opened.evaluate(
        "[...document.querySelectorAll('svg[role=img] text')].map(text => text.getBoundingClientRect().height)"
    )
    assert min(heights) >= 10
