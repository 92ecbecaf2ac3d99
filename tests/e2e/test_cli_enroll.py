"""`zts join`, `zts enroll`, `zts ls` and `zts whoami` as a person uses them."""

import json
import re
import stat
from pathlib import Path

from lab import Lab
from whole_network import Running, failed, zts

RFC3339 = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"


def test_a_second_join_is_refused(lab: Lab) -> None:
    code = lab.net.relay.new_code()
    last = failed(lab.net.zts("join", "--name", "@carol", "--code-file", "-", stdin=code), 2)
    assert "@alice" in last and "ZTS_HOME" in last
    # It was not spent.
    code_file = lab.net.folder / "code"
    code_file.write_text(code + "\n")
    home = lab.net.folder / "carol"
    assert zts(home, "join", "--name", "carol", "--code-file", str(code_file)).returncode == 0
    assert json.loads(zts(home, "whoami", "--json").stdout)["name"] == "carol"


def test_files_are_for_their_owner_only(lab: Lab) -> None:
    home = lab.net.home
    assert {path.name for path in home.iterdir()} == {".lock", "devices", "identity.json"}
    for path in (home, *home.rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
    (home / "identity.json").chmod(0o644)
    try:
        assert "chmod 600" in failed(lab.net.zts("whoami"), 2)
    finally:
        (home / "identity.json").chmod(0o600)


def test_ls(lab: Lab) -> None:
    done = lab.net.zts("ls", "--json")
    rows = {row["name"]: row for row in json.loads(done.stdout)}
    for name, services in (("sensor", [{"name": "http", "kind": "http"}]), ("pi", None)):
        row = rows[name]
        assert set(row) == {"name", "fp", "online", "last_seen", "verified", "services", "grant"}
        assert row["online"] is True and row["verified"] is True and row["grant"] is None
        assert re.fullmatch(RFC3339, row["last_seen"])
        assert re.fullmatch("[a-z2-7]{24}", row["fp"])
        if services:
            assert row["services"] == services
    table = lab.net.zts("ls")
    assert re.search(rf"@sensor +online +{RFC3339} +http", table.stdout), table.stdout
    assert done.stderr == table.stderr == ""


def test_an_interrupted_enrolment_goes_on(lab: Lab) -> None:
    net = lab.net
    with net.run("patient-1", "enroll", "@patient") as first:
        line = first.line()
        assert first.out == line + "\n" and line.startswith("zts1d:") and line.endswith("/patient")
        assert line not in first.err
        assert first.interrupt() == 130
    row = net.listed("patient")
    assert (row["fp"], row["online"], row["last_seen"], row["verified"], row["services"]) == (None, False, None, False, [])
    assert "zts enroll @patient" in failed(net.zts("connect", "@patient"), 2)

    config = net.folder / "patient.toml"
    config.write_text('[identity]\nstate = "patient-state"\n[services.page]\nkind = "http"\ntarget = "zts_agent.page:page"\n')
    options = ("agent", "--config", str(config), "--join", "--code-file", "-")
    with Running(net.folder / "no-home", net.folder / "patient-agent", *options, stdin=line) as agent:
        agent.said('"enrolled"')  # while nobody waits for it
        with net.run("patient-2", "enroll", "@patient") as second:
            assert second.line() == line
            assert second.process.wait(90) == 0, second.err
        assert net.listed("patient")["verified"]
        assert "enrolled already" in failed(net.zts("enroll", "@patient"), 2)
        # A second agent with the same line is another device: its line is used.
        config.write_text('[identity]\nstate = "thief"\n')
        failed(zts(net.folder / "no-home", *options, stdin=line), 7)


def test_whoami(lab: Lab) -> None:
    about = json.loads(lab.net.zts("whoami", "--json").stdout)
    assert about["relay_fp"] == lab.net.relay.fp
    assert lab.net.zts("whoami").stdout.startswith(f"@alice {about['fp']} at 127.0.0.1:")


def test_help_lists_the_exit_codes(tmp_path: Path) -> None:
    for arguments in (("--help",), ("connect", "--help"), ("join", "--help")):
        done = zts(tmp_path, *arguments)
        assert done.returncode == 0
        for code in (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 130):
            assert re.search(rf"^ *{code}  ", done.stdout, re.M), (arguments, code)
    assert zts(tmp_path, "version").stdout == zts(tmp_path, "--version").stdout
