"""The relay as a process: what it prints, whom it lets in, how it ends."""

import hashlib
import os
import signal
import socket
import ssl
import stat
import threading
import time
import urllib.request
from pathlib import Path

import pytest

import relay_client as client
from relay_process import RelayProcess, run_cli
from zts import codes, crypto, identity, wire


def _relay_key(code: str) -> bytes:
    key: bytes = codes.parse_join_code(code).relay_key
    return key


def _owner_and_device(relay: RelayProcess) -> tuple[client.Account, client.Account]:
    assert relay.join
    owner = client.join(relay.join, "alice")
    key = _relay_key(relay.join)
    fields = client.ask_as(relay.leg, key, owner, wire.KIND_MAKE_CODE, {})
    assert fields
    own = client.key_pair()
    answer = client.enrol_with(relay.leg, key, fields[wire.TLV_SECRET], own, "pi")
    assert answer
    return owner, client.account_of(own, answer)


def _pair(relay: RelayProcess, owner: client.Account, device: client.Account) -> tuple[socket.socket, socket.socket]:
    sid = crypto.random_bytes(wire.SID_BYTES)
    a = client.send_hello(relay.leg, owner.account, owner.key, device.account, wire.ROLE_CLIENT, sid)
    b = client.send_hello(relay.leg, device.account, device.key, owner.account, wire.ROLE_DEVICE, sid)
    assert client.read_code(a) == client.read_code(b) == wire.OK
    return a, b


def _metrics(relay: RelayProcess) -> str:
    with urllib.request.urlopen(f"http://{identity.join_address(*relay.metrics)}/metrics", timeout=client.WAIT_S) as response:
        text: str = response.read().decode()
    return text


def test_enrols_pairs_and_drains(tmp_path: Path) -> None:
    with RelayProcess(tmp_path / "state") as relay:
        assert relay.mqtt
        owner, device = _owner_and_device(relay)
        assert owner.broker == f"mqtts://:{relay.mqtt[1]}" and owner.pin and len(owner.pin) == wire.PIN_BYTES
        a, b = _pair(relay, owner, device)
        with a, b:
            data = os.urandom(8 << 20)
            sender = threading.Thread(target=a.sendall, args=(data,))
            sender.start()
            assert hashlib.sha256(client.receive(b, len(data))).digest() == hashlib.sha256(data).digest()
            sender.join()
            text = _metrics(relay)
            assert "zts_relay_pairs 1.0" in text and 'zts_relay_enrolments_total{kind="enrol",outcome="ok"} 2.0' in text

            parked = client.send_hello(relay.leg, owner.account, owner.key, device.account, wire.ROLE_CLIENT, bytes(16))
            relay.signal(signal.SIGTERM)
            assert client.read_code(parked) == wire.DRAIN
            parked.close()
            with pytest.raises(OSError):
                socket.create_connection(relay.leg, 5).close()
            a.sendall(b"still here")
            assert client.receive(b, 10) == b"still here"
        assert relay.wait() == 0
    assert [entry["event"] for entry in relay.logged()][-2:] == ["draining", "stopped"]


def test_the_ready_line_is_one_json_object_and_only_a_new_state_prints_a_code(tmp_path: Path) -> None:
    with RelayProcess(tmp_path / "state") as relay:
        assert relay.join and relay.leg[1] and relay.mqtt and relay.mqtt[1] and relay.metrics[1]
        assert codes.parse_join_code(relay.join)[2:] == relay.leg
        assert relay.fp == identity.fingerprint_text(_relay_key(relay.join))
        key, fp = _relay_key(relay.join), relay.fp
    with RelayProcess(tmp_path / "state") as relay:
        assert relay.join is None and relay.fp == fp
        assert _relay_key(relay.new_code()) == key
        client.join(relay.new_code())


def test_the_code_is_made_out_for_the_public_host(tmp_path: Path) -> None:
    with RelayProcess(tmp_path / "state", "--public", "relay.example") as relay:
        for code in (relay.join, relay.new_code()):
            assert code and codes.parse_join_code(code)[2:] == ("relay.example", relay.leg[1])


@pytest.mark.parametrize("command", ["code", "parties", "revoke"])
def test_a_command_on_a_folder_without_a_relay_makes_none(tmp_path: Path, command: str) -> None:
    done = run_cli(command, *(["@pi"] if command == "revoke" else []), "--state", str(tmp_path / "typo"))
    assert done.returncode == 2 and "there is no relay's state in" in done.stderr
    assert not (tmp_path / "typo").exists()


