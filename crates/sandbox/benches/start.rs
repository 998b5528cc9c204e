//! What it costs to start and to end an agent: the same shell directly, under bubblewrap, and under profile
//! `standard` with its probes, control groups, filters and listeners, in turns and in one run.
//!
//! `cargo bench -p cogward-sandbox`. The executable is its own supervisor: `supervise <run_dir>` is the role, as
//! in the product. Launches are 60 ms apart, because a kernel that has just made namespaces makes them faster.

#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs, reason = "a measurement, not the product")]

use std::{
    fs,
    io::Read,
    path::Path,
    process::{Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use cogward_model::{
    Id, SystemClock, SystemEntropy,
    manifest::{Profile, Resources},
};
use cogward_sandbox::{DriverSettings, LaunchSpec, ReadOnlyMount, Root, launch};

const ROUNDS: u32 = 40;
const APART: Duration = Duration::from_millis(60);
/// How often the agent's log is looked at.
const LOOK: Duration = Duration::from_micros(50);
const AGENT: [&str; 3] = ["/bin/sh", "-c", "echo up; exec sleep 60"];
/// What bubblewrap can do of the profile: all namespaces, the same view of `/usr`, no network, no limits.
const BWRAP: [&str; 29] = [
    "--unshare-all",
    "--die-with-parent",
    "--new-session",
    "--cap-drop",
    "ALL",
    "--ro-bind",
    "/usr",
    "/usr",
    "--symlink",
    "usr/bin",
    "/bin",
    "--symlink",
    "usr/lib",
    "/lib",
    "--symlink",
    "usr/lib64",
    "/lib64",
    "--proc",
    "/proc",
    "--dev",
    "/dev",
    "--tmpfs",
    "/tmp",
    "--tmpfs",
    "/work",
    "--chdir",
    "/work",
    "--clearenv",
    "--",
];

/// What one launch took.
struct Launch {
    held: Duration,
    first_byte: Duration,
    kill: Duration,
    kill_seen: Duration,
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [role, dir] = args.as_slice()
        && role == "supervise"
    {
        return cogward_sandbox::supervisor_main(Path::new(dir));
    }
    let bwrap = Command::new("bwrap").args(BWRAP).arg("/bin/true").output().is_ok_and(|o| o.status.success());
    if !bwrap {
        println!("!! bubblewrap is not here or cannot make namespaces (apt-get install bubblewrap): not compared");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (mut plain, mut wrapped, mut ours) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        std::thread::sleep(APART);
        plain.push(spawned(Command::new(AGENT[0]).args(&AGENT[1..])));
        if bwrap {
            std::thread::sleep(APART);
            wrapped.push(spawned(Command::new("bwrap").args(BWRAP).args(AGENT)));
        }
        std::thread::sleep(APART);
        ours.push(runtime.block_on(sandboxed(round)));
    }
    println!("{:<44} {:>9} {:>9} {:>9}", format!("{ROUNDS} launches, 60 ms apart"), "p50 ms", "p99 ms", "x bwrap");
    let reference = (!wrapped.is_empty()).then(|| at(&mut wrapped.clone(), 50));
    row("agent's first byte, no sandbox", plain, reference);
    if bwrap {
        row("agent's first byte, bwrap", wrapped, reference);
    }
    let part = |f: fn(&Launch) -> Duration| ours.iter().map(f).collect::<Vec<_>>();
    row("agent's first byte, standard", part(|l| l.first_byte), reference);
    row("  launch until held, probes passed", part(|l| l.held), None);
    row("  start until first byte", part(|l| l.first_byte.saturating_sub(l.held)), None);
    row("kill, command to no process left", part(|l| l.kill), None);
    row("kill, as the plane sees it", part(|l| l.kill_seen), None);
    ExitCode::SUCCESS
}

fn row(what: &str, mut times: Vec<Duration>, reference: Option<Duration>) {
    let p50 = at(&mut times, 50);
    let ratio = reference.map_or(String::new(), |r| format!("{:.2}", p50.as_secs_f64() / r.as_secs_f64()));
    println!("{what:<44} {:>9.2} {:>9.2} {ratio:>9}", millis(p50), millis(at(&mut times, 99)));
}

fn at(times: &mut [Duration], percent: usize) -> Duration {
    times.sort_unstable();
    times.get(times.len() * percent / 100).copied().unwrap_or_default()
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// From the spawn of a command to its first byte.
fn spawned(command: &mut Command) -> Duration {
    let begin = Instant::now();
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdout.take().unwrap().read_exact(&mut [0]).unwrap();
    let took = begin.elapsed();
    child.kill().unwrap();
    child.wait().unwrap();
    took
}

async fn sandboxed(round: u32) -> Launch {
    let data = tempfile::tempdir().unwrap();
    let (run_dir, code) = (data.path().join("run"), data.path().join("code"));
    for dir in [&run_dir, &code] {
        fs::create_dir(dir).unwrap();
    }
    let log = run_dir.join("stdout.log");
    let spec = LaunchSpec {
        run: Id::new(&SystemClock, &SystemEntropy),
        run_dir,
        profile: Profile::Standard,
        driver: DriverSettings::Native,
        resources: Resources { memory_mib: 256, workspace_mib: 8, pids: 32, ..Resources::default() },
        root: Root::HostUsr,
        mounts: vec![ReadOnlyMount { source: code, at: "/app".into() }],
        argv: AGENT.map(str::to_owned).to_vec(),
        env: vec![("PATH".into(), "/usr/bin:/bin".into())],
        cwd: "/app".into(),
        files: Vec::new(),
        stdin: Vec::new(),
        late_input: false,
        uid_slot: (std::process::id() % 3_000) * 10 + round % 10,
        grace: Duration::from_millis(300),
        wall_clock: Duration::from_secs(600),
        storage: cogward_sandbox::storage::Storage::default(),
    };
    let begin = Instant::now();
    let run = launch(&std::env::current_exe().unwrap(), &spec).await.unwrap();
    let held = begin.elapsed();
    run.start().await.unwrap();
    while fs::metadata(&log).map_or(0, |file| file.len()) == 0 {
        assert!(begin.elapsed() < Duration::from_secs(20), "the agent said nothing");
        std::thread::sleep(LOOK);
    }
    let first_byte = begin.elapsed();
    let begin = Instant::now();
    let report = run.kill().await.unwrap();
    let kill_seen = begin.elapsed();
    assert!(report.empty);
    run.wait().await;
    Launch { held, first_byte, kill: Duration::from_micros(report.micros), kill_seen }
}
