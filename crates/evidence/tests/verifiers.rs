//! Two verifiers, written apart, one corpus of good and damaged logs, one verdict.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::{fs, path::Path};

use cogward_ledger::verify::verify_dir;
use support::{event, files, new_run, open, python, tenant};

/// Damages the pack byte by byte and says, a line each, what verify.py finds.
const DRIVER: &str = r#"
import json, os, sys
sys.path.insert(0, sys.argv[1])
sys.dont_write_bytecode = True
import verify, verify_part
def verdict(root):
    try:
        if os.path.lexists(root + "/pack.json"):
            return ["ok", verify_part.verify_part(root, None)["leaves"]]
        return ["ok", verify.verify(root, None)["leaves"]]
    except verify.Finding as finding:
        return [finding.what, finding.leaf]
if sys.argv[3] == "once":
    print(json.dumps(verdict(sys.argv[2])))
    sys.exit()
step = int(sys.argv[3])
for line in sys.stdin:
    path = line.rstrip("\n")
    whole = open(path, "rb").read()
    for at in range(0, len(whole), step):
        damaged = bytearray(whole)
        damaged[at] ^= 1 << (at % 8)
        open(path, "wb").write(damaged)
        print(json.dumps(verdict(sys.argv[2])))
    open(path, "wb").write(whole)
"#;

fn scripts() -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts").to_str().unwrap().to_owned()
}

fn ours(pack: &Path) -> serde_json::Value {
    match verify_dir(pack, None) {
        Ok(log) => serde_json::json!(["ok", log.leaves]),
        Err(finding) => serde_json::json!([finding.what, finding.leaf]),
    }
}

async fn pack(dir: &Path, leaves: usize) -> std::path::PathBuf {
    let evidence = open(&dir.join("evidence"));
    let runs = [new_run(), new_run()];
    for n in 0..leaves {
        evidence.note(event("acme", runs.get(n % 3).copied())).unwrap();
    }
    let dest = dir.join("pack");
    evidence.export(&tenant("acme"), &dest).await.unwrap();
    dest
}

/// All files of a pack that say something: its scripts are for who has none, and its README for who knows nothing.
fn evidence_in(pack: &Path) -> Vec<String> {
    let names = files(pack).into_iter().map(|path| path.to_str().unwrap().to_owned());
    names.filter(|name| !name.ends_with(".py") && !name.ends_with("README.txt")).collect()
}

#[tokio::test]
async fn both_verifiers_find_the_same_in_every_damaged_byte() {
    let mut python = python();
    let dir = tempfile::tempdir().unwrap();
    let pack = pack(dir.path(), 5).await;
    let step = 5;
    let list = evidence_in(&pack);
    let input = dir.path().join("files");
    fs::write(&input, list.join("\n")).unwrap();
    let output = python
        .args(["-c", DRIVER, &scripts(), pack.to_str().unwrap(), &step.to_string()])
        .stdin(fs::File::open(&input).unwrap())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let mut theirs = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let mut flips = 0;
    for path in &list {
        let whole = fs::read(path).unwrap();
        for at in (0..whole.len()).step_by(step) {
            let mut damaged = whole.clone();
            damaged[at] ^= 1 << (at % 8);
            fs::write(path, damaged).unwrap();
            let found = ours(&pack);
            assert_ne!(found[0], "ok", "{path} byte {at}");
            assert_eq!(Some(found), theirs.next(), "{path} byte {at}");
            flips += 1;
        }
        fs::write(path, whole).unwrap();
    }
    assert!(flips > 400, "{flips}");
}

#[tokio::test]
async fn both_verifiers_agree_on_whole_logs_of_many_shapes() {
    for leaves in [0, 1, 255, 256, 257, 700, 66_000] {
        let dir = tempfile::tempdir().unwrap();
        let pack = pack(dir.path(), leaves).await;
        let output = python().args(["-c", DRIVER, &scripts(), pack.to_str().unwrap(), "once"]).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), ours(&pack), "{leaves}");
        assert_eq!(ours(&pack)[0], "ok");
        // The pack's own copy of the verifier, as an auditor starts it.
        let code = python().arg(pack.join("verify.py")).arg(&pack).output().unwrap().status.code();
        assert_eq!(code, Some(0));
        if leaves > 0 {
            fs::write(pack.join("tile/entries/000"), b"x").unwrap();
            fs::write(pack.join("checkpoint"), b"x").unwrap();
            let code = python().arg(pack.join("verify.py")).arg(&pack).output().unwrap().status.code();
            assert_eq!(code, Some(9));
        }
    }
}

