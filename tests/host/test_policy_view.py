"""What is said of rules and grants is what `zts.policy.decide` does with them; and what is probably not meant is warned of."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from zts import identity, policy, wire
from zts.grant import Terms
from zts_gateway import granting, policy_file, policy_view
from zts_gateway.addressbook import Card, Issued, Party
from zts_gateway.policy_file import Rule
from zts_gateway.policy_view import View

NOW = 1_800_000_000
EVERY = ["*"]
OWNER = b"o" * wire.FP_BYTES
BOB, EVE, DAN = (Party(name, name.encode() * 8 + bytes(8), identity.base32(bytes(15))) for name in ("bob_", "eve_", "dan_"))
BOB, EVE, DAN = replace(BOB, name="bob"), replace(EVE, name="eve"), replace(DAN, name="dan")
PARTIES = {party.name: party for party in (BOB, EVE, DAN)}
SERVICES = ((wire.SERVICE_HTTP, "http"), (wire.SERVICE_SERIAL, "console"), (wire.SERVICE_TCP, "ssh"))
PI = Card("pi", b"d" * 32, b"p" * 32, services=SERVICES)


def _fp(party: Party) -> bytes:
    return identity.fingerprint(party.public)


def _grant(n: int, party: Party, services: "Sequence[str] | None" = None, taken_back: "str | None" = None, **limits: object) -> Issued:
    """With services None: a member's."""
    terms = Terms(_fp(party), services is None, services, 0, 0, 0, 0, False)._replace(**limits)
    terms = terms._replace(services=None) if terms.services == EVERY else terms
    return Issued(bytes(7) + bytes([n]), party.name, granting.encode(terms), "2026-01-02T03:04:05Z", taken_back)


def _view(text: str, *grants: Issued, card: Card = PI) -> View:
    rules = policy_file.parse(text)
    fps = {name: _fp(party) for name, party in PARTIES.items()}
    revoked = [issued.id for issued in grants if issued.taken_back]
    compiled = policy.Policy(policy_file.compile_rules(rules, card.name, fps, card.generation, 1, revoked))
    return View(OWNER, card, compiled, rules, grants)


def _rule(who: str, services: str, *more: str, devices: str = '"@pi"') -> str:
    return "\n".join(["[[rules]]", f"devices = [{devices}]", f"who = [{who}]", f"services = {services}", *more, ""])


def _said(view: View, parties: "dict[str, Party]" = PARTIES) -> list[str]:
    first, *lines, last = policy_view.explain(view, parties, NOW)
    assert (first, last) == ("you: everything", "everybody else: nothing")
    return lines


def test_who_may_do_what() -> None:
    assert _said(_view("")) == []
    assert _said(_view(_rule('"@bob"', '"*"'))) == []  # no grant, no access
    bob, b = _grant(1, BOB), "@bob, by grant 0000000000000001: "
    for text, grants, lines in (
        ("", [bob], [b + "nothing"]),
        (_rule('"@bob"', '["http", "ssh"]'), [bob], [b + "http and ssh"]),
        (_rule('"@bob"', '"*"'), [bob], [b + "every service"]),
        (_rule('"@eve"', '"*"'), [bob], [b + "nothing"]),
        (_rule('"@bob"', "[]"), [bob], [b + "nothing"]),
        (
            _rule('"@bob"', '["http"]', "streams = 2") + _rule('"@bob"', '"*"', 'idle = "5m"'),
            [bob],
            [b + "http, 2 streams at once; console and ssh and every other service, 5 minutes of silence at most"],
        ),
        (
            _rule('"@bob"', '["http", "console", "new"]', "read_only = true"),
            [bob],
            [b + "console and new, only reading, so only serial services"],
        ),
        (
            _rule('"@bob"', '["http"]', "until = 2020-01-01") + _rule('"@bob"', '"*"'),
            [bob],
            [b + "console and ssh and every other service"],
        ),
        # A grant with services stands on its own, but for the rules for all holders.
        ("", [_grant(1, BOB, ["http"])], [b + "http"]),
        (_rule('"@bob"', "[]"), [_grant(1, BOB, ["http"])], [b + "http"]),
        (_rule('"holders"', '["http"]', 'max_bytes = "1M"'), [_grant(1, BOB, ["*"])], [b + "http, 1 MiB a session"]),
        (_rule('"holders"', "[]"), [_grant(1, BOB, ["*"])], [b + "nothing"]),
        (_rule('"holders"', "[]") + _rule('"@bob"', '"*"'), [bob], [b + "nothing"]),
        (
            _rule('"holders"', '["http", "ssh"]', "streams = 3") + _rule('"@bob"', '["http", "console"]', "streams = 2", 'idle = "5m"'),
            [bob],
            [b + "http, 2 streams at once, 5 minutes of silence at most"],
        ),
        (_rule('"@bob"', '["http", "ssh"]'), [_grant(1, BOB, ["http"], member=True)], [b + "http"]),
        ("", [_grant(1, BOB, ["*"], streams=3)], [b + "every service, 3 streams at once"]),
        ("", [_grant(1, BOB, ["http"], until=NOW)], []),
        ("", [_grant(1, BOB, ["http"], taken_back="2026")], []),
    ):
        assert _said(_view(text, *grants)) == lines, text
    (line,) = _said(_view("", _grant(1, BOB, ["http"], until=NOW + 7200)))
    assert line.startswith("@bob, by grant 0000000000000001 (until ") and line.endswith(", in 2 hours): http")
    for parties in ({}, {"bob": EVE}):
        assert _said(_view("", _grant(1, BOB, ["http"])), parties) == [f"@bob ({BOB.fp}), by grant 0000000000000001: http"]


