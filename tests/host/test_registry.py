"""The relay's state: who is enrolled, which codes are good, what two processes see of each other, files fit for secrets."""

import os
import sqlite3
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from relay_client import key_pair
from zts import codes, identity, wire
from zts.errors import FormatError
from zts_relay.registry import DEVICE, OWNER, UNUSED_CODES, Registry

DAY = wire.CODE_TTL_S


class _Clock:
    now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> _Clock:
    return _Clock()


@pytest.fixture
def registry(tmp_path: Path, clock: _Clock) -> Iterator[Registry]:
    registry = Registry(tmp_path / "state", clock)
    yield registry
    registry.close()


def _code(registry: Registry, role: str = OWNER, made_by: bytes | None = None) -> bytes:
    secret = registry.make_code(role, made_by)
    assert secret
    code_id: bytes = codes.code_id(secret)
    return code_id


def _public() -> bytes:
    return key_pair()[1]


def test_everything_in_the_state_directory_is_for_its_owner_only(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        registry = Registry(tmp_path / "state")
        _code(registry)
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "state").iterdir()}
        registry.close()
    finally:
        os.umask(old)
    assert {"relay.secret", "relay.key", "registry.sqlite", "registry.sqlite-wal"} <= modes.keys()
    assert set(modes.values()) == {0o600}
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700


def test_keys_stay_the_same(tmp_path: Path) -> None:
    first = Registry(tmp_path / "state")
    keys = (first.secret, first.key_pair)
    first.close()
    second = Registry(tmp_path / "state")
    assert (second.secret, second.key_pair) == keys
    assert len({*keys[1], keys[0]}) == 3
    second.close()


@pytest.mark.parametrize("name", ["relay.secret", "relay.key"])
@pytest.mark.parametrize("damage", [b"", bytes(31), bytes(33)])
def test_a_damaged_key_is_not_replaced(tmp_path: Path, name: str, damage: bytes) -> None:
    Registry(tmp_path).close()
    (tmp_path / name).write_bytes(damage)
    with pytest.raises(FormatError, match=name):
        Registry(tmp_path)
    assert (tmp_path / name).read_bytes() == damage


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_a_key_that_others_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    Registry(tmp_path).close()
    (tmp_path / "relay.secret").chmod(mode)
    with pytest.raises(FormatError, match="others may read"):
        Registry(tmp_path)


@pytest.mark.parametrize("mode", [0o770, 0o707])
def test_a_directory_that_others_may_write_to_is_refused(tmp_path: Path, mode: int) -> None:
    tmp_path.chmod(mode)
    with pytest.raises(FormatError, match="others may write"):
        Registry(tmp_path)


def test_a_file_in_the_place_of_the_directory_or_the_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("")
    with pytest.raises(FormatError, match="cannot use the state directory"):
        Registry(tmp_path / "state")
    (tmp_path / "registry.sqlite").write_text("this is no database, and long enough to be seen as none" * 20)
    with pytest.raises(FormatError, match="no registry"):
        Registry(tmp_path)


def test_no_secret_of_a_code_is_stored(tmp_path: Path, registry: Registry) -> None:
    secret = registry.make_code(OWNER)
    assert secret
    for path in (tmp_path / "state").iterdir():
        assert secret not in path.read_bytes()


def test_a_code_is_used_once(registry: Registry) -> None:
    code_id, public = _code(registry), _public()
    first = registry.enrol(code_id, public, "alice")
    assert first.code == wire.OK and first.is_new and first.party
    assert registry.enrol(code_id, _public(), "eve") == (wire.DENIED, None, False)
    assert registry.enrol(code_id, public, "again") == (wire.OK, first.party, False)
    assert registry.parties() == [first.party]
    assert first.party.role == OWNER and first.party.name == "alice"


def test_an_unknown_code_is_denied(registry: Registry) -> None:
    assert registry.enrol(bytes(8), _public(), "").code == wire.DENIED
    assert registry.parties() == []


