//! A whole plane for black-box tests: the real binary on a fresh data directory and a free port,
//! driven through its command line as a person would.

use std::{
    ffi::OsStr,
    fs,
    io::{BufRead, BufReader, Read, Write},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use tempfile::TempDir;

/// Longest wait for anything that must happen. A test that reaches it has failed.
const PATIENCE: Duration = Duration::from_secs(60);

/// What carries the profiles, in the home of a test's plane.
const SANDBOX_CONFIG: &str = "sandbox.yaml";

/// A running plane.
pub struct Plane {
    exe: PathBuf,
    home: TempDir,
    data: PathBuf,
    child: Option<Child>,
    options: Vec<String>,
    url: String,
    token: String,
    env: Vec<(String, String)>,
}

/// What a command printed and how it ended.
#[derive(Debug)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// Its data.
    pub stdout: String,
    /// Everything else that it said.
    pub stderr: String,
}

impl Output {
    /// The exit code; -1 for a signal.
    #[must_use]
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or(-1)
    }
}

impl Plane {
    /// Starts a plane on a fresh data directory.
    ///
    /// # Errors
    /// When it does not come up; the error holds what it printed.
    pub fn start(exe: impl AsRef<Path>) -> Result<Self> {
        let home = tempfile::Builder::new().prefix("cogward-test").tempdir()?;
        let data = home.path().join("data");
        Self::start_with(exe.as_ref(), home, data, &[], &[])
    }

    /// Starts a plane on a fresh data directory with more options of `serve`.
    ///
    /// # Errors
    /// When it does not come up; the error holds what it printed.
    pub fn start_serving(exe: impl AsRef<Path>, options: &[&str]) -> Result<Self> {
        Self::start_configured(exe, options, &[])
    }

    /// Starts a plane on a fresh data directory with more options of `serve` and variables of its own.
    ///
    /// # Errors
    /// When it does not come up; the error holds what it printed.
    pub fn start_configured(exe: impl AsRef<Path>, options: &[&str], env: &[(&str, &str)]) -> Result<Self> {
        let home = tempfile::Builder::new().prefix("cogward-test").tempdir()?;
        let data = home.path().join("data");
        Self::start_with(exe.as_ref(), home, data, options, env)
    }

    /// Starts a plane on a data directory that the test chose, for its disk.
    ///
    /// # Errors
    /// When it does not come up; the error holds what it printed.
    pub fn start_in(exe: impl AsRef<Path>, data: &Path) -> Result<Self> {
        let home = tempfile::Builder::new().prefix("cogward-test").tempdir()?;
        Self::start_with(exe.as_ref(), home, data.to_owned(), &[], &[])
    }

    /// Starts a plane on a fresh data directory, with what carries the profiles that the native driver does not.
    ///
    /// # Errors
    /// When it does not come up; the error holds what it printed.
    pub fn start_carrying(exe: impl AsRef<Path>, sandbox_config: &str) -> Result<Self> {
        let home = tempfile::Builder::new().prefix("cogward-test").tempdir()?;
        fs::write(home.path().join(SANDBOX_CONFIG), sandbox_config)?;
        let data = home.path().join("data");
        Self::start_with(exe.as_ref(), home, data, &[], &[])
    }

    /// The variable that names the sandbox configuration, where there is one.
    fn sandbox_config(&self) -> Option<(&'static str, PathBuf)> {
        let path = self.home.path().join(SANDBOX_CONFIG);
        path.exists().then_some(("COGWARD_SANDBOX_CONFIG", path))
    }

    fn start_with(exe: &Path, home: TempDir, data: PathBuf, options: &[&str], env: &[(&str, &str)]) -> Result<Self> {
        let options = options.iter().map(|option| (*option).to_owned()).collect();
        let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let (url, token) = (String::new(), String::new());
        let mut plane = Self { exe: exe.into(), home, data, child: None, options, env, url, token };
        plane.up()?;
        ensure!(!plane.token.is_empty(), "the first start printed no operator credential");
        Ok(plane)
    }

