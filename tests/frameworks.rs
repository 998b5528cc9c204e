//! Unmodified frameworks under governance: framework code that reads only the run contract, a scripted
//! model and a real MCP server.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Result, ensure};
use cogward_testkit::{Plane, count};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// The example as it is, but for its profile.
fn with_profile(scratch: &Path, framework: &str, profile: &str) -> Result<PathBuf> {
    let folder = scratch.join("example");
    fs::create_dir(&folder)?;
    fs::copy(format!("{ROOT}/examples/{framework}/agent.py"), folder.join("agent.py"))?;
    let manifest = fs::read_to_string(format!("{ROOT}/examples/{framework}/agent.yaml"))?;
    ensure!(manifest.contains("profile: standard"), "the example says another profile");
    // Directories are relative to the manifest.
    let up = "../".repeat(folder.canonicalize()?.components().count() - 1);
    let build = format!("{up}{}", Path::new(ROOT).canonicalize()?.join("build").display()).replace("//", "/");
    let manifest = manifest.replace("../../build", &build).replace("profile: standard", &format!("profile: {profile}"));
    let file = folder.join("agent.yaml");
    fs::write(&file, manifest)?;
    Ok(file)
}

fn governed(framework: &str, profile: &str) -> Result<()> {
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
    let file = match profile {
        "standard" => Path::new(ROOT).join(format!("examples/{framework}/agent.yaml")),
        other => with_profile(plane.scratch(), framework, other)?,
    };
    plane.ok(["agent", "register", "-f", &file.to_string_lossy()])?;
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
    governed("langgraph", "standard")
}

#[test]
fn the_openai_agents_sdk_is_governed_unchanged() -> Result<()> {
    governed("openai-agents", "standard")
}

#[test]
fn autogen_is_governed_unchanged() -> Result<()> {
    governed("autogen", "standard")
}

/// Where no memory that was written is executed, and no socket but to the plane is made.
#[test]
fn langgraph_runs_in_hardened() -> Result<()> {
    governed("langgraph", "hardened")
}

#[test]
fn the_openai_agents_sdk_runs_in_hardened() -> Result<()> {
    governed("openai-agents", "hardened")
}

#[test]
fn autogen_runs_in_hardened() -> Result<()> {
    governed("autogen", "hardened")
}
