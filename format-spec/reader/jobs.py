"""Jobs (page 07): the state of a backup, and the snapshots it has."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any, Dict, Iterator, NamedTuple, Optional

from .blocks import LINKS
from .documents import Date, Document, only
from .heads import Head
from .store import Store
from .trees import Root, ours

VERSION = 1
EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


class Job(NamedTuple):
    """The state of a job."""

    name: str
    state: Document
    snapshots: Root


class Snapshot(NamedTuple):
    """A manifest."""

    id: str
    job: str
    head: Head
    manifest: Document

    def line(self) -> Dict[str, Any]:
        """As `headstock snapshots --json` prints it."""
        manifest, head = self.manifest, self.head
        scope = manifest.need("scope", Document)
        (t, i), term = head.optime
        return {
            "id": self.id,
            "job": self.job,
            "optime": {"t": t, "i": i, "term": term},
            "wall_time": rfc3339(head.document.need("wall", Date)),
            "taken_at": rfc3339(manifest.need("taken", Date)),
            "documents": head.documents,
            "logical_bytes": head.length,
            "added_bytes": manifest.count("added_bytes"),
            "content_root": head.content_root.hex(),
            "keep": manifest.need("keep", bool),
            "include": scope.need("include", list),
            "exclude": scope.need("exclude", list),
            "set_name": manifest.need("set_name", str),
            "replica_set_id": manifest.need("replica_set_id", bytes).hex(),
            "fcv": manifest.need("fcv", str),
            "server_version": manifest.need("server_version", str),
        }


def jobs(store: Store) -> Iterator[Job]:
    """The jobs of a store, by name."""
    for name, block in sorted(store.commit.roots.items()):
        state = only(store.get(block, LINKS, f"job {name}"))
        if state.count("v") != VERSION:
            raise state.damage(f"the state of job {name} has version {state['v']}")
        if state.need("job", str) != name:
            raise state.damage(f"is the state of job {state['job']}, not of {name}")
        yield Job(name, state, Root.of(state.need("snapshots", Document)))


def snapshots(store: Store, job: Job) -> Iterator[Snapshot]:
    """The snapshots of a job, oldest first."""
    for manifest in ours(store, store.salt, job.snapshots, f"the snapshots of job {job.name}"):
        yield Snapshot(
            manifest.need("_id", str), job.name, Head.of(manifest.need("head", Document)), manifest
        )


def find_snapshot(store: Store, id_: str) -> Optional[Snapshot]:
    """A snapshot by its id."""
    for job in jobs(store):
        for snapshot in snapshots(store, job):
            if snapshot.id == id_:
                return snapshot
    return None


def rfc3339(milliseconds: int) -> str:
    """A moment with as many digits of the second as it needs."""
    moment = EPOCH + timedelta(milliseconds=milliseconds)
    text = moment.strftime("%Y-%m-%dT%H:%M:%S")
    fraction = f".{moment.microsecond // 1000:03}".rstrip("0").rstrip(".")
    return f"{text}{fraction}Z"
