"""`sparks study`: from the answers that participants saved to a page about what their explanations were worth."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sparks_jax.human.responses import Finding, Graded, Response, analyse, grade, long_answers, read_response
from sparks_jax.human.study import Study
from sparks_jax.jobs import outputs, study_page
from sparks_jax.jobs.questionnaire import STUDY
from sparks_jax.jobs.study_page import medians
from sparks_jax.jobs.versions import versions

REPORT, RESULTS = "report.html", "results.json"
ANSWERS = "answers-*.json"  # as the page calls what it saves
RESAMPLINGS = 9999

Say = Callable[[str], None]


class Settings(NamedTuple):
    """What a run is asked to do; the defaults are those of the command line.

    Attributes:
        folder: Of the study, as `questionnaire.export` made it.
        answers: Files, and folders of them; none: those in the folder of the study.
        failed_checks: How many attention checks a participant may fail.
        min_median_time: Seconds that the median answer of a participant takes at least; 0: nobody is left out for it.
        long_time: Seconds beyond which an answer is reported as long; it counts.
        seed: Of the bootstraps and the tests.
        quiet: Say nothing of who was left out.
    """

    folder: Path
    answers: tuple[Path, ...] = ()
    failed_checks: int = 0
    min_median_time: float = 0.0
    long_time: float = 120.0
    seed: int = 0
    quiet: bool = False


def run(settings: Settings, *, say: Say) -> int:
    """Grade the answers, and write a page and a record beside the study.

    Args:
        settings: What to do.
        say: Takes a sentence about everybody who was left out; where the page is, is printed.

    Returns:
        0.

    Raises:
        ValueError: If a file does not match the study, or there are too few participants.
        FileNotFoundError: If there is no study, or there are no answers.
    """
    study = read_study(settings.folder)
    rules = {"failed_checks": settings.failed_checks, "min_median_time": settings.min_median_time}
    graded = grade(study, read_answers(study, settings.answers or (settings.folder,)), **rules)
    for participant, reason in {} if settings.quiet else graded.excluded.items():
        say(f"{participant} {reason}: left out")
    found = analyse(graded.correct, seed=settings.seed, num_resamples=RESAMPLINGS)
    about = {"seed": settings.seed, **rules, "long_time": settings.long_time, "versions": versions()}
    page = study_page.page(study, graded, found, about)
    outputs.write(settings.folder / REPORT, page.encode())
    outputs.write(settings.folder / RESULTS, outputs.as_json(record(study, graded, found, settings.long_time) | about))
    print(f"The report is {settings.folder / REPORT}")
    return 0


def read_study(folder: Path | str) -> Study:
    """The study of a folder.

    Args:
        folder: Where `questionnaire.export` wrote it.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is not whole.
    """
    path = Path(folder) / STUDY
    if not path.is_file():
        raise FileNotFoundError(f"no {STUDY} in {folder}, which jobs.questionnaire.export writes beside the pages")
    return Study.from_json(path.read_text(encoding="utf-8"))


def read_answers(study: Study, places: Iterable[Path | str]) -> list[Response]:
    """Everything that participants saved.

    Args:
        study: The study that it is about.
        places: Files, and folders, in which all `answers-*.json` are read.

    Raises:
        FileNotFoundError: If there are none.
        ValueError: With the name of every file that does not match the study, and why.
    """
    paths: list[Path] = []
    for place in map(Path, places):
        paths += sorted(place.rglob(ANSWERS)) if place.is_dir() else [place]
    if not paths:
        raise FileNotFoundError(f"no answers: expected files {ANSWERS}, as the pages save them")
    found, wrong = [], []
    for path in paths:
        try:
            found.append(read_response(study, json.loads(path.read_text(encoding="utf-8"))))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            wrong.append(f"{path}: this is no JSON, or is cut off ({error})")
        except ValueError as error:
            wrong.append(f"{path}: {error}")
    if wrong:
        raise ValueError(
            f"{len(wrong)} of {len(paths)} files do not match the study: {'; '.join(wrong)}. Leave them out, or give "
            "the folder of the study that they belong to"
        )
    return found


def record(study: Study, graded: Graded, found: dict[str, Finding], long_time: float) -> dict[str, Any]:
    """All numbers of the page, for JSON.

    Args:
        study: The study.
        graded: The answers.
        found: What they say.
        long_time: Seconds beyond which an answer is long.
    """
    conditions = {
        name: {
            "participants": graded.participants[name],
            "median_times": _numbers(medians(graded.times[name])),
            "accuracies": one.accuracies.tolist() if one.participants else None,
            "utility": None if one.utility is None else one.utility.value,
            "utility_interval": None if one.utility is None else one.utility.interval.tolist(),
            "session_utilities": None if one.utility is None else _numbers(one.utility.sessions),
            "session_intervals": None if one.utility is None else [*map(_numbers, one.utility.session_intervals)],
            "p": one.p,
            "p_holm": one.adjusted,
        }
        for name, one in found.items()
    }
    return {
        "study": study.identity, "title": study.title, "conditions": conditions, "excluded": graded.excluded,
        "rules": graded.rules, "long_answers": long_answers(graded, long_time),
    }  # fmt: skip


def _numbers(values: np.ndarray) -> list[float | None]:
    """As JSON knows them: NaN is null."""
    return [float(v) if np.isfinite(v) else None for v in values]
