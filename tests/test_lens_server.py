"""The server of Lens: it answers what is true, to all users at once, and refuses what it should."""

import asyncio
import base64
import concurrent.futures
import http.client
import io
import json
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from sparks_jax import lens
from sparks_jax.cli import main
from sparks_jax.concepts import encode
from sparks_jax.lens import server_films, server_guard, server_run, server_uploads
from sparks_jax.lens.export import export
from sparks_jax.lens.server import application
from sparks_jax.lens.server_guard import shown_file
from sparks_jax.lens.server_live import Worker
from sparks_jax.lens.server_uploads import Refused, decode, read_body
from tests.lens_served import SIDE, ask, ask_json, network, photograph, serving

CLASSES, STEPS = 5, 8


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    lens.synthetic(folder, CLASSES, points=40, rank=4)
    lens.synthetic(folder, CLASSES, points=20, rank=3, atlas="other", seed=1)
    return folder


@pytest.fixture(scope="module")
def app(bundle):
    return application(bundle, {"synthetic": network(CLASSES), "other": network(CLASSES, 1)}, steps=STEPS)


@pytest.fixture(scope="module")
def served(app):
    return app.app.state.served


@pytest.fixture(scope="module")
def port(app):
    with serving(app) as port:
        yield port


# --- answers ------------------------------------------------------------------------------------------------


def test_an_explanation_adds_up(port, served):
    body, pixels = photograph(1)
    status, found = ask_json(port, "/api/synthetic/explain", body)
    assert status == 200
    live = served.lives["synthetic"]
    x = jnp.asarray(live.network.prepare(pixels, SIDE), jnp.float32)
    logits = np.asarray(live.network.model(x[None])[0])
    assert int(found["class"]) == logits.argmax()
    assert [one["label"] for one in found["predictions"]] == np.argsort(-logits).tolist()
    assert sum(one["probability"] for one in found["predictions"]) == pytest.approx(1, abs=1e-6)
    codes = np.asarray(encode(live.bank(found["class"]).dictionary, live.network.model.features(x[None])[0]))
    # Numbers are sent with 5 decimals.
    np.testing.assert_allclose(np.array(found["codes"]).transpose(1, 2, 0), codes, atol=2e-5)
    np.testing.assert_allclose(found["amounts"], codes.mean((0, 1)), atol=2e-5)
    # The head is affine: what each concept adds is exact, and with its constant makes what the concepts explain.
    bias = float(live.network.model.linear.bias[int(found["class"])])
    assert found["explained"] == pytest.approx(bias + sum(found["importances"]), abs=2e-4)
    assert found["rivals"][0]["label"] == int(found["class"])


def test_an_edit_moves_the_logits_as_the_slopes_say(port):
    body, _ = photograph(2)
    _, found = ask_json(port, "/api/synthetic/explain", body)
    keep = [0.25, 1.0, 0.0, 0.5]
    status, edited = ask_json(port, f"/api/synthetic/edit?class={found['class']}&keep={','.join(map(str, keep))}", body)
    assert status == 200
    removed = (1 - np.array(keep)) * found["amounts"]
    expected = np.array(found["logits"]) - removed @ np.array(found["slopes"])
    np.testing.assert_allclose([edited["all"][one["label"]] for one in found["rivals"]], expected, atol=2e-4)


def test_gradients_are_zero_where_a_concept_is_not(port):
    body, _ = photograph(3)
    _, found = ask_json(port, "/api/synthetic/explain", body)
    status, got = ask_json(port, f"/api/synthetic/gradients?class={found['class']}", body)
    maps = np.array(got["maps"])
    assert status == 200
    assert maps.shape == (4, 56, 56)
    for one, amount in zip(maps, found["amounts"], strict=True):
        assert (one.max() > 0) == (amount > 0)


def test_the_nearest_crops_are_the_nearest(port, served):
    body, _ = photograph(4)
    _, found = ask_json(port, "/api/synthetic/explain?class=0003", body)
    assert found["class"] == "0003"
    bank = served.lives["synthetic"].bank("0003")
    amounts = np.array(found["amounts"])
    cosines = bank.codes @ amounts / np.linalg.norm(bank.codes, axis=1) / np.linalg.norm(amounts)
    assert [one["row"] for one in found["nearest"]] == bank.views[np.argsort(-cosines), 0].astype(int).tolist()
    assert [one["cosine"] for one in found["nearest"]] == pytest.approx(np.sort(cosines)[::-1], abs=1e-4)


