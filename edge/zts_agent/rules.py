"""What a device knows of its owner's rules: the policy, the roots of the grants, the time. Kept beside its keys."""

import json

from zts import control, grant, identity, policy, wire
from zts.errors import FormatError

from . import board
from .keystore import Keystore

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from zts.link import LinkStream

TIME_STEP_S = 3600  # the time is written down when it is so much later than what is written: flash wears out


class Rules:
    """`owner` is the owner's fingerprint, `policy` None while the one that is kept cannot be read."""

    def __init__(self, store: Keystore) -> None:
        self._store = store
        owner = store.key("owner")
        self._pairing = store.key("pairing")
        self._owner = control.make_peer(owner, self._pairing)
        self.owner = identity.fingerprint(owner)
        self.policy = store.policy()
        self._roots: dict[int, bytes] = {}
        self._take_roots()
        # Seconds since 1970 and board.clock() when they were right.
        self._told: tuple[int, int] | None = None
        at = store.time()
        if at is not None:
            self._told = (at, board.clock())

    def _take_roots(self) -> None:
        """Of this generation, and of the last: its holders are told that it is over."""
        now = 0 if self.policy is None else self.policy.generation
        self._roots = {number: grant.root(self._pairing, number) for number in (now - 1, now) if number >= 0}

    def find_peer(self, sender: bytes, kind: int, hint: bytes) -> "control.Peer | None":
        if kind == wire.KIND_CONNECT:
            return self._owner if sender == self.owner and not any(hint) else None
        root = self._roots.get(grant.generation(hint)) if kind == wire.KIND_GRANT else None
        return None if root is None else control.holder_peer(root, hint)

    def decide(
        self, party: bytes, id_: bytes, terms: "grant.Terms | None", service: "str | None", kind: int
    ) -> "tuple[int, policy.Limits]":
        """As policy.decide, now and by the policy that holds."""
        return policy.decide(self.owner, self.policy, party, id_, terms, service, kind, self.now())

    # --- the time --------------------------------------------------------------------------------------------------------

    def now(self) -> "int | None":
        """Seconds since 1970 as the owner told them and the clock went on since; None: not told since the start."""
        if self._told is None:
            return None
        return self._told[0] + (board.clock() - self._told[1]) // 1000

    def learn_time(self, seconds: int) -> None:
        """What the owner's message 1 says. An earlier time than one that is known may come from a message that was held back."""
        known = max(self._store.time_floor(), self.now() or 0)
        self._set_time(max(seconds, known))

    def _set_time(self, seconds: int) -> None:
        self._told = (seconds, board.clock())
        if not 0 <= seconds - self._store.time_floor() < TIME_STEP_S or self._store.time() is None:
            try:
                self._store.save_time(seconds)
            except OSError as error:
                board.log("time not written", error=str(error))  # it holds until the next start

    # --- the service zts-policy --------------------------------------------------------------------------------------------

    async def serve(self, reader: "LinkStream", writer: "LinkStream") -> None:
        """Takes time4 | policy, or nothing; says what holds now. Only the owner comes here."""
        pieces = []  # put together once: a board's heap has few long runs of free bytes
        size = 0
        while True:
            data = await reader.read()
            size += len(data)
            if not data or size > 4 + wire.POLICY_MAX_BYTES:
                break
            pieces.append(data)
        said = b"".join(pieces) if not data else b"\0"
        refused = self._take(said) if said else ""
        present = self.policy
        told: dict[str, Any] = {
            "refused": refused,
            "seq": self._store.policy_seq(),
            "generation": self._store.generation(),
            "check": "",
            "readable": present is not None,
            "time": self.now(),
        }
        if present is not None:
            told["seq"], told["generation"], told["check"] = present.seq, present.generation, _hex(present.blob[-wire.POLICY_CHECK_BYTES :])
        writer.write(json.dumps(told).encode())

    def _take(self, said: bytes) -> str:
        """Why it was refused, or ""."""
        try:
            fresh = policy.Policy(said[4:])
        except FormatError as error:
            return str(error)
        seq, generation = self._store.policy_seq(), self._store.generation()
        if self.policy is not None:
            seq, generation = max(seq, self.policy.seq), max(generation, self.policy.generation)
        if fresh.seq <= seq:
            return "a policy of this number, or a later one, was here before"
        if fresh.generation < generation:
            return "its generation of grants was taken back before"
        try:
            self._store.save_policy(fresh)
        except OSError:
            kept = self._store.policy()
            if kept is None or kept.seq != fresh.seq:
                return "it cannot be written"
            # The policy is there, and only its number is not written beside it: it holds, now and after a restart.
        self.policy = fresh
        self._take_roots()
        self._set_time(int.from_bytes(said[:4], "big"))
        board.log("policy", seq=fresh.seq)
        return ""


def _hex(data: bytes) -> str:
    return "".join([f"{byte:02x}" for byte in data])
