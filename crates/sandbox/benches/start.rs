//! What it costs to start and to end an agent: the same shell directly, under bubblewrap, and under each profile with its
//! probes, control groups, filters and listeners, in turns and in one run; from a sandbox that was made before; and what
//! many idle ones hold.
//!
//! Profiles that another runtime carries are measured where that runtime is (runc, crun, runsc), through the same
//! supervisor. `cargo bench -p cogward-sandbox`. The executable is its own supervisor: `supervise <run_dir>` is the role,
//! as in the product. Launches are 60 ms apart, because a kernel that has just made namespaces makes them faster.

#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs, reason = "a measurement, not the product")]

use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use cogward_model::{
    Id, SystemClock, SystemEntropy,
    manifest::{Profile, Resources},
};
use cogward_sandbox::{DriverSettings, Images, LateInput, LaunchSpec, ReadOnlyMount, Root, RuntimeKind, launch};

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
#[derive(Clone, Copy)]
struct Launch {
    held: Duration,
    first_byte: Duration,
    kill: Duration,
    kill_seen: Duration,
}

/// How a launch is made.
#[derive(Clone)]
struct Kind {
    name: String,
    profile: Profile,
    driver: DriverSettings,
    /// Made before, and only given its input in time that counts.
    warm: bool,
}

fn kinds() -> Vec<Kind> {
    let native = |name: &str, profile, warm| Kind { name: name.into(), profile, driver: DriverSettings::Native, warm };
    let mut kinds = vec![
        native("standard", Profile::Standard, false),
        native("hardened", Profile::Hardened, false),
        native("standard, made before", Profile::Standard, true),
        native("hardened, made before", Profile::Hardened, true),
    ];
    for (program, kind, profile) in [
        ("crun", RuntimeKind::Crun, Profile::Container),
        ("runc", RuntimeKind::Runc, Profile::Container),
        ("runsc", RuntimeKind::Runsc, Profile::Gvisor),
    ] {
        match installed(program) {
            Some(runtime) => kinds.push(Kind {
                name: format!("{} by {program}", profile.as_str()),
                profile,
                driver: DriverSettings::Oci { runtime, kind, platform: None },
                warm: false,
            }),
            None => println!("!! {program} is not here (apt-get install {program}): not measured"),
        }
    }
    kinds
}

fn installed(program: &str) -> Option<PathBuf> {
    let places = ["/usr/bin", "/usr/sbin", "/usr/local/bin"];
    places.iter().map(|place| Path::new(place).join(program)).find(|path| path.is_file())
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
    // The second part alone: `cargo bench -p cogward-sandbox --bench start -- packages`.
    if args.iter().any(|arg| arg == "packages") {
        packages(&runtime);
        return ExitCode::SUCCESS;
    }
    let kinds = kinds();
    let (mut plain, mut wrapped, mut ours) = (Vec::new(), Vec::new(), vec![Vec::new(); kinds.len()]);
    for round in 0..ROUNDS {
        std::thread::sleep(APART);
        plain.push(spawned(Command::new(AGENT[0]).args(&AGENT[1..])));
        if bwrap {
            std::thread::sleep(APART);
            wrapped.push(spawned(Command::new("bwrap").args(BWRAP).args(AGENT)));
        }
        for (kind, took) in kinds.iter().zip(&mut ours) {
            std::thread::sleep(APART);
            took.push(runtime.block_on(sandboxed(kind, round)));
        }
    }
    println!("{:<44} {:>9} {:>9} {:>9}", format!("{ROUNDS} launches, 60 ms apart"), "p50 ms", "p99 ms", "x bwrap");
    let reference = (!wrapped.is_empty()).then(|| at(&mut wrapped.clone(), 50));
    row("agent's first byte, no sandbox", plain, reference);
    if bwrap {
        row("agent's first byte, bwrap", wrapped, reference);
    }
    for (kind, took) in kinds.iter().zip(&ours) {
        let part = |f: fn(&Launch) -> Duration| took.iter().map(f).collect::<Vec<_>>();
        row(&format!("agent's first byte, {}", kind.name), part(|l| l.first_byte), reference);
        if !kind.warm {
            row("  launch until held, probes passed", part(|l| l.held), None);
            row("  kill, as the plane sees it", part(|l| l.kill_seen), None);
        }
    }
    let standard = ours.first().map(|took| took.iter().map(|l| l.kill).collect::<Vec<_>>()).unwrap_or_default();
    row("kill in standard, command to none left", standard, None);
    runtime.block_on(density());
    packages(&runtime);
    ExitCode::SUCCESS
}

