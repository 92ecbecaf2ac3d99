"""A real OpenSSH server on 127.0.0.1 with throw-away keys, for the user who runs the tests."""

import getpass
import os
import shutil
import socket
import subprocess
from pathlib import Path
from types import TracebackType

from whole_network import free_port, until


def find_sshd() -> str | None:
    """The server, or None: it, ssh or ssh-keygen is not installed."""
    found = shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin")
    return found if shutil.which("ssh") and shutil.which("ssh-keygen") else None


class Sshd:
    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700)
        self._folder = folder
        self.port = free_port()
        self.user = getpass.getuser()
        for name in ("host", "user"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(folder / name)], check=True)
        shutil.copy(folder / "user.pub", folder / "authorized")
        host_key = " ".join((folder / "host.pub").read_text().split()[:2])
        (folder / "known").write_text(f"pi {host_key}\n")
        options = {
            "ListenAddress": "127.0.0.1",
            "Port": str(self.port),
            "HostKey": str(folder / "host"),
            "AuthorizedKeysFile": str(folder / "authorized"),
            "PidFile": str(folder / "pid"),
            "UsePAM": "no",
            "PasswordAuthentication": "no",
            "StrictModes": "no",  # the folder of a test may lie where others may write
            "PermitRootLogin": "prohibit-password",
        }
        (folder / "config").write_text("".join(f"{key} {value}\n" for key, value in options.items()))

    def __enter__(self) -> "Sshd":
        sshd = find_sshd()
        assert sshd
        if os.geteuid() == 0:
            os.makedirs("/run/sshd", mode=0o755, exist_ok=True)  # a server run by root wants it
        with (self._folder / "log").open("wb") as log:
            command = [sshd, "-D", "-e", "-f", str(self._folder / "config")]
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

        def listening() -> bool:
            assert self._process.poll() is None, (self._folder / "log").read_text()
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", self.port)) == 0

        until(listening, "sshd listens")
        return self

    @property
    def pid(self) -> int:
        return self._process.pid

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._process.terminate()
        self._process.wait()

    def command(self, proxy: str, *remote: str) -> list[str]:
        """An ssh that knows the host as `pi`, whatever way it goes, and reads no configuration of the user."""
        options = {
            "ProxyCommand": proxy,
            "UserKnownHostsFile": str(self._folder / "known"),
            "GlobalKnownHostsFile": "/dev/null",
            "StrictHostKeyChecking": "yes",
            "IdentityFile": str(self._folder / "user"),
            "IdentitiesOnly": "yes",
            "BatchMode": "yes",
            "LogLevel": "ERROR",
        }
        pairs = [part for key, value in options.items() for part in ("-o", f"{key}={value}")]
        return ["ssh", "-F", "/dev/null", *pairs, f"{self.user}@pi", *remote]
