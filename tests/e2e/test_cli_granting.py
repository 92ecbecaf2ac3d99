"""`zts card`, `add`, `grant`, `grants` and `remove` as two people use them. Their identities are made here: no relay is asked."""

import json
import re
import time
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import pytest

import whole_network
from relay_process import RelayProcess
from terminal import Terminal
from whole_network import failed
from zts import crypto, grant, identity, wire
from zts_gateway import introduction
from zts_gateway.addressbook import Book, Card, Identity, Party
from zts_in_process import zts

RELAY = bytes(range(32))


class Pair(NamedTuple):
    """Two computers at one relay; @alice has the device @pi."""

    alice: Path
    bob: Path


def _computer(folder: Path, name: str, relay: bytes = RELAY) -> Path:
    private = crypto.sha256(name.encode())
    account = identity.Account(relay, "127.0.0.1", 1, bytes(8), bytes(32), "password", b"", "mqtt://:1")
    Book(folder / name).save_identity(Identity(name, private, crypto.x25519_public(private), account))
    return folder / name


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    pair = Pair(_computer(tmp_path, "alice"), _computer(tmp_path, "bob"))
    services = ((wire.SERVICE_HTTP, "http"), (wire.SERVICE_SERIAL, "console"))
    Book(pair.alice).save_card(Card("pi", crypto.x25519_public(b"pi" * 16), b"p" * 32, True, services))
    return pair


def _card(home: Path) -> str:
    done = zts(home, "card")
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"zts1c:[\w-]{43}@[a-z2-7]{24}/[a-z]+\n", done.stdout)
    return done.stdout


def _known(pair: Pair) -> None:
    bob = Book(pair.bob).member()[0]
    Book(pair.alice).save_party(Party("bob", bob.public, identity.fingerprint_text(RELAY)))


def test_a_card_is_shown_asked_about_and_kept(pair: Pair) -> None:
    card = _card(pair.bob)
    fp = json.loads(zts(pair.bob, "whoami", "--json").stdout)["fp"]
    assert "--yes" in failed(zts(pair.alice, "add", card), 2)  # nobody to ask
    assert not (pair.alice / "parties").exists()
    done = zts(pair.alice, "add", "--line-file", "-", "--yes", stdin=card)
    assert done.returncode == 0 and done.stdout == "" and fp in done.stderr
    assert Book(pair.alice).party("bob").fp == fp
    assert "already" in zts(pair.alice, "add", card).stderr
    # Its own, under another name too.
    for name in ((), ("--as", "@x")):
        assert "own card" in failed(zts(pair.bob, "add", card, *name), 2)


def test_a_changed_key_is_refused_until_the_party_is_removed(pair: Pair, tmp_path: Path) -> None:
    _known(pair)
    (tmp_path / "new").mkdir()
    other = Book(tmp_path / "new")
    other.save_identity(Identity("bob", bytes(32), b"n" * 32, Book(pair.bob).member()[1]))
    card = _card(other.folder)
    last = failed(zts(pair.alice, "add", "--yes", card), 7)
    assert "zts remove @bob" in last and identity.fingerprint_text(b"n" * 32) in last
    assert "--yes" in failed(zts(pair.alice, "remove", "@bob"), 2)
    done = zts(pair.alice, "remove", "@bob", "--yes")
    assert done.returncode == 0 and "forgot @bob" in done.stderr
    assert zts(pair.alice, "add", "--yes", card).returncode == 0
    assert Book(pair.alice).party("bob").public == b"n" * 32


def test_another_relay_is_refused(pair: Pair, tmp_path: Path) -> None:
    far = _computer(tmp_path, "eve", RELAY[::-1])
    assert "another relay" in failed(zts(pair.alice, "add", "--yes", _card(far)), 2)


@pytest.mark.parametrize("line", ["", "hello", "zts1c:AAAA@x/y", "zts1:AAAA@relay:1", "@bob"])
def test_what_is_no_card(pair: Pair, line: str) -> None:
    assert "zts card" in failed(zts(pair.alice, "add", line), 2)
    assert "zts card" in failed(zts(pair.alice, "add", "--line-file", "-", stdin=line), 2)


