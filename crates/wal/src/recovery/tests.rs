//! The log on real files: what was committed is there again, and nothing else passes for it.

use std::{io::Write, os::unix::fs::FileExt};

use proptest::prelude::*;

use super::*;

const TINY: Options = Options { segment_bytes: 512, first_segment_bytes: 256 };

fn read_all(dir: &Path, options: Options) -> (Result<Wal, OpenError>, Vec<Vec<u8>>) {
    let mut seen = Vec::new();
    let wal = Wal::open(dir, options, &mut |frame| seen.push(frame.payload.to_vec()));
    (wal, seen)
}

fn written(dir: &Path, batches: &[&[&[u8]]]) {
    let mut wal = read_all(dir, Options { segment_bytes: 4096, first_segment_bytes: 4096 }).0.unwrap();
    for batch in batches {
        for payload in *batch {
            wal.append(1, &[payload]).unwrap();
        }
        wal.commit().unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn what_is_committed_is_read_back_across_segments_and_restarts(
        payloads in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..900), 1..20),
        restart in 0usize..20,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let mut wal = Some(read_all(dir.path(), TINY).0.unwrap());
        let mut end = Position::default();
        for (n, payload) in payloads.iter().enumerate() {
            if n == restart {
                drop(wal.take());
                wal = Some(read_all(dir.path(), TINY).0.unwrap());
            }
            let open = wal.as_mut().unwrap();
            open.append(9, &[payload]).unwrap();
            end = open.commit().unwrap();
        }
        let mut reader = Wal::reader(dir.path(), Position::default(), end);
        let mut streamed = Vec::new();
        while let Some(frame) = reader.next_frame().unwrap() {
            streamed.push(frame.payload.to_vec());
        }
        prop_assert_eq!(&streamed, &payloads);
        drop(wal);
        prop_assert_eq!(read_all(dir.path(), TINY).1, payloads);
    }
}

#[test]
fn what_was_appended_and_not_committed_is_not_there() {
    let dir = tempfile::tempdir().unwrap();
    let mut wal = read_all(dir.path(), TINY).0.unwrap();
    wal.append(1, &[b"kept"]).unwrap();
    wal.commit().unwrap();
    wal.append(1, &[b"lost"]).unwrap();
    drop(wal);
    assert_eq!(read_all(dir.path(), TINY).1, [b"kept".to_vec()]);
}

#[test]
fn a_second_process_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let _held = read_all(dir.path(), TINY).0.unwrap();
    assert!(matches!(read_all(dir.path(), TINY).0, Err(OpenError::Held)));
}

#[test]
fn a_tail_torn_at_any_byte_is_reported_and_can_be_cut() {
    let whole = tempfile::tempdir().unwrap();
    written(whole.path(), &[&[b"one"], &[b"two", b"three"]]);
    let file = segment::path(whole.path(), 0);
    let bytes = fs::read(&file).unwrap();
    let second = 32 + 20 + 3;
    let end = second + 20 + 3 + 20 + 5;
    for cut in second + 1..end {
        let dir = tempfile::tempdir().unwrap();
        let mut torn = bytes.clone();
        torn[cut..].fill(0);
        File::create(segment::path(dir.path(), 0)).unwrap().write_all(&torn).unwrap();
        let (wal, seen) = read_all(dir.path(), TINY);
        let mut wal = wal.unwrap();
        let kept = if cut >= second + 23 { 2 } else { 1 };
        assert_eq!(seen.len(), kept, "cut at {cut}");
        if let Some(found) = wal.torn() {
            assert!(matches!(wal.append(1, &[b"x"]), Err(crate::WalError::TornTail(_))));
            assert!(found.at.offset >= second as u64);
            wal.cut_torn_tail().unwrap();
        }
        wal.append(1, &[b"after"]).unwrap();
        wal.commit().unwrap();
        drop(wal);
        let (again, seen) = read_all(dir.path(), TINY);
        assert_eq!(again.unwrap().torn(), None);
        assert_eq!(seen.last().unwrap(), b"after");
    }
}

#[test]
fn damage_before_acknowledged_batches_is_never_taken_for_a_torn_tail() {
    let dir = tempfile::tempdir().unwrap();
    written(dir.path(), &[&[b"one"], &[b"two"], &[b"three"], &[b"four"]]);
    let file = OpenOptions::new().write(true).open(segment::path(dir.path(), 0)).unwrap();
    file.write_all_at(b"X", 32 + 21).unwrap();
    assert!(matches!(read_all(dir.path(), TINY).0, Err(OpenError::Damaged(at)) if at.offset == 32));
}

