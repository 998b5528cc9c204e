//! Time stamps of the plane log: `openssl ts` as the authority, both verifiers, and answers that are none.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, atomic::AtomicU64},
};

use cogward_evidence::{Evidence, LogName, StampError};
use cogward_ledger::{timestamp::TimestampError, verify::verify_dir};
use cogward_model::{Clock, SystemClock};
use support::{SetClock, event, open, options, python, tenant};

/// The authority of the tests, in a directory of its own.
struct Authority(PathBuf);

impl Authority {
    fn new(dir: &Path) -> Self {
        let authority = Self(dir.join("tsa"));
        authority.script(&["make".as_ref(), authority.0.as_os_str()]);
        authority
    }

    fn script(&self, arguments: &[&std::ffi::OsStr]) {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/tsa/tsa.py");
        let done = Command::new("python3").arg("-B").arg(script).args(arguments).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }

    fn answer(&self, query: &[u8]) -> Vec<u8> {
        let (asked, answer) = (self.0.join("asked.tsq"), self.0.join("answer.tsr"));
        fs::write(&asked, query).unwrap();
        self.script(&["reply".as_ref(), self.0.as_os_str(), asked.as_os_str(), answer.as_os_str()]);
        fs::read(answer).unwrap()
    }

    /// What an auditor runs.
    fn verifies(&self, answer: &Path, data: &Path) -> bool {
        let mut openssl = Command::new("openssl");
        openssl.args(["ts", "-verify", "-in"]).arg(answer).arg("-data").arg(data);
        openssl.arg("-CAfile").arg(self.0.join("ca.pem")).output().unwrap().status.success()
    }
}

/// Lets the plane log grow by one, and publishes it.
async fn grow(evidence: &Evidence, name: &str) -> u64 {
    evidence.record(event(name, None)).await.unwrap();
    evidence.checkpoint(&tenant(name)).await.unwrap();
    let plane = evidence.plane_checkpoint().await.unwrap();
    evidence.until_published(&LogName::Plane, plane.size).await.size
}

/// What is compared of two verdicts: what was found where, or how many leaves are stamped when by what.
fn ours(pack: &Path) -> serde_json::Value {
    match verify_dir(pack, None) {
        Ok(log) => serde_json::json!(["ok", log.leaves, log.stamped]),
        Err(finding) => serde_json::json!([finding.what, finding.leaf]),
    }
}

/// The second verifier's verdict for every byte of the files that come a line each, with that byte changed.
const DRIVER: &str = r#"
import json, sys
sys.path.insert(0, sys.argv[1])
sys.dont_write_bytecode = True
import verify
def verdict(root):
    try:
        log = verify.verify(root, None)
        return ["ok", log["leaves"], log["stamped"]]
    except verify.Finding as finding:
        return [finding.what, finding.leaf]
print(json.dumps(verdict(sys.argv[2])))
for line in sys.stdin:
    step, path = line.rstrip("\n").split("\t")
    whole = open(path, "rb").read()
    for at in range(0, len(whole), int(step)):
        damaged = bytearray(whole)
        damaged[at] ^= 1 << (at % 8)
        open(path, "wb").write(damaged)
        print(json.dumps(verdict(sys.argv[2])))
    open(path, "wb").write(whole)
"#;

