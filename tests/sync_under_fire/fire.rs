//! What happens to the collections of a source while they are being copied.

use std::collections::BTreeMap;

use bson::{Bson, Document, doc};
use futures::TryStreamExt as _;
use headstock::lab::ReplicaSet;
use mongodb::error::Result;
use mongodb::{Client, Collection, Database};
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{Rng as _, SeedableRng as _};

/// The database that is under fire.
pub const DB: &str = "fire";
/// Ordinary collections.
const PLAIN: usize = 6;
/// As many of their names are aimed at by what ends a collection: else none would be copied to its end.
const DOOMED: usize = 2;
/// Bytes of text in each document.
const PAD_BYTES: usize = 900;
/// How far documents move.
const FAR: i64 = 1_000_000_000;

/// Everything that is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Shot {
    Drop,
    Recreate,
    Rename,
    Empty,
    Roll,
    EmptyCapped,
    Reindex,
    SwapKeys,
    Move,
    Replace,
    Update,
    KillCursors,
    KillOperations,
}

const SHOTS: [Shot; 13] = [
    Shot::Drop,
    Shot::Recreate,
    Shot::Rename,
    Shot::Empty,
    Shot::Roll,
    Shot::EmptyCapped,
    Shot::Reindex,
    Shot::SwapKeys,
    Shot::Move,
    Shot::Replace,
    Shot::Update,
    Shot::KillCursors,
    Shot::KillOperations,
];

/// Shoots at a source, by a seed.
pub struct Fire {
    client: Client,
    /// Clients of each member alone: the backup reads any of them.
    members: Vec<Client>,
    rng: StdRng,
    /// Documents that each collection begins with.
    documents: i64,
    /// What is to come next.
    round: Vec<Shot>,
    next_id: i64,
    /// How often each kind succeeded.
    pub done: BTreeMap<Shot, u32>,
}

impl Fire {
    /// Makes and fills the collections.
    pub async fn load(set: &ReplicaSet, seed: u64, documents: i64) -> Self {
        println!("seed {seed}");
        let (client, rng) = (set.client().clone(), StdRng::seed_from_u64(seed));
        let (round, done) = (Vec::new(), BTreeMap::new());
        let mut members = Vec::new();
        for member in 0..set.members() {
            members.push(set.member(member).await.expect("connect"));
        }
        let mut fire = Self { client, members, rng, documents, round, next_id: 2 * FAR, done };
        for n in 0..PLAIN {
            fire.fill(&format!("plain-{n}"), 0..documents).await.expect("load");
            fire.index(&format!("plain-{n}")).await.expect("index");
        }
        let db = fire.db();
        for command in [
            doc! { "create": "ring", "capped": true, "size": 400_000 },
            doc! { "create": "log", "capped": true, "size": 4_000_000, "max": 3_000 },
            doc! { "create": "words", "collation": { "locale": "en", "strength": 2 } },
        ] {
            db.run_command(command).await.expect("create");
        }
        fire.fill("ring", 0..300).await.expect("load");
        fire.fill("log", 0..2_000).await.expect("load");
        let word = |n: i64| {
            let case = if n % 2 == 0 { "Word" } else { "word" };
            doc! { "_id": format!("{case}-{n:06}"), "pad": "w".repeat(PAD_BYTES) }
        };
        db.collection("words").insert_many((0..documents / 2).map(word)).await.expect("load");
        set.wait_replicated().await.expect("replicated");
        fire
    }

    fn db(&self) -> Database {
        self.client.database(DB)
    }

    /// One shot. Many miss: what they aim at has just gone, or an election is on.
    pub async fn shoot(&mut self) {
        let shot = match self.round.pop() {
            Some(shot) => shot,
            None => {
                self.round = SHOTS.to_vec();
                self.round.shuffle(&mut self.rng);
                return;
            }
        };
        let hit = match shot {
            Shot::Drop => self.drop_one().await,
            Shot::Recreate => self.recreate().await,
            Shot::Rename => self.rename().await,
            Shot::Empty => self.empty().await,
            Shot::Roll => self.roll().await,
            Shot::EmptyCapped => self.empty_capped().await,
            Shot::Reindex => self.reindex().await,
            Shot::SwapKeys => self.swap_keys().await,
            Shot::Move => self.move_far().await,
            Shot::Replace => self.replace().await,
            Shot::Update => self.update().await,
            Shot::KillCursors => self.kill_cursors().await,
            Shot::KillOperations => self.kill_operations().await,
        };
        match hit {
            Ok(true) => *self.done.entry(shot).or_default() += 1,
            // Once more, after one other.
            Ok(false) if !self.round.is_empty() => self.round.insert(self.round.len() - 1, shot),
            Ok(false) => println!("{shot:?} found no target"),
            Err(error) => println!("{shot:?} missed: {}", error.kind),
        }
    }

