//! Rules of the repository that no compiler checks: sizes, plain text, nothing left behind, and
//! floors that use only the floors under them.

use std::fs;
use std::path::{Path, PathBuf};

/// Lines of the longest file we accept, tests included.
const MAX_FILE_LINES: usize = 800;

/// The floors from the ground up.
const FLOORS: [&str; 13] = [
    "block",
    "store",
    "tree",
    "oplog",
    "head",
    "source",
    "blockstore",
    "access",
    "restore",
    "inspect",
    "job",
    "daemon",
    "cli",
];

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display())) {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

fn all_sources() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    for dir in ["src", "tests", "benches"] {
        if root.join(dir).is_dir() {
            sources(&root.join(dir), &mut found);
        }
    }
    assert!(found.len() > 40, "found only {} source files", found.len());
    found
        .into_iter()
        .map(|path| {
            let text = fs::read_to_string(&path).unwrap();
            (path.strip_prefix(root).unwrap().to_owned(), text)
        })
        .collect()
}

#[test]
fn files_are_short_and_plain() {
    let mut faults = Vec::new();
    for (path, text) in all_sources() {
        let lines = text.lines().count();
        if lines > MAX_FILE_LINES {
            faults.push(format!("{}: {lines} lines", path.display()));
        }
        for (number, line) in text.lines().enumerate() {
            if !line.is_ascii() {
                faults.push(format!("{}:{}: not ASCII", path.display(), number + 1));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn nothing_is_left_for_later() {
    let words = ["TO", "FIX"].map(|start| match start {
        "TO" => format!("{start}DO"),
        _ => format!("{start}ME"),
    });
    let macros = [concat!("to", "do!("), concat!("unimple", "mented!(")];
    let mut faults = Vec::new();
    for (path, text) in all_sources() {
        for (number, line) in text.lines().enumerate() {
            let left = words.iter().any(|word| line.contains(word.as_str()))
                || macros.iter().any(|name| line.contains(name));
            if left {
                faults.push(format!("{}:{}: {line}", path.display(), number + 1));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn a_floor_uses_only_floors_under_it() {
    let mut faults = Vec::new();
    for (path, text) in all_sources() {
        let mut parts = path.components().map(|part| part.as_os_str().to_string_lossy());
        if parts.next().as_deref() != Some("src") {
            continue;
        }
        let Some(floor) = parts.next() else { continue };
        let Some(height) = FLOORS.iter().position(|name| *name == floor.as_ref()) else { continue };
        for (number, line) in text.lines().enumerate() {
            for above in &FLOORS[height + 1..] {
                if line.contains(&format!("crate::{above}::"))
                    || line.contains(&format!("crate::{above};"))
                {
                    faults.push(format!("{}:{}: {line}", path.display(), number + 1));
                }
            }
        }
    }
    assert!(faults.is_empty(), "a floor reaches up:\n{}", faults.join("\n"));
}

#[test]
fn unsafe_code_stands_in_one_file() {
    let word = concat!("un", "safe ");
    let mut holders: Vec<PathBuf> = all_sources()
        .into_iter()
        .filter(|(_, text)| {
            text.lines().any(|line| {
                let code = line.split("//").next().unwrap_or_default();
                code.contains(&format!("{word}{{")) || code.contains(&format!("{word}fn"))
            })
        })
        .map(|(path, _)| path)
        .collect();
    holders.sort();
    assert_eq!(holders, [PathBuf::from("src/store/map.rs")]);
}
