//! What an external auditor tried: each attack on the ledger beside its state, and each question that had no answer.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use cogward_testkit::Plane;
use serde_json::Value;

const EXE: &str = env!("CARGO_BIN_EXE_cogward");
const PATIENCE: Duration = Duration::from_secs(120);

fn copy(from: &Path, to: &Path) -> Result<()> {
    let done = Command::new("cp").arg("-a").arg(from).arg(to).status()?;
    ensure!(done.success(), "{} to {}", from.display(), to.display());
    Ok(())
}

fn add(plane: &Plane, name: &str) -> Result<String> {
    Ok(plane.ok(["operator", "add", name, "--reason", "a test"])?.trim().to_owned())
}

/// The plane must not come up; what it said then.
fn refused(plane: &mut Plane) -> Result<String> {
    let before = plane.log().len();
    let error = plane.up().err().context("the plane came up")?;
    let said = plane.log().get(before..).unwrap_or_default().to_owned();
    ensure!(said.contains("rollback detected"), "{error:#}");
    plane.kill_9()?;
    Ok(said)
}

fn found(plane: &Plane, words: &[&str]) -> Result<Vec<Value>> {
    let words: Vec<&str> = ["evidence", "search"].iter().chain(words).copied().collect();
    Ok(plane.json(words)?.as_array().context("a list")?.clone())
}

/// Asks until a question has an answer.
fn found_until(plane: &Plane, words: &[&str], is: impl Fn(&[Value]) -> bool) -> Result<Vec<Value>> {
    let until = Instant::now() + PATIENCE;
    loop {
        let leaves = found(plane, words)?;
        if is(&leaves) {
            return Ok(leaves);
        }
        ensure!(Instant::now() < until, "{words:?}: {leaves:?}\n{}", plane.log());
        thread::yield_now();
    }
}

fn findings(plane: &Plane) -> Result<Vec<String>> {
    let leaves = found(plane, &["--type", "security.finding"])?;
    Ok(leaves.iter().filter_map(|leaf| leaf["body"]["finding"].as_str()).map(str::to_owned).collect())
}

/// All that a command said.
trait Said {
    fn all(&self) -> String;
}

impl Said for Output {
    fn all(&self) -> String {
        [&self.stdout[..], &self.stderr[..]].map(|bytes| String::from_utf8_lossy(bytes).into_owned()).concat()
    }
}

impl Said for cogward_testkit::Output {
    fn all(&self) -> String {
        [self.stdout.as_str(), self.stderr.as_str()].concat()
    }
}

fn said(output: &impl Said) -> String {
    output.all()
}

#[test]
fn an_older_ledger_or_a_fork_of_it_does_not_start_beside_a_newer_state() -> Result<()> {
    let mut plane = Plane::start(EXE)?;
    plane.stop()?;
    let (data, scratch) = (plane.data_dir(), plane.scratch().to_owned());
    let evidence = data.join("evidence");
    let (older, backup, newer) = (scratch.join("older"), scratch.join("backup"), scratch.join("newer"));
    copy(&evidence, &older)?;
    copy(&data, &backup)?;

    // Nothing that happens now is a command with a receipt. A crash, and a clean stop.
    for crashes in [true, false] {
        plane.up()?;
        add(&plane, if crashes { "mallory" } else { "malory" })?;
        if crashes {
            plane.kill_9()?;
        } else {
            plane.stop()?;
        }
        fs::rename(&evidence, &newer)?;
        copy(&older, &evidence)?;
        let said = refused(&mut plane)?;
        ensure!(said.contains("`state.db` has seen") && said.contains("from one backup"), "{said}");
        fs::remove_dir_all(&evidence)?;
        fs::rename(&newer, &evidence)?;
    }
    // The true one starts, and so does a backup of both parts.
    plane.up()?;
    plane.stop()?;
    let true_data = scratch.join("true");
    fs::rename(&data, &true_data)?;
    fs::rename(&backup, &data)?;
    plane.up()?;
    for name in ["x", "y", "z", "u", "v", "w"] {
        add(&plane, name)?;
    }
    plane.stop()?;

    // What the backup became is longer than what the state saw, under the same keys, and another log.
    fs::remove_dir_all(true_data.join("evidence"))?;
    copy(&evidence, &true_data.join("evidence"))?;
    fs::remove_dir_all(&data)?;
    fs::rename(&true_data, &data)?;
    let said = refused(&mut plane)?;
    ensure!(said.contains("is not the one whose"), "{said}");
    Ok(())
}

