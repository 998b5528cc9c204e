//! The living ledger when the process dies, the disk fills, and somebody meddles with the files.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::{
    fs,
    io::{BufRead, BufReader},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use cogward_evidence::{Evidence, Health, OpenError, RecordError};
use support::{copy, event, new_run, open, options, tenant, verified};

const CHILD_DIR: &str = "COGWARD_TEST_CHILD_DIR";

fn child(test: &str, dir: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture", "--include-ignored"]).env(CHILD_DIR, dir);
    command
}

fn child_dir() -> Option<PathBuf> {
    std::env::var_os(CHILD_DIR).map(PathBuf::from)
}

/// Not a test by itself: writes and says what was acknowledged until it is killed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "run as a child by the test that kills it"]
async fn child_writes_until_it_is_killed() {
    let Some(dir) = child_dir() else { return };
    let evidence = open(&dir);
    let writers: Vec<_> = (0..8).map(|_| tokio::spawn(writes_for_ever(evidence.clone()))).collect();
    for writer in writers {
        writer.await.unwrap();
    }
}

async fn writes_for_ever(evidence: Evidence) {
    let run = new_run();
    loop {
        let _noted = evidence.note(event("acme", Some(run))).unwrap();
        let leaf = evidence.record(event("acme", Some(run))).await.unwrap();
        println!("ack {} {}", leaf.seq, leaf.id);
    }
}

#[tokio::test]
async fn nothing_that_was_acknowledged_is_lost_by_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged = Vec::new();
    for round in 1..=6_usize {
        let mut writer = child("child_writes_until_it_is_killed", dir.path()).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(writer.stdout.take().unwrap()).lines();
        let mut seen = 0;
        while seen < round * 37 {
            // The test runner's own text may stand before the first line.
            let line = lines.next().unwrap().unwrap();
            if let Some((_, ack)) = line.split_once("ack ") {
                acknowledged.push(ack.to_owned());
                seen += 1;
            }
        }
        writer.kill().unwrap();
        writer.wait().unwrap();
        // What it said between the last line read and its end was acknowledged, too.
        for line in lines.map_while(Result::ok) {
            if let Some((_, ack)) = line.split_once("ack ")
                && ack.rsplit(' ').next().is_some_and(|id| id.len() == 30)
            {
                acknowledged.push(ack.to_owned());
            }
        }
        let evidence = open(dir.path());
        let pack = tempfile::tempdir().unwrap();
        evidence.export(&tenant("acme"), &pack.path().join("pack")).await.unwrap();
        let log = verified(&evidence, "acme").await;
        let leaves = entries(&pack.path().join("pack"));
        assert_eq!(leaves.len() as u64, log.leaves);
        for ack in &acknowledged {
            let (seq, id) = ack.split_once(' ').unwrap();
            assert_eq!(leaves[seq.parse::<usize>().unwrap()]["body"]["id"], *id);
        }
    }
    assert!(acknowledged.len() >= 700);
}

fn entries(pack: &Path) -> Vec<serde_json::Value> {
    let mut found: Vec<serde_json::Value> = Vec::new();
    for bundle in 0.. {
        let whole = cogward_ledger::tiles::path("entries", bundle, 256);
        let bytes = (1..=256)
            .rev()
            .find_map(|width| fs::read(pack.join(cogward_ledger::tiles::path("entries", bundle, width))).ok())
            .or_else(|| fs::read(pack.join(&whole)).ok());
        let Some(bytes) = bytes else { return found };
        let mut rest = &bytes[..];
        while let Some((length, tail)) = rest.split_first_chunk::<2>() {
            let (leaf, tail) = tail.split_at(usize::from(u16::from_be_bytes(*length)));
            found.push(serde_json::from_slice(leaf).unwrap());
            rest = tail;
        }
    }
    found
}

async fn some_leaves(dir: &Path, count: usize) {
    let evidence = open(dir);
    for _ in 0..count {
        evidence.record(event("acme", None)).await.unwrap();
    }
}

fn first_segment(dir: &Path) -> PathBuf {
    dir.join("wal/0000000000000000.seg")
}

