"""The suite on both runtimes: what must be refused, then RFC vectors, then properties."""

from zts import crypto
from zts.crypto import _random
from zts.errors import CryptoError, LocalError

KEY = bytes(range(32))
NONCE = bytes(range(12))


def unhex(text):
    return bytes.fromhex(text.replace(" ", ""))


def raises(kind, call, *args):
    try:
        call(*args)
    except kind:
        return
    raise AssertionError("did not raise")


def test_wrong_lengths_are_refused():
    aead = crypto.Aead(KEY)
    for n in (0, 1, 16, 24, 31, 33, 64):
        raises(LocalError, crypto.Aead, bytes(n))
        raises(LocalError, crypto.x25519, bytes(n), KEY)
        raises(LocalError, crypto.x25519, KEY, bytes(n))
        raises(LocalError, crypto.x25519_public, bytes(n))
    for n in (0, 8, 11, 13, 16):
        raises(LocalError, aead.seal, bytes(n), b"x", b"")
        raises(LocalError, aead.open_, bytes(n), bytes(20), b"")
    for n in range(16):
        raises(CryptoError, aead.open_, NONCE, bytes(n), b"")
    raises(LocalError, crypto.hkdf_expand, KEY, b"", 8161)
    raises(LocalError, crypto.hkdf_expand, KEY, b"", -1)


def test_every_flipped_bit_is_refused():
    aead = crypto.Aead(KEY)
    ad = b"\x00\x23\x00\x00\x00\x01"
    sealed = aead.seal(NONCE, b"nineteen bytes here", ad)
    for label, good in (("data", sealed), ("nonce", NONCE), ("ad", ad)):
        for bit in range(len(good) * 8):
            bad = bytearray(good)
            bad[bit >> 3] ^= 1 << (bit & 7)
            raises(
                CryptoError,
                aead.open_,
                bad if label == "nonce" else NONCE,
                bad if label == "data" else sealed,
                bad if label == "ad" else ad,
            )
    assert aead.open_(NONCE, sealed, ad) == b"nineteen bytes here"


def test_what_is_cut_or_longer_is_refused():
    aead = crypto.Aead(KEY)
    sealed = aead.seal(NONCE, bytes(40), b"ad")
    for n in range(len(sealed)):
        raises(CryptoError, aead.open_, NONCE, sealed[:n], b"ad")
        raises(CryptoError, aead.open_, NONCE, sealed[n + 1 :], b"ad")
    raises(CryptoError, aead.open_, NONCE, sealed + b"\x00", b"ad")
    # A zero byte more or less of associated data, or of data, differs only in the lengths that GHASH takes in.
    for ad in (b"", b"a", b"ad\x00", b"ad" + bytes(14)):
        raises(CryptoError, aead.open_, NONCE, sealed, ad)


def test_another_key_is_refused():
    sealed = crypto.Aead(KEY).seal(NONCE, b"text", b"")
    raises(CryptoError, crypto.Aead(bytes(32)).open_, NONCE, sealed, b"")


def test_x25519_refuses_points_of_small_order():
    # The u-coordinates of order 1, 2, 4 and 8 on the curve and its twist, and those that are no smaller than p = 2^255 - 19.
    p = 2**255 - 19
    eight = 325606250916557431795983626356110631294008115727848805560023387167927233504
    other = 39382357235489614581723060781553021112529911719440698176882885853963445705823
    for u in (0, 1, eight, other, p - 1, p, p + 1):
        for top in (0, 1 << 255):
            raises(CryptoError, crypto.x25519, KEY, (u | top).to_bytes(32, "little"))


def test_x25519_takes_numbers_beyond_p():
    # RFC 7748 section 5: the top bit is ignored, 2^255 - 19 to 2^255 - 1 count as 0 to 18.
    for u in range(2, 19):
        low = u.to_bytes(32, "little")
        high = (2**255 - 19 + u).to_bytes(32, "little")
        assert crypto.x25519(KEY, low) == crypto.x25519(KEY, high)
        assert crypto.x25519(KEY, low) == crypto.x25519(KEY, low[:31] + b"\x80")


