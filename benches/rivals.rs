//! Headstock beside other deduplicating backup programs: restic, borg and rustic, on one machine, in one run,
//! with the same documents. `benches/rivals.md` has what came out.
//!
//! The others are taken from `RESTIC`, `BORG` and `RUSTIC`, else from `PATH`; those that are not there are left out, and
//! a line says so. They read a dump as mongodump writes it; Headstock reads the same documents from a
//! server, and how long it takes to read them and do nothing else stands beside it. All restores are compared with the
//! dump, byte for byte.
//!
//! `--mb N` sets the size of the data, `--rounds N` how often everything is done; every program has a repository
//! for each round, and rounds take turns, so that what else the machine does meets all alike.

mod common;

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{BufWriter, Read as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bson::{Document, RawArrayBuf, RawDocumentBuf, doc, rawdoc};
use common::drain::{self, COLLECTIONS, DATABASE};
use common::process::{Usage, measure};
use common::{megabytes_per_second, order, sized};
use headstock::lab::{Backup, Options, Program, ReplicaSet, temporary_folder};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rand::seq::index::sample;

/// Lines of an order, for documents of about 1 KB.
const LINES: usize = 10;
/// One of so many documents is replaced.
const CHANGED: u32 = 100;
/// Replacements in one command.
const BATCH: usize = 500;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Headstock,
    Restic,
    Borg,
    Rustic,
}

/// A program and how it is used.
struct Contender {
    name: &'static str,
    kind: Kind,
    binary: String,
    /// Further arguments where it stores.
    storing: &'static [&'static str],
}

/// What is measured, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Ingest,
    Again,
    Check,
    Restore,
    /// Half of the data is gone, and stored so.
    Half,
    Compact,
}

impl Step {
    const ALL: [Self; 6] =
        [Self::Ingest, Self::Again, Self::Check, Self::Restore, Self::Half, Self::Compact];

    fn name(self) -> &'static str {
        match self {
            Self::Ingest => "ingest",
            Self::Again => "ingest again, 1 % changed",
            Self::Check => "check of all data",
            Self::Restore => "restore",
            Self::Half => "ingest again, half dropped",
            Self::Compact => "let go of all but the last, and compact",
        }
    }

    fn stores(self) -> bool {
        matches!(self, Self::Ingest | Self::Again | Self::Half | Self::Compact)
    }
}

/// Where one program does one round.
struct Place {
    /// For caches and settings of the program.
    home: PathBuf,
    repository: PathBuf,
    out: PathBuf,
}

/// The documents, at one of three moments.
struct Data {
    count: u32,
    replaced: Vec<HashSet<u32>>,
}

impl Data {
    fn new(bytes: u64) -> Self {
        let each = order(&mut StdRng::seed_from_u64(0), 0, LINES).as_bytes().len() as u64;
        let count = (bytes / each / u64::from(COLLECTIONS)) as u32;
        let mut rng = StdRng::seed_from_u64(1);
        let mut chosen = || sample(&mut rng, count as usize, (count / CHANGED) as usize);
        let replaced = (0..COLLECTIONS).map(|_| chosen().into_iter().map(|n| n as u32).collect());
        Self { count, replaced: replaced.collect() }
    }

    /// The document, or what it is replaced by.
    fn document(number: u32, n: u32, replaced: bool) -> RawDocumentBuf {
        let seed = u64::from(n) << 8 | u64::from(number) << 1 | u64::from(replaced);
        order(&mut StdRng::seed_from_u64(seed), n, LINES)
    }

    /// Writes a dump; returns the bytes of its documents.
    fn dump(&self, folder: &Path, replaced: bool, collections: &[u32]) -> u64 {
        let folder = folder.join(DATABASE);
        if folder.exists() {
            fs::remove_dir_all(&folder).expect("remove the dump before");
        }
        fs::create_dir_all(&folder).expect("make a folder");
        let mut bytes = 0;
        for number in collections {
            let file = File::create(folder.join(format!("c{number}.bson"))).expect("create");
            let mut out = BufWriter::with_capacity(1 << 20, file);
            let chosen = &self.replaced[*number as usize];
            for n in 0..self.count {
                let document = Self::document(*number, n, replaced && chosen.contains(&n));
                out.write_all(document.as_bytes()).expect("write");
                bytes += document.as_bytes().len() as u64;
            }
            out.into_inner().expect("write").sync_all().expect("sync");
        }
        bytes
    }

