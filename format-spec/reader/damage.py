"""What is wrong with a store, and where."""

from __future__ import annotations

from typing import Optional


class Damage(Exception):
    """Something in a file is not as the specification says."""

    def __init__(self, file: str, offset: Optional[int], what: str) -> None:
        super().__init__(file, offset, what)
        self.file = file
        self.offset = offset
        self.what = what

    def __str__(self) -> str:
        where = self.file if self.offset is None else f"{self.file} at offset {self.offset}"
        return f"{where}: {self.what}"


class Malformed(ValueError):
    """Bytes that are not what they should be, found by code that does not know where they stand."""
