"""Finds secrets in text, however they were written: raw, as hexadecimal, base64, base32, or as Python shows bytes."""

import base64
from collections.abc import Iterable, Iterator

# The shortest piece of a secret that counts: by chance 8 bytes do not come twice.
_LEAST = 8


def forms(secret: bytes) -> set[bytes]:
    """What `secret` looks like when written, also amid other bytes: of base64 and base32 the part that does not depend on them."""
    assert len(secret) >= _LEAST
    shown = {secret, repr(secret)[2:-1].encode(), ", ".join(map(str, secret)).encode(), ",".join(map(str, secret)).encode()}
    hexadecimal = secret.hex().encode()
    shown |= {hexadecimal, hexadecimal.upper(), secret.hex(":").encode(), secret.hex(" ").encode()}
    shown.add("".join(f"\\x{byte:02x}" for byte in secret).encode())
    for shift in range(3):
        whole = _inner(base64.b64encode(bytes(shift) + secret), shift, 3, 4, len(secret))
        shown |= {whole, whole.replace(b"+", b"-").replace(b"/", b"_")}
    for shift in range(5):
        whole = _inner(base64.b32encode(bytes(shift) + secret), shift, 5, 8, len(secret))
        shown |= {whole, whole.lower()}
    return shown


def _inner(encoded: bytes, shift: int, block: int, chars: int, size: int) -> bytes:
    """The characters of `encoded` that depend on nothing but the bytes from `shift` on."""
    bits = 8 * block // chars
    first = -(-8 * shift // bits)
    return encoded[first : 8 * (shift + size) // bits]


def found(secrets: dict[str, bytes], texts: Iterable[tuple[str, bytes]]) -> Iterator[str]:
    """`what in where` for every secret that stands in one of `texts`, (where, text)."""
    looks = [(what, form) for what, secret in secrets.items() for form in forms(secret)]
    for where, text in texts:
        for what, form in looks:
            if form in text:
                yield f"{what} in {where}"
                break
