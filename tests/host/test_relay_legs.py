"""The leg port: who gets in, who hears nothing, what deadlines and limits do. A whole relay, over real sockets."""

import os
import random
import resource
import socket
import struct
import threading
import time
from pathlib import Path

import pytest

import relay_client as client
from relay_thread import Party, RelayThread
from zts import crypto, leg, wire
from zts_relay import server as server_module
from zts_relay.listener import source_of
from zts_relay.rendezvous import Quota
from zts_relay.server import Limits

CLIENT, DEVICE = wire.ROLE_CLIENT, wire.ROLE_DEVICE
SID = bytes(range(16))


def _hello(relay: RelayThread, role: int, own: Party, peer: Party, sid: bytes = SID, n: int = 1, behind: bytes = b"") -> socket.socket:
    return client.send_hello(relay.address, own.account, own.key, peer.account, role, sid, n, behind)


def _parked(relay: RelayThread, count: int) -> None:
    relay.until(lambda r: r.legs.rendezvous.parked == count)


def _pair(relay: RelayThread, a: Party, b: Party, sid: bytes = SID, n: int = 1) -> tuple[socket.socket, socket.socket]:
    first = _hello(relay, CLIENT, a, b, sid, n)
    second = _hello(relay, DEVICE, b, a, sid, n)
    assert client.read_code(first) == client.read_code(second) == wire.OK
    return first, second


def test_wrong_macs_are_met_with_silence(tmp_path: Path) -> None:
    with RelayThread(tmp_path / "state") as relay:
        alice, pi = relay.party(), relay.party()
        good = leg.LegHello(CLIENT, 1, SID, alice.account, pi.account)
        wrong_keys = (pi.key, bytes(32), crypto.random_bytes(32))
        for key in wrong_keys:
            sock = client.send_hello(relay.address, alice.account, key, pi.account, CLIENT, SID)
            assert client.read_code(sock) is None
            sock.close()
        # The challenge of another connection: a replay.
        sock, challenge = client.greet(relay.address, wire.MAGIC_LEG)
        recorded = leg.encode_hello(good, alice.key, challenge)
        sock.close()
        sock, _ = client.greet(relay.address, wire.MAGIC_LEG)
        sock.sendall(recorded)
        assert client.read_code(sock) is None
        sock.close()
        assert relay.refused("mac") == len(wrong_keys) + 1
        assert relay.call(lambda: relay.relay.legs.rendezvous.claims) == 0


