//! What a groomer of packs does: it raises, waits, marks, looks, removes and moves.

use super::{
    Action, BLOCKS, D, Guard, OLD, PACKS, Scenario, Session, Set, State, WITH_D, WRITERS, X, forms,
    has, one,
};

/// Where a groomer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Stage {
    Idle,
    Waiting,
    /// No older session lives.
    Waited,
    Marked,
    /// Has looked at a state.
    Looked,
    /// Has created a pack of what lives in some others.
    Gathered(Set),
    /// Has removed those and not registered it (without [`Guard::MovedAtOnce`]).
    Removed,
    /// It was not registered, and is to be deleted.
    Undoing,
}

/// A groomer: what it knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Groomer {
    pub stage: Stage,
    /// Its generation.
    to: u8,
    marked: Set,
    /// In the state that it looked at: packs with a lower stamp, and where each block lives.
    pub old: Set,
    counts: [Option<u8>; BLOCKS.len()],
    /// The stamps that they had (without [`Guard::MovedKeepsStampOfNow`]).
    stamps: [u8; PACKS],
    /// Packs whose documents it has removed: their objects are to be deleted.
    gone: Set,
    has_removed: bool,
    has_moved: bool,
}

impl Groomer {
    pub fn new() -> Self {
        Self {
            stage: Stage::Idle,
            to: 0,
            marked: 0,
            old: 0,
            counts: [None; BLOCKS.len()],
            stamps: [0; PACKS],
            gone: 0,
            has_removed: false,
            has_moved: false,
        }
    }

    /// Nothing more is to be done with what it looked at.
    fn forget(&mut self) {
        self.old = 0;
        self.counts = [None; BLOCKS.len()];
        self.stamps = [0; PACKS];
    }

    fn counts(&self, block: usize) -> Option<usize> {
        self.counts[block].map(usize::from)
    }

    /// Blocks whose copies in a pack count.
    fn living(&self, pack: usize) -> Set {
        let living = (0..BLOCKS.len()).filter(|block| self.counts(*block) == Some(pack));
        living.fold(0, |set, block| set | BLOCKS[block])
    }

    /// Packs of which nothing lives.
    fn dead(&self) -> Set {
        (0..PACKS)
            .filter(|pack| has(self.old, *pack) && self.living(*pack) == 0)
            .fold(0, |set, pack| set | one(pack))
    }
}

fn members(set: Set) -> impl Iterator<Item = usize> {
    (0..PACKS).filter(move |pack| has(set, *pack))
}

impl Scenario {
    /// A step of a groomer; none if it cannot be made.
    pub(super) fn groom(&self, state: &mut State, id: usize, action: Action) -> Option<()> {
        let mut groomer = state.groomers[id];
        let new = OLD + WRITERS + id;
        match (action, groomer.stage) {
            (Action::Raise(_), Stage::Idle) => {
                // Who raises first does not matter.
                if id > 0 && state.groomers[id - 1].stage == Stage::Idle {
                    return None;
                }
                state.generation += 1;
                state.sessions[WRITERS + id] = Session::Lives(state.generation);
                groomer.to = state.generation;
                groomer.stage = Stage::Waiting;
            }
            (Action::Waited(_), Stage::Waiting) => {
                let is_older = |session: &Session| matches!(session, Session::Lives(generation) if *generation < groomer.to);
                let waits = self.keeps(Guard::WaitsForOlder);
                if waits && state.sessions[..WRITERS].iter().any(is_older) {
                    return None;
                }
                groomer.stage = Stage::Waited;
            }
            (Action::Mark(_), Stage::Waited) => {
                let there = (0..WRITERS).filter(|root| has(state.roots, *root));
                groomer.marked = there.fold(0, |set, root| set | self.roots[root]);
                groomer.stage = Stage::Marked;
            }
            (Action::Look(_), Stage::Marked) => {
                self.look(state, &mut groomer);
                groomer.stage = Stage::Looked;
            }
            (Action::RemoveDead(_), Stage::Looked) if !groomer.has_removed => {
                self.remove_dead(state, &mut groomer)?;
            }
            (Action::Gather { packs, .. }, Stage::Looked) if !groomer.has_moved => {
                let contents = members(packs).fold(0, |set, pack| {
                    set | groomer.living(pack).forms_in(state.packs[pack].contents)
                });
                if contents == 0 || members(packs).any(|pack| !state.packs[pack].is_there) {
                    return None;
                }
                state.packs[new].contents = contents;
                state.packs[new].is_there = true;
                groomer.has_moved = true;
                groomer.stage = Stage::Gathered(packs);
            }
            (Action::Replace(_), Stage::Gathered(packs)) => {
                let made = self.replace(state, &mut groomer, id, packs);
                groomer.stage = match made {
                    true if !self.keeps(Guard::MovedAtOnce) => Stage::Removed,
                    true => Stage::Looked,
                    false => Stage::Undoing,
                };
            }
            (Action::Replace(_), Stage::Removed) => {
                state.register(new, groomer.to - 1);
                groomer.stage = Stage::Looked;
            }
            (Action::ReplaceUnknown(_), Stage::Gathered(packs)) => {
                let keeps = self.keeps(Guard::UnknownIsKept);
                if keeps || !self.replace(state, &mut groomer, id, packs) {
                    return None;
                }
                groomer.gone = 0;
                groomer.stage = Stage::Undoing;
            }
            (Action::Undo(_), Stage::Undoing) => {
                state.delete(new);
                groomer.stage = Stage::Looked;
            }
            (Action::DeleteObject(_), _) => {
                let pack = members(groomer.gone).next()?;
                state.delete(pack);
                groomer.gone &= !one(pack);
            }
            _ => return None,
        }
        if groomer.has_removed
            && (groomer.has_moved || !has(self.movers, id))
            && groomer.stage == Stage::Looked
        {
            groomer.forget();
        }
        state.groomers[id] = groomer;
        Some(())
    }

