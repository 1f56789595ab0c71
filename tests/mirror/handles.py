"""File handles as an NFS server makes them (name_to_handle_at), before and after a failover.

make MOUNT:  for each file below MOUNT prints, as JSON, its path with inode number, inode generation (FS_IOC_GETVERSION)
             and handle.
open MOUNT:  reads that JSON from a file and opens each handle (open_by_handle_at) on this mount; prints, as JSON, the
             path with inode number, generation and the SHA-256 of the content behind the handle.
"""

import ctypes
import fcntl
import hashlib
import json
import os
import struct
import sys

AT_FDCWD = -100
FS_IOC_GETVERSION = 0x80087601
MAX_HANDLE = 128

libc = ctypes.CDLL("libc.so.6", use_errno=True)


class FileHandle(ctypes.Structure):
    _fields_ = [
        ("handle_bytes", ctypes.c_uint),
        ("handle_type", ctypes.c_int),
        ("f_handle", ctypes.c_ubyte * MAX_HANDLE),
    ]


def check(result, what):
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
    return result


def generation(fd):
    return struct.unpack("I", fcntl.ioctl(fd, FS_IOC_GETVERSION, b"\0" * 8)[:4])[0]


def make(mount):
    found = {}
    for folder, _, names in os.walk(mount):
        for name in names:
            path = os.path.join(folder, name)
            handle = FileHandle(handle_bytes=MAX_HANDLE)
            mount_id = ctypes.c_int()
            result = libc.name_to_handle_at(
                AT_FDCWD, path.encode(), ctypes.byref(handle), ctypes.byref(mount_id), 0
            )
            check(result, f"name_to_handle_at {path}")
            fd = os.open(path, os.O_RDONLY)
            found[os.path.relpath(path, mount)] = {
                "inode": os.fstat(fd).st_ino,
                "generation": generation(fd),
                "type": handle.handle_type,
                "handle": bytes(handle.f_handle[: handle.handle_bytes]).hex(),
            }
            os.close(fd)
    return found


def open_all(mount, known):
    mount_fd = os.open(mount, os.O_RDONLY)
    found = {}
    for name, was in known.items():
        raw = bytes.fromhex(was["handle"])
        handle = FileHandle(handle_bytes=len(raw), handle_type=was["type"])
        ctypes.memmove(handle.f_handle, raw, len(raw))
        fd = check(libc.open_by_handle_at(mount_fd, ctypes.byref(handle), os.O_RDONLY), f"handle of {name}")
        with os.fdopen(fd, "rb") as file:
            found[name] = {
                "inode": os.fstat(fd).st_ino,
                "generation": generation(fd),
                "sha256": hashlib.sha256(file.read()).hexdigest(),
            }
    return found


if sys.argv[1] == "make":
    print(json.dumps(make(sys.argv[2])))
else:
    with open(sys.argv[3], encoding="utf-8") as known:
        print(json.dumps(open_all(sys.argv[2], json.load(known))))
