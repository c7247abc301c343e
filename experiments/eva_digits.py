"""Claim: where bounds are tight, EVA finds the pixels that flip a digit with the least; most faithful it is nowhere.

The first table of the EVA paper, in shape: EVA with interval bounds, with linear bounds (CROWN-IBP) and with a
Lipschitz tail against the usual methods, and against two maps that know no network (noise, and the image itself), by
deletion, insertion, μFidelity and Robustness-S_r. Convolutional networks are trained here on scikit-learn's digits of
8 x 8 and on digits of MNIST of 28 x 28: plainly, and with interval bounds in the loss, which makes their bounds tight.
Several networks of each kind explain images of their own; intervals are bootstrapped over images, bold cells are those
that no other map is clearly better than, by paired differences.

Conventions. Cells are pixels. The radius is the median, over test images of the network, of the least one at which the
bound no longer certifies the image; another table varies it. Balls and attacks stay in [0, 1]. Maps with a sign are
ranked with it; bars around a name say that its magnitude is ranked. Curves are those of the probability, to and from
black; μFidelity hides a fifth of the cells and correlates ranks.

Command:  python experiments/fetch_mnist.py && python experiments/eva_digits.py [--smoke] [--out FOLDER]
          A killed run resumes. Without the digits of MNIST: --datasets digits. Writes tables, a record and pictures.
Hardware: 2 CPU cores.
Time:     about 4 minutes for each data set; --smoke a quarter of a minute.
Expected: with seed 0, jax 0.10.1: Robustness-S_r of EVA with linear bounds against the best other map, 0.164 to 0.188
          (8 x 8) and 0.181 to 0.206 (MNIST) on the certified networks, 0.201 to 0.174 and 0.133 to 0.132 on the plain
          ones. Gradient x input and integrated gradients are ahead in deletion, insertion and fidelity everywhere.
"""

import csv
import json
import time
from dataclasses import asdict, dataclass, replace
from functools import partial, wraps
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from flax import nnx
from jax.tree_util import Partial
from jaxtyping import Array, Float

from experiments import fetch_mnist
from sparks_jax import attribution, evaluate, metrics, verify, viz
from sparks_jax.data import digits
from sparks_jax.jobs.measures import MEASURES, Metric
from sparks_jax.jobs.methods import Method
from sparks_jax.jobs.table import Cell, Table, interval, show
from sparks_jax.metrics.robustness import linf_step
from sparks_jax.metrics.similarity import spearman
from sparks_jax.models.conv import HE_NORMAL
from sparks_jax.scores import logits, margin, probability

BOUNDS = {"ibp": ("intervals", verify.ibp), "crown": ("CROWN-IBP", verify.crown)}
CLIP = (0.0, 1.0)
RADII = 2.0 ** np.arange(-11, -0.5, 0.5)  # at which images are bounded and attacked
BESIDE = ("saliency", "gradient_input", "eva_ibp", "eva_crown")  # in the table of radii
TOLD = slice(4, 18, 2)  # of them, in the table of certificates


@dataclass(frozen=True)
class Config:
    """What is trained and explained, and how often."""

    datasets: tuple[str, ...] = ("digits", "mnist")
    kinds: tuple[str, ...] = ("plain", "certified")
    seeds: int = 3  # networks of each kind
    images: int = 24  # explained by each network; of MNIST a third as many
    tested: int = 100  # images bounded and attacked of each network
    factors: tuple[float, ...] = (0.25, 4.0)  # times the radius, by the first network of each kind
    steps: int = 1000
    batch: int = 64
    rate: float = 2e-3
    radius: float = 0.05  # of the balls of the certified training
    masks: int = 1000  # of RISE
    mnist: Path = fetch_mnist.Config.out
    seed: int = 0
    out: Path = Path("sparks-out/eva_digits")
    force: bool = False
    smoke: bool = False


