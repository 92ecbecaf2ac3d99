"""A serial line of a gateway as programs and people on the laptop meet it: --rfc2217, --pty, a console, and plain bytes."""

import contextlib
import fcntl
import json
import os
import pty
import random
import select
import signal
import socket
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import serial

from chaos_proxy import ChaosProxy
from chromium import CHROMIUM, browsing
from fuzz import rfc2217 as fuzzed
from fuzz.feed import mutate
from relay_process import RelayProcess
from serial_cable import Cable
from web_target import WebTarget
from whole_network import WAIT_S, LinuxDevice, Network, Running, environment, failed, until
from zts import identity

NOBODY = 65534
QUIT = b"\x1d"

pytestmark = pytest.mark.filterwarnings("ignore:setDaemon:DeprecationWarning", "ignore:setName:DeprecationWarning")  # of pyserial


class Place(NamedTuple):
    net: Network
    gw: LinuxDevice
    cable: Cable  # at @gw:console
    door: Running  # --rfc2217 to it
    way: ChaosProxy  # between relay and all others


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with contextlib.ExitStack() as stack:
        cable = stack.enter_context(Cable(bytes.upper))
        folder = tmp_path_factory.mktemp("serial")
        relay = stack.enter_context(RelayProcess(folder / "relay"))
        way = stack.enter_context(ChaosProxy(identity.join_address(*relay.leg), 0))
        net = Network(folder, relay, "embedded", way.address)
        services = {"console": ("serial", cable.path), "page": ("http", "zts_agent.page:page")}
        gw = stack.enter_context(net.linux_device("gw", services))
        door = stack.enter_context(net.run("door", "connect", "@gw:console", "--rfc2217"))
        door.line()
        yield Place(net, gw, cable, door, way)


def opened(door: Running, **settings: Any) -> Any:
    return serial.serial_for_url(f"rfc2217://{door.line()}", timeout=WAIT_S, **settings)


# --- --rfc2217 ---------------------------------------------------------------------------------------------------------------


def test_it_says_its_address_alone_and_what_to_type(place: Place) -> None:
    address = place.door.line()
    assert place.door.out == address + "\n"
    assert identity.split_address(address)[0] == "127.0.0.1"
    place.door.said("flash-id")
    assert f"\n  mpremote connect rfc2217://{address}\n" in place.door.err
    (line,) = [line for line in place.door.err.splitlines() if "esptool" in line]
    setting, *command = line.split()
    assert command == ["esptool", "--port", f"rfc2217://{address}", "flash-id"]
    name, _, value = setting.partition("=")
    assert name == "ESPTOOL_CFGFILE" and "[esptool]" in Path(value).read_text()


def test_pyserial_through_all_of_it(place: Place) -> None:
    data = os.urandom(40_000)
    with opened(place.door, baudrate=9600, stopbits=2) as port:
        port.write(b"x")
        assert port.read(1) == b"X"
        assert place.cable.settings() == (9600, 2)
        port.apply_settings({"baudrate": 230_400, "stopbits": 1})
        port.write(data)
        assert port.read(len(data)) == data.upper()
        assert place.cable.settings() == (230_400, 1)
        assert port.cts and port.dsr and port.cd and not port.ri  # a pty has no such lines: it is always ready


def test_one_at_a_time(place: Place) -> None:
    with opened(place.door) as first, socket.create_connection(identity.split_address(place.door.line())) as second:
        second.settimeout(WAIT_S)
        with pytest.raises(ConnectionResetError):
            while second.recv(1000):
                pass
        place.door.said("no free place")
        first.write(b"still")
        assert first.read(5) == b"STILL"
    for count in range(5):  # and the next one at once
        with opened(place.door) as port:
            port.write(b"n%d" % count)
            assert port.read(2) == b"N%d" % count


