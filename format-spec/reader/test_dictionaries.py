"""Dictionaries of records (page 01), in stores of segments that are written here from the pages."""

from __future__ import annotations

import os
import struct
from typing import Any, List, Optional
from unittest import main, mock
from zlib import crc32

from blake3 import blake3
from zstandard import ZstdCompressionDict, ZstdCompressor

from .blocks import COMMIT, DICTIONARY, LEAF, name_of
from .check import check
from .damage import Damage
from .dictionaries import HELD_MAX
from .footer import ENTRY, TRAILER, TRAILER_HASHED, TRAILER_MAGIC
from .log import FULL, HEAD_MAGIC, HEAD_SLOT, RECORD, RECORD_MAGIC
from .segment import PLAIN, RECORD_HEADER, Segment
from .segment import RECORD_MAGIC as BLOCK_MAGIC
from .store import Store
from .test_vectors import SECTOR, InFolder, lines

STORE = lines("segment.txt")["store"]
DICTIONARY_RAW = b"one dictionary for what the documents of a collection have in common"


def summed(start: bytes, length: int) -> bytes:
    """What ends with its checksum, zeros before that."""
    filled = start.ljust(length - 4, b"\0")
    return filled + struct.pack("<I", crc32(filled))


def leaf(n: int, of: bytes = DICTIONARY_RAW) -> bytes:
    return b"document %d: " % n + of


def form_of(raw: bytes) -> bytes:
    return name_of(DICTIONARY, raw)[:8]


def looking() -> Any:
    """Counts how often a segment is searched for a dictionary."""
    return mock.patch.object(Segment, "beginning", autospec=True, side_effect=Segment.beginning)


