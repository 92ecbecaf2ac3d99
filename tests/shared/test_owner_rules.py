"""What a device keeps of its owner's rules: policies that only go forward, a time that only its owner tells, and what damage leaves."""

import asyncio
import json
import os

from check import raises
from policy_blob import EVERY, encode, rule
from served import Served, read_all
from state_folder import Folder
from zts import codes, grant, identity, wire
from zts.grant import Terms
from zts_agent import audit, board, services
from zts_agent.keystore import Keystore
from zts_agent.rules import TIME_STEP_S, Rules

LINE = codes.format_enrol_line(codes.EnrolLine(codes.JoinCode(b"r" * 32, b"s" * 16, "relay", 7440), b"p" * 32, b"o" * 32, "pi"))
OWNER = identity.fingerprint(b"o" * 32)
BOB = b"b" * wire.FP_BYTES
ID = b"\0\0a grant"[:8]
NOW = 1_800_000_000
HTTP = wire.SERVICE_HTTP


def terms(services=None, until=0):
    """Of a grant for these services, or for a member."""
    return Terms(BOB, services is None, services, until, 0, 0, 0, False)


def device(folder):
    store = Keystore(folder.path)
    try:
        os.stat(folder.path + "/state.json")
    except OSError:
        store.adopt(LINE)
    store.open()
    return Rules(store)


def told(rules, said=b""):
    """What zts-policy answers."""

    async def go():
        async with Served(lambda stream: services.serve_handler(stream, rules.serve)) as client:
            stream = client.open("zts-policy")
            await stream.send(said)
            stream.finish()
            return json.loads(await read_all(stream))

    return asyncio.run(go())


def push(rules, blob, seconds=NOW):
    return told(rules, seconds.to_bytes(4, "big") + blob)["refused"]


def code(rules, holds, service="http", kind=HTTP, id_=ID):
    return rules.decide(BOB, id_, holds, service, kind)[0]


def test_without_a_policy_grants_stand_on_their_own():
    with Folder() as folder:
        rules = device(folder)
        assert rules.owner == OWNER and rules.decide(OWNER, bytes(8), None, "http", HTTP)[0] == wire.OK
        assert code(rules, None) == wire.DENIED and code(rules, terms(["http"])) == wire.OK and code(rules, terms()) == wire.DENIED
        said = told(rules)
        assert said == {"refused": "", "seq": 0, "generation": 0, "check": "", "readable": True, "time": None}


def test_a_policy_holds_at_once_and_after_a_restart():
    with Folder() as folder:
        rules = device(folder)
        blob = encode([rule([BOB], ["http"])], seq=3, generation=2)
        assert push(rules, blob) == ""
        for present in (rules, device(folder)):
            id_ = b"\0\2" + ID[2:]
            assert code(present, terms(), id_=id_) == wire.OK and code(present, terms(), "ssh", id_=id_) == wire.DENIED
            assert code(present, terms()) == wire.REVOKED
            said = told(present)
            assert (said["seq"], said["generation"], said["check"]) == (3, 2, blob[-8:].hex())


def test_policies_only_go_forward():
    with Folder() as folder:
        rules = device(folder)
        first, second = encode([rule([BOB], EVERY)], seq=5), encode([], seq=6)
        assert push(rules, first) == "" and code(rules, terms()) == wire.OK
        assert push(rules, first) and push(rules, encode([], seq=4))
        assert push(rules, second) == "" and code(rules, terms()) == wire.DENIED
        assert push(rules, first) and code(rules, terms()) == wire.DENIED
        # Also for who writes the old file back.
        with open(folder.path + "/policy", "wb") as file:
            file.write(first)
        rules = device(folder)
        assert rules.policy is None and code(rules, terms(["http"])) == wire.DENIED
        assert push(rules, second) and push(rules, encode([rule([BOB], EVERY)], seq=7)) == ""
        assert code(rules, terms()) == wire.OK


def test_a_damaged_policy_lets_nobody_in_but_the_owner():
    with Folder() as folder:
        blob = encode([rule([BOB], EVERY)], revoked=[b"\0\0other!"[:8]])
        assert push(device(folder), blob) == ""
        for size in range(len(blob)):
            with open(folder.path + "/policy", "wb") as file:
                file.write(blob[:size])
            rules = device(folder)
            assert rules.policy is None, size
            assert code(rules, terms()) == code(rules, terms(["http"])) == code(rules, terms(), None) == wire.DENIED
            assert rules.decide(OWNER, bytes(8), None, "http", HTTP)[0] == wire.OK
        os.remove(folder.path + "/policy")
        rules = device(folder)
        assert rules.policy is None and not told(rules)["readable"]
        # A power cut between the two files: the new one stands.
        with open(folder.path + "/policy", "wb") as file:
            file.write(encode([rule([BOB], EVERY)], seq=2))
        assert code(device(folder), terms()) == wire.OK


