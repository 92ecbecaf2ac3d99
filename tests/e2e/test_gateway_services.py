"""What a `zts agent` on Linux serves beside TCP: a serial port, and a web server that insists on its own name."""

import asyncio
import contextlib
import http.server
import json
import os
import shutil
import socketserver
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from agent_lab import Device, Owner, read_all, reset_code, until
from cable import Cable
from whole_network import WAIT_S, LinuxDevice, Network, Running, failed, network, zts
from zts import line, wire

CURL = shutil.which("curl")


class Strict(http.server.BaseHTTPRequestHandler):
    """As many a small web server: it answers to its own name only, takes forms from its own pages only, and redirects to itself."""

    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def handle_one_request(self) -> None:
        with contextlib.suppress(OSError):  # a client may break off
            super().handle_one_request()

    def do_GET(self) -> None:
        name = address_of(self.server)
        said = {key: self.headers.get(key) for key in ("Host", "Origin", "Referer")}
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        moved = None
        if self.headers.get_all("Host") != [name]:
            status = 421
        elif self.command == "POST" and said["Origin"] != f"http://{name}":
            status = 403
        else:
            moved = f"http://{name}/page" if self.path == "/" else None
            status = 302 if moved else 200
        answer = json.dumps({**said, "path": self.path, "body": body.decode()}).encode()
        self.send_response(status)
        if moved:
            self.send_header("Location", moved)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_POST = do_GET


def address_of(server: socketserver.BaseServer) -> str:
    return f"127.0.0.1:{server.server_address[1]}"  # type: ignore[index, str-bytes-safe]


class Place(NamedTuple):
    net: Network
    cable: Cable
    owner: Owner
    gateway: Device
    door: Running
    web: str


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("gateway")
    with contextlib.ExitStack() as stack:
        web = stack.enter_context(http.server.ThreadingHTTPServer(("127.0.0.1", 0), Strict))
        serving = threading.Thread(target=web.serve_forever, args=(0.02,))
        serving.start()
        stack.callback(serving.join)
        stack.callback(web.shutdown)
        net = stack.enter_context(network(folder / "net", "embedded"))
        cable = stack.enter_context(Cable())
        owner, gateway = asyncio.run(invite(net))
        services: dict[str, dict[str, Any]] = {
            "console": {"kind": "serial", "target": cable.path, "baud": 9600},
            "unplugged": {"kind": "serial", "target": str(folder / "ttyUSB0")},
        }
        device = LinuxDevice(folder / "gw", services)
        device.start("--join", "--code-file", "-", stdin=gateway.line + "\n")
        stack.callback(device.kill)
        asyncio.run(owner.meet(gateway))
        address = address_of(web)
        stack.enter_context(net.linux_device("pi", {"web": ("http", address)}))
        door = stack.enter_context(net.run("door", "connect", "@pi:web", "-L"))
        door.line()
        yield Place(net, cable, owner, gateway, door, address)


async def invite(net: Network) -> tuple[Owner, Device]:
    owner = await Owner.join(net.relay.new_code(), "bob")
    return owner, await owner.invite("gw")


def curl(*arguments: str) -> str:
    if CURL is None:
        pytest.skip("curl is not installed (Debian: curl)")
    done = subprocess.run([CURL, "-sS", "--max-time", str(int(WAIT_S)), *arguments], capture_output=True, text=True, timeout=WAIT_S)
    assert done.returncode == 0, done.stderr
    return done.stdout


# --- serial ------------------------------------------------------------------------------------------------------------------


