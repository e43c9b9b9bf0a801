//! Sorted runs of changes on scratch.
//!
//! Owns files `changes-<random>` in the head's scratch directory. A run is written once, front to
//! back, and removed when its owner goes; it is never synced and nothing on it is the only copy of
//! anything, so a crash leaves at most a file that nobody reads. Every chunk has a checksum: scratch is
//! a disk like any other.
//!
//! A run is a sequence of chunks `length u32 | CRC-32 u32 | records`, numbers little-endian; beside an encrypted store, the records of a
//! chunk are sealed with a key of the run that is nowhere but in memory. A record:
//! `uuid 16 | incarnation u64 | key length u32 | key | tag u8 | body`, in order of (uuid, key).

use std::path::PathBuf;
use std::sync::Arc;

use bson::RawDocumentBuf;

use super::Error;
use super::catalog::Incarnation;
use super::change::{Change, Form, Missing, Pending};
use super::foreign;
use crate::crypt::{self, Cipher};
use crate::oplog::{Ts, Uuid};
use crate::store::fs::{Disk, File, RealDisk};
use crate::tree::Key;

/// Bytes after which a chunk is closed: what a lookup reads, and what each open run holds in
/// memory (more where one record is larger).
pub(super) const CHUNK_BYTES: usize = 64 << 10;
/// Bytes of the first key of each chunk kept in memory, enough to find it in nearly all cases.
const INDEX_KEY_BYTES: usize = 64;
/// Length and checksum before each chunk.
const CHUNK_HEADER_BYTES: usize = 8;

/// A change and what it changes.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Record {
    pub uuid: Uuid,
    pub key: Key,
    pub incarnation: Incarnation,
    pub change: Change,
}

#[derive(Debug)]
struct Chunk {
    uuid: Uuid,
    key_start: Vec<u8>,
    offset: u64,
}

/// Where runs go.
#[derive(Debug)]
pub(super) struct Scratch {
    pub dir: PathBuf,
    /// Whether they are encrypted.
    pub seals: bool,
}

/// A finished run.
#[derive(Debug)]
pub(super) struct Run {
    cipher: Option<Cipher>,
    file: Arc<dyn File>,
    chunks: Vec<Chunk>,
    /// Collections that it has records of, ascending.
    collections: Vec<Uuid>,
    bytes: u64,
}

impl Drop for Run {
    fn drop(&mut self) {
        // A file that stays is found and removed when the store is next opened.
        if let Err(error) = RealDisk.remove(self.file.path()) {
            tracing::warn!(%error, "a scratch file could not be removed");
        }
    }
}

impl Run {
    /// Writes a run from records in order.
    pub fn write(
        scratch: &Scratch,
        records: &mut dyn Iterator<Item = Result<Record, Error>>,
    ) -> Result<Self, Error> {
        let path = scratch.dir.join(format!("changes-{:016x}", rand::random::<u64>()));
        let file = RealDisk.create(&path)?;
        let cipher = scratch.seals.then(|| Cipher::new(&crypt::Key::random()));
        let mut run = Self { cipher, file, chunks: Vec::new(), collections: Vec::new(), bytes: 0 };
        let mut chunk = Vec::with_capacity(CHUNK_BYTES * 2);
        for record in records {
            let record = record?;
            if run.collections.last() != Some(&record.uuid) {
                run.collections.push(record.uuid);
            }
            if chunk.is_empty() {
                let key = record.key.as_bytes();
                let key_start = key[..key.len().min(INDEX_KEY_BYTES)].to_vec();
                run.chunks.push(Chunk { uuid: record.uuid, key_start, offset: run.bytes });
                chunk.extend_from_slice(&[0; CHUNK_HEADER_BYTES]);
            }
            encode(&record, &mut chunk);
            if chunk.len() >= CHUNK_BYTES {
                run.close(&mut chunk)?;
            }
        }
        if !chunk.is_empty() {
            run.close(&mut chunk)?;
        }
        Ok(run)
    }

    fn close(&mut self, chunk: &mut Vec<u8>) -> Result<(), Error> {
        if let Some(cipher) = &self.cipher {
            let plain = chunk.split_off(CHUNK_HEADER_BYTES);
            cipher.seal(&self.bytes.to_le_bytes(), &plain, chunk);
        }
        let (header, body) = chunk.split_at_mut(CHUNK_HEADER_BYTES);
        let len = u32::try_from(body.len()).map_err(|_| self.damaged(self.bytes, "chunk size"))?;
        header[..4].copy_from_slice(&len.to_le_bytes());
        header[4..].copy_from_slice(&crc32fast::hash(body).to_le_bytes());
        self.file.write_at(self.bytes, chunk)?;
        self.bytes += chunk.len() as u64;
        chunk.clear();
        Ok(())
    }

    /// Length of the file.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Collections that it has records of, ascending.
    pub fn collections(&self) -> &[Uuid] {
        &self.collections
    }

