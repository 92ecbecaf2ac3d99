"""The MQTT client against a broker that says exactly what a test wants."""

import asyncio
from pipes import Mute, Pipe, run

from zts.errors import RemoteError, ZtsError
from zts_agent import mqtt

CONNACK = b"\x20\x02\x00\x00"
SUBACK = b"\x90\x03\x00\x01\x00"


class Lab:
    """A client, what it heard, and the two directions of its connection."""

    def __init__(self, up=None):
        self.down = Pipe()
        self.up = up or Pipe()
        self.heard = []
        self.ticks = 0
        self.client = mqtt.Client(self.down, self.up, self._take)

    async def _take(self, topic, payload):
        self.heard.append((topic, payload))

    async def login(self):
        await self.client.login("id", "user", "secret", "will")

    async def tick(self):
        self.ticks += 1

    async def run(self):
        await self.client.run(self.tick)


async def failure(work):
    try:
        await work
    except (ZtsError, OSError, EOFError) as error:
        return error
    raise AssertionError("nothing was raised")


def publish(topic, payload, first=0x30):
    body = len(topic).to_bytes(2, "big") + topic + payload
    length = bytes([len(body)]) if len(body) < 128 else bytes([len(body) & 127 | 128, len(body) >> 7])
    return bytes([first]) + length + body


def test_what_it_sends_is_mqtt_3_1_1():
    async def go():
        lab = Lab()
        lab.down.write(CONNACK + SUBACK)
        await lab.login()
        await lab.client.subscribe("a/b")
        await lab.client.publish("t", b"x" * 200, True)
        await lab.client.publish("t", b"")
        sent = await lab.up.readexactly(38 + 10 + 206 + 5)
        connect = b"\x10\x24\x00\x04MQTT\x04\xe6\x00\x3c\x00\x02id\x00\x04will\x00\x00\x00\x04user\x00\x06secret"
        assert sent.startswith(connect), sent
        assert sent[len(connect) :] == b"\x82\x08\x00\x01\x00\x03a/b\x00" + b"\x31\xcb\x01\x00\x01t" + b"x" * 200 + b"\x30\x03\x00\x01t"

    run(go())


def test_a_refused_login_is_told_from_a_broken_broker():
    async def go():
        for answer, kind in (
            (b"\x20\x02\x00\x04", mqtt.LoginRefused),
            (b"\x20\x02\x00\x05", mqtt.LoginRefused),
            (b"\x20\x02\x00\x03", RemoteError),
            (b"\x20\x01\x00", RemoteError),
            (b"\x30\x02\x00\x00", RemoteError),
            (b"\x20\x02\x00", EOFError),
            (b"", EOFError),
        ):
            lab = Lab()
            lab.down.write(answer)
            lab.down.close()
            assert type(await failure(lab.login())) is kind or kind is EOFError

    run(go())


def test_a_refused_subscription_is_an_error():
    async def go():
        for answer in (b"\x90\x03\x00\x01\x80", b"\x90\x03\x00\x02\x00", b"\x90\x02\x00\x01"):
            lab = Lab()
            lab.down.write(CONNACK + answer)
            await lab.login()
            assert isinstance(await failure(lab.client.subscribe("x")), RemoteError)

    run(go())


def test_messages_come_in_order_whatever_the_pieces():
    async def go():
        said = publish(b"a", b"1") + SUBACK + publish(b"b", b"y" * 600) + b"\xd0\x00" + publish(b"c", b"", 0x31)
        for size in (1, 2, 3, 50, 1000):
            lab = Lab()
            lab.down.write(CONNACK)
            await lab.login()
            subscribing = asyncio.create_task(lab.client.subscribe("x"))
            running = None
            for at in range(0, len(said), size):
                lab.down.write(said[at : at + size])
                await asyncio.sleep(0)
                if running is None and subscribing.done():
                    running = asyncio.create_task(failure(lab.run()))
            await subscribing
            running = running or asyncio.create_task(failure(lab.run()))
            lab.down.close()
            assert isinstance(await running, mqtt.Dropped)
            assert lab.heard == [("a", b"1"), ("b", b"y" * 600), ("c", b"")]

    run(go())


