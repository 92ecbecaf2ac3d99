"""Hello, message 1 and 2: the good way, and every way of being refused, each under its own reason and before X25519."""

from check import raises
from zts import codes, control, crypto, enrol, grant, identity, wire
from zts.errors import RemoteError
from zts.initiator import Initiator


def keypair(seed):
    private = bytes([seed]) * 32
    return private, crypto.x25519_public(private)


OWNER = keypair(1)
DEVICE = keypair(2)
STRANGER = keypair(3)
PAIRING = b"p" * 32
OWNER_FP = identity.fingerprint(OWNER[1])
FIELDS = {
    wire.TLV_RELAY: bytes(15),
    wire.TLV_SID: bytes(range(16)),
    wire.TLV_ACCOUNT: b"account.",
    wire.TLV_MAX_RECORD: b"\x04\x10",
    wire.TLV_WINDOW: b"\0\0\x10\0",
}
PEER = control.make_peer(OWNER[1], PAIRING)


def find_peer(sender, kind, hint):
    return PEER if sender == OWNER_FP and kind == wire.KIND_CONNECT and hint == bytes(8) else None


def initiator(responder, s=OWNER, psk=PAIRING, epoch=None, purpose=wire.PURPOSE_CONNECT):
    return Initiator(purpose, s, DEVICE[1], psk, epoch or responder.epoch)


class CountedX25519:
    """Counts X25519 operations while it is entered."""

    def __enter__(self):
        self.calls = 0
        self._real = crypto.x25519

        def counting(private, public):
            self.calls += 1
            return self._real(private, public)

        crypto.x25519 = counting
        return self

    def __exit__(self, *_):
        crypto.x25519 = self._real


def test_hello_reads_back():
    data = control.encode_hello(bytes(range(16)), 5)
    assert control.decode_hello(data) == control.Hello(bytes(range(16)), 5)
    for n in range(40):
        if n != len(data):
            raises(RemoteError, control.decode_hello, (data * 2)[:n])
    raises(RemoteError, control.decode_hello, b"\x02" + data[1:])


def test_topics():
    fp, other = "a" * 24, "b" * 24
    assert control.parse_inbox_topic(control.inbox_topic(fp, other), fp) == other
    for bad in (
        "",
        "zts/1/",
        control.inbox_topic(other, fp),
        control.inbox_topic(fp, other) + "a",
        control.inbox_topic(fp, "B" * 24),
        f"zts/1/{fp}/in/+",
    ):
        assert control.parse_inbox_topic(bad, fp) is None


def test_fields_read_back_and_are_padded():
    data = control.encode_fields(FIELDS, 100)
    assert len(data) == 100 and control.decode_fields(data, tuple(FIELDS)) == FIELDS
    raises(RemoteError, control.encode_fields, FIELDS, 20)


def test_fields_that_must_not_pass():
    sid = bytes([wire.TLV_SID, 16]) + bytes(16)
    for bad in (
        sid + sid,  # twice
        bytes([wire.TLV_SID, 15]) + bytes(15),  # wrong size
        bytes([0xFF, 1, 0]),  # unknown critical
        sid[:-1],  # cut
        bytes([wire.TLV_SID]),
        sid + b"\0\1",  # dirty padding
        bytes([wire.TLV_NAME, 5]) + b"abc",
    ):
        raises(RemoteError, control.decode_fields, bad, ())
    raises(RemoteError, control.decode_fields, sid, (wire.TLV_ACCOUNT,))
    assert control.decode_fields(bytes([0x7F, 1, 0]) + sid, (wire.TLV_SID,))[wire.TLV_SID] == bytes(16)


def test_the_good_way():
    responder = control.Responder(DEVICE, 0)
    asking = initiator(responder)
    m1 = asking.message_1(FIELDS)
    assert len(m1) == wire.M1_BYTES
    accepted = responder.receive_message_1(m1, OWNER_FP, find_peer, 0)
    assert accepted.fields == FIELDS and not responder.refused
    m2 = control.write_message_2(accepted.handshake, m1, {wire.TLV_CODE: b"\0"})
    assert len(m2) == wire.M2_BYTES
    assert asking.read_message_2(m2) == {wire.TLV_CODE: b"\0"}
    assert asking.handshake.split() == accepted.handshake.split() and asking.handshake.h == accepted.handshake.h