#[test]
fn without_its_checkpoint_files_a_ledger_is_not_cut_short_in_silence() -> Result<()> {
    let mut plane = Plane::start(EXE)?;
    for name in ["a", "b", "c"] {
        add(&plane, name)?;
    }
    // Until the plane log has a checkpoint, too.
    let until = Instant::now() + PATIENCE;
    while plane.json(["evidence", "status"])?["size"] == 0 {
        ensure!(Instant::now() < until, "{}", plane.log());
    }
    plane.stop()?;
    let evidence = plane.data_dir().join("evidence");
    for file in ["tenants/default/checkpoint", "plane/checkpoint"] {
        fs::remove_file(evidence.join(file))?;
    }
    let _none = fs::remove_file(evidence.join("snapshot"));
    let segment = evidence.join("wal/0000000000000000.seg");
    let whole = fs::read(&segment)?;
    let used = whole.iter().rposition(|byte| *byte != 0).context("an empty log")?;
    let mut cut = whole.clone();
    cut.get_mut(used - 3_000..).context("the tail")?.fill(0);
    fs::write(&segment, &cut)?;
    let said = refused(&mut plane)?;
    ensure!(said.contains("`state.db` has seen") && !said.contains("a torn tail was cut"), "{said}");
    ensure!(fs::read(&segment)? == cut, "what was refused was changed");

    // With all its leaves it starts, and the removal of the files is on record.
    fs::write(&segment, &whole)?;
    plane.up()?;
    ensure!(findings(&plane)? == ["checkpoint_missing"], "{:?}", findings(&plane)?);
    ensure!(plane.log().contains("the file with its last checkpoint is missing"), "{}", plane.log());
    plane.stop()?;
    plane.up()?;
    ensure!(findings(&plane)?.len() == 1, "it is said once");
    Ok(())
}

/// Leaves by their types.
fn types(leaves: &[Value]) -> Vec<&str> {
    leaves.iter().filter_map(|leaf| leaf["type"].as_str()).collect()
}

