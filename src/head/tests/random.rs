//! Random workloads against the model. The seed of a failure is printed.

use rand::Rng;

use super::Place;
use super::entries::{optime, position, ts};
use super::workload::Workload;
use crate::head::{Collection, Head, HeadRoot, Manifest, Scope, catalog};
use crate::oplog::OpTime;

/// Seeds of one run of a test.
const SEEDS: u64 = 12;
/// Steps of one workload; a step makes an entry or more.
const STEPS: usize = 400;

fn workload(seed: u64, steps: usize) -> Workload {
    let mut workload = Workload::new(seed);
    (0..steps).for_each(|_| workload.step());
    workload
}

/// A head of a source that was empty before its first entry.
fn empty(place: &Place) -> Head {
    let start = position(0);
    Head::from_scan(place.blocks.clone(), place.config(), start, start.optime, Vec::new())
        .expect("starts")
}

fn check(workload: &Workload, n: usize, head: &Head, root: &HeadRoot, what: &str) {
    workload.states[n].check(&head.collections(), root.content_root, what);
    assert_eq!(head.divergences(), crate::head::Divergences::default(), "{what}");
    let documents = workload.states[n].collections.values().map(|found| found.documents.len());
    assert_eq!(root.documents, documents.sum::<usize>() as u64, "{what}");
}

/// Flushes and restarts anywhere leave what applying each entry at once leaves.
#[test]
fn steady() {
    let (mut spilled, mut reloaded) = (0, 0);
    for seed in 0..SEEDS {
        let what = format!("seed {seed}");
        let mut workload = workload(seed, STEPS);
        let place = Place::new(workload.rng.random_range(500..20_000));
        let mut head = empty(&place);
        let mut last = (0, place.flush(&mut head));
        for n in 1..=workload.entries.len() {
            head.apply(&workload.entries[n - 1]).unwrap_or_else(|error| panic!("{what}: {error}"));
            spilled += usize::from(place.scratch_files() > 0);
            if head.flush_due() || workload.rng.random_bool(0.02) {
                last = (n, place.flush(&mut head));
                check(&workload, n, &head, &last.1, &format!("{what}, entry {n}"));
                let stored = catalog(&*place.blocks, &last.1).expect("readable");
                let stored: Vec<&Collection> = stored.iter().collect();
                workload.states[n].check(&stored, last.1.content_root, &what);
            }
            if workload.rng.random_bool(0.02) {
                reloaded += 1;
                head = place.load(&last.1);
                assert_eq!(head.position(), last.1.position);
                for entry in &workload.entries[last.0..n] {
                    head.apply(entry).unwrap_or_else(|error| panic!("{what} again: {error}"));
                }
            }
        }
        let root = place.flush(&mut head);
        check(&workload, workload.entries.len(), &head, &root, &what);
        assert_eq!(place.scratch_files(), 0, "{what}: runs are gone after a flush");
        let prepared: Vec<_> = workload.prepared().into_iter().map(ts).collect();
        assert_eq!(head.undecided(), prepared, "{what}");
    }
    assert!(spilled > 100 && reloaded > 20, "{spilled} spills, {reloaded} restarts");
}

