//! The state of a server as the server itself tells it, and the comparison of two such states.
//!
//! A state holds, for each collection, the md5 that `dbHash` computes over its documents in `_id` order,
//! for capped ones the md5 in natural order instead, and for those with a collation the md5 in the
//! order that `_id`s have without one; its options and its index specs. Options
//! and specs are compared as sets of fields, numbers by value; `ns` and `background` of a spec, the
//! pseudo index of clustered collections and unfinished builds do not count, nor do bytes that
//! servers add to the size of a capped collection. UUIDs are left out: a
//! restored collection may have another. Temporary collections are left out, they go at a restore.
//! A backup can be asked for the same without a restore: [`SourceState::of_view`]. Capped collections of a
//! source may also stand in the order of its oplog: [`SourceState::add_log_order`].
//!
//! Writers must be quiet while a state is taken.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use bson::{Bson, Document, RawDocument, RawDocumentBuf, doc};
use futures::TryStreamExt as _;
use md5::{Digest as _, Md5};
use mongodb::options::Collation;
use mongodb::{Client, Database};

use super::{Error, LogOrder, Result};
use crate::head::Collection;
use crate::inspect::json_of_id;
use crate::oplog::Uuid;
use crate::restore::View;
use crate::tree::{Cursor, Order};

/// Databases that are not a user's.
const INTERNAL: [&str; 3] = ["admin", "config", "local"];
/// Collections of `admin` that hold users and roles.
const USERS: [&str; 2] = ["system.users", "system.roles"];
/// Collections that servers make for their first document, and that do not count while they are empty.
const MADE_WHEN_NEEDED: [&str; 3] = ["system.views", "system.users", "system.roles"];
/// Unit to which servers before 6.2 round the size of a capped collection up.
const CAPPED_SIZE_UNIT: i64 = 256;
/// Documents named in a report for each collection that differs.
const NAMED_DOCUMENTS_MAX: usize = 5;
/// What fails where documents are read in an order.
const READ_IN_ORDER: &str = "read a collection in order";
/// Lines of a report.
const REPORT_LINES_MAX: usize = 60;

/// How much is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detail {
    /// One hash for each collection.
    Collections,
    /// Also one hash for each document, so that a report can name those that differ. For small
    /// states only: it is held in memory.
    Documents,
}

/// One collection or view.
#[derive(Debug, Clone, PartialEq, Default)]
struct Namespace {
    /// The md5 over its documents; none for a view.
    hash: Option<String>,
    /// `listCollections` type and options, canonical.
    options: Document,
    /// Index specs by name, canonical.
    indexes: BTreeMap<String, Document>,
    /// Hash of each document by the text of its `_id`; empty without [`Detail::Documents`].
    documents: BTreeMap<String, u64>,
    /// The same hashes in natural order, of a capped collection.
    in_order: Vec<u64>,
    /// The same in the order of the oplog, where that is asked for.
    in_log_order: Vec<u64>,
}

/// The state of every user database of a server.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct SourceState {
    namespaces: BTreeMap<String, Namespace>,
}

impl SourceState {
    /// Takes the state of all databases but `admin`, `config` and `local`.
    ///
    /// # Errors
    /// The driver's.
    pub async fn capture(client: &Client, detail: Detail) -> Result<Self> {
        let names = client.list_database_names().await.map_err(Error::driver("list databases"))?;
        let mut state = Self::default();
        for name in names.iter().filter(|name| !INTERNAL.contains(&name.as_str())) {
            state.add_database(&client.database(name), None, detail).await?;
        }
        Ok(state)
    }

    /// Adds users and roles of all databases.
    ///
    /// # Errors
    /// The driver's.
    pub async fn add_users(&mut self, client: &Client) -> Result<()> {
        self.add_database(&client.database("admin"), Some(&USERS), Detail::Documents).await
    }

