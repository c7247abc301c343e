"""Losses against numbers worked out elsewhere, and certificates against attacks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sparks_jax import lipschitz, models
from sparks_jax.lipschitz import losses

EPS = float(jnp.finfo(jnp.float32).eps)
BINARY = jnp.array([2.0, 0.2, -1.0, -0.1, 0.4]), jnp.array([1, 1, 0, 0, 0])
LOGITS = jnp.array([[1.0, -0.5, 0.2], [0.3, 0.8, -0.4], [-0.6, 0.1, 0.0], [0.9, 0.7, -1.2]])
LABELS = jnp.array([0, 1, 2, 1])
DIGITS = dict(atol=1e-6)  # as many as the reference has


# --- losses ---


def test_binary_losses():
    np.testing.assert_allclose(losses.kr(*BINARY).mean(), 1.333333, **DIGITS)
    np.testing.assert_allclose(losses.hinge(*BINARY).mean(), 0.32, **DIGITS)
    np.testing.assert_allclose(losses.hkr(*BINARY, alpha=10.0).mean(), 1.866667, **DIGITS)
    np.testing.assert_allclose(losses.hkr(*BINARY, alpha=10.0).mean() / 11, 0.169697, **DIGITS)
    np.testing.assert_allclose(losses.tau_cross_entropy(*BINARY, tau=2.0)[0], np.log1p(np.exp(-4.0)) / 2, **DIGITS)


def test_multiclass_losses():
    args = (LOGITS, LABELS)
    np.testing.assert_allclose(losses.kr(*args), [1.577778, 0.577778, 0.2, 0.6], **DIGITS)
    np.testing.assert_allclose(losses.kr(*args).mean(), 0.738889, **DIGITS)
    np.testing.assert_allclose(losses.hinge(*args), [0.233333, 0.3, 0.533333, 0.466667], **DIGITS)
    np.testing.assert_allclose(losses.hkr(*args, alpha=10.0).mean(), 3.094444, **DIGITS)
    for tau, value in ((1.0, 0.749892), (3.0, 0.190124), (100.0, 0.075)):
        np.testing.assert_allclose(losses.tau_cross_entropy(*args, tau=tau).mean(), value, **DIGITS)
    np.testing.assert_allclose(losses.categorical_hinge(*args).mean(), 0.75, **DIGITS)
    np.testing.assert_allclose(losses.multi_margin(*args).mean(), 0.283333, **DIGITS)
    np.testing.assert_allclose(losses.loss_xent(*args).mean(), 1.882805, **DIGITS)
    np.testing.assert_allclose(losses.lse_hkr(*args).mean(), 1.058385, **DIGITS)
    level = losses.running_level(1.0, LOGITS)
    np.testing.assert_allclose(losses.soft_hkr(*args, level=level).mean(), 0.747762, **DIGITS)


def test_lse_is_above_the_largest_by_at_most_the_penalty():
    """alpha 0, right 0: the loss is the bound of the largest wrong output."""
    logits = jnp.array([[0.0, 1.0, 1.0], [0.0, 3.0, -40.0]])
    bound = losses.lse_hkr(logits, jnp.zeros(2, int), alpha=0.0, margin=2.0, penalty=0.5)
    np.testing.assert_allclose(bound, [1.5, 3.0], atol=1e-6)


def test_losses_without_a_class_and_of_two_classes():
    f, ones = jnp.array([1.0, 3.0]), jnp.ones(2, int)
    assert losses.kr(f, ones).mean() == 2  # the mean of the class that is there
    assert jnp.isfinite(jax.grad(lambda f: losses.hkr(f, ones, alpha=1.0).mean())(f)).all()
    two = jnp.array([[0.5, -0.5], [0.2, 0.4]])
    for loss in (losses.lse_hkr, losses.soft_hkr, losses.kr, losses.multi_margin, losses.loss_xent):
        value, slope = jax.value_and_grad(lambda x: loss(x, jnp.array([0, 1])).mean())(two)
        assert jnp.isfinite(value)
        assert jnp.isfinite(slope).all()


def test_kr_laws():
    """Between N(0, 1) and N(2, 1) under f(x) = x it is 2; a constant and the order of images do not matter."""
    rng = np.random.default_rng(0)
    y = jnp.asarray(rng.integers(0, 2, 20_000))
    x = jnp.asarray(rng.normal(size=20_000) + 2 * np.asarray(y), jnp.float32)
    value = losses.kr(x, y).mean()
    assert abs(value - 2) < 5 * 2 / 20_000**0.5
    np.testing.assert_allclose(losses.kr(x + 10, y).mean(), value, atol=1e-4)
    np.testing.assert_allclose(losses.kr(x[::-1], y[::-1]).mean(), value, rtol=1e-4)


def test_counts_are_global():
    """The mean of shards is the mean of the whole, though no shard has all classes: by axis name, and by itself."""
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec("data")
    loss = lambda f, y: losses.hkr(f, y, alpha=3.0, axis_name="data")
    shards = jax.jit(jax.shard_map(loss, mesh=mesh, in_specs=(spec, spec), out_specs=spec))
    expected = losses.hkr(LOGITS, LABELS, alpha=3.0)
    np.testing.assert_allclose(shards(LOGITS, LABELS), expected, rtol=10 * EPS)
    place = lambda a: jax.device_put(a, jax.sharding.NamedSharding(mesh, spec))
    np.testing.assert_allclose(
        jax.jit(lambda f, y: losses.hkr(f, y, alpha=3.0))(place(LOGITS), place(LABELS)), expected, rtol=10 * EPS
    )
    explicit = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Explicit,))
    with jax.set_mesh(explicit):
        f, y = (jax.device_put(a, spec) for a in (LOGITS, LABELS))
        np.testing.assert_allclose(jax.jit(lambda f, y: losses.hkr(f, y, alpha=3.0))(f, y), expected, rtol=10 * EPS)


# --- radii ---


def test_radii_of_the_reference():
    """Margins .8 .5 -.1 -.2 over sqrt 2 and over 2; wrong ones have none."""
    joint = lipschitz.certified_radius(LOGITS, labels=LABELS)
    np.testing.assert_allclose(joint, [0.565685, 0.353553, 0, 0], atol=1e-6)
    disjoint = lipschitz.certified_radius(LOGITS, labels=LABELS, head="disjoint")
    np.testing.assert_allclose(disjoint, [0.4, 0.25, 0, 0], atol=1e-6)
    np.testing.assert_allclose(
        lipschitz.certified_radius(LOGITS, lipschitz=2.0, labels=LABELS), joint / 2, rtol=4 * EPS
    )
    np.testing.assert_allclose(lipschitz.certified_radius(LOGITS[:2]), joint[:2], rtol=4 * EPS)
    one = lipschitz.certified_radius(jnp.array([[0.5], [-0.25]]))
    np.testing.assert_allclose(one, [0.5, 0.25], rtol=4 * EPS)
    rows = jnp.array([[1.0, 0.0, 0.0], [0.0, 1.0, 1.0]])
    by_rows = lipschitz.certified_radius(jnp.array([[1.0, 0.0, 0.0], [0.0, 2.0, 1.0]]), head="rows", rows=rows)
    np.testing.assert_allclose(by_rows, [1 / 2**0.5, 2 / 2**0.5], rtol=4 * EPS)  # equal rows cannot change places
    with pytest.raises(ValueError, match="allowed are joint, disjoint"):
        lipschitz.certified_radius(LOGITS, head="rows")


def test_radius_of_a_hyperplane_is_exact():
    """f = <w, x> with |w| = 1: x - f(x) w is on the boundary, at the radius."""
    w = jnp.asarray(np.random.default_rng(0).normal(size=(4, 4, 1)), jnp.float32)
    w = w / jnp.linalg.norm(w)
    f = lambda x: (x * w).sum()
    x = jnp.ones((4, 4, 1))
    moved = lipschitz.counterfactual(f, x)
    radius = lipschitz.certified_radius(f(x)[None, None])[0]
    np.testing.assert_allclose(f(moved), 0, atol=20 * EPS)
    np.testing.assert_allclose(jnp.linalg.norm(moved - x), radius, rtol=20 * EPS)


def test_accuracy_at_the_usual_radii():
    radius = jnp.array([0.1, 0.15, 0.3, 0.5, 2.0])
    np.testing.assert_allclose(lipschitz.certified_accuracy(radius), [0.8, 0.6, 0.4, 0.2])
    right = jnp.array([True, True, True, False, True])
    np.testing.assert_allclose(lipschitz.certified_accuracy(radius, right, radii=(0.0, 1.0)), [0.8, 0.2])


# --- certificates ---


@pytest.fixture(scope="module")
def net():
    options = dict(side=4, widths=(4, 8), convs=1, hidden=16, inputs=1)
    return jax.jit(lambda: lipschitz.lipschitz_cifar(4, **options, rngs=nnx.Rngs(0)))()


def attacked(model, x, label, radius, *, key, restarts=8, steps=40):
    """The largest margin of another class that projected gradient ascent finds in the ball."""

    def margin(x):
        logits = model(x[None])[0]
        return jnp.where(jnp.arange(logits.size) == label, -jnp.inf, logits).max() - logits[label]

    def into_ball(d):
        return d * jnp.minimum(1, radius / jnp.maximum(jnp.linalg.norm(d), 1e-12))

    def climb(key):
        def step(d, _):
            g = jax.grad(margin)(x + d)
            return into_ball(d + 0.2 * radius * g / jnp.maximum(jnp.linalg.norm(g), 1e-12)), None

        start = into_ball(radius * jax.random.normal(key, x.shape))
        d, _ = jax.lax.scan(step, start, None, steps)
        return margin(x + d)

    return jax.vmap(climb)(jax.random.split(key, restarts)).max()


def test_no_attack_succeeds_inside_and_some_outside(net):
    """64 images, 8 restarts of 40 steps each: none in the certified ball; in one four times as large, some."""
    images = jax.random.uniform(jax.random.key(1), (64, 4, 4, 1))
    plain = jax.jit(lipschitz.fold)(net)
    attack = jax.jit(jax.vmap(lambda x, y, r, k: attacked(plain, x, y, r, key=k)))
    for head in ("joint", "disjoint", "rows"):
        found = jax.jit(lambda m, x, head=head: lipschitz.certify(m, x, head=head))(net, images)
        assert (found.radius > 0).all()
        assert found.lipschitz <= 1 + 1e-4
        label = found.logits.argmax(1)
        keys = jax.random.split(jax.random.key(2), 64)
        assert attack(images, label, found.radius, keys).max() <= 2 * EPS
        if head == "joint":
            assert attack(images, label, 4 * found.radius, keys).max() > 0


def test_certificates_count_the_scale_of_the_input(net):
    images = jax.random.uniform(jax.random.key(1), (8, 4, 4, 1))
    certify = jax.jit(lipschitz.certify, static_argnames="input_scale")
    standardised = (images - 0.5) / 0.25
    with pytest.raises(ValueError, match="give input_scale"):
        lipschitz.certify(net, standardised)
    by_hand = certify(net, standardised, input_scale=0.25)
    wrapped = models.Normalized(net, mean=(0.5,), std=(0.25,))
    by_itself = certify(wrapped, images)
    np.testing.assert_allclose(by_itself.radius, by_hand.radius, rtol=1e-5)
    np.testing.assert_allclose(by_hand.lipschitz, 4, rtol=1e-4)
    assert jax.jit(lambda m, x: lipschitz.certify(m, x, head="rows"))(wrapped, images).lipschitz > 3.9


def test_certificates_refuse_what_they_do_not_know(net):
    images = jnp.full((1, 4, 4, 1), 0.5)
    unknown = nnx.Sequential(lipschitz.Flatten(), nnx.LayerNorm(16, rngs=nnx.Rngs(0)))
    with pytest.raises(lipschitz.UnknownBound, match=r"layers\[1\].*LayerNorm"):
        lipschitz.certify(unknown, images)
    with pytest.raises(lipschitz.UnknownBound, match="needs a linear layer at the end"):
        lipschitz.certify(nnx.Sequential(lipschitz.Flatten(), lipschitz.GroupSort()), images, head="rows")
    free = nnx.Sequential(lipschitz.Flatten(), nnx.Linear(16, 2, rngs=nnx.Rngs(0)))
    largest = np.linalg.norm(np.asarray(free.layers[1].kernel[...], np.float64), 2)
    assert lipschitz.certify(free, images).lipschitz >= largest  # a free layer counts with its norm
