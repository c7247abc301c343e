"""Claim: a network taught to look where people look agrees with them and, in every channel, goes less by the tag.

Every image of the glyph world carries a tag whose colour tells the class. Twins of one start and one stream of images
are trained: by cross-entropy; by it and the harmonizer's loss as published, of the gradient of a logit averaged over
channels, of which it cuts what is negative; by it and the same loss of every channel, the norm of the gradient of the
logit less the mean of the logits. The maps of people are those of simulated ones, who click on the glyph and now and
then elsewhere, for half of the images. Then, on fresh images: how far do saliency maps agree with people, in units of
how far people agree with each other; how accurate is the network where tags are as in training, where their colour says
nothing, and without any? Over several starts, with Student's intervals of the means and of the differences between
twins.

Command:  python experiments/harmonize_glyphs.py [--smoke] [--out FOLDER] [--seeds 6]
          A killed run goes on with the networks that its folder holds.
Hardware: 2 CPU cores.
Time:     65 minutes, 11 for each start; --smoke 40 seconds, most of it compilation.
Expected: six starts, 512 fresh images: alignment -0.01 plain, 0.52 as published, 0.80 of every channel; accuracy 1.000,
          1.000 and 0.926 [0.797, 1.055] (five starts 0.96 to 1.00, one 0.68), and where the colour of the tag says
          nothing 0.338, 0.342 and 0.655 [0.460, 0.849], a gain of 0.32 [0.12, 0.51] (chance is 0.333). People agree
          by 0.66. Seed 0, jax 0.10.1.
          With other settings, as published: --agreement 0.9 --weight 20 --steps 800, two starts: 0.350 plain, 0.401
          harmonized where the colour says nothing; --agreement 0.8 --weight 5 --steps 800, one start: 0.701, 0.680;
          --agreement 0.5 --weight 20 --steps 1200, one start: 0.990, 0.887.
"""

import csv
import json
import time
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from jaxtyping import Array, Float, PRNGKeyArray
from optax.contrib import muon
from scipy import stats

from sparks_jax import viz
from sparks_jax.alignment import alignment, harmonizer_loss, logits_and_saliency, split_half
from sparks_jax.data.annotators import annotations
from sparks_jax.data.glyphs import CLASSES, Glyphs, glyphs
from sparks_jax.images import heatmap


@dataclass(frozen=True)
class Config:
    """What is trained, on what, and how long."""

    out: Path = Path("sparks-out/harmonize_glyphs")  # networks, table.csv, run.json, maps.png
    seeds: int = 6  # starts, each with a stream of images of its own
    steps: int = 2500
    batch: int = 32
    size: int = 32  # side of the images
    classes: int = 3
    distractors: int = 1
    rate: float = 0.02  # highest learning rate of Muon
    adam_rate: float = 3e-3  # and of Adam, for the last layer and the vectors
    weight: float = 50.0  # of the harmonizer's loss
    mapped: float = 0.5  # share of the images with a map of people
    agreement: float = 1.0  # share of the tags tied to the class; below 1 the plain twin finds the glyph, too, in time
    people: int = 6
    clicks: int = 8  # of each
    stray: float = 0.1  # share of them anywhere
    tested: int = 512
    halved: int = 128  # images by which people are compared with each other
    pictures: int = 6
    chunk: int = 256
    smoke: bool = False


# How the loss on maps sees the network; "plain" has none. "as published": the gradient of the logit, its channels
# averaged. "every channel": the norm of the gradient over channels, of the logit less the mean of all logits.
TWINS = ("plain", "as published", "every channel")
# Kernel size, stride and channels of each convolution; equal shapes are residual.
LAYERS = ((5, 2, 16), (3, 1, 32), (3, 2, 64), (3, 1, 64), (3, 2, 64))
# Share of the tags tied to the class, and share of the images with a tag; None: as in training.
WORLDS = {"tags as in training": (None, 1.0), "tags of a random colour": (0.0, 1.0), "no tags": (0.0, 0.0)}
REDUCERS = {"unsigned": "max", "signed": "mean"}  # the published measure, and what was trained


# --- the network ---


