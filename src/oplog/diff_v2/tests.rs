use bson::spec::BinarySubtype;
use bson::{Binary, RawDocumentBuf, rawdoc};

use super::super::raw::MAX_DEPTH;
use super::*;

fn applied(old: &RawDocumentBuf, diff: &RawDocumentBuf) -> Result<RawDocumentBuf, UpdateError> {
    apply(old.as_bytes(), diff.as_bytes())
        .map(|bytes| RawDocumentBuf::from_bytes(bytes).expect("a document"))
}

fn check(cases: Vec<(RawDocumentBuf, RawDocumentBuf, RawDocumentBuf)>) {
    for (old, diff, expected) in cases {
        let found = applied(&old, &diff).unwrap_or_else(|error| panic!("{diff:?}: {error}"));
        assert_eq!(found, expected, "{diff:?}");
    }
}

#[test]
fn fields_of_a_document() {
    check(vec![
        (rawdoc! { "a": 1, "b": 2 }, rawdoc! { "d": { "a": false } }, rawdoc! { "b": 2 }),
        // In place, and at the end what was not there.
        (
            rawdoc! { "a": 1, "b": 2, "c": 3 },
            rawdoc! { "u": { "b": "x", "z": 1, "y": 2 }, "i": { "x": 3 } },
            rawdoc! { "a": 1, "b": "x", "c": 3, "z": 1, "y": 2, "x": 3 },
        ),
        // An insert of an existing field moves it to the end: how pipelines reorder.
        (
            rawdoc! { "a": 1, "b": 2, "c": 3 },
            rawdoc! { "i": { "c": 3, "a": 1, "b": 2 } },
            rawdoc! { "c": 3, "a": 1, "b": 2 },
        ),
        // What is missing is passed over; a sub-diff creates nothing.
        (
            rawdoc! { "a": 1 },
            rawdoc! { "d": { "x": false }, "sy": { "u": { "z": 1 } } },
            rawdoc! { "a": 1 },
        ),
        // Any order of sections.
        (
            rawdoc! { "a": 1, "b": 2 },
            rawdoc! { "i": { "z": 9 }, "u": { "a": 3, "y": 8 }, "d": { "b": false } },
            rawdoc! { "a": 3, "y": 8, "z": 9 },
        ),
    ]);
}

