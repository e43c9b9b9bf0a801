//! How a restore tells what it is doing, and how it is told to stop.

use std::fmt;
use std::sync::Arc;

use tokio::sync::watch;

/// What a restore is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Phase {
    /// Bringing blocks from a blockstore. Counts blocks and their raw bytes.
    Fetch,
    /// Reading and hashing every block that is needed. Counts blocks' raw bytes.
    CheckBlocks,
    /// Applying oplog slices over the base snapshot. Counts entries and their bytes.
    ApplySlices,
    /// Sweeping the applied changes into scratch trees. Counts nothing.
    Sweep,
    /// Bringing the backup's newest state to that of the target. Counts nothing.
    CatchUp,
    /// Finding what differs between a target and the point. Counts nothing.
    Differ,
    /// Writing documents to the target. Counts documents and their bytes.
    Load,
    /// Building indexes at the target. Counts indexes as documents, no bytes.
    BuildIndexes,
    /// Comparing the target with the backup. Counts documents and their bytes.
    Compare,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fetch => "fetching blocks",
            Self::CheckBlocks => "checking blocks",
            Self::ApplySlices => "applying oplog slices",
            Self::Sweep => "sweeping changes",
            Self::CatchUp => "catching up with the target",
            Self::Differ => "finding what differs",
            Self::Load => "loading documents",
            Self::BuildIndexes => "building indexes",
            Self::Compare => "comparing with the backup",
        })
    }
}

/// An amount of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Amount {
    /// Documents, entries, or whatever the [`Phase`] counts.
    pub documents: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Hears how a restore goes on. Called from many threads; must return quickly.
pub trait Progress: Send + Sync {
    /// A phase begins; `total` is what it will amount to, as far as known (zero: not known).
    fn begin(&self, phase: Phase, total: Amount);

    /// The current phase has done so much more.
    fn advance(&self, done: Amount);

    /// Something the user should read: a collection begun, a thing left out, TTL active again.
    fn note(&self, text: &str);
}

/// Hears and forgets.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn begin(&self, _phase: Phase, _total: Amount) {}
    fn advance(&self, _done: Amount) {}
    fn note(&self, _text: &str) {}
}

/// A request to stop, shared by whoever may ask and all that must obey. A stopped restore leaves
/// its marker at the target.
#[derive(Debug, Clone)]
pub struct Cancel {
    asked: Arc<watch::Sender<bool>>,
}

impl Cancel {
    /// A request not made yet.
    #[must_use]
    pub fn new() -> Self {
        Self { asked: Arc::new(watch::Sender::new(false)) }
    }

    /// Makes the request.
    pub fn cancel(&self) {
        self.asked.send_replace(true);
    }

    /// Whether the request has been made.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        *self.asked.borrow()
    }

    /// Returns once the request has been made.
    pub async fn cancelled(&self) {
        let mut heard = self.asked.subscribe();
        // An error means that the sender is gone, and it lives as long as `self`.
        let _ = heard.wait_for(|asked| *asked).await;
    }
}

impl Default for Cancel {
    fn default() -> Self {
        Self::new()
    }
}
