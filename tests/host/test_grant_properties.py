"""No edit of a grant, by whoever holds it, widens what the device allows: with the real chain, and the real decision."""

import itertools
from collections.abc import Iterator

from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from policy_blob import EVERY, HOLDERS, encode, rule
from zts import grant, identity, wire
from zts.errors import FormatError, RemoteError
from zts.policy import Limits, Policy, decide
from zts_gateway import introduction

thoroughly = settings(
    deadline=None, database=None, max_examples=300, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much]
)

NOW = 1_800_000_000
PAIRING = bytes(range(32))
GENERATION = 258
ID = b"\1\2grant1"
OTHER_ID = b"\1\2grant2"  # was taken back
ROOT = grant.root(PAIRING, GENERATION)
OWNER, BOB, EVE = (bytes([n]) * wire.FP_BYTES for n in (1, 2, 3))
SERVICES = (
    ("http", wire.SERVICE_HTTP),
    ("ssh", wire.SERVICE_TCP),
    ("console", wire.SERVICE_SERIAL),
    ("zts-policy", 0),
    ("*", wire.SERVICE_TCP),
    ("", wire.SERVICE_TCP),
)
POLICIES = [
    Policy(encode(rules, generation=GENERATION, revoked=[OTHER_ID]))
    for rules in (
        [],
        [rule([HOLDERS], ["http"], streams=2, kib=3), rule([HOLDERS], ["console"], read_only=True, until=NOW + 1)],
        [rule([BOB], ["http"], streams=2), rule([BOB, EVE], ["console"], read_only=True), rule([EVE], EVERY)],
        [rule([BOB, HOLDERS], EVERY, until=NOW)],
        [rule([HOLDERS], ["ssh"], idle=9), rule([BOB], ["http", "ssh"], streams=1)],
        [rule([HOLDERS], [])],
    )
] + [None, Policy()]


def _caveat_of_services(names: bytes) -> bytes:
    return grant.caveat(wire.CAVEAT_SERVICES, names)


_numbers = {wire.CAVEAT_UNTIL: 4, wire.CAVEAT_STREAMS: 1, wire.CAVEAT_BYTES: 8, wire.CAVEAT_IDLE: 2}
_limits = st.sampled_from(sorted(_numbers)).flatmap(
    lambda kind: (
        st.sampled_from([1, 2, 200, NOW - 1, NOW, NOW + 1])
        .filter(lambda n: n < 1 << 8 * _numbers[kind])
        .map(lambda n: grant.caveat(kind, n.to_bytes(_numbers[kind], "big")))
    )
)
_names = st.sampled_from(
    [b"*", b"http", b"ssh", b"console", b"http,ssh", b"http,console", b"zts-policy", b"", b"*,http", b"http,*", b"*,ssh"]
)
_services = _names.map(_caveat_of_services)
_read_only = st.just(grant.caveat(wire.CAVEAT_READ_ONLY, b""))
_holders = st.sampled_from([BOB, EVE, OWNER]).map(lambda fp: grant.caveat(wire.CAVEAT_HOLDER, fp))
_any = _limits | _services | _read_only | st.just(grant.caveat(wire.CAVEAT_MEMBER, b"")) | _holders | st.binary(min_size=1, max_size=6)
# As an owner's computer makes them.
_HOLDER, _MEMBER = grant.caveat(wire.CAVEAT_HOLDER, BOB), grant.caveat(wire.CAVEAT_MEMBER, b"")
_made = st.tuples(
    st.lists(st.just(_MEMBER) | st.sampled_from([b"http", b"http,ssh", b"console", b""]).map(_caveat_of_services), max_size=2),
    st.lists(_limits | _read_only, max_size=3),
).map(lambda parts: [_HOLDER, *parts[0], *parts[1]])

Caveats = list[bytes]


@st.composite
def edits(draw: st.DrawFn, made: Caveats) -> Caveats:
    """Some of: drop, add at the end, add anywhere, move, double, take another's place, change a byte, cut."""
    caveats = list(made)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, max(0, len(caveats) - 1)))
        match draw(st.integers(0, 7)) if caveats else 1:
            case 0:
                del caveats[at]
            case 1 | 2:
                caveats.append(draw(_any))
            case 3:
                caveats.insert(at, draw(_any))
            case 4:
                caveats.append(caveats.pop(at))
            case 5:
                caveats[at] = draw(_any)
            case 6:
                whole = caveats[at]
                where = draw(st.integers(0, len(whole) - 1))
                caveats[at] = whole[:where] + bytes([whole[where] ^ 1 << draw(st.integers(0, 7))]) + whole[where + 1 :]
            case 7:
                caveats[at] = caveats[at][: draw(st.integers(1, len(caveats[at])))]
    return caveats


def _wider(new: int, old: int) -> bool:
    """Of two limits, 0 being none."""
    return old != 0 and (new == 0 or new > old)


def _questions() -> Iterator[tuple[Policy | None, bytes, str | None, int, int | None]]:
    asked = [(None, 0), *SERVICES]
    for policy, party, (service, kind), now in itertools.product(POLICIES, (BOB, EVE, OWNER), asked, (None, NOW - 1, NOW, NOW + 1)):
        yield policy, party, service, kind, now


