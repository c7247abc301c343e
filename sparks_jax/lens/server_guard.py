"""What every request and every answer of the server must be: from here, with the token, and with strict headers."""

import hmac
import re
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(self), microphone=(), geolocation=()",
}
LOOPBACK = ("127.0.0.1", "localhost", "::1")
COOKIE = "lens-token"
MARK = "x-lens"  # a header that a page of another site cannot send without asking first
# What of a bundle is shown, by its name; dictionaries and records of a build stay on the server.
SHOWN = re.compile(r"(?!.*(\.\.|//|/\.|^\.))[A-Za-z0-9_][A-Za-z0-9_./-]*\.(json|f32|png|jpg|webp)")
KEPT_BACK = re.compile(r"(^|/)(banks/|build\.json$)")


class Guard:
    """An ASGI application around another: who may ask, and headers on every answer."""

    def __init__(self, app: App, *, hosts: Iterable[str], token: str | None):
        self.app, self.hosts, self.token = app, frozenset(hosts), token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse a request, or pass it on and add headers to its answer."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def headed(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                given = {name.lower() for name, _ in message.get("headers", [])}
                more = [(k.encode(), v.encode()) for k, v in HEADERS.items() if k.encode() not in given]
                message = {**message, "headers": [*message.get("headers", []), *more]}
            await send(message)

        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        answer = self._refusal(scope, headers)
        if answer is None:
            await self.app(scope, receive, headed)
            return
        status, text, extra = answer
        fields = [(b"content-type", b"text/plain; charset=utf-8"), (b"cache-control", b"no-store"), *extra]
        await headed({"type": "http.response.start", "status": status, "headers": fields})
        await headed({"type": "http.response.body", "body": text.encode()})

    def _refusal(self, scope: Scope, headers: dict[str, str]) -> tuple[int, str, list[tuple[bytes, bytes]]] | None:
        """Why a request is not served: status, sentence, headers; None if it is."""
        host = headers.get("host", "")
        # A name that resolves to this computer, as a page of another site may have, is none of ours; where there is a
        # token, that site does not have it.
        if self.token is None and host_name(host) not in self.hosts:
            return 421, "This server is not called that.", []
        if scope["method"] not in ("GET", "HEAD", "POST"):
            return 405, "Only GET, HEAD and POST.", []
        if scope["method"] == "POST":
            origin = headers.get("origin")
            if headers.get(MARK) != "1" or (origin is not None and urlsplit(origin).netloc != host):
                return 403, "Only the page of this server may ask for that.", []
        if self.token is None or self._knows(headers):
            return None
        given = dict(parse_qsl(scope["query_string"].decode("latin-1"))).get("token", "")
        if scope["method"] == "GET" and hmac.compare_digest(given.encode(), self.token.encode()):
            cookie = f"{COOKIE}={self.token}; HttpOnly; SameSite=Strict; Path=/"
            return 303, "", [(b"location", b"./"), (b"set-cookie", cookie.encode())]
        return 401, "Open the address with the token that the server printed.", []

    def _knows(self, headers: dict[str, str]) -> bool:
        assert self.token is not None
        try:
            cookies = SimpleCookie(headers.get("cookie", ""))
        except CookieError:
            return False
        held = cookies[COOKIE].value if COOKIE in cookies else ""
        bearer = headers.get("authorization", "").removeprefix("Bearer ")
        return any(hmac.compare_digest(one.encode(), self.token.encode()) for one in (held, bearer))


def host_name(host: str) -> str:
    """The name in a Host header, without its port.

    Example:
        >>> host_name("127.0.0.1:8000"), host_name("[::1]:8000"), host_name("Localhost")
        ('127.0.0.1', '::1', 'localhost')
    """
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()


def shown_file(root: Path, name: str) -> Path | None:
    """The file of a bundle that a path names, if a page may see it; None otherwise.

    Args:
        root: The folder of the bundle, resolved.
        name: Relative, with / between folders.

    Example:
        >>> shown_file(Path("/"), "../etc/passwd.json"), shown_file(Path("/"), "atlas/banks/0001.f32")
        (None, None)
    """
    if not SHOWN.fullmatch(name) or KEPT_BACK.search(name):
        return None
    path = (root / name).resolve()
    return path if path.is_relative_to(root) and path.is_file() else None