def test_what_is_no_policy_changes_nothing():
    with Folder() as folder:
        rules = device(folder)
        good = encode([rule([BOB], EVERY)], seq=9)
        assert push(rules, good) == ""
        fresh = encode([], seq=10)
        for bad in (b"", b"x", fresh[:-1], fresh + b"x", bytes(wire.POLICY_MAX_BYTES), bytes(wire.POLICY_MAX_BYTES + 5000)):
            assert push(rules, bad, NOW + 9), bad[:10]
        for said in (b"1", b"123"):
            assert told(rules, said)["refused"]
        assert rules.policy.seq == 9 and code(device(folder), terms()) == wire.OK
        assert rules.now() < NOW + 9


def test_a_boards_clock_starts_unknown_and_the_owner_tells_it():
    with Folder() as folder:
        rules = device(folder)
        assert rules.now() is None and code(rules, terms(["http"], NOW + 60)) == wire.TIME_UNKNOWN
        rules.learn_time(NOW)
        assert NOW <= rules.now() <= NOW + 5 and code(rules, terms(["http"], NOW + 60)) == wire.OK
        rules.learn_time(NOW - 500)  # held back on its way
        assert rules.now() >= NOW
        rules.learn_time(NOW + 60)
        assert code(rules, terms(["http"], NOW + 60)) == wire.DENIED
        assert push(rules, encode([], seq=1), NOW - 7 * 86_400) == ""  # the owner's clock was wrong, and is not now
        assert rules.now() < NOW and code(rules, terms(["http"], NOW + 60)) == wire.OK


def test_a_restart_forgets_how_late_it_is_but_not_what_it_is_later_than():
    with Folder() as folder:
        rules = device(folder)
        rules.learn_time(NOW)
        boot, board.boot = board.boot, lambda: ("", 0)
        try:
            rules = device(folder)
            assert rules.now() is None and code(rules, terms(["http"], NOW + 60)) == wire.TIME_UNKNOWN
            rules.learn_time(1000)
            assert rules.now() >= NOW
            # The machine did not start anew, only the agent did.
            board.boot = lambda: ("one", 100)
            rules.learn_time(NOW + TIME_STEP_S)
            board.boot = lambda: ("one", 160)
            assert NOW + TIME_STEP_S + 59 <= device(folder).now() <= NOW + TIME_STEP_S + 65
            for later in (("two", 160), ("one", 99), ("", 160)):
                board.boot = lambda later=later: later
                assert device(folder).now() is None
        finally:
            board.boot = boot


def test_the_time_is_written_down_once_an_hour():
    with Folder() as folder:
        rules = device(folder)
        boot, board.boot = board.boot, lambda: ("one", 1)
        try:
            rules.learn_time(NOW)
            written = folder.state()["time"]
            for seconds in (NOW + 1, NOW + TIME_STEP_S - 1):
                rules.learn_time(seconds)
                assert folder.state()["time"] == written
            rules.learn_time(NOW + TIME_STEP_S)
            assert folder.state()["time"][0] == NOW + TIME_STEP_S
        finally:
            board.boot = boot


def test_a_state_with_other_things_in_it_denies():
    with Folder() as folder:
        assert push(device(folder), encode([rule([BOB], EVERY)])) == ""
        state = folder.state()
        for key, value in (("policy_seq", "1"), ("policy_seq", 2), ("policy_seq", None)):
            folder.write(json.dumps(state | {key: value}))
            assert device(folder).policy is None, (key, value)
        for value in (5, [], ["x", "", 0], [NOW, "one"], {}):
            folder.write(json.dumps(state | {"time": value}))
            assert device(folder).now() is None


