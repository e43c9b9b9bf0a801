//! Sections 3 to 5 of `format-spec/10-objects.md` as states and steps.
//!
//! The log is one sequence of transactions (the other model says so): each is a step here, as is each request for an object. What
//! page 09 says of sessions, roots and marks is taken from there; a session is ended by anybody at any moment, a root removed.

mod groomer;
mod scenarios;
mod sweeper;
mod writer;

use groomer::Groomer;
use stateright::{Model, Property};
use sweeper::{Reader, Sweeper};
use writer::{Phase, Writer};

/// Packs that are there at the start; then come one of each writer, and one of each groomer.
const OLD: usize = 3;
const WRITERS: usize = 2;
const GROOMERS: usize = 3;
const PACKS: usize = OLD + WRITERS + GROOMERS;

/// Packs, blocks or forms, a bit for each.
type Set = u8;

// Blocks, as bits.
const X: Set = 1;
const Y: Set = 2;
/// A dictionary.
const D: Set = 4;
const BLOCKS: [Set; 3] = [X, Y, D];

/// What a pack has beside [`X`], [`Y`] and [`D`] as they are: X, stored with D.
const WITH_D: Set = 8;

/// The forms in which a pack may have a block.
fn forms(block: Set) -> Set {
    if block == X { X | WITH_D } else { block }
}

fn one(member: usize) -> Set {
    1 << member
}

fn has(set: Set, member: usize) -> bool {
    set & one(member) != 0
}

/// What the protocol rests on, each to be left out in turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guard {
    /// A pack is removed if its stamp is still below the generation.
    RemovalHasCondition,
    /// After a touch, whether the pack is there is looked at.
    TouchIsRechecked,
    /// The dictionary of a block that was found is asserted with it.
    DictionaryIsAsserted,
    /// A pack is registered if its session is there.
    RegisteringChecksSession,
    /// Orphans are judged by a state that was read after the list.
    StateAfterList,
    /// An object is an orphan only if its session is gone.
    OrphansHaveNoSession,
    /// A moved block gets a stamp that is not lower.
    MovedKeepsStamp,
    /// Not lower than it is now, that is, rather than when the groomer looked.
    MovedKeepsStampOfNow,
    /// A pack is removed in the transaction that registers what was moved.
    MovedAtOnce,
    /// Of the copies of a block that lives, one lives.
    OneCopyLives,
    /// Where a copy is dropped, the pack of that which counts gets a stamp that is not lower, in the same transaction.
    KeptIsRaised,
    /// So does the pack of its dictionary.
    KeptDictionaryIsRaised,
    /// A copy counts only if its dictionary is there.
    CountsIfReadable,
    /// The object of a pack is deleted after its document.
    DocumentBeforeObject,
    /// A groom waits until no older session lives.
    WaitsForOlder,
    /// A new pack is deleted only if it is certain that it was not registered.
    UnknownIsKept,
}

/// Who does what in which repository.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// What it is called in the output.
    pub name: &'static str,
    /// The guard left out.
    pub without: Option<Guard>,
    /// What is in the packs at the start, in the order in which they were born.
    pub old: [Set; OLD],
    /// Their stamps.
    pub stamps: [u8; OLD],
    /// The blocks that each writer's root reaches, if it is there.
    pub roots: [Set; WRITERS],
    /// Whether the first writer's root is there at the start. Then he pushes nothing.
    pub is_rooted: bool,
    /// Writers that store X with a dictionary.
    pub compresses: Set,
    /// Whether roots are removed.
    pub expires: bool,
    /// Groomers, and so how often the generation is raised.
    pub groomers: usize,
    /// Those of them that move what lives.
    pub movers: Set,
    /// Touches that are executed though the session is gone.
    pub late: u8,
    /// Removals of orphans.
    pub sweeps: u8,
    /// Whether somebody reads what the first root reaches.
    pub reads: bool,
}

/// What a pack's document says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Document {
    stamp: u8,
    /// The place in the order in which those that are there were born.
    born: u8,
}

/// A pack: its document, and its object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Pack {
    document: Option<Document>,
    is_there: bool,
    contents: Set,
}

/// A session of a writer or groomer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Session {
    /// Was not started.
    None,
    Lives(u8),
    Gone,
}

