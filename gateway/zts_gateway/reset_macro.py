"""Recognises the ways in which programs reset a chip by DTR and RTS, which a network in between would stretch out of shape.

On boards the two lines work through a pair of transistors: DTR off and RTS on hold the chip in reset, DTR on and RTS off pull its boot
pin, and both on or both off do nothing. What a program sets is followed here; a whole sequence goes to the device as one LINE_RESET,
which the device plays in its own time and which leaves both lines off. All else goes as LINE_MODEM.
"""

from typing import Final

from zts import line, wire

# How long a step that may belong to a sequence waits for the next one, in ms. esptool holds a chip in reset for 100 or 200 ms, and its
# telnet port takes some 50 ms for each of the two to four steps in between.
HOLD_MS = 1000

_TELL, _HOLD, _RUN, _BOOTLOADER = "tell", "hold", "run", "bootloader"
# (stage, DTR and RTS as they are now): (stage after it, what is sent). Anything else: free, and tell.
_TABLE: Final = {
    ("free", "00"): ("idle", _TELL),
    ("free", "01"): ("reset", _HOLD),
    ("idle", "01"): ("reset", _HOLD),
    # esptool's hard reset: reset, and let go.
    ("reset", "00"): ("idle", _RUN),
    # esptool's classic reset: let go with the boot pin pulled, one line after the other. The boot pin is let go later, which tells nothing.
    ("reset", "11"): ("released", _HOLD),
    ("released", "01"): ("reset", _HOLD),
    ("released", "10"): ("boot", _BOOTLOADER),
    ("boot", "00"): ("idle", _TELL),
    # esptool's reset of a chip's own USB port: the boot pin first, then reset, and let go.
    ("idle", "10"): ("pin", _TELL),
    ("pin", "00"): ("idle", _TELL),
    ("pin", "11"): ("pin and RTS", _TELL),
    ("pin and RTS", "01"): ("reset by USB", _HOLD),
    ("reset by USB", "11"): ("released", _HOLD),
    ("reset by USB", "00"): ("idle", _BOOTLOADER),
}
_LASTING: Final = ("free", "idle")


class ResetMacro:
    """Takes changes of DTR and RTS, gives line messages. `now` in ms."""

    def __init__(self) -> None:
        self.deadline: int | None = None  # when `settle` must be called at the latest
        self._lines = ["?", "?"]  # DTR and RTS: what the program set, "0" or "1"
        self._told = ["?", "?"]  # what the device was told
        self._stage = "free"

    def change(self, mask: int, values: int, now: int) -> bytes:
        """The program set the lines that `mask` names, bits of wire.MODEM_*. The messages to send now."""
        before = self._lines[:]
        for at, bit in enumerate((wire.MODEM_DTR, wire.MODEM_RTS)):
            if mask & bit:
                self._lines[at] = "1" if values & bit else "0"
        said = b""
        if self._lines != before:
            self._stage, action = _TABLE.get((self._stage, "".join(self._lines)), ("free", _TELL))
            if action == _TELL:
                said = self._tell()
            elif action != _HOLD:
                said = self._reset(action)
        self.deadline = None if self._stage in _LASTING else now + HOLD_MS
        return said

    def settle(self) -> bytes:
        """No sequence goes on here, be it that time is up or that something else comes: the messages for what was held back."""
        said = self._reset(_RUN) if self._stage == "released" else b""
        lines = "".join(self._lines)
        self._stage = {"00": "idle", "01": "reset"}.get(lines, "free")
        self.deadline = None
        return said + self._tell()

    def _reset(self, action: str) -> bytes:
        self._told = ["0", "0"]
        return line.encode(wire.LINE_RESET, bytes([wire.RESET_RUN if action == _RUN else wire.RESET_BOOTLOADER]))

    def _tell(self) -> bytes:
        mask = values = 0
        for bit, now, told in zip((wire.MODEM_DTR, wire.MODEM_RTS), self._lines, self._told, strict=True):
            if now != told:
                mask |= bit
                values |= bit if now == "1" else 0
        self._told = self._lines[:]
        return line.encode(wire.LINE_MODEM, bytes([mask, values])) if mask else b""
