"""Footers of sealed segments and the index runs made of them (page 01)."""

from __future__ import annotations

import struct
from typing import Callable, Iterator, NamedTuple, Optional, Tuple
from zlib import crc32

from blake3 import blake3

from .damage import Damage

TRAILER = struct.Struct("<16sI4xQQQI4x32s32s8s")
TRAILER_MAGIC = b"HSEND\x1a\r\n"
TRAILER_HASHED = 88
ENTRY = struct.Struct("<32sIIIB3x")
RUN_MAGIC = b"HEADRUN\x1a\n\xa9\r\n"
RUN_HEADER = struct.Struct("<12s2xH16sQQ32s44xI")
VERSION = 1
# How much of a file is looked at in one piece.
PIECE = 1 << 20

# Bytes of a file by offset and count, fewer where it ends.
Read = Callable[[int, int], bytes]


class Entry(NamedTuple):
    """Where a block is."""

    name: bytes
    segment: int
    offset: int
    stored: int
    kind: int


class Footer:
    """The table at the end of a sealed segment. It stays on disk: stores have many blocks."""

    def __init__(self, read: Read, path: str, number: int, store: bytes, length: int) -> None:
        self.read = read
        self.path = path
        self.end = at = length - TRAILER.size
        trailer = read(at, TRAILER.size) if at > 0 else b""
        if not trailer.endswith(TRAILER_MAGIC) or len(trailer) < TRAILER.size:
            raise Damage(path, max(at, 0), "there is no trailer")
        (owner, of, self.data_end, self.count, self.raw_bytes, dictionaries, kinds, hash_, _) = (
            TRAILER.unpack(trailer)
        )
        if (owner, of, dictionaries) != (store, number, 0):
            raise Damage(path, at, "the trailer is not of this segment")
        if self.data_end + self.count * ENTRY.size != at:
            raise Damage(path, at, "the lengths in the trailer do not add up to the file's")
        if hash_of(read, self.data_end, at, trailer[:TRAILER_HASHED]) != hash_:
            raise Damage(path, at, "the hash of the footer differs")
        self.by_kind: Tuple[int, ...] = struct.unpack("<8I", kinds)

    def entry(self, at: int) -> Entry:
        offset = self.data_end + at * ENTRY.size
        bytes_ = self.read(offset, ENTRY.size)
        if len(bytes_) < ENTRY.size:
            raise Damage(self.path, offset, "the footer ends early")
        return entry(bytes_)

    def find(self, name: bytes) -> Optional[int]:
        """The offset of the record of a block."""
        at = self._first(name)
        found = self.entry(at) if at < self.count else None
        return found.offset if found is not None and found.name == name else None

    def beginning(self, prefix: bytes) -> Iterator[Entry]:
        """The entries whose names begin so."""
        for at in range(self._first(prefix), self.count):
            found = self.entry(at)
            if not found.name.startswith(prefix):
                break
            yield found

    def _first(self, name: bytes) -> int:
        """The place of the first entry whose name is not below."""
        low, high = 0, self.count
        while low < high:
            middle = (low + high) // 2
            low, high = (middle + 1, high) if self.entry(middle).name < name else (low, middle)
        return low


class Run:
    """`index/<n>.run`: the footers of several segments, merged."""

    def __init__(self, read: Read, path: str, store: bytes, length: int) -> None:
        self.read = read
        header = read(0, RUN_HEADER.size)
        if len(header) < RUN_HEADER.size or crc32(header[:124]) != int.from_bytes(
            header[124:], "little"
        ):
            raise Damage(path, 0, "the checksum of the header differs")
        magic, reader, owner, self.count, segments, hash_, _ = RUN_HEADER.unpack(header)
        if magic != RUN_MAGIC or owner != store or reader > VERSION:
            raise Damage(path, 0, "this is not an index run of this store and version")
        self.start = RUN_HEADER.size + (4 * segments + 7) // 8 * 8
        if self.start + self.count * ENTRY.size != length:
            raise Damage(path, 0, "the lengths in the header do not add up to the file's")
        if hash_of(read, RUN_HEADER.size, length, b"") != hash_:
            raise Damage(path, RUN_HEADER.size, "the hash of the run differs")
        listed = read(RUN_HEADER.size, 4 * segments)
        self.segments: Tuple[int, ...] = struct.unpack(f"<{segments}I", listed)

    def entries(self) -> Iterator[Tuple[int, Entry]]:
        """All entries, each with its offset in the file."""
        for at in range(self.start, self.start + self.count * ENTRY.size, ENTRY.size):
            yield at, entry(self.read(at, ENTRY.size))


def entry(bytes_: bytes) -> Entry:
    name, segment, eighths, stored, kind = ENTRY.unpack(bytes_)
    return Entry(name, segment, eighths * 8, stored, kind)


def hash_of(read: Read, start: int, end: int, then: bytes) -> bytes:
    """BLAKE3 of a range of a file and some bytes more."""
    hasher = blake3()
    for at in range(start, end, PIECE):
        hasher.update(read(at, min(PIECE, end - at)))
    digest: bytes = hasher.update(then).digest()
    return digest
