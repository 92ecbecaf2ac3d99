"""Who is at the other end of a TCP connection on this computer: the user that its socket belongs to, read from Linux' /proc/net."""

import socket
import struct
import sys
from collections.abc import Iterable
from pathlib import Path

# As proc(5) has the columns: sl local remote st tx:rx tr:when retrnsmt uid timeout inode
_LOCAL, _REMOTE, _UID, _INODE = 1, 2, 7, 9
_V4_MAPPED = bytes(10) + b"\xff\xff"

Address = tuple[str, int]


def find_uid(table: Iterable[str], local: Address, remote: Address) -> int | None:
    """The uid of the socket whose own address is `local` and whose other side is `remote`, both IPv4 (host, port).

    `table`: the lines of /proc/net/tcp, of /proc/net/tcp6, or of both: a program may reach an IPv4 address by an IPv6 socket.
    A socket that no process holds any more has no inode, and its uid says 0, whoever made it: that is None too.
    """
    wanted = [(_write(local, mapped), _write(remote, mapped)) for mapped in (False, True)]
    for line in table:
        row = line.split()
        if len(row) > _INODE and (row[_LOCAL], row[_REMOTE]) in wanted and row[_UID].isdigit() and row[_INODE] not in ("0", ""):
            return int(row[_UID])
    return None


def _write(address: Address, mapped: bool) -> str:
    """As the kernel prints it: words of 32 bits in the machine's byte order, in hex."""
    packed = (_V4_MAPPED if mapped else b"") + socket.inet_aton(address[0])
    order = "<" if sys.byteorder == "little" else ">"
    words = struct.unpack(f"{order}{len(packed) // 4}I", packed)
    return "".join(f"{word:08X}" for word in words) + f":{address[1]:04X}"


def can_tell(net: Path = Path("/proc/net")) -> bool:
    """Whether this system has the table."""
    return (net / "tcp").exists()


def read_uid(local: Address, remote: Address, net: Path = Path("/proc/net")) -> int | None:
    """As find_uid, from the running system. None also when the table cannot be read."""
    for name in ("tcp", "tcp6"):
        try:
            with (net / name).open(encoding="ascii") as table:
                uid = find_uid(table, local, remote)
        except OSError:  # no IPv6 in this kernel, or no access
            continue
        if uid is not None:
            return uid
    return None
