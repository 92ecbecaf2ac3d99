"""`time` as on a chip, where a timer's callback runs while the program sleeps."""

import utime
from utime import *  # noqa: F403

_STEP_MS = 5


def sleep_ms(ms):
    end = utime.ticks_add(utime.ticks_ms(), ms)
    while (left := utime.ticks_diff(end, utime.ticks_ms())) > 0:
        utime.sleep_ms(min(left, _STEP_MS))


def sleep(seconds):
    if seconds < 0:
        raise ValueError("sleep length must be non-negative")
    sleep_ms(int(seconds * 1000))
