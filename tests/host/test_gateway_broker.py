"""The pin decides whether a broker hears anything from us."""

import asyncio
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from zts import crypto, identity, wire
from zts_gateway import broker
from zts_gateway.addressbook import Identity
from zts_gateway.ui import Exit, Failure, failure_of
from zts_relay import certificate

PRIVATE = bytes(range(32))


class TlsServer:
    """Takes one connection at a time, and keeps what it says after the handshake."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.heard: list[bytes] = []
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        sock, _ = self._listener.accept()
        try:
            with sock, self._context.wrap_socket(sock, server_side=True) as tls:
                self.heard.append(tls.recv(1000))
        except OSError:
            self.heard.append(b"")

    def close(self) -> None:
        self._thread.join(60)
        self._listener.close()
        assert not self._thread.is_alive()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[TlsServer, bytes]]:
    context, pin = certificate.make(tmp_path)
    server = TlsServer(context)
    yield server, pin
    server.close()


def _log_in(port: int, pin: bytes) -> Failure:
    account = identity.Account(PRIVATE, "127.0.0.1", 1, bytes(8), PRIVATE, "the-password", pin, f"mqtts://:{port}")

    async def run() -> None:
        async with broker.connect(Identity("alice", PRIVATE, crypto.x25519_public(PRIVATE), account), account):
            pass

    with pytest.raises(Failure) as caught:
        asyncio.run(run())
    return caught.value


@pytest.mark.parametrize("flip", [0, 100, 255])
def test_another_certificate_hears_nothing(served: tuple[TlsServer, bytes], flip: int) -> None:
    server, pin = served
    wrong = bytearray(pin)
    wrong[flip // 8] ^= 1 << flip % 8
    failure = _log_in(server.port, bytes(wrong))
    server.close()
    assert failure.code == Exit.AUTHENTICATION and "certificate" in str(failure)
    assert server.heard == [b""]


def test_the_pinned_one_hears_the_login(served: tuple[TlsServer, bytes]) -> None:
    server, pin = served
    failure = _log_in(server.port, pin)  # it hangs up instead of answering
    server.close()
    assert failure.code == Exit.UNREACHABLE
    assert b"the-password" in server.heard[0]


def test_every_code_means_something() -> None:
    for code in range(wire.DENIED, wire.QUOTA + 1):
        failure = failure_of(code, "@pi")
        assert failure.code not in (Exit.OK, Exit.INTERNAL, Exit.USAGE)
        assert str(failure).startswith("@pi: ") and "unknown" not in str(failure)
    assert failure_of(wire.QUOTA + 1, "@pi").code == Exit.LOST
