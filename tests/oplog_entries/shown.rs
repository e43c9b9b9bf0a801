//! What a server shows of its collections, and what a head holds of them, in one form.

use std::collections::BTreeMap;

use bson::raw::RawBsonRef;
use bson::{Bson, Document, RawDocument, RawDocumentBuf, Timestamp, doc};
use futures::StreamExt as _;
use headstock::block::{BlockRead, MemoryBlocks};
use headstock::head::namespaces::kept;
use headstock::head::{Collection, content_root};
use headstock::oplog::{Ts, Uuid};
use headstock::store::RepositorySalt;
use headstock::tree::{Builder, Content, Cursor, Key, Order, Root, Shape};
use mongodb::{Client, Database};

/// The salt of all trees here.
pub const SALT: RepositorySalt = RepositorySalt([5; 32]);

/// Codes with which a server says that it cannot read a collection at a past time: it does not
/// exist any more, or its catalog has changed since.
const NOT_AT_THAT_TIME: [i32; 2] = [26, 246];
/// Unit to which servers round the size of a capped collection after having logged it.
const CAPPED_SIZE_UNIT: i64 = 256;

/// The documents of a collection: by key, or in their natural order if it is capped.
pub type Documents = Vec<RawDocumentBuf>;

/// One collection.
#[derive(Debug, Clone)]
pub struct Shown {
    pub uuid: Uuid,
    pub options: RawDocumentBuf,
    pub indexes: Vec<RawDocumentBuf>,
    pub documents: Documents,
}

/// Collections by name, those that are left out of a backup not among them.
pub type State = BTreeMap<String, Shown>;

impl Shown {
    fn is_capped(&self) -> bool {
        self.options.get_bool("capped").unwrap_or(false)
    }

    /// The collection as a scan would have found it.
    pub fn scanned(&self, ns: &str, blocks: &MemoryBlocks) -> Collection {
        let order = if self.is_capped() { Order::Positional } else { Order::Keyed };
        let (uuid, ns) = (self.uuid, ns.to_owned());
        let (options, indexes) = (self.options.clone(), self.indexes.clone());
        let root = tree(&self.documents, order, blocks);
        Collection { uuid, ns, options, indexes, order, root }
    }

    /// Options and index specs in a form that does not depend on the order of fields or on the type
    /// of numbers.
    fn catalog(&self) -> (Document, BTreeMap<String, Document>) {
        let mut options = canonical(&self.options);
        if let Ok(size) = options.get_i64("size")
            && self.is_capped()
        {
            options.insert("size", (size + CAPPED_SIZE_UNIT - 1) / CAPPED_SIZE_UNIT);
        }
        let specs = self.indexes.iter().map(|spec| {
            let mut spec = canonical(spec);
            spec.remove("background");
            // Listed other than logged, since 5.0 or so.
            if let Ok(flag) = spec.get_i64("sparse") {
                spec.insert("sparse", flag != 0);
            }
            if let Ok(seconds) = spec.get_f64("expireAfterSeconds") {
                spec.insert("expireAfterSeconds", Bson::Int64(seconds.trunc() as i64));
            }
            (spec.get_str("name").expect("a name").to_owned(), spec)
        });
        (options, specs.collect())
    }
}

fn tree(documents: &[RawDocumentBuf], order: Order, blocks: &MemoryBlocks) -> Root {
    let shape = Shape::new(SALT, order, Content::Documents);
    let mut builder = Builder::new(blocks, &shape);
    documents.iter().for_each(|document| builder.push(document).expect("in order"));
    builder.finish().expect("a tree")
}

fn canonical(document: &RawDocument) -> Document {
    let document = Document::try_from(document).expect("valid");
    let fields: BTreeMap<String, Bson> = document.into_iter().collect();
    fields.into_iter().map(|(name, value)| (name, by_value(value))).collect()
}

/// Whole numbers of all types as longs. Nested fields keep their order, it may have meaning.
fn by_value(value: Bson) -> Bson {
    match value {
        Bson::Int32(number) => Bson::Int64(number.into()),
        Bson::Double(number) if number.fract() == 0.0 && number.abs() < 1e15 => {
            #[expect(clippy::cast_possible_truncation, reason = "whole and small")]
            let whole = number as i64;
            Bson::Int64(whole)
        }
        Bson::Document(nested) => nested
            .into_iter()
            .map(|(name, value)| (name, by_value(value)))
            .collect::<Document>()
            .into(),
        Bson::Array(values) => values.into_iter().map(by_value).collect(),
        other => other,
    }
}

/// What a flushed head holds in databases that `wanted` accepts.
pub fn held(
    collections: &[&Collection],
    blocks: &dyn BlockRead,
    wanted: &dyn Fn(&str) -> bool,
) -> State {
    let of = |ns: &str| wanted(ns.split_once('.').expect("a full name").0);
    let all = collections.iter().filter(|collection| of(&collection.ns));
    let shown = all.map(|collection| {
        let shown = Shown {
            uuid: collection.uuid,
            options: collection.options.clone(),
            indexes: collection.indexes.clone(),
            documents: documents_of(&collection.root, blocks),
        };
        (collection.ns.clone(), shown)
    });
    shown.collect()
}

