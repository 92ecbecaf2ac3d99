"""The laptop's files: whole, private, and refused when they are damaged."""

import json
import threading
from pathlib import Path

import pytest

from zts import crypto, identity
from zts_gateway.addressbook import Book, Card, Identity, Pending
from zts_gateway.ui import Exit, Failure

KEY = bytes(range(32))
ACCOUNT = identity.Account(KEY, "relay.example", 7440, bytes(8), KEY[::-1], "password", KEY, "mqtts://:7441")
ME = Identity("alice", KEY, crypto.x25519_public(KEY), ACCOUNT)
CARD = Card("pi", KEY, KEY[::-1], True, ((1, "ssh"), (2, "page")), "2026-01-02T03:04:05Z")


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


@pytest.mark.parametrize("card", [CARD, Card("pi", b"", KEY, pending=Pending(bytes(16), 1_800_000_000))])
def test_card_comes_back(tmp_path: Path, card: Card) -> None:
    book = Book(tmp_path)
    assert book.find_card("pi") is None and book.cards() == []
    book.save_card(card)
    assert book.find_card("pi") == card and book.cards() == [card]
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["devices", "pi.json"]


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
