"""From the study of a class to its record: numbers with their intervals, in the words of the schema."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

import sparks_jax.lens.black_boxes as black_boxes
import sparks_jax.lens.schema as schema
from sparks_jax import concepts
from sparks_jax.lens.bundle import class_id, write_arrays
from sparks_jax.lens.intervals import mean_interval, proportion
from sparks_jax.lens.predictions import Predictions
from sparks_jax.lens.schema import FORMAT, VERSION, Interval
from sparks_jax.lens.settings import TOP
from sparks_jax.lens.shown import Gallery, Shown, shares
from sparks_jax.lens.study import PERPLEXITY

IMPORTANT = 10  # images whose main concept makes it important, or a tenth of them where they are fewer
MATTERS = 0.15  # share of what speaks for the class in a cluster, from which a concept is one of its set
CONFUSIONS, ROWS = 5, 50  # other classes named, images of each


class Facts(NamedTuple):
    """What a record needs besides the study of its class.

    Attributes:
        fingerprint: Of the build.
        predictions: Of all images.
        directions: `(m d)` of activation space, one for each class.
        directed: Labels of these.
    """

    fingerprint: str
    predictions: Predictions
    directions: np.ndarray
    directed: np.ndarray


def describe(gallery: Gallery, shown: Shown, facts: Facts) -> schema.ClassRecord:
    """The record of a class, after its arrays and its bank are written.

    Args:
        gallery: The class.
        shown: Its pictures.
        facts: What else is known.
    """
    member, source, engine = gallery.member, gallery.source, gallery.engine
    names, label, rows = engine.network.classes, gallery.member.label, gallery.member.rows
    labels, first = source.labels[rows], facts.predictions.first
    correct = np.where(labels < 0, -1, labels == label)
    main, clusters = gallery.one["importances"].argmax(1), _clusters(gallery.one["importances"])
    arrays = _arrays(gallery, shown, facts, main, clusters, labels, correct)
    points = dict(zip(map(str, schema.POINT_COLUMNS), arrays["points"].T, strict=True))
    listed = _concepts(gallery, shown, facts, main, correct)
    mine = source.labels == label
    return schema.ClassRecord(
        FORMAT, VERSION, facts.fingerprint, class_id(label), label, names[label], len(rows), int(mine.sum()),
        proportion((mine & (first == label)).sum(), mine.sum()), proportion((correct == 1).sum(), (correct >= 0).sum()),
        mean_interval(points["score"]), _importance(gallery, points), listed, _metrics(gallery, listed),
        _strategies(gallery.one["importances"], clusters, correct, engine.settings.seed),
        _taken_for(labels, label, names), _mistaken(source.labels, first, label, names),
        [schema.Rival(int(one), names[one]) for one in member.rivals], [source.names[row] for row in rows],
        shown.exhibits, shown.sheet, write_arrays(gallery.folder, f"arrays/{class_id(label)}.f32", arrays),
        write_arrays(gallery.folder, f"banks/{class_id(label)}.f32", _bank(gallery)), _notes(gallery, listed),
        _black_box(gallery),
    )  # fmt: skip


# --- arrays -----------------------------------------------------------------------------------------------


def _arrays(
    gallery: Gallery, shown: Shown, facts: Facts, main: np.ndarray, clusters: np.ndarray, labels: np.ndarray,
    correct: np.ndarray,
) -> dict[str, np.ndarray]:  # fmt: skip
    one, rows, n = gallery.one, gallery.member.rows, len(gallery.member.rows)
    tile = np.where(np.arange(n) < shown.sheet.number, np.arange(n), -1)
    points = [*one["plane"].T, main, clusters, labels, correct, one["logits"][:, 0], one["explained"], tile, rows]
    exhibits = [exhibit.row for exhibit in shown.exhibits]
    found = {
        "points": np.stack(points, 1), "importances": one["importances"], "amounts": one["amounts"],
        "logits": one["logits"], "slopes": one["slopes"], "top_labels": facts.predictions.labels[rows],
        "top_probabilities": facts.predictions.probabilities[rows],
        "where_codes": np.moveaxis(one["image_codes"][exhibits], -1, 1), "where_gradient": shown.gradient,
    }  # fmt: skip
    return found if shown.black_box is None else found | {"where_black_box": shown.black_box}


def _bank(gallery: Gallery) -> dict[str, Any]:
    one, boxes = gallery.one, shares(gallery.engine)
    n = len(gallery.member.rows)
    views = np.concatenate([np.repeat(np.arange(n), len(boxes))[:, None], np.tile(boxes, (n, 1))], 1)
    scale = np.reshape(one["dictionary_scale"], 1)
    return dict(
        atoms=one["dictionary_atoms"], mean=one["dictionary_mean"], scale=scale, codes=one["codes"], views=views
    )


# --- concepts ---------------------------------------------------------------------------------------------


def _concepts(
    gallery: Gallery, shown: Shown, facts: Facts, main: np.ndarray, correct: np.ndarray
) -> list[schema.Concept]:
    one, names, n = gallery.one, gallery.engine.network.classes, len(main)
    values, atoms = one["importances"].astype(np.float64), one["dictionary_atoms"]
    means, energy = values.mean(0), np.square(one["codes"].astype(np.float64)).sum(0)
    cosines, places = _cosines(atoms, facts.directions), proximity(atoms)
    known = _known(gallery)
    partners = concepts.match(jnp.asarray(atoms), jnp.asarray(one["again"])).similarity
    own = np.flatnonzero(facts.directed == gallery.member.label)
    found = []
    for k in range(len(atoms)):
        mine = main == k
        enough = mine.sum() >= min(IMPORTANT, max(1, n / 10))
        told = mine & (correct >= 0)
        carried = float(energy[k] / energy.sum()) if energy.any() else 0.0
        best = np.argsort(-cosines[k], kind="stable")[:TOP]
        aligned = [
            schema.Alignment(int(facts.directed[j]), names[facts.directed[j]], float(cosines[k, j])) for j in best
        ]
        sobol = None if np.isnan(one["sobol"]).any() else mean_interval(one["sobol"][:, k])
        found.append(schema.Concept(
            None, mean_interval(values[:, k]), _share(means, k), bool(enough), sobol, proportion(mine.sum(), n),
            proportion((correct[told] == 1).sum(), told.sum()), carried,
            not energy[k], float(np.clip(partners[k], -1, 1)), float(cosines[k, own[0]]) if len(own) else None, aligned,
            [float(place) for place in places[k]], shown.pictures[k], shown.crops[k], known[k], shown.parts[k],
        ))  # fmt: skip
    return found


def _share(means: np.ndarray, k: int) -> float:
    return float(means[k] / means.sum()) if means.sum() > 0 else 0.0


def _cosines(atoms: np.ndarray, directions: np.ndarray) -> np.ndarray:
    unit = lambda a: a / np.maximum(np.linalg.norm(a, axis=1, keepdims=True), 1e-30)
    return np.clip(unit(atoms.astype(np.float64)) @ unit(directions.astype(np.float64)).T, -1, 1)


def proximity(atoms: np.ndarray) -> np.ndarray:
    r"""Concepts in a plane by classical scaling of $2 - 2 \cos$, within [−1, 1].

    Args:
        atoms: `(k d)`.

    Example:
        >>> places = proximity(np.array([[1.0, 0.0], [1.0, 0.01], [0.0, 1.0]]))
        >>> bool(np.linalg.norm(places[0] - places[1]) < 0.02 * np.linalg.norm(places[0] - places[2]))
        True
    """
    cosines = _cosines(atoms, atoms)
    centred = cosines - cosines.mean(0) - cosines.mean(1)[:, None] + cosines.mean()
    values, vectors = np.linalg.eigh((centred + centred.T) / 2)
    order = np.argsort(-values, kind="stable")[:2]
    axes = vectors[:, order] * np.sqrt(np.maximum(values[order], 0))
    axes = np.pad(axes, ((0, 0), (0, 2 - axes.shape[1])))
    signs = np.sign(np.take_along_axis(axes, np.abs(axes).argmax(0)[None], 0))
    axes = axes * np.where(signs == 0, 1, signs)
    return axes / max(float(np.abs(axes).max()), 1e-12)


def _known(gallery: Gallery) -> list[list[schema.Known]]:
    """The share of the codes of each concept that lies on what is known to be in the images."""
    codes, rows = gallery.one["image_codes"].astype(np.float64), gallery.member.rows
    rank, tell = codes.shape[-1], gallery.source.known
    if tell is None:
        return [[] for _ in range(rank)]
    masks = [tell(int(row)) for row in rows]
    found: list[list[schema.Known]] = [[] for _ in range(rank)]
    for name in masks[0]:
        there = np.stack([_cells(mask[name], codes.shape[1:3]) for mask in masks])
        on, total = (codes * there[..., None]).sum((1, 2)), codes.sum((1, 2))
        for k in range(rank):
            some = total[:, k] > 0
            if some.any():
                share = mean_interval(on[some, k] / total[some, k])
                found[k].append(schema.Known(name, Interval(share.value, max(share.low, 0.0), min(share.high, 1.0))))
    return found


def _cells(mask: np.ndarray, grid: tuple[int, ...]) -> np.ndarray:
    """The share of each cell of a grid that a mask covers."""
    from PIL import Image

    size = (grid[1], grid[0])
    return np.asarray(Image.fromarray(mask.astype(np.float32)).resize(size, Image.Resampling.BOX), np.float64)


# --- the class --------------------------------------------------------------------------------------------


def _importance(gallery: Gallery, points: dict[str, np.ndarray]) -> schema.Importance:
    one, exact = gallery.one, gallery.engine.halves.affine
    sobol = None if np.isnan(one["sobol"]).any() else mean_interval(one["sobol"].sum(1))
    return schema.Importance(
        "contribution" if exact else "integrated_gradients", exact, "logit", float(one["origin"]),
        mean_interval(points["score"]), mean_interval(points["explained"]),
        mean_interval(points["score"] - points["explained"]), sobol,
    )  # fmt: skip


def _black_box(gallery: Gallery) -> schema.BlackBox | None:
    settings = gallery.engine.settings
    if settings.black_box is None:
        return None
    number = black_boxes.evaluations(settings.black_box, gallery.engine.network.size)
    return schema.BlackBox(settings.black_box, number, settings.seed)


def _metrics(gallery: Gallery, listed: list[schema.Concept]) -> schema.Metrics:
    one = gallery.one
    finite = lambda value: float(value) if np.isfinite(value) else None
    score, total = one["logits"][:, 0].astype(np.float64), float(one["total_square"])
    varies = np.square(score - score.mean()).sum()
    partners = [concept.stability for concept in listed if concept.stability is not None]
    return schema.Metrics(
        float(one["relative_error"].mean()), finite(1 - one["residual_square"] / total) if total > 0 else None,
        finite(1 - np.square(score - one["explained"]).sum() / varies) if varies > 0 else None,
        float(np.clip(np.mean(partners), 0, 1)), finite(one["deletion"].mean()), finite(one["insertion"].mean()),
        finite(one["fidelity"].mean()), float((one["predicted"] == one["predicted_explained"]).mean()),
    )  # fmt: skip


def _clusters(values: np.ndarray) -> np.ndarray:
    """Groups of images, the largest first; −1 for those that belong to none."""
    n = len(values)
    if n < 10:
        return np.full(n, -1)
    groups = concepts.strategy_clusters(values, min_size=max(5, n // 20))
    sizes = np.bincount(groups[groups >= 0], minlength=1)
    rank = np.argsort(np.argsort(-sizes, kind="stable"), kind="stable")
    return np.where(groups >= 0, rank[groups], -1)


def _strategies(values: np.ndarray, clusters: np.ndarray, correct: np.ndarray, seed: int) -> schema.Strategies:
    found = []
    for group in range(int(clusters.max()) + 1):
        mine = clusters == group
        told = mine & (correct >= 0)
        means = np.maximum(values[mine].mean(0), 0)
        matter = np.flatnonzero(means >= MATTERS * max(float(means.sum()), 1e-30))
        right = proportion((correct[told] == 1).sum(), told.sum())
        found.append(schema.Cluster(matter.tolist(), proportion(mine.sum(), len(values)), right))
    return schema.Strategies("t-SNE of the importances of each image, scaled to norm 1", PERPLEXITY, seed, found)


def _taken_for(labels: np.ndarray, label: int, names: Any) -> list[schema.Confusion]:
    told = labels >= 0
    counts = np.bincount(labels[told & (labels != label)], minlength=1)
    order = [one for one in np.argsort(-counts, kind="stable")[:CONFUSIONS].tolist() if counts[one]]
    rows = lambda other: np.flatnonzero(labels == other)[:ROWS].tolist()
    return [schema.Confusion(one, names[one], proportion(counts[one], told.sum()), rows(one)) for one in order]


def _mistaken(labels: np.ndarray, first: np.ndarray, label: int, names: Any) -> list[schema.Confusion]:
    mine = (labels == label) & (first >= 0)
    counts = np.bincount(first[mine & (first != label)], minlength=1)
    order = [one for one in np.argsort(-counts, kind="stable")[:CONFUSIONS].tolist() if counts[one]]
    return [schema.Confusion(one, names[one], proportion(counts[one], mine.sum()), []) for one in order]


def _notes(gallery: Gallery, listed: list[schema.Concept]) -> list[str]:
    notes, n = list(gallery.source.notes), len(gallery.member.rows)
    if n < 50:
        notes.append(f"There are only {n} images of the class: intervals are wide, and strategies rough.")
    if dead := sum(concept.dead for concept in listed):
        notes.append(f"{dead} of the {len(listed)} concepts {'are' if dead > 1 else 'is'} in no view.")
    if gallery.source.known is not None:
        masks = [gallery.source.known(int(row)) for row in gallery.member.rows]
        shares = [f"{name} {100 * np.mean([mask[name].mean() for mask in masks]):.0f} %" for name in masks[0]]
        notes.append(f"Of the images are covered: {', '.join(shares)}.")
    return notes
