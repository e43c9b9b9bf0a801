//! Signals that ask a command to end.

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::Error;

/// Listens for SIGTERM and SIGINT, which then no longer end the process by themselves.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Starts listening.
    ///
    /// # Errors
    /// [`Error::Signals`].
    pub fn listen() -> Result<Self, Error> {
        let listen = |kind| signal(kind).map_err(|source| Error::Signals { source });
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
        })
    }

    /// Does work to its end, and has it asked to stop when one of them comes.
    pub async fn over<T>(&mut self, work: impl Future<Output = T>, stop: impl FnOnce()) -> T {
        tokio::pin!(work);
        tokio::select! {
            done = &mut work => done,
            () = self.stop() => {
                stop();
                work.await
            }
        }
    }

    /// Returns when one of them has come.
    pub async fn stop(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
