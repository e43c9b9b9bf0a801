//! Trying what a blockstore asks of a storage of objects (page 10, section 1): permissions, and what it promises.

use bson::oid::ObjectId;
use bytes::Bytes;
use serde::Serialize;

use super::place;
use super::storage::Storage;
use crate::blockstore::Error;
use crate::blockstore::in_one_line;

/// What a storage does of what is asked of it. `--json` prints it: field names never change.
#[derive(Debug, Clone, Serialize)]
pub struct Probe {
    /// The storage; holds no secret.
    pub storage: String,
    /// Whether it does all of it.
    pub complete: bool,
    /// What it does not.
    pub missing: Vec<Refused>,
}

/// Something that was refused, or done otherwise.
#[derive(Debug, Clone, Serialize)]
pub struct Refused {
    /// What was asked: the name that S3 has for it.
    pub action: &'static str,
    /// What the storage said or did.
    pub why: String,
}

const CREATE: &str = "PutObject";
const CREATE_ONCE: &str = "PutObject (If-None-Match: *)";
const READ: &str = "GetObject";
const LIST: &str = "ListBucket";
const DELETE: &str = "DeleteObject";
/// What a probe writes.
const CONTENT: &[u8] = b"written by headstock check-access";

/// Tries everything on an object of its own, which is gone in the end if that may be deleted.
///
/// # Errors
/// [`Error::Uri`].
pub async fn probe(uri: &str) -> Result<Probe, Error> {
    let storage = place::open(uri)?;
    let name = format!("probes/{}", ObjectId::new().to_hex());
    let mut missing = Vec::new();
    let content = Bytes::from_static(CONTENT);
    match storage.create(&name, content.clone()).await {
        Ok(_) => {
            let again = storage.create(&name, content.clone()).await.map(|created| !created);
            note(&mut missing, CREATE_ONCE, again, "it created an object twice");
            let overwritten = storage.put(&name, content.clone()).await.map(|()| true);
            note(&mut missing, CREATE, overwritten, "");
            let read = reads(&storage, &name).await;
            note(&mut missing, READ, read, "it gave back other bytes than were written");
            let listed = lists(&storage, &name).await;
            note(&mut missing, LIST, listed, "it did not list an object that is there");
            let deleted = deletes(&storage, &name).await;
            note(&mut missing, DELETE, deleted, "the object is still there");
        }
        Err(error) => {
            note(&mut missing, CREATE, Err(error), "");
            note(&mut missing, LIST, storage.list("log").await.map(|_| true), "");
        }
    }
    let storage = storage.name.to_string();
    Ok(Probe { storage, complete: missing.is_empty(), missing })
}

async fn reads(storage: &Storage, name: &str) -> Result<bool, Error> {
    let whole = storage.get(name).await?;
    let range = storage.get_range(name, 3..9).await?;
    let end = storage.get_end(name, 5).await?;
    let parts = [CONTENT, &CONTENT[3..9], &CONTENT[CONTENT.len() - 5..]];
    Ok([whole, range, end].iter().map(Option::as_deref).eq(parts.map(Some)))
}

async fn lists(storage: &Storage, name: &str) -> Result<bool, Error> {
    let listed = storage.list("probes").await?;
    Ok(listed.iter().any(|one| name.ends_with(one.as_str())))
}

async fn deletes(storage: &Storage, name: &str) -> Result<bool, Error> {
    storage.delete(name).await?;
    Ok(storage.get(name).await?.is_none())
}

fn note(
    missing: &mut Vec<Refused>,
    action: &'static str,
    done: Result<bool, Error>,
    otherwise: &str,
) {
    let why = match done {
        Ok(true) => return,
        Ok(false) => otherwise.to_owned(),
        Err(error) => in_one_line(&error),
    };
    missing.push(Refused { action, why });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_directory_does_what_is_asked_unless_it_may_not_be_written() {
        let dir = tempfile::tempdir().expect("a folder");
        let uri = dir.path().display().to_string();
        let probed = probe(&uri).await.expect("probe");
        assert!(probed.complete && probed.missing.is_empty(), "{probed:?}");
        let left = std::fs::read_dir(dir.path().join("probes")).expect("list").count();
        assert_eq!(left, 0, "nothing is left");
        std::fs::remove_dir(dir.path().join("probes")).expect("remove");
        // A file where the folder would be: nobody can write there, root included.
        std::fs::write(dir.path().join("probes"), b"").expect("write");
        let probed = probe(&uri).await.expect("probe");
        assert!(!probed.complete);
        assert_eq!(probed.missing[0].action, CREATE, "{probed:?}");
    }
}