#[test]
fn everything_that_an_operator_did_is_found_and_stays_attributed() -> Result<()> {
    let plane = Plane::start(EXE)?;
    let bob = add(&plane, "bob")?;
    let as_bob = |args: &[&str]| -> Result<Output> {
        let done = plane.command(args).env("COGWARD_TOKEN", &bob).output()?;
        ensure!(done.status.success(), "{args:?}: {}", said(&done));
        Ok(done)
    };
    let operators = plane.json(["operator", "list"])?;
    let id = operators.as_array().context("operators")?.iter().find(|one| one["name"] == "bob").context("bob")?["id"]
        .as_str()
        .context("an id")?
        .to_owned();
    plane.register(&cogward_testkit::Agent {
        name: "patient",
        source: "import time\nprint('up')\ntime.sleep(60)\n",
        permissions: "",
        changes: &[],
    })?;
    let started = as_bob(&["run", "start", "patient", "--as", "anna@bank.example", "--reason", "test", "-o", "name"])?;
    let run = String::from_utf8_lossy(&started.stdout).trim().to_owned();
    plane.said(&run, "up")?;
    as_bob(&["run", "suspend", &run, "--reason", "look"])?;
    plane.ok(["run", "resume", &run, "--reason", "by the other one"])?;
    as_bob(&["run", "kill", &run, "--reason", "enough"])?;
    as_bob(&["tenant", "create", "acme", "--reason", "a tenant"])?;

    for words in [["--operator", "bob"], ["--operator", id.as_str()]] {
        let leaves = found(&plane, &words)?;
        let of_bob = types(&leaves);
        for kind in ["operator.created", "run.requested", "run.suspended", "run.killed"] {
            ensure!(of_bob.contains(&kind), "{kind} is not among {of_bob:?}");
        }
        ensure!(!of_bob.contains(&"run.resumed"), "{of_bob:?}");
    }
    let leaves = found(&plane, &["--operator", "bob", "--run", &run])?;
    ensure!(leaves.iter().all(|leaf| leaf["body"]["operator"] == id.as_str()), "{leaves:?}");

    // What is erased of the user takes the operator's name and reason along, and not the public id.
    let asked = plane.json([
        "evidence",
        "redact",
        "request",
        "--subject",
        "anna@bank.example",
        "--ground",
        "gdpr-17-1-b",
        "--reason",
        "x",
    ])?;
    let redaction = asked["id"].as_str().context("a redaction")?.to_owned();
    as_bob(&["evidence", "redact", "approve", &redaction, "--reason", "checked"])?;
    plane.ok(["evidence", "redact", "execute", &redaction, "--reason", "due"])?;
    let leaves = found(&plane, &["--operator", &id, "--run", &run])?;
    ensure!(types(&leaves) == ["run.requested", "run.suspended", "run.killed"], "{:?}", types(&leaves));
    for leaf in &leaves {
        ensure!(leaf["erased"]["actor"].is_string() && leaf["disclosed"]["actor"].is_null(), "{leaf}");
        ensure!(leaf["body"]["operator"] == id.as_str(), "{leaf}");
    }
    let stranger = plane.cli(["evidence", "search", "--operator", "nobody"])?;
    ensure!(
        stranger.status.code() != Some(0) && said(&stranger).contains("no operator `nobody`"),
        "{}",
        said(&stranger)
    );
    Ok(())
}

#[test]
fn a_misspelt_filter_or_an_inverted_window_has_no_answer_but_a_refusal() -> Result<()> {
    let plane = Plane::start(EXE)?;
    let pack = plane.scratch().join("pack").to_string_lossy().into_owned();
    for (args, wanted) in [
        (vec!["search", "--type", "nonsense.type"], "docs/evidence/events.md"),
        (vec!["search", "--type", "tool.call.decide"], "did you mean `tool.call.decided`?"),
        (vec!["search", "--decision", "deny"], "`block` is the decision"),
        (vec!["search", "--decision", "blok"], "did you mean `block`?"),
        (vec!["search", "--tool", "files"], "--tool-server"),
        (vec!["search", "--from", "2026-12-01", "--to", "2026-11-01"], "before it begins"),
        (vec!["export", &pack, "--type", "tool.call.decide"], "did you mean `tool.call.decided`?"),
        (vec!["export", &pack, "--tool", "files"], "--tool-server"),
        (vec!["export", &pack, "--from", "2026-12-01", "--to", "2026-11-01"], "before it begins"),
    ] {
        let args: Vec<&str> = ["evidence"].into_iter().chain(args).collect();
        let done = plane.cli(&args)?;
        ensure!(done.status.code() == Some(2) && said(&done).contains(wanted), "{args:?}: {}", said(&done));
        ensure!(!Path::new(&pack).exists(), "{args:?}");
    }
    for (from, to, wanted) in [
        ("2020-01-01", "2999-01-01", "The window ends at 2999-01-01"),
        ("2998-01-01", "2999-01-01", "nothing of it is known yet"),
    ] {
        let done = plane.cli(["evidence", "search", "--from", from, "--to", to])?;
        ensure!(done.status.success() && said(&done).contains(wanted), "{}", said(&done));
        let pack = plane.scratch().join(format!("pack-{from}")).to_string_lossy().into_owned();
        let done = plane.cli(["evidence", "export", &pack, "--from", from, "--to", to])?;
        ensure!(done.status.success() && said(&done).contains(wanted), "{}", said(&done));
    }
    let done = plane.cli(["evidence", "search", "--from", "2020-01-01"])?;
    ensure!(!said(&done).contains("The window"), "{}", said(&done));
    Ok(())
}

