"""Damaged copies of a good file, from a seed: every reader reads them or refuses them.

A reader passes if each copy is either read, or refused with an `InputError`, within `SECONDS`.
"""

import os
import random
import re
import time
from collections.abc import Callable, Iterator

from mgdn_jax.errors import InputError

SECONDS = 10.0
"""No damaged file may keep a reader busy for longer."""

# Lengths, counts and sizes at which fields of one, two, four and eight bytes turn over.
_EDGES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
_WORDS = (
    *(b"", b"-1", b"0", b"1e400", b"-1e400", b"9" * 400, b"99999999999999999999", b"NaN"),
    *(b"Infinity", b"null", b"true", b"[]", b"{}", b'""', b"[" * 3000, b'{"a":' * 3000),
    *(b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"\x1b[31m", b"\xed\xa0\x80", b"x" * 200_000),
)
_NUMBER = re.compile(rb"-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")


def count() -> int:
    """Number of damaged files a reader sees: `MGDN_FUZZ` in the environment, or 200."""
    return int(os.environ.get("MGDN_FUZZ", "200"))


def _bits(data: bytearray, draw: random.Random) -> bytearray:
    for _ in range(draw.choice((1, 1, 2, 8, 64))):
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    return data


def _bytes(data: bytearray, draw: random.Random) -> bytearray:
    for _ in range(draw.choice((1, 1, 2, 8))):
        data[draw.randrange(len(data))] = draw.choice((0, 1, 0x7F, 0x80, 0xFF, draw.randrange(256)))
    return data


def _field(data: bytearray, draw: random.Random) -> bytearray:
    """A number of one to eight bytes becomes an extreme one, in either byte order."""
    width = draw.choice((1, 2, 4, 4, 8))
    value = draw.choice((*_EDGES, (1 << 8 * width) - 1, 1 << (8 * width - 1)))
    word = (value % (1 << 8 * width)).to_bytes(width, draw.choice(("big", "little")))
    start = draw.randrange(len(data))
    data[start : start + width] = word
    return data


def _cut(data: bytearray, draw: random.Random) -> bytearray:
    return data[: draw.randrange(len(data))]


def _gap(data: bytearray, draw: random.Random) -> bytearray:
    start = draw.randrange(len(data))
    del data[start : start + draw.choice((1, 2, 4, 16, 256))]
    return data


def _copy(data: bytearray, draw: random.Random) -> bytearray:
    """A piece of the file comes again elsewhere."""
    start, place = draw.randrange(len(data)), draw.randrange(len(data))
    piece = data[start : start + draw.choice((1, 4, 16, 256))] * draw.choice((1, 1, 3))
    data[place:place] = piece
    return data


def _word(data: bytearray, draw: random.Random) -> bytearray:
    """A foreign word comes in anywhere."""
    start = draw.randrange(len(data))
    word = draw.choice(_WORDS)
    data[start : start + draw.choice((0, 0, len(word)))] = word
    return data


def _number(data: bytearray, draw: random.Random) -> bytearray:
    """A number in writing becomes another word."""
    numbers = list(_NUMBER.finditer(data))
    if not numbers:
        return _field(data, draw)
    place = draw.choice(numbers)
    data[place.start() : place.end()] = draw.choice(_WORDS)
    return data


def _noise(data: bytearray, draw: random.Random) -> bytearray:
    start = draw.randrange(len(data))
    size = min(len(data) - start, draw.choice((4, 64, 1024)))
    data[start : start + size] = draw.randbytes(size)
    return data


_KINDS = (_bits, _bytes, _field, _field, _cut, _gap, _copy, _word, _number, _noise)
# Headers lie in front, and a large file is mostly pixels: half of all damage is done there.
_FRONT = 512


def mutations(seed_bytes: bytes, count: int, seed: int) -> Iterator[bytes]:
    """Damaged copies of a good file, the same ones for the same seed.

    Args:
        seed_bytes: The good file, at least one byte.
        count: Number of copies.
        seed: Any number.

    Yields:
        The bytes of one damaged file.
    """
    for number in range(count):
        draw = random.Random(f"{seed} {number}")
        data, tail = bytearray(seed_bytes), bytearray()
        if len(data) > _FRONT and draw.random() < 0.5:
            data, tail = data[:_FRONT], data[_FRONT:]
        for _ in range(draw.choice((1, 1, 1, 2, 4))):
            data = draw.choice(_KINDS)(data or bytearray(b"\0"), draw)
        yield bytes(data + tail)


def survey(read: Callable[[bytes], object], files: Iterator[bytes]) -> dict[str, int]:
    """Reads damaged files; counts those that were `read` and those `refused`.

    Args:
        read: Reads one file from its bytes; raises `InputError` for one that it refuses.
        files: The damaged files.

    Raises:
        AssertionError: A file raised anything else, or took longer than `SECONDS`; the message
            gives its number among the files.
    """
    counts = {"read": 0, "refused": 0}
    for number, data in enumerate(files):
        start, sentence = time.monotonic(), None
        try:
            read(data)
        except InputError as error:
            sentence = str(error)
        except Exception as error:
            raise AssertionError(f"damaged file {number} raised {error!r}") from error
        assert "\n" not in (sentence or ""), f"damaged file {number}: {sentence!r}"
        counts["read" if sentence is None else "refused"] += 1
        seconds = time.monotonic() - start
        assert seconds <= SECONDS, f"damaged file {number} took {seconds:.0f} s"
    return counts
