"""An agent's life at a real relay: enrolling, refusing, coming back, and noticing a twin; on both runtimes."""

import asyncio
import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import aiomqtt
import pytest

from agent_lab import WAIT_S, Device, HostAgent, Owner, ask, get, reading, reset_code, target, until
from device_process import HTTP, DeviceProcess
from relay_process import RelayProcess
from zts import codes, control, identity, link, wire
from zts.initiator import Initiator
from zts_agent import agent as agent_module
from zts_agent.agent import AgentError
from zts_gateway import broker, client
from zts_gateway.ui import Failure


@pytest.fixture
def relay(tmp_path: Path) -> Iterator[RelayProcess]:
    with RelayProcess(tmp_path / "relay") as relay:
        yield relay


@pytest.fixture
def owner(relay: RelayProcess) -> Owner:
    assert relay.join
    return asyncio.run(Owner.join(relay.join))


def _again(relay: RelayProcess) -> RelayProcess:
    """The same relay at the same addresses, after it has ended."""
    assert relay.mqtt
    addresses = [identity.join_address(*address) for address in (relay.leg, relay.mqtt)]
    return RelayProcess(relay.state, "--listen", addresses[0], "--mqtt", addresses[1])


# --- enrolling -------------------------------------------------------------------------------------------------------


def test_enrolling_again_with_the_same_key_is_the_same_account(owner: Owner, tmp_path: Path) -> None:
    """The power failed after the relay had answered and before that was saved."""
    device = asyncio.run(owner.invite("sensor42"))
    with DeviceProcess(tmp_path / "device", device.line) as process:
        first = process.state
    state = {key: value for key, value in first.items() if key != "relay"} | {"line": device.line}
    again = DeviceProcess(tmp_path / "device", None)
    (tmp_path / "device" / "state" / "state.json").write_text(json.dumps(state))
    with again:
        again.wait_for("online", 2)
        assert again.state == {**first, "boots": 2}


@pytest.mark.parametrize("line", ["unknown", "used"])
def test_a_line_that_is_no_good_is_told(owner: Owner, tmp_path: Path, line: str) -> None:
    async def go() -> None:
        device = await owner.invite("pi")
        if line == "unknown":
            parsed = codes.parse_enrol_line(device.line)
            code = parsed.code._replace(secret=bytes(wire.SECRET_BYTES))
            device.line = codes.format_enrol_line(parsed._replace(code=code))
        else:
            async with HostAgent(tmp_path / "first", device, {}):
                pass
        second = HostAgent(tmp_path / "second", device, {})
        with pytest.raises(AgentError) as error:
            await asyncio.wait_for(second.agent.run(), WAIT_S)
        assert error.value.exit_code == agent_module.EXIT_REFUSED

    asyncio.run(go())


def test_it_waits_for_a_relay_that_is_away(relay: RelayProcess, owner: Owner, tmp_path: Path) -> None:
    device = asyncio.run(owner.invite("sensor42"))
    relay.kill()
    process = DeviceProcess(tmp_path / "device", device.line)
    process.start()
    try:
        process.wait_for("relay not reached")
        with _again(relay):
            process.wait_for("online")
    finally:
        process.kill()


# --- who gets what ---------------------------------------------------------------------------------------------------


def test_what_is_refused_and_how(owner: Owner, tmp_path: Path) -> None:
    async def rude(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"half")
        await writer.drain()
        await reader.readexactly(1)
        writer.get_extra_info("socket").setsockopt(1, 13, b"\1\0\0\0\0\0\0\0")  # SO_LINGER 0: an RST

    async def say_and_close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readexactly(4))
        await writer.drain()

    async def serve(session: link.Link) -> None:
        assert await reset_code(session.open("nothing")) == wire.DENIED
        assert await reset_code(session.open("down")) == wire.TARGET_REFUSED
        stream = session.open("rude")
        await stream.opened()
        assert await stream.read() == b"half"
        await stream.send(b"x")
        assert await reset_code(stream) == wire.TARGET_RESET
        # A target that ends in order, and whose client does.
        assert await ask(session, "kind", b"ping") == b"ping"
        assert await reset_code(session.open("broken")) == wire.TARGET_RESET
        await until(lambda: session.session.streams() == 0)

    async def go() -> None:
        async with target(rude) as rude_address, target(say_and_close) as kind_address:
            async with target(rude) as down_address:
                pass
            tcp = {"rude": rude_address, "kind": kind_address, "down": down_address}
            services = {name: {"kind": "tcp", "target": address} for name, address in tcp.items()}
            services["broken"] = {"kind": "handler", "target": "agent_broken:broken"}
            source = "async def broken(reader, writer):\n    raise ValueError('a bug')\n"
            device = await owner.invite("sensor42")
            with DeviceProcess(tmp_path / "device", device.line, services, modules={"agent_broken": source}) as process:
                device.public = bytes.fromhex(process.state["public"])
                async with owner.session(device) as session:
                    assert sorted(name for _, name in session.services) == sorted(services)
                    await serve(session)
            (tmp_path / "modules").mkdir()
            (tmp_path / "modules" / "agent_broken.py").write_text(source)
            with pytest.MonkeyPatch.context() as patch:
                patch.syspath_prepend(str(tmp_path / "modules"))
                device = await owner.invite("pi")
                async with HostAgent(tmp_path / "pi", device, services), owner.session(device) as session:
                    await serve(session)

    asyncio.run(go())


