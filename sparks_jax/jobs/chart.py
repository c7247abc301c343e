"""Deletion and insertion curves as inline SVG, without script and in the colours of the page's theme."""

import html
import math
from collections.abc import Iterable, Mapping

import numpy as np

from sparks_jax.metrics import Curve

WIDTH, HEIGHT = 460.0, 270.0
LEFT, RIGHT, TOP, BOTTOM = 44.0, 20.0, 30.0, 46.0  # margins around the plot
COLOURS = 10  # --c0 … --c9 of report.css
# A curve is not known by its colour alone: the second ten have other dashes with the same colours, and other marks.
DASHES = ("", "7 4", "2 4", "10 3 2 3", "14 4", "5 3 1 3", "1 5", "12 3 3 3 3 3", "3 3", "20 4 2 4")
# Corners, in radii of a disc that looks as large.
MARKS = (
    ((-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)),
    ((0, -1.25), (1.15, 0.85), (-1.15, 0.85)),
    ((0, -1.3), (1.3, 0), (0, 1.3), (-1.3, 0)),
)


def chart(title: str, axis: str, titles: Mapping[str, str], curves: Mapping[str, Curve], ticks: list[float]) -> str:
    """One chart: the probability over the share of the pixels.

    Args:
        title: Written above.
        axis: What the share of the pixels is a share of.
        titles: Each method's name in prose.
        curves: Each method's curve.
        ticks: Of the vertical axis, from 0.
    """
    areas = "; ".join(f"{titles[name]} {float(curve.auc):.3f}" for name, curve in curves.items())
    lines = "".join(
        f'<path class="curve" d="{_path(curve, ticks[-1])}" {stroke(place)}/>'
        for place, curve in enumerate(curves.values())
    )
    return (
        f'<svg viewBox="0 0 {WIDTH:g} {HEIGHT:g}" role="img" aria-label="{html.escape(f"{title}: {areas}")}">'
        f"{_text(LEFT, 14.0, f'{title}: probability of the class', 'start')}{_rules(ticks)}{lines}"
        f"{_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, axis, 'middle')}</svg>"
    )


def key(place: int, *, marked: bool = False) -> str:
    """A short piece of the line of a chart's curve, for a legend.

    Args:
        place: Of the curve in its chart.
        marked: Whether the curve has marks.

    Example:
        >>> "stroke-dasharray" in key(0)
        True
    """
    line = f'<path class="curve" d="M1 5H29" {stroke(place)}/>{mark(place, 15.0, 5.0, 4.0) if marked else ""}'
    return f'<span class="key"><svg viewBox="0 0 30 10" aria-hidden="true">{line}</svg></span>'


def stroke(place: int) -> str:
    """Colour and dashes of a line, as attributes: no two of a hundred places have the same.

    Example:
        >>> len({stroke(place) for place in range(100)})
        100
    """
    dashes = DASHES[(place % COLOURS + place // COLOURS) % len(DASHES)]
    return f'stroke="{colour(place)}" stroke-dasharray="{dashes}"'


def colour(place: int) -> str:
    """Of a line and its points, in the theme of the page.

    Example:
        >>> colour(3), colour(13)
        ('var(--c3)', 'var(--c3)')
    """
    return f"var(--c{place % COLOURS})"


def mark(place: int, x: float, y: float, size: float) -> str:
    """A point of a line: a disc, and a square, a triangle and a diamond where colours come again.

    Args:
        place: Of the curve in its chart.
        x: Where it is.
        y: Where it is.
        size: Radius of the disc; the others are as large.

    Example:
        >>> mark(0, 1.0, 2.0, 4.0), mark(10, 1.0, 2.0, 4.0)[:5]
        ('<circle cx="1.0" cy="2.0" r="4" fill="var(--c0)"/>', '<path')
    """
    fill, shape = f'fill="{colour(place)}"', place // COLOURS % (1 + len(MARKS))
    if shape == 0:
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{size:g}" {fill}/>'
    corners = " ".join(f"{x + size * across:.1f},{y + size * down:.1f}" for across, down in MARKS[shape - 1])
    return f'<path d="M{corners}Z" {fill}/>'


def round_ticks(top: float) -> list[float]:
    """Round values from 0 to at least `top`, six at most.

    Example:
        >>> round_ticks(0.33)
        [0.0, 0.1, 0.2, 0.3, 0.4]
    """
    top = top if top > 0 else 1.0
    power = 10.0 ** math.floor(math.log10(top / 5))
    step = next(power * unit for unit in (1, 2, 2.5, 5, 10) if top <= 5 * power * unit * (1 + 1e-9))
    return [round(i * step, 12) for i in range(math.ceil(top / step - 1e-9) + 1)]


def _path(curve: Curve, top: float) -> str:
    points = zip(np.asarray(curve.fractions), np.asarray(curve.scores), strict=True)
    return "M" + " ".join(f"{_x(float(t)):.1f},{_y(float(s), top):.1f}" for t, s in points if np.isfinite(s))


def _rules(ticks: Iterable[float]) -> str:
    *_, top = ticks = list(ticks)
    across = "".join(
        f'<path class="rule" d="M{LEFT:g} {_y(v, top):.1f}H{WIDTH - RIGHT:g}"/>'
        f"{_text(LEFT - 8, _y(v, top) + 4, f'{v:g}', 'end')}"
        for v in ticks
    )
    shares = (0.0, 0.25, 0.5, 0.75, 1.0)
    return across + "".join(_text(_x(t), HEIGHT - BOTTOM + 18, f"{t:.0%}", "middle") for t in shares)


def _x(fraction: float) -> float:
    return LEFT + fraction * (WIDTH - LEFT - RIGHT)


def _y(score: float, top: float) -> float:
    return TOP + (1 - score / top) * (HEIGHT - TOP - BOTTOM)


def _text(x: float, y: float, words: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{html.escape(words)}</text>'
