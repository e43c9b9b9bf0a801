"""Oplog slices (page 05): runs of entries that chain."""

from __future__ import annotations

import struct
from typing import Iterator, List, NamedTuple, Optional

from .blocks import STREAM_PIECE, Source
from .damage import Malformed
from .documents import Document, Link, Timestamp, elements, split
from .heads import OpTime

VERSION = 1
ENTRY_MAX = (16 << 20) + (64 << 10)
SLICE_MAX = 64 << 20
KINDS_MAX = 256
NO_TERM = -1


class Slice(NamedTuple):
    """The document of a slice."""

    prev: OpTime
    first: OpTime
    last: OpTime
    entries: int
    length: int
    blocks: List[Link]
    document: Document

    @classmethod
    def of(cls, document: Document) -> "Slice":
        """Checks what can be checked before the blocks are read."""
        one = cls(
            OpTime.of(document.need("prev", Document)),
            OpTime.of(document.need("first", Document)),
            OpTime.of(document.need("last", Document)),
            document.count("entries"),
            document.count("bytes"),
            document.need("blocks", list),
            document,
        )
        kinds = document.need("kinds", list)
        if document.count("format") != VERSION:
            raise document.damage(f"the slice has format {document['format']}")
        if (
            document.need("_id", Timestamp) != one.first.ts
            or not one.prev.ts < one.first.ts <= one.last.ts
        ):
            raise document.damage(f"the ends of slice {one.first.ts} are not in order")
        if not 0 < one.length <= SLICE_MAX or len(one.blocks) != -(-one.length // STREAM_PIECE):
            raise document.damage(
                f"slice {one.first.ts} has {one.length} bytes in {len(one.blocks)} blocks"
            )
        if (
            one.entries == 0
            or len(kinds) > KINDS_MAX
            or kinds != sorted(set(kinds), key=str.encode)
        ):
            raise document.damage(
                f"slice {one.first.ts} has no entries, or its kinds are not in order"
            )
        return one


def entries(source: Source, one: Slice) -> Iterator[bytes]:
    """The entries of a slice, checked against its document."""
    run = source.string(one.blocks, f"slice {one.first.ts}")
    found, before, last = 0, one.prev, one.prev
    try:
        for entry in split(run):
            last = position(entry)
            if last.ts <= before.ts or last.t < before.t or len(entry) > ENTRY_MAX:
                raise Malformed(f"entry {last} does not follow {before}")
            if found == 0 and last != one.first:
                raise Malformed(f"the first entry is {last}")
            found, before = found + 1, last
            yield entry
    except Malformed as why:
        raise one.document.damage(f"slice {one.first.ts}: {why}") from why
    if (found, len(run), last) != (one.entries, one.length, one.last):
        raise one.document.damage(f"slice {one.first.ts} holds {found} entries to {last}")


def position(entry: bytes) -> OpTime:
    """The optime of an oplog entry."""
    ts: Optional[Timestamp] = None
    term = NO_TERM
    for kind, name, value in elements(entry):
        if name == b"ts" and kind == 0x11:
            i, t = struct.unpack("<II", value)
            ts = Timestamp(t, i)
        elif name == b"t" and kind == 0x12:
            term = struct.unpack("<q", value)[0]
    if ts is None:
        raise Malformed("an entry has no timestamp")
    return OpTime(ts, term)
