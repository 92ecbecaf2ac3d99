"""The decision as a table, and policies that are cut, changed or made up: never more than a whole one gives."""

from check import raises
from policy_blob import EVERY, HOLDERS, encode, rule, seal
from zts import wire
from zts.errors import FormatError
from zts.grant import Terms
from zts.policy import NONE, Limits, Policy, decide

OWNER, BOB, EVE, DAN = (bytes([n]) * wire.FP_BYTES for n in (1, 2, 3, 4))
ID = b"\0\0grant1"
NOW = 1_800_000_000
OK, DENIED, REVOKED, UNKNOWN = wire.OK, wire.DENIED, wire.REVOKED, wire.TIME_UNKNOWN
TCP, SERIAL, HTTP, REPL = wire.SERVICE_TCP, wire.SERVICE_SERIAL, wire.SERVICE_HTTP, wire.SERVICE_REPL

NOTHING = Policy()
MEMBERS = Policy(
    encode(
        [
            rule([BOB], ["http"]),
            rule([BOB, EVE], ["console"], read_only=True),
            rule([EVE], EVERY, until=NOW + 60),
            rule([DAN], ["http"], until=NOW, streams=2, idle=30, kib=5),
            rule([DAN], ["http"]),
        ]
    )
)
CAPPED = Policy(encode([rule([HOLDERS], ["http"], streams=2, kib=3), rule([HOLDERS], ["console"], read_only=True, until=NOW + 9)]))
BOTH = Policy(encode([rule([HOLDERS], ["http"], streams=2), rule([BOB], ["http", "ssh"], idle=9), rule([HOLDERS], ["console"])]))
SHUT = Policy(encode([rule([HOLDERS], [])]))


def terms(holder=BOB, services=None, until=0, streams=0, bytes_=0, idle=0, read_only=False, member=False):
    return Terms(holder, member, services, until, streams, bytes_, idle, read_only)


def member(holder=BOB, **more):
    return terms(holder, member=True, **more)


MEMBER = member()
OF_HTTP = terms(services=["http"])
OF_ALL = terms()

