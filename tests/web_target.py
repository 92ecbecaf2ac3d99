"""An HTTP/1.1 program as it may stand behind a service: pages, uploads, WebSockets. It records what reaches it."""

import base64
import hashlib
import http.server
import queue
import threading
from types import TracebackType
from typing import Any

WAIT_S = 90.0
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 section 1.3


class WebTarget(http.server.ThreadingHTTPServer):
    """`with WebTarget(pages) as web:` serves `pages` by path. A POST or PUT is answered with the SHA-256 of its body.

    `/report` puts its body into `reports`; `/ws` is a WebSocket that says back what it is told, if that is short. `requests` are all
    request lines, `connections` counts who came.
    """

    daemon_threads = True

    def __init__(self, pages: dict[str, str]) -> None:
        self.pages = pages
        self.reports: queue.Queue[str] = queue.Queue()
        self.requests: list[str] = []
        self.connections = 0
        super().__init__(("127.0.0.1", 0), _Handler)
        self._thread = threading.Thread(target=self.serve_forever, args=(0.02,))

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser may break off as it likes."""

    def __enter__(self) -> "WebTarget":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = WAIT_S
    server: WebTarget

    def setup(self) -> None:
        self.server.connections += 1
        super().setup()

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def handle_expect_100(self) -> bool:
        self.server.requests.append("100-continue")
        return super().handle_expect_100()

    def do_GET(self) -> None:
        self.server.requests.append(self.requestline)
        if self.path == "/ws" and self.headers.get("Upgrade", "").lower() == "websocket":
            self._websocket()
        elif self.path in self.server.pages:
            self._answer(200, self.server.pages[self.path].encode(), "text/html; charset=utf-8")
        else:
            self._answer(404, b"")

    do_HEAD = do_GET

    def do_POST(self) -> None:
        self.server.requests.append(self.requestline)
        body = self._read_body()
        if self.path == "/report":
            self.server.reports.put(body.decode())
        self._answer(200, hashlib.sha256(body).hexdigest().encode())

    do_PUT = do_POST

    def _answer(self, status: int, body: bytes, kind: str = "text/plain") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _websocket(self) -> None:
        accept = base64.b64encode(hashlib.sha1(self.headers["Sec-WebSocket-Key"].encode() + _GUID).digest()).decode()
        self.send_response(101)
        for name, value in (("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Accept", accept)):
            self.send_header(name, value)
        self.end_headers()
        head = self.rfile.read(6)  # a short masked frame: kind, length, 4 bytes of mask
        said = bytes(byte ^ head[2 + i % 4] for i, byte in enumerate(self.rfile.read(head[1] & 0x7F)))
        self.wfile.write(bytes([head[0], len(said)]) + said)
        self.close_connection = True
