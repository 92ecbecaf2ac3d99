"""`zts wifi`: gives a board one more Wi-Fi network, through its service `zts-wifi`. PROTOCOL.md, "The agent's own services"."""

import json

from zts_gateway import own_service
from zts_gateway.addressbook import Book, Card
from zts_gateway.listener import meet_and_note
from zts_gateway.ui import Exit, Failure, Progress

SERVICE = "zts-wifi"


def make_network(ssid: str, password: str) -> dict[str, str]:
    """Raises Failure."""
    if not 0 < len(ssid.encode()) <= 32 or len(password.encode()) not in (0, *range(8, 65)):
        raise Failure(Exit.USAGE, "a Wi-Fi network has a name of 1 to 32 bytes, and a password of 8 to 64 or none; correct it")
    return {"ssid": ssid, "password": password}


async def add(book: Book, card: Card, network: dict[str, str]) -> str:
    """Gives a sentence for the person. Raises Failure: it was not stored, or that is not known."""
    me, account = book.member()
    with Progress() as progress:
        meeting = await meet_and_note(book, me, account, card, 0, progress.step)
    try:
        denied = "takes no Wi-Fi network: it has none configured, or is not yours; `zts flash` gives it its first one"
        said = await own_service.ask(meeting, SERVICE, (json.dumps(network) + "\n").encode(), denied)
    finally:
        await meeting.close()
    stored, names = said.get("stored"), said.get("networks", [])
    if stored is not True or not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise Failure(
            Exit.REFUSED, f"@{card.name} did not store the network ({said.get('error')!r:.40}); update it with `zts update @{card.name}`"
        )
    rest = ", ".join(names[1:])
    listed = "".join(c for c in rest if c.isprintable())
    after = f", and after it {listed}" if listed else ""
    return f"@{card.name} has stored the network and tries it first from its next start of the Wi-Fi on{after}"
