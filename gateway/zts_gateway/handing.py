"""A grant from its owner's computer to its holder's, end to end, while the holder waits for it. PROTOCOL.md, "Handing a grant over".

Both know each other's public cards. Message 1 is sealed for the holder's key and shows the owner's; no secret of theirs is needed.
"""

import asyncio
from collections.abc import Callable

import aiomqtt

from zts import control, crypto, identity, wire
from zts.errors import CryptoError, FormatError, RemoteError
from zts.initiator import Initiator
from zts_agent import board
from zts_gateway import broker
from zts_gateway.addressbook import Identity, Party
from zts_gateway.client import PATIENCE_MS
from zts_gateway.introduction import GrantLine, join_keys, split_keys
from zts_gateway.ui import Exit, Failure

AGAIN_S = 3.0  # a message 1 without an answer is made anew
_REQUIRED = (wire.TLV_RELAY, wire.TLV_GRANT, wire.TLV_CAVEATS, wire.TLV_NAME)


def _psk(giver: bytes, taker: bytes) -> bytes:
    """No secret: it keeps mac1's form, and binds the handshake to the two."""
    return crypto.hkdf(b"", giver + taker, b"ZTS/1 give")


async def send(me: Identity, account: identity.Account, party: Party, line: GrantLine, step: Callable[[str], None]) -> None:
    """Until the holder's computer has it. Raises Failure."""
    fields = {
        wire.TLV_RELAY: identity.parse_fingerprint(line.relay),
        wire.TLV_GRANT: join_keys(line),
        wire.TLV_CAVEATS: line.caveats,
        wire.TLV_NAME: line.name.encode(),
    }
    inbox, hello = control.inbox_topic(me.fp, party.fp), control.hello_topic(party.fp)
    step(f"looking for @{party.name} …")
    async with broker.connect(me, account) as client:
        await broker.subscribe(client, [inbox, hello])
        epoch: bytes | None = None
        tries: list[Initiator] = []
        deadline = board.clock() + PATIENCE_MS
        due = 0
        while board.clock() < deadline:
            if epoch is not None and board.clock() >= due:
                initiator = Initiator(wire.PURPOSE_GIVE, me.pair, party.public, _psk(me.public, party.public), epoch)
                tries.append(initiator)
                await client.publish(control.inbox_topic(party.fp, me.fp), initiator.message_1(fields))
                due = board.clock() + round(AGAIN_S * 1000)
            until = deadline if epoch is None else min(deadline, due)
            message = await _next(client, (until - board.clock()) / 1000)
            if message is None:
                continue
            if message.topic.value == hello:
                epoch = _epoch(broker.payload(message))
                due = 0
            elif message.topic.value == inbox and _is_taken(tries, broker.payload(message)):
                return
    if not tries:
        raise Failure(
            Exit.OFFLINE,
            f"@{party.name} is not waiting for a grant; there `zts add --wait` does, or give the line another way",
        )
    raise Failure(
        Exit.OFFLINE,
        f"@{party.name} does not answer; your card may not be known there (`zts card` prints it), or give it another way",
    )


async def _next(client: aiomqtt.Client, seconds: float) -> aiomqtt.Message | None:
    try:
        async with asyncio.timeout(max(0.0, seconds)):
            return await anext(client.messages)
    except TimeoutError:
        return None


def _epoch(data: bytes) -> bytes | None:
    try:
        epoch: bytes = control.decode_hello(data).epoch
        return epoch
    except RemoteError:  # an empty one: gone
        return None


def _is_taken(tries: list[Initiator], data: bytes) -> bool:
    for initiator in tries:
        try:
            fields = initiator.read_message_2(data)
        except RemoteError:
            continue
        if fields is not None and fields[wire.TLV_CODE][0] == wire.OK:
            return True
    return False


async def receive(me: Identity, account: identity.Account, parties: list[Party]) -> tuple[Party, GrantLine]:
    """Waits for a grant that one of these parties hands over. Raises Failure."""
    hello, known = control.hello_topic(me.fp), {party.fp: party for party in parties}
    epoch = crypto.random_bytes(wire.EPOCH_BYTES)
    # Who knows both cards can make us compute: so many a second.
    bucket = control.Bucket(wire.HANDSHAKES_PER_S, wire.HANDSHAKE_BURST, board.clock())
    async with broker.connect(me, account, will=hello) as client:
        await broker.subscribe(client, [control.inbox_topic(me.fp, "+")])
        await client.publish(hello, control.encode_hello(epoch), retain=True)
        try:
            async for message in client.messages:
                sender = control.parse_inbox_topic(message.topic.value, me.fp)
                party = known.get(sender or "")
                if party is None:
                    continue
                taken = _read(me, party, broker.payload(message), epoch, bucket)
                if taken is not None:
                    line, answer = taken
                    await client.publish(control.inbox_topic(party.fp, me.fp), answer)
                    return party, line
        finally:
            await client.publish(hello, b"", retain=True)
    raise Failure(Exit.UNREACHABLE, "the broker went away; try again")


def _read(me: Identity, party: Party, m1: bytes, epoch: bytes, bucket: control.Bucket) -> tuple[GrantLine, bytes] | None:
    """The grant, and message 2 that says it came; None for anything else."""
    psk = _psk(party.public, me.public)
    if not control.is_message_1(m1) or m1[2] != wire.KIND_CONNECT or any(control.hint(m1)):
        return None
    if not control.has_mac1(m1, control.make_peer(party.public, psk).mac_key, epoch) or not bucket.take(board.clock()):
        return None
    try:
        handshake, payload = control.read_message_1(m1, wire.PURPOSE_GIVE, me.pair, psk, epoch)
        if handshake.rs is None or not crypto.equal(handshake.rs, party.public):
            return None
        fields = control.decode_fields(payload, _REQUIRED)
        relay = identity.base32(fields[wire.TLV_RELAY])
        name = identity.check_name(fields[wire.TLV_NAME].decode("ascii"))
        line = split_keys(name, relay, fields[wire.TLV_GRANT], fields[wire.TLV_CAVEATS])
    except (CryptoError, RemoteError, FormatError, UnicodeDecodeError):
        return None
    return line, control.write_message_2(handshake, m1, {wire.TLV_CODE: bytes([wire.OK])})
