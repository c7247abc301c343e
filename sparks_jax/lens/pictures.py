"""What each concept looks like to the network: MACO of many concepts by one program, with progress between segments."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sparks_jax import featviz
from sparks_jax.jobs.visualize import MARGIN
from sparks_jax.lens.programs import Program, spread
from sparks_jax.lens.settings import Settings

METHOD = "MACO"
EVERY = 16  # steps of a segment


class Painter(NamedTuple):
    """The programs, of `width` concepts at once.

    Attributes:
        init: Atoms to states.
        advance: One segment: atoms and states to states and scores.
        read: Atoms and states to images and transparencies.
        segments: How many make the whole.
        steps: Of a segment.
        width: Concepts at once: a multiple of the devices.
    """

    init: Program
    advance: Program
    read: Program
    segments: int
    steps: int
    width: int


class Painted(NamedTuple):
    """The picture of a concept.

    Attributes:
        pixels: `(side side 4)` RGBA, faded where the score did not look.
        score: At the last step.
    """

    pixels: np.ndarray
    score: float


def painter(size: int, settings: Settings, chunk: int, devices: Sequence[Any]) -> Painter:
    """Compile nothing yet, but say what will be.

    The objective is `featviz.dot_cosine`: activations along the atom and along nothing else.

    Args:
        size: Side of the network's images.
        settings: Steps and crops.
        chunk: Crops at once on each device.
        devices: Of this process.
    """
    size = min(size, settings.picture_size or size)
    spectrum = featviz.Spectrum.natural(round(MARGIN * size))
    steps = min(EVERY, settings.picture_steps)
    segments = -(-settings.picture_steps // steps)
    key = jax.random.key(settings.seed)

    def ascent(features: Any, atom: Any) -> featviz.Ascent:
        objective = featviz.dot_cosine(features, atom)
        return featviz.maco_ascent(
            objective, spectrum=spectrum, values_range=(0, 1), input_size=size, num_steps=segments * steps,
            num_crops=settings.picture_crops, chunk=chunk,
        )  # fmt: skip

    each = lambda run: lambda features, rows: jax.lax.map(lambda row: run(features, row), rows)
    init = each(lambda features, atom: ascent(features, atom).init(key))
    advance = each(lambda features, row: ascent(features, row[0]).advance(row[1], steps))
    read = each(lambda features, row: _faded(ascent(features, row[0]), row[1]))
    init, advance, read = (spread(program, devices) for program in (init, advance, read))
    return Painter(init, advance, read, segments, steps, len(devices))


def _faded(ascent: featviz.Ascent, state: Any) -> Any:
    seen = ascent.read(state, jnp.zeros(1))
    alpha = featviz.opacity(seen.transparency)[..., None]
    return jnp.concatenate([jnp.clip(seen.image, 0, 1), alpha], -1)


def paint(
    painter: Painter, features: Any, atoms: np.ndarray, tick: Callable[[int], None] = lambda views: None
) -> list[Painted]:
    """Make concepts visible.

    Cost: `picture_steps` × `picture_crops` B for each.

    Args:
        painter: The programs.
        features: Of the network.
        atoms: `(q d)`.
        tick: Called after each segment with the number of concepts times the steps that were done.

    Raises:
        ValueError: If an objective is not finite.
    """
    done: list[Painted] = []
    for start in range(0, len(atoms), painter.width):
        index = np.minimum(np.arange(start, start + painter.width), len(atoms) - 1)
        rows, valid = atoms[index], min(painter.width, len(atoms) - start)
        states, scores = painter.init(features, rows), None
        for _ in range(painter.segments):
            states, scores = painter.advance(features, (rows, states))
            featviz.check_history(np.asarray(scores), "lens")
            tick(valid * painter.steps)
        pixels, last = np.asarray(painter.read(features, (rows, states))), np.asarray(scores)[:, -1]
        done += [Painted(pixels[i], float(last[i])) for i in range(valid)]
    return done