/// A scan that read each document at another time is made consistent by the entries that follow.
#[test]
fn fuzzy() {
    for seed in 100..100 + 2 * SEEDS {
        let mut workload = workload(seed, STEPS);
        let entries = workload.entries.len();
        let start = workload.rng.random_range(0..entries / 2);
        let until = workload.rng.random_range(start..entries);
        let what = format!("seed {seed}, scan from {start} to {until}");
        let place = Place::new(workload.rng.random_range(500..20_000));
        let scanned = mixture(&mut workload, &place, start, until);
        let number = |n: usize| u32::try_from(n).expect("small");
        let config = place.config();
        let at = position(number(start));
        let until_optime = optime(number(until));
        let made = Head::from_scan(place.blocks.clone(), config, at, until_optime, scanned);
        let mut head = made.unwrap_or_else(|error| panic!("{what}: {error}"));
        for entry in &workload.entries[..start] {
            head.preload(entry).unwrap_or_else(|error| panic!("{what}: {error}"));
        }
        for n in start + 1..=entries {
            head.apply(&workload.entries[n - 1]).unwrap_or_else(|error| panic!("{what}: {error}"));
            assert_eq!(head.consistent_from().is_some(), n >= until, "{what}, entry {n}");
            if n == until || workload.rng.random_bool(0.02) {
                let root = place.flush(&mut head);
                if n >= until {
                    check(&workload, n, &head, &root, &format!("{what}, entry {n}"));
                    assert_eq!(root.consistent_from, Some(optime(number(until))), "{what}");
                }
                if workload.rng.random_bool(0.5) {
                    head = place.load(&root);
                }
            }
        }
        let root = place.flush(&mut head);
        check(&workload, entries, &head, &root, &what);
    }
}

/// A head of some names takes in what a scan found of the others, begun later than the head was flushed.
#[test]
fn beside() {
    let mut taken = 0;
    for seed in 300..300 + 2 * SEEDS {
        let mut workload = workload(seed, STEPS);
        let entries = workload.entries.len();
        let flushed = workload.rng.random_range(0..entries / 2);
        let start = workload.rng.random_range(flushed..=entries / 2);
        let until = workload.rng.random_range(start..entries);
        let what = format!("seed {seed}, head {flushed}, scan from {start} to {until}");
        let mut place = Place::new(workload.rng.random_range(500..20_000));
        let some = ["app.c0", "app.c1", "app.c2"].map(|text| text.parse().expect("a filter"));
        place.scope = Scope::new(some.to_vec(), Vec::new()).expect("few");
        let mut head = empty(&place);
        for entry in &workload.entries[..flushed] {
            head.apply(entry).unwrap_or_else(|error| panic!("{what}: {error}"));
        }
        let root = place.flush(&mut head);
        place.scope = Scope::all();
        let mut head = place.load(&root);
        let held: Vec<_> = head.collections().iter().map(|held| held.uuid).collect();
        let mut scanned = mixture(&mut workload, &place, start, until);
        scanned.retain(|found| !held.contains(&found.uuid));
        taken += scanned.len();
        let number = |n: usize| u32::try_from(n).expect("small");
        head.expect(optime(number(until)));
        let mut scanned = Some(scanned);
        for n in flushed..=entries {
            if n > flushed {
                let applied = head.apply(&workload.entries[n - 1]);
                applied.unwrap_or_else(|error| panic!("{what}, entry {n}: {error}"));
            }
            if n == start {
                let adopted = head.adopt(scanned.take().expect("once"));
                adopted.unwrap_or_else(|error| panic!("{what}: {error}"));
            }
            if n == until || workload.rng.random_bool(0.02) {
                let root = place.flush(&mut head);
                if n >= until {
                    check(&workload, n, &head, &root, &format!("{what}, entry {n}"));
                    assert!(head.absent().is_empty(), "{what}: {:?}", head.absent());
                }
                head = place.load(&root);
            }
        }
    }
    assert!(taken > 50, "{taken} collections taken in");
}