def test_every_flipped_bit_of_a_hello_is_met_with_silence(tmp_path: Path) -> None:
    with RelayThread(tmp_path / "state", Limits(unknown_per_source=1000)) as relay:
        alice, pi = relay.party(), relay.party()
        good = leg.LegHello(CLIENT, 1, SID, alice.account, pi.account)
        for bit in range(8 * wire.LEG_HELLO_BYTES):
            sock, challenge = client.greet(relay.address, wire.MAGIC_LEG)
            data = bytearray(leg.encode_hello(good, alice.key, challenge))
            data[bit // 8] ^= 1 << bit % 8
            sock.sendall(data)
            assert client.read_code(sock) is None, bit
            sock.close()
        assert relay.refused("mac") + relay.refused("form") == 8 * wire.LEG_HELLO_BYTES
        assert relay.call(lambda: relay.relay.legs.rendezvous.claims) == 0


def test_every_cut_of_a_hello_waits_and_a_hello_in_single_bytes_is_good(tmp_path: Path) -> None:
    with RelayThread(tmp_path / "state", Limits(unknown_per_source=1000)) as relay:
        alice, pi = relay.party(), relay.party()
        good = leg.LegHello(CLIENT, 1, SID, alice.account, pi.account)
        for cut in range(wire.LEG_HELLO_BYTES):
            sock, challenge = client.greet(relay.address, wire.MAGIC_LEG)
            sock.sendall(leg.encode_hello(good, alice.key, challenge)[:cut])
            sock.shutdown(socket.SHUT_WR)
            assert client.read_code(sock) is None, cut
            sock.close()
        assert relay.refused("left") == wire.LEG_HELLO_BYTES
        sock = client.dial(relay.address)
        for byte in wire.MAGIC_LEG:
            sock.sendall(bytes([byte]))
        for byte in leg.encode_hello(good, alice.key, client.receive(sock, wire.CHALLENGE_BYTES)):
            sock.sendall(bytes([byte]))
        _parked(relay, 1)
        sock.close()
        _parked(relay, 0)


@pytest.mark.parametrize("magic", [b"ZR2", b"ZE2", b"ZL1", b"GET", b"\x16\x03\x01", b"\x10\x20\x00", bytes(3)])
def test_an_unknown_magic_is_met_with_silence(tmp_path: Path, magic: bytes) -> None:
    with RelayThread(tmp_path / "state") as relay, client.dial(relay.address) as sock:
        sock.sendall(magic)
        assert sock.recv(1) == b""
        assert relay.refused("magic") == 1


@pytest.mark.parametrize("said", [b"", b"Z", b"ZR1", b"ZR1" + bytes(52), b"ZE1" + bytes(511)])
def test_who_says_too_little_is_cut_off_in_silence(tmp_path: Path, said: bytes) -> None:
    with RelayThread(tmp_path / "state", Limits(hello_s=0.1)) as relay, client.dial(relay.address) as sock:
        sock.sendall(said[:3])
        if len(said) >= 3:
            assert len(client.receive(sock, wire.CHALLENGE_BYTES)) == wire.CHALLENGE_BYTES
        sock.sendall(said[3:])
        assert client.read_code(sock) is None
        assert relay.refused("deadline") == 1


def test_a_trickle_does_not_extend_the_deadline(tmp_path: Path) -> None:
    with RelayThread(tmp_path / "state", Limits(hello_s=0.3)) as relay:
        sock, _ = client.greet(relay.address, wire.MAGIC_LEG)
        with sock, pytest.raises(OSError):
            for _ in range(wire.LEG_HELLO_BYTES - 1):
                sock.sendall(b"\1")
                time.sleep(0.05)
            raise AssertionError("it went on for 2.6 s")
        assert relay.refused("deadline") == 1


def test_without_a_partner_a_leg_is_idle(tmp_path: Path) -> None:
    with RelayThread(tmp_path / "state", Limits(partner_s=0.1, linger_s=0.1)) as relay:
        alice, pi = relay.party(), relay.party()
        with _hello(relay, CLIENT, alice, pi, behind=b"unread") as sock:
            assert client.read_code(sock) == wire.IDLE
            assert sock.recv(1) == b""
        assert relay.refused("idle") == 1
        relay.until(lambda r: not r.legs.visitors)


def test_a_refused_leg_that_keeps_sending_is_cut_off(tmp_path: Path) -> None:
    with RelayThread(tmp_path / "state", Limits(linger_s=60)) as relay:
        alice = relay.party()
        sock = _hello(relay, CLIENT, alice, alice)
        assert client.read_code(sock) == wire.PROTO
        with sock, pytest.raises(OSError):
            for _ in range(10_000):
                sock.sendall(bytes(65_536))
        assert relay.call(lambda: not relay.relay.legs.visitors)


def test_a_refused_leg_that_stays_is_cut_off(tmp_path: Path) -> None:
    with RelayThread(tmp_path / "state", Limits(linger_s=0.1)) as relay:
        alice = relay.party()
        with _hello(relay, CLIENT, alice, alice) as sock:
            assert client.read_code(sock) == wire.PROTO
            relay.until(lambda r: not r.legs.visitors)


def test_bytes_sent_behind_the_hello_reach_the_partner_alone(tmp_path: Path) -> None:
    with RelayThread(tmp_path / "state") as relay:
        alice, pi = relay.party(), relay.party()
        there, back = os.urandom(300_000), os.urandom(200_000)
        first = _hello(relay, CLIENT, alice, pi, behind=there)
        _parked(relay, 1)
        second = _hello(relay, DEVICE, pi, alice, behind=back)
        with first, second:
            assert client.read_code(first) == client.read_code(second) == wire.OK
            assert client.receive(second, len(there)) == there
            assert client.receive(first, len(back)) == back
            first.shutdown(socket.SHUT_WR)
            assert second.recv(1) == b""
            second.sendall(b"after the half-close")
            assert client.receive(first, 20) == b"after the half-close"
        relay.until(lambda r: not r.legs.pairs)


def test_a_parked_leg_that_leaves_is_not_joined(tmp_path: Path) -> None:
    with RelayThread(tmp_path / "state") as relay:
        alice, pi = relay.party(), relay.party()
        _hello(relay, CLIENT, alice, pi).close()
        relay.until(lambda r: r.legs.refused["left"] == 1)
        with _hello(relay, DEVICE, pi, alice):
            _parked(relay, 1)
            with _hello(relay, CLIENT, alice, pi) as again:  # the same number: the first one is forgotten
                assert client.read_code(again) == wire.OK


def test_a_higher_number_takes_the_parked_place(tmp_path: Path) -> None:
    with RelayThread(tmp_path / "state") as relay:
        alice, pi = relay.party(), relay.party()
        old = _hello(relay, CLIENT, alice, pi, n=2)
        _parked(relay, 1)
        for n in (1, 2):
            with _hello(relay, CLIENT, alice, pi, n=n) as late:
                assert client.read_code(late) == wire.PROTO
        with _hello(relay, CLIENT, alice, pi, n=3) as new:
            assert client.read_code(old) is None
            old.close()
            with _hello(relay, DEVICE, pi, alice) as device:
                assert client.read_code(new) == client.read_code(device) == wire.OK


def test_of_64_racing_connections_one_is_joined(tmp_path: Path) -> None:
    with RelayThread(tmp_path / "state", Limits(unknown_per_source=1000, partner_s=60)) as relay:
        alice, pi = relay.party(), relay.party()
        codes: list[int | None] = []
        barrier = threading.Barrier(64)
        socks: list[socket.socket] = []

        def race() -> None:
            sock, challenge = client.greet(relay.address, wire.MAGIC_LEG)
            socks.append(sock)
            hello = leg.encode_hello(leg.LegHello(CLIENT, 1, SID, alice.account, pi.account), alice.key, challenge)
            barrier.wait(client.WAIT_S)
            sock.sendall(hello)
            codes.append(client.read_code(sock))

        threads = [threading.Thread(target=race) for _ in range(64)]
        for thread in threads:
            thread.start()
        relay.until(lambda r: r.legs.refused["proto"] == 63)
        with _hello(relay, DEVICE, pi, alice) as device:
            assert client.read_code(device) == wire.OK
            for thread in threads:
                thread.join(client.WAIT_S)
            assert sorted(code for code in codes if code is not None) == [wire.OK] + 63 * [wire.PROTO]
        for sock in socks:
            sock.close()


def test_quotas_are_told(tmp_path: Path) -> None:
    with RelayThread(tmp_path / "state", Limits(quota=Quota(parked=1, joined=1))) as relay:
        alice, pi, eve = relay.party(), relay.party(), relay.party()
        with _hello(relay, CLIENT, alice, eve, sid=bytes(16)):
            _parked(relay, 1)
            with _hello(relay, CLIENT, alice, eve) as second:
                assert client.read_code(second) == wire.QUOTA
        _parked(relay, 0)
        a, b = _pair(relay, alice, pi)
        with a, b, _hello(relay, CLIENT, eve, pi, sid=bytes(16)) as third:
            assert client.read_code(third) == wire.QUOTA
        assert relay.refused("quota") == 2


def test_connections_of_one_source_are_bounded_until_they_are_known(tmp_path: Path) -> None:
    with RelayThread(tmp_path / "state", Limits(unknown_per_source=4, hello_s=60)) as relay:
        alice, pi = relay.party(), relay.party()
        known = _pair(relay, alice, pi)
        silent = [client.dial(relay.address) for _ in range(4)]
        relay.until(lambda r: r.legs.unknown.total() == 4)
        with client.dial(relay.address) as fifth:
            assert fifth.recv(1) == b""
        assert relay.refused("source") == 1
        known[0].sendall(b"unaffected")
        assert client.receive(known[1], 10) == b"unaffected"
        silent.pop().close()
        relay.until(lambda r: r.legs.unknown.total() == 3)
        known += _pair(relay, alice, pi, sid=bytes(16))
        for sock in (*silent, *known):
            sock.close()


def test_sources() -> None:
    assert source_of("192.0.2.1") != source_of("192.0.2.2")
    assert source_of("2001:db8::1") == source_of("2001:db8::ffff:0:0:1") != source_of("2001:db8:0:1::1")
    assert source_of("fe80::1%lo") == source_of("fe80::2")


def test_an_unknown_or_revoked_account_is_told_so(tmp_path: Path) -> None:
    with RelayThread(tmp_path / "state") as relay:
        alice, pi = relay.party(), relay.party()
        nobody = bytes(8)
        stranger = Party(nobody, relay.call(relay.relay.registry.leg_key, nobody))
        relay.call(relay.relay.registry.revoke, pi.account)
        for own in (stranger, pi):
            with _hello(relay, DEVICE, own, alice) as sock:
                assert client.read_code(sock) == wire.REVOKED
        assert relay.refused("revoked") == 2


def test_revoking_ends_legs_that_wait_and_legs_that_are_joined(tmp_path: Path) -> None:
    with RelayThread(tmp_path / "state") as relay:
        alice, pi, eve = relay.party(), relay.party(), relay.party()
        others = _pair(relay, alice, eve)
        joined = _pair(relay, alice, pi, sid=bytes(16))
        with _hello(relay, DEVICE, pi, eve) as waiting:
            _parked(relay, 1)
            relay.call(relay.relay.legs.revoke, pi.account)
            assert client.read_code(waiting) == wire.REVOKED
            assert [sock.recv(1) for sock in joined] == [b"", b""]
        others[0].sendall(b"unaffected")
        assert client.receive(others[1], 10) == b"unaffected"
        for sock in (*others, *joined):
            sock.close()


def test_stops_accepting_when_descriptors_run_out_and_goes_on_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    probe = os.dup(0)
    os.close(probe)
    # A relay in a thread opens about 20; `dial` and the relay take one each for a connection.
    monkeypatch.setattr(resource, "getrlimit", lambda _: (probe + 60, probe + 60))
    monkeypatch.setattr(server_module, "_FULL", 1.0)
    with RelayThread(tmp_path / "state", Limits(unknown_per_source=1000, hello_s=60)) as relay:
        alice, pi = relay.party(), relay.party()
        known = _pair(relay, alice, pi)
        silent = []
        while not relay.call(lambda: relay.relay.legs.is_full):
            silent.append(client.dial(relay.address))
            assert len(silent) < 60
        count = relay.call(lambda: len(relay.relay.legs.visitors))
        late = client.dial(relay.address)  # it waits in the backlog
        late.sendall(wire.MAGIC_LEG)
        known[0].sendall(b"unaffected")
        assert client.receive(known[1], 10) == b"unaffected"
        assert relay.call(lambda: len(relay.relay.legs.visitors)) == count
        for sock in silent:
            sock.close()
        assert len(client.receive(late, wire.CHALLENGE_BYTES)) == wire.CHALLENGE_BYTES
        for sock in (late, *known):
            sock.close()


def test_legs_are_kept_alive_and_never_delayed(tmp_path: Path) -> None:
    with RelayThread(tmp_path / "state") as relay:
        alice, pi = relay.party(), relay.party()
        a, b = _pair(relay, alice, pi)

        def options() -> list[tuple[int, int]]:
            ends = [getattr(handler, "sock") for handler in relay.relay.legs.pump.handlers.values()]  # noqa: B009
            return [
                (end.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY), end.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE))
                for end in ends
            ]

        assert [(bool(x), bool(y)) for x, y in relay.call(options)] == [(True, True)] * 2
        a.close()
        b.close()


