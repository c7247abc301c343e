"""Pieces of HTML that several pages are made of: pictures inside of the page, predictions, counted nouns."""

import base64
import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from sparks_jax.jobs.network import Network
from sparks_jax.jobs.outputs import encode


def fill(**parts: str) -> str:
    """The template of all pages, with its style, filled in."""
    here = Path(__file__).parent
    style = (here / "report.css").read_text(encoding="utf-8")
    return Template((here / "report.html").read_text(encoding="utf-8")).substitute(style=style, **parts)


def picture(pixels: Any, alt: str, kind: str = "JPEG") -> str:
    """An `img` that holds its pixels.

    Args:
        pixels: RGB or RGBA in [0, 1], or bytes.
        alt: What it shows, in words.
        kind: "JPEG", or "PNG" for what is transparent.

    Example:
        >>> picture(np.zeros((2, 3, 3)), "black")[-35:]
        '" width="3" height="2" alt="black">'
    """
    options = dict(quality=84) if kind == "JPEG" else {}
    data = base64.b64encode(encode(pixels, kind, **options)).decode()
    height, width = np.shape(pixels)[:2]
    source = f"data:image/{kind.lower()};base64,{data}"
    return f'<img src="{source}" width="{width}" height="{height}" alt="{html.escape(alt)}">'


def predictions(probabilities: np.ndarray, label: int, classes: Sequence[str], top: int) -> str:
    """The classes with the highest probabilities and the one in question, with bars.

    Example:
        >>> predictions(np.array([0.9, 0.1]), 1, ["cat", "dog"], 1).count("<li")
        2
    """
    best = [int(index) for index in np.argsort(-probabilities, kind="stable")[:top]]
    rows = ""
    for index in best if label in best else [*best, label]:
        share = f"{100 * float(probabilities[index]):.1f}%"
        explained = ' class="explained"' if index == label else ""
        rows += (
            f'<li{explained}><i class="bar" style="width:{share}"></i>'
            f"<span>{html.escape(classes[index])}</span><span>{share}</span></li>"
        )
    return f'<ol class="top" aria-label="Predictions">{rows}</ol>'


def short(name: str) -> str:
    """The first of several synonyms.

    Example:
        >>> short("tabby, tabby cat")
        'tabby'
    """
    return name.partition(",")[0]


def count(number: int, noun: str, ending: str = "s") -> str:
    """A number and its noun.

    Example:
        >>> count(1, "picture"), count(2, "picture"), count(2, "class", "es")
        ('1 picture', '2 pictures', '2 classes')
    """
    return f"{number} {noun}{'' if number == 1 else ending}"


def footer(network: Network, *lines: str) -> str:
    """What a page ends with: where the network comes from, then what was run and where it lies."""
    about = f"{network.name}: {network.size} × {network.size} pixels, {len(network.classes)} classes. {network.about}"
    return "\n".join(f"<p>{html.escape(line)}</p>" for line in (about, *lines))


def software(versions: Mapping[str, str]) -> str:
    """Versions in words.

    Example:
        >>> software({"jax": "0.10.1", "flax": "0.12.8"})
        'jax 0.10.1, flax 0.12.8'
    """
    return ", ".join(f"{name} {version}" for name, version in versions.items())
