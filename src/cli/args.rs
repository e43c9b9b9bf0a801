//! Arguments that several subcommands share.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;

use super::Error;
use crate::blockstore::Place;
use crate::head::scope::{Pattern, Scope};
use crate::job::{self, PushOptions, RemoteJob};
use crate::restore::Backup;
use crate::source::ReadFrom;
use crate::store::{Location, Secret, Store};

/// Bytes of a connection string file; a longer file is not one.
const SOURCE_FILE_BYTES_MAX: u64 = 64 << 10;

/// What to log.
#[derive(Debug, Args)]
pub struct LogArgs {
    /// What to log on standard error: error, warn, info, debug, trace, or per module
    /// (headstock::job=debug,warn)
    #[arg(long, global = true, value_name = "FILTER", env = "HEADSTOCK_LOG")]
    pub log: Option<String>,
}

/// The store to work on.
#[derive(Debug, Args)]
pub struct StoreArgs {
    /// Directory of the store
    #[arg(long, value_name = "DIR", env = "HEADSTOCK_STORE")]
    pub store: PathBuf,
    #[command(flatten)]
    pub key: KeyArgs,
}

impl StoreArgs {
    /// Where it is, with the key read. One that only the environment names is for stores that need one.
    pub fn location(&self) -> Result<Location, Error> {
        location(&self.store, &self.key)
    }
}

fn location(dir: &Path, key: &KeyArgs) -> Result<Location, Error> {
    let dir = dir.to_owned();
    let file = match (key.file(), KeyArgs::file_of_environment()) {
        (Some(file), _) => Some(file),
        (None, Some(_)) if Store::exists(&dir) && !Store::is_encrypted_in(&dir)? => None,
        (None, file) => file,
    };
    let secret = file.map(|file| file.read().map(Arc::new)).transpose()?;
    Ok(Location { dir, secret })
}

/// What opens an encrypted store.
#[derive(Debug, Args)]
pub struct KeyArgs {
    /// Key file that opens an encrypted store; else the one that HEADSTOCK_KEY_FILE names
    #[arg(long, value_name = "FILE", conflicts_with = "passphrase_file")]
    pub key_file: Option<PathBuf>,
    /// File whose first line is the passphrase that opens an encrypted store; else the one that
    /// HEADSTOCK_PASSPHRASE_FILE names
    #[arg(long, value_name = "FILE")]
    pub passphrase_file: Option<PathBuf>,
}

/// A file with a secret.
pub enum SecretFile {
    Key(PathBuf),
    Passphrase(PathBuf),
}

impl SecretFile {
    /// Of two, that of the key.
    fn of(key: Option<PathBuf>, passphrase: Option<PathBuf>) -> Option<Self> {
        key.map(Self::Key).or_else(|| passphrase.map(Self::Passphrase))
    }

    fn read(&self) -> Result<Secret, Error> {
        Ok(match self {
            Self::Key(path) => Secret::read_key(path),
            Self::Passphrase(path) => Secret::read_passphrase(path),
        }?)
    }
}

impl KeyArgs {
    fn file(&self) -> Option<SecretFile> {
        SecretFile::of(self.key_file.clone(), self.passphrase_file.clone())
    }

    fn file_of_environment() -> Option<SecretFile> {
        let named = |variable| std::env::var_os(variable).filter(|path| !path.is_empty());
        let path = |variable| named(variable).map(PathBuf::from);
        SecretFile::of(path("HEADSTOCK_KEY_FILE"), path("HEADSTOCK_PASSPHRASE_FILE"))
    }

    /// A blockstore, with the secret that is given, if one is.
    pub fn place(&self, uri: String) -> Result<Place, Error> {
        Ok(Place { uri, secret: self.secret()?.map(Arc::new) })
    }

    /// Reads the secret that is given, if one is.
    pub fn secret(&self) -> Result<Option<Secret>, Error> {
        let file = self.file().or_else(Self::file_of_environment);
        file.map(|file| file.read()).transpose()
    }
}

/// A job to read, of a store or of a blockstore.
#[derive(Debug, Args)]
pub struct ReadArgs {
    /// Directory of the store
    #[arg(long, value_name = "DIR", env = "HEADSTOCK_STORE")]
    store: Option<PathBuf>,
    #[command(flatten)]
    key: KeyArgs,
    /// Read from this blockstore instead of a store: the connection string of its replica set, a directory or
    /// s3://BUCKET/PREFIX; without --store also from HEADSTOCK_BLOCKSTORE
    #[arg(long, value_name = "URI", conflicts_with = "blockstore_file")]
    blockstore: Option<String>,
    /// File that holds that connection string
    #[arg(long, value_name = "FILE")]
    blockstore_file: Option<PathBuf>,
    /// Directory for scratch files while a blockstore is read; the system's unless given
    #[arg(long, value_name = "DIR")]
    scratch: Option<PathBuf>,
    /// Name of the job; may be left out where there is one
    #[arg(long, value_name = "NAME")]
    pub job: Option<String>,
}

/// Where a job is read.
pub enum From {
    Store(Location),
    Blockstore(Place),
}

