"""Claim: attribution methods find the glyph that decides the class; of a network that cheats, they show the tag.

Every image of the glyph world has a tag in a corner whose colour agrees with the class. The bundled network was trained
where the colour of a tag says nothing, and reads the glyph. A second one is trained here where it says everything, and
needs not look further. Same images, same labels, both right: only an explanation tells them apart. Each method is asked
where its map lies, on the glyph, on the tag or on the distractors, which are glyphs of no meaning; two maps that know
no network, noise and the edges of the image, are the level to beat.

Command:  python experiments/localization_glyphs.py [--smoke] [--out FOLDER]
          A killed run resumes. Writes tables (CSV, JSON, HTML), a record and a picture of the maps.
Hardware: 2 CPU cores.
Time:     some 40 minutes of CPU time on a busy machine, and most of an hour for the leaderboard of twelve methods
          beside other work; --smoke half a minute.
Expected: on the network that reads the glyph, maps above the level to beat; on the other, most of them on the tag.
"""

import json
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jax.sharding import Mesh
from scipy.stats import binomtest

from experiments import train_glyphs
from experiments.attribution_benchmark import at_evaluations
from sparks_jax import attribution, evaluate, metrics, viz
from sparks_jax.data.glyphs import CLASSES, Glyphs, glyphs
from sparks_jax.jobs.measures import MEASURES, Metric
from sparks_jax.jobs.methods import METHODS, Method
from sparks_jax.jobs.table import Interval, Table, interval, show
from sparks_jax.models import bundled


@dataclass(frozen=True)
class Config:
    """What is compared, on what."""

    images: int = 32
    asked_again: int = 8  # images for the metrics that attack the network, or ask a method for dozens of further maps
    tested: int = 1024  # images for the accuracies
    methods: tuple[str, ...] = ()  # none: all
    evaluations: int = 512  # of each method that samples the network, or a few more
    steps: int = 400  # of the training of the network that cheats
    chunk: int = 32
    pictures: int = 4
    seed: int = 0
    out: Path = Path("sparks-out/localization")
    force: bool = False
    smoke: bool = False


READS_GLYPH, READS_TAG = NETWORKS = "reads the glyph", "reads the tag"
GLYPH, TAG, DISTRACTOR = 1, 2, 3  # in the masks
TOLERANCE = 4  # pixels of 64: what 15 pixels are in images of 224
SHOWN = ("saliency", "integrated_gradients", "smoothgrad", "guided_backprop", "grad_cam", "sobol", "rise", "lime")
EDGES, NOISE = "edges of the image", "noise"


def noise(f: Any, x: Any, *, key: Any) -> Any:
    """A map of noise."""
    return jax.random.uniform(key, x.shape[:2])


def edges(f: Any, x: Any) -> Any:
    """The steps between neighbouring pixels, which are large around every glyph."""
    down, right = (
        jnp.abs(jnp.diff(x, axis=axis, append=jax.lax.slice_in_dim(x, -1, None, axis=axis))) for axis in (0, 1)
    )
    return (down + right).sum(-1)


def on(part: int, metric: Any) -> Any:
    """A metric of localization with one part of the image as its truth."""

    def measured(heatmap: Any, mask: Any) -> Any:
        return metric(heatmap, mask == part)

    return measured


METRICS = {
    "pointing": Metric(on(GLYPH, partial(metrics.pointing_game, tolerance=TOLERANCE)), "Pointing", higher=True),
    "mass": Metric(on(GLYPH, metrics.relevance_mass), "Mass on the glyph", higher=True),
    "rank": Metric(on(GLYPH, metrics.relevance_rank), "Rank of the glyph", higher=True),
    "auc": Metric(on(GLYPH, metrics.localization_auc), "AUC of the glyph", higher=True),
    "mass on distractors": Metric(on(DISTRACTOR, metrics.relevance_mass), "Mass on distractors"),
    "mass on the tag": Metric(on(TAG, metrics.relevance_mass), "Mass on the tag"),
    "pointing at the tag": Metric(on(TAG, partial(metrics.pointing_game, tolerance=TOLERANCE)), "Pointing at the tag"),
}  # fmt: skip
FAITHFUL = ("deletion", "insertion", "mu_fidelity", "infidelity", "sufficiency")
COPIES = 5  # noisy ones, of each image, where the defaults of the metrics are 20 and 10
DEAR = ("robustness_sr", "average_stability", "max_sensitivity", "random_logit", "model_randomization")


def methods(config: Config) -> dict[str, Method]:
    """The methods, at sizes for images of 64 pixels, and the two that know no network."""
    smaller = at_evaluations(config.evaluations) | {"occlusion": partial(attribution.occlusion, patch=8, stride=4)}
    chosen = {name: METHODS[name] for name in config.methods or METHODS}
    chosen |= {name: chosen[name]._replace(call=call) for name, call in smaller.items() if name in chosen}
    return chosen | {EDGES: Method(edges, EDGES, "", 0), NOISE: Method(noise, NOISE, "", 0)}


