"""Every (key, nonce) that any party seals with is used once, and no two streams share a key: read from logs of real processes.

Both devices have a random source that is stuck at zero, over a restart too.
"""

import collections
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import key_audit
from device_process import DeviceProcess
from relay_process import RelayProcess

_TESTS = Path(key_audit.__file__).parent
_RUN = "import key_audit, sys; key_audit.install(sys.argv.pop(1)); from zts_gateway.cli import main; main()"
_RUN_STUCK = "import key_audit, sys; key_audit.stick_random_source(); " + _RUN
_DEADLINE_S = 120
_CONNECTIONS = 5


class Lab:
    """A relay, an owner and its commands, each sealing under the eyes of the audit."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.logs: list[Path] = []

    def log(self, name: str) -> Path:
        self.logs.append(self.folder / f"audit-{len(self.logs)}-{name}")
        return self.logs[-1]

    def command(self, *arguments: str, code: str = _RUN) -> list[str]:
        return [sys.executable, "-c", code, str(self.log(arguments[0])), *arguments]

    def environment(self) -> dict[str, str]:
        return {**os.environ, "ZTS_HOME": str(self.folder / "home"), "PYTHONPATH": str(_TESTS)}

    def run(self, *arguments: str, stdin: str = "") -> str:
        done = subprocess.run(
            self.command(*arguments), input=stdin, capture_output=True, text=True, timeout=_DEADLINE_S, env=self.environment()
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    @contextlib.contextmanager
    def process(self, *arguments: str, code: str = _RUN) -> Iterator["subprocess.Popen[str]"]:
        """A running command; Ctrl-C at the end."""
        with (self.folder / "stderr").open("a") as errors:
            started = subprocess.Popen(
                self.command(*arguments, code=code), stdout=subprocess.PIPE, stderr=errors, text=True, env=self.environment()
            )
        try:
            yield started
        finally:
            started.send_signal(signal.SIGINT)
            started.communicate(timeout=_DEADLINE_S)

    def enroll(self, name: str) -> "contextlib.AbstractContextManager[subprocess.Popen[str]]":
        return self.process("enroll", name)

    def wait_for_agents(self, online: int) -> None:
        """Until agents run as commands have said so often that they are online."""
        end = time.monotonic() + _DEADLINE_S
        while (self.folder / "stderr").read_text().count('"event": "online"') < online:
            assert time.monotonic() < end, (self.folder / "stderr").read_text()
            time.sleep(0.02)

    def fetch(self, target: str) -> None:
        """Some connections, each a stream, through a `zts connect` of its own."""
        with self.process("connect", target) as connect:
            assert connect.stdout
            host, _, port = connect.stdout.readline().strip().rpartition(":")
            for _ in range(_CONNECTIONS):
                with socket.create_connection((host, int(port)), _DEADLINE_S) as local:
                    local.sendall(f"GET / HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode())
                    local.shutdown(socket.SHUT_WR)
                    answer = b""
                    while data := local.recv(65536):
                        answer += data
                    assert answer.startswith(b"HTTP/1.1 200")


def test_no_key_and_nonce_twice_and_a_key_for_every_stream(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    with RelayProcess(tmp_path / "relay") as relay:
        assert relay.join
        lab.run("join", "--name", "@alice", "--code-file", "-", stdin=relay.join)

        board = tmp_path / "board"
        source = {"key_audit": Path(key_audit.__file__).read_text()}
        setup = f"import key_audit\nkey_audit.stick_random_source()\nkey_audit.install({str(lab.log('board'))!r})\n"
        with lab.enroll("@board") as enrolling:
            assert enrolling.stdout
            line = enrolling.stdout.readline().strip()
            with DeviceProcess(board, line, setup=setup, modules=source):
                assert enrolling.wait(_DEADLINE_S) == 0
                lab.fetch("@board:http")
        with DeviceProcess(board, None, setup=setup, modules=source) as again:
            again.wait_for("online", 2)
            lab.fetch("@board:http")

        config = tmp_path / "pi.toml"
        config.write_text('[identity]\nstate = "pi"\n[services.http]\nkind = "http"\ntarget = "zts_agent.page:page"\n')
        with lab.enroll("@pi") as enrolling:
            assert enrolling.stdout
            (tmp_path / "line").write_text(enrolling.stdout.readline())
            agent = ("agent", "--config", str(config))
            with lab.process(*agent, "--join", "--code-file", str(tmp_path / "line"), code=_RUN_STUCK):
                assert enrolling.wait(_DEADLINE_S) == 0
                lab.fetch("@pi")
        with lab.process(*agent, code=_RUN_STUCK):
            lab.wait_for_agents(online=2)
            lab.fetch("@pi")

    used: collections.Counter[tuple[str, str]] = collections.Counter()
    streams: dict[str, set[str]] = {}
    for log in lab.logs:
        for line in log.read_text().splitlines() if log.exists() else ():
            key, nonce, stream = line.split()
            used[key, nonce] += 1
            streams.setdefault(key, set()).add(stream)
    assert not [pair for pair, count in used.items() if count > 1]
    assert not [key for key, named in streams.items() if len(named) > 1]
    data_keys = [key for key, named in streams.items() if named - {"-", "0"}]
    print(f"{len(used)} seals under {len(streams)} keys, {len(data_keys)} of them streams'")
    # Four times five connections, and each has a key for each direction.
    assert len(data_keys) >= 2 * 4 * _CONNECTIONS
