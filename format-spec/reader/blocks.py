"""Blocks (page 03): their names, their stored form, and byte strings made of several."""

from __future__ import annotations

from typing import Iterator, List, NamedTuple, Optional, Sequence

import zstandard

from .damage import Damage
from .encryption import hasher

BLOCK_MAX = 1 << 20
LEAF, PART, NODE, STREAM, LINKS, COMMIT, DICTIONARY = 1, 2, 3, 4, 5, 6, 7
KINDS = {1: "Leaf", 2: "Part", 3: "Node", 4: "Stream", 5: "Links", 6: "Commit", 7: "Dictionary"}
# Pieces of a byte string; the last may be shorter.
STREAM_PIECE = 262_144


class Block(NamedTuple):
    """A checked block, and where its record is."""

    name: bytes
    kind: int
    raw: bytes
    file: str
    offset: int

    def damage(self, what: str) -> Damage:
        return Damage(self.file, self.offset, f"{KINDS[self.kind]} block {self.name.hex()}: {what}")


class Source:
    """Where blocks come from."""

    def find(self, name: bytes) -> Block:
        raise NotImplementedError

    def get(self, name: bytes, kind: int, named_by: str) -> Block:
        """A block of a kind."""
        try:
            block = self.find(name)
        except Damage as why:
            raise Damage(why.file, why.offset, f"{why.what} (named by {named_by})") from why
        if block.kind != kind:
            raise block.damage(f"should be a {KINDS[kind]}: {named_by} names it")
        return block

    def pieces(self, names: Sequence[bytes], named_by: str) -> Iterator[bytes]:
        """The pieces of a byte string, in order."""
        for at, name in enumerate(names):
            block = self.get(name, STREAM, named_by)
            last = at + 1 == len(names)
            if not 0 < len(block.raw) <= STREAM_PIECE or (
                not last and len(block.raw) < STREAM_PIECE
            ):
                raise block.damage(f"has {len(block.raw)} bytes as piece {at + 1} of {len(names)}")
            yield block.raw

    def string(self, names: Sequence[bytes], named_by: str) -> bytes:
        """A whole byte string."""
        parts: List[bytes] = list(self.pieces(names, named_by))
        return b"".join(parts)


def name_of(kind: int, raw: bytes, key: Optional[bytes] = None) -> bytes:
    """The name of a block. An encrypted store has a key for it."""
    name: bytes = hasher(key).update(bytes([kind]) + raw).digest()
    return name


def expand(
    stored: bytes, raw: int, dictionary: Optional[zstandard.ZstdCompressionDict]
) -> bytes:
    """The content of one zstd frame. What the frame says of its size is not believed."""
    frame = zstandard.get_frame_parameters(stored)
    if frame.content_size not in (raw, zstandard.CONTENTSIZE_UNKNOWN):
        raise zstandard.ZstdError(f"the frame holds {frame.content_size} bytes instead of {raw}")
    content: bytes = zstandard.ZstdDecompressor(dict_data=dictionary).decompress(
        stored, max_output_size=max(raw, 1), allow_extra_data=False
    )
    return content
