"""What passes the guard of a local port, and what does not, in any pieces."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zts_gateway import guard
from zts_gateway.guard import Http, NotHttp, Refused
from zts_gateway.http_requests import HEAD_MAX

PORT = 8080
HOST = b"Host: 127.0.0.1:8080\r\n"
GET = b"GET / HTTP/1.1\r\n" + HOST + b"\r\n"


def refusal(say: bytes, before: guard.Guard | None = None) -> Refused:
    with pytest.raises(Refused) as raised:
        (before or Http(PORT)).take(say)
    return raised.value


def status(say: bytes) -> bytes:
    """Of the answer to a first request that is refused."""
    answer = refusal(say).answer
    head, _, body = answer.partition(b"\r\n\r\n")
    assert f"Content-Length: {len(body)}".encode() in head or say.startswith(b"HEAD ")
    assert b"\r\nConnection: close" in head and b"Access-Control" not in head
    return head[9:12]


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    ends = sorted({cut % (len(data) + 1) for cut in cuts} | {len(data)})
    return [data[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def passed(one: guard.Guard, parts: list[bytes]) -> bytes:
    return b"".join(one.take(part) for part in parts if part)


# --- services that do not speak HTTP -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "say",
    [b"%b / HTTP/1.1\r\n" % method for method in (b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"PATCH", b"TRACE")]
    + [
        b"GET http://127.0.0.1/ HTTP/1.1\r\n",
        b"OPTIONS * HTTP/1.1\r\n",
        b"CONNECT host:22 HTTP/1.1\r\n",
        b"CONNECT [::1]:22 HTTP/1.1\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
)
def test_http_to_another_service_is_refused_in_any_pieces(say: bytes) -> None:
    for cut in range(1, len(say)):
        one = NotHttp()
        with pytest.raises(Refused, match='kind = "http"') as raised:
            for part in (say[:cut], say[cut:]):
                assert one.take(part) == b""
        assert raised.value.answer == b""
    one, held = NotHttp(), 0
    with pytest.raises(Refused):
        for byte in say:
            assert one.take(bytes([byte])) == b""
            held += 1
    assert held < 15


@pytest.mark.parametrize(
    "say",
    [
        b"SSH-2.0-OpenSSH_9.7\r\n",
        b"PING\r\n",
        b"GET key\r\n",
        b"get key\r\n",
        b"GETTY",
        b"DELETE FROM x;",
        b"POST\r\n",
        b"CONNECT {}\r\n",
        b"CONNECT\naccept-version:1.2\n\n",
        b"OPTIONS sip:a@b SIP/2.0\r\n",
        b"HELO me\r\n",
        b"\x16\x03\x01",
        b"\0",
        b"PRI * HTTP/1.1\r\n",
        b"\r\n\x03",
    ],
)
def test_other_protocols_pass_unchanged_in_any_pieces(say: bytes) -> None:
    for cut in range(len(say)):
        one = NotHttp()
        assert passed(one, [say[:cut], say[cut:]]) + one.end() == say
    assert passed(NotHttp(), [bytes([byte]) for byte in say]) == say


def test_only_the_beginning_is_looked_at_and_held() -> None:
    one = NotHttp()
    assert one.take(b"S") == b"S"
    assert one.take(GET) == GET
    one = NotHttp()
    assert one.take(b"G") == b"" and one.take(b"E") == b"" and one.take(b"!") == b"GE!"
    assert one.take(GET) == GET
    one = NotHttp()
    assert one.take(b"GET") == b"" and one.end() == b"GET" and one.end() == b""


# --- services that do: who may ask -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [
        b"",
        b"Origin: http://127.0.0.1:8080\r\n",
        b"origin: http://localhost:8080\r\n",
        b"Sec-Fetch-Site: same-origin\r\nSec-Fetch-Mode: cors\r\n",
        b"Sec-Fetch-Site: none\r\n",
        b"Referer: http://evil.test/\r\nX-Forwarded-Host: evil.test\r\n",
    ],
)
def test_our_own_requests_pass(fields: bytes) -> None:
    for host in (b"127.0.0.1:8080", b"localhost:8080", b"LocalHost:8080"):
        for version in (b"1.0", b"1.1"):
            request = b"GET /a?b=c HTTP/%b\r\nHost: %b\r\n%b\r\n" % (version, host, fields)
            assert Http(PORT).take(request) == request


@pytest.mark.parametrize(
    "fields",
    [
        HOST + b"Origin: http://evil.test\r\n",
        HOST + b"Origin: null\r\n",
        HOST + b"Origin: \r\n",
        HOST + b"Origin: http://127.0.0.1\r\n",
        HOST + b"Origin: http://127.0.0.1:80801\r\n",
        HOST + b"Origin: https://127.0.0.1:8080\r\n",
        HOST + b"Origin: http://127.0.0.1:8080.evil.test\r\n",
        HOST + b"Origin: http://127.0.0.1:8080 http://evil.test\r\n",
        HOST + b"Origin: http://127.0.0.1:8080\r\nOrigin: http://evil.test\r\n",
        HOST + b"Sec-Fetch-Site: cross-site\r\n",
        HOST + b"Sec-Fetch-Site: same-site\r\n",
        HOST + b"Sec-Fetch-Site: same-origin\r\nSec-Fetch-Site: cross-site\r\n",
        HOST + b"Sec-Fetch-Site: \r\n",
        b"Host: evil.test:8080\r\n",
        b"Host: evil.test\r\n",
        b"Host: 127.0.0.1\r\n",
        b"Host: 127.0.0.1:8081\r\n",
        b"Host: 127.0.0.1:08080\r\n",
        b"Host: 127.0.0.1.evil.test:8080\r\n",
        b"Host: a@127.0.0.1:8080\r\n",
        b"Host: [::1]:8080\r\n",
        b"Host: 2130706433:8080\r\n",
        b"Host: \r\n",
    ],
)
def test_a_strangers_request_is_refused(fields: bytes) -> None:
    for method in (b"GET", b"POST", b"HEAD", b"OPTIONS"):
        assert status(b"%b / HTTP/1.1\r\n%b\r\n" % (method, fields)) == b"403"
    # A WebSocket begins with a request.
    assert status(b"GET / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n%b\r\n" % fields) == b"403"


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (b"GET http://127.0.0.1:8080/ HTTP/1.1\r\n" + HOST + b"\r\n", b"403"),
        (b"GET http://evil.test/ HTTP/1.1\r\n" + HOST + b"\r\n", b"403"),
        (b"CONNECT 127.0.0.1:8080 HTTP/1.1\r\n" + HOST + b"\r\n", b"403"),
        (b"GET * HTTP/1.1\r\n" + HOST + b"\r\n", b"403"),
        (b"GET / HTTP/1.0\r\n\r\n", b"403"),
        (b"GET / HTTP/1.1\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\n" + HOST + HOST + b"\r\n", b"400"),
        (b"GET / HTTP/1.0\r\n" + HOST + HOST + b"\r\n", b"400"),
        (b"GET / HTTP/1.1\r\n" + HOST + b"Host: evil.test\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\n" + HOST + b"Host : evil.test\r\n\r\n", b"400"),
        (b"GET / HTTP/2.0\r\n" + HOST + b"\r\n", b"400"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"400"),
        (b"GET /\r\n\r\n", b"400"),
        (b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03", b"400"),
        (b"\r\n" + GET, b"400"),
        (b"SSH-2.0-x\r\n\r\n", b"400"),
        # Two lengths for one body are two readings of what follows.
        (b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", b"400"),
        (b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n", b"400"),
        (b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: +5\r\n\r\n", b"400"),
        (b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: gzip, chunked\r\n\r\n", b"400"),
        (b"POST / HTTP/1.0\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n", b"400"),
    ],
)
def test_what_is_no_plain_request_is_refused(request_: bytes, code: bytes) -> None:
    assert status(request_) == code


def test_port_80_goes_without_saying() -> None:
    for host in (b"127.0.0.1", b"localhost", b"localhost:80"):
        request = b"GET / HTTP/1.1\r\nHost: %b\r\nOrigin: http://%b\r\n\r\n" % (host, host)
        assert Http(80).take(request) == request


def test_a_head_has_a_bound() -> None:
    def head(size: int) -> bytes:
        start = b"GET / HTTP/1.1\r\n" + HOST + b"A: "
        return start + b"a" * (size - len(start) - 4) + b"\r\n\r\n"

    longest = head(HEAD_MAX)
    assert Http(PORT).take(longest) == longest
    assert passed(Http(PORT), [longest[:9000], longest[9000:]]) == longest
    assert Http(PORT).take(GET + longest) == GET + longest
    assert status(head(HEAD_MAX + 1)) == b"431"
    assert status(head(HEAD_MAX * 20)) == b"431"
    one = Http(PORT)
    assert one.take(longest[:-1]) == b""
    assert refusal(b"aaa", one).answer.startswith(b"HTTP/1.1 431 ")
    assert refusal(head(HEAD_MAX + 1), _after_one()).answer == b""


def test_an_answer_to_head_has_no_body() -> None:
    assert refusal(b"HEAD / HTTP/1.1\r\nHost: evil.test\r\n\r\n").answer.endswith(b"\r\n\r\n")


def test_what_a_stranger_said_is_shown_in_print_only() -> None:
    evil = b"http://\xff%b.test" % (b"\x80" * 200)
    refused = refusal(b"GET / HTTP/1.1\r\n" + HOST + b"Origin: " + evil + b"\r\n\r\n")
    assert str(refused).isascii() and str(refused).isprintable() and len(str(refused)) < 200


# --- services that do: every request on a connection -------------------------------------------------------------------------


def _after_one() -> Http:
    one = Http(PORT)
    assert one.take(GET) == GET
    return one


LENGTH = b"POST /l HTTP/1.1\r\n" + HOST + b"Content-Length: 32\r\n\r\nGET /body HTTP/1.1\r\nHost: evil\r\n"
CHUNKED = b"PUT /c HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n10\r\nGET / HTTP/1.1\r\n\r\n0\r\nT: x\r\n\r\n"
EXPECT = b"POST /e HTTP/1.1\r\n" + HOST + b"Expect: 100-continue\r\nContent-Length: 3\r\n\r\nabc"
SEVERAL = GET + LENGTH + CHUNKED + EXPECT + GET
EVIL = b"GET /evil HTTP/1.1\r\n" + HOST + b"Origin: http://evil.test\r\n\r\n"


def test_requests_follow_one_another() -> None:
    assert LENGTH.endswith(b"\r\n\r\n" + LENGTH[-32:])
    assert Http(PORT).take(SEVERAL) == SEVERAL


@given(st.lists(st.integers(0, 1 << 16), max_size=12))
def test_requests_in_any_pieces(cuts: list[int]) -> None:
    """A chunk that comes in pieces goes on in several chunks: what it says is the same."""
    assert _read(passed(Http(PORT), pieces(SEVERAL, cuts))) == _read(SEVERAL)


@given(st.lists(st.integers(0, 1 << 16), max_size=12))
def test_a_later_request_is_checked_too(cuts: list[int]) -> None:
    one, got = Http(PORT), b""
    with pytest.raises(Refused) as raised:
        for part in pieces(SEVERAL + EVIL, cuts):
            got += one.take(part) if part else b""
    assert raised.value.answer == b""
    assert b"evil.test" not in got and b"/evil" not in got


def _read(data: bytes) -> list[tuple[bytes, bytes, bytes]]:
    """The (head, body, trailers) of requests, by a parser that is not the guard's."""
    found = []
    while data:
        head, _, data = data.partition(b"\r\n\r\n")
        body = trailers = b""
        if b"chunked" in head:
            while size := int(data.partition(b"\r\n")[0], 16):
                data = data.partition(b"\r\n")[2]
                body, data = body + data[:size], data[size + 2 :]
            trailers, _, data = data.partition(b"\r\n\r\n")
        elif b"Content-Length: " in head:
            size = int(head.partition(b"Content-Length: ")[2].split()[0])
            body, data = data[:size], data[size:]
        found.append((head, body, trailers))
    return found


