"""The page about a study: what each kind of explanation was worth to those who saw it."""

import html
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sparks_jax.human.responses import ATTENTION, INCOMPLETE, SPEED, Finding, Graded, long_answers
from sparks_jax.human.study import CONTROL, Study
from sparks_jax.jobs.chart import colour, key, mark, stroke
from sparks_jax.jobs.markup import count, fill, software

WIDTH, ROW = 460.0, 34.0  # of a chart, and of one condition in it
RIGHT, TOP, BOTTOM = 20.0, 30.0, 40.0
LETTER = 8.5  # of a name, on average
TALL = 300.0  # of the chart of sessions
SIGNIFICANT = 0.05


def page(study: Study, graded: Graded, found: Mapping[str, Finding], about: Mapping[str, Any]) -> str:
    """The whole page as text.

    Args:
        study: The study.
        graded: Who answered, and who was left out.
        found: What the answers say.
        about: Seed, exclusion rules, long answers and versions.
    """
    people = sum(one.participants for one in found.values())
    return fill(
        version=about["versions"]["sparks_jax"],
        brand="sparks study",
        title=html.escape(study.title),
        lead=(
            f"{count(people, 'participant')} predicted what a model says of new images, after examples with an "
            "explanation or without. Utility is how much more often they were right than the baseline, who saw none."
        ),
        notes="".join(f'<p class="note" role="note">{note}</p>\n' for note in _notes(graded, found)),
        contents="",
        pictures=_utilities(found),
        comparison=_sessions(study, found) + _excluded(graded, about),
        footer=_footer(study, about),
    )


def _notes(graded: Graded, found: Mapping[str, Finding]) -> list[str]:
    notes = []
    control = found.get(CONTROL)
    if control and control.utility and not control.utility.interval[0] <= 1 <= control.utility.interval[1]:
        notes.append(
            "The control, whose maps know nothing of the model, differs from the baseline: so may a method, for no "
            "better reason."
        )
    if few := [name for name, one in found.items() if one.participants < 2]:
        notes.append(f"Too few participants for an interval: {html.escape(', '.join(few))}.")
    if graded.excluded:
        notes.append(f"{count(len(graded.excluded), 'participant')} left out, for the reasons below.")
    return notes


# --- Utility ----------------------------------------------------------------------------------------------


def _utilities(found: Mapping[str, Finding]) -> str:
    compared = {name: one for name, one in found.items() if one.utility is not None}
    rows = "".join(
        f'<tr><th scope="row">{html.escape(name)}</th><td>{one.participants}</td><td>{_with_ends(one)}</td>'
        f"<td>{_p(one.p)}</td><td>{_p(one.adjusted)}</td></tr>"
        for name, one in compared.items()
    )
    heads = "".join(f'<th scope="col">{name}</th>' for name in ("Condition", "People", "Utility", "p", "p, Holm"))
    return f"""<section class="card" aria-label="Utility"><h2>Utility</h2>
<p>Above 1 explanations helped to predict the model, at 1 they did not, below it they misled.</p>
<div class="curves two">{whiskers(found)}
<div class="wide"><table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div></div>
<p class="about">Intervals of 95 % by a bootstrap over participants: they are about other people, not about other
images. p: by exchanging participants with the baseline, two-sided; Holm: adjusted for
{count(len(compared), "comparison")}.</p>
</section>"""