def test_a_grant_is_made_recorded_and_taken_up(pair: Pair) -> None:
    _known(pair)
    before = int(time.time())
    options = ("--for", "7d", "--max-bytes", "10M", "--streams", "2", "--idle", "5m")
    done = zts(pair.alice, "grant", "@bob", "@pi:http", *options)
    assert done.returncode == 0, done.stderr
    line = introduction.parse_grant(done.stdout)
    assert done.stdout == introduction.format_grant(line) + "\n" and done.stdout.strip() not in done.stderr
    for words in ("@bob", "@pi", "http", "in 7 days", "10 MiB", "2 streams", "5 minutes"):
        assert words in done.stderr
    terms = grant.read(line.caveats)
    assert before + 7 * 86_400 <= terms.until <= time.time() + 7 * 86_400
    (row,) = json.loads(zts(pair.alice, "grants", "@pi", "--json").stdout)
    assert row.pop("made").startswith("20")
    assert row == {
        "id": line.id.hex(),
        "holder": "bob",
        "fp": Book(pair.alice).party("bob").fp,
        "member": False,
        "services": ["http"],
        "until": terms.until,
        "streams": 2,
        "max_bytes": 10 << 20,
        "idle": 300,
        "read_only": False,
        "taken_back": None,
        "state": "valid",
    }
    table = zts(pair.alice, "grants", "@pi").stdout
    assert re.search(rf"{line.id.hex()} +@bob +valid +http; until ", table)

    # It is a secret: on a command line others could read it.
    last = failed(zts(pair.bob, "add", "--yes", done.stdout.strip()), 2)
    assert "--line-file" in last and done.stdout.strip() not in last
    assert Book(pair.bob).cards() == []
    taken = zts(pair.bob, "add", "--line-file", "-", "--yes", stdin=done.stdout)
    assert taken.returncode == 0, taken.stderr
    for words in ("@pi", Book(pair.alice).device("pi").fp, "http", "10 MiB"):
        assert words in taken.stderr
    card = Book(pair.bob).device("pi")
    assert card.grant and card.grant.terms == terms and card.pairing == b""
    for path in pair.bob.rglob("*"):
        assert path.stat().st_mode & 0o077 == 0
    # Nobody but bob may take it up, and bob cannot pass it on.
    assert "works for nobody else" in failed(zts(pair.alice, "add", "--yes", "--line-file", "-", stdin=done.stdout), 7)
    Book(pair.bob).save_party(Party("eve", b"e" * 32, identity.fingerprint_text(RELAY)))
    assert "only its owner" in failed(zts(pair.bob, "grant", "@eve", "@pi"), 2)
    assert "@pi is the device of somebody else" in failed(zts(pair.bob, "enroll", "@pi"), 2)
    assert "zts add" in zts(pair.bob, "remove", "@pi", "--yes").stderr
    assert Book(pair.bob).cards() == []


def test_a_grants_name_that_is_taken(pair: Pair) -> None:
    _known(pair)
    line = zts(pair.alice, "grant", "@bob", "@pi").stdout
    Book(pair.bob).save_card(Card("pi", b"x" * 32, bytes(32)))
    add = ("add", "--line-file", "-", "--yes")
    assert "--as" in failed(zts(pair.bob, *add, stdin=line), 7)
    assert zts(pair.bob, *add, "--as", "@far-pi", stdin=line).returncode == 0
    assert Book(pair.bob).device("far-pi").grant and not Book(pair.bob).device("pi").grant


@pytest.mark.parametrize(
    "arguments, hint",
    [
        (("@eve", "@pi"), "zts card"),
        (("@bob", "@ghost"), "@ghost"),
        (("@bob", "@bob"), "no device @bob"),
        (("@bob", "@pi:"), "@pi:http"),
        (("@bob", "@pi:HTTP"), "name"),
        (("@bob", "@pi:http,*"), "name"),
        (("@bob", "@pi:zts-status"), "owner's alone"),
        (("@Bob", "@pi"), "name"),
        (("@bob", "@pi:http", "--ro"), "serial"),
        (("@bob", "@pi", "--for", "0d"), "leaves nothing"),
        (("@bob", "@pi", "--for", "-1d"), ""),
        (("@bob", "@pi", "--for", "200w", "--until", "2090-01-01"), "not allowed"),
        (("@bob", "@pi", "--for", "6000w"), "2106"),
        (("@bob", "@pi", "--until", "2020-01-01"), "to come"),
        (("@bob", "@pi", "--until", "soon"), "2026-12-31"),
        (("@bob", "@pi", "--max-bytes", "10m"), "size"),
        (("@bob", "@pi", "--streams", "0"), "nothing"),
        (("@bob", "@pi", "--streams", "256"), "255"),
        (("@bob", "@pi", "--idle", "1d"), "65535 seconds"),
    ],
)
def test_grants_that_are_refused(pair: Pair, arguments: tuple[str, ...], hint: str) -> None:
    _known(pair)
    done = zts(pair.alice, "grant", *arguments)
    assert hint in failed(done, 2) and done.stdout == ""
    assert not (pair.alice / "grants").exists()


