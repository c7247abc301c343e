"""Claim: the pipeline of the OTNN paper's residual network for ImageNet works, from files to certificates; not yet run.

Files by TensorFlow Datasets without TensorFlow, batches by Grain, each process its part of them, on a mesh; parameters
made where they live, donated from step to step, kept by Orbax with the running means and the level of the loss; at the
end the accuracy and the certified accuracies of the validation set. The batch of a step depends on its number only, so
that an interrupted run goes on with the same images. Sizes, loss and rates are those of Serrurier et al. (2023,
arXiv:2206.06854), who report 67 % (70 % with 1.5 times the width) after 40 epochs.

Command:  python experiments/lipschitz_imagenet.py [--smoke] [--out FOLDER] [--data-dir FOLDER]
          The data set is prepared once, by `tfds build imagenet2012 --file_format=array_record` from the archives that
          ImageNet gives out; --smoke draws images at random instead. On several hosts: --distributed. A killed run
          resumes.
Hardware: one GPU or more; --smoke: 2 CPU cores.
Time:     not measured; --smoke half a minute idle, most of it imports and compilation.
Expected: not measured: nobody here had a GPU or the images for it. The tests run it at its smallest size.
"""

import contextlib
import functools
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import tensorflow_datasets as tfds
import tyro
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import PRNGKeyArray
from PIL import Image

from sparks_jax import lipschitz


@dataclass(frozen=True)
class Config:
    """What is trained, on what, and how long."""

    out: Path = Path("sparks-out/lipschitz_imagenet")  # checkpoints and record
    data_dir: Path | None = None  # of TensorFlow Datasets; None: its own default
    classes: int = 1000
    side: int = 224
    widths: tuple[int, ...] = (64, 128, 256, 512)
    blocks: tuple[int, ...] = (3, 4, 6, 3)
    patch: int = 4
    steps: int = 100_000  # of 512 images: 40 epochs
    batch: int = 512
    rate: float = 5e-4
    alpha: float = 500.0  # weight of the hinge
    margin: float = 0.05
    temperature: float = 200.0  # of the soft maximum over the other classes
    seed: int = 0
    every: int = 1000  # steps between two checkpoints
    readers: int = 16  # batches that are read at once, by each process
    distributed: bool = False
    smoke: bool = False


class State(NamedTuple):
    """What a step changes."""

    step: Any
    params: Any
    stats: Any  # running means
    level: Any  # running mean of |logits|
    momenta: Any


# --- the network ---


def network(config: Config, key: PRNGKeyArray) -> Any:
    """The network before the first step."""
    options = dict(widths=config.widths, blocks=config.blocks, patch=config.patch)
    return lipschitz.otnn_resnet(config.classes, **options, rngs=nnx.Rngs(key))


@functools.cache
def structure(config: Config) -> Any:
    """What is no array in the network."""
    return nnx.graphdef(jax.eval_shape(partial(network, config), jax.random.key(0)))


def optimizer(config: Config) -> optax.GradientTransformation:
    """Adam, whose rate falls along a cosine; bad steps are not taken."""
    adam = optax.adam(optax.cosine_decay_schedule(config.rate, config.steps))
    return optax.apply_if_finite(adam, max_consecutive_errors=config.steps)


def create(config: Config) -> State:
    """The state before the first step."""
    params, stats = nnx.state(network(config, jax.random.key(config.seed)), nnx.Param, nnx.BatchStat)
    level = jnp.asarray(config.margin, jnp.float32)
    return State(jnp.zeros((), jnp.int32), params, stats, level, optimizer(config).init(params))


@partial(jax.jit, static_argnames="config", donate_argnames="state")
def train_step(config: Config, state: State, images: Any, labels: Any) -> tuple[State, dict[str, Any]]:
    """One step: kernels once, then the batch, centred by its own means."""

    def loss(params: Any) -> Any:
        model = nnx.view(nnx.merge(structure(config), params, state.stats, copy=True), use_running_average=False)
        plain = lipschitz.reparametrize(model)
        logits = plain(images.astype(jnp.float32) / 255)
        level = lipschitz.running_level(state.level, logits)
        options = dict(alpha=config.alpha, margin=config.margin, temperature=config.temperature, level=level)
        value = lipschitz.soft_hkr(logits, labels, **options).mean()
        return value, (nnx.state(plain, nnx.BatchStat), level, (logits.argmax(1) == labels).mean())

    (value, (stats, level, accuracy)), slope = jax.value_and_grad(loss, has_aux=True)(state.params)
    updates, momenta = optimizer(config).update(slope, state.momenta, state.params)
    params = optax.apply_updates(state.params, updates)
    found = {"loss": value, "gradient": optax.tree.norm(slope), "accuracy": accuracy}
    return State(state.step + 1, params, stats, level, momenta), found


def model_of(config: Config, state: State) -> Any:
    """The network of a state."""
    return nnx.merge(structure(config), state.params, state.stats)


# --- images: each process reads its part of each batch ---


class Augment(grain.transforms.RandomMap):
    """A random part of the image, of 8 to 100 % of its area, and a random mirror image."""

    def __init__(self, side: int):
        """Scale the part to this side."""
        self.side = side

    def random_map(self, element: Any, rng: np.random.Generator) -> Any:
        """Change one image."""
        image = Image.fromarray(element["image"])
        area, ratio = image.width * image.height * rng.uniform(0.08, 1), np.exp(rng.uniform(-1, 1) * np.log(4 / 3))
        width = min(image.width, max(1, round((area * ratio) ** 0.5)))
        height = min(image.height, max(1, round((area / ratio) ** 0.5)))
        left, top = rng.integers(0, image.width - width + 1), rng.integers(0, image.height - height + 1)
        box = (left, top, left + width, top + height)
        found = np.asarray(image.resize((self.side, self.side), Image.Resampling.BILINEAR, box=box))
        return {"image": found[:, ::-1] if rng.random() < 0.5 else found, "label": element["label"]}


