"""PROTOCOL.md against the code, both ways: what one says the other must say too."""

import ast
import re
from collections.abc import Iterator
from typing import NamedTuple

import pytest

import board
from zts import control, frame, grant, leg, stream, wire
from zts.initiator import Initiator

LINES = (board.TESTS.parent / "PROTOCOL.md").read_text(encoding="utf-8").splitlines()
CAPTION = re.compile(r"\*\*(?P<title>[^*]+)\*\*, `(?P<constant>[A-Z0-9_]+)` = (?P<size>\d+)")
# What a hash or a key derivation is told to do; a protocol's name and the magics stand elsewhere.
LABELLED = ("codes", "control", "grant", "identity", "leg", "noise", "record")

Row = dict[str, str]


class Table(NamedTuple):
    """A table of the text: the line that introduces it, its columns, its rows by column."""

    caption: str
    columns: list[str]
    rows: list[Row]


def _cells(line: str) -> list[str]:
    return [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def tables(lines: list[str]) -> Iterator[Table]:
    caption, at = "", 0
    while at < len(lines):
        if not lines[at].startswith("|"):
            caption = lines[at] or caption
            at += 1
            continue
        columns = _cells(lines[at])
        assert set(lines[at + 1]) <= set("|- "), lines[at + 1]
        at += 2
        rows = []
        while at < len(lines) and lines[at].startswith("|"):
            cells = _cells(lines[at])
            assert len(cells) == len(columns), lines[at]
            rows.append(dict(zip(columns, cells, strict=True)))
            at += 1
        yield Table(caption, columns, rows)
        caption = ""


TABLES = list(tables(LINES))


def _with(*columns: str) -> list[Row]:
    """The rows of all tables that have these columns."""
    return [row for table in TABLES if set(columns) <= set(table.columns) for row in table.rows]


def _constant(row: Row) -> str:
    name = row["constant"]
    assert re.fullmatch(r"`[A-Z0-9_]+`", name), name
    return name.strip("`")


def _same(documented: list[tuple[str, object]], real: dict[str, object]) -> None:
    """Every name once, with its value, on both sides."""
    names = [name for name, _ in documented]
    assert sorted(names) == sorted(set(names)), "twice"
    assert {name: (value, type(value)) for name, value in documented} == {name: (value, type(value)) for name, value in real.items()}


def test_constants() -> None:
    documented = [(_constant(row), ast.literal_eval(row["value"])) for row in _with("constant", "value")]
    _same(documented, {name: value for name, value in vars(wire).items() if name.isupper() and not name.startswith("_")})


@pytest.mark.parametrize(
    ("documented", "real"),
    [([("A", 1)], {"A": 2}), ([("A", 1)], {}), ([], {"A": 1}), ([("A", 1), ("A", 1)], {"A": 1}), ([("A", 1)], {"A": True})],
)
def test_a_difference_is_found(documented: list[tuple[str, object]], real: dict[str, object]) -> None:
    with pytest.raises(AssertionError):
        _same(documented, real)


def test_text_names_constants_that_exist() -> None:
    text = "\n".join(LINES)
    assert {name for name in re.findall(r"`([A-Z][A-Z0-9]*_[A-Z0-9_]+)`", text) if not hasattr(wire, name)} == set()


def _layouts() -> dict[str, Table]:
    found = {}
    for table in TABLES:
        if table.columns == ["offset", "size", "field"]:
            match = CAPTION.match(table.caption)
            assert match, table.caption
            assert int(match["size"]) == getattr(wire, match["constant"])
            found[match["constant"]] = table
    return found


def test_layouts_have_no_gap_and_the_right_sum() -> None:
    layouts = _layouts()
    assert set(layouts) == {"HELLO_BYTES", "M1_BYTES", "M2_BYTES", "LEG_HELLO_BYTES", "LEG_HEADER_BYTES"}
    for constant, table in layouts.items():
        at = 0
        for row in table.rows:
            assert int(row["offset"]) == at, (constant, row)
            at += int(row["size"])
        assert at == getattr(wire, constant)


def _parts(constant: str, message: bytes) -> list[bytes]:
    return [message[int(row["offset"]) : int(row["offset"]) + int(row["size"])] for row in _layouts()[constant].rows]


def test_layouts_are_what_the_code_writes() -> None:
    epoch, nonce, sid, account, peer = (bytes([i]) * n for i, n in ((1, 16), (2, 16), (3, 16), (4, 8), (5, 8)))
    assert _parts("HELLO_BYTES", control.encode_hello(epoch, 7)) == [bytes([wire.VERSION]), epoch, b"\0\0\0\7"]
    assert _parts("LEG_HEADER_BYTES", leg.encode_header(2, 9, nonce)) == [wire.MAGIC_HEADER, b"\2", b"\0\0\0\x09", nonce]
    hello = leg.encode_hello(leg.LegHello(1, 9, sid, account, peer), bytes(32), bytes(16))
    assert _parts("LEG_HELLO_BYTES", hello)[:-1] == [b"\1", b"\0\0\0\x09", sid, account, peer]


def test_message_layouts_are_what_the_code_writes() -> None:
    key_pair = (bytes([7]) * 32, control.crypto.x25519_public(bytes([7]) * 32))
    epoch, psk, hint = bytes(16), bytes(32), b"8 bytes."
    initiator = Initiator(wire.PURPOSE_CONNECT, key_pair, key_pair[1], psk, epoch, wire.KIND_GRANT, hint)
    m1 = initiator.message_1({})
    version, kind = bytes([wire.VERSION]), bytes([wire.KIND_GRANT])
    parts = _parts("M1_BYTES", m1)
    assert parts[:5] == [version, bytes([wire.TYPE_M1]), kind, b"\0", hint]
    mac_key = control.crypto.hkdf(b"", psk, b"mac1")
    assert parts[5] == control.crypto.hmac_sha256(mac_key, epoch + b"".join(parts[:5] + parts[6:]))[:16]
    handshake, payload = control.read_message_1(m1, wire.PURPOSE_CONNECT, key_pair, psk, epoch)
    assert (handshake.re, handshake.rs, payload) == (parts[6], key_pair[1], bytes(wire.M1_PAYLOAD_BYTES))
    parts = _parts("M2_BYTES", control.write_message_2(handshake, m1, {}))
    assert parts[:4] == [version, bytes([wire.TYPE_M2]), b"\0\0", control.crypto.sha256(m1)[:8]]
    assert len(parts[5]) == wire.M2_PAYLOAD_BYTES + wire.TAG_BYTES


def test_fields() -> None:
    rows = _with("constant", "value", "critical")
    documented = {ast.literal_eval(row["value"]): 0 if row["size"] == "any" else int(row["size"]) for row in rows if row["size"] != "-"}
    assert documented == control._SIZES
    assert {row["value"]: row["critical"] for row in rows if row["size"] != "-"} == {
        f"0x{kind:02X}": "yes" if kind & 0x80 else "no" for kind in documented
    }


def test_caveats() -> None:
    rows = [row for row in _with("constant", "value", "size") if row["constant"].startswith("`CAVEAT_")]
    sizes = {ast.literal_eval(row["value"]): int(row["size"]) for row in rows if row["size"] != "any"}
    assert sizes == grant._SIZES and len(rows) == len(sizes) + 1


def test_frames() -> None:
    rows = _with("constant", "stream", "body")
    kinds = {stream_: tuple(ast.literal_eval(row["value"]) for row in rows if row["stream"] == stream_) for stream_ in ("0", "others")}
    assert kinds == {"0": frame._SESSION_FRAMES, "others": frame._STREAM_FRAMES}
    bodies = {ast.literal_eval(row["value"]): row["body"] for row in rows}
    fixed = {
        kind: sum(map(int, re.findall(r"[a-z_]+(\d+)", body))) for kind, body in bodies.items() if re.fullmatch(r"([a-z_]+\d+ ?)*", body)
    }
    assert fixed == frame._FIXED


def test_states_of_a_stream() -> None:
    (table,) = (table for table in TABLES if table.columns[0] == "state")
    documented = {
        row["state"]: {event: following for event, following in row.items() if following and event != "state"} for row in table.rows
    }
    assert documented == stream._NEXT


def test_labels() -> None:
    documented = [row["label"].strip('"').encode() for row in _with("label")]
    real = set()
    for module in LABELLED:
        for node in ast.walk(ast.parse((board.EDGE / "zts" / f"{module}.py").read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, bytes) and re.fullmatch(rb"[A-Za-z/ 0-9]{3,}", node.value):
                real.add(node.value)
    assert sorted(documented) == sorted(real)
