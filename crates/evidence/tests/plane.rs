//! The plane log and the published tiles: what they show, what they keep to themselves, and who is refused.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use cogward_evidence::{Evidence, LogFile, LogName, OpenError};
use cogward_ledger::{
    note::Checkpoint,
    plane::PlaneLeaf,
    verify::{KEY_FILE, Verified, verify_dir},
};
use support::{copy, event, files, open, options, tenant, verified};

const CHILD_DIR: &str = "COGWARD_TEST_PLANE_DIR";

fn log(name: &str) -> LogName {
    LogName::Tenant(tenant(name))
}

async fn leaves(evidence: &Evidence, name: &str, count: usize) {
    for _ in 0..count {
        evidence.record(event(name, None)).await.unwrap();
    }
}

/// Verifies what lies in a log's directory as it is served, with the key beside it.
fn served(dir: &Path, name: &str, keys: &str) -> Verified {
    let dir = dir.join("tenants").join(name).join("log");
    fs::write(dir.join(KEY_FILE), keys).unwrap();
    let verified = verify_dir(&dir, None);
    fs::remove_file(dir.join(KEY_FILE)).unwrap();
    verified.unwrap()
}

#[tokio::test]
async fn a_pack_shows_its_checkpoint_in_the_plane_log_and_nothing_of_another_tenant() {
    let dir = tempfile::tempdir().unwrap();
    let evidence = open(&dir.path().join("evidence"));
    for round in 0..4 {
        leaves(&evidence, "acme", 1).await;
        leaves(&evidence, "secret-rival", 3 + round).await;
        assert_eq!(verified(&evidence, "acme").await.anchored.unwrap().size, 2 * round as u64 + 1);
        verified(&evidence, "secret-rival").await;
    }
    let pack = dir.path().join("pack");
    evidence.export(&tenant("acme"), &pack).await.unwrap();
    let leaf = PlaneLeaf::from_bytes(&fs::read(pack.join("plane/leaf.json")).unwrap()).unwrap();
    assert_eq!((leaf.size, leaf.seq), (4, 6));
    let found = files(&pack);
    let rival = evidence.published(&log("secret-rival")).unwrap();
    let root = rival.note.lines().nth(2).unwrap();
    for file in found {
        let bytes = fs::read(&file).unwrap();
        let text = String::from_utf8_lossy(&bytes);
        assert!(!text.contains("secret-rival") && !text.contains(root), "{}", file.display());
    }
    // Leaves of one tenant have no name in common, nor does a leaf say its log without what opens it.
    let proof = fs::read_to_string(pack.join("plane/checkpoint.tlog-proof")).unwrap();
    assert!(!fs::read_to_string(pack.join("plane/leaf.json")).unwrap().contains("acme"));
    assert!(proof.starts_with("c2sp.org/tlog-proof@v1\nindex 6\n"));
    // Another tenant's anchor does not fit, nor does none of its parts.
    let other = dir.path().join("other");
    evidence.export(&tenant("secret-rival"), &other).await.unwrap();
    for part in ["leaf.json", "disclosure", "checkpoint.tlog-proof"] {
        let own = fs::read(pack.join("plane").join(part)).unwrap();
        fs::copy(other.join("plane").join(part), pack.join("plane").join(part)).unwrap();
        assert_eq!(verify_dir(&pack, None).unwrap_err().what.as_str(), "anchor", "{part}");
        fs::remove_file(pack.join("plane").join(part)).unwrap();
        assert_eq!(verify_dir(&pack, None).unwrap_err().what.as_str(), "missing", "{part}");
        fs::write(pack.join("plane").join(part), own).unwrap();
    }
    assert!(verify_dir(&pack, None).is_ok());
}