# Deletion, insertion, μFidelity and Robustness-S_r on MNIST, and seconds, as read off the table of the preprint.
PAPER = {
    "saliency": (0.193, 0.633, 0.378, 0.071, 0.04),
    "gradient_input": (0.222, 0.611, 0.107, 0.074, 0.04),
    "smoothgrad": (0.185, 0.621, 0.331, 0.070, 1.91),
    "vargrad": (0.207, 0.555, 0.216, 0.077, 1.76),
    "integrated_gradients": (0.209, 0.615, 0.108, 0.074, 1.77),
    "occlusion": (0.247, 0.545, 0.137, 0.082, 0.04),
    "rise": (0.248, 0.558, 0.133, 0.093, 2.26),
    "eva_crown": (0.089, 0.736, 0.428, 0.069, 1.29),
}


# --- networks ---


class Blocks(nnx.Module):
    """A 4 x 4 convolution of stride 2 and a ReLU, on blocks of 2 x 2 pixels: slices and one product of matrices.

    Its transpose, of which linear bounds are made, is then twice as fast on a CPU as that of a convolution.
    """

    def __init__(self, channels: int, width: int, *, rngs: nnx.Rngs):
        """Draw the kernel `(16 c, d)`."""
        self.kernel = nnx.Param(HE_NORMAL(rngs.params(), (16 * channels, width)) * (width / channels / 16) ** 0.5)
        self.bias = nnx.Param(jnp.zeros(width))

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b gh gw d"]:
        """Convolve a batch of images with even sides."""
        rows, columns = x.shape[1] // 2, x.shape[2] // 2
        x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))).reshape(len(x), rows + 1, 2, columns + 1, 2, -1)
        x = x.transpose(0, 1, 3, 2, 4, 5).reshape(len(x), rows + 1, columns + 1, -1)
        taps = [x[:, i : i + rows, j : j + columns] for i in (0, 1) for j in (0, 1)]
        return nnx.relu(jnp.concatenate(taps, -1) @ self.kernel[...] + self.bias[...][None, None, None])


