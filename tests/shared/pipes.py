"""Connections in memory, as asyncio's streams, for tests on both interpreters."""

import asyncio


class Pipe:
    """One direction: a writer at one end, a reader at the other."""

    def __init__(self):
        self._chunks = []
        self._ended = False
        self._news = asyncio.Event()

    def write(self, data):
        if data:
            self._chunks.append(bytes(data))
        self._news.set()

    async def drain(self):
        await asyncio.sleep(0)

    def close(self):
        self._ended = True
        self._news.set()

    async def wait_closed(self):
        pass

    async def read(self, n):
        while not self._chunks and not self._ended:
            self._news.clear()
            await self._news.wait()
        if not self._chunks:
            return b""
        data = self._chunks.pop(0)
        if len(data) > n:
            self._chunks.insert(0, data[n:])
        return data[:n]

    async def readline(self):
        """As LinkStream's."""
        line = b""
        while len(line) < 4096 and not line.endswith(b"\n"):
            end = self._chunks[0].find(b"\n") + 1 if self._chunks else 1
            part = await self.read(min(end or len(self._chunks[0]), 4096 - len(line)))
            if not part:
                break
            line += part
        return line

    async def readexactly(self, n):
        data = b""
        while len(data) < n:
            part = await self.read(n - len(data))
            if not part:
                raise EOFError
            data += part
        return data


class Mute(Pipe):
    """Takes nothing: what is written never leaves."""

    async def drain(self):
        await asyncio.Event().wait()


def run(work):
    """Runs a coroutine; it must end in a minute."""
    return asyncio.run(_limited(work))


async def _limited(work):
    return await asyncio.wait_for(work, 60)