    /// The data directory.
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        self.data.clone()
    }

    /// The verifier that is built beside the binary.
    #[must_use]
    pub fn verifier(&self) -> PathBuf {
        self.exe.with_file_name("cogward-verify")
    }

    /// A directory for the test's own files.
    #[must_use]
    pub fn scratch(&self) -> &Path {
        self.home.path()
    }

    /// The address of the API.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The operator credential.
    #[must_use]
    pub fn token(&self) -> &str {
        &self.token
    }

    /// The process id of the plane.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Starts the plane again on its data directory.
    ///
    /// # Errors
    /// When it does not come up; the error holds what it printed.
    pub fn up(&mut self) -> Result<()> {
        ensure!(self.child.is_none(), "the plane is running");
        let log = fs::OpenOptions::new().create(true).append(true).open(self.home.path().join("plane.log"))?;
        let mut child = Command::new(&self.exe)
            .args(["serve", "--listen", "127.0.0.1:0", "--data-dir"])
            .arg(self.data_dir())
            .args(&self.options)
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .env_remove("COGWARD_URL")
            .env_remove("COGWARD_TOKEN")
            .env_remove("COGWARD_SANDBOX_CONFIG")
            .envs(self.sandbox_config())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .context("starting the plane")?;
        let stdout = child.stdout.take().context("the plane's output")?;
        let (lines, heard) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if lines.send(line).is_err() {
                    // The test needs no more of it; reading on keeps the plane from blocking.
                }
            }
        });
        self.child = Some(child);
        let until = Instant::now() + PATIENCE;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let line = heard.recv_timeout(left).map_err(|_| anyhow!("the plane did not come up:\n{}", self.log()))?;
            if let Some(at) = line.find("cwo_") {
                self.token = line[at..].split_whitespace().next().unwrap_or_default().to_owned();
            }
            if let Some(at) = line.find("http://127.0.0.1:") {
                self.url = line[at..].split_whitespace().next().unwrap_or_default().trim_end_matches('/').to_owned();
                return Ok(());
            }
        }
    }

    /// The options of `serve` from the next start on.
    pub fn serve_with(&mut self, options: &[&str]) {
        self.options = options.iter().map(|option| (*option).to_owned()).collect();
    }

    /// What the plane said on its standard error.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.home.path().join("plane.log")).unwrap_or_default()
    }

    /// SIGKILL, as a power cut would.
    ///
    /// # Errors
    /// When the process cannot be signalled.
    pub fn kill_9(&mut self) -> Result<()> {
        let mut child = self.child.take().context("the plane is not running")?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// SIGTERM, and waits for the drain.
    ///
    /// # Errors
    /// When it does not end.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        let mut child = self.child.take().context("the plane is not running")?;
        kill(Pid::from_raw(i32::try_from(child.id())?), Signal::SIGTERM)?;
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            if let Some(status) = child.try_wait()? {
                return Ok(status);
            }
            thread::park_timeout(Duration::from_millis(10));
        }
        child.kill()?;
        bail!("the plane did not drain within {PATIENCE:?}:\n{}", self.log())
    }

    /// The command line with the plane's address and credential in its environment.
    pub fn command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(&self.exe);
        command
            .args(args)
            .env("COGWARD_URL", &self.url)
            .env("COGWARD_TOKEN", &self.token)
            .env("HOME", self.home.path())
            .env("NO_COLOR", "1");
        command
    }

    /// Runs a command to its end.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn cli<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Result<Output> {
        self.cli_with_input(args, "")
    }

    /// Runs a command to its end with something on its standard input.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn cli_with_input<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>, input: &str) -> Result<Output> {
        let mut child = self
            .command(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("starting the command")?;
        if let Some(mut stdin) = child.stdin.take() {
            // A command that does not read its input closes the pipe: that is its right.
            drop(stdin.write_all(input.as_bytes()));
        }
        let done = child.wait_with_output()?;
        Ok(Output {
            status: done.status,
            stdout: String::from_utf8_lossy(&done.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&done.stderr).into_owned(),
        })
    }

    /// Runs a command that must succeed, and gives its standard output.
    ///
    /// # Errors
    /// When it does not; the error holds all that it and the plane said.
    pub fn ok<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Result<String> {
        let args: Vec<_> = args.into_iter().map(|a| a.as_ref().to_owned()).collect();
        let output = self.cli(&args)?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        bail!("{args:?} ended with {}:\n{}{}\nplane:\n{}", output.code(), output.stdout, output.stderr, self.log())
    }

    /// Runs a command that must succeed with `-o json`, and gives its JSON.
    ///
    /// # Errors
    /// When it does not succeed or prints something else.
    pub fn json<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Result<Value> {
        let mut args: Vec<_> = args.into_iter().map(|a| a.as_ref().to_owned()).collect();
        args.extend(["-o".into(), "json".into()]);
        let text = self.ok(&args)?;
        serde_json::from_str(&text).with_context(|| format!("{args:?} printed {text}"))
    }

    /// The run as the API shows it.
    ///
    /// # Errors
    /// When there is no such run.
    pub fn run(&self, id: &str) -> Result<Value> {
        self.json(["run", "show", id])
    }

    /// Waits until `is` holds for a run; the runs of a test change by what it does, not by time.
    ///
    /// # Errors
    /// When it does not come to hold; the error holds the run and its output.
    pub fn run_until(&self, id: &str, is: impl Fn(&Value) -> bool) -> Result<Value> {
        let until = Instant::now() + PATIENCE;
        loop {
            let run = self.run(id)?;
            if is(&run) {
                return Ok(run);
            }
            if Instant::now() > until {
                let (out, err) = (self.logs(id, "stdout"), self.logs(id, "stderr"));
                bail!("waited in vain for {id}: {run:#}\nstdout: {out}\nstderr: {err}\nplane: {}", self.log());
            }
            thread::park_timeout(Duration::from_millis(30));
        }
    }

    /// What a run has written so far.
    #[must_use]
    pub fn logs(&self, id: &str, stream: &str) -> String {
        self.cli(["run", "logs", id, "--stream", stream]).map(|o| o.stdout).unwrap_or_default()
    }

    /// Waits until a run has written `text` to its standard output.
    ///
    /// # Errors
    /// When it does not.
    pub fn said(&self, id: &str, text: &str) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        while !self.logs(id, "stdout").contains(text) {
            if Instant::now() > until {
                let (out, err) = (self.logs(id, "stdout"), self.logs(id, "stderr"));
                bail!("{id} never said {text:?}\nstdout: {out}\nstderr: {err}\nplane: {}", self.log());
            }
            thread::park_timeout(Duration::from_millis(30));
        }
        Ok(())
    }

    /// A request to the API as any program would make it: method, path, body; status and body back.
    ///
    /// # Errors
    /// When the plane cannot be reached.
    pub fn http(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Result<(u16, String)> {
        let address = self.url.trim_start_matches("http://");
        let mut stream = std::net::TcpStream::connect(address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut head = format!("{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n");
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str(&format!("content-length: {}\r\n\r\n", body.len()));
        stream.write_all(head.as_bytes())?;
        stream.write_all(body)?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        let text = String::from_utf8_lossy(&answer).into_owned();
        let status = text.split(' ').nth(1).and_then(|s| s.parse().ok()).context("no status line")?;
        Ok((status, text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default()))
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        // Runs outlive the plane by design, so a test must end its own: kill them while the plane can.
        if self.child.is_some()
            && let Ok(output) = self.cli(["run", "list", "-o", "json"])
            && let Ok(list) = serde_json::from_str::<Value>(&output.stdout)
        {
            let items = list.as_array().or_else(|| list["items"].as_array()).cloned().unwrap_or_default();
            for run in items {
                let state = run["state"].as_str().unwrap_or_default();
                if let (Some(id), false) =
                    (run["id"].as_str(), ["succeeded", "failed", "cancelled", "killed"].contains(&state))
                {
                    drop(self.cli(["run", "kill", id, "--reason", "the test is over"]));
                }
            }
        }
        if let Some(mut child) = self.child.take() {
            drop(child.kill());
            drop(child.wait());
        }
        // What a failed test left: supervisors outlive their plane, and an agent dies with its supervisor.
        for pid in processes_of(&self.data) {
            let _gone = kill(pid, Signal::SIGKILL);
        }
    }
}

/// The processes that name a data directory in their command line.
fn processes_of(data: &Path) -> Vec<Pid> {
    let Some(data) = data.to_str() else { return Vec::new() };
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid: &i32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains(data)
        })
        .map(Pid::from_raw)
        .collect()
}

