//! The archive of the evidence in a directory and in a store with object lock: on the real binary.

use std::{
    fs,
    io::{BufRead, BufReader},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use cogward_testkit::{Agent, MAY_ASK, Plane};
use serde_json::{Value, json};

const EXE: &str = env!("CARGO_BIN_EXE_cogward");
const PATIENCE: Duration = Duration::from_secs(120);
const SMALL: [&str; 2] = ["--evidence-segment-kib", "64"];

fn keys_of(plane: &Plane, file: &Path) -> Result<()> {
    let status = plane.json(["evidence", "status"])?;
    let keys: Vec<&str> = status["keys"].as_array().context("keys")?.iter().filter_map(Value::as_str).collect();
    Ok(fs::write(file, keys.join("\n") + "\n")?)
}

/// Some tens of logs with a leaf each, and enough of them to seal a segment.
fn news(plane: &Plane, from: usize, count: usize) -> Result<()> {
    let authorization = format!("Bearer {}", plane.token());
    let headers = [("authorization", authorization.as_str()), ("content-type", "application/json")];
    for n in from..from + count {
        let body = json!({ "name": format!("bank-{n}"), "reason": "r".repeat(900) }).to_string();
        let (status, text) = plane.http("POST", "/api/v1/tenants", &headers, body.as_bytes())?;
        ensure!(status == 201 || status == 200, "{status} {text}");
    }
    Ok(())
}

/// Asks until the archive is as it should be. Asking is all that happens: nothing is slept over.
fn archive_until(plane: &Plane, is: impl Fn(&Value) -> bool) -> Result<Value> {
    let until = Instant::now() + PATIENCE;
    loop {
        let status = plane.json(["evidence", "status"])?["archive"].clone();
        if is(&status) {
            return Ok(status);
        }
        ensure!(Instant::now() < until, "it stayed {status}\n{}", plane.log());
        thread::yield_now();
    }
}

fn has(segments: u64) -> impl Fn(&Value) -> bool {
    move |status| status["segments"].as_u64() >= Some(segments) && status["failing_since"].is_null()
}

fn verified(plane: &Plane, archive: &Path, more: &[&str]) -> Result<(Option<i32>, String)> {
    let Output { status, stdout, stderr } =
        Command::new(plane.verifier()).arg("archive").arg(archive).args(more).env_clear().output()?;
    Ok((status.code(), String::from_utf8_lossy(&stdout).into_owned() + &String::from_utf8_lossy(&stderr)))
}

fn files(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut found: Vec<_> = fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    found.sort();
    Ok(found)
}

#[test]
fn a_directory_has_the_sealed_segments_and_gives_them_back() -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let at = |name: &str| scratch.path().join(name).to_string_lossy().into_owned();
    let (store, keys) = (at("archive"), at("plane.vkey"));
    let options = [&["--archive", &store, "--archive-alarm-after", "1"][..], &SMALL].concat();
    let mut plane = Plane::start_serving(EXE, &options)?;
    keys_of(&plane, Path::new(&keys))?;
    news(&plane, 0, 80)?;
    let status = archive_until(&plane, has(2))?;
    assert_eq!((&status["archive"], &status["alarm"]), (&json!(store), &json!(false)), "{status}");
    let shown = plane.json(["evidence", "archive", "status"])?;
    ensure!(shown["segments"].as_u64() >= Some(2), "{shown}");
    let (code, said) = verified(&plane, Path::new(&store), &["--key", &keys])?;
    ensure!(code == Some(0) && said.contains("bank-7") && said.contains("NOTE: an archive cannot show"), "{said}");
    ensure!(!said.contains("WARNING"), "{said}");
    let recorded = plane.json(["evidence", "search", "--type", "ledger.archived"])?;
    let recorded = recorded.as_array().or_else(|| recorded["items"].as_array()).context("a list")?.clone();
    ensure!(recorded.len() >= 2 && recorded[0]["body"]["archive"] == json!(store), "{recorded:?}");

    // Killed in the middle, the next plane goes on, and there is one history.
    plane.kill_9()?;
    plane.up()?;
    news(&plane, 80, 40)?;
    let status = archive_until(&plane, has(3))?;
    let (code, said) = verified(&plane, Path::new(&store), &["--key", &keys, "--json"])?;
    let verdict: Value = serde_json::from_str(&said)?;
    ensure!(code == Some(0) && verdict["archive"]["segments"].as_u64() >= Some(3), "{verdict}");
    ensure!(verdict["archive"]["unnamed"] == json!([]), "{verdict}");
    ensure!(
        verdict["archive"]["segments"] != status["segments"]
            || verdict["archive"]["newest"] == status["newest_manifest"]
    );

    // What was kept elsewhere is in it.
    let kept = files(&Path::new(&store).join("manifests"))?.pop().context("a manifest")?;
    let (code, said) = verified(&plane, Path::new(&store), &["--key", &keys, "--against", &kept.to_string_lossy()])?;
    ensure!(code == Some(0) && said.contains("contains what was kept"), "{said}");
    fs::write(at("now"), plane.ok(["evidence", "checkpoint"])?)?;
    let (code, said) = verified(&plane, Path::new(&store), &["--key", &keys, "--against", &at("now")])?;
    ensure!(code == Some(9) && said.contains("was not archived yet"), "{said}");

    // A place that is gone: the plane goes on, that is an alarm after a while, and then all is well again.
    fs::rename(&store, at("aside"))?;
    fs::write(&store, "a file")?;
    news(&plane, 120, 60)?;
    let status = archive_until(&plane, |status| status["alarm"] == true)?;
    ensure!(status["failure"].as_str().is_some_and(|why| why.contains("archive")), "{status}");
    let alarmed = plane.cli(["evidence", "archive", "status"])?;
    ensure!(alarmed.code() == 1 && alarmed.stdout.contains("alarm"), "{alarmed:?}");
    news(&plane, 180, 1)?;
    fs::remove_file(&store)?;
    fs::rename(at("aside"), &store)?;
    let more = status["segments"].as_u64().context("segments")? + 1;
    archive_until(&plane, has(more))?;

    // Without a plane: everything back, verified.
    plane.stop()?;
    let back = at("evidence");
    plane.ok(["evidence", "archive", "restore", "--from", &store, "--key", &keys, &back])?;
    let wal = plane.data_dir().join("evidence/wal");
    let restored = files(&Path::new(&back).join("wal"))?;
    ensure!(restored.len() as u64 >= more, "{restored:?}");
    for file in &restored {
        let name = file.file_name().context("a name")?;
        ensure!(fs::read(file)? == fs::read(wal.join(name))?, "{file:?}");
    }
    let again = plane.cli(["evidence", "archive", "restore", "--from", &store, &back])?;
    ensure!(again.code() == 5, "{again:?}");
    // A plane whose early segments are gone says what it needs, and comes up when it has them.
    let first = "0000000000000000.seg";
    fs::remove_file(wal.join(first))?;
    let refused = plane.up().err().context("it must not start")?;
    ensure!(format!("{refused:#}").contains("archive restore"), "{refused:#}");
    plane.kill_9()?;
    fs::copy(&restored[0], wal.join(first))?;
    plane.up()?;
    plane.stop()?;

    // And who changes the archive is found out.
    let segment = files(&Path::new(&store).join("segments"))?.remove(1);
    let mut bytes = fs::read(&segment)?;
    bytes[9_000] ^= 1;
    fs::set_permissions(&segment, fs::Permissions::from_mode(0o600))?;
    fs::write(&segment, bytes)?;
    let (code, said) = verified(&plane, Path::new(&store), &["--key", &keys])?;
    let name = segment.file_name().context("a name")?.to_string_lossy().into_owned();
    ensure!(code == Some(9) && said.contains(&name), "{said}");
    let bad = plane.cli(["evidence", "archive", "restore", "--from", &store, "--key", &keys, &at("bad")])?;
    ensure!(bad.code() == 9 && format!("{bad:?}").contains(&name), "{bad:?}");
    ensure!(!Path::new(&at("bad")).exists());
    Ok(())
}

