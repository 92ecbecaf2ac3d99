"""A device for tests: the agent as it is shipped, on the real MicroPython with a board's heap, in a process of its own."""

import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from board import MICROPYTHON, put_edge

START_S = 120.0  # generous: the machine may be busy
STOP_S = 60.0
HTTP = {"http": {"kind": "http", "target": "zts_agent.page:page"}}

_BOOT = "from zts_agent import main\nmain.main({folder!r})\n"


class DeviceProcess:
    """`with DeviceProcess(folder, line) as device:` runs an agent that enrols with `line`; ready when it has said "online".

    `services` is the configuration's table; `setup` is Python that runs before the agent; `modules` are further sources
    for the device, by name. A second run in the same folder goes on with its state.
    """

    def __init__(
        self,
        folder: Path,
        line: str | None,
        services: dict[str, dict[str, str]] | None = None,
        heap: str = "256K",
        setup: str = "",
        modules: dict[str, str] | None = None,
    ) -> None:
        self.folder = folder
        self.log = folder / "log"
        self._heap = heap
        self._process: subprocess.Popen[bytes] | None = None
        (folder / "state").mkdir(parents=True, exist_ok=True)
        put_edge(folder / "lib")
        for name, source in (modules or {}).items():
            (folder / "lib" / f"{name}.py").write_text(source)
        config = {"identity": {"state": "state"}, "services": HTTP if services is None else services}
        (folder / "config.json").write_text(json.dumps(config))
        if line is not None:
            (folder / "state" / "state.json").write_text(json.dumps({"line": line}))
        (folder / "boot.py").write_text(setup + _BOOT.format(folder=str(folder)))

    @property
    def pid(self) -> int:
        assert self._process
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def state(self) -> dict[str, Any]:
        state: dict[str, Any] = json.loads((self.folder / "state" / "state.json").read_text())
        return state

    def __enter__(self) -> "DeviceProcess":
        self.start()
        try:
            self.wait_for("online")
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.kill()

    def start(self) -> None:
        command = [str(MICROPYTHON), "-X", f"heapsize={self._heap}", str(self.folder / "boot.py")]
        environment = {**os.environ, "MICROPYPATH": f".frozen:{self.folder / 'lib'}"}
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)

    def kill(self) -> None:
        """Pulls the plug."""
        if self._process:
            self._process.kill()
            self._process.wait(STOP_S)

    def events(self) -> list[dict[str, Any]]:
        """What it has logged; a line that is not an event is {"event": "text", "text": ...}."""
        said = []
        for line in self.log.read_text(errors="replace").splitlines():
            try:
                said.append(json.loads(line))
            except ValueError:
                said.append({"event": "text", "text": line})
        return said

    def wait_for(self, event: str, count: int = 1, where: Callable[[dict[str, Any]], bool] = lambda event: True) -> dict[str, Any]:
        """The `count`th event of that name."""
        assert self._process
        end = time.monotonic() + START_S
        while True:
            found = [one for one in self.events() if one["event"] == event and where(one)]
            if len(found) >= count:
                return found[count - 1]
            if self._process.poll() is not None or time.monotonic() > end:
                raise AssertionError(f"no '{event}' (exit {self._process.poll()}): {self.log.read_text(errors='replace')}")
            time.sleep(0.02)
