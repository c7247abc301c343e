"""Studies: sets that are disjoint and balanced, answers that are graded or refused, and programs that take part."""

import json
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparks_jax.human import (
    BASELINE,
    CONTROL,
    MISSING,
    Shown,
    Study,
    analyse,
    as_record,
    as_responses,
    bottom_up,
    cells,
    check_disjoint,
    check_leakage,
    derangement,
    grade,
    items,
    long_answers,
    majority,
    matching_parts,
    nearest_attended,
    nearest_image,
    noisy_oracle,
    power,
    read_response,
    simulate_studies,
    simulate_users,
    utility,
)

CLASSES = ("wolf", "husky")
POOL = 120
PREDICTIONS, LABELS = np.arange(POOL) % 2, np.arange(POOL) // 2 % 2


def design(**more):
    given = dict(classes=CLASSES, methods=("rise", "saliency"), seed=0) | more
    return Study.design(PREDICTIONS, LABELS, **given)


@pytest.fixture(scope="module")
def study():
    return design()


@pytest.fixture(scope="module")
def small():
    """Without methods to compare, for what is the same for each condition."""
    return design(methods=())


# --- the design ---


def test_the_protocol_of_the_paper(study):
    assert study.conditions == (BASELINE, CONTROL, "rise", "saliency")
    assert study.schedule == (5, 10, 15)
    assert [len(session.questions) for session in study.sessions] == [7, 7, 7]
    assert [len(session.checks) for session in study.sessions] == [1, 1, 1]
    assert len(study.practice) == 3


@settings(deadline=None, max_examples=40)
@given(
    st.integers(2, 4), st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.lists(st.integers(0, 6), min_size=0, max_size=3),
    st.integers(1, 8), st.integers(0, 5), st.integers(0, 9),
)  # fmt: skip
def test_sets_are_disjoint_and_balanced(num_classes, wrong, more, questions, practice, seed):
    i = np.arange(600)
    predictions, labels = i % num_classes, np.where(i // num_classes % 2, (i + 1) % num_classes, i % num_classes)
    schedule = np.cumsum([3, *more]).tolist()
    made = Study.design(
        predictions, labels, classes="abcd"[:num_classes], methods=(), seed=seed, examples=schedule,
        questions=questions, checks=min(1, questions), practice=practice, wrong=wrong,
    )  # fmt: skip
    assert list(made.schedule) == schedule
    assert len(made.practice) == practice
    assert len({item.image for item in items(made)}) == schedule[-1] + questions * len(schedule) + practice
    parts = [part for s in made.sessions for part in (s.examples, s.questions)]
    for part in [*parts, sum(parts[0::2], ()), sum(parts[1::2], ()), made.practice]:
        counts = [sum(item.predicted == c for item in part) for c in range(num_classes)]
        assert max(counts) - min(counts) <= 1
        for c, n in enumerate(counts):
            errors = sum(item.label != c for item in part if item.predicted == c)
            assert abs(errors - wrong * n) < 1
    for item in items(made):
        assert (item.predicted, item.label) == (predictions[item.image], labels[item.image])


def test_a_seed_is_a_study_and_another_seed_another(study):
    assert design() == study
    assert design(seed=1) != study
    assert design(seed=1).identity != study.identity


def test_json_there_and_back(study):
    text = study.as_json()
    assert Study.from_json(text) == study
    assert Study.from_json(text).identity == study.identity
    assert json.loads(text)["seed"] == 0


def test_practice_changes_nothing_else(study):
    """Sessions, pages and allocation are those of a study without; that one is written as before there was any."""
    without = design(practice=0)
    assert without == study._replace(practice=())
    assert (without.pages, without.allocation(9)) == (study.pages, study.allocation(9))
    assert sorted(json.loads(without.as_json())) == ["classes", "format", "methods", "seed", "sessions", "title"]
    assert Study.from_json(without.as_json()) == without
    assert without.identity != study.identity


def test_participants_are_allocated_in_blocks(study):
    allocated = study.allocation(40)
    assert all(set(allocated[i : i + 4]) == set(study.conditions) for i in range(0, 40, 4))
    assert study.allocation(10) == allocated[:10]
    assert len({allocated[i : i + 4] for i in range(0, 40, 4)}) > 1


def test_pages_have_letters_that_say_nothing():
    orders = {tuple(design(seed=seed).pages.values()) for seed in range(8)}
    assert all(set(order) == {BASELINE, CONTROL, "rise", "saliency"} for order in orders)
    assert len(orders) > 1


def test_of_images_that_are_alike_one_is_used():
    groups = np.arange(POOL) // 2
    made = Study.design(
        PREDICTIONS, PREDICTIONS, classes=CLASSES, methods=(), seed=0, groups=groups, wrong=0.0, questions=3
    )
    used = [groups[item.image] for item in items(made)]
    assert len(used) == len(set(used)) == 15 + 9 + 3


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (dict(questions=60), r"too small: the study takes \d+ images that the model calls 'wolf' and is right about"),
        (dict(groups=np.zeros(POOL, int)), "the pool is too small"),
        (dict(examples=(5, 3)), "do not fall"),
        (dict(examples=()), "do not fall"),
        (dict(methods=("control",)), "names that differ"),
        (dict(classes=("wolf", "wolf")), "two or more that differ"),
        (dict(checks=9), "checks no more than those"),
        (dict(practice=-1), "no less than 0 trials"),
        (dict(practice=90), r"too small: the study takes \d+ images"),
        (dict(wrong=1.5), "share in"),
        (dict(groups=np.zeros(3, int)), "one number for each image"),
    ],
)  # fmt: skip
def test_designs_that_cannot_be(more, said):
    with pytest.raises(ValueError, match=said):
        design(**more)


