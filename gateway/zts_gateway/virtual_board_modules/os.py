"""`os` as on a chip: the port's own, sizes in a listing, a flash that ends, and dupterm.

What is printed goes to the terminal too; what is written to sys.stdout does not, as the port cannot have it so.
"""

import _thread
import builtins
import io

import _chip
import micropython
import uos
import utime
from uos import *  # noqa: F403

_FOLDER = 0x4000
_BLOCK = 4096

_print = builtins.print
_terminal = None
_has_returned = True


def ilistdir(folder="."):
    for name, kind, inode, *_ in uos.ilistdir(folder):
        try:
            size = 0 if kind == _FOLDER else uos.stat(folder + "/" + name)[6]
        except OSError:  # mounted, and not there to be looked at
            size = 0
        yield name, kind, inode, size


def _blocks(folder):
    used = 1
    for name, kind, *_ in uos.ilistdir(folder):
        path = folder + "/" + name
        used += _blocks(path) if kind == _FOLDER else uos.stat(path)[6] // _BLOCK + 1
    return used


def statvfs(path):
    """Of a flash of the board's size, though nothing keeps a program from writing more."""
    total = _chip.flash_bytes // _BLOCK
    free = max(0, total - _blocks("/"))
    return (_BLOCK, _BLOCK, total, free, free, 0, 0, 0, 0, 255)


def rename(old, new):
    """The port's own has one buffer for both paths below its root, so it takes the second for the first, unless they are relative."""
    here = uos.getcwd()
    old, new = [path if path.startswith("/") else here.rstrip("/") + "/" + path for path in (old, new)]
    if old.startswith("/remote/"):  # mpremote's
        return uos.rename(old, new)
    uos.chdir("/")
    try:
        uos.rename(old[1:], new[1:])
    finally:
        uos.chdir(here)


def _print_twice(*values, file=None, **options):
    _print(*values, file=file, **options) if file else _print(*values, **options)
    if file is None and _terminal is not None:
        text = io.StringIO()
        _print(*values, file=text, **options)
        try:
            _terminal.write(text.getvalue().replace("\n", "\r\n").encode())
        except Exception as error:
            _deactivate(error)


def _deactivate(why):
    dupterm(None)
    _print("dupterm:", why)


def dupterm(stream, index=0):
    """Gives the stream before it."""
    global _terminal
    if index != 0:
        raise ValueError("invalid dupterm index")
    before, _terminal = _terminal, stream
    builtins.print = _print if stream is None else _print_twice
    return before


def dupterm_notify(_):
    """Takes what the terminal has: 0x03 interrupts the program that runs, as from the cable."""
    byte = bytearray(1)
    while _terminal is not None:
        try:
            count = _terminal.readinto(byte)
        except Exception as error:
            _deactivate(error)
            return
        if count is None:
            return
        if count == 0:
            _deactivate("EOF received, deactivating")
            return
        if byte[0] != 3:
            _chip.tell("typed", byte[0])
            continue
        # On a chip this interrupts the program, never the callback that we may be called from.
        global _has_returned
        _has_returned = False
        micropython.schedule(_return, None)
        _thread.start_new_thread(_interrupt, ())
        return


def _return(_):
    """Runs behind the callback. The interrupt may come at once: nothing here looks for one."""
    global _has_returned
    _has_returned = True


def _interrupt():
    while not _has_returned:
        utime.sleep_ms(1)
    _chip.tell("typed", 3)
