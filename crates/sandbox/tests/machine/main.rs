//! Machines of the driver `firecracker`, over a monitor and a jailer of the tests (`firecracker.py`, `jailer.py`).
//!
//! The monitor checks each request against the published interface and runs the real guest in namespaces in the place
//! of a machine: everything of the driver and of the guest takes part but the processor's own boundary.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs, dead_code, reason = "a test")]

mod broken;
mod life;
#[path = "../launch/rig.rs"]
mod rig;
mod world;

use std::process::ExitCode;

type Test = (&'static str, fn());

fn tests() -> Vec<Test> {
    [life::TESTS, broken::TESTS].concat()
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [role, dir] = args.as_slice()
        && role == "supervise"
    {
        return cogward_sandbox::supervisor_main(std::path::Path::new(dir));
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
