"""The table of services, handlers and the page, over a link in memory."""

import asyncio
import json
from pipes import run

from check import raises
from served import Served, read_all, reset_code
from zts import wire
from zts.errors import FormatError
from zts_agent import board, page, services


def lab(handler):
    return Served(lambda stream: services.serve_handler(stream, handler))


async def echo(reader, writer):
    while True:
        data = await reader.read()
        if not data:
            return
        writer.write(data)
        await writer.drain()


async def broken(reader, writer):
    writer.write(b"half of")
    await writer.drain()
    raise ValueError("a bug in somebody's handler")


def test_a_handler_serves_and_ends_its_stream():
    async def go():
        async with lab(echo) as client:
            for size in (0, 1, 5000):
                stream = client.open("echo")
                await stream.opened()
                reading = asyncio.create_task(read_all(stream))
                await stream.send(bytes(size))
                stream.finish()
                assert await reading == bytes(size)

    run(go())


def test_a_handler_that_raises_resets_its_stream_and_nothing_else():
    async def go():
        async with lab(broken) as client:
            for _ in range(3):
                assert await reset_code(read_all(client.open("x"))) == wire.TARGET_RESET
            assert client.session.streams() == 0

    run(go())


async def hasty(reader, writer):
    writer.write(b"no")


def test_single_bytes_that_nobody_takes_are_put_together():
    async def go():
        gate = asyncio.Event()

        async def late(reader, writer):
            await gate.wait()
            writer.write(str(len(await read_all(reader))).encode())

        served = lab(late)
        async with served as client:
            stream = client.open("late")
            await stream.opened()
            for _ in range(1000):
                await stream.send(b"x")
            stream.finish()
            kept = served.device._streams[stream.id]
            while not kept._eof:
                await asyncio.sleep(0)
            assert len(kept._chunks) <= 4
            gate.set()
            assert await read_all(stream) == b"1000"

    run(go())


def test_an_answer_before_the_end_of_the_question_arrives():
    async def go():
        async with lab(hasty) as client:
            stream = client.open("x")
            await stream.opened()
            # More than the window: it can only go out when somebody takes it.
            for _ in range(10):
                await stream.send(bytes(1000))
            assert await read_all(stream) == b"no"
            stream.finish()
            linger = services.LINGER_MS
            services.LINGER_MS = 50
            try:
                stream = client.open("x")
                assert await read_all(stream) == b"no"
                # And whoever talks on to nobody is told.
                assert await reset_code(_talk(stream)) == wire.IDLE
            finally:
                services.LINGER_MS = linger

    run(go())


async def _talk(stream):
    while True:
        await stream.send(bytes(10))
        await asyncio.sleep(0.01)


async def ask(client, request):
    stream = client.open("http")
    await stream.opened()
    await stream.send(request)
    answer = await read_all(stream)
    stream.finish()
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"\r\nConnection: close\r\n" in head and b"\r\nContent-Length: " in head
    return head, body


def test_the_page():
    async def go():
        board.device_name = "sensor42"
        async with lab(page.page) as client:
            head, body = await ask(client, b"GET / HTTP/1.1\r\nHost: x\r\nAccept: */*\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 OK\r\n") and b"Content-Type: text/html; charset=utf-8" in head
            assert f"Content-Length: {len(body)}".encode() in head
            assert body.startswith(b"<!doctype html>") and body.endswith(b"</html>\n")
            assert b"<title>@sensor42</title>" in body and board.RUNTIME.encode() in body and b"://" not in body
            head, body = await ask(client, b"GET /reading.json HTTP/1.0\n\n")
            said = json.loads(body)
            assert said["name"] == "sensor42" and said["device"] == board.RUNTIME and said["heap_used"] > 0 and said["uptime_ms"] >= 0
            assert said["reading"] and said["unit"] and said["value"] >= 0
            head, body = await ask(client, b"HEAD / HTTP/1.1\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 OK\r\n") and not body
            for request, status in (
                (b"GET /x HTTP/1.1\r\n\r\n", b"404"),
                (b"POST / HTTP/1.1\r\n\r\n", b"405"),
                (b"GET /\r\n\r\n", b"400"),
                (b"GET / SSH-2\r\n\r\n", b"400"),
                (b"\r\n\r\n", b"400"),
                (b"\xff\xfe / HTTP/1.1\r\n\r\n", b"400"),
                (b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 65 + b"\r\n", b"400"),
                (b"GET / HTTP/1.1" + b"x" * 9000 + b"\r\n\r\n", b"400"),
            ):
                head, _ = await ask(client, request)
                assert head.startswith(b"HTTP/1.1 " + status), (request, head)

    run(go())


