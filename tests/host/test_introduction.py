"""How parties come to know of each other: the lines, and what is refused when names, keys and relays do not fit."""

import contextlib
from pathlib import Path

import pytest

from zts import crypto, grant, identity, wire
from zts.errors import FormatError
from zts_gateway import granting, introduction
from zts_gateway.addressbook import Book, Card, Held, Identity, Party
from zts_gateway.introduction import GrantLine, PublicCard
from zts_gateway.ui import Exit, Failure

NOW = 1_800_000_000
RELAY, OTHER_RELAY = bytes(range(32)), bytes(range(1, 33))
RELAY_FP = identity.fingerprint_text(RELAY)
ACCOUNT = identity.Account(RELAY, "relay.example", 7440, bytes(8), bytes(32), "password", b"", "mqtt://:1")
KEYS = {name: crypto.x25519_public(crypto.sha256(name.encode())) for name in ("alice", "bob", "eve", "pi", "pi2")}
ALICE = Identity("alice", crypto.sha256(b"alice"), KEYS["alice"], ACCOUNT)
CARD = PublicCard("bob", KEYS["bob"], RELAY_FP)
HTTP = grant.caveat(wire.CAVEAT_SERVICES, b"http")
CAVEATS = HTTP + grant.caveat(wire.CAVEAT_HOLDER, identity.fingerprint(KEYS["alice"]))
LINE = GrantLine("pi", KEYS["pi"], RELAY_FP, b"\0\0grant1", b"m" * 32, b"t" * 32, CAVEATS)


@pytest.fixture
def book(tmp_path: Path) -> Book:
    book = Book(tmp_path)
    book.save_identity(ALICE)
    return book


def _refused(code: Exit, work) -> str:  # type: ignore[no-untyped-def]
    with pytest.raises(Failure) as caught:
        work()
    assert caught.value.code == code
    return str(caught.value)


# --- the lines -----------------------------------------------------------------------------------------------------------------


def test_lines_come_back() -> None:
    card = introduction.format_card(CARD)
    assert card.startswith("zts1c:") and card.endswith(f"@{RELAY_FP}/bob") and "=" not in card
    assert introduction.parse_card(f"  {card}\r\n") == CARD
    line = introduction.format_grant(LINE)
    assert line.startswith("zts1g:") and line.endswith(f"@{RELAY_FP}/pi")
    assert introduction.parse_grant(f"{line}\n") == LINE
    longest = LINE._replace(name="x" * wire.NAME_MAX_CHARS, caveats=CAVEATS + grant.caveat(wire.CAVEAT_SERVICES, b"a" * 174))
    assert len(longest.caveats) == wire.CAVEATS_MAX_BYTES - 1 and len(introduction.format_grant(longest)) < 480
    assert introduction.parse_grant(introduction.format_grant(longest)) == longest


@pytest.mark.parametrize(
    "format_, parse, good",
    [(introduction.format_card, introduction.parse_card, CARD), (introduction.format_grant, introduction.parse_grant, LINE)],
)
def test_a_line_cut_or_changed_is_refused_or_another(format_, parse, good) -> None:  # type: ignore[no-untyped-def]
    line = format_(good)
    for size in range(len(line)):
        with contextlib.suppress(FormatError):
            assert parse(line[:size])._replace(name=good.name) == good  # all that a cut may leave is another name
    for at in range(len(line)):
        for char in ("", "A", "a", "=", " ", "\n", ".", "é", "\0", line[at] * 2):
            changed = line[:at] + char + line[at + 1 :]
            try:
                found = parse(changed)
            except FormatError:
                continue
            assert found != good or changed.strip() == line
            assert format_(found) == changed.strip()  # one spelling


