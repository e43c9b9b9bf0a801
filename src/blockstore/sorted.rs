//! Records of one size in files, each in order: several are read as one.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::{self, BufReader, Read};

/// Bytes read at once from each file.
const READ_BYTES: usize = 1 << 16;

/// What such a file has.
pub(super) trait Record: Ord + Sized {
    /// Bytes of each.
    const BYTES: usize;

    fn to_bytes(&self) -> impl AsRef<[u8]>;

    /// Of as many bytes.
    fn from_bytes(bytes: &[u8]) -> Self;
}

/// The records of some files, in order.
pub(super) struct Merged<T, F> {
    readers: Vec<Reader<F>>,
    heads: BinaryHeap<Reverse<(T, usize)>>,
}

struct Reader<F> {
    file: BufReader<F>,
    bytes: Vec<u8>,
}

impl<T: Record, F: Read> Merged<T, F> {
    pub fn of(files: impl Iterator<Item = io::Result<F>>) -> io::Result<Self> {
        let (mut readers, mut heads) = (Vec::new(), BinaryHeap::new());
        for (number, file) in files.enumerate() {
            let file = BufReader::with_capacity(READ_BYTES, file?);
            let mut reader = Reader { file, bytes: vec![0; T::BYTES] };
            heads.extend(reader.next()?.map(|record| Reverse((record, number))));
            readers.push(reader);
        }
        Ok(Self { readers, heads })
    }
}

impl<T: Record, F: Read> Iterator for Merged<T, F> {
    type Item = io::Result<T>;

    fn next(&mut self) -> Option<Self::Item> {
        let Reverse((record, number)) = self.heads.pop()?;
        match self.readers[number].next() {
            Ok(next) => self.heads.extend(next.map(|record| Reverse((record, number)))),
            Err(error) => return Some(Err(error)),
        }
        Some(Ok(record))
    }
}

impl<F: Read> Reader<F> {
    fn next<T: Record>(&mut self) -> io::Result<Option<T>> {
        match self.file.read_exact(&mut self.bytes) {
            Ok(()) => Ok(Some(T::from_bytes(&self.bytes))),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            Err(error) => Err(error),
        }
    }
}
