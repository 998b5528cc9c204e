//! An auditor's way through the evidence: search, proofs, packs of a part, a sample, on the real plane.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result, ensure};
use cogward_testkit::{Agent, Plane};
use serde_json::Value;

const BRIEF: Agent<'static> =
    Agent { name: "brief", source: "print('{\"answer\": 42}')\n", permissions: "", changes: &[] };

fn plane() -> Result<Plane> {
    Plane::start(env!("CARGO_BIN_EXE_cogward"))
}

/// Both verifiers' exit codes, and what ours said as JSON.
fn verdicts(plane: &Plane, pack: &Path, key: &str) -> Result<(i32, i32, Value)> {
    let ours = Command::new(plane.verifier()).args(["pack"]).arg(pack).args(["--json", "--key", key]).output()?;
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../scripts/verify.py");
    let python = std::env::var("COGWARD_TEST_PYTHON").unwrap_or_else(|_| "python3".into());
    let theirs = Command::new(python).arg(script).arg(pack).args(["--key", key]).output().context("verify.py")?;
    let code = |status: std::process::ExitStatus| status.code().unwrap_or(-1);
    ensure!(theirs.stderr.is_empty(), "{}", String::from_utf8_lossy(&theirs.stderr));
    Ok((code(ours.status), code(theirs.status), serde_json::from_slice(&ours.stdout)?))
}

fn started(plane: &Plane, user: &str) -> Result<String> {
    let run = plane.ok(["run", "start", "brief", "--reason", "test", "--as", user, "-o", "name"])?.trim().to_owned();
    plane.run_until(&run, |run| run["state"] == "succeeded")?;
    Ok(run)
}

fn found(plane: &Plane, words: &[&str]) -> Result<Vec<Value>> {
    let words: Vec<&str> = ["evidence", "search"].iter().chain(words).copied().collect();
    Ok(plane.json(words)?.as_array().context("a list")?.clone())
}

fn key(plane: &Plane) -> Result<String> {
    let whole = plane.scratch().join("whole-for-the-key");
    plane.ok(["evidence", "export", &whole.to_string_lossy()])?;
    // The file with both keys: with one of them alone the other's signature says nothing.
    Ok(whole.join("log.vkey").to_string_lossy().into_owned())
}

