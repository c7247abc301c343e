"""Deletion, insertion and their kin against hand computation."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage, signal, sparse

from sparks_jax import images, metrics
from sparks_jax.metrics import deletion, insertion
from sparks_jax.metrics.ranks import rank_pixels, rank_regions
from tests.tiny import linear_score

W = jnp.array([[4.0, 3.0], [2.0, 1.0]])[..., None]
ONES = jnp.ones((2, 2, 1))


@pytest.mark.parametrize(
    ("heatmap", "deleted", "inserted"),
    [(W[..., 0], 3.75, 6.25), (-W[..., 0], 6.25, 3.75)],
    ids=["best", "worst"],
)
def test_areas_of_an_additive_score(heatmap, deleted, inserted, key):
    f = linear_score(W)
    assert deletion(f, ONES, heatmap, key=key, steps=4).auc == deleted
    assert insertion(f, ONES, heatmap, key=key, steps=4).auc == inserted


def test_curves(key):
    curve = deletion(linear_score(W), ONES, W[..., 0], key=key, steps=4)
    np.testing.assert_array_equal(curve.fractions, [0, 0.25, 0.5, 0.75, 1])
    np.testing.assert_array_equal(curve.scores, [10, 6, 3, 1, 0])
    curve = insertion(linear_score(W), ONES, W[..., 0], key=key, steps=2)
    np.testing.assert_array_equal(curve.scores, [0, 7, 10])


def test_the_two_areas_sum_to_both_ends(image, key):
    """Of an additive score, whatever the order: deletion + insertion = f(x) + f(x0), for every baseline."""
    w = jax.random.normal(jax.random.key(2), image.shape)
    f, heatmap = linear_score(w), jax.random.normal(jax.random.key(3), (8, 8))
    for baseline in (0.0, jnp.array([0.1, 0.2, 0.3]), images.blur):
        x0 = images.as_baseline(image, baseline)
        options = dict(key=key, steps=7, baseline=baseline)
        both = deletion(f, image, heatmap, **options).auc + insertion(f, image, heatmap, **options).auc
        # Sums of 192 products of order one, in float32.
        np.testing.assert_allclose(both, f(image) + f(x0), atol=192 * 2**-22)


def test_all_or_nothing_scores(key):
    """A score that falls with the first pixel and rises with the last has areas 0 and 0, to one step of 64."""
    x, heatmap = jnp.ones((8, 8, 1)), jnp.arange(64.0).reshape(8, 8)
    f = lambda x: (x.sum() >= 64).astype(jnp.float32)
    assert deletion(f, x, heatmap, key=key, steps=64).auc <= 1 / 64
    assert insertion(f, x, heatmap, key=key, steps=64).auc <= 1 / 64
    g = lambda x: (x.sum() >= 1).astype(jnp.float32)
    assert deletion(g, x, heatmap, key=key, steps=64).auc >= 1 - 1 / 64
    assert insertion(g, x, heatmap, key=key, steps=64).auc >= 1 - 1 / 64


def test_ties_are_broken_at_random():
    """Of a constant map every pixel is first equally often: 512 keys on 4 pixels, five standard deviations."""
    f = lambda x: (x[..., 0] * jnp.arange(4.0).reshape(2, 2)).sum()
    first = jax.vmap(lambda k: 6 - deletion(f, ONES, jnp.zeros((2, 2)), key=k, steps=4).scores[1])(
        jax.random.split(jax.random.key(0), 512)
    )
    counts = np.bincount(np.asarray(first).round().astype(int), minlength=4)
    np.testing.assert_allclose(counts, 128, atol=5 * (512 * 3 / 16) ** 0.5)


def test_the_key_decides_ties_only(key):
    heatmap, f = W[..., 0], linear_score(W)
    curves = [deletion(f, ONES, heatmap, key=k, steps=4).scores for k in jax.random.split(key, 4)]
    for scores in curves:
        np.testing.assert_array_equal(scores, curves[0])


def test_chunks_and_jit_change_nothing(network, image, key):
    from sparks_jax.scores import probability

    heatmap = jax.random.normal(key, (8, 8))
    run = lambda c: deletion(probability(network, 1), image, heatmap, key=key, steps=10, chunk=c).scores
    np.testing.assert_allclose(run(3), run(1000), rtol=1e-5)
    np.testing.assert_allclose(jax.jit(lambda: run(3))(), run(3), rtol=1e-5)


@pytest.mark.parametrize("metric", [deletion, insertion])
def test_bad_input(metric, key):
    name, f = metric.__name__, linear_score(W)
    with pytest.raises(
        ValueError, match=rf"{name}: heatmap has shape \(3, 2\) for an image \(2, 2, 1\), expected \(2, 2\)"
    ):
        metric(f, ONES, jnp.zeros((3, 2)), key=key, steps=2)
    with pytest.raises(ValueError, match=f"{name}: heatmap has NaN values"):
        metric(f, ONES, jnp.full((2, 2), jnp.nan), key=key, steps=2)
    for steps in (0, 5):
        with pytest.raises(ValueError, match=f"{name}: steps is {steps}, expected 1 to 4, the number of pixels"):
            metric(f, ONES, W[..., 0], key=key, steps=steps)
    with pytest.raises(ValueError, match=f"{name}: x has NaN"):
        metric(f, ONES * jnp.nan, W[..., 0], key=key, steps=2)


def test_published_protocols(key):
    """RISE moves 1792 pixels of 224² at a time, Xplique a tenth of them, and the walks end in what the papers say."""
    assert 224**2 / metrics.DELETION_RISE["steps"] == 224**2 / metrics.INSERTION_RISE["steps"] == 1792
    x = jnp.ones((32, 32, 1))
    deleted = jax.jit(lambda x: deletion(jnp.mean, x, x[..., 0], key=key, **metrics.DELETION_XPLIQUE))(x)
    np.testing.assert_allclose(deleted.fractions, np.linspace(0, 1, 11), atol=0.5 / 32**2)
    np.testing.assert_allclose(deleted.scores, 1 - deleted.fractions, atol=1e-6)
    assert metrics.INSERTION_RISE["baseline"] is metrics.rise_blur
    assert metrics.DELETION_RISE["baseline"] == 0
    assert metrics.INSERTION_XPLIQUE == metrics.DELETION_XPLIQUE


def test_the_blur_of_rise(key):
    """A point blurred by σ = 5 within 11 × 11 pixels, mirrors at the border, is the kernel; zeros around the image."""
    point = np.zeros((11, 11))
    point[5, 5] = 1
    kernel = ndimage.gaussian_filter(point, 5)
    x = jax.random.uniform(key, (17, 30, 1))
    expected = signal.convolve2d(x[..., 0], kernel, "same")
    # Two sums of 11 products of numbers below one, in float32.
    np.testing.assert_allclose(metrics.rise_blur(x)[..., 0], expected, atol=22 * 2**-24)


@pytest.mark.parametrize(("dtype", "size"), [(jnp.float32, 308), (jnp.bfloat16, 308), (jnp.float32, 1)])
def test_ranks_are_those_of_a_sort(dtype, size, key):
    odd = np.array([0, -0.0, np.inf, -np.inf, 1e-38, -1e-38, 3, 3], np.float32)
    values = np.concatenate([np.random.default_rng(0).normal(size=300), odd])[:size].astype(dtype)
    ranks = np.asarray(jax.jit(rank_pixels)(jnp.asarray(values)[None], key))[0]
    assert sorted(ranks) == list(range(size))
    in_order = values.astype(np.float32)[np.argsort(ranks)]
    assert (in_order[1:] <= in_order[:-1]).all()


def test_zero_and_minus_zero_are_equal(key):
    zeros = jnp.array([[0.0, -0.0]])
    firsts = jax.jit(jax.vmap(lambda k: rank_pixels(zeros, k)[0, 0]))(jax.random.split(key, 16))
    assert set(firsts.tolist()) == {0, 1}


def test_regions_are_ranked_by_their_mean(key):
    """Two pixels of 3 come before one of 2 and before four of 1.5, whose sum is greater; background is last of all."""
    regions = jnp.array([[4, 4, 0, -1], [2, 2, 2, 2]])
    heatmap = jnp.array([[3.0, 3.0, 2.0, 9.0], [1.5, 1.5, 1.5, 1.5]])
    rank, present = jax.jit(rank_regions, static_argnums=2)(heatmap, regions, 6, key)
    assert rank.tolist() == [[0, 0, 1, 6], [2, 2, 2, 2]]
    assert present == 3


def test_irof_of_an_additive_score(key):
    """Four segments worth 4, 3, 2, 1 of 10: the score falls to 6, 3, 1, 0: 5/8 lie above it, 3/8 in the worst order."""
    x, heatmap = jnp.ones((4, 4, 1)), jnp.kron(W[..., 0], jnp.ones((2, 2)))

    @jax.jit
    def irof(heatmap, labels, offset=0.0):
        f = lambda x: (heatmaps[0] * x[..., 0]).sum() / 4 - offset
        return metrics.irof(f, x, heatmap, key=key, baseline=0.0, segments=labels, num_segments=12)

    heatmaps, labels = (heatmap, -heatmap), jnp.kron(jnp.array([[5, 0], [2, 9]]), jnp.ones((2, 2), int))
    assert [irof(heatmap, labels).item() for heatmap in heatmaps] == [5 / 8, 3 / 8], "missing labels weigh nothing"
    kept = jnp.where(labels == 9, -1, labels)  # the last segment stays: 10, 6, 3, 1
    np.testing.assert_allclose(irof(heatmap, kept), (0.2 + 0.55 + 0.8) / 3, rtol=1e-6)
    assert irof(heatmap, labels, 10.0) == 0, "a score of zero cannot fall"
    with pytest.raises(ValueError, match="segments: the largest label is 9"):
        metrics.irof(jnp.sum, x, heatmap, key=key, segments=labels, num_segments=9)


def test_irof_replaces_by_the_mean_colour(key):
    x = jax.random.uniform(key, (4, 4, 3))
    np.testing.assert_allclose(metrics.mean_colour(x), np.broadcast_to(x.mean((0, 1)), x.shape), rtol=1e-6)
    replaced = lambda x: jnp.where(jnp.abs(x - x[:1, :1]).max() < 1e-6, 0.5, 1.0)  # one colour everywhere
    assert metrics.irof(replaced, x, x[..., 0], key=key, grid=2) == 1 / 16, "all four segments: half of the last step"


def test_region_perturbation(key):
    """Patches of 2 × 2 in 3 × 3 pixels, cut at the border, worth their pixels: 9 - (9 + 5 + 3 + 1 + 0)/5 in order."""
    x, heatmap = jnp.ones((3, 3, 1)), jnp.array([[4.0, 4, 3], [4, 4, 3], [2, 2, 1]])
    black = lambda x, *, key: 0 * x
    measure = jax.jit(
        lambda heatmap, n: metrics.region_perturbation(
            jnp.sum, x, heatmap, key=key, patch=2, num_regions=n, replacement=black
        ),
        static_argnums=1,
    )
    np.testing.assert_allclose(measure(heatmap, 4), 9 - 18 / 5, rtol=1e-6)
    np.testing.assert_allclose(measure(-heatmap, 1), 1 / 2, rtol=1e-6)
    for n in (0, 5):
        with pytest.raises(ValueError, match=f"num_regions is {n}, expected 1 to 4, the number of patches of 2 pixels"):
            measure(heatmap, n)
    with pytest.raises(ValueError, match="patch is 0"):
        metrics.region_perturbation(jnp.sum, x, heatmap, key=key, patch=0)
    assert dict(patch=9, num_regions=100, replacement=metrics.uniform_noise) == metrics.REGION_PERTURBATION_SAMEK


def test_uniform_noise_is_in_the_range_of_each_channel(key):
    x = np.linspace([0, 10], [1, 12], 4096, dtype=np.float32).reshape(64, 64, 2)
    noise = np.asarray(metrics.uniform_noise(jnp.asarray(x), key=key))
    assert ((noise >= x.min((0, 1))) & (noise <= x.max((0, 1)))).all()
    # Means of 4096 uniform numbers: five standard deviations of range / sqrt(12 · 4096).
    np.testing.assert_allclose(noise.mean((0, 1)), [0.5, 11], atol=5 * 2 / (12 * 4096) ** 0.5)


precise_imputation = jax.jit(partial(metrics.noisy_linear, noise=0.0, tolerance=1e-6))


@pytest.mark.parametrize("share", [0.1, 0.5, 0.97])
def test_imputation_solves_the_sparse_system(share, key):
    """Against a direct solution of: each missing pixel is the weighted mean of its neighbours, 1/6 and 1/12."""
    x, gone = jax.random.uniform(key, (12, 9, 2)), np.asarray(jax.random.uniform(key, (12, 9))) < share
    place = np.stack(np.meshgrid(range(12), range(9), indexing="ij"), -1).reshape(-1, 2)
    apart = abs(place[:, None] - place[None]).astype(int)
    weights = np.where(apart.max(-1) == 1, np.where(apart.sum(-1) == 1, 1 / 6, 1 / 12), 0)
    system = np.where(gone.ravel()[:, None], np.diag(weights.sum(1)) - weights, np.eye(108))
    right = np.where(gone.ravel()[:, None], 0, np.asarray(x, float).reshape(108, 2))
    expected = sparse.linalg.spsolve(sparse.csc_matrix(system), right).reshape(12, 9, 2)
    got = np.asarray(precise_imputation(x, jnp.asarray(gone), key=key))
    # The residual is 1e-6 of the right-hand side; the least eigenvalue of 108 pixels with one known is above 1e-3.
    np.testing.assert_allclose(got, expected, atol=2e-3)
    np.testing.assert_array_equal(got[~gone], x[~gone])


def test_imputation_adds_noise_to_missing_pixels_only(key):
    x, gone = jnp.ones((64, 64, 1)), jnp.arange(4096).reshape(64, 64) % 2 == 0
    fill = jax.jit(lambda gone: metrics.noisy_linear(x, gone, key=key, noise=0.1))
    noise = np.asarray(fill(gone) - x)
    assert (noise[~gone] == 0).all()
    # Standard deviation of 2048 normal numbers: five times 0.1 / sqrt(2 · 2048).
    np.testing.assert_allclose(noise[gone].std(), 0.1, atol=5 * 0.1 / 4096**0.5)
    assert abs(fill(gone | True).mean()) < 5 * 0.1 / 64, "nothing is left to tell what it was: noise around zero"


def test_road_removes_the_most_important_first(key):
    """One bright pixel in a black image: once it is gone its neighbours say black, and the least important do not."""
    x = jnp.zeros((8, 8, 1)).at[3, 4].set(1.0)
    road = jax.jit(lambda heatmap: metrics.road(jnp.max, x, heatmap, key=key, noise=0.0, fractions=(0.1, 0.5)))
    assert road(x[..., 0]) == 0
    assert road(-x[..., 0]) == 1
    for bad in ((), (0.0,), (0.5, 1.0)):
        with pytest.raises(ValueError, match="road: fractions is .*, expected shares of the pixels, between 0 and 1"):
            metrics.road(jnp.max, x, x[..., 0], key=key, fractions=bad)
    assert metrics.ROAD_ICML22["fractions"][-1] == 0.9


def test_comprehensiveness_and_sufficiency_add_up(image, key):
    """Of an additive score: what is lost without the best pixels and with them alone is together f(x) - f(x0)."""
    f, heatmap = linear_score(jax.random.normal(jax.random.key(2), image.shape)), jax.random.normal(key, (8, 8))
    options = dict(key=key, baseline=images.blur, **metrics.ERASER_ACL20)
    both = [metric(f, image, heatmap, **options) for metric in (metrics.comprehensiveness, metrics.sufficiency)]
    # Sums of 192 products of order one, in float32.
    np.testing.assert_allclose(sum(both), f(image) - f(images.blur(image)), atol=192 * 2**-22)


def test_comprehensiveness_by_hand(key):
    f, w = linear_score(W), W[..., 0]
    options = dict(key=key, fractions=(0.25, 0.75))
    assert metrics.comprehensiveness(f, ONES, w, **options) == (4 + 9) / 2
    assert metrics.sufficiency(f, ONES, w, **options) == (6 + 1) / 2
    assert metrics.sufficiency(f, ONES, -w, **options) == (9 + 4) / 2
