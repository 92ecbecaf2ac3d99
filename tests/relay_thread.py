"""A whole relay in a thread of the test's process, with limits of the test's choice and parties without an enrolment."""

import logging
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from loop_thread import LoopThread
from relay_client import WAIT_S, key_pair
from zts import codes
from zts_relay.app import Relay
from zts_relay.config import Address, Config, parse_broker
from zts_relay.registry import OWNER
from zts_relay.server import Limits


class Party(NamedTuple):
    """An enrolled party's account and K_party."""

    account: bytes
    key: bytes


class RelayThread:
    """`with RelayThread(state, limits) as relay:`; `relay.relay` belongs to the loop: touch it by `relay.call` only.

    `broker`: the URL of another broker than its own.
    """

    def __init__(self, state: Path, limits: Limits | None = None, broker: str = "") -> None:
        self._state = state
        self._broker = parse_broker(broker) if broker else None
        self._limits = limits
        self._thread = LoopThread()
        self.call = self._thread.call
        self.run = self._thread.run

    def __enter__(self) -> "RelayThread":
        self._thread.__enter__()
        try:
            anywhere = Address("127.0.0.1", 0)
            config = Config(anywhere, anywhere, anywhere, self._state, self._broker)
            self.relay = self.call(Relay, config, self._limits)
            self.run(self.relay.start())
        except BaseException:
            self._thread.__exit__(None, None, None)
            raise
        self.address: tuple[str, int] = tuple(self.relay.leg)
        self._errors = _Errors()
        logging.getLogger("zts_relay").addHandler(self._errors)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        logging.getLogger("zts_relay").removeHandler(self._errors)
        try:
            self.run(self.relay.close())
            legs = self.relay.legs
            left = (legs.pump.handlers, legs.visitors, legs.unknown, legs.carrier.pipes.open, legs.rendezvous.claims, legs.pairs)
        finally:
            self._thread.__exit__(None, None, None)
        assert not any(left), left
        assert not self._errors.records, [record.exc_info for record in self._errors.records]

    def party(self) -> Party:
        """Enrol somebody without a connection."""

        def enrol() -> Party:
            registry = self.relay.registry
            secret = registry.make_code(OWNER)
            assert secret
            party = registry.enrol(codes.code_id(secret), key_pair()[1], "").party
            assert party
            return Party(party.account, registry.leg_key(party.account))

        return self.call(enrol)

    def refused(self, reason: str) -> int:
        """How many connections were turned away for a reason."""
        return self.call(lambda: self.relay.legs.refused[reason])

    def until(self, condition: Callable[[Relay], bool]) -> None:
        """Wait until the condition, asked in the loop, holds."""
        end = time.monotonic() + WAIT_S
        while not self.call(condition, self.relay):
            assert time.monotonic() < end, "it never happened"
            time.sleep(0.005)


class _Errors(logging.Handler):
    """Internal errors, of which there must be none."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)
