"""The dialogue of a MicroPython prompt, for people and for mpremote: what is typed in; what to run, and what to say, out. Sans-IO.

Friendly prompt, paste mode, raw REPL and raw paste answer byte for byte as MicroPython's own do, which the tests hold it to. Of line
editing it has backspace and the lines before (up and down). Typed bytes above 0x7f are taken too, since sources are UTF-8.
"""

from collections import namedtuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

# A program, which `take_program` gives: whether the values of its expressions are shown, what to say between its output and its
# traceback, and at the end.
Run = namedtuple("Run", ("is_single", "between", "after"))
Reset = namedtuple("Reset", ())  # soft reset; `restarted` answers it

# Both sides have windows of their own below this one, so it need not be small: a program of twice this size waits for nobody.
PASTE_WINDOW = 16384
UNASKED = 1024  # bytes of a program that are taken before anybody asks whether there is room
_HISTORY = 8  # lines, as MicroPython keeps

_RAW_BANNER = b"raw REPL; CTRL-B to exit\r\n>"
_COMPOUND = ("if", "while", "for", "try", "with", "def", "class", "async")

_FRIENDLY, _PASTE, _RAW, _RAW_PASTE = range(4)
# What each state looks for in what is typed; all else is text. A friendly line is looked at byte by byte.
_CONTROLS = (b"", b"\x03\x04\r", b"\x01\x02\x03\x04", b"\x03\x04")


def is_incomplete(source: str) -> bool:
    """Whether more lines belong to this one: something is open, or a compound statement has not met its empty line."""
    quote = ""
    depth = at = 0
    while at < len(source):
        char = source[at]
        if char in "'\"":
            if not quote or quote[0] == char:
                triple = source[at : at + 3] == char * 3
                if len(quote) != 1 and triple:
                    quote = "" if quote else char * 3
                    at += 2
                elif len(quote) != 3:
                    quote = "" if quote else char
        elif quote:
            if char == "\\":
                at += 1
        elif char in "([{":
            depth += 1
        elif char in ")]}":
            depth -= 1
        at += 1
    if len(quote) == 3 or (depth > 0 and not quote) or source.endswith("\\"):
        return True
    word = 0
    while word < len(source) and (source[word].isalpha() or source[word].isdigit() or source[word] == "_"):
        word += 1
    return (source[:1] == "@" or source[:word] in _COMPOUND) and not source.endswith("\n")


