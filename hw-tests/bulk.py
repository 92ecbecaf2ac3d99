"""A service for throughput: 256 KiB and the end. Lies on the board as /lib/zts_hw_bulk.py while the tests run."""

BYTES = 262144


async def send(reader, writer):
    block = b"zts!" * 256
    for _ in range(BYTES // len(block)):
        writer.write(block)
        await writer.drain()
