//! What verify.py and cogward-verify say of a log, in one form.

use std::{
    io::Write,
    path::Path,
    process::{Command, Stdio},
};

use cogward_ledger::verify::{Options, verify};
use serde_json::{Value, json};

/// Says, a line each, what verify.py finds in the logs that are named on its input.
const DRIVER: &str = r#"
import json, sys
sys.path.insert(0, sys.argv[1])
sys.dont_write_bytecode = True
import verify
def verdict(root, key, against):
    try:
        return ["ok", verify.verify(root, key, against)["leaves"]]
    except verify.Finding as finding:
        return [finding.what, finding.leaf]
for line in sys.stdin:
    case = json.loads(line)
    if "path" not in case:
        print(json.dumps(verdict(case["dir"], case["key"], case["against"])))
        continue
    whole = open(case["path"], "rb").read()
    for at in range(0, len(whole), case.get("step", 1)):
        damaged = bytearray(whole)
        damaged[at] ^= 1 << (at % 8)
        open(case["path"], "wb").write(damaged)
        print(json.dumps(verdict(case["dir"], None, None)))
    open(case["path"], "wb").write(whole)
"#;

/// What verify.py says of each line. Without a Python half of the verdicts would be missing: that is a failure.
pub fn verify_py(lines: &[Value]) -> Vec<Value> {
    let python = std::env::var("COGWARD_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let there = Command::new(&python).args(["-c", "import cryptography"]).output().is_ok_and(|o| o.status.success());
    assert!(there, "`{python}` has no package `cryptography`: set COGWARD_PYTHON, as `make test` does");
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts");
    let mut command = Command::new(python);
    command.args(["-c", DRIVER, scripts.to_str().unwrap()]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    let writer = std::thread::spawn(move || input.write_all(text.as_bytes()));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

pub fn ours(dir: &Path, key: Option<&str>, against: Option<&str>) -> Value {
    let key = key.map(|key| key.parse().unwrap());
    // One thread: what the threads change is tested beside the verifier.
    match verify(dir, &Options { key: key.as_ref(), against, threads: 1, ..Options::default() }) {
        Ok(log) => json!(["ok", log.leaves]),
        Err(finding) => json!([finding.what, finding.leaf]),
    }
}