def test_junk_costs_no_x25519():
    responder = control.Responder(DEVICE, 0)
    m1 = initiator(responder).message_1(FIELDS)
    with CountedX25519() as counted:
        for n in (0, 1, 28, 511, 513, 1000):
            assert responder.receive_message_1((m1 * 2)[:n], OWNER_FP, find_peer, 0) is None
        for at in range(len(m1)):
            bad = bytearray(m1)
            bad[at] ^= 1 << at % 8
            assert responder.receive_message_1(bytes(bad), OWNER_FP, find_peer, 0) is None
        assert responder.receive_message_1(m1, identity.fingerprint(STRANGER[1]), find_peer, 0) is None
    assert counted.calls == 0
    assert set(responder.refused) == {"form", "unknown", "mac1"}


def test_a_replay_is_refused_also_after_one_rotation_and_dies_after_two():
    responder = control.Responder(DEVICE, 0)
    m1 = initiator(responder).message_1(FIELDS)
    assert responder.receive_message_1(m1, OWNER_FP, find_peer, 0)
    with CountedX25519() as counted:
        assert responder.receive_message_1(m1, OWNER_FP, find_peer, 0) is None
        responder.rotate(1)
        assert responder.receive_message_1(m1, OWNER_FP, find_peer, 1) is None
        assert responder.refused == {"replay": 2}
        responder.rotate(2)
        assert responder.receive_message_1(m1, OWNER_FP, find_peer, 2) is None
        assert responder.refused == {"replay": 2, "mac1": 1}
        assert control.Responder(DEVICE, 0).receive_message_1(m1, OWNER_FP, find_peer, 0) is None
    assert counted.calls == 0


def test_the_previous_epoch_still_serves():
    responder = control.Responder(DEVICE, 0)
    m1 = initiator(responder).message_1(FIELDS)
    responder.rotate(1)
    assert responder.receive_message_1(m1, OWNER_FP, find_peer, 1)


def test_a_full_set_rotates():
    limit = wire.SEEN_EPHEMERALS
    wire.SEEN_EPHEMERALS = 3
    try:
        responder = control.Responder(DEVICE, 0)
        first = responder.epoch
        for _ in range(3):
            assert responder.epoch == first
            assert responder.receive_message_1(initiator(responder).message_1(FIELDS), OWNER_FP, find_peer, 0)
        assert responder.epoch != first and responder.is_ours(first)
    finally:
        wire.SEEN_EPHEMERALS = limit


def test_handshakes_are_rated():
    responder = control.Responder(DEVICE, 0, 4, 2)
    taken = [
        bool(responder.receive_message_1(initiator(responder).message_1(FIELDS), OWNER_FP, find_peer, now))
        for now in (0, 0, 0, 249, 250, 251)
    ]
    assert taken == [True, True, False, False, True, False] and responder.refused == {"rate": 3}


def test_a_refused_one_may_come_again():
    responder = control.Responder(DEVICE, 0, 1, 1)
    assert responder.receive_message_1(initiator(responder).message_1(FIELDS), OWNER_FP, find_peer, 0)
    m1 = initiator(responder).message_1(FIELDS)
    assert responder.receive_message_1(m1, OWNER_FP, find_peer, 0) is None
    assert responder.receive_message_1(m1, OWNER_FP, find_peer, 1000)


def test_the_static_key_must_be_the_one_stored_with_the_psk():
    responder = control.Responder(DEVICE, 0)
    m1 = initiator(responder, s=STRANGER).message_1(FIELDS)
    assert responder.receive_message_1(m1, OWNER_FP, find_peer, 0) is None
    assert responder.refused == {"identity": 1}
    # It did not get to fill the set either.
    assert not responder._epochs[0][1]


def test_another_purpose_responder_or_epoch_fails():
    responder = control.Responder(DEVICE, 0)
    for asking in (
        initiator(responder, purpose=wire.PURPOSE_RELAY),
        initiator(responder, epoch=bytes(16)),
        initiator(responder, psk=bytes(32)),
        Initiator(wire.PURPOSE_CONNECT, OWNER, STRANGER[1], PAIRING, responder.epoch),
    ):
        assert responder.receive_message_1(asking.message_1(FIELDS), OWNER_FP, find_peer, 0) is None
    assert responder.refused == {"decrypt": 2, "mac1": 2}


