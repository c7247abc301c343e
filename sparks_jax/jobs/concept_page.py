"""The part of the page about concepts: for each, where it is, the crops that have most of it, and what it adds."""

import html
from collections.abc import Callable
from typing import Any

import numpy as np

from sparks_jax import viz
from sparks_jax.jobs.concepts import SHOWN, Seen
from sparks_jax.jobs.pictures import Picture, enlarge

WIDTH, HEIGHT = 320, 34  # of a bar, in the units of its drawing
LIMIT = 1.96  # standard errors on each side of a mean: 95 %
Draw = Callable[..., str]


def section(seen: Seen, picture: Picture, label: str, draw: Draw) -> str:
    """The section of a picture.

    Args:
        seen: From `concepts.look`.
        picture: The picture.
        label: The class, as it is called.
        draw: From pixels, words for those who do not see them, and a kind of file, to an `img`.
    """
    low, high = _range(seen)
    rows = "".join(_row(seen, picture, place, (low, high), draw) for place in range(min(SHOWN, len(seen.values))))
    return f"""<div class="measured"><h3>What the network saw</h3>
<p class="about">{_lead(seen, html.escape(label))}</p>
<ol class="concepts" aria-label="Concepts">{rows}</ol>
<p class="about">{_legend(seen)}</p></div>"""


def _lead(seen: Seen, label: str) -> str:
    method = {"nmf": "non-negative", "semi_nmf": "semi-non-negative"}[seen.method]
    if seen.own:
        because = f" ({html.escape(seen.note)})" if seen.note else " (no <code>--data</code> was given)"
        where = (
            f"The concepts are parts of this one picture, found in {seen.num_views} crops of it by {method} matrix "
            f"factorization{because}; give images of the class for those that it shares."
        )
    else:
        where = (
            f"The concepts are what {seen.num_images} images that the network takes for <strong>{label}</strong> have "
            f"in common, found in {seen.num_views} crops of them by {method} matrix factorization"
            f" ({html.escape(seen.note)})."
        )
    return (
        f"{where} Together the {len(seen.values)} concepts make {_number(seen.explained)} of the score of "
        f"{_number(seen.score)} that the class has in this picture."
    )


def _legend(seen: Seen) -> str:
    parts = ["Bars: what a concept adds to the score of the class in this picture, all others being there or not"]
    if seen.exact:
        parts[0] += ", exactly: after the layer that is looked at, the network adds up"
    elif seen.bounds is None:
        parts[0] = "Bars: what a concept adds to the score of the class in this picture, by integrated gradients"
    else:
        parts[0] = (
            "Bars: what a concept adds to the score of the class in this picture, by integrated gradients; the bracket "
            "around its end: the least and the most that it can add whatever the others do, which is guaranteed"
        )
    if not seen.own:
        parts.append("dots: the mean over the images of the class, with its interval of 95 %")
    if len(seen.values) > SHOWN:
        parts.append(f"{len(seen.values) - SHOWN} further concepts matter less and lie in maps.npz")
    if len(seen.pictured):
        parts.append(
            "under the map, an image made from noise so that the network finds much of the concept in it, faded where "
            "it does not look"
        )
    if seen.dead:
        parts.append(f"{seen.dead} of them {'are' if seen.dead > 1 else 'is'} dead: no crop has any of it")
    return "; ".join(parts) + "."


def _row(seen: Seen, picture: Picture, place: int, ends: tuple[float, float], draw: Draw) -> str:
    name, side = f"Concept {place + 1}", len(picture.view)
    where = draw(viz.overlay(picture.view, enlarge(seen.maps[place], side)), f"Where concept {place + 1} is")
    crops = "".join(draw(pixels, f"Example {i + 1} of {name}") for i, pixels in enumerate(seen.examples[place]))
    empty = "" if seen.examples[place] else "<p>No crop has any of it.</p>"
    if place < len(seen.pictured):
        where += draw(seen.pictured[place], f"What has most of {name}, made from noise", "PNG")
    return (
        f"<li><figure>{where}</figure><div><h4>{name}<span>{_number(seen.values[place], sign=True)}</span></h4>"
        f'{_bar(seen, place, ends)}<div class="crops">{crops}{empty}</div></div></li>'
    )


def _bar(seen: Seen, place: int, ends: tuple[float, float]) -> str:
    """What a concept adds, with its bounds, and the mean over the class."""
    at = lambda value: (float(value) - ends[0]) / (ends[1] - ends[0]) * (WIDTH - 12) + 6
    value, zero, middle = seen.values[place], at(0), HEIGHT / 2
    left, width = min(zero, at(value)), max(abs(at(value) - zero), 1)
    marks = f'<rect class="adds" x="{left:.1f}" y="{middle - 7:g}" width="{width:.1f}" height="14"/>'
    if seen.bounds is not None and not seen.exact:
        marks += _bracket(at(seen.bounds[place][0]), at(seen.bounds[place][1]), middle)
    says = f"adds {_number(value)}"
    if not seen.own:
        half = LIMIT * float(seen.stderr[place])
        mean = float(seen.mean[place])
        marks += (
            f'<path class="mean" d="M{at(mean - half):.1f} {HEIGHT - 4}H{at(mean + half):.1f}"/>'
            f'<circle class="mean" cx="{at(mean):.1f}" cy="{HEIGHT - 4}" r="3"/>'
        )
        says += f", on average {_number(mean)} ± {_number(half)}"
    axis = f'<path class="rule" d="M{zero:.1f} 2V{HEIGHT}"/>'
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{says}">{axis}{marks}</svg>'


def _bracket(low: float, high: float, middle: float) -> str:
    return (
        f'<path class="bounds" d="M{low:.1f} {middle - 5:g}V{middle + 5:g}M{low:.1f} {middle:g}H{high:.1f}'
        f'M{high:.1f} {middle - 5:g}V{middle + 5:g}"/>'
    )


def _range(seen: Seen) -> tuple[float, float]:
    """From the least to the most that a bar shows, 0 among them."""
    shown = slice(0, SHOWN)
    numbers = [np.zeros(1), seen.values[shown]]
    if seen.bounds is not None:
        numbers.append(seen.bounds[shown].ravel())
    if not seen.own:
        half = LIMIT * seen.stderr[shown]
        numbers += [seen.mean[shown] - half, seen.mean[shown] + half]
    every = np.concatenate(numbers)
    low, high = float(every.min()), float(every.max())
    return (low, high) if high > low else (low, low + 1)


def _number(value: Any, *, sign: bool = False) -> str:
    return f"{float(value):{'+' if sign else ''}.2f}".replace("-", "−")
