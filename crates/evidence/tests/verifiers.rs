//! Two verifiers, written apart, one corpus of good and damaged logs, one verdict.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::{fs, path::Path, process::Command};

use cogward_ledger::verify::verify_dir;
use support::{event, new_run, open, tenant};

/// Damages the pack byte by byte and says, a line each, what verify.py finds.
const DRIVER: &str = r#"
import json, os, sys
sys.path.insert(0, sys.argv[1])
sys.dont_write_bytecode = True
import verify
def verdict(root):
    try:
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

fn python() -> Option<Command> {
    let python = std::env::var("COGWARD_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let there = Command::new(&python).args(["-c", "import cryptography"]).output().is_ok_and(|o| o.status.success());
    if !there {
        assert!(std::env::var_os("COGWARD_PYTHON").is_none(), "{python} has no package `cryptography`");
        eprintln!("skipped: python3 has no package `cryptography`; scripts/test-verifiers makes a venv with it");
    }
    there.then(|| Command::new(python))
}

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

fn files(dir: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if path.is_dir() {
            files(&path, found);
        } else if name != "verify.py" && name != "README.txt" {
            found.push(path.to_str().unwrap().to_owned());
        }
    }
}

#[tokio::test]
async fn both_verifiers_find_the_same_in_every_damaged_byte() {
    let Some(mut python) = python() else { return };
    let dir = tempfile::tempdir().unwrap();
    let pack = pack(dir.path(), 5).await;
    let step = 5;
    let mut list = Vec::new();
    files(&pack, &mut list);
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
    let Some(_) = python() else { return };
    for leaves in [0, 1, 255, 256, 257, 700, 66_000] {
        let dir = tempfile::tempdir().unwrap();
        let pack = pack(dir.path(), leaves).await;
        let output =
            python().unwrap().args(["-c", DRIVER, &scripts(), pack.to_str().unwrap(), "once"]).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), ours(&pack), "{leaves}");
        assert_eq!(ours(&pack)[0], "ok");
        // The pack's own copy of the verifier, as an auditor starts it.
        let code = python().unwrap().arg(pack.join("verify.py")).arg(&pack).output().unwrap().status.code();
        assert_eq!(code, Some(0));
        if leaves > 0 {
            fs::write(pack.join("tile/entries/000"), b"x").unwrap();
            fs::write(pack.join("checkpoint"), b"x").unwrap();
            let code = python().unwrap().arg(pack.join("verify.py")).arg(&pack).output().unwrap().status.code();
            assert_eq!(code, Some(9));
        }
    }
}
