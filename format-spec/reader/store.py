"""A store as of its newest commit (page 02): which segments count, and who else works on it."""

from __future__ import annotations

import fcntl
import os
import re
import resource
import struct
import time
from typing import Dict, List, Optional

from .blocks import COMMIT, Block, Source
from .damage import Damage
from .dictionaries import Dictionaries
from .documents import Document, Link, only
from .encryption import Keys
from .keyring import Refused, Secret, read_keys
from .log import Commit, read_head, read_identity, read_log
from .segment import Header, Segment

# Files of the log come and go beside a reader, so what fails is tried again.
ATTEMPTS = 5
PAUSE_SECONDS = 0.2
SEGMENT_NAME = re.compile(r"([0-9a-f]{8})\.seg")


class Store(Source):
    """Finds blocks in the segments that the newest commit names."""

    def __init__(
        self, folder: str, findings: List[Damage], secret: Optional[Secret] = None
    ) -> None:
        self.folder = folder
        # Takes the damage that does not stop us.
        self.findings = findings
        self.identity = read_identity(folder, findings)
        self.secret = secret
        self.keys = self._read_keys()
        self.salt = self.identity.salt if self.keys is None else self.keys.salt
        self.segments: Dict[int, Segment] = {}
        self.dictionaries = Dictionaries(self.segments, self.note)
        allow_many_files()
        self.registration = Registration(folder, self._newest().number)
        try:
            # What was dropped before the registration may be gone, so the commit is read again.
            self.commit = self._newest()
            self._open()
            # The one that had the last block comes first: blocks of a tree stand together.
            self.order = list(self.segments.values())
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        for segment in self.segments.values():
            segment.close()
        self.registration.end()

    def find(self, name: bytes) -> Block:
        """A block, from the first segment that has it whole: copies are equal."""
        damaged: List[Damage] = []
        for at, segment in enumerate(self.order):
            try:
                block = segment.block(name)
            except Damage as why:
                damaged.append(why)
                continue
            if block is not None:
                self.order.insert(0, self.order.pop(at))
                self.note(damaged)
                return block
        raise (
            damaged[0]
            if damaged
            else Damage(self.folder, None, f"no segment has block {name.hex()}")
        )

    def note(self, findings: List[Damage]) -> None:
        """Each once, however often it is met."""
        known = set(map(str, self.findings))
        self.findings += [finding for finding in findings if str(finding) not in known]

    def _read_keys(self) -> Optional[Keys]:
        if not self.identity.encrypted:
            if self.secret is not None:
                raise Refused(f"{self.folder} is not encrypted: no secret opens it")
            return None
        if self.secret is None:
            raise Refused(f"{self.folder} is encrypted: a key file or a passphrase opens it")
        findings: List[Damage] = []
        try:
            return read_keys(self.folder, self.identity.uuid, self.secret, findings)
        finally:
            self.note(findings)

    def _newest(self) -> Commit:
        for attempt in range(1, ATTEMPTS + 1):
            findings: List[Damage] = []
            try:
                slot = read_head(self.folder, self.identity.uuid, findings)
                commit = read_log(self.folder, self.identity.uuid, slot, self.keys)
                break
            except Damage:
                if attempt == ATTEMPTS:
                    self.note(findings)
                    raise
            time.sleep(PAUSE_SECONDS)
            # The log may be of an epoch that began just now.
            self.keys = self._read_keys()
        self.note(findings)
        return commit

    def _open(self) -> None:
        later, again = self._later(), self._newest()
        # Beside a writer, a copy may be of a commit that was made just now.
        while later is not None and again.number > self.commit.number:
            self.commit = again
            later, again = self._later(), self._newest()
        for number, length in sorted(self.commit.segments.items()):
            self._add(number, length, True)
        if later is None and self.commit.active:
            self._add(self.commit.active, self.commit.active_length, False)
        if later is not None:
            number = later.count("commit")
            self.note([later.damage(f"the log lacks commit {number}, of which this is the copy")])
            # Nothing tells where they ended as of that commit.
            self.segments.update(self._unlisted())
            roots = {
                root.need("name", str): root.need("block", Link)
                for root in later.need("roots", list)
            }
            self.commit = self.commit._replace(number=number, roots=roots)

    def _add(self, number: int, length: int, sealed: bool) -> None:
        try:
            segment = self._segment(number, length, sealed)
        except Damage as why:
            # Other segments may have what is asked for.
            self.findings.append(why)
            return
        self.findings += segment.findings
        self.segments[number] = segment

    def _segment(self, number: int, length: Optional[int], sealed: bool) -> Segment:
        path = segment_path(self.folder, number)
        store, keys = self.identity.uuid, self.keys
        return Segment(path, number, store, length, sealed, keys, self.dictionaries)

    def _later(self) -> Optional[Document]:
        """The newest copy of a later commit than the log ends with, whose record was damaged."""
        newest: Optional[Document] = None
        number = self.commit.number
        for segment in self._unlisted().values():
            for header in segment.headers():
                copy = self._copy(segment, header) if header.kind == COMMIT else None
                if copy is not None and copy.count("commit") > number:
                    newest, number = copy, copy.count("commit")
            segment.close()
        return newest

    def _copy(self, segment: Segment, header: Header) -> Optional[Document]:
        try:
            return only(segment.content(header))
        except Damage:
            # It proves nothing; the writer may be just writing it.
            return None

    def _unlisted(self) -> Dict[int, Segment]:
        """The segments that are active or newer than the commit, whole; others were dropped."""
        unlisted: Dict[int, Segment] = {}
        commit = self.commit
        for name in sorted(os.listdir(os.path.join(self.folder, "segments"))):
            match = SEGMENT_NAME.fullmatch(name)
            number = int(match[1], 16) if match else 0
            if number != commit.active and number < commit.next_segment:
                continue
            try:
                unlisted[number] = self._segment(number, None, True)
            except Damage as why:
                self.note([why])
        return unlisted


def allow_many_files() -> None:
    """Every segment stays open."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def segment_path(folder: str, number: int) -> str:
    return os.path.join(folder, "segments", f"{number:08x}.seg")


class Registration:
    """A file in `readers/`, locked while we live: compaction keeps what we may read.

    A store that cannot be written to is read without one: nobody compacts it.
    """

    def __init__(self, folder: str, commit: int) -> None:
        self.path = os.path.join(folder, "readers", f"python-{os.getpid()}-{time.time_ns()}")
        self.fd: Optional[int] = None
        self.refused: Optional[str] = None
        while self.fd is None and self.refused is None:
            try:
                self.fd = self._enter(commit)
            except OSError as why:
                self.refused = why.strerror

    def _enter(self, commit: int) -> Optional[int]:
        new = self.path + ".new"
        fd = os.open(new, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            os.write(fd, struct.pack("<Q", commit))
            os.rename(new, self.path)
        except FileNotFoundError:
            # Before it was locked, the writer took it for that of a reader that is gone.
            os.close(fd)
            return None
        return fd

    def end(self) -> None:
        if self.fd is not None:
            os.unlink(self.path)
            os.close(self.fd)
            self.fd = None
