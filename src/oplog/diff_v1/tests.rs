use bson::{RawDocumentBuf, rawdoc};

use super::super::raw::MAX_DEPTH;
use super::*;

fn applied(
    old: &RawDocumentBuf,
    o: &RawDocumentBuf,
    order: NameOrder,
) -> Result<RawDocumentBuf, UpdateError> {
    apply(old.as_bytes(), o.as_bytes(), order)
        .map(|bytes| RawDocumentBuf::from_bytes(bytes).expect("a document"))
}

fn check(cases: Vec<(RawDocumentBuf, RawDocumentBuf, RawDocumentBuf)>) {
    for (old, o, expected) in cases {
        for order in [NameOrder::Bytes, NameOrder::Numeric] {
            let found = applied(&old, &o, order).unwrap_or_else(|error| panic!("{o:?}: {error}"));
            assert_eq!(found, expected, "{o:?}");
        }
    }
}

#[test]
fn captured_from_servers() {
    check(vec![
        (
            rawdoc! { "_id": 1, "a": [1] },
            rawdoc! { "$v": 1, "$set": { "a.4": 9 } },
            rawdoc! { "_id": 1, "a": [1, null, null, null, 9] },
        ),
        (
            rawdoc! { "a": 1, "b": 2, "c": { "d": 1, "e": 1 }, "f": [1, 2] },
            rawdoc! {
                "$v": 1, "$unset": { "a": true, "c.e": true },
                "$set": { "b": 20, "c.d": 10, "f.0": 100, "k": 1, "n": 1 },
            },
            rawdoc! { "b": 20, "c": { "d": 10 }, "f": [100, 2], "k": 1, "n": 1 },
        ),
    ]);
}

#[test]
fn fields_in_place_then_missing_ones_by_name() {
    check(vec![
        (
            rawdoc! { "b": 1, "a": 2 },
            rawdoc! { "$set": { "z": 1, "a": 3, "y": 2, "b.x": 4 } },
            rawdoc! { "b": 1, "a": 3, "y": 2, "z": 1 },
        ),
        // Missing objects are created, numbers being names in them.
        (
            rawdoc! { "x": 1 },
            rawdoc! { "$set": { "b.c.d": 1, "a.0": 2, "b.a": 3 } },
            rawdoc! { "x": 1, "a": { "0": 2 }, "b": { "a": 3, "c": { "d": 1 } } },
        ),
        // Nothing is created by an unset alone.
        (
            rawdoc! { "x": 1, "o": { "p": 1 } },
            rawdoc! { "$unset": { "a.b": true, "y": true, "o.q.r": true, "o.p": true } },
            rawdoc! { "x": 1, "o": {} },
        ),
        (
            rawdoc! { "x": 1 },
            rawdoc! { "$unset": { "a.b": true }, "$set": { "a.c": 1 } },
            rawdoc! { "x": 1, "a": { "c": 1 } },
        ),
        (rawdoc! { "x": 1 }, rawdoc! { "$v": 1 }, rawdoc! { "x": 1 }),
    ]);
}

#[test]
fn order_of_appended_names() {
    let old = rawdoc! {};
    let o = rawdoc! { "$set": { "10": 1, "9": 2, "a": 3, "n.10": 4, "n.9": 5, "09": 6 } };
    let bytes = rawdoc! { "09": 6, "10": 1, "9": 2, "a": 3, "n": { "10": 4, "9": 5 } };
    assert_eq!(applied(&old, &o, NameOrder::Bytes), Ok(bytes));
    let numeric = rawdoc! { "09": 6, "9": 2, "10": 1, "a": 3, "n": { "9": 5, "10": 4 } };
    assert_eq!(applied(&old, &o, NameOrder::Numeric), Ok(numeric));
    // Names without a total order among them: any order, but each once and no panic.
    let cyclic = rawdoc! { "$set": { "2": 1, "10": 2, "1a": 3, "100": 4, "3": 5, "2b": 6 } };
    let found = applied(&old, &cyclic, NameOrder::Numeric).expect("applies");
    assert_eq!(found.iter().count(), 6);
}

#[test]
fn steps_through_arrays() {
    check(vec![
        (
            rawdoc! { "a": [1, { "x": 1 }, [5]] },
            rawdoc! { "$set": { "a.0": 9, "a.1.x": 2, "a.1.y": 3, "a.2.0": 6 } },
            rawdoc! { "a": [9, { "x": 2, "y": 3 }, [6]] },
        ),
        (
            rawdoc! { "a": [1] },
            rawdoc! { "$set": { "a.2.x": 1, "a.b": 5, "a.-1": 5, "a.4294967296": 5 } },
            rawdoc! { "a": [1, null, { "x": 1 }] },
        ),
        (
            rawdoc! { "a": [1, 2, 3] },
            rawdoc! { "$unset": { "a.1": true, "a.7": true, "a.x": true, "a.9.y": true } },
            rawdoc! { "a": [1, null, 3] },
        ),
    ]);
    let far = rawdoc! { "$set": { "a.1500002": 1 } };
    let found = applied(&rawdoc! { "a": [1] }, &far, NameOrder::Bytes);
    assert!(matches!(found, Err(UpdateError::Diff { .. })), "{found:?}");
}

#[test]
fn steps_through_scalars_are_passed_over() {
    check(vec![(
        rawdoc! { "a": 1, "b": null, "c": 3 },
        rawdoc! { "$set": { "a.x": 1, "b.x.y": 1, "c": 4 }, "$unset": { "a.z": true } },
        rawdoc! { "a": 1, "b": null, "c": 4 },
    )]);
}

#[test]
fn only_the_first_of_a_repeated_name_is_touched() {
    check(vec![
        (
            rawdoc! { "a": 1, "b": 2, "a": 3 },
            rawdoc! { "$set": { "a": 9 } },
            rawdoc! { "a": 9, "b": 2, "a": 3 },
        ),
        (
            rawdoc! { "a": 1, "b": 2, "a": 3 },
            rawdoc! { "$unset": { "a": true } },
            rawdoc! { "b": 2, "a": 3 },
        ),
        (
            rawdoc! { "a": { "x": 1 }, "a": { "x": 1 } },
            rawdoc! { "$set": { "a.x": 2 } },
            rawdoc! { "a": { "x": 2 }, "a": { "x": 1 } },
        ),
    ]);
}

#[test]
fn modifiers_that_break_the_rules_are_refused() {
    for wrong in [
        rawdoc! { "$inc": { "a": 1 } },
        rawdoc! { "$set": 1 },
        rawdoc! { "$set": { "a": 1, "a": 2 } },
        rawdoc! { "$set": { "a": 1, "a.b": 2 } },
        rawdoc! { "$set": { "a.b": 2 }, "$unset": { "a": true } },
    ] {
        let found = applied(&rawdoc! { "a": 1 }, &wrong, NameOrder::Bytes);
        assert!(matches!(found, Err(UpdateError::Diff { .. })), "{wrong:?}: {found:?}");
    }
    let path = |steps: usize| {
        let path = vec!["x"; steps].join(".");
        let mut set = RawDocumentBuf::new();
        set.append(bson::raw::CString::try_from(path.as_str()).expect("no NUL"), 1);
        applied(&rawdoc! {}, &rawdoc! { "$set": set }, NameOrder::Bytes)
    };
    assert!(path(MAX_DEPTH + 1).is_ok());
    assert_eq!(path(MAX_DEPTH + 2), Err(UpdateError::TooDeep { limit: MAX_DEPTH }));
}
