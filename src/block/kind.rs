//! What the bytes of a block are.

/// The kind of a block. It decides which blocks it names, see [`super::references`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Kind {
    /// A run of user documents, BSON after BSON. Names no block.
    Leaf = 1,
    /// A piece of a document too large for one block. Names no block.
    Part = 2,
    /// An inner node of a tree. Names its children.
    Node = 3,
    /// A piece of a byte stream (oplog entries, large options). Names no block.
    Stream = 4,
    /// A run of our own BSON documents (catalog, manifests, job state). Names every block that
    /// stands in them as a binary of subtype 0x80.
    Links = 5,
    /// A copy of a commit record. Names its roots. Never a root itself.
    Commit = 6,
    /// A zstd dictionary that leaves and parts are compressed with. Names no block.
    Dictionary = 7,
}

impl Kind {
    /// Every kind, in the order of its byte.
    pub const ALL: [Self; 7] = [
        Self::Leaf,
        Self::Part,
        Self::Node,
        Self::Stream,
        Self::Links,
        Self::Commit,
        Self::Dictionary,
    ];

    /// The byte that stands for the kind on disk and in a block's name.
    #[must_use]
    pub const fn to_byte(self) -> u8 {
        self as u8
    }

    /// The kind a byte stands for.
    #[must_use]
    pub fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.to_byte() == byte)
    }

    /// Whether blocks of this kind may be compressed with a dictionary: those whose content no walk of the graph needs.
    #[must_use]
    pub const fn may_use_dictionary(self) -> bool {
        matches!(self, Self::Leaf | Self::Part)
    }

    /// Whether blocks of this kind may name other blocks.
    #[must_use]
    pub const fn has_references(self) -> bool {
        matches!(self, Self::Node | Self::Links | Self::Commit)
    }
}
