"""The real `zts` and a real MicroPython device, with an enemy on every wire between them."""

import collections
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import tap
from attack_field import DEVICE, DOCUMENTED, Field, field, outcome
from device_process import DeviceProcess
from hostile import EvilBroker, Said, honest
from whole_network import WAIT_S, Running, until, zts
from zts import control, identity, wire

REPLAYS = 200
MARKER = "marker-of-the-stream " * 20


@pytest.fixture(scope="module")
def it(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Field]:
    with field(tmp_path_factory.mktemp("field")) as opened:
        yield opened


def _said(taps: list[tap.Tap]) -> list[bytearray]:
    return [said for one in taps for seen in one.seen for said in seen]


def test_no_marker_and_no_secret_is_to_be_seen_on_the_way(it: Field) -> None:
    done = it.connect(stdin=MARKER)
    assert (done.returncode, done.stdout) == (0, MARKER), done.stderr
    state = it.device.state
    hidden = [b"marker", DEVICE.encode(), b"marker-echo", b"counters"]
    for key in (state["private"], state["pairing"], state["relay"]["party_key"]):
        hidden += [key.encode(), bytes.fromhex(key)]
    legs = _said([it.owner_tap, it.device_tap])
    assert sum(map(len, legs)) > 2 * len(MARKER) and len(it.broker.heard) > wire.M1_BYTES
    for said in [*legs, it.broker.heard]:
        for marker in hidden:
            assert marker not in said, marker


def test_message_1_in_every_wrong_form_and_then_in_its_own(it: Field) -> None:
    held: list[Said] = []

    def hold(said: Said) -> list[tuple[str, bytes]]:
        if said.sender == it.owner_fp and len(said.payload) == wire.M1_BYTES:
            held.append(said)
            return []
        return honest(said)

    before = it.ask("its-counters")
    answers = it.answers()
    it.broker.mischief = hold
    with it.start_connect() as process:
        until(lambda: bool(held), "zts asks")
        m1 = held[0].payload
        it.deliver([tap.Flip(bit).take(m1) for bit in range(8 * len(m1))])
        it.deliver([m1[:size] for size in range(len(m1))] + [m1 + b"\0"])
        assert it.answers() == answers
        it.broker.mischief = honest
        it.deliver([m1])
        until(lambda: it.answers() > answers, "an answer")
        outcome(process, MARKER, MARKER)  # on a slow machine it may have lost its patience
    after = it.ask("its-counters")
    refused = {reason: count - before["refused"].get(reason, 0) for reason, count in after["refused"].items()}
    assert sum(refused.values()) == 9 * len(m1) + 1 and set(refused) <= {"form", "unknown", "mac1"}, refused
    accepted = it.answers() - answers
    assert after["x25519"] - before["x25519"] <= 4 * accepted, "none for what was refused"


