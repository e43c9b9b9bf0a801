"""Writes seeds for fuzzing, a folder for each target: python3 fuzz/seeds.py fuzz/corpus

They are made of the vectors of `format-spec` where a target takes what a vector is. The others
read a script, or entries of an oplog, of which there are no vectors: theirs are short ones that do
each kind of thing once. The same seeds every time.
"""

import json
import pathlib
import sys
import uuid

ROOT = pathlib.Path(__file__).resolve().parent.parent
VECTORS = ROOT / "format-spec" / "vectors"
# The flag of a script that says that its store is encrypted.
ENCRYPTED = 0x40


def vectors(name):
    lines = (VECTORS / name).read_text().splitlines()
    pairs = (line.split(" = ") for line in lines if not line.startswith("#"))
    return {name: bytes.fromhex(value) for name, value in pairs}


def u16(number):
    return number.to_bytes(2, "little")


class Long(int):
    """An int64."""


class Ts(tuple):
    """A timestamp: seconds and increment."""


def bson(document):
    elements = b"".join(element(name, value) for name, value in document.items())
    return (len(elements) + 5).to_bytes(4, "little") + elements + b"\0"


def prefixed(text):
    return len(text).to_bytes(4, "little") + text


# Of each type here, its byte in BSON and what stands behind the name.
TYPES = {
    str: (2, lambda value: prefixed(value.encode() + b"\0")),
    dict: (3, lambda value: bson(value)),
    list: (4, lambda value: bson({str(at): one for at, one in enumerate(value)})),
    bytes: (5, lambda value: len(value).to_bytes(4, "little") + b"\0" + value),
    uuid.UUID: (5, lambda value: b"\x10\0\0\0\4" + value.bytes),
    bool: (8, lambda value: bytes([value])),
    int: (16, lambda value: value.to_bytes(4, "little", signed=True)),
    Ts: (17, lambda value: value[1].to_bytes(4, "little") + value[0].to_bytes(4, "little")),
    Long: (18, lambda value: value.to_bytes(8, "little", signed=True)),
}


def element(name, value):
    kind, encode = TYPES[type(value)]
    return bytes([kind]) + name.encode() + b"\0" + encode(value)


def block_links():
    blocks, dictionary = vectors("blocks.txt"), vectors("dictionary.txt")
    for kind in range(1, 8):
        yield bytes([kind]) + blocks["raw"]
    yield b"\3" + blocks["node_raw"]
    yield b"\5" + blocks["links_raw"]
    yield b"\6" + blocks["links_raw"]
    # The first half is the dictionary of the second.
    words = dictionary["dictionary"]
    for stored in (dictionary["raw"], dictionary["frame"]):
        yield b"\1" + words + stored.ljust(len(words), b"\0")


def tree_node():
    keys = json.loads((VECTORS / "trees.json").read_text())["keys"]
    # By key, of which a leaf has each once. So many documents that the flags say: a keyed leaf.
    by_key = {bytes.fromhex(one["result"]): bytes.fromhex(one["document"]) for one in keys}
    documents = [document for _, document in sorted(by_key.items())]
    for count in range(4, len(documents) + 1, 4):
        yield bytes([count]) + b"".join(documents[:count])
    # As positional ones, whose order is free.
    for count in range(2, len(keys) + 1, 8):
        yield bytes([count]) + b"".join(bytes.fromhex(one["document"]) for one in keys[:count])
    for keyed in (1, 0):
        for level in (1, 2):
            # Nine documents under one entry, the rest under the other.
            flags = level << 4 | (1 if keyed else 3)
            parts = b"\0" if level == 1 else b""
            entries = [bytes([9, 90]) + parts, bytes([flags - 9, 80]) + parts]
            separators = [b"\0", b"\3\4\5\x40"] if keyed else [b"", b""]
            tail = b"".join(map(b"".join, zip(entries, separators)))
            node = (2).to_bytes(4, "little") + bytes(64) + bytes([keyed, level, 2]) + tail
            yield bytes([flags]) + node


def tree_edit():
    # Key, size and whether it deletes, and whether a batch ends.
    puts = [bytes([key, 1 + key % 5, key % 16]) for key in range(64)]
    deletes = [bytes([key, 0x80, key % 3]) for key in range(0, 64, 3)]
    large = [bytes([key, 0x7F, 1]) for key in range(40)]
    for edits in (puts[:1], puts, puts[::-1], puts + deletes, large, large + deletes):
        yield b"".join(edits)


