"""Claim: on deep ImageNet networks bounds from the pixels on say nothing, and hybrid EVA still makes a map.

First, how vacuous: the lead that intervals allow another class around a photograph, and the lead that a Lipschitz
constant of all but the first stage allows it, against the lead that an attack reaches. Then maps: hybrid EVA (bounds of
the last layer on sampled activations: nothing is proven) and Lipschitz EVA from the first stage on, against saliency,
Grad-CAM, Sobol' and RISE at about as many evaluations, by deletion and insertion, with intervals over photographs: six
of them, which is few, and the intervals say so. ResNet-18 has random weights unless given some, and then has no maps.

Command:  python experiments/eva_imagenet.py [--smoke] [--models squeezenet] [--weights resnet18.pth] [--out FOLDER]
Hardware: 2 CPU cores.
Time:     18 minutes on a busy machine for SqueezeNet and Lite0; --smoke, on the network of the glyph world, compiles a
          dozen programs.
Expected: median of two photographs, seed 0, at 1/255: an attack reaches a lead of 14.9 on SqueezeNet and 11.7 on
          EfficientNet-Lite0; intervals allow 2.7e14 and 319 (ReLU6 saturates them), Lipschitz constants 2.6e20 and more
          than a float holds. Deletion of hybrid EVA is no better than that of Sobol', RISE or Grad-CAM on either.
"""

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from flax import nnx

from sparks_jax import attribution, evaluate, explain, verify, viz
from sparks_jax.data import photographs
from sparks_jax.data.natural import NAMES
from sparks_jax.jobs.methods import ALL, Method
from sparks_jax.jobs.table import Table, show
from sparks_jax.models import bundled
from sparks_jax.models.normalize import Normalized
from sparks_jax.models.resnet import resnet18
from sparks_jax.models.weights import load_resnet


@dataclass(frozen=True)
class Config:
    """What is compared, on what."""

    models: tuple[str, ...] = ("squeezenet", "efficientnet_lite0", "resnet18")
    weights: str | None = None  # of ResNet-18
    radii: tuple[float, ...] = (1 / 255, 8 / 255)  # the first for what is proven, the last for what is sampled
    grid: int = 7
    num_samples: int = 8  # of hybrid EVA, for each cell; the other methods that sample evaluate about as often
    attacked: int = 2  # photographs
    steps: int = 20  # of the attack
    seed: int = 0
    chunk: int = 8
    out: Path = Path("sparks-out/eva_imagenet")
    smoke: bool = False


class Reach(NamedTuple):
    """How far the best other class is ahead: at the image, after an attack, at most by intervals."""

    at_image: Any
    attack: Any
    intervals: Any


class Cut(nnx.Module):
    """A network whose halves meet after its first stage, where few layers lie below."""

    def __init__(self, model: Any):
        """Wrap a model with stages."""
        self.model = model

    def __call__(self, images: Any) -> Any:
        """The model's logits."""
        return self.model(images)

    def features(self, images: Any) -> Any:
        """Activations after the first stage."""
        return self.model.features(images, 1)

    def head(self, activations: Any) -> Any:
        """Logits from there."""
        return self.model.head(activations, 1)


def reach(f: Any, x: Any, label: Any, *, radius: float, steps: int) -> Reach:
    """Asked by `explain` like a method: bounds by intervals, and ascent along the signs of the gradient."""

    def lead(x):
        z = f(x)
        return jnp.where(jnp.arange(z.shape[0]) == label, -jnp.inf, z).max() - z[label]

    box = verify.ball(x, radius, clip=(0, 1))

    def ascent(state, _):
        x, best = state
        value, slope = jax.value_and_grad(lead)(x)
        return (jnp.clip(x + 2.5 / steps * radius * jnp.sign(slope), *box), jnp.maximum(best, value)), None

    (last, best), _ = jax.lax.scan(ascent, (x, lead(x)), length=steps)
    return Reach(lead(x), jnp.maximum(best, lead(last)), verify.margins(f, box, label).max())


def lipschitz_reach(features: Any, head: Any, x: Any, label: Any, *, radius: float) -> Any:
    """What Lipschitz EVA allows another class: what fixing every pixel takes away, and the lead that remains."""
    drop = verify.lipschitz_eva(features, head, x, label, radius=radius, clip=(0, 1), grid=1)[0, 0]
    z = head(features(x[None])[0])
    # A constant beyond the largest float bounds nothing: its map is zero, which no finite one is.
    reached = jnp.where(drop > 0, drop, jnp.inf)
    return reached + jnp.where(jnp.arange(z.shape[0]) == label, -jnp.inf, z).max() - z[label]


def load(name: str, config: Config) -> tuple[Any, np.ndarray, tuple[str, ...]]:
    """A network in evaluation mode, the photographs as it sees them, and its class names."""
    if name == "resnet18":
        net = load_resnet(config.weights, depth=18) if config.weights else resnet18(rngs=nnx.Rngs(config.seed))
        model, size, classes, crop = Normalized(net), 224, bundled.imagenet_classes(), bundled.CROP
        model.eval()
    else:
        bundle = bundled.load(name)
        model, size, classes, crop = bundle.model, bundle.size, bundle.classes, bundle.crop
    taken = photographs(("chelsea", "coffee")) if config.smoke else photographs()
    return model, np.stack([bundled.prepare(pixels, size, crop=crop) for pixels in taken.values()]), classes


