"""A relay that flips, cuts, withholds, repeats, swaps and delays what passes it: both ends run their real session over a real relay.

Whatever it does, each end gets a beginning of what the other sent, an end only after all of it, and its leg ends.
"""

import asyncio
import contextlib
import resource
import socket
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Iterator
from typing import Any, NamedTuple

import pytest

import tap
from pair import Pair
from relay_client import key_pair
from relay_thread import Party, RelayThread
from zts import codes, control, crypto, dial, enrol, leg, link, session, wire
from zts.errors import StreamReset, ZtsError
from zts.initiator import Initiator
from zts_agent import board
from zts_relay import enrolment
from zts_relay.server import Limits

OFFER = session.Offer(wire.RECORD_MAX_LEN, wire.HOST_WINDOW)
# Short, so that a leg which waits for bytes that never come ends soon; long enough to get there on a busy machine.
TIMES = session.Times(confirm=600, ping=200, dead=600)
LIMITS = Limits(hello_s=0.6, partner_s=0.6, linger_s=0.1, unknown_per_source=1000)
AT_ONCE = 96  # each has about eleven descriptors, the relay's included
TRIES = 5  # until a leg has come as far as the byte that is tampered with, which a busy machine may prevent
HUNG_S = 60.0
SERVICE = "marker-service"
REQUEST = b"marker-of-the-request"
ANSWER = b"marker-of-the-answer"


class Outcome(NamedTuple):
    """What the application got at each end, and whether it was told that this was all."""

    device: bytes
    device_end: bool
    client: bytes
    client_end: bool
    failures: list[Exception]

    @property
    def is_whole(self) -> bool:
        return self.device_end and self.client_end

    def check(self) -> None:
        assert REQUEST.startswith(self.device) and (not self.device_end or self.device == REQUEST)
        assert ANSWER.startswith(self.client) and (not self.client_end or self.client == ANSWER)
        # What ends a leg, and nothing else: no fault of a program.
        assert all(isinstance(failure, (OSError, EOFError, ZtsError)) for failure in self.failures), self.failures


