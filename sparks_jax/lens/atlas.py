"""An atlas, built: a network and images in, a folder of classes out, that a killed build goes on from.

Predictions of all images say which class each is an image of; classes are studied in batches; each is written when it
is done. Processes of `jax.distributed` take every so many-th batch, and the first of them writes the index: the bundle
is the same, to the byte, however many there are.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

import sparks_jax.lens.black_boxes as black_boxes
import sparks_jax.lens.costs as costs
import sparks_jax.lens.schema as schema
from sparks_jax import __version__
from sparks_jax.jobs import outputs
from sparks_jax.jobs.batches import default_chunk
from sparks_jax.jobs.concepts import check_halves
from sparks_jax.jobs.network import Network
from sparks_jax.jobs.store import fingerprint
from sparks_jax.jobs.versions import device, versions
from sparks_jax.lens.bundle import ATLAS, MAKING, class_id, write_record
from sparks_jax.lens.calibrate import Probe, calibrate, probe
from sparks_jax.lens.describe import Facts, describe
from sparks_jax.lens.index import add_atlas, entry_of
from sparks_jax.lens.intervals import LEVEL, proportion
from sparks_jax.lens.links import link
from sparks_jax.lens.pictures import Painter, painter
from sparks_jax.lens.predictions import Member, Predictions, asked, kept, members, predict, read_images
from sparks_jax.lens.programs import directions, forward, halves, spread
from sparks_jax.lens.progress import Progress, progress
from sparks_jax.lens.schema import FORMAT, VERSION
from sparks_jax.lens.settings import Settings, check
from sparks_jax.lens.shown import Gallery, show
from sparks_jax.lens.sources import Source
from sparks_jax.lens.studies import Engine, boxes_of, engine, one_study, study_batch
from sparks_jax.lens.work import Place, alone, open_place

Say = Callable[[str], None]
INDEX_EVERY = 2.0  # seconds between two indices while a build goes on


class Title(NamedTuple):
    """What an atlas is called.

    Attributes:
        id: Its folder.
        title: For people.
        load: The name by which the command line loads the network; None if it cannot.
    """

    id: str
    title: str
    load: str | None = None


class Build(NamedTuple):
    """A build under way.

    Attributes:
        place: Where.
        title: What it is called.
        engine: The programs.
        painter: Of the pictures.
        source: The images.
        probe: What the first images told.
        units: What work takes.
        clock: What it took.
        say: Takes sentences.
        quiet: Whether progress is not shown.
    """

    place: Place
    title: Title
    engine: Engine
    painter: Painter
    source: Source
    probe: Probe
    units: costs.Units
    clock: costs.Clock
    say: Say
    quiet: bool


def build_atlas(
    root: Path, title: Title, network: Network, source: Source, settings: Settings,
    *, force: bool = False, quiet: bool = False, devices: Sequence[Any] | None = None, say: Say = lambda text: None,
) -> Path:  # fmt: skip
    """Build an atlas of a bundle, or go on where a build was killed.

    Args:
        root: Of the bundle.
        title: What the atlas is called.
        network: With `features` and `head`.
        source: The images.
        settings: How many concepts of how many images, and what is made of them.
        force: Whether an atlas of another network, other images or settings is replaced.
        quiet: Whether progress is not shown.
        devices: Of this process; None for all.
        say: Takes sentences: the forecast, progress, what it took.

    Returns:
        The folder of the atlas.

    Raises:
        ValueError: For settings out of range, an unknown class, a network without halves, images that make no class.
        FileExistsError: If the folder holds something else.
        BlockingIOError: If another build is writing it.
        RuntimeError: If another of the processes that share the build failed.
    """
    check(settings)
    check_halves(network)
    asked(settings, network)  # a misspelt class is found now
    devices = jax.local_devices() if devices is None else devices
    settings = settings._replace(chunk=settings.chunk or default_chunk())
    made_of = (network.classes, network.size, source.identity, settings)
    print_of = fingerprint(VERSION, __version__, network.model, made_of)
    first, place = jax.process_index() == 0, Place(root / title.id, print_of)
    say, quiet = (say, quiet) if first else (lambda text: None, True)  # one voice
    with ExitStack() as held:
        with _together("opening its folder"):
            if first:
                held.enter_context(alone(place.folder))
                open_place(place.folder, print_of, force=force)
        with _together("looking at the first images"):
            build = _prepared(place, title, network, source, settings, devices, say, quiet)
        _run(build)
    return place.folder


def _prepared(
    place: Place, title: Title, network: Network, source: Source, settings: Settings, devices: Sequence[Any], say: Say,
    quiet: bool,
) -> Build:  # fmt: skip
    """Programs, and what they take here."""
    chunk = settings.chunk or 1
    cut, clock = halves(network), costs.Clock()
    run = spread(forward, devices)
    images, _ = read_images(source, network, range(min(chunk * len(devices), len(source.labels))))
    found = probe(run, (cut.features, cut.head), images, chunk * len(devices))
    paints = painter(network.size, settings, chunk, devices)
    units = calibrate(found, cut, paints, settings)
    made = engine(network, cut, settings, chunk, devices, run, found.signed)
    return Build(place, title, made, paints, source, found, units, clock, say, quiet)


def _run(build: Build) -> None:
    settings, source, network = build.engine.settings, build.source, build.engine.network
    guess = _guess(build)
    build.say(f"{build.title.id}: {costs.sentence(guess, build.units, _forecast(build, guess), build.clock.total())}")
    with build.clock.stage(costs.PREDICT), _together("predicting"):
        for _ in predict(build.place, source, network, build.engine.forward, build.engine.shared, build.engine.size,
                         mine=_mine):  # fmt: skip
            pass
    predictions = kept(build.place, source)
    found = members(predictions, source, network, settings)
    work = _work(build, [len(one.rows) for one in found])
    seconds = _forecast(build, work)
    if work != guess:
        build.say(f"{build.title.id}: now known: {costs.sentence(work, build.units, seconds, build.clock.total())}")
    facts = _facts(build, predictions)
    total = sum(seconds.values()) - seconds[costs.PREDICT]
    with progress(total, build.clock, build.say, quiet=build.quiet) as shown, _together("studying classes"):
        entries = _classes(build, found, facts, seconds, shown)
    with _together("writing the index"):
        if jax.process_index() == 0:
            _finish(build, found, facts, entries, work, seconds)
            build.place.clear()


# --- how much there is ------------------------------------------------------------------------------------


def _guess(build: Build) -> costs.Work:
    """Before anything is predicted: as if every image were taken for its class, or all classes were as large."""
    settings, labels = build.engine.settings, build.source.labels
    if build.source.labelled:
        sizes = np.bincount(labels[labels >= 0])
    else:
        most = settings.max_classes or len(settings.only) or len(build.engine.network.classes)
        num = max(1, min(most, len(labels) // max(settings.least, 1)))
        sizes = np.full(num, len(labels) // num)
    sizes = np.sort(np.minimum(sizes[sizes >= settings.least], settings.most))[::-1]
    return _work(build, sizes[: settings.max_classes].tolist())


def _work(build: Build, sizes: list[int]) -> costs.Work:
    settings, halves = build.engine.settings, build.engine.halves
    per = len(boxes_of(settings, build.engine.network.size, halves.grid))
    rows = len(sizes) * settings.most * per * halves.grid[-1]  # as padded
    crops = sum(sizes) * per if settings.view == "crops" else 0
    return costs.Work(len(build.source.labels), len(sizes), sum(sizes), crops, rows)


def _forecast(build: Build, work: costs.Work) -> dict[str, float]:
    settings, size, early = build.engine.settings, build.engine.network.size, build.engine.halves.early is not None
    hidden, processes = black_boxes.evaluations(settings.black_box, size), jax.process_count()
    return costs.forecast(work, build.units, settings, early=early, evaluations=hidden, processes=processes)


def _facts(build: Build, predictions: Predictions) -> Facts:
    """The direction of each class: that of an affine head everywhere, else where the first images are on average."""
    labels = np.arange(build.engine.halves.num_classes)
    found = np.asarray(jax.jit(directions)(build.engine.halves.head, build.probe.acts, labels))
    return Facts(build.place.fingerprint, predictions, found, labels)


# --- classes ----------------------------------------------------------------------------------------------


def _classes(
    build: Build, found: list[Member], facts: Facts, seconds: dict[str, float], shown: Progress
) -> dict[int, schema.ClassEntry]:
    """Study and write the classes of this process, batch by batch; lines of the index, by label."""
    settings, number = build.engine.settings, len(build.engine.devices)
    width = min(settings.at_once, -(-len(found) // number)) * number
    batches = [(i // width, found[i : i + width]) for i in range(0, len(found), width) if _mine(i // width)]
    entries, written, total = {}, 0.0, sum(len(batch) for _, batch in batches)
    each = {stage: seconds[stage] / max(total, 1) for stage in seconds}
    for i, batch in batches:
        there = {one.label: build.place.finished(_file(one.label)) for one in batch}
        studies = {} if all(there.values()) else _studied(build, batch, width, i)
        shown.advance(len(batch) * (each[costs.ACTS] + each[costs.FIT]))
        for j, one in enumerate(batch):
            ready = there[one.label]
            if ready is None:
                tick = lambda stage, share: shown.advance(share * each[stage])
                ready = _one_class(build, one, one_study(studies, j, len(one.rows), _per(build)), facts, tick)
                shown.finished(ready[0].name, len(entries) + 1, total)
            entries[one.label] = entry_of(*ready)
            shown.advance(each[costs.WRITE])
            if jax.process_index() == 0 and time.perf_counter() - written > INDEX_EVERY:
                _write_index(build, facts, [entries[label] for label in sorted(entries)], None)
                written = time.perf_counter()
    return entries


def _studied(build: Build, batch: list[Member], width: int, number: int) -> dict[str, np.ndarray]:
    return study_batch(build.engine, build.place, build.source, batch, width, number, build.clock)


def _per(build: Build) -> int:
    return len(boxes_of(build.engine.settings, build.engine.network.size, build.engine.halves.grid))


def _file(label: int) -> str:
    return f"classes/{class_id(label)}.json"


def _one_class(
    build: Build, member: Member, one: dict[str, np.ndarray], facts: Facts, tick: Callable[[str, float], None]
) -> tuple[schema.ClassRecord, str]:
    gallery = Gallery(build.place.folder, build.engine, build.source, member, one)
    shown = show(gallery, build.painter, build.clock, tick)
    with build.clock.stage(costs.WRITE):
        record = describe(gallery, shown, facts)
        return record, write_record(build.place.folder / _file(member.label), record)


# --- the index --------------------------------------------------------------------------------------------


def _finish(
    build: Build, found: list[Member], facts: Facts, entries: dict[int, schema.ClassEntry], work: costs.Work,
    seconds: dict[str, float],
) -> None:  # fmt: skip
    """The index, after all processes are done; the concepts of all classes; what it took."""
    with build.clock.stage(costs.LINK):
        records = []
        for one in found:
            ready = build.place.finished(_file(one.label))
            assert ready is not None, f"class {one.label} is not there: another process failed"
            records.append(ready[0])
            entries[one.label] = entry_of(*ready)
        arrays = link(build.place.folder, records, build.engine.settings.plane_steps)
        _write_index(build, facts, [entries[one.label] for one in found], arrays)
    told = costs.record(work, build.units, seconds, build.clock)
    told |= {"fingerprint": build.place.fingerprint, "versions": versions(), "device": device()}
    outputs.write(build.place.folder / MAKING, outputs.as_json(told))
    took, thought = told["measured"]["total"], told["forecast"]["total"]
    build.say(
        f"{build.title.id}: {len(found)} classes in {costs.duration(build.clock.total())}; after compiling "
        f"{costs.duration(took)}, where the forecast was {costs.duration(thought)}"
    )


def _write_index(build: Build, facts: Facts, entries: list[schema.ClassEntry], arrays: schema.ArrayFile | None) -> None:
    network, source, halves = build.engine.network, build.source, build.engine.halves
    told = (source.labels >= 0) & facts.predictions.readable
    right = (source.labels == facts.predictions.first)[told].sum()
    settings = build.engine.settings._asdict()
    settings["only"] = ", ".join(settings["only"])
    known = sorted(source.known(0)) if source.known is not None else []
    record = schema.AtlasRecord(
        FORMAT, VERSION, build.place.fingerprint, build.title.id, build.title.title,
        f"{network.name} on {source.name}. {source.about}", arrays is not None, LEVEL,
        schema.Model(network.name, network.about, network.size, halves.num_classes, halves.layer, halves.affine,
                     build.title.load),
        schema.Data(source.name, source.about, len(source.labels), source.labelled, proportion(right, told.sum())),
        list(network.classes), settings, entries, arrays, known,
    )  # fmt: skip
    write_record(build.place.folder / ATLAS, record)
    add_atlas(build.place.folder.parent, record)


# --- processes --------------------------------------------------------------------------------------------


def _mine(number: int) -> bool:
    """Whether a piece of work is this process's."""
    return number % jax.process_count() == jax.process_index()


@contextmanager
def _together(what: str) -> Iterator[None]:
    """What all processes do before any goes on; where it fails in one it fails in all, and none waits for ever."""
    try:
        yield
    except Exception:
        _all_well(False)
        raise
    if not _all_well(True):
        raise RuntimeError(f"another process of this build failed at {what}, and says why")


def _all_well(well: bool) -> bool:
    if jax.process_count() == 1:
        return well
    from jax.experimental import multihost_utils

    return bool(multihost_utils.process_allgather(np.array(well)).all())