    /// Replaces what is chosen at the source.
    async fn replace(&self, set: &ReplicaSet) {
        for number in 0..COLLECTIONS {
            let mut chosen: Vec<u32> = self.replaced[number as usize].iter().copied().collect();
            chosen.sort_unstable();
            for some in chosen.chunks(BATCH) {
                let mut updates = RawArrayBuf::new();
                for n in some {
                    let document = Self::document(number, *n, true);
                    updates.push(rawdoc! { "q": { "_id": i64::from(*n) }, "u": document });
                }
                let command = rawdoc! { "update": format!("c{number}"), "updates": updates };
                let command: Document = command.try_into().expect("BSON");
                let database = set.client().database(DATABASE);
                let reply = database.run_command(command).await.expect("update");
                assert_eq!(reply.get_i32("nModified").ok(), Some(some.len() as i32), "{reply}");
            }
        }
    }
}

impl Contender {
    /// All that are here.
    fn all() -> Vec<Self> {
        let others: [(&str, Kind, &str, &[&str]); 4] = [
            ("restic", Kind::Restic, "RESTIC", &[]),
            ("borg", Kind::Borg, "BORG", &[]),
            ("borg", Kind::Borg, "BORG", &["--compression", "zstd,3"]),
            ("rustic", Kind::Rustic, "RUSTIC", &[]),
        ];
        let mut all = vec![Self {
            name: "Headstock",
            kind: Kind::Headstock,
            binary: env!("CARGO_BIN_EXE_headstock").to_owned(),
            storing: &[],
        }];
        for (name, kind, variable, storing) in others {
            match find(variable, name) {
                Some(binary) => all.push(Self { name, kind, binary, storing }),
                None if storing.is_empty() => {
                    println!("{name} is left out: {variable} does not name it, nor is it on PATH");
                }
                None => {}
            }
        }
        all
    }

    fn title(&self) -> String {
        let more = self.storing.join(" ");
        if more.is_empty() { self.name.to_owned() } else { format!("{} {more}", self.name) }
    }

    fn version(&self) -> String {
        let argument = if self.kind == Kind::Restic { "version" } else { "--version" };
        let output = std::process::Command::new(&self.binary).arg(argument).output();
        let output = output.expect("run it for its version");
        String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_owned()
    }

    /// What makes an empty repository; nothing for those that make it when they store.
    fn init(&self) -> Vec<Vec<String>> {
        match self.kind {
            Kind::Headstock => Vec::new(),
            Kind::Restic | Kind::Rustic => vec![words(&["init"])],
            Kind::Borg => vec![words(&["init", "--encryption", "none"])],
        }
    }

    /// The commands of a step, without the program's name. `old` are the snapshots to let go.
    fn commands(&self, step: Step, place: &Place, uri: &str, old: &[String]) -> Vec<Vec<String>> {
        let out = place.out.to_str().expect("text");
        match self.kind {
            Kind::Headstock => match step {
                Step::Ingest | Step::Again => vec![words(&["sync", "--source", uri])],
                // So that the oplog is let go, too: the others know no moments between.
                Step::Half => vec![words(&["sync", "--source", uri, "--restore-window", "1s"])],
                Step::Check => vec![words(&["fsck"])],
                Step::Restore => vec![words(&["restore", "--to", &format!("dump:{out}")])],
                Step::Compact => {
                    let delete = |id: &String| words(&["snapshot", "delete", id]);
                    old.iter().map(delete).chain([words(&["compact"])]).collect()
                }
            },
            Kind::Restic => match step {
                Step::Ingest | Step::Again | Step::Half => vec![words(&["backup", "dump"])],
                Step::Check => vec![words(&["check", "--read-data"])],
                Step::Restore => vec![words(&["restore", "latest", "--target", out])],
                Step::Compact => vec![words(&["forget", "--keep-last", "1", "--prune"])],
            },
            Kind::Borg => match step {
                Step::Ingest | Step::Again | Step::Half => {
                    let archive = format!("::{step:?}");
                    vec![
                        [&words(&["create"]), &words(self.storing), &words(&[&archive, "dump"])]
                            .into_iter()
                            .flatten()
                            .cloned()
                            .collect(),
                    ]
                }
                Step::Check => vec![words(&["check", "--verify-data"])],
                Step::Restore => vec![words(&["extract", "::Again"])],
                Step::Compact => vec![words(&["prune", "--keep-last", "1"]), words(&["compact"])],
            },
            Kind::Rustic => match step {
                Step::Ingest | Step::Again | Step::Half => vec![words(&["backup", "dump"])],
                Step::Check => vec![words(&["check", "--read-data"])],
                Step::Restore => vec![words(&["restore", "latest", out])],
                Step::Compact => {
                    let prune = words(&["prune", "--instant-delete"]);
                    vec![words(&["forget", "--keep-last", "1"]), prune]
                }
            },
        }
    }

