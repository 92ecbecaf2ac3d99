"""The MQTT port's certificate and our TLS over memory buffers, with OpenSSL's and MicroPython's clients."""

import contextlib
import hashlib
import os
import random
import shutil
import socket
import ssl
import subprocess
import sys
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509

from host import mqtt_tools as mqtt
from host.mqtt_engines import MOSQUITTO, Embedded, Engine, Mosquitto
from zts.errors import FormatError
from zts_relay import certificate

MICROPYTHON = shutil.which("micropython", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")

# An assignment to `address`, `pin`, `start` and `end` comes before it: arguments are limited to 255 bytes.
DEVICE = """
import hashlib, socket, sys, tls
seen = []
def check(certificate, depth):
    seen.append(certificate)
    return 0 if depth == 0 and hashlib.sha256(certificate).digest() == pin else -1
context = tls.SSLContext(tls.PROTOCOL_TLS_CLIENT)
context.verify_mode = tls.CERT_OPTIONAL
context.verify_callback = check
plain = socket.socket()
plain.connect(socket.getaddrinfo(*address)[0][-1])
try:
    stream = context.wrap_socket(plain)
except OSError:
    print("refused", len(seen))
    sys.exit()
stream.write(start)
got = b""
while not got.endswith(end):
    more = stream.read(1)
    if not more:
        break
    got += more
print("got", got.hex())
"""


def client_context(version: ssl.TLSVersion) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = context.maximum_version = version
    return context


def test_made_once_private_and_valid_for_clockless_boards(tmp_path: Path) -> None:
    state = tmp_path / "new" / "state"
    _, pin = certificate.make(state)
    files = {name: (state / name).read_bytes() for name in ("cert.pem", "key.pem")}
    assert sorted(path.name for path in state.iterdir()) == sorted(files)
    assert state.stat().st_mode & 0o777 == 0o700
    assert all((state / name).stat().st_mode & 0o777 == 0o600 for name in files)
    parsed = x509.load_pem_x509_certificate(files["cert.pem"])
    assert parsed.not_valid_before_utc == datetime(1970, 1, 1, tzinfo=UTC)
    assert parsed.not_valid_after_utc == datetime(2100, 1, 1, tzinfo=UTC)
    assert certificate.make(state)[1] == pin
    assert files == {name: (state / name).read_bytes() for name in files}
    assert certificate.make(tmp_path / "other")[1] != pin


def test_spoilt_files_are_an_error_not_a_new_identity(tmp_path: Path) -> None:
    certificate.make(tmp_path)
    other = tmp_path / "other"
    certificate.make(other)
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    good_key, good_cert = key.read_bytes(), cert.read_bytes()
    for spoilt_key, spoilt_cert in (
        (b"", good_cert),
        (None, good_cert),
        (good_key[:-40], good_cert),
        ((other / "key.pem").read_bytes(), good_cert),
        (good_key, b""),
        (good_key, good_cert[:-40]),
        (good_key, b"\xff" + good_cert),
    ):
        cert.write_bytes(spoilt_cert)
        key.unlink(missing_ok=True)
        if spoilt_key is not None:
            key.write_bytes(spoilt_key)
        with pytest.raises(FormatError, match=r"cert\.pem"):
            certificate.make(tmp_path)
        assert cert.read_bytes() == spoilt_cert


def test_a_key_without_certificate_is_what_a_crash_leaves(tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_bytes(b"half")
    certificate.make(tmp_path)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_mqtt_over_tls(tmp_path: Path, version: ssl.TLSVersion) -> None:
    context, pin = certificate.make(tmp_path)
    with closing(Embedded(context=context)) as engine:
        party = engine.party()
        topic = f"zts/1/{party.fp}/in/{party.fp}"
        with mqtt.Wire(engine.address) as wire:
            wire.socket = client = client_context(version).wrap_socket(wire.socket)
            assert client.version() == version.name.replace("v1_", "v1.")
            der = client.getpeercert(binary_form=True)
            assert der and hashlib.sha256(der).digest() == pin
            wire.send(mqtt.connect(party.fp, party.password, will=(topic, b"will", False)))
            assert wire.read() == (0x20, b"\0\0")
            wire.subscribe(topic)
            payloads = [bytes((number,)) * 512 for number in range(64)]
            wire.send(b"".join(mqtt.publish(topic, payload) for payload in payloads))  # records of 16 KiB, over many reads
            assert [payload for _, payload, _ in wire.fence()] == payloads
            client.settimeout(mqtt.DEADLINE_S)
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                client.unwrap()  # TLS says goodbye, MQTT does not: the socket stays open on our side
            engine.wait_for(lambda broker: broker.stats.connections == 0)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_goodbye_before_connect_ends_the_connection(tmp_path: Path, version: ssl.TLSVersion) -> None:
    context, _ = certificate.make(tmp_path)
    with closing(Embedded(context=context)) as engine, mqtt.Wire(engine.address) as wire:
        wire.socket = client = client_context(version).wrap_socket(wire.socket)
        engine.wait_for(lambda broker: broker.stats.pending == 1)
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            client.unwrap()
        engine.wait_for(lambda broker: broker.stats.pending == 0)
        assert engine.call(lambda broker: broker.stats.closed) == {}  # long before the deadline of CONNECT


def test_what_is_not_tls_gets_nothing_but_an_alert(tmp_path: Path) -> None:
    context, _ = certificate.make(tmp_path)
    with closing(Embedded(context=context)) as engine:
        party = engine.party()
        for start in (mqtt.connect(party.fp, party.password), b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\xff\xff" + bytes(100)):
            with mqtt.Wire(engine.address) as wire:
                wire.send(start)
                answer = b""
                while more := _receive(wire.socket):
                    answer += more
                assert answer == b"" or (answer[0] == 0x15 and len(answer) == 7)  # one alert
        old = client_context(ssl.TLSVersion.TLSv1_2)
        old.set_ciphers("ALL:@SECLEVEL=0")
        with mqtt.Wire(engine.address) as wire, pytest.warns(DeprecationWarning):
            old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
            with pytest.raises(ssl.SSLError, match=r"(?i)alert.protocol.version"):  # we say why
                old.wrap_socket(wire.socket)
        assert engine.asked == []
        engine.wait_for(lambda broker: broker.stats.pending == 0)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_broken_tls_in_bulk(tmp_path: Path, version: ssl.TLSVersion) -> None:
    """Handshakes and records with flipped, cut or added bytes at every flight: each ends its own connection only."""
    rng = random.Random(5)
    context, _ = certificate.make(tmp_path)
    with closing(Embedded(context=context)) as engine:
        party = engine.party()
        for _ in range(200):
            incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            tls = client_context(version).wrap_bio(incoming, outgoing)
            spoilt = rng.randrange(3)  # ClientHello, the second flight, records
            with mqtt.Wire(engine.address) as wire:
                for flight in range(3):
                    try:
                        tls.do_handshake()
                        tls.write(mqtt.connect(party.fp, party.password) + mqtt.PINGREQ * 5)
                    except ssl.SSLWantReadError:
                        pass
                    except ssl.SSLError:  # the broker's alert
                        break
                    data = bytearray(outgoing.read())
                    if flight == spoilt and data:
                        for _ in range(rng.choice((1, 1, 1, 4))):
                            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
                        data[rng.randrange(len(data)) :] += rng.choice((b"", b"", data, rng.randbytes(50)))
                    wire.send(bytes(data))
                    if flight >= spoilt or not (answer := _receive(wire.socket)):
                        break
                    incoming.write(answer)
        engine.wait_for(lambda broker: broker.stats.connections == broker.stats.pending == 0)
        assert engine.call(lambda broker: broker.stats.closed["malformed"]) > 0
        with mqtt.Wire(engine.address) as wire:
            wire.socket = client_context(version).wrap_socket(wire.socket)
            wire.send(mqtt.connect(party.fp, party.password))
            assert wire.read() == (0x20, b"\0\0")


def _receive(connected: socket.socket) -> bytes:
    try:
        return connected.recv(4096)
    except ConnectionError:
        return b""


@pytest.mark.parametrize("name", ["embedded", "mosquitto"])
def test_micropython_pins_the_certificate(tmp_path: Path, name: str) -> None:
    assert MICROPYTHON, "the dev extra brings micropython"
    context, pin = certificate.make(tmp_path)
    engine: Engine
    if name == "embedded":
        engine = Embedded(context=context)
    elif MOSQUITTO:
        engine = Mosquitto(tmp_path, 1, (tmp_path / "cert.pem", tmp_path / "key.pem"))
    else:
        pytest.skip("mosquitto is not installed")
    script = tmp_path / "device.py"
    with closing(engine):
        party = engine.party()
        topic = f"zts/1/{party.fp}/in/{party.fp}"
        message = mqtt.publish(topic, b"x" * 512)
        start = mqtt.connect(party.fp, party.password) + mqtt.subscribe(topic) + message
        wrong = pin[:-1] + bytes((pin[-1] ^ 1,))
        for used, expected in ((pin, "got " + (b"\x20\2\0\0\x90\3\0\1\0" + message).hex()), (wrong, "refused 1")):
            script.write_text(f"address, pin, start, end = {(engine.address, used, start, message)!r}\n{DEVICE}")
            done = subprocess.run([MICROPYTHON, "-X", "heapsize=256K", script], capture_output=True, text=True, timeout=mqtt.DEADLINE_S)
            assert (done.stdout.strip(), done.returncode) == (expected, 0), done.stderr
