"""Enrolment, message for message: what is answered, what is met with silence, and what a code can be used for."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from relay_client import key_pair
from zts import codes, control, crypto, identity, wire
from zts.initiator import Initiator
from zts_relay import enrolment
from zts_relay.enrolment import Desk
from zts_relay.registry import DEVICE, OWNER, Party, Registry

SOURCE = b"\x7f\0\0\1"
PIN = bytes(range(32))
URL = "mqtts://:7441"
Fields = dict[int, bytes]


class _Office:
    """A desk with its registry, and time that stands still."""

    def __init__(self, state: Path) -> None:
        self.clock = 1_800_000_000.0
        self.now = 0
        self.changes = 0
        self.revoked: list[Party] = []
        self.registry = Registry(state, lambda: self.clock)
        self.desk = Desk(self.registry, URL, PIN, lambda: self.now, self._changed, self.revoked.append)

    def _changed(self) -> None:
        self.changes += 1

    def code(self, role: str = OWNER, made_by: bytes | None = None) -> bytes:
        secret = self.registry.make_code(role, made_by)
        assert secret
        return secret

    def answer(self, m1: bytes, challenge: bytes) -> bytes | None:
        self.now += 1000  # the rate is another test's matter
        return self.desk.answer(m1, challenge, SOURCE)

    def ask(self, own: tuple[bytes, bytes], psk: bytes, hint: bytes, kind: int, fields: Fields) -> Fields | None:
        challenge = crypto.random_bytes(wire.CHALLENGE_BYTES)
        initiator = Initiator(wire.PURPOSE_RELAY, own, self.registry.public, psk, challenge, kind, hint)
        m2 = self.answer(initiator.message_1(fields), challenge)
        if m2 is None:
            return None
        assert len(m2) == wire.M2_BYTES
        answer = initiator.read_message_2(m2)
        assert answer is not None
        return answer

    def enrol(self, secret: bytes, own: tuple[bytes, bytes], fields: Fields | None = None) -> Fields | None:
        return self.ask(own, codes.code_psk(secret), codes.code_id(secret), wire.KIND_ENROL, fields or {})

    def party(self, role: str) -> tuple[tuple[bytes, bytes], bytes]:
        """Somebody enrolled: the key pair and the account."""
        own = key_pair()
        answer = self.enrol(self.code(role), own)
        assert answer
        return own, answer[wire.TLV_ACCOUNT]

    def ask_as(self, own: tuple[bytes, bytes], account: bytes, kind: int, fields: Fields | None = None) -> Fields | None:
        return self.ask(own, control.party_psk(self.registry.leg_key(account)), account, kind, fields or {})


@pytest.fixture
def office(tmp_path: Path) -> Iterator[_Office]:
    office = _Office(tmp_path / "state")
    yield office
    office.registry.close()


def _code_of(answer: Fields | None) -> int:
    assert answer is not None
    return answer[wire.TLV_CODE][0]


def _good_message_1(office: _Office, secret: bytes, challenge: bytes) -> bytes:
    psk, code_id = codes.code_psk(secret), codes.code_id(secret)
    initiator = Initiator(wire.PURPOSE_RELAY, key_pair(), office.registry.public, psk, challenge, wire.KIND_ENROL, code_id)
    m1: bytes = initiator.message_1({wire.TLV_NAME: b"alice"})
    return m1


# --- silence ---------------------------------------------------------------------------------------------------------


def test_every_flipped_bit_is_met_with_silence_and_leaves_the_code_good(office: _Office) -> None:
    secret, challenge = office.code(), crypto.random_bytes(16)
    m1 = _good_message_1(office, secret, challenge)
    for bit in range(8 * len(m1)):
        flipped = bytearray(m1)
        flipped[bit // 8] ^= 1 << bit % 8
        assert office.answer(bytes(flipped), challenge) is None, bit
    assert office.registry.parties() == []
    assert office.answer(m1, challenge) is not None


def test_every_other_length_is_met_with_silence(office: _Office) -> None:
    challenge = crypto.random_bytes(16)
    m1 = _good_message_1(office, office.code(), challenge)
    for size in range(len(m1)):
        assert office.answer(m1[:size], challenge) is None
    assert office.answer(m1 + b"\0", challenge) is None


def test_a_message_1_for_another_challenge_is_met_with_silence(office: _Office) -> None:
    challenge = crypto.random_bytes(16)
    m1 = _good_message_1(office, office.code(), challenge)
    assert office.answer(m1, crypto.random_bytes(16)) is None
    assert office.answer(m1, bytes(16)) is None
    assert office.desk.outcomes["enrol", "mac1"] == 2


def test_an_unknown_code_or_account_is_met_with_silence(office: _Office) -> None:
    own, _ = office.party(OWNER)
    assert office.enrol(bytes(16), own) is None
    for kind in (wire.KIND_MAKE_CODE, wire.KIND_LOOK_UP, wire.KIND_RETIRE):
        assert office.ask_as(own, bytes(8), kind) is None


def test_bits_flipped_by_somebody_with_the_code_are_met_with_silence(office: _Office) -> None:
    """mac1 is good here: what is left to fail is the handshake."""
    secret, challenge = office.code(), crypto.random_bytes(16)
    m1 = _good_message_1(office, secret, challenge)
    mac_key = control.make_peer(office.registry.public, codes.code_psk(secret)).mac_key
    for at in range(28, len(m1), 7):
        flipped = bytearray(m1)
        flipped[at] ^= 1
        flipped[12:28] = crypto.hmac_sha256(mac_key, challenge + flipped[:12] + flipped[28:])[:16]
        assert office.answer(bytes(flipped), challenge) is None
    for low_order in (bytes(32), b"\1" + bytes(31)):
        flipped[28:60] = low_order
        flipped[12:28] = crypto.hmac_sha256(mac_key, challenge + flipped[:12] + flipped[28:])[:16]
        assert office.answer(bytes(flipped), challenge) is None
    assert office.desk.outcomes["enrol", "mac1"] == 0 < office.desk.outcomes["enrol", "decrypt"]
    assert office.registry.parties() == []


def test_another_relays_key_or_purpose_is_met_with_silence(office: _Office) -> None:
    secret, challenge = office.code(), crypto.random_bytes(16)
    psk, code_id = codes.code_psk(secret), codes.code_id(secret)
    for purpose, relay_key in ((wire.PURPOSE_CONNECT, office.registry.public), (wire.PURPOSE_RELAY, key_pair()[1])):
        initiator = Initiator(purpose, key_pair(), relay_key, psk, challenge, wire.KIND_ENROL, code_id)
        assert office.answer(initiator.message_1({}), challenge) is None


def test_a_code_of_one_kind_is_no_key_for_another(office: _Office) -> None:
    secret = office.code()
    for kind in (wire.KIND_MAKE_CODE, wire.KIND_LOOK_UP, wire.KIND_RETIRE):
        assert office.ask(key_pair(), codes.code_psk(secret), codes.code_id(secret), kind, {}) is None


def test_a_source_may_not_try_for_ever(office: _Office) -> None:
    challenge = crypto.random_bytes(16)
    for _ in range(enrolment.BURST):
        assert office.desk.answer(_good_message_1(office, bytes(16), challenge), challenge, SOURCE) is None
    assert office.desk.outcomes["enrol", "unknown"] == enrolment.BURST
    good = _good_message_1(office, office.code(), challenge)
    assert office.desk.answer(good, challenge, SOURCE) is None
    assert office.desk.outcomes["enrol", "rate"] == 1
    assert office.desk.answer(good, challenge, b"\x7f\0\0\2") is not None, "another source"
    office.now += 1000 // enrolment.RATE
    assert office.desk.answer(good, challenge, SOURCE) is not None


def test_sources_remembered_are_bounded(office: _Office) -> None:
    for i in range(enrolment.SOURCES + 100):
        office.desk.answer(_zeroes(), bytes(16), i.to_bytes(8, "big"))
    assert office.desk.sources == enrolment.SOURCES


def _zeroes() -> bytes:
    return bytes([wire.VERSION, wire.TYPE_M1, wire.KIND_ENROL]) + bytes(wire.M1_BYTES - 3)


# --- enrolling -------------------------------------------------------------------------------------------------------


def test_a_good_code_gives_an_account(office: _Office) -> None:
    own = key_pair()
    answer = office.enrol(office.code(), own, {wire.TLV_NAME: b"alice"})
    assert answer and _code_of(answer) == wire.OK
    account = answer[wire.TLV_ACCOUNT]
    assert answer[wire.TLV_PARTY_KEY] == office.registry.leg_key(account)
    assert answer[wire.TLV_PIN] == PIN and answer[wire.TLV_BROKER] == URL.encode()
    party = office.registry.party(account)
    assert party and party.public == own[1] and party.name == "alice" and party.role == OWNER
    assert office.registry.may_log_in(party.fp, identity.base32(answer[wire.TLV_PASSWORD]).encode())
    assert office.changes == 1


def test_without_tls_there_is_no_pin_and_the_longest_url_fits(tmp_path: Path) -> None:
    office = _Office(tmp_path / "other")
    url = "mqtt://" + "h" * (wire.URL_MAX_CHARS - 12) + ":1883"
    assert len(url) == wire.URL_MAX_CHARS
    office.desk = Desk(office.registry, url, None, lambda: office.now, lambda: None, lambda party: None)
    answer = office.enrol(office.code(), key_pair())
    assert answer and wire.TLV_PIN not in answer and answer[wire.TLV_BROKER].decode() == url
    office.desk = Desk(office.registry, url, PIN, lambda: office.now, lambda: None, lambda party: None)
    answer = office.enrol(office.code(), key_pair())
    assert answer and answer[wire.TLV_PIN] == PIN
    office.registry.close()


def test_a_used_code_is_denied_with_a_clear_answer(office: _Office) -> None:
    secret, own = office.code(), key_pair()
    first = office.enrol(secret, own)
    assert office.enrol(secret, key_pair()) == {wire.TLV_CODE: bytes([wire.DENIED])}
    assert office.enrol(secret, own) == first, "whose answer was lost asks again"
    assert len(office.registry.parties()) == 1 and office.changes == 1


def test_an_expired_code_is_denied_with_a_clear_answer_for_a_while(office: _Office) -> None:
    secret = office.code()
    office.clock += wire.CODE_TTL_S
    assert office.enrol(secret, key_pair()) == {wire.TLV_CODE: bytes([wire.DENIED])}
    office.clock += wire.CODE_TTL_S + 1
    office.code()
    assert office.enrol(secret, key_pair()) is None


def test_a_revoked_party_is_told_so(office: _Office) -> None:
    own, account = office.party(OWNER)
    office.registry.revoke(account)
    assert _code_of(office.enrol(office.code(), own)) == wire.REVOKED
    assert _code_of(office.ask_as(own, account, wire.KIND_MAKE_CODE)) == wire.REVOKED


@pytest.mark.parametrize("name", [b"Alice", b"a b", b"-a", b"\xff", b"@", b"x" * 33, "é".encode()])
def test_a_bad_name_is_malformed_and_does_not_use_the_code(office: _Office, name: bytes) -> None:
    secret = office.code()
    assert _code_of(office.enrol(secret, key_pair(), {wire.TLV_NAME: name})) == wire.PROTO
    assert _code_of(office.enrol(secret, key_pair())) == wire.OK


@pytest.mark.parametrize("fields", [{0xFF: b"unknown, critical"}, {wire.TLV_SID: b"too short"}])
def test_malformed_fields_are_told_and_change_nothing(office: _Office, fields: Fields) -> None:
    secret = office.code()
    assert _code_of(office.enrol(secret, key_pair(), fields)) == wire.PROTO
    own, account = office.party(OWNER)
    for kind in (wire.KIND_MAKE_CODE, wire.KIND_LOOK_UP, wire.KIND_RETIRE):
        assert _code_of(office.ask_as(own, account, kind, fields)) == wire.PROTO
    assert _code_of(office.enrol(secret, key_pair())) == wire.OK


# --- what owners may ask -----------------------------------------------------------------------------------------------


def test_an_owner_makes_a_device_code_and_sees_who_used_it(office: _Office) -> None:
    owner, account = office.party(OWNER)
    answer = office.ask_as(owner, account, wire.KIND_MAKE_CODE)
    assert answer and _code_of(answer) == wire.OK
    secret = answer[wire.TLV_SECRET]
    wanted = {wire.TLV_CODE_ID: codes.code_id(secret)}
    assert office.ask_as(owner, account, wire.KIND_LOOK_UP, wanted) == {wire.TLV_CODE: bytes([wire.BUSY])}
    device = key_pair()
    assert _code_of(office.enrol(secret, device)) == wire.OK
    found = {wire.TLV_CODE: bytes([wire.OK]), wire.TLV_PUBLIC: device[1]}
    assert office.ask_as(owner, account, wire.KIND_LOOK_UP, wanted) == found
    office.clock += 3 * wire.CODE_TTL_S
    office.code()
    assert office.ask_as(owner, account, wire.KIND_LOOK_UP, wanted) == found, "an owner who looks days later"
    party = office.registry.parties()[-1]
    assert party.role == DEVICE and party.made_by == account


def test_devices_may_not_make_codes_or_look_up(office: _Office) -> None:
    device, account = office.party(DEVICE)
    for kind in (wire.KIND_MAKE_CODE, wire.KIND_LOOK_UP, wire.KIND_RETIRE):
        fields = {wire.TLV_CODE_ID: bytes(8)} if kind == wire.KIND_LOOK_UP else {}
        assert office.ask_as(device, account, kind, fields) == {wire.TLV_CODE: bytes([wire.DENIED])}


def test_an_owners_account_in_other_hands_is_denied(office: _Office) -> None:
    """Who learned K_party but not the static key."""
    _, account = office.party(OWNER)
    other, _ = office.party(OWNER)
    for own in (key_pair(), other):
        assert office.ask_as(own, account, wire.KIND_MAKE_CODE) == {wire.TLV_CODE: bytes([wire.DENIED])}


def test_an_owner_sees_its_own_codes_only(office: _Office) -> None:
    owner, account = office.party(OWNER)
    other, other_account = office.party(OWNER)
    secret = office.code(DEVICE, account)
    office.enrol(secret, key_pair())
    for code_id in (codes.code_id(secret), bytes(8)):
        answer = office.ask_as(other, other_account, wire.KIND_LOOK_UP, {wire.TLV_CODE_ID: code_id})
        assert answer == {wire.TLV_CODE: bytes([wire.DENIED])}
    assert _code_of(office.ask_as(owner, account, wire.KIND_LOOK_UP, {wire.TLV_CODE_ID: codes.code_id(secret)})) == wire.OK


def test_too_many_unused_codes_are_refused(office: _Office, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zts_relay.registry.UNUSED_CODES", 2)
    owner, account = office.party(OWNER)
    codes = [_code_of(office.ask_as(owner, account, wire.KIND_MAKE_CODE)) for _ in range(3)]
    assert codes == [wire.OK, wire.OK, wire.QUOTA]


# --- retiring --------------------------------------------------------------------------------------------------------------


def test_an_owner_retires_its_own_device_and_no_other_party(office: _Office) -> None:
    (owner, account), (other, other_account) = office.party(OWNER), office.party(OWNER)
    device, device_account = key_pair(), b""
    answer = office.enrol(office.code(DEVICE, account), device)
    assert answer
    device_account = answer[wire.TLV_ACCOUNT]
    wanted = {wire.TLV_PUBLIC: device[1]}
    for own, whose, fields, code in (
        (other, other_account, wanted, wire.DENIED),
        (device, device_account, wanted, wire.DENIED),
        (owner, account, {wire.TLV_PUBLIC: owner[1]}, wire.DENIED),
        (owner, account, {wire.TLV_PUBLIC: other[1]}, wire.DENIED),
        (owner, account, {wire.TLV_PUBLIC: bytes(32)}, wire.DENIED),
        (owner, account, {}, wire.PROTO),
    ):
        assert _code_of(office.ask_as(own, whose, wire.KIND_RETIRE, fields)) == code
    assert office.registry.is_active(device_account) and not office.revoked
    for _ in range(2):  # the first answer may be lost
        assert office.ask_as(owner, account, wire.KIND_RETIRE, wanted) == {wire.TLV_CODE: bytes([wire.OK])}
    assert [party.account for party in office.revoked] == [device_account]
    assert not office.registry.is_active(device_account) and office.registry.is_active(account)
    assert _code_of(office.enrol(office.code(DEVICE, account), device)) == wire.REVOKED
    assert _code_of(office.ask_as(device, device_account, wire.KIND_LOOK_UP, {wire.TLV_CODE_ID: bytes(8)})) == wire.REVOKED
