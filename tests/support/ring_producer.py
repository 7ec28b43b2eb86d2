"""A child that pushes numbered, checksummed records of random size, with stalls. Arguments: memory fd, doorbell fd, request id, count."""

import random
import sys
import time
import zlib

from fastrouter._core import EVENT, FINISH, LAST, TokenRing


def push(ring: TokenRing, *record: object) -> None:
    while not ring.try_push(*record):  # type: ignore[arg-type]
        ring.ring_doorbell()
        time.sleep(0)


def main() -> None:
    memory_fd, doorbell_fd, request_id, count = map(int, sys.argv[1:])
    ring = TokenRing.open(memory_fd, doorbell_fd)
    source = random.Random(count)
    filler = source.randbytes(600)
    for index in range(count):
        body = filler[: source.randrange(600)] if index % 50 == 0 else filler[: source.randrange(24)]
        payload = index.to_bytes(8, "little") + zlib.crc32(body).to_bytes(4, "little") + body
        push(ring, request_id, EVENT, 0, 0, 1, payload)
        if source.random() < 0.3:
            ring.ring_doorbell()
        if source.random() < 0.0005:
            ring.ring_doorbell()
            time.sleep(source.random() * 0.002)
    push(ring, request_id, FINISH, 0, LAST, 0, b"{}")
    ring.ring_doorbell()


main()