def cheat(config: Config) -> Any:
    """A network trained where the colour of a tag is always that of the class; untrained for a smoke test."""
    training = train_glyphs.Config(
        out=config.out / "training", steps=config.steps, shortcut=1.0, agreement=1.0, seed=config.seed, every=100
    )
    if config.smoke:
        return train_glyphs.network(jax.jit(partial(train_glyphs.create, training))())
    return train_glyphs.train(training, Mesh(np.array(jax.devices()), ("data",)))


def accuracy(model: Any, world: Glyphs) -> dict[str, float]:
    """Of a network on some images, with its interval of 95 %."""
    right = int((jax.jit(lambda model, x: model(x))(model, world.images).argmax(-1) == world.labels).sum())
    interval = binomtest(right, len(world.labels)).proportion_ci(method="wilson")
    return {"mean": right / len(world.labels), "low": interval.low, "high": interval.high}


def truth(world: Glyphs) -> np.ndarray:
    """What each pixel belongs to."""
    parts = {GLYPH: world.masks, TAG: world.tags, DISTRACTOR: world.distractors.any(1)}
    return sum(part * np.asarray(where, np.int32) for part, where in parts.items())


def main(config: Config) -> dict[str, Any]:
    """Print a table for each network, and by how much more the maps of the second lie on the tag."""
    if config.smoke:
        config = replace(config, images=2, tested=2, pictures=1, methods=("saliency", "grad_cam"), chunk=2)
    holds, broken = (
        jax.tree.map(np.asarray, glyphs(config.tested, key=jax.random.key(config.seed + 7), shortcut=1.0, agreement=a))
        for a in (1.0, 0.0)
    )
    world = jax.tree.map(lambda a: a[: config.images], holds)
    networks = {READS_GLYPH: bundled.load("glyphs").model, READS_TAG: cheat(config)}
    found, tables = {}, {}
    for name, model in networks.items():
        found[name] = {"tag of the class": accuracy(model, holds), "tag of a random class": accuracy(model, broken)}
        print(f"\nThe network that {name}: accuracies {json.dumps(found[name])}")
        tables[name] = evaluate(
            methods(config), METRICS, model, world.images, world.labels, masks=truth(world), chunk=config.chunk,
            key=jax.random.key(config.seed), smoke=config.smoke, out=folder(config, name), force=config.force,
        )  # fmt: skip
        print(tables[name])
    shifts = {method: shift(tables, method) for method in tables[READS_TAG].makings}
    print(f"\nMass on the tag, of the network that {READS_TAG} minus the other:")
    print("\n".join(f"{method:24} {show(of)}" for method, of in shifts.items()))
    record = {"accuracies": found, "shifts": {method: of._asdict() for method, of in shifts.items()}}
    (config.out / "run.json").write_text(json.dumps(record, indent=2))
    draw(config, world)
    leaderboard(config, networks[READS_GLYPH], world)
    return record


def leaderboard(config: Config, model: Any, world: Glyphs) -> None:
    """The metrics that need no ground truth, of the network that reads the glyph: the same methods, the same images."""
    asked = {"faithfulness": (FAITHFUL, config.images), "stability": (DEAR, config.asked_again)}
    for title, (names, count) in asked.items():
        chosen = {name: MEASURES[name] for name in (names[:1] if config.smoke else names)}
        for name in ("average_stability", "max_sensitivity"):
            if name in chosen and not config.smoke:
                chosen[name] = chosen[name]._replace(call=partial(chosen[name].call, num_samples=COPIES))
        table = evaluate(
            methods(config), chosen, model, world.images[:count], world.labels[:count], chunk=config.chunk,
            key=jax.random.key(config.seed), smoke=config.smoke, out=folder(config, title), force=config.force,
        )  # fmt: skip
        print(f"\n{count} images\n{table}")


def shift(tables: dict[str, Table], method: str) -> Interval:
    """By how much more of a method's map lies on the tag, image by image."""
    first, second = (tables[name].cells[method, "mass on the tag"].values for name in (READS_TAG, READS_GLYPH))
    return interval(first - second)


def folder(config: Config, name: str) -> Path:
    """Where the evaluation of a network is kept."""
    return config.out / name.replace(" ", "_")


def draw(config: Config, world: Glyphs) -> None:
    """A picture of the maps: for each image a row of the first network and a row of the second."""
    maps = {}
    for name in [name for name in SHOWN if name in (config.methods or METHODS)]:
        archives = (np.load(folder(config, network) / "maps" / f"{name}.npz") for network in NETWORKS)
        pairs = zip(*(archive["importance"][: config.pictures] for archive in archives), strict=True)
        maps[METHODS[name].title] = [heatmap for pair in pairs for heatmap in pair]
    seen = [(image, label, name) for image, label in zip(world.images, world.labels, strict=True) for name in NETWORKS]
    images, labels, names = zip(*seen[: 2 * config.pictures], strict=True)
    titles = [f"{CLASSES[label]}: {name}" for label, name in zip(labels, names, strict=True)]
    viz.grid(images, maps, titles, side=1.6).savefig(config.out / "maps.png", dpi=120)


if __name__ == "__main__":
    main(tyro.cli(Config))