# policy, party, terms, service, kind, now: what comes out; limits only where they are not none
_TABLE = (
    # The owner, whatever the policy is. Everybody else needs a grant.
    (NOTHING, OWNER, None, None, 0, None, OK, NONE),
    (NOTHING, OWNER, None, "http", HTTP, None, OK, NONE),
    (None, OWNER, None, "repl", REPL, None, OK, NONE),
    (SHUT, OWNER, None, "repl", REPL, NOW, OK, NONE),
    (NOTHING, BOB, None, None, 0, NOW, DENIED, NONE),
    (MEMBERS, BOB, None, "http", HTTP, NOW, DENIED, NONE),
    (MEMBERS, b"", None, "http", HTTP, NOW, DENIED, NONE),
    # The agent's own services are nobody else's.
    (NOTHING, OWNER, None, "zts-status", 0, None, OK, NONE),
    (NOTHING, BOB, OF_ALL, "zts-policy", 0, NOW, DENIED, NONE),
    (NOTHING, BOB, terms(services=["zts-policy"]), "zts-policy", 0, NOW, DENIED, NONE),
    (MEMBERS, EVE, member(EVE), "zts-log", 0, NOW, DENIED, NONE),
    # A grant is its holder's alone, and a policy that cannot be read ends them all.
    (NOTHING, EVE, OF_ALL, "http", HTTP, NOW, DENIED, NONE),
    (NOTHING, OWNER, OF_ALL, "http", HTTP, NOW, DENIED, NONE),
    (None, BOB, OF_ALL, "http", HTTP, NOW, DENIED, NONE),
    (None, BOB, OF_ALL, None, 0, NOW, DENIED, NONE),
    # A grant that names services.
    (NOTHING, BOB, OF_HTTP, None, 0, None, OK, NONE),
    (NOTHING, BOB, OF_HTTP, "http", HTTP, None, OK, NONE),
    (NOTHING, BOB, OF_HTTP, "console", SERIAL, NOW, DENIED, NONE),
    (NOTHING, BOB, OF_HTTP, "http2", HTTP, NOW, DENIED, NONE),
    (NOTHING, BOB, OF_HTTP, "*", HTTP, NOW, DENIED, NONE),
    (NOTHING, BOB, OF_HTTP, "", HTTP, NOW, DENIED, NONE),
    (NOTHING, BOB, OF_ALL, "anything", TCP, NOW, OK, NONE),
    (NOTHING, BOB, terms(services=[]), "http", HTTP, NOW, DENIED, NONE),
    (NOTHING, BOB, terms(services=["*"]), "b", HTTP, NOW, DENIED, NONE),
    (NOTHING, BOB, terms(services=["a", "b"]), "b", HTTP, NOW, OK, NONE),
    (MEMBERS, BOB, OF_ALL, "repl", REPL, NOW, OK, NONE),  # rules for members are not for it
    # Under rules for all grant holders.
    (CAPPED, BOB, OF_ALL, "http", HTTP, NOW, OK, Limits(0, 2, 3072, 0, False)),
    (CAPPED, BOB, terms(services=["http"], streams=1, bytes_=10_000), "http", HTTP, NOW, OK, Limits(0, 1, 3072, 0, False)),
    (CAPPED, BOB, terms(services=["http"], bytes_=100), "http", HTTP, NOW, OK, Limits(0, 2, 100, 0, False)),
    (CAPPED, BOB, OF_ALL, "console", SERIAL, NOW, OK, Limits(NOW + 9, 0, 0, 0, True)),
    (CAPPED, BOB, OF_ALL, "console", SERIAL, NOW + 9, DENIED, NONE),
    (CAPPED, BOB, OF_ALL, "console", SERIAL, None, UNKNOWN, NONE),
    (CAPPED, BOB, OF_ALL, "repl", REPL, NOW, DENIED, NONE),
    (CAPPED, BOB, OF_ALL, None, 0, None, OK, NONE),
    (CAPPED, BOB, MEMBER, "http", HTTP, NOW, DENIED, NONE),  # and they alone give a member nothing
    (SHUT, BOB, OF_ALL, "http", HTTP, NOW, DENIED, NONE),
    # Members: the first rule that names both.
    (MEMBERS, BOB, MEMBER, None, 0, NOW, OK, NONE),
    (MEMBERS, BOB, MEMBER, "http", HTTP, NOW, OK, NONE),
    (MEMBERS, BOB, MEMBER, "console", SERIAL, NOW, OK, Limits(0, 0, 0, 0, True)),
    (MEMBERS, BOB, MEMBER, "repl", REPL, NOW, DENIED, NONE),
    (MEMBERS, EVE, member(EVE), "http", HTTP, NOW, OK, Limits(NOW + 60, 0, 0, 0, False)),
    (MEMBERS, EVE, member(EVE), "never heard of", HTTP, NOW, OK, Limits(NOW + 60, 0, 0, 0, False)),
    (MEMBERS, EVE, member(EVE), "http", HTTP, NOW + 60, DENIED, NONE),
    (MEMBERS, EVE, member(EVE), "http", HTTP, NOW + 59, OK, Limits(NOW + 60, 0, 0, 0, False)),
    (MEMBERS, EVE, member(EVE), "console", SERIAL, NOW, OK, Limits(0, 0, 0, 0, True)),
    (MEMBERS, DAN, member(DAN), "http", HTTP, NOW, DENIED, NONE),  # a later rule does not mend an ended one
    (MEMBERS, DAN, member(DAN), "http", HTTP, NOW - 1, OK, Limits(NOW, 2, 5120, 30, False)),
    (MEMBERS, DAN, member(DAN, idle=10, streams=9), "http", HTTP, NOW - 1, OK, Limits(NOW, 2, 5120, 10, False)),
    (MEMBERS, OWNER, member(OWNER), "http", HTTP, NOW, DENIED, NONE),
    (NOTHING, BOB, MEMBER, None, 0, NOW, DENIED, NONE),
    (NOTHING, BOB, MEMBER, "http", HTTP, NOW, DENIED, NONE),
    # Until when. Nobody's grant may outlive a clock that nobody knows.
    (NOTHING, BOB, terms(until=NOW), "http", HTTP, NOW - 1, OK, Limits(NOW, 0, 0, 0, False)),
    (NOTHING, BOB, terms(until=NOW), "http", HTTP, NOW, DENIED, NONE),
    (NOTHING, BOB, terms(until=NOW), "http", HTTP, 4_102_444_800, DENIED, NONE),
    (NOTHING, BOB, terms(until=NOW), "http", HTTP, None, UNKNOWN, NONE),
    (NOTHING, BOB, terms(until=NOW), None, 0, None, UNKNOWN, NONE),
    (NOTHING, BOB, terms(until=NOW), None, 0, NOW, DENIED, NONE),
    (NOTHING, BOB, terms(until=NOW), None, 0, 0, OK, Limits(NOW, 0, 0, 0, False)),
    (MEMBERS, EVE, member(EVE), None, 0, None, OK, NONE),  # which rule will hold is not known yet
    (MEMBERS, DAN, member(DAN), None, 0, None, OK, NONE),
    # Both: what all holders may, and what this one may.
    (BOTH, BOB, MEMBER, "http", HTTP, NOW, OK, Limits(0, 2, 0, 9, False)),
    (BOTH, BOB, member(streams=1, idle=20), "http", HTTP, NOW, OK, Limits(0, 1, 0, 9, False)),
    (BOTH, BOB, MEMBER, "console", SERIAL, NOW, DENIED, NONE),
    (BOTH, BOB, MEMBER, "ssh", TCP, NOW, DENIED, NONE),
    (BOTH, EVE, member(EVE), "http", HTTP, NOW, DENIED, NONE),
    (BOTH, EVE, terms(EVE), "http", HTTP, NOW, OK, Limits(0, 2, 0, 0, False)),
    (BOTH, EVE, terms(EVE), "ssh", TCP, NOW, DENIED, NONE),
    (BOTH, BOB, member(services=["console"]), "http", HTTP, NOW, DENIED, NONE),
    (BOTH, BOB, member(services=["http"]), "http", HTTP, NOW, OK, Limits(0, 2, 0, 9, False)),
    # Only reading is known of serial lines alone.
    (NOTHING, BOB, terms(read_only=True), "console", SERIAL, NOW, OK, Limits(0, 0, 0, 0, True)),
    (NOTHING, BOB, terms(read_only=True), "http", HTTP, NOW, DENIED, NONE),
    (NOTHING, BOB, terms(read_only=True), "repl", REPL, NOW, DENIED, NONE),
    (NOTHING, BOB, terms(read_only=True), None, 0, NOW, OK, Limits(0, 0, 0, 0, True)),
    (MEMBERS, EVE, member(EVE), "console", TCP, NOW, DENIED, NONE),
)