/// Starts of each package, in turns.
const PACKAGE_ROUNDS: u32 = 20;

/// What a start costs when the package comes from an image of its own and when it is a directory of the host, each with
/// what is read of it before every start; and what it costs to make the image.
fn packages(runtime: &tokio::runtime::Runtime) {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples");
    let scratch = tempfile::tempdir().unwrap();
    let large = scratch.path().join("large");
    let done = Command::new("/bin/sh")
        .args(["-c", "cp -rL $(/usr/bin/python3 -c 'import os; print(os.path.dirname(os.__file__))') \"$1\"", "sh"])
        .arg(&large)
        .stderr(Stdio::null())
        .status();
    // What a link leads to nowhere is left out; the rest is there.
    assert!(done.is_ok() && large.is_dir());
    println!("\n{PACKAGE_ROUNDS} launches until held, of each package in turns, 60 ms apart");
    println!("{:<44} {:>9} {:>9} {:>9}", "", "p50 ms", "p99 ms", "x dir");
    for (name, package) in [("examples/quickstart", examples.join("quickstart")), ("Python's library", large)] {
        let images = tempfile::tempdir().unwrap();
        let digest = cogward_model::Digest::from_bytes([1; 32]);
        let package = package.canonicalize().unwrap();
        let begin = Instant::now();
        let (entries, bytes) = read_all(&package);
        let read = begin.elapsed();
        let begin = Instant::now();
        let image = match Images::new(images.path().to_owned()).prepare(digest, &package, &|_| Ok(())) {
            Ok(image) => image,
            Err(error) => return println!("!! {name}: {error}: not measured"),
        };
        let built = begin.elapsed();
        let (mut directory, mut imaged) = (Vec::new(), Vec::new());
        for round in 0..PACKAGE_ROUNDS {
            for (times, image) in [(&mut directory, None), (&mut imaged, Some(&image))] {
                std::thread::sleep(APART);
                let slot = (std::process::id() % 400) * 10 + round % 10;
                let (_data, mut spec) = spec(Profile::Standard, DriverSettings::Native, slot);
                spec.mounts = vec![ReadOnlyMount { source: package.clone(), at: "/app".into() }];
                spec.package_image = image.cloned();
                let begin = Instant::now();
                if image.is_none() {
                    // As the plane does before every start from a directory; of an image the supervisor reads all.
                    read_all(&package);
                }
                let run = runtime.block_on(launch(&std::env::current_exe().unwrap(), &spec)).unwrap();
                times.push(begin.elapsed());
                assert_eq!(run.enforcement().package, if image.is_some() { "erofs" } else { "directory" });
                assert!(runtime.block_on(run.kill()).unwrap().empty);
                runtime.block_on(run.wait());
            }
        }
        let reference = at(&mut directory.clone(), 50);
        println!("{name}: {entries} entries, {} KiB; image {} KiB", bytes / 1024, image.bytes / 1024);
        row("  from a directory, read before", directory, Some(reference));
        row("  from its image, hashed and mounted", imaged, Some(reference));
        println!("{:<44} {:>9.2}", "  making the image, once", millis(built));
        println!("{:<44} {:>9.2}", "  reading the directory alone", millis(read));
    }
}

/// Reads every file below a directory through a hash. Answers with the entries and the bytes.
fn read_all(directory: &Path) -> (u64, u64) {
    let (mut entries, mut bytes) = (0, 0);
    for entry in fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        entries += 1;
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            let below = read_all(&entry.path());
            (entries, bytes) = (entries + below.0, bytes + below.1);
        } else if kind.is_file() {
            let content = fs::read(entry.path()).unwrap();
            bytes += content.len() as u64;
            std::hint::black_box(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &content));
        }
    }
    (entries, bytes)
}

/// Sandboxes that are there at once.
const MANY: u32 = 200;
/// Of them, made at a time.
const AT_A_TIME: usize = 8;

