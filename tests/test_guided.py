"""Guided Backpropagation and Deconvnet against hand computation, whatever way ReLUs are written and wrapped."""

import functools
import inspect
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sparks_jax import scores
from sparks_jax.attribution import deconvnet, guided_backprop
from sparks_jax.attribution.program import flat, follow
from sparks_jax.jobs.explain import count_evaluations
from sparks_jax.models import EfficientNetLite0, SqueezeNet, efficientnet, resnet, resnet18, squeezenet

METHODS = [guided_backprop, deconvnet]
X = jnp.array([[[5.0, -5.0, 5.0, 7.0, 0.0]]])
W = jnp.array([2.0, 3.0, -1.0, 4.0, 5.0])
EYE = jnp.eye(5)


def weighted(relu):
    return lambda x: (W * relu(x[0, 0])).sum()


def layered(activation):
    """The activation, and a layer after it."""
    return lambda x: (EYE @ activation(x[0, 0]))[0]


def assert_gradients(fs):
    """Both maps of functions without a ReLU are their gradients, to rounding: the operations are fused differently."""
    got, expected = jax.jit(lambda x: ([[m(f, x) for m in METHODS] for f in fs], [jax.grad(f)(x) for f in fs]))(X)
    for maps, gradient in zip(got, expected, strict=True):
        assert (gradient != 0).any()
        for phi in maps:
            np.testing.assert_allclose(phi, gradient, rtol=1e-4, atol=1e-6)


# --- values ---


def test_two_layers_by_hand():
    """f = v · relu(W₂ relu(W₁ x)) in small integers, with a dead unit and a negative gradient in each layer."""
    w1 = np.array([[1, 2, 0, -1], [-2, 1, 1, 0], [0, -1, 2, 1], [-1, -1, -1, 1]], np.float32)
    w2 = np.array([[1, -1, 2, 1], [2, 1, -1, 3], [-1, 1, -1, -2]], np.float32)
    v = np.array([1, -2, 3], np.float32)
    x = np.array([1, 2, 1, 0], np.float32)
    z1 = w1 @ x
    z2 = w2 @ np.maximum(z1, 0)
    assert z1.min() < 0
    assert z2.min() < 0

    def f(x):
        return jnp.asarray(v) @ jax.nn.relu(w2 @ jax.nn.relu(w1 @ x.ravel()))

    relu = partial(np.maximum, 0)
    guided = w1.T @ (relu(w2.T @ (relu(v) * (z2 > 0))) * (z1 > 0))
    deconvolved = w1.T @ relu(w2.T @ relu(v))
    assert (w2.T @ (relu(v) * (z2 > 0))).min() < 0
    for method, expected in [(guided_backprop, guided), (deconvnet, deconvolved)]:
        np.testing.assert_array_equal(method(f, jnp.asarray(x).reshape(2, 2, 1)).ravel(), expected)


def test_the_two_differ_exactly_at_units_that_are_off():
    x = jax.random.normal(jax.random.key(0), (4, 4, 3)).at[0, 0].set(0.0)
    guided, deconvolved = (method(lambda x: jax.nn.relu(x).sum(), x) for method in METHODS)
    np.testing.assert_array_equal(guided != deconvolved, x <= 0)


@jax.custom_vjp
def relu_with_a_rule(z):
    return jnp.clip(z, 0)


relu_with_a_rule.defvjp(lambda z: (relu_with_a_rule(z), z), lambda z, g: (jnp.where(z > 0, g, 0),))

RELUS = {
    "relu": jax.nn.relu,
    "max": lambda z: jnp.maximum(z, 0),
    "max, 0 first": lambda z: jnp.maximum(0.0, z),
    "lax.max": lambda z: jax.lax.max(z, 0.0),
    "max with an array": lambda z: jnp.maximum(z, np.zeros(5, np.float32)),
    "max with zeros_like": lambda z: jnp.maximum(z, jnp.zeros_like(z)),
    "where on": lambda z: jnp.where(z > 0, z, 0),
    "where off": lambda z: jnp.where(z <= 0, 0, z),
    "where, 0 first": lambda z: jnp.where(jax.lax.lt(0.0, z), z, 0.0),
    "product": lambda z: z * (z > 0),
    "own derivative": relu_with_a_rule,
    "jit": jax.jit(lambda z: jnp.maximum(z, 0)),
    "checkpoint": jax.checkpoint(jax.nn.relu),
    "vmap": jax.vmap(jax.nn.relu),
    "cond": lambda z: jax.lax.cond(z.sum() > 0, jax.nn.relu, lambda z: z, z),
    "scan": lambda z: jax.lax.scan(lambda c, _: (jax.nn.relu(c), c), z, None, length=2)[0],
    "fori_loop": lambda z: jax.lax.fori_loop(0, 2, lambda _, c: jax.nn.relu(c), z),
    "all": jax.checkpoint(
        jax.jit(lambda z: jax.lax.scan(lambda c, _: (jax.jit(jax.nn.relu)(c), None), z, None, length=1)[0])
    ),
}
RELU6S = {
    "relu6": jax.nn.relu6,
    "ours": efficientnet.relu6,
    "clip": lambda z: jnp.clip(z, 0, 6),
    "clamp": lambda z: jax.lax.clamp(0.0, z, 6.0),
    "min of max": lambda z: jnp.minimum(jnp.maximum(z, 0), 6),
}
LEAKY = {
    "leaky_relu": partial(jax.nn.leaky_relu, negative_slope=0.5),
    "max": lambda z: jnp.maximum(z, 0.5 * z),
    "where": lambda z: jnp.where(z > 0, z, z * 0.5),
    "nnx.PReLU": nnx.PReLU(0.5),
}


