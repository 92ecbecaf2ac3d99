"""What a device decided lately, in a ring: who wanted which service, what came of it, how much passed, how long it took."""

import asyncio
import json
import struct

from zts import identity
from zts.errors import FormatError

from . import board

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from zts.link import LinkStream

    from .rules import Rules

KEPT = 24 if board.BOARD else 1000
_REQUEST_MAX = 100
# at4 up_ms8 in4 out4 for_ms4 code1 party15 service32; at 0: the time was not known.
_ENTRY = ">IQIIIB15s32s"
_SIZE = 72
_MOST = 0xFFFFFFFF  # that a count can say


class Audit:
    def __init__(self, rules: "Rules") -> None:
        self._rules = rules
        self._ring = bytearray(KEPT * _SIZE)  # once and for all: an entry's objects would take a board's heap five times as much
        self._count = 0  # entries ever
        self._more = asyncio.Event()

    def note(self, party: bytes, service: "str | None", code: int, got: int = 0, sent: int = 0, ms: int = 0) -> None:
        """`service` None: the session itself. `code` is the wire's; `got` and `sent` are bytes of the stream, as the device sees them."""
        numbers = [min(number, _MOST) for number in (got, sent, ms)]
        at = self._count % KEPT * _SIZE
        name = (service or "").encode()
        struct.pack_into(
            _ENTRY, self._ring, at, self._rules.now() or 0, board.clock(), numbers[0], numbers[1], numbers[2], code, party, name
        )
        self._count += 1
        self._more.set()
        fields = self._fields(self._count)
        del fields["up_ms"]
        board.log("audit", **fields)

    def _fields(self, number: int) -> "dict[str, Any]":
        at, up_ms, got, sent, ms, code, party, name = struct.unpack_from(_ENTRY, self._ring, (number - 1) % KEPT * _SIZE)
        return {
            "n": number,
            "at": at or None,
            "up_ms": up_ms,
            "who": identity.base32(party),
            "service": name.rstrip(b"\0").decode() or None,
            "code": code,
            "in": got,
            "out": sent,
            "for_ms": ms,
        }

    async def serve(self, reader: "LinkStream", writer: "LinkStream") -> None:
        """The service zts-log: a line of JSON {"after": number, "follow": bool} in, a line an entry out. Only the owner comes here."""
        line = await reader.readline()
        try:
            if len(line) > _REQUEST_MAX:
                raise ValueError
            asked = json.loads(line)
            after, follow = int(asked["after"]), asked["follow"] is True
        except (ValueError, KeyError, TypeError, RuntimeError):  # RuntimeError: nested too deeply
            raise FormatError("not a question to the log")
        while True:
            self._more.clear()
            after = max(after, self._count - KEPT)
            while after < self._count:
                after += 1
                writer.write((json.dumps(self._fields(after)) + "\n").encode())
                await writer.drain()
            if not follow:
                return
            await self._more.wait()
