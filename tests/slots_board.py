"""A virtual board in the field: `/main.py`, slots and an agent that enrols itself. Its power can be made to fail at a chosen byte."""

import contextlib
import importlib.util
import json
import os
import select
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from board import put_edge
from device_process import HTTP
from whole_network import Network, until
from zts_firmware import slots
from zts_gateway import stage
from zts_gateway.virtual_board import VirtualBoard

LOGIN_S = 6
HOME = {"home": "password"}

# Before main.py. "/cut" asks for power cuts: {"files": [n, ...]} once the nth file of a slot is there, {"record": [n, ...], "bytes": m}
# at the nth switch record, of which m bytes are then on the flash; each number counts from the cut before.
_BOOT = """
import builtins, json, os, sys
import machine

sys.path.insert(0, "/agent")
import slots
sys.path.pop(0)


def said(path):
    try:
        with _open(path) as file:
            return json.load(file)
    except OSError:
        return None


_open, _rename, _WDT = open, os.rename, machine.WDT
slots.LOGIN_S = said("/login") or LOGIN_S
slots.TRIES = said("/tries") or slots.TRIES
machine.WDT = lambda timeout: _WDT(timeout=5000 if timeout < 60000 else timeout)
_judge = slots.Slots.judge


def judge(self, has_network):
    print("judged:", has_network)
    _judge(self, has_network)


class File:
    def __init__(self, path):
        self._path = path
        self._file = _open(path, "wb")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._file.close()
        if self._path[:9] in ("/agent/a/", "/agent/b/"):
            passed("files")

    def write(self, data):
        if self._path.startswith("/agent/switch."):
            cut = passed("record", False)
            if cut:
                self._file.write(data[:cut["bytes"]])
                self._file.close()
                machine.reset()
        return self._file.write(data)


def passed(what, reset=True):
    cut = said("/cut")
    if not cut or what not in cut:
        return None
    cut[what][0] -= 1
    now = not cut[what][0]
    if now:
        cut[what].pop(0)
    if cut[what]:
        with _open("/cut", "w") as file:
            json.dump(cut, file)
    else:
        os.remove("/cut")
    if now and reset:
        machine.reset()
    return cut if now else None


def opened(path, mode="r"):
    return File(path) if mode == "wb" else _open(path, mode)


def renamed(old, new):
    _rename(old, new)
    if new.endswith("manifest.json"):
        passed("files")


builtins.open, os.rename, slots.Slots.judge = opened, renamed, judge
"""


class SlotsBoard(VirtualBoard):
    """Flashed with this computer's agent in slot a; `line` is its enrolment line."""

    def __init__(self, folder: Path, line: str) -> None:
        super().__init__(folder, networks=HOME)
        self._console = -1
        self._listens = False
        self._heard = bytearray()
        self._listener: threading.Thread | None = None
        self.agent = folder / "agent"
        (self.agent / "state").mkdir(parents=True)
        files = put_edge(self.agent / "a")
        (self.agent / "a" / stage.MANIFEST).write_text(stage.manifest(self.agent / "a", files))
        stage.stage_slots(self.agent / "slots.mpy")
        found = importlib.util.find_spec("zts_firmware")
        assert found and found.origin
        shutil.copy(Path(found.origin).with_name("main.py"), folder)
        (folder / "boot.py").write_text(_BOOT.replace("or LOGIN_S", f"or {LOGIN_S}"))
        (self.agent / "config.json").write_text(
            json.dumps({"identity": {"state": "state"}, "services": HTTP, "wifi": [{"ssid": "home", "password": "password"}]})
        )
        (self.agent / "state" / "state.json").write_text(json.dumps({"line": line}))

    def start(self) -> None:
        super().start()
        self._plug_in()

    def cut_power(self) -> None:
        super().cut_power()
        self._unplug()

    def _plug_in(self) -> None:
        self._console = os.open(self.port, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
        self._listener = threading.Thread(target=self._listen, args=(self._console,))
        self._listens = True
        self._listener.start()

    def _unplug(self) -> None:
        self._listens = False
        if self._listener:
            self._listener.join()
            self._listener = None
            os.close(self._console)

    @contextlib.contextmanager
    def unplugged(self) -> Iterator[None]:
        """Its port is for another program."""
        self._unplug()
        try:
            yield
        finally:
            self._plug_in()

    def _listen(self, console: int) -> None:
        while self._listens:
            if select.select([console], [], [], 0.05)[0]:
                try:
                    data = os.read(console, 4096)
                except OSError:  # the power is off
                    return
                if not data:
                    return
                self._heard += data

    def type(self, data: bytes) -> None:
        os.write(self._console, data)

    @property
    def text(self) -> str:
        """All that it printed since it is there."""
        return bytes(self._heard).decode(errors="replace")

    def count(self, event: str) -> int:
        return self.text.count(f'"event": "{event}"')

    def wait_online(self, count: int) -> None:
        """Until it has been online so many times."""
        until(lambda: self.count("online") >= count, f"online {count} times: {self.text[-3000:]}")

    def put(self, name: str, what: Any) -> None:
        """A file for what runs before main.py; None removes it."""
        path = self.folder / name
        if what is None:
            path.unlink(missing_ok=True)
        else:
            path.with_name("put").write_text(json.dumps(what))
            path.with_name("put").replace(path)

    def slots(self) -> slots.Slots:
        """As the board finds them when it boots, which it may not do meanwhile."""
        found = slots.Slots(str(self.agent), lambda: None, lambda: None)
        found.boot()
        return found


@contextlib.contextmanager
def slots_board(net: Network, name: str) -> Iterator[SlotsBoard]:
    """One of @alice's, online."""
    with (
        net.run(f"enroll-{name}", "enroll", f"@{name}") as enrolment,
        SlotsBoard(net.folder / "boards" / name, enrolment.line()) as board,
    ):
        assert enrolment.process.wait(90) == 0, (enrolment.err, board.text)
        yield board
