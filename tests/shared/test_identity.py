"""Names, fingerprints, join codes, enrolment lines, addresses: what is taken, and all that is not."""

from check import raises
from zts import codes, identity
from zts.errors import FormatError

CODE = codes.JoinCode(bytes(range(32)), bytes(range(16)), "relay.example", 7440)
LINE = codes.EnrolLine(CODE, bytes(range(100, 132)), bytes(range(200, 232)), "pi-2")


def test_base32_is_rfc_4648_in_lower_case():
    for data, text in (
        (b"", ""),
        (b"f", "my"),
        (b"fo", "mzxq"),
        (b"foo", "mzxw6"),
        (b"foob", "mzxw6yq"),
        (b"fooba", "mzxw6ytb"),
        (b"foobar", "mzxw6ytboi"),
    ):
        assert identity.base32(data) == text


def test_fingerprint_text_reads_back():
    text = identity.fingerprint_text(bytes(range(32)))
    assert len(text) == 24 and identity.parse_fingerprint(text) == identity.fingerprint(bytes(range(32)))
    for bad in ("", text[:-1], text + "a", text.upper(), text[:-1] + "1", text[:-1] + "é"):
        raises(FormatError, identity.parse_fingerprint, bad)


def test_names():
    for good in ("a", "@a", "sensor42", "@lab-3_b", "0", "x" * 32):
        assert identity.check_name(good) == good.lstrip("@")
    for bad in (
        "",
        "@",
        "@@a",
        "A",
        "a.",
        "a.b",
        "-a",
        "a-",
        "_",
        "a b",
        "a\n",
        "x" * 33,
        "s\u00e9nsor",
        "\u0430dmin",
        "a/b",
        "a+",
        "#",
        "a\0",
    ):
        raises(FormatError, identity.check_name, bad)


def test_join_code_reads_back():
    text = codes.format_join_code(CODE)
    assert codes.parse_join_code(text) == CODE
    assert codes.parse_join_code(" " + text + "\n") == CODE
    v6 = codes.JoinCode(CODE.relay_key, CODE.secret, "::1", 1)
    assert codes.parse_join_code(codes.format_join_code(v6)) == v6


def test_enrolment_line_reads_back():
    assert codes.parse_enrol_line(codes.format_enrol_line(LINE)) == LINE


def test_every_cut_and_every_wrong_character_is_refused():
    for text, parse, good in (
        (codes.format_join_code(CODE), codes.parse_join_code, CODE),
        (codes.format_enrol_line(LINE), codes.parse_enrol_line, LINE),
    ):
        middle_end = text.index("@")
        for end in range(len(text)):
            try:
                # What is left out at the very end may leave a shorter port or name: still a line, never another key.
                assert parse(text[:end])[0] == good[0] or parse(text[:end])[0][:2] == good[0][:2]
                assert end > middle_end
            except FormatError:
                pass
        for at in range(middle_end):
            for char in "!. \0é=+/":
                raises(FormatError, parse, text[:at] + char + text[at + 1 :])


def test_lines_of_the_other_kind_are_refused():
    raises(FormatError, codes.parse_join_code, codes.format_enrol_line(LINE))
    raises(FormatError, codes.parse_enrol_line, codes.format_join_code(CODE))


def test_addresses():
    assert identity.split_address("a.b:1") == ("a.b", 1)
    assert identity.split_address("[::1]:65535") == ("::1", 65535)
    for bad in (
        "",
        "a",
        ":1",
        "a:",
        "a:x",
        "a:65536",
        "a:-1",
        "a:1 ",
        "a b:1",
        "::1:1",
        "a:٣",
        "a\n:1",
        "[name]:1",
        "[a:b:1",
        "h" * 254 + ":1",
        "a:000001",
    ):
        raises(FormatError, identity.split_address, bad)


def test_broker_urls():
    assert identity.parse_broker("mqtts://:7441", "relay") == (True, "relay", 7441)
    assert identity.parse_broker("mqtts://:7441", "::1") == (True, "::1", 7441)
    assert identity.parse_broker("mqtt://h:1883", "relay") == (False, "h", 1883)
    assert identity.parse_broker("mqtts://[fe80::1]:1", "relay") == (True, "fe80::1", 1)
    for bad in ("", "mqtts", "http://h:1", "mqtt://", "mqtt://h", "mqtt://:", "mqtts://h:x", "MQTT://h:1"):
        raises(FormatError, identity.parse_broker, bad, "relay")


def test_client_id_is_constant_and_fits_mqtt():
    assert identity.client_id("password") == identity.client_id("password") != identity.client_id("passwore")
    assert len(identity.client_id("password")) == 23
