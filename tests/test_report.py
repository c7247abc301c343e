"""The page: it holds what it shows, says what happened, and trusts no name."""

import html.parser
import re

import numpy as np
import pytest

from sparks_jax.jobs import report
from sparks_jax.jobs.chart import chart, round_ticks
from sparks_jax.jobs.methods import METHODS, contributions, importance
from sparks_jax.jobs.network import Network
from sparks_jax.jobs.pictures import Picture, Source, square
from sparks_jax.metrics import Curve

SIDE = 6
CLASSES = ("tabby, tabby cat", "espresso", "dog & <b>bone</b>")
VOID = {"meta", "link", "img", "br"}


def curve(scores):
    scores = np.asarray(scores, float)
    fractions = np.linspace(0, 1, len(scores))
    return Curve(fractions, scores, np.trapezoid(scores, fractions))


def panel(name, rng, auc=(0.25, 0.75)):
    method = METHODS[name]
    raw = rng.normal(size=(SIDE, SIDE, 3) if name != "sobol" else (SIDE, SIDE)).astype(np.float32)
    heat = importance(method, raw)
    curves = [curve([area, area, area]) for area in auc]
    return report.Panel(raw, heat, contributions(method, raw), *curves)


def result(title, panels, label=0, probabilities=(0.7, 0.2, 0.1)):
    view = np.full((SIDE, SIDE, 3), 128, np.uint8)
    picture = Picture(Source(re.sub(r"\W", "_", title), title), view / np.float32(255), view)
    return report.Result(picture, label, np.array(probabilities), panels)


def summary(results, methods=("sobol", "integrated_gradients"), **changes):
    methods = {name: METHODS[name] for name in methods}
    run = report.Summary(
        Network("TestNet", None, CLASSES, SIDE, square, "Made for tests; free."),
        methods,
        seed=3,
        top=5,
        asked=len(results),
        smoke=False,
        versions={"sparks_jax": "9.9", "jax": "1.2"},
        device="1 × abacus",
        results=results,
        errors={},
        skipped={},
        seconds=dict.fromkeys(methods, 1.5),
        forwards=dict.fromkeys(methods, 2112),
        total=12.3,
    )
    return run._replace(**changes)


@pytest.fixture
def cat():
    rng = np.random.default_rng(0)
    return result("cat", {name: panel(name, rng) for name in ("sobol", "integrated_gradients")})


