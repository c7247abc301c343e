r"""Utility: does an explanation help people to predict a model?

People learn from examples what a model says, then predict it on new images. Utility is how much more often they are
right having seen explanations of the examples. Arrays of answers are `(participants, sessions, questions)`, 1 where
somebody predicted what the model said and 0 where not; of the last axes there may be none, or more.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

Correct = Any  # (participants, sessions, ...) of booleans or shares, as an array or nested lists

ACCURACIES_NEURIPS22 = {
    "husky": {
        "baseline": (55.7, 66.2, 62.9), "control": (53.3, 61.0, 61.4), "saliency": (53.9, 69.6, 73.3),
        "integrated_gradients": (67.4, 72.8, 73.2), "smoothgrad": (68.7, 75.3, 78.0), "grad_cam": (77.6, 85.7, 84.1),
        "occlusion": (71.0, 75.7, 78.1), "gradient_input": (65.8, 63.3, 67.9),
    },
    "leaves": {
        "baseline": (70.1, 76.8, 78.6), "control": (72.0, 78.0, 80.2), "saliency": (83.2, 88.7, 82.4),
        "integrated_gradients": (82.5, 82.5, 85.3), "smoothgrad": (83.0, 85.7, 86.3), "grad_cam": (81.9, 83.5, 82.4),
        "occlusion": (78.8, 86.1, 82.9), "gradient_input": (76.5, 82.9, 79.5),
    },
    "imagenet": {
        "baseline": (58.8, 62.2, 58.8), "control": (60.7, 59.2, 48.5), "saliency": (61.7, 60.2, 58.2),
        "integrated_gradients": (59.4, 58.3, 58.3), "smoothgrad": (50.3, 55.0, 61.4), "grad_cam": (54.4, 52.5, 54.1),
        "occlusion": (51.0, 60.2, 55.1), "gradient_input": (50.0, 57.6, 62.6),
    },
}  # fmt: skip
"""Per cent of right answers in each session, by data set and condition: Colin et al. 2022, table 1."""


class Utility(NamedTuple):
    """Utility with bootstrap intervals over participants.

    Attributes:
        value: As `utility`.
        interval: `(2,)` lower and upper percentile.
        sessions: `(s,)` as `session_utilities`.
        session_intervals: `(s, 2)`.
        draws: `(num_bootstraps,)` Utility of each draw of the participants.
    """

    value: float
    interval: Float[np.ndarray, "2"]
    sessions: Float[np.ndarray, " s"]
    session_intervals: Float[np.ndarray, "s 2"]
    draws: Float[np.ndarray, " b"]


def utility(correct_with: Correct, correct_without: Correct) -> float:
    r"""How much more often people predict a model after explanations: the ratio of mean accuracies.

    $U = \sum_K P(\psi^{(K)}_{\Phi} = f) \,/\, \sum_K P(\psi^{(K)} = f)$ over the sessions

    Higher is better: above 1 the explanations help, at 1 they do not, below it they mislead. It is a ratio of means,
    not the mean of the sessions' ratios, which `session_utilities` returns.

    Args:
        correct_with: Of those who saw explanations; shares or per cents do, as far as both are the same.
        correct_without: Of those who did not.

    Raises:
        ValueError: If there are none, or NaN among them, or no right answer without explanations.

    Example:
        >>> husky = ACCURACIES_NEURIPS22["husky"]
        >>> round(utility(husky["grad_cam"], husky["baseline"]), 2)
        1.34

    Reference:
        Colin, Fel, Cadène and Serre 2022, What I cannot predict, I do not understand: a human-centered evaluation
        framework for explainability methods, arXiv:2112.04417.
    """
    return float(_mean(correct_with, "correct_with") / _positive(_mean(correct_without, "correct_without")))


def session_utilities(correct_with: Correct, correct_without: Correct) -> Float[np.ndarray, " s"]:
    r"""Utility of each session: how much the explanations of K examples help.

    $U_K = P(\psi^{(K)}_{\Phi} = f) \,/\, P(\psi^{(K)} = f)$; NaN where nobody was right without explanations

    Args:
        correct_with: `(participants, sessions, …)` of those who saw explanations.
        correct_without: The same of those who did not.

    Raises:
        ValueError: As `utility`, or for different numbers of sessions.

    Example:
        >>> session_utilities([[0.9, 0.6]], [[0.6, 0.6]]).round(3).tolist()
        [1.5, 1.0]

    Reference:
        Colin et al. 2022, arXiv:2112.04417.
    """
    first, second = _both(correct_with, correct_without)
    above, below = first.mean(0), second.mean(0)
    return np.divide(above, below, out=np.full_like(above, np.nan), where=below > 0)


def utility_interval(
    correct_with: Correct,
    correct_without: Correct,
    *,
    seed: int = 0,
    num_bootstraps: int = 10_000,
    level: float = 0.95,
) -> Utility:
    r"""Utility and that of each session, with percentile intervals of a bootstrap over participants.

    The participants of each group are drawn again with replacement, each with all their answers, $B$ times; the
    interval is between the quantiles $(1 \mp \mathrm{level}) / 2$ of the $B$ values. It is about other participants,
    not about other images: all answered the same questions.

    Args:
        correct_with: As in `session_utilities`.
        correct_without: As in `session_utilities`.
        seed: Of the draws. The same seed draws the same participants without explanations for every method, so that
            differences of `draws` are paired.
        num_bootstraps: How many times, $B$.
        level: Probability of the interval.

    Raises:
        ValueError: As `session_utilities`, or for fewer than two participants in a group.

    Example:
        >>> found = utility_interval([[1.0], [0.8]], [[0.5], [0.7]])
        >>> round(found.value, 3), found.interval.round(3).tolist()  # 0.8 / 0.7 and 1 / 0.5 at the ends
        (1.5, [1.143, 2.0])

    Reference:
        Efron 1979, Bootstrap methods: another look at the jackknife. Colin et al. 2022, arXiv:2112.04417.
    """
    first, second = _both(correct_with, correct_without)
    if min(len(first), len(second)) < 2:
        raise ValueError(
            f"utility_interval: {len(first)} and {len(second)} participants, expected two or more in each group: one "
            "says nothing about others"
        )
    rng = np.random.default_rng(seed)
    below, above = (_redrawn(group, rng, num_bootstraps) for group in (second, first))
    ends = [(1 - level) / 2, (1 + level) / 2]
    below = np.maximum(below, np.finfo(float).tiny)  # a draw of participants who never were right
    draws, by_session, sessions = above.mean(1) / below.mean(1), above / below, session_utilities(first, second)
    return Utility(
        utility(first, second),
        np.quantile(draws, ends),
        sessions,
        np.where(np.isnan(sessions)[:, None], np.nan, np.quantile(by_session, ends, axis=0).T),
        draws,
    )


def utility_test(correct_with: Correct, correct_without: Correct, *, seed: int = 0, num_resamples: int = 9999) -> float:
    r"""Probability of a difference as large if explanations changed nothing, by exchanging participants.

    $p = P_\pi(|\bar a_\pi - \bar b_\pi| \ge |\bar a - \bar b|)$ over exchanges $\pi$ between the two groups

    Two-sided. Participants are exchanged whole, so that answers of one of them need not be independent. It is exact
    where there are no more than `num_resamples` exchanges.

    Args:
        correct_with: `(participants, …)` of those who saw explanations.
        correct_without: The same of those who did not.
        seed: Of the exchanges.
        num_resamples: At most so many.

    Raises:
        ValueError: As `utility_interval`.

    Example:
        >>> utility_test([1.0, 0.9, 0.95], [0.5, 0.4, 0.6])  # 2 of the 20 exchanges are as extreme
        0.1

    Reference:
        Fisher 1935, The design of experiments. Ernst 2004, Permutation methods: a basis for exact inference.
    """
    from scipy import stats

    groups = [_flat(_values(a, name)) for a, name in ((correct_with, "with"), (correct_without, "without"))]
    if min(map(len, groups)) < 2:
        raise ValueError(f"utility_test: {len(groups[0])} and {len(groups[1])} participants, expected two or more each")
    apart = lambda a, b, axis: a.mean(axis) - b.mean(axis)
    found = stats.permutation_test(
        groups, apart, vectorized=True, n_resamples=num_resamples, rng=np.random.default_rng(seed)
    )
    return float(found.pvalue)


def holm(p: Any) -> Float[np.ndarray, " t"]:
    r"""P-values of several comparisons, adjusted so that any is below α by chance with a probability of α at most.

    $\tilde p_{(i)} = \max_{j \le i} \min(1, (t - j + 1)\, p_{(j)})$, in the order of the p-values

    Args:
        p: One for each comparison, in [0, 1].

    Raises:
        ValueError: For anything that is no probability.

    Example:
        >>> holm([0.01, 0.04, 0.03, 0.005]).round(3).tolist()
        [0.03, 0.06, 0.06, 0.02]

    Reference:
        Holm 1979, A simple sequentially rejective multiple test procedure.
    """
    values = np.asarray(p, np.float64)
    if values.ndim != 1 or not ((values >= 0) & (values <= 1)).all():
        raise ValueError(f"holm: got {values.tolist()}, expected a list of probabilities")
    order = np.argsort(values)
    steps = np.minimum((len(values) - np.arange(len(values))) * values[order], 1)
    adjusted = np.empty_like(values)
    adjusted[order] = np.maximum.accumulate(steps) if len(values) else steps
    return adjusted


def _values(correct: Correct, name: str) -> np.ndarray:
    values = np.asarray(correct, np.float64)
    if values.size == 0 or values.ndim == 0:
        raise ValueError(f"{name} has shape {values.shape}, expected (participants, sessions, questions)")
    if not (np.isfinite(values) & (values >= 0)).all():
        raise ValueError(f"{name} has NaN or negative values, expected shares; leave out who did not finish")
    return values


def _flat(values: np.ndarray) -> np.ndarray:
    return values.reshape(len(values), -1).mean(1)


def _mean(correct: Correct, name: str) -> float:
    return _values(correct, name).mean()


def _positive(accuracy: float) -> float:
    if accuracy == 0:
        raise ValueError("nobody was right without explanations, so that the ratio is not defined; report accuracies")
    return accuracy


def _both(correct_with: Correct, correct_without: Correct) -> tuple[np.ndarray, np.ndarray]:
    """Accuracy of each participant in each session, of both groups."""
    groups = _values(correct_with, "correct_with"), _values(correct_without, "correct_without")
    if min(a.ndim for a in groups) < 2 or groups[0].shape[1] != groups[1].shape[1]:
        raise ValueError(
            f"correct_with has shape {groups[0].shape} and correct_without {groups[1].shape}, expected (participants, "
            "sessions, …) with the same sessions"
        )
    first, second = (a.reshape(*a.shape[:2], -1).mean(2) for a in groups)
    return first, second


def _redrawn(group: np.ndarray, rng: np.random.Generator, num: int) -> Float[np.ndarray, "b s"]:
    """Mean accuracies of participants drawn with replacement: each counts as often as a multinomial says."""
    times = rng.multinomial(len(group), np.full(len(group), 1 / len(group)), size=num)
    return times @ group / len(group)
