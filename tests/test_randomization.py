"""Sanity checks against maps whose answer is known: of the image alone, of the weights themselves."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sparks_jax.metrics import (
    bottom_up,
    layer_names,
    matched_normal,
    model_randomization,
    one_by_one,
    random_logit,
    top_down,
)

# --- another class ---


def test_the_other_class_is_uniform_among_the_others():
    """4000 draws of 4 classes: counts within five standard deviations of 1000, and never the class itself."""
    drawn = jax.vmap(
        lambda k: random_logit(lambda c: c, 2, key=k, num_classes=5, similarity=lambda a, b: b.astype(float))
    )(jax.random.split(jax.random.key(0), 4000))
    counts = np.bincount(np.asarray(drawn).astype(int), minlength=5)
    assert counts[2] == 0
    np.testing.assert_allclose(np.delete(counts, 2), 1000, atol=5 * (4000 * 3 / 16) ** 0.5)


def test_other_class_of_a_network(image):
    """Two classes leave no choice, which makes the similarity symmetric; one compilation for images and labels."""
    weights = jax.random.normal(jax.random.key(4), (2, 8, 8))
    run = lambda x, c: random_logit(lambda c: x * weights[c], c, key=jax.random.key(0), num_classes=2)
    got = jax.jit(jax.vmap(run))(jnp.stack([image[..., 0]] * 2 + [0 * image[..., 0]]), jnp.array([0, 1, 1]))
    assert abs(got[0]) < 1
    np.testing.assert_allclose(got[0], got[1], atol=1e-5)
    assert got[2] == 1  # maps that are all alike


def test_one_class_has_no_other(key):
    with pytest.raises(ValueError, match="num_classes is 1, expected 2 or more"):
        random_logit(lambda c: jnp.ones((2, 2)), 0, key=key, num_classes=1)


# --- other weights ---


class Backwards(nnx.Module):
    """Layers whose names are in the opposite order of their use, with a normalisation, a loop, and a spare layer."""

    def __init__(self):
        rngs = nnx.Rngs(0)
        self.z = nnx.Linear(3, 4, rngs=rngs)
        self.y = nnx.BatchNorm(4, use_running_average=True, rngs=rngs)
        self.spare = nnx.Linear(4, 4, rngs=rngs)
        self.drop = nnx.Dropout(0.0, rngs=rngs)
        self.b = nnx.Linear(4, 4, use_bias=False, rngs=rngs)
        self.a = nnx.Linear(4, 2, rngs=rngs)

    def __call__(self, x):
        x = jnp.tanh(self.y(self.z(x)))
        kernel = self.b.kernel[...] / jnp.linalg.norm(self.b.kernel[...])  # normalised first, used later
        x, _ = jax.lax.scan(lambda x, _: (jnp.tanh(x @ kernel), None), x, length=2)
        return self.a(x)


DEPTH = ("z", "y", "b", "a")


@pytest.mark.parametrize("jitted", [False, True])
def test_layers_are_in_the_order_of_their_use(jitted):
    """Also through a gradient, compiled functions, and when the module is rebuilt, which sorts its attributes."""
    model, x = jax.jit(Backwards)() if jitted else Backwards(), jnp.ones((1, 3))
    wrap = jax.jit if jitted else lambda f: f
    assert layer_names(wrap(lambda m: m(x)), model) == DEPTH
    assert layer_names(wrap(lambda m: jax.grad(lambda x: m(x)[0, 0])(x)), model) == DEPTH
    assert layer_names(wrap(lambda m: jax.lax.map(m, jnp.stack([x, x]))), model) == DEPTH


def test_a_model_that_is_not_used_has_all_its_layers():
    assert layer_names(lambda m: jnp.ones(2), Backwards()) == ("a", "b", "spare", "y", "z")
    with pytest.raises(ValueError, match="dict has no floating-point arrays"):
        layer_names(lambda m: jnp.ones(2), {"step": jnp.ones(2, int)})


def stages_seen(cascade):
    """The layers that a stage has drawn again, as the bits of a number: kernels of ones, each seen as it is."""
    model, x = {name: {"kernel": jnp.ones((2, 2))} for name in "zyx"}, jnp.ones(2)
    explain_model = lambda m: jnp.append(
        (x @ m["z"]["kernel"] @ m["y"]["kernel"] @ m["x"]["kernel"])[:1],
        jnp.stack([m[name]["kernel"][0, 0] for name in "zyx"]),
    )
    drawn = lambda a, b: (a[1:] != b[1:]).astype(jnp.float32) @ jnp.array([1.0, 2.0, 4.0])
    run = partial(model_randomization, explain_model, key=jax.random.key(0), cascade=cascade, similarity=drawn)
    return [f"{int(s):03b}"[::-1] for s in jax.jit(run)(model).similarities]


def test_cascades():
    assert stages_seen(top_down) == ["001", "011", "111"]
    assert stages_seen(bottom_up) == ["100", "110", "111"]
    assert stages_seen(one_by_one) == ["100", "010", "001"]


def test_coarser_layers_and_another_way_to_draw(key):
    model = {name: {"kernel": jnp.ones((2, 2))} for name in "ab"}
    got = model_randomization(
        lambda m: m["a"]["kernel"] - m["b"]["kernel"], model, key=key, layer_of=lambda name: "whole",
        reinitialize=lambda key, name, leaf: leaf + ord(name[0]), similarity=lambda a, b: (b - a).sum(),
    )  # fmt: skip
    np.testing.assert_array_equal(got.similarities, [4 * (ord("a") - ord("b"))])


def test_parameters_are_drawn_at_their_scale(key):
    """A kernel of 10⁴ entries has its root mean square to five standard errors; vectors become the identity's."""
    old = jnp.asarray(np.random.default_rng(0).normal(3, 4, (100, 100)), jnp.float32)
    new = matched_normal(key, "layer.kernel", old)
    np.testing.assert_allclose(jnp.sqrt((new**2).mean()), jnp.sqrt((old**2).mean()), rtol=5 / (2 * 10**4) ** 0.5)
    assert abs(new.mean()) < 5 * 5 / 100
    vector = jnp.arange(1.0, 9.0)
    for name, value in dict(bias=0, mean=0, scale=1, var=1).items():
        np.testing.assert_array_equal(matched_normal(key, f"norm.{name}", vector), value)
    shuffled = matched_normal(key, "layer.gamma", vector)
    assert (shuffled != vector).any()
    np.testing.assert_array_equal(np.sort(shuffled), vector)
    for kept in (jnp.arange(3), jnp.float32(2.0), key):
        assert matched_normal(key, "layer.scale", kept) is kept


