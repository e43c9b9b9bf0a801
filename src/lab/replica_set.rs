//! Replica sets and stand-alone servers on loopback ports, in a temporary directory.
//!
//! Everything is killed and removed on `Drop`, and by the watcher of `process` if this process dies.

use std::fs;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bson::{Bson, Document, doc};
use mongodb::Client;
use mongodb::options::ClientOptions;
use tempfile::TempDir;

use super::process::{Recipe, Server, Watcher};
use super::{Error, Mongod, Release, Result, temporary_folder};
use crate::oplog::OpTime;

/// Limit of every wait for a state of a set: elections and initial syncs on a busy machine.
const STATE_LIMIT: Duration = Duration::from_secs(120);
/// How often a state is asked for.
const POLL: Duration = Duration::from_millis(50);
/// The user that sets with authentication have.
const ROOT: (&str, &str) = ("root", "lab-password");

/// How a set or a server is started.
#[derive(Debug, Clone)]
pub struct Options {
    /// The binary; the default release is fetched where none is given.
    pub mongod: Option<Mongod>,
    /// Number of members, at most 7.
    pub members: usize,
    /// Name of the set.
    pub name: String,
    /// Election priority per member; 1 for those not named. The first member must be electable.
    pub priorities: Vec<f64>,
    /// Size of the oplog, MB (990 is the least the server takes at run time, not at its start).
    pub oplog_mb: u32,
    /// Cache of each member, GB.
    pub cache_gb: f64,
    /// Key file and a root user.
    pub auth: bool,
    /// Further arguments of every mongod.
    pub arguments: Vec<String>,
    /// Further arguments of single members, by index.
    pub member_arguments: Vec<(usize, Vec<String>)>,
    /// Further options of each connection string of a set, as `tls=true&tlsCAFile=/ca.pem`.
    pub uri_options: Option<String>,
    /// Election timeout, ms.
    pub election_timeout_ms: u32,
    /// Where the temporary directory is made.
    pub parent: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            mongod: None,
            members: 1,
            name: "lab".to_owned(),
            priorities: Vec::new(),
            oplog_mb: 512,
            cache_gb: 0.25,
            auth: false,
            arguments: Vec::new(),
            member_arguments: Vec::new(),
            uri_options: None,
            election_timeout_ms: 5_000,
            parent: None,
        }
    }
}

impl Options {
    /// The defaults with `members` members.
    pub fn members(members: usize) -> Self {
        Self { members, ..Self::default() }
    }

    /// The further options of a connection string, to be appended.
    fn more(&self) -> String {
        self.uri_options.as_ref().map_or_else(String::new, |more| format!("&{more}"))
    }

    fn mongod(&self) -> Result<Mongod> {
        self.mongod.clone().map_or_else(|| Mongod::fetch(Release::default()), Ok)
    }

    fn folder(&self) -> Result<TempDir> {
        temporary_folder(&self.parent.clone().unwrap_or_else(std::env::temp_dir))
    }

    fn base_arguments(&self) -> Vec<String> {
        let cache = ["--wiredTigerCacheSizeGB".to_owned(), self.cache_gb.to_string()];
        cache.into_iter().chain(self.arguments.iter().cloned()).collect()
    }

    fn member_recipe(&self, member: usize, mongod: &Mongod, folder: &Path) -> Recipe {
        let mut arguments = self.base_arguments();
        arguments.extend(["--replSet".to_owned(), self.name.clone()]);
        arguments.extend(["--oplogSize".to_owned(), self.oplog_mb.to_string()]);
        if self.auth {
            arguments.extend(["--keyFile".to_owned(), key_path(folder).display().to_string()]);
        }
        let own = self.member_arguments.iter().filter(|(index, _)| *index == member);
        arguments.extend(own.flat_map(|(_, extra)| extra.iter().cloned()));
        Recipe { mongod: mongod.clone(), data: data(folder, member), arguments }
    }
}

fn data(folder: &Path, member: usize) -> PathBuf {
    folder.join(format!("member-{member}"))
}

fn key_path(folder: &Path) -> PathBuf {
    folder.join("key")
}

/// A replica set of real servers.
pub struct ReplicaSet {
    options: Options,
    // Servers are dropped, and so killed, before the watcher and the folder.
    servers: Vec<Server>,
    watcher: Watcher,
    folder: TempDir,
    client: Client,
}

