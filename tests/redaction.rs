//! Erasing on the real binary: two people, legal holds, kill -9, old backups, and what the data subject gets.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use cogward_evidence::{Evidence, EvidenceOptions};
use cogward_model::{
    Clock, SystemClock, Timestamp,
    event::{Attribution, Event, EventType},
};
use cogward_testkit::{Agent, MAY_ASK, Plane};
use serde_json::Value;

const ANNA: &str = "anna@example.org";

/// Asks a model that it may ask, and one that it may not.
const ASKER: Agent<'static> = Agent {
    name: "asker",
    source: "
import json, os, urllib.request
for model in ['demo-model', 'forbidden-model']:
    body = json.dumps({'model': model, 'max_tokens': 10, 'messages': [{'role': 'user', 'content': 'hello'}]}).encode()
    try:
        urllib.request.urlopen(urllib.request.Request(os.environ['OPENAI_BASE_URL'] + '/chat/completions', body, {'content-type': 'application/json'}), timeout=60).read()
    except OSError:
        pass
print(json.dumps({'done': True}))
",
    permissions: MAY_ASK,
    changes: &[],
};

struct Office {
    plane: Plane,
    /// The second operator.
    bob: String,
}

impl Office {
    fn open() -> Result<Self> {
        let plane = Plane::start(env!("CARGO_BIN_EXE_cogward"))?;
        plane.add_scripted(r#"{"steps": [], "default": {"reply": {"text": "yes"}}}"#)?;
        plane.register(&ASKER)?;
        let bob = plane.ok(["operator", "add", "bob", "--reason", "the second person"])?;
        Ok(Self { plane, bob: bob.trim().to_owned() })
    }

    fn run_for(&self, user: &str) -> Result<String> {
        let run = self.plane.json(["run", "start", "asker", "--as", user, "--reason", "test", "--wait"])?;
        Ok(run["id"].as_str().context("an id")?.to_owned())
    }

    /// What a command said, and how it ended.
    fn as_bob(&self, args: &[&str]) -> Result<(i32, String)> {
        said(self.plane.command(args.iter().chain(&["-o", "json"])).env("COGWARD_TOKEN", &self.bob))
    }

    fn as_first(&self, args: &[&str]) -> Result<(i32, String)> {
        said(&mut self.plane.command(args.iter().chain(&["-o", "json"])))
    }

    fn request(&self, what: &[&str]) -> Result<String> {
        let mut args = vec!["evidence", "redact", "request", "--ground", "gdpr-17-1-b", "--reason", "ticket 4711"];
        args.extend(what);
        let asked = self.plane.json(args)?;
        Ok(asked["id"].as_str().context("an id")?.to_owned())
    }

    fn approved(&self, what: &[&str]) -> Result<String> {
        let id = self.request(what)?;
        let (code, text) = self.as_bob(&["evidence", "redact", "approve", &id, "--reason", "checked"])?;
        ensure!(code == 0, "{text}");
        Ok(id)
    }

    fn execute(&self, id: &str) -> Result<(i32, String)> {
        self.as_first(&["evidence", "redact", "execute", id, "--reason", "due today"])
    }

    fn leaves(&self, run: &str) -> Result<Vec<Value>> {
        let shown = self.plane.json(["evidence", "show", "--run", run])?;
        shown.as_array().cloned().context("a list of leaves")
    }

    /// The leaves of the tenant as they are exported, in order; both verifiers must be content.
    fn exported(&self, name: &str) -> Result<Vec<u8>> {
        let pack = self.plane.scratch().join(name);
        self.plane.ok(["evidence", "export", &pack.to_string_lossy()])?;
        let ours = Command::new(self.plane.verifier()).arg(&pack).output()?;
        ensure!(ours.status.success(), "{}", String::from_utf8_lossy(&ours.stdout));
        let theirs = python().arg(script("verify.py")).arg(&pack).output()?;
        ensure!(theirs.status.success(), "{}", String::from_utf8_lossy(&theirs.stdout));
        let mut entries: Vec<PathBuf> = files(&pack.join("tile/entries"))?;
        // Whole bundles first, then the partial one: `000`, `001`, ..., `NNN.p/W`.
        entries.sort_by_key(|path| (path.to_string_lossy().contains(".p"), path.clone()));
        let mut all = Vec::new();
        for path in entries {
            all.extend(fs::read(path)?);
        }
        Ok(all)
    }
}

fn said(command: &mut Command) -> Result<(i32, String)> {
    let done = command.stdin(Stdio::null()).output()?;
    let text = format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    Ok((done.status.code().unwrap_or(-1), text))
}

fn python() -> Command {
    Command::new(std::env::var("COGWARD_TEST_PYTHON").unwrap_or_else(|_| "python3".into()))
}

fn script(name: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../scripts")).join(name)
}

fn files(dir: &Path) -> Result<Vec<PathBuf>> {
    let (mut found, mut folders) = (Vec::new(), vec![dir.to_path_buf()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() { folders.push(path) } else { found.push(path) }
        }
    }
    found.sort();
    Ok(found)
}

/// In which files of a directory a text stands.
fn holding(dir: &Path, text: &str) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for path in files(dir)?.into_iter().filter(|path| path.is_file()) {
        let bytes = fs::read(&path)?;
        if bytes.windows(text.len()).any(|part| part == text.as_bytes()) {
            found.push(path.display().to_string());
        }
    }
    Ok(found)
}

