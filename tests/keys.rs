//! Keys of logs that are replaced and revoked by two people: on the real binary, with both verifiers and a witness.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use anyhow::{Context, Result, ensure};
use cogward_testkit::Plane;
use serde_json::Value;

const EXE: &str = env!("CARGO_BIN_EXE_cogward");

struct Office {
    plane: Plane,
    /// The second operator.
    bob: String,
}

impl Office {
    fn open() -> Result<Self> {
        let plane = Plane::start(EXE)?;
        let bob = plane.ok(["operator", "add", "bob", "--reason", "the second person"])?;
        Ok(Self { plane, bob: bob.trim().to_owned() })
    }

    fn as_bob(&self, args: &[&str]) -> Result<Output> {
        Ok(self.plane.command(args).env("COGWARD_TOKEN", &self.bob).output()?)
    }

    fn keys(&self, of: &[&str]) -> Result<Value> {
        self.plane.json(["evidence", "keys", "list"].iter().chain(of))
    }

    /// Asked for by one, confirmed by the other.
    fn change(&self, what: &[&str], of: &[&str]) -> Result<Value> {
        let asked = ["evidence", "keys"].iter().chain(what).chain(of).chain(&["--reason", "every year"]);
        self.plane.ok(asked)?;
        let id = self.waiting(of)?;
        let confirm: Vec<&str> = ["evidence", "keys", "confirm", &id, "--reason", "as agreed"]
            .into_iter()
            .chain(of.iter().copied())
            .collect();
        let confirmed = self.as_bob(&confirm)?;
        ensure!(confirmed.status.success(), "{confirmed:?}");
        self.keys(of)
    }

    fn waiting(&self, of: &[&str]) -> Result<String> {
        let keys = self.keys(of)?;
        Ok(keys["request"]["id"].as_str().with_context(|| format!("a request: {keys}"))?.to_owned())
    }

    /// The present public keys, as somebody keeps them.
    fn keep(&self, of: &[&str], name: &str) -> Result<PathBuf> {
        let keys = self.keys(of)?;
        let lines = keys["keys"][0]["keys"].as_array().context("keys")?.iter().filter_map(Value::as_str);
        let path = self.plane.scratch().join(name);
        fs::write(&path, lines.map(|line| format!("{line}\n")).collect::<String>())?;
        Ok(path)
    }

    fn pack(&self, name: &str) -> Result<PathBuf> {
        let dir = self.plane.scratch().join(name);
        self.plane.ok(["evidence", "export", &dir.to_string_lossy()])?;
        Ok(dir)
    }

    /// Exit code and text of both verifiers.
    fn verified(&self, pack: &Path, more: &[&Path]) -> Result<(i32, String)> {
        let python = std::env::var("COGWARD_TEST_PYTHON").unwrap_or_else(|_| "python3".into());
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../scripts/verify.py");
        let mut ours = Command::new(self.plane.verifier());
        let mut theirs = Command::new(python);
        theirs.arg("-B").arg(script);
        let mut said = Vec::new();
        for command in [&mut ours, &mut theirs] {
            command.arg(pack);
            for (flag, path) in ["--key", "--against"].iter().zip(more) {
                command.arg(flag).arg(path);
            }
            let output = command.output()?;
            said.push((output.status.code().context("a code")?, String::from_utf8_lossy(&output.stdout).into_owned()));
        }
        let (code, text) = said.swap_remove(0);
        ensure!(code == said[0].0, "{text}\n{}", said[0].1);
        Ok((code, text + &said[0].1))
    }
}

