"""Claim: at equal evaluations, images of MACO transfer better than Fourier's from one network, worse from another.

Classes of ImageNet, each from several seeds, in two networks with their real weights: the same classes and keys, as
many evaluations of the network, the same canvas. MACO with its spectrum by formula, that of three real photographs, and
the formula fitted to these; free Fourier coefficients with Lucid's views, once with one view a step as in Lucid, and
once with as many views as MACO has crops and as many steps.

Of each image, whole and without noise: the logit of its class; the rank of the class by the other network, which had no
part in it, and how often it is the first and among the first five; the share of six real photographs with a lower
logit; the distance of its spectrum from that of three photographs, in decades, which are not those that a spectrum of
MACO is from; how alike the images of a class from different seeds are, in the network's features. Differences are
paired by class and seed, and their intervals resample classes.

The distance of the spectrum favours MACO by construction: it is what MACO holds. Transfer does not.

Command:  python experiments/maco_vs_fourier.py [--smoke] [--models efficientnet_lite0] [--out FOLDER]
          A killed run resumes; Ctrl-C compares what there is. Writes tables (CSV), a record (JSON), and a page of the
          images from the first seed for each network (PNG).
Hardware: 2 CPU cores.
Time:     not yet run in full, 150 images of each network: some 4 hours; ten classes in three ways with --seeds 1, 74
          minutes beside other work; --smoke under a minute.
Expected: ten classes, one seed, three ways, log10(1 + rank) by the other network less that of Fourier's with several
          views: Lite0 -0.95 [-1.57, -0.30], with the spectrum of photographs -1.01 [-1.75, -0.22]; SqueezeNet +0.53
          [0.10, 1.02] and +0.68 [0.08, 1.26]. The spectrum further by 0.125 and 0.180 decades, with that of
          photographs nearer by 0.204 and 0.149. Seed 0, jax 0.10.1.
"""

from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from time import perf_counter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from experiments.craft_photos import report
from experiments.maco_imagenet_classes import (
    rank,
    real_images,
    save,
    saved,
    sheet,
)
from sparks_jax import featviz
from sparks_jax.featviz import Spectrum
from sparks_jax.featviz.evaluate import fitted
from sparks_jax.jobs.network import TITLES, find_label
from sparks_jax.jobs.table import interval
from sparks_jax.jobs.visualize import Program, climb, program
from sparks_jax.models import bundled
from sparks_jax.scores import logit

MACO, PHOTOS, FITTED, LUCID, VIEWS = WAYS = (
    "MACO", "MACO, spectrum of photographs", "MACO, fitted to photographs", "Fourier, one view a step",
    "Fourier, several views",
)  # fmt: skip
LOGIT, RANK, LOG, FIRST, FIVE, BELOW, DISTANCE, ALIKE = METRICS = (
    "logit", "rank by the other ↓", "log10(1 + rank) ↓", "top-1 ↑", "top-5 ↑", "real images below ↑",
    "spectrum distance ↓", "alike over seeds",
)  # fmt: skip


@dataclass(frozen=True)
class Config:
    """What is compared, on what."""

    models: tuple[str, ...] = ("efficientnet_lite0", "squeezenet")
    judges: tuple[str, ...] = ("efficientnet_lite0", "squeezenet")  # of those, the other one is asked
    classes: tuple[str, ...] = (
        "monarch", "flamingo", "tiger", "pizza", "strawberry", "castle", "goldfish", "school bus", "daisy", "beacon",
    )  # fmt: skip
    seeds: int = 3
    ways: tuple[str, ...] = WAYS
    canvas: int = 256
    steps: int = 128  # of MACO
    crops: int = 8
    seed: int = 0
    out: Path = Path("sparks-out/maco_vs_fourier")
    smoke: bool = False


def arms(config: Config, bundle: bundled.Bundle) -> dict[str, tuple[Program, Any, int]]:
    """Of each way: its program, what it takes besides the score, and its steps; all cost as many evaluations."""
    shown: Any = dict(input_size=bundle.size, chunk=config.crops)
    several: Any = shown | dict(num_steps=config.steps)
    one: Any = shown | dict(num_steps=config.steps * config.crops)
    ascend = partial(featviz.maco_ascent, values_range=(0, 1), num_crops=config.crops, **several)
    maco = program(lambda pair: ascend(pair[0], spectrum=pair[1]))  # one compilation for all spectra
    lucid = featviz.FOURIER_LUCID
    free = featviz.coefficients(config.canvas, values_range=(0, 1), decay=lucid["decay"])
    ascend_free = partial(featviz.visualize_ascent, canvas=free, learning_rate=lucid["learning_rate"])
    photos = real_images(config.canvas)[::2]
    ways = {
        MACO: (maco, Spectrum.natural(config.canvas), config.steps),
        PHOTOS: (maco, Spectrum.from_images(photos), config.steps),
        FITTED: (maco, Spectrum.fit(photos), config.steps),
        LUCID: (program(lambda pair: ascend_free(pair[0], num_views=1, **one)), None, one["num_steps"]),
        VIEWS: (program(lambda pair: ascend_free(pair[0], num_views=config.crops, **several)), None, config.steps),
    }
    return {way: ways[way] for way in config.ways}


@partial(jax.jit, static_argnums=2)
def similarity(model: Any, images: Any, size: int) -> Any:
    """Of images of one class from several seeds."""
    return featviz.seed_similarity(model.features, jax.vmap(lambda image: fitted(image, (size, size)))(images))


@jax.jit
def judged(model: Any, image: Any, label: Any, photos: Any, apart: Spectrum) -> Any:
    """The logit of a class, the share of photographs with a lower one, and the distance of the spectrum."""
    f, seen = logit(model, label), fitted(image, photos.shape[1:3])
    return f(seen), featviz.share_below(f, seen, photos), featviz.spectrum_distance(image, apart, values_range=(0, 1))


