"""What a device offers: its table of services, and how each kind serves a stream.

An address stands in the device's own configuration, never in a message.
"""

import asyncio
import sys

from zts import identity, wire
from zts.dial import close_quietly
from zts.errors import FormatError, StreamReset
from zts.link import LinkStream

from . import board

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import Any

    Serve = Callable[[LinkStream], Awaitable[None]]
    # From a table's entry to (wire kind, how to serve a stream). Raises FormatError.
    Read = Callable[[dict[str, Any]], tuple[int, Serve]]

_KINDS = {"tcp": wire.SERVICE_TCP, "handler": wire.SERVICE_HANDLER, "http": wire.SERVICE_HTTP}
RESERVED = "zts-"  # names that begin so are the agent's own
DIAL_S = 5  # for a target, which is near
LINGER_MS = 10_000  # for what the other side may still say after we said all
HANDOVER_MS = 5_000  # for a stream whose client has ended it, until the next one gets its place


class Services:
    """The table made from the configuration's `services`: {NAME: {"kind": KIND, "target": TARGET}}.

    tcp: host:port. handler: module:function. http: either, that speaks HTTP/1, so that clients keep browser pages of other sites from it.
    `kinds` are the further ones of this machine, which read their whole entry themselves.
    """

    def __init__(self, config: "dict[str, Any]", kinds: "dict[str, Read] | None" = None) -> None:
        """Raises FormatError, naming the entry. A handler's module is imported now, so that its faults show at the start."""
        if len(config) > wire.MAX_SERVICES:
            raise FormatError(f"at most {wire.MAX_SERVICES} services")
        self.names: list[tuple[int, str]] = []
        self._serve: dict[str, Serve] = {}
        for name in sorted(config):
            try:
                kind, serve = _read_entry(name, config[name], kinds or {})
            except FormatError as error:
                raise FormatError(f"services.{name}: {error}")
            self.names.append((kind, name))
            self._serve[name] = serve

    def add_own(self, name: str, handler: "Callable[[LinkStream, LinkStream], Awaitable[None]]") -> None:
        """A service of the agent itself: it is asked for by name, and not announced."""
        self._serve[RESERVED + name] = lambda stream: serve_handler(stream, handler)

    def kind(self, name: str) -> int:
        """The wire's kind of a service of the table; 0 of the agent's own and of what is not there."""
        for kind, known in self.names:
            if known == name:
                return kind
        return 0

    def find(self, name: str) -> "Serve | None":
        return self._serve.get(name)


async def stop_task(task: "asyncio.Task[Any]") -> None:
    """Cancels it, and waits until it has ended, with whatever: who calls this has more to tidy up."""
    task.cancel()
    try:
        await task
    except (asyncio.CancelledError, Exception):
        pass


def one_at_a_time(serve: "Serve") -> "Serve":
    """Serves one stream; whoever comes meanwhile is told BUSY, but for the first who finds one that is about to end."""
    served: list[LinkStream] = []

    async def alone(stream: LinkStream) -> None:
        # A program that ends and the next one follow each other at once.
        if served and (len(served) > 1 or not served[0].was_ended()):
            stream.reset(wire.BUSY)
            return
        served.append(stream)
        try:
            end = board.clock() + HANDOVER_MS
            while served[0] is not stream and board.clock() < end:
                await asyncio.sleep(0.01)
            if served[0] is stream:
                await serve(stream)
            else:
                stream.reset(wire.BUSY)
        finally:
            served.remove(stream)

    return alone


def _read_entry(name: str, entry: "dict[str, Any]", kinds: "dict[str, Read]") -> "tuple[int, Serve]":
    if identity.check_name(name) != name:
        raise FormatError("a service's name has no @")
    if name.startswith(RESERVED):
        raise FormatError(f"names that begin with {RESERVED} are the agent's own")
    said = entry.get("kind") if isinstance(entry, dict) else None
    if not isinstance(said, str):
        raise FormatError("needs a kind")
    if said in kinds:
        return kinds[said](entry)
    if said not in _KINDS:
        raise FormatError("the kind is one of " + ", ".join(sorted(set(_KINDS) | set(kinds))))
    return read_target(entry)