def test_users_at_once_share_a_program_and_no_results(port, served):
    bodies = [photograph(seed)[0] for seed in range(10, 22)]
    alone = [ask_json(port, f"/api/{('synthetic', 'other')[i % 2]}/explain", body) for i, body in enumerate(bodies)]
    compiled = {id: live.see._cache_size() for id, live in served.lives.items()}
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        asked = [pool.submit(ask_json, port, f"/api/{('synthetic', 'other')[i % 2]}/explain", body)
                 for i, body in enumerate(bodies)]  # fmt: skip
        together = [one.result() for one in asked]
    assert together == alone
    assert {id: live.see._cache_size() for id, live in served.lives.items()} == compiled == {"synthetic": 1, "other": 1}


def test_a_warm_server_has_compiled_before_it_is_asked(bundle):
    app = application(bundle, {"synthetic": network(CLASSES)}, warm=True)
    live = app.app.state.served.lives["synthetic"]
    with serving(app) as port:
        until(lambda: live.see._cache_size() == 1)
        assert ask_json(port, "/api/synthetic/explain", photograph()[0])[0] == 200
    assert live.see._cache_size() == 1


def test_a_film_shows_every_segment_and_ends(port, optimized):
    status, headers, content = ask(port, "POST", "/api/synthetic/film?class=0001&concept=2&seed=3")
    lines = [json.loads(line) for line in content.splitlines()]
    assert (status, headers["content-type"]) == (200, "application/x-ndjson")
    assert [line["step"] for line in lines] == [4, 8]
    picture = Image.open(io.BytesIO(base64.b64decode(lines[-1]["image"].partition(",")[2])))
    assert picture.format == "WEBP"
    again = ask(port, "POST", "/api/synthetic/film?class=0001&concept=2&seed=3")[2]
    assert again == content, "the same seed is the same film"


# --- what ends, and who waits -------------------------------------------------------------------------------


def test_a_closed_tab_ends_its_film(port, served, optimized):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    before, served.films.steps = served.films.steps, 100_000
    try:
        connection.request("POST", "/api/synthetic/film?class=0000&concept=0", headers={"X-Lens": "1"})
        answer = connection.getresponse()
        assert b"step" in answer.readline()
        assert served.films.running == 1
        connection.sock and connection.sock.shutdown(socket.SHUT_RDWR)
        answer.close()
        connection.close()
        until(lambda: served.films.running == 0 and served.worker.waiting == 0)
    finally:
        served.films.steps = before


def run(coroutine):
    return asyncio.run(coroutine)


def test_a_viewer_who_does_not_read_ends_the_film():
    taken = []

    async def frames():
        for i in range(1000):
            taken.append(i)
            yield b"{}\n"

    async def send(message):
        if message.get("body"):
            await asyncio.Event().wait()  # a full buffer, for ever

    async def receive():
        await asyncio.Event().wait()

    films = server_films.Films(Worker())
    run(server_films.Film(films, frames(), patience=0.05)({}, receive, send))
    assert taken == [0]
    assert films.running == 0


def test_what_nobody_waits_for_is_not_computed():
    computed = []

    async def ask_and_go():
        worker = Worker()
        with pytest.raises(Refused) as refused:
            await worker.run(lambda: computed.append(1), wanted=lambda: False)
        worker.close()
        return refused.value.status

    assert run(ask_and_go()) == 499
    assert computed == []


def test_a_closed_tab_is_not_explained_to(port, served, monkeypatch):
    """The network is busy; somebody asks, and goes; then it is free."""
    asked, open_ = [], threading.Event()
    monkeypatch.setattr(served.lives["synthetic"], "explain", lambda *_: asked.append(1))
    busy = served.worker.pool.submit(open_.wait)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("POST", "/api/synthetic/explain", photograph()[0], {"X-Lens": "1"})
    until(lambda: served.worker.waiting == 1)
    connection.sock.shutdown(socket.SHUT_RDWR)
    connection.close()
    time.sleep(0.3)  # for the server to see it
    open_.set()
    busy.result()
    until(lambda: served.worker.waiting == 0)
    assert asked == []


