//! Unmodified frameworks under governance: framework code that reads only the run contract, a scripted
//! model and a real MCP server.

use std::{fs, path::Path};

use anyhow::{Result, ensure};
use cogward_testkit::{Plane, count};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

fn governed(framework: &str) -> Result<()> {
    let vendored = format!("{ROOT}/build/examples/{framework}");
    ensure!(
        Path::new(&vendored).exists(),
        "{vendored} is missing: run scripts/vendor-examples.sh, as `make test` does"
    );
    let server =
        format!("{ROOT}/tests/fixtures/mcp-servers/node_modules/@modelcontextprotocol/server-filesystem/dist/index.js");
    ensure!(Path::new(&server).exists(), "{server} is missing: run scripts/setup-tests.sh, as `make test` does");
    let plane = Plane::start(env!("CARGO_BIN_EXE_cogward"))?;
    plane.add_stdio("files", &["/usr/bin/node", &server, &format!("{ROOT}/examples/quickstart/claims")])?;
    plane.add_scripted(&fs::read_to_string(format!("{ROOT}/examples/quickstart/script.json"))?)?;
    plane.ok(["agent", "register", "-f", &format!("{ROOT}/examples/{framework}/agent.yaml")])?;
    let input = plane.scratch().join("task.json");
    fs::write(&input, r#"{"claim": "claim-17.txt"}"#)?;
    let agent = format!("claims-clerk-{framework}");
    let started = plane.cli([
        "run",
        "start",
        &agent,
        "--as",
        "bo@example.com",
        "--input",
        &input.to_string_lossy(),
        "--reason",
        "test",
        "--wait",
        "-o",
        "json",
    ])?;
    let run: serde_json::Value = serde_json::from_str(&started.stdout)?;
    let id = run["id"].as_str().unwrap_or_default();
    ensure!(run["state"] == "succeeded", "{run:#}\n{}\n{}", plane.logs(id, "stdout"), plane.logs(id, "stderr"));
    let output = run["output"].as_str().unwrap_or_default();
    assert!(output.contains("APPROVE 240.00"), "{output}");
    let leaves = plane.leaves(id)?;
    assert_eq!(count(&leaves, "tool.call.decided", Some("permit")), 1);
    assert_eq!(count(&leaves, "model.call.decided", Some("permit")), 2);
    assert_eq!(count(&leaves, "tool.call.completed", None), 1);
    Ok(())
}

#[test]
fn langgraph_is_governed_unchanged() -> Result<()> {
    governed("langgraph")
}

#[test]
fn the_openai_agents_sdk_is_governed_unchanged() -> Result<()> {
    governed("openai-agents")
}

#[test]
fn autogen_is_governed_unchanged() -> Result<()> {
    governed("autogen")
}