def convolution(x: Float[Array, "b h w c"], kernel: Array, side: int, stride: int) -> Float[Array, "b gh gw d"]:
    """A convolution as one matrix product: its derivatives of every order are matrix products, too.

    The gradient of a gradient of JAX's own is made of convolutions that XLA:CPU runs slowly.
    """
    margin, rows = side // 2, -(-x.shape[1] // stride)
    x = jnp.pad(x, ((0, 0), (margin, margin), (margin, margin), (0, 0)))
    span = (rows - 1) * stride + 1
    taps = [x[:, i : i + span : stride, j : j + span : stride] for i in range(side) for j in range(side)]
    return jnp.concatenate(taps, -1) @ kernel


def normalised(x: Float[Array, "b h w c"], scale: Array, shift: Array) -> Float[Array, "b h w c"]:
    """Mean 0 and variance 1 of each image, then a scale and a shift of each channel: images of a batch do not meet."""
    centred = x - x.mean((1, 2, 3), keepdims=True)
    x = centred * jax.lax.rsqrt(jnp.square(centred).mean((1, 2, 3), keepdims=True) + 1e-5)
    return x * scale[None, None, None] + shift[None, None, None]


def network(params: Any, images: Float[Array, "b h w c"]) -> Float[Array, "b m"]:
    """Logits."""
    x = (images - 0.5) / 0.25
    for (kernel, scale, shift), (side, stride, _) in zip(params["layers"], LAYERS, strict=True):
        y = normalised(convolution(x, kernel, side, stride), scale, shift)
        x = jax.nn.relu(y + x if x.shape == y.shape else y)
    return x.mean((1, 2)) @ params["last"] + params["bias"][None]


def start(key: PRNGKeyArray, num_classes: int) -> Any:
    """He's normal initialisation; kernels are matrices from the pixels and channels that taps meet.

    The last layer is not zero: then the maps were, and the harmonizer's loss, which is least at a map of zeros beside
    its epsilon, would keep them so.
    """
    channels, layers = 3, []
    key_last, *keys = jax.random.split(key, 1 + len(LAYERS))
    for key_layer, (side, _, width) in zip(keys, LAYERS, strict=True):
        kernel = jax.random.normal(key_layer, (side**2 * channels, width)) * (2 / (side**2 * channels)) ** 0.5
        layers.append((kernel, jnp.ones(width), jnp.zeros(width)))
        channels = width
    last = jax.random.normal(key_last, (channels, num_classes)) / channels**0.5
    return {"layers": layers, "last": last, "bias": jnp.zeros(num_classes)}


# --- training ---


