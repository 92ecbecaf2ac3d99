"""A serial line over a link in memory: everything in its order, every refusal, and a port that is always given back."""

import asyncio
from pipes import Pipe, run

from served import Served, hear_line, read_all, reset_code
from zts import line, wire
from zts_agent import board, serial

READY = wire.STATE_CTS | wire.STATE_DSR | wire.STATE_CD
DTR, RTS = wire.MODEM_DTR, wire.MODEM_RTS


class Port:
    """A port in memory; `done` says what it was told, and `cable` is what comes."""

    def __init__(self):
        self.done = []
        self.cable = Pipe()
        self.bits = READY
        self.fault = None
        self.sent = asyncio.Event()  # what drain waits for
        self.sent.set()
        self.is_open = True

    async def read(self):
        data = await self.cable.read(1000)
        if not data:
            raise OSError(5, "gone")
        return data

    async def write(self, data):
        await asyncio.sleep(0)
        if self.fault:
            raise self.fault
        if self.done and isinstance(self.done[-1], bytes):
            self.done[-1] += data
        else:
            self.done.append(data)

    async def drain(self):
        await self.sent.wait()
        if self.done and isinstance(self.done[-1], bytes):
            self.done.append("drained")

    def set(self, *settings):
        self.done.append(settings)

    def modem(self, mask, values):
        self.done.append((mask, values, board.clock()))

    def hold(self, low):
        self.done.append((low, board.clock()))

    def purge(self, which):
        self.done.append(("purge", which))

    def state(self):
        bits, self.bits = self.bits, self.bits & ~wire.STATE_LOST
        return bits

    def close(self):
        self.is_open = False


class Lab:
    """`async with Lab() as (client, open):` a device that serves a port; each time it is opened, `ports` grows."""

    def __init__(self, *ports):
        self.ports = []
        self._next = list(ports)
        self._served = Served(serial.serve_port(self._open_port))

    def _open_port(self):
        if self._next and isinstance(self._next[0], Exception):
            raise self._next.pop(0)
        self.ports.append(self._next.pop(0) if self._next else Port())
        return self.ports[-1]

    async def __aenter__(self):
        return await self._served.__aenter__()

    async def __aexit__(self, *_):
        await self._served.__aexit__(None, None, None)
        assert not any(port.is_open for port in self.ports)


async def until(condition):
    while not condition():
        await asyncio.sleep(0.001)


def modem(mask, values):
    return line.encode(wire.LINE_MODEM, bytes([mask, values]))


def test_what_is_said_is_done_in_its_order():
    said = b"".join(
        [
            line.data(b"one"),
            line.settings(9600, 7, "E", 2),
            line.data(b"two"),
            line.data(b"three"),
            modem(DTR, DTR),
            line.encode(wire.LINE_PURGE, bytes([wire.PURGE_RECEIVED])),
            line.data(b"four"),
            line.encode(wire.LINE_PURGE, bytes([wire.PURGE_RECEIVED | wire.PURGE_UNSENT])),
            modem(0xFF, RTS),
            line.settings(4_000_000, 8, "N", 1),
            line.data(bytes(range(256)) * 8),
        ]
    )
    expected = [b"one", "drained", (9600, 7, "E", 2), b"twothree", "drained", (DTR, DTR), ("purge", wire.PURGE_RECEIVED), b"four"]
    # Who throws away what is unsent does not wait until it is sent.
    expected += [
        ("purge", wire.PURGE_RECEIVED | wire.PURGE_UNSENT),
        (DTR | RTS, RTS),
        (4_000_000, 8, "N", 1),
        bytes(range(256)) * 8,
        "drained",
    ]

    async def go():
        for step in (1, 7, len(said)):
            lab = Lab()
            async with lab as client:
                stream = client.open("console")
                await stream.opened()
                for at in range(0, len(said), step):
                    await stream.send(said[at : at + step])
                stream.finish()
                assert await read_all(stream) == line.encode(wire.LINE_STATE, bytes([READY]))
                (port,) = lab.ports
                done = [what[:2] if isinstance(what, tuple) and len(what) == 3 else what for what in port.done]
                assert done == expected, done

    run(go())


