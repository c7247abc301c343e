"""Sobol' indices: functions whose indices are known, invariances, standard errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparks_jax import designs, sensitivity

ESTIMATORS = [
    sensitivity.jansen,
    sensitivity.homma_saltelli,
    sensitivity.saltelli,
    sensitivity.janon_monod,
    sensitivity.glen_isaacs,
]
KEY = jax.random.key(0)
every_estimator = pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda e: e.__name__)


def ishigami(u):
    """a = 7, b = 0.1 on [-π, π]³. Its variance is a²/8 + bπ⁴/5 + b²π⁸/18 + 1/2."""
    x = np.pi * (2 * u - 1)
    return jnp.sin(x[0]) + 7 * jnp.sin(x[1]) ** 2 + 0.1 * x[2] ** 4 * jnp.sin(x[0])


V1, V2, V13 = 0.5 * (1 + 0.1 * np.pi**4 / 5) ** 2, 49 / 8, 0.01 * np.pi**8 * (1 / 18 - 1 / 50)
ISHIGAMI_VARIANCE = V1 + V2 + V13
ISHIGAMI_FIRST = np.array([V1, V2, 0]) / ISHIGAMI_VARIANCE
ISHIGAMI_TOTAL = np.array([V1 + V13, V2, V13]) / ISHIGAMI_VARIANCE

G_A = np.array([0, 1, 4.5, 9, 99, 99, 99, 99])


def g_function(u):
    return jnp.prod((jnp.abs(4 * u - 2) + G_A) / (1 + G_A))


def g_indices():
    """V_i = 1 / (3 (1 + a_i)²), and the variance of the product is the product of the (1 + V_j), less one."""
    v = 1 / (3 * (1 + G_A) ** 2)
    whole = np.prod(1 + v)
    return v / (whole - 1), v / (1 + v) * whole / (whole - 1), whole - 1


@pytest.fixture(scope="module")
def ishigami_values():
    return sensitivity.pick_freeze(ishigami, 3, key=jax.random.key(0), num_designs=2**14, chunk=2**12)


def test_the_constants_of_the_literature():
    np.testing.assert_allclose(ISHIGAMI_VARIANCE, 13.844588, atol=1e-6)
    np.testing.assert_allclose(ISHIGAMI_FIRST, [0.313905, 0.442411, 0], atol=1e-6)
    np.testing.assert_allclose(ISHIGAMI_TOTAL, [0.557589, 0.442411, 0.243684], atol=1e-6)
    first, total, variance = g_indices()
    np.testing.assert_allclose(first[:4], [0.716192, 0.179048, 0.023676, 0.007162], atol=1e-6)
    np.testing.assert_allclose(total[:4], [0.787144, 0.242198, 0.034317, 0.010460], atol=1e-6)
    np.testing.assert_allclose(variance, 0.465424, atol=1e-6)


@every_estimator
def test_ishigami(estimator, ishigami_values):
    """At 2^14 rows a scrambled design errs by less than 3e-3 (at 2^12 the worst of 40 keys was 8e-3 and 16e-3)."""
    first, total = estimator(*ishigami_values)
    np.testing.assert_allclose(total, ISHIGAMI_TOTAL, atol=3e-3)
    np.testing.assert_allclose(first, ISHIGAMI_FIRST, atol=6e-3)


@every_estimator
def test_ishigami_on_the_raw_sequence(estimator):
    raw = lambda num_points, dim, *, key: designs.sobol(num_points, dim)
    values = sensitivity.pick_freeze(ishigami, 3, key=jax.random.key(0), num_designs=2**15, design=raw, chunk=2**12)
    np.testing.assert_allclose(estimator(*values)[1], ISHIGAMI_TOTAL, atol=1e-3)


def test_g_function(key):
    first, total, variance = g_indices()
    got = sensitivity.sobol_indices(g_function, 8, key=key, num_designs=2**13, chunk=2**12, num_bootstraps=16)
    np.testing.assert_allclose(got.total, total, atol=2e-3)
    np.testing.assert_allclose(got.first, first, atol=4e-3)
    np.testing.assert_allclose(got.variance, variance, rtol=1e-2)


@every_estimator
def test_an_affine_map_changes_nothing(estimator, ishigami_values):
    moved = jax.tree.map(lambda v: -3 * v + 40, ishigami_values)
    for got, expected in zip(estimator(*moved), estimator(*ishigami_values), strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-4)


@every_estimator
def test_inputs_are_treated_alike(estimator):
    values = sensitivity.pick_freeze(ishigami, 3, key=jax.random.key(0), num_designs=64)
    order = jnp.array([2, 0, 1])
    permuted = estimator(values.fa, values.fb, values.fab[order])
    for got, expected in zip(permuted, estimator(*values), strict=True):
        np.testing.assert_allclose(got, expected[order], atol=1e-6)


@every_estimator
@pytest.mark.parametrize("value", [0.0, 0.1, 1e6])
def test_a_constant_has_zero_indices(estimator, value):
    got = sensitivity.sobol_indices(
        lambda u: value + 0 * u.sum(), 4, key=jax.random.key(0), estimator=estimator, num_bootstraps=4
    )
    for zero in got:
        np.testing.assert_array_equal(zero, 0)


def test_homma_and_saltelli_agree_in_total_order(ishigami_values):
    np.testing.assert_allclose(
        sensitivity.homma_saltelli(*ishigami_values)[1], sensitivity.saltelli(*ishigami_values)[1], atol=1e-6
    )


@every_estimator
def test_additive_functions_have_no_interactions(estimator, key):
    """g = Σ w_i u_i: first and total order are both w_i² / Σ w²."""
    w = jnp.array([3.0, 1.0, 0.0, 2.0])
    values = sensitivity.pick_freeze(lambda u: w @ u, 4, key=key, num_designs=2**12, chunk=2**12)
    for indices in estimator(*values):
        np.testing.assert_allclose(indices, w**2 / 14, atol=4 / 2**6 / 4)


@pytest.mark.parametrize("design", [designs.sobol, designs.halton, designs.latin_hypercube, designs.monte_carlo])
def test_every_keyed_design_serves(design):
    """Independent rows err by less than 5 standard deviations of about 1/sqrt(1024)."""
    w = jnp.array([2.0, 1.0])
    got = sensitivity.sobol_indices(lambda u: w @ u, 2, key=jax.random.key(1), num_designs=1024, design=design)
    np.testing.assert_allclose(got.total, [0.8, 0.2], atol=5 / 32)


def test_standard_errors_are_those_of_repetition():
    """On independent rows the bootstrap agrees with the spread over 256 keys, to 25 %: its own error is 6 % (128
    resamplings), the spread's 4 %, and at 64 rows the estimate is biased by a few percent."""
    w = jnp.array([2.0, 1.0, 0.5])
    estimate = jax.jit(
        jax.vmap(
            lambda k: sensitivity.sobol_indices(
                lambda u: w @ u, 3, key=k, num_designs=64, design=designs.monte_carlo, chunk=320
            )
        )
    )
    got = estimate(jax.random.split(jax.random.key(0), 256))
    np.testing.assert_allclose(got.stderr.mean(0), got.total.std(0, ddof=1), rtol=0.25)


