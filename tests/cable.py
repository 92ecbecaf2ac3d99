"""A pty as a serial cable, to whose other end a port of this machine is given."""

import asyncio
import contextlib
import fcntl
import os
import struct
import tty

_TCGETS2 = 0x802C542A


class Cable:
    """The other end of a pty; `path` is the port."""

    def __init__(self) -> None:
        self.fd, port = os.openpty()
        tty.setraw(self.fd)
        os.set_blocking(self.fd, False)
        self.path = os.ttyname(port)
        os.close(port)

    def __enter__(self) -> "Cable":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    async def heard(self, size: int) -> bytes:
        """What the port has sent, at least `size` bytes."""
        got = b""
        while len(got) < size:
            with contextlib.suppress(BlockingIOError):
                got += os.read(self.fd, 1 << 16)
            await asyncio.sleep(0.001)
        return got

    def rate(self) -> int:
        """Bits a second, as the port is set."""
        return int(struct.unpack("4I20B2I", fcntl.ioctl(self.fd, _TCGETS2, bytes(44)))[-1])
