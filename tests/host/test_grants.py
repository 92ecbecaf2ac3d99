"""Grants and policies at a running agent: what a holder reaches, what ends it, and when."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import policy_blob
from agent_lab import WAIT_S, Device, HostAgent, Owner, ask, get, read_all, reset_code, target, until
from policy_blob import EVERY, HOLDERS, rule
from relay_process import RelayProcess
from zts import crypto, grant, identity, link, wire
from zts.errors import LocalError, StreamReset
from zts_agent import board
from zts_gateway import client
from zts_gateway.addressbook import Held
from zts_gateway.ui import Exit, Failure

HTTP = {"http": {"kind": "http", "target": "zts_agent.page:page"}}


@pytest.fixture(scope="module")
def relay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RelayProcess]:
    with RelayProcess(tmp_path_factory.mktemp("relay")) as relay:
        yield relay


@dataclass
class Lab:
    alice: Owner
    bob: Owner
    device: Device
    agent: HostAgent
    seq: int = 0

    @property
    def bob_fp(self) -> bytes:
        return identity.fingerprint(self.bob.me.public)

    def grant(self, *caveats: bytes, generation: int = 0, holder: bytes = b"") -> Held:
        id_ = generation.to_bytes(2, "big") + crypto.random_bytes(6)
        chain = grant.caveat(wire.CAVEAT_HOLDER, holder or self.bob_fp) + b"".join(caveats)
        root = grant.root(self.device.pairing, generation)
        return Held(id_, grant.mac_key(root, id_), grant.tail(root, id_, chain), chain)

    @contextlib.asynccontextmanager
    async def session(self, held: Held, who: Owner | None = None) -> AsyncIterator[client.Meeting]:
        who = who or self.bob
        meeting = await client.meet(who.me, who.account, "sensor", self.device.public, held, int(WAIT_S * 1000), lambda _: None)
        try:
            yield meeting
        finally:
            await meeting.close()

    async def refused(self, held: Held, who: Owner | None = None) -> Failure:
        with pytest.raises(Failure) as caught:
            async with self.session(held, who):
                pass
        return caught.value

    async def push(self, rules: list[Any], **more: Any) -> None:
        self.seq += 1
        blob = policy_blob.encode(rules, seq=self.seq, **more)
        async with self.alice.session(self.device) as session:
            said = json.loads(await ask(session, "zts-policy", int(time.time()).to_bytes(4, "big") + blob))
        assert said["refused"] == "" and said["seq"] == self.seq

    async def tell_time(self) -> None:
        async with self.alice.session(self.device):
            pass

    async def log(self) -> list[dict[str, Any]]:
        async with self.alice.session(self.device) as session:
            return [json.loads(line) for line in (await ask(session, "zts-log", b'{"after": 0, "follow": false}\n')).splitlines()]


@contextlib.asynccontextmanager
async def lab(relay: RelayProcess, folder: Path, services: dict[str, dict[str, str]]) -> AsyncIterator[Lab]:
    alice, bob = await Owner.join(relay.new_code()), await Owner.join(relay.new_code(), "bob")
    device = await alice.invite("sensor")
    async with HostAgent(folder / "device", device, services) as agent:
        yield Lab(alice, bob, device, agent)


def services(text: bytes) -> bytes:
    return grant.caveat(wire.CAVEAT_SERVICES, text)


MEMBER = grant.caveat(wire.CAVEAT_MEMBER, b"")


def until_(seconds: float) -> bytes:
    return grant.caveat(wire.CAVEAT_UNTIL, int(time.time() + seconds).to_bytes(4, "big"))


@contextlib.asynccontextmanager
async def talker() -> AsyncIterator[str]:
    """A target that says something every few milliseconds, for ever."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(b"x" * 100)
            await writer.drain()
            await asyncio.sleep(0.01)

    async with target(talk) as address:
        yield address


async def reads_until(stream: link.LinkStream) -> tuple[int, float]:
    """The code that ended a stream which talks, and how many seconds that took."""
    start = time.monotonic()
    try:
        while await stream.read():
            pass
    except StreamReset as reset:
        return reset.code, time.monotonic() - start
    raise AssertionError("it ended in order")


