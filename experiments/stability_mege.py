"""Claim: networks with normalised layers explain themselves more reproducibly than plain ones of similar accuracy.

Small convolutional networks on the 8 x 8 digits, five of each kind, each trained without one of five stratified folds
and all five in one `vmap` over stacked parameters; the normalised kind divides every kernel by its operator norm. MeGe
and ReCo of several methods, of both kinds, with bootstrap intervals over the images; then the difference between the
kinds over repetitions with other folds and other starts. Also what training the five at once costs, in units of one
network on batches five times as large, in turns in the same process.

Command:  python experiments/stability_mege.py [--smoke] [--out FOLDER] [--repeats 5]
Hardware: 2 CPU cores.
Time:     24 minutes on a busy machine; --smoke half a minute.
Expected: MeGe of normalised networks is higher by every method, by 0.034 [0.031, 0.037] for saliency, 0.009 [0.007,
          0.011] for Grad-CAM, 0.036 [0.026, 0.046] for RISE; ReCo is clearly higher for saliency, gradient x input and
          integrated gradients only, of few pairs that disagree. Accuracies 98.0 to 98.2 % and 97.5 to 97.9 %. Five
          stacked networks train in 1.09 times the time of a wider batch (target 1.5). Seed 0, jax 0.10.1.
"""

import csv
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from jax.tree_util import Partial
from jaxtyping import Array, Float, PRNGKeyArray
from scipy import stats

from sparks_jax import attribution as methods
from sparks_jax import linalg
from sparks_jax.data import digits, stratified_folds
from sparks_jax.metrics import Agreement, reproducibility
from sparks_jax.scores import logit

WIDTHS, STRIDES = (1, 16, 32, 32), (1, 2, 1)
SIDES = (8, 8, 4)  # of the images that the convolutions are given
METHODS = ("saliency", "gradient_input", "integrated_gradients", "smoothgrad", "grad_cam", "rise", "sobol")


@dataclass(frozen=True)
class Config:
    """What is trained and explained, and how often."""

    out: Path = Path("sparks-out/stability_mege")  # table.csv and run.json
    methods: tuple[str, ...] = METHODS
    folds: int = 5
    repeats: int = 5  # with other folds and other starts
    images: int = 1797  # trained on, but for a fold
    explained: int = 400  # the first so many
    steps: int = 1000
    batch: int = 64  # of each network
    rate: float = 2e-3
    temperature: float = 30.0  # multiplies the logits of the normalised networks in the loss
    power_steps: int = 10  # of the power iteration, at each step of the training
    masks: int = 256  # of RISE; SmoothGrad draws an eighth, Sobol' 18 times a sixteenth
    bootstraps: int = 1000
    timed_steps: int = 100
    seed: int = 0
    smoke: bool = False


# --- the network: three convolutions and a linear map ---


