"""What an evil party that holds all its keys can say: messages 1 and 2 with payloads of any content, mac1 over any bytes."""

from zts import control, crypto, wire
from zts.initiator import Initiator


def _fill(payload: bytes, size: int) -> bytes:
    return payload[:size] + bytes(max(0, size - len(payload)))


def sign(m1: bytes, psk: bytes, epoch: bytes) -> bytes:
    """`m1` with the mac1 that its bytes need."""
    mac_key = control.make_peer(b"", psk).mac_key
    after = wire.HEADER_BYTES + wire.MAC_BYTES
    mac = crypto.hmac_sha256(mac_key, epoch + m1[: wire.HEADER_BYTES] + m1[after:])[: wire.MAC_BYTES]
    return m1[: wire.HEADER_BYTES] + mac + m1[after:]


def message_1(initiator: Initiator, payload: bytes, psk: bytes, epoch: bytes) -> bytes:
    """Sealed as it should be; `payload` is cut or padded with zeros to its size. The initiator can then read the answer."""
    noise = initiator.handshake.write_message(_fill(payload, wire.M1_PAYLOAD_BYTES))
    m1 = sign(initiator._header + bytes(wire.MAC_BYTES) + noise, psk, epoch)
    initiator._answer_header = bytes([wire.VERSION, wire.TYPE_M2, 0, 0]) + crypto.sha256(m1)[: wire.HINT_BYTES]
    return m1


def message_2(accepted: control.Accepted, payload: bytes) -> bytes:
    """Sealed as it should be; `payload` is cut or padded with zeros to its size."""
    header = bytes([wire.VERSION, wire.TYPE_M2, 0, 0]) + crypto.sha256(accepted.m1)[: wire.HINT_BYTES]
    sealed: bytes = accepted.handshake.write_message(_fill(payload, wire.M2_PAYLOAD_BYTES))
    return header + sealed