#[test]
fn captured_from_servers() {
    check(vec![
        (
            rawdoc! { "_id": 1, "a": [1] },
            rawdoc! { "sa": { "a": true, "u4": 9 } },
            rawdoc! { "_id": 1, "a": [1, null, null, null, 9] },
        ),
        (
            rawdoc! { "a": [{ "m": 1 }, { "b": 2 }] },
            rawdoc! { "sa": { "a": true, "s0": { "i": { "n": 1 } }, "s1": { "u": { "b": 7 } } } },
            rawdoc! { "a": [{ "m": 1, "n": 1 }, { "b": 7 }] },
        ),
        (
            rawdoc! { "a": { "x": 1 } },
            rawdoc! { "i": { "q": { "r": { "s": 2 } } }, "sa": { "i": { "b": { "c": 1 }, "y": 3 } } },
            rawdoc! { "a": { "x": 1, "b": { "c": 1 }, "y": 3 }, "q": { "r": { "s": 2 } } },
        ),
        // Fields named like sections.
        (
            rawdoc! {
                "a": 1, "b": 1, "d": 1, "i": 1, "l": 1, "s": 1, "u": 1,
                "sa": { "u": 1, "i": { "d": 1 } }, "u0": [0, { "a": 0, "l": 0 }],
            },
            rawdoc! {
                "u": { "a": 2, "b": 2, "d": 2, "i": 2, "l": 2, "s": 2, "u": 2 }, "i": { "s1": 1 },
                "ssa": { "u": { "u": 2 }, "si": { "u": { "d": 2 } } },
                "su0": { "a": true, "s1": { "u": { "a": 3, "l": 2 } } },
            },
            rawdoc! {
                "a": 2, "b": 2, "d": 2, "i": 2, "l": 2, "s": 2, "u": 2,
                "sa": { "u": 2, "i": { "d": 2 } }, "u0": [0, { "a": 3, "l": 2 }], "s1": 1,
            },
        ),
        (
            rawdoc! { "a": 1, "b": 2, "c": { "d": 1, "e": 1 }, "f": [1, 2] },
            rawdoc! {
                "d": { "a": false }, "u": { "b": 20 }, "i": { "k": 1, "n": 1 },
                "sc": { "d": { "e": false }, "u": { "d": 10 } }, "sf": { "a": true, "u0": 100 },
            },
            rawdoc! { "b": 20, "c": { "d": 10 }, "f": [100, 2], "k": 1, "n": 1 },
        ),
        (
            rawdoc! { "a": [1, 2, 3, 4] },
            rawdoc! { "sa": { "a": true, "l": 2 } },
            rawdoc! { "a": [1, 2] },
        ),
        // A bucket of a time series.
        (
            rawdoc! {
                "control": { "min": { "_id": 1, "v": 1.5 }, "max": { "_id": 2, "v": 1.5 } },
                "data": { "_id": { "0": 1 }, "v": { "0": 1.5 } },
            },
            rawdoc! {
                "scontrol": { "smin": { "u": { "v": 0.5, "w": 1 } }, "smax": { "u": { "_id": 3, "w": 1 } } },
                "sdata": { "i": { "w": { "1": 1 } }, "s_id": { "i": { "1": 3 } }, "sv": { "i": { "1": 0.5 } } },
            },
            rawdoc! {
                "control": { "min": { "_id": 1, "v": 0.5, "w": 1 }, "max": { "_id": 3, "v": 1.5, "w": 1 } },
                "data": { "_id": { "0": 1, "1": 3 }, "v": { "0": 1.5, "1": 0.5 }, "w": { "1": 1 } },
            },
        ),
    ]);
}

#[test]
fn empty_and_repeated_names() {
    check(vec![
        // The letter s is a prefix: `s` alone is the field of the empty name.
        (
            rawdoc! { "": { "": 1 }, "x": 1 },
            rawdoc! { "u": { "x": 2 }, "s": { "u": { "": 2 } } },
            rawdoc! { "": { "": 2 }, "x": 2 },
        ),
        // Every occurrence is treated.
        (
            rawdoc! { "a": 1, "b": 2, "a": 3 },
            rawdoc! { "u": { "a": 9 } },
            rawdoc! { "a": 9, "b": 2, "a": 9 },
        ),
        (
            rawdoc! { "a": { "x": 1 }, "a": { "x": 2, "y": 3 }, "a": 4 },
            rawdoc! { "sa": { "u": { "x": 9 } } },
            rawdoc! { "a": { "x": 9 }, "a": { "x": 9, "y": 3 }, "a": null },
        ),
        (rawdoc! { "a": 1, "b": 2, "a": 3 }, rawdoc! { "d": { "a": false } }, rawdoc! { "b": 2 }),
        (
            rawdoc! { "a": 1, "b": 2, "a": 3 },
            rawdoc! { "i": { "a": 7 } },
            rawdoc! { "b": 2, "a": 7 },
        ),
        (rawdoc! { "b": 1, "b": 2 }, rawdoc! { "d": { "a": false } }, rawdoc! { "b": 1, "b": 2 }),
    ]);
}

#[test]
fn types_that_do_not_fit_become_null() {
    check(vec![
        (
            rawdoc! { "a": 1, "b": [1], "c": { "x": 1 } },
            rawdoc! {
                "sa": { "u": { "x": 1 } }, "sb": { "u": { "x": 1 } }, "sc": { "a": true, "u0": 1 },
            },
            rawdoc! { "a": null, "b": null, "c": null },
        ),
        (
            rawdoc! { "a": [1, { "x": 1 }] },
            rawdoc! { "sa": {
                "a": true, "s0": { "u": { "x": 2 } }, "s1": { "u": { "x": 2 } },
                "s3": { "u": { "x": 2 } },
            } },
            rawdoc! { "a": [null, { "x": 2 }, null, null] },
        ),
    ]);
}

