//! `format-spec/09-blockstore.md` as states and steps.
//!
//! A step is one command as the replica set executes it, majority-committed and atomic, so that every client may be
//! overtaken, frozen or killed between any two of its commands. A commit is two: its transaction has made its writes and
//! holds their documents, then it ends, one way or the other and whether or not its client still waits. What a client
//! sent may be executed again at any later time, as after a retry or its death.

mod groomer;
mod reader;
mod writer;

use stateright::{Model, Property};
use writer::new_writer;

/// Blocks of the domain.
pub const BLOCKS: u8 = 3;
/// Snapshots of the domain.
pub const SNAPSHOTS: u8 = 3;
const WRITERS: u8 = 2;
const GROOMERS: u8 = 2;
/// Sessions that a writer may begin, one after another: one more than the times it may die.
const RUNS: u8 = 2;
/// The bit of the reader among the pins of a snapshot; below it are those of the writers' sessions.
const READER: u8 = WRITERS * RUNS;

/// Blocks, snapshots or sessions, a bit for each.
pub type Set = u8;

/// The set of one.
pub const fn one(member: u8) -> Set {
    1 << member
}

fn has(set: Set, member: u8) -> bool {
    set & one(member) != 0
}

fn lowest(set: Set) -> Option<u8> {
    (set != 0).then(|| u8::try_from(set.trailing_zeros()).expect("a set has eight bits"))
}

/// What the protocol rests on, each to be left out in turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guard {
    /// A commit writes its session and its job, rather than reading them.
    CommitWrites,
    /// The start of a session writes the generation that it reads.
    StartCounts,
    /// A duplicate key is no proof of presence: the stamp is raised.
    DuplicateIsNoProof,
    /// A touch raises a stamp and never lowers one.
    StampsRise,
    /// How many documents a touch matched is checked.
    CountIsChecked,
    /// A pin stands in the snapshot that it holds.
    PinInSnapshot,
    /// A deletion has its condition in itself.
    DeleteHasCondition,
    /// All snapshots are read as of one cluster time.
    SnapshotsAtOneTime,
    /// Slices are read after the snapshots.
    SlicesAfterSnapshots,
    /// A pin writes the job, as an expiry of slices does.
    PinWritesJob,
    /// Whether an ambiguous commit was made is decided by a write, not by a read.
    DecisionWrites,
    /// The dictionary of a block that is there already is asserted with it.
    DictionaryAsserted,
    /// A block whose dictionary is gone is stored anew in a transaction that writes the session.
    StoringAnewIsFenced,
}

/// Who does what in which repository.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// What it is called in the output.
    pub name: &'static str,
    /// The guard left out.
    pub without: Option<Guard>,
    /// The blocks of each snapshot.
    pub contents: [Set; SNAPSHOTS as usize],
    /// What each writer pushes, if it is there.
    pub pushes: [Option<Push>; WRITERS as usize],
    /// Whether the writers contend for one job. Else each has its own.
    pub one_job: bool,
    /// Snapshots at the start. Their blocks are there.
    pub old: Set,
    /// Blocks at the start that no snapshot reaches.
    pub dead: Set,
    /// The dictionary that block 0 is stored with at the start: one that is not there.
    pub lacks: Option<u8>,
    /// Those of the snapshots that are slices: roots too, but nobody pins them.
    pub slices: Set,
    /// Snapshots that may expire.
    pub expiring: Set,
    /// Blocks that are dictionaries: no snapshot reaches them.
    pub dictionaries: Set,
    /// Groomers, at most two.
    pub groomers: u8,
    /// How often the generation is raised.
    pub raises: u8,
    /// Sessions that a writer may begin.
    pub runs: u8,
    /// How many block writes are executed once more, or after the death of who sent them.
    pub late: u8,
    /// What the reader restores, with the slice that follows snapshot 0.
    pub reads: Option<u8>,
}

