"""Agreement with people: rank correlation over its ceiling, overlaps, and how far people agree with each other."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from sparks_jax.alignment import (
    INTER_HUMAN,
    alignment,
    centre_map,
    dice,
    human_alignment,
    iou,
    one_against_others,
    split_half,
)

RNG = np.random.default_rng(0)
EPS = 2.0**-23
MAPS = jnp.asarray(RNG.normal(size=(5, 9, 8)), jnp.float32)
rank_agreement = jax.jit(human_alignment)
overlap, doubled = (jax.jit(metric, static_argnames="top") for metric in (iou, dice))


# --- rank correlation ---


@pytest.mark.parametrize("levels", [3, 1000], ids=["ties", "few ties"])
def test_alignment_is_the_rank_correlation_of_scipy(levels):
    """Ties share their mean rank: maps stored in 8 bits have many."""
    a, b = RNG.integers(0, levels, (2, 4, 9, 8)).astype(np.float32)
    wanted = [stats.spearmanr(u.ravel(), v.ravel()).statistic / 0.65753 for u, v in zip(a, b, strict=True)]
    np.testing.assert_allclose(rank_agreement(a, b), wanted, atol=72 * EPS)


def test_equal_inverted_and_constant_maps():
    np.testing.assert_allclose(INTER_HUMAN * rank_agreement(MAPS, jnp.exp(MAPS)), 1, atol=4 * EPS)
    np.testing.assert_allclose(INTER_HUMAN * rank_agreement(MAPS, -MAPS), -1, atol=72 * EPS)
    np.testing.assert_array_equal(rank_agreement(MAPS, jnp.ones_like(MAPS)), 0)


def test_people_agree_with_people_as_well_as_people_do():
    """A map whose rank correlation is the ceiling has alignment 1: 0.65753 of 1."""
    np.testing.assert_allclose(human_alignment(MAPS, MAPS, ceiling=1.0) / INTER_HUMAN, rank_agreement(MAPS, MAPS))
    assert INTER_HUMAN == 0.65753


def test_the_summary():
    """Its interval is that of numpy's quantiles of means of images drawn with replacement, within their own error."""
    a = jnp.asarray(RNG.normal(size=(60, 5, 5)), jnp.float32)
    b = (a + jnp.asarray(RNG.normal(size=a.shape), jnp.float32)).at[7].set(3)
    run = jax.jit(partial(alignment, ceiling=1.0, num_bootstraps=2000))
    found = run(a, b, key=jax.random.key(0))
    values = np.array([stats.spearmanr(u.ravel(), v.ravel()).statistic for u, v in zip(a, b, strict=True) if np.ptp(v)])
    values = np.insert(values, 7, 0)
    np.testing.assert_allclose(found.values, values, atol=25 * EPS)
    assert found.num_constant == 1
    np.testing.assert_allclose(found.mean, values.mean(), atol=60 * EPS)
    # Quantiles at 2.5 % of 2000 draws err by 0.06 standard errors each: five times that.
    error = values.std() / 60**0.5
    np.testing.assert_allclose(found.interval, values.mean() + 1.96 * error * np.array([-1, 1]), atol=5 * 0.06 * error)
    # A map of another image knows nothing: 60 correlations of 25 pixels, each of standard deviation 1 / √24.
    assert abs(found.shuffled) < 5 / (24 * 60) ** 0.5
    assert found.mean > 0.5


def test_a_map_of_the_centre_agrees_with_maps_of_the_centre():
    people = jnp.broadcast_to(centre_map((8, 12)), (2, 8, 12)) / 4
    found = jax.jit(partial(alignment, ceiling=1.0, num_bootstraps=4))(
        jax.random.normal(jax.random.key(0), people.shape), people, key=jax.random.key(1)
    )
    np.testing.assert_allclose(found.centre, 1, atol=96 * EPS)
    centre = centre_map((3, 5))
    np.testing.assert_array_equal(centre, centre[::-1, ::-1])
    assert centre[1, 2] == 1


# --- overlaps ---


@pytest.mark.parametrize("top", [0.1, 0.33])
def test_overlaps_are_those_of_masks_above_a_percentile(top):
    """The authors' definition, of maps without ties."""
    a, b = MAPS, jnp.asarray(RNG.normal(size=MAPS.shape), jnp.float32)
    for u, v, share, twice in zip(a, b, overlap(a, b, top=top), doubled(a, b, top=top), strict=True):
        m, n = (np.asarray(w) > np.percentile(w, 100 * (1 - top)) for w in (u, v))
        np.testing.assert_allclose(share, (m & n).sum() / (m | n).sum(), rtol=4 * EPS)
        np.testing.assert_allclose(twice, 2 * (m & n).sum() / (m.sum() + n.sum()), rtol=4 * EPS)


