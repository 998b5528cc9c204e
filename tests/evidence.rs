//! Evidence that an auditor can verify without us: three verdicts on the real files.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result, ensure};
use cogward_testkit::{Agent, MAY_ASK, Plane};

fn plane() -> Result<Plane> {
    Plane::start(env!("CARGO_BIN_EXE_cogward"))
}

const BRIEF: Agent<'static> =
    Agent { name: "brief", source: "print('{\"answer\": 42}')\n", permissions: "", changes: &[] };

fn verdicts(plane: &Plane, pack: &Path) -> Result<(i32, i32, String)> {
    let ours = Command::new(plane.verifier()).arg(pack).output().context("cogward-verify")?;
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../scripts/verify.py");
    let python = std::env::var("COGWARD_TEST_PYTHON").unwrap_or_else(|_| "python3".into());
    let theirs = Command::new(python).arg(script).arg(pack).output().context("verify.py")?;
    let said = format!(
        "{}{}{}{}",
        String::from_utf8_lossy(&ours.stdout),
        String::from_utf8_lossy(&ours.stderr),
        String::from_utf8_lossy(&theirs.stdout),
        String::from_utf8_lossy(&theirs.stderr)
    );
    Ok((ours.status.code().unwrap_or(-1), theirs.status.code().unwrap_or(-1), said))
}

