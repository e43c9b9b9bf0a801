//! How fast blocks may be sent.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A limit in bytes per second, or none. Cheap to clone; every clone shares the limit.
#[derive(Debug, Clone, Default)]
pub struct Pace {
    limit: Option<Arc<Limit>>,
}

#[derive(Debug)]
struct Limit {
    bytes_per_second: u64,
    /// When what was let through so far is over.
    free_at: Mutex<Option<Instant>>,
}

impl Pace {
    /// At most so many bytes per second; without bound if none.
    #[must_use]
    pub fn new(bytes_per_second: Option<u64>) -> Self {
        let limit = |bytes_per_second: u64| {
            let bytes_per_second = bytes_per_second.max(1);
            Arc::new(Limit { bytes_per_second, free_at: Mutex::default() })
        };
        Self { limit: bytes_per_second.map(limit) }
    }

    /// Waits until so many bytes may be sent.
    pub(super) async fn wait(&self, bytes: u64, now: Instant) {
        if let Some(limit) = &self.limit {
            tokio::time::sleep(limit.take(bytes, now)).await;
        }
    }
}

impl Limit {
    /// How long to wait before sending these.
    fn take(&self, bytes: u64, now: Instant) -> Duration {
        let mut free_at = self.free_at.lock().unwrap_or_else(PoisonError::into_inner);
        let begin = free_at.filter(|at| *at > now).unwrap_or(now);
        let lasts = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
        *free_at = Some(begin + lasts);
        begin - now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_let_through_takes_its_time() {
        let limit = Limit { bytes_per_second: 1000, free_at: Mutex::default() };
        let now = Instant::now();
        assert_eq!(limit.take(500, now), Duration::ZERO);
        assert_eq!(limit.take(1000, now), Duration::from_millis(500));
        assert_eq!(limit.take(1, now + Duration::from_secs(1)), Duration::from_millis(500));
        assert_eq!(limit.take(1, now + Duration::from_secs(9)), Duration::ZERO);
    }
}
