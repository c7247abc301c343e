"""The laws of bounds: nothing escapes them, under sampling, attack, fuzzing and the rounding of float32."""

import os
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from jax import lax

from sparks_jax.models.conv2d import conv2d
from sparks_jax.models.depthwise import depthwise
from sparks_jax.types import Box
from sparks_jax.verify import alpha_crown, ball, crown, forward_linear, ibp, l2_ball, margins
from tests.random_graphs import random_graph

FUZZ = int(os.environ.get("SPARKS_FUZZ", "4"))  # how many random graphs; a night's worth is 1000
NIGHT = "SPARKS_FUZZ" in os.environ  # other graphs each time, and what fails is made small
PHASES = tuple(Phase) if NIGHT else (Phase.explicit, Phase.generate)

relu = jax.nn.relu


def weights(seed, *shapes):
    rng = np.random.default_rng(seed)
    return [jnp.asarray(rng.normal(size=s) / np.sqrt(np.prod(s[:-1])), jnp.float32) for s in shapes]


def plain(p, x):
    x = relu(conv2d(x[None], p[0], 1, ((1, 1), (1, 1))) + p[1])
    x = relu(conv2d(x, p[2], 2, ((0, 1), (0, 1))))
    return x.ravel() @ p[3]


def residual(p, x):
    x = x[None] @ p[0]
    scale = lax.rsqrt(jnp.square(p[1]) + 1e-5) * p[2]  # batch normalisation, with scales of both signs
    y = relu((x - p[3]) * scale + p[1])
    y = relu(x + conv2d(y, p[4], 1, ((1, 1), (1, 1))))
    y = lax.reduce_window(y, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 2, 2, 1), "SAME")
    return relu(y).mean((0, 1, 2)) @ p[5]