/// The first crash takes the end of a batch, the second one tears what was written behind it.
#[test]
fn a_second_crash_behind_half_a_batch_is_a_torn_tail_too() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { segment_bytes: 4096, first_segment_bytes: 4096 };
    written(dir.path(), &[&[b"one"], &[b"two", b"lost"]]);
    let path = segment::path(dir.path(), 0);
    let tear = |payload: &[u8]| {
        let mut bytes = std::fs::read(&path).unwrap();
        let at = bytes.windows(payload.len()).position(|window| window == payload).unwrap();
        bytes[at] ^= 1;
        std::fs::write(&path, bytes).unwrap();
    };
    tear(b"lost");
    let (wal, seen) = read_all(dir.path(), options);
    assert_eq!(seen, [b"one".to_vec(), b"two".to_vec()]);
    let mut wal = wal.unwrap();
    wal.cut_torn_tail().unwrap();
    wal.append(1, &[b"three"]).unwrap();
    wal.append(1, &[b"four"]).unwrap();
    wal.commit().unwrap();
    drop(wal);
    assert_eq!(read_all(dir.path(), options).1.len(), 4);
    tear(b"three");
    let (wal, seen) = read_all(dir.path(), options);
    assert_eq!(seen, [b"one".to_vec(), b"two".to_vec()]);
    let mut wal = wal.unwrap();
    assert!(wal.torn().is_some());
    // What comes behind it once more is acknowledged, and then no damage before it is a torn tail.
    wal.cut_torn_tail().unwrap();
    for payload in [b"five", b"six!", b"eins"] {
        wal.append(1, &[payload]).unwrap();
        wal.commit().unwrap();
    }
    drop(wal);
    assert_eq!(read_all(dir.path(), options).1.len(), 5);
    tear(b"five");
    assert!(matches!(read_all(dir.path(), options).0, Err(OpenError::Damaged(_))));
}

#[test]
fn a_missing_or_shortened_segment_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut wal = read_all(dir.path(), TINY).0.unwrap();
    for _ in 0..12 {
        wal.append(1, &[&[7; 200]]).unwrap();
        wal.commit().unwrap();
    }
    drop(wal);
    let middle = segment::path(dir.path(), 1);
    let bytes = fs::read(&middle).unwrap();
    fs::write(&middle, &bytes[..300]).unwrap();
    assert!(matches!(read_all(dir.path(), TINY).0, Err(OpenError::Damaged(at)) if at.segment == 1));
    fs::remove_file(&middle).unwrap();
    assert!(matches!(read_all(dir.path(), TINY).0, Err(OpenError::MissingSegment(1))));
}

#[test]
fn a_write_error_stops_the_log_for_good() {
    let dir = tempfile::tempdir().unwrap();
    let mut wal = read_all(dir.path(), TINY).0.unwrap();
    // A descriptor that cannot be written stands for the disk that fails.
    wal.file = File::open(segment::path(dir.path(), 0)).unwrap();
    wal.append(1, &[b"x"]).unwrap();
    assert!(matches!(wal.commit(), Err(crate::WalError::Io(_))));
    assert!(matches!(wal.append(1, &[b"x"]), Err(crate::WalError::Stopped)));
    assert!(matches!(wal.commit(), Err(crate::WalError::Stopped)));
}

#[test]
fn a_segment_that_cannot_be_made_stops_the_log_and_keeps_what_was_committed() {
    let dir = tempfile::tempdir().unwrap();
    let mut wal = read_all(dir.path(), Options { segment_bytes: 512, first_segment_bytes: 512 }).0.unwrap();
    wal.append(1, &[&[1; 100]]).unwrap();
    wal.commit().unwrap();
    // A directory with the name of the next segment's file makes its creation fail, as a full disk would.
    fs::create_dir(dir.path().join(format!("{:016x}.prepared", 1))).unwrap();
    assert!(matches!(wal.append(1, &[&[2; 480]]), Err(crate::WalError::Io(_))));
    drop(wal);
    fs::remove_dir(dir.path().join(format!("{:016x}.prepared", 1))).unwrap();
    assert_eq!(read_all(dir.path(), TINY).1, [vec![1; 100]]);
}
