"""What a device remembers: one JSON file, replaced as a whole, and the policy in a file beside it.

Before enrolment it holds `line`, the enrolment line; then `name private public pairing owner boots`, and once a relay
enrolled it, `relay` in place of `line`. Keys are hexadecimal. `policy_seq` is the number of the last policy, `time` [seconds since
1970, the machine's boot, seconds since that boot].
"""

import errno
import json
import os
from binascii import hexlify, unhexlify

from zts import crypto, identity, wire
from zts.errors import FormatError
from zts.policy import Policy

from . import board

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from zts import codes

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
        self._policy_path = folder.rstrip("/") + "/policy"
        self._folder = folder
        self.state: dict[str, Any] = {}

    def adopt(self, line: str) -> None:
        """Begins with an enrolment line. Raises FormatError: not a line, or already enrolled."""
        enrol_line = _parse_line(line)
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
            line = _parse_line(state["line"])
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
        board.replace_file(self.path, json.dumps(self.state).encode())

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

    def join_code(self) -> "codes.JoinCode":
        """The part of the enrolment line that is for the relay. Raises FormatError."""
        code: codes.JoinCode = _parse_line(self.state["line"]).code
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

    # --- the owner's rules -----------------------------------------------------------------------------------------------

    def policy_seq(self) -> int:
        """The number of the last policy there was; 0: none yet."""
        seq = self.state.get("policy_seq", 0)
        return seq if isinstance(seq, int) else 1 << 32

    def generation(self) -> int:
        """Of the last policy there was."""
        generation = self.state.get("generation", 0)
        return generation if isinstance(generation, int) else 1 << 16

    def policy(self) -> "Policy | None":
        """None when it is damaged, gone, or an older one than the last."""
        try:
            size = os.stat(self._policy_path)[6]
            with open(self._policy_path, "rb") as file:
                blob = file.read(min(size, wire.POLICY_MAX_BYTES + 1))
            kept = Policy(blob) if blob else None
        except OSError as error:
            kept = Policy() if error.errno == errno.ENOENT else None
        except FormatError:
            kept = None
        return kept if kept is not None and kept.seq >= self.policy_seq() else None

    def save_policy(self, fresh: Policy) -> None:
        """Raises OSError."""
        board.replace_file(self._policy_path, fresh.blob)
        self.state["policy_seq"] = fresh.seq
        self.state["generation"] = fresh.generation
        self._save()

    def _time(self) -> "tuple[int, str, int]":
        said = self.state.get("time")
        if isinstance(said, list) and len(said) == 3 and isinstance(said[0], int) and isinstance(said[2], int):
            return said[0], said[1], said[2]
        return 0, "", 0

    def time_floor(self) -> int:
        """Seconds since 1970: it is later than this."""
        return self._time()[0]

    def time(self) -> "int | None":
        """Seconds since 1970, where the machine has not started anew since they were written down."""
        seconds, boot, at = self._time()
        present, since = board.boot()
        return seconds + since - at if boot and boot == present and since >= at else None

    def save_time(self, seconds: int) -> None:
        """Raises OSError."""
        boot, since = board.boot()
        self.state["time"] = [seconds, boot, since]
        self._save()


def _parse_line(line: str) -> "codes.EnrolLine":
    from zts import codes  # needed once in a device's life

    return codes.parse_enrol_line(line)


def _hex(data: bytes) -> str:
    return hexlify(data).decode()
