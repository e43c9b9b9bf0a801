"""`KEYS` (page 08): the keys of a store, from a key file or a passphrase."""

from __future__ import annotations

import os
import re
import struct
from typing import Dict, List, NamedTuple, Optional, Tuple
from zlib import crc32

from nacl.pwhash import argon2id

from .damage import Damage, Malformed
from .encryption import KEY, SEAL, Keys, derive, unseal
from .log import read_file

VERSION = 1
MAGIC = b"HEADKEY\x1a\n\xa9\r\n"
COPY = 8192
START = struct.Struct("<12s2xH16sI")
# What the seal of the ring covers besides it: the copy's start and zeros.
RING_DATA, RING_ZEROS = 32, bytes(32)
SLOTS_AT, SLOTS, SLOT = 64, 8, 192
RING_AT = SLOTS_AT + SLOTS * SLOT
CHECKSUM_AT = COPY - 4
SLOT_START = struct.Struct("<BB6xIIQ16s48s")
SLOT_DATA = 96
LABEL_MAX = 48
FREE, BY_KEY_FILE, BY_PASSPHRASE = 0, 1, 2
# Of Argon2id, in KiB. The least is its own; the most keeps a forged slot from asking for more.
MEMORY_MIN, MEMORY_MAX = 8, 1 << 20
PASSES_MIN, PASSES_MAX = 1, 64
PASSPHRASE_MIN = 8
RING = struct.Struct("<32s32sII")
DATA_KEY = struct.Struct("<IQ32s")
DATA_KEYS_MAX = 32


class Refused(Exception):
    """A secret is missing, not wanted or not the right one: no damage."""


class Secret(NamedTuple):
    """What opens a slot."""

    # The slots that it can open.
    kind: int
    value: bytes
    # What it is to people.
    what: str

    @classmethod
    def of_key_file(cls, path: str) -> "Secret":
        with open(path, "rb") as file:
            text = file.read().strip()
        if not re.fullmatch(rb"[0-9A-Fa-f]{64}", text):
            raise Refused(f"{path} is not a key file: it should have 64 hexadecimal digits")
        return cls(BY_KEY_FILE, bytes.fromhex(text.decode()), f"the key in {path}")

    @classmethod
    def of_passphrase_file(cls, path: str) -> "Secret":
        with open(path, "rb") as file:
            line = re.sub(rb"\r?\n\Z", b"", file.readline())
        if len(line) < PASSPHRASE_MIN:
            raise Refused(f"the first line of {path} has less than {PASSPHRASE_MIN} bytes")
        return cls(BY_PASSPHRASE, line, f"the passphrase in {path}")


class Slot(NamedTuple):
    """A slot: the ring key, sealed with what a secret gives."""

    kind: int
    memory: int
    passes: int
    salt: bytes
    # What the seal covers besides the ring key.
    data: bytes
    sealed: bytes

    @classmethod
    def of(cls, bytes_: bytes) -> "Slot":
        kind, label, memory, passes, _, salt, text = SLOT_START.unpack_from(bytes_)
        if kind not in (FREE, BY_KEY_FILE, BY_PASSPHRASE):
            raise Malformed(f"the slot is of kind {kind}")
        if label > LABEL_MAX:
            raise Malformed(f"the label of the slot has {label} bytes")
        costs = MEMORY_MIN <= memory <= MEMORY_MAX and PASSES_MIN <= passes <= PASSES_MAX
        if (kind == BY_PASSPHRASE and not costs) or (kind == BY_KEY_FILE and (memory or passes)):
            raise Malformed(f"the slot asks for {memory} KiB and {passes} passes")
        try:
            text[:label].decode()
        except UnicodeDecodeError as why:
            raise Malformed(f"the label of the slot is not UTF-8: {why}") from why
        sealed = bytes_[SLOT_DATA : SLOT_DATA + KEY + SEAL]
        return cls(kind, memory, passes, salt, bytes_[:SLOT_DATA], sealed)

    def ring_key(self, store: bytes, secret: Secret) -> Optional[bytes]:
        """What the secret opens, if it is that of this slot."""
        if self.kind != secret.kind:
            return None
        if self.kind == BY_KEY_FILE:
            key = derive(secret.value + self.salt, "Headstock 2026-11 slot of a key file")
        else:
            key = argon2id.kdf(KEY, secret.value, self.salt, self.passes, self.memory << 10)
        try:
            return unseal(key, self.sealed, store + self.data)
        except Malformed:
            return None


def read_keys(folder: str, store: bytes, secret: Secret, findings: List[Damage]) -> Keys:
    """The keys of a store, from a copy of `KEYS` that is whole."""
    path = os.path.join(folder, "KEYS")
    at, copy = whole_copy(path, store, findings)
    slots: List[Slot] = []
    for start in range(SLOTS_AT, RING_AT, SLOT):
        try:
            slots.append(Slot.of(copy[start : start + SLOT]))
        except Malformed as why:
            # Others may be what the secret opens.
            findings.append(Damage(path, at + start, str(why)))
    ring_keys = (slot.ring_key(store, secret) for slot in slots)
    ring_key = next((key for key in ring_keys if key is not None), None)
    if ring_key is None:
        raise Refused(f"{secret.what} opens no slot of {path}: it is the wrong one")
    try:
        return parse(unseal(ring_key, sealed_ring(copy), copy[:RING_DATA] + RING_ZEROS))
    except Malformed as why:
        raise Damage(path, at + RING_AT, f"the ring: {why}") from why


def whole_copy(path: str, store: bytes, findings: List[Damage]) -> Tuple[int, bytes]:
    """A copy that is whole, and its offset. The other is checked too."""
    bytes_ = read_file(path)
    copies: List[Tuple[int, bytes]] = []
    for at in (0, COPY):
        copy = bytes_[at : at + COPY]
        if (
            len(copy) < COPY
            or not copy.startswith(MAGIC)
            or crc32(copy[:CHECKSUM_AT]) != int.from_bytes(copy[CHECKSUM_AT:], "little")
        ):
            findings.append(Damage(path, at, "the copy is damaged"))
            continue
        _, reader, owner, _ = START.unpack_from(copy)
        if reader > VERSION:
            raise Damage(path, at, "the keys need a newer reader")
        if owner != store:
            findings.append(Damage(path, at, "the copy is of another store"))
            continue
        copies.append((at, copy))
    if not copies:
        raise Damage(path, 0, "neither copy is valid")
    if copies[0][1] != copies[-1][1]:
        findings.append(Damage(path, COPY, "the copies differ"))
    return copies[0]


def sealed_ring(copy: bytes) -> bytes:
    length = START.unpack_from(copy)[-1]
    if length > CHECKSUM_AT - RING_AT:
        raise Malformed(f"it has {length} bytes, which do not fit")
    return copy[RING_AT : RING_AT + length]


def parse(ring: bytes) -> Keys:
    if len(ring) < RING.size:
        raise Malformed(f"it has {len(ring)} bytes")
    naming, salt, current, count = RING.unpack_from(ring)
    if count > DATA_KEYS_MAX or len(ring) != RING.size + count * DATA_KEY.size:
        raise Malformed(f"it has {len(ring)} bytes with {count} data keys")
    data: Dict[int, bytes] = {}
    last = 0
    for epoch, _, key in DATA_KEY.iter_unpack(ring[RING.size :]):
        if epoch <= last:
            raise Malformed(f"epoch {epoch} stands behind epoch {last}")
        data[epoch] = key
        last = epoch
    if current not in data:
        raise Malformed(f"it has no key of the current epoch {current}")
    return Keys(naming, salt, data)
