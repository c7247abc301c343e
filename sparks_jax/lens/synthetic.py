"""A bundle made of nothing: any number of classes and points, for tests and for building the page.

Deterministic, and quick: classes share their images. Its numbers belong together (shares are of the points, logits are
sums of contributions), its pictures are gradients, and among its class names are such as break a careless page.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import sparks_jax.lens.schema as schema
from sparks_jax.lens.bundle import ATLAS, class_id, write_arrays, write_image, write_record
from sparks_jax.lens.index import add_atlas, entry_of
from sparks_jax.lens.intervals import LEVEL, mean_interval, proportion
from sparks_jax.lens.schema import FORMAT, VERSION, Interval

SYLLABLES = ("ba", "do", "fi", "ga", "lu", "mo", "ne", "pi", "ra", "so", "ti", "vu")
ODD_NAMES = ('<b>bold</b> & "quoted"', "a very long name, with commas, that goes on, and on, and on", "émeu \u2028 鳥")
CHANNELS, GRID, TILES, TILE, SIDE = 16, 7, 64, 24, 48


class Shared(NamedTuple):
    """The images that all classes show."""

    crops: list[schema.ImageFile]
    pictures: list[schema.ImageFile]
    exhibits: list[schema.ImageFile]
    sheet: schema.ImageFile


def synthetic(
    folder: str | Path,
    num_classes: int = 8,
    *,
    points: int | Sequence[int] = 200,
    rank: int = 10,
    seed: int = 0,
    atlas: str = "synthetic",
    title: str = "A synthetic atlas",
) -> Path:
    """Write a bundle with one atlas, and nothing to read first.

    Args:
        folder: Where; files of the same names are replaced.
        num_classes: How many classes.
        points: Images of each class, or of the first, the second, … and again from the first.
        rank: Concepts of a class.
        seed: Of all numbers.
        atlas: Its id; a second call with another adds it to the bundle.
        title: Its title.

    Returns:
        The folder of the atlas.

    Example:
        >>> import tempfile
        >>> from sparks_jax.lens.bundle import check_bundle
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     place = synthetic(folder, 2, points=20, rank=3)
        ...     check_bundle(folder)
        []
    """
    root, counts = Path(folder), [points] if isinstance(points, int) else list(points)
    place, names = root / atlas, _names(num_classes)
    shared = _shared(place, rank)
    entries, banks = [], []
    for label in range(num_classes):
        rng = np.random.default_rng([seed, label])
        record, atoms = _class(place, label, names, counts[label % len(counts)], rank, rng, shared)
        entries.append(entry_of(record, write_record(place / f"classes/{record.id}.json", record)))
        banks.append(atoms)
    arrays = write_arrays(place, "arrays/concepts.f32", _links(entries, np.stack(banks)))
    total = sum(entry.num_images for entry in entries)
    record = schema.AtlasRecord(
        FORMAT, VERSION, f"synthetic-{seed}", atlas, title, "Numbers drawn at random, to try the page with.", True,
        LEVEL, schema.Model("SynthNet", "No network.", 64, num_classes, "features", True, None),
        schema.Data("noise", "No images.", total, True, proportion(round(0.8 * total), total)), names,
        dict(rank=rank, seed=seed), entries, arrays, ["object", "background"],
    )  # fmt: skip
    write_record(place / ATLAS, record)
    add_atlas(root, record)
    return place


def _names(num: int) -> list[str]:
    word = lambda i: SYLLABLES[i % 12] + SYLLABLES[i // 12 % 12] + SYLLABLES[i // 144 % 12]
    return [ODD_NAMES[i - 1] if 1 <= i <= len(ODD_NAMES) else f"{word(7 * i)} {i}" for i in range(num)]


# --- images -----------------------------------------------------------------------------------------------


def _shared(place: Path, rank: int) -> Shared:
    crops = [_image(place, f"crop-{k}-{i}.png", _pixels(k, rank, i)) for k in range(rank) for i in range(4)]
    pictures = [_image(place, f"picture-{k}.png", _pixels(k, rank, 9, faded=True)) for k in range(rank)]
    exhibits = [_image(place, f"exhibit-{i}.png", _pixels(i, 4, 5)) for i in range(4)]
    tiles = [_pixels(i % rank, rank, i // rank)[::2, ::2] for i in range(TILES)]
    sheet = np.concatenate([np.concatenate(tiles[i : i + 8], 1) for i in range(0, TILES, 8)], 0)
    return Shared(crops, pictures, exhibits, _image(place, "sheet.png", sheet))


def _image(place: Path, name: str, pixels: np.ndarray) -> schema.ImageFile:
    return write_image(place, f"images/shared/{name}", pixels)


def _pixels(k: int, rank: int, i: int, *, faded: bool = False) -> np.ndarray:
    """Stripes whose colour is of the concept and whose angle is of the example."""
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE
    angle, hue = i * 0.9, 2 * np.pi * k / rank
    wave = 0.5 + 0.5 * np.sin(18 * (x * np.cos(angle) + y * np.sin(angle)))
    colour = 0.5 + 0.45 * np.cos(hue + np.array([0.0, 2.1, 4.2]))
    pixels = 0.25 + 0.75 * wave[..., None] * colour
    if not faded:
        return pixels
    alpha = np.clip(1.6 - 3.2 * np.hypot(x - 0.5, y - 0.5), 0, 1)
    return np.concatenate([pixels, alpha[..., None]], -1)


# --- one class --------------------------------------------------------------------------------------------


def _class(
    place: Path, label: int, names: list[str], n: int, rank: int, rng: np.random.Generator, shared: Shared
) -> tuple[schema.ClassRecord, np.ndarray]:
    rivals = [(label + i) % len(names) for i in range(min(5, len(names)))]
    arrays = _arrays(label, rivals, n, rank, rng)
    atoms = np.abs(rng.normal(size=(rank, CHANNELS)))
    atoms /= np.linalg.norm(atoms, axis=1, keepdims=True)
    points: dict[str, Any] = dict(zip(map(str, schema.POINT_COLUMNS), arrays["points"].T, strict=True))
    name, id = names[label], class_id(label)
    concepts = _concepts(arrays, points, rivals, names, rng, shared)
    right = int(points["correct"].sum())
    wrong = [schema.Confusion(r, names[r], proportion((points["label"] == r).sum(), n),
                              np.flatnonzero(points["label"] == r)[:50].tolist()) for r in rivals[1:3]]  # fmt: skip
    views = np.concatenate([np.arange(8)[:, None] % n, np.tile([0.0, 0.0, 0.5, 0.5], (8, 1))], 1)
    bank = dict(atoms=atoms, mean=np.zeros(CHANNELS), scale=np.ones(1), codes=rng.uniform(size=(8, rank)), views=views)
    record = schema.ClassRecord(
        FORMAT, VERSION, f"synthetic-{label}", id, label, name, n, n, proportion(right, n + n // 9),
        proportion(right, n), mean_interval(points["score"]), _importance(points), concepts,
        schema.Metrics(0.31, 0.82, 0.9, 0.93, 4.2, 8.1, 0.97, 0.96), _strategies(points), wrong,
        [schema.Confusion(c.label, c.name, proportion(c.share.number // 2, n), []) for c in wrong],
        [schema.Rival(r, names[r]) for r in rivals], [f"image-{i:05d}.jpg" for i in range(n)] if n <= 1000 else None,
        [schema.Exhibit(image, i) for i, image in enumerate(shared.exhibits) if i < n],
        schema.Sheet(shared.sheet, TILE, 8, TILES), write_arrays(place, f"arrays/{id}.f32", arrays),
        write_arrays(place, f"banks/{id}.f32", bank), ["Drawn at random."],
        schema.BlackBox("sobol", 816, 0) if "where_black_box" in arrays else None,
    )  # fmt: skip
    return record, atoms


def _arrays(label: int, rivals: list[int], n: int, rank: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Images in groups, each with a concept that matters most; logits are sums of what concepts add."""
    m, groups = len(rivals), np.sort(rng.choice(rank, n, p=_falling(rank)))
    amounts = rng.gamma(1.5, 0.3, (n, rank)) * (0.2 + _falling(rank))
    amounts[np.arange(n), groups] += rng.gamma(4.0, 0.4, n)
    amounts[:, -1] = 0  # a dead one
    slopes = rng.normal(0, 0.4, (rank, m))
    slopes[:, 0] = 1 + np.abs(slopes[:, 0])
    order = np.argsort(-(amounts.mean(0) * slopes[:, 0]), kind="stable")
    amounts, slopes = amounts[:, order], slopes[order]
    importances = amounts * slopes[:, 0]
    logits = 1.0 + amounts @ slopes + rng.normal(0, 0.2, (n, m))
    main = importances.argmax(1)
    angle = 2 * np.pi * main / rank
    xy = 0.6 * np.stack([np.cos(angle), np.sin(angle)], 1) + rng.normal(0, 0.09, (n, 2))
    correct = rng.uniform(size=n) < 0.95 - 0.3 * main / rank
    other = np.array(rivals[1:] or [label])[rng.integers(0, max(m - 1, 1), n)]
    points = [*xy.clip(-1, 1).T, main, np.where(main < 4, main, -1), np.where(correct, label, other), correct]
    points += [logits[:, 0], 1.0 + importances.sum(1), np.arange(n) % TILES, np.arange(n)]
    odds = np.exp(logits - logits.max(1, keepdims=True))
    where = rng.gamma(0.5, 1.0, (min(n, 4), rank, GRID, GRID))
    found = {
        "points": np.stack(points, 1), "importances": importances, "amounts": amounts, "logits": logits,
        "slopes": slopes, "top_labels": np.tile(rivals, (n, 1)), "where_codes": where,
        "top_probabilities": odds / odds.sum(1, keepdims=True), "where_gradient": where.repeat(2, 2).repeat(2, 3),
    }  # fmt: skip
    # Every other class has maps of a third kind, as after a build with `black_box`.
    return found | {"where_black_box": where[..., ::-1].repeat(3, 2).repeat(3, 3)} if label % 2 else found


