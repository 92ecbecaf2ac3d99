"""An owner's policy as a person writes it, in TOML, and as a device reads it. Pure. PROTOCOL.md, "Policy".

One file for all devices of an owner. A device's policy is of the rules that name it, in their order; the first that names both a
party and a service holds.
"""

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from typing import Any, NamedTuple

from zts import crypto, identity, wire
from zts.errors import FormatError
from zts.policy import Limits
from zts_gateway import amounts, granting

HOLDERS = "holders"
PARTIES_MAX = 254
_SERVICES_MAX = 255
_REVOKED_MAX = 255
_KIB_MAX = 0xFFFFFFFF
_KEYS = ("devices", "who", "services", "until", "streams", "max_bytes", "read_only", "idle")

TEMPLATE = """\
# Who may use which services of your devices. You may use everything; nobody else may use anything without a grant.
# A grant that names services (zts grant @bob @sensor42:http) stands on its own. One that names none (zts grant @bob @sensor42) makes a
# member: it gives what the first rule gives that names both its holder and the service. Rules for "holders" are for every grant, of
# members too: if there are any for a device, the first of them that names the service must be there, and limits it.
# Nothing here holds on a device before zts policy push.

# [groups]
# lab = ["@bob", "@eve"]

# [[rules]]
# devices = ["@sensor42", "@lab-*"]  # * stands for one or more of a-z 0-9 - _
# who = ["@bob", "lab"]              # parties and groups; or "holders"
# services = ["http"]                # or "*": every one
# until = 2026-12-31                 # to the end of that day, where this computer is; or 2026-12-31T09:00:00
# streams = 4                        # at once
# max_bytes = "10M"                  # of a session
# read_only = true                   # of serial services what comes from the device, and nothing else
# idle = "5m"                        # ends a stream on which nothing passes so long
"""


class Rule(NamedTuple):
    """`where` it stands, for people. `who` as written, and what that comes to: `parties`, by name, and whether `holders`.

    `services` None is every one. Of the limits 0 is none; `until` is seconds since 1970, `idle` seconds.
    """

    where: str
    devices: tuple[str, ...]
    who: tuple[str, ...]
    parties: tuple[str, ...]
    holders: bool
    services: tuple[str, ...] | None
    until: int
    streams: int
    kib: int
    read_only: bool
    idle: int

    @property
    def limits(self) -> Limits:
        return Limits(self.until, self.streams, self.kib << 10, self.idle, self.read_only)

    def names(self, party: str | None, service: str) -> bool:
        """Whether it names both; `party` None: all holders."""
        named = self.holders if party is None else party in self.parties
        return named and (self.services is None or service in self.services)


# --- reading -------------------------------------------------------------------------------------------------------------------


def parse(text: str) -> list[Rule]:
    """Raises FormatError, which says where and what to do."""
    try:
        data = tomllib.loads(text)
    except RecursionError:
        raise FormatError("lists in lists in lists are no policy") from None
    except ValueError as error:
        raise FormatError(f"this is no TOML: {error}") from None
    _only(data, ("groups", "rules"), "")
    groups = _groups(data.get("groups", {}))
    rules = data.get("rules", [])
    if not isinstance(rules, list) or not all(isinstance(rule, dict) for rule in rules):
        raise FormatError("rules: each begins with a line [[rules]]")
    lines = [number for number, line in enumerate(text.split("\n"), 1) if "".join(line.split()).startswith("[[rules]]")]
    # Were they written in another way, the lines that were found would mislead.
    places = [f" (line {line})" for line in lines] if len(lines) == len(rules) else [""] * len(rules)
    return [_rule(rule, groups, f"rule {number}{place}") for number, (rule, place) in enumerate(zip(rules, places, strict=True), 1)]


def _only(table: dict[str, Any], known: Sequence[str], where: str) -> None:
    for key in table:
        if key not in known:
            raise FormatError(f"{where}unknown key '{key}': there are {', '.join(known)}")


def _groups(data: Any) -> dict[str, list[str]]:
    if not isinstance(data, dict):
        raise FormatError('groups: write [groups] and below it, for example, lab = ["@bob", "@eve"]')
    groups = {}
    for name, members in data.items():
        where = f"group '{name}': "
        if name.startswith("@"):
            raise FormatError(f"{where}a group has no @")
        if _checked(name, where) == HOLDERS:
            raise FormatError(f"{where}this word means all who hold a grant; choose another")
        groups[name] = [_named(member, where) for member in _list(members, where, '["@bob", "@eve"]')]
    return groups


