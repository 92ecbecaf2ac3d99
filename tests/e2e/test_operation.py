"""OPERATION.md and the systemd units: the commands do what is said, and the programs keep to what the units allow."""

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from relay_process import RelayProcess
from whole_network import WAIT_S, Running, environment, failed, network, until, zts

ROOT = Path(__file__).parents[2]
OPERATION = (ROOT / "OPERATION.md").read_text()
UNITS = [ROOT / "relay" / name for name in ("zts-relay.service", "zts-relay-mosquitto.path", "zts-relay-mosquitto.service")]
UNITS.append(ROOT / "firmware" / "zts-agent.service")
SERVICES = {"zts-relay": UNITS[0], "zts-agent": UNITS[3]}
ANALYZE = shutil.which("systemd-analyze")
STRACE = shutil.which("strace")
needs_analyze = pytest.mark.skipif(ANALYZE is None, reason="systemd-analyze is not here; on Debian, apt-get install systemd")
needs_strace = pytest.mark.skipif(STRACE is None, reason="strace is not here; on Debian, apt-get install strace")


# --- backup and restore --------------------------------------------------------------------------------------------------


def _backup(state: Path, backup: Path) -> None:
    """As OPERATION.md says, word by word."""
    (block,) = [block for block in re.findall(r"```\n(.*?)```", OPERATION, re.DOTALL) if ".backup" in block]
    script = block.replace("STATE", str(state)).replace("BACKUP", str(backup))
    subprocess.run(["sh", "-eu", "-c", script], check=True, timeout=WAIT_S)


@pytest.mark.skipif(shutil.which("sqlite3") is None, reason="the program sqlite3 is not here; on Debian, apt-get install sqlite3")
def test_a_relay_is_backed_up_while_it_runs_and_restored(tmp_path: Path) -> None:
    home, backup = tmp_path / "home", tmp_path / "backup"
    with RelayProcess(tmp_path / "relay") as relay:
        assert relay.join and relay.mqtt
        address = ["--listen", f"127.0.0.1:{relay.leg[1]}", "--mqtt", f"127.0.0.1:{relay.mqtt[1]}"]
        assert zts(home, "join", "--name", "@alice", "--code-file", "-", stdin=relay.join).returncode == 0
        _backup(relay.state, backup)
        late = relay.new_code()
        assert zts(tmp_path / "late", "join", "--name", "@late", "--code-file", "-", stdin=late).returncode == 0
    assert {path.name for path in backup.iterdir()} == {"relay.key", "relay.secret", "cert.pem", "key.pem", "registry.sqlite"}
    assert all(path.stat().st_mode & 0o077 == 0 for path in [backup, *backup.iterdir()])
    shutil.rmtree(tmp_path / "relay")
    shutil.copytree(backup, tmp_path / "relay")
    with RelayProcess(tmp_path / "relay", *address) as again:
        assert again.fp == relay.fp and again.join is None
        assert zts(home, "ls").returncode == 0
        assert "@alice" in again.run("parties").stdout and "@late" not in again.run("parties").stdout
        failed(zts(tmp_path / "late", "ls"), 7)


def test_an_agents_state_moves_with_its_file(tmp_path: Path) -> None:
    with network(tmp_path / "net", "embedded") as net, net.linux_device("pi", {"page": ("handler", "zts_agent.page:page")}) as pi:
        shutil.copyfile(pi.folder / "state" / "state.json", tmp_path / "state.json")
        pi.kill()
        shutil.rmtree(pi.folder / "state")
        (pi.folder / "state").mkdir(mode=0o700)
        shutil.copyfile(tmp_path / "state.json", pi.folder / "state" / "state.json")
        (pi.folder / "state" / "state.json").chmod(0o600)
        pi.start()
        pi.running.said('"online"')
        assert net.zts("status", "@pi").returncode == 0


# --- the units -----------------------------------------------------------------------------------------------------------


@needs_analyze
def test_the_units_verify(tmp_path: Path) -> None:
    """With programs in the place of ours, which are not installed here; the same check refuses a unit with a mistake in it."""
    (tmp_path / "true").symlink_to("/bin/true")
    (tmp_path / "mosquitto.service").write_text("[Service]\nExecStart=/bin/true\nExecReload=/bin/true\n")
    for unit in UNITS:
        (tmp_path / unit.name).write_text(re.sub(r"(?m)^ExecStart=\S+", f"ExecStart={tmp_path / 'true'}", unit.read_text()))
    command = [str(ANALYZE), "verify", "--recursive-errors=yes", "--man=no"]
    done = subprocess.run([*command, *(str(tmp_path / unit.name) for unit in UNITS)], capture_output=True, text=True, timeout=WAIT_S)
    assert done.returncode == 0 and not _about(done.stderr), done.stderr
    bad = tmp_path / "bad.service"
    bad.write_text((tmp_path / UNITS[0].name).read_text().replace("[Service]", "[Service]\nProtectEverything=yes"))
    done = subprocess.run([*command, str(bad)], capture_output=True, text=True, timeout=WAIT_S)
    assert _about(done.stderr)


def _about(said: str) -> list[str]:
    """What was said about our units; the machine's own may be worth a word too."""
    return [line for line in said.splitlines() if "zts-" in line or "bad.service" in line]


