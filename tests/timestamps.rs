//! Time stamps (RFC 3161) of the plane log: on the real binary, with `openssl ts` as the authority and as the judge.

use std::{
    ffi::OsStr,
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use cogward_testkit::Plane;
use serde_json::Value;

const EXE: &str = env!("CARGO_BIN_EXE_cogward");
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/tsa/tsa.py");
const PATIENCE: Duration = Duration::from_secs(120);

/// An authority that answers over HTTP; its process ends with the value.
struct Authority {
    dir: PathBuf,
    child: Child,
    url: String,
}

fn script(arguments: &[&OsStr]) -> Command {
    let mut python = Command::new("python3");
    python.arg("-B").arg(SCRIPT).args(arguments);
    python
}

fn make(dir: &Path) -> Result<()> {
    ensure!(script(&["make".as_ref(), dir.as_os_str()]).status()?.success());
    Ok(())
}

/// What an auditor runs.
fn openssl_verifies(dir: &Path, answer: &Path, data: &Path) -> Result<bool> {
    let mut openssl = Command::new("openssl");
    openssl.args(["ts", "-verify", "-in"]).arg(answer).arg("-data").arg(data);
    Ok(openssl.arg("-CAfile").arg(dir.join("ca.pem")).output()?.status.success())
}

impl Authority {
    fn start(dir: &Path) -> Result<Self> {
        make(dir)?;
        let mut child = script(&["serve".as_ref(), dir.as_os_str()]).stdout(Stdio::piped()).spawn()?;
        let mut port = String::new();
        BufReader::new(child.stdout.take().context("its output")?).read_line(&mut port)?;
        Ok(Self { dir: dir.to_owned(), child, url: format!("http://127.0.0.1:{}/tsr", port.trim()) })
    }

    fn answers(&self, mode: &str) -> Result<()> {
        let new = self.dir.join("mode.new");
        fs::write(&new, mode)?;
        Ok(fs::rename(new, self.dir.join("mode"))?)
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _status = self.child.wait();
    }
}

/// Asks until something is there. Asking is all that happens: nothing is slept over.
fn until<T>(plane: &Plane, what: &str, mut is: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = is()? {
            return Ok(found);
        }
        ensure!(Instant::now() < until, "no {what}\n{}", plane.log());
        thread::yield_now();
    }
}

fn stamped_beyond(plane: &Plane, size: u64) -> Result<Value> {
    until(plane, "time stamp", || {
        let status = plane.json(["evidence", "status"])?;
        Ok((status["timestamp"]["size"].as_u64() > Some(size)).then(|| status["timestamp"].clone()))
    })
}

fn leaves(plane: &Plane, kind: &str) -> Result<Vec<Value>> {
    let found = plane.json(["evidence", "search", "--type", kind])?;
    Ok(found["items"].as_array().or_else(|| found.as_array()).context("leaves")?.clone())
}

/// The finding of this name, once it can be found.
fn finding(plane: &Plane, name: &str) -> Result<Value> {
    until(plane, name, || {
        Ok(leaves(plane, "security.finding")?.into_iter().find(|leaf| leaf["body"]["finding"] == name))
    })
}

fn verdicts(plane: &Plane, pack: &Path) -> Result<String> {
    let ours = Command::new(plane.verifier()).arg(pack).output()?;
    let said = String::from_utf8_lossy(&ours.stdout).into_owned();
    ensure!(ours.status.success(), "{said}");
    let python = std::env::var("COGWARD_TEST_PYTHON").unwrap_or_else(|_| "python3".into());
    let theirs = Command::new(python).arg(pack.join("verify.py")).arg(pack).output()?;
    let both = format!("{said}{}", String::from_utf8_lossy(&theirs.stdout));
    ensure!(theirs.status.success(), "{both}");
    Ok(both)
}

/// Every time stamp that a plane keeps, judged by openssl beside its note; those that do not hold are named.
fn kept(plane: &Plane, authority: &Path) -> Result<(usize, Vec<String>)> {
    let (mut good, mut bad) = (0, Vec::new());
    for entry in fs::read_dir(plane.data_dir().join("evidence/plane/timestamps"))? {
        let path = entry?.path();
        let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default().to_owned();
        let Some(size) = name.strip_suffix(".tsr").and_then(|name| name.split('.').next()) else { continue };
        let note = path.with_file_name(format!("{size}.checkpoint"));
        if openssl_verifies(authority, &path, &note)? { good += 1 } else { bad.push(name) }
    }
    Ok((good, bad))
}

