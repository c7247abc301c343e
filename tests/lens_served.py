"""A network small enough for tests of the server of Lens, and the server itself in a thread."""

import contextlib
import http.client
import json
import threading
import time

import jax
import numpy as np
import uvicorn
from flax import nnx

from sparks_jax.jobs.network import Network
from sparks_jax.jobs.pictures import square

SIDE, CHANNELS = 64, 16  # as the synthetic bundle has them


class PatchNet(nnx.Module):
    """Patches of 8 pixels, ReLU, mean, linear: an affine head, whose answers are known."""

    def __init__(self, num_classes, seed=0):
        rngs = nnx.Rngs(seed)
        self.conv = nnx.Conv(3, CHANNELS, (8, 8), strides=8, rngs=rngs)
        self.linear = nnx.Linear(CHANNELS, num_classes, rngs=rngs)

    def features(self, images):
        return jax.nn.relu(self.conv(images))

    def head(self, acts):
        return self.linear(acts.mean((1, 2)))

    def __call__(self, images):
        return self.head(self.features(images))


def network(num_classes, seed=0):
    return Network("PatchNet", PatchNet(num_classes, seed), tuple(map(str, range(num_classes))), SIDE, square, "")


@contextlib.contextmanager
def serving(app, **options):
    """The port of a server that runs while the block does."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="critical", ws="none", lifespan="on", **options))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
        assert thread.is_alive()
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive(), "the server did not end"


def ask(port, method, path, body=None, headers=(), *, mark=True):
    """Status, headers and body of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    given = ({"X-Lens": "1"} if method == "POST" and mark else {}) | dict(headers)
    connection.request(method, path, body, given)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, {name.lower(): value for name, value in answer.getheaders()}, content


def ask_json(port, path, body, headers=()):
    status, _, content = ask(port, "POST", path, body, headers)
    return status, json.loads(content)


def photograph(seed=0, side=SIDE, kind="PNG", **options):
    """A file of noise and the pixels in it."""
    import io

    from PIL import Image

    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue(), pixels