def test_a_fourth_session_is_told_that_the_board_is_busy(owner: Owner, tmp_path: Path) -> None:
    device = asyncio.run(owner.invite("sensor42"))
    with DeviceProcess(tmp_path / "device", device.line) as process:
        device.public = bytes.fromhex(process.state["public"])

        async def go() -> None:
            async with contextlib.AsyncExitStack() as stack:
                sessions = [await stack.enter_async_context(owner.session(device)) for _ in range(wire.BOARD_SESSIONS)]
                with pytest.raises(Failure):
                    async with owner.session(device):
                        pass
                for session in sessions:
                    await get(session, "/")
            process.wait_for("session over", wire.BOARD_SESSIONS)
            async with owner.session(device) as session:
                await reading(session)

        asyncio.run(go())


async def _message_2(owner: Owner, device: Device, relay_fp: bytes, max_record: int, window: int) -> "dict[int, bytes]":
    fp = identity.fingerprint_text(device.public)
    inbox = control.inbox_topic(owner.me.fp, fp)
    initiator: Initiator | None = None
    async with broker.connect(owner.me, owner.account) as client:
        await client.subscribe(inbox)
        await client.subscribe(control.hello_topic(fp))
        async for message in client.messages:
            assert isinstance(message.payload, bytes)
            if message.topic.value == inbox:
                assert initiator
                answer = initiator.read_message_2(message.payload)
                assert answer is not None
                return answer
            epoch = control.decode_hello(message.payload).epoch
            initiator = Initiator(wire.PURPOSE_CONNECT, owner.me.pair, device.public, device.pairing, epoch)
            fields = {
                wire.TLV_RELAY: relay_fp,
                wire.TLV_SID: bytes(16),
                wire.TLV_ACCOUNT: owner.account.account,
                wire.TLV_MAX_RECORD: max_record.to_bytes(2, "big"),
                wire.TLV_WINDOW: window.to_bytes(4, "big"),
            }
            await client.publish(control.inbox_topic(fp, owner.me.fp), initiator.message_1(fields))
    raise AssertionError("the broker closed")


def test_another_relay_and_impossible_offers_are_refused(owner: Owner, tmp_path: Path) -> None:
    async def go() -> None:
        device = await owner.invite("pi")
        relay_fp = identity.fingerprint(owner.account.relay_key)
        async with HostAgent(tmp_path / "pi", device, HTTP) as running:
            for fp, max_record, window, code in (
                (bytes(15), 1000, 1000, wire.DENIED),
                (relay_fp, 0, 1000, wire.PROTO),
                (relay_fp, 51, 1000, wire.PROTO),
                (relay_fp, 1000, 0, wire.PROTO),
            ):
                answer = await asyncio.wait_for(_message_2(owner, device, fp, max_record, window), WAIT_S)
                assert answer == {wire.TLV_CODE: bytes([code])}
            assert len(running.agent.sessions) == 0

    asyncio.run(go())


def test_a_client_that_asks_again_gets_one_session_and_one_answer(owner: Owner, tmp_path: Path) -> None:
    async def go() -> None:
        device = await owner.invite("pi")
        async with HostAgent(tmp_path / "pi", device, HTTP) as running:
            await until(lambda: running.agent._said != b"")
            call = client._Call(owner.me, owner.account, device.name, device.public, device.pairing)
            async with broker.connect(owner.me, owner.account) as connection:
                await broker.subscribe(connection, [call.inbox, call.hello])
                answers: list[bytes] = []
                async for message in connection.messages:
                    call.receive(message)
                    if message.topic.value == call.hello:
                        for _ in range(3):
                            await connection.publish(
                                control.inbox_topic(identity.fingerprint_text(device.public), owner.me.fp), call.next_message_1()
                            )
                    else:
                        answers.append(broker.payload(message))
                    if len(answers) == 3:
                        break
            assert answers == answers[:1] * 3 and call.answer
            assert len(running.agent.sessions) == 1

    asyncio.run(asyncio.wait_for(go(), WAIT_S))