def test_nothing_changes_before_the_last_bit_has_left():
    async def go():
        lab = Lab()
        async with lab as client:
            stream = client.open("console")
            await stream.opened()
            (port,) = lab.ports
            port.sent.clear()
            await stream.send(line.data(b"slow") + line.settings(300, 8, "N", 1))
            stream.finish()
            await until(lambda: port.done)
            await asyncio.sleep(0.01)
            assert port.done == [b"slow"] and port.is_open
            port.sent.set()
            await read_all(stream)
            # Whoever reads the end finds the port free.
            assert port.done == [b"slow", "drained", (300, 8, "N", 1)] and not port.is_open

    run(go())


def test_what_comes_and_how_the_lines_are():
    async def go():
        lab = Lab()
        before = serial.STATE_S
        serial.STATE_S = 0.01
        try:
            async with lab as client:
                stream = client.open("console")
                await stream.opened()
                (port,) = lab.ports
                sent = bytes(range(256)) * 40
                for at in range(0, len(sent), 3000):
                    port.cable.write(sent[at : at + 3000])
                assert await hear_line(stream, len(sent)) == (sent, [(wire.LINE_STATE, READY)])
                # Said when they change, and only then; lost bytes are said each time.
                port.bits = wire.STATE_CTS
                await asyncio.sleep(0.05)
                port.bits |= wire.STATE_LOST
                await asyncio.sleep(0.05)
                port.bits |= wire.STATE_LOST
                await asyncio.sleep(0.05)
                port.cable.write(b"x")
                lost = (wire.LINE_STATE, wire.STATE_CTS | wire.STATE_LOST)
                assert await hear_line(stream, 1) == (b"x", [(wire.LINE_STATE, wire.STATE_CTS), lost, lost])
                stream.finish()
                assert await read_all(stream) == b""
        finally:
            serial.STATE_S = before

    run(go())


def test_a_break_and_the_reset_sequences():
    async def go():
        lab = Lab()
        async with lab as client:
            stream = client.open("console")
            await stream.opened()
            await stream.send(line.encode(wire.LINE_BREAK, bytes([0, 30])))
            for which in (wire.RESET_RUN, wire.RESET_BOOTLOADER):
                await stream.send(line.encode(wire.LINE_RESET, bytes([which])))
            stream.finish()
            await read_all(stream)
            done = lab.ports[0].done
            assert [low for low, _ in done[:2]] == [True, False] and done[1][1] - done[0][1] >= 29
            assert [mask for mask, _, _ in done[2:]] == [DTR | RTS] * 8
            assert [values for _, values, _ in done[2:]] == [0, RTS, 0, 0, DTR | RTS, RTS, DTR, 0]
            times = [now for _, _, now in done[2:]]
            for first, least in ((1, 99), (5, 99), (6, 49)):
                assert least <= times[first + 1] - times[first] <= least + 2000, times

    run(go())


def test_a_client_that_leaves_lets_go_of_the_lines():
    async def go():
        for said, last in (
            (line.encode(wire.LINE_RESET, bytes([wire.RESET_BOOTLOADER])), (DTR | RTS, 0)),
            (line.encode(wire.LINE_BREAK, b"\xff\xff"), (False,)),
        ):
            lab = Lab()
            async with lab as client:
                stream = client.open("console")
                await stream.opened()
                await stream.send(said)
                (port,) = lab.ports
                await until(lambda port=port: port.done)
                stream.reset(wire.OK)
                await until(lambda port=port: not port.is_open)
                assert port.done[-1][:-1] == last
                # And the next one is welcome.
                stream = client.open("console")
                await stream.opened()
                stream.finish()
                await read_all(stream)

    run(go())


