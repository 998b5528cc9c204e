//! The battery as a product: nothing gets through where all controls hold, and what is left out is found.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, chown},
    path::Path,
    process::Command,
    time::Duration,
};

use cogward_model::manifest::Profile;
use cogward_sandbox::SandboxConfig;
use cogward_sandbox::battery::{Program, Report, Verdict, verify};

use crate::{
    host,
    rig::{exe, run, run_within},
};

pub const TESTS: &[crate::Test] = &[
    ("the_battery_finds_nothing_in_standard", standard),
    ("the_battery_finds_nothing_in_hardened", hardened),
    ("the_battery_finds_nothing_without_root", rootless),
    ("the_battery_finds_nothing_in_a_container", container),
    ("the_battery_finds_nothing_behind_gvisor", gvisor),
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
        assert_eq!(report.package, "erofs");
        assert!(report.attempts.iter().filter(|a| a.id.starts_with("package.")).count() >= 9);
        assert!(report.attacks >= 500 && refused > 1_200 && skipped.len() < 10 && report.reported > 100);
    });
}

fn standard() {
    whole(Profile::Standard);
}

fn hardened() {
    whole(Profile::Hardened);
}

/// Both native profiles, attacked where the plane is an ordinary user with control groups of its own.
fn rootless() {
    // Version 2 with its controllers would need more than `delegate` does.
    if !Path::new("/sys/fs/cgroup/memory").is_dir() || !Path::new("/sys/fs/cgroup/unified").is_dir() {
        println!("skipped: not a host with both versions of control groups");
        return;
    }
    let groups = host::delegate(&format!("battery-{}", std::process::id()));
    let enter: String =
        groups.iter().map(|g| format!("echo $$ > '{}' && ", g.join("cgroup.procs").display())).collect();
    let data = tempfile::tempdir().unwrap();
    let (program, own) = (data.path().join("program"), data.path().join("own"));
    fs::copy(exe(), &program).unwrap();
    fs::create_dir(&own).unwrap();
    fs::set_permissions(data.path(), fs::Permissions::from_mode(0o755)).unwrap();
    chown(&own, Some(host::NOBODY), Some(host::NOBODY)).unwrap();
    let uid = host::NOBODY;
    let done = Command::new("/bin/sh")
        .arg("-c")
        .arg(format!("{enter} exec setpriv --reuid {uid} --regid {uid} --clear-groups \"$0\" battery \"$1\""))
        .arg(&program)
        .arg(&own)
        .output()
        .unwrap();
    for group in groups {
        fs::remove_dir(group).unwrap();
    }
    let said = String::from_utf8_lossy(&done.stdout);
    let reports: Vec<Report> = said.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(reports.len(), 2, "{said} {}", String::from_utf8_lossy(&done.stderr));
    for report in reports {
        assert!(report.holds(), "{:#?}", report.failures().collect::<Vec<_>>());
        assert!(report.attacks >= 500, "{}", report.attacks);
    }
}

/// The role of [`rootless`]: a report as a line for each profile.
pub fn print(directory: &Path) {
    run_within(Duration::from_secs(150), async move {
        for profile in [Profile::Standard, Profile::Hardened] {
            let own = directory.join(profile.as_str());
            fs::create_dir(&own).unwrap();
            fs::set_permissions(&own, fs::Permissions::from_mode(0o700)).unwrap();
            let report = verify(&exe(), profile, &SandboxConfig::default(), &own).await.unwrap();
            println!("{}", serde_json::to_string(&report).unwrap());
        }
    });
}

/// A profile that a runtime of the host carries.
fn carried(profile: Profile, config: &'static str, least: usize) {
    run_within(Duration::from_secs(170), async move {
        let config: SandboxConfig = serde_json::from_str(config).unwrap();
        let data = tempfile::Builder::new().prefix("carried-").tempdir().unwrap();
        let report = verify(&exe(), profile, &config, data.path()).await.unwrap();
        assert!(report.holds(), "{:#?}", report.failures().collect::<Vec<_>>());
        let refused = report.count(Verdict::Refused);
        println!("{}: {} attacks, {refused} attempts refused", profile.as_str(), report.attacks);
        assert!(refused >= least, "{refused}");
    });
}

fn container() {
    carried(Profile::Container, r#"{"container": {"runtime": "/usr/sbin/runc"}}"#, 1_200);
    carried(Profile::Container, r#"{"container": {"runtime": "/usr/bin/crun"}}"#, 1_200);
}

fn gvisor() {
    carried(Profile::Gvisor, r#"{"gvisor": {"runtime": "/usr/bin/runsc"}}"#, 700);
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
