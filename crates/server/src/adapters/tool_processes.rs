//! The processes of tool servers, in sandboxes of this host: a run's controls without a run.
//!
//! Each has a supervisor that ends with the plane's connection, so neither a removed server nor a plane that was killed
//! leaves one behind. What it may see, an operator has named; a path that is not named is not there.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use cogward_engine::ports::Missing;
use cogward_gateway::tool_process::{
    Pending, PlainProcesses, ProcessControl, SEARCH_PATH, ServerProcess, ServerProcesses, ServerProgram, StartError,
};
use cogward_journal::{Journal, JournalEvent, Severity};
use cogward_model::{
    Id, RunId, SystemClock, SystemEntropy,
    manifest::{Profile, Resources},
    upstream::{Confinement, ToolNetwork, ToolSandbox, ToolTransport},
    violation,
};
use cogward_sandbox::{
    DriverSettings, Exit, LaunchSpec, Root, Streams, Supervised, adopt,
    service::{self, HostMount, Network, Service},
    storage::Storage,
};
use tokio::net::unix::pipe;

/// Memory of a tool server unless its operator says otherwise, in MiB.
const MEMORY_MIB: u32 = 512;
/// Its processes and threads.
const PIDS: u32 = 128;
/// What it may write to `/work`, its home, in MiB.
const WORKSPACE_MIB: u32 = 64;
/// Files that one of its processes may have open.
const OPEN_FILES: u32 = 1_024;
/// Ranges of uids for tool servers: after those of runs, before those of attacks and probes.
const SLOTS: std::ops::Range<u32> = 30_000..31_000;

/// Starts them through `<exe> supervise`.
pub(crate) struct HostToolProcesses {
    exe: PathBuf,
    /// The plane's own directory, of which no program sees anything.
    data: PathBuf,
    directory: PathBuf,
    /// What the host lacks to confine them.
    missing: Vec<Missing>,
    journal: Journal,
    slots: Arc<Mutex<BTreeSet<u32>>>,
}

impl std::fmt::Debug for HostToolProcesses {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HostToolProcesses")
    }
}

impl HostToolProcesses {
    /// `missing` is what the host lacks for profile `standard`.
    pub(crate) fn new(exe: PathBuf, data: PathBuf, missing: Vec<Missing>, journal: Journal) -> Self {
        let directory = data.join("tools");
        Self { exe, data, directory, missing, journal, slots: Arc::default() }
    }

    /// Ends and removes what an earlier plane has left, which is nothing but files unless its supervisors died with it.
    pub(crate) async fn sweep(&self) {
        let entries = fs::read_dir(&self.directory).into_iter().flatten().flatten();
        for directory in entries.map(|entry| entry.path()) {
            if let Ok(cogward_sandbox::Adopted::Alive(run)) = adopt(&directory).await {
                let _ = run.kill().await;
                run.wait().await;
            }
            let _ = fs::remove_dir_all(&directory);
        }
    }

    fn refused(&self) -> StartError {
        let missing: Vec<String> = self.missing.iter().map(|m| format!("{}: {} ({})", m.what, m.why, m.fix)).collect();
        StartError::Refused(format!(
            "this host cannot confine it, for want of {}; with `sandbox: none` (`--sandbox none`) it would run as the \
             plane's own user, unconfined",
            missing.join("; ")
        ))
    }

