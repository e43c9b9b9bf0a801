//! A small store, one segment of which is changed, cut or filled up, its checksums made good again if the
//! script says so, its index runs too. Opening it, for writing and for reading, ends in a store or a typed error; what a store
//! gives hashes to its name, the same after another opening; where no checksum is forged, every record
//! left as it was gives its block. No more is read than a few times what the files have.
#![no_main]

mod common;

use std::collections::BTreeMap;

use common::{STORE, Scene, Script, copy, forge, open, open_reader, paths, read};
use headstock::block::{BlockId, BlockRead as _};
use headstock::lab::SimDisk;
use headstock::store::Store;
use headstock::store::fsck::{self, Level};
use libfuzzer_sys::fuzz_target;

const MAX_EDITS: u8 = 8;
/// A store of a quarter of a megabyte is opened three times and checked once.
const MAX_READ_BYTES: u64 = 64 << 20;

fuzz_target!(|data: &[u8]| {
    let mut script = Script(data);
    let Some(flags) = script.byte() else { return };
    let scene = Scene::get(flags);
    let disk = scene.moment(flags);
    let (is_closed, mmap) = (flags % 3 == 0, flags & 0x04 != 0);
    if flags & 0x08 != 0 {
        paths(&disk, "index").iter().for_each(|path| disk.put_file(path, None));
    }
    let segments = paths(&disk, "segments");
    let which = script.below(segments.len());
    let (path, before) = (&segments[which], read(&disk, &segments[which]));
    let mut bytes = before.clone();
    for _ in 0..=script.next() % MAX_EDITS {
        forge::edit_segment(&mut bytes, &mut script);
    }
    let number = which as u32 + 1;
    assert!(path.ends_with(format!("{number:08x}.seg")));
    let seals = if flags & 0x10 == 0 { 0 } else { script.next() };
    if seals & 0x01 != 0 {
        forge::seal_sector(&mut bytes);
    }
    if seals & 0x02 != 0 {
        forge::seal_records(&mut bytes, &scene.uuid, number);
    }
    if seals & 0x04 != 0 {
        forge::seal_footer(&mut bytes);
    }
    if seals & 0x08 != 0 {
        forge_run(&disk, &mut script);
    }
    disk.put_file(path, Some(bytes.clone()));

    let reader_disk = copy(&disk);
    if flags & 0x20 == 0
        && let Ok(reader) = open_reader(&reader_disk, scene.options(mmap))
    {
        readable(scene, &reader, &bytes);
    }
    let Ok(store) = open(&disk, scene.options(mmap)) else { return };
    let found = readable(scene, &store, &bytes);
    if seals == 0 && is_closed {
        check_untouched(&before, &bytes, &found);
    }
    let _ = fsck::run(&store, Level::Data, &mut |_| {});
    drop(store);
    let store = open(&disk, scene.options(mmap)).expect("what was opened opens again");
    assert!(readable(scene, &store, &bytes) == found, "another opening gives something else");
    let read = disk.bytes_read() + reader_disk.bytes_read();
    assert!(read < MAX_READ_BYTES, "{read} bytes were read below {STORE}");
});

/// Changes an index run, which may get the last of all numbers.
fn forge_run(disk: &SimDisk, script: &mut Script<'_>) {
    let runs = paths(disk, "index");
    let Some(path) = runs.get(script.below(runs.len())) else { return };
    let mut bytes = read(disk, path);
    forge::edit_run(&mut bytes, script);
    disk.put_file(path, None);
    let number = if script.next() % 2 == 0 { 1 } else { script.number(u64::MAX) };
    disk.put_file(&path.with_file_name(format!("{number:016x}.run")), Some(bytes));
}

/// The blocks that a store gives of all that it ever held and all that the changed segment names.
fn readable(scene: &Scene, store: &Store, segment: &[u8]) -> BTreeMap<BlockId, usize> {
    let named = segment.chunks(8).enumerate().filter(|(_, word)| word.starts_with(b"HSR\x1a"));
    let named =
        named.filter_map(|(at, _)| BlockId::from_slice(segment.get(at * 8 + 16..at * 8 + 48)?));
    let all: Vec<BlockId> = scene.blocks.keys().copied().chain(named).collect();
    let mut found = BTreeMap::new();
    for id in all {
        if let Ok(block) = store.get(&id) {
            assert_eq!(scene.name(block.kind, &block.bytes), id, "not what its name says");
            found.insert(id, block.bytes.len());
        }
    }
    found
}

/// Of a segment that was sealed, a record that is as it was is found whatever happened to the others.
fn check_untouched(before: &[u8], after: &[u8], found: &BTreeMap<BlockId, usize>) {
    for (start, end) in forge::records(before) {
        if after.get(start..end) == Some(&before[start..end]) {
            let id = BlockId::from_slice(&before[start + 16..start + 48]).expect("a name");
            assert!(found.contains_key(&id), "a whole record at {start} is lost");
        }
    }
}
