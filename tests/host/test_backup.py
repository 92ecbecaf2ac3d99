"""One file that is an owner: it comes back whole or not at all, and only with its passphrase."""

import json
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from terminal import Terminal
from whole_network import failed
from zts import crypto, identity
from zts.errors import FormatError
from zts.grant import Terms
from zts_gateway import backup, granting
from zts_gateway.addressbook import Book, Card, Identity, Party
from zts_gateway.ui import Exit, Failure
from zts_in_process import zts

CHEAP = 1 << 4  # of scrypt: what is tested here is not its price
PASSPHRASE = "correct horse"
RELAY = bytes(range(32))
RULES = '# r\u00fcles\n[[rules]]\ndevices = ["@pi"]\nwho = ["@bob"]\nservices = "*"\n'


@pytest.fixture
def book(tmp_path: Path) -> Book:
    book = Book(tmp_path / "home")
    account = identity.Account(RELAY, "127.0.0.1", 1, bytes(8), bytes(32), "password", b"", "mqtt://:1")
    book.save_identity(Identity("alice", b"a" * 32, crypto.x25519_public(b"a" * 32), account))
    book.save_party(Party("bob", b"b" * 32, identity.fingerprint_text(RELAY)))
    book.save_card(Card("pi", b"d" * 32, b"p" * 32, True, policy_seq=4, generation=2))
    granting.issue(book, book.party("bob"), "pi", Terms(identity.fingerprint(b"b" * 32), True, None, 0, 0, 0, 0, False))
    book.policy_file.write_text(RULES, encoding="utf-8")
    book.policy_file.chmod(0o600)
    (book.folder / "policy.draft.toml").write_text("not kept")
    return book


def _files(folder: Path) -> dict[str, str]:
    kept = ("identity.json", "policy.toml", "devices/pi.json", "parties/bob.json", "grants/pi.json")
    return {name: (folder / name).read_text(encoding="utf-8") for name in kept if (folder / name).exists()}


def _refused(code: Exit, work) -> str:  # type: ignore[no-untyped-def]
    with pytest.raises(Failure) as caught:
        work()
    assert caught.value.code == code
    return str(caught.value)