/// A store that checks signatures and holds objects under lock; its process ends with the value.
struct ObjectStore {
    child: Child,
    _input: ChildStdin,
    said: Value,
    dir: PathBuf,
}

fn script(args: &[&str]) -> Command {
    let usual = PathBuf::from(std::env::var_os("HOME").unwrap_or_default())
        .join(".cache/cogward/venvs/object-store/bin/python");
    let mut command = Command::new(std::env::var_os("COGWARD_OBJECT_STORE_PYTHON").map_or(usual, PathBuf::from));
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/object-store/store.py")).args(args);
    command
}

impl ObjectStore {
    fn start(dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir)?;
        let mut child = script(&["serve", &dir.to_string_lossy()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("the Python of scripts/setup-tests.sh")?;
        let input = child.stdin.take().context("its input")?;
        let line =
            BufReader::new(child.stdout.take().context("its output")?).lines().next().context("its address")??;
        Ok(Self { child, _input: input, said: serde_json::from_str(&line)?, dir: dir.to_owned() })
    }

    fn word(&self, name: &str) -> &str {
        self.said[name].as_str().unwrap_or_default()
    }

    fn credentials(&self, file: &Path, mode: u32) -> Result<()> {
        let (access, secret) = (self.word("access"), self.word("secret"));
        fs::write(file, format!("[default]\naws_access_key_id = {access}\naws_secret_access_key = {secret}\n"))?;
        Ok(fs::set_permissions(file, fs::Permissions::from_mode(mode))?)
    }

    fn attacked(&self) -> Result<Value> {
        let words = ["url", "access", "secret", "bucket"].map(|name| self.word(name));
        let output = script(&[&["attack"][..], &words].concat()).output()?;
        serde_json::from_slice(&output.stdout).with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())
    }

