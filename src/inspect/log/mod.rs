//! Every version of one document.
//!
//! Two passes over the slices of each span of points. The first finds the collections that ever had the
//! name (`names`), so that their documents can be followed through renames by UUID. The second starts
//! from the document in the first snapshot of the span and applies what entries do to it (`follow`), by
//! the same rules as a head: operations of transactions take effect with their commit. Nothing else of
//! the oplog is applied, and a version is handed out as soon as it is known, so memory is that of a slice
//! and the document.

mod follow;
mod names;

use std::io;

use bson::RawDocument;

use super::{Error, Id};
use crate::oplog::{Position, Ts, Uuid};
use crate::restore::{Amount, Backup, Cancel, Phase, Progress, Stretch};
use follow::Follow;

/// What made a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It is there at the first point of a span, or of the backup of its collection; what made it is
    /// older.
    Found,
    /// It is not there at the first point of a span.
    Absent,
    /// An insert, or an update that found none.
    Inserted,
    /// An update of some of its fields.
    Updated,
    /// Another document was put in its place.
    Replaced,
    /// It was deleted.
    Deleted,
    /// Its collection was dropped.
    Dropped,
    /// Its collection was emptied.
    Emptied,
    /// Its collection got another name; the document stayed as it was.
    Renamed,
    /// Its collection is not backed up any more: its name or the filters changed.
    LeftOut,
}

impl Change {
    /// As it is printed.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Found => "found",
            Self::Absent => "absent",
            Self::Inserted => "inserted",
            Self::Updated => "updated",
            Self::Replaced => "replaced",
            Self::Deleted => "deleted",
            Self::Dropped => "dropped",
            Self::Emptied => "emptied",
            Self::Renamed => "renamed",
            Self::LeftOut => "left-out",
        }
    }
}

/// A version, or the end of one.
#[derive(Debug, Clone, Copy)]
pub struct Version<'a> {
    /// The first point that has it.
    pub at: Ts,
    /// Wall clock of the entry that made it, milliseconds since the Unix epoch.
    pub wall_ms: i64,
    /// What made it.
    pub change: Change,
    /// Its collection by the name at that point.
    pub ns: &'a str,
    /// Its collection; none where it is absent.
    pub uuid: Option<Uuid>,
    /// The document; none where it is no more.
    pub document: Option<&'a RawDocument>,
}

/// A line of a log.
#[derive(Debug, Clone, Copy)]
pub enum Line<'a> {
    /// A version.
    Version(Version<'a>),
    /// Nothing is known between these two points.
    Gap {
        /// The last point before it.
        after: Position,
        /// The first point behind it.
        until: Position,
    },
    /// What the reader should know.
    Note(&'a str),
}

/// Hands every version of a document to `each`, oldest first, that a point in the restorable range has:
/// of all collections that have the name `ns` at some point, under whatever name. Blocking.
///
/// # Errors
/// [`Error::NoCollection`] if no collection ever has the name, [`Error::Output`] with what `each`
/// gives, and those of reading the backup.
pub fn log(
    backup: &Backup,
    ns: &str,
    id: &Id,
    progress: &dyn Progress,
    cancel: &Cancel,
    each: &mut dyn FnMut(Line<'_>) -> io::Result<()>,
) -> Result<(), Error> {
    let stretches = backup.stretches()?;
    let blocks = backup.repository.blocks();
    let wanted = names::uuids(&*blocks, &stretches, ns, cancel)?;
    if wanted.is_empty() {
        let point = "any point that can be restored".to_owned();
        return Err(Error::NoCollection { ns: ns.to_owned(), point });
    }
    progress.begin(Phase::ApplySlices, total(&stretches));
    let mut before: Option<&Stretch> = None;
    for stretch in &stretches {
        if let Some(before) = before {
            let (after, until) = (before.span.to, stretch.span.from);
            each(Line::Gap { after, until }).map_err(Error::Output)?;
        }
        let mut follow = Follow::new(&*blocks, stretch, ns, &wanted, id.key())?;
        follow.run(progress, cancel, each)?;
        before = Some(stretch);
    }
    Ok(())
}

fn total(stretches: &[Stretch]) -> Amount {
    let slices = stretches.iter().flat_map(|stretch| &stretch.slices);
    slices.fold(Amount::default(), |total, slice| Amount {
        documents: total.documents + slice.header.entries,
        bytes: total.bytes + slice.header.raw_bytes,
    })
}