@pytest.mark.parametrize(
    "text, grants, service, yes, why",
    [
        ("", [], "http", False, "holds no grant for @pi: `zts grant @bob @pi:http`"),
        ("", [_grant(1, EVE, ["http"])], "http", False, "holds no grant"),
        ("", [_grant(1, BOB)], "http", False, "no rule gives @bob the service http"),
        (
            _rule('"@bob"', '["http"]', "streams = 2"),
            [_grant(1, BOB)],
            "http",
            True,
            "grant 0000000000000001 and rule 1 (line 1), 2 streams",
        ),
        (_rule('"@bob"', '["http"]'), [_grant(1, BOB)], "ssh", False, "no rule gives @bob the service ssh"),
        ("", [_grant(1, BOB, ["http", "ssh"])], "console", False, "it is for http, ssh"),
        ("", [_grant(1, BOB, [])], "http", False, "it is for nothing"),
        ("", [_grant(1, BOB, ["http"])], "http", True, "by grant 0000000000000001"),
        ("", [_grant(1, BOB, ["*"])], "unheard-of", True, "by grant 0000000000000001"),
        ("", [_grant(1, BOB, ["http"], until=NOW)], "http", False, "which was 0 seconds ago"),
        ("", [_grant(1, BOB, ["http"], until=NOW + 1)], "http", True, "in 1 second"),
        ("", [_grant(1, BOB, ["http"], taken_back="2026")], "http", False, "it was taken back"),
        (_rule('"holders"', '["ssh"]'), [_grant(1, BOB, ["http"])], "http", False, "the rules for holders do not name http"),
        (_rule('"holders"', '"*"'), [_grant(1, BOB, ["http"])], "http", True, "grant 0000000000000001 and rule 1 (line 1)"),
        (_rule('"@bob"', '"*"', "until = 2020-01-01"), [_grant(1, BOB)], "http", False, "rule 1 (line 1) held until 2020-01-02"),
        (_rule('"@bob"', '"*"', "read_only = true"), [_grant(1, BOB)], "http", False, "http is no serial service"),
        (_rule('"@bob"', '"*"', "read_only = true"), [_grant(1, BOB)], "console", True, "only reading"),
        ("", [_grant(1, BOB, ["*"], read_only=True)], "unheard-of", False, "unheard-of is no serial service"),
        (_rule('"holders"', '["ssh"]') + _rule('"@bob"', '"*"'), [_grant(1, BOB)], "http", False, "the rules for holders do not name http"),
        (
            _rule('"holders"', '"*"') + _rule('"@bob"', '"*"'),
            [_grant(1, BOB)],
            "http",
            True,
            "0001 and rule 1 (line 1) and rule 2 (line 5)",
        ),
        (_rule('"holders"', '"*"', "until = 2020-01-01") + _rule('"@bob"', '"*"'), [_grant(1, BOB)], "http", False, "rule 1 (line 1) held"),
        ("", [_grant(1, BOB, ["ssh"]), _grant(2, BOB, ["http"])], "http", True, "by grant 0000000000000002"),
        ("", [_grant(1, BOB, ["ssh"]), _grant(2, BOB)], "http", False, "0001: it is for ssh; grant 0000000000000002: no rule"),
    ],
)
def test_one_question(text: str, grants: list[Issued], service: str, yes: bool, why: str) -> None:
    answer, reason = policy_view.judge(_view(text, *grants), BOB, service, NOW)
    assert (answer, why in reason) == (yes, True), reason


def test_a_generation_takes_back_all_before() -> None:
    view = _view("", _grant(1, BOB, ["http"]), card=replace(PI, generation=1))
    assert policy_view.judge(view, BOB, "http", NOW) == (False, "grant 0000000000000001: it was taken back")
    assert _said(view) == []


_ends = st.sampled_from([0, NOW - 1, NOW, NOW + 1])
_services = st.none() | st.sampled_from([["*"], [], ["http"], ["console", "ssh"]])
_grants = st.lists(
    st.tuples(st.sampled_from([BOB, EVE]), _services, _ends, st.booleans(), st.sampled_from([None, "2026"]), st.booleans()), max_size=3
).map(
    lambda rows: [
        _grant(n, who, services, back, until=until, read_only=ro, member=member)
        for n, (who, services, until, ro, back, member) in enumerate(rows)
    ]
)
_rules = st.lists(
    st.builds(
        Rule,
        st.just("rule"),
        st.sampled_from([("pi",), ("other",), ("*",)]),
        st.just(("@x",)),
        st.sampled_from([(), ("bob",), ("bob", "eve"), ("gone",)]),
        st.booleans(),
        st.sampled_from([None, (), ("http",), ("console", "ssh")]),
        _ends,
        st.just(0),
        st.just(0),
        st.booleans(),
        st.just(0),
    ),
    max_size=4,
)


