"""Whether a file that was written earlier is still whole."""

from __future__ import annotations

import os
import struct
import zlib

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PART = 1 << 20
_LONGEST = 2**31 - 1


def is_png(path: str | os.PathLike[str]) -> bool:
    """Whether a file is a PNG from its signature to its end, every byte as it was written.

    The checksums of its parts are compared; nothing is decoded, and a megabyte is held at a time.

    Args:
        path: the file; one that is missing or cannot be read is not whole.
    """
    try:
        with open(path, "rb") as file:
            if file.read(8) != _SIGNATURE:
                return False
            has_pixels = False
            while True:
                length, kind = struct.unpack(">I4s", file.read(8))
                if length > _LONGEST:
                    return False
                checksum, left = zlib.crc32(kind), length
                while left:
                    part = file.read(min(left, _PART))
                    if not part:
                        return False
                    checksum, left = zlib.crc32(part, checksum), left - len(part)
                if file.read(4) != struct.pack(">I", checksum):
                    return False
                has_pixels |= kind == b"IDAT"
                if kind == b"IEND":
                    return has_pixels and not file.read(1)
    except (OSError, struct.error):
        return False
