"""The service repl: a device's interpreter at its owner's prompt, in the process that runs the agent and below its event loop.

A program runs between two steps of that loop and holds it up until it ends. Meanwhile its own leg alone is kept alive (`pump`), by what it
prints and by a timer between its bytecodes, which also brings Ctrl-C; without a machine.Timer only what it prints does. A soft reset
is one for the program alone: the agent lives on.
"""

import _thread
import asyncio
import builtins
import gc
import io
import os
import sys
import time

import machine
import micropython

from zts import line, wire
from zts.errors import RemoteError, StreamReset

from .pump import WAIT_MS, Pump
from .raw_repl import Dialogue, Reset, Run

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from zts.link import LinkStream

TICK_MS = 50  # how old output gets, and how late Ctrl-C comes
INTERRUPT_MS = 250  # for an interrupt that was asked for to be raised: at once on a chip, but a program may catch it
_PART = 256  # bytes that are taken at once: a heap may have no longer run of free ones
_TYPED_MAX = 512  # bytes typed ahead, twice what a chip keeps; more wait for the program's end in the window of the stream
_SPARE = 2 * wire.BOARD_MAX_RECORD  # bytes of heap in one piece that a program must leave, else no session can go on
# Raw paste asks before every program. From this round trip on that takes longer than mpremote's pauses without it, 10 ms every 256 bytes.
_FAR_MS = 50

_OURS = ("zts", "zts_agent")
_BLANK = "zts_agent.blank"
_OUR_FRAME = b'  File "zts_agent/'  # in a traceback


class _File(io.IOBase):  # type: ignore[misc]
    """A stream as MicroPython's own code takes it, of functions."""

    def __init__(self, write: "Any", readinto: "Any") -> None:
        self.write = write
        self.readinto = readinto

    def ioctl(self, request: int, argument: int) -> int:
        return -1


def _room() -> int:
    """A program is kept, and compiled into three times as much; a third of that is again needed as it is taken."""
    gc.collect()
    return gc.mem_free() // 4


def _is_short() -> bool:
    """Whether a program has left less memory than the agent needs."""
    try:
        return not bytearray(_SPARE)
    except MemoryError:
        return True


