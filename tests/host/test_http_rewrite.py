"""What a target behind an http service is told, and what of its answers comes back, in any pieces."""

import pytest

from zts_gateway.http_requests import HEAD_MAX, Refused
from zts_gateway.http_rewrite import FromTarget, ToTarget, address_of

ADDRESS = b"192.168.1.20:8080"
GET = b"GET /a?b HTTP/1.1\r\nHost: 127.0.0.1:5000\r\n%b\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
MOVED = b"HTTP/1.1 302 Found\r\nServer: x\r\nLocation: %b\r\nContent-Length: 0\r\n\r\n"

STEPS = (1, 2, 7, 61, 1 << 20)


def pieces(data: bytes, step: int) -> list[bytes]:
    return [data[at : at + step] for at in range(0, len(data), step)]


def told(said: bytes, step: int = 1 << 20) -> bytes:
    one = ToTarget(ADDRESS)
    return b"".join(one.take(piece) for piece in pieces(said, step))


def back(requests: bytes, answer: bytes, step: int = 1 << 20) -> bytes:
    ours = ToTarget(ADDRESS)
    ours.take(requests)
    theirs = FromTarget(ours.asked, ADDRESS)
    return b"".join(theirs.take(piece) for piece in pieces(answer, step)) + theirs.end()


def test_the_targets_own_name() -> None:
    assert address_of("10.0.0.1", 8080) == b"10.0.0.1:8080" and address_of("printer", 80) == b"printer"
    assert address_of("::1", 80) == b"[::1]" and address_of("::1", 81) == b"[::1]:81"


# --- requests ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "becomes"),
    [
        (b"", b""),
        (b"ORIGIN: http://127.0.0.1:5000\r\n", b"ORIGIN: http://192.168.1.20:8080\r\n"),
        (b"Referer: http://127.0.0.1:5000/setup?x=1\r\n", b"Referer: http://192.168.1.20:8080/setup?x=1\r\n"),
        # What is of another place stays that, for the target to judge.
        (b"Origin: null\r\n", None),
        (b"Origin: http://127.0.0.1:50001\r\n", None),
        (b"Origin: https://127.0.0.1:5000\r\n", None),
        (b"Origin: http://evil.test\r\nReferer: http://evil.test/http://127.0.0.1:5000/\r\n", None),
        (b"X-Forwarded-Host: 127.0.0.1:5000\r\nCookie: a=http://127.0.0.1:5000\r\nAccept: */*\r\n", None),
    ],
)
@pytest.mark.parametrize("step", STEPS)
def test_every_request_is_to_the_target(field: bytes, becomes: bytes | None, step: int) -> None:
    expected = b"GET /a?b HTTP/1.1\r\nHost: 192.168.1.20:8080\r\n%b\r\n" % (field if becomes is None else becomes)
    assert told(GET % field * 3, step) == expected * 3


@pytest.mark.parametrize("step", STEPS)
def test_bodies_pass(step: int) -> None:
    head = b"POST / HTTP/1.1\r\nHost: %b\r\n"
    sized = b"Content-Length: 40\r\n\r\nGET / HTTP/1.1\r\nHost: 127.0.0.1:5000\r\n\r\n"
    assert told((head % b"127.0.0.1:5000" + sized) * 2, step) == (head % ADDRESS + sized) * 2
    chunked = b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
    said = told((head % b"localhost" + chunked) * 2, step)
    if step == STEPS[-1]:
        assert said == (head % ADDRESS + chunked) * 2
    assert said.count(ADDRESS) == 2 and said.endswith(b"\r\n0\r\n\r\n")


def test_old_http() -> None:
    assert told(b"GET / HTTP/1.0\r\n\r\n") == b"GET / HTTP/1.0\r\n\r\n"
    assert told(b"GET / HTTP/1.0\r\nHost: x\r\n\r\n") == b"GET / HTTP/1.0\r\nHost: 192.168.1.20:8080\r\n\r\n"


@pytest.mark.parametrize(
    "said",
    [
        b"SSH-2.0-OpenSSH_9.7\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET http://192.168.1.1/ HTTP/1.1\r\nHost: 192.168.1.1\r\n\r\n",
        b"CONNECT 192.168.1.1:22 HTTP/1.1\r\nHost: 192.168.1.1:22\r\n\r\n",
        b"CONNECT / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
    ],
)
def test_what_is_no_request_to_a_web_server_is_answered(said: bytes) -> None:
    with pytest.raises(Refused) as refused:
        told(said)
    assert refused.value.answer.startswith(b"HTTP/1.1 400 ")
    # Behind a request that passed it is broken off: an answer could come into the midst of another.
    with pytest.raises(Refused) as refused:
        told(GET % b"" + said)
    assert refused.value.answer == b""