def test_a_serial_port(place: Place) -> None:
    async def go() -> None:
        async with place.owner.session(place.gateway) as session, place.owner.session(place.gateway) as other:
            assert session.services == [(wire.SERVICE_SERIAL, "console"), (wire.SERVICE_SERIAL, "unplugged")]
            for _ in range(2):
                stream = session.open("console")
                await stream.opened()
                assert place.cable.rate() == 9600
                assert await reset_code(other.open("console")) == wire.BUSY
                sent = os.urandom(50_000)
                hearing = asyncio.create_task(place.cable.heard(len(sent)))
                await stream.send(line.data(sent))
                assert await hearing == sent
                await stream.send(line.settings(115_200, 8, "N", 2) + line.data(b"!"))
                assert await place.cable.heard(1) == b"!" and place.cable.rate() == 115_200
                os.write(place.cable.fd, b"answer")
                decoder, heard = line.Decoder(), b""
                while len(heard) < 6:
                    heard += b"".join(body for kind, body in decoder.feed(await stream.read()) if kind == wire.LINE_DATA)
                assert heard == b"answer"
                stream.finish()
                assert await read_all(stream) == b""
            # Who goes away without a word leaves the port to the next one.
            async with place.owner.session(place.gateway) as brief:
                await brief.open("console").opened()
            stream = session.open("console")
            await stream.opened()

    asyncio.run(go())


def test_a_port_that_is_not_there(place: Place) -> None:
    async def go() -> None:
        async with place.owner.session(place.gateway) as session:
            assert await reset_code(session.open("unplugged")) == wire.TARGET_REFUSED

    asyncio.run(go())


def test_unplugged(place: Place) -> None:
    """Last: the cable is gone then."""

    async def go() -> None:
        async with place.owner.session(place.gateway) as session:
            stream = session.open("console")
            await stream.opened()
            place.cable.close()
            assert await reset_code(stream) == wire.TARGET_RESET
            assert await reset_code(session.open("console")) == wire.TARGET_REFUSED
            await until(lambda: not session.session.streams())

    asyncio.run(go())


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ({"kind": "serial", "target": "/dev/ttyUSB0", "baud": "fast"}, "services.console: baud is a number"),
        ({"kind": "serial"}, "services.console: needs a target"),
        ({"kind": "cereal", "target": "/dev/ttyUSB0"}, "services.console: the kind is one of handler, http, serial, tcp"),
    ],
)
def test_a_wrong_configuration_says_what_is_wrong(tmp_path: Path, entry: dict[str, str], says: str) -> None:
    device = LinuxDevice(tmp_path / "device", {"console": entry})
    assert says in failed(zts(tmp_path / "home", "agent", "--config", str(device.config)), 2)


# --- http --------------------------------------------------------------------------------------------------------------------


def test_a_web_server_is_called_by_its_own_name(place: Place) -> None:
    url = f"http://{place.door.line()}"
    said = json.loads(curl("-e", f"{url}/from", f"{url}/page"))
    assert said["Host"] == place.web and said["Referer"] == f"http://{place.web}/from"
    # Its own page's form, over one connection with what was before.
    out = curl(
        "-w", " %{num_connects}\n", f"{url}/page", "--next", "-w", " %{num_connects}", "-H", f"Origin: {url}", "-d", "a=b", f"{url}/form"
    )
    first, second = [row.rpartition(" ") for row in out.splitlines()]
    assert (first[2], second[2]) == ("1", "0")
    said = json.loads(second[0])
    assert said["Origin"] == f"http://{place.web}" and said["body"] == "a=b"


def test_its_redirects_lead_back_through_the_tunnel(place: Place) -> None:
    url = f"http://{place.door.line()}"
    for named in (url, url.replace("127.0.0.1", "localhost")):
        out = curl("-L", "-w", " %{num_redirects} %{url_effective}", named)
        body, redirects, effective = out.rsplit(" ", 2)
        assert json.loads(body)["path"] == "/page" and (redirects, effective) == ("1", f"{named}/page")


def test_what_is_no_http_is_told_so(place: Place) -> None:
    for said in ("SSH-2.0-OpenSSH_9.7\r\n", "GET http://192.168.1.1/ HTTP/1.1\r\nHost: 192.168.1.1\r\n\r\n"):
        done = place.net.zts("connect", "@pi:web", "--stdio", stdin=said)
        assert done.stdout.startswith("HTTP/1.1 400 Bad Request\n"), (done.stdout, done.stderr)
        assert "zts: this is " in done.stdout and done.returncode == 0, done.stderr