    async fn confined(&self, program: &ServerProgram) -> Result<ServerProcess, StartError> {
        let failed = |error: &dyn std::fmt::Display| StartError::Failed(error.to_string());
        let service = service_of(&program.confinement);
        if let Some(path) = service.mounts.iter().map(|m| &m.path).find(|path| shows(path, &self.data)) {
            let why = format!("its mount `{}` would show it the plane's own data", path.display());
            return Err(StartError::Refused(why));
        }
        let slot = Slot::take(&self.slots).ok_or_else(|| failed(&"there are too many tool servers"))?;
        let run: RunId = Id::new(&SystemClock, &SystemEntropy);
        let run_dir = self.directory.join(run.to_string());
        let made = fs::DirBuilder::new().mode(0o700).recursive(true).create(&run_dir);
        made.map_err(|error| failed(&error))?;
        let spec = spec_of(program, service, run, run_dir.clone(), slot.number);
        let launched = cogward_sandbox::launch(&self.exe, &spec).await;
        let Launched { run, streams } = match launched {
            Ok(run) => Launched { streams: run.take_streams(), run },
            Err(error) => {
                let _ = fs::remove_dir_all(&run_dir);
                return Err(StartError::Failed(cogward_engine::ports::PortError::from_error(&error).0));
            }
        };
        self.report(&run, program);
        // From here on whatever fails ends it.
        let control = Box::new(Confined { run: run.clone(), run_dir, slot: Some(slot) });
        let Some(Streams { stdin, stdout, stderr }) = streams else {
            return Err(failed(&"its supervisor has no standard streams"));
        };
        let stdin = pipe::Sender::from_owned_fd(stdin).map_err(|error| failed(&error))?;
        let stdout = pipe::Receiver::from_owned_fd(stdout).map_err(|error| failed(&error))?;
        let stderr = pipe::Receiver::from_owned_fd(stderr).map_err(|error| failed(&error))?;
        let secret = program.credential.as_ref().map(|(name, secret)| (name.clone(), secret.expose().to_owned()));
        run.start_with(secret).await.map_err(|error| failed(&error))?;
        Ok(ServerProcess { stdin: Box::new(stdin), stdout: Box::new(stdout), stderr: Box::new(stderr), control })
    }

    /// What is refused to it is told, as of an agent.
    fn report(&self, run: &Supervised, program: &ServerProgram) {
        let Some(mut reports) = run.violations() else { return };
        let (journal, tenant, server) = (self.journal.clone(), program.tenant.clone(), program.server.clone());
        tokio::spawn(async move {
            while let Some(report) = reports.recv().await {
                let severity = match report.severity() {
                    violation::Severity::High => Severity::Error,
                    violation::Severity::Warning => Severity::Warning,
                    violation::Severity::Info => Severity::Info,
                };
                journal.publish(
                    JournalEvent::tenant("tool_server.violation", tenant.clone()).severity(severity).detail(
                        serde_json::json!({
                            "tool_server": server, "layer": report.layer, "action": report.action,
                            "object": report.object, "count": report.count, "total": report.total,
                        }),
                    ),
                );
            }
        });
    }
}

struct Launched {
    run: Supervised,
    streams: Option<Streams>,
}

impl ServerProcesses for HostToolProcesses {
    fn start<'a>(&'a self, program: &'a ServerProgram) -> Pending<'a, Result<ServerProcess, StartError>> {
        Box::pin(async move {
            match program.confinement.sandbox {
                ToolSandbox::None => PlainProcesses.start(program).await,
                ToolSandbox::Standard if !self.missing.is_empty() => Err(self.refused()),
                ToolSandbox::Standard => self.confined(program).await,
            }
        })
    }
}

fn service_of(confinement: &Confinement) -> Service {
    let network = match confinement.network {
        ToolNetwork::None => Network::None,
        ToolNetwork::Host => Network::Host,
    };
    let mounts =
        confinement.mounts.iter().map(|mount| HostMount { path: (&mount.path).into(), writable: mount.writable });
    Service { network, mounts: mounts.collect() }
}

fn spec_of(program: &ServerProgram, service: Service, run: RunId, run_dir: PathBuf, uid_slot: u32) -> LaunchSpec {
    let own = [("PATH", SEARCH_PATH), ("LANG", "C.UTF-8"), ("HOME", "/work"), ("TMPDIR", "/tmp")];
    let own = own.iter().filter(|(name, _)| !program.env.contains_key(*name));
    let own = own.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    LaunchSpec {
        run,
        run_dir,
        profile: Profile::Standard,
        driver: DriverSettings::Native,
        resources: Resources {
            memory_mib: program.confinement.memory_mib.unwrap_or(MEMORY_MIB),
            pids: PIDS,
            workspace_mib: WORKSPACE_MIB,
            open_files: OPEN_FILES,
            ..Resources::default()
        },
        root: Root::HostUsr,
        mounts: Vec::new(),
        package_image: None,
        argv: std::iter::once(&program.command).chain(&program.args).cloned().collect(),
        env: own.chain(program.env.clone()).collect(),
        cwd: "/".to_owned(),
        files: Vec::new(),
        stdin: Vec::new(),
        late_input: false,
        uid_slot,
        grace: Duration::from_secs(1),
        storage: Storage::default(),
        // As long as the plane.
        wall_clock: Duration::MAX,
        service: Some(service),
    }
}