#[tokio::test]
async fn a_plane_log_that_was_rolled_back_or_rewritten_is_refused_at_start() {
    let dir = tempfile::tempdir().unwrap();
    let evidence = open(dir.path());
    leaves(&evidence, "acme", 1).await;
    verified(&evidence, "acme").await;
    drop(evidence);
    let old = tempfile::tempdir().unwrap();
    copy(dir.path(), old.path());
    let evidence = open(dir.path());
    leaves(&evidence, "acme", 1).await;
    verified(&evidence, "acme").await;
    drop(evidence);
    // Everything is put back together, log and tenants' checkpoints, only the plane's checkpoint is not.
    let back = tempfile::tempdir().unwrap();
    copy(old.path(), back.path());
    fs::copy(dir.path().join("plane/checkpoint"), back.path().join("plane/checkpoint")).unwrap();
    let refused = Evidence::open(options(back.path())).unwrap_err();
    assert!(matches!(refused, OpenError::PlaneRollback { leaves: 1, signed: 2 }), "{refused}");
    // A history that went on differently, as long as the one that was signed.
    let fork = tempfile::tempdir().unwrap();
    copy(old.path(), fork.path());
    let evidence = open(fork.path());
    leaves(&evidence, "acme", 1).await;
    verified(&evidence, "acme").await;
    drop(evidence);
    fs::copy(dir.path().join("plane/checkpoint"), fork.path().join("plane/checkpoint")).unwrap();
    let refused = Evidence::open(options(fork.path())).unwrap_err();
    assert!(matches!(refused, OpenError::PlaneRollback { leaves: 2, signed: 2 }), "{refused}");
    // And a checkpoint that is not the plane's.
    let path = fork.path().join("plane/checkpoint");
    fs::write(&path, fs::read_to_string(&path).unwrap().replace("\n2\n", "\n1\n")).unwrap();
    assert!(matches!(Evidence::open(options(fork.path())), Err(OpenError::PlaneCheckpoint(_))));
    assert_eq!(verified(&open(dir.path()), "acme").await.anchored.unwrap().size, 2);
}

#[tokio::test]
async fn a_log_from_before_the_second_key_and_the_plane_log_opens_and_gets_both() {
    let dir = tempfile::tempdir().unwrap();
    let evidence = open(dir.path());
    leaves(&evidence, "acme", 2).await;
    let signed = evidence.checkpoint(&tenant("acme")).await.unwrap();
    let path = dir.path().join("tenants/acme/checkpoint");
    drop(evidence);
    // Only the Ed25519 line was there, and no plane.
    let old: String = signed.note.split_inclusive('\n').take(5).collect();
    fs::write(&path, &old).unwrap();
    for gone in ["keys/acme.mldsa", "keys/plane.log.sign", "keys/plane.log.mldsa", "keys/plane.log.salt"] {
        fs::remove_file(dir.path().join(gone)).unwrap();
    }
    fs::remove_dir_all(dir.path().join("plane")).unwrap();
    let evidence = open(dir.path());
    let keys = evidence.verifying_keys(&log("acme")).unwrap();
    assert_eq!(keys.lines().count(), 2);
    let again = evidence.checkpoint(&tenant("acme")).await.unwrap();
    assert!(Checkpoint::open(&again.note, &keys.trim_end().parse().unwrap()).is_ok());
    assert_eq!(again.size, 2);
    drop(evidence);
    // Half of a new note is not an old one.
    let lines: Vec<&str> = again.note.split_inclusive('\n').collect();
    fs::write(&path, [&lines[..4], &lines[5..]].concat().concat()).unwrap();
    assert!(matches!(Evidence::open(options(dir.path())), Err(OpenError::Checkpoint { .. })));
}

#[tokio::test]
async fn published_tiles_are_those_of_a_pack_and_are_written_anew_when_they_are_gone() {
    let dir = tempfile::tempdir().unwrap();
    let evidence = open(dir.path());
    for _ in 0..600 {
        evidence.note(event("acme", None)).unwrap();
        evidence.note(event("other", None)).unwrap();
    }
    let first = evidence.checkpoint(&tenant("acme")).await.unwrap();
    leaves(&evidence, "acme", 1).await;
    let signed = evidence.checkpoint(&tenant("acme")).await.unwrap();
    assert_eq!((first.size, signed.size), (600, 601));
    let published = evidence.until_published(&log("acme"), 601).await;
    assert_eq!(published.note, signed.note);
    let keys = evidence.verifying_keys(&log("acme")).unwrap();
    assert_eq!(served(dir.path(), "acme", &keys).leaves, 601);
    drop(evidence);
    let whole = dir.path().join("tenants/acme/log");
    let before = tempfile::tempdir().unwrap();
    copy(&whole, before.path());
    fs::remove_dir_all(&whole).unwrap();
    let evidence = open(dir.path());
    evidence.until_published(&log("acme"), 601).await;
    assert_eq!(served(dir.path(), "acme", &keys).leaves, 601);
    let found = files(&whole);
    for file in &found {
        let name = file.strip_prefix(&whole).unwrap();
        assert_eq!(fs::read(file).unwrap(), fs::read(before.path().join(name)).unwrap(), "{}", name.display());
    }
    // 601 = 2 x 256 + 89: three bundles, three tiles of leaves, one above them, and the checkpoint.
    assert_eq!(found.len(), 8, "{found:?}");
}