#[test]
fn a_vault_that_was_removed_is_told_and_is_not_taken_for_an_erasure() -> Result<()> {
    let mut plane = Plane::start(EXE)?;
    add(&plane, "anna")?;
    let before = found(&plane, &["--type", "operator.created"])?;
    ensure!(before.iter().all(|leaf| leaf["lost"].is_null()), "{before:?}");
    plane.stop()?;
    plane.up()?;
    ensure!(findings(&plane)?.is_empty(), "a restart finds nothing");
    ensure!(plane.cli(["evidence", "status"])?.status.code() == Some(0));
    plane.stop()?;
    let vault = plane.data_dir().join("evidence/vault");
    let kept = plane.scratch().join("vault");
    fs::rename(&vault, &kept)?;
    plane.up()?;
    ensure!(findings(&plane)? == ["vault_keys_missing"], "{:?}", findings(&plane)?);
    ensure!(plane.log().contains("no redaction destroyed them"), "{}", plane.log());
    let status = plane.cli(["evidence", "status"])?;
    ensure!(
        status.status.code() == Some(1) && said(&status).contains("ALARM: keys of values are gone"),
        "{}",
        said(&status)
    );
    let leaves = found(&plane, &["--type", "operator.created"])?;
    let lost: Vec<&Value> = leaves.iter().filter(|leaf| leaf["lost"].is_array()).collect();
    ensure!(!lost.is_empty() && lost.iter().all(|leaf| leaf["erased"].is_null()), "{leaves:?}");
    let pack = plane.scratch().join("pack").to_string_lossy().into_owned();
    let done = plane.cli(["evidence", "export", &pack, "--type", "operator.created", "--disclose", "--reason", "x"])?;
    ensure!(done.status.success() && said(&done).contains("do not open and were not redacted"), "{}", said(&done));
    let exported = found(&plane, &["--type", "pack.exported"])?;
    ensure!(exported[0]["body"]["lost"].as_u64().is_some_and(|lost| lost > 0), "{exported:?}");

    // A start later the new keys are there, and the ones of before still are not.
    plane.stop()?;
    plane.up()?;
    ensure!(findings(&plane)?.len() == 2, "{:?}", findings(&plane)?);
    Ok(())
}

#[test]
fn what_was_refused_is_found_with_one_question() -> Result<()> {
    let plane = Plane::start(EXE)?;
    let audit = plane.ok(["operator", "add", "audit", "--auditor", "--reason", "x"])?.trim().to_owned();
    let auditor = |args: &[&str]| -> Result<()> {
        let done = plane.command(args).env("COGWARD_TOKEN", &audit).output()?;
        ensure!(!done.status.success(), "{args:?}: {}", said(&done));
        Ok(())
    };
    for _ in 0..3 {
        auditor(&["operator", "add", "mallory", "--reason", "x"])?;
    }
    auditor(&["tenant", "create", "mine", "--reason", "x"])?;
    // One with the id of an operator, and one of nobody.
    let mut wrong = audit.clone();
    let last = if wrong.ends_with('A') { 'B' } else { 'A' };
    wrong.pop();
    wrong.push(last);
    for token in [wrong.as_str(), "cwo_nonsense", "cwo_nonsense"] {
        let done = plane.command(["run", "list"]).env("COGWARD_TOKEN", token).output()?;
        ensure!(!done.status.success(), "{}", said(&done));
    }
    ensure!(!plane.cli(["run", "start", "nobody", "--reason", "x"])?.status.success());
    let leaves = found_until(&plane, &["--refused"], |leaves| {
        let types = types(leaves);
        ["operator.command_refused", "operator.login_refused", "run.refused"].iter().all(|kind| types.contains(kind))
    })?;
    let of =
        |kind: &str| leaves.iter().filter(|leaf| leaf["type"] == kind).map(|leaf| &leaf["body"]).collect::<Vec<_>>();
    let commands = of("operator.command_refused");
    ensure!(commands[0]["rule"] == "operator.role" && commands[0]["operator"].is_string(), "{commands:?}");
    ensure!(commands[0]["command"].as_str().is_some_and(|c| c.starts_with("POST /api/v1/")), "{commands:?}");
    // Some are a leaf at once and the others are in a sum that is told within the minute: at the latest at the stop.
    ensure!(leaves.iter().all(|leaf| !leaf.to_string().contains("nonsense")), "what was sent is not recorded");
    ensure!(found(&plane, &["--refused", "--type", "plane.started"])?.is_empty());
    Ok(())
}

