"""Participants that are programs: a study is rehearsed with them before anybody is asked.

They never stand for people. What they tell is whether the sets, the pages and the analysis work, and how large an
effect would be if people learnt as simply as they do. An image is to them a set of parts, such as the mean colours of a
grid of cells; an explanation is how much they look at each part of an example. The images that they are asked about
come without explanation, so that what they have seen there must be found again.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from sparks_jax.human.responses import Response
from sparks_jax.human.study import BASELINE, Study


class Lesson(NamedTuple):
    """What a participant has learnt from.

    Attributes:
        parts: Of each example.
        attention: To each part; sums to one over an example.
        answers: What the model said of the examples, as 0 and 1.
        memory: 1 for an example that is remembered, 0 for one that is not.
    """

    parts: Float[Array, "k r d"]
    attention: Float[Array, "k r"]
    answers: Float[Array, "k m"]
    memory: Float[Array, " k"]


class Shown(NamedTuple):
    """An explanation that shows more than the image, such as examples of a concept.

    Attributes:
        parts: Of every image of the pool, with what is shown beside.
        attention: To each of them.
    """

    parts: Float[Array, "n r d"]
    attention: Float[Array, "n r"]


Truth = Float[Array, "q m"]  # what the model says of the questions, as 0 and 1; for oracles only
# From what was learnt, the parts of the images asked about, the truth and a key, to a belief in each class.
User = Callable[[Lesson, Float[Array, "q p d"], Truth, PRNGKeyArray], Float[Array, "q m"]]


def cells(images: Float[Any, "n h w c"], grid: int) -> Float[Array, "n p c"]:
    """Means over a grid of cells, whose sides differ by a pixel at most: parts of images, or of maps `(n h w 1)`.

    Args:
        images: Images.
        grid: Cells on a side.

    Example:
        >>> cells(jnp.arange(16.0).reshape(1, 4, 4, 1), 2)[0, :, 0].tolist()
        [2.5, 4.5, 10.5, 12.5]

    Reference:
        Colin et al. 2022, arXiv:2112.04417.
    """
    x = jnp.asarray(images)
    rows, columns = (_cell_means(n, grid, x.dtype) for n in x.shape[1:3])
    return jnp.einsum("ih,nhwc,jw->nijc", rows, x, columns).reshape(len(x), grid * grid, -1)


def majority(lesson: Lesson, parts: Float[Array, "q p d"], truth: Truth, key: PRNGKeyArray) -> Float[Array, "q m"]:
    r"""Says what the model said most often.

    $b_c = \sum_{i : y_i = c} 1$ over the examples remembered

    Args:
        lesson: What was learnt.
        parts: Of the questions; not looked at.
        truth: Not looked at.
        key: Not used.

    Example:
        >>> lesson = Lesson(jnp.zeros((3, 1, 1)), jnp.ones((3, 1)), jnp.eye(2)[jnp.array([1, 1, 0])], jnp.ones(3))
        >>> majority(lesson, jnp.zeros((1, 1, 1)), jnp.zeros((1, 2)), jax.random.key(0)).tolist()
        [[1.0, 2.0]]

    Reference:
        Colin et al. 2022, arXiv:2112.04417.
    """
    votes = lesson.memory @ lesson.answers
    return jnp.broadcast_to(votes[None], truth.shape)


def nearest_image(lesson: Lesson, parts: Float[Array, "q p d"], truth: Truth, key: PRNGKeyArray) -> Float[Array, "q m"]:
    r"""Says what the model said of the example whose parts are alike on average, whatever an explanation points at.

    $y_{i^*}$, $i^* = \arg\min_i \|\bar f_i - \bar f\|$ over the examples remembered

    Args:
        lesson: What was learnt; its attention is not looked at.
        parts: Of the questions.
        truth: Not looked at.
        key: Not used.

    Example:
        >>> lesson = Lesson(jnp.array([[[0.0]], [[1.0]]]), jnp.ones((2, 1)), jnp.eye(2), jnp.ones(2))
        >>> nearest_image(lesson, jnp.array([[[0.9]]]), jnp.zeros((1, 2)), jax.random.key(0)).tolist()
        [[0.0, 1.0]]

    Reference:
        Cover and Hart 1967, Nearest neighbor pattern classification.
    """
    seen, new = lesson.parts.mean(1), parts.mean(1)
    distance = jnp.square(seen[None] - new[:, None]).sum(-1)
    nearest = jnp.where(lesson.memory[None] > 0, distance, jnp.inf).argmin(-1)
    return lesson.answers[nearest] * (lesson.memory > 0).any()


def matching_parts(width: float = 0.1) -> User:
    r"""Looks for the parts that explanations pointed at, wherever they are in a new image.

    $b_c = \frac{1}{|\{i : y_i = c\}|} \sum_{i : y_i = c} \sum_r a_{ir} \max_p e^{-\|f_{ir} - f_p\|^2 / 2 \sigma^2}$

    Without an explanation attention is the same for all parts, and the same rule compares images as wholes.

    Args:
        width: σ: by how much two parts may differ and still be alike.

    Example:
        >>> parts, answers = jnp.array([[[0.0], [5.0]], [[0.0], [9.0]]]), jnp.eye(2)
        >>> user = matching_parts()
        >>> told = Lesson(parts, jnp.array([[0.0, 1.0], [0.0, 1.0]]), answers, jnp.ones(2))
        >>> user(told, jnp.array([[[9.0], [3.0]]]), jnp.zeros((1, 2)), jax.random.key(0)).round(3).tolist()
        [[0.0, 1.0]]

    Reference:
        Colin et al. 2022, arXiv:2112.04417 (the protocol).
    """

    def user(lesson: Lesson, parts: Float[Array, "q p d"], truth: Truth, key: PRNGKeyArray) -> Float[Array, "q m"]:
        def evidence(new: Float[Array, "p d"]) -> Float[Array, " k"]:
            # One image at a time: the table of all pairs of parts is k r by p.
            apart = jax.vmap(jax.vmap(lambda f: jnp.square(f[None] - new).sum(-1).min()))(lesson.parts)
            return (lesson.attention * jnp.exp(-apart / (2 * width**2))).sum(-1)

        votes = lesson.memory[:, None] * lesson.answers
        return jax.lax.map(evidence, parts) @ votes / jnp.maximum(votes.sum(0), 1)[None]

    return user


def noisy_oracle(accuracy: float) -> User:
    """Is right as often as asked, and else says any other class: what the analysis must find again.

    Args:
        accuracy: Share of right answers.

    Raises:
        ValueError: If it is no share.

    Example:
        >>> lesson = Lesson(jnp.zeros((1, 1, 1)), jnp.ones((1, 1)), jnp.eye(2)[:1], jnp.ones(1))
        >>> noisy_oracle(1.0)(lesson, jnp.zeros((1, 1, 1)), jnp.array([[0.0, 1.0]]), jax.random.key(0)).tolist()
        [[0.0, 1.0]]

    Reference:
        Dawid and Skene 1979, Maximum likelihood estimation of observer error-rates using the EM algorithm.
    """
    if not 0 <= accuracy <= 1:
        raise ValueError(f"noisy_oracle: the accuracy is {accuracy}, expected a share in [0, 1]")

    def user(lesson: Lesson, parts: Float[Array, "q p d"], truth: Truth, key: PRNGKeyArray) -> Float[Array, "q m"]:
        right = jax.random.bernoulli(key, accuracy, truth.shape[:1])
        return jnp.where(right[:, None], truth, 1 - truth)

    return user


def simulate_users(
    study: Study,
    parts: Float[Any, "n p d"],
    shown: Mapping[str, Any],
    *,
    key: PRNGKeyArray,
    user: User | Mapping[str, User],
    num_participants: int = 20,
    memory: float = 1.0,
    lapse: float = 0.0,
) -> dict[str, Int[Array, "u s q"]]:
    """What programs answer in a study, in each condition.

    Args:
        study: The study.
        parts: Of every image of the pool: `cells(images, grid)`, or any features of its parts.
        shown: From each condition to its explanations: attention to the parts of every image `(n p)`, no less than
            zero, or `Shown`. None, or no entry for the baseline: the same attention to all parts.
        key: Draws what is forgotten, lapses, and choices between equal beliefs.
        user: `majority`, `nearest_image`, `matching_parts()`, `noisy_oracle(0.7)` or your own; one for all conditions,
            or one for each.
        num_participants: In each condition.
        memory: Probability that a participant remembers an example.
        lapse: Probability of an answer at random.

    Raises:
        ValueError: For a condition without explanations, shapes that differ, a probability outside [0, 1].

    Example:
        >>> predictions, labels = np.arange(120) % 2, np.arange(120) // 2 % 2
        >>> study = Study.design(predictions, labels, classes=("wolf", "husky"), methods=("rise",), seed=0)
        >>> parts = jnp.asarray(predictions, jnp.float32)[:, None, None]
        >>> maps = {"control": jnp.ones((120, 1)), "rise": jnp.ones((120, 1))}
        >>> answers = simulate_users(study, parts, maps, key=jax.random.key(0), user=nearest_image)
        >>> bool((answers["rise"] == study.answers()[None]).all())
        True

    Reference:
        Colin et al. 2022, arXiv:2112.04417 (the protocol).
    """
    parts = jnp.asarray(parts)
    if not (0 <= memory <= 1 and 0 <= lapse <= 1 and num_participants >= 1):
        raise ValueError(
            f"simulate_users: memory {memory}, lapse {lapse}, {num_participants} participants: expected two "
            "probabilities and at least one participant"
        )
    if missing := [name for name in study.conditions if name != BASELINE and name not in shown]:
        raise ValueError(f"simulate_users: no explanations for {', '.join(missing)}")
    answers = {}
    for i, condition in enumerate(study.conditions):
        of = user[condition] if isinstance(user, Mapping) else user
        lesson = _lesson(study, parts, shown.get(condition), condition)
        keys = jax.random.split(jax.random.fold_in(key, i), num_participants)
        answers[condition] = jax.vmap(lambda key: _answers(study, lesson, parts, of, key, memory, lapse))(keys)
    return answers


def as_responses(study: Study, answers: Mapping[str, Any]) -> list[Response]:
    """Answers of programs as if they had filled in the pages, attentively.

    Args:
        study: The study.
        answers: `(participants, sessions, questions)` of each condition.

    Example:
        >>> from sparks_jax.human.study import Item, Session
        >>> study = Study("t", ("a", "b"), (), (Session((), (Item(7, 0, 1),), ()),), 0)
        >>> [r.participant for r in as_responses(study, {"control": np.zeros((2, 1, 1), int)})]
        ['control-1', 'control-2']

    Reference:
        Colin et al. 2022, arXiv:2112.04417.
    """
    checks = np.array([[check.answer for check in session.checks] for session in study.sessions], int)
    checks = checks.reshape(len(study.sessions), -1)
    return [
        Response(f"{condition}-{i + 1}", condition, np.asarray(one, int), checks)
        for condition, group in answers.items()
        for i, one in enumerate(np.asarray(group))
    ]


def _lesson(study: Study, parts: Array, shown: Any, condition: str) -> Lesson:
    """All examples of the study, all remembered."""
    examples = [item for session in study.sessions for item in session.examples]
    images = np.array([item.image for item in examples])
    if not isinstance(shown, Shown):
        shown = Shown(parts, jnp.ones(parts.shape[:2], parts.dtype) if shown is None else jnp.asarray(shown))
    if parts.ndim != 3 or images.max() >= len(parts) or shown.attention.shape != shown.parts.shape[:2]:
        raise ValueError(
            f"simulate_users: parts have shape {parts.shape} and attention of {condition!r} {shown.attention.shape}, "
            "expected (n, p, d) and (n, p) with every image of the pool"
        )
    attention = jnp.maximum(shown.attention[images], 0)
    total = attention.sum(1, keepdims=True)
    attention = jnp.where(total > 0, attention / jnp.where(total > 0, total, 1), 1 / attention.shape[1])
    said = jax.nn.one_hot(np.array([item.predicted for item in examples]), len(study.classes))
    return Lesson(shown.parts[images], attention, said, jnp.ones(len(examples)))


def _answers(
    study: Study, lesson: Lesson, parts: Array, user: User, key: PRNGKeyArray, memory: float, lapse: float
) -> Int[Array, "s q"]:
    """Of one participant: an example that is forgotten is so in every session."""
    key_memory, *keys = jax.random.split(key, 1 + len(study.sessions))
    kept = jax.random.bernoulli(key_memory, memory, lesson.memory.shape)
    answers = []
    for seen, session, key_session in zip(study.schedule, study.sessions, keys, strict=True):
        key_user, key_tie, key_lapse, key_guess = jax.random.split(key_session, 4)
        known = lesson._replace(memory=(kept & (jnp.arange(len(kept)) < seen)).astype(lesson.memory.dtype))
        images = np.array([item.image for item in session.questions])
        truth = jax.nn.one_hot(np.array([item.predicted for item in session.questions]), len(study.classes))
        beliefs = user(known, parts[images], truth, key_user)
        tied = jnp.where(beliefs >= beliefs.max(-1, keepdims=True), 0.0, -jnp.inf)
        chosen = jax.random.categorical(key_tie, tied)
        lapses = jax.random.bernoulli(key_lapse, lapse, chosen.shape)
        answers.append(jnp.where(lapses, jax.random.randint(key_guess, chosen.shape, 0, truth.shape[1]), chosen))
    return jnp.stack(answers)


def _cell_means(n: int, grid: int, dtype: Any) -> Float[np.ndarray, "g n"]:
    """A row of weights for each cell along a side."""
    if not 1 <= grid <= n:
        raise ValueError(f"cells: a grid of {grid} on a side of {n} pixels, expected 1 to {n}")
    cell = np.arange(n) * grid // n
    weights = (np.arange(grid)[:, None] == cell[None]).astype(dtype)
    return weights / weights.sum(1, keepdims=True)
