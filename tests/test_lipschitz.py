"""Kernels with a known norm: singular values of dense matrices, bounds above them, exact derivatives, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from sparks_jax import linalg, lipschitz
from sparks_jax.lipschitz import conv, norms, orthogonal
from sparks_jax.lipschitz.convolve import convolve

EPS = float(jnp.finfo(jnp.float32).eps)
EXACT = 1e-4  # what is called orthogonal, in float32
OVER = 1e-5  # what nothing exceeds


def gaussian(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def sigmas(matrix):
    return np.linalg.svd(np.asarray(matrix, np.float64), compute_uv=False)


def spectrum(kernel, side, *, stride=1, padding="circular", dilation=1, groups=1):
    """Singular values of a convolution on a grid, from its dense matrix in float64, tap by tap."""
    kernel = np.asarray(kernel, np.float64)
    size, _, c, d = kernel.shape
    reach, d = (size - 1) * dilation, d // groups
    before, around = {"full": (reach, 2 * reach), "valid": (0, 0)}.get(padding, (reach // 2, reach))
    number = (side + around - reach - 1) // stride + 1
    matrix = np.zeros((number, number, groups, d, side, side, groups, c))
    for i, j, a, b in np.ndindex(number, number, size, size):
        row, column = (stride * n + dilation * t - before for n, t in ((i, a), (j, b)))
        if padding == "circular":
            row, column = row % side, column % side
        if 0 <= row < side and 0 <= column < side:
            for g in range(groups):
                matrix[i, j, g, :, row, column, g] += kernel[a, b, :, g * d : (g + 1) * d].T
    return sigmas(matrix.reshape(number**2 * groups * d, -1))


def wave():
    """K[o, i, a, b] = sin(1 + 7o + 5i + 3a + 2b), as (a, b, i, o)."""
    o, i, a, b = np.indices((4, 3, 3, 3))
    return jnp.asarray(np.sin(1 + 7 * o + 5 * i + 3 * a + 2 * b).transpose(2, 3, 1, 0), jnp.float32)


# --- matrices ---

EXACT_MATRICES = ("polar", "newton_schulz", "cayley", "exponential", "householder", "qr", "cholesky")


@pytest.mark.parametrize("name", EXACT_MATRICES)
def test_orthonormal_to_rounding(name):
    for shape in ((6, 6), (9, 4), (4, 9)):
        found = sigmas(jax.jit(getattr(orthogonal, name))(gaussian(*shape)))
        # The exponential is truncated: 4 |A/4|^9 / 9! = 1.3e-6 at the angle pi.
        np.testing.assert_allclose(found, 1, atol=1.3e-6 + 30 * EPS if name == "exponential" else 30 * EPS)


def test_newton_schulz_contracts_and_outruns_bjorck():
    """No singular value ends above 1, whatever the number of steps; 0.001 is 1 after 11, and 0.0013 for Björck's 1."""
    start = jnp.array([1.0, 0.9, 0.5, 0.1, 0.03, 0.01, 0.001, 1e-6])
    for steps in (0, 1, 3, 6, 11):
        assert orthogonal.newton_schulz(jnp.diag(start), steps=steps).max() <= 1 + 4 * EPS
    done = jnp.diag(orthogonal.newton_schulz(jnp.diag(start)))
    np.testing.assert_allclose(done[:-1], 1, atol=4 * EPS)
    assert jnp.diag(linalg.bjorck(jnp.diag(start), steps=11))[-2] < 0.1


def test_bjorck_from_an_orthogonal_start():
    """512 by 512: the start is divided by a bound 5 % too large, and 5 steps are more than enough."""
    start = jnp.asarray(np.linalg.qr(np.random.default_rng(0).normal(size=(512, 512)))[0], jnp.float32)
    gap = lambda w: np.abs(np.asarray(w, np.float64).T @ np.asarray(w, np.float64) - np.eye(512)).max()
    assert gap(jax.jit(lambda k: lipschitz.bjorck(k, steps=5))(start)) < 512**0.5 * EPS


