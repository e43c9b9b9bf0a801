//! The `headstock` program: parses arguments and turns outcomes into exit codes.

fn main() -> std::process::ExitCode {
    headstock::cli::main()
}
