"""Enemies for tests: a broker that does what it likes, and what somebody can make who stole a device's keys."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import NamedTuple, Self

from zts import control, crypto, identity, wire
from zts.errors import RemoteError
from zts.initiator import Initiator
from zts.noise import HandshakeState
from zts_relay import mqtt_codec as codec

LARGEST = 1 << 20  # bytes of a packet we take


class Said(NamedTuple):
    """A PUBLISH of a party, by its user name."""

    sender: str
    topic: str
    payload: bytes
    retain: bool


Mischief = Callable[[Said], list[tuple[str, bytes]]]


def honest(said: Said) -> list[tuple[str, bytes]]:
    return [(said.topic, said.payload)]


class _Visit:
    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        self.name = ""
        self.filters: set[str] = set()
        self.will: codec.Will | None = None
        self.in_order = False  # it said DISCONNECT


class EvilBroker:
    """`async with EvilBroker() as broker:` lets everybody in, at `broker.address`, without TLS.

    `mischief(said)` gives what is delivered in a message's place, as (topic, payload). `answers` holds, by the first byte of
    the answer that an honest broker would send (0x20 CONNACK, 0x90 SUBACK, 0xB0 UNSUBACK), the bytes that go out instead; None: hang up.
    """

    def __init__(self, mischief: Mischief = honest) -> None:
        self.mischief = mischief
        self.answers: dict[int, bytes | None] = {}
        self.address = ("", 0)
        self.heard = bytearray()  # every byte of every party
        self.said: list[Said] = []
        self.retained: dict[str, bytes] = {}
        self.logins = 0
        self._visits: dict[asyncio.Task[None], _Visit] = {}

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self.address[1]}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._visit, "127.0.0.1", 0)
        self.address = self._server.sockets[0].getsockname()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        tasks = list(self._visits)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def say(self, topic: str, payload: bytes, retain: bool = False) -> None:
        """Delivers to every subscriber; in whose name, the topic says."""
        packet = codec.publish(topic, payload, retain)
        for visit in self._visits.values():
            if any(_matches(name, topic) for name in visit.filters):
                visit.writer.write(packet)

    def send_raw(self, name: str, data: bytes) -> None:
        """Any bytes to a party."""
        for visit in self._visits.values():
            if visit.name == name:
                visit.writer.write(data)

    def hang_up(self, name: str) -> None:
        for visit in self._visits.values():
            if visit.name == name:
                visit.writer.transport.abort()

    def to(self, fp: str) -> list[bytes]:
        """What was said so far to a party's inbox."""
        return [said.payload for said in self.said if said.topic.startswith(f"zts/1/{fp}/in/")]

    async def _visit(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        visit = self._visits[task] = _Visit(writer)
        decoder = codec.Decoder(LARGEST)
        try:
            while data := await reader.read(1 << 16):
                self.heard += data
                decoder.feed(data)
                while (packet := decoder.next_packet()) is not None:
                    self._take(visit, packet)
                await writer.drain()
        except (OSError, RemoteError, asyncio.CancelledError):
            pass
        finally:
            del self._visits[task]
            if visit.will and not visit.in_order:
                self._publish(Said(visit.name, visit.will.topic, visit.will.payload, visit.will.retain))
            writer.close()
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await writer.wait_closed()

    def _take(self, visit: _Visit, packet: codec.Packet) -> None:
        if isinstance(packet, codec.Connect):
            visit.name, visit.will = packet.username or "", packet.will
            self.logins += 1
            self._answer(visit, codec.connack(codec.ACCEPTED))
        elif isinstance(packet, codec.Subscribe):
            visit.filters.update(packet.filters)
            self._answer(visit, codec.suback(packet.packet_id, [codec.GRANTED] * len(packet.filters)))
            for topic, payload in self.retained.items():
                if any(_matches(name, topic) for name in packet.filters):
                    visit.writer.write(codec.publish(topic, payload, True))
        elif isinstance(packet, codec.Unsubscribe):
            visit.filters.difference_update(packet.filters)
            self._answer(visit, codec.unsuback(packet.packet_id))
        elif isinstance(packet, codec.Publish):
            self._publish(Said(visit.name, packet.topic, packet.payload, packet.retain))
        elif isinstance(packet, codec.PingReq):
            visit.writer.write(codec.PINGRESP)
        else:
            visit.in_order = True

    def _answer(self, visit: _Visit, honestly: bytes) -> None:
        answer = self.answers.get(honestly[0], honestly)
        if answer is None:
            visit.writer.transport.abort()
        else:
            visit.writer.write(answer)

    def _publish(self, said: Said) -> None:
        self.said.append(said)
        for topic, payload in self.mischief(said):
            if said.retain:
                self.retained.pop(topic, None)
                if payload:
                    self.retained[topic] = payload
            self.say(topic, payload)


def _matches(name: str, topic: str) -> bool:
    ours, theirs = name.split("/"), topic.split("/")
    return len(ours) == len(theirs) and all(a in ("+", b) for a, b in zip(ours, theirs, strict=True))


class _Forged(HandshakeState):
    """Message 1 in the name of a party whose public key is known, by somebody who has the responder's private key (KCI):
    ss is the same from either end."""

    def __init__(self, prologue: bytes, forged: bytes, stolen: tuple[bytes, bytes], psk: bytes) -> None:
        super().__init__(True, prologue, (bytes(wire.KEY_BYTES), forged), stolen[1], psk)
        self._forged, self._stolen = forged, stolen

    def _write_1(self, payload: bytes) -> bytes:
        symmetric = self._turn(0)
        e = self._e = crypto.random_bytes(wire.KEY_BYTES)
        e_public = crypto.x25519_public(e)
        symmetric.mix_hash(e_public)
        symmetric.mix_key(e_public)
        symmetric.mix_key(crypto.x25519(e, self._stolen[1]))
        enc_s = symmetric.encrypt_and_hash(self._forged)
        symmetric.mix_key(crypto.x25519(self._stolen[0], self._forged))
        enc_payload = symmetric.encrypt_and_hash(payload)
        self._commit(symmetric)
        return e_public + enc_s + enc_payload


class Forger(Initiator):
    """A message 1 from `forged` (a public key) to the device whose key pair was stolen. `psk` is its pairing secret, or a guess.

    `handshake.read_message` of the answer fails: it wants the private key that goes with `forged`.
    """

    def __init__(self, forged: bytes, stolen: tuple[bytes, bytes], psk: bytes, epoch: bytes) -> None:
        nobody = (bytes(wire.KEY_BYTES), forged)
        super().__init__(wire.PURPOSE_CONNECT, nobody, stolen[1], psk, epoch)
        prologue = control.prologue(wire.PURPOSE_CONNECT, identity.fingerprint(stolen[1]), epoch, self._header)
        self.handshake = _Forged(prologue, forged, stolen, psk)


def connect_fields(account: identity.Account, sid: bytes) -> dict[int, bytes]:
    """What a client on a host says in message 1."""
    return {
        wire.TLV_RELAY: identity.fingerprint(account.relay_key),
        wire.TLV_SID: sid,
        wire.TLV_ACCOUNT: account.account,
        wire.TLV_MAX_RECORD: wire.RECORD_MAX_LEN.to_bytes(2, "big"),
        wire.TLV_WINDOW: wire.HOST_WINDOW.to_bytes(4, "big"),
    }
