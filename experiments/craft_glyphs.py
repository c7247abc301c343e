"""Claim: CRAFT finds what a network of the glyph world looks at, be it the glyph or a planted shortcut.

One dictionary is fitted to the last activations of images of all classes, and its concepts are matched one to one with
what is in the images: the glyphs that are the classes, the tags, the distractors. In every image is a tag, whose colour
says nothing. Two networks see the same images: the bundled one, which reads the glyph, and one that was trained where
the tag told the class. Asked is, of fresh images,

(a) whether each glyph is found as one concept: how well its amount tells whether the glyph is there;
(b) whether that is the most important concept of the class, and what distractors and tags count for;
(c) whether implicit gradient maps point at the glyph better than the codes of positions;
(d) whether the tag is the top concept of the network that cheats.

How concepts are taken apart is asked in `recursion.py`.

Command:  python experiments/craft_glyphs.py [--smoke] [--out FOLDER]
          Tables (CSV), a record (JSON), pictures. A killed run resumes the training of the network that cheats.
Hardware: 2 CPU cores.
Time:     5 minutes on a busy machine, half of them training; --smoke a quarter of a minute, most of it compilation.
Expected: (a) AUC 0.997 or more for every glyph; of distractors 0.64 at most. (b) The concept of the glyph is the top
          one for 10 classes of 10 and for every image; 1.6 % of the logits come from distractors, which cover 11 % of
          the images. (c) Pointing 0.99 against 0.62, a gain of 0.37 [0.30, 0.45]; IoU 0.69 against 0.38. (d) For 10
          classes of 10 the top concept tells the tag, AUC 1.00. Seed 0, jax 0.10.1.
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
from scipy.stats import rankdata

from experiments import localization_glyphs
from experiments.craft_photos import report
from sparks_jax import concepts, metrics, stream, viz
from sparks_jax.data.glyphs import CLASSES, DISTRACTORS, Glyphs, glyphs
from sparks_jax.jobs.table import Interval, interval
from sparks_jax.models import bundled
from sparks_jax.scores import logit


@dataclass(frozen=True)
class Config:
    """What is found in what."""

    images: int = 640  # of all classes, that concepts are fitted to
    tested: int = 640  # fresh ones, that everything is measured on
    mapped: int = 160  # of those, for maps
    rank: int = 16  # concepts of all classes together
    steps: int = 400  # of the training of the network that cheats
    draws: int = 1000  # of each bootstrap
    pictures: int = 4
    seed: int = 0
    out: Path = Path("sparks-out/craft_glyphs")
    smoke: bool = False


READS_GLYPH, READS_TAG = localization_glyphs.NETWORKS
EARLY, LAST = 1, 3  # stages: 32 and 8 cells on a side, for maps, for concepts
TOLERANCE = localization_glyphs.TOLERANCE
CODES, GRADIENT, GAIN = "codes of positions", "implicit gradient", "gradient - codes"
PLACES = ("glyph", "distractors", "tag", "ground")


class Found(NamedTuple):
    """The concepts of a network, and what they are.

    Attributes:
        amounts: `(n k)` of each concept in each tested image.
        of: From what may be in an image, as `"glyph star"`, to its concept.
        taken: `(n)` the class that the network takes each of them for.
        contributions: `(n k)` of each concept to the logit of that class.
        places: `(n 8 8)` of each position to it.
        top: `(10)` the concept that each class rests on most.
    """

    dictionary: concepts.Dictionary
    amounts: np.ndarray
    of: dict[str, int]
    taken: np.ndarray
    contributions: np.ndarray
    places: np.ndarray
    top: np.ndarray


# --- (a) what is in an image, and which concept it is ---


def contents(world: Glyphs) -> dict[str, np.ndarray]:
    """In which of the images each glyph, tag and distractor is."""
    labels, cues, kinds = (np.asarray(a) for a in (world.labels, world.cues, world.kinds))
    found = {f"glyph {name}": labels == i for i, name in enumerate(CLASSES)}
    found |= {f"tag {name}": cues == i for i, name in enumerate(CLASSES)}
    return found | {f"distractor {name}": (kinds == i).any(1) for i, name in enumerate(DISTRACTORS)}


def auc(amounts: Any, there: Any) -> np.ndarray:
    """How well amounts tell where something is, along the last axis: the area under the ROC curve, by ranks."""
    there = np.asarray(there, float)
    ones, size = there.sum(-1), there.shape[-1]
    ranks = (rankdata(amounts, axis=-1) * there).sum(-1)
    return (ranks - ones * (ones + 1) / 2) / np.maximum(ones * (size - ones), 1)


def auc_interval(amounts: Any, there: Any, draws: int) -> Interval:
    """Of fresh images, with its bootstrap interval."""
    rows = np.random.default_rng(0).integers(0, len(there), (draws, len(there)))
    low, high = np.quantile(auc(np.asarray(amounts)[rows], there[rows]), [0.025, 0.975])
    return Interval(float(auc(amounts, there)), float(low), float(high), len(there))


def match(amounts: np.ndarray, there: dict[str, np.ndarray]) -> dict[str, int]:
    """A concept for each glyph, each tag, each distractor: one to one within a family, the sum of areas greatest."""
    of = {}
    for family in ("glyph", "tag", "distractor"):
        names = [name for name in there if name.startswith(family)]
        areas = lambda first, second: np.array([[auc(u, t > 0) for u in second] for t in first])
        given = (jnp.asarray(np.stack([there[name] for name in names]), jnp.float32), jnp.asarray(amounts.T))
        pairs = concepts.match(*given, similarity=areas)
        of |= {names[i]: int(k) for i, k in zip(pairs.first, pairs.second, strict=True)}
    return of


def activations(model: Any, images: Any, stage: int = LAST) -> Any:
    """Of a stage, a few images at once."""
    return stream.stack_over(lambda x: model.features(x[None], stage)[0], images, 64)


@partial(jax.jit, static_argnums=(2,))
def decompose(model: Any, worlds: tuple[Any, Any], rank: int, key: Any) -> tuple[Any, ...]:
    """A dictionary of the first images, amounts in both; what the second are taken for, and what says so."""
    first, second = (activations(model, images) for images in worlds)
    dictionary = concepts.nmf(first.reshape(-1, first.shape[-1]), rank, key=key).dictionary
    codes = [concepts.encode(dictionary, acts) for acts in (first, second)]
    taken = model.head(second).argmax(-1)

    def contributions(u: Any, label: Any) -> tuple[Any, Any]:
        head = logit(model.head, label)
        # Exact: the head is affine. By concept, and by position.
        each = u * jax.grad(concepts.of_codes(head, dictionary))(u)
        return concepts.importance(head, dictionary, u[None]).values[0], each.sum(-1)

    return dictionary, [u.mean((1, 2)) for u in codes], taken, *jax.vmap(contributions)(codes[1], taken)


def find(config: Config, model: Any, fit: Glyphs, tested: Glyphs) -> Found:
    """The concepts of a network, matched on the images that they were fitted to."""
    key = jax.random.key(config.seed)
    found = decompose(model, (fit.images, tested.images), config.rank, key)
    dictionary, (first, amounts), taken, contributions, places = (found[0], *jax.tree.map(np.asarray, found[1:]))
    top = [contributions[taken == label].sum(0).argmax() for label in range(len(CLASSES))]
    return Found(dictionary, amounts, match(first, contents(fit)), taken, contributions, places, np.array(top))


# --- (b), (d) what the classes rest on ---


def wilson(hits: Any) -> Interval:
    """A share with its interval."""
    hits = np.asarray(hits)
    low, high = np.asarray(concepts.wilson(jnp.array([float(hits.sum())]), jnp.array([float(len(hits))])))[:, 0]
    return Interval(float(hits.mean()) if len(hits) else None, float(low), float(high), len(hits))


def classes(config: Config, name: str, found: Found, tested: Glyphs) -> list[dict[str, Any]]:
    """A line for each class of a network: is its glyph, is its tag a concept; which is its top one. And distractors."""
    there, rows = contents(tested), []
    area = lambda k, what: auc_interval(found.amounts[:, k], there[what], config.draws)
    for label, shape in enumerate(CLASSES):
        mine, top = found.contributions[found.taken == label], found.top[label]
        row: dict[str, Any] = {"network": name, "what": shape}
        for what in ("glyph", "tag"):
            row |= {f"{what}: its concept": area(found.of[f"{what} {shape}"], f"{what} {shape}")}
            row |= {f"{what}: the top one": area(top, f"{what} {shape}")}
        rows.append(
            row | {"top's share": interval(mine[:, top] / mine.sum(1)), "top in": wilson(mine.argmax(1) == top)}
        )
    kinds = [what for what in there if what.startswith("distractor")]
    return rows + [{"network": name, "what": w, "glyph: its concept": area(found.of[w], w)} for w in kinds]


def by_place(name: str, found: Found, tested: Glyphs) -> list[dict[str, Any]]:
    """From where in the images the logits of their classes come, beside the share of the images that each place has."""
    masks = np.stack([tested.masks, tested.distractors.any(1), tested.tags], 1)
    masks = np.concatenate([masks, ~masks.any(1, keepdims=True)], 1)
    side = masks.shape[-1] // found.places.shape[-1]
    cells = masks.reshape(*masks.shape[:2], -1, side, found.places.shape[-1], side).mean((3, 5))
    shares = (cells * found.places[:, None]).sum((2, 3)) / found.places.sum((1, 2))[:, None]
    rows = {"logit": shares, "area": cells.mean((2, 3))}
    return [
        {"network": name, "share of": what} | {place: interval(a[:, i]) for i, place in enumerate(PLACES)}
        for what, a in rows.items()
    ]


# --- (c) where concepts are ---


@jax.jit
def maps_of(model: Any, dictionary: Any, images: Any, chosen: Any) -> dict[str, Any]:
    """Where one concept is in each image: its codes, and implicit gradients at the first stage."""

    def rest(acts: Any) -> Any:
        for block in model.model.stages[EARLY:LAST]:
            acts = block(acts)
        return acts

    def one(given: tuple[Any, Any]) -> tuple[Any, Any]:
        x, k = given
        codes = concepts.coefficient_maps(model.features, dictionary, x)[k]
        at = (lambda x: model.features(x, EARLY), rest)
        return codes, concepts.gradient_maps(model.features, dictionary, x, at=at)[k]

    return dict(zip((CODES, GRADIENT), jax.lax.map(one, (images, chosen), batch_size=8), strict=True))


def overlap(heatmap: Any, mask: Any) -> Any:
    """Of the highest pixels of a map, as many as the truth has, and the truth: intersection over union."""
    shared = metrics.relevance_rank(heatmap, mask)
    return shared / (2 - shared)


POINTING = {
    "pointing": partial(metrics.pointing_game, tolerance=0),
    f"pointing, {TOLERANCE} px": partial(metrics.pointing_game, tolerance=TOLERANCE),
    "AUC": metrics.localization_auc,
    "IoU": overlap,
}  # fmt: skip


@jax.jit
def agreement(maps: Any, truth: Any) -> dict[str, Any]:
    """Of each map with its truth."""
    return {metric: jax.vmap(run)(maps, truth) for metric, run in POINTING.items()}


def pointing(name: str, maps: dict[str, Any], truth: Any) -> list[dict[str, Any]]:
    """How well both kinds of maps agree with the truth, and the gain of one over the other, image by image."""
    values = {kind: jax.tree.map(np.asarray, agreement(maps[kind], jnp.asarray(truth))) for kind in (CODES, GRADIENT)}
    values[GAIN] = {metric: values[GRADIENT][metric] - values[CODES][metric] for metric in POINTING}
    return [{"network": name, "map": k} | {m: interval(a) for m, a in of.items()} for k, of in values.items()]


# --- pictures, tables ---


def draw(config: Config, tested: Glyphs, maps: dict[str, Any], model: Any, one: Found) -> None:
    """Maps of the top concept of each image, for both networks; and for one image all that matters to the first."""
    seen = [(i, name) for i in range(config.pictures) for name in maps]
    kinds = {kind: [maps[name][kind][i] for i, name in seen] for kind in (CODES, GRADIENT)}
    titles = [f"{CLASSES[int(tested.labels[i])]}: {name}" for i, name in seen]
    viz.grid([tested.images[i] for i, _ in seen], kinds, titles, side=1.6).savefig(config.out / "maps.png", dpi=100)
    shares = one.contributions[0] / one.contributions[0].sum()
    order = np.argsort(-shares)[:4]
    made = maps_of(model, one.dictionary, np.repeat(tested.images[:1], len(order), 0), order)[GRADIENT]
    named = {k: what for what, k in one.of.items() if what.startswith("glyph")}
    page = {named.get(k, f"no glyph, {k}"): np.asarray(a) for k, a in zip(order, made, strict=True)}
    examples = [[tested.images[i] for i in np.argsort(-one.amounts[:, k])[:4]] for k in order]
    rows = [(shares[k], None, None) for k in order]  # exact: the head is affine
    figure = viz.concept_page(tested.images[0], page, examples, rows, label="share of the logit")
    figure.savefig(config.out / "concepts.png", dpi=100)


def measured(config: Config, networks: dict[str, Any], worlds: tuple[Glyphs, Glyphs]) -> dict[str, list[Any]]:
    """The tables; pictures are drawn."""
    tables, found, maps = {"table": [], "places": [], "maps": []}, {}, {}
    tested, mapped = worlds[1], slice(0, config.mapped)
    for name, model in networks.items():
        one = found[name] = find(config, model, *worlds)
        tables["table"] += classes(config, name, one, tested)
        tables["places"] += by_place(name, one, tested)
        maps[name] = maps_of(model, one.dictionary, tested.images[mapped], one.top[one.taken[mapped]])
        tables["maps"] += pointing(name, maps[name], (tested.masks if name == READS_GLYPH else tested.tags)[mapped])
    draw(config, tested, maps, networks[READS_GLYPH], found[READS_GLYPH])
    return tables


def main(config: Config) -> dict[str, Any]:
    """Print the tables, write them with a record, draw the pictures; return the record."""
    if config.smoke:
        config = replace(config, images=8, tested=8, mapped=4, rank=10, draws=10, pictures=1)
    begin = time.perf_counter()
    world = lambda num, seed: glyphs(num, key=jax.random.key(config.seed + seed), shortcut=1.0, agreement=0.0)
    worlds = tuple(jax.tree.map(np.asarray, world(n, i)) for i, n in ((7, config.images), (8, config.tested)))
    training = localization_glyphs.Config(steps=config.steps, seed=config.seed, out=config.out, smoke=config.smoke)
    config.out.mkdir(parents=True, exist_ok=True)
    networks = {READS_GLYPH: bundled.load("glyphs").model, READS_TAG: localization_glyphs.cheat(training)}
    return report(config, begin, measured(config, networks, worlds))


if __name__ == "__main__":
    main(tyro.cli(Config))