def test_junk_over_the_whole_way(place: Place) -> None:
    rng = random.Random(3)
    for _ in range(5):
        with socket.create_connection(identity.split_address(place.door.line())) as sock:
            sock.settimeout(WAIT_S)
            with contextlib.suppress(OSError):  # it may be refused, as what begins like HTTP is
                for _ in range(100):
                    sock.sendall(mutate(rng, fuzzed.SEEDS))
                    while select.select([sock], [], [], 0)[0] and sock.recv(1 << 16):
                        pass
    with opened(place.door) as port:
        port.reset_input_buffer()
        port.write(b"sane")
        assert port.read(4) == b"SANE"
    assert "Traceback" not in place.door.err + place.gw.running.err and place.door.process.poll() is None


@pytest.mark.skipif(os.geteuid() != 0 or not os.path.exists("/usr/bin/python3"), reason="only root can become another user")
def test_another_user(place: Place) -> None:
    heard = place.cable.heard
    host, port = identity.split_address(place.door.line())
    program = f"import socket; s = socket.create_connection(({host!r}, {port})); s.sendall(b'evil'); print(s.recv(99))"
    done = subprocess.run(["/usr/bin/python3", "-c", program], user=NOBODY, group=NOBODY, extra_groups=[], cwd="/", capture_output=True)
    assert done.returncode and b"ConnectionResetError" in done.stderr, done
    place.door.said(f"another user, uid {NOBODY}")
    assert place.cable.heard == heard


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed (Debian: chromium)")
def test_a_page_in_a_browser(place: Place, tmp_path: Path) -> None:
    heard, before = place.cable.heard, place.door.err.count("looks like HTTP")
    page = """<!doctype html><script>(async () => {
      const u = "http://ADDRESS/", f = (...w) => fetch(...w).then(r => r.text(), e => "error");
      const ws = new Promise(d => { const s = new WebSocket("ws://ADDRESS/"); s.onopen = () => d("READ"); s.onerror = () => d("error"); });
      const said = [await f(u), await f(u, {mode: "no-cors", method: "POST", body: "\\x03\\x01"}), await f(u, {method: "PUT"}), await ws];
      await fetch("/report", {method: "POST", body: JSON.stringify(said)});
    })();</script>""".replace("ADDRESS", place.door.line())
    with WebTarget({"/": page}) as evil, browsing(tmp_path / "profile", f"http://127.0.0.1:{evil.port}/"):
        assert json.loads(evil.reports.get(timeout=WAIT_S)) == ["error"] * 4
    assert place.cable.heard == heard and place.door.err.count("looks like HTTP") >= before + 4


def test_only_for_serial_lines(place: Place, tmp_path: Path) -> None:
    assert "is no serial line" in failed(place.net.zts("connect", "@gw:page", "--rfc2217"), 2)
    assert "is no serial line" in failed(place.net.zts("connect", "@gw:page", "--pty", str(tmp_path / "tty")), 2)
    assert not os.path.lexists(tmp_path / "tty")


def test_a_lost_session_is_made_anew(place: Place) -> None:
    with opened(place.door) as port:
        port.write(b"a")
        assert port.read(1) == b"A"
        place.way.cut()
        with contextlib.suppress(serial.SerialException):  # as it finds out
            assert port.read(1) == b""
        place.door.said("connection was lost")
        port._socket.close()  # which pyserial leaves open then
    with opened(place.door) as port:
        port.write(b"b")
        assert port.read(1) == b"B"


# --- plain bytes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [["--stdio"], []])
def test_stdio(place: Place, options: list[str]) -> None:
    command = [sys.executable, "-m", "zts_gateway.cli", "connect", "@gw:console", *options]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, **pipes, env=environment(place.net.home)) as connect:  # type: ignore[call-overload]
        connect.stdin.write(b"plain \xff bytes")
        connect.stdin.flush()
        assert connect.stdout.read(13) == b"PLAIN \xff BYTES"
        connect.stdin.close()
        assert connect.stdout.read() == b""
        assert connect.wait(WAIT_S) == 0, connect.stderr.read()