def test_x25519_rfc_7748():
    # Section 5.2.
    for private, public, shared in (
        (
            "a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4",
            "e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c",
            "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552",
        ),
        (
            "4b66e9d4d1b4673c5ad22691957d6af5c11b6421e0ea01d42ca4169e7918ba0d",
            "e5210f12786811d3f4b7959d0538ae2c31dbe7106fc03c3efc4cd549c715a493",
            "95cbde9476e8907d7aade45cb4b873f88b595a68799fa152e6f8f7647aac7957",
        ),
    ):
        assert crypto.x25519(unhex(private), unhex(public)) == unhex(shared)


def test_x25519_once_iterated():
    # RFC 7748 section 5.2: k = u = 9; the host's tests go on to 1,000 iterations.
    nine = b"\x09" + bytes(31)
    assert crypto.x25519(nine, nine) == unhex("422c8e7a6227d7bca1350b3e2bb7279f7897b87bb6854b783c60e80311ae3079")


def test_x25519_agrees():
    a = crypto.random_bytes(32)
    b = crypto.random_bytes(32)
    assert crypto.x25519(a, crypto.x25519_public(b)) == crypto.x25519(b, crypto.x25519_public(a))


def test_hkdf_rfc_5869():
    # Appendix A.1 to A.3.
    for ikm, salt, info, n, prk, okm in (
        (
            b"\x0b" * 22,
            bytes(range(13)),
            bytes(range(0xF0, 0xFA)),
            42,
            "077709362c2e32df0ddc3f0dc47bba6390b6c73bb50f9c3122ec844ad7c2b3e5",
            "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865",
        ),
        (
            bytes(range(0x50)),
            bytes(range(0x60, 0xB0)),
            bytes(range(0xB0, 0x100)),
            82,
            "06a6b88c5853361a06104c9ceb35b45cef760014904671014a193f40c15fc244",
            "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c59045a99cac7827271cb41c65e590e09"
            "da3275600c2f09b8367793a9aca3db71cc30c58179ec3e87c14c01d5c1f3434f1d87",
        ),
        (
            b"\x0b" * 22,
            b"",
            b"",
            42,
            "19ef24a32c717b167f33a91d6f648bdf96596776afdb6377ac434c1c293ccb04",
            "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8",
        ),
    ):
        assert crypto.hkdf_extract(salt, ikm) == unhex(prk)
        assert crypto.hkdf_expand(unhex(prk), info, n) == unhex(okm)
        assert crypto.hkdf(salt, ikm, info, n) == unhex(okm)
    assert len(crypto.hkdf(b"", KEY, b"")) == 32
    assert crypto.hkdf_expand(KEY, b"", 0) == b""


def test_hmac_key_lengths():
    # RFC 2104: a key is filled up with zeros to 64 bytes, a longer one is hashed first.
    for n in range(1, 64):
        key = b"\x01" * n
        assert crypto.hmac_sha256(key, b"data") == crypto.hmac_sha256(key + bytes(64 - n), b"data")
        assert crypto.hmac_sha256(key, b"data") != crypto.hmac_sha256(key + b"\x01", b"data")
    for n in (65, 100, 200):
        assert crypto.hmac_sha256(bytes(n), b"data") == crypto.hmac_sha256(crypto.sha256(bytes(n)), b"data")


def test_equal():
    a = bytes(range(40))
    assert crypto.equal(a, bytes(a)) and crypto.equal(b"", b"")
    assert crypto.equal(memoryview(bytearray(a))[3:], a[3:])
    for n in range(40):
        assert not crypto.equal(a, a[:n]) and not crypto.equal(a[:n], a)
        for bit in range(8):
            b = bytearray(a)
            b[n] ^= 1 << bit
            assert not crypto.equal(a, b)
    assert crypto.equal(a, a) is True and crypto.equal(a, b"") is False


