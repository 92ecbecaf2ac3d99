"""Serves a web server near a Linux gateway: as any TCP target, but that it is called by its own name."""

import asyncio
from typing import Any

from zts import identity, wire
from zts.errors import StreamReset
from zts.link import LinkStream
from zts_agent import board, services
from zts_gateway.http_requests import Refused
from zts_gateway.http_rewrite import FromTarget, ToTarget, address_of


def read(entry: dict[str, Any]) -> "tuple[int, services.Serve]":
    """From [services.NAME] kind = "http". Raises FormatError."""
    kind, serve = services.read_target(entry)
    if not services.is_address(entry["target"]):
        return kind, serve
    host, port = identity.split_address(entry["target"])
    return kind, lambda stream: services.serve_tcp(stream, host, port, lambda *ends: _Splice(address_of(host, port), *ends))


class _Splice(services.Splice):
    def __init__(self, address: bytes, stream: LinkStream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        super().__init__(stream, reader, writer)
        self._requests = ToTarget(address)
        self._answers = FromTarget(self._requests.asked, address)

    def to_target(self, data: bytes) -> bytes:
        return self._requests.take(data)

    def from_target(self, data: bytes) -> bytes:
        if not data:
            return self._answers.end()
        self._requests.hear(data)
        return self._answers.take(data)

    async def _to_target(self, down: "asyncio.Task[bool]") -> None:
        try:
            await super()._to_target(down)
        except Refused as refused:
            board.log("http request refused", service=self._stream.service, error=str(refused))
            if refused.answer and down.cancel():
                await self._stream.send(refused.answer)
                self._stream.finish()
                await services.spill(self._stream)
            else:
                self._stream.reset(wire.TARGET_RESET)
            raise StreamReset(wire.OK) from None