fn theirs(pack: &Path, files: &[PathBuf]) -> Vec<serde_json::Value> {
    let list = pack.with_extension("files");
    let lines = files.iter().map(|path| format!("{}\t{}\n", step(path), path.display()));
    fs::write(&list, lines.collect::<String>()).unwrap();
    let scripts = concat!(env!("CARGO_MANIFEST_DIR"), "/../../scripts");
    let mut driver = python();
    driver.args(["-c", DRIVER, scripts]).arg(pack).stdin(fs::File::open(&list).unwrap());
    let output = driver.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Signatures of kilobytes, one bit of which is like another.
fn step(path: &Path) -> usize {
    if path.ends_with("checkpoint") || path.ends_with("checkpoint.tlog-proof") { 17 } else { 1 }
}

fn files(pack: &Path) -> Vec<PathBuf> {
    ["leaf.json", "disclosure", "checkpoint.tlog-proof", "checkpoint", "checkpoint.tsr"]
        .map(|name| pack.join("plane/timestamp").join(name))
        .into()
}

#[tokio::test]
async fn a_pack_has_the_time_stamp_and_everybody_can_check_it() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new(dir.path());
    let evidence = open(&dir.path().join("evidence"));
    assert!(evidence.timestamp_ask().is_none(), "there is nothing to be stamped");
    let stamped_leaves = {
        grow(&evidence, "other").await;
        grow(&evidence, "acme").await;
        evidence.checkpoint(&tenant("acme")).await.unwrap().size
    };
    // Before there is one, packs are without.
    evidence.export(&tenant("acme"), &dir.path().join("without")).await.unwrap();
    assert!(!dir.path().join("without/plane/timestamp").exists());
    assert_eq!(ours(&dir.path().join("without"))[2], serde_json::Value::Null);
    let ask = evidence.timestamp_ask().unwrap();
    let answer = authority.answer(&ask.to_der());
    let taken = evidence.add_timestamp(&ask, answer.clone()).await.unwrap();
    assert_eq!((taken.size, taken.offset_ms, taken.known), (ask.checkpoint.size, Some(0), false));
    // The same once more is no other one.
    assert!(evidence.add_timestamp(&ask, answer).await.unwrap().known);
    // The files that are kept are those that an auditor wants.
    let kept = dir.path().join("evidence/plane/timestamps");
    let (note, tsr) = (kept.join(format!("{}.checkpoint", taken.size)), kept.join(format!("{}.0.tsr", taken.size)));
    assert!(authority.verifies(&tsr, &note));
    // The log goes on; what was stamped is a beginning of it.
    for _ in 0..40 {
        grow(&evidence, "acme").await;
    }
    let pack = dir.path().join("pack");
    let leaves = evidence.export(&tenant("acme"), &pack).await.unwrap().leaves;
    let found = ours(&pack);
    assert_eq!((&found[0], found[1].as_u64()), (&"ok".into(), Some(leaves)));
    assert_eq!((found[2]["leaves"].as_u64(), leaves > stamped_leaves), (Some(stamped_leaves), true));
    assert_eq!(found[2]["time"], taken.time.to_string());
    assert!(authority.verifies(&pack.join("plane/timestamp/checkpoint.tsr"), &pack.join("plane/timestamp/checkpoint")));
    // A tenant that came later is in no time stamp yet.
    grow(&evidence, "late").await;
    evidence.export(&tenant("late"), &dir.path().join("late")).await.unwrap();
    assert!(!dir.path().join("late/plane/timestamp").exists());
    // Its neighbour's pack says nothing of it.
    evidence.export(&tenant("other"), &dir.path().join("other")).await.unwrap();
    assert_eq!(ours(&dir.path().join("other"))[2]["leaves"], 1);
    drop(evidence);
    // After a restart nothing is remembered but the files, and the leaf is looked for in the bundles.
    let evidence = open(&dir.path().join("evidence"));
    evidence.restore_timestamps().unwrap();
    assert_eq!(evidence.timestamp().unwrap().time, taken.time);
    evidence.until_published(&LogName::Plane, taken.size).await;
    let again = dir.path().join("again");
    evidence.export(&tenant("acme"), &again).await.unwrap();
    assert_eq!(ours(&again)[2], found[2]);
    assert_eq!(theirs(&again, &[])[0], ours(&again));
}