#[test]
fn a_plane_has_its_log_stamped_and_openssl_verifies_what_it_keeps_and_exports() -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let tsa = Authority::start(&scratch.path().join("tsa"))?;
    let mut plane = Plane::start_serving(EXE, &["--timestamp", &tsa.url, "--timestamp-every", "1"])?;
    let first = stamped_beyond(&plane, 0)?;
    assert_eq!(first["offset_ms"], 0, "{first}");
    // Its own record is news, so it is stamped again.
    let size = first["size"].as_u64().context("size")?;
    let second = stamped_beyond(&plane, size)?;
    let anchors =
        until(&plane, "two records", || Ok(Some(leaves(&plane, "time.anchor")?).filter(|found| found.len() > 1)))?;
    let body = &anchors[0]["body"];
    let authority = tsa.url.strip_prefix("http://").and_then(|url| url.strip_suffix("/tsr")).context("its host")?;
    assert_eq!((&body["authority"], &body["offset_ms"]), (&authority.into(), &0.into()), "{body}");
    assert_eq!(body["size"], size, "{body}");
    let note = fs::read(plane.data_dir().join(format!("evidence/plane/timestamps/{size}.checkpoint")))?;
    let token = fs::read(plane.data_dir().join(format!("evidence/plane/timestamps/{size}.0.tsr")))?;
    for (field, bytes) in [("digest", note), ("token", token)] {
        let sum = scratch.path().join("sum");
        fs::write(&sum, bytes)?;
        let said = Command::new("sha256sum").arg(&sum).output()?.stdout;
        let said = String::from_utf8_lossy(&said).chars().take(64).collect::<String>();
        ensure!(body[field].as_str().is_some_and(|digest| digest.ends_with(&said)), "{field}: {body} {said}");
    }
    let pack = scratch.path().join("pack");
    plane.ok(["evidence", "export", &pack.to_string_lossy()])?;
    let said = verdicts(&plane, &pack)?;
    assert_eq!(said.matches("says a time stamp authority").count(), 2, "{said}");
    let stamp = pack.join("plane/timestamp");
    ensure!(openssl_verifies(&tsa.dir, &stamp.join("checkpoint.tsr"), &stamp.join("checkpoint"))?);
    let (good, bad) = kept(&plane, &tsa.dir)?;
    ensure!(good >= 2 && bad.is_empty(), "{good} {bad:?}");
    // Killed and started without an authority: what was stamped is known, and goes into packs.
    plane.kill_9()?;
    drop(tsa);
    plane.up()?;
    let again = plane.json(["evidence", "status"])?["timestamp"].clone();
    ensure!(again["size"].as_u64() >= second["size"].as_u64() && again["offset_ms"].is_null(), "{again}");
    let pack = scratch.path().join("again");
    plane.ok(["evidence", "export", &pack.to_string_lossy()])?;
    ensure!(verdicts(&plane, &pack)?.contains("says a time stamp authority"));
    // Nobody answers any more: that is an alarm, and everything else goes on.
    let overdue = finding(&plane, "timestamp_overdue")?;
    ensure!(overdue["body"]["detail"].as_str().is_some_and(|detail| detail.contains("no authority")), "{overdue}");
    plane.ok(["tenant", "create", "retail", "--reason", "all goes on"])?;
    Ok(())
}

#[test]
fn an_answer_that_is_no_time_stamp_of_ours_is_not_taken_and_holds_nothing_up() -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let tsa = Authority::start(&scratch.path().join("tsa"))?;
    let plane = Plane::start_serving(EXE, &["--timestamp", &tsa.url, "--timestamp-every", "1"])?;
    let mut size = 0;
    for (mode, why) in [
        ("refused", "the authority refused it with status 2: the algorithm is not supported"),
        ("other-data", "it is over other data"),
        ("other-nonce", "it answers another request"),
        ("garbage", "it is not an answer in the form of RFC 3161"),
        ("huge", "it answered more than 65536 bytes"),
        ("broken", "it answered 503"),
        ("silent", "no answer in time"),
    ] {
        tsa.answers("granted")?;
        size = stamped_beyond(&plane, size)?["size"].as_u64().context("size")?;
        let before = plane.log().matches(why).count();
        tsa.answers(mode)?;
        until(&plane, why, || Ok((plane.log().matches(why).count() > before).then_some(())))?;
        plane.ok(["tenant", "create", mode, "--reason", "all goes on"])?;
        size = size.max(plane.json(["evidence", "status"])?["timestamp"]["size"].as_u64().unwrap_or(0));
    }
    tsa.answers("granted")?;
    stamped_beyond(&plane, size)?;
    finding(&plane, "timestamp_overdue")?;
    let (good, bad) = kept(&plane, &tsa.dir)?;
    ensure!(good >= 8 && bad.is_empty(), "{good} {bad:?}");
    Ok(())
}

#[test]
fn a_clock_that_differs_from_the_authoritys_is_an_alarm() -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let tsa = Authority::start(&scratch.path().join("tsa"))?;
    // The authority is ahead, and its signature does not hold: that is not what a plane looks at, and openssl is.
    tsa.answers("shifted 3600")?;
    let plane = Plane::start_serving(EXE, &["--timestamp", &tsa.url, "--timestamp-every", "1"])?;
    let status = stamped_beyond(&plane, 0)?;
    let behind = |offset: &Value| offset.as_i64().is_some_and(|ms| (-3_601_000..-3_590_000).contains(&ms));
    ensure!(behind(&status["offset_ms"]), "{status}");
    let alarm = finding(&plane, "clock_offset")?;
    ensure!(alarm["body"]["detail"].as_str().is_some_and(|detail| detail.contains("ms behind")), "{alarm}");
    let anchor = until(&plane, "its record", || Ok(leaves(&plane, "time.anchor")?.into_iter().next()))?;
    ensure!(behind(&anchor["body"]["offset_ms"]), "{anchor}");
    let (_, bad) = kept(&plane, &tsa.dir)?;
    ensure!(!bad.is_empty(), "openssl must not believe a changed time");
    Ok(())
}

