//! Reading segments: opening, point reads, and a bounded set of open files.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};

use super::Error;
use super::fs::{Access, Disk, File};
use super::identity::Identity;
use super::keys::Epoch;
use super::layout::{
    ENTRY_BYTES, Entry, HeaderFault, MAX_STORED_BYTES, RECORD_HEADER_BYTES, RecordHeader,
    SEGMENT_HEADER_BYTES, SegmentId, StoreUuid, TRAILER_BYTES, Trailer, check_segment_header,
};
use super::map::Map;
use super::scan::{Scanner, Step, entry_of, open_payload};
use super::sync::Mutex;
use super::table::{Backing, Table};
use crate::block::{self, Block, Dictionary, StoredForm};

/// Segments kept open at once: below the usual limit of 1024 files of a process, with room for
/// connections and scratch files.
const MAX_OPEN_SEGMENTS: usize = 256;

/// Where a dictionary is to be had from.
pub(super) type FindDictionary<'a> = &'a dyn Fn(StoredForm) -> Option<Arc<Dictionary>>;

/// A segment open for reading.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) id: SegmentId,
    pub(super) file: Arc<dyn File>,
    identity: Identity,
    /// Present for sealed segments where maps are in use.
    map: Option<Arc<Map>>,
}

impl Segment {
    /// Opens a segment. Only sealed ones may be mapped. A damaged header is no reason to give up the
    /// blocks behind it, whose own headers say which store and segment they are of.
    pub(super) fn open(
        disk: &dyn Disk,
        path: &Path,
        identity: &Identity,
        id: SegmentId,
        map: bool,
    ) -> Result<Self, Error> {
        let file = disk.open(path, Access::Read).map_err(|error| {
            if error.is_not_found() {
                Error::SegmentGone { segment: id, path: path.to_owned() }
            } else {
                Error::from(error)
            }
        })?;
        match check_header(&*file, identity, id) {
            Err(Error::Damaged { what, .. }) => tracing::warn!(segment = %id, what, "damage"),
            other => _ = other?,
        }
        let map = if map { Some(Arc::new(file.map(file.size()?)?)) } else { None };
        Ok(Self { id, file, identity: identity.clone(), map })
    }

    fn damaged(&self, offset: u64, what: &'static str) -> Error {
        Error::Damaged { path: self.file.path().to_owned(), offset, what }
    }

    /// The data key that its records are sealed with; none if its header cannot tell.
    pub(super) fn epoch(&self) -> Result<Option<Epoch>, Error> {
        match check_header(&*self.file, &self.identity, self.id) {
            Err(Error::Damaged { .. }) => Ok(None),
            other => other.map(Some),
        }
    }

    /// Reads the block of an entry and checks it against its name. One that names other blocks needs no dictionary.
    pub(super) fn read(&self, entry: &Entry) -> Result<Block, Error> {
        self.read_with(entry, &|_| None)
    }

    /// Reads any block, with the dictionary that it was compressed with.
    pub(super) fn read_with(
        &self,
        entry: &Entry,
        dictionary: FindDictionary<'_>,
    ) -> Result<Block, Error> {
        let Some(map) = &self.map else {
            return check_record(&self.identity, entry, &self.record(entry)?, dictionary);
        };
        let len = self.record_len(entry)?;
        let from = usize::try_from(entry.offset).map_err(|_| self.damaged(0, "no such offset"))?;
        let record = map.get(from..from + len);
        let record = record.ok_or_else(|| self.damaged(entry.offset, "past the end"))?;
        check_record(&self.identity, entry, record, dictionary)
    }

    /// Reads the record of an entry as it stands in the file.
    pub(super) fn record(&self, entry: &Entry) -> Result<Vec<u8>, Error> {
        let mut record = vec![0; self.record_len(entry)?];
        self.file.read_at(entry.offset, &mut record)?;
        Ok(record)
    }

    fn record_len(&self, entry: &Entry) -> Result<usize, Error> {
        if entry.stored_len as usize > MAX_STORED_BYTES {
            return Err(self.damaged(entry.offset, "an index entry names more than a record holds"));
        }
        Ok(RECORD_HEADER_BYTES + entry.stored_len as usize)
    }

    /// The form in which the block of an entry is stored.
    pub(super) fn form(&self, entry: &Entry) -> Result<StoredForm, Error> {
        let mut header = [0; RECORD_HEADER_BYTES];
        self.file.read_at(entry.offset, &mut header)?;
        let header = RecordHeader::decode(&header, &self.identity.uuid, self.id, entry.offset);
        header.map(|header| header.form).map_err(|what| self.damaged(entry.offset, what))
    }