def test_evaluations_are_rows_times_dim_plus_two():
    assert sensitivity.count_evaluations(lambda f: sensitivity.pick_freeze(f, 5, key=KEY, num_designs=16)) == 16 * 7


def test_pairs_of_ishigami(key):
    """S₁₃ is all the interaction there is. The standard error of a pair at 2^14 scrambled rows is below 2.5e-3 (over 20
    keys at 2^12 it was 5e-3): five of them."""
    got = jax.jit(lambda k: sensitivity.sobol_interactions(ishigami, 3, key=k, num_designs=2**14, chunk=2**12))(key)
    expected = np.diag(ISHIGAMI_FIRST)
    expected[0, 2] = expected[2, 0] = V13 / ISHIGAMI_VARIANCE
    np.testing.assert_allclose(expected[0, 2], 0.243684, atol=1e-6)
    np.testing.assert_allclose(got, expected, atol=0.0125)


def test_pairs_of_a_product_and_a_sum(key):
    """u₁ u₂ + u₃ / 2: variance 7/144 + 3/144; 3 alone for each of the three, 1 together, in tenths."""
    g = lambda u: u[0] * u[1] + u[2] / 2
    got = jax.jit(lambda k: sensitivity.sobol_interactions(g, 4, key=k, num_designs=2**14, chunk=2**12))(key)
    expected = np.diag([3.0, 3, 3, 0]) / 10
    expected[0, 1] = expected[1, 0] = 1 / 10
    # A pair errs by 2 sqrt(S S' / n) < 0.005 for independent rows; five of them on scrambled ones.
    np.testing.assert_allclose(got, expected, atol=5 * 2 * 0.3 / 2**7)