def test_doors_for_plain_bytes(place: Place, tmp_path: Path) -> None:
    path = tmp_path / "s"
    with (
        place.net.run("plain-door", "connect", "@gw:console", "-L") as door,
        serial.serial_for_url(f"socket://{door.line()}", timeout=WAIT_S) as port,
    ):
        port.write(b"\xff\xf3tcp")
        assert port.read(5) == b"\xff\xf3TCP"
    with place.net.run("unix-door", "connect", "@gw:console", "--unix", str(path)) as door:
        door.line()
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(path))
            sock.sendall(b"unix")
            assert sock.recv(4, socket.MSG_WAITALL) == b"UNIX"


# --- --pty -------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def file(place: Place, tmp_path: Path) -> Iterator[tuple[Running, Path]]:
    path = tmp_path / "tty"
    with place.net.run(f"pty-{tmp_path.name}", "connect", "@gw:console", "--pty", str(path)) as running:
        assert running.line() == str(path)
        yield running, path


def test_a_device_file(place: Place, file: tuple[Running, Path]) -> None:
    running, path = file
    assert running.out == f"{path}\n"
    assert os.stat(path).st_mode & 0o777 == 0o600
    data = os.urandom(20_000)
    for baud, stop_bits in ((9600, 1), (115_200, 2), (250_000, 1)):
        with serial.Serial(str(path), baud, stopbits=stop_bits, timeout=WAIT_S) as port:
            port.write(b"x")
            assert port.read(1) == b"X"
            assert place.cable.settings() == (baud, stop_bits)
            port.baudrate = 57_600  # followed while it is open
            until(lambda: place.cable.settings()[0] == 57_600, "the new speed")
            port.write(data)
            assert port.read(len(data)) == data.upper()
    assert running.interrupt() == 130
    assert not os.path.lexists(path)


def test_a_program_that_sets_nothing_leaves_the_line_as_it_is(place: Place, file: tuple[Running, Path]) -> None:
    fd = os.open(file[1], os.O_RDWR | os.O_NOCTTY)
    try:
        os.write(fd, b"bare\n")
        got = b""
        while len(got) < 5:
            got += os.read(fd, 99)
        assert got == b"BARE\n"  # with no echo, and each byte as it was
        assert place.cable.settings() == (115_200, 1)
    finally:
        os.close(fd)


def test_one_that_only_writes(place: Place, file: tuple[Running, Path]) -> None:
    before = len(place.cable.heard)
    with open(file[1], "wb", 0) as writing:
        writing.write(b"only this")
    until(lambda: place.cable.heard[before:] == b"only this", "what it wrote")


def test_the_line_is_free_while_nobody_has_the_file_open(place: Place, file: tuple[Running, Path]) -> None:
    """And what the last one did not read is not there for the next."""
    for said in (b"a", b"b"):
        fd = os.open(file[1], os.O_RDWR | os.O_NOCTTY)
        try:
            os.write(fd, said)
            assert os.read(fd, 1) == said.upper()
            os.write(fd, b"unread")
            until(lambda fd=fd: select.select([fd], [], [], 0)[0], "the answer")
        finally:
            os.close(fd)
        with opened(place.door) as port:
            port.write(b"c")
            assert port.read(1) == b"C"


def test_a_lost_line_hangs_up(place: Place, file: tuple[Running, Path]) -> None:
    running, path = file
    with serial.Serial(str(path), timeout=WAIT_S) as port:
        port.write(b"a")
        assert port.read(1) == b"A"
        place.way.cut()
        with pytest.raises(serial.SerialException):
            port.read(1)
        running.said("connection was lost")
    with serial.Serial(str(path), timeout=WAIT_S) as port:
        port.write(b"b")
        assert port.read(1) == b"B"