    /// What a backup holds at a point: of user databases, and users and roles. Views are in it as
    /// documents of `system.views` only: compare with a state after [`SourceState::retain_collections`].
    ///
    /// # Errors
    /// [`Error::Backup`].
    pub fn of_view(view: &View) -> Result<Self> {
        let mut state = Self::default();
        for collection in view.collections() {
            let (db, name) = collection.ns.split_once('.').unwrap_or_default();
            let wanted = !INTERNAL.contains(&db) || (db == "admin" && USERS.contains(&name));
            let namespace = Namespace::of_view(view, collection)?;
            if let Some(namespace) = namespace.filter(|_| wanted) {
                state.add(db, name, namespace);
            }
        }
        Ok(state)
    }

    /// Keeps only what holds documents.
    pub fn retain_collections(&mut self) {
        self.namespaces.retain(|_, namespace| namespace.hash.is_some());
    }

    /// Keeps only namespaces that `keep` says yes to.
    pub fn retain(&mut self, mut keep: impl FnMut(&str) -> bool) {
        self.namespaces.retain(|ns, _| keep(ns));
    }

    /// Records the order, too, in which the oplog has the documents of capped collections: what is compared
    /// with this state may have either. For states of a primary that several wrote to, see [`LogOrder`].
    ///
    /// # Errors
    /// The driver's.
    pub async fn add_log_order(&mut self, client: &Client) -> Result<()> {
        let mut capped = Vec::new();
        let names = client.list_database_names().await.map_err(Error::driver("list databases"))?;
        for db in names.iter().filter(|name| !INTERNAL.contains(&name.as_str())) {
            for listed in list_collections(&client.database(db)).await? {
                let name = listed.get_str("name").unwrap_or_default().to_owned();
                if listed.get_document("options").is_ok_and(is_capped) {
                    capped.push((db.clone(), name, uuid_of(&listed)?));
                }
            }
        }
        let uuids: Vec<Uuid> = capped.iter().map(|(.., uuid)| *uuid).collect();
        let order = LogOrder::read(client, &uuids, None).await?;
        for (db, name, uuid) in capped {
            let cursor = read_in_order(&client.database(&db), &name, "$natural").await?;
            let documents: Result<Vec<_>, _> = cursor.try_collect().await;
            let mut documents = documents.map_err(Error::driver(READ_IN_ORDER))?;
            order.sort(uuid, &mut documents);
            if let Some(namespace) = self.namespaces.get_mut(&format!("{db}.{name}")) {
                let hashes = documents.iter().map(|document| hash_document(document).1);
                namespace.in_log_order = hashes.collect();
            }
        }
        Ok(())
    }

    /// Takes over from `found` how many of the oldest documents of its capped collections are gone, where
    /// the rest is the same; returns of how many. Servers before 5.0 remove them without an entry in the
    /// oplog, each member for itself and the primary for inserts too that it then refuses (seen on
    /// 4.4.2: a duplicate key), so members hold more or fewer of the oldest. States with
    /// [`Detail::Documents`] only, and namespaces that `may` says yes to.
    pub fn allow_for_trims(&mut self, found: &Self, may: impl Fn(&str) -> bool) -> usize {
        let mut trimmed = 0;
        for (ns, mine) in self.namespaces.iter_mut().filter(|(ns, _)| may(ns)) {
            let Some(other) = found.namespaces.get(ns).filter(|other| mine.hash != other.hash)
            else {
                continue;
            };
            let another = &other.in_order;
            let mut orders = [&mine.in_order, &mine.in_log_order].into_iter();
            let one_of_both = |one: &Vec<u64>| {
                !one.is_empty() && (one.ends_with(another) || another.ends_with(one))
            };
            if !another.is_empty() && orders.any(one_of_both) {
                mine.hash.clone_from(&other.hash);
                trimmed += 1;
            }
        }
        trimmed
    }

    /// Number of collections and views.
    pub fn len(&self) -> usize {
        self.namespaces.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.namespaces.is_empty()
    }