impl ReplicaSet {
    /// Starts a set; returns when it has a primary and all others are secondaries.
    ///
    /// # Errors
    /// No binary, a server that does not start, no primary in time.
    pub async fn start(options: Options) -> Result<Self> {
        let mongod = options.mongod()?;
        let folder = options.folder()?;
        let mut watcher = Watcher::start(&[folder.path().to_path_buf()])?;
        if options.auth {
            write_key(&key_path(folder.path()))?;
        }
        let mut servers = Vec::with_capacity(options.members);
        for member in 0..options.members {
            let recipe = options.member_recipe(member, &mongod, folder.path());
            servers.push(Server::start(recipe, &mut watcher).await?);
        }
        let ports: Vec<u16> = servers.iter().map(Server::port).collect();
        initiate(&options, &ports).await?;
        let client = connect(&set_uri(&options, &ports)).await?;
        let set = Self { options, servers, watcher, folder, client };
        set.wait_healthy().await?;
        Ok(set)
    }

    /// Starts a set of `members` members with the default options.
    ///
    /// # Errors
    /// As [`ReplicaSet::start`].
    pub async fn of(members: usize) -> Result<Self> {
        Self::start(Options::members(members)).await
    }

    /// Connection string of the set (holds the password where the set has one).
    pub fn uri(&self) -> String {
        let ports: Vec<u16> = self.servers.iter().map(Server::port).collect();
        set_uri(&self.options, &ports)
    }

    /// Connection string of one member alone.
    pub fn member_uri(&self, member: usize) -> String {
        member_uri(&self.options, self.servers[member].port())
    }

    /// `host:port` of a member.
    pub fn host(&self, member: usize) -> String {
        format!("127.0.0.1:{}", self.servers[member].port())
    }

    /// Data directory of a member, for what is done to it while it is stopped.
    pub fn data(&self, member: usize) -> PathBuf {
        data(self.folder.path(), member)
    }

    /// Number of members.
    pub fn members(&self) -> usize {
        self.servers.len()
    }

    /// A client of the set.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// A new client of one member alone.
    ///
    /// # Errors
    /// The driver's.
    pub async fn member(&self, member: usize) -> Result<Client> {
        connect(&self.member_uri(member)).await
    }

    /// SIGKILL to a member.
    ///
    /// # Errors
    /// The process could not be ended.
    pub fn kill(&mut self, member: usize) -> Result<()> {
        self.servers[member].kill(&mut self.watcher)
    }

    /// Stops the process of a member (SIGSTOP) or lets it go on: till then it is as if no packet came through, and does
    /// not count as running.
    ///
    /// # Errors
    /// The signal could not be sent.
    pub fn freeze(&mut self, member: usize, is_frozen: bool) -> Result<()> {
        self.servers[member].freeze(is_frozen)
    }

    /// Clean shutdown of a member.
    ///
    /// # Errors
    /// The process could not be ended.
    pub async fn stop(&mut self, member: usize) -> Result<()> {
        self.servers[member].stop(&mut self.watcher).await
    }

    /// Starts a killed or stopped member again on its port and data.
    ///
    /// # Errors
    /// The server does not start.
    pub async fn restart(&mut self, member: usize) -> Result<()> {
        self.servers[member].run(&mut self.watcher).await
    }

    /// Index of the primary, waited for.
    ///
    /// # Errors
    /// There is none in time.
    pub async fn primary(&self) -> Result<usize> {
        let deadline = Instant::now() + STATE_LIMIT;
        while Instant::now() < deadline {
            for member in self.running() {
                let hello = self.hello(member).await;
                if hello.is_ok_and(|reply| is(&reply, "isWritablePrimary")) {
                    return Ok(member);
                }
            }
            tokio::time::sleep(POLL).await;
        }
        Err(timeout("have a primary"))
    }

    /// Makes the primary step down and waits for another (a set of one elects itself again).
    ///
    /// # Errors
    /// The command fails, or there is no primary in time.
    pub async fn step_down(&self) -> Result<usize> {
        let primary = self.primary().await?;
        let command =
            doc! { "replSetStepDown": 60, "secondaryCatchUpPeriodSecs": 10, "force": true };
        admin(&self.member(primary).await?, "step down", command).await?;
        if self.servers.len() == 1 {
            let freeze = doc! { "replSetFreeze": 0 };
            admin(&self.member(primary).await?, "end the step-down period", freeze).await?;
        }
        self.primary().await
    }

    /// Waits until there is a primary and every running member is primary or secondary.
    ///
    /// # Errors
    /// Not so in time.
    pub async fn wait_healthy(&self) -> Result<()> {
        self.primary().await?;
        let deadline = Instant::now() + STATE_LIMIT;
        for member in self.running() {
            loop {
                let up = self
                    .hello(member)
                    .await
                    .is_ok_and(|reply| is(&reply, "isWritablePrimary") || is(&reply, "secondary"));
                if up {
                    break;
                }
                if Instant::now() > deadline {
                    return Err(timeout("have all members up"));
                }
                tokio::time::sleep(POLL).await;
            }
        }
        Ok(())
    }