fn disclosed(leaves: &[Value]) -> usize {
    leaves.iter().filter_map(|leaf| leaf["disclosed"].as_object()).map(serde_json::Map::len).sum()
}

fn erased_by(leaves: &[Value], id: &str) -> usize {
    leaves.iter().filter_map(|leaf| leaf["erased"].as_object()).flatten().filter(|(_, by)| *by == id).count()
}

#[test]
fn a_person_is_erased_by_two_people_and_gets_a_receipt_and_the_log_stays_as_it_was() -> Result<()> {
    let mut office = Office::open()?;
    let (run, other) = (office.run_for(ANNA)?, office.run_for("berta@example.org")?);
    let hidden = disclosed(&office.leaves(&run)?);
    assert!(hidden > 5, "there is something to erase");
    let before = office.exported("before")?;

    let id = office.request(&["--subject", ANNA])?;
    let (code, text) = office.as_first(&["evidence", "redact", "approve", &id, "--reason", "myself"])?;
    assert!(code == 4 && text.contains("four_eyes"), "{code} {text}");
    let (code, text) = office.execute(&id)?;
    assert!(code == 5 && text.contains("it is requested"), "not before it is approved: {text}");
    let (code, text) = office.as_bob(&["evidence", "redact", "approve", &id, "--reason", "checked"])?;
    assert_eq!(code, 0, "{text}");
    let (code, _) = office.as_bob(&["evidence", "redact", "deny", &id, "--reason", "second thoughts"])?;
    assert_eq!(code, 5, "answered once");
    let (code, text) = office.execute(&id)?;
    assert_eq!(code, 0, "{text}");
    assert!(!text.contains(ANNA), "what it was about is forgotten: {text}");
    let (code, _) = office.execute(&id)?;
    assert_eq!(code, 5, "carried out once");

    let leaves = office.leaves(&run)?;
    assert_eq!((disclosed(&leaves), erased_by(&leaves, &id)), (0, hidden));
    // A refused call is still seen to be one: who, what, when, on which rule.
    let refused = leaves.iter().find(|leaf| leaf["body"]["decision"] == "block").context("the refused call")?;
    assert_eq!(refused["body"]["act"], "agent:asker@1");
    assert_eq!(refused["body"]["type"], "model.call.decided");
    assert!(refused["time"].is_string() && refused["body"]["rule"].is_string(), "{refused}");
    let table = office.plane.ok(["evidence", "show", "--run", &run])?;
    assert!(table.contains(&format!("erased ({id})")), "{table}");
    assert_eq!(office.plane.run(&run)?["as_user"], format!("erased ({id})"));
    assert!(disclosed(&office.leaves(&other)?) > 5, "nobody else is concerned");

    // The same person again has a new key.
    let later = office.run_for(ANNA)?;
    assert!(disclosed(&office.leaves(&later)?) > 5);

    let after = office.exported("after")?;
    assert_eq!(after.get(..before.len()), Some(&before[..]), "byte for byte");
    for event in ["redaction.requested", "redaction.approved", "redaction.executed", "redaction.refused"] {
        assert!(String::from_utf8_lossy(&after).contains(event), "{event}");
    }
    assert!(!String::from_utf8_lossy(&after).contains(ANNA));

    let receipt = office.plane.scratch().join("receipt");
    office.plane.ok(["evidence", "redact", "receipt", &id, &receipt.to_string_lossy()])?;
    for personal in [ANNA, "berta", "bob", "ticket 4711", "operator\":\"operator"] {
        assert!(holding(&receipt, personal)?.is_empty(), "{personal}");
    }
    let key = fs::read_to_string(office.plane.scratch().join("before/log.vkey"))?;
    let key = key.lines().next().context("a key")?.to_owned();
    let check = |dir: &Path| said(python().arg(script("verify-receipt.py")).arg(dir).args(["--key", &key]));
    let (code, text) = check(&receipt)?;
    assert!(code == 0 && text.contains("values erased"), "{text}");
    let whole = fs::read_to_string(receipt.join("receipt.json"))?;
    for (from, to) in
        [("\"index\": ", "\"index\": 1"), ("values erased: ", "values erased: 1"), ("gdpr-17-1-b", "gdpr-17-1-a")]
    {
        ensure!(whole.contains(from), "{from}");
        fs::write(receipt.join("receipt.json"), whole.replacen(from, to, 1))?;
        let (code, text) = check(&receipt)?;
        assert_eq!(code, 9, "{from}: {text}");
    }

    // The state forgets the person too, where nothing of a later run has the name again.
    let carla = "carla@example.org";
    let run = office.run_for(carla)?;
    let id = office.approved(&["--subject", carla])?;
    assert_eq!(office.execute(&id)?.0, 0);
    office.plane.stop()?;
    assert_eq!(holding(&office.plane.data_dir(), carla)?, Vec::<String>::new());
    office.plane.up()?;
    let leaves = office.leaves(&run)?;
    assert_eq!(disclosed(&leaves), 0);
    Ok(())
}