    /// Reads the footer: its trailer and its table of entries, checked against their checksum.
    pub(super) fn footer(&self) -> Result<(Trailer, Table), Error> {
        let (trailer, _) = self.read_footer()?;
        let table = self.table(&trailer);
        Ok((trailer, table))
    }

    /// The same for who looks up every record: the table stays in memory, as it was read.
    pub(super) fn footer_in_memory(&self) -> Result<(Trailer, Table), Error> {
        let (trailer, entries) = self.read_footer()?;
        Ok((trailer, Table::new(Backing::Owned(entries), 0, trailer.count)))
    }

    fn read_footer(&self) -> Result<Footer, Error> {
        let footer = read_footer(&*self.file, &self.identity.uuid, self.id)?;
        footer.map_err(|(offset, what)| self.damaged(offset, what))
    }

    /// The footer's table, or, if the footer is damaged, one made from the records.
    pub(super) fn entries(&self) -> Result<(Option<Trailer>, Table), Error> {
        match self.footer() {
            Ok((trailer, table)) => Ok((Some(trailer), table)),
            Err(error @ (Error::Damaged { .. } | Error::Io(_))) => {
                tracing::warn!(segment = %self.id, %error, "damage; run `headstock fsck`");
                Ok((None, self.scan(self.file.size()?)?))
            }
            Err(error) => Err(error),
        }
    }

    /// A table made from the records before `limit`, in bytes. A damaged one, and one that cannot be read, is
    /// passed over: its own block is lost with it, which fsck tells, and no other but those that need it to be decompressed.
    pub(super) fn scan(&self, limit: u64) -> Result<Table, Error> {
        let limit = limit.min(self.file.size()?);
        let mut scanner = Scanner::new(Arc::clone(&self.file), self.identity.uuid, self.id, limit);
        let mut entries = Vec::new();
        loop {
            match scanner.step() {
                Step::Record { offset, header, .. } => {
                    entries.push(entry_of(self.id, offset, &header));
                }
                Step::End => break,
                Step::Unreadable { offset, error, .. } => {
                    tracing::warn!(segment = %self.id, offset, %error, "damage; run `headstock fsck`");
                    if !scanner.resync() {
                        break;
                    }
                }
                Step::Invalid { offset, what } => {
                    if !scanner.resync() {
                        break;
                    }
                    tracing::warn!(segment = %self.id, offset, what, "damage; run `headstock fsck`");
                }
            }
        }
        entries.sort_unstable_by_key(|entry| entry.id);
        Ok(Table::owned(&entries))
    }

    /// The table of entries that a trailer describes.
    pub(super) fn table(&self, trailer: &Trailer) -> Table {
        let backing = match &self.map {
            Some(map) => Backing::Map(Arc::clone(map)),
            None => Backing::without_map(Arc::clone(&self.file), trailer.count),
        };
        Table::new(backing, trailer.data_end, trailer.count)
    }
}

/// Restores the block of an entry from the bytes of its record, checked against its name.
pub(super) fn check_record(
    identity: &Identity,
    entry: &Entry,
    record: &[u8],
    dictionary: FindDictionary<'_>,
) -> Result<Block, Error> {
    let (header, payload) = record.split_at(RECORD_HEADER_BYTES);
    let damaged = |what| Error::Block(block::Error::Damaged { id: entry.id, what });
    let header = RecordHeader::decode(header, &identity.uuid, entry.segment, entry.offset)
        .map_err(damaged)?;
    let says = (header.id, header.stored_len, header.kind);
    if says != (entry.id, entry.stored_len, entry.kind) {
        return Err(damaged("the record is not the one its index entry names"));
    }
    let dictionary = if header.form == StoredForm::PLAIN { None } else { dictionary(header.form) };
    let raw = open_payload(identity, &header, payload, dictionary.as_deref())?;
    Ok(Block { kind: header.kind, bytes: raw })
}

/// Checks the header sector of a segment file. Returns the epoch of its records.
pub(super) fn check_header(
    file: &dyn File,
    identity: &Identity,
    id: SegmentId,
) -> Result<Epoch, Error> {
    let damaged = |what| Error::Damaged { path: file.path().to_owned(), offset: 0, what };
    if file.size()? < SEGMENT_HEADER_BYTES {
        return Err(damaged("the file is shorter than a segment header"));
    }
    let mut sector = vec![0; SEGMENT_HEADER_BYTES as usize];
    file.read_at(0, &mut sector)?;
    match check_segment_header(&sector, identity, id) {
        Ok(epoch) => Ok(epoch),
        Err(HeaderFault::Version(version)) => {
            Err(Error::UnknownVersion { path: file.path().to_owned(), version })
        }
        Err(fault) => Err(damaged(fault.what())),
    }
}