impl ReadArgs {
    /// Where the job is.
    pub fn from(&self) -> Result<From, Error> {
        let variable = || std::env::var("HEADSTOCK_BLOCKSTORE").ok().filter(|uri| !uri.is_empty());
        let uri = match (&self.blockstore_file, &self.blockstore) {
            (Some(file), _) => Some(read_uri(file)?),
            (None, Some(uri)) => Some(uri.clone()),
            (None, None) if self.store.is_none() => variable(),
            (None, None) => None,
        };
        match (uri, &self.store) {
            (Some(uri), _) => Ok(From::Blockstore(self.key.place(uri)?)),
            (None, Some(store)) => location(store, &self.key).map(From::Store),
            (None, None) => Err(Error::NoRepository),
        }
    }

    /// Another store, with the same key.
    pub fn another(&self, dir: &Path) -> Result<Location, Error> {
        location(dir, &self.key)
    }

    /// The store, for what only a store can do.
    pub fn location(&self) -> Result<Location, Error> {
        match self.from()? {
            From::Store(location) => Ok(location),
            From::Blockstore(_) => Err(Error::OnlyStore),
        }
    }

    /// Opens the job to restore from it.
    pub async fn open(&self) -> Result<Backup, Error> {
        match self.from()? {
            From::Store(location) => {
                let open = || job::open_backup(location, self.job.as_deref());
                Ok(tokio::task::block_in_place(open)?)
            }
            From::Blockstore(place) => {
                let scratch = self.scratch.clone().unwrap_or_else(std::env::temp_dir);
                let job = RemoteJob::open(&place, self.job.as_deref()).await?;
                Ok(job.into_backup(scratch))
            }
        }
    }
}

/// The store and one of its jobs.
#[derive(Debug, Args)]
pub struct JobArgs {
    #[command(flatten)]
    pub store: StoreArgs,
    /// Name of the job; may be left out where the store has one
    #[arg(long, value_name = "NAME")]
    pub job: Option<String>,
}

/// The replica set to follow, and the job that holds it.
#[derive(Debug, Args)]
pub struct FollowArgs {
    #[command(flatten)]
    pub source: SourceArgs,
    #[command(flatten)]
    pub store: StoreArgs,
    /// Make a store that is not there yet an encrypted one, which the key file or passphrase given opens;
    /// without it nothing of it can ever be read
    #[arg(long)]
    pub encrypt: bool,
    /// Name of the job; the replica set's name unless given
    #[arg(long, value_name = "NAME")]
    pub job: Option<String>,
    /// Back up only these namespaces: DB or DB.COLLECTION, * stands for any characters, ? for one.
    /// Remembered by the job; '*' alone means everything again
    #[arg(long, value_name = "FILTER")]
    pub include: Vec<Pattern>,
    /// Do not back up these namespaces, with the same wildcards
    #[arg(long, value_name = "FILTER")]
    pub exclude: Vec<Pattern>,
    #[command(flatten)]
    pub pace: PaceArgs,
    #[command(flatten)]
    pub push: PushArgs,
    /// Copy everything anew although the job has a state; restore points stay
    #[arg(long)]
    pub rescan: bool,
    /// Where only a new copy helps (the source's oplog ran past the job), stop and say so instead of
    /// beginning one
    #[arg(long, conflicts_with = "rescan")]
    pub no_rescan: bool,
}

impl FollowArgs {
    /// Where the store is. One that is made here is encrypted if that is said, and only then.
    pub fn location(&self) -> Result<Location, Error> {
        let location = self.store.location()?;
        let exists = Store::exists(&location.dir);
        match (self.encrypt, &location.secret) {
            (true, None) if exists && !Store::is_encrypted_in(&location.dir)? => {
                Err(crate::store::Error::NotEncrypted { dir: location.dir }.into())
            }
            (true, None) if exists => Ok(location),
            (true, None) => Err(Error::EncryptNeedsKey),
            (false, Some(_)) if !exists => Err(Error::KeyWithoutEncrypt { dir: location.dir }),
            _ => Ok(location),
        }
    }

    /// Which namespaces are to be backed up from now on; none if nothing was said.
    pub fn scope(&self) -> Result<Option<Scope>, Error> {
        if self.include.is_empty() && self.exclude.is_empty() {
            return Ok(None);
        }
        Ok(Some(Scope::new(self.include.clone(), self.exclude.clone())?))
    }
}

/// The blockstore.
#[derive(Debug, Args)]
pub struct BlockstoreArgs {
    /// The blockstore: the connection string of its replica set, whose database holds the repository (headstock unless it
    /// names one; with a password: use the environment or --blockstore-file); or a directory, as /path or file:///path; or
    /// s3://BUCKET/PREFIX?endpoint=URL&region=NAME&credentials=FILE&style=path|virtual (each may be left out; keys from
    /// the file or from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY)
    #[arg(long, value_name = "URI", env = "HEADSTOCK_BLOCKSTORE", hide_env_values = true)]
    pub blockstore: Option<String>,
    /// File that holds that connection string; wins over --blockstore
    #[arg(long, value_name = "FILE")]
    pub blockstore_file: Option<PathBuf>,
}

