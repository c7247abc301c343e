"""Claim: ImageNet networks trained with ClickMe's maps look where people look, at equal or better accuracy.

The published recipe with the real pipeline: ImageNet from `tfds.data_source` (prepared once as ArrayRecord), ClickMe
from the ArrayRecord files that this writes from the public shards, one image in five with a map, mixed, cut and
flipped together by Grain, each process reading its part; a mesh over all devices; checkpoints of the state and of the
place in the data by Orbax. SGD with Nesterov momentum, label smoothing 0.1, a warm-up of 5 epochs and steps at 30, 60
and 80. Saliency is the signed mean over channels in training and the largest magnitude in evaluation, as published.
Batch statistics couple the images of a batch: saliencies of training carry that, as in the authors' code.

Command:  python experiments/harmonize_imagenet.py --clickme FOLDER [--data-dir TFDS] [--weight 2.0] [--out FOLDER]
          python experiments/harmonize_imagenet.py --smoke
          With --weight 0 the twin without maps. A killed run resumes. On several hosts: --distributed.
Hardware: a TPU or GPU pod for the run; --smoke runs on 2 CPU cores, on made-up images and a small network.
Time:     never run in full by us; --smoke half a minute, most of it compilation.
Expected: in the paper, ResNet-50 from 76 to 77.2 % accuracy and from 0.335 to 0.45 alignment. Not reproduced here.
"""

import json
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import tensorflow_datasets as tfds
import tyro
from flax import nnx
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from sparks_jax.alignment import harmonizer_loss, human_alignment, logits_and_saliency
from sparks_jax.data import clickme
from sparks_jax.data.human_maps import pipeline
from sparks_jax.images import heatmap
from sparks_jax.models.glyphnet import glyph_net
from sparks_jax.models.normalize import Normalized
from sparks_jax.models.resnet import resnet50

NETWORKS: dict[str, Callable[[nnx.Rngs], Any]] = {
    "resnet50": lambda rngs: Normalized(resnet50(rngs=rngs, dtype=jnp.bfloat16)),
    "glyphs": lambda rngs: glyph_net(clickme.NUM_CLASSES, widths=(4, 4, 4), rngs=rngs),
}


@dataclass(frozen=True)
class Config:
    """What is trained, on what, and how long."""

    out: Path = Path("sparks-out/harmonize_imagenet")  # checkpoints, ClickMe as ArrayRecord, record
    clickme: Path | None = None  # folder of the public shards
    data_dir: Path | None = None  # of tensorflow-datasets; None: its default
    network: str = "resnet50"
    size: int = 224
    batch: int = 1024  # of all processes together
    epoch: int = 1_281_167  # images counted as one
    epochs: float = 90.0
    rate: float = 0.7
    warmup: float = 5.0  # epochs
    decay: float = 1e-5  # of the kernels
    smoothing: float = 0.1  # of the labels
    weight: float = 2.0  # of the harmonizer's loss; 0: the twin
    mapped: float = 0.2  # share of the images with a map
    channels: Literal["mean", "l2"] = "mean"  # mean: signed, as published; l2: their norm, hides no sign or hue
    remat: bool = False
    workers: int = 8  # processes that read
    every: int = 1250  # steps between two checkpoints
    tested: int = 50_000  # images of each kind
    seed: int = 0
    distributed: bool = False
    smoke: bool = False

    @property
    def steps(self) -> int:
        """Of the training."""
        return int(self.epochs * self.epoch / self.batch)


class State(NamedTuple):
    """What a step changes."""

    step: Any
    params: Any
    stats: Any
    momenta: Any


# --- data ---


def sources(config: Config, split: str) -> list[Any]:
    """ClickMe and ImageNet, elements by index; ClickMe is converted the first time."""
    assert config.clickme is not None
    converted = config.out / f"clickme_{split}.array_record"
    if jax.process_index() == 0 and not converted.exists():
        print(f"ClickMe, {split}: {clickme.convert(clickme.shards(config.clickme, split), converted)}", flush=True)
    if config.distributed:
        multihost_utils.sync_global_devices("converted")
    imagenet = tfds.data_source("imagenet2012", split=tfds_split(split), data_dir=config.data_dir)
    return [grain.sources.ArrayRecordDataSource(str(converted)), imagenet]


