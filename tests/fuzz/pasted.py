"""What people paste and configure: join code, enrolment line, broker URL, address, name, fingerprint, card, grant. What is taken
comes back from its own spelling the same; whatever else raises FormatError."""

from collections.abc import Callable
from typing import Any

from zts import codes, grant, identity, wire
from zts.errors import FormatError
from zts_gateway import introduction
from zts_relay import config

CODE = codes.JoinCode(bytes(range(32)), b"s" * 16, "relay.example", 7440)
LINE = codes.EnrolLine(CODE._replace(host="::1"), b"p" * 32, b"o" * 32, "sensor42")
RELAY = identity.base32(b"r" * 15)
CARD = introduction.PublicCard("bob", bytes(range(32)), RELAY)
CAVEATS = grant.caveat(wire.CAVEAT_SERVICES, b"http") + grant.caveat(wire.CAVEAT_HOLDER, b"h" * 15)
GRANT = introduction.GrantLine("pi", bytes(range(32)), RELAY, bytes(8), b"m" * 32, b"t" * 32, CAVEATS)
SEEDS = [
    b"\0" + codes.format_join_code(CODE).encode(),
    b"\0 " + codes.format_join_code(CODE).encode() + b"\n",
    b"\0" + codes.format_join_code(CODE).encode().replace(b"@", b"!@"),
    b"\1" + codes.format_enrol_line(LINE).encode(),
    b"\1" + codes.format_enrol_line(LINE).encode().replace(b":", b":\n", 1),
    b"\2mqtts://:7441",
    b"\2mqtt://[::1]:1883",
    b"\2mqtt://broker.example:1883",
    b"\3[fe80::1]:22",
    b"\0033.example:65535",
    b"\3host:00080",
    b"\4@sensor42",
    b"\4a_b-c",
    b"\5" + identity.base32(b"f" * 15).encode(),
    b"\6" + introduction.format_card(CARD).encode(),
    b"\7" + introduction.format_grant(GRANT).encode(),
]


def _again(parse: Callable[[str], Any], text: str, spell: Callable[[Any], str]) -> Any:
    try:
        found = parse(text)
    except FormatError:
        return None
    assert parse(spell(found)) == found
    # Keys have one spelling only; of what follows, a port may have zeros in front.
    assert "@" not in spell(found) or spell(found).partition("@")[0] == text.strip().partition("@")[0]
    return found


def one(data: bytes) -> None:
    if not data:
        return
    text = data[1:].decode(errors="surrogateescape")
    match data[0] % 8:
        case 0:
            code = _again(codes.parse_join_code, text, codes.format_join_code)
            assert code is None or (len(code.relay_key), len(code.secret)) == (wire.KEY_BYTES, wire.SECRET_BYTES)
        case 1:
            _again(codes.parse_enrol_line, text, codes.format_enrol_line)
        case 2:
            _broker(text)
        case 3:
            address = _again(identity.split_address, text, lambda found: identity.join_address(*found))
            assert address is None or (0 <= address[1] <= 65535 and 0 < len(address[0]) <= 253 and " " not in address[0])
        case 4:
            name = _again(identity.check_name, text, str)
            assert name is None or (name.isascii() and 0 < len(name) <= wire.NAME_MAX_CHARS and name in (text, text[1:]))
        case 5:
            _again(identity.parse_fingerprint, text, identity.base32)
        case 6:
            _again(introduction.parse_card, text, introduction.format_card)
        case 7:
            found = _again(introduction.parse_grant, text, introduction.format_grant)
            assert found is None or grant.read(found.caveats).holder


def _broker(text: str) -> None:
    try:
        tls, host, port = identity.parse_broker(text, "::1")
    except FormatError:
        tls, host, port = False, "", -1
    else:
        url = f"mqtt{'s' if tls else ''}://{identity.join_address(host, port)}"
        assert identity.parse_broker(url, "other") == (tls, host, port)
    try:
        theirs = config.parse_broker(text)
    except config.ConfigError:
        return
    # What an operator may configure, every party understands in the same way.
    assert (theirs.tls, theirs.host, theirs.port) == (tls, host, port)
