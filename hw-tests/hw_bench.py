"""The board under test and what the tests do with it."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from whole_network import WAIT_S, Network
from zts_gateway.virtual_board import VirtualBoard

HERE = Path(__file__).parent
NAME = "hw"
MPREMOTE = Path(sys.executable).parent / "mpremote"


class Bench:
    """A flashed board in its network. `virtual` is the virtual board, or None at a real one; `kind` names its profile and budget."""

    def __init__(self, net: Network, port: str, kind: str, virtual: VirtualBoard | None, options: list[str], password: str) -> None:
        self.net = net
        self.port = port
        self.kind = kind
        self.virtual = virtual
        self._options = options
        self._password = password

    @property
    def budget(self) -> dict[str, int]:
        budgets: dict[str, dict[str, int]] = tomllib.loads((HERE / "budgets.toml").read_text())
        return budgets[self.kind]

    def flash(self) -> "subprocess.CompletedProcess[str]":
        return self.net.zts("flash", self.port, "--name", f"@{NAME}", *self._options, stdin=self._password)

    def mpremote(self, *arguments: str) -> None:
        subprocess.run([MPREMOTE, "connect", self.port, *arguments], check=True, capture_output=True, timeout=WAIT_S)

    def needs_silicon(self, why: str) -> None:
        if self.virtual:
            pytest.skip(f"needs silicon: {why}")
