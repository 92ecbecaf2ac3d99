"""`zts-relay check`: what it finds, shown on machines that lack it."""

import hashlib
import os
import resource
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509

from relay_process import RelayProcess, run_cli
from whole_network import free_port
from zts import identity
from zts_relay import certificate, check
from zts_relay.check import FAILED, NOTE, OK
from zts_relay.config import Address, Config
from zts_relay.registry import OWNER, Registry

LOCAL = Address("127.0.0.1", 0)
ALL = ["state", "legs", "mqtt", "metrics", "public", "descriptors", "pipes"]


@pytest.fixture
def state(tmp_path: Path) -> Iterator[Path]:
    """Of a relay that has made a code."""
    registry = Registry(tmp_path / "state")
    registry.make_code(OWNER)
    registry.close()
    certificate.make(tmp_path / "state")
    yield tmp_path / "state"


def _snapshot(folder: Path) -> dict[str, tuple[int, str]]:
    """Without SQLite's index in shared memory, in which readers stand too."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mode, hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "")
        for path in folder.rglob("*")
        if path.name != "registry.sqlite-shm"
    }


def _check(*arguments: str, code: int = 0) -> dict[str, list[str]]:
    """What was looked at: its state and what was said."""
    done = run_cli("check", *arguments)
    assert done.returncode == code, (done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    if code:
        assert done.stderr.startswith("zts-relay: CHECK: not fit: ") and done.stderr.count("\n") == 1
    else:
        assert done.stderr == ""
    return {line.split()[0]: line.split(maxsplit=2)[1:] for line in done.stdout.splitlines()}


def _anywhere(**changes: str) -> list[str]:
    options = {"listen": "127.0.0.1:0", "mqtt": "127.0.0.1:0", "metrics": "127.0.0.1:0", "public": "localhost", **changes}
    return [word for name, value in options.items() for word in (f"--{name}", value)]


def test_before_the_first_start_nothing_is_made(tmp_path: Path) -> None:
    found = _check(*_anywhere(), "--state", str(tmp_path / "state"))
    assert list(found) == ALL and not any(state == FAILED for state, _ in found.values())
    assert not (tmp_path / "state").exists()


def test_beside_a_running_relay(tmp_path: Path) -> None:
    with RelayProcess(tmp_path / "relay") as relay:
        assert relay.mqtt
        addresses = {"listen": relay.leg, "mqtt": relay.mqtt, "metrics": relay.metrics}
        options = _anywhere(**{name: identity.join_address(*address) for name, address in addresses.items()})
        before = _snapshot(relay.state)
        found = _check(*options, "--state", str(relay.state))
        assert _snapshot(relay.state) == before
        assert list(found) == [ALL[0], "clock", *ALL[1:]]
        assert all("served by a relay already" in found[port][1] for port in ("legs", "mqtt", "metrics"))
        # The options of a relay may stand before the word too.
        assert _check("--state", str(relay.state))["state"][0] == OK
        # Another relay's ports are not ours: the certificate tells.
        assert _check(*options, "--state", str(tmp_path / "other"), code=2)["mqtt"][0] == FAILED


def test_options_before_the_command(tmp_path: Path) -> None:
    done = run_cli("--listen", "127.0.0.1:0", "--public", "localhost", "check", "--mqtt", "127.0.0.1:0", "--state", str(tmp_path / "state"))
    assert "127.0.0.1, any free port" in done.stdout and "localhost" in done.stdout, done.stdout


def test_a_stopped_relays_state_is_left_alone(state: Path) -> None:
    before = _snapshot(state)
    assert _check(*_anywhere(), "--state", str(state))["clock"][0] == OK
    assert _snapshot(state) == before


def test_a_port_of_another_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "_WAIT_S", 0.2)  # it never answers
    with socket.create_server(("127.0.0.1", 0)) as taken:
        taken_address = Address(*taken.getsockname())
        for at, option in enumerate(("listen", "mqtt", "metrics")):
            leg, mqtt, metrics = [taken_address if at == number else LOCAL for number in range(3)]
            (finding,) = [
                finding
                for finding in check.run(Config(leg, mqtt, metrics, tmp_path / "state", public="localhost"))
                if finding.state == FAILED
            ]
            assert finding.said == f"{taken_address} is in use by another program: stop that, or choose another with --{option}"


def test_an_address_of_another_machine(tmp_path: Path) -> None:
    assert "--listen" in _check(*_anywhere(listen="192.0.2.1:7440"), "--state", str(tmp_path / "state"), code=2)["legs"][1]


def test_a_broker_that_is_not_there(state: Path) -> None:
    found = _check(*_anywhere(broker=f"mqtts://127.0.0.1:{free_port()}"), "--state", str(state), code=2)
    assert "mqtt" not in found and found["broker"][0] == FAILED


def test_the_state_directory(state: Path) -> None:
    assert check.check_state(state).state == OK
    for name in ("relay.key", "relay.secret", "registry.sqlite", "key.pem"):
        (state / name).chmod(0o640)
        finding = check.check_state(state)
        assert finding.state == FAILED and f"{state / name}: chmod 600" in finding.said
        (state / name).chmod(0o600)
    state.chmod(0o720)
    assert "chmod go-w" in check.check_state(state).said
    state.chmod(0o700)
    assert check.check_state(state).state == OK
    registry = state / "registry.sqlite"
    whole = registry.read_bytes()
    registry.write_bytes(whole[:4096] + os.urandom(len(whole) - 4096))
    assert "backup" in check.check_state(state).said
    registry.write_bytes(b"not a database" * 1000)
    assert "backup" in check.check_state(state).said
    registry.unlink()
    assert check.check_state(state).state == OK
    assert check.check_state(state / "relay.key").state == FAILED


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory to somebody else")
def test_somebody_elses_state_directory(state: Path) -> None:
    os.chown(state, 65534, -1)
    finding = check.check_state(state)
    assert finding.state == FAILED and "belongs to nobody" in finding.said


def test_the_clock(state: Path) -> None:
    shown = x509.load_pem_x509_certificate((state / "cert.pem").read_bytes())
    now = time.time()
    assert check.check_clock(now, now - 1, int(now) - 1, shown).state == OK
    for installed, last, word in ((now + 3600, 0, "installed"), (0.0, int(now) + 3600, "registry")):
        finding = check.check_clock(now, installed, last, shown)
        assert finding.state == FAILED and word in finding.said and "set the clock" in finding.said
    far = shown.not_valid_after_utc.timestamp()
    assert check.check_clock(far - 1, 0, 0, shown).state == OK
    assert "certificate" in check.check_clock(far, 0, 0, shown).said
    # The registry's newest time is found: that of a code made in a year's time.
    registry = Registry(state, lambda: now + 31_536_000)
    registry.make_code(OWNER)
    registry.close()
    assert _check(*_anywhere(), "--state", str(state), code=2)["clock"][0] == FAILED


def test_the_public_name(tmp_path: Path) -> None:
    everywhere = Address("0.0.0.0", 0)
    assert check.check_public(Config(LOCAL, LOCAL, LOCAL, tmp_path, public="127.0.0.1")).state == OK
    assert check.check_public(Config(everywhere, LOCAL, LOCAL, tmp_path, public="localhost")).state == NOTE
    finding = check.check_public(Config(everywhere, LOCAL, LOCAL, tmp_path, public="relay.invalid"))
    assert finding.state == FAILED and "relay.invalid" in finding.said


def test_descriptors() -> None:
    assert check.check_descriptors((1024, 20_000)).state == OK
    assert "at most 9000 pairs" in check.check_descriptors((1024, 20_000)).said
    assert "LimitNOFILE" in check.check_descriptors((100, 1000)).said
    assert check.check_descriptors(resource.getrlimit(resource.RLIMIT_NOFILE)).what == "descriptors"


def test_pipes() -> None:
    assert check.check_pipes("16384\n", False).state == OK
    finding = check.check_pipes("1024\n", False)
    assert finding.state == NOTE and "room for 16 of 64" in finding.said and "pipe-user-pages-soft=4096" in finding.said
    assert check.check_pipes("1024\n", True).state == check.check_pipes("0\n", False).state == OK
