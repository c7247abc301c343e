"""`explain` and `measure`: compilations, remainders, meshes, memory, and what they say of bad input."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen

from sparks_jax import explain, measure
from sparks_jax.attribution import grad_cam, saliency, smoothgrad
from sparks_jax.jobs.batches import _one_batch
from sparks_jax.jobs.explain import count_evaluations
from sparks_jax.jobs.measure import count_measurements, examine
from sparks_jax.metrics import deletion, insertion, random_logit
from sparks_jax.scores import logit, logits, probability
from sparks_jax.verify import UnsupportedPrimitive, eva, eva_hybrid, lipschitz_eva
from tests.tiny import TinyNet

IMAGES = np.asarray(jax.random.uniform(jax.random.key(1), (5, 8, 8, 3)))
LABELS = np.array([0, 1, 2, 3, 4])
KEY = jax.random.key(0)


def compilations(run):
    before = _one_batch._cache_size()
    run()
    return _one_batch._cache_size() - before


def test_maps_are_those_of_the_method(network):
    got = explain(smoothgrad, network, IMAGES, LABELS, key=KEY, num_samples=4)
    for x, label, phi in zip(IMAGES, LABELS, got, strict=True):
        expected = smoothgrad(logit(network, int(label)), jnp.asarray(x), key=KEY, num_samples=4)
        np.testing.assert_allclose(phi, expected, rtol=1e-4, atol=1e-6)


def test_one_compilation_for_remainders_weights_labels_and_keys():
    def run():
        for n, seed in [(5, 0), (3, 1), (4, 2)]:
            explain(saliency, TinyNet(seed), IMAGES[:n], LABELS[:n], key=jax.random.key(seed), chunk=2)

    assert compilations(run) == 1
    assert compilations(run) == 0


@pytest.mark.parametrize(
    "model",
    [
        lambda x: x.reshape(x.shape[0], -1)[:, :5],
        jax.tree_util.Partial(linen.Dense(5).apply, linen.Dense(5).init(jax.random.key(0), jnp.ones((1, 192)))),
    ],
    ids=["function", "linen"],
)
def test_any_callable_is_a_model(model):
    flat = model if not isinstance(model, jax.tree_util.Partial) else lambda x: model(x.reshape(x.shape[0], -1))
    maps = explain(saliency, flat, IMAGES, LABELS, key=KEY)
    assert maps.shape == IMAGES.shape
    assert (maps > 0).any(axis=(1, 2, 3)).all()


def test_halves_of_a_network(network):
    got = explain(grad_cam, network, IMAGES, LABELS, key=KEY)
    expected = grad_cam(network.features, logit(network.head, 2), jnp.asarray(IMAGES[2]))
    np.testing.assert_allclose(got[2], expected, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="grad_cam: function has no `features` and `head`"):
        explain(grad_cam, lambda x: x.mean((1, 2)), IMAGES, 0 * LABELS, key=KEY)


def lead(f, x, label, *, share):
    """A method that compares classes itself: how far each pixel takes its class ahead of the others' mean."""
    return share * jax.grad(lambda x: f(x)[label] - f(x).mean())(x).sum(-1)


def test_a_method_that_takes_the_label_is_given_logits(network):
    """One compilation serves all labels and weights, on a mesh too."""

    def run():
        for seed in (0, 1):
            explain(lead, TinyNet(seed), IMAGES, LABELS[::-1], key=KEY, share=2.0)

    assert compilations(run) == 1
    got = explain(lead, network, IMAGES, LABELS, key=KEY, share=2.0)
    expected = lead(logits(network), jnp.asarray(IMAGES[3]), 3, share=2.0)
    np.testing.assert_allclose(got[3], expected, rtol=1e-4, atol=1e-6)
    spread = explain(lead, network, IMAGES, LABELS, key=KEY, share=2.0, mesh=jax.make_mesh((8,), ("data",)))
    np.testing.assert_allclose(spread, got, rtol=1e-4, atol=1e-6)


def test_halves_of_a_method_that_takes_the_label(network):
    halves = lambda features, head, x, label: head(features(x[None])[0])[label] * x[..., 0]
    got = explain(halves, network, IMAGES, LABELS, key=KEY)
    np.testing.assert_allclose(got[2], network(IMAGES)[2, 2] * IMAGES[2, ..., 0], rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match=r"has no `features` and `head`.*\(features, head, x, label\)"):
        explain(halves, lambda x: x.mean((1, 2)), IMAGES, 0 * LABELS, key=KEY)


def test_metrics_ask_a_method_that_takes_the_label_again(network):
    """For every other label a map of its own, and the evaluations are those of the maps asked for."""
    ask = partial(examine, random_logit, lead, network, IMAGES, LABELS, key=KEY, method_options=dict(share=1.0))
    assert (ask() < 1).all()
    assert (ask(method_options=dict(share=0.0)) != ask()).all()  # the options are passed on
    count = partial(count_measurements, random_logit, lead, network, (8, 8, 3), options={})
    # Two maps, each of two logits with a gradient through both.
    assert count(method_options=dict(share=1.0)) == 4


@pytest.mark.parametrize("method", [eva, eva_hybrid, lipschitz_eva])
def test_a_needed_option_is_asked_for(network, method):
    with pytest.raises(TypeError, match=f"^{method.__name__}: radius is not given and has no default; add radius=…"):
        explain(method, network, IMAGES, LABELS, key=KEY)


