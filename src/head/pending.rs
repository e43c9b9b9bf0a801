//! The pending state: what a head needs besides its catalog so that no entry at or before its
//! position is ever needed again.
//!
//! One `Links` block: how far a scan is still to be caught up with, the divergences counted, and two
//! trees of our own documents, one with the entries of open transactions and one with the started
//! index builds. A head with nothing pending has no such block.

use std::collections::BTreeMap;

use bson::raw::{RawBsonRef, cstr};
use bson::{Binary, RawDocument, RawDocumentBuf, Timestamp};

use super::commands::{Build, Builds};
use super::fields::{self, Fields};
use super::held::{Held, HeldId};
use super::state::Divergences;
use super::{Error, HeadRoot, foreign};
use crate::block::{BlockId, BlockRead, BlockWrite, Kind};
use crate::oplog::transactions::{Assembler, Chain, Part};
use crate::oplog::{OpTime, Ts, Uuid};
use crate::tree::{self, Builder, Cursor, Key, Shape};

/// What is pending, besides the entries themselves.
pub(super) struct Pending {
    pub fuzzy_until: Option<OpTime>,
    pub divergences: Divergences,
    pub builds: Builds,
    pub transactions: Assembler<HeldId>,
    /// Collections that are tracked by name and whose documents are missing.
    pub absent: BTreeMap<Uuid, String>,
}

impl Pending {
    /// Nothing pending.
    pub fn none() -> Self {
        Self {
            fuzzy_until: None,
            divergences: Divergences::default(),
            builds: Builds::new(),
            transactions: Assembler::new(),
            absent: BTreeMap::new(),
        }
    }
}

/// Prepare timestamps of the transactions that a committed head left undecided, lowest first.
///
/// # Errors
/// [`Error::Tree`], [`Error::Block`], [`Error::Malformed`].
pub fn undecided(blocks: &dyn BlockRead, root: &HeadRoot) -> Result<Vec<Ts>, Error> {
    let prepared = open_transactions(blocks, root)?.into_iter().filter(|chain| chain.prepared);
    let mut at: Vec<Ts> =
        prepared.filter_map(|chain| Some(chain.parts.last()?.optime.ts)).collect();
    at.sort_unstable();
    Ok(at)
}

/// The transactions that a committed head left open; the handle of a part is the stream of its entry.
///
/// # Errors
/// [`Error::Tree`], [`Error::Block`], [`Error::Malformed`].
pub fn open_transactions(
    blocks: &dyn BlockRead,
    root: &HeadRoot,
) -> Result<Vec<Chain<Vec<BlockId>>>, Error> {
    let Some(id) = &root.pending else { return Ok(Vec::new()) };
    let block = blocks.get(id)?;
    read_chains(blocks, &fields_of(&block.bytes)?.tree("transactions")?)
}

/// Stores the pending state; none if there is nothing pending.
pub(super) fn write(
    blocks: &dyn BlockWrite,
    shape: &Shape,
    pending: &Pending,
    held: &mut Held,
) -> Result<Option<BlockId>, Error> {
    let transactions = write_transactions(blocks, shape, &pending.transactions, held)?;
    let builds = write_builds(blocks, shape, &pending.builds)?;
    let nothing = transactions == tree::Root::default()
        && builds == tree::Root::default()
        && pending.fuzzy_until.is_none()
        && pending.absent.is_empty()
        && pending.divergences == Divergences::default();
    if nothing {
        return Ok(None);
    }
    let mut out = RawDocumentBuf::new();
    if let Some(until) = pending.fuzzy_until {
        out.append(cstr!("fuzzy_until"), fields::optime(until));
    }
    let counts = &pending.divergences;
    out.append(cstr!("update_on_missing"), fields::count(counts.update_on_missing));
    out.append(cstr!("delete_on_missing"), fields::count(counts.delete_on_missing));
    out.append(cstr!("insert_on_existing"), fields::count(counts.insert_on_existing));
    out.append(cstr!("catalog_surprises"), fields::count(counts.catalog));
    out.append(cstr!("transactions"), transactions.to_bson());
    out.append(cstr!("builds"), builds.to_bson());
    out.append(cstr!("absent"), write_absent(blocks, shape, &pending.absent)?.to_bson());
    Ok(Some(blocks.put(Kind::Links, out.as_bytes())?))
}

