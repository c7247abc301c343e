"""Bounds: closed forms, the same graph by every way of calling it, and clear errors."""

import re
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx
from jax import lax

from sparks_jax import models, verify
from sparks_jax.types import Box
from sparks_jax.verify import alpha_crown, ball, crown, forward_linear, ibp, l2_ball, margins
from sparks_jax.verify.groups import grouped
from sparks_jax.verify.interpreter import trace

# Programs are compiled once and run once: compiling them well takes longer than running them badly.
full_crown = partial(crown, intermediate="crown")
METHODS = {"ibp": ibp, "crown": crown, "full": full_crown, "forward": forward_linear, "alpha": alpha_crown}
BOTH = ("ibp", "crown")

W = np.array([[1.0, 1.0], [1.0, -1.0]], np.float32)
SQUARE = Box(-jnp.ones(2), jnp.ones(2))
relu = jax.nn.relu


def interval(*ends):
    lower, upper = zip(*ends, strict=True)
    return Box(jnp.array(lower, jnp.float32), jnp.array(upper, jnp.float32))


def two_layers(x):
    return relu(x @ W) @ W


def three_layers(x):
    r = relu(x @ W + np.array([0.5, -0.5], np.float32))
    g = r @ np.array([[1, 1], [2, -1]], np.float32) + np.array([-1, 0], np.float32)
    return relu(g) @ np.array([[1, 1], [-1, 2]], np.float32)


def convolution(x):
    kernel = np.array([[1, -1], [0, 2]], np.float32)[:, :, None, None]
    shape = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x.reshape(1, 3, 3, 1), kernel, (1, 1), "VALID", dimension_numbers=shape).ravel()


W1, B1 = np.array([[1, -1], [1, 1], [-1, 2]], np.float32), np.array([0, -0.5, 0.25], np.float32)
W2, B2 = np.array([[1, -1, 0.5], [-0.5, 1, 1]], np.float32), np.array([0.2, 0], np.float32)


def rectangle(x):
    return W2 @ relu(W1 @ x + B1) + B2


