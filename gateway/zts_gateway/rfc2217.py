"""A serial port over telnet (RFC 854, RFC 2217), the server's side: bytes in, events and bytes out. No input, output or clock here.

Everything asked is answered at once, from what is known here. Whatever comes, nothing is raised: what makes no sense is left out.
At most _SUB_MAX bytes are held back from one piece to the next.
"""

from collections.abc import Callable
from typing import Final, NamedTuple

from zts import line, wire


class Data(NamedTuple):
    data: bytes


class Settings(NamedTuple):
    """As they are now; also when they were set to what they were."""

    baud: int
    data_bits: int
    parity: str  # of zts.line.PARITIES
    stop_bits: int


class Modem(NamedTuple):
    """The lines that `mask` names, bits of wire.MODEM_*, are set to `values`."""

    mask: int
    values: int


class Break(NamedTuple):
    on: bool


class Purge(NamedTuple):
    which: int  # bits of wire.PURGE_*, which RFC 2217 numbers alike


Event = Data | Settings | Modem | Break | Purge

# --- telnet ------------------------------------------------------------------------------------------------------------------

_SE, _BRK, _SB, _WILL, _WONT, _DO, _DONT, _IAC = 240, 243, 250, 251, 252, 253, 254, 255
_VERBS = (_WILL, _WONT, _DO, _DONT)
_BINARY, _ECHO, _GO_AHEAD, _COM_PORT = 0, 1, 3, 44
# What each side may do. That we echo only keeps a telnet from echoing itself: whoever is at the other end of the line does it.
_OURS: Final = (_BINARY, _ECHO, _GO_AHEAD, _COM_PORT)
_THEIRS: Final = (_BINARY, _GO_AHEAD, _COM_PORT)
# For a plain telnet too: eight bits, and each key as it is typed.
_GREETING: Final = ((_WILL, _BINARY), (_DO, _BINARY), (_WILL, _ECHO), (_WILL, _GO_AHEAD), (_DO, _GO_AHEAD))

_NO, _ASKED, _YES = "no", "asked", "yes"
# (how an option is, whether the other side is for it): (how it is then, what to say). Nothing is said twice, so no two ends go on for ever.
_NEGOTIATION: Final = {
    (_NO, True): (_YES, True),
    (_NO, False): (_NO, None),
    (_ASKED, True): (_YES, None),
    (_ASKED, False): (_NO, None),
    (_YES, True): (_YES, None),
    (_YES, False): (_NO, False),
}

# --- RFC 2217 ----------------------------------------------------------------------------------------------------------------

_SUB_MAX = 16  # bytes of a suboption; the longest that is answered has 6
_ANSWER = 100  # from the client's numbers to the server's
_SIGNATURE, _BAUD, _DATA_BITS, _PARITY, _STOP_BITS, _CONTROL, _NOTIFY_LINE, _NOTIFY_MODEM = range(8)
_SUSPEND, _RESUME, _LINE_MASK, _MODEM_MASK, _PURGE = range(8, 13)
_SIZES: Final = {  # bytes of the value
    _SIGNATURE: 0,
    _BAUD: 4,
    _DATA_BITS: 1,
    _PARITY: 1,
    _STOP_BITS: 1,
    _CONTROL: 1,
    _NOTIFY_LINE: 0,  # a question, as pyserial asks it
    _NOTIFY_MODEM: 0,
    _SUSPEND: 0,
    _RESUME: 0,
    _LINE_MASK: 1,
    _MODEM_MASK: 1,
    _PURGE: 1,
}
_PARITIES: Final = {"N": 1, "O": 2, "E": 3, "M": 4, "S": 5}

_BREAK_ON, _BREAK_OFF = 5, 6
_ANSWERS_OF_CONTROL: Final = {  # the flow control that there is: none, out, and none, in
    **dict.fromkeys((0, 1, 2, 3, 17, 19), 1),
    **dict.fromkeys((13, 14, 15, 16, 18), 14),
}
_LINES: Final = {8: (wire.MODEM_DTR, True), 9: (wire.MODEM_DTR, False), 11: (wire.MODEM_RTS, True), 12: (wire.MODEM_RTS, False)}
_QUESTIONS: Final = {7: (wire.MODEM_DTR, 8, 9), 10: (wire.MODEM_RTS, 11, 12)}  # which line: how on is said, and off