#[test]
fn a_site_without_a_network_is_stamped_by_file() -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let at = |name: &str| scratch.path().join(name);
    make(&at("tsa"))?;
    let plane = Plane::start(EXE)?;
    plane.ok(["tenant", "create", "retail", "--reason", "news for the log"])?;
    let (query, answer) = (at("plane.tsq"), at("plane.tsr"));
    until(&plane, "published plane log", || {
        Ok((plane.cli(["evidence", "timestamp", "request", &query.to_string_lossy()])?.code() == 0).then_some(()))
    })?;
    let reply = |query: &Path, answer: &Path| -> Result<()> {
        let tsa = at("tsa");
        let asked = ["reply".as_ref(), tsa.as_os_str(), query.as_os_str(), answer.as_os_str()];
        ensure!(script(&asked).status()?.success());
        Ok(())
    };
    reply(&query, &answer)?;
    ensure!(openssl_verifies(&at("tsa"), &answer, &at("plane.tsq.checkpoint"))?);
    // Somebody else's answer, over the same note: it is to no request of this plane.
    let mut foreign = Command::new("openssl");
    foreign
        .args(["ts", "-query", "-sha256", "-cert", "-data"])
        .arg(at("plane.tsq.checkpoint"))
        .arg("-out")
        .arg(at("foreign.tsq"));
    ensure!(foreign.output()?.status.success());
    reply(&at("foreign.tsq"), &at("foreign.tsr"))?;
    for file in [at("foreign.tsr"), query.clone(), at("plane.tsq.checkpoint")] {
        let refused = plane.cli(["evidence", "timestamp", "import", &file.to_string_lossy()])?;
        ensure!(refused.code() == 2, "{refused:?}");
    }
    ensure!(plane.json(["evidence", "status"])?["timestamp"].is_null());
    // A file that is there is not written over.
    ensure!(plane.cli(["evidence", "timestamp", "request", &query.to_string_lossy()])?.code() == 5);
    let status: Value = serde_json::from_str(&plane.ok([
        "evidence",
        "timestamp",
        "import",
        &answer.to_string_lossy(),
        "-o",
        "json",
    ])?)?;
    assert_eq!(status["timestamp"]["offset_ms"], 0, "{status}");
    let anchor = until(&plane, "its record", || Ok(leaves(&plane, "time.anchor")?.into_iter().next()))?;
    assert_eq!((&anchor["body"]["authority"], anchor["body"]["operator"].is_string()), (&"file".into(), true));
    let again = plane.cli(["evidence", "timestamp", "import", &answer.to_string_lossy()])?;
    ensure!(again.code() == 2, "{again:?}");
    let said = plane.ok(["evidence", "status"])?;
    ensure!(said.contains("TIME STAMP") && said.contains("ago"), "{said}");
    Ok(())
}

#[test]
fn a_request_does_not_cross_a_network_in_clear() -> Result<()> {
    let mut plane = Plane::start(EXE)?;
    plane.stop()?;
    let serve = ["serve", "--listen", "127.0.0.1:0", "--timestamp", "http://192.0.2.1/tsr"];
    let refused = plane.cli(serve)?;
    ensure!(refused.code() == 1 && refused.stderr.contains("begins with https://"), "{refused:?}");
    Ok(())
}

#[test]
fn a_new_key_of_the_plane_log_is_stamped_at_once_so_packs_have_a_time_stamp_again() -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let tsa = Authority::start(&scratch.path().join("tsa"))?;
    // No second time stamp is due for an hour.
    let plane = Plane::start_serving(EXE, &["--timestamp", &tsa.url, "--timestamp-every", "3600"])?;
    let first = stamped_beyond(&plane, 0)?["size"].as_u64().context("size")?;
    let bob = plane.ok(["operator", "add", "bob", "--reason", "the second person"])?.trim().to_owned();
    plane.ok(["evidence", "keys", "rotate", "--plane-log", "--reason", "every year"])?;
    let keys = plane.json(["evidence", "keys", "list", "--plane-log"])?;
    let id = keys["request"]["id"].as_str().context("a request")?.to_owned();
    let confirm = ["evidence", "keys", "confirm", &id, "--plane-log", "--reason", "as agreed"];
    let confirmed = plane.command(confirm).env("COGWARD_TOKEN", &bob).output()?;
    ensure!(confirmed.status.success(), "{confirmed:?}");
    stamped_beyond(&plane, first)?;
    let pack = scratch.path().join("pack");
    plane.ok(["evidence", "export", &pack.to_string_lossy()])?;
    ensure!(verdicts(&plane, &pack)?.contains("says a time stamp authority"));
    Ok(())
}
