"""The content root (page 06): one hash over what a restore brings back."""

from __future__ import annotations

import math
import struct
from typing import Callable, List, Optional, Sequence

from blake3 import blake3

from .documents import Element, elements, split
from .heads import Collection
from .keys import key

DOUBLE, OBJECT, ARRAY, BOOL, INT32, INT64 = 0x01, 0x03, 0x04, 0x08, 0x10, 0x12
INT64_MIN, INT64_MAX = -(1 << 63), (1 << 63) - 1
# Documents below this many levels keep the order of their fields.
DEPTH_MAX = 250
# Servers before 6.2 round the size of a capped collection to this.
SIZE_STEP = 256
FLAGS = (b"unique", b"sparse", b"hidden", b"prepareUnique")

Change = Callable[[List[Element]], List[Element]]


def content_root(collections: Sequence[bytes]) -> bytes:
    """From the hashes of the collections in the order of their UUIDs."""
    hasher = blake3(b"headstock content 1\0" + struct.pack("<Q", len(collections)))
    for one in collections:
        hasher.update(one)
    digest: bytes = hasher.digest()
    return digest


def collection_hash(collection: Collection) -> bytes:
    digest: bytes = blake3(hashed(collection)).digest()
    return digest


def hashed(collection: Collection) -> bytes:
    """What the hash of a collection is made of."""
    specs = sorted(canonical_index(spec) for spec in split(collection.indexes))
    root = collection.root
    options = canonical_options(collection.options, collection.positional)
    return b"".join(
        [
            b"headstock collection 1\0",
            collection.uuid.bytes,
            with_length(collection.ns.encode()),
            bytes([collection.positional]),
            struct.pack("<QQ", root.documents, root.length),
            root.top or bytes(32),
            with_length(options),
            struct.pack("<Q", len(specs)),
            *map(with_length, specs),
        ]
    )


def with_length(content: bytes) -> bytes:
    return struct.pack("<Q", len(content)) + content


def canonical_options(options: bytes, positional: bool) -> bytes:
    def change(fields: List[Element]) -> List[Element]:
        return [rounded(field) if positional and field[1] == b"size" else field for field in fields]

    return canonical(options, change, ())


def canonical_index(spec: bytes) -> bytes:
    def change(fields: List[Element]) -> List[Element]:
        kept = [plain(field) for field in fields if field[1] not in (b"ns", b"background")]
        has_version = any(name == b"v" for _, name, _ in kept)
        return kept if has_version else [*kept, (INT32, b"v", struct.pack("<i", 1))]

    return canonical(spec, change, (b"key",))


def canonical(document: bytes, change: Change, as_they_are: Sequence[bytes]) -> bytes:
    """The key of the changed document, its fields in order except in those to leave alone."""
    fields = [
        field if field[1] in as_they_are else ordered(field)
        for field in change(list(elements(document)))
    ]
    return key(OBJECT, encode(sorted(fields, key=name_of)))


def ordered(field: Element, depth: int = 1) -> Element:
    """A field with those of all documents in it in the order of their names."""
    kind, name, value = field
    if kind not in (OBJECT, ARRAY) or depth > DEPTH_MAX:
        return field
    inner = [ordered(one, depth + 1) for one in elements(value)]
    return kind, name, encode(inner if kind == ARRAY else sorted(inner, key=name_of))


def name_of(field: Element) -> bytes:
    return field[1]


def encode(fields: Sequence[Element]) -> bytes:
    content = b"".join(bytes([kind]) + name + b"\0" + value for kind, name, value in fields)
    return struct.pack("<i", len(content) + 5) + content + b"\0"


def rounded(field: Element) -> Element:
    """The size of a capped collection."""
    size = whole(field)
    if size is None:
        return field
    return INT64, field[1], struct.pack("<q", min(-(-size // SIZE_STEP) * SIZE_STEP, INT64_MAX))


def plain(field: Element) -> Element:
    """A field of an index spec as a server lists it."""
    name, value = field[1], whole(field)
    if value is None:
        return field
    if name in FLAGS:
        return BOOL, name, bytes([value != 0])
    if name == b"expireAfterSeconds":
        return INT64, name, struct.pack("<q", value)
    return field


def whole(field: Element) -> Optional[int]:
    """An int, a long or a finite double, cut towards zero and to the range of a long."""
    kind, _, value = field
    if kind in (INT32, INT64):
        return int.from_bytes(value, "little", signed=True)
    if kind == DOUBLE:
        double: float = struct.unpack("<d", value)[0]
        return max(INT64_MIN, min(int(double), INT64_MAX)) if math.isfinite(double) else None
    return None
