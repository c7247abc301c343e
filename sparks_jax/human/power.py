"""How many people a study needs, before it is made."""

import math


def power(
    accuracy_without: float,
    accuracy_with: float,
    participants: int,
    *,
    questions: int = 1,
    correlation: float = 0.0,
    level: float = 0.05,
) -> float:
    r"""Probability that a study finds a difference between two accuracies.

    $\Phi\!\left(\frac{|p_1 - p_0|}{\sqrt{(p_0 q_0 + p_1 q_1)\, D / (n m)}} - z_{1 - \alpha/2}\right)$ with the design
    effect $D = 1 + (m - 1) \rho$ of n participants a group who answer m questions each

    Args:
        accuracy_without: $p_0$, without explanations.
        accuracy_with: $p_1$, with them.
        participants: In each of the two groups, n.
        questions: That each of them answers, m.
        correlation: Of right answers of one participant, ρ: 0 if all participants are alike.
        level: Of the two-sided test, α.

    Raises:
        ValueError: For an accuracy outside (0, 1), a count below 1, a correlation outside [0, 1].

    Example:
        >>> round(power(0.60, 0.72, 241), 2)
        0.8

    Reference:
        Fleiss, Levin and Paik 2003, Statistical methods for rates and proportions, chapter 4. Kish 1965, Survey
        sampling (the design effect).
    """
    from scipy import stats

    error = _spread(accuracy_without, accuracy_with, questions, correlation, level) / math.sqrt(_count(participants))
    return float(stats.norm.cdf(abs(accuracy_with - accuracy_without) / error - stats.norm.isf(level / 2)))


def participants_needed(
    accuracy_without: float,
    accuracy_with: float,
    *,
    questions: int = 1,
    correlation: float = 0.0,
    power: float = 0.8,
    level: float = 0.05,
) -> int:
    r"""Participants that each group of a study needs to find a difference between two accuracies.

    $n = \left\lceil \frac{(z_{1 - \alpha/2} + z_{1 - \beta})^2 (p_0 q_0 + p_1 q_1)}{(p_1 - p_0)^2}
    \frac{D}{m} \right\rceil$, as in `power`. With one question it is the number of independent answers.

    Args:
        accuracy_without: As in `power`.
        accuracy_with: As in `power`.
        questions: As in `power`.
        correlation: As in `power`.
        power: Probability of finding it, $1 - \beta$.
        level: As in `power`.

    Raises:
        ValueError: As `power`, or for equal accuracies.

    Example:
        >>> participants_needed(0.60, 0.72), participants_needed(0.60, 0.72, questions=21, correlation=0.1)
        (241, 35)

    Reference:
        Fleiss, Levin and Paik 2003, Statistical methods for rates and proportions, chapter 4.
    """
    from scipy import stats

    if accuracy_with == accuracy_without or not 0 < power < 1:
        raise ValueError(
            f"participants_needed: accuracies {accuracy_without} and {accuracy_with}, power {power}: expected two "
            "accuracies that differ and a power in (0, 1)"
        )
    spread = _spread(accuracy_without, accuracy_with, questions, correlation, level)
    steps = stats.norm.isf(level / 2) + stats.norm.ppf(power)
    return math.ceil((steps * spread / (accuracy_with - accuracy_without)) ** 2)


def _spread(p0: float, p1: float, questions: int, correlation: float, level: float) -> float:
    """Standard error of the difference of the accuracies of one participant in each group."""
    if not (0 < p0 < 1 and 0 < p1 < 1 and 0 < level < 1 and 0 <= correlation <= 1):
        raise ValueError(
            f"accuracies {p0} and {p1}, level {level}, correlation {correlation}: expected shares, of which only the "
            "correlation may be 0 or 1"
        )
    effect = 1 + (_count(questions) - 1) * correlation
    return math.sqrt((p0 * (1 - p0) + p1 * (1 - p1)) * effect / questions)


def _count(number: int) -> int:
    if number < 1:
        raise ValueError(f"got {number} participants or questions, expected at least one")
    return number
