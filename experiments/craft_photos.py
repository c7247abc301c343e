"""Claim: on photographs, a few concepts of a network say nearly all of its logit, and in the order of importance.

CRAFT on two networks with their real ImageNet weights, over the real photographs that scikit-image and scikit-learn
ship: six, of as many classes, so that concepts are fitted to the crops of one photograph, and to those of all of them
together. With `--data` they are fitted to the crops of your own pictures of a class as well. Of each fit: what it
leaves out of the activations of the crops; how much of the logit's variance over crops it explains; C-deletion and
C-insertion in the order of importance and in random orders, as shares of what the concepts say of the logit; and how
far dictionaries fitted to resampled crops, with other keys, are from each other, beside those of two photographs. The
order of importance is the best there is where the head is affine (EfficientNet-Lite0); it need not be for SqueezeNet.

Command:  python experiments/craft_photos.py [--smoke] [--models squeezenet] [--data FOLDER] [--out FOLDER]
          Writes a table (CSV), a record (JSON), and a page of concepts of each photograph (PNG).
Hardware: 2 CPU cores.
Time:     7 minutes on a busy machine; --smoke half a minute.
Expected: of the logit 0.89 is explained on Lite0 and 0.87 on SqueezeNet, with five concepts of each photograph.
          C-deletion 0.23 and 0.31 where random orders have 0.50 and 0.49, C-insertion 0.78 and 0.69 against 0.51; with
          20 concepts of all photographs 0.04 and 0.10, 0.96 and 0.90. Refits are 0.11 and 0.10 apart, dictionaries of
          two photographs 0.77 and 0.69. Seed 0, jax 0.10.1.
"""

import csv
import json
import time
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from sparks_jax import concepts, viz
from sparks_jax.concepts import Concepts, Views
from sparks_jax.data import folder, photographs
from sparks_jax.jobs.table import Interval, interval, show
from sparks_jax.models import bundled, efficientnet, squeezenet
from sparks_jax.scores import logit


@dataclass(frozen=True)
class Config:
    """What is explained, and how often it is done again."""

    models: tuple[str, ...] = ("efficientnet_lite0", "squeezenet")
    data: Path | None = None  # a folder of pictures of one class
    rank: int = 5  # concepts of a photograph, or of the pictures in `data`
    rank_of_all: int = 20  # of all photographs together
    crops: tuple[float, ...] = (96 / 224, 128 / 224, 160 / 224)  # sides, as shares of the photograph's
    stride: float = 1 / 3  # between crops, over their side
    refits: int = 20  # to resampled crops, for intervals and stability
    orders: int = 50  # random ones
    shown: int = 5  # concepts of a page
    examples: int = 4  # crops of a concept
    pages: int = 3  # of the folder
    seed: int = 0
    out: Path = Path("sparks-out/craft_photos")
    smoke: bool = False


# A stage whose grid is still fine, 28 × 28 and 27 × 27: where maps are made. From it to the last: the network's own.
EARLIER = {"efficientnet_lite0": (3, efficientnet.LAST), "squeezenet": (5, squeezenet.LAST)}
ALL = "all photographs"
METRICS = {
    "error": "Relative error ↓",
    "logit_r2": "R² of the logit ↑",
    "explained": "Explained of the logit",
    "deletion": "C-deletion ↓",
    "deletion_random": "deletion, random order",
    "insertion": "C-insertion ↑",
    "insertion_random": "insertion, random order",
    "unstable": "Distance of refits ↓",
}


class Group(NamedTuple):
    """Images that concepts are fitted to, and the class that each is explained as."""

    name: str
    images: np.ndarray
    labels: np.ndarray
    rank: int


class Fit(NamedTuple):
    """The concepts of a group, once from its crops and again and again from resampled ones.

    Attributes:
        found: From `craft`, with a leading axis of images: the dictionary is the same for all of them.
        atoms: `(refits k d)`.
        importances: `(refits n k)` of the concepts of `found`, as matched.
        measures: One number each image, or one.
    """

    found: Concepts
    atoms: np.ndarray
    importances: np.ndarray
    measures: dict[str, np.ndarray]


# --- what is explained ---


