"""`zts ls` and `zts remove`: what this computer knows, and how it forgets it."""

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

from zts import wire
from zts_gateway import addressbook, broker, granting
from zts_gateway.addressbook import Book, Card
from zts_gateway.asking import confirm
from zts_gateway.enrolling import parse_name
from zts_gateway.running import run
from zts_gateway.ui import print_table, say

_KINDS = {
    wire.SERVICE_TCP: "tcp",
    wire.SERVICE_HANDLER: "handler",
    wire.SERVICE_HTTP: "http",
    wire.SERVICE_SERIAL: "serial",
    wire.SERVICE_REPL: "repl",
}


def add_commands(add: Callable[..., argparse.ArgumentParser]) -> None:
    listing = add("ls", _ls, "list devices, whether they are online, and their services")
    listing.add_argument("--json", action="store_true", help="for programs")
    remove = add("remove", _remove, "forget a device or a party, or an enrolment that waits", "Asks first. The relay goes on knowing them.")
    remove.add_argument("name", metavar="@NAME")
    remove.add_argument("--yes", action="store_true", help="do not ask")


def _ls(arguments: argparse.Namespace) -> None:
    book = Book(addressbook.home())
    me, account = book.member()
    cards = book.cards()
    online = run(broker.present(me, account, [card.fp for card in cards if card.public]))
    rows = [_row(card, card.public != b"" and card.fp in online, addressbook.timestamp()) for card in cards]
    if arguments.json:
        print(json.dumps(rows), flush=True)
    elif rows:
        _table(rows, cards)
    else:
        say("no devices yet; `zts enroll @name` adds one")


def _row(card: Card, online: bool, now: str) -> dict[str, Any]:
    return {
        "name": card.name,
        "fp": card.fp if card.public else None,
        "online": online,
        "last_seen": now if online else card.last_seen,
        "verified": card.verified,
        "services": [{"name": name, "kind": _KINDS.get(kind, str(kind))} for kind, name in card.services],
        "grant": None if card.grant is None else granting.row(card.grant.terms),
    }


def _table(rows: list[dict[str, Any]], cards: list[Card]) -> None:
    now = int(time.time())
    granted = any(card.grant for card in cards)
    lines = []
    for row, card in zip(rows, cards, strict=True):
        state = "enrolling" if row["fp"] is None else "online" if row["online"] else "offline"
        note = "" if row["verified"] or row["fp"] is None else ", not verified"
        services = ", ".join(s["name"] for s in row["services"]) or "-"
        terms = granting.say(card.grant.terms, "you", now) if card.grant else "-"
        lines.append([f"@{row['name']}", state + note, row["last_seen"] or "never", services, *([terms] if granted else [])])
    print_table(["device", "state", "last seen", "services", *(["granted"] if granted else [])], lines)


def _remove(arguments: argparse.Namespace) -> None:
    book, name = Book(addressbook.home()), parse_name(arguments.name)
    party = book.find_party(name)
    if party:
        if confirm(f"Forget the party @{name} ({party.fp})?", arguments.yes):
            book.remove_party(name)
            say(f"forgot @{name} ({party.fp}); grants made for it stay: `zts grants @device` lists them")
        else:
            say(f"@{name} was kept")
        return
    card = book.card(name)
    what = f"@{name} ({card.fp})" if card.public else f"the enrolment of @{name} that waits"
    key = "the grant by which you may use it" if card.grant else "the key by which it knows this computer"
    made = len(book.grants(name))
    grants = f" It goes on taking the grants you made ({made}), of which nothing is known here then." if made else ""
    if not confirm(f"Forget {what}, and {key}?{grants}", arguments.yes):
        say(f"@{name} was kept")
        return
    book.remove_card(name)
    if card.grant:
        say(f"forgot {what}; whoever has its line can still give it to `zts add` here")
    elif card.public:
        say(f"forgot {what}; the relay still knows it, until its operator runs `zts-relay revoke {card.fp}`")
    else:
        say(
            f"forgot {what}; whoever has its line can still use it up at the relay, for a device that you cannot reach: "
            f"`zts-relay parties` lists such a one, `zts-relay revoke` throws it out"
        )