def test_overlap_with_itself_and_with_what_it_leaves():
    mask = jnp.zeros((1, 10, 10)).at[0, 3].set(1)  # the greatest tenth
    np.testing.assert_array_equal([overlap(mask, 5 * mask), doubled(mask, 5 * mask)], 1)
    np.testing.assert_array_equal([overlap(mask, -mask), doubled(mask, 1 - mask)], 0)


def test_pixels_that_tie_share_the_places():
    """A constant map takes a tenth of every pixel: of ten pixels, 1 of 1 + 0.1 · 90 … as sums of minima and maxima."""
    mask, flat = jnp.zeros((1, 10, 10)).at[0, 3].set(1), jnp.ones((1, 10, 10))
    np.testing.assert_allclose(overlap(mask, flat), 1 / (10 + 9), rtol=100 * EPS)
    np.testing.assert_allclose(doubled(mask, flat), 0.1, rtol=100 * EPS)
    # Saturated, as 8 bits are: 30 pixels tie for 10 places, one third of each; the mask has 10 of them.
    saturated = jnp.zeros((1, 10, 10)).at[0, 2:5].set(255)
    np.testing.assert_allclose(doubled(mask, saturated), 1 / 3, rtol=100 * EPS)


# --- people with each other ---

halves = jax.jit(partial(split_half, num_splits=100))
others = jax.jit(one_against_others)


def test_people_who_agree_and_people_who_do_not(key):
    person = MAPS[0]
    same = jnp.stack([person, 2 * person, person + 1, 3 * person])
    np.testing.assert_allclose([halves(same, key=key), others(same)], 1, atol=4 * EPS)
    np.testing.assert_allclose(halves(jnp.stack([person, -person]), key=key), -1, atol=72 * EPS)
    np.testing.assert_array_equal(halves(jnp.ones_like(same), key=key), 0)


def test_two_halves_of_three_people(key):
    """One of three against the other two: each as often, so the mean over many draws is that of the three ways."""
    people = np.asarray(MAPS[:3])
    rho = lambda a, b: stats.spearmanr(np.ravel(a), np.ravel(b)).statistic
    ways = [rho(people[i], people[[j for j in range(3) if j != i]].mean(0)) for i in range(3)]
    np.testing.assert_allclose(others(people), np.mean(ways), atol=72 * EPS)
    assert abs(halves(people, key=key) - np.mean(ways)) < 5 * np.std(ways) / 100**0.5


def test_noisy_annotators_reach_the_correlation_of_spearman_and_brown(key):
    """Truth and noise of variance 1: halves of n/2 = 4 correlate by 4 / (4 + 1) = 0.8, in ranks (6/π) asin(0.4).

    Of 2000 pixels, drawn once: five standard errors (1 - 0.8²) / √2000.
    """
    truth, noise = RNG.normal(size=2000), RNG.normal(size=(8, 2000))
    people = jnp.asarray(truth + noise, jnp.float32).reshape(8, 40, 50)
    wanted = 6 / np.pi * np.arcsin(0.8 / 2)
    assert abs(halves(people, key=key) - wanted) < 5 * (1 - 0.8**2) / 2000**0.5


# --- bad input ---


@pytest.mark.parametrize("metric", [human_alignment, iou, dice], ids=lambda f: f.__name__)
def test_bad_maps(metric):
    name = metric.__name__
    with pytest.raises(ValueError, match=rf"{name}: heatmaps has shape \(9, 8\) .* expected maps \(b, h, w\)"):
        metric(MAPS[0], MAPS[0])
    with pytest.raises(ValueError, match=rf"{name}: heatmaps .* human_maps \(4, 9, 8\), expected maps"):
        metric(MAPS, MAPS[1:])
    with pytest.raises(ValueError, match=f"{name}: human_maps has NaN values"):
        metric(MAPS, MAPS * jnp.nan)


def test_bad_options(key):
    with pytest.raises(ValueError, match="top is 1.0, expected a share"):
        iou(MAPS, MAPS, top=1.0)
    with pytest.raises(ValueError, match="ceiling is 0.0, expected a positive"):
        human_alignment(MAPS, MAPS, ceiling=0.0)
    with pytest.raises(ValueError, match="there is 1 image, expected two"):
        alignment(MAPS[:1], MAPS[:1], key=key)
    with pytest.raises(ValueError, match=r"split_half: annotations has shape \(1, 9, 8\), expected \(a, h, w\)"):
        split_half(MAPS[:1], key=key)
    with pytest.raises(ValueError, match="one_against_others: annotations has shape"):
        one_against_others(MAPS[:1])
