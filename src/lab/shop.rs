//! A lifelike data set, a shop's, and writers that keep changing it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bson::oid::ObjectId;
use bson::{Bson, DateTime, Decimal128, Document, doc};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use mongodb::{Client, Database};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::crew::{Crew, Pace};
use super::{Detail, Error, ReplicaSet, Result, SourceState};
use crate::oplog::OpTime;

/// Documents of one insert.
const BATCH: u32 = 2_000;
/// Inserts under way at a time.
const LOADERS: usize = 4;
/// Between two operations of one writer.
const WRITER_EVERY: Duration = Duration::from_millis(6);
/// Concurrent writers.
const WRITERS: u64 = 3;
/// 2026-01-01T00:00:00Z, ms.
const NEW_YEAR_MS: i64 = 1_767_225_600_000;
const YEAR_MS: i64 = 365 * 86_400_000;

const CITIES: [&str; 8] =
    ["Aachen", "Bergen", "Cork", "Delft", "Essen", "Faro", "Gent", "Helsinki"];
const THINGS: [&str; 10] = [
    "lathe chuck",
    "dead centre",
    "face plate",
    "tool post",
    "drill bit",
    "end mill",
    "vice",
    "micrometer",
    "collet",
    "boring bar",
];
const STATES: [&str; 4] = ["placed", "paid", "shipped", "delivered"];

/// Makes the n-th document of a collection.
type Make = fn(&mut StdRng, u32, Size) -> Document;

/// How many documents a shop starts with.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    /// Customers.
    pub customers: u32,
    /// Products.
    pub products: u32,
    /// Orders.
    pub orders: u32,
}

impl Size {
    /// A few hundred thousand documents.
    pub const LIFELIKE: Self = Self { customers: 40_000, products: 2_000, orders: 200_000 };

    /// All of them.
    pub fn documents(self) -> u32 {
        self.customers + self.products + self.orders
    }
}

/// A shop's database and those who write to it.
pub struct Shop {
    crew: Crew,
    writes: Arc<AtomicU64>,
}

impl Shop {
    /// Name of its database.
    pub const DATABASE: &'static str = "shop";

    /// Fills the database, with indexes.
    ///
    /// # Errors
    /// The driver's.
    pub async fn load(client: &Client, size: Size, seed: u64) -> Result<()> {
        let shop = client.database(Self::DATABASE);
        create_collections(&shop).await?;
        let plans: [(&str, u32, Make); 3] = [
            ("customers", size.customers, customer),
            ("products", size.products, product),
            ("orders", size.orders, order),
        ];
        for (name, count, make) in plans {
            let collection = shop.collection::<Document>(name);
            let batches = (0..count).step_by(BATCH as usize).map(|from| {
                let collection = collection.clone();
                async move {
                    let mut rng = StdRng::seed_from_u64(seed ^ u64::from(from));
                    let to = count.min(from + BATCH);
                    let documents: Vec<Document> =
                        (from..to).map(|n| make(&mut rng, n, size)).collect();
                    collection.insert_many(documents).ordered(false).await.map(drop)
                }
            });
            let loaded = stream::iter(batches).buffer_unordered(LOADERS).try_collect::<()>();
            loaded.await.map_err(Error::driver("load the shop"))?;
        }
        create_indexes(&shop).await
    }

    /// What an operator does on an ordinary day: builds an index, renames a collection.
    ///
    /// # Errors
    /// The driver's.
    pub async fn reorganise(client: &Client) -> Result<()> {
        let index = doc! { "key": { "status": 1, "placed": -1 }, "name": "by_status" };
        let build = doc! { "createIndexes": "orders", "indexes": [index] };
        let shop = client.database(Self::DATABASE);
        shop.run_command(build).await.map_err(Error::driver("build an index"))?;
        let (from, to) = ("shop.carts", "shop.abandoned_carts");
        let rename = doc! { "renameCollection": from, "to": to, "dropTarget": true };
        let admin = client.database("admin");
        admin.run_command(rename).await.map_err(Error::driver("rename a collection"))?;
        Ok(())
    }

    /// Starts the writers.
    pub fn open(client: &Client, size: Size, seed: u64) -> Self {
        let mut crew = Crew::new();
        let writes = Arc::new(AtomicU64::new(0));
        for writer in 0..WRITERS {
            let rng = StdRng::seed_from_u64(seed.wrapping_add(writer + 1));
            let clerk = Clerk { client: client.clone(), size, rng, writes: Arc::clone(&writes) };
            crew.add(WRITER_EVERY, |pace| clerk.run(pace));
        }
        Self { crew, writes }
    }

