//! What the doctor says in places that withhold something, and what a plane then refuses. The places are made here:
//! containers of `runc` without capabilities, with masked parts of `/proc` and a system-call filter, as Docker and
//! Kubernetes make them, and a mount namespace with one masked file.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use cogward_testkit::{Agent, Plane};
use serde_json::{Value, json};

const EXE: &str = env!("CARGO_BIN_EXE_cogward");

/// A container that the test makes.
struct Place {
    uid: u32,
    /// System calls that its filter refuses, with the error number of each.
    refused: &'static [(&'static [&'static str], i32)],
    masked: bool,
}

/// The exit code and the report of `cogward doctor --format json` in there.
fn doctor_in(place: &Place) -> Result<(i32, Value)> {
    let dir = tempfile::Builder::new().prefix("cogward-place").tempdir()?;
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755))?;
    let root = dir.path().join("root");
    for folder in ["usr", "proc", "sys", "dev", "tmp"] {
        fs::create_dir_all(root.join(folder))?;
    }
    for link in ["bin", "sbin", "lib", "lib64"] {
        symlink(format!("usr/{link}"), root.join(link))?;
    }
    fs::write(root.join("cogward"), "")?;
    let mount = |at: &str, kind: &str, options: &[&str]| json!({"destination": at, "type": kind, "source": kind, "options": options});
    let bind =
        |from: &str, at: &str| json!({"destination": at, "type": "bind", "source": from, "options": ["bind", "ro"]});
    let masked: &[&str] = if place.masked { &["/proc/uptime", "/proc/keys"] } else { &[] };
    let rules: Vec<Value> = place
        .refused
        .iter()
        .map(|(names, errno)| json!({"names": names, "action": "SCMP_ACT_ERRNO", "errnoRet": errno}))
        .collect();
    let namespaces: Vec<Value> =
        ["pid", "network", "ipc", "uts", "mount"].into_iter().map(|kind| json!({"type": kind})).collect();
    let read_only: &[&str] = if place.masked { &["/proc/sys", "/proc/bus"] } else { &[] };
    let mut linux = json!({
        "namespaces": namespaces,
        "maskedPaths": masked,
        "readonlyPaths": read_only,
    });
    if !rules.is_empty() {
        linux["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": [], "syscalls": rules});
    }
    let none: [&str; 0] = [];
    let config = json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": false, "user": {"uid": place.uid, "gid": place.uid}, "cwd": "/",
            "args": ["/cogward", "doctor", "--format", "json"], "env": ["PATH=/usr/bin:/bin"],
            "capabilities": {"bounding": none, "effective": none, "permitted": none, "inheritable": none, "ambient": none},
            "noNewPrivileges": true,
        },
        "root": {"path": root, "readonly": true},
        "hostname": "place",
        "mounts": [
            mount("/proc", "proc", &[]),
            mount("/dev", "tmpfs", &["nosuid", "mode=755", "size=65536k"]),
            mount("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
            mount("/sys/fs/cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", "ro"]),
            bind("/usr", "/usr"),
            bind(EXE, "/cogward"),
        ],
        "linux": linux,
    });
    fs::write(dir.path().join("config.json"), config.to_string())?;
    let name = dir.path().file_name().context("a name")?;
    let done = Command::new("runc")
        .arg("--root")
        .arg(dir.path().join("state"))
        .args(["run", "--bundle"])
        .arg(dir.path())
        .arg(name)
        .output()
        .context("runc is needed: scripts/setup-tests.sh installs it")?;
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    let report = serde_json::from_slice(&done.stdout).with_context(|| format!("no report: {said}"))?;
    Ok((done.status.code().unwrap_or(-1), report))
}

fn check<'a>(report: &'a Value, name: &str) -> Result<&'a Value> {
    let found = report["checks"].as_array().and_then(|all| all.iter().find(|c| c["name"] == name));
    found.with_context(|| format!("no check {name}: {report:#}"))
}

fn text(value: &Value) -> String {
    value.to_string()
}

fn refused(report: &Value, profile: &str) -> Result<Vec<String>> {
    let found = report["profiles"].as_array().and_then(|all| all.iter().find(|p| p["profile"] == profile));
    let found = found.context("the profile is in the report")?;
    ensure!(found["enforceable"] == false, "{profile} is called enforceable: {report:#}");
    Ok(found["missing"].as_array().into_iter().flatten().filter_map(|m| m.as_str().map(str::to_owned)).collect())
}