    /// Waits until the primary's newest entry is majority-committed and applied by every running
    /// member; returns its optime. Writers must be quiet.
    ///
    /// # Errors
    /// Not so in time.
    pub async fn wait_replicated(&self) -> Result<OpTime> {
        let deadline = Instant::now() + STATE_LIMIT;
        loop {
            let primary = self.primary().await?;
            // A member that rolls back closes its connections.
            match self.replicated(primary).await {
                Ok(Some(target)) => return Ok(target),
                Err(error) if Instant::now() > deadline => return Err(error),
                Ok(None) if Instant::now() > deadline => {
                    return Err(timeout("replicate its newest entry"));
                }
                Ok(None) | Err(_) => tokio::time::sleep(POLL).await,
            }
        }
    }

    /// The primary's newest entry, if every running member has it and knows that it is committed.
    async fn replicated(&self, primary: usize) -> Result<Option<OpTime>> {
        let target = self.last_write(primary, "opTime").await?;
        let mut reached = self.last_write(primary, "majorityOpTime").await? >= target;
        for member in self.running() {
            reached &= self.last_write(member, "opTime").await? >= target;
            reached &= self.last_write(member, "majorityOpTime").await? >= target;
        }
        Ok(reached.then_some(target))
    }

    fn running(&self) -> Vec<usize> {
        (0..self.servers.len()).filter(|member| self.servers[*member].is_running()).collect()
    }

    async fn hello(&self, member: usize) -> Result<Document> {
        admin(&self.member(member).await?, "say hello", doc! { "hello": 1 }).await
    }

    async fn last_write(&self, member: usize, field: &'static str) -> Result<OpTime> {
        let hello = self.hello(member).await?;
        let missing = || Error::Reply { command: "hello", field };
        let write = hello.get_document("lastWrite").map_err(|_| missing())?;
        // A member that has just been started does not know what is committed.
        let Ok(optime) = write.get_document(field) else { return Ok(OpTime::NULL) };
        let ts = optime.get_timestamp("ts").map_err(|_| missing())?;
        Ok(OpTime { ts: ts.into(), term: optime.get_i64("t").map_err(|_| missing())? })
    }
}

/// A server of its own, without an oplog.
pub struct Standalone {
    server: Server,
    watcher: Watcher,
    _folder: TempDir,
    client: Client,
}

impl Standalone {
    /// Starts an empty server (of the options only binary, arguments and parent count).
    ///
    /// # Errors
    /// No binary, or the server does not start.
    pub async fn start(options: &Options) -> Result<Self> {
        let folder = options.folder()?;
        let data = folder.path().join("data");
        Self::run(options, folder, data).await
    }

    /// Starts a server on an existing data directory, which is kept when the server goes.
    ///
    /// # Errors
    /// No binary, or the server does not start.
    pub async fn open(options: &Options, data: &Path) -> Result<Self> {
        Self::run(options, options.folder()?, data.to_path_buf()).await
    }

    async fn run(options: &Options, folder: TempDir, data: PathBuf) -> Result<Self> {
        let mut watcher = Watcher::start(&[folder.path().to_path_buf()])?;
        let recipe =
            Recipe { mongod: options.mongod()?, data, arguments: options.base_arguments() };
        let server = Server::start(recipe, &mut watcher).await?;
        let client = connect(&stand_alone_uri(server.port())).await?;
        admin(&client, "reach the server", doc! { "ping": 1 }).await?;
        Ok(Self { server, watcher, _folder: folder, client })
    }

    /// Connection string.
    pub fn uri(&self) -> String {
        stand_alone_uri(self.server.port())
    }

    /// A client.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Clean shutdown.
    ///
    /// # Errors
    /// The process could not be ended.
    pub async fn stop(mut self) -> Result<()> {
        self.server.stop(&mut self.watcher).await
    }
}

fn is(hello: &Document, role: &str) -> bool {
    hello.get_bool(role).unwrap_or(false)
}

fn timeout(what: &'static str) -> Error {
    Error::Timeout { what, seconds: STATE_LIMIT.as_secs() }
}

fn credentials(auth: bool) -> String {
    if auth { format!("{}:{}@", ROOT.0, ROOT.1) } else { String::new() }
}

fn stand_alone_uri(port: u16) -> String {
    format!("mongodb://127.0.0.1:{port}/?directConnection=true")
}

