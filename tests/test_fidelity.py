"""Correlations, drops and infidelity against closed forms."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from sparks_jax import metrics
from sparks_jax.attribution import integrated_gradients
from tests.tiny import linear_score

W = jax.random.normal(jax.random.key(2), (8, 8, 1))
PHI = jax.random.normal(jax.random.key(4), (8, 8))
ONES = jnp.ones((8, 8, 1))
CELLS = W.reshape(4, 2, 4, 2).sum((1, 3)).ravel()


@pytest.fixture(scope="module")
def fidelities():
    """Both metrics of the score W · x on ones, as functions of the map, each compiled once."""
    f = linear_score(W)
    mu = partial(metrics.mu_fidelity, f, ONES, key=jax.random.key(0), grid=4, num_samples=2048, chunk=2048)
    n = partial(metrics.sensitivity_n, f, ONES, key=jax.random.key(0), num_samples=2048, chunk=2048)
    return {name: jax.jit(lambda h, fn=fn: fn(h)) for name, fn in (("mu_fidelity", mu), ("sensitivity_n", n))}


@pytest.mark.parametrize("name", ["mu_fidelity", "sensitivity_n"])
def test_contributions_to_a_linear_score(fidelities, name):
    """The map w · x predicts every fall: correlation 1; its negative: -1; a constant one: 0."""
    fidelity = fidelities[name]
    # A correlation of 2048 sums of at most 64 numbers, in float32.
    np.testing.assert_allclose(fidelity(W[..., 0]), 1, atol=1e-5)
    np.testing.assert_allclose(fidelity(-W[..., 0]), -1, atol=1e-5)
    np.testing.assert_allclose(fidelity(3 * W[..., 0] + 5), 1, atol=1e-5)
    assert fidelity(0 * PHI) == fidelity(0 * PHI + 0.1) == 0


def test_sums_over_random_sets_correlate_as_their_parts_do(fidelities):
    """Over sets of one size, corr(Σ φ, Σ w) = corr(φ, w) over the parts; 2048 sets err by less than 5 / sqrt(2048)."""
    phi_cells = PHI.reshape(4, 2, 4, 2).sum((1, 3)).ravel()
    np.testing.assert_allclose(fidelities["mu_fidelity"](PHI), np.corrcoef(CELLS, phi_cells)[0, 1], atol=5 / 2048**0.5)
    np.testing.assert_allclose(
        fidelities["sensitivity_n"](PHI), np.corrcoef(W.ravel(), PHI.ravel())[0, 1], atol=5 / 2048**0.5
    )


@pytest.mark.parametrize(
    ("metric", "options", "hidden"),
    [(metrics.mu_fidelity, dict(grid=4, subset=0.3), 5 * 4), (metrics.sensitivity_n, dict(n=13), 13)],
    ids=["mu_fidelity", "sensitivity_n"],
)
def test_exactly_as_many_are_hidden(metric, options, hidden, key):
    """Of 64 ones, no set leaves more or fewer: the sum of the image is constant, and so nothing correlates with it."""
    run = lambda **more: metric(jnp.sum, ONES, PHI, key=key, num_samples=64, chunk=64, **options, **more)
    least, most = (lambda a, b: b.min()), (lambda a, b: b.max())
    got = jax.jit(lambda: [run(correlation=least), run(correlation=most), run()])()
    np.testing.assert_array_equal(got, [hidden - 64, hidden - 64, 0])


def test_every_pixel_is_hidden_equally_often(key):
    """Of 4096 sets of 16 pixels of 64, each pixel is in a quarter: five standard deviations."""
    f = lambda x: (x[..., 0] * 2.0 ** -jnp.arange(64.0).reshape(8, 8)).sum()
    count = jax.jit(
        jax.vmap(lambda p: metrics.sensitivity_n(
            f, ONES, jnp.zeros(64).at[p].set(1).reshape(8, 8), key=key, n=16, num_samples=4096, chunk=4096,
            correlation=lambda a, b: jnp.abs(a - a.min()).mean(),
        ))
    )  # fmt: skip
    np.testing.assert_allclose(count(jnp.arange(64)), 1 / 4, atol=5 * (3 / 16 / 4096) ** 0.5)


def test_spearman_sees_only_the_order_of_the_sums(key):
    """Of single cells: a monotone change of the map changes Pearson's correlation and not Spearman's."""
    options = dict(key=key, grid=4, subset=1 / 16, num_samples=64)
    cells = jnp.kron(jax.random.uniform(key, (4, 4)), jnp.ones((2, 2)))
    fidelity = jax.jit(
        lambda h, correlation: metrics.mu_fidelity(linear_score(W), ONES, h, correlation=correlation, **options),
        static_argnums=1,
    )
    rank = [fidelity(h, metrics.spearman) for h in (cells, cells**3)]
    linear = [fidelity(h, metrics.pearson) for h in (cells, cells**3)]
    assert rank[0] == rank[1]
    assert abs(linear[0] - linear[1]) > 0.01
    assert (
        dict(grid=9, subset=0.2, num_samples=200, baseline=0.0, correlation=metrics.spearman)
        == metrics.MU_FIDELITY_XPLIQUE
    )


def test_pearson(key):
    a, b = jax.random.normal(key, (2, 100))
    np.testing.assert_allclose(metrics.pearson(a, b), stats.pearsonr(a, b).statistic, atol=1e-6)
    small = 1e-30 * a  # whose squares are not float32 numbers
    np.testing.assert_allclose(metrics.pearson(small, b), stats.pearsonr(a, b).statistic, atol=1e-6)
    for constant in (jnp.zeros(100), jnp.full(100, 0.1), 0.1 + 1e-8 * (a > 0)):
        assert metrics.pearson(constant, b) == 0


def test_bad_sizes(key):
    for options, message in [
        (dict(grid=9), "mu_fidelity: grid is 9, expected 1 to 8, the shorter side"),
        (dict(grid=2, subset=0.1), "mu_fidelity: subset is 0.1, 0 of 4 cells, expected at least one and not all"),
        (dict(grid=2, subset=1.0), "mu_fidelity: subset is 1.0, 4 of 4 cells, expected at least one and not all"),
    ]:
        with pytest.raises(ValueError, match=message):
            metrics.mu_fidelity(jnp.sum, ONES, PHI, key=key, **options)
    for n in (0, 64):
        with pytest.raises(ValueError, match=f"sensitivity_n: n is {n}, expected 1 to 63"):
            metrics.sensitivity_n(jnp.sum, ONES, PHI, key=key, n=n)


@pytest.mark.parametrize(
    ("before", "after", "drop", "increase", "gain"),
    [(0.8, 0.2, 0.75, 0, 0), (0.2, 0.8, 0, 1, 0.75), (0.5, 0.5, 0, 0, 0), (0.0, 0.25, 0, 1, 0.25), (1.0, 1.0, 0, 0, 0)],
)
def test_drop_increase_and_gain(before, after, drop, increase, gain):
    """A probability that is `before` of the whole image, and `after` without its first pixel."""
    f = lambda x: after + (before - after) * x[0, 0, 0]
    x, heatmap = jnp.ones((1, 2, 1)), jnp.array([[-1.0, 3.0]])
    got = [m(f, x, heatmap) for m in (metrics.average_drop, metrics.average_increase, metrics.average_gain)]
    np.testing.assert_allclose(got, [drop, increase, gain], atol=1e-6)


def test_the_mask_is_the_map_between_its_extremes():
    """Half way between them shows half of the pixel; a constant map shows nothing but the baseline."""
    mean = lambda x: x.mean()
    assert metrics.average_drop(mean, jnp.ones((1, 3, 1)), jnp.array([[-2.0, 0.0, 2.0]])) == 0.5
    assert metrics.average_drop(mean, ONES, 0 * PHI + 7) == 1
    assert metrics.average_drop(mean, ONES, 0 * PHI + 7, baseline=0.75) == 0.25
    huge = metrics.min_max(jnp.array([[-3e38, 3e38, 0.0]]))  # whose difference is not a float32 number
    assert huge.tolist() == [[0, 1, 0.5]]


def test_infidelity_of_a_linear_score(key):
    """A map wrong by c at every pixel mispredicts a square of s² pixels by c s²: s is 1 or 2, each half of the time."""
    infidelity = jax.jit(lambda h: metrics.infidelity(linear_score(W), ONES, h, key=key, num_samples=1023, chunk=1024))
    assert infidelity(W[..., 0]) < 1e-10  # squares of rounding errors of 64 numbers of order one
    # Values 1 and 16: five standard deviations of a mean of 1023.
    np.testing.assert_allclose(infidelity(W[..., 0] + 1), 8.5, atol=5 * 7.5 / 1023**0.5)


def test_infidelity_under_noise(key):
    """A map wrong by e errs by Σ I e, of variance σ² ‖e‖²; the best scale leaves the part of w beside the map."""
    f, w = linear_score(jnp.broadcast_to(W / 3, (8, 8, 3))), W[..., 0]
    noise = partial(metrics.gaussian_noise, sigma=0.5)
    options = dict(key=key, perturbation=noise, num_samples=4095, chunk=4096)
    measure = jax.jit(
        lambda h: [m(f, jnp.ones((8, 8, 3)), h, **options) for m in (metrics.infidelity, metrics.normalized_infidelity)]
    )
    plain, normalized = measure(PHI)
    # A mean of 4095 squares of normal numbers: five relative standard deviations sqrt(2 / 4095).
    np.testing.assert_allclose(plain, 0.25 * ((PHI - w) ** 2).sum(), rtol=5 * (2 / 4095) ** 0.5)
    beside = (w**2).sum() - (w * PHI).sum() ** 2 / (PHI**2).sum()
    np.testing.assert_allclose(normalized, 0.25 * beside, rtol=5 * (2 / 4095) ** 0.5)
    assert measure(-7 * w)[1] < 1e-9
    np.testing.assert_allclose(measure(0 * w)[1], 0.25 * (w**2).sum(), rtol=5 * (2 / 4095) ** 0.5)


def test_removed_squares(key):
    """Whole squares of each side equally often, inside of the image, up to its corners."""
    removed, x = jax.vmap(lambda k: metrics.square_removal(jnp.ones((6, 9, 2)), key=k, largest=0.5, baseline=4.0))(
        jax.random.split(key, 1024)
    )
    np.testing.assert_array_equal(x, np.broadcast_to(1 + 3 * np.asarray(removed)[..., None], x.shape))
    tall, wide = np.asarray(removed).any(2).sum(1), np.asarray(removed).any(1).sum(1)
    np.testing.assert_array_equal(tall, wide)
    np.testing.assert_array_equal(np.asarray(removed).sum((1, 2)), tall * wide)
    np.testing.assert_allclose(np.bincount(tall, minlength=4), [0, *3 * [1024 / 3]], atol=5 * (1024 * 2 / 9) ** 0.5)
    assert removed.any(0).all()


def test_completeness(network, image):
    """Integrated gradients are complete; gradient × input of a square is twice what the score changes by."""
    f = lambda x: network(x[None])[0, 1]
    x0 = jnp.array([0.1, 0.2, 0.3])
    phi = integrated_gradients(f, image, baseline=x0, num_steps=16).sum(-1)
    # 16 Gauss-Legendre nodes are exact to rounding for tanh of arguments below 2: 192 terms of float32.
    assert metrics.completeness(f, image, phi, baseline=x0) < 192 * 2**-23
    np.testing.assert_allclose(metrics.completeness(f, image, phi + 1, baseline=x0), 64, atol=1e-4)
    assert metrics.completeness(lambda x: (x**2).sum(), jnp.full((1, 1, 1), 3.0), jnp.array([[18.0]])) == 9
