"""`machine` as on a chip. Hardware that is not here: pins, which only name where a UART would be."""

import _thread
import io
import select

import _chip
import micropython
import utime
from umachine import *  # noqa: F403

PWRON_RESET, HARD_RESET, WDT_RESET, DEEPSLEEP_RESET, SOFT_RESET = 1, 2, 3, 4, 5

_open_lines = {}  # a line's file is opened once, and never collected: that would close it

_GET_FILENO = 10
_POLL = 3


def reset():
    _chip.stop("reset")


def bootloader(timeout=0):
    _chip.stop("reset")


def reset_cause():
    return _chip.reset_cause


def unique_id():
    return _chip.unique_id


class Pin:
    IN, OUT = 0, 1

    def __init__(self, number, *_, **__):
        self._number = number

    def __repr__(self):
        return f"Pin({self._number})"


class WDT:
    """Cannot be stopped."""

    def __init__(self, id=0, timeout=5000):
        if timeout < 1:
            raise ValueError("WDT timeout too short")
        _chip.tell("wdt", timeout)

    def feed(self):
        _chip.tell("feed")


class Timer:
    """A soft timer: its callback runs in the main program, between two bytecodes."""

    ONE_SHOT, PERIODIC = 0, 1

    def __init__(self, id=-1, **options):
        self._round = 0  # of init; the thread of an older one ends
        if options:
            self.init(**options)

    def init(self, *, mode=PERIODIC, period=-1, freq=-1, callback=None, hard=False):
        self._round += 1
        period_ms = period if freq == -1 else max(1, int(1000 / freq))
        if period_ms < 1:
            raise ValueError("invalid period")
        if callback is not None:
            _thread.start_new_thread(self._tick, (self._round, mode, period_ms, callback))

    def deinit(self):
        self._round += 1

    def _tick(self, round, mode, period_ms, callback):
        while True:
            utime.sleep_ms(period_ms)
            if self._round != round:
                return
            try:
                micropython.schedule(callback, self)
            except RuntimeError:
                pass  # the queue is full: a tick is lost, as on a chip
            if mode == Timer.ONE_SHOT:
                return


class UART(io.IOBase):
    """A serial line; at its other end is a device file of the host."""

    INV_TX, INV_RX = 1, 2
    RTS, CTS = 1, 2

    def __init__(self, id, *values, **options):
        if not 0 <= id < len(_chip.lines):
            raise ValueError(f"UART({id}) does not exist")
        self._id = id
        self._fd = _chip.lines[id]
        if id not in _open_lines:
            _open_lines[id] = open(self._fd, "r+b")
        self._file = _open_lines[id]
        self._poller = select.poll()
        self._poller.register(self._file, select.POLLIN)
        self._said = {"baudrate": 115200, "bits": 8, "parity": None, "stop": 1, "timeout": 0, "timeout_char": 0}
        self.init(*values, **options)

    def init(self, baudrate=None, bits=None, parity=-1, stop=None, **options):
        given = {"baudrate": baudrate, "bits": bits, "stop": stop}
        self._said.update({name: value for name, value in given.items() if value is not None})
        if parity != -1:
            self._said["parity"] = parity
        for name in options:
            if name not in ("tx", "rx", "rts", "cts", "txbuf", "rxbuf", "timeout", "timeout_char", "invert", "flow"):
                raise TypeError("extra keyword arguments given")
        self._said.update(options)
        if not 5 <= self._said["bits"] <= 8 or self._said["parity"] not in (None, 0, 1) or self._said["stop"] not in (1, 2):
            raise ValueError("invalid setting")
        _chip.tell("uart", self._id, self._said["baudrate"], self._said["bits"], self._said["parity"], self._said["stop"])

    def __repr__(self):
        return f"UART({self._id}, {self._said})"

    def deinit(self):
        pass  # the descriptor is the line's, and the line stays

    def any(self):
        return self._wait(0)

    def _wait(self, ms):
        return 1 if self._poller.poll(ms) else 0

    def _timeout(self, begun):
        return self._said["timeout_char" if begun else "timeout"]

    def read(self, n=-1):
        data = b""
        while n < 0 or len(data) < n:
            if not self._wait(self._timeout(data)):
                break
            piece = self._file.read(256 if n < 0 else n - len(data))
            if not piece:
                break
            data += piece
        return data or None

    def readinto(self, buffer, n=-1):
        data = self.read(len(buffer) if n < 0 else min(n, len(buffer)))
        if data is None:
            return None
        buffer[: len(data)] = data
        return len(data)

    def readline(self):
        line = b""
        while not line.endswith(b"\n"):
            byte = self.read(1)
            if byte is None:
                break
            line += byte
        return line or None

    def write(self, data):
        return self._file.write(data)

    def sendbreak(self):
        _chip.tell("break", self._id)

    def flush(self):
        pass

    def txdone(self):
        return True

    def ioctl(self, request, argument):
        if request == _GET_FILENO:
            return self._fd
        if request == _POLL:
            return (argument & select.POLLOUT) | (select.POLLIN if argument & select.POLLIN and self._wait(0) else 0)
        return -1