def test_what_cannot_be_bounded_is_named():
    model = lambda x: jax.lax.top_k(x.reshape(len(x), -1), 5)[0]
    with pytest.raises(UnsupportedPrimitive, match="^ibp: no rule for top_k; pass rules="):
        explain(eva, model, IMAGES, LABELS, key=KEY, radius=0.1)


def test_any_score(network):
    got = explain(saliency, network, IMAGES, LABELS, key=KEY, score=probability)
    expected = saliency(probability(network, 1), jnp.asarray(IMAGES[1]))
    np.testing.assert_allclose(got[1], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("metric", [deletion, insertion])
def test_measure(network, metric):
    heatmaps = np.asarray(jax.random.normal(jax.random.key(2), (5, 8, 8)))
    got = measure(metric, network, IMAGES, LABELS, heatmaps, key=KEY, steps=6)
    f = probability(network, 3)
    expected = metric(f, jnp.asarray(IMAGES[3]), jnp.asarray(heatmaps[3]), key=KEY, steps=6)
    np.testing.assert_allclose(got.scores[3], expected.scores, rtol=1e-5)
    assert got.auc.shape == (5,)
    with pytest.raises(ValueError, match="2 heatmaps for 5 images"):
        measure(metric, network, IMAGES, LABELS, heatmaps[:2], key=KEY)


def test_memory_that_runs_out_halves_the_chunk(network):
    def greedy(f, x, *, chunk):
        if chunk > 4:
            raise MemoryError
        return jax.grad(f)(x)

    with pytest.warns(UserWarning, match="greedy: out of memory, going on with chunk=") as said:
        maps = explain(greedy, network, IMAGES, LABELS, key=KEY, chunk=16)
    assert [str(w.message)[-2:].strip("=") for w in said] == ["8", "4"]
    np.testing.assert_allclose(np.abs(maps), explain(saliency, network, IMAGES, LABELS, key=KEY), atol=1e-6)


def test_options_bound_beforehand(network):
    bound = partial(smoothgrad, num_samples=4, sigma=0.1)
    got = explain(bound, network, IMAGES, LABELS, key=KEY)
    expected = explain(smoothgrad, network, IMAGES, LABELS, key=KEY, num_samples=4, sigma=0.1)
    np.testing.assert_allclose(got, expected, atol=1e-6)
    with pytest.raises(ValueError, match="smoothgrad: label 5 is outside"):
        explain(bound, network, IMAGES, LABELS + 1, key=KEY)


def test_progress_counts_images(network, capsys):
    explain(saliency, network, IMAGES, LABELS, key=KEY, progress=True)
    assert "saliency: 100%" in (said := capsys.readouterr().err)
    assert "5/5" in said


def test_memory_that_is_never_enough_is_an_error(network):
    def hopeless(f, x, *, chunk):
        raise MemoryError("no room")

    with pytest.warns(UserWarning, match="out of memory"), pytest.raises(MemoryError, match="no room"):
        explain(hopeless, network, IMAGES, LABELS, key=KEY, chunk=2)


@pytest.mark.parametrize(
    ("images", "labels", "options", "message"),
    [
        (IMAGES[0], LABELS, {}, r"saliency: images has shape \(8, 8, 3\), expected a batch \(n, h, w, c\)"),
        (IMAGES[:0], LABELS[:0], {}, r"saliency: images has shape \(0, 8, 8, 3\)"),
        (IMAGES * np.nan, LABELS, {}, "saliency: images has NaN or infinite pixels"),
        (IMAGES, LABELS[:2], {}, r"saliency: labels is int64\(2,\), expected 5 integers"),
        (IMAGES, LABELS * 1.0, {}, r"saliency: labels is float64\(5,\), expected 5 integers"),
        (IMAGES, LABELS + 1, {}, r"saliency: label 5 is outside the 5 classes 0 … 4"),
        (IMAGES, LABELS, {"chunk": 0}, "saliency: chunk is 0, expected a positive integer"),
    ],
)
def test_bad_input_is_one_sentence(network, images, labels, options, message):
    with pytest.raises(ValueError, match=message):
        explain(saliency, network, images, labels, key=KEY, **options)


def test_integer_images_are_refused(network):
    with pytest.raises(TypeError, match="saliency: images has dtype uint8, expected floating point"):
        explain(saliency, network, IMAGES.astype(np.uint8), LABELS, key=KEY)


def test_counted_evaluations(network):
    assert count_evaluations(grad_cam, (8, 8, 3)) == 1
    assert count_evaluations(deletion, (8, 8, 3), jnp.zeros((8, 8)), steps=5) == 6


def test_counted_bounds():
    """A bound counts twice: once for every cell, and once for none of them. Samples of the first half count too."""
    count = partial(count_evaluations, shape=(8, 8, 3), radius=0.1, grid=3, num_classes=4)
    assert count(eva) == 2 * (9 + 1)
    assert count(eva, target=3) == 2 * (9 + 1)
    assert count(lipschitz_eva) == 2 * (9 + 1) + 1
    assert count(lipschitz_eva, lipschitz=jnp.ones(4)) == 2 * (9 + 1) + 1
    assert count(eva_hybrid, num_samples=5) == (9 + 2) * 5
