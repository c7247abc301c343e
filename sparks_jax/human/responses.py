"""From what participants answered to what it means: graded, with the reasons for everybody who is left out."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from sparks_jax.human.study import BASELINE, Study
from sparks_jax.human.utility import Utility, holm, utility_interval, utility_test

FORMAT = "sparks_jax answers 1"
MISSING = -1  # in place of an answer
RULES = INCOMPLETE, ATTENTION, SPEED = "incomplete", "attention", "speed"  # by which participants are left out


class Response(NamedTuple):
    """What one participant answered.

    Attributes:
        participant: The code that they gave.
        condition: What they saw.
        answers: `(sessions, questions)` classes in the order of the study; `MISSING` where there is none.
        checks: `(sessions, checks)` classes.
        practice: `(trials,)` classes, in the order of the study; None where nothing is known of them.
        times: `(sessions, questions)` seconds that each answer took; NaN, or None for all, where that is not known.
    """

    participant: str
    condition: str
    answers: Int[np.ndarray, "s q"]
    checks: Int[np.ndarray, "s c"]
    practice: Int[np.ndarray, " t"] | None = None
    times: Float[np.ndarray, "s q"] | None = None


class Graded(NamedTuple):
    """All participants whose answers count, by condition.

    Attributes:
        correct: `(participants, sessions, questions)` of each condition.
        participants: Their codes.
        excluded: Who was left out, and why.
        rules: From each of `RULES` to who broke it: none or several; who did not finish broke no other.
        times: As `correct`, seconds that each answer took; NaN where that is not known.
    """

    correct: dict[str, Bool[np.ndarray, "p s q"]]
    participants: dict[str, list[str]]
    excluded: dict[str, str]
    rules: dict[str, list[str]]
    times: dict[str, Float[np.ndarray, "p s q"]]


class Finding(NamedTuple):
    """What a study says of one condition.

    Attributes:
        participants: How many.
        accuracies: `(s,)` share of right answers in each session.
        utility: Against the baseline; None of the baseline itself.
        p: Probability of such a difference by chance, of one comparison.
        adjusted: The same, of all comparisons (Holm).
    """

    participants: int
    accuracies: Float[np.ndarray, " s"]
    utility: Utility | None = None
    p: float | None = None
    adjusted: float | None = None


def as_record(study: Study, response: Response) -> dict[str, Any]:
    """Answers as the page of the questionnaire saves them, in JSON's types.

    Args:
        study: The study.
        response: The answers.

    Example:
        >>> from sparks_jax.human.study import Item, Session
        >>> study = Study("t", ("a", "b"), (), (Session((), (Item(7, 0, 1),), ()),), 0)
        >>> mine = Response("07", "control", np.array([[1]]), np.zeros((1, 0), int))
        >>> as_record(study, mine)["sessions"]
        [{'questions': [{'image': 7, 'answer': 1}], 'checks': []}]
        >>> read_response(study, as_record(study, mine)).answers.tolist()
        [[1]]

    Reference:
        Colin et al. 2022, arXiv:2112.04417.
    """
    sessions = [
        {
            "questions": _given("image", [item.image for item in session.questions], answers, times),
            "checks": _given("before", [check.before for check in session.checks], checks),
        }
        for session, answers, checks, times in zip(
            study.sessions, response.answers, response.checks, _times(response), strict=True
        )
    ]
    asked = [item.image for item in study.practice]
    tried = [] if response.practice is None else _given("image", asked, response.practice)
    letter = next(letter for letter, condition in study.pages.items() if condition == response.condition)
    return {
        "format": FORMAT, "study": study.identity, "page": letter, "participant": response.participant,
        "practice": tried, "sessions": sessions,
    }  # fmt: skip


def read_response(study: Study, record: Any) -> Response:
    """The answers that a page of the questionnaire saved.

    Args:
        study: The study that they are answers to.
        record: What its JSON holds.

    Raises:
        ValueError: If it is no such record, or of another study, or has answers to what was not asked.

    Example:
        >>> read_response(Study("Wolves", ("a", "b"), (), (), 0), {"format": FORMAT, "study": "0f"})
        Traceback (most recent call last):
        ValueError: these are answers to another study, 0f, or to an earlier version of it: 'Wolves' is ...

    Reference:
        Colin et al. 2022, arXiv:2112.04417.
    """
    if not isinstance(record, Mapping) or record.get("format") != FORMAT:
        raise ValueError(f"this holds no answers: expected an object with format {FORMAT!r}, as the page saves it")
    if record.get("study") != study.identity:
        raise ValueError(
            f"these are answers to another study, {record.get('study')}, or to an earlier version of it: "
            f"{study.title!r} is {study.identity}"
        )
    condition = study.pages.get(record.get("page", ""))
    if condition is None:
        raise ValueError(f"the page is {record.get('page')!r}, expected one of {', '.join(study.pages)}")
    try:
        given = record["sessions"]
        if len(given) != len(study.sessions):
            raise ValueError(f"{len(given)} sessions, expected {len(study.sessions)}")
        questions, checks, times = [], [], []
        for i, (session, of) in enumerate(zip(study.sessions, given, strict=True)):
            asked = [item.image for item in session.questions]
            told = [check.before for check in session.checks]
            questions.append(_placed(of["questions"], "image", asked, study, f"session {i + 1}, question about image"))
            checks.append(_placed(of["checks"], "before", told, study, f"session {i + 1}, check before question"))
            times.append(_timed(of["questions"], asked, f"session {i + 1}, question about image"))
        tried = [item.image for item in study.practice]
        practice = _placed(record.get("practice", ()), "image", tried, study, "practice, image")
        code = str(record["participant"])
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"the answers are not whole, {error!r} is missing or of another type") from None
    checks = np.array(checks, int).reshape(len(questions), -1)
    return Response(code, condition, np.array(questions, int), checks, np.array(practice, int), np.array(times, float))


def grade(
    study: Study, responses: Iterable[Response], *, failed_checks: int = 0, min_median_time: float = 0.0
) -> Graded:
    """Which answers are right, of everybody who finished, read the questions and took time for them.

    Rules are for all answers or none of a participant; say them before anybody is asked.

    Args:
        study: The study.
        responses: Of all participants, in any order; the same answers given twice count once.
        failed_checks: How many attention checks a participant may fail.
        min_median_time: Seconds that the median answer of a participant takes at least; who has no times is kept. 0:
            everybody is.

    Raises:
        ValueError: If a participant finished twice, with different answers: which ones count? Or for a time below 0.

    Example:
        >>> from sparks_jax.human.study import Check, Item, Session
        >>> study = Study("t", ("a", "b"), (), (Session((), (Item(7, 1, 1),), (Check(0, 0),)),), 0)
        >>> one = Response("1", "baseline", np.array([[1]]), np.array([[0]]))
        >>> graded = grade(study, [one, one._replace(participant="2", checks=np.array([[1]]))])
        >>> graded.correct["baseline"].tolist(), graded.excluded
        ([[[True]]], {'2': 'failed 1 of 1 attention checks'})
        >>> grade(study, [one._replace(times=np.array([[0.2]]))], min_median_time=0.5).excluded
        {'1': 'gave the median answer after 0.20 s, less than 0.5 s'}

    Reference:
        Colin et al. 2022, arXiv:2112.04417.
    """
    if not min_median_time >= 0:
        raise ValueError(f"grade: min_median_time is {min_median_time}, expected seconds, 0 or more; 0: nobody is out")
    finished, unfinished = {}, {}
    for response in responses:
        if (response.answers == MISSING).any():
            unfinished[response.participant] = response
        elif not _same(finished.setdefault(response.participant, response), response):
            raise ValueError(
                f"participant {response.participant!r} gave two different sets of answers; leave out the files that do "
                "not count, or tell two people apart by their codes"
            )
    told = np.array([[check.answer for check in session.checks] for session in study.sessions])
    broken = {  # who finished later did finish
        name: _broken(response, told, failed_checks, min_median_time)
        for name, response in (unfinished | finished).items()
    }
    counted = [response for name, response in finished.items() if not broken[name]]
    of = {name: [r for r in counted if r.condition == name] for name in study.conditions}
    right = study.answers()
    stacked = lambda rows: np.array(rows).reshape(-1, *right.shape)
    return Graded(
        {name: stacked([r.answers == right for r in group]).astype(bool) for name, group in of.items()},
        {name: [r.participant for r in group] for name, group in of.items()},
        {name: "; ".join(reasons.values()) for name, reasons in broken.items() if reasons},
        {rule: [name for name, reasons in broken.items() if rule in reasons] for rule in RULES},
        {name: stacked([_times(r) for r in group]).astype(float) for name, group in of.items()},
    )


def long_answers(graded: Graded, long_time: float) -> dict[str, int]:
    """How many answers of each participant took longer than a time, of those who gave one: looked away, or thought?

    They count as the others do: whether a hard question takes long is part of what is measured.

    Args:
        graded: The answers.
        long_time: Seconds.

    Example:
        >>> times = {"baseline": np.array([[[3.0, 200.0]], [[np.nan, 4.0]]])}
        >>> long_answers(Graded({}, {"baseline": ["1", "2"]}, {}, {}, times), 120.0)
        {'1': 1}

    Reference:
        Ratcliff 1993, Methods for dealing with reaction time outliers, Psychological Bulletin 114.
    """
    counts = {
        participant: int((times > long_time).sum())
        for condition, group in graded.participants.items()
        for participant, times in zip(group, graded.times[condition], strict=True)
    }
    return {participant: n for participant, n in counts.items() if n}


def analyse(
    correct: Mapping[str, Any], *, seed: int = 0, num_resamples: int = 9999, level: float = 0.95
) -> dict[str, Finding]:
    """Utility of every condition against the baseline, with intervals, tests, and the tests adjusted for their number.

    Args:
        correct: `(participants, sessions, …)` of each condition, with `BASELINE` among them: `Graded.correct`.
            Conditions with fewer than two participants get their accuracies only.
        seed: Of the bootstraps and the tests.
        num_resamples: Of each.
        level: Probability of the intervals.

    Raises:
        ValueError: If there is no baseline, or it has fewer than two participants.

    Example:
        >>> right = {"baseline": [[[0]], [[1]], [[1]], [[0]]], "rise": [[[1]], [[1]], [[1]], [[1]]]}
        >>> found = analyse(right)["rise"]
        >>> found.utility.value, round(found.p, 3), round(found.adjusted, 3)
        (2.0, 0.429, 0.429)

    Reference:
        Colin et al. 2022, arXiv:2112.04417. Holm 1979, A simple sequentially rejective multiple test procedure.
    """
    groups = {name: np.asarray(answers, float) for name, answers in correct.items()}
    if len(groups.get(BASELINE, ())) < 2:
        raise ValueError(
            f"analyse: {len(groups.get(BASELINE, ()))} participants in the condition {BASELINE!r}, expected two or "
            "more: Utility is relative to them"
        )
    found = {
        name: Finding(len(a), a.reshape(*a.shape[:2], -1).mean((0, 2)) if len(a) else np.full(a.shape[1], np.nan))
        for name, a in groups.items()
    }
    compared = [name for name, a in groups.items() if name != BASELINE and len(a) > 1]
    p = [utility_test(groups[name], groups[BASELINE], seed=seed, num_resamples=num_resamples) for name in compared]
    for name, alone, together in zip(compared, p, holm(p), strict=True):
        u = utility_interval(groups[name], groups[BASELINE], seed=seed, num_bootstraps=num_resamples, level=level)
        found[name] = found[name]._replace(utility=u, p=alone, adjusted=float(together))
    return found


def _given(by: str, asked: Sequence[int], answers: Any, times: Any = None) -> list[dict[str, int]]:
    """What was answered, each answer with what it is an answer to, and how long it took if that is known."""
    times = np.full(len(asked), np.nan) if times is None else times
    return [
        {by: place, "answer": int(a)} | ({"milliseconds": round(1000 * float(t))} if np.isfinite(t) else {})
        for place, a, t in zip(asked, answers, times, strict=True)
        if a != MISSING
    ]


def _placed(given: Sequence[Any], by: str, asked: list[int], study: Study, what: str) -> list[int]:
    """Answers in the order of the study; `MISSING` where there is none."""
    answers = dict.fromkeys(asked, MISSING)
    for entry in given:
        place, answer = entry[by], entry["answer"]
        if place not in answers:
            raise ValueError(f"{what} {place} was not asked")
        if not isinstance(answer, int) or not 0 <= answer < len(study.classes):
            raise ValueError(f"{what} {place} is answered {answer!r}, expected 0 to {len(study.classes) - 1}")
        if answers[place] not in (MISSING, answer):
            raise ValueError(f"{what} {place} has two answers")
        answers[place] = answer
    return list(answers.values())


def _timed(given: Sequence[Any], asked: list[int], what: str) -> list[float]:
    """Seconds, in the order of the study."""
    times = dict.fromkeys(asked, np.nan)
    for entry in given:
        taken = entry.get("milliseconds", np.nan)
        if not isinstance(taken, int | float) or taken < 0:
            raise ValueError(f"{what} {entry['image']} took {taken!r}, expected milliseconds")
        times[entry["image"]] = taken / 1000
    return [*times.values()]


def _times(response: Response) -> Float[np.ndarray, "s q"]:
    return np.full(response.answers.shape, np.nan) if response.times is None else response.times


def _broken(response: Response, told: np.ndarray, failed_checks: int, min_median_time: float) -> dict[str, str]:
    """Reasons to leave a participant out, by rule."""
    missing = int((response.answers == MISSING).sum())
    if missing:
        return {INCOMPLETE: f"did not finish: {missing} of {response.answers.size} questions without an answer"}
    reasons = {}
    failed = int((response.checks != told).sum()) if told.size else 0
    if failed > failed_checks:
        reasons[ATTENTION] = f"failed {failed} of {told.size} attention checks"
    times = _times(response)
    if np.isfinite(times).any() and (median := np.nanmedian(times)) < min_median_time:
        reasons[SPEED] = f"gave the median answer after {median:.2f} s, less than {min_median_time:g} s"
    return reasons


def _same(a: Response, b: Response) -> bool:
    return a.condition == b.condition and np.array_equal(a.answers, b.answers) and np.array_equal(a.checks, b.checks)