E = float(np.e)
# Function, box, and by method the bounds of each output, all from rational arithmetic by hand.
EXACT = {
    "two layers": (two_layers, SQUARE, dict(ibp=[(0, 4), (-2, 2)], crown=[(0, 3), (-2, 2)])),
    # CROWN's line alone says -1 here, the interval 0.
    "rectifier": (relu, interval((-1, 2)), dict.fromkeys(METHODS, [(0, 2)])),
    "inactive side": (relu, interval((-2, 1)), dict.fromkeys(BOTH, [(0, 1)])),
    "tie": (relu, interval((-1, 1)), dict.fromkeys(BOTH, [(0, 1)])),
    # The interval of the last layer from the tightened activations is 13/4, below the 125/34 of the lines.
    "three layers": (
        three_layers,
        SQUARE,
        dict(ibp=[(-5 / 2, 9 / 2), (0, 19 / 2)], crown=[(-5 / 2, 85 / 22), (0, 1291 / 176)],
             full=[(-5 / 2, 13 / 4), (0, 1937 / 272)]),
    ),
    "affine": (
        lambda x: np.array([[1, -2], [3, 4]], np.float32) @ x + np.array([1, -1], np.float32),
        interval((-1, 2), (0, 1)),
        dict.fromkeys(BOTH, [(-2, 3), (-4, 9)]),
    ),
    "difference": (lambda x: x - x, SQUARE, dict(ibp=[(-2, 2)] * 2, crown=[(0, 0)] * 2, forward=[(0, 0)] * 2)),
    "twice": (lambda x: (x @ W) @ W, SQUARE, dict(ibp=[(-4, 4)] * 2, crown=[(-2, 2)] * 2, forward=[(-2, 2)] * 2)),
    "residual": (lambda x: x + relu(x @ W), SQUARE, dict(ibp=[(-1, 3)] * 2, crown=[(-1, 3), (-1, 2)])),
    "maximum": (lambda x: x.max(keepdims=True), interval((0, 1), (0.5, 2)), dict.fromkeys(BOTH, [(0.5, 2)])),
    "dominated": (lambda x: x.max() - x[1:], interval((0, 1), (1.5, 2)), dict(ibp=[(-0.5, 0.5)], crown=[(0, 0)])),
    "larger of two": (lambda x: jnp.maximum(x[:1], x[1:]) - x[1:], interval((0, 1), (1.5, 2)), dict(crown=[(0, 0)])),
    "falling scale": (lambda x: (x - 0.5) * -1.5 + 1, interval((0, 1)), dict.fromkeys(BOTH, [(0.25, 1.75)])),
    "softmax": (
        jax.nn.softmax, interval((0, 1), (0, 1), (0, 1)), dict.fromkeys(BOTH, [(1 / (1 + 2 * E), E / (E + 2))] * 3)
    ),
    "convolution": (
        convolution,
        Box(jnp.arange(9.0) - 0.5, jnp.arange(9.0) + 0.5),
        dict.fromkeys(BOTH, [(5, 9), (7, 11), (11, 15), (13, 17)]),
    ),
    "rectangle": (
        rectangle,
        interval((0, 1), (-0.25, 0.75)),
        dict(ibp=[(-1.05, 2.325), (-0.625, 3)], crown=[(-0.425, 28 / 15), (-0.625, 2.75)]),
    ),
    # x sigmoid(x) has its minimum -0.278465 at -1.278465; the two factors apart would give [-3, 1].
    "SiLU": (jax.nn.silu, interval((-3, 1)), dict.fromkeys(BOTH, [(-0.27846454, E / (1 + E))])),
    "square": (lambda x: x * x, interval((-1, 2)), dict.fromkeys(BOTH, [(0, 4)])),
    "reciprocal": (lambda x: 6 / x, interval((2, 3), (-3, -2), (-1, 1)),
                   dict.fromkeys(BOTH, [(2, 3), (-3, -2), (-np.inf, np.inf)])),
    "sine": (jnp.sin, interval((0, 2), (4, 8)), dict.fromkeys(BOTH, [(0, 1), (-1, 1)])),
    "choice": (lambda x: jnp.where(x > 0, 2 * x, -1.0), interval((1, 2), (-2, -1), (-1, 3)),
               dict.fromkeys(BOTH, [(2, 4), (-1, -1), (-2, 6)])),
    "product": (lambda x: x[:1] * x[1:], interval((-1, 2), (-3, 1)), dict.fromkeys(BOTH, [(-6, 3)])),
    "order": (lambda x: jnp.sort(x), interval((0, 5), (1, 2)), dict(ibp=[(0, 2), (1, 5)])),
}  # fmt: skip


@pytest.fixture(scope="module")
def exact():
    """All bounds of the table, from one program."""

    def run(boxes):
        return {(k, m): METHODS[m](EXACT[k][0], boxes[k]) for k in EXACT for m in EXACT[k][2]}

    return jax.jit(run)({k: box for k, (_, box, _) in EXACT.items()})


@pytest.mark.parametrize("name", EXACT)
def test_exact_bounds(name, exact):
    for method, ends in EXACT[name][2].items():
        lower, upper = zip(*ends, strict=True)
        # A handful of float32 operations on numbers below 20.
        np.testing.assert_allclose(exact[name, method].lower, lower, atol=2e-5, err_msg=method)
        np.testing.assert_allclose(exact[name, method].upper, upper, atol=2e-5, err_msg=method)


def test_margins_cancel_what_classes_share():
    shifted = lambda x: jnp.stack([x[0], x[0] + 1])
    line = interval((-1, 1))
    got = jax.jit(lambda: [margins(shifted, line, 1, bound=b) for b in (ibp, crown)])()
    np.testing.assert_array_equal(got, [[-1, -np.inf]] * 2)