def test_the_table():
    for policy, party, holds, service, kind, now, code, limits in _TABLE:
        got = decide(OWNER, policy, party, ID, holds, service, kind, now)
        assert got == (code, limits), (party, holds, service, kind, now, got)


def test_an_owner_of_a_wrong_length_is_nobody():
    for owner in (b"", OWNER[:14], OWNER + b"\1"):
        assert decide(owner, NOTHING, owner, ID, None, "http", HTTP, NOW)[0] == DENIED


def test_a_device_that_has_no_policy_or_one_without_rules():
    for policy in (Policy(), Policy(encode([]))):
        assert policy.generation == 0 and policy.find(BOB, None) is None and policy.find(None, None) is None
        assert decide(OWNER, policy, BOB, ID, OF_HTTP, "http", HTTP, NOW) == (OK, NONE)
        assert decide(OWNER, policy, BOB, ID, MEMBER, "http", HTTP, NOW) == (DENIED, NONE)
        assert decide(OWNER, policy, BOB, b"\0\1grant1", OF_HTTP, "http", HTTP, NOW) == (REVOKED, NONE)
    assert Policy().seq == 0 and Policy().blob == b""


def test_numbers_of_every_size():
    numbers = (0x01020304, 5, 0x0607, 0x08090A0B)
    until, streams, idle, kib = numbers
    policy = Policy(encode([rule([BOB], ["http"], until, streams, idle, kib)], 0x0C0D0E0F, 0x1011))
    assert (policy.seq, policy.generation) == (0x0C0D0E0F, 0x1011)
    assert policy.find(BOB, "http") == Limits(until, streams, kib << 10, idle, False)


def test_what_was_taken_back():
    other = b"\0\0grant2"
    policy = Policy(encode([], revoked=[other, ID]))
    for id_ in (ID, other):
        assert decide(OWNER, policy, BOB, id_, OF_ALL, "http", HTTP, NOW) == (REVOKED, NONE)
        assert decide(OWNER, policy, BOB, id_, OF_ALL, None, 0, NOW) == (REVOKED, NONE)
    assert decide(OWNER, policy, BOB, b"\0\0grant3", OF_ALL, "http", HTTP, NOW) == (OK, NONE)
    # Not two halves of neighbours.
    halves = Policy(encode([], revoked=[b"\0\0\0\0abcd", ID]))
    assert decide(OWNER, halves, BOB, b"\0\0abcd\0\0", OF_ALL, "http", HTTP, NOW) == (OK, NONE)
    assert decide(OWNER, policy, OWNER, ID, None, "http", HTTP, NOW) == (OK, NONE)


