"""What the whole way costs, end to end: `zts connect -L`, relay and `zts agent`, against a direct connection and against OpenSSH.

    .venv/bin/python tests/bench/tunnel.py [--gigabytes 0.5] [--rounds 5]

OpenSSH's `-L` goes straight to an sshd with aes256-gcm, without anything in between, so it has one hop less. Ways are
measured in turn, round by round; medians are printed. All share the machine's cores: compare ways, not machines.
CPU seconds are those of all processes between the two ends.
"""

import argparse
import socket
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]

from relay_splice import ECHOES, Ends, bulk, cpu_s, direct, round_trips  # noqa: E402

from sshd import Sshd, find_sshd  # noqa: E402
from whole_network import free_port, network, until  # noqa: E402


class Way(NamedTuple):
    name: str
    join: Callable[[], Ends]
    pids: Callable[[], list[int]]


def through(address: tuple[str, int], target: socket.socket) -> Callable[[], Ends]:
    """Joins the two ends by a door that leads to `target`."""

    def join() -> Ends:
        a = socket.create_connection(address)
        return a, target.accept()[0]

    return join


def zts(stack: ExitStack, folder: Path, target: socket.socket) -> Way:
    host, port = target.getsockname()
    net = stack.enter_context(network(folder, "embedded"))
    device = stack.enter_context(net.linux_device("pi", {"bulk": ("tcp", f"{host}:{port}")}))
    door = stack.enter_context(net.run("door", "connect", "@pi:bulk"))
    address, _, number = door.line().rpartition(":")
    pids = [net.relay.pid, door.process.pid, device.running.process.pid]
    return Way("zts", through((address, int(number)), target), lambda: pids)


def ssh(stack: ExitStack, folder: Path, target: socket.socket) -> Way:
    host, port = target.getsockname()
    sshd = stack.enter_context(Sshd(folder))
    local = free_port()
    options = ["HostName=127.0.0.1", f"Port={sshd.port}", "HostKeyAlias=pi", "Ciphers=aes256-gcm@openssh.com", "ExitOnForwardFailure=yes"]
    command = sshd.command("none")
    command[1:1] = [part for option in options for part in ("-o", option)] + ["-N", "-L", f"127.0.0.1:{local}:{host}:{port}"]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    stack.callback(process.wait)
    stack.callback(process.terminate)

    def listening() -> bool:
        assert process.poll() is None
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", local)) == 0

    until(listening, "ssh listens")
    target.accept()[0].close()  # the probe came through
    return Way("ssh -L", through(("127.0.0.1", local), target), lambda: [process.pid, *descendants(sshd.pid)])


def descendants(pid: int) -> list[int]:
    found = []
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        found += [int(child), *descendants(int(child))]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--gigabytes", type=float, default=0.5, help="per round and way (default: %(default)g)")
    parser.add_argument("--rounds", type=int, default=5, help="(default: %(default)d)")
    arguments = parser.parse_args()
    size = int(arguments.gigabytes * 1e9)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        target = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        ways = [Way("direct", direct().join, lambda: []), zts(stack, folder / "zts", target)]
        if find_sshd():
            ways.append(ssh(stack, folder / "ssh", target))
        results: dict[str, list[tuple[float, float, float]]] = {way.name: [] for way in ways}
        for _ in range(arguments.rounds):
            for way in ways:
                a, b = way.join()
                with a, b:
                    for sock in (a, b):
                        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    before = sum(map(cpu_s, way.pids()))
                    seconds = bulk(a, b, size)
                    used = sum(map(cpu_s, way.pids())) - before
                    median = round_trips(a, b)[ECHOES // 2]
                results[way.name].append((size / seconds / 1e6, used / size * 1e9, median * 1e6))
    print(f"{'':12}{'MB/s':>8}{'÷direct':>9}{'CPU s/GB':>10}{'p50 µs':>8}")
    for name, rounds in results.items():
        ratio = statistics.median(r[0] / d[0] for r, d in zip(rounds, results["direct"], strict=True))
        rate, cpu, p50 = (statistics.median(column) for column in zip(*rounds, strict=True))
        print(f"{name:12}{rate:8.0f}{ratio:9.2f}{cpu:10.2f}{p50:8.0f}")


if __name__ == "__main__":
    main()
