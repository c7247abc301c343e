"""The harmonizer: published numbers of its loss, what it does not see, closed forms, and gradients of gradients."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sparks_jax.alignment import (
    cosine_loss,
    cross_entropy_loss,
    explanations,
    gaussian_pyramid,
    harmonizer_loss,
    harmonizer_loss_as_written,
    logits_and_saliency,
    over_batch,
    over_maps,
    standardize_and_cut,
)
from sparks_jax.attribution import gradient, integrated_gradients, smoothgrad
from sparks_jax.images import heatmap
from sparks_jax.models.conv import Conv
from tests.tiny import TinyNet

EPS = 2.0**-23
I, J = np.meshgrid(np.arange(32.0), np.arange(32.0), indexing="ij")
SALIENCY = jnp.float32(np.sin(I / 5) * np.cos(J / 7))[None]
PEOPLE = jnp.float32(np.exp(-((I - 16) ** 2 + (J - 16) ** 2) / 50))[None]
ALL = [harmonizer_loss, harmonizer_loss_as_written, cosine_loss, cross_entropy_loss]
each_loss = pytest.mark.parametrize("loss", ALL, ids=lambda f: f.__name__)
ONE = np.ones(1)
COMPILED = {f: jax.jit(f, static_argnames=("num_levels", "average")[f in ALL[2:] :]) for f in ALL}
SLOPES = {f: jax.jit(jax.value_and_grad(partial(f, average=over_maps))) for f in ALL}
loss_of = COMPILED[harmonizer_loss]


def reference(saliency, people, num_levels):
    """The definition of one image, in float64, by loops: the value at each scale."""

    def cut(a):
        return np.maximum((a - a.mean()) / (a.std() + 1e-5), 0)

    def halved(a):
        n = len(a)
        half = -(-n // 2)
        before = (2 * (half - 1) + 5 - n) // 2
        a = np.pad(a, (before, 5))
        taps = np.outer([1, 4, 6, 4, 1], [1, 4, 6, 4, 1]) / 256
        return np.array(
            [[(a[2 * i : 2 * i + 5, 2 * j : 2 * j + 5] * taps).sum() for j in range(half)] for i in range(half)]
        )

    ours, theirs = cut(np.float64(saliency)), cut(np.float64(people))
    theirs = theirs / (theirs.max() + 1e-6) * (ours.max() + 1e-6)
    values = []
    for _ in range(num_levels):
        values.append(np.square(ours - theirs).mean())
        ours, theirs = halved(ours), halved(theirs)
    return values


# --- published numbers ---


def test_the_toy_value():
    """Seven digits were published; means of squares of numbers below 4, of 1024 pixels, err by less than 100 EPS."""
    levels = [0.5940547, 0.5281277, 0.3648893, 0.1171349, 0.0150732, 0.0021945]
    np.testing.assert_allclose(reference(SALIENCY[0], PEOPLE[0], 6), levels, atol=6e-8)
    np.testing.assert_allclose(loss_of(SALIENCY, PEOPLE, ONE), 0.3238559, atol=6e-8 + 100 * EPS)
    np.testing.assert_allclose(loss_of(SALIENCY, PEOPLE, ONE, num_levels=6), np.mean(levels), atol=6e-8 + 100 * EPS)


def test_the_pyramid_darkens_borders_as_same_padding_does():
    """Before an even side one zero, after it two: 15/16 and 11/16 of the filter remain."""
    level = gaussian_pyramid(jnp.ones((1, 8, 8)), 2)[1][0]
    np.testing.assert_allclose([level[0, 0], level[0, 3], level[3, 3]], [0.878906, 0.644531, 0.472656], atol=5e-7)
    np.testing.assert_array_equal(level[1:3, 1:3], 1)
    sides = [level.shape[1:] for level in gaussian_pyramid(jnp.ones((1, 224, 7)), 6)]
    assert sides == [(224, 7), (112, 4), (56, 2), (28, 1), (14, 1), (7, 1)]


@pytest.mark.parametrize("side", [5, 6])
def test_the_loss_is_its_definition_at_odd_and_even_sides(side):
    a, b = np.random.default_rng(side).normal(size=(2, 1, side, side)).astype(np.float32)
    np.testing.assert_allclose(loss_of(a, b, ONE, num_levels=3), np.mean(reference(a[0], b[0], 3)), rtol=100 * EPS)


# --- what the loss does not see ---


@each_loss
def test_an_affine_human_map_is_the_same(loss):
    """7 h + 3 changes the deviation's epsilon only: 1e-5 / std(h) (1 - 1/7), less than 1e-4 of it, here squared."""
    wanted = COMPILED[loss](SALIENCY, PEOPLE, ONE)
    tolerance = 1e-6 if loss is harmonizer_loss else 2e-4  # which rescales, so that 1e-6 / max is left
    np.testing.assert_allclose(COMPILED[loss](SALIENCY, 7 * PEOPLE + 3, ONE), wanted, rtol=tolerance + 200 * EPS)


