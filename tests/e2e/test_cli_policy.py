"""`zts policy edit`, `show`, `check` and `test` as an owner uses them. No relay and no device is asked."""

import os
import stat
from pathlib import Path

import pytest

from terminal import Terminal
from whole_network import failed
from zts import crypto, identity, wire
from zts.grant import Terms
from zts_gateway import granting
from zts_gateway.addressbook import Book, Card, Identity, Party
from zts_in_process import zts

RELAY = bytes(range(32))
RULES = """\
[groups]
lab = ["@bob", "@eve"]

[[rules]]
devices = ["@sensor42", "@lab-*"]
who = ["lab"]
services = ["http"]
until = 2090-12-31
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """@alice with @sensor42, @lab-1 and @lab-2, of which @bob is a member; and @far, where she is a guest."""
    book = Book(tmp_path / "home")
    private = crypto.sha256(b"alice")
    account = identity.Account(RELAY, "127.0.0.1", 1, bytes(8), bytes(32), "password", b"", "mqtt://:1")
    book.save_identity(Identity("alice", private, crypto.x25519_public(private), account))
    for name in ("bob", "eve"):
        book.save_party(Party(name, crypto.sha256(name.encode()), identity.fingerprint_text(RELAY)))
    terms = Terms(identity.fingerprint(crypto.sha256(b"bob")), True, None, 0, 0, 0, 0, False)
    for name in ("sensor42", "lab-1", "lab-2"):
        book.save_card(Card(name, crypto.sha256(name.encode()), bytes(32), True, ((wire.SERVICE_HTTP, "http"), (wire.SERVICE_TCP, "ssh"))))
        granting.issue(book, book.party("bob"), name, terms)
    book.save_card(Card("new", b"", bytes(32)))
    return book.folder


def _editor(folder: Path, *texts: str, name: str = "ed") -> str:
    """An editor that writes these texts, one each time it is started; then it changes nothing."""
    for number, text in enumerate(texts):
        (folder / f"{name}-text-{number}").write_text(text)
    script = folder / name
    script.write_text(
        f'#!/bin/sh\nn=$(cat "{script}-count" 2>/dev/null || echo 0)\necho $((n+1)) > "{script}-count"\n'
        f'[ "$1" = -w ] && shift\ncp "$1" "{script}-saw-$n"\n[ -f "{script}-text-$n" ] && cat "{script}-text-$n" > "$1"\nexit 0\n'
    )
    script.chmod(0o700)
    return str(script)


def _edit(home: Path, editor: str, **more: str):  # type: ignore[no-untyped-def]
    return zts(home, "policy", "edit", EDITOR=editor, VISUAL="", **more)


def test_the_first_edit_begins_with_a_template(home: Path, tmp_path: Path) -> None:
    assert "zts policy edit" in zts(home, "policy", "show").stderr
    done = _edit(home, _editor(tmp_path, RULES) + " -w")
    assert done.returncode == 0 and done.stdout == "" and "zts policy push" in done.stderr
    assert (tmp_path / "ed-saw-0").read_text().startswith("# Who may use which services")
    path = home / "policy.toml"
    assert path.read_text() == RULES and stat.S_IMODE(path.stat().st_mode) == 0o600
    assert zts(home, "policy", "show").stdout == RULES
    assert "@eve is no member" in done.stderr
    assert sorted(file.name for file in home.iterdir()) == [".lock", "devices", "grants", "identity.json", "parties", "policy.toml"]


def test_an_edit_that_changes_nothing(home: Path, tmp_path: Path) -> None:
    for before in (None, RULES):
        if before:
            (home / "policy.toml").write_text(before)
        done = _edit(home, _editor(tmp_path))
        assert done.returncode == 0 and done.stderr == "nothing is changed\n"
        assert (home / "policy.toml").exists() == bool(before) and not (home / "policy.draft.toml").exists()


@pytest.mark.parametrize(
    "wrong, hint",
    [
        (RULES + "colour = 1\n", "'colour'"),
        (RULES.replace("@eve", "@gone"), "@gone"),
        (RULES.replace('["http"]', str([f"s{n}" for n in range(300)])), "255"),
        ("\xff", "TOML"),
    ],
)
def test_what_is_wrong_changes_nothing_and_is_not_lost(home: Path, tmp_path: Path, wrong: str, hint: str) -> None:
    (home / "policy.toml").write_text(RULES)
    last = failed(_edit(home, _editor(tmp_path, wrong)), 2)
    assert hint in last and "policy.draft.toml" in last
    assert (home / "policy.toml").read_text() == RULES
    better = RULES.replace("2090", "2091")
    done = _edit(home, _editor(tmp_path, better, name="again"))
    assert done.returncode == 0 and "going on with" in done.stderr
    assert (tmp_path / "again-saw-0").read_text() == wrong
    assert (home / "policy.toml").read_text() == better and not (home / "policy.draft.toml").exists()


def test_no_text_is_refused(home: Path, tmp_path: Path) -> None:
    script = tmp_path / "ed"
    script.write_text("#!/bin/sh\nprintf '\\377' > \"$1\"\n")
    script.chmod(0o700)
    assert "UTF-8" in failed(_edit(home, str(script)), 2)
    assert not (home / "policy.toml").exists()


def test_a_change_meanwhile_is_not_overwritten(home: Path, tmp_path: Path) -> None:
    (home / "policy.toml").write_text(RULES)
    script = tmp_path / "ed"
    script.write_text(f'#!/bin/sh\nsed -i s/2090/2091/ "$1"\nsed -i s/2090/2092/ "{home}/policy.toml"\n')
    script.chmod(0o700)
    assert "meanwhile" in failed(_edit(home, str(script)), 2)
    assert "2092" in (home / "policy.toml").read_text() and "2091" in (home / "policy.draft.toml").read_text()


@pytest.mark.parametrize(
    "editor, hint", [("false", "ended with 1"), ("/no/such/editor", "cannot run"), ("'", "no command"), ("", "EDITOR")]
)
def test_an_editor_that_fails(home: Path, tmp_path: Path, editor: str, hint: str) -> None:
    assert hint in failed(_edit(home, editor, PATH=os.environ["PATH"] if editor else str(tmp_path)), 2)
    assert not (home / "policy.toml").exists()


def test_at_a_terminal_it_asks_again(home: Path, tmp_path: Path) -> None:
    editor = _editor(tmp_path, "rubbish", RULES.replace("http", "HTTP"), RULES)
    with Terminal(home, "policy", "edit", VISUAL=editor) as edit:
        edit.wait_for("no TOML")
        edit.wait_for("[Y/n]")
        edit.type("")
        edit.wait_for("rule 1 (line 4)")
        edit.wait_for("[Y/n]")
        edit.type("y")
        assert edit.end() == 0, edit.said
    assert (home / "policy.toml").read_text() == RULES
    with Terminal(home, "policy", "edit", VISUAL=_editor(tmp_path, "rubbish", name="other")) as edit:
        edit.wait_for("[Y/n]")
        edit.type("n")
        assert edit.end() == 2 and "policy.draft.toml" in edit.said
    assert (home / "policy.toml").read_text() == RULES


def test_show(home: Path) -> None:
    (home / "policy.toml").write_text(RULES)
    done = zts(home, "policy", "show", "@lab-*")
    assert done.returncode == 0
    heads = [line for line in done.stdout.splitlines() if not line.startswith(" ")]
    assert heads == ["@lab-1", "@lab-2"]
    assert done.stdout.count("rule 1 (line 4): lab: http; until 2091-01-01 00:00 ") == 2
    for wanted, hint in (("@ghost", "@sensor42"), ("@x-*", "@lab-1"), ("@new", "@lab-1"), ("@Lab-*", "no name"), ("@**", "more than one")):
        assert hint in failed(zts(home, "policy", "show", wanted), 2)


def test_check(home: Path) -> None:
    done = zts(home, "policy", "check")
    assert done.returncode == 0 and done.stderr == ""
    assert done.stdout.count("you: everything") == 3 and "@bob, by grant" in done.stdout and ": nothing" in done.stdout
    (home / "policy.toml").write_text(RULES + '[[rules]]\ndevices = ["@ghost"]\nwho = ["@gone"]\nservices = "*"\n')
    done = zts(home, "policy", "check")
    assert done.returncode == 0
    assert done.stdout.count(": http, until 2091-01-01 00:00 ") == 3
    assert [line.split(": ")[0] for line in done.stderr.splitlines()] == ["warning"] * 3  # @eve, @ghost, @gone
    (home / "policy.toml").write_text("rubbish")
    assert "zts policy edit" in failed(zts(home, "policy", "check"), 2)


def test_test(home: Path) -> None:
    (home / "policy.toml").write_text(RULES)

    def asked(*arguments: str, code: int = 0) -> str:
        done = zts(home, "policy", "test", *arguments)
        if code:
            last = failed(done, code)
            assert done.stdout.startswith("no: ") and done.stdout[4:].strip() in last
        else:
            assert done.returncode == 0 and done.stdout.startswith("yes: "), done.stderr
        return done.stdout

    assert "rule 1 (line 4)" in asked("@bob", "@sensor42:http")
    assert "owner" in asked("@alice", "@lab-1:ssh")
    assert "no rule" in asked("@bob", "@sensor42:ssh", code=5)
    assert "holds no grant" in asked("@eve", "@sensor42:http", code=5)
    asked("@bob", "@lab-2:http", "--at", "2090-12-31T23:59")
    assert "held until 2091-01-01 00:00" in asked("@bob", "@lab-2:http", "--at", "2091-01-01T00:00", code=5)
    assert "named no service new" in zts(home, "policy", "test", "@bob", "@lab-1:new").stderr
    for arguments, hint in (
        (("@ghost", "@lab-1:http"), "zts card"),
        (("@bob", "@ghost:http"), "@ghost"),
        (("@bob", "@new:http"), "not enrolled"),
        (("@bob", "@lab-1"), "@lab-1:http"),
        (("@bob", "@lab-1:"), "name"),
        (("@bob", "@lab-1:zts-status"), "owner's alone"),
        (("@bob", "@lab-1:http", "--at", "2026-12-01"), "2026-12-31T09:00"),
        (("@bob", "@lab-1:http", "--at", "soon"), "2026-12-31T09:00"),
    ):
        assert hint in failed(zts(home, "policy", "test", *arguments), 2)


def test_usage(home: Path) -> None:
    for arguments in ((), ("edti",), ("test",), ("show", "a", "b"), ("check", "--jso")):
        assert "--help" in failed(zts(home, "policy", *arguments), 2)
    for arguments in (("--help",), ("test", "--help")):
        assert zts(home, "policy", *arguments).returncode == 0
