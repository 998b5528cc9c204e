//! What the tests of the living ledger share.

#![allow(dead_code, reason = "each test file uses its part")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU64, Ordering},
};

use cogward_evidence::{Evidence, EvidenceOptions, LogName};
use cogward_ledger::{
    archive,
    note::VerifyingKey,
    verify::{Verified, verify_dir},
};
use cogward_model::{
    Clock, Id, RunId, SystemClock, SystemEntropy, TenantName, Timestamp,
    event::{Attribution, Event, EventType},
};

pub fn options(dir: &Path) -> EvidenceOptions {
    EvidenceOptions {
        low_water_bytes: 0,
        wal: cogward_wal::Options { segment_bytes: 64 * 1024, first_segment_bytes: 16 * 1024 },
        ..EvidenceOptions::new(dir)
    }
}

pub fn open(dir: &Path) -> Evidence {
    Evidence::open(options(dir)).unwrap()
}

pub fn tenant(name: &str) -> TenantName {
    name.parse().unwrap()
}

pub fn new_run() -> RunId {
    Id::new(&SystemClock, &SystemEntropy)
}

pub fn event(tenant_name: &str, run: Option<RunId>) -> Event {
    let by = Attribution {
        agent: Some(("claims".parse().unwrap(), "1.0.0".parse().unwrap())),
        subject: Some("anna@example.org".into()),
    };
    let event = Event::new(EventType::ToolCallDecided, tenant(tenant_name), by)
        .public("decision", "permit")
        .personal("args", "born 1970-01-01");
    match run {
        Some(run) => event.run(run),
        None => event,
    }
}

/// Exports the tenant's log and has it verified with the key from the plane.
pub async fn verified(evidence: &Evidence, tenant_name: &str) -> Verified {
    let dir = tempfile::tempdir().unwrap();
    let dest = dir.path().join("pack");
    let summary = evidence.export(&tenant(tenant_name), &dest).await.unwrap();
    let key = evidence.verifying_key(&tenant(tenant_name)).unwrap().parse().unwrap();
    let verified = verify_dir(&dest, Some(&key)).unwrap();
    assert_eq!(verified.leaves, summary.leaves);
    verified
}

/// A clock that shows what it is told.
pub struct SetClock(pub AtomicU64);

impl Clock for SetClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_unix_micros(self.0.load(Ordering::SeqCst))
    }
}

/// Copies a directory with all that is in it.
pub fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let dest = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &dest);
        } else {
            let _bytes = fs::copy(&path, &dest).unwrap();
        }
    }
}

/// All files below a directory.
pub fn files(dir: &Path) -> Vec<PathBuf> {
    let (mut found, mut paths) = (Vec::new(), vec![dir.to_path_buf()]);
    while let Some(path) = paths.pop() {
        if path.is_dir() {
            paths.extend(fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
        } else {
            found.push(path);
        }
    }
    found
}

/// The Python that runs the second verifier. Without it half of the verdicts would be missing: that is a failure.
pub fn python() -> Command {
    let python = std::env::var("COGWARD_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let there = Command::new(&python).args(["-c", "import cryptography"]).output().is_ok_and(|o| o.status.success());
    assert!(there, "`{python}` has no package `cryptography`: set COGWARD_PYTHON, as `make test` does");
    Command::new(python)
}

/// Holds a verdict of an archive against that of `scripts/verify_archive.py`: the same rule and leaf, or as many leaves.
pub fn as_the_other_verifier(
    ours: &Result<archive::Verified, archive::Finding>,
    dir: &Path,
    key: &VerifyingKey,
    against: Option<&str>,
) {
    let scratch = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        fs::write(scratch.path().join(name), text).unwrap();
        scratch.path().join(name)
    };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/verify_archive.py");
    let mut theirs = python();
    theirs.arg(script).arg(dir).arg("--json").arg("--key").arg(file("key", &key.lines()));
    if let Some(against) = against {
        theirs.arg("--against").arg(file("kept", against));
    }
    let output = theirs.output().unwrap();
    let said: serde_json::Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));
    match ours {
        Ok(found) => assert_eq!((&said["archive"]["leaves"], &said["verdict"]), (&found.leaves.into(), &"ok".into())),
        Err(finding) => {
            let found = serde_json::json!({"leaf": finding.leaf, "what": finding.what});
            let theirs = serde_json::json!({"leaf": said["finding"]["leaf"], "what": said["finding"]["what"]});
            assert_eq!(theirs, found, "{finding}");
        }
    }
}

/// Leaves of two tenants, signed and published with the plane log.
pub async fn grow(evidence: &Evidence, run: RunId, rounds: usize) {
    for _ in 0..rounds {
        evidence.record(event("acme", Some(run))).await.unwrap();
        evidence.record(event("beta", None)).await.unwrap();
    }
    for name in ["acme", "beta"] {
        let signed = evidence.checkpoint(&tenant(name)).await.unwrap();
        evidence.until_published(&LogName::Tenant(tenant(name)), signed.size).await;
    }
    let plane = evidence.plane_checkpoint().await.unwrap();
    evidence.until_published(&LogName::Plane, plane.size).await;
}
