"""Where concepts are: known receptive fields, zeros where one is not, gradients through the encoder, any method."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from sparks_jax import attribution, concepts, images, scores, sensitivity
from sparks_jax.concepts import Dictionary, concept_maps

PATCH = 4


def patch_means(x):
    """A linear network: the mean colour of each patch."""
    b, h, w, c = x.shape
    return x.reshape(b, h // PATCH, PATCH, w // PATCH, PATCH, c).mean((2, 4))


COLOURS = Dictionary(jnp.eye(3), jnp.zeros(3), jnp.ones(()), Partial(concepts.nonnegative))
# Red in one patch, green in another and less of it; no blue, and less than none everywhere else.
X = jnp.full((8, 12, 3), -0.5).at[0:4, 4:8, 0].set(1.0).at[4:8, 8:12, 1].set(0.5)
RED, GREEN = jnp.zeros((8, 12)).at[0:4, 4:8].set(1.0), jnp.zeros((8, 12)).at[4:8, 8:12].set(1.0)


def test_maps_are_receptive_fields():
    """Codes are mean colours; the gradient of the mean code is 1 / (pixels of a patch · patches) where it is not 0."""
    codes, slopes = jax.jit(
        lambda x: [
            concept_maps(patch_means, COLOURS, x, resize=images.nearest),
            concept_maps(patch_means, COLOURS, x, how="gradient"),
        ]
    )(X)
    np.testing.assert_allclose(codes, [RED, 0.5 * GREEN, 0 * RED], rtol=1e-6)
    np.testing.assert_allclose(slopes, [RED / (16 * 6), GREEN / (16 * 6), 0 * RED], rtol=1e-5)
    assert (codes[2] == 0).all()
    assert (slopes[2] == 0).all()


def test_contributions_at_an_earlier_layer():
    """Of mean colours weighted by how much of them there is; Grad-CAM's rule forgets the place of the gradient."""
    options = dict(how="gradient", at=(patch_means, lambda acts: 2 * acts), resize=images.nearest)
    run = partial(concept_maps, patch_means, COLOURS, **options)
    found, cam, largest = jax.jit(lambda x: [run(x), run(x, reduce=concepts.channel_means), run(x, pool=jnp.max)])(X)
    np.testing.assert_allclose(found, [2 * RED / 6, 0.5 * 2 * GREEN / 6, 0 * RED], rtol=1e-5)
    np.testing.assert_allclose(cam[:2], [2 * RED / 36, 0.5 * 2 * GREEN / 36], rtol=1e-5)
    np.testing.assert_allclose(largest[0], 2 * RED, rtol=1e-5)


def test_the_gradient_is_that_of_the_score(key):
    """Oblique atoms under a network that bends: maps are norms of `jax.grad` of `scores.concept`, and that is right.

    Against central differences in double precision.
    """
    with jax.enable_x64(True):
        atoms = jax.random.uniform(key, (4, 5), jnp.float64)
        words = Dictionary(atoms, jnp.zeros(5), jnp.ones(()), Partial(concepts.nonnegative))
        w = jax.random.normal(jax.random.key(1), (3, 5), jnp.float64)
        features = lambda x: jax.nn.softplus(patch_means(x) @ w)
        x = jax.random.normal(jax.random.key(2), (4, 8, 3), jnp.float64)
        k = jnp.arange(4)
        score = lambda x: jax.vmap(lambda k: scores.concept(features, words, k)(x))(k)
        jacobian, maps, forward = jax.jit(
            lambda x, v: (
                jax.jacrev(score)(x),
                concept_maps(features, words, x, how="gradient"),
                (score(x + 1e-6 * v) - score(x - 1e-6 * v)) / 2e-6,
            )
        )(x, jnp.ones_like(x))
        np.testing.assert_allclose(jacobian.sum((1, 2, 3)), forward, atol=1e-8)
        np.testing.assert_allclose(maps, jax.vmap(images.heatmap)(jacobian), rtol=1e-9, atol=1e-12)


