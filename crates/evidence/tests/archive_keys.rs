//! An archive goes on when the key of the plane log is replaced, and whoever has the old key adds nothing to it.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::{fs, path::Path};

use base64::{Engine, engine::general_purpose::STANDARD};
use cogward_evidence::{
    Evidence, KeyChange, LogName,
    archive::{Archive, Directory, DirectoryPlace, Finding, Options, Verified, restore},
};
use cogward_ledger::{
    archive::{Manifest, Name, Objects, sha256, verify},
    note::{SigningKey, VerifyingKey},
    verify::What,
};
use cogward_model::{
    Id, SystemClock, SystemEntropy,
    event::{Attribution, Event, EventType},
    id::OperatorId,
};
use support::{event, open, tenant};

async fn grow(evidence: &Evidence) {
    for _ in 0..200 {
        evidence.record(event("acme", None)).await.unwrap();
    }
    for name in ["acme", "default"] {
        let signed = evidence.checkpoint(&tenant(name)).await.unwrap();
        evidence.until_published(&LogName::Tenant(tenant(name)), signed.size).await;
    }
    let plane = evidence.plane_checkpoint().await.unwrap();
    evidence.until_published(&LogName::Plane, plane.size).await;
}

async fn rotate(evidence: &Evidence, overlap_days: u32) {
    let told = |kind| Event::new(kind, tenant("default"), Attribution::plane());
    let by: OperatorId = Id::new(&SystemClock, &SystemEntropy);
    let asked = (KeyChange::Rotate { overlap_days }, by, "anna".to_owned());
    let asked = evidence.ask_key_change(&LogName::Plane, asked, told(EventType::LedgerKeyRequested)).await.unwrap();
    let change = (asked.id, asked.change);
    evidence.change_keys(&LogName::Plane, change, told(EventType::LedgerKeyRotated)).await.unwrap();
}

fn archived(evidence: &Evidence, store: &Path) -> usize {
    let mut archive = Archive::open(evidence, Box::new(DirectoryPlace::new(store))).unwrap();
    let mut count = 0;
    while archive.step().unwrap().is_some() {
        archive.recorded().unwrap();
        count += 1;
    }
    count
}

fn key(evidence: &Evidence) -> VerifyingKey {
    evidence.verifying_keys(&LogName::Plane).unwrap().trim_end().parse().unwrap()
}

fn check(store: &Path, key: &VerifyingKey) -> Result<Verified, Finding> {
    let found = verify(&Directory::new(store), &Options { key: Some(key), against: None });
    support::as_the_other_verifier(&found, store, key, None);
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_is_read_over_the_replacement_of_the_plane_s_key_from_any_of_its_keys() {
    let (home, store, back) =
        (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let evidence = open(home.path());
    grow(&evidence).await;
    let first = key(&evidence);
    assert!(archived(&evidence, store.path()) > 0);
    rotate(&evidence, 30).await;
    let old = fs::read(home.path().join("keys/plane.log.sign")).unwrap();
    grow(&evidence).await;
    assert!(archived(&evidence, store.path()) > 0);
    let second = key(&evidence);
    assert_ne!(first.to_string(), second.to_string());
    // A plane that is started again reads all its manifests, those of the old key too.
    drop(evidence);
    let evidence = open(home.path());
    grow(&evidence).await;
    assert!(archived(&evidence, store.path()) > 0);
    for key in [&first, &second] {
        let found = check(store.path(), key).unwrap();
        assert_eq!((found.key_pinned, found.key_revoked), (true, false));
    }
    let stranger = SigningKey::from_seed(first.origin(), &[9; 32]).unwrap();
    assert_eq!(check(store.path(), stranger.verifying()).unwrap_err().what, What::Signature);
    restore(&Directory::new(store.path()), &Options { key: Some(&second), against: None }, &back.path().join("new"))
        .unwrap();

    // The thief of the old key signs the newest manifest anew: the archive has said before that it is replaced.
    let thief: [u8; 32] = STANDARD.decode(old).unwrap().try_into().unwrap();
    let thief = SigningKey::from_seed(first.origin(), &thief).unwrap();
    let mut names = Directory::new(store.path()).list().unwrap();
    names.retain(|name| name.starts_with("manifests"));
    names.sort();
    let newest = store.path().join(names.last().unwrap());
    let manifest = Manifest::unchecked(&fs::read(&newest).unwrap()).unwrap();
    let number = manifest.number;
    let forged = manifest.with_statements(Vec::new()).sign(&thief).unwrap();
    fs::remove_file(&newest).unwrap();
    let name = Name::Manifest { number, digest: sha256(&forged) };
    fs::write(store.path().join(name.to_string()), forged).unwrap();
    for key in [&first, &second] {
        assert_eq!(check(store.path(), key).unwrap_err().what, What::Signature);
    }
}
