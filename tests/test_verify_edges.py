"""Bounds at the edges: numbers that overflow, vanish or leave a domain, odd programs, and real networks."""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

from sparks_jax import models
from sparks_jax.types import Box
from sparks_jax.verify import alpha_crown, ball, crown, forward_linear, ibp
from sparks_jax.verify.convolutions import transposed
from sparks_jax.verify.interpreter import trace
from tests.test_verify import full_crown, interval
from tests.test_verify_laws import NETS, attacked, centre_of, relu

BOUNDS = {"ibp": ibp, "crown": crown, "outward": partial(crown, outward=True)}


def all_of(functions, box, bounds=BOUNDS):
    """Bounds of several functions on one box, from one program."""
    run = lambda box: {(k, name): b(f, box) for k, f in functions.items() for name, b in bounds.items()}
    return jax.jit(run)(box)


# --- odd programs


@jax.custom_vjp
def doubled(x):
    return 2 * x


doubled.defvjp(lambda x: (2 * x, None), lambda _, g: (7 * g,))  # a wrong derivative, which no bound may use


@jax.tree_util.register_dataclass
@dataclass
class Affine:
    """A pytree with a call, as Equinox makes them."""

    weight: jax.Array

    def __call__(self, x):
        return self.weight @ x


def test_odd_programs():
    """Each is bounded exactly, since each is linear or monotone in every entry."""
    box = interval((-1, 1), (0, 2), (3, 5))
    mesh = jax.make_mesh((1,), ("i",), axis_types=(jax.sharding.AxisType.Auto,))
    spread = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    index = jnp.array([0, 5, -1])
    functions = {
        "custom_vjp": (doubled, [(-2, 2), (0, 4), (6, 10)]),
        "vmap of vmap": (lambda x: jax.vmap(jax.vmap(relu))(x[None])[0], [(0, 1), (0, 2), (3, 5)]),
        "empty parts": (lambda x: jnp.concatenate([x[:0] * 2, relu(x), x[3:]]), [(0, 1), (0, 2), (3, 5)]),
        "filled": (lambda x: x.at[index].get(mode="fill", fill_value=7.0), [(-1, 1), (7, 7), (3, 5)]),
        "clipped": (lambda x: x.at[index].get(mode="clip"), [(-1, 1), (3, 5), (3, 5)]),
        "set": (lambda x: x.at[1].set(9.0), [(-1, 1), (9, 9), (3, 5)]),
        "added": (lambda x: x.at[index].add(1.0, mode="drop"), [(0, 2), (0, 2), (4, 6)]),
        "sharded": (lambda x: lax.with_sharding_constraint(3 * x, spread), [(-3, 3), (0, 6), (9, 15)]),
        "inner gradient": (jax.grad(lambda x: (jnp.array([1.0, 2, 3]) * x * x).sum() / 2), [(-1, 1), (0, 4), (9, 15)]),
        "unused integers": (lambda x: x + (jnp.arange(3) > 1), [(-1, 1), (0, 2), (4, 6)]),
        "inner jit and remat": (jax.jit(jax.checkpoint(lambda x: jnp.minimum(x, 4))), [(-1, 1), (0, 2), (3, 4)]),
    }
    got = all_of({k: f for k, (f, _) in functions.items()}, box, {"ibp": ibp, "crown": crown})
    for (name, method), bounds in got.items():
        np.testing.assert_allclose(np.transpose(bounds), functions[name][1], atol=1e-5, err_msg=f"{name}, {method}")


def test_a_pytree_that_is_called():
    """Weights are traced, the box is traced, and the bounds have derivatives in both."""
    model = Affine(jnp.array([[1.0, -2.0]]))
    total = lambda model, r: ibp(model, ball(jnp.ones(2), r)).upper.sum()
    value, slopes = jax.value_and_grad(total, argnums=(0, 1))(model, 0.5)
    np.testing.assert_allclose([value, *slopes[0].weight[0], slopes[1]], [0.5, 1.5, 0.5, 3], rtol=1e-6)


def test_nothing_in_and_nothing_out():
    box = Box(jnp.zeros((0, 2)), jnp.zeros((0, 2)))
    methods = {"ibp": ibp, "crown": crown, "full": full_crown, "alpha": alpha_crown, "forward": forward_linear}
    functions = {"out": lambda x: relu(x), "in": lambda x: relu(x)[:, :1].sum(keepdims=True) + 1}
    for (name, method), bounds in all_of(functions, box, methods).items():
        np.testing.assert_array_equal(bounds, np.zeros((2, 0, 2)) if name == "out" else np.ones((2, 1, 1)), method)


# --- numbers at the edge


