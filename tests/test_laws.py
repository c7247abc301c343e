"""The laws of an attribution method, held by every line of the roster."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from sparks_jax.jobs.explain import count_evaluations, explain
from sparks_jax.scores import logit, logits
from tests.roster import LINEAR_OPTIONS, METHODS, call
from tests.tiny import linear_logits, linear_score

every_method = pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
every_random_method = pytest.mark.parametrize("method", [m for m in METHODS if m.needs_key], ids=lambda m: m.name)
every_sampler = pytest.mark.parametrize("method", [m for m in METHODS if m.samples], ids=lambda m: m.name)

STREAMERS = [m for m in METHODS if "chunk" in inspect.signature(m.fn).parameters]
every_streamer = pytest.mark.parametrize("method", STREAMERS, ids=lambda m: m.name)


@pytest.fixture
def network(method):
    return method.network(0)


def explained(method, network, label, x, key, **more):
    """The map of a class of a network, of which the method is asked about a score, the logits, or two halves."""
    halves = (network.features, network.head) if "halves" in method.family else (network,)
    of = logits if method.compares else lambda half: logit(half, label)
    return call(method, (*halves[:-1], of(halves[-1])), x, key, label, **more)


PROGRAMS = {}


def program(method):
    """The compiled map of a method, of everything it may be asked about, and a list with an entry for each trace."""
    if method.name not in PROGRAMS:
        traces = []

        @jax.jit
        def run(network, label, x, key):
            traces.append(1)
            return explained(method, network, label, x, key)

        PROGRAMS[method.name] = run, traces
    return PROGRAMS[method.name]


@every_method
def test_signature(method):
    """Score or logits (or halves), image and perhaps label come first, the rest are keywords, `key` if it is random."""
    parameters = inspect.signature(method.fn).parameters
    positional = [n for n, p in parameters.items() if p.kind is p.POSITIONAL_OR_KEYWORD]
    about = ["features", "head"] if "halves" in method.family else ["f"]
    assert positional == [*about, "x", *(["label"] if method.compares else [])]
    assert all(p.kind is p.KEYWORD_ONLY for n, p in parameters.items() if n not in positional)
    assert ("key" in parameters) == method.needs_key
    assert not method.needs_key or parameters["key"].default is inspect.Parameter.empty


@every_method
def test_linear_score(method, image, key):
    w = np.asarray(jax.random.normal(jax.random.key(2), image.shape))
    f = (linear_logits if method.compares else linear_score)(jnp.asarray(w))
    given = (lambda x: x, f) if "halves" in method.family else (f,)
    got = call(method, given, image, key, 1, **LINEAR_OPTIONS.get(method.name, {}))
    np.testing.assert_allclose(got, method.linear(w, np.asarray(image)), atol=method.atol)


@pytest.mark.parametrize("method", [m for m in METHODS if m.complete], ids=lambda m: m.name)
def test_completeness(method, network, image, key):
    f = logit(network, 1)
    attributed = call(method, (f,), image, key, 1, num_steps=16).sum()
    # 16 Gauss-Legendre nodes are exact to rounding for tanh of arguments below 2: 192 terms of float32.
    assert abs(attributed - (f(image) - f(0 * image))) < 192 * 2**-23


@every_method
def test_jit_equals_eager(method, network, image, key):
    eager = explained(method, network, 1, image, key)
    jitted = program(method)[0](network, 1, image, key)
    np.testing.assert_allclose(jitted, eager, rtol=1e-4, atol=1e-6)


@every_method
def test_one_compilation_for_all_weights_and_labels(method, image, key):
    run, traces = program(method)
    maps = [run(method.network(seed), label, image, key) for seed in (0, 1) for label in (0, 1, 2)]
    assert len(traces) == 1
    # Two classes may have one map: where they are each other's nearest rival, say.
    distinct = len({np.asarray(m).tobytes() for m in maps})
    assert distinct >= 4 if method.reads_label else distinct == 2


@every_streamer
def test_chunk_invariance(method, network, image, key):
    maps = [
        jax.jit(lambda n, x, k, c=c: explained(method, n, 1, x, k, chunk=c))(network, image, key) for c in (3, 1000)
    ]
    np.testing.assert_allclose(*maps, rtol=1e-4, atol=1e-6)


@every_method
def test_batch_and_device_invariance(method, network, key):
    """A map is the same alone, in a batch, and spread over eight devices; and the devices do not talk."""
    images = np.asarray(jax.random.uniform(jax.random.key(3), (9, 8, 8, 3)))
    labels = np.arange(9) % 5
    alone = explained(method, network, int(labels[8]), jnp.asarray(images[8]), key)
    mesh = jax.make_mesh((8,), ("data",))
    batched = explain(method.fn, network, images, labels, key=key, **method.options)
    spread = explain(method.fn, network, images, labels, key=key, mesh=mesh, **method.options)
    np.testing.assert_allclose(batched[8], alone, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(spread, batched, rtol=1e-4, atol=1e-6)


@every_method
def test_no_collective_over_devices(method, network, key):
    mesh = jax.make_mesh((8,), ("data",))
    images = jax.device_put(jnp.zeros((8, 8, 8, 3)), NamedSharding(mesh, PartitionSpec("data")))
    labels = jax.device_put(jnp.zeros(8, jnp.int32), NamedSharding(mesh, PartitionSpec("data")))
    run = jax.jit(lambda n, xs, ys, k: jax.vmap(lambda x, y: explained(method, n, y, x, k))(xs, ys))
    with jax.set_mesh(mesh):
        program = run.lower(network, images, labels, key).compile().as_text()
    assert not any(op in program for op in ("all-reduce", "all-gather", "all-to-all", "collective-permute"))


@every_sampler
def test_memory_is_flat_in_samples(method, network, key):
    # Large enough for the images to weigh more than the few numbers kept of each sample.
    x = jnp.zeros((64, 64, 3))

    def temporary_bytes(n):
        run = jax.jit(lambda net, x, k: explained(method, net, 1, x, k, chunk=8, **{method.samples: n}))
        return run.lower(network, x, key).compile().memory_analysis().temp_size_in_bytes

    assert temporary_bytes(256) <= 1.25 * temporary_bytes(64)


@every_method
def test_dtype_follows_the_image(method, network, image, key):
    network = jax.tree.map(lambda w: w.astype(jnp.bfloat16), network)
    got = jax.eval_shape(lambda x: explained(method, network, 1, x, key), image.astype(jnp.bfloat16))
    assert got.dtype == jnp.bfloat16


@every_method
def test_finite_gradient_in_the_weights(method, network, image, key):
    """A map can be a training target."""
    target = jax.jit(jax.grad(lambda n: jnp.square(explained(method, n, 1, image, key)).sum()))(network)
    assert all(jnp.isfinite(g).all() for g in jax.tree.leaves(target))


@every_random_method
def test_the_key_is_all_the_randomness(method, network, image, key):
    run = lambda key: program(method)[0](network, 1, image, key)
    assert (run(key) == run(key)).all()
    assert (run(key) != run(jax.random.key(7))).any()


@every_method
def test_bad_images_are_refused_in_one_sentence(method, network, image, key):
    for bad, message in [
        (image[None], r"x has shape \(1, 8, 8, 3\), expected one image \(h, w, c\)"),
        (image[..., 0], r"x has shape \(8, 8\), expected one image"),
        (image.at[0, 0, 0].set(jnp.nan), "NaN or infinite pixels"),
    ]:
        with pytest.raises(ValueError, match=f"^{method.name}: .*{message}"):
            explained(method, network, 1, bad, key)
    with pytest.raises(TypeError, match=f"^{method.name}: x has dtype int32"):
        explained(method, network, 1, jnp.ones((8, 8, 3), jnp.int32), key)


@every_streamer
def test_a_chunk_of_zero_is_refused(method, network, image, key):
    with pytest.raises(ValueError, match="chunk must be a positive integer, got 0"):
        explained(method, network, 1, image, key, chunk=0)


@every_sampler
def test_evaluations_are_what_was_asked(method):
    """The number of evaluations is the one in the docstring: nothing is evaluated and thrown away."""
    for n in (method.fewest, 64):
        assert count_evaluations(method.fn, (8, 8, 3), **{**method.options, method.samples: n}) == n * method.per_sample
