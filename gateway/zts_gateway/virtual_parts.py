"""Two parts of a virtual board: the end of a serial line, and the radio."""

import json
import os
import pty
import time
import tty
from pathlib import Path
from typing import Any

PIECE = 4096  # bytes read at once
_FULL_S = 2.0  # a program that reads nothing for so long holds no board up: then bytes are lost, as on a wire
_JOINED_S = 0.2  # from connect() to an address

# network.WLAN.status() of an ESP32.
_IDLE, _CONNECTING, _GOT_IP, _NO_AP_FOUND, _WRONG_PASSWORD = 1000, 1001, 1010, 201, 202


class Jack:
    """One end of a serial line where a program may be, or not: a pty, and a symlink to its device file.

    With nobody there, what the board says is lost, as on a wire; the kernel tells so by a hang-up.
    """

    def __init__(self, link: Path) -> None:
        self._link = link
        self.fd, other = pty.openpty()
        tty.setraw(other)
        path = os.ttyname(other)
        os.close(other)
        os.set_blocking(self.fd, False)
        fresh = link.with_name(link.name + ".new")
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(path)
        fresh.replace(link)
        self.attached = False
        self._unsent = b""
        self._full_since: float | None = None

    def close(self) -> None:
        os.close(self.fd)
        if self._link.is_symlink():
            self._link.unlink()

    @property
    def is_full(self) -> bool:
        return bool(self._unsent)

    def send(self, data: bytes) -> None:
        if self.attached:
            self._unsent += data
            self.flush()

    def flush(self) -> None:
        if not self._unsent:
            return
        try:
            self._unsent = self._unsent[os.write(self.fd, self._unsent) :]
            self._full_since = None
        except BlockingIOError:
            now = time.monotonic()
            self._full_since = self._full_since or now
            if now - self._full_since > _FULL_S:
                self._unsent = b""
        except OSError:
            self.leave()

    def leave(self) -> None:
        self.attached = False
        self._unsent = b""
        self._full_since = None

    def read(self) -> bytes:
        try:
            return os.read(self.fd, PIECE)
        except BlockingIOError:
            return b""
        except OSError:  # EIO: nobody there, and all read that was said before
            self.leave()
            return b""


class Radio:
    """Wi-Fi as the module `network` sees it; which networks there are stands in a file that may change."""

    def __init__(self, air: Path | None) -> None:
        self._air = air
        self._active = False
        self._wanted: tuple[str, str] | None = None
        self._since = 0.0

    def answer(self, request: list[Any]) -> Any:
        match request:
            case ["wlan active", on]:
                if on is not None:
                    self._active = bool(on)
                    self._wanted = self._wanted if on else None
                return self._active
            case ["wlan connect", ssid, key]:
                self._wanted, self._since = (ssid, key or ""), time.monotonic()
            case ["wlan disconnect"]:
                self._wanted = None
            case ["wlan status"]:
                return self._status(), -50
            case ["wlan scan"]:
                return sorted(self._networks())
        return None

    def _networks(self) -> dict[str, str]:
        networks: dict[str, str] = json.loads(self._air.read_text()) if self._air else {}
        return networks

    def _status(self) -> int:
        if self._wanted is None:
            return _IDLE
        ssid, key = self._wanted
        networks = self._networks()
        if time.monotonic() - self._since < _JOINED_S:
            return _CONNECTING
        if ssid not in networks:
            return _NO_AP_FOUND
        return _GOT_IP if networks[ssid] == key else _WRONG_PASSWORD
