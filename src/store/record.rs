//! The bytes of a commit record, as `format-spec/02-commit-log.md` lays them out.
//!
//! A record tells what a commit names: all of it (the first record of a log file), or the
//! difference to the commit before.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::identity::Identity;
use super::keys::{Epoch, Keys};
use super::layout::{SegmentId, aligned, field, u16_at, u32_at, u64_at};
use super::{CommitSeq, MAX_SEGMENT_BYTES, Roots};
use crate::block::BlockId;
use crate::crypt::SEAL_BYTES;

/// Bytes of a root's name at most.
pub(super) const MAX_ROOT_NAME_BYTES: usize = 255;
/// Roots of a commit at most: with names of full length its copy still fits a block.
pub(super) const MAX_ROOTS: usize = 2048;
/// Bytes of a record at most: far above a full record of a store of a hundred terabytes, far below
/// what reading a damaged length could hurt.
pub(super) const MAX_RECORD_BYTES: u64 = 64 << 20;
/// Bytes before a record's lists.
pub(super) const FIXED_BYTES: usize = 104;
const MAGIC: u32 = u32::from_le_bytes(*b"HSC\x1a");
const FLAG_FULL: u32 = 1;
/// The lists are sealed.
const FLAG_SEALED: u32 = 2;
const HASH_BYTES: usize = 32;

/// The hash of a commit record, which the next record names as its parent.
pub(super) type ChainHash = [u8; HASH_BYTES];

/// A commit: everything that the store holds as of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Commit {
    pub(super) seq: CommitSeq,
    /// Milliseconds since 1970, of the committing machine's clock; for people only.
    pub(super) time_ms: u64,
    pub(super) roots: Roots,
    /// Sealed segments and their lengths in bytes.
    pub(super) segments: BTreeMap<SegmentId, u64>,
    /// The segment being written, and how far this commit goes in it, in bytes.
    pub(super) active: Option<(SegmentId, u64)>,
    /// The lowest number that no segment ever had.
    pub(super) next_segment: SegmentId,
    /// The hash of this commit's record.
    pub(super) hash: ChainHash,
}

impl Commit {
    /// What an empty store holds, before its first record.
    pub(super) fn genesis() -> Self {
        Self {
            seq: CommitSeq(0),
            time_ms: 0,
            roots: Roots::new(),
            segments: BTreeMap::new(),
            active: None,
            next_segment: SegmentId(1),
            hash: [0; HASH_BYTES],
        }
    }
}

/// Where a record stands: part of its hash, so that a record is valid at one place only.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) store: &'a Identity,
    /// The number of the log file.
    pub(super) log: u64,
    /// Bytes from the start of the file.
    pub(super) offset: u64,
}

impl Place<'_> {
    fn hash(&self, record: &[u8]) -> ChainHash {
        let keys = self.store.keys.as_deref();
        let mut hasher = keys.map_or_else(blake3::Hasher::new, Keys::chain_hasher);
        hasher.update(&self.store.uuid);
        hasher.update(&self.log.to_le_bytes());
        hasher.update(&self.offset.to_le_bytes());
        hasher.update(record);
        *hasher.finalize().as_bytes()
    }
}

/// Writes the record of `commit`, which follows `base`; sets the commit's hash.
pub(super) fn encode(commit: &mut Commit, base: &Commit, full: bool, place: &Place<'_>) -> Vec<u8> {
    let empty = Commit::genesis();
    let from = if full { &empty } else { base };
    let mut body = Vec::new();
    let set: Vec<_> =
        commit.roots.iter().filter(|(name, id)| from.roots.get(*name) != Some(id)).collect();
    let unset: Vec<_> =
        from.roots.keys().filter(|name| !commit.roots.contains_key(*name)).collect();
    let added: Vec<_> =
        commit.segments.iter().filter(|(id, len)| from.segments.get(id) != Some(len)).collect();
    let dropped: Vec<_> =
        from.segments.keys().filter(|id| !commit.segments.contains_key(id)).collect();
    let counts = [set.len(), unset.len(), added.len(), dropped.len()];
    for (name, id) in set {
        push_name(&mut body, name);
        body.extend_from_slice(id.as_bytes());
    }
    unset.iter().for_each(|name| push_name(&mut body, name));
    for (id, len) in added {
        body.extend_from_slice(&id.0.to_le_bytes());
        body.extend_from_slice(&len.to_le_bytes());
    }
    dropped.iter().for_each(|id| body.extend_from_slice(&id.0.to_le_bytes()));

    let keys = place.store.keys.as_deref();
    body.resize(aligned(body.len() as u64) as usize, 0);
    let seal_bytes = if keys.is_some() { SEAL_BYTES } else { 0 };
    let total = (FIXED_BYTES + body.len() + seal_bytes + HASH_BYTES) as u64;
    let (active, active_bytes) = commit.active.map_or((0, 0), |(id, len)| (id.0, len));
    let mut record = Vec::with_capacity(total as usize);
    record.extend_from_slice(&MAGIC.to_le_bytes());
    let sealed = if keys.is_some() { FLAG_SEALED } else { 0 };
    record.extend_from_slice(&(if full { FLAG_FULL } else { 0 } | sealed).to_le_bytes());
    record.extend_from_slice(&total.to_le_bytes());
    record.extend_from_slice(&commit.seq.0.to_le_bytes());
    record.extend_from_slice(&commit.time_ms.to_le_bytes());
    record.extend_from_slice(&active.to_le_bytes());
    record.extend_from_slice(&commit.next_segment.0.to_le_bytes());
    record.extend_from_slice(&active_bytes.to_le_bytes());
    for count in counts {
        record.extend_from_slice(&(count as u32).to_le_bytes());
    }
    record.extend_from_slice(&place.store.epoch().0.to_le_bytes());
    record.extend_from_slice(&[0; 4]);
    record.extend_from_slice(&base.hash);
    match keys {
        Some(keys) => {
            let fixed = record.clone();
            keys.seal_commit(&fixed, &body, &mut record);
        }
        None => record.extend_from_slice(&body),
    }
    commit.hash = place.hash(&record);
    record.extend_from_slice(&commit.hash);
    record
}

