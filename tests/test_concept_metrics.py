"""How good dictionaries are, which concepts match, which concept a class depends on, by which images are recognised."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from sparks_jax import concepts
from sparks_jax.concepts import matching, metrics, tcav
from sparks_jax.concepts.dictionary import Dictionary
from sparks_jax.concepts.editing import edit
from sparks_jax.concepts.strategies import strategies, strategy_clusters, wilson

KEY = jax.random.key(0)


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


# --- what is left out


def test_errors_of_rows_known_by_hand():
    acts = jnp.array([[3.0, 4.0], [0.0, 0.0], [0.0, 0.0], [5.0, 12.0]])
    decoded = jnp.array([[3.0, 0.0], [0.0, 0.0], [0.0, 1.0], [5.0, 12.0]])
    np.testing.assert_allclose(metrics.relative_error(acts, decoded), [0.8, 0, np.inf, 0], rtol=1e-6)


def test_r_squared_is_relative_to_the_mean_of_each_channel():
    """Channels of different means: a global mean would call the mean of each channel a good reconstruction."""
    acts = normal(0, 50, 3) + jnp.array([[0.0, 10.0, -20.0]])
    means = jnp.broadcast_to(acts.mean(0), acts.shape)
    np.testing.assert_allclose(metrics.r_squared(acts, means), 0, atol=1e-5)
    half = (acts + means) / 2
    np.testing.assert_allclose(metrics.r_squared(acts, half), 0.75, atol=1e-5)
    assert metrics.r_squared(acts, acts) == 1
    assert jnp.isnan(metrics.r_squared(jnp.ones((3, 2)), jnp.ones((3, 2))))


def test_sparsity_of_codes():
    codes = jnp.array([[0.0, 0.0, 0.0, 0.0], [0.0, 3.0, 0.0, 0.0], [1.0, -1.0, 1.0, 1.0], [3.0, 4.0, 0.0, 0.0]])
    np.testing.assert_array_equal(metrics.l0(codes), [0, 1, 4, 2])
    # (2 - 7/5) / (2 - 1)
    np.testing.assert_allclose(metrics.hoyer(codes), [0, 1, 0, 0.6], atol=1e-6)
    np.testing.assert_allclose(metrics.hoyer(7 * codes), metrics.hoyer(codes), atol=1e-6)
    np.testing.assert_array_equal(metrics.hoyer(codes[:2, 1:2]), [0, 1])


def test_frechet_distance_of_gaussians_whose_covariances_commute():
    """Axis by axis it is (m - m')² + (s - s')²; it is symmetric, and a rotation of both changes nothing."""
    signs = np.array([[a, b] for a in (-1.0, 1.0) for b in (-1.0, 1.0)], np.float32)
    first, second = signs * [1, 3] + [0, 1], signs * [2, 5] + [4, 1]
    expected = 4**2 + (2 - 1) ** 2 + (5 - 3) ** 2
    turn = np.array([[0.6, -0.8], [0.8, 0.6]], np.float32)
    run = jax.jit(metrics.frechet_distance)
    for a, b in [(first, second), (second, first), (first @ turn, second @ turn)]:
        np.testing.assert_allclose(run(jnp.asarray(a, jnp.float32), jnp.asarray(b, jnp.float32)), expected, rtol=1e-5)
    # Square roots of eigenvalues that should be 0 are as large as the square root of rounding.
    np.testing.assert_allclose(run(jnp.asarray(first, jnp.float32), jnp.asarray(first, jnp.float32)), 0, atol=1e-3)


def test_neighbours_are_those_of_scikit_learn():
    from sklearn.neighbors import NearestNeighbors

    acts, decoded = normal(1, 40, 3), normal(2, 9, 3)
    known = NearestNeighbors(n_neighbors=5).fit(acts).kneighbors(decoded)[0][:, -1]
    got = jax.jit(partial(metrics.neighbour_distance, neighbours=5, chunk=4))(acts, decoded)
    np.testing.assert_allclose(got, known, rtol=1e-5)
    with pytest.raises(ValueError, match="neighbours is 41, expected 1 … 40"):
        metrics.neighbour_distance(acts, decoded, neighbours=41)


def test_completeness_by_class():
    """A head of two channels, one of which is decoded at half its deviation: 1 - 1/4 of its variance is left."""
    acts = normal(3, 30, 2)
    decoded = acts.at[:, 1].set((acts[:, 1] + acts[:, 1].mean()) / 2)
    np.testing.assert_allclose(metrics.logit_r_squared(lambda a: a, acts, decoded), [1, 0.75], atol=1e-5)
    divergence = metrics.prediction_divergence(lambda a: a, acts, decoded)
    p, q = (np.exp(a - np.logaddexp.reduce(a, 1, keepdims=True)) for a in (np.asarray(acts), np.asarray(decoded)))
    np.testing.assert_allclose(divergence, (p * np.log(p / q)).sum(1), atol=1e-6)
    np.testing.assert_allclose(metrics.prediction_divergence(lambda a: a, acts, acts + 5), 0, atol=1e-6)


# --- which concepts match


@pytest.mark.parametrize(("k", "l"), [(6, 6), (4, 7), (7, 4)])
def test_matching_is_the_best_of_all(k, l):
    from scipy.optimize import linear_sum_assignment

    first, second = normal(4, k, 5), normal(5, l, 5)
    got = matching.match(first, second)
    similar = np.asarray(matching.cosine(first, second))
    rows, columns = linear_sum_assignment(-similar)
    np.testing.assert_array_equal(got.first, rows)
    np.testing.assert_array_equal(got.second, columns)
    np.testing.assert_allclose(got.similarity, similar[rows, columns], atol=1e-6)


def test_a_permuted_copy_is_at_distance_zero_and_strangers_are_not():
    atoms = normal(6, 8, 16)
    order = jax.random.permutation(KEY, 8)
    flipped = atoms * jnp.where(jnp.arange(8) % 2, -1.0, 1.0)[:, None]
    runs = jnp.stack([atoms, 3 * atoms[order], flipped[order]])
    np.testing.assert_allclose(matching.stability(runs, similarity=matching.absolute_cosine), 0, atol=1e-6)
    got = matching.stability(runs)
    np.testing.assert_allclose(got[0], 0, atol=1e-6)
    assert (got[1:] > 0.3).all(), "half of the directions are reversed"
    # Matched at will, strangers are nearer than at random, where the mean cosine is 0; but far.
    assert 0.4 < matching.stability(normal(7, 2, 8, 64))[0] < 0.9
    with pytest.raises(ValueError, match="got 1 run"):
        matching.stability(atoms[None])


def test_concepts_of_layers_of_other_widths_match_by_their_codes():
    codes = normal(8, 3, 40)
    other = jnp.stack([-codes[2], 2 * codes[0] + 1, codes[1] ** 3, jnp.ones(40)])
    got = matching.match(codes, other, similarity=matching.correlation)
    np.testing.assert_array_equal(got.second[:2], [1, 2])
    np.testing.assert_allclose(got.similarity[0], 1, atol=1e-5)


# --- concept activation vectors


def test_the_direction_is_that_of_logistic_regression():
    from sklearn.linear_model import LogisticRegression

    examples, others = normal(9, 40, 5) + jnp.array([[1.0, 0.5, 0, 0, 0]]), normal(10, 60, 5)
    rows = np.concatenate([examples, others]).astype(np.float64)
    centred = rows - rows.mean(0)
    centred = centred / np.sqrt(np.square(centred).mean())
    model = LogisticRegression(C=1.0, solver="newton-cholesky", tol=1e-12).fit(centred, np.arange(100) < 40)
    known = model.coef_[0] / np.linalg.norm(model.coef_[0])
    got = jax.jit(tcav.cav)(examples, others)
    np.testing.assert_allclose(got, known, atol=1e-4)
    np.testing.assert_allclose(jnp.linalg.norm(got), 1, rtol=1e-6)


def test_more_channels_than_rows_and_sets_that_separate():
    examples, others = normal(11, 6, 200) + 3 * jnp.eye(200)[7:8], normal(12, 8, 200)
    got = jax.jit(tcav.cav)(examples, others)
    assert jnp.isfinite(got).all()
    assert (examples @ got).min() > (others @ got).max()
    apart = examples.mean(0) - others.mean(0)
    np.testing.assert_allclose(tcav.pattern_cav(examples, others) @ apart, jnp.linalg.norm(apart), rtol=1e-5)
    for bad in [(examples, others[:, :3]), (examples[:0], others)]:
        with pytest.raises(ValueError, match="expected"):
            tcav.cav(*bad)


def test_derivatives_sum_over_positions():
    head = lambda a: (a[0, 0] * a[1, 1]) + 5 * a[1, 0]
    acts = normal(13, 4, 2, 2)
    got = tcav.concept_derivatives(head, acts, jnp.array([1.0, 2.0]))
    np.testing.assert_allclose(got, acts[:, 1, 1] + 2 * acts[:, 0, 0] + 5, rtol=1e-5)
    np.testing.assert_allclose(tcav.tcav_score(got), (np.asarray(got) > 0).mean(), rtol=1e-6)


def test_significance():
    from scipy import stats

    first, second = np.array([0.9, 0.8, 0.95, 0.85]), np.array([0.5, 0.45, 0.6])
    welch = tcav.welch_test(first, second)
    np.testing.assert_allclose(welch.p, stats.ttest_ind(first, second, equal_var=False).pvalue)
    np.testing.assert_allclose(welch.difference, first.mean() - second.mean())
    # All of the first above all of the second: 1 of 35 exchanges each way.
    np.testing.assert_allclose(tcav.permutation_test(first, second).p, 2 / 35)
    assert tcav.welch_test([1.0, 1.0], [1.0, 1.0]).p == 1
    assert tcav.welch_test([1.0, 1.0], [0.0, 0.0]).p == 0
    np.testing.assert_allclose(tcav.false_discovery([0.01, 0.02, 0.5]), [0.03, 0.03, 0.5])
    with pytest.raises(ValueError, match="at least two of each"):
        tcav.permutation_test([1.0], second)


# --- strategies, and what if


def test_prevalence_and_reliability():
    importances = jnp.array([[3.0, 1, 0, 0], [2, 0, 1, 0], [0, 1, 0.5, 0], [0, 4, 0, 0], [0, 2, 1, 0]])
    got = strategies(importances, jnp.array([True, False, True, True, True]))
    np.testing.assert_array_equal(got.main, [0, 0, 1, 1, 1])
    np.testing.assert_allclose(got.prevalence, [0.4, 0.6, 0, 0], rtol=1e-6)
    np.testing.assert_allclose(got.reliability, [0.5, 1, np.nan, np.nan])
    np.testing.assert_array_equal(got.reliability_interval[:, 2:], [[0, 0], [1, 1]])
    assert (got.prevalence_interval[0] <= got.prevalence).all()
    assert (got.prevalence_interval[1] >= got.prevalence).all()
    assert jnp.isnan(strategies(importances).reliability).all()
    with pytest.raises(ValueError, match=r"correct has shape \(2,\) for 5 images"):
        strategies(importances, jnp.ones(2, bool))


def test_wilson_is_that_of_scipy():
    from scipy.stats import binomtest

    pairs = [(0, 5), (3, 5), (5, 5), (70, 100)]
    known = [binomtest(s, n).proportion_ci(0.9, method="wilson") for s, n in pairs]
    got = wilson(jnp.array([s for s, _ in pairs], jnp.float32), jnp.array([n for _, n in pairs]), level=0.9)
    np.testing.assert_allclose(got.T, known, atol=1e-6)


def test_clusters_are_sets_of_concepts_whatever_their_scale():
    rng = np.random.default_rng(0)
    ways = np.array([[1.0, 1, 0], [0, 0, 1]])
    rows = np.repeat(ways, 20, axis=0) * rng.uniform(1, 50, (40, 1)) + 0.01 * rng.random((40, 3))
    np.testing.assert_array_equal(strategy_clusters(rows), np.repeat([0, 1], 20))
    with pytest.raises(ValueError, match="min_size is 41"):
        strategy_clusters(rows, min_size=41)


def _projections(atoms, acts):
    return acts @ atoms.T


def test_editing_changes_what_the_codes_say_and_nothing_else():
    """Two orthonormal atoms in three channels: the third channel is the residual."""
    dictionary = Dictionary(jnp.eye(3)[:2], jnp.array([0.0, 0, 1]), jnp.float32(2), Partial(_projections))
    acts = jnp.array([[4.0, 6.0, 9.0], [2.0, 0.0, 5.0]])
    w = jnp.array([1.0, 10.0, 100.0])
    run = lambda **more: edit(lambda a: (a @ w).sum(), dictionary, acts, 1, 3.0, **more)
    # Channel 1 becomes 2 · 3 at both positions.
    np.testing.assert_allclose(run(), 6 + 120 + 1400)
    np.testing.assert_allclose(run(keep_rest=False), 6 + 120 + 200)
    both = edit(lambda a: (a @ w).sum(), dictionary, acts, jnp.array([0, 1]), jnp.array([1.0, 0.0]))
    np.testing.assert_allclose(both, 4 + 0 + 1400)


def test_what_is_exported():
    for name in ("stability", "match", "cav", "strategies", "edit", "relative_error", "frechet_distance"):
        assert callable(getattr(concepts, name))
