//! The `$v: 2` delta, as a secondary applies it.
//!
//! A document diff has sections `d` (deletes), `u` (updates), `i` (inserts), `b` (binary appends)
//! and `s<field>` (sub-diffs). The old document is walked in order and *every* occurrence of a name
//! is treated (a primary changes the first only; a store follows the secondaries). Then `u` fields
//! that had no place are appended, then all of `i`. An array diff starts with `a: true` and names
//! elements by index. On a document newer than the diff (while a scan is not caught up) types may
//! not fit: the field becomes null, to be overwritten by what follows.

use super::UpdateError;
use super::raw::{Element, Elements, IndexName, Value, Writer, deeper, kind};

/// Subtype of compressed columns: the only one that `b` sections extend.
const COLUMN_SUBTYPE: u8 = 7;
/// Length prefix and subtype of a binary value.
const BINARY_HEADER_BYTES: usize = 5;

/// Applies `diff` to `old`.
pub(super) fn apply(old: &[u8], diff: &[u8]) -> Result<Vec<u8>, UpdateError> {
    let mut out = Writer::with_capacity(old.len() + diff.len());
    let open = out.open();
    apply_document(&mut out, old, diff, 0)?;
    out.close(open)?;
    Ok(out.into_bytes())
}

const fn refused(what: &'static str) -> UpdateError {
    UpdateError::Diff { what }
}

/// What a document diff does to one field.
#[derive(Debug, Clone, Copy)]
enum Action<'a> {
    Delete,
    Update(Value<'a>),
    Insert(Value<'a>),
    Sub(&'a [u8]),
    Extend(Extension<'a>),
}

/// Keep `keep` bytes of a column, then `tail`.
#[derive(Debug, Clone, Copy)]
struct Extension<'a> {
    keep: usize,
    tail: &'a [u8],
}

struct Change<'a> {
    name: &'a [u8],
    action: Action<'a>,
    /// Position in the diff: what is appended keeps its order.
    rank: usize,
    emitted: bool,
}

/// The changes of a document diff, by name.
fn changes(diff: &[u8]) -> Result<Vec<Change<'_>>, UpdateError> {
    let mut changes = Vec::new();
    let mut add = |name, action| {
        let rank = changes.len();
        changes.push(Change { name, action, rank, emitted: false });
    };
    let mut sections = 0;
    for section in Elements::new(diff)? {
        let Element { name, value } = section?;
        sections += 1;
        if value.kind != kind::DOCUMENT {
            return Err(refused("a section of a diff is not a document"));
        }
        match name {
            [b's', field @ ..] => add(field, Action::Sub(value.bytes)),
            b"d" | b"u" | b"i" | b"b" => {
                for field in Elements::new(value.bytes)? {
                    let field = field?;
                    let action = match name {
                        b"d" => Action::Delete,
                        b"u" => Action::Update(field.value),
                        b"i" => Action::Insert(field.value),
                        _ => Action::Extend(extension(field.value)?),
                    };
                    add(field.name, action);
                }
            }
            _ => return Err(refused("unknown section of a diff")),
        }
    }
    if sections == 0 {
        return Err(refused("an empty diff"));
    }
    changes.sort_by(|one, other| one.name.cmp(other.name));
    if changes.windows(2).any(|pair| pair[0].name == pair[1].name) {
        return Err(refused("a diff names a field twice"));
    }
    Ok(changes)
}

