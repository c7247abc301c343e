"""EVA against closed forms, its certificates against attacks; vacuous bounds and wrong questions."""

import functools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparks_jax import evaluate
from sparks_jax.jobs.bounds import check_bounds
from sparks_jax.scores import logits
from sparks_jax.verify import adversarial_overlap, ball, crown, eva, eva_hybrid, ibp, lipschitz_eva, margins
from tests.tiny import TinyNet, TinyReluNet, linear_logits

KEY = jax.random.key(0)
# verification.md T11 has names of its own for these: logits (4, 1, 1) of class 0 first.
W = jnp.array([[2.0, 1, 0, -1], [0, 1, 1, 0], [1, -1, 0, 1]])
B = jnp.array([1.0, 0, 1])
X = jnp.array([1.0, 1, 0, 0]).reshape(1, 4, 1)
AFFINE = lambda x: W @ x.ravel() + B
HALVES = partial(dict, grid=(1, 2), radius=0.5)  # cells {0, 1} and {2, 3}


@functools.cache
def weights(seed, width=8, classes=3):
    """Of three layers on 4 × 4 images."""
    keys = jax.random.split(jax.random.key(seed), 3)
    shapes = (16, width), (width, width), (width, classes)
    return [jax.random.normal(k, shape) / shape[0] ** 0.5 for k, shape in zip(keys, shapes, strict=True)]


def net(seed):
    """A network: its two halves, and the whole."""
    return made(*weights(seed))


def made(w1, w2, w3):
    """The network of these weights."""
    features = lambda x: jax.nn.relu(x.reshape(len(x), -1) @ w1)
    head = lambda a: jnp.tanh(a @ w2) @ w3
    return features, head, lambda x: head(features(x[None])[0])


IMAGE = jax.random.uniform(jax.random.key(5), (4, 4, 1))


# --- closed forms -----------------------------------------------------------------------------------------


def test_overlaps_of_affine_logits():
    """By hand: the largest of the margins (-3, -3) + 0.5 |w_j - w_0|, over the cells that may move."""
    (everything, fixed), drops = jax.jit(
        lambda x: (adversarial_overlap(AFFINE, x, 0, **HALVES()), eva(AFFINE, x, 0, **HALVES()))
    )(X)
    assert everything == -0.5
    np.testing.assert_array_equal(fixed, [[-2.0, -1.5]])
    np.testing.assert_array_equal(drops, [[1.5, 1.5, 1.0, 1.0]])


@pytest.mark.parametrize(
    ("target", "cells"), [(1, (1.0, 1.0)), (2, (1.5, 1.0)), ((1, 2), (1.5, 1.0)), ([2], (1.5, 1.0))]
)
def test_targets(target, cells):
    """What keeps the image from becoming one class: only its margin counts."""
    got = jax.jit(lambda x: eva(AFFINE, x, 0, target=target, **HALVES()))(X)
    np.testing.assert_array_equal(got[0, ::2], cells)


def test_a_direction_that_classes_share_has_no_part():
    """Both logits rise with the last number: the margin does not, whereas bounds of logits apart would count it."""
    w = jnp.array([[2.0, -1, 0, 0.5], [-1, 3, 0, 0.5]])
    f = lambda x: w @ x.ravel() + jnp.array([0.1, 0])
    got = jax.jit(lambda x: eva(f, x, 0, radius=0.3, grid=(1, 4)))(jnp.array([1, 0.2, 5, 1]).reshape(1, 4, 1))
    np.testing.assert_allclose(got, [[0.9, 1.2, 0, 0]], atol=1e-6)


def test_pixels_are_the_finest_cells():
    """As many cells as pixels, also where more are asked for; all channels of a pixel are fixed together."""
    w = jax.random.normal(KEY, (3, 4, 2))
    x = jnp.ones((3, 4, 2))
    run = jax.jit(lambda x: [eva(linear_logits(w), x, 0, radius=0.5, grid=grid) for grid in (9, (1, 2))])
    got, halves = run(x)
    # A sum of 24 terms below 2.
    np.testing.assert_allclose(got, abs(w).sum(-1) / 2, atol=24 * 2**-22)
    np.testing.assert_allclose(halves[0, ::2], abs(w).sum((0, 2)).reshape(2, 2).sum(1) / 2, atol=24 * 2**-22)


def test_the_range_of_images_and_radii_of_pixels():
    """White pixels cannot brighten: where the weight is positive they cannot help the other class."""
    w = jnp.array([3.0, -2.0, 1.0, -1.0]).reshape(2, 2, 1)
    x = jnp.ones((2, 2, 1))
    own = jnp.array([[1.0, 0], [0, 2]])[..., None]
    options = dict(radius=0.5, clip=(0, 1)), dict(radius=own)
    got, own = jax.jit(lambda x: [eva(linear_logits(w), x, 0, grid=2, **some) for some in options])(x)
    np.testing.assert_allclose(got, [[0, 1], [0, 0.5]], atol=1e-6)
    np.testing.assert_allclose(own, [[3, 0], [0, 2]], atol=1e-6)


