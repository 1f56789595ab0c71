"""Offsets and lengths of any byte, checked against a copy in memory (minimum block size 1)."""
import random

SPAN = 1024 * 1024
rng = random.Random(2026)
h.zero(SPAN, 0)
copy = bytearray(SPAN)
for _ in range(400):
    length = rng.choice((1, 2, 511, 512, 513, 4095, 4097, rng.randrange(1, 20000)))
    offset = rng.randrange(0, SPAN - length)
    kind = rng.randrange(4)
    if kind == 0:
        h.zero(length, offset)
        copy[offset:offset + length] = bytes(length)
    elif kind == 1:
        h.trim(length, offset)
        copy[offset:offset + length] = bytes(length)
    else:
        data = rng.randbytes(length)
        h.pwrite(data, offset, nbd.CMD_FLAG_FUA if kind == 2 else 0)
        copy[offset:offset + length] = data
    around = max(0, offset - 700)
    assert h.pread(length + 700, around) == copy[around:around + length + 700]
h.flush()
assert h.pread(SPAN, 0) == copy
h.shutdown()
print("done")
