"""Studies of a batch of classes: their images read, run through the network, padded, and factorized by one call."""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import sparks_jax.lens.black_boxes as black_boxes
import sparks_jax.lens.study as study_of
from sparks_jax import concepts
from sparks_jax.concepts import Dictionary, crop_boxes
from sparks_jax.jobs.network import Network
from sparks_jax.lens.costs import ACTS, FIT, Clock
from sparks_jax.lens.predictions import Member, read_images
from sparks_jax.lens.programs import Halves, Program, gradient_maps, in_chunks, spread, zoomed
from sparks_jax.lens.settings import STRIDE, Settings
from sparks_jax.lens.sources import Source
from sparks_jax.lens.study import Study
from sparks_jax.lens.work import Place


class Engine(NamedTuple):
    """The network, the programs, and how much of them at once.

    Attributes:
        network: The network.
        halves: Its halves.
        settings: Of the build.
        size: Images or crops at once: a multiple of the devices.
        devices: Of this process.
        signed: Whether activations may be negative.
        forward, zoom, study, maps, early, parts: The programs.
        black_box: Another, where it was asked for.
    """

    network: Network
    halves: Halves
    settings: Settings
    size: int
    devices: Sequence[Any]
    signed: bool
    forward: Program
    zoom: Program
    study: Program
    maps: Program
    early: Program
    parts: Program
    black_box: Program | None

    @property
    def shared(self) -> tuple[Any, Any]:
        """What `forward` shares."""
        return self.halves.features, self.halves.head


def engine(
    network: Network, halves: Halves, settings: Settings, chunk: int, devices: Sequence[Any], run: Program, signed: bool
) -> Engine:
    """The programs of a build; each is compiled when it is first called.

    Args:
        network: The network.
        halves: From `programs.halves`.
        settings: Of the build.
        chunk: Images at once on each device.
        devices: Of this process.
        run: `programs.forward`, compiled already.
        signed: Whether activations may be negative.
    """
    factorize = partial(concepts.semi_nmf if signed else concepts.nmf, num_steps=settings.steps)
    one = partial(
        study_of.study, rank=settings.rank, factorize=factorize, affine=halves.affine,
        plane_steps=settings.plane_steps, chunk=chunk,
    )  # fmt: skip
    # Sub-concepts: earlier activations may be negative where the last ones are not.
    part = partial(study_of.parts, rank=settings.part_rank, factorize=partial(concepts.semi_nmf, num_steps=50))
    hiding = settings.black_box and partial(black_boxes.maps, settings.black_box, settings.seed, chunk)
    return Engine(
        network, halves, settings, chunk * len(devices), devices, signed, run,
        spread(zoomed, devices), spread(lambda head, rows: jax.vmap(partial(one, head))(*rows), devices),
        spread(gradient_maps, devices), spread(lambda early, rows: early(rows), devices),
        spread(lambda rest, rows: jax.vmap(partial(part, rest))(*rows), devices),
        spread(hiding, devices) if hiding else None,
    )  # fmt: skip


def boxes_of(settings: Settings, size: int, grid: tuple[int, int, int]) -> np.ndarray:
    """The views of one image: top, left, height and width in pixels of the network's image.

    Args:
        settings: Crops, or positions.
        size: Side of the image.
        grid: Shape of its activations.

    Example:
        >>> boxes_of(Settings(view="positions"), 64, (2, 2, 8))[3].tolist()
        [32.0, 32.0, 32.0, 32.0]
    """
    if settings.view == "crops":
        return crop_boxes((size, size), max(2, round(settings.crop * size)), STRIDE)
    height, width = size / grid[0], size / grid[1]
    return np.array(
        [(i * height, j * width, height, width) for i in range(grid[0]) for j in range(grid[1])], np.float32
    )