def read_target(entry: "dict[str, Any]") -> "tuple[int, Serve]":
    """Reads an entry that is of a kind of every machine. Raises FormatError."""
    kind = _KINDS[entry["kind"]]
    if sorted(entry) != ["kind", "target"] or not isinstance(entry["target"], str):
        raise FormatError("needs a kind and a target, a text, and nothing else")
    target = entry["target"]
    if kind == wire.SERVICE_TCP or (kind == wire.SERVICE_HTTP and is_address(target)):
        host, port = identity.split_address(target)
        if port == 0:
            raise FormatError("port 0 is no target")
        return kind, lambda stream: serve_tcp(stream, host, port)
    handler = _find_handler(target)
    return kind, lambda stream: serve_handler(stream, handler)


def is_address(target: str) -> bool:
    return target.rpartition(":")[2].isdigit()


def _find_handler(target: str) -> "Callable[[LinkStream, LinkStream], Awaitable[None]]":
    module, colon, function = target.partition(":")
    if not colon or not module or not function:
        raise FormatError(f"'{target}' is not module:function")
    try:
        __import__(module)
        handler = getattr(sys.modules[module], function)
    except Exception as error:  # a module may raise what it likes
        raise FormatError(f"'{target}' cannot be imported: {error}")
    if not callable(handler):
        raise FormatError(f"'{target}' is no function")
    return handler  # type: ignore[no-any-return]


async def serve_handler(stream: LinkStream, handler: "Callable[[LinkStream, LinkStream], Awaitable[None]]") -> None:
    """Runs `async def handler(reader, writer)`, both of which are the stream. What it raises resets the stream and goes no further."""
    stream.accept()
    try:
        await handler(stream, stream)
        await stream.drain()
        stream.finish()
        await spill(stream)
    except StreamReset:
        pass
    except Exception as error:
        board.log("handler failed", service=stream.service, error=repr(error))
        stream.reset(wire.TARGET_RESET)


async def spill(stream: LinkStream) -> None:
    """Takes what a client still sends to a handler that has ended, for a while: a reset now could erase the answer on its way."""
    end = board.clock() + LINGER_MS
    try:
        while await board.within(max(0, end - board.clock()) / 1000, stream.read(board.READ)):
            pass
    except OSError:
        stream.reset(wire.IDLE)


async def serve_tcp(stream: LinkStream, host: str, port: int, splice: "Callable[[LinkStream, Any, Any], Splice] | None" = None) -> None:
    """Joins the stream to a TCP target, by a splice of one's own perhaps."""
    try:
        reader, writer = await board.within(DIAL_S, board.dial(host, port))
    except OSError:
        stream.reset(wire.TARGET_REFUSED)
        return
    stream.accept()
    await (splice or Splice)(stream, reader, writer).run()


class Splice:
    """A stream and the connection to its target; each direction ends by itself."""

    def __init__(self, stream: LinkStream, reader: "Any", writer: "Any") -> None:
        self._stream = stream
        self._reader = reader
        self._writer = writer
        self._moved = 0  # when the target last said something

    async def run(self) -> None:
        down = asyncio.create_task(self._guard(self._from_target))
        whole = False
        try:
            whole = await self._guard(lambda: self._to_target(down)) and await down
        finally:
            await stop_task(down)
            if whole:
                await close_quietly(self._writer)
            else:
                board.break_off(self._writer)

    def to_target(self, data: bytes) -> bytes:
        """What of what the client says passes on."""
        return data

    def from_target(self, data: bytes) -> bytes:
        """What of what the target says passes on; b"" is its end."""
        return data

    async def _guard(self, work: "Callable[[], Awaitable[None]]") -> bool:
        """Whether it ended in order."""
        try:
            await work()
            return True
        except StreamReset:
            return False
        except OSError:
            self._stream.reset(wire.TARGET_RESET)
            return False

    async def _to_target(self, down: "asyncio.Task[bool]") -> None:
        while True:
            data = await self._stream.read(board.READ)
            if not data:
                break
            self._writer.write(self.to_target(data))
            await self._writer.drain()
        if not board.finish_writing(self._writer):
            # The target cannot be told that the client has finished: it gets some time to say the rest.
            self._moved = board.clock()
            while not down.done() and board.clock() - self._moved < LINGER_MS:
                await asyncio.sleep(0.1)
            if not down.done():
                self._stream.finish()
                raise StreamReset(wire.OK)

    async def _from_target(self) -> None:
        data = b" "
        while data:
            data = await self._reader.read(board.READ)
            self._moved = board.clock()
            await self._stream.send(self.from_target(data))
        self._stream.finish()
