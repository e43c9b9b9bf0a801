//! Which records were read whole and found to be what their names say, so that a check of all records need not do so again.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};

use super::fsck::{Settings, Throttle};
use super::layout::{Entry, RECORD_HEADER_BYTES, SegmentId};
use super::sync::atomic::{AtomicU64, Ordering};
use super::sync::{Mutex, RwLock};

/// A record has more bytes than this, so that no two begin in the same so many.
const GRAIN_BYTES: u64 = RECORD_HEADER_BYTES as u64;
/// Bits of a word.
const WORD_BITS: u64 = 64;
/// Bytes of bits at most: those of segments of 32 GiB. What is read of others is not noted.
const MAX_BYTES: u64 = 64 << 20;

/// Bits by the places of records.
#[derive(Debug)]
pub(super) struct Verified {
    bits: RwLock<Bits>,
    throttle: Mutex<Throttle>,
}

#[derive(Debug, Default)]
struct Bits {
    by_segment: BTreeMap<SegmentId, Arc<Vec<AtomicU64>>>,
    bytes: u64,
}

impl Verified {
    pub(super) fn new(settings: &Settings) -> Self {
        Self { bits: RwLock::default(), throttle: Mutex::new(Throttle::new(settings)) }
    }

    /// Notes a record of a segment with so many bytes. Waits until it may have been read.
    pub(super) fn note(&self, entry: &Entry, segment_bytes: u64) {
        let bytes = RECORD_HEADER_BYTES as u64 + u64::from(entry.stored_len);
        self.throttle.lock().unwrap_or_else(PoisonError::into_inner).spend(bytes);
        let known = self.of(entry.segment);
        if let Some(bits) = known.or_else(|| self.begin(entry.segment, segment_bytes)) {
            let (word, bit) = place(entry.offset);
            if let Some(word) = bits.get(word) {
                word.fetch_or(bit, Ordering::Relaxed);
            }
        }
    }

    /// Whether a record was noted.
    pub(super) fn has(&self, entry: &Entry) -> bool {
        let (word, bit) = place(entry.offset);
        let bits = self.of(entry.segment);
        let word = bits.as_ref().and_then(|bits| bits.get(word));
        word.is_some_and(|word| word.load(Ordering::Relaxed) & bit != 0)
    }

    fn of(&self, id: SegmentId) -> Option<Arc<Vec<AtomicU64>>> {
        let bits = self.bits.read().unwrap_or_else(PoisonError::into_inner);
        bits.by_segment.get(&id).cloned()
    }

    fn begin(&self, id: SegmentId, segment_bytes: u64) -> Option<Arc<Vec<AtomicU64>>> {
        let mut bits = self.bits.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = bits.by_segment.get(&id) {
            return Some(Arc::clone(known));
        }
        let words = segment_bytes.div_ceil(GRAIN_BYTES * WORD_BITS);
        let bytes = words * size_of::<AtomicU64>() as u64;
        if bits.bytes + bytes > MAX_BYTES {
            return None;
        }
        bits.bytes += bytes;
        let fresh: Arc<Vec<AtomicU64>> = Arc::new((0..words).map(|_| AtomicU64::new(0)).collect());
        bits.by_segment.insert(id, Arc::clone(&fresh));
        Some(fresh)
    }
}

/// The word of an offset and its bit in it.
fn place(offset: u64) -> (usize, u64) {
    let grain = offset / GRAIN_BYTES;
    ((grain / WORD_BITS) as usize, 1 << (grain % WORD_BITS))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::{BlockId, Kind};
    use crate::store::fsck::Level;

    fn entry(segment: u32, offset: u64) -> Entry {
        let id = BlockId::of(Kind::Leaf, b"any");
        Entry { id, segment: SegmentId(segment), offset, stored_len: 1, kind: Kind::Leaf }
    }

    #[test]
    fn neighbours_are_told_apart_and_there_is_a_bound() {
        let verified = Verified::new(&Settings::from(Level::Data));
        // The shortest records that there are.
        let offsets: Vec<u64> = (0..1000).map(|n| 4096 + n * 72).collect();
        let size = 4096 + 1000 * 72;
        offsets.iter().step_by(3).for_each(|offset| verified.note(&entry(1, *offset), size));
        for (n, offset) in offsets.iter().enumerate() {
            assert_eq!(verified.has(&entry(1, *offset)), n % 3 == 0, "{n}");
            assert!(!verified.has(&entry(2, *offset)));
        }
        for segment in 2..400 {
            verified.note(&entry(segment, 4096), 128 << 20);
        }
        let noted = (2..400).filter(|segment| verified.has(&entry(*segment, 4096))).count();
        assert_eq!(noted, 255, "a quarter of a mebibyte each, beside the first");
    }
}