#[tokio::test]
async fn only_files_of_the_log_itself_are_given_out() {
    let dir = tempfile::tempdir().unwrap();
    let evidence = open(dir.path());
    for _ in 0..300 {
        evidence.note(event("acme", None)).unwrap();
        evidence.note(event("other", None)).unwrap();
    }
    let signed = evidence.checkpoint(&tenant("acme")).await.unwrap();
    evidence.until_published(&log("acme"), signed.size).await;
    let get = |path: &str| evidence.log_file(&log("acme"), path).unwrap();
    assert!(matches!(get("checkpoint"), Some(LogFile::Checkpoint(_))));
    assert!(matches!(get("tile/0/000"), Some(LogFile::Tile { full: true, .. })));
    assert!(matches!(get("tile/entries/001.p/44"), Some(LogFile::Tile { full: false, .. })));
    for path in [
        "",
        "/checkpoint",
        "../checkpoint",
        "./checkpoint",
        "checkpoint/",
        "checkpoint.new",
        "tile/0/../../checkpoint",
        "tile/0/..",
        "tile/0/../../../other/log/tile/0/000",
        "tile/entries/../../../../../keys/acme.sign",
        "tile/entries/x000/000",
        "tile/0/002",
        "tile/0/001",
        "tile/0/001.p/45",
        "tile/1/000.p/2",
        "tile/0/000\0",
        "tile/0/%2e%2e/000",
        "/etc/passwd",
        "keys/acme.sign",
        "tile/entries/001.new",
    ] {
        assert!(get(path).is_none(), "{path:?}");
    }
    // A path of the right form beyond the published size, though a file were there.
    fs::write(dir.path().join("tenants/acme/log/tile/0/009"), [0; 8_192]).unwrap();
    assert!(get("tile/0/009").is_none());
    assert!(evidence.log_file(&log("nobody"), "checkpoint").unwrap().is_none());
    // The plane log's hashes are for witnesses; what its leaves say of tenants is for nobody.
    let plane = evidence.plane_checkpoint().await.unwrap();
    evidence.until_published(&LogName::Plane, plane.size).await;
    let width = plane.size;
    assert!(evidence.log_file(&LogName::Plane, &format!("tile/0/000.p/{width}")).unwrap().is_some());
    assert!(evidence.log_file(&LogName::Plane, &format!("tile/entries/000.p/{width}")).unwrap().is_none());
}

/// Not a test by itself: writes and has signed until it is killed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "run as a child by the test that kills it"]
async fn child_publishes_until_it_is_killed() {
    let Some(dir) = std::env::var_os(CHILD_DIR).map(PathBuf::from) else { return };
    let evidence = open(&dir);
    loop {
        for _ in 0..90 {
            evidence.note(event("acme", None)).unwrap();
        }
        let signed = evidence.checkpoint(&tenant("acme")).await.unwrap();
        println!("signed {}", signed.size);
    }
}

#[tokio::test]
async fn a_plane_that_is_killed_never_leaves_a_checkpoint_without_its_tiles() {
    let dir = tempfile::tempdir().unwrap();
    let mut killed = 0;
    for round in 1..=8_usize {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child_publishes_until_it_is_killed", "--nocapture", "--include-ignored"])
            .env(CHILD_DIR, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut seen = 0;
        while seen < round * 5 {
            let line = lines.next().unwrap().unwrap();
            seen += usize::from(line.contains("signed "));
        }
        child.kill().unwrap();
        let _status = child.wait().unwrap();
        let path = dir.path().join("tenants/acme/log/checkpoint");
        if path.exists() {
            killed += 1;
            // As any web server would serve it now.
            let keys = {
                let copied = tempfile::tempdir().unwrap();
                copy(&dir.path().join("keys"), &copied.path().join("keys"));
                open(copied.path()).verifying_keys(&log("acme")).unwrap()
            };
            served(dir.path(), "acme", &keys);
        }
    }
    assert!(killed > 4, "{killed}");
    let evidence = open(dir.path());
    let signed = evidence.checkpoint(&tenant("acme")).await.unwrap();
    evidence.until_published(&log("acme"), signed.size).await;
    assert_eq!(verified(&evidence, "acme").await.leaves, signed.size);
}