    /// Kinds that never succeeded.
    pub fn never(&self) -> Vec<Shot> {
        SHOTS.iter().filter(|shot| !self.done.contains_key(*shot)).copied().collect()
    }

    fn plain(&mut self) -> String {
        format!("plain-{}", self.rng.random_range(0..PLAIN))
    }

    fn doomed(&mut self) -> String {
        format!("plain-{}", self.rng.random_range(0..DOOMED))
    }

    fn collection(&self, name: &str) -> Collection<Document> {
        self.db().collection(name)
    }

    async fn fill(&mut self, name: &str, ids: std::ops::Range<i64>) -> Result<()> {
        let mark: u32 = self.rng.random();
        let ids: Vec<i64> = ids.collect();
        for part in ids.chunks(1_000) {
            let document = |id: &i64| {
                doc! { "_id": id, "k": id, "n": i64::from(mark), "pad": "p".repeat(PAD_BYTES) }
            };
            self.collection(name).insert_many(part.iter().map(document)).await?;
        }
        Ok(())
    }

    async fn index(&self, name: &str) -> Result<()> {
        let index = |name: &str, unique: bool| {
            doc! { "key": { name: 1 }, "name": format!("{name}_1"), "unique": unique }
        };
        let indexes = vec![index("k", true), index("n", false)];
        let command = doc! { "createIndexes": name, "indexes": indexes };
        self.db().run_command(command).await.map(drop)
    }

    /// New `_id`s, far from all others or between them.
    fn fresh(&mut self, count: i64) -> std::ops::Range<i64> {
        self.next_id += count;
        self.next_id - count..self.next_id
    }

    async fn drop_one(&mut self) -> Result<bool> {
        let name = self.doomed();
        self.collection(&name).drop().await?;
        let ids = self.fresh(50);
        self.fill(&name, ids).await.map(|()| true)
    }

    /// The same name and the same `_id`s, but another collection.
    async fn recreate(&mut self) -> Result<bool> {
        let name = self.doomed();
        self.collection(&name).drop().await?;
        self.db().run_command(doc! { "create": &name, "validationLevel": "off" }).await?;
        self.index(&name).await?;
        let documents = self.documents / 2;
        self.fill(&name, 0..documents).await.map(|()| true)
    }

    /// Two collections change places, or one takes the other's.
    async fn rename(&mut self) -> Result<bool> {
        let (one, other) = (self.plain(), self.plain());
        if one == other {
            return Ok(false);
        }
        let rename = async |from: &str, to: &str, replace: bool| {
            let (from, to) = (format!("{DB}.{from}"), format!("{DB}.{to}"));
            let command = doc! { "renameCollection": from, "to": to, "dropTarget": replace };
            self.client.database("admin").run_command(command).await.map(drop)
        };
        rename(&one, "aside", true).await?;
        rename(&other, &one, false).await?;
        rename("aside", &other, false).await.map(|()| true)
    }

    async fn empty(&mut self) -> Result<bool> {
        let name = self.doomed();
        self.collection(&name).delete_many(doc! {}).await?;
        let ids = match self.rng.random_bool(0.5) {
            true => 0..self.documents / 3,
            false => self.fresh(200),
        };
        self.fill(&name, ids).await.map(|()| true)
    }

    async fn roll(&mut self) -> Result<bool> {
        let name = if self.rng.random_bool(0.5) { "ring" } else { "log" };
        let ids = self.fresh(400);
        self.fill(name, ids).await.map(|()| true)
    }

    /// The only way to empty a capped collection without test commands.
    async fn empty_capped(&mut self) -> Result<bool> {
        self.collection("ring").drop().await?;
        let create = doc! { "create": "ring", "capped": true, "size": 400_000, "max": 350 };
        self.db().run_command(create).await?;
        self.fill("ring", 0..150).await.map(|()| true)
    }

    async fn reindex(&mut self) -> Result<bool> {
        let name = self.plain();
        self.db().run_command(doc! { "dropIndexes": &name, "index": "*" }).await?;
        self.index(&name).await?;
        let index = doc! { "key": { "n": -1, "k": 1 }, "name": "both", "sparse": true };
        let command = doc! { "createIndexes": name, "indexes": [index] };
        self.db().run_command(command).await.map(|_| true)
    }

