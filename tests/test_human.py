"""Utility and its statistics: the published values, closed forms, and what cannot be computed."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from sparks_jax import human
from sparks_jax.human import ACCURACIES_NEURIPS22, correlate, holm, participants_needed, power

from sparks_jax.human import session_utilities, utility, utility_interval, utility_test  # isort: skip

# Colin et al. 2022, table 1.
PUBLISHED = {
    "control": (0.95, 1.02, 0.94), "saliency": (1.06, 1.13, 1.00), "integrated_gradients": (1.15, 1.11, 0.98),
    "smoothgrad": (1.20, 1.13, 0.93), "grad_cam": (1.34, 1.10, 0.90), "occlusion": (1.22, 1.10, 0.92),
    "gradient_input": (1.06, 1.05, 0.95),
}  # fmt: skip
CELLS = [(of, name, u) for name, row in PUBLISHED.items() for of, u in zip(ACCURACIES_NEURIPS22, row, strict=True)]


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.mark.parametrize(("data", "name", "published"), CELLS, ids=[f"{of}-{name}" for of, name, _ in CELLS])
def test_published_values(data, name, published):
    """All 21 within 0.01, as the accuracies are given to 0.1 % and the values to 0.01."""
    of = ACCURACIES_NEURIPS22[data]
    assert abs(utility(of[name], of["baseline"]) - published) < 0.01


def test_of_the_published_values_nineteen_are_met_to_both_digits():
    met = [
        round(utility(ACCURACIES_NEURIPS22[of][name], ACCURACIES_NEURIPS22[of]["baseline"]), 2) == u
        for of, name, u in CELLS
    ]
    assert (len(met), sum(met)) == (21, 19)


def test_a_ratio_of_means_is_not_a_mean_of_ratios():
    with_, without = [[0.9, 0.3]], [[0.9, 0.1]]
    assert utility(with_, without) == pytest.approx(1.2)
    assert session_utilities(with_, without).tolist() == pytest.approx([1.0, 3.0])


def test_a_session_where_nobody_was_right_has_no_utility():
    found = utility_interval([[0.5, 0.5]] * 2, [[0.0, 0.5]] * 2, num_bootstraps=20)
    assert found.value == 2.0
    assert np.isnan(found.sessions).tolist() == [True, False]
    assert np.isnan(found.session_intervals).tolist() == [[True, True], [False, False]]


def test_utility_of_answers_is_that_of_accuracies(rng):
    with_, without = (rng.random((n, 3, 7)) < 0.6 for n in (5, 9))
    assert utility(with_, without) == pytest.approx(utility(with_.mean((0, 2)), without.mean((0, 2))), rel=1e-12)
    assert utility(100 * with_, 100 * without) == pytest.approx(utility(with_, without), rel=1e-12)


def test_interval_enumerates_what_two_participants_may_be(rng):
    """Drawn twice from two: the mean is that of one of them in a quarter of the draws each, of both in a half."""
    found = utility_interval([[0.5], [1.0]], [[0.5], [0.5]], num_bootstraps=4000)
    values, counts = np.unique(found.draws, return_counts=True)
    assert values.tolist() == [1.0, 1.5, 2.0]
    # Within 5 standard deviations of a binomial of 4000.
    assert abs(counts / 4000 - [0.25, 0.5, 0.25]).max() < 5 * math.sqrt(0.25 / 4000)
    assert found.interval.tolist() == [1.0, 2.0]
    assert found.session_intervals.tolist() == [[1.0, 2.0]]


def test_interval_covers_as_often_as_it_says(rng):
    """Of 300 studies of 40 participants, 95 % ± 5 standard deviations hold the true ratio 1.2 (a bootstrap: −2 %)."""
    hits = 0
    for seed in range(300):
        groups = (rng.binomial(21, p, (40, 1)) / 21 for p in (0.72, 0.60))
        low, high = utility_interval(*groups, seed=seed, num_bootstraps=400).interval
        hits += low <= 1.2 <= high
    assert abs(hits / 300 - 0.95) < 5 * math.sqrt(0.95 * 0.05 / 300) + 0.02


def test_the_same_baseline_is_drawn_for_every_method(rng):
    a, b, base = (rng.random((6, 2)) for _ in range(3))
    draws = [utility_interval(of, base, seed=3, num_bootstraps=50).draws for of in (a, a, b)]
    assert (draws[0] == draws[1]).all()
    times = np.random.default_rng(3).multinomial(6, np.full(6, 1 / 6), size=50)
    again = np.random.default_rng(3)
    again.multinomial(6, np.full(6, 1 / 6), size=50)
    others = again.multinomial(6, np.full(6, 1 / 6), size=50)
    assert draws[2] == pytest.approx((others @ b).mean(1) / (times @ base).mean(1), rel=1e-12)


def test_permutation_test_counts_exchanges():
    with_, without = [0.9, 0.7, 0.8], [0.6, 0.5, 0.75]
    pooled = np.array(with_ + without)
    gaps = [2 * pooled[list(c)].mean() - 2 * pooled.mean() for c in itertools.combinations(range(6), 3)]
    share = np.mean(np.abs(gaps) >= abs(np.mean(with_) - np.mean(without)) - 1e-12)
    assert utility_test(with_, without) == pytest.approx(share)
    assert utility_test(np.array(with_)[:, None], np.array(without)[:, None]) == pytest.approx(share)


def test_permutation_test_is_level_without_an_effect(rng):
    """Rejects a true hypothesis in 5 % of 200 studies, within 5 standard deviations."""
    p = [utility_test(*rng.binomial(21, 0.6, (2, 15)) / 21, seed=i, num_resamples=199) for i in range(200)]
    assert np.mean(np.array(p) < 0.05) < 0.05 + 5 * math.sqrt(0.05 * 0.95 / 200)


def test_holm_by_hand():
    # Sorted: 5 × .001, 4 × .008, 3 × .039, 2 × .041, 1 × .6; each no less than the one before.
    got = holm([0.039, 0.001, 0.6, 0.041, 0.008])
    assert got.tolist() == pytest.approx([0.117, 0.005, 0.6, 0.117, 0.032])
    assert holm([0.9, 0.8]).tolist() == [1.0, 1.0]
    assert holm([]).tolist() == []


def test_power_of_the_reference():
    """0.60 → 0.72 takes about 240 answers a group for a power of 0.8: 7.849 · 0.4416 / 0.0144 = 240.7."""
    assert participants_needed(0.60, 0.72) == 241
    assert power(0.60, 0.72, 241) == pytest.approx(0.8, abs=0.001)


@pytest.mark.parametrize(("questions", "correlation"), [(1, 0.0), (21, 0.0), (21, 0.1), (7, 1.0)])
def test_power_and_participants_are_inverse(questions, correlation):
    of = dict(questions=questions, correlation=correlation)
    n = participants_needed(0.5, 0.6, **of)
    assert power(0.5, 0.6, n, **of) >= 0.8 > power(0.5, 0.6, n - 1, **of)


def test_answers_that_are_all_alike_count_once():
    assert participants_needed(0.5, 0.6, questions=21, correlation=1.0) == participants_needed(0.5, 0.6)


def test_correlation_agrees_with_scipy(rng):
    u, v = rng.random(6), rng.random(6)
    found, linear, rank = correlate(u, v), stats.pearsonr(u, v), stats.spearmanr(u, v)
    interval = linear.confidence_interval(0.95)
    assert (found.linear, found.linear_p) == pytest.approx((linear.statistic, linear.pvalue))
    assert found.linear_interval.tolist() == pytest.approx([interval.low, interval.high])
    assert found.rank == pytest.approx(rank.statistic)


def test_rank_p_counts_orders():
    """Of the 720 orders of six ranks the identity and its reverse are as extreme as a perfect one."""
    found = correlate([1.0, 2, 3, 4, 5, 6], [1.0, 4, 9, 16, 25, 36])
    assert found.rank == 1.0
    assert found.rank_p == pytest.approx(2 / 720)
    assert found.rank_interval.tolist() == [1.0, 1.0]
    many = np.arange(9.0)
    assert correlate(many, many).rank_p == 0.0


def test_rank_interval_by_hand():
    found = correlate([1.0, 2, 3, 4, 5], [2.0, 1, 3, 4, 5])  # ρ = 0.9
    reach = stats.norm.isf(0.025) * math.sqrt((1 + 0.81 / 2) / 2)
    assert found.rank_interval.tolist() == pytest.approx([math.tanh(math.atanh(0.9) + s * reach) for s in (-1, 1)])


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: utility([], [1.0]), "correct_with has shape"),
        (lambda: utility([np.nan], [1.0]), "leave out who did not finish"),
        (lambda: utility([1.0], [0.0, 0.0]), "nobody was right"),
        (lambda: session_utilities([[1.0]], [[1.0, 1.0]]), "with the same sessions"),
        (lambda: session_utilities([1.0], [1.0]), "participants, sessions"),
        (lambda: utility_interval([[1.0]], [[1.0], [1.0]]), "two or more in each group"),
        (lambda: utility_test([1.0], [1.0, 0.5]), "two or more each"),
        (lambda: holm([0.5, 1.5]), "expected a list of probabilities"),
        (lambda: power(0.6, 1.0, 10), "expected shares"),
        (lambda: power(0.6, 0.7, 0), "at least one"),
        (lambda: participants_needed(0.6, 0.6), "that differ"),
        (lambda: correlate([1.0, 2.0, 3.0], [1.0, 2.0, 3.0]), "four methods or more"),
        (lambda: correlate([1.0, 1.0, 1.0, 1.0], [1.0, 2.0, 3.0, 4.0]), "the same for all methods"),
    ],
)
def test_errors_say_what_to_do(call, said):
    with pytest.raises(ValueError, match=said):
        call()


def test_everything_is_reached_from_the_area():
    assert human.utility is utility
    assert callable(human.simulate_users)
    assert human.Study.__name__ == "Study"
