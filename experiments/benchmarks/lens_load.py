"""Claim: fifty people can look at an atlas at once, and four of them explain photographs meanwhile; nothing is lost.

A server in a process of its own; viewers in this one, each with a connection that it keeps, ask for one file of a
class after the other (its record, its arrays, its pictures) without a pause: a harder load than people make. Then the
same with four more who send photographs. Prints requests per second and the median, 99th percentile and maximum of the
time from a request to the last byte of its answer; every answer is compared with what it should be: files with those on
disk, explanations with those given to one user alone.

Command:  python -m experiments.benchmarks.lens_load [--smoke] [--bundle FOLDER]
Hardware: 2 CPU cores, which the viewers share with the server.
Time:     40 seconds; --smoke 20 seconds.
Expected: p99 of the files below 100 ms: 55 ms for 50 viewers alone (1800 requests/s), 93 ms beside 4 who explain
          (1040/s; 13 explanations/s of a small network, median 0.29 s, p99 0.58 s). With a bundle of EfficientNet-Lite0
          41 and 83 ms (2060 and 1290/s; 7.9 explanations/s, median 0.53 s, p99 0.68 s). None wrong or lost. Idle.
"""

import asyncio
import http.client
import io
import json
import multiprocessing
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro
from flax import nnx

from sparks_jax import lens
from sparks_jax.jobs.network import Network
from sparks_jax.jobs.pictures import square
from sparks_jax.lens.bundle import images_of, read_atlas, read_class, read_lens
from sparks_jax.lens.server_run import Settings, load_networks


@dataclass(frozen=True)
class Config:
    """How many look, and at what."""

    bundle: Path | None = None  # a bundle with the networks that it names; None: a synthetic one and a small network
    classes: int = 100
    viewers: int = 50
    explaining: int = 4
    seconds: float = 10.0  # of each part
    side: int = 640  # of the photographs, pixels
    seed: int = 0
    smoke: bool = False


class PatchNet(nnx.Module):
    """Two layers for images of 64 pixels; its activations have the channels of a synthetic bundle."""

    def __init__(self, num_classes: int, seed: int):
        rngs = nnx.Rngs(seed)
        self.conv = nnx.Conv(3, 16, (8, 8), strides=8, rngs=rngs)
        self.linear = nnx.Linear(16, num_classes, rngs=rngs)

    def features(self, images: Any) -> Any:
        """Activations `(b 8 8 16)`."""
        return jax.nn.relu(self.conv(images))

    def head(self, acts: Any) -> Any:
        """Logits `(b classes)`."""
        return self.linear(acts.mean((1, 2)))

    def __call__(self, images: Any) -> Any:
        """Logits of images."""
        return self.head(self.features(images))


def serve(bundle: Path, classes: int | None, seed: int, send: Any) -> None:
    """The process of the server; `send` is told the port."""
    import uvicorn

    from sparks_jax.lens.server import application

    if classes is None:
        networks = load_networks(Settings(bundle), print)
    else:
        net = Network("PatchNet", PatchNet(classes, seed), tuple(map(str, range(classes))), 64, square, "")
        networks = {"synthetic": net}

    class Told(uvicorn.Server):
        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets)
            send.send(self.servers[0].sockets[0].getsockname()[1])

    Told(uvicorn.Config(application(bundle, networks), port=0, log_level="warning", access_log=False, ws="none")).run()


# --- those who look -----------------------------------------------------------------------------------------


