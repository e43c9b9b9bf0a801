//! The marker of an unfinished restore, in a database of its own at the target.

use bson::{DateTime, Document, RawDocumentBuf, doc, rawdoc};
use mongodb::options::ReadConcern;

use super::Live;
use crate::oplog::Ts;
use crate::restore::Error;

/// The database of the marker. While it exists the target is not a finished restore.
pub(in crate::restore) const MARKER_DATABASE: &str = "headstock_restore";
const MARKER_COLLECTION: &str = "marker";
/// There is at most one marker: its `_id`.
const MARKER_ID: &str = "restore";
/// How long a majority may take to acknowledge the marker; a set that cannot is not restored into.
const MARKER_TIMEOUT_MS: i64 = 60_000;

/// What a marker says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::restore) struct Marker {
    /// Random name of the run.
    pub id: String,
    /// The job restored from.
    pub job: String,
    /// The point.
    pub upto: Ts,
    /// The filters, in order of their text.
    pub filters: Vec<String>,
    /// The mode, as the plan prints it.
    pub existing: String,
}

/// What a target's marker means for a restore that is about to begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::restore) enum Found {
    /// There is none.
    Nothing,
    /// The same restore began before: what it made may be dropped.
    Ours,
}

impl Marker {
    fn to_document(&self, state: &str) -> Document {
        doc! {
            "_id": MARKER_ID,
            "restore": &self.id,
            "job": &self.job,
            "point": bson::Timestamp::from(self.upto),
            "namespaces": &self.filters,
            "existing": &self.existing,
            "state": state,
            "at": DateTime::now(),
            "version": env!("CARGO_PKG_VERSION"),
        }
    }

    /// Whether a marker was written by a run of the same restore.
    fn is_same(&self, found: &Document) -> bool {
        let other = self.to_document("");
        ["job", "point", "namespaces", "existing"]
            .iter()
            .all(|field| found.get(field) == other.get(field))
    }
}

impl Live {
    /// Reads the target's marker.
    pub async fn find_marker(&self, ours: &Marker) -> Result<Found, Error> {
        let markers = self.client.database(MARKER_DATABASE);
        let markers = markers.collection::<Document>(MARKER_COLLECTION);
        let find = markers.find_one(doc! { "_id": MARKER_ID }).read_concern(ReadConcern::local());
        let found = find.await.map_err(|why| self.failed("find", MARKER_DATABASE, why))?;
        let Some(found) = found else { return Ok(Found::Nothing) };
        if ours.is_same(&found) {
            return Ok(Found::Ours);
        }
        let text = |field| found.get_str(field).unwrap_or("unknown").to_owned();
        let point = found.get_timestamp("point").map(|ts| Ts::from(ts).to_string());
        Err(Error::OtherRestore {
            id: text("restore"),
            job: text("job"),
            point: point.unwrap_or_else(|_| "unknown".to_owned()),
            database: MARKER_DATABASE,
        })
    }

    /// Writes the marker, or takes over the one of an earlier run.
    pub async fn put_marker(&self, marker: &Marker) -> Result<(), Error> {
        let document = RawDocumentBuf::try_from(&marker.to_document("loading"))
            .expect("a document of our own is valid");
        let command = rawdoc! {
            "update": MARKER_COLLECTION,
            "updates": [{
                "q": { "_id": MARKER_ID },
                "u": document,
                "upsert": true,
            }],
            "writeConcern": majority(),
        };
        let reply = self.run(MARKER_DATABASE, "update", command, MARKER_DATABASE).await?;
        self.check_reply("update", MARKER_DATABASE, &reply)
    }

    /// Removes our marker and its database; fails if another run took it over.
    pub async fn remove_marker(&self, marker: &Marker) -> Result<(), Error> {
        let command = rawdoc! {
            "delete": MARKER_COLLECTION,
            "deletes": [{ "q": { "_id": MARKER_ID, "restore": &*marker.id }, "limit": 1 }],
            "writeConcern": majority(),
        };
        let reply = self.run(MARKER_DATABASE, "delete", command, MARKER_DATABASE).await?;
        self.check_reply("delete", MARKER_DATABASE, &reply)?;
        if reply.get_i32("n").unwrap_or_default() != 1 {
            return Err(Error::MarkerLost { id: marker.id.clone() });
        }
        // The database goes with its only collection, and fewer roles suffice.
        let drop = rawdoc! { "drop": MARKER_COLLECTION, "writeConcern": majority() };
        let reply = self.run(MARKER_DATABASE, "drop", drop, MARKER_DATABASE).await?;
        self.check_reply("drop", MARKER_DATABASE, &reply)
    }
}

fn majority() -> RawDocumentBuf {
    rawdoc! { "w": "majority", "wtimeout": MARKER_TIMEOUT_MS }
}
