//! What a groom has marked: names in order, in a file, in memory of a constant size.
//!
//! Names are gathered, sorted and written to runs, and the runs merged into one file, which has its last name only once it is whole:
//! so a file of that name is complete, and what it says holds for ever (page 09, section 4). A record is a name and the jobs that reach
//! it, as a set of bits.

use std::fs::{self, DirBuilder, File};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::block::BlockId;
use crate::blockstore::sorted::{self, Merged, Record as _};

/// Names that are gathered before a run is written: 40 MB.
const GATHERED_MAX: usize = 1 << 20;
/// Runs that are merged at once.
const RUNS_MAX: usize = 64;
/// Bytes of a record.
const RECORD_BYTES: usize = BlockId::LEN + 8;
/// Records of a page: one of its names is held in memory, and one page at a time.
const PAGE_RECORDS: usize = 1 << 12;

/// Makes a directory for marks that nobody else can write to: what stands in them decides what is removed.
pub(super) fn make_private(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let facts = fs::metadata(dir)?;
    if facts.uid() != rustix::process::geteuid().as_raw() || facts.mode() & 0o022 != 0 {
        let what =
            "it belongs to somebody else, or others may write to it: name another with --marks";
        return Err(io::Error::other(what));
    }
    Ok(())
}

/// Which jobs reach a block: a bit each, the last for all beyond.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Jobs(pub u64);

impl Jobs {
    /// Bits there are.
    pub const MAX: usize = 64;

    /// That of one job, by its number.
    pub fn of(number: usize) -> Self {
        Self(1 << number.min(Self::MAX - 1))
    }

    /// The numbers of those in it.
    pub fn numbers(self) -> impl Iterator<Item = usize> {
        (0..Self::MAX).filter(move |number| self.0 >> number & 1 == 1)
    }
}

type Record = (BlockId, Jobs);

/// Gathers marks.
pub(super) struct Marker {
    /// Of this one alone: another groom may keep its marks beside.
    dir: TempDir,
    gathered: Vec<Record>,
    runs: Vec<PathBuf>,
    made: u32,
}

impl Marker {
    /// Gathers in a directory of its own in that one.
    pub fn new(dir: &Path) -> io::Result<Self> {
        let dir = tempfile::Builder::new().prefix("marking-").tempdir_in(dir)?;
        Ok(Self { dir, gathered: Vec::new(), runs: Vec::new(), made: 0 })
    }

    pub fn mark(&mut self, id: BlockId, jobs: Jobs) -> io::Result<()> {
        self.gathered.push((id, jobs));
        if self.gathered.len() == GATHERED_MAX { self.write_run() } else { Ok(()) }
    }

    fn write_run(&mut self) -> io::Result<()> {
        self.gathered.sort_unstable();
        let path = self.new_run();
        let mut out = Writer::create(&path)?;
        self.gathered.drain(..).try_for_each(|record| out.push(record))?;
        out.finish()?;
        self.runs.push(path);
        if self.runs.len() < RUNS_MAX {
            return Ok(());
        }
        let path = self.new_run();
        merge(&std::mem::take(&mut self.runs), &path)?;
        self.runs.push(path);
        Ok(())
    }

    fn new_run(&mut self) -> PathBuf {
        self.made += 1;
        self.dir.path().join(format!("{}.run", self.made))
    }

    /// Merges all into a file of that name.
    pub fn finish(mut self, path: &Path) -> io::Result<()> {
        self.write_run()?;
        let whole = self.new_run();
        merge(&self.runs, &whole)?;
        File::open(&whole)?.sync_all()?;
        fs::rename(&whole, path)
    }
}

/// Writes records in order; equal names become one.
struct Writer {
    out: BufWriter<File>,
    last: Option<Record>,
}

impl Writer {
    fn create(path: &Path) -> io::Result<Self> {
        Ok(Self { out: BufWriter::new(File::create(path)?), last: None })
    }

    fn push(&mut self, (id, jobs): Record) -> io::Result<()> {
        match &mut self.last {
            Some((last, all)) if *last == id => all.0 |= jobs.0,
            _ => {
                self.write()?;
                self.last = Some((id, jobs));
            }
        }
        Ok(())
    }

    fn write(&mut self) -> io::Result<()> {
        let Some(record) = self.last.take() else { return Ok(()) };
        self.out.write_all(record.to_bytes().as_ref())
    }

    fn finish(mut self) -> io::Result<()> {
        self.write()?;
        self.out.flush()
    }
}

fn merge(runs: &[PathBuf], into: &Path) -> io::Result<()> {
    let mut out = Writer::create(into)?;
    for record in Merged::of(runs.iter().map(File::open))? {
        out.push(record?)?;
    }
    out.finish()?;
    runs.iter().try_for_each(fs::remove_file)
}

impl sorted::Record for Record {
    const BYTES: usize = RECORD_BYTES;