/// The last byte of the first segment that is not zero.
fn last_written(dir: &Path) -> u64 {
    let bytes = fs::read(first_segment(dir)).unwrap();
    bytes.iter().rposition(|byte| *byte != 0).unwrap() as u64
}

#[tokio::test]
async fn an_older_log_under_a_newer_checkpoint_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    some_leaves(dir.path(), 3).await;
    let old = tempfile::tempdir().unwrap();
    copy(&dir.path().join("wal"), &old.path().join("wal"));
    some_leaves(dir.path(), 2).await;
    // The whole of the log is put back, the checkpoint is not.
    fs::remove_dir_all(dir.path().join("wal")).unwrap();
    copy(&old.path().join("wal"), &dir.path().join("wal"));
    let refused = Evidence::open(options(dir.path())).unwrap_err();
    assert!(matches!(refused, OpenError::Rollback { leaves: 3, signed: 5, .. }), "{refused}");
    assert!(refused.to_string().starts_with("rollback detected"));
    // And so is no log at all.
    fs::remove_dir_all(dir.path().join("wal")).unwrap();
    assert!(matches!(Evidence::open(options(dir.path())), Err(OpenError::Rollback { leaves: 0, signed: 5, .. })));
}

#[tokio::test]
async fn another_log_of_the_same_length_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    some_leaves(dir.path(), 1).await;
    let fork = tempfile::tempdir().unwrap();
    copy(dir.path(), fork.path());
    some_leaves(dir.path(), 2).await;
    some_leaves(fork.path(), 2).await;
    fs::remove_dir_all(dir.path().join("wal")).unwrap();
    copy(&fork.path().join("wal"), &dir.path().join("wal"));
    assert!(matches!(Evidence::open(options(dir.path())), Err(OpenError::Rewritten { signed: 3, .. })));
}

#[tokio::test]
async fn a_tail_is_cut_above_the_checkpoint_recorded_and_never_below_it() {
    let dir = tempfile::tempdir().unwrap();
    some_leaves(dir.path(), 3).await;
    let signed_end = last_written(dir.path());
    // Half of a batch that was never acknowledged.
    let file = fs::OpenOptions::new().write(true).open(first_segment(dir.path())).unwrap();
    file.write_all_at(&[0xaa; 77], signed_end + 30).unwrap();
    let evidence = open(dir.path());
    assert_eq!(verified(&evidence, "acme").await.leaves, 3);
    // `ledger.recovered` is in the plane's own tenant.
    assert_eq!(verified(&evidence, "default").await.leaves, 1);
    evidence.record(event("acme", None)).await.unwrap();
    drop(evidence);
    assert_eq!(verified(&open(dir.path()), "acme").await.leaves, 4);

    let below = tempfile::tempdir().unwrap();
    some_leaves(below.path(), 3).await;
    let file = fs::OpenOptions::new().write(true).open(first_segment(below.path())).unwrap();
    file.write_all_at(&[0; 40], last_written(below.path()) - 39).unwrap();
    let before = fs::read(first_segment(below.path())).unwrap();
    assert!(matches!(Evidence::open(options(below.path())), Err(OpenError::Rollback { leaves: 2, signed: 3, .. })));
    // Refusing changes nothing: an expert can still look.
    assert_eq!(fs::read(first_segment(below.path())).unwrap(), before);
}

fn large(dir: &Path) -> cogward_evidence::EvidenceOptions {
    // All of it in one segment, so that a sector may be exchanged with any other.
    let wal = cogward_wal::Options { segment_bytes: 1 << 20, first_segment_bytes: 1 << 20 };
    cogward_evidence::EvidenceOptions { wal, ..options(dir) }
}

/// Two of the sectors of a file, exchanged. `None`: they are the same.
fn swapped(whole: &[u8], sector: usize, one: usize, other: usize) -> Option<Vec<u8>> {
    let at = |n: usize| n * sector..(n + 1) * sector;
    if whole[at(one)] == whole[at(other)] {
        return None;
    }
    let mut bytes = whole.to_vec();
    bytes[at(one)].copy_from_slice(&whole[at(other)]);
    bytes[at(other)].copy_from_slice(&whole[at(one)]);
    Some(bytes)
}

