"""Durations, sizes and times as people write them, and as they are shown back. Pure, but for the computer's time zone.

Seconds since 1970 end everything here that ends: the time before which something holds.
"""

import re
from collections.abc import Callable
from datetime import date, datetime, time, timedelta

from zts.errors import FormatError

TIME_MAX = 0xFFFFFFFF  # what 4 bytes say; in 2106
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_BYTES = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
# No other digits than these: Python's int() takes those of every script.
_DURATION = re.compile(r"([0-9]{1,10})([smhdw])")
_SIZE = re.compile(r"([0-9]{1,20})([KMGT]?)")
_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_TIME = re.compile(_DAY.pattern + r"[T ][0-9]{2}:[0-9]{2}(:[0-9]{2})?(Z|[+-][0-9]{2}:[0-9]{2})?")


def parse_duration(text: str, most: int = TIME_MAX) -> int:
    """`30m` to seconds, 1 to `most`. Raises FormatError."""
    found = _DURATION.fullmatch(text)
    if not found:
        raise FormatError(f"'{text}' is no duration: write 90s, 30m, 12h, 7d or 2w")
    return _within(int(found[1]) * _SECONDS[found[2]], most, text, say_duration)


def parse_size(text: str, most: int = (1 << 64) - 1) -> int:
    """`10M` to bytes, 1 to `most`. K is 1024. Raises FormatError."""
    found = _SIZE.fullmatch(text)
    if not found:
        raise FormatError(f"'{text}' is no size: write 500K, 10M or 2G, or a number of bytes")
    return _within(int(found[1]) * _BYTES[found[2]], most, text, say_size)


def parse_count(text: str, most: int) -> int:
    """1 to `most`. Raises FormatError."""
    if not re.fullmatch(r"[0-9]{1,10}", text):
        raise FormatError(f"'{text}' is no number")
    return _within(int(text), most, text, str)


def parse_until(text: str) -> int:
    """`2026-12-31`, which is to the end of that day, or `2026-12-31T09:00`, here or with its offset. Raises FormatError."""
    if not _DAY.fullmatch(text):
        return parse_time(text)
    try:
        return until(date.fromisoformat(text))
    except ValueError:
        raise FormatError(f"'{text}' is no day") from None


def parse_time(text: str) -> int:
    """`2026-12-31T09:00`, here or with its offset. Raises FormatError."""
    try:
        if not _TIME.fullmatch(text):
            raise ValueError
        return until(datetime.fromisoformat(text))
    except ValueError:
        raise FormatError(f"'{text}' is no time: write it as 2026-12-31T09:00") from None


def until(value: date) -> int:
    """A day to its end; a time without an offset is this computer's. Raises FormatError for one before 1970 or after 2106."""
    try:
        if not isinstance(value, datetime):
            value = datetime.combine(value + timedelta(days=1), time())
        seconds = int(value.timestamp())
    except (OverflowError, ValueError, OSError):
        seconds = 0
    if not 0 < seconds <= TIME_MAX:
        raise FormatError(f"{value} is not between 1970 and 2106")
    return seconds


def _within(value: int, most: int, text: str, say: Callable[[int], str]) -> int:
    if not value:
        raise FormatError(f"'{text}' leaves nothing")
    if value > most:
        raise FormatError(f"'{text}' is more than can be said here: at most {say(most)}")
    return value


def say_duration(seconds: int) -> str:
    """In the largest unit that says it exactly: 300 is "5 minutes"."""
    for unit, name in ((86_400, "day"), (3600, "hour"), (60, "minute")):
        if seconds and not seconds % unit:
            return _count(seconds // unit, name)
    return _count(seconds, "second")


def say_size(size: int) -> str:
    """As above: 10485760 is "10 MiB"."""
    for unit, name in ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if size and not size % unit:
            return f"{size // unit} {name}"
    return _count(size, "byte")


def say_time(seconds: int) -> str:
    """In this computer's time zone, with the zone's name."""
    return datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M %Z")


def say_until(end: int, now: int) -> str:
    """Such as "until 2026-12-31 09:00 UTC, in 6 days" or "until …, which was 3 hours ago"."""
    away = abs(end - now)
    for unit, name in ((86_400, "day"), (3600, "hour"), (60, "minute")):
        if away >= 2 * unit:
            distance = _count(away // unit, name)
            break
    else:
        distance = _count(away, "second")
    return f"until {say_time(end)}, " + (f"in {distance}" if end > now else f"which was {distance} ago")


def _count(number: int, name: str) -> str:
    return f"{number} {name}" + ("" if number == 1 else "s")