def test_margins_of_the_rectangle():
    """Separate logits give 4.05 by intervals; the difference of rows 3.175; lines 3.05; the truth is 2.30."""
    box = EXACT["rectangle"][1]
    got = jax.jit(lambda: [margins(rectangle, box, 0, bound=b)[1] for b in (ibp, crown)])()
    np.testing.assert_allclose(got, [3.175, 3.05], atol=1e-6)


def test_a_euclidean_ball_meets_the_dual_norm():
    """The rows of W have norm sqrt 2: 2 x W + 1 in [1 - 2 sqrt 2, 1 + 2 sqrt 2], where a box would say 5."""
    f = lambda x: relu(2 * x @ W + 1)
    disc = l2_ball(jnp.zeros(2), 1.0)
    for bound in (ibp, crown):
        got = jax.jit(lambda: bound(f, disc))()
        np.testing.assert_allclose(got.upper, [1 + 8**0.5] * 2, rtol=1e-6)
        np.testing.assert_array_equal(got.lower, [0, 0])
    pinned = l2_ball(jnp.zeros(2), 1.0, mask=jnp.array([1.0, 0.0]))
    np.testing.assert_allclose(crown(lambda x: x @ W, pinned).upper, [1, 1], rtol=1e-6)


def test_ball_clips_and_pins():
    x = jnp.array([[[0.1], [0.5]], [[0.9], [1.2]]])
    box = ball(x, 0.2, clip=(0, 1), mask=jnp.array([[1.0, 1.0], [1.0, 0.0]])[..., None])
    np.testing.assert_allclose(box.lower.ravel(), [0, 0.3, 0.7, 1], atol=1e-7)
    np.testing.assert_allclose(box.upper.ravel(), [0.3, 0.7, 1, 1], atol=1e-7)


# --- one function, many ways to write it


class Net(nnx.Module):
    def __init__(self, rngs):
        self.conv, self.norm = nnx.Conv(2, 3, (3, 3), rngs=rngs), nnx.BatchNorm(3, rngs=rngs)
        self.drop, self.head = nnx.Dropout(0.5, rngs=rngs), nnx.Linear(3, 2, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.norm(self.conv(x)))
        x = nnx.max_pool(x, (3, 3), (2, 2), "SAME")
        return self.head(self.drop(x).mean((1, 2)))


class LinenNet(linen.Module):
    @linen.compact
    def __call__(self, x):
        x = linen.relu(linen.BatchNorm(use_running_average=True)(linen.Conv(3, (3, 3))(x)))
        return linen.Dense(2)(linen.avg_pool(x, (2, 2), (2, 2)).mean((1, 2)))


def names(f, x):
    return [node.name for node in grouped(trace(f, x)).nodes]


def test_wrappers_do_not_change_the_equations():
    model = Net(nnx.Rngs(0))
    model.eval()
    x, f = jnp.ones((4, 4, 2)), lambda x: model(x[None])[0]
    plain = names(f, x)
    assert {"conv_general_dilated", "max", "reduce_window_max", "dot_general"} <= set(plain)
    graphdef, state = nnx.split(model)
    wrapped = [
        jax.jit(f),
        jax.checkpoint(f),
        nnx.jit(f),
        lambda x: f(lax.stop_gradient(x)),
        lambda x: jax.vmap(f)(x[None])[0],
        lambda x: nnx.merge(graphdef, state)(x[None])[0],
        lambda x: lax.optimization_barrier(f(x)),
        lambda x: lax.cond(True, f, lambda x: -f(x), x),
    ]
    for g in wrapped[:4]:
        assert names(g, x) == plain
    for g in wrapped:
        assert set(names(g, x)) <= {*plain, "squeeze", "slice", "transpose", "broadcast_in_dim", "reshape"}
    values = jax.jit(lambda x: [trace(g, x)(x) for g in wrapped])(x)
    np.testing.assert_allclose(values, [f(x)] * len(wrapped), rtol=1e-5)