/// Pairs of sectors: neighbours, and ones that are far apart.
fn pairs(sectors: std::ops::Range<usize>, at_most: usize) -> Vec<(usize, usize)> {
    let last = sectors.end - 1;
    let near = sectors.clone().take_while(|n| n + 1 < sectors.end).map(|n| (n, n + 1));
    let far = sectors.clone().map(|n| (n, last - (n - sectors.start))).filter(|(one, other)| one + 1 < *other);
    let all: Vec<_> = near.chain(far).collect();
    let step = all.len().div_ceil(at_most).max(1);
    all.into_iter().step_by(step).collect()
}

/// The batch behind a place: where it ends. By the headers of its frames.
fn batch_end(bytes: &[u8], from: usize) -> usize {
    let (mut at, mut batch) = (from, None);
    loop {
        let length = u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
        let (last, number) = (bytes[at + 5] & 1 == 1, u64::from_le_bytes(bytes[at + 8..at + 16].try_into().unwrap()));
        assert_eq!(*batch.get_or_insert(number), number, "a batch has one number");
        at += 20 + length;
        if last {
            return at;
        }
    }
}

/// A disk that put sectors of the last write elsewhere: what was signed stays, and what was not is cut.
#[tokio::test]
async fn reordered_sectors_above_the_checkpoint_are_cut_and_below_it_refused() {
    let signed = tempfile::tempdir().unwrap();
    let evidence = Evidence::open(large(signed.path())).unwrap();
    for _ in 0..40 {
        evidence.record(event("acme", None).confidential("path", "x".repeat(700))).await.unwrap();
    }
    let leaves = verified(&evidence, "acme").await.leaves;
    drop(evidence);
    let segment = fs::read(first_segment(signed.path())).unwrap();
    let flushed = usize::try_from(last_written(signed.path())).unwrap() + 1;
    assert_eq!(leaves, 40);

    // The same ledger a moment later: one more batch was written, and nobody was told of it yet.
    let later = tempfile::tempdir().unwrap();
    copy(signed.path(), later.path());
    let evidence = Evidence::open(large(later.path())).unwrap();
    for _ in 0..60 {
        let _noted = evidence.note(event("acme", None).confidential("path", "y".repeat(700))).unwrap();
    }
    evidence.checkpoint(&tenant("acme")).await.unwrap();
    drop(evidence);
    let after = fs::read(first_segment(later.path())).unwrap();
    assert_eq!(after[..flushed], segment[..flushed]);
    // Of the batches that it became the longest is the one that is torn; those before it are on the disk.
    let (mut from, mut longest) = (flushed, flushed..flushed);
    while after[from..from + 20] != [0; 20] {
        let end = batch_end(&after, from);
        if end - from > longest.len() {
            longest = from..end;
        }
        from = end;
    }
    assert!(longest.len() > 40 * 512, "{longest:?}");
    let mut written = after.clone();
    written[longest.end..].fill(0);

    let start = |dir: &Path, bytes: &[u8]| {
        copy(signed.path(), dir);
        fs::write(first_segment(dir), bytes).unwrap();
        Evidence::open(large(dir))
    };
    let (mut cut, mut refused) = (0, 0);
    for sector in [512, 4096] {
        // Above: sectors that have nothing of what was flushed before.
        for (one, other) in pairs(longest.start.div_ceil(sector)..longest.end.div_ceil(sector), 20) {
            let Some(bytes) = swapped(&written, sector, one, other) else { continue };
            let dir = tempfile::tempdir().unwrap();
            let what = format!("{sector}: {one} and {other} of the batch in {longest:?}");
            let evidence = start(dir.path(), &bytes).unwrap_or_else(|error| panic!("{what}: {error}"));
            assert!((40..=100).contains(&verified(&evidence, "acme").await.leaves), "{what}");
            let own = dir.path().join("own");
            evidence.export(&tenant("default"), &own).await.unwrap();
            let recovered = entries(&own).iter().any(|leaf| leaf["body"]["type"] == "ledger.recovered");
            assert!(recovered, "{what}: the cut is recorded");
            // It goes on, and the next start finds nothing to cut.
            evidence.record(event("acme", None)).await.unwrap();
            drop(evidence);
            verified(&Evidence::open(large(dir.path())).unwrap(), "acme").await;
            cut += 1;
        }
        // Below: of what was signed, also where it is exchanged with what was not.
        let last = flushed / sector;
        let mut all = pairs(0..last + 1, 20);
        all.push((1, longest.end / sector));
        for (one, other) in all {
            let Some(bytes) = swapped(&written, sector, one, other) else { continue };
            let dir = tempfile::tempdir().unwrap();
            assert!(start(dir.path(), &bytes).is_err(), "{sector}: {one} and {other} below {flushed}");
            assert_eq!(fs::read(first_segment(dir.path())).unwrap(), bytes, "refusing changes nothing");
            // The same without the batch behind it: then it is the signed state that says so.
            let Some(bytes) = swapped(&segment, sector, one, other) else { continue };
            fs::write(first_segment(dir.path()), &bytes).unwrap();
            assert!(Evidence::open(large(dir.path())).is_err(), "{sector}: {one} and {other} of {flushed} alone");
            assert_eq!(fs::read(first_segment(dir.path())).unwrap(), bytes, "refusing changes nothing");
            refused += 1;
        }
    }
    assert!(cut >= 30 && refused >= 30, "{cut} cut, {refused} refused");
}

