//! The `cogward` binary; what it does is in the library of this crate.

use std::process::ExitCode;

fn main() -> ExitCode {
    cogward_cli::run(std::env::args_os(), cogward_sandbox::supervisor_main)
}