@needs_analyze
@pytest.mark.parametrize("name", SERVICES)
def test_exposure_is_what_the_documentation_says(name: str, tmp_path: Path) -> None:
    unit = SERVICES[name]
    done = subprocess.run(
        [str(ANALYZE), "security", "--offline=yes", "--no-pager", str(unit)], capture_output=True, text=True, timeout=WAIT_S
    )
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)
    assert found, done.stdout + done.stderr
    said = re.search(rf"`[a-z]+/{name}\.service` ([0-9.]+)", OPERATION)
    assert said
    print(f"{unit.name}: exposure {found[1]}")
    # Other versions of systemd weigh differently.
    assert float(found[1]) <= float(said[1]) + 0.5


def _allowed(unit: Path) -> set[str]:
    """The system calls that a unit allows: SystemCallFilter=, groups taken apart."""
    allowed: set[str] = _group("@default")
    for line in re.findall(r"(?m)^SystemCallFilter=(.+)$", unit.read_text()):
        names = {name for word in line.removeprefix("~").split() for name in (_group(word) if word.startswith("@") else {word})}
        allowed = allowed - names if line.startswith("~") else allowed | names
    return allowed


def _group(name: str) -> set[str]:
    done = subprocess.run([str(ANALYZE), "syscall-filter", name], capture_output=True, text=True, timeout=WAIT_S, check=True)
    words = [line.strip() for line in done.stdout.splitlines()[1:]]
    found: set[str] = set()
    for word in words:
        if word.startswith("@"):
            found |= _group(word)
        elif word and not word.startswith("#"):
            found.add(word)
    return found


def _outside(trace: Path, unit: Path) -> set[str]:
    """What a traced program did that its unit forbids."""
    calls = trace.read_text(errors="replace")
    # The tracer shows the program's own exec; systemd's comes before the filter.
    used = set(re.findall(r"(?m)^(?:\d+ +)?([a-z0-9_]+)\(", calls))
    assert {"epoll_wait", "execve"} & used and len(used) > 20, calls[-500:]
    found = used - _allowed(unit)
    if os.geteuid() == 0:
        found.discard("fchown")  # SQLite gives its side files the database's owner, which only root can
    if re.search(r"mmap\([^)]*PROT_WRITE\|PROT_EXEC|mprotect\([^)]*PROT_EXEC|pkey_mprotect\(", calls):
        found.add("memory that is writable and executable")
    families = set(re.findall(r"socket\((AF_[A-Z0-9]+)", calls)) - {"AF_INET", "AF_INET6", "AF_UNIX"}
    return found | families


@needs_analyze
@needs_strace
def test_the_programs_keep_to_what_their_units_allow(tmp_path: Path) -> None:
    """A relay and an agent, traced from start to end through enrolling, a session and a revocation."""
    traces = {name: tmp_path / f"{name}.trace" for name in SERVICES}
    # -D: the tracer is the child, so that signals reach the program.
    strace = (str(STRACE), "-D", "-f", "-q", "-s", "0", "-e", "signal=none", "-o")
    if subprocess.run([*strace, os.devnull, "true"], capture_output=True).returncode:
        pytest.skip("strace may not trace here")
    with network(tmp_path / "net", "embedded", under=(*strace, str(traces["zts-relay"]))) as net:
        folder = tmp_path / "pi"
        folder.mkdir()
        (folder / "agent.toml").write_text(
            '[identity]\nstate = "state"\n[services.page]\nkind = "handler"\ntarget = "zts_agent.page:page"\n'
        )
        with net.run("enroll", "enroll", "@pi") as enrolment:
            (folder / "line").write_text(enrolment.line() + "\n")
            command = [*strace, str(traces["zts-agent"]), sys.executable, "-m", "zts_gateway.cli", "agent", "--join"]
            options = ["--config", str(folder / "agent.toml"), "--code-file", str(folder / "line")]
            with (folder / "err").open("wb") as err:
                agent = subprocess.Popen([*command, *options], stdout=err, stderr=err, env=environment(folder), start_new_session=True)
            try:
                assert enrolment.process.wait(WAIT_S) == 0, enrolment.err
                assert net.zts("doctor", "@pi").returncode == 0
                assert net.zts("status", "@pi").returncode == 0
                net.relay.run("revoke", "@pi")
                assert agent.wait(WAIT_S) == 5, (folder / "err").read_text()
            finally:
                if agent.poll() is None:
                    os.killpg(agent.pid, signal.SIGKILL)
                    agent.wait()
    for name, trace in traces.items():
        until(lambda trace=trace: "+++ exited with" in trace.read_text(errors="replace")[-200:], "the tracer has written all")  # type: ignore[misc]
        assert not _outside(trace, SERVICES[name]), name
    # The search finds what is forbidden.
    traces["zts-relay"].write_text(traces["zts-relay"].read_text() + "1 reboot(1)\n1 socket(AF_PACKET, SOCK_RAW, 0) = 3\n")
    assert _outside(traces["zts-relay"], SERVICES["zts-relay"]) == {"reboot", "AF_PACKET"}


def test_the_documents_name_files_that_are_there() -> None:
    for name in re.findall(r"\b(?:relay|firmware|tests)/[\w./-]+\.(?:service|path|py)", OPERATION):
        assert (ROOT / name).is_file(), name


def test_an_agent_ends_on_sigterm(tmp_path: Path) -> None:
    """As systemd stops it: at once, and with the code that systemd takes for an orderly end."""
    with network(tmp_path / "net", "embedded") as net, net.linux_device("pi", {}) as pi:
        running: Running = pi.running
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(WAIT_S) == 128 + signal.SIGTERM
