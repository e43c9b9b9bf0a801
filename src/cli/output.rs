//! How figures and documents are printed.

use std::io::Write;

use serde::Serialize;

use super::Error;
use crate::job::now_ms;
use crate::store::fsck::Coverage;

/// Prints a line on standard output; a closed pipe is an error, not a panic.
pub fn line(text: &str) -> Result<(), Error> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}").map_err(|source| Error::Output { source })
}

/// Prints a value as JSON, indented, on standard output.
pub fn json<T: Serialize>(value: &T) -> Result<(), Error> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|source| Error::Output { source: source.into() })?;
    line(&text)
}

/// Bytes in binary units, three digits.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    match unit {
        0 => format!("{count} B"),
        _ if value >= 100.0 => format!("{value:.0} {}", UNITS[unit]),
        _ if value >= 10.0 => format!("{value:.1} {}", UNITS[unit]),
        _ => format!("{value:.2} {}", UNITS[unit]),
    }
}

/// Seconds in the unit that a person would say them in.
pub fn hours(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{}.{} h", seconds / 3600, seconds % 3600 / 360),
        _ => format!("{}.{} d", seconds / 86_400, seconds % 86_400 / 8640),
    }
}

/// How much of a store's segments was read whole, and how long ago the rest was.
pub fn coverage(coverage: &Coverage) -> String {
    let Coverage { oldest_check_ms, never_checked, damaged_segments } = coverage;
    let oldest = oldest_check_ms.map_or("none found sound yet".to_owned(), |at| {
        let ago_ms = now_ms().cast_unsigned().saturating_sub(at);
        format!("the oldest check is {} old", hours(ago_ms / 1000))
    });
    let damaged = match damaged_segments {
        0 => String::new(),
        some => format!("; {some} DAMAGED, see `headstock fsck`"),
    };
    format!("{oldest}, {never_checked} never checked{damaged}")
}

/// What a filtered job holds; none if it is not filtered.
pub fn filters(include: &[String], exclude: &[String]) -> Option<String> {
    let included = if include.is_empty() { "everything".to_owned() } else { include.join(", ") };
    match (include, exclude) {
        ([], []) => None,
        (_, []) => Some(included),
        _ => Some(format!("{included} without {}", exclude.join(", "))),
    }
}

/// How many times `part` fits into `whole`, one digit after the point.
pub fn ratio(whole: u64, part: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "shown with one digit")]
    let times = whole as f64 / part.max(1) as f64;
    format!("{times:.1} times")
}

/// Prints rows under headings, columns aligned; the columns from `right_from` on to the right.
pub fn table(headings: &[&str], rows: &[Vec<String>], right_from: usize) -> Result<(), Error> {
    let mut widths: Vec<usize> = headings.iter().map(|heading| heading.len()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.len());
        }
    }
    let print = |cells: &mut dyn Iterator<Item = &str>| {
        let mut text = String::new();
        for (column, (cell, width)) in cells.zip(&widths).enumerate() {
            match column < right_from {
                true => text.push_str(&format!("{cell:<width$}  ")),
                false => text.push_str(&format!("{cell:>width$}  ")),
            }
        }
        line(text.trim_end())
    };
    print(&mut headings.iter().copied())?;
    rows.iter().try_for_each(|row| print(&mut row.iter().map(String::as_str)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1536), "1.50 KiB");
        assert_eq!(bytes(120 << 20), "120 MiB");
    }
}
