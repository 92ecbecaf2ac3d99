"""When two evictions mean a twin, how long one waits, which configuration is none; a clock that never falls."""

from check import raises
from zts.errors import FormatError
from zts_agent import agent, board
from zts_agent.keystore import Keystore


def test_two_evictions_in_a_minute_are_a_twin():
    twin = agent.Duplicate()
    assert not twin.accepted(0)
    twin.dropped()
    assert not twin.accepted(1000)
    twin.dropped()
    assert twin.accepted(60_999)


def test_evictions_far_apart_are_none():
    twin = agent.Duplicate()
    for at in range(0, 600_000, 60_000):
        twin.dropped()
        assert not twin.accepted(at)


def test_a_broker_that_was_away_evicts_nobody():
    twin = agent.Duplicate()
    for at in range(10):
        twin.dropped()
        twin.failed()
        assert not twin.accepted(at)


def test_good_logins_are_no_evictions():
    twin = agent.Duplicate()
    twin.dropped()
    for at in range(10):
        assert not twin.accepted(at)
    twin.dropped()
    twin.forget()
    assert not twin.accepted(20)


def test_waits_are_half_to_whole():
    seen = [agent.jitter(1000) for _ in range(200)]
    assert all(500 < wait <= 1000 for wait in seen) and len(set(seen)) > 20


def test_a_relay_address_that_is_none_is_refused():
    for address in ("relay", "relay:", "relay:x", ":7440", "::1:7440"):
        raises(FormatError, agent.Agent, {"relay": {"address": address}}, Keystore("nowhere"))
    agent.Agent({"relay": {"address": "[::1]:7440"}}, Keystore("nowhere"))
    agent.Agent({}, Keystore("nowhere"))


def test_the_clock_never_falls():
    last = board.clock()
    for _ in range(1000):
        now = board.clock()
        assert isinstance(now, int) and now >= last
        last = now
