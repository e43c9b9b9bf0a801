//! Documents to blocks: how fast one thread, and several on collections of their own, build trees into
//! a store, the commit included.

mod common;

use std::num::NonZero;
use std::thread;

use common::{build, bytes_of, documents, report, sized, store, timed};

fn main() {
    let documents = documents(sized(400_000, 10_000));
    let bytes = bytes_of(&documents);
    let count = documents.len() as u64;

    let (_folder, one) = store();
    let ((), took) = timed(|| {
        build(&one, &documents);
        one.commit(|_| {}).expect("commit");
    });
    report("ingest, one thread", count, bytes, took, one.stats().stored_bytes);

    // Every thread has a part of the documents for its own, so that nothing deduplicates.
    let threads = thread::available_parallelism().map_or(1, NonZero::get);
    let part = documents.len().div_ceil(threads);
    let (_folder, many) = store();
    let ((), took) = timed(|| {
        thread::scope(|scope| {
            for part in documents.chunks(part) {
                scope.spawn(|| build(&many, part));
            }
        });
        many.commit(|_| {}).expect("commit");
    });
    let name = format!("ingest, {threads} threads");
    report(&name, count, bytes, took, many.stats().stored_bytes);

    let (again, took) = timed(|| build(&many, &documents));
    let stored = many.stats().stored_bytes;
    report("ingest of what is there already", count, bytes, took, stored);
    assert_eq!(again.documents, count);
}
