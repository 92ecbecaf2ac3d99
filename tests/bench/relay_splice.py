"""What the relay costs: bulk throughput, CPU and round trips against a direct connection, and against HAProxy where it is installed.

    .venv/bin/python tests/bench/relay_splice.py [--gigabytes 1] [--rounds 5]

The ways are measured in turn, round by round, so that other load hits all of them; medians are printed. Both ends run in
this process, and everything shares the machine's cores: compare ways, not machines. CPU seconds are the steadiest figure.
"""

import argparse
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

import relay_client as client
from relay_process import RelayProcess
from zts import crypto, wire

CHUNK = 256 * 1024
ECHOES = 2000

Ends = tuple[socket.socket, socket.socket]


class Way(NamedTuple):
    """How the two ends are joined; `pid` is the process in between, if there is one."""

    name: str
    join: Callable[[], Ends]
    pid: int | None


class Result(NamedTuple):
    mb_per_s: float
    cpu_s_per_gb: float
    p50_us: float
    p99_us: float


def direct() -> Way:
    def join() -> Ends:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            a = socket.create_connection(listener.getsockname())
            return a, listener.accept()[0]

    return Way("direct", join, None)


def our_relay(stack: ExitStack, state: Path) -> Way:
    relay = stack.enter_context(RelayProcess(state))
    assert relay.join
    owner, other = client.join(relay.join), client.join(relay.new_code())

    def join() -> Ends:
        sid = crypto.random_bytes(wire.SID_BYTES)
        a = client.send_hello(relay.leg, owner.account, owner.key, other.account, wire.ROLE_CLIENT, sid)
        b = client.send_hello(relay.leg, other.account, other.key, owner.account, wire.ROLE_DEVICE, sid)
        if client.read_code(a) != wire.OK or client.read_code(b) != wire.OK:
            raise RuntimeError("the relay did not join the legs")
        return a, b

    return Way("zts-relay", join, relay.pid)


def haproxy(stack: ExitStack, program: str, directory: Path) -> Way:
    """HAProxy in splice mode, with our pipe size. `option splice-auto` would copy here."""
    target = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    front = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    configuration = directory / "haproxy.cfg"
    configuration.write_text(
        f"global\n  nbthread 1\n  maxconn 1000\n  tune.pipesize {CHUNK}\n"
        "defaults\n  mode tcp\n  option splice-request\n  option splice-response\n"
        "  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n"
        f"listen relay\n  bind fd@{front.fileno()}\n  server target 127.0.0.1:{target.getsockname()[1]}\n"
    )
    process = subprocess.Popen([program, "-db", "-f", str(configuration)], pass_fds=[front.fileno()], stderr=subprocess.DEVNULL)
    stack.callback(process.wait)
    stack.callback(process.kill)

    def join() -> Ends:
        a = socket.create_connection(front.getsockname())
        return a, target.accept()[0]

    return Way("haproxy splice", join, process.pid)


def cpu_s(pid: int | None) -> float:
    """User and system time of a process; proc(5), fields 14 and 15 of stat."""
    if pid is None:
        return 0.0
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def bulk(a: socket.socket, b: socket.socket, size: int) -> float:
    """Seconds for `size` bytes from a to b."""
    data = bytes(CHUNK)

    def send() -> None:
        left = size
        while left:
            left -= a.send(data[:left] if left < CHUNK else data)

    sender = threading.Thread(target=send)
    buffer = bytearray(CHUNK)
    start = time.perf_counter()
    sender.start()
    left = size
    while left:
        left -= b.recv_into(buffer, min(CHUNK, left))
    elapsed = time.perf_counter() - start
    sender.join()
    return elapsed


def round_trips(a: socket.socket, b: socket.socket) -> list[float]:
    """Sorted seconds of 64-byte round trips."""

    def echo() -> None:
        for _ in range(ECHOES):
            b.sendall(client.receive(b, 64))

    echoing = threading.Thread(target=echo)
    echoing.start()
    times = []
    for _ in range(ECHOES):
        start = time.perf_counter()
        a.sendall(bytes(64))
        client.receive(a, 64)
        times.append(time.perf_counter() - start)
    echoing.join()
    return sorted(times)


def measure(way: Way, size: int) -> Result:
    a, b = way.join()
    with a, b:
        for sock in (a, b):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        before = cpu_s(way.pid)
        seconds = bulk(a, b, size)
        used = cpu_s(way.pid) - before
        times = round_trips(a, b)
    return Result(size / seconds / 1e6, used / size * 1e9, times[ECHOES // 2] * 1e6, times[ECHOES * 99 // 100] * 1e6)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--gigabytes", type=float, default=1.0, help="per round and way (default: %(default)g)")
    parser.add_argument("--rounds", type=int, default=5, help="(default: %(default)d)")
    arguments = parser.parse_args()
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        ways = [direct(), our_relay(stack, directory / "state")]
        program = shutil.which("haproxy")
        if program:
            ways.append(haproxy(stack, program, directory))
        results: dict[str, list[Result]] = {way.name: [] for way in ways}
        for _ in range(arguments.rounds):
            for way in ways:
                results[way.name].append(measure(way, int(arguments.gigabytes * 1e9)))
    print(f"{'':16}{'MB/s':>8}{'÷direct':>9}{'CPU s/GB':>10}{'p50 µs':>8}{'p99 µs':>8}")
    for name, rounds in results.items():
        ratio = statistics.median(r.mb_per_s / d.mb_per_s for r, d in zip(rounds, results["direct"], strict=True))
        rate, cpu, p50, p99 = (statistics.median(column) for column in zip(*rounds, strict=True))
        print(f"{name:16}{rate:8.0f}{ratio:9.2f}{cpu:10.2f}{p50:8.0f}{p99:8.0f}")


if __name__ == "__main__":
    main()