def tfds_split(split: str) -> str:
    """What ImageNet calls it."""
    return {"train": "train", "val": "validation"}[split]


def batches(config: Config, given: list[Any], *, train: bool) -> Any:
    """Examples for this process."""
    shares = [config.mapped, 1 - config.mapped] if train else None
    data = pipeline(
        given, batch=config.batch // jax.process_count(), seed=config.seed, weights=shares, train=train,
        size=config.size, shard=(jax.process_index(), jax.process_count()),
    )  # fmt: skip
    return data.mp_prefetch(grain.MultiprocessingOptions(num_workers=config.workers)) if config.workers else data


def on_mesh(mesh: Mesh, batch: Any) -> Any:
    """A batch of this process as its part of the batch of all."""
    rows = NamedSharding(mesh, PartitionSpec("data"))
    return {name: jax.make_array_from_process_local_data(rows, array) for name, array in batch.items()}


def fixture(config: Config, folder: Path) -> Config:
    """A tiny run: eight records of noise in the public format, and a small network."""
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        noise = rng.integers(0, 256, (8, 24, 24, 4)).astype(np.uint8)
        records = [clickme.encode(image[..., :3], i, image[..., 3]) for i, image in enumerate(noise)]
        clickme.write(folder / f"{split}-0.tfrecords", records)
    return replace(
        config, clickme=folder, network="glyphs", size=16, batch=jax.device_count(), epoch=2 * jax.device_count(),
        epochs=1.5, warmup=0.5, workers=0, every=2, tested=8, mapped=0.5,
    )  # fmt: skip


# --- training ---


def structure(config: Config) -> Any:
    """What is no array in the network."""
    return nnx.graphdef(jax.eval_shape(lambda: NETWORKS[config.network](nnx.Rngs(0))))


def optimizer(config: Config) -> optax.GradientTransformation:
    """SGD with Nesterov momentum; the rate rises over the warm-up and falls to a tenth at 30, 60 and 80 epochs."""
    epoch = config.epoch / config.batch
    drops = {int((at - config.warmup) * epoch): 0.1 for at in (30, 60, 80)}
    rise = optax.linear_schedule(config.rate * 1e-3, config.rate, max(1, int(config.warmup * epoch)))
    rate = optax.join_schedules(
        [rise, optax.piecewise_constant_schedule(config.rate, drops)], [int(config.warmup * epoch)]
    )
    decay = optax.add_decayed_weights(config.decay, mask=partial(jax.tree.map, lambda p: p.ndim > 1))
    return optax.chain(decay, optax.sgd(rate, momentum=0.9, nesterov=True))


def create(config: Config) -> State:
    """The state before the first step."""
    params, stats = nnx.state(NETWORKS[config.network](nnx.Rngs(config.seed)), nnx.Param, nnx.BatchStat)
    return State(jnp.zeros((), jnp.int32), params, stats, optimizer(config).init(params))


def train_step(config: Config, state: State, batch: Any) -> tuple[State, dict[str, Any]]:
    """One step."""
    images, labels = batch["image"].astype(jnp.float32) / 255, batch["label"]

    def loss(params: Any) -> tuple[Any, Any]:
        def model(images: Any) -> tuple[Any, Any]:
            network = nnx.merge(structure(config), params, state.stats, copy=True)
            logits = nnx.view(network, use_running_average=False)(images)
            return logits, nnx.state(network, nnx.BatchStat)

        if config.weight:
            logits, saliency, stats = logits_and_saliency(model, images, labels, has_aux=True, remat=config.remat)
            maps = jax.vmap(partial(heatmap, how=config.channels))(saliency)
            looks = harmonizer_loss(maps, batch["human_map"], batch["has_map"])
        else:
            (logits, stats), looks = model(images), 0.0
        targets = optax.smooth_labels(jax.nn.one_hot(labels, logits.shape[-1]), config.smoothing)
        entropy = optax.softmax_cross_entropy(logits, targets).mean()
        found = {"entropy": entropy, "looks": looks, "accuracy": (logits.argmax(-1) == labels).mean()}
        return entropy + config.weight * looks, (stats, found)

    (_, (stats, found)), gradient = jax.value_and_grad(loss, has_aux=True)(state.params)
    updates, momenta = optimizer(config).update(gradient, state.momenta, state.params)
    return State(state.step + 1, optax.apply_updates(state.params, updates), stats, momenta), found