#[tokio::test]
async fn no_flipped_byte_of_the_log_or_its_checkpoint_goes_unseen_at_start() {
    let dir = tempfile::tempdir().unwrap();
    some_leaves(dir.path(), 2).await;
    let end = last_written(dir.path());
    for (path, end) in [
        (first_segment(dir.path()), end),
        (
            dir.path().join("tenants/acme/checkpoint"),
            fs::metadata(dir.path().join("tenants/acme/checkpoint")).unwrap().len() - 1,
        ),
    ] {
        let whole = fs::read(&path).unwrap();
        for at in (0..=usize::try_from(end).unwrap()).step_by(3) {
            let mut damaged = whole.clone();
            damaged[at] ^= 1 << (at % 8);
            fs::write(&path, damaged).unwrap();
            assert!(Evidence::open(options(dir.path())).is_err(), "{} byte {at}", path.display());
        }
        fs::write(&path, whole).unwrap();
    }
    assert_eq!(verified(&open(dir.path()), "acme").await.leaves, 2);
}

#[tokio::test]
async fn a_second_plane_on_the_same_directory_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let _first = open(dir.path());
    let refused = Evidence::open(options(dir.path()));
    assert!(matches!(refused, Err(OpenError::Wal(cogward_wal::OpenError::Held))));
}

/// Not a test by itself: runs on a file system of its own that is too small.
#[tokio::test]
#[ignore = "run as a child on a small file system"]
async fn child_fills_the_disk() {
    let Some(dir) = child_dir() else { return };
    let ballast = dir.join("ballast");
    fs::write(&ballast, vec![1; 1_200_000]).unwrap();
    let data = dir.join("evidence");
    let evidence = open(&data);
    let mut acknowledged = 0;
    let refused = loop {
        match evidence.record(event("acme", None)).await {
            Ok(_) => acknowledged += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, RecordError::Failed(_)), "{refused}");
    assert!(matches!(&*evidence.health().borrow(), Health::Failed { why } if why.contains("No space")));
    // Space that comes back does not bring the log back: the kernel may have dropped what was not written.
    fs::remove_file(&ballast).unwrap();
    assert!(matches!(evidence.record(event("acme", None)).await, Err(RecordError::Failed(_))));
    assert!(evidence.note(event("acme", None)).is_err());
    assert!(evidence.checkpoint(&tenant("acme")).await.is_err());
    drop(evidence);
    let again = open(&data);
    again.record(event("acme", None)).await.unwrap();
    let signed = again.checkpoint(&tenant("acme")).await.unwrap();
    assert!(signed.size > acknowledged, "{} of {acknowledged}", signed.size);
    println!("filled and recovered");
}