@functools.cache
def maps_of_all():
    """The two maps of Σ w relu(x) for every way to write a ReLU, from one compiled program."""
    every = RELUS | {f"relu6: {n}": f for n, f in RELU6S.items()} | {f"leaky: {n}": f for n, f in LEAKY.items()}
    maps = jax.jit(lambda x: {n: [method(weighted(relu), x)[0, 0] for method in METHODS] for n, relu in every.items()})
    return jax.tree.map(np.asarray, maps(X))


@pytest.mark.parametrize("name", RELUS)
def test_every_way_to_write_a_relu(name):
    """x = (5, -5, 5, 7, 0) and weights (2, 3, -1, 4, 5): off at the second and the last, against at the third."""
    guided, deconvolved = maps_of_all()[name]
    np.testing.assert_array_equal(guided, [2, 0, 0, 4, 0])
    np.testing.assert_array_equal(deconvolved, [2, 3, 0, 4, 5])


@pytest.mark.parametrize("name", RELU6S)
def test_saturated_units_are_off(name):
    guided, deconvolved = maps_of_all()[f"relu6: {name}"]
    np.testing.assert_array_equal(guided, [2, 0, 0, 0, 0])
    np.testing.assert_array_equal(deconvolved, [2, 3, 0, 4, 5])


@pytest.mark.parametrize("name", LEAKY)
def test_leaky_units_leak(name):
    guided, deconvolved = maps_of_all()[f"leaky: {name}"]
    np.testing.assert_array_equal(guided[:4], [2, 1.5, 0, 4])  # at 0 the derivative is a matter of how it is written
    np.testing.assert_array_equal(deconvolved, [2, 3, 0, 4, 5])


def test_without_jit():
    for name in ("relu", "max", "scan", "cond"):
        got = [method(weighted(RELUS[name]), X)[0, 0] for method in METHODS]
        np.testing.assert_array_equal(got, maps_of_all()[name])


def test_maxima_of_anything_else_are_no_relus():
    """Pooling, clipping of pixels, the overlap of boxes, the variance of a normalisation: with a negative gradient."""
    norm = nnx.LayerNorm(5, rngs=nnx.Rngs(0))
    clipped = lambda x: (W * jnp.clip(x[0, 0], 0, 255)).sum()
    pooled = lambda x: -jnp.maximum(x[0, 0, :2], x[0, 0, 2:4]).sum()
    normalised = lambda x: (W * norm(x[0, 0])).sum()
    box = jnp.array([1.0, 1.0, 3.0, 3.0, 1.0, 1.0])
    overlap = scores.detection(lambda x: jnp.concatenate([x[..., 0, 0, :], x[..., 0, 0, :1]], -1)[:, None] / 5 + 1, box)
    root = lambda x: -jnp.sqrt(jnp.maximum(jnp.square(x).sum() - 1, 0))
    assert_gradients([clipped, pooled, normalised, overlap, root])


# --- networks ---


def _replaced(rule, ceiling=jnp.inf):
    """A ReLU with the derivative written by hand."""

    @jax.custom_vjp
    def relu(z):
        return jnp.clip(z, 0, ceiling)

    gate = (lambda z: (z > 0) & (z < ceiling)) if rule is guided_backprop else (lambda z: True)
    relu.defvjp(lambda z: (relu(z), z), lambda z, g: (jnp.where(gate(z) & (g > 0), g, 0),))
    return relu


