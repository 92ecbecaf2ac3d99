"""What a person meets: exit codes, failures that say what to do next, and progress on stderr."""

import sys
from collections.abc import Iterable, Sequence
from enum import IntEnum
from types import TracebackType
from typing import TYPE_CHECKING, Self

from zts import wire

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID
    from rich.status import Status


_WIDE = 10_000  # columns: more than any row has


class Exit(IntEnum):
    """The exit codes of `zts`; README and --help list them."""

    OK = 0
    INTERNAL = 1
    USAGE = 2
    UNREACHABLE = 3
    OFFLINE = 4
    DENIED = 5
    REFUSED = 6
    AUTHENTICATION = 7
    DUPLICATE = 8
    LOST = 9
    INTERRUPTED = 130


EXIT_CODES = """\
exit codes:
  0  ok
  1  internal error
  2  usage or configuration
  3  relay or broker unreachable
  4  device offline: no hello, or no answer in 15 s
  5  denied or revoked
  6  target refused
  7  authentication or join code
  8  duplicate identity
  9  connection lost or truncated
130  interrupted by Ctrl-C
On failure the last line on stderr is `zts: CODE: sentence`."""


class Failure(Exception):
    """What ends a command: its exit code, and one sentence that says what happened and what to do next."""

    def __init__(self, code: Exit, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code


# What a code of the device or the relay means for a user: exit code, and the sentence after "@name: ".
_MEANINGS = {
    wire.DENIED: (Exit.DENIED, "denied; ask the device's owner for access, or look at `zts ls` for what you may reach"),
    wire.TIME_UNKNOWN: (
        Exit.DENIED,
        "the device has not been told the time since it started, so it cannot tell whether your grant still holds; its owner mends that "
        "by any command to it, such as `zts status`",
    ),
    wire.BUSY: (Exit.REFUSED, "the device has no free place; close another connection to it, or try again in a moment"),
    wire.TARGET_REFUSED: (
        Exit.REFUSED,
        "the service's target does not answer; start it on the device, or correct `target` in its configuration",
    ),
    wire.TARGET_RESET: (Exit.LOST, "the service's target broke the connection off; some bytes may be missing, so try again"),
    wire.TRUNCATED: (Exit.LOST, "the connection was lost before its end; some bytes may be missing, so try again"),
    wire.RESUME_GONE: (Exit.LOST, "the connection could not be taken up again; try again"),
    wire.REVOKED: (
        Exit.DENIED,
        "this access was revoked, by the device's owner or the relay's operator; ask them for a new grant or join code",
    ),
    wire.PROTO: (Exit.LOST, "the two ends do not understand each other; update zts on both"),
    wire.IDLE: (Exit.OFFLINE, "the device did not come to the relay in time; check its power and network, then try again"),
    wire.DRAIN: (Exit.UNREACHABLE, "the relay, or the device's agent, is shutting down; try again in a minute"),
    wire.QUOTA: (
        Exit.REFUSED,
        "a limit is reached, the relay's for this account or the owner's for this access; close other connections, then try again",
    ),
}


def failure_of(code: int, who: str) -> Failure:
    """The failure that a wire code means; `who` is what it is about, such as "@pi"."""
    exit_code, sentence = _MEANINGS.get(code, (Exit.LOST, f"ended with the unknown code {code}; update zts on both ends"))
    return Failure(exit_code, f"{who}: {sentence}")


def say(text: str) -> None:
    """One line on stderr: stdout carries only what a program may want to read."""
    print(text, file=sys.stderr, flush=True)


def print_table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """On stdout. The last column is the one that may be long: a terminal folds it, else each row is one line."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for title in titles:
        table.add_column(title, no_wrap=title != titles[-1])
    for row in rows:
        table.add_row(*map(Text, row))
    Console(width=None if sys.stdout.isatty() else _WIDE).print(table)


class Progress:
    """What is being waited for: a spinner where stderr is a terminal, else a line each time it changes."""

    def __init__(self) -> None:
        self._status: Status | None = None
        self._last = ""

    def __enter__(self) -> Self:
        from rich.console import Console  # a fifth of the time `zts` takes to start

        console = Console(stderr=True)
        if console.is_terminal:
            self._status = console.status("")
            self._status.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._status:
            self._status.stop()

    def step(self, text: str) -> None:
        if text == self._last:
            return
        self._last = text
        if self._status:
            self._status.update(text)
        else:
            say(text)


class Bar:
    """How many of `total` bytes are done: a bar where stderr is a terminal, else one line at the start."""

    def __init__(self, text: str, total: int) -> None:
        self._text = text
        self._total = total
        self._bar: RichProgress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

        console = Console(stderr=True)
        if not console.is_terminal:
            say(f"{self._text} ({self._total} bytes) …")
            return self
        columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn()
        self._bar = Progress(*columns, console=console, transient=True)
        self._task = self._bar.add_task(self._text, total=self._total)
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar:
            self._bar.stop()

    def advance(self, size: int) -> None:
        if self._bar and self._task is not None:
            self._bar.advance(self._task, size)
