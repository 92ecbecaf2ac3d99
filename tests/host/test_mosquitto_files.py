"""What the files for an external mosquitto hold, and that mosquitto obeys a change of them. Its behaviour: test_broker.py."""

import os
import signal
import subprocess
from contextlib import closing
from pathlib import Path

import pytest

from host import mqtt_tools as mqtt
from host.mqtt_engines import MOSQUITTO, Mosquitto, Party, log_in
from zts_relay import mosquitto


def test_files_are_private_and_replaced_whole(tmp_path: Path) -> None:
    state = tmp_path / "state"
    parties = [Party(), Party()]
    logins = [(party.fp, party.password) for party in parties]
    config = mosquitto.write(state, logins, "127.0.0.1", 1883)
    passwords = state / "mosquitto.passwd"
    before = passwords.stat().st_ino
    mosquitto.write_passwords(state, logins[:1])
    assert passwords.stat().st_ino != before
    assert passwords.read_text().count("\n") == 1 and passwords.read_text().startswith(parties[0].fp + ":$7$")
    assert parties[0].password.decode() not in passwords.read_text()
    assert state.stat().st_mode & 0o777 == 0o700
    assert sorted(path.name for path in state.iterdir()) == ["mosquitto.acl", "mosquitto.conf", "mosquitto.passwd"]
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in state.iterdir())
    assert config.read_text().count("listener 1883 127.0.0.1\n") == 1


def test_a_user_without_a_name_gets_a_configuration_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert mosquitto.config(tmp_path, "127.0.0.1", 1883, None).count("\nuser ") == 1
    monkeypatch.setattr(os, "getuid", lambda: 2**31 - 3)
    assert mosquitto.config(tmp_path, "127.0.0.1", 1883, None).count("\nuser ") == 0


@pytest.mark.parametrize("name", ["", "a" * 23, "a" * 23 + ":", "a" * 23 + "\n", "#" + "a" * 23, "+" * 24])
def test_only_fingerprints_become_lines(name: str) -> None:
    with pytest.raises(ValueError, match="fingerprint"):
        mosquitto.password_file([(name, b"secret")])


def test_hashes_are_those_mosquitto_makes(tmp_path: Path) -> None:
    """mosquitto's own tool changes one line, and takes ours for what it is: both then log in."""
    if not MOSQUITTO:
        pytest.skip("mosquitto is not installed")
    with closing(Mosquitto(tmp_path / "state", 2)) as engine:
        ours, theirs = engine.party(), engine.party()
        theirs.password = b"another one"
        tool = ["mosquitto_passwd", "-b", str(tmp_path / "state" / "mosquitto.passwd"), theirs.fp, "another one"]
        subprocess.run(tool, check=True, timeout=mqtt.DEADLINE_S, capture_output=True)
        with log_in(engine, ours) as kept:
            engine.process.send_signal(signal.SIGHUP)
            _until_login(engine, theirs)
            assert kept.fence() == []  # the others' connections live on
            log_in(engine, ours).abandon()


def test_a_revoked_party_is_out_after_sighup(tmp_path: Path) -> None:
    if not MOSQUITTO:
        pytest.skip("mosquitto is not installed")
    with closing(Mosquitto(tmp_path / "state", 2)) as engine:
        revoked, kept = engine.party(), engine.party()
        with log_in(engine, revoked) as out, log_in(engine, kept) as stays:
            mosquitto.write_passwords(tmp_path / "state", [(kept.fp, kept.password)])
            engine.process.send_signal(signal.SIGHUP)
            assert out.read() is None
            assert stays.fence() == []
            with mqtt.Wire(engine.address) as again:
                again.send(mqtt.connect(revoked.fp, revoked.password))
                assert again.read() == (0x20, b"\0\5")


def _until_login(engine: Mosquitto, party: Party) -> None:
    for _ in range(2000):
        with mqtt.Wire(engine.address) as wire:
            wire.send(mqtt.connect(party.fp, party.password))
            if wire.read() == (0x20, b"\0\0"):
                return
    raise AssertionError("mosquitto did not read its passwords again")