_QUESTIONS = list(_questions())


def _widens(old: bytes, new: bytes) -> str:
    """Where the caveats `new` allow what `old` do not; "" nowhere."""
    try:
        had, has = grant.read(old), grant.read(new)
    except RemoteError:
        return ""  # the device refuses the message
    for policy, party, service, kind, now in _QUESTIONS:
        code, limits = decide(OWNER, policy, party, ID, has, service, kind, now)
        if code != wire.OK:
            continue
        before, held = decide(OWNER, policy, party, ID, had, service, kind, now)
        if before != wire.OK or _looser(limits, held):
            return f"{service!r} of kind {kind} at {now}: {before} {held}, then {limits}"
    return ""


def _looser(new: Limits, old: Limits) -> bool:
    numbers = zip(new[:4], old[:4], strict=True)
    return any(_wider(*pair) for pair in numbers) or (old.read_only and not new.read_only)


def _device_takes(made: Caveats, sent: Caveats) -> bool:
    """Whether its holder, who knows the tail of `made`, can come to the tail that the device makes of `sent`."""
    known = grant.tail(ROOT, ID, b"".join(made))
    try:
        wanted = grant.tail(ROOT, ID, b"".join(sent))
    except RemoteError:
        return False
    # All that can be made of a tail is a tail with more caveats. Of those, whatever end of the row that is sent.
    for start in range(len(sent) + 1):
        mine = known
        for one in sent[start:]:
            mine = grant.narrow(mine, one)
        if mine == wanted:
            return True
    return False


def _check(made: Caveats, sent: Caveats) -> None:
    takes = _device_takes(made, sent)
    # Nothing but what was given, with more behind it.
    assert takes == (sent[: len(made)] == made or b"".join(sent) == b"".join(made)) or _is_cut(sent)
    if takes:
        said = _widens(b"".join(made), b"".join(sent))
        assert not said, said


def _is_cut(sent: Caveats) -> bool:
    try:
        return [one for _, _, one in grant._split(b"".join(sent))] != sent
    except RemoteError:
        return True


@thoroughly
@given(st.data(), _made)
def test_no_edit_widens_a_grant(data: st.DataObject, made: Caveats) -> None:
    _check(made, data.draw(edits(made)))


@thoroughly
@given(_made, st.lists(_any, min_size=1, max_size=4))
@example([_HOLDER, _MEMBER], [_caveat_of_services(b"*")])
@example([_HOLDER], [_caveat_of_services(b"*,http"), _caveat_of_services(b"*,ssh")])
@example([_HOLDER], [_MEMBER])
def test_more_caveats_only_ever_narrow(made: Caveats, more: Caveats) -> None:
    """One after the other: none gives back what one before it took."""
    row = list(made)
    for one in more:
        longer = [*row, one]
        said = _widens(b"".join(row), b"".join(longer))
        assert not said, said
        row = longer


@thoroughly
@given(st.data(), _made)
def test_no_edit_of_a_line_makes_another_grant(data: st.DataObject, made: Caveats) -> None:
    caveats = b"".join(made)
    line = introduction.GrantLine(
        "pi", b"d" * 32, identity.base32(b"r" * 15), ID, grant.mac_key(ROOT, ID), grant.tail(ROOT, ID, caveats), caveats
    )
    text = introduction.format_grant(line)
    at = data.draw(st.integers(0, len(text) - 1))
    changed = data.draw(
        st.sampled_from([text[:at], text[at:], text[:at] + text[at + 1 :], text[:at] + text[at] + text[at:]])
        | st.characters(codec="utf-8").map(lambda char: text[:at] + char + text[at + 1 :])
    )
    try:
        found = introduction.parse_grant(changed)
    except FormatError:
        return
    if found.public != line.public or grant.generation(found.id) != GENERATION:
        return  # not this device's, or of no generation that it takes
    if found.mac_key == grant.mac_key(ROOT, found.id) and found.tail == grant.tail(ROOT, found.id, found.caveats):
        assert (found.id, found.caveats) == (line.id, line.caveats)


@thoroughly
@given(_made, st.binary(min_size=8, max_size=8) | st.sampled_from([OTHER_ID, b"\1\3grant1"]))
@example([_HOLDER, _MEMBER], OTHER_ID)
def test_a_grant_that_was_taken_back_cannot_take_another_id(made: Caveats, id_: bytes) -> None:
    assume(id_ != ID)
    caveats = b"".join(made)
    root = grant.root(PAIRING, grant.generation(id_))
    # It would need both for the new id, and has those of its own.
    assert grant.mac_key(root, id_) != grant.mac_key(ROOT, ID) and grant.tail(root, id_, caveats) != grant.tail(ROOT, ID, caveats)
    revoked = Policy(encode([], generation=GENERATION, revoked=[ID]))
    for service, kind in SERVICES:
        assert decide(OWNER, revoked, BOB, ID, grant.read(caveats), service, kind, NOW)[0] == wire.REVOKED