def test_pairs_of_one_input_and_of_a_constant():
    """Of one input, M₁₁ is minus the mean of (f_B - f_A)²: the first index is that over twice the variance, as
    Jansen's total index with f_B for f_AB. And a constant has no pairs."""
    a, b = jax.random.normal(KEY, (2, 64))
    run, mirror = sensitivity.PickFreeze(a, b, b[None]), sensitivity.PickFreeze(b, a, a[None])
    expected = sensitivity.jansen(a, b, b[None])[1]
    np.testing.assert_allclose(sensitivity.second_order(run, mirror)[0], expected, rtol=1e-5)
    for value in (0.0, 0.1, 1e6):
        values = sensitivity.PickFreeze(*(jnp.full(s, value) for s in ((8,), (8,), (2, 8))))
        np.testing.assert_array_equal(sensitivity.second_order(values, values), 0)


def test_standard_error_of_a_pair():
    """On independent rows of a sum it is 2 sqrt(S S' / n): over 400 keys to 20 %, five times 1 / sqrt(2 · 400), and a
    little for the variance, which is estimated too."""
    w, n = jnp.array([2.0, 1.0, 1.0]), 256
    estimate = jax.jit(
        jax.vmap(
            lambda k: sensitivity.sobol_interactions(
                lambda u: w @ u, 3, key=k, num_designs=n, design=designs.monte_carlo, chunk=2048
            )
        )
    )
    spread = estimate(jax.random.split(jax.random.key(0), 400)).std(0)
    shares = np.array([4, 1, 1]) / 6
    for i, j in [(0, 1), (0, 2), (1, 2)]:
        np.testing.assert_allclose(spread[i, j], 2 * np.sqrt(shares[i] * shares[j] / n), rtol=0.2)


def test_a_run_and_its_mirror_image():
    """Crossed values are those of the crossed rows, at 2 dim + 2 evaluations of each."""
    code = lambda u: (u > 0.5) @ jnp.array([1.0, 2.0, 4.0])
    rows = lambda num_points, dim, *, key: jnp.broadcast_to(jnp.arange(dim) >= 3, (num_points, dim)) * 1.0
    run, mirror = sensitivity.pick_freeze_both_ways(code, 3, key=jax.random.key(0), num_designs=2, design=rows)
    np.testing.assert_array_equal(run.fa, 0)
    np.testing.assert_array_equal(run.fb, 7)
    np.testing.assert_array_equal(run.fab, np.array([[1, 1], [2, 2], [4, 4]]))
    np.testing.assert_array_equal(mirror.fa, run.fb)
    np.testing.assert_array_equal(mirror.fb, run.fa)
    np.testing.assert_array_equal(mirror.fab, 7 - run.fab)
    count = sensitivity.count_evaluations(lambda f: sensitivity.sobol_interactions(f, 5, key=KEY, num_designs=16))
    assert count == 16 * (2 * 5 + 2)
