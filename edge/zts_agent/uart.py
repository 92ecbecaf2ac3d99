"""A board's UART: what `serial` serves as a line. Loaded only where one is configured."""

import asyncio

from machine import UART, Pin

from zts import line, wire
from zts.errors import FormatError

from . import serial

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .services import Serve

_BAUD = 115_200
_ROOM = 2048  # bytes kept while the loop is busy: 178 ms at that baud
_READ = 512
_PIECE = 128  # half of the transmit buffer: an ESP32 would block the whole agent until more has room there
_FIFO = 128  # an ESP32 moves no more at once, so a buffer that has less room left has perhaps lost some


def read_entry(entry: "dict[str, Any]") -> "tuple[int, Serve]":
    """From uart, tx, rx, and perhaps baud, dtr and rts: the numbers of a UART and of pins. Raises FormatError."""
    said = {"baud": _BAUD, "dtr": -1, "rts": -1}
    said.update(entry)
    said.pop("kind")
    if sorted(said) != ["baud", "dtr", "rts", "rx", "tx", "uart"] or not all(type(value) is int for value in said.values()):
        raise FormatError("needs uart, tx and rx, and takes baud, dtr and rts; all are numbers")
    if not line.BAUD_MIN <= said["baud"] <= line.BAUD_MAX:
        raise FormatError(f"baud is from {line.BAUD_MIN} to {line.BAUD_MAX}")
    return wire.SERVICE_SERIAL, serial.serve_port(lambda: _Uart(said))


class _Uart:
    """`serial.Port`. A pin for DTR goes to a neighbour's BOOT and one for RTS to its EN; both are low-active there, with pull-ups."""

    def __init__(self, said: "dict[str, int]") -> None:
        # Made first: a neighbour runs on while its line is opened.
        self._dtr, self._rts = [None if said[name] < 0 else Pin(said[name], Pin.OPEN_DRAIN, value=1) for name in ("dtr", "rts")]
        self._lines = 0
        self._uart = UART(
            said["uart"], said["baud"], tx=Pin(said["tx"]), rx=Pin(said["rx"]), timeout=0, timeout_char=0, rxbuf=_ROOM, txbuf=2 * _PIECE
        )
        self._stream: "Any" = asyncio.StreamReader(self._uart)  # which writes too
        self._lost = 0

    async def read(self) -> bytes:
        data = b""
        while not data:
            data = await self._stream.read(_READ)
        if len(data) + self._uart.any() > _ROOM - _FIFO:
            self._lost = wire.STATE_LOST
        return data

    async def write(self, data: bytes) -> None:
        for at in range(0, len(data), _PIECE):
            await self.drain()
            self._stream.write(data[at : at + _PIECE])
            await self._stream.drain()

    async def drain(self) -> None:
        while not self._uart.txdone():
            await asyncio.sleep(0.001)

    def set(self, baud: int, data_bits: int, parity: str, stop_bits: int) -> None:
        try:
            self._uart.init(baud, data_bits, {"N": None, "E": 0, "O": 1}[parity], stop_bits)
        except (KeyError, ValueError):
            pass  # mark, space, or what this chip has not

    def modem(self, mask: int, values: int) -> None:
        """As the two transistors on most boards with a USB adaptor: each line pulls only while the other does not."""
        self._lines = self._lines & ~mask | values & mask
        for pin, alone in ((self._dtr, wire.MODEM_DTR), (self._rts, wire.MODEM_RTS)):
            if pin is not None:
                pin.value(self._lines != alone)

    def hold(self, low: bool) -> None:
        if low and hasattr(self._uart, "sendbreak"):
            self._uart.sendbreak()  # as long as the chip makes one

    def purge(self, which: int) -> None:
        """What is unsent is at most _PIECE, and goes out."""
        while which & wire.PURGE_RECEIVED and self._uart.any():
            self._uart.read(_READ)

    def state(self) -> int:
        bits, self._lost = wire.STATE_CTS | wire.STATE_DSR | wire.STATE_CD | self._lost, 0
        return bits

    def close(self) -> None:
        self.modem(wire.MODEM_DTR | wire.MODEM_RTS, 0)
        self._uart.deinit()