#[test]
fn an_auditor_searches_proves_and_exports_and_all_of_it_is_on_record() -> Result<()> {
    let plane = plane()?;
    plane.register(&BRIEF)?;
    let (anna, bo) = (started(&plane, "anna@bank.example")?, started(&plane, "bo@bank.example")?);
    let audit = plane.ok(["operator", "add", "audit", "--auditor", "--reason", "x"])?.trim().to_owned();
    let by = |args: &[&str]| -> Result<(i32, String)> {
        let done = plane.command(args).env("COGWARD_TOKEN", &audit).output()?;
        Ok((done.status.code().unwrap_or(-1), String::from_utf8_lossy(&done.stderr).into_owned()))
    };
    let of_anna = found(&plane, &["--user", "anna@bank.example"])?;
    ensure!(of_anna.len() > 2 && of_anna.iter().all(|leaf| leaf["body"]["run"] == anna.as_str()), "{of_anna:?}");
    ensure!(found(&plane, &["--run", &bo, "--type", "run.closed"])?.len() == 1);
    ensure!(found(&plane, &["--agent", "nobody"])?.is_empty());
    let (code, said) = by(&["evidence", "search", "--agent", "brief", "--limit", "3", "-o", "name"])?;
    ensure!(code == 0 && said.contains("3 found; the index is current up to") && said.contains("--cursor"), "{said}");

    let key = key(&plane)?;
    let at = |name: &str| plane.scratch().join(name);
    let leaf = of_anna[0]["seq"].to_string();
    let (one, two, three) = (at("a.tlog-proof"), at("b.json"), at("c.json"));
    for (words, file) in [
        (vec!["evidence", "prove", "inclusion", &leaf], &one),
        (vec!["evidence", "prove", "consistency", "3"], &two),
        (vec!["evidence", "prove", "run", &anna], &three),
    ] {
        let words: Vec<&str> = words.into_iter().chain(["--file", file.to_str().context("a path")?]).collect();
        let (code, said) = by(&words)?;
        ensure!(code == 0, "{words:?}: {said}");
        let verified = Command::new(plane.verifier()).arg("proof").arg(file).args(["--key", &key]).output()?;
        let said = String::from_utf8_lossy(&verified.stdout).into_owned();
        ensure!(verified.status.code() == Some(0) && said.starts_with("OK"), "{words:?}: {said}");
        let mut bytes = fs::read(file)?;
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(file, bytes)?;
        let verified = Command::new(plane.verifier()).arg("proof").arg(file).args(["--key", &key]).output()?;
        ensure!(verified.status.code() == Some(9), "{words:?}");
    }

    let (run, window, agent, user) = (at("run"), at("window"), at("agent"), at("user"));
    let time = of_anna[0]["time"].as_str().context("a time")?.to_owned();
    for (dir, words, disclosed) in [
        (&run, vec!["--run", &anna, "--disclose", "--reason", "complaint 17"], true),
        (&window, vec!["--from", &time], false),
        (&agent, vec!["--agent", "brief"], false),
        (&user, vec!["--user", "bo@bank.example"], false),
    ] {
        let path = dir.to_string_lossy().into_owned();
        let words: Vec<&str> = ["evidence", "export", &path].into_iter().chain(words).collect();
        let (code, said) = by(&words)?;
        ensure!(code == 0, "{words:?}: {said}");
        let (ours, theirs, verdict) = verdicts(&plane, dir, &key)?;
        ensure!((ours, theirs) == (0, 0), "{words:?}: {ours} {theirs} {verdict}");
        ensure!(verdict["pack"]["complete"] == true, "{verdict}");
        ensure!((verdict["pack"]["disclosures"].as_u64() > Some(0)) == disclosed, "{verdict}");
        let whole: String = fs::read_dir(dir)?.map(|f| fs::read_to_string(f?.path())).collect::<Result<_, _>>()?;
        ensure!(!whole.contains("bank.example"), "a name in clear in {}", dir.display());
        // The policies that decided are there, by their digests.
        let policies = fs::read_to_string(dir.join("policies.jsonl")).unwrap_or_default();
        ensure!(policies.is_empty() || policies.contains("sha256:"), "{policies}");
        let leaves = dir.join("leaves.jsonl");
        let text = fs::read_to_string(&leaves)?;
        let less: String = text.lines().skip(1).map(|line| format!("{line}\n")).collect();
        fs::write(&leaves, less)?;
        let (ours, theirs, _) = verdicts(&plane, dir, &key)?;
        ensure!((ours, theirs) == (9, 9), "{words:?}: {ours} {theirs}");
    }
    let refused = plane.cli(["evidence", "export", &at("x").to_string_lossy(), "--run", &anna, "--disclose"])?;
    ensure!(refused.code() == 2, "a reason is required: {}", refused.stderr);
    let refused = by(&["evidence", "reindex", "--reason", "x"])?;
    ensure!(refused.0 == 4, "an auditor changes nothing: {refused:?}");

    // All of it is on record, and no name is.
    let queries = found(&plane, &["--type", "query.executed"])?;
    let text = serde_json::to_string(&queries.iter().map(|q| &q["body"]).collect::<Vec<_>>())?;
    ensure!(!text.contains("anna") && text.contains("\"agent\":\"brief\"") && text.contains("\"results\""), "{text}");
    let packs = found(&plane, &["--type", "pack.exported"])?;
    let parts: Vec<_> = packs.iter().filter_map(|pack| pack["body"]["part"].as_str()).collect();
    ensure!(parts == ["run", "window", "agent", "subject"], "{parts:?}");
    ensure!(packs[0]["body"]["disclosures"].as_u64() > Some(0) && packs[1]["body"]["disclosures"] == 0);
    ensure!(found(&plane, &["--type", "evidence.proven"])?.len() == 3);
    Ok(())
}

