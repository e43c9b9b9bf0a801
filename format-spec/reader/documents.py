"""BSON: documents of Headstock's own (page 03), and as much of a user's as a key needs."""

from __future__ import annotations

import struct
import uuid
from typing import TYPE_CHECKING, Any, Dict, Iterator, List, NamedTuple, Tuple, Type

from .damage import Damage, Malformed

if TYPE_CHECKING:
    from .blocks import Block

# The least a document has: its length and the zero that ends it.
DOCUMENT_MIN = 5
# Documents in a `Links` block nest at most this deep, arrays counting.
NESTING_MAX = 16
LINK_SUBTYPE = 0x80
LINK_BYTES = 32

DOCUMENT, ARRAY, BINARY, REGEX, POINTER, SCOPED = 0x03, 0x04, 0x05, 0x0B, 0x0C, 0x0F
# String, code and symbol.
STRINGS = (0x02, 0x0D, 0x0E)
# Lengths of the values of the types that always have the same.
FIXED = {
    0x01: 8,
    0x06: 0,
    0x07: 12,
    0x08: 1,
    0x09: 8,
    0x0A: 0,
    0x10: 4,
    0x11: 8,
    0x12: 8,
    0x13: 16,
    0x7F: 0,
    0xFF: 0,
}

Element = Tuple[int, bytes, bytes]


class Link(bytes):
    """The name of a block: a binary of subtype 0x80 and 32 bytes."""


class Date(int):
    """Milliseconds since 1970."""


class Timestamp(NamedTuple):
    """Compares by its seconds, then by the ordinal in them."""

    t: int
    i: int


class Document(Dict[str, Any]):
    """A document of our own; it knows the block it stands in, to name it where a field is wrong."""

    block: "Block"

    def want(self, name: str, kind: Type[Any]) -> Any:
        """A field that may be absent: None then."""
        value = self.get(name)
        # To Python a bool is an int; to BSON it is not.
        if value is None or (isinstance(value, kind) and isinstance(value, bool) <= (kind is bool)):
            return value
        raise self.damage(f"field {name} is not a {kind.__name__}")

    def need(self, name: str, kind: Type[Any]) -> Any:
        """A field that must be there."""
        value = self.want(name, kind)
        if value is None:
            raise self.damage(f"field {name} is missing")
        return value

    def count(self, name: str) -> int:
        """A number that is not negative."""
        value: int = self.need(name, int)
        if value < 0:
            raise self.damage(f"field {name} is negative")
        return value

    def damage(self, what: str) -> Damage:
        return self.block.damage(what)


def split(run: bytes) -> Iterator[bytes]:
    """The documents of a run: BSON after BSON."""
    at = 0
    while at < len(run):
        size = int32(run, at)
        if size < DOCUMENT_MIN or at + size > len(run) or run[at + size - 1] != 0:
            raise Malformed(f"no BSON document at byte {at} of the run")
        yield run[at : at + size]
        at += size


def elements(document: bytes) -> Iterator[Element]:
    """Type, name and value of each element, in order."""
    end = len(document) - 1
    if end + 1 < DOCUMENT_MIN or int32(document, 0) != end + 1 or document[end] != 0:
        raise Malformed("a BSON document has a wrong length")
    at = 4
    while at < end:
        kind = document[at]
        name, at = cstring(document, at + 1)
        size = value_length(kind, document, at)
        if at + size > end:
            raise Malformed(f"BSON element {name!r} is cut off")
        yield kind, name, document[at : at + size]
        at += size


def value_length(kind: int, document: bytes, at: int) -> int:
    if kind in FIXED:
        return FIXED[kind]
    if kind == REGEX:
        return cstring(document, cstring(document, at)[1])[1] - at
    size = int32(document, at)
    least = DOCUMENT_MIN if kind in (DOCUMENT, ARRAY, SCOPED) else 0 if kind == BINARY else 1
    if size < least:
        raise Malformed("a length in BSON is too small")
    if kind in (DOCUMENT, ARRAY, SCOPED):
        return size
    if kind in STRINGS:
        return 4 + size
    if kind == BINARY:
        return 5 + size
    if kind == POINTER:
        return 4 + size + 12
    raise Malformed(f"BSON type {kind:#04x} is unknown")


def int32(raw: bytes, at: int) -> int:
    if at + 4 > len(raw):
        raise Malformed("BSON is cut off")
    value: int = struct.unpack_from("<i", raw, at)[0]
    return value


def cstring(raw: bytes, at: int) -> Tuple[bytes, int]:
    """The bytes up to a zero, and where what follows it starts."""
    end = raw.find(0, at)
    if end < 0:
        raise Malformed("BSON is cut off in a name")
    return raw[at:end], end + 1


def own(raw: bytes, block: "Block") -> Document:
    """Decodes a document of our own that stands in `block`."""
    try:
        return _document(raw, block, 1)
    except (Malformed, UnicodeDecodeError) as why:
        raise block.damage(f"a document is malformed: {why}") from why


def only(block: "Block") -> Document:
    """The document of a block that has one."""
    try:
        run = list(split(block.raw))
    except Malformed as why:
        raise block.damage(str(why)) from why
    if len(run) != 1:
        raise block.damage(f"holds {len(run)} documents instead of one")
    return own(run[0], block)


def _document(raw: bytes, block: "Block", depth: int) -> Document:
    if depth > NESTING_MAX:
        raise Malformed(f"documents nest more than {NESTING_MAX} deep")
    document = Document()
    document.block = block
    for kind, name, value in elements(raw):
        document[name.decode()] = _value(kind, value, block, depth)
    return document


def _value(kind: int, value: bytes, block: "Block", depth: int) -> Any:
    """A value for Python. Types that no field of ours has stay bytes: they are ignored."""
    if kind == DOCUMENT:
        return _document(value, block, depth + 1)
    if kind == ARRAY:
        items: List[Any] = list(_document(value, block, depth + 1).values())
        return items
    if kind == 0x02:
        return value[4:-1].decode()
    if kind == BINARY:
        return _binary(value[4], value[5:])
    if kind == 0x08:
        return value != b"\0"
    if kind == 0x09:
        return Date(struct.unpack("<q", value)[0])
    if kind == 0x0A:
        return None
    if kind == 0x10:
        return struct.unpack("<i", value)[0]
    if kind == 0x11:
        i, t = struct.unpack("<II", value)
        return Timestamp(t, i)
    if kind == 0x12:
        return struct.unpack("<q", value)[0]
    return value


def _binary(subtype: int, content: bytes) -> Any:
    if subtype == LINK_SUBTYPE and len(content) == LINK_BYTES:
        return Link(content)
    if subtype == 4 and len(content) == 16:
        return uuid.UUID(bytes=content)
    return content