/// The repository and its clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct State {
    generation: u8,
    packs: [Pack; PACKS],
    sessions: [Session; WRITERS + GROOMERS],
    /// Those that are there.
    roots: Set,
    writers: [Writer; WRITERS],
    groomers: [Groomer; GROOMERS],
    sweeper: Sweeper,
    sweeps_left: u8,
    late_left: u8,
    reader: Reader,
}

/// A transaction, a request, or what somebody looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// A writer looks its blocks up, and takes the newest copy of each, or the oldest: the newest of a state before.
    LookUp {
        writer: usize,
        newest: bool,
    },
    Start(usize),
    Touch(usize),
    LateTouch {
        writer: usize,
        pack: usize,
    },
    CreatePack(usize),
    Register(usize),
    Commit(usize),
    /// The session of a writer or groomer ends, by whomever.
    EndSession(usize),
    Expire(usize),
    Raise(usize),
    Waited(usize),
    Mark(usize),
    Look(usize),
    RemoveDead(usize),
    /// Creates a pack of what lives in some others.
    Gather {
        groomer: usize,
        packs: Set,
    },
    /// Puts it in their place.
    Replace(usize),
    /// The same, but is not told what became of it.
    ReplaceUnknown(usize),
    /// Deletes it, since it was not registered.
    Undo(usize),
    DeleteObject(usize),
    ListOrphans,
    JudgeOrphans,
    DeleteOrphans,
    ReaderLooks,
    ReaderGets,
}

impl Scenario {
    fn keeps(&self, guard: Guard) -> bool {
        self.without != Some(guard)
    }

    fn is_pushing(&self, writer: usize) -> bool {
        self.roots[writer] != 0 && (writer > 0 || !self.is_rooted)
    }
}

impl State {
    fn stamp(&self, pack: usize) -> Option<u8> {
        self.packs[pack].document.map(|document| document.stamp)
    }

    /// Registered packs that have one of some forms, from the first born to the last.
    fn with(&self, forms: Set) -> Vec<usize> {
        let mut with: Vec<_> = (0..PACKS)
            .filter(|pack| self.packs[*pack].contents & forms != 0)
            .filter_map(|pack| Some((self.packs[pack].document?.born, pack)))
            .collect();
        with.sort_unstable();
        with.into_iter().map(|(_, pack)| pack).collect()
    }

    /// Whether a pack has a block in a form that can be read.
    fn is_readable(&self, pack: usize, block: Set) -> bool {
        let found = self.packs[pack].contents & forms(block);
        found & !WITH_D != 0 || found != 0 && !self.with(D).is_empty()
    }

    /// Registered packs that have a block that can be read, from the first born to the last.
    fn readable(&self, block: Set) -> Vec<usize> {
        let mut packs = self.with(forms(block));
        packs.retain(|pack| self.is_readable(*pack, block));
        packs
    }

    /// Whether all of some blocks can be read.
    pub fn has_all(&self, blocks: Set) -> bool {
        let mut wanted = BLOCKS.into_iter().filter(|block| blocks & block != 0);
        wanted.all(|block| !self.readable(block).is_empty())
    }

    /// Whether what is registered is there.
    pub fn has_objects(&self) -> bool {
        self.packs.iter().all(|pack| pack.document.is_none() || pack.is_there)
    }

    fn lives(&self, session: usize) -> bool {
        matches!(self.sessions[session], Session::Lives(_))
    }

    /// Raises the stamp of a pack that is registered; says whether it is.
    fn touch(&mut self, pack: usize, stamp: u8) -> bool {
        let document = self.packs[pack].document.as_mut();
        document.map(|document| document.stamp = document.stamp.max(stamp)).is_some()
    }

    /// Registers a pack as the last born.
    fn register(&mut self, pack: usize, stamp: u8) {
        let born = self.packs.iter().filter(|pack| pack.document.is_some()).count();
        let born = u8::try_from(born).expect("the domain is small");
        self.packs[pack].document = Some(Document { stamp, born });
    }

    fn unregister(&mut self, pack: usize) {
        let Some(removed) = self.packs[pack].document.take() else { return };
        for document in self.packs.iter_mut().filter_map(|pack| pack.document.as_mut()) {
            document.born -= u8::from(document.born > removed.born);
        }
    }

