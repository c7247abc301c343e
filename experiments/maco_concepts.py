"""Claim: a concept is seen best through its own coefficient, which the other concepts compete for.

CRAFT gives the concepts of a photograph; MACO shows each of the most important in three ways: along its direction in
activation space, dot × cosine^p, as is usual; through its coefficient in the non-negative least squares that CRAFT
codes activations with, where another concept that explains them better lowers it; and with the others pushed away
besides. Each image, whole and without noise, is then coded as a crop of the photograph would be. What counts: the rank
of its concept among the codes (0: the largest), its share of them, and how large it is next to the best crop's.

With `--model glyphs` the concepts are those of images of each glyph class.

Command:  python experiments/maco_concepts.py [--smoke] [--photographs coffee chelsea] [--out FOLDER]
          A killed run resumes; Ctrl-C draws what there is. Writes tables (CSV), a record (JSON), and of each photograph
          a picture (PNG): a row for each concept, its best crop, and what was made of it in the three ways.
Hardware: 2 CPU cores.
Time:     some 5 minutes a concept on a busy machine; --smoke under a minute.
Expected: the claim. Of four concepts of `--photographs coffee` the shares of the codes are 0.73 by their coefficients
          and 0.47 along their directions: by 0.26 [0.15, 0.34] more.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from experiments.craft_photos import examples, prepared, report
from experiments.maco_imagenet_classes import EVERY, on_white, save, saved, sheet
from sparks_jax import concepts, featviz, scores
from sparks_jax.concepts import Concepts, Dictionary
from sparks_jax.data import glyphs, photographs
from sparks_jax.featviz import Spectrum, Visualization
from sparks_jax.jobs.table import interval
from sparks_jax.jobs.visualize import climb, program
from sparks_jax.models import bundled
from sparks_jax.scores import logit

DIRECTION, COEFFICIENT, CONTRAST = WAYS = ("direction", "coefficient", "contrast")


@dataclass(frozen=True)
class Config:
    """What is visualized, and for how long."""

    model: str = "efficientnet_lite0"
    photographs: tuple[str, ...] = ("coffee", "chelsea", "flower")
    glyphs: tuple[str, ...] = ("ring", "cross")  # classes, of the glyph network
    images: int = 16  # of a glyph class
    rank: int = 5
    shown: int = 4  # concepts of a photograph, the most important first
    crops_of: tuple[float, ...] = (96 / 224, 128 / 224)  # sides of CRAFT's crops, as shares of the image's
    stride: float = 1 / 3  # between them, over their side
    ways: tuple[str, ...] = WAYS
    power: float = 2.0  # of the cosine
    canvas: int = 256
    steps: int = 128
    crops: int = 8  # of MACO, a step
    seed: int = 0
    out: Path = Path("sparks-out/maco_concepts")
    smoke: bool = False


class Group(NamedTuple):
    """Images whose concepts are shown, and the class that they are of."""

    name: str
    images: np.ndarray
    label: int


def groups(config: Config, bundle: bundled.Bundle) -> list[Group]:
    """Each photograph as what the network takes it for; or images of each glyph class."""
    if bundle.name == "glyphs":
        world = glyphs(10 * config.images, key=jax.random.key(config.seed))
        chosen = [(name, bundle.classes.index(name)) for name in config.glyphs]
        of = lambda label: np.asarray(world.images)[np.asarray(world.labels) == label][: config.images]
        return [Group(name, of(label), label) for name, label in chosen]
    taken = photographs(config.photographs)
    images, labels = prepared(bundle, list(taken.values()))
    return [Group(name, images[i : i + 1], int(labels[i])) for i, name in enumerate(taken)]


@partial(jax.jit, static_argnums=(0, 1, 2))
def explain(rank: int, sides: tuple[int, ...], stride: float, model: Any, images: Any, label: Any, key: Any) -> Any:
    """CRAFT of some images."""
    view = concepts.crops(sides, stride=stride)
    return concepts.craft(model.features, logit(model.head, label), images, key=key, rank=rank, view=view, chunk=8)


def ways(config: Config, model: Any, dictionary: Dictionary) -> dict[str, Callable[[int], Any]]:
    """From a concept to what is maximised."""
    objectives = {
        DIRECTION: lambda k: featviz.dot_cosine(model.features, dictionary.atoms[k], power=config.power),
        COEFFICIENT: lambda k: scores.concept(model.features, dictionary, k),
        CONTRAST: lambda k: featviz.contrast(model.features, dictionary, k),
    }
    return {way: objectives[way] for way in config.ways}


@jax.jit
def coded(model: Any, dictionary: Dictionary, image: Any) -> Any:
    """The codes of a whole image, coded as CRAFT codes a crop: of the mean of its activations."""
    return dictionary.encode(model.features(image[None])[0].mean((0, 1))[None])[0]


def told(codes: np.ndarray, k: int, best: float) -> dict[str, float]:
    """How much a concept has of the codes of its image."""
    total = float(codes.sum())
    return {
        "rank": int((codes > codes[k]).sum()),
        "first": float((codes > codes[k]).sum() == 0),
        "share of the codes": float(codes[k]) / total if total > 0 else np.nan,
        "over the best crop": float(codes[k]) / best if best > 0 else np.nan,
    }


class Shown(NamedTuple):
    """What was made of a group: the rows of the table, the pictures, and whether it was interrupted."""

    rows: list[dict[str, Any]]
    pictures: list[tuple[np.ndarray, str]]
    interrupted: bool


def show(config: Config, bundle: bundled.Bundle, run: Any, group: Group) -> Shown:
    """The most important concepts of a group in three ways."""
    sides = tuple(round(share * bundle.size) for share in config.crops_of)
    key, label = jax.random.key(config.seed), jnp.asarray(group.label)
    found: Concepts = explain(config.rank, sides, config.stride, bundle.model, jnp.asarray(group.images), label, key)
    values = np.asarray(found.importance.values).mean(0)
    rows, pictures = [], []
    for place, k in enumerate(np.argsort(-values)[: config.shown].tolist()):
        codes = np.asarray(found.codes[:, k])
        crops: Any = examples(codes, found, group.images, 1)
        row = [(crops[0] if crops else np.ones((2, 2, 3)), f"{values[k] / values.sum():.0%} of the logit")]
        for way, objective in ways(config, bundle.model, found.dictionary).items():
            seen, interrupted = visualized(config, bundle, run, group, k, way, objective(k))
            if seen is None or interrupted:
                return Shown(rows, pictures, True)
            at_size = jax.image.resize(seen.image, (bundle.size, bundle.size, 3), "linear")
            about = told(np.asarray(coded(bundle.model, found.dictionary, at_size)), k, float(codes.max()))
            importance = float(values[k] / values.sum())
            rows.append({"of": group.name, "concept": place + 1, "importance": importance, "way": way} | about)
            row.append((on_white(seen), f"{way}: rank {about['rank']}, {about['share of the codes']:.0%}"))
        pictures += row
        print(f"  {group.name}, concept {place + 1}: {json.dumps(rows[-len(row) + 1 :])}", flush=True)
    return Shown(rows, pictures, False)


def visualized(
    config: Config, bundle: bundled.Bundle, run: Any, group: Group, k: int, way: str, objective: Any
) -> tuple[Visualization | None, bool]:
    """One concept in one way, from an earlier run if there is one; and whether it was interrupted."""
    path = config.out / bundle.name / f"{group.name}_{k}_{way}.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    made_by = ("rank", "images", "crops_of", "stride", "power", "canvas", "steps", "crops", "seed")
    settings = {name: getattr(config, name) for name in made_by}
    if (seen := saved(path, settings)) is not None:
        return seen, False
    seen, interrupted = climb(run, objective, key=jax.random.key(config.seed), num_steps=config.steps)
    if seen is not None and not interrupted:
        save(path, seen, settings)
    return seen, interrupted


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of each way the means over concepts, and beside them the differences from the direction, concept by concept."""
    columns = ("rank", "first", "share of the codes", "over the best crop")
    names = list(dict.fromkeys(row["way"] for row in rows))
    values = {
        way: {column: np.array([row[column] for row in rows if row["way"] == way]) for column in columns}
        for way in names
    }
    table = [{"way": way} | {column: interval(values[way][column]) for column in columns} for way in names]
    for way in names[1:]:
        gaps = {column: interval(values[way][column] - values[names[0]][column]) for column in columns}
        table.append({"way": f"{way} - {names[0]}"} | gaps)
    return table


