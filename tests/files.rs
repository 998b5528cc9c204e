//! Files into a run and out of it, as an operator does it: what went in and came out is what the evidence says.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use cogward_testkit::{Agent, Plane};
use serde_json::{Value, json};

fn plane() -> Result<Plane> {
    Plane::start(env!("CARGO_BIN_EXE_cogward"))
}

/// Reads a table and a folder, uses its skill, changes its template, leaves a report and a folder.
const CLERK: &str = r"
import json, os, pathlib, sys
claims = pathlib.Path(os.environ['COGWARD_INPUTS_DIR'], 'claims.csv').read_text()
rules = sorted(p.name for p in pathlib.Path('/inputs/rules').iterdir()) if os.path.exists('/inputs/rules') else []
skill = pathlib.Path(os.environ['COGWARD_SKILLS_DIR'], 'sorting', 'SKILL.md').read_text()
letter = pathlib.Path('/work/letter.txt')
letter.write_text(letter.read_text() + 'Ada')
out = pathlib.Path('/work/out'); (out / 'all').mkdir(parents=True)
(out / 'report.txt').write_text(letter.read_text() + ' ' + claims.upper())
(out / 'all' / 'one').write_text('1'); (out / 'all' / 'two').write_text('22')
if 'link' in claims: os.symlink('/etc/passwd', out / 'all' / 'three')
if 'large' in claims: (out / 'report.txt').write_bytes(b'x' * (2 << 20))
if 'flood' in claims: pathlib.Path('/work/output').write_bytes(b'x' * (2 << 20))
print(json.dumps({'rules': rules, 'skill': skill}))
";

const CHANGES: &[(&str, &str)] = &[
    ("entrypoint: [python3, -u, agent.py]", "entrypoint: [python3, -u, agent.py]\n    skills: [skills/sorting]"),
    (
        "    graceSeconds: 2",
        "    graceSeconds: 2
    workspace: {from: template}
    inputs:
      - {name: claims.csv, maxMib: 1, required: true}
      - {name: rules, maxMib: 1}
    outputs:
      - {name: report.txt, path: /work/out/report.txt, maxMib: 1, required: true}
      - {name: all, path: /work/out/all, maxMib: 1}",
    ),
];

fn register(plane: &Plane) -> Result<()> {
    let agent = Agent { name: "clerk", source: CLERK, permissions: "", changes: CHANGES };
    let manifest = plane.write_agent(&agent)?;
    let code = manifest.with_file_name("code");
    for (path, text) in [("skills/sorting/SKILL.md", "sort by date"), ("template/letter.txt", "Dear ")] {
        let path = code.join(path);
        fs::create_dir_all(path.parent().context("a parent")?)?;
        fs::write(path, text)?;
    }
    plane.ok([Path::new("agent"), Path::new("register"), Path::new("-f"), &manifest]).map(drop)
}

fn given(plane: &Plane, name: &str, text: &str) -> Result<String> {
    let path = plane.scratch().join(name);
    fs::write(&path, text)?;
    Ok(path.to_string_lossy().into_owned())
}

/// Starts a run with a table of claims and waits for its end.
fn ended(plane: &Plane, claims: &str) -> Result<Value> {
    let path = given(plane, "claims-input.csv", claims)?;
    let claims = format!("claims.csv={path}");
    let run = plane.json(["run", "start", "clerk", "--reason", "test", "--input-file", &claims])?;
    plane.run_until(run["id"].as_str().context("an id")?, |r| r["ended"].is_string())
}

/// SHA-256 by a program that is not ours.
fn sha256(path: &Path) -> Result<String> {
    let said = Command::new("sha256sum").arg(path).output()?;
    let text = String::from_utf8(said.stdout)?;
    Ok(format!("sha256:{}", text.split(' ').next().context("a digest")?))
}

/// The leaf of a type in an exported pack, as it stands there.
fn exported(pack: &Path, kind: &str, run: &str) -> Result<Value> {
    let (mut folders, mut all) = (vec![pack.join("tile/entries")], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() { folders.push(path) } else { all.push(fs::read(path)?) }
        }
    }
    let mut leaves = Vec::new();
    for mut bundle in all.iter().map(Vec::as_slice) {
        while let [high, low, rest @ ..] = bundle {
            let length = usize::from(u16::from_be_bytes([*high, *low]));
            leaves.push(serde_json::from_slice::<Value>(rest.get(..length).context("a whole entry")?)?);
            bundle = rest.get(length..).context("a whole entry")?;
        }
    }
    let found = leaves.iter().map(|leaf| &leaf["body"]).find(|body| body["type"] == kind && body["run"] == run);
    found.cloned().with_context(|| format!("no {kind} of {run} in {} leaves", leaves.len()))
}

