//! Where objects are kept: what a connection string of a directory or a bucket says.
//!
//! `/path`, `file:///path`, or `s3://bucket/prefix?endpoint=...&region=...&credentials=FILE&style=path|virtual`. Keys stand in the environment or in a
//! file, never in the string: it would be seen in lists of processes.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::AmazonS3Builder;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{ClientOptions, RetryConfig};
use url::Url;

use super::storage::{Root, Storage};
use crate::blockstore::Error;

/// How long a request may take; one of a pack at 28 KB/s.
const REQUEST_LIMIT: Duration = Duration::from_secs(600);
/// The limit of a TCP and TLS connect.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// How long a request is tried again.
const RETRY_LIMIT: Duration = Duration::from_secs(30);
/// How often a request is tried again.
const RETRIES_MAX: usize = 5;
/// What a connection string of a bucket may say.
const OPTIONS: [&str; 4] = ["endpoint", "region", "credentials", "style"];

/// Whether a connection string is one of objects: a path, `file:` or `s3:`.
#[must_use]
pub fn is_meant(uri: &str) -> bool {
    ["/", "./", "../", "file:", "s3:"].iter().any(|begin| uri.starts_with(begin))
}

/// Reaches a directory or a bucket.
pub(super) fn open(uri: &str) -> Result<Storage, Error> {
    match uri.strip_prefix("file:") {
        None if uri.starts_with("s3:") => bucket(uri),
        None => directory(FilePath::new(uri)),
        Some(_) => {
            let url = Url::parse(uri).map_err(|error| refused(error.to_string()))?;
            let path = url.to_file_path();
            directory(&path.map_err(|()| refused("it names no path of this machine"))?)
        }
    }
}

fn refused(problem: impl Into<String>) -> Error {
    Error::Uri { problem: problem.into() }
}

/// A directory, which must be there: else a share that is not mounted would get a repository of its own.
fn directory(path: &FilePath) -> Result<Storage, Error> {
    let unusable = |error: &dyn std::fmt::Display| {
        refused(format!(
            "the directory {} cannot be used ({error}); it must be there, so that a share that is not mounted is not taken for an empty one",
            path.display()
        ))
    };
    let path: PathBuf = path.canonicalize().map_err(|error| unusable(&error))?;
    let store = LocalFileSystem::new_with_prefix(&path).map_err(|error| unusable(&error))?;
    let name = format!("blockstore {}", path.display());
    let store = Arc::new(store.with_fsync(true));
    let (once, prefix) = (store.clone(), Path::default());
    let facts = std::fs::metadata(&path).map_err(|error| unusable(&error))?;
    let root = Some(Root { path, identity: (facts.dev(), facts.ino()) });
    Ok(Storage { store, once, root, prefix, name: name.into() })
}

fn bucket(uri: &str) -> Result<Storage, Error> {
    let url = Url::parse(uri).map_err(|error| refused(error.to_string()))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(refused(
            "keys do not belong into it: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or name a file with ?credentials=FILE",
        ));
    }
    let bucket = url.host_str().ok_or_else(|| refused("it names no bucket: s3://BUCKET/PREFIX"))?;
    let options: BTreeMap<String, String> = url.query_pairs().into_owned().collect();
    if let Some(unknown) = options.keys().find(|name| !OPTIONS.contains(&name.as_str())) {
        let known = OPTIONS.join(", ");
        return Err(refused(format!("it has an option {unknown:?}; there are {known}")));
    }
    // TLS asks for it before the first client; only the first call counts.
    drop(rustls::crypto::ring::default_provider().install_default());
    let client =
        ClientOptions::new().with_timeout(REQUEST_LIMIT).with_connect_timeout(CONNECT_LIMIT);
    let retry = RetryConfig {
        max_retries: RETRIES_MAX,
        retry_timeout: RETRY_LIMIT,
        ..RetryConfig::default()
    };
    let mut builder = AmazonS3Builder::from_env().with_bucket_name(bucket).with_retry(retry);
    let endpoint = options.get("endpoint").map(String::as_str);
    if let Some(endpoint) = endpoint {
        let url = Url::parse(endpoint).map_err(|error| refused(format!("endpoint: {error}")))?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(refused("its endpoint holds credentials, which nothing takes from there"));
        }
    }
    let is_plain = endpoint.is_some_and(|endpoint| endpoint.starts_with("http://"));
    builder = builder.with_client_options(client.with_allow_http(is_plain));
    if let Some(endpoint) = endpoint {
        builder = builder.with_endpoint(endpoint);
    }
    if let Some(region) = options.get("region") {
        builder = builder.with_region(region);
    }
    match options.get("style").map(String::as_str) {
        None | Some("path") => {}
        Some("virtual") => builder = builder.with_virtual_hosted_style_request(true),
        Some(other) => return Err(refused(format!("its style is {other:?}: path or virtual"))),
    }
    if let Some(file) = options.get("credentials") {
        builder = with_credentials(builder, FilePath::new(file))?;
    }
    let never = RetryConfig { max_retries: 0, ..RetryConfig::default() };
    let build = |builder: AmazonS3Builder| match builder.build() {
        Ok(store) => Ok(Arc::new(store)),
        Err(error) => Err(refused(error.to_string())),
    };
    let (once, store) = (build(builder.clone().with_retry(never))?, build(builder)?);
    let prefix = Path::parse(url.path()).map_err(|error| refused(error.to_string()))?;
    let at = endpoint.map(|endpoint| format!(" at {endpoint}")).unwrap_or_default();
    let name = format!("blockstore s3://{bucket}/{prefix}{at}");
    Ok(Storage { store, once, root: None, prefix, name: name.into() })
}

