//! What the `cogward` binary does: operator commands over the public API, and the roles `serve` and `supervise`.
//!
//! The commands use nothing but the documented REST API (docs/cli.md); what they can do, anyone can. It is a library so
//! that a test can be the same program with another supervisor, one that leaves a control out.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::panic))]

mod args;
mod client;
mod commands;
mod exit;
mod output;
mod role;
mod settings;
mod show;
mod stream;

use std::{ffi::OsString, io::Write, path::Path, process::ExitCode};

use clap::Parser;

use crate::exit::Exit;

/// The program. `arguments` begin with its own name; `supervisor` is what it is in the role `supervise`.
///
/// Must be called before the process has a second thread.
pub fn run(arguments: impl Iterator<Item = OsString>, supervisor: fn(&Path) -> ExitCode) -> ExitCode {
    let arguments: Vec<OsString> = arguments.collect();
    // A supervisor makes namespaces and forks: it must be what it is before any thread exists.
    if let Some(code) = role::supervise(arguments.iter().skip(1).cloned(), supervisor) {
        return code;
    }
    let cli = match args::Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            let _unread = error.print();
            return if error.use_stderr() { Exit::Usage.into() } else { Exit::Done.into() };
        }
    };
    let (mut out, mut err) = (std::io::stdout(), std::io::stderr());
    let mut session = commands::Session {
        output: output::Output {
            format: cli.global.output,
            color: output::color_on(cli.global.color, &settings::process_variables),
            out: &mut out,
            err: &mut err,
        },
        plane: cli.global.plane,
        variables: &settings::process_variables,
    };
    match commands::run(cli.command, &mut session) {
        Ok(exit) => exit.into(),
        Err(failure) => {
            let _unread = std::io::stderr().write_all(failure.report().as_bytes());
            failure.exit.into()
        }
    }
}
