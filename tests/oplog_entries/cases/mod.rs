//! The cases: what a server is told to do, and which forms of entries it must write then.

mod capped;
mod catalog;
mod coll_mod;
mod documents;
mod indexes;
mod kinds;
mod transactions;
mod updates;

use bson::{Document, RawDocumentBuf};
use headstock::lab::Release;

use crate::record::Role;

/// One case.
pub struct Case {
    /// The databases it writes to, `admin` and `config` besides. The first, whose name is the
    /// case's own, is that of its steps.
    pub databases: &'static [&'static str],
    /// Forms that its entries must have.
    pub meets: Vec<&'static str>,
    pub steps: Vec<Step>,
}

/// One step. What is shown after each is kept.
#[derive(Debug, Clone)]
pub enum Step {
    /// A command.
    Run(Document),
    /// A command on another database.
    On(&'static str, Document),
    /// A command whose bytes matter.
    Raw(RawDocumentBuf),
    /// A command that the server must refuse.
    Refused(Document),
    /// A write to `c` that can be repeated, as drivers send it.
    Retryable(Write),
    /// Begins the transaction of this number.
    Begin(u32),
    /// A command in a transaction.
    In(u32, Document),
    /// Commits a transaction.
    Commit(u32),
    /// Aborts a transaction, prepared or not.
    Abort(u32),
    /// Prepares a transaction.
    Prepare(u32),
    /// Commits a prepared transaction at its prepare timestamp and so many increments.
    Decide(u32, u32),
    /// Starts a command and does not wait for its end.
    Start(Document),
    /// Waits for the end of what was started.
    Join,
    /// Waits for the end of what was started, which must be refused.
    JoinRefused,
    /// Waits for an entry of this form.
    Until(&'static str),
}

/// A write that can be repeated.
#[derive(Debug, Clone)]
pub enum Write {
    Insert(Vec<Document>),
    Update(Document, Document),
    Delete(Document),
    /// Filter, update, and whether the document after it is asked for.
    FindAndUpdate(Document, Document, bool),
    FindAndDelete(Document),
}

/// What differs between the releases.
pub fn by_release<T>(release: Release, v4_4: T, v6_0: T) -> T {
    if release == Release::V4_4_2 { v4_4 } else { v6_0 }
}

/// Every case for a release and a kind of set.
pub fn all(release: Release, role: Role) -> Vec<Case> {
    if role == Role::Shard {
        return transactions::prepared();
    }
    [
        // First: what later cases make is in the way of a lower version.
        vec![kinds::settings(release)],
        documents::cases(release),
        updates::cases(release),
        transactions::cases(),
        catalog::cases(release),
        indexes::cases(release),
        coll_mod::cases(release),
        capped::cases(release),
        kinds::cases(release),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// An insert into `c`.
fn insert(documents: impl IntoIterator<Item = Document>) -> Step {
    insert_into("c", documents)
}

/// An insert.
fn insert_into(name: &str, documents: impl IntoIterator<Item = Document>) -> Step {
    let documents: Vec<Document> = documents.into_iter().collect();
    Step::Run(bson::doc! { "insert": name, "documents": documents })
}

/// An update of the document of `c` with this `_id`.
fn update(id: impl Into<bson::Bson>, u: impl Into<bson::Bson>) -> Step {
    let statement = bson::doc! { "q": { "_id": id.into() }, "u": u.into() };
    Step::Run(bson::doc! { "update": "c", "updates": [statement] })
}

/// A delete of the document of `c` with this `_id`.
fn delete(id: impl Into<bson::Bson>) -> Step {
    let statement = bson::doc! { "q": { "_id": id.into() }, "limit": 1 };
    Step::Run(bson::doc! { "delete": "c", "deletes": [statement] })
}

/// A command of the server as a whole.
fn admin(command: Document) -> Step {
    Step::On("admin", command)
}