def study_batch(
    engine: Engine, place: Place, source: Source, batch: Sequence[Member], width: int, number: int, clock: Clock
) -> dict[str, np.ndarray]:
    """The studies of a batch, kept or made now: the fields of `Study`, with a leading axis of classes.

    Args:
        engine: The programs.
        place: Where they are kept.
        source: The images.
        batch: The classes.
        width: How many classes the program takes: the batch is padded by its last one.
        number: Of the batch.
        clock: Counts.
    """
    name, labels = f"studies-{number:05d}", [one.label for one in batch]
    # Of fewer or more devices a batch of this number has other classes.
    if (found := place.load(name)) is not None and found.pop("labels").tolist() == labels:
        return found
    with clock.stage(ACTS):
        padded = [*batch, *[batch[-1]] * (width - len(batch))]
        acts, views = zip(*(_activations(engine, source, one.rows) for one in batch), strict=True)
        if not engine.signed and min(min(a.min(), v.min()) for a, v in zip(acts, views, strict=True)) < 0:
            raise ValueError(
                f"activations of {engine.network.name} are negative now and then, not in its first images: give a "
                "layer of either sign, or one that never is"
            )
        most, per = engine.settings.most, len(views[0]) // len(acts[0])
        stack = lambda arrays, n: np.stack([_filled(a, n) for a in [*arrays, *[arrays[-1]] * (width - len(arrays))]])
        rows: list[Any] = [
            stack(views, most * per),
            stack(acts, most),
            stack([np.ones(len(a), bool) for a in acts], most),
        ]
        rows.append(np.stack([one.rivals for one in padded]))
    with clock.stage(FIT):
        keys = jax.random.split(jax.random.key(engine.settings.seed), len(engine.network.classes))
        rows.append(keys[np.array([one.label for one in padded])])
        made = jax.tree.map(np.asarray, engine.study(engine.halves.head, tuple(rows)))
        found = {f"dictionary_{field}": getattr(made.dictionary, field) for field in ("atoms", "mean", "scale")}
        found |= {field: getattr(made, field) for field in Study._fields if field != "dictionary"}
        found = {field: array[: len(batch)] for field, array in found.items()}
        for one, atoms in zip(batch, found["dictionary_atoms"], strict=True):
            if not np.isfinite(atoms).all():
                name = engine.network.classes[one.label]
                raise ValueError(f"the activations of {name!r} have no {len(atoms)} concepts; ask for fewer (--rank)")
        place.keep(name, found | {"labels": np.array(labels)})
    return found


def _activations(engine: Engine, source: Source, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of whole images `(n gh gw d)`, and of their views `(n · per, d)`."""
    images, _ = read_images(source, engine.network, rows)
    acts, _ = in_chunks(engine.forward, engine.shared, images, engine.size)
    if engine.settings.view == "positions":
        return acts, acts.reshape(-1, acts.shape[-1])
    boxes = boxes_of(engine.settings, engine.network.size, engine.halves.grid)
    image, box = np.repeat(np.arange(len(images)), len(boxes)), np.tile(boxes, (len(images), 1))

    def run(shared: Any, part: tuple[np.ndarray, np.ndarray]) -> Any:
        return engine.forward(shared, engine.zoom((), (images[part[0]], part[1])))[0].mean((1, 2))

    return acts, in_chunks(run, engine.shared, (image, box), engine.size)


def _filled(rows: np.ndarray, n: int) -> np.ndarray:
    """Rows up to n, those that are missing of zeros."""
    return np.concatenate([rows, np.zeros((n - len(rows), *rows.shape[1:]), rows.dtype)])


def one_study(found: dict[str, np.ndarray], i: int, n: int, per: int) -> dict[str, np.ndarray]:
    """The study of one class, without padding.

    Args:
        found: From `study_batch`.
        i: Its place in the batch.
        n: Its images.
        per: Views of an image.
    """
    of_images = ("image_codes", "importances", "sobol", "amounts", "logits", "predicted", "predicted_explained")
    of_images += ("explained", "relative_error", "deletion", "insertion", "fidelity", "plane")
    cut = {field: array[i][:n] if field in of_images else array[i] for field, array in found.items()}
    return cut | {"codes": cut["codes"][: n * per]}


def dictionary_of(one: dict[str, np.ndarray]) -> Dictionary:
    """The dictionary of a class, as a program takes it: NMF and semi-NMF code alike.

    Args:
        one: From `one_study`.
    """
    atoms, mean, scale = (jnp.asarray(one[f"dictionary_{field}"]) for field in ("atoms", "mean", "scale"))
    return Dictionary(atoms, mean, scale, jax.tree_util.Partial(concepts.nonnegative))
