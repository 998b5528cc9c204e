//! The bundle: what an OCI runtime is told to make. All of it is generated; nothing of it comes from a manifest.

use serde_json::{Value, json};

use super::calls;
use crate::spec::{LaunchSpec, RuntimeKind};

/// Where the guest is inside.
pub const GUEST: &str = "/run/.cogward/guest";
/// Where its sockets are inside.
pub const CARRIER: &str = "/run/.cogward/carrier";

/// Places of the keeper that the bundle names.
#[derive(Debug, Clone, Copy)]
pub struct Places<'a> {
    /// The workspace.
    pub work: &'a str,
}

/// A generated bundle.
#[derive(Debug)]
pub struct Bundle {
    /// The text of `config.json`.
    pub text: Vec<u8>,
    /// System calls that its filter lets through, where it has one.
    pub allowed: Option<usize>,
}

/// Writes it. `None` where there is no list of system calls for this architecture and the runtime needs one.
pub fn generate(spec: &LaunchSpec, kind: RuntimeKind, places: Places<'_>) -> Option<Bundle> {
    // A runtime with a kernel of its own answers the calls itself, and has its own filter towards the host.
    let filter = if kind.shares_the_kernel() { Some(calls::filter()?) } else { None };
    // To become the agent's uid, to signal what has it and to read what it left; the agent's process keeps none.
    let needed = ["CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP", "CAP_KILL", "CAP_DAC_READ_SEARCH"];
    let none: [&str; 0] = [];
    // All of it where the host's kernel answers: what an agent may set of its own process there, such as when the host
    // kills it for want of memory, or its own code, is the host's to set.
    let readonly = match kind.shares_the_kernel() {
        true => vec!["/proc"],
        false => vec!["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
    };
    let mut linux = json!({
        "namespaces": namespaces(kind),
        "maskedPaths": [
            "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
            "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware",
        ],
        "readonlyPaths": readonly,
    });
    let allowed = filter.as_ref().map(|(_, allowed)| *allowed);
    if let (Some((filter, _)), Some(linux)) = (filter, linux.as_object_mut()) {
        linux.insert("seccomp".to_owned(), filter);
    }
    let config = json!({
        "ociVersion": "1.0.2",
        "hostname": "cogward",
        "root": { "path": "rootfs", "readonly": true },
        "process": {
            "terminal": false,
            // The guest; the agent becomes uid 1000 without a capability.
            "user": { "uid": 0, "gid": 0 },
            "args": [GUEST, "unix", CARRIER],
            "env": none,
            "cwd": "/",
            "noNewPrivileges": true,
            // At any other value a host whose core files go to a program executes it for every agent that crashes.
            "rlimits": [{ "type": "RLIMIT_CORE", "soft": 1, "hard": 1 }],
            "capabilities": {
                "bounding": needed, "effective": needed, "permitted": needed, "inheritable": none, "ambient": none,
            },
        },
        "mounts": mounts(spec, kind, places),
        "linux": linux,
    });
    Some(Bundle { text: serde_json::to_vec(&config).ok()?, allowed })
}

/// The network namespace is the keeper's, which has loopback only, except where the runtime brings a network of its own.
fn namespaces(kind: RuntimeKind) -> Vec<Value> {
    let mut kinds = vec!["pid", "mount", "ipc", "uts"];
    if kind.shares_the_kernel() {
        kinds.push("cgroup");
    } else {
        kinds.push("network");
    }
    kinds.into_iter().map(|kind| json!({ "type": kind })).collect()
}

fn mounts(spec: &LaunchSpec, kind: RuntimeKind, places: Places<'_>) -> Vec<Value> {
    let mount = |at: &str, kind: &str, options: Vec<String>| {
        let mut all: Vec<String> = ["nosuid", "nodev", "noexec"].map(str::to_owned).to_vec();
        all.extend(options);
        json!({ "destination": at, "type": kind, "source": kind, "options": all })
    };
    let small = spec.resources.workspace_mib.min(64);
    let memory = |mib: u32, mode: &str| {
        let mut options = vec![format!("mode={mode}"), format!("size={mib}m")];
        if kind.shares_the_kernel() {
            // A kernel in user space does not count them; there they are memory of the run like everything else.
            options.push(format!("nr_inodes={}", (small * 256).max(1024)));
        }
        options
    };
    let only_its_own = if kind.shares_the_kernel() { vec!["hidepid=invisible", "subset=pid"] } else { Vec::new() };
    vec![
        mount("/proc", "proc", only_its_own.into_iter().map(str::to_owned).collect()),
        json!({
            "destination": "/dev", "type": "tmpfs", "source": "tmpfs",
            "options": ["nosuid", "noexec", "mode=755", "size=64k"],
        }),
        mount("/dev/shm", "tmpfs", memory(small, "1777")),
        mount("/tmp", "tmpfs", memory(small, "1777")),
        json!({
            "destination": "/work", "type": "bind", "source": places.work,
            "options": ["bind", "rw", "nosuid", "nodev", "noexec"],
        }),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::tests::spec;

    fn config(kind: RuntimeKind) -> (Value, Option<usize>) {
        let bundle = generate(&spec(), kind, Places { work: "/work" }).unwrap();
        (serde_json::from_slice(&bundle.text).unwrap(), bundle.allowed)
    }

    #[test]
    fn a_bundle_gives_no_more_than_the_guest_needs() {
        for kind in [RuntimeKind::Runsc, RuntimeKind::Runc, RuntimeKind::Crun] {
            let (config, allowed) = config(kind);
            assert_eq!(config["process"]["noNewPrivileges"], true);
            assert_eq!(config["root"]["readonly"], true);
            assert_eq!(config["process"]["env"], json!([]));
            assert_eq!(config["process"]["capabilities"]["bounding"].as_array().unwrap().len(), 5);
            assert_eq!(config["process"]["capabilities"]["inheritable"], json!([]));
            for mount in config["mounts"].as_array().unwrap() {
                let options = mount["options"].as_array().unwrap();
                assert!(["nosuid", "noexec"].iter().all(|o| options.contains(&json!(o))), "{mount}");
            }
            assert_eq!(config["linux"].get("seccomp").is_some(), allowed.is_some());
            assert_eq!(allowed.is_some(), kind != RuntimeKind::Runsc);
        }
    }

    #[test]
    fn nothing_of_the_agent_is_in_a_bundle() {
        let text = config(RuntimeKind::Runc).0.to_string();
        assert!(!text.contains("/usr/bin/true") && !text.contains("input.json"), "{text}");
    }
}