def whiskers(found: Mapping[str, Finding]) -> str:
    """Utility of every condition that has one, with its interval, as inline SVG, with a line at 1.

    Args:
        found: What is known of each condition; their places give their colours.

    Example:
        >>> from sparks_jax.human import utility_interval
        >>> found = Finding(2, np.array([0.9]), utility_interval([[1.0], [0.8]], [[0.5], [0.7]]))
        >>> whiskers({"baseline": Finding(2, np.array([0.6])), "rise": found}).count("<circle")
        1
    """
    compared = [(place, name, one.utility) for place, (name, one) in enumerate(found.items()) if one.utility]
    ends = np.array([0.9, 1.1, *(end for _, _, u in compared for end in (*u.interval, u.value))])
    step = _step(np.ptp(ends))
    ticks = np.arange(np.floor(ends.min() / step), np.ceil(ends.max() / step) + 1) * step
    left = min(24 + LETTER * max((len(name) for _, name, _ in compared), default=0), WIDTH / 2)
    x = lambda value: left + (value - ticks[0]) / (ticks[-1] - ticks[0]) * (WIDTH - left - RIGHT)
    tall = TOP + ROW * len(compared) + BOTTOM
    lines = "".join(
        f'<path class="rule" d="M{x(t):.1f} {TOP - 6}V{tall - BOTTOM}"/>{_text(x(t), tall - BOTTOM + 18, f"{t:g}")}'
        for t in np.round(ticks, 6)
    )
    lines += f'<path class="bounds" d="M{x(1):.1f} {TOP - 6}V{tall - BOTTOM}"/>'
    for row, (place, name, u) in enumerate(compared):
        y, (low, high) = TOP + ROW * (row + 0.5), map(x, u.interval)
        lines += _text(left - 12, y + 5, name, "end")
        lines += f'<path class="curve" d="M{low:.1f} {y}H{high:.1f}" stroke="{colour(place)}"/>'
        lines += mark(place, x(u.value), y, 5.5)
    lines += _text((left + WIDTH - RIGHT) / 2, tall - 4, "Utility")
    return _svg(tall, "Utility: " + "; ".join(f"{name} {u.value:.2f}" for _, name, u in compared), lines)


# --- sessions ---------------------------------------------------------------------------------------------


def _sessions(study: Study, found: Mapping[str, Finding]) -> str:
    heads = ["Condition", *(f"K = {k}" for k in study.schedule), *(f"U at {k}" for k in study.schedule)]
    rows = ""
    for place, (name, one) in enumerate(found.items()):
        accuracies = [_share(a) for a in one.accuracies]
        ratios = ["–"] * len(accuracies) if one.utility is None else [_ratio(u) for u in one.utility.sessions]
        cells = "".join(f"<td>{cell}</td>" for cell in accuracies + ratios)
        rows += f'<tr><th scope="row">{key(place, marked=True)}{html.escape(name)}</th>{cells}</tr>'
    head = "".join(f'<th scope="col">{name}</th>' for name in heads)
    return f"""<section class="card" aria-label="Sessions"><h2>Session by session</h2>
<p>Share of right predictions, and Utility, after K examples.</p>
<div class="curves two">{progress(study.schedule, found)}
<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div></div></section>"""


def progress(schedule: Sequence[int], found: Mapping[str, Finding]) -> str:
    """Share of right answers over the number of examples, as inline SVG: one line for each condition.

    Args:
        schedule: Examples seen in each session.
        found: What is known of each condition.

    Example:
        >>> progress((5, 10), {"baseline": Finding(9, np.array([0.5, 0.7]))}).count('class="curve"')
        1
    """
    shares = np.array([one.accuracies for one in found.values()], float)
    low = np.floor(5 * np.nanmin(shares)) / 5 if np.isfinite(shares).any() else 0.0
    ticks = np.round(np.arange(min(low, 0.8), 1.01, 0.1 if low >= 0.4 else 0.2), 3)
    left = 60.0
    x = lambda i: left + (i + 0.5) / len(schedule) * (WIDTH - left - RIGHT)
    y = lambda share: TOP + (1 - share) / (1 - ticks[0]) * (TALL - TOP - BOTTOM)
    lines = "".join(
        f'<path class="rule" d="M{left} {y(t):.1f}H{WIDTH - RIGHT}"/>{_text(left - 10, y(t) + 5, _share(t), "end")}'
        for t in ticks
    )
    lines += "".join(_text(x(i), TALL - BOTTOM + 20, f"{k} examples") for i, k in enumerate(schedule))
    for place, of in enumerate(shares):
        if np.isfinite(of).all():
            points = " ".join(f"{x(i):.1f},{y(share):.1f}" for i, share in enumerate(of))
            lines += f'<path class="curve" d="M{points}" {stroke(place)}/>'
            lines += "".join(mark(place, x(i), y(share), 4.0) for i, share in enumerate(of))
    said = "; ".join(f"{name} {', '.join(map(_share, one.accuracies))}" for name, one in found.items())
    return _svg(TALL, f"Right predictions: {said}", lines + _text(left, 14.0, "right predictions", "start"))


# --- who counts -------------------------------------------------------------------------------------------


