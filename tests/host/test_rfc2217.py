"""The telnet server on the laptop: what pyserial's client asks of it, and what no client would."""

import asyncio
import random
import socket
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import serial

from fuzz import rfc2217 as target
from fuzz.feed import mutate
from line_peer import LinePeer
from zts import identity, line, wire
from zts_gateway import line_forms, rfc2217
from zts_gateway.rfc2217 import Break, Data, Modem, Purge, Settings

WAIT_S = 60.0
MALFORMED = 100_000

# Of pyserial.
pytestmark = pytest.mark.filterwarnings("ignore:setDaemon:DeprecationWarning", "ignore:setName:DeprecationWarning")


def sub(*what: int) -> bytes:
    return b"\xff\xfa\x2c" + bytes(what).replace(b"\xff", b"\xff\xff") + b"\xff\xf0"


def talk(*said: bytes) -> tuple[list[rfc2217.Event], bytes]:
    """What a server that has greeted does and says."""
    server = rfc2217.Server()
    server.output()
    return [event for one in said for event in server.receive(one)], server.output()


def until(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


# --- byte by byte ------------------------------------------------------------------------------------------------------------


def test_data_passes_in_both_directions_whatever_is_in_it() -> None:
    every = bytes(range(256))
    assert talk(every.replace(b"\xff", b"\xff\xff")) == ([Data(every)], b"")
    server = rfc2217.Server()
    server.output()
    server.send(every)
    assert server.output() == every.replace(b"\xff", b"\xff\xff")


@pytest.mark.parametrize(
    ("said", "events", "answer"),
    [
        (sub(1, 0, 0, 0x25, 0x80), [Settings(9600, 8, "N", 1)], sub(101, 0, 0, 0x25, 0x80)),
        (sub(1, 0, 0, 0, 0), [], sub(101, 0, 1, 0xC2, 0)),
        (sub(1, 0, 0, 0, 49), [], sub(101, 0, 1, 0xC2, 0)),
        (sub(1, 0xFF, 0xFF, 0xFF, 0xFF), [], sub(101, 0, 1, 0xC2, 0)),
        (sub(1, 0, 0, 0xFF, 0xFF), [Settings(65535, 8, "N", 1)], sub(101, 0, 0, 0xFF, 0xFF)),
        (sub(2, 7), [Settings(115200, 7, "N", 1)], sub(102, 7)),
        (sub(2, 9), [], sub(102, 8)),
        (sub(3, 3), [Settings(115200, 8, "E", 1)], sub(103, 3)),
        (sub(3, 0), [], sub(103, 1)),
        (sub(4, 2), [Settings(115200, 8, "N", 2)], sub(104, 2)),
        (sub(4, 3), [], sub(104, 1)),  # one and a half: no
        (sub(5, 1), [], sub(105, 1)),
        (sub(5, 3), [], sub(105, 1)),  # there is no flow control by lines
        (sub(5, 15), [], sub(105, 14)),
        (sub(5, 8), [Modem(wire.MODEM_DTR, wire.MODEM_DTR)], sub(105, 8)),
        (sub(5, 12) + sub(5, 10), [Modem(wire.MODEM_RTS, 0)], sub(105, 12) + sub(105, 12)),
        (sub(5, 5) + sub(5, 4) + sub(5, 6), [Break(True), Break(False)], sub(105, 5) + sub(105, 5) + sub(105, 6)),
        (sub(5, 99), [], b""),
        (sub(12, 3), [Purge(wire.PURGE_RECEIVED | wire.PURGE_UNSENT)], sub(112, 3)),
        (sub(12, 4), [], b""),
        (sub(10, 0xFF), [], sub(110, 0xFF)),
        (sub(7), [], sub(107, 0)),
        (sub(0), [], sub(100, *b"zts")),
        (b"\xff\xf3", [Break(True), Break(False)], b""),
        (b"\xff\xfd\x05\xff\xfb\x05\xff\xfe\x05\xff\xfc\x05", [], b"\xff\xfc\x05\xff\xfe\x05"),  # an option nobody knows
        (b"\xff\xfb\x00\xff\xfd\x00" * 3, [], b""),  # as we asked for
        (b"\xff\xfb\x01" * 2, [], b"\xff\xfe\x01" * 2),  # the client shall not echo
        (b"\xff\xfb\x2c" * 3, [], b"\xff\xfd\x2c" + sub(107, 0)),
        (b"\xff\xfd\x2c\xff\xfe\x2c\xff\xfe\x2c", [], b"\xff\xfb\x2c\xff\xfc\x2c"),
        # no suboptions: without an end, too long, with too much or too little in them, of another option, none, and an end alone
        (b"\xff\xfa\x2c\x02\x07\xff\xfd\x05a", [Data(b"a")], b"\xff\xfc\x05"),
        (b"\xff\xfa\x2c\x02" + b"\x07" * 9999 + b"\xff\xf0a", [Data(b"a")], b""),
        (sub(2, 7, 7) + sub(2) + sub(1, 1) + sub() + sub(13) + sub(200, 1) + b"\xff\xfa\x18\x02\xff\xf0" + b"\xff\xf0", [], b""),
        (b"\xff\xfa" * 5 + b"\x2c\x02\x07\xff\xf0", [Settings(115200, 7, "N", 1)], sub(102, 7)),
    ],
)
def test_what_it_does_and_says(said: bytes, events: list[rfc2217.Event], answer: bytes) -> None:
    assert talk(said) == (events, answer)
    assert talk(*[said[at : at + 1] for at in range(len(said))]) == (events, answer)


def test_lines_are_told_as_the_client_wants_them() -> None:
    server = rfc2217.Server()
    server.tell_state(wire.STATE_DSR)
    server.output()
    server.receive(b"\xff\xfb\x2c")
    assert server.output().endswith(sub(107, 0x20))
    server.tell_state(wire.STATE_DSR)
    assert server.output() == b""
    server.tell_state(wire.STATE_CTS | wire.STATE_LOST)
    assert server.output() == sub(107, 0x13)
    server.receive(sub(11, wire.STATE_CD) + sub(10, 0xFF))
    server.output()
    server.tell_state(wire.STATE_DSR | wire.STATE_LOST)
    assert server.output() == sub(106, 2)
    server.tell_state(wire.STATE_CD)
    assert server.output() == sub(107, 0x80)


def test_suspended() -> None:
    server = rfc2217.Server()
    server.receive(sub(8))
    assert server.is_suspended
    server.receive(sub(9))
    assert not server.is_suspended


def size_of(server: rfc2217.Server) -> int:
    """Bytes of all that it holds."""
    return sum(sys.getsizeof(held) for held in vars(server).values())


def test_a_hundred_thousand_malformed_sequences() -> None:
    """One client says them all. The server goes on, holds nothing back, and then serves as before."""
    rng = random.Random(2217)
    server = rfc2217.Server()
    server.output()
    most = size_of(server) + 500
    for _ in range(MALFORMED):
        piece = mutate(rng, target.SEEDS)
        events = server.receive(piece)
        assert sum(len(event.data) for event in events if isinstance(event, Data)) <= len(piece)
        for event in events:
            assert not isinstance(event, Settings) or line.read_settings(line.settings(*event)[3:]) == event
        assert len(server.output()) <= 4 * len(piece) + 32
        assert size_of(server) < most
    server.receive(b"\xff\xf0" + sub(9))
    server.output()
    assert server.receive(b"still here" + sub(2, 6))[0] == Data(b"still here")
    assert server.output() == sub(102, 6)


def test_a_suboption_without_end_takes_no_memory() -> None:
    server = rfc2217.Server()
    most = size_of(server) + 500
    server.receive(b"\xff\xfa")
    for _ in range(100):
        assert server.receive(bytes(1 << 16) + b"\xff\xff") == []
        assert size_of(server) < most
    assert server.receive(b"\xff\xf0a") == [Data(b"a")]


def test_a_suspended_client_holds_the_line_back() -> None:
    class Wire:
        said = b""

        def write(self, data: bytes) -> None:
            self.said += data

        async def drain(self) -> None:
            pass

        async def finish(self) -> None:
            pass

    async def check() -> None:
        source, sink = asyncio.StreamReader(), Wire()
        form = line_forms.Rfc2217(source, sink)
        reading = asyncio.ensure_future(form.read(1000))
        source.feed_data(sub(8) + b"a")
        assert await reading == line.data(b"a")
        form.write(line.data(b"b"))
        draining = asyncio.ensure_future(form.drain())  # what a stream waits for before it takes more
        reading = asyncio.ensure_future(form.read(1000))
        await asyncio.sleep(0.05)
        assert not draining.done()
        source.feed_data(sub(9) + b"c")
        assert await reading == line.data(b"c")
        await draining
        assert sink.said.endswith(b"b")
        # One that suspends and goes away holds nobody up.
        source.feed_data(sub(8))
        source.feed_eof()
        form.write(line.data(b"d"))
        while await form.read(1000):
            pass
        await asyncio.wait_for(form.drain(), 5)

    asyncio.run(check())


# --- pyserial ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def peer() -> Iterator[LinePeer]:
    with LinePeer(line_forms.Rfc2217, lambda data: data.upper()) as peer:
        yield peer
        assert peer.errors == []


@pytest.fixture
def port(peer: LinePeer) -> Iterator[Any]:
    with serial.serial_for_url(f"rfc2217://{peer.address}", baudrate=9600, timeout=WAIT_S) as port:
        yield port


def test_pyserial_opens(peer: LinePeer, port: Any) -> None:
    assert peer.told == [
        ("LINE_SETTINGS", line.settings(9600, 8, "N", 1)[3:]),
        ("LINE_MODEM", bytes([1, 1])),
        ("LINE_MODEM", bytes([2, 2])),
        ("LINE_PURGE", bytes([wire.PURGE_RECEIVED])),
        ("LINE_PURGE", bytes([wire.PURGE_UNSENT])),
    ]
    data = bytes(range(256)) * 300
    port.write(data)
    assert port.read(len(data)) == data.upper()
    assert peer.data() == data


def test_pyserial_sets_everything(peer: LinePeer, port: Any) -> None:
    for parity in "NEOMS":
        port.parity = parity
        assert peer.told[-1] == ("LINE_SETTINGS", line.settings(9600, 8, parity, 1)[3:]) or parity == "N"
    for bits in (5, 6, 7, 8):
        port.bytesize = bits
        assert peer.told[-1] == ("LINE_SETTINGS", line.settings(9600, bits, "S", 1)[3:]) or bits == 8
    port.stopbits = 2
    for baud in (50, 921_600, 4_000_000):
        port.baudrate = baud
        assert peer.told[-1] == ("LINE_SETTINGS", line.settings(baud, 8, "S", 2)[3:])
    before = len(peer.told)
    port.timeout = 1  # pyserial then sets all else anew
    assert len(peer.told) == before
    for name, value in (("baudrate", 5_000_000), ("stopbits", 1.5), ("xonxoff", True), ("rtscts", True)):
        with pytest.raises(ValueError, match="rejected"):
            setattr(port, name, value)


def test_pyserial_lines_and_break(peer: LinePeer, port: Any) -> None:
    del peer.told[:]
    port.rts = False
    port.dtr = False
    port.dtr = False
    port.send_break(0.3)
    port.write(b"x")
    until(lambda: peer.data() == b"x")
    assert peer.told[:2] == [("LINE_MODEM", bytes([2, 0])), ("LINE_MODEM", bytes([1, 0]))]
    name, body = peer.told[2]
    assert name == "LINE_BREAK" and 300 <= int.from_bytes(body, "big") < 2000
    assert peer.told[3:] == [("LINE_DATA", b"x")]


def test_pyserial_state(peer: LinePeer, port: Any) -> None:
    assert (port.cts, port.dsr, port.ri, port.cd) == (False, False, False, False)
    peer.say(wire.LINE_STATE, bytes([wire.STATE_CTS | wire.STATE_CD]))
    until(lambda: port.cts)
    assert (port.cts, port.dsr, port.ri, port.cd) == (True, False, False, True)
    peer.say(wire.LINE_STATE, bytes([wire.STATE_RI | wire.STATE_DSR]))
    until(lambda: not port.cts)
    assert (port.cts, port.dsr, port.ri, port.cd) == (False, True, True, False)


def test_pyserial_purges(peer: LinePeer, port: Any) -> None:
    del peer.told[:]
    port.reset_input_buffer()
    port.reset_output_buffer()
    assert peer.told == [("LINE_PURGE", bytes([1])), ("LINE_PURGE", bytes([2]))]


def tries(port: Any) -> int:
    """As esptool tries: 100 ms for an answer, then throw away what is old, and again. How often it had to."""
    for count in range(1, 5):
        port.timeout = 0.1
        port.write(b"sync")
        got = port.read(1)
        port.timeout = 3
        if got:
            assert got + port.read(3) == b"SYNC"
            return count
        time.sleep(0.05)
        port.reset_input_buffer()
        port.reset_output_buffer()
    raise AssertionError("never")


@pytest.mark.parametrize("late", [0.12, 0.2, 0.28, 0.36])
def test_a_late_answer_is_there_for_the_next_try(peer: LinePeer, port: Any, late: float) -> None:
    peer.held = late
    assert tries(port) == 2


def test_what_came_in_time_is_purged(peer: LinePeer, port: Any) -> None:
    peer.held = 0.05
    port.write(b"old")
    time.sleep(0.3)
    port.timeout = 3
    port.reset_input_buffer()
    port.write(b"new")
    assert port.read(3) == b"NEW"


def test_a_client_may_go_silent_with_a_line_half_set(peer: LinePeer, port: Any) -> None:
    """What could begin a reset and does not go on is told all the same, and before what is said later."""
    port.dtr = False
    del peer.told[:]
    port.dtr = True
    port.dtr = False
    assert peer.told == [("LINE_MODEM", bytes([1, 1]))] or peer.told == []
    until(lambda: peer.told and peer.told[-1] == ("LINE_MODEM", bytes([1, 0])))
    port.rts = False
    port.rts = True
    port.write(b"after")
    until(lambda: peer.data() == b"after")
    assert peer.told[-2] == ("LINE_MODEM", bytes([2, 2]))


def test_a_client_that_does_not_read_makes_nobody_hold_more(peer: LinePeer) -> None:
    """It asks and asks and reads no answer: at some point nothing more is taken from it."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect(identity.split_address(peer.address))
        sock.settimeout(1)
        sent = 0
        with pytest.raises(TimeoutError):
            while sent < 200_000_000:
                sent += sock.send(b"\xff\xfd\x05" * 20_000)
        assert sent < 50_000_000


def test_a_short_round_of_junk_over_a_connection(peer: LinePeer) -> None:
    rng = random.Random(7)
    for _ in range(5):
        with socket.create_connection(identity.split_address(peer.address)) as sock:
            sock.settimeout(WAIT_S)
            for _ in range(400):
                sock.sendall(mutate(rng, target.SEEDS))
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(1 << 16):
                pass
    del peer.told[:]
    with serial.serial_for_url(f"rfc2217://{peer.address}", timeout=WAIT_S) as port:
        port.write(b"sane")
        assert port.read(4) == b"SANE"