/// Not a test by itself: on a small file system, the space goes below the mark and comes back.
#[tokio::test]
#[ignore = "run as a child on a small file system"]
async fn child_has_little_space_for_a_while() {
    let Some(dir) = child_dir() else { return };
    let mut options = options(&dir.join("evidence"));
    options.low_water_bytes = 4 * 1024 * 1024;
    let evidence = Evidence::open(options).unwrap();
    let mut health = evidence.health();
    evidence.record(event("acme", None)).await.unwrap();
    let ballast = dir.join("ballast");
    for n in 0..3_u64 {
        fs::write(&ballast, vec![1; 14 * 1024 * 1024]).unwrap();
        // What the gateways stop agents by.
        health.wait_for(|health| matches!(health, Health::LowSpace { free } if *free < 4 << 20)).await.unwrap();
        // The audit lives: more than one segment of it, so a new one is made while space is short.
        for _ in 0..150 {
            evidence.record(event("acme", None)).await.unwrap();
        }
        evidence.checkpoint(&tenant("acme")).await.unwrap();
        fs::remove_file(&ballast).unwrap();
        health.wait_for(|health| *health == Health::Ok).await.unwrap();
        evidence.record(event("acme", None)).await.unwrap();
        // `ledger.low_space` and `ledger.space_restored`, each time.
        evidence.checkpoint(&tenant("default")).await.unwrap();
        assert_eq!(evidence.checkpoint(&tenant("default")).await.unwrap().size, (n + 1) * 2);
    }
    println!("short and restored");
}

#[test]
fn little_space_stops_agents_the_record_lives_and_all_goes_on_when_space_is_back() {
    on_a_file_system_of("18m", "child_has_little_space_for_a_while", "short and restored");
}

#[test]
fn a_full_disk_stops_the_ledger_and_keeps_what_was_acknowledged() {
    on_a_file_system_of("2m", "child_fills_the_disk", "filled and recovered");
}

/// Not a test by itself: the disk of an archive is full in the middle of an object.
#[test]
#[ignore = "run as a child on a small file system"]
fn child_archives_onto_a_full_disk() {
    use cogward_evidence::archive::{Content, DirectoryPlace, Place};
    use cogward_ledger::archive::{Objects, sha256};
    let Some(dir) = child_dir() else { return };
    let (ballast, archive) = (dir.join("ballast"), DirectoryPlace::new(dir.join("archive")));
    fs::write(&ballast, vec![1; 1_500_000]).unwrap();
    let bytes = vec![7; 1_000_000];
    let content = Content::Bytes(&bytes, sha256(&bytes));
    let name = format!("segments/{:016x}-{}.seg", 0, "ab".repeat(32));
    let error = archive.put(&name, &content).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull, "{error}");
    // Not half of it is there, and no place is taken that the next attempt needs.
    assert!(archive.list().unwrap().is_empty());
    fs::remove_file(&ballast).unwrap();
    archive.put(&name, &content).unwrap();
    let mut found = Vec::new();
    std::io::Read::read_to_end(&mut archive.open(&name).unwrap(), &mut found).unwrap();
    assert!(found == bytes);
    println!("full and archived");
}

#[test]
fn a_full_disk_of_the_archive_has_no_half_of_an_object() {
    on_a_file_system_of("2m", "child_archives_onto_a_full_disk", "full and archived");
}

fn on_a_file_system_of(size: &str, test: &str, says: &str) {
    let dir = tempfile::tempdir().unwrap();
    let script = format!("mount -t tmpfs -o size={size} none \"$COGWARD_TEST_CHILD_DIR\" && exec \"$@\"");
    let plain = child(test, dir.path());
    let mut namespaced = Command::new("unshare");
    namespaced.args(["--user", "--map-root-user", "--mount", "sh", "-c", &script, "sh"]);
    namespaced.arg(plain.get_program()).args(plain.get_args()).env(CHILD_DIR, dir.path());
    let output = namespaced.output().expect("unshare(1), of util-linux");
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains(says), "{text}{errors}");
}
