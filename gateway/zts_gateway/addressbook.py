"""What a laptop keeps: its identity, a card for each device and each party, and the grants it made, each a JSON file, in one folder.

Two `zts` processes at once are normal: every file is replaced whole, and a change reads it again under a lock.
"""

import json
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from platformdirs import user_config_path

from zts import identity
from zts_gateway import private_files
from zts_gateway.entries import (
    Card,
    Held,
    Identity,
    Issued,
    Party,
    Pending,
    decode_card,
    decode_identity,
    decode_issued,
    decode_party,
    encode_card,
    encode_identity,
    encode_issued,
    encode_party,
)
from zts_gateway.private_files import damaged
from zts_gateway.ui import Exit, Failure

__all__ = ["Book", "Card", "Held", "Identity", "Issued", "Party", "Pending", "home", "timestamp"]


def home() -> Path:
    """ZTS_HOME, else the platform's folder for configuration."""
    moved = os.environ.get("ZTS_HOME")
    return Path(moved) if moved else user_config_path("zts", appauthor=False)


def timestamp() -> str:
    """Now, RFC 3339, UTC, to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Book:
    """The folder. Raises Failure(USAGE) for files that are damaged or open to others."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.identity_file = folder / "identity.json"
        self.cards_folder = folder / "devices"
        self.parties_folder = folder / "parties"
        self.grants_folder = folder / "grants"
        self.policy_file = folder / "policy.toml"

    # --- the identity ----------------------------------------------------------------------------------------------------

    def find_identity(self) -> Identity | None:
        """The identity, whole or still without an account; None before the first `zts join`."""
        data = private_files.read(self.identity_file)
        if data is None:
            return None
        with damaged(self.identity_file):
            return decode_identity(data)

    def save_identity(self, me: Identity) -> None:
        self._write(self.identity_file, encode_identity(me))

    def member(self) -> tuple[Identity, identity.Account]:
        """The identity and its account. Raises Failure when this laptop has not joined."""
        me = self.find_identity()
        if me is None or me.account is None:
            raise Failure(
                Exit.USAGE, "this computer has no identity yet; run `zts join --name @you` with a join code from `zts-relay code`"
            )
        return me, me.account

    # --- the cards ---------------------------------------------------------------------------------------------------------

    def card_file(self, name: str) -> Path:
        return self.cards_folder / f"{name}.json"

    def find_card(self, name: str) -> Card | None:
        path = self.card_file(name)
        data = private_files.read(path)
        if data is None:
            return None
        with damaged(path):
            return decode_card(name, data)

    def card(self, name: str) -> Card:
        """A device, enrolled or not. Raises Failure when there is no card."""
        card = self.find_card(name)
        if card is None:
            known = ", ".join(f"@{c.name}" for c in self.cards())
            have = f"the ones here are {known}" if known else "there are none here yet"
            raise Failure(Exit.USAGE, f"no device @{name}: {have}; `zts enroll @{name}` adds it")
        return card

    def device(self, name: str) -> Card:
        """A device that has enrolled. Raises Failure otherwise."""
        card = self.card(name)
        if not card.public:
            raise Failure(Exit.USAGE, f"@{name} has not enrolled yet; run `zts enroll @{name}` again to go on with it")
        return card

    def cards(self) -> list[Card]:
        names = sorted(path.stem for path in self.cards_folder.glob("*.json"))
        return [card for name in names if (card := self.find_card(name))]

    def save_card(self, card: Card) -> None:
        self._write(self.card_file(card.name), encode_card(card))

    def change_card(self, name: str, **changes: Any) -> Card:
        """Changes some fields of a card as it is now on disk. Raises Failure when it has been removed meanwhile."""
        with self.locked():
            card = replace(self.device(name), **changes)
            self.save_card(card)
        return card

    def remove_card(self, name: str) -> None:
        with self.locked():
            self.card_file(name).unlink(missing_ok=True)
            self.grants_file(name).unlink(missing_ok=True)

    # --- parties -----------------------------------------------------------------------------------------------------------

    def party_file(self, name: str) -> Path:
        return self.parties_folder / f"{name}.json"

    def find_party(self, name: str) -> Party | None:
        path = self.party_file(name)
        data = private_files.read(path)
        if data is None:
            return None
        with damaged(path):
            return decode_party(name, data)

    def party(self, name: str) -> Party:
        """Raises Failure when there is none."""
        party = self.find_party(name)
        if party is None:
            raise Failure(Exit.USAGE, f"no party @{name} here: ask for the line that `zts card` prints there, and give it to `zts add`")
        return party

    def parties(self) -> list[Party]:
        names = sorted(path.stem for path in self.parties_folder.glob("*.json"))
        return [party for name in names if (party := self.find_party(name))]

    def save_party(self, party: Party) -> None:
        self._write(self.party_file(party.name), encode_party(party))

    def remove_party(self, name: str) -> None:
        with self.locked():
            self.party_file(name).unlink(missing_ok=True)

    # --- grants we made ----------------------------------------------------------------------------------------------------

    def grants_file(self, name: str) -> Path:
        return self.grants_folder / f"{name}.json"

    def grants(self, name: str) -> list[Issued]:
        """All that were ever made for this device, the oldest first."""
        path = self.grants_file(name)
        data = private_files.read(path)
        if data is None:
            return []
        with damaged(path):
            return [decode_issued(entry) for entry in data["grants"]]

    def change_grants(self, name: str, change: Callable[[Card, list[Issued]], list[Issued]]) -> None:
        """Writes what `change` makes of a device's card and grants as they are now on disk. Raises Failure when it was removed."""
        with self.locked():
            grants = change(self.device(name), self.grants(name))
            self._write(self.grants_file(name), {"grants": [encode_issued(issued) for issued in grants]})

    # --- files -------------------------------------------------------------------------------------------------------------

    def locked(self) -> AbstractContextManager[None]:
        """Nobody else changes anything meanwhile; nor may this book, by a method that changes what is there."""
        return private_files.locked(self.folder)

    def _write(self, path: Path, data: dict[str, Any]) -> None:
        private_files.write(path, json.dumps(data, indent=1))
