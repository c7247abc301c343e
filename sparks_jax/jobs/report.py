"""The page of a run: one HTML file that holds everything it shows and asks nothing of the network."""

import html
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from sparks_jax import viz
from sparks_jax.jobs import concept_page
from sparks_jax.jobs.chart import chart, key, round_ticks
from sparks_jax.jobs.concepts import Seen
from sparks_jax.jobs.markup import count, fill, footer, picture, predictions, short, software
from sparks_jax.jobs.methods import Method
from sparks_jax.jobs.network import Network
from sparks_jax.jobs.pictures import Picture, enlarge
from sparks_jax.metrics import Curve

PAGE_PICTURES = 60  # a page with more is too heavy to open
ARROWS = {"deletion": "↓", "insertion": "↑"}  # where better is


class Panel(NamedTuple):
    """What one method says about one picture.

    Attributes:
        raw: What the method returned, `(h w)` or `(h w c)`.
        importance: `(h w)`, larger is more important.
        signed: `(h w)`, or None for a method without a sign.
        deletion: Curve of the importance.
        insertion: Curve of the importance.
    """

    raw: np.ndarray
    importance: np.ndarray
    signed: np.ndarray | None
    deletion: Curve
    insertion: Curve


class Result(NamedTuple):
    """What a run knows about one picture.

    Attributes:
        picture: The picture.
        label: The class explained.
        probabilities: `(m,)` of every class.
        panels: One for each method that ran.
        seen: The concepts, if they were asked for.
    """

    picture: Picture
    label: int
    probabilities: np.ndarray
    panels: dict[str, Panel]
    seen: Seen | None = None


class Summary(NamedTuple):
    """A run: what was asked, and what there is so far (the lists and dictionaries are filled as it goes).

    Attributes:
        network: The network explained.
        methods: The methods asked for.
        seed: Of the run.
        top: Predictions shown for each picture.
        asked: How many pictures were asked for.
        smoke: Whether this is a quick, rough run.
        versions: Of Python and the packages.
        device: What it runs on.
        results: One for each picture explained.
        errors: A sentence for each picture that could not be.
        skipped: A sentence for each method that could not run.
        seconds: Of each method, compilation included.
        forwards: Evaluations of the network for one picture, of each method.
        total: Seconds of the whole run, imports included.
        interrupted: Whether it was stopped before its end.
    """

    network: Network
    methods: dict[str, Method]
    seed: int
    top: int
    asked: int
    smoke: bool
    versions: dict[str, str]
    device: str
    results: list[Result]
    errors: dict[str, str]
    skipped: dict[str, str]
    seconds: dict[str, float]
    forwards: dict[str, int]
    total: float = 0.0
    interrupted: bool = False

    def ran(self) -> dict[str, Method]:
        """The methods that were not skipped."""
        return {name: method for name, method in self.methods.items() if name not in self.skipped}


def page(run: Summary) -> str:
    """The whole page as text."""
    shown = run.results[:PAGE_PICTURES]
    return fill(
        version=run.versions["sparks_jax"],
        brand="sparks explain",
        title=f"Where {html.escape(run.network.name)} looks",
        lead=_lead(run),
        notes="".join(f'<p class="note" role="note">{note}</p>\n' for note in _notes(run)),
        contents=_contents(shown),
        pictures="\n".join(_section(run, result) for result in shown),
        comparison=_comparison(run),
        footer=_footer(run),
    )


def _lead(run: Summary) -> str:
    titles = [html.escape(method.title) for method in run.ran().values()]
    return (
        f"{count(len(run.results), 'picture')} explained by {_and(titles)} in {run.total:.0f} seconds. "
        "Brighter places mattered more to the network’s answer."
    )


