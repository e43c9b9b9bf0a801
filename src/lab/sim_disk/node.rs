//! A file of the simulated disk: its durable bytes, and what was done to it since.

use super::Survives;

/// Number of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct NodeId(pub u64);

/// A file.
#[derive(Debug, Clone, Default)]
pub(super) struct Node {
    durable: Bytes,
    content: Bytes,
    unsynced: Vec<Unsynced>,
    /// Which open file holds the lock.
    lock: Option<usize>,
}

/// Bytes of which those behind the last that was written are zeros: space is allocated far ahead.
#[derive(Debug, Clone, Default)]
pub(super) struct Bytes {
    written: Vec<u8>,
    len: usize,
}

impl Bytes {
    pub fn of(written: Vec<u8>) -> Self {
        let len = written.len();
        Self { written, len }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn to_vec(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.len];
        bytes[..self.written.len()].copy_from_slice(&self.written);
        bytes
    }

    /// Fills a buffer from an offset; false if there are not so many.
    pub fn read(&self, offset: usize, buffer: &mut [u8]) -> bool {
        if offset.checked_add(buffer.len()).is_none_or(|end| end > self.len) {
            return false;
        }
        let written = self.written.get(offset..).unwrap_or_default();
        let (copied, zeros) = buffer.split_at_mut(written.len().min(buffer.len()));
        copied.copy_from_slice(&written[..copied.len()]);
        zeros.fill(0);
        true
    }

    fn write(&mut self, offset: usize, bytes: &[u8]) {
        let end = offset + bytes.len();
        if end > self.written.len() {
            self.written.resize(end, 0);
        }
        self.written[offset..end].copy_from_slice(bytes);
        self.len = self.len.max(end);
    }

    fn set_len(&mut self, len: usize) {
        self.written.truncate(len);
        self.len = len;
    }
}

/// What was done since the last sync.
#[derive(Debug, Clone)]
struct Unsynced {
    number: u64,
    change: Change,
    /// Whether a sync of it failed: no other will make it durable.
    given_up: bool,
}

#[derive(Debug, Clone)]
enum Change {
    Write { offset: u64, bytes: Vec<u8> },
    SetSize(u64),
}

impl Node {
    /// A file whose bytes are durable.
    pub fn durable(content: Bytes) -> Self {
        Self { durable: content.clone(), content, ..Self::default() }
    }

    /// What is read from it.
    pub fn content(&self) -> &Bytes {
        &self.content
    }

    pub fn write(&mut self, offset: u64, bytes: &[u8], number: u64) {
        self.push(Change::Write { offset, bytes: bytes.to_vec() }, number);
    }

    pub fn set_size(&mut self, bytes: u64, number: u64) {
        self.push(Change::SetSize(bytes), number);
    }

    fn push(&mut self, change: Change, number: u64) {
        change.apply(&mut self.content, Survives::Whole);
        self.unsynced.push(Unsynced { number, change, given_up: false });
    }

    pub fn sync(&mut self) {
        for one in self.unsynced.extract_if(.., |one| !one.given_up) {
            one.change.apply(&mut self.durable, Survives::Whole);
        }
    }

    /// Bytes are given up; lengths stand in the file system's journal.
    pub fn fail_sync(&mut self) {
        let writes =
            self.unsynced.iter_mut().filter(|one| matches!(one.change, Change::Write { .. }));
        writes.for_each(|one| one.given_up = true);
    }

    /// Numbers of what is not durable, and lengths of writes.
    pub fn unsynced(&self) -> impl Iterator<Item = (u64, Option<usize>)> {
        self.unsynced.iter().map(|one| match &one.change {
            Change::Write { bytes, .. } => (one.number, Some(bytes.len())),
            Change::SetSize(_) => (one.number, None),
        })
    }

    pub fn after_a_cut(&self, fate: impl Fn(u64) -> Survives) -> Self {
        let mut content = self.durable.clone();
        for one in &self.unsynced {
            one.change.apply(&mut content, fate(one.number));
        }
        Self::durable(content)
    }

    /// Takes the lock for an open file unless another has it.
    pub fn lock(&mut self, holder: usize) -> bool {
        *self.lock.get_or_insert(holder) == holder
    }

    pub fn unlock(&mut self, holder: usize) {
        self.lock.take_if(|held| *held == holder);
    }
}

impl Change {
    fn apply(&self, content: &mut Bytes, survives: Survives) {
        match self {
            Self::Write { offset, bytes } => {
                let part = match survives {
                    Survives::Nothing => 0..0,
                    Survives::Whole => 0..bytes.len(),
                    Survives::First(cut) => 0..cut.min(bytes.len()),
                    Survives::AllBut(cut) => cut.min(bytes.len())..bytes.len(),
                };
                if part.is_empty() {
                    return;
                }
                content.write(*offset as usize + part.start, &bytes[part]);
            }
            Self::SetSize(bytes) => {
                if matches!(survives, Survives::Whole | Survives::AllBut(_)) {
                    content.set_len(*bytes as usize);
                }
            }
        }
    }
}