@pytest.mark.parametrize(
    ("block", "channels", "place", "ceiling"),
    [
        (partial(efficientnet.InvertedBottleneck, 4, 6, 6, size=3, stride=2), 4, (efficientnet, "relu6"), 6.0),
        (partial(squeezenet.Fire, 4, 3, 5), 4, (nnx, "relu"), np.inf),
        (partial(resnet.BasicBlock, 4, 6, stride=2, dtype=None), 4, (nnx, "relu"), np.inf),
    ],
    ids=["efficientnet", "squeezenet", "resnet"],
)
def test_blocks_of_our_networks(block, channels, place, ceiling, monkeypatch):
    """The gradient of the block whose ReLU is replaced by hand before it is traced."""
    net, x = block(rngs=nnx.Rngs(0)), 8 * jax.random.normal(jax.random.key(1), (6, 6, channels))

    def score(x):
        y = net(x[None])
        return (jnp.sin(jnp.arange(y.size)) * y.ravel()).sum()

    def both(x):
        maps = [method(score, x) for method in METHODS]
        for method in METHODS:
            monkeypatch.setattr(*place, _replaced(method, ceiling))
            maps.append(jax.grad(score)(x))
        return maps

    guided, deconvolved, *expected = jax.jit(both)(x)
    assert (guided != deconvolved).any()
    # Sums of at most 216 products each way, in float32, in the order that suits XLA.
    scale = np.abs(expected).max()
    np.testing.assert_allclose([guided, deconvolved], expected, atol=216 * 2**-23 * scale)


@pytest.mark.parametrize("network", [EfficientNetLite0, SqueezeNet, resnet18])
def test_whole_networks_are_understood(network):
    net = jax.eval_shape(lambda: network(rngs=nnx.Rngs(0)))
    x = jax.ShapeDtypeStruct((32, 32, 3), jnp.float32)
    got = jax.eval_shape(lambda net, x: guided_backprop(scores.log_prob(net, 1), x), net, x)
    assert (got.shape, got.dtype) == (x.shape, x.dtype)


def test_maps_have_their_gradient_in_the_weights():
    """f = Σ vᵢ relu(wᵢ xᵢ): the guided map is v⁺ w [w x > 0], and its weighted sum has derivatives by hand."""
    x, c = jnp.array([[[1.0, -2.0, 3.0]]]), jnp.array([1.0, 10.0, 100.0])
    v, w = jnp.array([2.0, -3.0, 4.0]), jnp.array([5.0, -6.0, -7.0])

    def summed(method, v, w):
        return (c * method(lambda x: (v * jax.nn.relu(w * x[0, 0])).sum(), x)[0, 0]).sum()

    on, positive = np.array([1, 1, 0]), np.array([1, 0, 1])
    for method, passed in [(guided_backprop, on * positive), (deconvnet, positive)]:
        by_v, by_w = jax.jit(jax.grad(partial(summed, method), (0, 1)))(v, w)
        np.testing.assert_array_equal(by_v, c * w * passed)
        np.testing.assert_array_equal(by_w, c * v * passed)


def test_the_map_of_a_probability_has_its_derivative_in_the_weights():
    """What is done to gradients does not cut values off: of p = σ(Σ relu(w x)) the map is p (1 - p) w [w x > 0]."""
    x, w = jnp.array([[[1.0, 2.0]]]), jnp.array([0.3, -0.2])

    def mapped(method, w):
        return method(lambda x: jax.nn.sigmoid(jax.nn.relu(w * x[0, 0]).sum()), x)[0, 0, 0]

    p = 1 / (1 + np.exp(-0.3))
    for method in METHODS:
        by_first = jax.grad(partial(mapped, method))(w)[0]
        np.testing.assert_allclose(by_first, p * (1 - p) * (1 + 0.3 * (1 - 2 * p)), rtol=1e-5)


def test_one_evaluation():
    assert [count_evaluations(method, (8, 8, 3)) for method in METHODS] == [1, 1]


# --- what is refused, and what is not ---

ACTIVATIONS = (
    "celu elu gelu hard_sigmoid hard_tanh log_sigmoid mish selu sigmoid silu soft_sign softplus sparse_plus "
    "sparse_sigmoid squareplus tanh"
)


@pytest.mark.parametrize("name", ACTIVATIONS.split())
def test_other_activations_are_refused_by_name_and_place(name):
    activation = getattr(jax.nn, name)

    def f(x):
        return layered(lambda z: activation(z))(x)

    line = inspect.getsourcelines(f)[1] + 1
    for method in METHODS:
        with pytest.raises(
            ValueError,
            match=rf"^{method.__name__}: the score has the activation {name} \({__file__}:{line}, in <lambda>\), "
            "expected ReLUs.* use gradient, smoothgrad or integrated_gradients",
        ):
            method(f, X)


