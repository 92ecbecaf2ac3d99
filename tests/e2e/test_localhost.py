"""The localhost side of `zts connect`: other users of this computer and pages in its browser do not ride on it; programs do."""

import base64
import contextlib
import hashlib
import json
import os
import shutil
import socket
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from chromium import CHROMIUM, browsing
from targets import Target
from web_target import WebTarget
from whole_network import WAIT_S, Network, Running, failed, network

CURL = shutil.which("curl")
NOBODY = 65534
BANNER = b"220 speak\r\n"

needs_curl = pytest.mark.skipif(CURL is None, reason="curl is not installed (Debian: curl)")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed (Debian: chromium)")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")

# The device's own page: all that a page may ask of where it comes from.
OWN_PAGE = """<!doctype html><title>own</title><script>
const ws = () => new Promise((good, bad) => {
  const s = new WebSocket(`ws://${location.host}/ws`);
  s.onopen = () => s.send("echo"); s.onmessage = e => good(e.data); s.onerror = () => bad("error");
});
const text = async (...what) => (await fetch(...what)).text();
(async () => {
  const said = {};
  const note = async (name, work) => { try { said[name] = await work(); } catch (e) { said[name] = String(e); } };
  await note("get", () => text("/data"));
  await note("post", () => text("/p", {method: "POST", body: "x".repeat(100000)}));
  await note("put", () => text("/p", {method: "PUT", headers: {"X-Own": "1"}, body: "y"}));
  await note("ws", ws);
  await fetch("/report", {method: "POST", body: JSON.stringify(said)});
})();
</script>"""

# A stranger's page: all the ways a page has to say something to another address. DOORS: [[host:port, the same with a name of its own]].
EVIL_PAGE = """<!doctype html><title>evil</title><body><script>
const until = (e, name) => new Promise(done => { e.addEventListener(name, done); e.addEventListener("error", done); });
const frame = () => { const f = document.createElement("iframe"); f.name = "f" + Math.random(); document.body.append(f); return f; };
const read = async (...what) => { const r = await fetch(...what); return r.type == "opaque" ? "opaque" : "READ " + await r.text(); };
const ways = {
  "cors GET": u => read(`http://${u}/data`),
  "cors PUT": u => read(`http://${u}/data`, {method: "PUT", headers: {"X-Own": "1"}, body: "y"}),
  "no-cors GET": u => read(`http://${u}/data`, {mode: "no-cors"}),
  "no-cors POST": u => read(`http://${u}/p`, {mode: "no-cors", method: "POST", body: "FLUSHALL\\r\\n"}),
  "image": u => { const i = new Image(); const d = until(i, "load"); i.src = `http://${u}/data`; return d.then(() => "done"); },
  "form": u => {
    const f = frame(), o = document.createElement("form"), d = until(f, "load");
    o.method = "post"; o.enctype = "text/plain"; o.action = `http://${u}/p`; o.target = f.name;
    o.innerHTML = "<input name=a value=b>"; document.body.append(o); o.submit(); return d.then(() => "done");
  },
  "frame": u => { const f = frame(), d = until(f, "load"); f.src = `http://${u}/`; return d.then(() => "done"); },
  "websocket": u => new Promise(done => {
    const s = new WebSocket(`ws://${u}/ws`); s.onopen = () => { s.send("echo"); done("READ open"); }; s.onerror = () => done("error");
  }),
};
(async () => {
  const said = [];
  for (const u of DOORS) for (const [name, way] of Object.entries(ways)) {
    let what; try { what = await way(u); } catch (e) { what = "error"; }
    said.push([u, name, what]);
  }
  await fetch("/report", {method: "POST", body: JSON.stringify(said)});
})();
</script>"""
WAYS = EVIL_PAGE.count('": u =>')


class Raw:
    """A program that speaks first, and no HTTP; it notes all that it is told."""

    def __init__(self) -> None:
        self.connections = 0
        self.heard = b""

    def __call__(self, sock: socket.socket) -> None:
        self.connections += 1
        sock.sendall(BANNER)
        while got := sock.recv(1 << 16):
            self.heard += got
            sock.sendall(got.upper())