def test_code_and_revoke_work_beside_a_running_relay(tmp_path: Path) -> None:
    with RelayProcess(tmp_path / "state") as relay:
        assert relay.join
        owner, device = _owner_and_device(relay)
        second = client.join(relay.new_code(), "bob")
        listed = [line.split() for line in relay.run("parties").stdout.splitlines()]
        assert [(line[1], line[3]) for line in listed] == [("owner", "@alice"), ("device", "@pi"), ("owner", "@bob")]
        doomed, kept = _pair(relay, owner, device), _pair(relay, owner, second)
        with _mqtt_login(relay, device) as doomed_mqtt, _mqtt_login(relay, owner) as kept_mqtt:
            done = relay.run("revoke", "@pi")
            assert (done.returncode, done.stdout) == (0, f"revoked {listed[1][0]}\n")
            for sock in doomed:
                assert sock.recv(1) == b""
            assert doomed_mqtt.recv(1) == b""
            kept_mqtt.sendall(b"\xc0\0")  # PINGREQ
            assert client.receive(kept_mqtt, 2) == b"\xd0\0"
        kept[0].sendall(b"unaffected")
        assert client.receive(kept[1], 10) == b"unaffected"
        sock = client.send_hello(relay.leg, device.account, device.key, owner.account, wire.ROLE_DEVICE, bytes(16))
        assert client.read_code(sock) == wire.REVOKED
        for each in (sock, *doomed, *kept):
            each.close()
        assert relay.run("parties").stdout.splitlines()[1].endswith("@pi revoked")
        assert relay.run("revoke", "@pi").returncode == 2


def _mqtt_login(relay: RelayProcess, party: client.Account) -> ssl.SSLSocket:
    """A logged-in MQTT connection, its broker known by the pin alone."""
    assert relay.mqtt and party.pin
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    sock = context.wrap_socket(client.dial(relay.mqtt))
    certificate = sock.getpeercert(binary_form=True)
    assert certificate and hashlib.sha256(certificate).digest() == party.pin
    user, password = identity.fingerprint_text(party.public).encode(), identity.base32(party.password).encode()
    body = b"\0\4MQTT\4\xc2\0\x3c\0\0\0" + bytes([len(user)]) + user + b"\0" + bytes([len(password)]) + password
    sock.sendall(b"\x10" + bytes([len(body)]) + body)
    assert client.receive(sock, 4) == b"\x20\2\0\0"
    return sock


def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    with RelayProcess(tmp_path / "state", "--drain", "3600") as relay:
        owner, device = _owner_and_device(relay)
        a, b = _pair(relay, owner, device)
        with a, b:
            relay.signal(signal.SIGINT)
            _wait_for_event(relay, "draining")
            relay.signal(signal.SIGTERM)
            assert relay.wait() == 0
            assert a.recv(1) == b""


def test_the_drain_time_ends(tmp_path: Path) -> None:
    with RelayProcess(tmp_path / "state", "--drain", "0.1") as relay:
        owner, device = _owner_and_device(relay)
        a, b = _pair(relay, owner, device)
        with a, b:
            relay.signal(signal.SIGTERM)
            assert relay.wait() == 0


def test_a_silent_visitor_does_not_hold_up_the_end(tmp_path: Path) -> None:
    with RelayProcess(tmp_path / "state", "--drain", "3600") as relay:
        sock, _ = client.greet(relay.leg, wire.MAGIC_LEG)
        with sock:
            relay.signal(signal.SIGTERM)
            assert relay.wait() == 0


def _wait_for_event(relay: RelayProcess, event: str) -> None:
    end = time.monotonic() + client.WAIT_S
    while event not in [entry["event"] for entry in relay.logged()]:
        assert time.monotonic() < end
        time.sleep(0.01)


def test_an_external_broker_gets_files_and_nothing_is_embedded(tmp_path: Path) -> None:
    url = "mqtts://127.0.0.1:8883"
    with RelayProcess(tmp_path / "state", "--broker", url) as relay:
        assert relay.mqtt is None and relay.join
        files = tmp_path / "state" / "mosquitto"
        assert (files / "mosquitto.passwd").read_text() == ""
        owner = client.join(relay.join, "alice")
        assert owner.broker == url and owner.pin
        fp = identity.fingerprint_text(owner.public)
        assert (files / "mosquitto.passwd").read_text().startswith(f"{fp}:")
        assert "certfile" in (files / "mosquitto.conf").read_text()
        relay.run("revoke", fp)
        _wait_for_event(relay, "revoked")
        assert (files / "mosquitto.passwd").read_text() == ""
        for path in (tmp_path / "state").rglob("*"):
            assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
    with RelayProcess(tmp_path / "plain", "--broker", "mqtt://127.0.0.1:1883") as relay:
        assert relay.join
        assert client.join(relay.join).pin is None


