"""To a relay and past it: a leg that is joined. The same code on CPython and MicroPython.

`net` is what the machine offers: `await net.dial(host, port)` gives (reader, writer) as asyncio.open_connection does, and
`await net.within(seconds, work)` what `work` gives, or raises OSError when the time is up.
"""

from . import leg, wire
from .errors import RemoteError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Awaitable
    from typing import Any, Protocol

    class Net(Protocol):
        def dial(self, host: str, port: int) -> Awaitable[tuple[Any, Any]]: ...
        def within(self, seconds: float, work: Any) -> Awaitable[Any]: ...


DIAL_S = 10  # a TCP connection and the relay's challenge


async def close_quietly(writer: "Any") -> None:
    """Closes a connection whose fate no longer matters."""
    try:
        writer.close()
        await writer.wait_closed()
    except OSError:
        pass


async def greet(net: "Net", host: str, port: int, magic: bytes) -> "tuple[Any, Any, bytes]":
    """Dials a relay and gives its challenge16. Raises OSError or EOFError when there is none."""
    reader, writer = await net.dial(host, port)
    try:
        writer.write(magic)
        await writer.drain()
        return reader, writer, await reader.readexactly(wire.CHALLENGE_BYTES)
    except BaseException:
        await close_quietly(writer)
        raise


async def dial_leg(net: "Net", host: str, port: int, hello: leg.LegHello, party_key: bytes, first: bytes) -> "tuple[Any, Any]":
    """A leg that the relay has joined to its partner; `first` are our first bytes end to end.

    Raises RemoteError with the relay's code when it says one, OSError or EOFError when it says nothing.
    """
    reader, writer, challenge = await net.within(DIAL_S, greet(net, host, port, wire.MAGIC_LEG))
    try:
        writer.write(leg.encode_hello(hello, party_key, challenge) + first)
        await writer.drain()
        # The relay gives up first; the rest is the way.
        code = await net.within((wire.PARTNER_MS + wire.HELLO_MS) // 1000, reader.readexactly(1))
    except BaseException:
        await close_quietly(writer)
        raise
    if code[0] != wire.OK:
        await close_quietly(writer)
        raise RemoteError("the relay refuses the leg", code[0])
    return reader, writer
