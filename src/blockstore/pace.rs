//! How fast blocks may be sent or read.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::source::Bucket;

/// A limit in bytes per second, or none. Cheap to clone; every clone shares the limit.
#[derive(Debug, Clone, Default)]
pub struct Pace {
    limit: Option<Arc<Mutex<Bucket>>>,
}

impl Pace {
    /// At most so many bytes per second; without bound if none.
    #[must_use]
    pub fn new(bytes_per_second: Option<u64>) -> Self {
        let bucket = |limit| Arc::new(Mutex::new(Bucket::new(limit, Instant::now())));
        Self { limit: bytes_per_second.map(bucket) }
    }

    /// Waits until nothing is owed to the limit, and counts these bytes then.
    pub async fn wait(&self, bytes: u64) {
        let Some(limit) = &self.limit else { return };
        loop {
            let owed = {
                let mut bucket = lock(limit);
                let owed = bucket.owed(Instant::now());
                if owed.is_none() {
                    bucket.take(bytes, Instant::now());
                }
                owed
            };
            match owed {
                Some(owed) => tokio::time::sleep(owed).await,
                None => return,
            }
        }
    }
}

fn lock(limit: &Mutex<Bucket>) -> MutexGuard<'_, Bucket> {
    limit.lock().unwrap_or_else(PoisonError::into_inner)
}
