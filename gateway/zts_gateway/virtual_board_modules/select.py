"""`select` as on a chip, where a timer's callback runs while a program waits for its sockets."""

import uselect
import utime
from uselect import *  # noqa: F403

_STEP_MS = 10


class poll:
    def __init__(self):
        self._poller = uselect.poll()
        self.register = self._poller.register
        self.modify = self._poller.modify
        self.unregister = self._poller.unregister

    def poll(self, timeout=-1):
        end = utime.ticks_add(utime.ticks_ms(), max(0, timeout))
        while True:
            left = _STEP_MS if timeout < 0 else min(_STEP_MS, max(0, utime.ticks_diff(end, utime.ticks_ms())))
            ready = self._poller.poll(left)
            if ready or (timeout >= 0 and left < _STEP_MS):
                return ready

    def ipoll(self, timeout=-1, flags=0):
        return iter(self.poll(timeout)) if timeout else self._poller.ipoll(0, flags)