    /// `env` and its arguments, for one command.
    fn line(
        &self,
        command: &[String],
        step: Option<Step>,
        place: &Place,
        dumps: &Path,
    ) -> Vec<String> {
        let text = |path: &Path| path.to_str().expect("text").to_owned();
        // borg restores into the folder it is run in.
        let folder = if step == Some(Step::Restore) { &place.out } else { dumps };
        let home = text(&place.home);
        let repository = text(&place.repository);
        let mut line = vec!["-C".to_owned(), text(folder), format!("HOME={home}")];
        line.push(format!("XDG_CACHE_HOME={home}"));
        let variables: &[(&str, &str)] = match self.kind {
            Kind::Headstock => &[("HEADSTOCK_STORE", &repository)],
            Kind::Restic => &[
                ("RESTIC_REPOSITORY", &repository),
                ("RESTIC_PASSWORD", "bench"),
                ("RESTIC_CACHE_DIR", &home),
            ],
            Kind::Borg => &[
                ("BORG_REPO", &repository),
                ("BORG_BASE_DIR", &home),
                ("BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK", "yes"),
            ],
            Kind::Rustic => &[
                ("RUSTIC_REPOSITORY", &repository),
                ("RUSTIC_PASSWORD", "bench"),
                ("RUSTIC_CACHE_DIR", &home),
            ],
        };
        line.extend(variables.iter().map(|(name, value)| format!("{name}={value}")));
        line.push(self.binary.clone());
        line.extend(command.iter().cloned());
        line
    }
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// A program that a variable names, else one on `PATH`.
fn find(variable: &str, name: &str) -> Option<String> {
    let named = std::env::var(variable).ok().filter(|path| !path.is_empty());
    let path = std::env::var_os("PATH")?;
    named.or_else(|| {
        let found = std::env::split_paths(&path).map(|dir| dir.join(name)).find(|it| it.is_file());
        found.and_then(|it| it.to_str().map(str::to_owned))
    })
}

/// The number after an argument.
fn argument(name: &str) -> Option<u32> {
    let mut arguments = std::env::args().skip_while(|argument| argument != name);
    arguments.nth(1).map(|number| number.parse().expect("a number"))
}

/// Every file under a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("list") {
        let path = entry.expect("entry").path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found
}

/// Bytes on disk, but for those that Headstock keeps back for a full disk; and these.
fn on_disk(folder: &Path) -> (u64, u64) {
    let (mut used, mut reserve) = (0, 0);
    for file in files(folder) {
        let bytes = fs::metadata(&file).expect("a file").blocks() * 512;
        let which = if file.ends_with("RESERVE") { &mut reserve } else { &mut used };
        *which += bytes;
    }
    (used, reserve)
}

/// Compares what was restored with the dump.
fn is_restored(dump: &Path, out: &Path) {
    let found = files(out);
    for file in files(dump) {
        let name = file.file_name().expect("a name");
        let restored = found.iter().find(|other| other.file_name() == Some(name));
        let restored = restored.unwrap_or_else(|| panic!("{} was not restored", file.display()));
        assert!(equal(&file, restored), "{} differs", file.display());
    }
}

