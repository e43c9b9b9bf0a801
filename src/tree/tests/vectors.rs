//! The vectors of the format specification.

use serde_json::{Value, json};

use super::*;
use crate::tree::shape::{LEAF, NODE};

const VECTORS: &str =
    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/format-spec/vectors/trees.json"));

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &Value) -> Vec<u8> {
    let text = text.as_str().expect("hexadecimal digits");
    let byte = |at| u8::from_str_radix(&text[at..at + 2], 16).expect("hexadecimal digits");
    (0..text.len()).step_by(2).map(byte).collect()
}

fn number(value: &Value) -> u64 {
    value.as_u64().expect("a number")
}

fn salt(value: &Value) -> RepositorySalt {
    RepositorySalt(unhex(value).try_into().expect("32 bytes"))
}

fn key(vector: &Value) -> Value {
    let document = RawDocumentBuf::from_bytes(unhex(&vector["document"])).expect("a document");
    json!(hex(Key::of_document(&document).expect("a key").as_bytes()))
}

fn hash(vector: &Value) -> Value {
    let shape = Shape::new(salt(&vector["salt"]), Order::Keyed, Content::Documents);
    let level = number(&vector["level"]) as u8;
    json!(format!("{:016x}", shape.hash(level, &unhex(&vector["identity"]))))
}

fn cut(vector: &Value) -> Value {
    let rule = if vector["of"] == "documents" { LEAF } else { NODE };
    let hash = u64::from_str_radix(vector["hash"].as_str().expect("digits"), 16).expect("digits");
    json!(rule.cuts(number(&vector["before"]), number(&vector["after"]), || hash))
}

/// Documents `{_id: n, v: "x" times ((n x factor) mod modulus)}`, `_id` an int32 or a string.
fn tree(vector: &Value) -> Value {
    let order = if vector["order"] == "keyed" { Order::Keyed } else { Order::Positional };
    let shape = Shape::new(salt(&vector["salt"]), order, Content::Documents);
    let prefix = vector["id_prefix"]
        .as_str()
        .map(|prefix| prefix.repeat(vector["id_prefix_times"].as_u64().expect("times") as usize));
    let documents: Vec<_> = (0..number(&vector["count"]))
        .map(|n| {
            let id = match &prefix {
                Some(prefix) => Bson::String(format!("{prefix}{n:06}")),
                None => Bson::Int32(n as i32),
            };
            let size = n * number(&vector["factor"]) % number(&vector["modulus"]);
            document(id, size as usize, 'x')
        })
        .collect();
    let blocks = MemoryBlocks::new();
    let root = build(&blocks, &shape, &documents);
    check(&blocks, &shape, &root);
    json!({
        "top": root.top.map(|top| top.to_string()),
        "level": root.level,
        "documents": root.documents,
        "bytes": root.bytes,
        "blocks": blocks.size().0,
    })
}

#[test]
fn the_specification_s_vectors_hold() {
    let expected: Value = serde_json::from_str(VECTORS).expect("JSON");
    let mut actual = expected.clone();
    for (section, result) in
        [("keys", key as fn(&Value) -> Value), ("hashes", hash), ("cuts", cut), ("trees", tree)]
    {
        let vectors = actual[section].as_array_mut().expect("a section");
        assert!(!vectors.is_empty());
        for vector in vectors {
            vector["result"] = result(vector);
        }
    }
    assert_eq!(actual, expected, "{actual:#}");
}