def test_missing_fields_are_refused():
    for missing in FIELDS:
        responder = control.Responder(DEVICE, 0)
        fields = {kind: value for kind, value in FIELDS.items() if kind != missing}
        assert responder.receive_message_1(initiator(responder).message_1(fields), OWNER_FP, find_peer, 0) is None
        assert responder.refused == {"fields": 1}


def test_only_the_answer_is_an_answer():
    responder = control.Responder(DEVICE, 0)
    asking, other = initiator(responder), initiator(responder)
    m1, other_m1 = asking.message_1(FIELDS), other.message_1(FIELDS)
    accepted = responder.receive_message_1(other_m1, OWNER_FP, find_peer, 0)
    not_ours = control.write_message_2(accepted.handshake, other_m1, {wire.TLV_CODE: b"\0"})
    assert asking.read_message_2(not_ours) is None
    accepted = responder.receive_message_1(m1, OWNER_FP, find_peer, 0)
    m2 = control.write_message_2(accepted.handshake, m1, {wire.TLV_CODE: b"\0"})
    for at in range(len(m2)):
        bad = bytearray(m2)
        bad[at] ^= 0x80
        assert asking.read_message_2(bytes(bad)) is None
    for n in range(len(m2)):
        assert asking.read_message_2(m2[:n]) is None
    assert asking.read_message_2(m2)


def test_an_account_must_be_whole():
    code = codes.JoinCode(bytes(32), bytes(16), "relay", 7440)
    answer = {
        wire.TLV_CODE: b"\0",
        wire.TLV_ACCOUNT: bytes(8),
        wire.TLV_PARTY_KEY: bytes(32),
        wire.TLV_PASSWORD: bytes(16),
        wire.TLV_PIN: bytes(32),
        wire.TLV_BROKER: b"mqtts://:7441",
    }
    account = enrol.read_account(answer, code)
    assert account.broker == "mqtts://:7441" and account.password == "a" * 26
    for missing in answer:
        if missing != wire.TLV_CODE:
            raises(RemoteError, enrol.read_account, {kind: value for kind, value in answer.items() if kind != missing}, code)
    for bad in (b"", b"http://x:1", b"mqtts://:x", b"\xff\xfe", b"mqtt://:7441"):
        raises(RemoteError, enrol.read_account, answer | {wire.TLV_BROKER: bad}, code)
    answer[wire.TLV_CODE] = bytes([wire.DENIED])
    assert raises(RemoteError, enrol.read_account, answer, code).code == wire.DENIED


# --- grants ----------------------------------------------------------------------------------------------------------

HOLDER = keypair(4)
HOLDER_FP = identity.fingerprint(HOLDER[1])
ROOT = grant.root(PAIRING, 0)
ID = b"\0\0a grant"[:8]
CAVEATS = grant.caveat(wire.CAVEAT_HOLDER, HOLDER_FP) + grant.caveat(wire.CAVEAT_SERVICES, b"http")


def find_holder(sender, kind, hint):
    return control.holder_peer(ROOT, hint) if kind == wire.KIND_GRANT else find_peer(sender, kind, hint)


def holder(responder, caveats=CAVEATS, s=HOLDER, id_=ID, psk=b"", mac_key=b"", kind=wire.KIND_GRANT):
    """(initiator, message 1) of a grant's holder, or of who would be one."""
    psk, mac_key = psk or grant.tail(ROOT, id_, CAVEATS), mac_key or grant.mac_key(ROOT, id_)
    asking = Initiator(wire.PURPOSE_CONNECT, s, DEVICE[1], psk, responder.epoch, kind, id_, mac_key)
    fields = dict(FIELDS)
    if caveats is not None:
        fields[wire.TLV_CAVEATS] = caveats
    return asking, asking.message_1(fields)