def test_an_agent_that_ends_says_so(owner: Owner, tmp_path: Path) -> None:
    async def go() -> None:
        device = await owner.invite("pi")
        running = HostAgent(tmp_path / "pi", device, HTTP)
        async with running, owner.session(device) as session:
            await reading(session)
            running.task.cancel()
            await asyncio.wait_for(session.wait_over(), WAIT_S)
            assert session.reason == wire.DRAIN

    asyncio.run(go())


# --- coming back -----------------------------------------------------------------------------------------------------


def test_both_agents_come_back_after_a_relay_was_killed(relay: RelayProcess, owner: Owner, tmp_path: Path) -> None:
    board, pi = asyncio.run(owner.invite("sensor42")), asyncio.run(owner.invite("pi"))

    async def check(device: Device) -> None:
        async with owner.session(device) as session:
            await reading(session)

    async def go() -> None:
        with DeviceProcess(tmp_path / "device", board.line) as process:
            board.public = bytes.fromhex(process.state["public"])
            async with HostAgent(tmp_path / "pi", pi, HTTP) as running, owner.session(pi) as session:
                await reading(session)
                await asyncio.to_thread(relay.kill)
                await asyncio.wait_for(session.wait_over(), WAIT_S)
                await asyncio.to_thread(process.wait_for, "offline")
                await until(lambda: len(running.agent.sessions) == 0)
                back = await asyncio.to_thread(_again(relay).__enter__)
                try:
                    await check(pi)
                    await check(board)
                finally:
                    await asyncio.to_thread(back.__exit__, None, None, None)

    asyncio.run(go())


def test_a_new_epoch_is_said_and_taken(owner: Owner, tmp_path: Path) -> None:
    device = asyncio.run(owner.invite("sensor42"))
    setup = "from zts import wire\nwire.EPOCH_MS = 100\n"
    with DeviceProcess(tmp_path / "device", device.line, setup=setup) as process:
        device.public = bytes.fromhex(process.state["public"])
        topic = control.hello_topic(identity.fingerprint_text(device.public))

        async def go() -> None:
            epochs: set[bytes] = set()
            async with broker.connect(owner.me, owner.account) as client:
                await client.subscribe(topic)
                async for message in client.messages:
                    assert isinstance(message.payload, bytes)
                    epochs.add(control.decode_hello(message.payload).epoch)
                    if len(epochs) == 3:
                        break
            async with owner.session(device) as session:
                await reading(session)

        asyncio.run(go())
        assert not [event for event in process.events() if event["event"] in ("offline", "needs a person")]


def test_a_broker_with_another_certificate_is_left_alone(owner: Owner, tmp_path: Path) -> None:
    device = asyncio.run(owner.invite("sensor42"))
    with DeviceProcess(tmp_path / "device", device.line) as process:
        state = process.state
    state["relay"]["pin"] = state["relay"]["pin"][:-1] + ("0" if state["relay"]["pin"][-1] != "0" else "1")
    again = DeviceProcess(tmp_path / "device", None)
    (tmp_path / "device" / "state" / "state.json").write_text(json.dumps(state))
    again.start()
    try:
        event = again.wait_for("offline", 1, lambda event: "certificate" in event["error"])
        assert event
        assert len([event for event in again.events() if event["event"] == "online"]) == 1  # the first time
    finally:
        again.kill()


class _Gags:
    """In front of a broker: of each connection only so many bytes come back, and then it falls silent for ever; the last is whole."""

    def __init__(self, address: tuple[str, int], sizes: list[int]) -> None:
        self._address = address
        self.sizes = sizes

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        left = self.sizes.pop(0) if self.sizes else 1 << 30
        from_broker, to_broker = await asyncio.open_connection(*self._address)

        async def forth() -> None:
            with contextlib.suppress(OSError):
                while data := await reader.read(1000):
                    to_broker.write(data)
                    await to_broker.drain()

        forward = asyncio.create_task(forth())
        try:
            while left and (data := await from_broker.read(min(left, 1000))):
                left -= len(data)
                writer.write(data)
                await writer.drain()
            await forward  # until the agent gives up
        finally:
            forward.cancel()
            to_broker.transport.abort()