def test_replays_over_epochs_and_a_restart(it: Field) -> None:
    assert it.connect(stdin=MARKER).stdout == MARKER
    m1 = it.broker.to(it.device_fp)[-1]
    before = it.ask("its-counters")
    answers = it.answers()

    def replay(count: int) -> None:
        it.deliver([m1] * count)

    def rotate() -> dict[str, Any]:
        """A new epoch, and the hello that says it."""
        hello = control.hello_topic(it.device_fp)
        old = it.broker.retained[hello]
        said = it.ask("its-rotate")
        until(lambda: it.broker.retained[hello] != old, "a new hello")
        return said

    replay(REPLAYS // 4)
    rotate()
    replay(REPLAYS // 4)
    after = rotate()
    assert after["refused"]["replay"] - before["refused"].get("replay", 0) == REPLAYS // 2
    replay(REPLAYS // 4)
    after = it.ask("its-counters")
    assert after["refused"]["mac1"] - before["refused"].get("mac1", 0) == REPLAYS // 4
    assert it.answers() - answers == 3, "one each for the three good sessions"
    it.device.kill()
    it.device.start()
    it.device.wait_for("online", 2)
    replay(REPLAYS // 4)
    last = it.ask("its-counters")
    assert last["refused"] == {"mac1": REPLAYS // 4} and last["x25519"] <= 4
    assert it.answers() - answers == 4
    print(f"{REPLAYS} replays to MicroPython, 0 accepted")


# What happens to the owner's leg, and the code `zts` must not end with: 0.
def _tampers() -> list[tuple[tap.Tamper, tap.Tamper]]:
    up, down = tap.UP_HEAD, tap.DOWN_HEAD
    ups = [
        tap.Flip(8),
        tap.Flip(8 * 20 + 3),  # hello
        tap.Flip(8 * (up - 1)),  # header
        tap.Flip(8 * up),  # a record's length
        tap.Flip(8 * (up + 3) + 1),  # and stream
        tap.Flip(8 * (up + 10)),
        tap.Flip(8 * (up + 23 + 8)),  # OPEN
        tap.Stop(up - 5),
        tap.Stop(up + 30),
        tap.Stop(up - 5, silent=True),
        tap.duplicate(up, 1),
        tap.withhold(up, 0),
        tap.swap(up, 0),
    ]
    downs = [
        tap.Flip(5),  # challenge
        tap.Flip(8 * wire.CHALLENGE_BYTES + 2),  # the relay's code
        tap.Flip(8 * (down - 1)),
        tap.Flip(8 * (down + 1) + 7),
        tap.Flip(8 * (down + 12)),
        tap.Flip(8 * (down + 40)),  # INFO
        tap.Stop(wire.CHALLENGE_BYTES),
        tap.Stop(wire.CHALLENGE_BYTES - 1, silent=True),
        tap.Stop(down + 60),
        tap.duplicate(down, 2),
    ]
    return [(one, tap.Tamper()) for one in ups] + [(tap.Tamper(), one) for one in downs]


def test_legs_tampered_with_end_zts_as_documented(it: Field) -> None:
    """All at once, for some wait until they give up by themselves."""
    tampers = _tampers()
    codes: collections.Counter[int] = collections.Counter()
    first = len(it.owner_tap.seen)
    it.owner_tap.plan = lambda number: tampers[number - first]
    try:
        running = [it.start_connect() for _ in tampers]
        for process in running:
            with process:
                codes[outcome(process, MARKER, MARKER)] += 1
    finally:
        it.owner_tap.plan = tap.honest
    assert all(any(tamper.fired for tamper in pair) for pair in tampers)
    assert 0 not in codes
    print(f"{len(tampers)} tampered legs, exit codes {dict(codes)}")
    _check_well(it)


def _check_well(it: Field) -> None:
    done = it.connect(stdin=MARKER)
    assert (done.returncode, done.stdout) == (0, MARKER), done.stderr
    assert it.device.is_running
    assert not any("Traceback" in str(event) or "fault" in str(event) for event in it.device.events())


# --- enrolment -----------------------------------------------------------------------------------------------------------


def test_a_device_that_enrols_through_a_tampering_relay_enrols_in_the_end(it: Field, tmp_path: Path) -> None:
    plans = [(tap.Flip(8 * 100), tap.Tamper()), (tap.Tamper(), tap.Flip(8 * 200)), (tap.Tamper(), tap.Tamper())]
    hostile = tap.Tap(it.relay.leg, lambda number: plans[min(number, 2)])
    it.loop.run(hostile.__aenter__())
    try:
        with Running(it.home, tmp_path / "enroll", "enroll", "@second") as enrolment:
            line = enrolment.line().replace(identity.join_address(*it.owner_tap.address), identity.join_address(*hostile.address))
            with DeviceProcess(tmp_path / "second", line) as second:
                assert enrolment.process.wait(WAIT_S) == 0, enrolment.err
                assert plans[0][0].fired and plans[1][1].fired
                assert not any("Traceback" in str(event) for event in second.events())
    finally:
        it.loop.run(hostile.__aexit__())


def test_a_code_joined_with_through_a_tampering_relay_stays_good(it: Field, tmp_path: Path) -> None:
    code = it.relay.new_code()
    up, down = wire.MAGIC_BYTES + wire.M1_BYTES, wire.CHALLENGE_BYTES + wire.M2_BYTES
    plans: list[tuple[tap.Tamper, tap.Tamper]] = [(tap.Flip(8 * at + 1), tap.Tamper()) for at in (1, 20, 60, up - 1)]
    plans += [(tap.Tamper(), tap.Flip(8 * at + 1)) for at in (0, 17, 100)]
    plans += [(tap.Stop(up - 1), tap.Tamper()), (tap.Tamper(), tap.Stop(down - 1))]
    hostile = tap.Tap(it.relay.leg, lambda number: plans[number] if number < len(plans) else tap.honest(number))
    it.loop.run(hostile.__aenter__())
    try:
        options = ("join", "--name", "@other", "--code-file", "-")
        line = it.through(code, hostile)
        running = [Running(tmp_path / str(at), tmp_path / f"run-{at}", *options, stdin=line + "\n") for at in range(len(plans))]
        for one in running:
            with one:
                code = one.process.wait(WAIT_S)
                assert code in (3, 7) and one.err.splitlines()[-1].startswith(f"zts: {code}: "), (code, one.err)
                assert "Traceback" not in one.err
        assert all(any(tamper.fired for tamper in pair) for pair in plans)
        # Who was served, and did not hear of it, uses the code again with its own key; for another it may be used.
        done = [zts(tmp_path / str(at), *options, stdin=line + "\n").returncode for at in range(len(plans))]
        assert done.count(0) == 1 and set(done) <= {0, 7}, done
    finally:
        it.loop.run(hostile.__aexit__())


# --- a broker that speaks no MQTT --------------------------------------------------------------------------------------------

# More of them, towards the client: test_attack_broker.py.
_MALFORMED = {
    "type 0": b"\x00\x00",
    "half a length": b"\x30\x01\x00",
    "topic beyond the packet": b"\x30\x04\xff\xffab",
    "not UTF-8": b"\x30\x04\x00\x02\xff\xfe",
    "an endless length": b"\x30\xff\xff\xff\xff\xff\xff",
    "SUBACK of nothing": b"\x90\x00",
}


def test_malformed_mqtt_ends_zts_as_documented(it: Field, tmp_path: Path) -> None:
    """Behind the answer to SUBSCRIBE; each on a broker of its own."""
    plans: list[dict[int, bytes | None]] = [
        {0x90: b"\x90\x04\x00\x01\x00\x00" + _MALFORMED[what]} for what in ("type 0", "not UTF-8", "SUBACK of nothing")
    ]
    codes: collections.Counter[int] = collections.Counter()
    brokers = [EvilBroker() for _ in plans]
    try:
        pending = []
        for at, (broker, plan) in enumerate(zip(brokers, plans, strict=True)):
            it.loop.run(broker.__aenter__())
            broker.answers = plan
            home = tmp_path / str(at)
            shutil.copytree(it.home, home)
            (me,) = [path for path in home.rglob("*.json") if it.broker.url in path.read_text()]
            me.write_text(me.read_text().replace(it.broker.url, broker.url))
            pending.append((plan, it.start_connect(home) if at % 2 else it.start("ls", home=home)))
        for plan, process in pending:
            with process:
                err = process.communicate(timeout=WAIT_S)[1]
                code = process.returncode
                codes[code] += 1
                assert "Traceback" not in err and "Exception" not in err, (plan, err)
                if code:
                    assert code in DOCUMENTED and err.splitlines()[-1].startswith(f"zts: {code}: "), (plan, code, err)
    finally:
        for broker in brokers:
            it.loop.run(broker.__aexit__())
    print(f"{len(plans)} brokers that break MQTT, exit codes {dict(codes)}")


def test_malformed_mqtt_does_not_keep_a_device_away(it: Field) -> None:
    for junk in _MALFORMED.values():
        online = len([event for event in it.device.events() if event["event"] == "online"])
        it.loop.call(it.broker.send_raw, it.device_fp, junk)
        it.device.wait_for("online", online + 1)
    _check_well(it)