@pytest.mark.parametrize("shape", [(5, 5), (7, 3), (3, 7)])
def test_polar_derivative(shape):
    """The formula through singular vectors in float64, on a kernel whose singular values are in [0.05, 2]."""
    rng = np.random.default_rng(1)
    least = min(shape)
    u, v = (np.linalg.qr(rng.normal(size=(n, least)))[0] for n in shape)
    s = np.geomspace(0.05, 2, least)
    cotangent = rng.normal(size=shape)
    kernel = (u * s) @ v.T
    a = u.T @ cotangent @ v
    expected = u @ ((a - a.T) / (s[:, None] + s[None])) @ v.T
    if shape[0] > shape[1]:
        expected += (cotangent - u @ (u.T @ cotangent)) @ (v / s) @ v.T
    if shape[0] < shape[1]:
        expected += ((u / s) @ u.T) @ (cotangent - (cotangent @ v) @ v.T)
    f = jax.jit(jax.grad(lambda k: (orthogonal.polar(k) * cotangent.astype("f")).sum()))
    # Rounding, through a division by twice the least singular value.
    np.testing.assert_allclose(f(kernel.astype("f")), expected, atol=20 * EPS / 0.05 * np.abs(expected).max())


def test_polar_derivatives_of_both_modes_and_orders():
    with jax.enable_x64(True):
        kernel = jnp.asarray(np.random.default_rng(2).normal(size=(4, 3)))
        f = jax.jit(lambda k: orthogonal.polar(k, steps=14))
        check_grads(f, (kernel,), order=1)
        slope = jax.jit(jax.grad(lambda k: jnp.sin(f(k)).sum()))
        (second,) = jax.jit(lambda k, t: jax.jvp(slope, (k,), (t,))[1:])(kernel, kernel[::-1])
        h = 1e-5  # h^2 and 1e-16 / h are below 1e-10, times the curvature
        difference = (slope(kernel + h * kernel[::-1]) - slope(kernel - h * kernel[::-1])) / (2 * h)
        np.testing.assert_allclose(second, difference, rtol=1e-7, atol=1e-7)


def test_polar_derivative_at_an_orthogonal_matrix_is_tangent():
    o = jnp.asarray(np.linalg.qr(np.random.default_rng(0).normal(size=(9, 4)))[0], jnp.float32)
    g = gaussian(9, 4, seed=1)
    (found,) = jax.jit(lambda o, g: jax.vjp(orthogonal.polar, o)[1](g))(o, g)
    inner = np.asarray(o.T @ g)
    np.testing.assert_allclose(found, g - o @ (inner + inner.T) / 2, atol=50 * EPS)


def test_exponential_refuses_degrees_that_expand():
    """Of T_k on the imaginary axis: degrees 0 and 3 modulo 4 contract up to their table, the others do not at all."""
    for degree, end in orthogonal._CONTRACTIVE.items():
        angle = np.linspace(0, end, 200)
        value = sum((1j * angle) ** i / float(np.prod(np.arange(1, i + 1))) for i in range(degree + 1))
        assert np.abs(value).max() <= 1 + 1e-3 * (end - 1)  # the table is rounded
        assert np.abs(value[angle <= 1.67]).max() <= 1 + 1e-15
    for degree in (5, 6, 9, 10):
        with pytest.raises(ValueError, match="expands"):
            orthogonal.exponential(jnp.eye(2), degree=degree)
    with pytest.raises(ValueError, match="expands"):
        conv.soc(jnp.zeros((3, 3, 1, 1)), degree=3, norm=2.0)


def test_spectral_normalize_never_expands():
    found = sigmas(orthogonal.spectral_normalize(gaussian(20, 30)))
    assert 0.9 < found[0] <= 1


# --- convolutions ---

