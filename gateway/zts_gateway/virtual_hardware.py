"""What a virtual board is made of: the interpreter's process, its lines, its watchdog and its radio, in one loop."""

import contextlib
import fcntl
import json
import os
import pty
import select
import signal
import socket
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Final

from zts_gateway.virtual_parts import PIECE, Jack, Radio

UARTS = 3
MODULES: Final = Path(__file__).with_name("virtual_board_modules")
_FLASH_LOCK_S = 3.0  # for a board whose power was cut just now
_LOOK_S = 0.02  # how often we look whether a program has opened an end
_ROM = 20 << 10  # of heap, for the modules that lie in a chip's ROM; measured
_READS_WITHIN_MS = 50  # the REPL; a program need not
_SWALLOW_S = 0.1  # a second SIGINT before the first was seen ends the interpreter

# machine.reset_cause() of an ESP32.
_POWER_ON, _HARD, _WATCHDOG, _SOFT = 1, 2, 3, 5

_INTERRUPT = b"\x03"
_RAW_PROMPT = b"raw REPL; CTRL-B to exit\r\n>"
_PROMPT = b"\r\n>>> "
_FIRST_PROMPT = b"\n>>> "


def uart_link(link: Path, number: int) -> Path:
    return link.with_name(f"{link.name}.uart{number}")


def _bytes_of(size: str) -> int:
    """`64K`, `2M` or a number."""
    shift = {"K": 10, "M": 20}.get(size[-1:].upper())
    return int(size) if shift is None else int(size[:-1]) << shift


@contextlib.contextmanager
def hold_flash(flash: Path) -> Iterator[int]:
    """The flash to oneself: a descriptor with its lock. Raises BlockingIOError when a board runs on it.

    The interpreter holds the lock too, so whoever has it knows that nothing writes any more.
    """
    lock = os.open(flash, os.O_RDONLY | os.O_DIRECTORY)
    try:
        end = time.monotonic() + _FLASH_LOCK_S
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.005)
        yield lock
    finally:
        os.close(lock)


def _put_on(leash: int) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # which nohup has ignored
    fcntl.ioctl(leash, termios.TIOCSCTTY, 0)


class _Machine:
    """One run of the interpreter, from a reset to the next."""

    def __init__(self, flash: Path, size: str, lock: int, heap: str, cause: int, raw_mark: str) -> None:
        self.console, console = socket.socketpair()
        self.control, control = socket.socketpair()
        pairs = [socket.socketpair() for _ in range(UARTS)]
        self.uarts = [ours for ours, _ in pairs]
        theirs = [console, control, *(their for _, their in pairs)]
        for end in (self.console, *self.uarts, *(their for _, their in pairs)):
            end.setblocking(False)
        # Its controlling terminal carries nothing: the kernel ends the interpreter when we die and leave it.
        self._leash, leash = pty.openpty()
        said = {
            "control": control.fileno(),
            "uarts": [their.fileno() for _, their in pairs],
            "flash": str(flash),
            "flash_bytes": _bytes_of(size),
            "unique_id": sha256(str(flash).encode()).hexdigest()[:12],
            "reset_cause": cause,
            "raw": raw_mark,
        }
        program = "import _chip; _chip.boot(); del _chip"
        self.process = subprocess.Popen(
            [str(Path(sys.executable).parent / "micropython"), "-X", f"heapsize={_bytes_of(heap) + _ROM}", "-i", "-c", program],
            stdin=console.fileno(),
            stdout=console.fileno(),
            stderr=console.fileno(),
            start_new_session=True,
            pass_fds=[lock, leash, *(their.fileno() for their in theirs[1:])],
            preexec_fn=lambda: _put_on(leash),
            env={"VIRTUAL_BOARD": json.dumps(said), "MICROPYPATH": f".frozen:{MODULES}"},
        )
        os.close(leash)
        for end in theirs:
            end.close()
        self.is_up = False
        self._waited = 0  # turns of 1 ms
        self.typed = b""  # what was typed and not yet passed on
        self.heard = b""  # the beginning of a line on `control`
        self.feed_within: float | None = None  # seconds
        self.dies_at: float | None = None

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        for end in (self.console, self.control, *self.uarts):
            end.close()
        os.close(self._leash)

    @property
    def takes_interrupts(self) -> bool:
        """Whether a program runs that 0x03 shall interrupt: as on a chip, the REPL and micropython.kbd_intr say."""
        try:
            status = Path(f"/proc/{self.process.pid}/status").read_text()
        except OSError:
            return False
        caught = next(line for line in status.splitlines() if line.startswith("SigCgt:"))
        return bool(int(caught.split()[1], 16) >> (signal.SIGINT - 1) & 1)

    def is_about_to_read(self) -> bool:
        """Whether what was typed before an interrupt has yet to come to the REPL: it may be the program to interrupt."""
        waiting = bytearray(4)
        fcntl.ioctl(self.console, termios.TIOCOUTQ, waiting)
        if any(waiting) and self._waited < _READS_WITHIN_MS:
            self._waited += 1
            return True
        self._waited = 0
        return False