    /// What is kept of the keys that chunks of a collection begin with.
    pub fn starts(&self, uuid: Uuid) -> impl Iterator<Item = Key> {
        let chunks = self.chunks.iter().filter(move |chunk| chunk.uuid == uuid);
        chunks.map(|chunk| Key::from_encoded(chunk.key_start.clone()))
    }

    /// Reads from the front.
    pub fn records(self: &Arc<Self>) -> Records {
        Records { run: Arc::clone(self), chunk: 0, body: Vec::new(), at: 0 }
    }

    /// Reads the records of a collection from a key on, which may be a prefix of one, up to another.
    pub fn range(self: &Arc<Self>, uuid: Uuid, from: Key, to: Option<Key>) -> Range {
        let start = &from.as_bytes()[..from.as_bytes().len().min(INDEX_KEY_BYTES)];
        // Chunks whose first key starts like this one may begin before or after it.
        let below =
            self.chunks.partition_point(|chunk| (chunk.uuid, &chunk.key_start[..]) < (uuid, start));
        let mut records = self.records();
        records.chunk = below.saturating_sub(1);
        Range { records, uuid, from, to }
    }

    /// The record of one key.
    pub fn get(self: &Arc<Self>, uuid: Uuid, key: &Key) -> Result<Option<Record>, Error> {
        let first = self.range(uuid, key.clone(), None).next().transpose()?;
        Ok(first.filter(|record| record.key == *key))
    }

    fn damaged(&self, offset: u64, what: &'static str) -> Error {
        Error::ScratchDamaged { path: self.file.path().to_owned(), offset, what }
    }

    fn read_chunk(&self, chunk: &Chunk, body: &mut Vec<u8>) -> Result<(), Error> {
        let mut header = [0; CHUNK_HEADER_BYTES];
        self.file.read_at(chunk.offset, &mut header)?;
        let [l0, l1, l2, l3, c0, c1, c2, c3] = header;
        let len = u32::from_le_bytes([l0, l1, l2, l3]);
        let start = chunk.offset + CHUNK_HEADER_BYTES as u64;
        if start + u64::from(len) > self.bytes {
            return Err(self.damaged(chunk.offset, "chunk length"));
        }
        body.resize(len as usize, 0);
        self.file.read_at(start, body)?;
        if crc32fast::hash(body) != u32::from_le_bytes([c0, c1, c2, c3]) {
            return Err(self.damaged(chunk.offset, "checksum"));
        }
        if let Some(cipher) = &self.cipher {
            let plain = cipher.open(&chunk.offset.to_le_bytes(), body);
            *body = plain.ok_or_else(|| self.damaged(chunk.offset, "seal"))?;
        }
        Ok(())
    }
}

/// The records of a run, in order.
#[derive(Debug)]
pub(super) struct Records {
    run: Arc<Run>,
    chunk: usize,
    body: Vec<u8>,
    at: usize,
}

impl Records {
    fn read(&mut self) -> Result<Option<Record>, Error> {
        if self.at == self.body.len() {
            let Some(chunk) = self.run.chunks.get(self.chunk) else { return Ok(None) };
            self.run.read_chunk(chunk, &mut self.body)?;
            self.chunk += 1;
            self.at = 0;
        }
        let mut rest = &self.body[self.at..];
        match decode(&mut rest) {
            Some(record) => {
                self.at = self.body.len() - rest.len();
                Ok(Some(record))
            }
            None => Err(self.run.damaged(self.run.chunks[self.chunk - 1].offset, "record")),
        }
    }
}

impl Iterator for Records {
    type Item = Result<Record, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read().transpose()
    }
}

/// The records of a range of keys, in order.
#[derive(Debug)]
pub(super) struct Range {
    records: Records,
    uuid: Uuid,
    from: Key,
    to: Option<Key>,
}

impl Iterator for Range {
    type Item = Result<Record, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let record = match self.records.next()? {
                Ok(record) => record,
                failed => return Some(failed),
            };
            if (record.uuid, &record.key) < (self.uuid, &self.from) {
                continue;
            }
            let within = self.to.as_ref().is_none_or(|to| record.key < *to);
            return (record.uuid == self.uuid && within).then_some(Ok(record));
        }
    }
}

const TAG_PUT: u8 = 1;
const TAG_DELETE: u8 = 2;
const TAG_UPDATES: u8 = 3;

fn encode(record: &Record, out: &mut Vec<u8>) {
    out.extend_from_slice(&record.uuid.0);
    out.extend_from_slice(&record.incarnation.0.to_le_bytes());
    let key = record.key.as_bytes();
    out.extend_from_slice(&length(key.len()).to_le_bytes());
    out.extend_from_slice(key);
    match &record.change {
        Change::Put(document) => {
            out.push(TAG_PUT);
            out.extend_from_slice(document.as_bytes());
        }
        Change::Delete => out.push(TAG_DELETE),
        Change::Updates(pending) => {
            out.push(TAG_UPDATES);
            out.extend_from_slice(&length(pending.len()).to_le_bytes());
            pending.iter().for_each(|update| encode_update(update, out));
        }
    }
}

