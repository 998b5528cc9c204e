//! The official conformance suite of MCP through a real plane: what the tool server passes directly passes through,
//! with no list of expected failures, whichever era the server speaks.

use std::{path::Path, process::Command};

use anyhow::{Context, Result, ensure};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

fn judged(arguments: &[&str]) -> Result<()> {
    let exe = Path::new(env!("CARGO_BIN_EXE_cogward"));
    let suites = Path::new(ROOT).join("tests/fixtures/mcp-conformance");
    for suite in ["released", "next"] {
        let there = suites.join(suite).join("node_modules/@modelcontextprotocol/conformance");
        ensure!(there.exists(), "{} is missing: run scripts/setup-tests.sh, as `make test` does", there.display());
    }
    let results = tempfile::tempdir()?;
    let output = Command::new("python3")
        .arg(Path::new(ROOT).join("scripts/conformance.py"))
        .arg("--bin-dir")
        .arg(exe.parent().context("the binary is in a directory")?)
        .arg("--out")
        .arg(results.path())
        .args(arguments)
        .output()?;
    let (said, why) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "{said}\n{why}");
    ensure!(said.contains("through"), "no table was printed: {said}\n{why}");
    Ok(())
}

#[test]
fn the_released_suite_passes_through() -> Result<()> {
    judged(&["--line", "0.1.16", "--era", "legacy"])
}

#[test]
fn the_era_with_sessions_passes_through() -> Result<()> {
    judged(&["--line", "2025-11-25", "--era", "legacy"])
}

#[test]
fn the_stateless_era_passes_through() -> Result<()> {
    judged(&["--line", "2026-07-28"])
}

/// The agent has sessions, its tool server has none.
#[test]
fn the_era_with_sessions_is_bridged_to_a_stateless_server() -> Result<()> {
    judged(&["--line", "2025-11-25", "--era", "modern", "--direct-era", "both"])
}

/// The tool server has sessions, its agent has none.
#[test]
fn the_stateless_era_is_bridged_to_a_server_with_sessions() -> Result<()> {
    judged(&["--line", "2026-07-28", "--era", "legacy", "--direct-era", "both"])
}