impl BlockstoreArgs {
    /// The connection string, from wherever it was given, if it was.
    pub fn uri(&self) -> Result<Option<String>, Error> {
        match &self.blockstore_file {
            Some(file) => read_uri(file).map(Some),
            None => Ok(self.blockstore.clone().filter(|uri| !uri.is_empty())),
        }
    }
}

/// Where a job is pushed.
#[derive(Debug, Args)]
pub struct PushArgs {
    #[command(flatten)]
    pub blockstore: BlockstoreArgs,
    /// Send at most so many megabytes (1,000,000 bytes) of blocks per second to the blockstore
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub push_mbps: Option<u32>,
}

impl PushArgs {
    /// Where to push, if anywhere.
    pub fn options(&self, store: &Location) -> Result<Option<PushOptions>, Error> {
        let bytes_per_second = self.push_mbps.map(|megabytes| u64::from(megabytes) * 1_000_000);
        let place = |uri| Place { uri, secret: store.secret.clone() };
        let uri = self.blockstore.uri()?;
        Ok(uri.map(|uri| PushOptions { place: place(uri), bytes_per_second }))
    }
}

/// How fast collections are copied.
#[derive(Debug, Clone, Copy, Args)]
pub struct PaceArgs {
    /// Read at most so many megabytes (1,000,000 bytes) of documents per second from the source while
    /// collections are copied or compared; the oplog is not limited
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_mbps: Option<u32>,
}

impl PaceArgs {
    /// Bytes per second.
    pub fn bytes_per_second(self) -> Option<u64> {
        self.max_mbps.map(|megabytes| u64::from(megabytes) * 1_000_000)
    }
}

/// The replica set to back up.
#[derive(Debug, Args)]
pub struct SourceArgs {
    /// Connection string of the replica set (with a password: use the environment or --source-file)
    #[arg(long, value_name = "URI", env = "HEADSTOCK_SOURCE", hide_env_values = true)]
    #[arg(required_unless_present = "source_file")]
    source: Option<String>,
    /// File that holds the connection string; wins over --source
    #[arg(long, value_name = "FILE")]
    source_file: Option<PathBuf>,
    /// Member to read: secondary (preferred), primary, or HOST:PORT
    #[arg(long, value_name = "MEMBER", default_value = "secondary", value_parser = read_from)]
    pub read_from: ReadFrom,
}

impl SourceArgs {
    /// The connection string, from wherever it was given.
    pub fn uri(&self) -> Result<String, Error> {
        match (&self.source_file, &self.source) {
            (None, Some(uri)) => Ok(uri.clone()),
            (file, _) => read_uri(&file.clone().unwrap_or_default()),
        }
    }
}

/// Reads a file that holds a connection string.
pub fn read_uri(path: &Path) -> Result<String, Error> {
    let read = std::fs::metadata(path).and_then(|facts| {
        if facts.len() > SOURCE_FILE_BYTES_MAX {
            return Err(std::io::Error::other("too long for a connection string"));
        }
        std::fs::read_to_string(path)
    });
    let text = read.map_err(|source| Error::SourceFile { path: path.to_owned(), source })?;
    Ok(text.trim().to_owned())
}

fn read_from(text: &str) -> Result<ReadFrom, &'static str> {
    match text {
        "secondary" => Ok(ReadFrom::SecondaryPreferred),
        "primary" => Ok(ReadFrom::Primary),
        member if member.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok()) => {
            Ok(ReadFrom::Member(member.to_owned()))
        }
        _ => Err("expected secondary, primary or HOST:PORT"),
    }
}

/// Parses a duration: a whole number and a unit, `10s`, `15m`, `6h` or `1d`.
pub fn duration(text: &str) -> Result<Duration, &'static str> {
    const EXPECTED: &str = "expected a number and a unit: 10s, 15m, 6h or 1d";
    let (number, unit) = text.split_at(text.len() - text.chars().last().map_or(0, char::len_utf8));
    let unit_secs: u64 = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 60 * 60,
        "d" => 24 * 60 * 60,
        _ => return Err(EXPECTED),
    };
    let number = number.parse::<u32>().map_err(|_| EXPECTED)?;
    if number == 0 {
        return Err("must be more than zero");
    }
    Ok(Duration::from_secs(u64::from(number) * unit_secs))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        assert_eq!(duration("10s"), Ok(Duration::from_secs(10)));
        assert_eq!(duration("15m"), Ok(Duration::from_secs(900)));
        assert_eq!(duration("6h"), Ok(Duration::from_secs(21_600)));
        assert_eq!(duration("1d"), Ok(Duration::from_secs(86_400)));
        for wrong in ["", "s", "10", "1.5h", "-1s", "0s", "10 s", "1w", "10\u{e9}"] {
            assert!(duration(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn members() {
        assert_eq!(read_from("db1:27017"), Ok(ReadFrom::Member("db1:27017".into())));
        assert!(read_from("nearest").is_err());
    }
}