def test_maps_of_the_image_and_maps_of_the_weights(key):
    """The gradient of a linear model is its kernel: rank correlation 0 with another, five times 1 / √n."""
    x = jnp.arange(400.0)
    gradient = lambda m: jax.grad(lambda x: (x @ m["last"]["kernel"])[0])(x)

    def run(model, share):
        return model_randomization(lambda m: share * gradient(m) + (1 - share) * x, model, key=key)

    kernel = jnp.asarray(np.random.default_rng(0).normal(size=(400, 1)), jnp.float32)
    run = jax.jit(run)
    of_weights, of_image = (run({"last": {"kernel": kernel}}, share) for share in (1.0, 0.0))
    assert of_weights.similarities.shape == (1,)
    assert abs(of_weights.value) < 5 / 20
    assert of_image.value == of_image.similarities[0] == 1


def test_randomization_of_a_module(key):
    """Under jit and vmap, running statistics drawn too."""
    cosine = lambda a, b: (a * b).sum() / jnp.sqrt((a * a).sum() * (b * b).sum())

    def run(model, x):
        explain_model = lambda m: jax.grad(lambda x: m(x)[0, 0])(x)
        return model_randomization(explain_model, model, key=key, similarity=cosine).similarities

    model, images = Backwards(), jnp.asarray(np.random.default_rng(0).normal(size=(2, 1, 3)), jnp.float32)
    got = jax.jit(jax.vmap(run, (None, 0)))(model, images)
    assert got.shape == (2, 4)
    assert (got < 0.999).all()
    np.testing.assert_allclose(jax.jit(run)(model, images[0]), got[0], atol=1e-5)
