//! Agents behind other boundaries than the native one: the same plane, the same gate, the same commands and evidence.

use std::{fs, path::Path};

use anyhow::{Context, Result, ensure};
use cogward_testkit::{Agent, MAY_ASK, Plane, count};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
const CONFIG: &str = "gvisor: {runtime: /usr/bin/runsc}\ncontainer: {runtime: /usr/sbin/runc}\n";
/// The profiles that it configures, and the runtime of each.
const CONFIGURED: [(&str, &str); 2] = [("gvisor", "runsc"), ("container", "runc")];

fn plane() -> Result<Plane> {
    for runtime in ["/usr/bin/runsc", "/usr/sbin/runc"] {
        ensure!(Path::new(runtime).exists(), "{runtime} is missing: run scripts/setup-tests.sh, as `make test` does");
    }
    let plane = Plane::start_carrying(env!("CARGO_BIN_EXE_cogward"), CONFIG)?;
    // `container` is weaker than what a plane accepts unless somebody says so.
    plane.ok(["floor", "set", "development", "container", "--reason", "a test of containers"])?;
    Ok(plane)
}

/// The example of the quickstart, unchanged but for its profile and name.
fn clerk(plane: &Plane, profile: &str) -> Result<String> {
    let dir = plane.scratch().join(format!("clerk-{profile}"));
    for place in ["", "prompts"] {
        fs::create_dir_all(dir.join(place))?;
        for entry in fs::read_dir(format!("{ROOT}/examples/quickstart/{place}"))? {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                fs::copy(entry.path(), dir.join(place).join(entry.file_name()))?;
            }
        }
    }
    let manifest = dir.join("agent.yaml");
    let text = fs::read_to_string(&manifest)?;
    let name = format!("clerk-{profile}");
    let changed = text.replace("profile: standard", &format!("profile: {profile}"));
    fs::write(&manifest, changed.replace("name: claims-clerk", &format!("name: {name}")))?;
    plane.ok(["agent", "register", "-f", &manifest.to_string_lossy()])?;
    Ok(name)
}

