"""Line messages: a serial line inside a stream, its bytes and what else a serial port can be told.

PROTOCOL.md, "Serial lines". Messages stand in the stream one behind the other, so a setting takes effect between the same
two bytes at which the program changed it.
"""

from . import wire
from .errors import RemoteError

# Body bytes of all types but DATA.
SIZES = {
    wire.LINE_SETTINGS: 7,
    wire.LINE_MODEM: 2,
    wire.LINE_BREAK: 2,
    wire.LINE_RESET: 1,
    wire.LINE_PURGE: 1,
    wire.LINE_STATE: 1,
}
BAUD_MIN = 50
BAUD_MAX = 4_000_000
PARITIES = "NEOMS"  # none, even, odd, mark, space: 0 to 4
DATA_MAX = 1024  # bytes in one DATA message that we write
_HEAD = 3
_LONGEST = _HEAD + 7


def data(piece: bytes) -> bytes:
    """`piece` as DATA messages; nothing for nothing."""
    return b"".join([encode(wire.LINE_DATA, piece[at : at + DATA_MAX]) for at in range(0, len(piece), DATA_MAX)])


def encode(kind: int, body: bytes) -> bytes:
    return bytes([kind]) + len(body).to_bytes(2, "big") + body


def settings(baud: int, data_bits: int, parity: str, stop_bits: int) -> bytes:
    """`parity` is one of PARITIES. `stop_bits` 1 or 2."""
    return encode(wire.LINE_SETTINGS, baud.to_bytes(4, "big") + bytes([data_bits, PARITIES.index(parity), stop_bits]))


def read_settings(body: bytes) -> "tuple[int, int, str, int]":
    """(baud, data bits, parity, stop bits). Raises RemoteError for what no serial port can be."""
    baud = int.from_bytes(body[:4], "big")
    if not BAUD_MIN <= baud <= BAUD_MAX or not 5 <= body[4] <= 8 or body[5] >= len(PARITIES) or not 1 <= body[6] <= 2:
        raise RemoteError("settings that no serial port has")
    return baud, body[4], PARITIES[body[5]], body[6]


class Decoder:
    """Takes a stream's bytes in any pieces. Holds at most one short message; DATA is passed on as it comes."""

    def __init__(self) -> None:
        self._held = b""  # a head, and the body of what is not DATA
        self._more = 0  # bytes of DATA still to come

    def feed(self, piece: bytes) -> "list[tuple[int, bytes]]":
        """(type, body) of what has come; a DATA message may come in several. Raises RemoteError; nothing may be fed after that."""
        messages = []
        at = 0
        while at < len(piece):
            if self._more:
                part = piece[at : at + self._more]
                messages.append((wire.LINE_DATA, bytes(part)))
                at += len(part)
                self._more -= len(part)
                continue
            want = _HEAD if len(self._held) < _HEAD else _HEAD + SIZES[self._held[0]]
            part = piece[at : at + want - len(self._held)]
            self._held += bytes(part)
            at += len(part)
            if len(self._held) == _HEAD:
                self._begin()
            elif len(self._held) > _HEAD and len(self._held) == want:
                messages.append((self._held[0], self._held[_HEAD:]))
                self._held = b""
        return messages

    def _begin(self) -> None:
        kind, size = self._held[0], int.from_bytes(self._held[1:], "big")
        if kind == wire.LINE_DATA and size:
            self._more = size
            self._held = b""
        elif SIZES.get(kind) != size:
            raise RemoteError("a line message of unknown type or wrong size")

    def is_between(self) -> bool:
        """Whether the stream may end here."""
        return not self._held and not self._more
