"""Least perturbations against their closed forms for linear and spherical margins."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparks_jax.metrics import l2_step, linf_step, robustness_complement, robustness_sr
from sparks_jax.scores import margin
from tests.tiny import linear_score

A = jnp.array([[4.0, -3.0], [2.0, 1.0]])
X = jnp.array([[1.0, -1.0], [1.0, 1.0]])[..., None]
ORDER = jnp.abs(A)  # the best map: 4, 3, 2, 1
QUARTERS = jnp.array([0.25, 0.5, 0.75, 1.0])
F = linear_score(A[..., None])  # margin 10 at X

# Of 24 radii at most 5 bracket the answer, and 19 halve the logarithm of a factor 4: nothing but rounding is left.
FINE = dict(num_bisections=24, max_radius=64.0)
TOLERANCE = 1e-5


@partial(jax.jit, static_argnums=0, static_argnames=("step", "num_bisections", "clip"))
def run(metric, f, x, heatmap, **options):
    return metric(f, x, heatmap, key=jax.random.key(0), **options)


@pytest.mark.parametrize(
    ("step", "size"), [(linf_step, lambda a: np.abs(a).sum()), (l2_step, lambda a: np.sqrt((a**2).sum()))]
)
def test_linear_margin(step, size):
    """m / |a_S|_1 in the cube and m / |a_S|_2 in the ball, on the important pixels and on the others."""
    got = run(robustness_sr, F, X, ORDER, step=step, fractions=QUARTERS, **FINE)
    wanted = [10 / size(np.array([4, 3, 2, 1][:k])) for k in (1, 2, 3, 4)]
    np.testing.assert_allclose(got.radii, wanted, rtol=TOLERANCE)
    assert got.flipped.all()
    np.testing.assert_allclose(got.value, np.trapezoid(wanted, QUARTERS) / 0.75, rtol=TOLERANCE)
    got = run(robustness_complement, F, X, ORDER, step=step, fractions=QUARTERS[:3], **FINE)
    wanted = [10 / size(np.array([4, 3, 2, 1][k:])) for k in (1, 2, 3)]
    np.testing.assert_allclose(got.radii, wanted, rtol=TOLERANCE)
    np.testing.assert_allclose(got.value, np.trapezoid(wanted, QUARTERS[:3]) / 0.5, rtol=TOLERANCE)


def test_one_fraction_is_its_radius():
    got = run(robustness_sr, F, X, ORDER, fractions=QUARTERS[1:2], **FINE)
    assert got.value == got.radii[0]


def test_a_worse_map_needs_more():
    best, worst = (run(robustness_sr, F, X, h, fractions=QUARTERS, **FINE) for h in (ORDER, -ORDER))
    assert (worst.radii >= best.radii).all()
    assert worst.value > best.value
    best, worst = (run(robustness_complement, F, X, h, fractions=QUARTERS[:3], **FINE) for h in (ORDER, -ORDER))
    assert worst.value < best.value


def test_channels_of_a_pixel_move_together():
    """Margin 2 with weights 1 on two channels of one pixel: 2 / 2."""
    f, x = linear_score(jnp.ones((1, 1, 2))), jnp.ones((1, 1, 2))
    np.testing.assert_allclose(
        run(robustness_sr, f, x, x[..., 0], fractions=QUARTERS[3:], **FINE).radii, 1, rtol=TOLERANCE
    )


def test_a_spherical_margin():
    """R² - |x - c|² from x = 0 falls along -c, at the distance R - |c|."""
    c = np.random.default_rng(0).normal(size=(4, 4, 1)).astype(np.float32)
    inside = np.sqrt((c**2).sum())
    f = lambda x: (inside + 0.7) ** 2 - ((x - c) ** 2).sum()
    got = robustness_sr(
        f, jnp.zeros((4, 4, 1)), jnp.ones((4, 4)), key=jax.random.key(0), fractions=(1.0,), step=l2_step, **FINE
    )
    # The margin is known to about R² EPS, R = 5, against a slope of 2 R.
    np.testing.assert_allclose(got.radii, 0.7, rtol=1e-4)


def test_a_box_of_pixels():
    """A pixel at its bound cannot help: of the weights 4, 3, 2, 1 the first is lost; within the box the rest move."""
    x = jnp.array([[0.0, 0.5], [0.5, 0.5]])[..., None]
    f = lambda x: F(x) + 1  # margin 1 + 0 - 1.5 + 1 + 0.5 = 1
    got = run(robustness_sr, jax.tree_util.Partial(f), x, ORDER, fractions=QUARTERS, clip=(0.0, 1.0), **FINE)
    np.testing.assert_allclose(got.radii[1:], [1 / 3, 1 / 5, 1 / 6], rtol=TOLERANCE)
    assert got.flipped.tolist() == [False, True, True, True]
    assert got.radii[0] == 64


def test_where_nothing_flips_and_where_all_is_lost():
    line = lambda c, x: c[0] + c[1] * F(x)
    margin_of = lambda a, b: jax.tree_util.Partial(line, jnp.array([a, b]))
    flat = run(robustness_sr, margin_of(1, 0), X, ORDER, fractions=QUARTERS, max_radius=0.5)
    np.testing.assert_array_equal(flat.radii, 0.5)
    assert flat.value == 0.5
    assert not flat.flipped.any()
    lost = run(robustness_sr, margin_of(-10, 1), X, ORDER, fractions=QUARTERS, max_radius=0.5)
    np.testing.assert_array_equal(lost.radii, 0)
    assert lost.flipped.all()
    unknown = run(robustness_sr, margin_of(jnp.nan, 0), X, ORDER, fractions=QUARTERS, max_radius=0.5)
    assert jnp.isnan(unknown.value)


def test_a_radius_beyond_which_attacks_fail_does_not_hide_smaller_ones():
    """A margin that falls only near the image: |x - 1| in (0.1, 0.3) flips, the largest radius does not."""
    f = jax.tree_util.Partial(lambda x: ((jnp.abs(x - 1) - 0.2) ** 2).sum() - 0.01)
    got = run(robustness_sr, f, jnp.full((1, 1, 1), 1.01), jnp.ones((1, 1)), fractions=QUARTERS[3:], num_bisections=24)
    assert got.flipped.all()
    assert got.radii[0] < 0.25


def test_a_network(image):
    """Monotone in the number of pixels, and with a finite gradient in the weights."""
    heatmap = jax.random.normal(jax.random.key(5), (8, 8))
    weights = [jax.random.normal(jax.random.key(i), shape) / 8 for i, shape in enumerate([(192, 16), (16, 5)])]
    model = lambda weights, x: jnp.tanh(x.reshape(1, -1) @ weights[0]) @ weights[1]
    label = int(model(weights, image).argmax())

    def attacked(weights, metric, chunk):
        f = margin(jax.tree_util.Partial(model, weights), label)
        options = dict(steps=5, num_bisections=6, max_radius=8.0, fractions=(0.2, 0.5, 0.8))
        found = metric(f, image, heatmap, key=jax.random.key(0), chunk=chunk, **options)
        return found.value, found

    slope, important = jax.jit(jax.grad(lambda n: attacked(n, robustness_sr, 2), has_aux=True))(weights)
    assert all(jnp.isfinite(g).all() for g in jax.tree.leaves(slope))
    assert important.flipped.any()
    assert (np.diff(important.radii) <= 0).all()
    other = jax.jit(lambda n: attacked(n, robustness_complement, 16)[1])(weights)
    assert other.flipped.any()
    assert (np.diff(other.radii) >= 0).all()


@pytest.mark.parametrize("metric", [robustness_sr, robustness_complement])
def test_bad_input(metric, key):
    name = metric.__name__
    with pytest.raises(ValueError, match=rf"{name}: heatmap has shape \(2,\)"):
        metric(F, X, jnp.zeros(2), key=key)
    with pytest.raises(ValueError, match=f"{name}: steps is 0, expected 1 or more"):
        metric(F, X, ORDER, key=key, steps=0)
    with pytest.raises(ValueError, match=rf"{name}: fractions has shape \(0,\)"):
        metric(F, X, ORDER, key=key, fractions=())