SHAPES = [(4, 4, 3, 1), (2, 4, 2, 1), (4, 2, 3, 1), (4, 4, 5, 2), (4, 16, 3, 2), (3, 8, 3, 2), (2, 11, 3, 2)]
SHAPES += [(4, 4, 2, 2), (4, 3, 1, 1), (1, 1, 3, 1)]


@pytest.mark.parametrize(("inputs", "outputs", "size", "stride"), SHAPES)
def test_aoc_is_orthogonal(inputs, outputs, size, stride):
    """After a step away from the start: on two grids, one of them as small as the kernel; zeros never expand."""
    factors = conv.orthogonal_factors(inputs, outputs, size, stride=stride, key=jax.random.key(0))
    factors = jax.tree.map(lambda f: f + 0.2 * gaussian(*f.shape), factors)
    kernel = jax.jit(lambda f: conv.aoc(f, stride=stride))(factors)
    assert kernel.shape == (size, size, inputs, outputs)
    for side in (4, 6):
        np.testing.assert_allclose(spectrum(kernel, side, stride=stride), 1, atol=20 * EPS)
    assert spectrum(kernel, 5, stride=stride, padding="zeros")[0] <= 1 + OVER
    bound = jax.jit(lambda k: norms.conv_bound(k, stride=stride))(kernel)
    assert 1 - EXACT < bound <= 1 + OVER


def test_dilated_and_full():
    factors = conv.orthogonal_factors(2, 2, 3, key=jax.random.key(1))
    kernel = jax.jit(conv.aoc)(factors)
    np.testing.assert_allclose(spectrum(kernel, 7, dilation=2), 1, atol=20 * EPS)
    np.testing.assert_allclose(spectrum(kernel, 4, padding="full"), 1, atol=20 * EPS)
    found = spectrum(kernel, 6, padding="zeros")
    assert found[0] <= 1 + OVER
    assert found[-1] < 0.9


def test_soc_and_cayley():
    raw = gaussian(3, 3, 2, 2)
    soc = spectrum(jax.jit(conv.soc)(raw), 6)
    assert soc.min() > 1 - 3e-6 - 20 * EPS  # truncated: (1 - |T_8(i)|) = 2.2e-6
    assert soc.max() <= 1 + 20 * EPS
    for shape in ((3, 3, 2, 2), (3, 3, 3, 2), (3, 3, 2, 3)):
        kernel = jax.jit(lambda k: conv.cayley_fft(k, (6, 6)))(gaussian(*shape))
        np.testing.assert_allclose(spectrum(kernel, 6), 1, atol=50 * EPS)
    assert spectrum(kernel, 8)[0] > 1.05  # on another grid it is not orthogonal


def test_rko_and_aol():
    raw = gaussian(3, 3, 4, 4)
    np.testing.assert_allclose(spectrum(jax.jit(lambda k: conv.rko(k, stride=3))(raw), 6, stride=3), 1, atol=20 * EPS)
    for geometry in (dict(padding="zeros"), dict(stride=2), dict(dilation=2)):
        options = {name: value for name, value in geometry.items() if name != "padding"}
        for constrain in (conv.rko, conv.aol):
            kernel = jax.jit(lambda k, c=constrain, g=options: c(k, **g))(raw)
            assert spectrum(kernel, 6, **geometry)[0] <= 1 + OVER
    uniform = conv.rko(jnp.ones((3, 3, 1, 1)))
    np.testing.assert_allclose(spectrum(uniform, 16, padding="zeros")[0], 0.97743, atol=5e-6)
    aol = jax.jit(conv.aol)(wave())
    np.testing.assert_allclose(spectrum(aol, 8)[0], 0.844506, rtol=1e-5)
    np.testing.assert_allclose(spectrum(aol, 8, padding="zeros")[0], 0.816588, rtol=1e-5)
    orthogonal_kernel = jax.jit(conv.aoc)(conv.orthogonal_factors(4, 4, 3, key=jax.random.key(0)))
    np.testing.assert_allclose(conv.aol(orthogonal_kernel), orthogonal_kernel, atol=2e-4)