#[test]
fn two_people_replace_a_key_and_old_readers_come_along() -> Result<()> {
    let mut office = Office::open()?;
    let (first, before) = (office.keep(&[], "first.vkey")?, office.pack("before")?);
    // One person alone does nothing, whichever way.
    office.plane.ok(["evidence", "keys", "rotate", "--reason", "every year"])?;
    let id = office.waiting(&[])?;
    let own = office.plane.cli(["evidence", "keys", "confirm", &id, "--reason", "myself"])?;
    ensure!(own.code() == 4 && own.stderr.contains("four_eyes"), "{own:?}");
    let none = office.as_bob(&["evidence", "keys", "confirm", "evt_01KAMZ0000000000000000000A", "--reason", "x"])?;
    ensure!(String::from_utf8_lossy(&none.stderr).contains("key_change_refused"), "{none:?}");
    assert_eq!(office.keys(&[])?["keys"].as_array().map(Vec::len), Some(1));
    // It waits over a restart; then it happens once.
    office.plane.stop()?;
    office.plane.up()?;
    let done = office.as_bob(&["evidence", "keys", "confirm", &id, "--reason", "as agreed"])?;
    ensure!(done.status.success(), "{done:?}");
    let again = office.as_bob(&["evidence", "keys", "confirm", &id, "--reason", "as agreed"])?;
    ensure!(!again.status.success(), "{again:?}");
    let keys = office.keys(&[])?;
    assert_eq!((&keys["keys"][0]["role"], &keys["keys"][1]["role"]), (&"present".into(), &"along".into()), "{keys}");
    let busy = office.plane.cli(["evidence", "keys", "rotate", "--reason", "again"])?;
    ensure!(busy.stderr.contains("key_change_refused"), "{busy:?}");
    let both = office.pack("both")?;
    let second = office.keep(&[], "second.vkey")?;
    let (code, text) = office.verified(&both, &[&first, &before.join("checkpoint")])?;
    ensure!(code == 0 && text.contains("Keep the present one"), "{text}");
    // The old one is revoked: its file goes, and it counts no further.
    let keys = office.change(&["revoke", "--generation", "0", "--why", "compromised"], &[])?;
    assert_eq!(keys["keys"][1]["role"], "revoked", "{keys}");
    ensure!(!office.plane.data_dir().join("evidence/keys/default.sign").exists());
    office.plane.kill_9()?;
    office.plane.up()?;
    let after = office.pack("after")?;
    for key in [&first, &second] {
        let (code, text) = office.verified(&after, &[key, &both.join("checkpoint")])?;
        ensure!(code == 0 && text.contains("was revoked") == (key == &first), "{text}");
    }
    let statements = fs::read_to_string(after.join("keys.jsonl"))?;
    assert_eq!(statements.lines().count(), 2);
    // A part of the log has them too.
    let part = office.plane.scratch().join("part");
    office.plane.ok(["evidence", "export", &part.to_string_lossy(), "--from", "2026-01-01"])?;
    for key in [&first, &second] {
        let (code, text) = office.verified(&part, &[key])?;
        ensure!(code == 0, "{text}");
    }
    // Without them the past key is no key of this log.
    fs::remove_file(after.join("keys.jsonl"))?;
    let (code, text) = office.verified(&after, &[&first])?;
    ensure!(code == 9, "{text}");
    // Everything that was done and tried is evidence.
    let leaves = fs::read(first_bundle(&after)?)?;
    let leaves = String::from_utf8_lossy(&leaves);
    for kind in ["requested", "refused", "rotated", "revoked", "retired"] {
        ensure!(leaves.contains(&format!("\"type\":\"ledger.key.{kind}\"")), "{kind}");
    }
    Ok(())
}

fn first_bundle(pack: &Path) -> Result<PathBuf> {
    let entries = pack.join("tile/entries");
    let bundle = fs::read_dir(&entries)?.next().context("a bundle")??.path();
    let inner = fs::read_dir(&bundle).ok().and_then(|mut inner| inner.next());
    Ok(match inner {
        Some(file) => file?.path(),
        None => bundle,
    })
}

