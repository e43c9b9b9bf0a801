use bson::{Bson, Document, RawDocumentBuf, rawdoc};
use proptest::prelude::*;

use super::*;

const STEADY: Rules = Rules { upsert_missing: true, name_order: NameOrder::Numeric };
const FUZZY: Rules = Rules { upsert_missing: false, name_order: NameOrder::Numeric };

fn applied(
    update: Update<'_>,
    old: Option<&RawDocumentBuf>,
    rules: Rules,
) -> Option<RawDocumentBuf> {
    apply(&update, old.map(|old| &**old), &rawdoc! { "_id": 7_i64 }, rules).expect("applies")
}

#[test]
fn a_missing_document() {
    let document = rawdoc! { "_id": 7, "a": 1 };
    let set = rawdoc! { "$v": 1, "$set": { "a.b": 1 } };
    let diff = rawdoc! { "u": { "a": 1 }, "sb": { "u": { "x": 1 } } };
    for update in [Update::Replace(&document), Update::V1(&set), Update::V2(&diff)] {
        assert_eq!(applied(update, None, FUZZY), None);
    }
    assert_eq!(applied(Update::Replace(&document), None, STEADY), Some(document.clone()));
    let expected = rawdoc! { "_id": 7_i64, "a": { "b": 1 } };
    assert_eq!(applied(Update::V1(&set), None, STEADY), Some(expected));
    assert_eq!(applied(Update::V2(&diff), None, STEADY), Some(rawdoc! { "_id": 7_i64, "a": 1 }));
}

#[test]
fn an_existing_document() {
    let old = rawdoc! { "_id": 7, "a": 1, "b": 2 };
    let new = rawdoc! { "_id": 7.0 };
    assert_eq!(applied(Update::Replace(&new), Some(&old), FUZZY), Some(new.clone()));
    let diff = rawdoc! { "d": { "a": false } };
    assert_eq!(applied(Update::V2(&diff), Some(&old), FUZZY), Some(rawdoc! { "_id": 7, "b": 2 }));
}

#[test]
fn the_id_comes_first() {
    let old = rawdoc! { "_id": 7, "a": 1 };
    let new = rawdoc! { "z": 1, "_id": 7, "a": 1, "_id": 8 };
    let expected = rawdoc! { "_id": 7, "z": 1, "a": 1, "_id": 8 };
    assert_eq!(applied(Update::Replace(&new), Some(&old), STEADY), Some(expected));
    let diff = rawdoc! { "i": { "z": 1, "_id": 7 } };
    let expected = rawdoc! { "_id": 7, "a": 1, "z": 1 };
    assert_eq!(applied(Update::V2(&diff), Some(&old), STEADY), Some(expected));
}

/// The differ of the tests: makes a `$v:2` diff by its own reading of the rules.
mod differ {
    use super::{Bson, Document};

    pub(super) fn documents(old: &Document, new: &Document) -> Option<Document> {
        let (mut d, mut u, mut i) = (Document::new(), Document::new(), Document::new());
        let mut subs = Document::new();
        for name in old.keys().filter(|name| !new.contains_key(*name)) {
            d.insert(name, false);
        }
        // Fields keep their order as long as the new document has them in the old one's; from the
        // first that is new or out of order on, all are inserts.
        let mut order = old.keys().filter(|name| new.contains_key(*name));
        let mut kept = true;
        for (name, value) in new {
            kept = kept && order.next() == Some(name);
            match old.get(name).filter(|_| kept) {
                None => drop(i.insert(name, value)),
                Some(old) if old == value => {}
                Some(old) => match sub(old, value) {
                    Some(diff) => drop(subs.insert(format!("s{name}"), diff)),
                    None => drop(u.insert(name, value)),
                },
            }
        }
        let mut diff = Document::new();
        for (section, fields) in [("d", d), ("u", u), ("i", i)] {
            if !fields.is_empty() {
                diff.insert(section, fields);
            }
        }
        diff.extend(subs);
        Some(diff).filter(|diff| !diff.is_empty())
    }

    fn sub(old: &Bson, new: &Bson) -> Option<Document> {
        match (old, new) {
            (Bson::Document(old), Bson::Document(new)) => documents(old, new),
            (Bson::Array(old), Bson::Array(new)) => Some(arrays(old, new)),
            _ => None,
        }
    }

    fn arrays(old: &[Bson], new: &[Bson]) -> Document {
        let mut diff = bson::doc! { "a": true };
        if new.len() < old.len() {
            diff.insert("l", i32::try_from(new.len()).expect("short"));
        }
        for (index, value) in new.iter().enumerate() {
            match old.get(index) {
                Some(old) if old == value => {}
                Some(old) => match sub(old, value) {
                    Some(sub) => drop(diff.insert(format!("s{index}"), sub)),
                    None => drop(diff.insert(format!("u{index}"), value)),
                },
                None => drop(diff.insert(format!("u{index}"), value)),
            }
        }
        diff
    }
}