def optimizer(config: Config) -> optax.GradientTransformation:
    """Muon for the kernels, Adam for the rest; the rates rise over a tenth of the steps and fall along a cosine."""
    rate, adam = (
        optax.warmup_cosine_decay_schedule(0.0, peak, max(1, config.steps // 10), config.steps)
        for peak in (config.rate, config.adam_rate)
    )
    return muon(rate, adam_learning_rate=adam, muon_weight_dimension_numbers=kernels_only)


def kernels_only(params: Any) -> Any:
    """Muon's way to say which parameters are matrices: the kernels, not the last layer."""
    matrix = optax.contrib.MuonDimensionNumbers(0, 1)
    return {"layers": [(matrix, None, None) for _ in params["layers"]], "last": None, "bias": None}


def draw_world(config: Config, num: int, key: PRNGKeyArray, shortcut: float, agreement: float) -> Glyphs:
    """Images and all that is true of them."""
    return glyphs(
        num, key=key, size=config.size, num_classes=config.classes, num_distractors=config.distractors,
        shortcut=shortcut, agreement=agreement, chunk=config.chunk,
    )  # fmt: skip


def maps_of_people(config: Config, world: Glyphs, key: PRNGKeyArray) -> Float[Array, "n a h w"]:
    """The map of each person for each image."""
    keys = jax.random.split(key, len(world.labels))
    given = dict(num_people=config.people, num_clicks=config.clicks, stray=config.stray)
    return jax.vmap(lambda mask, key: annotations(mask, key=key, **given))(world.masks, keys)


def centred(model: Any, images: Float[Array, "b h w c"]) -> Float[Array, "b m"]:
    """Logits less their mean: the same probabilities, and a gradient in which the other classes count."""
    logits = model(images)
    return logits - logits.mean(-1, keepdims=True)


def logits_and_maps(twin: str, model: Any, world: Glyphs) -> tuple[Float[Array, "b m"], Float[Array, "b h w"]]:
    """Logits, and the maps that are compared with those of people."""
    if twin == "as published":
        logits, saliency = logits_and_saliency(model, world.images, world.labels)
        return logits, saliency.mean(-1)
    logits, saliency = logits_and_saliency(partial(centred, model), world.images, world.labels)
    return logits, jax.vmap(heatmap)(saliency)


def train_step(config: Config, twin: str, seed: Any, state: Any) -> tuple[Any, dict[str, Any]]:
    """One step, on images that are drawn for it, and maps for some of them."""
    step, params, momenta = state
    key_world, key_people, key_mapped = jax.random.split(jax.random.fold_in(jax.random.key(seed), step), 3)
    world = draw_world(config, config.batch, key_world, 1.0, config.agreement)

    def loss(params: Any) -> tuple[Any, Any]:
        model = partial(network, params)
        if twin == "plain":
            logits, looks = model(world.images), 0.0
        else:
            logits, maps = logits_and_maps(twin, model, world)
            people = maps_of_people(config, world, key_people).mean(1)
            has_map = jax.random.uniform(key_mapped, world.labels.shape) < config.mapped
            looks = harmonizer_loss(maps, people, has_map)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, world.labels)
        accuracy = (logits.argmax(-1) == world.labels).mean()
        return losses.mean() + config.weight * looks, {"accuracy": accuracy, "looks": looks}

    (value, found), gradient = jax.value_and_grad(loss, has_aux=True)(params)
    updates, momenta = optimizer(config).update(gradient, momenta, params)
    return (step + 1, optax.apply_updates(params, updates), momenta), found | {"loss": value}


def train(config: Config, step: Any, twin: str, seed: int) -> Any:
    """The parameters after the last step, going on from what the work folder holds."""
    params = start(jax.random.key(seed), config.classes)
    state = (jnp.zeros((), jnp.int32), params, optimizer(config).init(params))
    kept = config.out / "networks" / f"{twin.replace(' ', '_')}_{seed}.npz"
    if kept.exists():
        arrays = np.load(kept)
        state = jax.tree.unflatten(jax.tree.structure(state), [jnp.asarray(arrays[name]) for name in arrays])
    kept.parent.mkdir(parents=True, exist_ok=True)
    begin = time.perf_counter()
    for i in range(int(state[0]), config.steps):
        state, found = step(seed, state)
        if (i + 1) % 200 == 0 or i + 1 == config.steps:
            told = ", ".join(f"{name} {float(value):.3f}" for name, value in found.items())
            print(f"{twin}, seed {seed}, step {i + 1}: {told}, {time.perf_counter() - begin:.0f} s", flush=True)
            np.savez(kept, *map(np.asarray, jax.tree.leaves(state)))
    return state[1]


# --- what is asked of a network ---


def saliencies(params: Any, images: Array, labels: Array) -> Float[Array, "n h w c"]:
    """Gradient of the logit of each image's class."""
    return logits_and_saliency(partial(network, params), images, labels)[1]


def in_chunks(config: Config, function: Any, *arrays: Array) -> np.ndarray:
    """A compiled function of many images, some at once."""
    starts = range(0, len(arrays[0]), config.chunk)
    return np.concatenate([np.asarray(function(*(a[i : i + config.chunk] for a in arrays))) for i in starts])


def examine(config: Config, programs: dict[str, Any], params: Any, worlds: dict[str, Glyphs], people: Array) -> Any:
    """Accuracy in each world, and where the network looks in the one of training."""
    row, maps = {}, {}
    for name, world in worlds.items():
        logits = in_chunks(config, partial(programs["network"], params), world.images)
        row[f"accuracy, {name}"] = float((logits.argmax(-1) == world.labels).mean())
    world = worlds["tags as in training"]
    signed = in_chunks(config, partial(programs["saliencies"], params), world.images, world.labels)
    for name, how in REDUCERS.items():
        maps[name] = jax.vmap(partial(heatmap, how=how))(jnp.asarray(signed))
        found = programs["alignment"](maps[name], people)
        row[f"alignment, {name}"] = float(found.mean)
        row[f"alignment of shuffled maps, {name}"] = float(found.shuffled)
        row["alignment of the centre"] = float(found.centre)
    for name, where in {"glyph": world.masks, "tag": world.tags}.items():
        row[f"mass on the {name}"] = float(
            (maps["unsigned"] * where).sum((1, 2)).mean() / maps["unsigned"].sum((1, 2)).mean()
        )
    return row, maps


def interval(values: Any) -> dict[str, float]:
    """Mean over seeds with Student's 95 % interval; of one seed the mean alone."""
    values = np.asarray(values, np.float64)
    mean, n = float(values.mean()), len(values)
    half = stats.t.ppf(0.975, n - 1) * values.std(ddof=1) / n**0.5 if n > 1 else 0.0
    return {"mean": mean, "low": float(mean - half), "high": float(mean + half)}


def summary(rows: dict[str, list[dict[str, float]]]) -> list[dict[str, Any]]:
    """For each measure the twins, and how two of them differ from the plain one, over the seeds."""
    table = []
    for name in rows["plain"][0]:
        values = {twin: np.array([row[name] for row in rows[twin]]) for twin in TWINS}
        told = values | {f"{twin} - plain": values[twin] - values["plain"] for twin in TWINS[1:]}
        table.append({"measure": name} | {f"{k}, {end}": v for k, a in told.items() for end, v in interval(a).items()})
    return table


def show(table: list[dict[str, Any]]) -> None:
    """Print the table."""
    columns = [name.removesuffix(", mean") for name in table[0] if name.endswith(", mean")]
    print(f"\n{'':44}" + "".join(f"{name:>26}" for name in columns))
    for row in table:
        cells = (f"{row[f'{k}, mean']:.3f} [{row[f'{k}, low']:.3f}, {row[f'{k}, high']:.3f}]" for k in columns)
        print(f"{row['measure']:44}" + "".join(f"{cell:>26}" for cell in cells))


def draw(config: Config, world: Glyphs, people: Array, maps: dict[str, Any]) -> None:
    """A picture: images with their tags, where people click, and where each twin looks."""
    n = config.pictures
    columns = {"people": people[:n]} | {twin: maps[twin]["unsigned"][:n] for twin in TWINS}
    titles = [f"{CLASSES[y]}, tag of {CLASSES[cue]}" for y, cue in zip(world.labels[:n], world.cues[:n], strict=True)]
    columns = {name: [np.asarray(m) for m in column] for name, column in columns.items()}
    viz.grid(list(world.images[:n]), columns, titles, side=1.6).savefig(config.out / "maps.png", dpi=120)


def main(config: Config) -> dict[str, Any]:
    """Train the twins of every seed, print and write what they do; return the record."""
    if config.smoke:
        config = replace(
            config, seeds=1, steps=2, batch=4, size=16, tested=8, halved=8, pictures=2, chunk=8, people=2, clicks=2
        )
    config.out.mkdir(parents=True, exist_ok=True)
    begin = time.perf_counter()
    steps = {twin: jax.jit(partial(train_step, config, twin), donate_argnums=1) for twin in TWINS}
    worlds = {}
    for name, (agreement, shortcut) in WORLDS.items():
        agreement = config.agreement if agreement is None else agreement
        world = draw_world(config, config.tested, jax.random.key(1000), shortcut, agreement)
        worlds[name] = jax.tree.map(np.asarray, world)
    world = worlds["tags as in training"]
    everyone = jax.jit(partial(maps_of_people, config))(world, jax.random.key(1001))
    keys = jax.random.split(jax.random.key(1002), config.halved)
    agreement_of = jax.jit(jax.vmap(lambda a, k: split_half(a, key=k, num_splits=4)))
    ceiling = float(agreement_of(everyone[: config.halved], keys).mean())
    people = everyone.mean(1)
    programs = {
        "network": jax.jit(network),
        "saliencies": jax.jit(saliencies),
        "alignment": jax.jit(partial(alignment, key=jax.random.key(1003), ceiling=ceiling)),
    }
    rows, maps = {twin: [] for twin in TWINS}, {}
    for seed in range(config.seeds):
        for twin, step in steps.items():
            row, seen = examine(config, programs, train(config, step, twin, seed), worlds, people)
            rows[twin].append(row)
            maps.setdefault(twin, seen)  # those of the first seed are drawn
    table = summary(rows)
    print(f"rank correlation of one half of the people with the other: {ceiling:.4f}, by which alignments are divided")
    show(table)
    with (config.out / "table.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, table[0])
        writer.writeheader()
        writer.writerows(table)
    record = {
        "config": {name: str(value) for name, value in asdict(config).items()},
        "jax": jax.__version__,
        "seconds": round(time.perf_counter() - begin, 1),
        "ceiling": ceiling,
        "seeds": rows,
        "table": table,
    }
    (config.out / "run.json").write_text(json.dumps(record, indent=2))
    draw(config, world, people, maps)
    return record


if __name__ == "__main__":
    main(tyro.cli(Config))