#[test]
fn in_a_container_with_a_masked_proc_the_profiles_are_refused_for_that_reason() -> Result<()> {
    let (code, report) = doctor_in(&Place { uid: 1_000, refused: &[], masked: true })?;
    assert_eq!(code, 4, "{report:#}");
    for profile in ["standard", "hardened"] {
        assert!(refused(&report, profile)?.contains(&"proc".to_owned()), "{report:#}");
    }
    // Namespaces can be made there, which misled a doctor that asked no further.
    assert_eq!(check(&report, "namespaces")?["status"], "ok");
    let proc = check(&report, "proc")?;
    assert!(text(&proc["detail"]).contains("masked, as in a container: /proc/"), "{proc}");
    assert!(text(&proc["fix"]).contains("systempaths=unconfined"), "{proc}");
    let groups = check(&report, "cgroups")?;
    assert!(text(&groups["detail"]).contains("read-only"), "{groups}");
    assert_eq!(report["environment"]["container"], true, "{report:#}");
    assert!(text(&report["environment"]["restrictions"]).contains("masked"), "{report:#}");
    // What would hold in a pod holds here, and is not taken for a profile.
    assert_eq!(report["pod"]["launchable"], false);
    let holds = report["pod"]["checks"].as_array().context("checks of the pod")?;
    assert!(holds.len() >= 4 && holds.iter().all(|c| c["status"] == "ok"), "{report:#}");
    assert!(!text(&report["profiles"]).contains("pod"));
    Ok(())
}

#[test]
fn a_root_without_capabilities_is_told_which_it_lacks() -> Result<()> {
    let (code, report) = doctor_in(&Place { uid: 0, refused: &[], masked: true })?;
    assert_eq!(code, 4);
    let missing = refused(&report, "standard")?;
    assert!(missing.contains(&"namespaces".to_owned()), "{report:#}");
    assert!(text(&check(&report, "namespaces")?["fix"]).contains("CAP_SETUID"), "{report:#}");
    assert!(text(&report["environment"]["restrictions"]).contains("root has no capabilities"), "{report:#}");
    assert_eq!(report["environment"]["root"], true);
    Ok(())
}

#[test]
fn behind_the_system_call_filter_of_a_container_the_filter_is_named() -> Result<()> {
    const ENOSYS: i32 = 38;
    const EPERM: i32 = 1;
    const FILTER: &[(&[&str], i32)] =
        &[(&["clone3"], ENOSYS), (&["unshare", "mount", "fsopen", "landlock_create_ruleset"], EPERM)];
    let (code, report) = doctor_in(&Place { uid: 1_000, refused: FILTER, masked: false })?;
    assert_eq!(code, 4);
    let missing = refused(&report, "standard")?;
    for mechanism in ["namespaces", "landlock"] {
        assert!(missing.contains(&mechanism.to_owned()), "{report:#}");
        let check = check(&report, mechanism)?;
        assert!(text(&check["detail"]).contains("system-call filter"), "{check}");
        assert!(text(&check["fix"]).contains("--security-opt seccomp"), "{check}");
    }
    // A filter of one's own can still be set; Landlock cannot, in a pod like this one either.
    assert_eq!(check(&report, "seccomp")?["status"], "ok");
    let pod = report["pod"]["checks"].as_array().context("checks of the pod")?;
    let status = |name: &str| pod.iter().find(|c| c["name"] == name).map(|c| c["status"].clone());
    assert_eq!((status("landlock"), status("seccomp")), (Some("missing".into()), Some("ok".into())), "{pod:#?}");
    Ok(())
}

/// A program that starts cogward, in a mount namespace with one masked file of `/proc` while `flag` is there.
fn wrapper(flag: &Path, at: &Path) -> Result<PathBuf> {
    let program = at.join("cogward-somewhere");
    let (flag, exe) = (flag.display(), EXE);
    fs::write(
        &program,
        format!(
            "#!/bin/sh\nif [ \"$1\" = serve ] && [ -e '{flag}' ]; then\n  exec unshare --mount --propagation private \
             /bin/sh -c 'mount --bind /dev/null /proc/uptime && exec \"$0\" \"$@\"' '{exe}' \"$@\"\nfi\nexec '{exe}' \
             \"$@\"\n"
        ),
    )?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
    Ok(program)
}

