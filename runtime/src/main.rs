//! The `blockbox` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    blockbox::cli::main()
}
