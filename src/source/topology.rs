//! Which members there are, and which of them is read.
//!
//! One member is current at a time and serves everything, until it fails; then all members are asked
//! again and the best one becomes current. A member is taken only if it says it is of the set this
//! source was opened on (name and replicaSetId).

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use futures::future::join_all;
use mongodb::Client;
use tokio::sync::Mutex;

use super::connect::Template;
use super::failure::{ATTEMPTS_MAX, Cure, back_off};
use super::member::{Hello, Member};
use super::{Error, Failures, ReadFrom};

/// Rounds of asking newly heard-of members: seeds, those they name, those these name. A fourth could
/// only be needed while the set is being replaced.
const ROUNDS_MAX: usize = 3;

/// A secondary this far behind the newest member is read only if nothing better is there.
const LAG_MAX_SECS: u32 = 60;

/// How long a member that failed is chosen only if no other can be.
const SUSPECT_FOR: Duration = Duration::from_secs(20);

/// Name and id of a replica set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SetId {
    pub name: String,
    pub id: [u8; 12],
}

impl std::fmt::Display for SetId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} (replicaSetId {})", self.name, bson::oid::ObjectId::from_bytes(self.id))
    }
}

/// The members of one source.
pub(super) struct Topology {
    template: Template,
    from: ReadFrom,
    set: OnceLock<SetId>,
    /// Held while members are asked, so that of several readers that lost a member one asks for all.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    clients: HashMap<String, Client>,
    /// Addresses heard of, beside those of the connection string.
    heard: Vec<String>,
    suspects: HashMap<String, Instant>,
    current: Option<Arc<Member>>,
    primary: Option<Arc<Member>>,
}

/// A member that answered.
struct Answer {
    address: String,
    hello: Hello,
}

impl Topology {
    pub fn new(template: Template, from: ReadFrom) -> Self {
        Self { template, from, set: OnceLock::new(), state: Mutex::new(State::default()) }
    }

    /// The set, known once a member was chosen.
    pub fn set(&self) -> Option<&SetId> {
        self.set.get()
    }

    /// The member to read, chosen anew if there is none or if it is among `avoid`.
    pub async fn member(&self, avoid: &[String]) -> Result<Arc<Member>, Error> {
        let mut state = self.state.lock().await;
        match &state.current {
            Some(member) if !avoid.contains(&member.address) => Ok(Arc::clone(member)),
            _ => self.choose(&mut state, avoid).await,
        }
    }

    /// Chooses a member anew, though the one that is read has not failed.
    pub async fn reconsider(&self) -> Result<Arc<Member>, Error> {
        let mut state = self.state.lock().await;
        self.choose(&mut state, &[]).await
    }

    /// The primary as last seen, or else the member to read: for questions about the set as a whole,
    /// which the primary answers soonest but any member answers rightly.
    pub async fn primary(&self) -> Result<Arc<Member>, Error> {
        match self.known_primary().await {
            Some(primary) => Ok(primary),
            None => self.member(&[]).await,
        }
    }

    /// The member that says it is the primary, all members asked anew; none if none says so.
    pub async fn writable_primary(&self) -> Option<Arc<Member>> {
        let mut state = self.state.lock().await;
        let (answers, _) = self.ask_all(&mut state).await.ok()?;
        self.take_primary(&mut state, &answers).await.ok()?;
        answers.iter().any(|answer| answer.hello.primary).then(|| state.primary.clone())?
    }

    /// The primary as last seen.
    pub async fn known_primary(&self) -> Option<Arc<Member>> {
        self.state.lock().await.primary.clone()
    }

    /// Says that a member is no primary any more, or does not answer as such.
    pub async fn not_primary(&self, member: &Member) {
        let mut state = self.state.lock().await;
        if state.primary.as_ref().is_some_and(|primary| primary.address == member.address) {
            state.primary = None;
        }
    }

    /// Says that a member failed; the next call of `member` asks all members again.
    pub async fn failed(&self, member: &Member) {
        let mut state = self.state.lock().await;
        state.suspects.insert(member.address.clone(), Instant::now());
        for slot in [Slot::Current, Slot::Primary] {
            let held = slot.of(&mut state);
            if held.as_ref().is_some_and(|held| held.address == member.address) {
                *held = None;
            }
        }
    }