fn equal(left: &Path, right: &Path) -> bool {
    let mut left = File::open(left).expect("open");
    let mut right = File::open(right).expect("open");
    let bytes = left.metadata().expect("a file").len();
    if bytes != right.metadata().expect("a file").len() {
        return false;
    }
    let (mut one, mut other) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    let mut at = 0;
    while at < bytes {
        let some = (bytes - at).min(1 << 20) as usize;
        left.read_exact(&mut one[..some]).expect("read");
        right.read_exact(&mut other[..some]).expect("read");
        if one[..some] != other[..some] {
            return false;
        }
        at += some as u64;
    }
    true
}

fn main() {
    let runtime = tokio::runtime::Runtime::new().expect("runtime");
    runtime.block_on(async {
        if !drain::is_drain().await {
            compare().await;
        }
    });
}

fn median<T: Copy + Ord>(values: &[T]) -> T {
    let mut values = values.to_vec();
    values.sort_unstable();
    values[values.len() / 2]
}

/// Prints one line of the table.
fn print(step: &str, who: &str, bytes: Option<u64>, runs: &[Usage], stored: Option<u64>) {
    let mb = |bytes: u64| format!("{:.0}", bytes as f64 / 1e6);
    let walls: Vec<Duration> = runs.iter().map(|run| run.wall).collect();
    let cpus: Vec<Duration> = runs.iter().map(|run| run.cpu).collect();
    let wall = median(&walls);
    let most = |of: fn(&Usage) -> u64| mb(runs.iter().map(of).max().expect("a run"));
    println!(
        "| {step} | {who} | {:.2} ({:.2}-{:.2}) | {} | {:.2} | {} | {} | {} |",
        wall.as_secs_f64(),
        walls.iter().min().expect("a run").as_secs_f64(),
        walls.iter().max().expect("a run").as_secs_f64(),
        bytes.map_or_else(String::new, |bytes| format!("{:.0}", megabytes_per_second(bytes, wall))),
        median(&cpus).as_secs_f64(),
        stored.map_or_else(String::new, mb),
        most(|run| run.peak.resident),
        most(|run| run.peak.own),
    );
}

/// What all programs work with.
struct Scene {
    set: ReplicaSet,
    folder: tempfile::TempDir,
    data: Data,
    runner: Program,
    rounds: u32,
}

impl Scene {
    fn dumps(&self) -> PathBuf {
        self.folder.path().join("dumps")
    }

    fn place(&self, contender: usize, round: u32) -> Place {
        let folder = self.folder.path().join(format!("{contender}-{round}"));
        let place = Place {
            home: folder.join("home"),
            repository: folder.join("repository"),
            out: folder.join("out"),
        };
        fs::create_dir_all(&place.home).expect("make a folder");
        place
    }

    /// Brings source and dump to what they are before a step; returns the bytes.
    async fn prepare(&self, step: Step, bytes: u64) -> u64 {
        let dump = self.dumps().join("dump");
        let all: Vec<u32> = (0..COLLECTIONS).collect();
        let bytes = match step {
            Step::Ingest => {
                let maker = |number: u32| move |n| Data::document(number, n, false);
                drain::load(self.set.client(), self.data.count, maker).await;
                self.data.dump(&dump, false, &all)
            }
            Step::Again => {
                self.data.replace(&self.set).await;
                self.data.dump(&dump, true, &all)
            }
            Step::Half => {
                let (gone, left): (Vec<u32>, Vec<u32>) = all.iter().partition(|n| *n % 2 == 1);
                for number in gone {
                    let database = self.set.client().database(DATABASE);
                    let drop = doc! { "drop": format!("c{number}") };
                    database.run_command(drop).await.expect("drop");
                }
                self.data.dump(&dump, true, &left)
            }
            Step::Check | Step::Restore | Step::Compact => bytes,
        };
        self.set.wait_replicated().await.expect("replicated");
        bytes
    }

    async fn run(&self, line: &[String]) -> Usage {
        let begun = Instant::now();
        measure(self.runner.spawn(line).expect("start"), begun).await
    }

