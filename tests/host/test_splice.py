"""Two joined legs: every byte arrives, in both directions, whatever the sizes, the pace and the end."""

import hashlib
import os
import random
import resource
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from loop_thread import LoopThread
from relay_client import WAIT_S, receive
from zts_relay.pump import Pump
from zts_relay.splice import PIPE_BYTES, Carrier, Pair, Pipes

# More than all the kernel's buffers on the way hold: tcp_wmem and tcp_rmem grow to 4 and 6 MiB, twice each.
STALLING_BYTES = 40_000_000


def _connection() -> tuple[socket.socket, socket.socket]:
    """Both sides of a TCP connection: the party's (blocking) and the relay's."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        party = socket.create_connection(listener.getsockname(), WAIT_S)
        relays, _ = listener.accept()
    for sock in (party, relays):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    relays.setblocking(False)
    return party, relays


class _Joined:
    """Two parties `a` and `b` whose legs are joined."""

    def __init__(self, thread: LoopThread, carrier: Carrier) -> None:
        self.carrier = carrier
        self.thread = thread
        self.reason = ""
        self.closed = threading.Event()
        self.a, relays_a = _connection()
        self.b, relays_b = _connection()
        self.relays_sockets = (relays_a, relays_b)
        self.pump: Pump = thread.call(Pump)
        self.pair: Pair = thread.call(self._join, relays_a, relays_b)

    def _join(self, a: socket.socket, b: socket.socket) -> Pair:
        pair = Pair(a, b, self.pump, self.carrier, self._note)
        self.pump.add(a, self.pump.handlers[a.fileno()])
        self.pump.add(b, self.pump.handlers[b.fileno()])
        return pair

    def _note(self, reason: str) -> None:
        assert not self.closed.is_set()
        self.reason = reason
        self.closed.set()

    def wait_closed(self) -> str:
        assert self.closed.wait(WAIT_S)
        assert all(sock.fileno() == -1 for sock in self.relays_sockets)
        assert not self.pump.handlers and self.carrier.pipes.lent == 0
        return self.reason

    def stop(self) -> None:
        self.thread.call(self.pair.close, "stopped")
        self.thread.call(self.pump.stop)
        self.thread.call(self.carrier.pipes.close)
        self.a.close()
        self.b.close()
        assert self.carrier.pipes.open == 0


@contextmanager
def _joined(pipes: int = 4) -> Iterator[_Joined]:
    with LoopThread() as thread:
        joined = _Joined(thread, Carrier(Pipes(pipes)))
        try:
            yield joined
        finally:
            joined.stop()


class _Flow(threading.Thread):
    """Sends `data` in the chunks given, then half-closes if told."""

    def __init__(self, sock: socket.socket, data: bytes, chunks: Iterator[int], pause_s: float = 0.0, half_close: bool = True) -> None:
        super().__init__(daemon=True)
        self._sock, self._data, self._chunks, self._pause_s, self._half_close = sock, data, chunks, pause_s, half_close
        self.error: OSError | None = None
        self.start()

    def run(self) -> None:
        try:
            self._run()
        except OSError as error:
            self.error = error

    def _run(self) -> None:
        at = 0
        while at < len(self._data):
            size = next(self._chunks)
            self._sock.sendall(self._data[at : at + size])
            at += size
            if self._pause_s:
                time.sleep(self._pause_s)
        if self._half_close:
            self._sock.shutdown(socket.SHUT_WR)


class _Sink(threading.Thread):
    """Reads to the end, in pieces of the sizes given."""

    def __init__(self, sock: socket.socket, pieces: Iterator[int], pause_s: float = 0.0) -> None:
        super().__init__(daemon=True)
        self._sock, self._pieces, self._pause_s = sock, pieces, pause_s
        self.digest = hashlib.sha256()
        self.size = 0
        self.start()

    def run(self) -> None:
        while data := self._sock.recv(next(self._pieces)):
            self.digest.update(data)
            self.size += len(data)
            if self._pause_s:
                time.sleep(self._pause_s)


def _sizes(seed: int, low: int, high: int) -> Iterator[int]:
    pick = random.Random(seed)
    while True:
        yield pick.randint(low, high)


def _check(sink: _Sink, data: bytes) -> None:
    sink.join(WAIT_S)
    assert sink.size == len(data)
    assert sink.digest.digest() == hashlib.sha256(data).digest()


@pytest.mark.parametrize("pipes", [4, 1, 0])
@pytest.mark.parametrize(("low", "high"), [(1, 2000), (1, 300_000), (200_000, 1_000_000)])
def test_random_chunks_both_ways_arrive_whole(pipes: int, low: int, high: int) -> None:
    there, back = os.urandom(6_000_000 if high > 2000 else 600_000), os.urandom(3_000_000 if high > 2000 else 300_000)
    with _joined(pipes) as joined:
        sinks = _Sink(joined.b, _sizes(1, 1, 100_000)), _Sink(joined.a, _sizes(2, 1, 100_000))
        _Flow(joined.a, there, _sizes(3, low, high))
        _Flow(joined.b, back, _sizes(4, low, high))
        _check(sinks[0], there)
        _check(sinks[1], back)
        assert joined.wait_closed() == "ended"
        assert joined.carrier.copied + joined.carrier.spliced == len(there) + len(back)
        if not pipes:
            assert joined.carrier.spliced == 0


def test_bulk_is_spliced_and_small_reads_are_copied_again() -> None:
    with _joined() as joined:
        bulk = os.urandom(20_000_000)
        sink = threading.Thread(target=lambda: receive(joined.b, len(bulk)))
        sink.start()
        joined.a.sendall(bulk)
        sink.join(WAIT_S)
        assert joined.carrier.spliced > len(bulk) // 2
        for i in range(100):
            joined.a.sendall(bytes([i]))
            assert receive(joined.b, 1) == bytes([i])
        assert joined.carrier.copied >= 50
        assert joined.carrier.pipes.lent == 0


def test_a_slow_reader_holds_the_sender_back_and_loses_nothing() -> None:
    data = os.urandom(STALLING_BYTES)
    with _joined() as joined:
        joined.b.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32_768)
        flow = _Flow(joined.a, data, _sizes(1, 100_000, 500_000))
        flow.join(0.3)
        assert flow.is_alive(), "the relay took everything in"
        sink = _Sink(joined.b, _sizes(2, 1, 120_000), pause_s=0.001)
        _check(sink, data)


def test_a_stalled_direction_does_not_hold_up_the_other() -> None:
    with _joined() as joined:
        flow = _Flow(joined.a, bytes(STALLING_BYTES), _sizes(1, 500_000, 500_000), half_close=False)
        flow.join(0.3)
        assert flow.is_alive()
        back = os.urandom(5_000_000)
        _Flow(joined.b, back, _sizes(2, 1, 200_000), half_close=False)
        assert receive(joined.a, len(back)) == back
        assert receive(joined.b, STALLING_BYTES) == bytes(STALLING_BYTES)


def test_many_small_segments_fill_the_slots_of_a_pipe_and_still_arrive() -> None:
    """A pipe has 64 slots here: a byte in each fills it, which must not be taken for an empty socket."""
    bulk, trickle = os.urandom(4_000_000), os.urandom(3000)
    with _joined() as joined:
        sink = _Sink(joined.b, _sizes(1, 65_536, 65_536))
        _Flow(joined.a, bulk, _sizes(2, 500_000, 500_000), half_close=False).join(WAIT_S)
        _Flow(joined.a, trickle, _sizes(3, 1, 1))  # one-byte segments while splicing
        _check(sink, bulk + trickle)


def test_one_byte_at_a_time() -> None:
    data = os.urandom(400)
    with _joined() as joined:
        _Flow(joined.a, data, _sizes(1, 1, 1), pause_s=0.0005)
        _check(_Sink(joined.b, _sizes(1, 1, 1)), data)
        assert joined.carrier.spliced == 0


@pytest.mark.parametrize("is_first", [True, False])
def test_half_close_goes_behind_the_last_byte_and_leaves_the_other_direction_open(is_first: bool) -> None:
    with _joined() as joined:
        closing, other = (joined.a, joined.b) if is_first else (joined.b, joined.a)
        other.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32_768)
        data = os.urandom(STALLING_BYTES)
        flow = _Flow(closing, data, _sizes(1, 400_000, 400_000))
        flow.join(0.3)
        assert flow.is_alive()  # all is full, the reader has not begun
        _check(_Sink(other, _sizes(2, 1, 100_000)), data)
        assert not joined.closed.is_set()
        for i in range(20):
            other.sendall(bytes([i]) * 1000)
            assert receive(closing, 1000) == bytes([i]) * 1000
        other.shutdown(socket.SHUT_WR)
        assert closing.recv(1) == b""
        assert joined.wait_closed() == "ended"


@pytest.mark.parametrize("is_first", [True, False])
def test_a_reset_ends_both_legs(is_first: bool) -> None:
    with _joined() as joined:
        dying, other = (joined.a, joined.b) if is_first else (joined.b, joined.a)
        dying.sendall(b"last words")
        assert receive(other, 10) == b"last words"
        dying.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        dying.close()
        assert joined.wait_closed() == "reset"
        assert receive(other, 1) == b""


def test_a_reset_ends_both_legs_while_the_other_does_not_read() -> None:
    with _joined() as joined:
        flow = _Flow(joined.a, bytes(STALLING_BYTES), _sizes(1, 500_000, 500_000), half_close=False)
        flow.join(0.3)
        assert flow.is_alive()
        joined.b.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        joined.b.close()
        assert joined.wait_closed() == "reset"
        flow.join(WAIT_S)
        assert isinstance(flow.error, ConnectionError)


def test_a_leg_that_resets_while_its_own_bytes_are_stuck_ends_both() -> None:
    with _joined() as joined:
        flow = _Flow(joined.a, bytes(STALLING_BYTES), _sizes(1, 500_000, 500_000), half_close=False)
        flow.join(0.3)
        assert flow.is_alive()  # the reader never reads
        joined.a.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        joined.a.shutdown(socket.SHUT_RD)
        joined.a.close()
        flow.join(WAIT_S)
        assert joined.wait_closed() == "reset"


def test_bytes_of_an_ended_pair_never_reach_another() -> None:
    with _joined(pipes=1) as joined:
        flow = _Flow(joined.a, b"secret" * (STALLING_BYTES // 6), _sizes(1, 500_000, 500_000), half_close=False)
        # Between turns a pipe is lent only with bytes in it: nobody reads them.
        while joined.thread.call(lambda: joined.carrier.pipes.lent) == 0:
            assert flow.is_alive()
        joined.thread.call(joined.pair.close, "stopped")
        joined.wait_closed()
        flow.join(WAIT_S)
        pipe = joined.carrier.pipes.borrow()
        assert pipe
        with pytest.raises(BlockingIOError):
            os.read(pipe.read, 1)
        joined.carrier.pipes.give_back(pipe)


def test_an_idle_pair_holds_no_pipe_and_costs_no_turns() -> None:
    with _joined() as joined:
        bulk = bytes(10_000_000)
        flow = _Flow(joined.a, bulk, _sizes(1, 500_000, 500_000), half_close=False)
        assert receive(joined.b, len(bulk)) == bulk
        flow.join(WAIT_S)
        before = joined.thread.call(time.thread_time)
        time.sleep(0.5)
        assert joined.thread.call(time.thread_time) - before < 0.05  # CPU, not wall clock: a busy loop takes all it can get
        assert joined.carrier.pipes.lent == 0


def test_pipes_are_bounded_and_large() -> None:
    pipes = Pipes(2)
    lent = [pipes.borrow(), pipes.borrow()]
    assert pipes.borrow() is None and pipes.lent == 2
    for pipe in lent:
        assert pipe
        assert os.write(pipe.write, bytes(PIPE_BYTES)) >= 65_536
        pipes.discard(pipe)
    again = pipes.borrow()
    assert again and pipes.open == 1
    pipes.give_back(again)
    assert pipes.borrow() == again
    pipes.discard(again)
    assert pipes.open == 0


def test_without_descriptors_there_is_no_pipe() -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    probe = os.dup(0)
    os.close(probe)
    resource.setrlimit(resource.RLIMIT_NOFILE, (probe, limits[1]))
    try:
        pipes = Pipes()
        assert pipes.borrow() is None and pipes.open == 0
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
