"""Two hundred connects of a member to a MicroPython device whose policy has 200 rules for 50 parties."""

import asyncio
import json
import statistics
import time
from pathlib import Path

from agent_lab import Owner, ask, get, reading
from device_process import DeviceProcess
from policy_blob import encode, rule
from relay_process import RelayProcess
from zts import crypto, grant, identity, wire
from zts_gateway import client
from zts_gateway.addressbook import Held

CONNECTS = 200
_FAST = "from zts import wire\nwire.HANDSHAKES_PER_S, wire.HANDSHAKE_BURST = 100, 400\n"


def test_two_hundred_connects_under_two_hundred_rules(tmp_path: Path) -> None:
    with RelayProcess(tmp_path / "relay") as relay:
        assert relay.join
        alice = asyncio.run(Owner.join(relay.join))
        bob = asyncio.run(Owner.join(relay.new_code(), "bob"))
        device = asyncio.run(alice.invite("sensor"))
        fp = identity.fingerprint(bob.me.public)
        caveats = grant.caveat(wire.CAVEAT_HOLDER, fp) + grant.caveat(wire.CAVEAT_MEMBER, b"")
        root, id_ = grant.root(device.pairing, 0), bytes(2) + crypto.random_bytes(6)
        held = Held(id_, grant.mac_key(root, id_), grant.tail(root, id_, caveats), caveats)
        # Bob is the last of fifty, and his rule for http the last of all.
        parties = [*[crypto.random_bytes(wire.FP_BYTES) for _ in range(49)], fp]
        rules = [rule([parties[n % 50]], [f"s{n // 50}"], streams=8) for n in range(199)] + [rule([fp], ["http"], until=4_000_000_000)]
        with DeviceProcess(tmp_path / "device", device.line, setup=_FAST) as process:
            device.public = bytes.fromhex(process.state["public"])

            async def push() -> int:
                async with alice.session(device) as session:
                    said = json.loads(await ask(session, "zts-policy", int(time.time()).to_bytes(4, "big") + encode(rules)))
                    assert said["refused"] == ""
                    return int((await reading(session))["heap_free"])

            async def connect() -> float:
                start = time.monotonic()
                meeting = await client.meet(bob.me, bob.account, "sensor", device.public, held, 30_000, lambda _: None)
                try:
                    assert meeting.services == [(wire.SERVICE_HTTP, "http")]
                    await get(meeting.link, "/reading.json")
                    return time.monotonic() - start
                finally:
                    await meeting.close()

            async def connects() -> list[float]:
                return [await connect() for _ in range(CONNECTS)]

            before = asyncio.run(push())
            took = sorted(asyncio.run(connects()))

            async def heap() -> int:
                async with alice.session(device) as session:
                    return int((await reading(session))["heap_free"])

            after = asyncio.run(heap())
            print(
                f"{len(encode(rules))} bytes of policy: {CONNECTS} connects, each {statistics.median(took) * 1000:.0f} ms "
                f"(at most {took[-1] * 1000:.0f}); heap free in a session {before} before, {after} after"
            )
            assert after > before - 4096