    /// Names of all collections and views, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.namespaces.keys().map(String::as_str)
    }

    /// What differs, a line each, in words; empty where nothing does. `self` is what is expected.
    pub fn differences(&self, found: &Self) -> Vec<String> {
        let all: BTreeSet<&String> =
            self.namespaces.keys().chain(found.namespaces.keys()).collect();
        let mut report = Vec::new();
        for ns in all {
            match (self.namespaces.get(ns), found.namespaces.get(ns)) {
                (Some(_), None) => report.push(format!("{ns}: missing")),
                (None, Some(_)) => report.push(format!("{ns}: should not exist")),
                (Some(expected), Some(found)) => expected.compare(ns, found, &mut report),
                (None, None) => {}
            }
        }
        if report.len() > REPORT_LINES_MAX {
            let more = report.len() - REPORT_LINES_MAX;
            report.truncate(REPORT_LINES_MAX);
            report.push(format!("and {more} more"));
        }
        report
    }

    async fn add_database(
        &mut self,
        database: &Database,
        only: Option<&[&str]>,
        detail: Detail,
    ) -> Result<()> {
        let wanted = |name: &str| only.is_none_or(|only| only.contains(&name));
        let hashes = run(database, "compute dbHash", doc! { "dbHash": 1 }).await?;
        let hashes = hashes
            .get_document("collections")
            .map_err(|_| Error::Reply { command: "dbHash", field: "collections" })?;
        for listed in list_collections(database).await? {
            let name = listed.get_str("name").unwrap_or_default();
            let options = listed.get_document("options").cloned().unwrap_or_default();
            if !wanted(name) || options.get_bool("temp").unwrap_or(false) {
                continue;
            }
            let kind = listed.get_str("type").unwrap_or("collection").to_owned();
            let mut namespace = Namespace {
                hash: hashes.get_str(name).ok().map(str::to_owned),
                options: canonical_options(&kind, &options),
                ..Namespace::default()
            };
            if kind == "collection" && is_capped(&options) {
                let (hash, in_order) = hash_in_order(database, name, "$natural").await?;
                namespace.hash = Some(hash);
                namespace.in_order = in_order;
            } else if kind == "collection" && options.contains_key("collation") {
                namespace.hash = Some(hash_in_order(database, name, "_id").await?.0);
            }
            if kind == "collection" {
                namespace.indexes = list_indexes(database, name).await?;
                if detail == Detail::Documents {
                    namespace.documents = hash_documents(database, name).await?;
                }
            }
            self.add(database.name(), name, namespace);
        }
        Ok(())
    }

    fn add(&mut self, db: &str, name: &str, namespace: Namespace) {
        let is_empty = namespace.hash.as_ref().is_some_and(|hash| *hash == hex(Md5::new()));
        if !(is_empty && MADE_WHEN_NEEDED.contains(&name)) {
            self.namespaces.insert(format!("{db}.{name}"), namespace);
        }
    }
}

impl Namespace {
    /// A collection of a backup; none if it is temporary.
    fn of_view(view: &View, collection: &Collection) -> Result<Option<Self>> {
        let unreadable = || {
            let ns = collection.ns.clone();
            move |source: Box<dyn std::error::Error + Send + Sync>| Error::Backup { ns, source }
        };
        let parsed = |raw: &RawDocumentBuf| {
            Document::try_from(&**raw).map_err(|error| unreadable()(error.into()))
        };
        let options = parsed(&collection.options)?;
        if options.get_bool("temp").unwrap_or(false) {
            return Ok(None);
        }
        let specs: Vec<Document> = collection.indexes.iter().map(parsed).collect::<Result<_>>()?;
        let (mut md5, mut documents, mut in_order) = (Md5::new(), BTreeMap::new(), Vec::new());
        let mut cursor = Cursor::new(view.blocks(), &collection.root);
        while let Some(document) = cursor.next().map_err(|error| unreadable()(error.into()))? {
            md5.update(document.as_bytes());
            let (id, hash) = hash_document(&document);
            documents.insert(id, hash);
            in_order.push(hash);
        }
        if collection.order == Order::Keyed {
            in_order.clear();
        }
        Ok(Some(Self {
            hash: Some(hex(md5)),
            options: canonical_options("collection", &options),
            indexes: canonical_indexes(specs),
            documents,
            in_order,
            in_log_order: Vec::new(),
        }))
    }

