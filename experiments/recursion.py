"""Claim: recursion takes a concept of two parts apart where the network has the parts.

Late layers draw together what speaks for a class; CRAFT looks for it at an earlier layer, in what the concept was found
in. Asked is whether parts of a concept that is a thing of two halves are these halves, which are known to the pixel:

(a) of pairs: which two shapes touch is the class, others of the same kinds lie alone, so that the network has to know
    each of them, and that they touch. It is trained here;
(b) of glyphs of two parts, an arrow (head and shaft) and a tee (bar and stem), by the network of the glyph world, which
    was not told of parts.

The concept is the one of its class that tells best where both halves are. It is taken apart by `refine` on zoomed
crops, and on positions of the earlier layer in the cells where the concept is strongest. For each half the part that
tells it best is chosen on half of the images, and judged on the others: AUC of the pixels of one half among those of
both. A direction that was trained on the halves says what the layer knows, and the best of as many random directions
what choosing makes of chance.

Command:  python experiments/recursion.py [--smoke] [--out FOLDER]
          A table (CSV), a record (JSON), pictures. A killed run resumes the training.
Hardware: 2 CPU cores.
Time:     8 minutes on a busy machine, 6 of them training; --smoke a minute, most of it compilation.
Expected: (a) Ring and heart that touch: 0.97 and 0.97 by `refine`; star and cross 0.91 and 0.95, ring and cross 0.78
          and 0.77, star and heart 0.68 and 0.82; random directions 0.33 to 0.87. The network is right on 94.7 %. (b)
          No: head 0.68 and shaft 0.68, bar 0.62 and stem 0.58, where a trained direction reaches 0.96 and 0.93. Seed
          0, jax 0.10.1.
"""

import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jax.sharding import Mesh

from experiments import train_glyphs
from experiments.craft_glyphs import activations, auc
from experiments.craft_photos import report
from sparks_jax import concepts, viz
from sparks_jax.data.glyphs import CLASSES, Glyphs, glyph
from sparks_jax.data.pairs import HALVES, pair
from sparks_jax.images import bilinear
from sparks_jax.jobs.table import Interval, interval
from sparks_jax.models import bundled
from sparks_jax.scores import logit


@dataclass(frozen=True)
class Config:
    """What is taken apart."""

    apart: int = 64  # images of a class, and as many to judge the parts on
    rank: int = 6  # concepts of a class
    parts: int = 8  # that a concept is taken apart into
    steps: int = 1000  # of the training of the network of pairs
    pictures: int = 2  # of each class
    seed: int = 0
    out: Path = Path("sparks-out/recursion")
    smoke: bool = False


MIDDLE = 2  # the stage where parts are looked for: 16 cells on a side, those of the last one have 8
# Glyphs of two parts, and where the border between them lies: how far up from the centre, in radii.
TWO_PARTS = {"arrow": ("head", "shaft", 0.0958), "tee": ("bar", "stem", 0.2333)}
ZOOMED, IN_PLACE = "refine: zoomed crops", "positions in place"
TOLD, CHANCE = "told the halves (cav)", "random directions"


class Asked(NamedTuple):
    """Images of a class whose concept has two halves.

    Attributes:
        model: The network.
        label: The class.
        names: Of its halves.
        halves: `(2 n h w)` pixels of each half.
        images: Those to fit to, then those to judge on.
    """

    model: Any
    label: int
    names: tuple[str, str]
    halves: np.ndarray
    images: Any


# --- the worlds ---


def of_pairs(config: Config) -> list[Asked]:
    """Each class of the world of pairs, and a network that was trained on it."""
    training = train_glyphs.Config(
        out=config.out / "training", world="pairs", steps=config.steps, seed=config.seed, every=200
    )
    if config.smoke:
        model = train_glyphs.network(jax.jit(partial(train_glyphs.create, training))())
    else:
        model = train_glyphs.train(training, Mesh(np.array(jax.devices()), ("data",)))
        right = train_glyphs.test(replace(training, test=1024), model, 0.0, 0.0)
        print(f"right on {right['accuracy']:.1%} [{right['low']:.1%}, {right['high']:.1%}] of fresh pairs")
    asked = []
    for label, names in list(enumerate(HALVES))[: 1 if config.smoke else None]:
        world = of_one_class(pair, 2 * config.apart, jax.random.key(config.seed + 3), jnp.asarray(label))
        asked.append(Asked(model, label, names, np.asarray(world.halves).swapaxes(0, 1), world.images))
    return asked


