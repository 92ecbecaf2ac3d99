"""A relay process under a crowd: thousands of idle pairs, thousands of connections that only wait, and no descriptors left."""

import contextlib
import os
import resource
import selectors
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import relay_client as client
from relay_process import RelayProcess
from zts import codes, crypto, leg, wire
from zts_relay.registry import OWNER, Registry
from zts_relay.rendezvous import Quota

CLIENT, DEVICE = wire.ROLE_CLIENT, wire.ROLE_DEVICE
CROWD = 2000  # of each kind
NEEDED = 5 * CROWD + 500  # descriptors here, and as many in the relay: two a pair, and three crowds
PAIRS_OF_ONE = Quota().joined // 2  # of two accounts: half of what they may have
PARKED_OF_ONE = Quota().parked // 2
ECHOES = 200
FEW = 128  # descriptors of the relay that runs out of them
WAIT_S = 90.0  # for what must come; generous: the machine may be busy

Ends = tuple[socket.socket, socket.socket]


class Party(NamedTuple):
    fp: str
    account: bytes
    key: bytes


@pytest.fixture(autouse=True)
def descriptors() -> Iterator[None]:
    """As many as we may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < NEEDED:
        pytest.skip(f"needs {NEEDED} descriptors, and there are {hard} at most: raise `ulimit -Hn`")
    resource.setrlimit(resource.RLIMIT_NOFILE, (NEEDED if hard == resource.RLIM_INFINITY else hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _parties(state: Path, count: int) -> list[Party]:
    """Enrolled before the relay starts, so that it knows them all."""
    registry = Registry(state)
    parties = []
    for _ in range(count):
        secret = registry.make_code(OWNER)
        assert secret
        party = registry.enrol(codes.code_id(secret), client.key_pair()[1], "").party
        assert party
        parties.append(Party(party.fp, party.account, registry.leg_key(party.account)))
    registry.close()
    return parties


def _dial(relay: RelayProcess, number: int) -> socket.socket:
    """From one of many addresses: 16 connections of each."""
    source = f"127.{10 + number // 16 // 250 % 200}.{number // 16 % 250}.1"
    return socket.create_connection(relay.leg, WAIT_S, (source, 0))


def _challenges(socks: list[socket.socket]) -> list[bytes]:
    for sock in socks:
        sock.sendall(wire.MAGIC_LEG)
    return [client.receive(sock, wire.CHALLENGE_BYTES) for sock in socks]


def _legs(relay: RelayProcess, legs: list[tuple[Party, Party, int, bytes]], first: int) -> list[socket.socket]:
    """(own, peer, role, sid) of each; all at once, so that the relay answers them in its own time."""
    socks = [_dial(relay, first + number) for number in range(len(legs))]
    for sock, challenge, (own, peer, role, sid) in zip(socks, _challenges(socks), legs, strict=True):
        sock.sendall(leg.encode_hello(leg.LegHello(role, 1, sid, own.account, peer.account), own.key, challenge))
    return socks


def _pairs(relay: RelayProcess, parties: list[Party], count: int, first: int = 0) -> list[Ends]:
    """Joined, with the accounts taken in turn, two by two."""
    pairs = []
    for start in range(0, count, 200):
        legs = []
        for number in range(start, min(start + 200, count)):
            two = 2 * (number // PAIRS_OF_ONE % (len(parties) // 2))
            a, b, sid = parties[two], parties[two + 1], crypto.random_bytes(wire.SID_BYTES)
            legs += [(a, b, CLIENT, sid), (b, a, DEVICE, sid)]
        socks = _legs(relay, legs, first + 2 * start)
        assert [client.read_code(sock) for sock in socks] == [wire.OK] * len(socks)
        pairs += list(zip(socks[::2], socks[1::2], strict=True))
    return pairs


def _echo(ends: Ends) -> float:
    """The median round trip in ms."""
    a, b = ends
    times = []
    for number in range(ECHOES):
        said = number.to_bytes(64, "big")
        start = time.perf_counter()
        a.sendall(said)
        assert client.receive(b, 64) == said
        b.sendall(said)
        assert client.receive(a, 64) == said
        times.append(time.perf_counter() - start)
    return 1000 * sorted(times)[ECHOES // 2]


def _kib(relay: RelayProcess) -> int:
    """Resident memory; proc(5), field 2 of statm."""
    return int(Path(f"/proc/{relay.pid}/statm").read_text().split()[1]) * resource.getpagesize() // 1024


def _open(relay: RelayProcess) -> int:
    return len(os.listdir(f"/proc/{relay.pid}/fd"))


def _until_open(relay: RelayProcess, count: int) -> None:
    """Until the relay holds at most so many descriptors."""
    end = time.monotonic() + WAIT_S
    while _open(relay) > count:
        assert time.monotonic() < end, f"{_open(relay)} descriptors, not {count}"
        time.sleep(0.05)


def _close(socks: list[socket.socket]) -> None:
    for sock in socks:
        sock.close()


def _ends_in_silence(socks: list[socket.socket]) -> None:
    """All are closed by the relay, without a byte."""
    with selectors.DefaultSelector() as selector:
        for sock in socks:
            selector.register(sock, selectors.EVENT_READ)
        end = time.monotonic() + WAIT_S
        while selector.get_map():
            assert time.monotonic() < end, f"{len(selector.get_map())} are still open"
            for key, _ in selector.select(1):
                sock = key.fileobj
                assert isinstance(sock, socket.socket)
                with contextlib.suppress(ConnectionResetError):
                    assert sock.recv(1) == b""
                selector.unregister(sock)


def test_idle_pairs_and_crowds_that_wait_hurt_nobody(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = tmp_path / "state"
    *parties, lost, left = _parties(state, 2 * -(-CROWD // PAIRS_OF_ONE) + 2 * -(-CROWD // PARKED_OF_ONE) + 2)
    figures = []
    with RelayProcess(state) as relay, contextlib.ExitStack() as stack:
        stack.callback(lambda: _close(everything))
        everything: list[socket.socket] = []
        (talking,) = _pairs(relay, parties[-2:], 1)
        everything += talking
        _echo(talking)
        figures.append(f"round trip alone {_echo(talking):.2f} ms")
        alone, kib = _open(relay), _kib(relay)

        idle = _pairs(relay, parties, CROWD)
        everything += [end for ends in idle for end in ends]
        figures.append(f"{(_kib(relay) - kib) / CROWD:.1f} KiB of memory an idle pair")
        figures.append(f"beside {CROWD} idle pairs {_echo(talking):.2f} ms")
        for ends in (idle[0], idle[-1]):
            _echo(ends)

        parked = []
        for start in range(0, CROWD, PARKED_OF_ONE):
            own, peer = parties[-2 - 2 * (start // PARKED_OF_ONE) :][:2]
            count = min(PARKED_OF_ONE, CROWD - start)
            parked += _legs(relay, [(own, peer, CLIENT, crypto.random_bytes(wire.SID_BYTES)) for _ in range(count)], 10_000 + start)
        half = [_dial(relay, 20_000 + number) for number in range(CROWD)]
        for sock, challenge in zip(half, _challenges(half), strict=True):
            sock.sendall(challenge[: wire.LEG_HELLO_BYTES // 2])  # the beginning of what could be a hello
        silent = [_dial(relay, 30_000 + number) for number in range(CROWD)]
        everything += parked + half + silent
        figures.append(f"and beside {CROWD} silent, {CROWD} half-hello and {CROWD} half-paired {_echo(talking):.2f} ms")
        # A newcomer is served too, from an address of its own.
        (fresh,) = _pairs(relay, parties[-2:], 1, 40_000)
        everything += fresh
        _echo(fresh)
        (doomed,) = _pairs(relay, [lost, left], 1, 40_016)
        everything += doomed
        start = time.monotonic()
        assert relay.run("revoke", lost.fp).returncode == 0
        _ends_in_silence(list(doomed))
        figures.append(f"there a revoked party's leg ends {time.monotonic() - start:.2f} s after the start of `zts-relay revoke`")

        _ends_in_silence(half + silent)
        for sock in parked:  # 15 s after they came, none early
            assert client.read_code(sock) == wire.IDLE
        for ends in (talking, fresh, idle[CROWD // 2]):
            _echo(ends)
        _close(everything)
        _until_open(relay, alone)
        assert not [line for line in relay.logged() if line["level"] != "info"], relay.log.read_text()
    with capsys.disabled():
        print("\nrelay: " + "; ".join(figures))


def test_out_of_descriptors_it_serves_whom_it_has_and_recovers(tmp_path: Path) -> None:
    state = tmp_path / "state"
    parties = _parties(state, 4)
    with RelayProcess(state, under=("prlimit", f"--nofile={FEW}:{FEW}")) as relay, contextlib.ExitStack() as stack:
        assert relay.mqtt
        (talking,) = _pairs(relay, parties[:2], 1)
        everything = list(talking)
        stack.callback(lambda: _close(everything))
        before = _open(relay)
        crowds = []
        for port in (relay.leg, relay.mqtt, relay.metrics):
            crowds.append([socket.create_connection(port, WAIT_S, (f"127.9.{number // 8}.1", 0)) for number in range(3 * FEW)])
            everything += crowds[-1]
            _echo(talking)
            if port == relay.leg:
                # Of its descriptors it keeps some for the other ports: it can be asked why.
                assert "zts_relay_legs" in _metrics(relay)
        bulk = os.urandom(1 << 17)
        talking[0].sendall(bulk)
        assert client.receive(talking[1], len(bulk)) == bulk
        for crowd in crowds:
            _close(crowd)
        _until_open(relay, before)
        (fresh,) = _pairs(relay, parties[2:], 1, 1)
        everything += fresh
        for ends in (fresh, talking):
            _echo(ends)
        assert client.join(relay.new_code()).account
        # It said what was the matter, and neither a traceback nor a flood.
        said = [line["event"] for line in relay.logged() if line["level"] != "info"]
        assert set(said) == {"accepting no more: out of descriptors"} and len(said) < FEW


def _metrics(relay: RelayProcess) -> str:
    with socket.create_connection(relay.metrics, WAIT_S) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
        return client.receive(sock, 1 << 20).decode()


def test_many_who_ask_for_metrics_and_say_nothing_hold_up_nobody_for_long(tmp_path: Path) -> None:
    with RelayProcess(tmp_path / "state") as relay, contextlib.ExitStack() as stack:
        before = _open(relay)
        crowd = [stack.enter_context(socket.create_connection(relay.metrics, WAIT_S)) for _ in range(CROWD // 10)]
        _ends_in_silence(crowd[-1:])  # there was no place for it, nor for most of those before
        assert _open(relay) <= before + 16
        _ends_in_silence(crowd[:-1])
        assert "zts_relay_legs" in _metrics(relay)
