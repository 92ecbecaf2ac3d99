"""A whole network for end-to-end tests: a relay with its broker, the laptop @alice, and devices, each a process as a user runs it."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from device_process import DeviceProcess
from relay_process import RelayProcess

WAIT_S = 90.0  # for anything that must come; generous: the machine may be busy
_ZTS = (sys.executable, "-m", "zts_gateway.cli")
# A device's: name to (kind, target), or to all that is said of it.
Services = dict[str, tuple[str, str]] | dict[str, dict[str, Any]]
_MOSQUITTO = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")


def until(condition: Any, what: str) -> Any:
    """What `condition()` gives, once that is true. Half of the time is left to others: a condition may be a `zts`."""
    begun = last = time.monotonic()
    while not (result := condition()):
        now = time.monotonic()
        assert now < begun + WAIT_S, f"never: {what}"
        time.sleep(max(0.02, now - last))
        last = time.monotonic()
    return result


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def environment(home: Path, edge: Path | None = None) -> dict[str, str]:
    """No warning passes, but for two of pyserial in mpremote. `edge`: a folder with other packages zts and zts_agent."""
    other = {} if edge is None else {"PYTHONPATH": str(edge)}
    ignored = "error,ignore:setDaemon,ignore:setName"
    return {**os.environ, "ZTS_HOME": str(home), "PYTHONWARNINGS": ignored, "PYTHONUNBUFFERED": "1", **other}


def zts(
    home: Path, *arguments: str, stdin: str = "", timeout: float = WAIT_S, edge: Path | None = None
) -> "subprocess.CompletedProcess[str]":
    """Runs `zts` to its end, without a terminal."""
    return subprocess.run(
        [*_ZTS, *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=timeout,
        env=environment(home, edge),
        start_new_session=True,
    )


def failed(done: "subprocess.CompletedProcess[str]", code: int) -> str:
    """The sentence of a `zts` that failed with `code`, as a person should see it."""
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"zts: {code}: "), done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return last


def commands_of(home: Path) -> list[str]:
    """The command lines of all processes that run with this ZTS_HOME now."""
    mark = f"ZTS_HOME={home}".encode()
    found = []
    for process in Path("/proc").iterdir():
        with contextlib.suppress(OSError):  # not a process, not ours, or gone meanwhile
            if mark in (process / "environ").read_bytes().split(b"\0"):
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return found


class Running:
    """A `zts` process that goes on; what it says is read from files."""

    def __init__(self, home: Path, folder: Path, *arguments: str, stdin: str | None = None, edge: Path | None = None) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "out").open("wb") as out, (folder / "err").open("wb") as err:
            self.process = subprocess.Popen(
                [*_ZTS, *arguments],
                stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
                stdout=out,
                stderr=err,
                env=environment(home, edge),
                start_new_session=True,
            )
        if stdin is not None:
            assert self.process.stdin
            self.process.stdin.write(stdin.encode())
            self.process.stdin.close()

    def __enter__(self) -> "Running":
        return self

    def __exit__(self, *_: object) -> None:
        """SIGTERM, so that it can end what it has started."""
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(WAIT_S)

    @property
    def out(self) -> str:
        return (self._folder / "out").read_text()

    @property
    def err(self) -> str:
        return (self._folder / "err").read_text()

    def line(self) -> str:
        """The first whole line on stdout."""

        def first() -> str:
            assert self.process.poll() is None or "\n" in self.out, self.err
            return self.out.partition("\n")[0] if "\n" in self.out else ""

        return str(until(first, "a line on stdout"))

    def said(self, text: str) -> None:
        def there() -> bool:
            if text in self.err:
                return True
            assert self.process.poll() is None, self.err
            return False

        until(there, f"'{text}' on stderr")

    def interrupt(self) -> int:
        """Ctrl-C; the exit code."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(WAIT_S)

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


