//! What the doctor says of this host, of a host without control groups, and what then happens to a launch.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Instant,
};

use cogward_model::manifest::Profile;
use cogward_sandbox::{Adopted, Exit, ExitCause, HostReport, adopt, doctor};

use crate::rig::{Rig, exe, python, run};

pub const TESTS: &[crate::Test] = &[
    ("the_doctor_proves_each_mechanism_in_under_a_second", doctor_here),
    ("a_probe_that_hangs_is_missing_and_holds_up_nothing", doctor_hangs),
    ("without_control_groups_an_unprivileged_plane_is_refused", rootless_refused),
    ("with_delegated_control_groups_an_unprivileged_plane_runs_agents", rootless_delegated),
];

/// A uid that nothing runs as.
pub const NOBODY: u32 = 54_321;

fn doctor_here() {
    let begin = Instant::now();
    let report = doctor::probe(&exe()).unwrap();
    let took = begin.elapsed();
    println!("{} checks in {took:?}", report.checks.len());
    for check in &report.checks {
        println!("  {:<12} {:<5} {:>8} us  {}", check.mechanism, check.ok, check.micros, check.detail);
    }
    assert!(report.require(Profile::Standard).is_ok(), "{report:#?}");
    assert!(report.require(Profile::Hardened).is_ok(), "{report:#?}");
    assert!(report.pod.checks.iter().all(|c| c.ok) && !report.pod.launchable, "{:#?}", report.pod);
    assert_eq!(report.environment.root, report.root);
    assert!(took.as_millis() < 1_000, "{took:?}");
    let text = serde_json::to_string(&report).unwrap();
    assert_eq!(serde_json::from_str::<HostReport>(&text).unwrap(), report);
}

fn doctor_hangs() {
    for mechanism in ["proc", "seccomp"] {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join(format!("hangs-at-{mechanism}"));
        fs::copy(exe(), &program).unwrap();
        let begin = Instant::now();
        let report = doctor::probe(&program).unwrap();
        assert!(begin.elapsed().as_secs() < 10, "{:?}", begin.elapsed());
        for profile in [Profile::Standard, Profile::Hardened] {
            let missing = report.require(profile).unwrap_err();
            assert_eq!(missing.iter().map(|m| m.mechanism.as_str()).collect::<Vec<_>>(), [mechanism]);
            assert!(missing[0].why.contains("hung") && !missing[0].fix.is_empty(), "{missing:?}");
        }
        // The others were done all the same.
        assert!(report.checks.iter().filter(|c| c.mechanism != mechanism).any(|c| c.ok));
    }
}

