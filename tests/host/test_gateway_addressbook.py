"""The laptop's files: whole, private, and refused when they are damaged."""

import json
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from zts import crypto, grant, identity, wire
from zts_gateway.addressbook import Book, Card, Held, Identity, Issued, Party, Pending
from zts_gateway.ui import Exit, Failure

KEY = bytes(range(32))
ACCOUNT = identity.Account(KEY, "relay.example", 7440, bytes(8), KEY[::-1], "password", KEY, "mqtts://:7441")
ME = Identity("alice", KEY, crypto.x25519_public(KEY), ACCOUNT)
CARD = Card("pi", KEY, KEY[::-1], True, ((1, "ssh"), (2, "page")), "2026-01-02T03:04:05Z")

CAVEATS = grant.caveat(wire.CAVEAT_SERVICES, b"http") + grant.caveat(wire.CAVEAT_HOLDER, identity.fingerprint(ME.public))
REACHED = Card("far", KEY, b"", grant=Held(bytes(8), KEY, KEY[::-1], CAVEATS, ME.fp))
BOB = Party("bob", KEY[::-1], "a" * 24)
ISSUED = Issued(b"\0\1grant1", "bob", CAVEATS, "2026-01-02T03:04:05Z")


def _sentence(code: Exit, work) -> str:  # type: ignore[no-untyped-def]
    with pytest.raises(Failure) as caught:
        work()
    assert caught.value.code == code
    return str(caught.value)


@pytest.mark.parametrize("me", [ME, Identity("alice", KEY, KEY), Identity("a", KEY, KEY, ACCOUNT._replace(pin=b"", broker="mqtt://b:1"))])
def test_identity_comes_back(tmp_path: Path, me: Identity) -> None:
    book = Book(tmp_path / "deep" / "home")
    assert book.find_identity() is None
    book.save_identity(me)
    assert book.find_identity() == me


@pytest.mark.parametrize(
    "card",
    [
        CARD,
        Card("pi", b"", KEY, pending=Pending(bytes(16), 1_800_000_000)),
        Card("pi", KEY, KEY[::-1], generation=65535, policy_seq=0xFFFFFFFF),
        replace(REACHED, name="pi"),
        replace(REACHED, name="pi", grant=Held(bytes(8), KEY, KEY, CAVEATS)),
    ],
)
def test_card_comes_back(tmp_path: Path, card: Card) -> None:
    book = Book(tmp_path)
    assert book.find_card("pi") is None and book.cards() == []
    book.save_card(card)
    assert book.find_card("pi") == card and book.cards() == [card]
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["devices", "pi.json"]


def test_a_card_of_an_earlier_release_is_read(tmp_path: Path) -> None:
    book = Book(tmp_path)
    book.save_card(CARD)
    data = json.loads(book.card_file("pi").read_text())
    for later in ("generation", "policy_seq", "policy_due"):
        del data[later]
    assert set(data) == {"name", "public", "pairing", "verified", "services", "last_seen"}
    book.card_file("pi").write_text(json.dumps(data))
    assert book.find_card("pi") == CARD


def test_parties_and_grants_come_back(tmp_path: Path) -> None:
    book = Book(tmp_path)
    assert book.find_party("bob") is None and book.parties() == [] and book.grants("pi") == []
    book.save_party(BOB)
    assert book.party("bob") == BOB and book.parties() == [BOB]
    assert "zts card" in _sentence(Exit.USAGE, lambda: book.party("eve"))
    book.save_card(CARD)
    later = replace(ISSUED, id=b"\0\1grant2", taken_back="2026-01-03T03:04:05Z")
    book.change_grants("pi", lambda card, grants: [*grants, ISSUED])
    book.change_grants("pi", lambda card, grants: [*grants, later])
    assert book.grants("pi") == [ISSUED, later]
    assert ISSUED.fp == ME.fp and ISSUED.terms.services == ["http"]
    for path in (book.party_file("bob"), book.grants_file("pi")):
        assert path.stat().st_mode & 0o777 == 0o600 and path.parent.stat().st_mode & 0o777 == 0o700
    # A device that is enrolled anew has another pairing secret: its old grants are void.
    book.remove_card("pi")
    book.remove_party("bob")
    assert book.grants("pi") == [] and book.find_party("bob") is None
    _sentence(Exit.USAGE, lambda: book.change_grants("pi", lambda card, grants: [ISSUED]))
    assert book.grants("pi") == []


