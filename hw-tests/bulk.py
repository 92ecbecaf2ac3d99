"""Services of the tests: 256 KiB and the end, and how much heap is free in one piece. /lib/zts_hw_bulk.py on the board while they run."""

import gc

BYTES = 262144


async def send(reader, writer):
    block = b"zts!" * 256
    for _ in range(BYTES // len(block)):
        writer.write(block)
        await writer.drain()


def longest_run():
    """Bytes of free heap in one piece, up to 256 fewer."""
    gc.collect()
    least, most = 0, gc.mem_free()
    while most - least > 256:
        size = (least + most) // 2
        try:
            bytearray(size)
            least = size
        except MemoryError:
            most = size
    gc.collect()  # on an ESP32 the heap has grown for what was tried
    return least


async def room(reader, writer):
    writer.write(str(longest_run()).encode())
    await writer.drain()
