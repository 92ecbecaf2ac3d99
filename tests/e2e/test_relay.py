"""The relay as a process: what it prints, whom it lets in, how it ends."""

import hashlib
import json
import os
import signal
import socket
import stat
import threading
import time
import urllib.request
from pathlib import Path

import pytest
import relay_client as client
from relay_process import RelayProcess, run_cli
from zts import crypto, identity, wire


def _relay_key(code: str) -> bytes:
    key: bytes = identity.parse_join_code(code).relay_key
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
    with urllib.request.urlopen(f"http://{relay.metrics[0]}:{relay.metrics[1]}/metrics", timeout=client.WAIT_S) as response:
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
