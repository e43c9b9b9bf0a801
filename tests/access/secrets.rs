//! Passwords are nowhere but where they were given.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use headstock::access::Role;
use headstock::lab::Options;

use crate::scene::{command, create, run, start};

const SECRETS: [&str; 2] = ["Pa55-of-the-source", "Pa55-of-the-blockstore"];
const LIMIT: Duration = Duration::from_secs(60);

fn assert_silent(what: &str, bytes: &[u8]) {
    for secret in SECRETS {
        let found = memchr::memmem::find(bytes, secret.as_bytes());
        assert!(found.is_none(), "{what} holds {secret}");
    }
}

/// Looks through every file below a directory.
fn look_through(dir: &Path) -> usize {
    let mut files = 0;
    for entry in fs::read_dir(dir).expect("list") {
        let (path, kind) = entry.map(|entry| (entry.path(), entry.file_type())).expect("an entry");
        let kind = kind.expect("a type");
        if kind.is_dir() {
            files += look_through(&path);
        } else if kind.is_file() {
            assert_silent(&path.display().to_string(), &fs::read(&path).expect("read"));
            files += 1;
        }
    }
    files
}

#[tokio::test(flavor = "multi_thread")]
async fn no_password_is_in_logs_status_processes_or_stores() {
    let set = start(Options::default()).await;
    set.client().database("shop").collection("c").insert_one(bson::doc! {}).await.expect("insert");
    let source = create(&set, Role::Source, SECRETS[0]).await;
    let blockstore = create(&set, Role::Blockstore, SECRETS[1]).await;
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).to_str().expect("a path").to_owned();
    let (store, file, log) = (path("store"), path("uri"), path("log"));
    fs::write(&file, format!("{blockstore}\n")).expect("write");

    // One by the environment, one by a file.
    let words = ["daemon", "--store", &store, "--blockstore-file", &file, "--snapshot-every", "2s"];
    let mut daemon = command(&words)
        .args(["--log", "trace"])
        .env("HEADSTOCK_SOURCE", &source)
        .stdout(Stdio::null())
        .stderr(fs::File::create(&log).expect("a log"))
        .spawn()
        .expect("a daemon");
    let process = format!("/proc/{}/cmdline", daemon.id());
    let begin = Instant::now();
    let status = loop {
        let status = run(&["status", "--store", &store, "--json"], &[]);
        let remote = || status.json()["jobs"][0]["remote"]["snapshots"].as_u64();
        if status.code == Some(0) && remote() > Some(0) {
            break status;
        }
        let log = fs::read_to_string(&log).expect("the log");
        assert!(begin.elapsed() < LIMIT, "{}\n{log}", status.text);
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    assert_silent("status", status.text.as_bytes());
    let arguments = fs::read(&process).expect("arguments");
    assert!(memchr::memmem::find(&arguments, b"--blockstore-file").is_some());
    assert_silent("the list of processes", &arguments);
    daemon.kill().expect("kill");
    daemon.wait().expect("wait");
    assert_silent("the log", &fs::read(&log).expect("the log"));
    assert!(look_through(Path::new(&store)) > 3);

    // What fails tells no password either.
    let (gone, refused) =
        (source.replace("127.0.0.1:", "127.0.0.1:1"), blockstore.replace("/?", "/other?"));
    for (words, uris) in [
        (&["sync", "--store", &store][..], [("SOURCE", gone.as_str()), ("BLOCKSTORE", &refused)]),
        (&["sync", "--store", &store], [("SOURCE", &source), ("BLOCKSTORE", &refused)]),
        (&["check-access"], [("SOURCE", &source), ("BLOCKSTORE", &gone)]),
        (&["fsck"], [("SOURCE", &source), ("BLOCKSTORE", &refused)]),
        (&["sync", "--store", &store, &source], [("SOURCE", &source), ("BLOCKSTORE", &refused)]),
    ] {
        let ended = run(words, &uris);
        assert!(ended.code != Some(0), "{words:?}: {}", ended.text);
        assert_silent(words[0], ended.text.as_bytes());
    }
    // Documents of the blockstore name hosts, not users.
    for collection in ["daemons", "jobs", "repository", "sessions"] {
        let all = set.client().database("headstock").collection::<bson::Document>(collection);
        let found = all.find_one(bson::doc! {}).await.expect("find");
        assert_silent(collection, format!("{found:?}").as_bytes());
    }
}