def main(config: Config) -> dict[str, Any]:
    """Print the tables, draw the pictures, write the record and return it."""
    if config.smoke:
        config = replace(
            config, model="glyphs", glyphs=("ring",), images=2, rank=2, shown=1, crops_of=(0.5,), stride=1.0,
            ways=WAYS[:2], canvas=72, steps=EVERY, crops=2,
        )  # fmt: skip
    begin, rows, interrupted = time.perf_counter(), [], False
    config.out.mkdir(parents=True, exist_ok=True)
    bundle, natural = bundled.load(config.model), Spectrum.natural(config.canvas)
    options: Any = dict(input_size=bundle.size, num_steps=config.steps, num_crops=config.crops, chunk=config.crops)
    run = program(lambda f: featviz.maco_ascent(f, spectrum=natural, values_range=(0, 1), **options))
    for group in groups(config, bundle):
        shown = show(config, bundle, run, group)
        rows, interrupted = rows + shown.rows, shown.interrupted
        if shown.pictures:
            images, titles = zip(*shown.pictures, strict=True)
            sheet(list(images), list(titles), 1 + len(config.ways)).savefig(
                config.out / f"{bundle.name}_{group.name}.png", dpi=90
            )
        if interrupted:
            break
    complete = rows[: len(rows) - len(rows) % len(config.ways)]  # an interrupted concept has not been seen in all ways
    tables = {"table": summary(complete), "concepts": rows} if complete else {}
    return report(config, begin, tables, interrupted=interrupted)


if __name__ == "__main__":
    main(tyro.cli(Config))
