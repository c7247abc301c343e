import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from experiments.benchmarks import resnet50_forward as benchmark
from experiments.benchmarks.resnet50_forward import random_state, torch_logits
from sparks_jax.models.conv import Conv, PointwiseConv
from sparks_jax.models.normalize import IMAGENET_MEAN, IMAGENET_STD, Normalized
from sparks_jax.models.resnet import Bottleneck, ResNet, max_pool, resnet18
from sparks_jax.models.weights import resnet_from_state_dict


@functools.cache
def small():
    return resnet_from_state_dict(random_state(18, num_classes=10))


@jax.jit
def logits(model, images):
    return model(images)


@functools.partial(jax.jit, static_argnums=2)
def halves(model, images, stage):
    activations = model.features(images, stage)
    return activations, model.head(activations, stage)


def photographs(seed=0, batch=2):
    return jax.random.normal(jax.random.key(seed), (batch, 64, 64, 3))


def relative(a, b):
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return np.abs(a - b).max() / np.abs(b).max()


# float32 keeps 2^-24 = 6e-8 of each sum; through 18 to 50 layers the errors add up to some 1e-6.
FLOAT32 = 1e-5


@pytest.mark.parametrize("depth", [18, 50])
def test_same_logits_as_torch(depth):
    torch = pytest.importorskip("torch", reason="the comparison with torch needs torch")
    state, images = random_state(depth), photographs()
    expected = torch_logits(
        {key: torch.from_numpy(value) for key, value in state.items()},
        torch.from_numpy(np.array(images)).permute(0, 3, 1, 2),
    )
    assert relative(logits(resnet_from_state_dict(state), images), expected.numpy()) < FLOAT32


@pytest.mark.parametrize("stage", [0, 1, 2, 3, 4])
def test_head_after_features_is_the_model(stage):
    images = photographs()
    activations, composed = halves(small(), images, stage)
    side, features = 16 // 2 ** max(stage - 1, 0), 64 * 2 ** max(stage - 1, 0)
    assert activations.shape == (2, side, side, features)
    assert activations.min() == 0
    assert relative(composed, logits(small(), images)) < FLOAT32


def test_images_of_a_batch_do_not_see_each_other():
    images = photographs(batch=3)
    alone = jax.jit(jax.vmap(lambda image: small()(image[None])[0]))(images)
    assert relative(alone, logits(small(), images)) < FLOAT32


def test_bfloat16_computes_in_bfloat16_and_keeps_float32_parameters():
    state, images = random_state(18, num_classes=10), photographs()
    model = resnet_from_state_dict(state, dtype=jnp.bfloat16)
    activations, outputs = halves(model, images, 4)
    assert {leaf.dtype for leaf in jax.tree.leaves(model)} == {jnp.dtype("float32")}
    assert activations.dtype == jnp.bfloat16
    assert outputs.dtype == jnp.float32
    # One rounding is 2^-9; some 40 of them in a row, of random signs, are sqrt(40) 2^-9 = 0.012.
    assert 1e-4 < relative(outputs, logits(small(), images)) < 0.05


def test_new_weights_and_models_built_alike_do_not_recompile():
    traces = []

    @jax.jit
    def run(model, images):
        traces.append(None)
        return model(images)

    for seed in (0, 1):
        run(resnet_from_state_dict(random_state(18, num_classes=10, seed=seed)), photographs())
    assert len(traces) == 1


def test_creation_is_one_program_pure_in_the_key_that_takes_shardings(optimized):
    sharding = jax.sharding.NamedSharding(
        jax.make_mesh((2,), ("data",), devices=jax.devices()[:2]), jax.sharding.PartitionSpec()
    )
    create = jax.jit(lambda key: resnet18(10, rngs=nnx.Rngs(key)), out_shardings=sharding)
    first, again, other = (create(jax.random.key(seed)) for seed in (7, 7, 8))
    assert all(len(leaf.devices()) == 2 for leaf in jax.tree.leaves(first))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert jnp.all(first.conv1.kernel[...] != other.conv1.kernel[...])
    # He's deviation sqrt(2 / (7 * 7 * 64)), of 9408 samples: within five times its error, 1 / sqrt(2 * 9408).
    np.testing.assert_allclose(jnp.std(first.conv1.kernel[...]), (2 / (49 * 64)) ** 0.5, rtol=5 / 18816**0.5)


