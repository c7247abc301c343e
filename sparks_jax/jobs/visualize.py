"""What scores look for, one after the other: one compiled program, progress, and nothing lost when it is stopped."""

from collections.abc import Callable, Iterable, Sequence
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


def visualize(
    objectives: Iterable[Score],
    *,
    key: PRNGKeyArray,
    ascent: Callable[..., Ascent] = maco_ascent,
    num_steps: int = 256,
    every: int = 8,
    tick: Callable[[int, int, float], None] | None = None,
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
    if num_steps < 1 or every < 1:
        raise ValueError(f"visualize: num_steps is {num_steps} and every is {every}, expected at least 1")
    make = lambda f: ascent(f, num_steps=num_steps, **options)
    begin = jax.jit(lambda f, key: make(f).init(key))
    go_on = jax.jit(lambda f, state, steps: make(f).advance(state, steps), static_argnums=2)
    read = jax.jit(lambda f, state, history: make(f).read(state, history))
    done: list[Visualization] = []
    for i, f in enumerate(map(as_pytree, objectives)):
        state, history = begin(f, key), []
        try:
            for steps in _segments(num_steps, every):
                state, scores = _whole(go_on(f, state, steps))
                check_history(np.concatenate([*history, scores]), "visualize")
                history.append(scores)
                if tick is not None:
                    tick(i, sum(map(len, history)), float(scores[-1]))
        except KeyboardInterrupt:
            if history:
                done.append(_read(read, f, state, history))
            return Seen(done, True)
        done.append(_read(read, f, state, history))
    return Seen(done, False)


def _segments(num_steps: int, every: int) -> Sequence[int]:
    """Equal parts, so that two lengths are compiled at most."""
    whole, rest = divmod(num_steps, every)
    return [every] * whole + [rest] * (rest > 0)


def _whole(outcome: tuple[State, Any]) -> tuple[State, np.ndarray]:
    """Wait for a segment, so that an interrupt leaves the state before it or the state after it."""
    state, scores = jax.block_until_ready(outcome)
    return state, np.asarray(scores)


def _read(read: Callable[..., Any], f: Score, state: State, history: list[np.ndarray]) -> Visualization:
    image, transparency, _ = read(f, state, history[-1])
    return jax.tree.map(np.asarray, Visualization(image, transparency, jnp.concatenate(history)))