    fn set(&self, fault: &str, on: bool) -> Result<()> {
        let file = self.dir.join(fault);
        if on { fs::write(file, "") } else { fs::remove_file(file) }.context("a file for the store")
    }
}

impl Drop for ObjectStore {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _status = self.child.wait();
    }
}

#[test]
fn a_store_holds_the_segments_under_lock_and_one_that_lies_is_found_out() -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let at = |name: &str| scratch.path().join(name).to_string_lossy().into_owned();
    let store = ObjectStore::start(&scratch.path().join("store"))?;
    let (keys, credentials) = (at("plane.vkey"), at("s3.txt"));
    store.credentials(Path::new(&credentials), 0o600)?;
    let reached = ["--s3-endpoint", store.word("url"), "--s3-credentials", &credentials];
    let place = "s3://bank-archive/cogward/a";
    let options =
        [&["--archive", place, "--archive-alarm-after", "1", "--archive-lock-days", "30"][..], &reached, &SMALL]
            .concat();
    let mut plane = Plane::start_serving(EXE, &options)?;
    keys_of(&plane, Path::new(&keys))?;
    news(&plane, 0, 80)?;
    let status = archive_until(&plane, has(2))?;
    assert_eq!(status["archive"], place, "{status}");
    let restore = |to: &str| {
        plane.cli([&["evidence", "archive", "restore", "--from", place, "--key", &keys][..], &reached, &[to]].concat())
    };
    let restored = restore(&at("first"))?;
    ensure!(restored.code() == 0, "{restored:?}");
    ensure!(files(&scratch.path().join("first/wal"))?.len() >= 2);

    // Down: nothing waits for it, and it catches up.
    store.set("down", true)?;
    news(&plane, 80, 60)?;
    let status = archive_until(&plane, |status| status["alarm"] == true)?;
    ensure!(status["failure"].as_str().is_some_and(|why| why.contains("503")), "{status}");
    store.set("down", false)?;
    let before = status["segments"].as_u64().context("segments")?;
    archive_until(&plane, has(before + 1))?;

    // It says that it has something and gives back something else: that counts as nothing.
    store.set("lies", true)?;
    news(&plane, 140, 60)?;
    let status = archive_until(&plane, |status| status["alarm"] == true)?;
    ensure!(status["failure"].as_str().is_some_and(|why| why.contains("other bytes")), "{status}");
    let found = plane.json(["evidence", "search", "--type", "security.finding"])?.to_string();
    ensure!(found.contains("archive"), "{found}");
    let lied = restore(&at("lied"))?;
    ensure!(lied.code() == 9 && !scratch.path().join("lied").exists(), "{lied:?}");
    store.set("lies", false)?;
    archive_until(&plane, has(status["segments"].as_u64().context("segments")? + 1))?;

    // Whoever has the credentials deletes nothing and overwrites nothing; what they lay on top is seen.
    let outcome = store.attacked()?;
    ensure!(outcome["objects"].as_u64() >= Some(6), "{outcome}");
    assert_eq!((&outcome["deleted"], &outcome["overwritten"]), (&json!(0), &json!(0)), "{outcome}");
    let covered = restore(&at("covered"))?;
    ensure!(covered.code() == 9 && format!("{covered:?}").contains("segments/"), "{covered:?}");

    // The secret is nowhere but in its file.
    ensure!(!plane.log().contains(store.word("secret")), "the log has the secret");
    plane.stop()?;
    let found = Command::new("grep").args(["-rlF", store.word("secret")]).arg(plane.data_dir()).output()?;
    ensure!(found.stdout.is_empty(), "{}", String::from_utf8_lossy(&found.stdout));
    // And a file that others may read is none.
    store.credentials(Path::new(&credentials), 0o644)?;
    let refused = plane.up().err().context("it must not start")?;
    ensure!(format!("{refused:#}").contains("chmod 600"), "{refused:#}");
    Ok(())
}