def test_a_service_not_heard_of_is_noted(pair: Pair) -> None:
    _known(pair)
    done = zts(pair.alice, "grant", "@bob", "@pi:htp")
    assert done.returncode == 0 and "no service htp" in done.stderr and "http, console" in done.stderr
    for quiet in ("@pi:*", "@pi:http", "@pi"):
        assert "note" not in zts(pair.alice, "grant", "@bob", quiet).stderr
    assert "no grants" not in zts(pair.alice, "grants", "@pi").stdout


@pytest.mark.parametrize(
    "target, member, services, words",
    [
        ("@pi", True, None, "what the rules give @bob"),
        ("@pi:*", False, None, "every service"),
        ("@pi:http,console", False, ["http", "console"], ""),
    ],
)
def test_members_and_services(pair: Pair, target: str, member: bool, services: "list[str] | None", words: str) -> None:
    _known(pair)
    done = zts(pair.alice, "grant", "@bob", target)
    terms = grant.read(introduction.parse_grant(done.stdout).caveats)
    assert (terms.member, terms.services) == (member, services) and words in done.stderr


def test_a_removed_device_takes_its_grants_along(pair: Pair) -> None:
    _known(pair)
    assert "no grants for @pi yet" in zts(pair.alice, "grants", "@pi").stderr
    zts(pair.alice, "grant", "@bob", "@pi")
    assert zts(pair.alice, "remove", "@pi", "--yes").returncode == 0
    assert Book(pair.alice).grants("pi") == []


def test_at_a_terminal(pair: Pair) -> None:
    """A grant is asked for and not shown; what it says is, and then comes a question."""
    _known(pair)
    line = zts(pair.alice, "grant", "@bob", "@pi:http", "--for", "2d").stdout.strip()
    for answer, kept in (("n", 0), ("", 0), ("y", 1)):
        with Terminal(pair.bob, "add") as add:
            add.wait_for("not shown")
            add.type(line)
            add.wait_for("[y/N]")
            assert line not in add.said and "http; until" in add.said and Book(pair.alice).device("pi").fp in add.said
            add.type(answer)
            assert add.end() == 0
        assert len(Book(pair.bob).cards()) == kept, answer


def test_at_a_relay(tmp_path: Path) -> None:
    """From joining on, each command a process of its own; and the guest's backup is the guest on another computer."""
    alice, bob, moved = tmp_path / "alice", tmp_path / "bob", tmp_path / "moved"
    with RelayProcess(tmp_path / "relay") as relay:
        assert relay.join

        def run(home: Path, *arguments: str, stdin: str = "") -> str:
            done = whole_network.zts(home, *arguments, stdin=stdin)
            assert done.returncode == 0, done.stderr
            return done.stdout

        run(alice, "join", "--name", "@alice", "--code-file", "-", stdin=relay.join)
        run(bob, "join", "--name", "@bob", "--code-file", "-", stdin=relay.new_code())
        Book(alice).save_card(Card("pi", crypto.x25519_public(b"pi" * 16), b"p" * 32))
        run(alice, "add", "--yes", run(bob, "card").strip())
        line = run(alice, "grant", "@bob", "@pi:http", "--until", "2090-12-31")
        run(bob, "add", "--yes", "--line-file", "-", stdin=line)
        whole_network.until(lambda: whole_network.zts(bob, "ls").returncode == 0, "the broker knows @bob")
        (row,) = json.loads(run(bob, "ls", "--json"))
        assert (row["name"], row["fp"], row["online"], row["verified"]) == ("pi", Book(alice).device("pi").fp, False, False)
        until = int(datetime(2091, 1, 1).timestamp())
        none = {"streams": None, "max_bytes": None, "idle": None, "read_only": False}
        assert row["grant"] == {"member": False, "services": ["http"], "until": until, **none}
        assert re.search(r"@pi +offline, not verified +never +- +http; until 2091-01-01 00:00 ", run(bob, "ls"))
        assert "granted" not in run(alice, "ls") and "granted" in run(bob, "ls")

        run(bob, "backup", str(tmp_path / "file"), "--passphrase-file", "-", stdin="correct horse")
        run(moved, "restore", str(tmp_path / "file"), "--passphrase-file", "-", stdin="correct horse")
        assert run(moved, "ls") == run(bob, "ls") and run(moved, "whoami") == run(bob, "whoami")
