"""Checks segments and index runs (page 01) by themselves, whatever their blocks are for."""

from __future__ import annotations

import os
from typing import Iterator, Optional, Set, Tuple

from .damage import Damage
from .footer import Footer, Run
from .segment import Segment
from .store import Store


def files(store: Store) -> Iterator[Damage]:
    """What is wrong with the files that the newest commit names."""
    for segment in store.segments.values():
        yield from scanned(segment) if segment.footer is None else listed(segment, segment.footer)
    folder = os.path.join(store.folder, "index")
    for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else []:
        path = os.path.join(folder, name)
        try:
            if name.endswith(".run"):
                yield from run(store, path)
        except FileNotFoundError:
            # The writer has merged it meanwhile.
            continue
        except Damage as why:
            yield why


def listed(segment: Segment, footer: Footer) -> Iterator[Damage]:
    """The records of a sealed segment. Between them torn bytes of a crash may stand."""
    records, raw_bytes, by_kind, last = 0, 0, [0] * len(footer.by_kind), b""
    epochs: Set[int] = set()
    for entry in map(footer.entry, range(footer.count)):
        if entry.name <= last or entry.segment != segment.number:
            yield Damage(
                segment.path, footer.data_end, f"the entry of {entry.name.hex()} is misplaced"
            )
        last = entry.name
        try:
            header, _ = segment.record(entry.offset, entry.name)
        except Damage as why:
            yield why
            continue
        if (header.stored, header.kind) != (entry.stored, entry.kind):
            yield Damage(
                segment.path, entry.offset, "the footer tells something else of the record"
            )
        epochs.add(segment.sealed_in(header))
        records += 1
        raw_bytes += header.raw
        by_kind[header.kind] += 1
    if records == footer.count and (raw_bytes, tuple(by_kind)) != (
        footer.raw_bytes,
        footer.by_kind,
    ):
        yield Damage(
            segment.path, footer.end, "the sums in the trailer are not those of the records"
        )
    yield from others(segment, epochs)


def scanned(segment: Segment) -> Iterator[Damage]:
    """The records of a segment without a footer. Opening it found where none is valid."""
    epochs: Set[int] = set()
    for header in segment.headers():
        try:
            segment.content(header)
        except Damage as why:
            yield why
            continue
        epochs.add(segment.sealed_in(header))
    yield from others(segment, epochs)


def others(segment: Segment, epochs: Set[int]) -> Iterator[Damage]:
    """Epochs of records that are not that of the header sector."""
    for epoch in sorted(epochs - {segment.epoch} if segment.epoch is not None else ()):
        yield Damage(
            segment.path,
            0,
            f"the header sector says epoch {segment.epoch}, but records are of epoch {epoch}",
        )


def run(store: Store, path: str) -> Iterator[Damage]:
    """An index run is a cache, but true of the segments that count."""
    with open(path, "rb", buffering=0) as file:
        fd = file.fileno()
        size = os.fstat(fd).st_size
        table = Run(lambda at, count: os.pread(fd, count, at), path, store.identity.uuid, size)
        counts = dict.fromkeys(table.segments, 0)
        last: Optional[Tuple[bytes, int, int]] = None
        for at, entry in table.entries():
            place = entry.name, entry.segment, entry.offset
            if (last is not None and place <= last) or entry.segment not in counts:
                yield Damage(path, at, "the entry is misplaced")
                continue
            last = place
            counts[entry.segment] += 1
            segment = store.segments.get(entry.segment)
            if segment is not None and segment.find(entry.name) != entry.offset:
                yield Damage(
                    path, at, f"segment {entry.segment} lacks block {entry.name.hex()} there"
                )
    for number, count in counts.items():
        segment = store.segments.get(number)
        if segment is not None and segment.footer is not None and segment.footer.count != count:
            yield Damage(path, None, f"it lists {count} records of segment {number}")
