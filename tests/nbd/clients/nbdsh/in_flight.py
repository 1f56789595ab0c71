"""Many requests at once on one connection: each is answered once, with its own data."""
COUNT, SIZE = 256, 16 * 1024


def content(index):
    return bytes([index % 251]) * SIZE


def wait(cookies):
    while h.aio_in_flight() > 0:
        h.poll(30000)
    for cookie in cookies:
        assert h.aio_command_completed(cookie)


wait([h.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(content(i))), i * SIZE) for i in range(COUNT)])
h.flush()

buffers = [nbd.Buffer(SIZE) for _ in range(COUNT)]
wait([h.aio_pread(buffer, i * SIZE) for i, buffer in enumerate(buffers)])
for i, buffer in enumerate(buffers):
    assert buffer.to_bytearray() == content(i), i

# Writers whose neighbours share a 4 KiB block: none may undo another's bytes.
base = 32 * 1024 * 1024
pieces = [nbd.Buffer.from_bytearray(bytearray([i + 1]) * 100) for i in range(200)]
wait([h.aio_pwrite(piece, base + i * 100) for i, piece in enumerate(pieces)])
assert h.pread(20000, base) == b"".join(bytes([i + 1]) * 100 for i in range(200))
h.shutdown()
print("done")
