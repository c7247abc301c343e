"""Programs that answer as a participant might: by what they remember, by what looks alike, or by knowing.

A user is a function of what was learnt, of the images asked about, of the truth (for oracles only) and of a key.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray


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


Truth = Float[Array, "q m"]  # what the model says of the questions, as 0 and 1; for oracles only
# From what was learnt, the parts of the images asked about, the truth and a key, to a belief in each class.
User = Callable[[Lesson, Float[Array, "q p d"], Truth, PRNGKeyArray], Float[Array, "q m"]]


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


def nearest_attended(
    lesson: Lesson, parts: Float[Array, "q p d"], truth: Truth, key: PRNGKeyArray
) -> Float[Array, "q m"]:
    r"""Says what the model said of the example that is alike where its explanation pointed: features that are masked.

    $y_{i^*}$, $i^* = \arg\min_i \|\sum_r a_{ir} f_{ir} - \bar f\|^2$ over the examples remembered

    New images have no explanation and are seen whole. With the same attention to all parts it is `nearest_image`.

    Args:
        lesson: What was learnt.
        parts: Of the questions.
        truth: Not looked at.
        key: Not used.

    Example:
        >>> attention = jnp.array([[1.0, 0.0], [1.0, 0.0]])
        >>> lesson = Lesson(jnp.array([[[0.0], [9.0]], [[4.0], [5.0]]]), attention, jnp.eye(2), jnp.ones(2))
        >>> nearest_attended(lesson, jnp.array([[[4.0]]]), jnp.zeros((1, 2)), jax.random.key(0)).tolist()
        [[0.0, 1.0]]

    Reference:
        Colin et al. 2022, arXiv:2112.04417 (the protocol). Cover and Hart 1967, Nearest neighbor pattern
        classification.
    """
    masked = jnp.einsum("kr,krd->kd", lesson.attention, lesson.parts, precision="highest")
    return nearest_image(lesson._replace(parts=masked[:, None]), parts, truth, key)


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
        rows = lesson.parts.reshape(-1, lesson.parts.shape[-1])

        def evidence(new: Float[Array, "p d"]) -> Float[Array, " k"]:
            # One image at a time: the table of all pairs of parts is k r by p.
            products = jnp.matmul(rows, new.T, precision="highest")
            apart = jnp.square(rows).sum(-1) + (jnp.square(new).sum(-1)[None] - 2 * products).min(-1)
            alike = jnp.exp(-jnp.maximum(apart, 0) / (2 * width**2))
            return (lesson.attention * alike.reshape(lesson.attention.shape)).sum(-1)

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
