"""Nodes of trees (page 04, section 6), and where chunks end (section 4)."""

from __future__ import annotations

from typing import List, NamedTuple, Optional, Sequence

from blake3 import blake3

from .blocks import BLOCK_MAX, STREAM_PIECE, Block
from .documents import LINK_BYTES

LEVELS_MAX = 32
KEYED, OWN = 1, 2
# Of a document of 16 MiB + 64 KiB in parts of 512 KiB.
PARTS_MAX = 33
# A longer separator stands in blocks of its own.
SEPARATOR_MAX = 512


class Entry(NamedTuple):
    """A child of a node, or a chunk of documents."""

    documents: int
    length: int
    child: Optional[bytes]
    parts: Sequence[bytes]
    # The separator in the node, or the blocks that hold it.
    separator: bytes
    pieces: Sequence[bytes]
    separator_length: int

    def ids(self) -> bytes:
        children = [] if self.child is None else [self.child]
        return b"".join([*children, *self.parts, *self.pieces])

    def size(self) -> int:
        """What it counts for where chunks of entries end."""
        return 16 + len(self.ids()) + len(self.separator)

    def identity(self, keyed: bool) -> bytes:
        """What it is hashed by."""
        if not keyed:
            return self.ids()
        return b"".join(self.pieces) if self.pieces else self.separator


class Node(NamedTuple):
    """An inner node."""

    keyed: bool
    own: bool
    level: int
    entries: List[Entry]


def parse(block: Block) -> Node:
    """Takes a node apart."""
    take = _Take(block)
    count = int.from_bytes(take.bytes(4), "little")
    if count > BLOCK_MAX // LINK_BYTES:
        raise block.damage(f"names {count} blocks")
    ids = [take.bytes(LINK_BYTES) for _ in range(count)]
    form, level = take.bytes(2)
    if form & ~(KEYED | OWN) or not 1 <= level <= LEVELS_MAX:
        raise block.damage(f"has the form {form} and the level {level}")
    keyed, used = bool(form & KEYED), 0
    entries: List[Entry] = []
    for _ in range(take.varint()):
        documents, length = take.varint(), take.varint()
        parts = take.varint() if level == 1 else 0
        separator_length = take.varint() if keyed else 0
        in_node = separator_length <= SEPARATOR_MAX
        separator = take.bytes(separator_length) if in_node else b""
        pieces = 0 if in_node else (separator_length + STREAM_PIECE - 1) // STREAM_PIECE
        # A large document that is alone in its chunk has no leaf beside it.
        children = 0 if parts and documents == 1 else 1
        own = ids[used : used + children + parts + pieces]
        used += children + parts + pieces
        if used > count or documents == 0 or parts > PARTS_MAX:
            raise block.damage("an entry has no documents, or more blocks than there can be")
        child = own[0] if children else None
        of_document = own[children : children + parts]
        entry = Entry(
            documents,
            length,
            child,
            of_document,
            separator,
            own[children + parts :],
            separator_length,
        )
        entries.append(entry)
    if not entries or used != count or take.at != len(block.raw):
        raise block.damage("has blocks or bytes that no entry has")
    return Node(keyed, bool(form & OWN), level, entries)


class _Take:
    """Takes fields from the front of a block."""

    def __init__(self, block: Block) -> None:
        self.block = block
        self.at = 0

    def bytes(self, count: int) -> bytes:
        taken = self.block.raw[self.at : self.at + count]
        if len(taken) < count:
            raise self.block.damage("ends early")
        self.at += count
        return taken

    def varint(self) -> int:
        """LEB128 of 64 bits in its shortest form."""
        value, shift = 0, 0
        while True:
            byte = self.bytes(1)[0]
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        if value >= 1 << 64 or (byte == 0 and shift > 7):
            raise self.block.damage("has a number that is too long")
        return value


class Chunks:
    """The chunks of one level, from left to right."""

    def __init__(self, salt: bytes, level: int) -> None:
        self.key = blake3(salt + bytes([level])).digest()
        scale, self.least = 4096, 1024
        self.most = 65536
        self.scale4 = scale**4
        self.items_min = 1 if level == 0 else 2
        self.items = 0
        self.size = 0
        self.ended = True

    def add(self, size: int, identity: bytes, first: bool) -> bool:
        """Takes the next item, the first of a chunk or not; returns whether that is right."""
        right = first == self.ended
        if first:
            self.items, self.size = 0, 0
        before, self.size = self.size, self.size + size
        self.items += 1
        self.ended = self.items >= self.items_min and self.ends(before, self.size, identity)
        return right

    def ends(self, before: int, after: int, identity: bytes) -> bool:
        if after < self.least or after >= self.most:
            return after >= self.most
        weight = after**4 - before**4
        return weight >= self.scale4 or self.hash(identity) < (weight << 64) // self.scale4

    def hash(self, identity: bytes) -> int:
        return int.from_bytes(blake3(identity, key=self.key).digest(length=8), "little")