def test_scores_are_not_taken_for_classes():
    with pytest.raises(ValueError, match=r"predictions holds 0\.5, expected indices of classes"):
        Study.design(PREDICTIONS * 0.5, PREDICTIONS, classes=CLASSES, methods=(), seed=0)


def test_a_study_that_shows_an_image_twice_is_refused(study):
    first = study.sessions[0]
    twice = study._replace(sessions=(first._replace(questions=first.examples), *study.sessions[1:]))
    for bad in (twice, study._replace(practice=first.examples[:1]), study._replace(practice=first.questions[:1])):
        with pytest.raises(ValueError, match="the sets of the study overlap: image"):
            check_disjoint(bad)
        with pytest.raises(ValueError, match="overlap"):
            Study.from_json(bad.as_json())


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"format": "other"}', '{"format": "sparks_jax study 1"}'])
def test_what_is_no_study(text):
    with pytest.raises(ValueError, match="this is no study"):
        Study.from_json(text)


def test_leakage_is_found(study):
    pool = np.random.default_rng(0).random((POOL, 6, 6, 3)).astype(np.float32)
    check_leakage(study, pool)
    asked = study.sessions[2].questions[3].image
    for seen in (study.sessions[0].examples[0].image, study.practice[0].image):
        for copy in (pool[seen], pool[seen][:, ::-1], pool[seen] + 0.01):
            bad = pool.copy()
            bad[asked] = copy
            with pytest.raises(ValueError, match=f"question {asked} looks like image {seen}, seen before"):
                check_leakage(study, bad)
    with pytest.raises(ValueError, match="every image that the study uses"):
        check_leakage(study, pool[:5])


# --- answers ---


def rehearsed(study, accuracies, num=12, seed=0):
    parts = jnp.zeros((POOL, 1, 1))
    shown = {name: jnp.ones((POOL, 1)) for name in study.conditions}
    users = {name: noisy_oracle(p) for name, p in zip(study.conditions, accuracies, strict=True)}
    return simulate_users(study, parts, shown, key=jax.random.key(seed), user=users, num_participants=num)


def always_right(study, num):
    return as_responses(study, {name: np.repeat(study.answers()[None], num, 0) for name in study.conditions})


def test_what_a_page_saves_is_read_back(study):
    for response in always_right(study, 2):
        response.answers[:] = np.random.default_rng(0).integers(0, 2, response.answers.shape)
        times = np.random.default_rng(1).integers(1, 9000, response.answers.shape) / 1000  # whole milliseconds
        response = response._replace(practice=np.array([1, MISSING, 0]), times=np.where(times < 1, np.nan, times))
        again = read_response(study, json.loads(json.dumps(as_record(study, response))))
        assert (again.participant, again.condition) == (response.participant, response.condition)
        assert (again.answers == response.answers).all()
        assert (again.checks == response.checks).all()
        assert (again.practice == response.practice).all()
        np.testing.assert_array_equal(again.times, response.times)