def test_one_cell_is_the_whole_of_the_overlap():
    """Everything fixed leaves the lead at the image."""
    _, _, f = net(0)
    everything, fixed = jax.jit(lambda x: adversarial_overlap(f, x, 1, radius=0.1, grid=1))(IMAGE)
    z = f(IMAGE)
    np.testing.assert_allclose(fixed, [[jnp.delete(z, 1).max() - z[1]]], atol=1e-5)
    assert everything > fixed[0, 0]


def test_the_corners_make_the_sampled_box_exact():
    """Monotone features: the least and the greatest activation are at the corners, which are among the samples."""
    _, head, _ = net(1)
    w = abs(jax.random.normal(KEY, (16, 8)))
    features = lambda x: jax.nn.relu(x.reshape(len(x), -1) @ w - 1)
    options = dict(radius=0.2, grid=2)
    got, expected = jax.jit(
        lambda x: (
            eva_hybrid(features, head, x, 0, key=KEY, num_samples=3, **options),
            eva(lambda x: head(features(x[None])[0]), x, 0, **options),
        )
    )(IMAGE)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def test_more_samples_reach_further():
    """The noise of few samples is among that of many: boxes only grow, and so does what one cell of all takes away."""
    features, head, _ = net(2)
    run = jax.jit(
        lambda x: [
            eva_hybrid(features, head, x, 0, key=KEY, radius=0.3, grid=1, num_samples=n)[0, 0] for n in (3, 8, 32)
        ]
    )
    few, some, many = run(IMAGE)
    assert 0 < few <= some <= many


def test_lipschitz_of_a_linear_network():
    """The lead grows with the length of the move: (|ρ| - |ρ_u|) |w_1 - w_0|, and √2 L where the head's L is given."""
    scale = jnp.array([3.0, 4.0, 0, 0])
    features, head = lambda x: x.reshape(len(x), -1) * scale[None], lambda a: W[:2] @ a
    constants = (None, 2.0, jnp.array([9.0, 0.5]))
    run = jax.jit(
        lambda x: [lipschitz_eva(features, head, x, 0, radius=1.0, grid=(1, 4), lipschitz=c) for c in constants]
    )
    own, given, each = run(X)
    drops = np.array([[5 - 4.0, 5 - 3.0, 0, 0]])
    # Roundings of leads below 5 · 3; the constants are rounded up by 1e-5.
    np.testing.assert_allclose(own, drops * np.linalg.norm(W[1] - W[0]), atol=15 * (1e-5 + 2**-22))
    np.testing.assert_allclose(given, drops * 2**1.5, atol=15 * 2**-22)
    np.testing.assert_allclose(each, drops * 0.5, atol=15 * 2**-22)


# --- laws -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bound", [ibp, crown], ids=["ibp", "crown"])
def test_no_score_is_negative(bound):
    """Intervals are isotone; linear bounds are not, and are replaced where they grow."""
    _, _, f = net(3)
    run = jax.jit(lambda x, label: eva(f, x, label, radius=0.3, grid=4, bound=bound))
    for seed in range(5):
        x = jax.random.normal(jax.random.key(seed), (4, 4, 1))
        assert (run(x, seed % 3) >= 0).all()


def test_intervals_are_isotone_by_themselves():
    """Bound by bound, without the replacement."""
    _, _, f = net(4)
    cells = np.kron(np.arange(4).reshape(2, 2), np.ones((2, 2)))
    lead = jax.jit(lambda mask: margins(f, ball(IMAGE, 0.3, mask=mask), 0).max())
    everything = lead(jnp.ones((4, 4, 1)))
    assert all(lead(jnp.asarray(cells != u, jnp.float32)[..., None]) <= everything for u in range(4))


def test_pixels_and_classes_permute():
    """The map of a permuted image by a network that undoes it is the permuted map; so are classes, with the label."""
    _, _, f = net(5)
    pixels, classes = np.random.default_rng(0).permutation(16), np.array([2, 0, 1])
    back = np.argsort(pixels)
    g = lambda x: f(x.reshape(16)[back].reshape(4, 4, 1))[classes]
    run = jax.jit(lambda x, label, f: eva(f, x, label, radius=0.2, grid=4), static_argnums=2)
    got = run(IMAGE.reshape(16)[pixels].reshape(4, 4, 1), 1, g)  # class 0 of f
    np.testing.assert_allclose(got.ravel(), run(IMAGE, 0, f).ravel()[pixels], rtol=1e-4, atol=1e-5)


