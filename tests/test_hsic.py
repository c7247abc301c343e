"""HSIC indices: closed forms of full factorial designs, the definition with all its matrices, the designs, memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparks_jax import designs, sensitivity
from sparks_jax.sensitivity import count_evaluations, linear_kernel, rbf_kernel

KEY = jax.random.key(0)
KERNELS = [linear_kernel, rbf_kernel]
every_kernel = pytest.mark.parametrize("kernel", KERNELS, ids=lambda k: k.__name__)


def hsic_indices(g, dim, *, key, **options):
    return jax.jit(lambda k: sensitivity.hsic_indices(g, dim, key=k, **options))(key)


def hsic_interactions(g, dim, *, key, **options):
    return jax.jit(lambda k: sensitivity.hsic_interactions(g, dim, key=k, **options))(key)


def factorial(num_points, dim, *, key):
    """Every configuration of the masks, as often as it takes."""
    return (jnp.arange(num_points)[:, None] >> jnp.arange(dim)[None]) % 2


def given(masks):
    return lambda num_points, dim, *, key: jnp.asarray(masks, jnp.float32)


def gram(values, kernel):
    """L, from its definition; the width is the median of the distances that are not zero."""
    distances = np.abs(values[:, None] - values[None])
    if kernel is linear_kernel:
        return np.outer(values, values)
    return np.exp(-((distances / np.quantile(distances[distances > 0], 0.5, method="higher")) ** 2) / 2)


def definition(masks, values, kernel):
    """tr(K H L H) / n² for every input and for every pair, from the kernels themselves."""
    n, dim = masks.shape
    h = np.eye(n) - 1 / n
    centred = h @ gram(values, kernel) @ h
    k = 0.5 - (masks[:, None] - masks[None]) ** 2  # (n n dim)
    main = np.einsum("abi,ab->i", k, centred) / n**2
    both = np.einsum("abij,ab->ij", (1 + k[..., None]) * (1 + k[..., None, :]), centred) / n**2
    return main, both - main[:, None] - main[None]


@every_kernel
def test_the_definition(kernel):
    """Random masks, unbalanced; values of a score that is anything but additive. Sums of 80 terms of float32."""
    rng = np.random.default_rng(0)
    masks = (rng.random((80, 6)) < 0.4) * 1.0
    g = lambda m: jnp.sin(m @ jnp.arange(6.0)) + 3 * m[0] * m[2]
    values = np.asarray(jax.vmap(g)(jnp.asarray(masks, jnp.float32)), np.float64)
    main, pairs = definition(masks, values, kernel)
    options = dict(key=KEY, num_points=80, design=given(masks), kernel=kernel, chunk=32)
    np.testing.assert_allclose(hsic_indices(g, 6, **options), main, atol=80 * 2**-24)
    got = hsic_interactions(g, 6, **options)
    np.testing.assert_allclose(np.diag(got), main, atol=80 * 2**-24)
    np.testing.assert_allclose(got[~np.eye(6, dtype=bool)], pairs[~np.eye(6, dtype=bool)], atol=80 * 2**-24)
    np.testing.assert_array_equal(got, got.T)


def test_an_additive_score_under_the_linear_kernel():
    """w² / 8 of each input, no pairs; exact in binary fractions."""
    w = jnp.array([2.0, 1.0, 0.0])
    options = dict(key=KEY, num_points=8, design=factorial, kernel=linear_kernel)
    np.testing.assert_allclose(hsic_indices(lambda m: w @ m, 3, **options), [0.5, 0.125, 0], atol=1e-6)
    got = hsic_interactions(lambda m: w @ m, 3, **options)
    np.testing.assert_allclose(got, np.diag([0.5, 0.125, 0]), atol=1e-6)


def test_a_product_under_the_linear_kernel():
    """m₁ m₂ = (1 + s₁ + s₂ + s₁ s₂) / 4: 1/2 · 1/16 alone, 1/4 · 1/16 together."""
    options = dict(key=KEY, num_points=4, design=factorial, kernel=linear_kernel)
    got = hsic_interactions(lambda m: m[0] * m[1], 2, **options)
    np.testing.assert_allclose(got, [[1 / 32, 1 / 64], [1 / 64, 1 / 32]], atol=1e-7)


def test_a_gaussian_kernel_sees_what_a_linear_one_does_not():
    """m₁ (2 m₂ - 1) has mean zero whatever m₁ is, but is zero without it."""
    g = lambda m: m[0] * (2 * m[1] - 1)
    options = dict(key=KEY, num_points=8, design=factorial)
    assert abs(hsic_indices(g, 3, kernel=linear_kernel, **options)[0]) < 1e-7
    got = hsic_indices(g, 3, kernel=rbf_kernel, **options)
    # Values -1, 0, 0, 1: L is 1, e^(-1/2) at distance 1 (the median) and e^(-2) at distance 2.
    near, far = np.exp(-1 / 2), np.exp(-2)
    # s₁ L s₁ / 16 over the four configurations: (1 + far) / 2 with it, 1 without, less 2 · near across.
    np.testing.assert_allclose(got[0], ((1 + far) / 2 + 1 - 2 * near) / 8, atol=1e-6)
    np.testing.assert_allclose(got[2], 0, atol=1e-7)


@every_kernel
@pytest.mark.parametrize("value", [0.0, 0.1, 1e6])
def test_a_constant_depends_on_nothing(kernel, value):
    masks = np.random.default_rng(0).random((16, 3)) < 0.5
    options = dict(key=KEY, num_points=16, design=given(masks), kernel=kernel)
    constant = lambda m: value + 0 * m.sum()
    np.testing.assert_array_equal(hsic_indices(constant, 3, **options), 0)
    np.testing.assert_array_equal(hsic_interactions(constant, 3, **options), 0)


def test_a_constant_input_and_the_order_of_the_rows():
    masks = (np.random.default_rng(1).random((32, 4)) < 0.5) * 1.0
    masks[:, 3] = 1
    g = lambda m: m[0] + 2 * m[1] * m[2] + m[3]
    at = lambda masks: hsic_indices(g, 4, key=KEY, num_points=32, design=given(masks))
    np.testing.assert_allclose(at(masks)[3], 0, atol=1e-7)
    np.testing.assert_allclose(at(masks[np.random.default_rng(2).permutation(32)]), at(masks), atol=1e-6)


def test_the_gaussian_kernel_knows_no_unit():
    g = lambda m: m[0] + 2 * m[1] * m[2]
    at = lambda f: hsic_indices(f, 3, key=KEY, num_points=32, design=designs.monte_carlo)
    np.testing.assert_allclose(at(lambda m: -8 * g(m) + 64), at(g), atol=1e-6)


@pytest.mark.parametrize(("num_values", "tolerance"), [(2, 1e-6), (3, 1e-6), (255, 1e-6), (2000, 0.02)])
def test_the_width_is_the_median_distance(num_values, tolerance):
    """Above 256 values it is read off 256 quantiles, each right to 1/256 of the values."""
    values = np.random.default_rng(0).normal(size=num_values)
    distances = np.abs(values[:, None] - values[None])[np.triu_indices(num_values, 1)]
    distances = distances[distances > 2**-16 * distances.max()]  # what counts as distinct
    kernel = rbf_kernel(jnp.asarray(values, jnp.float32))
    width = 1 / np.sqrt(-2 * np.log(float(kernel(jnp.float32(0), jnp.float32(np.median(distances))))))
    width *= np.median(distances)
    nearest = distances[np.abs(distances - np.median(distances)).argmin()]  # two of them where their number is even
    assert abs(width - nearest) < max(2 * abs(nearest - np.median(distances)), tolerance * nearest)


def test_values_that_coincide_do_not_shrink_the_width():
    """Of 64 values, 60 are zero: most distances are zero, the median of the others is 1."""
    values = jnp.zeros(64).at[:4].set(1.0)
    np.testing.assert_allclose(rbf_kernel(values)(0.0, 1.0), np.exp(-1 / 2), rtol=1e-6)


@pytest.mark.parametrize(("num_points", "dim"), [(512, 49), (1024, 196)])
def test_the_default_design_is_an_orthogonal_array_of_strength_three(num_points, dim):
    """Columns are balanced, no two are correlated, and none is the product of two others."""
    signs = np.where(jax.jit(lambda k: designs.sobol(num_points, dim, key=k))(KEY) >= 0.5, 1.0, -1.0)
    i, j = np.triu_indices(dim, 1)
    np.testing.assert_array_equal(signs.sum(0), 0)
    np.testing.assert_array_equal(signs.T @ signs, num_points * np.eye(dim))
    some = np.random.default_rng(0).choice(len(i), 1176, replace=False)
    np.testing.assert_array_equal((signs[:, i[some]] * signs[:, j[some]]).T @ signs, 0)


def test_it_errs_less_than_latin_hypercubes():
    """A score of 49 inputs with products of two: under the linear kernel the orthogonal array has no error in w² / 8
    but what the products leave; Latin hypercubes mistake every input for a little of every other."""
    w = jnp.exp(-jnp.arange(49) / 12.0)
    g = lambda m: w @ m + m[0] * m[5] + m[10] * m[30]
    exact = np.array(w.at[jnp.array([0, 5, 10, 30])].add(0.5)) ** 2 / 8  # a product is half of each, on average
    at = lambda design: hsic_indices(g, 49, key=KEY, design=design, kernel=linear_kernel, chunk=512)
    error = {d: np.abs(at(d) - exact).sum() for d in (designs.sobol, designs.latin_hypercube)}
    assert error[designs.sobol] < error[designs.latin_hypercube] / 4


def test_single_inputs_are_not_mistaken_for_pairs():
    """Mirrored masks: a single sign averages to zero in every pair of runs. So what the linear kernel sees of a pair of
    w m + 4 m₁ m₄ = constant + odd terms + s₁ s₄ is a quarter of its squared covariance with s₁ s₄, exactly, on a
    design that is far from orthogonal."""
    w = jnp.array([3.0, -2.0, 1.0, 0.5, 0.0])
    signs = np.where(designs.antithetic(32, 5, key=KEY) >= 0.5, 1.0, -1.0)
    products = (signs[:, :, None] * signs[:, None]).reshape(32, 25)
    expected = np.cov(products.T, ddof=0)[:, 1 * 5 + 4].reshape(5, 5) ** 2 / 4
    got = hsic_interactions(lambda m: w @ m + 4 * m[1] * m[4], 5, key=KEY, num_points=32, kernel=linear_kernel)
    off = ~np.eye(5, dtype=bool)
    np.testing.assert_allclose(got[off], expected[off], atol=32 * 2**-22)  # sums of 32 terms below 4


@pytest.mark.parametrize("indices", [sensitivity.hsic_indices, sensitivity.hsic_interactions])
def test_memory_at_the_size_of_the_paper(indices):
    """14² cells and 1536 masks: below 200 MB beyond the score, which here has no memory to speak of."""
    options = dict(num_points=1536, design=designs.monte_carlo, chunk=64)
    run = jax.jit(lambda k: indices(lambda m: m.sum(), 196, key=k, **options))
    assert run.lower(KEY).compile().memory_analysis().temp_size_in_bytes < 200e6


def test_evaluations():
    for indices in (sensitivity.hsic_indices, sensitivity.hsic_interactions):
        assert count_evaluations(lambda f: indices(f, 9, key=KEY, num_points=64)) == 64


def test_the_score_is_followed_in_dtype_and_derivative():
    def at(w):
        g = lambda m: (w * m).sum().astype(w.dtype)
        return sensitivity.hsic_indices(g, 3, key=KEY, num_points=8, design=factorial, kernel=linear_kernel)

    # d (w² / 8) / dw = w / 4
    np.testing.assert_allclose(
        jax.jit(jax.jacobian(at))(jnp.array([2.0, 1.0, 0.0])), np.diag([0.5, 0.25, 0]), atol=1e-6
    )
    assert jax.eval_shape(at, jnp.ones(3, jnp.bfloat16)).dtype == jnp.bfloat16
