//! What would hold of a sandbox inside a restricted Kubernetes pod.
//!
//! There, nothing may make namespaces or mounts: what is left is Landlock, a system-call filter and `no_new_privs`, and
//! the pod itself is the boundary. That is less than every profile of this release, so it has a name of its own and
//! nothing is launched with it. The same probes as for profiles try it, in a process that has given up its privileges.

use serde::{Deserialize, Serialize};

use super::{
    Check,
    environment::Facts,
    probes,
    runner::{self, Probe},
};
use crate::native;

/// What would hold in a pod.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    /// Whether agents can be started so. Never, in this release.
    pub launchable: bool,
    /// What that means.
    pub note: String,
    /// Each mechanism.
    pub checks: Vec<Check>,
}

const NOTE: &str = "not a profile: what the process itself could still enforce inside a restricted pod, where the pod is \
                    the boundary; no driver for Kubernetes exists yet, so nothing is launched with it";

const PROBES: [Probe; 4] = [
    Probe::new("no-new-privileges", "use a kernel of this century", || {
        unprivileged()?;
        let status = std::fs::read_to_string("/proc/self/status").map_err(|e| e.to_string())?;
        let has = |name: &str, wanted: fn(&str) -> bool| {
            status.lines().any(|line| line.strip_prefix(name).is_some_and(|value| wanted(value.trim())))
        };
        let none = |value: &str| value.bytes().all(|b| b == b'0');
        match has("NoNewPrivs:", |v| v == "1") && has("CapEff:", none) && has("CapPrm:", none) && has("CapAmb:", none) {
            true => Ok("set, and every capability given up".to_owned()),
            false => Err("capabilities are left, or the flag did not hold".to_owned()),
        }
    }),
    Probe::new("landlock", "run the nodes on Linux 6.7 or later with Landlock switched on", || {
        unprivileged()?;
        probes::landlock_denies()
    }),
    Probe::new("landlock-scopes", "run the nodes on Linux 6.12 or later", || {
        unprivileged()?;
        probes::landlock_scopes()
    }),
    Probe::new("seccomp", "let the pod's system-call profile permit a filter of one's own", || {
        unprivileged()?;
        probes::seccomp_denies()
    }),
];

fn unprivileged() -> Result<(), String> {
    native::without_privileges().map_err(|e| format!("giving up privileges: {e}"))
}

impl Pod {
    /// Tries it.
    pub fn tried(facts: &Facts) -> Self {
        Self { launchable: false, note: NOTE.to_owned(), checks: runner::all(PROBES, facts) }
    }
}
