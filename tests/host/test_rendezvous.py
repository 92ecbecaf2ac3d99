"""The table that pairs legs: who meets whom, who is refused, and that nothing is left behind."""

import random

import pytest

from zts import wire
from zts.leg import LegHello
from zts_relay.rendezvous import Quota, Rendezvous

SID = bytes(range(16))
ALICE, PI, EVE = b"alice...", b"pi......", b"eve....."
CLIENT, DEVICE = wire.ROLE_CLIENT, wire.ROLE_DEVICE


def _hello(role: int, account: bytes, peer: bytes, n: int = 1, sid: bytes = SID) -> LegHello:
    return LegHello(role, n, sid, account, peer)


def _table(parked: int = 8, joined: int = 8) -> Rendezvous[str]:
    return Rendezvous(Quota(parked, joined))


@pytest.mark.parametrize(
    ("second", "why"),
    [
        (_hello(CLIENT, PI, ALICE), "same role"),
        (_hello(DEVICE, PI, EVE), "peer is somebody else"),
        (_hello(DEVICE, EVE, ALICE), "somebody else than the peer"),
        (_hello(DEVICE, PI, ALICE, sid=bytes(16)), "other session"),
        (_hello(DEVICE, EVE, PI), "both differ"),
    ],
)
@pytest.mark.parametrize("is_swapped", [False, True])
def test_does_not_pair(second: LegHello, why: str, is_swapped: bool) -> None:
    table = _table()
    first = _hello(CLIENT, ALICE, PI)
    for hello in (second, first) if is_swapped else (first, second):
        assert table.arrive(hello, why) == (wire.OK, None, None)
    assert table.parked == 2


@pytest.mark.parametrize("role", [CLIENT, DEVICE])
def test_refuses_itself_as_peer(role: int) -> None:
    table = _table()
    assert table.arrive(_hello(role, ALICE, ALICE), "a").code == wire.PROTO
    assert table.claims == 0


@pytest.mark.parametrize("client_first", [False, True])
def test_pairs_crossing_legs(client_first: bool) -> None:
    table = _table()
    hellos = [_hello(CLIENT, ALICE, PI), _hello(DEVICE, PI, ALICE, n=7)]
    first, second = hellos if client_first else reversed(hellos)
    assert table.arrive(first, "first") == (wire.OK, None, None)
    assert table.arrive(second, "second") == (wire.OK, "first", None)
    assert table.parked == 0
    for hello in hellos:
        table.end(hello)
    assert table.claims == 0


def test_a_higher_number_replaces_and_an_equal_or_lower_is_refused() -> None:
    table = _table()
    assert table.arrive(_hello(CLIENT, ALICE, PI, n=5), "five") == (wire.OK, None, None)
    for n in (1, 4, 5):
        assert table.arrive(_hello(CLIENT, ALICE, PI, n=n), "late").code == wire.PROTO
    assert table.arrive(_hello(CLIENT, ALICE, PI, n=6), "six") == (wire.OK, None, "five")
    assert table.parked == 1
    table.withdraw(_hello(CLIENT, ALICE, PI, n=5), "five")  # it is closed now; "six" still waits
    assert table.arrive(_hello(DEVICE, PI, ALICE), "pi") == (wire.OK, "six", None)


def test_a_replacing_leg_may_wait_for_somebody_else() -> None:
    table = _table()
    table.arrive(_hello(CLIENT, ALICE, PI), "to pi")
    assert table.arrive(_hello(CLIENT, ALICE, EVE, n=2), "to eve").replaced == "to pi"
    assert table.arrive(_hello(DEVICE, PI, ALICE), "pi") == (wire.OK, None, None)
    assert table.arrive(_hello(DEVICE, EVE, ALICE), "eve") == (wire.OK, "to eve", None)
    table.arrive(_hello(CLIENT, ALICE, EVE, n=3), "again to eve")
    assert table.arrive(_hello(CLIENT, ALICE, PI, n=4), "now to pi") == (wire.OK, "pi", "again to eve")


def test_a_joined_leg_lives_on_while_a_higher_one_joins() -> None:
    table = _table()
    client, device = _hello(CLIENT, ALICE, PI), _hello(DEVICE, PI, ALICE)
    table.arrive(client, "c1")
    table.arrive(device, "d1")
    assert table.arrive(client, "replay").code == wire.PROTO
    client2, device2 = client._replace(n=2), device._replace(n=2)
    assert table.arrive(client2, "c2") == (wire.OK, None, None)
    assert table.arrive(device2, "d2") == (wire.OK, "c2", None)
    table.end(client)
    table.end(device)
    assert table.arrive(client2, "replay").code == wire.PROTO
    table.end(client2)
    table.end(device2)
    assert table.claims == 0 and table.arrive(client, "fresh").code == wire.OK