    /// Looks at a state: what is old, and which copy counts of each block that lives.
    fn look(&self, state: &State, groomer: &mut Groomer) {
        let to = groomer.to;
        let is_old = |pack: usize| state.stamp(pack).is_some_and(|stamp| stamp < to);
        groomer.old = (0..PACKS).filter(|pack| is_old(*pack)).fold(0, |set, pack| set | one(pack));
        if !self.keeps(Guard::MovedKeepsStampOfNow) {
            groomer.stamps = std::array::from_fn(|pack| state.stamp(pack).unwrap_or(0));
        }
        let users = state.with(WITH_D);
        let is_used = users.iter().any(|pack| groomer.marked & X != 0 || !is_old(*pack));
        for (place, block) in BLOCKS.into_iter().enumerate() {
            let lives = groomer.marked & block != 0 || block == D && is_used;
            let copies = match self.keeps(Guard::CountsIfReadable) {
                true => state.readable(block),
                false => state.with(forms(block)),
            };
            let several = copies.len() > 1 && !self.keeps(Guard::OneCopyLives);
            let counts = copies.last().filter(|_| lives && !several);
            groomer.counts[place] =
                counts.map(|pack| u8::try_from(*pack).expect("the domain is small"));
        }
    }

    /// The packs that keep what is dropped where some are removed: copies that count, and their dictionary.
    fn kept(&self, state: &State, groomer: &Groomer, removed: Set) -> Set {
        let mut kept = 0;
        if !self.keeps(Guard::KeptIsRaised) {
            return kept;
        }
        for (place, block) in BLOCKS.into_iter().enumerate() {
            let Some(counts) = groomer.counts(place) else { continue };
            let dropped =
                members(removed).any(|pack| state.packs[pack].contents & forms(block) != 0);
            if !dropped || has(removed, counts) {
                continue;
            }
            kept |= one(counts);
            let with_dictionary = block == X && state.packs[counts].contents & X == 0;
            if with_dictionary && self.keeps(Guard::KeptDictionaryIsRaised) {
                kept |= groomer.counts(2).map_or(0, one);
            }
        }
        kept & !removed
    }

    /// Raises what is kept; says whether all of it is there.
    fn raise(&self, state: &mut State, kept: Set, to: u8) -> bool {
        let is_there = members(kept).all(|pack| state.packs[pack].document.is_some());
        if is_there {
            members(kept).for_each(|pack| _ = state.touch(pack, to - 1));
        }
        is_there
    }

    fn remove_dead(&self, state: &mut State, groomer: &mut Groomer) -> Option<()> {
        let (dead, to) = (groomer.dead(), groomer.to);
        groomer.has_removed = true;
        if !self.keeps(Guard::DocumentBeforeObject) && groomer.gone == 0 && dead != 0 {
            let objects = members(dead).filter(|pack| state.packs[*pack].is_there);
            if let Some(pack) = objects.collect::<Vec<_>>().first() {
                state.delete(*pack);
                groomer.has_removed = false;
                return Some(());
            }
        }
        let kept = self.kept(state, groomer, dead);
        if !self.raise(state, kept, to) {
            return Some(());
        }
        for pack in members(dead) {
            let is_old = state.stamp(pack).is_some_and(|stamp| stamp < to);
            if is_old || !self.keeps(Guard::RemovalHasCondition) {
                state.unregister(pack);
                groomer.gone |= one(pack);
            }
        }
        Some(())
    }

    /// Puts the new pack in the place of others, in one transaction; says whether it was made.
    fn replace(&self, state: &mut State, groomer: &mut Groomer, id: usize, packs: Set) -> bool {
        let stamps: Option<Vec<u8>> = members(packs).map(|pack| state.stamp(pack)).collect();
        let Some(stamps) = stamps else { return false };
        let highest = stamps.into_iter().max().unwrap_or(0);
        let is_old = highest < groomer.to || !self.keeps(Guard::RemovalHasCondition);
        let kept = self.kept(state, groomer, packs);
        if !state.lives(WRITERS + id) || !is_old || !self.raise(state, kept, groomer.to) {
            return false;
        }
        for pack in members(packs) {
            state.unregister(pack);
            groomer.gone |= one(pack);
        }
        if self.keeps(Guard::MovedAtOnce) {
            let looked = members(packs).map(|pack| groomer.stamps[pack]).max().unwrap_or(0);
            let stamp = match self.without {
                Some(Guard::MovedKeepsStamp) => 0,
                Some(Guard::MovedKeepsStampOfNow) => looked,
                _ => groomer.to - 1,
            };
            state.register(OLD + WRITERS + id, stamp);
        }
        true
    }
}

/// Blocks, in the forms in which a pack has them.
trait FormsIn {
    fn forms_in(self, contents: Set) -> Set;
}

impl FormsIn for Set {
    fn forms_in(self, contents: Set) -> Set {
        let of = BLOCKS.into_iter().filter(|block| self & block != 0);
        let all = of.fold(0, |set, block| set | forms(block)) & contents;
        // One form of a block is enough.
        if all & X != 0 { all & !WITH_D } else { all }
    }
}