def patches(x: Float[Array, "b h w c"], stride: int) -> Float[Array, "b gh gw k"]:
    """What the taps of a 3 x 3 kernel meet.

    Convolution by patches and one matrix product becomes, under `vmap` over kernels, a batched product; a grouped
    convolution, which JAX makes of its own, takes XLA:CPU some 20 times as long.
    """
    side = -(-x.shape[1] // stride)
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    span = (side - 1) * stride + 1
    return jnp.concatenate([x[:, i : i + span : stride, j : j + span : stride] for i in range(3) for j in range(3)], -1)


def features(params: Any, x: Float[Array, "b h w c"]) -> Float[Array, "b gh gw d"]:
    """Activations of the last convolution, 4 x 4."""
    for (kernel, bias), stride in zip(params[:-1], STRIDES, strict=True):
        x = jax.nn.relu(patches(x, stride) @ kernel + bias[None, None, None])
    return x


def head(params: Any, acts: Float[Array, "b gh gw d"]) -> Float[Array, "b m"]:
    """Logits from the activations."""
    kernel, bias = params[-1]
    return acts.reshape(len(acts), -1) @ kernel + bias[None]


def network(params: Any, x: Float[Array, "b h w c"]) -> Float[Array, "b m"]:
    """Logits."""
    return head(params, features(params, x))


def start(key: PRNGKeyArray) -> Any:
    """He's normal initialisation; kernels `(9 c, d)` and `(512, 10)`."""
    shapes = [(9 * c, d) for c, d in zip(WIDTHS, WIDTHS[1:], strict=False)] + [(16 * WIDTHS[-1], 10)]
    keys = jax.random.split(key, len(shapes))
    return [(jax.random.normal(k, s) * (2 / s[0]) ** 0.5, jnp.zeros(s[1])) for k, s in zip(keys, shapes, strict=True)]


def operator_norms(params: Any, steps: int) -> list[Array]:
    """The largest singular value of each linear map, as it acts on images with its padding and stride."""
    maps = [
        (lambda v, kernel=kernel, stride=stride: patches(v, stride) @ kernel, (1, side, side, channels))
        for (kernel, _), stride, side, channels in zip(params[:-1], STRIDES, SIDES, WIDTHS[:-1], strict=True)
    ]
    maps.append((lambda v: v @ params[-1][0], params[-1][0].shape[:1]))
    start = jax.random.key(0)
    return [linalg.power_iteration(f, jax.ShapeDtypeStruct(s, jnp.float32), key=start, steps=steps) for f, s in maps]


def plain(params: Any, steps: int) -> Any:
    """The parameters as they are."""
    del steps
    return params


def normalised(params: Any, steps: int) -> Any:
    """Every kernel divided by its operator norm: a network of Lipschitz constant 1, ReLUs included."""
    return [(k / s, b) for (k, b), s in zip(params, operator_norms(params, steps), strict=True)]


# Of each kind: what becomes of the parameters, and whether the temperature is used.
KINDS: dict[str, tuple[Callable[..., Any], bool]] = {"plain": (plain, False), "normalised": (normalised, True)}


# --- training: a scan over steps; many networks are a vmap of it ---


def train(config: Config, kind: str, params: Any, images: Array, labels: Array, batches: Array) -> Any:
    """Adam with a cosine schedule over `batches`, rows of indices of images."""
    constrain, tempered = KINDS[kind]
    temperature = config.temperature if tempered else 1.0
    optimiser = optax.adam(optax.cosine_decay_schedule(config.rate, len(batches)))

    def loss(params: Any, rows: Array) -> Array:
        logits = network(constrain(params, config.power_steps), images[rows])
        return optax.softmax_cross_entropy_with_integer_labels(temperature * logits, labels[rows]).mean()

    def step(state: Any, rows: Array) -> tuple[Any, None]:
        params, moments = state
        updates, moments = optimiser.update(jax.grad(loss)(params, rows), moments)
        return (optax.apply_updates(params, updates), moments), None

    return jax.lax.scan(step, (params, optimiser.init(params)), batches)[0][0]


def shuffled(rng: np.random.Generator, rows: np.ndarray, steps: int, batch: int) -> np.ndarray:
    """Batches of these rows, each epoch in another order."""
    epochs = -(-steps * batch // len(rows))
    return np.concatenate([rng.permutation(rows) for _ in range(epochs)])[: steps * batch].reshape(steps, batch)


def cost_of_stacking(config: Config, stacked: Any, images: Array, labels: Array) -> dict[str, float]:
    """Milliseconds a step of all networks in one vmap, and of one network on a batch as large as theirs together."""
    k, batch = config.folds, config.batch
    rng = np.random.default_rng(config.seed)
    rows = shuffled(rng, np.arange(len(images)), config.timed_steps, k * batch)
    many = rows.reshape(-1, k, batch).swapaxes(0, 1)
    starts = jax.vmap(start)(jax.random.split(jax.random.key(config.seed), k))
    single, first = jax.jit(partial(train, config, "plain")), jax.tree.map(lambda p: p[0], starts)
    runs = {
        "stacked": lambda: stacked(starts, images, labels, many),
        "wider": lambda: single(first, images, labels, rows),
    }
    seconds = {name: [] for name in runs}
    for _ in range(4):  # in turns; the first one compiles and does not count
        for name, run in runs.items():
            begin = time.perf_counter()
            jax.block_until_ready(run())
            seconds[name].append(time.perf_counter() - begin)
    each = {name: 1e3 * min(times[1:]) / config.timed_steps for name, times in seconds.items()}
    return each | {"ratio": each["stacked"] / each["wider"]}


# --- explanations ---


def methods_of(config: Config, key: PRNGKeyArray) -> dict[str, Callable[[Any, Array, Array], Array]]:
    """From parameters, an image and its label to a map `(h w)`, the randomness shared by all."""
    score = lambda p, y: logit(Partial(network, p), y)
    halves = lambda p, y: (Partial(features, p), logit(Partial(head, p), y))
    samples, designs = max(4, config.masks // 8), max(2, config.masks // 16)
    every = {
        "saliency": lambda p, x, y: methods.saliency(score(p, y), x)[..., 0],
        "gradient_input": lambda p, x, y: methods.gradient_input(score(p, y), x)[..., 0],
        "integrated_gradients": lambda p, x, y: methods.integrated_gradients(score(p, y), x, num_steps=16)[..., 0],
        "smoothgrad": lambda p, x, y: methods.smoothgrad(score(p, y), x, key=key, num_samples=samples)[..., 0],
        "grad_cam": lambda p, x, y: methods.grad_cam(*halves(p, y), x),
        "rise": lambda p, x, y: methods.rise(score(p, y), x, key=key, num_masks=config.masks, grid=4),
        "sobol": lambda p, x, y: methods.sobol(score(p, y), x, key=key, grid=4, num_designs=designs),
    }
    return {name: every[name] for name in config.methods}


def mapped(method: Callable[[Any, Array, Array], Array]) -> Callable[..., Any]:
    """Maps of all images by all networks, `(networks, n, h, w)`."""
    over_images = lambda p, xs, ys: jax.lax.map(lambda xy: method(p, *xy), (xs, ys), batch_size=32)
    return jax.jit(jax.vmap(over_images, (0, None, None)))


def repeat(config: Config, programs: dict[str, Any], images: Array, labels: Array, seed: int) -> dict[str, Any]:
    """Train both kinds on the same folds, from the same starts, and measure every method on both."""
    key_folds, key_start = jax.random.split(jax.random.key(seed))
    folds = stratified_folds(labels, config.folds, key=key_folds)
    seen = folds != np.arange(config.folds)[:, None]
    rng = np.random.default_rng(seed)
    batches = np.stack([shuffled(rng, np.flatnonzero(row), config.steps, config.batch) for row in seen])
    starts = jax.vmap(start)(jax.random.split(key_start, config.folds))
    found = {}
    for kind in KINDS:
        params, norms = programs["constrain", kind](programs["train", kind](starts, images, labels, batches))
        correct = programs["classify"](params, images) == labels[None]
        record = {"accuracy": correct[~seen].mean(), "lipschitz": norms.max()}
        n = config.explained
        maps = {name: run(params, images[:n], labels[:n]) for name, run in programs["methods"].items()}
        agreements = {name: programs["measure"](m, correct[:, :n], seen[:, :n]) for name, m in maps.items()}
        found[kind] = jax.tree.map(np.asarray, record | {"agreements": agreements})
    return found


def programs_of(config: Config, key: PRNGKeyArray) -> dict[Any, Any]:
    """Every program, to be compiled once."""

    def constrained(kind: str, params: Any) -> tuple[Any, Array]:
        params = KINDS[kind][0](params, 100)
        return params, jnp.stack(operator_norms(params, 200)).prod()

    return {
        **{("train", kind): jax.jit(jax.vmap(partial(train, config, kind), (0, None, None, 0))) for kind in KINDS},
        **{("constrain", kind): jax.jit(jax.vmap(partial(constrained, kind))) for kind in KINDS},
        "classify": jax.jit(jax.vmap(lambda p, x: network(p, x).argmax(-1), (0, None))),
        "methods": {name: mapped(method) for name, method in methods_of(config, key).items()},
        "measure": jax.jit(partial(reproducibility, key=key, num_bootstraps=config.bootstraps)),
    }


# --- what is told ---


def summary(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row for each method: both kinds in the first repetition, and their difference over all of them."""
    rows = []
    for method in runs[0]["plain"]["agreements"]:
        row: dict[str, Any] = {"method": method}
        of = lambda run, kind, method=method: run[kind]["agreements"][method]
        for measure in ("mege", "reco"):
            for kind in KINDS:
                first: Agreement = of(runs[0], kind)
                ends = getattr(first, f"{measure}_interval")
                row |= {f"{measure}_{kind}": float(getattr(first, measure))}
                row |= {f"{measure}_{kind}_{end}": float(v) for end, v in zip(("lower", "upper"), ends, strict=True)}
            differences = [getattr(of(r, "normalised"), measure) - getattr(of(r, "plain"), measure) for r in runs]
            row |= {f"{measure}_difference_{end}": v for end, v in interval(runs, differences, of, measure).items()}
        rows.append(row)
    return rows


def interval(runs: list[dict[str, Any]], differences: list[Any], of: Any, measure: str) -> dict[str, float]:
    """Mean difference with its 95 % interval: Student's over repetitions, or the paired bootstrap's of a single one."""
    mean = float(np.mean(differences))
    if len(runs) > 1:
        half = stats.t.ppf(0.975, len(runs) - 1) * np.std(differences, ddof=1) / len(runs) ** 0.5
        return {"mean": mean, "lower": float(mean - half), "upper": float(mean + half)}
    draws = [getattr(of(runs[0], kind), f"{measure}s") for kind in ("normalised", "plain")]
    lower, upper = np.quantile(draws[0] - draws[1], [0.025, 0.975])
    return {"mean": mean, "lower": float(lower), "upper": float(upper)}


def show(rows: list[dict[str, Any]]) -> None:
    """Print the table."""
    for measure in ("mege", "reco"):
        print(f"\n{measure:22}{'plain':>22}{'normalised':>22}{'normalised - plain':>26}")
        for row in rows:
            cells = ""
            for name in ("plain", "normalised", "difference"):
                mean = row[f"{measure}_{name}" + ("_mean" if name == "difference" else "")]
                lower, upper = (row[f"{measure}_{name}_{end}"] for end in ("lower", "upper"))
                sign, width = ("+", 26) if name == "difference" else ("", 22)
                cells += f"{f'{mean:{sign}.3f} [{lower:{sign}.3f}, {upper:{sign}.3f}]':>{width}}"
            print(f"{row['method']:22}{cells}", flush=True)


def main(config: Config) -> dict[str, Any]:
    """Print the tables, write them, and return them."""
    if config.smoke:
        config = replace(
            config, methods=("saliency", "grad_cam"), folds=3, repeats=1, images=60, explained=60, steps=8, batch=16,
            masks=16, bootstraps=20, timed_steps=8,
        )  # fmt: skip
    begin = time.perf_counter()
    images, labels = (jnp.asarray(a[: config.images]) for a in digits())
    programs, runs = programs_of(config, jax.random.key(config.seed)), []
    cost = cost_of_stacking(config, programs["train", "plain"], images, labels)
    print(
        f"{config.folds} networks at once {cost['stacked']:.1f} ms a step of {config.batch} images each, one on "
        f"{config.folds * config.batch} images {cost['wider']:.1f} ms: ratio {cost['ratio']:.2f}",
        flush=True,
    )
    for i in range(config.repeats):
        runs.append(repeat(config, programs, images, labels, config.seed + i))
        for kind, found in runs[-1].items():
            one = found["agreements"]["saliency"]
            print(
                f"repetition {i}, {kind}: accuracy {found['accuracy']:.4f} off the training set, product of the "
                f"operator norms {found['lipschitz']:.3g}; {one.num_agreeing} agreeing, "
                f"{one.num_disagreeing} other pairs",
                flush=True,
            )
    rows = summary(runs)
    show(rows)
    seconds = time.perf_counter() - begin
    print(f"\n{seconds:.0f} s, jax {jax.__version__}, {jax.devices()[0].device_kind}")
    about = {
        kind: [{name: run[kind][name].item() for name in ("accuracy", "lipschitz")} for run in runs] for kind in KINDS
    }
    config_ = {name: str(v) if isinstance(v, Path) else v for name, v in asdict(config).items()}
    result = {"config": config_, "cost": cost, "seconds": seconds, "networks": about, "rows": rows}
    config.out.mkdir(parents=True, exist_ok=True)
    (config.out / "run.json").write_text(json.dumps(result, indent=1) + "\n")
    with (config.out / "table.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return result


if __name__ == "__main__":
    main(tyro.cli(Config))