def test_parked_legs_of_one_account_are_bounded() -> None:
    table = _table(parked=3)
    for i in range(3):
        assert table.arrive(_hello(CLIENT, ALICE, PI, sid=bytes([i]) * 16), f"{i}").code == wire.OK
    assert table.arrive(_hello(CLIENT, ALICE, PI), "fourth").code == wire.QUOTA
    assert table.arrive(_hello(CLIENT, ALICE, PI, n=2, sid=bytes(16)), "replacing").code == wire.OK
    # Naming somebody costs that account nothing, and meeting somebody needs no place to wait.
    assert table.arrive(_hello(DEVICE, PI, EVE), "pi").code == wire.OK
    assert table.arrive(_hello(DEVICE, PI, ALICE, sid=bytes([1]) * 16), "pi").partner == "1"
    assert table.arrive(_hello(CLIENT, ALICE, PI), "fourth").code == wire.OK


@pytest.mark.parametrize("crowded", [ALICE, PI])
def test_joined_legs_of_both_accounts_are_bounded(crowded: bytes) -> None:
    table = _table(joined=2)
    for i in range(2):
        table.arrive(_hello(CLIENT, crowded, EVE, sid=bytes([i]) * 16), "c")
        table.arrive(_hello(DEVICE, EVE, crowded, sid=bytes([i]) * 16), "d")
    assert table.arrive(_hello(CLIENT, ALICE, PI), "alice").code == wire.QUOTA
    assert table.arrive(_hello(DEVICE, PI, ALICE), "pi").code == wire.QUOTA
    table.end(_hello(CLIENT, crowded, EVE, sid=bytes(16)))
    assert table.arrive(_hello(CLIENT, ALICE, PI), "alice").code == wire.OK


def test_the_quota_holds_for_a_leg_that_parked_before_it_was_used_up() -> None:
    table = _table(joined=1)
    table.arrive(_hello(CLIENT, ALICE, PI), "waits")
    table.arrive(_hello(CLIENT, ALICE, EVE, sid=bytes(16)), "c")
    table.arrive(_hello(DEVICE, EVE, ALICE, sid=bytes(16)), "d")
    assert table.arrive(_hello(DEVICE, PI, ALICE), "pi").code == wire.QUOTA


def test_of_64_racers_exactly_one_pairs() -> None:
    shuffle = random.Random(1).shuffle
    for _ in range(50):
        racers = [(_hello(CLIENT, ALICE, PI), f"c{i}") for i in range(64)] + [(_hello(DEVICE, PI, ALICE), f"d{i}") for i in range(64)]
        shuffle(racers)
        table = _table()
        answers = [table.arrive(hello, who) for hello, who in racers]
        assert sum(answer.partner is not None for answer in answers) == 1
        assert sum(answer.code == wire.PROTO for answer in answers) == 126


def test_any_order_of_arriving_and_leaving_leaves_nothing_behind() -> None:
    pick = random.Random(2)
    table: Rendezvous[int] = Rendezvous(Quota(parked=3, joined=4))
    accounts = (ALICE, PI, EVE)
    waiting: dict[int, LegHello] = {}
    joined: list[LegHello] = []
    for leg in range(20_000):
        hello = LegHello(pick.choice((CLIENT, DEVICE)), pick.randint(1, 9), bytes([pick.randint(0, 2)]) * 16, *pick.choices(accounts, k=2))
        answer = table.arrive(hello, leg)
        if answer.code == wire.OK:
            if answer.replaced is not None:
                del waiting[answer.replaced]
            if answer.partner is None:
                waiting[leg] = hello
            else:
                partner = waiting.pop(answer.partner)
                assert (partner.sid, partner.account, partner.peer) == (hello.sid, hello.peer, hello.account)
                assert {partner.role, hello.role} == {CLIENT, DEVICE}
                joined += [hello, partner]
        if waiting and pick.random() < 0.3:
            gone = pick.choice(list(waiting))
            table.withdraw(waiting.pop(gone), gone)
        if joined and pick.random() < 0.3:
            table.end(joined.pop(pick.randrange(len(joined))))
        assert table.parked == len(waiting)
        for account in accounts:
            assert sum(hello.account == account for hello in waiting.values()) <= 3
            assert sum(hello.account == account for hello in joined) <= 4
    for leg, hello in waiting.items():
        table.withdraw(hello, leg)
    for hello in joined:
        table.end(hello)
    assert table.claims == table.parked == 0