#[test]
fn what_goes_in_and_comes_out_is_what_the_evidence_says_offline() -> Result<()> {
    let plane = plane()?;
    register(&plane)?;
    let claims = given(&plane, "claims.csv", "claim;amount\n17;300\n")?;
    let rules = plane.scratch().join("rules");
    fs::create_dir(&rules)?;
    fs::write(rules.join("a.txt"), "first")?;
    fs::write(rules.join("b.txt"), "second")?;
    let (claims_arg, rules_arg) = (format!("claims.csv={claims}"), format!("rules={}", rules.display()));
    let shown = plane.ok([
        "run",
        "start",
        "clerk",
        "--reason",
        "test",
        "--wait",
        "--input-file",
        &claims_arg,
        "--input-file",
        &rules_arg,
    ])?;
    let output: Value = serde_json::from_str(&shown)?;
    assert_eq!(output, json!({ "rules": ["a.txt", "b.txt"], "skill": "sort by date" }));
    let runs = plane.json(["run", "list"])?;
    let run = runs[0]["id"].as_str().or_else(|| runs["items"][0]["id"].as_str()).context("a run")?.to_owned();

    let report = plane.scratch().join("report.txt");
    plane.ok(["run", "artifact", &run, "report.txt", "--to", &report.to_string_lossy()])?;
    assert_eq!(fs::read_to_string(&report)?, "Dear Ada CLAIM;AMOUNT\n17;300\n");
    let all = plane.scratch().join("all");
    plane.ok(["run", "artifact", &run, "all", "--to", &all.to_string_lossy()])?;
    assert_eq!(fs::read_to_string(all.join("two"))?, "22");
    let again = plane.cli(["run", "artifact", &run, "all", "--to", &all.to_string_lossy()])?;
    assert_eq!(again.code(), 5, "nothing is overwritten: {}", again.stderr);
    // An input is the plane's: what the operator's own file says later changes nothing.
    fs::write(&claims, "other")?;

    let pack = plane.scratch().join("pack");
    plane.ok(["evidence", "export", &pack.to_string_lossy()])?;
    let verified = Command::new(plane.verifier()).arg(&pack).output()?;
    ensure!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));
    let requested = exported(&pack, "run.requested", &run)?;
    let closed = exported(&pack, "run.closed", &run)?;
    fs::write(&claims, "claim;amount\n17;300\n")?;
    assert_eq!(requested["inputs"][0]["name"], "claims.csv");
    assert_eq!(requested["inputs"][0]["digest"], sha256(Path::new(&claims))?);
    assert_eq!(requested["inputs"][0]["bytes"], 20);
    assert_eq!(closed["artifacts"][0]["name"], "report.txt");
    assert_eq!(closed["artifacts"][0]["digest"], sha256(&report)?);
    // The listing of a directory, written again with what every host has.
    for (leaf, place) in [(&requested["inputs"][1], &rules), (&closed["artifacts"][1], &all)] {
        assert_eq!(leaf["digest"], by_hand(&plane, place)?, "{leaf}");
    }
    Ok(())
}

/// As docs/api.md says that it can be done.
fn by_hand(plane: &Plane, tree: &Path) -> Result<String> {
    let script = "set -eu; export LC_ALL=C; cd \"$1\"; { printf 'cogward-tree-v1\\n'; \
        find . -mindepth 1 | cut -c3- | sort | while IFS= read -r p; do \
        if [ -d \"$p\" ]; then printf 'd\\t%s\\n' \"$p\"; \
        else m=-; [ -x \"$p\" ] && m=x; printf 'f\\t%s\\t%s\\t%s\\t%s\\n' \"$m\" \"$(sha256sum < \"$p\" | cut -c-64)\" \
        \"$(stat -c %s \"$p\")\" \"$p\"; fi; done; } > \"$2\"";
    let listing = plane.scratch().join("listing");
    let made = Command::new("sh").args(["-c", script, "sh"]).arg(tree).arg(&listing).status()?;
    ensure!(made.success(), "the listing could not be written");
    sha256(&listing)
}

