"""What people type: every mistake is one sentence, and what is right is understood."""

import os
import socket
import sys
from pathlib import Path

import pytest

from zts import codes
from zts_relay.cli import main
from zts_relay.config import Config, parse_listen, parse_public
from zts_relay.registry import Registry


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--listen", "relay.example:7440"], "ADDRESS", "not an IP address"),
        (["--listen", "127.0.0.1"], "ADDRESS", "--listen"),
        (["--mqtt", "127.0.0.1:x"], "ADDRESS", "--mqtt"),
        (["--metrics", "::1:7442"], "ADDRESS", "brackets"),
        (["--listen", "192.0.2.1:0"], "ADDRESS", "not an address of this machine"),
        (["--public", "host:7440"], "ADDRESS", "--public"),
        (["--public", ""], "ADDRESS", "--public"),
        (["--broker", "http://127.0.0.1:1883"], "BROKER", "mqtt://host:port"),
        (["--broker", "mqtt://user:pw@127.0.0.1:1883"], "BROKER", "mqtt://host:port"),
        (["--broker", "mqtt://127.0.0.1"], "BROKER", "--broker"),
        (["--broker", "mqtt://127.0.0.1:0"], "BROKER", "port 0"),
        (["--broker", ""], "BROKER", "mqtt://host:port"),
        (["--broker", "mqtt://" + "h" * 80 + ":1883"], "BROKER", "longer than 80"),
        (["--drain", "soon"], "USAGE", "--drain"),
        (["--drain", "-1"], "USAGE", "--drain"),
        (["--drain", "nan"], "USAGE", "--drain"),
        (["--wrong"], "USAGE", "--wrong"),
        (["serve"], "USAGE", "serve"),
        (["code"], "STATE", "start it first"),
        (["revoke"], "USAGE", "FP|@NAME"),
        (["revoke", "@nobody"], "PARTY", "@nobody"),
        (["revoke", "Alice"], "USAGE", "not a fingerprint"),
    ],
)
def test_a_mistake_is_one_sentence(
    tmp_path: Path, arguments: list[str], code: str, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    listen = [] if arguments[0] in ("code", "revoke") else ["--listen", "127.0.0.1:0", "--mqtt", "127.0.0.1:0", "--metrics", "127.0.0.1:0"]
    monkeypatch.setattr(sys, "argv", ["zts-relay", *listen, *arguments, "--state", str(tmp_path / "state")])
    if arguments[0] == "revoke":
        Registry(tmp_path / "state").close()
    umask = os.umask(0o022)
    try:
        with pytest.raises(SystemExit) as ended:
            main()
    finally:
        os.umask(umask)
    out, err = capsys.readouterr()
    assert ended.value.code == 2 and out == ""
    assert err.startswith(f"zts-relay: {code}: ") and words in err and err.count("\n") == 1


@pytest.mark.parametrize("text", ["relay.example", "192.0.2.1", "2001:db8::1", "[2001:db8::1]", "my_host-1"])
def test_a_public_host_fits_into_a_join_code(text: str) -> None:
    host = parse_public(text)
    code = codes.JoinCode(bytes(32), bytes(16), host, 7440)
    assert codes.parse_join_code(codes.format_join_code(code)) == code


@pytest.mark.parametrize(("listen", "host"), [("127.0.0.1:0", "127.0.0.1"), ("[::1]:0", "::1"), ("localhost:0", "127.0.0.1")])
def test_the_public_host_is_the_listening_one(listen: str, host: str) -> None:
    address = parse_listen("--listen", listen)
    assert Config(address, address, address, Path()).public_host == host
    assert Config(address, address, address, Path(), public="relay.example").public_host == "relay.example"


@pytest.mark.parametrize("listen", ["0.0.0.0:0", "[::]:0"])
def test_for_all_addresses_the_public_host_is_the_machines_name(listen: str) -> None:
    address = parse_listen("--listen", listen)
    assert Config(address, address, address, Path()).public_host == socket.gethostname()