    /// Operations done by the writers so far.
    pub fn writes(&self) -> u64 {
        self.writes.load(Ordering::Relaxed)
    }

    /// Holds the writers; returns the newest optime of the set and the state at it.
    ///
    /// # Errors
    /// The set does not come to rest.
    pub async fn hold(
        &mut self,
        set: &ReplicaSet,
        detail: Detail,
    ) -> Result<(OpTime, SourceState)> {
        self.crew.rest(set, detail).await
    }

    /// Lets the writers go on.
    pub fn go_on(&mut self) {
        self.crew.release();
    }

    /// Ends the writers.
    pub async fn close(mut self) {
        self.crew.finish().await;
    }
}

async fn create_collections(shop: &Database) -> Result<()> {
    let level = doc! { "$jsonSchema": { "required": ["name", "email"] } };
    let commands = [
        doc! { "create": "customers", "validator": level, "validationLevel": "moderate" },
        doc! { "create": "audit", "capped": true, "size": 2 << 20 },
        doc! { "create": "visits", "timeseries": { "timeField": "at", "metaField": "page" } },
        doc! { "create": "open_orders", "viewOn": "orders",
        "pipeline": [{ "$match": { "status": "placed" } }] },
    ];
    for command in commands {
        shop.run_command(command).await.map_err(Error::driver("create a collection"))?;
    }
    Ok(())
}

async fn create_indexes(shop: &Database) -> Result<()> {
    let plans = [
        ("customers", doc! { "key": { "email": 1 }, "name": "email", "unique": true }),
        ("customers", doc! { "key": { "address.place": "2dsphere" }, "name": "place" }),
        ("products", doc! { "key": { "name": "text" }, "name": "words" }),
        ("orders", doc! { "key": { "customer": 1, "placed": -1 }, "name": "of_customer" }),
        ("carts", doc! { "key": { "at": 1 }, "name": "abandoned", "expireAfterSeconds": 86_400 }),
    ];
    for (collection, index) in plans {
        let command = doc! { "createIndexes": collection, "indexes": [index] };
        shop.run_command(command).await.map_err(Error::driver("create an index"))?;
    }
    Ok(())
}

fn pick<'a>(rng: &mut StdRng, from: &[&'a str]) -> &'a str {
    from[rng.random_range(0..from.len())]
}

fn customer(rng: &mut StdRng, n: u32, _size: Size) -> Document {
    let place = [rng.random_range(-170.0..170.0), rng.random_range(-80.0..80.0)];
    doc! {
        "_id": n,
        "name": format!("Customer {n:06}"),
        "email": format!("c{n}.{:08x}@mail.example", rng.random::<u32>()),
        "since": DateTime::from_millis(NEW_YEAR_MS - rng.random_range(0..YEAR_MS)),
        "address": {
            "street": format!("{} Turner Street", rng.random_range(1..400)),
            "city": pick(rng, &CITIES),
            "place": { "type": "Point", "coordinates": place.to_vec() },
        },
        "points": rng.random_range(0..10_000),
        "tags": [pick(rng, &THINGS), pick(rng, &THINGS)],
    }
}

fn product(rng: &mut StdRng, n: u32, _size: Size) -> Document {
    doc! {
        "_id": format!("SKU-{n:05}"),
        "name": format!("{} no. {n}", pick(rng, &THINGS)),
        "price": price(rng),
        "stock": rng.random_range(100..100_000),
        "specs": { "weight_g": rng.random_range(10..9_000), "steel": rng.random_bool(0.7) },
    }
}

fn price(rng: &mut StdRng) -> Bson {
    let text = format!("{}.{:02}", rng.random_range(1..900), rng.random_range(0..100));
    text.parse::<Decimal128>().map_or(Bson::Null, Bson::Decimal128)
}

fn order(rng: &mut StdRng, _n: u32, size: Size) -> Document {
    let items: Vec<Document> = (0..rng.random_range(1..6))
        .map(|_| {
            let sku = format!("SKU-{:05}", rng.random_range(0..size.products));
            doc! { "sku": sku, "pieces": rng.random_range(1..9), "price": price(rng) }
        })
        .collect();
    doc! {
        "_id": ObjectId::new(),
        "customer": rng.random_range(0..size.customers),
        "placed": DateTime::from_millis(NEW_YEAR_MS + rng.random_range(0..YEAR_MS)),
        "status": pick(rng, &STATES),
        "items": items,
        "note": format!("{:016x}", rng.random::<u64>()),
    }
}

