"""Finds the dictionaries that records are compressed with (page 01); those used last are held."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Callable, Dict, List, NamedTuple, Optional, Set, Tuple

from zstandard import ZstdCompressionDict

from .blocks import DICTIONARY
from .damage import Damage

if TYPE_CHECKING:
    from .segment import Header, Segment

# A store may have thousands, but records that are read one after another share a few.
HELD_MAX = 16


class Found(NamedTuple):
    """What was found of the dictionary that records of a segment name."""

    # Where its own record stands in that segment, 0 if that cannot be told.
    at: Optional[int]
    # A whole copy, of that segment or of another.
    dictionary: Optional[ZstdCompressionDict]


class Dictionaries:
    """Those of segments that may take each other's copies."""

    def __init__(self, segments: Dict[int, Segment], note: Callable[[List[Damage]], None]) -> None:
        self.segments = segments
        # Takes the damage that another copy makes up for.
        self.note = note
        # Both by the number of the segment and the stored form.
        self.held: OrderedDict[Tuple[int, bytes], Found] = OrderedDict()
        # Without a copy: a search goes through all segments, so each is made once.
        self.lost: Dict[Tuple[int, bytes], Found] = {}
        self.told: Set[Tuple[int, bytes]] = set()

    def of(self, segment: Segment, header: Header) -> ZstdCompressionDict:
        """The dictionary of a record that names one."""
        found = self._found(segment, header.form)
        if found.at is None or found.at > header.offset:
            self._tell(segment, header)
        if found.dictionary is None:
            raise Damage(
                segment.path,
                header.offset,
                f"no segment has dictionary {header.form.hex()} of block {header.name.hex()} whole",
            )
        return found.dictionary

    def _tell(self, segment: Segment, header: Header) -> None:
        """Once, however many records name it."""
        key = segment.number, header.form
        if key not in self.told:
            self.told.add(key)
            what = f"no record of dictionary {header.form.hex()} stands before that of block "
            self.note([Damage(segment.path, header.offset, f"{what}{header.name.hex()}")])

    def _found(self, segment: Segment, form: bytes) -> Found:
        key = segment.number, form
        if key in self.lost:
            return self.lost[key]
        found = self.held.pop(key, None) or self._search(segment, form)
        if found.dictionary is None:
            self.lost[key] = found
            return found
        self.held[key] = found
        if len(self.held) > HELD_MAX:
            self.held.popitem(last=False)
        return found

    def _search(self, segment: Segment, form: bytes) -> Found:
        own = self._within(segment, form)
        if own.dictionary is not None:
            return own
        others = (other for other in self.segments.values() if other is not segment)
        copies = (self._within(other, form).dictionary for other in others)
        return own._replace(dictionary=next((copy for copy in copies if copy is not None), None))

    def _within(self, segment: Segment, form: bytes) -> Found:
        at = 0
        try:
            for at, name in segment.beginning(form):
                header = segment.named(at, name)
                if header.kind == DICTIONARY:
                    return Found(at, ZstdCompressionDict(segment.content(header).raw))
        except Damage as why:
            self.note([why])
            return Found(at, None)
        return Found(None, None)