def of_glyphs(config: Config) -> list[Asked]:
    """Glyphs of two parts, and the network of their world."""
    model, asked = bundled.load("glyphs").model, []
    for shape, (first, second, border) in list(TWO_PARTS.items())[: 1 if config.smoke else None]:
        label = CLASSES.index(shape)
        world = of_one_class(glyph, 2 * config.apart, jax.random.key(config.seed + 3), jnp.asarray(label))
        halved = above_and_below(jax.tree.map(np.asarray, world), border)
        asked.append(Asked(model, label, (first, second), halved, world.images))
    return asked


@partial(jax.jit, static_argnums=(0, 1))
def of_one_class(draw: Any, num: int, key: Any, label: Any) -> Any:
    """Images of one class."""
    return jax.lax.map(lambda key: draw(key, label), jax.random.split(key, num), batch_size=32)


def above_and_below(world: Glyphs, border: float) -> np.ndarray:
    """Pixels of the glyph above and below a border across it, in its own frame: `(2 n h w)`."""
    grid = np.arange(world.images.shape[1]) + 0.5
    place = lambda a: np.asarray(a)[:, None, None]
    down = (grid[None, :, None] - place(world.centres[:, 0])) / place(world.radii)
    right = (grid[None, None] - place(world.centres[:, 1])) / place(world.radii)
    up = -np.sin(place(world.angles)) * right - np.cos(place(world.angles)) * down
    return np.stack([world.masks & (up > border), world.masks & (up <= border)])


# --- taken apart ---


def inside(found: concepts.Concepts, k: Any) -> Any:
    """A view: the positions of an earlier layer in the cells where a concept is strongest, a tenth of all."""

    def view(features: Any, images: Any, *, chunk: int) -> concepts.Views:
        seen = concepts.positions()(features, images, chunk=chunk)
        cells = found.image_codes[..., k]
        fine = round((len(seen.acts) / cells.size) ** 0.5)
        there = jnp.repeat(jnp.repeat(cells >= jnp.quantile(cells, 0.9), fine, 1), fine, 2)
        return seen._replace(acts=jnp.where(there.reshape(-1, 1), seen.acts, 0))  # rows of zeros are padding

    return view


