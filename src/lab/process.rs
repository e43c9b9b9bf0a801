//! Processes of servers that never outlive the process that started them.
//!
//! Each server is a child in a process group of its own. A watcher, a small shell script that is told
//! every process id over a pipe, kills what is left and removes what they leave as soon as the pipe
//! closes: on `Drop`, but also when this process is killed. (A parent-death signal would be simpler,
//! but it follows the thread that started the child, which in a runtime may end early.)

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use super::{Error, Mongod, Result};

/// Long enough for a server on a busy two-core machine, also after a crash with recovery.
pub(super) const START_LIMIT: Duration = Duration::from_secs(90);
/// How often a starting server is asked whether it listens.
pub(super) const POLL: Duration = Duration::from_millis(25);
/// A clean shutdown takes a checkpoint first.
const STOP_LIMIT: Duration = Duration::from_secs(60);
/// Tries with another port when somebody took the first in between.
pub(super) const PORT_TRIES: u32 = 8;
/// Below the range that Linux hands out for outgoing connections, so that the port of a killed
/// member is still free when it is started again.
const PORTS: std::ops::Range<u16> = 20_000..32_000;
/// By default a transaction that waits 5 ms for a lock is aborted, which a busy machine makes happen
/// where nobody else wants the lock for longer than that.
const LOCK_WAIT: &str = "maxTransactionLockRequestTimeoutMillis=1000";
/// How much of a log is quoted in an error.
const LOG_TAIL_BYTES: usize = 2_000;

/// `+ pid` to watch, `- pid` to forget; at the end of input everything watched is killed.
const WATCHER: &str = r#"
pids=
while read -r op pid; do
  case $op in
    +) pids="$pids $pid" ;;
    -) kept=; for p in $pids; do [ "$p" = "$pid" ] || kept="$kept $p"; done; pids=$kept ;;
  esac
done
for p in $pids; do kill -9 "$p" 2>/dev/null; done
[ -z "$pids" ] || sleep 0.3
rm -rf -- "$@"
"#;

/// The script that kills servers and removes what they leave when this process ends, however it ends.
pub(super) struct Watcher {
    child: Child,
    input: Option<ChildStdin>,
}

impl Watcher {
    /// `leftovers` are the files and folders that go with the servers. (A slice of owned paths: one
    /// path is an iterator, too, of its components, and what is named here is removed.)
    pub(super) fn start(leftovers: &[PathBuf]) -> Result<Self> {
        let mut child = Command::new("sh")
            .args(["-c", WATCHER, "watcher"])
            .args(leftovers)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .map_err(Error::io("start", "sh"))?;
        let input = child.stdin.take();
        Ok(Self { child, input })
    }

    pub(super) fn tell(&mut self, op: char, pid: u32) -> Result<()> {
        let input = self.input.as_mut().expect("taken in drop only");
        writeln!(input, "{op} {pid}").map_err(Error::Watcher)
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        drop(self.input.take());
        if let Err(why) = self.child.wait() {
            tracing::warn!(%why, "the watcher of throw-away servers could not be waited for");
        }
    }
}

/// How one server is run.
#[derive(Clone)]
pub(super) struct Recipe {
    pub(super) mongod: Mongod,
    pub(super) data: PathBuf,
    pub(super) arguments: Vec<String>,
}

/// One server: running, or killed and able to be started again on the same port and data.
pub(super) struct Server {
    recipe: Recipe,
    port: u16,
    child: Option<Child>,
    is_frozen: bool,
}

