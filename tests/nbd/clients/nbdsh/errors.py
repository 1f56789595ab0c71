"""What the server refuses, with which error, and that the connection lives on."""
SIZE = h.get_size()
MIB = 1024 * 1024
h.set_strict_mode(0)  # send what the client's own checks would refuse
h.pwrite(b"s" * 4096, 0)


def refused(name, call):
    try:
        call()
    except nbd.Error as error:
        assert error.errno == name, (error.errno, name)
    else:
        raise AssertionError(f"was not refused with {name}")
    # The stream is still in step.
    assert h.pread(4096, 0) == b"s" * 4096


# Past the end: "no space" for what writes, "invalid" for the rest.
refused("ENOSPC", lambda: h.pwrite(b"x" * 4096, SIZE))
refused("ENOSPC", lambda: h.pwrite(b"x" * 4096, SIZE - 1))
refused("ENOSPC", lambda: h.zero(4096, SIZE - 1))
refused("EINVAL", lambda: h.pread(4096, SIZE - 1))
refused("EINVAL", lambda: h.trim(4096, SIZE - 1))
refused("EINVAL", lambda: h.cache(4096, SIZE))
refused("EINVAL", lambda: h.block_status(4096, SIZE, lambda *_: 0))

# offset + length does not fit into 64 bits.
refused("EINVAL", lambda: h.pread(4096, 2**64 - 512))
refused("ENOSPC", lambda: h.pwrite(b"x" * 4096, 2**64 - 512))

# A flag that the command does not know.
refused("EINVAL", lambda: h.pread(512, 0, nbd.CMD_FLAG_NO_HOLE))
refused("EINVAL", lambda: h.pwrite(b"x" * 512, 0, nbd.CMD_FLAG_FAST_ZERO))
refused("EINVAL", lambda: h.trim(512, 0, nbd.CMD_FLAG_REQ_ONE))

# The end of the device is whole.
h.pwrite(b"z" * 4096, SIZE - 4096)
assert h.pread(4096, SIZE - 4096) == b"z" * 4096
h.shutdown()
print("done")
