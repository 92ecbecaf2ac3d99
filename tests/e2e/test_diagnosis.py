"""`zts status`, `zts doctor` and `zts remove`: what a person asks when something is not as it should be."""

import contextlib
import json
import os
import pty
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from lab import Lab
from whole_network import WAIT_S, LinuxDevice, Network, Running, environment, failed, free_port, network, until, zts
from zts_gateway.addressbook import Book

PAGE = {"page": ("handler", "zts_agent.page:page")}
# The broker's kind plays no part.
embedded = pytest.mark.parametrize("lab", ["embedded"], indirect=True, scope="session")
WAY = ["identity", "relay name", "relay TCP", "relay key", "broker", "broker login"]
WAY_TO_DEVICE = [*WAY, "card", "hello", "handshake", "leg", "services"]


# --- status --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["pi", "sensor"])
def test_status(lab: Lab, device: str) -> None:
    done = lab.net.zts("status", f"@{device}", "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    code = ("openssl",) * 3 if device == "pi" else ("cryptolib", "viper", "viper")
    assert (said["aes"], said["ghash"], said["x25519"]) == code
    assert said["runtime"].startswith("cpython" if device == "pi" else "micropython")
    assert said["name"] == device and said["fp"] == lab.net.listed(device)["fp"] and said["version"]
    assert said["boots"] >= 1 and said["sessions"] >= 1
    assert said["aead_kbps"] > 0 and said["x25519_ms"] > 0 and said["uptime_ms"] > 0 and said["heap_used"] > 0
    assert (said["heap_free"] is None) == (device == "pi")
    assert 0 < said["round_trip_ms"]["min"] <= said["round_trip_ms"]["median"] <= said["round_trip_ms"]["max"]
    trip = said["round_trip_ms"]["median"]
    print(f"@{device}: AES-GCM {said['aead_kbps']} KB/s at 1 KiB, X25519 {said['x25519_ms']} ms, round trip {trip} ms")
    again = json.loads(lab.net.zts("status", f"@{device}", "--json").stdout)
    assert again["uptime_ms"] > said["uptime_ms"]


@embedded
def test_status_for_people_and_what_was_refused(lab: Lab) -> None:
    failed(lab.net.zts("connect", "@pi:nothing", "--stdio"), 5)
    done = lab.net.zts("status", "@pi")
    assert done.returncode == 0, done.stderr
    assert [line.split("  ")[0] for line in done.stdout.splitlines()] == [
        "device",
        "round trip",
        "up",
        "memory",
        "crypto",
        "speed",
        "refused",
    ]


@embedded
def test_the_agents_own_services_are_not_announced(lab: Lab) -> None:
    for device in ("pi", "sensor"):
        assert not [service for service in lab.net.listed(device)["services"] if service["name"].startswith("zts-")]
    failed(lab.net.zts("connect", "@pi:zts-status", "--stdio"), 5)


# --- doctor --------------------------------------------------------------------------------------------------------------


def _walk(done: "subprocess.CompletedProcess[str]") -> dict[str, Any]:
    said = json.loads(done.stdout)
    assert done.returncode == said["code"]
    return {hop["name"]: hop for hop in said["hops"]}


def _failing(done: "subprocess.CompletedProcess[str]", hop: str, code: int) -> str:
    """The sentence of the walk that must have failed at `hop`, and at no other, with the rest skipped."""
    hops = _walk(done)
    states = [found["state"] for found in hops.values()]
    at = list(hops).index(hop)
    assert states == ["ok"] * at + ["FAILED"] + ["skipped"] * (len(states) - at - 1), done.stdout
    assert failed(done, code) == f"zts: {code}: {hop}: {hops[hop]['said']}"
    return str(hops[hop]["said"])


def test_a_way_without_fault(lab: Lab) -> None:
    assert list(_walk(lab.net.zts("doctor", "--json"))) == WAY
    done = lab.net.zts("doctor", "@sensor", "--json")
    hops = _walk(done)
    assert done.returncode == 0 and list(hops) == [*WAY_TO_DEVICE, "target http"], done.stderr
    assert all(hop["state"] == "ok" and hop["ms"] >= 0 for hop in hops.values())
    lines = lab.net.zts("doctor", "@sensor").stdout.splitlines()
    assert [line[:16].strip() for line in lines] == [*WAY_TO_DEVICE, "target http"]


@embedded
def test_a_target_that_is_down(lab: Lab) -> None:
    done = lab.net.zts("doctor", "@pi", "--json")
    hops = _walk(done)
    assert [name for name, hop in hops.items() if hop["state"] == "FAILED"] == ["target down"]
    assert hops["target digest"]["state"] == hops["target early"]["state"] == "ok"
    # A handler has no target; of an http service the client does not know what is behind it.
    kinds = {service["name"]: service["kind"] for service in lab.net.listed("pi")["services"]}
    assert hops["target page"]["state"] == ("skipped" if kinds["page"] == "handler" else "ok")
    assert "target down: @pi:down: " in failed(done, 6)


@pytest.fixture
def home(lab: Lab, tmp_path: Path) -> Path:
    """A copy of @alice's home, to be spoilt."""
    return shutil.copytree(lab.net.home, tmp_path / "home")


def _spoil(home: Path, **changes: Any) -> None:
    """Changes what is known of the relay."""
    path = home / "identity.json"
    data = json.loads(path.read_text())
    data["relay"].update(changes)
    path.write_text(json.dumps(data))


@embedded
def test_faults_of_this_computer(lab: Lab, home: Path, tmp_path: Path) -> None:
    assert "zts join" in _failing(zts(tmp_path, "doctor", "--json"), "identity", 2)
    home.chmod(0o777)
    assert "chmod go-w" in _failing(zts(home, "doctor", "--json"), "identity", 2)
    home.chmod(0o700)
    (home / "identity.json").chmod(0o644)
    assert "chmod 600" in _failing(zts(home, "doctor", "--json"), "identity", 2)
    (home / "identity.json").chmod(0o600)
    assert "no device @ghost" in _failing(zts(home, "doctor", "@ghost", "--json"), "card", 2)


@pytest.mark.parametrize(
    ("changes", "hop", "code", "words"),
    [
        ({"host": "relay.invalid"}, "relay name", 3, "relay.invalid"),
        ({"port": 0}, "relay TCP", 3, "127.0.0.1"),  # 0: one that nobody listens at
        ({"key": "09" + "00" * 31}, "relay key", 7, "another relay"),
        ({"party_key": "11" * 32}, "relay key", 7, "does not know this computer"),
        ({"broker": "mqtts://127.0.0.1:0"}, "broker", 3, "broker"),
        ({"pin": "22" * 32}, "broker", 7, "certificate"),
        ({"password": "a" * 26}, "broker login", 7, "login"),
    ],
)
@embedded
def test_faults_on_the_way_to_the_broker(home: Path, changes: dict[str, Any], hop: str, code: int, words: str) -> None:
    if "port" in changes:
        changes = {"port": free_port()}
    elif "broker" in changes:
        changes = {"broker": f"mqtts://127.0.0.1:{free_port()}"}
    _spoil(home, **changes)
    assert words in _failing(zts(home, "doctor", "--json"), hop, code)


@embedded
def test_a_device_that_is_offline(lab: Lab) -> None:
    with lab.net.linux_device("dark", PAGE) as dark:
        dark.kill()
        until(lambda: not lab.net.listed("dark")["online"], "the broker says the will")
        assert "power" in _failing(lab.net.zts("doctor", "@dark", "--json"), "hello", 4)
        assert "offline" in failed(lab.net.zts("status", "@dark"), 4)


@embedded
def test_nothing_waits_for_ever(home: Path, tmp_path: Path) -> None:
    """Wrong keys in a card, which a device answers with silence, and a silent program in the relay's place; all at once."""
    sensor = json.loads((home / "devices" / "sensor.json").read_text())
    pi = json.loads((home / "devices" / "pi.json").read_text())
    wrong = {
        "pairing": {"pairing": "33" * 32},
        "swapped": {"public": sensor["public"]},  # another device's key: it is there, and lacks the pairing secret
        "nobody": {"public": "09" + "00" * 31},
    }
    for name, changes in wrong.items():
        card = home / "devices" / f"{name}.json"
        card.write_text(json.dumps({**pi, **changes, "name": name}))
        card.chmod(0o600)
    misled = shutil.copytree(home, tmp_path / "misled")
    with socket.create_server(("127.0.0.1", 0)) as silent, contextlib.ExitStack() as stack:
        _spoil(misled, port=silent.getsockname()[1])

        def start(home: Path, *arguments: str) -> "subprocess.Popen[str]":
            pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "stdin": subprocess.DEVNULL}
            command = [sys.executable, "-m", "zts_gateway.cli", *arguments]
            return stack.enter_context(subprocess.Popen(command, env=environment(home), **pipes))

        def end(process: "subprocess.Popen[str]") -> "subprocess.CompletedProcess[str]":
            out, err = process.communicate(timeout=WAIT_S)
            return subprocess.CompletedProcess(process.args, process.returncode, out, err)

        began = time.monotonic()
        runs = {name: start(home, "connect", f"@{name}", "--stdio") for name in wrong}
        walks = start(home, "doctor", "@pairing", "--json"), start(misled, "doctor", "--json")
        for name, run in runs.items():
            last = failed(end(run), 4)
            assert ("offline" if name == "nobody" else "its key is not the one this computer knows") in last
        assert "its key" in _failing(end(walks[0]), "handshake", 4)
        _failing(end(walks[1]), "relay key", 3)
        print(f"wrong keys in a card: exit 4, all within {time.monotonic() - began:.1f} s")