def test_practice_counts_for_nothing(study):
    """Right, wrong, not made or not saved: the grades are the same."""
    people = always_right(study, 1)
    said = np.array([item.predicted for item in study.practice])
    graded = grade(study, people)
    for practice in (said, 1 - said, np.full(3, MISSING)):
        of = grade(study, [read_response(study, as_record(study, r._replace(practice=practice))) for r in people])
        assert of.excluded == {}
        assert all((of.correct[name] == graded.correct[name]).all() for name in study.conditions)
    earlier = {name: of for name, of in record(study).items() if name != "practice"}  # saved by a page without any
    assert (read_response(study, earlier).practice == MISSING).all()


def test_answers_of_oracles_are_graded(study):
    answers = rehearsed(study, (0.0, 1.0, 1.0, 0.0), num=3)
    graded = grade(study, as_responses(study, answers))
    assert graded.excluded == {}
    assert [float(graded.correct[name].mean()) for name in study.conditions] == [0.0, 1.0, 1.0, 0.0]
    assert graded.correct["rise"].shape == (3, 3, 7)
    assert graded.participants["control"] == ["control-1", "control-2", "control-3"]


def test_who_is_left_out_and_why(study):
    one, two, three, four = always_right(study, 4)[:4]
    one.answers[1, 2] = MISSING
    two = two._replace(checks=1 - two.checks)
    again = one._replace(participant=three.participant)  # unfinished, then finished
    graded = grade(study, [one, two, again, three, four, four])
    assert graded.excluded == {
        "baseline-1": "did not finish: 1 of 21 questions without an answer",
        "baseline-2": "failed 3 of 3 attention checks",
    }
    assert graded.participants[BASELINE] == ["baseline-3", "baseline-4"]
    assert graded.rules == {"incomplete": ["baseline-1"], "attention": ["baseline-2"], "speed": []}
    assert grade(study, [two], failed_checks=3).excluded == {}
    with pytest.raises(ValueError, match="'baseline-3' gave two different sets of answers"):
        grade(study, [three, four._replace(participant="baseline-3", answers=1 - four.answers)])
    with pytest.raises(ValueError, match="two different sets"):  # nor does who failed try until they pass
        grade(study, [two, three._replace(participant="baseline-2")])


def timed(response, median, seed=0):
    """With times around a median, which 21 of them have exactly."""
    factors = np.random.default_rng(seed).permutation(np.exp(np.linspace(-2, 2, 21)))
    return response._replace(times=(median * factors).reshape(3, 7))


def test_who_is_too_fast_is_left_out_and_counted(study):
    """By the median of all answers: below the limit, not at it; who has no times stays; a rule that is off is off."""
    slow, fast, edge, untimed, unread, unfinished = always_right(study, 6)[:6]
    slow, fast, edge = timed(slow, 4.0), timed(fast, 0.49), timed(edge, 0.5)
    unread = timed(unread, 0.1)._replace(checks=1 - unread.checks)
    unfinished = timed(unfinished, 0.1)
    unfinished.answers[0, 0] = MISSING
    people = [slow, fast, edge, untimed, unread, unfinished]
    graded = grade(study, people, min_median_time=0.5)
    assert graded.participants[BASELINE] == ["baseline-1", "baseline-3", "baseline-4"]
    assert graded.rules == {
        "incomplete": ["baseline-6"], "attention": ["baseline-5"], "speed": ["baseline-2", "baseline-5"],
    }  # fmt: skip
    assert graded.excluded == {
        "baseline-2": "gave the median answer after 0.49 s, less than 0.5 s",
        "baseline-5": "failed 3 of 3 attention checks; gave the median answer after 0.10 s, less than 0.5 s",
        "baseline-6": "did not finish: 1 of 21 questions without an answer",
    }
    np.testing.assert_array_equal(graded.times[BASELINE], [slow.times, edge.times, np.full((3, 7), np.nan)])
    assert graded.times["rise"].shape == (0, 3, 7)
    assert grade(study, people).rules["speed"] == []
    for limit in (-1.0, np.nan):
        with pytest.raises(ValueError, match="expected seconds, 0 or more"):
            grade(study, people, min_median_time=limit)


