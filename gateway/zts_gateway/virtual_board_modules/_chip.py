"""What runs first on a virtual board, and its modules' way to the hardware: one JSON list a line, to the process that plays it."""

import json

import uos

_said = json.loads(uos.getenv("VIRTUAL_BOARD"))
_asked, _answers = 0, {}
_control = open(_said["control"], "r+b")
unique_id = bytes.fromhex(_said["unique_id"])
reset_cause = _said["reset_cause"]
flash_bytes = _said["flash_bytes"]
lines = _said["uarts"]  # the descriptors of the serial lines


def tell(*words):
    _control.write(json.dumps(words).encode() + b"\n")


def ask(*words):
    """Numbered, as a timer's callback may ask while the main program waits for its answer, and then reads both."""
    global _asked
    _asked = mine = _asked + 1
    tell("ask", mine, *words)
    while mine not in _answers:
        number, answer = json.loads(_control.readline())
        _answers[number] = answer
    return _answers.pop(mine)


def stop(*words):
    """For what ends in a reset: nothing runs after it."""
    tell(*words)
    while True:
        _control.readline()


def boot():
    """Runs boot.py, and main.py unless the raw REPL has asked for the reset, in the order and with the exceptions of a chip."""
    import gc
    import os  # noqa: F401
    import sys
    import time  # noqa: F401

    import machine  # noqa: F401  all there before the flash takes the place of the host's files
    import network  # noqa: F401

    import __main__

    uos.umount("/")
    uos.mount(uos.VfsPosix(_said["flash"]), "/")
    uos.chdir("/")
    sys.path[:] = ["", ".frozen", "/lib"]
    gc.collect()
    tell("up")

    def run(name):
        try:
            with open(name) as file:
                source = file.read()
        except OSError:
            return True
        try:
            exec(compile(source, name, "exec"), __main__.__dict__)
        except SystemExit:
            stop("soft reset")
        except BaseException as error:
            sys.print_exception(error)
            return False
        return True

    try:
        if run("boot.py") and not _said["raw"]:
            run("main.py")
    except KeyboardInterrupt:
        pass  # between two programs
    if _said["raw"]:
        sys.stdout.write(_said["raw"])
