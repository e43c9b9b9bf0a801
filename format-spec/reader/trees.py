"""Trees (page 04): the documents of a collection in order, one chunk in memory at a time.

Everything that section 8 asks for is checked on the way, so what is read to its end is the tree
that a bulk build of these documents gives.
"""

from __future__ import annotations

from typing import Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from .blocks import LEAF, LINKS, NODE, PART, Block, Source
from .damage import Damage, Malformed
from .documents import LINK_BYTES, Document, Link, own, split
from .keys import key_of, separator
from .nodes import LEVELS_MAX, Chunks, Entry, Node, parse

DOCUMENT_MAX = (16 << 20) + (64 << 10)
# A longer document is large: it stands in parts of this length.
SMALL_MAX = 512 << 10
LEAF_MAX = (64 << 10) + SMALL_MAX


class Root(NamedTuple):
    """What names a tree (section 7)."""

    top: Optional[bytes]
    level: int
    documents: int
    length: int

    @classmethod
    def of(cls, document: Document) -> "Root":
        top = document.want("top", Link)
        counts = document.count("level"), document.count("documents"), document.count("bytes")
        if (top is None and counts != (0, 0, 0)) or counts[0] > LEVELS_MAX:
            raise document.damage(f"names a tree without a top, or of too many levels: {counts}")
        return cls(top, *counts)


class Form(NamedTuple):
    """What every node of a tree says of it (section 2)."""

    keyed: bool
    own: bool


USERS, CAPPED, OURS = Form(True, False), Form(False, False), Form(True, True)


def documents(
    source: Source, salt: bytes, root: Root, form: Form, what: str
) -> Iterator[Tuple[bytes, Block]]:
    """The documents in order, each with the block that it ends in."""
    return _Walk(source, salt, form, what).tree(root)


def ours(source: Source, salt: bytes, root: Root, what: str) -> Iterator[Document]:
    """The documents of a keyed tree of our own ones."""
    return (own(raw, block) for raw, block in documents(source, salt, root, OURS, what))


class _Walk:
    """A walk from left to right."""

    def __init__(self, source: Source, salt: bytes, form: Form, what: str) -> None:
        self.source = source
        self.form = form
        self.what = what
        self.salt = salt
        self.chunks: Dict[int, Chunks] = {}
        self.last_key: Optional[bytes] = None

    def tree(self, root: Root) -> Iterator[Tuple[bytes, Block]]:
        if root.top is None:
            return
        for level in range(root.level + 1):
            self.chunks[level] = Chunks(self.salt, level)
        if root.level == 0:
            leaf = Entry(root.documents, root.length, root.top, (), b"", (), 0)
            yield from self.chunk(leaf, b"")
            return
        block, node = self.node(root.top, root.level, root.documents, root.length)
        if len(node.entries) == 1 and not node.entries[0].parts:
            raise block.damage("is the top with a single entry: the top should be under it")
        yield from self.entries(block, node, b"")

    def node(self, name: bytes, level: int, documents: int, bytes_: int) -> Tuple[Block, Node]:
        block = self.source.get(name, NODE, self.what)
        node = parse(block)
        if (node.level, node.keyed, node.own) != (level, *self.form):
            raise block.damage(f"is not of the level {level} and the form of its tree")
        sums = sum(one.documents for one in node.entries), sum(one.length for one in node.entries)
        if sums != (documents, bytes_):
            raise block.damage(f"holds {sums} documents and bytes instead of {(documents, bytes_)}")
        return block, node

    def entries(self, block: Block, node: Node, lowest: bytes) -> Iterator[Tuple[bytes, Block]]:
        """What is under a node whose first separator should be `lowest`."""
        for at, entry in enumerate(node.entries):
            above = self.separator(block, entry)
            if at == 0 and above != lowest:
                raise block.damage("its first separator is not its own in its parent")
            if not self.chunks[node.level].add(
                entry.size(), entry.identity(self.form.keyed), at == 0
            ):
                raise block.damage(f"a node ends before entry {at} where it should not, or should")
            if node.level == 1:
                yield from self.chunk(entry, above)
            else:
                child = self.node(
                    entry.ids()[:LINK_BYTES], node.level - 1, entry.documents, entry.length
                )
                yield from self.entries(*child, above)

    def separator(self, block: Block, entry: Entry) -> bytes:
        if not entry.pieces:
            return entry.separator
        whole = self.source.string(entry.pieces, self.what)
        if len(whole) != entry.separator_length:
            raise block.damage("the blocks of a separator have another length")
        return whole

    def chunk(self, entry: Entry, lowest: bytes) -> Iterator[Tuple[bytes, Block]]:
        """The documents of an entry of level 1, or of a leaf that is the top."""
        found, bytes_ = 0, 0
        for document, block in self.stored(entry):
            key = self.key(document, block)
            if self.form.keyed and key is not None:
                if self.last_key is not None and key <= self.last_key:
                    raise block.damage(
                        f"document {found} of the chunk is not above the one before it"
                    )
                if found == 0 and separator(self.last_key, key) != lowest:
                    raise block.damage("its separator is not the shortest")
                self.last_key = key
            identity = document if key is None else key
            if not self.chunks[0].add(len(document), identity, found == 0):
                raise block.damage(
                    f"a chunk ends before document {found} where it should not, or should"
                )
            found += 1
            bytes_ += len(document)
            yield document, block
        if (found, bytes_) != (entry.documents, entry.length):
            raise Damage(
                block.file,
                block.offset,
                f"{self.what}: a chunk that ends here has {found} documents of {bytes_} bytes "
                f"instead of {entry.documents} of {entry.length}",
            )

    def key(self, document: bytes, block: Block) -> Optional[bytes]:
        try:
            key = key_of(document)
        except Malformed as why:
            raise block.damage(f"a document: {why}") from why
        if key is None and self.form.keyed:
            raise block.damage("a document in a keyed tree has no _id")
        return key

    def stored(self, entry: Entry) -> Iterator[Tuple[bytes, Block]]:
        """The documents of the leaf, then the large one."""
        if entry.child is not None:
            leaf = self.source.get(entry.child, LINKS if self.form.own else LEAF, self.what)
            if not 0 < len(leaf.raw) < LEAF_MAX:
                raise leaf.damage(f"has {len(leaf.raw)} bytes")
            try:
                for document in split(leaf.raw):
                    if len(document) > SMALL_MAX:
                        raise leaf.damage("a large document stands in a leaf")
                    yield document, leaf
            except Malformed as why:
                raise leaf.damage(str(why)) from why
        if entry.parts:
            yield self.large(entry.parts)

    def large(self, names: Sequence[bytes]) -> Tuple[bytes, Block]:
        """A large document: parts of one length, the last one shorter or as long."""
        parts: List[bytes] = []
        for at, name in enumerate(names, 1):
            part = self.source.get(name, PART, self.what)
            if not 0 < len(part.raw) <= SMALL_MAX or (
                at < len(names) and len(part.raw) < SMALL_MAX
            ):
                raise part.damage(f"has {len(part.raw)} bytes as part {at} of {len(names)}")
            parts.append(part.raw)
        document = b"".join(parts)
        if not SMALL_MAX < len(document) <= DOCUMENT_MAX or self.form.own:
            raise part.damage("is of a document that should not stand in parts")
        return document, part
