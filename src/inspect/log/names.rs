//! Which collections have a name at some point.

use std::collections::BTreeSet;

use crate::block::BlockRead;
use crate::head;
use crate::inspect::Error;
use crate::oplog::slice::{self, Slice};
use crate::oplog::{self, Command, Operation, Parsed, Uuid, operations, parse};
use crate::restore::{self, Cancel, Stretch};

/// Kinds of the entries that give a collection a name.
const NAMING_KINDS: [&str; 2] = ["c.create", "c.renameCollection"];

/// UUIDs of the collections that have the name `ns` at some point of the stretches. One too many does no
/// harm: a transaction that creates a collection and is given up counts, too.
pub(super) fn uuids(
    blocks: &dyn BlockRead,
    stretches: &[Stretch],
    ns: &str,
    cancel: &Cancel,
) -> Result<BTreeSet<Uuid>, Error> {
    let mut found = BTreeSet::new();
    for stretch in stretches {
        let filtered = stretch.later.iter().filter(|snapshot| !snapshot.scope.is_all());
        for snapshot in std::iter::once(&stretch.base).chain(filtered) {
            let catalog = head::catalog(blocks, &snapshot.head)?;
            found.extend(catalog.iter().filter(|one| one.ns == ns).map(|one| one.uuid));
        }
        let naming =
            |slice: &&Slice| NAMING_KINDS.iter().any(|kind| slice.header.kinds.contains(*kind));
        for slice in stretch.slices.iter().filter(naming) {
            if cancel.is_cancelled() {
                return Err(restore::Error::Cancelled.into());
            }
            let bytes = restore::read_slice(slice, blocks)?;
            in_slice(&bytes, ns, &mut found)?;
        }
    }
    Ok(found)
}

fn in_slice(bytes: &[u8], ns: &str, found: &mut BTreeSet<Uuid>) -> Result<(), oplog::Error> {
    for entry in slice::entries(bytes) {
        let entry = entry?;
        // What is not understood lies beyond the stretch.
        match parse(entry) {
            Ok(Parsed::Single(operation)) => found.extend(named(&operation, ns)),
            Ok(Parsed::ApplyOps(group)) => {
                let at = oplog::position(entry)?.optime;
                let inner = operations(at, group.operations).filter_map(Result::ok);
                found.extend(inner.filter_map(|operation| named(&operation, ns)));
            }
            _ => {}
        }
    }
    Ok(())
}

/// The collection that an operation gives the name.
fn named(operation: &Operation<'_>, ns: &str) -> Option<Uuid> {
    let Operation::Command { db, uuid, command } = operation else { return None };
    let gives = match command {
        Command::Create { name, .. } => ns.split_once('.') == Some((db, name)),
        Command::Rename { to, .. } => *to == ns,
        _ => false,
    };
    uuid.filter(|_| gives)
}
