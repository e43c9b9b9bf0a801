//! How far the scan of each collection is, as it is committed.
//!
//! One document per collection in a tree by UUID. A range that is under way has the trees of what it
//! delivered (*pieces*) and the last `_id` in them; a resumed scan starts at that `_id`, inclusive,
//! and drops the document it has already. A collection that is finished has one tree.

use bson::raw::{RawArrayBuf, cstr};
use bson::{Binary, RawDocument, RawDocumentBuf};

use crate::block::{BlockRead, BlockWrite};
use crate::elements;
use crate::head::fields::{self, Fields};
use crate::job::Error;
use crate::oplog::Uuid;
use crate::source::{Arrival, Listed, Range};
use crate::tree::{self, Key};

/// What the document is called in messages.
const WHAT: &str = "scan progress";

/// How far the scan of a collection is.
#[derive(Debug, Clone)]
pub struct Progress {
    /// The collection as it was listed.
    pub listed: Listed,
    /// Its ranges in order; empty until it is split.
    pub ranges: Vec<RangeProgress>,
    /// All of it, once it is finished.
    pub finished: Option<tree::Root>,
}

/// How far the scan of a range is.
#[derive(Debug, Clone)]
pub struct RangeProgress {
    /// The range.
    pub range: Range,
    /// What it delivered, in order.
    pub pieces: Vec<Piece>,
    /// `{_id}` of the last document in the pieces.
    pub last_id: Option<RawDocumentBuf>,
    /// Whether the pieces are all of it.
    pub done: bool,
}

impl RangeProgress {
    /// A range not begun.
    pub fn new(range: Range) -> Self {
        Self { range, pieces: Vec::new(), last_id: None, done: false }
    }
}

/// A finished tree of some documents of a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// The tree.
    pub root: tree::Root,
    /// How often it was joined or merged from pieces of the rank below.
    pub rank: u8,
}

impl Progress {
    /// A collection not begun.
    pub fn new(listed: Listed) -> Self {
        Self { listed, ranges: Vec::new(), finished: None }
    }

    /// Documents and bytes that are in trees.
    pub fn amount(&self) -> (u64, u64) {
        let pieces = self.ranges.iter().flat_map(|range| &range.pieces).map(|piece| piece.root);
        let sum =
            |(documents, bytes), root: tree::Root| (documents + root.documents, bytes + root.bytes);
        self.finished.into_iter().chain(pieces).fold((0, 0), sum)
    }

    /// The key of the document of a collection.
    pub fn key(uuid: Uuid) -> Result<Key, tree::Error> {
        let id = Binary::from(uuid);
        let document = bson::rawdoc! { "_id": id };
        Key::of_document(&document)
    }

    /// As a document of the tree.
    pub fn to_bson(&self, blocks: &dyn BlockWrite) -> Result<RawDocumentBuf, Error> {
        let mut out = RawDocumentBuf::new();
        out.append(cstr!("_id"), Binary::from(self.listed.uuid));
        out.append(cstr!("ns"), self.listed.ns.as_str());
        out.append(cstr!("options"), fields::foreign(blocks, &self.listed.options)?);
        let mut indexes = RawArrayBuf::new();
        for index in &self.listed.indexes {
            let mut spec = RawDocumentBuf::new();
            spec.append(cstr!("spec"), fields::foreign(blocks, index)?);
            indexes.push(spec);
        }
        out.append(cstr!("indexes"), indexes);
        out.append(cstr!("arrival"), arrival_name(self.listed.arrival));
        out.append(cstr!("documents_estimate"), fields::count(self.listed.documents_estimate));
        out.append(cstr!("bytes_estimate"), fields::count(self.listed.bytes_estimate));
        if let Some(root) = &self.finished {
            out.append(cstr!("finished"), root.to_bson());
        }
        let mut ranges = RawArrayBuf::new();
        for range in &self.ranges {
            ranges.push(range_to_bson(blocks, range)?);
        }
        out.append(cstr!("ranges"), ranges);
        Ok(out)
    }

    /// Reads [`Progress::to_bson`] back.
    pub fn from_bson(blocks: &dyn BlockRead, document: &RawDocument) -> Result<Self, Error> {
        let read = Fields { what: WHAT, document };
        let indexes = read.documents("indexes")?.into_iter();
        let listed = Listed {
            uuid: read.get("_id", Uuid::from_value)?,
            ns: read.text("ns")?,
            options: read.foreign(blocks, "options")?,
            indexes: indexes
                .map(|index| index.foreign(blocks, "spec"))
                .collect::<Result<_, _>>()?,
            building: Vec::new(),
            arrival: read.get("arrival", |value| value.as_str().and_then(arrival_named))?,
            documents_estimate: read.count("documents_estimate")?,
            bytes_estimate: read.count("bytes_estimate")?,
        };
        let ranges = read.documents("ranges")?.into_iter();
        let finished = read.optional("finished").map(|_| read.tree("finished")).transpose()?;
        Ok(Self {
            listed,
            ranges: ranges.map(|range| range_from_bson(blocks, range)).collect::<Result<_, _>>()?,
            finished,
        })
    }
}

fn arrival_name(arrival: Arrival) -> &'static str {
    match arrival {
        Arrival::ByKey => "key",
        Arrival::ByCollation => "collation",
        Arrival::Natural => "natural",
    }
}

fn arrival_named(name: &str) -> Option<Arrival> {
    [Arrival::ByKey, Arrival::ByCollation, Arrival::Natural]
        .into_iter()
        .find(|arrival| arrival_name(*arrival) == name)
}

fn range_to_bson(blocks: &dyn BlockWrite, range: &RangeProgress) -> Result<RawDocumentBuf, Error> {
    let mut out = RawDocumentBuf::new();
    let bounds = [
        (cstr!("lower"), &range.range.lower),
        (cstr!("upper"), &range.range.upper),
        (cstr!("last_id"), &range.last_id),
    ];
    for (name, bound) in bounds {
        if let Some(bound) = bound {
            // A user's value may look like the name of a block, so it stands as foreign bytes.
            out.append(name, fields::foreign(blocks, bound)?);
        }
    }
    let mut pieces = RawArrayBuf::new();
    for piece in &range.pieces {
        let mut document = RawDocumentBuf::new();
        document.append(cstr!("rank"), i64::from(piece.rank));
        document.append(cstr!("root"), piece.root.to_bson());
        pieces.push(document);
    }
    out.append(cstr!("pieces"), pieces);
    out.append(cstr!("done"), range.done);
    Ok(out)
}

fn range_from_bson(blocks: &dyn BlockRead, read: Fields<'_>) -> Result<RangeProgress, Error> {
    let bound = |name: &'static str| match read.optional(name) {
        None => Ok(None),
        Some(_) => {
            let bound = read.foreign(blocks, name)?;
            let bound = elements::only_id(&bound).ok().filter(|bound| !bound.is_empty());
            bound.map(Some).ok_or_else(|| read.malformed(name))
        }
    };
    let piece = |read: Fields<'_>| {
        let rank = u8::try_from(read.count("rank")?).map_err(|_| read.malformed("rank"))?;
        Ok::<_, Error>(Piece { root: read.tree("root")?, rank })
    };
    Ok(RangeProgress {
        range: Range { lower: bound("lower")?, upper: bound("upper")? },
        last_id: bound("last_id")?,
        pieces: read.documents("pieces")?.into_iter().map(piece).collect::<Result<_, _>>()?,
        done: read.flag("done")?,
    })
}
