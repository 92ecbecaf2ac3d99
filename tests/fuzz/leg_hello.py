"""Leg hello and header: what is taken encodes to the same bytes again, whatever else raises RemoteError; one flipped bit spoils
the mac; and of the hellos that arrive, two meet only with one session id, opposite roles and crossing accounts."""

from fuzz.feed import Feed, xor
from zts import leg, wire
from zts.errors import RemoteError
from zts_relay.rendezvous import Quota, Rendezvous

KEY, CHALLENGE = b"k" * 32, b"c" * 16
_A, _B = b"a" * 8, b"b" * 8
HELLO = leg.encode_hello(leg.LegHello(wire.ROLE_CLIENT, 1, b"s" * 16, _A, _B), KEY, CHALLENGE)
OTHER = leg.encode_hello(leg.LegHello(wire.ROLE_DEVICE, 1, b"s" * 16, _B, _A), KEY, CHALLENGE)
SEEDS = [
    b"\0" + HELLO,
    b"\0" + HELLO[:-1],
    b"\0" + HELLO[:1] + bytes(4) + HELLO[5:],
    b"\1\x00\x05\x01",
    b"\2" + leg.encode_header(wire.ROLE_DEVICE, 3, b"n" * 16),
    b"\2" + leg.encode_header(wire.ROLE_CLIENT, 9, b"n" * 16),
    b"\3" + bytes((1, 1, 0, 0x01, 2, 1, 0, 0x10)),
    b"\3" + bytes((1, 1, 0, 0x01, 1, 2, 0, 0x01, 2, 1, 0, 0x10, 1, 3, 0, 0x01, 2, 0, 0, 0x10)),
]


def one(data: bytes) -> None:
    feed = Feed(data)
    match feed.number() % 4:
        case 0:
            _hello(feed.rest())
        case 1:
            changed = xor(HELLO, feed.number(2) % wire.LEG_HELLO_BYTES, feed.rest())
            assert leg.verify_hello(changed, KEY, CHALLENGE) == (changed == HELLO)
            _hello(changed)
        case 2:
            _header(feed.rest())
        case 3:
            _meet(feed)


def _hello(data: bytes) -> None:
    try:
        hello = leg.decode_hello(data)
    except RemoteError:
        return
    assert hello.n > 0 and hello.role in (wire.ROLE_CLIENT, wire.ROLE_DEVICE)
    assert leg.encode_hello(hello, KEY, CHALLENGE)[: wire.LEG_SIGNED_BYTES] == data[: wire.LEG_SIGNED_BYTES]


def _header(data: bytes) -> None:
    for role in (wire.ROLE_CLIENT, wire.ROLE_DEVICE):
        try:
            header = leg.decode_header(data, role, 2)
        except RemoteError:
            continue
        assert header.role != role and header.n > 2 and leg.encode_header(*header) == data


def _meet(feed: Feed) -> None:
    """Arrivals and departures, four bytes each: role, number, session, account and peer."""
    meeting: Rendezvous[leg.LegHello] = Rendezvous(Quota(3, 6))
    parked: list[leg.LegHello] = []
    joined: list[leg.LegHello] = []
    while len(feed):
        role, n, sid, who = feed.take(4).ljust(4, b"\0")
        hello = leg.LegHello(1 + role % 2, 1 + n % 8, bytes((sid % 2,)) * 16, bytes((who >> 4 & 3,)) * 8, bytes((who & 3,)) * 8)
        if role & 0x40 and parked:
            leaving = parked.pop(n % len(parked))
            meeting.withdraw(leaving, leaving)
        elif role & 0x80 and joined:
            meeting.end(joined.pop(n % len(joined)))
        else:
            answer = meeting.arrive(hello, hello)
            if answer.replaced:
                parked[:] = [one for one in parked if one is not answer.replaced]
            if answer.partner:
                other = answer.partner
                assert (other.sid, other.account, other.peer) == (hello.sid, hello.peer, hello.account)
                assert other.role != hello.role and other.account != hello.account
                assert any(one is other for one in parked)
                parked[:] = [one for one in parked if one is not other]
                joined += [hello, other]
            elif answer.code == wire.OK:
                parked.append(hello)
        assert meeting.parked == len(parked)
    for hello in parked:
        meeting.withdraw(hello, hello)
    for hello in joined:
        meeting.end(hello)
    assert meeting.claims == meeting.parked == 0