#[test]
fn an_agent_calls_its_model_and_its_tools_through_the_gate_from_inside() -> Result<()> {
    let server =
        format!("{ROOT}/tests/fixtures/mcp-servers/node_modules/@modelcontextprotocol/server-filesystem/dist/index.js");
    ensure!(Path::new(&server).exists(), "{server} is missing: run scripts/setup-tests.sh, as `make test` does");
    let plane = plane()?;
    plane.add_stdio("files", &["/usr/bin/node", &server, &format!("{ROOT}/examples/quickstart/claims")])?;
    plane.add_scripted(&fs::read_to_string(format!("{ROOT}/examples/quickstart/script.json"))?)?;
    let input = plane.scratch().join("task.json");
    fs::write(&input, r#"{"claim": "claim-17.txt"}"#)?;
    for (profile, runtime) in CONFIGURED {
        let name = clerk(&plane, profile)?;
        let task = input.to_string_lossy();
        let start = ["run", "start", &name, "--as", "bo@example.com", "--input", &task, "--reason", "test", "--wait"];
        let started = plane.json(start)?;
        let id = started["id"].as_str().context("an id")?;
        let said = || format!("{started:#}\n{}\n{}", plane.logs(id, "stdout"), plane.logs(id, "stderr"));
        ensure!(started["state"] == "succeeded", "{}", said());
        ensure!(started["output"].as_str().is_some_and(|o| o.contains("APPROVE 240.00")), "{}", said());
        let leaves = plane.leaves(id)?;
        assert_eq!(count(&leaves, "tool.call.decided", Some("permit")), 1, "{profile}");
        assert_eq!(count(&leaves, "model.call.decided", Some("permit")), 2, "{profile}");
        assert_eq!(count(&leaves, "tool.call.completed", None), 1, "{profile}");
        let held = leaves.iter().find(|l| l["enforcement"].is_object()).context("what was enforced")?;
        let held = &held["enforcement"];
        assert_eq!((&held["profile"], &held["driver"]), (&profile.into(), &"oci".into()));
        assert_eq!(held["runtime"]["name"], runtime);
        assert!(held["runtime"]["version"].as_str().is_some_and(|v| v.contains('.')), "{held}");
        assert!(held.get("landlock_abi").is_none(), "what is not in force is not claimed: {held}");
        assert!(held["self_checks"].as_array().is_some_and(|c| c.len() >= 6), "{held}");
    }
    Ok(())
}

#[test]
fn what_is_not_permitted_is_refused_from_inside() -> Result<()> {
    let plane = plane()?;
    plane.add_scripted(r#"{"steps": [], "default": {"reply": {"text": "no"}}}"#)?;
    let examples = format!("{ROOT}/examples/adversary");
    for (profile, _) in CONFIGURED {
        let dir = plane.scratch().join(profile);
        fs::create_dir_all(&dir)?;
        for entry in fs::read_dir(&examples)? {
            let entry = entry?;
            fs::copy(entry.path(), dir.join(entry.file_name()))?;
        }
        let manifest = dir.join("agent.yaml");
        let text = fs::read_to_string(&manifest)?;
        ensure!(text.contains("  name: adversary\n") && text.contains("profile: standard"), "{text}");
        let text = text.replace("  name: adversary\n", &format!("  name: adversary-{profile}\n"));
        fs::write(&manifest, text.replace("profile: standard", &format!("profile: {profile}")))?;
        add_files(&plane)?;
        plane.ok(["agent", "register", "-f", &manifest.to_string_lossy()])?;
        let input = plane.scratch().join("input.json");
        let secret = plane.data_dir().join("state.db");
        fs::write(&input, serde_json::json!({ "secrets": [secret, "/etc/ssh/ssh_host_ed25519_key"] }).to_string())?;
        let (name, given) = (format!("adversary-{profile}"), input.to_string_lossy());
        let started = plane.json(["run", "start", &name, "--input", &given, "--reason", "attack", "--wait"])?;
        let run = started["id"].as_str().context("an id")?;
        let out = plane.logs(run, "stdout");
        let attempts: Vec<serde_json::Value> = out.lines().filter_map(|l| serde_json::from_str(l).ok()).collect();
        // `runsc` gives the first process the variable HOME=/ and shows it to every process; there is nothing else in it.
        let nothing = |a: &serde_json::Value| profile == "gvisor" && a["detail"] == "/proc/1/environ: 7 bytes";
        let held = attempts.iter().filter(|a| a["outcome"] == "refused" || nothing(a)).count();
        assert_eq!(held, 5, "{profile}: {out} {}", plane.logs(run, "stderr"));
        assert!(attempts.iter().all(|a| a["outcome"] == "refused" || nothing(a) || a["done"] == true), "{out}");
        let leaves = plane.leaves(run)?;
        assert_eq!(count(&leaves, "egress.decided", Some("block")), 1, "{profile}");
        assert_eq!(count(&leaves, "tool.call.decided", Some("block")), 1, "{profile}");
    }
    Ok(())
}

/// A stdio MCP server in the standard library, with a tool that is declared and one that is not.
const FILES: &str = r#"
import json, sys
for line in sys.stdin:
    m = json.loads(line)
    if "id" not in m: continue
    if m["method"] == "initialize":
        r = {"protocolVersion": m["params"]["protocolVersion"], "capabilities": {"tools": {}}, "serverInfo": {"name": "files", "version": "1"}}
    elif m["method"] == "tools/list":
        schema = {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"], "additionalProperties": False}
        r = {"tools": [{"name": n, "description": n, "inputSchema": schema} for n in ("read_text_file", "list_directory", "write_file")]}
    elif m["method"] == "tools/call":
        r = {"content": [{"type": "text", "text": "content of " + m["params"]["arguments"]["path"]}], "isError": False}
    else:
        r = {}
    print(json.dumps({"jsonrpc": "2.0", "id": m["id"], "result": r}), flush=True)
"#;

fn add_files(plane: &Plane) -> Result<()> {
    let server = plane.scratch().join("files.py");
    if server.exists() {
        return Ok(());
    }
    fs::write(&server, FILES)?;
    plane.add_stdio("files", &["/usr/bin/python3", &server.to_string_lossy()])
}

/// Calls its model again and again, and says each time.
const CALLER: &str = "
import json, os, time, urllib.request
n = 0
while True:
    body = json.dumps({'model': 'demo-model', 'max_tokens': 10, 'messages': [{'role': 'user', 'content': 'hello'}]}).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(os.environ['OPENAI_BASE_URL'] + '/chat/completions', body, {'content-type': 'application/json'}), timeout=60) as r:
            json.load(r)
        n += 1
        print('call', n, flush=True)
    except OSError as e:
        print('retry', e, flush=True)
    time.sleep(0.05)
";

#[test]
fn a_run_is_commanded_outlives_the_plane_and_is_killed() -> Result<()> {
    for (profile, _) in CONFIGURED {
        let mut plane = plane()?;
        plane.add_scripted(r#"{"steps": [], "default": {"reply": {"text": "yes"}}}"#)?;
        let in_profile = format!("    profile: {profile}\n    resources:");
        let run = plane.launch(&Agent {
            name: "caller",
            source: CALLER,
            permissions: MAY_ASK,
            changes: &[("    resources:", &in_profile)],
        })?;
        plane.said(&run, "call 2\n")?;
        plane.ok(["run", "suspend", &run, "--reason", "look at it"])?;
        assert_eq!(plane.run(&run)?["state"], "suspended");
        let calls = |plane: &Plane| plane.logs(&run, "stdout").matches("call ").count();
        let before = calls(&plane);
        plane.json(["run", "list"])?;
        assert_eq!(calls(&plane), before, "{profile}: nothing is written while frozen");
        plane.ok(["run", "resume", &run, "--reason", "go on"])?;
        plane.said(&run, &format!("call {}\n", before + 2))?;
        plane.kill_9()?;
        plane.up()?;
        let before = calls(&plane);
        plane.said(&run, &format!("call {}\n", before + 3))?;
        assert_eq!(plane.run(&run)?["state"], "running");
        let receipt = plane.json(["run", "kill", &run, "--reason", "enough"])?;
        assert_eq!(plane.run(&run)?["state"], "killed", "{profile}: {receipt}");
        plane.run_until(&run, |r| r["ended"].is_string())?;
        let leaves = plane.leaves(&run)?;
        for kind in ["run.started", "run.suspended", "run.resumed", "run.adopted", "run.killed", "run.closed"] {
            assert_eq!(count(&leaves, kind, None), 1, "{profile}: {kind}");
        }
    }
    Ok(())
}

#[test]
fn a_profile_that_nothing_carries_is_refused_with_the_way_to_configure_it() -> Result<()> {
    let plane = Plane::start(env!("CARGO_BIN_EXE_cogward"))?;
    plane.ok(["floor", "set", "development", "container", "--reason", "a test of containers"])?;
    for profile in ["gvisor", "container", "microvm"] {
        let manifest = plane.write_agent(&Agent {
            name: profile,
            source: "print(1)\n",
            permissions: "",
            changes: &[("    resources:", &format!("    profile: {profile}\n    resources:"))],
        })?;
        let registered = plane.cli(["agent", "register", "-f", &manifest.to_string_lossy()])?;
        let refused = match registered.code() {
            // Registration takes what another host may carry; a run does not start.
            0 => plane.cli(["run", "start", profile, "--reason", "try"])?,
            _ => registered,
        };
        assert_ne!(refused.code(), 0, "{profile}");
        assert!(refused.stderr.contains("--sandbox-config"), "{profile}: {}", refused.stderr);
    }
    Ok(())
}

#[test]
fn a_configuration_with_a_fault_keeps_the_plane_from_starting() -> Result<()> {
    for (config, named) in [
        ("gviser: {}\n", "gviser"),
        ("gvisor: {runtime: runsc}\n", "gvisor.runtime"),
        ("container: {runtime: /usr/bin/podman}\n", "container.kind"),
        ("gvisor: [\n", "YAML"),
    ] {
        let error = Plane::start_carrying(env!("CARGO_BIN_EXE_cogward"), config).err().context("it did not start")?;
        assert!(format!("{error:#}").contains(named), "{named}: {error:#}");
    }
    Ok(())
}
