"""Logs every (key, nonce) that a process seals with. Runs on CPython and MicroPython; installed before the program starts.

A line a seal: 8 bytes of SHA-256("audit" | key) in hex, the nonce in hex, and the stream the record says it is of, or "-"
for a handshake. Never the key itself.
"""

from zts import crypto

_RECORD_HEAD = 6


def install(path: str) -> None:
    log = open(path, "a")  # noqa: SIM115 — it lives as long as the process

    class Audited(crypto.Aead):
        def __init__(self, key):
            super().__init__(key)
            self.audit_id = crypto.sha256(b"audit" + bytes(key))[:8].hex()

        def seal(self, nonce, plaintext, ad):
            stream = str(int.from_bytes(bytes(ad)[2:6], "big")) if len(ad) == _RECORD_HEAD else "-"
            log.write(f"{self.audit_id} {bytes(nonce).hex()} {stream}\n")
            log.flush()
            return super().seal(nonce, plaintext, ad)

    crypto.Aead = Audited


def stick_random_source() -> None:
    """os.urandom gives zeros from now on, as a broken board's may."""
    from zts.crypto import _random

    class Stuck:
        @staticmethod
        def urandom(n):
            return bytes(n)

    _random.os = Stuck