def until(true):
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_those_who_send_slowly_are_not_too_many(port, served, monkeypatch):
    monkeypatch.setattr(served, "reading", 16)
    status, headers, _ = ask(port, "POST", "/api/synthetic/explain", photograph()[0])
    assert (status, headers["retry-after"]) == (503, "2")


async def plain(scope, receive, send):
    """Reads what is sent, and answers with as many bytes as the path says."""
    if scope["type"] != "http":
        return
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": bytes(int(scope["path"][1:]))})


@pytest.fixture(scope="module")
def hasty():
    """The server with the limits that the command gives it, but less patience."""
    given = server_run.limits()
    paced = type("Hasty", (given["http"],), {"head": 0.6, "read": 1.0})
    with serving(plain, **given | {"http": paced}) as port:
        yield port


def drip(client, pieces, pause=0.2):
    """Send slowly until the server has enough; the seconds that it took. What was answered is read."""
    begin = time.monotonic()
    try:
        for piece in pieces:
            client.sendall(piece)
            time.sleep(pause)
        client.settimeout(10)
        while client.recv(4096):
            pass
    except (ConnectionError, BrokenPipeError):
        pass
    return time.monotonic() - begin


@pytest.mark.parametrize(
    "pieces",
    [[], [b"GET /1 HTTP/1.1\r\nHost: localhost\r\n"], [b"GET /1 HTTP/1.1\r\n"] + [b"A: b\r\n"] * 100,
     [b"GET /1 HTTP/1.1\r\nHost: localhost\r\n\r\nGET"] + [b"A"] * 100],
    ids=["nothing", "half a head", "a head by drops", "a second head by drops"],
)  # fmt: skip
def test_a_head_that_comes_slowly_ends_its_connection_while_others_are_served(hasty, pieces):
    with socket.create_connection(("127.0.0.1", hasty)) as client, concurrent.futures.ThreadPoolExecutor() as pool:
        took = pool.submit(drip, client, pieces)
        assert ask(hasty, "GET", "/3")[2] == bytes(3)
        assert not took.done()
        assert took.result() < 10, "of 20 seconds that the drops take"


def test_a_connection_that_is_kept_is_not_hurried(hasty):
    """Neither between requests, nor for a body, which has its own time."""
    connection = http.client.HTTPConnection("127.0.0.1", hasty, timeout=20)
    for _ in range(2):
        connection.request("GET", "/5")
        assert connection.getresponse().read() == bytes(5)
        time.sleep(1)
    connection.putrequest("POST", "/7")
    connection.putheader("Content-Length", "2")
    connection.endheaders(b"a")
    time.sleep(1)
    connection.send(b"b")
    assert connection.getresponse().read() == bytes(7)
    connection.close()


@pytest.mark.parametrize("kept", ["keep-alive", "close"])
def test_who_does_not_read_an_answer_is_let_go_and_who_reads_slowly_has_it_all(hasty, kept):
    size, got = 20_000_000, []
    for rests in ((3.0,), (0.4,) * 5):
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
            client.connect(("127.0.0.1", hasty))
            client.sendall(f"GET /{size} HTTP/1.1\r\nHost: localhost\r\nConnection: {kept}\r\n\r\n".encode())
            client.settimeout(20)
            parts = []
            try:
                for rest in rests:
                    time.sleep(rest)
                    parts.append(client.recv(200_000, socket.MSG_WAITALL))
                while sum(map(len, parts)) < size and (part := client.recv(1 << 20)):
                    parts.append(part)
            except ConnectionError:
                pass
            got.append(sum(map(len, parts)))
    assert got[0] < size <= got[1]