def test_logs_are_json_and_name_nobody(tmp_path: Path) -> None:
    with RelayProcess(tmp_path / "state") as relay:
        assert relay.join
        owner, device = _owner_and_device(relay)
        relay.run("revoke", "@pi")
        _wait_for_event(relay, "revoked")
        code, fp = relay.join, relay.fp
    text = relay.log.read_text()
    assert relay.logged()
    for secret in ("alice", "@pi", fp, code[5:40], *(identity.fingerprint_text(p.public) for p in (owner, device))):
        assert secret not in text
    for party in (owner, device):
        for value in (party.account, party.key, party.password):
            assert value.hex() not in text and identity.base32(value) not in text


def test_metrics_over_http(tmp_path: Path) -> None:
    with RelayProcess(tmp_path / "state") as relay:
        assert "zts_relay_broker_connections" in _metrics(relay) and "process_open_fds" in _metrics(relay)
        for request, status in [
            (b"POST / HTTP/1.1", b"405"),
            (b"GET /etc HTTP/1.1", b"404"),
            (b"\xff", b"405"),
            (b"GET / HTTP/1.0", b"200"),
        ]:
            with client.dial(relay.metrics) as sock:
                sock.sendall(request + b"\r\n\r\n")
                assert sock.recv(12).split()[1] == status
        with client.dial(relay.metrics) as sock, pytest.raises(OSError):
            for _ in range(1000):
                sock.sendall(bytes(8192))
            raise AssertionError("it reads for ever")
        assert client.join(relay.new_code())


@pytest.mark.parametrize("option", ["--listen", "--mqtt", "--metrics"])
def test_a_port_in_use_is_named(tmp_path: Path, option: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        addresses = dict.fromkeys(("--listen", "--mqtt", "--metrics"), "127.0.0.1:0") | {option: address}
        words = [word for pair in addresses.items() for word in pair]
        done = run_cli(*words, "--state", str(tmp_path / "state"))
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith(f"zts-relay: ADDRESS: {address} is in use") and option in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_broken_state_is_one_sentence(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir(0o700)
    (state / "relay.key").write_bytes(b"short")
    (state / "relay.key").chmod(0o600)
    done = run_cli("--listen", "127.0.0.1:0", "--mqtt", "127.0.0.1:0", "--metrics", "127.0.0.1:0", "--state", str(state))
    assert done.returncode == 2 and done.stderr.startswith("zts-relay: STATE: ") and done.stderr.count("\n") == 1


def test_it_outlives_a_crash(tmp_path: Path) -> None:
    with RelayProcess(tmp_path / "state") as relay:
        owner, device = _owner_and_device(relay)
        relay.kill()
    with RelayProcess(tmp_path / "state") as relay:
        a, b = _pair(relay, owner, device)
        a.close()
        b.close()


def test_only_the_three_ports_are_open_and_no_descriptor_is_left_behind(tmp_path: Path) -> None:
    with RelayProcess(tmp_path / "state") as relay:
        owner, device = _owner_and_device(relay)
        before = len(os.listdir(f"/proc/{relay.pid}/fd"))
        for _ in range(20):
            a, b = _pair(relay, owner, device)
            a.sendall(bytes(500_000))
            assert client.receive(b, 500_000) == bytes(500_000)
            a.close()
            b.close()
        end = time.monotonic() + client.WAIT_S
        # Up to a few pipes stay in the pool.
        while len(os.listdir(f"/proc/{relay.pid}/fd")) > before + 4:
            assert time.monotonic() < end
            time.sleep(0.01)


def test_it_listens_on_ipv6(tmp_path: Path) -> None:
    everywhere = ("--listen", "[::1]:0", "--mqtt", "[::1]:0", "--metrics", "[::1]:0")
    with RelayProcess(tmp_path / "state", *everywhere) as relay:
        assert relay.leg[0] == "::1" and relay.mqtt and relay.mqtt[0] == "::1"
        owner, device = _owner_and_device(relay)
        a, b = _pair(relay, owner, device)
        a.close()
        assert b.recv(1) == b""
        b.close()
        assert "zts_relay_pairs" in _metrics(relay)