@settings(deadline=None, database=None, max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(_rules, _grants)
def test_yes_and_no_are_the_devices_and_every_no_has_its_reason(rules: list[Rule], grants: list[Issued]) -> None:
    fps = {name: _fp(party) for name, party in PARTIES.items()}
    revoked = [issued.id for issued in grants if issued.taken_back]
    compiled = policy.Policy(policy_file.compile_rules(rules, "pi", fps, 0, 1, revoked))
    view = View(OWNER, PI, compiled, rules, grants)
    for party in (BOB, EVE, DAN):
        for kind, service in (*SERVICES, (wire.SERVICE_TCP, "unheard-of")):
            decided = [
                policy.decide(OWNER, compiled, _fp(party), one.id, one.terms, service, kind, NOW)[0] == wire.OK
                for one in grants
                if one.fp == party.fp
            ]
            yes, why = policy_view.judge(view, party, service, NOW)
            assert yes == any(decided) and why
            # A reason that speaks of an end speaks of one that has come; one that speaks of reading, of something read-only.
            assert yes or ", in " not in why
            assert yes or "only reading" not in why or any([one.read_only for one in rules] + [one.terms.read_only for one in grants])
    assert len(list(policy_view.explain(view, PARTIES, NOW))) == 2 + sum(granting.state(PI, one, NOW) == "valid" for one in grants)


def _warned(text: str, grants: "dict[str, list[Issued]] | None" = None, cards: Sequence[Card] = (PI,)) -> list[str]:
    made = dict.fromkeys((card.name for card in cards), ()) | (grants or {})
    return list(policy_view.warnings(policy_file.parse(text), cards, PARTIES, made, NOW))


def test_warnings() -> None:
    members = {"pi": [_grant(1, BOB), _grant(2, EVE)]}
    for text, hints in (
        (_rule('"@bob", "@eve"', '["http"]'), []),
        (_rule('"holders"', '["http"]'), []),
        (_rule('"@dan"', '["http"]'), ["rule 1 (line 1): @dan is no member"]),
        (_rule('"@gone"', '["http"]'), ["nobody is known here as @gone"]),
        (_rule('"@bob"', '["http"]', devices='"@pj"'), ["@pj is none of your devices"]),
        (_rule('"@bob"', '["http"]', devices='"@pi", "@lab-*"'), ["@lab-* matches none of your devices"]),
        (_rule('"@bob"', '["http"]', "until = 2020-01-01"), ["rule 1 (line 1) held until 2020-01-02"]),
        (_rule('"@bob"', '"*"') + _rule('"@bob"', '["http"]'), ["rule 2 (line 5) never holds: rule 1 (line 1) comes first"]),
        (_rule('"@bob"', '["http"]') + _rule('"@bob"', '"*"'), []),
        (_rule('"@bob"', '["http"]') + _rule('"@bob", "@eve"', '["http"]'), []),
        (
            _rule('"@bob"', '["http"]') + _rule('"@eve"', '["http"]') + _rule('"@bob", "@eve"', '["http"]'),
            ["rule 3 (line 9) never holds: rule 2"],
        ),
        (_rule('"@bob"', '["http", "ssh"]') + _rule('"@bob"', '["ssh"]'), ["rule 2"]),
        (_rule('"@bob"', '"*"') + _rule('"@bob"', '"*"'), ["rule 2"]),
        (_rule('"@bob"', '"*"') + _rule('"@bob", "holders"', '"*"'), []),
        (_rule('"@bob"', '"*"') + _rule('"@bob"', "[]"), []),
        (_rule('"@bob"', '"*"', devices='"@other"') + _rule('"@bob"', '"*"'), ["@other is none"]),
    ):
        said = _warned(text, members)
        assert len(said) == len(hints) and all(hint in one for hint, one in zip(hints, said, strict=True)), (text, said)


def test_a_rule_is_shadowed_only_where_it_is_on_every_device() -> None:
    cards = [PI, replace(PI, name="pj")]
    grants = {"pi": [_grant(1, BOB)], "pj": [_grant(2, BOB)]}
    both = '"@p*"'
    assert _warned(_rule('"@bob"', '"*"') + _rule('"@bob"', '["http"]', devices=both), grants, cards) == []
    (said,) = _warned(_rule('"@bob"', '"*"', devices=both) + _rule('"@bob"', '["http"]'), grants, cards)
    assert "rule 2" in said


def test_a_grant_that_rules_have_no_part_in_is_no_membership() -> None:
    text = _rule('"@bob"', '["http"]')
    for grants in (
        [_grant(1, BOB, ["http"])],
        [_grant(1, BOB, until=NOW)],
        [_grant(1, BOB, taken_back="2026")],
        [replace(_grant(1, BOB), id=b"\0\1" + bytes(6))],
        [_grant(1, EVE)],
    ):
        (said,) = _warned(text, {"pi": grants})
        assert "`zts grant @bob @pi`" in said
