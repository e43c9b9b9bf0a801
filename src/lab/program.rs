//! Runs the `headstock` program as a user does: a child process, its output, its exit code.
//!
//! Children stand in process groups of their own and are watched like servers, so that neither an
//! interrupt at the terminal nor a killed test leaves one behind.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::process::{Watcher, signal_freeze};
use super::{Error, Result, temporary_folder};

/// No command of the lab works longer than this; one that does hangs.
const RUN_LIMIT: Duration = Duration::from_secs(600);
/// A daemon that flushes its head.
const STOP_LIMIT: Duration = Duration::from_secs(120);
/// How much of a log is quoted in an error.
const LOG_TAIL_BYTES: usize = 4_000;

/// The program to run.
pub struct Program {
    binary: PathBuf,
    watcher: Mutex<Watcher>,
    folder: TempDir,
    count: Mutex<u32>,
}

/// A child that goes on while the caller does other things.
pub struct Running {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Program {
    /// Names the binary.
    ///
    /// # Errors
    /// No temporary folder, or no shell for the watcher.
    pub fn new(binary: impl Into<PathBuf>) -> Result<Self> {
        let folder = temporary_folder(&std::env::temp_dir())?;
        let watcher = Mutex::new(Watcher::start(&[folder.path().to_path_buf()])?);
        Ok(Self { binary: binary.into(), watcher, folder, count: Mutex::new(0) })
    }

    /// Starts a child; its standard error goes to a log.
    ///
    /// # Errors
    /// The program cannot be started.
    pub fn spawn<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Result<Running> {
        self.start(arguments, Stdio::null())
    }

    /// Runs a child to its end; returns its standard output.
    ///
    /// # Errors
    /// The program cannot be started, hangs, or exits with anything but 0: [`Error::Program`].
    pub async fn run<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Result<String> {
        let running = self.start(arguments, Stdio::piped())?;
        let Running { name, child, log } = running;
        let id = child.id();
        let output = match timeout(RUN_LIMIT, child.wait_with_output()).await {
            Ok(output) => output.map_err(Error::io("wait for", &self.binary))?,
            Err(_) => return Err(failed(&name, None, &log)),
        };
        self.forget(id)?;
        if !output.status.success() {
            return Err(failed(&name, Some(output.status), &log));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs a child to its end; returns its standard output as JSON.
    ///
    /// # Errors
    /// As [`Program::run`], and output that is not JSON.
    pub async fn json<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Result<serde_json::Value> {
        let output = self.run(arguments).await?;
        serde_json::from_str(&output).map_err(|source| Error::Json { output, source })
    }

    /// Tells the watcher that a child is gone.
    fn forget(&self, id: Option<u32>) -> Result<()> {
        let mut watcher = self.watcher.lock().unwrap_or_else(PoisonError::into_inner);
        id.map_or(Ok(()), |id| watcher.tell('-', id))
    }

    fn start<S: AsRef<OsStr>>(&self, arguments: &[S], stdout: Stdio) -> Result<Running> {
        let number = {
            let mut count = self.count.lock().unwrap_or_else(PoisonError::into_inner);
            *count += 1;
            *count
        };
        let name = arguments.first().map_or_else(String::new, |first| {
            format!("headstock {}", first.as_ref().to_string_lossy())
        });
        let log = self.folder.path().join(format!("{number}.log"));
        let file = File::create(&log).map_err(Error::io("create", &log))?;
        let child = Command::new(&self.binary)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(file)
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(Error::io("start", &self.binary))?;
        if let Some(id) = child.id() {
            self.watcher.lock().unwrap_or_else(PoisonError::into_inner).tell('+', id)?;
        }
        Ok(Running { name, child, log })
    }
}

impl Running {
    /// Its process id, while it runs.
    pub fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// What it wrote to standard error so far.
    pub fn log(&self) -> String {
        tail(&self.log, usize::MAX)
    }

    /// Whether it still runs.
    ///
    /// # Errors
    /// The operating system does not say.
    pub fn is_running(&mut self) -> Result<bool> {
        let status = self.child.try_wait().map_err(Error::io("wait for", &self.log))?;
        Ok(status.is_none())
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// It hangs, or exits with anything but 0.
    pub async fn wait(mut self) -> Result<()> {
        self.ended(RUN_LIMIT).await
    }

    /// SIGTERM, and waits for its end.
    ///
    /// # Errors
    /// It hangs, or exits with anything but 0.
    pub async fn terminate(mut self) -> Result<()> {
        if let Some(pid) = self.child.id().and_then(|id| Pid::from_raw(id.cast_signed())) {
            kill_process(pid, Signal::TERM)
                .map_err(|errno| Error::io("stop", &self.log)(errno.into()))?;
        }
        self.ended(STOP_LIMIT).await
    }

    /// SIGSTOP: it lives, and does nothing until SIGCONT.
    ///
    /// # Errors
    /// The signal could not be sent.
    pub fn freeze(&self, is_frozen: bool) -> Result<()> {
        let Some(pid) = self.child.id().and_then(|id| Pid::from_raw(id.cast_signed())) else {
            return Ok(());
        };
        signal_freeze(pid, is_frozen).map_err(|errno| Error::io("freeze", &self.log)(errno.into()))
    }

    /// SIGKILL. True if that is what ended it, false if it had ended before.
    ///
    /// # Errors
    /// It had ended with anything but 0, or cannot be killed.
    pub async fn kill(mut self) -> Result<bool> {
        use std::os::unix::process::ExitStatusExt as _;
        self.child.start_kill().map_err(Error::io("kill", &self.log))?;
        let status = self.child.wait().await.map_err(Error::io("wait for", &self.log))?;
        match status.signal() {
            Some(signal) if signal == Signal::KILL.as_raw() => Ok(true),
            _ if status.success() => Ok(false),
            _ => Err(failed(&self.name, Some(status), &self.log)),
        }
    }

    async fn ended(&mut self, limit: Duration) -> Result<()> {
        match timeout(limit, self.child.wait()).await {
            Err(_) => Err(failed(&self.name, None, &self.log)),
            Ok(status) => {
                let status = status.map_err(Error::io("wait for", &self.log))?;
                if status.success() {
                    return Ok(());
                }
                Err(failed(&self.name, Some(status), &self.log))
            }
        }
    }
}

fn failed(name: &str, status: Option<ExitStatus>, log: &Path) -> Error {
    Error::Program { name: name.to_owned(), status, log: tail(log, LOG_TAIL_BYTES) }
}

fn tail(path: &Path, bytes_max: usize) -> String {
    let text = fs::read(path).unwrap_or_default();
    String::from_utf8_lossy(&text[text.len().saturating_sub(bytes_max)..]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn output_failure_and_kill_are_told_apart() {
        let shell = Program::new("sh").expect("program");
        let json = shell.json(&["-c", "echo '[1, 2]'"]).await.expect("json");
        assert_eq!(json, serde_json::json!([1, 2]));
        let error = shell.run(&["-c", "echo because >&2; exit 3"]).await.expect_err("exit 3");
        assert!(error.to_string().contains("because"), "{error}");
        let sleeping = shell.spawn(&["-c", "sleep 100"]).expect("spawn");
        assert!(sleeping.kill().await.expect("kill"));
        let mut ended = shell.spawn(&["-c", "true"]).expect("spawn");
        while ended.is_running().expect("ask") {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(!ended.kill().await.expect("ended by itself"));
    }
}