def test_everything_comes_back(book: Book, tmp_path: Path) -> None:
    contents = backup.open_(backup.seal(backup.collect(book), PASSPHRASE, CHEAP), PASSPHRASE, CHEAP)
    other = Book(tmp_path / "other")
    names = backup.spread(other, contents)
    assert _files(other.folder) == _files(book.folder) and names == sorted(_files(book.folder)) and len(names) == 5
    assert (other.cards(), other.parties(), other.grants("pi")) == (book.cards(), book.parties(), book.grants("pi"))
    assert not (other.folder / "policy.draft.toml").exists()
    for path in (other.folder, *other.folder.rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_the_file_is_as_it_is_described(book: Book) -> None:
    """By another reading of the same words; at the real price, once."""
    contents = backup.collect(book)
    data = backup.seal(contents, PASSPHRASE)
    head, sealed, total = data[:37], data[37:-32], data[-32:]
    assert head[:9] == b"ZTSbackp\1" and total == crypto.sha256(head + sealed)
    key = Scrypt(salt=head[9:25], length=32, n=131_072, r=8, p=1).derive(PASSPHRASE.encode())
    assert AESGCM(key).decrypt(head[25:37], sealed, head) == contents
    assert backup.open_(data, PASSPHRASE) == contents
    for secret in (b"a" * 32, b"p" * 32, b"61" * 32, b"70" * 32, b"alice", b"bob"):
        assert secret not in data
    assert backup.seal(contents, PASSPHRASE, CHEAP)[9:37] != backup.seal(contents, PASSPHRASE, CHEAP)[9:37]


def test_every_flipped_byte_and_every_cut_is_refused() -> None:
    good = backup.seal(b"x" * 40, PASSPHRASE, CHEAP)
    for at in range(len(good)):
        for flip in (1, 0x80, 0xFF):
            changed = good[:at] + bytes([good[at] ^ flip]) + good[at + 1 :]
            with pytest.raises(FormatError):
                backup.open_(changed, PASSPHRASE, CHEAP)
            # And by somebody who mends the checksum.
            mended = changed[:-32] + crypto.sha256(changed[:-32])
            if at < len(good) - 32:
                with pytest.raises(FormatError if at < 9 else backup.WrongPassphrase):
                    backup.open_(mended, PASSPHRASE, CHEAP)
    for size in range(len(good)):
        with pytest.raises(FormatError):
            backup.open_(good[:size], PASSPHRASE, CHEAP)
        mended = good[:size] + crypto.sha256(good[:size])
        if size != len(good) - 32:
            with pytest.raises((FormatError, backup.WrongPassphrase)):
                backup.open_(mended, PASSPHRASE, CHEAP)
    with pytest.raises(FormatError):
        backup.open_(good + b"\0", PASSPHRASE, CHEAP)


def test_another_passphrase_or_cost_opens_nothing() -> None:
    good = backup.seal(b"x", "p\u00e4ssword", CHEAP)
    assert backup.open_(good, "pa\u0308ssword", CHEAP) == b"x"  # the same text from another keyboard
    for passphrase, cost in (
        ("password", CHEAP),
        ("P\u00e4ssword", CHEAP),
        ("p\u00e4ssword ", CHEAP),
        ("", CHEAP),
        ("p\u00e4ssword", CHEAP * 2),
    ):
        with pytest.raises(backup.WrongPassphrase):
            backup.open_(good, passphrase, cost)


def test_nothing_is_overwritten(book: Book, tmp_path: Path) -> None:
    contents = backup.collect(book)
    before = _files(book.folder)
    assert "already" in _refused(Exit.USAGE, lambda: backup.spread(book, contents))
    for name in before:
        other = Book(tmp_path / name.replace("/", "-"))
        path = other.folder / name
        path.parent.mkdir(parents=True)
        path.write_text("{}")
        assert str(path) in _refused(Exit.USAGE, lambda other=other: backup.spread(other, contents))
        assert _files(other.folder) == {name: "{}"}
    assert _files(book.folder) == before


def test_a_restore_that_fails_leaves_nothing(book: Book, tmp_path: Path) -> None:
    files = json.loads(backup.collect(book))["files"]
    for name, text in (("devices/pi.json", "{}"), ("parties/bob.json", "["), ("identity.json", "{}"), ("grants/pi.json", '{"grants": 1}')):
        other = Book(tmp_path / "other")
        contents = json.dumps({"files": files | {name: text}}).encode()
        assert "damaged" in _refused(Exit.USAGE, lambda other=other, contents=contents: backup.spread(other, contents))
        assert _files(other.folder) == {}


@pytest.mark.parametrize(
    "contents",
    [
        b"",
        b"[]",
        b"{}",
        b'{"files": []}',
        b'{"files": {}}',
        b'{"files": {"policy.toml": ""}}',
        b'{"files": {"identity.json": 1}}',
        *(
            json.dumps({"files": {"identity.json": "{}", name: ""}}).encode()
            for name in (
                "../x.json",
                "/etc/passwd",
                "devices/../../x.json",
                "devices/.x.json",
                "devices/X.json",
                "keys/x.json",
                "policy.toml\n",
                "",
            )
        ),
    ],
)
def test_other_contents_are_refused(tmp_path: Path, contents: bytes) -> None:
    assert "update zts" in _refused(Exit.USAGE, lambda: backup.spread(Book(tmp_path / "home"), contents))
    assert not (tmp_path / "home").exists()


def test_a_book_that_is_damaged_is_not_backed_up(book: Book, tmp_path: Path) -> None:
    assert "zts join" in _refused(Exit.USAGE, lambda: backup.collect(Book(tmp_path / "empty")))
    for path, bad in (
        (book.card_file("pi"), b"{"),
        (book.party_file("bob"), b"{"),
        (book.grants_file("pi"), b"{"),
        (book.policy_file, b"\xff"),
    ):
        whole = path.read_bytes()
        path.write_bytes(bad)
        assert str(path) in _refused(Exit.USAGE, lambda: backup.collect(book))
        path.write_bytes(whole)


# --- the commands ----------------------------------------------------------------------------------------------------------------


def test_backup_and_restore(book: Book, tmp_path: Path) -> None:
    file, phrase = tmp_path / "alice.backup", tmp_path / "phrase"
    phrase.write_text(PASSPHRASE + "\n")
    options = ("--passphrase-file", str(phrase))
    done = zts(book.folder, "backup", str(file), *options)
    assert done.returncode == 0 and done.stdout == "" and str(file) in done.stderr
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    data = file.read_bytes()
    assert "overwrites nothing" in failed(zts(book.folder, "backup", str(file), *options), 2)
    assert file.read_bytes() == data
    # On another computer.
    other = tmp_path / "other"
    assert "not the passphrase" in failed(zts(other, "restore", str(file), "--passphrase-file", "-", stdin="wrong horse\n"), 7)
    assert not other.exists()
    done = zts(other, "restore", str(file), "--passphrase-file", "-", stdin=PASSPHRASE + "\r\n")
    assert done.returncode == 0 and "@alice" in done.stderr and "1 devices and 1 parties" in done.stderr
    assert _files(other) == _files(book.folder)
    assert zts(other, "whoami").stdout == zts(book.folder, "whoami").stdout
    # Where somebody is already.
    assert "@alice already" in failed(zts(other, "restore", str(file), *options), 2)


def test_what_cannot_be_done_is_said_in_a_sentence(book: Book, tmp_path: Path) -> None:
    file = tmp_path / "file"
    other = tmp_path / "other"
    for data, hint in (
        (b"", "no backup"),
        (b"hello", "no backup"),
        (b"ZTSbackp", "damaged"),
        (b"ZTSbackp\2" + bytes(100), "later version"),
        (b"ZTSbackp\1" + bytes(100), "damaged"),
    ):
        file.write_bytes(data)
        assert hint in failed(zts(other, "restore", str(file)), 2)
    assert "cannot read" in failed(zts(other, "restore", str(tmp_path / "none")), 2)
    assert "zts join" in failed(zts(other, "backup", str(tmp_path / "none")), 2)
    new = tmp_path / "new"
    for phrase, hint in (("short\n", "8 characters"), ("", "8 characters")):
        assert hint in failed(zts(book.folder, "backup", str(new), "--passphrase-file", "-", stdin=phrase), 2)
    assert "--passphrase-file" in failed(zts(book.folder, "backup", str(new)), 2)  # no terminal to ask at
    assert "cannot write" in failed(
        zts(book.folder, "backup", str(tmp_path / "no" / "where"), "--passphrase-file", "-", stdin=PASSPHRASE), 2
    )
    assert not new.exists() and not other.exists()


def test_a_passphrase_is_asked_for_twice_and_not_shown(book: Book, tmp_path: Path) -> None:
    file = tmp_path / "file"
    for second, code in (("correct house", 2), (PASSPHRASE, 0)):
        with Terminal(book.folder, "backup", str(file)) as asked:
            asked.wait_for("passphrase")
            asked.type(PASSPHRASE)
            asked.wait_for("again")
            asked.type(second)
            assert asked.end() == code
            assert "horse" not in asked.said
        assert file.exists() == (code == 0)
    assert backup.open_(file.read_bytes(), PASSPHRASE) == backup.collect(book)
