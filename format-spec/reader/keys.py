"""Keys (page 04, section 3): byte strings that compare as the server compares `_id`s."""

from __future__ import annotations

import struct
from decimal import Decimal
from typing import Optional, Tuple

from .damage import Malformed
from .documents import Element, elements, int32

NESTING_MAX = 256
DIGITS_MAX = 34
EXPONENT_BIAS = 16384
DECIMAL128_BIAS = 6176
DECIMAL128_MAX = 10**34 - 1

MIN_KEY, UNDEFINED, NULL, NUMBER, STRING, OBJECT, ARRAY, BINARY, OBJECT_ID = range(1, 10)
BOOL, DATE, TIMESTAMP, REGEX, POINTER, CODE, SCOPED, MAX_KEY = range(10, 18)
TYPES = {
    0xFF: MIN_KEY,
    0x06: UNDEFINED,
    0x0A: NULL,
    0x01: NUMBER,
    0x10: NUMBER,
    0x12: NUMBER,
    0x13: NUMBER,
    0x02: STRING,
    0x0E: STRING,
    0x03: OBJECT,
    0x04: ARRAY,
    0x05: BINARY,
    0x07: OBJECT_ID,
    0x08: BOOL,
    0x09: DATE,
    0x11: TIMESTAMP,
    0x0B: REGEX,
    0x0C: POINTER,
    0x0D: CODE,
    0x0F: SCOPED,
    0x7F: MAX_KEY,
}

NAN, MINUS_INFINITY, NEGATIVE, ZERO, POSITIVE, INFINITY = (bytes([kind]) for kind in range(1, 7))
INVERTED = bytes(255 - byte for byte in range(256))


def key_of(document: bytes) -> Optional[bytes]:
    """The key of a document, None without an `_id`."""
    for kind, name, value in elements(document):
        if name == b"_id":
            return key(kind, value)
    return None


def key(kind: int, value: bytes, depth: int = 0) -> bytes:
    """The key of a BSON value."""
    if kind not in TYPES:
        raise Malformed(f"BSON type {kind:#04x} is unknown")
    return bytes([TYPES[kind]]) + _content(TYPES[kind], kind, value, depth)


def _content(type_: int, kind: int, value: bytes, depth: int) -> bytes:
    if type_ == NUMBER:
        return number(kind, value)
    if type_ in (STRING, CODE):
        return _escaped(value[4:-1])
    if type_ in (OBJECT, ARRAY):
        return _nested(type_, value, depth)
    if type_ == BINARY:
        return value[3::-1] + value[4:]
    if type_ == DATE:
        return bytes([value[7] ^ 0x80]) + value[6::-1]
    if type_ == TIMESTAMP:
        return value[::-1]
    if type_ == POINTER:
        return struct.pack(">I", len(value)) + value
    if type_ == SCOPED:
        code_end = 8 + int32(value, 4)
        return _escaped(value[8 : code_end - 1]) + _nested(OBJECT, value[code_end:], depth)
    # Either as in BSON (ObjectId, bool, regex) or without a value.
    return value


def _escaped(text: bytes) -> bytes:
    return text.replace(b"\0", b"\0\xff") + b"\0"


def _nested(type_: int, value: bytes, depth: int) -> bytes:
    if depth >= NESTING_MAX:
        raise Malformed(f"an _id nests more than {NESTING_MAX} levels")

    def item(element: Element) -> bytes:
        kind, name, inner = element
        whole = key(kind, inner, depth + 1)
        return whole if type_ == ARRAY else whole[:1] + name + b"\0" + whole[1:]

    return b"".join(map(item, elements(value))) + b"\0"


def number(kind: int, value: bytes) -> bytes:
    """The one form of all numbers that are equal."""
    if kind == 0x13:
        exact = decimal128(value)
    elif kind == 0x01:
        exact = Decimal(struct.unpack("<d", value)[0])
    else:
        exact = Decimal(int.from_bytes(value, "little", signed=True))
    if exact.is_nan():
        return NAN
    if exact.is_infinite():
        return MINUS_INFINITY if exact < 0 else INFINITY
    if exact.is_zero():
        return ZERO
    digits = "".join(map(str, exact.as_tuple().digits)).rstrip("0")
    kept = digits[:DIGITS_MAX]
    kept += "0" * (len(kept) % 2)
    pairs = bytes(2 + int(kept[at : at + 2]) for at in range(0, len(kept), 2))
    more = b"\1" if len(digits) > DIGITS_MAX else b"\0"
    form = struct.pack(">H", exact.adjusted() + EXPONENT_BIAS) + pairs + more
    return POSITIVE + form if exact > 0 else NEGATIVE + form.translate(INVERTED)


def decimal128(value: bytes) -> Decimal:
    """IEEE 754-2008 decimal128 with the significand as a binary integer."""
    bits = int.from_bytes(value, "little")
    sign, combination = bits >> 127, bits >> 122 & 0x1F
    if combination == 0x1F:
        return Decimal("NaN")
    if combination == 0x1E:
        return Decimal("-Infinity" if sign else "Infinity")
    significand = bits & ((1 << 113) - 1)
    if combination >> 3 == 3 or significand > DECIMAL128_MAX:
        # The other layout only has significands above the largest.
        return Decimal(0)
    exponent = (bits >> 113 & 0x3FFF) - DECIMAL128_BIAS
    digits: Tuple[int, ...] = tuple(map(int, str(significand)))
    return Decimal((sign, digits, exponent))


def separator(before: Optional[bytes], first: bytes) -> bytes:
    """The shortest prefix of `first` above `before`; empty for the first entry of a tree."""
    if before is None:
        return b""
    same, most = 0, min(len(before), len(first))
    # Halving, since keys may have megabytes.
    while same < most:
        middle = (same + most + 1) // 2
        if before[same:middle] == first[same:middle]:
            same = middle
        else:
            most = middle - 1
    return first[: same + 1]