    /// Deletes an object. What it had is forgotten once no document tells of it either.
    fn delete(&mut self, pack: usize) {
        self.packs[pack].is_there = false;
        if self.packs[pack].document.is_none() {
            self.packs[pack].contents = 0;
        }
    }
}

impl Model for Scenario {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let mut state = State {
            generation: 1,
            packs: [Pack { document: None, is_there: false, contents: 0 }; PACKS],
            sessions: [Session::None; WRITERS + GROOMERS],
            roots: u8::from(self.is_rooted),
            writers: [Writer::new(); WRITERS],
            groomers: [Groomer::new(); GROOMERS],
            sweeper: Sweeper::Idle,
            sweeps_left: self.sweeps,
            late_left: self.late,
            reader: Reader::Idle,
        };
        for (pack, contents) in
            self.old.into_iter().enumerate().filter(|(_, contents)| *contents != 0)
        {
            state.packs[pack] = Pack { document: None, is_there: true, contents };
            state.register(pack, self.stamps[pack]);
            state.generation = state.generation.max(self.stamps[pack]);
        }
        vec![state]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for writer in (0..WRITERS).filter(|writer| self.is_pushing(*writer)) {
            actions.extend([
                Action::LookUp { writer, newest: true },
                Action::LookUp { writer, newest: false },
                Action::Start(writer),
                Action::Touch(writer),
                Action::CreatePack(writer),
                Action::Register(writer),
                Action::Commit(writer),
            ]);
            if state.late_left > 0 {
                actions.extend((0..OLD).map(|pack| Action::LateTouch { writer, pack }));
            }
        }
        for groomer in 0..self.groomers {
            actions.extend([
                Action::Raise(groomer),
                Action::Waited(groomer),
                Action::Mark(groomer),
                Action::Look(groomer),
                Action::RemoveDead(groomer),
                Action::DeleteObject(groomer),
            ]);
            if has(self.movers, groomer) {
                let old = state.groomers[groomer].old;
                let all = (0..PACKS).map(one).chain([old]);
                let gathered = all.filter(|packs| *packs != 0 && packs & !old == 0);
                actions.extend(gathered.map(|packs| Action::Gather { groomer, packs }));
                actions.extend([
                    Action::Replace(groomer),
                    Action::ReplaceUnknown(groomer),
                    Action::Undo(groomer),
                ]);
            }
        }
        actions.extend((0..WRITERS + GROOMERS).map(Action::EndSession));
        if self.expires {
            actions.extend((0..WRITERS).map(Action::Expire));
        }
        actions.extend([Action::ListOrphans, Action::JudgeOrphans, Action::DeleteOrphans]);
        if self.reads {
            actions.extend([Action::ReaderLooks, Action::ReaderGets]);
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut next = *last;
        match action {
            Action::LookUp { writer, .. }
            | Action::Start(writer)
            | Action::Touch(writer)
            | Action::LateTouch { writer, .. }
            | Action::CreatePack(writer)
            | Action::Register(writer)
            | Action::Commit(writer) => self.write(&mut next, writer, action)?,
            Action::EndSession(session) => {
                let is_needed = session < WRITERS || has(self.movers, session - WRITERS);
                if !is_needed || !next.lives(session) {
                    return None;
                }
                next.sessions[session] = Session::Gone;
                if session < WRITERS {
                    next.writers[session].end();
                }
            }
            Action::Expire(root) => next.roots &= !one(root),
            Action::Raise(groomer)
            | Action::Waited(groomer)
            | Action::Mark(groomer)
            | Action::Look(groomer)
            | Action::RemoveDead(groomer)
            | Action::Gather { groomer, .. }
            | Action::Replace(groomer)
            | Action::ReplaceUnknown(groomer)
            | Action::Undo(groomer)
            | Action::DeleteObject(groomer) => self.groom(&mut next, groomer, action)?,
            Action::ListOrphans | Action::JudgeOrphans | Action::DeleteOrphans => {
                self.sweep(&mut next, action)?;
            }
            Action::ReaderLooks | Action::ReaderGets => self.read(&mut next, action)?,
        }
        (next != *last).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        scenarios::properties(self)
    }
}