def vacuity(name: str, model: Any, images: np.ndarray, labels: np.ndarray, config: Config) -> list[str]:
    """Rows of the table of bounds: for each radius the median over photographs."""
    rows: list[str] = []
    common: dict[str, Any] = dict(key=jax.random.key(config.seed), chunk=config.chunk)
    few, these = images[: config.attacked], labels[: config.attacked]
    for radius in config.radii:
        common["radius"] = jnp.float32(radius)  # an array, so that another one does not recompile
        found = explain(reach, model, few, these, steps=config.steps, **common)
        cut = explain(lipschitz_reach, Cut(model), few, these, **common)
        numbers = [*found, cut, (found.intervals - found.at_image) / (found.attack - found.at_image)]
        words = " | ".join(f"{np.median(number):.3g}" for number in numbers)
        rows.append(f"| {name} | {255 * radius:.3g}/255 | {words} |")
    return rows


def methods(config: Config) -> tuple[dict[str, Method], dict[str, Method]]:
    """What is compared on the network, and on the network cut after its first stage."""
    count = (config.grid**2 + 2) * config.num_samples
    eva = dict(radius=config.radii[-1], clip=(0, 1), grid=config.grid)
    whole = {name: ALL[name] for name in ("saliency", "grad_cam")}
    whole["eva_hybrid"] = ALL["eva_hybrid"]._replace(
        call=partial(verify.eva_hybrid, num_samples=config.num_samples, **eva)
    )
    whole["sobol"] = ALL["sobol"]._replace(
        call=partial(attribution.sobol, grid=config.grid, num_designs=max(2, count // (config.grid**2 + 2)))
    )
    whole["rise"] = ALL["rise"]._replace(call=partial(attribution.rise, num_masks=count))
    early = partial(verify.lipschitz_eva, radius=config.radii[0], clip=(0, 1), grid=config.grid)
    # Without its check: that its bounds are vacuous is the first table.
    return whole, {"lipschitz_eva": ALL["lipschitz_eva"]._replace(call=early, radius=None)}


def markdown(name: str, tables: list[Table]) -> list[str]:
    """Rows of the table of maps."""
    return [
        f"| {name} | {table.methods[method]} | {table.makings[method].evaluations:,} | "
        + " | ".join(show(table.cells[method, metric].interval) for metric in table.metrics) + " |"
        for table in tables for method in table.makings
    ]  # fmt: skip


def draw(name: str, images: np.ndarray, labels: np.ndarray, classes: Any, tables: list[Table], config: Config) -> None:
    """The maps over the photographs."""
    maps = {
        table.methods[method]: list(np.load(config.out / folder / "maps" / f"{method}.npz")["importance"])
        for table, folder in zip(tables, (name, f"{name}_cut"), strict=True) for method in table.makings
    }  # fmt: skip
    titles = [classes[label].partition(",")[0] for label in labels]
    viz.grid(list(images), maps, titles, side=1.6).savefig(
        config.out / f"{name}.jpg", dpi=90, pil_kwargs={"quality": 80}
    )


def main(config: Config) -> dict[str, list[str]]:
    """Print how vacuous the bounds are, and what the maps are worth."""
    if config.smoke:
        config = Config(("glyphs",), None, config.radii, 2, 4, 1, 2, config.seed, config.chunk, config.out, True)
    bounds, worth = [], []
    config.out.mkdir(parents=True, exist_ok=True)
    for name in config.models:
        model, images, classes = load(name, config)
        labels = np.asarray(jax.jit(lambda model, x: model(x))(model, images).argmax(-1))
        bounds += vacuity(name, model, images, labels, config)
        print(*bounds[-len(config.radii) :], sep="\n", flush=True)
        if name == "resnet18" and config.weights is None:
            continue
        common: dict[str, Any] = dict(key=jax.random.key(config.seed), chunk=config.chunk, force=True)
        tables = [
            evaluate(chosen, ["deletion", "insertion"], network, images, labels, out=config.out / folder, **common)
            for chosen, network, folder in zip(methods(config), (model, Cut(model)), (name, f"{name}_cut"), strict=True)
        ]
        worth += markdown(name, tables)
        draw(name, images, labels, classes, tables, config)
    head = "| network | radius | lead at the image | attack | intervals | Lipschitz | intervals over attack |"
    print(head, "|---|---|---|---|---|---|---|", *bounds, sep="\n")
    print(f"\nSeed {config.seed}, {2 if config.smoke else len(NAMES)} photographs:")
    print("| network | method | evaluations | deletion ↓ | insertion ↑ |", "|---|---|---|---|---|", *worth, sep="\n")
    result = {"bounds": bounds, "maps": worth}
    (config.out / "run.json").write_text(json.dumps(result, indent=1, ensure_ascii=False))
    return result


if __name__ == "__main__":
    main(tyro.cli(Config))