class Place(NamedTuple):
    net: Network
    web: WebTarget
    raw: Raw
    http_door: Running
    raw_door: Running


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    raw = Raw()
    with contextlib.ExitStack() as stack:
        web = stack.enter_context(WebTarget({"/": OWN_PAGE, "/data": "the device's data"}))
        target = stack.enter_context(Target(raw))
        net = stack.enter_context(network(tmp_path_factory.mktemp("localhost"), "embedded"))
        services = {"web": ("http", f"127.0.0.1:{web.port}"), "raw": ("tcp", target.address)}
        stack.enter_context(net.linux_device("pi", services))
        doors = [stack.enter_context(net.run(f"{name}-door", "connect", f"@pi:{name}", "-L")) for name in ("web", "raw")]
        for door in doors:
            door.line()
        yield Place(net, web, raw, *doors)


@pytest.fixture
def counts(place: Place) -> Iterator[Any]:
    """What reached the targets since the test began: (connections to the web target, requests, bytes to the raw one)."""
    before = place.web.connections, len(place.web.requests), len(place.raw.heard)
    yield lambda: (
        place.web.connections - before[0],
        len(place.web.requests) - before[1],
        len(place.raw.heard) - before[2],
    )


def dial(door: Running, family: socket.AddressFamily = socket.AF_INET) -> socket.socket:
    sock = socket.socket(family)
    sock.settimeout(WAIT_S)
    host, _, port = door.line().partition(":")
    sock.connect((host if family == socket.AF_INET else f"::ffff:{host}", int(port)))
    return sock


def curl(*arguments: str, data: bytes = b"", user: int | None = None) -> "subprocess.CompletedProcess[bytes]":
    command = [str(CURL), "-sS", "--max-time", str(int(WAIT_S)), *arguments]
    become: dict[str, Any] = {} if user is None else {"user": user, "group": user, "extra_groups": [], "cwd": "/"}
    return subprocess.run(command, input=data, capture_output=True, timeout=WAIT_S, **become)


def fetched(*arguments: str, data: bytes = b"") -> bytes:
    done = curl(*arguments, data=data)
    assert done.returncode == 0, done.stderr
    return done.stdout


def code_of(*arguments: str) -> str:
    """The status of the last answer."""
    return fetched("-o", os.devnull, "-w", "%{http_code}", *arguments)[-3:].decode()


# --- programs of this user ---------------------------------------------------------------------------------------------------


@needs_curl
def test_curl_as_it_is(place: Place) -> None:
    url = f"http://{place.http_door.line()}"
    assert fetched(f"{url}/data") == b"the device's data"
    assert fetched("-0", f"{url}/data") == b"the device's data"
    assert fetched("--http2", f"{url}/data", f"{url}/data") == b"the device's data" * 2
    assert b"Content-Length: 17" in fetched("-I", f"{url}/data")
    assert code_of(f"{url}/nothing") == "404"
    connects = fetched("-o", os.devnull, "-o", os.devnull, "-w", "%{num_connects} ", f"{url}/data", f"{url}/data")
    assert connects == b"1 0 ", "one connection serves several requests"
    assert fetched("-H", f"Origin: {url}", f"{url}/data") == b"the device's data"


@needs_curl
def test_curl_uploads(place: Place) -> None:
    url = f"http://{place.http_door.line()}/up"
    data = os.urandom(5_000_000)
    digest = hashlib.sha256(data).hexdigest().encode()
    before = place.web.requests.count("100-continue")
    assert fetched("-H", "Expect: 100-continue", "--expect100-timeout", str(WAIT_S), "--data-binary", "@-", url, data=data) == digest
    assert place.web.requests.count("100-continue") == before + 1
    assert fetched("-H", "Expect:", "-H", "Transfer-Encoding: chunked", "-T", "-", url, data=data) == digest


def test_a_websocket_of_a_program(place: Place) -> None:
    host = place.http_door.line()
    key = base64.b64encode(os.urandom(16)).decode()
    with dial(place.http_door) as sock, sock.makefile("rb") as reader:
        sock.sendall(
            f"GET /ws HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
            f"Sec-WebSocket-Key: {key}\r\n\r\n".encode()
        )
        assert reader.readline().startswith(b"HTTP/1.1 101 ")
        while reader.readline() != b"\r\n":
            pass
        sock.sendall(b"\x81\x85\0\0\0\0hello")
        assert reader.read() == b"\x81\x05hello"


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_a_protocol_where_the_target_speaks_first(place: Place, family: socket.AddressFamily) -> None:
    if family == socket.AF_INET6 and not os.path.exists("/proc/net/tcp6"):
        pytest.skip("no IPv6 here: a program cannot reach 127.0.0.1 by such a socket")
    with dial(place.raw_door, family) as sock, sock.makefile("rb") as reader:
        assert reader.readline() == BANNER
        sock.sendall(b"GET")  # could yet become HTTP
        sock.sendall(b" key\r\n")
        assert reader.readline() == b"GET KEY\r\n"
        sock.sendall(b"GET / HTTP/1.1\r\n")  # not at the beginning, so it is the protocol's own business
        assert reader.readline() == b"GET / HTTP/1.1\r\n"