/// A small agent for a test: a Python program and what its manifest grants.
pub struct Agent<'a> {
    /// Its name.
    pub name: &'a str,
    /// `agent.py`.
    pub source: &'a str,
    /// YAML under `spec.permissions`, indented by four spaces; empty for nothing.
    pub permissions: &'a str,
    /// Lines replaced in the manifest: (old, new).
    pub changes: &'a [(&'a str, &'a str)],
}

const MANIFEST: &str = "\
apiVersion: cogward.dev/v1alpha1
kind: Agent
metadata:
  name: NAME
  tenant: default
  version: \"1\"
  owner: tests
  sponsor: ada@example.com
  costCentre: t1
spec:
  goal: Be tested.
  autonomy: autonomous
  tier: development
  package:
    directory: code
    entrypoint: [python3, -u, agent.py]
  permissions:
PERMISSIONS
  sandbox:
    resources: {cpuMillis: 1000, memoryMib: 128, pids: 32, workspaceMib: 8, openFiles: 128}
    graceSeconds: 2
  budgets:
    run: {tokens: 100000, costUsd: \"1.00\", toolCalls: 1000, wallClockSeconds: 120}
";

/// The permissions to use the scripted model of [`Plane::add_scripted`].
pub const MAY_ASK: &str = "    models:\n      - {provider: scripted, name: demo-model, maxOutputTokens: 100}\n";

impl Plane {
    /// Writes an agent into the scratch directory, and gives its manifest.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_agent(&self, agent: &Agent<'_>) -> Result<PathBuf> {
        let dir = self.scratch().join(agent.name);
        fs::create_dir_all(dir.join("code"))?;
        fs::write(dir.join("code/agent.py"), agent.source)?;
        let permissions = if agent.permissions.is_empty() { "    {}" } else { agent.permissions.trim_end() };
        let mut text = MANIFEST.replace("NAME", agent.name).replace("PERMISSIONS", permissions);
        for (old, new) in agent.changes {
            ensure!(text.contains(old), "the manifest has no {old:?}");
            text = text.replace(old, new);
        }
        let manifest = dir.join("agent.yaml");
        fs::write(&manifest, text)?;
        Ok(manifest)
    }

    /// Registers an agent that must be accepted.
    ///
    /// # Errors
    /// When it is not.
    pub fn register(&self, agent: &Agent<'_>) -> Result<()> {
        let manifest = self.write_agent(agent)?;
        self.ok([OsStr::new("agent"), OsStr::new("register"), OsStr::new("-f"), manifest.as_os_str()]).map(drop)
    }

    /// Starts a run and gives its id.
    ///
    /// # Errors
    /// When it is refused.
    pub fn start_run(&self, agent: &str) -> Result<String> {
        let run = self.json(["run", "start", agent, "--reason", "test"])?;
        Ok(run["id"].as_str().context("the run has an id")?.to_owned())
    }

    /// Registers an agent and starts it.
    ///
    /// # Errors
    /// When it is refused.
    pub fn launch(&self, agent: &Agent<'_>) -> Result<String> {
        self.register(agent)?;
        self.start_run(agent.name)
    }

    /// Adds the scripted provider with a script.
    ///
    /// # Errors
    /// When it is refused.
    pub fn add_scripted(&self, script: &str) -> Result<()> {
        let file = self.scratch().join("script.json");
        fs::write(&file, script)?;
        self.ok([
            "provider",
            "add",
            "scripted",
            "--script",
            &file.to_string_lossy(),
            "--price",
            "demo-model=0.15,0.60",
            "--reason",
            "test",
        ])
        .map(drop)
    }

    /// Adds a stdio tool server, and approves the tools that it offers. What its command names of the host it sees,
    /// with the packages of a program.
    ///
    /// # Errors
    /// When it is refused.
    pub fn add_stdio(&self, name: &str, command: &[&str]) -> Result<()> {
        let mut args = vec!["tool-server", "add", name, "--approve-tools", "--reason", "test"];
        // Without `..`: a mount is at the place that its path says.
        let plain = |part: &&str| match Path::new(part) {
            path if path.is_absolute() && !path.starts_with("/usr") => {
                path.canonicalize().ok().and_then(|path| Some(path.to_str()?.to_owned())).unwrap_or((*part).to_owned())
            }
            _ => (*part).to_owned(),
        };
        let command: Vec<String> = command.iter().map(plain).collect();
        let named = command.iter().map(Path::new).filter(|path| path.is_absolute() && path.exists());
        for path in named.filter(|path| !path.starts_with("/usr")) {
            let packages = path.ancestors().find(|above| above.ends_with("node_modules"));
            args.extend(["--mount", packages.unwrap_or(path).to_str().context("a path of text")?]);
        }
        args.extend(["--stdio", "--"]);
        args.extend(command.iter().map(String::as_str));
        self.ok(args).map(drop)
    }

    /// What a run gave as its result, as JSON, once it has ended.
    ///
    /// # Errors
    /// When it gave none; the error holds the run and what it wrote.
    pub fn output(&self, run: &str) -> Result<Value> {
        let ended = self.run_until(run, |r| r["ended"].is_string())?;
        let said = || format!("{ended:#}\n{}\n{}", self.logs(run, "stdout"), self.logs(run, "stderr"));
        let text = ended["output"].as_str().with_context(said)?;
        serde_json::from_str(text).with_context(said)
    }

    /// The evidence of a run: the bodies of its leaves.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn leaves(&self, run: &str) -> Result<Vec<Value>> {
        let shown = self.json(["evidence", "show", "--run", run])?;
        let items = shown.as_array().or_else(|| shown["items"].as_array()).cloned();
        Ok(items.context("a list of leaves")?.into_iter().map(|leaf| leaf["body"].clone()).collect())
    }
}

/// How many leaves have this type and, where given, this decision.
#[must_use]
pub fn count(leaves: &[Value], kind: &str, decision: Option<&str>) -> usize {
    leaves.iter().filter(|l| l["type"] == kind && decision.is_none_or(|d| l["decision"] == d)).count()
}
