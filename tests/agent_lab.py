"""What end-to-end tests of the agent need: an owner at a real relay, enrolment lines, sessions, and agents on this interpreter."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

from zts import codes, crypto, enrol, identity, link, wire
from zts.errors import StreamReset
from zts_agent import board
from zts_agent.agent import Agent
from zts_agent.keystore import Keystore
from zts_gateway import broker, client
from zts_gateway.addressbook import Identity

WAIT_S = 60.0  # for anything that must come; generous: the machine may be busy


class Device:
    """A device's card: its enrolment line, and its public key once it has enrolled."""

    def __init__(self, name: str, line: codes.EnrolLine) -> None:
        self.name = name
        self.pairing: bytes = line.pairing
        self.line = codes.format_enrol_line(line)
        self.public = b""


class Owner:
    """An owner enrolled at a relay."""

    def __init__(self, me: Identity, account: identity.Account) -> None:
        self.me = me
        self.account = account

    @classmethod
    async def join(cls, line: str, name: str = "alice") -> "Owner":
        code = codes.parse_join_code(line)
        private = crypto.random_bytes(wire.KEY_BYTES)
        pair = (private, crypto.x25519_public(private))
        account = await enrol.enrol(board, code, pair, name)
        return cls(Identity(name, *pair, account), account)

    async def invite(self, name: str) -> Device:
        """A new device, not enrolled yet."""
        answer = await broker.ask_relay(self.me, self.account, wire.KIND_MAKE_CODE, {})
        code = codes.JoinCode(self.account.relay_key, answer[wire.TLV_SECRET], self.account.host, self.account.port)
        return Device(name, codes.EnrolLine(code, crypto.random_bytes(32), self.me.public, name))

    async def meet(self, device: Device) -> None:
        """Waits until the device has enrolled, as any process may that was given its line."""
        code = codes.parse_enrol_line(device.line).code
        end = time.monotonic() + WAIT_S
        while not device.public:
            answer = await broker.ask_relay(self.me, self.account, wire.KIND_LOOK_UP, {wire.TLV_CODE_ID: codes.code_id(code.secret)})
            device.public = answer.get(wire.TLV_PUBLIC, b"")
            assert time.monotonic() < end, "it never enrolled"
            await asyncio.sleep(0.25)

    @contextlib.asynccontextmanager
    async def session(self, device: Device) -> AsyncIterator[link.Link]:
        """A session with a device that is or comes online. Raises Failure."""
        meeting = await client.meet(
            self.me, self.account, device.name, device.public, device.pairing, int(WAIT_S * 1000), lambda step: None
        )
        try:
            yield meeting.link
        finally:
            await meeting.close()


async def read_all(stream: link.LinkStream) -> bytes:
    """Up to the end the other side sent."""
    got = bytearray()
    while data := await stream.read(1 << 18):
        got += data
    return bytes(got)


async def ask(session: link.Link, service: str, request: bytes) -> bytes:
    """Opens a stream, says `request` and the end, and gives the whole answer."""
    stream = session.open(service)
    await stream.opened()
    await stream.send(request)
    stream.finish()
    return await read_all(stream)


async def get(session: link.Link, path: str = "/reading.json") -> bytes:
    """The body of a page the device's http service serves."""
    answer = await ask(session, "http", f"GET {path} HTTP/1.1\r\nHost: device\r\n\r\n".encode())
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n"), head
    return body


async def reading(session: link.Link) -> dict[str, Any]:
    said: dict[str, Any] = json.loads(await get(session))
    return said


async def reset_code(stream: link.LinkStream) -> int:
    """The code with which the other side resets a stream."""
    try:
        await stream.opened()
        await read_all(stream)
    except StreamReset as reset:
        return reset.code
    raise AssertionError("the stream was not reset")


async def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end, "it never happened"
        await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def target(serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]) -> AsyncIterator[str]:
    """The address of a TCP server on this machine; what is still connected at the end is dropped."""
    serving: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    async def guarded(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        serving[task] = writer
        try:
            with contextlib.suppress(OSError):
                await serve(reader, writer)
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    server = await asyncio.start_server(guarded, "127.0.0.1", 0, limit=1 << 18)
    host, port = server.sockets[0].getsockname()
    try:
        yield f"{host}:{port}"
    finally:
        server.close()
        for task, writer in serving.items():
            writer.transport.abort()
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)


class HostAgent:
    """`async with HostAgent(folder, device, services) as agent:` runs an agent in this process, online."""

    def __init__(self, folder: Path, device: Device | None, services: dict[str, dict[str, str]], relay: str = "") -> None:
        store = Keystore(str(folder))
        if device is not None:
            store.adopt(device.line)
        self._device = device
        self.agent = Agent({"services": services, "relay": {"address": relay} if relay else {}}, store)
        self.store = store

    async def __aenter__(self) -> "HostAgent":
        self.task = asyncio.create_task(self.agent.run())
        await until(lambda: self.task.done() or "relay" in self.store.state)
        if self._device is not None:
            self._device.public = self.store.key("public")
        return self

    async def __aexit__(self, *_: object) -> None:
        self.task.cancel()
        # How it ended is for who looks at the task.
        await asyncio.wait([self.task])
