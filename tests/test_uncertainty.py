"""Standard errors are those of repetition, for every sampled method; sampling stops when the ranking is stable."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparks_jax import attribution, images
from sparks_jax.attribution import replicate, until_stable
from sparks_jax.attribution.uncertainty import _blocks
from sparks_jax.jobs.explain import count_evaluations, explain
from tests.roster import METHODS
from tests.tiny import linear_score

KEY = jax.random.key(0)
SAMPLED = [m for m in METHODS if m.needs_key and m.family == "score"]


def noise(f, x, *, key):
    """A method that returns noise of unit variance around the image, and evaluates the score three times."""
    return x[..., 0] + jax.random.normal(key, x.shape[:2]) + 0 * (f(x) + f(2 * x) + f(3 * x))


def total(x):
    return x.sum()


@pytest.mark.parametrize("method", SAMPLED, ids=lambda m: m.name)
def test_every_sampled_method(method, image):
    """Replicates of any method of the roster, whose numbers are checked below on one: the two agree on them, know what
    they cost, and a score that is not linear leaves them an error to see."""
    w = jax.random.normal(jax.random.key(2), image.shape)
    options = {**method.options, "chunk": 64}

    @jax.jit
    def run(w, x):
        f = lambda x: jnp.tanh((w * x).sum() / 4)
        fixed = replicate(method.fn, f, x, key=KEY, num_replicates=3, **options)
        more = dict(min_replicates=3, max_replicates=3, num_bootstraps=4)
        return fixed, until_stable(method.fn, f, x, key=KEY, **more, **options)

    fixed, stable = run(w, image)
    np.testing.assert_allclose(stable.map, fixed.map, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(stable.stderr, fixed.stderr, rtol=1e-3, atol=1e-6)
    assert fixed.stderr.max() > 0
    assert stable.evaluations == fixed.evaluations == 3 * count_evaluations(method.fn, image.shape, **options)
    assert all(bool(jnp.isfinite(a).all()) for a in stable)
    assert -1 <= stable.tau <= 1


def test_replicates_are_the_method_with_other_keys(image):
    f = lambda x: jnp.tanh(x).sum()
    once = lambda k: attribution.smoothgrad(f, image, key=k, num_samples=2, sigma=1.0)
    fixed = lambda k: replicate(attribution.smoothgrad, f, image, key=k, num_replicates=3, num_samples=2, sigma=1.0)
    maps, got = jax.jit(lambda k: (jax.vmap(lambda r: once(jax.random.fold_in(k, r)))(jnp.arange(3)), fixed(k)))(KEY)
    np.testing.assert_allclose(got.map, maps.mean(0), atol=1e-6)
    np.testing.assert_allclose(got.stderr, maps.std(0, ddof=1) / 3**0.5, atol=1e-6)


def test_the_standard_error_is_that_of_the_mean():
    """Of unit noise and 4 replicates it is 1/2, and its square has the relative standard deviation sqrt(2 / 3): over
    512 keys and 64 pixels, five of sqrt(2 / 3 / 2^15). The mean itself spreads as much: sqrt(2 / 2^15)."""
    x = jnp.ones((8, 8, 1))
    got = jax.vmap(lambda k: replicate(noise, total, x, key=k, num_replicates=4))(jax.random.split(KEY, 512))
    np.testing.assert_allclose(jnp.square(got.stderr).mean(), 1 / 4, rtol=5 * (2 / 3 / 2**15) ** 0.5)
    np.testing.assert_allclose(jnp.square(got.map - 1).mean(), 1 / 4, rtol=5 * (2 / 2**15) ** 0.5)


def test_the_standard_error_of_a_scrambled_design():
    """Rows of one scrambled design are not independent, replicates are: the mean of squared errors is the variance over
    keys of the mean. 64 keys, two cells with an index that is not zero: 5 (sqrt(2 / 63) + sqrt(2 / 3 / 64)) / sqrt(2)
    is 1; the squares agree to a factor of two."""
    f = lambda x: x[0, 0, 0] * x[1, 1, 0]
    options = dict(grid=2, num_designs=16, resize=images.nearest, chunk=96, num_replicates=4)
    run = jax.jit(jax.vmap(lambda k: replicate(attribution.sobol, f, jnp.ones((2, 2, 1)), key=k, **options)))
    got = run(jax.random.split(KEY, 64))
    claimed, true = jnp.square(got.stderr).mean(0), got.map.var(0, ddof=1)
    ratio = np.diag(claimed).mean() / np.diag(true).mean()
    assert 0.5 < ratio < 2
    np.testing.assert_allclose(got.stderr[:, 0, 1], 0, atol=1e-7)  # a cell that plays no role in any row


def test_a_linear_score_stops_before_noise_does():
    """RISE of a linear score of four very different regions; and noise, in whose ranking nothing is stable: the means
    of replicates drawn again share half of their variance with the mean, (2 / π) asin(sqrt(1/2)) = 1/2. That agreement
    is over 2016 pairs of 64 regions and has a standard deviation of about sqrt(2 / 9 / 64) = 0.06 before averaging."""
    x = jnp.ones((8, 8, 1))
    w = jnp.kron(jnp.array([[1.0, 9.0], [-6.0, 3.0]]), jnp.ones((4, 4)))[..., None]
    options = dict(grid=2, num_masks=64, chunk=64, cells=2, min_replicates=2)
    linear = jax.jit(lambda k: until_stable(attribution.rise, linear_score(w), x, key=k, **options))(KEY)
    assert linear.replicates < 8
    assert linear.tau >= 0.9
    pure = jax.jit(lambda k: until_stable(noise, total, x, key=k, max_replicates=16))(KEY)
    assert pure.replicates == 16
    assert abs(pure.tau - 0.5) < 0.15


def test_it_stops_where_the_ranking_is_as_stable_as_asked():
    """Signal and noise of unit variance: after R replicates the mean has the correlation sqrt(R / (R + 1)) with the
    signal, and with resampled means, which have the noise twice, sqrt((1 + 1/R) / (1 + 2/R)): asked for an agreement
    of 0.8, sin²(0.8 π / 2) = 0.9045, it stops near R = 8.5, where the true agreement is (2 / π) asin(0.946) = 0.79."""
    signal = jax.random.normal(jax.random.key(5), (24, 14, 14, 1))
    keys = jax.random.split(KEY, 24)
    run = partial(until_stable, noise, total, tau=0.8, max_replicates=32, num_bootstraps=32)
    got = jax.jit(jax.vmap(lambda x, k: run(x, key=k)))(signal, keys)
    # The agreement seen for one image errs by about 0.03, and moves by as much from 6 to 8.5 and from 8.5 to 14.
    assert 7 <= got.replicates.mean() <= 10
    assert got.replicates.max() <= 20
    assert len(set(got.replicates.tolist())) > 1  # each image stops by itself
    assert (got.tau >= 0.8).all()

    def agreement(a, b):
        order = lambda v: np.sign(v.ravel()[:, None] - v.ravel()[None])
        return (order(a) * order(b)).sum() / (196 * 195)

    true = np.mean([agreement(m, s) for m, s in zip(np.asarray(got.map), np.asarray(signal), strict=True)])
    # 24 of 0.03, three times over, and what stopping at the first success flatters: 0.01 here.
    assert abs(true - 0.79) < 3 * 0.03 / 24**0.5 + 0.01
    np.testing.assert_array_equal(got.evaluations, 3 * got.replicates)
    alone = jax.jit(lambda x, k: run(x, key=k))(signal[3], keys[3])
    assert alone.replicates == got.replicates[3]
    np.testing.assert_allclose(alone.map, got.map[3], atol=1e-6)
    np.testing.assert_allclose(alone.stderr, got.stderr[3], atol=1e-6)


def test_evaluations_are_what_the_score_saw(image):
    seen = []

    def f(x):
        jax.debug.callback(lambda _: seen.append(1), x.sum())
        return jnp.tanh(x).sum()

    options = dict(num_samples=2, sigma=1.0)
    for run in (partial(replicate, num_replicates=3), partial(until_stable, max_replicates=5, tau=0.99)):
        seen.clear()
        got = jax.block_until_ready(jax.jit(lambda k: run(attribution.smoothgrad, f, image, key=k, **options))(KEY))
        jax.effects_barrier()
        assert got.evaluations == len(seen)


@pytest.mark.parametrize(
    ("method", "options"), [(attribution.vargrad, dict(num_samples=4)), (attribution.rise, dict(num_masks=16, grid=2))]
)
def test_a_constant_score_is_stable_at_once(method, options):
    """Nothing to rank: agreement 1, no error; also of a map that is constant but for the rounding of its sums."""

    @jax.jit
    def run(value):
        constant = lambda x: value + 0 * x.sum()
        return until_stable(method, constant, jnp.ones((8, 8, 1)), key=KEY, min_replicates=2, **options)

    for value in (0.0, 0.1, 1e6):
        got = run(value)
        assert got.replicates == 2
        assert got.tau == 1
        np.testing.assert_allclose(got.stderr, 0, atol=value * 2**-22)
        assert bool(jnp.isfinite(got.map).all())


def test_channels_and_dtype(image):
    """Maps with channels are ranked by their heat map; half precision is summed in single precision."""
    f = lambda x: jnp.tanh(x.astype(jnp.float32)).sum().astype(x.dtype)
    x = image.astype(jnp.bfloat16)
    method = partial(attribution.smoothgrad, num_samples=2)
    fixed = jax.eval_shape(lambda x: replicate(method, f, x, key=KEY), x)
    assert fixed.map.dtype == fixed.stderr.dtype == jnp.bfloat16
    got = jax.jit(lambda x: until_stable(method, f, x, key=KEY, max_replicates=5))(x)
    assert got.map.dtype == got.stderr.dtype == jnp.bfloat16
    assert got.map.shape == image.shape
    assert 0 < got.tau <= 1


@pytest.mark.parametrize(("length", "cells"), [(14, 14), (224, 14), (15, 4), (7, 1)])
def test_blocks_have_equal_shares(length, cells):
    """Every block averages, and every pixel has the same weight in all of them together."""
    blocks = _blocks(length, cells)
    np.testing.assert_allclose(blocks.sum(1), 1)
    np.testing.assert_allclose(blocks.sum(0), cells / length)


def test_jobs_explain_with_them(network):
    """Over two devices, whose loops are of different lengths, as on one."""
    batch = np.asarray(jax.random.uniform(KEY, (2, 8, 8, 3))) * np.array([8.0, 0.0], np.float32)[:, None, None, None]
    method = partial(until_stable, noise, max_replicates=12, tau=0.7)
    run = partial(explain, method, network, batch, np.array([0, 1]), key=KEY)
    got = run(mesh=jax.make_mesh((2,), ("data",)))
    assert got.map.shape == got.stderr.shape == (2, 8, 8)
    assert got.evaluations.tolist() == (3 * got.replicates).tolist()
    # The first image is a signal of deviation 8 / sqrt(12) under unit noise, the second is nothing but the noise.
    assert got.replicates[0] < got.replicates[1] == 12
    for spread, alone in zip(got, run(), strict=True):
        np.testing.assert_allclose(spread, alone, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("run", [replicate, until_stable])
def test_what_is_refused(run, image):
    with pytest.raises(ValueError, match=f"^{run.__name__}: saliency takes no key: it draws no samples"):
        run(attribution.saliency, total, image, key=KEY)
    with pytest.raises(ValueError, match=rf"^{run.__name__}: x has shape \(8, 8\), expected one image"):
        run(attribution.rise, total, image[..., 0], key=KEY)


def test_numbers_out_of_range(image):
    with pytest.raises(ValueError, match="num_replicates is 1, expected at least 2 for a standard error"):
        replicate(attribution.rise, total, image, key=KEY, num_replicates=1)
    with pytest.raises(ValueError, match="min_replicates is 1 and max_replicates is 64, expected 2 <="):
        until_stable(attribution.rise, total, image, key=KEY, min_replicates=1)
    with pytest.raises(ValueError, match="min_replicates is 4 and max_replicates is 3"):
        until_stable(attribution.rise, total, image, key=KEY, max_replicates=3)
    for tau in (0.0, 1.1):
        with pytest.raises(ValueError, match=f"tau is {tau}, expected an agreement above 0, at most 1"):
            until_stable(attribution.rise, total, image, key=KEY, tau=tau)
