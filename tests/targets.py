"""TCP programs on 127.0.0.1 that stand for what a device offers."""

import contextlib
import socketserver
import threading
from types import TracebackType
from typing import Any

WAIT_S = 90.0


class Target(socketserver.ThreadingTCPServer):
    """`with Target(handle) as target:` calls `handle(sock)` in a thread for each connection."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, handle: Any) -> None:
        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                self.request.settimeout(WAIT_S)
                with contextlib.suppress(OSError):  # the other side may end it in any way it likes
                    handle(self.request)

        super().__init__(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self.serve_forever, args=(0.02,))

    @property
    def address(self) -> str:
        host, port = self.server_address[:2]
        return f"{host!s}:{port}"

    def __enter__(self) -> "Target":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()


def read_all(sock: Any) -> bytes:
    data = bytearray()
    while got := sock.recv(1 << 16):
        data += got
    return bytes(data)