def centre(image: np.ndarray, side: int) -> np.ndarray:
    """The middle seven eighths of the shorter side, scaled."""
    picture = Image.fromarray(image)
    edge = min(picture.size) * 7 / 8
    left, top = (picture.width - edge) / 2, (picture.height - edge) / 2
    box = (left, top, left + edge, top + edge)
    return np.asarray(picture.resize((side, side), Image.Resampling.BILINEAR, box=box))


def batches(config: Config, start: int) -> Iterator[Any]:
    """This process's part of the batches from a step on, endless, each epoch in another order."""
    source = tfds.data_source("imagenet2012", split="train", data_dir=config.data_dir)
    images = grain.MapDataset.source(source).seed(config.seed).shuffle()
    images = images[jax.process_index() :: jax.process_count()].repeat()
    images = images.random_map(Augment(config.side)).batch(config.batch // jax.process_count())
    options = grain.ReadOptions(num_threads=config.readers, prefetch_buffer_size=config.readers)
    iterator = iter(images.to_iter_dataset(options))
    iterator.set_state({"next_index": start})
    return iterator


def test_batches(config: Config) -> Iterator[Any]:
    """This process's part of the validation set; images without a label fill the last batch."""
    source = tfds.data_source("imagenet2012", split="validation", data_dir=config.data_dir)
    part = config.batch // jax.process_count()
    for first in range(jax.process_index() * part, -(-len(source) // config.batch) * config.batch, config.batch):
        rows = [source[i] for i in range(first, min(first + part, len(source)))]
        images = np.zeros((part, config.side, config.side, 3), np.uint8)
        labels = np.full(part, -1)
        for i, row in enumerate(rows):
            images[i], labels[i] = centre(row["image"], config.side), row["label"]
        yield {"image": images, "label": labels}


def spread(mesh: Mesh, batch: Any) -> tuple[Any, Any]:
    """The batch of all processes from each one's part."""
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    place = partial(jax.make_array_from_process_local_data, sharding)
    return place(batch["image"]), place(batch["label"].astype(np.int32))


# --- the run ---


def train(config: Config, mesh: Mesh) -> State:
    """The last state, from the last checkpoint of the folder if it holds one."""
    state = jax.jit(partial(create, config), out_shardings=NamedSharding(mesh, PartitionSpec()))()
    options = ocp.CheckpointManagerOptions(save_interval_steps=config.every, max_to_keep=2)
    with ocp.CheckpointManager(config.out.absolute() / "checkpoints", options=options) as manager:
        if (last := manager.latest_step()) is not None:
            state = manager.restore(last, args=ocp.args.StandardRestore(state))
            print(f"going on from step {last}")
        begin = int(state.step)
        for i, batch in zip(range(begin, config.steps), batches(config, begin), strict=False):
            state, found = train_step(config, state, *spread(mesh, batch))
            lipschitz.check_finite(found, model_of(config, state), batch["image"] / np.float32(255), step=i)
            if (i + 1) % 100 == 0:
                print(f"step {i + 1}: loss {found['loss']:.4f}, accuracy {found['accuracy']:.3f}", flush=True)
            manager.save(i + 1, args=ocp.args.StandardSave(state))
    return state


@jax.jit
def count(model: Any, images: Any, labels: Any) -> dict[str, Any]:
    """How many are right, and how many certified at each radius; the constant of what is before the head."""
    found = lipschitz.certify(model, images.astype(jnp.float32) / 255, head="rows")
    right = found.logits.argmax(1) == labels
    certain = right[:, None] & (found.radius[:, None] > jnp.asarray(lipschitz.RADII)[None])
    counts = {"images": (labels >= 0).sum(), "right": right.sum(), "certain": certain.sum(0)}
    return counts | {"lipschitz": found.lipschitz}


def test(config: Config, mesh: Mesh, state: State) -> dict[str, Any]:
    """Accuracy and certified accuracies of the validation set."""
    model = jax.jit(lambda state: lipschitz.fold(model_of(config, state)))(state)
    total: dict[str, Any] = {"images": 0, "right": 0, "certain": 0}
    bound = 0.0
    for batch in test_batches(config):
        found = jax.tree.map(np.asarray, count(model, *spread(mesh, batch)))
        total, bound = {name: total[name] + found[name] for name in total}, float(found["lipschitz"])
    shares = {
        f"certified {255 * r:.0f}": n / total["images"] for r, n in zip(lipschitz.RADII, total["certain"], strict=True)
    }
    shares = {"accuracy": total["right"] / total["images"], **shares}
    return {"images": int(total["images"]), "lipschitz": bound} | {name: float(v) for name, v in shares.items()}


def smallest(config: Config) -> Config:
    """The size of the tests."""
    return replace(config, side=16, widths=(4,), blocks=(1,), steps=4, batch=8, every=2, readers=1)


def main(config: Config) -> dict[str, Any]:
    """Train and test; return the record."""
    images = contextlib.nullcontext()
    if config.smoke:
        config = smallest(config)
        images = tfds.testing.mock_data(num_examples=20)
    if config.distributed:
        jax.distributed.initialize()
    mesh = Mesh(np.array(jax.devices()), ("data",))
    with images:
        record = test(config, mesh, train(config, mesh))
    record |= {"config": {name: str(value) for name, value in asdict(config).items()}}
    if jax.process_index() == 0:
        (config.out / "run.json").write_text(json.dumps(record, indent=2))
        print(json.dumps(record, indent=2))
    return record


if __name__ == "__main__":
    main(tyro.cli(Config))
