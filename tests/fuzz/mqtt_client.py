"""The agent's MQTT client: any bytes of a broker, in any pieces, give the same messages and the same end, which is a clean error; and
no message is longer than it takes."""

import asyncio
from pipes import Pipe

from fuzz.feed import Feed, pieces
from host import mqtt_tools as mqtt
from zts.errors import ZtsError
from zts_agent.mqtt import PACKET_MAX, Client

CONNACK, SUBACK = b"\x20\2\0\0", b"\x90\3\0\1\0"
_UP = CONNACK + SUBACK
# logged in?, cuts, bytes
SEEDS = [
    b"\0\0" + _UP + mqtt.publish("zts/1/a/in/b", b"x" * 256),
    b"\0\0\x20\2\0\5",
    b"\0\4\1\1\1\1" + CONNACK + mqtt.publish("a", b"") + SUBACK + b"\xd0\0",
    b"\1\0" + mqtt.publish("t", b"1") + mqtt.publish("t", b"2") + b"\xd0\0" + mqtt.publish("t", b"y" * 900),
    b"\1\0" + mqtt.publish("t", b"1", packet_id=4),
    b"\1\0" + mqtt.publish("t", b"z" * 1021) + mqtt.publish("t", b"z" * 1022),
    b"\1\0\x30\x80\x80\x80\x01",
    b"\1\0\x30\1\0",
    b"\1\0\x30\4\0\x20ab",
    b"\1\0\x30\4\0\2\xff\xfe",
]


async def _hear(chunks: list[bytes]) -> tuple[list[tuple[str, bytes]], str]:
    down, up = Pipe(), Pipe()
    heard = []

    async def take(topic: str, payload: bytes) -> None:
        heard.append((topic, payload))

    async def tick() -> None:
        pass

    async def say() -> None:
        for chunk in chunks:
            down.write(chunk)
            await asyncio.sleep(0)
        down.close()

    saying = asyncio.create_task(say())
    client = Client(down, up, take)
    end = ""
    try:
        await client.login("id", "user", "password", "will")
        await client.subscribe("topic")
        await client.run(tick)
    except (ZtsError, OSError, EOFError) as error:
        end = f"{type(error).__name__}: {error}"
    await saying
    return heard, end


def one(data: bytes) -> None:
    feed = Feed(data)
    said = _UP if feed.number() & 1 else b""
    sizes = feed.take(feed.number())
    said += feed.take(8192)
    heard, end = asyncio.run(_hear([said]))
    assert end, "a connection never ends without a reason"
    assert asyncio.run(_hear(list(pieces(said, sizes)))) == (heard, end)
    assert all(mqtt.text(topic) + payload in said for topic, payload in heard)
    assert all(len(topic.encode()) + len(payload) <= PACKET_MAX - 2 for topic, payload in heard)