def test_a_holder_reaches_what_the_grant_names_and_nothing_else(relay: RelayProcess, tmp_path: Path) -> None:
    async def go() -> None:
        async with talker() as address, lab(relay, tmp_path, HTTP | {"talk": {"kind": "tcp", "target": address}}) as it:
            async with it.session(it.grant(services(b"http"))) as meeting:
                assert meeting.services == [(wire.SERVICE_HTTP, "http")]
                assert json.loads(await get(meeting.link))["name"] == "sensor"
                for name in ("talk", "nothing", "zts-status", "zts-policy", "zts-log", "zts-update"):
                    assert await reset_code(meeting.link.open(name)) == wire.DENIED
            async with it.session(it.grant()) as meeting:
                assert [name for _, name in meeting.services] == ["http", "talk"]
                for name in ("zts-status", "zts-policy", "zts-log"):
                    assert await reset_code(meeting.link.open(name)) == wire.DENIED
            # A key without the grant, the grant without the key, a grant of nobody's, a membership without a rule.
            assert (await it.refused(it.grant(MEMBER))).code == Exit.DENIED
            log = await it.log()
            assert [line["service"] for line in log if line["code"]][:2] == ["talk", "nothing"]
            bob = identity.base32(it.bob_fp)
            assert any(line["who"] == bob and line["service"] == "http" and not line["code"] and line["out"] > 100 for line in log)

    asyncio.run(go())


def test_widened_or_stolen_grants_reach_nothing(relay: RelayProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "PATIENCE_MS", 400)

    async def go() -> None:
        async with lab(relay, tmp_path, HTTP) as it:
            await it.tell_time()
            good = it.grant(services(b"http"), until_(60))
            wide = [
                good.caveats.replace(b"http", b"http,ssh").replace(bytes([2, 4]), bytes([2, 8])),
                good.caveats[:-6] + until_(3600),
                good.caveats[:-6],
                good.caveats.replace(it.bob_fp, identity.fingerprint(it.alice.me.public)),
            ]
            for caveats in wide:
                assert (await it.refused(Held(good.id, good.mac_key, good.tail, caveats))).code == Exit.OFFLINE
            for held in (
                it.grant(services(b"http"), holder=identity.fingerprint(it.alice.me.public)),
                it.grant(services(b"http"), generation=1),
                Held(bytes(8), good.mac_key, good.tail, good.caveats),
            ):
                assert (await it.refused(held)).code == Exit.OFFLINE
            assert (await it.refused(good, it.alice)).code == Exit.OFFLINE
            monkeypatch.setattr(client, "PATIENCE_MS", 15_000)
            async with it.session(good) as meeting:  # and none of it hurt who may
                await get(meeting.link)

    asyncio.run(go())


