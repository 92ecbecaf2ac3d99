"""What tests of the service repl need: an agent on a virtual board, a person at its prompt, and a port for mpremote."""

import asyncio
import contextlib
import importlib.resources
import json
import os
import select
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from types import TracebackType
from typing import Any

from agent_lab import WAIT_S, Device, until
from board import put_edge
from zts import line, link, wire
from zts_gateway.stage import MANIFEST, manifest, stage_slots
from zts_gateway.virtual_board import VirtualBoard

REPL = {"repl": {"kind": "repl"}}
RAW = b"raw REPL; CTRL-B to exit\r\n>"


class BoardAgent:
    """`async with BoardAgent(folder, device) as agent:` runs an agent from a virtual board's flash, online.

    `setup` are lines of Python that run before the agent is loaded, indented by eight.
    """

    def __init__(
        self,
        folder: Path,
        device: Device,
        services: dict[str, Any] | None = None,
        heap: str = "256K",
        setup: str = "",
        watchdog_ms: int = 30_000,
    ) -> None:
        self.flash = folder / "flash"
        self._device = device
        agent = self.flash / "agent"
        (agent / "state").mkdir(parents=True)
        files = put_edge(agent / "a")
        (agent / "a" / MANIFEST).write_text(manifest(agent / "a", files))
        stage_slots(agent / "slots.mpy")
        config = {"identity": {"state": "/agent/state"}, "services": REPL if services is None else services}
        (agent / "config.json").write_text(json.dumps(config))
        self._state = agent / "state" / "state.json"
        self._state.write_text(json.dumps({"line": device.line}))
        main = (importlib.resources.files("zts_firmware") / "main.py").read_text()
        main = main.replace("WATCHDOG_MS = ", f"WATCHDOG_MS = {watchdog_ms} if True else ")
        (self.flash / "main.py").write_text(main.replace("        from zts_agent", setup + "        from zts_agent"))
        self.board = VirtualBoard(self.flash, heap)
        self.said = b""  # on its USB port
        self._ending = False

    @property
    def state(self) -> dict[str, Any]:
        state: dict[str, Any] = json.loads(self._state.read_text())
        return state

    def count(self, event: str) -> int:
        """How often it has logged that."""
        return self.said.count(f'"event": "{event}"'.encode())

    async def __aenter__(self) -> "BoardAgent":
        await asyncio.to_thread(self.board.__enter__)
        self._listening = threading.Thread(target=self._listen)
        self._listening.start()
        try:
            await self.until(lambda: self.count("online") > 0)
        except BaseException:
            await self.__aexit__(None, None, None)
            raise
        self._device.public = bytes.fromhex(self.state["public"])
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._ending = True
        self._listening.join()
        await asyncio.to_thread(self.board.close)

    async def until(self, condition: Any) -> None:
        try:
            await until(condition)
        except AssertionError:
            raise AssertionError(self.said.decode(errors="replace")) from None

    def _listen(self) -> None:
        port = os.open(self.board.port, os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK)
        while not self._ending:
            if select.select([port], [], [], 0.05)[0]:
                with contextlib.suppress(BlockingIOError):
                    self.said += os.read(port, 1 << 16)
        os.close(port)


class Person:
    """At the prompt: types, and reads up to what is expected."""

    def __init__(self, stream: link.LinkStream) -> None:
        self.stream = stream
        self._decoder = line.Decoder()
        self._heard = b""

    async def type(self, data: bytes) -> None:
        await self.stream.send(line.data(data))

    async def hear(self) -> bytes:
        """What was said next, b"" at the end."""
        data = await self.stream.read(1 << 18)
        return b"".join(body for kind, body in self._decoder.feed(data) if kind == wire.LINE_DATA)

    async def until(self, ending: bytes, seconds: float = WAIT_S) -> bytes:
        """Everything up to `ending`, and with it."""
        async with asyncio.timeout(seconds):
            while ending not in self._heard:
                said = await self.hear()
                assert said, (ending, self._heard)
                self._heard += said
        before, found, self._heard = self._heard.partition(ending)
        return before + found

    async def run(self, program: bytes, seconds: float = WAIT_S) -> tuple[bytes, bytes]:
        """A program's output and traceback, in the raw REPL."""
        await self.type(program + b"\x04")
        said = await self.until(b"\x04>", seconds)
        assert said.startswith(b"OK"), said
        output, end, rest = said[2:].partition(b"\x04")
        assert end, said
        return output, rest[:-2]


@contextlib.asynccontextmanager
async def at_prompt(session: link.Link, raw: bool = True) -> AsyncIterator[Person]:
    stream = session.open("repl")
    await stream.opened()
    person = Person(stream)
    await person.until(b">>> ")
    if raw:
        await person.type(b"\r\x03\r\x01")
        await person.until(RAW)
    try:
        yield person
    except BaseException:
        stream.reset(wire.OK)
        raise
    stream.finish()
    async with asyncio.timeout(WAIT_S):
        while await person.hear():
            pass
