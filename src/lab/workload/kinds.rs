//! What a workload does, how often, and on which servers.

use super::Plan;

/// The servers that know something, by the first number of their version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Known {
    /// All of them.
    Always,
    /// Those below a version.
    Before(u32),
    /// Those from a version on.
    Since(u32),
}

impl Known {
    /// Whether a server of version `major` knows it.
    pub(super) fn by(self, major: u32) -> bool {
        match self {
            Self::Always => true,
            Self::Before(version) => major < version,
            Self::Since(version) => major >= version,
        }
    }
}

/// The operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    InsertOne,
    InsertMany,
    InsertCommand,
    InsertOdd,
    WriteUnreadable,
    InsertCapped,
    UpdateCapped,
    WriteSeries,
    Update,
    UpdateByPipeline,
    Replace,
    Upsert,
    FindAndModify,
    Delete,
    Empty,
    Move,
    SwapKeys,
    StoreFunction,
    Transaction,
    LargeTransaction,
    TransactionWithDdl,
    Create,
    DropCollection,
    Recreate,
    Rename,
    AggregateInto,
    ToCapped,
    ChangeOptions,
    CreateIndex,
    AbortIndex,
    DropIndex,
    ChangeView,
    ChangeUsers,
    WholeDatabase,
}

const DOCUMENT_KINDS: [(Kind, u32); 19] = [
    (Kind::InsertOne, 100),
    (Kind::InsertMany, 60),
    (Kind::InsertCommand, 20),
    (Kind::InsertOdd, 20),
    (Kind::WriteUnreadable, 20),
    (Kind::InsertCapped, 40),
    (Kind::UpdateCapped, 6),
    (Kind::WriteSeries, 30),
    (Kind::Update, 300),
    (Kind::UpdateByPipeline, 60),
    (Kind::Replace, 60),
    (Kind::Upsert, 60),
    (Kind::FindAndModify, 60),
    (Kind::Delete, 130),
    (Kind::Empty, 2),
    (Kind::Move, 10),
    (Kind::SwapKeys, 20),
    (Kind::StoreFunction, 8),
    (Kind::Transaction, 80),
];

const CATALOG_KINDS: [(Kind, u32); 14] = [
    (Kind::TransactionWithDdl, 8),
    (Kind::Create, 16),
    (Kind::DropCollection, 16),
    (Kind::Recreate, 3),
    (Kind::Rename, 14),
    (Kind::AggregateInto, 12),
    (Kind::ToCapped, 4),
    (Kind::ChangeOptions, 20),
    (Kind::CreateIndex, 14),
    (Kind::AbortIndex, 3),
    (Kind::DropIndex, 6),
    (Kind::ChangeView, 8),
    (Kind::ChangeUsers, 10),
    (Kind::WholeDatabase, 4),
];

impl Kind {
    fn known(self) -> Known {
        if self == Self::WriteSeries { Known::Since(5) } else { Known::Always }
    }
}

/// The operations of a plan that a server of version `major` knows, with their weights.
pub(super) fn kinds(plan: &Plan, major: u32) -> Vec<(Kind, u32)> {
    let mut kinds = DOCUMENT_KINDS.to_vec();
    if plan.large_transactions {
        kinds.push((Kind::LargeTransaction, 1));
    }
    kinds.extend(CATALOG_KINDS.map(|(kind, weight)| (kind, weight * plan.ddl)));
    kinds.retain(|(kind, weight)| *weight > 0 && kind.known().by(major));
    kinds
}
