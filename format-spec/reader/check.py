"""Walks everything that a store holds, and tells what is not as the pages say."""

from __future__ import annotations

from contextlib import contextmanager
from typing import Callable, Dict, Iterator, List, Optional, Set, Tuple

from . import jobs, slices, trees
from .blocks import LINKS
from .check_files import files
from .content_root import collection_hash, content_root
from .damage import Damage, Malformed
from .documents import Document, Timestamp, only
from .heads import Collection, Head, OpTime, catalog, foreign
from .jobs import Job
from .slices import Slice
from .store import Store
from .trees import CAPPED, USERS, Form, Root


class Check:
    """A walk over all jobs and what hangs from them."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.salt = store.salt
        self.findings = store.findings
        # Snapshots share most of their trees: each is read once.
        self.read: Set[Tuple[Root, Form]] = set()
        self.documents = 0
        self.snapshots = 0
        self.slices = 0

    def everything(self) -> None:
        # Some have been noted meanwhile, of dictionaries that others need.
        self.store.note(list(files(self.store)))
        with self.noting():
            for job in jobs.jobs(self.store):
                self.job(job)

    @contextmanager
    def noting(self) -> Iterator[None]:
        """Goes on behind what is damaged."""
        try:
            yield
        except Damage as why:
            self.findings.append(why)

    def job(self, job: Job) -> None:
        name, state = f"job {job.name}", job.state
        with self.noting():
            for snapshot in jobs.snapshots(self.store, job):
                self.snapshots += 1
                with self.noting():
                    snapshot.line()
                    self.head(snapshot.head, f"snapshot {snapshot.id}")
        with self.noting():
            head = state.want("head", Document)
            if head is not None:
                self.head(Head.of(head), f"the head of {name}")
        with self.noting():
            scan = state.want("scan", Document)
            if scan is not None:
                self.scan(scan, f"the scan of {name}")
        with self.noting():
            self.chain(state, f"the slices of {name}")

    def head(self, head: Head, what: str) -> None:
        """The catalog, every collection, the sums, the content root, and what is pending."""
        by_name: Dict[str, Collection] = {}
        hashes: List[bytes] = []
        for collection in catalog(self.store, self.salt, head):
            if collection.ns in by_name or (collection.aside and head.consistent_from is not None):
                raise collection.entry.damage(f"{what}: {collection.ns} stands twice, or aside")
            by_name[collection.ns] = collection
            try:
                hashes.append(collection_hash(collection))
            except Malformed as why:
                raise collection.entry.damage(f"{what}: {collection.ns}: {why}") from why
            with self.noting():
                self.tree(collection.root, collection.form, f"{collection.ns} of {what}")
        roots = [collection.root for collection in by_name.values()]
        sums = sum(root.documents for root in roots), sum(root.length for root in roots)
        if sums != (head.documents, head.length):
            raise head.document.damage(f"{what}: the catalog has {sums} documents and bytes")
        if content_root(hashes) != head.content_root:
            raise head.document.damage(
                f"{what}: the content root should be {content_root(hashes).hex()}"
            )
        pending = None if head.pending is None else self.pending(head.pending, head.optime, what)
        if (head.consistent_from is None) != (pending is not None and "fuzzy_until" in pending):
            raise head.document.damage(f"{what}: it is either consistent or fuzzy")

    def tree(self, root: Root, form: Form, what: str) -> None:
        if (root, form) not in self.read:
            for _ in trees.documents(self.store, self.salt, root, form, what):
                self.documents += 1
            self.read.add((root, form))

    def ours(self, of: Document, name: str, what: str) -> Iterator[Document]:
        """The documents of a tree of our own ones that a field names."""
        root = Root.of(of.need(name, Document))
        return trees.ours(self.store, self.salt, root, f"{name} of {what}")

    def pending(self, block: bytes, optime: OpTime, what: str) -> Document:
        state = only(self.store.get(block, LINKS, f"the pending state of {what}"))
        chains: Set[Timestamp] = set()
        for one in self.ours(state, "transactions", what):
            ts, chain = one.need("_id", Timestamp), one.need("chain", Timestamp)
            if ts == chain:
                one.need("lsid", bytes)
                one.need("prepared", bool)
                chains.add(chain)
            entry = foreign(self.store, one, "entry")
            if ts > optime.ts or chain not in chains or slices.position(entry).ts != ts:
                raise one.damage(f"{what}: the entry of {ts} is not of its transaction")
        for one in self.ours(state, "builds", what):
            foreign(self.store, one, "indexes")
        for one in self.ours(state, "absent", what):
            one.need("ns", str)
        return state

    def scan(self, scan: Document, what: str) -> None:
        for progress in self.ours(scan, "progress", what):
            form = CAPPED if progress.need("arrival", str) == "natural" else USERS
            foreign(self.store, progress, "options")
            ns = f"{progress.need('ns', str)} of {what}"
            finished = progress.want("finished", Document)
            if finished is not None:
                self.tree(Root.of(finished), form, ns)
            for range_ in progress.need("ranges", list):
                for piece in range_.need("pieces", list):
                    self.tree(Root.of(piece.need("root", Document)), form, ns)

    def chain(self, state: Document, what: str) -> None:
        """Each slice by itself, and that they lead from one to the next."""
        held = state.want("slices", Document)
        if held is None:
            return
        gaps = [OpTime.of(gap.need("after", Document)) for gap in state.need("gaps", list)]
        before: Optional[Slice] = None
        for document in [*self.ours(held, "tree", what), *held.need("recent", list)]:
            one = Slice.of(document)
            for _ in slices.entries(self.store, one):
                pass
            # A slice that starts a scan has no entry before it; a gap is told by the state.
            starts = one.prev.ts == (0, 0) or before is None or before.last in gaps
            if not starts and before is not None and one.prev != before.last:
                raise document.damage(f"{what}: {one.first} does not follow {before.last}")
            before = one
            self.slices += 1
        received = state.want("received", Document)
        if before is not None and (received is None or OpTime.of(received) != before.last):
            raise state.damage(f"{what}: the last one is not what was received")


def check(store: Store, say: Callable[[str], None]) -> None:
    """Adds to the findings of the store; says what was read."""
    walk = Check(store)
    walk.everything()
    say(
        f"{len(store.segments)} segments, {walk.snapshots} snapshots, {len(walk.read)} trees with "
        f"{walk.documents} documents, {walk.slices} slices"
    )