impl Server {
    /// Starts a server on a free port.
    pub(super) async fn start(recipe: Recipe, watcher: &mut Watcher) -> Result<Self> {
        fs::create_dir_all(&recipe.data).map_err(Error::io("create", &recipe.data))?;
        let mut tries = 0;
        loop {
            tries += 1;
            let mut server =
                Self { recipe: recipe.clone(), port: free_port()?, child: None, is_frozen: false };
            match server.run(watcher).await {
                Ok(()) => return Ok(server),
                Err(Error::Start { log, .. })
                    if tries < PORT_TRIES && log.contains("Address already in use") => {}
                Err(error) => return Err(error),
            }
        }
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// Whether it can answer.
    pub(super) fn is_running(&self) -> bool {
        self.child.is_some() && !self.is_frozen
    }

    fn log(&self) -> PathBuf {
        self.recipe.data.with_extension("log")
    }

    /// Starts the killed server again; returns once it listens.
    pub(super) async fn run(&mut self, watcher: &mut Watcher) -> Result<()> {
        let log = self.log();
        let output = File::create(&log).map_err(Error::io("create", &log))?;
        let mut command = self.recipe.mongod.command();
        command
            .args(["--bind_ip", "127.0.0.1", "--nounixsocket", "--port"])
            .arg(self.port.to_string())
            .arg("--dbpath")
            .arg(&self.recipe.data)
            .args(["--setParameter", "diagnosticDataCollectionEnabled=false"])
            .args(["--setParameter", LOCK_WAIT])
            .args(&self.recipe.arguments)
            .stdin(Stdio::null())
            .stderr(output.try_clone().map_err(Error::io("open", &log))?)
            .stdout(output)
            .process_group(0);
        let binary = self.recipe.mongod.binary();
        let child = command.spawn().map_err(Error::io("start", binary))?;
        watcher.tell('+', child.id())?;
        self.child = Some(child);
        let started = self.wait_for_port().await;
        if started.is_err() {
            self.kill(watcher)?;
        }
        started
    }

    async fn wait_for_port(&mut self) -> Result<()> {
        let deadline = Instant::now() + START_LIMIT;
        let child = self.child.as_mut().expect("spawned by the caller");
        let what = loop {
            let ended = child.try_wait().map_err(Error::io("wait for", &self.recipe.data))?;
            if ended.is_some() {
                break "ended";
            }
            if tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await.is_ok() {
                return Ok(());
            }
            if Instant::now() > deadline {
                break "did not listen in time";
            }
            tokio::time::sleep(POLL).await;
        };
        Err(Error::Start { server: "mongod", port: self.port, what, log: log_tail(&self.log()) })
    }

    /// SIGSTOP, as a network that lets nothing through: connections stay, and nobody answers. Or SIGCONT.
    pub(super) fn freeze(&mut self, is_frozen: bool) -> Result<()> {
        let Some(child) = &self.child else { return Ok(()) };
        let pid = rustix::process::Pid::from_child(child);
        signal_freeze(pid, is_frozen)
            .map_err(|errno| Error::io("freeze", self.recipe.mongod.binary())(errno.into()))?;
        self.is_frozen = is_frozen;
        Ok(())
    }

    /// SIGKILL, as a power cut of this one server.
    pub(super) fn kill(&mut self, watcher: &mut Watcher) -> Result<()> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        self.is_frozen = false;
        let binary = self.recipe.mongod.binary();
        child.kill().map_err(Error::io("kill", binary))?;
        child.wait().map_err(Error::io("wait for", binary))?;
        watcher.tell('-', child.id())
    }

    /// SIGTERM, and waits for the clean end.
    pub(super) async fn stop(&mut self, watcher: &mut Watcher) -> Result<()> {
        let Some(child) = &mut self.child else { return Ok(()) };
        let binary = self.recipe.mongod.binary();
        let pid = rustix::process::Pid::from_child(child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)
            .map_err(|errno| Error::io("stop", binary)(errno.into()))?;
        let deadline = Instant::now() + STOP_LIMIT;
        while child.try_wait().map_err(Error::io("wait for", binary))?.is_none() {
            if Instant::now() > deadline {
                return self.kill(watcher);
            }
            tokio::time::sleep(POLL).await;
        }
        let id = child.id();
        self.child = None;
        watcher.tell('-', id)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // The watcher still lists this id and is told nothing; killing a process twice is harmless.
            if let Err(why) = child.kill().and_then(|()| child.wait().map(drop)) {
                tracing::warn!(%why, port = self.port, "a throw-away mongod could not be ended");
            }
        }
    }
}

/// SIGSTOP or SIGCONT.
pub(super) fn signal_freeze(pid: rustix::process::Pid, is_frozen: bool) -> rustix::io::Result<()> {
    use rustix::process::Signal;
    rustix::process::kill_process(pid, if is_frozen { Signal::STOP } else { Signal::CONT })
}

fn free_port() -> Result<u16> {
    free_ports(1)
}

/// The first of `count` adjacent ports that are free.
pub(super) fn free_ports(count: u16) -> Result<u16> {
    let is_free = |port| match std::net::TcpListener::bind(("127.0.0.1", port)) {
        Ok(_) => Ok(true),
        Err(why) if why.kind() == std::io::ErrorKind::AddrInUse => Ok(false),
        Err(why) => Err(Error::io("bind a port of", "127.0.0.1")(why)),
    };
    'tries: loop {
        let first = rand::random_range(PORTS.start..PORTS.end - count + 1);
        for port in first..first + count {
            if !is_free(port)? {
                continue 'tries;
            }
        }
        return Ok(first);
    }
}

pub(super) fn log_tail(path: &Path) -> String {
    let text = fs::read(path).unwrap_or_default();
    let tail = &text[text.len().saturating_sub(LOG_TAIL_BYTES)..];
    String::from_utf8_lossy(tail).into_owned()
}