/// What a writer pushes.
#[derive(Clone, Copy, Debug)]
pub struct Push {
    /// The snapshot that it commits.
    pub snapshot: u8,
    /// The one that it commits after that, in the same session.
    pub then: Option<u8>,
    /// The snapshot that it pins, so as to assert only what that does not reach.
    pub base: Option<u8>,
    /// The dictionary that it compresses block 0 with.
    pub dictionary: Option<u8>,
}

/// A block as it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Stored {
    stamp: u8,
    dictionary: Option<u8>,
}

/// A transaction of a commit that has made its writes and has not ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Open {
    session: u8,
    snapshot: u8,
    epoch: u8,
}

/// A block write on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Late {
    block: u8,
    stamp: u8,
    write: LateWrite,
}

/// What it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum LateWrite {
    Touch,
    Insert { dictionary: Option<u8> },
}

/// Where a writer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    Idle,
    /// Has read the generation and not written its session (without [`Guard::StartCounts`]).
    Starting,
    Pinning,
    Pushing,
    /// A read told of the block (without [`Guard::CountIsChecked`]).
    Found(u8),
    /// A touch matched nothing.
    Missing(u8),
    /// The block has the stamp; how it is stored is not known.
    Matched(u8),
    /// The block is stored with a dictionary that is not asserted.
    Uses(u8, u8),
    /// The block is stored with a dictionary that is gone.
    Unreadable(u8, u8),
    Committing,
    Committed,
    /// Was told that its commit was not made.
    Failed,
    Ended,
}

/// A writer: what it knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Writer {
    pub phase: Phase,
    run: u8,
    epoch: u8,
    based: bool,
    /// Whether it has committed the first of two.
    second: bool,
    stamp: u8,
    asserted: Set,
    moved: bool,
}

/// A groomer: what it knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Groomer {
    Idle,
    /// Has raised the generation to `to`; older sessions may live.
    Waiting {
        to: u8,
    },
    /// No older session lives. So many parts of the roots are read.
    Marking {
        to: u8,
        parts: u8,
        marked: Set,
    },
    Sweeping {
        to: u8,
        left: Set,
    },
    /// Blocks are swept; of the dictionaries, `left` are to be looked at, and none is stored with `unused`.
    Dictionaries {
        to: u8,
        left: Set,
        unused: Option<u8>,
    },
}

/// The reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reader {
    Idle,
    Started,
    /// Has seen that the snapshot is there (without [`Guard::PinInSnapshot`]).
    Looked,
    Reading,
    Ended,
}

/// The replica set, its clients, and what happened that must not or should.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct State {
    generation: u8,
    epoch: u8,
    blocks: [Option<Stored>; BLOCKS as usize],
    /// Snapshots with their pins.
    pub snapshots: [Option<Set>; SNAPSHOTS as usize],
    pub slice: bool,
    /// Generations of the writers' sessions.
    sessions: [Option<u8>; READER as usize],
    reader_session: bool,
    /// A pin that stands in the reader's session (without [`Guard::PinInSnapshot`]).
    reader_pin: bool,
    open: [Option<Open>; WRITERS as usize],
    late: Option<Late>,
    late_left: u8,
    pub writers: [Writer; WRITERS as usize],
    groomers: [Groomer; GROOMERS as usize],
    pub reader: Reader,
    /// An expiry has seen that no pin needs the slice (without [`Guard::PinWritesJob`]).
    slice_expiring: bool,
    pub seen: Seen,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Seen {
    /// A commit of a job that another had taken.
    pub stale_commit: bool,
    /// A commit of which its writer was told that it was not made.
    pub denied_commit: bool,
    /// A groomer removed a block.
    pub removed: bool,
    /// A writer committed that had moved into a later generation.
    pub moved: bool,
    /// A block was stored anew with another dictionary.
    pub stored_anew: bool,
}