def test_whose_message_1_is_looked_at():
    with Folder() as folder:
        rules = device(folder)
        assert rules.find_peer(OWNER, wire.KIND_CONNECT, bytes(8)).public == b"o" * 32
        for sender, kind, hint in (
            (BOB, wire.KIND_CONNECT, bytes(8)),
            (OWNER, wire.KIND_CONNECT, ID),
            (OWNER, wire.KIND_LOOK_UP, bytes(8)),
            (BOB, wire.KIND_GRANT, b"\0\1" + ID[2:]),
            (BOB, wire.KIND_GRANT, b"\xff\xff" + ID[2:]),
        ):
            assert rules.find_peer(sender, kind, hint) is None
        peer = rules.find_peer(BOB, wire.KIND_GRANT, ID)
        assert peer.public == b"" and peer.psk == grant.root(b"p" * 32, 0) and peer.mac_key == grant.mac_key(peer.psk, ID)
        # The last generation is still told that it is over.
        assert push(rules, encode([], seq=1, generation=1)) == ""
        assert rules.find_peer(BOB, wire.KIND_GRANT, ID) and rules.find_peer(BOB, wire.KIND_GRANT, b"\0\1" + ID[2:])
        assert push(rules, encode([], seq=2, generation=2)) == "" and rules.find_peer(BOB, wire.KIND_GRANT, ID) is None


def test_the_log_keeps_the_last_and_tells_the_rest_as_it_comes():
    with Folder() as folder:
        rules = device(folder)
        log = audit.Audit(rules)
        for n in range(audit.KEPT + 5):
            log.note(BOB, None if n % 2 else "http", n % 3, n, 2 * n, 3 * n)

        async def go():
            async with Served(lambda stream: services.serve_handler(stream, log.serve)) as client:
                stream = client.open("zts-log")
                await stream.send(b'{"after": 0, "follow": true}\n')
                lines = []
                while len(lines) < audit.KEPT:
                    lines.append(json.loads(await stream.readline()))
                assert [line["n"] for line in lines] == list(range(6, audit.KEPT + 6))
                assert lines[0] | {"up_ms": 0} == {
                    "n": 6,
                    "at": None,
                    "up_ms": 0,
                    "who": identity.base32(BOB),
                    "service": None,
                    "code": 2,
                    "in": 5,
                    "out": 10,
                    "for_ms": 15,
                }
                log.note(BOB, "later", wire.DENIED)
                last = json.loads(await stream.readline())
                assert (last["n"], last["service"], last["code"]) == (audit.KEPT + 6, "later", wire.DENIED)
                stream.reset(wire.OK)
                stream = client.open("zts-log")
                await stream.send(json.dumps({"after": audit.KEPT + 5, "follow": False}).encode() + b"\n")
                assert json.loads(await read_all(stream))["service"] == "later"

        asyncio.run(go())


def test_what_is_no_question_to_the_log():
    with Folder() as folder:
        log = audit.Audit(device(folder))

        async def go(said):
            async with Served(lambda stream: services.serve_handler(stream, log.serve)) as client:
                stream = client.open("zts-log")
                await stream.send(said)
                stream.finish()
                return await read_all(stream)

        for said in (b"", b"\n", b"[]\n", b'{"after": 0}\n', b'{"after": "x", "follow": true}\n', b"[" * 90 + b"\n", b" " * 200 + b"{}\n"):
            raises(Exception, asyncio.run, go(said))


def test_a_generation_that_was_taken_back_does_not_come_again():
    with Folder() as folder:
        rules = device(folder)
        assert push(rules, encode([], seq=9, generation=1)) == ""
        assert push(rules, encode([], seq=10)) and code(rules, terms(["http"])) == wire.REVOKED
        os.remove(folder.path + "/policy")  # nor after the policy was lost
        rules = device(folder)
        said = told(rules)
        assert (said["readable"], said["seq"], said["generation"]) == (False, 9, 1)
        assert push(rules, encode([], seq=11)) and push(rules, encode([], seq=11, generation=1)) == ""


def test_a_flash_that_cannot_be_written():
    with Folder() as folder:
        rules = device(folder)
        assert push(rules, encode([rule([BOB], ["http"])], seq=4)) == ""
        real = board.replace_file

        def full(path, data):
            raise OSError(28)

        def full_for_the_state(path, data):
            if path.endswith("state.json"):
                raise OSError(28)
            real(path, data)

        try:
            board.replace_file = full
            rules.learn_time(NOW + 2 * TIME_STEP_S)
            assert rules.now() >= NOW + 2 * TIME_STEP_S
            assert push(rules, encode([], seq=5)) == "it cannot be written" and code(rules, terms()) == wire.OK
            board.replace_file = full_for_the_state
            assert push(rules, encode([], seq=5)) == "" and code(rules, terms()) == wire.DENIED
        finally:
            board.replace_file = real
        rules = device(folder)
        assert rules.policy.seq == 5 and code(rules, terms()) == wire.DENIED
        assert push(rules, encode([rule([BOB], ["http"])], seq=5))
