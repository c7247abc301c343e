"""The questionnaire as people meet it: answered by keyboard in a real browser, reloaded, saved, graded and reported."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from sparks_jax.cli import main
from sparks_jax.human import BASELINE, CONTROL, Finding, Study, as_record, as_responses, utility_interval
from sparks_jax.jobs import chart, questionnaire
from sparks_jax.jobs.study import read_answers, read_study
from sparks_jax.jobs.study_page import progress, whiskers

SIDE, POOL = 8, 60
PREDICTIONS, LABELS = np.arange(POOL) % 2, np.arange(POOL) // 2 % 2
IMAGES = np.random.default_rng(0).random((POOL, SIDE, SIDE, 3)).astype(np.float32)
MAPS = np.random.default_rng(1).random((POOL, SIDE, SIDE)).astype(np.float32)
LEAST = 3 * 2**20  # bytes of a page of 60 stimuli, at most


@pytest.fixture(scope="module")
def study():
    return Study.design(
        PREDICTIONS, LABELS, classes=("wolf", "<b>husky</b>"), methods=("rise",), seed=0, title="Wolves & dogs",
        examples=(2, 4), questions=3,
    )  # fmt: skip


@pytest.fixture(scope="module")
def folder(study, tmp_path_factory):
    out = tmp_path_factory.mktemp("study")
    questionnaire.export(study, IMAGES, {CONTROL: MAPS[::-1], "rise": MAPS}, out)
    return out


@pytest.fixture
def context(browser):
    """A browser that nobody has used; what its pages ask for and complain about is written down."""
    opened = browser.new_context(viewport={"width": 390, "height": 844}, accept_downloads=True)
    opened.asked, opened.complaints = [], []
    opened.on("request", lambda sent: opened.asked.append(sent.url))
    opened.on("console", lambda message: opened.complaints.append(message.text))
    opened.on("weberror", lambda error: opened.complaints.append(str(error.error)))
    yield opened
    assert opened.complaints == []
    assert all(url.startswith(("file:", "data:", "blob:")) for url in opened.asked)
    opened.close()


def address(study, folder, condition):
    letter = next(letter for letter, name in study.pages.items() if name == condition)
    return folder / f"page-{letter}.html"


def opened(context, study, folder, condition="rise"):
    page = context.new_page()
    page.goto(address(study, folder, condition).as_uri())
    return page


def held(path):
    """What a page holds, and the image of each picture in it."""
    text = re.search(r'<script type="application/json" id="data">(.*?)</script>', path.read_text(), re.DOTALL)
    data = json.loads(text[1])
    return data, {source: int(image) for image, source in data["pictures"].items()}


def begin(page, code="07"):
    page.keyboard.type(code)  # the field has the focus when the page opens
    page.keyboard.press("Enter")


def heading(page):
    return page.locator("h1").inner_text()


def step(page, images, answers, wrong=()):
    """One step by keyboard: reads on, or answers as the study says, but the other way for some images."""
    if page.locator("input[name=answer]").count() == 0:
        page.keyboard.press("ArrowRight")
        return
    if page.locator(".told").count():
        told = page.locator(".told strong").inner_text()
        choice = ["wolf", "<b>husky</b>"].index(told)
    else:
        image = images[page.locator(".stimulus img").get_attribute("src")]
        choice = answers[image] ^ (image in wrong)
    page.keyboard.press(str(1 + choice))
    page.keyboard.press("Enter")


def answer_all(page, images, answers, wrong=()):
    for _ in range(100):
        if heading(page) == "Thank you":
            return
        step(page, images, answers, wrong)
    raise AssertionError("the page has no end")


def save(page, to):
    with page.expect_download() as download:
        page.keyboard.press("Enter")
    to.mkdir(exist_ok=True)
    path = to / download.value.suggested_filename
    download.value.save_as(path)
    return path


def truth(study):
    asked = [study.practice, *(session.questions for session in study.sessions)]
    return {item.image: item.predicted for part in asked for item in part}


def practise(page, images, answers, wrong=()):
    while heading(page).startswith("Practice"):
        step(page, images, answers, wrong)


def test_answered_from_start_to_end_and_reported(context, study, folder, tmp_path, capsys):
    """Four people, two conditions: the one who saw maps is right, the others err on known images."""
    answers = truth(study)
    wrong = {item.image for item in study.sessions[1].questions}
    for condition, errs in (("rise", set()), (BASELINE, wrong)):
        page = opened(context, study, folder, condition)
        _, images = held(address(study, folder, condition))
        for person in (1, 2):
            begin(page, f"{condition}-{person}")
            answer_all(page, images, answers, errs)
            assert page.locator("#progress").evaluate("bar => bar.value") == 1
            path = save(page, tmp_path / "answers")
            assert (
                path.name
                == f"answers-{study.identity}-{address(study, folder, condition).stem[-1]}-{condition}-{person}.json"
            )
            page.get_by_text("Next participant").click()
    responses = {r.participant: r for r in read_answers(study, [tmp_path / "answers"])}
    assert sorted(responses) == ["baseline-1", "baseline-2", "rise-1", "rise-2"]
    assert (responses["rise-1"].answers == study.answers()).all()
    assert (responses["baseline-2"].answers[0] == study.answers()[0]).all()
    assert (responses["baseline-2"].answers[1] == 1 - study.answers()[1]).all()
    (tmp_path / "study.json").write_text(study.as_json())
    assert main(["study", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"The report is {tmp_path / 'report.html'}\n"
    found = json.loads((tmp_path / "results.json").read_text())["conditions"]
    assert found["rise"]["utility"] == 2.0  # right always, against half of the time
    assert found["rise"]["utility_interval"] == [2.0, 2.0]
    assert found["rise"]["accuracies"] == [1.0, 1.0]
    assert found[BASELINE]["accuracies"] == [1.0, 0.0]
    page.goto((tmp_path / "report.html").as_uri())
    assert page.locator("svg[role=img]").count() == 2
    assert "rise 2.00" in page.locator("svg[role=img]").first.get_attribute("aria-label")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_nothing_is_lost_on_reload(context, study, folder, tmp_path):
    """Reloaded after every step, and closed and opened once, it is where it was, and ends with the same answers."""
    page, (_, images) = opened(context, study, folder), held(address(study, folder, "rise"))
    begin(page)
    seen = []
    while heading(page) != "Thank you":
        before = page.locator("main").inner_html()
        page.reload()
        assert page.locator("main").inner_html() == before
        seen.append(heading(page))
        step(page, images, truth(study))
        if len(seen) == 5:
            page.close()
            page = opened(context, study, folder)
    record = json.loads(save(page, tmp_path).read_text())
    # Three trials and what they are told; two parts of two examples, one sheet, three questions and a check.
    assert len(seen) == 3 * 2 + 2 * (2 + 1 + 3 + 1)
    assert record["reloads"] == len(seen) + 1
    assert [entry["image"] for entry in record["practice"]] == [item.image for item in study.practice]
    assert [entry["answer"] for entry in record["practice"]] == [item.predicted for item in study.practice]
    assert [[entry["answer"] for entry in s["questions"]] for s in record["sessions"]] == [
        [truth(study)[entry["image"]] for entry in s["questions"]] for s in record["sessions"]
    ]
    assert all(e["milliseconds"] > 0 for s in record["sessions"] for e in s["questions"] + s["examples"])


def test_the_time_of_an_answer_is_that_until_it_is_given(context, study, folder, tmp_path):
    """Over a reload of the tab, and for each answer anew."""
    page, (_, images) = opened(context, study, folder), held(address(study, folder, "rise"))
    begin(page)
    practise(page, images, truth(study))
    while not heading(page).startswith("Question"):
        page.keyboard.press("ArrowRight")
    waited = 1500
    for _ in range(2):
        page.wait_for_timeout(waited)
        page.reload()
    first = images.get(page.locator(".stimulus img").get_attribute("src"))
    answer_all(page, images, truth(study))
    save(page, tmp_path)
    (response,) = read_answers(study, [tmp_path])
    place = [item.image for item in study.sessions[0].questions].index(first)
    assert response.times[0, place] >= 2 * waited / 1000
    assert 0 < np.median(response.times) < waited / 1000


def test_practice_is_told_at_once_and_kept_apart(context, study, folder, tmp_path):
    """By keyboard: each guess is told, right or wrong, and is no answer of a session; nobody practises with a map."""
    page, (_, images) = opened(context, study, folder), held(address(study, folder, "rise"))
    assert "on 3 pictures" in page.locator("main").inner_text()
    begin(page)
    errs = {study.practice[1].image}
    for i, item in enumerate(study.practice):
        assert heading(page) == f"Practice {i + 1} of 3"
        page.keyboard.press("Enter")  # waits for an answer
        assert heading(page) == f"Practice {i + 1} of 3"
        assert "practice" in page.locator("#where").inner_text()
        assert page.locator(".stimulus img").count() == 1
        step(page, images, truth(study), errs)
        assert heading(page) == f"Practice {i + 1} of 3: {'not right' if item.image in errs else 'right'}"
        assert page.locator(".said strong").inner_text() == study.classes[item.predicted]
        assert images[page.locator(".stimulus img").get_attribute("src")] == item.image
        page.keyboard.press("ArrowLeft")  # what was answered stays so
        assert ": " in heading(page)
        page.keyboard.press("Enter")
    assert heading(page) == "Example 1 of 2"
    page.keyboard.press("ArrowLeft")
    assert heading(page) == "Example 1 of 2"
    answer_all(page, images, truth(study))
    save(page, tmp_path)
    (response,) = read_answers(study, [tmp_path])
    assert (response.answers == study.answers()).all()
    assert response.practice.tolist() == [i.predicted ^ (i.image in errs) for i in study.practice]


def test_a_study_without_practice_begins_with_examples(context, study, tmp_path):
    without = study._replace(practice=())
    questionnaire.export(without, IMAGES, {CONTROL: MAPS[::-1], "rise": MAPS}, tmp_path)
    page = opened(context, without, tmp_path)
    assert "practice" not in page.locator("main").inner_text()
    begin(page)
    assert heading(page) == "Example 1 of 2"


def test_where_the_browser_keeps_nothing_the_tab_does(context, study, folder):
    """Without storage a reload still loses nothing, and the page says that the tab must stay open."""
    context.add_init_script("Storage.prototype.setItem = () => { throw new Error('closed') }")
    page, (_, images) = opened(context, study, folder), held(address(study, folder, "rise"))
    begin(page)
    assert "Leave it open" in page.locator("#trouble").inner_text()
    for _ in range(4):
        step(page, images, truth(study))
    before = page.locator("main").inner_html()
    page.reload()
    assert page.locator("main").inner_html() == before


def test_two_tabs_are_one(context, study, folder):
    first, second = opened(context, study, folder), opened(context, study, folder)
    _, images = held(address(study, folder, "rise"))
    begin(first)
    practise(first, images, truth(study))
    second.wait_for_function("document.querySelector('h1').textContent.startsWith('Example 1')")
    second.keyboard.press("ArrowRight")
    first.wait_for_function("document.querySelector('h1').textContent.startsWith('Example 2')")
    assert heading(first) == heading(second) == "Example 2 of 2"


def test_what_is_unfinished_can_be_saved_and_gone_on_with(context, study, folder, tmp_path):
    page, (_, images) = opened(context, study, folder), held(address(study, folder, "rise"))
    begin(page)
    practise(page, images, truth(study))
    for _ in range(4):
        step(page, images, truth(study))
    page.evaluate("leave()")  # as another participant would find it
    with page.expect_download() as download:
        page.get_by_text("Save these answers").click()
    download.value.save_as(tmp_path / download.value.suggested_filename)
    assert download.value.suggested_filename.endswith("-07-unfinished.json")
    (response,) = read_answers(study, [tmp_path])
    assert (response.answers == -1).sum() >= 4
    page.locator("#code").focus()
    begin(page)
    assert heading(page).startswith("Question 2")


def test_questions_wait_for_an_answer_and_do_not_go_back(context, study, folder):
    page, (_, images) = opened(context, study, folder), held(address(study, folder, "rise"))
    begin(page)
    practise(page, images, truth(study))
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowLeft")
    assert heading(page) == "Example 1 of 2"
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    asked = heading(page)
    assert asked.startswith("Question 1")
    for key in ("ArrowLeft", "ArrowRight", "Backspace", "Enter"):
        page.keyboard.press(key)
        assert heading(page) == asked
    assert page.locator(".first").get_attribute("aria-disabled") == "true"
    assert page.evaluate("document.activeElement.name") == "answer"  # where what is missing can be given
    page.keyboard.press("2")
    assert page.locator("input:checked").get_attribute("value") == "1"
    page.keyboard.press("1")
    page.keyboard.press("Enter")
    assert heading(page).startswith("Question 2")


@pytest.mark.parametrize("condition", [BASELINE, "rise"])
def test_every_step_fits_a_phone_and_can_be_read(context, study, folder, condition):
    """No sideways scrolling, every picture drawn, named and square, buttons large enough for a thumb, labels whole."""
    page, (_, images) = opened(context, study, folder, condition), held(address(study, folder, condition))
    begin(page)
    while heading(page) != "Thank you":
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        pictures = page.evaluate("[...document.images].map(i => [i.naturalWidth, i.width, i.height, i.alt])")
        assert all(n == SIDE and w == h > 100 and alt for n, w, h, alt in pictures)
        assert page.evaluate("Math.min(...[...document.querySelectorAll('.button')].map(b => b.offsetHeight))") >= 44
        if heading(page).startswith("Example"):
            assert len(pictures) == (1 if condition == BASELINE else 2)
        if heading(page).startswith(("Question", "Practice")) and not page.locator(".told").count():
            assert len(pictures) == 1
        assert page.evaluate("document.activeElement.tagName") == "H1"
        step(page, images, truth(study))


def test_no_two_conditions_look_alike():
    """As many as a study may have, in ten colours: lines differ in colour or dashes, points in colour or shape."""
    names = [f"method {i}" for i in range(26)]
    rng = np.random.default_rng(0)
    u = utility_interval(rng.random((4, 2)), rng.random((4, 2)), num_bootstraps=9)
    found = {name: Finding(4, rng.random(2), u, 0.5, 1.0) for name in names}
    lines = re.findall(
        r'<path class="curve" d="[^"]*" (stroke="[^"]*" stroke-dasharray="[^"]*")', progress((5, 10), found)
    )
    assert len(lines) == len(set(lines)) == 26
    assert all(line in chart.key(place, marked=True) for place, line in enumerate(lines))
    marks = re.findall(
        r'<circle cx="0.0" cy="0.0" r="5" [^>]*>|<path d="[^"]*Z" [^>]*>',
        "".join(chart.mark(i, 0.0, 0.0, 5.0) for i in range(26)),
    )
    assert len(marks) == len(set(marks)) == 26
    drawn = whiskers(found)
    assert [len(re.findall(shape, drawn)) for shape in ("<circle", '<path d="M[^"]*Z"')] == [10, 16]


# --- what is in the files ---


def test_pages_hold_no_answer_and_no_condition(study, folder):
    for condition in study.conditions:
        path = address(study, folder, condition)
        data, _ = held(path)
        assert all(isinstance(image, int) for session in data["sessions"] for image in session["questions"])
        examples = {example["image"] for session in data["sessions"] for example in session["examples"]}
        assert set(map(int, data["explanations"])) == (set() if condition == BASELINE else examples)
        assert not re.search(
            r"baseline|control|rise|saliency|predicted", json.dumps({**data, "pictures": 0, "explanations": 0})
        )
    assert sorted(path.name for path in folder.iterdir()) == ["page-A.html", "page-B.html", "page-C.html", "study.json"]
    assert read_study(folder) == study


def test_every_method_is_drawn_alike():
    """Affine changes of a map change nothing, nor do outliers within half a per cent; all end in the same colours."""
    image, ramp = IMAGES[0], np.linspace(0, 1, SIDE * SIDE).reshape(SIDE, SIDE)
    drawn = questionnaire.stimulus(image, ramp)
    assert np.allclose(questionnaire.stimulus(image, 1e3 * ramp - 5), drawn, atol=1e-9)
    assert drawn.shape == (SIDE, SIDE, 3)
    assert questionnaire.stimulus(image, ramp[:4, :4]).shape == (SIDE, SIDE, 3)
    assert (questionnaire.stimulus(image, IMAGES[1]) == IMAGES[1]).all()
    with pytest.raises(ValueError, match=r"expected a map \(h, w\) or a picture"):
        questionnaire.stimulus(image, np.zeros(3))


def test_sixty_photographs_are_light():
    """Crops of photographs at the full size of a page, half of them with a map: 90 pictures."""
    skimage = pytest.importorskip("skimage.data", reason="photographs come with scikit-image")
    from PIL import Image

    rng, side = np.random.default_rng(0), questionnaire.SIDE
    photos, crops = [skimage.chelsea(), skimage.coffee(), skimage.rocket()], []
    for i in range(120):
        photo = photos[i % 3]
        edge = int(rng.integers(200, min(photo.shape[:2])))
        top, left = (int(rng.integers(0, n - edge + 1)) for n in photo.shape[:2])
        crop = Image.fromarray(photo[top : top + edge, left : left + edge]).resize((side, side))
        crops.append(np.asarray(crop) / np.float32(255))
    many = np.arange(120)
    study = Study.design(
        many % 2, many // 2 % 2, classes=("a", "b"), methods=("rise",), seed=0, examples=(10, 20, 30), questions=10
    )
    maps = rng.random((120, 7, 7))
    assert len(questionnaire.page(study, "rise", crops, {"rise": maps}).encode()) < LEAST


# --- what is refused ---


def test_export_refuses_what_would_spoil_a_study(study, folder, tmp_path):
    twins = IMAGES.copy()
    twins[study.sessions[1].questions[0].image] = twins[study.sessions[0].examples[0].image]
    given = {CONTROL: MAPS, "rise": MAPS}
    with pytest.raises(ValueError, match="participants have seen what they are asked"):
        questionnaire.export(study, twins, given, tmp_path / "leaks")
    with pytest.raises(ValueError, match="condition 'rise' has no explanations"):
        questionnaire.export(study, IMAGES, {CONTROL: MAPS}, tmp_path / "less")
    with pytest.raises(FileExistsError, match="--force|not empty"):
        questionnaire.export(study, IMAGES, given, folder)
    with pytest.raises(ValueError, match="there is no condition 'lime'"):
        questionnaire.page(study, "lime", IMAGES, given)
    assert not (tmp_path / "leaks").exists()


def test_export_refuses_what_could_not_be_shown_as_it_is(study, tmp_path):
    broken = MAPS.copy()
    broken[study.sessions[0].examples[0].image] = np.nan
    for images, given, message in (
        (255 * IMAGES, {CONTROL: MAPS, "rise": MAPS}, r"expected pixels in \[0, 1\]"),
        (IMAGES, {CONTROL: MAPS, "rise": MAPS[:2]}, "condition 'rise' has no explanation of image"),
        (IMAGES, {CONTROL: MAPS, "rise": broken}, "holds NaN"),
        (IMAGES, {CONTROL: MAPS, "rize": MAPS}, "'rize', which is none of the conditions"),
    ):
        with pytest.raises(ValueError, match=message):
            questionnaire.export(study, images, given, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_files_that_do_not_match_are_all_named(study, tmp_path, capsys):
    answers = {name: np.zeros((2, 2, 3), int) for name in study.conditions}
    (tmp_path / "study.json").write_text(study.as_json())
    good, other = (as_record(s, as_responses(s, answers)[0]) for s in (study, study._replace(seed=9)))
    for name, text in {"a": json.dumps(good), "b": json.dumps(other), "c": "{", "d": "[1]"}.items():
        (tmp_path / f"answers-{name}.json").write_text(text)
    assert main(["study", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "3 of 4 files do not match the study" in said
    for name, why in {
        "b": "these are answers to another study",
        "c": "this is no JSON, or is cut off",
        "d": "this holds no answers",
    }.items():
        assert re.search(rf"answers-{name}\.json: {why}", said)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "no study.json in"),
        ({"study.json": "{}"}, "this is no study"),
    ],
)
def test_folders_without_a_study(tmp_path, capsys, files, said):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert main(["study", str(tmp_path)]) == 2
    assert said in capsys.readouterr().err


def test_too_few_participants_is_said(study, tmp_path, capsys):
    (tmp_path / "study.json").write_text(study.as_json())
    assert main(["study", str(tmp_path)]) == 2
    assert "no answers: expected files answers-*.json" in capsys.readouterr().err
    one = as_responses(study, {BASELINE: study.answers()[None]})[0]
    Path(tmp_path, "answers-1.json").write_text(json.dumps(as_record(study, one)))
    assert main(["study", str(tmp_path)]) == 2
    assert "1 participants in the condition 'baseline', expected two or more" in capsys.readouterr().err


def test_the_report_says_who_was_left_out(study, tmp_path, capsys):
    (tmp_path / "study.json").write_text(study.as_json())
    people = as_responses(study, {name: np.repeat(study.answers()[None], 3, 0) for name in study.conditions})
    people[0].answers[0, 0] = -1
    for i, response in enumerate(people):
        (tmp_path / f"answers-{i}.json").write_text(json.dumps(as_record(study, response)))
    assert main(["study", str(tmp_path)]) == 0
    assert "baseline-1 did not finish: 1 of 6 questions without an answer: left out" in capsys.readouterr().err
    page = (tmp_path / "report.html").read_text()
    assert "Wolves &amp; dogs" in page
    assert "<dt>baseline-1</dt><dd>did not finish" in page
    assert "http" not in page.replace("http-equiv", "")
    assert "no response times" in page


def test_the_report_says_by_which_rule(study, tmp_path, capsys):
    """One of each kind; the limits are on the page and in the record, and so is a rule that nobody broke."""
    (tmp_path / "study.json").write_text(study.as_json())
    people = as_responses(study, {name: np.repeat(study.answers()[None], 5, 0) for name in study.conditions})
    people = [r._replace(times=np.full(r.answers.shape, 3.0)) for r in people]
    people[0] = people[0]._replace(times=np.full((2, 3), 0.2))
    people[1] = people[1]._replace(times=np.full((2, 3), 0.2), checks=1 - people[1].checks)
    people[2].times[1, 1] = 90.0
    for i, response in enumerate(people):
        (tmp_path / f"answers-{i}.json").write_text(json.dumps(as_record(study, response)))
    assert main(["study", str(tmp_path), "--min-median-time", "0.5", "--long-time", "60"]) == 0
    assert "baseline-1 gave the median answer after 0.20 s, less than 0.5 s: left out" in capsys.readouterr().err
    results, page = json.loads((tmp_path / "results.json").read_text()), (tmp_path / "report.html").read_text()
    assert results["rules"] == {
        "incomplete": [], "attention": ["baseline-2"], "speed": ["baseline-1", "baseline-2"]
    }  # fmt: skip
    assert (results["min_median_time"], results["long_time"], results["failed_checks"]) == (0.5, 60.0, 0)
    assert results["long_answers"] == {"baseline-3": 1}
    assert results["conditions"][BASELINE]["median_times"] == [3.0] * 3
    counts = re.findall(r'<th scope="row">(incomplete|attention|speed)</th><td>(\d+)</td><td>(.*?)</td>', page)
    assert counts == [
        ("incomplete", "0", "a question without an answer"),
        ("attention", "1", "more than 0 attention checks failed"),
        ("speed", "2", "median answer after less than 0.5 s"),
    ]
    assert "1 answer of 78 took more than 60 s, counted like the others: baseline-3 (1)." in page
    assert main(["study", str(tmp_path)]) == 0
    assert "off: answers may be as fast as can be" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize("given", ["-1", "nan", "soon"])
def test_times_that_are_none(given, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["study", str(tmp_path), "--min-median-time", given])
    assert "expected a number of seconds, at least 0" in capsys.readouterr().err
