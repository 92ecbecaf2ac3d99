"""What tests of `zts flash` do with a network and a virtual board."""

import json
import time
import urllib.request
from hashlib import sha256
from pathlib import Path
from typing import Any

from whole_network import WAIT_S, Network
from zts_gateway.virtual_board import VirtualBoard

ALL_BYTES = 140_000  # about what goes over the cable for an empty flash
LAST_BYTES = 14_000  # about what goes when all files of the slot are there: configuration, keys, main.py


def flash(net: Network, port: str | Path, name: str, *options: str, stdin: str = "") -> str:
    done = net.zts("flash", str(port), "--name", name, *options, stdin=stdin)
    assert done.returncode == 0, done.stderr
    return done.stdout


def state_of(board: VirtualBoard) -> dict[str, Any]:
    state: dict[str, Any] = json.loads((board.folder / "agent" / "state" / "state.json").read_text())
    return state


def card_of(net: Network, name: str) -> dict[str, Any]:
    card: dict[str, Any] = json.loads((net.home / "devices" / f"{name}.json").read_text())
    return card


def fetch(net: Network, name: str) -> None:
    """Through `zts connect`: the page says the name."""
    with (
        net.run(f"connect-{name}-{time.monotonic_ns()}", "connect", f"@{name}:http", "-L") as connection,
        urllib.request.urlopen(f"http://{connection.line()}/reading.json", timeout=WAIT_S) as answer,
    ):
        assert json.load(answer)["name"] == name


def is_verified(net: Network, board: VirtualBoard, name: str) -> None:
    """The one state in which every run ends."""
    state, card = state_of(board), card_of(net, name)
    assert card["verified"] is True and "enrolling" not in card
    assert card["public"] == state["public"] and card["pairing"] == state["pairing"]
    assert "relay" in state and "line" not in state
    agent = board.folder / "agent"
    manifest = json.loads((agent / "a" / "manifest.json").read_text())
    files = {path: digest for path, _, digest in manifest["files"]}
    there = {str(path.relative_to(agent / "a")): path for path in (agent / "a").rglob("*") if path.is_file()}
    assert sorted(there) == sorted([*files, "manifest.json"])
    assert all(sha256(there[path].read_bytes()).hexdigest() == digest for path, digest in files.items())
    assert {path.name for path in board.folder.iterdir()} - {"boot.py", "main.before-zts.py"} == {"main.py", "agent"}
    assert {path.name for path in agent.iterdir()} - {"switch.1"} == {"a", "state", "config.json", "slots.mpy", "switch.0"}
