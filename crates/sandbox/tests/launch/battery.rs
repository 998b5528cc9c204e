//! The battery as a product: nothing gets through where all controls hold, and what is left out is found.

use cogward_model::manifest::Profile;
use cogward_sandbox::SandboxConfig;
use cogward_sandbox::battery::{Program, Report, Verdict, verify};

use crate::rig::{exe, run};

pub const TESTS: &[crate::Test] = &[
    ("the_battery_finds_nothing_in_standard", standard),
    ("the_battery_finds_nothing_in_hardened", hardened),
    ("the_battery_finds_a_filter_that_is_left_out", without_seccomp),
    ("the_battery_finds_landlock_left_out", without_landlock),
    ("the_battery_finds_memory_protection_left_out", without_memory_protection),
    ("the_attacker_does_nothing_outside_of_a_sandbox", outside),
];

/// A directory whose name may say that a control is to be left out: see `main`.
async fn report(profile: Profile, marker: &str) -> Report {
    let data = tempfile::Builder::new().prefix(marker).tempdir().unwrap();
    verify(&exe(), profile, &SandboxConfig::default(), data.path()).await.unwrap()
}

fn whole(profile: Profile) {
    run(async move {
        let report = report(profile, "whole-").await;
        let failures: Vec<_> = report.failures().collect();
        assert!(report.holds(), "{failures:#?}");
        for program in Program::ALL {
            assert!(report.attempts.iter().any(|a| a.program == program && a.verdict == Verdict::Refused));
        }
        let refused = report.count(Verdict::Refused);
        println!("{}: {} attacks, {refused} attempts refused", profile.as_str(), report.attacks);
        let skipped: Vec<_> =
            report.attempts.iter().filter(|a| a.verdict == Verdict::Skipped).map(|a| (&a.id, &a.answer)).collect();
        println!("  skipped {skipped:?}, {} reported", report.reported);
        assert!(report.attacks >= 500 && refused > 1_200 && skipped.len() < 10 && report.reported > 100);
    });
}

fn standard() {
    whole(Profile::Standard);
}

fn hardened() {
    whole(Profile::Hardened);
}

/// Every one of `ids` must be found, by every program that tries it.
fn found(report: &Report, ids: &[&str]) {
    assert!(!report.holds() && report.failures().count() >= 10);
    for id in ids {
        let mut tried = report.attempts.iter().filter(|a| a.id == *id).peekable();
        assert!(tried.peek().is_some(), "{id}");
        tried.for_each(|a| assert!(a.verdict.failed(), "{a:?}"));
    }
    println!("{} attempts found it", report.failures().count());
}

fn without_seccomp() {
    run(async {
        for profile in [Profile::Standard, Profile::Hardened] {
            let report = report(profile, "left-out-seccomp-").await;
            let ids = ["kernel.io-uring-setup", "namespace.unshare-user", "kernel.memfd-executable", "socket.mptcp"];
            found(&report, &ids);
            assert!(report.count(Verdict::Allowed) > 5 && report.reported == 0);
        }
    });
}

fn without_landlock() {
    run(async {
        let report = report(Profile::Standard, "left-out-landlock-").await;
        found(&report, &["network.bind", "network.tcp-local-ssh", "read.run-landlock-probe"]);
    });
}

fn without_memory_protection() {
    run(async {
        let report = report(Profile::Hardened, "left-out-memory-").await;
        let ids = ["memory.writable-and-executable", "memory.execute-after-writing", "memory.execute-moved"];
        found(&report, &ids);
        assert!(report.failures().all(|a| a.id.starts_with("memory.")), "nothing else is missing");
    });
}

fn outside() {
    let done = std::process::Command::new(exe()).args(["supervise", "--attack"]).output().unwrap();
    assert!(!done.status.success() && done.stdout.is_empty());
    assert!(String::from_utf8_lossy(&done.stderr).contains("only for the inside of a sandbox"));
}
