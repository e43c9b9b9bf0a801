//! What of a catalog is restored, and as what.
//!
//! The catalog holds what the server keeps: a time series is a collection of buckets and a document
//! of `system.views`, a view is only such a document. A user, `create` and mongodump see the time
//! series and the view. An [`Item`] is one namespace as the user sees it.

use std::collections::HashSet;

use bson::raw::RawBsonRef;
use bson::{RawDocument, RawDocumentBuf};

use super::request::Filter;
use super::{Error, Progress};
use crate::block::BlockRead;
use crate::head::Collection;
use crate::head::namespaces::{self, split};
use crate::tree::{self, Cursor};

/// What the names of bucket collections begin with.
pub(super) const BUCKETS: &str = "system.buckets.";
/// The collection of a database's views.
pub(super) const VIEWS: &str = "system.views";

/// The collection of a database's stored functions.
pub(super) const SCRIPTS: &str = "system.js";

/// What a namespace is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// A collection with an index on `_id`.
    Plain,
    /// Bounded, in insertion order.
    Capped,
    /// Kept in the order of `_id`.
    Clustered,
    /// Buckets and a view over them.
    TimeSeries,
    /// A view.
    View,
}

impl Shape {
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "collection",
            Self::Capped => "capped",
            Self::Clustered => "clustered",
            Self::TimeSeries => "timeseries",
            Self::View => "view",
        }
    }
}

/// One namespace to restore.
#[derive(Debug, Clone)]
pub(super) struct Item {
    /// As the user sees it, `db.name`.
    pub ns: String,
    /// What it is.
    pub shape: Shape,
    /// As `create` takes them and listCollections shows them for `ns`.
    pub options: RawDocumentBuf,
    /// The documents, none for a view. Of a time series, the buckets.
    pub data: Option<Collection>,
}

impl Item {
    pub fn db(&self) -> &str {
        split(&self.ns).0
    }

    /// The collection's name without its database.
    pub fn name(&self) -> &str {
        split(&self.ns).1
    }

    /// The name of the collection that holds the documents, without its database.
    pub fn data_name(&self) -> &str {
        self.data.as_ref().map_or("", |data| split(&data.ns).1)
    }

    /// The namespace whose writes a server takes for this item's, if it is buckets without a view.
    pub fn diverts(&self) -> Option<String> {
        series_of(&self.ns)
    }

    /// Whether it is a database's collection of stored functions, which cannot be dropped.
    pub fn is_scripts(&self) -> bool {
        self.name() == SCRIPTS
    }

    pub fn documents(&self) -> u64 {
        self.data.as_ref().map_or(0, |data| data.root.documents)
    }

    pub fn bytes(&self) -> u64 {
        self.data.as_ref().map_or(0, |data| data.root.bytes)
    }

    /// Index specs that are indexes of their own: not the pseudo index of a clustered collection.
    pub fn indexes(&self) -> impl Iterator<Item = &RawDocument> {
        let specs = self.data.iter().flat_map(|data| &data.indexes);
        specs.map(|spec| &**spec).filter(|spec| !flag(spec, "clustered"))
    }

    /// Index specs without the one on `_id`, which `create` makes.
    pub fn secondary_indexes(&self) -> impl Iterator<Item = &RawDocument> {
        self.indexes().filter(|spec| !is_id_index(spec))
    }
}

/// The time series that a namespace holds the buckets of, by its name.
pub(super) fn series_of(ns: &str) -> Option<String> {
    let (db, name) = split(ns);
    name.strip_prefix(BUCKETS).map(|name| format!("{db}.{name}"))
}

/// Whether a spec is that of the `_id` index.
pub(super) fn is_id_index(spec: &RawDocument) -> bool {
    text(spec, "name") == Some("_id_")
}

/// A string field of a document, none if it is absent or of another type.
pub(super) fn text<'a>(document: &'a RawDocument, field: &str) -> Option<&'a str> {
    document.get(field).ok().flatten().and_then(RawBsonRef::as_str)
}

/// Whether a field is true, or a number that is not zero.
pub(super) fn flag(document: &RawDocument, field: &str) -> bool {
    match document.get(field).ok().flatten() {
        Some(RawBsonRef::Boolean(value)) => value,
        Some(RawBsonRef::Int32(value)) => value != 0,
        Some(RawBsonRef::Int64(value)) => value != 0,
        Some(RawBsonRef::Double(value)) => value != 0.0,
        _ => false,
    }
}

/// A copy of a document without some fields. Everything else keeps its bytes and order.
pub(super) fn without(
    ns: &str,
    document: &RawDocument,
    fields: &[&str],
) -> Result<RawDocumentBuf, Error> {
    let mut out = RawDocumentBuf::new();
    for element in document.iter() {
        let (name, value) = element.map_err(|why| malformed(ns, "an option or index spec", why))?;
        if !fields.contains(&name.as_str()) {
            out.append(name, value);
        }
    }
    Ok(out)
}

fn malformed(ns: &str, what: &'static str, source: bson::error::Error) -> Error {
    Error::Malformed { ns: ns.to_owned(), what, source: Some(Box::new(source)) }
}

/// What the filters select of a catalog.
#[derive(Debug, Default)]
pub(super) struct Selection {
    /// Namespaces to make, by name.
    pub items: Vec<Item>,
    /// `admin.system.users`, where it is selected.
    pub users: Option<Collection>,
    /// `admin.system.roles`, where it is selected.
    pub roles: Option<Collection>,
    /// `admin.system.version`, which a dump carries beside users.
    pub version: Option<Collection>,
    /// Collections of `config`: a dump carries some, a live target has its own.
    pub config: Vec<Collection>,
    /// Temporary collections, which a server drops when it starts.
    pub temporary: Vec<String>,
}

