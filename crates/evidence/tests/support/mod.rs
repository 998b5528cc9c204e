//! What the tests of the living ledger share.

#![allow(dead_code, reason = "each test file uses its part")]

use std::{
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
};

use cogward_evidence::{Evidence, EvidenceOptions};
use cogward_ledger::verify::{Verified, verify_dir};
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
