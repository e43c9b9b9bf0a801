//! `$v: 1` modifiers (servers before 5.0), as a secondary applies them.
//!
//! Only `$set` and `$unset` are ever logged. All their dotted paths are merged into one tree. Then
//! each object keeps its fields in place, the first occurrence of a name being changed, and what
//! was missing is appended in the order of names, not of the modifiers. Steps that lead through a
//! scalar, or through an array by a name that is no number, are passed over in silence: on a
//! document newer than the update that is expected.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use super::raw::{Element, Elements, IndexName, Value, Writer, deeper, kind};
use super::{NameOrder, UpdateError};

/// How far beyond its end an array may be padded with nulls: the server's own limit.
const MAX_PADDING: usize = 1_500_000;

/// Applies the modifiers `o` to `old`.
pub(super) fn apply(old: &[u8], o: &[u8], order: NameOrder) -> Result<Vec<u8>, UpdateError> {
    let tree = tree(o)?;
    let mut out = Writer::with_capacity(old.len() + o.len());
    let open = out.open();
    apply_document(&mut out, old, &tree, order)?;
    out.close(open)?;
    Ok(out.into_bytes())
}

const fn refused(what: &'static str) -> UpdateError {
    UpdateError::Diff { what }
}

/// Changes below one object or array, by name.
#[derive(Debug, Default)]
struct Branch<'a> {
    children: BTreeMap<&'a [u8], Change<'a>>,
    /// Whether anything is set below: a branch that only unsets creates nothing.
    sets: bool,
}

#[derive(Debug)]
enum Change<'a> {
    Set(Value<'a>),
    Unset,
    Below(Branch<'a>),
}

impl Change<'_> {
    fn sets(&self) -> bool {
        match self {
            Change::Set(_) => true,
            Change::Unset => false,
            Change::Below(branch) => branch.sets,
        }
    }
}

/// Merges all paths of `$set` and `$unset`.
fn tree(o: &[u8]) -> Result<Branch<'_>, UpdateError> {
    let mut root = Branch::default();
    for modifier in Elements::new(o)? {
        let Element { name, value } = modifier?;
        let set = match name {
            b"$v" => continue,
            b"$set" => true,
            b"$unset" => false,
            _ => return Err(refused("a modifier other than $set and $unset")),
        };
        if value.kind != kind::DOCUMENT {
            return Err(refused("a modifier is not a document"));
        }
        for field in Elements::new(value.bytes)? {
            let field = field?;
            let change = if set { Change::Set(field.value) } else { Change::Unset };
            graft(&mut root, field.name, change)?;
        }
    }
    Ok(root)
}

/// Adds one dotted path.
fn graft<'a>(root: &mut Branch<'a>, path: &'a [u8], change: Change<'a>) -> Result<(), UpdateError> {
    const CONFLICT: UpdateError = refused("two modifiers change the same path");
    let sets = change.sets();
    let mut steps = path.split(|byte| *byte == b'.').peekable();
    let mut branch = root;
    let mut depth = 0;
    while let Some(step) = steps.next() {
        branch.sets |= sets;
        if steps.peek().is_none() {
            return match branch.children.insert(step, change) {
                None => Ok(()),
                Some(_) => Err(CONFLICT),
            };
        }
        depth = deeper(depth)?;
        let child = branch.children.entry(step).or_insert(Change::Below(Branch::default()));
        let Change::Below(below) = child else { return Err(CONFLICT) };
        branch = below;
    }
    Ok(())
}

/// Writes the fields of `old` as the branch leaves them. The depth is that of the branch, which
/// [`graft`] bounds.
fn apply_document(
    out: &mut Writer,
    old: &[u8],
    branch: &Branch<'_>,
    order: NameOrder,
) -> Result<(), UpdateError> {
    let mut missing: BTreeMap<&[u8], &Change<'_>> =
        branch.children.iter().map(|(name, change)| (*name, change)).collect();
    for element in Elements::new(old)? {
        let Element { name, value } = element?;
        match missing.remove(name) {
            None => out.append(name, value)?,
            Some(Change::Set(new)) => out.append(name, *new)?,
            Some(Change::Unset) => {}
            Some(Change::Below(below)) => descend(out, name, value, below, order)?,
        }
    }
    for (name, change) in sorted(missing, order) {
        create(out, name, change, order)?;
    }
    Ok(())
}

