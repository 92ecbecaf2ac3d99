"""The agent: enrols a device once, then stays on the broker for ever and answers sessions."""

import asyncio
import json

from zts import control, crypto, identity, link
from zts.errors import FormatError, RemoteError, ZtsError

from . import board, mqtt, status
from .audit import Audit
from .keystore import Keystore
from .rules import Rules
from .services import Services
from .sessions import Sessions

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .services import Read

DIAL_S = 10  # a TCP and a TLS handshake with the broker, which a chip takes seconds for
FIRST_WAIT_MS = 1_000
LONGEST_WAIT_MS = 60_000
FAULTS = 5  # since the start, until a board starts anew
AT_ONCE_MS = 250  # after a good connection was closed: a broker that restarts is not back so soon
EVICTIONS_MS = 60_000  # two evictions within
BOARD_PAUSE_MS = 300_000  # a board's, before it tries again what only a person can mend
REFUSED_SHARE = 20  # while sessions run, a refused message has a twentieth of the time: to read it costs as much again as to refuse it

# How `zts agent` ends.
EXIT_REVOKED = 5
EXIT_REFUSED = 7
EXIT_DUPLICATE = 8


class AgentError(ZtsError):
    """Only a person can mend it. A board waits and tries again, an agent on a host ends with `exit_code`."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class Duplicate:
    """Tells from what the broker does whether another agent runs with our identity. `now` is integer ms."""

    def __init__(self) -> None:
        self._dropped = False  # the broker closed the last accepted connection, and nothing failed since
        self._evictions: list[int] = []

    def dropped(self) -> None:
        self._dropped = True

    def failed(self) -> None:
        """A dial or a login failed: the broker was away, which explains that it closed the connection."""
        self._dropped = False

    def accepted(self, now: int) -> bool:
        """Whether this is the second time within EVICTIONS_MS that a closed connection's successor was welcome at once."""
        if not self._dropped:
            return False
        self._dropped = False
        self._evictions = [at for at in self._evictions if now - at < EVICTIONS_MS] + [now]
        return len(self._evictions) >= 2

    def forget(self) -> None:
        self._dropped = False
        self._evictions = []


def jitter(ms: int) -> int:
    """Half of `ms` to all of it, so that a fleet does not come back at once."""
    return ms - ms * crypto.random_bytes(1)[0] // 512