def test_any_mix_of_manners_harms_nobody_else(tmp_path: Path) -> None:
    """Garbage, silence, resets, floods and early ends, beside a pair that goes on; RelayThread checks that nothing is left."""
    limits = Limits(hello_s=0.5, partner_s=0.5, linger_s=0.2, unknown_per_source=1000)
    with RelayThread(tmp_path / "state", limits) as relay:
        alice, pi = relay.party(), relay.party()
        kept = _pair(relay, alice, pi, sid=bytes(16))
        stop = threading.Event()
        failures: list[BaseException] = []

        def keep_talking() -> None:
            try:
                while not stop.is_set():
                    data = os.urandom(50_000)
                    kept[0].sendall(data)
                    assert client.receive(kept[1], len(data)) == data
            except BaseException as error:
                failures.append(error)

        def misbehave(seed: int) -> None:
            pick = random.Random(seed)
            for _ in range(40):
                sock = client.dial(relay.address)
                try:
                    _misbehave(sock, pick, alice, pi)
                except OSError:
                    pass
                except BaseException as error:
                    failures.append(error)
                finally:
                    if pick.random() < 0.5:
                        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    sock.close()

        threads = [threading.Thread(target=misbehave, args=(seed,)) for seed in range(8)]
        talking = threading.Thread(target=keep_talking)
        for thread in (talking, *threads):
            thread.start()
        for thread in threads:
            thread.join(client.WAIT_S)
        stop.set()
        talking.join(client.WAIT_S)
        assert not failures
        for sock in kept:
            sock.close()
        relay.until(lambda r: not r.legs.visitors and not r.legs.pairs)
        relay.until(lambda r: not r.legs.rendezvous.claims)