#[test]
fn key_files_from_a_backup_of_before_are_refused_at_start() -> Result<()> {
    let mut office = Office::open()?;
    let keys = office.plane.data_dir().join("evidence/keys");
    let (old, new) = (office.plane.scratch().join("old"), office.plane.scratch().join("new"));
    let copy = |from: &Path, to: &Path| -> Result<()> {
        ensure!(Command::new("cp").arg("-a").arg(from).arg(to).status()?.success());
        Ok(())
    };
    office.plane.stop()?;
    copy(&keys, &old)?;
    office.plane.up()?;
    office.change(&["rotate", "--overlap-days", "1"], &[])?;
    office.plane.stop()?;
    fs::rename(&keys, &new)?;
    copy(&old, &keys)?;
    let refused = office.plane.up().err().context("it must not start")?;
    ensure!(format!("{refused:#}").contains("were replaced since these key files were written"), "{refused:#}");
    office.plane.kill_9()?;
    fs::remove_dir_all(&keys)?;
    fs::rename(&new, &keys)?;
    office.plane.up()?;
    Ok(())
}

#[test]
fn a_witness_goes_on_over_a_new_key_of_the_plane_log_once_it_is_told() -> Result<()> {
    let office = Office::open()?;
    let plane = &office.plane;
    let memory = plane.scratch().join("w").to_string_lossy().into_owned();
    let first = office.keep(&["--plane-log"], "first.vkey")?.to_string_lossy().into_owned();
    plane.ok(["witness", "key", "--dir", &memory, "--name", "auditor.example/w1"])?;
    let mut seen = 0_u64;
    let mut sign = |log: &str| -> Result<i32> {
        plane.ok([
            "evidence",
            "export",
            &plane.scratch().join(format!("{}", fs::read_dir(plane.scratch())?.count())).to_string_lossy(),
        ])?;
        let request = plane.ok(["evidence", "checkpoint", "export", "--old", &seen.to_string()])?;
        let size = request.split("\n\n").nth(1).and_then(|note| note.lines().nth(1)).context("a size")?.parse()?;
        let signed = plane.cli_with_input(["witness", "sign", "-", "--dir", &memory, "--log", log], &request)?;
        if signed.code() == 0 {
            seen = size;
        }
        Ok(signed.code())
    };
    assert_eq!(sign(&first)?, 0);
    office.change(&["rotate"], &["--plane-log"])?;
    let second = office.keep(&["--plane-log"], "second.vkey")?.to_string_lossy().into_owned();
    // While both sign, the witness needs to know nothing; then it has to be told.
    assert_eq!(sign(&first)?, 0);
    assert_eq!(sign(&second)?, 0);
    office.change(&["revoke", "--generation", "0", "--why", "superseded"], &["--plane-log"])?;
    ensure!(sign(&first)? != 0);
    assert_eq!(sign(&second)?, 0);
    // Nobody but the plane's own tenant speaks of the plane log.
    let wrong = plane.http(
        "GET",
        "/api/v1/tenants/nobody/evidence/keys?plane=true",
        &[("authorization", &format!("Bearer {}", plane.token()))],
        b"",
    )?;
    ensure!(wrong.0 >= 400, "{wrong:?}");
    Ok(())
}

#[test]
fn a_policy_forbids_a_change_of_keys_like_any_command() -> Result<()> {
    let office = Office::open()?;
    let path = office.plane.scratch().join("policy.cedar");
    fs::write(
        &path,
        "permit (principal, action, resource);\n\
         @id(\"no-keys\") forbid (principal, action == Cogward::Action::\"operator_command\", resource) \
         when { context.command == \"key.rotate\" };\n",
    )?;
    let put = office.plane.json(["policy", "put", &path.to_string_lossy(), "--level", "plane", "--reason", "test"])?;
    let version = put["digest"].as_str().context("a digest")?.to_owned();
    for verb in ["approve", "activate"] {
        office.plane.ok(["policy", verb, &version, "--level", "plane", "--reason", "test"])?;
    }
    let refused = office.plane.cli(["evidence", "keys", "rotate", "--reason", "every year"])?;
    ensure!(refused.stderr.contains("policy_blocked"), "{refused:?}");
    assert!(office.keys(&[])?["request"].is_null());
    Ok(())
}
