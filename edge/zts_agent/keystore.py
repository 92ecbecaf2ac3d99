"""What a device remembers: one JSON file, replaced as a whole.

Before enrolment it holds `line`, the enrolment line; then `name private public pairing owner boots`, and once a relay
enrolled it, `relay` in place of `line`. Keys are hexadecimal.
"""

import errno
import json
from binascii import hexlify, unhexlify

from zts import crypto, identity, wire
from zts.errors import FormatError

from . import board

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_KEYS = ("private", "public", "pairing", "owner")
# As identity.Account orders them.
_RELAY = (
    ("key", str),
    ("host", str),
    ("port", int),
    ("account", str),
    ("party_key", str),
    ("password", str),
    ("pin", str),
    ("broker", str),
)
_RELAY_HEX = ("key", "account", "party_key", "pin")


class Keystore:
    """The state in `folder`, which is made if it is not there."""

    def __init__(self, folder: str) -> None:
        self.path = folder.rstrip("/") + "/state.json"
        self._folder = folder
        self.state: dict[str, Any] = {}

    def adopt(self, line: str) -> None:
        """Begins with an enrolment line. Raises FormatError: not a line, or already enrolled."""
        enrol_line = identity.parse_enrol_line(line)
        try:
            self._read()
        except OSError:
            self.state = {"boots": 0}
        if "relay" in self.state:
            raise FormatError(f"{self.path}: this device is enrolled already; remove the file to enrol it anew")
        self.state["line"] = line.strip()
        self.state["name"] = enrol_line.name
        for key in ("pairing", "owner"):
            self.state.pop(key, None)
        board.make_folder(self._folder)
        self._save()

    def open(self) -> None:
        """Reads the state, counts and saves this boot, and only then has random bytes drawn: the key pair, if there is none.

        Raises FormatError when the file is missing or of no use.
        """
        try:
            self._read()
        except OSError as error:
            if error.errno == errno.ENOENT:
                raise FormatError(f"{self.path} is not there: this device has no enrolment line yet")
            raise
        state = self.state
        state["boots"] = state.get("boots", 0) + 1
        if "line" in state and "pairing" not in state:
            line = identity.parse_enrol_line(state["line"])
            state["name"] = line.name
            state["pairing"] = _hex(line.pairing)
            state["owner"] = _hex(line.owner_key)
        self._save()
        # Both are secrets that no earlier boot and no other device mixed with this number.
        crypto.add_entropy(self.key("private") + self.key("pairing") + str(state["boots"]).encode())
        if "private" not in state:
            private = crypto.random_bytes(wire.KEY_BYTES)
            state["private"] = _hex(private)
            state["public"] = _hex(crypto.x25519_public(private))
            self._save()
        self._check()

    def _read(self) -> None:
        try:
            with open(self.path) as file:
                state = json.load(file)
        except (ValueError, RuntimeError):  # RuntimeError: nested too deeply
            raise FormatError(f"{self.path} is not JSON")
        if not isinstance(state, dict) or not isinstance(state.get("boots", 0), int) or not isinstance(state.get("line", ""), str):
            raise FormatError(f"{self.path} is not the state of a device")
        self.state = state

    def _save(self) -> None:
        board.replace_file(self.path, json.dumps(self.state))

    def _check(self) -> None:
        state = self.state
        for key in _KEYS:
            if len(self.key(key)) != wire.KEY_BYTES:
                raise FormatError(f"{self.path}: '{key}' is not a key")
        if not isinstance(state.get("name"), str):
            raise FormatError(f"{self.path}: 'name' is not a name")
        if "relay" in state:
            relay = state["relay"]
            whole = isinstance(relay, dict) and all(isinstance(relay.get(field), kind) for field, kind in _RELAY)
            try:
                self.relay()
            except (ValueError, TypeError, KeyError):
                whole = False
            if not whole:
                raise FormatError(f"{self.path}: 'relay' is not whole")
        elif "line" not in state:
            raise FormatError(f"{self.path} has neither a relay nor an enrolment line")

    def key(self, name: str) -> bytes:
        """The key of that name; b"" when it is not there or not hexadecimal."""
        try:
            return unhexlify(self.state.get(name, ""))
        except (ValueError, TypeError):
            return b""

    def key_pair(self) -> "tuple[bytes, bytes]":
        """(private, public)."""
        return self.key("private"), self.key("public")

    def join_code(self) -> identity.JoinCode:
        """The part of the enrolment line that is for the relay. Raises FormatError."""
        code: identity.JoinCode = identity.parse_enrol_line(self.state["line"]).code
        return code

    def relay(self) -> "identity.Account | None":
        """Where this device is enrolled, or None: not yet."""
        relay = self.state.get("relay")
        if relay is None:
            return None
        return identity.Account(*[unhexlify(relay[field]) if field in _RELAY_HEX else relay[field] for field, _ in _RELAY])

    def enrolled(self, account: identity.Account) -> None:
        """Remembers the account; the enrolment line has served."""
        self.state["relay"] = {field: _hex(value) if field in _RELAY_HEX else value for (field, _), value in zip(_RELAY, account)}
        del self.state["line"]
        self._save()


def _hex(data: bytes) -> str:
    return hexlify(data).decode()
