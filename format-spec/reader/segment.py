"""Segments (page 01): the header sector and the records."""

from __future__ import annotations

import os
import struct
from typing import Dict, Iterator, List, NamedTuple, Optional, Tuple
from zlib import crc32

import zstandard

from .blocks import BLOCK_MAX, KINDS, LEAF, PART, Block, expand, name_of
from .damage import Damage, Malformed
from .dictionaries import Dictionaries
from .encryption import EPOCH, Keys, hasher
from .footer import PIECE, Footer

VERSION = 1
MAGIC = b"HEADSEG\x1a\n\xa9\r\n"
HEADER_SECTOR = 4096
RECORD_MAGIC = b"HSR\x1a"
RECORD_HEADER = struct.Struct("<4s4BII32sI8sI")
PLAIN = bytes(8)
STORED_MAX = BLOCK_MAX + 64


class Header(NamedTuple):
    """The header of a record."""

    offset: int
    kind: int
    codec: int
    sealed: bool
    stored: int
    raw: int
    name: bytes
    stored_crc: int
    # The first bytes of the name of the dictionary.
    form: bytes

    @property
    def end(self) -> int:
        """Where the next record may start."""
        return self.offset + RECORD_HEADER.size + (self.stored + 7) // 8 * 8


class Segment:
    """An open segment, as much of it as a commit names."""

    def __init__(
        self,
        path: str,
        number: int,
        store: bytes,
        length: Optional[int],
        sealed: bool,
        keys: Optional[Keys] = None,
        dictionaries: Optional[Dictionaries] = None,
    ) -> None:
        self.path = path
        self.number = number
        self.store = store
        self.keys = keys
        # What the header sector says of the records, if it is whole.
        self.epoch: Optional[int] = None
        self.findings: List[Damage] = []
        self.footer: Optional[Footer] = None
        # Without a footer: where each block is.
        self.scanned: Dict[bytes, int] = {}
        # By itself, a segment has only its own.
        self.dictionaries = dictionaries or Dictionaries({number: self}, self.findings.extend)
        try:
            self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as why:
            raise Damage(path, None, f"cannot be opened: {why.strerror}") from why
        try:
            self._read_tables(length, sealed)
        except BaseException:
            self.close()
            raise

    def _read_tables(self, length: Optional[int], sealed: bool) -> None:
        size = os.fstat(self.fd).st_size
        # What stands behind the length in the commit belongs to no commit.
        self.length = size if length is None else min(size, length)
        if length is not None and size < length:
            self._find(size, f"the file ends before the {length} bytes that the commit names")
        self._check_header()
        if sealed:
            try:
                self.footer = Footer(self.read, self.path, self.number, self.store, self.length)
            except Damage as why:
                self.findings.append(why)
        # A footer only saves time: its table can be made from the records.
        if self.footer is None:
            self._scan(length is not None and not sealed)

    def _scan(self, ends_in_record: bool) -> None:
        at = HEADER_SECTOR
        for header in self.headers():
            if header.offset != at:
                self._find(at, f"no record is valid from here to offset {header.offset}")
            self.scanned[header.name] = header.offset
            at = header.end
        if at < self.length and ends_in_record:
            self._find(at, "no record is valid from here on")

    def close(self) -> None:
        os.close(self.fd)

    @property
    def data_end(self) -> int:
        """Where the records end."""
        return self.length if self.footer is None else self.footer.data_end

    def read(self, offset: int, count: int) -> bytes:
        """Bytes of the file, fewer where it ends."""
        try:
            return os.pread(self.fd, max(0, min(count, self.length - offset)), offset)
        except OSError as why:
            raise Damage(self.path, offset, f"cannot be read: {why.strerror}") from why

    def find(self, name: bytes) -> Optional[int]:
        """The offset of the record of a block."""
        return self.scanned.get(name) if self.footer is None else self.footer.find(name)

    def block(self, name: bytes) -> Optional[Block]:
        """A block if it is in this segment, checked."""
        offset = self.find(name)
        return None if offset is None else self.record(offset, name)[1]

    def record(self, offset: int, name: bytes) -> Tuple[Header, Block]:
        """The record that should be that of a block, checked."""
        header = self.named(offset, name)
        return header, self.content(header)

    def named(self, offset: int, name: bytes) -> Header:
        """The header of the record that should be that of a block."""
        header = self.header(offset)
        if header is None or header.name != name:
            raise Damage(
                self.path, offset, f"the header of the record of block {name.hex()} is damaged"
            )
        return header

    def header(self, offset: int) -> Optional[Header]:
        """The header of a record if a valid one stands at `offset`."""
        bytes_ = self.read(offset, RECORD_HEADER.size)
        if len(bytes_) < RECORD_HEADER.size or not bytes_.startswith(RECORD_MAGIC):
            return None
        (_, kind, codec, cipher, flags, stored, raw, name, stored_crc, form, crc) = (
            RECORD_HEADER.unpack(bytes_)
        )
        # The place is part of the checksum, so bytes of another file or place are never valid.
        place = self.store + struct.pack("<IQ", self.number, offset)
        known = kind in KINDS and codec <= 1 and cipher <= 1 and flags == 0
        plain = form == PLAIN or (codec == 1 and kind in (LEAF, PART))
        if crc32(place + bytes_[:60]) != crc or not known or not plain:
            return None
        header = Header(offset, kind, codec, cipher == 1, stored, raw, name, stored_crc, form)
        small = stored <= STORED_MAX and raw <= BLOCK_MAX
        return header if small and header.end <= self.length else None

    def content(self, header: Header) -> Block:
        """The block of a record: checksum, seal, codec and name are checked."""
        at = header.offset
        stored = self.read(at + RECORD_HEADER.size, header.stored)
        if crc32(stored) != header.stored_crc:
            raise Damage(self.path, at, f"the checksum of block {header.name.hex()} differs")
        try:
            coded = self._unseal(header, stored)
            raw = coded if header.codec == 0 else self._expand(header, coded)
        except (Malformed, zstandard.ZstdError) as why:
            raise Damage(self.path, at, f"block {header.name.hex()}: {why}") from why
        key = None if self.keys is None else self.keys.names
        if len(raw) != header.raw or name_of(header.kind, raw, key) != header.name:
            raise Damage(self.path, at, f"block {header.name.hex()} has another content")
        return Block(header.name, header.kind, raw, self.path, at)

    def _unseal(self, header: Header, stored: bytes) -> bytes:
        if header.sealed != (self.keys is not None):
            raise Malformed(f"it is {'' if header.sealed else 'not '}sealed")
        if self.keys is None:
            return stored
        return self.keys.block(
            stored, header.kind, header.codec, header.raw, header.name, header.form
        )

    def sealed_in(self, header: Header) -> int:
        """The epoch of a record, 0 if it is not sealed."""
        if not header.sealed:
            return 0
        epoch = self.read(header.offset + RECORD_HEADER.size, min(EPOCH.size, header.stored))
        return int.from_bytes(epoch, "little")

    def _expand(self, header: Header, coded: bytes) -> bytes:
        dictionary = None if header.form == PLAIN else self.dictionaries.of(self, header)
        return expand(coded, header.raw, dictionary)

    def beginning(self, prefix: bytes) -> Iterator[Tuple[int, bytes]]:
        """The records of blocks whose names begin so: offsets and names."""
        if self.footer is not None:
            return ((found.offset, found.name) for found in self.footer.beginning(prefix))
        return ((at, name) for name, at in self.scanned.items() if name.startswith(prefix))

    def headers(self) -> Iterator[Header]:
        """The records from the front. Behind damage, every multiple of 8 is tried for the next."""
        at: Optional[int] = HEADER_SECTOR
        while at is not None and at < self.data_end:
            header = self.header(at)
            if header is not None:
                yield header
            at = header.end if header is not None else self._next_magic(at + 8)

    def _next_magic(self, at: int) -> Optional[int]:
        while at < self.data_end:
            piece = self.read(at, PIECE)
            found = piece.find(RECORD_MAGIC)
            while found >= 0 and found % 8:
                found = piece.find(RECORD_MAGIC, found + 1)
            if found >= 0:
                return at + found
            at += PIECE
        return None

    def _check_header(self) -> None:
        """The header sector; damage to it costs nothing, but what it asks of a reader counts."""
        sector = self.read(0, HEADER_SECTOR)
        if len(sector) < HEADER_SECTOR or crc32(sector[:4092]) != int.from_bytes(
            sector[4092:], "little"
        ):
            self._find(0, "the checksum of the header sector differs")
            return
        magic, _, reader, incompatible, store, number, epoch, hashing = struct.unpack_from(
            "<12sHHQ8x16sIIB", sector
        )
        if (magic, store, number) != (MAGIC, self.store, self.number):
            self._find(0, "the header sector is of another file")
        elif reader > VERSION or (incompatible, hashing) != (0, 1):
            raise Damage(self.path, 0, "the segment needs a newer reader")
        else:
            self.epoch = epoch
            # Each record says for itself how it is sealed.
            if epoch not in ([0] if self.keys is None else self.keys.blocks):
                self._find(0, f"the header sector says epoch {epoch}, of which there is no key")
            elif self.keys is not None:
                vouched = hasher(self.keys.chain).update(
                    self.store + struct.pack("<II", self.number, epoch)
                )
                if vouched.digest() != sector[64:96]:
                    self._find(0, f"nothing vouches for epoch {epoch} in the header sector")

    def _find(self, offset: int, what: str) -> None:
        self.findings.append(Damage(self.path, offset, what))