/// A part is judged alike by both, wherever a byte of it is another one.
#[tokio::test]
async fn both_verifiers_refuse_every_damaged_byte_of_a_part() {
    use cogward_evidence::{Part, User};
    use cogward_ledger::{map::Kind, pack::verify_pack};
    let mut python = python();
    let dir = tempfile::tempdir().unwrap();
    let evidence = open(&dir.path().join("evidence"));
    let run = new_run();
    for n in 0..6 {
        evidence.note(event("acme", (n % 2 == 0).then_some(run))).unwrap();
    }
    let size = evidence.checkpoint(&tenant("acme")).await.unwrap().size;
    let time = evidence.run_leaves(&tenant("acme"), run, 0, 9).await.unwrap()[0].time;
    let mut input = String::new();
    let parts = [
        Part::Run(run),
        Part::Window((None, Some(time))),
        Part::Window((Some(time), None)),
        Part::Key(Kind::Agent, "claims".into(), (Some(time), None)),
        Part::Key(Kind::Tool, "not/there".into(), (None, Some(time))),
        Part::Subject(User::Name("anna@example.org".into()), (None, None)),
        Part::Sample { nonce: "0123456789abcdef".into(), count: 2, size },
    ];
    let (mut flips, mut ours) = (0, Vec::new());
    for (n, part) in parts.into_iter().enumerate() {
        let pack = dir.path().join(format!("part-{n}"));
        evidence.draft(&tenant("acme"), part, n % 2 == 0, "opr_1", &pack).await.unwrap().finish(&[]).unwrap();
        let judge = || match verify_pack(&pack, None) {
            Ok(pack) => serde_json::json!(["ok", pack.extracted.leaves]),
            Err(_) => serde_json::json!(["no"]),
        };
        let list = evidence_in(&pack);
        for path in &list {
            input.push_str(&format!("{path}\t{}\n", pack.display()));
            let whole = fs::read(path).unwrap();
            ours.push(judge());
            assert_eq!(ours.last().unwrap()[0], "ok");
            for at in (0..whole.len()).step_by(17) {
                let mut damaged = whole.clone();
                damaged[at] ^= 1 << (at % 8);
                fs::write(path, damaged).unwrap();
                ours.push(judge());
                assert_eq!(ours.last().unwrap()[0], "no", "{path} byte {at}");
                flips += 1;
            }
            fs::write(path, whole).unwrap();
        }
    }
    let driver = DRIVER.replace(
        "for line in sys.stdin:\n    path = line.rstrip(\"\\n\")\n",
        "for line in sys.stdin:\n    path, root = line.rstrip(\"\\n\").split(\"\\t\")\n    print(json.dumps(verdict(root)))\n",
    );
    let driver = driver.replace("verdict(sys.argv[2])))\n    open", "verdict(root)))\n    open");
    let list = dir.path().join("files");
    fs::write(&list, input).unwrap();
    let output =
        python.args(["-c", &driver, &scripts(), "", "17"]).stdin(fs::File::open(&list).unwrap()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let theirs: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((theirs.len(), ours.len() > 500, flips > 500), (ours.len(), true, true));
    for (n, (ours, theirs)) in ours.iter().zip(&theirs).enumerate() {
        let theirs = if theirs[0] == "ok" { theirs.clone() } else { serde_json::json!(["no"]) };
        assert_eq!(*ours, theirs, "verdict {n}");
    }
}

/// Leaves that the key's holder could sign and that readers of JSON might take for different things.
#[test]
fn both_verifiers_agree_on_leaves_that_parsers_disagree_on() {
    let good = concat!(
        r#"{"body":{"act":null,"id":"evt_1","n":1,"run":"run_1","run_prev":null,"run_seq":1,"tenant":"acme","type":"x","v":1},"#,
        r#""chain":{"prev":null,"seq":0,"time":"2026-11-22T10:11:12.123456Z"}}"#
    );
    let deep = |n: usize| format!("\"n\":{}{}", "[".repeat(n), "]".repeat(n));
    let edits: &[(&str, &str)] = &[
        ("", ""),
        ("\"n\":1", "\"n\":1,\"n\":2"),
        ("\"n\":1", "\"n\":{\"a\":1,\"a\":2}"),
        ("\"n\":1", "\"n\":1.0"),
        ("\"n\":1", "\"n\":1e2"),
        ("\"n\":1", "\"n\":NaN"),
        ("\"n\":1", "\"n\":-0"),
        ("\"n\":1", "\"n\":9007199254740992"),
        ("\"n\":1", "\"n\":9007199254740993"),
        ("\"n\":1", "\"n\":\"\\ud800\""),
        ("\"n\":1", "\"n\":\"\\u0041\""),
        ("\"n\":1", "\"n\":\"\\u001f\\n\u{7f}ä\""),
        ("\"n\":1", "\"n\":\"\\/\""),
        ("\"n\":1", "\"n\": 1"),
        ("\"n\":1", "\"n\":{\"ä\":1}"),
        ("\"n\":1", "\"n\":{\"b\":1,\"a\":1}"),
        ("\"n\":1", &deep(65)),
        ("\"n\":1", &deep(66)),
        ("\"n\":1", &deep(5_000)),
        ("\"v\":1", "\"v\":true"),
        ("\"v\":1", "\"v\":2"),
        ("\"seq\":0", "\"seq\":false"),
        ("\"seq\":0", "\"seq\":\"0\""),
        ("\"seq\":0", "\"seq\":-1"),
        ("\"seq\":0", "\"seq\":1"),
        ("\"prev\":null", "\"prev\":7"),
        ("\"prev\":null", "\"prev\":\"\""),
        ("\"evt_1\"", "\"evt\\n1\""),
        ("\"evt_1\"", "7"),
        ("\"run_seq\":1", "\"run_seq\":true"),
        ("\"run_seq\":1", "\"run_seq\":2"),
        ("\"run\":\"run_1\"", "\"run\":null"),
        ("\"run\":\"run_1\"", "\"run\":[]"),
        ("2026-11-22", "2026-13-22"),
        ("2026-11-22", "2026-02-30"),
        ("2026-11-22", "1969-11-22"),
        ("2026-11-22", "٢٠٢٦-11-22"),
        ("}}", "},\"extra\":1}"),
        ("}}", "}} "),
        (good, "[]"),
        (good, "{\"body\":[],\"chain\":[]}"),
        (good, ""),
    ];
    let mut verdicts = Vec::new();
    for (from, to) in edits {
        let dir = tempfile::tempdir().unwrap();
        let leaf = good.replacen(from, to, 1);
        let hash = cogward_ledger::leaf::leaf_hash(leaf.as_bytes());
        let length = u16::try_from(leaf.len()).unwrap().to_be_bytes();
        let key = cogward_ledger::note::SigningKey::from_seed("cogward.dev/ledger/t/acme", &[1; 32]).unwrap();
        for (path, bytes) in [
            ("tile/entries/000.p/1", [&length[..], leaf.as_bytes()].concat()),
            ("tile/0/000.p/1", hash.to_vec()),
            ("checkpoint", key.checkpoint(1, &hash).into_bytes()),
            ("log.vkey", format!("{}\n", key.verifying()).into_bytes()),
        ] {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
        let output = python().args(["-c", DRIVER, &scripts(), dir.path().to_str().unwrap(), "once"]).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        let shown: String = leaf.chars().take(300).collect();
        let theirs: serde_json::Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{shown}: {output:?}"));
        assert_eq!(ours(dir.path()), theirs, "{shown}");
        verdicts.push(theirs[0].as_str().unwrap().to_owned());
    }
    // The one as it is, the largest integer, the odd but canonical text, and the deepest list that is allowed.
    assert_eq!(verdicts.iter().filter(|verdict| *verdict == "ok").count(), 4, "{verdicts:?}");
}
