"""A client's link to a device's over a connection in memory, for tests on both interpreters."""

import asyncio
from pipes import Pipe

from zts import line, session, wire
from zts.errors import StreamReset
from zts.link import BOARD_READ, Link
from zts_agent import board

OFFER = session.Offer(wire.BOARD_MAX_RECORD, wire.BOARD_WINDOW)
KEY = bytes(32)


class Served:
    """`async with Served(serve) as client:` the client's link; the device serves each stream with `serve(stream)`, and gives it up when
    the client resets it."""

    def __init__(self, serve):
        self._serve = serve
        self.tasks = []

    async def __aenter__(self):
        board.tidy_memory()  # as an agent does at its start
        up, down = Pipe(), Pipe()
        self.client = Link(session.Session(wire.ROLE_CLIENT, KEY, OFFER, OFFER, 8), board.clock, BOARD_READ)
        self.device = Link(session.Session(wire.ROLE_DEVICE, KEY, OFFER, OFFER, 8), board.clock, BOARD_READ, [], self._open)
        for link in (self.client, self.device):
            link.session.start_leg(board.clock())
        self._running = [asyncio.create_task(self.client.run(down, up)), asyncio.create_task(self.device.run(up, down))]
        assert await self.client.ready()
        return self.client

    async def __aexit__(self, *_):
        self.client.close()
        for task in self._running + self.tasks:
            try:
                await task
            except asyncio.CancelledError:
                continue

    def _open(self, stream):
        task = asyncio.create_task(self._serve(stream))
        self.tasks.append(task)
        stream.on_reset = task.cancel


async def read_all(stream):
    data = []
    while True:
        part = await stream.read()
        if not part:
            return b"".join(data)
        data.append(part)


async def reset_code(work):
    try:
        await work
    except StreamReset as reset:
        return reset.code
    raise AssertionError("not reset")


async def hear_line(stream, size):
    """(what came, the states said), when `size` bytes of the serial line have come."""
    decoder = line.Decoder()
    data, states = b"", []
    while len(data) < size or not decoder.is_between():
        for kind, body in decoder.feed(await stream.read()):
            if kind == wire.LINE_DATA:
                data += body
            else:
                states.append((kind, body[0]))
    return data, states