/// What many idle agents hold, each in a sandbox of its own: in its control groups, and in its supervisor.
async fn density() {
    let begin = Instant::now();
    let mut making = tokio::task::JoinSet::new();
    let mut runs = Vec::new();
    for slot in 0..MANY {
        if making.len() >= AT_A_TIME {
            runs.extend(making.join_next().await.map(Result::unwrap));
        }
        making.spawn(async move {
            let (data, spec) = spec(Profile::Standard, DriverSettings::Native, 5_000 + slot);
            let run = launch(&std::env::current_exe().unwrap(), &spec).await.unwrap();
            run.start().await.unwrap();
            (data, run)
        });
    }
    while let Some(made) = making.join_next().await {
        runs.push(made.unwrap());
    }
    let made = begin.elapsed();
    let (mut peaks, mut supervisors) = (Vec::new(), Vec::new());
    for (_, run) in &runs {
        peaks.push(run.usage().await.unwrap().memory_peak_bytes / 1024);
        supervisors.push(private_kib(run.supervisor()));
    }
    let begin = Instant::now();
    let mut ending = tokio::task::JoinSet::new();
    for (_, run) in &runs {
        let run = run.clone();
        ending.spawn(async move { run.kill().await.unwrap().empty });
    }
    while let Some(empty) = ending.join_next().await {
        assert!(empty.unwrap());
    }
    let ended = begin.elapsed();
    println!("\n{MANY} sandboxes of profile standard at once, an idle shell in each");
    println!("{:<44} {:>9.1} ms each", "made and started, 8 at a time", millis(made) / f64::from(MANY));
    println!("{:<44} {:>9.1} ms all", "killed, every group seen empty", millis(ended));
    println!("{:<44} {:>9} KiB p50", "memory of a run's groups, at its peak", middle(peaks));
    println!("{:<44} {:>9} KiB p50", "private memory of a run's supervisor", middle(supervisors));
}

fn middle(mut all: Vec<u64>) -> u64 {
    all.sort_unstable();
    all.get(all.len() / 2).copied().unwrap_or_default()
}

/// What a process holds that it shares with nobody, in KiB.
fn private_kib(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let of = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|rest| rest.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()).unwrap_or_default()
    };
    of("Private_Clean:") + of("Private_Dirty:")
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

/// A launch of the agent, and the directory that it lives in.
fn spec(profile: Profile, driver: DriverSettings, slot: u32) -> (tempfile::TempDir, LaunchSpec) {
    let data = tempfile::tempdir().unwrap();
    let (run_dir, code) = (data.path().join("run"), data.path().join("code"));
    for dir in [&run_dir, &code] {
        fs::create_dir(dir).unwrap();
    }
    let spec = LaunchSpec {
        run: Id::new(&SystemClock, &SystemEntropy),
        run_dir,
        profile,
        driver,
        resources: Resources { memory_mib: 256, workspace_mib: 8, pids: 32, ..Resources::default() },
        root: Root::HostUsr,
        mounts: vec![ReadOnlyMount { source: code, at: "/app".into() }],
        package_image: None,
        argv: AGENT.map(str::to_owned).to_vec(),
        env: vec![("PATH".into(), "/usr/bin:/bin".into())],
        cwd: "/app".into(),
        files: vec![("input.json".into(), Vec::new())],
        stdin: Vec::new(),
        late_input: false,
        uid_slot: slot,
        grace: Duration::from_millis(300),
        wall_clock: Duration::from_secs(600),
        storage: cogward_sandbox::storage::Storage::default(),
        service: None,
    };
    (data, spec)
}

async fn sandboxed(kind: &Kind, round: u32) -> Launch {
    let slot = (std::process::id() % 400) * 10 + round % 10;
    let (_data, mut spec) = spec(kind.profile, kind.driver.clone(), slot);
    spec.late_input = kind.warm;
    let log = spec.run_dir.join("stdout.log");
    let begin = Instant::now();
    let run = launch(&std::env::current_exe().unwrap(), &spec).await.unwrap();
    let held = begin.elapsed();
    let begin = if kind.warm { Instant::now() } else { begin };
    if kind.warm {
        run.give_input(&LateInput { file: b"null".to_vec(), stdin: Vec::new() }).await.unwrap();
        assert!(run.attest().await.unwrap().is_some());
    }
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