    /// A step of one program in one round.
    async fn step(&self, who: &Contender, step: Step, place: &Place) -> Usage {
        let dumps = self.dumps();
        if step == Step::Ingest {
            for command in who.init() {
                self.run(&who.line(&command, None, place, &dumps)).await;
            }
        }
        if step == Step::Restore {
            fs::create_dir_all(&place.out).expect("make a folder");
        }
        let mut old = Vec::new();
        if who.kind == Kind::Headstock && step == Step::Compact {
            let program = Program::new(&who.binary).expect("program");
            let snapshots = Backup::new(program, &place.repository).snapshots().await;
            old = snapshots.expect("snapshots").into_iter().map(|one| one.id).collect();
            old.pop();
        }
        let mut usage = Usage::default();
        for command in who.commands(step, place, &self.set.uri(), &old) {
            usage += self.run(&who.line(&command, Some(step), place, &dumps)).await;
        }
        if step == Step::Restore {
            is_restored(&dumps.join("dump"), &place.out);
            fs::remove_dir_all(&place.out).expect("remove what was restored");
        }
        usage
    }

    /// Reads the source and does nothing else.
    async fn drain(&self, more: &[&str]) -> Vec<Usage> {
        let itself = std::env::current_exe().expect("own path");
        let line = [itself.to_str().expect("text"), drain::ARGUMENT, &self.set.uri()];
        let line = words(&[&line[..], more].concat());
        let mut runs = Vec::new();
        for _ in 0..self.rounds {
            runs.push(self.run(&line).await);
        }
        runs
    }
}

async fn compare() {
    let contenders = Contender::all();
    for one in &contenders {
        println!("{}: {}", one.title(), one.version());
    }
    let mb = argument("--mb").unwrap_or_else(|| sized(1_000, 24));
    // The server's cache holds all of it, so that its disk is not what is measured.
    let options = Options { cache_gb: 3.0, ..Options::members(1) };
    let scene = Scene {
        set: ReplicaSet::start(options).await.expect("start a set"),
        folder: temporary_folder(&std::env::temp_dir()).expect("temporary folder"),
        data: Data::new(u64::from(mb) * 1_000_000),
        runner: Program::new("env").expect("program"),
        rounds: argument("--rounds").unwrap_or_else(|| sized(3, 1)),
    };
    let load = || fs::read_to_string("/proc/loadavg").expect("the machine's load");
    println!("{} rounds, load before: {}", scene.rounds, load().trim());
    let mut bytes = 0;
    for step in Step::ALL {
        bytes = scene.prepare(step, bytes).await;
        if step == Step::Ingest {
            let documents = scene.data.count * COLLECTIONS;
            println!(
                "{documents} documents of {} bytes on average\n",
                bytes / u64::from(documents)
            );
            println!(
                "| step | program | s (least-most) | MB/s | CPU s | stored MB | peak RSS MB | of it its own |"
            );
            println!("|---|---|---|---|---|---|---|---|");
            // The first warms the server's cache.
            scene.drain(&[drain::ONLY_READ]).await;
            let runs = scene.drain(&[drain::ONLY_READ]).await;
            print("ingest", "(the server read, nothing else)", Some(bytes), &runs, None);
            let runs = scene.drain(&[]).await;
            print("ingest", "(the same, and compressed by zstd 3)", Some(bytes), &runs, None);
        }
        let mut taken: Vec<(Vec<Usage>, Vec<u64>)> = vec![Default::default(); contenders.len()];
        let mut reserved = 0;
        for round in 0..scene.rounds {
            for (index, who) in contenders.iter().enumerate() {
                let place = scene.place(index, round);
                let usage = scene.step(who, step, &place).await;
                let (stored, reserve) = on_disk(&place.repository);
                taken[index].0.push(usage);
                taken[index].1.push(stored);
                reserved = reserved.max(reserve);
            }
        }
        for (who, (runs, stored)) in contenders.iter().zip(&taken) {
            let of = (step != Step::Compact).then_some(bytes);
            let stored = step.stores().then(|| median(stored));
            print(step.name(), &who.title(), of, runs, stored);
        }
        if step == Step::Compact {
            println!(
                "\nHeadstock keeps back {:.0} MB beside this (RESERVE)",
                reserved as f64 / 1e6
            );
        }
    }
    println!("load after: {}", load().trim());
}