def test_aead_known_answers():
    # The GCM specification's test cases 13, 14 and 16 (NIST's GCM submission, appendix B).
    zero = crypto.Aead(bytes(32))
    assert zero.seal(bytes(12), b"", b"") == unhex("530f8afbc74536b9a963b4f1c4cb738b")
    assert zero.seal(bytes(12), bytes(16), b"") == unhex("cea7403d4d606b6e074ec5d3baf39d18d0d1c8a799996bf0265b98b5d48ab919")
    aead = crypto.Aead(unhex("feffe9928665731c6d6a8f9467308308" * 2))
    plain = unhex(
        "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a721c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39"
    )
    sealed = aead.seal(unhex("cafebabefacedbaddecaf888"), plain, unhex("feedfacedeadbeeffeedfacedeadbeefabaddad2"))
    assert sealed == unhex(
        "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662"
        "76fc6ece0f4e1768cddf8853bb2d551b"
    )


def test_aead_takes_any_buffer_at_any_alignment():
    aead = crypto.Aead(bytearray(KEY))
    data = bytearray(bytes(range(256)) * 5)
    nonce = memoryview(b"...." + NONCE)[4:]
    view = memoryview(data)
    for start in range(9):
        for n in (0, 1, 15, 16, 17, 64, 1023, 1024, 1025, 1041):
            sealed = aead.seal(NONCE, bytes(view[start : start + n]), b"header")
            assert isinstance(sealed, bytes) and len(sealed) == n + 16
            assert aead.seal(nonce, view[start : start + n], memoryview(b"xheader")[1:]) == sealed
            shifted = memoryview(bytes(start) + sealed)[start:]
            opened = aead.open_(nonce, shifted, bytearray(b"header"))
            assert isinstance(opened, bytes) and opened == view[start : start + n]
    assert data == bytes(range(256)) * 5


def test_aead_objects_do_not_disturb_each_other():
    a = crypto.Aead(KEY)
    b = crypto.Aead(bytes(32))
    first = a.seal(NONCE, b"one", b"")
    raises(CryptoError, b.open_, NONCE, first, b"")
    second = b.seal(NONCE, b"two" * 500, b"")
    assert a.seal(NONCE, b"one", b"") == first
    assert a.open_(NONCE, first, b"") == b"one" and b.open_(NONCE, second, b"") == b"two" * 500


class StuckSource:
    """In the place of the module os: a random source that says the same for ever."""

    def urandom(self, n):
        return b"\x42" * n


class Boot:
    """The pool as it is after a boot, with a random source of our own."""

    def __init__(self, source):
        self.kept = _random.os, _random._state, _random._step
        _random.os = source
        _random._state = bytes(32)
        _random._step = 0

    def __enter__(self):
        return self

    def __exit__(self, *error):
        _random.os, _random._state, _random._step = self.kept


def test_random_differs_though_the_source_is_stuck():
    seen = set()
    for boot in range(8):
        with Boot(StuckSource()):
            crypto.add_entropy(boot.to_bytes(4, "big"))
            for _ in range(8):
                seen.add(crypto.random_bytes(16))
    assert len(seen) == 64


def test_random_needs_both_seed_and_source_to_be_foretold():
    drawn = []
    for source, seed in ((StuckSource(), b"known"), (StuckSource(), b"secret"), (_random.os, b"known"), (_random.os, b"known")):
        with Boot(source):
            crypto.add_entropy(seed)
            drawn.append(crypto.random_bytes(32))
    assert len(set(drawn)) == 4


def test_random_state_does_not_tell_what_was_drawn():
    with Boot(StuckSource()):
        before = _random._state
        crypto.random_bytes(32)
        middle = _random._state
        out = crypto.random_bytes(32)
        assert len({before, middle, _random._state, out}) == 4


def test_random_lengths():
    for n in (0, 1, 31, 32, 33, 64, 1000):
        assert len(crypto.random_bytes(n)) == n
    block = crypto.random_bytes(64)
    assert block[:32] != block[32:]