def test_compose_is_one_after_the_other():
    first, second = gaussian(3, 3, 2, 3), gaussian(2, 2, 3, 4)
    x = gaussian(1, 7, 7, 2)
    both = convolve(x, conv.compose(first, second), padding="valid", stride=2)
    np.testing.assert_allclose(
        both, convolve(convolve(x, first, padding="valid"), second, padding="valid", stride=2), atol=200 * EPS
    )


# --- norms ---


def test_norms_of_the_reference_kernel():
    kernel = wave()
    exact = [norms.fft_norm(kernel, (8, 8)), norms.fft_norm(kernel, (8, 8), stride=2), norms.fft_norm(kernel, (10, 10))]
    np.testing.assert_allclose(exact, [14.861964, 8.360912, 15.395986], rtol=10 * EPS)
    np.testing.assert_allclose(spectrum(kernel, 8, padding="zeros")[0], 14.371169, rtol=10 * EPS)


@pytest.mark.parametrize("geometry", [dict(), dict(stride=2), dict(stride=3), dict(dilation=2), dict(groups=2)])
def test_bounds_are_above_and_power_iteration_below(geometry):
    kernel = gaussian(3, 3, 2, 4)
    bound = jax.jit(lambda k: norms.conv_bound(k, **geometry))(kernel)
    for padding in ("circular", "zeros", "valid"):
        truth = spectrum(kernel, 6, padding=padding, **geometry)[0]
        assert truth <= bound
        like = jax.ShapeDtypeStruct((6, 6, 2 * geometry.get("groups", 1)), jnp.float32)
        f = lambda x, p=padding: convolve(x[None], kernel, padding=p, **geometry)[0]
        below = jax.jit(lambda key: linalg.power_iteration(f, like, key=key, steps=50))(jax.random.key(0))
        assert 0.9 * truth < below <= truth * (1 + 10 * EPS)
    # 1 / cos(pi / 16) between samples, and 8^(1/64) of Gram iteration, over the largest of a fine grid.
    fine = jax.jit(lambda k: norms.fft_norm(norms.polyphase(k, geometry.get("stride", 1)), (96, 96)))
    if "groups" not in geometry:
        assert bound <= fine(kernel) * 1.021 * 1.035


def test_matrix_bound():
    bound = jax.jit(norms.matrix_bound)
    for shape in ((4, 27), (12, 12)):
        kernel = gaussian(*shape)
        assert sigmas(kernel)[0] <= bound(kernel) <= 1.06 * sigmas(kernel)[0]
        unit = jnp.linalg.svd(kernel, full_matrices=False)[2]
        assert sigmas(unit)[0] <= bound(unit) <= 1 + OVER
    value, slope = jax.jit(jax.value_and_grad(norms.matrix_bound))(jnp.zeros((3, 2)))
    assert value == 0
    assert jnp.isfinite(slope).all()


# --- refusals ---


def test_refusals_say_what_is_allowed():
    x, kernel = jnp.zeros((1, 5, 5, 2)), jnp.zeros((3, 3, 2, 2))
    for mode in ("reflect", "edge", "symmetric"):
        with pytest.raises(ValueError, match="allowed: circular, zeros, full, valid"):
            conv.check_geometry(3, 1, 1, mode)
    with pytest.raises(ValueError, match="allowed are sides that the stride divides"):
        convolve(x, kernel, stride=2)
    with pytest.raises(ValueError, match="allowed is a stride of 1, or a dilation of 1"):
        convolve(x, kernel, stride=2, dilation=2)
    with pytest.raises(ValueError, match="allowed are stride 1"):
        convolve(x, kernel, stride=2, padding="full")
    with pytest.raises(ValueError, match="skips pixels"):
        conv.orthogonal_factors(2, 2, 2, stride=3, key=jax.random.key(0))
    with pytest.raises(ValueError, match="allowed are odd sizes"):
        conv.skew(jnp.zeros((2, 2, 1, 1)))
