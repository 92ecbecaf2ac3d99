"""`/main.py` of a board: boots the agent from one of its slots, and sees to it that there always is one that works.

The watchdog runs from here on, so an agent that hangs while it is imported is noticed too. Ctrl-C stops both and gives the prompt.
"""

import sys
import time

import machine
import network

FOLDER = "/agent"
RP2 = sys.platform == "rp2"
# An RP2040 allows 8388. Where more can be had, a name server that does not answer must not look like a hang: the interpreter waits
# for it, several times as long as for anything else.
WATCHDOG_MS = 8_000 if RP2 else 30_000
AGAIN_S = 5  # after a crash, so that someone at the cable can come in between

sys.path.insert(0, FOLDER)
import slots  # noqa: E402


def has_network() -> bool:
    """Whether there is a network address. Not asked of the agent: an update may break whatever lies in a slot."""
    if not hasattr(network, "WLAN"):
        return True
    wlan = network.WLAN(0)
    return wlan.isconnected() or not wlan.active()  # not in use: something else brings the network


def make_timer() -> "machine.Timer":
    try:
        return machine.Timer(-1)
    except ValueError:  # an ESP32 has no virtual timers in MicroPython 1.25 to 1.28 (its issue 17203); the prompt takes timer 1
        return machine.Timer(0)


def stop_watchdog() -> None:
    """Else mpremote would have seconds. It starts the interpreter anew, so nothing that runs could go on feeding."""
    if RP2:
        # WATCHDOG.CTRL of RP2350 and RP2040, at its alias that clears bits; bit 30 is ENABLE.
        machine.mem32[0x400DB000 if "RP2350" in sys.implementation._machine else 0x4005B000] = 1 << 30
    else:
        machine.WDT(timeout=86_400_000)


def run() -> None:
    """Returns when there is nothing to boot. Raises KeyboardInterrupt."""
    agent = slots.Slots(FOLDER, machine.WDT(timeout=WATCHDOG_MS).feed, machine.reset)
    slot = agent.boot()
    if not slot:
        print("ZTS: there is no whole agent on this board; run `zts flash` again")
        return
    sys.path[0] = FOLDER + "/" + slot
    timer = None
    try:
        if agent.on_trial:
            timer = make_timer()
            timer.init(period=1000, callback=lambda timer: agent.judge(has_network()))
        from zts_agent import main

        main.main(FOLDER, agent)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        sys.print_exception(error)  # type: ignore[attr-defined]
        if not agent.take_back(slots.CRASHED):
            agent.feed()
            time.sleep(AGAIN_S)
    finally:
        if timer is not None:
            timer.deinit()
    machine.reset()


try:
    run()
except KeyboardInterrupt:
    print("ZTS: the agent is stopped until the next reset")
stop_watchdog()
