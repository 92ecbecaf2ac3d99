"""Requests of HTTP/1 on their way from a client to a server: parsed, judged, and written anew. No input or output here."""

import h11

HEAD_MAX = 16 * 1024  # bytes of a request's head, and of a chunk's head or the trailers
_QUOTED_MAX = 80  # characters of what a stranger said, in a message

Fields = list[tuple[bytes, bytes]]  # of a head, with names as they were written


class Refused(Exception):
    """Nothing more of this connection is passed on. `answer` is what to say before it is closed; empty: break it off."""

    def __init__(self, reason: str, answer: bytes = b"") -> None:
        super().__init__(reason)
        self.answer = answer


class Requests:
    """The requests of one connection, each written anew from what was understood: the server cannot see others in the same bytes.

    A first request may ask for an upgrade: when the server answers 101, all that follows passes; else it is HTTP again. Nothing may
    follow before the answer. An upgrade that a later request asks for is left out, as any relay between may do (RFC 9110 section 7.8):
    its answer could not be told from those before it.
    """

    def __init__(self) -> None:
        self._parser = _parser()
        self._unparsed = b""
        self._head_bytes = 0  # that the parser has of a head
        self._in_head = True
        self._line = b""  # the head's first, as far as it has come
        self._chunked = False
        self._first = True  # no request has passed yet
        self._upgrade = False  # the request that is passing asks for one
        self._waits = False  # for the answer to that
        self._status = b""
        self._passes_all = False

    def judge(self, request: h11.Request, fields: Fields) -> Fields:
        """The fields to pass on of those it has. Raises Refused, by `refuse`."""
        raise NotImplementedError

    def take(self, data: bytes) -> bytes:
        """What of the client's bytes, and of those held back, may pass on now. Raises Refused."""
        if self._passes_all:
            return data
        self._unparsed += data
        passing: list[bytes] = []
        while self._unparsed:
            if self._waits:
                raise self.refuse("400 Bad Request", "it says more before its request for an upgrade was answered")
            passing += self._parse()
        return b"".join(passing)

    def end(self) -> bytes:
        """What may still pass when the client has ended."""
        return b""

    def hear(self, data: bytes) -> None:
        """What the server says; all of it passes."""
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
        if self._in_head:
            self._look_at_line(piece)
        try:
            self._parser.receive_data(piece)
            while (event := self._parser.next_event()) is not h11.NEED_DATA:
                if isinstance(event, h11.Request):
                    passing.append(self._write_head(event))
                elif isinstance(event, h11.Data):
                    passing.append(self._write_data(event.data))
                elif isinstance(event, h11.EndOfMessage):
                    passing.append(b"0\r\n" + write_fields(event.headers.raw_items()) if self._chunked else b"")
                    self._begin()
                    return passing
        except h11.RemoteProtocolError as error:
            if error.error_status_hint == 431:
                raise self._too_large() from None
            raise self._not_http() from None
        if self._in_head:
            self._head_bytes += len(piece)
            if self._head_bytes == HEAD_MAX:
                raise self._too_large()
        return passing

    def _look_at_line(self, piece: bytes) -> None:
        """The parser waits for a whole head, and who speaks something else may wait for an answer to its first line."""
        if not self._line.endswith(b"\n"):
            line, newline, _ = (self._line + piece).lstrip(b"\r\n").partition(b"\n")
            self._line = line + newline
            if newline and not line.rpartition(b" ")[2].startswith(b"HTTP/"):
                raise self._not_http()

    def _begin(self) -> None:
        """The next request, which may have begun in what the parser has."""
        self._unparsed = self._parser.trailing_data[0] + self._unparsed
        self._parser = _parser()
        self._head_bytes = 0
        self._in_head = True
        self._line = b""
        self._waits = self._upgrade

    def _write_head(self, request: h11.Request) -> bytes:
        """The head to pass on. Raises Refused."""
        if request.http_version not in (b"1.0", b"1.1"):
            raise self.refuse("400 Bad Request", "this is not HTTP/1.0 or HTTP/1.1", request)
        fields = self.judge(request, request.headers.raw_items())
        self._chunked = bool(values(request, b"transfer-encoding"))
        if self._chunked and (values(request, b"content-length") or request.http_version == b"1.0"):
            raise self.refuse("400 Bad Request", "the request says in two ways how long its body is", request)
        self._upgrade = self._first and bool(values(request, b"upgrade"))
        kept = [item for item in fields if self._upgrade or item[0].lower() != b"upgrade"]
        self._in_head = self._first = False
        return b"%b %b HTTP/%b\r\n" % (request.method, request.target, request.http_version) + write_fields(kept)

    def _write_data(self, data: bytes) -> bytes:
        return b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else bytes(data)

    def _not_http(self) -> Refused:
        return self.refuse("400 Bad Request", "this is no HTTP/1 request that can be understood")

    def _too_large(self) -> Refused:
        return self.refuse("431 Request Header Fields Too Large", f"a request's head is longer than {HEAD_MAX} bytes")

    def refuse(self, status: str, reason: str, request: h11.Request | None = None) -> Refused:
        """Only the first request gets an answer: a later one's could come into the midst of the server's to those before.

        A program that finds a connection broken off which it had used before tries again with a new one.
        """
        body = f"zts: {reason}\n".encode()
        fields = (b"Content-Type: text/plain; charset=utf-8", b"Content-Length: %d" % len(body), b"X-Content-Type-Options: nosniff")
        head = b"\r\n".join((b"HTTP/1.1 " + status.encode(), *fields, b"Connection: close", b"", b""))
        answer = head if request is not None and request.method == b"HEAD" else head + body
        return Refused(f"refused a request ({status[:3]}): {reason}", answer if self._first else b"")


def _parser() -> h11.Connection:
    return h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_MAX)


def write_fields(fields: Fields) -> bytes:
    return b"".join(b"%b: %b\r\n" % field for field in fields) + b"\r\n"


def values(message: h11.Request | h11.Response, name: bytes) -> list[bytes]:
    """Of all fields of that name, which is in lower case."""
    return [value for found, value in message.headers if found == name]


def quote(said: bytes) -> str:
    """For a terminal and a text: printable, and short."""
    return ascii(said.decode("latin-1"))[:_QUOTED_MAX] if said else "nobody named"
