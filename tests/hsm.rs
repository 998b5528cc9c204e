//! Keys of logs in a PKCS#11 token: on the real binary with SoftHSM2, both verifiers and the tools of another project.

use std::{
    fs,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    process::{Command, Output},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use cogward_testkit::Plane;
use serde_json::Value;
use tempfile::TempDir;

const EXE: &str = env!("CARGO_BIN_EXE_cogward");
const PIN: &str = "8d1f47Zq";
const MODULES: [&str; 4] = [
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib64/pkcs11/libsofthsm2.so",
    "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so",
];
/// Longest wait for a token that comes back: the plane gives it rest in between.
const PATIENCE: Duration = Duration::from_secs(90);

/// Tokens of a test's own.
struct Tokens {
    home: TempDir,
    module: &'static str,
}

impl Tokens {
    fn make(labels: &[&str]) -> Result<Self> {
        let module = MODULES.into_iter().find(|path| Path::new(path).exists());
        let module = module.context("SoftHSM2 is missing: run scripts/setup-tests.sh")?;
        let tokens = Self { home: tempfile::tempdir()?, module };
        fs::create_dir(tokens.dir())?;
        let conf = format!("directories.tokendir = {}\nlog.level = ERROR\n", tokens.dir().display());
        fs::write(tokens.conf(), conf)?;
        tokens.pin(PIN)?;
        for label in labels {
            let args = ["--init-token", "--free", "--so-pin", "00471147", "--pin", PIN, "--label", label];
            let made = Command::new("softhsm2-util").args(args).env("SOFTHSM2_CONF", tokens.conf()).output()?;
            ensure!(made.status.success(), "{made:?}");
        }
        Ok(tokens)
    }

    fn dir(&self) -> PathBuf {
        self.home.path().join("tokens")
    }

    fn conf(&self) -> PathBuf {
        self.home.path().join("softhsm2.conf")
    }

    fn pin_file(&self) -> PathBuf {
        self.home.path().join("pin")
    }

    fn pin(&self, pin: &str) -> Result<()> {
        let beside = self.home.path().join("pin.new");
        let mut options = fs::OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
        std::io::Write::write_all(&mut file, format!("{pin}\n").as_bytes())?;
        Ok(fs::rename(beside, self.pin_file())?)
    }

    fn uri(&self, label: &str) -> String {
        format!("pkcs11:token={label}?module-path={}&pin-source=file:{}", self.module, self.pin_file().display())
    }

    /// What somebody else's tool says, with the right PIN.
    fn tool(&self, label: &str, args: &[&str]) -> Result<Output> {
        let mut command = Command::new("pkcs11-tool");
        command.args(["--module", self.module, "--token-label", label, "--login", "--pin", PIN]);
        Ok(command.args(args).env("SOFTHSM2_CONF", self.conf()).output()?)
    }

    /// The labels of the private keys, with what the token says of each.
    fn private_keys(&self, label: &str) -> Result<Vec<(String, String)>> {
        let said = self.tool(label, &["--list-objects", "--type", "privkey"])?;
        ensure!(said.status.success(), "{said:?}");
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        let objects = said.split("Private Key Object").skip(1);
        let value = |object: &str, name: &str| {
            let line = object.lines().find_map(|line| line.trim().strip_prefix(name).map(str::trim));
            line.unwrap_or_default().to_owned()
        };
        Ok(objects.map(|object| (value(object, "label:"), value(object, "Access:"))).collect())
    }

    fn plane(&self, options: &[&str]) -> Result<Office> {
        let conf = self.conf().to_string_lossy().into_owned();
        let plane = Plane::start_configured(EXE, options, &[("SOFTHSM2_CONF", &conf)])?;
        let bob = plane.ok(["operator", "add", "bob", "--reason", "the second person"])?;
        Ok(Office { plane, bob: bob.trim().to_owned() })
    }
}

struct Office {
    plane: Plane,
    /// The second operator.
    bob: String,
}

impl Office {
    fn keys(&self, of: &[&str]) -> Result<Value> {
        self.plane.json(["evidence", "keys", "list"].iter().chain(of))
    }

    /// Asked for by one, confirmed by the other; gives the present key's token.
    fn rotate(&self, overlap_days: &str, of: &[&str]) -> Result<Value> {
        let ask = ["evidence", "keys", "rotate", "--overlap-days", overlap_days, "--reason", "a token"];
        self.plane.ok(ask.iter().chain(of))?;
        let id = self.keys(of)?["request"]["id"].as_str().context("a request")?.to_owned();
        let confirm = ["evidence", "keys", "confirm", &id, "--reason", "as agreed"];
        let confirmed = self.plane.command(confirm.iter().chain(of)).env("COGWARD_TOKEN", &self.bob).output()?;
        ensure!(confirmed.status.success(), "{confirmed:?}\n{}", self.plane.log());
        Ok(self.keys(of)?["keys"][0]["token"].clone())
    }

    fn keep(&self, name: &str) -> Result<PathBuf> {
        let keys = self.keys(&[])?;
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

    /// Both verifiers must believe it.
    fn verified(&self, pack: &Path, more: &[&Path]) -> Result<()> {
        let python = std::env::var("COGWARD_TEST_PYTHON").unwrap_or_else(|_| "python3".into());
        let mut theirs = Command::new(python);
        theirs.arg("-B").arg(concat!(env!("CARGO_MANIFEST_DIR"), "/../../scripts/verify.py"));
        for mut command in [Command::new(self.plane.verifier()), theirs] {
            command.arg(pack);
            for (flag, path) in ["--key", "--against"].iter().zip(more) {
                command.arg(flag).arg(path);
            }
            let output = command.output()?;
            ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        }
        Ok(())
    }

    fn key_file(&self, name: &str) -> PathBuf {
        self.plane.data_dir().join("evidence/keys").join(name)
    }

    /// The next start must fail; gives what it said.
    fn refused(&mut self, options: &[&str]) -> Result<String> {
        self.plane.serve_with(options);
        let refused = self.plane.up().err().context("it must not start")?;
        self.plane.kill_9()?;
        // The log has what earlier starts said, too.
        let said = format!("{refused:#}");
        Ok(said.rsplit("\nerror: ").next().unwrap_or_default().to_owned())
    }

    fn up(&mut self, options: &[&str]) -> Result<()> {
        self.plane.serve_with(options);
        self.plane.up()
    }
}

/// Every file below a directory.
fn files(dir: &Path) -> Result<Vec<PathBuf>> {
    let (mut all, mut left) = (Vec::new(), vec![dir.to_owned()]);
    while let Some(dir) = left.pop() {
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            match entry.file_type()? {
                kind if kind.is_dir() => left.push(entry.path()),
                kind if kind.is_file() => all.push(entry.path()),
                _ => {}
            }
        }
    }
    Ok(all)
}

#[test]
fn keys_are_made_in_the_token_stay_there_and_sign_what_both_verifiers_believe() -> Result<()> {
    let tokens = Tokens::make(&["hsm"])?;
    let uri = tokens.uri("hsm");
    let mut office = tokens.plane(&["--log-keys", &uri])?;
    let key = office.keep("first.vkey")?;
    for of in [&[][..], &["--plane-log"]] {
        let token = office.keys(of)?["keys"][0]["token"].clone();
        ensure!(token.as_str().is_some_and(|token| token.starts_with("`hsm` (serial ")), "{token}");
    }
    let before = office.pack("before")?;
    office.verified(&before, &[&key])?;
    let doctor = office.plane.json(["doctor", "--remote"]);
    ensure!(format!("{doctor:?}").contains("log keys"), "{doctor:?}");
    // In the token, and by its own word never anywhere else.
    let keys = tokens.private_keys("hsm")?;
    assert_eq!(keys.len(), 2, "{keys:?}");
    for (label, access) in &keys {
        ensure!(label.starts_with("cogward.dev/ledger/"), "{label}");
        for word in ["sensitive", "never extractable", "local"] {
            ensure!(access.contains(word), "{access}");
        }
    }
    for name in ["default.sign", "plane.log.sign"] {
        ensure!(!office.key_file(name).exists(), "{name}");
    }
    // Killed and started again, it is the same key, and still one.
    office.plane.kill_9()?;
    office.plane.up()?;
    let after = office.pack("after")?;
    office.verified(&after, &[&key, &before.join("checkpoint")])?;
    // Another plane in the same token has keys of its own.
    let other = tokens.plane(&["--log-keys", &uri])?;
    ensure!(other.keep("first.vkey").and_then(|path| Ok(fs::read(path)?))? != fs::read(&key)?);
    let labels: std::collections::BTreeSet<_> =
        tokens.private_keys("hsm")?.into_iter().map(|(label, _)| label).collect();
    assert_eq!(labels.len(), 4, "{labels:?}");
    let more = office.pack("more")?;
    office.verified(&more, &[&key, &after.join("checkpoint")])?;
    // The PIN is in its own file and nowhere else.
    let pid = office.plane.pid().context("a plane")?;
    for path in ["cmdline", "environ"].map(|name| PathBuf::from(format!("/proc/{pid}/{name}"))) {
        ensure!(!String::from_utf8_lossy(&fs::read(&path)?).contains(PIN), "{}", path.display());
    }
    for path in files(office.plane.scratch())? {
        ensure!(!fs::read(&path)?.windows(PIN.len()).any(|part| part == PIN.as_bytes()), "{}", path.display());
    }
    Ok(())
}

#[test]
fn keys_move_from_files_into_a_token_to_another_one_and_back() -> Result<()> {
    let tokens = Tokens::make(&["old", "new"])?;
    let (old, new) = (tokens.uri("old"), tokens.uri("new"));
    let mut office = tokens.plane(&[])?;
    let (first, before) = (office.keep("first.vkey")?, office.pack("before")?);
    ensure!(office.key_file("default.sign").exists() && office.keys(&[])?["keys"][0]["token"].is_null());
    let mut last = before.join("checkpoint");
    let mut verified = |office: &Office, name: &str| -> Result<()> {
        let pack = office.pack(name)?;
        office.verified(&pack, &[&first, &last])?;
        last = pack.join("checkpoint");
        Ok(())
    };
    // Named, and nothing moves before two people say so.
    office.plane.stop()?;
    office.up(&["--log-keys", &old])?;
    ensure!(tokens.private_keys("old")?.is_empty());
    let token = office.rotate("0", &[])?;
    ensure!(token.as_str().is_some_and(|token| token.contains("`old`")), "{token}");
    ensure!(!office.key_file("default.sign").exists() && office.key_file("default.1.token").exists());
    verified(&office, "file to token")?;
    // To another one: both are there for as long as both sign.
    office.plane.kill_9()?;
    office.up(&["--log-keys", &new, "--log-keys", &old])?;
    let token = office.rotate("1", &[])?;
    ensure!(token.as_str().is_some_and(|token| token.contains("`new`")), "{token}");
    assert_eq!((tokens.private_keys("old")?.len(), tokens.private_keys("new")?.len()), (1, 1));
    verified(&office, "two tokens")?;
    // A plane that was killed when the old key's time was over and its seed was gone: the start destroys the object.
    office.plane.kill_9()?;
    let chain = office.key_file("default.chain");
    let mut record: Value = serde_json::from_slice(&fs::read(&chain)?)?;
    record["retire"]["at_us"] = 1.into();
    fs::write(&chain, record.to_string())?;
    fs::remove_file(office.key_file("default.1.mldsa"))?;
    let said = office.refused(&["--log-keys", &new])?;
    ensure!(said.contains("which was not named") && said.contains("`old`"), "{said}");
    ensure!(tokens.private_keys("old")?.len() == 1);
    office.up(&["--log-keys", &new, "--log-keys", &old])?;
    ensure!(tokens.private_keys("old")?.is_empty() && !office.key_file("default.1.token").exists());
    verified(&office, "token to token")?;
    // The old token may go now; then back into a file.
    office.plane.stop()?;
    office.up(&["--log-keys", &new, "--new-log-keys", "file"])?;
    ensure!(office.rotate("0", &[])?.is_null());
    ensure!(tokens.private_keys("new")?.is_empty() && office.key_file("default.3.sign").exists());
    verified(&office, "token to file")?;
    office.plane.stop()?;
    office.up(&[])?;
    verified(&office, "no token")?;
    assert_eq!(office.keys(&[])?["keys"].as_array().map(Vec::len), Some(4));
    Ok(())
}

#[test]
fn what_is_wrong_with_a_token_stops_the_start_and_no_key_is_made_instead() -> Result<()> {
    let tokens = Tokens::make(&["hsm", "empty"])?;
    let uri = tokens.uri("hsm");
    let mut office = tokens.plane(&["--log-keys", &uri])?;
    let key = office.keep("first.vkey")?;
    let before = office.pack("before")?;
    office.plane.stop()?;
    let made = fs::read_dir(office.key_file(""))?.count();
    let other = |from: &str, to: &str| uri.replace(from, to);
    for (options, wanted) in [
        (vec![], "is in the PKCS#11 token `hsm`"),
        (vec!["--log-keys".to_owned(), other(tokens.module, "/nowhere/p11.so")], "/nowhere/p11.so cannot be used"),
        (vec!["--log-keys".to_owned(), other(tokens.module, "/etc/passwd")], "/etc/passwd cannot be used"),
        (vec!["--log-keys".to_owned(), other("token=hsm", "token=gone")], "no token of"),
        (vec!["--log-keys".to_owned(), tokens.uri("empty")], "is not in the token"),
        (vec!["--log-keys".to_owned(), other("/pin", "/no-pin")], "the file with the PIN"),
        (vec!["--log-keys".to_owned(), format!("{uri}&pin-value={PIN}")], "a PIN does not belong here"),
        (vec!["--log-keys".to_owned(), other("pkcs11:", "p11:")], "does not begin with `pkcs11:`"),
    ] {
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        let said = office.refused(&options)?;
        ensure!(said.contains(wanted) && !said.contains(PIN), "{wanted}: {said}");
    }
    fs::set_permissions(tokens.pin_file(), fs::Permissions::from_mode(0o644))?;
    let said = office.refused(&["--log-keys", &uri])?;
    ensure!(said.contains("chmod 600"), "{said}");
    // A wrong PIN is tried once, however often the plane is started: not even when the token would take it by now.
    tokens.pin("wrong-47")?;
    let said = office.refused(&["--log-keys", &uri])?;
    ensure!(said.contains("did not take the PIN") && !said.contains("wrong-47"), "{said}");
    let changed = tokens.tool("hsm", &["--change-pin", "--new-pin", "wrong-47"])?;
    ensure!(changed.status.success(), "{changed:?}");
    for _ in 0..3 {
        let said = office.refused(&["--log-keys", &uri])?;
        ensure!(said.contains("it was refused before"), "{said}");
    }
    tokens.pin("wrong-47")?;
    office.up(&["--log-keys", &uri])?;
    let after = office.pack("after")?;
    office.verified(&after, &[&key, &before.join("checkpoint")])?;
    office.plane.stop()?;
    assert_eq!(fs::read_dir(office.key_file(""))?.count(), made, "no key, and no mark of a PIN that was refused");
    let back = Command::new("pkcs11-tool")
        .args(["--module", tokens.module, "--token-label", "hsm", "--login", "--pin", "wrong-47"])
        .args(["--change-pin", "--new-pin", PIN])
        .env("SOFTHSM2_CONF", tokens.conf())
        .output()?;
    ensure!(back.status.success(), "{back:?}");
    tokens.pin(PIN)?;
    // Somebody who has the PIN puts other keys under the names of ours: one that can be read out, and one that cannot.
    let keys = tokens.private_keys("hsm")?;
    assert_eq!(keys.len(), 2);
    let reference: Value = serde_json::from_slice(&fs::read(office.key_file("default.token"))?)?;
    let (id, label) = (reference["id"].as_str().context("an id")?, reference["object"].as_str().context("a label")?);
    for (more, wanted) in [(&["--extractable"][..], "not one that stays in the token"), (&[], "is not the one that")] {
        for kind in ["privkey", "pubkey"] {
            let gone = tokens.tool("hsm", &["--delete-object", "--type", kind, "--id", id])?;
            ensure!(gone.status.success(), "{gone:?}");
        }
        let said = office.refused(&["--log-keys", &uri])?;
        ensure!(said.contains("is not in the token") && tokens.private_keys("hsm")?.len() == 1, "{said}");
        let make = ["--keypairgen", "--key-type", "EC:edwards25519", "--id", id, "--label", label];
        let made = tokens.tool("hsm", &[&make, more].concat())?;
        ensure!(made.status.success(), "{made:?}");
        let said = office.refused(&["--log-keys", &uri])?;
        ensure!(said.contains(wanted), "{wanted}: {said}");
    }
    Ok(())
}

#[test]
fn a_token_that_goes_away_stops_no_event_and_what_waited_is_signed_when_it_is_back() -> Result<()> {
    let tokens = Tokens::make(&["hsm"])?;
    let uri = tokens.uri("hsm");
    let office = tokens.plane(&["--log-keys", &uri])?;
    let key = office.keep("first.vkey")?;
    let before = office.pack("before")?;
    let away = tokens.home.path().join("away");
    fs::rename(tokens.dir(), &away)?;
    office.plane.ok(["operator", "add", "carol", "--reason", "while the token is away"])?;
    let pack = office.plane.scratch().join("refused").to_string_lossy().into_owned();
    let refused = office.plane.cli(["evidence", "export", &pack])?;
    ensure!(refused.code() != 0 && refused.stderr.contains("cannot be signed now"), "{refused:?}");
    let status = office.plane.json(["evidence", "status"])?;
    ensure!(status["unsigned_seconds"].is_u64(), "{status}");
    let doctor = office.plane.cli(["doctor", "--remote"])?;
    ensure!((doctor.stdout.clone() + &doctor.stderr).contains("did not sign for"), "{doctor:?}");
    // No key is changed meanwhile either, and none is made elsewhere.
    let made = fs::read_dir(office.key_file(""))?.count();
    ensure!(office.rotate("0", &[]).is_err());
    let now = fs::read_dir(office.key_file(""))?.count();
    ensure!(now <= made + 1, "the request alone is kept: {made} {now}");
    fs::rename(&away, tokens.dir())?;
    let until = Instant::now() + PATIENCE;
    while !office.plane.json(["evidence", "status"])?["unsigned_seconds"].is_null() {
        if Instant::now() > until {
            bail!("it is not signed again:\n{}", office.plane.log());
        }
        std::thread::park_timeout(Duration::from_millis(200));
    }
    let after = office.pack("after")?;
    office.verified(&after, &[&key, &before.join("checkpoint")])
}
