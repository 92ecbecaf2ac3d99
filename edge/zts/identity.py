"""Names, fingerprints, accounts and addresses."""

from collections import namedtuple

from . import crypto, wire
from .errors import FormatError

_BASE32 = "abcdefghijklmnopqrstuvwxyz234567"
_NAME_CHARS = "abcdefghijklmnopqrstuvwxyz0123456789-_"

# What enrolling at a relay gave a party. `password` is its MQTT password as text; `pin` is b"" for a broker without TLS.
Account = namedtuple("Account", ("relay_key", "host", "port", "account", "party_key", "password", "pin", "broker"))


def base32(data: bytes) -> str:
    """RFC 4648 base32 in lower case, without padding. 15 bytes give 24 characters."""
    out = []
    bits = value = 0
    for byte in data:
        value = (value << 8 | byte) & 0xFFF
        bits += 8
        while bits >= 5:
            bits -= 5
            out.append(_BASE32[value >> bits & 31])
    if bits:
        out.append(_BASE32[value << (5 - bits) & 31])
    return "".join(out)


def fingerprint(public_key: bytes) -> bytes:
    """The first 15 bytes of SHA-256(public key): 120 bits, so a second key with the same one is out of reach."""
    return crypto.sha256(public_key)[: wire.FP_BYTES]


def fingerprint_text(public_key: bytes) -> str:
    return base32(fingerprint(public_key))


def is_fingerprint_text(text: str) -> bool:
    return len(text) == wire.FP_CHARS and all(c in _BASE32 for c in text)


def parse_fingerprint(text: str) -> bytes:
    """24 base32 characters to 15 bytes. Raises FormatError."""
    if not is_fingerprint_text(text):
        raise FormatError("not a fingerprint")
    value = 0
    for char in text:
        value = value << 5 | _BASE32.index(char)
    return value.to_bytes(wire.FP_BYTES, "big")


def check_name(name: str) -> str:
    """Returns the bare name of `@name` or `name`. One spelling only: a-z 0-9 - _, first and last a letter or digit.

    Raises FormatError. Upper case, dots, spaces and look-alikes from other scripts are refused, not folded.
    """
    bare = name[1:] if name.startswith("@") else name
    if not 1 <= len(bare) <= wire.NAME_MAX_CHARS:
        raise FormatError(f"a name has 1 to {wire.NAME_MAX_CHARS} characters")
    if any(c not in _NAME_CHARS for c in bare) or bare[0] in "-_" or bare[-1] in "-_":
        raise FormatError(f"'{name}' is no name: use a-z, 0-9, '-' and '_', beginning and ending with a letter or digit")
    return bare


def split_address(address: str) -> tuple[str, int]:
    """`host:port` or `[v6]:port` to (host, port). Raises FormatError."""
    host, _, port = address.rpartition(":")
    if host.startswith("[") and host.endswith("]") and ":" in host:
        host = host[1:-1]
    elif ":" in host or "[" in host:
        raise FormatError(f"'{address}': an IPv6 address stands in brackets, [::1]:7440")
    if not host or not all(33 <= ord(c) < 127 for c in host) or len(host) > 253:
        raise FormatError(f"'{address}' is not host:port")
    if not port or len(port) > 5 or not all("0" <= c <= "9" for c in port) or not int(port) <= 65535:
        raise FormatError(f"'{address}' has no port between 0 and 65535")
    return host, int(port)


def join_address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def parse_broker(url: str, default_host: str) -> tuple[bool, str, int]:
    """`mqtt[s]://[host]:port` to (with TLS, host, port); no host means `default_host`. Raises FormatError."""
    scheme, colon, rest = url.partition("://")
    if not colon or scheme not in ("mqtt", "mqtts"):
        raise FormatError(f"'{url}' is no broker URL: mqtt://host:port or mqtts://host:port")
    host, port = split_address(join_address(default_host, 0)[:-2] + rest if rest.startswith(":") else rest)
    return scheme == "mqtts", host, port


def client_id(password: str) -> str:
    """An agent's MQTT client id: constant, and unguessable for whoever lacks its password. 23 characters."""
    return base32(crypto.hmac_sha256(password.encode(), b"cid")[:14])