class DigitNet(nnx.Module):
    """Two convolutions of stride 2 and two linear maps."""

    def __init__(self, side: int, widths: tuple[int, ...] = (8, 16, 64), *, rngs: nnx.Rngs):
        """Draw the parameters of a network of images of this side."""
        self.convs = nnx.List([Blocks(c, d, rngs=rngs) for c, d in zip((1, widths[0]), widths[:2], strict=True)])
        self.hidden = nnx.Linear((side // 4) ** 2 * widths[1], widths[2], rngs=rngs)
        self.out = nnx.Linear(widths[2], 10, rngs=rngs)

    def features(self, x: Float[Array, "b h w c"]) -> Float[Array, "b gh gw d"]:
        """Activations of the convolutions."""
        for conv in self.convs:
            x = conv(x)
        return x

    def head(self, acts: Float[Array, "b gh gw d"]) -> Float[Array, "b m"]:
        """Logits from the activations."""
        return self.out(nnx.relu(self.hidden(acts.reshape(len(acts), -1))))

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b m"]:
        """Logits."""
        return self.head(self.features(x))


def worst_case(model: Any, images: Array, labels: Array, radius: Array) -> Array:
    """The cross-entropy of the largest margins that intervals allow in balls around the images."""
    of_one = lambda x, y: verify.margins(logits(model), verify.ball(x, radius, clip=CLIP), y)
    ahead = jax.vmap(of_one)(images, labels)
    return jax.nn.logsumexp(jnp.concatenate([jnp.zeros((len(images), 1)), ahead], 1), axis=1).mean()


@partial(jax.jit, static_argnames=("graph", "radius", "rate"))
def train(graph: Any, params: Any, images: Array, labels: Array, batches: Array, *, radius: float, rate: float) -> Any:
    """Adam over `batches`, rows of indices; with a radius, half of the loss is the worst case, which grows to it."""
    optimiser = optax.adam(optax.cosine_decay_schedule(rate, len(batches)))

    def loss(params: Any, rows: Array, done: Array) -> Array:
        model, x, y = nnx.merge(graph, params), images[rows], labels[rows]
        natural = optax.softmax_cross_entropy_with_integer_labels(model(x), y).mean()
        if not radius:
            return natural
        return (natural + worst_case(model, x, y, radius * jnp.minimum(1, 2 * done))) / 2

    def step(state: Any, now: Any) -> tuple[Any, None]:
        params, moments = state
        updates, moments = optimiser.update(jax.grad(loss)(params, *now), moments)
        return (optax.apply_updates(params, updates), moments), None

    return jax.lax.scan(step, (params, optimiser.init(params)), (batches, jnp.linspace(0, 1, len(batches))))[0][0]


def network(config: Config, kind: str, seed: int, images: np.ndarray, labels: np.ndarray) -> DigitNet:
    """A trained network of one kind."""
    graph, params = nnx.split(DigitNet(images.shape[1], rngs=nnx.Rngs(seed)))
    rng, epochs = np.random.default_rng(seed), -(-config.steps * config.batch // len(images))
    rows = np.concatenate([rng.permutation(len(images)) for _ in range(epochs)])[: config.steps * config.batch]
    radius = config.radius if kind == "certified" else 0.0
    batches = rows.reshape(config.steps, config.batch)
    return nnx.merge(graph, train(graph, params, images, labels, batches, radius=radius, rate=config.rate))


# --- methods ---


def eva(f: Any, x: Array, label: Array, *, bound: Any, radius: Any, chunk: int = 32) -> Array:
    """EVA of pixels."""
    grid = x.shape[0], x.shape[1]
    return verify.eva(f, x, label, radius=radius, grid=grid, bound=bound, clip=CLIP, chunk=chunk)


def eva_darker(f: Any, x: Array, label: Array, *, bound: Any, radius: Any, chunk: int = 32) -> Array:
    """EVA of pixels for an adversary that can only take ink away, as deletion does."""
    grid, clip = (x.shape[0], x.shape[1]), (CLIP[0], x)
    return verify.eva(f, x, label, radius=radius, grid=grid, bound=bound, clip=clip, chunk=chunk)


def eva_lipschitz(
    features: Any, head: Any, x: Array, label: Array, *, bound: Any, radius: Any, chunk: int = 32
) -> Array:
    """EVA of pixels with bounds of the convolutions and a Lipschitz constant of the rest."""
    options = dict(radius=radius, grid=(x.shape[0], x.shape[1]), bound=bound, clip=CLIP, chunk=chunk)
    return verify.lipschitz_eva(features, head, x, label, **options)


def noise(f: Any, x: Array, *, key: Any) -> Array:
    """A map of noise."""
    return jax.random.uniform(key, x.shape[:2])


def ink(f: Any, x: Array) -> Array:
    """The image as its own map."""
    return x.sum(-1)


def signed(method: Any) -> Any:
    """A method whose map is ranked with its sign."""

    @wraps(method)
    def call(f: Any, x: Array, **options: Any) -> Array:
        return method(f, x, **options).sum(-1)

    return call


def methods(config: Config, side: int) -> dict[str, Method]:
    """The methods without a radius, at sizes for these images."""
    cells, drawn = 7 if side == 28 else 4, dict(num_samples=50, sigma=0.2)
    path, smooth = partial(attribution.integrated_gradients, num_steps=50), partial(attribution.smoothgrad, **drawn)
    rise = partial(attribution.rise, num_masks=config.masks, grid=cells)
    named = lambda title, call, **more: Method(call, title, "", 0, **more)
    all_of = {
        "noise": named("noise", noise),
        "ink": named("the image itself", ink),
        "saliency": named("Saliency", attribution.saliency),
        "gradient_input": named("Gradient × input", signed(attribution.gradient_input), signed="yes"),
        "integrated_gradients": named("Integrated gradients", signed(path), signed="yes"),
        "smoothgrad": named("SmoothGrad", signed(smooth), signed="yes"),
        "smoothgrad_magnitude": named("|SmoothGrad|", smooth),
        "vargrad": named("VarGrad", partial(attribution.vargrad, **drawn)),
        "occlusion": named("Occlusion", partial(attribution.occlusion, patch=3, stride=1), signed="yes"),
        "rise": named("RISE", rise, score=probability),
        "grad_cam": named("Grad-CAM", attribution.grad_cam),
        "sobol": named("Sobol’", partial(attribution.sobol, grid=cells, num_designs=16)),
    }
    return {name: all_of[name] for name in ("noise", "saliency")} if config.smoke else all_of


def _named(title: str, of: Any, **options: Any) -> Method:
    return Method(Partial(of, **options), title, "", 0)


def verified(config: Config, side: int, radii: dict[str, float]) -> tuple[dict[str, Method], dict[str, Method]]:
    """EVA at the radius of each bound, and at others: factors of it, and the paper's on MNIST.

    Linear bounds of 28 x 28 pixels take ten times as long: there the other radii are tried with intervals only.

    A `jax.tree_util.Partial` holds the radius as an array: one program serves all of them.
    """
    chosen, others = {}, {}
    for name, (title, bound) in BOUNDS.items():
        eva_at = lambda r, more="": _named(f"EVA, {title}{more}", eva, bound=bound, radius=jnp.float32(r))
        chosen[f"eva_{name}"] = eva_at(radii[name])
        if side == 28 and name == "crown":
            continue
        others |= {f"eva_{name} x {f:g}": eva_at(f * radii[name], f", {f:g} x") for f in config.factors}
        others[f"eva_{name} at 0.5"] = eva_at(0.5, ", at 0.5")
    least = {name: dict(bound=bound, radius=jnp.float32(radii[name])) for name, (_, bound) in BOUNDS.items()}
    chosen["eva_darker"] = _named("EVA, CROWN-IBP, only darker", eva_darker, **least["crown"])
    chosen["eva_lipschitz"] = _named("EVA, Lipschitz tail", eva_lipschitz, **least["ibp"])
    if config.smoke:
        return {"eva_ibp": chosen["eva_ibp"]}, {"eva_ibp at 0.5": others["eva_ibp at 0.5"]}
    return chosen, others


def measures(config: Config, side: int) -> dict[str, Metric]:
    """The columns of the table."""
    attack = dict(fractions=(0.1, 0.3, 0.5, 0.7, 0.9), steps=10, num_bisections=8, clip=CLIP)
    fidelity = partial(metrics.mu_fidelity, grid=9 if side == 28 else 8, correlation=spearman)
    known = {
        "deletion": MEASURES["deletion"],
        "insertion": MEASURES["insertion"],
        "mu_fidelity": MEASURES["mu_fidelity"]._replace(call=fidelity),
        "robustness_sr": MEASURES["robustness_sr"]._replace(call=partial(metrics.robustness_sr, **attack)),
    }
    return {"deletion": known["deletion"]} if config.smoke else known


# --- what the bounds are worth ---


def overlap_found(lead: Any, x: Array, radius: Array, steps: int = 20) -> Array:
    """How far another class gets ahead under projected gradient descent: a lower bound of the overlap."""

    def step(state: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], None]:
        delta, best = state
        ahead, slope = jax.value_and_grad(lambda delta: lead(x + delta))(delta)
        delta = jnp.clip(x + linf_step(delta, slope, radius, 2.5 / steps), *CLIP) - x
        return (delta, jnp.maximum(best, -ahead)), None

    (delta, best), _ = jax.lax.scan(step, (jnp.zeros_like(x), -lead(x)), length=steps)
    return jnp.maximum(best, -lead(x + delta))


@jax.jit
def overlaps(model: Any, images: Array, labels: Array) -> dict[str, Array]:
    """How far another class can get ahead in balls of all radii, `(n, radii)`: found by an attack, and bounded."""

    def at(x: Array, label: Array, radius: Array) -> dict[str, Array]:
        ball, found = verify.ball(x, radius, clip=CLIP), {"found": overlap_found(margin(model, label), x, radius)}
        bounded = {n: verify.margins(logits(model), ball, label, bound=b).max() for n, (_, b) in BOUNDS.items()}
        return found | bounded

    of_one = lambda pair: jax.vmap(partial(at, *pair))(jnp.asarray(RADII, images.dtype))
    return jax.lax.map(of_one, (images, labels), batch_size=4)


def critical(overlap: np.ndarray) -> np.ndarray:
    """The least of the radii at which another class gets ahead, or may, for each image; the largest where none does."""
    return RADII[np.where((overlap < 0).all(1), -1, (overlap >= 0).argmax(1))]


def certificates(found: dict[str, np.ndarray]) -> str:
    """Shares of the test images, and medians over them; an image that is classified wrongly is never certified."""
    names = {"found": "PGD"} | {name: title for name, (title, _) in BOUNDS.items()}
    middle = ", ".join(f"{title} {np.median(critical(found[name])):.4g}" for name, title in names.items())
    lines = [["radius", "not flipped by PGD", *(f"certified, {title}" for title, _ in BOUNDS.values())]]
    lines[0] += [f"lead, {title}" for title in names.values()]
    lines.append(["---"] * len(lines[0]))
    for i in range(len(RADII))[TOLD]:
        safe = [f"{(found[name][:, i] < 0).mean():.2f}" for name in names]
        lines.append([f"{RADII[i]:.4g}", *safe, *(f"{np.median(found[name][:, i]):.3g}" for name in names)])
    rows = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"Median of the least radius that flips, or that is not certified: {middle}\n\n{rows}"


# --- the tables ---


def merged(tables: list[Table]) -> Table:
    """One table of several networks: all their images, and the seconds of the fastest, which compiled nothing."""
    first, cells = tables[0], {}
    for at in first.cells:
        parts = [table.cells[at] for table in tables]
        values = np.concatenate([part.values for part in parts])
        cells[at] = Cell(values, interval(values), sum(part.seconds for part in parts), parts[0].evaluations)
    makings = {
        name: min((table.makings[name] for table in tables), key=lambda making: making.seconds)
        for name in first.makings
    }
    notes = list(dict.fromkeys(note for table in tables for note in table.notes))
    return first._replace(cells=cells, makings=makings, notes=notes, about=first.about | {"networks": len(tables)})


def markdown(table: Table, paper: bool = False) -> str:
    """The table; bold is what no other map is clearly better than; the paper's figures on MNIST beside."""
    names = list(table.metrics)
    bold = {metric: table.best(metric) for metric in names}
    arrows = {True: "↑", False: "↓", None: ""}
    head = ["map", *(f"{table.metrics[m]} {arrows[table.higher[m]]}" for m in names), "s a map"]
    lines = [head + ["the paper’s"] * paper, ["---"] * (len(head) + paper)]
    for name, making in table.makings.items():
        row = [table.methods[name]]
        for metric in names:
            value = show(table.cells[name, metric].interval)
            row.append(f"**{value}**" if name in bold[metric] else value)
        row.append(f"{making.seconds / table.about['images']:.3f}")
        figures = "{:.3f}, {:.3f}, {:.3f}, {:.3f}; {:g} s".format(*PAPER[name]) if name in PAPER else ""
        lines.append(row + [figures] * paper)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def data(config: Config, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Shuffled images and labels to learn from, four fifths, and to explain."""
    images, labels = digits() if name == "digits" else fetch_mnist.load(config.mnist)
    order = np.random.default_rng(config.seed).permutation(len(images))
    cut = len(images) * 4 // 5
    images, labels = images[order], labels[order]
    return images[:cut], labels[:cut], images[cut:], labels[cut:]


def run(config: Config, name: str, kind: str, every: dict[str, Method]) -> dict[str, Any]:
    """Train, bound and explain the networks of one kind on one data set."""
    images, labels, others, truth = data(config, name)
    tables, found, radii, accuracies, explained = [], [], None, [], []
    predict = jax.jit(lambda model, x: model(x).argmax(-1))
    for seed in range(config.seed, config.seed + config.seeds):
        model = network(config, kind, seed, images, labels)
        right = np.asarray(predict(model, others)) == truth
        accuracies.append(float(right.mean()))
        found.append(jax.tree.map(np.asarray, overlaps(model, others[: config.tested], truth[: config.tested])))
        chosen, further = verified(
            config, images.shape[1], {bound: float(np.median(critical(found[-1][bound]))) for bound in BOUNDS}
        )
        # Each network explains images of its own, which it classifies correctly.
        mine = np.arange(len(truth)) % config.seeds == seed - config.seed
        mine = np.flatnonzero(mine & (right | config.smoke))[: config.images // (3 if name == "mnist" else 1)]
        explained.append(mine)
        what = (measures(config, images.shape[1]), model, others[mine], truth[mine])
        common: dict[str, Any] = dict(key=jax.random.key(config.seed), chunk=64, force=config.force)
        tables.append(evaluate(every | chosen, *what, **common, out=config.out / f"{name}_{kind}_{seed}"))
        if seed == config.seed:
            both = {m: method for m, method in (every | chosen).items() if m in BESIDE} | further
            radii = evaluate(both, *what, **common, out=config.out / f"{name}_{kind}_{seed}")
    together = jax.tree.map(lambda *parts: np.concatenate(parts), *found)
    return dict(table=merged(tables), radii=radii, overlaps=together, accuracies=accuracies, images=explained[0])


def tell(name: str, kind: str, found: dict[str, Any]) -> None:
    """Print what was found with the networks of one kind."""
    table, accuracies = found["table"], ", ".join(f"{a:.3f}" for a in found["accuracies"])
    print(f"\n## {name}, {kind}: {table.about['networks']} networks x {table.about['images']} images\n")
    print(f"Accuracies {accuracies}. {certificates(found['overlaps'])}")
    print(f"\n{markdown(table, paper=(name, kind) == ('mnist', 'plain'))}")
    print(f"\nThe first network alone, at other radii:\n\n{markdown(found['radii'])}", flush=True)


def rows(found: dict[tuple[str, str], dict[str, Any]]) -> list[dict[str, Any]]:
    """One row for each cell."""
    return [
        {
            "data": name, "networks": kind, "table": which, "method": method, "metric": metric,
            **cell.interval._asdict(), "evaluations": one[which].makings[method].evaluations,
            "seconds_a_map": one[which].makings[method].seconds / one[which].about["images"],
        }
        for (name, kind), one in found.items()
        for which in ("table", "radii")
        for (method, metric), cell in one[which].cells.items()
    ]  # fmt: skip


SHOWN = (
    *("saliency", "gradient_input", "smoothgrad", "occlusion", "rise", "grad_cam"),
    *("eva_ibp", "eva_crown", "eva_darker"),
)


def draw(config: Config, name: str, found: dict[tuple[str, str], Any]) -> None:
    """A picture of some maps of the first network of each kind: its first images."""
    made = found[name, config.kinds[0]]["table"].methods
    titled = {method: made[method] for method in SHOWN if method in made}
    seen, titles, columns, (_, _, others, truth) = [], [], {title: [] for title in titled.values()}, data(config, name)
    for kind in config.kinds:
        folder = config.out / f"{name}_{kind}_{config.seed}"
        mine = found[name, kind]["images"][:3]
        seen += list(others[mine])
        titles += [f"{truth[i]}, {kind}" for i in mine]
        for method, title in titled.items():
            columns[title] += list(np.load(folder / "maps" / f"{method}.npz")["importance"][:3])
    viz.grid(seen, columns, titles, side=1.5).savefig(config.out / f"maps_{name}.png", dpi=80)


def main(config: Config) -> dict[tuple[str, str], Any]:
    """Print the tables, write them, and return them."""
    if config.smoke:
        config = replace(
            config, datasets=("digits",), kinds=("plain",), seeds=1, images=2, tested=2, steps=2, batch=8
        )  # fmt: skip
    begin, found = time.perf_counter(), {}
    for name in config.datasets:
        every = methods(config, data(config, name)[0].shape[1])
        for kind in config.kinds:
            found[name, kind] = run(config, name, kind, every)
            tell(name, kind, found[name, kind])
        draw(config, name, found)
    seconds = time.perf_counter() - begin
    print(f"\n{seconds:.0f} s, jax {jax.__version__}, {jax.devices()[0].device_kind}")
    table = rows(found)
    with (config.out / "table.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, table[0])
        writer.writeheader()
        writer.writerows(table)
    settings = {name: str(value) if isinstance(value, Path) else value for name, value in asdict(config).items()}
    about = {
        f"{name}, {kind}": {
            "accuracies": one["accuracies"],
            "overlaps": {n: a.tolist() for n, a in one["overlaps"].items()},
        }
        for (name, kind), one in found.items()
    }
    record = {"config": settings, "seconds": seconds, "radii": RADII.tolist(), "networks": about, "rows": table}
    (config.out / "run.json").write_text(json.dumps(record, indent=1) + "\n")
    return found


if __name__ == "__main__":
    main(tyro.cli(Config))