/// Writes the field `name` with what is below it changed.
fn descend(
    out: &mut Writer,
    name: &[u8],
    old: Value<'_>,
    below: &Branch<'_>,
    order: NameOrder,
) -> Result<(), UpdateError> {
    match old.kind {
        kind::DOCUMENT => {
            let open = out.open_field(kind::DOCUMENT, name);
            apply_document(out, old.bytes, below, order)?;
            out.close(open)
        }
        kind::ARRAY => {
            let open = out.open_field(kind::ARRAY, name);
            apply_array(out, old.bytes, below, order)?;
            out.close(open)
        }
        _ => out.append(name, old),
    }
}

/// Writes a field that was missing. Numbers in paths make fields of an object, never arrays.
fn create(
    out: &mut Writer,
    name: &[u8],
    change: &Change<'_>,
    order: NameOrder,
) -> Result<(), UpdateError> {
    match change {
        Change::Set(new) => out.append(name, *new),
        Change::Below(below) if below.sets => {
            let open = out.open_field(kind::DOCUMENT, name);
            let children = below.children.iter().map(|(name, change)| (*name, change)).collect();
            for (name, change) in sorted(children, order) {
                create(out, name, change, order)?;
            }
            out.close(open)
        }
        Change::Unset | Change::Below(_) => Ok(()),
    }
}

/// Writes the elements of `old` as the branch leaves them.
fn apply_array(
    out: &mut Writer,
    old: &[u8],
    branch: &Branch<'_>,
    order: NameOrder,
) -> Result<(), UpdateError> {
    let mut changes: BTreeMap<usize, &Change<'_>> = branch
        .children
        .iter()
        .filter_map(|(step, change)| Some((array_index(step)?, change)))
        .collect();
    let mut len = 0;
    for element in Elements::new(old)? {
        let Element { name, value } = element?;
        match changes.remove(&len) {
            None => out.append(name, value)?,
            Some(Change::Set(new)) => out.append(name, *new)?,
            Some(Change::Unset) => out.append(name, Value::NULL)?,
            Some(Change::Below(below)) => descend(out, name, value, below, order)?,
        }
        len += 1;
    }
    changes.retain(|_, change| change.sets());
    for (index, change) in changes {
        if index - len > MAX_PADDING {
            return Err(refused("a modifier pads an array by more than 1500000 elements"));
        }
        while len < index {
            out.append(IndexName::new(len).as_bytes(), Value::NULL)?;
            len += 1;
        }
        create(out, IndexName::new(len).as_bytes(), change, order)?;
        len += 1;
    }
    Ok(())
}

/// A step that selects an array's element: digits, of at most 32 bits.
fn array_index(step: &[u8]) -> Option<usize> {
    if !step.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(step).ok()?.parse::<u32>().ok().map(|index| index as usize)
}

/// Fields in the order in which a server appends them.
fn sorted<T>(fields: BTreeMap<&[u8], T>, order: NameOrder) -> Vec<(&[u8], T)> {
    if order == NameOrder::Bytes {
        return fields.into_iter().collect();
    }
    // Not a total order over numbers and other names mixed (2 < 10 < "1a" < 2), so no sort: as in
    // the server's map, each name is put where a binary search finds its place.
    let mut sorted: Vec<(&[u8], T)> = Vec::with_capacity(fields.len());
    for (name, value) in fields {
        let place = sorted
            .binary_search_by(|(other, _)| numeric_order(other, name))
            .unwrap_or_else(|place| place);
        sorted.insert(place, (name, value));
    }
    sorted
}

/// Compares two canonical decimal numbers by value, all else by bytes.
fn numeric_order(one: &[u8], other: &[u8]) -> Ordering {
    let canonical = |name: &[u8]| {
        matches!(name, [b'0'] | [b'1'..=b'9', ..]) && name.iter().all(u8::is_ascii_digit)
    };
    if canonical(one) && canonical(other) {
        one.len().cmp(&other.len()).then_with(|| one.cmp(other))
    } else {
        one.cmp(other)
    }
}

#[cfg(test)]
mod tests;
