"""A relay process under attack: it never dials, lets nobody in who may not be, is not raced, and lets go of who is revoked."""

import contextlib
import hashlib
import os
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import relay_client as client
from relay_client import Account
from relay_process import RelayProcess
from whole_network import network
from zts import codes, crypto, identity, leg, wire
from zts.initiator import Initiator

CLIENT, DEVICE = wire.ROLE_CLIENT, wire.ROLE_DEVICE
RACERS = 64
GONE_S = 10.0  # generous: the machine may be busy. What it took is printed
_MOSQUITTO = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")


class Parties:
    """A running relay, the owner @alice with her device @pi, and the owner @bob with his, @cam."""

    def __init__(self, relay: RelayProcess) -> None:
        self.relay = relay
        assert relay.join
        self.relay_key: bytes = codes.parse_join_code(relay.join).relay_key
        self.alice, self.bob = client.join(relay.join, "alice"), client.join(relay.new_code(), "bob")
        self.pi, self.cam = self._device(self.alice, "pi"), self._device(self.bob, "cam")

    def _device(self, owner: Account, name: str) -> Account:
        code = client.ask_as(self.relay.leg, self.relay_key, owner, wire.KIND_MAKE_CODE, {})
        assert code
        own = client.key_pair()
        answer = client.enrol_with(self.relay.leg, self.relay_key, code[wire.TLV_SECRET], own, name)
        assert answer
        return client.account_of(own, answer)

    def dial(self, own: Account, peer: Account, role: int, sid: bytes, n: int = 1) -> socket.socket:
        return client.send_hello(self.relay.leg, own.account, own.key, peer.account, role, sid, n)

    def pair(self) -> tuple[socket.socket, socket.socket]:
        """Of @alice and @pi."""
        sid = crypto.random_bytes(wire.SID_BYTES)
        ends = self.dial(self.alice, self.pi, CLIENT, sid), self.dial(self.pi, self.alice, DEVICE, sid)
        assert [client.read_code(end) for end in ends] == [wire.OK, wire.OK]
        return ends

    def answers(self) -> None:
        """Whether it still does its work."""
        a, b = self.pair()
        with a, b:
            a.sendall(b"still here")
            assert client.receive(b, 10) == b"still here"


@pytest.fixture(scope="module")
def parties(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Parties]:
    with RelayProcess(tmp_path_factory.mktemp("attacks") / "state") as relay:
        yield Parties(relay)


# --- it never dials ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("broker", ["embedded", "mosquitto"])
def test_it_never_connects(tmp_path: Path, broker: str) -> None:
    """Over a whole life: start, enrolling an owner and a device, pairing, a transfer, metrics, revoking, the end."""
    strace = shutil.which("strace")
    if not strace:
        pytest.skip("strace is missing: apt-get install strace")
    if broker == "mosquitto" and not _MOSQUITTO:
        pytest.skip("mosquitto is missing: apt-get install mosquitto")
    calls = tmp_path / "calls"
    # -D: the tracer is the child, so that the relay keeps the process id we know.
    under = (strace, "-D", "-f", "-qq", "--seccomp-bpf", "-e", "signal=none", "-e", "trace=connect,listen", "-o", str(calls))
    if subprocess.run([*under[:-1], os.devnull, "true"], capture_output=True).returncode:
        pytest.skip("strace may not trace here")
    with network(tmp_path / "net", broker, under) as net:
        with net.linux_device("pi", {"page": ("handler", "zts_agent.page:page")}):
            done = net.zts("connect", "@pi", "--stdio", stdin="GET / HTTP/1.1\r\nHost: device\r\n\r\n")
            assert done.returncode == 0 and done.stdout.startswith("HTTP/1.1 200 OK"), done.stderr
        parties = Parties(_with_code(net.relay))
        a, b = parties.pair()
        with a, b:
            data = os.urandom(4 << 20)  # enough to be spliced
            sender = threading.Thread(target=a.sendall, args=(data,))
            sender.start()
            assert hashlib.sha256(client.receive(b, len(data))).digest() == hashlib.sha256(data).digest()
            sender.join()
            with client.dial(net.relay.metrics) as metrics:
                metrics.sendall(b"GET / HTTP/1.1\r\n\r\n")
                assert metrics.recv(12) == b"HTTP/1.1 200"
            net.relay.run("revoke", "@cam")
            net.relay.run("revoke", identity.fingerprint_text(parties.pi.public))
            assert client.receive(a, 1) == b""
    traced = calls.read_text().splitlines()
    assert len([line for line in traced if "listen(" in line]) == (3 if broker == "embedded" else 2), "what is traced is all there is"
    # The C library asks its name cache, if there is one, who we are when the files for another broker are written: no network.
    dialled = [line for line in traced if "connect(" in line and "/nscd/socket" not in line]
    assert dialled == []


