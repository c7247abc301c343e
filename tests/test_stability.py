"""Similarities of maps, stability under noise, reproducibility over models: closed forms and brute force."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from sparks_jax.attribution import saliency
from sparks_jax.metrics import (
    average_stability,
    l1_distance,
    l2_distance,
    local_lipschitz,
    max_sensitivity,
    mege,
    reco,
    reproducibility,
    signed_spearman_distance,
    spearman,
    spearman_distance,
    ssim,
    ssim_map,
)

RNG = np.random.default_rng(0)
EPS = 2.0**-23


# --- similarities ---


@jax.jit
def by_rank(a, b):
    return spearman(a, b), spearman_distance(a, b), signed_spearman_distance(a, b)


@pytest.mark.parametrize("levels", [3, 1000], ids=["ties", "few ties"])
def test_rank_correlation_is_that_of_scipy(levels):
    a, b = jnp.asarray(RNG.integers(0, levels, (2, 9, 7)), jnp.float32)
    rho = stats.spearmanr(a.ravel(), b.ravel()).statistic
    # Half a squared distance of unit vectors of 63 numbers.
    np.testing.assert_allclose(by_rank(a, b), [rho, (1 - abs(rho)) ** 0.5, (1 - rho) ** 0.5], atol=63 * EPS)


def test_equal_inverted_and_constant_maps():
    a, flat = jnp.asarray(RNG.normal(size=(9, 7)), jnp.float32), jnp.ones((9, 7))
    np.testing.assert_allclose(by_rank(a, jnp.exp(a)), [1, 0, 0], atol=EPS)  # ranks are equal, scaled by one number
    np.testing.assert_allclose(by_rank(a, -a), [-1, 0, 2**0.5], atol=63 * EPS)
    assert by_rank(a, flat) == by_rank(flat, flat) == (0, 1, 1)


def test_structural_similarity_is_that_of_skimage():
    from skimage.metrics import structural_similarity

    a, b = RNG.uniform(size=(2, 20, 17))
    b = 0.7 * a + 0.3 * b
    wanted = structural_similarity(
        a, b, data_range=2.0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, full=True
    )[1]
    got = ssim_map(jnp.float32(a), jnp.float32(b), data_range=2.0)
    # Where the 11 × 11 window is inside. Variances of order 1/12 over C2 = 0.0036: rounding is multiplied by about 25.
    np.testing.assert_allclose(got[5:-5, 5:-5], wanted[5:-5, 5:-5], atol=121 * 25 * EPS)


def test_structural_similarity_of_maps_of_any_scale_and_size():
    a, b = jnp.asarray(RNG.normal(size=(2, 6, 5)), jnp.float32)
    similarity = jax.jit(jax.value_and_grad(lambda a, b: ssim(a, b) + l2_distance(a, a)))
    assert similarity(a, a)[0] == 1
    np.testing.assert_allclose(similarity(1000 * a, 1000 * b)[0], similarity(a, b)[0], atol=30 * 25 * EPS)
    for flat in (0 * a, 0 * a + 1):
        value, slope = similarity(flat, flat)
        assert value == 1
        assert jnp.isfinite(slope).all()


# --- stability ---

W = jnp.arange(1.0, 5.0).reshape(2, 2, 1)
ONES = jnp.ones((2, 2, 1))


def test_average_stability_of_a_linear_explanation(key):
    """E sum |w ε| = sum(w) r / 2; |ε| has standard deviation r / √12."""
    n, r = 4096, 0.3
    got = average_stability(lambda x: W * x, ONES, key=key, radius=r, num_samples=n, distance=l1_distance, chunk=n)
    np.testing.assert_allclose(got, 10 * r / 2, atol=5 * r * 30**0.5 / (12 * n) ** 0.5)


def test_the_noise_is_symmetric(key):
    """The mean of the noise is 0, five standard errors r / √(3 n) at most; one-sided noise would give r / 2."""
    n = 4096
    mean = average_stability(
        lambda x: x.sum(), ONES[:1, :1], key=key, radius=0.5, num_samples=n, distance=lambda a, b: b - a, chunk=n
    )
    assert abs(mean) < 5 * 0.5 / (3 * n) ** 0.5


def test_max_sensitivity_nears_the_maximum(key):
    """One pixel: |ε| / |x|, at most r / 2 here; no sample of 4096 in the last 1 % has probability 0.99^4096 = 1e-18."""
    explain = lambda x: -7 * x[..., 0]
    got = max_sensitivity(explain, 2 * ONES[:1, :1], key=key, radius=0.1, num_samples=4096, chunk=4096)
    assert 0.99 * 0.05 < got <= 0.05 * (1 + 8 * EPS / 0.05)  # 2 + ε is rounded to 2 EPS


def test_max_sensitivity_is_relative_but_for_a_zero_map(key):
    change = jax.jit(lambda scale, shift: max_sensitivity(lambda x: scale * jax.nn.relu(x - shift), ONES, key=key))
    np.testing.assert_allclose(change(1000.0, 0.0), change(1.0, 0.0), rtol=100 * EPS / 0.02)
    assert 0 < change(1.0, 1.0) <= 0.02 * 2  # zero at ONES: four pixels, each less than r above 1


def test_the_slope_of_a_linear_explanation(key):
    slope = jax.jit(lambda scale, radius: local_lipschitz(lambda x: scale * x, ONES, key=key, radius=radius))
    np.testing.assert_allclose(slope(-7.0, 0.1), 7, rtol=100 * EPS / 0.1)
    assert slope(0.0, 0.1) == slope(7.0, 0.0) == 0


METRICS = [average_stability, max_sensitivity, local_lipschitz]


def test_stability_of_a_smooth_score(image, key):
    """A constant map is stable, and the metrics can be trained."""

    def run(w, scale):
        explain = lambda x: scale * saliency(lambda x: jnp.tanh(w * x).sum(), x)
        values = jnp.stack([metric(explain, image, key=key, num_samples=5, chunk=2) for metric in METRICS])
        return values.sum(), values

    w = jax.random.normal(jax.random.key(2), image.shape)
    run = jax.jit(jax.value_and_grad(run, has_aux=True))
    (_, values), slope = run(w, 1.0)
    assert (values > 0).all()
    (_, still), still_slope = run(w, 0.0)
    np.testing.assert_array_equal(still, 0)
    assert jnp.isfinite(slope).all()
    assert jnp.isfinite(still_slope).all()


@pytest.mark.parametrize("metric", METRICS)
def test_stability_refuses_what_is_no_image(metric, image, key):
    with pytest.raises(ValueError, match=rf"{metric.__name__}: x has shape \(8, 8\), expected one image"):
        metric(lambda x: x, image[..., 0], key=key)


# --- reproducibility ---


def apart(a, b):
    return jnp.abs(a - b).sum()


def pair_of_models(agreeing, disagreeing, size=4000):
    """Two models with maps at these distances, for images that only the first was trained on; then images of both."""
    pad = max(0, size - len(agreeing) - len(disagreeing))
    distances = np.array([*agreeing, *disagreeing, *[9] * pad], np.float32)
    heatmaps = jnp.stack([0 * distances, distances])[:, :, None, None]
    index = np.arange(len(distances))
    always, right = index >= 0, index < len(agreeing)
    return heatmaps, np.stack([always, right]), np.stack([always, index >= len(distances) - pad])


@jax.jit
def by_hand(*given):
    return mege(*given, distance=apart), reco(*given, distance=apart)


def test_published_values():
    got = by_hand(*pair_of_models([0.1, 0.2, 0.3], [0.25, 0.6, 0.7]))
    np.testing.assert_allclose(got, [1 / 1.2, 2 / 3], rtol=4 * EPS)


@pytest.mark.parametrize(
    ("agreeing", "disagreeing", "wanted"),
    [([1, 2], [3, 4], 1), ([3, 4], [1, 2], 0), ([1, 1], [1, 1], 0), ([1, 1, 2], [1, 3], 0.5), ([2], [1, 3], 0.5)],
    ids=["separated", "reversed", "equal", "a tie", "one"],
)
def test_reco_by_hand(agreeing, disagreeing, wanted):
    assert by_hand(*pair_of_models(agreeing, disagreeing))[1] == wanted


@jax.jit
def four_models(heatmaps, correct, seen):
    """All measures of four models and 30 images, and one of them with other chunks."""
    whole = reproducibility(heatmaps, correct, seen, key=jax.random.key(0), num_bootstraps=50, chunk=7)
    return whole, mege(heatmaps, correct, seen, chunk=1000)


FOLDS = np.arange(30) % 4 != np.arange(4)[:, None]
MAPS = (RNG.normal(size=(1, 30, 5, 5)) + RNG.normal(size=(4, 30, 5, 5))).astype(np.float32)


def test_identical_models_agree_exactly():
    got, at_once = four_models(np.repeat(MAPS[:1], 4, 0), np.ones((4, 30), bool), FOLDS)
    assert got.mege == at_once == 1
    np.testing.assert_array_equal(got.mege_interval, 1)


def brute_force(heatmaps, correct, seen):
    """The definition, one distance at a time and every threshold tried."""
    agree, disagree = [], []
    for i, j in itertools.combinations(range(len(heatmaps)), 2):
        for n in np.flatnonzero(seen[i] != seen[j]):
            rho = stats.spearmanr(heatmaps[i, n].ravel(), heatmaps[j, n].ravel()).statistic
            right = int(correct[i, n]) + int(correct[j, n])
            if right:
                (agree if right == 2 else disagree).append(np.sqrt(1 - abs(rho)))
    agree, disagree = np.array(agree), np.array(disagree)
    gaps = [(agree <= g).mean() + (disagree > g).mean() - 1 for g in [*agree, *disagree]]
    return 1 / (1 + agree.mean()), max(0, *gaps), len(agree), len(disagree)


def test_reproducibility_by_brute_force():
    """Thresholds are between ranks, which rounding does not reorder: their distances differ by more than a few EPS."""
    correct = RNG.uniform(size=(4, 30)) < 0.7
    wanted_mege, wanted_reco, num_agreeing, num_disagreeing = brute_force(MAPS, correct, FOLDS)
    got, at_once = four_models(MAPS, correct, FOLDS)
    np.testing.assert_allclose([got.mege, at_once], wanted_mege, rtol=100 * EPS)
    np.testing.assert_allclose(got.reco, wanted_reco, rtol=100 * EPS)
    assert (got.num_agreeing, got.num_disagreeing) == (num_agreeing, num_disagreeing)
    assert got.mege_interval[0] < got.mege < got.mege_interval[1]
    assert got.reco_interval[0] < got.reco < got.reco_interval[1] < 1


def test_maps_that_do_not_know_the_decision():
    """Two samples of one distribution: P(gap > c) <= exp(-2 c² m / 2) for two sets of m, here 1e-6."""
    m = 2000
    distances = RNG.uniform(size=2 * m)
    assert by_hand(*pair_of_models(distances[:m], distances[m:]))[1] < (np.log(1e6) / m) ** 0.5


def test_empty_sets_have_a_value():
    """No one is right, all saw every image, none saw any: zeros; where all are right MeGe alone is known."""
    none, every = np.zeros((4, 30), bool), np.ones((4, 30), bool)
    for correct, seen in [(none, FOLDS), (every, every), (every, none)]:
        got, at_once = four_models(MAPS, correct, seen)
        np.testing.assert_array_equal(np.hstack([*got, at_once]), 0)
    got, _ = four_models(MAPS, every, FOLDS)
    assert got.mege > 0
    np.testing.assert_array_equal(np.hstack([got.reco, got.reco_interval, got.num_disagreeing]), 0)
    # Only the model that was not trained on an image is right about it: no two agree.
    got, _ = four_models(MAPS, ~FOLDS, FOLDS)
    assert got.mege == got.reco == 0 < got.num_disagreeing


def test_the_interval_is_that_of_the_normal_law(key):
    """Distances 0 or 1, half each, of 400 images: their mean is known to 1.96 · 0.5 / 20 = 0.049.

    Quantiles at 2.5 % of 2000 draws err by √(0.025 · 0.975 / 2000) / (2 · 0.0584) = 0.03 standard deviations of 0.025,
    once, and the counts of the binomial law move in steps of 1 / 400: 5 · 0.03 · 0.025 + 0.0025.
    """
    given = pair_of_models(np.arange(400) % 2, [], size=0)
    run = jax.jit(lambda *a: reproducibility(*a, key=key, num_bootstraps=2000, distance=apart, chunk=100))
    got = run(*given)
    mean = 1 / np.asarray(got.mege_interval) - 1
    assert got.mege == 1 / 1.5
    np.testing.assert_allclose(mean, [0.549, 0.451], atol=5 * 0.03 * 0.025 + 0.0025)
    np.testing.assert_array_equal(np.hstack(run(*given)), np.hstack(got))


def test_memory_is_flat_in_images():
    """From 64 images to 256, what is kept grows by a few numbers for each pair, less than one map of 32 × 32."""

    def temporary_bytes(n):
        shapes = jax.ShapeDtypeStruct((3, n, 32, 32), jnp.float32), *[jax.ShapeDtypeStruct((3, n), bool)] * 2
        run = jax.jit(lambda *a: mege(*a, distance=apart, chunk=4))
        return run.lower(*shapes).compile().memory_analysis().temp_size_in_bytes

    assert temporary_bytes(256) - temporary_bytes(64) < 192 * 32 * 32 * 4 / 4


@pytest.mark.parametrize("measure", [mege, reco])
def test_bad_input(measure):
    maps, flags = jnp.zeros((2, 3, 4, 4)), np.ones((2, 3), bool)
    with pytest.raises(ValueError, match=rf"{measure.__name__}: heatmaps has shape \(1, 3, 4, 4\), .* two models"):
        measure(maps[:1], flags[:1], flags[:1])
    with pytest.raises(ValueError, match=rf"{measure.__name__}: seen has shape \(2, 2\), .* here \(2, 3\)"):
        measure(maps, flags, flags[:, :2])
    with pytest.raises(ValueError, match=f"{measure.__name__}: heatmaps has NaN values"):
        measure(maps * jnp.nan, flags, flags)
