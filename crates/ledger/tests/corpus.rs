//! Three verifiers, written apart (one of them by others), one corpus of good and damaged logs, one verdict.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

#[path = "support/corpus.rs"]
#[expect(dead_code, reason = "the other tests use the rest")]
mod corpus;
#[path = "support/others.rs"]
mod others;
#[path = "support/verdicts.rs"]
mod verdicts;

use std::{collections::BTreeSet, fs, path::Path, process::Command};

use cogward_ledger::verify::{Options, verify};
use serde_json::{Value, json};
use verdicts::{ours, verify_py};

/// What a leaf says is nothing that a tool for any log could know.
const SEEN_BY_US_ONLY: [&str; 6] = ["form", "seq", "prev", "time", "tenant", "run_chain"];

#[test]
fn all_verifiers_give_the_verdict_that_each_log_of_the_corpus_must_have() {
    let root = tempfile::tempdir().unwrap();
    let cases = corpus::cases();
    assert_eq!(cases.iter().map(|case| &case.name).collect::<BTreeSet<_>>().len(), cases.len(), "a name stands twice");
    let mut lines = Vec::new();
    for case in &cases {
        let dir = root.path().join(&case.name);
        corpus::write(&case.files, &dir);
        lines.push(json!({"dir": dir, "key": case.key, "against": case.against}));
    }
    let theirs = verify_py(&lines);
    assert_eq!(theirs.len(), cases.len());
    let (mut wrong, mut words) = (Vec::new(), BTreeSet::new());
    for (case, python) in cases.iter().zip(theirs) {
        let dir = root.path().join(&case.name);
        let (key, against) = (case.key.as_deref(), case.against.as_deref());
        let expected = json!([case.verdict.0, case.verdict.1]);
        words.insert(case.verdict.0);
        let rust = ours(&dir, key, against);
        if rust != expected || python != expected {
            wrong.push(format!("{}: must be {expected}, cogward-verify {rust}, verify.py {python}", case.name));
        }
        // A full hash tile that is too long is `form` for us; for others it is no tile.
        let unseen = SEEN_BY_US_ONLY.contains(&case.verdict.0) && case.verdict.1.is_some();
        let holds = case.verdict.0 == "ok" || unseen && case.name != "damaged-and-contradicted";
        // Of what they know nothing they are not told.
        let (holds, key, against) = case.public.map_or((holds, key, against), |holds| (holds, None, None));
        if others::holds(&dir, key, against) != holds {
            wrong.push(format!("{}: must be {expected}, public tooling says {}", case.name, !holds));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // Every word that a verdict can have is in the corpus.
    let all = [
        "against",
        "anchor",
        "bytes",
        "form",
        "key",
        "missing",
        "ok",
        "prev",
        "root",
        "run_chain",
        "seq",
        "signature",
        "tenant",
        "tile",
        "time",
        "timestamp",
    ];
    assert_eq!(words.into_iter().collect::<Vec<_>>(), all);
    assert!(cases.len() > 600, "{}", cases.len());
}

// The part that `scripts/mutate-verifier.py` runs against verifiers that leave something out.

#[test]
fn our_own_verdict_of_logs_is_the_one_that_each_must_have() {
    our_own_verdict(corpus::of_logs());
}

#[test]
fn our_own_verdict_of_rotated_logs_is_the_one_that_each_must_have() {
    our_own_verdict(corpus::of_rotated_logs());
}

#[test]
fn our_own_verdict_of_anchored_logs_is_the_one_that_each_must_have() {
    our_own_verdict(corpus::of_anchored_logs());
}

#[test]
fn our_own_verdict_of_stamped_logs_is_the_one_that_each_must_have() {
    our_own_verdict(corpus::of_stamped_logs());
}

fn our_own_verdict(cases: Vec<corpus::Case>) {
    let root = tempfile::tempdir().unwrap();
    for case in cases {
        let dir = root.path().join(&case.name);
        corpus::write(&case.files, &dir);
        let found = ours(&dir, case.key.as_deref(), case.against.as_deref());
        assert_eq!(found, json!([case.verdict.0, case.verdict.1]), "{}", case.name);
        // Which of the keys it was that the reader knew is in the report.
        let known = match &*case.name {
            "keys-known-first" | "keys-known-first-of-one-kind" => Some((2, Some(0), false)),
            "keys-known-revoked-one" => Some((2, Some(1), true)),
            "keys-as-they-must-be" | "keys-known-present" | "keys-known-present-of-one-kind" => Some((2, None, false)),
            _ => None,
        };
        if let Some(known) = known {
            let key = case.key.as_ref().map(|key| key.parse().unwrap());
            let log = verify(&dir, &Options { key: key.as_ref(), ..Options::default() }).unwrap();
            assert_eq!(
                (log.generation, log.pinned_generation, log.pinned_revoked),
                known,
                "{} in the report",
                case.name
            );
        }
        if case.name == "good-700" {
            let log = verify(&dir, &Options::default()).unwrap();
            assert_eq!((log.runs, log.closed_runs), (2, 1), "good-700 counts its runs");
        }
    }
}

#[test]
fn all_verifiers_see_every_flipped_byte_of_a_small_log() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let files = corpus::small();
    corpus::write(&files, one.path());
    corpus::write(&files, two.path());
    let lines: Vec<Value> =
        files.keys().map(|path| json!({"dir": two.path(), "path": two.path().join(path)})).collect();
    let theirs = std::thread::spawn(move || verify_py(&lines));
    let mut found = Vec::new();
    for (path, whole) in &files {
        let path = one.path().join(path);
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 1 << (at % 8);
            fs::write(&path, damaged).unwrap();
            let verdict = ours(one.path(), None, None);
            assert_ne!(verdict[0], "ok", "{} byte {at}", path.display());
            // Their signatures are slow in a build for tests: each of their bytes costs as much as many of ours.
            assert!(at % 16 != 0 || !others::holds(one.path(), None, None), "{} byte {at}", path.display());
            found.push((format!("{} byte {at}", path.display()), verdict));
        }
        fs::write(&path, whole).unwrap();
    }
    assert_eq!(ours(one.path(), None, None), json!(["ok", 4]));
    let theirs = theirs.join().unwrap();
    assert_eq!(found.len(), theirs.len());
    for ((place, ours), theirs) in found.iter().zip(&theirs) {
        assert_eq!(ours, theirs, "{place}");
    }
    assert!(found.len() > 2_000, "{}", found.len());
}