/// A command, or a death.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    TakeOver(u8),
    Start(u8),
    PinBase(u8),
    /// The next command that asserts a block; with `again`, it will be executed once more.
    Assert {
        writer: u8,
        again: bool,
    },
    /// Takes a block for missing without having touched it.
    Guess(u8),
    /// From here on, asserts with the generation that is now.
    Reassert(u8),
    Move(u8),
    /// All writes of a commit's transaction.
    Prepare(u8),
    EndTransaction {
        writer: u8,
        commits: bool,
    },
    /// Learns whether its commit was made.
    Decide(u8),
    End(u8),
    /// With `sends`, the next command is already on its way.
    Die {
        writer: u8,
        sends: bool,
    },
    ExecuteLate,
    Raise(u8),
    RemoveSession {
        groomer: u8,
        session: u8,
    },
    /// Finds that no older session lives.
    Waited(u8),
    Mark(u8),
    Sweep(u8),
    Expire(u8),
    ExpireSlice,
    StartReading,
    PinRead,
    EndReading,
    RemoveReader,
}

impl Scenario {
    fn keeps(&self, guard: Guard) -> bool {
        self.without != Some(guard)
    }

    fn push(&self, writer: u8) -> Push {
        self.pushes[usize::from(writer)].expect("only writers that push act")
    }

    fn contents(&self, snapshot: u8) -> Set {
        self.contents[usize::from(snapshot)]
    }

    /// Whether an open commit holds a session.
    fn is_held(&self, state: &State, session: u8) -> bool {
        let holds = |open: &Open| open.session == session;
        self.keeps(Guard::CommitWrites) && state.open.iter().flatten().any(holds)
    }

    /// Whether an open commit holds the job of a writer. Where each has its own, nobody else writes it but a pin and an expiry:
    /// these are of the job of writer 0.
    fn is_job_held(&self, state: &State, writer: u8) -> bool {
        let mut writers = 0..WRITERS;
        let shares = |other: u8| other == writer || self.one_job;
        self.keeps(Guard::CommitWrites)
            && writers.any(|other| shares(other) && state.open[usize::from(other)].is_some())
    }

    /// Whether it matched.
    fn touch(&self, state: &mut State, block: u8, stamp: u8) -> bool {
        let rises = self.keeps(Guard::StampsRise);
        let stored = state.blocks[usize::from(block)].as_mut();
        stored
            .map(|stored| stored.stamp = if rises { stored.stamp.max(stamp) } else { stamp })
            .is_some()
    }

    /// Whether it inserted. What is there stays as it is.
    fn insert(state: &mut State, block: u8, stamp: u8, dictionary: Option<u8>) -> bool {
        let place = &mut state.blocks[usize::from(block)];
        let is_new = place.is_none();
        place.get_or_insert(Stored { stamp, dictionary });
        is_new
    }

    /// Removes a session with its pins, if no commit holds it.
    fn remove_session(&self, state: &mut State, session: u8) -> bool {
        let lives = state.sessions[usize::from(session)].is_some();
        if !lives || self.is_held(state, session) {
            return false;
        }
        state.sessions[usize::from(session)] = None;
        unpin(state, session);
        true
    }

    /// Whether a block can be read: it is there, and so is its dictionary.
    pub fn is_readable(&self, state: &State, block: u8) -> bool {
        let stored = state.blocks[usize::from(block)];
        stored.is_some_and(|stored| {
            stored.dictionary.is_none_or(|used| state.blocks[usize::from(used)].is_some())
        })
    }

    /// Whether all blocks of a snapshot can be read.
    pub fn is_whole(&self, state: &State, snapshot: u8) -> bool {
        let contents = self.contents(snapshot);
        (0..BLOCKS).all(|block| !has(contents, block) || self.is_readable(state, block))
    }
}

impl State {
    /// Whether the reader reads and has not lost its session.
    pub fn reads(&self) -> bool {
        self.reader == Reader::Reading && self.reader_session
    }
}

fn unpin(state: &mut State, session: u8) {
    for pins in state.snapshots.iter_mut().flatten() {
        *pins &= !one(session);
    }
}