@pytest.mark.parametrize("parse", [introduction.parse_card, introduction.parse_grant])
@pytest.mark.parametrize(
    "text", ["", "hello", "zts1:AAAA@h:1", "zts1d:AAAA@h:1/x", "ZTS1C:AAAA", "zts1c:@/", "zts1g:@/", "zts1c:AAAA@", "\ud800"]
)
def test_no_lines(parse, text: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(FormatError):
        parse(text)


def test_a_card_is_no_grant_and_a_grant_no_card() -> None:
    card, line = introduction.format_card(CARD), introduction.format_grant(LINE)
    for parse, text in ((introduction.parse_grant, card), (introduction.parse_card, line)):
        with pytest.raises(FormatError):
            parse(text)
        with pytest.raises(FormatError):
            parse(text.replace(text[:6], "zts1g:" if text is card else "zts1c:"))


@pytest.mark.parametrize("name", ["Bob", "@bob", "bob.", "b\u043eb", "", "x" * 33, "-bob", "bob/eve", "bob@eve"])
def test_names_in_lines(name: str) -> None:
    for parse, line in (
        (introduction.parse_card, introduction.format_card(CARD._replace(name=name))),
        (introduction.parse_grant, introduction.format_grant(LINE._replace(name=name))),
    ):
        with pytest.raises(FormatError):
            parse(line)


def test_caveats_in_a_line_must_be_clear() -> None:
    holder = grant.caveat(wire.CAVEAT_HOLDER, b"h" * 15)
    for caveats in (
        b"",
        holder[:-1],
        holder + b"\x09\0",
        grant.caveat(wire.CAVEAT_SERVICES, b"http"),
        holder * 12,
        holder + bytes([3, 4, 0, 0, 0, 0]),
    ):
        with pytest.raises(FormatError):
            introduction.parse_grant(introduction.format_grant(LINE._replace(caveats=caveats)))


# --- parties ---------------------------------------------------------------------------------------------------------------------


def test_a_party_is_added_once(book: Book) -> None:
    assert granting.meet_party(book, CARD, "bob") == Party("bob", KEYS["bob"], RELAY_FP)
    assert book.parties() == []  # nothing is kept unasked
    granting.keep_party(book, CARD, "bob")
    assert book.parties() == [Party("bob", KEYS["bob"], RELAY_FP)]
    assert granting.meet_party(book, CARD, "bob") is None
    granting.keep_party(book, CARD, "bob")
    assert len(book.parties()) == 1


def test_a_name_that_changes_its_key_is_refused(book: Book) -> None:
    granting.keep_party(book, CARD, "bob")
    thief = CARD._replace(public=KEYS["eve"])
    for work in (lambda: granting.meet_party(book, thief, "bob"), lambda: granting.keep_party(book, thief, "bob")):
        said = _refused(Exit.AUTHENTICATION, work)
        assert (
            "zts remove @bob" in said and identity.fingerprint_text(KEYS["eve"]) in said and identity.fingerprint_text(KEYS["bob"]) in said
        )
    assert book.party("bob").public == KEYS["bob"]
    granting.keep_party(book, thief, "eve")  # under a name of its own
    book.remove_party("bob")
    book.remove_party("eve")
    granting.keep_party(book, thief, "bob")
    assert book.party("bob").public == KEYS["eve"]


def test_parties_that_are_refused(book: Book) -> None:
    granting.keep_party(book, CARD, "bob")
    book.save_card(Card("pi", KEYS["pi"], bytes(32)))
    other = CARD._replace(relay=identity.fingerprint_text(OTHER_RELAY), public=KEYS["eve"])
    for card, name, hint in (
        (CARD._replace(public=KEYS["alice"]), "alice", "own card"),
        (CARD._replace(public=KEYS["alice"]), "x", "own card"),
        (CARD._replace(public=KEYS["eve"]), "alice", "--as"),
        (CARD._replace(public=KEYS["eve"]), "pi", "--as"),
        (CARD, "robert", "zts remove @bob"),
        (other, "eve", "another relay"),
    ):
        assert hint in _refused(Exit.USAGE, lambda card=card, name=name: granting.meet_party(book, card, name))
    assert [party.name for party in book.parties()] == ["bob"]


def test_nobody_is_met_before_joining(tmp_path: Path) -> None:
    for work in (lambda: granting.meet_party(Book(tmp_path), CARD, "bob"), lambda: granting.meet_device(Book(tmp_path), LINE, "pi", NOW)):
        assert "zts join" in _refused(Exit.USAGE, work)


# --- devices reached by a grant ------------------------------------------------------------------------------------------------------


def test_a_device_is_added_by_a_grant(book: Book) -> None:
    expected = Card("pi", KEYS["pi"], b"", grant=Held(LINE.id, LINE.mac_key, LINE.tail, CAVEATS))
    assert granting.meet_device(book, LINE, "pi", NOW) == expected
    assert book.cards() == []
    assert granting.keep_device(book, LINE, "pi", NOW) == expected
    assert book.cards() == [expected]


def test_a_new_grant_takes_the_old_ones_place(book: Book) -> None:
    granting.keep_device(book, LINE, "pi", NOW)
    book.change_card("pi", verified=True, services=((1, "http"),))
    granting.keep_device(book, LINE._replace(id=b"\0\0grant2"), "pi", NOW)
    card = book.device("pi")
    assert card.grant and card.grant.id == b"\0\0grant2" and card.verified and card.services == ((1, "http"),)


def test_devices_that_are_refused(book: Book) -> None:
    granting.keep_party(book, CARD, "bob")
    granting.keep_device(book, LINE, "far", NOW)
    book.save_card(Card("mine", KEYS["pi2"], bytes(32)))
    book.save_card(Card("coming", b"", bytes(32)))
    for_eve = HTTP + grant.caveat(wire.CAVEAT_HOLDER, identity.fingerprint(KEYS["eve"]))
    ended = CAVEATS + grant.caveat(wire.CAVEAT_UNTIL, NOW.to_bytes(4, "big"))
    for line, name, code, hint in (
        (LINE._replace(caveats=for_eve), "pi", Exit.AUTHENTICATION, identity.fingerprint_text(KEYS["eve"])),
        (LINE._replace(relay=identity.fingerprint_text(OTHER_RELAY)), "pi", Exit.USAGE, "another relay"),
        (LINE._replace(caveats=ended), "pi", Exit.DENIED, "new one"),
        (LINE, "bob", Exit.USAGE, "--as"),
        (LINE._replace(public=KEYS["eve"]), "far", Exit.AUTHENTICATION, "zts remove @far"),
        (LINE, "mine", Exit.AUTHENTICATION, "--as"),
        (LINE, "coming", Exit.AUTHENTICATION, "--as"),
        (LINE._replace(public=KEYS["pi2"]), "pi", Exit.USAGE, "yours already"),
        (LINE._replace(public=KEYS["pi2"]), "mine", Exit.USAGE, "yours already"),
    ):
        for work in (granting.meet_device, granting.keep_device):
            assert hint in _refused(code, lambda work=work, line=line, name=name: work(book, line, name, NOW))
    assert [card.name for card in book.cards()] == ["coming", "far", "mine"]
    just = LINE._replace(caveats=CAVEATS + grant.caveat(wire.CAVEAT_UNTIL, (NOW + 1).to_bytes(4, "big")))
    granting.keep_device(book, just, "far", NOW)