def test_until_when(relay: RelayProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(board, "boot", lambda: ("", 0))  # as of a board

    async def go() -> None:
        async with talker() as address, lab(relay, tmp_path, HTTP | {"talk": {"kind": "tcp", "target": address}}) as it:
            soon = it.grant(until_(6))
            unknown = await it.refused(soon)
            assert unknown.code == Exit.DENIED and "zts status" in str(unknown)
            async with it.session(it.grant(services(b"http"))) as meeting:  # nobody need know the time for it
                await get(meeting.link)
            await it.tell_time()
            async with it.session(soon) as meeting:
                stream = meeting.link.open("talk")
                await stream.opened()
                code, took = await reads_until(stream)
                assert code == wire.DENIED and took < 9
                assert (await meeting.wait_over()).code == Exit.DENIED
            assert (await it.refused(soon)).code == Exit.DENIED

    asyncio.run(go())


def test_taken_back_in_mid_transfer(relay: RelayProcess, tmp_path: Path) -> None:
    async def go() -> None:
        async with talker() as address, lab(relay, tmp_path, {"talk": {"kind": "tcp", "target": address}}) as it:
            changes: list[tuple[list[Any], dict[str, Any], int]] = [
                ([], {"revoked": []}, wire.REVOKED),
                ([], {"generation": 1}, wire.REVOKED),
                ([rule([HOLDERS], ["http"])], {}, wire.DENIED),
            ]
            generation = 0
            for rules, revoke, code in changes:
                await it.push([], generation=generation)
                held = it.grant(services(b"talk"), generation=generation)
                other = it.grant(services(b"talk"), generation=generation)
                if "revoked" in revoke:
                    revoke = {"revoked": [held.id]}
                async with it.session(held) as meeting, it.session(other) as beside, it.alice.session(it.device) as owners:
                    streams = [session.open("talk") for session in (meeting.link, beside.link, owners)]
                    for stream in streams:
                        await stream.opened()
                    await it.push(rules, **{"generation": generation, **revoke})
                    got, took = await reads_until(streams[0])
                    assert (got, took < 2) == (code, True), (revoke, got, took)
                    if code == wire.REVOKED:
                        assert (await meeting.wait_over()).code == Exit.DENIED
                    assert await streams[2].read()  # the owner's goes on
                    if "revoked" in revoke:
                        assert await streams[1].read() and beside.is_up
                    print(f"taken back {sorted(revoke) or 'by a rule'}: the stream was dead after {took * 1000:.0f} ms")
                assert code == wire.DENIED or "revoked" in str(await it.refused(held))
                generation = revoke.get("generation", generation)

    asyncio.run(go())


def test_what_cannot_be_judged_any_more_ends(relay: RelayProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a board that runs out of memory: while it judges, or while it says what it has judged."""

    def no_memory(*_: Any) -> Any:
        raise MemoryError

    async def go() -> None:
        async with talker() as address, lab(relay, tmp_path, {"talk": {"kind": "tcp", "target": address}}) as it:
            sessions = it.agent.agent.sessions
            held = it.grant(services(b"talk"))
            denied = {None: (wire.OK, sessions.rules.decide(b"", b"", None, None, 0)[1]), "talk": (wire.DENIED, None)}
            for where in ("judge", "reset"):
                async with it.session(held) as meeting:
                    stream = meeting.link.open("talk")
                    await stream.opened()
                    (running,) = sessions._running
                    with monkeypatch.context() as patch:
                        if where == "judge":
                            patch.setattr(sessions, "judge", no_memory)
                        else:
                            patch.setattr(sessions, "judge", lambda _, service: denied[service])
                            patch.setattr(running._session._records, "seal", no_memory)
                        async with asyncio.timeout(WAIT_S):
                            assert (await reads_until(stream))[0] == wire.TRUNCATED
                        await until(lambda: not sessions._running)
                        assert not running.streams
                    assert (await meeting.wait_over()).code == Exit.LOST
            async with it.session(held) as meeting:
                await meeting.link.open("talk").opened()

    asyncio.run(go())


def test_limits(relay: RelayProcess, tmp_path: Path) -> None:
    async def go() -> None:
        async def sink(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()

        async with target(sink) as address, lab(relay, tmp_path, {"echo": {"kind": "tcp", "target": address}}) as it:
            # Streams at once, over all sessions of a party.
            held = it.grant(services(b"echo"), grant.caveat(wire.CAVEAT_STREAMS, b"\2"))
            async with it.session(held) as one, it.session(held) as two:
                first, second = one.link.open("echo"), two.link.open("echo")
                await first.opened()
                await second.opened()
                assert await reset_code(one.link.open("echo")) == wire.BUSY
                second.finish()
                assert await read_all(second) == b""
                await until(lambda: sum(len(running.streams) for running in it.agent.agent.sessions._running) == 1)
                third = one.link.open("echo")
                await third.opened()
            # Bytes of a session, both ways together: not one more reaches the other side.
            held = it.grant(services(b"echo"), grant.caveat(wire.CAVEAT_BYTES, (20_000).to_bytes(8, "big")))
            async with it.session(held) as meeting:
                stream = meeting.link.open("echo")
                await stream.opened()
                got = 0
                with pytest.raises((StreamReset, LocalError)) as ended:
                    while True:
                        await stream.send(b"x" * 1000)
                        piece = await stream.read()
                        got += len(piece)
                assert got <= 10_000 and (not isinstance(ended.value, StreamReset) or ended.value.code == wire.QUOTA)
                assert "limit" in str(await meeting.wait_over())
            # A stream on which nothing passes.
            held = it.grant(services(b"echo"), grant.caveat(wire.CAVEAT_IDLE, b"\0\1"))
            async with it.session(held) as meeting:
                stream = meeting.link.open("echo")
                await stream.opened()
                for _ in range(4):
                    await asyncio.sleep(0.5)
                    await stream.send(b"x")
                    assert await stream.read() == b"x"
                assert await reset_code(stream) == wire.IDLE and meeting.is_up

    asyncio.run(go())


def test_members_by_policy_and_rules_for_all_holders(relay: RelayProcess, tmp_path: Path) -> None:
    async def go() -> None:
        async with talker() as address, lab(relay, tmp_path, HTTP | {"talk": {"kind": "tcp", "target": address}}) as it:
            member, all_ = it.grant(MEMBER), it.grant()
            await it.push([rule([it.bob_fp], ["talk"], streams=1)])
            async with it.session(member) as meeting:
                assert [name for _, name in meeting.services] == ["talk"]
                assert await reset_code(meeting.link.open("http")) == wire.DENIED
                stream = meeting.link.open("talk")
                await stream.opened()
                assert await reset_code(meeting.link.open("talk")) == wire.BUSY
                # Another policy, and what it does not allow ends; what it allows opens.
                await it.push([rule([it.bob_fp, HOLDERS], ["http"])])
                assert (await reads_until(stream))[0] == wire.DENIED and meeting.is_up
                await get(meeting.link)
            async with it.session(all_) as meeting:
                assert [name for _, name in meeting.services] == ["http"]
            await it.push([rule([HOLDERS], EVERY, read_only=True)])
            async with it.session(all_) as meeting:
                assert meeting.services == []  # of neither is known what only reading would be

    asyncio.run(go())


def test_policy_survives_a_restart_and_its_loss_lets_nobody_in(relay: RelayProcess, tmp_path: Path) -> None:
    async def go() -> None:
        async with lab(relay, tmp_path, HTTP) as it:
            await it.push([rule([it.bob_fp], ["http"])])
            member = it.grant(MEMBER)
        async with HostAgent(tmp_path / "device", None, HTTP), it.session(member) as meeting:
            await get(meeting.link)
        (tmp_path / "device" / "policy").unlink()
        async with HostAgent(tmp_path / "device", None, HTTP):
            assert (await it.refused(member)).code == Exit.DENIED
            assert (await it.refused(it.grant(services(b"http")))).code == Exit.DENIED
            await it.push([rule([it.bob_fp], ["http"])])
            async with it.session(member) as meeting:
                await get(meeting.link)

    asyncio.run(go())


def test_what_is_open_keeps_to_limits_that_come_later(relay: RelayProcess, tmp_path: Path) -> None:
    async def go() -> None:
        async with talker() as address, lab(relay, tmp_path, {"talk": {"kind": "tcp", "target": address}}) as it:
            member = it.grant(MEMBER)
            for limit, code in (
                ({"read_only": True}, wire.DENIED),
                ({"streams": 1}, wire.BUSY),
                ({"kib": 1}, wire.QUOTA),
            ):
                await it.push([rule([it.bob_fp], ["talk"])])
                async with it.session(member) as meeting:
                    streams = [meeting.link.open("talk") for _ in range(2)]
                    for stream in streams:
                        await stream.opened()
                    await it.push([rule([it.bob_fp], ["talk"], **limit)])
                    ended = await asyncio.gather(*[_ends(stream) for stream in streams])
                    assert code in ended and (limit == {"streams": 1}) == (wire.OK in ended), (limit, ended)

    async def _ends(stream: link.LinkStream) -> int:
        try:
            async with asyncio.timeout(3):
                return (await reads_until(stream))[0]
        except TimeoutError:
            return wire.OK

    asyncio.run(go())


def test_holders_leave_the_owner_a_place(relay: RelayProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def go() -> None:
        async with lab(relay, tmp_path, HTTP) as it, contextlib.AsyncExitStack() as stack:
            monkeypatch.setattr(it.agent.agent.sessions, "_limit", 3)
            for _ in range(2):
                await stack.enter_async_context(it.session(it.grant()))
            assert (await it.refused(it.grant())).code == Exit.REFUSED
            await it.push([], generation=1)

    asyncio.run(go())
