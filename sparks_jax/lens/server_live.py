"""What the server computes: the concepts of a photograph, by one compiled program for each atlas and all users."""

import asyncio
import base64
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from sparks_jax import concepts, images
from sparks_jax.concepts import Dictionary
from sparks_jax.jobs.network import Network
from sparks_jax.jobs.outputs import encode
from sparks_jax.jobs.pictures import VIEW
from sparks_jax.lens.bundle import read_arrays, read_class
from sparks_jax.lens.schema import AtlasRecord, ClassRecord
from sparks_jax.lens.server_uploads import Refused
from sparks_jax.scores import as_pytree

RIVALS, NEAREST, NEAREST_EACH = 5, 8, 4
MAP = 56  # side of the maps of derivatives that are sent
BANKS = 200  # classes whose dictionaries stay in memory
WAITING = 16  # requests that may wait for the network; more are told to come again

T = TypeVar("T")


class Bank(NamedTuple):
    """The dictionary of a class, and the codes of the crops that it was fitted on."""

    record: ClassRecord
    dictionary: Dictionary
    codes: np.ndarray
    views: np.ndarray


class Seen(NamedTuple):
    """What the network saw in a photograph, as arrays."""

    logits: Any
    codes: Any
    amounts: Any
    labels: Any
    slopes: Any
    decoded: Any


class Worker:
    """One thread for the network, whoever asks: requests wait their turn, and not too many of them."""

    def __init__(self, most: int = WAITING):
        self.pool, self.most, self.waiting = ThreadPoolExecutor(1, "network"), most, 0

    async def run(self, function: Callable[[], T], *, wanted: Callable[[], bool] = lambda: True) -> T:
        """Run a function in the thread.

        Args:
            function: What to compute; it sees nothing of other requests.
            wanted: Asked when its turn comes: whether somebody still waits for it.

        Raises:
            Refused: 503 if too many wait already; 499 if nobody waits any more.
        """
        if self.waiting >= self.most:
            raise Refused(503, "Many people are asking: try again in a moment.")
        self.waiting += 1

        def turn() -> T:
            if not wanted():
                raise Refused(499, "Nobody waits for this any more.")
            return function()

        try:
            return await asyncio.get_running_loop().run_in_executor(self.pool, turn)
        finally:
            self.waiting -= 1

    def close(self) -> None:
        """Wait for what runs, and drop what waits."""
        self.pool.shutdown(wait=True, cancel_futures=True)


class Live:
    """One atlas with its network: what can be asked about a photograph."""

    def __init__(self, folder: Path, atlas: AtlasRecord, network: Network):
        if len(network.classes) != atlas.model.num_classes:
            raise ValueError(
                f"the atlas {atlas.id} is of a network with {atlas.model.num_classes} classes, {network.name} has "
                f"{len(network.classes)}: name the right one with --model"
            )
        self.folder, self.atlas, self.network = folder, atlas, network
        self.entries = {entry.id: entry for entry in atlas.classes}
        self.by_label = {entry.label: entry.id for entry in atlas.classes}
        features, head = as_pytree(network.model.features), as_pytree(network.model.head)
        rivals = min(RIVALS, len(network.classes))
        self.see = jax.jit(lambda bank, x, label: _see(features, head, bank, x, label, rivals))
        self.slopes = jax.jit(lambda bank, x: _slopes(features, bank, x))
        self.edit = jax.jit(lambda bank, x, keep: _edit(features, head, bank, x, keep))
        self.predict = jax.jit(lambda x: head(features(x[None]))[0])
        self.banks: dict[str, Bank] = {}

    def bank(self, id: str) -> Bank:
        """The dictionary of a class, read once.

        Raises:
            Refused: 404 if there is no such class.
        """
        if id not in self.entries:
            raise Refused(404, "There is no such class in this atlas.")
        if id not in self.banks:
            if len(self.banks) >= BANKS:
                self.banks.pop(next(iter(self.banks)), None)
            record = read_class(self.folder, self.entries[id].file)
            held = read_arrays(self.folder, record.bank)
            dictionary = Dictionary(
                jnp.asarray(held["atoms"]), jnp.asarray(held["mean"]), jnp.asarray(held["scale"].reshape(())),
                Partial(concepts.nonnegative),
            )  # fmt: skip
            self.banks[id] = Bank(record, dictionary, held["codes"], held["views"])
        return self.banks[id]

    def seen(self, pixels: np.ndarray) -> jax.Array:
        """A photograph as the network sees it."""
        return jnp.asarray(self.network.prepare(pixels, self.network.size), jnp.float32)

    def warm(self) -> None:
        """Compile the program of explanations, with a photograph of nothing."""
        if self.entries:
            self.explain(np.zeros((self.network.size, self.network.size, 3), np.uint8), next(iter(self.entries)))

    def explain(self, pixels: np.ndarray, id: str | None) -> dict[str, Any]:
        """What the network says of a photograph, and what the concepts of a class have to do with it.

        Args:
            pixels: The photograph.
            id: The class; None for the one that is predicted, or else the most probable one of the atlas.

        Raises:
            Refused: 404 if there is no such class.
        """
        x = self.seen(pixels)
        if id is None:
            likely = np.argsort(-np.asarray(self.predict(x)))
            id = next(self.by_label[int(label)] for label in likely if int(label) in self.by_label)
        bank = self.bank(id)
        found = jax.tree.map(np.asarray, self.see(bank.dictionary, x, bank.record.label))
        return {
            "class": id, "predictions": self._predictions(found.logits),
            "codes": _rounded(found.codes.transpose(2, 0, 1)),
            "amounts": _rounded(found.amounts), "slopes": _rounded(found.slopes),
            "rivals": [{"label": int(label), "name": self.atlas.class_names[label]} for label in found.labels],
            "logits": _rounded(found.logits[found.labels]), "explained": float(found.decoded[bank.record.label]),
            "importances": _rounded(found.amounts * found.slopes[:, 0]), **_nearest(bank, found), **self._view(pixels),
        }  # fmt: skip

    def gradients(self, pixels: np.ndarray, id: str) -> list[Any]:
        """Where the photograph moves each concept: maps of the derivatives through the encoder.

        Args:
            pixels: The photograph.
            id: The class.

        Raises:
            Refused: 404 if there is no such class.
        """
        return _rounded(np.asarray(self.slopes(self.bank(id).dictionary, self.seen(pixels))))

    def edited(self, pixels: np.ndarray, id: str, keep: np.ndarray) -> dict[str, Any]:
        """What the network says when only shares of the concepts are left; exact, whatever the rest of the network.

        Args:
            pixels: The photograph.
            id: The class.
            keep: `(k)` the share that stays, 0 to 1.

        Raises:
            Refused: 404 if there is no such class, 422 for another number of shares.
        """
        bank = self.bank(id)
        if (
            keep.shape != (len(bank.record.concepts),)
            or not np.isfinite(keep).all()
            or keep.min() < 0
            or keep.max() > 1
        ):
            raise Refused(422, f"Expected {len(bank.record.concepts)} shares between 0 and 1.")
        logits = np.asarray(self.edit(bank.dictionary, self.seen(pixels), jnp.asarray(keep, jnp.float32)))
        return {"predictions": self._predictions(logits), "all": _rounded(logits)}

    def _view(self, pixels: np.ndarray) -> dict[str, Any]:
        """The part of the photograph that the network is shown, for the eye."""
        side = max(self.network.size, VIEW)
        content = encode(np.clip(np.asarray(self.network.prepare(pixels, side)), 0, 1), "JPEG", quality=88)
        return {"image": "data:image/jpeg;base64," + base64.b64encode(content).decode(), "side": side}

    def _predictions(self, logits: np.ndarray) -> list[dict[str, Any]]:
        odds = np.exp(logits - logits.max())
        best = np.argsort(-logits)[:RIVALS]
        return [
            {"label": int(i), "name": self.atlas.class_names[i], "probability": float(odds[i] / odds.sum())}
            for i in best
        ]


