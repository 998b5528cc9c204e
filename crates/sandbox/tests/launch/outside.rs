//! A suite that is not ours: `stress-ng` of Debian, whose stressors are built to break kernels, in a `hardened` sandbox.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    process::Command,
};

use cogward_model::manifest::Profile;

use crate::rig::{drain, python, run};

pub const TESTS: &[crate::Test] = &[("stress_ng_in_hardened_has_no_effect_on_the_host", stress_ng)];

const PROGRAM: &str = "/usr/bin/stress-ng";
const SECONDS: u32 = 12;

/// Those that reach for the kernel's interfaces, its limits and the host; one process each, all at once.
#[rustfmt::skip]
const STRESSORS: &[&str] = &[
    "af-alg", "bind-mount", "chroot", "clone", "dev", "enosys", "exec", "fanotify", "fork", "handle", "io-uring",
    "kcmp", "key", "memfd", "mlockmany", "mmapfork", "netlink-proc", "netlink-task", "pidfd", "procfs", "ptrace",
    "rawdev", "rawpkt", "rawsock", "rawudp", "sctp", "seccomp", "session", "shm-sysv", "sigsegv", "sockfd",
    "sysbadaddr", "sysfs", "tun", "udp", "userfaultfd", "vforkmany", "vm",
];

/// Settings of the host that its administrator makes and nothing else changes.
#[rustfmt::skip]
const SETTINGS: &[&str] = &[
    "fs/file-max", "fs/nr_open", "fs/pipe-max-size", "fs/protected_symlinks", "kernel/core_pattern",
    "kernel/domainname", "kernel/hostname", "kernel/modprobe", "kernel/msgmax", "kernel/osrelease", "kernel/panic",
    "kernel/pid_max", "kernel/printk", "kernel/randomize_va_space", "kernel/sched_rt_runtime_us", "kernel/sem",
    "kernel/shmmax", "kernel/sysrq", "kernel/threads-max", "net/ipv4/ip_forward", "user/max_user_namespaces",
    "vm/max_map_count", "vm/mmap_min_addr", "vm/overcommit_memory", "vm/panic_on_oom", "vm/swappiness",
];

/// What of the host must be the same afterwards.
#[derive(Debug, PartialEq, Eq)]
struct Host {
    /// Mounts, but for those of other tests' directories.
    mounts: BTreeSet<String>,
    interfaces: BTreeSet<String>,
    swaps: String,
    modules: BTreeSet<String>,
    settings: BTreeMap<&'static str, String>,
    devices: BTreeSet<String>,
}

fn names(directory: &str) -> BTreeSet<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

fn host() -> Host {
    let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let temporary = std::env::temp_dir().to_string_lossy().into_owned();
    let mounts = text("/proc/self/mounts").lines().filter(|l| !l.contains(&temporary)).map(str::to_owned).collect();
    let modules = text("/proc/modules").lines().filter_map(|l| l.split(' ').next()).map(str::to_owned).collect();
    let settings = SETTINGS.iter().map(|name| (*name, text(&format!("/proc/sys/{name}")))).collect();
    let devices = names("/dev").into_iter().filter(|name| !name.starts_with("loop")).collect();
    Host { mounts, interfaces: names("/sys/class/net"), swaps: text("/proc/swaps"), modules, settings, devices }
}

/// What the kernel says when something in it is broken.
fn complaints() -> Vec<String> {
    let log = Command::new("dmesg").output().unwrap();
    assert!(log.status.success(), "the kernel's log cannot be read");
    let broken = ["BUG:", "Oops:", "KASAN:", "WARNING: CPU", "soft lockup", "rcu: INFO"];
    let text = String::from_utf8_lossy(&log.stdout).into_owned();
    text.lines().filter(|line| broken.iter().any(|b| line.contains(b))).map(str::to_owned).collect()
}

/// Processes of the uids of a run, wherever they are.
fn processes_of(base: u32) -> Vec<String> {
    let uid = |status: &str| -> Option<u32> {
        status.lines().find_map(|l| l.strip_prefix("Uid:"))?.split_whitespace().next()?.parse().ok()
    };
    let all = names("/proc").into_iter().filter(|name| name.bytes().all(|b| b.is_ascii_digit()));
    all.filter_map(|pid| fs::read_to_string(format!("/proc/{pid}/status")).ok())
        .filter(|status| uid(status).is_some_and(|uid| (base..base + 0x1_0000).contains(&uid)))
        .map(|status| status.lines().next().unwrap_or_default().to_owned())
        .collect()
}

fn stress_ng() {
    assert!(Path::new(PROGRAM).exists(), "{PROGRAM} is missing: scripts/setup-tests.sh installs it");
    run(async {
        let mut rig = python("");
        rig.spec.profile = Profile::Hardened;
        rig.spec.resources.memory_mib = 512;
        rig.spec.resources.workspace_mib = 64;
        rig.spec.resources.pids = 256;
        rig.spec.cwd = "/work".into();
        rig.spec.argv = vec![PROGRAM.into(), "--timeout".into(), format!("{SECONDS}s")];
        rig.spec.argv.extend(["--temp-path", "/work", "--vm-bytes", "64m", "--oomable"].map(str::to_owned));
        for stressor in STRESSORS {
            rig.spec.argv.extend([format!("--{stressor}"), "1".into()]);
        }
        let (before, complained) = (host(), complaints());
        let run = rig.held().await;
        let base = run.enforcement().uid_base;
        let mut violations = run.violations().unwrap();
        run.start().await.unwrap();
        let exit = run.wait().await;
        let said = rig.log("stdout.log") + &rig.log("stderr.log");
        // Skipped and failed stressors are what is wanted; what counts is that it ran to its end.
        assert!(said.contains("run completed in"), "{exit:?} {said}");
        assert!(exit.empty && processes_of(base).is_empty() && rig.groups_left().is_empty(), "{exit:?}");
        // The kernel counts in batches, so a page or two more may be seen for a moment.
        assert!(exit.usage.memory_peak_bytes <= 513 << 20, "{:?}", exit.usage);

        let seen = drain(&mut violations);
        let mut counts: BTreeMap<String, (u64, u64)> = BTreeMap::new();
        for violation in &seen {
            let kind = format!("{}/{}/{}", violation.layer, violation.action, violation.object);
            let (count, total) = counts.entry(kind).or_default();
            (*count, *total) = (*count + violation.count, (*total).max(violation.total));
        }
        println!(
            "{} stressors, {} refusals of {} kinds",
            STRESSORS.len(),
            counts.values().map(|c| c.0).sum::<u64>(),
            counts.len()
        );
        println!("  {counts:?}");
        assert!(counts.len() > 10 && counts.values().all(|(count, total)| count == total), "{counts:?}");

        assert_eq!(host(), before);
        let complains: Vec<String> = complaints().into_iter().filter(|line| !complained.contains(line)).collect();
        assert_eq!(complains, Vec::<String>::new());
    });
}
