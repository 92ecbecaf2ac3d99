"""A serial cable that is listened to and can be cut: a pty between `zts flash` and a board."""

import contextlib
import os
import pty
import select
import threading
import tty
from collections.abc import Callable
from pathlib import Path

_PIECE = 1024
_LOOK_MS = 20


class CableTap:
    """`with CableTap(link, port) as tap:` joins the new device file `link` with the board's `port`, which may come and go.

    `down` is all that went to the board, `up` all that came from it.
    `at(n, cut)` has `cut` called, once, as soon as `n` more bytes have gone.
    """

    def __init__(self, link: Path, port: str) -> None:
        self.link = link
        self.down, self.up = bytearray(), bytearray()
        self._port = port
        self._near, far = pty.openpty()
        tty.setraw(far)
        link.symlink_to(os.ttyname(far))
        os.close(far)
        os.set_blocking(self._near, False)
        self._board: int | None = None
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._cut: tuple[int, Callable[[], None]] | None = None
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "CableTap":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        os.close(self._near)
        self._lose()
        self.link.unlink()

    def __len__(self) -> int:
        return len(self.down) + len(self.up)

    def at(self, n: int, cut: Callable[[], None]) -> None:
        with self._lock:
            self._cut = len(self) + n, cut

    def never(self) -> None:
        """What `at` asked for is off."""
        with self._lock:
            self._cut = None

    def _run(self) -> None:
        attached = False
        while not self._stop.is_set():
            if not attached:
                poller = select.poll()
                poller.register(self._near, select.POLLIN)
                attached = not any(event & select.POLLHUP and not event & select.POLLIN for _, event in poller.poll(0))
                if not attached:
                    self._lose()  # nobody at our end, so nobody at the board's
                    self._stop.wait(_LOOK_MS / 1000)
                    continue
            if self._board is None:
                with contextlib.suppress(OSError):
                    self._board = os.open(self._port, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
            poller = select.poll()
            poller.register(self._near, select.POLLIN)
            if self._board is not None:
                poller.register(self._board, select.POLLIN)
            ready = {fd for fd, _ in poller.poll(_LOOK_MS)}
            if self._near in ready:
                try:
                    self._pass(os.read(self._near, _PIECE), self._board)
                except OSError:
                    attached = False
                    continue
            if self._board in ready and self._board is not None:
                try:
                    data = os.read(self._board, _PIECE)
                except BlockingIOError:
                    continue
                except OSError:
                    data = b""
                if data:
                    self._pass(data, self._near)
                else:
                    self._lose()

    def _lose(self) -> None:
        if self._board is not None:
            os.close(self._board)
            self._board = None

    def _pass(self, data: bytes, to: int | None) -> None:
        """In two parts, when the cut falls between them."""
        with self._lock:
            cut = self._cut
            if cut and len(self) + len(data) >= cut[0]:
                self._cut = None
            else:
                cut = None
        first = len(data) if cut is None else max(0, cut[0] - len(self))
        self._write(data[:first], to)
        if cut:
            cut[1]()
            self._write(data[first:], to)

    def _write(self, data: bytes, to: int | None) -> None:
        if to == self._near:
            self.up += data
        else:
            self.down += data
        while data and to is not None and not self._stop.is_set():
            try:
                data = data[os.write(to, data) :]
            except BlockingIOError:
                self._stop.wait(0.001)
            except OSError:
                return  # the board, or who talked to it, is gone