def test_training_uses_and_moves_the_statistics():
    model = nnx.view(small(), use_running_average=False)
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)

    @jax.jit
    @functools.partial(jax.value_and_grad, has_aux=True)
    def loss(params, rest, images):
        model = nnx.merge(graphdef, params, rest, copy=True)
        return jnp.mean(model(images) ** 2), nnx.state(model, nnx.BatchStat)

    images = photographs()
    (_, moved), gradient = loss(params, rest, images)
    stem = small().conv1(images)
    old = small().bn1
    # Flax's momentum 0.9: nine tenths of the old statistics and one of the batch's.
    np.testing.assert_allclose(moved["bn1"]["mean"][...], 0.9 * old.mean[...] + 0.1 * stem.mean((0, 1, 2)), atol=1e-5)
    np.testing.assert_allclose(moved["bn1"]["var"][...], 0.9 * old.var[...] + 0.1 * stem.var((0, 1, 2)), rtol=1e-4)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    assert all(jnp.any(leaf != 0) for leaf in jax.tree.leaves(gradient))


def test_a_saliency_map_is_differentiable_in_the_weights():
    block = Bottleneck(8, 4, stride=2, dtype=None, rngs=nnx.Rngs(0))

    def size_of_gradient(block, x):
        gradient = jax.grad(lambda x: jnp.sum(max_pool(block(x)) ** 2))(x)
        return jnp.mean(gradient**2)

    x = jax.random.normal(jax.random.key(0), (2, 8, 8, 8))
    gradient = jax.jit(jax.grad(size_of_gradient))(block, x)
    step = 1e-3 * gradient.conv2.kernel[...] / jnp.linalg.norm(gradient.conv2.kernel[...])

    def moved(sign):
        other = jax.tree.map(lambda leaf: leaf, block)
        other.conv2.kernel[...] += sign * step
        return size_of_gradient(other, x)

    # A central difference over 2e-3: its error is of second order in the step, and rounding adds 1e-7 / 2e-3.
    slope = jnp.linalg.norm(gradient.conv2.kernel[...])
    np.testing.assert_allclose((moved(1) - moved(-1)) / 2e-3, slope, rtol=2e-2)


@pytest.mark.parametrize("side", [4, 5])
def test_max_pool_is_the_maximum_of_each_window(side):
    x = -1 - jax.random.uniform(jax.random.key(0), (1, side, side, 1))  # negative: padding must never win
    pooled = max_pool(x)
    cells = range((side + 1) // 2)
    expected = [
        [x[0, max(2 * i - 1, 0) : 2 * i + 2, max(2 * j - 1, 0) : 2 * j + 2].max() for j in cells] for i in cells
    ]
    np.testing.assert_array_equal(pooled[0, :, :, 0], np.array(expected))


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_pointwise_convolution_is_a_convolution_of_size_one(stride):
    pointwise = PointwiseConv(3, 5, stride=stride, use_bias=True, rngs=nnx.Rngs(0))
    conv = Conv(3, 5, size=1, stride=stride, use_bias=True, rngs=nnx.Rngs(1))
    conv.kernel[...] = pointwise.kernel[...][None, None]
    conv.bias[...] = pointwise.bias[...] = jnp.arange(5.0)
    x = jax.random.normal(jax.random.key(2), (2, 7, 6, 3))
    np.testing.assert_allclose(pointwise(x), conv(x), atol=1e-6)


def test_the_normalised_model_is_the_model_of_normalised_images():
    images = jax.random.uniform(jax.random.key(3), (2, 64, 64, 3))
    wrapped = Normalized(small())
    inner = (images - jnp.array(IMAGENET_MEAN)[None, None, None]) / jnp.array(IMAGENET_STD)[None, None, None]
    activations, composed = halves(wrapped, images, 3)
    assert relative(logits(wrapped, images), logits(small(), inner)) < FLOAT32
    assert relative(activations, halves(small(), inner, 3)[0]) < FLOAT32
    assert relative(composed, logits(wrapped, images)) < FLOAT32


def test_unknown_depth_and_stage_are_named():
    with pytest.raises(ValueError, match="no ResNet-42; the depths are 18, 34, 50, 101, 152"):
        ResNet(42, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="got stage=5"):
        small().features(photographs(), 5)
    with pytest.raises(ValueError, match="got stage=-1"):
        small().head(jnp.zeros((1, 2, 2, 512)), -1)


def test_the_forward_benchmark_runs(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["resnet50_forward.py", "--smoke"])
    benchmark.main()
    assert "sparks_jax          ResNet-18, 64², batch 2:" in capsys.readouterr().out
