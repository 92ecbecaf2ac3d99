"""Durations, sizes and times as people write them: one meaning each, and nothing that is not clear."""

import time
from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zts.errors import FormatError
from zts_gateway import amounts


@pytest.fixture(params=["UTC", "Europe/Berlin", "Pacific/Auckland", "America/St_Johns"])
def zone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("TZ", request.param)
    time.tzset()
    request.addfinalizer(time.tzset)
    request.addfinalizer(monkeypatch.undo)
    return str(request.param)


@pytest.mark.parametrize(
    "text, seconds", [("1s", 1), ("90s", 90), ("30m", 1800), ("12h", 43_200), ("7d", 604_800), ("2w", 1_209_600), ("007d", 604_800)]
)
def test_durations(text: str, seconds: int) -> None:
    assert amounts.parse_duration(text) == seconds


NO_NUMBERS = ["", " ", "-1", "+1", "1.5", "1e3", "0x1", "1_000", "ten", "\u0661", "\uff11", "1 ", " 1", "1\n", "\xb2", "1,000", "9" * 40]


@pytest.mark.parametrize("number", NO_NUMBERS)
def test_no_numbers(number: str) -> None:
    for parse in (
        lambda: amounts.parse_duration(number + "d"),
        lambda: amounts.parse_size(number),
        lambda: amounts.parse_size(number + "M"),
        lambda: amounts.parse_count(number, 255),
    ):
        with pytest.raises(FormatError):
            parse()


@pytest.mark.parametrize("text", ["5", "m", "5M", "5D", "5 m", "5min", "1h30m", "5y", "5ms", "0s", "0d", "00w", "m5", "5µ"])
def test_no_durations(text: str) -> None:
    with pytest.raises(FormatError):
        amounts.parse_duration(text)


@pytest.mark.parametrize("text, size", [("1", 1), ("1500", 1500), ("1K", 1024), ("10M", 10 << 20), ("2G", 2 << 30), ("3T", 3 << 40)])
def test_sizes(text: str, size: int) -> None:
    assert amounts.parse_size(text) == size


@pytest.mark.parametrize("text", ["10m", "10k", "10MB", "10MiB", "10 M", "M", "0", "0M", "1P", "1B", "10M10K"])
def test_no_sizes(text: str) -> None:
    with pytest.raises(FormatError):
        amounts.parse_size(text)


def test_too_much() -> None:
    assert amounts.parse_duration("65535s", 65535) == 65535 and amounts.parse_count("255", 255) == 255
    assert amounts.parse_duration("4294967295s") == amounts.TIME_MAX
    assert amounts.parse_size(str((1 << 64) - 1)) == (1 << 64) - 1 and amounts.parse_size("16777215T") == 16777215 << 40
    for parse in (
        lambda: amounts.parse_duration("65536s", 65535),
        lambda: amounts.parse_duration("19h", 65535),
        lambda: amounts.parse_duration("4294967296s"),
        lambda: amounts.parse_duration("9999999999w"),
        lambda: amounts.parse_size("16777216T"),
        lambda: amounts.parse_size(str(1 << 64)),
        lambda: amounts.parse_count("256", 255),
        lambda: amounts.parse_count("0", 255),
    ):
        with pytest.raises(FormatError):
            parse()


def test_a_day_holds_to_its_end_where_the_computer_is(zone: str) -> None:
    for text in ("2026-12-31", "2026-03-29", "2026-10-25", "2028-02-29"):
        end = amounts.parse_until(text)
        day = date.fromisoformat(text)
        assert datetime.fromtimestamp(end - 1).date() == day and datetime.fromtimestamp(end).date() == day + timedelta(days=1)
        assert amounts.until(day) == end
    nine = amounts.parse_until("2026-12-31T09:00")
    assert datetime.fromtimestamp(nine) == datetime(2026, 12, 31, 9)
    assert amounts.parse_until("2026-12-31 09:00") == nine == amounts.parse_until("2026-12-31T09:00:00")


def test_a_time_with_its_offset_is_the_same_everywhere(zone: str) -> None:
    expected = int(datetime(2026, 12, 31, 9, tzinfo=UTC).timestamp())
    for text in ("2026-12-31T09:00Z", "2026-12-31T10:00+01:00", "2026-12-31 09:00:00Z"):
        assert amounts.parse_until(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "tomorrow",
        "2026",
        "2026-12",
        "2026-13-01",
        "2026-02-29",
        "26-12-31",
        "31.12.2026",
        "12/31/2026",
        "2026-12-31T",
        "2026-12-31T25:00",
        "2026-12-31T09",
        "2026-12-31T09:00:00.5",
        "2026-12-31Z",
        "2026-12-31T09:00z",
        " 2026-12-31",
        "2026-12-31\n",
        "20261231",
        "2026-W01-1",
        "\u0662026-12-31",
        "1969-12-30",
        "0001-01-01",
        "2106-02-08",
        "9999-12-31",
        "9999-12-31T23:59",
        "0001-01-01T00:00+14:00",
    ],
)
def test_no_times(text: str) -> None:
    with pytest.raises(FormatError):
        amounts.parse_until(text)


@given(st.integers(1, 0xFFFFFFFF))
def test_what_is_said_is_what_was_given(number: int) -> None:
    seconds, unit = amounts.say_duration(number).split()
    assert amounts.parse_duration(seconds + unit[0]) == number
    amount, unit = amounts.say_size(number).split()
    assert amounts.parse_size(amount + unit[:1].replace("b", "")) == number
    assert (amount == "1") == (not unit.endswith("s")) or unit.endswith("iB")


def test_what_is_said(zone: str) -> None:
    assert [amounts.say_duration(n) for n in (1, 60, 90, 3600, 86_400, 172_800)] == [
        "1 second",
        "1 minute",
        "90 seconds",
        "1 hour",
        "1 day",
        "2 days",
    ]
    assert [amounts.say_size(n) for n in (1, 2, 1024, 1500, 10 << 20, 1 << 40)] == [
        "1 byte",
        "2 bytes",
        "1 KiB",
        "1500 bytes",
        "10 MiB",
        "1 TiB",
    ]
    end = amounts.parse_until("2026-12-31T09:00")
    said = amounts.say_until(end, end - 7 * 86_400)
    assert said.startswith("until 2026-12-31 09:00 ") and said.endswith(", in 7 days")
    for before, words in (
        (1, "in 1 second"),
        (119, "in 119 seconds"),
        (120, "in 2 minutes"),
        (7200, "in 2 hours"),
        (100_000, "in 27 hours"),
    ):
        assert amounts.say_until(end, end - before).endswith(words)
    assert amounts.say_until(end, end).endswith("which was 0 seconds ago")
    assert amounts.say_until(end, end + 7200).endswith("which was 2 hours ago")
