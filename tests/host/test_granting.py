"""Grants that an owner makes: what stands in them is what was meant, and the device comes to the same tail."""

from pathlib import Path

import pytest

from zts import crypto, grant, identity, policy, wire
from zts.errors import FormatError
from zts.grant import Terms
from zts_gateway import enrolling, flashing, granting, introduction
from zts_gateway.addressbook import Book, Card, Held, Identity, Issued, Party
from zts_gateway.ui import Exit, Failure

NOW = 1_800_000_000
RELAY = bytes(range(32))
RELAY_FP = identity.fingerprint_text(RELAY)
ACCOUNT = identity.Account(RELAY, "relay.example", 7440, bytes(8), bytes(32), "password", b"", "mqtt://:1")
BOB = Party("bob", b"b" * 32, RELAY_FP)
BOB_FP = identity.fingerprint(BOB.public)
PAIRING = b"p" * 32
PI = Card("pi", b"d" * 32, PAIRING, services=((wire.SERVICE_HTTP, "http"), (wire.SERVICE_SERIAL, "console"), (wire.SERVICE_REPL, "repl")))
OWNER = b"o" * wire.FP_BYTES


def terms(services: "list[str] | None" = None, **limits: object) -> Terms:
    return Terms(BOB_FP, False, services, 0, 0, 0, 0, False)._replace(**limits)


MEMBER = terms(member=True)


@pytest.fixture
def book(tmp_path: Path) -> Book:
    book = Book(tmp_path)
    book.save_identity(Identity("alice", b"a" * 32, crypto.x25519_public(b"a" * 32), ACCOUNT))
    book.save_party(BOB)
    book.save_card(PI)
    return book


def _refused(code: Exit, work) -> str:  # type: ignore[no-untyped-def]
    with pytest.raises(Failure) as caught:
        work()
    assert caught.value.code == code
    return str(caught.value)


@pytest.mark.parametrize("text, names", [("http", ["http"]), ("http,ssh", ["http", "ssh"]), ("b,a,b", ["b", "a"]), ("*", None)])
def test_services(text: str, names: "list[str] | None") -> None:
    assert granting.parse_services(text) == names


@pytest.mark.parametrize(
    "text",
    [
        "",
        ",",
        "http,",
        ",http",
        "http,,ssh",
        "*,http",
        "http,*",
        "**",
        "@http",
        "HTTP",
        "http ssh",
        "http, ssh",
        "h\u0442tp",
        "h.",
        "zts-policy",
    ],
)
def test_no_services(text: str) -> None:
    with pytest.raises(FormatError):
        granting.parse_services(text)


@pytest.mark.parametrize(
    "meant",
    [
        terms(),
        MEMBER,
        terms(["http"], member=True),
        terms([]),
        terms(["http"]),
        terms(["http", "ssh"], until=NOW, streams=255, bytes=(1 << 64) - 1, idle=65535, read_only=True),
        terms(until=1),
        terms(read_only=True),
        terms(["x" * 32] * 4 + ["y" * 30]),
    ],
)
def test_caveats_say_what_is_meant(meant: Terms) -> None:
    assert grant.read(granting.encode(meant)) == meant


def test_too_many_services() -> None:
    for services in (["x" * 32] * 6, ["x" * 32] * 60, [f"s{n}" for n in range(50)]):
        assert "policy" in _refused(Exit.USAGE, lambda services=services: granting.encode(terms(services)))
    full = ["x" * 32] * 5 + ["y" * 15]
    assert len(granting.encode(terms(full))) == wire.CAVEATS_MAX_BYTES - 1
    _refused(Exit.USAGE, lambda: granting.encode(terms(full, until=NOW)))


def test_the_line_is_what_the_device_comes_to(book: Book) -> None:
    book.change_card("pi", generation=258)
    meant = terms(["http"], until=NOW)
    issued, text = granting.issue(book, BOB, "pi", meant)
    line = introduction.parse_grant(text)
    assert (line.name, line.public, line.relay, line.id) == ("pi", PI.public, RELAY_FP, issued.id)
    root = grant.root(PAIRING, grant.generation(line.id))
    assert grant.generation(line.id) == 258
    assert line.mac_key == grant.mac_key(root, line.id) and line.tail == grant.tail(root, line.id, line.caveats)
    assert grant.read(line.caveats) == meant
    decided = policy.decide(OWNER, policy.Policy(), BOB_FP, bytes(8), grant.read(line.caveats), "http", wire.SERVICE_HTTP, NOW - 1)
    assert decided == (wire.OK, policy.Limits(NOW, 0, 0, 0, False))
    # And the holder's own computer takes it.
    theirs = Book(book.folder / "bob")
    theirs.save_identity(Identity("bob", bytes(32), BOB.public, ACCOUNT))
    card = granting.keep_device(theirs, line, "pi", NOW - 1)
    assert card.grant == Held(line.id, line.mac_key, line.tail, line.caveats)


