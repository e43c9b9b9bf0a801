"""The commit log and the small files (page 02): `STORE`, `HEAD`, `log/<n>.log`."""

from __future__ import annotations

import os
import struct
from typing import Dict, List, NamedTuple, Optional
from zlib import crc32

from .damage import Damage, Malformed
from .encryption import Keys, hasher

VERSION = 1
SLOT = 4096
SMALL = 128
STORE_MAGIC = b"HEADSTK\x1a\n\xa9\r\n"
STORE_COPY = struct.Struct("<12s2xHQ8x16s32s44xI")
HEAD_MAGIC = b"HEADSLT\x1a\n\xa9\r\n"
HEAD_SLOT = struct.Struct("<12s4x16sQQ32s44xI")
RECORD_MAGIC = b"HSC\x1a"
RECORD = struct.Struct("<4sIQQQIIQ5I4x32s")
RECORD_MAX = 64 << 20
HASH = 32
FULL, SEALED = 1, 2
ENCRYPTED = 1


class Identity(NamedTuple):
    """What `STORE` says."""

    uuid: bytes
    # Zeros if the store is encrypted: the true one is among the keys.
    salt: bytes
    encrypted: bool


class Slot(NamedTuple):
    """What the newest valid slot of `HEAD` says."""

    generation: int
    log: int
    first: bytes
    offset: int


class Commit(NamedTuple):
    """What the store holds."""

    number: int
    roots: Dict[str, bytes]
    # Lengths of the sealed segments by number.
    segments: Dict[int, int]
    # The active segment, 0 for none, and how much of it counts.
    active: int
    active_length: int
    # The lowest number that no segment ever had.
    next_segment: int


class Record(NamedTuple):
    """A valid record of the log."""

    end: int
    full: bool
    number: int
    active: int
    active_length: int
    next_segment: int
    parent: bytes
    hash: bytes
    roots_set: Dict[str, bytes]
    roots_removed: List[str]
    segments_added: Dict[int, int]
    segments_dropped: List[int]

    def apply(self, before: Optional[Commit]) -> Commit:
        """The commit, from the one before; a full record tells all by itself."""
        roots = dict(before.roots) if before else {}
        segments = dict(before.segments) if before else {}
        for name in self.roots_removed:
            del roots[name]
        for number in self.segments_dropped:
            del segments[number]
        roots.update(self.roots_set)
        segments.update(self.segments_added)
        return Commit(
            self.number, roots, segments, self.active, self.active_length, self.next_segment
        )


def read_identity(folder: str, findings: List[Damage]) -> Identity:
    path = os.path.join(folder, "STORE")
    bytes_ = read_file(path)
    copies: List[Identity] = []
    for at in (0, SLOT):
        copy = bytes_[at : at + SMALL]
        if not checksum_holds(copy, STORE_MAGIC):
            findings.append(Damage(path, at, "the copy is damaged"))
            continue
        _, reader, incompatible, uuid, salt, _ = STORE_COPY.unpack(copy)
        if reader > VERSION or incompatible & ~ENCRYPTED:
            raise Damage(path, at, "the store needs a newer reader")
        copies.append(Identity(uuid, salt, bool(incompatible & ENCRYPTED)))
    if not copies:
        raise Damage(path, 0, "neither copy is valid")
    return copies[0]


def read_head(folder: str, uuid: bytes, findings: List[Damage]) -> Slot:
    path = os.path.join(folder, "HEAD")
    bytes_ = read_file(path)
    # Slots that were never written are zeros.
    slots: List[Slot] = []
    for at in (0, SLOT):
        slot = bytes_[at : at + SMALL]
        if not any(slot):
            continue
        if not checksum_holds(slot, HEAD_MAGIC):
            findings.append(Damage(path, at, "the slot is damaged"))
            continue
        _, store, generation, log, first, _ = HEAD_SLOT.unpack(slot)
        if store != uuid:
            findings.append(Damage(path, at, "the slot is of another store"))
            continue
        slots.append(Slot(generation, log, first, at))
    if not slots:
        raise Damage(path, 0, "neither slot is valid")
    return max(slots)


