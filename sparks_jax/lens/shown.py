"""What is shown of a class: crops, images with maps, a sheet of small ones, pictures made from noise, sub-concepts."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

import sparks_jax.lens.schema as schema
from sparks_jax.lens.bundle import class_id, write_image
from sparks_jax.lens.costs import BLACK, MAPS, PARTS, PICTURES, WRITE, Clock
from sparks_jax.lens.intervals import mean_interval
from sparks_jax.lens.pictures import METHOD, Painter, paint
from sparks_jax.lens.predictions import Member, read_images
from sparks_jax.lens.programs import Program, in_chunks
from sparks_jax.lens.settings import EXHIBIT, QUALITY, THUMBNAIL, TILE
from sparks_jax.lens.sources import Source
from sparks_jax.lens.studies import Engine, boxes_of, dictionary_of

STRONG = 0.1  # share of the places of a concept, the strongest, that it is taken apart at: the paper's
SHEET = 400  # images in a sheet, at most


class Shown(NamedTuple):
    """The pictures of a class.

    Attributes:
        crops: Of each concept.
        pictures: Of each concept, None where none was made.
        parts: Of each concept, None where it was not taken apart.
        exhibits: Images shown large.
        gradient: `(e k h w)` maps of these.
        black_box: `(e k h w)` maps by a black-box method, if it was asked for.
        sheet: Small images.
    """

    crops: list[list[schema.Crop]]
    pictures: list[schema.Picture | None]
    parts: list[schema.Decomposition | None]
    exhibits: list[schema.Exhibit]
    gradient: np.ndarray
    black_box: np.ndarray | None
    sheet: schema.Sheet


class Gallery(NamedTuple):
    """Where the images of a class come from, and where their files go.

    Attributes:
        folder: Of the atlas.
        engine: The programs.
        source: The images.
        member: The class.
        one: Its study.
    """

    folder: Path
    engine: Engine
    source: Source
    member: Member
    one: dict[str, np.ndarray]

    def view(self, row: int, side: int) -> np.ndarray:
        """An image of the class as the network sees it, but of any size."""
        return self.engine.network.prepare(self.source.read(int(self.member.rows[row])), side)

    def write(self, name: str, pixels: np.ndarray) -> schema.ImageFile:
        """Write an image of the class."""
        options = dict(quality=QUALITY) if name.endswith(".jpg") else dict(optimize=True)
        return write_image(self.folder, f"images/{class_id(self.member.label)}/{name}", pixels, **options)


def show(gallery: Gallery, painter: Painter, clock: Clock, tick: Callable[[str, float], None]) -> Shown:
    """Make and write the pictures of a class.

    Args:
        gallery: The class.
        painter: Of MACO.
        clock: Counts.
        tick: Called with a stage and a share of what it does for a class.
    """
    with clock.stage(WRITE):
        images, _ = read_images(gallery.source, gallery.engine.network, gallery.member.rows)
        crops = [_crops(gallery, k) for k in range(gallery.engine.settings.rank)]
        sheet = _sheet(gallery, images)
        rows = _exhibits(gallery)
        exhibits = [
            schema.Exhibit(gallery.write(f"image-{i}.jpg", gallery.view(row, EXHIBIT)), row)
            for i, row in enumerate(rows)
        ]
    with clock.stage(MAPS):
        gradient = _maps(gallery, gallery.engine.maps, images[rows])
        tick(MAPS, 1.0)
    with clock.stage(BLACK):
        black_box = gallery.engine.black_box and _maps(gallery, gallery.engine.black_box, images[rows])
        tick(BLACK, 1.0)
    with clock.stage(PARTS):
        parts = _parts(gallery, images)
        tick(PARTS, 1.0)
    with clock.stage(PICTURES):
        pictures = _pictures(gallery, painter, tick)
    return Shown(crops, pictures, parts, exhibits, gradient, black_box, sheet)


# --- crops ------------------------------------------------------------------------------------------------


def _crops(gallery: Gallery, k: int) -> list[schema.Crop]:
    """The views with most of a concept, of different images."""
    settings, codes = gallery.engine.settings, gallery.one["codes"][:, k]
    per, chosen = len(codes) // len(gallery.member.rows), {}
    for view in np.argsort(-codes, kind="stable"):
        if codes[view] <= 0 or len(chosen) == settings.crops:
            break
        chosen.setdefault(int(view // per), int(view))
    boxes = shares(gallery.engine)
    cut = lambda i, row, view: gallery.write(f"crop-{k}-{i}.jpg", _cut(gallery, row, boxes[view % per]))
    return [
        schema.Crop(cut(i, row, view), row, [float(side) for side in boxes[view % per]], float(codes[view]))
        for i, (row, view) in enumerate(chosen.items())
    ]


def shares(engine: Engine) -> np.ndarray:
    """The views of an image in shares of its side, positions grown to the size of a crop.

    Args:
        engine: The programs.
    """
    side = engine.network.size
    boxes = boxes_of(engine.settings, side, engine.halves.grid).astype(np.float64) / side
    return boxes if engine.settings.view == "crops" else _grown(boxes, engine.settings.crop)


def _grown(boxes: np.ndarray, side: float) -> np.ndarray:
    """Squares of a side around the middle of boxes, within the image."""
    corner = np.clip(boxes[:, :2] + boxes[:, 2:] / 2 - side / 2, 0, 1 - side)
    return np.concatenate([corner, np.full_like(corner, side)], 1)


def _cut(gallery: Gallery, row: int, box: np.ndarray) -> np.ndarray:
    """A part of an image, at the size of a thumbnail."""
    from PIL import Image

    side = min(1024, round(THUMBNAIL / box[2]))  # of the whole, so that the part is that of a thumbnail
    whole = np.round(255 * gallery.view(row, side)).astype(np.uint8)
    top, left, height, width = box * side
    size, how = (THUMBNAIL, THUMBNAIL), Image.Resampling.BICUBIC
    return np.asarray(Image.fromarray(whole).resize(size, how, box=(left, top, left + width, top + height)))


# --- images -----------------------------------------------------------------------------------------------


def _exhibits(gallery: Gallery) -> list[int]:
    """An image for each of the first concepts, the one that it matters most to; the last a mistake, if there is one."""
    values, source, member = gallery.one["importances"], gallery.source, gallery.member
    most, chosen = min(gallery.engine.settings.exhibits, len(values)), []
    labels = source.labels[member.rows]
    wrong = np.flatnonzero((labels >= 0) & (labels != member.label))
    for k in range(most):
        order = np.argsort(-values[:, k % values.shape[1]], kind="stable")
        chosen.append(next(int(row) for row in order if row not in chosen))
    if most > 1 and len(wrong) and not set(chosen) & set(wrong.tolist()):
        chosen[-1] = int(wrong[gallery.one["logits"][wrong, 0].argmax()])
    return chosen


def _maps(gallery: Gallery, program: Program, images: np.ndarray) -> np.ndarray:
    engine = gallery.engine
    if not len(images):
        return np.zeros((0, engine.settings.rank, 1, 1), np.float32)
    repeat = lambda a: np.repeat(np.asarray(a)[None], len(images), 0)
    rows = (images, jax.tree.map(repeat, dictionary_of(gallery.one)))
    return in_chunks(program, engine.halves.features, rows, len(engine.devices))


def _sheet(gallery: Gallery, images: np.ndarray) -> schema.Sheet:
    from PIL import Image

    small = [
        Image.fromarray(np.round(255 * x).astype(np.uint8)).resize((TILE, TILE), Image.Resampling.BICUBIC)
        for x in images[:SHEET]
    ]
    columns = int(np.ceil(np.sqrt(len(small))))
    whole = Image.new("RGB", (columns * TILE, -(-len(small) // columns) * TILE))
    for i, one in enumerate(small):
        whole.paste(one, (i % columns * TILE, i // columns * TILE))
    return schema.Sheet(gallery.write("sheet.jpg", np.asarray(whole)), TILE, columns, len(small))


# --- made from noise --------------------------------------------------------------------------------------


def _pictures(gallery: Gallery, painter: Painter, tick: Callable[[str, float], None]) -> list[schema.Picture | None]:
    settings, atoms = gallery.engine.settings, gallery.one["dictionary_atoms"]
    alive = [k for k in range(min(settings.pictures, len(atoms))) if gallery.one["codes"][:, k].any()]
    steps = painter.segments * painter.steps
    found: list[schema.Picture | None] = [None] * len(atoms)
    share = lambda done: tick(PICTURES, done / (steps * max(settings.pictures, 1)))
    painted = paint(painter, gallery.engine.halves.features, atoms[alive], share) if alive else []
    for k, one in zip(alive, painted, strict=True):
        image = gallery.write(f"concept-{k}.png", _rgba(one.pixels))
        found[k] = schema.Picture(image, METHOD, steps, settings.seed, one.score)
    return found


def _rgba(pixels: np.ndarray) -> np.ndarray:
    """Bytes, alpha in 32 levels: what is faded is smooth, and the file half as large."""
    values = np.round(255 * pixels).astype(np.uint8)
    values[..., 3] = np.round(np.round(pixels[..., 3] * 31) / 31 * 255)
    return values


# --- sub-concepts -----------------------------------------------------------------------------------------


def _parts(gallery: Gallery, images: np.ndarray) -> list[schema.Decomposition | None]:
    engine, rank = gallery.engine, gallery.engine.settings.rank
    wanted = [k for k in range(min(engine.settings.parts, rank)) if gallery.one["codes"][:, k].any()]
    if engine.halves.early is None or not wanted:
        return [None] * rank
    rows = [np.argsort(-gallery.one["amounts"][:, k], kind="stable")[: engine.settings.part_images] for k in wanted]
    rows = [np.resize(row, engine.settings.part_images) for row in rows]  # again from the first, where there are fewer
    acts = [in_chunks(engine.early, engine.halves.early, images[row], engine.size) for row in rows]
    inside = [
        _inside(gallery.one["image_codes"][row, ..., k], acts[0].shape[1:3])
        for row, k in zip(rows, wanted, strict=True)
    ]
    keys = jax.random.split(jax.random.key(engine.settings.seed + 1), len(wanted))
    labels = np.full(len(wanted), gallery.member.label, np.int32)
    found = in_chunks_keyed(engine, (np.stack(acts), np.stack(inside), labels), keys)
    decompositions: list[schema.Decomposition | None] = [None] * rank
    for i, (k, row) in enumerate(zip(wanted, rows, strict=True)):
        part = jax.tree.map(lambda a, i=i: a[i], found)
        # Activations of a lower rank than was asked for have no factorization, and the concept no parts.
        if all(np.isfinite(array).all() for array in part):
            decompositions[k] = _decomposition(gallery, k, row, part)
    return decompositions


def in_chunks_keyed(engine: Engine, rows: Any, keys: Any) -> Any:
    """`parts` over concepts, as many at once as there are devices: keys are no numpy arrays.

    Args:
        engine: The programs.
        rows: Activations, places and labels.
        keys: One for each.
    """
    run = lambda shared, part: engine.parts(shared, (*part[:3], keys[part[3]]))
    return in_chunks(run, engine.halves.rest, (*rows, np.arange(len(keys))), len(engine.devices))


def _inside(codes: np.ndarray, grid: tuple[int, ...]) -> np.ndarray:
    """The cells of a finer grid at the strongest places of a concept, as 1 in zeros."""
    threshold = np.quantile(codes, 1 - STRONG)
    strong = ((codes >= threshold) & (codes > 0)).astype(np.float32)
    index = [np.arange(fine) * coarse // fine for fine, coarse in zip(grid, codes.shape[1:], strict=True)]
    return strong[:, index[0][:, None], index[1][None]]


def _decomposition(gallery: Gallery, k: int, rows: np.ndarray, found: Any) -> schema.Decomposition:
    codes, distinct = found.codes, np.unique(rows, return_index=True)[1]
    energy = np.square(codes).sum((0, 1, 2))
    parts = []
    for j in range(codes.shape[-1]):
        crops = _part_crops(gallery, k, j, codes[..., j], rows)
        share = float(energy[j] / energy.sum()) if energy.sum() > 0 else 0.0
        parts.append(schema.SubConcept(mean_interval(found.importances[distinct, j]), share, crops))
    return schema.Decomposition(gallery.engine.halves.early_layer, float(found.relative_error), parts)


def _part_crops(gallery: Gallery, k: int, j: int, codes: np.ndarray, rows: np.ndarray) -> list[schema.Crop]:
    """Where a sub-concept is strongest, in different images, seen half as far as a crop."""
    height, width = codes.shape[1:]
    best, crops = codes.reshape(len(codes), -1), []
    for i in np.argsort(-best.max(1), kind="stable"):
        row, amount = int(rows[i]), float(best[i].max())
        if amount <= 0 or len(crops) == min(3, gallery.engine.settings.crops):
            break
        if row in {crop.row for crop in crops}:
            continue
        top, left = np.divmod(best[i].argmax(), width)
        cell = np.array([[top / height, left / width, 1 / height, 1 / width]])
        box = _grown(cell, gallery.engine.settings.crop / 2)[0]
        image = gallery.write(f"part-{k}-{j}-{len(crops)}.jpg", _cut(gallery, row, box))
        crops.append(schema.Crop(image, row, [float(side) for side in box], amount))
    return crops
