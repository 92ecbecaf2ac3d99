"""The client's guard against browser pages: in whatever pieces a connection's bytes come, the same of them pass; to a service that
speaks HTTP only whole requests for this address and of no other site, to any other nothing that begins as HTTP."""

import h11

from fuzz.feed import Feed, pieces
from zts_gateway.guard import Guard, Http, NotHttp, Refused

PORT = 8080
HOSTS = (b"127.0.0.1:8080", b"localhost:8080")
_HEAD = b"GET / HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n"
_UPGRADE = b"Upgrade: websocket\r\nConnection: Upgrade\r\n"
_BODY = b"POST /x HTTP/1.1\r\nHost: localhost:8080\r\n"
# which guard, cuts, bytes
SEEDS = [
    b"\0\0" + _HEAD + b"\r\n",
    b"\0\5\1\2\3\4\5" + _HEAD + b"Origin: http://localhost:8080\r\n\r\n" + _HEAD + b"\r\n",
    b"\0\0" + _HEAD + b"Origin: http://evil.example\r\n\r\n",
    b"\0\0" + _HEAD + b"Host: evil.example\r\n\r\n",
    b"\0\0GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n",
    b"\0\0" + _BODY + b"Content-Length: 5\r\n\r\nhello" + _HEAD + b"\r\n",
    b"\0\3\x40\1\1" + _BODY + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n" + _HEAD + b"\r\n",
    b"\0\0" + _BODY + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    b"\0\0" + _HEAD + _UPGRADE + b"\r\n",
    b"\0\0" + _HEAD + _UPGRADE + b"\r\nGET / HTTP/1.1\r\nHost: evil\r\n\r\n",
    b"\0\0" + _HEAD + b"\r\n" + _HEAD + _UPGRADE + b"\r\n",
    b"\0\0" + _HEAD + b"Sec-Fetch-Site: cross-site\r\n\r\n",
    b"\0\0GET http://127.0.0.1:8080/ HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n\r\n",
    b"\1\0GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    b"\1\3\0\0\0SSH-2.0-client\r\n",
    b"\1\0PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"\1\2\1\1CONNECT {}",
]


def _pass(guard: Guard, chunks: list[bytes]) -> tuple[bytes, bool]:
    """What passes, and whether the connection was refused."""
    passed = b""
    try:
        for chunk in chunks:
            passed += guard.take(chunk)
    except Refused as refused:
        assert len(refused.answer) < 1000 and str(refused).isprintable()
        return passed, True
    return passed, False


def one(data: bytes) -> None:
    feed = Feed(data)
    is_http = not feed.number() & 1
    sizes = feed.take(feed.number())
    said = feed.take(8192)
    guards: list[Guard] = [Http(PORT), Http(PORT)] if is_http else [NotHttp(), NotHttp()]
    whole, refused = _pass(guards[0], [said])
    cut, refused_too = _pass(guards[1], list(pieces(said, sizes)))
    assert refused == refused_too
    if is_http:
        first, second = _read(whole), _read(cut)
        # Chunks of a body may pass in other pieces. What comes in one piece with what is refused does not pass either.
        assert first == second or (refused and first == second[: len(first)]), (first, second)
    else:
        assert cut == whole
        assert said.startswith(cut + guards[1].end()) and not (refused and cut)
        assert not cut.startswith((b"GET /", b"POST /", b"HEAD /", b"PUT /", b"OPTIONS *", b"PRI * HTTP/2.0", b"DELETE http://"))


def _read(passed: bytes) -> list[bytes]:
    """The requests in it, without the last's body if that is not whole; each is for this address and comes from no other site."""
    found: list[bytes] = []
    while passed:
        parser = h11.Connection(h11.SERVER)
        parser.receive_data(passed)
        while True:
            event = parser.next_event()
            if event is h11.NEED_DATA:
                return found
            if isinstance(event, h11.EndOfMessage):
                break
            if isinstance(event, h11.Data):
                found[-1] += bytes(event.data)
                continue
            assert isinstance(event, h11.Request)
            fields = [(name.lower(), value) for name, value in event.headers]
            assert [value.lower() for name, value in fields if name == b"host"] in [[host] for host in HOSTS]
            assert all(value in [b"http://" + host for host in HOSTS] for name, value in fields if name == b"origin")
            assert all(value in (b"same-origin", b"none") for name, value in fields if name == b"sec-fetch-site")
            found.append(repr((event.method, event.target, fields)).encode())
        passed = parser.trailing_data[0]
    return found