def _misbehave(sock: socket.socket, pick: random.Random, alice: Party, pi: Party) -> None:
    """One connection's manners, from a few sessions that also meet each other now and then."""
    manner = pick.randrange(4)
    if manner == 0:
        sock.sendall(pick.randbytes(pick.randint(0, 600)))
        return
    sock.sendall(wire.MAGIC_ENROL if manner == 1 else wire.MAGIC_LEG)
    challenge = client.receive(sock, wire.CHALLENGE_BYTES)
    if manner == 1:
        sock.sendall(pick.randbytes(pick.randint(0, wire.M1_BYTES)))
        return
    own, peer, role = pick.choice([(alice, pi, CLIENT), (pi, alice, DEVICE), (alice, alice, CLIENT), (alice, pi, DEVICE)])
    hello = leg.encode_hello(
        leg.LegHello(role, pick.randint(1, 3), bytes([pick.randint(1, 3)]) * 16, own.account, peer.account), own.key, challenge
    )
    sock.sendall(hello[: pick.choice((1, 20, 52, 53, 53, 53, 53))] + pick.randbytes(pick.choice((0, 1, 100, 200_000))))
    if manner == 2:
        sock.settimeout(pick.choice((0.01, 0.3)))
        client.receive(sock, pick.choice((1, 1000, 100_000)))