def test_answers_that_took_long_are_reported_and_count(study):
    slow, _, untimed = always_right(study, 3)[:3]
    graded = grade(study, [timed(slow, 10.0), untimed])
    assert long_answers(graded, 10.0) == {"baseline-1": 10}  # of 21 as many as are above the median
    assert long_answers(graded, 1000.0) == {}
    assert graded.correct[BASELINE].shape == (2, 3, 7)


def record(study):
    return as_record(study, always_right(study, 1)[0])


def changed(study, change):
    of = json.loads(json.dumps(record(study)))
    change(of)
    return of


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda r: r.update(format="x"), "this holds no answers"),
        (lambda r: r.update(study="0123456789ab"), "answers to another study, 0123456789ab, or to an earlier version"),
        (lambda r: r.update(page="Z"), "the page is 'Z', expected one of A, B, C, D"),
        (lambda r: r["sessions"].pop(), "2 sessions, expected 3"),
        (lambda r: r.pop("participant"), "the answers are not whole"),
        (lambda r: r["sessions"][1].pop("questions"), "the answers are not whole"),
        (lambda r: r["sessions"][0]["questions"][0].update(image=9999), "session 1, question about image 9999 was not"),
        (lambda r: r["sessions"][0]["questions"][0].update(answer=7), "is answered 7, expected 0 to 1"),
        (lambda r: r["sessions"][0]["questions"][0].update(answer="wolf"), "is answered 'wolf'"),
        (lambda r: r.update(practice=[{"image": 9999, "answer": 0}]), "practice, image 9999 was not asked"),
        (lambda r: r.update(practice=7), "the answers are not whole"),
        (lambda r: r["sessions"][0]["questions"][0].update(milliseconds=-1), "took -1, expected milliseconds"),
        (lambda r: r["sessions"][0]["questions"][0].update(milliseconds="2 s"), "took '2 s', expected milliseconds"),
        (
            lambda r: (
                r["sessions"][0]["questions"].append({**r["sessions"][0]["questions"][0], "answer": 0})
                or r["sessions"][0]["questions"][0].update(answer=1)
            ),
            "has two answers",
        ),
    ],
)
def test_answers_that_do_not_match(study, change, said):
    with pytest.raises(ValueError, match=said):
        read_response(study, changed(study, change))


def test_no_answers_at_all(study):
    for other in (None, [], "x", 3):
        with pytest.raises(ValueError, match="this holds no answers"):
            read_response(study, other)


def test_analysis_finds_what_was_put_in(study):
    """60 users a group, 21 answers each: the accuracies are within 5 standard errors of those of the oracles."""
    accuracies = dict(zip(study.conditions, (0.6, 0.6, 0.9, 0.6), strict=True))
    graded = grade(study, as_responses(study, rehearsed(study, accuracies.values(), num=60)))
    found = analyse(graded.correct, num_resamples=999)
    for name, p in accuracies.items():
        assert abs(found[name].accuracies.mean() - p) < 5 * (p * (1 - p) / (60 * 21)) ** 0.5
    assert found[BASELINE].utility is None
    value = utility(graded.correct["rise"], graded.correct[BASELINE])
    assert found["rise"].utility.value == pytest.approx(value, rel=1e-12)
    assert found["rise"].utility.interval[0] > 1.2
    assert found["rise"].adjusted == pytest.approx(3 * found["rise"].p)  # the smallest of three
    assert min(found[CONTROL].adjusted, found["saliency"].adjusted) > 0.05


def test_analysis_needs_a_baseline(study):
    with pytest.raises(ValueError, match="Utility is relative to them"):
        analyse({"rise": np.ones((3, 1, 1))})
    alone = analyse({BASELINE: np.ones((3, 2, 1)), "rise": np.ones((1, 2, 1)), "none": np.ones((0, 2, 1))})
    assert alone["rise"].utility is None
    assert np.isnan(alone["none"].accuracies).all()


def test_power_is_what_rehearsals_reject(study):
    """Of 60 studies with 24 users who are right 0.60 and 0.72 of the time, as many find it as `power` says.

    504 independent answers a group give a power of 0.98; within 5 standard deviations, and the test's 0.03.
    """
    rejected, expected = 0, power(0.60, 0.72, 24, questions=21)
    answers = {name: np.asarray(of) for name, of in rehearsed(study, (0.60, 0.72, 0.72, 0.72), num=24 * 60).items()}
    for i in range(60):
        few = {name: answers[name][24 * i : 24 * (i + 1)] == study.answers() for name in (BASELINE, "rise")}
        rejected += analyse(few, num_resamples=199)["rise"].p < 0.05
    assert abs(rejected / 60 - expected) < 5 * (expected * (1 - expected) / 60) ** 0.5 + 0.03