class Repl:
    """Lives as long as the agent, as do the variables of its programs; serves one stream at a time."""

    def __init__(self) -> None:
        self._kept: tuple[set[str], list[str], str] | None = None  # modules, path and folder, for a soft reset
        self._names: dict[str, Any] = {}  # of __main__
        self._loop: Any = None  # the programs' event loop
        self._agents: Any = None  # the agent's
        self._running = False  # a program, that Ctrl-C may interrupt
        self._busy = False  # somebody is at the pump
        self._interrupt = False  # to be raised in the program
        self._asked = 0  # MicroPython was asked to raise it: 1, and has taken it: 2
        self._asked_at: Any = 0
        self._moved_at: Any = 0
        self._timer: Any = None  # made once: an ESP32 loses its clock at the 255th start of one (MicroPython's issue 19162)
        self._text = _File(self._write, None)
        self._terminal = _File(self._write_through, self._read_interrupt)

    async def serve(self, stream: "LinkStream") -> None:
        stream.accept()
        self._stream = stream
        self._decoder = line.Decoder()
        version = sys.version.partition("; ")[2]
        banner = f'{version}; {sys.implementation[2]}\r\nType "help()" for more information.\r\n>>> '
        self._dialogue = Dialogue(banner.encode(), _room)
        self._dialogue.start()
        self._pump = Pump(stream)
        if self._kept is None:
            self._kept = set(sys.modules), list(sys.path), os.getcwd()
            self._start_anew()
        if self._timer is None and hasattr(machine, "Timer") and hasattr(os, "dupterm_notify"):
            self._timer = _make_timer(self._tick)
        try:
            await self._serve(stream)
        except StreamReset:
            pass

    async def _serve(self, stream: "LinkStream") -> None:
        while True:
            event = self._dialogue.next_event()
            if event is not None:
                await stream.link.idle()
                await stream.send(self._hold(event))
                continue
            await stream.send(line.data(self._dialogue.take_output()))
            pasting, asked_at = self._dialogue.is_pasting(), time.ticks_ms()
            data = await stream.read(_PART)
            if pasting and time.ticks_diff(time.ticks_ms(), asked_at) > _FAR_MS:
                self._dialogue.can_paste = False
            if not data:
                break
            self._hear(data)
        if self._decoder.is_between():
            stream.finish()
        else:
            stream.reset(wire.TRUNCATED)

    def _hear(self, data: bytes) -> None:
        try:
            for kind, body in self._decoder.feed(data):
                if kind == wire.LINE_DATA:  # the rest is for lines, which an interpreter has not
                    self._dialogue.receive(body)
        except RemoteError:
            self._stream.reset(wire.PROTO)

    def _hold(self, event: "tuple[Any, ...]") -> bytes:
        """Does what was asked for while the event loop stands; gives what is still to be sent."""
        stream = self._stream
        # It would have our task cancelled, which is the one that runs.
        on_reset, stream.on_reset = stream.on_reset, None
        self._agents = _loop()
        try:
            self._say(self._dialogue.take_output())
            if isinstance(event, Reset):
                self._start_anew()
                self._dialogue.restarted()
                self._say(self._dialogue.take_output())
            else:
                self._run(event)  # type: ignore[arg-type]
            self._pump.step()
            return self._pump.rest()
        finally:
            stream.on_reset = on_reset
            stream.link.flush()

    def _say(self, data: bytes) -> None:
        """What is said around programs, which nothing interrupts but the stream's end."""
        while data:
            data = data[self._pump.add(data) :]
            if data:
                self._pump.step(WAIT_MS)

    def _start_anew(self) -> None:
        """A soft reset. Pins, timers and threads that a program has left go on."""
        self._names.clear()  # there may be no memory for anything before
        gc.collect()
        try:
            self._forget()
            is_short = _is_short()
        except MemoryError:
            is_short = True
        if is_short and hasattr(machine, "reset"):
            machine.reset()  # what is left over lies where we do not reach: in other modules, or in names

    def _forget(self) -> None:
        assert self._kept is not None
        modules, path, folder = self._kept
        for name in list(sys.modules):
            if name == _BLANK or (name not in modules and name.partition(".")[0] not in _OURS):
                del sys.modules[name]
        sys.path[:] = path
        os.chdir(folder)
        __import__(_BLANK)
        main = sys.modules["__main__"] = sys.modules[_BLANK]
        self._names = main.__dict__
        self._names["__name__"] = "__main__"
        present = _loop()
        asyncio.new_event_loop()
        self._loop = _loop()[:2] + (None, None)
        _set_loop(present)

    # --- programs ----------------------------------------------------------------------------------------------------------

    def _run(self, run: Run) -> None:
        self._thread = _thread.get_ident()
        self._interrupt = self._dialogue.take_interrupt()
        self._asked = 0
        dupterm = getattr(os, "dupterm", None)
        before = dupterm(self._terminal) if dupterm else None
        kept = builtins.print, builtins.input, builtins.__repl_print__
        self._shown = kept[0]
        builtins.print, builtins.input, builtins.__repl_print__ = self._print, self._ask, self._show
        micropython.kbd_intr(3)  # a program may have turned it off
        _set_loop(self._loop)
        failure = self._guard(self._execute, run.is_single)
        self._loop = _loop()
        _set_loop(self._agents)
        builtins.print, builtins.input, builtins.__repl_print__ = kept
        if dupterm:
            dupterm(before)
        is_over = isinstance(failure, SystemExit) or _is_short()
        if is_over:
            self._start_anew()
        self._say(run.between)
        if failure is not None and not isinstance(failure, SystemExit):
            self._guard(self._tell, failure)
        if is_over:
            self._dialogue.restarted()
            self._say(run.between + self._dialogue.take_output())
        else:
            self._say(run.after)

    def _guard(self, work: "Any", what: object) -> "BaseException | None":
        """Does what may be interrupted; what it raised."""
        try:
            self._running = True
            try:
                self._raise_interrupt()
                work(what)
            except KeyboardInterrupt:
                self._asked = 0
                raise
            finally:
                self._running = False
                self._await_interrupt()
        except BaseException as failure:
            return failure
        return None

    def _execute(self, is_single: bool) -> None:
        exec(compile(self._dialogue.take_program(), "<stdin>", "single" if is_single else "exec"), self._names)

    def _tell(self, failure: BaseException) -> None:
        """Its traceback, without the frames of ours."""
        line = heading = b""

        def write(data: bytes) -> int:
            nonlocal line, heading
            line += bytes(data)
            if line.startswith(b"Traceback ") and line.endswith(b"\n"):
                line, heading = b"", line  # without a frame of the program's there is none
            elif line.endswith(b"\n"):
                if line.startswith(b"  File"):
                    line, heading = (b"", heading) if line.startswith(_OUR_FRAME) else (heading + line, b"")
                self._put(line.replace(b"\n", b"\r\n"))
                line = b""
            return len(data)

        sys.print_exception(failure, _File(write, None))

    def _move(self, blocked_ms: int = 0, idle_ms: int = 0) -> bool:
        """A step of the pump, with the agent's event loop in its place; whether all output has gone."""
        self._busy = True
        programs = _loop()
        _set_loop(self._agents)
        try:
            done = self._pump.step(blocked_ms, idle_ms)
            while self._dialogue.waiting() < _TYPED_MAX:
                data = self._stream.take(_PART)
                if not data:
                    break
                self._hear(data)
            if self._dialogue.take_interrupt() or not self._pump.is_alive():
                self._interrupt = True
            return done
        finally:
            self._moved_at = time.ticks_ms()
            _set_loop(programs)
            self._busy = False

    # --- what a program sees -----------------------------------------------------------------------------------------------

    def _put(self, data: bytes) -> None:
        if not self._running:
            return
        if self._busy or _thread.get_ident() != self._thread:
            self._pump.add(data)  # from a callback or a thread, which cannot wait: the rest is lost
            return
        self._raise_interrupt()
        while True:
            data = data[self._pump.add(data) :]
            if data or time.ticks_diff(time.ticks_ms(), self._moved_at) >= TICK_MS:
                self._flush()
            if not data:
                break

    def _flush(self) -> None:
        self._await_interrupt()
        while not self._move(WAIT_MS) and not self._interrupt:
            pass
        self._raise_interrupt()

    def _write(self, data: bytes) -> int:
        for at in range(0, len(data), _PART):
            self._put(bytes(data[at : at + _PART]).replace(b"\n", b"\r\n"))
        return len(data)

    def _write_through(self, data: bytes) -> int:
        """What a program writes to sys.stdout, where MicroPython takes an error for the end of its terminal."""
        try:
            self._put(bytes(data))
        except KeyboardInterrupt:
            self._interrupt = True
        return len(data)

    def _print(self, *values: object, **options: "Any") -> None:
        file = options.pop("file", None)
        if file is not None and file is not sys.stdout:
            self._shown(*values, file=file, **options)
            return
        self._shown(*values, file=self._text, **options)
        if self._timer is None and self._running and not self._busy:
            self._flush()

    def _show(self, value: object) -> None:
        if value is not None:
            self._names["_"] = value
            self._print(repr(value))

    def _ask(self, prompt: object = "") -> str:
        """input(), with backspace."""
        self._print(prompt, end="")
        typed = b""
        while True:
            byte = self._dialogue.take_byte()
            if byte == 0x0D or (byte == 0x04 and not typed):
                break
            if byte in (0x08, 0x7F) and typed:
                typed = typed[:-1]
                self._put(b"\b \b")
            elif byte >= 0x20:
                typed += bytes([byte])
                self._put(bytes([byte]))
            elif byte < 0:
                self._await_interrupt()
                self._move(WAIT_MS, WAIT_MS)
                self._raise_interrupt()
        if byte == 0x04:
            raise EOFError
        self._put(b"\r\n")
        return typed.decode()

    # --- interrupts --------------------------------------------------------------------------------------------------------

    def _tick(self, timer: object) -> None:
        """The timer's, between two bytecodes of whatever runs."""
        if not self._running or self._busy or _thread.get_ident() != self._thread:
            return
        if self._asked and time.ticks_diff(time.ticks_ms(), self._asked_at) < INTERRUPT_MS:
            return
        self._asked = 0
        has_waited = self._interrupt
        self._move()
        if has_waited:
            # The program has not printed since. An error of ours would end here; MicroPython raises it in the program when it reads 0x03
            # from a terminal.
            self._interrupt = False
            self._asked, self._asked_at = 1, time.ticks_ms()
            try:
                micropython.schedule(os.dupterm_notify, None)
            except RuntimeError:  # its queue is full: at the next tick
                self._asked, self._interrupt = 0, True

    def _read_interrupt(self, buffer: bytearray) -> "int | None":
        """What MicroPython reads from our terminal: nothing but the interrupt that it is told of."""
        if self._asked != 1:
            return None
        self._asked = 2
        buffer[0] = 3
        return 1

    def _await_interrupt(self) -> None:
        """An interrupt that is on its way is raised here, and not while we are at the pump, or later in the agent."""
        while self._asked:
            if time.ticks_diff(time.ticks_ms(), self._asked_at) >= INTERRUPT_MS:
                self._asked = 0  # the program has caught it

    def _raise_interrupt(self) -> None:
        if self._interrupt:
            self._interrupt = False
            raise KeyboardInterrupt


def _make_timer(tick: "Any") -> "Any":
    try:
        return machine.Timer(-1, period=TICK_MS, callback=tick)
    except ValueError:  # an ESP32 has no virtual timers in MicroPython 1.25 to 1.28; main.py may have timer 0
        return machine.Timer(1, period=TICK_MS, callback=tick)


# MicroPython has one event loop, in asyncio.core. A second asyncio.run would run the tasks of the first, and then leave it without its
# current task: so a program's has a state of its own.


def _loop() -> "tuple[Any, ...]":
    core = asyncio.core
    return core._task_queue, core._io_queue, core.cur_task, core._stop_task


def _set_loop(loop: "tuple[Any, ...]") -> None:
    core = asyncio.core
    core._task_queue, core._io_queue, core.cur_task, core._stop_task = loop


REPL = Repl()
