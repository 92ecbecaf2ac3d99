"""Two sessions and a wire between them that delays, cuts up and breaks: an executable model checks every step of the real code.

Attack 2 of the list is checked here as well: no (key, nonce) seals twice, whatever happens, leg after leg.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test

from zts import crypto, session, wire
from zts.errors import LocalError, RemoteError

KEY = b"k" * 32
STREAMS = 4
RUNS = int(os.environ.get("ZTS_RUNS", "150"))
CLIENT, DEVICE = session.Offer(300, 500), session.Offer(1040, 900)
REKEY = 5  # records, so that every run rekeys
REKEY_NONCE = bytes(4) + b"\xff" * 8
REACHED: Counter[str] = Counter()  # what happened in all runs, so that a model that does nothing is noticed


@contextmanager
def _audit() -> Iterator[set[tuple[bytes, bytes]]]:
    """Every (key, nonce) that was sealed with, from now on; a second time is an error."""
    used: set[tuple[bytes, bytes]] = set()
    real, rekey = crypto.Aead, wire.REKEY_RECORDS

    class Audited(real):  # type: ignore[valid-type]
        def __init__(self, key: bytes) -> None:
            super().__init__(key)
            self.audited = bytes(key)

        def seal(self, nonce: bytes, plaintext: bytes, ad: bytes) -> bytes:
            if nonce == REKEY_NONCE:  # both ends make the same next key, which is all that is ever sealed under it
                assert plaintext == bytes(wire.KEY_BYTES) and not ad
                REACHED["rekey"] += 1
            else:
                assert (self.audited, nonce) not in used, "a key and a nonce seal twice"
                used.add((self.audited, nonce))
            sealed: bytes = super().seal(nonce, plaintext, ad)
            return sealed

    crypto.Aead, wire.REKEY_RECORDS = Audited, REKEY
    try:
        yield used
    finally:
        crypto.Aead, wire.REKEY_RECORDS = real, rekey


class End:
    """One real session, and of each of its streams what the application did and saw. `sent` and `got` are bytes of ours and theirs."""

    def __init__(self, role: int, ours: session.Offer, theirs: session.Offer) -> None:
        self.session = session.Session(role, KEY, ours, theirs, STREAMS)
        self.ours = ours
        self.clear()

    def clear(self) -> None:
        self.on_wire = b""  # said by this end, and not yet with the other
        self.confirmed = self.closed = False
        self.sent: dict[int, bytearray] = {}
        self.got: dict[int, bytearray] = {}
        self.consumed: dict[int, int] = {}
        self.finished: set[int] = set()  # we sent FIN
        self.was_finished: set[int] = set()  # theirs came
        self.reset: set[int] = set()  # an RST went or came
        self.gone: set[int] = set()


class Model(RuleBasedStateMachine):
    """The rules are what programs, the wire and the clock may do, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self._auditing = _audit()
        self.used = self._auditing.__enter__()
        self.client = End(wire.ROLE_CLIENT, CLIENT, DEVICE)
        self.device = End(wire.ROLE_DEVICE, DEVICE, CLIENT)
        self.now = 0

    def teardown(self) -> None:
        try:
            self._settle()
        finally:
            self._auditing.__exit__(None, None, None)

    # --- helpers -----------------------------------------------------------------------------------------------------

    def _other(self, end: End) -> End:
        return self.device if end is self.client else self.client

    def _deliver(self, end: End, size: int) -> None:
        """`size` bytes of what `end` said arrive."""
        end.on_wire += b"".join(end.session.data_to_send())
        data, end.on_wire = end.on_wire[:size], end.on_wire[size:]
        other = self._other(end)
        other.session.receive_data(data)
        while (event := other.session.next_event(self.now)) is not None:
            self._see(other, event)

    def _see(self, end: End, event: Any) -> None:
        sender = self._other(end)
        REACHED[type(event).__name__] += 1
        match event:
            case session.Confirmed():
                assert not end.confirmed
                end.confirmed = True
            case session.Closed():
                end.closed = True
                assert sender.closed, "a GOAWAY that nobody said"
            case session.Opened(stream, service):
                assert end is self.device and service == f"s{stream}" and stream not in end.got
                end.got[stream], end.sent[stream], end.consumed[stream] = bytearray(), bytearray(), 0
                end.session.accept(stream)
            case session.Received(stream, data):
                assert stream not in end.was_finished | end.gone | end.reset
                end.got[stream] += data
                assert sender.sent[stream].startswith(end.got[stream]), "other bytes than were sent, or in another order"
                assert len(end.got[stream]) - end.consumed[stream] <= end.ours.window, "more than the window"
            case session.Finished(stream):
                assert stream in sender.finished and end.got[stream] == sender.sent[stream], "the end before all the bytes"
                end.was_finished.add(stream)
            case session.Reset(stream, _):
                assert stream in sender.reset or stream not in self.device.got, "an RST that nobody said"
                end.reset.add(stream)
            case session.Gone(stream):
                assert stream not in end.gone
                end.gone.add(stream)
                assert stream in end.reset or {stream} <= end.finished & end.was_finished or (end is self.device and stream not in end.got)
            case session.Writable(stream):
                assert stream not in end.gone
            case _:
                raise AssertionError(event)

    def _settle(self) -> None:
        """All that is on its way arrives, and all that came is consumed, until nothing moves."""
        while True:
            for end in (self.client, self.device):
                self._deliver(end, 1 << 30)
                for stream, got in end.got.items():
                    left = len(got) - end.consumed[stream]
                    if left:
                        end.consumed[stream] += left
                        end.session.consume(stream, left)
            if not any(end.session._out or end.on_wire for end in (self.client, self.device)):
                break
        if self.up():
            for stream in self.client.sent:
                ended = stream in self.client.reset | self.device.reset or stream in self.client.finished & self.device.finished
                assert ended == (stream in self.client.gone), "a stream is forgotten when it has ended, and not before"
            known = [set(end.session._streams) for end in (self.client, self.device)]
            assert known[0] == known[1] == set(self.client.sent) - self.client.gone
            for end in (self.client, self.device):
                # And its keys: those of stream 0 remain.
                assert set(end.session._records._sealing) | set(end.session._records._opening) <= known[0] | {0}  # type: ignore[union-attr]
                for stream in known[0] & set(self.device.got):
                    assert self._other(end).got[stream] == end.sent[stream], "bytes that never arrive"

    def _start_leg(self) -> None:
        """What was on its way is lost, and every stream with it."""
        for end, ours, theirs in ((self.client, CLIENT, DEVICE), (self.device, DEVICE, CLIENT)):
            end.session.lose_leg()
            assert end.session.next_event(self.now) is None
            end.session = _next(end.session, ours, theirs)
            end.clear()
            end.session.start_leg(self.now)

    def up(self) -> bool:
        return all(end.confirmed and not end.session.is_over() for end in (self.client, self.device))

    def _pick(self, end: End, number: int) -> int:
        """A stream that this end's application knows; it may have ended."""
        return sorted(end.sent)[number % len(end.sent)]

    def _refused(self, work: Callable[..., object], *arguments: Any) -> None:
        with pytest.raises(LocalError):
            work(*arguments)

    # --- rules -------------------------------------------------------------------------------------------------------

    ends = st.booleans()
    numbers = st.integers(0, 7)

    @initialize(settled=st.sampled_from((True, True, False)))
    def first_leg(self, settled: bool) -> None:
        self._start_leg()
        if settled:
            self._settle()

    @rule(now=st.integers(0, 9), settled=st.sampled_from((True, True, False)))
    def new_leg(self, now: int, settled: bool) -> None:
        """The old one broke, which should not happen all the time."""
        if now == 0 or self.client.session.is_over():
            self.first_leg(settled)

    @rule(of_client=ends, size=st.sampled_from((1, 5, 6, 21, 300, 4000)))
    def deliver(self, of_client: bool, size: int) -> None:
        self._deliver(self.client if of_client else self.device, size)

    @rule()
    def settle(self) -> None:
        self._settle()

    @precondition(lambda self: self.client.confirmed)
    @rule()
    def open(self) -> None:
        client = self.client
        ending = [stream.is_ending() for stream in client.session._streams.values()]
        if client.session.is_over() or ending.count(False) >= STREAMS or len(ending) >= 2 * STREAMS:
            self._refused(client.session.open, "no")
            return
        stream = client.session._last_stream + 1
        assert client.session.open(f"s{stream}") == stream
        client.sent[stream], client.got[stream], client.consumed[stream] = bytearray(), bytearray(), 0

    @precondition(lambda self: self.client.sent)
    @rule(of_client=ends, number=numbers, size=st.integers(1, 1200))
    def send(self, of_client: bool, number: int, size: int) -> None:
        end = self.client if of_client else self.device
        if not end.sent:
            return
        stream = self._pick(end, number)
        data = bytes((len(end.sent[stream]) + i) % 251 for i in range(size))
        if not end.session.is_open(stream) or stream in end.finished | end.reset:
            self._refused(end.session.send, stream, data)
            return
        sent = end.session.send(stream, data)
        end.sent[stream] += data[:sent]
        outstanding = len(end.sent[stream]) - self._other(end).consumed.get(stream, 0)
        assert 0 <= sent <= size and outstanding <= self._other(end).ours.window, "past the credit"

    @precondition(lambda self: self.client.sent)
    @rule(of_client=ends, number=numbers, share=st.integers(1, 4))
    def consume(self, of_client: bool, number: int, share: int) -> None:
        end = self.client if of_client else self.device
        if not end.sent:
            return
        stream = self._pick(end, number)
        size = (len(end.got[stream]) - end.consumed[stream]) // share
        end.consumed[stream] += size
        end.session.consume(stream, size)

    @precondition(lambda self: self.client.sent)
    @rule(of_client=ends, number=numbers)
    def finish(self, of_client: bool, number: int) -> None:
        end = self.client if of_client else self.device
        if not end.sent:
            return
        stream = self._pick(end, number)
        if not end.session.is_open(stream) or stream in end.finished | end.reset:
            self._refused(end.session.finish, stream)
            return
        end.session.finish(stream)
        end.finished.add(stream)

    @precondition(lambda self: self.client.sent)
    @rule(of_client=ends, number=numbers)
    def reset(self, of_client: bool, number: int) -> None:
        end = self.client if of_client else self.device
        if not end.sent:
            return
        stream = self._pick(end, number)
        before = len(end.session._out)
        end.session.reset(stream, wire.TARGET_RESET)
        if len(end.session._out) > before:
            assert stream not in end.gone | end.reset
            end.reset.add(stream)

    @precondition(lambda self: self.up() and self.device.sent)
    @rule(number=numbers, rounds=st.integers(1, 4))
    def converse(self, number: int, rounds: int) -> None:
        """Both ends say something on a stream, and it arrives."""
        for _ in range(rounds):
            self.send(True, number, 400)
            self.send(False, number, 400)
            self._settle()

    @rule(ms=st.sampled_from((1, 3_000, wire.PING_MS)))
    def wait(self, ms: int) -> None:
        """A silence that both ends bear: what is on its way arrives before the leg counts as dead."""
        self.now += ms
        for end in (self.client, self.device):
            if not end.session.is_over() and end.session._heard + wire.DEAD_MS <= self.now + wire.PING_MS:
                self._settle()
                if not end.confirmed:
                    self._start_leg()
            if end.session.is_over():
                continue
            try:
                end.session.handle_timeout(self.now)
            except RemoteError as error:
                assert error.code == wire.IDLE and (not end.confirmed or end.session._heard + wire.DEAD_MS <= self.now)
                self._start_leg()
                return

    @precondition(lambda self: self.up())
    @rule(of_client=ends, now=st.integers(0, 5))
    def close(self, of_client: bool, now: int) -> None:
        if now:
            return
        end = self.client if of_client else self.device
        end.closed = True
        end.session.close(wire.OK)

    @precondition(lambda self: self.client.session.is_over())
    @rule()
    def after_the_end(self) -> None:
        assert self.client.session.next_event(self.now) is None
        self._refused(self.client.session.open, "no")
        for stream in self.client.sent:
            assert not self.client.session.is_open(stream)
            self._refused(self.client.session.send, stream, b"x")

    @invariant()
    def bounded(self) -> None:
        for end in (self.client, self.device):
            assert end.session.streams() <= 2 * STREAMS
            assert len(end.session._out) <= end.session._out_records + 1


def _next(old: session.Session, ours: session.Offer, theirs: session.Offer) -> session.Session:
    """The session that follows on `old`, under the same K_sess: its legs go on counting, which is all that keeps the keys apart."""
    new = session.Session(old.role, KEY, ours, theirs, STREAMS)
    new.n, new._their_n = old.n, old._their_n
    return new


def test_model() -> None:
    REACHED.clear()
    run_state_machine_as_test(
        Model,
        settings=settings(
            derandomize=RUNS <= 150,
            deadline=None,
            database=None,
            max_examples=RUNS,
            stateful_step_count=80,
            suppress_health_check=list(HealthCheck),
        ),
    )
    print(f"{RUNS} runs of up to 80 steps: {dict(REACHED)}")
    assert all(
        REACHED[what] > RUNS // 4 for what in ("Confirmed", "Opened", "Received", "Writable", "Finished", "Reset", "Gone", "rekey")
    ), REACHED