def _see(features: Any, head: Any, dictionary: Dictionary, x: jax.Array, label: Any, rivals: int) -> Seen:
    """One forward pass, and the derivative of a few logits in the activations."""
    acts = features(x[None])
    logits, pull = jax.vjp(lambda a: head(a)[0], acts)
    codes = concepts.encode(dictionary, acts[0])
    # The class first, then the most probable others.
    others = jnp.argsort(-jnp.where(jnp.arange(logits.size) == label, -jnp.inf, logits))[: rivals - 1]
    labels = jnp.concatenate([jnp.asarray(label)[None], others])
    gradient = jax.vmap(lambda j: pull(jax.nn.one_hot(j, logits.size, dtype=logits.dtype))[0][0])(labels)
    along = jnp.einsum("jhwd,kd->jhwk", gradient, dictionary.atoms, precision="highest") * dictionary.scale
    amounts = codes.mean((0, 1))
    added = (along * codes[None]).sum((1, 2))  # what the codes add to each logit, to first order
    even = along.sum((1, 2))  # what a mean code of 1 would, spread evenly: the same where the head is a mean and affine
    there = (amounts > 0)[None]
    slopes = jnp.where(there, added / jnp.where(there, amounts[None], 1), even).T
    return Seen(logits, codes, amounts, labels, slopes, head(concepts.decode(dictionary, codes)[None])[0])


def _slopes(features: Any, dictionary: Dictionary, x: jax.Array) -> jax.Array:
    maps = concepts.gradient_maps(features, dictionary, x)
    return jax.vmap(lambda a: images.bilinear(a, (min(MAP, a.shape[0]), min(MAP, a.shape[1]))))(maps)


def _edit(features: Any, head: Any, dictionary: Dictionary, x: jax.Array, keep: jax.Array) -> jax.Array:
    """The logits without shares of the concepts; what they do not explain of the activations stays."""
    acts = features(x[None])
    codes = concepts.encode(dictionary, acts[0])
    gone = concepts.decode(dictionary, codes) - concepts.decode(dictionary, codes * keep[None, None])
    return head(acts - gone[None])[0]


def _nearest(bank: Bank, found: Seen) -> dict[str, Any]:
    """Crops of the data: like the photograph, and for each concept like the place that has most of it."""
    k = found.codes.shape[-1]
    flat = found.codes.reshape(-1, k)
    peaks = flat[flat.argmax(0), np.arange(k)]
    each = [_like(bank, flat[flat[:, i].argmax()], NEAREST_EACH) if peaks[i] > 0 else [] for i in range(k)]
    return {"nearest": _like(bank, found.amounts, NEAREST), "nearest_each": each}


def _like(bank: Bank, code: np.ndarray, count: int) -> list[dict[str, Any]]:
    norms = np.linalg.norm(bank.codes, axis=1) * np.linalg.norm(code)
    cosines = bank.codes @ code / np.where(norms > 0, norms, np.inf)
    best = np.argsort(-cosines)[:count]
    return [
        {"row": int(bank.views[i, 0]), "box": _rounded(bank.views[i, 1:]), "cosine": float(cosines[i])} for i in best
    ]


def _rounded(a: np.ndarray) -> list[Any]:
    return np.asarray(np.round(a.astype(np.float64), 5)).tolist()
