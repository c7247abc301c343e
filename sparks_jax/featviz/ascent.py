r"""Gradient ascent of a score in the parameters of an image, as one loop that can stop anywhere and go on.

An `Ascent` is three functions, and its state is a pytree: `init(key)`, `advance(state, num_steps)` and
`read(state, history)`. `maco` and `visualize` run it once; who wants progress, snapshots, or what there is after an
interruption runs it in segments, with the same numbers: every step draws from the key and its own count.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer
from jaxtyping import Array, Float, Int, PRNGKeyArray

from sparks_jax import stream
from sparks_jax.featviz.augment import chain
from sparks_jax.featviz.parametrize import Canvas, several
from sparks_jax.types import Scalar, Score

# What the score is shown: a function of the image, a key, and the share of the steps that are done.
View = Callable[..., Array]


class Visualization(NamedTuple):
    """An image that a score is high on.

    Attributes:
        image: `(h w c)`, in the range of the model's pixels.
        transparency: `(h w)` sum over steps of the mean absolute gradient of the pixel: where the score looked.
        history: `(num_steps)` the mean score of the views, before each step.
    """

    image: Float[Array, "*many h w c"]
    transparency: Float[Array, "*many h w"]
    history: Float[Array, "*many steps"]


class State(NamedTuple):
    """An ascent under way.

    Attributes:
        parameters: Of the canvas.
        moments: Of the optimiser.
        transparency: So far.
        step: Steps done.
        key: Step t draws from `fold_in(key, t)`.
    """

    parameters: Any
    moments: Any
    transparency: Float[Array, "*many h w"]
    step: Int[Array, ""]
    key: PRNGKeyArray


class Ascent(NamedTuple):
    """An ascent as functions of its state.

    Attributes:
        init: `key -> state`.
        advance: `(state, num_steps) -> (state, scores (num_steps))`.
        read: `(state, history) -> Visualization`.
    """

    init: Callable[[PRNGKeyArray], State]
    advance: Callable[[State, int], tuple[State, Array]]
    read: Callable[[State, Array], Visualization]


def ascent(
    f: Score,
    canvas: Canvas,
    view: View,
    *,
    num_steps: int,
    num_views: int,
    optimizer: optax.GradientTransformation,
    disturb: View | None = None,
    penalty: Score | None = None,
    num_images: int | None = None,
    chunk: int = 16,
    who: str = "ascent",
) -> Ascent:
    r"""Ascent of the mean score of random views of an image.

    $\theta \leftarrow \theta + \eta\, \nabla_\theta \big[ \frac1n \sum_k f(\tau_k(I_\theta)) - P(I_\theta) \big]$,
    $\quad \alpha \leftarrow \alpha + |\nabla_I \frac1n \sum_k f(\tau_k(I))|$ from the same backward pass

    Cost: `num_views` B a step.

    Args:
        f: The score of a view; of `(num_images h w c)` if there are several images.
        canvas: $I_\theta$.
        view: `(image, *, key, progress) -> image`: $\tau$, at a share of the steps done, from 0 to 1.
        num_steps: How many steps make the whole (`progress` is 1 at the last).
        num_views: Views at each step.
        optimizer: Such as `optax.nadam(1.0)`.
        disturb: A view of the image at each step that all its views are taken from, such as `augment.noise`.
        penalty: $P$, of the image.
        num_images: Images optimised together; None for one, without a leading axis.
        chunk: Views evaluated at once.
        who: The function that speaks in errors.

    Raises:
        ValueError: If the score does not return one number, or a count is not positive.

    Example:
        >>> from sparks_jax.featviz.parametrize import pixels
        >>> view = lambda image, *, key, progress: image
        >>> climb = ascent(lambda x: x.mean(), pixels(4, values_range=(0, 1)), view, num_steps=3, num_views=1,
        ...                optimizer=optax.sgd(1.0))
        >>> state, scores = climb.advance(climb.init(jax.random.key(0)), 3)
        >>> state.step.item(), bool(scores[2] > scores[0])
        (3, True)

    Reference:
        Erhan et al. 2009, Visualizing higher-layer features of a deep network.
    """
    disturb = chain() if disturb is None else disturb
    if num_images is not None:
        canvas, view, disturb = several(canvas, num_images), _each(view, num_images), _each(disturb, num_images)
    _check(f, canvas, view, dict(steps=num_steps, views=num_views), who)

    def init(key: PRNGKeyArray) -> State:
        key_start, key = jax.random.split(key)
        parameters = canvas.init(key_start)
        size = jax.eval_shape(canvas.render, parameters).shape[:-1]
        return State(parameters, optimizer.init(parameters), jnp.zeros(size), jnp.zeros((), jnp.int32), key)

    def step(state: State, _: None) -> tuple[State, Scalar]:
        progress = state.step / max(num_steps - 1, 1)
        keys = jax.random.split(jax.random.fold_in(state.key, state.step), num_views + 1)
        image, pull = jax.vjp(canvas.render, state.parameters)
        shown, restore = jax.vjp(lambda image: disturb(image, key=keys[0], progress=progress), image)
        seen = lambda image, key: f(view(image, key=key, progress=progress))
        score, slope = stream.gradient_over(seen, shown, keys[1:], chunk)
        (slope,) = restore(slope)
        transparency = state.transparency + jnp.abs(slope).mean(-1)
        if penalty is not None:
            slope = slope - jax.grad(penalty)(image)
        (descent,) = pull(-slope)
        updates, moments = optimizer.update(descent, state.moments, state.parameters)
        parameters = optax.apply_updates(state.parameters, updates)
        return State(parameters, moments, transparency, state.step + 1, state.key), score

    def advance(state: State, num_steps: int) -> tuple[State, Float[Array, " steps"]]:
        return jax.lax.scan(step, state, length=num_steps)

    def read(state: State, history: Float[Array, " steps"]) -> Visualization:
        return Visualization(canvas.render(state.parameters), state.transparency, history)

    return Ascent(init, advance, read)


def climb(ascent: Ascent, num_steps: int, *, key: PRNGKeyArray, who: str = "climb") -> Visualization:
    """An ascent from its start to its end.

    Args:
        ascent: From `maco_ascent`, `visualize_ascent` or `ascent`.
        num_steps: Steps to do.
        key: Of the start and of the views.
        who: The function that speaks in errors.

    Raises:
        ValueError: If a score was NaN (seen outside of `jax.jit` only; `check_history` looks at an outcome).

    Example:
        >>> from sparks_jax.featviz.parametrize import pixels
        >>> view = lambda image, *, key, progress: image
        >>> one = ascent(lambda x: x.mean(), pixels(4, values_range=(0, 1)), view, num_steps=3, num_views=1,
        ...              optimizer=optax.sgd(1.0))
        >>> climb(one, 3, key=jax.random.key(0)).history.shape
        (3,)

    Reference:
        Erhan et al. 2009, Visualizing higher-layer features of a deep network.
    """
    state, history = ascent.advance(ascent.init(key), num_steps)
    if not isinstance(history, Tracer):
        check_history(history, who)
    return ascent.read(state, history)


def snapshots(ascent: Ascent, num_steps: int, *, key: PRNGKeyArray, num_snapshots: int = 8) -> Visualization:
    """An ascent as it was at evenly spaced moments, the end among them: the same images as of one run.

    Args:
        ascent: From `maco_ascent`, `visualize_ascent` or `ascent`.
        num_steps: Steps to do; a multiple of `num_snapshots`.
        key: Of the start and of the views.
        num_snapshots: How many moments.

    Returns:
        `Visualization` with a leading axis of moments in each field; `history` holds the steps before each.

    Raises:
        ValueError: If the steps cannot be divided so.

    Example:
        >>> from sparks_jax.featviz.parametrize import pixels
        >>> view = lambda image, *, key, progress: image
        >>> one = ascent(lambda x: x.mean(), pixels(4, values_range=(0, 1)), view, num_steps=4, num_views=1,
        ...              optimizer=optax.sgd(1.0))
        >>> film = snapshots(one, 4, key=jax.random.key(0), num_snapshots=2)
        >>> film.image.shape, film.history.shape
        ((2, 4, 4, 3), (2, 2))

    Reference:
        Olah et al. 2017, Feature visualization, Distill.
    """
    if num_snapshots < 1 or num_steps % num_snapshots:
        raise ValueError(f"snapshots: {num_steps} steps cannot be cut into {num_snapshots} equal parts")

    def segment(state: State, _: None) -> tuple[State, Visualization]:
        state, history = ascent.advance(state, num_steps // num_snapshots)
        return state, ascent.read(state, history)

    return jax.lax.scan(segment, ascent.init(key), length=num_snapshots)[1]


def check_history(history: Float[Any, "..."], who: str) -> None:
    """Refuse an ascent whose score was NaN or infinite, and say since when.

    Args:
        history: `(…, steps)` from `Visualization.history`, or a part of it.
        who: The function that speaks.

    Raises:
        ValueError: If a score is not finite.

    Example:
        >>> check_history(jnp.array([1.0, jnp.nan]), "maco")
        Traceback (most recent call last):
        ValueError: maco: the objective is nan from step 1 on; lower learning_rate...

    Reference:
        Fel et al. 2023, arXiv:2306.06805.
    """
    scores = np.asarray(history)
    broken = ~np.isfinite(scores)
    if not broken.any():
        return
    step = int(np.nonzero(broken.reshape(-1, scores.shape[-1]).any(0))[0][0])
    value = scores.reshape(-1, scores.shape[-1])[:, step][broken.reshape(-1, scores.shape[-1])[:, step]][0]
    advice = (
        "look at the model's weights, the label, and values_range"
        if step == 0
        else "lower learning_rate, or look for a logarithm or a division of 0 in the objective"
    )
    raise ValueError(f"{who}: the objective is {value} from step {step} on; {advice}")


def opacity(transparency: Float[Any, "h w"], *, percentile: float = 80.0) -> Float[Array, "h w"]:
    r"""The transparency as an alpha channel in [0, 1].

    $\min(\alpha, q_p(\alpha)) / q_p(\alpha)$

    Args:
        transparency: From a `Visualization`.
        percentile: $p$: what is above is shown in full.

    Example:
        >>> opacity(jnp.array([[0.0, 1.0, 2.0, 4.0]]), percentile=100.0).tolist()
        [[0.0, 0.25, 0.5, 1.0]]

    Reference:
        Fel et al. 2023, Unlocking feature visualization for deeper networks with magnitude constrained optimization,
        arXiv:2306.06805.
    """
    cap = jnp.percentile(transparency, percentile)
    return jnp.minimum(transparency / jnp.where(cap > 0, cap, 1), 1)


def _each(view: View, num_images: int) -> View:
    """A view of each of several images, drawn independently."""

    def views(images: Array, *, key: PRNGKeyArray, progress: Scalar) -> Array:
        keys = jax.random.split(key, num_images)
        return jax.vmap(lambda image, key: view(image, key=key, progress=progress))(images, keys)

    return views


def _check(f: Score, canvas: Canvas, view: View, counts: dict[str, int], who: str) -> None:
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{who}: the number of {name} is {count}, expected at least 1")
    key = jax.eval_shape(lambda: jax.random.key(0))
    shown = jax.eval_shape(
        lambda key: view(canvas.render(canvas.init(key)), key=key, progress=jnp.zeros(())),
        key,
    )
    number = jax.eval_shape(lambda x: f(x), shown)
    if jnp.shape(number) != () or not jnp.issubdtype(number.dtype, jnp.floating):
        raise ValueError(
            f"{who}: the objective returned shape {jnp.shape(number)} and dtype {number.dtype} for a view of shape "
            f"{shown.shape}, expected one floating-point number; pass a score, such as scores.logit(model, label)"
        )