def test_the_scale_of_a_saliency_hardly_matters():
    """Through the epsilon 1e-5 of the deviation 0.5 only: 2e-5 twice over, of which 8/9 remain."""
    np.testing.assert_allclose(loss_of(9 * SALIENCY, PEOPLE, ONE), 0.323867, atol=5e-7 + 100 * EPS)


def test_a_mean_over_channels_does_not_see_hue_and_a_norm_does():
    """Where a network reads red against green and nothing else, the mean of its gradient is 0, but the norm is not:

    16 of 1024 pixels, more than one deviation off, at the finest of five scales alone.
    """
    hue = jnp.zeros((1, 32, 32, 3)).at[0, 2:6, 2:6].set(jnp.array([1.0, -1.0, 0.0]))
    model = lambda x: jnp.stack([(x * (PEOPLE[..., None] + sign * hue)).sum((1, 2, 3)) for sign in (0, 1)], -1)
    maps = [logits_and_saliency(model, jnp.ones((1, 32, 32, 3)), np.array([label]))[1] for label in (0, 1)]
    blind, seeing = ([loss_of(see(m), PEOPLE, ONE) for m in maps] for see in (lambda m: m.mean(-1), jax.vmap(heatmap)))
    np.testing.assert_allclose(blind, 0, atol=100 * EPS)
    np.testing.assert_allclose(seeing[0], 0, atol=100 * EPS)
    assert seeing[1] > 16 / 1024 / 5


@pytest.mark.parametrize("loss", [harmonizer_loss, harmonizer_loss_as_written, cosine_loss], ids=lambda f: f.__name__)
def test_equal_maps_have_no_loss(loss):
    """Rescaled by a factor (m + 1e-6) / (m + 1e-6): rounding alone, of squares of some 4."""
    np.testing.assert_allclose(COMPILED[loss](SALIENCY, SALIENCY, ONE), 0, atol=100 * EPS)


@each_loss
def test_images_without_a_map(loss):
    """They cost nothing, have no gradient, and may hold anything."""
    batch, flags = jnp.concatenate([SALIENCY, SALIENCY[:, ::-1]]), np.array([True, False])
    people = jnp.concatenate([PEOPLE, np.full_like(PEOPLE, np.nan)])
    value, slope = SLOPES[loss](batch, people, flags)
    np.testing.assert_allclose(value, COMPILED[loss](SALIENCY, PEOPLE, ONE), rtol=10 * EPS)
    assert jnp.abs(slope[0]).max() > 0
    np.testing.assert_array_equal(slope[1], 0)
    for average in (over_batch, over_maps):
        assert COMPILED[loss](batch, people, np.zeros(2), average=average) == 0


def test_the_mean_is_over_the_batch_or_over_the_maps():
    batch, people = np.repeat(SALIENCY, 4, 0), np.repeat(PEOPLE, 4, 0)
    one = loss_of(SALIENCY, PEOPLE, ONE)
    flags = np.array([1, 0, 0, 0])
    np.testing.assert_allclose(loss_of(batch, people, flags), one / 4, rtol=4 * EPS)
    np.testing.assert_allclose(loss_of(batch, people, flags, average=over_maps), one, rtol=4 * EPS)


@each_loss
def test_constant_maps_have_finite_gradients(loss):
    flat = jnp.zeros_like(SALIENCY)
    for ours, theirs in ((flat, PEOPLE), (SALIENCY, flat), (flat, flat)):
        value, slope = SLOPES[loss](ours, theirs, ONE == 1)
        assert jnp.isfinite(value)
        assert jnp.isfinite(slope).all()
    np.testing.assert_array_equal(standardize_and_cut(flat), 0)


def test_no_gradient_flows_through_the_rescaling():
    """Pixel p is the highest. The definition with that maximum held at its value has the same gradient."""
    highest = standardize_and_cut(SALIENCY).max()

    @jax.jit
    @jax.grad
    def held(saliency):
        theirs = standardize_and_cut(PEOPLE)
        theirs = theirs / (theirs.max() + 1e-6) * (highest + 1e-6)
        return jnp.square(standardize_and_cut(saliency) - theirs).mean()

    wanted = held(SALIENCY)
    got = jax.jit(jax.grad(partial(harmonizer_loss, num_levels=1)))(SALIENCY, PEOPLE, ONE)
    np.testing.assert_allclose(got, wanted, atol=100 * EPS * np.abs(wanted).max())


