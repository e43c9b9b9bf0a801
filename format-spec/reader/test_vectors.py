"""The reader against the test vectors: `python3 -m unittest reader.test_vectors`."""

from __future__ import annotations

import json
import os
import tempfile
import unittest
from typing import Any, Dict, List
from uuid import UUID

from zstandard import ZstdCompressionDict

from .blocks import DICTIONARY, KINDS, LEAF, LINKS, Block, expand, name_of
from .content_root import collection_hash, content_root, hashed
from .damage import Damage
from .documents import Document, Link, own, split
from .heads import Collection
from .log import read_head, read_identity, read_log
from .segment import Segment
from .trees import Root

VECTORS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "vectors")
SECTOR = 4096


def lines(name: str) -> Dict[str, bytes]:
    """The lines `name = hex` of a file."""
    with open(os.path.join(VECTORS, name), encoding="ascii") as file:
        pairs = (line.split(" = ") for line in file if line.strip() and not line.startswith("#"))
        return {name: bytes.fromhex(value) for name, value in pairs}


def load(name: str) -> Any:
    with open(os.path.join(VECTORS, name), encoding="ascii") as file:
        return json.load(file)


class Files(unittest.TestCase):
    """Pages 01 and 02, in files made of the vectors."""

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name

    def write(self, name: str, content: bytes) -> str:
        path = os.path.join(self.folder, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(content)
        return path

    def test_segment(self) -> None:
        vector = lines("segment.txt")
        start = vector["header_start"]
        sector = start + bytes(SECTOR - len(start) - 4) + vector["header_crc"]
        whole = sector + vector["record"] + vector["footer"]
        path = self.write("0000002a.seg", whole)
        segment = Segment(path, 42, vector["store"], len(whole), True)
        self.addCleanup(segment.close)
        self.assertEqual(segment.findings, [])
        name = lines("blocks.txt")["leaf"]
        block = segment.block(name)
        self.assertEqual(block, Block(name, LEAF, lines("blocks.txt")["raw"], path, SECTOR))

    def test_every_changed_byte_of_a_segment_is_found(self) -> None:
        vector = lines("segment.txt")
        start, record, footer = vector["header_start"], vector["record"], vector["footer"]
        whole = start + bytes(SECTOR - len(start) - 4) + vector["header_crc"] + record + footer
        name = lines("blocks.txt")["leaf"]
        padding = range(SECTOR + 64 + 21, SECTOR + len(record))
        for at in [*range(len(start)), *range(SECTOR - 4, len(whole))]:
            changed = bytearray(whole)
            changed[at] ^= 1
            path = self.write("0000002a.seg", bytes(changed))
            segment = Segment(path, 42, vector["store"], len(whole), True)
            try:
                harmless = segment.block(name) is not None and segment.findings == []
            except Damage:
                harmless = False
            segment.close()
            self.assertEqual(harmless, at in padding, f"byte {at}")

    def test_commit_log(self) -> None:
        vector = lines("commit-log.txt")
        self.write("STORE", vector["identity"].ljust(SECTOR, b"\0") + vector["identity"])
        self.write("HEAD", bytes(SECTOR) + vector["slot"].ljust(SECTOR, b"\0"))
        record = vector["full"] + vector["next"]
        path = self.write("log/0000000000000005.log", record.ljust(SECTOR, b"\0"))
        findings: List[Damage] = []
        uuid, salt = read_identity(self.folder, findings)
        slot = read_head(self.folder, uuid, findings)
        self.assertEqual((uuid, salt, findings), (vector["store"], b"\x5a" * 32, []))
        self.assertEqual((slot.generation, slot.log), (9, 5))
        commit = read_log(self.folder, uuid, slot)
        self.assertEqual((commit.number, commit.active, commit.active_length), (8, 4, SECTOR))
        self.assertEqual(sorted(commit.roots), ["rs1"])
        self.assertEqual(commit.segments, {2: 0x10000, 3: 0x101D0})
        torn = bytearray(record)
        torn[-1] ^= 1
        self.write("log/0000000000000005.log", bytes(torn))
        self.assertEqual(read_log(self.folder, uuid, slot).number, 7)
        torn[0] ^= 1
        self.write("log/0000000000000005.log", bytes(torn))
        self.assertRaisesRegex(Damage, f"{path} at offset 0", read_log, self.folder, uuid, slot)


class Blocks(unittest.TestCase):
    """Page 03."""

    def test_dictionary(self) -> None:
        vector = lines("dictionary.txt")
        self.assertEqual(name_of(DICTIONARY, vector["dictionary"])[:8], vector["form"])
        dictionary = ZstdCompressionDict(vector["dictionary"])
        raw = expand(vector["frame"], len(vector["raw"]), dictionary)
        self.assertEqual(raw, vector["raw"])

    def test_names(self) -> None:
        vector = lines("blocks.txt")
        for kind, name in KINDS.items():
            self.assertEqual(name_of(kind, vector["raw"]), vector[name.lower()])
        self.assertEqual(name_of(LEAF, b""), vector["leaf_empty"])

    def test_links(self) -> None:
        vector = lines("blocks.txt")
        block = Block(b"", LINKS, vector["links_raw"], "", 0)
        found = b"".join(links(own(raw, block)) for raw in split(block.raw))
        self.assertEqual(found, vector["links_names"])


def links(value: Any) -> bytes:
    """The names in a value, in order."""
    if isinstance(value, Link):
        return value
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return b"".join(map(links, inner))


class ContentRoots(unittest.TestCase):
    """Page 06."""

    def test_content_root(self) -> None:
        vector = load("content-root.json")
        hashes = []
        for case in vector["collections"]:
            collection = Collection(
                UUID(case["uuid"]),
                case["ns"],
                bytes.fromhex(case["options"]),
                b"".join(map(bytes.fromhex, case["indexes"])),
                case["positional"],
                False,
                Root(
                    case["top"] and bytes.fromhex(case["top"]), 0, case["documents"], case["bytes"]
                ),
                Document(),
            )
            self.assertEqual(hashed(collection).hex(), case["hashed"])
            hashes.append(collection_hash(collection))
        self.assertEqual(
            [one.hex() for one in hashes], [one["hash"] for one in vector["collections"]]
        )
        self.assertEqual(content_root(hashes).hex(), vector["content_root"])


if __name__ == "__main__":
    unittest.main()