def _notes(run: Summary) -> list[str]:
    faults = {f"{name} was left out": why for name, why in run.errors.items()}
    faults |= {f"{name} was skipped": why for name, why in run.skipped.items()}
    notes = [f"<strong>{html.escape(what)}</strong>: {html.escape(why)}." for what, why in faults.items()]
    if run.smoke:
        notes.append("A smoke run, with few samples: run without <code>--smoke</code> for maps worth showing.")
    if run.interrupted:
        notes.append(f"Interrupted after {len(run.results)} of {run.asked} pictures.")
    if len(run.results) > PAGE_PICTURES:
        notes.append(f"Shown are the first {PAGE_PICTURES}; the other pictures lie beside this page.")
    return notes


def _contents(results: list[Result]) -> str:
    sources = [result.picture.source for result in results]
    links = "".join(f'<a href="#{source.name}">{html.escape(source.title)}</a>' for source in sources)
    return f'<nav aria-label="Pictures">{links}</nav>' if len(sources) > 2 else ""


# --- one picture ------------------------------------------------------------------------------------------


def _section(run: Summary, result: Result) -> str:
    source, label = result.picture.source, short(run.network.classes[result.label])
    title, why = html.escape(source.title), html.escape(label)
    photo = picture(result.picture.view, f"{source.title}, as the network sees it")
    panels = "".join(
        _panel(run.methods[name], panel, result.picture, f"{source.title}, {label}")
        for name, panel in result.panels.items()
    )
    return f"""<section class="card" id="{source.name}" aria-label="{title}">
<h2>{title}</h2>
<p>Every map answers: why <strong>{why}</strong>?</p>
<div class="seen">
<figure>{photo}</figure>
<div><h3>What the network sees</h3>{predictions(result.probabilities, result.label, run.network.classes, run.top)}</div>
</div>
{f'<div class="panels">{panels}</div>' if panels else ""}
{_measured(run, result)}
{_concepts(run, result)}
</section>"""


def _panel(method: Method, panel: Panel, picture: Picture, of: str) -> str:
    side = len(picture.view)
    heat, importance = enlarge(panel.importance, side), viz.table(viz.IMPORTANCE)
    alt = f"{method.title} over {of}: strongest {_where(panel.importance)}"
    over = _figure(viz.overlay(picture.view, heat), alt, importance, ("matters less", "more"))
    means = method.means
    if panel.signed is None:
        ends = map(_number, viz.limits(heat))
        alone = _figure(viz.colorize(heat), f"{method.title} alone, {of}", importance, ends)
    else:
        signed = enlarge(panel.signed, side)
        low, high = viz.symmetric_limits(signed)
        ends = (_number(low), "0", _number(high))
        alone = _figure(viz.colorize_signed(signed), f"{method.title} with its sign, {of}", viz.table(viz.SIGNED), ends)
        means += f" On the right, {method.signed}."
    return (
        f'<article class="panel"><h3>{html.escape(method.title)}</h3><p>{html.escape(means)}</p>'
        f'<div class="pair">{over}{alone}</div></article>'
    )


def _figure(pixels: Any, alt: str, colours: np.ndarray, ends: Iterable[str]) -> str:
    """A picture above its colour bar."""
    stops = ", ".join(_hex(colour) for colour in colours[np.linspace(0, len(colours) - 1, 17).astype(int)])
    labels = "".join(f"<span>{end}</span>" for end in ends)
    return (
        f'<figure>{picture(pixels, alt)}<div class="scale" style="background:linear-gradient(90deg, {stops})">'
        f'</div><div class="ends">{labels}</div></figure>'
    )


def _concepts(run: Summary, result: Result) -> str:
    if result.seen is None:
        return ""
    return concept_page.section(result.seen, result.picture, short(run.network.classes[result.label]), picture)