# --- users ---


def biased(study, key=0):
    """Parts of which one, anywhere, says what the model says; the others are noise. And where it is."""
    rng = np.random.default_rng(key)
    parts = rng.uniform(0, 1, (POOL, 16, 2))
    place = rng.integers(0, 16, POOL)
    parts[np.arange(POOL), place] = np.where(PREDICTIONS[:, None], [3.0, 3.0], [3.0, -3.0])
    return jnp.asarray(parts, jnp.float32), jnp.asarray(np.eye(16)[place], jnp.float32)


def shares(study, answers):
    return {name: float((np.asarray(of) == study.answers()).mean()) for name, of in answers.items()}


def test_informative_maps_help_and_the_control_does_not(study):
    """The user that looks for what it was shown is always right; looking everywhere it is misled by what is not it."""
    parts, there = biased(study)
    other = there[derangement(jax.random.key(3), POOL)]
    answers = simulate_users(
        study, parts, {"control": other, "rise": there, "saliency": there * 0}, key=jax.random.key(0),
        user=matching_parts(0.05), num_participants=2,
    )  # fmt: skip
    got = shares(study, answers)
    assert got["rise"] == 1.0
    assert max(got[BASELINE], got[CONTROL]) < 1.0
    assert got["saliency"] == pytest.approx(got[BASELINE])  # a map of zeros is no map


def test_explanations_may_show_more_than_the_image(study):
    """Where the map says nothing, an example of the concept beside it tells as much."""
    parts, there = biased(study)
    told = jnp.where(PREDICTIONS[:, None, None] == 1, jnp.array([3.0, 3.0]), jnp.array([3.0, -3.0]))
    crops = Shown(jnp.concatenate([parts, told.reshape(POOL, 1, 2)], 1), jnp.ones((POOL, 17)).at[:, :16].set(0.0))
    shown = {"control": there * 0, "rise": crops, "saliency": there}
    answers = simulate_users(study, parts, shown, key=jax.random.key(0), user=matching_parts(), num_participants=1)
    assert shares(study, answers)["rise"] == 1.0


@pytest.mark.parametrize("user", [majority, nearest_image])
def test_users_who_look_at_no_map_gain_nothing_from_it(small, user):
    parts, there = biased(small)
    answers = simulate_users(small, parts, {CONTROL: there}, key=jax.random.key(0), user=user, num_participants=1)
    if user is nearest_image:
        assert (answers[CONTROL] == answers[BASELINE]).all()
    else:  # of five examples and of fifteen one class is in the majority; ten are a tie
        for of in answers.values():
            assert len(set(np.asarray(of[0, 0]))) == len(set(np.asarray(of[0, 2]))) == 1


def test_masked_features_are_those_that_the_map_points_at(small):
    """Where maps point at what tells, examples are one of two points, and new images lean to theirs, above noise."""
    parts, there = biased(small)
    parts = jnp.where(there[..., None] > 0, 2 * parts, parts - 0.5)  # what says nothing is 0 on average
    user = lambda user, shown: simulate_users(
        small, parts, {CONTROL: shown}, user=user, key=jax.random.key(0), num_participants=1
    )
    assert shares(small, user(nearest_attended, there))[CONTROL] == 1.0
    alike = user(nearest_image, there)[BASELINE]
    for answers in (user(nearest_attended, there)[BASELINE], user(nearest_attended, there * 0)[CONTROL]):
        assert (answers == alike).all()  # attention that is the same everywhere masks nothing


