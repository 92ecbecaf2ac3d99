"""What a board runs: `from zts_agent import main; main.main(folder, slots)`. The folder holds config.json; the state lies where it
says. `/main.py` of a board, which no update changes, calls it so.
"""

import asyncio
import gc
import json

# Modules stay, and what loading leaves behind lies between them. Collected only when the heap is full, it cuts the rest into runs too
# short for TLS (17 KB on an rp2) or, later, even for a record. Measured in 256 KiB on 64 bits: the longest run after loading is 76 KB
# without this and 120 KB with it, of 122 KB free, in the same time; less than 4096 only takes longer.
if hasattr(gc, "threshold"):
    gc.threshold(4096)

from zts import wire
from zts.errors import FormatError

from . import board
from .agent import Agent
from .keystore import Keystore
from .services import one_at_a_time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from zts.link import LinkStream

    from .services import Read, Serve


def read_config(path: str) -> "dict[str, Any]":
    """Raises FormatError."""
    try:
        with open(path) as file:
            config = json.load(file)
    except (ValueError, RuntimeError):  # RuntimeError: nested too deeply
        raise FormatError(f"{path} is not JSON")
    if not isinstance(config, dict) or not isinstance(config.get("identity"), dict) or not isinstance(config["identity"].get("state"), str):
        raise FormatError(f"{path}: identity.state says nothing")
    return config


def _read_serial(entry: "dict[str, Any]") -> "tuple[int, Serve]":
    from . import uart

    return uart.read_entry(entry)


def _read_repl(entry: "dict[str, Any]") -> "tuple[int, Serve]":
    if list(entry) != ["kind"]:
        raise FormatError("needs a kind and nothing else")
    return wire.SERVICE_REPL, one_at_a_time(_serve_repl)


async def _serve_repl(stream: "LinkStream") -> None:
    from . import repl  # for its first client: it takes a tenth of the heap

    await repl.REPL.serve(stream)


# This machine's own services, each loaded only where one is configured.
KINDS: "dict[str, Read]" = {"serial": _read_serial, "repl": _read_repl}


def main(folder: str = "", slots: "Any" = None) -> None:
    """For ever. `slots`: `slots.Slots`, or None where the agent does not lie in slots."""
    if slots is not None:
        board.feed_watchdog = slots.feed
    config = read_config(folder + "/config.json")
    state = config["identity"]["state"]
    wifi = None
    if "wifi" in config:
        from .wifi import Wifi

        wifi = Wifi(config["wifi"], folder + "/config.json")
    store = Keystore(state if state.startswith("/") else folder + "/" + state)
    asyncio.run(Agent(config, store, KINDS, slots, wifi).run())