/// One writer.
struct Clerk {
    client: Client,
    size: Size,
    rng: StdRng,
    writes: Arc<AtomicU64>,
}

impl Clerk {
    async fn run(mut self, mut pace: Pace) {
        while let Some(turn) = pace.turn().await {
            let result = self.work().await;
            drop(turn);
            match result {
                Ok(()) => drop(self.writes.fetch_add(1, Ordering::Relaxed)),
                // Two orders for one product at a time: the server lets one of them go first.
                Err(error) => tracing::debug!(%error, "a clerk was refused"),
            }
        }
    }

    async fn work(&mut self) -> mongodb::error::Result<()> {
        let shop = self.client.database(Shop::DATABASE);
        let customer = self.rng.random_range(0..self.size.customers);
        match self.rng.random_range(0..10) {
            0..4 => self.place_order().await,
            4..6 => {
                let to = pick(&mut self.rng, &STATES);
                let change = doc! { "$set": { "status": to }, "$currentDate": { "changed": true } };
                let of = doc! { "customer": customer };
                shop.collection::<Document>("orders").update_one(of, change).await.map(drop)
            }
            6 => {
                let change = doc! { "$inc": { "points": 5 }, "$addToSet": { "tags": "regular" } };
                let who = doc! { "_id": customer };
                shop.collection::<Document>("customers").update_one(who, change).await.map(drop)
            }
            7 => {
                let cart = doc! { "_id": customer, "at": DateTime::now(), "items": [1, 2, 3] };
                let whose = doc! { "_id": customer };
                let carts = shop.collection::<Document>("carts");
                carts.replace_one(whose, cart).upsert(true).await.map(drop)
            }
            8 => {
                let page = pick(&mut self.rng, &THINGS);
                let visit = doc! { "at": DateTime::now(), "page": page, "ms": customer };
                shop.collection::<Document>("visits").insert_one(visit).await.map(drop)
            }
            _ => {
                let carts = shop.collection::<Document>("carts");
                carts.delete_one(doc! { "_id": { "$gte": customer } }).await.map(drop)
            }
        }
    }

    /// The order, the stock, the customer's points and the audit trail, or nothing of it.
    async fn place_order(&mut self) -> mongodb::error::Result<()> {
        let shop = self.client.database(Shop::DATABASE);
        let order = order(&mut self.rng, 0, self.size);
        let customer = order.get("customer").cloned();
        let sku = format!("SKU-{:05}", self.rng.random_range(0..self.size.products));
        let mut session = self.client.start_session().await?;
        session.start_transaction().await?;
        let taken = doc! { "$inc": { "stock": -1 } };
        let products = shop.collection::<Document>("products");
        products.update_one(doc! { "_id": sku }, taken).session(&mut session).await?;
        let points = doc! { "$inc": { "points": 10 } };
        let customers = shop.collection::<Document>("customers");
        customers.update_one(doc! { "_id": customer }, points).session(&mut session).await?;
        let trail = doc! { "at": DateTime::now(), "what": "order", "id": order.get("_id") };
        shop.collection::<Document>("orders").insert_one(order).session(&mut session).await?;
        session.commit_transaction().await?;
        // Capped collections cannot be written in a transaction.
        shop.collection::<Document>("audit").insert_one(trail).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_shop_is_filled_and_written_to() {
        let set = ReplicaSet::of(1).await.expect("start");
        let size = Size { customers: 500, products: 50, orders: 3_000 };
        Shop::load(set.client(), size, 1).await.expect("load");
        let shop = set.client().database(Shop::DATABASE);
        let orders = shop.collection::<Document>("orders");
        assert_eq!(orders.count_documents(doc! {}).await.expect("count"), 3_000);
        let mut open = Shop::open(set.client(), size, 1);
        while open.writes() < 200 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let (_, state) = open.hold(&set, Detail::Collections).await.expect("hold");
        assert!(state.names().any(|ns| ns == "shop.system.buckets.visits"));
        assert!(orders.count_documents(doc! {}).await.expect("count") > 3_000);
        open.go_on();
        open.close().await;
    }
}