/// Keys and documents are bounded far below 4 GiB by the server's limits.
fn length(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

fn encode_update(update: &Pending, out: &mut Vec<u8>) {
    out.push(match update.form {
        Form::Replace => 0,
        Form::V1 => 1,
        Form::V2 => 2,
    });
    out.push(match update.missing {
        Missing::Skip => 0,
        Missing::Create => 1,
        Missing::Surprise => 2,
    });
    out.extend_from_slice(&update.ts.secs.to_le_bytes());
    out.extend_from_slice(&update.ts.inc.to_le_bytes());
    out.extend_from_slice(update.id.as_bytes());
    out.extend_from_slice(update.body.as_bytes());
}

fn decode(rest: &mut &[u8]) -> Option<Record> {
    let uuid = Uuid(take(rest)?);
    let incarnation = Incarnation(u64::from_le_bytes(take(rest)?));
    let key_len = u32::from_le_bytes(take(rest)?) as usize;
    let (key, tail) = rest.split_at_checked(key_len)?;
    let key = Key::from_encoded(key.to_vec());
    *rest = tail;
    let change = match take::<1>(rest)? {
        [TAG_PUT] => Change::Put(document(rest)?),
        [TAG_DELETE] => Change::Delete,
        [TAG_UPDATES] => {
            let count = u32::from_le_bytes(take(rest)?);
            Change::Updates((0..count).map(|_| decode_update(rest)).collect::<Option<_>>()?)
        }
        _ => return None,
    };
    Some(Record { uuid, key, incarnation, change })
}

fn decode_update(rest: &mut &[u8]) -> Option<Pending> {
    let form = match take::<1>(rest)? {
        [0] => Form::Replace,
        [1] => Form::V1,
        [2] => Form::V2,
        _ => return None,
    };
    let missing = match take::<1>(rest)? {
        [0] => Missing::Skip,
        [1] => Missing::Create,
        [2] => Missing::Surprise,
        _ => return None,
    };
    let (secs, inc) = (u32::from_le_bytes(take(rest)?), u32::from_le_bytes(take(rest)?));
    let id = document(rest)?;
    Some(Pending { form, missing, ts: Ts { secs, inc }, id, body: document(rest)? })
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, tail) = rest.split_first_chunk::<N>()?;
    *rest = tail;
    Some(*taken)
}

fn document(rest: &mut &[u8]) -> Option<RawDocumentBuf> {
    let (document, tail) = foreign::split(rest)?;
    *rest = tail;
    Some(document.to_owned())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use bson::raw::RawBsonRef;
    use bson::rawdoc;

    use super::*;

    /// Keys that differ only far behind what the index holds of them.
    fn record(n: usize) -> Record {
        let id = format!("{}{n:06}", "p".repeat(100));
        let key = Key::of_value(RawBsonRef::String(&id)).expect("a key");
        let update = Pending {
            form: Form::V2,
            missing: Missing::Surprise,
            ts: Ts { secs: 7, inc: 8 },
            id: rawdoc! { "_id": id.as_str() },
            body: rawdoc! { "u": { "a": 1 } },
        };
        let change = match n % 3 {
            0 => Change::Put(rawdoc! { "_id": id, "fill": "f".repeat(300) }),
            1 => Change::Delete,
            _ => Change::Updates(vec![update.clone(), update]),
        };
        Record { uuid: Uuid([(n / 1000) as u8; 16]), key, incarnation: Incarnation(5), change }
    }

    fn run(dir: &Path, seals: bool) -> Arc<Run> {
        let scratch = Scratch { dir: dir.to_owned(), seals };
        let mut records = (0..3000).filter(|n| n % 2 == 0).map(|n| Ok(record(n)));
        Arc::new(Run::write(&scratch, &mut records).expect("written"))
    }

    #[test]
    fn reads_back_in_order_and_by_key() {
        [false, true].into_iter().for_each(reads_back);
    }

    fn reads_back(seals: bool) {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let run = run(directory.path(), seals);
        let file = std::fs::read(run.file.path()).expect("read");
        assert_eq!(file.windows(9).any(|some| some == b"fffffffff"), !seals);
        assert!(run.chunks.len() > 5, "{} chunks", run.chunks.len());
        let all: Vec<Record> = run.records().map(|record| record.expect("whole")).collect();
        assert!(all.iter().eq((0..3000).step_by(2).map(record).collect::<Vec<_>>().iter()));
        for n in 0..3000 {
            let record = record(n);
            let found = run.get(record.uuid, &record.key).expect("whole");
            assert_eq!(found, (n % 2 == 0).then_some(record), "{n}");
        }
        drop(run);
        assert_eq!(std::fs::read_dir(directory.path()).expect("listed").count(), 0);
    }

    #[test]
    fn damage_is_found() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let run = run(directory.path(), false);
        let mut byte = [0];
        run.file.read_at(run.bytes / 2, &mut byte).expect("read");
        run.file.write_at(run.bytes / 2, &[byte[0] ^ 1]).expect("written");
        let failed = run.records().find_map(Result::err).expect("damage");
        assert!(matches!(failed, Error::ScratchDamaged { .. }), "{failed}");
    }
}