/// A trailer, and the bytes of the entries that it describes.
type Footer = (Trailer, Vec<u8>);

/// Reads the trailer and the entries of a segment file with a whole footer, or says where and why it has none.
pub(super) fn read_footer(
    file: &dyn File,
    store: &StoreUuid,
    id: SegmentId,
) -> Result<Result<Footer, (u64, &'static str)>, Error> {
    let size = file.size()?;
    let Some(at) = size.checked_sub(TRAILER_BYTES as u64) else {
        return Ok(Err((0, "the file is shorter than a footer")));
    };
    let mut bytes = [0; TRAILER_BYTES];
    file.read_at(at, &mut bytes)?;
    let trailer = match Trailer::decode(&bytes, store, id, size) {
        Ok(trailer) => trailer,
        Err(what) => return Ok(Err((at, what))),
    };
    let mut bytes = vec![0; (size - trailer.data_end) as usize];
    file.read_at(trailer.data_end, &mut bytes)?;
    let entries = trailer.count as usize * ENTRY_BYTES;
    let (listed, end) = bytes.split_at(entries);
    if !trailer.verify(listed, end) {
        return Ok(Err((trailer.data_end, "the footer's checksum differs")));
    }
    bytes.truncate(entries);
    Ok(Ok((trailer, bytes)))
}

/// The segments that are open, at most a bounded number.
#[derive(Debug)]
pub(super) struct Segments {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    identity: Identity,
    mmap: bool,
    open: Mutex<OpenSegments>,
}

#[derive(Debug, Default)]
struct OpenSegments {
    by_id: HashMap<SegmentId, (Arc<Segment>, u64)>,
    by_use: BTreeMap<u64, SegmentId>,
    /// Removed ones: whoever has just opened one is the last.
    removed: HashSet<SegmentId>,
    clock: u64,
}

impl OpenSegments {
    fn touch(&mut self, id: SegmentId) -> Option<Arc<Segment>> {
        self.clock += 1;
        let (segment, used) = self.by_id.get_mut(&id)?;
        self.by_use.remove(used);
        *used = self.clock;
        self.by_use.insert(self.clock, id);
        Some(Arc::clone(segment))
    }

    fn insert(&mut self, segment: Arc<Segment>) {
        self.clock += 1;
        let id = segment.id;
        if self.removed.contains(&id) {
            return;
        }
        if let Some((_, used)) = self.by_id.insert(id, (segment, self.clock)) {
            self.by_use.remove(&used);
        }
        self.by_use.insert(self.clock, id);
        while self.by_id.len() > MAX_OPEN_SEGMENTS
            && let Some((_, oldest)) = self.by_use.pop_first()
        {
            self.by_id.remove(&oldest);
        }
    }
}

impl Segments {
    pub(super) fn new(
        disk: Arc<dyn Disk>,
        store_dir: &Path,
        identity: Identity,
        mmap: bool,
    ) -> Self {
        let dir = directory(store_dir);
        Self { disk, dir, identity, mmap, open: Mutex::default() }
    }

    pub(super) fn path(&self, id: SegmentId) -> PathBuf {
        self.dir.join(id.file_name())
    }

    /// A sealed segment, opened if it is not open.
    pub(super) fn sealed(&self, id: SegmentId) -> Result<Arc<Segment>, Error> {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner).touch(id);
        if let Some(segment) = open {
            return Ok(segment);
        }
        let path = self.path(id);
        let segment = Arc::new(Segment::open(&*self.disk, &path, &self.identity, id, self.mmap)?);
        self.open.lock().unwrap_or_else(PoisonError::into_inner).insert(Arc::clone(&segment));
        Ok(segment)
    }

    /// A segment that may still be written, never mapped and not kept.
    pub(super) fn unsealed(&self, id: SegmentId) -> Result<Segment, Error> {
        Segment::open(&*self.disk, &self.path(id), &self.identity, id, false)
    }

    /// Forgets an open segment that is about to be removed.
    pub(super) fn forget(&self, id: SegmentId) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.removed.insert(id);
        if let Some((_, used)) = open.by_id.remove(&id) {
            open.by_use.remove(&used);
        }
    }
}

/// Where the segments of a store are.
pub(super) fn directory(store_dir: &Path) -> PathBuf {
    store_dir.join("segments")
}
