"""The state of a device: one file, replaced as a whole; the boot is counted before anything random is used."""

import json
import os

from check import raises
from state_folder import Folder
from zts import codes, crypto, identity
from zts.errors import FormatError
from zts_agent.keystore import Keystore

LINE = codes.format_enrol_line(codes.EnrolLine(codes.JoinCode(b"r" * 32, b"s" * 16, "relay", 7440), b"p" * 32, b"o" * 32, "pi"))
OTHER = codes.format_enrol_line(codes.EnrolLine(codes.JoinCode(b"r" * 32, b"t" * 16, "relay", 7440), b"q" * 32, b"o" * 32, "po"))
ACCOUNT = identity.Account(b"r" * 32, "relay", 7440, b"a" * 8, b"k" * 32, "password", b"c" * 32, "mqtts://:7441")


def test_from_a_line_to_an_account():
    with Folder() as folder:
        Keystore(folder.path).adopt("  " + LINE + "\n")
        assert folder.state() == {"boots": 0, "line": LINE, "name": "pi"}
        store = Keystore(folder.path)
        store.open()
        private, public = store.key_pair()
        # Saved before the relay hears of it: a retry enrols the same key.
        assert folder.state()["private"] == private.hex() and crypto.x25519_public(private) == public
        assert store.key("pairing") == b"p" * 32 and store.key("owner") == b"o" * 32 and store.relay() is None
        assert store.join_code() == codes.JoinCode(b"r" * 32, b"s" * 16, "relay", 7440)
        again = Keystore(folder.path)
        again.open()
        assert again.key_pair() == (private, public) and folder.state()["boots"] == 2
        again.enrolled(ACCOUNT)
        assert "line" not in folder.state()
        last = Keystore(folder.path)
        last.open()
        assert last.relay() == ACCOUNT and last.key_pair() == (private, public) and last.state["boots"] == 3
        raises(FormatError, last.adopt, LINE)
        assert os.listdir(folder.path) == ["state.json"]


def test_another_line_takes_the_place_of_an_unused_one():
    with Folder() as folder:
        Keystore(folder.path).adopt(LINE)
        store = Keystore(folder.path)
        store.open()
        keys = store.key_pair()
        Keystore(folder.path).adopt(OTHER)
        store = Keystore(folder.path)
        store.open()
        assert store.key("pairing") == b"q" * 32 and store.state["name"] == "po" and store.key_pair() == keys


def test_the_boot_is_saved_before_anything_random():
    seen = []
    before = crypto.random_bytes

    def watch(n):
        seen.append(folder.state()["boots"])
        return before(n)

    with Folder() as folder:
        Keystore(folder.path).adopt(LINE)
        crypto.random_bytes = watch
        try:
            Keystore(folder.path).open()
        finally:
            crypto.random_bytes = before
    assert seen == [1]


def test_a_state_of_no_use_is_refused():
    with Folder() as folder:
        raises(FormatError, Keystore(folder.path).open)
        Keystore(folder.path).adopt(LINE)
        store = Keystore(folder.path)
        store.open()
        store.enrolled(ACCOUNT)
        good = folder.state()
        for text in ("", "{", "[]", "7", '{"boots": "many"}', "{}", '{"line": "zts1d:no"}', '{"line": 5}'):
            folder.write(text)
            raises(FormatError, Keystore(folder.path).open)
        for key in ("private", "public", "pairing", "owner", "relay", "name"):
            for value in (None, 7, []) if key == "name" else (None, "", "00", "zz" * 32, 7, []):
                bad = dict(good)
                bad[key] = value
                folder.write(json.dumps(bad))
                raises(FormatError, Keystore(folder.path).open)
        for key in good["relay"]:
            bad = dict(good)
            bad["relay"] = {name: value for name, value in good["relay"].items() if name != key}
            folder.write(json.dumps(bad))
            raises(FormatError, Keystore(folder.path).open)
        for key, value in (("party_key", "zz"), ("key", 7), ("host", 7), ("port", "7440"), ("password", None), ("broker", [])):
            bad = dict(good)
            bad["relay"] = dict(good["relay"])
            bad["relay"][key] = value
            folder.write(json.dumps(bad))
            raises(FormatError, Keystore(folder.path).open)
        folder.write(json.dumps(good))
        Keystore(folder.path).open()


def test_lines_that_are_none_are_refused():
    with Folder() as folder:
        for line in ("", "zts1:abc@h:1", LINE[:-10], LINE + "/x"):
            raises(FormatError, Keystore(folder.path).adopt, line)
        os.mkdir(folder.path)