def test_every_grant_is_in_the_book_with_an_id_of_its_own(book: Book) -> None:
    made = [granting.issue(book, BOB, "pi", terms(["http"]))[0] for _ in range(5)]
    assert book.grants("pi") == made and len({issued.id for issued in made}) == 5
    assert all(issued.fp == BOB.fp and issued.holder == "bob" and issued.taken_back is None for issued in made)


def test_grants_that_are_refused(book: Book) -> None:
    book.save_card(Card("coming", b"", PAIRING))
    caveats = granting.encode(terms())
    book.save_card(Card("far", b"f" * 32, b"", grant=Held(bytes(8), bytes(32), bytes(32), caveats)))
    elsewhere = Party("eve", b"e" * 32, identity.base32(bytes(15)))
    for holder, name, meant, hint in (
        (BOB, "ghost", terms(), "no device @ghost"),
        (BOB, "coming", terms(), "not enrolled"),
        (BOB, "far", terms(), "somebody else"),
        (elsewhere, "pi", terms(), "another relay"),
        (BOB, "pi", terms(["http"], read_only=True), "@pi:http is no serial service"),
        (BOB, "pi", terms(["console", "repl"], read_only=True), "@pi:repl"),
        (BOB, "pi", terms(["x" * 32] * 6), "no room"),
    ):
        assert hint in _refused(Exit.USAGE, lambda holder=holder, name=name, meant=meant: granting.issue(book, holder, name, meant))
    assert book.grants("pi") == book.grants("far") == []
    for services in (["console"], ["console", "unheard-of"], None):
        granting.issue(book, BOB, "pi", terms(services, read_only=True))


def test_states() -> None:
    issued = Issued(b"\0\0grant1", "bob", granting.encode(terms(until=NOW)), "2026-01-02T03:04:05Z")
    endless = Issued(b"\0\0grant1", "bob", granting.encode(terms()), "2026-01-02T03:04:05Z")
    back = Issued(b"\0\0grant1", "bob", issued.caveats, issued.made, "2026-01-02T03:04:05Z")
    for card, one, now, expected in (
        (PI, issued, NOW - 1, "valid"),
        (PI, issued, NOW, "expired"),
        (PI, endless, 1 << 40, "valid"),
        (PI, back, NOW - 1, "taken back"),
        (PI, back, NOW, "taken back"),
        (Card("pi", PI.public, PAIRING, generation=1), issued, NOW - 1, "taken back"),
    ):
        assert granting.state(card, one, now) == expected


def test_in_words() -> None:
    for meant, words in (
        (MEMBER, ["what the rules give @bob", "without end"]),
        (terms(["http"], member=True), ["http, as far as the rules give it to @bob", "without end"]),
        (terms(), ["every service", "without end"]),
        (terms([]), ["nothing", "without end"]),
        (
            terms(["http", "ssh"], streams=1, bytes=10 << 20, idle=300),
            ["http, ssh", "1 stream at once", "10 MiB a session", "5 minutes of silence at most", "without end"],
        ),
        (
            terms(["console"], read_only=True, streams=2),
            ["console", "only reading, so only serial services", "2 streams at once", "without end"],
        ),
    ):
        assert granting.say(meant, "@bob", NOW).split("; ") == words
    said = granting.say(terms(["http"], until=NOW + 7200), "@bob", NOW)
    assert said.startswith("http; until 2027-01-15 ") and said.endswith(", in 2 hours")
    assert granting.row(terms(["http"], until=NOW)) == {
        "member": False,
        "services": ["http"],
        "until": NOW,
        "streams": None,
        "max_bytes": None,
        "idle": None,
        "read_only": False,
    }


def test_a_board_that_is_flashed_anew_goes_on_with_its_generation(book: Book) -> None:
    """It keeps its pairing secret, of which the grants are made: what was taken back must stay so."""
    card = book.change_card("pi", generation=3, policy_seq=5, verified=True)
    flashing._note_key(book, card, PI.public.hex())
    card = book.device("pi")
    assert (card.generation, card.policy_seq, card.pairing, card.verified) == (3, 5, PAIRING, False)


def test_names_of_others_are_not_for_devices_of_ours(book: Book) -> None:
    book.save_card(Card("far", b"f" * 32, b"", grant=Held(bytes(8), bytes(32), bytes(32), granting.encode(terms()))))
    enrolling.check_own(book, "pi")
    enrolling.check_own(book, "new")
    for name, hint in (("bob", "another party"), ("far", "the device of somebody else")):
        assert hint in _refused(Exit.USAGE, lambda name=name: enrolling.check_own(book, name))
        me, board = book.member()[0], {"main": "none", "saved": False, "state": None, "foreign_agent": False}
        assert hint in _refused(Exit.USAGE, lambda name=name, me=me, board=board: flashing._judge(book, me, name, board))