def test_a_body_that_breaks_its_framing_ends_it() -> None:
    one = Http(PORT)
    one.take(CHUNKED[: CHUNKED.index(b"5\r\nhello")])
    assert refusal(b"5\r\nhelloXX", one).answer == b""
    one = Http(PORT)
    one.take(CHUNKED[: CHUNKED.index(b"5\r\nhello")])
    assert refusal(b"-5\r\n", one).answer == b""


def test_what_is_passed_is_what_was_understood() -> None:
    """A folded line and a bare line feed mean different things to different parsers: the device gets neither."""
    request = b"GET / HTTP/1.1\n" + HOST + b"A: one\r\n two\r\n\r\n"
    assert Http(PORT).take(request) == b"GET / HTTP/1.1\r\n" + HOST + b"A: one two\r\n\r\n"
    # A chunk's extension is dropped.
    assert Http(PORT).take(CHUNKED.replace(b"5\r\n", b"5;x=y\r\n")) == CHUNKED


def test_half_a_request_is_not_passed_on() -> None:
    one = Http(PORT)
    assert one.take(GET[:-1]) == b"" and one.end() == b""


# --- upgrades ----------------------------------------------------------------------------------------------------------------

UPGRADE = b"GET /ws HTTP/1.1\r\n" + HOST + b"Origin: http://127.0.0.1:8080\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
FRAME = b"\x81\x85abcdhello"