def test_too_many_who_wait_are_told_so():
    async def crowd():
        worker, open_ = Worker(most=2), threading.Event()
        first = [asyncio.ensure_future(worker.run(open_.wait)) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(Refused, match="try again") as refused:
            await worker.run(lambda: None)
        open_.set()
        await asyncio.gather(*first)
        done = await worker.run(lambda: "done")
        worker.close()
        return refused.value.status, done

    assert run(crowd()) == (503, "done")


# --- photographs --------------------------------------------------------------------------------------------


def bomb(width, height):
    """A PNG that says it is large, with next to no data."""
    chunk = lambda kind, data: struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (SVG, 415),
        (b"<!doctype html><script>alert(1)</script>", 415),
        (b"GIF89a" + bytes(50), 415),
        (b"%PDF-1.7", 415),
        (b"RIFF\x10\0\0\0WAVEfmt ", 415),
        (b"\x89PNG\r\n\x1a\n" + SVG, 422),
        (b"\xff\xd8\xff\xe0" + bytes(200), 422),
        (photograph()[0][:-900], 422),
        (photograph(kind="JPEG")[0][:700], 422),
        (photograph(kind="WEBP")[0][:400], 422),
        (bomb(9000, 5000), 413),
        (bomb(12_000, 9_000), 413),
        (bomb(60_000, 60_000), 413),
        (bomb(0, 8), 422),
        (bomb(64, 64), 422),
    ],
    ids=["empty", "svg", "html", "gif", "pdf", "wav", "svg as png", "zeros as jpeg", "short png", "short jpeg",
         "short webp", "45 million pixels", "108 million pixels", "3600 million pixels", "no pixels", "no data"],
)  # fmt: skip
def test_what_is_no_photograph_is_refused(port, body, status):
    got, said = ask_json(port, "/api/synthetic/explain", body)
    assert got == status, said
    assert set(said) == {"error"}


def test_a_file_that_is_too_large_is_refused_before_it_is_read(port):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.putrequest("POST", "/api/synthetic/explain")
    connection.putheader("X-Lens", "1")
    connection.putheader("Content-Length", str(10**12))
    connection.endheaders()
    assert connection.getresponse().status == 413  # without a byte of it
    connection.close()


def chunks(*parts, pause=0.0):
    async def come():
        for part in parts:
            await asyncio.sleep(pause)
            yield part

    return come()


@pytest.mark.parametrize(
    ("parts", "length", "pause", "status"),
    [((b"a" * 60, b"b" * 60), None, 0.0, 413), ((b"a",), "101", 0.0, 413), ((b"a",), "-1", 0.0, 413),
     ((b"a", b"b"), "2", 0.2, 408), ((), "0", 0.0, 400)],
)  # fmt: skip
def test_a_body_has_limits(parts, length, pause, status):
    with pytest.raises(Refused) as refused:
        run(read_body(chunks(*parts, pause=pause), length, most=100, seconds=0.1))
    assert refused.value.status == status


def test_a_body_within_limits_is_whole():
    assert run(read_body(chunks(b"ab", b"c"), "3", most=3)) == b"abc"


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_photograph_is_decoded(kind):
    body, pixels = photograph(5, 40, kind, **({"lossless": True} if kind == "WEBP" else {}))
    got = decode(body)
    assert got.shape == (40, 40, 3)
    if kind != "JPEG":
        np.testing.assert_array_equal(got, pixels)


def test_orientation_transparency_and_size_are_seen_to():
    left = Image.fromarray(np.concatenate([np.zeros((10, 5, 3), np.uint8), np.full((10, 5, 3), 255, np.uint8)], 1))
    exif = Image.Exif()
    exif[0x112] = 6  # a quarter turn
    buffer = io.BytesIO()
    left.save(buffer, "PNG", exif=exif)
    assert decode(buffer.getvalue())[:, 0, 0].tolist() == [0] * 5 + [255] * 5
    buffer = io.BytesIO()
    Image.new("RGBA", (3, 3), (9, 9, 9, 0)).save(buffer, "PNG")
    assert decode(buffer.getvalue()).min() == 255
    buffer = io.BytesIO()
    Image.new("L", (server_uploads.SIDE * 2, 10)).save(buffer, "PNG")
    assert decode(buffer.getvalue()).shape == (5, server_uploads.SIDE, 3)


