//! The log when the process dies at any system call, the disk answers with errors, and sectors come in any order.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, clippy::print_stdout, reason = "tests")]

use std::{
    fs,
    os::unix::{fs::FileExt, process::ExitStatusExt},
    path::{Path, PathBuf},
    process::{Command, Output},
};

use cogward_wal::{OpenError, Options, Position, Wal, WalError};

const CHILD_DIR: &str = "COGWARD_TEST_CHILD_DIR";
/// So small that the work of the child goes over many segments.
const TINY: Options = Options { segment_bytes: 512, first_segment_bytes: 256 };
const BATCHES: u64 = 12;

fn payload(n: u64) -> Vec<u8> {
    let mut bytes = vec![u8::try_from(n % 251).unwrap(); 60 + usize::try_from(n).unwrap() * 7 % 120];
    bytes[..8].copy_from_slice(&n.to_le_bytes());
    bytes
}

fn read_with(dir: &Path, options: Options) -> (Result<Wal, OpenError>, Vec<Vec<u8>>) {
    let mut seen = Vec::new();
    let wal = Wal::open(dir, options, &mut |frame| seen.push(frame.payload.to_vec()));
    (wal, seen)
}

fn read_all(dir: &Path) -> (Result<Wal, OpenError>, Vec<Vec<u8>>) {
    read_with(dir, TINY)
}

/// Not a test by itself: two frames a batch, and a line for each batch that is on the disk.
#[test]
#[ignore = "run as a child by the tests that kill it"]
fn child_appends() {
    let Some(dir) = std::env::var_os(CHILD_DIR).map(PathBuf::from) else { return };
    let (wal, seen) = read_all(&dir);
    let mut wal = wal.unwrap();
    wal.cut_torn_tail().unwrap();
    for batch in seen.len() as u64 / 2..BATCHES {
        for n in [batch * 2, batch * 2 + 1] {
            if let Err(error) = wal.append(7, &[&payload(n)]) {
                return stopped(&mut wal, &error);
            }
        }
        if let Err(error) = wal.commit() {
            return stopped(&mut wal, &error);
        }
        println!("ack {batch}");
    }
    println!("done");
}

/// After an error nothing is taken, however often one tries.
fn stopped(wal: &mut Wal, error: &WalError) {
    assert!(matches!(error, WalError::Io(_)), "{error}");
    for _ in 0..3 {
        assert!(matches!(wal.append(7, &[b"x"]), Err(WalError::Stopped)));
        assert!(matches!(wal.commit(), Err(WalError::Stopped)));
    }
    println!("stopped");
}

fn traced(dir: &Path, inject: &str) -> Output {
    let mut command = Command::new("strace");
    let call = inject.split(':').next().unwrap();
    command.args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={call}"), "-e", &format!("inject={inject}")]);
    command.arg(std::env::current_exe().unwrap());
    command.args(["--exact", "child_appends", "--nocapture", "--include-ignored", "--test-threads", "1"]);
    command.env(CHILD_DIR, dir).output().expect("strace(1): scripts/setup-tests.sh names it")
}

/// Everything that was acknowledged is there, in order and whole, and nothing that was never written.
fn recovered(dir: &Path, acknowledged: u64, what: &str) {
    let (wal, seen) = read_all(dir);
    let mut wal = wal.unwrap_or_else(|error| panic!("{what}: {error}"));
    assert!(seen.len() as u64 >= acknowledged * 2, "{what}: {acknowledged} batches told, {} frames there", seen.len());
    assert!(seen.len() as u64 <= (acknowledged + 1) * 2, "{what}: {} frames of {acknowledged} batches", seen.len());
    for (frame, n) in seen.iter().zip(0..) {
        assert_eq!(*frame, payload(n), "{what}");
    }
    wal.cut_torn_tail().unwrap();
    wal.append(7, &[b"goes on"]).unwrap();
    wal.commit().unwrap();
    drop(wal);
    let (again, seen) = read_all(dir);
    assert_eq!(again.unwrap().torn(), None, "{what}");
    assert_eq!(seen.last().unwrap(), b"goes on", "{what}");
}

fn acknowledged(output: &Output) -> u64 {
    let text = String::from_utf8_lossy(&output.stdout);
    // The runner's own words may stand before the first one.
    text.lines().filter(|line| line.contains("ack ")).count() as u64
}

/// The child under one fault after another, until one run is not reached by it any more.
fn each(call: &str, fault: &str, at_least: usize, check: impl Fn(&Path, &Output, &str)) {
    let mut runs = 0;
    for n in 1..400 {
        let dir = tempfile::tempdir().unwrap();
        let what = format!("{call}:{fault}:when={n}");
        let output = traced(dir.path(), &what);
        check(dir.path(), &output, &what);
        // A fault in the thread that writes the next segment ahead is made good by the writer itself.
        let text = String::from_utf8_lossy(&output.stdout);
        if text.contains("done") && n > at_least {
            assert!(runs >= at_least, "{call} came {runs} times");
            return;
        }
        runs += usize::from(!text.contains("done"));
    }
    panic!("{call} never ends");
}

/// One kill at each call that a batch, a new segment and its preparation are made of.
#[test]
fn nothing_told_is_lost_by_a_kill_at_any_system_call() {
    for (call, at_least) in [("pwrite64", 12), ("fdatasync", 12), ("fsync", 4), ("rename", 4), ("openat", 8)] {
        each(call, "signal=KILL", at_least, |dir, output, what| {
            let text = String::from_utf8_lossy(&output.stdout);
            // strace ends as the program did that it ran.
            assert!(text.contains("done") || output.status.signal() == Some(9), "{what}: {output:?}");
            recovered(dir, acknowledged(output), what);
        });
    }
}

