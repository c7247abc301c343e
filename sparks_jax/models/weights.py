"""Weights from files: `.safetensors` and `.pth` state dicts, read with numpy alone, put into our networks.

A `.pth` file is a pickle, and a pickle is a program. Ours may name only the dozen functions and storage types
that a plain state dict needs, each replaced by a description of a tensor. Any other name is refused, and none
is imported. Arrays are made afterwards, from descriptions whose bounds are checked.
"""

import collections
import io
import json
import math
import pickle
import re
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.tree_util import keystr, tree_flatten_with_path
from jax.typing import DTypeLike

from sparks_jax.models.resnet import DEPTHS, ResNet

StateDict = dict[str, np.ndarray]
Tree = TypeVar("Tree")

SHOWN = 5  # keys of each kind that an error lists
NESTED = ("state_dict", "model", "state_dict_ema", "model_state_dict")  # where checkpoints keep the weights

# torch's storage types (pickle) and safetensors' names (JSON), as numpy types.
BFLOAT16 = np.dtype(jnp.bfloat16)
TORCH_TYPES = {
    "DoubleStorage": np.dtype("<f8"), "FloatStorage": np.dtype("<f4"), "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": BFLOAT16, "LongStorage": np.dtype("<i8"), "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"), "CharStorage": np.dtype("i1"), "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
}  # fmt: skip
SAFETENSORS_TYPES = {
    "F64": np.dtype("<f8"), "F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": BFLOAT16,
    "I64": np.dtype("<i8"), "I32": np.dtype("<i4"), "I16": np.dtype("<i2"), "I8": np.dtype("i1"),
    "U8": np.dtype("u1"), "BOOL": np.dtype("?"),
}  # fmt: skip


# --- files -> arrays ---


