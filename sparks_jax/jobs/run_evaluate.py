"""One run of `sparks evaluate`: pictures and a network in, a leaderboard out."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from sparks_jax.jobs import measures, methods
from sparks_jax.jobs.evaluate import choose_metrics, evaluate
from sparks_jax.jobs.measure import reads
from sparks_jax.jobs.network import load_network, traced_once
from sparks_jax.jobs.pictures import Picture, Source, read
from sparks_jax.jobs.run import labelled, mesh_of_all, sources_of
from sparks_jax.jobs.store import CSV, PAGE
from sparks_jax.jobs.table import Table

Say = Callable[[str], None]
SMOKE_METHODS = ("saliency", "grad_cam")


class Settings(NamedTuple):
    """What an evaluation is asked to do; the defaults are those of the command line.

    Attributes:
        images: Files and folders; none: the natural photographs of `data.natural`.
        model: A bundled network, `resnet18` … `resnet152` or MODULE:FUNCTION.
        weights: File of weights.
        classes: File of class names.
        methods: Names in `methods.ALL`.
        metrics: Names in `measures.MEASURES`.
        labels: Class to explain, by number or name: none (the predicted one), one for all, or one each.
        size: Side of the network's images in pixels; None for its own.
        chunk: Evaluations of the network at once on each device; None: what suits the device.
        seed: Of the random methods and metrics, of ties and of the bootstrap.
        out: Folder of the results.
        force: Whether an evaluation of something else in that folder is replaced.
        smoke: A quick, rough run: few pictures, few samples.
        quiet: No progress bar.
    """

    images: tuple[str, ...] = ()
    model: str = "efficientnet_lite0"
    weights: str | None = None
    classes: str | None = None
    methods: tuple[str, ...] = methods.DEFAULT
    metrics: tuple[str, ...] = measures.DEFAULT
    labels: tuple[str, ...] = ()
    size: int | None = None
    chunk: int | None = None
    seed: int = 0
    out: Path = Path("sparks-evaluation")
    force: bool = False
    smoke: bool = False
    quiet: bool = False


def run(settings: Settings, *, say: Say) -> int:
    """Evaluate methods on pictures, print the table and write the folder of results.

    Args:
        settings: What to do.
        say: Takes each sentence about what went wrong; the table is printed.

    Returns:
        0; 1 if a picture could not be read or a method could not run.

    Raises:
        ValueError: One sentence about a setting.
        OSError: One sentence about a file or the folder.
    """
    methods.choose(settings.methods)
    for name, metric in choose_metrics(settings.metrics).items():
        if "mask" in reads(metric.call):
            raise ValueError(
                f"{name} compares maps with a known truth, which pictures do not have; give masks to "
                "sparks_jax.evaluate, as experiments/localization_glyphs.py does"
            )
    sources = sources_of(settings.images, smoke=settings.smoke)
    network = load_network(settings.model, weights=settings.weights, classes=settings.classes, size=settings.size)
    asked = labelled(sources, settings.labels, network, say, smoke=settings.smoke)
    read_ones = [
        (picture, label)
        for source, label in asked
        if (picture := _read(source, network.size, network.prepare, say)) is not None
    ]
    if not read_ones:
        say("no picture could be read, so there is nothing to evaluate")
        return 1
    images = np.stack([picture.seen for picture, _ in read_ones])
    predicted = np.concatenate(
        [np.asarray(traced_once(network.model)(image[None]), np.float32).argmax(-1) for image in images]
    )
    labels = np.array([p if label is None else label for (_, label), p in zip(read_ones, predicted, strict=True)])
    table = evaluate(
        settings.methods, settings.metrics, network.model, images, labels, key=jax.random.key(settings.seed),
        mesh=mesh_of_all(), chunk=settings.chunk, progress=False if settings.quiet else None, smoke=settings.smoke,
        out=settings.out, force=settings.force,
    )  # fmt: skip
    _report(table, settings.out)
    return int(len(read_ones) < len(asked) or len(table.makings) < len(table.methods))


def _read(source: Source, size: int, prepare: Callable[[np.ndarray, int], np.ndarray], say: Say) -> Picture | None:
    try:
        return read(source, size, prepare)
    except (OSError, ValueError) as error:
        say(f"{source.path or source.title} was left out: {error}")
        return None


def _report(table: Table, out: Path) -> None:
    print(table)
    if table.cells:
        print(f"The page is {out / PAGE}, the numbers are in {out / CSV}")
