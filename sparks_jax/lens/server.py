"""`sparks lens serve`: the page of a bundle on this computer, and what needs the network itself.

The bundle is served as it is. Photographs stay in memory for one request, are never written, and are seen by nobody
else; all users share the compiled programs, and nothing but these. See `server_guard` for who may ask.
"""

import asyncio
import functools
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from sparks_jax.jobs.concepts import check_halves
from sparks_jax.jobs.network import Network
from sparks_jax.lens.bundle import read_atlas, read_lens
from sparks_jax.lens.export import INDEX, MARK, WEB
from sparks_jax.lens.server_films import Films
from sparks_jax.lens.server_guard import LOOPBACK, Guard, shown_file
from sparks_jax.lens.server_live import Live, Worker
from sparks_jax.lens.server_uploads import MOST_BYTES, MOST_PIXELS, Refused, decode, read_body

KINDS = {
    ".html": "text/html; charset=utf-8", ".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml", ".json": "application/json", ".f32": "application/octet-stream", ".png": "image/png",
    ".jpg": "image/jpeg", ".webp": "image/webp",
}  # fmt: skip
DECODING, READING = 2, 16  # photographs that are decoded, and that are read, at once: what bounds the memory
LOG = logging.getLogger("sparks_jax.lens")

Answer = Callable[[Live, np.ndarray, Request], dict[str, Any]]


class Served:
    """A bundle, the networks of its atlases, and the work that they share.

    Args:
        bundle: Its folder.
        networks: The network of each atlas that answers; the others are only shown.
        steps: Of a film.

    Raises:
        FileNotFoundError: If there is no bundle.
        ValueError: If a network is not that of its atlas, or has no halves.
    """

    def __init__(self, bundle: str | Path, networks: Mapping[str, Network], *, steps: int | None = None):
        self.root = Path(bundle).resolve()
        self.entries = {entry.id: entry for entry in read_lens(self.root).atlases}
        self.worker, self.decoding, self.reading = Worker(), asyncio.Semaphore(DECODING), 0
        self.films = Films(self.worker) if steps is None else Films(self.worker, steps=steps)
        self.lives = {id: self._live(id, network) for id, network in networks.items()}

    def _live(self, id: str, network: Network) -> Live:
        check_halves(network)
        folder = (self.root / self.entries[id].file).parent
        return Live(folder, read_atlas(folder), network)

    def live(self, id: str) -> Live:
        """An atlas that answers.

        Raises:
            Refused: 404 if it does not.
        """
        if id not in self.lives:
            raise Refused(404, "There is no such atlas, or its network was not given.")
        return self.lives[id]


def application(
    bundle: str | Path,
    networks: Mapping[str, Network] | None = None,
    *,
    hosts: tuple[str, ...] = LOOPBACK,
    token: str | None = None,
    steps: int | None = None,
    warm: bool = False,
) -> Guard:
    """The server as an ASGI application.

    Args:
        bundle: Folder of a bundle.
        networks: By the id of the atlas that each is of; those of other atlases are only shown.
        hosts: Names that the server is asked by.
        token: Asked of everybody; None for nobody.
        steps: Of a film, if not the usual number.
        warm: Compile the programs of explanations at once, rather than for the first photograph.

    Raises:
        FileNotFoundError: If there is no bundle.
        ValueError: If a network is not that of its atlas.
    """
    served = Served(bundle, networks or {}, steps=steps)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        compiled = [asyncio.ensure_future(served.worker.run(live.warm)) for live in served.lives.values() if warm]
        yield
        served.worker.close()
        await asyncio.gather(*compiled, return_exceptions=True)

    post = lambda path, answer: Route(f"/api/{{atlas}}/{path}", _photograph(served, answer), methods=["POST"])
    routes = [
        Route("/api/live", _said(functools.partial(_status, served))),
        post("explain", _explain), post("gradients", _gradients), post("edit", _edit),
        Route("/api/{atlas}/film", _said(functools.partial(_film, served)), methods=["POST"]),
        Route("/{path:path}", _said(functools.partial(_file, served))),
    ]  # fmt: skip
    app = Starlette(routes=routes, lifespan=lifespan)
    app.state.served = served
    return Guard(app, hosts=hosts, token=token)