def test_the_edges_of_domains():
    """What may be undefined is NaN or infinite, and certifies nothing: no comparison with it is true."""
    box = interval((-1, 2))
    undefined = {
        "log": jnp.log,
        "sqrt": jnp.sqrt,
        "rsqrt": lax.rsqrt,
        "power": lambda x: x**0.5,
        "log1p": lambda x: jnp.log1p(3 * x),
    }
    got = all_of(
        undefined | {"division": lambda x: 1 / x, "of a nan": lambda x: relu(x * jnp.nan)},
        box,
        {"ibp": ibp, "crown": crown},
    )
    for (name, method), (lower, upper) in got.items():
        assert not (lower > -1e30).any(), (name, method)
        assert not (upper < 1e30).any(), (name, method)


def test_overflow_is_never_a_bound_on_the_wrong_side():
    """Where intermediate numbers leave float32, nothing is known, whatever the infinities that meet."""
    w = jnp.array([[1e30, 1e30], [1e30, -1e30]])
    functions = {
        "up": lambda x: w @ (w @ x),
        "and back": lambda x: 1e-30 * (1e-30 * (w @ (w @ x))),
        "cancelled": lambda x: (w @ (w @ x))[:1] - (w @ (w @ x))[1:],
        "product": lambda x: (1e30 * x) * (1e30 * x[::-1]),
    }
    got = all_of(functions, ball(jnp.ones(2), 0.5))
    exact = {"up": (1e60, 3e60), "and back": (1, 3), "cancelled": (-2e60, 2e60), "product": (2.5e59, 2.25e60)}
    for (name, method), (lower, upper) in got.items():
        low, high = exact[name]
        assert not (np.asarray(lower, np.float64) > low * (1 + 1e-5)).any(), (name, method)
        assert not (np.asarray(upper, np.float64) < high * (1 - 1e-5)).any(), (name, method)


def test_sums_of_vanishing_products():
    """10^4 products of 4e-39 may be flushed to zero each, and be scaled back to 40: with outward rounding inside."""
    n = 10_000
    small = jnp.full((1, n), 2e-20)
    got = all_of(
        {"sum": lambda x: (small @ x) * 1e36},
        ball(jnp.full(n, 2e-19), 0.0),
        {"outward": partial(ibp, outward=True), "lines": BOUNDS["outward"]},
    )
    for lower, upper in got.values():
        assert lower <= 40 <= upper


def test_boxes_narrower_than_the_spacing_of_numbers():
    """1000 ± 1e-5 is one number of float32. Outward bounds contain what float64 says on the true box."""
    w = np.random.default_rng(0).normal(size=(2, 8)).astype(np.float32)
    f = lambda x: jnp.tanh(jnp.asarray(w, x.dtype) @ (x - 1000) * 0.1) + jnp.asarray(w, x.dtype) @ x
    wide = Box(
        jnp.full(8, np.nextafter(np.float32(1000), np.float32(0))),
        jnp.full(8, np.nextafter(np.float32(1000), np.float32(2000))),
    )
    got = all_of({"f": f}, wide)
    points = 1000 + 1e-5 * (2 * np.random.default_rng(1).random((1000, 8)) - 1)
    w = w.astype(np.float64)
    exact = np.tanh(0.1 * (points - 1000) @ w.T) + points @ w.T
    assert (got["f", "outward"].lower <= exact.min(0)).all()
    assert (got["f", "outward"].upper >= exact.max(0)).all()
    assert got["f", "ibp"].lower.dtype == jnp.float32


# --- laws that hold for whole networks


@pytest.mark.parametrize("name", ["plain", "smooth"])
def test_single_and_double_precision_agree(name):
    """To 1e-5 of the largest bound; outward bounds contain the others, whose lines are the same."""
    f, p, _, radius, _ = NETS[name]
    box = ball(jnp.asarray(centre_of(name)), radius)
    single = all_of({"f": partial(f, p)}, box)
    with jax.enable_x64(True):
        double = [jnp.asarray(w, jnp.float64) for w in p]
        wide = Box(*(jnp.asarray(np.asarray(end), jnp.float64) for end in box))
        exact = all_of({"f": partial(f, double)}, wide, {"ibp": ibp, "crown": crown})
    for method in ("ibp", "crown"):
        size = np.abs(exact["f", method]).max()
        np.testing.assert_allclose(single["f", method], exact["f", method], atol=1e-5 * size)
    outward, inside = (np.asarray(b, np.float64) for b in (single["f", "outward"], exact["f", "crown"]))
    assert (outward[0] <= inside[0]).all()
    assert (outward[1] >= inside[1]).all()


def test_the_order_of_pixels_does_not_matter():
    f, p, shape, radius, _ = NETS["smooth"]
    order = np.random.default_rng(0).permutation(shape[0])
    x = jnp.asarray(centre_of("smooth"))
    back = np.argsort(order)
    bounds = {"ibp": ibp, "crown": crown}
    plain = all_of({"f": partial(f, p)}, ball(x, radius), bounds)
    turned = all_of({"f": lambda x: f(p, x[back])}, ball(x[order], radius), bounds)
    for key, expected in plain.items():
        # Touching points are found to 1e-5.
        np.testing.assert_allclose(turned[key], expected, atol=1e-4)