def measured(image: np.ndarray, label: int, bundle: bundled.Bundle, others: list[bundled.Bundle]) -> dict[str, float]:
    """All that is said of one image."""
    apart = Spectrum.from_images(real_images(len(image))[1::2])
    ranks = np.array([int(rank(other.model, jnp.asarray(image), label, other.size)) for other in others] or [np.nan])
    found = judged(bundle.model, jnp.asarray(image), label, jnp.asarray(real_images(bundle.size)), apart)
    seen = lambda test: float(test.mean()) if others else np.nan
    return {
        LOGIT: float(found[0]),
        RANK: seen(ranks),
        LOG: seen(np.log10(1 + ranks)),
        FIRST: seen(ranks < 1),
        FIVE: seen(ranks < 5),
        BELOW: float(found[1]),
        DISTANCE: float(found[2]),
    }


def images_of(config: Config, bundle: bundled.Bundle) -> tuple[dict[tuple[str, int], dict[str, np.ndarray]], bool]:
    """The image of each arm for each class and seed, as far as all arms have one; and whether it was interrupted."""
    ways, folder, done = arms(config, bundle), config.out / bundle.name, {}
    folder.mkdir(parents=True, exist_ok=True)
    made_by = {name: getattr(config, name) for name in ("canvas", "steps", "crops")}
    for seed in range(config.seed, config.seed + config.seeds):
        for name in config.classes:
            f, begin, images = logit(bundle.model, find_label(name, bundle.classes)), perf_counter(), {}
            for way, (run, extra, steps) in ways.items():
                path = folder / f"{name}_{seed}_{way}.npz".replace(" ", "_").replace(",", "")
                settings = made_by | {"seed": seed, "way": way}
                seen = saved(path, settings)
                if seen is None:
                    seen, interrupted = climb(run, (f, extra), key=jax.random.key(seed), num_steps=steps)
                    if interrupted or seen is None:
                        return done, True
                    save(path, seen, settings)
                images[way] = seen.image
            done[name, seed] = images
            print(f"  {name}, seed {seed}: {perf_counter() - begin:.0f} s", flush=True)
    return done, False


def compared(config: Config, bundle: bundled.Bundle, others: list[bundled.Bundle], done: Any) -> tuple[list[Any], ...]:
    """The rows of a network: of each way, of the differences between two, and of each image."""
    network, ways = TITLES[bundle.name], list(next(iter(done.values())))
    each = {
        way: [measured(images[way], find_label(n, bundle.classes), bundle, others) for (n, _), images in done.items()]
        for way in ways
    }
    values = {way: {m: np.array([one[m] for one in found]) for m in METRICS[:-1]} for way, found in each.items()}
    classes = list(dict.fromkeys(name for name, _ in done))
    groups = np.array([classes.index(name) for name, _ in done])
    alike = {way: np.full(len(classes), np.nan) for way in ways}
    for i, name in enumerate(classes):
        of_class = [images for (n, _), images in done.items() if n == name]
        for way in ways if len(of_class) > 1 else ():
            alike[way][i] = similarity(bundle.model, np.stack([im[way] for im in of_class]), bundle.size)
    rows, gaps = [], []
    for way in ways:
        means = {metric: interval(values[way][metric], groups=groups) for metric in METRICS[:-1]}
        rows.append({"network": network, "way": way} | means | {ALIKE: interval(alike[way])})
    held, free = ([way for way in ways if way.startswith(kind)] for kind in ("MACO", "Fourier"))
    for first, second in product(held, free):
        gap = {m: interval(values[first][m] - values[second][m], groups=groups) for m in METRICS[:-1]}
        gap[ALIKE] = interval(alike[first] - alike[second])
        gaps.append({"network": network, "way": first, "minus": second} | gap)
    images = [
        {"network": network, "class": name, "seed": seed, "way": way} | each[way][i]
        for i, (name, seed) in enumerate(done)
        for way in ways
    ]
    return rows, gaps, images


def page(done: dict[tuple[str, int], dict[str, np.ndarray]]) -> Any:
    """The images from the first seed: a row for each way."""
    first = min(seed for _, seed in done)
    names = [name for name, seed in done if seed == first]
    ways = list(done[names[0], first])
    return sheet([done[n, first][way] for way in ways for n in names], [n for _ in ways for n in names], len(names))


def main(config: Config) -> dict[str, Any]:
    """Print the tables, write them, the pages and the record, and return it."""
    if config.smoke:
        config = replace(
            config, models=("glyphs",), judges=("glyphs",), classes=("ring", "cross"), seeds=2, canvas=72, steps=4,
            crops=2, ways=(MACO, LUCID),
        )  # fmt: skip
    begin, interrupted = perf_counter(), False
    rows, gaps, images = [], [], []
    config.out.mkdir(parents=True, exist_ok=True)
    networks = {name: bundled.load(name) for name in dict.fromkeys(config.models + config.judges)}
    for name in config.models:
        print(f"{TITLES[name]}:", flush=True)
        others = [networks[judge] for judge in config.judges if judge != name]
        done, interrupted = images_of(config, networks[name])
        if done:
            for all_of_it, found in zip(
                (rows, gaps, images), compared(config, networks[name], others, done), strict=True
            ):
                all_of_it += found
            page(done).savefig(config.out / f"{name}.png", dpi=80)
        if interrupted:
            break
    tables = {"table": rows, "differences": gaps} if rows else {}
    return report(config, begin, tables, images=images, interrupted=interrupted)


if __name__ == "__main__":
    main(tyro.cli(Config))