# --- answers ----------------------------------------------------------------------------------------------


def _said(answer: Callable[[Request], Awaitable[Any]]) -> Callable[[Request], Awaitable[Any]]:
    """An answer whose refusals are JSON, and whose failures are in the log and not in the answer."""

    async def said(request: Request) -> Any:
        try:
            return await answer(request)
        except Refused as error:
            headers = {"retry-after": "2"} if error.status == 503 else {}
            return JSONResponse({"error": str(error)}, error.status, headers)
        except Exception:
            LOG.exception("%s %s failed", request.method, request.url.path)
            return JSONResponse({"error": "The server failed; its log says why."}, 500)

    return said


async def _status(served: Served, _: Request) -> Response:
    atlases = {
        id: {"live": id in served.lives, "model": served.lives[id].network.name if id in served.lives else None}
        for id in served.entries
    }
    limits = {"bytes": MOST_BYTES, "pixels": MOST_PIXELS}
    return JSONResponse({"atlases": atlases, "limits": limits}, headers={"cache-control": "no-store"})


async def _file(served: Served, request: Request) -> Response:
    """A file of the page or of the bundle."""
    name = request.path_params["path"] or INDEX
    page = WEB / name
    path = page if "/" not in name and page.suffix in KINDS and page.is_file() else shown_file(served.root, name)
    if path is None:
        raise Refused(404, "There is no such file.")
    stat = path.stat()
    tag = f'"{stat.st_mtime_ns:x}-{stat.st_size:x}"'
    headers = {"etag": tag, "cache-control": "no-cache"}
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    content = path.read_bytes()
    if name == INDEX:
        content = content.replace(MARK.encode(), MARK.replace(">", ' data-live="1">').encode())
    return Response(content, media_type=KINDS[path.suffix], headers=headers)


def _photograph(served: Served, answer: Answer) -> Callable[[Request], Awaitable[Any]]:
    """What is asked about a photograph, the body of the request: decoded, then the network's turn."""

    async def asked(request: Request) -> Response:
        live = served.live(request.path_params["atlas"])
        pixels = await _pixels(served, request)
        gone = asyncio.Event()
        watch = asyncio.ensure_future(_watch(request, gone))
        try:
            found = await served.worker.run(lambda: answer(live, pixels, request), wanted=lambda: not gone.is_set())
        finally:
            watch.cancel()
        return JSONResponse(found, headers={"cache-control": "no-store"})

    return _said(asked)


async def _pixels(served: Served, request: Request) -> np.ndarray:
    if served.reading >= READING:
        raise Refused(503, "Many people are sending photographs: try again in a moment.")
    served.reading += 1
    try:
        body = await read_body(request.stream(), request.headers.get("content-length"))
        async with served.decoding:
            return await asyncio.to_thread(decode, body)
    finally:
        served.reading -= 1


async def _watch(request: Request, gone: asyncio.Event) -> None:
    """Say so when the tab is closed: its turn is then not taken."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
    gone.set()


def _explain(live: Live, pixels: np.ndarray, request: Request) -> dict[str, Any]:
    return live.explain(pixels, request.query_params.get("class"))


def _gradients(live: Live, pixels: np.ndarray, request: Request) -> dict[str, Any]:
    return {"maps": live.gradients(pixels, request.query_params.get("class", ""))}


def _edit(live: Live, pixels: np.ndarray, request: Request) -> dict[str, Any]:
    try:
        keep = np.array([float(text) for text in request.query_params.get("keep", "").split(",")][:1000])
    except ValueError:
        raise Refused(422, "Expected shares of the concepts, numbers between commas.") from None
    return live.edited(pixels, request.query_params.get("class", ""), keep)


async def _film(served: Served, request: Request) -> Any:
    live, asked = served.live(request.path_params["atlas"]), request.query_params
    numbers = [asked.get("concept", ""), asked.get("seed", "0")]
    if not all(text.isdigit() and len(text) < 9 for text in numbers):
        raise Refused(422, "Expected the number of a concept, and of a seed.")
    return served.films.response(live, asked.get("class", ""), int(numbers[0]), int(numbers[1]))