/// Reads what [`write()`] stored.
pub(super) fn read(
    blocks: &dyn BlockRead,
    id: &BlockId,
    held: &mut Held,
) -> Result<Pending, Error> {
    let block = blocks.get(id)?;
    let read = fields_of(&block.bytes)?;
    Ok(Pending {
        fuzzy_until: read.optional_optime("fuzzy_until")?,
        divergences: Divergences {
            update_on_missing: read.count("update_on_missing")?,
            delete_on_missing: read.count("delete_on_missing")?,
            insert_on_existing: read.count("insert_on_existing")?,
            catalog: read.count("catalog_surprises")?,
        },
        builds: read_builds(blocks, &read.tree("builds")?)?,
        transactions: read_transactions(blocks, &read.tree("transactions")?, held)?,
        absent: read_absent(blocks, &read.tree("absent")?)?,
    })
}

fn fields_of(bytes: &[u8]) -> Result<Fields<'_>, Error> {
    let malformed = Error::Malformed { what: "pending state", field: "document" };
    let document = RawDocument::from_bytes(bytes).map_err(|_| malformed)?;
    Ok(Fields { what: "pending state", document })
}

/// One document for each held entry, by its timestamp; the first of a chain carries what is known of
/// the whole.
fn write_transactions(
    blocks: &dyn BlockWrite,
    shape: &Shape,
    transactions: &Assembler<HeldId>,
    held: &mut Held,
) -> Result<tree::Root, Error> {
    let mut documents = BTreeMap::new();
    for chain in transactions.open() {
        let Some(first) = chain.parts.first().map(|part| part.optime.ts) else { continue };
        for part in &chain.parts {
            let mut out = RawDocumentBuf::new();
            out.append(cstr!("_id"), Timestamp::from(part.optime.ts));
            out.append(cstr!("t"), part.optime.term);
            out.append(cstr!("chain"), Timestamp::from(first));
            out.append(cstr!("operations"), fields::count(part.operations));
            out.append(cstr!("entry"), foreign::links(&held.store(blocks, part.handle)?));
            if part.optime.ts == first {
                out.append(cstr!("lsid"), fields::bytes(&chain.lsid));
                if let Some(number) = chain.txn_number {
                    out.append(cstr!("txn_number"), number);
                }
                out.append(cstr!("prepared"), chain.prepared);
            }
            documents.insert(part.optime.ts, out);
        }
    }
    build(blocks, shape, documents.into_values())
}

fn build(
    blocks: &dyn BlockWrite,
    shape: &Shape,
    documents: impl Iterator<Item = RawDocumentBuf>,
) -> Result<tree::Root, Error> {
    let mut builder = Builder::new(blocks, shape);
    for document in documents {
        builder.push(&document)?;
    }
    Ok(builder.finish()?)
}

fn read_transactions(
    blocks: &dyn BlockRead,
    root: &tree::Root,
    held: &mut Held,
) -> Result<Assembler<HeldId>, Error> {
    let chains = read_chains(blocks, root)?.into_iter().map(|chain| {
        let part = |part: Part<Vec<BlockId>>| Part {
            optime: part.optime,
            operations: part.operations,
            handle: held.adopt(part.handle),
        };
        Chain {
            parts: chain.parts.into_iter().map(part).collect(),
            lsid: chain.lsid,
            txn_number: chain.txn_number,
            prepared: chain.prepared,
        }
    });
    Ok(Assembler::restore(chains.collect::<Vec<_>>())?)
}

