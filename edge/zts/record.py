"""The key schedule, and the way between a leg's bytes and its sealed records. PROTOCOL.md, "Keys" and "Records".

Each stream and direction has its own key; the counter starts at 0 on every leg and nothing sets it.
"""

from . import crypto, wire
from .errors import CryptoError, RemoteError
from .noise import nonce, rekey


def session_key(h: bytes, k1: bytes, k2: bytes, sid: bytes) -> bytes:
    return crypto.hkdf(h, k1 + k2, b"ZTS/1 session" + sid)


def leg_key(session: bytes, client_header: bytes, device_header: bytes) -> bytes:
    """Fresh as soon as one side's leg number is: each side's header holds a number it never repeats."""
    return crypto.hkdf_expand(session, b"leg" + client_header + device_header, wire.KEY_BYTES)


def stream_key(leg: bytes, stream: int, sender_role: int) -> bytes:
    return crypto.hkdf_expand(leg, stream.to_bytes(4, "big") + bytes([sender_role]), wire.KEY_BYTES)


class _Cipher:
    """One stream's one direction: a key and the counter of records sealed or opened with it."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._aead = crypto.Aead(key)
        self.n = 0

    def _next(self) -> "tuple[crypto.Aead, bytes]":
        """The AEAD and the nonce of the next record."""
        if self.n and self.n % wire.REKEY_RECORDS == 0:
            self._key = rekey(self._key)
            self._aead = crypto.Aead(self._key)
        return self._aead, nonce(self.n)

    def seal(self, frame: bytes, head: bytes) -> bytes:
        aead, number = self._next()
        sealed = aead.seal(number, frame, head)
        self.n += 1
        return sealed

    def open_(self, sealed: "bytes | memoryview", head: bytes) -> bytes:
        aead, number = self._next()
        frame = aead.open_(number, sealed, head)
        self.n += 1
        return frame


class RecordLayer:
    """Seals and opens the records of one leg. After an exception the leg must end: a counter may have moved for nothing."""

    def __init__(self, key: bytes, our_role: int, their_role: int, max_record: int) -> None:
        self._key = key
        self._roles = (our_role, their_role)
        self._max_record = max_record  # the longest len2 we take
        self._sealing: dict[int, _Cipher] = {}
        self._opening: dict[int, _Cipher] = {}
        self._buffer: bytes | bytearray = b""
        self._at = 0
        self.sent = 0  # records on this leg; PING compares them
        self.received = 0

    def _cipher(self, ciphers: "dict[int, _Cipher]", stream: int, role: int) -> _Cipher:
        cipher = ciphers.get(stream)
        if cipher is None:
            cipher = ciphers[stream] = _Cipher(stream_key(self._key, stream, role))
        return cipher

    def seal(self, stream: int, frame: bytes) -> bytes:
        """len2 stream4 | AES-256-GCM(k, 0^4 | counter8, ad = these 6 bytes)."""
        head = (len(frame) + wire.TAG_BYTES).to_bytes(2, "big") + stream.to_bytes(4, "big")
        sealed = self._cipher(self._sealing, stream, self._roles[0]).seal(frame, head)
        self.sent += 1
        return head + sealed

    def receive_data(self, data: bytes) -> None:
        rest = self._buffer[self._at :]
        self._buffer = rest + data if rest else data
        self._at = 0

    def pending(self) -> int:
        """Bytes of a record that is not whole yet."""
        return len(self._buffer) - self._at

    def next_record(self, is_open) -> "tuple[int, bytes] | None":  # type: ignore[no-untyped-def]
        """(stream, frame), or None until more bytes come. `is_open(stream)` says whether a record may come on it.

        Raises RemoteError for a length or stream that may not be, CryptoError for a record that is not authentic.
        """
        at = self._at
        have = len(self._buffer) - at
        if have < wire.RECORD_HEAD_BYTES:
            return None
        view = memoryview(self._buffer)
        head = bytes(view[at : at + wire.RECORD_HEAD_BYTES])
        length = int.from_bytes(head[:2], "big")
        stream = int.from_bytes(head[2:], "big")
        if not wire.RECORD_MIN_LEN <= length <= self._max_record:
            raise RemoteError("record of a length we did not offer")
        if not is_open(stream):
            raise RemoteError("record for a stream that is not open")
        if have < wire.RECORD_HEAD_BYTES + length:
            return None
        start = at + wire.RECORD_HEAD_BYTES
        sealed = view[start : start + length]
        frame = self._cipher(self._opening, stream, self._roles[1]).open_(sealed, head)
        self._at = start + length
        self.received += 1
        return stream, frame

    def forget(self, stream: int) -> None:
        """The stream ended in both directions; its id never comes again, so its keys may go."""
        self._sealing.pop(stream, None)
        self._opening.pop(stream, None)


__all__ = ["CryptoError", "RecordLayer", "leg_key", "session_key", "stream_key"]