def test_both_modes_of_nnx_and_linen():
    x = jnp.ones((4, 4, 2))
    model = Net(nnx.Rngs(0))
    model.eval()
    by_mode = []
    for mode in (True, False):
        with nnx.set_graph_mode(mode):
            by_mode.append(names(lambda x: model(x[None])[0], x))
    assert by_mode[0] == by_mode[1]
    variables = LinenNet().init(jax.random.key(0), x[None])
    assert "reduce_window_sum" in names(lambda x: LinenNet().apply(variables, x[None])[0], x)


def test_loops_of_known_length_are_unrolled():
    def f(x):
        carry, sums = lax.scan(lambda c, v: (c * v, c + v), jnp.float32(1), x, reverse=True)
        return carry * sums + lax.fori_loop(0, 3, lambda i, y: y + i, x)

    x = jnp.array([1.0, 2.0, 3.0])
    np.testing.assert_allclose(trace(f, x)(x), f(x))
    box = jax.jit(lambda: ibp(f, ball(x, 0.0)))()
    np.testing.assert_allclose(box, [f(x)] * 2, rtol=1e-6)


def test_what_depends_on_nothing_or_is_the_input():
    box = interval((0, 1), (2, 3))
    bounds = (ibp, crown, alpha_crown, forward_linear)
    same, known = jax.jit(
        lambda: ([b(lambda x: x, box) for b in bounds], [b(lambda x: jnp.arange(3.0), box) for b in bounds])
    )()
    np.testing.assert_array_equal(same, [box] * 4)
    np.testing.assert_array_equal(known, [[[0, 1, 2]] * 2] * 4)
    np.testing.assert_array_equal(ibp(lambda x: x > 1.5, box), [[False, True], [False, True]])


def test_activations_are_recognised_by_their_equations():
    x = jnp.ones((2, 3))
    for fn, name in [
        (jax.nn.gelu, "gelu_tanh"), (partial(jax.nn.gelu, approximate=False), "gelu"), (jax.nn.silu, "silu"),
        (jax.nn.softplus, "softplus"), (jax.nn.elu, "elu"), (jax.nn.leaky_relu, "leaky_relu"),
        (lambda x: jnp.where(x > 0, x, 0.3 * x), "leaky_relu"), (partial(jax.nn.softmax, axis=0), "softmax"),
        (jax.nn.log_softmax, "log_softmax"), (partial(jax.nn.logsumexp, axis=1), "logsumexp"),
    ]:  # fmt: skip
        assert names(fn, x) == [name]

    @jax.jit
    def silu(x):  # a name is not an equation
        return x * jax.nn.sigmoid(x + 1)

    assert names(silu, x) == ["add", "logistic", "mul"]


# --- errors


def test_all_unsupported_primitives_are_named_at_once_with_lines():
    def f(x):
        top = lax.top_k(x, 2)[0]  # the first line
        return lax.while_loop(lambda v: v.sum() < 9, lambda v: 2 * v, top) + x[x.argmax()]  # the second line

    with pytest.raises(verify.UnsupportedPrimitive) as caught:
        ibp(f, ball(jnp.ones(3), 0.1))
    message = str(caught.value)
    # Of the index, only where it comes from is named.
    assert caught.value.names == ("top_k", "while", "argmax")
    assert message.startswith("ibp: no rule for top_k")
    for part in ("test_verify.py", "the first line", "the second line", "float32[3]", "rules={'top_k'", "README"):
        assert part in message
    with pytest.raises(
        verify.UnsupportedPrimitive, match=r"(?s)crown: no rule for sort.*test_verify\.py:\d+ in .*<lambda>: crown"
    ):
        crown(lambda x: jnp.sort(x), ball(jnp.ones(3), 0.1))
    with pytest.raises(verify.UnsupportedPrimitive, match="integers"):
        ibp(lambda x: x.astype(int), ball(jnp.ones(3), 0.1))
    with pytest.raises(verify.UnsupportedPrimitive, match="depend on the input"):
        crown(lambda x: x**x, ball(jnp.ones(3), 0.1))


