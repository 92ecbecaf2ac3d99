"""A board's UART as a port. MicroPython's unix port has none: this one has the chip's buffers and nothing behind them.

What needs MicroPython's streams is tested there only.
"""

import asyncio
import io
import sys
from pipes import run

from check import raises
from served import Served, hear_line, read_all, reset_code
from zts import line, wire
from zts.errors import FormatError

DTR, RTS = wire.MODEM_DTR, wire.MODEM_RTS
_POLL, _IN, _OUT = 3, 1, 4


class UART(io.IOBase):
    made: list = []  # noqa: RUF012

    def __init__(self, number, baud, **options):
        if number > 2:
            raise ValueError("no such UART")
        self.number, self.options = number, options
        self.settings = [(baud,)]
        self.received = self.unsent = self.sent = b""
        self.breaks = 0
        self.most = 0  # that waited to go out
        UART.made.append(self)

    def init(self, baud, bits, parity, stop):
        if bits < 7:
            raise ValueError("no such setting")
        self.settings.append((baud, bits, parity, stop))

    def deinit(self):
        self.number = -1

    def any(self):
        return len(self.received)

    def read(self, n):
        data, self.received = self.received[:n], self.received[n:]
        return data or None

    def write(self, data):
        self.unsent += data
        self.most = max(self.most, len(self.unsent))
        return len(data)

    def txdone(self):
        """It sends while nobody looks."""
        self.sent += self.unsent[:50]
        self.unsent = self.unsent[50:]
        return not self.unsent

    def sendbreak(self):
        self.breaks += 1

    def ioctl(self, request, flags):
        if request != _POLL:
            return -1
        return flags & (_IN if self.received else 0) | flags & _OUT


class Pin:
    OPEN_DRAIN = 7
    pins: dict = {}  # noqa: RUF012

    def __init__(self, number, mode=-1, value=None):
        self.mode = mode
        self.levels = [value]
        Pin.pins[number] = self

    def value(self, level):
        self.levels.append(int(level))


class _Machine:
    pass


def _load():
    """The module, on a machine with these parts."""
    _Machine.UART, _Machine.Pin = UART, Pin
    before = sys.modules.get("machine")
    sys.modules["machine"] = _Machine
    try:
        from zts_agent import uart
    finally:
        if before is None:
            sys.modules.pop("machine")
        else:
            sys.modules["machine"] = before
    return uart


uart = _load()
ENTRY = {"kind": "serial", "uart": 1, "tx": 17, "rx": 16}


def entry(**more):
    said = dict(ENTRY)
    said.update(more)
    return said


def test_entries():
    for good in (ENTRY, entry(baud=9600), entry(dtr=4, rts=5), entry(rts=0)):
        kind, serve = uart.read_entry(good)
        assert kind == wire.SERVICE_SERIAL and callable(serve)
    assert ENTRY == {"kind": "serial", "uart": 1, "tx": 17, "rx": 16}
    for bad in (
        {"kind": "serial"},
        {"kind": "serial", "uart": 1, "tx": 17},
        {"kind": "serial", "target": "/dev/ttyUSB0"},
        entry(baud="9600"),
        entry(baud=True),
        entry(baud=49),
        entry(baud=4_000_001),
        entry(tx=None),
        entry(cts=3),
    ):
        raises(FormatError, uart.read_entry, bad)


if sys.implementation.name == "micropython":

    def test_bytes_settings_and_breaks():
        async def go():
            _, serve = uart.read_entry(entry(baud=9600))
            async with Served(serve) as client:
                for _ in range(2):
                    stream = client.open("console")
                    await stream.opened()
                    port = UART.made[-1]
                    assert port.number == 1 and port.settings == [(9600,)]
                    assert [port.options[name] for name in ("timeout", "timeout_char", "rxbuf", "txbuf")] == [0, 0, 2048, 256]
                    assert await reset_code(client.open("console").opened()) == wire.BUSY
                    sent = bytes(range(256)) * 8
                    await stream.send(line.data(sent) + line.settings(115200, 7, "E", 2) + line.data(b"!"))
                    await stream.send(line.settings(300, 8, "M", 1) + line.settings(300, 5, "N", 1) + line.settings(300, 8, "N", 1))
                    await stream.send(line.encode(wire.LINE_BREAK, b"\0\1") + line.encode(wire.LINE_RESET, b"\1"))
                    port.received = b"heard" * 100
                    heard = await hear_line(stream, 500)
                    assert heard == (b"heard" * 100, [(wire.LINE_STATE, wire.STATE_CTS | wire.STATE_DSR | wire.STATE_CD)])
                    port.received = b"stale"
                    stream.finish()
                    await read_all(stream)
                    assert port.sent == sent + b"!" and not port.unsent and port.number == -1
                    # No more than fits: a chip would stand still until there is room.
                    assert port.most <= 128
                    assert port.settings[1:] == [(115200, 7, 0, 2), (300, 8, None, 1)] and port.breaks == 1

        run(go())

    def test_a_buffer_that_was_full_has_lost_bytes():
        async def go():
            _, serve = uart.read_entry(ENTRY)
            async with Served(serve) as client:
                stream = client.open("console")
                await stream.opened()
                port = UART.made[-1]
                states = []
                for size in (1900, 2048, 1900):
                    port.received = bytes(size)
                    heard = await hear_line(stream, size)
                    assert heard[0] == bytes(size)
                    states += [bits for _, bits in heard[1]]
                    await asyncio.sleep(0.3)
                stream.finish()
                states += line_states(await read_all(stream))
                assert [bits & wire.STATE_LOST for bits in states] == [0, wire.STATE_LOST], states

        run(go())

    def test_what_is_purged_is_not_heard():
        async def go():
            port = uart._Uart({"uart": 1, "baud": 9600, "tx": 1, "rx": 2, "dtr": -1, "rts": -1})
            port._uart.received = b"stale" * 300
            port.purge(wire.PURGE_UNSENT)
            assert port._uart.any()
            port.purge(wire.PURGE_RECEIVED)
            assert not port._uart.any()

        run(go())

    def test_a_neighbours_pins():
        async def go():
            _, serve = uart.read_entry(entry(dtr=4, rts=5))
            async with Served(serve) as client:
                stream = client.open("console")
                await stream.opened()
                boot, en = Pin.pins[4], Pin.pins[5]
                assert boot.mode == en.mode == Pin.OPEN_DRAIN and boot.levels == en.levels == [1]
                for lines in (DTR | RTS, RTS, DTR, 0):
                    await stream.send(line.encode(wire.LINE_MODEM, bytes([DTR | RTS, lines])))
                await stream.send(line.encode(wire.LINE_MODEM, bytes([RTS, RTS])))
                stream.finish()
                await read_all(stream)
                # Both lines pull neither pin; a port that is closed lets go.
                assert boot.levels == [1, 1, 1, 0, 1, 1, 1] and en.levels == [1, 1, 0, 1, 1, 0, 1]

        run(go())

    def test_a_uart_that_is_not_there():
        async def go():
            _, serve = uart.read_entry(entry(uart=3))
            async with Served(serve) as client:
                assert await reset_code(client.open("console").opened()) == wire.TARGET_REFUSED

        run(go())


def line_states(said):
    return [body[0] for kind, body in line.Decoder().feed(said) if kind == wire.LINE_STATE]
