"""The files of an agent (agent.toml, config.json, state.json) and of a laptop (identity.json, a card, a party, grants): whatever they
say, either they can be used, or one error says which is wrong."""

import json
import os
from pathlib import Path

from fuzz.feed import folder
from fuzz.pasted import LINE
from zts import codes, identity
from zts.errors import FormatError
from zts_agent import main
from zts_agent.agent import Agent
from zts_agent.keystore import Keystore
from zts_gateway import daemon
from zts_gateway.addressbook import Book
from zts_gateway.ui import Failure

_SERVICES = {"http": {"kind": "http", "target": "zts_agent.page:page"}, "ssh": {"kind": "tcp", "target": "127.0.0.1:22"}}
_KEY = "ab" * 32
_STATE = {"name": "pi", "private": _KEY, "public": _KEY, "pairing": _KEY, "owner": _KEY, "boots": 3}
_RELAY = {
    "key": _KEY,
    "host": "relay",
    "port": 1,
    "account": "00" * 8,
    "party_key": _KEY,
    "password": "p",
    "pin": "",
    "broker": "mqtt://:1",
}
_CARD = {"name": "pi", "public": _KEY, "pairing": _KEY, "verified": True, "services": [[1, "ssh"]], "last_seen": None}
_CAVEATS = "020468747470" + "010f" + "ab" * 15
_HELD = {"id": "00" * 8, "mac_key": _KEY, "tail": _KEY, "caveats": _CAVEATS, "owner": "a" * 24}
_ISSUED = {"id": "00" * 8, "holder": "bob", "caveats": _CAVEATS, "made": "2026-01-02T03:04:05Z", "taken_back": None}
SEEDS = [
    b'\0[identity]\nstate = "s"\n[relay]\naddress = "relay:7440"\n[services.ssh]\nkind = "tcp"\ntarget = "127.0.0.1:22"\n',
    b'\0[identity]\nstate = "s"\n[services]\nweb = { kind = "handler", target = "zts_agent.page:page" }\n',
    b"\0[services]\nweb = 5\n",
    b"\1" + json.dumps({"identity": {"state": "s"}, "relay": {"address": "relay:7440"}, "services": _SERVICES}).encode(),
    b"\1" + json.dumps({"identity": {"state": "s"}, "relay": [], "services": []}).encode(),
    b"\1" + json.dumps({"identity": {"state": "s"}, "services": {"a": {"kind": [], "target": {}}}}).encode(),
    b"\2" + json.dumps(_STATE | {"relay": _RELAY}).encode(),
    b"\2" + json.dumps(_STATE | {"line": codes.format_enrol_line(LINE)}).encode(),
    b"\2" + json.dumps({"line": codes.format_enrol_line(LINE)}).encode(),
    b"\2" + json.dumps(_STATE | {"private": 5, "relay": _RELAY | {"pin": 7}}).encode(),
    b"\3" + json.dumps(_STATE | {"relay": _RELAY}).encode(),
    b"\3" + json.dumps({"name": "alice", "private": _KEY, "public": _KEY}).encode(),
    b"\4" + json.dumps(_CARD).encode(),
    b"\4" + json.dumps(_CARD | {"enrolling": {"secret": "ab" * 16, "until": 5}, "services": [[1, "ssh"], [2, 3, 4]]}).encode(),
    b"\4" + json.dumps(_CARD | {"pairing": "", "grant": _HELD, "generation": 1, "policy_seq": 2}).encode(),
    b"\5" + json.dumps({"name": "bob", "public": _KEY, "relay": "a" * 24}).encode(),
    b"\6" + json.dumps({"grants": [_ISSUED, _ISSUED | {"taken_back": "2026-01-02T03:04:05Z"}]}).encode(),
    *(bytes((kind,)) + b"a=" * (kind == 0) + b"[" * 3000 for kind in range(7)),
]


def _imports(config: object) -> bool:
    """Whether a handler names a module that we would not like to import here; mutation invents no other that exists."""
    services = config.get("services") if isinstance(config, dict) else None
    for entry in services.values() if isinstance(services, dict) else ():
        target = entry.get("target") if isinstance(entry, dict) else None
        if isinstance(target, str) and target.partition(":")[0] not in ("zts_agent.page", "zts_agent", "no_such_module"):
            return isinstance(entry.get("kind"), str) and entry["kind"] in ("handler", "http")
    return False


def one(data: bytes) -> None:
    if not data:
        return
    home = folder("config")
    match data[0] % 7:
        case 0:
            _toml(home / "agent.toml", data[1:])
        case 1:
            _json(home / "config.json", data[1:])
        case 2:
            _state(home, data[1:])
        case 3:
            _book(home, home / "identity.json", data[1:])
        case 4:
            _book(home, home / "devices" / "pi.json", data[1:])
        case 5:
            _book(home, home / "parties" / "bob.json", data[1:])
        case 6:
            _book(home, home / "grants" / "pi.json", data[1:])


def _toml(path: Path, text: bytes) -> None:
    path.write_bytes(text)
    try:
        settings = daemon.read_config(path)
        if not _imports(settings.device):
            daemon.make_agent(settings, path)
    except Failure as failure:
        assert str(path) in str(failure)


def _json(path: Path, text: bytes) -> None:
    path.write_bytes(text)
    try:
        config = main.read_config(str(path))
        if not _imports(config):
            Agent(config, Keystore(str(path.parent)))
    except FormatError:
        pass


def _book(home: Path, path: Path, text: bytes) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(text)
    path.chmod(0o600)
    book = Book(home)
    try:
        me, cards, parties, issued = book.find_identity(), book.cards(), book.parties(), book.grants("pi")
    except Failure as failure:
        assert str(path) in str(failure)
    else:
        assert me is None or len(me.private) == len(me.public) == 32
        assert all(len(card.pairing) == (0 if card.grant else 32) and len(card.public) in (0, 32) for card in cards)
        assert all(len(party.public) == 32 for party in parties)
        assert all(len(one.id) == 8 and len(one.fp) == 24 for one in issued)
    finally:
        path.unlink()


def _state(home: Path, text: bytes) -> None:
    path = home / "state.json"
    path.write_bytes(text)
    sync, os.fsync = os.fsync, lambda descriptor: None  # a disk would be the slowest part
    try:
        store = Keystore(str(home))
        store.open()
        assert all(len(key) == 32 for key in store.key_pair())
        account = store.relay()
        if account is None:
            store.join_code()
        else:
            identity.parse_broker(account.broker, account.host)
    except FormatError:
        pass
    finally:
        os.fsync = sync
