"""A look at the first images: how long passes take here, and whether activations are ever negative."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sparks_jax.lens.costs import Units
from sparks_jax.lens.pictures import Painter
from sparks_jax.lens.programs import Halves, Program, in_chunks
from sparks_jax.lens.settings import Settings

# A program with its derivative over one without, where no picture is made that would tell.
BACKWARD, COMPILING = 3.0, 2.5
ROWS = 4096  # of the product that is timed


class Probe(NamedTuple):
    """What the first images tell.

    Attributes:
        signed: Whether an activation is negative.
        acts: `(gh gw d)` their mean activations.
        forward: Seconds of an image through the network.
        compiling: Seconds of compiling that.
    """

    signed: bool
    acts: np.ndarray
    forward: float
    compiling: float


def probe(run: Program, shared: Any, images: np.ndarray, size: int) -> Probe:
    """Run the first images through the network, twice.

    Args:
        run: `programs.forward`.
        shared: What it shares.
        images: The first ones.
        size: Images at once.
    """
    (acts, _), first = _timed(lambda: in_chunks(run, shared, images[:size], size))
    _, second = _timed(lambda: in_chunks(run, shared, images[:size], size))
    return Probe(bool(acts.min() < 0), acts.mean(0), second / size, max(first - second, 0.0))


def calibrate(found: Probe, halves: Halves, painter: Painter, settings: Settings) -> Units:
    """Seconds of each kind of work.

    Args:
        found: From `probe`.
        halves: The network.
        painter: Of the pictures: one segment is run twice.
        settings: Of the build.
    """
    d = halves.grid[-1]
    backward, compiling = BACKWARD * found.forward, COMPILING * found.compiling
    view = backward
    if settings.pictures:
        atoms = np.ones((painter.width, d), np.float32) / d**0.5
        states = painter.init(halves.features, atoms)
        run = lambda: jax.block_until_ready(painter.advance(halves.features, (atoms, states)))
        _, first = _timed(run)
        _, second = _timed(run)
        views = painter.width * painter.steps * settings.picture_crops
        view, compiling = second / views, max(first - second, 0.0)
    product = jax.jit(lambda a, d: a @ d)
    acts, atoms = jnp.ones((ROWS, d)), jnp.ones((d, settings.rank))
    jax.block_until_ready(product(acts, atoms))
    _, seconds = _timed(lambda: jax.block_until_ready(product(acts, atoms)))
    return Units(found.forward, backward, view, seconds / (ROWS * d), found.compiling, compiling, COMPILE_FIT)


COMPILE_FIT = 15.0  # seconds on two cores, whatever the network


def _timed(run: Callable[[], Any]) -> tuple[Any, float]:
    begin = time.perf_counter()
    return run(), time.perf_counter() - begin