def test_a_map_is_four_times_as_smooth_as_the_logits():
    r"""$|\phi(x) - \phi(y)| \le 4 L \|x - y\|_\infty$ if each logit is L-Lipschitz: two overlaps, two logits each.

    Exact bounds are needed, which intervals are for one affine layer.
    """
    slope = float(abs(W).sum(1).max())
    run = jax.jit(jax.vmap(lambda x: eva(AFFINE, x, 0, radius=0.5, grid=(1, 4))))
    x = jax.random.normal(KEY, (64, 1, 4, 1)) * 2
    maps = run(x)
    change = abs(maps[:, None] - maps[None]).max((2, 3))
    assert (change <= 4 * slope * abs(x[:, None] - x[None]).max((2, 3, 4)) + 1e-5).all()
    assert change.max() > 0


# --- certificates -----------------------------------------------------------------------------------------


def attacked(f, x, label, radius, mask, num_samples=2000, steps=40):
    """The largest lead of another class found in the box: corners, noise, and ascent from some of them."""
    lead = lambda d: jnp.where(jnp.arange(3) == label, -jnp.inf, f(x + d * mask) - f(x + d * mask)[label]).max()
    corners = jax.random.rademacher(KEY, (num_samples, *x.shape), x.dtype) * radius
    starts = jnp.concatenate([corners, corners * jax.random.uniform(KEY, corners.shape)])

    def climbed(d):
        step = lambda d, _: (jnp.clip(d + radius / 8 * jnp.sign(jax.grad(lead)(d)), -radius, radius), None)
        return lead(jax.lax.scan(step, d, length=steps)[0])

    return jnp.maximum(jax.lax.map(lead, starts, batch_size=500).max(), jax.vmap(climbed)(starts[:50]).max())


def test_no_attack_exceeds_the_bounds():
    """Of `eva` by both bounds and of `lipschitz_eva`: everything moves, or one cell is fixed."""
    cells = jnp.kron(jnp.arange(4).reshape(2, 2), jnp.ones((2, 2)))
    options = dict(radius=0.2, grid=2)

    @jax.jit
    def run(weights, x):
        features, head, f = made(*weights)
        masks = jnp.stack([*(cells != u for u in range(4)), cells >= 0]).astype(x.dtype)[..., None]
        reached = jax.lax.map(lambda mask: attacked(f, x, 0, 0.2, mask), masks)
        bounded = [adversarial_overlap(f, x, 0, bound=bound, **options) for bound in (ibp, crown)]
        # The map of one cell is what fixing everything takes away: down to the lead at the image.
        whole = lipschitz_eva(features, head, x, 0, radius=0.2, grid=1)[0, 0]
        z = f(x)
        everything = whole + z[1:].max() - z[0]
        return reached, [*bounded, (everything, everything - lipschitz_eva(features, head, x, 0, **options)[::2, ::2])]

    for seed in range(8):
        reached, bounded = run(weights(seed), IMAGE)
        for everything, fixed in bounded:
            assert (np.append(fixed.ravel(), everything) >= reached - 1e-5).all()
            assert (fixed <= everything).all()


def test_cells_that_certify_alone():
    """The lead is 0.75 at the image: all pixels can take it away, all but those of the first cell cannot."""
    w = jnp.array([[4.0, 1.0, 1.0, 0.5]]).reshape(2, 2, 1)
    f = lambda x: linear_logits(w)(x) - jnp.array([0, 6.5 + 0.75])
    found = jax.jit(lambda x: adversarial_overlap(f, x, 0, radius=0.25, grid=2))(jnp.ones((2, 2, 1)))
    assert found.everything > 0
    np.testing.assert_array_equal(found.fixed <= 0, [[True, False], [False, False]])


# --- vacuous bounds and wrong questions -------------------------------------------------------------------


@pytest.mark.parametrize("huge", [1e30, 1e38])
def test_vacuous_bounds_give_zeros_and_never_nan(huge):
    """Layers that overflow: infinite bounds are no reason to prefer a cell."""
    features, head = lambda x: jax.nn.relu(x.reshape(len(x), -1) * huge), lambda a: (a * huge) @ jnp.eye(16, 3)
    f = lambda x: head(features(x[None])[0])
    options = dict(radius=0.5, grid=2)

    @jax.jit
    def run(x):
        return (
            eva(f, x, 0, **options), lipschitz_eva(features, head, x, 0, **options),
            eva_hybrid(features, head, x, 0, key=KEY, num_samples=4, **options),
            eva(lambda x: jnp.log(AFFINE(x.ravel()[:4]) - 100), x, 0, **options),
        )  # fmt: skip

    for got in run(IMAGE):
        np.testing.assert_array_equal(got, jnp.zeros((4, 4)))


