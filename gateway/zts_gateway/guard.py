"""What the local side of a connection through 127.0.0.1 may say: browser pages must not ride on it. No input or output here.

Any page in the user's browser can have it connect to 127.0.0.1 and say HTTP there. So a service that speaks something else gets
nothing that looks like HTTP, and one that speaks HTTP gets only requests that name this address and come from no other site.
"""

from typing import Protocol

import h11

HEAD_MAX = 16 * 1024  # bytes of a request's head, and of a chunk's head or the trailers
_QUOTED_MAX = 80  # characters of what a stranger said, in a message

# --- services that do not speak HTTP ---------------------------------------------------------------------------------------------

# What RFC 9112 section 3.2 lets follow a method: a path, an absolute URL, "*". So SQL's "DELETE FROM" or SIP's "OPTIONS sip:" is none.
_METHODS = (b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"PATCH", b"TRACE")
_FOLLOWING = (b"/", b"*", b"http://", b"https://")
# A host and port after CONNECT. NATS' "CONNECT {" is none.
_HOST_BEGINS = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789["
_HTTP_BEGINS = (
    *(method + b" " + following for method in _METHODS for following in _FOLLOWING),
    *(b"CONNECT " + bytes([first]) for first in _HOST_BEGINS),
    b"PRI * HTTP/2.0",  # RFC 9113 section 3.4
)


class Refused(Exception):
    """Nothing more of this connection is passed on. `answer` is what to say before it is closed; empty: break it off."""

    def __init__(self, reason: str, answer: bytes = b"") -> None:
        super().__init__(reason)
        self.answer = answer


class Guard(Protocol):
    """Sees both directions of one connection."""

    def take(self, data: bytes) -> bytes:
        """What of the local side's bytes, and of those held back, may pass on now. Raises Refused."""
        ...

    def end(self) -> bytes:
        """What may still pass when the local side has ended."""
        ...

    def hear(self, data: bytes) -> None:
        """What the device says; all of it passes."""
        ...


class NotHttp:
    """For a service that does not speak HTTP. Only a beginning that could become HTTP's is held back, 15 bytes at most."""

    def __init__(self) -> None:
        self._held = b""
        self._decided = False

    def take(self, data: bytes) -> bytes:
        if self._decided:
            return data
        self._held += data
        if self._held.startswith(_HTTP_BEGINS):
            raise Refused(
                "refused what looks like HTTP, as a page in a browser may say it; "
                'if the service does speak HTTP, give it kind = "http" in the device\'s configuration'
            )
        if any(begin.startswith(self._held) for begin in _HTTP_BEGINS):
            return b""
        self._decided = True
        return self.end()

    def end(self) -> bytes:
        held, self._held = self._held, b""
        return held

    def hear(self, data: bytes) -> None:
        pass


# --- services that do ------------------------------------------------------------------------------------------------------------


class Http:
    """For a service that speaks HTTP/1: every request on the connection is checked, and written anew from what was understood.

    So the device cannot see other requests in the same bytes. A first request may ask for an upgrade: when the device answers 101,
    all that follows passes; else it is HTTP again. Nothing may follow before the answer. An upgrade that a later request asks for
    is left out, as any relay between may do (RFC 9110 section 7.8): its answer could not be told from those before it.
    """

    def __init__(self, port: int) -> None:
        names = [f"{host}:{port}" for host in ("127.0.0.1", "localhost")] + ["127.0.0.1", "localhost"] * (port == 80)
        self._address = names[0]
        self._hosts = [name.encode() for name in names]
        self._origins = [b"http://" + host for host in self._hosts]
        self._parser = _parser()
        self._unparsed = b""
        self._head_bytes = 0  # that the parser has of a head
        self._in_head = True
        self._chunked = False
        self._first = True  # no request has passed yet
        self._upgrade = False  # the request that is passing asks for one
        self._waits = False  # for the answer to that
        self._status = b""
        self._passes_all = False

    def take(self, data: bytes) -> bytes:
        if self._passes_all:
            return data
        self._unparsed += data
        passing: list[bytes] = []
        while self._unparsed:
            if self._waits:
                raise self._refuse("400 Bad Request", "it says more before its request for an upgrade was answered")
            passing += self._parse()
        return b"".join(passing)

    def end(self) -> bytes:
        return b""

    def hear(self, data: bytes) -> None:
        if not self._waits:
            return
        self._status = (self._status + data)[: len(b"HTTP/1.1 101")]
        if len(self._status) == len(b"HTTP/1.1 101"):
            self._waits = False
            self._passes_all = self._status.startswith(b"HTTP/1.") and self._status.endswith(b" 101")

    def _parse(self) -> list[bytes]:
        """Gives the parser what it may have at once, and takes what it made of that."""
        room = HEAD_MAX - self._head_bytes if self._in_head else len(self._unparsed)
        piece, self._unparsed = self._unparsed[:room], self._unparsed[room:]
        passing = []
        try:
            self._parser.receive_data(piece)
            while (event := self._parser.next_event()) is not h11.NEED_DATA:
                if isinstance(event, h11.Request):
                    passing.append(self._check(event))
                elif isinstance(event, h11.Data):
                    passing.append(self._write_data(event.data))
                elif isinstance(event, h11.EndOfMessage):
                    passing.append(b"0\r\n" + _write_fields(event.headers.raw_items()) if self._chunked else b"")
                    self._begin()
                    return passing
        except h11.RemoteProtocolError as error:
            if error.error_status_hint == 431:
                raise self._too_large() from None
            raise self._refuse("400 Bad Request", "this is no HTTP/1 request that can be understood") from None
        if self._in_head:
            self._head_bytes += len(piece)
            if self._head_bytes == HEAD_MAX:
                raise self._too_large()
        return passing

    def _begin(self) -> None:
        """The next request, which may have begun in what the parser has."""
        self._unparsed = self._parser.trailing_data[0] + self._unparsed
        self._parser = _parser()
        self._head_bytes = 0
        self._in_head = True
        self._waits = self._upgrade

    def _check(self, request: h11.Request) -> bytes:
        """The head to pass on. Raises Refused."""
        head_only = request.method == b"HEAD"
        fields = [(name.lower(), value) for name, value in request.headers]

        def values(name: bytes) -> list[bytes]:
            return [value for found, value in fields if found == name]

        if request.http_version not in (b"1.0", b"1.1"):
            raise self._refuse("400 Bad Request", "this is not HTTP/1.0 or HTTP/1.1", head_only)
        hosts = values(b"host")
        if len(hosts) != 1 or hosts[0].lower() not in self._hosts:
            said = _quote(b", ".join(hosts))
            raise self._refuse("403 Forbidden", f"the request is for the host {said}, and this is {self._address}", head_only)
        if not (request.target.startswith(b"/") or (request.method == b"OPTIONS" and request.target == b"*")):
            raise self._refuse("403 Forbidden", f"the request is for {_quote(request.target)}, and this is no proxy", head_only)
        if any(origin not in self._origins for origin in values(b"origin")):
            raise self._refuse("403 Forbidden", f"the request comes from a page of {_quote(b', '.join(values(b'origin')))}", head_only)
        if any(site not in (b"same-origin", b"none") for site in values(b"sec-fetch-site")):
            raise self._refuse(
                "403 Forbidden", f"the request comes from another site's page; type http://{self._address}/ into the address bar", head_only
            )
        self._chunked = bool(values(b"transfer-encoding"))
        if self._chunked and (values(b"content-length") or request.http_version == b"1.0"):
            raise self._refuse("400 Bad Request", "the request says in two ways how long its body is", head_only)
        self._upgrade = self._first and bool(values(b"upgrade"))
        kept = [item for item in request.headers.raw_items() if self._upgrade or item[0].lower() != b"upgrade"]
        self._in_head = self._first = False
        return b"%b %b HTTP/%b\r\n" % (request.method, request.target, request.http_version) + _write_fields(kept)

    def _write_data(self, data: bytes) -> bytes:
        return b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else bytes(data)

    def _too_large(self) -> Refused:
        return self._refuse("431 Request Header Fields Too Large", f"a request's head is longer than {HEAD_MAX} bytes")

    def _refuse(self, status: str, reason: str, head_only: bool = False) -> Refused:
        """Only the first request gets an answer: a later one's could come into the midst of the device's to those before.

        A program that finds a connection broken off which it had used before tries again with a new one.
        """
        body = f"zts: {reason}\n".encode()
        fields = (b"Content-Type: text/plain; charset=utf-8", b"Content-Length: %d" % len(body), b"X-Content-Type-Options: nosniff")
        head = b"\r\n".join((b"HTTP/1.1 " + status.encode(), *fields, b"Connection: close", b"", b""))
        answer = head if head_only else head + body
        return Refused(f"refused a request ({status[:3]}): {reason}", answer if self._first else b"")


def _parser() -> h11.Connection:
    return h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_MAX)


def _write_fields(fields: "list[tuple[bytes, bytes]]") -> bytes:
    return b"".join(b"%b: %b\r\n" % field for field in fields) + b"\r\n"


def _quote(said: bytes) -> str:
    """For a terminal and a text: printable, and short."""
    return ascii(said.decode("latin-1"))[:_QUOTED_MAX] if said else "nobody named"
