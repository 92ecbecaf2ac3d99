"""The asking side of a handshake: message 1 out, message 2 in. PROTOCOL.md, "Control plane"."""

from . import control, crypto, identity, wire
from .errors import CryptoError
from .noise import HandshakeState


class Initiator:
    """One message 1 and the reading of its answer. Made anew for every try: the ephemeral never serves twice."""

    def __init__(
        self,
        purpose: int,
        s: "tuple[bytes, bytes]",
        responder: bytes,
        psk: bytes,
        epoch: bytes,
        kind: int = wire.KIND_CONNECT,
        hint: bytes = bytes(wire.HINT_BYTES),
        mac_key: bytes = b"",
    ) -> None:
        """`mac_key` comes with a grant; else it follows from the psk."""
        self._header = bytes([wire.VERSION, wire.TYPE_M1, kind, 0]) + hint
        prologue = control.prologue(purpose, identity.fingerprint(responder), epoch, self._header)
        self.handshake = HandshakeState(True, prologue, s, responder, psk)
        self._mac_key = mac_key or control.make_peer(responder, psk).mac_key
        self._epoch = epoch
        self._answer_header = b""

    def message_1(self, fields: "dict[int, bytes]") -> bytes:
        noise = self.handshake.write_message(control.encode_fields(fields, wire.M1_PAYLOAD_BYTES))
        mac = control.mac1(self._mac_key, self._epoch, self._header + bytes(wire.MAC_BYTES) + noise)
        m1 = self._header + mac + noise
        self._answer_header = bytes([wire.VERSION, wire.TYPE_M2, 0, 0]) + crypto.sha256(m1)[: wire.HINT_BYTES]
        return m1

    def read_message_2(self, m2: bytes) -> "dict[int, bytes] | None":
        """The fields of the answer; None when `m2` is not the answer to our message 1: wait on. RemoteError: authentic but wrong."""
        if len(m2) != wire.M2_BYTES or m2[: wire.HEADER_BYTES] != self._answer_header:
            return None
        try:
            payload = self.handshake.read_message(m2[wire.HEADER_BYTES :])
        except CryptoError:
            return None
        return control.decode_fields(payload, (wire.TLV_CODE,))