def _with_code(relay: RelayProcess) -> RelayProcess:
    """With a join code that is not used."""
    relay.join = relay.new_code()
    return relay


# --- it lets nobody in who may not be ----------------------------------------------------------------------------------------


def test_who_may_not_be_joined_is_not(parties: Parties) -> None:
    alice, pi, bob, cam = parties.alice, parties.pi, parties.bob, parties.cam
    sid = crypto.random_bytes(wire.SID_BYTES)
    # A device that never enrolled: it holds no K_party, or it is the hostile owner's invention, with a key cut for the account of another.
    for account, key in ((crypto.random_bytes(8), crypto.random_bytes(32)), (pi.account, cam.key), (pi.account, bytes(32))):
        sock = client.send_hello(parties.relay.leg, account, key, alice.account, DEVICE, sid)
        assert client.read_code(sock) is None
        sock.close()
    # A pair with oneself: in one hello, and from both sides.
    for role in (CLIENT, DEVICE):
        sock = parties.dial(alice, alice, role, sid)
        assert client.read_code(sock) == wire.PROTO
        sock.close()
    # Accounts that do not cross: @bob takes @pi's place towards @alice, or wants what waits for another.
    with parties.dial(alice, pi, CLIENT, sid) as waiting:
        for own, peer, role in ((bob, alice, DEVICE), (cam, alice, DEVICE), (pi, bob, DEVICE), (pi, alice, CLIENT)):
            with parties.dial(own, peer, role, sid) as sock:
                sock.settimeout(0.3)
                with pytest.raises(TimeoutError):
                    sock.recv(1)
        with parties.dial(pi, alice, DEVICE, sid) as right:
            assert client.read_code(right) == client.read_code(waiting) == wire.OK
            waiting.sendall(b"for @pi")
            assert client.receive(right, 7) == b"for @pi"
            # A stranger's and even its owner's second leg of the same number does not replace a joined one.
            for own, peer, role in ((alice, pi, CLIENT), (pi, alice, DEVICE)):
                with parties.dial(own, peer, role, sid) as again:
                    assert client.read_code(again) == wire.PROTO
            right.sendall(b"for @alice")
            assert client.receive(waiting, 10) == b"for @alice"


def test_a_replayed_hello_is_met_with_silence(parties: Parties) -> None:
    """Recorded whole on the wire, then said again: at once, while the first one lives, and when it is gone."""
    sid = crypto.random_bytes(wire.SID_BYTES)
    sock, challenge = client.greet(parties.relay.leg, wire.MAGIC_LEG)
    recorded = leg.encode_hello(leg.LegHello(CLIENT, 1, sid, parties.alice.account, parties.pi.account), parties.alice.key, challenge)
    with sock:
        sock.sendall(recorded)
        _replay(parties, recorded)
        with parties.dial(parties.pi, parties.alice, DEVICE, sid) as partner:
            assert client.read_code(sock) == client.read_code(partner) == wire.OK
            _replay(parties, recorded)
            sock.sendall(b"one")
            assert client.receive(partner, 3) == b"one"
    _replay(parties, recorded)
    # Nor is the challenge of a connection good for a second hello on it.
    first, challenge = client.greet(parties.relay.leg, wire.MAGIC_LEG)
    hello = leg.LegHello(CLIENT, 1, crypto.random_bytes(wire.SID_BYTES), parties.alice.account, parties.alice.account)
    with first:
        first.sendall(leg.encode_hello(hello, parties.alice.key, challenge) + recorded)
        assert client.receive(first, 2) == bytes([wire.PROTO])
    parties.answers()


def _replay(parties: Parties, recorded: bytes) -> None:
    sock, _ = client.greet(parties.relay.leg, wire.MAGIC_LEG)
    with sock:
        sock.sendall(recorded)
        assert client.read_code(sock) is None


