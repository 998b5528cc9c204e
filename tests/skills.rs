//! Skills as MCP resources: of the run's own version, as they were registered, and nothing else.

use std::{fs, path::Path};

use anyhow::{Context, Result, ensure};
use cogward_testkit::{Agent, Plane, count};
use serde_json::{Value, json};

/// Lists and reads resources as its input says, and looks at the same files itself.
const READER: &str = r#"
import json, os, urllib.request
def rpc(method, params, session=None):
    h = {"content-type": "application/json", "accept": "application/json, text/event-stream", "mcp-protocol-version": "2025-11-25"}
    if session: h["mcp-session-id"] = session
    r = urllib.request.urlopen(urllib.request.Request(os.environ["MCP_SERVER_URL"], json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode(), h), timeout=60)
    t = r.read().decode()
    if r.headers.get("content-type", "").startswith("text/event-stream"):
        t = "".join(l[5:] for l in t.splitlines() if l.startswith("data:") and '"id"' in l)
    return json.loads(t), r.headers.get("mcp-session-id")
hello, s = rpc("initialize", {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}})
out = {"offers": hello["result"]["capabilities"], "list": rpc("resources/list", {}, s)[0], "read": []}
for uri in json.load(open("/run/cogward/input.json")):
    out["read"].append(rpc("resources/read", {"uri": uri}, s)[0])
try: out["mounted"] = open("/skills/sorting/SKILL.md").read()
except OSError: out["mounted"] = None
try: open("/skills/sorting/SKILL.md", "a"); out["written"] = True
except OSError: out["written"] = False
print(json.dumps(out))
"#;

const SKILL: &str = "---\nname: sorting\ndescription: Sorts claims by their date.\n---\n# Sorting\nBy date.\n";

fn register(plane: &Plane, name: &str, skills: &[&str]) -> Result<()> {
    let entry = "entrypoint: [python3, -u, agent.py]";
    let with = format!("{entry}\n    skills: [{}]", skills.join(", "));
    let changes = [(entry, with.as_str())];
    let changes: &[_] = if skills.is_empty() { &[] } else { &changes };
    let manifest = plane.write_agent(&Agent { name, source: READER, permissions: "", changes })?;
    for (path, text) in [
        ("skills/sorting/SKILL.md", SKILL),
        ("skills/sorting/data/order.csv", "a,b\n"),
        ("skills/other/SKILL.md", "other"),
    ] {
        let path = manifest.with_file_name("code").join(path);
        fs::create_dir_all(path.parent().context("a parent")?)?;
        fs::write(path, text)?;
    }
    plane.ok([Path::new("agent"), Path::new("register"), Path::new("-f"), &manifest]).map(drop)
}

fn start(plane: &Plane, name: &str, uris: &Value) -> Result<String> {
    let input = plane.scratch().join("input.json");
    fs::write(&input, uris.to_string())?;
    let run = plane.json(["run", "start", name, "--input", &input.to_string_lossy(), "--reason", "test"])?;
    Ok(run["id"].as_str().context("an id")?.to_owned())
}

#[test]
fn a_run_reads_the_skills_of_its_version_and_nothing_else() -> Result<()> {
    let plane = Plane::start(env!("CARGO_BIN_EXE_cogward"))?;
    register(&plane, "sorter", &["skills/sorting"])?;
    register(&plane, "plain", &[])?;
    let own = ["skill://sorting/SKILL.md", "skill://sorting/data/order.csv"];
    let not = [
        "skill://other/SKILL.md",
        "skill://sorting/../../agent.py",
        "skill://sorting/%2e%2e/%2e%2e/agent.py",
        "skill://sorting/nothing",
        "file:///etc/passwd",
    ];
    let uris = json!(own.iter().chain(&not).collect::<Vec<_>>());
    let run = start(&plane, "sorter", &uris)?;
    let saw = plane.output(&run)?;
    assert!(saw["offers"]["resources"].is_object(), "{saw:#}");
    let listed = saw["list"]["result"]["resources"].as_array().with_context(|| format!("{saw:#}"))?;
    let found: Vec<_> = listed.iter().map(|resource| resource["uri"].as_str().unwrap_or_default()).collect();
    assert_eq!(found, own);
    assert_eq!(listed[0]["description"], "Sorts claims by their date.");
    assert_eq!(saw["read"][0]["result"]["contents"][0]["text"], SKILL);
    assert_eq!(saw["read"][1]["result"]["contents"][0]["mimeType"], "text/csv");
    for (uri, answer) in not.iter().zip(saw["read"].as_array().context("answers")?.iter().skip(own.len())) {
        assert!(answer["error"].is_object() && answer.get("result").is_none(), "{uri}: {answer}");
    }
    assert_eq!((&saw["mounted"], &saw["written"]), (&json!(SKILL), &json!(false)));
    let leaves = plane.leaves(&run)?;
    assert_eq!(count(&leaves, "resource.read.decided", Some("permit")), 3, "{leaves:#?}");
    assert!(count(&leaves, "resource.read.decided", Some("block")) >= 3, "{leaves:#?}");

    // Whoever has no skills has none of another's.
    let saw = plane.output(&start(&plane, "plain", &uris)?)?;
    assert!(saw["offers"].get("resources").is_none() && saw["list"].get("result").is_none(), "{saw:#}");
    assert!(saw["read"].as_array().context("answers")?.iter().all(|answer| answer.get("result").is_none()));
    assert_eq!(saw["mounted"], Value::Null);

    // The name that they are served under is not an operator's.
    let taken =
        plane.cli(["tool-server", "add", "cogward-skills", "--url", "http://127.0.0.1:1/mcp", "--reason", "test"])?;
    assert!(taken.code() == 2 && taken.stderr.contains("the plane's own"), "{}", taken.stderr);
    Ok(())
}

/// Somebody changes the stored file of a skill: no run reads it, neither from its disk nor as a resource.
#[test]
fn a_skill_that_was_changed_is_not_read() -> Result<()> {
    let plane = Plane::start(env!("CARGO_BIN_EXE_cogward"))?;
    register(&plane, "sorter", &["skills/sorting"])?;
    let mut changed = 0;
    for package in fs::read_dir(plane.data_dir().join("packages"))? {
        let file = package?.path().join("code/skills/sorting/SKILL.md");
        if file.exists() {
            let mut permissions = fs::metadata(&file)?.permissions();
            std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o644);
            fs::set_permissions(&file, permissions)?;
            fs::write(&file, SKILL.replace("By date.", "By bribe."))?;
            changed += 1;
        }
    }
    ensure!(changed == 1, "one package holds the skill");
    let run = start(&plane, "sorter", &json!(["skill://sorting/SKILL.md"]))?;
    let ended = plane.run_until(&run, |run| run["ended"].is_string())?;
    assert!(ended["output"].is_null(), "it did not start: {ended:#}");
    assert!(ended.to_string().contains("changed") || plane.log().contains("was changed"), "{ended:#}");
    assert!(!plane.logs(&run, "stdout").contains("bribe"));
    Ok(())
}