#[test]
fn a_hold_stops_every_step_until_two_people_release_it() -> Result<()> {
    let office = Office::open()?;
    let run = office.run_for(ANNA)?;
    let id = office.approved(&["--run", &run])?;
    let hold = office.plane.json(["evidence", "hold", "place", "--agent", "asker", "--reason", "case 12"])?;
    let hold = hold["id"].as_str().context("an id")?.to_owned();
    let held = |what: &str| -> Result<()> {
        let (code, text) = office.execute(&id)?;
        ensure!(code == 5 && text.contains("evidence_held") && text.contains(&hold), "{what}: {code} {text}");
        Ok(())
    };
    held("asked for, it holds")?;
    let (code, text) = office.as_first(&["evidence", "hold", "confirm", &hold, "--reason", "myself"])?;
    assert!(code == 4 && text.contains("four_eyes"), "{text}");
    let (code, _) = office.as_bob(&["evidence", "hold", "confirm", &hold, "--reason", "yes"])?;
    assert_eq!(code, 0);
    held("placed")?;
    // Nor is anything new asked for, whatever way it is named.
    for what in [vec!["--subject", ANNA], vec!["--run", &run]] {
        let mut args = vec!["evidence", "redact", "request", "--ground", "gdpr-17-1-a", "--reason", "again"];
        args.extend(what);
        let (code, text) = office.as_first(&args)?;
        assert!(code == 5 && text.contains(&hold), "{text}");
    }
    let (code, _) = office.as_first(&["evidence", "hold", "release", &hold, "--reason", "it is over"])?;
    assert_eq!(code, 0);
    held("one of two")?;
    let (code, text) = office.as_first(&["evidence", "hold", "release", &hold, "--reason", "it is over"])?;
    assert!(code == 4 && text.contains("four_eyes"), "{text}");
    let (code, text) = office.as_bob(&["evidence", "hold", "release", &hold, "--reason", "yes"])?;
    assert!(code == 0 && text.contains("\"released\""), "{text}");
    let (code, text) = office.execute(&id)?;
    assert_eq!(code, 0, "{text}");
    assert_eq!(disclosed(&office.leaves(&run)?), 0);
    let log = String::from_utf8_lossy(&office.exported("pack")?).into_owned();
    // Each attempt is there, with the hold that stopped it.
    assert_eq!(log.matches("\"type\":\"redaction.refused\"").count(), 5);
    for event in ["hold.requested", "hold.placed", "hold.release_requested", "hold.released", "hold.refused"] {
        assert!(log.contains(&format!("\"type\":\"{event}\"")), "{event}");
    }
    Ok(())
}