def test_nothing_is_written(bundle, port):
    before = sorted(bundle.rglob("*"))
    body, _ = photograph(6)
    assert ask_json(port, "/api/synthetic/explain", body, {"Content-Disposition": "filename=../../evil.png"})[0] == 200
    assert sorted(bundle.rglob("*")) == before


# --- who may ask what ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/", 200), ("/lens.css", 200), ("/lens.json", 200), ("/synthetic/atlas.json", 200),
        ("/synthetic/arrays/0000.f32", 200), ("/synthetic/images/shared/sheet.png", 200),
        ("/synthetic/banks/0000.f32", 404), ("/synthetic/build.json", 404), ("/../pyproject.toml", 404),
        ("/..%2f..%2fetc%2fpasswd", 404), ("/%2e%2e/%2e%2e/etc/passwd.json", 404), ("/synthetic/../lens.json", 404),
        ("/synthetic//atlas.json", 404), ("/.git/config.json", 404), ("/lens.json%00.png", 404),
        ("/etc/passwd", 404), ("//etc/passwd.json", 404), ("/synthetic", 404), ("/index.html.part", 404),
        ("/C:%5Cwindows%5Cwin.json", 404), ("/linked.json", 404), ("/api/unknown", 404),
    ],
)  # fmt: skip
def test_only_files_of_the_page_and_of_the_bundle_are_shown(bundle, port, path, status):
    link = bundle / "linked.json"
    if not link.is_symlink():
        link.symlink_to("/etc/hostname")
    assert ask(port, "GET", path)[0] == status


def test_a_file_is_sent_once(port):
    status, headers, content = ask(port, "GET", "/synthetic/atlas.json")
    assert json.loads(content)["id"] == "synthetic"
    again = ask(port, "GET", "/synthetic/atlas.json", headers={"If-None-Match": headers["etag"]})
    assert (again[0], again[2]) == (304, b"")


@pytest.mark.parametrize(
    ("method", "path", "headers", "mark", "status"),
    [
        ("GET", "/", {"Host": "evil.example"}, True, 421),
        ("GET", "/", {"Host": "127.0.0.1.evil.example"}, True, 421),
        ("GET", "/", {"Host": "localhost"}, True, 200),
        ("POST", "/api/synthetic/explain", {}, False, 403),
        ("POST", "/api/synthetic/explain", {"Origin": "http://evil.example"}, True, 403),
        ("POST", "/api/synthetic/explain", {"Origin": "null"}, True, 403),
        ("DELETE", "/lens.json", {}, True, 405),
        ("POST", "/lens.json", {}, True, 405),
        ("POST", "/api/nothing/explain", {}, True, 404),
        ("POST", "/api/synthetic/film?class=0000&concept=99", {}, True, 404),
        ("POST", "/api/synthetic/film?class=9999&concept=0", {}, True, 404),
        ("POST", "/api/synthetic/film?class=0000&concept=-1", {}, True, 422),
        ("POST", "/api/synthetic/explain?class=../../x", {}, True, 404),
        ("POST", "/api/synthetic/edit?class=0000&keep=nan,1,1,1", {}, True, 422),
        ("POST", "/api/synthetic/edit?class=0000&keep=1,1", {}, True, 422),
        ("POST", "/api/synthetic/edit?class=0000&keep=2,1,1,1", {}, True, 422),
        ("POST", "/api/synthetic/edit?class=0000&keep=a", {}, True, 422),
    ],
)  # fmt: skip
def test_who_may_ask_what(port, method, path, headers, mark, status):
    body = photograph()[0] if method == "POST" else None
    got, sent, _ = ask(port, method, path, body, headers, mark=mark)
    assert got == status
    assert sent["content-security-policy"] == server_guard.POLICY
    assert sent["x-content-type-options"] == "nosniff"