def read_log(folder: str, uuid: bytes, slot: Slot, keys: Optional[Keys] = None) -> Commit:
    """The newest commit: records count as long as they are valid and follow each other."""
    path = os.path.join(folder, "log", f"{slot.log:016x}.log")
    if not os.path.exists(path):
        head = os.path.join(folder, "HEAD")
        raise Damage(head, slot.offset, f"the newest valid slot names {path}, which is gone")
    bytes_ = read_file(path)
    seed = uuid + struct.pack("<Q", slot.log)
    last = read_record(path, bytes_, seed, 0, keys)
    if last is None or not last.full or last.hash != slot.first:
        raise Damage(path, 0, "the first record is not the one that HEAD names")
    commit = last.apply(None)
    while True:
        at = last.end
        following = read_record(path, bytes_, seed, at, keys)
        if following is None:
            break
        if following.full or (following.number, following.parent) != (last.number + 1, last.hash):
            raise Damage(path, at, f"the record does not follow commit {last.number}")
        try:
            commit = following.apply(commit)
        except KeyError as why:
            raise Damage(path, at, f"the record removes {why}, which is not there") from why
        last = following
    # A torn record is always the last: a valid one behind it means that the file was damaged.
    found = bytes_.find(RECORD_MAGIC, at)
    while found >= 0:
        if found % 8 == 0 and read_record(path, bytes_, seed, found, keys) is not None:
            raise Damage(path, at, f"the record is damaged: one at {found} is whole")
        found = bytes_.find(RECORD_MAGIC, found + 1)
    return commit


def read_record(
    path: str, bytes_: bytes, seed: bytes, at: int, keys: Optional[Keys]
) -> Optional[Record]:
    """The record at `at` if it is valid. `seed` is what its hash starts with: store and log."""
    if len(bytes_) - at < RECORD.size + HASH or not bytes_.startswith(RECORD_MAGIC, at):
        return None
    _, flags, length, *fixed, parent = RECORD.unpack_from(bytes_, at)
    end = at + length
    if length % 8 or not RECORD.size + HASH <= length <= RECORD_MAX or end > len(bytes_):
        return None
    body = memoryview(bytes_)[at : end - HASH]
    hash_ = bytes_[end - HASH : end]
    hash_of = hasher(None if keys is None else keys.chain)
    if hash_of.update(seed + struct.pack("<Q", at)).update(body).digest() != hash_:
        return None
    number, _, active, next_segment, active_length, *counts, epoch = fixed
    if bool(flags & SEALED) != (keys is not None):
        raise Damage(path, at, f"the record is {'' if flags & SEALED else 'not '}sealed")
    data, rest = bytes(body[: RECORD.size]), bytes(body[RECORD.size :])
    try:
        lists = Lists(rest if keys is None else keys.lists(epoch, rest, data))
        roots_set = {lists.name(): lists.take(HASH) for _ in range(counts[0])}
        roots_removed = [lists.name() for _ in range(counts[1])]
        added = {lists.number(4): lists.number(8) for _ in range(counts[2])}
        dropped = [lists.number(4) for _ in range(counts[3])]
    except Malformed as why:
        raise Damage(path, at, f"the record's lists: {why}") from why
    except ValueError as why:
        raise Damage(path, at, f"the record's lists are malformed: {why}") from why
    return Record(
        end,
        bool(flags & FULL),
        number,
        active,
        active_length,
        next_segment,
        parent,
        hash_,
        roots_set,
        roots_removed,
        added,
        dropped,
    )


class Lists:
    """Takes the lists of a record apart."""

    def __init__(self, bytes_: bytes) -> None:
        self.bytes = bytes_
        self.at = 0

    def take(self, count: int) -> bytes:
        taken = self.bytes[self.at : self.at + count]
        if len(taken) < count:
            raise ValueError("they are longer than the record")
        self.at += count
        return taken

    def number(self, width: int) -> int:
        return int.from_bytes(self.take(width), "little")

    def name(self) -> str:
        return self.take(self.number(2)).decode()


def checksum_holds(copy: bytes, magic: bytes) -> bool:
    """Of a copy in `STORE` or a slot of `HEAD`."""
    return (
        len(copy) == SMALL
        and copy.startswith(magic)
        and crc32(copy[:124]) == int.from_bytes(copy[124:], "little")
    )


def read_file(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as why:
        raise Damage(path, None, f"cannot be read: {why.strerror}") from why
