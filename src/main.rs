//! The `chiaro` command; `chiaro --help` tells what it does.

use std::process::ExitCode;

fn main() -> ExitCode {
    chiaro::cli::main()
}
