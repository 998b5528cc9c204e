//! Floors: the weakest sandbox profile that a tenant and a tier accept, at registration and at every start.

use std::path::Path;

use anyhow::{Context, Result};
use cogward_testkit::{Agent, Plane};
use serde_json::{Value, json};

fn plane() -> Result<Plane> {
    Plane::start(env!("CARGO_BIN_EXE_cogward"))
}

const WAITS: &str = "import time\nprint('up', flush=True)\ntime.sleep(600)\n";

fn agent<'a>(name: &'a str, changes: &'a [(&'a str, &'a str)]) -> Agent<'a> {
    Agent { name, source: WAITS, permissions: "", changes }
}

const HARDENED: &[(&str, &str)] = &[("  sandbox:\n", "  sandbox:\n    profile: hardened\n")];

/// The leaves of the tenant's ledger with a type, as an auditor exports them.
fn exported(plane: &Plane, kind: &str) -> Result<Vec<Value>> {
    let pack = tempfile::tempdir_in(plane.scratch())?.path().join("pack");
    plane.ok(["evidence", "export", &pack.to_string_lossy()])?;
    let mut found = Vec::new();
    let mut folders = vec![pack];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = String::from_utf8_lossy(&std::fs::read(&path)?).into_owned();
            // Leaves are JSON texts, framed by the ledger.
            for (at, _) in text.match_indices('{') {
                let mut leaf = serde_json::Deserializer::from_str(&text[at..]).into_iter::<Value>();
                if let Some(Ok(leaf)) = leaf.next()
                    && leaf["type"] == kind
                {
                    found.push(leaf);
                }
            }
        }
    }
    Ok(found)
}

#[test]
fn a_version_below_a_floor_is_neither_registered_nor_started_and_is_told_why() -> Result<()> {
    let plane = plane()?;
    plane.register(&agent("early", &[]))?;
    let live = plane.start_run("early")?;
    plane.said(&live, "up")?;
    let set = ["floor", "set", "development", "hardened", "--reason", "finding 7 of the audit"];
    let said = plane.cli(set)?;
    assert_eq!(said.code(), 0, "{}", said.stderr);
    assert!(said.stderr.contains("1 registered versions are below it"), "{}", said.stderr);

    // Registered before: it does not start any more, and the refusal says the floor, who set it, why, and what to do.
    let refused = plane.cli(["run", "start", "early", "--reason", "test"])?;
    assert_eq!(refused.code(), 4, "{}", refused.stderr);
    for part in
        ["profile_too_weak", "`standard`", "`hardened`", "`operator`", "finding 7 of the audit", "cogward floor"]
    {
        assert!(refused.stderr.contains(part), "{part}: {}", refused.stderr);
    }
    let authorization = format!("Bearer {}", plane.token());
    let headers = [("authorization", authorization.as_str()), ("content-type", "application/json")];
    let body = br#"{"tenant":"default","agent":"early","reason":"test"}"#;
    let (status, problem) = plane.http("POST", "/api/v1/runs", &headers, body)?;
    let problem: Value = serde_json::from_str(&problem)?;
    assert_eq!((status, &problem["code"]), (409, &Value::from("profile_too_weak")), "{problem:#}");
    let leaves = exported(&plane, "run.refused")?;
    assert_eq!(leaves.len(), 2, "{leaves:#?}");
    assert!(leaves.iter().all(|leaf| leaf["rule"] == "profile_too_weak"), "{leaves:#?}");

    // Registered now: refused at the line of the field, by a word of its own.
    let manifest = plane.write_agent(&agent("late", &[]))?;
    let refused = plane.cli(["agent", "register", "-f", &manifest.to_string_lossy()])?;
    assert_eq!(refused.code(), 4);
    for part in ["[profile_too_weak]", "agent.yaml", "`operator`", "finding 7 of the audit", "profile: hardened"] {
        assert!(refused.stderr.contains(part), "{part}: {}", refused.stderr);
    }
    assert!(!plane.ok(["agent", "list"])?.contains("late"));
    let refusals = exported(&plane, "agent.registration_refused")?;
    assert_eq!(refusals.first().context("a refusal")?["rules"][0], "profile_too_weak");

    // What runs goes on, and is listed with its version.
    let below = plane.json(["floor", "shortfalls"])?;
    assert_eq!(below.as_array().map(Vec::len), Some(1), "{below:#}");
    assert_eq!((&below[0]["agent"], &below[0]["live_runs"][0]), (&Value::from("early"), &Value::from(live.clone())));
    assert_eq!(plane.run(&live)?["state"], "running");

    // What meets the floor is registered and runs; and when the floor is taken back, the other one too.
    let strong = plane.launch(&agent("strong", HARDENED))?;
    plane.said(&strong, "up")?;
    plane.ok(["floor", "clear", "development", "--reason", "the audit is over"])?;
    plane.start_run("early")?;
    assert_eq!(plane.json(["floor", "shortfalls"])?, Value::Array(Vec::new()));
    let changes = exported(&plane, "floor.changed")?;
    let of = |at: usize, field: &str| changes.get(at).map(|leaf| leaf[field].clone()).unwrap_or_default();
    assert_eq!(changes.len(), 2, "{changes:#?}");
    assert_eq!((of(0, "before"), of(0, "after")), ("standard".into(), "hardened".into()));
    assert_eq!((of(1, "before"), of(1, "after")), ("hardened".into(), "standard".into()));
    assert!(of(0, "operator").as_str().is_some_and(|id| id.starts_with("opr_")) && of(0, "scope") == "plane");
    Ok(())
}

