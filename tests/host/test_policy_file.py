"""The rules as a person writes them: read or refused with a sentence, and compiled to what they say."""

import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import policy_blob
from zts import identity, policy, wire
from zts.errors import FormatError
from zts.grant import Terms
from zts_gateway import policy_book, policy_file
from zts_gateway.addressbook import Book, Card, Issued, Party
from zts_gateway.granting import encode
from zts_gateway.policy_file import Rule, compile_rules, matches, parse
from zts_gateway.ui import Exit, Failure

quietly = settings(deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
RULE = '[[rules]]\ndevices = ["@pi"]\nwho = ["@bob"]\nservices = ["http"]\n'
FPS = {name: name.encode() * 5 for name in ("bob", "eve", "dan")}

FULL = """\
# words
[groups]
lab = ["@bob", "@eve"]

[[rules]]
devices = ["@sensor42", "@lab-*"]
who = ["@dan", "lab", "holders", "@bob"]
services = ["http", "console", "http"]
until = 2026-12-31T09:00:00Z
streams = 4
max_bytes = "10M"
read_only = true
idle = "5m"

[[ rules ]]
devices = ["@*"]
who = ["holders"]
services = "*"
max_bytes = 2048
"""


def test_every_key() -> None:
    first, second = parse(FULL)
    until = 1_798_707_600
    assert first == Rule(
        "rule 1 (line 5)",
        ("sensor42", "lab-*"),
        ("@dan", "lab", "holders", "@bob"),
        ("dan", "bob", "eve"),
        True,
        ("http", "console"),
        until,
        4,
        10 << 10,
        True,
        300,
    )
    assert second == Rule("rule 2 (line 15)", ("*",), ("holders",), (), True, None, 0, 0, 2, False, 0)
    assert first.limits == policy.Limits(until, 4, 10 << 20, 300, True)


def test_no_rules() -> None:
    for text in ("", "# nothing\n", "[groups]\n", "rules = []\n", policy_file.TEMPLATE):
        assert parse(text) == []
    assert parse(RULE.replace("http", "").replace('""', ""))[0].services == ()


def test_the_template_without_its_marks_is_whole() -> None:
    text = re.sub(r"^# (?=\[|\w+ +=)", "", policy_file.TEMPLATE, flags=re.M)
    (rule,) = parse(text)
    assert (rule.devices, rule.parties, rule.services, rule.streams, rule.idle) == (
        ("sensor42", "lab-*"),
        ("bob", "eve"),
        ("http",),
        4,
        300,
    )
    assert all(f"{key} = " in policy_file.TEMPLATE for key in policy_file._KEYS)


@pytest.mark.parametrize(
    "text, hints",
    [
        ("[[rules]", ["line 1"]),
        ("a = ", ["TOML"]),
        ("\0", ["TOML"]),
        ("x = " + "[" * 5000, ["lists"]),
        ("[rule]\n", ["'rule'", "groups, rules"]),
        ("rules = 1\n", ["[[rules]]"]),
        ("[rules]\n", ["[[rules]]"]),
        ("rules = [1]\n", ["[[rules]]"]),
        ("groups = 1\n", ["[groups]"]),
        ('[groups]\n"@lab" = []\n', ["'@lab'", "no @"]),
        ("[groups]\nLab = []\n", ["'Lab'"]),
        ('[groups]\n"" = []\n', ["group ''"]),
        ('[groups]\n"l\u0430b" = []\n', ["group"]),
        ("[groups]\nholders = []\n", ["another"]),
        ('[groups]\nlab = "@bob"\n', ["list"]),
        ('[groups]\nlab = ["bob"]\n', ["@bob"]),
        ('[groups]\nlab = ["@Bob"]\n', ["'@Bob'"]),
        ('[groups]\na = ["@bob"]\nb = ["a"]\n', ["group 'b'"]),
        (RULE + "colour = 1\n", ["rule 1 (line 1)", "'colour'", "read_only"]),
        (RULE + RULE + "\n" + RULE.replace("who", "whom"), ["rule 3 (line 10)", "'whom'"]),
        ("[[rules]]\n", ["rule 1", "devices is missing"]),
        (RULE.replace('["@pi"]', '"@pi"'), ["devices", "list"]),
        (RULE.replace('["@pi"]', "[]"), ["devices", "nobody"]),
        (RULE.replace('["@pi"]', "[1]"), ["devices", "list"]),
        (RULE.replace('["@bob"]', "[]"), ["who", "nobody"]),
        (RULE.replace("@bob", "bob"), ["who", "'bob' is no group"]),
        (RULE.replace("@bob", "Holders"), ["who", "'Holders'"]),
        (RULE.replace('["http"]', '"http"'), ["services", "list"]),
        (RULE.replace("http", "*"), ["services", 'services = "*"']),
        (RULE.replace("http", "HTTP"), ["services"]),
        (RULE.replace("http", "@http"), ["services"]),
        (RULE.replace("http", "zts-status"), ["services", "owner's alone"]),
        (RULE.replace('["http"]', "1"), ["services"]),
        (RULE.replace('services = ["http"]\n', ""), ["services is missing"]),
        (RULE + "streams = 0\n", ["streams", "255"]),
        (RULE + "streams = 256\n", ["streams", "255"]),
        (RULE + "streams = -1\n", ["streams", "255"]),
        (RULE + "streams = true\n", ["streams", "255"]),
        (RULE + "streams = 1.0\n", ["streams", "255"]),
        (RULE + 'streams = "4"\n', ["streams", "255"]),
        (RULE + "max_bytes = 1000\n", ["max_bytes", "1K"]),
        (RULE + "max_bytes = 0\n", ["max_bytes", "nothing"]),
        (RULE + "max_bytes = -1024\n", ["max_bytes"]),
        (RULE + "max_bytes = true\n", ["max_bytes"]),
        (RULE + "max_bytes = 1e3\n", ["max_bytes"]),
        (RULE + 'max_bytes = "10m"\n', ["max_bytes", "10M"]),
        (RULE + 'max_bytes = "4T"\n', ["max_bytes", "at most"]),
        (RULE + "read_only = 1\n", ["read_only", "true or false"]),
        (RULE + 'read_only = "yes"\n', ["read_only", "true or false"]),
        (RULE + "idle = 300\n", ["idle", '"5m"']),
        (RULE + 'idle = "0s"\n', ["idle", "nothing"]),
        (RULE + 'idle = "1d"\n', ["idle", "65535 seconds"]),
        (RULE + 'until = "2026-12-31"\n', ["until", "quotes"]),
        (RULE + "until = 1798707600\n", ["until", "quotes"]),
        (RULE + "until = 09:00:00\n", ["until", "quotes"]),
        (RULE + "until = 1960-01-01\n", ["until", "1970"]),
        (RULE + "until = 9999-12-31\n", ["until", "2106"]),
        (RULE + "until = 2026-02-30\n", ["line 5"]),
        (RULE + "streams = " + "9" * 5000, ["TOML"]),
        ("rules = [{}]", ["rule 1: devices"]),
    ],
)
def test_what_is_refused_says_where(text: str, hints: list[str]) -> None:
    with pytest.raises(FormatError) as caught:
        parse(text)
    for hint in hints:
        assert hint in str(caught.value), str(caught.value)


# Names that a person would take for others, or that are none.
UNCLEAR = [
    "",
    "@",
    "@Pi",
    "@p i",
    "@pi.",
    "@pi..",
    "@.pi",
    "@p\u0456",
    "@\uff50i",
    "@pi\u200b",
    "@pi\n",
    " @pi",
    "@pi ",
    "@@pi",
    "@-pi",
    "@pi_",
]
UNCLEAR += ["@" + "x" * 33, "@pi\u0301", "@\u0131", "pi", "*", "@pi:http"]


@pytest.mark.parametrize("name", UNCLEAR)
def test_unclear_names_are_refused_wherever_they_stand(name: str) -> None:
    word = "".join(c if 32 <= ord(c) < 127 else f"\\u{ord(c):04x}" for c in name)
    for text in (RULE.replace("@pi", word), RULE.replace("@bob", word), f'[groups]\nlab = ["{word}"]\n'):
        with pytest.raises(FormatError):
            parse(text)


@pytest.mark.parametrize(
    "pattern",
    [
        "@**",
        "@lab-**",
        "@*-*",
        "@lab.*",
        "@LAB-*",
        "@l\u0430b-*",
        "@-*",
        "@_*",
        "@*-",
        "@lab-?",
        "@lab-[ab]",
        "lab-*",
        "*",
        "@" + "x" * 32 + "*",
    ],
)
def test_patterns_that_are_refused(pattern: str) -> None:
    with pytest.raises(FormatError):
        policy_file.check_pattern(pattern)
    with pytest.raises(FormatError):
        parse(RULE.replace("@pi", pattern))


@pytest.mark.parametrize(
    "pattern, yes, no",
    [
        ("pi", ["pi"], ["pi2", "p", "api", "lab-pi"]),
        ("*", ["a", "pi", "lab-1"], [""]),
        ("lab-*", ["lab-1", "lab-a-b", "lab--x"], ["lab-", "lab", "lab1", "alab-1", "la"]),
        ("*-north", ["a-north", "lab-1-north"], ["-north", "north", "a-north1", "a-northx"]),
        ("a*b", ["axb", "abb", "aab", "a-_b"], ["ab", "a", "b", "axbc", "xaxb"]),
        ("aba*aba", ["abaxaba", "abaabaaba"], ["aba", "ababa", "abaaba"]),
        ("lab*", ["lab1", "lab-1"], ["lab"]),
    ],
)
def test_patterns(pattern: str, yes: list[str], no: list[str]) -> None:
    assert policy_file.check_pattern("@" + pattern) == pattern
    assert [name for name in yes + no if matches(pattern, name)] == yes


names = st.from_regex(r"[a-c0](?:[a-c0_-]{0,4}[a-c0])?", fullmatch=True)
patterns = names | st.from_regex(r"(?:[a-c0][a-c0_-]{0,2})?\*(?:[a-c0_-]{0,2}[a-c0])?", fullmatch=True)


@quietly
@given(patterns, names)
def test_patterns_by_another_way(pattern: str, name: str) -> None:
    policy_file.check_pattern("@" + pattern)
    assert matches(pattern, name) == bool(re.fullmatch(re.escape(pattern).replace(r"\*", "[a-z0-9_-]+"), name))


# --- compiling -------------------------------------------------------------------------------------------------------------------


def _rule(parties=(), holders=False, services=None, until=0, streams=0, kib=0, read_only=False, idle=0, devices=("pi",)) -> Rule:  # type: ignore[no-untyped-def]
    return Rule("rule", devices, ("x",), tuple(parties), holders, services, until, streams, kib, read_only, idle)


def test_the_blob_is_what_the_other_encoder_makes() -> None:
    rules = [
        _rule(["bob"], services=("http",)),
        _rule(["eve", "bob"], True, ("console", "http"), 7, 8, 9, True, 10),
        _rule(["dan"], devices=("other",)),
        _rule(["dan"], services=(), devices=("p*",)),
        _rule(holders=True, kib=0xFFFFFFFF, idle=65535, streams=255, until=0xFFFFFFFF),
    ]
    revoked = [b"\0\2revoke", b"\0\2revok2"]
    bob, eve, dan = FPS["bob"], FPS["eve"], FPS["dan"]
    expected = policy_blob.encode(
        [
            policy_blob.rule([bob], ["http"]),
            policy_blob.rule([bob, eve, policy_blob.HOLDERS], ["console", "http"], 7, 8, 10, 9, True),
            policy_blob.rule([dan], []),
            policy_blob.rule([policy_blob.HOLDERS], policy_blob.EVERY, 0xFFFFFFFF, 255, 65535, 0xFFFFFFFF),
        ],
        5,
        2,
        revoked,
    )
    found = compile_rules(rules, "pi", FPS, 2, 5, revoked)
    assert found == expected
    assert policy.Policy(found).seq == 5 and policy.Policy(found).generation == 2
    assert compile_rules([], "pi", FPS, 0, 1, []) == policy_blob.encode([])


services = st.lists(st.sampled_from(["http", "ssh", "console"]), max_size=3, unique=True).map(tuple)
rules_ = st.builds(
    _rule,
    st.lists(st.sampled_from(["bob", "eve", "dan", "gone"]), max_size=4, unique=True),
    st.booleans(),
    st.none() | services,
    st.integers(0, 0xFFFFFFFF),
    st.integers(0, 255),
    st.integers(0, 0xFFFFFFFF),
    st.booleans(),
    st.integers(0, 0xFFFF),
    st.sampled_from([("pi",), ("other",), ("other", "p*"), ("*",)]),
)


@quietly
@given(st.lists(rules_, max_size=6), st.integers(0, 0xFFFF), st.integers(1, 0xFFFFFFFF))
def test_a_compiled_policy_answers_as_the_rules_read(rules: list[Rule], generation: int, seq: int) -> None:
    compiled = policy.Policy(compile_rules(rules, "pi", FPS, generation, seq, []))
    there = [rule for rule in rules if rule.devices != ("other",)]
    for party in ("bob", "eve", "dan", None):
        for service in ("http", "ssh", "console", "never heard of"):
            first = next((rule for rule in there if rule.names(party, service)), None)
            found = compiled.find(None if party is None else FPS[party], service)
            assert found == (first.limits if first else None)


def test_a_name_that_is_not_known_gives_nothing_and_takes_nothing() -> None:
    rules = [_rule(["gone"]), _rule(["gone", "bob"], services=("http",))]
    compiled = policy.Policy(compile_rules(rules, "pi", FPS, 0, 1, []))
    assert compiled.find(FPS["bob"], "http") and not compiled.find(FPS["bob"], "ssh")
    assert compiled.find(None, None) is None and compiled._party_count == 1


def test_too_much_is_refused_with_a_sentence() -> None:
    many = {f"p{n}": n.to_bytes(15, "big") for n in range(300)}
    room = compile_rules([_rule(list(many)[:254], True)], "pi", many, 0, 1, [])
    assert policy.Policy(room).find(many["p253"], "http") is not None
    for rules, revoked, hint in (
        ([_rule(list(many)[:255])], [], "255 parties"),
        ([_rule([name]) for name in many], [], "300 parties"),
        ([_rule(["bob"], services=tuple(f"s{n}" for n in range(256)))], [], "256 services"),
        ([_rule(["bob"])] * 700, [], str(wire.POLICY_MAX_BYTES)),
        ([_rule(["bob"])] * 70_000, [], str(wire.POLICY_MAX_BYTES)),
        (
            [_rule([name], services=tuple("x" * 30 + str(n) for n in range(10, 99))) for name in list(many)[:60]],
            [],
            str(wire.POLICY_MAX_BYTES),
        ),
        ([], [bytes(8)] * 256, "zts revoke --all @pi"),
    ):
        with pytest.raises(FormatError) as caught:
            compile_rules(rules, "pi", many | FPS, 0, 1, revoked)
        assert hint in str(caught.value) and "@pi" in str(caught.value)
    assert len(compile_rules([], "pi", FPS, 0, 1, [bytes(8)] * 255)) < wire.POLICY_MAX_BYTES


# --- with the book ---------------------------------------------------------------------------------------------------------------


def _refused(work) -> str:  # type: ignore[no-untyped-def]
    with pytest.raises(Failure) as caught:
        work()
    assert caught.value.code == Exit.USAGE
    return str(caught.value)


def test_a_devices_policy(tmp_path: Path) -> None:
    book = Book(tmp_path)
    book.save_party(Party("bob", b"b" * 32, identity.base32(bytes(15))))
    book.save_card(Card("pi", b"d" * 32, b"p" * 32, generation=3, policy_seq=6))
    caveats = encode(Terms(identity.fingerprint(b"b" * 32), True, None, 0, 0, 0, 0, False))
    issued = [
        Issued(b"\0\3grant1", "bob", caveats, "", "2026"),
        Issued(b"\0\3grant2", "bob", caveats, ""),
        Issued(b"\0\2grant3", "bob", caveats, "", "2026"),
    ]
    book.change_grants("pi", lambda card, grants: issued)
    compiled = policy.Policy(policy_book.compile_for(book, book.device("pi")))
    assert (compiled.seq, compiled.generation, compiled._revoked_count) == (7, 3, 1)
    assert [compiled.is_revoked(one.id) for one in issued] == [True, False, True]
    book.policy_file.write_text(RULE)
    compiled = policy.Policy(policy_book.compile_for(book, book.device("pi")))
    assert compiled.find(identity.fingerprint(b"b" * 32), "http") == policy.NONE
    assert book.device("pi").policy_seq == 6  # whoever pushes it notes its number


def test_files_that_are_refused(tmp_path: Path) -> None:
    book = Book(tmp_path)
    path = book.policy_file
    path.write_bytes(b"\xff\xfe")
    assert "UTF-8" in _refused(lambda: policy_book.load(book))
    path.write_text("# " + "x" * (1 << 20))
    assert "1 MiB" in _refused(lambda: policy_book.load(book))
    path.write_text(RULE + "colour = 1\n")
    said = _refused(lambda: policy_book.load(book))
    assert str(path) in said and "rule 1 (line 1)" in said and "zts policy edit" in said
    path.write_text(RULE)
    for mode in (0o620, 0o602):
        path.chmod(mode)
        assert "chmod 600" in _refused(lambda: policy_book.load(book))
    path.chmod(0o644)
    assert len(policy_book.load(book)) == 1
    path.unlink()
    path.mkdir()
    assert str(path) in _refused(lambda: policy_book.load(book))