async def request(streams: Any, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
    """Ask on a connection that stays open; status and body."""
    reader, writer = streams
    head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Lens: 1\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    await writer.drain()
    lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    length = next(int(line.split(":")[1]) for line in lines if line.lower().startswith("content-length"))
    return int(lines[0].split()[1]), await reader.readexactly(length)


async def look(port: int, pages: list[list[str]], files: dict[str, bytes], until: float, times: list[float]) -> int:
    """One viewer, who opens one class after the other; how many answers were wrong."""
    streams, wrong, place = await asyncio.open_connection("127.0.0.1", port), 0, 0
    while time.perf_counter() < until:
        for name in pages[place % len(pages)]:
            start = time.perf_counter()
            status, content = await request(streams, "GET", f"/{name}")
            times.append(time.perf_counter() - start)
            wrong += status != 200 or content != files[name]
        place += 1
    streams[1].close()
    return wrong


async def explain(port: int, path: str, photos: list[bytes], alone: list[Any], until: float, times: list[float]) -> int:
    """One who sends photographs; how many answers were not those given to one user alone."""
    streams, wrong, i = await asyncio.open_connection("127.0.0.1", port), 0, 0
    while time.perf_counter() < until:
        start = time.perf_counter()
        status, content = await request(streams, "POST", path, photos[i % len(photos)])
        times.append(time.perf_counter() - start)
        wrong += status != 200 or json.loads(content) != alone[i % len(photos)]
        i += 1
    streams[1].close()
    return wrong


def say(what: str, times: list[float], seconds: float, wrong: int) -> dict[str, float]:
    """Print a line of the result."""
    ms = 1e3 * np.array(times)
    found = dict(requests=len(ms), rate=len(ms) / seconds, median=float(np.median(ms)),
                 p99=float(np.percentile(ms, 99)), most=float(ms.max()), wrong=wrong)  # fmt: skip
    print(f"{what:<34}{len(ms):>7} requests {found['rate']:>7.1f}/s   median {found['median']:.1f} ms, "
          f"p99 {found['p99']:.1f} ms, max {found['most']:.1f} ms, wrong or lost: {wrong}")  # fmt: skip
    return found


async def measure(config: Config, port: int, root: Path, atlas: str) -> dict[str, dict[str, float]]:
    """Both parts."""
    pages, files = read_pages(root, atlas)
    path, photos = f"/api/{atlas}/explain", [photograph(config.side, seed) for seed in range(config.explaining)]
    streams = await asyncio.open_connection("127.0.0.1", port)
    alone = [json.loads((await request(streams, "POST", path, photo))[1]) for photo in photos]
    assert all("error" not in one for one in alone), alone
    streams[1].close()
    found, mixed = {}, []
    for what, askers in (("viewers alone", 0), ("viewers beside explanations", config.explaining)):
        times: list[float] = []
        until = time.perf_counter() + config.seconds
        rotated = [pages[i % len(pages) :] + pages[: i % len(pages)] for i in range(config.viewers)]
        tasks = [look(port, mine, files, until, times) for mine in rotated]
        asks = [explain(port, path, photos, alone, until, mixed) for _ in range(askers)]
        wrong = await asyncio.gather(*tasks, *asks)
        found[what] = say(f"{config.viewers} {what}", times, config.seconds, sum(wrong[: config.viewers]))
        if askers:
            found["explanations"] = say(f"{askers} explaining", mixed, config.seconds, sum(wrong[config.viewers :]))
    return found


def read_pages(root: Path, atlas: str) -> tuple[list[list[str]], dict[str, bytes]]:
    """The files that each class asks for, and what is in them."""
    record = read_atlas(root / atlas)
    pages = []
    for entry in record.classes:
        one = read_class(root / atlas, entry.file)
        names = [entry.file, one.arrays.file, *dict.fromkeys(image.file for image in images_of(one))]
        pages.append([f"{atlas}/{name}" for name in names])
    return pages, {name: (root / name).read_bytes() for page in pages for name in page}


def photograph(side: int, seed: int) -> bytes:
    """A JPEG of smooth noise."""
    from PIL import Image

    pixels = np.random.default_rng(seed).integers(0, 256, (side // 16, side // 16, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def main(config: Config) -> dict[str, dict[str, float]]:
    """Start a server, load it, and stop it."""
    if config.smoke:
        config = replace(config, classes=4, viewers=8, seconds=2.0)
    with tempfile.TemporaryDirectory() as folder:
        root = config.bundle or Path(folder)
        if config.bundle is None:
            lens.synthetic(root, config.classes, points=200, seed=config.seed)
        atlas = read_lens(root).atlases[0].id
        told, send = multiprocessing.get_context("spawn").Pipe(duplex=False)
        classes = config.classes if config.bundle is None else None
        server = multiprocessing.get_context("spawn").Process(target=serve, args=(root, classes, config.seed, send))
        server.start()
        try:
            port = told.recv()
            found = asyncio.run(measure(config, port, root, atlas))
            connection = http.client.HTTPConnection("127.0.0.1", port)
            connection.request("GET", "/")
            assert connection.getresponse().status == 200, "it still answers"
        finally:
            server.terminate()
            server.join()
    return found


if __name__ == "__main__":
    main(tyro.cli(Config))
