//! The reader of `format-spec/reader`, run as its page says.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

/// Where the specification is.
const PAGES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/format-spec");
/// Exit code of the reader where it finds damage.
pub const DAMAGED: i32 = 3;

/// The reader, and the packages that it needs.
pub struct Reader {
    packages: PathBuf,
}

impl Reader {
    /// Installs the packages, once for each version of their list and of Python.
    pub fn set_up() -> Self {
        let list = Path::new(PAGES).join("reader/requirements.txt");
        let mut version = Command::new("python3");
        version.args(["-c", "import sys, sysconfig; print(sys.version, sysconfig.get_platform())"]);
        let mut stamp = Sha256::new_with_prefix(fs::read(&list).expect("the list of packages"));
        stamp.update(output(&mut version).stdout);
        let stamp: String =
            stamp.finalize()[..8].iter().map(|byte| format!("{byte:02x}")).collect();

        let all = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("reader-packages");
        let packages = all.join(stamp);
        fs::create_dir_all(&all).expect("create the folder of packages");
        let lock = File::create(all.join("lock")).expect("create the lock");
        lock.lock().expect("lock");
        if !packages.is_dir() {
            let scratch = TempDir::new_in(&all).expect("temporary folder");
            let ready = scratch.path().join("ready");
            let mut pip = Command::new("python3");
            pip.args([
                "-m",
                "pip",
                "install",
                "--quiet",
                "--require-hashes",
                "--only-binary",
                ":all:",
            ]);
            pip.arg("--target").arg(&ready).arg("-r").arg(&list);
            let installed = output(&mut pip);
            assert!(installed.status.success(), "pip: {}", text(&installed));
            fs::rename(&ready, &packages).expect("rename");
        }
        Self { packages }
    }

    /// Runs a module of the reader.
    pub fn module<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Output {
        let mut python = Command::new("python3");
        python.current_dir(PAGES).env("PYTHONPATH", &self.packages);
        output(python.env("PYTHONDONTWRITEBYTECODE", "1").arg("-m").args(arguments))
    }

    pub fn on_store(&self, store: &Path, arguments: &[&str]) -> Output {
        let command = ["reader", "--store", store.to_str().expect("text")];
        let output = self.module(&[&command, arguments].concat());
        assert!(!text(&output).contains("Traceback"), "{arguments:?}: {}", text(&output));
        output
    }

    /// What a command prints that has to find nothing wrong.
    pub fn succeeds(&self, store: &Path, arguments: &[&str]) -> Vec<u8> {
        let output = self.on_store(store, arguments);
        assert!(output.status.success(), "{arguments:?}: {}", text(&output));
        assert!(output.stderr.is_empty(), "{arguments:?}: {}", text(&output));
        output.stdout
    }

    /// A command that has to name `place`, a file and perhaps an offset.
    pub fn finds(&self, store: &Path, arguments: &[&str], place: &str) {
        let output = self.on_store(store, arguments);
        assert_eq!(output.status.code(), Some(DAMAGED), "{arguments:?}: {}", text(&output));
        assert!(text(&output).contains(place), "{arguments:?}, not {place}: {}", text(&output));
    }
}

fn output(command: &mut Command) -> Output {
    command.output().expect("python3 starts")
}

/// All that a command printed.
pub fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}
