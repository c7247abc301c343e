"""Participants that are programs: a study is rehearsed with them before anybody is asked.

They never stand for people. What they tell is whether the sets, the pages and the analysis work, and how large an
effect would be if people learnt as simply as they do. An image is to them a set of parts, such as the mean colours of a
grid of cells; an explanation is how much they look at each part of an example. The images that they are asked about
come without explanation, so that what they have seen there must be found again.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from sparks_jax.human.responses import Response
from sparks_jax.human.study import BASELINE, Study
from sparks_jax.human.users import Lesson, User


class Shown(NamedTuple):
    """An explanation that shows more than the image, such as examples of a concept.

    Attributes:
        parts: Of every image of the pool, with what is shown beside.
        attention: To each of them.
    """

    parts: Float[Array, "n r d"]
    attention: Float[Array, "n r"]


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
        >>> from sparks_jax.human.users import nearest_image
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
    _check("simulate_users", study.conditions, shown, num_participants, memory, lapse)
    answers, asked = {}, questions_of(study, parts)
    for i, condition in enumerate(study.conditions):
        of = user[condition] if isinstance(user, Mapping) else user
        lesson = lesson_of(study, parts, shown.get(condition))
        one = lambda key: take_part(lesson, *asked, study.schedule, key=key, user=of, memory=memory, lapse=lapse)
        answers[condition] = jax.vmap(one)(jax.random.split(jax.random.fold_in(key, i), num_participants))
    return answers


def simulate_studies(
    studies: Sequence[Study],
    parts: Float[Any, "n p d"],
    shown: Mapping[str, Any],
    *,
    key: PRNGKeyArray,
    user: User,
    num_participants: int = 20,
    memory: float = 1.0,
    lapse: float = 0.0,
) -> dict[str, Int[Array, "t u s q"]]:
    """The same of several studies of one design with images of their own: what differs between them is by the images.

    With a row for each study, all its users in it, `analyse` gives intervals that are about other images, too.
    Conditions that show as many parts are one program.

    Args:
        studies: With the same conditions, and as many sessions, examples and questions.
        parts: As in `simulate_users`, of the images of all studies.
        shown: As in `simulate_users`.
        key: As in `simulate_users`.
        user: One for all conditions.
        num_participants: In each condition of each study.
        memory: As in `simulate_users`.
        lapse: As in `simulate_users`.

    Raises:
        ValueError: As `simulate_users`, or for studies of more than one design.

    Example:
        >>> from sparks_jax.human.users import noisy_oracle
        >>> predictions, labels = np.arange(120) % 2, np.arange(120) // 2 % 2
        >>> study = lambda seed: Study.design(predictions, labels, classes=("wolf", "husky"), methods=(), seed=seed)
        >>> parts, maps = jnp.zeros((120, 1, 1)), {"control": jnp.ones((120, 1))}
        >>> options = dict(key=jax.random.key(0), user=noisy_oracle(1.0), num_participants=4)
        >>> answers = simulate_studies([study(0), study(1)], parts, maps, **options)
        >>> answers["control"].shape, bool((answers["control"][1] == study(1).answers()[None]).all())
        ((2, 4, 3, 7), True)

    Reference:
        Colin et al. 2022, arXiv:2112.04417 (the protocol).
    """
    parts, first = jnp.asarray(parts), studies[0]
    _check("simulate_studies", first.conditions, shown, num_participants, memory, lapse)
    if len({(study.conditions, study.schedule, study.answers().shape, study.classes) for study in studies}) > 1:
        raise ValueError("simulate_studies: the studies differ in conditions, classes or numbers, expected one design")
    stack = lambda trees: jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)
    questions = stack([questions_of(study, parts) for study in studies])

    def one(lesson: Lesson, asked: tuple[Array, Array], key: PRNGKeyArray) -> Int[Array, "u s q"]:
        take = lambda key: take_part(lesson, *asked, first.schedule, key=key, user=user, memory=memory, lapse=lapse)
        return jax.vmap(take)(jax.random.split(key, num_participants))

    def condition(given: tuple[Lesson, PRNGKeyArray]) -> Int[Array, "t u s q"]:
        lessons, key = given
        keys = jax.random.split(key, len(studies))
        return jax.lax.map(lambda of: one(*of), (lessons, questions, keys))

    groups: dict[int, list[tuple[str, Any]]] = {}
    for i, name in enumerate(first.conditions):
        lessons = stack([lesson_of(study, parts, shown.get(name)) for study in studies])
        groups.setdefault(lessons.attention.shape[-1], []).append((name, (lessons, jax.random.fold_in(key, i))))
    answers = {}
    for group in groups.values():
        names, given = zip(*group, strict=True)
        answers |= dict(zip(names, jax.lax.map(condition, stack(given)), strict=True))
    return {name: answers[name] for name in first.conditions}


def lesson_of(study: Study, parts: Float[Array, "n p d"], shown: Any = None) -> Lesson:
    """All examples of a study, with their explanations: arrays, so that studies of one size stack.

    Args:
        study: The study.
        parts: Of every image of the pool.
        shown: Of one condition, as in `simulate_users`.

    Raises:
        ValueError: For shapes that differ.

    Example:
        >>> from sparks_jax.human.study import Item, Session
        >>> study = Study("t", ("a", "b"), (), (Session((Item(1, 0, 1),), (), ()),), 0)
        >>> lesson_of(study, jnp.ones((2, 4, 3)), jnp.array([[0.0] * 4, [1.0, 3.0, 0.0, 0.0]])).attention.tolist()
        [[0.25, 0.75, 0.0, 0.0]]

    Reference:
        Colin et al. 2022, arXiv:2112.04417 (the protocol).
    """
    examples = [item for session in study.sessions for item in session.examples]
    images = np.array([item.image for item in examples])
    if not isinstance(shown, Shown):
        shown = Shown(parts, jnp.ones(parts.shape[:2], parts.dtype) if shown is None else jnp.asarray(shown))
    if parts.ndim != 3 or images.max() >= len(parts) or shown.attention.shape != shown.parts.shape[:2]:
        raise ValueError(
            f"simulated users: parts have shape {parts.shape} and attention {shown.attention.shape}, expected "
            "(n, p, d) and (n, p) with every image of the pool"
        )
    attention = jnp.maximum(shown.attention[images], 0)
    total = attention.sum(1, keepdims=True)
    attention = jnp.where(total > 0, attention / jnp.where(total > 0, total, 1), 1 / attention.shape[1])
    said = jax.nn.one_hot(np.array([item.predicted for item in examples]), len(study.classes))
    return Lesson(shown.parts[images], attention, said, jnp.ones(len(examples)))


def questions_of(study: Study, parts: Float[Array, "n p d"]) -> tuple[Float[Array, "s q p d"], Float[Array, "s q m"]]:
    """Parts of the images that a study asks about, and what the model says of them.

    Args:
        study: The study.
        parts: Of every image of the pool.

    Example:
        >>> from sparks_jax.human.study import Item, Session
        >>> study = Study("t", ("a", "b"), (), (Session((), (Item(1, 0, 1),), ()),), 0)
        >>> questions_of(study, jnp.ones((2, 4, 3)))[1].tolist()
        [[[1.0, 0.0]]]

    Reference:
        Colin et al. 2022, arXiv:2112.04417 (the protocol).
    """
    images = np.array([[item.image for item in session.questions] for session in study.sessions])
    return parts[images], jax.nn.one_hot(study.answers(), len(study.classes))


def take_part(
    lesson: Lesson,
    parts: Float[Array, "s q p d"],
    truth: Float[Array, "s q m"],
    schedule: Sequence[int],
    *,
    key: PRNGKeyArray,
    user: User,
    memory: float = 1.0,
    lapse: float = 0.0,
) -> Int[Array, "s q"]:
    """What one participant answers; an example that is forgotten is so in every session.

    Args:
        lesson: From `lesson_of`.
        parts: From `questions_of`.
        truth: From `questions_of`.
        schedule: Examples seen in each session: `Study.schedule`.
        key: As in `simulate_users`.
        user: As in `simulate_users`.
        memory: As in `simulate_users`.
        lapse: As in `simulate_users`.

    Example:
        >>> from sparks_jax.human.users import nearest_image
        >>> lesson = Lesson(jnp.array([[[0.0]], [[1.0]]]), jnp.ones((2, 1)), jnp.eye(2), jnp.ones(2))
        >>> asked = jnp.ones((1, 3, 1, 1)), jnp.zeros((1, 3, 2))
        >>> take_part(lesson, *asked, (2,), key=jax.random.key(0), user=nearest_image).tolist()
        [[1, 1, 1]]

    Reference:
        Colin et al. 2022, arXiv:2112.04417 (the protocol).
    """
    key_memory, key_sessions = jax.random.split(key)
    kept = lesson.memory * jax.random.bernoulli(key_memory, memory, lesson.memory.shape)

    def session(seen: Array, new: Array, right: Array, key: PRNGKeyArray) -> Int[Array, " q"]:
        key_user, key_tie, key_lapse, key_guess = jax.random.split(key, 4)
        beliefs = user(lesson._replace(memory=kept * (jnp.arange(len(kept)) < seen)), new, right, key_user)
        tied = jnp.where(beliefs >= beliefs.max(-1, keepdims=True), 0.0, -jnp.inf)
        chosen = jax.random.categorical(key_tie, tied)
        lapses = jax.random.bernoulli(key_lapse, lapse, chosen.shape)
        return jnp.where(lapses, jax.random.randint(key_guess, chosen.shape, 0, truth.shape[-1]), chosen)

    return jax.vmap(session)(jnp.asarray(schedule), parts, truth, jax.random.split(key_sessions, len(schedule)))


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


def _check(
    what: str, conditions: Sequence[str], shown: Mapping[str, Any], num_participants: int, memory: float, lapse: float
) -> None:
    if not (0 <= memory <= 1 and 0 <= lapse <= 1 and num_participants >= 1):
        raise ValueError(
            f"{what}: memory {memory}, lapse {lapse}, {num_participants} participants: expected two probabilities and "
            "at least one participant"
        )
    if missing := [name for name in conditions if name != BASELINE and name not in shown]:
        raise ValueError(f"{what}: no explanations for {', '.join(missing)}")


def _cell_means(n: int, grid: int, dtype: Any) -> Float[np.ndarray, "g n"]:
    """A row of weights for each cell along a side."""
    if not 1 <= grid <= n:
        raise ValueError(f"cells: a grid of {grid} on a side of {n} pixels, expected 1 to {n}")
    cell = np.arange(n) * grid // n
    weights = (np.arange(grid)[:, None] == cell[None]).astype(dtype)
    return weights / weights.sum(1, keepdims=True)
