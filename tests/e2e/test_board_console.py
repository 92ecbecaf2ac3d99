"""The UART of a board, from its owner through the relay and the agent on MicroPython to the wires, and back."""

import asyncio
import contextlib
import json
import os
import tty
from collections.abc import AsyncIterator, Iterator

import pytest

from agent_lab import WAIT_S, Device, Owner, read_all, reset_code
from board import put_edge
from relay_process import RelayProcess
from zts import line, link, wire
from zts_gateway.virtual_board import VirtualBoard

SERVICES = {
    "console": {"kind": "serial", "uart": 1, "tx": 17, "rx": 16},
    "nowhere": {"kind": "serial", "uart": 99, "tx": 17, "rx": 16},
}
READY = wire.STATE_CTS | wire.STATE_DSR | wire.STATE_CD


class Wires:
    """What is connected to the board's UART."""

    def __init__(self, path: str) -> None:
        self.fd = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
        tty.setraw(self.fd)

    async def heard(self, size: int) -> bytes:
        got = b""
        while len(got) < size:
            with contextlib.suppress(BlockingIOError):
                got += os.read(self.fd, 1 << 16)
            await asyncio.sleep(0.001)
        return got

    async def say(self, data: bytes) -> None:
        while data:
            with contextlib.suppress(BlockingIOError):
                data = data[os.write(self.fd, data[:256]) :]
            await asyncio.sleep(0.001)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Owner, Device, Wires]]:
    flash = tmp_path_factory.mktemp("flash")
    with RelayProcess(tmp_path_factory.mktemp("relay")) as relay, contextlib.ExitStack() as stack:

        async def invite() -> tuple[Owner, Device]:
            assert relay.join
            owner = await Owner.join(relay.join)
            return owner, await owner.invite("board")

        owner, device = asyncio.run(invite())
        put_edge(flash / "lib")
        state = flash / "agent" / "state" / "state.json"
        state.parent.mkdir(parents=True)
        state.write_text(json.dumps({"line": device.line}))
        (flash / "agent" / "config.json").write_text(json.dumps({"identity": {"state": "state"}, "services": SERVICES}))
        (flash / "main.py").write_text("from zts_agent import main\nmain.main('/agent')\n")
        board = stack.enter_context(VirtualBoard(flash))

        asyncio.run(owner.meet(device))
        wires = Wires(board.uart(1))
        stack.callback(os.close, wires.fd)
        yield owner, device, wires


async def hear(stream: link.LinkStream, size: int) -> tuple[bytes, list[int]]:
    decoder = line.Decoder()
    data, states = b"", []
    while len(data) < size or not decoder.is_between():
        for kind, body in decoder.feed(await stream.read()):
            if kind == wire.LINE_DATA:
                data += body
            else:
                states.append(body[0])
    return data, states


@contextlib.asynccontextmanager
async def limited() -> AsyncIterator[None]:
    async with asyncio.timeout(WAIT_S):
        yield


def test_a_console(place: tuple[Owner, Device, Wires]) -> None:
    owner, device, wires = place

    async def go() -> None:
        async with limited(), owner.session(device) as session:
            assert session.services == [(wire.SERVICE_SERIAL, "console"), (wire.SERVICE_SERIAL, "nowhere")]
            for _ in range(2):
                stream = session.open("console")
                await stream.opened()
                assert await reset_code(session.open("console")) == wire.BUSY
                sent = os.urandom(20_000)
                saying = asyncio.create_task(wires.say(sent))
                got, states = await hear(stream, len(sent))
                assert got == sent and states[0] == READY
                await saying
                hearing = asyncio.create_task(wires.heard(len(sent)))
                await stream.send(line.data(sent))
                assert await hearing == sent
                for said in (
                    line.settings(9600, 7, "E", 1),
                    line.settings(9600, 8, "M", 1),
                    line.encode(wire.LINE_BREAK, b"\0\5"),
                    line.encode(wire.LINE_RESET, bytes([wire.RESET_BOOTLOADER])),
                ):
                    await stream.send(said + line.data(b"on"))
                    assert await wires.heard(2) == b"on"
                stream.finish()
                await read_all(stream)
            assert await reset_code(session.open("nowhere")) == wire.TARGET_REFUSED

    asyncio.run(go())