fn push_name(body: &mut Vec<u8>, name: &str) {
    body.extend_from_slice(&(name.len() as u16).to_le_bytes());
    body.extend_from_slice(name.as_bytes());
}

/// The length a record's fixed part claims, if it starts a record at all.
pub(super) fn claimed_len(fixed: &[u8]) -> Option<u64> {
    let total = u64_at(fixed, 8);
    let least = (FIXED_BYTES + HASH_BYTES) as u64;
    let sane = u32_at(fixed, 0) == MAGIC
        && (least..=MAX_RECORD_BYTES).contains(&total)
        && total == aligned(total);
    sane.then_some(total)
}

/// A record whose own hash holds: not yet compared with the commit before it.
#[derive(Debug)]
pub(super) struct Raw<'a> {
    bytes: &'a [u8],
    store: &'a Identity,
    pub(super) hash: ChainHash,
}

impl<'a> Raw<'a> {
    /// Checks the bytes of a record against its hash.
    pub(super) fn check(bytes: &'a [u8], place: &Place<'a>) -> Option<Self> {
        let body = bytes.len().checked_sub(HASH_BYTES)?;
        let hash = field(bytes, body);
        let whole = Self { bytes: &bytes[..body], store: place.store, hash };
        (place.hash(whole.bytes) == hash).then_some(whole)
    }

    /// The data key that it is sealed with, if that is not among the keys: these are of another time.
    pub(super) fn unknown_epoch(&self) -> Option<Epoch> {
        let (keys, epoch) = (self.store.keys.as_ref()?, Epoch(u32_at(self.bytes, 64)));
        (!keys.has(epoch)).then_some(epoch)
    }

    /// The lists behind the fixed part.
    fn lists(&self) -> Result<Cow<'a, [u8]>, &'static str> {
        let (fixed, lists) = self.bytes.split_at(FIXED_BYTES);
        let is_sealed = u32_at(fixed, 4) & FLAG_SEALED != 0;
        match &self.store.keys {
            None if is_sealed => Err("the commit record is sealed, and the store has no keys"),
            None => Ok(Cow::Borrowed(lists)),
            Some(_) if !is_sealed => Err("the commit record is not sealed"),
            Some(keys) => {
                let opened = keys.open_commit(Epoch(u32_at(fixed, 64)), fixed, lists);
                opened.map(Cow::Owned).ok_or("the commit record's seal is broken")
            }
        }
    }

    pub(super) fn is_full(&self) -> bool {
        u32_at(self.bytes, 4) & FLAG_FULL != 0
    }

    pub(super) fn seq(&self) -> CommitSeq {
        CommitSeq(u64_at(self.bytes, 16))
    }

    pub(super) fn parent(&self) -> ChainHash {
        field(self.bytes, 72)
    }

    /// Whether this is the record of the commit after another.
    pub(super) fn follows(&self, seq: CommitSeq) -> bool {
        seq.0.checked_add(1) == Some(self.seq().0)
    }