def test_what_a_broker_must_not_send_ends_the_connection():
    async def go():
        for bad in (
            b"\x30\x81\x08",  # 1025 bytes
            b"\x30\xff\x7f",
            b"\x30\x80\x80\x01",  # three bytes of length
            b"\x30\x01\x00",  # no topic
            b"\x30\x03\x00\x02a",  # a cut topic
            b"\x30\x03\x00\x01\xff",  # a topic that is not UTF-8
            b"\x32\x05\x00\x01a\x00\x01",  # QoS 1
            b"\x34\x05\x00\x01a\x00\x01",  # QoS 2
            b"\x20\x02\x00\x00",  # a second CONNACK
            SUBACK,  # nobody subscribed
            b"\xd0\x01\x00",  # a PINGRESP with a body
            b"\x10\x00",
            b"\xc0\x00",
            b"\xf0\x00",
            b"\x00\x00",
        ):
            lab = Lab()
            lab.down.write(CONNACK)
            await lab.login()
            lab.down.write(bad)
            assert isinstance(await failure(lab.run()), RemoteError), bad
            assert not lab.heard

    run(go())


def test_the_longest_packet_is_taken():
    async def go():
        lab = Lab()
        lab.down.write(CONNACK)
        await lab.login()
        lab.down.write(publish(b"t", bytes(mqtt.PACKET_MAX - 3)))
        lab.down.close()
        assert isinstance(await failure(lab.run()), mqtt.Dropped)
        assert lab.heard == [("t", bytes(mqtt.PACKET_MAX - 3))]

    run(go())


class _Times:
    """Deadlines short enough for a test."""

    NAMES = ("DEADLINE_S", "PING_MS", "SILENT_MS", "TICK_S")

    def __init__(self, deadline_s, ping_ms=25000, silent_ms=45000):
        self._mine = (deadline_s, ping_ms, silent_ms, 0.02)

    def __enter__(self):
        self._theirs = [getattr(mqtt, name) for name in self.NAMES]
        for name, value in zip(self.NAMES, self._mine):  # noqa: B905 — not in MicroPython
            setattr(mqtt, name, value)

    def __exit__(self, *_):
        for name, value in zip(self.NAMES, self._theirs):  # noqa: B905
            setattr(mqtt, name, value)


def test_a_broker_that_falls_silent_at_any_byte_never_hangs_it():
    script = CONNACK + SUBACK + publish(b"topic", b"payload")

    async def session(lab):
        await lab.login()
        await lab.client.subscribe("x")
        await lab.run()

    async def go(size):
        lab = Lab()
        lab.down.write(script[:size])
        error = await failure(session(lab))
        assert isinstance(error, OSError) and error.errno == 110, (size, error)
        assert len(lab.heard) == (size == len(script))

    for size in range(len(script)):
        with _Times(0.1, 10000, 10000 if size > len(CONNACK + SUBACK) else 100):
            run(go(size))
    with _Times(10, 10000, 100):
        run(go(len(script)))


def test_a_broker_that_reads_nothing_never_hangs_it():
    async def go():
        lab = Lab(Mute())
        assert isinstance(await failure(lab.login()), OSError)
        # Whoever comes later is told at once.
        assert isinstance(await failure(lab.client.publish("t", b"")), OSError)

    with _Times(0.1):
        run(go())


def test_it_pings_and_goes_on_while_it_is_answered():
    async def answer(lab):
        await lab.up.readexactly(38)
        for _ in range(2):
            assert await lab.up.readexactly(2) == b"\xc0\x00"
            lab.down.write(b"\xd0\x00")
        lab.down.close()

    async def go():
        lab = Lab()
        lab.down.write(CONNACK)
        await lab.login()
        answering = asyncio.create_task(answer(lab))
        assert isinstance(await failure(lab.run()), mqtt.Dropped)
        await answering
        assert lab.ticks >= 2

    with _Times(10, 0, 45000):
        run(go())
