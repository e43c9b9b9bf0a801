//! A damaged byte anywhere in a store is found, or does no harm.

mod store_common;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use headstock::block::{BlockRead, BlockWrite, Kind};
use headstock::lab::SimDisk;
use headstock::store::fsck::{self, Level, Part, Report, Settings, Severity};
use headstock::store::{Error, RepositorySalt, Store};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use store_common::{copy_dir, fast, files, put_graph, reach_all, small};

fn verify(dir: &Path) -> Result<Report, Error> {
    fsck::run_on(dir, fast(false), Level::Data, &mut |_| {})
}

/// A store with sealed segments, an index run and, while it is open, an active segment.
fn sample(dir: &Path) -> Store {
    let store = Store::create(dir, fast(false)).unwrap();
    let mut random = StdRng::seed_from_u64(31);
    for round in 0..3 {
        let id = put_graph(&store, &mut random, 60, 4000);
        store.commit(|roots| _ = roots.insert(format!("job{round}"), id)).unwrap();
    }
    store
}

#[test]
fn a_sound_store_has_no_finding() {
    let dir = tempfile::tempdir().unwrap();
    let store = sample(dir.path());
    for level in [Level::Quick, Level::Graph, Level::Data] {
        let report = fsck::run_on(dir.path(), fast(true), level, &mut |_| {}).unwrap();
        assert!(report.findings.is_empty(), "{:?}", report.findings);
        let all = reach_all(&store).len() as u64;
        assert_eq!(report.reachable, if level == Level::Quick { 0 } else { all });
        assert!(report.segments > 2 && (level != Level::Data || report.records >= all));
    }
    let report = fsck::run(&store, Level::Data, &mut |_| {}).unwrap();
    assert!(report.findings.is_empty(), "{:?}", report.findings);
}

#[test]
fn a_flipped_byte_is_found_or_harmless() {
    let seed = rand::random();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let dir = tempfile::tempdir().unwrap();
    let store = sample(dir.path());
    let (seq, roots) = store.roots();
    let all = reach_all(&store);
    let mut paths = Vec::new();
    files(dir.path(), &mut paths);
    paths.retain(|path| !path.ends_with("LOCK"));
    // Of segments, and of all files: flips found, and flips that change nothing.
    let mut counts = [[0, 0], [0, 0]];
    for path in paths {
        let whole = std::fs::read(&path).unwrap();
        let used = whole.iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1);
        for _ in 0..(used / 8).clamp(1, 60) {
            let mut bytes = whole.clone();
            let at = random.random_range(0..used);
            bytes[at] ^= 1 << random.random_range(0..8);
            std::fs::write(&path, &bytes).unwrap();
            let in_segment = path.extension().is_some_and(|name| name == "seg");
            let mut count = |index: usize| {
                counts[1][index] += 1;
                counts[0][index] += u32::from(in_segment);
            };
            match verify(dir.path()) {
                Ok(report) if report.findings.is_empty() => {
                    count(1);
                    let reader = Store::open_reader(dir.path(), fast(false)).unwrap();
                    let at = format!("{} at {at}", path.display());
                    // A flip in the last log record is a torn tail: the commit before.
                    let in_log = path.extension().is_some_and(|name| name == "log");
                    assert!(reader.roots() == (seq, roots.clone()) || in_log, "{at}");
                    assert!(in_log || reach_all(&reader) == all, "{at}");
                }
                _ => count(0),
            }
        }
        std::fs::write(&path, &whole).unwrap();
    }
    // Harmless are flips in padding, in reserved bytes of `HEAD` and `STORE`, and in the last commit
    // record, which cannot be told from a torn one.
    println!("found and harmless: in segments {:?}, in all {:?}", counts[0], counts[1]);
    assert!(counts[0][0] > 20 * counts[0][1] && counts[1][0] > counts[1][1]);
}

