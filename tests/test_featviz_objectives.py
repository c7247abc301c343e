"""Objectives by hand: they add up, each weight to its own, and none is changed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from sparks_jax import featviz, scores
from sparks_jax.concepts import Dictionary, nonnegative
from sparks_jax.featviz import compose
from tests.tiny import TinyNet

EPS = float(jnp.finfo(jnp.float32).eps)
SAME = lambda batch: batch
ACTS = jnp.array([[[3.0, 4.0], [0.0, 2.0]], [[1.0, 0.0], [-1.0, 1.0]]])  # (2, 2) positions, 2 channels


def test_one_a_and_three_b_minus_five_c():
    """a = 2, b = 3, c = 7: 2 + 9 - 35 = -24 (multiplied in turn, the weights would give -15 (2 + 3) - 35)."""
    a, b, c = (scores.neuron(SAME, i) for i in range(3))
    x = jnp.array([[[2.0, 3.0, 7.0]]])
    whole = compose(a, b, c, weights=(1, 3, -5))
    assert whole(x) == -24
    assert [f(x).item() for f in (a, b, c)] == [2, 3, 7], "operands are unchanged"
    assert compose(a, b)(x) == 5
    nested = compose(compose(a, b, weights=(2, 1)), c, weights=(10, 1))
    assert nested(x) == 10 * (4 + 3) + 7
    grad = jax.grad(whole)(x)
    assert grad.ravel().tolist() == [1, 3, -5]


def test_plain_functions_are_objectives_too():
    a, b = (scores.neuron(SAME, i) for i in range(2))
    assert (lambda x: a(x) - b(x))(ACTS) == pytest.approx(0.75 - 1.75)


def test_scores_are_pytrees_and_weights_are_traced(key):
    """Other labels, weights and networks do not recompile."""
    traces = []

    @jax.jit
    def run(f, x):
        traces.append(1)
        return f(x)

    x = jax.random.uniform(key, (8, 8, 3))
    for seed, labels, weights in ((0, (0, 1), (1.0, 2.0)), (1, (3, 2), (-1.0, 0.5))):
        net = TinyNet(seed)
        f = compose(*(scores.logit(net, label) for label in labels), weights=weights)
        expected = sum(w * net(x[None])[0, label] for w, label in zip(weights, labels, strict=True))
        np.testing.assert_allclose(run(f, x), expected, rtol=1e-5, atol=1e-6)
    assert len(traces) == 1


def test_through_evaluates_the_features_once():
    calls = []

    def features(batch):
        calls.append(1)
        return 2 * batch

    parts = (scores.neuron(SAME, 0), scores.direction(SAME, jnp.array([0.0, 1.0])))
    shared = featviz.through(features, compose(*parts, weights=(1, -1)))
    assert shared(ACTS) == pytest.approx(2 * (0.75 - 1.75))
    assert len(calls) == 1


def test_layers_and_centres():
    assert featviz.layer(SAME)(ACTS) == pytest.approx((9 + 16 + 4 + 1 + 1 + 1) / 8)
    assert featviz.centre(SAME, 1)(ACTS) == 1  # position (1, 1) of 2 by 2
    wide = jnp.arange(15.0).reshape(3, 5, 1)
    assert featviz.centre(SAME, 0)(wide) == wide[1, 2, 0]


def test_directions_weighted_by_their_cosine():
    """Along (0, 1): products 4, 2, 0, 1 with cosines 4/5, 1, 0, 1/√2."""
    v = jnp.array([0.0, 1.0])
    for power in (0.0, 1.0, 2.0):
        expected = np.mean([4 * 0.8**power, 2, 0, 0.5 ** (power / 2)])
        assert featviz.dot_cosine(SAME, v, power=power)(ACTS) == pytest.approx(expected, rel=1e-6)
    assert featviz.dot_cosine(SAME, -v, power=2.0)(ACTS) == pytest.approx(-7 * 0.01 / 4), "below 0.1 the cosine is 0.1"
    each = featviz.dot_cosine(SAME, ACTS, power=2.0)(ACTS)
    assert each == pytest.approx((25 + 4 + 1 + 2) / 4), "one direction for each position"
    np.testing.assert_allclose(
        featviz.dot_cosine(SAME, v, power=0.0)(ACTS), scores.direction(SAME, v)(ACTS), rtol=4 * EPS
    )
    assert jnp.isfinite(jax.grad(featviz.dot_cosine(SAME, v))(jnp.zeros((2, 2, 2)))).all()


def test_likeness_of_a_whole_layer():
    f = featviz.likeness(SAME, ACTS, power=3.0)
    assert f(ACTS) == pytest.approx(32 / 8)
    assert f(2 * ACTS) == pytest.approx(64 / 8), "linear along the reference"
    other = ACTS[::-1]
    dot = float((ACTS * other).sum())
    assert f(other) == pytest.approx(dot * max(0.1, dot / 32) ** 3 / 8, rel=1e-5)


def test_concepts_through_nonnegative_least_squares():
    """Atoms e1 and (e1 + e2)/√2 of (2, 1): codes 1 and √2. Asking for one pushes the other away."""
    atoms = jnp.array([[1.0, 0.0], [0.5**0.5, 0.5**0.5]])
    dictionary = Dictionary(atoms, jnp.zeros(2), jnp.ones(()), Partial(nonnegative))
    x = jnp.array([[[2.0, 1.0]]])
    assert scores.concept(SAME, dictionary, 0)(x) == pytest.approx(1, rel=1e-5)
    contrast = featviz.contrast(SAME, dictionary, 0)
    assert contrast(x) == pytest.approx(1 - 2**0.5, rel=1e-5)
    # u1 = a1 - a2 and u2 = √2 a2 while both are positive.
    np.testing.assert_allclose(jax.grad(contrast)(x).ravel(), [1, -1 - 2**0.5], rtol=1e-5)
    np.testing.assert_allclose(jax.grad(scores.concept(SAME, dictionary, 0))(x).ravel(), [1, -1], rtol=1e-5)


def test_whitened_directions():
    """Σ⁻¹v up to scale, for correlated channels."""
    mix = jnp.array([[2.0, 1.0], [0.0, 1.0]])
    acts = jnp.matmul(jnp.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]]), mix)
    covariance = np.cov(np.asarray(acts).T, bias=True)
    v = np.array([1.0, 2.0], np.float32)
    expected = np.linalg.solve(covariance, v)
    got = featviz.whiten(jnp.asarray(v), acts, ridge=0.0)
    np.testing.assert_allclose(got, expected * np.linalg.norm(v) / np.linalg.norm(expected), rtol=1e-5)


def test_objectives_of_several_images():
    xs = jnp.stack([ACTS, 2 * ACTS, ACTS[::-1]])
    f, g = scores.neuron(SAME, 0), scores.neuron(SAME, 1)
    assert featviz.each(f)(xs) == pytest.approx(0.75 * 4 / 3)
    way = featviz.interpolation(f, g)(xs)
    assert way == pytest.approx((0.75 + 0.5 * (1.5 + 3.5) + 1.75) / 3)
    assert featviz.alignment(SAME)(xs) == pytest.approx(-(32 + float(((2 * ACTS - ACTS[::-1]) ** 2).sum())) / 16)
    # Gram matrices do not know about positions or scale: all three images have the same texture.
    assert featviz.diversity(SAME)(xs) == pytest.approx(-1)
    two = jnp.stack([jnp.array([[[1.0, 0.0]]]), jnp.array([[[1.0, 1.0]]])])
    assert featviz.diversity(SAME)(two) == pytest.approx(-0.5), "Gram matrices diag(1, 0) and ones, of norms 1 and 2"


def test_errors_say_what_to_do():
    f = scores.neuron(SAME, 0)
    with pytest.raises(ValueError, match="2 weights for 1 scores"):
        compose(f, weights=(1, 2))
    with pytest.raises(ValueError, match="0 weights for 0 scores"):
        compose()
    with pytest.raises(ValueError, match=r"shape \(3,\) for activations of shape \(2, 2, 2\), expected \(2,\)"):
        featviz.dot_cosine(SAME, jnp.ones(3))(ACTS)
    with pytest.raises(ValueError, match="reference has shape"):
        featviz.likeness(SAME, jnp.ones((2, 2)))(ACTS)
    with pytest.raises(ValueError, match="channel 2 is outside of the 2"):
        featviz.centre(SAME, 2)(ACTS)
    with pytest.raises(ValueError, match=r"expected \(gh, gw, d\)"):
        featviz.centre(SAME, 0)(ACTS[0])
    dictionary = Dictionary(jnp.eye(2), jnp.zeros(2), jnp.ones(()), Partial(nonnegative))
    with pytest.raises(ValueError, match="k is 2, outside of the 2 concepts"):
        featviz.contrast(SAME, dictionary, 2)(ACTS)
