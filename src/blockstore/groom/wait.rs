//! Waiting for the writing sessions of before.

use std::time::Duration;

use super::Groom;
use crate::blockstore::Error;
use crate::blockstore::reaper::Reaper;

/// Time between looks.
const LOOK_EVERY: Duration = Duration::from_millis(500);

impl Groom {
    /// Returns when no writing session is left that may rely on blocks with a lower stamp than the generation.
    pub(super) async fn wait(&self) -> Result<(), Error> {
        let mut reaper = Reaper::default();
        loop {
            self.check()?;
            let living = reaper.look(&self.connection).await?;
            let older = living.iter().filter(|one| one.is_before(self.generation)).count() as u64;
            if older == 0 {
                return Ok(());
            }
            self.progress.waiting(older);
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}