def _measured(run: Summary, result: Result) -> str:
    titles = {name: run.methods[name].title for name in result.panels}
    curves = {metric: {name: getattr(panel, metric) for name, panel in result.panels.items()} for metric in ARROWS}
    scores = [curve.scores for of_metric in curves.values() for curve in of_metric.values()]
    ticks = round_ticks(float(np.nanmax(np.stack(scores))))
    areas = {
        metric: {name: float(curve.auc) for name, curve in of_metric.items()} for metric, of_metric in curves.items()
    }
    return f"""<div class="measured"><h3>Do the maps point at what the network uses?</h3>
<p class="about">Deletion: pixels turn black, the most important first; a faithful map makes the probability
fall early. Insertion: pixels return to a blurred picture; a faithful map makes it rise early. The numbers are the
areas under the curves.</p>
<div class="curves">{chart("Deletion", "pixels removed", titles, curves["deletion"], ticks)}
{chart("Insertion", "pixels put back", titles, curves["insertion"], ticks)}
{_table(titles, areas, {})}</div></div>"""


def _table(
    titles: Mapping[str, str],
    areas: Mapping[str, Mapping[str, float]],
    extra: Mapping[str, Mapping[str, str]],
) -> str:
    """Methods by rows: the key of its line, its areas (the best in bold), further columns."""
    best = {"deletion": min(areas["deletion"].values()), "insertion": max(areas["insertion"].values())}
    head = [f"{metric.capitalize()} {arrow}" for metric, arrow in ARROWS.items()] + list(extra)
    rows = ""
    for place, (name, title) in enumerate(titles.items()):
        rows += f'<tr><th scope="row">{key(place)}{html.escape(title)}</th>'
        for metric, of_metric in areas.items():
            area, winner = f"{of_metric[name]:.3f}", f"{best[metric]:.3f}"
            rows += f"<td{' class=best' if area == winner else ''}>{area}</td>"
        rows += "".join(f"<td>{column[name]}</td>" for column in extra.values()) + "</tr>"
    heads = "".join(f'<th scope="col">{text}</th>' for text in ["Method", *head])
    return f'<div class="wide"><table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>'


# --- the whole run ----------------------------------------------------------------------------------------


def _comparison(run: Summary) -> str:
    titles = {name: method.title for name, method in run.ran().items()}
    areas = {
        metric: {
            name: float(np.mean([getattr(result.panels[name], metric).auc for result in run.results]))
            for name in titles
        }
        for metric in ARROWS
    }
    passes = {
        name: f"{run.forwards[name]:,} forward{' + backward' if run.methods[name].gradients else ''}" for name in titles
    }
    seconds = {name: f"{run.seconds[name]:.1f}" for name in titles}
    return f"""<section class="card" aria-label="The methods compared"><h2>The methods compared</h2>
<p>Mean areas over {count(len(run.results), "picture")}; seconds for all of them, compilation included.</p>
{_table(titles, areas, {"Passes per picture": passes, "Seconds": seconds})}</section>"""


def _footer(run: Summary) -> str:
    return footer(
        run.network,
        f"Seed {run.seed}; {run.device}; {software(run.versions)}.",
        "The arrays behind this page are in maps.npz, every setting in run.json.",
    )


# --- words and numbers ------------------------------------------------------------------------------------


def _where(importance: np.ndarray) -> str:
    """Where a map is strongest, for who does not see it: the third of each side that its weight balances in."""
    weights = np.nan_to_num(importance, nan=0.0, posinf=0.0, neginf=0.0)
    weights = np.clip(weights - np.median(weights), 0, None) ** 2
    if not weights.sum() > 0:
        return "nowhere in particular"
    thirds = [np.linspace(0, 2.999, side) for side in weights.shape]
    down, along = (weights.sum(1 - axis) / weights.sum() @ thirds[axis] for axis in (0, 1))
    row, column = ("top", "middle", "bottom")[int(down)], ("left", "centre", "right")[int(along)]
    return "in the centre" if (row, column) == ("middle", "centre") else f"at the {row} {column}"


def _number(value: float) -> str:
    return f"{value:.2g}".replace("-", "−")


def _hex(colour: np.ndarray) -> str:
    return "#" + "".join(f"{round(255 * float(c)):02x}" for c in colour)


def _and(words: list[str]) -> str:
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))
