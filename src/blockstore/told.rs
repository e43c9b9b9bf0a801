//! Errors as people read them.

/// What a cause says. The driver's own text ends in a dump of the server's reply, which is left out.
pub fn cause_text(cause: &(dyn std::error::Error + 'static)) -> String {
    let boxed = cause.downcast_ref::<Box<mongodb::error::Error>>().map(AsRef::as_ref);
    match boxed.or_else(|| cause.downcast_ref()) {
        Some(driver) => driver.kind.to_string(),
        None => cause.to_string(),
    }
}

/// An error and its causes in one line.
pub fn in_one_line(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = cause_text(error);
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}