class Mosquitto:
    """The real one, on the files that the relay writes; told to read the passwords again whenever they change."""

    def __init__(self, state: Path, port: int) -> None:
        self._files = state / "mosquitto"
        self._stop = threading.Event()
        self._passwords = self._stamp()
        assert _MOSQUITTO
        with (state / "mosquitto.log").open("wb") as log:
            self._process = subprocess.Popen([_MOSQUITTO, "-c", str(self._files / "mosquitto.conf")], stdout=log, stderr=log)
        self._watcher = threading.Thread(target=self._watch)
        self._watcher.start()

        def listening() -> bool:
            assert self._process.poll() is None, (state / "mosquitto.log").read_text()
            with contextlib.suppress(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", port)).close()
                return True
            return False

        until(listening, "mosquitto listens")

    def _stamp(self) -> int:
        return (self._files / "mosquitto.passwd").stat().st_mtime_ns

    def _watch(self) -> None:
        while not self._stop.wait(0.05):
            stamp = self._stamp()
            if stamp != self._passwords:
                self._passwords = stamp
                self._process.send_signal(signal.SIGHUP)

    def close(self) -> None:
        self._stop.set()
        self._watcher.join()
        self._process.terminate()
        self._process.wait(WAIT_S)


class Network:
    """`home` is @alice's ZTS_HOME. Devices come by `linux_device` and `board`. `legs`: where they all find the relay."""

    def __init__(self, folder: Path, relay: RelayProcess, broker: str, legs: str | None = None) -> None:
        self.folder = folder
        self.relay = relay
        self.broker = broker
        self.home = folder / "home"
        assert relay.join
        join = relay.join if legs is None else f"{relay.join.rpartition('@')[0]}@{legs}"
        done = self.zts("join", "--name", "@alice", "--code-file", "-", stdin=join)
        assert done.returncode == 0, done.stderr
        until(lambda: self.zts("ls").returncode == 0, "the broker knows @alice")

    def zts(self, *arguments: str, stdin: str = "", edge: Path | None = None) -> "subprocess.CompletedProcess[str]":
        return zts(self.home, *arguments, stdin=stdin, edge=edge)

    def run(self, name: str, *arguments: str, stdin: str | None = None, edge: Path | None = None) -> Running:
        """A `zts` of @alice that goes on; `name` is new."""
        folder = self.folder / "runs" / name
        assert not folder.exists()
        return Running(self.home, folder, *arguments, stdin=stdin, edge=edge)

    def listed(self, name: str) -> Any:
        done = self.zts("ls", "--json")
        assert done.returncode == 0, done.stderr
        (found,) = [row for row in json.loads(done.stdout) if row["name"] == name]
        return found

    @contextlib.contextmanager
    def linux_device(self, name: str, services: Services) -> Iterator["LinuxDevice"]:
        """A `zts agent`, enrolled as a person does it."""
        device = LinuxDevice(self.folder / "devices" / name, services)
        with self.run(f"enroll-{name}", "enroll", f"@{name}") as enrolment:
            device.start("--join", "--code-file", "-", stdin=enrolment.line() + "\n")
            try:
                assert enrolment.process.wait(WAIT_S) == 0, (enrolment.err, device.running.err)
                yield device
            finally:
                device.kill()

    @contextlib.contextmanager
    def board(self, name: str) -> Iterator[DeviceProcess]:
        """The agent on MicroPython with its page."""
        with (
            self.run(f"enroll-{name}", "enroll", f"@{name}") as enrolment,
            DeviceProcess(self.folder / "devices" / name, enrolment.line()) as device,
        ):
            assert enrolment.process.wait(WAIT_S) == 0, enrolment.err
            yield device


class LinuxDevice:
    def __init__(self, folder: Path, services: Services) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        self.config = folder / "agent.toml"
        tables = ""
        for name, said in services.items():
            entry = said if isinstance(said, dict) else dict(zip(("kind", "target"), said, strict=True))
            tables += f"[services.{name}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in entry.items())
        self.config.write_text('[identity]\nstate = "state"\n' + tables)
        self._starts = 0
        self.running: Running

    def start(self, *options: str, stdin: str | None = None) -> None:
        self._starts += 1
        folder = self.folder / f"run{self._starts}"
        self.running = Running(self.folder / "no-home", folder, "agent", "--config", str(self.config), *options, stdin=stdin)

    def kill(self) -> None:
        """Pulls the plug."""
        self.running.kill()


@contextlib.contextmanager
def network(folder: Path, broker: str, under: tuple[str, ...] = ()) -> Iterator[Network]:
    """`broker`: embedded or mosquitto. `folder` is new, or empty. `under`: of the relay's process."""
    folder.mkdir(exist_ok=True)
    if broker == "embedded":
        with RelayProcess(folder / "relay", under=under) as relay:
            yield Network(folder, relay, broker)
        return
    port = free_port()
    with RelayProcess(folder / "relay", "--broker", f"mqtts://127.0.0.1:{port}", under=under) as relay:
        mosquitto = Mosquitto(folder / "relay", port)
        try:
            yield Network(folder, relay, broker)
        finally:
            mosquitto.close()
