"""CAN_MULTI_CONN: what one connection was told is done, every other one sees; a flush covers them all."""
assert h.can_multi_conn()
others = [nbd.NBD() for _ in range(3)]
for other in others:
    other.connect_uri(uri)
for step, writer in enumerate([h, *others]):
    data = bytes([step + 1]) * 65536
    writer.pwrite(data, step * 65536)
    for reader in [h, *others]:
        assert reader.pread(65536, step * 65536) == data, "a replied write is seen before any flush"
others[2].flush()
h.zero(65536, 0, nbd.CMD_FLAG_FUA)
assert others[0].pread(65536, 0) == bytes(65536)
others[0].trim(65536, 65536)
assert h.pread(65536, 65536) == bytes(65536)
for handle in [h, *others]:
    handle.shutdown()
print("done")
