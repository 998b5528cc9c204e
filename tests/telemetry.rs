//! An unmodified OpenTelemetry SDK exports to the plane; what it says is kept with its run and is no evidence.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use cogward_testkit::Plane;
use serde_json::Value;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

fn exported(plane: &Plane, run: &str) -> Result<Vec<Value>> {
    let text = plane.ok(["run", "telemetry", run])?;
    text.lines().map(|line| serde_json::from_str(line).with_context(|| line.to_owned())).collect()
}

#[test]
fn the_exports_of_a_real_sdk_are_kept_and_marked() -> Result<()> {
    let vendored = format!("{ROOT}/build/examples/telemetry");
    ensure!(
        Path::new(&vendored).exists(),
        "{vendored} is missing: run scripts/vendor-examples.sh, as `make test` does"
    );
    let plane = Plane::start(env!("CARGO_BIN_EXE_cogward"))?;
    plane.ok(["agent", "register", "-f", &format!("{ROOT}/examples/telemetry/agent.yaml")])?;
    let input = plane.scratch().join("claims.json");
    std::fs::write(&input, r#"["claim-17", "claim-18"]"#)?;
    let input = input.to_string_lossy();
    let started = plane.cli([
        "run",
        "start",
        "claims-clerk-telemetry",
        "--input",
        &input,
        "--reason",
        "test",
        "--wait",
        "-o",
        "json",
    ])?;
    let run: Value = serde_json::from_str(&started.stdout).with_context(|| started.stderr.clone())?;
    let id = run["id"].as_str().context("the run has an id")?;
    ensure!(run["state"] == "succeeded", "{run:#}\n{}\n{}", plane.logs(id, "stdout"), plane.logs(id, "stderr"));
    // The SDK tells of exports that were not taken.
    assert!(!plane.logs(id, "stderr").contains("Failed to export"), "{}", plane.logs(id, "stderr"));

    let exports = exported(&plane, id)?;
    let items = |signal: &str| -> u64 {
        let of = exports.iter().filter(|line| line["signal"] == signal);
        of.filter_map(|line| line["items"].as_u64()).sum()
    };
    assert_eq!((items("traces"), items("logs"), items("metrics") > 0), (3, 2, true), "{exports:#?}");
    for export in &exports {
        let packed = export["otlp_protobuf"].as_str().context("the SDK speaks protobuf")?;
        let text = String::from_utf8_lossy(&base64(packed)).into_owned();
        assert!(text.contains(id) && text.contains("cogward.agent") && text.contains("claims"), "{text:?}");
        assert!(!text.contains("somebody-else"), "the agent's word on who it is");
    }
    let leaves = plane.leaves(id)?;
    let closed = leaves.iter().find(|leaf| leaf["type"] == "run.closed").context("the run is closed")?;
    assert_eq!(closed["telemetry"]["exports"], exports.len());
    assert!(!serde_json::to_string(&leaves)?.contains("claim-17"), "nothing of it is in the ledger");
    Ok(())
}

/// Base64 as it is printed; the reader here is the test's own.
fn base64(text: &str) -> Vec<u8> {
    let value = |byte: u8| match byte {
        b'A'..=b'Z' => u32::from(byte - b'A'),
        b'a'..=b'z' => u32::from(byte - b'a') + 26,
        b'0'..=b'9' => u32::from(byte - b'0') + 52,
        b'+' => 62,
        _ => 63,
    };
    let mut bytes = Vec::new();
    for four in text.trim_end_matches('=').as_bytes().chunks(4) {
        let bits = four.iter().fold(0, |bits, byte| bits << 6 | value(*byte)) << (6 * (4 - four.len()));
        bytes.extend(bits.to_be_bytes().iter().skip(1).take(four.len() - 1));
    }
    bytes
}
