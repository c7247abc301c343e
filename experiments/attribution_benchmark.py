"""Claim: at equal evaluations Sobol' maps are at least as faithful as RISE maps; what every other method is worth.

Every attribution method × the metrics that need no ground truth, on two networks with their real ImageNet weights, over
the real photographs that scikit-image and scikit-learn ship: six of them, which is few, and the intervals say so; with
`--data` over photographs of your own. With `--crops` there are more images; those of a photograph are resampled
together, so the intervals still speak of photographs. Methods that sample the network are given the same number of
evaluations, 512 or a few more; Sobol' and RISE are also run at the 2112 of Sobol's defaults, which the claim is about.
Metrics that ask a method for dozens of further maps (stability, randomisation) are not among the default ones, for
hours of sampled maps: `localization_glyphs.py` has them on a small network; `--metrics` adds them here.

Command:  python experiments/attribution_benchmark.py [--smoke] [--models squeezenet] [--data FOLDER] [--out FOLDER]
Hardware: 2 CPU cores.
Time:     hours, not yet run in full; half an hour of a busy machine for a network, three metrics and `--compared`
          empty, which is what the README has; --smoke a minute. A killed run resumes.
Expected: the tables of the README, and the paired differences Sobol' − RISE printed below them: on 24 photographs of
          ImageNet and at 512 evaluations, deletion -0.019 [-0.036, -0.003] on Lite0, -0.004 [-0.022, 0.011] on
          SqueezeNet; insertion -0.137 [-0.171, -0.103] and -0.116 [-0.179, -0.053].
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro

from sparks_jax import attribution, evaluate
from sparks_jax.data import folder, photographs
from sparks_jax.jobs.measures import MEASURES, Metric
from sparks_jax.jobs.methods import METHODS, Method
from sparks_jax.jobs.table import Table, compare, show
from sparks_jax.models import bundled


@dataclass(frozen=True)
class Config:
    """What is compared, on what."""

    models: tuple[str, ...] = ("efficientnet_lite0", "squeezenet")
    data: Path | None = None  # a folder of pictures, in place of those that ship with packages
    drawn: int = 50  # of the pictures in the folder, at random
    crops: int = 1  # of each photograph: its centre, then its corners
    zoom: float = 1.0  # side of a crop over the smaller side of the photograph
    metrics: tuple[str, ...] = (
        *("deletion", "insertion", "deletion_rise", "insertion_rise", "irof", "region_perturbation", "road"),
        *("sufficiency", "comprehensiveness", "mu_fidelity", "infidelity", "average_drop", "average_gain"),
        *("completeness", "robustness_sr", "robustness_complement", "entropy", "gini", "jpeg_bytes"),
    )
    methods: tuple[str, ...] = ()  # none: all
    evaluations: int = 512  # of each method that samples the network, or a few more
    compared: tuple[int, ...] = (2112,)  # further numbers of evaluations of Sobol' and RISE, which the claim is about
    seed: int = 0
    out: Path = Path("attribution_benchmark")
    force: bool = False
    smoke: bool = False


# Attacks as strong as the defaults would take as long as everything else together: these find radii that are larger,
# for all methods alike.
ATTACKS = dict(fractions=(0.1, 0.3, 0.5), steps=5, num_bisections=6)


def crops(pixels: np.ndarray, count: int, zoom: float) -> list[np.ndarray]:
    """Square crops of a photograph: its centre, then its corners."""
    height, width, _ = pixels.shape
    side = int(zoom * min(height, width))
    down, right = height - side, width - side
    places = [(down // 2, right // 2), (0, 0), (0, right), (down, 0), (down, right)]
    return [pixels[top : top + side, left : left + side] for top, left in places[:count]]


def measures(config: Config) -> dict[str, Metric]:
    """The metrics, attacks at a size that can be afforded."""
    chosen = {name: MEASURES[name] for name in config.metrics}
    for name in {"robustness_sr", "robustness_complement"}.intersection(chosen):
        chosen[name] = chosen[name]._replace(call=partial(chosen[name].call, **ATTACKS))
    return chosen


def methods(config: Config) -> dict[str, Method]:
    """The methods, those that sample the network at as many evaluations each, and the two of the claim."""
    names = config.methods or METHODS
    smaller = at_evaluations(config.evaluations)
    chosen = {name: METHODS[name]._replace(call=smaller.get(name, METHODS[name].call)) for name in names}
    for count in config.compared:
        larger = at_evaluations(count)
        for name in {"sobol", "rise"}.intersection(names):
            title = f"{METHODS[name].title}, {count}"
            chosen[f"{name}_{count}"] = METHODS[name]._replace(call=larger[name], title=title)
    return chosen


def at_evaluations(count: int) -> dict[str, Callable[..., Any]]:
    """The methods that sample the network, with so many evaluations or a few more."""
    designs, samples = dict(num_designs=-(-count // 66)), dict(num_samples=count)
    return {
        "sobol": partial(attribution.sobol, **designs),
        "sobol_first": partial(attribution.sobol_first, **designs),
        "sobol_signed": partial(attribution.sobol_signed, **designs),
        "hsic": partial(attribution.hsic, num_points=count),
        "rise": partial(attribution.rise, num_masks=count),
        "kernel_shap": partial(attribution.kernel_shap, **samples),
        "lime": partial(attribution.lime, **samples),
    }


def pictures(config: Config) -> dict[str, np.ndarray]:
    """Photographs by name: those that ship with packages, or some of a folder."""
    if config.data is None:
        return photographs(("chelsea", "coffee")) if config.smoke else photographs()
    paths = folder.list_images(config.data)
    some = np.random.default_rng(config.seed).permutation(len(paths))[: 2 if config.smoke else config.drawn]
    return {paths[i].name: folder.read_image(paths[i]) for i in some}


def images_of(config: Config, bundle: bundled.Bundle) -> tuple[np.ndarray, np.ndarray]:
    """The images as the network takes them, and the photograph that each comes from."""
    taken = pictures(config)
    cut = {name: crops(pixels, 1 if config.smoke else config.crops, config.zoom) for name, pixels in taken.items()}
    images = [bundled.prepare(crop, bundle.size) for several in cut.values() for crop in several]
    return np.stack(images), np.repeat(np.arange(len(cut)), [len(several) for several in cut.values()])


def run(name: str, config: Config) -> Table:
    """One network's table."""
    bundle = bundled.load(name)
    images, groups = images_of(config, bundle)
    model = jax.jit(lambda model, x: model(x))
    labels = np.concatenate([np.asarray(model(bundle.model, x[None])).argmax(-1) for x in images])
    return evaluate(
        methods(config), measures(config), bundle.model, images, labels, key=jax.random.key(config.seed), groups=groups,
        progress=None, smoke=config.smoke, out=config.out / name, force=config.force,
    )  # fmt: skip


def main(config: Config) -> dict[str, Table]:
    """Print a table for each network and the comparison at equal evaluations."""
    tables = {}
    for name in config.models[:1] if config.smoke else config.models:
        table = tables[name] = run(name, config)
        print(f"\n{name}: {table.about['images']} images, seed {config.seed}, {table.about['device']}\n{table}")
        pairs = {str(config.evaluations): ("sobol", "rise")}
        pairs |= {str(count): (f"sobol_{count}", f"rise_{count}") for count in config.compared}
        for (count, pair), metric in itertools.product(pairs.items(), table.metrics):
            if {(name, metric) for name in pair} <= set(table.cells):
                print(f"Sobol' − RISE at some {count} evaluations, {metric}: {show(compare(table, metric, *pair))}")
    return tables


if __name__ == "__main__":
    main(tyro.cli(Config))
