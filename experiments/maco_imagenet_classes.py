"""Claim: what two networks look for in 24 classes of ImageNet can be recognised, without one image of these classes.

MACO of the plain logit of each class, in EfficientNet-Lite0 and in SqueezeNet with their real weights, from one seed.
Of each image: the score that it ends with (the mean over crops, in the last steps); how many classes the network, and
the other one that had no part in it, prefer to the class on the whole image without noise (0: none); the share of six
real photographs, none of which is of these classes, that score lower; and the distance of its spectrum from that of the
photographs, in decades. Whether a class can be recognised is for you to see, on the pages.

Command:  python experiments/maco_imagenet_classes.py [--smoke] [--models efficientnet_lite0] [--out FOLDER]
          A class that is in the folder is not made again, so a killed run resumes; Ctrl-C draws the pages of what
          there is. Writes a picture (PNG, the opacity is its fourth channel) and the numbers (NPZ) of each class, a
          page of each network, with opacity and without, a table (CSV) and a record (JSON).
Hardware: 2 CPU cores.
Time:     a minute or more a class beside other work; --smoke half a minute. SqueezeNet was run on ten.
Expected: with 6 crops, 20 of 24 classes are Lite0's first guess, 12 are among SqueezeNet's first four and 5 its first;
          of ten made for SqueezeNet, 4 are its own first guess, one Lite0's. Seed 0, jax 0.10.1.
"""

import json
import time
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from experiments.craft_photos import report
from sparks_jax import featviz, viz
from sparks_jax.data import photographs
from sparks_jax.featviz import Spectrum, Visualization
from sparks_jax.jobs.network import TITLES, find_label
from sparks_jax.jobs.visualize import visualize
from sparks_jax.models import bundled
from sparks_jax.scores import logit
from sparks_jax.types import Score

CLASSES = (
    "monarch", "flamingo", "tiger", "peacock", "strawberry", "pizza", "goldfish", "zebra",
    "king penguin", "castle", "beacon", "school bus", "volcano", "macaw", "jellyfish", "daisy",
    "pineapple", "giant panda", "ladybug", "lemon", "balloon", "lionfish", "fire engine", "red fox",
)  # fmt: skip


@dataclass(frozen=True)
class Config:
    """What is visualized, and for how long."""

    models: tuple[str, ...] = ("efficientnet_lite0", "squeezenet")
    judges: tuple[str, ...] = ("efficientnet_lite0", "squeezenet")  # who is asked about images of the others
    classes: tuple[str, ...] = CLASSES
    canvas: int = 256
    steps: int = 128
    crops: int = 8
    columns: int = 6  # of a page
    seed: int = 0
    out: Path = Path("sparks-out/maco_imagenet_classes")
    smoke: bool = False


EVERY = 8  # steps between two looks at the keyboard; scores are averaged over the last so many


# --- an image for each class, kept as soon as it is made ---


def saved(path: Path, settings: dict[str, Any]) -> Visualization | None:
    """An image of an earlier run, if there is one that was made in the same way."""
    if not path.is_file():
        return None
    with np.load(path) as file:
        same = str(file["settings"]) == json.dumps(settings)
        return Visualization(*(file[name] for name in Visualization._fields)) if same else None


def kept(path: Path, seen: Visualization, settings: dict[str, Any]) -> None:
    """Save an image, and say so."""
    save(path, seen, settings)
    print(f"  {path.stem}, after {len(seen.history)} steps {seen.history[-EVERY:].mean():.1f}", flush=True)


def save(path: Path, seen: Visualization, settings: dict[str, Any]) -> None:
    """Keep an image: its file is there as a whole, or not at all."""
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        np.savez_compressed(file, settings=json.dumps(settings), **seen._asdict())
    part.rename(path)


# --- what is said of an image ---


@cache
def real_images(size: int) -> np.ndarray:
    """Six photographs at a size."""
    return np.stack([bundled.prepare(pixels, size, crop=1.0) for pixels in photographs().values()])


@partial(jax.jit, static_argnums=3)
def rank(model: Any, image: Any, label: Any, size: int) -> Any:
    """How many classes a network prefers, to 0."""
    return featviz.class_rank(model, image, label, input_size=(size, size))


@jax.jit
def share(f: Score, image: Any, images: Any) -> Any:
    """The share of images that score lower."""
    return featviz.share_below(f, image, images)


@jax.jit
def distance(image: Any, spectrum: Spectrum) -> Any:
    """Of the spectrum of an image from another, in decades."""
    return featviz.spectrum_distance(image, spectrum, values_range=(0, 1))