#[test]
fn what_the_host_cannot_enforce_is_neither_registered_nor_started() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let flag = dir.path().join("masked");
    let mut plane = Plane::start(wrapper(&flag, dir.path())?)?;
    let agent = |name| Agent { name, source: "print(1)\n", permissions: "", changes: &[] };
    plane.register(&agent("early"))?;
    plane.ok(["run", "start", "early", "--reason", "test", "--wait"])?;

    plane.stop()?;
    fs::write(&flag, "")?;
    plane.up()?;
    let manifest = plane.write_agent(&agent("late"))?;
    for dry_run in [true, false] {
        let mut args = vec!["agent".to_owned(), "register".into(), "-f".into(), manifest.display().to_string()];
        args.extend(dry_run.then(|| "--dry-run".to_owned()));
        let refused = plane.cli(&args)?;
        assert_eq!(refused.code(), 4, "{}", refused.stderr);
        for part in ["[profile_unenforceable]", "agent.yaml", "proc", "/proc/uptime", "fix: ", "systempaths=unconfined"]
        {
            assert!(refused.stderr.contains(part), "{part}: {}", refused.stderr);
        }
    }
    assert!(!plane.ok(["agent", "list"])?.contains("late"));
    let refused = plane.cli(["run", "start", "early", "--reason", "test"])?;
    assert_eq!(refused.code(), 4);
    for part in ["[profile_unenforceable]", "/proc/uptime", "systempaths=unconfined"] {
        assert!(refused.stderr.contains(part), "{part}: {}", refused.stderr);
    }
    let authorization = format!("Bearer {}", plane.token());
    let headers = [("authorization", authorization.as_str()), ("content-type", "application/json")];
    let body = br#"{"tenant":"default","agent":"early","reason":"test"}"#;
    assert_eq!(plane.http("POST", "/api/v1/runs", &headers, body)?.0, 409);
    let remote: Value = serde_json::from_str(&plane.cli(["doctor", "--remote", "--format", "json"])?.stdout)?;
    assert!(refused_there(&remote)?, "{remote:#}");

    plane.stop()?;
    fs::remove_file(&flag)?;
    plane.up()?;
    plane.ok(["run", "start", "early", "--reason", "test", "--wait"]).map(drop)
}

fn refused_there(report: &Value) -> Result<bool> {
    Ok(refused(report, "standard")?.contains(&"proc".to_owned()))
}

#[test]
fn a_limit_that_this_host_cannot_set_is_refused_by_its_name() -> Result<()> {
    let plane = Plane::start(EXE)?;
    let report: Value = serde_json::from_str(&plane.cli(["doctor", "--remote", "--format", "json"])?.stdout)?;
    for (mechanism, field) in [("io-read", "ioReadMibPerSecond"), ("io-write", "ioWriteMibPerSecond")] {
        let there = check(&report, mechanism)?["status"] == "ok";
        let limits = format!("openFiles: 128, {field}: 5}}");
        let name = format!("limited-{}", mechanism);
        let manifest = plane.write_agent(&Agent {
            name: &name,
            source: "print(open('agent.py').read())\n",
            permissions: "",
            changes: &[("openFiles: 128}", &limits)],
        })?;
        let done = plane.cli(["agent", "register", "-f", &manifest.to_string_lossy()])?;
        if there {
            assert_eq!(done.code(), 0, "{}", done.stderr);
            let run = plane.start_run(&name)?;
            let ended = plane.run_until(&run, |r| r["ended"].is_string())?;
            assert_eq!(ended["state"], "succeeded", "{ended:#}");
            assert!(ended["usage"]["io_read_bytes"].is_u64(), "{ended:#}");
            let closed = plane.leaves(&run)?.into_iter().find(|l| l["type"] == "run.closed").context("its end")?;
            assert!(closed["usage"]["io_read_bytes"].is_u64(), "{closed:#}");
        } else {
            assert_eq!(done.code(), 4, "{}", done.stderr);
            assert!(
                done.stderr.contains("[profile_unenforceable]") && done.stderr.contains(mechanism),
                "{}",
                done.stderr
            );
        }
    }
    Ok(())
}
