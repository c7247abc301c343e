"""The page of an evaluation: the table, its curves and what each metric asks, in one HTML file."""

import html
from collections.abc import Mapping

import numpy as np

from sparks_jax.jobs.chart import chart, key, round_ticks
from sparks_jax.jobs.markup import count, fill
from sparks_jax.jobs.table import LEVEL, Interval, Table, arrow, show

AXES = {"deletion": "pixels removed", "insertion": "pixels put back"}


def page(table: Table, means: Mapping[str, str], title: str = "How faithful are the maps?") -> str:
    """The whole page as text.

    Args:
        table: From `evaluate`.
        means: What each metric asks, by name.
        title: Its heading.
    """
    return fill(
        version=table.about["versions"]["sparks_jax"],
        brand="sparks evaluate",
        title=html.escape(title),
        lead=_lead(table),
        notes="".join(f'<p class="note" role="note">{html.escape(note)}.</p>\n' for note in _notes(table)),
        contents="",
        pictures=_board(table),
        comparison=_curves(table) + _legend(table, means),
        footer=_footer(table),
    )


def _lead(table: Table) -> str:
    parts = (len(table.makings), "method"), (len(table.metrics), "metric"), (table.about["images"], "image")
    methods, metrics, images = (count(*part) for part in parts)
    return (
        f"{methods} × {metrics} over {images}. Bold: no other method is clearly better, when the two are compared "
        "image by image."
    )


def _notes(table: Table) -> list[str]:
    smoke = ["A smoke run, with few samples: the numbers mean nothing"] if table.about["smoke"] else []
    few = ["Fewer than two images leave no interval"] if table.about["images"] < 2 else []
    return [*smoke, *few, *_grouped(table), *table.notes]


def _grouped(table: Table) -> list[str]:
    if table.groups is None:
        return []
    return [f"The images belong to {len(np.unique(table.groups))} groups, which the bootstrap resamples whole"]


def _board(table: Table) -> str:
    best = {name: set(table.best(name)) for name in table.metrics}
    heads = "".join(
        f'<th scope="col">{html.escape(title)} {arrow(table.higher.get(name))}</th>'
        for name, title in table.metrics.items()
    )
    rows = ""
    for place, (method, title) in enumerate(_shown(table).items()):
        making = table.makings[method]
        passes = {True: " F + B", False: " F", None: ""}[making.gradients]
        rows += f'<tr><th scope="row">{key(place)}{html.escape(title)}</th><td>{making.evaluations:,}{passes}</td>'
        for name in table.metrics:
            cell = table.cells.get((method, name))
            text = "—" if cell is None else _cell(cell.interval)
            rows += f"<td{' class=best' if method in best[name] else ''}>{text}</td>"
        rows += f"<td>{making.seconds:.1f}</td></tr>"
    return f"""<section class="card" aria-label="The table"><h2>The table</h2>
<p>Means over the images with {LEVEL:.0%} bootstrap intervals; evaluations of the network for one map; seconds for all
maps, compilation included.</p>
<div class="wide"><table><thead><tr><th scope="col">Method</th><th scope="col">Evaluations</th>{heads}
<th scope="col">Seconds</th></tr></thead><tbody>{rows}</tbody></table></div></section>"""


def _cell(of: Interval) -> str:
    mean, _, ends = show(of).partition(" ")
    return f'{mean}<br><span class="ends-of">{ends}</span>' if ends else mean


def _shown(table: Table) -> dict[str, str]:
    return {name: title for name, title in table.methods.items() if name in table.makings}


def _curves(table: Table) -> str:
    """A chart for each metric that walks."""
    walking = {
        name: curves
        for name in table.metrics
        if (curves := {m: c.curve for (m, n), c in table.cells.items() if n == name and c.curve is not None})
    }
    if not walking:
        return ""
    charts = ""
    for name, curves in walking.items():
        top = max(float(np.nanmax(np.asarray(curve.scores, np.float64))) for curve in curves.values())
        axis = next((words for start, words in AXES.items() if name.startswith(start)), "share of the pixels")
        # One place per method of the table, so that a line looks the same in every chart.
        placed = {method: curves[method] for method in _shown(table) if method in curves}
        charts += chart(table.metrics[name], axis, table.methods, placed, round_ticks(top))
    keys = "".join(f"<li>{key(i)}{html.escape(title)}</li>" for i, title in enumerate(_shown(table).values()))
    return f"""<section class="card" aria-label="The curves"><h2>The curves</h2>
<p>Means over the images of what the metrics walk along.</p><ul class="keys">{keys}</ul>
<div class="curves two">{charts}</div></section>"""


def _legend(table: Table, means: Mapping[str, str]) -> str:
    words = {True: "Higher is better.", False: "Lower is better.", None: ""}
    rows = "".join(
        f"<dt>{html.escape(title)}</dt><dd>{html.escape(means.get(name, ''))} {words[table.higher.get(name)]}</dd>"
        for name, title in table.metrics.items()
    )
    return f'<section class="card" aria-label="The metrics"><h2>What the metrics ask</h2><dl>{rows}</dl></section>'


def _footer(table: Table) -> str:
    about = table.about
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    lines = (
        f"Seed {about['seed']}; {about['device']}; {versions}.",
        "Every value of every image is in table.json, the table in table.csv, the maps in the folder maps.",
    )
    return "\n".join(f"<p>{html.escape(line)}</p>" for line in lines)
