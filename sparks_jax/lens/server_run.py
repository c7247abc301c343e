"""`sparks lens serve` and `sparks lens export`: settings, networks, and the loop of the server."""

import secrets
import socket
import webbrowser
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from sparks_jax.jobs.network import Network, load_network
from sparks_jax.lens.bundle import read_atlas, read_lens
from sparks_jax.lens.export import export
from sparks_jax.lens.schema import AtlasRecord
from sparks_jax.models import bundled

PORT = 8765
CONNECTIONS = 1000  # at once; more are told to come again

Say = Callable[[str], None]


class Settings(NamedTuple):
    """What a server is asked to do; the defaults are those of the command line.

    Attributes:
        bundle: Its folder.
        host: Address to listen at; only this computer can reach the default.
        port: 0 for any that is free.
        model: Of atlases that do not name one of the bundled networks, as for `sparks explain`.
        weights: File of weights of that model.
        static: Only show the bundle, and load no network.
        browser: Open the page.
    """

    bundle: Path
    host: str = "127.0.0.1"
    port: int = PORT
    model: str | None = None
    weights: str | None = None
    static: bool = False
    browser: bool = False


def run(settings: Settings, *, say: Say) -> int:
    """Serve a bundle until interrupted.

    Args:
        settings: What to do.
        say: Takes sentences for the user.

    Returns:
        0.

    Raises:
        FileNotFoundError: If there is no bundle.
        OSError: If the port is taken.
        ImportError: If Starlette or uvicorn are not installed.
    """
    try:
        import uvicorn

        from sparks_jax.lens.server import application
        from sparks_jax.lens.server_guard import LOOPBACK
    except ImportError as error:
        raise ImportError("`sparks lens serve` needs Starlette and uvicorn: pip install 'sparks-jax[lens]'") from error
    listening = _listen(settings.host, settings.port)
    port = listening.getsockname()[1]
    token = None if settings.host in LOOPBACK else secrets.token_urlsafe(24)
    networks = {} if settings.static else load_networks(settings, say)
    app = application(settings.bundle, networks, token=token, warm=True)
    host = socket.gethostname() if settings.host in ("0.0.0.0", "::") else settings.host
    name = f"[{host}]" if ":" in host else host
    address = f"http://{name}:{port}/" + (f"?token={token}" if token else "")
    print(f"Lens: {address}")
    if token:
        say("everybody who has this address can use the server, and what is sent is not encrypted")
    if settings.browser:
        webbrowser.open(address)
    config = uvicorn.Config(app, log_level="warning", access_log=False, server_header=False, ws="none", **limits())
    uvicorn.Server(config).run(sockets=[listening])
    return 0


def limits() -> dict[str, Any]:
    """What uvicorn is told, so that no client holds what others need: connections, and the time of each."""
    from sparks_jax.lens.server_pace import Paced

    return dict(http=Paced, limit_concurrency=CONNECTIONS, timeout_keep_alive=15, timeout_graceful_shutdown=3)


def _listen(host: str, port: int) -> socket.socket:
    listening = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen(CONNECTIONS)
    except OSError as error:
        listening.close()
        raise OSError(f"cannot listen at {host}, port {port} ({error.strerror}): choose another --port") from None
    return listening


def load_networks(settings: Settings, say: Say) -> dict[str, Network]:
    """The network of each atlas of a bundle that has one: a bundled one by its name, or that of `--model`.

    A bundle from elsewhere cannot make the server import code: what is not bundled must be named by who starts it.

    Args:
        settings: With the bundle, the model and its weights.
        say: Takes a sentence about each atlas that is only shown.
    """
    loaded, networks = {}, {}
    for entry in read_lens(settings.bundle).atlases:
        atlas = read_atlas((settings.bundle / entry.file).parent)
        name, weights = _which(settings, atlas)
        if name is None:
            say(f"{atlas.id} is only shown: give the network of {atlas.model.name} with --model")
            continue
        try:
            if name not in loaded:
                loaded[name] = load_network(name, weights=weights, classes=None, size=None)
            network = loaded[name]._replace(size=atlas.model.size)
        except (ValueError, OSError, ImportError) as error:
            say(f"{atlas.id} is only shown: {error}")
            continue
        if len(network.classes) != atlas.model.num_classes:
            expected = atlas.model.num_classes
            say(f"{atlas.id} is only shown: {network.name} has {len(network.classes)} classes, not {expected}")
            continue
        networks[atlas.id] = network
    return networks


def _which(settings: Settings, atlas: AtlasRecord) -> tuple[str | None, str | None]:
    if atlas.model.load in bundled.NAMES:
        return atlas.model.load, None
    return settings.model, settings.weights


def write_site(bundle: Path, out: Path, *, force: bool) -> int:
    """Export a bundle as a site, and say where it is."""
    print(export(bundle, out, force=force))
    return 0
