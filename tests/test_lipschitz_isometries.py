"""Skew, Cayley's and transposed convolutions as layers, and the end of a training that diverges."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sparks_jax import lipschitz
from sparks_jax.lipschitz import dense_matrix, fold, reparametrize

EPS = float(jnp.finfo(jnp.float32).eps)
RNGS = nnx.Rngs(0)
# The exponential of degree 8 at angles up to 1 falls short of 1 by 2.2e-6.
LAYERS = {
    "skew": (lambda: lipschitz.SkewConv(2, size=3, rngs=nnx.Rngs(0)), 2, (4, 4)),
    "skew with zeros": (lambda: lipschitz.SkewConv(2, size=3, padding="zeros", rngs=nnx.Rngs(0)), 2, (4, 4)),
    "cayley": (lambda: lipschitz.CayleyConv(2, 3, size=3, side=4, rngs=nnx.Rngs(0)), 2, (4, 4)),
    "finer grid": (lambda: lipschitz.OrthogonalConvTranspose(4, 2, size=3, stride=2, rngs=nnx.Rngs(0)), 4, (2, 3)),
    "wider": (lambda: lipschitz.OrthogonalConvTranspose(2, 3, size=3, rngs=nnx.Rngs(0)), 2, (3, 3)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_isometries(name):
    """Singular values of the dense matrix, folded; the bound above them; the same called, for a step and folded."""
    build, channels, grid = LAYERS[name]
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, *grid, channels)), jnp.float32)

    @jax.jit
    def look(x):
        layer = build()
        layer.bias[...] = jnp.arange(len(layer.bias[...]), dtype=x.dtype)
        stock = fold(nnx.Sequential(layer))
        still = stock(jnp.zeros_like(x))
        matrix = dense_matrix(lambda v: (stock(v[None]) - still)[0], x[0])
        return matrix, lipschitz.lipschitz_constant(stock), layer(x), reparametrize(layer)(x), stock(x)

    matrix, bound, *ways = look(x)
    sigmas = np.linalg.svd(np.asarray(matrix, np.float64), compute_uv=False)
    np.testing.assert_allclose(sigmas, 1, atol=2.2e-6 + 30 * EPS)
    assert sigmas[0] <= bound + 30 * EPS  # the matrix is of differences, rounded
    assert bound <= 1 + 2e-5
    for other in ways[1:]:
        np.testing.assert_allclose(other, ways[0], atol=1e-5)
    assert ways[0].shape[1:3] == tuple(side * (2 if name == "finer grid" else 1) for side in grid)


def test_transposed_is_the_adjoint_with_gradients():
    layer = jax.jit(lambda: lipschitz.OrthogonalConvTranspose(4, 2, size=3, stride=2, rngs=nnx.Rngs(0)))()
    rng = np.random.default_rng(0)
    x, y = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((1, 2, 2, 4), (1, 4, 4, 2)))
    left, right = jax.jit(lambda layer: (jnp.vdot(layer(x), y), jnp.vdot(x, layer.conv(y))))(layer)
    np.testing.assert_allclose(left, right, rtol=1e-5)
    slopes = jax.jit(jax.grad(lambda layer: jnp.sin(reparametrize(layer)(x)).sum()))(layer)
    assert all(jnp.abs(slope).max() > 0 for slope in jax.tree.leaves(slopes))


def test_a_kernel_that_is_not_skew_is_bounded_by_the_exponential():
    """A = 1/2 at the centre: e^(1/2) up to the truncation of the series, and the bound is above it."""
    kernel = jnp.zeros((3, 3, 1, 1)).at[1, 1].set(0.5)
    layer = lipschitz.PlainSkewConv(kernel, None, 8, "circular")
    y = jax.jit(lambda x: layer(x))(jnp.ones((1, 3, 3, 1)))
    np.testing.assert_allclose(y, np.exp(0.5), rtol=0.5**9 / 362880 + 4 * EPS)
    assert y.max() <= layer.lipschitz() * (1 + 4 * EPS)


def test_refusals():
    with pytest.raises(ValueError, match="allowed are odd sizes with circular or zeros"):
        lipschitz.SkewConv(2, size=2, rngs=RNGS)
    with pytest.raises(ValueError, match="expands"):
        lipschitz.SkewConv(2, size=3, degree=5, rngs=RNGS)
    with pytest.raises(ValueError, match="allowed are sizes up to the side"):
        lipschitz.CayleyConv(2, 2, size=5, side=4, rngs=RNGS)
    with pytest.raises(ValueError, match="allowed are images of its side"):
        lipschitz.CayleyConv(2, 2, size=3, side=4, rngs=RNGS)(jnp.zeros((1, 6, 6, 2)))
    with pytest.raises(ValueError, match="allowed are circular and zeros"):
        lipschitz.OrthogonalConvTranspose(2, 2, size=3, padding="full", rngs=RNGS)


# --- a training that diverges ---


def test_divergence_is_found_where_it_begins():
    """In the images, in a parameter, in the kernel made of one, in an output, or only in the loss."""
    linear = lipschitz.OrthogonalLinear(2, 2, rngs=nnx.Rngs(0))
    mixed = lipschitz.LipschitzResidual(nnx.Sequential(nnx.relu, jnp.log))
    net = lipschitz.LipschitzNet([nnx.Sequential(jnp.abs, mixed)], lipschitz.Flatten(), linear)
    bad = {"loss": 1.0, "gradient": jnp.inf}
    check = lambda model, x: lipschitz.check_finite(bad, model, jnp.asarray(x)[None, None], step=12)
    lipschitz.check_finite({"loss": 2.0}, net, jnp.zeros((1, 1, 1, 2)), step=12)
    with pytest.raises(FloatingPointError, match=r"step 12: the gradient is inf, first in the images"):
        check(net, [[jnp.nan, 0.0]])
    with pytest.raises(FloatingPointError, match=r"first in stages.0.layers.1.inner.layers.1 \(log\): its output"):
        check(net, [[0.0, 1.0]])
    with pytest.raises(FloatingPointError, match=r"first in the loss or its gradient"):
        check(net, [[1.0, 1.0]])
    broken = jax.tree.map(lambda leaf: leaf.at[0].set(jnp.nan) if leaf.ndim == 1 else leaf, net)
    with pytest.raises(FloatingPointError, match=r"first in the parameter fc.bias"):
        check(broken, [[1.0, 1.0]])
    steep = lambda kernel: kernel / 0
    made = nnx.Sequential(lipschitz.OrthogonalLinear(2, 2, orthogonalize=steep, rngs=nnx.Rngs(0)))
    with pytest.raises(FloatingPointError, match=r"layers.0 \(OrthogonalLinear\): the kernel made of its parameters"):
        check(made, [[1.0, 1.0]])