def entries():
    """What entries have beyond their position."""
    collection = {"ui": uuid.UUID(bytes=b"\1" * 16), "o2": {"_id": 1}}
    rest = {**collection, "lsid": {"id": 1}, "txnNumber": Long(1)}
    for fields in (
        {"op": "i", "o": {"_id": 1, "a": [1, {"b": "x"}]}},
        {"op": "d", "o": {"_id": 1}},
        {"op": "n", "o": {"msg": "periodic noop"}},
        {"op": "u", "o": {"_id": 1, "whole": True}},
        {"op": "u", "o": {"$v": 1, "$set": {"a.1.b": 3, "s.d": 4}, "$unset": {"s.u": True}}},
        {"op": "u", "o": {"$v": 2, "diff": {"d": {"s": False}, "u": {"q": 1}, "i": {"r": 2}}}},
        {"op": "u", "o": {"$v": 2, "diff": {"sa": {"a": True, "l": 2, "u0": 5, "s1": {"d": {}}}}}},
        {"op": "u", "o": {"$v": 2, "diff": {"ss": {"i": {"z": 1}, "su": {"d": {"i": False}}}}}},
        {"op": "u", "o": {"$v": 2, "diff": {"b": {"s": {"o": 1, "d": b"xy"}}}}},
        {"op": "c", "o": {"create": "c", "idIndex": {"v": 2, "key": {"_id": 1}, "name": "_id_"}}},
        {"op": "c", "o": {"renameCollection": "app.c", "to": "app.d", "dropTarget": False}},
        {"op": "c", "o": {"collMod": "c", "index": {"name": "x", "hidden": True}}},
        {"op": "c", "o": {"drop": "c"}},
        {"op": "c", "o": {"applyOps": [{"op": "i", "ns": "app.c", "o": {}}], "prepare": True}},
        {"op": "c", "o": {"commitTransaction": 1, "commitTimestamp": Ts((1, 1))}},
    ):
        yield {**fields, "ns": "app.$cmd" if fields["op"] == "c" else "app.c", **rest}


def oplog_entry():
    for fields in entries():
        yield bson({"ts": Ts((7, 1)), "t": Long(1), "v": Long(2), **fields})


def head_apply():
    # Kind (with the top bit: and then flushes), seed, and how many bytes are changed.
    def script(kinds, seed, flags=0):
        return bytes([flags]) + b"".join(bytes([kind, seed, 0]) for kind in kinds)

    inserts = [0, 0x81]
    for seed in (0x0B, 0x8A):
        yield script(inserts + list(range(16)), seed)
        yield script(inserts + list(range(16, 32)) + inserts, seed, flags=1)
        yield script(inserts + [34, 34, 33, 32, 35, 39, 36, 37, 0x80 | 32], seed)
        yield script([3] * 16 + [4] * 8 + [0x84], seed)
    # Any bytes as those of an entry.
    for fields in entries():
        elements = bson(fields)[4:-1]
        yield b"\0" + bytes([0x7F, len(elements)]) + elements + b"\0"


def archive():
    # A document: length in two bytes, by how much it is shifted, and what is in it.
    documents = [u16(7) + b"\0\1", u16(250) + b"\0\2", u16(200) + b"\6\3"]
    collection = bytes([len(documents)]) + b"".join(documents)
    for chosen in (0, 1, 3, 0x3F):
        collections = bytes([chosen]) + bin(chosen).count("1") * collection
        for how in range(5):
            # One edit: about where, how, where from there, how many bytes and which.
            yield collections + b"\0" + u16(20) + bytes([how]) + u16(3) + u16(9) + b"\xff"


def edit_of_segment(how):
    """Of a record, the second, where it has one."""
    # A field and what number it gets, or where and what.
    return u16(1) + bytes([how]) + u16(how) + b"\1\1" + u16(40) + b"\7"


