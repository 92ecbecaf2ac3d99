"""The two lines a person pastes, the join code and the enrolment line, and what both sides derive from a code.

A device needs them once, so it loads them then.
"""

from binascii import a2b_base64, b2a_base64
from collections import namedtuple

from . import crypto, wire
from .errors import FormatError
from .identity import check_name, join_address, split_address

JoinCode = namedtuple("JoinCode", ("relay_key", "secret", "host", "port"))
EnrolLine = namedtuple("EnrolLine", ("code", "pairing", "owner_key", "name"))


def _encode64(data: bytes) -> str:
    return b2a_base64(data).decode().rstrip("=\n").replace("+", "-").replace("/", "_")


def _decode64(text: str, size: int) -> bytes:
    """base64url without padding, of exactly `size` bytes and canonical. Raises FormatError."""
    try:
        data = a2b_base64(text.replace("-", "+").replace("_", "/") + "=" * (-len(text) % 4))
    except ValueError:
        raise FormatError("the middle part is not base64url: was the line cut?")
    if len(data) != size or _encode64(data) != text:
        raise FormatError("the line has the wrong length: was it cut?")
    return data


def format_join_code(code: JoinCode) -> str:
    return f"zts1:{_encode64(code.relay_key + code.secret)}@{join_address(code.host, code.port)}"


def parse_join_code(line: str) -> JoinCode:
    """`zts1:` base64url(relay key 32 | secret 16) `@host:port`. Raises FormatError."""
    text = line.strip()
    if not text.startswith("zts1:"):
        raise FormatError("a join code begins with zts1:")
    middle, at, address = text[5:].partition("@")
    if not at:
        raise FormatError("the join code has no @host:port: was it cut?")
    data = _decode64(middle, wire.KEY_BYTES + wire.SECRET_BYTES)
    host, port = split_address(address)
    return JoinCode(data[: wire.KEY_BYTES], data[wire.KEY_BYTES :], host, port)


def format_enrol_line(line: EnrolLine) -> str:
    code = line.code
    data = code.relay_key + code.secret + line.pairing + line.owner_key
    return f"zts1d:{_encode64(data)}@{join_address(code.host, code.port)}/{line.name}"


def parse_enrol_line(line: str) -> EnrolLine:
    """`zts1d:` base64url(relay key 32 | secret 16 | pairing secret 32 | owner's key 32) `@host:port/name`. Raises FormatError."""
    text = line.strip()
    if not text.startswith("zts1d:"):
        raise FormatError("an enrolment line begins with zts1d:")
    middle, at, rest = text[6:].partition("@")
    address, slash, name = rest.partition("/")
    if not at or not slash:
        raise FormatError("the enrolment line has no @host:port/name: was it cut?")
    key, secret = wire.KEY_BYTES, wire.SECRET_BYTES
    data = _decode64(middle, 3 * key + secret)
    host, port = split_address(address)
    code = JoinCode(data[:key], data[key : key + secret], host, port)
    return EnrolLine(code, data[key + secret : 2 * key + secret], data[2 * key + secret :], check_name(name))


def code_id(secret: bytes) -> bytes:
    """8 bytes by which a relay finds a join code it stores only derived values of."""
    return crypto.hkdf(b"", secret, b"ZTS/1 code id", wire.HINT_BYTES)


def code_psk(secret: bytes) -> bytes:
    return crypto.hkdf(b"", secret, b"ZTS/1 code psk")
