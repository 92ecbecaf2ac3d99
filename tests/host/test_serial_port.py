"""A serial port of the host, on a real pty: its settings read back, everybody else kept off, and unplugged. A pty has no lines and no
counters; for these alone the ioctl calls are answered here."""

import asyncio
import errno
import fcntl
import os
import struct
import sys
import termios
import time
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
import serial as pyserial

from cable import Cable
from served import Served, read_all, reset_code
from zts import line, wire
from zts.errors import FormatError
from zts_gateway import daemon, serial_port
from zts_gateway.ui import Exit, Failure

READY = wire.STATE_CTS | wire.STATE_DSR | wire.STATE_CD
CMSPAR = 0o10000000000


@pytest.fixture
def cable() -> Iterator[Cable]:
    with Cable() as cable:
        yield cable


def run(work: "Coroutine[Any, Any, None]") -> None:
    asyncio.run(asyncio.wait_for(work, 60))


def served(path: str, **more: Any) -> Served:
    kind, serve = daemon.KINDS["serial"]({"kind": "serial", "target": path, **more})
    assert kind == wire.SERVICE_SERIAL
    return Served(serve)


def is_free(path: str) -> bool:
    try:
        pyserial.Serial(path, exclusive=True).close()
    except OSError:
        return False
    return True


async def until(condition: Any) -> None:
    while not condition():
        await asyncio.sleep(0.001)


def test_bytes_go_both_ways(cable: Cable) -> None:
    async def go() -> None:
        async with served(cable.path) as client:
            stream = client.open("console")
            await stream.opened()
            sent = bytes(range(256)) * 100
            hearing = asyncio.create_task(cable.heard(len(sent)))
            for at in range(0, len(sent), 1000):
                await stream.send(line.data(sent[at : at + 1000]))
            assert await hearing == sent
            decoder = line.Decoder()
            got, states, left = b"", [], sent
            while len(got) < len(sent):
                if left:
                    left = left[os.write(cable.fd, left[:1000]) :]
                for kind, body in decoder.feed(await stream.read()):
                    if kind == wire.LINE_DATA:
                        got += body
                    else:
                        states.append((kind, body))
            assert got == sent and states == [(wire.LINE_STATE, bytes([READY]))]
            stream.finish()
            assert await read_all(stream) == b""

    run(go())


def test_settings_are_the_ports(cable: Cable) -> None:
    async def go() -> None:
        async with served(cable.path, baud=9600) as client:
            stream = client.open("console")
            await stream.opened()
            assert cable.rate() == 9600
            iflag, oflag, cflag, lflag = termios.tcgetattr(cable.fd)[:4]
            assert not iflag & (termios.ICRNL | termios.IXON | termios.ISTRIP) and not oflag & termios.OPOST
            assert not lflag & (termios.ICANON | termios.ECHO | termios.ISIG) and not cflag & (termios.CSTOPB | termios.CRTSCTS)
            # Of parity and data bits a pty keeps only which parity it would be.
            for baud, parity, stop, flags in (
                (57600, "O", 1, termios.PARODD),
                (250_000, "N", 2, termios.CSTOPB),
                (1_234_567, "M", 1, termios.PARODD | CMSPAR),
                (4_000_000, "S", 2, termios.CSTOPB | CMSPAR),
                (115_200, "E", 1, 0),
            ):
                await stream.send(line.settings(baud, 8, parity, stop) + line.data(b"x"))
                assert await cable.heard(1) == b"x"
                assert cable.rate() == baud
                assert termios.tcgetattr(cable.fd)[2] & (termios.CSTOPB | termios.PARODD | CMSPAR) == flags, (baud, parity)
            stream.finish()
            await read_all(stream)
            # The next client finds it as it is configured.
            stream = client.open("console")
            await stream.opened()
            assert cable.rate() == 9600 and not termios.tcgetattr(cable.fd)[2] & (termios.CSTOPB | termios.PARODD | CMSPAR)

    run(go())


