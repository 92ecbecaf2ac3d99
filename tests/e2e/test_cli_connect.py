"""`zts connect`: bytes unchanged, each direction ending by itself, several processes at once, devices that come and go."""

import concurrent.futures
import contextlib
import hashlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from lab import Lab
from whole_network import WAIT_S, Running, environment, failed, until
from zts import identity

PAGE = {"page": ("http", "zts_agent.page:page")}
PIPES = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
GET = b"GET /reading.json HTTP/1.1\r\n\r\n"


def _command(target: str) -> list[str]:
    return [sys.executable, "-m", "zts_gateway.cli", "connect", target, "--stdio"]


def _stdio(lab: Lab, target: str, data: bytes) -> bytes:
    done = subprocess.run(_command(target), input=data, capture_output=True, timeout=WAIT_S, env=environment(lab.net.home))
    assert (done.returncode, done.stderr) == (0, b""), done.stderr
    return done.stdout


def _dial(door: Running) -> socket.socket:
    sock = socket.create_connection(identity.split_address(door.line()))
    sock.settimeout(WAIT_S)
    return sock


def _get(door: Running) -> bytes:
    return f"GET /reading.json HTTP/1.1\r\nHost: {door.line()}\r\n\r\n".encode()


def _ask(door: Running, data: bytes) -> bytes:
    """Says `data` and the end, then reads to the end."""
    with _dial(door) as sock:
        got = bytearray()
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            sending = pool.submit(_say, sock, data)
            while piece := sock.recv(1 << 18):
                got += piece
            sending.result()
        return bytes(got)


def _say(sock: socket.socket, data: bytes) -> None:
    sock.sendall(data)
    sock.shutdown(socket.SHUT_WR)


# --- --stdio -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 10_000_000])
def test_stdio_passes_on_our_end_and_then_theirs(lab: Lab, size: int) -> None:
    data = os.urandom(size)
    assert _stdio(lab, "@pi:digest", data) == hashlib.sha256(data).digest() + data


def test_stdio_goes_on_after_the_other_side_has_ended(lab: Lab) -> None:
    data = os.urandom(1_000_000)
    with subprocess.Popen(_command("@pi:early"), **PIPES, env=environment(lab.net.home)) as connect:  # type: ignore[call-overload]
        assert connect.stdout.read() == b"bye"  # and the end, while our own direction is still open
        connect.stdin.write(data)
        connect.stdin.close()
        assert lab.heard.get(timeout=WAIT_S) == data
        assert connect.wait(WAIT_S) == 0, connect.stderr.read()


def test_stdio_on_one_socket(lab: Lab) -> None:
    """As some programs start a proxy: stdin and stdout are the two directions of one socket."""
    data = os.urandom(300_000)
    ours, theirs = socket.socketpair()
    with (
        ours,
        subprocess.Popen(_command("@pi:digest"), stdin=theirs.fileno(), stdout=theirs.fileno(), env=environment(lab.net.home)) as connect,
    ):
        theirs.close()
        ours.settimeout(WAIT_S)
        _say(ours, data)
        got = bytearray()
        while piece := ours.recv(1 << 16):
            got += piece
        assert bytes(got) == hashlib.sha256(data).digest() + data
        assert connect.wait(WAIT_S) == 0


def test_stdio_on_files(lab: Lab) -> None:
    folder = lab.net.folder / "files"
    folder.mkdir()
    data = os.urandom(300_000)
    (folder / "in").write_bytes(data)
    with (folder / "in").open("rb") as source, (folder / "out").open("wb") as sink:
        subprocess.run(_command("@pi:digest"), stdin=source, stdout=sink, check=True, timeout=WAIT_S, env=environment(lab.net.home))
    assert (folder / "out").read_bytes() == hashlib.sha256(data).digest() + data


def test_stdio_to_nobody(lab: Lab) -> None:
    """The program that read our stdout has gone."""
    with subprocess.Popen(_command("@pi:digest"), **PIPES, env=environment(lab.net.home)) as connect:  # type: ignore[call-overload]
        connect.stdout.close()
        with contextlib.suppress(BrokenPipeError):
            connect.stdin.write(bytes(100_000))
            connect.stdin.close()
        last = connect.stderr.read().splitlines()[-1]
        assert connect.wait(WAIT_S) == 9 and last.startswith(b"zts: 9: "), last


