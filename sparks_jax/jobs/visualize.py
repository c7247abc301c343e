"""What scores look for, one after the other: one compiled program, progress, and nothing lost when it is stopped."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

from sparks_jax.featviz import Ascent, State, Visualization, check_history, maco_ascent
from sparks_jax.scores import as_pytree
from sparks_jax.types import Score

MARGIN = 8 / 7  # side of a canvas over that of the network's images, where nothing else is asked for


class Seen(NamedTuple):
    """What was made of each score.

    Attributes:
        visualizations: One for each score that was begun; the history of each says how many steps it took.
        interrupted: Whether a keyboard interrupt ended it: the last one may then be unfinished.
    """

    visualizations: list[Visualization]
    interrupted: bool


class Program(NamedTuple):
    """The three functions of an ascent, compiled once for all objectives of a kind.

    Attributes:
        begin: `(objective, key) -> State`.
        go_on: `(objective, state, steps) -> (State, scores)`.
        read: `(objective, state, history) -> Visualization`.
    """

    begin: Callable[..., State]
    go_on: Callable[..., tuple[State, Any]]
    read: Callable[..., Visualization]


class Climb(NamedTuple):
    """What was made of one objective.

    Attributes:
        visualization: As numpy arrays; none if it was interrupted before the first steps were done.
        interrupted: Whether a keyboard interrupt ended it.
    """

    visualization: Visualization | None
    interrupted: bool


def visualize(
    objectives: Iterable[Score],
    *,
    key: PRNGKeyArray,
    ascent: Callable[..., Ascent] = maco_ascent,
    num_steps: int = 256,
    every: int = 8,
    tick: Callable[[int, int, float], None] | None = None,
    keep: Callable[[int, Visualization], None] | None = None,
    **options: Any,
) -> Seen:
    r"""Visualize several scores with one program, which can be stopped at any time.

    As `featviz.maco` of each, with the same key for all: images do not depend on how many there are, nor on `every`.
    Objectives of the same kind, such as the logits of one network, share their compilation.

    Cost: `num_steps` × `num_crops` B for each.

    Args:
        objectives: Scores of an image.
        key: Of the starts and the views.
        ascent: From an objective and `options` to an ascent: `featviz.maco_ascent`, or
            `lambda f, **options: featviz.visualize_ascent(f, featviz.pixels(224, values_range=(0, 1)), **options)`.
        num_steps: Steps for each.
        every: Steps between two looks at the keyboard, and two calls of `tick`.
        tick: Called with the number of the objective, the steps it took so far and its last score.
        keep: Called with the number of an objective and its visualization as soon as that is finished: to save it.
        **options: Of `ascent`.

    Returns:
        The visualizations, as numpy arrays; after Ctrl-C those that there are, the one under way as far as it came.

    Raises:
        ValueError: As `featviz.maco`, and if an objective becomes NaN, from the step on at which it did.

    Example:
        >>> from sparks_jax import featviz, scores
        >>> model, r = lambda batch: batch.mean((1, 2)), featviz.Spectrum.natural(8)
        >>> red, green = (scores.logit(model, label) for label in (0, 1))
        >>> seen = visualize([red, green], key=jax.random.key(0), spectrum=r, values_range=(0, 1), num_steps=4)
        >>> [v.image.shape for v in seen.visualizations], seen.interrupted
        ([(8, 8, 3), (8, 8, 3)], False)

    Reference:
        Fel et al. 2023, Unlocking feature visualization for deeper networks with magnitude constrained optimization,
        arXiv:2306.06805.
    """
    run, done = program(lambda f: ascent(f, num_steps=num_steps, **options)), []
    for i, f in enumerate(map(as_pytree, objectives)):
        told = None if tick is None else partial(tick, i)
        seen, interrupted = climb(run, f, key=key, num_steps=num_steps, every=every, tick=told)
        if seen is not None:
            done.append(seen)
        if interrupted:
            return Seen(done, True)
        if keep is not None:
            keep(i, done[-1])
    return Seen(done, False)


def program(make: Callable[[Any], Ascent]) -> Program:
    """Compile an ascent once for all objectives of a kind: they are arguments, and so are the arrays in them.

    Args:
        make: From an objective to its ascent.

    Example:
        >>> from sparks_jax import featviz
        >>> grey, mean = featviz.pixels(4, values_range=(0, 1)), as_pytree(lambda x: x.mean())
        >>> run = program(lambda f: featviz.visualize_ascent(f, grey, num_steps=4))
        >>> climb(run, mean, key=jax.random.key(0), num_steps=4).visualization.image.shape
        (4, 4, 3)
    """
    return Program(
        jax.jit(lambda f, key: make(f).init(key)),
        jax.jit(lambda f, state, steps: make(f).advance(state, steps), static_argnums=2),
        jax.jit(lambda f, state, history: make(f).read(state, history)),
    )


def climb(
    run: Program,
    f: Any,
    *,
    key: PRNGKeyArray,
    num_steps: int,
    every: int = 8,
    tick: Callable[[int, float], None] | None = None,
) -> Climb:
    """One visualization in segments, which a keyboard interrupt ends between two steps and never loses.

    Args:
        run: What `program` returns.
        f: The objective, a pytree (`scores.as_pytree` makes one of a function), or whatever `program` was told to take.
        key: Of the start and the views.
        num_steps: As the ascent was made for.
        every: Steps of a segment.
        tick: Called after each with the steps taken so far and the last score.

    Raises:
        ValueError: If the objective becomes NaN, with the step; if a number of steps is less than 1.
    """
    if num_steps < 1 or every < 1:
        raise ValueError(f"visualize: num_steps is {num_steps} and every is {every}, expected at least 1")
    state, history, interrupted = run.begin(f, key), [], False
    try:
        for steps in _segments(num_steps, every):
            state, scores = _whole(run.go_on(f, state, steps))
            check_history(np.concatenate([*history, scores]), "visualize")
            history.append(scores)
            if tick is not None:
                tick(sum(map(len, history)), float(scores[-1]))
    except KeyboardInterrupt:
        interrupted = True
    return Climb(_read(run, f, state, history) if history else None, interrupted)


def _segments(num_steps: int, every: int) -> Sequence[int]:
    """Equal parts, so that two lengths are compiled at most."""
    whole, rest = divmod(num_steps, every)
    return [every] * whole + [rest] * (rest > 0)


def _whole(outcome: tuple[State, Any]) -> tuple[State, np.ndarray]:
    """Wait for a segment, so that an interrupt leaves the state before it or the state after it."""
    state, scores = jax.block_until_ready(outcome)
    return state, np.asarray(scores)


def _read(run: Program, f: Any, state: State, history: list[np.ndarray]) -> Visualization:
    image, transparency, _ = run.read(f, state, history[-1])
    return jax.tree.map(np.asarray, Visualization(image, transparency, jnp.concatenate(history)))