/// This program where another uid can execute it, and a run directory of that uid's own.
fn unprivileged(program: &str) -> (Rig, PathBuf) {
    let rig = python(program);
    let copy = rig.data.path().join("program");
    fs::copy(exe(), &copy).unwrap();
    fs::set_permissions(rig.data.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(rig.spec.run_dir.join("spec.json"), serde_json::to_vec(&rig.spec).unwrap()).unwrap();
    for path in [rig.spec.run_dir.clone(), rig.spec.run_dir.join("spec.json")] {
        chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
    }
    (rig, copy)
}

fn as_nobody(program: &Path, argument: &Path, before: &str) -> Output {
    let script =
        format!("{before} exec setpriv --reuid {NOBODY} --regid {NOBODY} --clear-groups \"$0\" supervise \"$1\"");
    Command::new("/bin/sh")
        .arg("-c")
        .arg(script)
        .arg(program)
        .arg(argument)
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap()
}

async fn ended(rig: &Rig) -> Exit {
    match adopt(&rig.spec.run_dir).await.unwrap() {
        Adopted::Ended(exit) => exit,
        other => panic!("{other:?}"),
    }
}

fn rootless_refused() {
    run(async {
        let (rig, program) = unprivileged("print('never')");
        let output = as_nobody(&program, Path::new(doctor::PROBE_ROLE), "");
        let report: HostReport = serde_json::from_slice(&output.stdout).unwrap();
        let missing = report.require(Profile::Standard).unwrap_err();
        let names: Vec<&str> = missing.iter().map(|m| m.mechanism.as_str()).collect();
        assert_eq!(names, ["cgroups"], "{missing:#?}");
        assert!(!report.root && missing[0].fix.contains("Delegate"));

        assert!(!as_nobody(&program, &rig.spec.run_dir, "").status.success());
        let exit = ended(&rig).await;
        assert_eq!(exit.cause, ExitCause::LaunchFailed);
        assert!(exit.detail.unwrap().contains("cgroup"));
    });
}

/// What a service manager does with `Delegate=yes`: groups of its own, owned by the plane's uid.
pub fn delegate(name: &str) -> Vec<PathBuf> {
    let own = fs::read_to_string("/proc/self/cgroup").unwrap();
    let mut made = Vec::new();
    for controller in ["memory", "pids", "cpu", "unified"] {
        let line = if controller == "unified" { ":".to_owned() } else { format!(":{controller}:") };
        let path = own
            .lines()
            .find_map(|l| if controller == "unified" { l.strip_prefix("0::") } else { Some(l.split_once(&line)?.1) })
            .unwrap_or("/");
        let dir = Path::new("/sys/fs/cgroup").join(controller).join(path.trim_start_matches('/')).join(name);
        if fs::create_dir(&dir).is_err() {
            continue;
        }
        for file in ["", "cgroup.procs", "cgroup.subtree_control", "tasks"] {
            let _ = chown(dir.join(file), Some(NOBODY), Some(NOBODY));
        }
        made.push(dir);
    }
    made
}

fn rootless_delegated() {
    run(async {
        // Version 2 with its controllers would need more than this does.
        if !Path::new("/sys/fs/cgroup/memory").is_dir() || !Path::new("/sys/fs/cgroup/unified").is_dir() {
            println!("skipped: not a host with both versions");
            return;
        }
        let groups = delegate(&format!("test-{}", std::process::id()));
        let (rig, program) = unprivileged("");
        // What differs here: one uid for init and agent.
        let code = "import os\nprint(os.getuid())\nfor p in ('/proc/1/environ', '/proc/1/mem', '/proc/1/fd'):\n \
             try: print('ALLOWED', os.listdir(p) if p.endswith('fd') else open(p).read())\n except OSError: pass\n\
             try: os.kill(1, 9)\nexcept OSError: pass\nopen('/work/output', 'w').write('done')\n";
        fs::write(rig.data.path().join("code/main.py"), code).unwrap();
        let enter: String =
            groups.iter().map(|g| format!("echo $$ > '{}' && ", g.join("cgroup.procs").display())).collect();
        let probe = as_nobody(&program, Path::new(doctor::PROBE_ROLE), &enter);
        let report: HostReport = serde_json::from_slice(&probe.stdout).unwrap();
        assert!(report.require(Profile::Standard).is_ok(), "{report:#?}");

        let child = Command::new("/bin/sh")
            .arg("-c")
            .arg(format!(
                "{enter} exec setpriv --reuid {NOBODY} --regid {NOBODY} --clear-groups \"$0\" supervise \"$1\""
            ))
            .arg(&program)
            .arg(&rig.spec.run_dir)
            .stdin(std::process::Stdio::null())
            .spawn();
        let mut child = child.unwrap();
        let result = drive(&rig).await;
        child.wait().unwrap();
        for group in groups {
            fs::remove_dir(group).unwrap();
        }
        assert_eq!(result, "1000\n", "{}", rig.log("supervisor.log"));
        assert_eq!(ended(&rig).await.output.as_deref(), Some(&b"done"[..]));
    });
}

/// Starts the agent as a plane of that uid would: one frame on the socket.
async fn drive(rig: &Rig) -> String {
    let socket = rig.spec.run_dir.join("supervisor.sock");
    let client = r#"
import socket, struct, sys, time
s = socket.socket(socket.AF_UNIX)
for _ in range(500):
    try:
        s.connect(sys.argv[1])
        break
    except OSError:
        time.sleep(0.01)
b = b'{"id":1,"command":"start"}'
s.sendall(struct.pack('<I', len(b)) + b)
while s.recv(65536): pass
"#;
    let done = tokio::process::Command::new("setpriv")
        .args(["--reuid", "54321", "--regid", "54321", "--clear-groups", "/usr/bin/python3", "-c", client])
        .arg(&socket)
        .output()
        .await
        .unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    rig.log("stdout.log")
}