fn files(dir: &Path) -> Result<Vec<std::path::PathBuf>> {
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

#[test]
fn an_export_verifies_with_both_verifiers_and_a_flipped_byte_is_named_by_both() -> Result<()> {
    let plane = plane()?;
    plane.register(&BRIEF)?;
    plane.ok(["run", "start", "brief", "--reason", "test", "--wait"])?;
    let pack = plane.scratch().join("pack");
    plane.ok(["evidence", "export", &pack.to_string_lossy()])?;
    let (ours, theirs, said) = verdicts(&plane, &pack)?;
    assert_eq!((ours, theirs), (0, 0), "{said}");
    let entries = files(&pack)?.into_iter().find(|p| p.to_string_lossy().contains("entries")).context("entries")?;
    let good = fs::read(&entries)?;
    for at in (0..good.len()).step_by(good.len() / 7 + 1) {
        let mut bad = good.clone();
        bad[at] ^= 1;
        fs::write(&entries, &bad)?;
        let (ours, theirs, said) = verdicts(&plane, &pack)?;
        assert_eq!((ours, theirs), (9, 9), "byte {at}: {said}");
    }
    Ok(())
}

#[test]
fn nothing_acknowledged_is_lost_when_the_plane_is_killed_again_and_again() -> Result<()> {
    let mut plane = plane()?;
    plane.add_scripted(r#"{"steps": [], "default": {"reply": {"text": "yes"}}}"#)?;
    plane.register(&Agent {
        name: "asker",
        source: "
import json, os, urllib.request
body = json.dumps({'model': 'demo-model', 'max_tokens': 10, 'messages': [{'role': 'user', 'content': 'hello'}]}).encode()
n = 0
while True:
    try:
        with urllib.request.urlopen(urllib.request.Request(os.environ['OPENAI_BASE_URL'] + '/chat/completions', body, {'content-type': 'application/json'}), timeout=60) as r:
            json.load(r)
        n += 1
        print('answered', n, flush=True)
    except OSError:
        pass
",
        permissions: MAY_ASK,
        changes: &[("tokens: 100000", "tokens: 100000000"), ("costUsd: \"1.00\"", "costUsd: \"1000\"")],
    })?;
    let run = plane.start_run("asker")?;
    for round in 1..=3 {
        plane.said(&run, &format!("answered {}\n", round * 20))?;
        plane.kill_9()?;
        let answered = plane_logs(&plane, &run)?;
        plane.up()?;
        let decided = cogward_testkit::count(&plane.leaves(&run)?, "model.call.decided", Some("permit"));
        assert!(decided >= answered, "round {round}: {answered} answers, {decided} decisions");
    }
    plane.ok(["run", "kill", &run, "--reason", "enough"])?;
    let pack = plane.scratch().join("pack");
    plane.ok(["evidence", "export", &pack.to_string_lossy()])?;
    let (ours, theirs, said) = verdicts(&plane, &pack)?;
    assert_eq!((ours, theirs), (0, 0), "{said}");
    Ok(())
}

/// The answers that the agent had seen, from the file that its supervisor writes while the plane is dead.
fn plane_logs(plane: &Plane, run: &str) -> Result<usize> {
    let log = fs::read_to_string(plane.data_dir().join("runs").join(run).join("stdout.log"))?;
    Ok(log.matches("answered ").count())
}

#[test]
fn an_older_copy_of_the_data_directory_is_refused() -> Result<()> {
    let mut plane = plane()?;
    plane.register(&BRIEF)?;
    plane.stop()?;
    let copy = plane.scratch().join("older");
    let wal = plane.data_dir().join("evidence/wal");
    let copied = Command::new("cp").arg("-a").arg(&wal).arg(&copy).status()?;
    assert!(copied.success());
    plane.up()?;
    plane.ok(["run", "start", "brief", "--reason", "test", "--wait"])?;
    plane.stop()?;
    fs::remove_dir_all(&wal)?;
    fs::rename(&copy, &wal)?;
    let error = plane.up().err().context("a ledger that was rolled back must not start")?;
    assert!(format!("{error:#}").contains("rollback"), "{error:#}");
    Ok(())
}

#[test]
fn a_ledger_that_is_gone_or_older_than_the_state_is_not_begun_anew() -> Result<()> {
    let mut plane = Plane::start(env!("CARGO_BIN_EXE_cogward"))?;
    let run = plane.launch(&Agent {
        name: "patient",
        source: "import time\nprint('up')\ntime.sleep(60)\n",
        permissions: "",
        changes: &[],
    })?;
    plane.said(&run, "up")?;
    plane.ok(["run", "kill", &run, "--reason", "so that a command is proven"])?;
    plane.stop()?;
    let evidence = plane.data_dir().join("evidence");
    let kept = plane.scratch().join("kept");
    fs::rename(&evidence, &kept)?;
    let refused = |plane: &mut Plane| -> Result<()> {
        let error = plane.up().err().context("a plane came up without its evidence")?;
        ensure!(plane.log().contains("rollback detected") && plane.log().contains("`state.db` has seen"), "{error:#}");
        plane.kill_9()
    };
    refused(&mut plane)?;

    // The second half of the log and the checkpoint that covers it are taken away together.
    fs::remove_dir_all(&evidence)?;
    fs::rename(&kept, &evidence)?;
    let segment = evidence.join("wal/0000000000000000.seg");
    let mut bytes = fs::read(&segment)?;
    let used = bytes.iter().rposition(|byte| *byte != 0).context("an empty log")?;
    bytes.get_mut(used / 2..).context("the second half")?.fill(0);
    fs::write(&segment, bytes)?;
    fs::remove_file(evidence.join("tenants/default/checkpoint"))?;
    refused(&mut plane)
}

#[test]
fn evidence_without_its_state_does_not_get_a_new_operator() -> Result<()> {
    let mut plane = plane()?;
    plane.stop()?;
    for file in ["state.db", "state.db-wal", "state.db-shm"] {
        drop(fs::remove_file(plane.data_dir().join(file)));
    }
    let error = plane.up().err().context("a plane that lost its state must not start")?;
    assert!(format!("{error:#}").contains("state.db"), "{error:#}");
    assert!(!format!("{error:#}").contains("cwo_"), "no credential is made");
    Ok(())
}

#[test]
fn a_second_plane_on_the_same_data_is_refused_says_why_and_the_first_goes_on() -> Result<()> {
    let plane = plane()?;
    let data = plane.data_dir();
    let second = Command::new(env!("CARGO_BIN_EXE_cogward"))
        .args(["serve", "--listen", "127.0.0.1:0", "--data-dir"])
        .arg(&data)
        .output()
        .context("cogward serve")?;
    let said = String::from_utf8_lossy(&second.stderr);
    ensure!(!second.status.success(), "a second plane served the same data: {said}");
    ensure!(said.contains("another") || said.contains("already"), "it does not say why: {said}");
    plane.register(&BRIEF)?;
    plane.ok(["run", "start", "brief", "--reason", "test", "--wait"])?;
    let pack = plane.scratch().join("pack");
    plane.ok(["evidence", "export", &pack.to_string_lossy()])?;
    let (ours, theirs, said) = verdicts(&plane, &pack)?;
    assert_eq!((ours, theirs), (0, 0), "{said}");
    Ok(())
}

/// An auditor kept last year's checkpoint. This year's log contains it; a log of another plane does not.
#[test]
fn a_kept_checkpoint_is_found_again_in_a_later_export_and_the_schema_is_named_in_the_log() -> Result<()> {
    let plane = plane()?;
    plane.register(&BRIEF)?;
    let (first, later) = (plane.scratch().join("first"), plane.scratch().join("later"));
    plane.ok(["evidence", "export", &first.to_string_lossy()])?;
    plane.ok(["run", "start", "brief", "--reason", "test", "--wait"])?;
    plane.ok(["evidence", "export", &later.to_string_lossy()])?;
    let against = |pack: &Path, kept: &Path| -> Result<(Option<i32>, String)> {
        let output = Command::new(plane.verifier()).arg(pack).arg("--against").arg(kept).output()?;
        Ok((output.status.code(), String::from_utf8(output.stdout)?))
    };
    let (code, said) = against(&later, &first.join("checkpoint"))?;
    ensure!(code == Some(0) && said.contains("leaves of the older checkpoint"), "{said}");
    // The other way round it is a log that became shorter than what was signed.
    let (code, said) = against(&first, &later.join("checkpoint"))?;
    ensure!(
        code == Some(9) && said.starts_with("FAILED  against: ") && said.matches("\u{2014} ").count() >= 2,
        "{said}"
    );
    let entries = files(&later)?.into_iter().filter(|path| path.to_string_lossy().contains("entries"));
    let text: String =
        entries.map(|path| Ok(String::from_utf8_lossy(&fs::read(path)?).into_owned())).collect::<Result<_>>()?;
    ensure!(
        text.contains("\"type\":\"ledger.schema\"") && text.contains("\"digest\":\"sha256:"),
        "the schema is named"
    );
    Ok(())
}