    fn to_bytes(&self) -> impl AsRef<[u8]> {
        let mut bytes = [0; RECORD_BYTES];
        bytes[..BlockId::LEN].copy_from_slice(self.0.as_bytes());
        bytes[BlockId::LEN..].copy_from_slice(&self.1.0.to_le_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Self {
        let (name, jobs) = bytes.split_at(BlockId::LEN);
        let name = BlockId::from_slice(name).expect("a record begins with a name");
        (name, Jobs(u64::from_le_bytes(jobs.try_into().expect("and ends with 8 bytes"))))
    }
}

/// Marks that are complete.
pub(super) struct Marks {
    file: File,
    /// The first name of each page.
    firsts: Vec<BlockId>,
    /// The page that was looked into last.
    page: (usize, Vec<u8>),
}

impl Marks {
    /// Opens a file that [`Marker::finish`] made.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let records = file.metadata()?.len() / RECORD_BYTES as u64;
        let mut firsts = Vec::new();
        for page in 0..records.div_ceil(PAGE_RECORDS as u64) {
            let mut bytes = [0; RECORD_BYTES];
            file.read_exact_at(&mut bytes, page * (PAGE_RECORDS * RECORD_BYTES) as u64)?;
            firsts.push(Record::from_bytes(&bytes).0);
        }
        Ok(Self { file, firsts, page: (usize::MAX, Vec::new()) })
    }

    /// The jobs that reach a block; none if it was not marked. Quick for names in order.
    pub fn find(&mut self, id: &BlockId) -> io::Result<Option<Jobs>> {
        let Some(page) = self.firsts.partition_point(|first| first <= id).checked_sub(1) else {
            return Ok(None);
        };
        if self.page.0 != page {
            self.page = (page, self.read_page(page)?);
        }
        let records = self.page.1.len() / RECORD_BYTES;
        let at = |number: usize| {
            Record::from_bytes(&self.page.1[number * RECORD_BYTES..][..RECORD_BYTES])
        };
        let (mut low, mut high) = (0, records);
        while low < high {
            let middle = usize::midpoint(low, high);
            if at(middle).0 < *id {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        let found = (low < records).then(|| at(low)).filter(|(name, _)| name == id);
        Ok(found.map(|(_, jobs)| jobs))
    }

    fn read_page(&self, page: usize) -> io::Result<Vec<u8>> {
        let from = (page * PAGE_RECORDS * RECORD_BYTES) as u64;
        let left = self.file.metadata()?.len().saturating_sub(from) as usize;
        let mut bytes = vec![0; left.min(PAGE_RECORDS * RECORD_BYTES)];
        self.file.read_exact_at(&mut bytes, from)?;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(number: u32) -> BlockId {
        BlockId::from_bytes(*blake3::hash(&number.to_le_bytes()).as_bytes())
    }

    /// More than a run and more than a page, marked twice by some jobs.
    #[test]
    fn what_was_marked_is_found_and_nothing_else() {
        let dir = tempfile::tempdir().expect("a folder");
        let mut marker = Marker::new(dir.path()).expect("make");
        let count = GATHERED_MAX as u32 / 2 + 70_000;
        for job in 0..3 {
            for number in (0..count).filter(|number| number % (job + 1) == 0) {
                marker.mark(name(number), Jobs::of(job as usize)).expect("mark");
            }
        }
        let path = dir.path().join("marks");
        marker.finish(&path).expect("finish");
        assert_eq!(fs::read_dir(dir.path()).expect("list").count(), 1, "runs are gone");
        let mut marks = Marks::open(&path).expect("open");
        for number in (0..count).step_by(97) {
            let jobs = (0..3).filter(|job| number % (job + 1) == 0);
            let expected = jobs.fold(0, |jobs, job| jobs | Jobs::of(job as usize).0);
            assert_eq!(marks.find(&name(number)).expect("find"), Some(Jobs(expected)));
            assert_eq!(marks.find(&name(count + number)).expect("find"), None);
        }
        Marker::new(dir.path()).expect("make").finish(&path).expect("none");
        assert_eq!(Marks::open(&path).expect("open").find(&name(1)).expect("find"), None);
    }

    /// Two grooms were given one directory.
    #[test]
    fn those_beside_each_other_keep_apart() {
        let dir = tempfile::tempdir().expect("a folder");
        let [mut one, mut two] = [0, 1].map(|_| Marker::new(dir.path()).expect("make"));
        let count = GATHERED_MAX as u32;
        for number in 0..count {
            one.mark(name(number), Jobs::of(0)).expect("mark");
            two.mark(name(count + number), Jobs::of(0)).expect("mark");
        }
        let path = dir.path().join("one.marks");
        one.finish(&path).expect("finish");
        let mut marks = Marks::open(&path).expect("open");
        let lost = (0..count).filter(|n| marks.find(&name(*n)).expect("find").is_none()).count();
        assert_eq!(lost, 0, "of {count}");
    }

    #[test]
    fn jobs_beyond_the_last_bit_share_it() {
        assert_eq!(Jobs::of(70), Jobs::of(63));
        assert_eq!(Jobs(0b101).numbers().collect::<Vec<_>>(), [0, 2]);
    }
}
