"""A board's Wi-Fi on the virtual board's radio: the order of its networks, one that leads nowhere, one that comes back, and `zts-wifi`."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from zts_gateway import stage
from zts_gateway.virtual_board import VirtualBoard

MPREMOTE = Path(sys.executable).parent / "mpremote"
NETWORKS = {"trap": "trap password", "home": "home password", "open": ""}

PRELUDE = """
import asyncio, json
from zts_agent import board, wifi
wifi.DOUBT_MS = 2500  # it looks every 2 s
wifi.FIRST_WAIT_MS = wifi.LONGEST_WAIT_MS = 50
said = []
board.log = lambda event, **fields: said.append((event, fields.get("ssid"), fields.get("helped")))
def networks(*names): return [{"ssid": n, "password": P[n]} for n in names]
async def until(condition):
    while not condition(): await asyncio.sleep(0.05)
"""


@pytest.fixture
def board(tmp_path: Path) -> Iterator[VirtualBoard]:
    """With the agent's sources, so that a test may shorten its times."""
    for source, name in stage.sources():
        target = tmp_path / "flash" / "lib" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    with VirtualBoard(tmp_path / "flash", heap="1M", networks=NETWORKS) as board:
        yield board


def run(board: VirtualBoard, program: str) -> str:
    passwords = {**NETWORKS, "home again": "x" * 8}
    text = f"P = {passwords!r}\n{PRELUDE}\n{program}"
    done = subprocess.run([MPREMOTE, "connect", board.port, "exec", text], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_network_that_leads_nowhere_is_left(board: VirtualBoard) -> None:
    """It says that it is connected and has an address; nobody is reached through it."""
    printed = run(
        board,
        """
async def main():
    w = wifi.Wifi(networks("trap", "home"), "/config.json")
    task = asyncio.create_task(w.run(lambda: said[-1][:2] == ("wifi", "home")))
    await w.wait_for_address()
    assert w._wlan.isconnected()
    await until(lambda: ("wifi", "home", None) in said)
    await asyncio.sleep(6)  # twice as long as it doubts: this one helps, so it stays
    print(said)
asyncio.run(main())
""",
    )
    assert printed.strip() == "[('wifi', 'trap', None), ('wifi lost', 'trap', False), ('wifi', 'home', None)]"


def test_refused_by_one_it_takes_the_next_and_goes_on_for_ever(board: VirtualBoard) -> None:
    board.set_networks({"home": "another password"})
    printed = run(
        board,
        """
async def main():
    w = wifi.Wifi(networks("trap", "home"), "/config.json")
    task = asyncio.create_task(w.run(lambda: True))
    await until(lambda: len(said) >= 6)
    print(said[:4], w._has_address.is_set())
asyncio.run(main())
""",
    )
    refused = "('wifi refused', 'trap', None), ('wifi refused', 'home', None)"
    assert printed.strip() == f"[{refused}, {refused}] False"


def test_lost_it_begins_with_the_first_again(board: VirtualBoard) -> None:
    printed = run(
        board,
        """
async def main():
    w = wifi.Wifi(networks("home again", "home"), "/config.json")
    task = asyncio.create_task(w.run(lambda: True))
    await until(lambda: said and said[-1][:2] == ("wifi", "home"))
    await asyncio.sleep(0.3)
    w._wlan.disconnect()
    await until(lambda: len([s for s in said if s[:2] == ("wifi", "home")]) == 2)
    print([s[:2] for s in said])
asyncio.run(main())
""",
    )
    once = "('wifi refused', 'home again'), ('wifi', 'home')"
    assert printed.strip() == f"[{once}, ('wifi lost', 'home'), {once}]"


def test_zts_wifi(board: VirtualBoard) -> None:
    (board.folder / "config.json").write_text(json.dumps({"services": {}, "wifi": [{"ssid": "home", "password": "home password"}]}))
    run(
        board,
        """
from io import BytesIO
class Stream:
    def __init__(self, line): self.line, self.said = line, b""
    async def readline(self): return self.line
    def write(self, data): self.said += data
async def ask(w, line):
    s = Stream(line)
    await w.serve(s, s)
    return json.loads(s.said)
async def main():
    w = wifi.Wifi(networks("home"), "/config.json")
    for bad in (b"", b"{", b"[]", b"null", b'{"ssid": "x"}', b'{"ssid": "x", "password": "short"}', b'{"ssid": "", "password": ""}',
                b'{"ssid": 1, "password": ""}', b'{"ssid": "x", "password": "", "more": 1}',
                b'{"ssid": "' + b"x" * 33 + b'", "password": ""}',
                b'{"ssid": "x", "password": ""}' + b" " * 300, b"[" * 250):
        assert await ask(w, bad) == {"stored": False, "error": "network"}, bad
    with open("/config.json") as f: assert [n["ssid"] for n in json.load(f)["wifi"]] == ["home"]
    for name in ("a", "b", "c", "d", "a"):
        assert (await ask(w, json.dumps({"ssid": name, "password": "12345678" + name}).encode()))["stored"]
    with open("/config.json") as f: config = json.load(f)
    assert [n["ssid"] for n in config["wifi"]] == ["a", "d", "c", "b"] and config["services"] == {}, config
    assert w.networks == config["wifi"]
    import os
    os.rename("/config.json", "/gone.json")
    assert await ask(w, b'{"ssid": "x", "password": ""}') == {"stored": False, "error": "files"}
    assert [n["ssid"] for n in w.networks] == ["a", "d", "c", "b"]
asyncio.run(main())
""",
    )