def test_the_only_service_needs_no_name(lab: Lab) -> None:
    assert b'"name": "sensor"' in _stdio(lab, "@sensor", GET)


# --- -L ----------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digest_door(lab: Lab) -> Iterator[Running]:
    with lab.net.run("digest-door", "connect", "@pi:digest", "-L") as door:
        yield door


def test_door_passes_on_our_end_and_then_theirs(digest_door: Running) -> None:
    for size in (0, 1, 4_000_000):
        data = os.urandom(size)
        assert _ask(digest_door, data) == hashlib.sha256(data).digest() + data


def test_door_goes_on_after_the_other_side_has_ended(lab: Lab) -> None:
    data = os.urandom(1_000_000)
    with lab.net.run("early-door", "connect", "@pi:early", "-L") as door, _dial(door) as sock:
        assert sock.recv(10) == b"bye"
        assert sock.recv(10) == b""
        _say(sock, data)
        assert lab.heard.get(timeout=WAIT_S) == data


def test_door_serves_many_at_once(digest_door: Running) -> None:
    data = [os.urandom(200_000) for _ in range(12)]
    with concurrent.futures.ThreadPoolExecutor(len(data)) as pool:
        answers = list(pool.map(lambda one: _ask(digest_door, one), data))
    assert answers == [hashlib.sha256(one).digest() + one for one in data]


def test_a_reset_here_is_none_of_the_others_business(digest_door: Running) -> None:
    with _dial(digest_door) as rude, _dial(digest_door) as good:
        rude.sendall(bytes(100_000))
        rude.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        rude.close()
        _say(good, b"still here")
        assert good.recv(1 << 16, socket.MSG_WAITALL)[32:42] == b"still here"


def test_door_says_its_address_alone(digest_door: Running) -> None:
    address = digest_door.line()
    assert digest_door.out == address + "\n"
    assert identity.split_address(address)[0] == "127.0.0.1"


def test_two_processes_at_once(lab: Lab, digest_door: Running) -> None:
    with lab.net.run("second-door", "connect", "@pi:digest", "-L") as second:
        with concurrent.futures.ThreadPoolExecutor(3) as pool:
            third = pool.submit(_stdio, lab, "@pi:digest", b"3")
            answers = list(pool.map(_ask, [digest_door, second], [b"1", b"2"]))
        assert [answer[32:] for answer in [*answers, third.result()]] == [b"1", b"2", b"3"]
        row = lab.net.listed("pi")
        assert row["online"] and row["verified"]


def test_door_outlives_an_offline_device(lab: Lab) -> None:
    net = lab.net
    with net.linux_device("nomad", PAGE) as nomad, net.run("nomad-door", "connect", "@nomad", "-L") as door:
        assert b"200 OK" in _ask(door, _get(door))
        nomad.kill()
        until(lambda: not net.listed("nomad")["online"], "the broker says the will")
        with _dial(door) as sock:  # made meanwhile
            sock.sendall(_get(door))
            nomad.start()
            assert b"200 OK" in sock.recv(1 << 16)
        assert b"200 OK" in _ask(door, _get(door))
        assert door.process.poll() is None


def test_ctrl_c_ends_all_of_it(lab: Lab) -> None:
    net = lab.net
    with net.run("ctrl-c-door", "connect", "@pi:digest", "-L") as door:
        with _dial(door) as sock:
            sock.sendall(b"x")
            assert door.interrupt() == 130
            with pytest.raises(ConnectionResetError):
                sock.recv(1)
        with pytest.raises(ConnectionRefusedError):
            _dial(door)
        assert door.err.splitlines()[-1] == "zts: 130: interrupted"
        assert "Traceback" not in door.err


def test_wrong_names(lab: Lab) -> None:
    for target in ("@pi:../x", "@../pi", "@pi:a:b", "@"):
        failed(lab.net.zts("connect", target), 2)
