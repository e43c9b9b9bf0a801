"""Finds the dictionaries that records are compressed with (page 01); those used last are held."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Callable, Dict, List, Optional, Set, Tuple

from zstandard import ZstdCompressionDict

from .blocks import DICTIONARY
from .damage import Damage

if TYPE_CHECKING:
    from .segment import Header, Segment

# A store may have thousands, but records that are read one after another share a few.
HELD_MAX = 16


class Dictionaries:
    """Those of segments that may take each other's copies."""

    def __init__(self, segments: Dict[int, Segment], note: Callable[[List[Damage]], None]) -> None:
        self.segments = segments
        # Takes the damage that another copy makes up for.
        self.note = note
        # Both by the number of the segment and the stored form.
        self.held: OrderedDict[Tuple[int, bytes], ZstdCompressionDict] = OrderedDict()
        # Without a copy: a search goes through all segments, so each is made once.
        self.lost: Set[Tuple[int, bytes]] = set()

    def of(self, segment: Segment, header: Header) -> ZstdCompressionDict:
        """The dictionary of a record that names one."""
        found = self._found(segment, header.form)
        if found is None:
            raise Damage(
                segment.path,
                header.offset,
                f"no segment has dictionary {header.form.hex()} of block {header.name.hex()} whole",
            )
        return found

    def _found(self, segment: Segment, form: bytes) -> Optional[ZstdCompressionDict]:
        key = segment.number, form
        if key in self.lost:
            return None
        found = self.held.pop(key, None) or self._search(segment, form)
        if found is None:
            self.lost.add(key)
            return None
        self.held[key] = found
        if len(self.held) > HELD_MAX:
            self.held.popitem(last=False)
        return found

    def _search(self, segment: Segment, form: bytes) -> Optional[ZstdCompressionDict]:
        others = (other for other in self.segments.values() if other is not segment)
        copies = (self._within(one, form) for one in (segment, *others))
        return next((copy for copy in copies if copy is not None), None)

    def _within(self, segment: Segment, form: bytes) -> Optional[ZstdCompressionDict]:
        try:
            for at, name in segment.beginning(form):
                header = segment.named(at, name)
                if header.kind == DICTIONARY:
                    return ZstdCompressionDict(segment.content(header).raw)
        except Damage as why:
            self.note([why])
        return None