fn name() -> impl Strategy<Value = String> {
    prop::sample::select(vec![
        "", "a", "b", "d", "i", "l", "s", "u", "u0", "sa", "0", "1", "10", "_id",
    ])
    .prop_map(str::to_owned)
}

fn value() -> impl Strategy<Value = Bson> {
    let leaf = prop_oneof![
        any::<i32>().prop_map(Bson::Int32),
        any::<bool>().prop_map(Bson::Boolean),
        (0..3_i64).prop_map(Bson::Int64),
        "[a-z]{0,3}".prop_map(Bson::String),
        Just(Bson::Null),
    ];
    leaf.prop_recursive(3, 24, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Bson::Array),
            prop::collection::vec((name(), inner), 0..5)
                .prop_map(|fields| Bson::Document(fields.into_iter().collect())),
        ]
    })
}

fn document() -> impl Strategy<Value = Document> {
    prop::collection::vec((name(), value()), 0..7).prop_map(|fields| fields.into_iter().collect())
}

/// Something that looks like a diff, right or wrong.
fn random_diff() -> impl Strategy<Value = Document> {
    let section = prop_oneof![
        prop::sample::select(vec!["d", "u", "i", "b", "a", "l"]).prop_map(str::to_owned),
        name().prop_map(|name| format!("s{name}")),
        (0..6_u8).prop_map(|index| format!("u{index}")),
    ];
    let leaf = document().prop_map(Bson::Document);
    let inner = prop_oneof![value(), leaf];
    let nested = inner.prop_recursive(4, 24, 4, move |inner| {
        let array =
            prop::collection::vec((section.clone(), inner.clone()), 0..4).prop_map(|fields| {
                let mut diff = bson::doc! { "a": true };
                diff.extend(fields);
                Bson::Document(diff)
            });
        let plain = prop::collection::vec((section.clone(), inner), 0..4)
            .prop_map(|fields| Bson::Document(fields.into_iter().collect()));
        prop_oneof![plain, array]
    });
    nested.prop_map(|diff| match diff {
        Bson::Document(diff) => diff,
        other => bson::doc! { "u": { "a": other } },
    })
}

/// What a server stores of a document: `_id` first.
fn id_first(document: Document) -> Document {
    let (id, rest): (Vec<_>, Vec<_>) = document.into_iter().partition(|(name, _)| name == "_id");
    id.into_iter().chain(rest).collect()
}

fn raw(document: &Document) -> RawDocumentBuf {
    RawDocumentBuf::try_from(document).expect("encodes")
}

proptest! {
    #[test]
    fn a_diff_of_two_documents_leads_from_one_to_the_other(old in document(), new in document()) {
        if let Some(diff) = differ::documents(&old, &new) {
            let found = applied(Update::V2(&raw(&diff)), Some(&raw(&old)), STEADY);
            prop_assert_eq!(found, Some(raw(&id_first(new))), "{}", diff);
        } else {
            prop_assert_eq!(id_first(old), id_first(new));
        }
    }

    #[test]
    fn no_diff_panics(old in document(), diff in random_diff()) {
        let (old, diff) = (raw(&old), raw(&diff));
        let id = &rawdoc! { "_id": 1 };
        if let Ok(Some(found)) = apply(&Update::V2(&diff), Some(&old), id, FUZZY) {
            prop_assert!(Document::try_from(&*found).is_ok(), "{:?}", found);
        }
    }

    #[test]
    fn no_modifiers_panic(
        old in document(),
        set in prop::collection::vec((prop::collection::vec(name(), 1..4), value()), 0..6),
        unset in prop::collection::vec(prop::collection::vec(name(), 1..4), 0..4),
        numeric in any::<bool>(),
    ) {
        let set: Document = set.into_iter().map(|(path, value)| (path.join("."), value)).collect();
        let unset: Document = unset.into_iter().map(|path| (path.join("."), Bson::Boolean(true))).collect();
        let o = raw(&bson::doc! { "$v": 1, "$set": set, "$unset": unset });
        let name_order = if numeric { NameOrder::Numeric } else { NameOrder::Bytes };
        let rules = Rules { upsert_missing: true, name_order };
        if let Ok(Some(found)) = apply(&Update::V1(&o), Some(&raw(&old)), &rawdoc! { "_id": 1 }, rules) {
            prop_assert!(Document::try_from(&*found).is_ok(), "{:?}", found);
            let again = apply(&Update::V1(&o), Some(&found), &rawdoc! { "_id": 1 }, rules);
            prop_assert_eq!(again.expect("applies again"), Some(found));
        }
    }

    #[test]
    fn no_bytes_panic(old in document(), diff in random_diff(), at in any::<prop::sample::Index>(), flip in 1..=255_u8) {
        let mut bytes = raw(&diff).into_bytes();
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        if let Ok(diff) = RawDocumentBuf::from_bytes(bytes) {
            let old = raw(&old);
            for update in [Update::V1(&diff), Update::V2(&diff)] {
                // Any answer will do, as long as there is one.
                let _ = apply(&update, Some(&old), &rawdoc! { "_id": 1 }, STEADY);
            }
        }
    }
}
