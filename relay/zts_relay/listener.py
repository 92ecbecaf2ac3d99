"""A listening port that stops accepting while descriptors are short, so that those who are here are served on.

asyncio's own servers would try on and log a traceback for each connection that waits, a thousand a second.
"""

import asyncio
import errno
import ipaddress
import os
import resource
import socket
from collections.abc import Callable, Iterable
from typing import Any, Final

from zts_relay import log

_BACKLOG: Final = 1024  # a fleet comes back at once
_ACCEPTS: Final = 64  # in a row, before the others have their turn
_RETRY_S: Final = 0.25  # look again whether descriptors are free
_SHORT: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

# (level, name, value), as of setsockopt.
Option = tuple[int, int, int]


class Listener:
    """Made within a running loop. `accepted(sock, address)` takes each connection; the socket is non-blocking.

    `full` is the share of the descriptors the system allows at which newcomers wait in the backlog; `name` is for the log.
    """

    def __init__(self, name: str, full: float, accepted: Callable[[socket.socket, Any], None]) -> None:
        self._name = name
        self._accepted = accepted
        self._full_at = int(resource.getrlimit(resource.RLIMIT_NOFILE)[0] * full)
        self._loop = asyncio.get_running_loop()
        self._socket: socket.socket | None = None
        self._retry: asyncio.TimerHandle | None = None

    @property
    def is_full(self) -> bool:
        """Whether newcomers wait because descriptors are short."""
        return self._retry is not None

    def open(self, host: str, port: int, options: Iterable[Option] = ()) -> tuple[str, int]:
        """Accept on an IP address; port 0 picks one. Returns the address bound. Raises OSError.

        Linux gives a listening socket's options to every socket accepted from it.
        """
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            for option in options:
                sock.setsockopt(*option)
            if family == socket.AF_INET6:
                # Mapped IPv4 addresses would count as one source.
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind((host, port))
            sock.listen(_BACKLOG)
        except OSError:
            sock.close()
            raise
        self._socket = sock
        self._resume()
        address = sock.getsockname()
        return address[0], address[1]

    def close(self) -> None:
        """Who waits in the backlog is reset."""
        if self._retry:
            self._retry.cancel()
            self._retry = None
        if self._socket:
            self._loop.remove_reader(self._socket.fileno())
            self._socket.close()
            self._socket = None

    def _resume(self) -> None:
        self._retry = None
        assert self._socket
        self._loop.add_reader(self._socket.fileno(), self._accept)

    def _pause(self) -> None:
        assert self._socket
        log.warning("accepting no more: out of descriptors", port=self._name)
        self._loop.remove_reader(self._socket.fileno())
        self._retry = self._loop.call_later(_RETRY_S, self._look_again)

    def _look_again(self) -> None:
        assert self._socket
        # The system gives the lowest free number, so a new descriptor tells how many are in use.
        try:
            probe = os.dup(self._socket.fileno())
            os.close(probe)
        except OSError:
            probe = self._full_at
        if probe < self._full_at:
            log.event("accepting again", port=self._name)
            self._resume()
        else:
            self._retry = self._loop.call_later(_RETRY_S, self._look_again)

    def _accept(self) -> None:
        for _ in range(_ACCEPTS):
            if not self._socket:
                return
            try:
                sock, address = self._socket.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _SHORT:
                    self._pause()
                    return
                continue  # that one was gone before we came to it
            sock.setblocking(False)
            is_last = sock.fileno() >= self._full_at
            self._accepted(sock, address)
            if is_last and self._socket:
                self._pause()
                return


def source_of(host: str) -> bytes:
    """What limits by source count: an IPv4 address, or the /64 of an IPv6 one, within which a host picks as it likes."""
    return ipaddress.ip_address(host.partition("%")[0]).packed[:8]