def _rule(data: dict[str, Any], groups: dict[str, list[str]], place: str) -> Rule:
    where = f"{place}: "
    _only(data, _KEYS, where)
    devices = [
        check_pattern(word, f"{where}devices: ") for word in _list(_needed(data, "devices", where), f"{where}devices: ", '["@sensor42"]')
    ]
    who = _list(_needed(data, "who", where), f"{where}who: ", '["@bob"]')
    parties: list[str] = []
    for word in who:
        if word.startswith("@"):
            parties.append(_named(word, f"{where}who: "))
        elif word in groups:
            parties += groups[word]
        elif word != HOLDERS:
            raise FormatError(f"{where}who: '{word}' is no group here; a party is written with @, and {HOLDERS} are all who hold a grant")
    for key, named in (("devices", devices), ("who", who)):
        if not named:
            raise FormatError(f"{where}{key}: names nobody; leave the rule out")
    services = _needed(data, "services", where)
    if services != "*":
        services = tuple(_service(name, f"{where}services: ") for name in _list(services, f"{where}services: ", '["http"] or "*"'))
    return Rule(
        place,
        tuple(devices),
        tuple(who),
        tuple(dict.fromkeys(parties)),
        HOLDERS in who,
        None if services == "*" else tuple(dict.fromkeys(services)),
        _until(data.get("until"), f"{where}until: "),
        _streams(data.get("streams"), f"{where}streams: "),
        _kib(data.get("max_bytes"), f"{where}max_bytes: "),
        _read_only(data.get("read_only", False), f"{where}read_only: "),
        _amount(data.get("idle"), f"{where}idle: ", lambda text: amounts.parse_duration(text, granting.IDLE_MAX), '"5m"'),
    )


def _needed(data: dict[str, Any], key: str, where: str) -> Any:
    if key not in data:
        raise FormatError(f"{where}{key} is missing")
    return data[key]