# --- remove --------------------------------------------------------------------------------------------------------------


@embedded
def test_remove(lab: Lab) -> None:
    net = lab.net
    with net.linux_device("old", PAGE) as old:
        fp = net.listed("old")["fp"]
        assert "--yes" in failed(net.zts("remove", "@old"), 2)
        assert _on_a_terminal(net.home, "remove", "@old", answer="\n") == 0 and net.listed("old")
        assert _on_a_terminal(net.home, "remove", "@old", answer="y\n") == 0
        assert not Book(net.home).find_card("old")
        assert "no device @old" in failed(net.zts("remove", "@old", "--yes"), 2)
        assert "no device @old" in failed(net.zts("connect", "@old"), 2)
        # The relay knows it still, and the sentence says how to change that.
        assert f"{fp} device" in net.relay.run("parties").stdout
        old.kill()


@embedded
def test_remove_says_how_the_relay_forgets(lab: Lab, home: Path) -> None:
    card = Book(home).device("pi")
    done = zts(home, "remove", "@pi", "--yes")
    assert done.returncode == 0 and f"`zts-relay revoke {card.fp}`" in done.stderr, done.stderr
    assert lab.net.listed("pi")["online"]


def _on_a_terminal(home: Path, *arguments: str, answer: str) -> int:
    main, terminal = pty.openpty()
    try:
        os.write(main, answer.encode())
        command = [sys.executable, "-m", "zts_gateway.cli", *arguments]
        return subprocess.run(command, stdin=terminal, capture_output=True, timeout=WAIT_S, env=environment(home)).returncode
    finally:
        os.close(terminal)
        os.close(main)