def test_any_method_explains_the_score_of_a_concept(key):
    """One map each, as the method makes of `scores.concept`; a concept that is not there has none."""
    run = partial(concept_maps, patch_means, COLOURS)
    smooth = dict(how=sensitivity.smoothgrad, key=key, sigma=0.0, num_samples=2)
    hidden = dict(how=attribution.occlusion, patch=PATCH, stride=PATCH)
    maps, noisy = jax.jit(lambda x: [run(x, **hidden), run(x, **smooth)])(X)
    np.testing.assert_allclose(maps[0], RED / 6, rtol=1e-5)  # nothing is left of a patch of 1 in 6
    np.testing.assert_allclose(maps[1], 0.5 * GREEN / 6, rtol=1e-5)
    assert (maps[2] == 0).all()
    np.testing.assert_allclose(noisy[0], RED / (16 * 6), rtol=1e-5)


def test_the_gradient_costs_one_backward_pass_for_each_concept():
    evaluations = sensitivity.count_evaluations(
        lambda f: concept_maps(lambda x: patch_means(x) + f(x), COLOURS, X, how="gradient")
    )
    assert evaluations == 1  # one forward pass for all


def test_concepts_at_once_share_what_a_method_evaluates():
    """Masks are the same whatever the score, and the features of what is seen through them are found once."""
    maps = lambda features, at_once: concept_maps(
        features, COLOURS, X, how=attribution.rise, at_once=at_once, key=jax.random.key(0), num_masks=8, grid=2
    )
    np.testing.assert_allclose(maps(patch_means, 1), maps(patch_means, 3), rtol=1e-6)
    of = lambda at_once: sensitivity.count_evaluations(lambda f: maps(lambda x: patch_means(x) + f(x), at_once))
    assert (of(1), of(3)) == (24, 8)


def test_the_score_of_a_concept():
    """Mean and maximum over positions; a pytree whose dictionary and number are traced."""
    of = lambda k, **options: scores.concept(patch_means, COLOURS, k, **options)(X)
    np.testing.assert_allclose([of(0), of(1), of(2)], [1 / 6, 0.5 / 6, 0], rtol=1e-6)
    assert of(1, pool=jnp.max) == 0.5
    scaled = COLOURS._replace(mean=jnp.array([0.25, 0, 0]), scale=COLOURS.scale / 4)
    traces = []

    @jax.jit
    def evaluate(f, x):
        traces.append(1)
        return f(x)

    values = [evaluate(scores.concept(patch_means, d, k), X) for d in (COLOURS, scaled) for k in (0, 1)]
    np.testing.assert_allclose(values, [1 / 6, 0.5 / 6, (1 - 0.25) / 0.25 / 6, 0.5 / 0.25 / 6], rtol=1e-6)
    assert len(traces) == 1
    assert jnp.isnan(jax.jit(of)(3))


def test_errors():
    with pytest.raises(ValueError, match="label 3 is outside the 3 concepts 0 … 2"):
        scores.concept(patch_means, COLOURS, 3)(X)
    with pytest.raises(ValueError, match=r"activations have shape \(2, 3, 2\), expected \(…, 3\)"):
        scores.concept(lambda x: patch_means(x)[..., :2], COLOURS, 0)(X)
    with pytest.raises(ValueError, match="how is 'sobol', expected 'coefficient', 'gradient' or a method"):
        concept_maps(patch_means, COLOURS, X, how="sobol")
    with pytest.raises(ValueError, match=r"coefficient_maps: features returned shape \(1, 96, 3\) .* give tokens"):
        concept_maps(lambda x: x.reshape(1, -1, 3), COLOURS, X)
    with pytest.raises(ValueError, match=r"concept_maps: x has shape \(1, 8, 12, 3\), expected one image"):
        concept_maps(patch_means, COLOURS, X[None])
