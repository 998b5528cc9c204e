//! Witnesses outside the plane, the logs as public files, and two histories under one key: on the real binary.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use cogward_testkit::Plane;
use serde_json::Value;

const EXE: &str = env!("CARGO_BIN_EXE_cogward");
const PATIENCE: Duration = Duration::from_secs(120);

/// A witness that answers over HTTP; its process ends with the value.
struct Witness {
    child: Child,
    key: String,
    url: String,
}

impl Witness {
    fn start(dir: &Path, log: &Path) -> Result<Self> {
        let mut child = Command::new(EXE)
            .args(["witness", "serve", "--name", "auditor.example/w1", "--listen", "127.0.0.1:0", "--dir"])
            .arg(dir)
            .arg("--log")
            .arg(log)
            .stdout(Stdio::piped())
            .spawn()?;
        let mut lines = BufReader::new(child.stdout.take().context("its output")?).lines();
        let key = lines.next().context("its key")??;
        let url = loop {
            let line = lines.next().context("its address")??;
            if let Some(at) = line.find("http://") {
                break line[at..].trim().to_owned();
            }
        };
        Ok(Self { child, key, url })
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _status = self.child.wait();
    }
}

fn keys_of(plane: &Plane, file: &Path) -> Result<()> {
    let status = plane.json(["evidence", "status"])?;
    let keys: Vec<&str> = status["keys"].as_array().context("keys")?.iter().filter_map(Value::as_str).collect();
    ensure!(keys.len() == 2, "{status}");
    Ok(fs::write(file, keys.join("\n") + "\n")?)
}

/// Asks until the state of the evidence is as it should be. Asking is all that happens: nothing is slept over.
fn status_until(plane: &Plane, is: impl Fn(&Value) -> bool) -> Result<Value> {
    let until = Instant::now() + PATIENCE;
    loop {
        let status = plane.json(["evidence", "status"])?;
        if is(&status) {
            return Ok(status);
        }
        ensure!(Instant::now() < until, "it stayed {status}\n{}", plane.log());
        thread::yield_now();
    }
}

fn news(plane: &Plane, name: &str) -> Result<()> {
    plane.ok(["tenant", "create", name, "--reason", "news for the log"])?;
    Ok(())
}

/// One request, as it is on the wire: no client tidies the path up.
fn raw(address: &str, method: &str, path: &str) -> Result<(u16, String, Vec<u8>)> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let at = answer.windows(4).position(|w| w == b"\r\n\r\n").context("no head")?;
    let head = String::from_utf8_lossy(&answer[..at]).to_ascii_lowercase();
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).context("no status")?;
    let body = answer[at + 4..].to_vec();
    let body = if head.contains("transfer-encoding: chunked") { unchunked(&body) } else { body };
    Ok((status, head, body))
}

fn unchunked(mut body: &[u8]) -> Vec<u8> {
    let mut whole = Vec::new();
    while let Some(at) = body.windows(2).position(|w| w == b"\r\n") {
        let size = usize::from_str_radix(String::from_utf8_lossy(&body[..at]).trim(), 16).unwrap_or(0);
        if size == 0 {
            break;
        }
        whole.extend_from_slice(&body[at + 2..at + 2 + size]);
        body = &body[at + 4 + size..];
    }
    whole
}

fn verdicts(plane: &Plane, pack: &Path) -> Result<()> {
    let ours = Command::new(plane.verifier()).arg(pack).output()?;
    ensure!(ours.status.success(), "{}", String::from_utf8_lossy(&ours.stdout));
    let python = std::env::var("COGWARD_TEST_PYTHON").unwrap_or_else(|_| "python3".into());
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../scripts/verify.py");
    let theirs = Command::new(python).arg(script).arg(pack).output()?;
    ensure!(theirs.status.success(), "{}", String::from_utf8_lossy(&theirs.stdout));
    Ok(())
}