def medians(times: np.ndarray) -> np.ndarray:
    """Median time of the answers of each participant; NaN where no time is known.

    Args:
        times: `(participants, sessions, questions)` seconds.

    Example:
        >>> medians(np.array([[[1.0, 5.0, 2.0]], [[np.nan] * 3]])).tolist()
        [2.0, nan]
    """
    return np.array([np.nanmedian(of) if np.isfinite(of).any() else np.nan for of in times])


def _excluded(graded: Graded, about: Mapping[str, Any]) -> str:
    """Every rule with its limit and how many broke it, also where it is none; and who."""
    fast = about["min_median_time"]
    limits = {
        INCOMPLETE: "a question without an answer",
        ATTENTION: f"more than {count(about['failed_checks'], 'attention check')} failed",
        SPEED: f"median answer after less than {fast:g} s" if fast else "off: answers may be as fast as can be",
    }
    rows = "".join(
        f'<tr><th scope="row">{rule}</th><td>{len(graded.rules[rule])}</td><td>{limit}</td></tr>'
        for rule, limit in limits.items()
    )
    who = "".join(f"<dt>{html.escape(who)}</dt><dd>{html.escape(why)}</dd>" for who, why in graded.excluded.items())
    return f"""<section class="card" aria-label="Left out"><h2>Left out</h2>
<p>{count(len(graded.excluded), "participant")}: by each rule as many as the table says; one may break two.</p>
<div class="wide"><table><thead><tr><th scope="col">Rule</th><th scope="col">People</th>
<th scope="col">Left out is</th></tr></thead><tbody>{rows}</tbody></table></div>
{f"<dl>{who}</dl>" if who else ""}
<p class="about">{html.escape(_response_times(graded, about["long_time"]))}</p></section>"""


def _response_times(graded: Graded, long_time: float) -> str:
    """In words, of all who count: the median, answers that took long, and who has no times."""
    times = np.concatenate([*graded.times.values()])
    known, long = np.isfinite(times), long_answers(graded, long_time)
    if not known.any():
        return "The answers hold no response times: no rule about them applies."
    who = ", ".join(f"{name} ({n})" for name, n in long.items())
    without = int((~known.any((1, 2))).sum())
    kept = f" Of {count(without, 'participant')} no time is known: the rule leaves them in." if without else ""
    return (
        f"The median answer took {np.nanmedian(times):.1f} s. {count(sum(long.values()), 'answer')} of {known.sum()} "
        f"took more than {long_time:g} s{f', counted like the others: {who}' if who else ''}.{kept}"
    )


def _footer(study: Study, about: Mapping[str, Any]) -> str:
    practice = f", after {count(len(study.practice), 'trial')} for practice" if study.practice else ""
    lines = (
        f"Study {study.identity}, drawn with seed {study.seed}: {count(len(study.sessions), 'session')} of "
        f"{study.answers().shape[1]} questions{practice}.",
        f"Seed of the resampling {about['seed']}; {software(about['versions'])}.",
        "The numbers behind this page are in results.json, the study in study.json.",
    )
    return "\n".join(f"<p>{html.escape(line)}</p>" for line in lines)


# --- words and numbers ------------------------------------------------------------------------------------


def _with_ends(one: Finding) -> str:
    if one.utility is None:
        return "–"
    low, high = one.utility.interval
    number = f"{one.utility.value:.2f}"
    best = one.adjusted is not None and one.adjusted < SIGNIFICANT
    return f"{f'<strong>{number}</strong>' if best else number} [{low:.2f}, {high:.2f}]"


def _p(p: float | None) -> str:
    return "–" if p is None else f"{p:.4f}" if p >= 1e-4 else f"{p:.0e}"


def _share(share: float) -> str:
    return f"{100 * share:.0f} %" if np.isfinite(share) else "–"


def _ratio(u: float) -> str:
    return f"{u:.2f}" if np.isfinite(u) else "–"


def _step(span: float) -> float:
    """A round distance of ticks, six or so of them."""
    power = 10.0 ** np.floor(np.log10(span / 5))
    return next(float(unit * power) for unit in (1, 2, 5, 10) if span <= 6 * unit * power)


def _svg(tall: float, said: str, inside: str) -> str:
    return f'<svg viewBox="0 0 {WIDTH:g} {tall:g}" role="img" aria-label="{html.escape(said)}">{inside}</svg>'


def _text(x: float, y: float, words: str, anchor: str = "middle") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{html.escape(words)}</text>'