/// The corpus is the same on every machine: a digest of it, so that others can name what they ran. A signature of
/// ML-DSA-44 is another each time that it is made, so of the logs with such keys it is names, lengths and verdicts.
#[test]
fn the_corpus_is_always_the_same() {
    let digest = |cases: &[corpus::Case]| {
        let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
        for case in cases {
            let line = format!("{} {:?} {:?}\n", case.name, case.key, case.verdict);
            context.update(line.as_bytes());
            for (path, bytes) in &case.files {
                context.update(format!("{path} {}\n", bytes.len()).as_bytes());
                context.update(if case.public.is_none() { bytes } else { &[] });
            }
        }
        context.finish()
    };
    assert_eq!(digest(&corpus::cases()).as_ref(), digest(&corpus::cases()).as_ref());
}

/// What was kept outside is the only thing that shows a log written anew by who holds its key: the report says so.
#[test]
fn the_report_says_what_only_a_kept_checkpoint_can_show() {
    let dir = tempfile::tempdir().unwrap();
    let cases = corpus::cases();
    let case = |name: &str| cases.iter().find(|case| case.name == name).unwrap();
    let alone = case("rewritten-by-the-keys-holder-alone");
    corpus::write(&alone.files, &dir.path().join("pack"));
    let kept = case("rewritten-before-a-kept-checkpoint-of-599").against.clone().unwrap();
    let longer = corpus::checkpoint(&corpus::leaves(700));
    fs::write(dir.path().join("kept"), &kept).unwrap();
    fs::write(dir.path().join("longer"), &longer).unwrap();
    fs::write(dir.path().join("beginning"), corpus::checkpoint(&corpus::leaves(600)[..5])).unwrap();
    let now = String::from_utf8(alone.files["checkpoint"].clone()).unwrap();
    let python = std::env::var("COGWARD_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/verify.py");
    for program in [vec![env!("CARGO_BIN_EXE_cogward-verify")], vec![&*python, "-B", script.to_str().unwrap()]] {
        let run = |against: Option<&str>| {
            let mut command = Command::new(program[0]);
            command.args(&program[1..]).arg(dir.path().join("pack"));
            if let Some(against) = against {
                command.arg("--against").arg(dir.path().join(against));
            }
            let output = command.output().unwrap();
            (output.status.code(), String::from_utf8(output.stdout).unwrap())
        };
        let (code, text) = run(None);
        assert!(code == Some(0) && text.contains("wrote the log anew, this cannot show it"), "{text}");
        let (code, text) = run(Some("beginning"));
        assert!(code == Some(0) && text.contains("contains the 5 leaves of the older checkpoint"), "{text}");
        assert!(!text.contains("cannot show it"), "{text}");
        for (name, older) in [("kept", &kept), ("longer", &longer)] {
            let (code, text) = run(Some(name));
            assert!(code == Some(9) && text.starts_with("FAILED  against: "), "{text}");
            assert!(text.contains(older.as_str()) && text.contains(&now), "both notes are shown: {text}");
        }
        assert_eq!(run(Some("nowhere")).0, Some(2));
    }
    let output = Command::new(env!("CARGO_BIN_EXE_cogward-verify"))
        .args(["--json", "--against"])
        .args([dir.path().join("kept"), dir.path().join("pack")])
        .output()
        .unwrap();
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&json["notes"]["older"], &json["notes"]["now"]), (&json!(kept), &json!(now)));
}

