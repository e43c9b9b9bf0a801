"""The reader against the test vectors: `python3 -m unittest reader.test_vectors`."""

from __future__ import annotations

import json
import os
import struct
import tempfile
import unittest
from typing import Any, Dict, List, Optional
from uuid import UUID
from zlib import crc32

from zstandard import ZstdCompressionDict

from .blocks import DICTIONARY, KINDS, LEAF, LINKS, Block, expand, name_of
from .check_files import scanned
from .content_root import collection_hash, content_root, hashed
from .damage import Damage
from .documents import Document, Link, own, split
from .encryption import Keys, hasher
from .heads import Collection
from .keyring import BY_KEY_FILE, BY_PASSPHRASE, COPY, RING_AT, Refused, Secret, read_keys
from .log import Slot, read_head, read_identity, read_log
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


class InFolder(unittest.TestCase):
    """Files in a folder of their own."""

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


class Files(InFolder):
    """Pages 01 and 02, in files made of the vectors."""

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
        uuid, salt, encrypted = read_identity(self.folder, findings)
        slot = read_head(self.folder, uuid, findings)
        self.assertEqual((uuid, salt, encrypted), (vector["store"], b"\x5a" * 32, False))
        self.assertEqual(findings, [])
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


class Encryption(InFolder):
    """Page 08, in files made of the vectors."""

    def setUp(self) -> None:
        super().setUp()
        self.vector = vector = lines("encryption.txt")
        start = vector["keys_start"].ljust(RING_AT, b"\0") + vector["keys_ring"]
        self.copy = start.ljust(COPY - 4, b"\0") + vector["keys_crc"]
        self.key = Secret(BY_KEY_FILE, vector["key_file_key"], "the key")
        self.passphrase = Secret(BY_PASSPHRASE, vector["passphrase"], "the passphrase")
        # What the header sector says counts for nothing here: each record says it too.
        self.sector = bytes(SECTOR)

    def keys(self, secret: Secret, content: bytes, findings: List[Damage]) -> Keys:
        self.write("KEYS", content)
        return read_keys(self.folder, self.vector["store"], secret, findings)

    def opened(self) -> Keys:
        return self.keys(self.key, self.copy * 2, [])

    def test_secrets(self) -> None:
        key = self.vector["key_file_key"].hex()
        for text in (key, f"  {key.upper()}\r\n\n"):
            secret = Secret.of_key_file(self.write("key", text.encode()))
            self.assertEqual(secret.value, self.key.value)
        for text in ("", key[1:], key + "0", f"{key[:32]} {key[32:]}"):
            path = self.write("key", text.encode())
            self.assertRaisesRegex(Refused, "is not a key file", Secret.of_key_file, path)
        phrase = self.vector["passphrase"]
        for content in (phrase, phrase + b"\n", phrase + b"\nnext line\n"):
            secret = Secret.of_passphrase_file(self.write("phrase", content))
            self.assertEqual(secret.value, phrase)
        path = self.write("phrase", b"seven..\nnext line")
        self.assertRaisesRegex(Refused, "less than 8", Secret.of_passphrase_file, path)

    def test_keys(self) -> None:
        vector = self.vector
        for secret in (self.key, self.passphrase):
            findings: List[Damage] = []
            keys = self.keys(secret, self.copy * 2, findings)
            self.assertEqual(findings, [])
            self.assertEqual((keys.names, keys.chain), (vector["name_key"], vector["chain_key"]))
            self.assertEqual((list(keys.blocks), list(keys.commits)), ([1, 2], [1, 2]))
            self.assertEqual(keys.blocks[2], vector["block_key"])
            self.assertEqual(keys.commits[2], vector["commit_key"])
            self.assertEqual(keys.salt, b"\x5a" * 32)

    def test_a_wrong_secret_is_told(self) -> None:
        for right in (self.key, self.passphrase):
            wrong = right._replace(value=bytes([right.value[0] ^ 1]) + right.value[1:])
            findings: List[Damage] = []
            self.assertRaisesRegex(
                Refused, "is the wrong one", self.keys, wrong, self.copy * 2, findings
            )
            self.assertEqual(findings, [])

    def test_one_whole_copy_of_the_keys_is_enough(self) -> None:
        for at in range(0, COPY, 61):
            changed = bytearray(self.copy)
            changed[at] ^= 1
            for damaged in (0, 1):
                copies = [self.copy, self.copy]
                copies[damaged] = bytes(changed)
                findings: List[Damage] = []
                self.keys(self.key, b"".join(copies), findings)
                self.assertEqual([one.offset for one in findings], [damaged * COPY])
            self.assertRaisesRegex(Damage, "KEYS", self.keys, self.key, bytes(changed) * 2, [])
        os.unlink(os.path.join(self.folder, "KEYS"))
        self.assertRaisesRegex(
            Damage, "KEYS", read_keys, self.folder, self.vector["store"], self.key, []
        )

    def test_forged_keys_are_found(self) -> None:
        for at, why in [
            (64, "is of kind"),
            (64 + 1, "label"),
            (64 + 8, "KiB"),
            (64 + 192 + 11, "KiB"),
            (64 + 192 + 40, "UTF-8"),
            (RING_AT + 30, "seal"),
            (16, "another store"),
        ]:
            changed = bytearray(self.copy)
            changed[at] ^= 0x80
            changed[-4:] = struct.pack("<I", crc32(changed[:-4]))
            findings: List[Damage] = []
            try:
                self.keys(self.key, bytes(changed) * 2, findings)
            except Damage as damage:
                findings.append(damage)
            except Refused:
                # The slot was that of the secret.
                pass
            self.assertRegex(str(findings[0]), why)
        changed = bytearray(self.copy)
        changed[4000] ^= 1
        changed[-4:] = struct.pack("<I", crc32(changed[:-4]))
        findings = []
        self.keys(self.key, self.copy + bytes(changed), findings)
        self.assertEqual([one.what for one in findings], ["the copies differ"])

    def block(self, record: bytes, keys: Optional[Keys]) -> Block:
        """The block of the one record of a segment."""
        path = self.write("0000002a.seg", self.sector + record)
        length = SECTOR + len(record)
        segment = Segment(path, 42, self.vector["store"], length, False, keys)
        try:
            header = segment.header(SECTOR)
            assert header is not None
            return segment.content(header)
        finally:
            segment.close()

    def resummed(self, record: bytes) -> bytes:
        """A record whose checksums hold, so that only its seal and its name tell."""
        stored = int.from_bytes(record[8:12], "little")
        header = record[:48] + struct.pack("<I", crc32(record[64 : 64 + stored])) + record[52:60]
        place = self.vector["store"] + struct.pack("<IQ", 42, SECTOR)
        return header + struct.pack("<I", crc32(place + header)) + record[64:]

    def test_record(self) -> None:
        vector, keys = self.vector, self.opened()
        self.assertEqual(name_of(LEAF, vector["raw"], vector["name_key"]), vector["name"])
        block = self.block(vector["record"], keys)
        self.assertEqual((block.kind, block.name), (LEAF, vector["name"]))
        self.assertEqual(block.raw, vector["raw"])
        self.assertEqual(self.resummed(vector["record"]), vector["record"])

    def test_every_changed_byte_of_what_is_sealed_is_found(self) -> None:
        keys, record = self.opened(), self.vector["record"]
        stored = int.from_bytes(record[8:12], "little")
        for at in range(64, 64 + stored):
            changed = bytearray(record)
            changed[at] ^= 1
            self.assertRaisesRegex(Damage, "checksum", self.block, bytes(changed), keys)
            forged = self.resummed(bytes(changed))
            why = "which KEYS does not have" if at < 68 else "at offset 4096: .* seal is broken"
            self.assertRaisesRegex(Damage, why, self.block, forged, keys)
        # There is no epoch 3, which it became there, but there is a first one.
        forged = self.resummed(record[:64] + b"\1" + record[65:])
        self.assertRaisesRegex(Damage, "seal is broken", self.block, forged, keys)
        # So it is with what the seal covers besides.
        for at, change in [(4, 3), (5, 1), (12, 1), (16, 1), (47, 1)]:
            changed = bytearray(record)
            changed[at] ^= change
            forged = self.resummed(bytes(changed))
            self.assertRaisesRegex(Damage, "seal is broken", self.block, forged, keys)
        self.assertRaisesRegex(
            Damage,
            "too few",
            self.block,
            self.resummed(record[:8] + struct.pack("<I", 43) + record[12:]),
            keys,
        )

    def test_wrong_keys_and_none_are_told(self) -> None:
        vector, keys = self.vector, self.opened()
        record, plain = vector["record"], lines("segment.txt")["record"]
        keys.blocks[2] = bytes(32)
        self.assertRaisesRegex(Damage, "seal is broken", self.block, record, keys)
        del keys.blocks[2]
        self.assertRaisesRegex(Damage, "epoch 2", self.block, record, keys)
        self.assertRaisesRegex(Damage, "is sealed", self.block, record, None)
        self.assertRaisesRegex(Damage, "not sealed", self.block, plain, self.opened())
        keys = self.opened()
        keys.names = bytes(32)
        self.assertRaisesRegex(Damage, "another content", self.block, record, keys)

    def test_epochs_of_header_sectors(self) -> None:
        segment_start = lines("segment.txt")["header_start"]
        for epoch, findings in [
            (2, []),
            (1, ["the header sector says epoch 1, but records are of epoch 2"]),
            (
                0,
                [
                    "the header sector says epoch 0, of which there is no key",
                    "the header sector says epoch 0, but records are of epoch 2",
                ],
            ),
        ]:
            start = segment_start[:52] + struct.pack("<I", epoch) + segment_start[56:]
            place = self.vector["store"] + struct.pack("<II", 42, epoch)
            start = start[:64] + hasher(self.opened().chain).update(place).digest()
            start = start.ljust(SECTOR - 4, b"\0")
            sector = start + struct.pack("<I", crc32(start))
            path = self.write("0000002a.seg", sector + self.vector["record"])
            length = SECTOR + len(self.vector["record"])
            segment = Segment(path, 42, self.vector["store"], length, False, self.opened())
            self.addCleanup(segment.close)
            found = [*segment.findings, *scanned(segment)]
            self.assertEqual([one.what for one in found], findings)

    def test_a_header_that_nothing_vouches_for(self) -> None:
        start = lines("segment.txt")["header_start"]
        start = (start[:52] + struct.pack("<I", 2) + start[56:]).ljust(SECTOR - 4, b"\0")
        sector = start + struct.pack("<I", crc32(start))
        path = self.write("0000002a.seg", sector + self.vector["record"])
        length = SECTOR + len(self.vector["record"])
        segment = Segment(path, 42, self.vector["store"], length, False, self.opened())
        self.addCleanup(segment.close)
        self.assertRegex(segment.findings[0].what, "nothing vouches for epoch 2")

    def test_commit(self) -> None:
        vector, keys = self.vector, self.opened()
        self.write("STORE", vector["identity"].ljust(SECTOR, b"\0") + vector["identity"])
        findings: List[Damage] = []
        identity = read_identity(self.folder, findings)
        self.assertEqual(identity, (vector["store"], bytes(32), True))
        self.assertEqual(findings, [])
        record = vector["commit"]
        slot = Slot(9, 5, record[-32:], 0)
        path = self.write("log/0000000000000005.log", record.ljust(SECTOR, b"\0"))
        commit = read_log(self.folder, vector["store"], slot, keys)
        self.assertEqual((commit.number, commit.active, commit.active_length), (7, 4, SECTOR))
        self.assertEqual(sorted(commit.roots), ["rs0", "rs1"])
        self.assertEqual(commit.segments, {2: 0x10000, 3: 0x101D0})
        # A plain reader takes the hash for a wrong one, as if the record were torn.
        self.assertRaisesRegex(Damage, path, read_log, self.folder, vector["store"], slot)
        for at in range(len(record)):
            changed = bytearray(record)
            changed[at] ^= 1
            self.write("log/0000000000000005.log", bytes(changed))
            self.assertRaisesRegex(Damage, path, read_log, self.folder, vector["store"], slot, keys)

    def test_forged_commits_are_refused(self) -> None:
        """With the right hash, which only the chain key gives."""
        vector, keys = self.vector, self.opened()
        seed = vector["store"] + struct.pack("<QQ", 5, 0)
        for at, change, chained, why in [
            (4, 2, True, "not sealed"),
            (4, 0, False, "is sealed"),
            (24, 1, True, "seal is broken"),
            (120, 1, True, "seal is broken"),
            (64, 3, True, "seal is broken"),
            (64, 1, True, "epoch 3"),
        ]:
            changed = bytearray(vector["commit"][:-32])
            changed[at] ^= change
            hash_ = hasher(keys.chain if chained else None).update(seed + changed).digest()
            self.write("log/0000000000000005.log", bytes(changed) + hash_)
            slot, reading = Slot(9, 5, hash_, 0), keys if chained else None
            self.assertRaisesRegex(
                Damage, why, read_log, self.folder, vector["store"], slot, reading
            )


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