# --- logits and map of a network ---


def test_a_linear_model_in_closed_form(key):
    """The saliency of W x is W[y], whatever the image; so is the gradient of the loss, through W[y] alone."""
    w = jax.random.normal(key, (3, 32, 32, 2))
    images, labels, people = jnp.ones((2, 32, 32, 2)), jnp.array([2, 0]), np.repeat(PEOPLE, 2, 0)
    flags = jnp.ones(2)

    def through(w):
        logits, saliency = logits_and_saliency(lambda x: jnp.einsum("bhwc,mhwc->bm", x, w), images, labels)
        return harmonizer_loss(saliency.mean(-1), people, flags), logits

    (value, logits), slope = jax.jit(jax.value_and_grad(through, has_aux=True))(w)
    direct = lambda w: harmonizer_loss(w[labels].mean(-1), people, flags)
    wanted, wanted_slope = jax.jit(jax.value_and_grad(direct))(w)
    np.testing.assert_allclose(logits[0], w.sum((1, 2, 3)), atol=2048 * EPS * 4)
    np.testing.assert_allclose(value, wanted, rtol=10 * EPS)
    np.testing.assert_allclose(slope, wanted_slope, atol=10 * EPS * jnp.abs(wanted_slope).max())
    np.testing.assert_array_equal(slope[1], 0)


class Smooth(nnx.Module):
    """A small convolutional network without kinks, so that differences of its loss have a meaning."""

    def __init__(self):
        rngs = nnx.Rngs(0)
        self.first, self.second = (Conv(c, d, size=3, stride=2, rngs=rngs) for c, d in ((3, 4), (4, 5)))
        self.last = nnx.Linear(5, 3, rngs=rngs)

    def __call__(self, x):
        x = jnp.tanh(self.second(jnp.tanh(self.first(x))))
        return self.last(x.mean((1, 2)))


X = jax.random.uniform(jax.random.key(1), (3, 12, 12, 3))
Y = jnp.array([0, 2, 1])
H = jax.random.uniform(jax.random.key(2), (3, 12, 12))
T = jnp.array([1, 0, 1])


def objective(model, x, *, loss=harmonizer_loss, remat=False):
    """What a harmonizer minimises, on saliencies that are large beside the epsilon of their deviation."""
    logits, saliency = logits_and_saliency(model, x, Y, remat=remat)
    return loss(100 * saliency.mean(-1), H, T, num_levels=3) + jnp.square(logits).mean()


def test_the_gradient_of_the_gradient_is_the_slope_in_the_weights():
    """Along a direction of the weights, by central differences in float64: their error is h² and EPS64 / h.

    By the loss as written, which stops no gradient.
    """
    with jax.enable_x64(True):
        to64 = lambda tree: jax.tree.map(lambda a: jnp.asarray(np.asarray(a), jnp.float64), tree)
        graph, params = nnx.split(Smooth())
        params, x = to64(params), to64(X)
        keys = jax.random.split(jax.random.key(3), len(jax.tree.leaves(params)))
        along = jax.tree.unflatten(
            jax.tree.structure(params),
            [jax.random.normal(k, p.shape, p.dtype) for k, p in zip(keys, jax.tree.leaves(params), strict=True)],
        )
        model = lambda t: nnx.merge(graph, jax.tree.map(lambda p, d: p + t * d, params, along))
        value = jax.jit(lambda t: objective(model(t), x, loss=harmonizer_loss_as_written))
        slope = jax.jit(jax.grad(value))(0.0)
        h = 1e-5
        np.testing.assert_allclose((value(h) - value(-h)) / (2 * h), slope, rtol=1e-5)


def test_remat_changes_nothing():
    graph, params = nnx.split(Smooth())
    run = lambda remat: jax.jit(jax.value_and_grad(lambda p: objective(nnx.merge(graph, p), X, remat=remat)))
    kept, computed_again = (jax.tree.leaves(run(remat)(params)) for remat in (False, True))
    for got, wanted in zip(computed_again, kept, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6 * np.abs(wanted).max())