    fn compare(&self, ns: &str, found: &Self, report: &mut Vec<String>) {
        if self.options != found.options {
            report.push(format!("{ns}: options {} instead of {}", found.options, self.options));
        }
        let names: BTreeSet<&String> = self.indexes.keys().chain(found.indexes.keys()).collect();
        for name in names {
            match (self.indexes.get(name), found.indexes.get(name)) {
                (Some(_), None) => report.push(format!("{ns}: index {name} is missing")),
                (None, Some(_)) => report.push(format!("{ns}: index {name} should not exist")),
                (Some(spec), Some(other)) if spec != other => {
                    report.push(format!("{ns}: index {other} instead of {spec}"));
                }
                _ => {}
            }
        }
        let as_logged = !found.in_order.is_empty() && found.in_order == self.in_log_order;
        if self.hash != found.hash && !as_logged {
            let hash = |namespace: &Self| namespace.hash.clone().unwrap_or("none".to_owned());
            report.push(format!("{ns}: md5 {} instead of {}", hash(found), hash(self)));
            self.compare_documents(ns, found, report);
        }
    }

    fn compare_documents(&self, ns: &str, found: &Self, report: &mut Vec<String>) {
        let mut differing = Vec::new();
        for (id, hash) in &self.documents {
            match found.documents.get(id) {
                None => differing.push(format!("{ns}: document {id} is missing")),
                Some(other) if other != hash => {
                    differing.push(format!("{ns}: document {id} has another content"));
                }
                Some(_) => {}
            }
        }
        let extra = found.documents.keys().filter(|id| !self.documents.contains_key(*id));
        differing.extend(extra.map(|id| format!("{ns}: document {id} should not exist")));
        let (count, of) = (differing.len(), self.documents.len());
        if count == 0 && of > 0 {
            report.push(format!("{ns}: the same {of} documents in another order"));
        } else if count > 0 {
            report.push(format!("{ns}: {count} of {of} documents differ"));
        }
        report.extend(differing.into_iter().take(NAMED_DOCUMENTS_MAX));
    }
}

async fn run(database: &Database, action: &'static str, command: Document) -> Result<Document> {
    database.run_command(command).await.map_err(Error::driver(action))
}

async fn list_collections(database: &Database) -> Result<Vec<Document>> {
    let action = "list collections";
    let command = doc! { "listCollections": 1 };
    let cursor = database.run_cursor_command(command).await.map_err(Error::driver(action))?;
    cursor.try_collect().await.map_err(Error::driver(action))
}

async fn list_indexes(database: &Database, name: &str) -> Result<BTreeMap<String, Document>> {
    let action = "list indexes";
    let command = doc! { "listIndexes": name };
    let cursor = database.run_cursor_command(command).await.map_err(Error::driver(action))?;
    let specs: Vec<Document> = cursor.try_collect().await.map_err(Error::driver(action))?;
    Ok(canonical_indexes(specs))
}

/// Finished index specs by name.
fn canonical_indexes(specs: Vec<Document>) -> BTreeMap<String, Document> {
    let finished = specs.into_iter().filter(|spec| {
        !spec.get_bool("clustered").unwrap_or(false) && !spec.contains_key("buildUUID")
    });
    finished
        .map(|mut spec| {
            spec.remove("ns");
            spec.remove("background");
            (spec.get_str("name").unwrap_or_default().to_owned(), sorted(&spec))
        })
        .collect()
}

fn is_capped(options: &Document) -> bool {
    options.get_bool("capped").unwrap_or(false)
}

fn canonical_options(kind: &str, options: &Document) -> Document {
    let mut options = sorted(options);
    if is_capped(&options)
        && let Ok(size) = options.get_i64("size")
    {
        options.insert("size", size.saturating_add(CAPPED_SIZE_UNIT - 1) / CAPPED_SIZE_UNIT);
    }
    doc! { "options": options, "type": kind }
}