class Run:
    """One session between two parties, the client's leg through a tap."""

    def __init__(self, parties: tuple[Party, Party], relay: tuple[str, int]) -> None:
        self._parties = parties
        self._relay = relay
        self._failures: list[Exception] = []
        self._got = {wire.ROLE_CLIENT: bytearray(), wire.ROLE_DEVICE: bytearray()}
        self._ended: set[int] = set()
        self._sid, self._key = crypto.random_bytes(wire.SID_BYTES), crypto.random_bytes(wire.KEY_BYTES)

    async def through(self, up: tap.Tamper, down: tap.Tamper) -> tuple[Outcome, tap.Seen]:
        async with tap.Tap(self._relay, lambda _: (up, down)) as tapped:
            ends = (self._end(wire.ROLE_CLIENT, tapped.address), self._end(wire.ROLE_DEVICE, self._relay))
            await asyncio.wait_for(asyncio.gather(*ends), HUNG_S)
            seen = tapped.seen[0]
        device, client = self._got[wire.ROLE_DEVICE], self._got[wire.ROLE_CLIENT]
        ended = (wire.ROLE_DEVICE in self._ended, wire.ROLE_CLIENT in self._ended)
        return Outcome(bytes(device), ended[0], bytes(client), ended[1], self._failures), seen

    async def _end(self, role: int, address: tuple[str, int]) -> None:
        own, other = self._parties if role == wire.ROLE_CLIENT else reversed(self._parties)
        mine = session.Session(role, self._key, OFFER, OFFER, 8, TIMES)
        hello = leg.LegHello(role, mine.start_leg(board.clock()), self._sid, own.account, other.account)
        is_device = role == wire.ROLE_DEVICE
        works: list[asyncio.Task[None]] = []

        def opened(stream: link.LinkStream) -> None:
            works.append(asyncio.create_task(self._guard(self._serve(stream))))

        announced = [(wire.SERVICE_TCP, SERVICE)]
        running = link.Link(mine, board.clock, link.HOST_READ, announced if is_device else None, opened if is_device else None)
        try:
            reader, writer = await dial.dial_leg(board, *address, hello, own.key, b"".join(mine.data_to_send()))
            if not is_device:
                works.append(asyncio.create_task(self._guard(self._ask(running))))
            await running.run(reader, writer)
        except Exception as failure:
            self._failures.append(failure)
        await asyncio.gather(*works)

    async def _guard(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except StreamReset:
            pass
        except Exception as failure:
            self._failures.append(failure)

    async def _read(self, role: int, stream: link.LinkStream) -> None:
        while data := await stream.read():
            self._got[role] += data
        self._ended.add(role)

    async def _serve(self, stream: link.LinkStream) -> None:
        stream.accept()
        await self._read(wire.ROLE_DEVICE, stream)
        await stream.send(ANSWER)
        stream.finish()

    async def _ask(self, running: link.Link) -> None:
        if not await running.ready():
            return
        try:
            stream = running.open(SERVICE)
            await stream.opened()
            await stream.send(REQUEST)
            stream.finish()
            await self._read(wire.ROLE_CLIENT, stream)
        finally:
            running.close()


class Lab:
    def __init__(self, relay: RelayThread) -> None:
        self.relay = relay
        self.parties = (relay.party(), relay.party())

    async def run(self, up: tap.Tamper, down: tap.Tamper) -> tuple[Outcome, tap.Seen]:
        return await Run(self.parties, self.relay.address).through(up, down)

    def honest(self) -> tap.Seen:
        """What a good run says up to the end of the answer: nothing is changed, and all comes through."""

        async def once() -> tap.Seen:
            outcome, seen = await self.run(tap.Tamper(), tap.Tamper())
            outcome.check()
            assert outcome.is_whole and not outcome.failures, outcome
            return seen

        return asyncio.run(once())

    def attack(self, tampers: "list[Callable[[], Tampers]]") -> Counter[str]:
        """Each pair of tampers on a leg of its own, until one of the two has fired. How the legs ended."""
        ends: Counter[str] = Counter()
        turns = asyncio.Semaphore(AT_ONCE)

        async def one(make: "Callable[[], Tampers]") -> None:
            async with turns:
                for _ in range(TRIES):
                    pair = make()
                    outcome, _ = await self.run(*pair)
                    outcome.check()
                    if any(tamper.fired for tamper in pair):
                        assert not outcome.is_whole and outcome.failures, outcome
                        ends.update(type(failure).__name__ for failure in outcome.failures)
                        return
                raise AssertionError("a leg never came so far")

        async def all_of_them() -> None:
            await asyncio.gather(*(one(make) for make in tampers))

        asyncio.run(all_of_them())
        return ends


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        with RelayThread(tmp_path_factory.mktemp("attack") / "state", LIMITS) as relay:
            yield Lab(relay)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _records(said: bytes, head: int) -> list[bytes]:
    records = []
    at = head
    while at < len(said):
        end = at + wire.RECORD_HEAD_BYTES + int.from_bytes(said[at : at + 2], "big")
        records.append(bytes(said[at:end]))
        at = end
    return records


def _size(said: bytes, head: int, records: int) -> int:
    """Bytes up to the end of the first `records` records."""
    return head + sum(map(len, _records(said, head)[:records]))


Tampers = tuple[tap.Tamper, tap.Tamper]


def _each(make: Callable[[int], tap.Tamper], ups: Iterable[int], downs: Iterable[int]) -> list[Callable[[], Tampers]]:
    """A leg for each number: tampered with on the way to the relay, then as many on the way from it."""
    pairs: list[Callable[[], Tampers]] = [lambda at=at: (make(at), tap.Tamper()) for at in ups]  # type: ignore[misc]
    pairs += [lambda at=at: (tap.Tamper(), make(at)) for at in downs]  # type: ignore[misc]
    return pairs


# How many records come before the session's own end: RESUME OPEN DATA FIN, and RESUME INFO ACK ACK DATA FIN. A busy machine
# may join or split ACKs, so one is left out.
UP_RECORDS = 4
DOWN_RECORDS = 5


def _sizes(lab: Lab) -> tuple[int, int]:
    seen = lab.honest()
    return _size(seen.up, tap.UP_HEAD, UP_RECORDS), _size(seen.down, tap.DOWN_HEAD, DOWN_RECORDS)


def _bits(said: bytes, head: int, records: int) -> list[int]:
    """Every bit of what is not sealed, and one bit of every sealed byte."""
    bits = list(range(8 * head))
    at = head
    for record in _records(said, head)[:records]:
        bits += range(8 * at, 8 * (at + wire.RECORD_HEAD_BYTES))
        bits += (8 * byte + byte % 8 for byte in range(at + wire.RECORD_HEAD_BYTES, at + len(record)))
        at += len(record)
    return bits


def test_every_flipped_bit_ends_the_leg(lab: Lab) -> None:
    seen = lab.honest()
    flips = _each(tap.Flip, _bits(seen.up, tap.UP_HEAD, UP_RECORDS), _bits(seen.down, tap.DOWN_HEAD, DOWN_RECORDS))
    ends = lab.attack(flips)
    print(f"{len(flips)} flipped bits: {dict(ends)}")


def test_every_flipped_bit_of_headers_and_first_records_delivers_nothing() -> None:
    """All of them, between two sessions in memory."""

    def run(victim: str, bit: int) -> tuple[bytes, bool]:
        """What the other end got of `victim`'s bytes, and whether it refused."""
        pair = Pair(up=False)
        flip = tap.Flip(bit)
        sender = getattr(pair, victim)
        receiver = pair.device if victim == "client" else pair.client
        try:
            for _ in range(3):
                pair.step(lambda end, data: flip.take(data) if end is sender else data)
            stream = pair.client.session.open("x")
            for _ in range(2):
                pair.step(lambda end, data: flip.take(data) if end is sender else data)
            sender.session.send(stream, REQUEST)
            pair.step(lambda end, data: flip.take(data) if end is sender else data)
        except ZtsError:
            return bytes(receiver.data.get(1, b"")), True
        return bytes(receiver.data.get(1, b"")), not flip.fired

    for victim in ("client", "device"):
        bit = refused = held = 0
        while True:
            got, was_refused = run(victim, bit)
            if got == REQUEST:
                break  # behind the last bit
            assert not got, (victim, bit)
            refused += was_refused
            held += not was_refused  # a length that grew: it waits for bytes, and in the end for its deadline
            bit += 1
        print(f"{victim}: {bit} bits, {refused} refused at once, {held} records held back")
        assert bit > 8 * 90 and held < 16 * 4


def test_every_cut_ends_the_leg(lab: Lab) -> None:
    up, down = _sizes(lab)
    cuts = _each(tap.Stop, range(up), range(down))
    ends = lab.attack(cuts)
    assert "CryptoError" not in ends, "a cut is no forgery"
    print(f"{len(cuts)} cuts: {dict(ends)}")


def test_silence_from_any_point_on_ends_the_leg(lab: Lab) -> None:
    """Nothing is closed: who waits gives up by itself."""
    up, down = _sizes(lab)
    lab.attack(_each(lambda size: tap.Stop(size, silent=True), range(0, up, 5), range(0, down, 5)))


@pytest.mark.parametrize("what", [tap.withhold, tap.duplicate])
def test_every_withheld_or_repeated_record_ends_the_leg(lab: Lab, what: Callable[[int, int], tap.Records]) -> None:
    for head, (ups, downs) in ((tap.UP_HEAD, (UP_RECORDS, 0)), (tap.DOWN_HEAD, (0, DOWN_RECORDS))):
        lab.attack(_each(lambda index, head=head: what(head, index), range(ups), range(downs)))  # type: ignore[misc]


def test_swapped_records_deliver_nothing_wrong(lab: Lab) -> None:
    """Each stream has its own counter, so two records of two streams may change places, which harms nobody."""
    tampers: list[Tampers] = [(tap.swap(tap.UP_HEAD, index), tap.Tamper()) for index in range(UP_RECORDS)]
    tampers += [(tap.Tamper(), tap.swap(tap.DOWN_HEAD, index)) for index in range(DOWN_RECORDS)]

    async def one(pair: Tampers) -> Outcome:
        outcome, _ = await lab.run(*pair)
        outcome.check()
        return outcome

    async def all_of_them() -> list[Outcome]:
        return await asyncio.gather(*map(one, tampers))

    outcomes = asyncio.run(all_of_them())
    assert not outcomes[0].is_whole and not outcomes[UP_RECORDS].is_whole, "RESUME is the first record"


def test_bytes_that_come_one_by_one_all_come(lab: Lab) -> None:
    for _ in range(TRIES):
        outcome, _ = asyncio.run(lab.run(tap.Delay(0.0001), tap.Delay(0.0001)))
        outcome.check()
        if outcome.is_whole:
            return
    raise AssertionError(outcome)


def test_what_the_tap_recorded_opens_nothing(lab: Lab) -> None:
    """Neither marker is to be seen, and a leg that is said again word for word is none, for each challenge is new."""
    seen = lab.honest()
    for said in seen:
        assert b"marker" not in said
    before = lab.relay.refused("mac")
    with socket.create_connection(lab.relay.address, HUNG_S) as again:
        again.sendall(seen.up)
        assert len(_all(again)) == wire.CHALLENGE_BYTES
    assert lab.relay.refused("mac") == before + 1


def test_an_old_legs_records_do_not_open_on_a_new_one(lab: Lab) -> None:
    """The tap passes on a new leg's hello, then puts the records of the same session's earlier leg in the place of the new ones."""
    one = Run(lab.parties, lab.relay.address)

    class Substitute(tap.Tamper):
        def __init__(self, head: int, old: bytes) -> None:
            self._kept, self._old = head, old

        def take(self, data: bytes) -> bytes:
            if self.fired:
                return b""
            kept, self._kept = data[: self._kept], max(0, self._kept - len(data))
            if self._kept:
                return kept
            self.fired = True
            return kept + self._old

    async def attack() -> None:
        outcome, seen = await one.through(tap.Tamper(), tap.Tamper())
        outcome.check()
        hello = wire.MAGIC_BYTES + wire.LEG_HELLO_BYTES
        for head in (hello, tap.UP_HEAD):  # with the old leg header, and with the new one
            again = Run(lab.parties, lab.relay.address)
            again._key = one._key
            outcome, _ = await again.through(Substitute(head, bytes(seen.up[head:])), tap.Tamper())
            outcome.check()
            assert not outcome.device and not outcome.is_whole
            assert any("CryptoError" in type(failure).__name__ for failure in outcome.failures), outcome

    asyncio.run(attack())


def _all(sock: socket.socket) -> bytes:
    got = b""
    with contextlib.suppress(ConnectionResetError):
        while data := sock.recv(4096):
            got += data
    return got


# --- enrolment -----------------------------------------------------------------------------------------------------------


def test_an_enrolment_flipped_cut_or_withheld_is_refused(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """The code stays good; no account comes of it. Every single bit of message 1: test_enrolment.py, of message 2: below."""
    monkeypatch.setattr(enrolment, "BURST", 1 << 20)
    monkeypatch.setattr(dial, "DIAL_S", 2)
    up, down = wire.MAGIC_BYTES + wire.M1_BYTES, wire.CHALLENGE_BYTES + wire.M2_BYTES
    makes = _each(lambda at: tap.Flip(8 * at + at % 8), range(0, up, 3), range(0, down, 3))
    makes += _each(tap.Stop, range(1, up, 7), range(1, down, 7))
    makes += _each(lambda at: tap.Stop(at, silent=True), range(0, up, 40), range(0, down, 40))
    name = "marker-of-a-name"
    registry = lab.relay.relay.registry
    code = codes.parse_join_code(lab.relay.call(lab.relay.relay.join_code))
    turns = asyncio.Semaphore(AT_ONCE)

    async def one(make: Callable[[], Tampers]) -> None:
        for _ in range(TRIES):
            pair = make()
            async with turns, tap.Tap(lab.relay.address, lambda _, pair=pair: pair) as tapped:  # type: ignore[misc]
                here = code._replace(host=tapped.address[0], port=tapped.address[1])
                with pytest.raises((OSError, EOFError)):
                    await asyncio.wait_for(enrol.enrol(board, here, own, name), HUNG_S)
            if pair[0].fired or pair[1].fired:
                return
        raise AssertionError("an enrolment never came so far")

    async def all_of_them() -> bytes:
        await asyncio.gather(*map(one, makes))
        async with tap.Tap(lab.relay.address) as tapped:
            here = code._replace(host=tapped.address[0], port=tapped.address[1])
            account = await enrol.enrol(board, here, own, name)
            for said in tapped.seen[0]:
                for secret in (name.encode(), account.party_key, account.password.encode(), code.secret, own[0], own[1]):
                    assert secret not in said
        return account.account

    own = key_pair()
    parties = len(lab.relay.call(registry.parties))
    asyncio.run(all_of_them())
    assert len(lab.relay.call(registry.parties)) == parties + 1, "one account, of one key"
    print(f"{len(makes)} tampered enrolments")


def test_every_flipped_bit_and_length_of_an_enrolments_answer_is_refused() -> None:
    relay, own, challenge, psk = key_pair(), key_pair(), bytes(16), bytes(range(32))
    asking = Initiator(wire.PURPOSE_RELAY, own, relay[1], psk, challenge)
    m1 = asking.message_1({wire.TLV_NAME: b"alice"})
    handshake, _ = control.read_message_1(m1, wire.PURPOSE_RELAY, relay, psk, challenge)
    m2 = control.write_message_2(handshake, m1, {wire.TLV_CODE: bytes([wire.OK])})
    for bit in range(8 * len(m2)):
        assert asking.read_message_2(tap.Flip(bit).take(m2)) is None, bit
    for size in range(len(m2)):
        assert asking.read_message_2(m2[:size]) is None
    assert asking.read_message_2(m2 + b"\0") is None
    assert asking.read_message_2(m2) is not None
