//! Masks credentials in text that is about to be printed.

/// What stands in the place of the credentials.
const MASK: &str = "***";

/// Replaces what stands between `://` and the last `@` of every connection string in a text. A
/// password that should have been percent-encoded may hold the signs that end an authority, so only
/// what ends the whole string ends the search.
pub fn credentials(text: &str) -> String {
    let mut masked = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + "://".len());
        masked.push_str(before);
        let end = after
            .find(|c: char| c.is_whitespace() || matches!(c, '\'' | '"'))
            .unwrap_or(after.len());
        rest = match after[..end].rfind('@') {
            Some(sign) => {
                masked.push_str(MASK);
                &after[sign..]
            }
            None => after,
        };
    }
    masked.push_str(rest);
    masked
}

#[cfg(test)]
mod tests {
    use super::credentials;

    #[test]
    fn masks_user_and_password_and_nothing_else() {
        assert_eq!(
            credentials("unexpected 'mongodb://joe:s3cret@a:1,b:2/?x=1' and mongodb://a:1/db"),
            "unexpected 'mongodb://***@a:1,b:2/?x=1' and mongodb://a:1/db"
        );
        assert_eq!(credentials("mongodb+srv://j:p@ss@host"), "mongodb+srv://***@host");
        assert_eq!(credentials("'mongodb://j:p/s?w#d@host/db'"), "'mongodb://***@host/db'");
        assert_eq!(credentials("no uri, mail@host"), "no uri, mail@host");
    }
}