def _falling(rank: int) -> np.ndarray:
    share = 0.65 ** np.arange(rank)
    return share / share.sum()


def _concepts(
    arrays: dict[str, np.ndarray], points: dict[str, np.ndarray], rivals: list[int], names: list[str],
    rng: np.random.Generator, shared: Shared,
) -> list[schema.Concept]:  # fmt: skip
    values, amounts = arrays["importances"], arrays["amounts"]
    n, rank = values.shape
    total, energy = values.mean(0).sum(), np.square(amounts).sum(0)
    found = []
    for k in range(rank):
        mine = points["concept"] == k
        best = np.argsort(-amounts[:, k], kind="stable")[:4]
        crops = [
            schema.Crop(shared.crops[4 * k + i], int(row), [0.25, 0.25, 0.5, 0.5], float(amounts[row, k]))
            for i, row in enumerate(best) if amounts[row, k] > 0
        ]  # fmt: skip
        picture = schema.Picture(shared.pictures[k], "MACO", 128, 0, 5.0) if k < rank - 1 else None
        cosines = np.sort(rng.uniform(0, 0.7, len(rivals)))[::-1]
        aligned = [schema.Alignment(r, names[r], float(c)) for r, c in zip(rivals, cosines, strict=True)]
        angle = 2 * np.pi * k / rank
        lies = float(rng.uniform())
        found.append(schema.Concept(
            None, mean_interval(values[:, k]), float(values[:, k].mean() / total), bool(mine.sum() >= 10),
            Interval(float(values[:, k].var()), 0.0, 1.0), proportion(mine.sum(), n),
            proportion(points["correct"][mine].sum(), mine.sum()), float(energy[k] / energy.sum()),
            not amounts[:, k].any(), float(rng.uniform(0.8, 1)), float(cosines[0]), aligned,
            [0.8 * float(np.cos(angle)), 0.8 * float(np.sin(angle))], picture, crops,
            [schema.Known("object", Interval(lies, lies / 2, min(1.0, 1.5 * lies)))], _parts(crops) if k == 0 else None,
        ))  # fmt: skip
    return found