def test_a_holder_is_answered_and_only_who_has_the_tail_can_read_it():
    responder = control.Responder(DEVICE, 0)
    for caveats, psk, reads in (
        (CAVEATS, grant.tail(ROOT, ID, CAVEATS), True),
        (CAVEATS, grant.tail(ROOT, b"\0\0another"[:8], CAVEATS), False),
        (CAVEATS, grant.tail(grant.root(PAIRING, 1), ID, CAVEATS), False),
        # A service more, a service less, a caveat more: another tail.
        (
            grant.caveat(wire.CAVEAT_HOLDER, HOLDER_FP) + grant.caveat(wire.CAVEAT_SERVICES, b"http,ssh"),
            grant.tail(ROOT, ID, CAVEATS),
            False,
        ),
        (grant.caveat(wire.CAVEAT_HOLDER, HOLDER_FP), grant.tail(ROOT, ID, CAVEATS), False),
        (grant.caveat(wire.CAVEAT_SERVICES, b"http") + grant.caveat(wire.CAVEAT_HOLDER, HOLDER_FP), grant.tail(ROOT, ID, CAVEATS), False),
        (CAVEATS + grant.caveat(wire.CAVEAT_STREAMS, b"\1"), grant.tail(ROOT, ID, CAVEATS), False),
        (
            CAVEATS + grant.caveat(wire.CAVEAT_STREAMS, b"\1"),
            grant.narrow(grant.tail(ROOT, ID, CAVEATS), grant.caveat(wire.CAVEAT_STREAMS, b"\1")),
            True,
        ),
    ):
        asking, m1 = holder(responder, caveats, psk=psk)
        accepted = responder.receive_message_1(m1, HOLDER_FP, find_holder, 0)
        assert accepted.public == HOLDER[1] and accepted.terms == grant.read(caveats)
        m2 = control.write_message_2(accepted.handshake, m1, {wire.TLV_CODE: b"\0"})
        assert (asking.read_message_2(m2) is not None) == reads, caveats
    assert not responder.refused


def test_what_a_holder_may_not():
    other = grant.caveat(wire.CAVEAT_HOLDER, OWNER_FP)
    for reason, sender, options in (
        ("mac1", HOLDER_FP, {"mac_key": bytes(32)}),
        ("mac1", HOLDER_FP, {"mac_key": grant.mac_key(ROOT, bytes(8))}),
        ("mac1", HOLDER_FP, {"mac_key": grant.mac_key(grant.root(PAIRING, 1), ID)}),
        ("identity", HOLDER_FP, {"s": STRANGER}),  # the grant was stolen, the key was not
        ("identity", OWNER_FP, {}),
        ("holder", identity.fingerprint(STRANGER[1]), {"s": STRANGER}),
        ("holder", HOLDER_FP, {"caveats": other}),
        ("fields", HOLDER_FP, {"caveats": None}),
        ("fields", HOLDER_FP, {"caveats": b""}),
        ("fields", HOLDER_FP, {"caveats": CAVEATS + other}),
        ("fields", HOLDER_FP, {"caveats": CAVEATS[:-1]}),
        ("fields", HOLDER_FP, {"caveats": CAVEATS + grant.caveat(200, b"")}),
        ("unknown", HOLDER_FP, {"kind": wire.KIND_CONNECT}),
        ("unknown", HOLDER_FP, {"kind": wire.KIND_LOOK_UP}),
    ):
        responder = control.Responder(DEVICE, 0)
        _, m1 = holder(responder, **options)
        assert responder.receive_message_1(m1, sender, find_holder, 0) is None
        assert responder.refused == {reason: 1}, (reason, responder.refused)


def test_the_owners_caveats_are_none():
    responder = control.Responder(DEVICE, 0)
    m1 = initiator(responder).message_1(FIELDS | {wire.TLV_CAVEATS: CAVEATS, wire.TLV_TIME: b"\1\2\3\4"})
    accepted = responder.receive_message_1(m1, OWNER_FP, find_holder, 0)
    assert accepted.terms is None and accepted.public == OWNER[1] and accepted.fields[wire.TLV_TIME] == b"\1\2\3\4"


def test_each_grant_has_its_own_rate_and_many_take_no_memory():
    responder = control.Responder(DEVICE, 0, 1, 1)
    for n in range(3):
        id_ = bytes([0, 0, n]) + bytes(5)
        for expected in (True, False):
            _, m1 = holder(responder, id_=id_, psk=grant.tail(ROOT, id_, CAVEATS))
            assert bool(responder.receive_message_1(m1, HOLDER_FP, find_holder, 0)) == expected
    assert responder.refused == {"rate": 3}
    for n in range(200):
        responder._bucket(bytes([n]) * 32, 0)
    assert len(responder._buckets) <= 64
