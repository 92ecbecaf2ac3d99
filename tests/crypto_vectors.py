"""Checks zts.crypto against vectors, on CPython by test_crypto_vectors.py and on MicroPython by its runner (see run_micropython.py).

A case is a dict of hex strings; "ok" tells whether it must be accepted. Files hold one JSON object a line.
"""

import json
import sys

from zts import crypto
from zts.errors import CryptoError, LocalError


def check_x25519(case):
    private, public, shared = (bytes.fromhex(case[name]) for name in ("private", "public", "shared"))
    try:
        got = crypto.x25519(private, public)
    except CryptoError:
        assert shared == bytes(32), case
    else:
        assert got == shared and shared != bytes(32), case


def check_gcm(case):
    key, iv, aad, msg, data = (bytes.fromhex(case[name]) for name in ("key", "iv", "aad", "msg", "data"))
    aead = crypto.Aead(key)
    if case["ok"]:
        assert aead.seal(iv, msg, aad) == data, case
        assert aead.open_(iv, data, aad) == msg, case
    else:
        try:
            aead.open_(iv, data, aad)
        except CryptoError:
            return
        raise AssertionError(case)


def check_hkdf(case):
    salt, ikm, info, okm = (bytes.fromhex(case[name]) for name in ("salt", "ikm", "info", "okm"))
    try:
        got = crypto.hkdf(salt, ikm, info, case["size"])
    except LocalError:
        assert not case["ok"], case
    else:
        assert got == okm and case["ok"], case


def check_hmac(case):
    key, msg, mac = (bytes.fromhex(case[name]) for name in ("key", "msg", "mac"))
    assert crypto.hmac_sha256(key, msg) == mac, case


def run(name, check):
    n = 0
    with open(f"{sys.argv[2]}/{name}.jsonl") as f:
        for line in f:
            check(json.loads(line))
            n += 1
    print(name, n)
    assert n, "no cases"


def test_x25519():
    run("x25519", check_x25519)


def test_gcm_wycheproof():
    run("gcm_wycheproof", check_gcm)


def test_gcm_nist():
    run("gcm_nist", check_gcm)


def test_gcm_lengths():
    run("gcm_lengths", check_gcm)


def test_hkdf():
    run("hkdf", check_hkdf)


def test_hmac():
    run("hmac", check_hmac)