/// What `dbHash` does not tell, as it reads by the index of `_id`: the md5 over all documents, and the
/// hash of each.
async fn hash_in_order(database: &Database, name: &str, by: &str) -> Result<(String, Vec<u64>)> {
    let mut cursor = read_in_order(database, name, by).await?;
    let (mut md5, mut hashes) = (Md5::new(), Vec::new());
    while let Some(document) = cursor.try_next().await.map_err(Error::driver(READ_IN_ORDER))? {
        md5.update(document.as_bytes());
        hashes.push(hash_document(&document).1);
    }
    Ok((hex(md5), hashes))
}

async fn read_in_order(
    database: &Database,
    name: &str,
    by: &str,
) -> Result<mongodb::Cursor<RawDocumentBuf>> {
    let collection = database.collection::<RawDocumentBuf>(name);
    let mut find = collection.find(doc! {}).sort(doc! { by: 1 });
    if by == "_id" {
        let simple = Collation::builder().locale("simple").build();
        find = find.collation(simple).allow_disk_use(true);
    }
    find.await.map_err(Error::driver(READ_IN_ORDER))
}

/// The UUID that `listCollections` tells.
fn uuid_of(listed: &Document) -> Result<Uuid> {
    let uuid = match listed.get_document("info").ok().and_then(|info| info.get("uuid")) {
        Some(Bson::Binary(uuid)) => uuid.bytes.clone().try_into().ok().map(Uuid),
        _ => None,
    };
    uuid.ok_or(Error::Reply { command: "listCollections", field: "info.uuid" })
}