/// verify.py knows the log itself. What it cannot judge without the scripts beside it, it refuses, and says what is missing.
#[test]
fn a_script_without_those_beside_it_verifies_nothing_that_it_does_not_know() {
    let dir = tempfile::tempdir().unwrap();
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts");
    let python = std::env::var("COGWARD_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let cases = corpus::cases();
    let pack = |name: &str| {
        let path = dir.path().join(name);
        corpus::write(&cases.iter().find(|case| case.name == name).unwrap().files, &path);
        path
    };
    let (plain, rotated, anchored) = (pack("good-4"), pack("keys-as-they-must-be"), pack("plane-as-it-must-be"));
    let (part, both) = (pack("good-3"), pack("plane-keys-as-they-must-be"));
    fs::write(part.join("pack.json"), "{}").unwrap();
    let run = |with: &[&str], pack: &Path| {
        let own = tempfile::tempdir().unwrap();
        for script in with {
            fs::copy(scripts.join(script), own.path().join(script)).unwrap();
        }
        let output = Command::new(&python).arg(own.path().join("verify.py")).arg(pack).output().unwrap();
        assert_eq!(fs::read_dir(own.path()).unwrap().count(), with.len(), "nothing is left beside the scripts");
        let said = String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
        (output.status.code().unwrap(), said)
    };
    assert_eq!(run(&["verify.py"], &plain).0, 0);
    let whole = ["verify.py", "verify_keys.py", "verify_plane.py"];
    for (with, pack, missing) in [
        (&whole[..1], &rotated, "verify_keys.py"),
        (&whole[..1], &anchored, "verify_plane.py"),
        (&["verify.py", "verify_plane.py"][..], &both, "verify_keys.py"),
        (&whole[..], &part, "verify_part.py"),
    ] {
        let (code, said) = run(with, pack);
        assert_eq!(code, 2, "{said}");
        assert!(said.contains(missing) && said.contains("nothing was verified") && !said.contains("OK"), "{said}");
    }
    for pack in [&rotated, &anchored, &both] {
        let (code, said) = run(&whole, pack);
        assert!(code == 0 && said.starts_with("OK"), "{said}");
    }
}