# --- races -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("both", [False, True])
def test_of_64_racers_for_one_place_one_wins(parties: Parties, both: bool) -> None:
    """All hellos of one number. `both`: 64 at each end, none waits beforehand."""
    sid = crypto.random_bytes(wire.SID_BYTES)
    sides = [(CLIENT, parties.alice, parties.pi)] + ([(DEVICE, parties.pi, parties.alice)] if both else [])
    waiting = [] if both else [parties.dial(parties.pi, parties.alice, DEVICE, sid)]
    barrier = threading.Barrier(RACERS * len(sides))

    def race(number: int) -> tuple[int, int | None, socket.socket]:
        role, own, peer = sides[number % len(sides)]
        sock = socket.create_connection(parties.relay.leg, client.WAIT_S, (f"127.8.0.{number + 1}", 0))
        sock.sendall(wire.MAGIC_LEG)
        challenge = client.receive(sock, wire.CHALLENGE_BYTES)
        hello = leg.encode_hello(leg.LegHello(role, 1, sid, own.account, peer.account), own.key, challenge)
        barrier.wait(client.WAIT_S)
        sock.sendall(hello + number.to_bytes(1, "big"))
        return role, client.read_code(sock), sock

    with ThreadPoolExecutor(RACERS * len(sides)) as pool:
        ran = list(pool.map(race, range(RACERS * len(sides))))
    try:
        for role, _, _ in sides:
            codes = sorted(code for raced, code, _ in ran if raced == role and code is not None)
            assert codes == [wire.OK] + [wire.PROTO] * (RACERS - 1)
        won = [(number, sock) for number, (_, code, sock) in enumerate(ran) if code == wire.OK]
        if both:
            (first, a), (second, b) = won
            assert (client.receive(a, 1)[0], client.receive(b, 1)[0]) == (second, first)
        else:
            ((number, _),) = won
            assert client.read_code(waiting[0]) == wire.OK
            assert client.receive(waiting[0], 1)[0] == number
    finally:
        for sock in (*waiting, *(sock for _, _, sock in ran)):
            sock.close()


def test_of_64_racers_with_one_code_one_enrols(parties: Parties) -> None:
    code = codes.parse_join_code(parties.relay.new_code())
    hint, psk = codes.code_id(code.secret), codes.code_psk(code.secret)
    barrier = threading.Barrier(RACERS)

    def race(number: int) -> int:
        sock = socket.create_connection(parties.relay.leg, client.WAIT_S, (f"127.9.0.{number + 1}", 0))
        with sock:
            sock.sendall(wire.MAGIC_ENROL)
            challenge = client.receive(sock, wire.CHALLENGE_BYTES)
            own = client.key_pair()
            asking = Initiator(wire.PURPOSE_RELAY, own, code.relay_key, psk, challenge, wire.KIND_ENROL, hint)
            m1 = asking.message_1({wire.TLV_NAME: b"racer"})
            barrier.wait(client.WAIT_S)
            sock.sendall(m1)
            answer = asking.read_message_2(client.receive(sock, wire.M2_BYTES))
            assert answer is not None
            return answer[wire.TLV_CODE][0]

    with ThreadPoolExecutor(RACERS) as pool:
        answers = sorted(pool.map(race, range(RACERS)))
    assert answers == [wire.OK] + [wire.DENIED] * (RACERS - 1)
    assert parties.relay.run("parties").stdout.count("@racer") == 1


# --- revoking ----------------------------------------------------------------------------------------------------------------


def test_a_revoked_party_loses_its_legs_and_its_broker_session(parties: Parties, capsys: pytest.CaptureFixture[str]) -> None:
    relay = parties.relay
    doomed = Parties(_with_code(relay))
    sid, other_sid = crypto.random_bytes(16), crypto.random_bytes(16)
    with (
        doomed.dial(doomed.pi, doomed.alice, DEVICE, sid) as joined,
        doomed.dial(doomed.alice, doomed.pi, CLIENT, sid) as partner,
        doomed.dial(doomed.pi, doomed.alice, DEVICE, other_sid) as parked,
        _say_connect(relay, doomed.pi) as session,
        _say_connect(relay, doomed.alice) as kept,
    ):
        assert client.receive(session, 4) == client.receive(kept, 4) == b"\x20\2\0\0"
        assert client.read_code(joined) == client.read_code(partner) == wire.OK
        ends = {"leg": joined, "partner's leg": partner, "waiting leg": parked, "broker session": session}
        with ThreadPoolExecutor(len(ends)) as pool:
            waits = {name: pool.submit(_wait_for_end, sock) for name, sock in ends.items()}
            start = time.monotonic()
            assert relay.run("revoke", identity.fingerprint_text(doomed.pi.public)).returncode == 0
            ran = time.monotonic() - start
            took = {name: wait.result()[0] - start for name, wait in waits.items()}
            assert waits["waiting leg"].result()[1] == bytes([wire.REVOKED])
            assert [waits[name].result()[1] for name in ends if name != "waiting leg"] == [b"", b"", b""]
        with capsys.disabled():
            gone = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in took.items())
            print(f"\nfrom the start of `zts-relay revoke`, which itself ran {ran:.2f} s, to the end of its: {gone}")
        assert max(took.values()) < GONE_S
        kept.sendall(b"\xc0\0")  # PINGREQ
        assert client.receive(kept, 2) == b"\xd0\0"
    with doomed.dial(doomed.pi, doomed.alice, DEVICE, sid) as leg_again, _say_connect(relay, doomed.pi) as session_again:
        assert client.read_code(leg_again) == wire.REVOKED
        assert client.receive(session_again, 4) == b"\x20\2\0\5"  # not authorised
    parties.answers()