#[test]
fn damage_is_named_and_costs_one_block() {
    let dir = tempfile::tempdir().unwrap();
    let store = sample(dir.path());
    let roots = store.roots().1;
    drop(store);
    let segment = dir.path().join("segments/00000001.seg");
    let whole = std::fs::read(&segment).unwrap();
    for (at, code) in [(4096 + 20, "HS-REC-001"), (4096 + 64 + 3, "HS-REC-002")] {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x40;
        std::fs::write(&segment, &bytes).unwrap();
        let report = verify(dir.path()).unwrap();
        let first = &report.findings[0];
        assert_eq!((first.code.as_str(), first.offset), (code, Some(4096)));
        assert_eq!(first.severity, Severity::Error);
        assert!(!report.is_sound());
        assert!(report.is_affected(&roots["job0"]) && !report.is_affected(&roots["job1"]));
        let json = serde_json::to_string(&report).unwrap();
        assert!(json.contains(code) && json.contains("\"severity\":\"error\""), "{json}");
        let store = Store::open(dir.path(), fast(false)).unwrap();
        assert!(store.get(&roots["job1"]).is_ok());
    }
    std::fs::write(&segment, &whole).unwrap();
    assert!(verify(dir.path()).unwrap().findings.is_empty());
}

#[test]
fn headers_and_footers_can_be_done_without() {
    let dir = tempfile::tempdir().unwrap();
    drop(sample(dir.path()));
    std::fs::remove_dir_all(dir.path().join("index")).unwrap();
    let segment = dir.path().join("segments/00000001.seg");
    let whole = std::fs::read(&segment).unwrap();
    for (at, code) in [(33, "HS-SEG-002"), (whole.len() - 100, "HS-SEG-003")] {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        std::fs::write(&segment, &bytes).unwrap();
        let report = verify(dir.path()).unwrap();
        let codes: Vec<&str> = report.findings.iter().map(|one| one.code.as_str()).collect();
        assert_eq!(codes, [code]);
        let reader = Store::open_reader(dir.path(), fast(false)).unwrap();
        assert!(reach_all(&reader).len() > 100);
    }
}

#[test]
fn a_damaged_index_is_a_warning() {
    let dir = tempfile::tempdir().unwrap();
    drop(sample(dir.path()));
    drop(Store::open(dir.path(), fast(false)).unwrap());
    let run = std::fs::read_dir(dir.path().join("index")).unwrap().next().unwrap().unwrap().path();
    let whole = std::fs::read(&run).unwrap();
    for (at, code) in [(20, "HS-IDX-001"), (whole.len() - 5, "HS-IDX-002")] {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        std::fs::write(&run, &bytes).unwrap();
        let report = verify(dir.path()).unwrap();
        assert!(report.findings.iter().any(|finding| finding.code.as_str() == code));
    }
}

/// The codes that a check of a depth gives.
fn codes(dir: &Path, settings: impl Into<Settings>) -> Vec<String> {
    let report = fsck::run_on(dir, fast(false), settings, &mut |_| {}).unwrap();
    report.findings.iter().map(|finding| finding.code.as_str().to_owned()).collect()
}

#[test]
fn each_depth_finds_what_it_reads() {
    let dir = tempfile::tempdir().unwrap();
    drop(sample(dir.path()));
    let segment = dir.path().join("segments/00000001.seg");
    let whole = std::fs::read(&segment).unwrap();
    // A footer, the bytes of a leaf, those of a node or links block, and a file that is not there.
    let flip = |at: usize| {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        std::fs::write(&segment, bytes).unwrap();
    };
    flip(whole.len() - 100);
    for level in [Level::Quick, Level::Graph, Level::Data] {
        assert!(codes(dir.path(), level).contains(&"HS-SEG-003".to_owned()), "{level:?}");
    }
    flip(4096 + 64 + 3);
    assert_eq!(codes(dir.path(), Level::Quick), [""; 0]);
    assert_eq!(codes(dir.path(), Level::Graph), [""; 0], "a leaf is not read");
    assert!(codes(dir.path(), Level::Data).contains(&"HS-REC-002".to_owned()));
    std::fs::write(&segment, &whole).unwrap();
    let other = dir.path().join("segments/00000002.seg");
    std::fs::rename(&other, dir.path().join("away")).unwrap();
    for level in [Level::Quick, Level::Graph, Level::Data] {
        let found = codes(dir.path(), level);
        assert!(found.contains(&"HS-SEG-001".to_owned()), "{level:?}");
        let graph = found.iter().any(|code| code.starts_with("HS-BLK"));
        assert_eq!(graph, level != Level::Quick, "{level:?}: {found:?}");
    }
}