/// Whether a path is in a directory, or it is in the path, whatever links lead there.
fn shows(path: &Path, directory: &Path) -> bool {
    let real = path.canonicalize();
    let real = real.as_deref().unwrap_or(path);
    real.starts_with(directory) || directory.starts_with(real)
}

/// A range of uids that no other tool server has.
struct Slot {
    number: u32,
    taken: Arc<Mutex<BTreeSet<u32>>>,
}

impl Slot {
    fn take(taken: &Arc<Mutex<BTreeSet<u32>>>) -> Option<Self> {
        let mut numbers = taken.lock().unwrap_or_else(PoisonError::into_inner);
        let number = SLOTS.into_iter().find(|number| !numbers.contains(number))?;
        numbers.insert(number);
        Some(Self { number, taken: Arc::clone(taken) })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.number);
    }
}

/// One that runs. Dropped, it is killed; and when there is nobody left to do that, its supervisor does.
struct Confined {
    run: Supervised,
    run_dir: PathBuf,
    slot: Option<Slot>,
}

impl ProcessControl for Confined {
    fn ended(&mut self) -> Pending<'_, String> {
        Box::pin(async move { told(&self.run.wait().await) })
    }

    fn kill(&mut self) -> Pending<'_, String> {
        Box::pin(async move {
            // That it has ended already is what was asked for.
            let _ = self.run.kill().await;
            told(&self.run.wait().await)
        })
    }
}

impl Drop for Confined {
    fn drop(&mut self) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let (run, run_dir, slot) = (self.run.clone(), std::mem::take(&mut self.run_dir), self.slot.take());
        runtime.spawn(async move {
            let _ = run.kill().await;
            let exit = run.wait().await;
            if !exit.empty {
                // Its uids stay taken: a process may have them.
                std::mem::forget(slot);
                tracing::error!(directory = %run_dir.display(), "a tool server could not be killed whole");
                return;
            }
            let _ = fs::remove_dir_all(&run_dir);
        });
    }
}

fn told(exit: &Exit) -> String {
    let how = match (exit.code, exit.signal) {
        (Some(code), _) => format!("exit status: {code}"),
        (None, Some(signal)) => format!("signal: {signal}"),
        (None, None) => "without a status".to_owned(),
    };
    let cause = match exit.cause {
        cogward_sandbox::ExitCause::OutOfMemory => "; its memory limit was reached",
        cogward_sandbox::ExitCause::NotExecutable => "; its program cannot be executed",
        cogward_sandbox::ExitCause::SupervisorLost => "; its supervisor is gone",
        _ => "",
    };
    let detail = exit.detail.as_ref().map(|detail| format!(": {detail}")).unwrap_or_default();
    format!("{how}{cause}{detail}")
}

/// The first path that a program is told of, and that is there, and that it would not find. Nothing is shown to it
/// because it is named in an argument: the operator says so.
pub(crate) fn unseen(transport: &ToolTransport) -> Option<String> {
    let ToolTransport::Stdio { command, args, env, .. } = transport else { return None };
    let confinement = transport.confinement();
    if confinement.sandbox == ToolSandbox::None {
        return None;
    }
    let seen = |path: &Path| {
        service::is_shown_anyway(path) || confinement.mounts.iter().any(|mount| path.starts_with(&mount.path))
    };
    let told = args.iter().chain(env.values()).flat_map(|text| {
        let value = text.split_once('=').map(|(_, value)| value.to_owned());
        std::iter::once(text.clone()).chain(value)
    });
    for (text, what) in std::iter::once((command.clone(), "program")).chain(told.map(|text| (text, "path"))) {
        let path = Path::new(&text);
        let there = path.is_absolute() && path.exists() && !seen(path);
        // A program of an environment is not without it.
        let (suggested, more) = match path.is_dir() {
            _ if !there => continue,
            true => (path, ""),
            false => (around(path), " (or the directory that holds all that it needs)"),
        };
        let flag = suggested.display();
        return Some(format!(
            "the {what} `{text}` is not in its sandbox: add `--mount {flag}`{more}, or `--mount-writable {flag}` if it may \
             write there"
        ));
    }
    None
}