#[test]
fn guessed_credentials_do_not_fill_the_ledger_and_none_is_left_out() -> Result<()> {
    let mut plane = Plane::start(EXE)?;
    for n in 0..200 {
        let token = format!("Bearer cwo_{n}");
        let (code, said) = plane.http("GET", "/api/v1/runs", &[("authorization", token.as_str())], b"")?;
        ensure!(code == 401, "{code}: {said}");
    }
    plane.stop()?;
    plane.up()?;
    let leaves = found(&plane, &["--type", "operator.login_refused"])?;
    ensure!((1..=5).contains(&leaves.len()), "{}", leaves.len());
    let sum: u64 = leaves.iter().filter_map(|leaf| leaf["body"]["count"].as_u64()).sum();
    ensure!(sum == 200 && leaves.last().context("a leaf")?["body"]["total"] == 200, "{leaves:?}");
    Ok(())
}

/// Who asks and is not answered leaves a trace; what was typed is nowhere, and asking without end does not fill the log.
#[test]
fn questions_that_are_not_answered_are_evidence_as_sums() -> Result<()> {
    let mut plane = Plane::start_serving(EXE, &[])?;
    plane.ok(["tenant", "create", "acme", "--reason", "a test"])?;
    for _ in 0..7 {
        let refused = plane.cli(["evidence", "search", "--tenant", "acme", "--type", "jane.smith.was.here"])?;
        ensure!(refused.code() != 0 && refused.stderr.contains("jane.smith"), "{refused:?}");
    }
    let out = plane.data_dir().join("none");
    let nobody = plane.cli(["evidence", "export", &out.to_string_lossy(), "--tenant", "jane-smith"])?;
    ensure!(nobody.code() != 0, "{nobody:?}");
    // The rest of the minute's sum is told when the plane goes.
    plane.stop()?;
    plane.up()?;
    let of = |tenant: &str| {
        found_until(&plane, &["--tenant", tenant, "--type", "query.failed"], |leaves| !leaves.is_empty())
    };
    let (acme, own) = (of("acme")?, of("default")?);
    let count: u64 = acme.iter().filter_map(|leaf| leaf["body"]["count"].as_u64()).sum();
    ensure!(count == 7 && acme.len() == 2 && acme[1]["body"]["total"] == 7, "{acme:?}");
    let is = |leaf: &Value, code: &str, route: &str| {
        let body = &leaf["body"];
        body["code"] == code
            && body["command"].as_str().is_some_and(|command| command.ends_with(route))
            && body["operator"].is_string()
    };
    ensure!(acme.iter().all(|leaf| is(leaf, "invalid_request", "/evidence/search")), "{acme:?}");
    ensure!(own.len() == 1 && is(&own[0], "not_found", "/evidence/export"), "{own:?}");
    let text = serde_json::to_string(&[&acme, &own])?;
    ensure!(!text.contains("jane"), "{text}");
    Ok(())
}