#[test]
fn arrays() {
    let old = || rawdoc! { "a": [1, 2, 3] };
    let diff = |array: RawDocumentBuf| rawdoc! { "sa": array };
    check(vec![
        (old(), diff(rawdoc! { "a": true, "u1": { "x": 1 } }), rawdoc! { "a": [1, { "x": 1 }, 3] }),
        (old(), diff(rawdoc! { "a": true, "u3": 4 }), rawdoc! { "a": [1, 2, 3, 4] }),
        (old(), diff(rawdoc! { "a": true }), rawdoc! { "a": [1, 2, 3] }),
        (old(), diff(rawdoc! { "a": true, "l": 0 }), rawdoc! { "a": [] }),
        (old(), diff(rawdoc! { "a": true, "l": 3_i64, "u0": 9 }), rawdoc! { "a": [9, 2, 3] }),
        (old(), diff(rawdoc! { "a": true, "l": 5, "u4": 5 }), rawdoc! { "a": [1, 2, 3, null, 5] }),
        (old(), diff(rawdoc! { "a": true, "l": 4 }), rawdoc! { "a": [1, 2, 3, null] }),
        (
            rawdoc! { "a": [[1, [2]], 3] },
            diff(rawdoc! { "a": true, "s0": { "a": true, "s1": { "a": true, "l": 2, "u1": 7 } } }),
            rawdoc! { "a": [[1, [2, 7]], 3] },
        ),
    ]);
    let long: bson::RawArrayBuf = (0..12).collect();
    let numbered = applied(&rawdoc! { "a": long }, &diff(rawdoc! { "a": true, "u12": 12 }));
    let expected: bson::RawArrayBuf = (0..13).collect();
    assert_eq!(numbered, Ok(rawdoc! { "a": expected }));
}

#[test]
fn elements_are_numbered_anew() {
    let mut out = Writer::default();
    let open = out.open();
    let array = out.open_field(kind::ARRAY, b"a");
    for name in [&b"7"[..], b"", b"x"] {
        out.append(name, Value { kind: kind::BOOL, bytes: &[1] }).expect("small");
    }
    out.close(array).expect("small");
    out.close(open).expect("small");
    let old = RawDocumentBuf::from_bytes(out.into_bytes()).expect("a document");
    let found = applied(&old, &rawdoc! { "sa": { "a": true, "u1": false } });
    assert_eq!(found, Ok(rawdoc! { "a": [true, false, true] }));
}

fn column(bytes: &[u8]) -> Binary {
    Binary { subtype: BinarySubtype::Column, bytes: bytes.to_vec() }
}

#[test]
fn columns_grow() {
    let diff = |keep: i32, tail: &[u8]| rawdoc! { "b": { "a": { "o": keep, "d": column(tail) } } };
    let old = || rawdoc! { "a": column(&[1, 2, 3]), "z": 1 };
    check(vec![
        (old(), diff(2, &[9, 9]), rawdoc! { "a": column(&[1, 2, 9, 9]), "z": 1 }),
        (old(), diff(3, &[4]), rawdoc! { "a": column(&[1, 2, 3, 4]), "z": 1 }),
        (old(), diff(0, &[]), rawdoc! { "a": column(&[]), "z": 1 }),
        (old(), diff(4, &[4]), old()),
        (rawdoc! { "z": 1 }, diff(2, &[4]), rawdoc! { "z": 1 }),
        (rawdoc! { "a": "text" }, diff(2, &[4]), rawdoc! { "a": null }),
    ]);
    for wrong in [
        rawdoc! { "b": { "a": { "o": 1 } } },
        rawdoc! { "b": { "a": { "d": column(&[]) } } },
        rawdoc! { "b": { "a": { "o": -1, "d": column(&[]) } } },
        rawdoc! { "b": { "a": { "o": 1, "d": "x" } } },
        rawdoc! { "b": { "a": 1 } },
    ] {
        assert!(matches!(applied(&old(), &wrong), Err(UpdateError::Diff { .. })), "{wrong:?}");
    }
}