#[test]
fn a_tenant_raises_what_the_plane_demands_and_never_lowers_it() -> Result<()> {
    let plane = plane()?;
    plane.ok(["tenant", "create", "retail", "--reason", "test"])?;
    let floors = |tenant: &str| -> Result<Vec<String>> {
        let list = plane.json(["floor", "list", "--tenant", tenant])?;
        let word = |f: &Value| format!("{} {} {}", f["tier"], f["profile"], f["source"]).replace('"', "");
        Ok(list.as_array().context("a list")?.iter().map(word).collect())
    };
    let usual = ["development standard default", "staging standard default", "production hardened default"];
    assert_eq!(floors("retail")?, usual);
    // Lower than the plane's is refused, and changes nothing.
    let lower = ["floor", "set", "production", "standard", "--tenant", "retail", "--reason", "in a hurry"];
    let refused = plane.cli(lower)?;
    assert_eq!(refused.code(), 4, "{}", refused.stderr);
    assert!(refused.stderr.contains("the plane demands `hardened`"), "{}", refused.stderr);
    assert_eq!(floors("retail")?, usual);
    // Higher holds in that tenant alone.
    plane.ok(["floor", "set", "development", "hardened", "--tenant", "retail", "--reason", "customer data"])?;
    assert_eq!(floors("retail")?[0], "development hardened tenant");
    assert_eq!(floors("default")?, usual);
    plane.register(&agent("here", &[]))?;
    let manifest = plane.write_agent(&agent("there", &[("tenant: default", "tenant: retail")]))?;
    let refused = plane.cli(["agent", "register", "-f", &manifest.to_string_lossy(), "--dry-run"])?;
    assert!(refused.code() == 4 && refused.stderr.contains("tenant `retail`"), "{}", refused.stderr);
    // The plane goes below what the tenant demands: the tenant's still holds.
    plane.ok(["floor", "set", "production", "hardened", "--tenant", "retail", "--reason", "ours"])?;
    plane.ok(["floor", "set", "production", "standard", "--reason", "a decision of the board"])?;
    assert_eq!(floors("retail")?[2], "production hardened tenant");
    assert_eq!(floors("default")?[2], "production standard plane");
    Ok(())
}

/// An image with one program, beside a manifest, as production demands it.
fn image(beside: &Path) -> Result<()> {
    let layout = beside.with_file_name("image");
    std::fs::create_dir_all(layout.join("blobs/sha256"))?;
    let blob = |bytes: &[u8], kind: &str| -> Result<Value> {
        let digest = cogward_registry::manifest::sha256(bytes);
        std::fs::write(layout.join("blobs/sha256").join(digest.hex()), bytes)?;
        Ok(json!({ "mediaType": kind, "digest": digest.to_string(), "size": bytes.len() }))
    };
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o755);
    header.set_size(3);
    let mut layer = tar::Builder::new(Vec::new());
    layer.append_data(&mut header, "bin/agent", &b"run"[..])?;
    let layer = blob(&layer.into_inner()?, "application/vnd.oci.image.layer.v1.tar")?;
    let kind = "application/vnd.oci.image.manifest.v1+json";
    let manifest = json!({ "schemaVersion": 2, "mediaType": kind, "layers": [layer] });
    let mut found = blob(manifest.to_string().as_bytes(), kind)?;
    let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    found["platform"] = json!({ "architecture": architecture, "os": "linux" });
    let index = json!({ "schemaVersion": 2, "manifests": [found] });
    std::fs::write(layout.join("index.json"), index.to_string())?;
    Ok(std::fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?)
}

#[test]
fn production_is_hardened_unless_somebody_answers_for_less() -> Result<()> {
    let plane = plane()?;
    let of_image: [(&str, &str); 3] = [
        ("tier: development", "tier: production"),
        ("directory: code", "ociLayout: image"),
        ("[python3, -u, agent.py]", "[/bin/agent]"),
    ];
    let register = |name: &str, changes: &[(&str, &str)]| {
        let manifest = plane.write_agent(&agent(name, changes))?;
        image(&manifest)?;
        plane.cli(["agent", "register", "-f", &manifest.to_string_lossy()])
    };
    let refused = register("weak", &of_image)?;
    assert_eq!(refused.code(), 4, "{}", refused.stderr);
    for part in ["[profile_too_weak]", "`hardened`", "default of cogward", "tier production"] {
        assert!(refused.stderr.contains(part), "{part}: {}", refused.stderr);
    }
    let strong = register("strong", &[&of_image[..], HARDENED].concat())?;
    assert_eq!(strong.code(), 0, "{}", strong.stderr);
    plane.ok(["floor", "set", "production", "standard", "--reason", "a decision of the board"])?;
    let accepted = register("weak", &of_image)?;
    assert_eq!(accepted.code(), 0, "{}", accepted.stderr);
    // Taken back: what was registered meanwhile is listed, and does not start.
    plane.ok(["floor", "clear", "production", "--reason", "the board decided again"])?;
    assert_eq!(plane.json(["floor", "shortfalls"])?[0]["agent"], "weak");
    let refused = plane.cli(["run", "start", "weak", "--reason", "test"])?;
    assert!(refused.code() == 4 && refused.stderr.contains("profile_too_weak"), "{}", refused.stderr);
    Ok(())
}