/// The directory that a file most likely needs: that of its packages, of its environment, or its own.
fn around(file: &Path) -> &Path {
    let named = |name: &str| file.ancestors().find(|path| path.file_name().is_some_and(|found| found == name));
    let own = file.parent().unwrap_or(file);
    named("node_modules").or_else(|| named("bin").and_then(Path::parent)).unwrap_or(own)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stdio(text: serde_json::Value) -> ToolTransport {
        let mut transport = serde_json::json!({ "kind": "stdio", "command": "/usr/bin/python3" });
        transport.as_object_mut().unwrap().extend(text.as_object().unwrap().clone());
        serde_json::from_value(transport).unwrap()
    }

    #[test]
    fn a_path_that_is_not_shown_is_named_with_the_flag_that_shows_it() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).to_string_lossy().into_owned();
        for name in ["app/node_modules/server", "venv/bin", "data"] {
            fs::create_dir_all(at(name)).unwrap();
        }
        for name in ["app/node_modules/server/index.js", "venv/bin/python", "data/rows.db"] {
            fs::write(at(name), "").unwrap();
        }
        for (text, wanted) in [
            (serde_json::json!({ "args": [at("data")] }), Some(at("data"))),
            (serde_json::json!({ "args": ["--db-path", at("data/rows.db")] }), Some(at("data"))),
            (serde_json::json!({ "args": [format!("--db={}", at("data/rows.db"))] }), Some(at("data"))),
            (serde_json::json!({ "env": { "DATA": at("data") } }), Some(at("data"))),
            (serde_json::json!({ "args": [at("app/node_modules/server/index.js")] }), Some(at("app/node_modules"))),
            (serde_json::json!({ "command": at("venv/bin/python") }), Some(at("venv"))),
            (serde_json::json!({ "args": [at("data")], "mounts": [{ "path": at("data") }] }), None),
            (
                serde_json::json!({ "args": [at("data/rows.db")], "mounts": [{ "path": at("data"), "writable": true }] }),
                None,
            ),
            (serde_json::json!({ "args": [at("data")], "sandbox": "none" }), None),
            (serde_json::json!({ "args": ["/usr/lib", "relative", "/nonexistent/x", "/", "-c"] }), None),
        ] {
            let found = unseen(&stdio(text.clone()));
            match wanted {
                Some(path) => {
                    assert!(found.as_ref().unwrap().contains(&format!("`--mount {path}`")), "{text}: {found:?}")
                }
                None => assert_eq!(found, None, "{text}"),
            }
        }
    }

    #[test]
    fn the_planes_own_data_is_shown_to_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("plane");
        fs::create_dir_all(data.join("keys")).unwrap();
        std::os::unix::fs::symlink(&data, dir.path().join("link")).unwrap();
        for path in [dir.path().to_owned(), data.clone(), data.join("keys"), dir.path().join("link"), "/".into()] {
            assert!(shows(&path, &data), "{}", path.display());
        }
        assert!(!shows(Path::new("/usr"), &data) && !shows(&dir.path().join("plane2"), &data));
    }

    #[test]
    fn no_two_have_the_same_uids() {
        let taken = Arc::default();
        let (one, two) = (Slot::take(&taken).unwrap(), Slot::take(&taken).unwrap());
        assert_ne!(one.number, two.number);
        let first = one.number;
        drop(one);
        assert_eq!(Slot::take(&taken).unwrap().number, first);
    }
}
