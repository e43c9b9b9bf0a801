//! Options that a server can set on a collection that is there.
//!
//! All others are given to a collection when it is made. A server writes the level and action of validation
//! that hold by default once any rule was set, and keeps them when the rule goes; they mean the same
//! as none, and count so here.

use bson::raw::{CStr, RawBson, RawBsonRef, cstr};
use bson::{RawDocument, RawDocumentBuf, rawdoc};

use crate::head::Collection;
use crate::head::content_root;
use crate::restore::items::without;
use crate::restore::{Error, Pair};

/// After how many seconds documents are deleted; never unless it is set.
const AGE: &CStr = cstr!("expireAfterSeconds");
/// Names of the options.
const SETTABLE: [&CStr; 5] = [
    cstr!("validator"),
    cstr!("validationLevel"),
    cstr!("validationAction"),
    cstr!("changeStreamPreAndPostImages"),
    AGE,
];

/// What an option is where it is not given.
fn default(name: &CStr) -> RawBson {
    match name.as_str() {
        "validator" => RawDocumentBuf::new().into(),
        "validationLevel" => "strict".into(),
        "validationAction" => "error".into(),
        "changeStreamPreAndPostImages" => rawdoc! { "enabled": false }.into(),
        _ => "off".into(),
    }
}

/// Whether options differ that cannot be set.
pub(super) fn others_differ(pair: &Pair<'_>) -> Result<bool, Error> {
    let (Some(before), Some(after)) = (pair.before, pair.after) else { return Ok(false) };
    let bare = |of: &Collection| {
        let options = without(&of.ns, &of.options, &SETTABLE.map(CStr::as_str))?;
        let (ns, indexes) = (String::new(), Vec::new());
        Ok::<_, Error>(Collection { ns, options, indexes, ..of.clone() })
    };
    Ok(content_root::compare(&bare(before)?, &bare(after)?)?.options)
}

/// Options that differ, as `collMod` takes them.
#[derive(Debug, Default)]
pub(super) struct Settings {
    /// What is set before documents are written: that nothing is deleted by age.
    pub first: RawDocumentBuf,
    /// What is set after that.
    pub last: RawDocumentBuf,
}

impl Settings {
    /// What must be set to get from the first of a pair to the second.
    pub fn find(pair: &Pair<'_>) -> Result<Self, Error> {
        let mut found = Self::default();
        let (Some(before), Some(after)) = (pair.before, pair.after) else { return Ok(found) };
        for name in SETTABLE {
            let (now, then) = (value(&before.options, name), value(&after.options, name));
            if is_same(now.as_raw_bson_ref(), then.as_raw_bson_ref()) {
                continue;
            }
            found.last.append(name, &then);
            if name == AGE && now != default(AGE) {
                found.first.append(name, default(AGE));
            }
        }
        Ok(found)
    }

    pub fn is_empty(&self) -> bool {
        self.last.is_empty()
    }

    /// Names of the options that are set.
    pub fn names(&self) -> Vec<String> {
        self.last.iter().flatten().map(|(name, _)| name.to_string()).collect()
    }
}

fn value(options: &RawDocument, name: &CStr) -> RawBson {
    match options.get(name) {
        Ok(Some(value)) => value.into(),
        _ => default(name),
    }
}

/// Whether values are the same; servers list a number in another type than they were given.
fn is_same(a: RawBsonRef<'_>, b: RawBsonRef<'_>) -> bool {
    let number = |value: RawBsonRef<'_>| match value {
        RawBsonRef::Int32(number) => Some(f64::from(number)),
        RawBsonRef::Int64(number) => Some(number as f64),
        RawBsonRef::Double(number) => Some(number),
        _ => None,
    };
    a == b || number(a).is_some_and(|a| number(b) == Some(a))
}
