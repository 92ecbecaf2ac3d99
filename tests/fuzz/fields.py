"""Fields: what is taken encodes to the same bytes again, and whatever else raises RemoteError."""

from zts import control, wire
from zts.errors import RemoteError

SEEDS = [
    b"",
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