def test_what_is_no_line_message_breaks_the_stream_off():
    async def go():
        lab = Lab()
        async with lab as client:
            for said in (
                bytes([7, 0, 1, 0]),
                line.encode(wire.LINE_DATA, b""),
                line.encode(wire.LINE_PURGE, b"\1\1"),
                line.encode(wire.LINE_STATE, bytes([READY])),
                line.encode(wire.LINE_RESET, b"\0"),
                line.encode(wire.LINE_RESET, b"\3"),
                line.encode(wire.LINE_SETTINGS, bytes(7)),
                line.encode(wire.LINE_SETTINGS, bytes([0, 0, 0x25, 0x80, 9, 0, 1])),
            ):
                stream = client.open("console")
                await stream.opened()
                await stream.send(said + line.data(b"after"))
                assert await reset_code(read_all(stream)) == wire.PROTO, said
                await until(lambda: not lab.ports[-1].is_open)
                assert lab.ports[-1].done == []

    run(go())


def test_an_end_within_a_message_is_no_end():
    async def go():
        lab = Lab()
        async with lab as client:
            for said in (b"\0", line.data(b"data")[:-1], line.settings(9600, 8, "N", 1)[:-1]):
                stream = client.open("console")
                await stream.opened()
                await stream.send(said)
                stream.finish()
                assert await reset_code(read_all(stream)) == wire.TRUNCATED, said

    run(go())


def test_a_port_that_is_not_there_or_goes():
    async def go():
        lab = Lab(OSError(2, "no such device"), ValueError("no such pin"), Port(), Port())
        async with lab as client:
            for _ in range(2):
                assert await reset_code(client.open("console").opened()) == wire.TARGET_REFUSED
            stream = client.open("console")
            await stream.opened()
            lab.ports[0].cable.close()
            assert await reset_code(read_all(stream)) == wire.TARGET_RESET
            stream = client.open("console")
            await stream.opened()
            lab.ports[1].fault = OSError(5, "gone")
            await stream.send(line.data(b"x"))
            assert await reset_code(read_all(stream)) == wire.TARGET_RESET

    run(go())


def test_one_client_at_a_time():
    async def go():
        lab = Lab()
        async with lab as client:
            stream = client.open("console")
            await stream.opened()
            assert await reset_code(client.open("console").opened()) == wire.BUSY
            assert len(lab.ports) == 1 and lab.ports[0].is_open
            stream.finish()
            stream = client.open("console")
            await stream.opened()
            assert len(lab.ports) == 2 and not lab.ports[0].is_open

    run(go())


async def flood(port):
    while port.is_open:
        # As much as waits in a port; what is more would be lost there.
        if not port.cable._chunks:
            port.cable.write(b"flood " * 100)
        await asyncio.sleep(0)


def test_a_line_that_never_stops_ends_between_two_messages():
    async def go():
        lab = Lab()
        async with lab as client:
            stream = client.open("console")
            await stream.opened()
            flooding = asyncio.create_task(flood(lab.ports[0]))
            said = b""
            while len(said) < 8000:
                said += await stream.read()
            stream.finish()
            said += await read_all(stream)
            decoder = line.Decoder()
            heard = b"".join([body for kind, body in decoder.feed(said) if kind == wire.LINE_DATA])
            assert decoder.is_between() and len(heard) > 5000
            assert b"flood " * (len(heard) // 6) == heard
            await flooding

    run(go())


def test_a_client_that_ends_and_takes_nothing():
    async def go():
        lab = Lab()
        before = serial.ENDING_S
        serial.ENDING_S = 0.05
        try:
            async with lab as client:
                stream = client.open("console")
                await stream.opened()
                flooding = asyncio.create_task(flood(lab.ports[0]))
                await until(lambda: sum([len(chunk) for chunk in stream._chunks]) > 3000)
                stream.finish()
                await flooding
                assert await reset_code(read_all(stream)) == wire.IDLE
        finally:
            serial.ENDING_S = before

    run(go())