def test_what_a_program_said_before_it_ended_is_passed_on(place: Place) -> None:
    with dial(place.raw_door) as sock, sock.makefile("rb") as reader:
        sock.sendall(b"pos")
        sock.shutdown(socket.SHUT_WR)
        assert reader.read() == BANNER + b"POS"
    with dial(place.raw_door) as sock, sock.makefile("rb") as reader:
        sock.sendall(b"POST")
        sock.shutdown(socket.SHUT_WR)
        assert reader.read() == BANNER + b"POST"


# --- requests that are none of this user's programs' -------------------------------------------------------------------------


@needs_curl
def test_requests_of_strangers_are_answered_here(place: Place, counts: Any) -> None:
    address = place.http_door.line()
    url = f"http://{address}"
    for arguments in (
        ("-H", "Host: evil.test", url),
        ("-H", "Origin: http://evil.test", url),
        ("-H", "Origin: null", url),
        ("-H", "Sec-Fetch-Site: cross-site", url),
        ("-I", "-H", "Origin: http://evil.test", url),
        ("-x", url, "http://evil.test/"),
        ("-x", url, f"{url}/"),
        ("-H", "Origin: http://evil.test", "-H", "Connection: Upgrade", "-H", "Upgrade: websocket", f"{url}/ws"),
        ("-H", "Origin: http://evil.test", "--data-binary", f"@{__file__}", url),
    ):
        assert code_of(*arguments) == "403", arguments
    assert code_of("-H", "A: " + "a" * 20_000, url) == "431"
    assert b"evil.test" in fetched("-H", "Host: evil.test", url)
    assert counts() == (0, 0, 0)
    assert curl("-k", f"https://{address}").returncode == 35  # nobody speaks TLS here
    assert counts() == (0, 0, 0)
    assert "refused a request (403): the request comes from a page of 'http://evil.test'" in place.http_door.err


@needs_curl
def test_a_connection_that_served_us_serves_no_stranger(place: Place, counts: Any) -> None:
    """curl uses it again, finds it broken off, and tries with a new one: there it reads why."""
    url = f"http://{place.http_door.line()}/data"
    out = fetched("-w", "%{http_code} ", url, "--next", "-sS", "-w", "%{http_code} ", "-H", "Origin: http://evil.test", url)
    assert out.startswith(b"the device's data200 zts: the request comes from a page of") and out.endswith(b"403 ")
    assert counts()[1:] == (1, 0)


@needs_curl
def test_http_to_a_service_that_speaks_none(place: Place, counts: Any) -> None:
    url = f"http://{place.raw_door.line()}/"
    for arguments in ((url,), ("-d", "FLUSHALL", url), ("--http2-prior-knowledge", url)):
        done = curl(*arguments)
        assert done.returncode in (1, 52, 55, 56), done.stderr  # what came is no HTTP, or nothing, or a reset
    assert counts() == (0, 0, 0)
    assert "raw: refused what looks like HTTP" in place.raw_door.err and 'kind = "http"' in place.raw_door.err


# --- another user ------------------------------------------------------------------------------------------------------------


@needs_root
@needs_curl
def test_another_user(place: Place, counts: Any) -> None:
    with dial(place.raw_door) as sock:
        assert sock.recv(len(BANNER), socket.MSG_WAITALL) == BANNER  # so the target has counted those before it
    connections = place.raw.connections
    for door in (place.http_door, place.raw_door):
        done = curl(f"http://{door.line()}/data", user=NOBODY)
        assert done.returncode in (7, 52, 56) and done.stdout == b"", done.stderr  # reset before curl looked, closed, or reset
        door.said(f"another user, uid {NOBODY}; only uid 0 may use it")
    assert counts() == (0, 0, 0) and place.raw.connections == connections
    assert code_of(f"http://{place.http_door.line()}/data") == "200"


