"""What a network saw in a picture: the concepts of the class, how much each adds to the score, and where it is.

Concepts are fitted on images that the network takes for the class, from a folder; or, where there is none, on crops of
the picture itself, whose parts they then are.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

from sparks_jax import concepts, scores, verify
from sparks_jax.concepts import Concepts, Dictionary, Views, crop_boxes
from sparks_jax.data.folder import list_images
from sparks_jax.jobs.certified import certified_importance
from sparks_jax.jobs.network import Network, traced_once
from sparks_jax.jobs.pictures import Picture, find, read
from sparks_jax.scores import as_pytree

CROP = 64 / 224  # side of a crop over that of the image: the paper's
STRIDE = 0.8  # between crops, over their side: likewise
# Of a single picture: larger crops, whose concepts are also those of the whole (of six photographs they make 0.64 to
# 0.95 of the score, where crops of the paper's size make 0.4 to 0.84), and more of them.
OWN_CROPS, OWN_STRIDE = (96 / 224, 128 / 224, 160 / 224), 1 / 3
RANK, OWN_RANK = 10, 5  # concepts of a class, of a single picture
MOST = 300  # images of a class
SHOWN, EXAMPLES = 5, 4  # concepts on the page, crops of each
THUMBNAIL = 112  # pixels
STEPS, SMOKE_STEPS = 200, 20  # of the factorization
OVERLAP = 0.25  # of two crops of one image that are both shown, at most


class Fitted(NamedTuple):
    """The concepts of a class, and the pictures that they were fitted on.

    Attributes:
        concepts: From `concepts.craft`, by falling mean contribution.
        view: From the number of an image to its pixels.
        size: Side of the images that the boxes are of.
        own: Whether they are those of one picture, the one that is explained.
        method: The factorization.
        note: What the reader should know about where they come from.
    """

    concepts: Concepts
    view: Callable[[int], np.ndarray]
    size: int
    own: bool
    method: str
    note: str


class Seen(NamedTuple):
    """What a network saw in one picture; of every concept, by falling mean contribution in the class.

    Attributes:
        values: `(k)` what each adds to the score.
        bounds: `(k 2)` guaranteed bounds of what it adds in whatever company; None where the head has no bounds.
        mean: `(k)` mean contribution over the images of the class.
        stderr: `(k)` its standard error; zero for a single picture.
        exact: Whether the head is affine, so that values are exact and bounds are equal to them.
        maps: `(k gh gw)` how much of each is at each position of the activations.
        examples: For each, the crops that have most of it.
        num_images: How many the concepts were fitted on.
        num_views: How many crops of them.
        score: Of the picture.
        explained: What the concepts alone make of it.
        dead: How many concepts no crop has.
        own: As in `Fitted`.
        method: As in `Fitted`.
        note: As in `Fitted`.
        pictured: What the first concepts look like, made from noise; none unless asked for.
    """

    values: np.ndarray
    bounds: np.ndarray | None
    mean: np.ndarray
    stderr: np.ndarray
    exact: bool
    maps: np.ndarray
    examples: list[list[np.ndarray]]
    num_images: int
    num_views: int
    score: float
    explained: float
    dead: int
    own: bool
    method: str
    note: str
    pictured: Sequence[np.ndarray] = ()


class Pool(NamedTuple):
    """The images of a folder, by the class that the network takes them for.

    Attributes:
        pictures: For each class, its images.
        size: How many images there are.
        unreadable: A sentence for each file that could not be read.
    """

    pictures: dict[int, list[Picture]]
    size: int
    unreadable: list[str]


def check_halves(network: Network) -> None:
    """Refuse a network that does not say where its features end, or whose features have no grid.

    Raises:
        ValueError: If it has no `features` and `head`, or features of another shape.

    Example:
        >>> check_halves(Network("net", jnp.sin, (), 224, lambda pixels, side: pixels, ""))
        Traceback (most recent call last):
        ValueError: net has no `features` and `head`, the halves of a network that concepts need: give it ...
    """
    if not (hasattr(network.model, "features") and hasattr(network.model, "head")):
        raise ValueError(
            f"{network.name} has no `features` and `head`, the halves of a network that concepts need: give it the "
            "methods features(images) -> activations (b, gh, gw, d) and head(activations) -> logits (b, classes)"
        )
    image = jax.ShapeDtypeStruct((1, network.size, network.size, 3), jnp.float32)
    shape = jax.eval_shape(as_pytree(network.model.features), image).shape
    if len(shape) != 4:
        raise ValueError(
            f"the features of {network.name} have shape {shape} for one image, expected a grid (1, gh, gw, d); give "
            "tokens theirs, tokens[:, 1:].reshape(b, gh, gw, d)"
        )


def read_pool(folder: str | None, network: Network, limit: int | None = None) -> Pool | None:
    """The images of a folder and of its subfolders, sorted by the class that the network sees in them.

    What the network takes for the class is what its concepts are about; the names of folders are not looked at.

    Args:
        folder: The folder; None for none.
        network: The network.
        limit: How many images at most.

    Raises:
        ValueError: If there is no picture in it.
        NotADirectoryError: If it is no folder.
    """
    if folder is None:
        return None
    pictures: dict[int, list[Picture]] = {}
    unreadable: list[str] = []
    sources = find([str(path) for path in _files(Path(folder))], limit)
    for source in sources:
        try:
            picture = read(source, network.size, network.prepare)
        except (OSError, ValueError) as error:
            unreadable.append(str(error))
            continue
        label = int(np.asarray(traced_once(network.model)(picture.seen[None])[0]).argmax())
        pictures.setdefault(label, []).append(picture._replace(view=np.zeros((0, 0, 3), np.uint8)))  # read when shown
    return Pool(pictures, len(sources), unreadable)


def _files(folder: Path) -> list[Path]:
    """The pictures of a folder, then those of its subfolders."""
    if not folder.is_dir():
        return list_images(folder)  # which says so
    found = []
    for place in [folder, *sorted(path for path in folder.iterdir() if path.is_dir() and path.name[0] != ".")]:
        try:
            found += list_images(place)
        except ValueError:
            continue
    return found or list_images(folder)


# --- fitting ----------------------------------------------------------------------------------------------


def fit(
    network: Network, label: int, picture: Picture, pool: Pool | None, *, key: PRNGKeyArray, chunk: int, smoke: bool
) -> Fitted:
    """The concepts of a class: of its images in the pool, or of a picture alone where there are none.

    Args:
        network: The network.
        label: The class.
        picture: The picture that is explained.
        pool: Images from a folder.
        key: Of the factorization.
        chunk: Evaluations of the network at once.
        smoke: A quick, rough run: few steps.

    Raises:
        ValueError: As `concepts.craft`.
    """
    members = [] if pool is None else pool.pictures.get(label, [])
    own, note = not members, ""
    if pool is not None:
        of_class = f"the class among the {pool.size} images of the folder"
        note = f"the network sees {'none of' if own else f'{len(members)} of'} {of_class}"
        if len(members) > MOST:
            members, note = members[:MOST], f"{note}, of which {MOST} were taken"
    images = np.stack([one.seen for one in (members or [picture])])
    acts, views = _activations(network, images, own, chunk)
    method = "nmf" if min(float(acts.min()), float(views.acts.min())) >= 0 else "semi_nmf"
    rank = min(OWN_RANK if own else RANK, acts.shape[-1])
    head, num_steps = as_pytree(network.model.head), SMOKE_STEPS if smoke else STEPS
    found = _craft(head, views, acts, label, key, rank, method, chunk, num_steps)
    if not np.isfinite(np.asarray(found.codes)).all() or np.asarray(found.dead).all():
        raise ValueError("the activations of the network are all zero or not finite: there is nothing to explain")
    ranked = _by_importance(jax.tree.map(np.asarray, found))
    view = (lambda _: picture.view) if own else (lambda i: read(members[i].source, network.size, network.prepare).view)
    return Fitted(ranked, view, network.size, own, method, note)


def _activations(network: Network, images: np.ndarray, own: bool, chunk: int) -> tuple[np.ndarray, Views]:
    """Those of whole images and of crops of them, all by one program."""
    side = network.size
    pixels = [max(2, round(side * share)) for share in (OWN_CROPS if own else (CROP,))]
    boxes = np.concatenate([crop_boxes((side, side), size, OWN_STRIDE if own else STRIDE) for size in pixels])
    image, box = np.repeat(np.arange(len(images)), len(boxes)), np.tile(boxes, (len(images), 1))
    features = as_pytree(network.model.features)
    run = lambda batch: np.asarray(_acts(features, batch))
    acts = _batched(run, images, chunk)
    cut = lambda part: run(_zoomed(images[part[0]], part[1])).mean((1, 2))
    return acts, Views(jnp.asarray(_batched(cut, (image, box), chunk)), jnp.asarray(image), jnp.asarray(box))


def _batched(run: Callable[[Any], np.ndarray], rows: Any, size: int) -> np.ndarray:
    """Equal batches, the last one padded by its last row."""
    count = len(jax.tree.leaves(rows)[0])
    parts = []
    for start in range(0, count, size):
        index = np.minimum(np.arange(start, start + size), count - 1)
        parts.append(run(jax.tree.map(lambda a, i=index: a[i], rows)))
    return np.concatenate(parts)[:count]


@jax.jit
def _acts(features: Any, batch: Any) -> Any:
    return features(batch)


@jax.jit
def _zoomed(images: Any, boxes: Any) -> Any:
    return jax.vmap(lambda x, box: concepts.zoom(x, box, x.shape[:2]))(images, boxes)


@jax.jit(static_argnums=(5, 6, 7, 8))
def _craft(
    head: Any, views: Views, acts: Any, label: Any, key: Any, rank: int, method: str, chunk: int, num_steps: int
) -> Concepts:
    factorize = {"nmf": concepts.nmf, "semi_nmf": concepts.semi_nmf}[method]
    return concepts.craft_activations(
        views, acts, scores.logit(head, label), key=key, rank=rank, chunk=chunk,
        factorize=lambda acts, rank, *, key: factorize(acts, rank, key=key, num_steps=num_steps),
    )  # fmt: skip


def _by_importance(found: Concepts) -> Concepts:
    """The same concepts, by falling mean contribution."""
    order = np.argsort(-found.importance.mean, kind="stable")
    dictionary = found.dictionary._replace(atoms=found.dictionary.atoms[order])
    importance = found.importance._replace(
        values=found.importance.values[:, order], stderr=found.importance.stderr[:, order],
        mean=found.importance.mean[order], mean_stderr=found.importance.mean_stderr[order],
    )  # fmt: skip
    return found._replace(
        dictionary=dictionary, codes=found.codes[:, order], image_codes=found.image_codes[..., order],
        importance=importance, dead=found.dead[order],
    )  # fmt: skip


# --- looking ----------------------------------------------------------------------------------------------


def look(network: Network, label: int, picture: Picture, fitted: Fitted, *, chunk: int) -> Seen:
    """What there is of each concept in a picture, and what it does there.

    Args:
        network: The network.
        label: The class.
        picture: The picture.
        fitted: From `fit`.
        chunk: As in `fit`.
    """
    head, found = as_pytree(network.model.head), fitted.concepts
    features = as_pytree(network.model.features)
    acts = _batched(lambda batch: np.asarray(_acts(features, batch)), picture.seen[None], chunk)[0]
    values, exact, score, explained, codes = jax.tree.map(np.asarray, _look(head, found.dictionary, acts, label))
    bounds = np.stack([values, values], 1) if exact else _bounds(head, found.dictionary, codes, label)
    mean, stderr = np.asarray(found.importance.mean), np.asarray(found.importance.mean_stderr)
    return Seen(
        values, bounds, mean, stderr, bool(exact), np.moveaxis(codes, -1, 0), _examples(fitted),
        num_images=len(found.score), num_views=len(found.codes), score=float(score), explained=float(explained),
        dead=int(found.dead.sum()), own=fitted.own, method=fitted.method, note=fitted.note,
    )  # fmt: skip


@jax.jit
def _look(head: Any, dictionary: Dictionary, acts: Any, label: Any) -> tuple[Any, ...]:
    score = scores.logit(head, label)
    codes = concepts.encode(dictionary, acts)
    found = concepts.importance(score, dictionary, codes[None])
    return found.values[0], found.exact, score(acts), concepts.of_codes(score, dictionary)(codes), codes


def _bounds(head: Any, dictionary: Dictionary, codes: Any, label: int) -> np.ndarray | None:
    """Guaranteed bounds of what each concept adds, if the head is made of equations that have any."""
    try:
        found = _certified(head, dictionary, codes, label)
    except verify.UnsupportedPrimitive:
        return None
    return np.stack([np.asarray(found.lower)[0], np.asarray(found.upper)[0]], 1)


@jax.jit
def _certified(head: Any, dictionary: Dictionary, codes: Any, label: Any) -> Any:
    return certified_importance(scores.logit(head, label), dictionary, jnp.asarray(codes)[None])


def _examples(fitted: Fitted) -> list[list[np.ndarray]]:
    """For each concept the crops that have most of it: different places, and different images where there are some."""
    found, views = fitted.concepts, {}
    boxes, images = np.asarray(found.box, np.float64), np.asarray(found.image)
    apart = lambda i, j: images[i] != images[j] if len(found.score) > 1 else _apart(boxes[i], boxes[j])
    examples = []
    for codes in np.asarray(found.codes).T:
        chosen: list[int] = []
        for i in np.argsort(-codes, kind="stable"):
            if codes[i] > 0 and len(chosen) < EXAMPLES and all(apart(i, j) for j in chosen):
                chosen.append(int(i))
        for image in {int(images[i]) for i in chosen} - set(views):
            views[image] = fitted.view(image)
        examples.append([_cut(views[int(images[i])], boxes[i] / fitted.size) for i in chosen])
    return examples


def _apart(box: np.ndarray, other: np.ndarray) -> bool:
    """Whether two crops of one image have little in common."""
    starts = np.maximum(box[:2], other[:2])
    ends = np.minimum(box[:2] + box[2:], other[:2] + other[2:])
    common = np.prod(np.clip(ends - starts, 0, None))
    return bool(common <= OVERLAP * min(np.prod(box[2:]), np.prod(other[2:])))


def _cut(view: np.ndarray, box: np.ndarray) -> np.ndarray:
    """A part of a picture, its place in shares of the side, at the size of a thumbnail."""
    from PIL import Image

    top, left, height, width = box * len(view)
    part = Image.fromarray(view).resize(
        (THUMBNAIL, THUMBNAIL), Image.Resampling.BICUBIC, box=(left, top, left + width, top + height)
    )
    return np.asarray(part)