def test_images_do_not_meet():
    model = TinyNet(seed=0)
    x = jax.random.uniform(jax.random.key(1), (3, 8, 8, 3))
    labels = jnp.array([1, 0, 2])
    logits, saliency = jax.jit(logits_and_saliency)(model, x, labels)
    np.testing.assert_allclose(logits, model(x), atol=1e-6)
    alone = jax.jit(lambda model: explanations(gradient, model, x, labels))(model)
    np.testing.assert_allclose(saliency, alone, atol=1e-6)


def test_what_else_the_model_returns():
    model = lambda x: (x.sum((1, 2)), x.mean())
    *_, rest = logits_and_saliency(model, jnp.ones((2, 4, 4, 3)), Y[:2], has_aux=True)
    assert rest == 1


METHODS = {
    "gradient": gradient,
    "integrated_gradients": partial(integrated_gradients, num_steps=3),
    "smoothgrad": partial(smoothgrad, key=jax.random.key(0), sigma=0.1, num_samples=3),
}


@pytest.mark.parametrize("name", METHODS)
def test_any_gradient_method_can_be_trained(name):
    """One step of size t along the gradient lowers the loss, by t |gradient|² to first order."""
    graph, params = nnx.split(Smooth())

    def loss(params):
        maps = explanations(METHODS[name], nnx.merge(graph, params), X, Y)
        return cosine_loss(100 * maps.mean(-1), H, T)

    loss = jax.jit(jax.value_and_grad(loss))
    before, slope = loss(params)
    norm = sum(jnp.square(g).sum() for g in jax.tree.leaves(slope))
    assert norm > 0
    after, _ = loss(jax.tree.map(lambda p, g: p - 1e-3 / norm * g, params, slope))
    assert 0.5e-3 < before - after < 1.5e-3


def test_a_map_of_zeros_is_held():
    """Beside the epsilon of the deviation a small map has a small loss, as the human map is rescaled to it: a trap."""
    values = [loss_of(scale * SALIENCY, PEOPLE, ONE) for scale in (1.0, 1e-4, 1e-6, 0.0)]
    assert values == sorted(values, reverse=True)
    assert values[2] < values[0] / 100
    assert values[3] < 1e-12  # the square of the epsilon that the highest pixel has


def test_the_benchmark_runs(capsys):
    from experiments.benchmarks.harmonizer import Config, main

    table = main(Config(smoke=True))
    assert table["harmonizer"]["bare"] == table["harmonizer"]["ms"] / table["bare"]["ms"] > 0
    assert "jax" in capsys.readouterr().out


def test_eight_devices_agree():
    """Tokens and maps are spread with their images; the mean is over the whole batch."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    a, b = jax.random.normal(jax.random.key(0), (2, 8, 12, 12))
    flags = jnp.arange(8) % 3 == 0
    spread = [jax.device_put(v, rows) for v in (a, b, flags)]
    np.testing.assert_allclose(loss_of(*spread), loss_of(a, b, flags), rtol=1e-6)


# --- bad input ---


@each_loss
def test_bad_input(loss):
    name = loss.__name__
    with pytest.raises(ValueError, match=rf"{name}: saliencies has shape \(1, 2, 2, 3\), .* average channels"):
        loss(jnp.ones((1, 2, 2, 3)), jnp.ones((1, 2, 2)), ONE)
    with pytest.raises(ValueError, match=rf"{name}: human_maps has shape \(1, 3, 2\), expected .* \(1, 2, 2\)"):
        loss(jnp.ones((1, 2, 2)), jnp.ones((1, 3, 2)), ONE)
    with pytest.raises(ValueError, match=rf"{name}: has_map has shape \(2,\), expected one flag for each"):
        loss(jnp.ones((1, 2, 2)), jnp.ones((1, 2, 2)), np.ones(2))


def test_bad_levels_and_labels():
    with pytest.raises(ValueError, match="num_levels is 0, expected at least 1"):
        harmonizer_loss(SALIENCY, PEOPLE, ONE, num_levels=0)
    model, images = lambda x: x.sum((1, 2)), jnp.ones((2, 4, 4, 3))
    with pytest.raises(ValueError, match="labels has 3, expected classes 0 to 2"):
        logits_and_saliency(model, images, np.array([0, 3]))
    with pytest.raises(ValueError, match=r"labels has shape \(3,\) for logits \(2, 3\)"):
        logits_and_saliency(model, images, Y)
    saliency = jax.jit(lambda y: logits_and_saliency(model, images, y)[1])(jnp.array([0, 3]))
    np.testing.assert_array_equal(jnp.isnan(saliency).any((1, 2, 3)), [False, True])