#[test]
fn an_input_that_is_missing_undeclared_or_wrong_is_refused_with_its_reason() -> Result<()> {
    let plane = plane()?;
    register(&plane)?;
    let claims = format!("claims.csv={}", given(&plane, "claims.csv", "1")?);
    let refused = |args: &[&str]| -> Result<(i32, String)> {
        let output = plane.cli(["run", "start", "clerk", "--reason", "test"].iter().chain(args))?;
        Ok((output.code(), output.stderr))
    };
    let (code, said) = refused(&[])?;
    assert!(code == 4 && said.contains("the input `claims.csv`: it is required and was not given"), "{said}");
    let other = claims.replace("claims.csv=", "other=");
    let (code, said) = refused(&["--input-file", &claims, "--input-file", &other])?;
    assert!(
        code == 4 && said.contains("declares no input `other`") && said.contains("`claims.csv`, `rules`"),
        "{said}"
    );
    let (code, said) = refused(&["--input-file", &claims, "--input-file", &claims])?;
    assert!(code == 4 && said.contains("given twice"), "{said}");
    for bad in ["claims.csv", "=x", "../x=/etc/passwd", "claims.csv="] {
        assert_eq!(refused(&["--input-file", bad])?.0, 2, "{bad}");
    }
    let (code, said) = refused(&["--input-file", "claims.csv=/nowhere/at/all"])?;
    assert!(code == 2 && said.contains("/nowhere/at/all"), "{said}");

    let large = plane.scratch().join("large");
    fs::write(&large, vec![b'x'; (1 << 20) + 1])?;
    let (code, said) = refused(&["--input-file", &format!("claims.csv={}", large.display())])?;
    assert!(code != 0 && said.contains("more than 1048576 bytes"), "{said}");
    let tree = plane.scratch().join("tree");
    fs::create_dir(&tree)?;
    std::os::unix::fs::symlink("/etc/passwd", tree.join("link"))?;
    let (code, said) = refused(&["--input-file", &format!("rules={}", tree.display()), "--input-file", &claims])?;
    assert!(code == 2 && said.contains("symbolic link"), "{said}");

    // Nothing of all this is left, and no run was made.
    assert_eq!(plane.json(["run", "list"])?.as_array().map_or(0, Vec::len), 0);
    let runs = fs::read_dir(plane.data_dir().join("runs"))?.count();
    assert_eq!(runs, 0);
    Ok(())
}

