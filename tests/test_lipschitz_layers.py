"""Layers that keep norms and gradients, kernels once a step, stock layers for good, and nets that train."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sparks_jax import lipschitz
from sparks_jax.lipschitz import activations, convolve, fold, pooling, reparametrize
from sparks_jax.lipschitz.conv import adjoint, rko
from sparks_jax.lipschitz.layers import stock_conv
from sparks_jax.lipschitz.norms import conv_bound
from sparks_jax.lipschitz.orthogonal import polar

EPS = float(jnp.finfo(jnp.float32).eps)
RNGS = nnx.Rngs(0)


def gaussian(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def norm_of(f, x):
    """Largest singular value of the Jacobian at one input, from its dense matrix."""
    jacobian = jax.jit(jax.jacobian(f))(x)
    return np.linalg.svd(np.asarray(jacobian, np.float64).reshape(-1, x.size), compute_uv=False)[0]


@pytest.fixture(scope="module")
def net():
    """Every kind of layer in one network, away from its start, centred at something."""

    def build():
        rngs = nnx.Rngs(0)
        block = nnx.Sequential(
            lipschitz.OrthogonalConv(8, 8, size=3, groups=2, rngs=rngs),
            lipschitz.BatchCentering(8),
            lipschitz.GroupSort(),
            lipschitz.OrthogonalConv(8, 8, size=3, groups=2, padding="zeros", rngs=rngs),
        )
        return nnx.Sequential(
            lipschitz.OrthogonalConv(1, 8, size=3, stride=2, rngs=rngs),
            lipschitz.BatchCentering(8, use_bias=False),
            lipschitz.Householder(8),
            lipschitz.LipschitzResidual(block),
            lipschitz.LipschitzConv(8, 8, size=3, rngs=rngs),
            lipschitz.LipschitzConv(8, 8, size=2, stride=2, constrain=rko, rngs=rngs),
            lipschitz.MaxMin(),
            lipschitz.SLLBlock(8, 8, size=3, rngs=rngs),
            lipschitz.LayerCentering(),
            lipschitz.BatchCentering(8),
            lipschitz.L2NormPool(2),
            lipschitz.Flatten(),
            lipschitz.OrthogonalLinear(8, 6, rngs=rngs),
            lipschitz.FullSort(),
            lipschitz.UnitNormLinear(6, 3, rngs=rngs),
        )

    model = jax.jit(build)()
    return jax.tree.map(lambda leaf: leaf + 0.05 * gaussian(*leaf.shape), model)


# --- a step, and for good ---


def test_folding_is_exact_and_stock(net):
    x = gaussian(4, 8, 8, 1)
    called = jax.jit(lambda m, x: m(x))(net, x)
    plain = jax.jit(lambda m, x: reparametrize(m)(x))(net, x)
    stock = jax.jit(fold)(net)
    np.testing.assert_allclose(plain, called, atol=1e-5)
    np.testing.assert_allclose(jax.jit(lambda m, x: m(x))(stock, x), called, atol=1e-5)
    kinds = [type(layer) for layer in stock.layers]
    assert kinds[0] is nnx.Conv
    assert lipschitz.BatchCentering not in kinds
    assert kinds.count(nnx.BatchNorm) == 1  # behind a centring by image; the others are in biases
    assert kinds[-1] is nnx.Linear
    assert not [m for _, m in nnx.iter_graph(stock) if hasattr(m, "plain") or isinstance(m, lipschitz.BatchCentering)]


def test_derivatives_go_through_and_equal_layers_are_computed_together(net):
    x = gaussian(2, 4, 4, 8)
    conv = net.layers[3].inner.layers[0]
    twice = nnx.Sequential(conv, lipschitz.GroupSort(), jax.tree.map(lambda leaf: leaf[::-1], conv))
    grad = lambda how: lambda m, x: jax.grad(lambda m: jnp.sin(how(m)(x)).sum())(m)
    called, step, final = jax.jit(lambda m, x: [grad(how)(m, x) for how in (lambda m: m, reparametrize, fold)])(
        twice, x
    )
    for a, b, c in zip(*map(jax.tree.leaves, (called, step, final)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * max(1, float(jnp.abs(a).max())))
        assert jnp.abs(a).max() > 0
        assert (c == 0).all()  # nothing is left to train in a folded model
    count = lambda model: str(jax.make_jaxpr(reparametrize)(model)).count("scan[")
    assert count(twice) == count(nnx.Sequential(conv))


def test_modes_of_modules(net):
    """The same as a pytree argument of jax.jit, and split into a graph and its state."""
    x = gaussian(2, 8, 8, 1)
    graph, state = nnx.split(net)
    run = jax.jit(lambda state, x: reparametrize(nnx.merge(graph, state))(x))
    np.testing.assert_allclose(run(state, x), jax.jit(lambda m, x: reparametrize(m)(x))(net, x), atol=1e-6)


def test_centring_learns_its_mean_and_training_carries_it():
    model = nnx.Sequential(lipschitz.OrthogonalLinear(3, 3, rngs=nnx.Rngs(0)), lipschitz.BatchCentering(3))
    x = gaussian(16, 3)

    def loss(model, x):
        plain = reparametrize(nnx.view(model, use_running_average=False))
        return jnp.square(plain(x)).sum(), nnx.state(plain, nnx.BatchStat)

    (_, seen), _ = jax.jit(jax.value_and_grad(loss, has_aux=True))(model, x)
    nnx.update(model, seen)
    expected = 0.1 * model.layers[0](x).mean(0)
    np.testing.assert_allclose(model.layers[1].mean[...], expected, atol=10 * EPS)
    with pytest.raises(lipschitz.UnknownBound, match="use_running_average"):
        lipschitz.lipschitz_constant(nnx.view(model, use_running_average=False))


def test_centring_over_a_mesh_is_global():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    x, spec = gaussian(16, 3), jax.sharding.PartitionSpec
    layer = lipschitz.BatchCentering(3, use_running_average=False, axis_name="data")
    run = jax.shard_map(lambda x: nnx.clone(layer)(x), mesh=mesh, in_specs=spec("data"), out_specs=spec("data"))
    np.testing.assert_allclose(jax.jit(run)(x), x - x.mean(0)[None], atol=10 * EPS)


# --- each layer ---


def test_orthogonal_stack_keeps_the_norm_of_gradients():
    """Twenty layers: rounding of each adds up, 20 * sqrt(8) eps."""

    def model(kernels, x):
        return jax.lax.scan(lambda x, k: (activations.group_sort(x @ k), None), x, jax.vmap(polar)(kernels))[0]

    x, v = gaussian(8), gaussian(8, seed=1)
    pull = jax.jit(lambda kernels, x, v: jax.vjp(lambda x: model(kernels, x), x)[1](v)[0])
    np.testing.assert_allclose(jnp.linalg.norm(pull(gaussian(20, 8, 8), x, v)), jnp.linalg.norm(v), rtol=1e-5)


def test_activations_are_isometries():
    x = gaussian(5, 6)
    np.testing.assert_array_equal(activations.group_sort(x, 3), np.sort(np.asarray(x).reshape(5, 2, 3)).reshape(5, 6))
    for theta in (0.3, np.pi / 2, 2.0):
        y = activations.reflect_pairs(x, jnp.full(3, theta))
        np.testing.assert_allclose(jnp.linalg.norm(y, axis=1), jnp.linalg.norm(x, axis=1), rtol=10 * EPS)
    quarter = activations.reflect_pairs(x, jnp.full(3, np.pi / 2))
    np.testing.assert_allclose(quarter, activations.group_sort(x), atol=4 * EPS)
    np.testing.assert_array_equal(np.sort(activations.max_min(x)), np.sort(x))
    for f in (activations.group_sort, activations.max_min, activations.full_sort):
        jacobian = jax.jacobian(f)(x[0])
        np.testing.assert_array_equal(jacobian @ jacobian.T, np.eye(6))
    with pytest.raises(ValueError, match="no whole number of groups"):
        activations.group_sort(x, 4)


def test_the_derivative_of_a_sort_does_not_compare_what_was_computed_twice(key):
    """A blend is computed again where the derivative needs it, and rounded in another way: none of it may be NaN."""
    keys = jax.random.split(key, 3)
    kernel, others = jax.random.normal(keys[0], (4, 10)), jax.random.normal(keys[1], (64, 1, 4))

    def height(share, x):
        share = jax.nn.sigmoid(share)
        return activations.group_sort(share * (x @ kernel) + (1 - share) * (x @ kernel[::-1])).sum()

    slopes = jax.jit(jax.vmap(jax.grad(height)))(jax.random.normal(keys[2], (64,)), others)
    assert jnp.isfinite(slopes).all()


def test_householder_is_continuous():
    """Across the line of the mirror, by steps of 1e-3: ratios of distances never exceed 1."""
    t = jnp.linspace(0, 2 * jnp.pi, 6001)
    circle = jnp.stack([jnp.cos(t), jnp.sin(t)], 1)
    for theta in (0.3, 2.0):
        y = activations.reflect_pairs(circle, jnp.array([theta]))
        ratio = jnp.linalg.norm(jnp.diff(y, axis=0), axis=1) / jnp.linalg.norm(jnp.diff(circle, axis=0), axis=1)
        assert ratio.max() <= 1 + 2 * EPS / 1e-3


def test_pools():
    x = gaussian(1, 4, 4, 2)
    for pool in (pooling.scaled_avg_pool, pooling.l2_norm_pool, pooling.space_to_depth):
        np.testing.assert_allclose(norm_of(lambda x: pool(x[None], 2)[0], x[0]), 1, atol=10 * EPS)
    whole = lambda x: pooling.l2_norm_pool(x[None])[0, 0, 0, 0]
    np.testing.assert_allclose(jnp.linalg.norm(jax.grad(whole)(x[0])), 1, atol=10 * EPS)
    zero = jnp.zeros((2, 2, 1))
    assert (jax.grad(whole)(zero) == 0).all()
    assert jnp.isfinite(jax.hessian(whole)(zero)).all()
    np.testing.assert_array_equal(pooling.depth_to_space(pooling.space_to_depth(x)), x)
    with pytest.raises(ValueError, match="not covered evenly"):
        pooling.l2_norm_pool(x, 3)


def test_sll_block_over_all_patterns_of_its_rectifiers():
    """I - 2 M' D M for each of the 2^6 patterns D of a dense block, 4 features and 6 hidden ones."""
    block = lipschitz.SLLBlock(4, 6, size=1, rngs=nnx.Rngs(0))
    block.log_q[...] = gaussian(6)
    m = np.asarray(block.plain().conv.kernel[0, 0], np.float64)
    patterns = (np.arange(64)[:, None] >> np.arange(6)) & 1
    worst = max(np.linalg.norm(np.eye(4) - 2 * (m * d) @ m.T, 2) for d in patterns)
    assert worst <= 1 + 1e-6
    x = gaussian(2, 3, 3, 4)
    plain = block.plain()
    expected = x - 2 * convolve(jax.nn.relu(plain.conv(x)), adjoint(plain.conv.kernel[...]))
    np.testing.assert_allclose(block(x), expected, atol=1e-6)


