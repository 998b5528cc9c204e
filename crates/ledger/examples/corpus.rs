//! `cargo run -p cogward-ledger --example corpus DIR`: good and damaged logs, for a verifier of your own.
//!
//! Below `DIR` each log has a directory, and each archive one below `DIR/archives`; `DIR/verdicts.jsonl` says of each what
//! it is verified with and the verdict.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::print_stderr, reason = "a program for tests")]

#[path = "../tests/support/corpus.rs"]
#[expect(dead_code, reason = "the tests use the rest")]
mod corpus;

use std::{fs, path::PathBuf, process::ExitCode};

fn main() -> ExitCode {
    let Some(dir) = std::env::args_os().nth(1).map(PathBuf::from) else {
        eprintln!("corpus: which directory?");
        return ExitCode::from(2);
    };
    let mut lines = String::new();
    for case in corpus::cases() {
        corpus::write(&case.files, &dir.join(&case.name));
        let (verdict, leaf) = case.verdict;
        let line = serde_json::json!({
            "log": case.name, "key": case.key, "against": case.against, "verdict": verdict, "leaf_or_leaves": leaf,
        });
        lines.push_str(&format!("{line}\n"));
    }
    for case in corpus::archives::cases() {
        let name = format!("archives/{}", case.name);
        fs::create_dir_all(dir.join(&name)).unwrap();
        corpus::write(&case.objects, &dir.join(&name));
        let (verdict, leaf) = case.verdict;
        let line = serde_json::json!({
            "archive": name, "key": case.key, "against": case.against, "verdict": verdict, "leaf_or_leaves": leaf,
        });
        lines.push_str(&format!("{line}\n"));
    }
    fs::write(dir.join("verdicts.jsonl"), lines).unwrap();
    ExitCode::SUCCESS
}