/// A stream that the command line would not send, to the API itself.
#[test]
fn a_hostile_upload_leaves_nothing_and_reaches_nothing() -> Result<()> {
    let plane = plane()?;
    register(&plane)?;
    let auth = format!("Bearer {}", plane.token());
    let headers = [("authorization", auth.as_str()), ("content-type", "application/x-tar")];
    let path = "/api/v1/tenants/default/agents/clerk/inputs/claims.csv";
    let entry = |name: &str, kind: u8, size: u64, data: &[u8]| -> Vec<u8> {
        let mut head = vec![0_u8; 512];
        head[..name.len()].copy_from_slice(name.as_bytes());
        head[100..107].copy_from_slice(b"0000644");
        head[124..135].copy_from_slice(format!("{size:011o}").as_bytes());
        head[156] = kind;
        head[157..168].copy_from_slice(b"/etc/passwd");
        head[257..265].copy_from_slice(b"ustar\x0000");
        head[148..156].fill(b' ');
        let sum: u32 = head.iter().map(|b| u32::from(*b)).sum();
        head[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        head.extend_from_slice(data);
        head.resize(head.len().next_multiple_of(512), 0);
        head
    };
    let dir = entry("content", b'5', 0, b"");
    let in_dir = |more: Vec<u8>| [dir.clone(), more, vec![0; 1024]].concat();
    let secret = plane.data_dir().join("staging/../state.db");
    for (body, status) in [
        (in_dir(entry("content/../../../state.db", b'0', 1, b"x")), 400),
        (in_dir(entry("/etc/cron.d/x", b'0', 1, b"x")), 400),
        (in_dir(entry("content/a\nb", b'0', 1, b"x")), 400),
        (in_dir(entry("content/l", b'2', 0, b"")), 400),
        (in_dir(entry("content/l", b'1', 0, b"")), 400),
        (in_dir(entry("content/d", b'3', 0, b"")), 400),
        (in_dir(entry("content/p", b'6', 0, b"")), 400),
        (entry("content", b'0', (1 << 33) - 1, b""), 413),
        (b"not a tar stream".to_vec(), 400),
        (Vec::new(), 400),
    ] {
        let before = fs::read(&secret)?;
        let (found, said) = plane.http("POST", path, &headers, &body)?;
        assert_eq!(found, status, "{said}");
        assert_eq!(fs::read(&secret)?, before);
        assert_eq!(fs::read_dir(plane.data_dir().join("staging"))?.count(), 0);
    }
    let (status, said) = plane.http("POST", path, &headers[..1], b"")?;
    assert_eq!(status, 415, "{said}");
    let other = "/api/v1/tenants/default/agents/clerk/inputs/other";
    let (status, said) = plane.http("POST", other, &headers, &in_dir(Vec::new()))?;
    assert_eq!((status, said.contains("run_refused")), (403, true), "{said}");
    let (status, _) = plane.http("POST", path, &headers[1..], &in_dir(Vec::new()))?;
    assert_eq!(status, 401);
    Ok(())
}

#[test]
fn why_an_output_was_not_kept_is_told_everywhere() -> Result<()> {
    let plane = plane()?;
    register(&plane)?;

    let run = ended(&plane, "link and flood")?;
    let id = run["id"].as_str().context("an id")?;
    assert_eq!(run["state"], "succeeded", "{run:#}");
    assert_eq!((&run["artifacts"][1]["refused"], &run["output_refused"]), (&json!("link"), &json!("too_large")));
    let shown = plane.ok(["run", "show", id])?;
    assert!(shown.contains("all: link") && shown.contains("three") && shown.contains("the output file was not taken"));
    let closed = plane.leaves(id)?.into_iter().find(|leaf| leaf["type"] == "run.closed").context("closed")?;
    assert_eq!(closed["artifacts"][1], json!({ "name": "all", "refused": "link" }));
    assert_eq!(closed["output_refused"], "too_large");
    let fetched = plane.cli(["run", "artifact", id, "all", "--to", "/nowhere/at/all"])?;
    assert!(fetched.code() == 3 && fetched.stderr.contains("link"), "{}", fetched.stderr);

    // Required: then the run did not do what it was started for.
    let run = ended(&plane, "large")?;
    assert_eq!(run["state"], "failed", "{run:#}");
    let cause = run["fail_cause"].as_str().context("a cause")?;
    assert!(
        cause.contains("spec.sandbox.outputs") && cause.contains("`report.txt` was not kept: too_large"),
        "{cause}"
    );
    let listed = plane.json(["run", "artifacts", run["id"].as_str().context("an id")?])?;
    assert_eq!(listed[0]["refused"], "too_large");
    assert!(listed[1]["content"]["digest"].is_string());
    Ok(())
}

#[test]
fn an_artifact_that_was_changed_on_the_planes_disk_is_not_taken_for_it() -> Result<()> {
    let plane = plane()?;
    register(&plane)?;
    let run = ended(&plane, "1")?;
    let id = run["id"].as_str().context("an id")?;
    let kept = plane.data_dir().join("runs").join(id).join("artifacts");
    fs::write(kept.join("report.txt"), "forged")?;
    fs::write(kept.join("all/one"), "2")?;
    for name in ["report.txt", "all"] {
        let to = plane.scratch().join(format!("fetched-{name}"));
        let fetched = plane.cli(["run", "artifact", id, name, "--to", &to.to_string_lossy()])?;
        assert_eq!(fetched.code(), 9, "{}", fetched.stderr);
        assert!(!to.exists());
    }
    Ok(())
}

#[test]
fn a_plane_that_was_killed_gives_the_same_inputs_and_keeps_the_outputs() -> Result<()> {
    let mut plane = plane()?;
    let agent = Agent {
        name: "slow",
        source: "import time, os\nopen('/work/early', 'w').write('there')\nprint('up', flush=True)\nwhile not os.path.exists('/work/never'): time.sleep(0.1)\n",
        permissions: "",
        changes: &[(
            "    graceSeconds: 2",
            "    graceSeconds: 2\n    outputs: [{name: early, path: /work/early, maxMib: 1}]",
        )],
    };
    let run = plane.launch(&agent)?;
    plane.said(&run, "up")?;
    plane.kill_9()?;
    plane.up()?;
    plane.ok(["run", "kill", &run, "--reason", "test"])?;
    let run = plane.run_until(&run, |r| r["ended"].is_string())?;
    assert_eq!((&run["state"], &run["artifacts"][0]["content"]["bytes"]), (&json!("killed"), &json!(5)), "{run:#}");
    Ok(())
}

#[test]
fn an_upload_is_for_one_run() -> Result<()> {
    let plane = plane()?;
    register(&plane)?;
    let auth = format!("Bearer {}", plane.token());
    let tar = plane.scratch().join("one.tar");
    fs::write(plane.scratch().join("content"), "1")?;
    let made = Command::new("tar")
        .args(["--format=ustar", "-cf"])
        .arg(&tar)
        .arg("-C")
        .arg(plane.scratch())
        .arg("content")
        .status()?;
    ensure!(made.success(), "tar");
    let headers = [("authorization", auth.as_str()), ("content-type", "application/x-tar")];
    let path = "/api/v1/tenants/default/agents/clerk/inputs/claims.csv";
    let (status, said) = plane.http("POST", path, &headers, &fs::read(&tar)?)?;
    assert_eq!(status, 201, "{said}");
    let upload: Value = serde_json::from_str(&said)?;
    assert_eq!(upload["digest"], sha256(&plane.scratch().join("content"))?);
    let start = |name: &str| -> Result<(u16, String)> {
        let body =
            json!({ "tenant": "default", "agent": "clerk", "inputs": [{ "name": name, "upload": upload["id"] }] });
        let headers = [("authorization", auth.as_str()), ("content-type", "application/json")];
        plane.http("POST", "/api/v1/runs", &headers, body.to_string().as_bytes())
    };
    let (status, said) = start("rules")?;
    assert_eq!((status, said.contains("there is no upload")), (403, true), "{said}");
    assert_eq!(start("claims.csv")?.0, 201);
    let (status, said) = start("claims.csv")?;
    assert_eq!((status, said.contains("there is no upload")), (403, true), "{said}");
    Ok(())
}

#[test]
fn a_workspace_on_disk_is_larger_than_the_memory() -> Result<()> {
    let plane = plane()?;
    let agent = Agent {
        name: "heavy",
        source: "import os\nwith open('/work/big', 'wb') as f:\n  for _ in range(150): f.write(b'x' * (1 << 20))\nos.sync()\nprint(os.path.getsize('/work/big'))\n",
        permissions: "",
        changes: &[
            ("memoryMib: 128, pids: 32, workspaceMib: 8", "memoryMib: 64, pids: 32, workspaceMib: 160"),
            ("    graceSeconds: 2", "    graceSeconds: 2\n    workspace: {medium: disk}"),
        ],
    };
    let run = plane.launch(&agent)?;
    let run = plane.run_until(&run, |r| r["ended"].is_string())?;
    assert_eq!((&run["state"], &run["output"]), (&json!("succeeded"), &json!((150 << 20).to_string())), "{run:#}");
    let peak = run["usage"]["memory_peak_bytes"].as_u64().context("a peak")?;
    assert!(peak <= 64 << 20, "{peak}");
    let started = plane.leaves(run["id"].as_str().context("an id")?)?;
    let started = started.iter().find(|leaf| leaf["type"] == "run.started").context("started")?;
    assert_eq!(started["enforcement"]["workspace"], "disk");
    Ok(())
}

#[test]
fn a_skill_has_its_digest_in_the_evidence_of_the_version() -> Result<()> {
    let plane = plane()?;
    register(&plane)?;
    let skill: PathBuf = plane.scratch().join("clerk/code/skills/sorting");
    let pack = plane.scratch().join("pack");
    plane.ok(["evidence", "export", &pack.to_string_lossy()])?;
    let mut found = Value::Null;
    let mut folders = vec![pack.join("tile/entries")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = fs::read(path)?;
            if let Some(at) = text.windows(9).position(|w| w == b"\"skills\":") {
                let rest = text.get(at + 9..).context("a value")?;
                found = serde_json::Deserializer::from_slice(rest).into_iter().next().context("a value")??;
            }
        }
    }
    assert_eq!(found, json!([{ "name": "sorting", "digest": by_hand(&plane, &skill)? }]));
    Ok(())
}