#[test]
fn diffs_that_break_the_rules_are_refused() {
    let old = rawdoc! { "a": [1, 2], "b": { "x": 1 } };
    for wrong in [
        rawdoc! {},
        rawdoc! { "x": { "a": 1 } },
        rawdoc! { "u": 1 },
        rawdoc! { "u": [1] },
        rawdoc! { "sa": 1 },
        rawdoc! { "sb": {} },
        rawdoc! { "u": { "b": 1 }, "a": true },
        rawdoc! { "u": { "b": 1 }, "d": { "b": false } },
        rawdoc! { "u": { "b": 1, "b": 2 } },
        rawdoc! { "i": { "b": 1 }, "sb": { "u": { "x": 1 } } },
        rawdoc! { "sb": { "u": { "x": 1 }, "a": true } },
        rawdoc! { "sa": { "a": false, "u0": 1 } },
        rawdoc! { "sa": { "a": 1, "u0": 1 } },
        rawdoc! { "sa": { "a": true, "u1": 1, "u0": 1 } },
        rawdoc! { "sa": { "a": true, "u1": 1, "s1": { "u": { "x": 1 } } } },
        rawdoc! { "sa": { "a": true, "u": 1 } },
        rawdoc! { "sa": { "a": true, "u01": 1 } },
        rawdoc! { "sa": { "a": true, "u-1": 1 } },
        rawdoc! { "sa": { "a": true, "s0": 1 } },
        rawdoc! { "sa": { "a": true, "x0": 1 } },
        rawdoc! { "sa": { "a": true, "l": -1 } },
        rawdoc! { "sa": { "a": true, "l": 1.0 } },
        rawdoc! { "sa": { "a": true, "l": 1, "l": 1 } },
        rawdoc! { "sa": { "a": true, "l": 1, "u1": 1 } },
        rawdoc! { "sa": { "a": true, "u1": 1, "l": 1 } },
    ] {
        let found = applied(&old, &wrong);
        assert!(matches!(found, Err(UpdateError::Diff { .. })), "{wrong:?}: {found:?}");
    }
}

#[test]
fn hostile_sizes_and_depths_are_refused() {
    let old = rawdoc! { "a": [] };
    for huge in [
        rawdoc! { "sa": { "a": true, "u2147483647": 1 } },
        rawdoc! { "sa": { "a": true, "u18446744073709551615": 1 } },
        rawdoc! { "sa": { "a": true, "l": i64::MAX } },
    ] {
        let found = applied(&old, &huge);
        assert!(matches!(found, Err(UpdateError::TooLarge { .. })), "{huge:?}: {found:?}");
    }
    let (mut old, mut diff) = (rawdoc! { "x": 1 }, rawdoc! { "u": { "x": 2 } });
    for _ in 0..MAX_DEPTH {
        (old, diff) = (rawdoc! { "x": old }, rawdoc! { "sx": diff });
    }
    assert!(applied(&old, &diff).is_ok());
    (old, diff) = (rawdoc! { "x": old }, rawdoc! { "sx": diff });
    assert_eq!(applied(&old, &diff), Err(UpdateError::TooDeep { limit: MAX_DEPTH }));
}

#[test]
fn untouched_bytes_stay() {
    // A string that is not UTF-8 and a name that is not, around a field that changes.
    let mut out = Writer::default();
    let open = out.open();
    out.append(b"\xff\xfe", Value { kind: 0x02, bytes: b"\x03\0\0\0\xff\xc0\0" }).expect("small");
    out.append(b"a", Value { kind: kind::BOOL, bytes: &[1] }).expect("small");
    out.append(b"b", Value { kind: kind::BINARY, bytes: b"\x02\0\0\0\x85\x01\x02" })
        .expect("small");
    out.close(open).expect("small");
    let old = out.into_bytes();
    let found = apply(&old, rawdoc! { "u": { "a": false } }.as_bytes()).expect("applies");
    let changed: Vec<usize> = (0..old.len()).filter(|at| old[*at] != found[*at]).collect();
    assert_eq!((found.len(), changed.len()), (old.len(), 1));
}
