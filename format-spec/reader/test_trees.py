"""The reader against the vectors of trees (page 04), and against trees built from the same page."""

from __future__ import annotations

import struct
import unittest
from typing import Any, Dict, Iterator, List, Optional, Sequence

from .blocks import LEAF, NODE, PART, STREAM, STREAM_PIECE, Block, Source, name_of
from .damage import Damage
from .keys import key_of, separator
from .nodes import SEPARATOR_MAX, Chunks, Entry
from .test_vectors import load
from .trees import CAPPED, SMALL_MAX, USERS, Root, documents


class Trees(unittest.TestCase):
    """Keys, hashes and cuts by themselves, then whole trees."""

    def test_keys(self) -> None:
        for case in load("trees.json")["keys"]:
            key = key_of(bytes.fromhex(case["document"]))
            self.assertEqual(key.hex() if key else None, case["result"], case["what"])

    def test_hashes(self) -> None:
        for case in load("trees.json")["hashes"]:
            chunks = Chunks(bytes.fromhex(case["salt"]), case["level"])
            self.assertEqual(chunks.hash(bytes.fromhex(case["identity"])), int(case["result"], 16))

    def test_cuts(self) -> None:
        for case in load("trees.json")["cuts"]:
            chunks = Chunks(bytes(32), 0 if case["of"] == "documents" else 1)
            chunks.hash = lambda _, hash_=case["hash"]: int(hash_, 16)  # type: ignore
            self.assertEqual(
                chunks.ends(case["before"], case["after"], b""), case["result"], str(case)
            )

    def test_trees(self) -> None:
        for case in load("trees.json")["trees"]:
            with self.subTest(case["what"]):
                salt, keyed = bytes.fromhex(case["salt"]), case["order"] == "keyed"
                wanted = [document(case, n) for n in range(case["count"])]
                memory = Memory()
                root = build(memory, salt, wanted, keyed)
                built: Dict[str, Any] = {
                    "level": root.level,
                    "top": root.top.hex() if root.top else None,
                }
                built.update(documents=root.documents, bytes=root.length, blocks=len(memory.blocks))
                self.assertEqual(built, case["result"])
                form = USERS if keyed else CAPPED
                read = [raw for raw, _ in documents(memory, salt, root, form, "the tree")]
                self.assertEqual(read, wanted)

    def test_what_is_not_the_one_tree_is_refused(self) -> None:
        case = next(case for case in load("trees.json")["trees"] if case["what"] == "three levels")
        wanted = [document(case, n) for n in range(case["count"])]
        salt, other = bytes(32), bytes([1] * 32)
        swapped = [*wanted[:700], wanted[701], wanted[700], *wanted[702:]]
        for of, cut_with, count, why in [
            (wanted, salt, 7, "instead of"),
            (wanted, other, len(wanted), "ends"),
            (swapped, salt, len(wanted), "not above"),
        ]:
            memory = Memory()
            root = build(memory, cut_with, of, True)._replace(documents=count)
            found = documents(memory, salt, root, USERS, "the tree")
            self.assertRaisesRegex(Damage, why, list, found)


class Memory(Source):
    """Blocks without a store."""

    def __init__(self) -> None:
        self.blocks: Dict[bytes, Block] = {}

    def find(self, name: bytes) -> Block:
        return self.blocks[name]

    def put(self, kind: int, raw: bytes) -> bytes:
        name = name_of(kind, raw)
        self.blocks[name] = Block(name, kind, raw, "memory", 0)
        return name

    def cut(self, kind: int, raw: bytes, size: int) -> List[bytes]:
        return [self.put(kind, raw[at : at + size]) for at in range(0, len(raw), size)]


def document(case: Dict[str, Any], n: int) -> bytes:
    """Document n of a tree of the vectors."""
    prefix = case.get("id_prefix", "") * case.get("id_prefix_times", 1)
    id_ = (
        b"\x02_id\0" + text(f"{prefix}{n:06}".encode())
        if prefix
        else struct.pack("<5si", b"\x10_id\0", n)
    )
    value = b"\x02v\0" + text(b"x" * (n * case["factor"] % case["modulus"]))
    return struct.pack("<i", len(id_ + value) + 5) + id_ + value + b"\0"


def text(content: bytes) -> bytes:
    return struct.pack("<i", len(content) + 1) + content + b"\0"


def build(memory: Memory, salt: bytes, of: Sequence[bytes], keyed: bool) -> Root:
    """A tree as sections 4 to 6 say it is made of its documents."""
    entries: List[Entry] = []
    last: Optional[bytes] = None
    for run in runs(Chunks(salt, 0), of, [(len(raw), key_of(raw) or b"") for raw in of]):
        above = separator(last, key_of(run[0]) or b"") if keyed else b""
        last = key_of(run[-1])
        parts = memory.cut(PART, run[-1], SMALL_MAX) if len(run[-1]) > SMALL_MAX else []
        small = run[:-1] if parts else run
        child = memory.put(LEAF, b"".join(small)) if small else None
        entries.append(entry(memory, len(run), sum(map(len, run)), child, parts, above))
    level = 0
    while len(entries) > 1 or any(one.parts for one in entries):
        level += 1
        sizes = [(one.size(), one.identity(keyed)) for one in entries]
        entries = [
            node(memory, run, level, keyed) for run in runs(Chunks(salt, level), entries, sizes)
        ]
    return Root(entries[0].child if entries else None, level, len(of), sum(map(len, of)))


def runs(chunks: Chunks, items: Sequence[Any], sizes: Sequence[Any]) -> Iterator[List[Any]]:
    """Items in chunks; `sizes` has the size and the identity of each."""
    run: List[Any] = []
    for item, (size, identity) in zip(items, sizes):
        if chunks.ended and run:
            yield run
            run = []
        chunks.add(size, identity, not run)
        run.append(item)
    if run:
        yield run


def entry(
    memory: Memory,
    count: int,
    length: int,
    child: Optional[bytes],
    parts: List[bytes],
    above: bytes,
) -> Entry:
    pieces = memory.cut(STREAM, above, STREAM_PIECE) if len(above) > SEPARATOR_MAX else []
    return Entry(count, length, child, parts, b"" if pieces else above, pieces, len(above))


def node(memory: Memory, of: List[Entry], level: int, keyed: bool) -> Entry:
    """A node of entries, and its own entry in the level above."""
    ids = b"".join(one.ids() for one in of)
    raw = struct.pack("<I", len(ids) // 32) + ids + bytes([keyed, level]) + varint(len(of))
    for one in of:
        raw += varint(one.documents) + varint(one.length)
        raw += varint(len(one.parts)) if level == 1 else b""
        raw += varint(one.separator_length) + one.separator if keyed else b""
    above = b"".join(memory.blocks[piece].raw for piece in of[0].pieces) or of[0].separator
    sums = sum(one.documents for one in of), sum(one.length for one in of)
    return entry(memory, *sums, memory.put(NODE, raw), [], above)


def varint(value: int) -> bytes:
    return bytes([value]) if value < 0x80 else bytes([value & 0x7F | 0x80]) + varint(value >> 7)


if __name__ == "__main__":
    unittest.main()