#[test]
fn a_kill_while_the_next_segment_is_written_costs_nothing() {
    each("write", "signal=KILL", 12, |dir, output, what| recovered(dir, acknowledged(output), what));
}

/// The disk fails or is full: the log stops at once and for good, and what it told is there.
#[test]
fn an_error_of_the_disk_stops_the_log_and_nothing_told_is_lost() {
    for (call, fault, at_least) in [
        ("fdatasync", "error=EIO", 8),
        ("pwrite64", "error=EIO", 8),
        ("pwrite64", "error=ENOSPC", 8),
        ("fsync", "error=EIO", 2),
        ("rename", "error=ENOSPC", 2),
    ] {
        each(call, fault, at_least, |dir, output, what| {
            let text = String::from_utf8_lossy(&output.stdout);
            let opened = text.contains("ack ") || text.contains("stopped") || text.contains("done");
            // An error before the log is open is an error of the opening; nothing was told.
            assert!(opened || !output.status.success(), "{what}: {output:?}");
            assert!(!opened || text.contains("done") || text.contains("stopped"), "{what}: {text}");
            recovered(dir, acknowledged(output), what);
        });
    }
}

/// Four batches on the disk, a fifth that was written and never flushed: of its sectors any may be there.
#[test]
fn any_subset_of_the_sectors_that_were_not_flushed_leaves_what_was_told() {
    const SECTOR: usize = 512;
    let options = Options { segment_bytes: 8192, first_segment_bytes: 8192 };
    let whole = tempfile::tempdir().unwrap();
    let mut wal = read_with(whole.path(), options).0.unwrap();
    for n in 0..4 {
        wal.append(7, &[&payload(n)]).unwrap();
        wal.commit().unwrap();
    }
    let file = whole.path().join("0000000000000000.seg");
    let before = fs::read(&file).unwrap();
    for n in 4..24 {
        wal.append(7, &[&payload(n)]).unwrap();
    }
    wal.commit().unwrap();
    drop(wal);
    let after = fs::read(&file).unwrap();
    let changed: Vec<usize> = (0..before.len() / SECTOR)
        .filter(|n| before[n * SECTOR..][..SECTOR] != after[n * SECTOR..][..SECTOR])
        .collect();
    assert!((5..=9).contains(&changed.len()), "{changed:?}");
    for subset in 0..1_u32 << changed.len() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("0000000000000000.seg"), &before).unwrap();
        let copy = fs::OpenOptions::new().write(true).open(dir.path().join("0000000000000000.seg")).unwrap();
        for (bit, sector) in changed.iter().enumerate() {
            if subset & 1 << bit != 0 {
                copy.write_all_at(&after[sector * SECTOR..][..SECTOR], (sector * SECTOR) as u64).unwrap();
            }
        }
        let (wal, seen) = read_with(dir.path(), options);
        let mut wal = wal.unwrap_or_else(|error| panic!("{subset:b}: {error}"));
        assert!(seen.len() >= 4, "{subset:b}: {}", seen.len());
        assert!(seen.iter().zip(0..).all(|(frame, n)| *frame == payload(n)), "{subset:b}");
        let complete = subset.count_ones() as usize == changed.len();
        assert_eq!(seen.len() == 24 && wal.torn().is_none(), complete, "{subset:b}");
        wal.cut_torn_tail().unwrap();
        wal.append(7, &[b"after"]).unwrap();
        wal.commit().unwrap();
        drop(wal);
        let (again, more) = read_with(dir.path(), options);
        assert_eq!(again.unwrap().torn(), None);
        assert_eq!((more.len(), more.last().unwrap().as_slice()), (seen.len() + 1, &b"after"[..]), "{subset:b}");
    }
}

/// Every prefix of what the process wrote, byte by byte, in a later segment: the log opens with what was told.
#[test]
fn every_prefix_of_an_unflushed_write_leaves_what_was_told() {
    let whole = tempfile::tempdir().unwrap();
    let mut wal = read_all(whole.path()).0.unwrap();
    for n in 0..5 {
        wal.append(7, &[&payload(n)]).unwrap();
        wal.commit().unwrap();
    }
    let end = wal.end();
    drop(wal);
    let last = whole.path().join(format!("{:016x}.seg", end.segment));
    let after = fs::read(&last).unwrap();
    let written = usize::try_from(end.offset).unwrap();
    let start = written - 20 - payload(4).len();
    for cut in start..=written {
        let dir = tempfile::tempdir().unwrap();
        for entry in fs::read_dir(whole.path()).unwrap() {
            let path = entry.unwrap().path();
            fs::copy(&path, dir.path().join(path.file_name().unwrap())).unwrap();
        }
        let mut torn = after.clone();
        torn[cut..].fill(0);
        fs::write(dir.path().join(last.file_name().unwrap()), torn).unwrap();
        let (wal, seen) = read_all(dir.path());
        let all_there = cut == written;
        assert_eq!(seen.len(), if all_there { 5 } else { 4 }, "{cut}");
        let torn = wal.unwrap().torn();
        assert_eq!(torn.is_some(), !all_there && cut > start, "{cut}");
        if let Some(torn) = torn {
            assert_eq!(torn.at, Position { segment: end.segment, offset: start as u64 });
        }
    }
}
