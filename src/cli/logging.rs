//! Where log lines go: standard error, filtered by `--log`.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// Starts logging. Without a filter a daemon says what it does, any other command only warns.
pub fn start(filter: Option<&str>, long_running: bool) {
    let default = if long_running { "headstock=info,warn" } else { "warn" };
    let filter = EnvFilter::builder().parse_lossy(filter.unwrap_or(default));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .init();
}