class Dialogue:
    """`banner` is what the friendly prompt says at first, `room()` the longest program the heap can take now."""

    def __init__(self, banner: bytes, room: "Callable[[], int]") -> None:
        self._banner = banner
        self._ask_room = room
        self._room = UNASKED
        self.can_paste = True  # else a client that asks for raw paste is told to do without
        self._state = _FRIENDLY
        self._input = b""
        self._output = bytearray()
        self._program: list[bytes] = []
        self._size = 0  # of it
        self._whole: bytes | BaseException = b""  # the program to run
        self._window = 0  # what may come until the next window is opened
        self._line = b""
        self._above = ""  # the lines above it, of the same statement
        self._history: list[bytes] = []
        self._recalled = 0  # how many lines back
        self._escape = b""
        self._last = 0  # the byte before

    # --- what the service does ---------------------------------------------------------------------------------------------

    def receive(self, data: bytes) -> None:
        self._input += data

    def waiting(self) -> int:
        """Bytes that were typed ahead."""
        return len(self._input)

    def take_program(self) -> bytes:
        """The source that Run told of, once. Raises what stands in its place: MemoryError, KeyboardInterrupt."""
        whole, self._whole = self._whole, b""
        if isinstance(whole, BaseException):
            raise whole
        return whole

    def take_interrupt(self) -> bool:
        """Whether Ctrl-C was typed; it is not in what was typed any more."""
        had = len(self._input)
        self._input = self._input.replace(b"\x03", b"")
        return len(self._input) < had

    def take_byte(self) -> int:
        """The next typed byte, for a program that asks for input, or -1. A newline is 0x0d, however it was typed."""
        while self._input:
            byte, last = self._input[0], self._last
            self._input = self._input[1:]
            self._last = byte
            if byte != 0x0A:
                return byte
            if last != 0x0D:
                return 0x0D
        return -1

    def is_pasting(self) -> bool:
        """Whether a client was told to begin with raw paste, and has not."""
        return self._state == _RAW_PASTE and not self._size

    def take_output(self) -> bytes:
        said = bytes(self._output)
        self._output = bytearray()
        return said

    def start(self) -> None:
        """Says what stands at the beginning."""
        self._say(self._banner if self._state == _FRIENDLY else _RAW_BANNER)

    def restarted(self) -> None:
        """A soft reset was done, in whatever mode."""
        self._say(b"MPY: soft reboot\r\n")
        self._history = []
        self.start()

    def next_event(self) -> "tuple | None":  # type: ignore[type-arg]
        """Run or Reset, or None until more is typed."""
        while self._input:
            event = self._type_ahead() if self._state == _FRIENDLY else self._take_program()
            if event is not None:
                return event
        return None

    # --- programs ----------------------------------------------------------------------------------------------------------

    def _say(self, said: bytes) -> None:
        self._output += said

    def _take_program(self) -> "tuple | None":  # type: ignore[type-arg]
        """The text up to the next control byte, and that byte."""
        ends = [at for at in [self._input.find(bytes([control])) for control in _CONTROLS[self._state]] if at >= 0]
        end = min(ends) if ends else len(self._input)
        text, control = self._input[:end], self._input[end : end + 1]
        self._input = self._input[end + 1 :]
        if self._state == _PASTE:
            self._say(text + (b"\r\n=== " if control == b"\r" else b""))
            text += control.replace(b"\x03", b"").replace(b"\x04", b"")
        self._keep(text)
        if self._state == _RAW_PASTE:
            return self._paste_raw(len(text), control)
        if self._state == _RAW:
            return self._command(control)
        if control == b"\x03" or control == b"\x04":
            self._state = _FRIENDLY
            self._say(b"\r\n")
            if control == b"\x04":
                self._whole = self._take()
                return Run(False, b"", b">>> ")
            self._take()
            self._say(b">>> ")
        return None

    def _keep(self, text: bytes) -> None:
        had = self._size
        self._size += len(text)
        if had <= UNASKED < self._size:
            self._room = self._ask_room()
        if self._size > UNASKED and self._size > self._room:
            self._program = []
        elif text:
            self._program.append(text)

    def _take(self) -> "bytes | Exception":
        """The program, and none is kept; or the error that it was longer than the room."""
        program, size = self._program, self._size
        self._program, self._size = [], 0
        if size > UNASKED and size > self._room:
            return MemoryError(f"the program has more than {self._room} bytes")
        try:
            return b"".join(program)
        except MemoryError as error:
            return error

    def _command(self, control: bytes) -> "tuple | None":  # type: ignore[type-arg]
        """The raw REPL."""
        if control == b"\x01":
            asked = self._take()
            if asked == b"\x05A" and not self.can_paste:
                self._say(b"R\x00")
            elif asked == b"\x05A":
                self._state = _RAW_PASTE
                self._window = PASTE_WINDOW
                # Two windows are open: one goes with its size.
                self._say(b"R\x01" + PASTE_WINDOW.to_bytes(2, "little") + b"\x01")
            elif isinstance(asked, bytes) and asked[:1] == b"\x05" and len(asked) == 2:
                self._say(b"R\x00>")
            else:
                self._say(_RAW_BANNER)
        elif control == b"\x02":
            self._take()
            self._state = _FRIENDLY
            self._say(b"\r\n" + self._banner)
        elif control == b"\x03":
            self._take()
        elif control == b"\x04":
            self._say(b"OK")
            self._whole = self._take()
            if self._whole == b"":
                self._say(b"\r\n")
                return Reset()
            return Run(False, b"\x04", b"\x04>")
        return None

    def _paste_raw(self, size: int, control: bytes) -> "tuple | None":  # type: ignore[type-arg]
        refused = self._window > 0 and self._size > UNASKED and self._size > self._room
        if refused:
            self._say(b"\x04")  # and what was sent meanwhile is thrown away, up to the other side's answer
            self._window = 0
        elif self._window > 0:
            self._window -= size
            while self._window <= 0:
                self._say(b"\x01")
                self._window += PASTE_WINDOW
        if not control:
            return None
        self._state = _RAW
        if self._window > 0:
            self._say(b"\x04")
        self._whole = self._take()
        if control == b"\x03" and self._window > 0:
            self._whole = KeyboardInterrupt()
        return Run(False, b"\x04", b"\x04>")

    # --- the friendly prompt -----------------------------------------------------------------------------------------------

    def _type_ahead(self) -> "tuple | None":  # type: ignore[type-arg]
        typed = self._input
        for at in range(len(typed)):
            event = self._type(typed[at])
            if event is not None or self._state != _FRIENDLY:
                self._input = typed[at + 1 :]
                return event
        self._input = b""
        return None

    def _type(self, byte: int) -> "tuple | None":  # type: ignore[type-arg]
        last, self._last = self._last, byte
        if self._escape:
            self._finish_escape(byte)
        elif byte == 0x1B:
            self._escape = b"\x1b"
        elif byte == 0x0D or (byte == 0x0A and last != 0x0D):
            return self._enter()
        elif byte == 0x03:
            self._say(b"\r\n")
            self._prompt()
        elif byte in (0x08, 0x7F):
            self._erase()
        elif byte >= 0x20 and len(self._line) + len(self._above) < UNASKED:
            self._line += bytes([byte])
            self._say(bytes([byte]))
        elif not self._line and byte <= 0x05:
            return self._control(byte)
        return None

    def _control(self, byte: int) -> "tuple | None":  # type: ignore[type-arg]
        if self._above:
            if byte == 0x04:
                return self._run()
            return None
        self._say(b"\r\n")
        if byte == 0x01:
            self._state = _RAW
            self._say(_RAW_BANNER)
        elif byte == 0x02:
            self._say(self._banner)
        elif byte == 0x04:
            return Reset()
        else:
            self._state = _PASTE
            self._say(b"paste mode; Ctrl-C to cancel, Ctrl-D to finish\r\n=== ")
        return None

    def _enter(self) -> "tuple | None":  # type: ignore[type-arg]
        self._say(b"\r\n")
        if self._line and self._line not in self._history[-1:]:
            self._history = self._history[1 - _HISTORY :] + [self._line]
        self._recalled = 0
        line, self._line = self._line, b""
        try:
            self._above += line.decode()
        except ValueError:
            self._above = ""
            self._say(b"that is not UTF-8\r\n>>> ")
            return None
        if not self._above:
            self._say(b">>> ")
        elif is_incomplete(self._above):
            self._above += "\n"
            self._say(b"... ")
        else:
            return self._run()
        return None

    def _run(self) -> "tuple":  # type: ignore[type-arg]
        self._whole, self._above = self._above.encode(), ""
        return Run(True, b"", b">>> ")

    def _prompt(self) -> None:
        self._line, self._above, self._recalled = b"", "", 0
        self._say(b">>> ")

    def _erase(self) -> None:
        if self._line:
            while len(self._line) > 1 and self._line[-1] & 0xC0 == 0x80:  # a character has one byte that is none of these
                self._line = self._line[:-1]
            self._line = self._line[:-1]
            self._say(b"\b \b")

    def _finish_escape(self, byte: int) -> None:
        if self._escape == b"\x1b" and byte in b"[O":
            self._escape += b"["
            return
        if self._escape == b"\x1b[" and 0x20 <= byte < 0x40:
            return  # a parameter
        key, self._escape = self._escape + bytes([byte]), b""
        recalled = self._recalled + (1 if key == b"\x1b[A" else -1 if key == b"\x1b[B" else 0)
        if recalled != self._recalled and 0 <= recalled <= len(self._history):
            self._recalled = recalled
            self._line = self._history[-recalled] if recalled else b""
            self._say(b"\r" + (b"... " if self._above else b">>> ") + self._line + b"\x1b[K")