def test_an_upgrade_that_the_device_takes_passes_all() -> None:
    for version in (b"1.1", b"1.0"):
        one = Http(PORT)
        assert one.take(UPGRADE) == UPGRADE
        for byte in b"HTTP/%b 101 Switching Protocols\r\n\r\n" % version:
            one.hear(bytes([byte]))
        assert one.take(FRAME) == FRAME and one.take(EVIL) == EVIL


@pytest.mark.parametrize("answer", [b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 426 Upgrade Required\r\n\r\n", b"SMTP/1.1 101"])
def test_an_upgrade_that_it_does_not_take_leaves_http(answer: bytes) -> None:
    one = Http(PORT)
    assert one.take(UPGRADE) == UPGRADE
    one.hear(answer)
    assert one.take(GET) == GET
    refusal(EVIL, one)


def test_nothing_follows_an_upgrade_before_its_answer() -> None:
    refusal(UPGRADE + EVIL)
    one = Http(PORT)
    one.take(UPGRADE)
    assert refusal(FRAME, one).answer == b""
    one = Http(PORT)
    one.take(UPGRADE)
    one.hear(b"HTTP/1.1 10")
    refusal(GET, one)


def test_an_upgrade_by_a_later_request_is_left_out() -> None:
    one = _after_one()
    assert one.take(UPGRADE) == UPGRADE.replace(b"Upgrade: websocket\r\n", b"")
    one.hear(b"HTTP/1.1 101 x\r\n\r\n")  # of a device that answers so all the same
    refusal(EVIL, one)


def test_an_upgrade_with_a_body() -> None:
    one = Http(PORT)
    request = UPGRADE.replace(b"\r\n\r\n", b"\r\nContent-Length: 3\r\n\r\n").replace(b"GET", b"POST") + b"abc"
    assert one.take(request[:-1]) + one.take(request[-1:]) == request
    one.hear(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
    assert one.take(FRAME) == FRAME
