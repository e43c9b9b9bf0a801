//! A data directory that a mongod opens at once.
//!
//! A mongod of the user's runs stand-alone on the directory, so that it writes no oplog, and listens on a
//! socket that only this user can open; the restore goes into it as into any server, and it is shut
//! down cleanly. Until then the directory has its partial name (see [`super::files`]).

use std::ffi::OsString;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::process::{Child, Command};

use super::live::{Done, Live};
use super::{Error, Restore, files};

/// How long a mongod may take to answer on an empty directory.
const START_TIMEOUT: Duration = Duration::from_secs(120);
/// How long a mongod may take to write everything out and end.
const STOP_TIMEOUT: Duration = Duration::from_secs(600);
/// Time between two looks at a server that starts.
const START_PAUSE: Duration = Duration::from_millis(100);
/// How much of its log an error shows, in bytes.
const LOG_TAIL_BYTES: u64 = 2 << 10;

/// The mongod named, else `$MONGOD`, else the one on `PATH`.
pub(super) fn find_mongod(named: Option<&Path>) -> Result<PathBuf, Error> {
    let from_environment = || {
        let named = std::env::var_os("MONGOD").filter(|path: &OsString| !path.is_empty())?;
        Some(PathBuf::from(named))
    };
    let on_path = || {
        let path = std::env::var_os("PATH")?;
        std::env::split_paths(&path).map(|dir| dir.join("mongod")).find(|file| file.is_file())
    };
    let found = named.map(Path::to_path_buf).or_else(from_environment).or_else(on_path);
    found.ok_or(Error::NoMongod)
}

/// The version a mongod says it has.
pub(super) fn version(mongod: &Path) -> Result<String, Error> {
    let output = std::process::Command::new(mongod).arg("--version").output();
    let output = output.map_err(Error::io("run", mongod))?;
    let said = String::from_utf8_lossy(&output.stdout);
    let version = said.lines().find_map(|line| line.strip_prefix("db version v"));
    version.map(|version| version.trim().to_owned()).ok_or_else(|| Error::Mongod {
        binary: mongod.to_path_buf(),
        what: "did not tell its version",
        log: [&*said, &*String::from_utf8_lossy(&output.stderr)]
            .iter()
            .find_map(|text| text.lines().find(|line| !line.is_empty()))
            .unwrap_or_default()
            .to_owned(),
    })
}

/// Builds the directory.
pub(super) async fn restore(restore: &Restore, dir: &Path, mongod: &Path) -> Result<Done, Error> {
    let partial = files::partial(dir);
    refuse_running(&partial, mongod)?;
    files::begin(dir)?;
    std::fs::create_dir(&partial).map_err(Error::io("create", &partial))?;
    let mut server = Server::start(mongod, &partial).await?;
    let live = server.connect(restore).await?;
    let done = live.restore(&restore.work()).await?;
    live.shut_down().await;
    server.stopped().await?;
    files::finish(&partial, dir)?;
    Ok(done)
}

/// A run that was killed may have left its mongod working on the directory.
fn refuse_running(partial: &Path, mongod: &Path) -> Result<(), Error> {
    let lock = std::fs::read_to_string(partial.join("mongod.lock")).unwrap_or_default();
    let pid = lock.trim();
    if pid.is_empty() {
        return Ok(());
    }
    let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    if String::from_utf8_lossy(&command).contains(&*partial.to_string_lossy()) {
        return Err(Error::Mongod {
            binary: mongod.to_path_buf(),
            what: "of an earlier run still works on the directory: end that process first",
            log: format!("process {pid}"),
        });
    }
    Ok(())
}

/// A mongod at work on a directory. Ends with this value, cleanly or not.
struct Server {
    binary: PathBuf,
    child: Child,
    /// Socket and log; gone with this value.
    run: TempDir,
}

impl Server {
    async fn start(binary: &Path, data: &Path) -> Result<Self, Error> {
        let run = tempfile::Builder::new().prefix("headstock-").tempdir();
        let run = run.map_err(Error::io("create a directory in", std::env::temp_dir()))?;
        let child = Command::new(binary)
            .arg("--dbpath")
            .arg(data)
            .arg("--bind_ip")
            .arg(run.path().join("mongod.sock"))
            .arg("--unixSocketPrefix")
            .arg(run.path())
            .arg("--logpath")
            .arg(run.path().join("mongod.log"))
            // Nothing may expire while it is restored; the setting is gone with the process.
            .args(["--setParameter", "ttlMonitorEnabled=false"])
            .args(["--setParameter", "diagnosticDataCollectionEnabled=false"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .map_err(Error::io("run", binary))?;
        Ok(Self { binary: binary.to_path_buf(), child, run })
    }

    async fn connect(&mut self, restore: &Restore) -> Result<Live, Error> {
        let socket = self.run.path().join("mongod.sock");
        let deadline = Instant::now() + START_TIMEOUT;
        while !socket.exists() {
            if restore.cancel.is_cancelled() {
                return Err(Error::Cancelled);
            }
            if self.ended()?.is_some() || Instant::now() > deadline {
                return Err(self.failed("did not start"));
            }
            tokio::time::sleep(START_PAUSE).await;
        }
        let host = socket.to_string_lossy().replace('%', "%25").replace('/', "%2F");
        let uri = format!("mongodb://{host}/?directConnection=true");
        Live::connect(&uri, restore.progress.clone(), restore.cancel.clone()).await
    }

    /// Waits for the end of a server that was told to shut down.
    async fn stopped(mut self) -> Result<(), Error> {
        let status = tokio::time::timeout(STOP_TIMEOUT, self.child.wait()).await;
        match status {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(_)) => Err(self.failed("did not shut down cleanly")),
            Ok(Err(why)) => Err(Error::io("wait for", &self.binary)(why)),
            Err(_) => Err(self.failed("did not shut down in time")),
        }
    }

    fn ended(&mut self) -> Result<Option<ExitStatus>, Error> {
        self.child.try_wait().map_err(Error::io("look at", &self.binary))
    }

    fn failed(&self, what: &'static str) -> Error {
        Error::Mongod { binary: self.binary.clone(), what, log: self.log_tail() }
    }

    fn log_tail(&self) -> String {
        let read = || {
            let mut log = std::fs::File::open(self.run.path().join("mongod.log"))?;
            let length = log.metadata()?.len();
            log.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL_BYTES)))?;
            let mut tail = Vec::new();
            log.read_to_end(&mut tail)?;
            Ok::<_, std::io::Error>(tail)
        };
        match read() {
            Ok(tail) => String::from_utf8_lossy(&tail).into_owned(),
            Err(why) => format!("there is none: {why}"),
        }
    }
}