def test_a_head_has_a_bound() -> None:
    with pytest.raises(Refused) as refused:
        told(GET % (b"a: " + b"b" * HEAD_MAX + b"\r\n"))
    assert refused.value.answer.startswith(b"HTTP/1.1 431 ")


# --- answers -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("location", "becomes"),
    [
        (b"http://192.168.1.20:8080/login?to=http://192.168.1.20:8080/", b"http://127.0.0.1:5000/login?to=http://192.168.1.20:8080/"),
        (b"HTTP://192.168.1.20:8080", b"http://127.0.0.1:5000"),
        (b"/login", b"/login"),
        (b"http://192.168.1.20:80801/", b"http://192.168.1.20:80801/"),
        (b"http://192.168.1.20/", b"http://192.168.1.20/"),
        (b"https://192.168.1.20:8080/", b"https://192.168.1.20:8080/"),
        (b"http://example.org/http://192.168.1.20:8080/", b"http://example.org/http://192.168.1.20:8080/"),
    ],
)
@pytest.mark.parametrize("step", STEPS)
def test_a_redirect_leads_to_where_the_client_is(location: bytes, becomes: bytes, step: int) -> None:
    answers = OK + MOVED % location + b"HTTP/1.1 100 Continue\r\n\r\n" + MOVED % location + OK
    expected = OK + MOVED % becomes + b"HTTP/1.1 100 Continue\r\n\r\n" + MOVED % becomes + OK
    assert back(GET % b"" * 4, answers, step) == expected


CLOSED = b"HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 302 Found\r\nLocation: http://192.168.1.20:8080/\r\n\r\n"


@pytest.mark.parametrize(
    ("requests", "answers"),
    [
        # Bodies are no heads, however they end.
        (GET % b"", CLOSED),
        (GET % b"", CLOSED.replace(b"HTTP/1.1 200 OK\r\n", b"HTTP/1.0 200 OK\n")),
        (
            GET % b"" * 2,
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\nA: b\r\n\r\n" % (len(CLOSED), CLOSED) + OK,
        ),
        (b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n" * 2, b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n" * 2),
        (GET % b"" * 2, b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n" * 2),
        # After an upgrade nothing is HTTP.
        (
            GET % b"Upgrade: websocket\r\nConnection: Upgrade\r\n",
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n" + CLOSED,
        ),
        # What small web servers say.
        (GET % b"", b"HTTP/1.1 200\r\n\r\nno reason"),
        (GET % b"", b"HTTP/1.1 200 OK\nServer : odd\nLocation: http://192.168.1.20:8080/\n\nbody"),
        (GET % b"", b"<html>HTTP/0.9</html>"),
        (GET % b"", b"\x00\xff binary"),
        (GET % b"", b"HTTP/1.1 200 OK\r\nContent-Le"),
        (GET % b"", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok and more than it said"),
        (GET % b"", b"HTTP/1.1 200 OK\r\nX: " + b"y" * 3 * HEAD_MAX + b"\r\n\r\nlong"),
        (GET % b"", OK + b"HTTP/1.1 408 Request Timeout\r\nLocation: http://192.168.1.20:8080/\r\n\r\n"),
        (b"", b"HTTP/1.1 503 Busy\r\n\r\n"),
        (b"GET / HTTP/1.0\r\n\r\n", MOVED % b"http://192.168.1.20:8080/"),
    ],
)
@pytest.mark.parametrize("step", STEPS)
def test_all_else_comes_as_it_is(requests: bytes, answers: bytes, step: int) -> None:
    assert back(requests, answers, step) == answers


def test_nothing_of_a_body_is_held_back() -> None:
    ours = ToTarget(ADDRESS)
    ours.take(GET % b"")
    theirs = FromTarget(ours.asked, ADDRESS)
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
    assert theirs.take(head[:-1]) == b"" and theirs.take(head[-1:]) == head
    for event in (b"data: 1\n\n", b"d", b"ata: 2\n\n"):
        assert theirs.take(event) == event
