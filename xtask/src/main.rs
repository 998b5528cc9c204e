//! Checks of the workspace itself, each in a second: who may use whom, how the tree is kept, and what
//! may be depended on. Run them with `cargo xtask NAME`; `make lint` runs them all.

mod attacks;
mod layers;
mod licences;
mod limits;
mod metadata;
mod tidy;

use std::process::ExitCode;

const HELP: &str = "\
cargo xtask layers     each crate uses only what its layer may
cargo xtask tidy       names, sizes, module docs, leftovers, in the tracked files
cargo xtask licences   licences, sources and bans of all dependencies, as deny.toml says
cargo xtask limits     docs/limits.md has every bound as the code has it; `--write` writes it
cargo xtask attacks    docs/attacks.md names a test for each attack, and each is there
cargo xtask check      all of these";

/// A check gives a line for each thing to mend.
type Check = fn() -> anyhow::Result<Vec<String>>;

fn main() -> ExitCode {
    let asked: Vec<String> = std::env::args().skip(1).collect();
    let checks: &[(&str, Check)] = &[
        ("layers", layers::check),
        ("tidy", tidy::check),
        ("licences", licences::check),
        ("limits", limits::check),
        ("attacks", attacks::check),
    ];
    if let [name, flag] = asked.as_slice()
        && name == "limits"
        && flag == "--write"
    {
        return match limits::write() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("limits: cannot be written: {error:#}");
                ExitCode::FAILURE
            }
        };
    }
    let chosen: Vec<_> = match asked.as_slice() {
        [one] if one == "check" => checks.iter().collect(),
        [one] => checks.iter().filter(|(name, _)| name == one).collect(),
        _ => Vec::new(),
    };
    if chosen.is_empty() {
        eprintln!("{HELP}");
        return ExitCode::from(2);
    }
    let mut failed = false;
    for (name, check) in chosen {
        match check() {
            Ok(found) if found.is_empty() => println!("{name}: fine"),
            Ok(found) => {
                failed = true;
                for line in &found {
                    eprintln!("{name}: {line}");
                }
                eprintln!("{name}: {} to mend", found.len());
            }
            Err(error) => {
                failed = true;
                eprintln!("{name}: cannot be checked: {error:#}");
            }
        }
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
