"""What an http service on a gateway tells its target, and brings back: in whatever pieces it comes, the same; every request that passes
is to the target's own address, and of the answers nothing changes but a Location at that address."""

import h11

from fuzz.feed import Feed, pieces
from zts_gateway.http_requests import Refused
from zts_gateway.http_rewrite import FromTarget, ToTarget

ADDRESS = b"10.0.0.1:81"
_HEAD = b"GET / HTTP/1.1\r\nHost: localhost:8080\r\n"
_OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
_MOVED = b"HTTP/1.1 302 Found\r\nLocation: http://10.0.0.1:81/\r\nContent-Length: 0\r\n\r\n"
# cuts, length of the requests, requests, answers
SEEDS = [
    b"\0\0\x29" + _HEAD + b"\r\n" + _OK,
    b"\3\1\2\3\0\x29" + _HEAD + b"\r\n" + _MOVED,
    b"\0\0\x52" + (_HEAD + b"\r\n") * 2 + _MOVED + _MOVED,
    b"\0\0\x5a" + _HEAD + b"Origin: http://localhost:8080\r\nReferer: http://x/\r\n\r\n" + _OK,
    b"\0\0\x4f" + _HEAD + b"Upgrade: websocket\r\nConnection: Upgrade\r\n\r\n" + b"HTTP/1.1 101 Yes\r\n\r\n" + _MOVED,
    b"\0\0\x5c" + b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n" + _OK,
    b"\0\0\x1b" + b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n" + b"HTTP/1.1 204 No\r\n\r\n",
    b"\0\0\x29" + _HEAD + b"\r\n" + b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
    b"\0\0\x12" + b"GET / HTTP/1.0\r\n\r\n" + b"HTTP/1.0 200 OK\r\n\r\n" + _MOVED,
    b"\0\0\5SSH-2" + _OK,
    b"\0\0\0" + _OK,
]


def _tell(chunks: list[bytes]) -> tuple[ToTarget, bytes, bool]:
    """(requests, what passes, whether it was refused)."""
    requests, passed = ToTarget(ADDRESS), b""
    try:
        for chunk in chunks:
            passed += requests.take(chunk)
    except Refused as refused:
        assert len(refused.answer) < 1000 and str(refused).isprintable()
        return requests, passed, True
    return requests, passed, False


def _hear(requests: ToTarget, chunks: list[bytes]) -> bytes:
    answers = FromTarget(requests.asked.copy(), ADDRESS)
    return b"".join(answers.take(chunk) for chunk in chunks) + answers.end()


def one(data: bytes) -> None:
    feed = Feed(data)
    sizes = feed.take(feed.number())
    said = feed.take(feed.number(2))
    heard = feed.rest()
    requests, passed, refused = _tell([said])
    _, cut, refused_too = _tell(list(pieces(said, sizes)))
    assert refused == refused_too
    _check(passed)
    _check(cut)
    back = _hear(requests, [heard] if heard else [])
    assert back == _hear(requests, list(pieces(heard, sizes)))
    if b"location" not in heard.lower() or b"http://" + ADDRESS not in heard.lower():
        assert back == heard


def _check(passed: bytes) -> None:
    """That all requests in it are to ADDRESS."""
    while passed:
        parser = h11.Connection(h11.SERVER)
        parser.receive_data(passed)
        while not isinstance(event := parser.next_event(), h11.EndOfMessage):
            if event is h11.NEED_DATA:
                return
            if isinstance(event, h11.Request):
                assert [value for name, value in event.headers if name == b"host"] in ([ADDRESS], [])
                assert event.target.startswith((b"/", b"*")) and event.method != b"CONNECT"
        passed = parser.trailing_data[0]