#[test]
fn a_plane_has_its_log_witnessed_and_says_when_it_is_not() -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let (policy, log) = (scratch.path().join("policy"), scratch.path().join("plane.vkey"));
    fs::write(&policy, "quorum none\n")?;
    let mut plane = Plane::start_serving(EXE, &["--witness-policy", &policy.to_string_lossy()])?;
    keys_of(&plane, &log)?;
    let witness = Witness::start(&scratch.path().join("w"), &log)?;
    plane.stop()?;
    fs::write(&policy, format!("witness w1 {} {}\nquorum w1\n", witness.key, witness.url))?;
    plane.up()?;
    news(&plane, "first")?;
    let status = status_until(&plane, |s| s["witnessed"]["size"].as_u64() > Some(0) && s["below_quorum"] == false)?;
    assert_eq!((&status["witnessed"]["by"][0], &status["exposure_seconds"]), (&"w1".into(), &0.into()), "{status}");
    let pack = scratch.path().join("pack");
    plane.ok(["evidence", "export", &pack.to_string_lossy()])?;
    verdicts(&plane, &pack)?;
    let proof = fs::read_to_string(pack.join("plane/checkpoint.tlog-proof"))?;
    ensure!(proof.contains("\u{2014} auditor.example/w1 "), "{proof}");
    // Without the witness everything goes on, and says what it lacks.
    drop(witness);
    news(&plane, "second")?;
    let status = status_until(&plane, |s| s["below_quorum"] == true)?;
    ensure!(status["exposure_seconds"].is_u64(), "{status}");
    let output = plane.cli(["evidence", "export", &scratch.path().join("below").to_string_lossy()])?;
    ensure!(output.code() == 0, "{output:?}");
    ensure!(format!("{output:?}").contains("Below quorum"), "{output:?}");
    verdicts(&plane, &scratch.path().join("below"))?;
    // And an address that would carry checkpoints over a network in clear is none.
    plane.stop()?;
    fs::write(&policy, fs::read_to_string(&policy)?.replace("http://127.0.0.1", "http://192.0.2.1"))?;
    let refused = plane.up().err().context("it must not start")?;
    ensure!(format!("{refused:#}").contains("begins with https://"), "{refused:#}");
    Ok(())
}

/// Both parts come from one older backup, so nothing here contradicts it: only the witness remembers.
#[test]
fn a_plane_that_was_rolled_back_whole_has_an_alarm_that_leads_to_what_is_known_of_both_histories() -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let (policy, log) = (scratch.path().join("policy"), scratch.path().join("plane.vkey"));
    fs::write(&policy, "quorum none\n")?;
    let mut plane = Plane::start_serving(EXE, &["--witness-policy", &policy.to_string_lossy()])?;
    keys_of(&plane, &log)?;
    let witness = Witness::start(&scratch.path().join("w"), &log)?;
    plane.stop()?;
    let older = scratch.path().join("older");
    ensure!(Command::new("cp").arg("-a").arg(plane.data_dir()).arg(&older).status()?.success());
    fs::write(&policy, format!("witness w1 {} {}\nquorum w1\n", witness.key, witness.url))?;
    plane.up()?;
    for name in ["one", "two", "three"] {
        let size = plane.json(["evidence", "status"])?["size"].as_u64();
        news(&plane, name)?;
        status_until(&plane, |s| s["size"].as_u64() > size && s["below_quorum"] == false)?;
    }
    plane.stop()?;
    fs::rename(plane.data_dir(), scratch.path().join("newer"))?;
    fs::rename(&older, plane.data_dir())?;
    plane.up()?;
    let until = Instant::now() + PATIENCE;
    let told = loop {
        let status = plane.cli(["evidence", "status"])?;
        if status.code() == 1 {
            break [status.stdout, status.stderr].concat();
        }
        ensure!(Instant::now() < until, "no alarm\n{}", plane.log());
    };
    ensure!(told.contains("ALARM: split view"), "{told}");
    let kept = plane.data_dir().join("evidence/plane/split-view");
    let file = fs::read_dir(&kept)?.next().context("what is known")??.path();
    let both = fs::read_to_string(&file)?;
    ensure!(told.contains(&file.display().to_string()) && both.contains("--- this plane"), "{told}\n{both}");
    ensure!(both.contains(&witness.url) && both.contains("w1 at "), "{both}");
    // The alarm stands before the finding has its leaf.
    let found = loop {
        let found = plane.json(["evidence", "search", "--type", "security.finding"])?;
        if !found[0].is_null() {
            break found;
        }
        ensure!(Instant::now() < until, "no finding\n{}", plane.log());
    };
    let body = &found[0]["body"];
    ensure!(body["finding"] == "split_view" && body["ours"].is_string(), "{found}");
    let name = file.file_name().context("a name")?.to_string_lossy();
    ensure!(body["file"] == format!("plane/split-view/{name}"), "{found}");
    ensure!(body["digest"].as_str().is_some_and(|digest| digest.starts_with(name.trim_end_matches(".txt"))), "{found}");
    Ok(())
}