def groups(config: Config, bundle: bundled.Bundle) -> list[Group]:
    """Each photograph, all of them, and the pictures of the folder that the network takes for one class."""
    taken = photographs(("coffee",)) if config.smoke else photographs()
    images, labels = prepared(bundle, list(taken.values()))
    found = [Group(name, images[i : i + 1], labels[i : i + 1], config.rank) for i, name in enumerate(taken)]
    found.append(Group(ALL, images, labels, config.rank_of_all))
    if config.data is not None:
        mine, labels = prepared(bundle, [folder.read_image(path) for path in folder.list_images(config.data)])
        most = np.bincount(labels).argmax()
        found.append(Group(config.data.name, mine[labels == most], labels[labels == most], config.rank))
    return found


def prepared(bundle: bundled.Bundle, pictures: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Pictures as the network takes them, and the classes that it takes them for."""
    images = np.stack([bundled.prepare(pixels, bundle.size, crop=1.0) for pixels in pictures])
    return images, np.concatenate([np.asarray(predicted(bundle.model, x[None])) for x in images])


@jax.jit
def predicted(model: Any, images: Any) -> Any:
    """The classes that the network takes images for."""
    return model(images).argmax(-1)


@partial(jax.jit, static_argnums=(0, 1))
def seen(sides: tuple[int, ...], stride: float, model: Any, images: Any) -> tuple[Any, Views]:
    """Activations of images, and of their crops."""
    view = concepts.crops(sides, stride=stride)(model.features, images, chunk=8)
    return jax.lax.map(lambda x: model.features(x[None])[0], images), view


# --- concepts ---


@partial(jax.jit, static_argnums=0)
def explain(rank: int, model: Any, acts: Any, labels: Any, views: Views, key: Any) -> Concepts:
    """CRAFT of each image with its own class, on one dictionary of all views."""

    def of_image(acts: Any, label: Any) -> Concepts:
        return concepts.craft_activations(views, acts[None], logit(model.head, label), key=key, rank=rank)

    return jax.vmap(of_image)(acts, labels)


def resampled(views: Views, num_images: int, several: bool, key: Any) -> Views:
    """As many crops of each image, drawn with replacement; of as many images drawn so, where they are of one class."""
    key_images, key_crops = jax.random.split(key)
    each = len(views.acts) // num_images
    images = jnp.arange(num_images)
    images = jax.random.choice(key_images, images, (num_images,)) if several else images
    rows = (each * images[:, None] + jax.random.randint(key_crops, (num_images, each), 0, each)).ravel()
    return jax.tree.map(lambda a: a[rows], views)


@partial(jax.jit, static_argnums=(0, 1))
def again(rank: int, several: bool, model: Any, acts: Any, labels: Any, views: Views, keys: Any) -> tuple[Any, Any]:
    """Atoms and importances of fits to resampled crops."""

    def one(key: Any) -> tuple[Any, Any]:
        key_rows, key_fit = jax.random.split(key)
        found = explain(rank, model, acts, labels, resampled(views, len(acts), several, key_rows), key_fit)
        return found.dictionary.atoms[0], found.importance.values[:, 0]

    return jax.lax.map(one, keys)


@partial(jax.jit, static_argnums=0)
def measure(num_orders: int, model: Any, found: Concepts, rows: Any, label: Any, key: Any) -> dict[str, Any]:
    """Of one image: what its concepts say of its crops, and of its logit, in which order."""
    dictionary, codes, values = found.dictionary, found.image_codes[0], found.importance.values[0]
    decoded = concepts.decode(dictionary, concepts.encode(dictionary, rows))
    head = logit(model.head, label)
    alone = lambda acts: jax.vmap(head)(acts)[:, None]
    nothing, all_of_it = (concepts.of_codes(head, dictionary)(u) for u in (0 * codes, codes))
    share = lambda curve: (curve.auc - nothing) / (all_of_it - nothing)
    given = {"deletion": concepts.c_deletion, "insertion": concepts.c_insertion}
    orders = jax.random.uniform(key, (num_orders, len(values)))
    areas = {name: lambda phi, walk=walk: share(walk(head, dictionary, codes, phi)) for name, walk in given.items()}
    return {
        "error": concepts.relative_error(rows, decoded).mean(),
        "logit_r2": concepts.logit_r_squared(alone, rows[:, None, None], decoded[:, None, None])[0],
        "explained": found.explained[0] / found.score[0],
        **{name: area(values) for name, area in areas.items()},
        **{f"{name}_random": jax.lax.map(area, orders).mean() for name, area in areas.items()},
    }


def fit(config: Config, model: Any, group: Group) -> tuple[Fit, Views]:
    """The concepts of a group, their refits, and all measures; and the crops."""
    key_fit, key_again, key_orders = jax.random.split(jax.random.key(config.seed), 3)
    labels, n = jnp.asarray(group.labels), len(group.images)
    sides = tuple(round(share * group.images.shape[1]) for share in config.crops)
    acts, views = seen(sides, config.stride, model, jnp.asarray(group.images))
    found = explain(group.rank, model, acts, labels, views, key_fit)
    several = n > 1 and len(set(group.labels.tolist())) == 1
    atoms, values = again(group.rank, several, model, acts, labels, views, jax.random.split(key_again, config.refits))
    pairs = [concepts.match(found.dictionary.atoms[0], of) for of in atoms]
    values = np.stack([np.asarray(v)[:, pair.second] for v, pair in zip(values, pairs, strict=True)])
    rows, keys = views.acts.reshape(n, -1, views.acts.shape[-1]), jax.random.split(key_orders, n)
    each = [
        measure(config.orders, model, jax.tree.map(lambda a: a[i], found), rows[i], labels[i], keys[i])
        for i in range(n)
    ]
    measures = {name: np.array([one[name] for one in each]) for name in each[0]}
    measures["unstable"] = np.array([concepts.stability(atoms).mean()])
    return Fit(jax.tree.map(np.asarray, found), np.asarray(atoms), values, measures), views


# --- pages ---


@partial(jax.jit, static_argnums=0)
def where(name: str, model: Any, dictionary: Any, x: Any) -> Any:
    """A map of each concept: how much of it comes from where, at a stage whose grid is fine."""
    stage, last = EARLIER[name]
    halves = (lambda x: model.features(x, stage), lambda acts: model._between(stage, last, acts))
    return concepts.gradient_maps(model.features, dictionary, x, at=halves)


def examples(codes: Any, views: Views | Concepts, images: np.ndarray, count: int) -> list[np.ndarray]:
    """The crops that have most of a concept, none of which is half of another."""
    chosen: list[int] = []
    image, box = np.asarray(views.image), np.asarray(views.box)
    for i in np.argsort(-codes):
        apart = [image[i] != image[j] or np.abs(box[i, :2] - box[j, :2]).max() >= box[i, 2] / 2 for j in chosen]
        if all(apart) and codes[i] > 0:
            chosen.append(int(i))
        if len(chosen) == count:
            break
    places = [(image[i], *box[i].astype(int)) for i in chosen]
    return [images[n][top : top + height, left : left + width] for n, top, left, height, width in places]


def page(config: Config, bundle: bundled.Bundle, group: Group, views: Views, fitted: Fit, i: int) -> Any:
    """A picture of an image of a group: its top concepts, where they are, their crops, and what they count for."""
    found, title = fitted.found, bundle.classes[group.labels[i]]
    shares, refits = (a / a.sum(-1, keepdims=True) for a in (found.importance.values[i, 0], fitted.importances[:, i]))
    lows, highs = np.quantile(refits, [0.025, 0.975], axis=0)
    order = np.argsort(-shares)[: config.shown]
    first = jax.tree.map(lambda a: jnp.asarray(a[0]), found.dictionary)
    maps = np.asarray(where(bundle.name, bundle.model, first, jnp.asarray(group.images[i])))
    names = {f"concept {rank + 1}": k for rank, k in enumerate(order)}
    return viz.concept_page(
        group.images[i], {name: maps[k] for name, k in names.items()},
        [examples(found.codes[i, :, k], views, group.images, config.examples) for k in order],
        [(shares[k], lows[k], highs[k]) for k in order],
        title=f"{title}: logit {found.score[i, 0]:.1f}, concepts alone {found.explained[i, 0]:.1f}",
        label="share of what the concepts say",
    )  # fmt: skip


# --- the table ---


def run(config: Config, name: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """One network: the rows of its table, and a record of each image; its pages are drawn."""
    bundle = bundled.load(name)
    fits, record = {}, {}
    for group in groups(config, bundle):
        fits[group.name], views = fit(config, bundle.model, group)
        fitted = fits[group.name]
        if group.name != ALL:
            for i in range(min(config.pages, len(group.images))):
                path = config.out / f"{name}_{group.name}{f'_{i}' if len(group.images) > 1 else ''}.png"
                page(config, bundle, group, views, fitted, i).savefig(path, dpi=80)
        record[group.name] = {
            "classes": [bundle.classes[label] for label in group.labels],
            "score": fitted.found.score[:, 0].tolist(),
            "explained": fitted.found.explained[:, 0].tolist(),
            "importance": fitted.found.importance.values[:, 0].tolist(),
            "measures": {metric: values.tolist() for metric, values in fitted.measures.items()},
        }
        print(told(group.name, record[group.name]), flush=True)
    return rows_of(config, name, fits), record


def told(name: str, one: dict[str, Any]) -> str:
    """What each image was taken for, and how much of that its concepts say."""
    parts = zip(one["classes"], one["score"], one["explained"], strict=True)
    return f"  {name}: " + ", ".join(f"{c} {score:.1f}, explained {explained:.1f}" for c, score, explained in parts)


def rows_of(config: Config, name: str, fits: dict[str, Fit]) -> list[dict[str, Any]]:
    """Means over images: of the photographs each by itself, of all together, and of the folder."""
    single = [fitted for group, fitted in fits.items() if len(fitted.found.score) == 1]
    apart = {metric: np.concatenate([fitted.measures[metric] for fitted in single]) for metric in METRICS}
    kinds = {"each photograph": apart, ALL: fits[ALL].measures}
    if config.data is not None:
        kinds[config.data.name] = fits[config.data.name].measures
    rows = []
    for kind, measures in kinds.items():
        row = {"network": name, "fitted to": kind} | {
            title: interval(measures[metric]) for metric, title in METRICS.items()
        }
        for walk in ("deletion", "insertion"):
            row[f"{walk} - random"] = interval(measures[walk] - measures[f"{walk}_random"])
        rows.append(row)
    apart = concepts.stability(jnp.stack([fitted.atoms[0] for fitted in single])) if len(single) > 1 else [np.nan]
    rows[0]["between photographs"] = interval(apart)
    return rows


# --- what every experiment on concepts writes ---


def text(rows: list[dict[str, Any]]) -> str:
    """A table in aligned columns; an interval as its mean and its ends."""
    cell = lambda a: show(a) if isinstance(a, Interval) else f"{a:.3f}" if isinstance(a, float) else str(a)
    columns = list(dict.fromkeys(name for row in rows for name in row))
    lines = [columns] + [[cell(row.get(name, "")) for name in columns] for row in rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(word.ljust(w) for word, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def flat(row: dict[str, Any]) -> dict[str, Any]:
    """A row with the ends of its intervals as columns."""
    cells = {name: a._asdict() if isinstance(a, Interval) else {"": a} for name, a in row.items()}
    return {f"{name} {end}".strip(): value for name, cell in cells.items() for end, value in cell.items()}


def report(config: Any, begin: float, tables: dict[str, list[dict[str, Any]]], **more: Any) -> dict[str, Any]:
    """Print the tables, write each of them (CSV), and everything with the settings (`run.json`); return that."""
    seconds = time.perf_counter() - begin
    settings = {name: str(value) if isinstance(value, Path) else value for name, value in asdict(config).items()}
    record = {"config": settings, "seconds": seconds, **more} | {name: [*map(flat, t)] for name, t in tables.items()}
    for name, rows in tables.items():
        print(f"\n{text(rows)}")
        with (config.out / f"{name}.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(dict.fromkeys(column for row in record[name] for column in row)))
            writer.writeheader()
            writer.writerows(record[name])
    (config.out / "run.json").write_text(json.dumps(record, indent=1) + "\n")
    print(f"\n{seconds:.0f} s, jax {jax.__version__}, {jax.devices()[0].device_kind}")
    return record


def main(config: Config) -> dict[str, Any]:
    """Print the table, draw the pages, write the record and return it."""
    if config.smoke:
        config = replace(
            config, models=config.models[-1:], crops=(0.5,), stride=1.0, rank=2, rank_of_all=2, refits=2, orders=2,
            shown=2, examples=2, pages=1,
        )  # fmt: skip
    begin, table, networks = time.perf_counter(), [], {}
    config.out.mkdir(parents=True, exist_ok=True)
    for name in config.models:
        print(f"{name}:")
        rows, networks[name] = run(config, name)
        table += rows
    return report(config, begin, {"table": table}, networks=networks)


if __name__ == "__main__":
    main(tyro.cli(Config))
