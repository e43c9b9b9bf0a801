//! The short and the long form of seeded tests.

use std::ops::Range;

/// Whether the long form was asked for.
pub fn is_long() -> bool {
    std::env::var_os("HEADSTOCK_LONG").is_some()
}

/// The seed that was asked for, or those of the form.
pub fn seeds(short: u64, long: Range<u64>) -> Vec<u64> {
    match std::env::var("HEADSTOCK_SEED") {
        Ok(seed) => vec![seed.parse().expect("HEADSTOCK_SEED is a number")],
        Err(_) if is_long() => long.collect(),
        Err(_) => vec![short],
    }
}