impl Model for Scenario {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let there = |snapshot: u8| has(self.old, snapshot);
        let reached = (0..SNAPSHOTS).filter(|snapshot| there(*snapshot));
        let blocks = reached.fold(self.dead, |set, snapshot| set | self.contents(snapshot));
        let stored =
            |block: usize| Stored { stamp: 1, dictionary: self.lacks.filter(|_| block == 0) };
        vec![State {
            generation: 1,
            epoch: 1,
            blocks: std::array::from_fn(|block| (blocks >> block & 1 == 1).then(|| stored(block))),
            snapshots: std::array::from_fn(|snapshot| (self.old >> snapshot & 1 == 1).then_some(0)),
            slice: self.reads.is_some(),
            sessions: [None; READER as usize],
            reader_session: false,
            reader_pin: false,
            open: [None; WRITERS as usize],
            late: None,
            late_left: self.late,
            writers: std::array::from_fn(|writer| {
                new_writer(u8::from(writer == 0 || !self.one_job))
            }),
            groomers: [Groomer::Idle; GROOMERS as usize],
            reader: Reader::Idle,
            slice_expiring: false,
            seen: Seen::default(),
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for writer in 0..WRITERS {
            if self.pushes[usize::from(writer)].is_none() {
                continue;
            }
            actions.extend([
                Action::TakeOver(writer),
                Action::Start(writer),
                Action::PinBase(writer),
                Action::Assert { writer, again: false },
                Action::Assert { writer, again: true },
                Action::Guess(writer),
                Action::Reassert(writer),
                Action::Move(writer),
                Action::Prepare(writer),
                Action::EndTransaction { writer, commits: true },
                Action::EndTransaction { writer, commits: false },
                Action::Decide(writer),
                Action::End(writer),
                Action::Die { writer, sends: false },
                Action::Die { writer, sends: true },
            ]);
        }
        for groomer in 0..self.groomers {
            actions.extend([
                Action::Raise(groomer),
                Action::Waited(groomer),
                Action::Mark(groomer),
                Action::Sweep(groomer),
            ]);
            actions.extend((0..READER).map(|session| Action::RemoveSession { groomer, session }));
        }
        if state.late.is_some() {
            actions.push(Action::ExecuteLate);
        }
        actions.extend((0..SNAPSHOTS).map(Action::Expire));
        if self.reads.is_some() {
            actions.extend([
                Action::ExpireSlice,
                Action::StartReading,
                Action::PinRead,
                Action::EndReading,
                Action::RemoveReader,
            ]);
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut next = *last;
        match action {
            Action::TakeOver(writer)
            | Action::Start(writer)
            | Action::PinBase(writer)
            | Action::Assert { writer, .. }
            | Action::Guess(writer)
            | Action::Reassert(writer)
            | Action::Move(writer)
            | Action::Prepare(writer)
            | Action::EndTransaction { writer, .. }
            | Action::Decide(writer)
            | Action::End(writer)
            | Action::Die { writer, .. } => self.write(&mut next, writer, action)?,
            Action::Raise(groomer)
            | Action::RemoveSession { groomer, .. }
            | Action::Waited(groomer)
            | Action::Mark(groomer)
            | Action::Sweep(groomer) => self.groom(&mut next, groomer, action)?,
            Action::ExecuteLate => {
                let Late { block, stamp, write } = next.late.take()?;
                match write {
                    LateWrite::Touch => self.touch(&mut next, block, stamp),
                    LateWrite::Insert { dictionary } => {
                        Self::insert(&mut next, block, stamp, dictionary)
                    }
                };
            }
            Action::Expire(_) | Action::ExpireSlice => self.expire(&mut next, action)?,
            Action::StartReading | Action::PinRead | Action::EndReading | Action::RemoveReader => {
                self.read(&mut next, action)?
            }
        }
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        crate::properties(self)
    }
}
