"""The laws of a metric, held by every line of the roster."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from sparks_jax import metrics
from sparks_jax.sensitivity import count_evaluations
from tests.metric_roster import CHANGES, METRICS, asked, call, reads
from tests.tiny import TinyNet

# What is read of a map that exists already, and can be broken one at a time.
of_maps = [m for m in METRICS if "heatmap" in reads(m)]
of_scores = [m for m in METRICS if "f" in reads(m)]
samplers = [m for m in METRICS if m.samples]
streamers = [m for m in METRICS if "chunk" in inspect.signature(m.fn).parameters]
each = lambda some: pytest.mark.parametrize("metric", some, ids=lambda m: m.name)

HEATMAP = jax.random.normal(jax.random.key(5), (8, 8))
MASK = jnp.arange(64).reshape(8, 8) % 3 == 0
TRACES = []


@functools.cache
def compiled(name):
    """The one program of a metric that most laws share: eight images over eight devices, in chunks of three."""
    metric = next(m for m in METRICS if m.name == name)
    more = dict(chunk=3) if metric in streamers else {}

    def run(network, key, labels, *rows):
        TRACES.append(name)
        one = lambda label, *row: call(metric, asked(network, label, *row), key, **more)
        return jax.vmap(one)(labels, *rows)

    return jax.jit(run)


def values(metric, network, key, labels, images, heatmaps, masks=MASK):
    """The values of eight images; one label, image, map or mask stands for eight."""
    mesh = jax.make_mesh((8,), ("data",))
    whole = jnp.asarray(labels, jnp.int32), images, heatmaps, jnp.asarray(masks, bool)
    rows = [np.broadcast_to(a, (8, *a.shape[a.ndim - rank :])) for a, rank in zip(whole, (0, 3, 2, 2), strict=True)]
    with jax.set_mesh(mesh):
        rows = jax.device_put(rows, NamedSharding(mesh, PartitionSpec("data")))
        return np.asarray(compiled(metric.name)(network, key, *rows))


@each(METRICS)
def test_signature(metric):
    """What is read comes first, by known names; everything else is a keyword; `key` has no default."""
    parameters = inspect.signature(metric.fn).parameters
    assert set(reads(metric)) <= set(asked(None, 0, None, None, None, f=jnp.sum))
    assert all(p.kind is p.KEYWORD_ONLY for n, p in parameters.items() if n not in reads(metric))
    assert "key" not in parameters or parameters["key"].default is inspect.Parameter.empty
    assert metric.name == metric.fn.__name__


@each(METRICS)
def test_direction_is_said_twice_the_same(metric):
    higher = metrics.HIGHER_IS_BETTER[metric.name]
    doc = inspect.getdoc(metric.fn)
    assert ("Higher is better" in doc, "Lower is better" in doc) == (higher, not higher)


@each(METRICS)
def test_an_image_alone_and_in_a_batch(metric, network, key):
    """Alone and not compiled, or in a batch over eight devices, in other chunks: the same value, and never NaN."""
    images = jax.random.uniform(jax.random.key(3), (8, 8, 8, 3))
    heatmaps = jnp.stack([HEATMAP, 0 * HEATMAP, 0 * HEATMAP + 3, -abs(HEATMAP), 1.0 * (HEATMAP > 1), *3 * [HEATMAP**3]])
    masks = jnp.stack([MASK, MASK, ~MASK, MASK, MASK, MASK & False, MASK | True, MASK])
    labels = jnp.arange(8) % 5
    batched = values(metric, network, key, labels, images, heatmaps, masks)
    assert batched.shape == (8,)
    assert np.isfinite(batched).all()
    alone = call(metric, asked(network, labels[7], images[7], heatmaps[7], masks[7]), key)
    # Correlations of 8 samples of a network's rounded scores lose a digit more than the scores themselves.
    np.testing.assert_allclose(batched[7], alone, rtol=1e-4, atol=1e-5)


@each(METRICS)
def test_one_compilation_for_all_weights_and_labels(metric, image, key):
    TRACES.clear()
    for seed in (0, 1):
        for label in (1, 2):
            values(metric, TinyNet(seed), key, label, image, HEATMAP)
    assert len(TRACES) <= 1  # none, if another law has compiled it


@each([m for m in METRICS if m.unchanged])
def test_changes_of_the_map_that_change_nothing(metric, network, image, key):
    maps = [HEATMAP, *(CHANGES[change](HEATMAP) for change in metric.unchanged)]
    got = values(metric, network, key, 1, image, jnp.stack((maps * 8)[:8]))
    np.testing.assert_allclose(got, got[0], rtol=1e-4, atol=1e-5)


@each(of_scores)
def test_a_constant_score_has_a_finite_value(metric, network, image, key):
    """A network without weights says 1/5 of every image; with a bias it says 1, and 0 of the other classes."""
    network = jax.tree.map(lambda w: 0 * w, network)
    for bias in (0.0, 1000.0):
        network.linear.bias[...] = jnp.float32(bias) * jnp.arange(5.0)
        assert np.isfinite(values(metric, network, key, jnp.arange(8) % 5, image, HEATMAP)).all()


@each(METRICS)
def test_at_least_single_precision(metric, network, key):
    network = jax.tree.map(lambda w: w.astype(jnp.bfloat16), network)
    like = jax.ShapeDtypeStruct((8, 8, 3), jnp.bfloat16), jax.ShapeDtypeStruct((8, 8), jnp.bfloat16)
    got = jax.eval_shape(lambda x, h: call(metric, asked(network, 1, x, h, MASK), key), *like)
    assert got.dtype == jnp.float32


@each(of_scores)
def test_finite_gradient_in_the_weights(metric, network, image, key):
    gradient = jax.jit(jax.grad(lambda n: call(metric, asked(n, 1, image, HEATMAP, MASK), key)))(network)
    assert all(jnp.isfinite(g).all() for g in jax.tree.leaves(gradient))


@each(of_scores)
def test_evaluations_are_what_was_asked(metric, key):
    run = lambda f, x, heatmap: call(metric, asked(None, 0, x, heatmap, MASK, f), key)
    like = jax.ShapeDtypeStruct((8, 8, 3), jnp.float32), jax.ShapeDtypeStruct((8, 8), jnp.float32)
    assert count_evaluations(run, *like) == metric.evaluations


@each(samplers)
def test_the_key_is_all_the_randomness(metric, network, image, key):
    got = [values(metric, network, k, 1, image, HEATMAP) for k in (key, key, jax.random.key(7))]
    assert (got[0] == got[1]).all()
    assert (got[0] != got[2]).all()
    assert (got[0] == got[0][0]).all(), "one key draws the same for every image"


@each(samplers)
def test_memory_is_flat_in_samples(metric, network, key):
    """Two hundred samples of a 64 × 64 image, by eights, never weigh as much as twenty of them, or forty gradients."""
    x = jnp.zeros((64, 64, 3))
    run = jax.jit(lambda x, h: call(metric, asked(network, 1, x, h, None), key, chunk=8, **{metric.samples: 199}))
    used = run.lower(x, x[..., 0]).compile().memory_analysis().temp_size_in_bytes
    share = 2 if "explain" in reads(metric) else 1  # what is kept for the way back
    assert used < 20 * share * (x.nbytes + network.features(x[None]).nbytes)


@each(of_maps)
def test_bad_maps_are_refused_in_one_sentence(metric, network, image, key):
    def given(**changed):
        return asked(network, 1, image, HEATMAP, MASK) | changed

    for bad in (jnp.zeros((8, 8, 3)), jnp.zeros(8), jnp.zeros((0, 8))):
        with pytest.raises(ValueError, match=f"^{metric.name}: heatmap has shape .*, expected"):
            call(metric, given(heatmap=bad), key)
    with pytest.raises(ValueError, match=f"^{metric.name}: heatmap has NaN .*values, expected"):
        call(metric, given(heatmap=jnp.full((8, 8), jnp.nan)), key)
    if "mask" in reads(metric):
        with pytest.raises(ValueError, match=rf"^{metric.name}: mask has shape \(8, 7\) for a map \(8, 8\), expected"):
            call(metric, given(mask=jnp.ones((8, 7))), key)
        with pytest.raises(ValueError, match=f"^{metric.name}: mask has values other than 0 and 1, expected"):
            call(metric, given(mask=jnp.full((8, 8), 0.5)), key)


@each(streamers)
def test_a_chunk_of_zero_is_refused(metric, network, image, key):
    with pytest.raises(ValueError, match="chunk must be a positive integer, got 0"):
        call(metric, asked(network, 1, image, HEATMAP, MASK), key, chunk=0)
