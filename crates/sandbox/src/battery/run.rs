//! Carrying the battery out: a real sandbox for each program, made as runs are.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use cogward_model::{
    Digest, Id, SystemClock, SystemEntropy,
    manifest::{Profile, Resources},
};

use super::{
    Attempt, Program, Report, inside,
    plan::{self, Answer, Task},
};
use crate::{
    DriverSettings, ImageError, Images, LaunchError, LaunchSpec, ReadOnlyMount, Root, SandboxConfig,
    doctor::{self, Missing, ProbeError},
    launch,
    spec::UID_SLOTS,
};

/// Time for all attempts of one program.
const PROGRAM_MAX: Duration = Duration::from_secs(180);
/// Uid slots that are kept for this, at the end of those that there are; a plane begins at the other end.
const SLOTS: u32 = 512;

const PYTHON: &str = "/usr/bin/python3";
const DRIVER: &str = include_str!("driver.py");
/// The static attacker (`attacker/`); empty where there is none for the architecture.
const STATIC: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/attacker"));
/// Its tasks, inside.
const LINES_FILE: &str = "attacks.txt";

/// Why there is no report. None of them says that the sandbox holds.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// The host cannot enforce the profile, so there is nothing to attack.
    #[error("this host cannot enforce profile `{}`", .profile.as_str())]
    Unenforceable {
        /// The profile.
        profile: Profile,
        /// What is missing.
        missing: Vec<Missing>,
    },
    /// The host could not be probed.
    #[error(transparent)]
    Probe(#[from] ProbeError),
    /// The sandbox could not be made.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// The image of the programs could not be made.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// A file that is needed outside could not be made or read.
    #[error("{what}: {source}")]
    Files {
        /// The file.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
    /// A program inside did not do its work, so that nothing it said counts.
    #[error("the {} program of the battery did not notice its own controls: {detail}", .program.as_str())]
    Blind {
        /// The program.
        program: Program,
        /// What it said.
        detail: String,
    },
}

/// Carries every attack out that `profile` claims to refuse, in sandboxes of it.
///
/// `exe` is this program; it is also the supervisor and, inside, one of the attackers. `config` says what carries the
/// profile here. `directory` must exist, belong
/// to the caller alone and be empty; what is made in it is the caller's to remove. Takes some seconds.
///
/// # Errors
/// [`VerifyError`] when the attacks could not be carried out. An attack that succeeds is no error; it is in the report.
pub async fn verify(
    exe: &Path,
    profile: Profile,
    config: &SandboxConfig,
    directory: &Path,
) -> Result<Report, VerifyError> {
    let (probed, configured, at) = (exe.to_owned(), config.clone(), "the probe of the host");
    let report = tokio::task::spawn_blocking(move || doctor::probe_with(&probed, Path::new("/"), &configured)).await;
    let host = report.map_err(|e| files(at)(io::Error::other(e)))??;
    host.require(profile).map_err(|missing| VerifyError::Unenforceable { profile, missing })?;

    // A profile that can be enforced has one.
    let driver = config.driver(profile).unwrap_or_default();
    let images = driver == DriverSettings::Native && host.require_package_images().is_ok();
    let mut report = Report {
        profile,
        kernel: host.kernel,
        attacks: 0,
        absent: Vec::new(),
        package: String::new(),
        reported: 0,
        attempts: Vec::new(),
    };
    let secret = directory.join("secret");
    fs::write(&secret, "a secret of the plane").map_err(files("the bait"))?;
    for program in Program::ALL {
        let absent = match program {
            Program::Python => !Path::new(PYTHON).exists(),
            Program::Static => STATIC.is_empty(),
            Program::Binary | Program::Shell => false,
        };
        if absent {
            report.absent.push(program);
            continue;
        }
        let (attempts, reported, package) = one(exe, (profile, &driver, images), directory, program).await?;
        report.package = package;
        report.attempts.extend(attempts);
        report.reported += reported;
    }
    let mut ids: Vec<&str> = report.attempts.iter().map(|a| a.id.as_str()).collect();
    ids.sort_unstable();
    ids.dedup();
    report.attacks = ids.len();
    Ok(report)
}

fn files(what: &'static str) -> impl Fn(io::Error) -> VerifyError {
    move |source| VerifyError::Files { what, source }
}

async fn one(
    exe: &Path,
    (profile, driver, images): (Profile, &DriverSettings, bool),
    directory: &Path,
    program: Program,
) -> Result<(Vec<Attempt>, u64, String), VerifyError> {
    let attacks = plan::attacks_of(program, profile, images);
    let home = directory.join(program.as_str());
    let run_dir = home.join("run");
    fs::create_dir_all(&run_dir).map_err(files("the run directory"))?;
    fs::set_permissions(&run_dir, fs::Permissions::from_mode(0o700)).map_err(files("the run directory"))?;
    let mut spec = spec(exe, (profile, driver), program, &home, run_dir, plan::tasks(program, &attacks, directory))?;
    if images {
        let (kept, package) = (home.join("images"), home.join("package"));
        fs::create_dir_all(&kept).map_err(files("the images"))?;
        // The digest is a name here: nobody has registered this package.
        let name = Digest::from_bytes([0; 32]);
        let made = tokio::task::spawn_blocking(move || Images::new(kept).prepare(name, &package, &|_| Ok(()))).await;
        spec.package_image = Some(made.map_err(|e| files("the images")(io::Error::other(e)))??);
    }
    let run = launch(exe, &spec).await?;
    let package = run.enforcement().package.clone();
    let mut violations = run.violations();
    let mut reported = 0;
    if let Err(error) = run.start().await {
        let _ = run.kill().await;
        return Err(files("the start of the program")(io::Error::other(error)));
    }
    let ended = tokio::time::timeout(PROGRAM_MAX, async {
        let mut wait = std::pin::pin!(run.wait());
        loop {
            tokio::select! {
                exit = &mut wait => return exit,
                Some(violation) = next(&mut violations) => reported += violation.count,
            }
        }
    })
    .await;
    if ended.is_err() {
        // What it has not said by now counts as not run.
        let _ = run.kill().await;
    }
    while let Some(violation) = violations.as_mut().and_then(crate::Reports::try_recv) {
        reported += violation.count;
    }
    let said = fs::read(spec.run_dir.join("stdout.log")).map_err(files("what the program said"))?;
    let answers = answers(program, &String::from_utf8_lossy(&said));
    let attempts = plan::judge((program, profile), &attacks, &answers).ok_or_else(|| {
        let errors = fs::read(spec.run_dir.join("stderr.log")).unwrap_or_default();
        VerifyError::Blind { program, detail: String::from_utf8_lossy(&errors).chars().take(500).collect() }
    })?;
    Ok((attempts, reported, package))
}

async fn next(violations: &mut Option<crate::Reports>) -> Option<crate::Violation> {
    match violations {
        Some(receiver) => receiver.recv().await,
        None => None,
    }
}

fn spec(
    exe: &Path,
    (profile, driver): (Profile, &DriverSettings),
    program: Program,
    home: &Path,
    run_dir: PathBuf,
    tasks: Vec<Task>,
) -> Result<LaunchSpec, VerifyError> {
    let package = home.join("package");
    fs::create_dir_all(&package).map_err(files("the package"))?;
    let open = |path: &Path| fs::set_permissions(path, fs::Permissions::from_mode(0o755));
    open(&package).map_err(files("the package"))?;
    let json = serde_json::to_vec(&tasks).map_err(|e| files("the attacks")(e.into()))?;
    let mut given = vec![(inside::TASKS_FILE.to_owned(), json)];
    let argv: &[&str] = match program {
        Program::Binary => {
            let copy = package.join("attacker");
            fs::copy(exe, &copy).and_then(|_| open(&copy)).map_err(files("the copy of this program"))?;
            &["/app/attacker", "supervise", inside::ATTACK_ROLE]
        }
        Program::Static => {
            given.push((LINES_FILE.to_owned(), plan::lines(&tasks).into_bytes()));
            let file = package.join("attacker");
            fs::write(&file, STATIC).and_then(|()| open(&file)).map_err(files("the static program"))?;
            &["/app/attacker"]
        }
        Program::Python => {
            given.push(("attacks.py".to_owned(), DRIVER.as_bytes().to_vec()));
            &[PYTHON, "-B", "/run/cogward/attacks.py"]
        }
        Program::Shell => {
            given.push(("attacks.sh".to_owned(), script(&tasks).into_bytes()));
            &["/bin/sh", "/run/cogward/attacks.sh"]
        }
    };
    Ok(LaunchSpec {
        run: Id::new(&SystemClock, &SystemEntropy),
        run_dir,
        profile,
        driver: driver.clone(),
        resources: Resources { memory_mib: 256, workspace_mib: 64, pids: 64, ..Resources::default() },
        root: Root::HostUsr,
        mounts: vec![ReadOnlyMount { source: package, at: "/app".into() }],
        package_image: None,
        argv: argv.iter().map(|a| (*a).to_owned()).collect(),
        env: vec![("PATH".into(), "/usr/sbin:/usr/bin:/sbin:/bin".into()), ("HOME".into(), "/work".into())],
        cwd: "/app".into(),
        files: given,
        stdin: Vec::new(),
        late_input: false,
        uid_slot: UID_SLOTS - 2 - std::process::id() % SLOTS,
        grace: Duration::from_secs(1),
        wall_clock: PROGRAM_MAX,
        storage: crate::storage::Storage::default(),
        service: None,
    })
}

/// The shell's program: each attack in a shell of its own; a line `id status what-it-said` for each.
fn script(tasks: &[Task]) -> String {
    let mut script = String::from(
        "attempt() {\n  said=$(/bin/sh -c \"$2\" 2>&1 </dev/null)\n  status=$?\n  \
         printf '%s %s ' \"$1\" \"$status\"\n  printf '%.200s' \"$said\" | tr '\\n\\000-\\037' ' '\n  echo\n}\n",
    );
    for task in tasks {
        let code = task.code.as_deref().unwrap_or_default().replace('\'', "'\\''");
        script.push_str(&format!("attempt {} '{code}'\n", task.id));
    }
    script
}

fn answers(program: Program, said: &str) -> Vec<Answer> {
    let of_shell = |line: &str| {
        let mut parts = line.splitn(3, ' ');
        let (id, status) = (parts.next()?, parts.next()?.parse::<i32>().ok()?);
        let said = parts.next().unwrap_or_default().trim().to_owned();
        Some(Answer {
            id: id.to_owned(),
            errno: Some(status),
            said: format!("status {status}: {said}"),
            absent: status == 127,
        })
    };
    said.lines()
        .filter_map(|line| match program {
            Program::Shell => of_shell(line),
            Program::Binary | Program::Static | Program::Python => serde_json::from_str(line).ok(),
        })
        .collect()
}