/// Takes keys from a file of lines `aws_access_key_id = ...`, the first of each name: headings and what else stands there is passed over.
fn with_credentials(
    mut builder: AmazonS3Builder,
    file: &FilePath,
) -> Result<AmazonS3Builder, Error> {
    let cannot = |why: &dyn std::fmt::Display| {
        refused(format!("the credentials file {} cannot be used: {why}", file.display()))
    };
    let text = std::fs::read_to_string(file).map_err(|error| cannot(&error))?;
    let value = |name: &str| {
        let mut pairs = text.lines().filter_map(|line| line.split_once('='));
        pairs.find(|(key, _)| key.trim() == name).map(|(_, value)| value.trim().to_owned())
    };
    let (Some(id), Some(key)) = (value("aws_access_key_id"), value("aws_secret_access_key")) else {
        return Err(cannot(&"it has no aws_access_key_id or no aws_secret_access_key"));
    };
    builder = builder.with_access_key_id(id).with_secret_access_key(key);
    if let Some(token) = value("aws_session_token") {
        builder = builder.with_token(token);
    }
    Ok(builder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_told_without_secrets() {
        let dir = tempfile::tempdir().expect("a folder");
        let told = |uri: &str| open(uri).err().expect("refused").to_string();
        let told_of = |uri: &str, what: &str| {
            let told = told(uri);
            assert!(told.contains(what) && !told.contains("hush"), "{uri}: {told}");
        };
        told_of("/nowhere/at/all", "must be there");
        told_of("s3://key:hush@bucket/backup", "AWS_ACCESS_KEY_ID");
        told_of("s3://bucket/backup?endpont=http://x", "endpont");
        told_of("s3://bucket/backup?endpoint=http://key:hush@host", "holds credentials");
        told_of("s3://bucket/backup?style=round", "path or virtual");
        told_of("s3://bucket/backup?credentials=/nowhere", "credentials file");
        let file = dir.path().join("keys");
        std::fs::write(&file, "[default]\naws_access_key_id = a\nsecret = hush").expect("write");
        told_of(&format!("s3://bucket/x?credentials={}", file.display()), "no aws_access_key_id");
    }

    #[test]
    fn directories_and_buckets_are_told_from_replica_sets() {
        for uri in ["/backup", "./backup", "file:///backup", "s3://bucket/backup"] {
            assert!(is_meant(uri), "{uri}");
        }
        for uri in ["mongodb://a,b/?replicaSet=bs", "mongodb+srv://host", "backup"] {
            assert!(!is_meant(uri), "{uri}");
        }
        let dir = tempfile::tempdir().expect("a folder");
        let opened = open(&format!("file://{}", dir.path().display())).expect("open");
        assert!(opened.name.contains(dir.path().to_str().expect("a path")));
        let keys = "aws_access_key_id=a\naws_secret_access_key = hush\n";
        std::fs::write(dir.path().join("keys"), keys).expect("write");
        let keys = dir.path().join("keys");
        let uri = format!(
            "s3://bucket/a/b?endpoint=http://127.0.0.1:9&region=x&credentials={}",
            keys.display()
        );
        let opened = open(&uri).expect("open");
        assert_eq!(&*opened.name, "blockstore s3://bucket/a/b at http://127.0.0.1:9");
    }
}