@pytest.mark.parametrize(("age", "code"), [(DAY - 1, wire.OK), (DAY, wire.DENIED), (DAY + 1, wire.DENIED)])
def test_a_code_lives_a_day(registry: Registry, clock: _Clock, age: int, code: int) -> None:
    code_id = _code(registry)
    clock.now += age
    assert registry.enrol(code_id, _public(), "").code == code


def test_a_used_code_gives_the_same_account_even_when_it_has_expired(registry: Registry, clock: _Clock) -> None:
    code_id, public = _code(registry), _public()
    first = registry.enrol(code_id, public, "")
    clock.now += DAY
    assert registry.enrol(code_id, public, "").party == first.party


def test_codes_are_forgotten_but_for_what_they_were_used_for(registry: Registry, clock: _Clock) -> None:
    unused, used = _code(registry), _code(registry)
    party = registry.enrol(used, _public(), "").party
    assert party
    clock.now += DAY + 5
    _code(registry)
    kept = registry.code(unused)
    assert kept and kept.psk
    clock.now += DAY
    _code(registry)
    assert registry.code(unused) is None
    kept = registry.code(used)
    assert kept and kept.psk is None and kept.used_by == party.account


def test_of_many_who_use_a_code_at_once_in_many_processes_one_gets_in(tmp_path: Path, registry: Registry, clock: _Clock) -> None:
    code_id = _code(registry)
    barrier = threading.Barrier(8)
    codes: list[int] = []

    def race() -> None:
        other = Registry(tmp_path / "state", clock)  # a connection of its own, as a process has
        barrier.wait(30)
        codes.append(other.enrol(code_id, _public(), "").code)
        other.close()

    threads = [threading.Thread(target=race) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(codes) == [wire.OK] + 7 * [wire.DENIED]


def test_of_two_who_make_the_keys_at_once_both_use_the_same(tmp_path: Path) -> None:
    barrier = threading.Barrier(8)
    keys: list[bytes] = []

    def race() -> None:
        barrier.wait(30)
        registry = Registry(tmp_path / "fresh")
        keys.append(registry.secret + registry.public)
        registry.close()

    threads = [threading.Thread(target=race) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(keys) == 8 and len(set(keys)) == 1
    assert not [path for path in (tmp_path / "fresh").iterdir() if path.name.startswith(".")]


def test_a_known_key_keeps_its_account_with_a_new_code_of_its_role(registry: Registry) -> None:
    public = _public()
    first = registry.enrol(_code(registry), public, "alice").party
    assert first
    assert registry.enrol(_code(registry), public, "") == (wire.OK, first, False)
    device_code = _code(registry, DEVICE, first.account)
    assert registry.enrol(device_code, public, "").code == wire.DENIED
    device = registry.enrol(device_code, _public(), "pi").party
    assert device and device.made_by == first.account
    assert registry.enrol(_code(registry), device.public, "").code == wire.DENIED, "a device became an owner"


def test_a_revoked_key_stays_out(registry: Registry) -> None:
    code_id, public = _code(registry), _public()
    party = registry.enrol(code_id, public, "alice").party
    assert party
    assert registry.is_active(party.account) and registry.may_log_in(party.fp, registry.password_text(party.account))
    unused = _code(registry, DEVICE, party.account)
    registry.revoke(party.account)
    assert not registry.is_active(party.account)
    assert not registry.may_log_in(party.fp, registry.password_text(party.account))
    assert list(registry.logins()) == []
    for again in (code_id, _code(registry)):
        assert registry.enrol(again, public, "").code == wire.REVOKED
    assert registry.enrol(unused, _public(), "").code == wire.DENIED, "a code outlived its maker"
    assert not registry.is_active(bytes(8))


def test_unused_codes_of_an_owner_are_bounded(registry: Registry, clock: _Clock) -> None:
    owner = registry.enrol(_code(registry), _public(), "").party
    assert owner
    made = [_code(registry, DEVICE, owner.account) for _ in range(UNUSED_CODES)]
    assert registry.make_code(DEVICE, owner.account) is None
    _code(registry)  # the operator's are not bounded
    registry.enrol(made[0], _public(), "")
    _code(registry, DEVICE, owner.account)
    assert registry.make_code(DEVICE, owner.account) is None
    clock.now += 2 * DAY + 1
    _code(registry, DEVICE, owner.account)


def test_what_another_process_does_is_seen(tmp_path: Path, registry: Registry, clock: _Clock) -> None:
    other = Registry(tmp_path / "state", clock)
    party = registry.enrol(_code(other), _public(), "alice").party
    assert party and other.party(party.account) is None
    assert other.refresh() == [] and other.party(party.account) == party
    assert registry.refresh() == [] and registry.refresh() == []
    other.revoke(party.account)
    assert registry.is_active(party.account)
    assert [gone.account for gone in registry.refresh()] == [party.account]
    assert not registry.is_active(party.account)
    assert registry.refresh() == []
    other.close()


def test_a_revocation_that_cannot_be_read_is_seen_later_and_locks_nobody_out(tmp_path: Path, registry: Registry, clock: _Clock) -> None:
    alice, bob = (registry.enrol(_code(registry), _public(), "").party for _ in range(2))
    assert alice and bob
    other = Registry(tmp_path / "state", clock)
    other.revoke(alice.account)
    registry._db.set_authorizer(lambda *_: sqlite3.SQLITE_DENY)
    with pytest.raises(sqlite3.Error):
        registry.refresh()
    registry._db.set_authorizer(lambda action, *_: sqlite3.SQLITE_DENY if action == sqlite3.SQLITE_READ else sqlite3.SQLITE_OK)
    with pytest.raises(sqlite3.Error):
        registry.refresh()
    assert registry.is_active(bob.account)
    registry._db.set_authorizer(None)
    assert [gone.account for gone in registry.refresh()] == [alice.account]
    assert registry.is_active(bob.account) and not registry.is_active(alice.account)
    other.close()


def test_logging_in(registry: Registry, clock: _Clock) -> None:
    alice, eve = (registry.enrol(_code(registry), _public(), "").party for _ in range(2))
    assert alice and eve
    password = registry.password_text(alice.account)
    assert len(password) == 26 and password.decode() == identity.base32(registry.password(alice.account))
    assert dict(registry.logins())[alice.fp] == password
    assert registry.may_log_in(alice.fp, password)
    for user, said in [(alice.fp, b""), (alice.fp, password[:-1]), (alice.fp, password + b"a"), (eve.fp, password), ("a" * 24, password)]:
        assert not registry.may_log_in(user, said)


def test_finding_parties(registry: Registry) -> None:
    found = [registry.enrol(_code(registry), _public(), name).party for name in ("alice", "pi", "pi")]
    assert found[0]
    assert registry.find("@alice") == registry.find(found[0].fp) == [found[0]]
    assert len(registry.find("@pi")) == 2
    assert registry.find("@nobody") == registry.find("a" * 24) == []
    for wrong in ("alice", "@", "@Alice", "", "a" * 23):
        with pytest.raises(FormatError):
            registry.find(wrong)


def test_the_address_is_kept(tmp_path: Path, registry: Registry) -> None:
    assert registry.address() is None and registry.is_new
    for host in ("relay.example", "::1"):
        registry.remember_address(host, 7440)
        assert registry.address() == (host, 7440)
    assert registry.is_new
    _code(registry)
    assert not registry.is_new


def test_a_failed_transaction_changes_nothing(registry: Registry) -> None:
    public, code_id = _public(), _code(registry)
    with pytest.raises(sqlite3.IntegrityError):
        registry.enrol(code_id, public, None)  # type: ignore[arg-type]
    code = registry.code(code_id)
    assert code and code.used_by is None and registry.parties() == []
    assert registry.enrol(code_id, public, "").code == wire.OK
