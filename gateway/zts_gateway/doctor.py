"""`zts doctor`: walks the way to the relay, the broker and a device hop by hop, and names the hop that fails."""

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, NamedTuple

from zts import control, dial, identity, wire
from zts.errors import CryptoError, StreamReset
from zts_agent import board
from zts_gateway import broker, client
from zts_gateway.addressbook import Book, Card, Identity, timestamp
from zts_gateway.ui import Exit, Failure, failure_of

OK: Final = "ok"
FAILED: Final = "FAILED"
SKIPPED: Final = "skipped"
_WAIT_S: Final = 10.0  # for a name or a TCP connection


class Hop(NamedTuple):
    """`said`: what was found, or what failed and what to do next. `ms` is None unless it was tried."""

    name: str
    state: str
    ms: float | None
    said: str


class Doctor:
    """`walk` visits the hops and `show`s each. `failure` is then the first failing hop's, or None."""

    def __init__(self, book: Book, name: str | None, show: Callable[[Hop], None]) -> None:
        self._book = book
        self._name = name
        self._show = show
        self.failure: Failure | None = None
        self._me: Identity
        self._account: identity.Account
        self._card: Card
        self._answer: client.Answer
        self._meeting: client.Meeting | None = None

    async def walk(self) -> None:
        hops: list[tuple[str, Callable[[], Awaitable[str]]]] = [
            ("identity", self._identity),
            ("relay name", self._relay_name),
            ("relay TCP", self._relay_tcp),
            ("relay key", self._relay_key),
            ("broker", self._broker),
            ("broker login", self._broker_login),
        ]
        if self._name is not None:
            hops += [
                ("card", self._find_card),
                ("hello", self._hello),
                ("handshake", self._handshake),
                ("leg", self._leg),
                ("services", self._services),
            ]
        try:
            for name, work in hops:
                if self.failure:
                    self._show(Hop(name, SKIPPED, None, "a hop before it failed"))
                else:
                    await self._try(name, work)
            if self._meeting and not self.failure:
                await self._targets(self._meeting)
        finally:
            if self._meeting:
                await self._meeting.close()

    async def _try(self, name: str, work: Callable[[], Awaitable[str]]) -> None:
        began = time.perf_counter_ns()
        state = OK
        try:
            said = await work()
        except Failure as failure:
            state, said = FAILED, str(failure)
            self.failure = self.failure or Failure(failure.code, f"{name}: {failure}")
        self._show(Hop(name, state, round((time.perf_counter_ns() - began) / 1e6, 1), said))

    # --- this computer ------------------------------------------------------------------------------------------------------

    async def _identity(self) -> str:
        for folder in (self._book.folder, self._book.cards_folder):
            _check_folder(folder)
        self._me, self._account = self._book.member()
        return f"@{self._me.name} ({self._me.fp}), {self._book.identity_file}"

    # --- the relay ----------------------------------------------------------------------------------------------------------

    async def _relay_name(self) -> str:
        return await _resolve(self._account.host, self._account.port)

    async def _relay_tcp(self) -> str:
        where = identity.join_address(self._account.host, self._account.port)
        try:
            _, writer = await board.within(_WAIT_S, board.dial(self._account.host, self._account.port))
        except TimeoutError:
            raise broker.relay_unreachable(where, TimeoutError("no answer: a firewall may be in between")) from None
        except OSError as error:
            raise broker.relay_unreachable(where, error) from None
        await dial.close_quietly(writer)
        return where

    async def _relay_key(self) -> str:
        """Any question shows that both hold the account's key; this one is about no code."""
        answer = await broker.ask_relay(self._me, self._account, wire.KIND_LOOK_UP, {wire.TLV_CODE_ID: bytes(wire.HINT_BYTES)})
        if answer[wire.TLV_CODE][0] == wire.REVOKED:
            raise failure_of(wire.REVOKED, f"@{self._me.name}")
        return f"the relay is {identity.fingerprint_text(self._account.relay_key)}, and knows this computer"

    # --- the broker ---------------------------------------------------------------------------------------------------------

    async def _broker(self) -> str:
        tls, host, port = identity.parse_broker(self._account.broker, self._account.host)
        where = identity.join_address(host, port)
        dialling = board.dial_tls(host, port, self._account.pin) if tls else board.dial(host, port)
        try:
            _, writer = await board.within(_WAIT_S, dialling)
        except CryptoError:
            raise broker.wrong_certificate() from None
        except TimeoutError:
            raise broker.unreachable(where, "no answer") from None
        except OSError as error:
            raise broker.unreachable(where, error.strerror or str(error)) from None
        await dial.close_quietly(writer)
        return f"{where}, TLS with the certificate of the join code" if tls else f"{where}, without TLS"

    async def _broker_login(self) -> str:
        async with broker.connect(self._me, self._account):
            return f"as {self._me.fp}"

    # --- the device ---------------------------------------------------------------------------------------------------------

    async def _find_card(self) -> str:
        assert self._name is not None
        self._card = self._book.device(self._name)
        return f"{self._card.fp}, {'verified' if self._card.verified else 'not verified yet'}, last seen {self._card.last_seen or 'never'}"

    async def _hello(self) -> str:
        if self._card.fp not in await broker.present(self._me, self._account, [self._card.fp]):
            raise Failure(
                Exit.OFFLINE, f"@{self._card.name} is not at the broker; check its power and network, and what its agent says on stderr"
            )
        return f"{control.hello_topic(self._card.fp)} is there"

    async def _handshake(self) -> str:
        card = self._card
        self._answer = await client.call(self._me, self._account, card.name, card.public, card.grant or card.pairing, 0)
        return "it proved its key, and that it knows the grant" if card.grant else "it proved its key and the pairing secret"

    async def _leg(self) -> str:
        self._meeting = await client.join(self._account, self._card.name, self._answer)
        return "the relay joined both legs, and both ends proved the session's keys"

    async def _services(self) -> str:
        assert self._meeting
        services = self._meeting.services
        self._book.change_card(self._card.name, verified=True, services=tuple(services), last_seen=timestamp())
        return ", ".join(name for _, name in services) or "it offers you none"

    async def _targets(self, meeting: client.Meeting) -> None:
        """Each is tried, whatever the others do."""
        for kind, service in meeting.services:
            name = f"target {service}"
            if kind == wire.SERVICE_HANDLER:
                self._show(Hop(name, SKIPPED, None, "it runs in the agent: there is no target to reach"))
            else:
                await self._try(name, lambda service=service: self._target(meeting, service))  # type: ignore[misc]

    async def _target(self, meeting: client.Meeting, service: str) -> str:
        try:
            stream = await client.open_stream(meeting, service)
        except StreamReset as reset:
            raise failure_of(reset.code, f"@{meeting.name}:{service}") from None
        stream.reset(wire.TARGET_RESET)
        return "opened and closed"


def _check_folder(folder: Path) -> None:
    try:
        mode = folder.stat().st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise Failure(Exit.USAGE, f"cannot look at {folder} ({error.strerror}); make it yours, or set ZTS_HOME to another folder") from None
    if mode & 0o022:
        raise Failure(Exit.USAGE, f"others may write to {folder}, and so could replace your keys; run chmod go-w on it")


async def _resolve(host: str, port: int) -> str:
    try:
        found = await asyncio.wait_for(asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM), _WAIT_S)
    except TimeoutError:
        why = "no answer"
    except OSError as error:
        why = error.strerror or str(error)
    else:
        addresses = ", ".join(dict.fromkeys(str(address[4][0]) for address in found))
        return host if addresses == host else f"{host} is {addresses}"
    raise Failure(
        Exit.UNREACHABLE, f"nobody knows the name {host} ({why}); check this computer's network and name server, and the relay's name"
    )