    /// Documents give each other their unique keys, some in one transaction.
    async fn swap_keys(&mut self) -> Result<bool> {
        let name = self.plain();
        let collection = self.collection(&name);
        let together = self.rng.random_bool(0.5);
        let mut session = self.client.start_session().await?;
        if together {
            session.start_transaction().await?;
        }
        let mut swapped = false;
        for _ in 0..20 {
            let pair = [0, 1].map(|_| self.rng.random_range(0..self.documents));
            let mut keys = Vec::new();
            for id in pair {
                let found = collection.find_one(doc! { "_id": id }).session(&mut session).await?;
                keys.extend(found.and_then(|found| found.get_i64("k").ok()));
            }
            let [one, other] = keys[..] else { continue };
            if one == other {
                continue;
            }
            for (id, key) in [(pair[0], -1), (pair[1], one), (pair[0], other)] {
                let change = doc! { "$set": { "k": key } };
                collection.update_one(doc! { "_id": id }, change).session(&mut session).await?;
            }
            swapped = true;
        }
        if together {
            session.commit_transaction().await?;
        }
        Ok(swapped)
    }

    /// Documents go from one end of the order to the other, under another `_id`.
    async fn move_far(&mut self) -> Result<bool> {
        let name = self.plain();
        let collection = self.collection(&name);
        let from = self.rng.random_range(0..self.documents);
        let distance = if self.rng.random_bool(0.5) { FAR } else { -FAR };
        let near = doc! { "_id": { "$gte": from, "$lt": from + 60 } };
        let found: Vec<Document> = collection.find(near.clone()).await?.try_collect().await?;
        if found.is_empty() {
            return Ok(false);
        }
        collection.delete_many(near).await?;
        let moved = found.into_iter().map(|mut document| {
            let id = document.get_i64("_id").unwrap_or_default() + distance;
            document.insert("_id", id);
            document
        });
        collection.insert_many(moved).ordered(false).await.map(|_| true)
    }

    /// `$out` over a collection that is being copied.
    async fn replace(&mut self) -> Result<bool> {
        let (from, to) = (self.plain(), self.doomed());
        let pipeline = [doc! { "$limit": 500 }, doc! { "$out": to }];
        let cursor = self.collection(&from).aggregate(pipeline).await?;
        cursor.try_collect::<Vec<Document>>().await.map(|_| true)
    }

    async fn update(&mut self) -> Result<bool> {
        let name = self.plain();
        let from = self.rng.random_range(0..self.documents);
        let near = doc! { "_id": { "$gte": from, "$lt": from + 300 } };
        let change = doc! { "$inc": { "n": 1 }, "$set": { "u": { "v": from } } };
        let updated = self.collection(&name).update_many(near, change).await?;
        Ok(updated.modified_count > 0)
    }

    async fn kill_cursors(&mut self) -> Result<bool> {
        let mut killed = false;
        for member in &self.members {
            let idle = doc! { "cursor.cursorId": { "$exists": true } };
            for op in operations(member, idle).await? {
                let cursor =
                    op.get_document("cursor").and_then(|cursor| cursor.get_i64("cursorId"));
                let ns = op.get_str("ns").ok().and_then(|ns| ns.split_once('.'));
                let (Ok(cursor), Some((db, name))) = (cursor, ns) else { continue };
                let kill = doc! { "killCursors": name, "cursors": [cursor] };
                killed |= member.database(db).run_command(kill).await.is_ok();
            }
        }
        Ok(killed)
    }

    async fn kill_operations(&mut self) -> Result<bool> {
        let mut killed = false;
        for member in &self.members {
            for op in operations(member, doc! { "type": "op", "active": true }).await? {
                let Some(Bson::Int32(op)) = op.get("opid") else { continue };
                let kill = doc! { "killOp": 1, "op": op };
                killed |= member.database("admin").run_command(kill).await.is_ok();
            }
        }
        Ok(killed)
    }
}

/// Operations and idle cursors of the backup on a member.
async fn operations(member: &Client, more: Document) -> Result<Vec<Document>> {
    let mut matching = doc! { "appName": "headstock" };
    matching.extend(more);
    let pipeline = [
        doc! { "$currentOp": { "idleCursors": true, "allUsers": true } },
        doc! { "$match": matching },
    ];
    member.database("admin").aggregate(pipeline).await?.try_collect().await
}