impl Selection {
    /// Every collection whose documents are needed.
    pub fn collections(&self) -> Vec<&Collection> {
        let items = self.items.iter().filter_map(|item| item.data.as_ref());
        let system = [&self.users, &self.roles, &self.version].into_iter().flatten();
        items.chain(system).chain(&self.config).collect()
    }

    /// Documents of all items.
    pub fn documents(&self) -> u64 {
        self.items.iter().map(Item::documents).sum()
    }

    /// Bytes of all items.
    pub fn bytes(&self) -> u64 {
        self.items.iter().map(Item::bytes).sum()
    }

    /// Items that can be made beside each other, and those to be made after them: buckets without a
    /// view. While a server has such, it takes what is written under their name for measurements, even
    /// if there is a collection of that name (seen on 6.0.5).
    pub fn in_turn(&self) -> [Vec<&Item>; 2] {
        let names: HashSet<&str> = self.items.iter().map(|item| item.ns.as_str()).collect();
        let (last, first) = self
            .items
            .iter()
            .partition(|item| item.diverts().is_some_and(|ns| names.contains(&*ns)));
        [first, last]
    }
}

/// Sorts a catalog into what is to be restored. Blocking: reads `system.views`.
pub(super) fn select(
    blocks: &dyn BlockRead,
    catalog: &[Collection],
    filters: &[Filter],
    progress: &dyn Progress,
) -> Result<Selection, Error> {
    let wanted = |ns: &str| filters.is_empty() || filters.iter().any(|filter| filter.covers(ns));
    let views = views(blocks, catalog)?;
    let all_series: HashSet<&str> = views.iter().filter_map(View::series).collect();
    let mut selection = Selection::default();
    for collection in catalog {
        let (db, name) = split(&collection.ns);
        let series = series_of(&collection.ns).filter(|ns| all_series.contains(&**ns));
        let selected = wanted(&collection.ns) || series.as_deref().is_some_and(wanted);
        if !selected || !namespaces::kept(&collection.ns) || name == VIEWS {
            continue;
        }
        match (db, name) {
            ("admin", "system.users") => selection.users = Some(collection.clone()),
            ("admin", "system.roles") => selection.roles = Some(collection.clone()),
            ("admin", "system.version") => selection.version = Some(collection.clone()),
            ("config", _) => selection.config.push(collection.clone()),
            _ if flag(&collection.options, "temp") => {
                progress.note(&format!("{} is temporary and is not restored", collection.ns));
                selection.temporary.push(collection.ns.clone());
            }
            _ => selection.items.push(item(collection, series)?),
        }
    }
    let plain = views.iter().filter(|view| view.series().is_none() && wanted(&view.ns));
    for view in plain {
        let options = without(&view.ns, &view.document, &["_id"])?;
        let item = Item { ns: view.ns.clone(), shape: Shape::View, options, data: None };
        selection.items.push(item);
    }
    selection.items.sort_by(|a, b| a.ns.cmp(&b.ns));
    Ok(selection)
}

fn item(collection: &Collection, series: Option<String>) -> Result<Item, Error> {
    let ns = &collection.ns;
    let options = &collection.options;
    let has = |field| matches!(options.get(field), Ok(Some(_)));
    let data = Some(collection.clone());
    if let Some(series) = series {
        let options = without(ns, options, &["validator", "clusteredIndex"])?;
        return Ok(Item { ns: series, shape: Shape::TimeSeries, options, data });
    }
    if has("timeseries") && !split(ns).1.starts_with(BUCKETS) {
        let what = "a time series without a bucket collection of its own";
        return Err(Error::Unsupported { ns: ns.clone(), what });
    }
    let shape = match () {
        () if has("clusteredIndex") => Shape::Clustered,
        () if collection.order == tree::Order::Positional => Shape::Capped,
        () => Shape::Plain,
    };
    Ok(Item { ns: ns.clone(), shape, options: options.clone(), data })
}

/// A document of `system.views`.
struct View {
    ns: String,
    document: RawDocumentBuf,
}

impl View {
    /// Its namespace, if it is the view of a time series over its buckets.
    fn series(&self) -> Option<&str> {
        let on = text(&self.document, "viewOn")?;
        (on.strip_prefix(BUCKETS)? == split(&self.ns).1).then_some(&self.ns)
    }
}

fn views(blocks: &dyn BlockRead, catalog: &[Collection]) -> Result<Vec<View>, Error> {
    let mut views = Vec::new();
    for collection in catalog.iter().filter(|collection| split(&collection.ns).1 == VIEWS) {
        let ns = &collection.ns;
        let mut cursor = Cursor::new(blocks, &collection.root);
        while let Some(document) = cursor.next().map_err(|why| Error::unreadable(ns)(why))? {
            let name = text(&document, "_id").map(str::to_owned);
            let name = name.ok_or_else(|| Error::Malformed {
                ns: ns.clone(),
                what: "the name of a view",
                source: None,
            })?;
            views.push(View { ns: name, document });
        }
    }
    Ok(views)
}

/// Puts views behind the views they are made of. A circle, which no server makes, keeps its order.
pub(super) fn by_dependency(mut views: Vec<&Item>) -> Vec<&Item> {
    let mut ordered = Vec::with_capacity(views.len());
    while !views.is_empty() {
        let names: HashSet<String> = views.iter().map(|view| view.ns.clone()).collect();
        let waits = |view: &Item| {
            text(&view.options, "viewOn")
                .is_some_and(|on| names.contains(&format!("{}.{on}", view.db())))
        };
        let (blocked, free): (Vec<_>, Vec<_>) = views.into_iter().partition(|view| waits(view));
        let stuck = free.is_empty();
        ordered.extend(free);
        views = blocked;
        if stuck {
            ordered.append(&mut views);
        }
    }
    ordered
}
