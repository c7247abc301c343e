"""The pages of a study: one HTML file for each condition, which works from disk and asks nothing of the network."""

import base64
import html
import io
import json
from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

import sparks_jax
from sparks_jax import viz
from sparks_jax.human.leakage import check_leakage
from sparks_jax.human.responses import FORMAT
from sparks_jax.human.study import BASELINE, Item, Study, items
from sparks_jax.jobs import outputs

SIDE = 384  # of a picture in a page, at most
LOSSLESS = 128  # pictures no larger than this are kept to the pixel
QUALITY = 80  # of the others, WebP
STUDY = "study.json"
LEGEND = "The second picture shows where the model looked: the brighter a place, the more it mattered."


def export(
    study: Study,
    images: Any,
    explanations: Mapping[str, Any],
    out: Path | str,
    *,
    legend: str = LEGEND,
    force: bool = False,
) -> list[Path]:
    """Write the pages of a study and `study.json`, which grades the answers.

    The pages are called by letters that say nothing to who is asked, and hold no answer to a question that counts.

    Args:
        study: The study.
        images: `(n h w c)` the pool, in [0, 1].
        explanations: As in `page`, of every condition but the baseline.
        out: Folder of the study; answers are collected there, too.
        legend: What participants are told that an explanation is.
        force: Whether what is there is replaced.

    Returns:
        The pages.

    Raises:
        ValueError: If an image that is asked about looks like one seen before, if pixels or maps cannot be shown as
            they are, or an explanation is missing.
        FileExistsError: If the folder holds something, without `force`.
    """
    out = Path(out)
    check_leakage(study, images)
    _check(study, images, explanations)
    outputs.check(out, force=force)
    pages = {
        f"page-{letter}.html": page(study, name, images, explanations, legend=legend)
        for letter, name in study.pages.items()
    }
    for name, text in pages.items():
        outputs.write(out / name, text.encode())
    outputs.write(out / STUDY, study.as_json().encode())
    return [out / name for name in pages]


def page(study: Study, condition: str, images: Any, explanations: Mapping[str, Any], *, legend: str = LEGEND) -> str:
    """The page of one condition, as text.

    Args:
        study: The study.
        condition: One of its conditions.
        images: `(n h w c)` the pool, in [0, 1].
        explanations: From a condition to the explanation of each image of the pool, by its index: maps `(n h w)`, all
            drawn with the colours and the range of `stimulus`, or pictures `(n h w 3)` in [0, 1], shown as they are.
        legend: What participants are told that an explanation is.

    Raises:
        ValueError: For an unknown condition, or one without explanations.
    """
    if condition not in study.conditions:
        raise ValueError(f"there is no condition {condition!r}; it is one of {', '.join(study.conditions)}")
    if condition != BASELINE and condition not in explanations:
        raise ValueError(f"condition {condition!r} has no explanations, expected a map of each image of the pool")
    shown = None if condition == BASELINE else explanations[condition]
    examples = [item.image for session in study.sessions for item in session.examples]
    held = {
        "format": FORMAT,
        "study": study.identity,
        "page": next(letter for letter, name in study.pages.items() if name == condition),
        "title": study.title,
        "classes": study.classes,
        "legend": None if shown is None else legend,
        "practice": _told(study.practice),
        "sessions": [
            {
                "examples": _told(session.examples),
                "questions": _in_order(session.questions),
                "checks": [check._asdict() for check in session.checks],
                "sheet": seen,
            }
            for session, seen in zip(study.sessions, study.schedule, strict=True)
        ],
        "pictures": {item.image: source(viz.rgb(np.asarray(images[item.image]))) for item in items(study)},
        "explanations": {} if shown is None else {i: source(stimulus(images[i], shown[i])) for i in examples},
    }
    return _fill(study.title, held)