def test_what_a_port_cannot_do_it_leaves(cable: Cable, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise ValueError("Failed to set custom baud rate (333)")

    async def go() -> None:
        async with served(cable.path) as client:
            stream = client.open("console")
            await stream.opened()
            monkeypatch.setattr(pyserial.Serial, "_set_special_baudrate", refuse)
            for said in (
                line.encode(wire.LINE_MODEM, b"\3\1"),
                line.encode(wire.LINE_BREAK, b"\0\1"),
                line.encode(wire.LINE_RESET, bytes([wire.RESET_RUN])),
                line.encode(wire.LINE_PURGE, b"\3"),
                line.settings(333, 8, "N", 2),
            ):
                await stream.send(said + line.data(b"on"))
                assert await cable.heard(2) == b"on"
            # All of the settings or none.
            assert cable.rate() == 115_200 and not termios.tcgetattr(cable.fd)[2] & termios.CSTOPB
            stream.finish()
            await read_all(stream)

    run(go())
    assert '"serial port refused settings"' in capsys.readouterr().err


def test_purged(cable: Cable) -> None:
    async def go() -> None:
        port = serial_port.SerialPort(cable.path, 115_200)
        try:
            for _ in range(20):
                # In one turn of the loop: what it was woken for is gone when it comes to read.
                reading = asyncio.create_task(port.read())
                await asyncio.sleep(0)
                os.write(cable.fd, b"stale")
                port.purge(wire.PURGE_RECEIVED)
                os.write(cable.fd, b"fresh")
                assert await reading == b"fresh"
                reading = asyncio.create_task(port.read())
                await asyncio.sleep(0)
                os.write(cable.fd, b"stale")
                asyncio.get_running_loop().call_soon(port.purge, wire.PURGE_RECEIVED)
                await asyncio.sleep(0.002)
                if not reading.done():
                    os.write(cable.fd, b"fresh")
                assert await reading in (b"stale", b"fresh")
        finally:
            port.close()

    run(go())


def test_a_port_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")

    async def go() -> None:
        for path in (tmp_path / "nothing", tmp_path, tmp_path / "file", "/dev/null"):
            async with served(str(path)) as client:
                assert await reset_code(client.open("console").opened()) == wire.TARGET_REFUSED

    run(go())
    assert capsys.readouterr().err.count('"serial port not opened"') == 4


def test_it_is_ours_alone_and_only_meanwhile(cable: Cable) -> None:
    async def go() -> None:
        async with served(cable.path) as client:
            assert is_free(cable.path)
            for _ in range(2):
                stream = client.open("console")
                await stream.opened()
                assert not is_free(cable.path)
                assert await reset_code(client.open("console").opened()) == wire.BUSY
                stream.finish()
                await read_all(stream)
                await until(lambda: is_free(cable.path))
            # Another agent, or a terminal program, has it: by a lock, or for itself.
            with pyserial.Serial(cable.path, exclusive=True):
                assert await reset_code(client.open("console").opened()) == wire.TARGET_REFUSED
            other = os.open(cable.path, os.O_RDWR | os.O_NOCTTY)
            fcntl.ioctl(other, termios.TIOCEXCL)
            assert await reset_code(client.open("console").opened()) == wire.TARGET_REFUSED
            fcntl.ioctl(other, termios.TIOCNXCL)
            os.close(other)
            stream = client.open("console")
            await stream.opened()
            stream.reset(wire.OK)
            await until(lambda: is_free(cable.path))

    run(go())


def test_unplugged(cable: Cable) -> None:
    async def go() -> None:
        async with served(cable.path) as client:
            stream = client.open("console")
            await stream.opened()
            os.write(cable.fd, b"last words")
            assert b"last words" in await stream.read() + await stream.read()
            cable.close()
            assert await reset_code(read_all(stream)) == wire.TARGET_RESET
            assert await reset_code(client.open("console").opened()) == wire.TARGET_REFUSED

    run(go())


def test_a_device_that_takes_nothing_holds_nobody(cable: Cable) -> None:
    async def go() -> None:
        async with served(cable.path) as client:
            stream = client.open("console")
            await stream.opened()
            sending = asyncio.create_task(reset_code(stream.send(line.data(bytes(1 << 20)))))
            size = -1
            while size != (size := stream.bytes_out):
                await asyncio.sleep(0.1)
            begun = time.monotonic()
            stream.reset(wire.OK)
            await sending
            await until(lambda: is_free(cable.path))
            assert time.monotonic() - begun < 5

    run(go())


class Lines:
    """Answers the ioctl calls that a pty does not know, as a UART with a FIFO does."""

    def __init__(self) -> None:
        self.bits = termios.TIOCM_DTR | termios.TIOCM_RTS | termios.TIOCM_CTS
        self.sets: list[int] = []
        self.counts = [0] * 20
        self.unsent = 0

    def ioctl(self, fd: int, request: int, argument: Any = 0, *more: Any) -> Any:
        if request == termios.TIOCMGET:
            return struct.pack("i", self.bits)
        if request == termios.TIOCMSET:
            (self.bits,) = struct.unpack("i", argument)
            self.sets.append(self.bits)
            return argument
        if request == termios.TIOCGICOUNT:
            return struct.pack("20i", *self.counts)
        if request == termios.TIOCOUTQ:
            return struct.pack("i", self.unsent)
        return fcntl.ioctl(fd, request, argument, *more)


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Lines:
    lines = Lines()

    class Module:
        ioctl = staticmethod(lines.ioctl)

    monkeypatch.setattr(serial_port, "fcntl", Module)
    return lines


def test_lines_and_losses(cable: Cable, lines: Lines) -> None:
    async def go() -> None:
        lines.counts[7] = 3  # before our time
        port = serial_port.SerialPort(cable.path, 115_200)
        try:
            assert not lines.sets and port.state() == wire.STATE_CTS
            for theirs, ours in (
                (termios.TIOCM_DSR, wire.STATE_DSR),
                (termios.TIOCM_CD, wire.STATE_CD),
                (termios.TIOCM_RI, wire.STATE_RI),
                (0, 0),
            ):
                lines.bits = theirs | termios.TIOCM_RTS
                assert port.state() == ours
            for counter in (7, 10):
                lines.counts[counter] += 1
                assert port.state() == wire.STATE_LOST and port.state() == 0
            lines.counts[6] += 1  # a framing error is no loss
            assert port.state() == 0
            # In one call: a chip must not see the one line without the other.
            lines.bits = termios.TIOCM_RTS | termios.TIOCM_CTS
            port.modem(wire.MODEM_DTR | wire.MODEM_RTS, wire.MODEM_DTR)
            port.modem(wire.MODEM_RTS, wire.MODEM_RTS | wire.MODEM_DTR)
            port.modem(wire.MODEM_DTR, 0)
            with_cts = [termios.TIOCM_DTR, termios.TIOCM_DTR | termios.TIOCM_RTS, termios.TIOCM_RTS]
            assert lines.sets == [bits | termios.TIOCM_CTS for bits in with_cts]
        finally:
            port.close()

    run(go())


def test_a_uart_is_waited_for_without_holding_the_agent(cable: Cable, lines: Lines) -> None:
    async def go() -> None:
        port = serial_port.SerialPort(cable.path, 9600)
        try:
            port.set(9600, 8, "N", 2)  # 11 bits a byte
            begun = time.monotonic()
            await port.write(bytes(100))
            turns = 0
            drained = asyncio.create_task(port.drain())
            while not drained.done():
                await asyncio.sleep(0.001)
                turns += 1
            assert time.monotonic() - begun >= 100 * 11 / 9600 and turns > 20
            # Nothing more to wait for, but that the system says so.
            lines.unsent = 1
            drained = asyncio.create_task(port.drain())
            await asyncio.sleep(0.05)
            assert not drained.done()
            lines.unsent = 0
            await drained
            # What is thrown away is not waited for.
            await port.write(bytes(4000))
            port.purge(wire.PURGE_UNSENT)
            begun = time.monotonic()
            await port.drain()
            assert time.monotonic() - begun < 2
        finally:
            port.close()

    run(go())


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ({}, "target"),
        ({"target": 5}, "target"),
        ({"target": "ttyUSB0"}, "/dev/ttyUSB0"),
        ({"target": "socket://h:1"}, "/dev/ttyUSB0"),
        ({"target": "/dev/x", "baud": "9600"}, "from 50 to 4000000"),
        ({"target": "/dev/x", "baud": True}, "from 50 to 4000000"),
        ({"target": "/dev/x", "baud": 9600.0}, "from 50 to 4000000"),
        ({"target": "/dev/x", "baud": 49}, "from 50 to 4000000"),
        ({"target": "/dev/x", "baud": 4_000_001}, "from 50 to 4000000"),
        ({"target": "/dev/x", "parity": "N"}, "no 'parity'"),
    ],
)
def test_a_wrong_entry_says_what_is_wrong(entry: dict[str, Any], says: str) -> None:
    with pytest.raises(FormatError, match=says):
        daemon.KINDS["serial"]({"kind": "serial", **entry})


def test_without_pyserial(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "serial", None)
    with pytest.raises(Failure, match=r"pip install 'zts\[serial\]'") as failure:
        daemon.KINDS["serial"]({"kind": "serial", "target": "/dev/ttyUSB0"})
    assert failure.value.code == Exit.USAGE


def test_the_errors_are_those_of_a_port() -> None:
    async def go() -> None:
        with pytest.raises(OSError) as failure:
            serial_port.SerialPort("/dev/nothing", 9600)
        assert failure.value.errno == errno.ENOENT

    run(go())
