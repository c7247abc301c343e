"""Scores against their formulas, and what they say of wrong questions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen

from sparks_jax import scores
from tests.tiny import NUM_CLASSES, TinyNet


def test_scores_are_their_formulas(network, image):
    z = np.asarray(network(image[None])[0], np.float64)
    softmax = np.exp(z) / np.exp(z).sum()
    for label in range(NUM_CLASSES):
        np.testing.assert_allclose(scores.logit(network, label)(image), z[label], rtol=1e-6)
        np.testing.assert_allclose(scores.probability(network, label)(image), softmax[label], rtol=1e-5)
        np.testing.assert_allclose(scores.log_prob(network, label)(image), np.log(softmax[label]), rtol=1e-5)
        best_other = np.delete(z, label).max()
        np.testing.assert_allclose(scores.margin(network, label)(image), z[label] - best_other, atol=1e-6)
        np.testing.assert_allclose(scores.margin(network, label, 0)(image), z[label] - z[0], atol=1e-6)


def test_scores_of_features(network, image):
    acts = np.asarray(network.features(image[None])[0])
    v = jnp.arange(6.0)
    np.testing.assert_allclose(scores.neuron(network.features, 2)(image), acts[..., 2].mean(), rtol=1e-5)
    np.testing.assert_allclose(scores.neuron(network.features, (1, 2, 3))(image), acts[1, 2, 3], rtol=1e-6)
    np.testing.assert_allclose(scores.direction(network.features, v)(image), (acts @ v).mean(), rtol=1e-5)


def test_a_score_crosses_jit_with_its_weights_traced(image):
    """Modules, methods of modules, Linen variables: new weights and labels, no new trace."""
    traces = []

    @jax.jit
    def evaluate(f, x):
        traces.append(1)
        return f(x)

    values = {evaluate(scores.logit(TinyNet(seed), label), image).item() for seed in (0, 1) for label in (0, 1)}
    assert (len(values), len(traces)) == (4, 1)
    acts = TinyNet(0).features(image[None])[0]
    values = {evaluate(scores.logit(TinyNet(seed).head, 1), acts).item() for seed in (0, 1)}
    assert (len(values), len(traces)) == (2, 2)
    net = linen.Dense(3)
    for seed in (0, 1):
        variables = net.init(jax.random.key(seed), jnp.ones((1, 4)))
        evaluate(scores.logit(jax.tree_util.Partial(net.apply, variables), 1), jnp.ones(4))
    assert len(traces) == 3


@pytest.mark.parametrize("label", [-1, NUM_CLASSES])
def test_a_label_outside_the_classes(network, image, label):
    """An error where it can be seen, NaN where it is traced: never another class."""
    with pytest.raises(ValueError, match=f"label {label} is outside the {NUM_CLASSES} classes 0 … {NUM_CLASSES - 1}"):
        scores.logit(network, label)(image)
    assert jnp.isnan(jax.jit(lambda y: scores.logit(network, y)(image))(label))


def test_a_model_that_does_not_return_rows(image):
    with pytest.raises(ValueError, match=r"returned shape \(1, 8, 8, 3\) .* expected \(1, classes\)"):
        scores.logit(lambda x: x, 0)(image)
    with pytest.raises(TypeError, match="expected a model, a function from a batch .* got int"):
        scores.as_pytree(3)


def test_wrong_units(network, image):
    with pytest.raises(ValueError, match=r"label 6 is outside the 6 classes"):
        scores.neuron(network.features, 6)(image)
    with pytest.raises(ValueError, match=r"neuron index \(1, 2\) has 2 entries for activations of shape \(4, 4, 6\)"):
        scores.neuron(network.features, (1, 2))(image)
    with pytest.raises(ValueError, match=r"direction has 3 entries for activations of shape \(4, 4, 6\)"):
        scores.direction(network.features, jnp.ones(3))(image)


def test_segmentation_is_the_mean_over_the_zone(image):
    zone = jnp.zeros((8, 8, 3)).at[2:4, 5:, 1].set(1.0)
    np.testing.assert_allclose(scores.segmentation(lambda x: x, zone)(image), image[2:4, 5:, 1].mean(), rtol=1e-6)
    contrast = zone - jnp.roll(zone, 1, axis=-1)
    expected = (image[2:4, 5:, 1] - image[2:4, 5:, 2]).mean() / 2
    np.testing.assert_allclose(scores.segmentation(lambda x: x, contrast)(image), expected, rtol=1e-5)
    with pytest.raises(ValueError, match=r"zone has shape \(4, 4, 3\) for an output of shape \(8, 8, 3\)"):
        scores.segmentation(lambda x: x, jnp.ones((4, 4, 3)))(image)


BOXES = jnp.array(
    [
        [0.0, 0.0, 2.0, 2.0, 0.5, 1.0, 0.0],  # the box asked for, half sure
        [1.0, 0.0, 3.0, 2.0, 0.9, 1.0, 1.0],  # overlap 2 / 6, class at 45 degrees
        [0.0, 0.0, 2.0, 2.0, 1.0, 0.0, 1.0],  # the right place, the other class
        [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0],  # padding
    ]
)


def test_detection_is_the_best_match():
    asked = BOXES[0].at[4].set(1.0)
    f = scores.detection(lambda x: x, asked)
    np.testing.assert_allclose(f(BOXES), 0.5, rtol=1e-6)
    np.testing.assert_allclose(f(BOXES.at[0, 4].set(0.0)), 0.9 / 3 / 2**0.5, rtol=1e-6)
    # Two boxes and one of padding: the mean of 0.5 and of the second class's best, 1.0.
    several = jnp.stack([asked, BOXES[2], BOXES[3]])
    np.testing.assert_allclose(scores.detection(lambda x: x, several)(BOXES), 0.75, rtol=1e-6)


def test_detection_has_finite_gradients_even_on_padding():
    f = scores.detection(lambda x: x, BOXES[0])
    assert jnp.isfinite(jax.grad(f)(BOXES)).all()
    assert jnp.isfinite(jax.grad(f)(0 * BOXES)).all()
    assert f(0 * BOXES) == 0
    with pytest.raises(ValueError, match=r"box has shape \(5,\) for predictions of shape \(4, 7\)"):
        scores.detection(lambda x: x, BOXES[0, :5])(BOXES)
