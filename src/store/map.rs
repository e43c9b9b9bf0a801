//! Read-only views of immutable files: the one place with `unsafe` in this package.

use std::fmt;
use std::io;
use std::ops::Deref;

/// The first bytes of a file, readable as a slice.
pub struct Map(View);

enum View {
    Mapped(memmap2::Mmap),
    Owned(Vec<u8>),
}

impl Map {
    /// Maps the first bytes of a file, which has at least that many.
    #[allow(unsafe_code)]
    pub(super) fn of_file(file: &std::fs::File, bytes: u64) -> io::Result<Self> {
        if bytes == 0 {
            return Ok(Self(View::Owned(Vec::new())));
        }
        let len = usize::try_from(bytes).map_err(io::Error::other)?;
        // SAFETY: a mapping is sound as long as nobody changes or cuts the file under it. The seam
        // maps only sealed segments and finished index runs: both are written under a temporary
        // state, synced, and from then on only ever unlinked, which leaves the mapped pages alone.
        // The store's directory is owned by one writing process (its lock), and readers write
        // nothing there. A program that nevertheless writes into it can make a reader see other
        // bytes; those are copied out before they are checked against their hash. A failing disk
        // or a file cut from outside raises SIGBUS: that risk is stated in the format
        // specification, and `Options::mmap` turns maps off.
        let map = unsafe { memmap2::MmapOptions::new().len(len).map(file)? };
        Ok(Self(View::Mapped(map)))
    }

    /// A view of bytes held in memory, for disks that have no files to map.
    #[must_use]
    pub fn owned(bytes: Vec<u8>) -> Self {
        Self(View::Owned(bytes))
    }
}

impl Deref for Map {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            View::Mapped(map) => map,
            View::Owned(bytes) => bytes,
        }
    }
}

impl fmt::Debug for Map {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Map({} bytes)", self.len())
    }
}
