//! Real sandboxes, attacked from inside and ended from outside.
//!
//! The executable is its own supervisor: `supervise <run_dir>` is the role, as in the product. A small harness of
//! its own is needed for that; it speaks as much of the test protocol as `cargo test` and `cargo nextest` use.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "a test")]

mod attacks;
mod attest;
mod battery;
mod faults;
mod files;
mod hardened;
mod host;
mod image;
mod late;
mod lifecycle;
mod limits;
mod neighbours;
mod outside;
mod rig;
mod timing;
#[expect(dead_code, reason = "only its image of a root is used here")]
#[path = "../machine/world.rs"]
mod world;

use std::process::ExitCode;

use cogward_sandbox::{profile::LeftOut, supervisor_main_without};

type Test = (&'static str, fn());

fn tests() -> Vec<Test> {
    [
        attacks::TESTS,
        attest::TESTS,
        battery::TESTS,
        files::TESTS,
        hardened::TESTS,
        host::TESTS,
        image::TESTS,
        late::TESTS,
        lifecycle::TESTS,
        limits::TESTS,
        timing::TESTS,
    ]
    .concat()
    .into_iter()
    .chain([faults::TESTS, neighbours::TESTS, outside::TESTS].concat())
    .collect()
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [role, dir] = args.as_slice()
        && role == "supervise"
    {
        if dir == cogward_sandbox::doctor::PROBE_ROLE
            && let Some(mechanism) =
                std::env::args().next().and_then(|me| Some(me.split_once("hangs-at-")?.1.to_owned()))
        {
            return cogward_sandbox::doctor::probe_main_that_hangs(&mechanism);
        }
        let run_dir = std::path::Path::new(dir);
        return match () {
            () if dir.contains("left-out-seccomp-") => supervisor_main_without(run_dir, LeftOut::Seccomp),
            () if dir.contains("left-out-memory-") => supervisor_main_without(run_dir, LeftOut::Memory),
            () if dir.contains("left-out-landlock-") => supervisor_main_without(run_dir, LeftOut::Landlock),
            () => cogward_sandbox::supervisor_main(run_dir),
        };
    }
    if let [role, spec] = args.as_slice()
        && role == "plane"
    {
        rig::plane(std::path::Path::new(spec));
        return ExitCode::SUCCESS;
    }
    if let [role, directory] = args.as_slice()
        && role == "battery"
    {
        battery::print(std::path::Path::new(directory));
        return ExitCode::SUCCESS;
    }
    if args.iter().any(|a| a == "--list") {
        if !args.iter().any(|a| a == "--ignored") {
            tests().iter().for_each(|(name, _)| println!("{name}: test"));
        }
        return ExitCode::SUCCESS;
    }
    let exact = args.iter().any(|a| a == "--exact");
    let filters: Vec<&String> = args.iter().filter(|a| !a.starts_with('-')).collect();
    let wanted = |name: &str| {
        filters.is_empty() || filters.iter().any(|f| if exact { name == f.as_str() } else { name.contains(f.as_str()) })
    };
    let mut failed = 0;
    for (name, test) in tests().into_iter().filter(|(name, _)| wanted(name)) {
        let passed = std::panic::catch_unwind(test).is_ok();
        println!("test {name} ... {}", if passed { "ok" } else { "FAILED" });
        failed += u32::from(!passed);
    }
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