def test_only_a_link_left_behind_is_replaced(place: Place, file: tuple[Running, Path], tmp_path: Path) -> None:
    running, path = file
    assert "serves" in failed(place.net.zts("connect", "@gw:console", "--pty", str(path)), 2)
    number = os.readlink(path)
    running.kill()
    assert os.path.islink(path)
    # Its number is given to the next terminal that is opened, which is another's.
    others = []
    while not os.path.exists(number):
        others.append(os.openpty())
        assert len(others) < 100
    with place.net.run(f"again-{tmp_path.name}", "connect", "@gw:console", "--pty", str(path)) as again:
        assert again.line() == str(path)
        path.unlink()
        path.write_text("somebody else's")
        assert again.interrupt() == 130
    for fds in others:
        os.close(fds[0])
        os.close(fds[1])
    assert path.read_text() == "somebody else's"
    assert "no link to a terminal" in failed(place.net.zts("connect", "@gw:console", "--pty", str(path)), 2)
    for target in ("/dev/null", str(tmp_path / "nothing")):
        path.unlink()
        path.symlink_to(target)
        failed(place.net.zts("connect", "@gw:console", "--pty", str(path)), 2)
        assert os.readlink(path) == target
    failed(place.net.zts("connect", "@gw:console", "--pty", str(tmp_path / "no" / "folder")), 2)


# --- a console ---------------------------------------------------------------------------------------------------------------


class Terminal:
    """`zts connect` at a terminal of its own."""

    def __init__(self, place: Place, *arguments: str) -> None:
        self.shown = b""
        self._master, self._slave = pty.openpty()
        self.before = termios.tcgetattr(self._slave)
        command = [sys.executable, "-m", "zts_gateway.cli", "connect", *arguments]
        self.process = subprocess.Popen(
            command,
            stdin=self._slave,
            stdout=self._slave,
            stderr=self._slave,
            env=environment(place.net.home),
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._master)
        os.close(self._slave)

    def type(self, keys: bytes) -> None:
        os.write(self._master, keys)

    def shows(self, text: bytes) -> None:
        end = time.monotonic() + WAIT_S
        while text not in self.shown:
            assert time.monotonic() < end, self.shown
            if select.select([self._master], [], [], 0.1)[0]:
                self.shown += os.read(self._master, 1 << 16)

    def is_raw(self) -> bool:
        return not termios.tcgetattr(self._slave)[3] & termios.ICANON

    def ended(self) -> int:
        code = self.process.wait(WAIT_S)
        assert termios.tcgetattr(self._slave) == self.before
        return code


def test_a_console(place: Place) -> None:
    with Terminal(place, "@gw:console") as terminal:
        terminal.shows(b"Ctrl-] quits")
        until(terminal.is_raw, "each key is passed on")
        terminal.type(b"hello\r")
        terminal.shows(b"HELLO\r")
        assert b"hello" not in terminal.shown  # no echo of our own
        heard = len(place.cable.heard)
        terminal.type(b"\x03\x04\x1a")  # these are the board's business
        until(lambda: place.cable.heard[heard:] == b"\x03\x04\x1a", "control keys")
        terminal.type(b"bye" + QUIT + b"not sent")
        assert terminal.ended() == 0
        terminal.shows(b"left @gw:console")
    assert place.cable.heard[heard:] in (b"\x03\x04\x1abye", b"\x03\x04\x1a")


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_console_leaves_the_terminal_as_it_was(place: Place, how: int) -> None:
    with Terminal(place, "@gw:console") as terminal:
        until(terminal.is_raw, "each key is passed on")
        terminal.process.send_signal(how)
        assert terminal.ended() == 128 + how


def test_a_console_on_a_dead_link(place: Place) -> None:
    """Nothing can be sent, and nobody has noticed yet: Ctrl-] quits. Then the same, and it is noticed."""
    with Terminal(place, "@gw:console") as terminal:
        until(terminal.is_raw, "each key is passed on")
        place.gw.running.process.send_signal(signal.SIGSTOP)
        try:
            terminal.type(b"x" * 1000)
            terminal.type(QUIT)
            assert terminal.ended() == 0
        finally:
            place.gw.running.process.send_signal(signal.SIGCONT)
    with Terminal(place, "@gw:console") as terminal:
        until(terminal.is_raw, "each key is passed on")
        place.way.cut()
        terminal.shows(b"zts: 9: @gw: the connection was lost before its end")
        assert terminal.ended() == 9
