//! `headstock key` and the options that open an encrypted store, as a script uses them.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use headstock::store::{Options, Secret, Store};

/// A source that nobody answers for: what is refused is refused before it is asked.
const SOURCE: &str = "mongodb://127.0.0.1:1/?replicaSet=rs0&serverSelectionTimeoutMS=200";

struct Scene {
    folder: tempfile::TempDir,
}

impl Scene {
    fn set_up() -> Self {
        Self { folder: tempfile::tempdir().expect("temporary folder") }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs a command; names of files stand for those in the folder.
    fn run(&self, words: &str, environment: &[(&str, &str)]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_headstock"));
        command.current_dir(self.folder.path()).args(words.split(' '));
        for variable in ["HEADSTOCK_KEY_FILE", "HEADSTOCK_PASSPHRASE_FILE", "HEADSTOCK_STORE"] {
            command.env_remove(variable);
        }
        command.envs(environment.iter().copied()).output().expect("the program starts")
    }

    /// Runs one that has to end with a code and say something.
    fn told(&self, words: &str, environment: &[(&str, &str)], code: i32, part: &str) -> String {
        let output = self.run(words, environment);
        let text = String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{words}: {text}");
        assert!(text.contains(part), "{words}: {text}");
        text
    }

    fn store(&self, name: &str, key: Option<&Path>) {
        let secret = key.map(|path| Arc::new(Secret::read_key(path).expect("a key")));
        let options = Options { secret, ..Options::default() };
        drop(Store::create(&self.path(name), options).expect("create"));
    }
}

#[test]
fn slots_are_added_listed_and_removed_and_keys_rotated() {
    let scene = Scene::set_up();
    scene.told("key new one", &[], 0, "made one");
    let mode = std::fs::metadata(scene.path("one")).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let key = std::fs::read_to_string(scene.path("one")).expect("read");
    scene.told("key new one", &[], 1, "one");
    assert_eq!(std::fs::read_to_string(scene.path("one")).expect("read"), key);
    scene.store("st", Some(&scene.path("one")));
    std::fs::write(scene.path("words"), "correct horse battery\n").expect("write");
    let add = "key add --store st --key-file one --new-passphrase-file words --label safe";
    scene.told(add, &[], 0, "slot 1");
    let listed = scene.told("key list --store st --json", &[], 0, "passphrase");
    let listed: serde_json::Value = serde_json::from_str(&listed).expect("JSON");
    assert_eq!(listed[1]["label"], "safe");
    assert_eq!(
        (&listed[0]["kind"], listed.as_array().map(Vec::len)),
        (&"key-file".into(), Some(2))
    );
    scene.told("key remove --store st --key-file one --slot 0", &[], 1, "another slot");
    scene.told("key rotate --store st --passphrase-file words", &[], 0, "data key 2");
    scene.told("compact --store st --passphrase-file words", &[], 0, "nothing needs");
    scene.told("key remove --store st --passphrase-file words --slot 0", &[], 0, "removed");
    scene.told("fsck --store st --key-file one", &[], 1, "opens no slot");
    scene.told("fsck --store st --passphrase-file words", &[], 0, "clean");
    // Read once, as from a pipe.
    let mut shell = Command::new("bash");
    let program = env!("CARGO_BIN_EXE_headstock");
    let line = format!("{program} fsck --store st --repair --passphrase-file <(cat words)");
    let piped = shell.current_dir(scene.folder.path()).args(["-c", &line]).output().expect("bash");
    assert!(piped.status.success(), "{}", String::from_utf8_lossy(&piped.stderr));
}

#[test]
fn what_the_environment_names_is_for_stores_that_need_it() {
    let scene = Scene::set_up();
    for key in ["one", "two"] {
        scene.told(&format!("key new {key}"), &[], 0, "made");
    }
    scene.store("sealed", Some(&scene.path("one")));
    scene.store("plain", None);
    let one = [("HEADSTOCK_KEY_FILE", "one")];
    scene.told("fsck --store sealed", &one, 0, "clean");
    scene.told("fsck --store plain", &one, 0, "clean");
    scene.told("fsck --store sealed", &[], 1, "HEADSTOCK_KEY_FILE");
    scene.told("fsck --store plain --key-file one", &[], 1, "is not encrypted");
    // The command line wins.
    let two = [("HEADSTOCK_KEY_FILE", "two"), ("HEADSTOCK_PASSPHRASE_FILE", "none")];
    scene.told("fsck --store sealed", &two, 1, "opens no slot");
    scene.told("fsck --store sealed --key-file one", &two, 0, "clean");
    scene.told(
        "fsck --store sealed --key-file one --passphrase-file one",
        &[],
        2,
        "cannot be used",
    );
    scene.told("fsck --store sealed --key-file nowhere", &[], 1, "nowhere");
}

#[test]
fn a_new_store_is_encrypted_only_if_that_is_said_and_can_be() {
    let scene = Scene::set_up();
    scene.told("key new one", &[], 0, "made");
    let sync = format!("sync --source {SOURCE} --store fresh");
    scene.told(&format!("{sync} --encrypt"), &[], 2, "--key-file");
    scene.told(&format!("{sync} --key-file one"), &[], 2, "--encrypt");
    scene.told(&sync, &[("HEADSTOCK_KEY_FILE", "one")], 2, "--encrypt");
    assert!(!scene.path("fresh").exists());
    scene.store("plain", None);
    let sync = format!("sync --source {SOURCE} --store plain --encrypt");
    scene.told(&sync, &[("HEADSTOCK_KEY_FILE", "one")], 1, "is not encrypted");
}
