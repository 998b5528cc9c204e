//! `cogward verify sandbox` where a control is missing: it must find the attack, name it, and exit 9.
//!
//! The product has no way to leave a control out. This executable is the same command line as the product's, with
//! another supervisor in the role `supervise`: one that leaves out what the name of its directory says.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "a test")]

use std::{
    path::Path,
    process::{Command, ExitCode, Output},
};

use cogward_sandbox::{profile::LeftOut, supervisor_main, supervisor_main_without};
use serde_json::Value;

const TESTS: &[(&str, fn())] = &[
    ("a_control_that_is_missing_is_found_named_and_exits_9", found),
    ("every_form_of_the_report_names_the_attack", forms),
    ("with_all_controls_the_same_command_exits_0", whole),
];

fn supervisor(run_dir: &Path) -> ExitCode {
    match run_dir.to_string_lossy() {
        dir if dir.contains("left-out-seccomp") => supervisor_main_without(run_dir, LeftOut::Seccomp),
        dir if dir.contains("left-out-landlock") => supervisor_main_without(run_dir, LeftOut::Landlock),
        dir if dir.contains("left-out-memory") => supervisor_main_without(run_dir, LeftOut::Memory),
        _ => supervisor_main(run_dir),
    }
}

/// The command, whose sandboxes are in a directory of that name.
fn verify(name: &str, arguments: &str) -> Output {
    let directory = tempfile::Builder::new().prefix(name).tempdir().unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["verify", "sandbox"]).args(arguments.split(' ')).env_clear();
    command.env("TMPDIR", directory.path()).env("HOME", directory.path()).output().unwrap()
}

fn found() {
    for (name, arguments, attack) in [
        ("left-out-seccomp", "--profile standard", "kernel.io-uring-setup from static"),
        ("left-out-landlock", "--profile standard", "network.tcp-local-ssh from python"),
        ("left-out-memory", "--profile hardened", "memory.execute-after-writing from static"),
    ] {
        let done = verify(name, arguments);
        let text = String::from_utf8_lossy(&done.stdout);
        assert_eq!(done.status.code(), Some(9), "{name}: {text}{}", String::from_utf8_lossy(&done.stderr));
        assert!(text.contains(attack) && text.contains("The sandbox does not hold."), "{name}: {text}");
    }
}

fn forms() {
    let json = verify("left-out-memory", "--profile hardened --format json");
    let report: Value = serde_json::from_slice(&json.stdout).unwrap();
    let failed: Vec<&Value> =
        report["attempts"].as_array().unwrap().iter().filter(|a| a["verdict"] == "allowed").collect();
    assert!(failed.iter().any(|a| a["id"] == "memory.writable-and-executable" && a["program"] == "static"));

    let sarif = verify("left-out-memory", "--profile hardened --format sarif");
    let log: Value = serde_json::from_slice(&sarif.stdout).unwrap();
    let run = &log["runs"][0];
    let named: Vec<&str> = run["results"].as_array().unwrap().iter().filter_map(|r| r["ruleId"].as_str()).collect();
    assert!(named.contains(&"memory.writable-and-executable") && named.iter().all(|id| id.starts_with("memory.")));
    assert!(
        run["tool"]["driver"]["rules"].as_array().unwrap().len() > 500 && run["properties"]["profile"] == "hardened"
    );

    let junit = verify("left-out-memory", "--profile hardened --format junit");
    let text = String::from_utf8_lossy(&junit.stdout);
    assert!(text.contains("name=\"memory.writable-and-executable: ") && text.contains("<failure message=\"ALLOWED"));
    for done in [json, sarif, junit] {
        assert_eq!(done.status.code(), Some(9));
    }
}

fn whole() {
    let done = verify("whole", "--profile hardened --format sarif");
    let log: Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!((done.status.code(), &log["runs"][0]["results"]), (Some(0), &serde_json::json!([])), "{log}");
}

/// As much of the protocol of tests as `cargo test` and `cargo nextest` use.
fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|first| first == "supervise" || first == "verify") {
        return cogward_cli::run(std::env::args_os(), supervisor);
    }
    if arguments.iter().any(|a| a == "--list") {
        if !arguments.iter().any(|a| a == "--ignored") {
            TESTS.iter().for_each(|(name, _)| println!("{name}: test"));
        }
        return ExitCode::SUCCESS;
    }
    let filters: Vec<&String> = arguments.iter().filter(|a| !a.starts_with('-')).collect();
    let mut failed = false;
    for (name, test) in TESTS.iter().filter(|(name, _)| filters.is_empty() || filters.iter().any(|f| name.contains(*f)))
    {
        let passed = std::panic::catch_unwind(test).is_ok();
        println!("test {name} ... {}", if passed { "ok" } else { "FAILED" });
        failed |= !passed;
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
