//! The living ledger when the process dies, or the disk fails, at any system call of a record or a checkpoint.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, clippy::print_stdout, reason = "tests")]

mod support;

use std::{
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use cogward_evidence::RecordError;
use support::{event, new_run, open, tenant, verified};

const CHILD_DIR: &str = "COGWARD_TEST_CHILD_DIR";

/// Not a test by itself: records for two tenants, has their logs signed, and says what it was told.
#[tokio::test]
#[ignore = "run as a child by the tests that kill it"]
async fn child_records_and_signs() {
    let Some(dir) = std::env::var_os(CHILD_DIR).map(PathBuf::from) else { return };
    let (evidence, run) = (open(&dir), new_run());
    for n in 0..14_u64 {
        match evidence.record(event("acme", Some(run))).await {
            Ok(leaf) => println!("ack {}", leaf.seq),
            Err(error) => return failed(&evidence, &error).await,
        }
        if n % 4 == 3 {
            match evidence.checkpoint(&tenant("acme")).await {
                Ok(signed) => println!("signed {}", signed.size),
                // A full disk keeps the older checkpoint and nothing is lost.
                Err(RecordError::NoSpace) => println!("later"),
                Err(error) => return failed(&evidence, &error).await,
            }
        }
    }
    println!("done");
}

async fn failed(evidence: &cogward_evidence::Evidence, error: &RecordError) {
    assert!(matches!(error, RecordError::Failed(_)), "{error}");
    assert!(matches!(evidence.record(event("acme", None)).await, Err(RecordError::Failed(_))));
    assert!(evidence.note(event("acme", None)).is_err());
    println!("stopped");
}

fn traced(dir: &Path, inject: &str) -> Output {
    let call = inject.split(':').next().unwrap();
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={call}"), "-e", &format!("inject={inject}")]);
    command.arg(std::env::current_exe().unwrap());
    command.args(["--exact", "child_records_and_signs", "--nocapture", "--include-ignored", "--test-threads", "1"]);
    command.env(CHILD_DIR, dir).output().expect("strace(1): scripts/setup-tests.sh names it")
}

fn told(text: &str, word: &str) -> Vec<u64> {
    let numbers = text.lines().filter_map(|line| line.split_once(word)?.1.trim().parse().ok());
    numbers.collect()
}

/// Each fault at its first, second, … call, until a run is not reached by it any more.
async fn each(call: &str, fault: &str, at_least: usize) {
    let mut hit = 0;
    for n in 1..200 {
        let dir = tempfile::tempdir().unwrap();
        let what = format!("{call}:{fault}:when={n}");
        let output = traced(dir.path(), &what);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        if fault.starts_with("signal") {
            assert!(text.contains("done") || output.status.signal() == Some(9), "{what}: {text}{errors}");
        }
        let (acknowledged, signed) = (told(&text, "ack "), told(&text, "signed "));
        // A kill within the making of the keys or of the first segment leaves a ledger that opens, too.
        let evidence = open(dir.path());
        let log = verified(&evidence, "acme").await;
        assert!(log.leaves >= acknowledged.last().map_or(0, |seq| seq + 1), "{what}: {text} but {} leaves", log.leaves);
        assert!(log.leaves >= signed.last().copied().unwrap_or_default(), "{what}: {text}");
        assert_eq!(acknowledged, (0..acknowledged.len() as u64).collect::<Vec<_>>(), "{what}");
        let next = evidence.record(event("acme", None)).await.unwrap();
        assert_eq!(next.seq, log.leaves, "{what}");
        drop(evidence);
        assert_eq!(verified(&open(dir.path()), "acme").await.leaves, log.leaves + 1, "{what}");
        if text.contains("done") && n > at_least {
            assert!(hit >= at_least, "{call} was hit {hit} times");
            return;
        }
        hit += usize::from(!text.contains("done"));
    }
    panic!("{call} never ends");
}

#[tokio::test]
async fn nothing_told_or_signed_is_lost_by_a_kill_at_a_write_or_flush_of_the_log() {
    each("pwrite64", "signal=KILL", 10).await;
    each("fdatasync", "signal=KILL", 10).await;
}

#[tokio::test]
async fn nothing_told_or_signed_is_lost_by_a_kill_while_a_checkpoint_or_a_key_is_put_into_place() {
    each("fsync", "signal=KILL", 5).await;
    each("rename", "signal=KILL", 3).await;
    each("openat", "signal=KILL", 5).await;
}

#[tokio::test]
async fn a_failing_flush_stops_the_ledger_and_nothing_told_is_lost() {
    each("fdatasync", "error=EIO", 5).await;
    each("pwrite64", "error=EIO", 5).await;
}