/// A tool server with one tool.
const TOOLS: &str = r#"
import json, sys
for line in sys.stdin:
    m = json.loads(line)
    if "id" not in m: continue
    r = {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": {"name": "t", "version": "1"}}
    if m["method"] == "tools/list": r = {"tools": [{"name": "read", "inputSchema": {"type": "object"}}]}
    print(json.dumps({"jsonrpc": "2.0", "id": m["id"], "result": r}), flush=True)
"#;

#[test]
fn above_development_a_tool_that_nobody_approved_is_granted_to_nobody() -> Result<()> {
    let plane = plane()?;
    let server = plane.scratch().join("server.py");
    std::fs::write(&server, TOOLS)?;
    plane.ok([
        "tool-server",
        "add",
        "files",
        "--stdio",
        "--sandbox",
        "none",
        "--",
        "/usr/bin/python3",
        &server.to_string_lossy(),
    ])?;
    let register = |name: &str, tier: &str| {
        let changes = [
            ("tier: development", tier),
            ("directory: code", "ociLayout: image"),
            ("[python3, -u, agent.py]", "[/bin/agent]"),
            ("    {}\n", "    tools:\n      - {server: files, allow: [read]}\n"),
        ];
        let manifest = plane.write_agent(&agent(name, &changes))?;
        image(&manifest)?;
        plane.cli(["agent", "register", "-f", &manifest.to_string_lossy()])
    };
    let warned = register("early", "tier: development")?;
    assert_eq!(warned.code(), 0, "{}", warned.stderr);
    assert!(
        warned.stderr.contains("warning: agent.yaml:") && warned.stderr.contains("[tool_not_approved]"),
        "{}",
        warned.stderr
    );
    let refused = register("early-staging", "tier: staging")?;
    assert_eq!(refused.code(), 4, "{}", refused.stderr);
    for part in [
        "error: the definition of `files/read` is not approved",
        "[tool_not_approved]",
        "cogward tool approve files read",
    ] {
        assert!(refused.stderr.contains(part), "{part}: {}", refused.stderr);
    }
    plane.ok(["tool", "approve", "files", "read", "--reason", "looked"])?;
    let accepted = register("late", "tier: staging")?;
    assert_eq!(accepted.code(), 0, "{}", accepted.stderr);
    assert!(!accepted.stderr.contains("warning"), "{}", accepted.stderr);
    Ok(())
}

#[test]
fn a_floor_is_changed_for_a_reason_by_whoever_may_and_by_nothing_else() -> Result<()> {
    let plane = plane()?;
    let authorization = format!("Bearer {}", plane.token());
    let headers = [("authorization", authorization.as_str()), ("content-type", "application/json")];
    let put = |path: &str, body: &str| plane.http("PUT", path, &headers, body.as_bytes());
    let path = "/api/v1/floors/development";
    for (body, status) in [
        (r#"{"profile":"hardened"}"#, 400),
        (r#"{"profile":"hardened","reason":" "}"#, 400),
        (r#"{"reason":"x"}"#, 400),
        (r#"{"profile":"unbreakable","reason":"x"}"#, 400),
        (r#"{"profile":"pod","reason":"x"}"#, 400),
        (r#"{"profile":"hardened","reason":"x","tier":"production"}"#, 400),
    ] {
        let (answered, said) = put(path, body)?;
        assert_eq!(answered, status, "{body}: {said}");
    }
    assert_eq!(put("/api/v1/floors/test", r#"{"profile":"hardened","reason":"x"}"#)?.0, 400);
    assert_eq!(put("/api/v1/tenants/nowhere/floors/staging", r#"{"profile":"hardened","reason":"x"}"#)?.0, 404);
    assert_eq!(plane.http("PUT", path, &headers[1..], br#"{"profile":"hardened","reason":"x"}"#)?.0, 401);
    assert_eq!(exported(&plane, "floor.changed")?.len(), 0);
    assert_eq!(plane.json(["floor", "list"])?[0]["profile"], "standard");
    // It is in the database, so it outlives the plane.
    plane.ok(["floor", "set", "development", "hardened", "--reason", "x"])?;
    let mut plane = plane;
    plane.kill_9()?;
    plane.up()?;
    assert_eq!(plane.json(["floor", "list"])?[0]["profile"], "hardened");
    Ok(())
}
