"""Heads (page 06): the catalog of a head and what stands in a manifest."""

from __future__ import annotations

from typing import Iterator, List, NamedTuple, Optional
from uuid import UUID

from .blocks import Source
from .documents import Document, Link, Timestamp
from .trees import CAPPED, USERS, Form, Root, ours


class OpTime(NamedTuple):
    """Position of an oplog entry; the term is -1 where it has none."""

    ts: Timestamp
    t: int

    @classmethod
    def of(cls, document: Document) -> "OpTime":
        return cls(document.need("ts", Timestamp), document.need("t", int))


class Collection(NamedTuple):
    """An entry of the catalog."""

    uuid: UUID
    ns: str
    options: bytes
    # Specs of indexes, one after the other.
    indexes: bytes
    positional: bool
    aside: bool
    root: Root
    entry: Document

    @property
    def form(self) -> Form:
        return CAPPED if self.positional else USERS


class Head(NamedTuple):
    """A head root."""

    optime: OpTime
    consistent_from: Optional[OpTime]
    catalog: Root
    pending: Optional[bytes]
    content_root: bytes
    documents: int
    length: int
    document: Document

    @classmethod
    def of(cls, document: Document) -> "Head":
        consistent = document.want("consistent_from", Document)
        return cls(
            OpTime.of(document.need("optime", Document)),
            None if consistent is None else OpTime.of(consistent),
            Root.of(document.need("catalog", Document)),
            document.want("pending", Link),
            document.need("content_root", bytes),
            document.count("documents"),
            document.count("logical_bytes"),
            document,
        )


def catalog(source: Source, salt: bytes, head: Head) -> Iterator[Collection]:
    """The collections of a head, by UUID."""
    for entry in ours(source, salt, head.catalog, "the catalog"):
        uuid, ns = entry.need("_id", UUID), entry.need("ns", str)
        yield Collection(
            uuid,
            ns,
            foreign(source, entry, "options"),
            foreign(source, entry, "indexes"),
            entry.need("positional", bool),
            bool(entry.want("aside", bool)),
            Root.of(entry.need("root", Document)),
            entry,
        )


def foreign(source: Source, document: Document, name: str) -> bytes:
    """Bytes of a user's BSON: in a binary, or in `Stream` blocks."""
    value = document.get(name)
    if isinstance(value, bytes) and not isinstance(value, Link):
        return value
    links: List[bytes] = document.need(name, list)
    if not all(isinstance(link, Link) for link in links):
        raise document.damage(f"field {name} holds something else than names of blocks")
    return source.string(links, name)
