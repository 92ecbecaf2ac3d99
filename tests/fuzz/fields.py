"""Fields: what is taken encodes to the same bytes again, and whatever else raises RemoteError. A relay's answer to an enrolment gives
a whole account, with a broker that can be dialled, or RemoteError too."""

from fuzz.pasted import CODE
from zts import control, enrol, identity, wire
from zts.errors import RemoteError

_ANSWER = {
    wire.TLV_CODE: b"\0",
    wire.TLV_ACCOUNT: b"a" * 8,
    wire.TLV_PARTY_KEY: b"k" * 32,
    wire.TLV_PASSWORD: b"p" * 16,
    wire.TLV_BROKER: b"mqtts://:7441",
    wire.TLV_PIN: b"c" * 32,
}

SEEDS = [
    b"",
    control.encode_fields(_ANSWER, 140),
    control.encode_fields(_ANSWER | {wire.TLV_BROKER: b"mqtt://[::1]:1"}, 140),
    control.encode_fields(_ANSWER | {wire.TLV_BROKER: b"mqtts://\xff"}, 140),
    bytes(20),
    control.encode_fields({wire.TLV_CODE: b"\1", wire.TLV_NAME: b"alice"}, 20),
    control.encode_fields({wire.TLV_SID: b"s" * 16, wire.TLV_ACCOUNT: b"a" * 8, wire.TLV_MAX_RECORD: b"\4\0"}, 64),
    b"\x07\x03abc\x07\x00",
    b"\x8f\x00",
    b"\x02\xff",
    b"\x02",
    b"\x02\x00\x00\x01",
]


def one(data: bytes) -> None:
    for required in ((), (wire.TLV_CODE,)):
        try:
            found = control.decode_fields(data, required)
        except RemoteError:
            continue
        assert control.encode_fields(found, len(data)) == data
        assert set(required) <= set(found)
        if required:
            _enrolled(found)


def _enrolled(answer: dict[int, bytes]) -> None:
    try:
        account = enrol.read_account(answer, CODE)
    except RemoteError:
        return
    tls, host, port = identity.parse_broker(account.broker, account.host)
    assert host and 0 <= port <= 65535 and tls == bool(account.pin)
    assert (len(account.account), len(account.party_key), len(account.password)) == (8, 32, 26)
