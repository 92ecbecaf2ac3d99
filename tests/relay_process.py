"""A real `zts-relay` process for tests: ports picked by the system, state in a directory of the caller's."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

from zts import identity

START_S = 60.0  # generous: the machine may be busy
STOP_S = 60.0
_COMMAND = (sys.executable, "-m", "zts_relay.cli")


class RelayProcess:
    """`with RelayProcess(state) as relay:` runs a relay on 127.0.0.1; `options` are added to its command line.

    `under` is a command that becomes it by exec, such as prlimit.

    leg, metrics: (host, port). mqtt: the same, or None with an external broker. fp: the relay's fingerprint.
    join: the join code printed when the state was new, else None; `new_code()` makes another.
    """

    def __init__(self, state: Path, *options: str, under: tuple[str, ...] = ()) -> None:
        self.state = state
        self._options = options
        self._under = under
        self.leg = self.metrics = ("", 0)
        self.mqtt: tuple[str, int] | None = None
        self.fp = ""
        self.join: str | None = None
        self.log = state.with_name(state.name + ".log")  # what the relay wrote on stderr
        self._process: subprocess.Popen[str] | None = None

    @property
    def pid(self) -> int:
        assert self._process
        return self._process.pid

    def __enter__(self) -> "RelayProcess":
        is_new = not (self.state / "registry.sqlite").exists()
        anywhere = ("--listen", "127.0.0.1:0", "--mqtt", "127.0.0.1:0", "--metrics", "127.0.0.1:0")
        command = [*self._under, *_COMMAND, *anywhere, "--state", str(self.state), *self._options]
        with self.log.open("a") as log:
            self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=_environment())
        try:
            ready = json.loads(self._line())
            assert ready["ready"] is True
            self.leg = identity.split_address(ready["leg"])
            self.metrics = identity.split_address(ready["metrics"])
            self.mqtt = identity.split_address(ready["mqtt"]) if ready["mqtt"] else None
            self.fp = ready["fp"]
            if is_new:
                word, self.join = self._line().split()
                assert word == "join"
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._process and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            self._process.send_signal(signal.SIGTERM)  # the second one: do not wait for pairs
        try:
            self.wait()
        except subprocess.TimeoutExpired:
            self.kill()
            raise
        finally:
            self._close()

    def signal(self, number: int) -> None:
        assert self._process
        self._process.send_signal(number)

    def wait(self) -> int:
        """The exit status, once it has ended."""
        assert self._process
        return self._process.wait(STOP_S)

    def kill(self) -> None:
        """SIGKILL, as a crash."""
        assert self._process
        self._process.kill()
        self._process.wait()
        self._close()

    def run(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """`zts-relay ARGUMENTS --state …` beside the running relay."""
        return run_cli(*arguments, "--state", str(self.state))

    def new_code(self) -> str:
        """Another join code for an owner."""
        return self.run("code").stdout.strip()

    def logged(self) -> list[dict[str, Any]]:
        """The lines the relay has logged."""
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def _line(self) -> str:
        assert self._process and self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise AssertionError(f"the relay did not start: {self.log.read_text()}")
        return line

    def _close(self) -> None:
        if self._process and self._process.stdout:
            self._process.stdout.close()


def run_cli(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run `zts-relay ARGUMENTS` to its end."""
    return subprocess.run([*_COMMAND, *arguments], capture_output=True, text=True, timeout=START_S, env=_environment())


def _environment() -> dict[str, str]:
    return dict(os.environ, PYTHONWARNINGS="error")