def judged(seen: Visualization, label: int, bundle: bundled.Bundle, others: list[bundled.Bundle]) -> dict[str, Any]:
    """All that is said of an image, by the network that it was made for and by the others."""
    image, size = jnp.asarray(seen.image), bundle.size
    photos = jnp.asarray(real_images(size))
    natural = Spectrum.from_images(real_images(len(image)))
    return {
        "score": float(seen.history[-EVERY:].mean()),
        "rank": int(rank(bundle.model, image, label, size)),
        **{f"rank by {TITLES[other.name]}": int(rank(other.model, image, label, other.size)) for other in others},
        "real images below": float(share(logit(bundle.model, label), image, photos)),
        "spectrum distance": float(distance(image, natural)),
    }


# --- pictures ---


def opacity(seen: Visualization) -> np.ndarray:
    """How much of each pixel is shown: those that the score looked at."""
    return np.asarray(featviz.opacity(jnp.asarray(seen.transparency)))[..., None]


def on_white(seen: Visualization) -> np.ndarray:
    """The image with its opacity, on white paper."""
    shown = opacity(seen)
    return shown * seen.image + (1 - shown)


def picture(seen: Visualization, path: Path) -> None:
    """Write an image whose fourth channel is its opacity."""
    from matplotlib.image import imsave

    imsave(path, np.concatenate([seen.image, opacity(seen)], -1).clip(0, 1))


def sheet(images: list[np.ndarray], titles: list[str], columns: int, *, side: float = 2.2) -> Any:
    """A page of images."""
    from matplotlib.figure import Figure

    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    figure = Figure(figsize=(side * columns, 1.12 * side * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax in axes:
        ax.set_axis_off()
    for ax, image, title in zip(axes, images, titles, strict=False):
        viz.show(ax, image, title=title)
    return figure


# --- the experiment ---


def run(config: Config, bundle: bundled.Bundle, others: list[bundled.Bundle]) -> tuple[list[dict[str, Any]], bool]:
    """One network: the rows of its table, and whether it was interrupted; its pictures are written."""
    folder, natural = config.out / bundle.name, Spectrum.natural(config.canvas)
    folder.mkdir(parents=True, exist_ok=True)
    options: Any = dict(input_size=bundle.size, num_steps=config.steps, num_crops=config.crops, chunk=config.crops)
    settings = options | {"canvas": config.canvas, "seed": config.seed}
    paths = {name: folder / f"{name.replace(' ', '_')}.npz" for name in config.classes}
    labels = {name: find_label(name, bundle.classes) for name in config.classes}
    found = {name: seen for name in config.classes if (seen := saved(paths[name], settings)) is not None}
    missing = [name for name in config.classes if name not in found]
    made = visualize(
        [logit(bundle.model, labels[name]) for name in missing], key=jax.random.key(config.seed), every=EVERY,
        keep=lambda i, seen: kept(paths[missing[i]], seen, settings), spectrum=natural, values_range=(0, 1), **options,
    )  # fmt: skip
    found |= zip(missing, made.visualizations, strict=False)
    rows = []
    for name in [name for name in config.classes if name in found]:
        seen = found[name]
        picture(seen, paths[name].with_suffix(".png"))
        about = judged(seen, labels[name], bundle, others)
        rows.append({"network": TITLES[bundle.name], "class": name, "steps": len(seen.history), **about})
        print(f"  {name}: {json.dumps(about)}", flush=True)
    if found:
        for suffix, shown in {"": on_white, "_opaque": lambda seen: seen.image}.items():
            page = sheet([shown(seen) for seen in found.values()], list(found), config.columns)
            page.savefig(config.out / f"{bundle.name}{suffix}.png", dpi=110)
    return rows, made.interrupted


def main(config: Config) -> dict[str, Any]:
    """Print the table, write the pictures and the record, and return it."""
    if config.smoke:
        config = replace(
            config, models=("glyphs",), judges=("glyphs",), classes=("ring", "cross"), canvas=72, steps=EVERY, crops=2
        )
    begin, table, interrupted = time.perf_counter(), [], False
    config.out.mkdir(parents=True, exist_ok=True)
    networks = {name: bundled.load(name) for name in dict.fromkeys(config.models + config.judges)}
    for name in config.models:
        if interrupted:
            break
        print(f"{TITLES[name]}:", flush=True)
        others = [networks[judge] for judge in config.judges if judge != name]
        rows, interrupted = run(config, networks[name], others)
        table += rows
    return report(config, begin, {"table": table} if table else {}, interrupted=interrupted)


if __name__ == "__main__":
    main(tyro.cli(Config))