def test_several_studies_are_each_of_them(small):
    """Users that leave nothing to chance answer a study among others as they answer it alone; of its own images."""
    parts, there = biased(small)
    many = [small, design(methods=(), seed=1), design(methods=(), seed=2)]
    more = Shown(jnp.concatenate([parts, parts], 1), jnp.concatenate([there, there], 1))
    for shown in (there, more):
        given = dict(user=matching_parts(), key=jax.random.key(0), num_participants=2)
        got = simulate_studies(many, parts, {CONTROL: shown}, **given)
        for i, one in enumerate(many):
            alone = simulate_users(one, parts, {CONTROL: shown}, **given)
            assert all((got[name][i] == alone[name]).all() for name in one.conditions)
        assert list(got) == [BASELINE, CONTROL]
    found = analyse({name: np.moveaxis(of == np.stack([s.answers() for s in many])[:, None], 1, 2)
                     for name, of in jax.tree.map(np.asarray, got).items()}, num_resamples=99)  # fmt: skip
    assert found[CONTROL].participants == 3  # a row is a study
    with pytest.raises(ValueError, match="expected one design"):
        simulate_studies([small, design(methods=(), questions=5)], parts, {CONTROL: there}, **given)
    with pytest.raises(ValueError, match="no explanations for control"):
        simulate_studies(many, parts, {}, **given)


@pytest.mark.parametrize("more", [dict(memory=0.0), dict(lapse=1.0)], ids=str)
def test_nothing_remembered_and_nothing_heeded_is_chance(small, more):
    """Answers of 200 users to 21 questions are right half the time, within 5 standard deviations."""
    parts, there = biased(small)
    given = dict(key=jax.random.key(0), user=nearest_image, num_participants=200)
    answers = simulate_users(small, parts, {CONTROL: there}, **given, **more)
    assert abs(shares(small, answers)[CONTROL] - 0.5) < 5 * (0.25 / 4200) ** 0.5


def test_the_key_decides_and_jit_changes_nothing(small):
    parts, there = biased(small)
    given = dict(user=matching_parts(), num_participants=3, memory=0.5, lapse=0.3)
    run = jax.jit(lambda key: simulate_users(small, parts, {CONTROL: there}, key=key, **given))
    first, again, other = run(jax.random.key(0)), run(jax.random.key(0)), run(jax.random.key(1))
    assert all((first[name] == again[name]).all() for name in first)
    assert any((first[name] != other[name]).any() for name in first)
    eager = simulate_users(small, parts, {CONTROL: there}, key=jax.random.key(0), **given)
    assert all((first[name] == eager[name]).all() for name in first)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda given: given.update(shown={"rise": jnp.ones((POOL, 16))}), "no explanations for control, saliency"),
        (lambda given: given.update(memory=2.0), "two probabilities"),
        (lambda given: given.update(parts=jnp.ones((3, 16, 2))), "every image of the pool"),
        (lambda given: given["shown"].update(control=jnp.ones((POOL, 3))), "every image of the pool"),
    ],
)  # fmt: skip
def test_simulations_that_cannot_be(study, change, said):
    parts, there = biased(study)
    given = dict(parts=parts, shown={name: there for name in study.conditions[1:]})
    change(given)
    with pytest.raises(ValueError, match=said):
        simulate_users(study, key=jax.random.key(0), user=majority, num_participants=1, **given)


def test_cells_are_means():
    x = jnp.arange(2 * 7 * 5 * 3.0).reshape(2, 7, 5, 3)
    got = cells(x, 3)
    rows, columns = [slice(0, 3), slice(3, 5), slice(5, 7)], [slice(0, 2), slice(2, 4), slice(4, 5)]
    want = jnp.stack([x[:, r, c].mean((1, 2)) for r in rows for c in columns], 1)
    assert jnp.allclose(got, want, rtol=1e-6)
    with pytest.raises(ValueError, match="a grid of 9"):
        cells(x, 9)


# --- controls ---


def test_derangements_move_everything():
    for n in (2, 3, 10):
        places = np.asarray(derangement(jax.random.key(n), n))
        assert Counter(places.tolist()) == Counter(range(n))
        assert (places != np.arange(n)).all()
    with pytest.raises(ValueError, match="two or more"):
        derangement(jax.random.key(0), 1)


def test_the_control_sees_what_stands_out():
    """A square on faint noise, wherever it is; and it is finite on an image of nothing."""
    noise = 0.5 + 0.02 * jax.random.normal(jax.random.key(0), (32, 32, 3))
    for row, column in ((5, 20), (18, 9)):
        a = bottom_up(noise.at[row : row + 4, column : column + 4].set(0.9))
        peak = np.unravel_index(int(a.argmax()), a.shape)
        assert max(abs(peak[0] - row - 1.5), abs(peak[1] - column - 1.5)) <= 2.5
    assert jnp.isfinite(bottom_up(jnp.zeros((32, 32, 3)))).all()
