"""Deletion and insertion against hand computation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparks_jax import images
from sparks_jax.metrics import deletion, insertion
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
