"""The server side of TLS as bytes in, bytes out.

asyncio's own TLS keeps a buffer of 256 KiB for each connection; here a connection keeps what OpenSSL needs.
"""

import ssl

_READ_BYTES = 16384  # plaintext of one TLS record, RFC 8446 section 5.1


class TlsStream:
    """One connection. After every call `outgoing()` holds what must be sent to the other side."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._in = ssl.MemoryBIO()
        self._out = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_side=True)
        self.ended = False  # the other side said that it sends no more

    def receive(self, data: bytes) -> bytes:
        """The plaintext that `data` completes, maybe none. Raises ssl.SSLError: then send `outgoing()` and close."""
        self._in.write(data)
        plain = bytearray()
        try:
            while more := self._tls.read(_READ_BYTES):  # shakes hands first, as far as it can
                plain += more
            self.ended = True  # nothing read, and no wish for more: a close_notify came
        except ssl.SSLWantReadError:
            pass
        return bytes(plain)

    def send(self, plain: bytes) -> None:
        """Seal `plain`, which is not empty. Only after the handshake, so only in answer to plaintext received."""
        self._tls.write(plain)

    def outgoing(self) -> bytes:
        """What is to be sent now, maybe nothing."""
        return self._out.read()
