"""What a build will take, said before it starts and held against what it then took.

A build is a number of forward passes, of backward passes, and of products with the activations; a second or two of
measuring says what each takes here.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from sparks_jax.jobs.markup import count
from sparks_jax.lens.settings import Settings

PREDICT, ACTS, FIT, MAPS, BLACK, PARTS, PICTURES, WRITE, LINK = (
    "predictions", "activations", "factorization", "maps", "black-box maps", "sub-concepts", "pictures", "writing",
    "links",
)  # fmt: skip
STAGES = (PREDICT, ACTS, FIT, MAPS, BLACK, PARTS, PICTURES, WRITE, LINK)
# Of a class, on the host: crops cut and encoded, hashes; measured, and little.
WRITING = 0.6
# Compiling a program with its derivative, over that of the one of pictures, which is measured.
COMPILING = {MAPS: 0.8, PARTS: 0.6}


class Units(NamedTuple):
    """Seconds, measured here.

    Attributes:
        forward: Of an image through the network.
        backward: Of an image there and back.
        view: Of a crop of a picture there and back, which may be smaller.
        product: Of one product of all concepts with a number of the activations of views, in a factorization.
        compile_forward: Compiling the first.
        compile_backward: Compiling the second.
        compile_fit: Compiling the factorization of a class, and what is measured of it.
    """

    forward: float
    backward: float
    view: float
    product: float
    compile_forward: float
    compile_backward: float
    compile_fit: float


class Work(NamedTuple):
    """How much there is to do.

    Attributes:
        images: All that are looked at.
        classes: That are studied.
        members: Images of these, together.
        views: Crops of these that are run through the network.
        rows: Rows of activations that are factorized, times their channels.
    """

    images: int
    classes: int
    members: int
    views: int
    rows: int


def forecast(
    work: Work, units: Units, settings: Settings, *, early: bool, evaluations: int = 0, processes: int = 1
) -> dict[str, float]:
    """Seconds of each stage.

    Args:
        work: How much there is.
        units: What each takes.
        settings: Of the build.
        early: Whether the network can be cut earlier, for sub-concepts.
        evaluations: Of the network, for the maps of an image by a black-box method.
        processes: That share the images and the classes; each compiles for itself.
    """
    classes = work.classes
    views = classes * settings.pictures * settings.picture_steps * settings.picture_crops
    parts = classes * min(settings.parts, settings.rank) if early else 0
    # Two factorizations, each step two products with the activations; what is measured besides is as much again.
    products = 2 * 2 * settings.steps * work.rows * 2
    maps = classes * settings.exhibits * settings.rank
    part_views = parts * settings.part_images
    hidden = classes * settings.exhibits * evaluations
    compiling = {FIT: units.compile_fit, BLACK: units.compile_forward if hidden else 0.0}
    compiling |= {
        stage: COMPILING[stage] * units.compile_backward for stage, some in ((MAPS, maps), (PARTS, parts)) if some
    }
    shared = {
        PREDICT: work.images * units.forward,
        ACTS: (work.members + work.views) * units.forward,
        FIT: products * units.product,
        MAPS: maps * units.backward,
        BLACK: hidden * units.forward,
        PARTS: part_views * units.backward,
        PICTURES: views * units.view,
        WRITE: WRITING * classes,
    }
    seconds = {stage: compiling.get(stage, 0.0) + value / processes for stage, value in shared.items()}
    return seconds | {LINK: 2.0 + 1e-7 * (classes * settings.rank) ** 2}


def sentence(work: Work, units: Units, seconds: dict[str, float], spent: float) -> str:
    """The forecast in words.

    Args:
        work: How much there is.
        units: What each takes.
        seconds: From `forecast`.
        spent: Seconds of compiling and measuring that are over.
    """
    return (
        f"{count(work.images, 'image')}, {count(work.classes, 'class', 'es')} with {count(work.members, 'image')} and "
        f"{count(work.views, 'crop')}; {1000 * units.forward:.1f} ms a forward pass, {1000 * units.backward:.1f} ms "
        f"there and back: about {duration(sum(seconds.values()))} more, after {duration(spent)} of compiling"
    )


def duration(seconds: float) -> str:
    """Seconds in words, the smaller unit rounded down.

    Example:
        >>> duration(3.2), duration(150.0), duration(7300.0)
        ('3 s', '2 min 30 s', '2 h 1 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


class Clock:
    """Seconds of each stage, as they pass, and how much is left of the forecast."""

    def __init__(self) -> None:
        """Start."""
        self.seconds: dict[str, float] = dict.fromkeys(STAGES, 0.0)
        self.start = time.perf_counter()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count what is inside to a stage.

        Args:
            name: One of `STAGES`.
        """
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] += time.perf_counter() - begin

    def total(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self.start


def record(work: Work, units: Units, seconds: dict[str, float], clock: Clock) -> dict[str, Any]:
    """The forecast beside what happened, for `build.json`.

    Args:
        work: How much there was.
        units: What each took when measured.
        seconds: From `forecast`.
        clock: What the stages took.
    """
    digits = lambda numbers: {name: round(value, 3) for name, value in numbers.items()}
    return {
        "work": work._asdict(),
        "units": {name: float(f"{value:.4g}") for name, value in units._asdict().items()},
        "forecast": digits(seconds) | {"total": round(sum(seconds.values()), 3)},
        "measured": digits(clock.seconds) | {"total": round(sum(clock.seconds.values()), 3)},
        "wall": round(clock.total(), 3),
    }
