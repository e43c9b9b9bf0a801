//! A file of the simulated disk: its durable bytes, and what was done to it since.

use super::Survives;

/// Number of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct NodeId(pub u64);

/// A file.
#[derive(Debug, Clone, Default)]
pub(super) struct Node {
    durable: Vec<u8>,
    content: Vec<u8>,
    unsynced: Vec<Unsynced>,
    /// Which open file holds the lock.
    lock: Option<usize>,
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
    pub fn durable(content: Vec<u8>) -> Self {
        Self { durable: content.clone(), content, ..Self::default() }
    }

    /// What is read from it.
    pub fn content(&self) -> &[u8] {
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
    fn apply(&self, content: &mut Vec<u8>, survives: Survives) {
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
                let offset = *offset as usize;
                let (from, to) = (offset + part.start, offset + part.end);
                set_len(content, content.len().max(to));
                content[from..to].copy_from_slice(&bytes[part]);
            }
            Self::SetSize(bytes) => {
                if matches!(survives, Survives::Whole | Survives::AllBut(_)) {
                    set_len(content, *bytes as usize);
                }
            }
        }
    }
}

/// Cuts, or extends by zeros: fast without optimisation too.
fn set_len(content: &mut Vec<u8>, len: usize) {
    if len <= content.len() {
        content.truncate(len);
        return;
    }
    let mut longer = vec![0; len];
    longer[..content.len()].copy_from_slice(content);
    *content = longer;
}
