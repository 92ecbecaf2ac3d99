"""What an HTTP service on a Linux gateway says to its target: what a browser that called it by its own address would have said.

A browser on the laptop calls 127.0.0.1:PORT, and many a small web server rejects that name, or takes it for another's. So Host is the
target's, and so are Origin and Referer where they named the same address as Host. In answers a Location at the target's own address
is led back to the client's, as a redirect made of the Host it was told would lead to where no browser can go. No input or output here.
"""

from collections import deque
from typing import NamedTuple

import h11

from zts_gateway.http_requests import HEAD_MAX, Fields, Requests, values, write_fields

_HTTP_PORT = 80


class Asked(NamedTuple):
    """What must be known of a request to follow its answer: `origin` is the client's name for the target, b"http://127.0.0.1:8080"."""

    method: bytes
    upgrade: bool
    origin: bytes


def address_of(host: str, port: int) -> bytes:
    """The target as Host has it."""
    name = f"[{host}]" if ":" in host else host
    return (name if port == _HTTP_PORT else f"{name}:{port}").encode()


class ToTarget(Requests):
    """The requests of one connection, for the target at `address`."""

    def __init__(self, address: bytes) -> None:
        super().__init__()
        self.asked: deque[Asked] = deque()
        self._address = address

    def judge(self, request: h11.Request, fields: Fields) -> Fields:
        if not (request.target.startswith(b"/") or request.target == b"*") or request.method == b"CONNECT":
            raise self.refuse("400 Bad Request", "this is a web server and no proxy", request)
        host = b"".join(values(request, b"host"))
        ours, theirs = b"http://" + host.lower(), b"http://" + self._address
        self.asked.append(Asked(request.method, bool(values(request, b"upgrade")), ours if host else b""))

        def rewrite(name: bytes, value: bytes) -> bytes:
            if name == b"host":
                return self._address
            return replace_origin(value, ours, theirs) if name in (b"origin", b"referer") else value

        return [(name, rewrite(name.lower(), value)) for name, value in fields]


class FromTarget:
    """The answers to these requests. All bytes pass as they are, but for a head with a Location at `address`; what cannot be
    understood, and all that follows it, passes too.
    """

    def __init__(self, asked: deque[Asked], address: bytes) -> None:
        self._asked = asked
        self._origin = b"http://" + address
        self._parser: h11.Connection | None = None  # of an answer that has begun
        self._now = Asked(b"", False, b"")  # what it answers
        self._held = b""  # of its head
        self._in_head = False
        self._passes_all = False

    def take(self, data: bytes) -> bytes:
        """What passes on of the target's bytes, and of those held back."""
        passing = []
        while data and not self._passes_all:
            if self._parser is None and not self._begin():
                break
            part, data = self._follow(data)
            passing.append(part)
        return b"".join(passing) + data

    def end(self) -> bytes:
        """What may still pass when the target has ended."""
        held, self._held = self._held, b""
        return held

    def _begin(self) -> bool:
        """Whether there is a request to be answered. A target may say something unasked before it closes the connection."""
        if not self._asked:
            self._passes_all = True
            return False
        self._now = self._asked.popleft()
        self._in_head = True
        self._parser = h11.Connection(h11.CLIENT, max_incomplete_event_size=HEAD_MAX)
        upgrade = [("Upgrade", "x"), ("Connection", "upgrade")] if self._now.upgrade else []
        self._parser.send(h11.Request(method=self._now.method, target="/", headers=[("Host", "x"), *upgrade]))
        self._parser.send(h11.EndOfMessage())
        return True

    def _follow(self, data: bytes) -> tuple[bytes, bytes]:
        """(what passes, what comes after this answer)."""
        parser = self._parser
        assert parser
        passing = b""
        left = self._held + data  # not passed yet
        self._held = b""
        try:
            parser.receive_data(data)
            while (event := parser.next_event()) is not h11.NEED_DATA and event is not h11.PAUSED:
                rest = parser.trailing_data[0]
                if isinstance(event, h11.Response | h11.InformationalResponse):
                    passing += self._write_head(left[: len(left) - len(rest)], event)
                    left = rest
                    self._in_head = isinstance(event, h11.InformationalResponse)
                    self._passes_all = event.status_code == 101
                elif isinstance(event, h11.EndOfMessage):
                    self._parser = None
                    return passing + left[: len(left) - len(rest)], rest
        except h11.RemoteProtocolError:
            self._passes_all = True
        if self._in_head and not self._passes_all:
            self._held = left
            return passing, b""
        return passing + left, b""

    def _write_head(self, head: bytes, answer: h11.Response | h11.InformationalResponse) -> bytes:
        """As it came, unless a Location must change."""
        fields = answer.headers.raw_items()
        changed = [
            (name, replace_origin(value, self._origin, self._now.origin) if name.lower() == b"location" else value)
            for name, value in fields
        ]
        if changed == fields or not self._now.origin:
            return head
        return head[: head.index(b"\n") + 1] + write_fields(changed)


def replace_origin(value: bytes, old: bytes, new: bytes) -> bytes:
    """A URL with `new` in place of `old`, if that is where it leads."""
    begins = value[: len(old)].lower() == old.lower() and value[len(old) : len(old) + 1] in (b"", b"/", b"?", b"#")
    return new + value[len(old) :] if begins else value