    /// The commit that this record makes of the one before; `None` for a full record that starts a
    /// file. Says which rule the record breaks otherwise.
    pub(super) fn apply(&self, base: Option<&Commit>) -> Result<Commit, &'static str> {
        let mut commit = match base {
            Some(base) if self.parent() != base.hash || !self.follows(base.seq) => {
                return Err("the commit record does not follow the one before it");
            }
            Some(base) if !self.is_full() => base.clone(),
            None if !self.is_full() => return Err("the log does not start with a full record"),
            _ => Commit::genesis(),
        };
        let bytes = self.bytes;
        commit.seq = self.seq();
        commit.time_ms = u64_at(bytes, 24);
        let active = (SegmentId(u32_at(bytes, 32)), u64_at(bytes, 40));
        commit.active = (active.0.0 != 0).then_some(active);
        commit.next_segment = SegmentId(u32_at(bytes, 36));
        if commit.next_segment < SegmentId(1) {
            return Err("the commit record has no next segment");
        }
        commit.hash = self.hash;
        let lists = self.lists()?;
        let mut rest = Rest(&lists);
        for _ in 0..u32_at(bytes, 48) {
            let name = rest.name()?;
            let id = BlockId::from_slice(rest.take(BlockId::LEN)?).ok_or(SHORT)?;
            commit.roots.insert(name, id);
        }
        for _ in 0..u32_at(bytes, 52) {
            commit.roots.remove(&rest.name()?);
        }
        for _ in 0..u32_at(bytes, 56) {
            let added = rest.take(12)?;
            let (id, len) = (SegmentId(u32_at(added, 0)), u64_at(added, 4));
            check_segment(&commit, id, len)?;
            commit.segments.insert(id, len);
        }
        for _ in 0..u32_at(bytes, 60) {
            commit.segments.remove(&SegmentId(u32_at(rest.take(4)?, 0)));
        }
        if let Some((id, len)) = commit.active {
            check_segment(&commit, id, len)?;
            if commit.segments.contains_key(&id) {
                return Err("the commit record names a segment as sealed and as active");
            }
        }
        Ok(commit)
    }
}

/// Says which rule a segment breaks that a commit names. Sums of lengths, and the number after any, rely on
/// these.
fn check_segment(commit: &Commit, id: SegmentId, len: u64) -> Result<(), &'static str> {
    if id < SegmentId(1) || id >= commit.next_segment {
        return Err("the commit record names a segment of a number that none has yet");
    }
    if len > MAX_SEGMENT_BYTES {
        return Err("the commit record names a segment longer than any");
    }
    Ok(())
}

const SHORT: &str = "the commit record is shorter than its lists";

struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], &'static str> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(SHORT)?;
        self.0 = rest;
        Ok(taken)
    }

    fn name(&mut self) -> Result<String, &'static str> {
        let len = usize::from(u16_at(self.take(2)?, 0));
        let name = std::str::from_utf8(self.take(len)?);
        name.map(str::to_owned).map_err(|_| "a root's name is not UTF-8")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::Kind;
    use crate::store::RepositorySalt;

    static STORE: Identity = Identity::plain([7; 16], RepositorySalt([0; 32]));

    fn place() -> Place<'static> {
        Place { store: &STORE, log: 3, offset: 0 }
    }

    fn sample() -> Commit {
        let mut commit = Commit::genesis();
        commit.seq = CommitSeq(1);
        commit.roots.insert("rs0".into(), BlockId::of(Kind::Links, b"one"));
        commit.roots.insert("rs1".into(), BlockId::of(Kind::Links, b"two"));
        commit.segments.insert(SegmentId(1), 70_000);
        commit.active = Some((SegmentId(2), 8192));
        commit.next_segment = SegmentId(3);
        commit
    }

    #[test]
    fn a_difference_gives_the_commit_back() {
        let base = {
            let mut base = sample();
            encode(&mut base, &Commit::genesis(), true, &place());
            base
        };
        let mut next = base.clone();
        next.seq = CommitSeq(2);
        next.roots.remove("rs0");
        next.roots.insert("rs1".into(), BlockId::of(Kind::Links, b"three"));
        next.segments.remove(&SegmentId(1));
        next.segments.insert(SegmentId(2), 9000);
        next.active = None;
        for full in [false, true] {
            let bytes = encode(&mut next, &base, full, &place());
            assert_eq!(claimed_len(&bytes), Some(bytes.len() as u64));
            let raw = Raw::check(&bytes, &place()).unwrap();
            assert_eq!(raw.apply(Some(&base)).unwrap(), next);
        }
    }

    #[test]
    fn a_record_counts_at_its_place_only() {
        let mut commit = sample();
        let bytes = encode(&mut commit, &Commit::genesis(), true, &place());
        assert!(Raw::check(&bytes, &place()).is_some());
        assert!(Raw::check(&bytes, &Place { offset: 8, ..place() }).is_none());
        assert!(Raw::check(&bytes, &Place { log: 4, ..place() }).is_none());
        let other = Identity::plain([8; 16], RepositorySalt([0; 32]));
        assert!(Raw::check(&bytes, &Place { store: &other, ..place() }).is_none());
    }
}