    /// Runs `act` on the member to read, on others after failures that others may not have, until it
    /// succeeds or attempts are used up.
    pub async fn attempt<T, F>(&self, on: On, act: impl Fn(Arc<Member>) -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let mut attempt = 0;
        loop {
            let chosen = match on {
                On::Reader => self.member(&[]).await,
                On::Primary => self.primary().await,
            };
            let (error, member) = match chosen {
                Ok(member) => match act(Arc::clone(&member)).await {
                    Ok(value) => return Ok(value),
                    Err(error) => (error, Some(member)),
                },
                Err(error) => (error, None),
            };
            attempt += 1;
            self.after_failure(error, member.as_deref(), attempt).await?;
        }
    }

    /// Waits before attempt `attempt` + 1, or returns the error if there is to be none.
    pub async fn after_failure(
        &self,
        error: Error,
        member: Option<&Member>,
        attempt: u32,
    ) -> Result<(), Error> {
        let cure = error.cure();
        if cure == Cure::None || attempt >= ATTEMPTS_MAX {
            return Err(error);
        }
        tracing::debug!(attempt, error = &error as &dyn std::error::Error, "trying again");
        if let (Cure::Elsewhere, Some(member)) = (cure, member) {
            self.failed(member).await;
        }
        tokio::time::sleep(back_off(attempt)).await;
        Ok(())
    }

    async fn choose(&self, state: &mut State, avoid: &[String]) -> Result<Arc<Member>, Error> {
        let (answers, mut failures) = self.ask_all(state).await?;
        let mut unready = failures.0.len();
        let newest = answers.iter().map(|answer| answer.hello.last_write_secs).max().unwrap_or(0);
        state.primary = None;
        state.suspects.retain(|_, since| since.elapsed() < SUSPECT_FOR);
        let mut ranked = Vec::new();
        for answer in &answers {
            let suspect = state.suspects.contains_key(&answer.address);
            if avoid.contains(&answer.address) {
                failures.0.push((answer.address.clone(), "its oplog does not do".to_owned()));
                continue;
            }
            match self.rank(answer, newest, suspect) {
                Ok(rank) => ranked.push((rank, answer.address.clone())),
                Err(why) => {
                    unready += usize::from(!answer.hello.primary && !answer.hello.secondary);
                    failures.0.push((answer.address.clone(), why.to_owned()));
                }
            }
        }
        ranked.sort();
        self.take_primary(state, &answers).await?;
        for (_, address) in ranked {
            let member = Arc::new(Member::new(address.clone(), state.client(self, &address)?));
            match self.check_set(&member, &answers).await {
                Ok(()) => {
                    tracing::debug!(member = address, "reading from");
                    state.current = Some(Arc::clone(&member));
                    return Ok(member);
                }
                Err(error) if error.cure() == Cure::None => return Err(error),
                Err(error) => {
                    unready += 1;
                    failures.0.push((address, root_cause(&error)));
                }
            }
        }
        let set = answers.iter().find_map(|answer| answer.hello.set_name.clone());
        let wanted = self.from.to_string();
        Err(Error::NoMember { set: set.unwrap_or_default(), wanted, members: failures, unready })
    }

    async fn take_primary(&self, state: &mut State, answers: &[Answer]) -> Result<(), Error> {
        let primary = answers.iter().find(|answer| answer.hello.primary);
        if let Some(answer) = primary {
            let client = state.client(self, &answer.address)?;
            state.primary = Some(Arc::new(Member::new(answer.address.clone(), client)));
        }
        Ok(())
    }