/// The open transactions, in the order of their last entries.
fn read_chains(
    blocks: &dyn BlockRead,
    root: &tree::Root,
) -> Result<Vec<Chain<Vec<BlockId>>>, Error> {
    let mut chains: BTreeMap<Ts, Chain<Vec<BlockId>>> = BTreeMap::new();
    let mut cursor = Cursor::new(blocks, root);
    while let Some(document) = cursor.next()? {
        let read = Fields { what: "held oplog entry", document: &document };
        let timestamp = |field| match read.optional(field) {
            Some(RawBsonRef::Timestamp(ts)) => Ok(Ts::from(ts)),
            _ => Err(read.malformed(field)),
        };
        let (ts, first) = (timestamp("_id")?, timestamp("chain")?);
        let term = read.optional("t").and_then(|value| value.as_i64());
        let pieces = read.optional("entry").and_then(foreign::linked);
        let part = Part {
            optime: OpTime { ts, term: term.ok_or_else(|| read.malformed("t"))? },
            operations: read.count("operations")?,
            handle: pieces.ok_or_else(|| read.malformed("entry"))?,
        };
        if ts == first {
            let lsid = read.optional("lsid").and_then(|value| value.as_binary());
            let chain = Chain {
                lsid: lsid.ok_or_else(|| read.malformed("lsid"))?.bytes.to_vec(),
                txn_number: read.optional("txn_number").and_then(|value| value.as_i64()),
                prepared: read.flag("prepared")?,
                parts: vec![part],
            };
            chains.insert(first, chain);
        } else {
            let chain = chains.get_mut(&first).ok_or_else(|| read.malformed("chain"))?;
            chain.parts.push(part);
        }
    }
    let mut chains: Vec<_> = chains.into_values().collect();
    chains.sort_by_key(|chain| chain.parts.last().map(|part| part.optime));
    Ok(chains)
}

fn write_absent(
    blocks: &dyn BlockWrite,
    shape: &Shape,
    absent: &BTreeMap<Uuid, String>,
) -> Result<tree::Root, Error> {
    let mut documents = BTreeMap::new();
    for (uuid, ns) in absent {
        let mut out = RawDocumentBuf::new();
        out.append(cstr!("_id"), Binary::from(*uuid));
        out.append(cstr!("ns"), ns.as_str());
        documents.insert(Key::of_document(&out)?, out);
    }
    build(blocks, shape, documents.into_values())
}

fn read_absent(blocks: &dyn BlockRead, root: &tree::Root) -> Result<BTreeMap<Uuid, String>, Error> {
    let mut absent = BTreeMap::new();
    let mut cursor = Cursor::new(blocks, root);
    while let Some(document) = cursor.next()? {
        let read = Fields { what: "absent collection", document: &document };
        absent.insert(read.get("_id", Uuid::from_value)?, read.text("ns")?);
    }
    Ok(absent)
}

fn write_builds(
    blocks: &dyn BlockWrite,
    shape: &Shape,
    builds: &Builds,
) -> Result<tree::Root, Error> {
    let mut documents = BTreeMap::new();
    for (id, started) in builds {
        let run: Vec<u8> =
            started.indexes.iter().flat_map(|spec| spec.as_bytes()).copied().collect();
        let mut out = RawDocumentBuf::new();
        out.append(cstr!("_id"), Binary::from(*id));
        out.append(cstr!("collection"), Binary::from(started.collection));
        out.append(cstr!("indexes"), foreign::encode(blocks, &run)?);
        documents.insert(Key::of_document(&out)?, out);
    }
    build(blocks, shape, documents.into_values())
}

fn read_builds(blocks: &dyn BlockRead, root: &tree::Root) -> Result<Builds, Error> {
    let mut builds = Builds::new();
    let mut cursor = Cursor::new(blocks, root);
    while let Some(document) = cursor.next()? {
        let read = Fields { what: "index build", document: &document };
        let uuid = |field| {
            read.optional(field).and_then(Uuid::from_value).ok_or_else(|| read.malformed(field))
        };
        let run = read.optional("indexes").ok_or_else(|| read.malformed("indexes"))?;
        let indexes = foreign::decode(blocks, run)?.and_then(|run| foreign::documents(&run));
        let indexes = indexes.ok_or_else(|| read.malformed("indexes"))?;
        builds.insert(uuid("_id")?, Build { collection: uuid("collection")?, indexes });
    }
    Ok(builds)
}