def test_a_damaged_card_party_or_grant_is_refused(tmp_path: Path) -> None:
    book = Book(tmp_path)
    book.save_card(CARD)
    book.change_grants("pi", lambda card, grants: [ISSUED])
    book.save_card(REACHED)
    book.save_party(BOB)
    for path, places, ask in (
        (book.card_file("pi"), ("public", "pairing", "services", "generation", "policy_seq"), lambda: book.find_card("pi")),
        (book.card_file("far"), ("public", "pairing", "grant"), lambda: book.find_card("far")),
        (book.card_file("far"), ("id", "mac_key", "tail", "caveats", "owner"), lambda: book.find_card("far")),
        (book.party_file("bob"), ("public", "relay"), lambda: book.find_party("bob")),
        (book.grants_file("pi"), ("grants",), lambda: book.grants("pi")),
        (book.grants_file("pi"), ("id", "holder", "caveats"), lambda: book.grants("pi")),
    ):
        whole = path.read_text()
        for place in places:
            for bad in ("Z.", "-", -1, 1 << 33, True, [1], {"a": 1}, 1.5):
                data = json.loads(whole)
                inner = data if place in data else data["grant"] if "grant" in data else data["grants"][0]
                inner[place] = bad
                path.write_text(json.dumps(data))
                assert str(path) in _sentence(Exit.USAGE, ask), (path.name, place, bad)
        path.write_text(whole)
        ask()


def test_changes_of_grants_at_once_are_all_kept(tmp_path: Path) -> None:
    Book(tmp_path).save_card(CARD)

    def add(n: int) -> None:
        for at in range(10):
            one = [replace(ISSUED, id=bytes([n, at]) * 4)]
            Book(tmp_path).change_grants("pi", lambda card, grants, one=one: grants + one)  # type: ignore[misc]

    threads = [threading.Thread(target=add, args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({issued.id for issued in Book(tmp_path).grants("pi")}) == 30


def test_every_damaged_field_is_refused(tmp_path: Path) -> None:
    book = Book(tmp_path)
    book.save_identity(ME)
    good = json.loads(book.identity_file.read_text())
    places = [(good, key) for key in good] + [(good["relay"], key) for key in good["relay"]]
    wrong: tuple[object, ...] = (None, "zz", [], "00")
    for table, key in places:
        value = table[key]
        for bad in wrong:
            if (key == "relay" and bad is None) or key in ("name", "host", "password"):
                continue  # no relay yet is whole; a text may be any
            table[key] = bad
            book.identity_file.write_text(json.dumps(good))
            assert str(book.identity_file) in _sentence(Exit.USAGE, book.find_identity), key
        del table[key]
        book.identity_file.write_text(json.dumps(good))
        if key != "relay":
            _sentence(Exit.USAGE, book.find_identity)
        table[key] = value
    for text in ("", "[]", "{", "\xff"):
        book.identity_file.write_text(text, encoding="latin-1")
        _sentence(Exit.USAGE, book.find_identity)


def test_a_file_open_to_others_is_refused(tmp_path: Path) -> None:
    book = Book(tmp_path)
    book.save_card(CARD)
    for mode in (0o640, 0o604, 0o620):
        book.card_file("pi").chmod(mode)
        assert "chmod 600" in _sentence(Exit.USAGE, lambda: book.find_card("pi"))


def test_changes_at_once_are_all_kept(tmp_path: Path) -> None:
    Book(tmp_path).save_card(CARD)

    def change(n: int) -> None:
        book = Book(tmp_path)
        for _ in range(20):
            card = book.device("pi")
            book.change_card("pi", **({"verified": True} if n else {"last_seen": card.last_seen}))

    Book(tmp_path).change_card("pi", verified=False)
    threads = [threading.Thread(target=change, args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Book(tmp_path).find_card("pi") == CARD


def test_a_card_removed_meanwhile_does_not_come_back(tmp_path: Path) -> None:
    book = Book(tmp_path)
    assert "zts enroll @pi" in _sentence(Exit.USAGE, lambda: book.change_card("pi", verified=True))
    assert not book.card_file("pi").exists()


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "ZTS_HOME" in _sentence(Exit.USAGE, lambda: Book(tmp_path / "file" / "home").save_identity(ME))
    (tmp_path / ".lock").mkdir()
    book = Book(tmp_path)
    assert "ZTS_HOME" in _sentence(Exit.USAGE, lambda: book.change_card("pi", verified=True))
    assert "ZTS_HOME" in _sentence(Exit.USAGE, lambda: book.remove_card("pi"))