#[tokio::test]
async fn both_verifiers_find_the_same_in_every_damaged_byte_of_a_time_stamp() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new(dir.path());
    let evidence = open(&dir.path().join("evidence"));
    for name in ["other", "acme", "acme", "other"] {
        grow(&evidence, name).await;
    }
    let ask = evidence.timestamp_ask().unwrap();
    evidence.add_timestamp(&ask, authority.answer(&ask.to_der())).await.unwrap();
    grow(&evidence, "acme").await;
    let pack = dir.path().join("pack");
    evidence.export(&tenant("acme"), &pack).await.unwrap();
    let good = ours(&pack);
    assert_eq!((&good[0], &good[2]["leaves"]), (&"ok".into(), &2.into()));
    let list = files(&pack);
    let mut theirs = theirs(&pack, &list).into_iter();
    assert_eq!(theirs.next(), Some(good));
    let (mut flips, mut unseen) = (0, 0);
    for path in &list {
        let whole = fs::read(path).unwrap();
        for at in (0..whole.len()).step_by(step(path)) {
            let mut damaged = whole.clone();
            damaged[at] ^= 1 << (at % 8);
            fs::write(path, &damaged).unwrap();
            let found = ours(&pack);
            assert_eq!(theirs.next(), Some(found.clone()), "{} byte {at}", path.display());
            // The authority's certificate and signature are not read by the verifiers, and only they hold the time and
            // the number: that is what `openssl ts -verify` is for, which must notice.
            if found[0] == "ok" {
                assert!(path.ends_with("checkpoint.tsr"), "{} byte {at}", path.display());
                unseen += 1;
            }
            flips += 1;
        }
        fs::write(path, whole).unwrap();
    }
    assert!(flips > 2_000 && unseen < 1_600, "{flips} {unseen}");
    // Some of those that are not seen here: the time, and the signature at the end.
    let tsr = pack.join("plane/timestamp/checkpoint.tsr");
    let whole = fs::read(&tsr).unwrap();
    let time = whole.windows(2).position(|bytes| bytes == [0x18, 0x0f]).unwrap() + 15;
    for at in [time, whole.len() - 1, whole.len() - 100] {
        let mut damaged = whole.clone();
        damaged[at] ^= 1;
        fs::write(&tsr, damaged).unwrap();
        assert_eq!(ours(&pack)[0], "ok");
        assert!(!authority.verifies(&tsr, &pack.join("plane/timestamp/checkpoint")), "byte {at}");
    }
}

#[tokio::test]
async fn what_stands_in_a_pack_is_of_its_own_log_and_its_own_time() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new(dir.path());
    let evidence = open(&dir.path().join("evidence"));
    for name in ["other", "acme"] {
        grow(&evidence, name).await;
    }
    let ask = evidence.timestamp_ask().unwrap();
    evidence.add_timestamp(&ask, authority.answer(&ask.to_der())).await.unwrap();
    let pack = |name: &'static str| {
        let (evidence, dest) = (evidence.clone(), dir.path().join(name));
        async move {
            evidence.export(&tenant(name), &dest).await.unwrap();
            dest
        }
    };
    let (acme, other) = (pack("acme").await, pack("other").await);
    let put = |from: &Path, to: &Path, names: &[&str]| {
        for name in names {
            let bytes = fs::read(from.join("plane/timestamp").join(name)).unwrap();
            fs::write(to.join("plane/timestamp").join(name), bytes).unwrap();
        }
    };
    // Another tenant's place.
    put(&other, &acme, &["leaf.json", "disclosure", "checkpoint.tlog-proof"]);
    assert_eq!(ours(&acme)[0], "anchor");
    assert_eq!(theirs(&acme, &[])[0], ours(&acme));
    fs::remove_dir_all(&acme).unwrap();
    let acme = pack("acme").await;
    // A time stamp of another checkpoint.
    fs::write(acme.join("plane/timestamp/checkpoint.tsr"), {
        grow(&evidence, "acme").await;
        authority.answer(&evidence.timestamp_ask().unwrap().to_der())
    })
    .unwrap();
    assert_eq!(ours(&acme)[0], "timestamp");
    assert_eq!(theirs(&acme, &[])[0], ours(&acme));
    // A later one in an older pack: it is about more leaves than there are.
    let later = evidence.timestamp_ask().unwrap();
    evidence.add_timestamp(&later, authority.answer(&later.to_der())).await.unwrap();
    let newer = dir.path().join("newer");
    evidence.export(&tenant("acme"), &newer).await.unwrap();
    put(&newer, &acme, &["leaf.json", "disclosure", "checkpoint.tlog-proof", "checkpoint", "checkpoint.tsr"]);
    assert_eq!(ours(&acme)[0], "anchor");
    assert_eq!(theirs(&acme, &[])[0], ours(&acme));
    // A file that is not there.
    for path in files(&newer) {
        let bytes = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        assert_eq!(ours(&newer)[0], "missing");
        assert_eq!(theirs(&newer, &[])[0], ours(&newer));
        fs::write(&path, bytes).unwrap();
    }
    assert_eq!(ours(&newer)[0], "ok");
}

