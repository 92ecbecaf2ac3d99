"""No field of any message makes a device or a relay dial an address of the sender's choice.

Each runs on a machine that notes every first segment and every datagram that leaves any program there. The sender is the worst
there can be: @alice, whose keys open everything, turned evil; and strangers at the relay's ports.
"""

import asyncio
import contextlib
import socket
import struct
from collections.abc import Iterator

import pytest

import relay_client as client
from netns import Machine, why_not
from netns_network import Separated, separated
from relay_client import Account
from zts import codes, control, crypto, identity, link, wire
from zts.errors import StreamReset
from zts.initiator import Initiator
from zts_gateway import broker
from zts_gateway.addressbook import Book, Card, Identity
from zts_gateway.client import Meeting, meet

_reason = why_not()
pytestmark = pytest.mark.skipif(_reason is not None, reason=str(_reason))

DEVICES = ("sensor", "pi")
NOWHERE = "203.0.113.9"  # TEST-NET-3, RFC 5737: the address of the sender's choice, beside those inside the device's own walls
CHOICES = (f"{NOWHERE}:80", "127.0.0.1:22", "[::1]:22", "169.254.169.254:80", "neighbour.example:80", f"http://{NOWHERE}/", "../x")
# What else is no service's name, and what is one, but none of the device's.
MALFORMED = (*CHOICES, "", "digest\0", "DIGEST", " digest", "a" * (wire.NAME_MAX_CHARS + 1))
UNKNOWN = ("localhost", "127-0-0-1-22", "ssh", "neighbour", "a" * wire.NAME_MAX_CHARS)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Separated]:
    with separated(tmp_path_factory.mktemp("ssrf")) as network:
        for name in (*DEVICES, "relay"):
            _control(network.lan[name])
        yield network


CONTROL = ("tcp", NOWHERE, 9)


def _control(machine: Machine) -> None:
    """A dial that must be noted, else the notes are worth nothing."""
    with machine.inside(), socket.socket() as sock:
        sock.setblocking(False)
        sock.connect_ex(CONTROL[1:])


def _allowed(network: Separated, device: str) -> set[tuple[str, str, int]]:
    """The relay, its broker, and the one target in the device's configuration."""
    relay = network.relay
    assert relay.mqtt
    return {("tcp", *relay.leg), ("tcp", *relay.mqtt), ("tcp", *network.target[device]), CONTROL}


def _alice(network: Separated, device: str) -> tuple[Identity, identity.Account, Card]:
    book = Book(network.net.home)
    me, account = book.member()
    return me, account, book.device(device)


async def _meet(network: Separated, device: str) -> Meeting:
    me, account, card = _alice(network, device)
    return await meet(me, account, card.name, card.public, card.pairing, int(client.WAIT_S * 1000), lambda _: None)


# --- to a device -------------------------------------------------------------------------------------------------------------


def _messages_1(relay: bytes) -> list[tuple[dict[int, bytes], int | None]]:
    """Fields to be said beside or in the place of honest ones, and the code that answers them; None: silence."""
    honest = {
        wire.TLV_RELAY: relay,
        wire.TLV_SID: b"203.0.113.9:0080",
        wire.TLV_ACCOUNT: socket.inet_aton(NOWHERE) + struct.pack(">HH", 80, 0),
        wire.TLV_MAX_RECORD: b"\xff\xff",
        wire.TLV_WINDOW: b"\0\1\0\0",
    }
    other_relays = (crypto.random_bytes(wire.FP_BYTES), b"203.0.113.9:080", bytes(wire.FP_BYTES), b"\xff" * wire.FP_BYTES)
    told: list[tuple[dict[int, bytes], int | None]] = [(honest | {wire.TLV_RELAY: other}, wire.DENIED) for other in other_relays]
    # Fields of other messages that do hold an address, or a key, and fields that nobody knows.
    elsewhere = {
        wire.TLV_NAME: b"203.0.113.9:80",
        wire.TLV_BROKER: b"mqtt://203.0.113.9:80",
        wire.TLV_PUBLIC: bytes(wire.KEY_BYTES),
        0x7F: b"203.0.113.9:80",
    }
    told.append((honest | elsewhere | {wire.TLV_RELAY: other_relays[0]}, wire.DENIED))
    told.append((honest | {0xFF: b"203.0.113.9:80"}, None))
    told.append((honest | elsewhere, wire.OK))  # the device dials: its own relay
    return told


async def _say_messages_1(network: Separated, device: str) -> None:
    me, account, card = _alice(network, device)
    fp = card.fp
    async with broker.connect(me, account) as mqtt:
        await broker.subscribe(mqtt, [control.hello_topic(fp), control.inbox_topic(me.fp, fp)])
        hello = await anext(mqtt.messages)
        epoch = control.decode_hello(broker.payload(hello)).epoch
        for fields, expected in _messages_1(identity.fingerprint(account.relay_key)):
            asking = Initiator(wire.PURPOSE_CONNECT, me.pair, card.public, card.pairing, epoch)
            await mqtt.publish(control.inbox_topic(fp, me.fp), asking.message_1(fields))
            if expected is None:
                continue  # the next answer shows that it was read
            async with asyncio.timeout(client.WAIT_S):
                answer = asking.read_message_2(broker.payload(await anext(mqtt.messages)))
            assert answer is not None and answer[wire.TLV_CODE] == bytes([expected])


