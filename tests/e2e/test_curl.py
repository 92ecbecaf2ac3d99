"""curl, unchanged, through `zts connect -L`, to a page that MicroPython serves and one that the Linux agent does."""

import json
import shutil
import socket
import subprocess

import pytest

from lab import Lab
from whole_network import WAIT_S

CURL = shutil.which("curl")
pytestmark = pytest.mark.skipif(CURL is None, reason="curl is not installed (Debian: curl)")


def _curl(*arguments: str) -> str:
    done = subprocess.run([str(CURL), "-sS", "--max-time", str(int(WAIT_S)), *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("target, runtime", [("@sensor", "micropython"), ("@pi:page", "cpython")])
def test_a_page(lab: Lab, target: str, runtime: str) -> None:
    name = target[1:].partition(":")[0]
    with lab.net.run(f"curl-{name}", "connect", target, "-L") as door:
        address = door.line()
        assert f"<title>@{name}</title>" in _curl(f"http://{address}/")
        first, second = (json.loads(_curl(f"http://{address}/reading.json")) for _ in range(2))
        assert first["device"].startswith(runtime)
        assert second["uptime_ms"] > first["uptime_ms"]
        assert _curl("-o", "/dev/null", "-w", "%{http_code}", f"http://{address}/nothing") == "404"
        assert door.out == address + "\n"
        assert door.interrupt() == 130
        assert door.err.splitlines()[-1] == "zts: 130: interrupted"


def test_several_requests_at_once(lab: Lab) -> None:
    with lab.net.run("curl-many", "connect", "@sensor:http", "-L", "0") as door:
        urls = [f"http://{door.line()}/reading.json?{i}" for i in range(4)]
        # The page looks at the path only up to its end, so the query makes it unknown: what counts is that all are answered.
        answers = _curl("--parallel", "--parallel-immediate", "-w", "%{http_code}\n", *urls)
        assert answers.count("404") == 4, answers


def test_the_door_listens_on_loopback_only(lab: Lab) -> None:
    with lab.net.run("curl-door", "connect", "@sensor", "-L") as door:
        host, _, port = door.line().partition(":")
        assert host == "127.0.0.1"
        with open("/proc/net/tcp") as table, open("/proc/net/tcp6") as table6:
            listening = [line.split()[1] for line in (*table, *table6) if line.split()[3] == "0A"]
        loopback = socket.inet_aton(host)[::-1].hex().upper()
        assert [entry for entry in listening if entry.endswith(f":{int(port):04X}")] == [f"{loopback}:{int(port):04X}"]