class Agent:
    """`config` is the device's configuration: {"relay": {"address": "host:port"}, "services": {NAME: {"kind", "target"}}}.
    `kinds` are this machine's own kinds of services: `services.Services`.

    `slots` are `slots.Slots` and `wifi` is `wifi.Wifi`, each None where there is none.

    Raises FormatError, naming what is wrong with it.
    """

    def __init__(
        self,
        config: "dict[str, Any]",
        store: Keystore,
        kinds: "dict[str, Read] | None" = None,
        slots: "Any" = None,
        wifi: "Any" = None,
    ) -> None:
        relay, services = config.get("relay", {}), config.get("services", {})
        if not isinstance(relay, dict) or not isinstance(services, dict) or not isinstance(relay.get("address", ""), str):
            raise FormatError("'relay' and 'services' are tables, and relay.address is a text")
        self._address = identity.split_address(relay["address"]) if relay.get("address") else None
        self._services = Services(services, kinds)
        self._store = store
        self._slots = slots
        self._wifi = wifi
        self._duplicate = Duplicate()
        self._client: mqtt.Client | None = None
        self._said = b""  # the epoch of the hello we published on this connection

    async def run(self) -> None:
        """For ever. Raises FormatError (the state is of no use), and on a host AgentError."""
        board.tidy_memory()
        self._store.open()
        self._s = self._store.key_pair()
        self._fp = identity.fingerprint_text(self._s[1])
        self._rules = Rules(self._store)
        self._owner_inbox = control.inbox_topic(self._fp, identity.base32(self._rules.owner))
        board.device_name = self._store.state["name"]
        board.log("start", fp=self._fp, boots=self._store.state["boots"], runtime=board.RUNTIME)
        tasks = [asyncio.create_task(self._feed())]
        if self._wifi is not None:
            tasks.append(asyncio.create_task(self._wifi.run(self._is_reaching)))
            self._services.add_own("wifi", self._wifi.serve)
        try:
            account = await self._enrolled()
            self._responder = control.Responder(self._s, board.clock())
            audit = Audit(self._rules)
            self.sessions = Sessions(account, self._address or (account.host, account.port), self._rules, audit, self._services)
            self._services.add_own("status", self._tell_status)
            self._services.add_own("policy", self._rules.serve)
            self._services.add_own("log", audit.serve)
            if self._slots is not None:
                self._services.add_own("update", self._update)
            try:
                await self._stay_online(account)
            finally:
                await self.sessions.close()
        finally:
            for task in tasks:
                task.cancel()

    async def _feed(self) -> None:
        while True:
            board.clock()  # ticks wrap
            board.feed_watchdog()
            await asyncio.sleep(2)

    async def _has_network(self) -> None:
        if self._wifi is not None:
            await self._wifi.wait_for_address()

    def _is_reaching(self) -> bool:
        """Whether the network leads to anybody just now."""
        return self._said != b"" or len(getattr(self, "sessions", ())) > 0  # none before it is enrolled

    async def _pause(self, error: AgentError) -> None:
        board.log("needs a person", error=str(error), exit_code=error.exit_code)
        if not board.BOARD:
            raise error
        await asyncio.sleep(jitter(BOARD_PAUSE_MS) / 1000)

    async def _enrolled(self) -> identity.Account:
        account = self._store.relay()
        if account is None:
            from . import joining

            account = await joining.enrol(self._store, self._s, self._address, self._pause)
            board.unload(joining.MODULES)
        return account

    # --- the broker --------------------------------------------------------------------------------------------------

    async def _stay_online(self, account: identity.Account) -> None:
        wait = FIRST_WAIT_MS
        faults = 0
        while True:
            await self._has_network()
            try:
                await self._connect(account)
                wait = FIRST_WAIT_MS
                await self._serve()
            except mqtt.Dropped:
                self._duplicate.dropped()
                board.log("dropped by the broker")
                await asyncio.sleep(jitter(AT_ONCE_MS) / 1000)
                continue
            except AgentError as error:
                self._disconnect()
                self._duplicate.forget()
                await self._pause(error)
            except mqtt.LoginRefused as error:
                self._disconnect()
                self._duplicate.failed()
                board.log("offline", error=str(error))
                from . import joining

                revoked = await joining.is_revoked(account, self._s, self._address)
                board.unload(joining.MODULES)
                if revoked:
                    await self._pause(AgentError("this device was revoked at its relay", EXIT_REVOKED))
            except (OSError, EOFError, ZtsError) as error:
                self._duplicate.failed()
                board.log("offline", error=str(error) or type(error).__name__)
            except Exception as error:
                # No memory, or a mistake of ours: a device that nobody can reach must try again.
                self._duplicate.failed()
                board.log("fault", error=repr(error))
                faults += 1
                if faults == FAULTS and self._slots is not None:
                    self._slots.restart()  # what has become of the heap no other try mends
            finally:
                self._disconnect()
            await asyncio.sleep(jitter(wait) / 1000)
            wait = min(2 * wait, LONGEST_WAIT_MS)

    async def _connect(self, account: identity.Account) -> None:
        """Dials and logs in. Raises OSError, EOFError, ZtsError; AgentError when another agent has our identity."""
        with_tls, host, port = identity.parse_broker(account.broker, (self._address or (account.host,))[0])
        dialling = board.dial_tls(host, port, account.pin) if with_tls else board.dial(host, port)
        reader, writer = await board.within(DIAL_S, dialling)
        self._client = client = mqtt.Client(reader, writer, self._receive)
        await client.login(identity.client_id(account.password), self._fp, account.password, control.hello_topic(self._fp))
        if self._duplicate.accepted(board.clock()):
            raise AgentError("another agent runs with this device's identity: the broker keeps closing our connection", EXIT_DUPLICATE)

    async def _serve(self) -> None:
        client = self._client
        assert client is not None
        await client.subscribe(control.inbox_topic(self._fp, "+"))
        # Published before we listen to it: from then on only another agent can say a hello that is not ours.
        await self._say_hello()
        await client.subscribe(control.hello_topic(self._fp))
        if self._slots is not None:
            self._slots.confirm()
        board.log("online", fp=self._fp)
        await client.run(self._on_tick)

    def _disconnect(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None
        self._said = b""

    async def _say_hello(self) -> None:
        assert self._client is not None
        self._said = self._responder.epoch
        await self._client.publish(control.hello_topic(self._fp), control.encode_hello(self._said), retain=True)

    async def _on_tick(self) -> None:
        if board.clock() >= self._responder.next_timeout():
            self._responder.rotate(board.clock())
        if self._said != self._responder.epoch:
            await self._say_hello()

    async def _tell_status(self, reader: link.LinkStream, writer: link.LinkStream) -> None:
        while await reader.read():
            pass
        told = await status.measure()
        told["boots"] = self._store.state["boots"]
        told["sessions"] = len(self.sessions)
        told["refused"] = dict(self._responder.refused)
        told["refused"].update(self.sessions.refused)
        slots = self._slots
        told["slot"] = None if slots is None else {"boots": slots.slot, "trial": slots.on_trial, "why": slots.why}
        writer.write(json.dumps(told).encode())

    async def _update(self, reader: link.LinkStream, writer: link.LinkStream) -> None:
        from . import update

        await update.serve(self._slots, reader, writer, self._leave)

    def _leave(self) -> None:
        self._leaving = asyncio.create_task(self._start_anew())

    async def _start_anew(self) -> None:
        await asyncio.sleep(1)  # for the answer to arrive
        await self.sessions.close()
        self._disconnect()
        self._slots.restart()

    # --- messages ----------------------------------------------------------------------------------------------------

    async def _receive(self, topic: str, payload: bytes) -> None:
        if topic == control.hello_topic(self._fp):
            self._receive_hello(payload)
            return
        # To take a sender's name apart costs a chip twice as much as to look at mac1: a flood in the owner's name shall not.
        party = self._rules.owner
        if topic != self._owner_inbox:
            name = control.parse_inbox_topic(topic, self._fp)
            if name is None:
                return
            party = identity.parse_fingerprint(name)
        now = board.clock()
        accepted = self._responder.receive_message_1(payload, party, self._rules.find_peer, now)
        if accepted is None:
            if len(self.sessions):
                await asyncio.sleep((board.clock() - now + 1) * REFUSED_SHARE / 1000)
        elif self._client is not None:
            m2 = self.sessions.answer(accepted)
            await self._client.publish(control.inbox_topic(identity.base32(party), self._fp), m2)

    def _receive_hello(self, payload: bytes) -> None:
        if not self._said:
            return
        if not payload:
            self._said = b""  # an old connection's will: say it again
            return
        try:
            epoch = control.decode_hello(payload).epoch
        except RemoteError:
            return
        if not self._responder.is_ours(epoch):
            raise AgentError("another agent runs with this device's identity: it said a hello that is not ours", EXIT_DUPLICATE)


__all__ = ["Agent", "AgentError", "FormatError"]