class Filling:
    """A segment being filled."""

    def __init__(self, number: int) -> None:
        start = lines("segment.txt")["header_start"]
        start = start[:48] + struct.pack("<I", number) + start[52:]
        self.number = number
        self.bytes = bytearray(summed(start, SECTOR))
        self.entries: List[bytes] = []
        self.kinds = [0] * 8
        self.raw_bytes = 0

    def put(
        self, kind: int, raw: bytes, dictionary: Optional[bytes] = None, form: bytes = b""
    ) -> int:
        """Appends a record and gives its offset."""
        at, name, stored = len(self.bytes), name_of(kind, raw), raw
        form = form or (PLAIN if dictionary is None else form_of(dictionary))
        if dictionary is not None:
            stored = ZstdCompressor(dict_data=ZstdCompressionDict(dictionary)).compress(raw)
        codec, sizes = int(dictionary is not None), (len(stored), len(raw))
        header = RECORD_HEADER.pack(
            BLOCK_MAGIC, kind, codec, 0, 0, *sizes, name, crc32(stored), form, 0
        )[:-4]
        place = STORE + struct.pack("<IQ", self.number, at)
        self.bytes += header + struct.pack("<I", crc32(place + header)) + stored
        self.bytes += bytes(-len(self.bytes) % 8)
        self.entries.append(ENTRY.pack(name, self.number, at // 8, len(stored), kind))
        self.kinds[kind] += 1
        self.raw_bytes += len(raw)
        return at

    def sealed(self) -> bytes:
        trailer = TRAILER.pack(
            STORE,
            self.number,
            len(self.bytes),
            len(self.entries),
            self.raw_bytes,
            0,
            struct.pack("<8I", *self.kinds),
            bytes(32),
            TRAILER_MAGIC,
        )
        entries, hashed = b"".join(sorted(self.entries)), trailer[:TRAILER_HASHED]
        hash_ = blake3(entries + hashed).digest()
        return bytes(self.bytes) + entries + hashed + hash_ + TRAILER_MAGIC


class InStore(InFolder):
    """A store of few segments, its log one record."""

    def setUp(self) -> None:
        super().setUp()
        self.findings: List[Damage] = []
        identity = lines("commit-log.txt")["identity"]
        self.write("STORE", identity.ljust(SECTOR, b"\0") + identity)

    def path(self, segment: Filling) -> str:
        return f"{self.folder}/segments/{segment.number:08x}.seg"

    def put(self, segment: Filling) -> int:
        """Writes a segment, sealed, and gives its length."""
        whole = segment.sealed()
        self.write(f"segments/{segment.number:08x}.seg", whole)
        return len(whole)

    def opened(self, *segments: Filling, active: Optional[Filling] = None) -> Store:
        """The store whose commit 1 names these."""
        added = b"".join(struct.pack("<IQ", one.number, self.put(one)) for one in segments)
        added += bytes(-len(added) % 8)
        length, open_ = RECORD.size + len(added) + 32, (0, 0)
        if active is not None:
            self.write(f"segments/{active.number:08x}.seg", bytes(active.bytes))
            open_ = active.number, len(active.bytes)
        following = max([one.number for one in segments] + [open_[0]]) + 1
        counts = 0, 0, len(segments), 0
        fixed = (FULL, length, 1, 0, open_[0], following, open_[1], *counts, 0, bytes(32))
        body = RECORD.pack(RECORD_MAGIC, *fixed) + added
        hash_ = blake3(STORE + struct.pack("<QQ", 1, 0) + body).digest()
        self.write(f"log/{1:016x}.log", body + hash_)
        slot = HEAD_SLOT.pack(HEAD_MAGIC, STORE, 1, 1, hash_, 0)[:-4]
        self.write("HEAD", bytes(SECTOR) + summed(slot, 128))
        store = Store(self.folder, self.findings)
        self.addCleanup(store.close)
        return store

    def read(self, store: Store, *raws: bytes) -> None:
        for raw in raws:
            self.assertEqual(store.find(name_of(LEAF, raw)).raw, raw)

    def found(self) -> List[str]:
        return list(map(str, self.findings))


class Dictionaries(InStore):
    """What is told of them, where another copy is taken, and what is held."""

    def misplaced(self, segment: Filling, at: int, raw: bytes) -> str:
        form, name = form_of(DICTIONARY_RAW).hex(), name_of(LEAF, raw).hex()
        what = f"no record of dictionary {form} stands before that of block {name}"
        return f"{self.path(segment)} at offset {at}: {what}"

    def first(self, *raws: bytes) -> bytes:
        """The one that a footer lists first."""
        return min(raws, key=lambda raw: name_of(LEAF, raw))

    def test_one_that_stands_before_is_fine(self) -> None:
        for active in (False, True):
            segment = Filling(1)
            segment.put(DICTIONARY, DICTIONARY_RAW)
            segment.put(LEAF, leaf(1), DICTIONARY_RAW)
            store = self.opened(active=segment) if active else self.opened(segment)
            check(store, lambda _: None)
            self.read(store, leaf(1))
            self.assertEqual(self.found(), [])

    def test_one_that_stands_behind_is_told_once(self) -> None:
        segment = Filling(1)
        ats = {raw: segment.put(LEAF, raw, DICTIONARY_RAW) for raw in (leaf(1), leaf(2))}
        segment.put(DICTIONARY, DICTIONARY_RAW)
        segment.put(LEAF, leaf(3), DICTIONARY_RAW)
        told = self.first(leaf(1), leaf(2))
        store = self.opened(segment)
        check(store, lambda _: None)
        self.read(store, *map(leaf, (1, 2, 3)))
        self.assertEqual(self.found(), [self.misplaced(segment, ats[told], told)])

    def test_one_of_another_segment_is_told_once_for_each_that_lacks_it(self) -> None:
        lacking, having, active = Filling(1), Filling(2), Filling(3)
        ats = {raw: lacking.put(LEAF, raw, DICTIONARY_RAW) for raw in (leaf(1), leaf(2))}
        having.put(DICTIONARY, DICTIONARY_RAW)
        having.put(LEAF, leaf(3), DICTIONARY_RAW)
        at = active.put(LEAF, leaf(4), DICTIONARY_RAW)
        active.put(LEAF, leaf(5), DICTIONARY_RAW)
        told = self.first(leaf(1), leaf(2))
        store = self.opened(lacking, having, active=active)
        check(store, lambda _: None)
        self.read(store, *map(leaf, range(1, 6)))
        self.assertEqual(
            self.found(),
            [self.misplaced(lacking, ats[told], told), self.misplaced(active, at, leaf(4))],
        )

    def test_a_damaged_one_is_told_and_another_copy_taken(self) -> None:
        for byte, what in [
            (RECORD_HEADER.size, "the checksum of block {} differs"),
            (4, "the header of the record of block {} is damaged"),
        ]:
            self.findings = []
            damaged, whole = Filling(1), Filling(2)
            at = damaged.put(DICTIONARY, DICTIONARY_RAW)
            damaged.put(LEAF, leaf(1), DICTIONARY_RAW)
            damaged.put(LEAF, leaf(2), DICTIONARY_RAW)
            damaged.bytes[at + byte] ^= 1
            whole.put(DICTIONARY, DICTIONARY_RAW)
            store = self.opened(damaged, whole)
            name = name_of(DICTIONARY, DICTIONARY_RAW).hex()
            wanted = [f"{self.path(damaged)} at offset {at}: {what.format(name)}"]
            # So it is told by what restores, too.
            self.read(store, leaf(1), leaf(2))
            self.assertEqual(self.found(), wanted)
            check(store, lambda _: None)
            self.assertEqual(self.found(), wanted)

    def test_one_that_no_segment_has_is_looked_for_once(self) -> None:
        damaged, other = Filling(1), Filling(2)
        at = damaged.put(DICTIONARY, DICTIONARY_RAW)
        leaves = [leaf(n) for n in range(5)]
        ats = [damaged.put(LEAF, raw, DICTIONARY_RAW) for raw in leaves]
        damaged.bytes[at + RECORD_HEADER.size] ^= 1
        other.put(LEAF, b"a leaf by itself")
        store = self.opened(damaged, other)
        form = form_of(DICTIONARY_RAW).hex()
        with looking() as looked:
            for raw, place in zip(leaves, ats):
                why = f"at offset {place}: no segment has dictionary {form} of block .* whole"
                self.assertRaisesRegex(Damage, why, store.find, name_of(LEAF, raw))
        # In each of the segments.
        self.assertEqual(looked.call_count, 2)
        self.assertEqual(len(self.findings), 1)

    def test_nothing_is_said_of_its_place_where_the_footer_cannot_be_read(self) -> None:
        segment, other = Filling(1), Filling(2)
        segment.put(DICTIONARY, DICTIONARY_RAW)
        at = segment.put(LEAF, leaf(1), DICTIONARY_RAW)
        other.put(DICTIONARY, DICTIONARY_RAW)
        store = self.opened(segment, other)
        os.truncate(self.path(segment), len(segment.bytes))
        block = store.segments[1].content(store.segments[1].named(at, name_of(LEAF, leaf(1))))
        self.assertEqual(block.raw, leaf(1))
        self.assertEqual([one.what for one in self.findings], ["the footer ends early"])

    def test_a_leaf_that_names_itself_is_damage(self) -> None:
        segment = Filling(1)
        name = name_of(LEAF, leaf(1))
        at = segment.put(LEAF, leaf(1), DICTIONARY_RAW, name[:8])
        store = self.opened(segment)
        why = f"at offset {at}: no segment has dictionary {name[:8].hex()}"
        self.assertRaisesRegex(Damage, why, store.find, name)

    def test_those_used_last_are_held(self) -> None:
        segment = Filling(1)
        raws = [b"the words of collection %d, which its documents share" % n for n in range(40)]
        for raw in raws:
            segment.put(DICTIONARY, raw)
            segment.put(LEAF, leaf(1, raw), raw)
        store = self.opened(segment)
        with looking() as looked:
            for raw in raws:
                # One is used all the time, so it never goes.
                self.read(store, leaf(1, raw), leaf(1, raws[0]))
        self.assertEqual(looked.call_count, len(raws))
        wanted = [raws[0], *raws[1 - HELD_MAX :]]
        held = [form for _, form in store.dictionaries.held]
        self.assertEqual(sorted(held), sorted(map(form_of, wanted)))
        self.assertEqual(self.found(), [])

    def test_segments_that_no_commit_lists_take_copies_of_others(self) -> None:
        listed, unlisted = Filling(1), Filling(2)
        listed.put(DICTIONARY, DICTIONARY_RAW)
        at = unlisted.put(LEAF, leaf(1), DICTIONARY_RAW)
        number, roots = b"\x12commit\0" + struct.pack("<q", 2), b"\x04roots\0\x05\0\0\0\0"
        copy = struct.pack("<i", len(number + roots) + 5) + number + roots + b"\0"
        copied = unlisted.put(COMMIT, copy)
        self.put(unlisted)
        store = self.opened(listed)
        self.assertEqual(store.commit.number, 2)
        self.read(store, leaf(1))
        lacks = f"Commit block {name_of(COMMIT, copy).hex()}: the log lacks commit 2, of which this"
        self.assertEqual(
            self.found(),
            [
                f"{self.path(unlisted)} at offset {copied}: {lacks} is the copy",
                self.misplaced(unlisted, at, leaf(1)),
            ],
        )


if __name__ == "__main__":
    main()