    /// Lower is better. The reason if it must not be read at all.
    fn rank(&self, answer: &Answer, newest: u32, suspect: bool) -> Result<(u8, u32), &'static str> {
        let hello = &answer.hello;
        let lag = newest.saturating_sub(hello.last_write_secs);
        if !hello.primary && !hello.secondary {
            return Err("neither primary nor secondary now");
        }
        if let ReadFrom::Member(wanted) = &self.from {
            let same = wanted == &answer.address || hello.me.as_ref() == Some(wanted);
            return if same { Ok((0, 0)) } else { Err("not the member asked for") };
        }
        if hello.delayed {
            return Err("delayed on purpose");
        }
        let wanted = match self.from {
            ReadFrom::Primary if !hello.primary => return Err("not the primary"),
            ReadFrom::Secondary if !hello.secondary => return Err("not a secondary"),
            _ => hello.secondary,
        };
        let class = match (suspect, lag > LAG_MAX_SECS, wanted, hello.hidden) {
            (false, false, true, true) => 0,
            (false, false, true, false) => 1,
            (false, false, false, _) => 2,
            (false, true, ..) => 3,
            (true, ..) => 4,
        };
        Ok((class, lag))
    }

    /// Checks name and id against those of the first member ever chosen.
    async fn check_set(&self, member: &Member, answers: &[Answer]) -> Result<(), Error> {
        let answer = answers.iter().find(|answer| answer.address == member.address);
        let name = answer.and_then(|answer| answer.hello.set_name.clone()).unwrap_or_default();
        let another = |expected: String, found: String| {
            Err(Error::AnotherSet { member: member.address.clone(), expected, found })
        };
        match &self.template.set_name {
            Some(wanted) if *wanted != name => {
                return another(format!("{wanted:?}"), format!("{name:?}"));
            }
            _ => {}
        }
        let found = SetId { name, id: member.replica_set_id().await? };
        let expected = self.set.get_or_init(|| found.clone());
        if *expected != found {
            return another(expected.to_string(), found.to_string());
        }
        Ok(())
    }

    /// Asks every member known and every member these name.
    async fn ask_all(&self, state: &mut State) -> Result<(Vec<Answer>, Failures), Error> {
        let mut addresses = self.template.seeds.clone();
        if !self.template.direct {
            addresses.extend(state.heard.iter().cloned());
        }
        if let ReadFrom::Member(wanted) = &self.from {
            addresses.push(wanted.clone());
        }
        let (mut answers, mut failures) = (Vec::<Answer>::new(), Failures::default());
        let mut asked: Vec<String> = Vec::new();
        for _ in 0..ROUNDS_MAX {
            addresses.sort();
            addresses.dedup();
            addresses.retain(|address| !asked.contains(address));
            if addresses.is_empty() {
                break;
            }
            asked.extend(addresses.iter().cloned());
            let mut members = Vec::new();
            for address in addresses.drain(..) {
                let client = state.client(self, &address)?;
                members.push(Member::new(address, client));
            }
            let replies = join_all(members.iter().map(Member::hello)).await;
            for (member, reply) in members.into_iter().zip(replies) {
                match reply {
                    Ok(hello) => {
                        refuse_if_no_set(&member.address, &hello)?;
                        if !self.template.direct {
                            addresses.extend(hello.hosts.iter().cloned());
                        }
                        answers.push(Answer { address: member.address, hello });
                    }
                    Err(error @ (Error::Authentication { .. } | Error::Privilege { .. })) => {
                        return Err(error);
                    }
                    Err(error) => failures.0.push((member.address, root_cause(&error))),
                }
            }
        }
        if answers.is_empty() {
            return Err(Error::Unreachable { asked: failures });
        }
        state.heard = answers.iter().flat_map(|answer| answer.hello.hosts.clone()).collect();
        drop_aliases(&mut answers);
        Ok((answers, failures))
    }
}

/// On which member an operation runs.
#[derive(Debug, Clone, Copy)]
pub(super) enum On {
    /// The one that is read.
    Reader,
    /// The primary, if known.
    Primary,
}

#[derive(Clone, Copy)]
enum Slot {
    Current,
    Primary,
}

impl Slot {
    fn of(self, state: &mut State) -> &mut Option<Arc<Member>> {
        match self {
            Self::Current => &mut state.current,
            Self::Primary => &mut state.primary,
        }
    }
}

impl State {
    fn client(&mut self, topology: &Topology, address: &str) -> Result<Client, Error> {
        if let Some(client) = self.clients.get(address) {
            return Ok(client.clone());
        }
        let client = topology.template.client(address)?;
        self.clients.insert(address.to_owned(), client.clone());
        Ok(client)
    }
}