#[test]
fn parts_get_through_the_whole_store_and_remember_what_they_read() {
    let dir = tempfile::tempdir().unwrap();
    drop(sample(dir.path()));
    let part = |percent| Settings {
        part: Some(Part { percent: Some(percent), ..Part::default() }),
        ..Settings::from(Level::Data)
    };
    let check =
        |percent| fsck::run_on(dir.path(), fast(false), part(percent), &mut |_| {}).unwrap();
    let first = check(1);
    let segments = first.coverage.never_checked + 1;
    assert_eq!((first.whole_segments, segments > 2), (1, true));
    assert_eq!(first.reachable, 0, "the graph is left to another check");
    let mut runs = 1;
    while check(1).coverage.never_checked > 0 {
        runs += 1;
        assert!(runs < 100, "{runs} runs do not get through {segments} segments");
    }
    assert_eq!(runs + 1, segments, "one segment a run");
    // A damaged one is told with what it touches, and is the first to be read until it is whole again.
    let segment = dir.path().join("segments/00000001.seg");
    let whole = std::fs::read(&segment).unwrap();
    let mut bytes = whole.clone();
    bytes[4096 + 64 + 3] ^= 1;
    std::fs::write(&segment, bytes).unwrap();
    assert!(codes(dir.path(), part(100)).contains(&"HS-BLK-002".to_owned()));
    let report = check(1);
    assert_eq!((report.whole_segments, report.coverage.damaged_segments), (1, 1));
    assert_eq!(report.findings[0].code.as_str(), "HS-REC-002");
    std::fs::write(&segment, whole).unwrap();
    let report = check(1);
    assert_eq!((report.findings.len(), report.coverage.damaged_segments), (0, 0));
    // No time is no segment.
    let none = Part { max_duration: Some(Duration::ZERO), ..Part::default() };
    let settings = Settings { part: Some(none), ..Settings::from(Level::Data) };
    let report = fsck::run_on(dir.path(), fast(false), settings, &mut |_| {}).unwrap();
    assert_eq!(report.whole_segments, 0);
    // Neither is what was found sound a moment ago; a moment later it is due again.
    for (age, due) in [(Duration::from_secs(3600), 0), (Duration::ZERO, segments)] {
        let part = Part { unchecked_for: Some(age), ..Part::default() };
        let settings = Settings { part: Some(part), ..Settings::from(Level::Data) };
        let report = fsck::run_on(dir.path(), fast(false), settings, &mut |_| {}).unwrap();
        assert_eq!(report.whole_segments, due);
    }
}

#[test]
fn a_root_of_the_wrong_kind_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::create(dir.path(), fast(true)).unwrap();
    let leaf = store.put(Kind::Leaf, b"no links").unwrap();
    store.commit(|roots| _ = roots.insert("job".into(), leaf)).unwrap();
    let report = verify(dir.path()).unwrap();
    assert_eq!(report.findings[0].code.as_str(), "HS-BLK-004");
}