class Hardware:
    """A board with `size` bytes of flash at `flash` whose port appears at `link`."""

    def __init__(self, flash: Path, size: str, link: Path, heap: str, air: Path | None) -> None:
        self._flash = flash.resolve()
        self._size = size
        self._link = link
        self._heap = heap
        self._air = air
        self._held = contextlib.ExitStack()
        self._lock = -1
        self._jacks: list[Jack] = []
        self._machine: _Machine | None = None
        self._cause = _POWER_ON
        self._in_raw = False  # which of the two REPLs a client is in
        self._tail = b""  # of what it said
        self._mark = b""  # what ends boot.py's output, when the raw REPL is to follow
        self._banner = b""  # what is held back since
        self._interrupted = 0.0
        self._looked = 0.0

    def switch_on(self) -> None:
        """Raises BlockingIOError when another board runs on this flash."""
        self._lock = self._held.enter_context(hold_flash(self._flash))
        self._jacks = [Jack(self._link), *(Jack(uart_link(self._link, number)) for number in range(UARTS))]
        self._boot()

    def switch_off(self) -> None:
        if self._machine:
            self._machine.end()
            self._machine = None
        for jack in self._jacks:
            jack.close()
        self._jacks = []
        self._held.close()

    def _boot(self) -> None:
        mark = f"\x1b[{os.urandom(8).hex()}]" if self._in_raw else ""
        self._mark, self._banner = mark.encode(), b""
        self._radio = Radio(self._air)
        self._machine = _Machine(self._flash, self._size, self._lock, self._heap, self._cause, mark)

    def _reset(self, cause: int) -> None:
        assert self._machine
        soft = cause == _SOFT
        before = self._machine
        self._drain()
        before.end()
        self._cause = cause
        self._in_raw = self._in_raw and soft
        if soft:
            self._jacks[0].send(b"MPY: soft reboot\r\n")
        self._boot()
        if soft:  # a chip's watchdog knows nothing of soft resets
            self._machine.feed_within, self._machine.dies_at = before.feed_within, before.dies_at

    # --- the loop --------------------------------------------------------------------------------------------------------

    def run(self, until: int | None) -> None:
        """For ever, or until the descriptor comes to its end."""
        while self._turn(until):
            pass

    def _turn(self, until: int | None) -> bool:
        machine = self._machine
        assert machine
        poller = select.poll()
        ends = [machine.console, *machine.uarts]
        for jack, end in zip(self._jacks, ends, strict=True):
            if jack.attached and (end is not machine.console or (machine.is_up and not machine.typed)):
                poller.register(jack.fd, select.POLLIN | (select.POLLOUT if jack.is_full else 0))
            elif jack.is_full:
                poller.register(jack.fd, select.POLLOUT)
            if not jack.is_full:
                poller.register(end, select.POLLIN)
        poller.register(machine.control, select.POLLIN)
        if until is not None:
            poller.register(until, select.POLLIN)
        ready = {fd for fd, _ in poller.poll(self._timeout_ms())}
        if until in ready and not os.read(until, 1):
            return False
        now = time.monotonic()
        if now - self._looked >= _LOOK_S:
            self._looked = now
            self._look()
        for jack in self._jacks:
            jack.flush()
        if machine.dies_at is not None and now >= machine.dies_at:
            self._reset(_WATCHDOG)
            return True
        if machine.control.fileno() in ready and not self._hear():
            return True
        for number, jack in enumerate(self._jacks):
            if not number:
                self._type(machine, jack)
            else:
                self._join(jack, machine.uarts[number - 1])
        if machine.console.fileno() in ready:
            self._print()
        return True

    def _timeout_ms(self) -> float:
        machine = self._machine
        assert machine
        if machine.typed and machine.is_up:
            return 1
        return 1000 * _LOOK_S

    def _look(self) -> None:
        """Who has opened an end, who has left it."""
        poller = select.poll()
        for jack in self._jacks:
            poller.register(jack.fd, select.POLLIN)
        events = dict(poller.poll(0))
        for jack in self._jacks:
            event = events.get(jack.fd, 0)
            if event & select.POLLIN or not event & select.POLLHUP:
                jack.attached = True  # or was: what it said before it left is still there
            else:
                jack.leave()

    # --- the console -------------------------------------------------------------------------------------------------------

    def _type(self, machine: _Machine, jack: Jack) -> None:
        """From the cable to the interpreter. An interrupt takes effect behind what was typed before it."""
        if not machine.is_up:
            return
        if not machine.typed and jack.attached:
            machine.typed = jack.read()
        while machine.typed:
            if machine.typed.startswith(_INTERRUPT):
                if machine.takes_interrupts:
                    machine.typed = machine.typed[1:]
                    self._interrupt(machine)
                    continue
                if machine.is_about_to_read():
                    return
                machine.typed = machine.typed[1:]
                plain = _INTERRUPT
            else:
                plain = machine.typed.partition(_INTERRUPT)[0]
                machine.typed = machine.typed[len(plain) :]
            try:
                sent = machine.console.send(plain)
            except BlockingIOError:
                sent = 0
            except OSError:  # it has ended, which _print sees
                machine.typed = b""
                return
            if sent < len(plain):
                machine.typed = plain[sent:] + machine.typed
                return

    def _interrupt(self, machine: _Machine) -> None:
        now = time.monotonic()
        if now - self._interrupted > _SWALLOW_S:
            self._interrupted = now
            machine.process.send_signal(signal.SIGINT)

    def _print(self) -> None:
        """From the interpreter to the cable; at its end a soft reset."""
        assert self._machine
        try:
            data = self._machine.console.recv(PIECE)
        except BlockingIOError:
            return
        except ConnectionResetError:
            data = b""
        if data:
            self._said(data)
        else:
            self._reset(_SOFT)

    def _drain(self) -> None:
        """What the interpreter said before it ended."""
        assert self._machine
        try:
            while data := self._machine.console.recv(PIECE):
                self._said(data)
        except OSError:
            pass

    def _said(self, data: bytes) -> None:
        assert self._machine
        if self._mark:
            # A chip that was reset in its raw REPL comes back in it; the interpreter comes back in the other one.
            self._banner += data
            before, mark, after = self._banner.partition(self._mark)
            if not mark:
                keep = len(self._mark) - 1
                data, self._banner = self._banner[:-keep], self._banner[-keep:]
            elif after.endswith(_FIRST_PROMPT):
                self._mark = self._banner = b""
                self._machine.console.send(b"\x01")
                data = before
            else:
                data, self._banner = before, mark + after
        self._jacks[0].send(data)
        self._tail = (self._tail + data)[-256:]
        raw, friendly = self._tail.rfind(_RAW_PROMPT), self._tail.rfind(_PROMPT)
        if raw >= 0 or friendly >= 0:
            self._in_raw = raw > friendly
            self._tail = self._tail[max(raw, friendly) :]

    # --- the rest ------------------------------------------------------------------------------------------------------------

    def _join(self, jack: Jack, end: socket.socket) -> None:
        """A UART: both ways, as fast as both ends take it."""
        if not jack.is_full:
            with contextlib.suppress(OSError):
                jack.send(end.recv(PIECE))
        # What the program does not read in time stays in the pty; a chip would lose it.
        room = bytearray(4)
        fcntl.ioctl(end, termios.TIOCOUTQ, room)
        if jack.attached and int.from_bytes(room, sys.byteorder) < PIECE:
            data = jack.read()
            if data:
                end.setblocking(True)
                end.sendall(data)
                end.setblocking(False)

    def _hear(self) -> bool:
        """What the modules tell the hardware. False: there was a reset."""
        machine = self._machine
        assert machine
        try:
            data = machine.control.recv(PIECE)
        except ConnectionResetError:
            data = b""
        if not data:
            self._reset(_SOFT)
            return False
        *lines, machine.heard = (machine.heard + data).split(b"\n")
        for line in lines:
            match json.loads(line):
                case ["up"]:
                    machine.is_up = True
                case ["typed", byte]:
                    machine.typed += bytes([byte])
                case ["wdt", ms]:
                    machine.feed_within = ms / 1000
                    machine.dies_at = time.monotonic() + machine.feed_within
                case ["feed"]:
                    if machine.feed_within is not None:
                        machine.dies_at = time.monotonic() + machine.feed_within
                case ["reset"]:
                    self._reset(_HARD)
                    return False
                case ["soft reset"]:
                    self._reset(_SOFT)
                    return False
                case ["ask", number, *request]:
                    machine.control.send(json.dumps([number, self._radio.answer(request)]).encode() + b"\n")
        return True