def segment_recovery():
    # Each combination of the flags above the moment of the store and whether it is mapped.
    for number in range(32):
        edits = edit_of_segment(number % 8) + edit_of_segment(number // 8)
        yield bytes([8 * number + number % 6]) + u16(number % 5) + b"\1" + edits + b"\x0f"


def commit_log():
    for flags in (0, 1, 8, 0x0C, ENCRYPTED, ENCRYPTED | 0x0C):
        for how in range(8):
            yield bytes([flags, 0, 1]) + u16(2) + bytes([how]) + u16(how) + b"\1\1"
        for how in (0, 3):
            yield bytes([flags, 0, 0, how]) + u16(1) + u16(4) + b"\1\1"


def repair():
    # Each edit of a segment, and each small file gone or with a byte changed.
    for number in range(24):
        flags = [0, ENCRYPTED, 4, ENCRYPTED | 4][number // 6] | number % 3
        segment = b"\1" + u16(number % 5) + b"\1\0" + edit_of_segment(number % 8)
        small = [b"\0", b"\1\0" + u16(40) + b"\0" + u16(3) + u16(0) + b"\7"][number % 2]
        yield bytes([flags, 1]) + segment + b"\0" + u16(number % 6) + small


def store_model():
    put, small = b"\0\2" + u16(5000) + b"\x17", b"\0\1" + u16(300) + b"\3"
    commit, take_over = b"\5" + u16(0) + b"\0", b"\x08\0\5\1"
    compact, thorough, removed = b"\x0c\0", b"\x0c\1", b"\x0a\0"
    reopen, cut, read, full = b"\x0e\0", b"\x0f", b"\x13\1" + u16(3), b"\x12\1" + u16(12)
    scripts = [
        [put, commit, read, take_over, reopen, read],
        [put, commit, small, commit, removed, compact, thorough, read],
        [put, commit, reopen, put, commit, thorough, reopen, read],
        [small, commit, put, cut],
        [put, full, put, commit, thorough, reopen],
    ]
    # Each kind of fault, at once and for good.
    for fault in range(14):
        scripts.append([put, commit, b"\x10\0\1" + u16(fault) + b"\1", put, commit, thorough])
    # The power goes after some more operations.
    for after in (0, 3, 9):
        scripts.append([put, commit, bytes([0x10, after, 0]), commit, thorough, reopen])
    for encrypted in (0, 1):
        for script in scripts:
            yield bytes([encrypted]) + b"".join(script)


def keys_file():
    ring, records, keys, both, seals, repairs = 0x04, 0x08, 0x10, 0x20, 0x40, 0x80
    given = vectors("encryption.txt")

    def splice(place, part):
        return u16(0) + b"\5" + u16(place) + bytes([len(part)]) + part

    # The file of the vector, and each part of it in the one of the store.
    start, whole_ring = given["keys_start"], given["keys_ring"]
    parts = [splice(0, start[:255]), splice(255, start[255:]), splice(1600, whole_ring)]
    parts.append(splice(8188, given["keys_crc"]))
    yield bytes([keys | both, 3]) + b"".join(parts)
    for part in parts:
        yield bytes([keys | repairs, 0]) + part
        yield bytes([keys | both | seals, 0]) + part
    # Each field of the file, of its first slot, and of its ring.
    for field in range(6):
        yield bytes([keys | both | seals, 0]) + u16(0) + b"\0" + u16(field) + b"\1\1"
    for field in (0, 2, 8):
        yield bytes([keys | both | seals, 0]) + u16(0) + b"\2" + u16(0) + u16(field) + b"\1\1"
    for field in (0, 2, 3, 4, 6):
        yield bytes([ring | repairs, 0, 0]) + u16(field) + b"\1\1"
    # Keys of another time: without one of the two.
    for which in (0, 1):
        yield bytes([ring, 0, 2]) + u16(which)
        yield bytes([ring | repairs, 0, 2]) + u16(which)
    # The payload of a record as it is in the vector, or sealed again in each epoch.
    payload = given["record"][64:129]
    yield bytes([records]) + u16(0) + b"\0" + u16(1) + bytes([1, 0, len(payload)]) + payload
    for epoch in (1, 2):
        sealed = bytes([1, epoch, len(given["raw"])]) + given["raw"]
        yield bytes([records]) + u16(epoch - 1) + b"\0" + u16(1) + sealed
        yield bytes([records | repairs]) + u16(epoch - 1) + b"\0" + u16(2) + sealed


SEEDS = [
    archive,
    block_links,
    commit_log,
    head_apply,
    keys_file,
    oplog_entry,
    repair,
    segment_recovery,
    store_model,
    tree_edit,
    tree_node,
]


def main():
    named = {make.__name__ for make in SEEDS}
    targets = {path.stem for path in (ROOT / "fuzz" / "fuzz_targets").glob("*.rs")}
    assert named == targets, f"seeds and targets differ: {named ^ targets}"
    for make in SEEDS:
        folder = pathlib.Path(sys.argv[1]) / make.__name__
        folder.mkdir(parents=True, exist_ok=True)
        for number, seed in enumerate(make()):
            (folder / f"seed-{number:03}").write_bytes(seed)


if __name__ == "__main__":
    main()
