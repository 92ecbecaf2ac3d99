"""Whose a connection is: /proc/net/tcp as text, and this system's own."""

import os
import socket
from pathlib import Path

import pytest

from zts_gateway import peer_uid

HEAD = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
US, THEM = ("127.0.0.1", 8080), ("127.0.0.1", 50000)


def row(local: str, remote: str, uid: int, inode: int, state: str = "01") -> str:
    return (
        f"   0: {local} {remote} {state} 00000000:00000000 00:00000000 00000000 {uid:5}        0 {inode} 1 0000000000000000 20 4 30 10 -1\n"
    )


# As a little-endian machine prints them.
A, B = "0100007F:C350", "0100007F:1F90"
A6, B6 = "0000000000000000FFFF00000100007F:C350", "0000000000000000FFFF00000100007F:1F90"


@pytest.fixture(autouse=True)
def little_endian(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    if "real" not in request.node.name:
        monkeypatch.setattr("sys.byteorder", "little")


def test_the_row_that_is_theirs() -> None:
    table = [HEAD, row(B, "00000000:0000", 7, 1, "0A"), row(B, A, 7, 2), row(A, B, 1000, 3), row("0100007F:C351", B, 8, 4)]
    assert peer_uid.find_uid(table, THEM, US) == 1000
    assert peer_uid.find_uid(table, US, THEM) == 7
    assert peer_uid.find_uid(table[:-2], THEM, US) is None
    assert peer_uid.find_uid([row(A6, B6, 1000, 3)], THEM, US) == 1000
    assert peer_uid.find_uid([row(A, B, 1000, 3, "05")], THEM, US) == 1000  # they have said all


def test_a_socket_that_nobody_holds_is_nobodys() -> None:
    """The kernel prints uid 0 for it, whoever it was."""
    assert peer_uid.find_uid([row(A, B, 0, 0, "06")], THEM, US) is None
    assert peer_uid.find_uid([row(A, B, 0, 0, "06"), row(A, B, 5, 9)], THEM, US) == 5


def test_what_is_no_table() -> None:
    for table in ([], [""], ["x\n"], [HEAD], [row(A, B, 5, 9)[:60]], [row(A, B, 5, 9).replace("    5 ", "    x ")], ["0: " * 12]):
        assert peer_uid.find_uid(table, THEM, US) is None


def test_on_a_big_endian_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.byteorder", "big")
    assert peer_uid.find_uid([row("7F000001:C350", "7F000001:1F90", 5, 9)], THEM, US) == 5
    assert peer_uid.find_uid([row(A, B, 5, 9)], THEM, US) is None


def test_a_system_without_the_table(tmp_path: Path) -> None:
    assert not peer_uid.can_tell(tmp_path)
    assert peer_uid.read_uid(THEM, US, tmp_path) is None
    (tmp_path / "tcp6").write_text(HEAD + row(A6, B6, 12, 9))
    assert peer_uid.read_uid(THEM, US, tmp_path) == 12


@pytest.mark.skipif(not peer_uid.can_tell(), reason="there is no /proc/net/tcp")
@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_a_real_connection(family: socket.AddressFamily) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(family) as sock:
        try:
            sock.connect((("::ffff:" if family == socket.AF_INET6 else "") + "127.0.0.1", server.getsockname()[1]))
        except OSError:
            pytest.skip("no IPv6 here")
        accepted, local = server.accept()
        with accepted:
            assert peer_uid.read_uid(local, accepted.getsockname()) == os.geteuid()
            assert peer_uid.read_uid((local[0], local[1] ^ 1), accepted.getsockname()) is None
            sock.shutdown(socket.SHUT_WR)
            assert peer_uid.read_uid(local, accepted.getsockname()) == os.geteuid()
            sock.close()
            assert peer_uid.read_uid(local, accepted.getsockname()) is None