/// Every collection as listed at one moment between two entries, each of its documents as it was at
/// some moment after that. A capped collection is read at one moment.
fn mixture(workload: &mut Workload, place: &Place, start: usize, until: usize) -> Vec<Collection> {
    let mut scanned = Vec::new();
    let all: std::collections::BTreeSet<_> = workload.states[start..=until]
        .iter()
        .flat_map(|state| state.collections.keys())
        .copied()
        .collect();
    for uuid in all {
        let listed = workload.rng.random_range(start..=until);
        let Some(mut found) = workload.states[listed].collections.get(&uuid).cloned() else {
            continue;
        };
        let alive: Vec<_> = workload.states[listed..=until]
            .iter()
            .filter_map(|state| state.collections.get(&uuid))
            .map(|state| state.documents.clone())
            .collect();
        if found.max.is_some() {
            found.documents = alive[workload.rng.random_range(0..alive.len())].clone();
        } else {
            let keys: std::collections::BTreeSet<_> =
                alive.iter().flatten().map(|(key, _)| key.clone()).collect();
            found.documents = Vec::new();
            for key in keys {
                let then = &alive[workload.rng.random_range(0..alive.len())];
                found.documents.extend(then.iter().find(|(of, _)| *of == key).cloned());
            }
        }
        scanned.push(found.build(&*place.blocks, uuid));
    }
    scanned
}

/// Restoring to any point gives what a reader at that time saw: prepared transactions are visible
/// from their commitTimestamp on.
#[test]
fn points_in_time() {
    for seed in 200..200 + SEEDS {
        let mut workload = workload(seed, STEPS);
        let place = Place::new(4000);
        let at = workload.rng.random_range(0..workload.entries.len());
        let mut head = empty(&place);
        for entry in &workload.entries[..at] {
            head.apply(entry).expect("applies");
        }
        let number = |n: usize| u32::try_from(n).expect("small");
        let open = head.undecided();
        let mut rest = workload.entries[at..].iter();
        while !head.undecided().is_empty() {
            let Some(entry) = rest.next() else { break };
            head.decide(entry, ts(number(at))).expect("decides");
        }
        if !head.undecided().is_empty() {
            continue;
        }
        let root = place.flush(&mut head);
        // In the workload commitTimestamp is the prepare's, so all that were prepared count; their
        // collections are not written to in between, so the model's state right after the commits
        // differs from that at `at` in nothing else of those collections.
        let mut wanted = workload.states[at].clone();
        for (n, state) in workload.states.iter().enumerate().skip(at + 1) {
            let entry = &workload.entries[n - 1];
            let Ok(previous) = entry.get_document("prevOpTime") else { continue };
            let Ok(o) = entry.get_document("o") else { continue };
            let prepared = previous.get_timestamp("ts").map(crate::oplog::Ts::from);
            if o.get_timestamp("commitTimestamp").is_ok()
                && prepared.is_ok_and(|ts| open.contains(&ts))
            {
                for (uuid, found) in &state.collections {
                    let before = workload.states[n - 1].collections.get(uuid);
                    let changed = before.is_some_and(|b| b.documents != found.documents);
                    if let (true, Some(entry)) = (changed, wanted.collections.get_mut(uuid)) {
                        entry.documents = found.documents.clone();
                    }
                }
            }
        }
        wanted.check(&head.collections(), root.content_root, &format!("seed {seed} at {at}"));
    }
}

/// What stands in a commit reads back.
#[test]
fn stored_forms() {
    let workload = workload(1, 200);
    let place = Place::new(4000);
    let mut head = empty(&place);
    for entry in &workload.entries {
        head.apply(entry).expect("applies");
    }
    let root = place.flush(&mut head);
    assert_eq!(HeadRoot::from_bson(&root.to_bson()).expect("well formed"), root);
    let id = Manifest::new_id(root.position.optime.ts);
    assert!(id < Manifest::new_id(ts(1_000_000)), "{id}");
    let manifest = Manifest {
        id,
        head: HeadRoot { consistent_from: None, pending: None, ..root },
        taken_ms: 5,
        set_name: "rs".into(),
        replica_set_id: [8; 12],
        fcv: "6.0".into(),
        server_version: "6.0.5".into(),
        rule_version: crate::head::RULE_VERSION,
        added_bytes: 77,
        keep: true,
        scope: crate::head::Scope::all(),
    };
    let block = manifest.write(&*place.blocks).expect("written");
    assert_eq!(Manifest::read(&*place.blocks, &block).expect("well formed"), manifest);
    let _: OpTime = manifest.head.position.optime;
}