def test_activations_of_the_user_are_refused():
    @jax.custom_jvp
    def swish(z):
        return z * jax.nn.sigmoid(z)

    swish.defjvps(lambda dz, y, z: dz)
    for f in (swish, lambda z: z * jax.nn.sigmoid(1.7 * z), lambda z: jnp.where(z > 0, z, jnp.expm1(z))):
        with pytest.raises(ValueError, match="the score has the activation (swish|sigmoid|expm1)"):
            guided_backprop(layered(f), X)


def test_activations_are_refused_inside_of_loops_and_branches():
    for f in (
        lambda z: jax.lax.scan(lambda c, _: (jnp.tanh(EYE @ c), None), z, None, length=2)[0],
        lambda z: jax.lax.cond(z.sum() > 0, lambda z: EYE @ jnp.tanh(z), lambda z: z, z),
        jax.checkpoint(lambda z: EYE @ jnp.tanh(z)),
    ):
        with pytest.raises(ValueError, match="the score has the activation tanh"):
            guided_backprop(lambda x, f=f: f(x[0, 0])[0], X)


def test_gelu_is_an_activation_wherever_it_is():
    with pytest.raises(ValueError, match="the score has the activation gelu"):
        guided_backprop(lambda x: jax.nn.gelu(x).sum(), X)


def test_what_belongs_to_the_question_keeps_its_derivative():
    """Probabilities of one and of many classes, attention, normalisation, gates: the gradient, as nothing is a ReLU."""
    model = lambda x: 0.1 * x.reshape(1, -1) @ EYE
    attend = lambda z: jax.nn.softmax(jnp.outer(z, z) / 10) @ z
    assert_gradients(
        [
            scores.probability(model, 1),
            scores.log_prob(model, 1),
            scores.margin(model, 1),
            lambda x: jax.nn.sigmoid(model(x)[0, 1]),
            lambda x: jax.nn.log_sigmoid(model(x)[0, 1]),
            lambda x: -jax.nn.softplus(-model(x)[0, 1]),
            lambda x: jnp.tanh(model(x)[0, 1]),
            lambda x: jax.nn.logsumexp(EYE @ jax.nn.log_softmax(x[0, 0])),
            layered(attend),
            layered(jax.nn.standardize),
            layered(lambda z: z * jax.nn.sigmoid(EYE @ z)[:, None].reshape(-1)),
            layered(lambda z: z * jax.nn.sigmoid(jnp.tanh(W)) + jax.nn.silu(W)),
        ]
    )


def test_relus_out_of_reach_are_refused():
    @jax.custom_vjp
    def block(z):
        return EYE @ jax.nn.relu(z)

    block.defvjp(lambda z: (block(z), None), lambda _, g: (g,))
    with pytest.raises(ValueError, match=r"the function block \(.* has a derivative of its own and a ReLU inside"):
        guided_backprop(lambda x: block(x[0, 0])[0], X)

    def loop(z):
        return jax.lax.while_loop(lambda c: c[1] < 2, lambda c: (jax.nn.relu(c[0]), c[1] + 1), (z, 0))[0]

    with pytest.raises(ValueError, match=r"there is a ReLU inside of while \(.*test_guided.py:\d+, in loop\)"):
        guided_backprop(lambda x: loop(x[0, 0])[0], X)


def test_functions_with_their_own_derivative_are_kept_whole():
    """The derivative is the one given, also where a solver projects on what is not negative; negative it passes."""

    @jax.custom_vjp
    def solve(z):
        return jax.lax.while_loop(lambda c: c[1] < 3, lambda c: (jnp.maximum(c[0] - 0.1, 0), c[1] + 1), (z, 0))[0]

    solve.defvjp(lambda z: (solve(z), None), lambda _, g: (-3 * g,))
    for method in METHODS:
        np.testing.assert_array_equal(method(lambda x: (EYE @ solve(x[0, 0])).sum(), X), np.full((1, 1, 5), -3))


def test_a_program_is_laid_out_and_followed():
    """Calls are opened, constants are known, and what lies between the image and a layer is told apart."""

    def f(x):
        weights = jnp.tanh(W)  # not of the image
        return jnp.sin(EYE @ jax.jit(lambda z: jnp.cos(z) * weights)(x)) + 0.5

    uses = follow(flat(jax.make_jaxpr(f)(W)))
    names = {step.name: step for step in uses.program.steps}
    assert "jit" not in names
    assert [name for name, step in names.items() if uses.live.isdisjoint(step.outputs)] == ["tanh"]
    assert [name for name, step in names.items() if not uses.fed.isdisjoint(step.outputs)] == ["tanh", "cos", "mul"]
    assert [uses.number(value) for value in names["add"].inputs] == [None, 0.5]
