"""Every command with every flag that it may carry, and what a read and the map say afterwards."""
KIB, MIB = 1024, 1024 * 1024
ZEROES = bytes(64 * KIB)


def state(offset, length=64 * KIB):
    """The flags of the base:allocation runs in a range."""
    runs = []

    def extent(context, start, entries, error):
        assert context == nbd.CONTEXT_BASE_ALLOCATION, context
        assert start == offset, start
        runs.extend(zip(entries[0::2], entries[1::2]))

    h.block_status(length, offset, extent)
    assert runs and all(size > 0 for size, _ in runs), runs
    return [flags for _, flags in runs]


assert h.get_size() == 64 * MIB
assert h.get_block_size(nbd.SIZE_MINIMUM) == 1
assert h.get_block_size(nbd.SIZE_PREFERRED) == 4096
assert h.get_block_size(nbd.SIZE_MAXIMUM) == 32 * MIB
assert h.get_structured_replies_negotiated()

# WRITE, with and without FUA.
h.pwrite(b"a" * 64 * KIB, 0)
h.pwrite(b"b" * 64 * KIB, 64 * KIB, nbd.CMD_FLAG_FUA)
assert h.pread(64 * KIB, 0) == b"a" * 64 * KIB
assert h.pread(64 * KIB, 64 * KIB) == b"b" * 64 * KIB
h.flush()
assert state(0, 128 * KIB)[0] == 0

# READ with DF comes in one chunk, also where data and holes alternate.
chunks = []
h.pwrite(b"c" * 4096, 4 * MIB)
h.pwrite(b"c" * 4096, 4 * MIB + 32 * KIB)
expected = b"c" * 4096 + bytes(28 * KIB) + b"c" * 4096 + bytes(28 * KIB)
data = h.pread_structured(
    64 * KIB, 4 * MIB, lambda data, offset, kind, error: chunks.append((offset, len(data), kind)),
    nbd.CMD_FLAG_DF)
assert data == expected
assert len(chunks) == 1, chunks
# Without DF the pieces cover the range once, in any order.
chunks = []
data = h.pread_structured(
    64 * KIB, 4 * MIB, lambda data, offset, kind, error: chunks.append((offset, len(data))))
assert data == expected
end = 4 * MIB
for offset, length in sorted(chunks):
    assert offset == end, chunks
    end += length
assert end == 4 * MIB + 64 * KIB, chunks

# A read of a range that was never written.
assert h.pread(64 * KIB, 32 * MIB) == ZEROES

# WRITE_ZEROES: may punch, must not with NO_HOLE; FUA; FAST_ZERO if it was offered.
h.pwrite(b"d" * 256 * KIB, 8 * MIB)
h.zero(64 * KIB, 8 * MIB)
h.zero(64 * KIB, 8 * MIB + 64 * KIB, nbd.CMD_FLAG_NO_HOLE)
h.zero(64 * KIB, 8 * MIB + 128 * KIB, nbd.CMD_FLAG_FUA)
assert h.pread(192 * KIB, 8 * MIB) == bytes(192 * KIB)
assert h.pread(64 * KIB, 8 * MIB + 192 * KIB) == b"d" * 64 * KIB
if h.can_fast_zero():
    h.pwrite(b"e" * 64 * KIB, 9 * MIB)
    try:
        h.zero(64 * KIB, 9 * MIB, nbd.CMD_FLAG_FAST_ZERO)
        assert h.pread(64 * KIB, 9 * MIB) == ZEROES
    except nbd.Error as error:
        assert error.errno == "ENOTSUP", error
        assert h.pread(64 * KIB, 9 * MIB) == b"e" * 64 * KIB

# TRIM reads back as zeroes (more than NBD promises: replicas must be equal), with and without FUA.
h.pwrite(b"f" * 128 * KIB, 16 * MIB)
h.trim(64 * KIB, 16 * MIB)
h.trim(64 * KIB, 16 * MIB + 64 * KIB, nbd.CMD_FLAG_FUA)
assert h.pread(128 * KIB, 16 * MIB) == bytes(128 * KIB)

# CACHE is a hint; REQ_ONE limits the map to one run.
h.cache(MIB, 0)
runs = []
h.block_status(64 * KIB, 4 * MIB, lambda context, offset, entries, error: runs.append(len(entries) // 2),
               nbd.CMD_FLAG_REQ_ONE)
assert runs == [1], runs

# FUA is legal on every command once the server offers it (the client's own checks are off).
h.set_strict_mode(0)
h.flush(nbd.CMD_FLAG_FUA)
h.cache(4096, 0, nbd.CMD_FLAG_FUA)
assert h.pread(4096, 0, nbd.CMD_FLAG_FUA) == b"a" * 4096
h.block_status(4096, 0, lambda *_: None, nbd.CMD_FLAG_FUA)

# The largest payload.
h.pwrite(b"g" * 32 * MIB, 32 * MIB)
assert h.pread(32 * MIB, 32 * MIB) == b"g" * 32 * MIB
h.shutdown()
print("done")