def test_a_traced_label_that_is_no_class_is_nan_and_a_target_that_is_the_label_zero():
    run = jax.jit(lambda label: (eva(AFFINE, X, label, **HALVES()), eva(AFFINE, X, label, target=1, **HALVES())))
    assert all(np.isnan(got).all() for got in run(3))
    np.testing.assert_array_equal(run(1)[1], np.zeros((1, 4)))


@pytest.mark.parametrize(
    ("label", "options", "message"),
    [
        (3, {}, r"eva: label 3 is outside the 3 classes 0 … 2"),
        (-1, {}, r"eva: label -1 is outside"),
        (0, dict(target=0), r"eva: target is 0, expected other classes than the label, of 0 … 2"),
        (0, dict(target=(1, 3)), r"eva: target is \(1, 3\)"),
        (0, dict(target=()), r"eva: target is \(\)"),
        (0, dict(radius=-0.1), r"radius is -0.1, expected a finite number >= 0"),
        (0, dict(radius=np.inf), r"radius is inf"),
        (0, dict(grid=0), r"eva: grid is 0, expected at least one cell"),
        (0, dict(radius=np.ones((1, 1, 4, 1))), r"eva: radius has shape \(1, 1, 4, 1\)"),
    ],
)
def test_wrong_questions_are_answered_in_one_sentence(label, options, message):
    with pytest.raises(ValueError, match=message):
        eva(AFFINE, X, label, **(dict(radius=0.5, grid=(1, 2)) | options))


def test_wrong_questions_about_halves():
    features, head = lambda x: x.reshape(len(x), -1), lambda a: W @ a
    with pytest.raises(ValueError, match="lipschitz_eva: lipschitz has shape"):
        lipschitz_eva(features, head, X, 0, radius=0.5, lipschitz=jnp.ones(2))
    with pytest.raises(ValueError, match="has no Lipschitz constant that is known everywhere"):
        lipschitz_eva(features, lambda a: W @ a**2, X, 0, radius=0.5)
    with pytest.raises(ValueError, match="eva_hybrid: num_samples is 2, expected at least 3"):
        eva_hybrid(features, head, X, 0, key=KEY, radius=0.5, num_samples=2)
    with pytest.raises(ValueError, match="eva_hybrid: label 5 is outside the 3 classes"):
        eva_hybrid(features, head, X, 5, key=KEY, radius=0.5)


# --- what the command line says of vacuous bounds ---------------------------------------------------------


def test_vacuous_maps_are_refused():
    """The slope of the margin of TinyNet is the measure: maps far beyond, or far below it, say nothing."""
    images, labels = np.ones((2, 8, 8, 3), np.float32) / 2, np.array([0, 1])
    check = partial(check_bounds, radius=0.01, model=TinyNet(0), images=images, labels=labels, key=KEY)
    check(np.full((2, 8, 8), 0.01))
    with pytest.raises(ValueError, match="its bounds are vacuous on this network: they make one region worth 1e"):
        check(np.full((2, 8, 8), 1e10))
    with pytest.raises(ValueError, match="its bounds are vacuous on this network: they are the same whatever is fixed"):
        check(np.zeros((2, 8, 8)))


def test_tight_bounds_are_not_refused():
    images, labels = np.asarray(jax.random.uniform(KEY, (2, 8, 8, 3))), np.array([0, 1])
    model = TinyReluNet(0)
    maps = jax.jit(jax.vmap(lambda x, label: eva(logits(model), x, label, radius=0.01, grid=2)))(images, labels)
    assert check_bounds(np.asarray(maps), 0.01, model, images, labels, key=KEY) is None


def test_a_leaderboard_says_that_bounds_are_vacuous():
    """By name: a small network has its row, one of terms that cancel a note instead."""
    images, labels = np.asarray(jax.random.uniform(KEY, (2, 8, 8, 3))), np.array([0, 1])
    measured = partial(evaluate, ["eva"], ["gini"], images=images, labels=labels, key=KEY, smoke=True)
    assert np.isfinite(measured(model=TinyReluNet(0)).cells["eva", "gini"].values).all()
    # The identity of two pixels, with terms that cancel: intervals do not know that they do.
    nothing = lambda x: 1e6 * jax.nn.relu(x) - 5e5 * jax.nn.relu(2 * x)
    flat = lambda x: x.reshape(len(x), -1)[:, :2]
    with pytest.warns(UserWarning, match="eva was left out: its bounds are vacuous on this network: they make one"):
        table = measured(model=lambda x: nothing(flat(x)) + flat(x))
    assert not table.cells