async def _open(network: Separated, device: str) -> None:
    for name in MALFORMED:
        meeting = await _meet(network, device)
        with pytest.raises(StreamReset):
            await meeting.link.open(name).opened()
        await meeting.wait_over()  # such a client is not talked to any more
    meeting = await _meet(network, device)
    for name in UNKNOWN:
        stream = meeting.link.open(name)
        with pytest.raises(StreamReset) as reset:
            await stream.opened()
        assert reset.value.code == wire.DENIED
    stream = meeting.link.open("digest")
    await stream.opened()
    await stream.send(b"well\n")
    stream.finish()
    assert (await _read_all(stream)).endswith(b"well\n")
    await meeting.close()


async def _read_all(stream: link.LinkStream) -> bytes:
    got = b""
    while data := await stream.read():
        got += data
    return got


@pytest.mark.parametrize("device", DEVICES)
def test_a_device_dials_its_relay_and_its_targets_alone(network: Separated, device: str) -> None:
    with network.lan["laptop"].inside():
        asyncio.run(_say_messages_1(network, device))
        asyncio.run(_open(network, device))
    assert network.lan[device].dialled() == _allowed(network, device)


# --- to the relay ------------------------------------------------------------------------------------------------------------


def _requests(address: str) -> list[bytes]:
    """What open proxies understand."""
    host, port = socket.inet_aton(NOWHERE), struct.pack(">H", 80)
    return [
        f"GET http://{address}/ HTTP/1.1\r\nHost: {address}\r\n\r\n".encode(),
        f"CONNECT {address} HTTP/1.1\r\nHost: {address}\r\n\r\n".encode(),
        f"GET /metrics?target={address} HTTP/1.1\r\nHost: {address}\r\nForwarded: for={address}\r\n\r\n".encode(),
        f"PROXY TCP4 {NOWHERE} {NOWHERE} 80 80\r\n".encode(),
        b"\4\1" + port + host + b"\0",  # SOCKS 4
        b"\5\1\0\5\1\0\1" + host + port,  # SOCKS 5
        wire.MAGIC_LEG + address.encode().ljust(wire.LEG_HELLO_BYTES, b"\0"),
        wire.MAGIC_ENROL + address.encode().ljust(wire.M1_BYTES, b"\0"),
    ]


def _say_requests(port: tuple[str, int]) -> None:
    for request in _requests(f"{NOWHERE}:80"):
        with client.dial(port) as sock, contextlib.suppress(OSError):
            sock.sendall(request)
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(4096):
                pass


def _enrol(network: Separated) -> Account:
    """Parties whose names are addresses; the last one is let in."""
    code = codes.parse_join_code(network.relay.new_code())
    own = client.key_pair()
    hint, psk = codes.code_id(code.secret), codes.code_psk(code.secret)
    for choice in (*CHOICES, "localhost"):
        fields = {wire.TLV_NAME: choice.encode(), wire.TLV_BROKER: b"mqtt://203.0.113.9:80", 0x7F: choice.encode()}
        answer = client.ask(network.relay.leg, code.relay_key, own, psk, hint, wire.KIND_ENROL, fields)
        assert answer is not None
        if choice != "localhost":
            assert answer[wire.TLV_CODE] == bytes([wire.PROTO])
    assert answer is not None
    party = client.account_of(own, answer)
    # As an owner too it may say what it likes.
    for kind in (wire.KIND_MAKE_CODE, wire.KIND_LOOK_UP):
        fields = {wire.TLV_BROKER: b"mqtt://203.0.113.9:80", wire.TLV_NAME: b"203.0.113.9:80", wire.TLV_CODE_ID: b"203.0.11"}
        assert client.ask_as(network.relay.leg, code.relay_key, party, kind, fields) is not None
    return party


def _leg(network: Separated, party: Account) -> None:
    """To a partner whose account is an address."""
    peer = socket.inet_aton(NOWHERE) + struct.pack(">HH", 80, 0)
    behind = _requests(f"{NOWHERE}:80")[0]
    sock = client.send_hello(network.relay.leg, party.account, party.key, peer, wire.ROLE_CLIENT, b"203.0.113.9:0080", behind=behind)
    with sock:
        sock.settimeout(0.5)
        with pytest.raises(TimeoutError):
            sock.recv(1)


async def _publish(network: Separated) -> None:
    me, account, _ = _alice(network, "pi")
    async with broker.connect(me, account) as mqtt:
        for choice in CHOICES:
            for topic in (
                f"$SYS/broker/connection/{choice}/state",
                f"zts/1/{choice}/in/{me.fp}",
                control.hello_topic(me.fp),
                choice or "x",
            ):
                await mqtt.publish(topic, choice.encode(), retain=topic.endswith("hello"))
        await mqtt.subscribe(control.hello_topic(me.fp))  # it has read them all


def test_the_relay_dials_nobody(network: Separated) -> None:
    relay = network.relay
    assert relay.mqtt
    with network.lan["laptop"].inside():
        for port in (relay.leg, relay.mqtt, relay.metrics):
            _say_requests(port)
        _leg(network, _enrol(network))
        asyncio.run(_publish(network))
    for device in DEVICES:
        with network.door(f"after-{device}", f"@{device}:digest") as (_, door):
            assert network.ask(door, b"still there\n").endswith(b"still there\n")
    assert network.lan["relay"].dialled() == {CONTROL}
    for device in DEVICES:
        assert network.lan[device].dialled() == _allowed(network, device)
