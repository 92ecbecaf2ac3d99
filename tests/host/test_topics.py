"""The access rules of the control plane, exhaustively on a small world of topics."""

import itertools

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from zts import wire
from zts_relay import topics

ME, OTHER, THIRD = "a" * 24, "b2" * 12, "z7" * 12


def test_fingerprints() -> None:
    assert all(map(topics.is_fingerprint, (ME, OTHER, THIRD)))
    for text in (
        "",
        "a" * 23,
        "a" * 25,
        "A" + "a" * 23,
        "1" + "a" * 23,
        "0" * 24,
        "8" * 24,
        "+",
        "a" * 23 + "=",
        "a" * 23 + "\n",
        "ä" * 24,
    ):
        assert not topics.is_fingerprint(text), text


def test_every_combination_of_levels() -> None:
    """Of all topics of up to five levels from these words, exactly those of the rules pass."""
    words = ("zts", "1", "2", "in", "hello", "+", "#", "", ME, OTHER, ME.upper())
    readable = {f"zts/1/{ME}/in/{sender}" for sender in ("+", ME, OTHER)} | {f"zts/1/{party}/hello" for party in (ME, OTHER)}
    in_my_name = {f"zts/1/{to}/in/{ME}" for to in (ME, OTHER)}
    for count in range(1, 6):
        for levels in itertools.product(words, repeat=count):
            text = "/".join(levels)
            assert topics.may_subscribe(ME, text) == (text in readable), text
            assert topics.may_publish(ME, text, 5, False) == (text in in_my_name), text
            assert topics.may_publish(ME, text, 0, True) == (text == f"zts/1/{ME}/hello"), text


def test_longer_topics_never_pass() -> None:
    for text in (topics.inbox(ME, ME), topics.inbox(ME, "+"), topics.hello(ME)):
        for longer in (text + "/", text + "/x", "/" + text, "$share/g/" + text, text + " ", text + "\n"):
            assert not topics.may_subscribe(ME, longer)
            assert not topics.may_publish(ME, longer, 0, False) and not topics.may_publish(ME, longer, 0, True)


def test_sizes_and_the_retain_flag() -> None:
    inbox, hello = topics.inbox(OTHER, ME), topics.hello(ME)
    for size in range(wire.M1_BYTES + 100):
        assert topics.may_publish(ME, inbox, size, False) == (size <= wire.M1_BYTES)
        assert not topics.may_publish(ME, inbox, size, True)
        assert topics.may_publish(ME, hello, size, True) == (size in (0, wire.HELLO_BYTES))
        assert not topics.may_publish(ME, hello, size, False)


@settings(deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.text())
def test_text_never_raises(text: str) -> None:
    assert not topics.may_subscribe(ME, text) and not topics.may_publish(ME, text, 0, False)
    assert not topics.may_subscribe(ME, topics.PREFIX + text) or text in (f"{ME}/in/+",)