def test_conv_is_the_stock_conv_with_every_geometry():
    """Ours and Flax's own convolution of the same kernel, padding and stride; gradients too."""
    x = gaussian(2, 6, 6, 4)
    for size, geometry in (
        (3, dict()), (2, dict(stride=2)), (3, dict(stride=2, padding="zeros")), (3, dict(dilation=2)),
        (3, dict(groups=2)), (3, dict(padding="full")), (3, dict(padding="valid", stride=2)), (1, dict(stride=2)),
    ):  # fmt: skip
        kernel = gaussian(size, size, 4 // geometry.get("groups", 1), 4)
        ours = stock_conv(kernel, None, **geometry)
        theirs = jax.tree.map(lambda leaf: leaf, ours)
        theirs.conv_general_dilated = jax.lax.conv_general_dilated
        f = jax.jit(lambda m, x: (m(x), jax.grad(lambda x: jnp.sin(m(x)).sum())(x)))
        for a, b in zip(f(ours, x), f(theirs, x), strict=True):
            np.testing.assert_allclose(a, b, atol=200 * EPS)
        np.testing.assert_allclose(convolve(x, kernel, **geometry), ours(x), atol=200 * EPS)


def test_layers_refuse():
    with pytest.raises(ValueError, match="allowed: circular"):
        lipschitz.OrthogonalConv(2, 2, size=3, padding="reflect", rngs=RNGS)
    with pytest.raises(ValueError, match="allowed are divisors of both"):
        lipschitz.OrthogonalConv(3, 4, size=3, groups=2, rngs=RNGS)
    with pytest.raises(ValueError, match="allowed are odd sizes"):
        lipschitz.SLLBlock(2, 2, size=2, rngs=RNGS)
    layer = jax.eval_shape(lambda: lipschitz.OrthogonalConv(2, 2, size=2, stride=2, rngs=nnx.Rngs(0)))
    with pytest.raises(ValueError, match="sides that the stride divides"):
        jax.eval_shape(layer, jnp.zeros((1, 5, 5, 2)))


# --- networks ---

NETS = [
    (lipschitz.otnn_resnet, dict(widths=(8, 16), blocks=(1, 1), patch=2)),
    (lipschitz.otnn_vgg, dict(widths=(4, 8), convs=1)),
    (lipschitz.lipschitz_cifar, dict(side=8, widths=(4, 8), convs=1, hidden=16)),
]


@pytest.mark.parametrize(("make", "options"), NETS)
def test_networks_are_one_lipschitz_in_halves(make, options):
    model = jax.jit(lambda: fold(make(5, **options, rngs=nnx.Rngs(0))))()
    x = gaussian(2, 8, 8, 3)
    logits, halves, bound = jax.jit(
        lambda m, x: (m(x), [m.head(m.features(x, s), s) for s in range(3)], m.lipschitz())
    )(model, x)
    assert logits.shape == (2, 5)
    for half in halves:
        np.testing.assert_allclose(half, logits, atol=1e-6)
    assert 0.99 < bound <= 1 + 1e-4  # rounding of a dozen layers, each at most 1e-5
    assert norm_of(lambda x: model(x[None])[0], x[0]) <= bound
    with pytest.raises(ValueError, match="stages 1 to 2"):
        model.features(x, 3)


def test_training_separates_squares_by_their_distance():
    """Optimal transport between a square and its negative: KR climbs to the distance 2 |x|, the hinge separates."""
    square = jnp.zeros((8, 8, 1)).at[2:6, 2:6].set(0.25)
    x = jnp.stack([square, -square] * 4)
    y = jnp.array([1, 0] * 4)

    def build():
        rngs = nnx.Rngs(0)
        return nnx.Sequential(
            lipschitz.OrthogonalConv(1, 4, size=2, stride=2, rngs=rngs),
            lipschitz.GroupSort(),
            lipschitz.Flatten(),
            lipschitz.OrthogonalLinear(64, 1, rngs=rngs),
        )

    @jax.jit
    def train(model):
        def step(model, _):
            loss = lambda m: lipschitz.hkr(reparametrize(m)(x)[:, 0], y, alpha=1.0, margin=0.5).mean()
            value, grads = jax.value_and_grad(loss)(model)
            return jax.tree.map(lambda p, g: p - 0.5 * g, model, grads), value

        return jax.lax.scan(step, model, None, 60)

    model, losses = train(jax.jit(build)())
    f = jax.jit(lambda m: fold(m)(x)[:, 0])(model)
    gap = float(lipschitz.kr(f, y).mean())
    assert 0.9 * 2 < gap <= 2 * (1 + 1e-5)  # |x| = 1
    assert ((f > 0) == (y == 1)).all()
    assert losses[-1] < losses[0]


def test_bounds_of_stock_layers():
    conv = stock_conv(gaussian(3, 3, 2, 2), None)
    np.testing.assert_allclose(lipschitz.lipschitz_constant(conv), conv_bound(conv.kernel[...]), rtol=10 * EPS)
    conv.padding = "REFLECT"
    with pytest.raises(lipschitz.UnknownBound, match="CIRCULAR"):
        lipschitz.lipschitz_constant(conv)
    norm = nnx.BatchNorm(2, use_running_average=True, rngs=nnx.Rngs(0))
    norm.var[...] = jnp.array([0.25, 1.0])
    np.testing.assert_allclose(lipschitz.lipschitz_constant(norm), 2, rtol=1e-4)
    tripled = nnx.Sequential(lipschitz.Scale(-3.0), jax.nn.relu)
    np.testing.assert_allclose(lipschitz.lipschitz_constant(tripled), 3, rtol=1e-6)