#[test]
fn a_head_that_is_cut_costs_nothing_while_its_newest_slot_is_there() {
    let dir = tempfile::tempdir().unwrap();
    // A creation writes the second slot, its first commit the first.
    drop(sample(dir.path()));
    let roots = Store::open_reader(dir.path(), fast(false)).unwrap().roots();
    let head = dir.path().join("HEAD");
    let whole = std::fs::read(&head).unwrap();
    let generation =
        |slot: usize| u64::from_le_bytes(whole[slot + 32..slot + 40].try_into().unwrap());
    assert!(generation(0) > generation(4096), "the newest is the first");
    for len in [4096, 4097, 5000, 8191] {
        std::fs::write(&head, &whole[..len]).unwrap();
        let report = verify(dir.path()).unwrap();
        assert!(
            report.is_sound() && report.findings[0].code.as_str() == "HS-LOG-001",
            "{report:?}"
        );
        let copy = tempfile::tempdir().unwrap();
        copy_dir(dir.path(), copy.path());
        assert_eq!(Store::open(copy.path(), small(false)).unwrap().roots(), roots);
        assert!(verify(copy.path()).unwrap().findings.is_empty(), "an opening mends it");
    }
}

#[test]
fn a_damaged_slot_of_head_is_named() {
    let dir = tempfile::tempdir().unwrap();
    drop(sample(dir.path()));
    // The first commit after an opening starts a new log file, and with it the other slot.
    Store::open(dir.path(), fast(false)).unwrap().commit(|_| {}).unwrap();
    let head = dir.path().join("HEAD");
    let whole = std::fs::read(&head).unwrap();
    for slot in [0, 4096] {
        let mut damaged = whole.clone();
        damaged[slot..slot + 16].fill(0xa5);
        std::fs::write(&head, &damaged).unwrap();
        let told = match verify(dir.path()) {
            Ok(report) => format!("{:?}", report.findings),
            Err(error) => error.to_string(),
        };
        assert!(told.contains("HEAD"), "slot at {slot}: {told}");
    }
}

/// Trees are read before records, through a store that notes what it reads: as fast as is allowed, like these.
#[test]
fn no_part_of_a_check_reads_faster_than_it_may() {
    let dir = tempfile::tempdir().expect("a folder");
    let store = sample(dir.path());
    let blocks = reach_all(&store);
    drop(store);
    let store = Store::open_reader(dir.path(), small(false)).expect("open");
    let bytes = store.stats().stored_bytes;
    let settings = Settings { bytes_per_second: Some(bytes), ..Settings::from(Level::Data) };
    let least = Duration::from_millis(700);
    let noting = store.noting(&settings);
    let begun = Instant::now();
    blocks.iter().for_each(|id| _ = noting.get(id).expect("there"));
    assert!(begun.elapsed() > least, "{:?}", begun.elapsed());
    let begun = Instant::now();
    fsck::run(&noting, settings, &mut |_| {}).expect("a check");
    assert!(begun.elapsed() > least, "{:?}", begun.elapsed());
}

/// Few reads fail for one bad sector, each of which a disk may try for seconds.
#[test]
fn a_bad_sector_is_not_read_again_and_again() {
    let (disk, dir) = (SimDisk::new(Path::new("/disk")), Path::new("/disk/store"));
    let salt = RepositorySalt([5; 32]);
    let store = Store::create_on(Arc::new(disk.clone()), dir, small(false), salt).expect("create");
    let mut random = StdRng::seed_from_u64(3);
    for _ in 0..8 {
        let raw: Vec<u8> = (0..30_000).map(|_| random.random()).collect();
        store.put(Kind::Leaf, &raw).expect("put");
    }
    store.commit(|_| {}).expect("commit");
    drop(store);
    let check = || {
        let store = Store::open_on(Arc::new(disk.clone()), dir, small(false)).expect("open");
        let before = disk.bytes_read();
        let told = fsck::run(&store, Level::Data, &mut |_| {}).expect("a check").findings;
        (told.len(), disk.bytes_read() - before)
    };
    let (none, intact) = check();
    disk.spoil(Path::new("/disk/store/segments/00000001.seg"), 4096 + 20_000);
    let (some, read) = check();
    assert!(none == 0 && some > 0, "{none} {some}");
    // Each is of a window of 4 KiB, and of what is looked at in it.
    let failed = (read - intact) / (4096 + 64);
    assert!(failed < 64, "{failed}");
}
