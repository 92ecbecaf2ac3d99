"""Edge-triggered epoll inside the asyncio loop.

The epoll descriptor is itself watched by the loop, so a leg costs no asyncio transport, yet legs, broker, timers and
signals share one thread. A turn is bounded in time, after which the loop serves the others before the next one.
"""

import asyncio
import select
import socket
import time
from collections import deque
from typing import Final, Protocol

from zts_relay import log

_EVENTS: Final = select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET
_BATCH: Final = 256
_TURN_S: Final = 0.005  # the broker and the timers wait no longer than this and one job


class Handler(Protocol):
    """Of one socket. An exception from `ready` is a bug of ours: it is logged, and `abort` ends that leg alone."""

    def ready(self, events: int) -> None: ...

    def abort(self) -> None: ...


class Job(Protocol):
    """Work to be done soon, in bounded pieces."""

    def work(self) -> None: ...

    def abort(self) -> None: ...


class Pump:
    """Made within a running loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._epoll = select.epoll()
        self._jobs: deque[Job] = deque()
        self._turn_is_due = False
        self.handlers: dict[int, Handler] = {}  # by descriptor; replaced as a connection goes through its stages
        self._loop.add_reader(self._epoll.fileno(), self._turn)

    def add(self, sock: socket.socket, handler: Handler) -> None:
        """Watch a non-blocking socket for both directions, edge by edge, until `close`."""
        self.handlers[sock.fileno()] = handler
        self._epoll.register(sock.fileno(), _EVENTS)

    def close(self, sock: socket.socket) -> None:
        """Closing takes it out of the epoll set too."""
        del self.handlers[sock.fileno()]
        sock.close()

    def fileno(self) -> int:
        return self._epoll.fileno()

    def queue(self, job: Job) -> None:
        self._jobs.append(job)
        self._be_due()

    def stop(self) -> None:
        """After all sockets are closed."""
        self._loop.remove_reader(self._epoll.fileno())
        self._epoll.close()
        self._jobs.clear()

    def _be_due(self) -> None:
        if not self._turn_is_due:
            self._turn_is_due = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._turn_is_due = True  # so that nothing below schedules another one
        end = time.monotonic() + _TURN_S
        while not self._epoll.closed:
            events = self._epoll.poll(0, _BATCH)
            for descriptor, mask in events:
                handler = self.handlers.get(descriptor)
                if handler:
                    try:
                        handler.ready(mask)
                    except Exception:
                        log.failure("leg")
                        handler.abort()
            for _ in range(len(self._jobs)):
                job = self._jobs.popleft()
                try:
                    job.work()
                except Exception:
                    log.failure("pair")
                    job.abort()
                if time.monotonic() > end:
                    break
            if time.monotonic() > end or not (self._jobs or events):
                break
        self._turn_is_due = False
        if self._jobs:
            self._be_due()