def read_state_dict(path: str | Path) -> StateDict:
    """Read the named arrays of a `.safetensors`, `.pth` or `.pt` file, without torch.

    A checkpoint that nests its weights under `state_dict` or `model` is unwrapped, and whatever is no tensor
    is left out. The format is told from the content, not from the file's name.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is none of these formats, is damaged, or names more than weights need.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no weights file at {path}")
    with path.open("rb") as file:
        start = file.read(9)
        file.seek(0)
        read = _read_zip if start[:2] == b"PK" else _read_safetensors if start[8:] == b"{" else _read_legacy
        try:
            tree = read(file)
        except Exception as error:  # a damaged file can make the parsers raise anything
            raise ValueError(f"cannot read weights from {path}: {error}") from error
    return _named_arrays(tree, path)


def _named_arrays(tree: Any, path: Path) -> StateDict:
    for name in NESTED:
        if isinstance(tree, Mapping) and isinstance(tree.get(name), Mapping):
            tree = tree[name]
    state = {k: v for k, v in tree.items() if isinstance(v, np.ndarray)} if isinstance(tree, Mapping) else {}
    if not state:
        held = f"keys {_few([str(key) for key in tree])}" if isinstance(tree, Mapping) else f"a {type(tree).__name__}"
        raise ValueError(f"{path} holds no state dict of tensors but {held}; save `model.state_dict()` instead")
    return state


def _read_safetensors(file: io.BufferedIOBase) -> StateDict:
    data = memoryview(file.read())
    start = 8 + int.from_bytes(data[:8], "little")
    state = {}
    for name, entry in json.loads(bytes(data[8:start])).items():
        if name != "__metadata__":
            first, last = entry["data_offsets"]
            flat = np.frombuffer(data[start + first : start + last], SAFETENSORS_TYPES[entry["dtype"]])
            state[name] = flat.reshape(entry["shape"])
    return state


class _Storage(NamedTuple):
    dtype: np.dtype
    key: str
    size: int


class _Tensor(NamedTuple):
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def _allowed_globals() -> dict[tuple[str, str], Any]:
    # Fresh functions for each file: nothing a pickle does to them outlives its reading.
    def tensor(storage, offset, shape, strides, *_):
        return _Tensor(_Storage(*storage), offset, shape, strides)

    def parameter(data, *_):
        return data

    return {("torch", name): name for name in TORCH_TYPES} | {
        ("collections", "OrderedDict"): collections.OrderedDict,
        ("torch", "Size"): tuple,
        ("torch._utils", "_rebuild_tensor_v2"): tensor,
        ("torch._utils", "_rebuild_parameter"): parameter,
    }


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BufferedIOBase):
        super().__init__(file)
        self.allowed = _allowed_globals()
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.allowed:
            raise pickle.UnpicklingError(
                f"it names {module}.{name}, which no state dict needs and which was not run; "
                "where the file is trusted, save `model.state_dict()` from it"
            )
        return self.allowed[module, name]

    def persistent_load(self, pid: Any) -> _Storage:
        kind, type_name, key, _, size, *view = pid
        if kind != "storage" or any(view):
            raise pickle.UnpicklingError(f"unknown storage record {pid!r}")
        return self.storages.setdefault(key, _Storage(TORCH_TYPES[type_name], key, size))


def _read_zip(file: io.BufferedIOBase) -> Any:
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
        pickles = [name for name in names if name.rpartition("/")[2] == "data.pkl"]
        if len(pickles) != 1:
            raise ValueError("it is a zip file, but not one that torch.save wrote")
        folder = pickles[0].removesuffix("data.pkl")
        if folder + "byteorder" in names and archive.read(folder + "byteorder") != b"little":
            raise ValueError("it was written on a big-endian machine; save it on a little-endian one")
        tree = _Unpickler(io.BytesIO(archive.read(pickles[0]))).load()
        return _with_arrays(tree, lambda key: archive.read(f"{folder}data/{key}"))


# Before torch 1.6: five pickles (magic, protocol, machine, tree, storage keys), then for each key the number
# of elements in eight bytes and the elements.
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C


def _read_legacy(file: io.BufferedIOBase) -> Any:
    if file.read(1) != b"\x80":
        raise ValueError("it is neither a safetensors file nor one that torch.save wrote")
    file.seek(0)
    if _Unpickler(file).load() != LEGACY_MAGIC:
        raise ValueError("it is a pickle, but not one that torch.save wrote")
    _protocol, _machine = _Unpickler(file).load(), _Unpickler(file).load()
    unpickler = _Unpickler(file)
    tree = unpickler.load()
    data = {}
    for key in _Unpickler(file).load():
        count = int.from_bytes(file.read(8), "little")
        data[key] = file.read(count * unpickler.storages[key].dtype.itemsize)
    return _with_arrays(tree, data.__getitem__)


def _with_arrays(tree: Any, read: Callable[[str], bytes]) -> Any:
    if isinstance(tree, Mapping):
        return {key: _with_arrays(value, read) for key, value in tree.items()}
    return _array(tree, read(tree.storage.key)) if isinstance(tree, _Tensor) else tree


def _array(tensor: _Tensor, data: bytes) -> np.ndarray:
    (dtype, key, size), offset, shape, strides = tensor
    last = offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
    inside = min(offset, *shape, *strides, 0) == 0 and last < size and math.prod(shape) <= size
    if len(data) != size * dtype.itemsize or not (inside or 0 in shape):
        raise ValueError(f"storage {key} holds {len(data)} bytes, too few for a tensor of shape {shape}")
    flat = np.frombuffer(data, dtype)[offset:]
    return np.lib.stride_tricks.as_strided(flat, shape, [s * dtype.itemsize for s in strides])


# --- arrays -> networks ---


def fill(model: Tree, entries: Mapping[str, np.ndarray]) -> Tree:
    """The same model with these arrays as its parameters and statistics, each cast to the model's type.

    Every array of the model is given once, under its attribute path: `stages.0.1.conv1.kernel`. The model may
    be abstract, from `jax.eval_shape`, so that nothing is drawn only to be overwritten.

    Raises:
        ValueError: If paths are missing or unexpected, or shapes differ; the message lists them.

    Example:
        >>> from flax import nnx
        >>> model = jax.eval_shape(lambda: nnx.Linear(2, 1, rngs=nnx.Rngs(0)))
        >>> model = fill(model, {"kernel": np.array([[2.0], [3.0]]), "bias": np.array([1.0])})
        >>> model(jnp.array([1.0, 1.0])).item()
        6.0
    """
    check_keys(type(model).__name__, {path: leaf.shape for path, leaf in leaves(model).items()}, entries)
    arrays = [jnp.asarray(entries[path], leaf.dtype) for path, leaf in leaves(model).items()]
    return jax.tree.unflatten(jax.tree.structure(model), arrays)


def leaves(model: Any) -> dict[str, Any]:
    """The arrays of a model under their attribute paths, in the order of `jax.tree.leaves`.

    Example:
        >>> from flax import nnx
        >>> list(leaves(nnx.Linear(2, 1, rngs=nnx.Rngs(0))))
        ['bias', 'kernel']
    """
    paths, _ = tree_flatten_with_path(model)
    return {keystr(path, simple=True, separator=".").removesuffix(".value"): leaf for path, leaf in paths}


def check_keys(name: str, expected: Mapping[str, tuple[int, ...]], given: Mapping[str, np.ndarray]) -> None:
    """Compare the keys and shapes of a state dict with those that a network needs.

    Raises:
        ValueError: One message with the first missing, unexpected and misshapen keys, and how many there are.

    Example:
        >>> check_keys("net", {"w": (2,), "b": ()}, {"w": np.zeros(3)})
        Traceback (most recent call last):
        ValueError: the weights do not fit net: 1 missing (b ()); 1 misshapen (w (3,) instead of (2,))
    """
    faults = {
        "missing": [f"{key} {shape}" for key, shape in expected.items() if key not in given],
        "unexpected": [f"{key} {array.shape}" for key, array in given.items() if key not in expected],
        "misshapen": [
            f"{key} {given[key].shape} instead of {shape}"
            for key, shape in expected.items()
            if key in given and given[key].shape != tuple(shape)
        ],
    }
    if any(faults.values()):
        found = "; ".join(f"{len(keys)} {fault} ({_few(keys)})" for fault, keys in faults.items() if keys)
        raise ValueError(f"the weights do not fit {name}: {found}")


def _few(keys: list[str]) -> str:
    return ", ".join(keys[:SHOWN]) + (", …" if len(keys) > SHOWN else "")


# --- ResNet ---

TORCH_NAMES = {
    "shortcut.conv": "downsample.0",
    "shortcut.bn": "downsample.1",
    "kernel": "weight",
    "scale": "weight",
    "mean": "running_mean",
    "var": "running_var",
}
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
WRAPPERS = ("module.", "model.", "_orig_mod.")  # put before keys by DataParallel, Lightning, torch.compile


def load_resnet(source: str | Path, *, depth: int | None = None, dtype: DTypeLike | None = None) -> ResNet:
    """A ResNet with the weights of a torchvision or timm file.

    Args:
        source: A path, or a name on the Hugging Face hub such as `timm/resnet50.a1_in1k`.
        depth: 18, 34, 50, 101 or 152; None: told from the weights, as the number of classes always is.
        dtype: Type of the computation, as in `ResNet`.

    Raises:
        FileNotFoundError: If there is no such file, or the hub cannot be reached.
        ValueError: If the file cannot be read, or its keys and shapes are not those of a ResNet.
    """
    return resnet_from_state_dict(read_state_dict(find_weights(source)), depth=depth, dtype=dtype)


def resnet_from_state_dict(
    state: Mapping[str, Any], *, depth: int | None = None, dtype: DTypeLike | None = None
) -> ResNet:
    """A ResNet with these weights (numpy or torch), named and laid out as in torchvision and timm.

    Prefixes such as `module.` are taken off; `num_batches_tracked` is ignored.

    Raises:
        ValueError: If the keys and shapes are not those of the network; the message lists them.
    """
    state = {key: np.asarray(state[key]) for key in state if not key.endswith("num_batches_tracked")}
    for prefix in WRAPPERS:
        if all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
    depth = _depth(state) if depth is None else depth
    num_classes = len(state["fc.weight"]) if "fc.weight" in state else 1000
    model = jax.eval_shape(lambda: ResNet(depth, num_classes, rngs=nnx.Rngs(0), dtype=dtype))
    layout = torch_layout(model)
    check_keys(f"ResNet-{depth}", dict(layout.values()), state)
    arrays = {path: _from_torch(state[layout[path][0]]).reshape(leaf.shape) for path, leaf in leaves(model).items()}
    return fill(model, arrays)


def torch_layout(model: ResNet) -> dict[str, tuple[str, tuple[int, ...]]]:
    """For each attribute path of a ResNet, its key and shape in a torchvision or timm state dict.

    Example:
        >>> from flax import nnx
        >>> model = jax.eval_shape(lambda: ResNet(18, rngs=nnx.Rngs(0)))
        >>> torch_layout(model)["stages.1.0.shortcut.conv.kernel"]
        ('layer2.0.downsample.0.weight', (128, 64, 1, 1))
    """
    return {path: (_torch_key(path), _torch_shape(path, leaf.shape)) for path, leaf in leaves(model).items()}


def _torch_key(path: str) -> str:
    key = re.sub(r"^stages\.(\d)", lambda match: f"layer{int(match[1]) + 1}", path)
    for ours, theirs in TORCH_NAMES.items():
        key = re.sub(rf"\b{ours}\b", theirs, key)
    return key


def _torch_shape(path: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    # (h, w, in, out) there is (out, in, h, w); our 1x1 kernels are (in, out), as that of the linear layer is.
    if len(shape) < 2:
        return shape
    sides = shape[:-2] if len(shape) == 4 or path.startswith("fc") else (1, 1)
    return (shape[-1], shape[-2], *sides)


def _from_torch(array: np.ndarray) -> np.ndarray:
    return array if array.ndim < 2 else array.transpose(*range(2, array.ndim), 1, 0)


def _depth(state: Mapping[str, Any]) -> int:
    blocks = {match[0] for key in state if (match := re.match(r"layer\d\.\d+\.", key))}
    sizes = tuple(sum(block.startswith(f"layer{stage}.") for block in blocks) for stage in (1, 2, 3, 4))
    for depth, kind in DEPTHS.items():
        if kind == (sizes, "layer1.0.conv3.weight" in state):
            return depth
    raise ValueError(
        f"no ResNet-18 to -152 has {sizes} blocks in its four stages; the keys are {_few(list(state))}; "
        "give `depth` to see what is missing from them"
    )


def find_weights(source: str | Path) -> Path:
    """The weights file behind a path or a Hugging Face name, `hf-hub:owner/model` or `owner/model`.

    Raises:
        FileNotFoundError: If there is no such file, or the hub cannot be reached.
        ModuleNotFoundError: If it is a hub name and `huggingface_hub` is not installed.
    """
    name = re.sub(r"^hf[-_]hub:", "", str(source))
    if Path(source).is_file():
        return Path(source)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name) or name.endswith(SUFFIXES):
        raise FileNotFoundError(f"no weights file at {source}; give a path or a hub name such as owner/model")
    remedy = "download its model.safetensors and give the path to that file"
    try:
        from huggingface_hub import hf_hub_download
    except ImportError as error:
        raise ModuleNotFoundError(f"{name} is a hub name: `pip install huggingface_hub`, or {remedy}") from error
    try:
        return Path(hf_hub_download(name, "model.safetensors"))
    except (OSError, ValueError) as error:
        raise FileNotFoundError(f"cannot get {name} from the hub ({error}); {remedy}") from error