#[test]
fn a_site_without_a_network_is_witnessed_by_file_and_a_second_history_is_found() -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let at = |name: &str| -> PathBuf { scratch.path().join(name) };
    let (policy, log, memory) = (at("policy"), at("plane.vkey"), at("w").to_string_lossy().into_owned());
    fs::write(&policy, "quorum none\n")?;
    let mut plane = Plane::start_serving(EXE, &["--witness-policy", &policy.to_string_lossy()])?;
    keys_of(&plane, &log)?;
    let log = log.to_string_lossy().into_owned();
    let key = plane.ok(["witness", "key", "--dir", &memory, "--name", "auditor.example/w1"])?;
    // The second line: the ML-DSA-44 key counts as well as the other.
    let key = key.lines().nth(1).context("two keys")?.to_owned();
    plane.stop()?;
    fs::write(&policy, format!("witness w1 {key}\nquorum w1\n"))?;
    plane.up()?;
    news(&plane, "first")?;
    status_until(&plane, |s| s["size"].as_u64() > Some(1))?;
    let request = plane.ok(["evidence", "checkpoint", "export"])?;
    let size = request.lines().nth(3).context("a size")?.to_owned();
    let sign = ["witness", "sign", "-", "--dir", &memory, "--log", &log];
    let cosigned = plane.cli_with_input(sign, &request)?;
    ensure!(cosigned.code() == 0, "{cosigned:?}");
    fs::write(at("cosigned"), &cosigned.stdout)?;
    plane.ok(["evidence", "checkpoint", "import", &at("cosigned").to_string_lossy()])?;
    let status = plane.json(["evidence", "status"])?;
    assert_eq!(status["witnessed"]["size"].to_string(), size, "{status}");
    // Once more from nothing: the witness says what it has, and nobody is let in with a stranger's line.
    let again = plane.cli_with_input(sign, &request)?;
    ensure!(again.code() == 5 && format!("{again:?}").contains(&format!("--old {size}")), "{again:?}");
    let unsigned = plane.cli_with_input(
        ["evidence", "checkpoint", "import", "-"],
        &request[request.find("\n\n").context("a note")? + 2..],
    )?;
    ensure!(unsigned.code() == 2, "{unsigned:?}");

    // From here on there are two histories: what the witness sees, and what somebody else is shown.
    plane.stop()?;
    // What was signed at the stop is common to both.
    let common = fs::read_to_string(plane.data_dir().join("evidence/plane/checkpoint"))?;
    let base: u64 = common.lines().nth(1).context("a size")?.parse()?;
    let fork = at("fork");
    ensure!(Command::new("cp").arg("-a").arg(plane.data_dir()).arg(&fork).status()?.success());
    plane.up()?;
    news(&plane, "honest")?;
    let honest = status_until(&plane, |s| s["size"].as_u64() > Some(base))?["size"].as_u64().context("size")?;
    let request = plane.ok(["evidence", "checkpoint", "export", "--old", &size])?;
    let seen = plane.cli_with_input(sign, &request)?;
    ensure!(seen.code() == 0, "{seen:?}");
    let seen: u64 = request.split("\n\n").nth(1).and_then(|n| n.lines().nth(1)).context("size")?.parse()?;
    ensure!(seen >= honest);
    let honest_note = request.split_once("\n\n").context("a note")?.1.to_owned();
    plane.stop()?;
    fs::rename(plane.data_dir(), at("honest"))?;
    fs::rename(&fork, plane.data_dir())?;
    plane.up()?;
    let mut hidden = 0;
    for n in 0.. {
        hidden = plane.json(["evidence", "status"])?["size"].as_u64().context("size")?;
        if hidden > seen {
            break;
        }
        news(&plane, &format!("hidden-{n}"))?;
        status_until(&plane, |s| s["size"].as_u64() > Some(hidden))?;
    }
    ensure!(hidden > seen);
    let request = plane.ok(["evidence", "checkpoint", "export", "--old", &seen.to_string()])?;
    let refused = plane.cli_with_input(sign, &request)?;
    ensure!(refused.code() == 9, "{refused:?}");
    // The plane of the second history is told so by whoever brings the honest note.
    let other =
        plane.cli_with_input(["evidence", "checkpoint", "import", "-"], &fs::read_to_string(at("cosigned"))?)?;
    ensure!(other.code() == 0, "what both histories have in common holds in both: {other:?}");
    let split = plane.cli_with_input(["evidence", "checkpoint", "import", "-"], &honest_note)?;
    ensure!(split.code() == 9, "{split:?}");
    let said = format!("{split:?}");
    let root = honest_note.lines().nth(2).context("a root")?;
    ensure!(said.contains(root) && said.contains("split"), "{said}");
    // Whoever brings it as long as a note may be, with lines of strangers, does not keep it out of the record.
    let mut long = honest_note.clone();
    for n in 0..48 {
        long.push_str(&format!("\u{2014} stranger.example/{n} {}\n", "A".repeat(1_200)));
    }
    ensure!(long.len() > 57_000);
    let split = plane.cli_with_input(["evidence", "checkpoint", "import", "-"], &long)?;
    ensure!(split.code() == 9, "{split:?}");
    let found = plane.json(["evidence", "search", "--type", "security.finding"])?;
    let found: Vec<_> = found.as_array().into_iter().flatten().map(|one| &one["body"]).collect();
    ensure!(found.len() == 2 && found.iter().all(|body| body["finding"] == "split_view"), "{found:?}");
    let theirs = format!("{} {root}", honest_note.lines().nth(1).context("a size")?);
    ensure!(found.iter().all(|body| body["theirs"] == theirs && body["digest"].is_string()), "{found:?}");
    // It does not end with that answer: the state is an alarm, also of the next process, and leads to both notes.
    for _ in 0..2 {
        let status = plane.cli(["evidence", "status"])?;
        let told = [status.stdout.as_str(), status.stderr.as_str()].concat();
        ensure!(status.code() == 1 && told.contains("ALARM: split view"), "{told}");
        let kept = plane.data_dir().join("evidence/plane/split-view");
        let file = fs::read_dir(&kept)?.next().context("the notes")??.path();
        ensure!(told.contains(&file.display().to_string()), "{told}");
        let both = fs::read_to_string(&file)?;
        ensure!(both.contains(root) && both.contains("--- this plane") && both.contains("--- the other"), "{both}");
        plane.stop()?;
        plane.up()?;
    }
    Ok(())
}