# --- a socket in the file system ---------------------------------------------------------------------------------------------


@pytest.fixture
def opened(place: Place, tmp_path: Path) -> Iterator[tuple[Running, Path]]:
    path = tmp_path / "reachable" / "s"
    path.parent.mkdir()
    # What keeps others out shall be the socket's own mode.
    for folder in (path.parent, tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    with place.net.run(f"unix-{tmp_path.name}", "connect", "@pi:web", "--unix", str(path)) as running:
        assert running.line() == str(path)
        yield running, path


@needs_curl
def test_unix(place: Place, opened: tuple[Running, Path], counts: Any) -> None:
    door, path = opened
    assert door.out == f"{path}\n"
    assert stat.S_ISSOCK(path.stat().st_mode) and stat.S_IMODE(path.stat().st_mode) == 0o600
    # No browser can come here, so a name of the caller's choice is his own business.
    for url in ("http://localhost/data", "http://pi/data"):
        assert fetched("--unix-socket", str(path), url) == b"the device's data"
    if os.geteuid() == 0:
        before = counts()
        done = curl("--unix-socket", str(path), "http://localhost/data", user=NOBODY)
        assert done.returncode == 7 and counts() == before, done.stderr
    failed(place.net.zts("connect", "@pi:web", "--unix", str(path)), 2)
    assert fetched("--unix-socket", str(path), "http://pi/data") == b"the device's data"
    assert door.interrupt() == 130
    assert not path.exists()


def test_unix_replaces_only_what_is_left_behind(place: Place, opened: tuple[Running, Path]) -> None:
    door, path = opened
    door.kill()
    assert path.is_socket()
    name = f"again-{path.parent.parent.name}"
    with place.net.run(name, "connect", "@pi:raw", "--unix", str(path)) as again:
        assert again.line() == str(path)
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(WAIT_S)
            sock.connect(str(path))
            assert sock.recv(99) == BANNER
        path.unlink()
        path.write_text("somebody else's")
        assert again.interrupt() == 130
    assert path.read_text() == "somebody else's"
    assert "no socket" in failed(place.net.zts("connect", "@pi:web", "--unix", str(path)), 2)
    assert path.read_text() == "somebody else's"
    long = path.with_name("x" * 200)
    assert "choose another path" in failed(place.net.zts("connect", "@pi:web", "--unix", str(long)), 2)


# --- a browser ---------------------------------------------------------------------------------------------------------------


@needs_chromium
def test_the_devices_own_page_in_a_browser(place: Place, tmp_path: Path) -> None:
    for host in ("127.0.0.1", "localhost"):
        with browsing(tmp_path / host, f"http://{host}:{place.http_door.line().partition(':')[2]}/"):
            said = json.loads(place.web.reports.get(timeout=WAIT_S))
        digests = {name: hashlib.sha256(body).hexdigest() for name, body in (("post", b"x" * 100_000), ("put", b"y"))}
        assert said == {"get": "the device's data", "ws": "echo", **digests}


@needs_chromium
def test_a_strangers_page_in_a_browser(place: Place, tmp_path: Path, counts: Any) -> None:
    ports = [door.line().partition(":")[2] for door in (place.http_door, place.raw_door)]
    # A name of its own that comes to mean 127.0.0.1 is DNS rebinding.
    doors = [f"{host}:{port}" for port in ports for host in ("127.0.0.1", "localhost", "evil.test")]
    errors = [len(door.err.splitlines()) for door in (place.http_door, place.raw_door)]
    with WebTarget({"/": EVIL_PAGE.replace("DOORS", json.dumps(doors))}) as evil:
        for host in ("127.0.0.1", "evil.test"):
            with browsing(tmp_path / host, f"http://{host}:{evil.port}/"):
                said = json.loads(evil.reports.get(timeout=WAIT_S))
            assert len(said) == WAYS * len(doors), said
            assert not [what for what in said if "READ" in what[2]], said
    assert counts() == (0, 0, 0)
    # And they did come: each was refused here, not held back by the browser.
    for door, before, mark in ((place.http_door, errors[0], "(403)"), (place.raw_door, errors[1], "looks like HTTP")):
        refused = [line for line in door.err.splitlines()[before:] if mark in line]
        assert len(refused) >= 2 * 3 * WAYS, door.err
    assert "for the host 'evil.test:" in place.http_door.err