impl std::fmt::Display for ReadFrom {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::SecondaryPreferred => f.write_str("a secondary, else the primary"),
            Self::Secondary => f.write_str("a secondary"),
            Self::Primary => f.write_str("the primary"),
            Self::Member(address) => write!(f, "member {address}"),
        }
    }
}

fn refuse_if_no_set(address: &str, hello: &Hello) -> Result<(), Error> {
    let member = address.to_owned();
    match hello {
        Hello { is_mongos: true, .. } => Err(Error::Mongos { member }),
        Hello { set_name: None, .. } => Err(Error::NotAReplicaSet { member }),
        _ => Ok(()),
    }
}

/// A seed may name a member otherwise than the set's configuration does. Where both names answer, the
/// configuration's stays.
fn drop_aliases(answers: &mut Vec<Answer>) {
    let names: Vec<String> = answers.iter().map(|answer| answer.address.clone()).collect();
    answers.retain(|answer| match &answer.hello.me {
        Some(me) => *me == answer.address || !names.contains(me),
        None => true,
    });
}

fn root_cause(error: &Error) -> String {
    let source = std::error::Error::source(error);
    source.map_or_else(|| error.to_string(), ToString::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn topology(from: ReadFrom) -> Topology {
        let template = Template::parse("mongodb://a,b,c/?replicaSet=r").await.expect("valid");
        Topology::new(template, from)
    }

    fn answer(address: &str, change: impl Fn(&mut Hello)) -> Answer {
        let mut hello = Hello { secondary: true, last_write_secs: 1_000, ..Hello::default() };
        change(&mut hello);
        Answer { address: address.to_owned(), hello }
    }

    #[tokio::test]
    async fn a_hidden_or_else_the_least_lagging_secondary_is_preferred() {
        let topology = topology(ReadFrom::SecondaryPreferred).await;
        let rank = |answer: &Answer, suspect| topology.rank(answer, 1_000, suspect);
        let secondary = answer("a", |_| ());
        let order = [
            rank(&answer("h", |hello| hello.hidden = true), false),
            rank(&secondary, false),
            rank(&answer("b", |hello| hello.last_write_secs -= 5), false),
            rank(&answer("p", |hello| (hello.primary, hello.secondary) = (true, false)), false),
            rank(&answer("c", |hello| hello.last_write_secs -= 600), false),
            rank(&secondary, true),
        ];
        let order: Vec<_> = order.into_iter().map(|rank| rank.expect("may be read")).collect();
        assert!(order.is_sorted_by(|a, b| a < b), "{order:?}");
        assert!(rank(&answer("d", |hello| hello.delayed = true), false).is_err());
        assert!(rank(&answer("r", |hello| hello.secondary = false), false).is_err());
    }

    #[tokio::test]
    async fn a_named_member_may_be_delayed_and_goes_by_either_name() {
        let topology = topology(ReadFrom::Member("m:1".to_owned())).await;
        let alias = answer("seed:1", |hello| {
            hello.delayed = true;
            hello.me = Some("m:1".to_owned());
        });
        assert!(topology.rank(&alias, 1_000, false).is_ok());
        assert!(topology.rank(&answer("other:1", |_| ()), 1_000, false).is_err());
    }

    #[test]
    fn a_member_answers_under_one_name() {
        let me = |name: &'static str| move |hello: &mut Hello| hello.me = Some(name.to_owned());
        let mut answers =
            vec![answer("seed", me("m1")), answer("m1", me("m1")), answer("nat", me("m2"))];
        drop_aliases(&mut answers);
        let left: Vec<&str> = answers.iter().map(|answer| answer.address.as_str()).collect();
        assert_eq!(left, ["m1", "nat"]);
    }

    #[test]
    fn mongos_and_stand_alone_are_refused() {
        let mongos = Hello { is_mongos: true, ..Hello::default() };
        assert!(matches!(refuse_if_no_set("m", &mongos), Err(Error::Mongos { .. })));
        let alone = Hello::default();
        assert!(matches!(refuse_if_no_set("m", &alone), Err(Error::NotAReplicaSet { .. })));
        let member = Hello { set_name: Some("r".to_owned()), ..Hello::default() };
        assert!(refuse_if_no_set("m", &member).is_ok());
    }
}