#[test]
fn another_tenants_run_cannot_be_exported_and_a_policy_can_keep_hidden_values_hidden() -> Result<()> {
    let plane = plane()?;
    plane.register(&BRIEF)?;
    let run = started(&plane, "anna@bank.example")?;
    plane.ok(["tenant", "create", "retail", "--reason", "x"])?;
    let dest = plane.scratch().join("x").to_string_lossy().into_owned();
    let foreign = plane.cli(["evidence", "export", &dest, "--run", &run, "--tenant", "retail"])?;
    ensure!(foreign.code() == 3, "{}", foreign.stderr);
    ensure!(found(&plane, &["--run", &run, "--tenant", "retail"])?.is_empty());
    ensure!(found(&plane, &["--run", &run])?.iter().any(|leaf| leaf["disclosed"]["sub"] == "anna@bank.example"));
    let rule = "@id(\"hidden\") forbid (principal, action == Cogward::Action::\"operator_command\", resource) \
                when { context.command == \"evidence.disclose\" };\n@id(\"all\") permit (principal, action, resource);\n";
    let file = plane.scratch().join("policy.cedar");
    fs::write(&file, rule)?;
    let put = plane.json(["policy", "put", &file.to_string_lossy(), "--reason", "x"])?;
    let digest = put["digest"].as_str().context("a digest")?.to_owned();
    plane.ok(["policy", "approve", &digest, "--reason", "x"])?;
    plane.ok(["policy", "activate", &digest, "--reason", "x"])?;
    let leaves = found(&plane, &["--run", &run])?;
    ensure!(leaves.len() > 2 && leaves.iter().all(|leaf| leaf.get("disclosed").is_none()), "{leaves:?}");
    let shown = plane.json(["evidence", "show", "--run", &run])?;
    let shown = shown.as_array().context("a list")?;
    ensure!(shown.len() > 2 && shown.iter().all(|leaf| leaf.get("disclosed").is_none()), "{shown:?}");
    let refused = plane.cli(["evidence", "export", &dest, "--run", &run, "--disclose", "--reason", "curious"])?;
    ensure!(refused.code() == 4 && refused.stderr.contains("hidden"), "{}", refused.stderr);
    ensure!(found(&plane, &["--type", "operator.command_refused"])?.len() == 1);
    plane.ok(["evidence", "export", &dest, "--run", &run])?;
    Ok(())
}

#[test]
fn a_sample_is_drawn_from_the_root_that_was_signed_before_its_number_was_told() -> Result<()> {
    let plane = plane()?;
    plane.register(&BRIEF)?;
    for _ in 0..3 {
        started(&plane, "anna@bank.example")?;
    }
    let nonce = "4f1c9d0b7a65e3828d1f";
    let dest = plane.scratch().join("sample");
    let draw = |nonce: &str, size: &str, dest: &Path| {
        let dest = dest.to_string_lossy().into_owned();
        plane.cli(["evidence", "sample", "draw", &dest, "--nonce", nonce, "--count", "5", "--size", size])
    };
    ensure!(draw(nonce, "10", &dest)?.code() == 2, "nobody has committed to it");
    let commitment: String = {
        let done = Command::new("sh").args(["-c", &format!("printf %s {nonce} | sha256sum")]).output()?;
        String::from_utf8(done.stdout)?.chars().take(64).collect()
    };
    let note = plane.ok(["evidence", "sample", "commit", &commitment])?;
    let size = note.lines().nth(1).context("a size")?.to_owned();
    // What happens meanwhile changes nothing.
    started(&plane, "bo@bank.example")?;
    ensure!(draw("another-number-of-mine", &size, &dest)?.code() == 2);
    let drawn = draw(nonce, &size, &dest)?;
    ensure!(drawn.code() == 0, "{}", drawn.stderr);
    // The second of the two signatures is another one each time.
    let said = |note: &str| note.split("\n\n").next().map(str::to_owned);
    let drawn = fs::read_to_string(dest.join("checkpoint"))?;
    ensure!(said(&drawn) == said(&note), "what was signed is the same, to the letter");
    let key = key(&plane)?;
    let (ours, theirs, verdict) = verdicts(&plane, &dest, &key)?;
    ensure!((ours, theirs) == (0, 0), "{verdict}");
    ensure!(verdict["pack"]["leaves"] == 5, "{verdict}");
    Ok(())
}

#[test]
fn the_index_survives_kill_9_and_an_operator_can_have_it_made_anew() -> Result<()> {
    let mut plane = plane()?;
    plane.register(&BRIEF)?;
    let run = started(&plane, "anna@bank.example")?;
    let before = found(&plane, &["--run", &run])?;
    for _ in 0..3 {
        plane.kill_9()?;
        plane.up()?;
        ensure!(found(&plane, &["--run", &run])? == before);
    }
    plane.ok(["evidence", "reindex", "--reason", "test"])?;
    ensure!(found(&plane, &["--run", &run])? == before);
    ensure!(found(&plane, &["--type", "evidence.reindexed"])?.len() == 1);
    plane.kill_9()?;
    for file in ["index.db", "index.db-wal", "index.db-shm"] {
        drop(fs::remove_file(plane.data_dir().join("evidence").join(file)));
    }
    fs::write(plane.data_dir().join("evidence/index.db"), "no database")?;
    // Killed as soon as it is up: while the index is being made.
    for _ in 0..4 {
        plane.up()?;
        plane.kill_9()?;
    }
    plane.up()?;
    ensure!(found(&plane, &["--run", &run])? == before);
    Ok(())
}