def mobile(p, x):
    x = jnp.clip(depthwise(x[None], p[0], 2), 0, 0.5)
    x = jnp.concatenate([x, jax.nn.leaky_relu(x @ p[1], 0.2)], -1)
    x = lax.conv_general_dilated(
        x, p[2], (1, 1), "SAME", rhs_dilation=(2, 2), feature_group_count=2, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    x = lax.reduce_window(x, 0.0, lax.add, (1, 2, 2, 1), (1, 1, 1, 1), "VALID") / 4
    return jnp.abs(x).ravel() @ p[3]


def smooth(p, x):
    x = jnp.tanh(x.ravel() @ p[0])
    x = jax.nn.gelu(x @ p[1]) + jax.nn.silu(-x)
    x = jax.nn.softplus(x) * jax.nn.sigmoid(x @ p[1])
    return jnp.exp(-x) @ p[2] / (1 + jnp.square(x).sum())


def attention(p, x):
    t = x.reshape(-1, 4)
    d = t - t.mean(-1, keepdims=True)
    t = d * lax.rsqrt(jnp.square(d).mean(-1, keepdims=True) + 0.1)
    t = t + jax.nn.softmax(t @ p[0] @ t.T, -1) @ t
    return jax.nn.log_softmax((t @ p[1]).max(0))


# Network, weights, shape of the input, radius, and the bounds to ask for besides the cheap ones.
NETS = {
    "plain": (plain, weights(0, (3, 3, 2, 4), (1, 1, 1, 4), (3, 3, 4, 3), (12, 3)), (5, 5, 2), 0.1, ("full", "alpha")),
    "residual": (
        residual, weights(1, (2, 4), (1, 1, 1, 4), (1, 1, 1, 4), (1, 1, 1, 4), (3, 3, 4, 4), (4, 3)), (4, 4, 2), 0.1,
        ("outward",),
    ),
    "mobile": (mobile, weights(2, (3, 3, 2), (2, 2), (3, 3, 2, 4), (16, 2)), (6, 6, 2), 0.2, ()),
    "smooth": (smooth, weights(3, (6, 4), (4, 4), (4, 2)), (6,), 0.3, ("forward", "outward")),
    "attention": (attention, weights(4, (4, 4), (4, 3)), (3, 4), 0.02, ()),
}  # fmt: skip
MORE = {
    "full": partial(crown, intermediate="crown"),
    "alpha": partial(alpha_crown, steps=3),
    "forward": forward_linear,
    "outward": partial(crown, outward=True),
}
each_net = pytest.mark.parametrize("name", NETS)


def methods(name):
    asked = {"ibp": ibp, "crown": crown, "ibp outward": partial(ibp, outward=True)}
    return asked | {k: MORE[k] for k in NETS[name][4]}


def all_bounds(name):
    f, asked = NETS[name][0], methods(name)
    return jax.jit(lambda p, box: {k: b(partial(f, p), box) for k, b in asked.items()})


@pytest.fixture(scope="module")
def compiled():
    """One program for all bounds of a network."""
    return {}


def bounded(compiled, name, box):
    if name not in compiled:
        compiled[name] = all_bounds(name)
    return compiled[name](NETS[name][1], box)


def centre_of(name):
    return np.random.default_rng(7).normal(size=NETS[name][2]).astype(np.float32)


def attacked(f, box, count, seed=0):
    """Values at uniform points, at corners, and along ascents of every output up and down."""
    rng = np.random.default_rng(seed)
    low, high = (np.asarray(v)[None] for v in box)
    u = rng.random((count, *low.shape[1:]), np.float32)
    u[: count // 4] = u[: count // 4].round()
    points = jnp.asarray(np.clip(low + u * (high - low), low, high))
    outputs = jax.eval_shape(f, box.lower).shape[0]
    steps = (high - low) * 0.25

    @jax.jit
    def run(points):
        values = jax.vmap(f)(points)
        signs = jnp.concatenate([jnp.eye(outputs), -jnp.eye(outputs)])[jnp.arange(256) % (2 * outputs)]
        slope = jax.vmap(jax.grad(lambda x, s: (s * f(x)).sum()))

        def climb(x, _):
            x = jnp.clip(x + steps * jnp.sign(slope(x, signs)), low, high)
            return x, jax.vmap(f)(x)

        return values, lax.scan(climb, points[:256], None, length=12)[1].reshape(-1, outputs)

    return np.concatenate([np.asarray(v) for v in run(points)])


@each_net
def test_nothing_escapes(name, compiled):
    """10^5 points, a quarter of them corners, and 256 ascents: inside, to rounding; with outward rounding, exactly."""
    f, p, _, radius, _ = NETS[name]
    box = ball(jnp.asarray(centre_of(name)), radius)
    values = attacked(partial(f, p), box, 100_000)
    low, high = values.min(0), values.max(0)
    rounding = 1e-5 * (1 + np.abs(values).max())
    got = bounded(compiled, name, box)
    for method, bounds in got.items():
        slack = 0 if "outward" in method else rounding
        assert (bounds.lower - slack <= low).all(), method
        assert (bounds.upper + slack >= high).all(), method
        assert np.isfinite(bounds).all(), method
        assert bounds.lower.dtype == jnp.float32
    for method in set(got) - {"ibp", "ibp outward", "outward"}:
        assert (got[method].lower >= got["ibp"].lower - rounding).all(), "cut with intervals"
        assert (got[method].upper <= got["ibp"].upper + rounding).all()
    for method, wider in (("ibp", "ibp outward"), ("crown", "outward")):
        if wider in got:
            assert (got[wider].lower < got[method].lower).all()
            assert (got[wider].upper > got[method].upper).all()
            # What rounding can change is little: 10^4 roundings of numbers of the size of the bounds.
            assert np.abs(np.subtract(got[wider], got[method])).max() < 1e4 * 2**-23 * (1 + np.abs(got[method]).max())


@each_net
def test_point_boxes_are_the_value(name, compiled):
    f, p, *_ = NETS[name]
    x = jnp.asarray(centre_of(name))
    value = f(p, x)
    for method, bounds in bounded(compiled, name, Box(x, x)).items():
        # Bounds and value round apart, by fewer than 100 units.
        atol = 1e-3 if "outward" in method else 100 * 2**-23 * (1 + np.abs(value).max())
        np.testing.assert_allclose(bounds.lower, value, atol=atol, err_msg=method)
        np.testing.assert_allclose(bounds.upper, value, atol=atol, err_msg=method)


@each_net
def test_intervals_are_isotone(name, compiled):
    """A box within a box has bounds within the bounds: what makes no score of EVA negative."""
    x, radius = jnp.asarray(centre_of(name)), NETS[name][3]
    rng = np.random.default_rng(0)
    outer = bounded(compiled, name, ball(x, radius))["ibp"]
    for share in (rng.random(x.shape) < 0.7, rng.random(x.shape)):
        inner = bounded(compiled, name, ball(x, radius, mask=jnp.asarray(share, x.dtype)))["ibp"]
        rounding = 1e-6 * (1 + np.abs(outer).max())
        assert (inner.lower >= outer.lower - rounding).all()
        assert (inner.upper <= outer.upper + rounding).all()


def test_optimised_lines_are_no_looser(compiled):
    got = bounded(compiled, "plain", ball(jnp.asarray(centre_of("plain")), 0.1))
    assert (got["alpha"].lower >= got["crown"].lower).all()
    assert (got["alpha"].upper <= got["crown"].upper).all()
    assert (got["alpha"].upper - got["alpha"].lower).sum() < 0.999 * (got["crown"].upper - got["crown"].lower).sum()
    assert (got["full"].upper - got["full"].lower).sum() < 0.9 * (got["crown"].upper - got["crown"].lower).sum()


def test_a_nan_is_nowhere_lost(compiled):
    """A NaN in a box or in the weights, which only shows at run time, certifies nothing."""
    f, p, *_ = NETS["plain"]
    x = jnp.asarray(centre_of("plain"))
    for low, high in [(x.at[0, 0, 0].set(jnp.nan), x), (x, x.at[2, 2, 1].set(jnp.nan)), (x + 1, x)]:
        assert all(jnp.isnan(v).any() for v in bounded(compiled, "plain", Box(low, high))["ibp"])
    for k in range(len(p)):
        broken = [
            np.where(np.arange(w.size).reshape(w.shape) == 1, np.nan, w) if i == k else w for i, w in enumerate(p)
        ]
        got = compiled["plain"](broken, ball(x, 0.1))
        assert all(np.isnan(v).any() for method in ("ibp", "crown", "full") for v in got[method])


def test_overflow_is_no_nan():
    """Bounds that leave float32 are infinite, and so certify nothing; activations may bring them back."""

    @jax.jit
    def run(w):
        box = ball(jnp.ones(2), 0.5)
        f = lambda x: jnp.array([[1.0, -1.0], [0.0, 1.0]]) @ (w @ (w @ (w @ x)))
        return [b(g, box) for b in (ibp, crown) for g in (f, lambda x: jnp.tanh(f(x)))]

    for k, (lower, upper) in enumerate(run(np.full((2, 2), 1e19, np.float32))):
        assert not np.isnan([lower, upper]).any()
        assert (lower <= (-np.inf if k % 2 == 0 else 1)).all()
        assert (upper == (np.inf if k % 2 == 0 else 1)).all()


def test_eager_batched_and_traced_bounds_agree(compiled):
    f, p, _, radius, _ = NETS["smooth"]
    xs = np.random.default_rng(0).normal(size=(3, 6)).astype(np.float32)
    single = [bounded(compiled, "smooth", ball(jnp.asarray(x), radius)) for x in xs]
    many = jax.jit(jax.vmap(lambda x: [b(partial(f, p), ball(x, radius)) for b in (ibp, crown)]))
    batched = many(xs)
    for k, method in enumerate(("ibp", "crown")):
        alone = np.stack([np.stack(s[method]) for s in single], 1)
        np.testing.assert_allclose(batched[k], alone, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(ibp(partial(f, p), ball(jnp.asarray(xs[0]), radius)), single[0]["ibp"], rtol=1e-5)


def test_bounds_have_derivatives_in_the_weights():
    """In double precision they match central differences, to the square of the step."""
    with jax.enable_x64(True):
        for name, bound in (("plain", crown), ("smooth", crown), ("residual", ibp)):
            f, p, _, radius, _ = NETS[name]
            p = [jnp.asarray(w, jnp.float64) for w in p]
            box = ball(jnp.asarray(centre_of(name), jnp.float64), radius)
            total = lambda p: bound(partial(f, p), box).upper.sum()
            rng = np.random.default_rng(0)
            direction = [jnp.asarray(rng.normal(size=w.shape)) for w in p]
            moved = lambda s: total([w + s * d for w, d in zip(p, direction, strict=True)])

            @jax.jit
            def run():
                return jax.jvp(moved, (0.0,), (1.0,))[1], jax.grad(moved)(0.0), (moved(1e-5) - moved(-1e-5)) / 2e-5

            forward, backward, difference = run()
            np.testing.assert_allclose(backward, forward, rtol=1e-9)
            # The tangent of a sigmoid has a derivative of its slope from a difference with step 1e-3.
            np.testing.assert_allclose(backward, difference, rtol=1e-4)


def test_bfloat16_goes_in_and_comes_out():
    f = lambda x: relu(x @ jnp.array([[1.0, 3.0]], jnp.bfloat16))
    box = Box(jnp.array([0.1], jnp.bfloat16), jnp.array([0.3], jnp.bfloat16))
    for bound in (ibp, crown):
        got = jax.jit(partial(bound, f))(box)
        assert got.lower.dtype == jnp.bfloat16
        # Computed in float32 and rounded outward.
        exact = np.asarray(box.upper, np.float32) * np.array([1, 3], np.float32)
        assert (np.asarray(got.upper, np.float32) >= exact).all()
        assert (np.asarray(got.upper, np.float32) <= exact * (1 + 2**-6)).all()
    with pytest.raises(ValueError, match="outward rounding got bfloat16, expected float32"):
        ibp(f, box, outward=True)


@given(st.randoms(use_true_random=False), st.sampled_from(sorted(MORE)))
@settings(
    max_examples=FUZZ, deadline=None, derandomize=not NIGHT, phases=PHASES, suppress_health_check=tuple(HealthCheck)
)
def test_random_graphs(random, more):
    """Graphs of some 60 kinds of operations: no point and no corner outside, for any bound."""
    f, x, radius = random_graph(random)
    box = ball(x, radius)
    asked = {"ibp": ibp, "crown": crown, "ibp outward": partial(ibp, outward=True), more: MORE[more]}
    got = jax.jit(lambda box: {k: b(f, box) for k, b in asked.items()})(box)
    values = attacked(f, box, 2000)
    rounding = 1e-5 * (1 + np.abs(values).max())
    for method, bounds in got.items():
        slack = 0 if "outward" in method else rounding
        assert (bounds.lower - slack <= values.min(0)).all(), method
        assert (bounds.upper + slack >= values.max(0)).all(), method


def test_euclidean_balls_hold():
    f, p, *_ = NETS["plain"]
    x, radius = jnp.asarray(centre_of("plain")), 0.5
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(20_000, *x.shape)).astype(np.float32)
    directions /= np.linalg.norm(directions.reshape(len(directions), -1), axis=1)[:, None, None, None]

    @jax.jit
    def run(points):
        around = l2_ball(x, radius)
        bounds = [b(partial(f, p), around) for b in (ibp, crown, partial(ibp, outward=True))]
        boxed = ibp(partial(f, p), ball(x, radius))
        return bounds, boxed, jax.vmap(partial(f, p))(points)

    # The steepest directions of each output, both ways, and random ones.
    steep = np.array(jax.jacrev(partial(f, p))(x))
    steep /= np.linalg.norm(steep.reshape(3, -1), axis=1)[:, None, None, None]
    bounds, boxed, values = run(x[None] + 0.999999 * radius * jnp.concatenate([directions, steep, -steep]))
    for got, slack in zip(bounds, (1e-5, 1e-5, 0), strict=True):
        assert (got.lower - slack <= values.min(0)).all()
        assert (got.upper + slack >= values.max(0)).all()
        assert (got.upper - got.lower < 0.5 * (boxed.upper - boxed.lower)).all(), "the dual norm, not the box around"


def test_margins_hold_in_floating_point():
    """Of many points and ascents, none has a margin above the bound: with outward rounding, not by a single unit."""
    f, p, _, radius, _ = NETS["residual"]
    box = ball(jnp.asarray(centre_of("residual")), radius / 4)
    got = jax.jit(lambda: [margins(partial(f, p), box, 1, outward=o) for o in (False, True)])()
    logits = attacked(partial(f, p), box, 20_000)
    led = (logits - logits[:, 1:2]).max(0)
    plain, outward, led = (np.asarray(v)[[0, 2]] for v in (*got, led))
    assert (plain >= led - 1e-5).all()
    assert (outward >= led).all()
    assert (outward - plain < 1e-3).all()