def _wait_for_end(sock: socket.socket) -> tuple[float, bytes]:
    """When it ended, and what was said before."""
    said = b""
    try:
        while data := sock.recv(64):
            said += data
    except ConnectionResetError:
        pass
    return time.monotonic(), said


def _say_connect(relay: RelayProcess, party: Account) -> ssl.SSLSocket:
    """A connection to the broker on which the party has sent its CONNECT."""
    assert relay.mqtt
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    sock = context.wrap_socket(client.dial(relay.mqtt))
    user, password = identity.fingerprint_text(party.public).encode(), identity.base32(party.password).encode()
    body = b"\0\4MQTT\4\xc2\0\x3c\0\0\0" + bytes([len(user)]) + user + b"\0" + bytes([len(password)]) + password
    sock.sendall(b"\x10" + bytes([len(body)]) + body)
    return sock


def test_whoever_dials_while_it_is_revoked_is_caught(parties: Parties) -> None:
    """A leg that came when the registry already said so and the running relay did not know yet."""
    doomed = Parties(_with_code(parties.relay))
    code: list[int | None] = []
    socks = []
    with ThreadPoolExecutor(1) as pool:
        revoking = pool.submit(parties.relay.run, "revoke", identity.fingerprint_text(doomed.pi.public))
        end = time.monotonic() + GONE_S
        while not code and time.monotonic() < end:
            sock = doomed.dial(doomed.pi, doomed.alice, DEVICE, crypto.random_bytes(wire.SID_BYTES))
            socks.append(sock)
            sock.settimeout(0.02)
            with contextlib.suppress(TimeoutError):
                code.append(client.read_code(sock))
        assert revoking.result().returncode == 0
    assert code == [wire.REVOKED] and len(socks) > 1
    for sock in socks[:-1]:
        sock.settimeout(client.WAIT_S)
        assert client.read_code(sock) == wire.REVOKED  # and not IDLE, for which it would have waited
    for sock in socks:
        sock.close()


def test_a_revocation_that_cannot_be_written_for_another_broker_is_written_later(tmp_path: Path) -> None:
    """Nor is the login of who enrolled meanwhile lost."""
    with RelayProcess(tmp_path / "state", "--broker", "mqtt://127.0.0.1:1883") as relay:
        assert relay.join
        files = tmp_path / "state" / "mosquitto"
        logins, away = files / "mosquitto.passwd", tmp_path / "away"
        alice = identity.fingerprint_text(client.join(relay.join, "alice").public)
        assert logins.read_text().startswith(f"{alice}:")
        files.rename(away)
        files.write_text("no directory, as a full disk takes no file")
        relay.run("revoke", "@alice")
        bob = identity.fingerprint_text(client.join(relay.new_code(), "bob").public)
        end = time.monotonic() + GONE_S
        while "revoked" not in [line["event"] for line in relay.logged()]:
            assert time.monotonic() < end
            time.sleep(0.02)
        files.unlink()
        away.rename(files)
        while not logins.read_text().startswith(f"{bob}:") or alice in logins.read_text():
            assert time.monotonic() < end
            time.sleep(0.02)


# --- connections that are gone before they are accepted ----------------------------------------------------------------------


def test_resets_before_the_first_byte_are_no_errors(parties: Parties) -> None:
    """The kernel hands over connections that were reset in the backlog; some have no address any more."""
    relay = parties.relay
    assert relay.mqtt
    relay.signal(signal.SIGSTOP)
    for port in (relay.leg, relay.mqtt, relay.metrics):
        for said in (b"", b"\x10", wire.MAGIC_LEG, b"GET / HTTP/1.1\r\n\r\n"):
            for _ in range(4):
                sock = client.dial(port)
                sock.sendall(said)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # RST
                sock.close()
    relay.signal(signal.SIGCONT)
    parties.answers()
    with _say_connect(relay, parties.alice) as session:
        assert client.receive(session, 4) == b"\x20\2\0\0"
    assert not [line for line in relay.logged() if line["level"] != "info"], relay.log.read_text()