/// Reads `{o: <bytes to keep>, d: <binary>}`.
fn extension(value: Value<'_>) -> Result<Extension<'_>, UpdateError> {
    const FORM: UpdateError = refused("a binary diff is not {o, d}");
    if value.kind != kind::DOCUMENT {
        return Err(FORM);
    }
    let (mut keep, mut tail) = (None, None);
    for field in Elements::new(value.bytes)? {
        let field = field?;
        match field.name {
            b"o" => keep = field.value.as_integer().and_then(|keep| usize::try_from(keep).ok()),
            b"d" if field.value.kind == kind::BINARY => {
                tail = Some(&field.value.bytes[BINARY_HEADER_BYTES..]);
            }
            _ => return Err(FORM),
        }
    }
    Ok(Extension { keep: keep.ok_or(FORM)?, tail: tail.ok_or(FORM)? })
}

/// Writes the fields of `old` as `diff` leaves them.
fn apply_document(
    out: &mut Writer,
    old: &[u8],
    diff: &[u8],
    depth: usize,
) -> Result<(), UpdateError> {
    let mut changes = changes(diff)?;
    for element in Elements::new(old)? {
        let Element { name, value } = element?;
        let Ok(found) = changes.binary_search_by(|change| change.name.cmp(name)) else {
            out.append(name, value)?;
            continue;
        };
        changes[found].emitted = true;
        match changes[found].action {
            Action::Delete | Action::Insert(_) => {}
            Action::Update(new) => out.append(name, new)?,
            Action::Sub(sub) => apply_sub(out, name, value, sub, depth)?,
            Action::Extend(extension) => extend(out, name, value, extension)?,
        }
    }
    changes.sort_by_key(|change| change.rank);
    for change in &changes {
        if let Action::Update(new) = change.action
            && !change.emitted
        {
            out.append(change.name, new)?;
        }
    }
    for change in &changes {
        if let Action::Insert(new) = change.action {
            out.append(change.name, new)?;
        }
    }
    Ok(())
}

/// Whether a sub-diff is for an array: only those may start with a field `a`.
fn is_array_diff(diff: &[u8]) -> Result<bool, UpdateError> {
    match Elements::new(diff)?.next() {
        None => Err(refused("an empty diff")),
        Some(first) => Ok(first?.name == b"a"),
    }
}

/// Writes the field `name` with `old` changed by a sub-diff; null where the types do not fit.
fn apply_sub(
    out: &mut Writer,
    name: &[u8],
    old: Value<'_>,
    diff: &[u8],
    depth: usize,
) -> Result<(), UpdateError> {
    let depth = deeper(depth)?;
    match (old.kind, is_array_diff(diff)?) {
        (kind::DOCUMENT, false) => {
            let open = out.open_field(kind::DOCUMENT, name);
            apply_document(out, old.bytes, diff, depth)?;
            out.close(open)
        }
        (kind::ARRAY, true) => {
            let open = out.open_field(kind::ARRAY, name);
            apply_array(out, old.bytes, diff, depth)?;
            out.close(open)
        }
        _ => out.append(name, Value::NULL),
    }
}

/// Writes a column that keeps its first bytes and goes on with others. One shorter than what is to
/// be kept stays as it is.
fn extend(
    out: &mut Writer,
    name: &[u8],
    old: Value<'_>,
    extension: Extension<'_>,
) -> Result<(), UpdateError> {
    let content = match old {
        Value { kind: kind::BINARY, bytes: [_, _, _, _, COLUMN_SUBTYPE, content @ ..] } => content,
        _ => return out.append(name, Value::NULL),
    };
    let Some(kept) = content.get(..extension.keep) else {
        return out.append(name, old);
    };
    let len = i32::try_from(kept.len() + extension.tail.len())
        .map_err(|_| refused("a binary diff makes a value too large"))?;
    let mut bytes = Vec::with_capacity(BINARY_HEADER_BYTES + kept.len() + extension.tail.len());
    bytes.extend_from_slice(&len.to_le_bytes());
    bytes.push(COLUMN_SUBTYPE);
    bytes.extend_from_slice(kept);
    bytes.extend_from_slice(extension.tail);
    out.append(name, Value { kind: kind::BINARY, bytes: &bytes })
}

/// What an array diff does to one element.
enum ElementChange<'a> {
    Update(Value<'a>),
    Sub(&'a [u8]),
}

struct ArrayDiff<'a> {
    /// `l`: elements from here on are cut.
    len: Option<usize>,
    /// By index, ascending.
    changes: Vec<(usize, ElementChange<'a>)>,
}

fn array_diff(diff: &[u8]) -> Result<ArrayDiff<'_>, UpdateError> {
    let mut len = None;
    let mut changes: Vec<(usize, ElementChange<'_>)> = Vec::new();
    for (position, element) in Elements::new(diff)?.enumerate() {
        let Element { name, value } = element?;
        match name {
            b"a" if position == 0 => {
                if value != (Value { kind: kind::BOOL, bytes: &[1] }) {
                    return Err(refused("`a` of an array diff is not true"));
                }
            }
            b"l" if len.is_none() => {
                let new = value.as_integer().and_then(|len| usize::try_from(len).ok());
                len = Some(new.ok_or(refused("`l` of an array diff is not a length"))?);
            }
            [section @ (b'u' | b's'), digits @ ..] => {
                let index = index(digits).ok_or(refused("an array diff names no index"))?;
                if changes.last().is_some_and(|(last, _)| *last >= index) {
                    return Err(refused("indexes of an array diff do not ascend"));
                }
                let change = match (section, value.kind) {
                    (b'u', _) => ElementChange::Update(value),
                    (_, kind::DOCUMENT) => ElementChange::Sub(value.bytes),
                    _ => return Err(refused("a sub-diff of an array is not a document")),
                };
                changes.push((index, change));
            }
            _ => return Err(refused("unknown section of an array diff")),
        }
    }
    if let (Some(len), Some((highest, _))) = (len, changes.last())
        && *highest >= len
    {
        return Err(refused("an array diff changes an element that it cuts off"));
    }
    Ok(ArrayDiff { len, changes })
}

/// A canonical decimal index.
fn index(digits: &[u8]) -> Option<usize> {
    let canonical = matches!(digits, [b'0'] | [b'1'..=b'9', ..]);
    if !canonical || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Writes the elements of `old` as an array diff leaves them, numbered anew.
fn apply_array(out: &mut Writer, old: &[u8], diff: &[u8], depth: usize) -> Result<(), UpdateError> {
    let ArrayDiff { len, changes } = array_diff(diff)?;
    let highest = changes.last().map_or(0, |(highest, _)| highest.saturating_add(1));
    let mut old = Elements::new(old)?;
    let mut changes = changes.into_iter().peekable();
    for position in 0.. {
        if len.is_some_and(|len| position >= len) {
            break;
        }
        let element = old.next().transpose()?.map(|element| element.value);
        // Without `l`, the array ends after the last old element and the last change.
        if len.is_none() && element.is_none() && position >= highest {
            break;
        }
        let name = IndexName::new(position);
        let change = changes.next_if(|(index, _)| *index == position).map(|(_, change)| change);
        match (change, element) {
            (Some(ElementChange::Update(new)), _) => out.append(name.as_bytes(), new)?,
            (Some(ElementChange::Sub(sub)), Some(old)) => {
                apply_sub(out, name.as_bytes(), old, sub, depth)?;
            }
            (None, Some(old)) => out.append(name.as_bytes(), old)?,
            (_, None) => out.append(name.as_bytes(), Value::NULL)?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