#[test]
fn what_cannot_be_an_archive_is_a_mistake_of_the_command() -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let file = scratch.path().join("s3.txt");
    fs::write(&file, "aws_access_key_id = a\naws_secret_access_key = b\n")?;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600))?;
    let file = file.to_string_lossy().into_owned();
    for (flags, says) in [
        (&["--archive", "s3://bank-archive"][..], "needs credentials"),
        (&["--archive", "gs://bank-archive"], "is no place"),
        (
            &["--archive", "s3://bank-archive", "--s3-credentials", &file, "--s3-endpoint", "http://192.0.2.1:9000"],
            "https://",
        ),
        (&["--archive", "/tmp/x", "--s3-credentials", &file], "is a directory"),
        (&["--archive-lock-days", "3"], "--archive"),
    ] {
        let refused = Plane::start_serving(EXE, flags).err().context("it must not start")?;
        ensure!(format!("{refused:#}").contains(says), "{flags:?}: {refused:#}");
    }
    Ok(())
}

/// Makes one call for its user.
const CALLER: Agent<'static> = Agent {
    name: "caller",
    source: "
import json, os, urllib.request
body = json.dumps({'model': 'demo-model', 'max_tokens': 10, 'messages': [{'role': 'user', 'content': 'hello'}]}).encode()
urllib.request.urlopen(urllib.request.Request(os.environ['OPENAI_BASE_URL'] + '/chat/completions', body, {'content-type': 'application/json'}), timeout=60).read()
print(json.dumps({'done': True}))
",
    permissions: MAY_ASK,
    changes: &[],
};

fn disclosed(leaves: &Value) -> usize {
    let leaves = leaves.as_array().into_iter().flatten();
    leaves.filter_map(|leaf| leaf["disclosed"].as_object()).map(serde_json::Map::len).sum()
}