def test_bad_boxes():
    f, x = jnp.sin, jnp.ones(2)
    for box, error, message in [
        (Box(x, 0 * x), ValueError, "lower > upper in 2 of 2 places"),
        (Box(x, x * jnp.nan), ValueError, "NaN or infinite"),
        (Box(-x * jnp.inf, x), ValueError, "NaN or infinite"),
        (Box(x, jnp.ones(3)), ValueError, r"shapes \(2,\) and \(3,\)"),
        (Box(jnp.zeros(2, int), jnp.ones(2, int)), TypeError, "dtype int32"),
    ]:
        for name, bound in METHODS.items():
            who = {"full": "crown", "forward": "forward_linear", "alpha": "alpha_crown"}.get(name, name)
            with pytest.raises(error, match=f"^{who}: .*{message}"):
                bound(f, box)
    with pytest.raises(ValueError, match="radius is -1"):
        ball(x, -1)
    with pytest.raises(TypeError, match="x has dtype int32"):
        ball(jnp.ones(2, int), 1)
    with pytest.raises(ValueError, match="mask has shape"):
        ball(x, 1, mask=jnp.ones(3))
    with pytest.raises(ValueError, match="expected one array"):
        ibp(lambda x: (x, x), ball(x, 1))


def test_labels():
    f, box = lambda x: W @ x, ball(jnp.ones(2), 0.1)
    with pytest.raises(ValueError, match="label 2 is outside the 2 classes"):
        margins(f, box, 2)
    with pytest.raises(ValueError, match=r"returns shape \(1, 2\)"):
        margins(lambda x: f(x)[None], box, 0)
    traced = jax.jit(partial(margins, f, box))
    assert jnp.isnan(traced(2)).all()
    assert jnp.isnan(traced(-1)).all()
    assert traced(1)[1] == -jnp.inf


def test_networks_in_training_are_refused():
    x = ball(jnp.ones((4, 4, 2)), 0.1)
    model = Net(nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"in evaluation mode: call model\.eval\(\)"):
        ibp(lambda x: model(x[None])[0], x)
    model.norm.use_running_average = True  # dropout is still random
    with pytest.raises(ValueError, match=r"call model\.eval\(\)"):
        ibp(lambda x: model(x[None])[0], x)
    norm = linen.BatchNorm(use_running_average=False)
    variables = norm.init(jax.random.key(0), jnp.ones((1, 4, 4, 2)))
    with pytest.raises(ValueError, match="call model.eval"):
        ibp(lambda x: norm.apply(variables, x[None]), x)
    with pytest.raises(ValueError, match="divides by the deviation of a batch"):
        ibp(lambda x: norm.apply(variables, x[None], mutable=["batch_stats"])[0], x)


def test_layer_normalisation_is_not_a_batch():
    """It divides by a deviation over channels, which is bounded by what it is: at a point, exactly."""
    norm = nnx.LayerNorm(3, rngs=nnx.Rngs(0))
    x = jnp.array([1.0, 2.0, 4.0])
    box = jax.jit(lambda: ibp(lambda x: norm(x[None])[0], ball(x, 0.0)))()
    np.testing.assert_allclose(box, [norm(x)] * 2, rtol=1e-5)


# --- rules of one's own


@jax.jit
def softsign(x):
    return x / (1 + jnp.abs(x))


def test_a_rule_for_a_function_of_ones_own():
    """By its equations softsign on [-1, 1] is x times 1 / (1 + |x|), in [-1, 1]; as one it is within [-1/2, 1/2]."""
    box = interval((-1, 1))
    rule = lambda node, x: verify.Enclosure(Box(softsign(x.lower), softsign(x.upper)))
    assert ibp(softsign, box).upper == 1
    for bound in (ibp, crown):
        got = jax.jit(partial(bound, lambda x: 2 * softsign(x), rules={"softsign": rule}))(box)
        np.testing.assert_allclose(got, [[-1], [1]])
    logits = lambda x: jnp.concatenate([softsign(x), 0 * x])
    got = margins(logits, box, 1, bound=partial(ibp, rules={"softsign": rule}))
    np.testing.assert_allclose(got, [0.5, -np.inf])
    assert ibp(softsign, box).upper == 1, "nothing was registered"