def test_tightened_activations_in_chunks_of_any_size():
    """A loop over starts and chunks gives what each row alone would, and its derivatives are finite."""
    f, p, *_ = NETS["residual"]
    box = ball(jnp.asarray(centre_of("residual")), 0.05)
    sides = lambda p, chunk: crown(partial(f, p), box, intermediate="crown", chunk=chunk)

    @jax.jit
    def run(p):
        return sides(p, 7), sides(p, 64), crown(partial(f, p), box), jax.grad(lambda p: sides(p, 64).upper.sum())(p)

    few, many, loose, slopes = run(p)
    np.testing.assert_allclose(few, many, rtol=1e-5, atol=1e-6)
    assert (many.upper - many.lower).sum() < (loose.upper - loose.lower).sum()
    assert all(jnp.isfinite(g).all() and jnp.abs(g).sum() > 0 for g in slopes)
    values = attacked(partial(f, p), box, 20_000)
    assert (many.lower - 1e-5 <= values.min(0)).all()
    assert (many.upper + 1e-5 >= values.max(0)).all()


@pytest.mark.parametrize("stride", [(1, 1), (2, 3), (4, 1)], ids=str)
def test_transposed_convolutions(stride):
    """In any layout and with any padding, what JAX derives."""
    rng = np.random.default_rng(0)
    for layout, pads in ((("NHWC", "HWIO", "NHWC"), "SAME"), (("HWNC", "IOHW", "NCHW"), ((0, 1), (-1, 0)))):
        sides = dict(N=2, H=7, W=6, C=3, I=3, O=4)
        x = jnp.zeros([sides[c] for c in layout[0]])
        kernel = jnp.asarray(rng.normal(size=[(sides | dict(H=3, W=2))[c] for c in layout[1]]), jnp.float32)
        f = lambda x: lax.conv_general_dilated(x, kernel, stride, pads, dimension_numbers=layout)
        a = jnp.asarray(rng.normal(size=jax.eval_shape(f, x).shape), jnp.float32)
        pull = transposed(trace(f, x).nodes[-1], kernel, x.shape)
        got, (expected,) = jax.jit(lambda a: (pull(a), jax.linear_transpose(f, x)(a)))(a)
        np.testing.assert_allclose(got, expected, atol=1e-5)


def test_a_resnet():
    """Our ResNet-18, with real numbers: what is sampled is inside, and lines are no looser than intervals."""
    model = models.resnet18(num_classes=3, rngs=nnx.Rngs(0))
    model.eval()
    graphdef, state = nnx.split(model)
    f = lambda s, x: nnx.merge(graphdef, s)(x[None])[0]
    x = jnp.asarray(np.random.default_rng(0).random((32, 32, 3), np.float32))
    rng = np.random.default_rng(1)
    points = x[None] + 1e-4 * jnp.asarray(rng.choice([-1.0, 1.0], (32, *x.shape)), jnp.float32)

    @jax.jit
    def run(s):
        box = ball(x, 1e-4)
        return ibp(partial(f, s), box), crown(partial(f, s), box), jax.vmap(partial(f, s))(points)

    by_intervals, by_lines, values = run(state)
    assert jnp.isfinite(jnp.stack(by_intervals)).all()
    assert (by_lines.upper - by_lines.lower <= by_intervals.upper - by_intervals.lower).all()
    slack = 1e-5 * (1 + jnp.abs(values).max())
    for bounds in (by_intervals, by_lines):
        assert (bounds.lower - slack <= values.min(0)).all()
        assert (bounds.upper + slack >= values.max(0)).all()


def test_the_benchmark_runs():
    """At its smallest; that two programs agree is part of it where the other one is installed."""
    from experiments.benchmarks.bounds import Config, main

    row = main(Config(smoke=True))["mlp"]
    assert row["ibp"] > 0
    assert row["crown"] > 0
    assert row.get("apart crown", 0) < 1e-4


def test_boxes_may_be_spread_over_devices():
    """Bounds of a batch of boxes on eight devices are those on one, and stay where the boxes are."""
    f, p, _, radius, _ = NETS["smooth"]
    xs = jnp.asarray(np.random.default_rng(1).normal(size=(8, 6)), jnp.float32)
    run = jax.jit(jax.vmap(lambda x: ibp(partial(f, p), ball(x, radius))))
    mesh = jax.make_mesh((8,), ("boxes",), axis_types=(jax.sharding.AxisType.Auto,))
    spread = run(jax.device_put(xs, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("boxes"))))
    assert len(spread.lower.sharding.device_set) == 8
    for ours, alone in zip(spread, run(xs), strict=True):
        np.testing.assert_allclose(ours, alone, rtol=1e-6, atol=1e-7)