#[test]
fn segments_leave_the_disk_and_everything_still_works() -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let at = |name: &str| scratch.path().join(name).to_string_lossy().into_owned();
    let (store, keys) = (at("archive"), at("plane.vkey"));
    let options = [&["--archive", &store, "--archive-keep-local", "0"][..], &SMALL].concat();
    let mut plane = Plane::start_serving(EXE, &options)?;
    keys_of(&plane, Path::new(&keys))?;
    plane.add_scripted(r#"{"steps": [], "default": {"reply": {"text": "yes"}}}"#)?;
    plane.register(&CALLER)?;
    let bob = plane.ok(["operator", "add", "bob", "--reason", "the second person"])?.trim().to_owned();
    let ran = plane.json(["run", "start", "caller", "--as", "anna@example.org", "--reason", "t", "--wait"])?;
    let run = ran["id"].as_str().context("an id")?.to_owned();
    let whole = plane.json(["evidence", "show", "--run", &run])?;
    let hidden = disclosed(&whole);
    ensure!(hidden > 3, "{whole}");
    news(&plane, 0, 200)?;
    let released = |least: u64| move |status: &Value| status["released"].as_u64() >= Some(least);
    archive_until(&plane, released(2))?;
    let wal = plane.data_dir().join("evidence/wal");
    let here = |n: u64| wal.join(format!("{n:016x}.seg"));
    ensure!(!here(0).exists() && !here(1).exists(), "{:?}", files(&wal)?);
    let shown = plane.ok(["evidence", "archive", "status"])?;
    ensure!(shown.contains("RELEASED"), "{shown}");
    let told = plane.json(["evidence", "search", "--type", "ledger.released"])?.to_string();
    ensure!(told.contains("ledger.released") && told.contains("digest"), "{told}");

    // Killed and started again: nothing is asked of the archive, so it may be away.
    plane.kill_9()?;
    fs::rename(&store, at("aside"))?;
    plane.up()?;
    let refused = plane.cli(["evidence", "show", "--run", &run])?;
    ensure!(refused.code() != 0 && format!("{refused:?}").contains("archive_unreachable"), "{refused:?}");
    news(&plane, 200, 1)?;
    fs::remove_dir_all(&store).or_else(|error| if Path::new(&store).exists() { Err(error) } else { Ok(()) })?;
    fs::rename(at("aside"), &store)?;

    // With it, all is there: the run, the whole log, a proof.
    ensure!(plane.json(["evidence", "show", "--run", &run])? == whole, "the run is as it was");
    let pack = at("pack");
    plane.ok(["evidence", "export", &pack])?;
    let verified_pack = Command::new(plane.verifier()).arg(&pack).output()?;
    ensure!(verified_pack.status.success(), "{}", String::from_utf8_lossy(&verified_pack.stdout));
    let proof = plane.ok(["evidence", "prove", "inclusion", "2"])?;
    ensure!(proof.contains("tlog-proof"), "{proof}");
    let (code, said) = verified(&plane, Path::new(&store), &["--key", &keys])?;
    ensure!(code == Some(0), "{said}");

    // A person in a released segment is erased, by two people, and shows as erased.
    let asked = plane.json([
        "evidence",
        "redact",
        "request",
        "--ground",
        "gdpr-17-1-b",
        "--reason",
        "ticket",
        "--subject",
        "anna@example.org",
    ])?;
    let id = asked["id"].as_str().context("an id")?.to_owned();
    let approve = ["evidence", "redact", "approve", &id, "--reason", "checked"];
    ensure!(plane.command(approve).env("COGWARD_TOKEN", &bob).status()?.success());
    plane.ok(["evidence", "redact", "execute", &id, "--reason", "due"])?;
    let after = plane.json(["evidence", "show", "--run", &run])?;
    ensure!(disclosed(&after) == 0 && after.to_string().contains(&id), "{after}");
    plane.kill_9()?;
    plane.up()?;
    ensure!(plane.json(["evidence", "show", "--run", &run])? == after, "and stays so");

    // An object that was replaced is refused when it is read, and said.
    let object = files(&Path::new(&store).join("segments"))?.remove(0);
    let good = fs::read(&object)?;
    let mut bytes = good.clone();
    bytes[9_000] ^= 1;
    fs::set_permissions(&object, fs::Permissions::from_mode(0o600))?;
    fs::write(&object, bytes)?;
    plane.stop()?;
    plane.up()?;
    let refused = plane.cli(["evidence", "export", &at("bad")])?;
    ensure!(refused.code() != 0 && format!("{refused:?}").contains("other bytes"), "{refused:?}");
    fs::write(&object, good)?;

    // A segment that was not released must be there.
    plane.stop()?;
    let first = files(&wal)?.into_iter().find(|file| file.extension().is_some_and(|of| of == "seg")).context("one")?;
    fs::rename(&first, at("taken"))?;
    let refused = plane.up().err().context("it must not start")?;
    ensure!(
        format!("{refused:#}").contains("is not recorded") || format!("{refused:#}").contains("rollback"),
        "{refused:#}"
    );
    plane.kill_9()?;
    fs::rename(at("taken"), &first)?;
    plane.up()
}

#[test]
fn what_left_the_disk_comes_back_from_a_store_that_is_there_and_does_not_lie() -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let at = |name: &str| scratch.path().join(name).to_string_lossy().into_owned();
    let store = ObjectStore::start(&scratch.path().join("store"))?;
    let credentials = at("s3.txt");
    store.credentials(Path::new(&credentials), 0o600)?;
    let reached = ["--s3-endpoint", store.word("url"), "--s3-credentials", &credentials];
    let place = "s3://bank-archive/cogward/a";
    let options =
        [&["--archive", place, "--archive-lock-days", "30", "--archive-keep-local", "0"][..], &reached, &SMALL]
            .concat();
    let mut plane = Plane::start_serving(EXE, &options)?;
    news(&plane, 0, 120)?;
    archive_until(&plane, |status| status["released"].as_u64() >= Some(1))?;
    ensure!(!plane.data_dir().join("evidence/wal/0000000000000000.seg").exists());
    for (fault, says) in [("down", "503"), ("lies", "other bytes")] {
        // What was brought before lies open in the process: another one asks anew.
        plane.kill_9()?;
        store.set(fault, true)?;
        plane.up()?;
        let refused = plane.cli(["evidence", "export", &at(fault)])?;
        let said = format!("{refused:?}");
        ensure!(refused.code() == 1 && said.contains("archive_unreachable") && said.contains(says), "{said}");
        store.set(fault, false)?;
    }
    let pack = at("pack");
    plane.ok(["evidence", "export", &pack])?;
    let checked = Command::new(plane.verifier()).arg(&pack).output()?;
    ensure!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stdout));
    Ok(())
}
