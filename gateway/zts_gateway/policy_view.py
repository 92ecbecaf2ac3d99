"""What a policy means, in words: who may do what on which device, and why. Pure.

Yes and no come from `zts.policy.decide`, as on the device; only the reasons are found here.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from zts import wire
from zts.grant import Terms
from zts.policy import Limits, Policy, decide
from zts_gateway import amounts, granting
from zts_gateway.addressbook import Card, Issued, Party
from zts_gateway.policy_file import HOLDERS, Rule, matches, of_device

_OTHER = "?"  # no service is called so: it stands for those that nobody named


class View(NamedTuple):
    """A device of ours, its policy compiled, the rules it is of, and the grants made for it. `owner` is our fingerprint, 15 bytes."""

    owner: bytes
    card: Card
    policy: Policy
    rules: Sequence[Rule]
    grants: Sequence[Issued]

    def kind(self, service: str, unknown: int) -> int:
        return {name: kind for kind, name in self.card.services}.get(service, unknown)


# --- who may do what -------------------------------------------------------------------------------------------------------------


def explain(view: View, parties: Mapping[str, Party], now: int) -> Iterator[str]:
    """A line for each who may do anything."""
    yield "you: everything"
    for issued in view.grants:
        if granting.state(view.card, issued, now) != "valid":
            continue
        may = _may(view, issued.id, issued.terms, now)
        ends = issued.terms.until
        end = f" ({amounts.say_until(ends, now)})" if ends else ""
        yield f"{granting.say_holder(issued, parties)}, by grant {issued.id.hex()}{end}: {'; '.join(may) or 'nothing'}"
    yield "everybody else: nothing"


def _may(view: View, id_: bytes, terms: Terms, now: int) -> Iterator[str]:
    """What the grant gives, services with the same limits together."""
    named = [name for rule in of_device(view.rules, view.card.name) for name in rule.services or ()]
    names = dict.fromkeys([*(terms.services or ()), *named, *(name for _, name in view.card.services)])
    # Of a service not heard of nobody knows the kind. SERIAL is the one of which only reading is not refused.
    given = {name: _decided(view, id_, terms, name, view.kind(name, wire.SERVICE_SERIAL), now) for name in [*names, _OTHER]}
    for limits in dict.fromkeys(given.values()):
        if limits is None:
            continue
        said = [name for name in names if given[name] == limits]
        if given[_OTHER] == limits:
            said = ["every service"] if all(given[name] == limits for name in names) else [*said, "every other service"]
        # The grant's own end is said once for all of it.
        limits = limits._replace(until=0) if limits.until == terms.until else limits
        yield ", ".join([" and ".join(said), *granting.say_limits(limits, now)])


def _decided(view: View, id_: bytes, terms: Terms, service: str, kind: int, now: int) -> Limits | None:
    code, limits = decide(view.owner, view.policy, terms.holder, id_, terms, service, kind, now)
    return limits if code == wire.OK else None


# --- one question ----------------------------------------------------------------------------------------------------------------


def judge(view: View, party: Party, service: str, now: int) -> tuple[bool, str]:
    """Whether `party`, with any grant it holds, may use `service` then, and why."""
    held = [issued for issued in view.grants if issued.fp == party.fp]
    who, where = f"@{party.name}", f"@{view.card.name}"
    if not held:
        return False, f"{who} holds no grant for {where}: `zts grant {who} {where}:{service}` makes one"
    # Of a service not heard of, TCP promises least: nobody knows what only reading of it would be.
    kind = view.kind(service, wire.SERVICE_TCP)
    reasons = []
    for issued in held:
        terms = issued.terms
        code, limits = decide(view.owner, view.policy, terms.holder, issued.id, terms, service, kind, now)
        if code == wire.OK:
            under = [f"grant {issued.id.hex()}", *(rule.where for rule in _rules(view, terms, party, service) if rule)]
            return True, ", ".join([f"by {' and '.join(under)}", *granting.say_limits(limits, now)])
        why = "it was taken back" if code == wire.REVOKED else _why(view, terms, party, service, now)
        reasons.append(f"grant {issued.id.hex()}: {why}")
    return False, "; ".join(dict.fromkeys(reasons))


def _rules(view: View, terms: Terms, party: Party, service: str) -> list[Rule | None]:
    """Of those that must be there for this grant: the first for all holders, if there are any, and the first for a member."""
    there = of_device(view.rules, view.card.name)
    who = [None] * any(rule.holders for rule in there) + [party.name] * terms.member
    return [next((rule for rule in there if rule.names(one, service)), None) for one in who]


def _why(view: View, terms: Terms, party: Party, service: str, now: int) -> str:
    """Why not."""
    if terms.until and now >= terms.until:
        return f"it held {amounts.say_until(terms.until, now)}"
    if terms.services is not None and service not in terms.services:
        return f"it is for {', '.join(terms.services) or 'nothing'}"
    rules = _rules(view, terms, party, service)
    if terms.member and rules[-1] is None:
        return f"no rule gives @{party.name} the service {service}"
    if None in rules:
        return f"the rules for {HOLDERS} do not name {service}"
    for rule in rules:
        if rule and rule.until and now >= rule.until:
            return f"{rule.where} held {amounts.say_until(rule.until, now)}"
    return f"only reading is allowed, and {service} is no serial service"


# --- what is probably not meant --------------------------------------------------------------------------------------------------


def warnings(
    rules: Sequence[Rule], cards: Sequence[Card], parties: Mapping[str, Party], grants: Mapping[str, Sequence[Issued]], now: int
) -> Iterator[str]:
    """`cards` are our devices, `grants` what was made for each, by its name."""
    for at, rule in enumerate(rules):
        for pattern in rule.devices:
            if not any(matches(pattern, card.name) for card in cards):
                kind = "matches none" if "*" in pattern else "is none"
                yield f"{rule.where}: @{pattern} {kind} of your devices"
        unknown = [name for name in rule.parties if name not in parties]
        for name in unknown:
            yield f"{rule.where}: nobody is known here as @{name}, so it gives @{name} nothing; add the card: `zts add`"
        if rule.until and rule.until <= now:
            yield f"{rule.where} held {amounts.say_until(rule.until, now)}; later rules for the same do not take its place, so remove it"
        mine = [card for card in cards if any(matches(pattern, card.name) for pattern in rule.devices)]
        if mine and (before := _shadow(rules[:at], rule, mine)):
            yield f"{rule.where} never holds: {before.where} comes first and names the same"
        for name in rule.parties:
            if name in parties and mine and not any(_member(card, grants[card.name], parties[name], now) for card in mine):
                yield (f"{rule.where}: @{name} is no member; make one: `zts grant @{name} @{mine[0].name}`, without services")


def _member(card: Card, grants: Sequence[Issued], party: Party, now: int) -> bool:
    return any(issued.fp == party.fp and issued.terms.member and granting.state(card, issued, now) == "valid" for issued in grants)


def _shadow(earlier: Sequence[Rule], rule: Rule, cards: Sequence[Card]) -> Rule | None:
    """The last needed of the earlier rules that together leave it nothing, on all of these devices."""
    services = rule.services if rule.services is not None else (_OTHER,)
    last: Rule | None = None
    for card in cards:
        there = of_device(earlier, card.name)
        for party in [*rule.parties, *([None] if rule.holders else [])]:
            for service in services:
                first = next((one for one in there if one.names(party, service)), None)
                if first is None:
                    return None
                if last is None or earlier.index(first) > earlier.index(last):
                    last = first
    return last