fn hex(md5: Md5) -> String {
    md5.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

async fn hash_documents(database: &Database, name: &str) -> Result<BTreeMap<String, u64>> {
    let action = "read all documents";
    let collection = database.collection::<RawDocumentBuf>(name);
    let mut cursor = collection.find(doc! {}).await.map_err(Error::driver(action))?;
    let mut hashes = BTreeMap::new();
    while let Some(document) = cursor.try_next().await.map_err(Error::driver(action))? {
        let (id, hash) = hash_document(&document);
        hashes.insert(id, hash);
    }
    Ok(hashes)
}

/// A document's `_id`, as Extended JSON, and hash.
fn hash_document(document: &RawDocument) -> (String, u64) {
    let id = json_of_id(document);
    let mut hasher = DefaultHasher::new();
    document.as_bytes().hash(&mut hasher);
    (id, hasher.finish())
}

/// The document with its own fields sorted by name and every number in it in one type.
fn sorted(document: &Document) -> Document {
    let fields: BTreeMap<&String, &Bson> = document.iter().collect();
    fields.into_iter().map(|(name, value)| (name.clone(), by_value(value))).collect()
}

/// Whole numbers of any type become 64-bit integers; the order of nested fields stays, it can matter.
fn by_value(value: &Bson) -> Bson {
    match value {
        Bson::Int32(number) => Bson::Int64(i64::from(*number)),
        Bson::Double(number) if number.fract() == 0.0 && number.abs() < 9e15 => {
            #[expect(clippy::cast_possible_truncation, reason = "whole and below 2^53")]
            let whole = *number as i64;
            Bson::Int64(whole)
        }
        Bson::Document(nested) => {
            Bson::Document(nested.iter().map(|(k, v)| (k.clone(), by_value(v))).collect())
        }
        Bson::Array(values) => Bson::Array(values.iter().map(by_value).collect()),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::{Options, ReplicaSet, Standalone};

    /// Inserters at once, inserts of each, and how often they try to overtake each other.
    const INSERTERS: i32 = 8;
    const INSERTS: i32 = 100;
    const RACES: i32 = 50;

    async fn filled(last: i32, expire: Bson) -> (Standalone, SourceState) {
        let server = Standalone::start(&Options::default()).await.expect("start");
        let shop = server.client().database("shop");
        let orders = shop.collection::<Document>("orders");
        let documents = (0..10).map(|n| doc! { "_id": n, "n": if n == 9 { last } else { n } });
        orders.insert_many(documents).await.expect("insert");
        let index = doc! { "key": { "n": 1 }, "name": "n_1", "expireAfterSeconds": expire };
        let command = doc! { "createIndexes": "orders", "indexes": [index] };
        shop.run_command(command).await.expect("index");
        let state = SourceState::capture(server.client(), Detail::Documents).await.expect("state");
        (server, state)
    }

    #[tokio::test]
    async fn the_order_of_a_capped_collection_counts() {
        let mut states = Vec::new();
        for order in [&[3, 1, 2][..], &[3, 2, 1], &[1, 2], &[3, 1]] {
            let server = Standalone::start(&Options::default()).await.expect("start");
            let shop = server.client().database("shop");
            let create = doc! { "create": "log", "capped": true, "size": 4096 };
            shop.run_command(create).await.expect("create");
            let documents = order.iter().map(|id| doc! { "_id": id });
            shop.collection("log").insert_many(documents).await.expect("insert");
            let state = SourceState::capture(server.client(), Detail::Documents).await;
            states.push(state.expect("capture"));
        }
        let report = states[0].differences(&states[1]).join("\n");
        assert!(report.contains("the same 3 documents in another order"), "{report}");
        // Of the first only the second but last can be what is left of it.
        for (other, trimmed) in [(1, 0), (2, 1), (3, 0), (0, 0)] {
            let mut state = states[0].clone();
            assert_eq!(state.allow_for_trims(&states[other], |_| true), trimmed);
            let differs = other != 0 && trimmed == 0;
            assert_ne!(state.differences(&states[other]).is_empty(), differs);
        }
    }

    /// Inserts into `shop.log` until the primary has documents in another order than its secondary.
    async fn overtake(set: &ReplicaSet) -> (SourceState, SourceState) {
        let shop = set.client().database("shop");
        let create = doc! { "create": "log", "capped": true, "size": 16 << 20 };
        shop.run_command(create).await.expect("create");
        let secondary = (set.primary().await.expect("a primary") + 1) % set.members();
        let secondary = set.member(secondary).await.expect("a secondary");
        for race in 0..RACES {
            let insert = |inserter: i32| {
                let log = shop.collection("log");
                tokio::spawn(async move {
                    for n in 0..INSERTS {
                        let id = (race * INSERTERS + inserter) * INSERTS + n;
                        log.insert_one(doc! { "_id": id }).await.expect("insert");
                    }
                })
            };
            futures::future::try_join_all((0..INSERTERS).map(insert)).await.expect("inserters");
            set.wait_replicated().await.expect("replicated");
            let primary = SourceState::capture(set.client(), Detail::Documents).await;
            let secondary = SourceState::capture(&secondary, Detail::Documents).await;
            let (primary, secondary) = (primary.expect("primary"), secondary.expect("secondary"));
            if !primary.differences(&secondary).is_empty() {
                return (primary, secondary);
            }
        }
        panic!("nobody was overtaken in {RACES} races");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_primary_may_hold_inserts_in_another_order_than_its_oplog_and_secondaries() {
        let set = ReplicaSet::of(2).await.expect("start");
        let (mut primary, mut secondary) = overtake(&set).await;
        let report = primary.differences(&secondary).join("\n");
        assert!(report.contains("documents in another order"), "{report}");
        primary.add_log_order(set.client()).await.expect("log order");
        assert_eq!(primary.differences(&secondary), Vec::<String>::new());
        // Any other order is a difference still.
        secondary.namespaces.get_mut("shop.log").expect("the log").in_order.swap(0, 1);
        assert_eq!(primary.differences(&secondary).len(), 2);
    }

    #[tokio::test]
    async fn equal_servers_are_equal_and_a_changed_one_is_described() {
        let (_first, expected) = filled(9, Bson::Int32(3600)).await;
        let (_second, same) = filled(9, Bson::Double(3600.0)).await;
        assert_eq!(expected.differences(&same), Vec::<String>::new());
        let (_third, other) = filled(10, Bson::Int32(60)).await;
        let report = expected.differences(&other).join("\n");
        assert!(report.contains("shop.orders: 1 of 10 documents differ"), "{report}");
        let named = r#"document {"$numberInt":"9"} has another content"#;
        assert!(report.contains(named), "{report}");
        assert!(report.contains("index "), "{report}");
    }
}
