"""Laws of the linear algebra: sound bounds, orthogonal limits, exact least squares and their derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import nnls as scipy_nnls

from sparks_jax import linalg

EPS = float(jnp.finfo(jnp.float32).eps)
SHAPES = [(1, 1), (1, 7), (7, 1), (5, 5), (4, 27), (40, 12)]


def gaussian(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def sigmas(kernel):
    return np.linalg.svd(np.asarray(kernel, np.float64), compute_uv=False)


# --- gram_bound


@pytest.mark.parametrize("shape", SHAPES)
def test_gram_bound_is_above_and_tightens(shape):
    """A Schatten norm of order 2^(t+1): between sigma_1 and rank^(2^-(t+1)) sigma_1, without any tolerance above."""
    rank = min(shape)
    for kernel in (gaussian(*shape), 1e-12 * gaussian(*shape), 1e18 * gaussian(*shape), np.eye(*shape, dtype="f")):
        (largest, *_) = sigmas(kernel)
        bounds = np.array([linalg.gram_bound(jnp.asarray(kernel), steps=t).item() for t in range(8)])
        assert (bounds >= largest).all()
        excess = rank**0.5 ** np.arange(1.0, 9.0)
        assert (bounds <= largest * excess * (1 + 4 * max(shape) * EPS)).all()


def test_gram_bound_values():
    """The circular convolution K[o,i,a,b] = sin(1 + 7o + 5i + 3a + 2b) on an 8 by 8 grid, norm 14.861964."""
    o, i, a, b = np.indices((4, 3, 3, 3))
    spectra = np.fft.fft2(np.sin(1 + 7 * o + 5 * i + 3 * a + 2 * b), (8, 8))
    blocks = jnp.asarray(spectra.transpose(2, 3, 0, 1).reshape(64, 4, 3), jnp.complex64)
    bounds = [jax.vmap(lambda k: linalg.gram_bound(k, steps=t))(blocks).max().item() for t in range(4)]
    np.testing.assert_allclose(bounds, [15.096690, 14.862360, 14.861964, 14.861964], rtol=10 * EPS)


def test_gram_bound_of_zero_and_its_gradient():
    value, slope = jax.value_and_grad(linalg.gram_bound)(jnp.zeros((3, 2)))
    assert value == 0
    assert (slope == 0).all()
    # Far from degenerate, the gradient of the bound is that of sigma_1, the outer product of singular vectors.
    slope = jax.grad(linalg.gram_bound)(jnp.diag(jnp.array([3.0, 1.0])))
    np.testing.assert_allclose(slope, np.diag([1.0, 0.0]), atol=10 * EPS)


# --- power_iteration


def test_power_iteration_finds_the_norm_from_below():
    matrix = np.diag([3.0, 2.0, 1.0]).astype(np.float32)
    keys = jax.random.split(jax.random.key(0), 5)
    norm = jax.jit(jax.vmap(lambda k: linalg.power_iteration(lambda v: matrix @ v, jnp.zeros(3), key=k)))
    values = norm(keys)
    assert (values <= 3 * (1 + 2 * EPS)).all()
    # After 30 steps the error is (2/3)^60 = 3e-11 times at most (v_2/v_1)^2 of the start.
    np.testing.assert_allclose(values, 3.0, rtol=4 * EPS)


def test_power_iteration_takes_the_adjoint_of_the_function_itself():
    """A strided convolution with its padding, against the singular values of its matrix."""
    kernel = gaussian(3, 3, 2, 4)

    def conv(x):
        return jax.lax.conv_general_dilated(
            x[None], kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), precision="highest"
        )[0]

    like = jax.ShapeDtypeStruct((5, 6, 2), jnp.float32)
    matrix = jax.vmap(conv)(jnp.eye(60).reshape(60, 5, 6, 2)).reshape(60, -1)
    value = linalg.power_iteration(conv, like, key=jax.random.key(0), steps=200)
    np.testing.assert_allclose(value, sigmas(matrix)[0], rtol=60 * EPS)


def test_power_iteration_derivative_is_the_singular_vectors():
    matrix = jnp.diag(jnp.array([4.0, -1.0]))
    slope = jax.grad(lambda m: linalg.power_iteration(lambda v: m @ v, jnp.zeros(2), key=jax.random.key(0)))(matrix)
    np.testing.assert_allclose(slope, np.diag([1.0, 0.0]), atol=4 * EPS)
    assert linalg.power_iteration(lambda v: 0 * v, jnp.zeros(2), key=jax.random.key(0)) == 0


# --- bjorck


@pytest.mark.parametrize("steps", [12, 15, 25])
def test_bjorck_moves_singular_values_as_the_scalar_iteration(steps):
    """s <- 1.5 s - 0.5 s^3 from the start, next to a singular value 1 that fixes the scale."""
    start = np.array([1.0, 0.9, 0.5, 0.1, 0.03, 0.01, 0.001])
    expected = start
    for _ in range(steps):
        expected = 1.5 * expected - 0.5 * expected**3
    result = linalg.bjorck(jnp.diag(jnp.asarray(start, jnp.float32)), steps=steps)
    # gram_bound exceeds 1 by 0.9^128 / 128 = 1e-8 and 7 eps; a relative change of s grows with s, never beyond 1.
    np.testing.assert_allclose(jnp.diag(result), expected, rtol=20 * EPS)


@pytest.mark.parametrize(("shape", "order"), [((1, 7), 1), ((5, 5), 1), ((4, 27), 3), ((40, 12), 2)])
def test_bjorck_is_the_polar_factor(shape, order):
    kernel = gaussian(*shape, seed=3)
    left, _, right = np.linalg.svd(kernel.astype(np.float64), full_matrices=False)
    result = linalg.bjorck(jnp.asarray(100 * kernel), steps=25, order=order)
    np.testing.assert_allclose(result, left @ right, atol=50 * EPS)  # 40 rounded terms in a product


def test_bjorck_stays_one_lipschitz_at_every_step():
    kernel = jnp.asarray(gaussian(16, 16))
    for order in (1, 2):
        spread = [sigmas(linalg.bjorck(kernel, steps=steps, order=order)) for steps in range(0, 12, 2)]
        assert max(s[0] for s in spread) <= 1 + 16 * EPS
        smallest = [s[-1] for s in spread]
        assert smallest == sorted(smallest)


def test_bjorck_of_an_orthogonal_kernel_is_itself_and_gradient_is_tangent():
    """Near the orthogonal matrices the derivative is the projection G - O sym(O'G) onto their tangent space."""
    orthogonal = jnp.asarray(np.linalg.qr(gaussian(9, 4))[0])
    cotangent = jnp.asarray(gaussian(9, 4, seed=1))
    value, pull = jax.vjp(lambda k: linalg.bjorck(k, steps=8), orthogonal)
    np.testing.assert_allclose(value, orthogonal, atol=20 * EPS)
    inner = orthogonal.T @ cotangent
    tangent = cotangent - orthogonal @ (inner + inner.T) / 2
    np.testing.assert_allclose(pull(cotangent)[0], tangent, atol=200 * EPS)


# --- inverse_sqrt


def test_inverse_sqrt_whitens():
    """Newton-Schulz loses the condition number, here 100, times a few units of rounding."""
    basis = np.linalg.qr(gaussian(6, 6))[0].astype(np.float64)
    matrix = (basis * np.logspace(-1, 1, 6)) @ basis.T
    result = linalg.inverse_sqrt(jnp.asarray(matrix, jnp.float32))
    np.testing.assert_allclose(result, (basis * np.logspace(0.5, -0.5, 6)) @ basis.T, atol=100 * 6 * EPS)


# --- nnls


def problem(kind, rows, columns, seed):
    """Well-conditioned, non-negative with a planted solution, or a bank of nearly parallel columns (condition 100)."""
    rng = np.random.default_rng(seed)
    if kind == "gaussian":
        return rng.normal(size=(rows, columns)), rng.normal(size=rows)
    if kind == "planted":
        bank = rng.gamma(0.3, size=(rows, columns))
        return bank, bank @ rng.gamma(0.3, size=columns) + 0.1 * rng.normal(size=rows)
    bank = 1 + 0.3 * rng.random((rows, columns))
    return bank, bank @ np.maximum(rng.normal(size=columns), 0) + 0.1 * rng.normal(size=rows)


def test_nnls_is_scipys():
    problems = [problem(kind, 60, 20, seed) for kind in ("gaussian", "planted", "parallel") for seed in range(20)]
    a, b = (np.stack(part) for part in zip(*problems, strict=True))
    expected = np.stack([scipy_nnls(*p)[0] for p in problems])
    scale = np.abs(expected).max(axis=1)
    with jax.enable_x64(True):
        exact = np.asarray(jax.jit(jax.vmap(linalg.nnls))(jnp.asarray(a), jnp.asarray(b)))
    assert (np.abs(exact - expected).max(axis=1) <= 1e-10 * scale).all()
    slack = np.einsum("nmk,nm->nk", a, np.einsum("nmk,nk->nm", a, exact) - b)
    assert np.abs(np.minimum(exact, slack)).max() <= 1e-10 * np.abs(b).max() * 60  # Karush, Kuhn and Tucker
    single = jax.jit(jax.vmap(linalg.nnls))(jnp.asarray(a, jnp.float32), jnp.asarray(b, jnp.float32))
    # Rounding the data alone moves x by cond(A)^2 units of rounding times the residual.
    tolerance = np.minimum(10 * np.linalg.cond(a) ** 2 * EPS, 1e-2)
    assert (np.abs(np.asarray(single) - expected).max(axis=1) <= tolerance * scale).all()
    assert np.median(tolerance) < 1e-4


def test_nnls_closed_forms():
    b = jnp.asarray(gaussian(6))
    nnls = jax.jit(linalg.nnls)
    np.testing.assert_allclose(nnls(jnp.eye(6), b), jax.nn.relu(b), rtol=4 * EPS)
    q = jnp.asarray(np.linalg.qr(gaussian(6, 6))[0])
    np.testing.assert_allclose(nnls(q, b), jax.nn.relu(b @ q), atol=10 * EPS)


def test_nnls_with_dead_repeated_and_too_many_columns():
    """Where x is not unique, the point A x that is nearest to b still is."""
    a, b = gaussian(8, 12), gaussian(8, seed=1)
    a[:, 3], a[:, 7] = 0, a[:, 2]
    x = np.asarray(jax.jit(linalg.nnls)(jnp.asarray(a), jnp.asarray(b)))
    assert (x >= 0).all()
    assert x[3] == 0
    np.testing.assert_allclose(a @ x, a @ scipy_nnls(a, b)[0], atol=1e-4)


def test_nnls_derivatives_are_those_of_the_solution():
    """Central differences in float64 at h = 1e-5: h^2 and 1e-16 / h are below 1e-10, times the curvature."""
    a, b = problem("gaussian", 12, 5, 4)
    weights = np.array([1.0, -2.0, 0.5, 3.0, -1.0])
    with jax.enable_x64(True):
        solve = jax.jit(lambda a, b: jnp.dot(linalg.nnls(a, b), weights))
        a, b = jnp.asarray(a), jnp.asarray(b)
        x = jax.jit(linalg.nnls)(a, b)
        assert 0 < (x > 0).sum() < 5
        grad_a, grad_b = jax.jit(jax.grad(solve, (0, 1)))(a, b)
        forward = jax.jit(lambda da, db: jax.jvp(solve, (a, b), (da, db))[1])
        for seed in range(3):
            da, db = gaussian(12, 5, seed=seed).astype(float), gaussian(12, seed=9 + seed).astype(float)
            h = 1e-5
            difference = (solve(a + h * da, b + h * db) - solve(a - h * da, b - h * db)) / (2 * h)
            np.testing.assert_allclose((grad_a * da).sum() + (grad_b * db).sum(), difference, rtol=1e-7)
            np.testing.assert_allclose(forward(da, db), difference, rtol=1e-7)
        jacobian = jax.jit(jax.jacobian(linalg.nnls, 1))(a, b)
    passive = np.asarray(x) > 0
    assert (np.asarray(jacobian)[~passive] == 0).all()
    np.testing.assert_allclose(np.asarray(jacobian)[passive], np.linalg.pinv(np.asarray(a)[:, passive]), atol=1e-12)


def test_nnls_second_derivative_and_mapped_bank():
    """Scalar x = <a, b> / <a, a>: its derivative in b is a / <a, a>, whose derivative in a is known."""
    a, b = jnp.array([[2.0], [1.0]]), jnp.array([1.0, 3.0])
    second = jax.jit(jax.jacobian(jax.jacobian(linalg.nnls, 1), 0))(a, b)[0, :, :, 0]
    expected = np.eye(2) / 5 - 2 * np.outer([2.0, 1.0], [2.0, 1.0]) / 25
    np.testing.assert_allclose(second, expected, atol=10 * EPS)
    batch = jnp.asarray(gaussian(4, 2))
    mapped = jax.jit(jax.vmap(linalg.nnls, (None, 0)))(a, batch)
    np.testing.assert_allclose(mapped[:, 0], np.maximum(batch @ a[:, 0] / 5, 0), atol=10 * EPS)