#[tokio::test]
async fn an_answer_that_is_brought_by_hand_must_be_to_a_request_of_this_plane() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new(dir.path());
    let at = dir.path().join("evidence");
    let evidence = open(&at);
    assert!(matches!(evidence.timestamp_ask_by_file().await, Err(StampError::Empty)));
    grow(&evidence, "acme").await;
    let ask = evidence.timestamp_ask_by_file().await.unwrap();
    let answer = authority.answer(&ask.to_der());
    // One that this plane made and did not hand out as a file.
    let unasked = authority.answer(&evidence.timestamp_ask().unwrap().to_der());
    assert!(matches!(evidence.import_timestamp(unasked).await, Err(StampError::Unasked)));
    // Another plane's.
    let other = open(&dir.path().join("other"));
    grow(&other, "acme").await;
    assert!(matches!(other.import_timestamp(answer.clone()).await, Err(StampError::Unasked)));
    let foreign = authority.answer(&other.timestamp_ask_by_file().await.unwrap().to_der());
    assert!(matches!(evidence.import_timestamp(foreign.clone()).await, Err(StampError::Unasked)));
    // Even when its request is put among ours: the note is not signed by this plane.
    let asked = |at: &Path| at.join("plane/timestamps/asked");
    for entry in fs::read_dir(asked(&dir.path().join("other"))).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, asked(&at).join(path.file_name().unwrap())).unwrap();
    }
    assert!(matches!(evidence.import_timestamp(foreign).await, Err(StampError::Note(_))));
    for garbage in [&b""[..], b"0\x03\x02\x01\x00", &[0x30, 0x80, 0, 0], &vec![0x30; 70_000], &answer[..900]] {
        assert!(matches!(evidence.import_timestamp(garbage.to_vec()).await, Err(StampError::Answer(_))));
    }
    assert!(evidence.timestamp().is_none());
    // The plane goes on and is started anew: the answer is taken days later.
    grow(&evidence, "acme").await;
    drop(evidence);
    let evidence = open(&at);
    evidence.until_published(&LogName::Plane, ask.checkpoint.size).await;
    let taken = evidence.import_timestamp(answer.clone()).await.unwrap();
    assert_eq!((taken.size, taken.offset_ms), (ask.checkpoint.size, Some(0)));
    assert!(matches!(evidence.import_timestamp(answer).await, Err(StampError::Unasked)), "it is answered");
    // Requests that nobody answers are not kept for ever.
    let first = evidence.timestamp_ask_by_file().await.unwrap();
    for _ in 0..70 {
        evidence.timestamp_ask_by_file().await.unwrap();
    }
    assert_eq!(fs::read_dir(asked(&at)).unwrap().count(), 64);
    let late = authority.answer(&first.to_der());
    assert!(matches!(evidence.import_timestamp(late).await, Err(StampError::Unasked)));
}

#[tokio::test]
async fn an_answer_to_another_request_is_not_taken_and_a_wrong_clock_is_seen() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new(dir.path());
    // This host's clock is an hour behind.
    let behind = SystemClock.now().unix_micros() - 3_600_000_000;
    let clock = Arc::new(SetClock(AtomicU64::new(behind)));
    let at = dir.path().join("evidence");
    let evidence = Evidence::open(cogward_evidence::EvidenceOptions { clock, ..options(&at) }).unwrap();
    grow(&evidence, "acme").await;
    let (one, other) = (evidence.timestamp_ask().unwrap(), evidence.timestamp_ask().unwrap());
    let answer = authority.answer(&one.to_der());
    let refused = evidence.add_timestamp(&other, answer.clone()).await.unwrap_err();
    assert!(matches!(refused, StampError::Answer(TimestampError::Nonce)));
    assert!(!at.join("plane/timestamps").exists());
    let offset = evidence.add_timestamp(&one, answer).await.unwrap().offset_ms.unwrap();
    assert!((-3_700_000..-3_598_000).contains(&offset), "{offset}");
    // What lies there is not believed because of its name.
    drop(evidence);
    let kept = at.join("plane/timestamps");
    let size = one.checkpoint.size;
    fs::write(kept.join(format!("{}.0.tsr", size + 5)), b"x").unwrap();
    fs::write(kept.join(format!("{}.checkpoint", size + 5)), one.checkpoint.note.as_bytes()).unwrap();
    let evidence = open(&at);
    evidence.restore_timestamps().unwrap();
    assert_eq!(evidence.timestamp().unwrap().size, size);
}