#[test]
fn one_field_goes_and_public_fields_stay_and_a_stranger_gets_nothing() -> Result<()> {
    let office = Office::open()?;
    let run = office.run_for(ANNA)?;
    let leaves = office.leaves(&run)?;
    let first = leaves.first().context("a leaf")?;
    let seq = first["seq"].to_string();
    let fields: Vec<&String> = first["disclosed"].as_object().context("hidden values")?.keys().collect();
    let field = (*fields.first().context("a field")?).clone();
    for (what, code, word) in [
        (vec!["--leaf", &seq, "--field", "type"], 4, "public field"),
        (vec!["--leaf", &seq, "--field", "nothing_of_that_name"], 4, "no field"),
        (vec!["--leaf", "99999", "--field", "args"], 3, "no leaf"),
        (vec!["--subject", "nobody@example.org"], 4, "not_redactable"),
    ] {
        let mut args = vec!["evidence", "redact", "request", "--ground", "gdpr-17-1-d", "--reason", "x"];
        args.extend(what);
        let (found, text) = office.as_first(&args)?;
        assert!(found == code && text.contains(word), "{args:?}: {found} {text}");
    }
    office.plane.ok(["tenant", "create", "retail", "--reason", "test"])?;
    // What is of one tenant is not there in another, neither by name nor by id.
    for what in [vec!["--subject", ANNA], vec!["--run", &run]] {
        let mut args = vec!["evidence", "redact", "request", "--tenant", "retail", "--ground", "x1", "--reason", "x"];
        args.extend(what);
        let (code, text) = office.as_first(&args)?;
        assert!(code == 4 && text.contains("not_redactable"), "{text}");
    }
    let id = office.approved(&["--leaf", &seq, "--field", &field])?;
    let (code, _) = office.as_first(&["evidence", "redact", "show", &id, "--tenant", "retail"])?;
    assert_eq!(code, 3);
    assert_eq!(office.execute(&id)?.0, 0);
    let after = office.leaves(&run)?;
    assert_eq!((disclosed(&after), erased_by(&after, &id)), (disclosed(&leaves) - 1, 1));
    let (code, text) = office.as_first(&[
        "evidence", "redact", "request", "--leaf", &seq, "--field", &field, "--ground", "x1", "--reason", "x",
    ])?;
    assert!(code == 4 && text.contains(&id), "{text}");
    Ok(())
}

/// When a plane is killed that carries an erasure out.
#[derive(Debug, Clone, Copy)]
enum Moment {
    /// So long after the command was given.
    After(Duration),
    /// As soon as the state is written: the plan is there, or about to be.
    StateWritten,
    /// As soon as a key is overwritten: the ledger does not say so yet.
    KeyOverwritten,
}

/// What the files that a moment is seen by hold.
fn seen(data: &Path, moment: Moment) -> Result<Vec<Vec<u8>>> {
    let read = |paths: Vec<PathBuf>| paths.iter().map(|path| Ok(fs::read(path)?)).collect();
    match moment {
        Moment::After(_) => Ok(Vec::new()),
        Moment::StateWritten => read(vec![data.join("state.db-wal")]),
        Moment::KeyOverwritten => read(files(&data.join("evidence/vault"))?),
    }
}

