"""`zts` at a terminal of its own, as a person has it."""

import contextlib
import fcntl
import os
import pty
import subprocess
import sys
import termios
from pathlib import Path

from whole_network import WAIT_S, environment


class Terminal:
    """`said` is all that came to the terminal so far."""

    def __init__(self, home: Path, *arguments: str, **more: str) -> None:
        self._main, terminal = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "zts_gateway.cli", *arguments],
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            env={**environment(home), **more},
            start_new_session=True,
            preexec_fn=_own_terminal,
        )
        os.close(terminal)
        self.said = ""
        self._seen = 0

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._main)

    def wait_for(self, words: str) -> None:
        """For the next place where it says this."""
        while (at := self.said.find(words, self._seen)) < 0:
            self.said += os.read(self._main, 4096).decode()
        self._seen = at + len(words)

    def type(self, line: str) -> None:
        os.write(self._main, line.encode() + b"\n")

    def end(self) -> int:
        """Its exit code."""
        with contextlib.suppress(OSError):  # EIO: nobody has the terminal open any more
            while data := os.read(self._main, 4096):
                self.said += data.decode()
        return self.process.wait(WAIT_S)


def _own_terminal() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