def test_a_broker_that_falls_silent_anywhere_never_stops_a_board(relay: RelayProcess, owner: Owner, tmp_path: Path) -> None:
    """Over TLS, so that the handshake is cut too; it ends after about 600 bytes, CONNACK and SUBACKs come in the 150 after."""
    device = asyncio.run(owner.invite("sensor42"))
    with DeviceProcess(tmp_path / "device", device.line) as process:
        device.public = bytes.fromhex(process.state["public"])
        state = process.state
    assert relay.mqtt
    gags = _Gags(relay.mqtt, [0, 1, 5, 80, 300, *range(560, 760, 10)])
    short = "from zts_agent import agent, mqtt\nagent.DIAL_S = mqtt.DEADLINE_S = 0.5\nagent.FIRST_WAIT_MS = agent.LONGEST_WAIT_MS = 20\n"
    short += "mqtt.PING_MS, mqtt.SILENT_MS, mqtt.TICK_S = 200, 500, 0.1\n"

    async def go() -> None:
        async with target(gags.serve) as address:
            state["relay"]["broker"] = f"mqtts://{address}"
            again = DeviceProcess(tmp_path / "device", None, setup=short)
            (tmp_path / "device" / "state" / "state.json").write_text(json.dumps(state))
            again.start()
            try:
                await until(lambda: not gags.sizes)
                async with owner.session(device) as session:
                    await reading(session)
                events = [event["event"] for event in again.events()]
                assert events.count("offline") >= 20 and "fault" not in events and "needs a person" not in events
            finally:
                await asyncio.to_thread(again.kill)

    asyncio.run(go())


# --- twins -----------------------------------------------------------------------------------------------------------


def test_two_boards_with_one_identity_notice(owner: Owner, tmp_path: Path) -> None:
    device = asyncio.run(owner.invite("sensor42"))
    with DeviceProcess(tmp_path / "device", device.line) as process:
        shutil.copytree(tmp_path / "device", tmp_path / "copy")
        twin = DeviceProcess(tmp_path / "copy", None)
        twin.start()
        try:

            def said() -> bool:
                events = process.events() + twin.events()
                return any(event["event"] == "needs a person" and event["exit_code"] == agent_module.EXIT_DUPLICATE for event in events)

            asyncio.run(until(said))
        finally:
            twin.kill()


def test_a_host_agent_with_a_twin_ends(owner: Owner, tmp_path: Path) -> None:
    async def go() -> None:
        device = await owner.invite("pi")
        async with HostAgent(tmp_path / "pi", device, {}) as first:
            shutil.copytree(tmp_path / "pi", tmp_path / "copy")
            async with HostAgent(tmp_path / "copy", None, {}) as second:
                done, _ = await asyncio.wait([first.task, second.task], timeout=WAIT_S, return_when=asyncio.FIRST_COMPLETED)
                assert done
                error = done.pop().exception()
                assert isinstance(error, AgentError) and error.exit_code == agent_module.EXIT_DUPLICATE

    asyncio.run(go())


def test_a_foreign_hello_in_our_name_ends_a_host_agent(owner: Owner, tmp_path: Path) -> None:
    async def go() -> None:
        device = await owner.invite("pi")
        async with HostAgent(tmp_path / "pi", device, {}) as running:
            account = running.store.relay()
            assert account
            fp = identity.fingerprint_text(device.public)
            _, host, port = identity.parse_broker(account.broker, account.host)
            async with aiomqtt.Client(host, port, username=fp, password=account.password, tls_context=broker.pinned(account.pin)) as thief:
                # Its own, from before, changes nothing; nor does one that is cleared.
                await until(lambda: running.agent._said != b"")
                await thief.subscribe(control.hello_topic(fp))
                await thief.publish(control.hello_topic(fp), b"", retain=True)
                heard: list[bytes] = []
                async for message in thief.messages:
                    assert isinstance(message.payload, bytes)
                    heard.append(message.payload)
                    if b"" in heard and message.payload:
                        break
                assert not running.task.done()
                await thief.publish(control.hello_topic(fp), control.encode_hello(bytes(range(16))), retain=True)
                with pytest.raises(AgentError) as error:
                    await asyncio.wait_for(asyncio.shield(running.task), WAIT_S)
                assert error.value.exit_code == agent_module.EXIT_DUPLICATE

    asyncio.run(go())