#[test]
fn the_logs_are_public_files_and_nothing_else_is() -> Result<()> {
    let mut plane = Plane::start_serving(EXE, &["--log-listen", "127.0.0.1:0"])?;
    news(&plane, "retail")?;
    let status = status_until(&plane, |s| s["size"].as_u64() > Some(0))?;
    let origin = status["log"].as_str().context("log")?.to_owned();
    let line = plane.log();
    let line = line.lines().find(|line| line.contains("logs are given out")).context("its address")?.to_owned();
    let at = line.find("127.0.0.1:").context("an address")?;
    let address: String = line[at..].chars().take_while(|c| c.is_ascii_digit() || matches!(c, '.' | ':')).collect();
    let get = |path: &str| raw(&address, "GET", path);
    // A whole log, fetched as any tlog client would, verifies as a pack does.
    let log = plane.scratch().join("fetched");
    let base = format!("/{origin}/default");
    let (code, head, note) = get(&format!("{base}/checkpoint"))?;
    ensure!(code == 200 && head.contains("text/plain") && head.contains("no-cache"), "{head}");
    let size: u64 = String::from_utf8_lossy(&note).lines().nth(1).context("a size")?.parse()?;
    ensure!(size < 256, "one bundle is enough for this test: {size}");
    for file in [
        "checkpoint".to_owned(),
        "log.vkey".to_owned(),
        format!("tile/0/000.p/{size}"),
        format!("tile/entries/000.p/{size}"),
    ] {
        let (code, head, bytes) = get(&format!("{base}/{file}"))?;
        ensure!(code == 200, "{file}: {head}");
        let bytes = if file == "checkpoint" { note.clone() } else { bytes };
        let path = log.join(&file);
        fs::create_dir_all(path.parent().context("a parent")?)?;
        fs::write(path, bytes)?;
    }
    verdicts(&plane, &log)?;
    // The plane log: its checkpoint and its hashes, never what its leaves say.
    ensure!(get(&format!("/{origin}/checkpoint"))?.0 == 200);
    let width =
        String::from_utf8_lossy(&get(&format!("/{origin}/checkpoint"))?.2).lines().nth(1).context("size")?.to_owned();
    ensure!(get(&format!("/{origin}/tile/0/000.p/{width}"))?.0 == 200);
    ensure!(get(&format!("/{origin}/tile/entries/000.p/{width}"))?.0 == 404);
    for path in [
        "/",
        "/checkpoint",
        "/api/v1/plane",
        &format!("/{origin}"),
        &format!("/{origin}/"),
        &format!("/{origin}/nobody/checkpoint"),
        &format!("{base}/../../../keys/default.sign"),
        &format!("{base}/tile/0/../../../../../keys/default.sign"),
        &format!("{base}/tile/0/%2e%2e/%2e%2e/checkpoint"),
        &format!("{base}/tile/0/..%2f..%2fcheckpoint"),
        &format!("{base}//checkpoint"),
        &format!("{base}/./checkpoint"),
        &format!("{base}/tile/0/000"),
        &format!("{base}/tile/0/000.p/{}", size + 1),
        &format!("{base}/tile/9/000.p/1"),
        &format!("{base}/tile/entries/000.p/0{size}"),
        &format!("/{origin}/../../etc/passwd"),
        &format!("{base}/{}", "x".repeat(2_000)),
    ] {
        let (code, _, body) = get(path)?;
        ensure!(code == 404 || code == 400, "{path}: {code} {}", String::from_utf8_lossy(&body));
    }
    for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
        ensure!(raw(&address, method, &format!("{base}/checkpoint"))?.0 == 405, "{method}");
    }
    // Behind the API the same files need a credential, and that entries were read is evidence.
    let path = format!("/api/v1/tenants/default/log/tile/entries/000.p/{size}");
    ensure!(plane.http("GET", &path, &[], b"")?.0 == 401);
    let bearer = format!("Bearer {}", plane.token());
    for file in ["checkpoint", "log.vkey", &format!("tile/0/000.p/{size}"), &format!("tile/entries/000.p/{size}")] {
        let (code, _) =
            plane.http("GET", &format!("/api/v1/tenants/default/log/{file}"), &[("authorization", &bearer)], b"")?;
        ensure!(code == 200, "{file}: {code}");
    }
    for file in ["../../../keys/default.sign", "tile/0/%2e%2e/000", "tile/0/..%2f000", "tile/0/009"] {
        let (code, text) =
            plane.http("GET", &format!("/api/v1/tenants/default/log/{file}"), &[("authorization", &bearer)], b"")?;
        ensure!(code == 404 || code == 400, "{file}: {code} {text}");
    }
    let pack = plane.scratch().join("pack");
    plane.ok(["evidence", "export", &pack.to_string_lossy()])?;
    let entries = fs::read_dir(pack.join("tile/entries"))?.next().context("entries")??.path();
    let entries = fs::read_dir(entries)?.next().context("a bundle")??.path();
    let text = String::from_utf8_lossy(&fs::read(entries)?).into_owned();
    assert_eq!(text.matches("\"read_log\":true").count(), 1);
    plane.stop()?;
    Ok(())
}