class Server:
    """One connection. After each call take what `output` has to say to the client."""

    def __init__(self) -> None:
        self.settings = Settings(115200, 8, "N", 1)
        self.is_suspended = False  # the client wants no data now
        self._out = bytearray()
        self._events: list[Event] = []
        self._text = bytearray()
        self._state: Callable[[int], None] = self._in_text
        self._verb = 0
        self._sub = bytearray()
        self._agreed: dict[tuple[bool, int], str] = {}  # (ours, option)
        self._modem = wire.MODEM_DTR | wire.MODEM_RTS  # as Linux has them when it opens a port
        self._break = False
        self._line_state = 0
        self._lost_mask = 0
        self._modem_mask = 255
        for verb, option in _GREETING:
            self._agreed[verb == _WILL, option] = _ASKED
            self._out += bytes((_IAC, verb, option))

    def output(self) -> bytes:
        """What the client is to be sent."""
        out = bytes(self._out)
        self._out.clear()
        return out

    def send(self, data: bytes) -> None:
        self._out += data.replace(b"\xff", b"\xff\xff")

    def tell_state(self, bits: int) -> None:
        """How the device's lines are: bits of wire.STATE_*."""
        changed = (bits ^ self._line_state) & 0xF0
        self._line_state = bits & 0xF0
        if changed & self._modem_mask:
            self._notify(changed >> 4)
        if bits & wire.STATE_LOST & self._lost_mask:
            self._answer(_NOTIFY_LINE, bytes([wire.STATE_LOST]))

    def receive(self, piece: bytes) -> list[Event]:
        """What the client did, in its order."""
        at = 0
        while at < len(piece):
            if self._state in (self._in_text, self._in_sub):  # most bytes are like those before them
                end = piece.find(_IAC, at)
                run = piece[at : len(piece) if end < 0 else end]
                if self._state == self._in_text:
                    self._text += run
                else:
                    self._gather(run)
                at += len(run)
                if end < 0:
                    break
            self._state(piece[at])
            at += 1
        self._end_text()
        events, self._events = self._events, []
        return events

    # The states: each takes one byte; the first of text and of a suboption that is not like the others is IAC.

    def _in_text(self, _: int) -> None:
        self._state = self._in_command

    def _in_command(self, byte: int) -> None:
        self._state = self._in_text
        if byte == _IAC:
            self._text.append(byte)
        elif byte in _VERBS:
            self._verb = byte
            self._state = self._in_option
        elif byte == _SB:
            self._sub.clear()
            self._state = self._in_sub
        elif byte == _BRK:
            self._tell(Break(True))
            self._tell(Break(False))

    def _in_option(self, byte: int) -> None:
        self._state = self._in_text
        self._negotiate(self._verb, byte)

    def _in_sub(self, _: int) -> None:
        self._state = self._in_sub_command

    def _in_sub_command(self, byte: int) -> None:
        if byte == _IAC:
            self._state = self._in_sub
            self._gather(b"\xff")
        elif byte == _SE:
            self._state = self._in_text
            self._perform(bytes(self._sub))
        else:  # the suboption never ended: it is left out, and this is a command as any other
            self._in_command(byte)

    # What they lead to.

    def _gather(self, run: bytes) -> None:
        self._sub += run[: _SUB_MAX + 1 - len(self._sub)]  # one too many makes it of no known size

    def _tell(self, event: Event) -> None:
        self._end_text()
        self._events.append(event)

    def _end_text(self) -> None:
        if self._text:
            self._events.append(Data(bytes(self._text)))
            self._text.clear()

    def _negotiate(self, verb: int, option: int) -> None:
        ours, is_for = verb in (_DO, _DONT), verb in (_DO, _WILL)
        yes, no = (_WILL, _WONT) if ours else (_DO, _DONT)
        if option not in (_OURS if ours else _THEIRS):
            if is_for:
                self._out += bytes((_IAC, no, option))
            return
        before = self._agreed.get((ours, option), _NO)
        after, said = _NEGOTIATION[before, is_for]
        self._agreed[ours, option] = after
        if said is not None:
            self._out += bytes((_IAC, yes if said else no, option))
        if (ours, option, after) == (False, _COM_PORT, _YES) and before != _YES:
            self._notify(0)  # pyserial knows no line until it was told of all

    def _perform(self, sub: bytes) -> None:
        if len(sub) < 2 or sub[0] != _COM_PORT or _SIZES.get(sub[1]) != len(sub) - 2:
            return
        what, value = sub[1], int.from_bytes(sub[2:], "big")
        if what == _SIGNATURE:
            self._answer(what, b"zts")
        elif what in (_BAUD, _DATA_BITS, _PARITY, _STOP_BITS):
            self._answer(what, self._set(what, value))
        elif what == _CONTROL:
            self._control(value)
        elif what == _NOTIFY_LINE:
            self._answer(what, b"\0")
        elif what == _NOTIFY_MODEM:
            self._answer(what, bytes([self._line_state]))
        elif what in (_SUSPEND, _RESUME):
            self.is_suspended = what == _SUSPEND
        elif what == _LINE_MASK:
            self._lost_mask = value & wire.STATE_LOST  # an overrun, which RFC 2217 numbers alike; other errors nobody tells us
            self._answer(what, sub[2:])
        elif what == _MODEM_MASK:
            self._modem_mask = value
            self._answer(what, sub[2:])
        elif what == _PURGE and 1 <= value <= 3:
            self._tell(Purge(value))
            self._answer(what, sub[2:])

    def _set(self, what: int, value: int) -> bytes:
        """The answer: what then holds, which is what held if no port can have `value`. 0 is the question for it."""
        now = self.settings
        wanted = now
        if what == _BAUD and line.BAUD_MIN <= value <= line.BAUD_MAX:
            wanted = now._replace(baud=value)
        elif what == _DATA_BITS and 5 <= value <= 8:
            wanted = now._replace(data_bits=value)
        elif what == _PARITY and value in _PARITIES.values():
            wanted = now._replace(parity=next(parity for parity, number in _PARITIES.items() if number == value))
        elif what == _STOP_BITS and 1 <= value <= 2:  # 3 would be one and a half
            wanted = now._replace(stop_bits=value)
        else:
            value = 0
        if value:
            self.settings = wanted
            self._tell(wanted)
        if what == _BAUD:
            return wanted.baud.to_bytes(4, "big")
        return bytes([{_DATA_BITS: wanted.data_bits, _PARITY: _PARITIES[wanted.parity], _STOP_BITS: wanted.stop_bits}[what]])

    def _control(self, value: int) -> None:
        if value in _ANSWERS_OF_CONTROL:
            value = _ANSWERS_OF_CONTROL[value]
        elif value in _LINES:
            line_, on = _LINES[value]
            self._modem = self._modem | line_ if on else self._modem & ~line_
            self._tell(Modem(line_, line_ if on else 0))
        elif value in _QUESTIONS:
            line_, said_on, said_off = _QUESTIONS[value]
            value = said_on if self._modem & line_ else said_off
        elif value in (_BREAK_ON, _BREAK_OFF):
            self._break = value == _BREAK_ON
            self._tell(Break(self._break))
        elif value == 4:
            value = _BREAK_ON if self._break else _BREAK_OFF
        else:
            return
        self._answer(_CONTROL, bytes([value]))

    def _notify(self, changes: int) -> None:
        """`changes`: the lines that changed, in the lower four bits."""
        if self._agreed.get((False, _COM_PORT)) == _YES:
            self._answer(_NOTIFY_MODEM, bytes([(self._line_state | changes) & self._modem_mask]))

    def _answer(self, what: int, value: bytes) -> None:
        self._out += bytes((_IAC, _SB, _COM_PORT, what + _ANSWER)) + value.replace(b"\xff", b"\xff\xff") + bytes((_IAC, _SE))