def _list(value: Any, where: str, example: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
        raise FormatError(f"{where}write a list of words, such as {example}")
    return value


def _checked(name: str, where: str) -> str:
    try:
        return identity.check_name(name)
    except FormatError as error:
        raise FormatError(f"{where}{error}") from None


def _named(word: str, where: str) -> str:
    if not word.startswith("@"):
        raise FormatError(f"{where}'{word}' has no @ in front; parties are written as @bob")
    return _checked(word, where)


def _service(name: str, where: str) -> str:
    try:
        return granting.check_service(name)
    except FormatError as error:
        raise FormatError(f"{where}{error}" + ('; write services = "*"' if "*" in name else "")) from None


def check_pattern(word: str, where: str = "") -> str:
    """A device's name, or a pattern, without its @. Raises FormatError."""
    if not word.startswith("@"):
        raise FormatError(f"{where}'{word}' has no @ in front; devices are written as @sensor42")
    if word.count("*") > 1:
        raise FormatError(f"{where}'{word}' has more than one *")
    # What * stands for is never empty, so with a character in its place it must be a name.
    try:
        identity.check_name(word.replace("*", "0"))
    except FormatError:
        raise FormatError(
            f"{where}'{word}' can match no name: use a-z, 0-9, '-', '_' and one *, up to {wire.NAME_MAX_CHARS} characters"
        ) from None
    return word[1:]


def _amount(value: Any, where: str, parse_: Any, example: str) -> int:
    if value is None:
        return 0
    if not isinstance(value, str):
        raise FormatError(f"{where}write {example}")
    try:
        return int(parse_(value))
    except FormatError as error:
        raise FormatError(f"{where}{error}") from None


def _until(value: Any, where: str) -> int:
    if value is None:
        return 0
    if not isinstance(value, date):
        raise FormatError(f"{where}write a day or a time without quotes, 2026-12-31 or 2026-12-31T09:00:00")
    try:
        return amounts.until(value)
    except FormatError as error:
        raise FormatError(f"{where}{error}") from None


def _streams(value: Any, where: str) -> int:
    if value is None:
        return 0
    if type(value) is not int or not 0 < value <= granting.STREAMS_MAX:
        raise FormatError(f"{where}write a number from 1 to {granting.STREAMS_MAX}")
    return value


def _kib(value: Any, where: str) -> int:
    size = _amount(str(value) if type(value) is int else value, where, lambda text: amounts.parse_size(text, _KIB_MAX << 10), '"10M"')
    if size & 1023:
        raise FormatError(f"{where}a policy counts in K, which is 1024 bytes; write {(size >> 10) + 1}K")
    return size >> 10


def _read_only(value: Any, where: str) -> bool:
    if not isinstance(value, bool):
        raise FormatError(f"{where}write true or false")
    return value


# --- a device's part -------------------------------------------------------------------------------------------------------------


def matches(pattern: str, name: str) -> bool:
    """Neither has an @. The * of a pattern stands for one character of names or more."""
    start, star, end = pattern.partition("*")
    if not star:
        return pattern == name
    return name.startswith(start) and name.endswith(end) and len(name) > len(start) + len(end)


def of_device(rules: Iterable[Rule], device: str) -> list[Rule]:
    return [rule for rule in rules if any(matches(pattern, device) for pattern in rule.devices)]


def compile_rules(
    rules: Iterable[Rule], device: str, parties: Mapping[str, bytes], generation: int, seq: int, revoked: Sequence[bytes]
) -> bytes:
    """The policy of `device`. `parties` are fingerprints by name, `revoked` ids of grants. Raises FormatError when it is too large.

    A name that is not in `parties` gives nothing to anybody, and takes nothing from others: so what no longer has a card here does
    not keep a policy from the device.
    """
    fps: list[bytes] = []
    services: list[str] = []
    rows = []
    for rule in of_device(rules, device):
        who = [_index(fps, parties[name]) for name in rule.parties if name in parties]
        if rule.holders:
            who.append(wire.POLICY_HOLDERS)
        if not who:
            continue
        named = [_index(services, name) for name in rule.services or ()]
        rows.append((rule, sorted(set(who)), named))
    if len(fps) > PARTIES_MAX:
        raise FormatError(f"the rules for @{device} name {len(fps)} parties, and a policy has room for {PARTIES_MAX}")
    if len(services) > _SERVICES_MAX:
        raise FormatError(f"the rules for @{device} name {len(services)} services, and a policy has room for {_SERVICES_MAX}")
    if len(revoked) > _REVOKED_MAX:
        raise FormatError(
            f"{len(revoked)} grants for @{device} were taken back, and a policy has room for {_REVOKED_MAX}; "
            f"`zts revoke --all @{device}` takes back every one and begins anew"
        )
    body = b"".join(_row(*row) for row in rows)
    if len(body) > wire.POLICY_MAX_BYTES:
        raise _too_large(device, len(body))
    blob = wire.MAGIC_POLICY + seq.to_bytes(4, "big") + generation.to_bytes(2, "big")
    blob += _counted(fps) + _counted([bytes([len(name)]) + name.encode() for name in services]) + _counted(revoked)
    blob += len(rows).to_bytes(2, "big") + body
    blob += crypto.sha256(blob)[: wire.POLICY_CHECK_BYTES]
    if len(blob) > wire.POLICY_MAX_BYTES:
        raise _too_large(device, len(blob))
    return blob


def _too_large(device: str, size: int) -> FormatError:
    return FormatError(
        f"the policy of @{device} would have {size} bytes, and a device has room for {wire.POLICY_MAX_BYTES}; "
        "put parties of one kind into one rule, or remove rules that have ended"
    )


def _index(found: list[Any], one: Any) -> int:
    if one not in found:
        found.append(one)
    return found.index(one)


def _counted(parts: Sequence[bytes]) -> bytes:
    return bytes([len(parts)]) + b"".join(parts)


def _row(rule: Rule, who: list[int], services: list[int]) -> bytes:
    flags = (1 if rule.read_only else 0) | (2 if rule.services is None else 0)
    head = bytes([flags]) + rule.until.to_bytes(4, "big") + bytes([rule.streams])
    head += rule.idle.to_bytes(2, "big") + rule.kib.to_bytes(4, "big")
    return head + _counted([bytes([index]) for index in who]) + _counted([bytes([index]) for index in services])