def test_a_server_for_others_asks_for_a_token(bundle):
    with serving(application(bundle, token="secret-token")) as port:
        assert ask(port, "GET", "/lens.json")[0] == 401
        assert ask(port, "GET", "/lens.json", headers={"Host": "evil.example"})[0] == 401
        assert ask(port, "GET", "/?token=wrong")[0] == 401
        assert ask(port, "POST", "/api/synthetic/explain?token=secret-token", b"x")[0] == 401, "not by a link"
        status, headers, _ = ask(port, "GET", "/?token=secret-token")
        assert (status, headers["location"]) == (303, "./")
        assert {"HttpOnly", "SameSite=Strict"} <= set(headers["set-cookie"].split("; "))
        cookie = headers["set-cookie"].partition(";")[0]
        assert ask(port, "GET", "/lens.json", headers={"Cookie": cookie})[0] == 200
        assert ask(port, "GET", "/lens.json", headers={"Cookie": cookie + "x"})[0] == 401
        assert ask(port, "GET", "/lens.json", headers={"Authorization": "Bearer secret-token"})[0] == 200


def test_a_failure_is_in_the_log_and_not_in_the_answer(port, served, monkeypatch, caplog):
    monkeypatch.setattr(served.lives["synthetic"], "explain", lambda *_: 1 / 0)
    status, _, content = ask(port, "POST", "/api/synthetic/explain", photograph()[0])
    assert (status, json.loads(content)) == (500, {"error": "The server failed; its log says why."})
    assert "ZeroDivisionError" in caplog.text


def test_no_name_leaves_a_bundle(bundle):
    rng = np.random.default_rng(0)
    pieces = ["..", "/", ".", "etc", "passwd", "synthetic", "banks", ".json", "\0", "\\", "lens.json", "%2e", " "]
    for _ in range(3000):
        name = "".join(rng.choice(pieces, rng.integers(1, 7)))
        path = shown_file(bundle.resolve(), name)
        assert path is None or (path.is_relative_to(bundle.resolve()) and "banks" not in path.parts)


# --- the command line ---------------------------------------------------------------------------------------


def test_a_bundle_cannot_make_the_server_import_code(bundle, tmp_path):
    lens.synthetic(tmp_path, 1, points=12, rank=2)
    index = tmp_path / "synthetic/atlas.json"
    record = json.loads(index.read_text())
    record["model"]["load"] = "os:getcwd"
    index.write_text(json.dumps(record))
    said = []
    assert server_run.load_networks(server_run.Settings(tmp_path), said.append) == {}
    assert "--model" in said[0]


def test_a_network_of_another_atlas_is_refused(bundle):
    with pytest.raises(ValueError, match="has 3: name the right one"):
        application(bundle, {"synthetic": network(3)})


def test_a_taken_port_is_said(bundle):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match="choose another --port"):
            server_run.run(server_run.Settings(bundle, port=port, static=True), say=lambda _: None)


def test_the_command_serves_and_ends(bundle):
    program = "from sparks_jax.cli import main; raise SystemExit(main())"
    command = [sys.executable, "-u", "-c", program, "lens", "serve", str(bundle), "--port", "0", "--static"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        address = process.stdout.readline().split()[-1]
        port = int(address.rstrip("/").rpartition(":")[2])
        assert ask(port, "GET", "/lens.json")[0] == 200
        assert json.loads(ask(port, "GET", "/api/live")[2])["atlases"]["synthetic"] == {"live": False, "model": None}
    finally:
        process.terminate()
        assert process.communicate(timeout=20)[1] == ""


def test_a_site_needs_no_server_and_holds_no_dictionary(bundle, tmp_path):
    page = export(bundle, tmp_path / "site")
    files = {path.relative_to(tmp_path / "site").as_posix() for path in (tmp_path / "site").rglob("*")}
    assert page.name == "index.html"
    assert {
        "lens.json.js",
        "other/atlas.json.js",
        "synthetic/classes/0000.json.js",
        "synthetic/arrays/0000.f32.js",
    } <= files
    assert not any("banks" in name or name.endswith((".json", ".f32")) for name in files)
    with pytest.raises(FileExistsError, match="--force"):
        export(bundle, tmp_path / "site")


def test_the_command_exports(bundle, tmp_path, capsys):
    arguments = ["lens", "export", str(bundle), "--out", str(tmp_path / "site")]
    assert main(arguments) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "site/index.html")
    assert main(arguments) == 2
    assert "--force" in capsys.readouterr().err
    assert main([*arguments, "--force"]) == 0
    assert main(["lens", "export", str(tmp_path / "nothing")]) == 2
    assert "sparks lens build" in capsys.readouterr().err
