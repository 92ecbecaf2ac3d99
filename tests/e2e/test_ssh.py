"""OpenSSH, unchanged, through `zts connect --stdio` as its ProxyCommand."""

import hashlib
import os
import subprocess
import sys

import pytest

from lab import Lab
from whole_network import WAIT_S, commands_of, environment, until


def _ssh(lab: Lab, *remote: str, stdin: bytes = b"") -> "subprocess.CompletedProcess[bytes]":
    if lab.sshd is None:
        pytest.skip("sshd, ssh and ssh-keygen are not all installed (Debian: openssh-server)")
    command = lab.sshd.command(f"{sys.executable} -m zts_gateway.cli connect @pi:ssh --stdio", *remote)
    return subprocess.run(command, input=stdin, capture_output=True, timeout=WAIT_S, env=environment(lab.net.home))


def test_a_command_runs_and_its_exit_status_comes_back(lab: Lab) -> None:
    done = _ssh(lab, "echo over ssh; exit 23")
    assert (done.returncode, done.stdout) == (23, b"over ssh\n"), done.stderr


def test_bytes_go_both_ways_unchanged(lab: Lab) -> None:
    data = os.urandom(3_000_000)
    done = _ssh(lab, "tee /dev/stderr | sha256sum", stdin=data)
    assert done.returncode == 0, done.stderr[-300:]
    assert done.stdout.split()[0].decode() == hashlib.sha256(data).hexdigest()
    assert done.stderr == data


def test_no_process_outlives_ssh(lab: Lab) -> None:
    done = _ssh(lab, "true")
    assert done.returncode == 0, done.stderr

    until(lambda: not commands_of(lab.net.home), "the ProxyCommand ends with ssh")