fn member_uri(options: &Options, port: u16) -> String {
    let (user, more) = (credentials(options.auth), options.more());
    format!("mongodb://{user}127.0.0.1:{port}/?directConnection=true{more}")
}

fn set_uri(options: &Options, ports: &[u16]) -> String {
    let hosts: Vec<String> = ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
    let user = credentials(options.auth);
    format!("mongodb://{user}{}/?replicaSet={}{}", hosts.join(","), options.name, options.more())
}

async fn connect(uri: &str) -> Result<Client> {
    let mut options =
        ClientOptions::parse(uri).await.map_err(Error::driver("parse the address"))?;
    options.server_selection_timeout = Some(Duration::from_secs(60));
    options.connect_timeout = Some(Duration::from_secs(10));
    Client::with_options(options).map_err(Error::driver("connect"))
}

async fn admin(client: &Client, action: &'static str, command: Document) -> Result<Document> {
    client.database("admin").run_command(command).await.map_err(Error::driver(action))
}

fn write_key(path: &Path) -> Result<()> {
    use std::io::Write as _;
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o400)
        .open(path)
        .map_err(Error::io("create", path))?;
    writeln!(file, "{:032x}", rand::random::<u128>()).map_err(Error::io("write", path))
}

/// Initiates the set and has its first member elected without waiting for an election timeout.
async fn initiate(options: &Options, ports: &[u16]) -> Result<()> {
    let members = ports.iter().enumerate().map(|(index, port)| {
        let priority = options.priorities.get(index).copied().unwrap_or(1.0);
        let id = i32::try_from(index).expect("a set has few members");
        Bson::from(doc! { "_id": id, "host": format!("127.0.0.1:{port}"), "priority": priority })
    });
    let config = doc! {
        "_id": &options.name,
        "members": members.collect::<Vec<_>>(),
        "settings": {
            "electionTimeoutMillis": options.election_timeout_ms,
            "heartbeatIntervalMillis": 500,
        },
    };
    // There is no user yet.
    let stranger = Options { auth: false, ..options.clone() };
    let first = connect(&member_uri(&stranger, ports[0])).await?;
    admin(&first, "initiate the set", doc! { "replSetInitiate": config }).await?;
    let deadline = Instant::now() + STATE_LIMIT;
    loop {
        let hello = admin(&first, "say hello", doc! { "hello": 1 }).await?;
        if is(&hello, "isWritablePrimary") {
            break;
        }
        if Instant::now() > deadline {
            return Err(timeout("elect its first member"));
        }
        // With authentication there is no user yet who may ask: the election timeout has to pass.
        if is(&hello, "secondary") && !options.auth {
            // Refused while the others do not know the configuration yet: asked again.
            let asked = admin(&first, "elect", doc! { "replSetStepUp": 1 }).await;
            tracing::trace!(?asked, "asked the first member to stand for election");
        }
        tokio::time::sleep(POLL).await;
    }
    if options.auth {
        let create = doc! { "createUser": ROOT.0, "pwd": ROOT.1, "roles": ["root"] };
        admin(&first, "create the root user", create).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_set_survives_a_killed_member_and_a_step_down() {
        let mut set = ReplicaSet::of(3).await.expect("start");
        let numbers = set.client().database("v").collection::<Document>("c");
        numbers.insert_one(doc! { "_id": 1 }).await.expect("insert");
        let first = set.primary().await.expect("primary");
        let second = (first + 1) % 3;
        set.kill(second).expect("kill");
        numbers.insert_one(doc! { "_id": 2 }).await.expect("insert with a member down");
        set.restart(second).await.expect("restart");
        set.wait_healthy().await.expect("healthy");
        set.wait_replicated().await.expect("replicated");
        assert_ne!(set.step_down().await.expect("step down"), first);
        assert_eq!(numbers.count_documents(doc! {}).await.expect("count"), 2);
    }

    #[tokio::test]
    async fn a_set_with_authentication_refuses_strangers() {
        let options = Options { auth: true, ..Options::members(1) };
        let set = ReplicaSet::start(options).await.expect("start");
        set.client().list_database_names().await.expect("root may list");
        let stranger = stand_alone_uri(set.servers[0].port());
        let stranger = connect(&stranger).await.expect("connect");
        assert!(stranger.list_database_names().await.is_err());
    }

    #[tokio::test]
    async fn servers_and_folder_go_with_their_owner() {
        let alone = Standalone::start(&Options::default()).await.expect("start");
        let folder = alone._folder.path().to_path_buf();
        let port = alone.server.port();
        assert!(folder.is_dir());
        drop(alone);
        assert!(!folder.exists());
        assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_err());
    }
}