def stimulus(image: Any, explanation: Any) -> np.ndarray:
    """An explanation as it is shown, RGB in [0, 1]: maps over their image in grey, all with the same colours and range.

    The colours go from the 0.5th to the 99.5th percentile of the map, whatever made it, so that no method is brighter
    than another; a map of another size is resized. Pictures `(h w 3)` stay as they are.

    Args:
        image: `(h w c)` in [0, 1].
        explanation: A map `(h w)`, larger where more important, or a picture `(h w 3)`.

    Raises:
        ValueError: For other shapes.

    Example:
        >>> image, ramp = np.ones((4, 4, 3)), np.arange(16.0).reshape(4, 4)
        >>> bool(np.allclose(stimulus(image, ramp), stimulus(image, 7 * ramp - 3)))
        True
    """
    given = np.asarray(explanation)
    if given.ndim == 3 and given.shape[2] in (1, 3):
        return viz.rgb(given)
    if given.ndim != 2:
        raise ValueError(f"an explanation has shape {given.shape}, expected a map (h, w) or a picture (h, w, 3)")
    pixels = viz.rgb(np.asarray(image))
    return viz.overlay(pixels, _resized(given, pixels.shape[:2]))


def source(pixels: np.ndarray) -> str:
    """A picture as a `data:` address: small ones to the pixel, others no larger than `SIDE` and as WebP.

    Example:
        >>> source(np.zeros((2, 2, 3)))[:22], source(np.zeros((200, 200, 3)))[:23]
        ('data:image/png;base64,', 'data:image/webp;base64,')
    """
    from PIL import Image

    picture = Image.fromarray(np.round(255 * np.asarray(pixels)).astype(np.uint8))
    small = max(picture.size) <= LOSSLESS
    picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    if small:
        picture.save(buffer, "PNG", optimize=True)
    else:
        picture.save(buffer, "WEBP", quality=QUALITY)
    kind = "png" if small else "webp"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _check(study: Study, images: Any, explanations: Mapping[str, Any]) -> None:
    """Refuse what could not be shown as it is, before a page is written."""
    pixels = np.asarray([images[item.image] for item in items(study)])
    if not (pixels.min() >= 0 and pixels.max() <= 1):  # NaN compares as false
        raise ValueError(f"images hold values from {pixels.min():g} to {pixels.max():g}, expected pixels in [0, 1]")
    for name in sorted(explanations.keys() - set(study.conditions)):
        raise ValueError(f"explanations has {name!r}, which is none of the conditions {', '.join(study.conditions)}")
    examples = [item.image for session in study.sessions for item in session.examples]
    for name, of in explanations.items():
        for i in examples:
            try:
                finite = np.isfinite(np.asarray(of[i])).all()
            except LookupError:  # an array that is too short, or a mapping without it
                raise ValueError(f"condition {name!r} has no explanation of image {i} of the pool") from None
            if not finite:
                raise ValueError(f"condition {name!r}: the explanation of image {i} holds NaN or infinite values")


def _told(items: tuple[Item, ...]) -> list[dict[str, int]]:
    """With what the model says of them."""
    return [{"image": item.image, "answer": item.predicted} for item in items]


def _in_order(questions: tuple[Item, ...]) -> list[int]:
    """Without what the model says of them: a page holds no answers."""
    return [item.image for item in questions]


def _resized(a: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    from PIL import Image

    if a.shape == shape:
        return a
    height, width = shape
    values = Image.fromarray(np.asarray(a, np.float32))
    return np.asarray(values.resize((width, height), Image.Resampling.BILINEAR))


def _fill(title: str, held: Mapping[str, Any]) -> str:
    here = Path(__file__).parent
    read = lambda name: (here / name).read_text(encoding="utf-8")
    text = json.dumps(held, ensure_ascii=False, separators=(",", ":"))
    return Template(read("questionnaire.html")).substitute(
        version=sparks_jax.__version__,
        title=html.escape(title),
        style=read("report.css") + read("questionnaire.css"),
        data=text.replace("<", "\\u003c"),  # nothing in the data ends the script that holds it
        script=read("questionnaire.js"),
    )
