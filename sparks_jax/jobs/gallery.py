"""The page of visualizations: one HTML file with what each class looks like to a network."""

import html
import re
from typing import Any, NamedTuple

import numpy as np

from sparks_jax.featviz import Visualization, opacity
from sparks_jax.jobs.markup import count, fill, footer, picture, predictions, short, software
from sparks_jax.jobs.network import Network

WIDTH, HEIGHT = 300.0, 60.0  # of a small curve
TITLES = {"maco": "MACO", "fourier": "free Fourier coefficients"}


class Made(NamedTuple):
    """What was made of a class.

    Attributes:
        label: The class.
        seen: Its visualization.
        probabilities: `(m)` what the network says of the whole image.
    """

    label: int
    seen: Visualization
    probabilities: np.ndarray

    @property
    def rank(self) -> int:
        """How many classes the network finds more likely."""
        return int((self.probabilities > self.probabilities[self.label]).sum())

    def pictures(self, network: Network) -> dict[str, np.ndarray]:
        """The whole image, and what is left of it where the score did not look: `(h w 4)`; by file name."""
        name = re.sub(r"\W+", "_", short(network.classes[self.label])).strip("_").lower()
        image = np.clip(np.asarray(self.seen.image), 0, 1)
        image = np.repeat(image, 3, -1) if image.shape[-1] == 1 else image
        alpha = np.asarray(opacity(self.seen.transparency))[..., None]
        stem = f"{self.label:04d}_{name}"
        return {f"{stem}.png": np.concatenate([image, alpha], -1), f"{stem}_whole.png": image}


class Summary(NamedTuple):
    """What a run did.

    Attributes:
        network: The network.
        made: One for each class that was begun.
        asked: How many classes were asked for.
        method: "maco" or "fourier".
        steps: That each class is given.
        seed: Of the start and of the crops.
        top: Predictions shown.
        seconds: Of the whole.
        interrupted: Whether it was.
        smoke: Whether it was a quick, rough run.
        versions: Of the packages.
        device: In words.
    """

    network: Network
    made: list[Made]
    asked: int
    method: str
    steps: int
    seed: int
    top: int
    seconds: float
    interrupted: bool
    smoke: bool
    versions: dict[str, str]
    device: str

    def record(self, settings: dict[str, Any], files: list[str]) -> dict[str, Any]:
        """What `run.json` holds.

        Args:
            settings: What the run was asked to do.
            files: Those that were written.
        """
        classes = {
            self.network.classes[one.label]: {
                "label": one.label,
                "steps": len(one.seen.history),
                "score": float(one.seen.history[-1]),
                "probability": float(one.probabilities[one.label]),
                "rank": one.rank,
            }
            for one in self.made
        }
        network = {"name": self.network.name, "size": self.network.size, "about": self.network.about}
        return {
            "network": network, "classes": classes, "settings": settings, "seconds": round(self.seconds, 1),
            "interrupted": self.interrupted, "versions": self.versions, "device": self.device, "files": files,
        }  # fmt: skip


def page(run: Summary) -> str:
    """The whole page as text."""
    cards = "\n".join(_card(run, one) for one in run.made)
    return fill(
        version=run.versions["sparks_jax"],
        brand="sparks visualize",
        title=f"What {html.escape(run.network.name)} looks for",
        lead=(
            f"{count(len(run.made), 'class', 'es')} by {TITLES[run.method]}: images that raise "
            f"the score of a class, made from noise in {run.steps} steps. What the score did not look at is faded."
        ),
        notes="".join(f'<p class="note" role="note">{note}</p>\n' for note in _notes(run)),
        contents="",
        pictures=f'<div class="gallery">{cards}</div>',
        comparison="",
        footer=_footer(run),
    )


def _notes(run: Summary) -> list[str]:
    notes = []
    if run.smoke:
        notes.append("A smoke run, with few steps: run without <code>--smoke</code> for pictures worth showing.")
    if run.interrupted:
        notes.append(f"Interrupted: {len(run.made)} of {run.asked} are here, and the last may be unfinished.")
    return notes


def _card(run: Summary, one: Made) -> str:
    faded, whole = one.pictures(run.network).values()
    name, full = (html.escape(text) for text in (short(run.network.classes[one.label]), run.network.classes[one.label]))
    where = "first" if one.rank == 0 else f"behind {count(one.rank, 'other')}"
    return f"""<article class="card" aria-label="{name}">
<h2>{name}</h2>
<p>{full if full != name else f"class {one.label}"}</p>
<div class="pair">{picture(faded, f"{name}, where the score looked", "PNG")}{picture(whole, f"{name}, whole")}</div>
<figure>{_curve(one.seen.history, name)}<figcaption>The score rose from {one.seen.history[0]:.1f} to
{one.seen.history[-1]:.1f} in {count(len(one.seen.history), "step")}.</figcaption></figure>
<h3>The network on the whole image: {name} is {where}</h3>
{predictions(one.probabilities, one.label, run.network.classes, run.top)}
</article>"""


def _curve(history: Any, name: str) -> str:
    """The score over the steps, small."""
    scores = np.asarray(history, float)
    low, high = scores.min(), scores.max()
    across = np.linspace(2, WIDTH - 2, len(scores))
    down = HEIGHT - 4 - (HEIGHT - 8) * (scores - low) / (high - low if high > low else 1)
    path = "M" + " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(across, down, strict=True))
    return (
        f'<svg viewBox="0 0 {WIDTH:g} {HEIGHT:g}" role="img" aria-label="score of {name} over the steps">'
        f'<path class="rule" d="M0 {HEIGHT - 2:g}H{WIDTH:g}"/><path class="curve" d="{path}" stroke="var(--c0)"/></svg>'
    )


def _footer(run: Summary) -> str:
    return footer(
        run.network,
        f"Seed {run.seed}; {run.seconds:.0f} seconds; {run.device}; {software(run.versions)}.",
        "Such images show what raises a score, not what a photograph of the class must have.",
        "The images lie beside this page as PNG, the arrays in visualizations.npz, every setting in run.json.",
    )