@partial(jax.jit, static_argnums=3)
def whole(model: Any, images: Any, label: Any, rank: int) -> tuple[concepts.Concepts, Any]:
    """The concepts of a class, and maps of each, in the images that they were fitted to and in others."""
    given: dict[str, Any] = dict(key=jax.random.key(0), rank=rank, view=concepts.positions(), chunk=64)
    found = concepts.craft(model.features, logit(model.head, label), images[: len(images) // 2], **given)
    codes = concepts.encode(found.dictionary, activations(model, images))
    return found, upsampled(codes, images.shape[1:3])


def best(maps: np.ndarray, truth: Any, within: Any) -> tuple[int, Interval]:
    """The map that tells the truth best among some pixels of the first half of the images; how well, in the others."""
    of_image = lambda m, t, w: auc(m[:, w], np.broadcast_to(t[w], (len(m), w.sum())))
    values, half = np.stack([of_image(*each) for each in zip(maps, truth, within, strict=True)]), len(maps) // 2
    chosen = int(values[:half].mean(0).argmax())
    return chosen, interval(values[half:, chosen])


@partial(jax.jit, static_argnums=(5, 6))
def parts(
    model: Any, images: Any, label: Any, found: concepts.Concepts, k: Any, how: str, rank: int
) -> tuple[Any, ...]:
    """A concept taken apart at an earlier stage: where its parts are, in its images and in others."""
    early, rest = (lambda x: model.features(x, MIDDLE)), logit(lambda acts: model.head(acts, MIDDLE), label)
    given: dict[str, Any] = dict(key=jax.random.key(0), rank=rank, method="gradient_input", chunk=64)
    fit = images[: len(images) // 2]
    if how == ZOOMED:
        found = concepts.refine(found, k, early, rest, fit, **given)
    else:
        found = concepts.craft(early, rest, fit, view=inside(found, k), **given)
    codes = concepts.encode(found.dictionary, activations(model, images, MIDDLE))
    return upsampled(codes, images.shape[1:3]), found.explained.mean() / found.score.mean()


def upsampled(codes: Any, size: tuple[int, int]) -> Any:
    """Maps `(n k h w)` of codes of positions."""
    return jax.vmap(jax.vmap(lambda u: bilinear(u, size), 2))(codes)


def told(acts: Any, size: tuple[int, int], halved: np.ndarray) -> Any:
    """Maps of the direction that tells the halves best where it is told which is which: what the layer knows."""
    half, cell = len(acts) // 2, size[0] // acts.shape[1]
    most = halved.reshape(*halved.shape[:2], -1, cell, acts.shape[2], cell).mean((3, 5)) > 0.5
    first, second = (np.asarray(acts[:half])[where[:half]] for where in most)
    direction = concepts.cav(jnp.asarray(first), jnp.asarray(second))
    return upsampled(jnp.stack([acts @ direction, -acts @ direction], -1), size)


def by_chance(acts: Any, size: tuple[int, int], num: int) -> Any:
    """Maps of random non-negative directions, as many as there are parts."""
    random = np.random.default_rng(0).exponential(size=(num, acts.shape[-1])).astype(np.float32)
    return upsampled(acts @ jnp.asarray(random).T, size)


def taken_apart(config: Config, asked: Asked) -> tuple[list[dict[str, Any]], Any]:
    """A line for each way; and for the first images the maps of the parts of the way in place that are the halves."""
    model, label, names, halved, images = asked
    both, shown, of_class = np.logical_or(*halved), None, jnp.asarray(label)
    found, maps = whole(model, images, of_class, config.rank)
    k, agreement = best(np.asarray(maps), both, np.ones_like(both))
    rows: list[dict[str, Any]] = [{"halves": " / ".join(names), "parts": "the concept before", "both": agreement}]
    runs = {how: parts(model, images, of_class, found, k, how, config.parts) for how in (ZOOMED, IN_PLACE)}
    acts, size = jax.jit(activations, static_argnums=2)(model, images, MIDDLE), images.shape[1:3]
    runs |= {TOLD: (told(acts, size, halved), ""), CHANCE: (by_chance(acts, size, config.parts), "")}
    for how, (maps, explained) in runs.items():
        (i, first), (j, second) = (best(np.asarray(maps), half, both) for half in halved)
        row = {"halves": rows[0]["halves"], "parts": how, "both": "", "first half": first, "second half": second}
        rows.append(row | {"explained of the logit": explained if isinstance(explained, str) else float(explained)})
        if how == IN_PLACE:
            begin = len(images) // 2
            shown = np.asarray(maps)[begin : begin + config.pictures, [i, j]]
    return rows, shown


def draw(path: Path, config: Config, asked: list[Asked], maps: list[Any]) -> None:
    """Images that the parts were not fitted to, each with the two parts that are its halves."""
    images, titles, found = [], [], {"first half": [], "second half": []}
    for one, shown in zip(asked, maps, strict=True):
        half = len(one.images) // 2
        for image, pair_of_maps in zip(one.images[half : half + config.pictures], shown, strict=True):
            images.append(np.asarray(image))
            titles.append(" / ".join(one.names))
            for name, heatmap in zip(found, pair_of_maps, strict=True):
                found[name].append(heatmap)
    viz.grid(images, found, titles, side=1.6).savefig(path, dpi=100)


def main(config: Config) -> dict[str, Any]:
    """Print the table, write it with a record, draw the pictures; return the record."""
    if config.smoke:
        config = replace(config, apart=2, rank=2, parts=2, pictures=1)
    begin, table = time.perf_counter(), []
    config.out.mkdir(parents=True, exist_ok=True)
    for world, of_world in {"pairs": of_pairs, "glyphs": of_glyphs}.items():
        asked = of_world(config)
        rows, maps = zip(*[taken_apart(config, one) for one in asked], strict=True)
        table += [row for of_one in rows for row in of_one]
        draw(config.out / f"{world}.png", config, asked, list(maps))
    return report(config, begin, {"table": table})


if __name__ == "__main__":
    main(tyro.cli(Config))