@embedded
def test_remove_an_enrolment_that_waits(lab: Lab) -> None:
    """And who waits for it hears of that, once the device comes."""
    net = lab.net
    with net.run("enroll-late", "enroll", "@late") as enrolment:
        line = enrolment.line()
        done = net.zts("remove", "@late", "--yes")
        assert done.returncode == 0 and "enrolment of @late" in done.stderr
        with _device(net.folder / "late", line) as device:
            assert enrolment.process.wait(WAIT_S) == 2, enrolment.err
            assert "removed meanwhile" in enrolment.err.splitlines()[-1]
            assert device.process.poll() is None
    assert not Book(net.home).find_card("late")


def _device(folder: Path, line: str) -> Running:
    folder.mkdir()
    config = folder / "agent.toml"
    config.write_text('[identity]\nstate = "state"\n')
    return Running(folder, folder / "run", "agent", "--config", str(config), "--join", "--code-file", "-", stdin=line + "\n")


# --- revoked -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("broker", ["embedded", "mosquitto"])
def test_revoked_parties(tmp_path: Path, broker: str) -> None:
    """A Linux agent ends, a board waits, a client is told; each with code 5."""
    with network(tmp_path / "net", broker) as net, net.linux_device("pi", PAGE) as pi, net.board("sensor") as sensor:
        for name in ("pi", "sensor"):
            assert net.relay.run("revoke", f"@{name}").returncode == 0
        assert pi.running.process.wait(WAIT_S) == 5, pi.running.err
        last = pi.running.err.splitlines()[-1]
        assert last.startswith("zts: 5: ") and "revoked" in last and "Traceback" not in pi.running.err
        event = sensor.wait_for("needs a person")
        assert event["exit_code"] == 5 and "revoked" in event["error"]
        # Started again it ends again.
        pi.start()
        assert pi.running.process.wait(WAIT_S) == 5, pi.running.err
        if broker == "embedded":  # mosquitto keeps the hello of who is revoked
            assert "offline" in failed(net.zts("connect", "@pi", "--stdio"), 4)
            _enrol_again(net, pi)
        os.kill(sensor.pid, 0)  # it is alive
        assert net.relay.run("revoke", "@alice").returncode == 0
        until(lambda: net.zts("doctor", "--json").returncode == 5, "the relay notices")
        assert "revoked" in _failing(net.zts("doctor", "--json"), "relay key", 5)
        until(lambda: net.zts("connect", "@sensor", "--stdio").returncode == 5, "the broker notices")
        assert "revoked" in failed(net.zts("connect", "@sensor", "--stdio"), 5)


def _enrol_again(net: Network, revoked: LinuxDevice) -> None:
    """With its old key, and a good line."""
    file = revoked.folder / "state" / "state.json"
    with net.run("enroll-again", "enroll", "@again") as enrolment:
        kept = {key: value for key, value in json.loads(file.read_text()).items() if key not in ("relay", "pairing", "owner")}
        file.write_text(json.dumps({**kept, "line": enrolment.line()}))
        revoked.start()
        assert revoked.running.process.wait(WAIT_S) == 5, revoked.running.err
        assert revoked.running.err.splitlines()[-1].startswith("zts: 5: ")