def test_a_rule_for_a_primitive():
    rule = lambda node, x: verify.Enclosure(Box(node.apply(x.lower), node.apply(x.upper)))
    box = interval((0, 1), (2, 5))
    got = ibp(lambda x: lax.top_k(x, 1)[0], box, rules={"top_k": rule})  # the largest is monotone
    np.testing.assert_array_equal(got, [[2], [5]])
    with pytest.raises(TypeError, match="the rule for top_k returned Box, expected an Enclosure"):
        ibp(lambda x: lax.top_k(x, 1)[0], box, rules={"top_k": lambda node, x: x})


def test_the_readme_runs():
    text = (Path(verify.__file__).parent / "README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.S)
    box = interval((-1, 1))
    given = dict(jax=jax, jnp=jnp, Box=Box, Enclosure=verify.Enclosure, ibp=ibp, crown=crown, margins=margins)
    names = {**given, "partial": partial, "f": lambda x: jnp.concatenate([jnp.sin(x), x]), "box": box, "label": 0}
    exec(code, names)
    got = ibp(names["softsign"], box, rules={"softsign": names["rule"]})
    np.testing.assert_allclose(got, [[-0.5], [0.5]])


def test_the_report_says_where_bounds_grow():
    rows = verify.report(lambda x: relu(x @ W) @ W, SQUARE)
    assert [row.name for row in rows] == ["dot_general", "max", "dot_general"]
    assert [row.width for row in rows] == [4, 2, 4]  # [-2, 2], [0, 2], then [0, 4] and [-2, 2]
    assert [row.unstable for row in rows] == [0, 1, 0]
    assert "test_verify.py" in rows[0].source


# --- constants of Lipschitz


def test_lipschitz_constants():
    x = jnp.zeros(2)
    w = jnp.array([[3.0, 0.0], [4.0, 1.0]])
    rough = lambda x: jnp.tanh(2 * relu(x) @ w)
    np.testing.assert_allclose(verify.lipschitz_bound(lambda x: relu(x) @ w, x), [5, 1], rtol=1e-4)
    # ||w||_2 squared is 13 + 2 sqrt(40), the largest root of t² - 26 t + 9.
    np.testing.assert_allclose(verify.lipschitz_bound(rough, x), [2 * (13 + 160**0.5) ** 0.5] * 2, rtol=1e-3)
    residual = lambda x: x + jnp.sin(x)
    np.testing.assert_allclose(verify.lipschitz_bound(residual, x), [2, 2], rtol=1e-4)
    with pytest.raises(ValueError, match="square has no Lipschitz constant"):
        verify.lipschitz_bound(jnp.square, x)


def test_our_networks_have_rules():
    """Every equation of ResNet-18, SqueezeNet and EfficientNet-Lite0 has one: found without computing anything."""
    from sparks_jax.verify.rules import program_of, supported

    x, programs = jax.ShapeDtypeStruct((64, 64, 3), jnp.float32), []
    for make in (models.resnet18, models.SqueezeNet, models.EfficientNetLite0):
        graphdef, state = nnx.split(jax.eval_shape(lambda: make(rngs=nnx.Rngs(0))))

        def traced(s, x):
            programs.append(program_of(lambda x: nnx.merge(graphdef, s)(x[None])[0], x, "crown"))
            return x

        jax.eval_shape(traced, state, x)
    for program in programs:
        assert program.avals[program.output].shape == (1000,)
        assert {n.name for n in program.nodes if program.bounded.issuperset(n.outputs)} <= set(supported("crown"))
