"""A serial port of this machine, by pyserial and asyncio: what `zts_agent.serial` serves as a line.

Linux raises DTR and RTS when a port is opened and lowers them when it is closed (termios: HUPCL), as for any program. We change nothing
about that. Both at once reset no ESP32; what resets on DTR alone, as an Arduino, is left alone after `stty -F DEVICE -hupcl`.
"""

import asyncio
import contextlib
import errno
import fcntl
import os
import select
import struct
import termios
from collections.abc import Callable
from typing import Any

from zts import line, wire
from zts.errors import FormatError
from zts_agent import board
from zts_gateway.ui import Exit, Failure

BAUD = 115_200
_READ = 4096  # what a Linux tty keeps for its reader
_POLL_S = 0.005  # between two looks at what a tty has yet to send

# Linux, for Python's termios lacks them.
_TIOCGEXCL = 0x80045440
_TIOCGICOUNT = 0x545D
_ICOUNT = "20i"  # struct serial_icounter_struct
_OVERRUN, _BUF_OVERRUN = 7, 10  # in that: lost by the UART, and by the tty

_LINES = {wire.MODEM_DTR: termios.TIOCM_DTR, wire.MODEM_RTS: termios.TIOCM_RTS}
_STATES = {
    wire.STATE_CTS: termios.TIOCM_CTS,
    wire.STATE_DSR: termios.TIOCM_DSR,
    wire.STATE_RI: termios.TIOCM_RI,
    wire.STATE_CD: termios.TIOCM_CD,
}
_READY = wire.STATE_CTS | wire.STATE_DSR | wire.STATE_CD  # what a port without such lines says, as a cable of three wires has them joined


def read(entry: dict[str, Any]) -> "Callable[[], SerialPort]":
    """From [services.NAME] kind = "serial", target = DEVICE, baud = BAUD to what opens the port. Raises FormatError, Failure."""
    target, baud = entry.get("target"), entry.get("baud", BAUD)
    for key in entry:
        if key not in ("kind", "target", "baud"):
            raise FormatError(f"there is no '{key}'; a serial port has a target and a baud")
    if not isinstance(target, str) or not target.startswith("/"):
        raise FormatError('needs a target, the path of a serial port such as "/dev/ttyUSB0"')
    if type(baud) is not int or not line.BAUD_MIN <= baud <= line.BAUD_MAX:
        raise FormatError(f"baud is a number from {line.BAUD_MIN} to {line.BAUD_MAX}")
    try:
        import serial  # noqa: F401
    except ImportError:
        raise Failure(Exit.USAGE, "serial ports need the package pyserial; run `pip install 'zts[serial]'`, then start again") from None
    return lambda: SerialPort(target, baud)


