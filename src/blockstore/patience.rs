//! Going on after failures of the connection.

use std::time::Duration;

use super::Error;

/// Failures in a row that are borne: each may have waited for a primary already.
const FAILURES_MAX: u32 = 4;
/// The pause after a failure, times its number.
const PAUSE: Duration = Duration::from_secs(1);

/// Counts failures of something that does no harm when it is done again (page 09, section 2.4). The driver tries once more by itself, but
/// not all that there is, and not for as long as a set may be without a primary; and what would end with it has cost hours.
#[derive(Debug, Default)]
pub struct Patience {
    failures: u32,
}

impl Patience {
    /// Waits for a while after a failure.
    ///
    /// # Errors
    /// The same, if it is not of the connection or comes once too often.
    pub async fn after(&mut self, failure: Error) -> Result<(), Error> {
        if !failure.is_of_connection() || self.failures == FAILURES_MAX {
            return Err(failure);
        }
        self.failures += 1;
        tracing::debug!(error = %failure, "asked again");
        tokio::time::sleep(PAUSE * self.failures).await;
        Ok(())
    }
}
