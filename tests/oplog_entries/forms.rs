//! What of the oplog's language an entry uses, in names that cases can claim.
//!
//! The kinds are named as slice headers name them (`i`, `u.v2`, `c.create`); further names say which
//! parts of a kind there are: `v2.array`, `create.collation`, `txn.prepare`, `entry.fromMigrate`.

use std::collections::BTreeSet;

use bson::RawDocument;
use bson::raw::RawBsonRef;

/// Names of forms.
pub type Forms = BTreeSet<String>;

/// The forms of an entry, those inside an applyOps included.
pub fn forms(entry: &RawDocument) -> Forms {
    let mut forms = Forms::new();
    add(entry, &mut forms);
    forms
}

fn fields(document: &RawDocument) -> impl Iterator<Item = (&str, RawBsonRef<'_>)> {
    document.iter().map(|field| field.expect("valid")).map(|(name, value)| (name.as_str(), value))
}

fn has(document: &RawDocument, name: &str) -> bool {
    document.get(name).expect("valid").is_some()
}

fn add(entry: &RawDocument, forms: &mut Forms) {
    for name in ["fromMigrate", "needsRetryImage", "preImageOpTime", "postImageOpTime", "stmtId"] {
        if has(entry, name) {
            forms.insert(format!("entry.{name}"));
        }
    }
    for name in ["multiOpType", "rid", "versionContext", "checkExistenceForDiffInsert", "m"] {
        if has(entry, name) {
            forms.insert(format!("entry.{name}"));
        }
    }
    if has(entry, "b") {
        forms.insert("entry.upsert".to_owned());
    }
    let o = entry.get_document("o").expect("o");
    match entry.get_str("op").expect("op") {
        "u" => add_update(o, forms),
        "c" => add_command(entry, o, forms),
        op => {
            forms.insert(op.to_owned());
        }
    }
}

fn add_update(o: &RawDocument, forms: &mut Forms) {
    if has(o, "_id") {
        forms.insert("u.replace".to_owned());
    } else if let Ok(diff) = o.get_document("diff") {
        forms.insert("u.v2".to_owned());
        add_diff(diff, forms);
    } else {
        forms.insert("u.v1".to_owned());
        let modifiers = fields(o).filter(|(name, _)| name.starts_with('$') && *name != "$v");
        forms.extend(modifiers.map(|(name, _)| format!("v1.{name}")));
    }
}

/// The sections of a document diff or of an array diff.
fn add_diff(diff: &RawDocument, forms: &mut Forms) {
    let is_array = fields(diff).next().is_some_and(|(name, _)| name == "a");
    let kind = if is_array { "v2.array" } else { "v2" };
    for (name, value) in fields(diff) {
        let section = if name.starts_with('s') { "s" } else { &name[..1] };
        forms.insert(format!("{kind}.{section}"));
        if section == "s" {
            add_diff(value.as_document().expect("a sub-diff"), forms);
        }
    }
}

fn add_command(entry: &RawDocument, o: &RawDocument, forms: &mut Forms) {
    let (command, first) = fields(o).next().expect("a command");
    forms.insert(format!("c.{command}"));
    match command {
        "applyOps" => add_apply_ops(entry, o, first, forms),
        "abortTransaction" if !is_chained(entry) => {
            forms.insert("txn.abort.unprepared".to_owned());
        }
        "create" | "collMod" => {
            for (name, value) in fields(o).skip(1) {
                forms.insert(format!("{command}.{name}"));
                if let ("index" | "timeseries", Some(parts)) = (name, value.as_document()) {
                    forms.extend(fields(parts).map(|(part, _)| format!("{command}.{name}.{part}")));
                }
            }
        }
        "createIndexes" => forms.extend(fields(o).map(|(name, _)| format!("index.{name}"))),
        "commitIndexBuild" => {
            for spec in o.get_array("indexes").expect("specs") {
                let spec = spec.expect("valid").as_document().expect("a spec");
                forms.extend(fields(spec).map(|(name, _)| format!("index.{name}")));
            }
        }
        "renameCollection" if o.get_binary("dropTarget").is_ok() => {
            forms.insert("rename.dropTarget".to_owned());
        }
        _ => {}
    }
}

fn add_apply_ops(
    entry: &RawDocument,
    o: &RawDocument,
    operations: RawBsonRef<'_>,
    forms: &mut Forms,
) {
    let operations = operations.as_array().expect("operations");
    let mut number = 0;
    for operation in operations {
        let operation = operation.expect("valid");
        add(operation.as_document().expect("an operation"), forms);
        number += 1;
    }
    let role = match entry.get_i32("multiOpType") {
        Ok(_) => "vectored.retryable",
        Err(_) if has(o, "partialTxn") => "txn.partial",
        Err(_) if has(o, "prepare") && number == 0 => "txn.prepare.empty",
        Err(_) if has(o, "prepare") => "txn.prepare",
        Err(_) if is_chained(entry) => "txn.chain",
        Err(_) if has(entry, "txnNumber") => "txn.single",
        Err(_) => "applyOps.plain",
    };
    forms.insert(role.to_owned());
}

/// Whether the entry names an entry before it.
fn is_chained(entry: &RawDocument) -> bool {
    let prev = entry.get_document("prevOpTime").and_then(|prev| prev.get_timestamp("ts"));
    prev.is_ok_and(|ts| ts.time > 0)
}