def test_a_table_of_services():
    table = services.Services(
        {"web": {"kind": "handler", "target": "zts_agent.page:page"}, "ssh": {"kind": "tcp", "target": "127.0.0.1:22"}}
    )
    assert table.names == [(wire.SERVICE_TCP, "ssh"), (wire.SERVICE_HANDLER, "web")]
    assert table.find("web") and table.find("ssh") and not table.find("SSH") and not table.find("")
    table = services.Services({"near": {"kind": "http", "target": "zts_agent.page:page"}, "far": {"kind": "http", "target": "[::1]:80"}})
    assert table.names == [(wire.SERVICE_HTTP, "far"), (wire.SERVICE_HTTP, "near")]
    assert services.Services({}).names == []


def test_a_table_that_is_wrong_names_the_entry():
    for name, entry in (
        ("Web", {"kind": "tcp", "target": "h:1"}),
        ("@web", {"kind": "tcp", "target": "h:1"}),
        ("", {"kind": "tcp", "target": "h:1"}),
        ("web", {"kind": "udp", "target": "h:1"}),
        ("web", {"kind": "tcp"}),
        ("web", {"kind": "tcp", "target": "h:1", "more": 1}),
        ("web", {"kind": "tcp", "target": 22}),
        ("web", {"kind": "tcp", "target": "22"}),
        ("web", {"kind": "tcp", "target": "h:0"}),
        ("web", {"kind": "tcp", "target": "h:99999"}),
        ("web", {"kind": "handler", "target": "zts_agent.page"}),
        ("web", {"kind": "handler", "target": ":page"}),
        ("web", {"kind": "handler", "target": "zts_agent.page:"}),
        ("web", {"kind": "handler", "target": "zts_agent.page:nothing"}),
        ("web", {"kind": "handler", "target": "no_such_module:page"}),
        ("web", {"kind": "handler", "target": "zts_agent.page:REQUEST_S"}),
        ("web", {"kind": "http", "target": "zts_agent.page"}),
        ("web", {"kind": "http", "target": "h:0"}),
        ("web", {"kind": "http", "target": ":80"}),
        ("web", {"kind": "http", "target": "h:99999"}),
        ("web", {"kind": "http", "target": "zts_agent.page:8080x"}),
        ("web", {"kind": "HTTP", "target": "h:1"}),
        ("web", {"kind": ["tcp"], "target": "h:1"}),
        ("web", "tcp"),
        ("web", None),
    ):
        error = raises(FormatError, services.Services, {name: entry})
        assert str(error).startswith(f"services.{name}: "), error
    many = {f"s{n}": {"kind": "tcp", "target": "h:1"} for n in range(wire.MAX_SERVICES + 1)}
    raises(FormatError, services.Services, many)


def test_a_machine_has_kinds_of_its_own():
    read = []

    def loop(entry):
        if sorted(entry) != ["kind", "turns"]:
            raise FormatError("needs turns")
        read.append(entry)
        return wire.SERVICE_SERIAL, echo

    table = services.Services({"a": {"kind": "loop", "turns": 3}, "b": {"kind": "tcp", "target": "h:1"}}, {"loop": loop})
    assert table.names == [(wire.SERVICE_SERIAL, "a"), (wire.SERVICE_TCP, "b")] and table.find("a") == echo
    assert read == [{"kind": "loop", "turns": 3}]
    for entry in ({"kind": "loop"}, {"kind": "loops", "turns": 3}, {"turns": 3}):
        error = raises(FormatError, services.Services, {"a": entry}, {"loop": loop})
        assert str(error).startswith("services.a: "), error


def test_one_at_a_time():
    async def go():
        served = Served(services.one_at_a_time(lambda stream: services.serve_handler(stream, echo)))
        async with served as client:
            for _ in range(2):
                first, second = client.open("echo"), client.open("echo")
                await first.opened()
                assert await reset_code(second.opened()) == wire.BUSY
                await first.send(b"still here")
                assert await first.read() == b"still here"
                first.finish()
                assert await first.read() == b""
                while served.device.session.streams():
                    await asyncio.sleep(0)

    run(go())


def test_the_next_follows_at_once_on_one_that_ends():
    async def slow(reader, writer):
        while await reader.read():
            pass
        await asyncio.sleep(0.05)

    async def go():
        async with Served(services.one_at_a_time(lambda stream: services.serve_handler(stream, slow))) as client:
            stream = client.open("slow")
            await stream.opened()
            for in_order in (True, False, True, False):
                if in_order:
                    stream.finish()
                else:
                    stream.reset(wire.OK)
                late, stream = stream, client.open("slow")
                busy = client.open("slow")
                await stream.opened()
                assert await reset_code(busy.opened()) == wire.BUSY
                assert not in_order or await read_all(late) == b""
            handover = services.HANDOVER_MS
            services.HANDOVER_MS = 20
            try:
                stream.finish()
                assert await reset_code(client.open("slow").opened()) == wire.BUSY
            finally:
                services.HANDOVER_MS = handover

    run(go())