class SerialPort:
    """`zts_agent.serial.Port`. Open, for us alone, as soon as it is made. Raises OSError."""

    def __init__(self, path: str, baud: int) -> None:
        import serial

        try:
            self._serial = serial.Serial(path, baud, timeout=0, exclusive=True)
        except termios.error as error:
            raise OSError(*error.args) from None
        self._fd = self._serial.fileno()
        try:
            self._claim()
        except BaseException:
            self._serial.close()
            raise
        self._loop = asyncio.get_running_loop()
        self._quiet_at = 0.0  # when the line has sent what it was given, at its baud
        self._has_lines = self._try_ioctl(termios.TIOCMGET, bytes(4)) is not None  # a pty has none
        self._lost = self._count_lost()

    def _claim(self) -> None:
        """pyserial's lock keeps off who asks for one too. This keeps off everybody, but that root is let in and must ask."""
        taken = self._try_ioctl(_TIOCGEXCL, bytes(4))
        if taken is not None and any(taken):
            raise OSError(errno.EBUSY, "another program has this port for itself")
        fcntl.ioctl(self._fd, termios.TIOCEXCL)

    def _try_ioctl(self, request: int, room: bytes) -> bytes | None:
        """None for what this port does not have."""
        try:
            return fcntl.ioctl(self._fd, request, room)
        except OSError as error:
            if error.errno not in (errno.ENOTTY, errno.EINVAL):
                raise
            return None

    async def _until(self, add: Callable[..., Any], remove: Callable[[int], Any]) -> None:
        ready = asyncio.Event()
        add(self._fd, ready.set)
        try:
            await ready.wait()
        finally:
            remove(self._fd)

    async def read(self) -> bytes:
        """1 byte or more. Raises OSError when the device is gone."""
        while True:
            await self._until(self._loop.add_reader, self._loop.remove_reader)
            with contextlib.suppress(BlockingIOError):
                if data := os.read(self._fd, _READ):
                    return data
            # Nothing, although there was something: it was purged, or the device was unplugged.
            watch = select.poll()
            watch.register(self._fd, 0)
            if watch.poll(0):
                raise OSError(errno.EIO, "the device is gone")

    async def write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            try:
                taken = os.write(self._fd, view)
            except BlockingIOError:
                await self._until(self._loop.add_writer, self._loop.remove_writer)
                continue
            view = view[taken:]
            port = self._serial
            bits = 1 + port.bytesize + (port.parity != "N") + port.stopbits
            self._quiet_at = max(self._loop.time(), self._quiet_at) + taken * bits / port.baudrate

    async def drain(self) -> None:
        """tcdrain() blocks the whole agent. So it is called only when it has nothing left to wait for."""
        if not self._has_lines:
            return
        while True:
            (unsent,) = struct.unpack("i", fcntl.ioctl(self._fd, termios.TIOCOUTQ, bytes(4)))
            left = max(self._quiet_at - self._loop.time(), _POLL_S if unsent else 0)
            if left <= 0:
                break
            await asyncio.sleep(left)
        try:
            termios.tcdrain(self._fd)
        except termios.error as error:
            raise OSError(*error.args) from None

    def set(self, baud: int, data_bits: int, parity: str, stop_bits: int) -> None:
        before = self._serial.get_settings()
        try:
            self._serial.apply_settings({"baudrate": baud, "bytesize": data_bits, "parity": parity, "stopbits": stop_bits})
        except (ValueError, OSError, termios.error) as error:
            board.log("serial port refused settings", baud=baud, error=str(error))
            with contextlib.suppress(ValueError, OSError, termios.error):
                self._serial.apply_settings(before)

    def modem(self, mask: int, values: int) -> None:
        if self._has_lines:
            (lines,) = struct.unpack("i", fcntl.ioctl(self._fd, termios.TIOCMGET, bytes(4)))
            for ours, theirs in _LINES.items():
                if mask & ours:
                    lines = lines | theirs if values & ours else lines & ~theirs
            fcntl.ioctl(self._fd, termios.TIOCMSET, struct.pack("i", lines))

    def hold(self, low: bool) -> None:
        self._serial.break_condition = low

    def purge(self, which: int) -> None:
        queues = {wire.PURGE_RECEIVED: termios.TCIFLUSH, wire.PURGE_UNSENT: termios.TCOFLUSH}
        for part, queue in queues.items():
            if which & part:
                try:
                    termios.tcflush(self._fd, queue)
                except termios.error as error:
                    raise OSError(*error.args) from None
        if which & wire.PURGE_UNSENT:
            self._quiet_at = 0.0

    def state(self) -> int:
        bits = _READY
        if self._has_lines:
            (lines,) = struct.unpack("i", fcntl.ioctl(self._fd, termios.TIOCMGET, bytes(4)))
            bits = sum(ours for ours, theirs in _STATES.items() if lines & theirs)
        lost = self._count_lost()
        if lost != self._lost:
            self._lost = lost
            bits |= wire.STATE_LOST
        return bits

    def _count_lost(self) -> int:
        """Bytes lost at this port since Linux knows it; 0 where nobody counts."""
        counts = self._try_ioctl(_TIOCGICOUNT, bytes(struct.calcsize(_ICOUNT))) if self._has_lines else None
        if counts is None:
            return 0
        numbers = struct.unpack(_ICOUNT, counts)
        return int(numbers[_OVERRUN] + numbers[_BUF_OVERRUN])

    def close(self) -> None:
        """What is unsent is thrown away: closing a port would wait for it, and block the whole agent up to 30 s. Not so a pty, whose last
        bytes would be lost before the program at its other end has read them.
        """
        with contextlib.suppress(OSError, termios.error):
            if self._has_lines:
                termios.tcflush(self._fd, termios.TCOFLUSH)
            fcntl.ioctl(self._fd, termios.TIOCNXCL)
        self._serial.close()
