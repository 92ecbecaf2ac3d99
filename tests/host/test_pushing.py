"""Policies on their way: two processes of one owner, devices that lie, files that are broken, and books that are older than the device."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from zts import crypto, identity, wire
from zts.policy import Policy
from zts_gateway import granting, own_service, policy_book, pushing
from zts_gateway.addressbook import Book, Card, Identity, Party
from zts_gateway.cli_owner import _take_back
from zts_gateway.ui import Exit, Failure

RELAY = bytes(range(32))


class Device:
    """What zts-policy says, as a device without a mistake would."""

    name = "pi"

    def __init__(self) -> None:
        self.policy = Policy()
        self.before: Any = None  # called before it answers
        self.lie: dict[str, Any] | None = None

    async def ask(self, meeting: "Device", name: str, said: bytes, denied: str) -> dict[str, Any]:
        assert name == pushing.SERVICE and meeting is self
        if self.before:
            before, self.before = self.before, None
            before()
        fresh = Policy(said[4:])
        if self.lie is not None:
            return self.lie
        good = fresh.seq > self.policy.seq and fresh.generation >= self.policy.generation
        if good:
            self.policy = fresh
        return {"refused": "" if good else "older", "seq": self.policy.seq, "generation": self.policy.generation}


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Device:
    device = Device()
    monkeypatch.setattr(own_service, "ask", device.ask)
    return device


@pytest.fixture
def book(tmp_path: Path) -> Book:
    book = Book(tmp_path)
    private = crypto.sha256(b"alice")
    account = identity.Account(RELAY, "127.0.0.1", 1, bytes(8), bytes(32), "password", b"", "mqtt://:1")
    book.save_identity(Identity("alice", private, crypto.x25519_public(private), account))
    book.save_card(Card("pi", crypto.x25519_public(b"pi" * 16), b"p" * 32, True, ((wire.SERVICE_HTTP, "http"),)))
    for name in ("bob", "eve"):
        party = Party(name, crypto.x25519_public(crypto.sha256(name.encode())), identity.fingerprint_text(RELAY))
        book.save_party(party)
        granting.issue(book, party, "pi", granting.Terms(identity.fingerprint(party.public), False, None, 0, 0, 0, 0, False))
    return book


def _deliver(book: Book, device: Device) -> None:
    asyncio.run(pushing.deliver(book, device))  # type: ignore[arg-type]


def _revoked(book: Book, device: Device, who: str) -> bool:
    return all(device.policy.is_revoked(one.id) for one in book.grants("pi") if one.holder == who)


def test_what_is_taken_back_while_another_process_pushes_is_still_due(book: Book, device: Device) -> None:
    def meanwhile() -> None:
        _take_back(book, "pi", "eve")
        pushing.mark_due(book, "pi")

    _take_back(book, "pi", "bob")
    pushing.mark_due(book, "pi")
    device.before = meanwhile
    _deliver(book, device)
    assert _revoked(book, device, "bob") and not _revoked(book, device, "eve") and book.device("pi").policy_due
    _deliver(book, device)
    assert _revoked(book, device, "eve") and not book.device("pi").policy_due


def test_a_policy_that_cannot_be_made_is_due_until_it_can(book: Book, device: Device) -> None:
    book.policy_file.write_text("[[rules]\n")
    book.policy_file.chmod(0o600)
    _take_back(book, "pi", "bob")
    with pytest.raises(Failure) as failed:
        pushing.mark_due(book, "pi")
    assert failed.value.code == Exit.USAGE and book.device("pi").policy_due
    book.policy_file.unlink()
    assert "bob" in _take_back(book, "pi", "bob")  # again: the device has not heard of it
    _deliver(book, device)
    assert _revoked(book, device, "bob") and not book.device("pi").policy_due
    with pytest.raises(Failure, match="knows of no grant"):
        _take_back(book, "pi", "bob")


def test_an_older_book_does_not_bring_back_what_was_taken_back(book: Book, device: Device) -> None:
    pushing.mark_due(book, "pi")
    _deliver(book, device)
    old = json.loads(book.card_file("pi").read_text())
    book.change_card("pi", generation=1)
    pushing.mark_due(book, "pi")
    _deliver(book, device)
    assert device.policy.generation == 1
    book.card_file("pi").write_text(json.dumps(old))  # as `zts restore` might
    pushing.mark_due(book, "pi")
    _deliver(book, device)
    card = book.device("pi")
    assert device.policy.generation == card.generation == 1 and device.policy.seq == card.policy_seq and not card.policy_due
    assert _revoked(book, device, "bob") and _revoked(book, device, "eve")


def test_another_computers_later_policy_is_overtaken(book: Book, device: Device) -> None:
    book.change_card("pi", policy_seq=7)
    pushing.mark_due(book, "pi")
    _deliver(book, device)
    book.change_card("pi", policy_seq=2)
    pushing.mark_due(book, "pi")
    _deliver(book, device)
    assert device.policy.seq == book.device("pi").policy_seq == 10


@pytest.mark.parametrize("seq", [0xFFFFFFFF, 0xFFFFFFFE, 1 << 30, 1 << 40, -1, True, "9", None])
def test_a_device_that_lies_uses_up_no_numbers(book: Book, device: Device, seq: Any) -> None:
    pushing.mark_due(book, "pi")
    for generation in (0, 1 << 16, "1", None, True):
        device.lie = {"refused": "no", "seq": seq, "generation": generation}
        with pytest.raises(Failure) as failed:
            _deliver(book, device)
        assert failed.value.code == Exit.REFUSED
    card = book.device("pi")
    assert card.policy_due and card.policy_seq < 20 and card.generation == 0
    device.lie = None
    _deliver(book, device)
    assert not book.device("pi").policy_due


def test_the_last_number(book: Book, device: Device) -> None:
    book.change_card("pi", policy_seq=0xFFFFFFFF)
    with pytest.raises(Failure, match="enrol it anew"):
        pushing.mark_due(book, "pi")
    policy_book.compile_for(book, book.device("pi"))  # and one may still look