/// The documents of a tree.
pub fn documents_of(root: &Root, blocks: &dyn BlockRead) -> Documents {
    let mut cursor = Cursor::new(blocks, root);
    let mut documents = Vec::new();
    while let Some(document) = cursor.next().expect("readable") {
        documents.push(document);
    }
    documents
}

/// Requires that two states are equal: names, UUIDs, options, index specs and every byte of the
/// documents.
pub fn require_equal(found: &State, wanted: &State, what: &str) {
    let names = |state: &State| -> Vec<(String, Uuid)> {
        state.iter().map(|(ns, shown)| (ns.clone(), shown.uuid)).collect()
    };
    assert_eq!(names(found), names(wanted), "{what}: collections");
    let blocks = MemoryBlocks::new();
    for (ns, wanted) in wanted {
        let found = &found[ns];
        require_documents(&found.documents, &wanted.documents, &format!("{what}: {ns}"));
        let ((options, indexes), (wanted_options, wanted_indexes)) =
            (found.catalog(), wanted.catalog());
        assert_eq!(options, wanted_options, "{what}: options of {ns}");
        assert!(indexes.keys().eq(wanted_indexes.keys()), "{what}: {indexes:?} of {ns}");
        for (name, spec) in indexes {
            assert_eq!(spec, wanted_indexes[&name], "{what}: an index of {ns}");
        }
        let [found, wanted] = [found, wanted].map(|shown| {
            content_root::content_root(&[&shown.scanned(ns, &blocks)]).expect("a content root")
        });
        assert_eq!(found, wanted, "{what}: content root of {ns}");
    }
}

/// Requires that documents are the same, byte for byte and in the same order.
pub fn require_documents(found: &Documents, wanted: &Documents, what: &str) {
    let bytes = |documents: &Documents| -> Vec<Vec<u8>> {
        documents.iter().map(|document| document.as_bytes().to_vec()).collect()
    };
    assert!(bytes(found) == bytes(wanted), "{what} has {found:#?}\ninstead of {wanted:#?}");
}

/// What the server shows of databases that `wanted` accepts.
pub async fn shown(client: &Client, wanted: &dyn Fn(&str) -> bool) -> State {
    let mut state = State::new();
    for name in client.list_database_names().await.expect("databases") {
        if name != "local" && wanted(&name) {
            add_database(&client.database(&name), &mut state).await;
        }
    }
    state
}

async fn add_database(database: &Database, state: &mut State) {
    for listed in all(database, doc! { "listCollections": 1 }).await {
        let ns = format!("{}.{}", database.name(), listed.get_str("name").expect("a name"));
        if listed.get_str("type").is_ok_and(|kind| kind != "collection") || !kept(&ns) {
            continue;
        }
        let uuid = listed.get_document("info").expect("info").get("uuid").expect("valid");
        let uuid = Uuid::from_value(uuid.expect("a UUID")).expect("a UUID");
        let options = listed.get_document("options").expect("options").to_owned();
        let name = Bson::from(bson::Binary::from(uuid));
        let specs = doc! { "listIndexes": name, "includeBuildUUIDs": true };
        let mut indexes = all(database, specs).await;
        indexes.retain(|spec| spec.get_str("name").is_ok() && spec.get_bool("clustered").is_err());
        let documents = documents(database, uuid, &options, None).await.expect("documents");
        state.insert(ns, Shown { uuid, options, indexes, documents });
    }
}

/// The documents of a collection, now or at a past time; none where the server cannot tell them.
pub async fn documents(
    database: &Database,
    uuid: Uuid,
    options: &RawDocument,
    at: Option<Ts>,
) -> Option<Documents> {
    let mut find = doc! { "find": bson::Binary::from(uuid), "hint": { "$natural": 1 } };
    if let Some(at) = at {
        let at = Timestamp::from(at);
        find.insert("readConcern", doc! { "level": "snapshot", "atClusterTime": at });
    }
    let mut documents = match try_all(database, find).await {
        Ok(documents) => documents,
        Err(error) if refuses_time(&error) => return None,
        Err(error) => panic!("{uuid} at {at:?}: {error}"),
    };
    if !options.get_bool("capped").unwrap_or(false) {
        documents.sort_by_cached_key(|document| Key::of_document(document).expect("an _id"));
    }
    Some(documents)
}

fn refuses_time(error: &mongodb::error::Error) -> bool {
    matches!(
        error.kind.as_ref(),
        mongodb::error::ErrorKind::Command(command) if NOT_AT_THAT_TIME.contains(&command.code)
    )
}

async fn all(database: &Database, command: Document) -> Vec<RawDocumentBuf> {
    let name = format!("{command}");
    try_all(database, command).await.unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Every document that a command's cursor gives, byte for byte.
pub async fn try_all(
    database: &Database,
    command: Document,
) -> mongodb::error::Result<Vec<RawDocumentBuf>> {
    let command = RawDocumentBuf::try_from(&command).expect("encodes");
    let mut batches = database.run_raw_cursor_command(command).batch().await?;
    let mut documents = Vec::new();
    while let Some(batch) = batches.next().await {
        for document in batch?.doc_slices()?.into_iter() {
            let document = document?;
            let RawBsonRef::Document(document) = document else { panic!("not a document") };
            documents.push(document.to_owned());
        }
    }
    Ok(documents)
}