class Reader(html.parser.HTMLParser):
    """Collects tags and words, and insists that every tag that opens is closed."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.words = [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)

    def attributes(self, tag, name):
        return [attrs[name] for of_tag, attrs in self.tags if of_tag == tag and name in attrs]

    def text(self):
        return " ".join(" ".join(self.words).split())


def test_page_holds_everything_it_shows(cat):
    text = report.page(summary([cat]))
    read = Reader(text)
    assert all(link.startswith("data:") for link in read.attributes("img", "src"))
    assert read.attributes("link", "href") == ["data:,"]
    assert not re.search(r"https?:|@import|url\(|<script", text)
    # The photograph, and for each of two methods the map over it and the map alone.
    assert len(read.attributes("img", "src")) == len(read.attributes("img", "alt")) == 1 + 2 * 2
    assert all(read.attributes("img", "alt"))


def test_page_says_what_was_done(cat):
    text = Reader(report.page(summary([cat]))).text()
    for words in (
        "Where TestNet looks",
        "1 picture explained by Sobol’ and Integrated gradients in 12 seconds",
        "why tabby ?",
        METHODS["sobol"].means,
        "red pixels speak for the class",
        "2,112 forward + backward",
        "Made for tests; free.",
        "Seed 3; 1 × abacus; sparks_jax 9.9, jax 1.2.",
    ):
        assert words in text, words


def test_names_are_text_and_never_markup():
    title = '<img src=x onerror="alert(1)">&'
    bad = result(title, {"sobol": panel("sobol", np.random.default_rng(0))}, label=2)
    run = summary([bad], ("sobol",), errors={"<i>": "no file <i>"}, skipped={"rise": "<u>"})
    read = Reader(report.page(run._replace(network=run.network._replace(name="<net>", about="<about>"))))
    assert {tag for tag, _ in read.tags}.isdisjoint({"b", "u", "net", "about"})
    assert all(src.startswith("data:") for src in read.attributes("img", "src"))
    for words in (title, "dog & <b>bone</b>", "Where <net> looks", "no file <i>"):
        assert words in read.text()


def test_predictions_are_bars_in_order():
    rare = result("cat", {"sobol": panel("sobol", np.random.default_rng(0))}, 2, (0.7, 0.2, 0.1))
    read = Reader(report.page(summary([rare], ("sobol",), top=1)))
    # The explained class is shown even when it is not among the first.
    assert [style for style in read.attributes("i", "style")] == ["width:70.0%", "width:10.0%"]
    assert "explained" in read.attributes("li", "class")


def test_best_areas_are_bold():
    rng = np.random.default_rng(0)
    panels = {"sobol": panel("sobol", rng, (0.1, 0.4)), "rise": panel("rise", rng, (0.3, 0.9))}
    text = report.page(summary([result("cat", panels)], ("sobol", "rise")))
    # Once below the picture, once in the comparison.
    for cell, bold in (("0.100", True), ("0.300", False), ("0.400", False), ("0.900", True)):
        assert text.count(f"<td{' class=best' if bold else ''}>{cell}</td>") == 2


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"smoke": True}, "A smoke run"),
        ({"interrupted": True, "asked": 7}, "Interrupted after 1 of 7 pictures."),
        ({"errors": {"dog.png": "no image at dog.png"}}, "dog.png was left out : no image at dog.png."),
        ({"skipped": {"sobol": "it has no halves"}}, "sobol was skipped : it has no halves."),
    ],
)
def test_notes(cat, changes, words):
    if "skipped" in changes:
        del cat.panels["sobol"]
    assert words in Reader(report.page(summary([cat], **changes))).text()


def test_a_page_with_many_pictures_shows_the_first(cat, monkeypatch):
    monkeypatch.setattr(report, "PAGE_PICTURES", 2)
    read = Reader(report.page(summary([cat] * 3)))
    assert read.attributes("section", "id") == ["cat", "cat"]
    assert "Shown are the first 2" in read.text()


@pytest.mark.parametrize("a", [np.zeros((4, 4)), np.full((4, 4), np.nan), np.full((4, 4), np.inf)])
def test_odd_maps_do_not_break_a_page(a):
    odd = report.Panel(a, a, a, curve([0.0, 0.0]), curve([0.0, 0.0]))
    text = Reader(report.page(summary([result("cat", {"occlusion": odd})], ("occlusion",)))).attributes("img", "alt")
    assert any("nowhere in particular" in alt for alt in text)


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ((0, 0), "at the top left"),
        ((4, 4), "in the centre"),
        ((8, 4), "at the bottom centre"),
        ((4, 8), "at the middle right"),
    ],
)
def test_where_is_said_in_words(place, words):
    a = np.zeros((9, 9))
    a[place] = 1
    assert report._where(a) == words


@pytest.mark.parametrize("top", [1e-6, 0.004, 0.2, 0.33, 0.5, 0.51, 0.999, 1.0, 7.0, 0.0])
def test_ticks_are_even_few_and_cover(top):
    ticks = round_ticks(top)
    assert ticks[0] == 0
    assert ticks[-1] >= top
    assert 3 <= len(ticks) <= 6
    np.testing.assert_allclose(np.diff(ticks), ticks[1], rtol=1e-6)
    assert ticks[-2] < top or top == 0


def test_chart_draws_the_curve():
    scores = [1.0, 0.5, 0.25, 0.0]
    svg = chart("Deletion", "pixels removed", {"sobol": "Sobol’"}, {"sobol": curve(scores)}, [0.0, 0.5, 1.0])
    assert 'aria-label="Deletion: Sobol’ 0.417"' in svg
    path = re.search(r'class="curve" d="M([^"]*)"', svg).group(1)
    x, y = np.array([[float(v) for v in point.split(",")] for point in path.split()]).T
    # Affine in the data, downwards, to the rounding of a tenth of a unit.
    np.testing.assert_allclose((x - x[0]) / (x[-1] - x[0]), [0, 1 / 3, 2 / 3, 1], atol=1e-3)
    np.testing.assert_allclose((y[-1] - y) / (y[-1] - y[0]), scores, atol=1e-3)
