"""Parties for tests of the relay, over plain blocking sockets: enrolling, and dialling legs byte by byte."""

import socket
from typing import NamedTuple

from zts import codes, control, crypto, leg, wire
from zts.initiator import Initiator

WAIT_S = 30.0  # for anything that must come


class Account(NamedTuple):
    """What an enrolment gave."""

    secret: bytes
    public: bytes
    account: bytes
    key: bytes
    password: bytes
    pin: bytes | None
    broker: str


def key_pair() -> tuple[bytes, bytes]:
    private = crypto.random_bytes(32)
    return private, crypto.x25519_public(private)


def dial(address: tuple[str, int]) -> socket.socket:
    return socket.create_connection(address, WAIT_S)


def receive(sock: socket.socket, size: int) -> bytes:
    """Exactly `size` bytes, or fewer when the other side ends before."""
    data = bytearray()
    while len(data) < size:
        got = sock.recv(size - len(data))
        if not got:
            break
        data += got
    return bytes(data)


def greet(address: tuple[str, int], magic: bytes) -> tuple[socket.socket, bytes]:
    """A connection, and the relay's challenge to it."""
    sock = dial(address)
    sock.sendall(magic)
    challenge = receive(sock, wire.CHALLENGE_BYTES)
    assert len(challenge) == wire.CHALLENGE_BYTES
    return sock, challenge


def ask(
    address: tuple[str, int],
    relay_key: bytes,
    own: tuple[bytes, bytes],
    psk: bytes,
    hint: bytes,
    kind: int,
    fields: dict[int, bytes],
) -> dict[int, bytes] | None:
    """One enrolment connection: the fields of message 2, or None when the relay closes in silence."""
    sock, challenge = greet(address, wire.MAGIC_ENROL)
    with sock:
        initiator = Initiator(wire.PURPOSE_RELAY, own, relay_key, psk, challenge, kind, hint)
        sock.sendall(initiator.message_1(fields))
        m2 = receive(sock, wire.M2_BYTES)
        if not m2:
            return None
        answer = initiator.read_message_2(m2)
        assert answer is not None and sock.recv(1) == b""
        return answer


def enrol_with(
    address: tuple[str, int], relay_key: bytes, secret: bytes, own: tuple[bytes, bytes], name: str = ""
) -> dict[int, bytes] | None:
    """Enrol with a code's secret: the fields of message 2, or None."""
    fields = {wire.TLV_NAME: name.encode()} if name else {}
    return ask(address, relay_key, own, codes.code_psk(secret), codes.code_id(secret), wire.KIND_ENROL, fields)


def account_of(own: tuple[bytes, bytes], fields: dict[int, bytes]) -> Account:
    assert fields[wire.TLV_CODE] == bytes([wire.OK])
    return Account(
        own[0],
        own[1],
        fields[wire.TLV_ACCOUNT],
        fields[wire.TLV_PARTY_KEY],
        fields[wire.TLV_PASSWORD],
        fields.get(wire.TLV_PIN),
        fields[wire.TLV_BROKER].decode(),
    )


def join(code: str, name: str = "") -> Account:
    """Enrol a new owner with a join code."""
    parsed = codes.parse_join_code(code)
    own = key_pair()
    fields = enrol_with((parsed.host, parsed.port), parsed.relay_key, parsed.secret, own, name)
    assert fields is not None
    return account_of(own, fields)


def ask_as(address: tuple[str, int], relay_key: bytes, party: Account, kind: int, fields: dict[int, bytes]) -> dict[int, bytes] | None:
    """Ask the relay as an enrolled party."""
    return ask(address, relay_key, (party.secret, party.public), control.party_psk(party.key), party.account, kind, fields)


def send_hello(
    address: tuple[str, int], account: bytes, key: bytes, peer: bytes, role: int, sid: bytes, n: int = 1, behind: bytes = b""
) -> socket.socket:
    """Dial a leg and say hello, with `behind` sent in the same write."""
    sock, challenge = greet(address, wire.MAGIC_LEG)
    sock.sendall(leg.encode_hello(leg.LegHello(role, n, sid, account, peer), key, challenge) + behind)
    return sock


def read_code(sock: socket.socket) -> int | None:
    """The relay's code byte, or None when it closes without one."""
    code = receive(sock, 1)
    return code[0] if code else None
