"""MACO while somebody watches: frames of a concept that becomes visible, one line of JSON each.

Steps are taken in the thread of the network between the requests of others. A film ends when its viewer goes, or does
not read for some seconds: no step is taken for nobody.
"""

import asyncio
import base64
import io
import json
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from typing import Any

import jax
import numpy as np

from sparks_jax import featviz
from sparks_jax.jobs.visualize import MARGIN, Program, program
from sparks_jax.lens.server_live import Live, Worker
from sparks_jax.lens.server_uploads import Refused
from sparks_jax.scores import as_pytree

STEPS, EVERY, CROPS = 64, 4, 4
MOST_FILMS = 4  # at once; each keeps the state of an ascent
PATIENCE = 15.0  # seconds that a viewer may leave a frame unread
SIDE = 320  # of a frame

Message = MutableMapping[str, Any]


class Films:
    """The programs of the atlases, and how many films run."""

    def __init__(self, worker: Worker, *, steps: int = STEPS, most: int = MOST_FILMS):
        self.worker, self.steps, self.most, self.running = worker, steps, most, 0
        self.programs: dict[str, Program] = {}

    def program(self, live: Live) -> Program:
        """The compiled ascent of an atlas: one for all its concepts."""
        if live.atlas.id not in self.programs:
            size = live.network.size
            spectrum = featviz.Spectrum.natural(round(MARGIN * size))
            self.programs[live.atlas.id] = program(
                lambda f: featviz.maco_ascent(
                    f, spectrum=spectrum, values_range=(0, 1), input_size=size, num_steps=self.steps, num_crops=CROPS
                )
            )
        return self.programs[live.atlas.id]

    async def frames(self, live: Live, id: str, k: int, seed: int) -> AsyncIterator[bytes]:
        """Lines of JSON: `step`, `steps`, `score`, `image`, a `data:` address.

        Args:
            live: The atlas.
            id: The class.
            k: The concept.
            seed: Of the start and the crops.
        """
        atom = live.bank(id).dictionary.atoms[k]
        f = featviz.dot_cosine(as_pytree(live.network.model.features), atom)
        run, worker = self.program(live), self.worker
        state = await worker.run(lambda: jax.block_until_ready(run.begin(f, jax.random.key(seed))))
        for step in range(0, self.steps, EVERY):
            length = min(EVERY, self.steps - step)

            def ahead(state: Any = state, length: int = length) -> tuple[Any, float, bytes]:
                state, scores = run.go_on(f, state, length)
                one = run.read(f, state, scores)
                return state, float(scores[-1]), _picture(one)

            state, score, picture = await worker.run(ahead)
            image = "data:image/webp;base64," + base64.b64encode(picture).decode()
            line = {"step": step + length, "steps": self.steps, "score": round(score, 5), "image": image}
            yield json.dumps(line).encode() + b"\n"

    def response(self, live: Live, id: str, k: int, seed: int) -> "Film":
        """The answer to a request.

        Raises:
            Refused: 404 if there is no such concept; 503 if too many films run.
        """
        if not 0 <= k < len(live.bank(id).record.concepts):
            raise Refused(404, "There is no such concept in this class.")
        if self.running >= self.most:
            raise Refused(503, "Other concepts are being visualized: try again in a moment.")
        return Film(self, self.frames(live, id, k, seed))


class Film:
    """An ASGI response that stops its work as soon as nobody watches."""

    def __init__(self, films: Films, frames: AsyncIterator[bytes], patience: float = PATIENCE):
        self.films, self.frames, self.patience = films, frames, patience

    async def __call__(
        self, scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
    ) -> None:
        """Send frames until the film ends, or its viewer is gone."""
        self.films.running += 1
        shown = asyncio.ensure_future(self._show(send))
        gone = asyncio.ensure_future(_until_gone(receive))
        try:
            await asyncio.wait([shown, gone], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (shown, gone):
                task.cancel()
            await asyncio.gather(shown, gone, return_exceptions=True)
            self.films.running -= 1

    async def _show(self, send: Callable[[Message], Awaitable[None]]) -> None:
        headers = [(b"content-type", b"application/x-ndjson"), (b"cache-control", b"no-store")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        try:
            async for line in self.frames:
                async with asyncio.timeout(self.patience):
                    await send({"type": "http.response.body", "body": line, "more_body": True})
        except Refused as error:
            line = json.dumps({"error": str(error)}).encode() + b"\n"
            await send({"type": "http.response.body", "body": line, "more_body": True})
        except TimeoutError:
            return  # who does not read does not watch
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _until_gone(receive: Callable[[], Awaitable[Message]]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _picture(one: featviz.Visualization) -> bytes:
    from PIL import Image

    alpha = np.asarray(featviz.opacity(one.transparency))[..., None]
    pixels = np.round(255 * np.concatenate([np.clip(np.asarray(one.image), 0, 1), alpha], -1)).astype(np.uint8)
    image, buffer = Image.fromarray(pixels), io.BytesIO()
    image.thumbnail((SIDE, SIDE), Image.Resampling.BICUBIC)
    image.save(buffer, "WEBP", quality=80)
    return buffer.getvalue()
