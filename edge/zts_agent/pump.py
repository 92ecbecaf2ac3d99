"""A stream's leg while a program holds up the event loop: the program's output leaves, PINGs are answered, what is typed is heard.

Works between two steps of the event loop, when nothing is half done on the leg (`Link.idle`). Not re-entrant.
"""

import select

from zts import wire

from . import board

TYPE_CHECKING = False
if TYPE_CHECKING:
    from zts.link import LinkStream

WAIT_MS = 50  # for the leg, before the session's timers are looked at again
_HEAD = 3
_MESSAGE = wire.BOARD_MAX_RECORD - wire.TAG_BYTES - 1  # one DATA message is one record
_READS = 8  # of the leg in one step: a timer's callback must end


class Pump:
    """`stream` is one of line messages."""

    def __init__(self, stream: "LinkStream") -> None:
        self._stream = stream
        self._link = stream.link
        self._sock = self._link.writer.s
        self._poller = select.poll()
        self._poller.register(self._sock, select.POLLIN)
        # A program may print byte by byte, which must not cost an object each.
        self._buffer = bytearray(_MESSAGE)
        self._end = _HEAD  # of the output in it
        self._message = b""  # what of a message waits for credit
        self._records: list[bytes] = []  # sealed, for the leg

    def is_alive(self) -> bool:
        """Whether there is still somebody who reads."""
        return not self._stream.is_reset() and not self._link.session.is_over()

    def add(self, data: bytes) -> int:
        """Takes output; how many bytes there was room for."""
        at = self._end
        size = min(len(data), _MESSAGE - at)
        self._end = at + size
        self._buffer[at : at + size] = data[:size]
        return size

    def step(self, blocked_ms: int = 0, idle_ms: int = 0) -> bool:
        """Moves what can be moved, both ways; whether all output has gone. Waits for the leg: so long while output is left, or is not.

        What ends the leg is told to its link. The watchdog is fed as long as there is somebody who could stop the program.
        """
        link = self._link
        try:
            if link.session.is_over():
                return True
            if self.is_alive():
                board.feed_watchdog()
            link.session.handle_timeout(board.clock())
            said = self._seal()
            sent = self._send()
            self._poller.modify(self._sock, select.POLLIN if sent else select.POLLIN | select.POLLOUT)
            wait_ms = idle_ms if said and sent else blocked_ms
            for _ in range(_READS):
                data = self._sock.read(board.READ - link.session.pending()) if self._poller.poll(wait_ms) else None
                if data is None:
                    break
                if not data:
                    raise EOFError("the relay closed the leg")
                if not link.take(data):
                    link.end(None)
                    break
                wait_ms = 0
            return said and sent
        except Exception as error:
            link.end(error)
            return True

    def rest(self) -> bytes:
        """The output, as line messages, that the leg did not take; none is kept. All that is sealed has gone, or the leg is over."""
        while self._records and not self._link.session.is_over():
            self.step(WAIT_MS)
        return self._message + self._wrap()

    def _wrap(self) -> bytes:
        """The output as a message; it is not kept."""
        self._message = b""
        size = self._end - _HEAD
        self._end = _HEAD
        if not size:
            return b""
        self._buffer[:_HEAD] = bytes([wire.LINE_DATA]) + size.to_bytes(2, "big")
        return bytes(self._buffer[: _HEAD + size])

    def _seal(self) -> bool:
        """Whether all output is in records."""
        if not self.is_alive():
            self._wrap()
        while True:
            if not self._message:
                self._message = self._wrap()
            if not self._message:
                return True
            sent = self._link.session.send(self._stream.id, self._message)
            self._stream.bytes_out += sent
            self._link.spend(sent)
            self._message = self._message[sent:]
            if self._message:
                return False

    def _send(self) -> bool:
        """Whether all records are with the socket."""
        self._records += self._link.session.data_to_send()
        while self._records:
            record = self._records[0]
            sent = self._sock.write(record)
            if sent is not None and sent == len(record):
                self._records.pop(0)
            else:
                if sent:
                    self._records[0] = record[sent:]
                return False
        return True