def test_a_generation_ends_the_ones_before_and_after_it():
    policy = Policy(encode([], generation=258))
    for id_, code in (
        (b"\1\2grant1", OK),
        (b"\0\0grant1", REVOKED),
        (b"\1\1grant1", REVOKED),
        (b"\1\3grant1", REVOKED),
        (b"\2\1grant1", REVOKED),
    ):
        assert decide(OWNER, policy, BOB, id_, OF_ALL, "http", HTTP, NOW)[0] == code, id_


def test_a_policy_cut_anywhere_is_none():
    blob = MEMBERS.blob
    assert Policy(blob).seq == 1
    for size in range(1, len(blob)):
        said = str(raises(FormatError, Policy, blob[:size]))
        assert ("damaged" if size >= 17 else "not a policy") in said  # 17: what is before the rules, and the check
        # And with a check that fits: whoever cuts it may not have hashed it, but the parser must not depend on that.
        if size != len(blob) - wire.POLICY_CHECK_BYTES:
            raises(FormatError, Policy, seal(blob[:size]))


def test_a_policy_with_any_bit_flipped_is_none():
    blob = MEMBERS.blob
    for at in range(len(blob)):
        for bit in range(8):
            raises(FormatError, Policy, blob[:at] + bytes([blob[at] ^ 1 << bit]) + blob[at + 1 :])


def test_a_policy_that_says_too_much_is_none():
    good = encode([rule([BOB], ["http"])])
    Policy(good)
    body = good[:-8]
    longer, later, nobody = "longer than it says", "a later version", "a party that is not there"
    flags = len(body) - 16
    assert body[flags] == 0
    for blob, reason in (
        (seal(body + b"\0"), longer),
        (seal(b"ZP2" + body[3:]), "not a policy"),
        (seal(body[:9]), "the policy is cut"),
        (encode([rule([BOB], ["http"])], seq=0), longer),
        (seal(body[:-4] + bytes([1, 1, 1, 0])), nobody),  # party 1 of one
        (seal(body[:-4] + bytes([1, 254, 1, 0])), nobody),
        (seal(body[:-4] + bytes([1, 0, 1, 1])), "a service that is not there"),  # service 1 of one
        (seal(body[:-4] + bytes([200, 0, 1, 0])), "the policy is cut"),
        (seal(body[:-2] + bytes([9, 0])), later),
        (encode([rule([BOB], ["http"])] * 1000), "not a policy"),
        (seal(body.replace(b"http", b"\xff\xfe\xfd\xfc")), "the policy is cut"),
    ):
        assert reason in str(raises(FormatError, Policy, blob)), blob
    for flag in (4, 8, 16, 32, 64, 128, 255):
        assert later in str(raises(FormatError, Policy, seal(body[:flags] + bytes([flag]) + body[flags + 1 :])))


def test_as_much_as_there_is_room_for():
    # A row like this one has 16 bytes; the name takes up what is left over. Built once: a board's heap is small.
    spare = wire.POLICY_MAX_BYTES - len(encode([rule([BOB], ["x"])]))
    full = encode([rule([BOB], ["x" * (1 + spare % 16)])] * (1 + spare // 16))
    assert len(full) == wire.POLICY_MAX_BYTES
    assert Policy(full).find(BOB, None) == NONE
    parties = [bytes([n]) * wire.FP_BYTES for n in range(255)]
    most = Policy(encode([rule(parties, EVERY), rule([HOLDERS], [])]))
    assert most.find(parties[0], "http") == most.find(parties[254], "http") == NONE
    assert most.find(None, "http") is None and most.find(None, None) == NONE


def test_a_rule_for_nobody_and_one_for_nothing():
    policy = Policy(encode([rule([], ["http"]), rule([BOB], []), rule([], EVERY)]))
    for holds in (MEMBER, OF_HTTP):
        assert decide(OWNER, policy, BOB, ID, holds, "http", HTTP, NOW)[0] == (OK if holds is OF_HTTP else DENIED)
    assert policy.find(BOB, None) is not None and policy.find(EVE, None) is None


def test_many_parties_and_rules():
    parties = [bytes([n, 7] * 8)[: wire.FP_BYTES] for n in range(50)]
    rules = [rule([parties[n % 50]], ["s" + str(n // 50)], streams=1 + n // 50) for n in range(200)]
    policy = Policy(encode(rules))
    for n in range(0, 50, 7):
        for service in range(5):
            code, limits = decide(OWNER, policy, parties[n], ID, member(parties[n]), "s" + str(service), HTTP, NOW)
            assert (code, limits.streams) == ((OK, service + 1) if service < 4 else (DENIED, 0))
