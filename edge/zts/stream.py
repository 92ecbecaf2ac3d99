"""One stream: the states of its two directions, its offsets and its credit. Knows no keys, no time and no other stream.

A FIN counts as one byte of the offset, so that an ACK one past it says it came. Both sides forget a stream when they
know that no record can come on it any more: each FIN acknowledged, or an RST sent and one received.
"""

from . import wire
from .errors import LocalError, RemoteError

OPEN = "open"
FIN_WAIT = "fin_wait"  # our FIN is sent
FIN_ACKED = "fin_acked"  # and known to have come
CLOSE_WAIT = "close_wait"  # their FIN came
CLOSING = "closing"  # both FINs are on their way or there; ours is not acknowledged
RESET = "reset"  # our RST is sent, theirs must come
CLOSED = "closed"

# state: {what happens: next state}. What is not here must not happen: our own is a LocalError, theirs a RemoteError.
_NEXT = {
    OPEN: {"send_fin": FIN_WAIT, "send_rst": RESET, "recv_data": OPEN, "recv_fin": CLOSE_WAIT, "recv_rst": CLOSED},
    FIN_WAIT: {"fin_acked": FIN_ACKED, "send_rst": RESET, "recv_data": FIN_WAIT, "recv_fin": CLOSING, "recv_rst": CLOSED},
    FIN_ACKED: {"send_rst": RESET, "recv_data": FIN_ACKED, "recv_fin": CLOSED, "recv_rst": CLOSED},
    CLOSE_WAIT: {"send_fin": CLOSING, "send_rst": RESET, "recv_rst": CLOSED},
    CLOSING: {"fin_acked": CLOSED, "recv_rst": CLOSED},
    RESET: {"recv_data": RESET, "recv_fin": RESET, "recv_rst": CLOSED},
    CLOSED: {},
}
_SENDING = (OPEN, CLOSE_WAIT)


class Stream:
    """`window`: bytes we buffer for the peer; `credit`: bytes the peer said at the start that it buffers for us."""

    def __init__(self, id_: int, service: str, window: int, credit: int) -> None:
        self.id = id_
        self.service = service
        self.state = OPEN
        self._window = window
        self._tx_offset = 0  # bytes (and FIN) sent
        self._tx_acked = 0  # of these, known to have come
        self._tx_limit = credit
        self._rx_offset = 0  # bytes (and FIN) received
        self._rx_consumed = 0  # of these, taken by the application
        self._rx_limit = window  # what we announced

    def _step(self, what: str) -> None:
        following = _NEXT[self.state].get(what)
        if following is None:
            message = f"{what} in state {self.state}"
            raise RemoteError(message) if what.startswith("recv") else LocalError(message)
        self.state = following

    # --- sending -------------------------------------------------------------------------------------------------------

    def credit(self) -> int:
        """Bytes that may be sent now."""
        return self._tx_limit - self._tx_offset if self.state in _SENDING else 0

    def can_send(self) -> bool:
        """Whether this direction is still ours to write to."""
        return self.state in _SENDING

    def is_ending(self) -> bool:
        """Whether the other side forgets the stream as soon as it reads what we have sent."""
        return self.state in (CLOSING, RESET)

    def send(self, size: int) -> None:
        if size > self.credit():
            raise LocalError("sent past the credit, or after the end")
        self._tx_offset += size

    def send_fin(self) -> int:
        """The FIN's offset: how many bytes came before it."""
        self._step("send_fin")
        self._tx_offset += 1
        return self._tx_offset - 1

    def may_reset(self) -> bool:
        """No more once both FINs passed: the other side may already have forgotten the stream."""
        return "send_rst" in _NEXT[self.state]

    def send_rst(self) -> None:
        self._step("send_rst")

    def receive_ack(self, rx_offset: int, window: int) -> None:
        if self.state == RESET:
            return
        if not self._tx_acked <= rx_offset <= self._tx_offset or rx_offset + window < self._tx_limit:
            raise RemoteError("ACK goes back, or past what was sent")
        self._tx_acked = rx_offset
        self._tx_limit = rx_offset + window
        if self.state in (FIN_WAIT, CLOSING) and rx_offset == self._tx_offset:
            self._step("fin_acked")

    # --- receiving -----------------------------------------------------------------------------------------------------

    def receive_data(self, size: int) -> bool:
        """Whether the application still wants it. Raises RemoteError past the credit we gave."""
        self._step("recv_data")
        if self._rx_offset + size > self._rx_limit:
            raise RemoteError("DATA past the credit")
        self._rx_offset += size
        return self.state != RESET

    def receive_fin(self, offset: int) -> bool:
        """Whether the application still wants it. Raises RemoteError when bytes are missing before it."""
        self._step("recv_fin")
        if offset != self._rx_offset:
            raise RemoteError("FIN before all its bytes came", wire.TRUNCATED)
        self._rx_offset += 1
        return self.state != RESET

    def receive_rst(self) -> bool:
        """Whether an RST must go back."""
        answer = self.state != RESET
        self._step("recv_rst")
        return answer

    def consume(self, size: int) -> bool:
        """The application took `size` bytes. True when the peer should hear of it: half a window is free again."""
        if self._rx_consumed + size > self._rx_offset:
            raise LocalError("consumed more than came")
        self._rx_consumed += size
        if "recv_data" not in _NEXT[self.state] or self.state == RESET:
            return False
        return self._rx_consumed + self._window - self._rx_limit >= self._window // 2

    def ack(self) -> "tuple[int, int]":
        """(rx_offset, window) for an ACK, which then counts as announced."""
        self._rx_limit = max(self._rx_limit, self._rx_consumed + self._window, self._rx_offset)
        return self._rx_offset, self._rx_limit - self._rx_offset

    def offset(self) -> int:
        """rx_offset, for RESUME."""
        return self._rx_offset