def _parts(crops: list[schema.Crop]) -> schema.Decomposition:
    parts = [schema.SubConcept(Interval(2.0 - i, 1.5 - i, 2.5 - i), 0.5 / (i + 1), crops[i : i + 2]) for i in range(3)]
    return schema.Decomposition("stage 2", 0.4, parts)


def _importance(points: dict[str, np.ndarray]) -> schema.Importance:
    score, explained = points["score"], points["explained"]
    residual = mean_interval(score - explained)
    return schema.Importance(
        "contribution", True, "logit", 1.0, mean_interval(score), mean_interval(explained), residual,
        Interval(1.02, 1.0, 1.04),
    )  # fmt: skip


def _strategies(points: dict[str, np.ndarray]) -> schema.Strategies:
    n, clusters = len(points["cluster"]), []
    for c in range(int(points["cluster"].max()) + 1):
        mine = points["cluster"] == c
        right = proportion(points["correct"][mine].sum(), mine.sum())
        clusters.append(schema.Cluster([c], proportion(mine.sum(), n), right))
    return schema.Strategies("a ring of groups", 30.0, 0, clusters)


def _links(entries: list[schema.ClassEntry], banks: np.ndarray) -> dict[str, Any]:
    """The concepts of all classes in one plane, and the nearest of other classes."""
    classes, rank, _ = banks.shape
    number, concept = np.divmod(np.arange(classes * rank), rank)
    angle = 2 * np.pi * number / classes
    flat = banks.reshape(classes * rank, -1)
    radius = 0.4 + 0.5 * flat[:, 0]
    share = np.zeros((classes, rank))
    share[:, : len(entries[0].shares)] = [entry.shares for entry in entries]
    rows = [number, concept, radius * np.cos(angle), radius * np.sin(angle), share.ravel(), flat[:, 1]]
    # Of each concept that of the same number in the next two classes: nothing quadratic in the classes.
    steps = [step for step in (1, 2) if step < classes]
    near = [(np.arange(len(flat)) + step * rank) % len(flat) for step in steps]
    pairs = [column for other in near for column in (other, (flat * flat[other]).sum(1).clip(0, 1))]
    return {"concepts": np.stack(rows, 1), "similar": np.stack(pairs, 1) if pairs else np.zeros((len(flat), 0))}