def train(config: Config, mesh: Mesh) -> State:
    """The state after the last step, from the last checkpoint of the folder if it holds one."""
    everywhere = NamedSharding(mesh, PartitionSpec())
    state = jax.jit(partial(create, config), out_shardings=everywhere)()
    step = jax.jit(partial(train_step, config), donate_argnums=0)
    data = iter(batches(config, sources(config, "train"), train=True))
    options = ocp.CheckpointManagerOptions(save_interval_steps=config.every, max_to_keep=2)
    with ocp.CheckpointManager(config.out.absolute() / "checkpoints", options=options) as manager:
        if (last := manager.latest_step()) is not None:
            restored = manager.restore(
                last,
                args=ocp.args.Composite(
                    state=ocp.args.StandardRestore(state), data=grain.checkpoint.CheckpointRestore(data)
                ),
            )
            state, data = restored["state"], restored["data"]
            print(f"going on from step {last}")
        begin = time.perf_counter()
        for i in range(int(state.step), config.steps):
            state, found = step(state, on_mesh(mesh, next(data)))
            if (i + 1) % 50 == 0 or config.smoke:
                told = ", ".join(f"{name} {float(value):.3f}" for name, value in found.items())
                print(f"step {i + 1}: {told}, {time.perf_counter() - begin:.0f} s", flush=True)
            saved = ocp.args.Composite(state=ocp.args.StandardSave(state), data=grain.checkpoint.CheckpointSave(data))
            manager.save(i + 1, args=saved)
    return state


# --- evaluation ---


def examine(config: Config, state: State, batch: Any) -> dict[str, Any]:
    """What each image of a batch adds: is it right, and how far does its map agree with people?"""
    network = nnx.merge(structure(config), state.params, state.stats)
    logits, saliency = logits_and_saliency(network, batch["image"].astype(jnp.float32) / 255, batch["label"])
    maps = jax.vmap(partial(heatmap, how="max"))(saliency)
    right = logits.argmax(-1) == batch["label"]
    return {"right": right, "alignment": human_alignment(maps, batch["human_map"]), "has_map": batch["has_map"]}


def evaluate(config: Config, state: State) -> dict[str, float]:
    """Accuracy on ImageNet, accuracy and alignment on ClickMe; of the images that this process reads."""
    run = jax.jit(partial(examine, config))
    names, found = ("ClickMe", "ImageNet"), {}
    for name, source in zip(names, sources(config, "val"), strict=True):
        rows = []
        for batch in batches(replace(config, workers=0), [source], train=False):
            rows.append(jax.tree.map(np.asarray, run(state, batch)))
            if sum(len(row["right"]) for row in rows) >= config.tested:
                break
        row = {key: np.concatenate([r[key] for r in rows]) for key in rows[0]}
        found[f"accuracy, {name}"] = float(row["right"].mean())
        if row["has_map"].any():
            found["alignment"] = float(row["alignment"][row["has_map"]].mean())
    return found


def main(config: Config) -> dict[str, Any]:
    """Train, test, write the record and return it."""
    if config.distributed:
        jax.distributed.initialize()
    config.out.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        if config.smoke:
            config = fixture(config, Path(stack.enter_context(tempfile.TemporaryDirectory())))
            stack.enter_context(tfds.testing.mock_data(num_examples=16))
        if config.clickme is None:
            raise SystemExit("give the folder of ClickMe's shards: --clickme FOLDER, or try --smoke")
        mesh = Mesh(np.array(jax.devices()), ("data",))
        state = train(config, mesh)
        record = {"config": {k: str(v) for k, v in asdict(config).items()}, **evaluate(config, state)}
    if jax.process_index() == 0:
        (config.out / "run.json").write_text(json.dumps(record, indent=2))
    print(json.dumps(record, indent=2))
    return record


if __name__ == "__main__":
    main(tyro.cli(Config))
