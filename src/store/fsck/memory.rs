//! What checks remember: when each segment was last read whole and found sound.
//!
//! Owns `CHECKED`, a JSON object of segment number to time and length, replaced by a rename. It is a
//! cache: without it, or with an older one, a check reads more than it needs to. Two checks at once
//! each write what they know; the later wins.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::store::Error;
use crate::store::fs::{Access, Disk};
use crate::store::layout::SegmentId;

/// Bytes of the file at most: over a million segments.
const MAX_BYTES: u64 = 64 << 20;

/// A segment that was read whole and found sound.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Sound {
    /// When, in milliseconds since 1970.
    at_ms: u64,
    /// Bytes of its file then.
    bytes: u64,
}

/// When segments were checked last.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Memory {
    sound: BTreeMap<u32, Sound>,
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
    pub(super) fn save(&mut self, disk: &dyn Disk, dir: &Path, live: &BTreeMap<SegmentId, u64>) {
        self.sound.retain(|id, _| live.contains_key(&SegmentId(*id)));
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

    /// When a segment of this length was last found sound, in milliseconds since 1970; 0 if never.
    pub(super) fn last(&self, id: SegmentId, bytes: u64) -> u64 {
        let sound = self.sound.get(&id.0).filter(|sound| sound.bytes == bytes);
        sound.map_or(0, |sound| sound.at_ms)
    }

    /// Notes what a check of now found.
    pub(super) fn note(&mut self, id: SegmentId, bytes: u64, is_sound: bool) {
        if is_sound {
            self.sound.insert(id.0, Sound { at_ms: now_ms(), bytes });
        } else {
            self.sound.remove(&id.0);
        }
    }
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
