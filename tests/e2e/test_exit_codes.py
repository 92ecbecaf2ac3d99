"""Each way to fail has its exit code, and one last sentence that a person can act on."""

import os
import pty
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lab import Lab, rude
from relay_process import RelayProcess
from targets import Target
from whole_network import WAIT_S, Running, environment, failed, free_port, network, until, zts
from zts import codes, identity


def _join(home: Path, code: str) -> "subprocess.CompletedProcess[str]":
    return zts(home, "join", "--name", "@bob", "--code-file", "-", stdin=code + "\n")


# --- 2: usage and configuration ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("conect",),
        ("connect",),
        ("connect", "@pi", "-L", "70000"),
        ("connect", "@pi", "--stdio", "-L"),
        ("connect", "@Pi"),
        ("connect", "@pi:"),
        ("join",),
        ("join", "--name", "Alice", "--code-file", "-"),
        ("join", "--name", "@bob", "zts1:a-code-that-everybody-on-this-machine-can-read@localhost:1"),
        ("enroll", "p i"),
        ("ls", "--jso"),
        ("agent",),
    ],
)
def test_usage(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    failed(zts(tmp_path, *arguments), 2)


def test_before_joining(tmp_path: Path) -> None:
    for arguments in (("ls",), ("whoami",), ("enroll", "@pi")):
        assert "zts join" in failed(zts(tmp_path, *arguments), 2)
    assert "zts enroll @pi" in failed(zts(tmp_path, "connect", "@pi"), 2)


def test_no_terminal_to_ask_for_the_code(tmp_path: Path) -> None:
    assert "--code-file" in failed(zts(tmp_path, "join", "--name", "@bob"), 2)
    assert "--code-file" in failed(zts(tmp_path, "join", "--name", "@bob", "--code-file", str(tmp_path / "none")), 2)


def test_unknown_device_and_service_not_named(lab: Lab) -> None:
    assert "@pi, @sensor" in failed(lab.net.zts("connect", "@ghost"), 2)
    last = failed(lab.net.zts("connect", "@pi", "--stdio"), 2)
    assert "digest" in last and "early" in last and "page" in last


def test_port_in_use(lab: Lab) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert str(port) in failed(lab.net.zts("connect", "@sensor", "-L", str(port)), 2)


@pytest.mark.parametrize(
    "text, hint",
    [
        (b"", "state"),
        (b"[identity\n", "line 1"),
        (b"\xff\xfe", "utf-8"),
        (b"[identity]\nstate = 3\n", "state"),
        (b'[identity]\nstate = "s"\nprivate = "x"\n', "only state"),
        (b'services = 1\n[identity]\nstate = "s"\n', "services"),
        (b'[identity]\nstate = "s"\n[servces.x]\n', "servces"),
        (b'[identity]\nstate = "s"\n[relay]\naddress = "nowhere"\n', "nowhere"),
        (b'[identity]\nstate = "s"\n[services.x]\nkind = "udp"\ntarget = "127.0.0.1:1"\n', "services.x"),
        (b'[identity]\nstate = "s"\n[services.x]\nkind = "tcp"\ntarget = "127.0.0.1"\n', "services.x"),
        (b'[identity]\nstate = "s"\n[services.x]\nkind = "handler"\ntarget = "nothing_there:f"\n', "nothing_there"),
    ],
)
def test_broken_configuration_of_the_agent(tmp_path: Path, text: bytes, hint: str) -> None:
    config = tmp_path / "agent.toml"
    config.write_bytes(text)
    last = failed(zts(tmp_path, "agent", "--config", str(config)), 2)
    assert str(config) in last and hint in last


def test_agent_without_file_or_line(tmp_path: Path) -> None:
    failed(zts(tmp_path, "agent", "--config", str(tmp_path / "none.toml")), 2)
    config = tmp_path / "agent.toml"
    config.write_text('[identity]\nstate = "state"\n')
    assert "--join" in failed(zts(tmp_path, "agent", "--config", str(config)), 2)


# --- 3: relay or broker unreachable ------------------------------------------------------------------------------------------


def test_relay_down(tmp_path: Path) -> None:
    code = codes.JoinCode(bytes(range(32)), bytes(16), "127.0.0.1", free_port())
    assert "127.0.0.1" in failed(_join(tmp_path, codes.format_join_code(code)), 3)


def test_relay_gone_after_joining(tmp_path: Path) -> None:
    with RelayProcess(tmp_path / "relay") as relay:
        assert relay.join
        assert _join(tmp_path / "home", relay.join).returncode == 0
    for arguments in (("ls",), ("enroll", "@pi")):
        failed(zts(tmp_path / "home", *arguments), 3)


# --- 4: device offline -------------------------------------------------------------------------------------------------------


def test_device_offline(lab: Lab) -> None:
    net = lab.net
    with net.linux_device("away", {"page": ("http", "zts_agent.page:page")}) as away:
        away.kill()
        until(lambda: not net.listed("away")["online"], "the broker says the will")
        for how in ("--stdio", "-L"):
            assert "@away" in failed(net.zts("connect", "@away", how), 4)
        row = net.listed("away")
        assert row["verified"] and row["last_seen"] and row["services"] == [{"name": "page", "kind": "http"}]


def test_device_that_does_not_answer(lab: Lab) -> None:
    """It hangs, and the broker does not know yet. No other broker would change that, so once is enough."""
    net = lab.net
    if net.broker != "embedded":
        pytest.skip("takes 15 s, and was tested with the embedded broker")
    with net.linux_device("hung", {"page": ("http", "zts_agent.page:page")}) as hung:
        hung.running.process.send_signal(signal.SIGSTOP)
        try:
            assert "does not answer" in failed(net.zts("connect", "@hung", "--stdio"), 4)
        finally:
            hung.running.process.send_signal(signal.SIGCONT)


# --- 5, 6, 9: the service ------------------------------------------------------------------------------------------------------


def test_service_not_there(lab: Lab) -> None:
    for how in ("--stdio", "-L"):
        last = failed(lab.net.zts("connect", "@pi:nothing", how), 5)
        assert "digest" in last and "nothing" in last


def test_revoked(tmp_path: Path) -> None:
    for broker in ("embedded", "mosquitto"):
        with network(tmp_path / broker, broker) as net:
            net.relay.run("revoke", "@alice")

            def refused(net=net) -> bool:  # type: ignore[no-untyped-def]
                return net.zts("ls").returncode == 5

            until(refused, "the relay and its broker know of it")
            assert "revoked" in failed(net.zts("ls"), 5)
            assert "revoked" in failed(net.zts("enroll", "@pi"), 5)


def test_target_down(lab: Lab) -> None:
    assert "target" in failed(lab.net.zts("connect", "@pi:down", "--stdio"), 6)


def test_target_down_behind_a_door(lab: Lab) -> None:
    """The connection is reset, not ended, and the door stays."""
    with lab.net.run("down-door", "connect", "@pi:down", "-L") as door:
        host, port = identity.split_address(door.line())
        for _ in range(2):
            with socket.create_connection((host, port)) as sock, pytest.raises(ConnectionResetError):
                sock.settimeout(60)
                sock.recv(1)
        door.said("target")
        assert door.process.poll() is None


def test_target_breaks_off(lab: Lab) -> None:
    done = lab.net.zts("connect", "@pi:rude", "--stdio", stdin="x")
    failed(done, 9)
    assert done.stdout == "no!"


def test_device_dies_in_the_middle(lab: Lab) -> None:
    net = lab.net
    with Target(rude) as target, net.linux_device("brief", {"rude": ("tcp", target.address)}) as brief:
        command = [sys.executable, "-m", "zts_gateway.cli", "connect", "@brief", "--stdio"]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        with subprocess.Popen(command, **pipes, env=environment(net.home)) as connect:  # type: ignore[call-overload]
            assert connect.stdout.read(3) == b"no!"
            brief.kill()
            err = connect.stderr.read()
            assert connect.wait(WAIT_S) == 9
            assert err.splitlines()[-1].startswith(b"zts: 9: "), err


# --- 7: join codes -----------------------------------------------------------------------------------------------------------


def test_join_codes(tmp_path: Path) -> None:
    with RelayProcess(tmp_path / "relay") as relay:
        good = relay.join
        assert good
        code = codes.parse_join_code(good)
        for wrong in (
            "",
            "hello",
            good[:40],
            good[:-3] + "x",
            good.replace("zts1:", "zts1d:"),
            codes.format_join_code(code._replace(secret=bytes(16))),
            codes.format_join_code(code._replace(relay_key=bytes(31) + b"\x09")),
        ):
            assert "code" in failed(_join(tmp_path / "wrong", wrong), 7)
        assert _join(tmp_path / "home", good).returncode == 0
        assert "used" in failed(_join(tmp_path / "second", good), 7)

        late = relay.new_code()
        with sqlite3.connect(relay.state / "registry.sqlite", timeout=30) as registry:
            registry.execute("UPDATE codes SET expires = ? WHERE used_by IS NULL", (int(time.time()) - 1,))
        registry.close()
        assert "expired" in failed(_join(tmp_path / "late", late), 7)

        # A refused one leaves nothing that stands in the way of a good one.
        assert _join(tmp_path / "late", relay.new_code()).returncode == 0


def test_an_agent_with_a_join_code_or_a_used_line(lab: Lab, tmp_path: Path) -> None:
    config = tmp_path / "agent.toml"
    config.write_text('[identity]\nstate = "state"\n')
    options = ("agent", "--config", str(config), "--join", "--code-file", "-")
    for line in ("", "hello", lab.net.relay.new_code()):
        failed(zts(tmp_path, *options, stdin=line + "\n"), 7)
    with Running(lab.net.home, tmp_path / "enroll", "enroll", "@twice") as enrolment:
        line = enrolment.line()
        with Running(tmp_path, tmp_path / "first", *options, stdin=line) as first:
            assert enrolment.process.wait(WAIT_S) == 0, enrolment.err
            config.write_text('[identity]\nstate = "other"\n')
            assert "zts enroll" in failed(zts(tmp_path, *options, stdin=line), 7)
            assert first.process.poll() is None


# --- 8: duplicate identity ---------------------------------------------------------------------------------------------------


def test_two_agents_with_one_identity(lab: Lab, tmp_path: Path) -> None:
    with lab.net.linux_device("twin", {}) as twin:
        other = Running(tmp_path, tmp_path / "other", "agent", "--config", str(twin.config))
        with other:
            until(lambda: other.process.poll() is not None or twin.running.process.poll() is not None, "one of them gives up")
            loser = other if other.process.poll() is not None else twin.running
            assert loser.process.returncode == 8
            assert loser.err.splitlines()[-1].startswith("zts: 8: ")


# --- 130: Ctrl-C -------------------------------------------------------------------------------------------------------------


def test_ctrl_c(lab: Lab) -> None:
    with lab.net.run("ctrl-c-enroll", "enroll", "@never") as enrolment:
        enrolment.line()
        assert enrolment.interrupt() == 130
        assert enrolment.err.splitlines()[-1] == "zts: 130: interrupted"


def test_ctrl_c_at_the_prompt(tmp_path: Path) -> None:
    """On a terminal: the code is asked for and not shown."""
    main, terminal = pty.openpty()
    command = [sys.executable, "-m", "zts_gateway.cli", "join", "--name", "@bob"]
    with subprocess.Popen(
        command,
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        env=environment(tmp_path),
        start_new_session=True,
        preexec_fn=_own_terminal,
    ) as join:
        os.close(terminal)
        said = b""
        while b"join code" not in said:
            said += os.read(main, 100)
        os.write(main, b"zts1:secret\x03")
        while b"zts: 130: interrupted" not in said:
            said += os.read(main, 100)
        assert b"secret" not in said
        assert join.wait(WAIT_S) == 130
    os.close(main)


def _own_terminal() -> None:
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