#[test]
fn killed_in_the_middle_it_is_not_carried_out_or_carried_out_and_recorded() -> Result<()> {
    let mut office = Office::open()?;
    let after = [0, 15, 40].map(|millis| Moment::After(Duration::from_millis(millis)));
    let moments = after.into_iter().chain([Moment::StateWritten; 4]).chain([Moment::KeyOverwritten; 4]);
    let (mut done, mut undone) = (0, 0);
    for (round, moment) in moments.enumerate() {
        let person = format!("person{round}@example.org");
        let run = office.run_for(&person)?;
        let hidden = disclosed(&office.leaves(&run)?);
        let id = office.approved(&["--subject", &person])?;
        let data = office.plane.data_dir();
        let before = seen(&data, moment)?;
        let mut execute = office
            .plane
            .command(["evidence", "redact", "execute", &id, "--reason", "due"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        match moment {
            // Not a wait for anything: the moment of the kill, another one each time.
            Moment::After(time) => std::thread::sleep(time),
            Moment::StateWritten | Moment::KeyOverwritten => {
                // New keys are put at the end; one that is overwritten changes what was there.
                let keys = matches!(moment, Moment::KeyOverwritten);
                let is_same = |old: &Vec<u8>, new: &Vec<u8>| if keys { new.starts_with(old) } else { new == old };
                let is_as_before = |now: &[Vec<u8>]| before.iter().zip(now).all(|(old, new)| is_same(old, new));
                while is_as_before(&seen(&data, moment)?) && execute.try_wait()?.is_none() {
                    std::thread::yield_now();
                }
            }
        }
        office.plane.kill_9()?;
        let _whatever = execute.wait()?;
        office.plane.up()?;
        let state = office.plane.json(["evidence", "redact", "show", &id])?["state"].clone();
        let leaves = office.leaves(&run)?;
        let (opens, erased) = (disclosed(&leaves), erased_by(&leaves, &id));
        match state.as_str() {
            Some("approved") => {
                assert_eq!((opens, erased), (hidden, 0), "round {round}");
                undone += 1;
                let (code, text) = office.execute(&id)?;
                assert_eq!(code, 0, "{text}");
            }
            Some("executed") => {
                assert_eq!((opens, erased), (0, hidden), "round {round}");
                done += 1;
            }
            other => bail!("round {round}: {other:?}"),
        }
        // It is in the ledger once.
        let log = String::from_utf8_lossy(&office.exported(&format!("pack{round}"))?).into_owned();
        let told = log.matches(&format!("\"redaction\":\"{id}\"")).count();
        assert_eq!(told, 3, "requested, approved, executed; round {round}");
    }
    let finished = office.plane.log().matches("an erasure was broken off, and is finished").count();
    println!("{undone} did not begin, {done} were carried out, {finished} of these by the next start");
    assert!(undone > 0 && finished > 0, "both sides of the middle were met: {undone}, {done}, {finished}");
    Ok(())
}

#[test]
fn an_old_copy_of_the_vault_and_of_the_state_brings_nobody_back() -> Result<()> {
    let mut office = Office::open()?;
    let run = office.run_for(ANNA)?;
    let id = office.approved(&["--subject", ANNA])?;
    office.plane.stop()?;
    let (data, backup) = (office.plane.data_dir(), office.plane.scratch().join("backup"));
    let copy = |from: &Path, to: &Path| -> Result<()> {
        ensure!(Command::new("cp").arg("-a").arg(from).arg(to).status()?.success());
        Ok(())
    };
    copy(&data, &backup)?;
    office.plane.up()?;
    assert_eq!(office.execute(&id)?.0, 0);
    office.plane.stop()?;
    for old in ["evidence/vault", "state.db", "state.db-wal", "state.db-shm"] {
        let (from, to) = (backup.join(old), data.join(old));
        if to.is_dir() {
            fs::remove_dir_all(&to)?;
        } else {
            drop(fs::remove_file(&to));
        }
        if from.exists() {
            copy(&from, &to)?;
        }
    }
    office.plane.up()?;
    let leaves = office.leaves(&run)?;
    assert_eq!(disclosed(&leaves), 0, "erased before anybody could read");
    assert!(erased_by(&leaves, &id) > 5);
    let shown = office.plane.json(["evidence", "redact", "show", &id])?;
    assert_eq!(shown["state"], "executed", "the ledger knows better than the old state: {shown}");
    assert_eq!(office.plane.run(&run)?["as_user"], format!("erased ({id})"));
    let log = String::from_utf8_lossy(&office.exported("pack")?).into_owned();
    assert_eq!(log.matches("\"type\":\"redaction.replayed\"").count(), 1);
    Ok(())
}

#[test]
fn many_requests_in_a_short_time_are_a_finding() -> Result<()> {
    let office = Office::open()?;
    let run = office.run_for(ANNA)?;
    for _ in 0..10 {
        office.request(&["--run", &run])?;
    }
    let log = String::from_utf8_lossy(&office.exported("pack")?).into_owned();
    assert_eq!(log.matches("\"finding\":\"redaction.rate\"").count(), 1);
    assert!(log.contains("\"type\":\"security.finding\""));
    // Nothing is due today of what is kept for years; that it was asked is all that happens.
    let (code, text) = office.as_first(&["evidence", "retain", "--dry-run", "--reason", "what would go?"])?;
    assert!(code == 0 && text.contains("\"values\": 0"), "{text}");
    Ok(())
}

struct TenDaysAgo;

impl Clock for TenDaysAgo {
    fn now(&self) -> Timestamp {
        Timestamp::from_unix_micros(SystemClock.now().unix_micros() - 10 * 86_400_000_000)
    }
}

/// Adds a record to a run as a plane of ten days ago would have sealed it.
fn sealed_long_ago(data: &Path, run: &str) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let options = EvidenceOptions { clock: Arc::new(TenDaysAgo), ..EvidenceOptions::new(data.join("evidence")) };
    runtime.block_on(async {
        let evidence = Evidence::open(options)?;
        let by = Attribution { agent: Some(("keeper".parse()?, "1".parse()?)), subject: Some(ANNA.to_owned()) };
        let event = Event::new(EventType::ToolCallCompleted, "default".parse()?, by)
            .confidential("result", "an old answer")
            .run(run.parse()?);
        evidence.record(event).await?;
        Ok(())
    })
}

#[test]
fn values_go_when_the_days_of_their_manifest_are_over_and_no_hold_keeps_them() -> Result<()> {
    let mut office = Office::open()?;
    let days = [("  budgets:\n", "  evidence: {retentionDays: 5}\n  budgets:\n")];
    office.plane.register(&Agent { name: "keeper", changes: &days, ..ASKER })?;
    let started = office.plane.json(["run", "start", "keeper", "--as", ANNA, "--reason", "test", "--wait"])?;
    let run = started["id"].as_str().context("an id")?.to_owned();
    let fresh = disclosed(&office.leaves(&run)?);
    let hold = office.plane.json(["evidence", "hold", "place", "--run", &run, "--reason", "case 12"])?;
    let hold = hold["id"].as_str().context("an id")?.to_owned();
    office.plane.stop()?;
    sealed_long_ago(&office.plane.data_dir(), &run)?;
    office.plane.up()?;
    let retain = |dry: &[&str]| -> Result<Value> {
        let mut args = vec!["evidence", "retain", "--reason", "the yearly clean-up"];
        args.extend(dry);
        office.plane.json(args)
    };
    let held = retain(&[])?;
    assert_eq!((held["values"].clone(), held["held"].clone()), (0.into(), 2.into()), "{held}");
    assert_eq!(disclosed(&office.leaves(&run)?), fresh + 2);
    let (code, text) = office.as_bob(&["evidence", "hold", "release", &hold, "--reason", "never confirmed"])?;
    assert_eq!(code, 0, "{text}");
    let due = retain(&["--dry-run"])?;
    assert_eq!((due["values"].clone(), due["runs"][0]["retention_days"].clone()), (2.into(), 5.into()), "{due}");
    assert_eq!(disclosed(&office.leaves(&run)?), fresh + 2, "it was only asked");
    let done = retain(&[])?;
    assert_eq!(done["values"], 2, "{done}");
    let id = done["redactions"][0].as_str().context("an id")?.to_owned();
    let leaves = office.leaves(&run)?;
    assert_eq!((disclosed(&leaves), erased_by(&leaves, &id)), (fresh, 2), "what is not due stays");
    let log = String::from_utf8_lossy(&office.exported("pack")?).into_owned();
    assert_eq!(log.matches("\"type\":\"retention.executed\"").count(), 1);
    assert!(log.contains("\"ground\":\"retention\""));
    // And by itself, when a plane comes up with something that is due.
    office.plane.stop()?;
    sealed_long_ago(&office.plane.data_dir(), &run)?;
    office.plane.up()?;
    let until = std::time::Instant::now() + Duration::from_secs(30);
    while disclosed(&office.leaves(&run)?) != fresh {
        ensure!(std::time::Instant::now() < until, "the plane does not erase by itself");
    }
    Ok(())
}
