//! What checks remember: when each segment was last read whole, and whether it was found sound.
//!
//! Owns `CHECKED`, a JSON object of segment number to time, length and outcome, replaced by a rename. It is a
//! cache: without it, or with an older one, a check reads more than it needs to. Two checks at once
//! each write what they know; the later wins.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::store::Error;
use crate::store::fs::{Access, Disk};
use crate::store::layout::SegmentId;
use crate::store::writer::now_ms;

/// Bytes of the file at most: over a million segments.
const MAX_BYTES: u64 = 64 << 20;

/// A segment that was read whole.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Checked {
    /// When, in milliseconds since 1970.
    at_ms: u64,
    /// Bytes of its file then.
    bytes: u64,
    /// Whether nothing was found.
    sound: bool,
}

/// How much of a store was read whole, and how long ago the rest was, as checks left it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Coverage {
    /// When the segment that was found sound the longest ago was, in milliseconds since 1970; none if no
    /// segment ever was.
    pub oldest_check_ms: Option<u64>,
    /// Sealed segments that were never read whole.
    pub never_checked: u64,
    /// Segments that were damaged when they were read last.
    pub damaged_segments: u64,
}

/// When segments were checked last.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Memory {
    checked: BTreeMap<u32, Checked>,
}

fn path(dir: &Path) -> PathBuf {
    dir.join("CHECKED")
}

impl Memory {
    /// What earlier checks of a store left; nothing where that cannot be read.
    pub(super) fn load(disk: &dyn Disk, dir: &Path) -> Self {
        Self::read(disk, dir).unwrap_or_else(|error| {
            tracing::warn!(%error, "earlier checks are forgotten");
            Self::default()
        })
    }

    fn read(disk: &dyn Disk, dir: &Path) -> Result<Self, Error> {
        let path = path(dir);
        let file = match disk.open(&path, Access::Read) {
            Err(error) if error.is_not_found() => return Ok(Self::default()),
            other => other?,
        };
        let mut bytes = vec![0; file.size()?.min(MAX_BYTES) as usize];
        file.read_at(0, &mut bytes)?;
        let what = "what checks remember is no JSON of this form";
        serde_json::from_slice(&bytes).map_err(|_| Error::Damaged { path, offset: 0, what })
    }

    /// Writes it, without what is no longer in the store. Where that is not possible, as on a file system
    /// that cannot be written, the next check knows less.
    pub(super) fn save(
        &mut self,
        disk: &dyn Disk,
        dir: &Path,
        is_live: impl Fn(SegmentId) -> bool,
    ) {
        self.checked.retain(|id, _| is_live(SegmentId(*id)));
        if let Err(error) = self.write(disk, dir) {
            tracing::warn!(%error, "the next check does not know what this one read");
        }
    }

    fn write(&self, disk: &dyn Disk, dir: &Path) -> Result<(), Error> {
        let bytes = serde_json::to_vec(self).unwrap_or_default();
        let temporary = dir.join(format!("CHECKED.{}.new", std::process::id()));
        match disk.remove(&temporary) {
            Err(error) if !error.is_not_found() => return Err(error.into()),
            _ => {}
        }
        let file = disk.create(&temporary)?;
        file.write_at(0, &bytes)?;
        file.sync()?;
        disk.rename(&temporary, &path(dir))?;
        Ok(())
    }

    /// When a segment of this length was last found sound, in milliseconds since 1970; 0 if never, or if it
    /// was damaged since.
    pub(super) fn last(&self, id: SegmentId, bytes: u64) -> u64 {
        let known = self.checked.get(&id.0).filter(|known| known.bytes == bytes && known.sound);
        known.map_or(0, |known| known.at_ms)
    }

    /// Notes what a check of now found.
    pub(super) fn note(&mut self, id: SegmentId, bytes: u64, sound: bool) {
        self.checked.insert(id.0, Checked { at_ms: now_ms(), bytes, sound });
    }

    /// What is known of these segments. The one that is being filled grows, so that of it only damage counts.
    pub(super) fn coverage(
        &self,
        sealed: &BTreeMap<SegmentId, u64>,
        active: Option<SegmentId>,
    ) -> Coverage {
        let damaged = active.and_then(|id| self.checked.get(&id.0)).is_some_and(|one| !one.sound);
        let mut coverage = Coverage { damaged_segments: damaged.into(), ..Coverage::default() };
        for (id, len) in sealed {
            match self.checked.get(&id.0).filter(|known| known.bytes == *len) {
                Some(known) if known.sound => {
                    let oldest = coverage.oldest_check_ms.unwrap_or(known.at_ms);
                    coverage.oldest_check_ms = Some(oldest.min(known.at_ms));
                }
                Some(_) => coverage.damaged_segments += 1,
                None => coverage.never_checked += 1,
            }
        }
        coverage
    }
}
