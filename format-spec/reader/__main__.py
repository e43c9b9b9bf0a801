"""The command line: `python3 -m reader --store DIR COMMAND`."""

from __future__ import annotations

import argparse
import json
import os
import sys
from contextlib import closing
from typing import BinaryIO, List, Optional

from . import check, heads, jobs, trees
from .damage import Damage
from .heads import Collection
from .jobs import Snapshot
from .keyring import Refused, Secret
from .store import Store

DONE, FAILED, DAMAGED = 0, 1, 3
EXIT_CODES = "exit codes: 0 done, 1 failed, 2 wrong usage, 3 damage was found"


class Failed(Exception):
    """Something asked for is not there."""


def main(arguments: Optional[List[str]] = None) -> int:
    options = parser().parse_args(arguments)
    # Documents may nest 256 levels, and each is a few calls.
    sys.setrecursionlimit(10_000)
    # Damage that costs nothing by itself: what it hides is known from elsewhere.
    findings: List[Damage] = []
    try:
        with closing(Store(options.store, findings, secret(options))) as store:
            code = run(store, options)
    except Damage as damage:
        print(f"damaged: {damage}", file=sys.stderr)
        code = DAMAGED
    except (Failed, Refused, OSError) as why:
        print(f"failed: {why}", file=sys.stderr)
        code = FAILED
    for finding in findings:
        print(f"damaged{', but not needed' if code == DONE else ''}: {finding}", file=sys.stderr)
    return code


def secret(options: argparse.Namespace) -> Optional[Secret]:
    if options.key_file is not None:
        return Secret.of_key_file(options.key_file)
    if options.passphrase_file is not None:
        return Secret.of_passphrase_file(options.passphrase_file)
    return None


def parser() -> argparse.ArgumentParser:
    whole = argparse.ArgumentParser(
        prog="reader",
        description="Reads stores of Headstock, from their specification.",
        epilog=EXIT_CODES,
    )
    whole.add_argument("--store", required=True, metavar="DIR", help="directory of the store")
    secrets = whole.add_mutually_exclusive_group()
    secrets.add_argument(
        "--key-file", metavar="FILE", help="of an encrypted store: a file with its key"
    )
    secrets.add_argument(
        "--passphrase-file", metavar="FILE", help="of an encrypted store: a file with a passphrase"
    )
    commands = whole.add_subparsers(dest="command", required=True)
    listing = commands.add_parser("snapshots", help="list the snapshots of all jobs, oldest first")
    listing.add_argument(
        "--json", action="store_true", help="as `headstock snapshots --json` prints them"
    )
    collections = commands.add_parser("collections", help="list what a snapshot holds")
    restore = commands.add_parser(
        "restore", help="write the documents of a collection, BSON after BSON"
    )
    for command in (collections, restore):
        command.add_argument(
            "--snapshot", required=True, metavar="ID", help="as `snapshots` lists it"
        )
    restore.add_argument("--ns", metavar="DB.COLL", help="the collection; all if left out")
    restore.add_argument(
        "--to",
        required=True,
        metavar="FILE",
        help="where to; - for standard output; of all, a folder of files named by UUID",
    )
    commands.add_parser("check", help="read and check everything")
    return whole


def run(store: Store, options: argparse.Namespace) -> int:
    if store.registration.refused is not None:
        print(
            f"note: reading unregistered, so compact nothing: {store.registration.refused}",
            file=sys.stderr,
        )
    if options.command == "check":
        check.check(store, print)
        return DAMAGED if store.findings else DONE
    if options.command == "snapshots":
        list_snapshots(store, options.json)
    elif options.command == "collections":
        list_collections(store, snapshot(store, options.snapshot))
    else:
        restore(store, snapshot(store, options.snapshot), options.ns, options.to)
    return DONE


def snapshot(store: Store, id_: str) -> Snapshot:
    found = jobs.find_snapshot(store, id_)
    if found is None:
        raise Failed(f"there is no snapshot {id_}")
    return found


def list_snapshots(store: Store, as_json: bool) -> None:
    found = [one for job in jobs.jobs(store) for one in jobs.snapshots(store, job)]
    found.sort(key=lambda one: one.id)
    lines = [one.line() for one in found]
    if as_json:
        print(json.dumps(lines, indent=2))
        return
    for line in lines:
        print(f"{line['id']}  {line['job']}  {line['wall_time']}  {line['documents']} documents")


def list_collections(store: Store, of: Snapshot) -> None:
    found = heads.catalog(store, store.salt, of.head)
    for one in sorted(found, key=lambda one: one.ns):
        print(f"{one.ns}  {one.uuid}  {one.root.documents} documents, {one.root.length} bytes")


def restore(store: Store, of: Snapshot, ns: Optional[str], to: str) -> None:
    collections = heads.catalog(store, store.salt, of.head)
    if ns is None:
        os.makedirs(to, exist_ok=True)
        for one in collections:
            write_file(store, one, os.path.join(to, f"{one.uuid}.bson"))
        return
    found = next((one for one in collections if one.ns == ns), None)
    if found is None:
        raise Failed(f"snapshot {of.id} has no collection {ns}")
    if to == "-":
        write(store, found, sys.stdout.buffer)
    else:
        write_file(store, found, to)


def write_file(store: Store, collection: Collection, path: str) -> None:
    # The file has its name only when it is complete.
    partial = f"{path}.partial"
    with open(partial, "wb") as file:
        write(store, collection, file)
    os.replace(partial, path)


def write(store: Store, collection: Collection, file: BinaryIO) -> None:
    salt, root, form = store.salt, collection.root, collection.form
    for document, _ in trees.documents(store, salt, root, form, collection.ns):
        file.write(document)


if __name__ == "__main__":
    sys.exit(main())
